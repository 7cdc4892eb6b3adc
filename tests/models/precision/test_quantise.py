"""Scales, codes and values against a plain loop over pieces, whatever the sizes, edges and bands."""

import pytest
import torch

from models.precision import quantise as module
from models.precision.formats import E4M3, E5M2, E5M6
from models.precision.quantise import Codes, Rounding, quantise, quantised, rounded

SIZES = {"tile": (1, 4), "block": (4, 4), "row": (1, 22), "tensor": (13, 22)}


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, columns, generator=generator)
    return wide * torch.exp2(torch.randint(-30, 6, (rows, columns), generator=generator).float())


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("format", [E4M3, E5M2], ids=lambda f: f.name)
@pytest.mark.parametrize("granularity", SIZES)
def test_codes_and_scales_are_those_of_a_plain_loop(granularity, format, power_of_two, reference):
    x = matrix(13, 22)  # neither divides by the block
    found = quantise(x, Rounding(format, granularity, 4, power_of_two))
    codes, scales = reference.quantised(x, SIZES[granularity], format.dtype, power_of_two)
    assert found.size == SIZES[granularity]
    assert torch.equal(found.scales, scales)
    assert torch.equal(found.codes.view(torch.uint8), codes.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("granularity", SIZES)
def test_values_are_codes_times_scales_with_and_without_codes(granularity, dtype, reference):
    x, rounding = matrix(13, 22).to(dtype), Rounding(E4M3, granularity, 4)
    plain = reference.values(x, SIZES[granularity])
    found, codes = quantised(x, rounding)
    for way in (found, rounded(x, rounding), codes.values(dtype)):
        assert way.dtype == dtype and torch.equal(way, plain)


@pytest.mark.parametrize("granularity", SIZES)
def test_the_size_of_a_band_changes_nothing(granularity, monkeypatch):
    x, rounding = matrix(40, 36), Rounding(E4M3, granularity, 8)
    whole, codes = quantised(x, rounding)
    for elements in (1, 36, 100, 1000):
        monkeypatch.setattr(module, "BAND_ELEMENTS", elements)
        banded, others = quantised(x, rounding)
        assert torch.equal(whole, banded) and torch.equal(codes.scales, others.scales)
        assert torch.equal(others.values(torch.float32), whole)


@pytest.mark.parametrize("granularity", SIZES)
def test_a_stack_is_its_matrices_one_by_one(granularity):
    stack, rounding = torch.stack([matrix(12, 20, seed) for seed in range(3)]), Rounding(E4M3, granularity, 4)
    together = quantise(stack, rounding)
    for e, alone in enumerate(quantise(one, rounding) for one in stack):
        assert torch.equal(together.scales[e], alone.scales)
        assert torch.equal(together.codes[e].view(torch.uint8), alone.codes.view(torch.uint8))


@pytest.mark.parametrize("format", [E4M3, E5M2, E5M6], ids=lambda f: f.name)
def test_zeros_stay_zeros_nan_stays_nan_and_an_infinity_shows(format):
    x = torch.zeros(3, 8)
    x[0] = torch.tensor([1.0, -2, 3, 0, 0, 0, 0, 0])
    x[1, 1], x[2, 6] = torch.nan, torch.inf
    found = rounded(x, Rounding(format, "tile", 4))
    assert found[0, :3].isfinite().all() and (found[0, 3:] == 0).all(), "a tile of zeros has no NaN"
    assert found[1, :4].isnan().any() and (found[1, 4:] == 0).all()
    assert found[2, 4:].isnan().all() and (found[2, :4] == 0).all(), "an infinite tile is not hidden"


def test_rounding_errs_by_at_most_half_a_step():
    x = matrix(64, 128)
    found = rounded(x, Rounding(E4M3, "tile", 16))
    largest = x.view(64, 8, 16).abs().amax(-1, keepdim=True).expand(64, 8, 16).reshape(64, 128)
    assert ((found - x).abs() <= torch.maximum(x.abs() / 16, largest / 448 * 2.0**-10) * (1 + 1e-5)).all()
    assert (found - x).norm() / x.norm() > 0.005, "and it does round"


def test_power_of_two_scales_are_exact_in_bf16_and_rounding_again_changes_nothing():
    x, rounding = matrix(32, 64).bfloat16(), Rounding(E4M3, "tile", 16, power_of_two=True)
    codes = quantise(x, rounding)
    once = rounded(x, rounding)
    assert torch.equal(once.float(), codes.values(torch.float32)), "BF16 holds code * scale"
    assert torch.equal(rounded(once, rounding), once)
    mantissas, _ = torch.frexp(codes.scales)
    assert (mantissas == 0.5).all() and (codes.scales >= quantise(x, Rounding(E4M3, "tile", 16)).scales).all()


def test_codes_are_one_byte_and_count_their_scales():
    codes = quantise(matrix(8, 32), Rounding(E4M3, "tile", 16))
    assert isinstance(codes, Codes) and codes.nbytes == 8 * 32 + 4 * 8 * 2
