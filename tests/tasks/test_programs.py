"""HumanEval and MBPP: what is asked and run is what lm-eval's own tasks ask and would run, in the sandbox."""

import functools
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models.base.typed import ConfigError
from tasks.config import EvalConfig
from tasks.evals import programs
from tasks.evals.known import check_tasks
from tasks.evals.local import local_datasets
from tasks.evals.prepare import load_tasks, prepare_tasks
from tasks.evals.programs import PROGRAMS, humaneval_results, mbpp_results
from tasks.evals.sandbox import Outcome
from tasks.evals.score import score

SHARED = Path(__file__).parents[3] / "shared" / "data"
boxed = pytest.mark.usefixtures("boxed")
shared = pytest.mark.skipif(not (SHARED / "humaneval").is_dir(), reason="real benchmarks are not here")
RESULTS: dict[str, Callable[..., dict[str, float]]] = {"humaneval": humaneval_results, "mbpp": mbpp_results}
SOLUTION = {"humaneval": "canonical_solution", "mbpp": "code"}


ROWS = {
    "humaneval": {"prompt": "def f():\n", "test": "def check(g):\n    assert g() == 1\n", "entry_point": "f"},
    "mbpp": {"text": "Write f.", "code": "", "test_list": ["assert f() == 1"]},
}


class Data:
    """A tokenizer of single bytes and no held-out document."""

    seq_len = 64
    fingerprint = {"name": "programs"}

    def __init__(self) -> None:
        alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        self.tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()

    def documents(self, split: str) -> list[Any]:
        return []

    def questions(self, split: str) -> list[Any]:
        return []


def put(folder: Path, task: str, count: int) -> None:
    """A copy of the task's data, of one row so many times."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    (folder / task / "test.jsonl").write_text((json.dumps(ROWS[task]) + "\n") * count)


def uniform(tokens: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*tokens.shape, 257)


def config(folder: Path, *tasks: str, items: int | None = None) -> EvalConfig:
    return EvalConfig(tasks=list(tasks), data_dir=str(folder), items=items, run_model_code=True)


def rows_of(task: str, every: int) -> list[dict[str, Any]]:
    with gzip.open(SHARED / task / "test.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines][::every]


@shared
@boxed
@pytest.mark.parametrize(("task", "every"), [("humaneval", 16), ("mbpp", 50)])
def test_reference_solutions_pass_and_wrong_ones_fail(task: str, every: int) -> None:
    for doc in rows_of(task, every):
        right = doc[SOLUTION[task]]
        assert RESULTS[task](doc, [right]) == {"pass@1": 1.0}, doc["task_id"]
        wrong = {"humaneval": "    return object()\n", "mbpp": right.replace("return", "return object(),")}[task]
        for answer in (wrong, "", "0"):
            assert RESULTS[task](doc, [answer]) == {"pass@1": 0.0}, doc["task_id"]


@shared
@pytest.mark.parametrize("task", PROGRAMS)
def test_the_same_as_lm_evals_own(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts with their examples, when to stop, and what is run; of theirs, in the place of what would run it."""
    ours = load_tasks(Data(), config(SHARED, task), tmp_path)["tasks"][task]
    theirs = lm_evals(task, monkeypatch)
    kept = list[str]()
    monkeypatch.setattr(programs, "run", lambda program: [kept.append(program), Outcome("passed")][1])
    for each in (ours, theirs):
        each.set_fewshot_seed(1234)
        each.build_all_requests(limit=40, rank=0, world_size=1)
    assert len(ours.instances) == len(theirs.instances) == 40
    for mine, other in zip(ours.instances, theirs.instances, strict=True):
        assert mine.args == other.args
        mine.resps, other.resps = ["    return 1\n"], ["    return 1\n"]
    theirs.apply_filters()
    (name,) = theirs.instances[0].filtered_resps
    for mine, other in zip(ours.instances, theirs.instances, strict=True):
        ours.process_results(mine.doc, mine.resps)
        theirs.process_results(other.doc, [other.filtered_resps[name]])
    assert kept == lm_evals.would_run[-40:]  # type: ignore[attr-defined]


