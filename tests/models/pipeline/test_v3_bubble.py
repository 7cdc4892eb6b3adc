"""What V3's published times of a step's phases say about DualPipe (benchmarks/pipeline_v3.py)."""

import pytest

from benchmarks import pipeline_v3 as v3
from models.pipeline.schedules import Overlapped, dualpipe, dualpipev
from models.pipeline.simulate import Costs, simulate

SCHEDULE = dualpipe(v3.RANKS, 120)


def test_a_pipeline_gets_120_sequences() -> None:
    """15360 on 2048 GPUs, 16 of them a pipeline."""
    assert v3.microbatches(1) == 120 and v3.microbatches(2) == 60


def test_counts_are_those_of_every_microbatch_both_ways() -> None:
    for rank, steps in enumerate(SCHEDULE.ranks):
        found = v3.counts(steps)
        assert found["F"] + found["F&B"] == found["I"] + found["B"] + found["F&B"] == 120
        assert found["I"] == found["W"]
        assert found == v3.counts(SCHEDULE.ranks[v3.RANKS - 1 - rank]), "of its mirror image too"
    assert v3.counts(SCHEDULE.ranks[0]) == {"F": 23, "B": 8, "I": 15, "W": 15, "F&B": 97}


@pytest.mark.parametrize("reading", v3.READINGS)
@pytest.mark.parametrize("microbatches", [60, 120, 240])
def test_derived_times_add_up_to_the_published_phases(reading: str, microbatches: int) -> None:
    schedule = dualpipe(v3.RANKS, microbatches)
    for rank, costs in enumerate(v3.derived(schedule, reading)):
        spent = dict.fromkeys(v3.PHASES, 0.0)
        for step in schedule.ranks[rank]:
            if isinstance(step, Overlapped):
                spent["F&B"] += costs.of_pair
            elif step.kind != "B":
                spent[step.kind] += costs.of(step)
            elif reading == "halves":
                spent["I"], spent["W"] = spent["I"] + costs.i, spent["W"] + costs.w
            else:
                spent["I"] += costs.i + costs.w
        assert spent == pytest.approx(v3.PHASES)
        timeline = simulate(schedule, costs)
        assert timeline.end - timeline.bubble(rank) == pytest.approx(sum(v3.PHASES.values()))


def test_what_overlapping_gains_is_the_same_in_both_readings() -> None:
    """And speaks for one sequence per microbatch: it would lose with two, and hide more than there is with a half."""
    for microbatches, least, most in ((60, 1.53, 2.41), (120, 0.64, 0.92), (240, 0.29, 0.42)):
        schedule = dualpipe(v3.RANKS, microbatches)
        halves, whole = (v3.compare(schedule, reading)["pair_over_sum"] for reading in v3.READINGS)
        assert halves == whole
        assert least <= min(halves) and max(halves) <= most


def test_the_published_bubble_is_longer_than_the_simulated_one_for_every_rank_and_reading() -> None:
    """A finding, not a fit: 0.8 to 1.5 s of 2.06."""
    bubbles = [bubble for reading in v3.READINGS for bubble in v3.compare(SCHEDULE, reading)["bubble_s"]]
    assert min(bubbles) == pytest.approx(0.777, abs=1e-3) and max(bubbles) == pytest.approx(1.444, abs=1e-3)
    assert max(bubbles) < v3.BUBBLE


def test_half_the_ranks_with_half_the_microbatches_take_as_long() -> None:
    for reading in v3.READINGS:
        for costs in v3.derived(SCHEDULE, reading):
            folded = simulate(dualpipev(v3.RANKS // 2, 60), costs)
            assert folded.end == pytest.approx(simulate(SCHEDULE, costs).end)


def test_a_slow_end_slows_its_own_chunks_alone() -> None:
    even = Costs(1.0, 1.5, 0.5, overlapped=2.4)
    slow = v3.SlowEnd(even, 1.5)
    for step in (step for steps in SCHEDULE.ranks for step in steps):
        if not isinstance(step, Overlapped):
            assert slow.of(step) == even.of(step) * (1.5 if step.stage == 15 else 1.0)
        elif step.forward.stage == 15:
            assert slow.of(step) == pytest.approx(2.4 * (1 + 0.5 / 3))
        elif step.backward.stage == 15:
            assert slow.of(step) == pytest.approx(2.4 * (1 + 0.5 * 2 / 3))
        else:
            assert slow.of(step) == 2.4


def test_closing_finds_the_least_that_is_enough_or_nothing() -> None:
    assert v3.closing(lambda x: 1.0 + x, 5.0) == pytest.approx(v3.BUBBLE - 1.0, abs=1e-4)
    assert v3.closing(lambda x: 1.0 + x, 1.0) is None
    assert v3.closing(lambda x: 3.0 + x, 5.0) is None
