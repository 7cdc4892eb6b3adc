"""A pipeline changes the order of sums alone: with all its ranks in one process, and with a process for each."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ablations.guards.rank_process import JOB, PATIENCE, descend, found_by
from ablations.guards.subject import Subject
from ablations.home import ROOT
from ablations.launch.environment import thread_environment
from ablations.record.guardresult import Fact, GuardResult
from models.pipeline.schedules import ranks_of
from models.precision.config import PrecisionConfig
from models.training.executor import Executor, Microbatching
from models.transformer import Transformer

TOLERANCE = 1e-12
"""Of FP64 gradients and weights, relative to the largest of each parameter."""


def schedule(subject: Subject) -> GuardResult:
    """In FP64 one step's gradients are those of plain microbatching."""
    found = []
    for plain in (True, False):
        model = subject.exact(_emulated(subject)).train()
        executor = _plain(subject, model) if plain else subject.executor(model)
        executor.step(subject.short)
        found.append([p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()])
    worst = max(relative(a, b) for a, b in zip(*found, strict=True))
    name = subject.keys.model.pipeline.schedule
    detail = f"{name} against microbatching in FP64: gradients differ by {worst:.1e} at most"
    facts: dict[str, Fact] = {"gradient_difference": worst, "limit": TOLERANCE}
    return GuardResult("schedule", worst <= TOLERANCE, detail, facts)


def ranks(subject: Subject) -> GuardResult:
    """In FP64 the weights after a step of plain descent along the clipped gradient, and the biases that it has moved,
    are those of one process. The limit is half of the gradient's norm, so that clipping changes it."""
    model = subject.exact(_emulated(subject)).train()
    executor = _plain(subject, model)
    executor.step(subject.short)
    limit = 0.5 * float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())
    model.zero_grad(set_to_none=True)
    descend(model, executor, subject.short, limit)
    expected, held = dict(model.state_dict()), on_ranks(subject, limit)
    lost = sorted(set(expected) - set().union(*held))
    off = {
        (rank, name): relative(expected[name], value) for rank, own in enumerate(held) for name, value in own.items()
    }
    rank, name = max(off, key=lambda place: off[place])
    worst = off[rank, name]
    detail = f"a clipped step on ranks against one process in FP64: weights differ by {worst:.1e} at most"
    if not worst <= TOLERANCE:
        detail = f"after a clipped step, {name} differs by {worst:.1e} on rank {rank} from one process"
    if lost:
        detail = f"no rank holds {', '.join(lost[:3])}"
    facts: dict[str, Fact] = {"weight_difference": worst, "limit": TOLERANCE, "lost": len(lost)}
    return GuardResult("ranks", not lost and worst <= TOLERANCE, detail, facts)


def on_ranks(subject: Subject, limit: float) -> list[dict[str, Tensor]]:
    """By rank, what it holds of the model after the step. Raises ChildProcessError with a failed rank's last line."""
    with tempfile.TemporaryDirectory(prefix="ranks.") as name:
        folder, keys = Path(name), subject.keys
        job = {
            "model": json.dumps(dataclasses.asdict(subject.exact_config(_emulated(subject)))),
            "tokens": subject.short,
            "microbatches": keys.microbatches,
            "document_end": keys.document_end,
            "seed": subject.seed,
            "limit": limit,
        }
        torch.save(job, folder / JOB)
        words = [sys.executable, "-P", "-m", "ablations.guards.rank_process", name]
        environment = {**thread_environment(1), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, env=environment, capture_output=True, timeout=PATIENCE.total_seconds(), cwd=ROOT)
        if done.returncode:
            raise ChildProcessError((done.stderr.decode(errors="replace").strip().splitlines() or ["it ended"])[-1])
        pipeline = keys.model.pipeline
        count = ranks_of(pipeline.schedule, pipeline.stages)
        return [torch.load(found_by(folder, rank), weights_only=True) for rank in range(count)]


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-300)) if a.numel() else 0.0


def _emulated(subject: Subject) -> PrecisionConfig:
    return dataclasses.replace(subject.keys.model.precision, kernels="emulated")


def _plain(subject: Subject, model: Transformer) -> Executor:
    return Microbatching(model, subject.keys.microbatches, subject.keys.document_end)
