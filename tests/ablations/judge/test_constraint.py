"""The search's limit on balance, judged again on the confirmation's seeds."""

from pathlib import Path
from typing import Any

import pytest

from ablations.config.schema import SearchConfig
from ablations.judge.constraint import Constraint, held
from ablations.judge.gather import load_result
from ablations.judge.result import Result
from ablations.show import page
from ablations.show.answer import findings
from ablations.show.sections import every as sections

TENTH = Constraint("max_vio_global", 0.1)


def values(shares: list[float], most: float = 3.0) -> dict[str, dict[int, float]]:
    return {"max_vio_global": {s: v * most for s, v in enumerate(shares)}, "max_vio_max": dict.fromkeys(range(9), most)}


@pytest.mark.parametrize(
    ("shares", "within", "missed"),
    [([0.12, 0.17, 0.14, 0.09, 0.11, 0.08], 2, True), ([0.05, 0.16, 0.05], 2, False), ([0.0, 0.0], 2, False)],
)
def test_the_mean_decides_and_seeds_are_counted(shares: list[float], within: int, missed: bool) -> None:
    found = held(TENTH, "bias", values(shares))
    assert (found.within, found.missed) == (within, missed)
    assert f"({within} of {len(shares)} seeds keep it)" in str(found)


def test_an_arm_without_experts_has_nothing_to_keep() -> None:
    found = held(TENTH, "dense", {"loss": {0: 3.0}})
    assert found.mean is None and not found.missed and str(found) == "dense has no MaxVio_global"


def test_of_a_plan() -> None:
    limited = SearchConfig(constraint_metric="max_vio_global", constraint_max=0.05)
    assert Constraint.of(SearchConfig()) is None and Constraint.of(limited) == Constraint("max_vio_global", 0.05)


@pytest.fixture
def result(sweep_run: Any, tmp_path: Path) -> Result:
    """bias keeps 5 % (its MaxVio is 0.11 of 3), aux_loss does not (0.25 of 3)."""
    sweep_run(tmp_path, limit=0.05)
    return load_result(tmp_path, "moe_balance", "cpu")


def test_a_missed_limit_is_shown_and_changes_the_words_of_claims_on_the_loss(result: Result) -> None:
    rows = {row[0]: row for row in sections.all_tables(result)["constraint"].rows}
    assert rows["bias"][3:] == ["6/6", "kept"] and rows["aux_loss"][3:] == ["0/6", "missed"]
    assert rows["none"][4] == "missed", "it searches no strength, and yet is not at equal balance"
    on_loss, on_balance, against_another, of_none = result.verdicts
    assert (against_another.caveat, of_none.caveat) == (None, "not at equal balance"), "by the arms that it is about"
    assert on_loss.caveat == "not at equal balance"
    assert "not at equal balance: MaxVio_global of aux_loss is " in on_loss.why and "limit 5 %" in on_loss.why
    assert on_balance.caveat is None and "equal balance" not in on_balance.why
    sentence = "; ".join(findings(result))
    assert "not resolved, not at equal balance (claimed: lower" in sentence
    row = sections.verdict_table(result).rows[0]
    assert row[1] == "not resolved, not at equal balance"
    shown = page.page_html(result, [], [])
    assert "not resolved</span>" in shown and "<small>not at equal balance</small>" in shown


def test_a_limit_that_is_kept_changes_nothing(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path / "free")
    sweep_run(tmp_path / "limited", limit=0.9)
    before, after = (load_result(tmp_path / name, "moe_balance", "cpu") for name in ("free", "limited"))
    assert "constraint" not in sections.all_tables(before)
    assert after.verdicts == before.verdicts and "constraint" in sections.all_tables(after)