def lm_evals(task: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval's own task, whose programs are told and not run."""
    from lm_eval.tasks import TaskManager

    would_run = list[str]()

    def compute(references: Any, predictions: Any, k: Any = None) -> Any:
        flat = references if isinstance(references, list) else [references]
        would_run.extend(f"{made}\n{test}" for test, many in zip(flat, predictions, strict=True) for made in many)
        return ({"pass@1": 1.0}, {})

    lm_evals.would_run = would_run  # type: ignore[attr-defined]
    runner = SimpleNamespace(load=lambda _: SimpleNamespace(compute=compute))
    monkeypatch.setitem(sys.modules, "evaluate", runner)
    sys.modules.pop(f"lm_eval.tasks.{task}.utils", None)
    import lm_eval.tasks

    with local_datasets(task, str(SHARED)):
        folder = Path(lm_eval.tasks.__file__).parent / task
        return TaskManager(include_path=folder, include_defaults=False).load([task])["tasks"][task]


@functools.cache
def tokens_of(text: str) -> list[int]:
    return list(Data().tokenizer.encode(text).ids)


def writing(*pairs: tuple[str, str]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A model of bytes that goes on after each beginning with its text."""

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(*tokens.shape, 257)
        for b, row in enumerate(tokens.tolist()):
            for prompt, text in ((tokens_of(before), tokens_of(after)) for before, after in pairs):
                whole = prompt + text
                for t in range(len(row)):
                    for n in range(len(prompt), len(whole)):
                        if row[max(0, t + 1 - n) : t + 1] == whole[:n]:
                            found[b, t, whole[n]] = 1.0
        return found

    return logits


@boxed
def test_what_a_model_writes_is_run_up_to_the_stop(tmp_path: Path) -> None:
    """One model is right until it would say too much, the other is not right."""
    for task in PROGRAMS:
        put(tmp_path / "copies", task, 2)
    wanted = config(tmp_path / "copies", *PROGRAMS)
    prepare_tasks(Data(), wanted, tmp_path / "cache")
    for value, right in ((1, 1.0), (2, 0.0)):
        model = writing(
            ("def f():\n", f"    return {value}\n\nprint(wrong)"),
            ("[BEGIN]\n", f"def f():\n  return {value}[DONE]"),
        )
        rows = score(model, Data(), wanted, tmp_path / "cache")
        for task in PROGRAMS:
            assert rows[task]["pass@1"] == right, task
            assert rows[task]["n"] == 2 and rows[task]["items"] == str(int(right)) * 2


@boxed
def test_a_task_is_tried_on_one_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, run = list[str](), programs.run
    monkeypatch.setattr(programs, "run", lambda program: [ran.append(program), run(program)][1])
    put(tmp_path / "copies", "humaneval", 5)
    prepare_tasks(Data(), config(tmp_path / "copies", "humaneval"), tmp_path / "cache")
    assert len(ran) == 1
    score(uniform, Data(), config(tmp_path / "copies", "humaneval", items=3), tmp_path / "cache")
    assert len(ran) == 4


@pytest.mark.usefixtures("unproven")
def test_no_leave_no_task_and_no_sandbox_are_one_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a file is looked for, and whoever asks; nothing is run."""

    def never(program: str) -> Outcome:
        raise AssertionError("something is run")

    monkeypatch.setattr(programs, "run", never)
    for task in PROGRAMS:
        for tried in (
            lambda task=task: check_tasks(["piqa", task]),
            lambda task=task: prepare_tasks(Data(), EvalConfig(tasks=[task]), tmp_path),
            lambda task=task: score(uniform, Data(), EvalConfig(tasks=[task]), tmp_path),
        ):
            with pytest.raises(
                ConfigError, match=f"^eval.tasks={task}: runs programs that the model writes; say"
            ) as told:
                tried()
            assert "\n" not in str(told.value) and f"{task}_reference" in str(told.value)
    with pytest.raises(
        ConfigError, match=r"^eval\.run_model_code=true: no task here runs programs; add humaneval or mbpp"
    ):
        check_tasks(["piqa", "humaneval_reference"], run_model_code=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    told = refused(lambda: prepare_tasks(Data(), config(tmp_path, "humaneval"), tmp_path))
    assert told.startswith("eval.run_model_code=true: no sandbox can be made here (")


def refused(tried: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        tried()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_tasks_that_run_code_are_refused_with_the_key_too() -> None:
    for task in ("humaneval_plus", "mbpp_instruct"):
        told = programs.refusal(task)
        assert (
            told.startswith(f"eval.tasks={task}: runs code that the model writes")
            and f"{task.split('_')[0]} with" in told
        )
    assert programs.refusal("mine").endswith("leave it out")
