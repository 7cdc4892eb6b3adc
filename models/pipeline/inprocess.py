"""A pipeline's schedule in one process on one device: every chunk in its order, no time saved.

What a schedule changes in the training, the order of sums and what is held when, is here; its times are simulated.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from models.layers import cast_once
from models.pipeline.rules import schedule_of
from models.pipeline.schedules import Action, Schedule, parts
from models.pipeline.simulate import Costs, simulate
from models.pipeline.stages import Chunks, stages_of
from models.training.executor import StepResult
from models.transformer import Transformer


class Pipelined:
    """The executor (models/training/executor.py) of a schedule's actions, merged over its ranks by time."""

    def __init__(self, model: Transformer, microbatches: int, document_end: int | None = None) -> None:
        """The model's `config.pipeline` says which schedule. Raises ConfigError."""
        self.model, self.schedule, self.document_end = model, schedule_of(model.config, microbatches), document_end
        self.order = merged(self.schedule)

    def step(self, tokens_BT1: Tensor, progress: float = 0.0, mask_BT: Tensor | None = None) -> StepResult:
        stages = stages_of(self.model, self.schedule.stages, document_end=self.document_end)
        chunks = Chunks(stages, tokens_BT1, self.schedule.microbatches, progress, mask_BT)
        on_the_way: dict[Action, Tensor] = {}
        with cast_once(self.model):
            for action in self.order:
                came = sender(action, self.schedule.stages)
                leaving = chunks.run(action, None if came is None else on_the_way.pop(came))
                if leaving is not None:
                    on_the_way[way(action)] = leaving
        return chunks.result()

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, limit)


def merged(schedule: Schedule) -> list[Action]:
    """All ranks' actions in one order that respects what each needs."""
    timeline = simulate(schedule, Costs(f=1, i=1, w=1))
    timed = [(t.start, rank, t.step) for rank, row in enumerate(timeline.ranks) for t in row]
    return [action for _, _, step in sorted(timed, key=lambda entry: entry[:2]) for action in parts(step)]


def way(action: Action) -> Action:
    """A name for what an action sends: B and I send the same."""
    return Action("F" if action.kind == "F" else "I", action.stage, action.microbatch, action.direction)


def sender(action: Action, stages: int) -> Action | None:
    """Whose result an action works on, by its `way`; None where nothing comes in."""
    if action.kind == "W":
        return None
    neighbour = action.stage - 1 if action.kind == "F" else action.stage + 1
    if not 0 <= neighbour < stages:
        return None
    return Action("F" if action.kind == "F" else "I", neighbour, action.microbatch, action.direction)
