"""The search: which point is chosen, when the rates are widened, and when Optuna hears of a point."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ablations.config.compose import compose
from ablations.config.schema import MatchedConfig
from ablations.config.trialkeys import TrialKeys
from ablations.home import ROOT
from ablations.judge.choice import Choice, choose
from ablations.judge.grid import Measured, key_of, measure
from ablations.record.record import Record
from ablations.sweep.plan import Arm
from ablations.sweep.planning import make_plan
from ablations.sweep.search import search, widened
from ablations.sweep.trials import Trial

RATE, STRENGTH = "optim.lr", "model.moe.balance.alpha"
RATES = [0.0025, 0.005, 0.01]
STRENGTHS = [0.003, 0.01, 0.03]


def arm(name: str = "aux_loss", strengths: list[float] | None = None) -> Arm:
    return Arm(name, "arm", "", {}, {STRENGTH: strengths} if strengths else {}, TrialKeys(), MatchedConfig())


def one(loss: float, share: float = 0.0) -> Measured:
    """A point with one search seed."""
    return Measured({1000: loss}, share)


def curve(losses: list[float], rates: list[float] | None = None) -> dict[Any, Measured]:
    return {key_of({RATE: r}): one(x) for r, x in zip(rates or RATES, losses, strict=True)}


def surface(rows: dict[float, list[tuple[float, float]]]) -> dict[Any, Measured]:
    """strength -> (loss, share of the largest MaxVio) per rate."""
    return {
        key_of({RATE: rate, STRENGTH: strength}): one(*values)
        for strength, row in rows.items()
        for rate, values in zip(RATES, row, strict=True)
    }


def rates_over_seeds(curvature: float, scatter: float, rates: Sequence[float] = RATES) -> dict[Any, Measured]:
    """Least between the points at 0.004, with levels and a scatter that differ over three seeds."""
    noise = np.random.default_rng(0).normal(0, scatter, (len(rates), 3))
    return {
        key_of({RATE: rate}): Measured(
            {s: 4 + s / 10 + curvature * math.log(rate / 0.004) ** 2 + noise[i, s] for s in range(3)}, 0.0
        )
        for i, rate in enumerate(rates)
    }


def test_the_vertex_is_taken_and_what_it_may_cost_is_bounded():
    rates = (0.0025, 0.0035, 0.005, 0.007)
    choice = choose("aux_loss", rates_over_seeds(0.05, 0.001, rates), None)
    assert choice.point[RATE] == pytest.approx(0.004, rel=0.03) and choice.edges == {} and choice.notes == []
    assert choice.mistuning is not None and 0 < choice.mistuning < 0.0005
    worse = choose("aux_loss", rates_over_seeds(0.05, 0.01, rates), None)
    assert worse.mistuning is not None and worse.mistuning > 20 * choice.mistuning


def test_one_seed_gives_a_vertex_and_no_bound():
    choice = choose("aux_loss", curve([4.02, 4.00, 4.01]), limit=None)
    # The parabola through (-1, 0.02), (0, 0), (1, 0.01) in log2(rate) is least at 1/6.
    assert choice.point == {RATE: float(f"{0.005 * 2 ** (1 / 6):.3g}")}
    assert (choice.edges, choice.notes, choice.mistuning) == ({}, [], None)


@pytest.mark.parametrize(
    ("losses", "edge", "rate"), [([4.0, 4.1, 4.2], "low", 0.0025), ([4.2, 4.1, 4.0], "high", 0.01)]
)
def test_an_optimum_on_the_edge_has_no_bound(losses, edge, rate):
    choice = choose("aux_loss", curve(losses), limit=None)
    assert (choice.point, choice.edges, choice.mistuning) == ({RATE: rate}, {RATE: edge}, None)


def test_two_rates_have_no_edge():
    assert choose("aux_loss", curve([4.0, 4.1], RATES[:2]), None).edges == {}


def test_arms_that_search_a_strength_alone_share_a_learning_rate():
    measured = {key_of({STRENGTH: s}): one(loss) for s, loss in zip(STRENGTHS, [4.1, 4.0, 4.2], strict=True)}
    choice = choose("aux_loss", measured, None)
    assert (choice.point, choice.mistuning, choice.vertex) == ({STRENGTH: 0.01}, 0.0, None)


def test_a_strength_is_chosen_among_the_points_that_balance():
    measured = surface(
        {
            0.001: [(3.90, 0.5), (3.89, 0.4), (3.91, 0.3)],
            0.01: [(4.03, 0.10), (4.00, 0.08), (4.02, 0.06)],
            0.1: [(4.2, 0.01), (4.1, 0.01), (4.3, 0.01)],
        }
    )
    choice = choose("aux_loss", measured, limit=0.1)
    assert choice.point == {RATE: pytest.approx(0.00536), STRENGTH: 0.01}, "the vertex at that strength"
    assert choice.notes == []
    assert choose("aux_loss", measured, limit=None).point[STRENGTH] == 0.001


def test_the_limit_itself_is_within_it_and_an_arm_without_a_strength_is_not_bound():
    measured = surface({0.01: [(4.0, 0.1), (4.1, 0.1), (4.2, 0.1)]})
    assert choose("aux_loss", measured, 0.1).notes == []
    unbalanced = {key: one(m.loss, 0.9) for key, m in curve([4.02, 4.0, 4.02]).items()}
    choice = choose("none", unbalanced, None)
    assert (choice.point, choice.notes) == ({RATE: 0.005}, [])


def test_where_no_point_balances_the_best_balanced_is_taken_and_said():
    measured = surface({0.001: [(3.9, 0.5), (3.9, 0.4), (3.9, 0.3)], 0.01: [(4.1, 0.2), (4.2, 0.3), (4.0, 0.2)]})
    choice = choose("aux_loss", measured, limit=0.1)
    assert choice.point[STRENGTH] == 0.01
    assert "no searched point keeps the balance" in choice.notes[0]


def test_diverged_points_are_not_chosen():
    choice = choose("aux_loss", curve([4.1, 4.0, math.inf]), limit=None)
    assert (choice.point, choice.edges, choice.mistuning) == ({RATE: 0.005}, {RATE: "low"}, None)
    assert "leaves out optim.lr=0.01" in choice.notes[0]
    measured = surface({0.01: [(4.0, 0.05), (4.1, 0.05), (math.inf, math.inf)]})
    assert choose("aux_loss", measured, 0.1).point == {RATE: 0.0025, STRENGTH: 0.01}
    unbalanced = surface({0.01: [(4.0, 0.5), (math.inf, math.inf), (math.inf, math.inf)]})
    assert choose("aux_loss", unbalanced, 0.1).point == {RATE: 0.0025, STRENGTH: 0.01}


def test_where_all_diverged_lower_rates_are_asked_for():
    choice = choose("aux_loss", curve([math.inf] * 3), limit=None)
    assert choice.edges == {RATE: "low"}
    assert "all searched points diverged" in choice.notes[0]


def test_ties_are_broken_the_same_way_always():
    assert choose("aux_loss", curve([4.1, 4.0, 4.0]), None).best == {RATE: 0.005}, "the first"
    flat = {key_of({STRENGTH: s}): one(4.0) for s in STRENGTHS}
    assert choose("aux_loss", flat, None).point == {STRENGTH: 0.003}, "the first"


def test_nothing_searched_is_nothing_chosen():
    assert choose("aux_loss", {(): one(4.0)}, None) == Choice({}, 0.0)


def test_a_point_is_the_mean_over_its_seeds_unless_one_diverged():
    point = measure({1: 4.0, 2: 4.2}, [0.1, 0.3])
    assert (point.loss, point.constraint) == (pytest.approx(4.1), pytest.approx(0.2)) and not point.diverged
    assert measure({1: 4.0, 2: None}, [0.1, None]) == Measured({1: 4.0, 2: math.inf}, math.inf)
    assert measure({1000: 4.0}, [None]) == one(4.0)


def strengths_of(losses: list[float], shares: list[float] | None = None) -> dict[Any, Measured]:
    """At the middle rate these, at the others worse."""
    rows = zip(STRENGTHS, losses, shares or [0.05] * 3, strict=True)
    return surface({s: [(loss + 0.1, share), (loss, share), (loss + 0.1, share)] for s, loss, share in rows})


@pytest.mark.parametrize(
    ("losses", "shares", "edges"),
    [
        ([4.0, 4.1, 4.2], None, {STRENGTH: "low"}),
        ([4.2, 4.1, 4.0], None, {STRENGTH: "high"}),
        ([4.1, 4.0, 4.2], None, {}),
        # The weakest is best, but does not balance: the best of those that do has weaker ones beside it.
        ([4.0, 4.1, 4.2], [0.5, 0.05, 0.05], {}),
        ([4.0, 4.1, 4.2], [0.5, 0.5, 0.05], {STRENGTH: "high"}),
        # None balances: the best balanced one is taken, and the last on that side may not be the end.
        ([4.0, 4.1, 4.2], [0.5, 0.4, 0.3], {STRENGTH: "high"}),
        ([4.0, 4.1, 4.2], [0.5, 0.3, 0.4], {}),
        ([math.inf] * 3, None, {}),
    ],
)
def test_a_strength_on_an_edge_is_seen(losses, shares, edges):
    found = choose("aux_loss", strengths_of(losses, shares), limit=0.1).edges
    assert {key: side for key, side in found.items() if key == STRENGTH} == edges


def test_both_keys_of_a_point_may_lie_on_an_edge():
    measured = surface({s: [(4.0 + i, 0.0), (4.1 + i, 0.0), (4.2 + i, 0.0)] for i, s in enumerate(STRENGTHS)})
    assert choose("aux_loss", measured, None).edges == {STRENGTH: "low", RATE: "low"}


def on(plan: Any, **edges: dict[str, Any]) -> dict[str, Choice]:
    """Every arm's choice at its first point, on these edges."""
    return {a.name: Choice(a.grid(plan.shared)[1], 0.0, edges=edges.get(a.name, {})) for a in plan.searched_arms}


