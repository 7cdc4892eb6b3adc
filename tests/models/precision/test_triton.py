"""Triton's quantisation against torch's, and its products against FP64 products of the same codes.

On a Hopper GPU the kernels run compiled. Elsewhere they run in Triton's interpreter, in one process for all checks, as
Triton must be told before it is imported. The interpreter casts FP32 to E4M3 wrongly (ties, carries), so there the
operands are quantised in torch, and the quantising kernels see only values that E4M3 holds.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
E4M3, TILE = torch.float8_e4m3fn, 128
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)

Check = Callable[[str], None]
CHECKS: dict[str, Check] = {}
"""What both kinds of kernel must pass, given a device."""


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def uneven(rows: int, columns: int, seed: int) -> Tensor:
    """Random, and every 128x128 block has its own magnitude, so that a scale from the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(-3, 4, (-(-rows // TILE), -(-columns // TILE)), generator=generator)
    return torch.randn(rows, columns, generator=generator) * spread(2.0**blocks, rows, columns)


def spread(scales: Tensor, rows: int, columns: int) -> Tensor:
    """(rows, columns): the scale of each element, given one per 128x128 block or per 1x128 tile."""
    if scales.shape[0] != rows or rows == 1:
        scales = scales.repeat_interleave(TILE, dim=0)[:rows]
    return scales.repeat_interleave(TILE, dim=1)[:, :columns]


def scales_of(x: Tensor, height: int, power_of_two: bool = False) -> Tensor:
    """amax / 448 of each tile of `height` x 128, tile by tile."""
    parts = [[part.abs().amax() for part in band.split(TILE, dim=1)] for band in x.split(height)]
    scales = (torch.tensor(parts) / 448).clamp_min(2.0**-126)
    return torch.exp2(torch.ceil(torch.log2(scales.double()))).float() if power_of_two else scales


def quantised(x: Tensor, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales, and the values that they stand for in FP64. `height` is 1 for tiles and 128 for blocks."""
    scales = scales_of(x, height)
    codes = (x / spread(scales, *x.shape)).to(E4M3)
    return codes, scales, codes.double() * spread(scales, *x.shape)


def assert_close(ours: Tensor, exact: Tensor, tolerance: float | None = None) -> None:
    """Every element, relative to the root mean square of the product. Hopper sums 128 products in some 14 bits."""
    tolerance = tolerance or (5e-3 if ours.is_cuda else 5e-6)
    error = float((ours.cpu().double() - exact).abs().max() / exact.square().mean().sqrt())
    assert ours.shape == exact.shape and error < tolerance, f"off by {error:.1e} of the root mean square"


def product(device: str, rows: int, columns: int, inner: int, height: int) -> tuple[list[Tensor], Tensor]:
    """Operands of `gemm` and the exact product."""
    a, a_scales, a_exact = quantised(uneven(rows, inner, 1), 1)
    b, b_scales, b_exact = quantised(uneven(columns, inner, 2), height)
    return [t.to(device) for t in (a, a_scales, b, b_scales)], a_exact @ b_exact.T


@check
def tiles_by_blocks(device: str) -> None:
    from models.precision.triton_gemm import gemm

    for sides in [(200, 300, 5 * TILE), (128, 256, 2 * TILE), (1, 129, TILE), (130, 100, 200)]:
        operands, exact = product(device, *sides, height=TILE)
        assert_close(gemm(*operands, out_dtype=torch.float32), exact)


@check
def tiles_by_tiles(device: str) -> None:
    from models.precision.triton_gemm import gemm

    for sides in [(200, 300, 5 * TILE), (130, 100, 200)]:
        operands, exact = product(device, *sides, height=1)
        assert_close(gemm(*operands, out_dtype=torch.float32), exact)


@check
def scales_of_any_strides_and_a_bf16_product(device: str) -> None:
    from models.precision.triton_gemm import gemm

    (a, a_scales, b, b_scales), exact = product(device, 70, 260, 3 * TILE, height=TILE)
    turned = [scales.t().contiguous().t() for scales in (a_scales, b_scales)]
    ours = gemm(a, turned[0], b, turned[1])
    assert ours.dtype == torch.bfloat16 and turned[0].stride() != a_scales.stride()
    assert torch.equal(ours, gemm(a, a_scales, b, b_scales))
    assert_close(ours, exact, 2**-4)


def rows_of_experts(device: str, counts: list[int], columns: int, inner: int) -> None:
    from models.precision.triton_gemm import grouped_gemm

    ends = torch.tensor(counts).cumsum(0)
    a, a_scales, a_exact = quantised(uneven(int(ends[-1]), inner, 1), 1)
    experts = [quantised(uneven(columns, inner, seed), TILE) for seed in range(2, 2 + len(counts))]
    b, b_scales, b_exact = (torch.stack(list(part)) for part in zip(*experts, strict=True))
    operands = [t.to(device) for t in (a, a_scales, b, b_scales, ends.to(torch.int32))]
    exact = [rows @ matrix.T for rows, matrix in zip(a_exact.split(counts), b_exact, strict=True)]
    assert_close(grouped_gemm(*operands, out_dtype=torch.float32), torch.cat(exact))


@check
def grouped_rows(device: str) -> None:
    for counts in [[0, 130, 0, 1, 260, 0], [128, 128, 256], [300], [0, 0, 5]]:
        rows_of_experts(device, counts, 200, 2 * TILE + 72)


@check
def grouped_rows_stop_at_the_last_offset(device: str) -> None:
    from models.precision.triton_gemm import grouped_gemm

    a, a_scales, a_exact = quantised(uneven(300, TILE, 1), 1)
    b, b_scales, b_exact = quantised(uneven(TILE, TILE, 2), TILE)
    offsets = torch.tensor([150], dtype=torch.int32)
    operands = [t.to(device) for t in (a, a_scales, b[None], b_scales[None], offsets)]
    assert_close(grouped_gemm(*operands, out_dtype=torch.float32)[:150], a_exact[:150] @ b_exact.T)


def weights_of_experts(device: str, counts: list[int], rows: int, columns: int) -> None:
    from models.precision.triton_gemm import grouped_wgrad

    ends = torch.tensor(counts).cumsum(0)
    a, a_scales, a_exact = quantised(uneven(rows, int(ends[-1]), 1), 1)
    b, b_scales, b_exact = quantised(uneven(columns, int(ends[-1]), 2), 1)
    operands = [t.to(device) for t in (a, a_scales, b, b_scales, ends.to(torch.int32))]
    pairs = zip(a_exact.split(counts, dim=1), b_exact.split(counts, dim=1), strict=True)
    ours, exact = grouped_wgrad(*operands, out_dtype=torch.float32), torch.stack([x @ y.T for x, y in pairs])
    assert_close(ours, exact)
    assert all(not ours[e].any() for e, count in enumerate(counts) if not count)


@check
def weight_gradients_of_groups(device: str) -> None:
    for counts in [[128, 0, 384], [0, 256], [128]]:
        weights_of_experts(device, counts, 140, 72)


@check
def every_size_of_tile(device: str) -> None:
    """Elsewhere only those run that win on a GPU, or the first in the interpreter, which knows no warps and stages."""
    from models.precision import triton_gemm_kernels as ours
    from models.precision.triton_gemm import gemm

    kernels = (ours.gemm_kernel, ours.grouped_kernel, ours.grouped_wgrad_kernel)
    tried = kernels[0].configs
    sizes = {str(config.kwargs): config for config in ours.CONFIGS}.values()
    try:
        for config in sizes if device == "cpu" else ours.CONFIGS:
            for kernel in kernels:
                kernel.configs = [config]
            for height in (1, TILE):
                operands, exact = product(device, 150, 130, TILE, height)
                assert_close(gemm(*operands, out_dtype=torch.float32), exact)
            rows_of_experts(device, [140, 0, 9], 130, TILE)
            weights_of_experts(device, [TILE, 0], 150, 72)
    finally:
        for kernel in kernels:
            kernel.configs = tried


@check
def one_scale_for_all(device: str) -> None:
    """On Hopper the sums that are not promoted lose bits, which this tolerance allows."""
    from models.precision.triton_gemm import gemm_tensor_scaled

    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(rows, 9 * TILE + 40, generator=generator).to(E4M3) for rows in (140, 30))
    exact = a.double() @ b.double().T * 0.25
    scale = torch.tensor([0.25], device=device)
    for every in (32, 64, 128, 512, None):
        ours = gemm_tensor_scaled(a.to(device), b.to(device), scale, every)
        assert_close(ours, exact, 5e-6 if device == "cpu" else 2e-2)


def held_exactly(rows: int, columns: int) -> Tensor:
    """Whole numbers up to 15, and 448 at least once in every row and every column of each 128x128 block, times a power
    of two per block and one per row. All scales are then powers of two, and E4M3 holds every value."""
    x = torch.randint(-15, 16, (rows, columns), generator=torch.Generator().manual_seed(4)).float()
    for number, band in enumerate(x.split(TILE)):
        for place, block in enumerate(band.split(TILE, dim=1)):
            i, j = torch.meshgrid(*(torch.arange(side) for side in block.shape), indexing="ij")
            block[(i - j) % min(block.shape) == 0] = 448
            block *= 2.0 ** (3 * number - 4 * place + i % 3)
    return x


@check
def tiles_give_their_values_back(device: str) -> None:
    from models.precision.triton_quantise import quantise_tiles

    for x in (held_exactly(200, 300), held_exactly(3, 128).bfloat16()):
        codes, scales = quantise_tiles(x.to(device))
        assert codes.is_contiguous() and codes.dtype == E4M3 and scales.stride() == (1, len(x))
        assert torch.equal(scales.cpu(), scales_of(x, 1))
        assert torch.equal(codes.cpu().float() * spread(scales.cpu(), *x.shape), x.float())


@check
def both_ways_give_their_values_back(device: str) -> None:
    from models.precision.triton_quantise import quantise_both_ways

    for x in (held_exactly(200, 300), held_exactly(256, 128).bfloat16()):
        codes, scales, codes_T, scales_T = quantise_both_ways(x.to(device))
        for found, found_scales, values in ((codes, scales, x), (codes_T, scales_T, x.T)):
            assert found.shape == values.shape and found.is_contiguous()
            assert torch.equal(found.cpu().float() * spread(found_scales.cpu(), *values.shape), values.float())


@check
def blocks_give_their_values_back(device: str) -> None:
    from models.precision.triton_quantise import quantise_blocks

    w = torch.stack([held_exactly(200, 300), held_exactly(300, 200).T * 8])
    for given in (w, w[1].bfloat16()):
        codes, scales, codes_T, scales_T = quantise_blocks(given.to(device))
        assert codes_T.shape == given.mT.shape and codes_T.is_contiguous() and scales_T.shape == scales.mT.shape
        many = zip(*(t.cpu().view(-1, *t.shape[-2:]) for t in (codes, scales, codes_T, scales_T, given)), strict=True)
        for one, its_scales, turned, turned_scales, values in many:
            assert torch.equal(one.float() * spread(its_scales, *values.shape), values.float())
            assert torch.equal(turned.float() * spread(turned_scales, *values.T.shape), values.T.float())


@check
def scales_are_amax_over_448_or_the_next_power_of_two(device: str) -> None:
    from models.precision.triton_quantise import quantise_blocks, quantise_both_ways, quantise_tiles

    x = uneven(150, 260, 5)
    x[9, :TILE] = 448 * 2.0**-3 * torch.linspace(-1, 1, TILE)  # its scale is a power of two, and stays
    x[7, :TILE] = 1e-38
    x[3], x[:, 5], x[128:, 128:256] = 0, 0, 0
    for power_of_two in (False, True):
        rows, columns, blocks = (scales_of(y, h, power_of_two) for y, h in ((x, 1), (x.T, 1), (x, TILE)))
        given = x.to(device)
        _, tile_scales = quantise_tiles(given, power_of_two)
        codes, row_scales, codes_T, column_scales = quantise_both_ways(given, power_of_two)
        _, block_scales, _, _ = quantise_blocks(given, power_of_two)
        pairs = ((tile_scales, rows), (row_scales, rows), (column_scales, columns), (block_scales, blocks))
        assert all(torch.equal(found.cpu(), expected) for found, expected in pairs)
        assert not codes[3].float().any() and not codes_T[5].float().any(), "a tile of zeros has codes 0, not NaN"


@check
def products_of_a_layer_and_of_experts(device: str) -> None:
    """As models/precision/linear.py asks for them, on codes made by torch."""
    from models.balance import Routing
    from models.moe import lay_out
    from models.precision.formats import E4M3 as FORMAT
    from models.precision.quantise import Codes, Rounding, quantise
    from models.precision.triton_products import TritonProducts

    products = TritonProducts(torch.float32)
    tile, block = (Rounding(FORMAT, granularity, TILE) for granularity in ("tile", "block"))

    def coded(x: Tensor, rounding: Rounding = tile) -> Codes:
        return quantise(x.contiguous().to(device), rounding)

    def exact(codes: Codes) -> Tensor:
        return codes.values(torch.float64).cpu()

    x, w, dy = coded(uneven(140, 200, 1)), coded(uneven(300, 200, 2), block), coded(uneven(140, 300, 3))
    assert_close(products.dense(x, w), exact(x) @ exact(w).T)
    assert_close(products.dense(dy, products.transposed(w)), exact(dy) @ exact(w))

    experts_NK = torch.tensor([[0, 2], [2, 3], [0, 3], [2, 0]])
    gates, load = torch.rand(4, 2), torch.bincount(experts_NK.flatten(), minlength=4)
    layout = lay_out(
        Routing(gates[None], experts_NK.to(device), gates.to(device), load.to(device)), TILE, torch.float32
    )
    tokens = coded(uneven(4, 200, 4))
    rows = products.dispatched(tokens, layout)
    assert torch.equal(exact(rows), layout.rows_of(tokens.values(torch.float64)).cpu())
    stack = coded(torch.stack([uneven(300, 200, seed) for seed in range(5, 9)]), block)
    whole = torch.cat(
        [part @ e.T for part, e in zip(exact(rows).split(layout.rows_E.tolist()), exact(stack), strict=True)]
    )
    assert_close(products.grouped(rows, stack, layout.rows_E), whole)
    left, right = coded(uneven(150, len(layout.token_R), 9)), coded(uneven(70, len(layout.token_R), 10))
    parts = [exact(codes).split(layout.rows_E.tolist(), dim=1) for codes in (left, right)]
    each = torch.stack([a @ b.T for a, b in zip(*parts, strict=True)])
    assert_close(products.contracted(left, right, layout.rows_E), each)

    held = held_exactly(200, 300).to(device)
    for values, rounding in ((held, tile), (held.T, tile), (held, block)):
        operand, same = products.operand_and_codes(values, rounding, torch.float32)
        assert operand is same and torch.equal(operand.values(torch.float32), values)


@pytest.mark.skipif(HOPPER, reason="the compiled kernels are checked instead")
def test_interpreted() -> None:
    """One test, so that one process runs all checks however tests are spread."""
    pytest.importorskip("triton", minversion="3.7", reason="earlier interpreters cannot loop up to a tensor's value")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(CHECKS)
    failed = "\n".join(f"{name}: {text}" for name, text in found.items() if text)
    assert not failed, failed


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.0")
@pytest.mark.parametrize("name", CHECKS)
def test_compiled(name: str) -> None:
    CHECKS[name]("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.0")
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_codes_are_torchs_bit_for_bit(dtype: torch.dtype, power_of_two: bool) -> None:
    from models.precision.triton_quantise import quantise_blocks, quantise_both_ways, quantise_tiles

    x = (uneven(1000, 1300, 6) * torch.exp2(torch.randn(1000, 1300) * 4)).to(dtype)
    x[5], x[6], x[:, 130:250] = 0, -0.0, 0
    x[7] = (torch.arange(1300) % 449 - 224.5).to(dtype)  # ties
    given = x.cuda()
    codes, scales, codes_T, scales_T = quantise_both_ways(given, power_of_two)
    tile_codes, tile_scales = quantise_tiles(given, power_of_two)
    block_codes, block_scales, block_codes_T, _ = quantise_blocks(given, power_of_two)
    cases = [(codes, scales, x, 1), (codes_T, scales_T, x.T, 1), (tile_codes, tile_scales, x, 1)]
    cases += [(block_codes, block_scales, x, TILE)]
    for found, found_scales, values, height in cases:
        expected = scales_of(values.float(), height, power_of_two)
        assert torch.equal(found_scales.cpu(), expected)
        quotients = (values.float() / spread(expected, *values.shape)).clamp(-448, 448)
        assert torch.equal(found.cpu().view(torch.uint8), quotients.to(E4M3).view(torch.uint8))
    assert torch.equal(block_codes_T.view(torch.uint8), block_codes.T.view(torch.uint8))


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.0")
def test_nan_and_inf_reach_the_product() -> None:
    from models.precision.triton_gemm import gemm
    from models.precision.triton_quantise import quantise_blocks, quantise_tiles

    x, w = torch.randn(256, 256, device="cuda"), torch.randn(256, 256, device="cuda")
    x[3, 7], x[200, 130] = float("nan"), float("inf")
    out = gemm(*quantise_tiles(x), *quantise_blocks(w)[:2])
    assert out.isnan().all(dim=1).nonzero().flatten().tolist() == [3, 200] and int(out.isnan().sum()) == 2 * 256


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.0")
def test_a_pipelined_product_repeats_itself() -> None:
    """Scales that race would differ now and then."""
    from models.precision.triton_gemm import gemm
    from models.precision.triton_quantise import quantise_blocks, quantise_tiles

    x, w = uneven(2048, 4096, 7).cuda(), uneven(2048, 4096, 8).cuda()
    operands = (*quantise_tiles(x), *quantise_blocks(w)[:2])
    first = gemm(*operands)
    assert all(torch.equal(first, gemm(*operands)) for _ in range(20))


def test_errors_name_the_argument_and_the_rule() -> None:
    pytest.importorskip("triton")
    from models.precision import triton_gemm, triton_quantise

    codes, scales, offsets = torch.zeros(256, 256).to(E4M3), torch.ones(256, 2), torch.ones(2, dtype=torch.int32)
    for words, call in {
        "a_MK is torch.float32: must be torch.float8_e4m3fn": lambda: triton_gemm.gemm(
            codes.float(), scales, codes, scales
        ),
        r"b_scales has shape \(256, 1\): must be \(2, 2\)": lambda: triton_gemm.gemm(
            codes, scales, codes, torch.ones(256, 1)
        ),
        "a_scales is torch.bfloat16: must be torch.float32": lambda: triton_gemm.gemm(
            codes, scales.bfloat16(), codes, scales
        ),
        r"b_NK has shape \(256, 128\): its last side must be the first operand's, 256": lambda: triton_gemm.gemm(
            codes, scales, codes[:, :128].contiguous(), scales
        ),
        "b_NK has strides .*: must be contiguous": lambda: triton_gemm.gemm(codes, scales, codes.T, scales),
        "out_dtype is torch.float16: must be torch.bfloat16 or torch.float32": lambda: triton_gemm.gemm(
            codes, scales, codes, scales, torch.float16
        ),
        r"offsets_E is torch.int64 \(2,\): must be torch.int32": lambda: triton_gemm.grouped_wgrad(
            codes, scales, codes, scales, offsets.long()
        ),
        "a_MR has 200 columns: must be a multiple of 128": lambda: triton_gemm.grouped_wgrad(
            codes[:, :200].contiguous(), scales, codes[:, :200].contiguous(), scales, offsets
        ),
        r"b_ENK has shape \(256, 256\): must have 3 dimensions": lambda: triton_gemm.grouped_gemm(
            codes, scales, codes, scales, offsets
        ),
        "promote_every is 100: must be 32, 64, a multiple of 128, or None": lambda: triton_gemm.gemm_tensor_scaled(
            codes, codes, torch.ones(1), 100
        ),
        "x_MK is torch.float16: must be torch.bfloat16 or torch.float32": lambda: triton_quantise.quantise_tiles(
            torch.zeros(2, 2).half()
        ),
        r"w has shape \(4,\): must have 2 or 3 dimensions": lambda: triton_quantise.quantise_blocks(torch.zeros(4)),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def main() -> None:
    found = {}
    for name, function in CHECKS.items():
        try:
            function("cpu")
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc(limit=-4)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
