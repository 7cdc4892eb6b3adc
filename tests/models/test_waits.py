"""A training step never makes the host wait for the device, but where it is said that it does."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from benchmarks.waits import KINDS, KNOWN, STEPS, reads_on_cpu, waits


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_asks_the_host_for_nothing(kind: str) -> None:
    assert waits(KINDS[kind]) == {}


@pytest.mark.parametrize("kind", KNOWN)
def test_what_asks_does_so_where_it_is_said(kind: str) -> None:
    changes, file = KNOWN[kind]
    found = waits(changes, masked=kind == "a mask of targets")
    assert found and {place.rpartition(" ")[2].partition(":")[0] for place in found} == {file}


def indexed(x: Tensor) -> Tensor:
    return x[x > 0]


def put(x: Tensor) -> Tensor:
    x[x > 0] = 1
    return x


ASKING = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "bincount": lambda x: torch.bincount(x, minlength=9),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x.clone()),
    "masked_select": lambda x: x.masked_select(x > 0),
    "mask as an index": indexed,
    "mask as a place": put,
    "repeat_interleave": lambda x: torch.repeat_interleave(x),
}


@pytest.mark.parametrize("name", ASKING)
def test_the_stand_in_sees(name: str) -> None:
    found: Counter[str] = Counter()
    with reads_on_cpu(found):
        ASKING[name](torch.arange(4))
    assert sum(found.values()) == 1 and "tests/models/test_waits.py:" in next(iter(found))


def test_the_stand_in_lets_pass_what_stays_on_the_device() -> None:
    found: Counter[str] = Counter()
    with reads_on_cpu(found):
        x = torch.arange(4).float().requires_grad_()
        (x[x.argsort()].masked_fill(x > 2, 0.0).sum() / x.new_ones(())).backward()
        torch.nn.utils.clip_grad_norm_([x], 1.0)
    assert found == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_never_waits(kind: str) -> None:
    """An error from torch, where it would."""
    assert waits(KINDS[kind], "cuda", refuse=True) == {} and STEPS > 2
