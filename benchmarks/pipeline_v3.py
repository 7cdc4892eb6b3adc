"""V3's own pipeline: the bubble that the published times of its phases imply, against the published bubble.

    python -m benchmarks.pipeline_v3                             # a quarter of a minute

2505.09343 ("Insights into DeepSeek-V3"), table 4, prints how long one step spends in each phase. Divided by how often
our DualPipe runs each kind of step, they give the times of a chunk; simulated, these give a bubble. Not printed are the
sequences of a microbatch, so several are tried; the rank, so each is (a rank and its mirror image are alike); and what
"1B (input backward)" and "1W" count where a backward chunk runs whole: `halves` counts its I and W in their own phases,
`whole` both in 1B. F&B over F + B is the same in both. Above 1, overlapping would lose time; below 0.5 it would hide
more than all communication, which is about half of a chunk (V3 3.2.1): both speak against that size of microbatch.

One JSON object per line, with lists by rank; the last one has the ranges. Nothing is fitted but under `closed_by`.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from models.base.typed import ConfigError
from models.pipeline.schedules import Overlapped, Schedule, Step, dualpipe, dualpipev, one_f_one_b, zb1p
from models.pipeline.simulate import Costs, simulate

PHASES = {"F": 1.13, "I": 1.99, "W": 0.48, "F&B": 13.95}
BUBBLE, OPTIMIZER, STEP = 2.06, 0.29, 19.926
"""Seconds, of table 4's first column; the phases sum up to 0.026 less than the step."""
RANKS, GPUS, SEQUENCES = 16, 2048, 15360
LENGTH, WIDTH, LINK = 4096, 7168, 50e9
"""Tokens of a sequence, d, and bytes/s between nodes (V3 3.2.2)."""
Reading = Literal["halves", "whole"]
READINGS: tuple[Reading, ...] = ("halves", "whole")


def microbatches(sequences: int) -> int:
    """Of a pipeline's step, of so many sequences each."""
    return SEQUENCES * RANKS // GPUS // sequences


def counts(steps: Sequence[Step]) -> Counter[str]:
    """How often a rank runs F, B, I, W alone and F&B."""
    return Counter("F&B" if isinstance(step, Overlapped) else step.kind for step in steps)


def chunk_times(counted: Counter[str], reading: Reading) -> Costs:
    """F, I, W and F&B such that the rank with these counts spends in each phase what is printed."""
    backwards = counted["I"] + counted["B"]  # to each belongs a W, inside a B or alone
    if reading == "halves":
        i, w = PHASES["I"] / backwards, PHASES["W"] / backwards
    else:
        w = PHASES["W"] / counted["W"]
        i = (PHASES["I"] - counted["B"] * w) / backwards
    return Costs(PHASES["F"] / counted["F"], i, w, overlapped=PHASES["F&B"] / counted["F&B"])


@dataclass(frozen=True)
class SlowEnd:
    """`even`'s times, and on the last stage (head, MTP module) `factor` times as much; of a pair on its part alone."""

    even: Costs
    factor: float
    transfer: float = 0.0

    def of(self, step: Step) -> float:
        last = RANKS - 1
        if not isinstance(step, Overlapped):
            return self.even.of(step) * (self.factor if step.stage == last else 1.0)
        f, b = self.even.f, self.even.b
        slow = (f * (step.forward.stage == last) + b * (step.backward.stage == last)) / (f + b)
        return self.even.of_pair * (1 + slow * (self.factor - 1))


def closing(bubble: Callable[[float], float], most: float) -> float | None:
    """The least x of 0..most with the published bubble, which grows with x; None where there is none."""
    low, high = 0.0, most
    if bubble(low) > BUBBLE or bubble(high) < BUBBLE:
        return None
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if bubble(middle) < BUBBLE else (low, middle)
    return high


