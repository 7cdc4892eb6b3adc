"""Properties that every schedule must have, for all sizes; and its times against the published formulas."""

import functools
import itertools
from collections import Counter
from dataclasses import replace

import pytest

from models.base.typed import ConfigError
from models.pipeline.schedules import SCHEDULES, Action, Overlapped, Schedule, pairs_apart, parts
from models.pipeline.simulate import Costs, Deadlock, simulate

ODD_COSTS = Costs(f=1.0, i=1.3, w=0.7, transfer=0.11)


@functools.cache
def sizes(name: str) -> list[tuple[int, int]]:
    """(P, M) for P in 2..16 and M up to 32 that the schedule takes."""
    found = []
    for ranks, microbatches in itertools.product((*range(2, 9), 10, 11, 12, 16), (1, 2, 3, 8, 12, 31, 32)):
        try:
            SCHEDULES[name](ranks, microbatches)
        except ConfigError:
            continue
        found.append((ranks, microbatches))
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_microbatch_passes_every_stage_once_each_way_at_its_own_rank(name: str) -> None:
    assert len(sizes(name)) >= 12
    for ranks, microbatches in sizes(name):
        schedule = SCHEDULES[name](ranks, microbatches)
        seen: Counter[tuple[str, int, int]] = Counter()
        for rank, steps in enumerate(schedule.ranks):
            for action in itertools.chain.from_iterable(map(parts, steps)):
                assert schedule.rank_of(action) == rank
                ways = {"F": "F", "B": "IW", "I": "I", "W": "W"}[action.kind]
                seen.update((way, action.stage, action.microbatch) for way in ways)
        everything = itertools.product("FIW", range(schedule.stages), range(microbatches))
        assert seen == Counter(dict.fromkeys(everything, 1)), (ranks, microbatches)


@pytest.mark.parametrize("name", SCHEDULES)
def test_nothing_runs_before_what_it_needs_and_nothing_waits_for_ever(name: str) -> None:
    for ranks, microbatches in sizes(name):
        timeline = simulate(SCHEDULES[name](ranks, microbatches), ODD_COSTS)
        ends: dict[tuple[str, int, int], float] = {}
        starts: dict[tuple[str, int, int], float] = {}
        for timed in itertools.chain.from_iterable(timeline.ranks):
            for action in parts(timed.step):
                for way in {"F": "F", "B": "IW", "I": "I", "W": "W"}[action.kind]:
                    place = (way, action.stage, action.microbatch)
                    starts[place], ends[place] = timed.start, timed.end
        for (way, stage, m), start in starts.items():
            before = {"F": ("F", stage - 1, m), "I": ("I", stage + 1, m), "W": ("I", stage, m)}[way]
            if before in ends and not (way == "W" and start == starts[before]):
                assert start >= ends[before] - 1e-9
            if way == "I":
                assert start >= ends["F", stage, m] - 1e-9


@pytest.mark.parametrize("ranks", (4, 5, 6, 8, 11, 16))
@pytest.mark.parametrize("times", [(1.0, 1.0, 1.0), (1.0, 1.3, 0.7), (2.0, 2.5, 1.5), (1.0, 0.9, 0.8)])
def test_bubbles_of_one_direction_are_those_of_v3s_table_2(ranks: int, times: tuple[float, float, float]) -> None:
    """1F1B (P-1)(F+B), ZB1P (P-1)(F+B-2W), which is exact where W is no longer than F and I."""
    f, i, w = times
    b = i + w
    for microbatches in (2 * ranks, 2 * ranks + 5, 4 * ranks):
        for name, bubble in (("gpipe", f + b), ("1f1b", f + b), ("zb1p", f + b - 2 * w)):
            timeline = simulate(SCHEDULES[name](ranks, microbatches), Costs(f, i, w))
            assert max(map(timeline.bubble, range(ranks))) == pytest.approx((ranks - 1) * bubble), name


def dual(name: str, stages: int, costs: Costs) -> float:
    """The longest bubble of any rank, of `stages` stages."""
    ranks = stages if name == "dualpipe" else stages // 2
    timeline = simulate(SCHEDULES[name](ranks, 2 * stages + 4), costs)
    return max(map(timeline.bubble, range(ranks)))


