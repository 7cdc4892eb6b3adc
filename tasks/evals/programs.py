"""HumanEval (2107.03374) and MBPP (2108.07732) with programs that a model writes, greedily, each run in the sandbox.

pass@1 of one program is whether its tests pass. Prompts, stops and what is run are lm-eval's; its own tasks of these
names run programs in this process, and are never loaded.
"""

import ast
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.base.typed import ConfigError
from tasks.evals.references import MBPP
from tasks.evals.sandbox import KEY, run

PROGRAMS = ("humaneval", "mbpp")
"""Our own tasks of this."""
PASSED = "pass@1"
TESTS = 3
"""Of MBPP, that are shown and run: a few problems have more."""


def check_programs(names: Sequence[str], run_model_code: bool) -> None:
    """Raises ConfigError for a task that runs programs without leave to, and for leave that no task needs."""
    named = [name for name in names if name in PROGRAMS]
    if named and not run_model_code:
        raise ConfigError(
            f"eval.tasks={named[0]}: runs programs that the model writes; say {KEY} to have them run in a sandbox, or "
            f"take {named[0]}_reference, which scores the reference solutions and runs nothing"
        )
    if run_model_code and not named:
        raise ConfigError(f"{KEY}: no task here runs programs; add {' or '.join(PROGRAMS)} to eval.tasks, or drop it")


def refusal(name: str) -> str:
    """Of a task that is not ours and runs code."""
    near = [task for task in PROGRAMS if name.startswith(task)]
    instead = f"take {near[0]} with {KEY}, or {near[0]}_reference" if near else "leave it out"
    return f"eval.tasks={name}: runs code that the model writes, and not in a sandbox; {instead}"


def humaneval_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """What lm-eval takes the mean of, of one problem."""
    (written,) = results
    return _passed(f"{doc['prompt']}{written}\n{doc['test']}\ncheck({doc['entry_point']})")


def mbpp_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The same."""
    (written,) = results
    return _passed("\n".join([written, *doc["test_list"][:TESTS]]))


def mbpp_prompt(doc: dict[str, Any]) -> str:
    """A problem as lm-eval gives it."""
    return MBPP.format(text=doc["text"], tests="\n".join(doc["test_list"][:TESTS])) + "\n[BEGIN]\n"


def mbpp_solution(doc: dict[str, Any]) -> str:
    """Of an example before a problem."""
    return f"{doc['code']}\n[DONE]"


@functools.cache
def mbpp_examples() -> list[dict[str, Any]]:
    """lm-eval's three, read and not imported: their module loads what would run programs in this process."""
    import lm_eval.tasks

    module = Path(lm_eval.tasks.__file__).parent / "mbpp" / "utils.py"
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "list_fewshot_samples":
            (answer,) = [step.value for step in node.body if isinstance(step, ast.Return) and step.value is not None]
            return list(ast.literal_eval(answer))
    raise ConfigError(f"eval.tasks=mbpp: {module} has no examples; install the lm_eval of requirements.lock")


def _passed(program: str) -> dict[str, float]:
    return {PASSED: float(run(program).ending == "passed")}