def derived(schedule: Schedule, reading: Reading) -> list[Costs]:
    """For each rank of the first half: the times of a chunk if the printed numbers were that rank's."""
    return [chunk_times(counts(steps), reading) for steps in schedule.ranks[: RANKS // 2]]


def compare(schedule: Schedule, reading: Reading) -> dict[str, Any]:
    """The simulated bubble of each rank against the printed one; shares of the step with and without its optimizer."""
    costs = derived(schedule, reading)
    timelines = [simulate(schedule, each) for each in costs]
    bubbles = [timeline.bubble(rank) for rank, timeline in enumerate(timelines)]
    ends = [timeline.end for timeline in timelines]
    times = {"F": [c.f for c in costs], "I": [c.i for c in costs], "W": [c.w for c in costs]}
    times["F&B"] = [c.of_pair for c in costs]
    return {
        "sequences_each": round(microbatches(1) / schedule.microbatches, 3),
        "counts": [dict(sorted(counts(steps).items())) for steps in schedule.ranks[: RANKS // 2]],
        "ms": {kind: [round(1e3 * seconds, 2) for seconds in row] for kind, row in times.items()},
        "pair_over_sum": [round(c.of_pair / (c.f + c.b), 3) for c in costs],
        "bubble_s": [round(bubble, 3) for bubble in bubbles],
        "formula_s": [round((RANKS // 2 - 1) * (c.of_pair + c.b - 3 * c.w), 3) for c in costs],
        "share": [round(b / (end + OPTIMIZER), 4) for b, end in zip(bubbles, ends, strict=True)],
        "share_without_optimizer": [round(b / end, 4) for b, end in zip(bubbles, ends, strict=True)],
    }


def closed_by(schedule: Schedule, reading: Reading) -> dict[str, Any]:
    """By rank, how large something that is left out above must be for the published bubble: a message between ranks, or
    what the last stage takes longer (null for rank 0, which holds it itself). And what the link makes of a message: a
    microbatch's hidden states in BF16."""
    link = LENGTH * WIDTH * 2 * microbatches(1) / schedule.microbatches / LINK
    late: list[float | None] = []
    slow: list[float | None] = []
    with_link: list[float] = []
    for r, costs in enumerate(derived(schedule, reading)):

        def of_transfer(seconds: float, costs: Costs = costs, r: int = r) -> float:
            return simulate(schedule, replace(costs, transfer=seconds)).bubble(r)

        def of_end(more: float, costs: Costs = costs, r: int = r) -> float:
            return simulate(schedule, SlowEnd(costs, 1 + more)).bubble(r)

        late.append(closing(of_transfer, 0.1))
        slow.append(closing(of_end, 1.0) if r else None)
        with_link.append(round(of_transfer(link), 3))
    return {
        "closed_by": {
            "transfer_ms": [None if x is None else round(1e3 * x, 2) for x in late],
            "last_stage_longer": [None if x is None else round(x, 3) for x in slow],
        },
        "link_ms": round(1e3 * link, 2),
        "bubble_with_link_s": with_link,
    }


def others(schedule: Schedule, reading: Reading) -> dict[str, Any]:
    """Seconds of a step without the optimizer, by the rank that the times of a chunk are derived for. DualPipeV has the
    same 16 stages on 8 ranks, so that as many GPUs are twice as many pipelines of half as many microbatches."""
    m, costs = schedule.microbatches, derived(schedule, reading)
    schedules = [one_f_one_b(RANKS, m), zb1p(RANKS, m), schedule, dualpipev(RANKS // 2, m // 2)]
    found = {each.name: [round(simulate(each, c).end, 3) for c in costs] for each in schedules}
    found["dualpipe without gain"] = [round(simulate(schedule, replace(c, overlapped=None)).end, 3) for c in costs]
    return {"seconds": found, "published_s": round(STEP - OPTIMIZER, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--microbatches", type=int, nargs="+", default=[60, 120, 240], help="of a step (60 120 240)")
    parser.add_argument("--quick", action="store_true", help="120 microbatches, nothing solved for: a second")
    options = parser.parse_args()
    ranges: dict[str, Any] = {}
    for m in [microbatches(1)] if options.quick else options.microbatches:
        print(f"{m} microbatches on {RANKS} ranks", file=sys.stderr, flush=True)
        try:
            schedule, compared = dualpipe(RANKS, m), []
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        for reading in READINGS:
            head = {"benchmark": "pipeline_v3", "microbatches": m, "reading": reading}
            compared.append(compare(schedule, reading))
            print(json.dumps(head | compared[-1] | others(schedule, reading)), flush=True)
            if m == microbatches(1) and not options.quick:
                print(json.dumps(head | closed_by(schedule, reading)), flush=True)
        columns = ("pair_over_sum", "bubble_s", "share", "share_without_optimizer")
        rows = {name: [value for one in compared for value in one[name]] for name in columns}
        ranges[str(m)] = {name: [min(values), max(values)] for name, values in rows.items()}
    published = {"bubble_s": BUBBLE, "share": round(BUBBLE / STEP, 4)}
    published["share_without_optimizer"] = round(BUBBLE / (STEP - OPTIMIZER), 4)
    print(json.dumps({"benchmark": "pipeline_v3", "published": published, "simulated": ranges}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