@pytest.mark.parametrize("name", ["dualpipe", "dualpipev"])
@pytest.mark.parametrize("stages", range(4, 17, 2))
@pytest.mark.parametrize(("f", "w"), [(1.0, 1.0), (1.0, 0.7), (2.0, 0.5)])
@pytest.mark.parametrize("gain", [0.0, 0.4])
def test_bubbles_of_two_directions_are_those_of_v3s_table_2(
    name: str, stages: int, f: float, w: float, gain: float
) -> None:
    """(P/2-1)(F&B+B-3W), which is exact where F takes as long as I, whatever W and however much F&B saves."""
    costs = Costs(f, f, w, overlapped=2 * f + w - gain)
    formula = (stages // 2 - 1) * (costs.of_pair + costs.b - 3 * w)
    assert dual(name, stages, costs) == pytest.approx(formula)


def test_where_f_and_i_differ_the_published_formula_is_off() -> None:
    """Too long where I is longer, too short where F is: chunks of the one fill, or overrun, what the formula counts."""
    for name in ("dualpipe", "dualpipev"):
        for i, off in ((1.3, -0.9), (0.8, 0.6)):
            costs = Costs(1.0, i, 0.7)
            formula = 3 * (costs.of_pair + costs.b - 3 * 0.7)
            assert dual(name, 8, costs) - formula == pytest.approx(off)


@pytest.mark.parametrize(
    ("costs", "shares"),
    [
        (
            Costs(1, 1, 1),
            {"gpipe": 0.158, "1f1b": 0.158, "interleaved_1f1b": 0.086, "zbv": 0.030, "dualpipev": 0.030},
        ),
        (Costs(1, 1.3, 0.7), {"1f1b": 0.158, "interleaved_1f1b": 0.086, "zbv": 0.039, "dualpipev": 0.048}),
        (Costs(1, 1, 1, transfer=0.25), {"1f1b": 0.25, "interleaved_1f1b": 0.143, "zbv": 0.090, "dualpipev": 0.103}),
    ],
)
def test_bubble_shares_are_those_that_another_simulator_finds_in_torchs_orders(
    costs: Costs, shares: dict[str, float]
) -> None:
    """4 ranks, 16 microbatches. Its costs are of a rank's whole share of the model, a chunk of two has half of them.

    It runs a pair's F and then its B, and what F makes may leave before B ends; here both leave at the pair's end.
    """
    for name, share in shares.items():
        schedule = SCHEDULES[name](4, 16)
        chunks = schedule.stages // len(schedule.ranks)
        of_chunk = replace(costs, f=costs.f / chunks, i=costs.i / chunks, w=costs.w / chunks)
        assert simulate(pairs_apart(schedule), of_chunk).bubble_share == pytest.approx(share, abs=5e-4), name
        paired = simulate(schedule, of_chunk).bubble_share
        assert paired > 1.5 * share if name == "dualpipev" else paired == pytest.approx(share, abs=5e-4), name


PEAKS = {
    "gpipe": lambda ranks, microbatches, rank: microbatches,
    "1f1b": lambda ranks, microbatches, rank: ranks - rank,
    "zb1p": lambda ranks, microbatches, rank: ranks,
    "zbv": lambda ranks, microbatches, rank: 2 * ranks,
    "dualpipe": lambda ranks, microbatches, rank: ranks + 1,
    "dualpipev": lambda ranks, microbatches, rank: 2 * ranks + 1,
}
"""Chunks that a rank holds at most: of one stage each, so that those of a V are half of 1F1B's."""


@pytest.mark.parametrize("name", PEAKS)
@pytest.mark.parametrize("ranks", [2, 4, 6, 8, 16])
def test_activations_stay_within_the_schedules_bound(name: str, ranks: int) -> None:
    timeline = simulate(SCHEDULES[name](ranks, 4 * ranks), Costs(1.0, 1.0, 1.0))
    found = [timeline.peak_activations(rank) for rank in range(ranks)]
    bounds = [PEAKS[name](ranks, 4 * ranks, rank) for rank in range(ranks)]
    assert all(peak <= bound for peak, bound in zip(found, bounds, strict=True)), (found, bounds)
    assert max(found) == max(bounds), "and it is reached"


@pytest.mark.parametrize(
    ("name", "ranks", "microbatches", "words"),
    [
        ("dualpipe", 5, 20, "model.pipeline.stages=5: dualpipe needs an even number"),
        ("dualpipe", 4, 9, "model.pipeline.microbatches=9: dualpipe needs an even number"),
        ("dualpipe", 4, 6, "model.pipeline.microbatches=6: dualpipe on 4 ranks needs 8 or more"),
        ("dualpipev", 4, 7, "model.pipeline.microbatches=7: dualpipev .* needs 8 or more"),
        ("zbv", 4, 6, "model.pipeline.microbatches=6: zbv on 4 ranks needs 7 or more"),
        ("interleaved_1f1b", 4, 6, "model.pipeline.microbatches=6: interleaved_1f1b on 4 ranks needs a multiple of 4"),
    ],
)
def test_what_a_schedule_cannot_do_is_refused(name: str, ranks: int, microbatches: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SCHEDULES[name](ranks, microbatches)


def test_an_order_that_waits_for_itself_is_found() -> None:
    schedule = SCHEDULES["1f1b"](2, 2)
    first, *rest = schedule.ranks[1]
    turned = Schedule("turned", [schedule.ranks[0], [*rest[:1], first, *rest[1:]]], 2, 2, schedule.homes)
    with pytest.raises(Deadlock, match="turned: waiting for each other"):
        simulate(turned, Costs(1, 1, 1))


def test_an_overlapped_pair_lasts_as_long_as_it_was_said_to_and_no_less() -> None:
    pair = Overlapped(Action("F", 0, 1), Action("B", 0, 0))
    assert Costs(1, 2, 3).of(pair) == 6 and Costs(1, 2, 3, overlapped=4.5).of(pair) == 4.5