@pytest.fixture(scope="module")
def searching() -> Any:
    """The plan of a sweep before a search: arms with strengths, and one without."""
    toy = ["sweep=toy", f"sweeps_dir={ROOT / 'tests/ablations/sweeps'}"]
    return make_plan(compose([*toy, "scale=cpu", "search=fresh"]))


def test_widening_the_rates_serves_all_arms(searching):
    rates = searching.shared[RATE]
    low, high = rates[0] ** 2 / rates[1], rates[-1] ** 2 / rates[-2]
    for edges, expected in (
        ({"none": {RATE: "low"}}, [low, *rates]),
        ({"bias": {RATE: "high"}}, [*rates, high]),
        ({"none": {RATE: "low"}, "bias": {RATE: "high"}}, [low, *rates, high]),
    ):
        wider = widened(searching, on(searching, **edges))
        assert wider is not None and wider.shared[RATE] == pytest.approx(expected, rel=1e-4)
        assert wider.arms == searching.arms


def test_a_strength_widens_and_budgets_stay_equal(searching):
    speed = "model.moe.balance.update_speed"
    before = {a.name: a.search for a in searching.searched_arms}
    wider = widened(searching, on(searching, bias={speed: "high"}))
    assert wider is not None and wider.shared == searching.shared
    assert wider.arms["bias"].search[speed] == pytest.approx([*before["bias"][speed], 0.09])
    (alphas,) = wider.arms["aux_loss"].search.values()
    assert len(alphas) == 4 and set(alphas) > set(STRENGTHS) and STRENGTHS[0] < min(set(alphas) - set(STRENGTHS))
    budgets = {len(a.grid(wider.shared)) * len(wider.search_seeds(a)) for a in wider.searched_arms}
    assert budgets == {36}, "the arm without a strength has more search seeds"


