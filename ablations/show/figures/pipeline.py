"""The pictures of a sweep over pipeline schedules: simulated from chunks that were measured one at a time."""

import dataclasses
import typing

from ablations.judge.result import ArmResult, Result
from ablations.show.figures.gantt import memory_figure, timeline_figure
from models.base.typed import build
from models.config import ModelConfig, PipelineConfig
from models.pipeline.rules import schedule_of
from models.pipeline.schedules import Schedule
from models.pipeline.simulate import StageCosts, Timeline, simulate

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


def pipeline_of(result: Result, arm: ArmResult) -> tuple[ModelConfig, Schedule]:
    """The arm's model, which is the baseline's with another pipeline, and its schedule."""
    keys, place = result.plan.keys, "model.pipeline."
    changes = {key.removeprefix(place): value for key, value in arm.plan.set.items() if key.startswith(place)}
    pipeline = build(PipelineConfig, dataclasses.asdict(keys.model.pipeline) | changes, "model.pipeline")
    config = dataclasses.replace(keys.model, pipeline=pipeline)
    return config, schedule_of(config, pipeline.microbatches or keys.train.microbatches)


def _timelines(result: Result) -> dict[str, Timeline]:
    """Of the arms that have as many ranks and microbatches as the first."""
    found: dict[str, Timeline] = {}
    size = None
    for arm in result.arms.values():
        if not arm.chunks:
            continue
        schedule = pipeline_of(result, arm)[1]
        size = size or (len(schedule.ranks), schedule.microbatches)
        if (len(schedule.ranks), schedule.microbatches) == size:
            milliseconds = {kind: [1e3 * s for s in seconds] for kind, seconds in arm.chunks.items()}
            found[arm.name] = simulate(schedule, StageCosts(milliseconds))
    return found


def timelines(result: Result) -> "Figure | None":
    found = _timelines(result)
    return timeline_figure(found, "ms") if found else None


def memory(result: Result) -> "Figure | None":
    found = _timelines(result)
    return memory_figure(found, "ms") if found else None
