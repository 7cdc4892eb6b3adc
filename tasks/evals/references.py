"""Code benchmarks without running code: how likely the model finds the reference solution, given the problem.

White space at the end of a problem is scored with the solution, as lm-eval cuts every request, and counted with it.
"""

from typing import Any

MBPP = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}"
)
"""lm-eval's own, before `[BEGIN]`."""


def problem(doc: dict[str, Any]) -> str:
    """What is given, of HumanEval or of MBPP."""
    return _parts(doc)[0]


def solution(doc: dict[str, Any]) -> str:
    """What is scored."""
    return _parts(doc)[1]


def solution_bits(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """What lm-eval's aggregation `bits_per_byte` takes, of one problem."""
    ((log_probability, _),) = results
    return {"bits_per_byte": (log_probability, len(solution(doc).encode()))}


def _parts(doc: dict[str, Any]) -> tuple[str, str]:
    if "canonical_solution" in doc:
        given, wanted = doc["prompt"], doc["canonical_solution"]
    else:
        given = MBPP.format(text=doc["text"], tests="\n".join(doc["test_list"])) + "\n[BEGIN]\n"
        wanted = doc["code"].replace("\r\n", "\n")  # two characters end its lines, and no line of the prompt's
    kept = given.rstrip()
    return kept, given[len(kept) :] + wanted
