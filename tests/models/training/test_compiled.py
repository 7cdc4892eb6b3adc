"""`train.compile`: the same training in fewer, larger kernels.

What torch has traced is run as it is (`aot_eager`), which shows in seconds what is traced, differentiated and guarded;
the kernels themselves, minutes of a C++ compiler's work, are checked with `-m slow`.
"""

import copy
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.waits import SIZES, merged
from models.base.typed import build
from models.config import ModelConfig
from models.training.compiled import compile_blocks, missing_compiler
from models.training.config import OptimConfig
from models.training.executor import Microbatching, update_routers
from models.training.optim import adamw
from models.transformer import Block, Transformer, initialise

torch.set_num_threads(1)

KINDS: dict[str, dict[str, Any]] = {
    "dense, MHA": {"n_layers": 1, "feed_forward": "dense", "attention": {"kind": "mha"}},
    "dense, MLA, MTP": {"n_layers": 1, "feed_forward": "dense", "mtp": {"depth": 2}},
    "MoE, MLA": {"n_layers": 4, "moe": {"balance": {"kind": "bias_aux_loss"}}},
}
GRAPHS = {"dense, MHA": (1, 0), "dense, MLA, MTP": (3, 0), "MoE, MLA": (8, 4)}
"""Graphs, and places where torch cannot go on: a graph for each kind of block and length, whatever the depth. In FP32
the experts break at both of their grouped products, and so do the layer and the block around them."""
STEPS = 6


def model_of(changes: dict[str, Any]) -> Transformer:
    config = build(ModelConfig, merged(SIZES | {"dtype": "float32"}, changes), "model")
    model = Transformer(config)
    initialise(model, 0, config.std)
    return model


def tokens(seed: int) -> Tensor:
    return torch.randint(SIZES["vocab_size"], (4, 17), generator=torch.Generator().manual_seed(seed))


def losses(model: Transformer, steps: int = STEPS) -> list[dict[str, float]]:
    """Of each step of a training in two microbatches."""
    optim = OptimConfig(lr=3e-3)
    executor, optimizer, found = Microbatching(model, 2), adamw(model, optim), []
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        result = executor.step(tokens(step % 2), step / steps)
        executor.clip(model.parameters(), optim.clip_norm)
        optimizer.step()
        update_routers(model, result, step / steps)
        found.append({name: float(value) for name, value in result.losses.items()})
    return found


def traced() -> tuple[int, int]:
    """Graphs, and places of breaks, since `fresh`."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def fresh() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def compared(kind: str, backend: str, tolerance: float = 5e-6) -> Transformer:
    """The compiled model after a training whose losses were those of the model as it is."""
    plain, model = model_of(KINDS[kind]), model_of(KINDS[kind])
    fresh()
    compile_blocks(model, backend)
    expected, found = losses(plain), losses(model)
    assert traced()[0] > 0, "something was compiled"
    assert expected[-2]["loss"] < expected[0]["loss"] - 0.01, "something was learned"
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert math.isclose(ours[name], theirs[name], rel_tol=0, abs_tol=tolerance), (step, name)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_are_those_of_the_model_as_it_is(kind: str) -> None:
    """To FP32's rounding, over six steps; few graphs; and nothing is compiled but in training."""
    model = compared(kind, "aot_eager")
    assert traced() == GRAPHS[kind]
    before = traced()
    with torch.no_grad():
        model.eval()(tokens(0)[:, :9])
    assert traced() == before
    plain = model_of(KINDS[kind])
    assert list(model.state_dict()) == list(plain.state_dict()), "checkpoints have the same names"
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(tokens(0)).logits, model(tokens(0)).logits)


def test_in_bf16_nothing_breaks_a_graph() -> None:
    """Nor the casts that microbatches share otherwise, nor a counting pass."""
    changes = {"dtype": "bfloat16", "n_layers": 2, "moe": {"balance": {"kind": "aux_loss", "scope": "batch"}}}
    plain, model = model_of(changes), model_of(changes)
    fresh()
    compile_blocks(model, "aot_eager")
    expected, found = losses(plain, 3), losses(model, 3)
    assert traced() == (4, 0), "dense and MoE, with a gradient and without"
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-3)


def test_a_copy_of_a_compiled_model_has_its_own_weights() -> None:
    model = model_of(KINDS["dense, MHA"])
    compile_blocks(model, "eager")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.model.layers.parameters():
            parameter.zero_()
        assert not torch.equal(other.train()(tokens(0)).logits, model.train()(tokens(0)).logits)


def test_without_it_no_compiler_is_on_the_path() -> None:
    fresh()
    model = model_of(KINDS["dense, MHA"])
    assert all(block.compiled is None for block in model.modules() if isinstance(block, Block))
    losses(model, 1)
    assert traced() == (0, 0)


@pytest.mark.skipif(missing_compiler("cpu") is not None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_too(kind: str) -> None:
    """Compiled in this process: those that would help it import torch first."""
    import torch._inductor.config

    with torch._inductor.config.patch(compile_threads=1):
        compared(kind, "inductor")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_in_bf16() -> None:
    changes = {"dtype": "bfloat16", "n_layers": 2}
    plain, model = model_of(changes).cuda(), model_of(changes).cuda()
    fresh()
    compile_blocks(model)
    with torch.device("cuda"):
        found, expected = (model(tokens(0).cuda()).logits.float() for model in (model, plain))
    assert traced() == (2, 0)
    assert torch.allclose(found, expected, atol=2e-2)


def test_what_a_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert missing_compiler("cpu") == "a C++ compiler (g++ or clang++ or c++; CXX names another)"
    assert missing_compiler("cuda") == "a C compiler (gcc or clang or cc; CC names another)"
    monkeypatch.setenv("CXX", "mine -O2")
    monkeypatch.setattr("shutil.which", lambda name: name if name == "mine" else None)
    monkeypatch.setattr("models.training.compiled._builds", lambda compiler: compiler == "mine -O2")
    assert missing_compiler("cpu") is None
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_compiler("cuda") == "triton"


@pytest.mark.skipif(sys.platform != "linux", reason="tried under Linux alone")
def test_a_compiler_that_cannot_build_a_kernel_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert missing_compiler("cpu") == f"OpenMP or Python's headers, which {compiler} cannot build with"
