"""The batch-size ramp: the same tokens in more, smaller steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.config import DataConfig, batch_count, ramped

V3 = {"ramp_from": 3072 / 15360, "ramp_over": 469 / 14_800}


@given(
    full=st.integers(1, 12),
    microbatches=st.sampled_from([1, 2, 3, 4, 8]),
    batches=st.integers(1, 400),
    ramp_from=st.floats(1e-3, 1.0),
    ramp_over=st.floats(1e-3, 1.0),
)
def test_a_ramp_takes_every_sequence_once_in_growing_steps(
    full: int, microbatches: int, batches: int, ramp_from: float, ramp_over: float
) -> None:
    size = full * microbatches
    sequences = batches * size
    data = DataConfig(batch_size=size, ramp_from=ramp_from, ramp_over=ramp_over)
    made = list(ramped(sequences, data, microbatches))
    assert batch_count(sequences, data, microbatches) == len(made)
    sizes = [count for _, count in made]
    assert [first for first, _ in made] == [sum(sizes[:t]) for t in range(len(sizes))], "each begins where one ended"
    assert sum(sizes) == sequences, "no token is lost to a ramp"
    assert all(count > 0 and count % microbatches == 0 for count in sizes), "or they would not divide"
    assert sizes[:-1] == sorted(sizes[:-1]) and max(sizes) <= size
    assert all(count == size for first, count in made[:-1] if first >= ramp_over * sequences)
    assert len(made) >= batches
    assert sizes[0] == min(sequences, max(microbatches, round(ramp_from * size / microbatches) * microbatches))


@given(full=st.integers(1, 64), batches=st.integers(1, 100), ramp_over=st.floats(1e-3, 1.0))
def test_without_a_ramp_all_batches_are_alike(full: int, batches: int, ramp_over: float) -> None:
    made = list(ramped(full * batches, DataConfig(batch_size=full, ramp_over=ramp_over), 1))
    assert made == [(t * full, full) for t in range(batches)]
    rest = full * batches + 1
    assert batch_count(rest, DataConfig(batch_size=full), 1) == len(ramped(rest, DataConfig(batch_size=full), 1))


def test_v3s_own_ramp() -> None:
    """V3 4.2: from 3072 to 15360 sequences of 4K tokens over the first 469B of 14.8T tokens."""
    batch, length = 15_360, 4096
    sequences = round(14.8e12 / length / batch) * batch
    made = list(ramped(sequences, DataConfig(batch_size=batch, **V3), 1))
    sizes = [count for _, count in made]
    assert sizes[0] == 3072 and sizes[-2] == 15_360
    growing = sum(count for count in sizes if count < batch) * length
    assert growing == pytest.approx(469e9, rel=0.001)
    half = next(count for first, count in made if first * length >= 469e9 / 2)
    assert half == pytest.approx((3072 + 15_360) / 2, rel=0.001), "linear in the tokens seen"
    extra = len(made) - sequences // batch
    # ds/dx = 0.8/X_r: the ramp takes X_r ln(5) / 0.8 batches where a constant size takes X_r.
    assert extra == pytest.approx(469e9 / length / batch * (1.6094 / 0.8 - 1), rel=0.01)


def test_a_ramp_over_the_whole_training_only_reaches_the_full_batch_at_its_end() -> None:
    sizes = [count for _, count in ramped(96, DataConfig(batch_size=8, ramp_from=0.25, ramp_over=1.0), 2)]
    assert sizes[:-1] == sorted(sizes[:-1]) and sum(sizes) == 96 and len(sizes) > 12
    assert (sizes[0], sizes[-2], sizes[-1]) == (2, 8, 6), "the last one takes what is left"
