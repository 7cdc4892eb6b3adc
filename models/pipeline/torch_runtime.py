"""Our schedules on torch.distributed.pipelining's runtime, for all that have one direction: it knows no other.

The runtime sends and receives, splits B into I and W, and runs an overlapped pair's F and then its B. The embedding's
stage computes its input gradients in W there, with nothing to send before.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    BACKWARD_INPUT,
    BACKWARD_WEIGHT,
    FORWARD,
    FULL_BACKWARD,
    OVERLAP_F_B,
    _Action,
    _PipelineScheduleRuntime,
)

from models.config import ModelConfig
from models.pipeline.schedules import Overlapped, Schedule, Step
from models.pipeline.stages import Chunks, Stage

KINDS = {"F": FORWARD, "B": FULL_BACKWARD, "I": BACKWARD_INPUT, "W": BACKWARD_WEIGHT}


class TorchRuntime:
    """One rank's part of torch's runtime, made for one shape of batches."""

    def __init__(self, stages: dict[int, Stage], schedule: Schedule, config: ModelConfig, tokens_BT1: Tensor) -> None:
        self.tokens = tokens_BT1.shape
        self.modules = {index: _Module(stage) for index, stage in stages.items()}
        rows, length = tokens_BT1.shape[0] // schedule.microbatches, tokens_BT1.shape[1]
        model = next(iter(stages.values())).model
        hidden = torch.empty(rows, length - 1, config.d_model, dtype=model.dtype, device=tokens_BT1.device)
        hidden.requires_grad_()  # or the runtime would exchange no gradients
        words = torch.empty(rows, length, dtype=torch.int64, device=tokens_BT1.device)
        loss = torch.empty(1, dtype=torch.promote_types(model.dtype, torch.float32), device=tokens_BT1.device)
        loss.requires_grad_()
        made = [
            PipelineStage(
                self.modules[index],
                index,
                schedule.stages,
                tokens_BT1.device,
                input_args=(words if stage.first else hidden,),
                output_args=(loss if stage.last else hidden,),
            )
            for index, stage in stages.items()
        ]
        self.first = any(stage.first for stage in stages.values())
        self.last = any(stage.last for stage in stages.values())
        self.runtime = _PipelineScheduleRuntime(made, schedule.microbatches, loss_fn=_as_it_is, scale_grads=False)
        self.runtime._prepare_schedule_with_comms(
            {rank: [_torch_action(step) for step in steps] for rank, steps in enumerate(schedule.ranks)}
        )

    def step(self, chunks: Chunks, tokens_BT1: Tensor) -> None:
        """Forward and backward of a batch; what it adds up to is in `chunks`."""
        for module in self.modules.values():
            module.chunks, module.microbatch = chunks, 0
        given: dict[str, Any] = {"tokens_BT1": tokens_BT1, "return_outputs": False}
        if self.last:
            given |= {"target": tokens_BT1, "losses": []}
        self.runtime.step(*((tokens_BT1,) if self.first else ()), **given)


class _Module(nn.Module):
    """A stage as the runtime wants it: one tensor in, one out."""

    chunks: Chunks
    microbatch = 0

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.held = nn.ParameterList(stage.parameters)

    def forward(self, arriving: Tensor, tokens_BT1: Tensor) -> Tensor:
        x = self.stage.embed(tokens_BT1) if self.stage.first else arriving
        out = self.chunks.passed(self.stage, self.microbatch, x, tokens_BT1).out
        self.microbatch += 1
        return out.unsqueeze(0) if self.stage.last else out


def _as_it_is(loss: Tensor, target: Tensor) -> Tensor:
    return loss.sum()  # no view: the runtime detaches it in place


def _torch_action(step: Step) -> _Action:
    if isinstance(step, Overlapped):
        pair = (_torch_action(step.forward), _torch_action(step.backward))
        return _Action(-1, OVERLAP_F_B, None, pair)
    return _Action(step.stage, KINDS[step.kind], step.microbatch)
