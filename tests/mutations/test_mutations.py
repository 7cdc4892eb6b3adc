"""Each mistake is stopped by the guards that docs/guards.md names, and by no others; and what is right passes them."""

import os
from pathlib import Path
from typing import Any

import between_arms  # noqa: F401  fills MISTAKES
import pytest
from bench import ARMS
from mistakes import MISTAKES, Mistake
from strangers import STRANGERS

from ablations.guards.meaning import MEANINGS, WAIVABLE
from ablations.home import ROOT

pytestmark = pytest.mark.mutations
MATRIX = ROOT / "docs" / "guards.md"
HEAD = f"""# Guards

Before any trial of a sweep runs, every arm passes these; the last two look at finished trials. A guard that fails stops
the sweep, or makes a verdict void; one that could not look says so, and has not passed. What is looked at is the arm's
own model, on a few rows of its own batches: a fault that shows in none of them is not seen.

A sweep's file may do without {", ".join(WAIVABLE[:-1])} or {WAIVABLE[-1]}, for a reason that the result then shows,
such as `waive: {{derivative: gradients are straight-through estimates}}`.
"""
CATCHES = """## What they catch

`pytest -m mutations` plants each of these mistakes into our own code (where one lies between arms, in their text or
seeds, it gives the guards such arms), sees that exactly the marked guards fail, and that none does without it.
"""


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_right_passes(bench: Any, arm: str) -> None:
    assert [(g.name, g.said) for g in bench.arm(arm) if not g.passed] == []


def test_what_is_right_is_comparable(bench: Any) -> None:
    results = bench.beside_baseline("bias", {"optim.weight_decay": 0.0}, ["optim.weight_decay"]) + bench.leaked(0.0)
    results += bench.finished({"base": {}, "aa": {"train.perturb": 1e-6}, "none": {"model.moe.balance.kind": "none"}})
    results += bench.seeds([1000, 1001], [0, 1])
    assert [(g.name, g.said) for g in results if not g.passed] == []


@pytest.mark.parametrize("name", [name for name, mistake in MISTAKES.items() if mistake.guards])
def test_a_mistake_is_stopped(bench: Any, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stops(MISTAKES[name], bench, monkeypatch, tmp_path)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_strangers_class_is_stopped(bench: Any, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stops(STRANGERS[name], bench, monkeypatch, tmp_path)


def stops(mistake: Mistake, bench: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    mistake.plant(monkeypatch, folder)
    results = mistake.look(bench)
    assert {g.name for g in results if not g.passed} == set(mistake.guards), [g.said for g in results if not g.passed]


@pytest.mark.parametrize("name", [name for name, mistake in MISTAKES.items() if mistake.test])
def test_a_test_knows(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = str(ROOT / str(MISTAKES[name].test))
    quiet = ["-q", "-n0", "-p", "no:cacheprovider", "--import-mode=importlib", "--no-header", "-x"]
    assert pytest.main([*quiet, node]) == 0, "it passes as things are"
    MISTAKES[name].plant(monkeypatch, tmp_path)
    assert pytest.main([*quiet, node]) == 1


def test_the_documented_matrix_is_this_one() -> None:
    """`WRITE=1 pytest -m mutations` writes it."""
    if os.environ.get("WRITE"):
        MATRIX.write_text(matrix())
    assert MATRIX.read_text() == matrix()


def matrix() -> str:
    """docs/guards.md."""
    used = [name for name in MEANINGS if any(name in m.guards for m in [*MISTAKES.values(), *STRANGERS.values()])]
    lines = [
        HEAD,
        "| guard | an arm that has passed |",
        "|---|---|",
        *(f"| {name} | {meaning} |" for name, meaning in MEANINGS.items()),
        "",
        CATCHES,
        f"| mistake | {' | '.join(used)} |",
        "|---" * (len(used) + 1) + "|",
        *(_row(m, used) for m in MISTAKES.values() if m.guards),
        "",
        "Classes that somebody might add, each with one fault; no test of ours knows them:",
        "",
        f"| class | {' | '.join(used)} |",
        "|---" * (len(used) + 1) + "|",
        *(_row(m, used) for m in STRANGERS.values()),
        "",
        "What no guard can know, and a test does:",
        "",
        "| mistake | test |",
        "|---|---|",
        *(f"| {m.story} | `{m.test}` |" for m in MISTAKES.values() if m.test),
        "",
    ]
    return "\n".join(lines)


def _row(mistake: Mistake, used: list[str]) -> str:
    return f"| {mistake.story} | {' | '.join('x' if name in mistake.guards else '' for name in used)} |"
