"""`seeds=auto`: the run ends at the first look that leaves no claim open, and the level of a look goes with it."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_in_kinds
from stand_in_kinds import asked

from ablations.config.trialkeys import TrialKeys
from ablations.judge.gather import load_result
from ablations.judge.looks import level
from ablations.record.documents import SweepState
from ablations.report import publish
from models.base.typed import ConfigError

PINNED = ("optim.lr=0.005", "model.moe.balance.alpha=0.01", "model.moe.balance.update_speed=0.01", "seeds=auto")


@pytest.fixture
def effect(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`effect(nats)`: by how much less the bias loses, with a paired spread of 0.01."""

    def noise(keys: TrialKeys, seed: int) -> float:
        told = (seed, keys.model.moe.balance.kind, keys.train.perturb, keys.train.token_fraction)
        return random.Random(str(told)).gauss(0, 0.007)

    def set_to(nats: float) -> None:
        def loss_of(keys: TrialKeys, seed: int) -> float:
            better = nats if keys.model.moe.balance.kind == "bias" else 0.0
            return 4 - better + (1 - keys.train.token_fraction) + noise(keys, seed)

        monkeypatch.setattr(stand_in_kinds, "loss_of", loss_of)

    return set_to


@pytest.mark.parametrize(("nats", "seen"), [(0.9, 4), (0.022, 8), (0.0, 16)])
def test_a_run_ends_at_the_look_that_settles_its_claims(conduct, pool, runs, effect, tmp_path, nats, seen):
    effect(nats)
    conductor = conduct(*one_claim(tmp_path), *PINNED)
    assert conductor.state.looked == seen and conductor.plan.seeds == list(range(16))
    trained = {request.trial.seed for request in map(asked, pool.ran["trial"])}
    assert trained == set(range(seen)), "no seed beyond the look"
    result = load_result(runs, "claimed", "smoke")
    (verdict,) = result.verdicts
    assert verdict.outcome == ("agrees" if nats else "not resolved")
    assert result.seeds == list(range(seen)) and not result.missing and "4, 8, 16 seeds" in result.plan.decision_rule
    assert verdict.difference.alpha == pytest.approx(level((4, 8, 16), seen, 0.05))
    assert not [text for text in result.deviations if "later version" in text]
    pool.ran.clear()
    again = conduct(*("sweep=claimed", f"sweeps_dir={tmp_path}"), *PINNED)
    assert "trial" not in pool.ran and SweepState.read(again.folder).looked == seen


def test_what_was_published_on_the_way_is_judged_too(conduct, pool, runs, effect, tmp_path):
    """Records of a sweep that goes on elsewhere count as done, and as seen."""
    effect(0.9)
    first = conduct(*one_claim(tmp_path), *PINNED)
    replace(SweepState.read(first.folder), looked=4, settled=False).write(first.folder)
    publish(runs, "claimed", "smoke", runs.parent / "results", partial=True)
    for folder in ("claimed", "trials"):
        shutil.rmtree(runs / folder)
    pool.ran.clear()
    again = conduct("sweep=claimed", f"sweeps_dir={tmp_path}", *PINNED)
    assert again.state.looked == 4 and again.state.settled and "trial" not in pool.ran


def test_a_run_that_is_stopped_between_looks_is_not_finished(conduct, pool, runs, effect, tmp_path):
    effect(0.0)
    conductor = conduct(*one_claim(tmp_path), *PINNED)
    state = SweepState.read(conductor.folder)
    replace(state, looked=8, settled=False).write(conductor.folder)
    result = load_result(runs, "claimed", "smoke")
    assert result.seeds == list(range(8)) and {seed for _, seed in result.missing} == set(range(8, 16))
    with pytest.raises(ConfigError, match="are missing"):
        publish(runs, "claimed", "smoke", runs.parent / "results")
    pool.ran.clear()
    again = conduct("sweep=claimed", f"sweeps_dir={tmp_path}", *PINNED)
    assert again.state.looked == 16 and "trial" not in pool.ran, "it goes on where it was"
    assert not load_result(runs, "claimed", "smoke").missing


def test_without_a_claim_there_is_nothing_to_look_at(plan, tmp_path):
    with pytest.raises(ConfigError, match="seeds=auto: looks at claims, and none here has all its arms"):
        plan(*one_claim(tmp_path), "arms=[none]", *PINNED[:2], "seeds=auto")


def one_claim(tmp_path: Path) -> list[str]:
    toy = Path(__file__).parent.parent / "sweeps/toy.yaml"
    lines = [line for line in toy.read_text().splitlines() if "metric: max_vio_global, kind" not in line]
    (tmp_path / "claimed.yaml").write_text("\n".join(lines))
    return ["sweep=claimed", f"sweeps_dir={tmp_path}"]