def test_a_value_that_a_key_does_not_take_is_not_added(searching):
    """A share ends at 1."""
    search = {"optim.beta2": [0.9, 0.95, 0.99]}
    arms = {**searching.arms, "bias": dataclasses.replace(searching.arms["bias"], search=search)}
    plan = dataclasses.replace(searching, arms=arms)
    wider = widened(plan, on(plan, bias={"optim.beta2": "high"}))
    assert wider is not None and wider.arms["bias"].search == search


def test_nothing_to_widen(searching):
    assert widened(searching, on(searching)) is None
    short = dataclasses.replace(searching, shared={RATE: [0.005]})
    assert widened(short, on(searching, none={RATE: "low"})) is None
    assert widened(dataclasses.replace(searching, shared={}), on(searching, none={RATE: "low"})) is None


class FakeTrials:
    """Every trial's loss from its point; no balance is missed."""

    def __init__(self, loss: Any) -> None:
        self.loss, self.asked, self.notes = loss, [], []
        self.progress = SimpleNamespace(note=self.notes.append)

    def of(self, arm: Arm, phase: str, seed: int, point: dict[str, float]) -> Trial:
        return Trial(f"{arm.name} {seed} {sorted(point.items())}", arm.name, phase, seed, {}, dict(point))

    def run(self, name: str, trials: list[Trial], ended: Callable[[Trial, Record], None]) -> dict[str, Record]:
        """Ended from the last to the first."""
        self.asked = trials
        balance = {"max_vio_global": 0.1, "max_vio_max": 3.0}
        records = {
            t.id: Record(t.id, t.seed, "complete", {}, metrics={"loss": self.loss(t.arm, t.point), **balance})
            for t in trials
        }
        for trial in reversed(trials):
            ended(trial, records[trial.id])
        return records


