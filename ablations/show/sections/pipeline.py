"""The table of a sweep over pipeline schedules: simulated from chunks that were measured one at a time.

No wall time of processes that share cores is shown: what a schedule takes on as many devices follows from its order.
"""

import math
import statistics

from ablations import numbers
from ablations.judge.result import ArmResult, Result
from ablations.numbers import ABSENT
from ablations.record.guardresult import GuardResult
from ablations.show.figures.pipeline import pipeline_of
from ablations.show.table import Table
from models.config import ModelConfig
from models.pipeline.schedules import Overlapped, Schedule
from models.pipeline.simulate import StageCosts, simulate

EXCHANGE = 1.0
"""All-to-all as long as a chunk's forward computation: the ratio that V3 3.2.1 gives for its own training."""


def pipeline_table(result: Result) -> Table:
    """Empty where no arm has a pipeline whose chunks were measured."""
    rows = [_row(arm, *pipeline_of(result, arm)) for arm in result.arms.values() if arm.chunks]
    columns = ["arm", "ranks", "microbatches", "gradients equal", "bubble (mean)", "bubble (longest)", "of even stages"]
    columns += [
        "step (ms)",
        "busy (ms)",
        "peak activations",
        "parameters per rank",
        "step with all-to-all (ms)",
        "all-to-all hidden in pairs (ms)",
    ]
    note = (
        "Simulated from chunks measured one at a time on one device, in the order of each schedule; transfers between "
        "ranks take no time. Bubble: share of the time in which ranks wait, as their mean, and of the one that waits "
        "longest (V3's table 2 has formulas for that one); of even stages: the mean if every stage took the stages' "
        "mean, which leaves the schedule's own. Busy: mean over ranks. A pair of a forward and a backward chunk takes "
        "as long as both. Peak activations: of one microbatch in a rank's share of the layers (of one of "
        "its two stages for dualpipe). Parameters: of the rank with most. With all-to-all: an exchange as long as the "
        "chunk's forward beside every forward and every input gradient, an assumption (V3 3.2.1: about 1 : 1); "
        "hidden in pairs: if overlapped pairs hide theirs wholly, as V3 says its kernels do."
    )
    return Table("Pipeline", columns, rows, note)


def _row(arm: ArmResult, config: ModelConfig, schedule: Schedule) -> list[str]:
    from models.pipeline.parts import rank_parameters  # needs torch, which nothing else here does

    timeline = simulate(schedule, StageCosts(arm.chunks))
    waiting = simulate(schedule, StageCosts(arm.chunks, exchange=EXCHANGE))
    hidden = simulate(schedule, StageCosts(arm.chunks, exchange=EXCHANGE, hidden=True))
    even = StageCosts({kind: [statistics.fmean(seconds)] * len(seconds) for kind, seconds in arm.chunks.items()})
    paired = any(isinstance(step, Overlapped) for steps in schedule.ranks for step in steps)
    ranks = len(schedule.ranks)
    share = ranks / schedule.stages
    peak = max(map(timeline.peak_activations, range(ranks)))
    equal = next((guard for guard in arm.guards if guard.name == "schedule"), None)
    return [
        arm.name,
        str(ranks),
        str(schedule.microbatches),
        ABSENT if equal is None else _gradients(equal),
        numbers.percent(timeline.bubble_share, 1),
        numbers.percent(timeline.longest_bubble_share, 1),
        numbers.percent(simulate(schedule, even).bubble_share, 1),
        _milliseconds(timeline.end),
        _milliseconds(timeline.end * (1 - timeline.bubble_share)),
        numbers.fixed(share * peak, 1),
        numbers.count(max(rank_parameters(config, schedule))),
        _milliseconds(waiting.end),
        _milliseconds(hidden.end) if paired else ABSENT,
    ]


def _gradients(guard: GuardResult) -> str:
    """`yes (5.1e-16)`: whether a step's gradients are those of plain microbatching, and by how much they differ."""
    difference, word = guard.number("gradient_difference"), "yes" if guard.passed else "NO"
    return word if difference is None else f"{word} ({difference:.1e})"


def _milliseconds(seconds: float) -> str:
    return numbers.fixed(1e3 * seconds, 1) if math.isfinite(seconds) else ABSENT
