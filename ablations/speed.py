"""Speed of all arms in one process, in turn: trials contend for the machine, so their own rates are none."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from ablations.guards import train_steps
from ablations.trial import build_model, open_data
from ablations.trialkeys import TrialKeys, typed_trial
from models.checkpoint import load_checkpoint
from models.config import PipelineConfig
from models.generate import greedy
from models.optim import adamw
from models.pipeline.measure import chunk_seconds
from models.speculative import self_speculative
from models.transformer import Transformer, initialise, resolve_dtype
from tasks.batches import PackedData

TRAINING_ROUNDS = 15
DECODING_ROUNDS = 3
CHUNK_ROUNDS = 20
PROMPTS = 16
"""Rows of one decoding batch; each is half a training sequence long, and the other half is decoded."""

Measured = dict[str, Any]
T = TypeVar("T")
At = Callable[[str], None]


def training_speed(arms: Mapping[str, Any], cache_dir: str, at: At = lambda where: None) -> dict[str, Measured]:
    """{arm: {"tokens_per_second", "seconds_per_token"}}: of the fastest round, and of each. A round takes one step of
    every arm, in turns from the first and from the last. `at` hears of each arm and of each round before its turn."""
    running: dict[str, tuple[partial[None], TrialKeys]] = {}
    seconds: dict[str, list[float]] = {}
    for name, arm in arms.items():
        at(f"first step of {name}")
        keys = typed_trial(arm)
        batch = open_data(keys.data, keys.model.vocab_size, cache_dir).train_batch(0, 0).to(keys.train.device)
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
    return {name: {"tokens_per_second": 1 / min(own), "seconds_per_token": own} for name, own in seconds.items()}


def decoding_speed(
    arms: Mapping[str, Any], checkpoints: Mapping[str, str], cache_dir: str, at: At = lambda where: None
) -> dict[str, Measured]:
    """{arm: {"decode_tokens_per_second", ...}} of greedy decoding with a cache, MLA absorbed; for an arm with MTP
    modules also its self-speculative decoding: "speculative_speedup" over its own greedy decoding,
    "speculative_tokens_per_forward" and "speculative_acceptance_k". Arms without a trained checkpoint are left out.
    """
    models: dict[str, tuple[Transformer, torch.Tensor, TrialKeys]] = {}
    for name, arm in arms.items():
        keys = typed_trial(arm)
        if not (Path(checkpoints[name]) / "model.safetensors").is_file():
            continue
        model, _ = load_checkpoint(Path(checkpoints[name]), keys.train.device)
        models[name] = (model, _prompts(open_data(keys.data, keys.model.vocab_size, cache_dir), keys), keys)
    found: dict[str, Measured] = {name: {} for name in models}
    plain: dict[str, list[float]] = {name: [] for name in models}
    drafted: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(DECODING_ROUNDS):
        for name, (model, prompts, keys) in models.items():
            at(f"decoding of {name}")
            torch.set_num_threads(keys.train.threads)
            words = (model, prompts, keys.data.seq_len // 2, keys.model.attention.kind == "mla")
            taken, _ = _timed(partial(greedy, *words), keys.train.device)
            plain[name].append(taken)
            if keys.model.mtp.depth:
                taken, spoken = _timed(partial(self_speculative, *words), keys.train.device)
                drafted[name].append(taken)
                found[name]["speculative_tokens_per_forward"] = spoken.tokens_per_forward
                for k, share in enumerate(spoken.acceptance, start=1):
                    found[name][f"speculative_acceptance_{k}"] = share
    for name, (_, prompts, keys) in models.items():
        found[name]["decode_tokens_per_second"] = len(prompts) * (keys.data.seq_len // 2) / min(plain[name])
        if drafted[name]:
            found[name]["speculative_speedup"] = min(plain[name]) / min(drafted[name])
    return found


def chunk_costs(arms: Mapping[str, Any], cache_dir: str) -> dict[str, dict[str, list[float]]]:
    """{arm: seconds of a chunk per stage} of arms with a pipeline (models/pipeline/measure.py), in the type that this
    machine multiplies fastest. Arms that differ in their schedule alone share one measurement."""
    known: dict[str, dict[str, list[float]]] = {}
    found = {}
    for name, arm in arms.items():
        keys = typed_trial(arm)
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
            data = open_data(keys.data, keys.model.vocab_size, cache_dir)
            model = Transformer(fast)
            model.document_end = keys.document_end
            initialise(model, 0, fast.std)
            rows = data.train_batch(0, 0)[: keys.data.batch_size // keys.microbatches].to(keys.train.device)
            stages = keys.model.pipeline.stages
            known[same] = chunk_seconds(model.to(keys.train.device), stages, rows, CHUNK_ROUNDS)
        found[name] = known[same]
    return found


def _prompts(data: PackedData, keys: TrialKeys) -> torch.Tensor:
    """The beginnings of windows of the test split, (PROMPTS, seq_len / 2)."""
    windows = next(islice(data.evaluation_batches("test", PROMPTS * keys.data.seq_len, PROMPTS), 1))
    return windows[:, : keys.data.seq_len - keys.data.seq_len // 2]


def _timed(work: Callable[[], T], device: str) -> tuple[float, T]:
    """Seconds that `work` took, and what it returned."""
    started = time.perf_counter()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result
