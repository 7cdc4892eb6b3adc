"""Rounding to E4M3 and E5M2 gives the bytes of torch's own cast; E5M6 is checked against all of its values."""

import numpy as np
import pytest
import torch

from models.precision.formats import E4M3, E5M2, E5M6, Format

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


def test_e5m6_is_the_nearest_of_all_its_values_and_the_even_one_of_two():
    mantissas = np.arange(64)
    subnormal = mantissas * 2.0 ** (-14 - 6)
    normal = [(1 + mantissas / 64) * 2.0**e for e in range(-14, 16)]
    table = np.concatenate([subnormal, *normal])  # in order, so that an even index is an even mantissa
    assert table[-1] == E5M6.largest
    rng = np.random.default_rng(0)
    x = np.concatenate([np.exp2(rng.uniform(-24, 17, 20_000)), (table[1:] + table[:-1]) / 2, table]).astype(np.float32)
    after = np.clip(np.searchsorted(table, x), 1, len(table) - 1)
    low, high = table[after - 1], table[after]
    tie_to_low = (x - low == high - x) & ((after - 1) % 2 == 0)
    nearest = np.where((x - low < high - x) | tie_to_low, low, high)
    assert np.array_equal(E5M6.round_(torch.from_numpy(x.copy())).numpy(), nearest.astype(np.float32))
    assert torch.equal(torch.from_numpy(nearest).bfloat16().double(), torch.from_numpy(nearest)), "BF16 holds them"
