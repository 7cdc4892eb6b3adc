"""Speed of all arms in one process, in turn: trials contend for the machine, so their own rates are none."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from ablations.config.trialkeys import TrialKeys
from ablations.record.documents import Chunks
from ablations.trial.bare import train_steps
from ablations.trial.fitting import build_model, open_data
from models.checkpoint import load_checkpoint
from models.config import PipelineConfig
from models.decoding.generate import greedy
from models.decoding.speculative import self_speculative
from models.kinds import attention_of
from models.pipeline.measure import chunk_seconds
from models.training.batch import Batch
from models.training.optim import adamw
from models.transformer import Transformer, initialise, resolve_dtype
from tasks.prepared import Data

TRAINING_ROUNDS = 15
DECODING_ROUNDS = 3
CHUNK_ROUNDS = 20
PROMPTS = 16
"""Rows of one decoding batch; each is half a training sequence long, and the other half is decoded."""

Measured = dict[str, Any]
T = TypeVar("T")
At = Callable[[str], None]


def training_speed(arms: Mapping[str, TrialKeys], cache: str, at: At = lambda where: None) -> dict[str, list[float]]:
    """{arm: seconds per token of each round}. A round takes one step of every arm, in turns from the first and from the
    last. `at` hears of each arm and of each round before its turn."""
    running: dict[str, tuple[partial[None], TrialKeys]] = {}
    seconds: dict[str, list[float]] = {}
    for name, keys in arms.items():
        at(f"first step of {name}")
        batch = Batch.of(open_data(keys, cache).train_batch(0, 0)).to(keys.train.device)
        module = build_model(keys, 0).to(keys.train.device)
        optimizer = adamw(module.transformer, keys.optim, keys.model.precision.moments)
        step = partial(train_steps, module, [batch], keys, optimizer)
        torch.set_num_threads(keys.train.threads)
        step()  # the first makes the optimizer's moments and the kernels
        running[name], seconds[name] = (step, keys), []
    for done in range(TRAINING_ROUNDS):
        at(f"training speed, round {done + 1}")
        for name in list(running) if done % 2 == 0 else reversed(running):
            step, keys = running[name]
            torch.set_num_threads(keys.train.threads)
            taken, _ = _timed(step, keys.train.device)
            seconds[name].append(taken / keys.tokens_per_step)
    return seconds


def decoding_speed(
    arms: Mapping[str, TrialKeys], checkpoints: Mapping[str, str], cache: str, at: At = lambda where: None
) -> dict[str, Measured]:
    """{arm: those fields of `Speed` that decoding fills}: greedy with a cache, MLA absorbed; for an arm with MTP
    modules also self-speculative, against its own greedy decoding. Arms without a trained checkpoint are left out.
    """
    models: dict[str, tuple[Transformer, torch.Tensor, TrialKeys]] = {}
    for name, folder in checkpoints.items():
        if not (Path(folder) / "model.safetensors").is_file():
            continue
        keys = arms[name]
        model, _ = load_checkpoint(Path(folder), keys.train.device)
        models[name] = (model, _prompts(open_data(keys, cache), keys), keys)
    found: dict[str, Measured] = {name: {} for name in models}
    plain: dict[str, list[float]] = {name: [] for name in models}
    drafted: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(DECODING_ROUNDS):
        for name, (model, prompts, keys) in models.items():
            at(f"decoding of {name}")
            torch.set_num_threads(keys.train.threads)
            words = (model, prompts, keys.data.seq_len // 2, attention_of(keys.model).absorbs)
            taken, _ = _timed(partial(greedy, *words), keys.train.device)
            plain[name].append(taken)
            if keys.model.mtp.depth:
                taken, spoken = _timed(partial(self_speculative, *words), keys.train.device)
                drafted[name].append(taken)
                found[name]["speculative_tokens_per_forward"] = spoken.tokens_per_forward
                found[name]["speculative_acceptance"] = list(spoken.acceptance)
    for name, (_, prompts, keys) in models.items():
        found[name]["decode_tokens_per_second"] = len(prompts) * (keys.data.seq_len // 2) / min(plain[name])
        if drafted[name]:
            found[name]["speculative_speedup"] = min(plain[name]) / min(drafted[name])
    return found


def chunk_costs(arms: Mapping[str, TrialKeys], cache: str) -> dict[str, Chunks]:
    """{arm: seconds of a chunk per stage} of arms with a pipeline (models/pipeline/measure.py), in the type that this
    machine multiplies fastest. Arms that differ in their schedule alone share one measurement."""
    known: dict[str, Chunks] = {}
    found = {}
    for name, keys in arms.items():
        torch.set_num_threads(keys.train.threads)
        dtype: Any = resolve_dtype("auto", keys.train.device, keys.model.precision.recipe)
        fast = replace(
            keys.model,
            dtype=dtype,
            moe=replace(keys.model.moe, backend="grouped_mm"),
            pipeline=PipelineConfig(),
        )
        same = repr((fast, keys.model.pipeline.stages, keys.microbatches))
        if same not in known:
            data = open_data(keys, cache)
            model = Transformer(fast)
            initialise(model, 0, fast.std)
            rows = Batch.of(data.train_batch(0, 0)).tokens_BT1[: keys.data.batch_size // keys.microbatches]
            rows = rows.to(keys.train.device)
            stages = keys.model.pipeline.stages
            known[same] = chunk_seconds(model.to(keys.train.device), stages, rows, CHUNK_ROUNDS, keys.document_end)
        found[name] = known[same]
    return found


def _prompts(data: Data, keys: TrialKeys) -> torch.Tensor:
    """The beginnings of windows of the test split, (PROMPTS, seq_len / 2)."""
    windows = next(islice(data.evaluation_batches("test", PROMPTS * keys.data.seq_len, PROMPTS), 1))
    return Batch.of(windows).tokens_BT1[:, : keys.data.seq_len - keys.data.seq_len // 2]


def _timed(work: Callable[[], T], device: str) -> tuple[float, T]:
    """Seconds that `work` took, and what it returned."""
    started = time.perf_counter()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result
