"""What a page says of each arm's keys, against the records."""

import pytest

from ablations.home import ROOT
from ablations.judge.gather import load_published
from ablations.judge.sidebyside import leaves
from ablations.show.sections.settings import settings_table


@pytest.mark.parametrize("sweep", ["post_training", "grpo", "moe_balance", "memory"])
def test_every_key_that_is_not_the_baselines_is_told_and_none_besides(sweep: str) -> None:
    result = load_published(ROOT / "results" / sweep / "cpu")
    told = {row[0]: row[1].split(", ") for row in settings_table(result).rows}
    base = next(iter(result.arms[result.baseline].records.values())).config
    assert told.pop(result.baseline) == ["-"]
    for name, said in told.items():
        own = next(iter(result.arms[name].records.values())).config
        last = [{k: v for k, v in side.items() if k not in ("before", "teacher")} for side in (base, own)]
        left, right = (dict(leaves(side)) for side in last)
        wanted = {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}
        plain = [part for part in said if ":" not in part and part != "-"]
        assert {part.removeprefix("no ").partition("=")[0] for part in plain} == wanted, name
        stages = len(own.get("before", [])), len(base.get("before", []))
        assert (stages[0] != stages[1]) == any(part.startswith("stages before the last: ") for part in said), name
