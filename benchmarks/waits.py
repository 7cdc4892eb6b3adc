"""Where a training step makes the host wait for the device: it should nowhere.

    python -m benchmarks.waits                   # on a CPU: operations whose result the host must know, counted
    python -m benchmarks.waits --device cuda     # on a GPU: what torch.cuda.set_sync_debug_mode sees

Small models of each kind are trained by Lightning's Trainer as trials are. Looked at is all from the beginning of the
second step to the end of the last one: batches on their way to the device, forward, backward, clipping, optimizer, and
the balance. The last line is one JSON object; `ratio` is waits over steps, of all kinds that need none.
"""

import argparse
import json
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from models.base.typed import build
from models.config import ModelConfig
from models.module import Course, LanguageModel
from models.training.batch import Batch
from models.training.config import OptimConfig

ROOT = Path(__file__).resolve().parents[1]
STEPS, ROWS, LENGTH = 4, 4, 32
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "n_layers": 2,
    "first_k_dense": 1,
    "intermediate_size": 64,
    "attention": {
        "n_heads": 2,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "head_dim": 16,
    },
    "moe": {"n_routed_experts": 8, "n_shared_experts": 1, "top_k": 2, "moe_intermediate_size": 32},
}
FP8 = {"recipe": "fp8_block", "block": 16}
KINDS: dict[str, dict[str, Any]] = {
    "dense, MHA": {"feed_forward": "dense", "attention": {"kind": "mha"}},
    "dense, MLA": {"feed_forward": "dense"},
    "MoE, bias": {"moe": {"balance": {"kind": "bias"}}},
    "MoE, aux_loss": {"moe": {"balance": {"kind": "aux_loss"}}},
    "MoE, aux_loss over the batch": {"moe": {"balance": {"kind": "aux_loss", "scope": "batch"}}},
    "MoE, bias_aux_loss, groups": {
        "moe": {"balance": {"kind": "bias_aux_loss"}, "n_group": 4, "topk_group": 2},
    },
    "MTP": {"mtp": {"depth": 2}},
    "FP8 emulated": {"precision": FP8},
    "FP8 emulated, all that V3 does": {
        "precision": {**FP8, "dispatch": "fp8", "e5m6_after_attention": True, "recompute_swiglu": True}
    },
}
"""What needs no wait."""
KNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "moments in BF16": ({"precision": {"moments": "bf16"}}, "models/training/optim.py"),
    "a mask of targets": ({}, "models/training/executor.py"),
    "one expert after another": ({"moe": {"backend": "loop"}}, "models/moe.py"),
}
"""What does, and the one file where: an optimizer's step counts are numbers on the host on any device; how much each
microbatch weighs depends on the mask, and a batch in which nothing counts is refused on the spot; a loop must know how
many rows each expert has."""

HOST_MUST_KNOW = (
    *("_local_scalar_dense", "nonzero", "masked_select", "bincount", "histc", "equal", "is_nonzero"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "nonzero_numpy"),
)
"""Operations whose result, or its size, the host waits for."""
HOST_TAKES = ("tolist", "numpy", "cpu", "__array__")
"""Methods that hand the host numbers, on a CPU without any operation."""


class Operations(TorchDispatchMode):
    """Counts them by place: a stand-in for a GPU that would have waited."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_", "index_put") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        sizeless = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in HOST_MUST_KNOW or masked or sizeless:
            self.found[f"{name} at {_place()}"] += 1
        return func(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    """The same of methods."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := getattr(func, "__name__", "")) in HOST_TAKES:
            self.found[f"{name} at {_place()}"] += 1
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """The innermost line of this project, or else of Lightning or torch."""
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.endswith("benchmarks/waits.py")]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    frame = (own or frames)[-1]
    path = Path(frame.filename)
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{frame.lineno}"


@contextmanager
def reads_on_cpu(found: Counter[str]) -> Iterator[None]:
    """With the experts' rows laid out as a GPU has them."""
    with patch("models.moe.host_counts", lambda device: False), Methods(found), Operations(found):
        yield


@contextmanager
def waits_on_gpu(found: Counter[str], refuse: bool = False) -> Iterator[None]:
    """What torch calls a synchronisation; with `refuse` the first one is an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("error" if refuse else "warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchronizing CUDA operation" in str(warning.message):
            found[f"{warning.filename}:{warning.lineno}"] += 1


class Watched(lightning.Callback):
    """Looks on from the beginning of the second step to the end of the last."""

    def __init__(self, device: str, refuse: bool) -> None:
        self.found: Counter[str] = Counter()
        self.watching = reads_on_cpu(self.found) if device == "cpu" else waits_on_gpu(self.found, refuse)

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 1:
            self.watching.__enter__()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            self.watching.__exit__(None, None, None)


def waits(changes: dict[str, Any], device: str = "cpu", masked: bool = False, refuse: bool = False) -> Counter[str]:
    """Those of all steps but the first, by place, in the training of a small model with these keys changed; on a GPU,
    where they are refused, an error from torch."""
    dtype = {"dtype": "float32" if device == "cpu" else "bfloat16"}
    if "precision" in changes and "recipe" in changes["precision"]:
        dtype = {"dtype": "bfloat16"}
    config = build(ModelConfig, merged(SIZES | dtype, changes), "model")
    module = LanguageModel(config, OptimConfig(), Course(STEPS, microbatches=2, read_every=10 * STEPS), seed=0)
    tokens = torch.randint(config.vocab_size, (STEPS, ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(LENGTH) % 2 == 0).expand(ROWS, LENGTH) if masked else None
    watched = Watched(device, refuse)
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        gradient_clip_val=1.0,
        callbacks=[watched],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches: Any = [Batch(rows, mask) for rows in tokens]
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert trainer.global_step == STEPS
    return watched.found


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `changes`."""
    both = dict(base)
    for key, value in changes.items():
        both[key] = merged(both.get(key, {}), value) if isinstance(value, dict) else value
    return both


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="three kinds: does it run")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("waits: torch sees no CUDA device on this machine; leave --device out", file=sys.stderr)
        return 2
    from ablations.trial.fitting import quiet_lightning

    quiet_lightning()
    torch.set_num_threads(1)
    few = 1 if arguments.quick else None
    found = {name: waits(changes, arguments.device) for name, changes in [*KINDS.items()][:few]}
    known = {
        name: waits(keys, arguments.device, name == "a mask of targets")
        for name, (keys, _) in [*KNOWN.items()][: few and 2]
    }
    for name, places in (found | known).items():
        print(f"{name:>34} {sum(places.values()):4} waits in {STEPS - 1} steps  {'  '.join(sorted(places))}")
    total = sum(sum(places.values()) for places in found.values())
    result = {
        "benchmark": "waits",
        "device": arguments.device,
        "steps": STEPS - 1,
        "waits": found,
        "known": known,
        "ratio": round(total / (STEPS - 1) / len(found), 3),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