def best_at(rate: float, strength: float) -> Any:
    def loss(arm: str, point: dict[str, float]) -> float:
        far = [math.log(v / (rate if key == RATE else strength)) ** 2 for key, v in point.items()]
        return 4 + sum(far) if "bias" in arm else 4 + math.log(point[RATE] / 0.0035) ** 2

    return loss


def budgets(trials: FakeTrials) -> set[int]:
    return set(Counter(trial.arm for trial in trials.asked).values())


def test_a_search_follows_a_strength_beyond_its_grid(searching, tmp_path):
    trials, kept = FakeTrials(best_at(0.0035, 0.09)), []
    choices, notes = search(searching, trials, tmp_path / "optuna.journal", kept.append)
    assert choices["bias"].point == pytest.approx({RATE: 0.0035, "model.moe.balance.update_speed": 0.09})
    assert choices["bias"].edges == {} and choices["none"].edges == {} and notes == []
    assert budgets(trials) == {45} and [len(rows) // 4 for rows in kept] == [27, 36, 45]
    assert "model.moe.balance.update_speed=0.03 of bias (highest)" in trials.notes[0]


def test_what_stays_on_an_edge_is_said(searching, tmp_path):
    trials = FakeTrials(best_at(0.0035, 10.0))
    choices, notes = search(searching, trials, tmp_path / "optuna.journal", lambda rows: None)
    speed = "model.moe.balance.update_speed"
    assert choices["bias"].edges == {speed: "high"} and choices["bias"].point[speed] == pytest.approx(0.27)
    assert notes == [f"the best searched value is still on the edge of its grid: {speed}=0.27 of bias (highest)"]


def test_optuna_hears_of_every_point_and_of_what_was_taken(searching, tmp_path):
    """Told as they ended; the journal is there for Optuna's own tools."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    choices, _ = search(searching, FakeTrials(best_at(0.004, 0.009)), tmp_path / "optuna.journal", lambda rows: None)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.journal")))
    study = optuna.load_study(study_name=f"{searching.sweep.name}/{searching.config.scale}/bias", storage=storage)
    arm = searching.arms["bias"]
    assert [trial.params for trial in study.trials] == list(reversed(arm.grid(searching.shared)))
    assert study.best_params == choices["bias"].best
    marked = study.user_attrs["chosen"]
    assert study.trials[marked.pop("trial")].params == choices["bias"].best and marked == choices["bias"].point
