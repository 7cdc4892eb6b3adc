"""How long the chunks of a model's stages take on this device, one at a time: what the simulator is fed."""

import time

import torch
from torch import Tensor

from models.layers import cast_once
from models.pipeline.schedules import Action, Kind
from models.pipeline.stages import Chunks, stages_of
from models.transformer import Transformer


def chunk_seconds(
    model: Transformer, stages: int, tokens_BT1: Tensor, rounds: int, document_end: int | None = None
) -> dict[str, list[float]]:
    """{"f", "b", "i", "w"}: seconds per stage, the least of `rounds` after one to warm up, of one microbatch on its
    way through all stages and back, once with B and once with I and W."""
    held = stages_of(model, stages, document_end=document_end)
    seconds = {kind: [float("inf")] * stages for kind in "fbiw"}
    model.train()
    with cast_once(model):
        for turn in range(rounds + 1):
            for halves in (False, True):
                chunks, hidden, gradient = Chunks(held, tokens_BT1, 1, 0.0), None, None
                for stage in range(stages):
                    hidden, taken = _timed(chunks, "F", stage, hidden)
                    _keep(seconds["f"], stage, taken, turn)
                for stage in reversed(range(stages)):
                    gradient, taken = _timed(chunks, "I" if halves else "B", stage, gradient)
                    _keep(seconds["i" if halves else "b"], stage, taken, turn)
                    if halves:
                        _, taken = _timed(chunks, "W", stage, None)
                        _keep(seconds["w"], stage, taken, turn)
                model.zero_grad()
    return seconds


def _timed(chunks: Chunks, kind: Kind, stage: int, arriving: Tensor | None) -> tuple[Tensor | None, float]:
    started = time.perf_counter()
    leaving = chunks.run(Action(kind, stage, 0), arriving)
    if chunks.parts[0].is_cuda:
        torch.cuda.synchronize()
    return leaving, time.perf_counter() - started


def _keep(least: list[float], stage: int, taken: float, turn: int) -> None:
    if turn > 0:
        least[stage] = min(least[stage], taken)
