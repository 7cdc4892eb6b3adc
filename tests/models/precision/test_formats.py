"""Rounding to E4M3 and E5M2 gives the bytes of torch's own cast; formats that torch lacks are checked against all of
their values."""

import numpy as np
import pytest
import torch

from models.precision.formats import E4M1, E4M2, E4M3, E5M2, E5M6, Format

PATTERNS = 1 << 22


def fp32_values(format: Format) -> torch.Tensor:
    """Random bit patterns of all classes, and every code, every midpoint of two, and their neighbours in FP32."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (PATTERNS,), generator=generator, dtype=torch.int64).to(torch.int32)
    codes = torch.arange(256, dtype=torch.uint8).view(format.dtype).float()
    codes = codes[codes.isfinite()].unique()
    middles = (codes[1:] + codes[:-1]) / 2
    edges = torch.cat((codes, middles, torch.tensor([2.0**e for e in range(-149, 128)])))
    near = [edges, edges.nextafter(torch.tensor(torch.inf)), edges.nextafter(torch.tensor(-torch.inf))]
    return torch.cat((bits.view(torch.float32), *near, -torch.cat(near), torch.tensor([0.0, -0.0, torch.nan])))


@pytest.mark.parametrize("format", [E4M3, E5M2], ids=lambda f: f.name)
def test_codes_are_those_of_torchs_cast(format):
    x = fp32_values(format)
    x = x[~x.isinf()]
    assert len(x) > 4_150_000
    ours = format.round_(x.clone())
    theirs = x.clamp(-format.largest, format.largest).to(format.dtype)
    nan = x.isnan()
    assert nan.any() and ours[nan].isnan().all()
    assert torch.equal(ours[~nan], theirs[~nan].float()), "the same values, each a code's"
    signed = ours.copysign(x).to(format.dtype)
    assert torch.equal(signed[~nan].view(torch.uint8), theirs[~nan].view(torch.uint8)), "the same bytes"


def test_infinities_become_the_largest_code():
    x = torch.tensor([torch.inf, -torch.inf, 1e30])
    assert E4M3.round_(x.clone()).tolist() == [448.0, -448.0, 448.0]
    assert E5M2.round_(x.clone()).tolist() == [57344.0, -57344.0, 57344.0]


@pytest.mark.parametrize(
    ("format", "exponents"), [(E5M6, (-14, 15)), (E4M2, (-6, 8)), (E4M1, (-6, 8))], ids=lambda f: getattr(f, "name", "")
)
def test_a_format_that_torch_lacks_rounds_to_the_nearest_of_its_values_and_the_even_one_of_two(format, exponents):
    low, high = exponents
    steps = 2**format.mantissa_bits
    mantissas = np.arange(steps)
    subnormal = mantissas * 2.0**low / steps
    normal = [(1 + mantissas / steps) * 2.0**e for e in range(low, high + 1)]
    table = np.concatenate([subnormal, *normal])  # in order, so that an even index is an even mantissa
    assert table[-1] == format.largest
    rng = np.random.default_rng(0)
    draws = np.exp2(rng.uniform(low - 10, high + 2, 20_000))
    x = np.concatenate([draws, (table[1:] + table[:-1]) / 2, table]).astype(np.float32)
    after = np.clip(np.searchsorted(table, x), 1, len(table) - 1)
    low, high = table[after - 1], table[after]
    tie_to_low = (x - low == high - x) & ((after - 1) % 2 == 0)
    nearest = np.where((x - low < high - x) | tie_to_low, low, high)
    assert np.array_equal(format.round_(torch.from_numpy(x.copy())).numpy(), nearest.astype(np.float32))
    exact = torch.from_numpy(nearest)
    assert torch.equal(exact.to(format.dtype).double(), exact), "the type that codes are kept in holds them"
