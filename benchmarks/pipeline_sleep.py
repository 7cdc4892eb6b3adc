"""The simulator of pipeline schedules against processes that send real messages and sleep instead of computing.

    python -m benchmarks.pipeline_sleep                          # 90 seconds, of little CPU

4 ranks over gloo, each a process, go through their order with the messages of training (models/pipeline/ranks.py):
receive, sleep for as long as the chunk is said to take, send. Sleeping ranks do not compete for cores, so their
makespan can be compared with `simulate`'s on any machine. An overlapped pair is run in both ways: `apart`, as the
executors run it (F, whose result leaves, then B), and as `one`, a sleep of F + B after which both results leave, which
is what the simulator means by a pair. Its gain is not tried: there is none to sleep through.

One JSON object per case: milliseconds from a barrier to the last rank's end, the least of the rounds, since whatever
else a machine does can only add to a sleep; simulated; their ratio. Exit code 1 where one is off by more than 5 %, but
for `--quick`, which says whether it runs.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ablations.launch.ranks import Hardware, run_ranks
from models.pipeline.inprocess import sender
from models.pipeline.ranks import Mail, receiver
from models.pipeline.schedules import SCHEDULES, Action, Overlapped, Schedule, pairs_apart, parts
from models.pipeline.simulate import Costs, simulate

RANKS = 4
COSTS = Costs(f=0.040, i=0.050, w=0.030)
TOLERANCE = 0.05
SHAPE = (1, 4, 4)

Case = tuple[str, int, str]
"""A schedule's name, microbatches, and how its pairs are run; "" where it has none."""


def order_of(case: Case) -> Schedule:
    name, microbatches, pairs = case
    schedule = SCHEDULES[name](RANKS, microbatches)
    return pairs_apart(schedule) if pairs == "apart" else schedule


def cases(quick: bool) -> list[Case]:
    sizes = [("1f1b", 8), ("dualpipev", 8)] if quick else [*((name, 8) for name in SCHEDULES), ("dualpipev", 16)]
    found = []
    for name, microbatches in sizes:
        steps = itertools.chain.from_iterable(SCHEDULES[name](RANKS, microbatches).ranks)
        paired = any(isinstance(step, Overlapped) for step in steps)
        found += [(name, microbatches, pairs) for pairs in (("apart", "one") if paired else ("",))]
    return found


def mark(action: Action) -> float:
    """What the message that leaves `action` is filled with; B and I send the same."""
    return 1000.0 * action.stage + action.microbatch + (0.0 if action.kind == "F" else 0.5)


def sleep_through(schedule: Schedule, rank: int) -> float:
    """One optimizer step of this rank in seconds; whoever waits is woken by a message alone."""
    mail = Mail(schedule, rank, SHAPE, torch.float32, torch.device("cpu"))
    dist.barrier()
    started = time.perf_counter()
    for step in schedule.ranks[rank]:
        for action in parts(step):
            came, arrived = sender(action, schedule.stages), mail.receive(action)
            assert came is None or (arrived is not None and bool((arrived == mark(came)).all())), action
        time.sleep(COSTS.of(step))
        for action in parts(step):
            leaves = receiver(action, schedule) is not None
            mail.send(action, torch.full(SHAPE, mark(action)) if leaves else None)
    mail.finish()
    return time.perf_counter() - started


def work(rank: int, ranks: int, arguments: Mapping[str, Any]) -> None:
    """All cases and rounds on one rank; rank 0 writes {case: seconds of the last rank's end in each round}."""
    torch.set_num_threads(1)
    found = []
    for case in arguments["cases"]:
        spans = []
        for _ in range(arguments["rounds"]):
            span = torch.tensor(sleep_through(order_of(case), rank))
            dist.all_reduce(span, dist.ReduceOp.MAX)
            spans.append(float(span))
        found.append(spans)
        if rank == 0:
            print(" ".join(map(str, case)).strip(), file=sys.stderr, flush=True)
    if rank == 0:
        Path(arguments["file"]).write_text(json.dumps(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each case (3)")
    parser.add_argument("--quick", action="store_true", help="two schedules, some seconds: does it run")
    options = parser.parse_args()
    chosen, rounds = cases(options.quick), options.rounds
    with tempfile.TemporaryDirectory(prefix="pipeline_sleep.") as folder:
        file = Path(folder) / "seconds.json"
        run_ranks(RANKS, work, {"cases": chosen, "rounds": rounds, "file": str(file)}, Hardware())
        seconds = json.loads(file.read_text())
    worst = 0.0
    for case, spans in zip(chosen, seconds, strict=True):
        name, microbatches, pairs = case
        real, simulated = min(spans), simulate(order_of(case), COSTS).end
        worst = max(worst, abs(real / simulated - 1))
        line = {
            "benchmark": "pipeline_sleep",
            "schedule": name,
            "ranks": RANKS,
            "microbatches": microbatches,
            "pairs": pairs or None,
            "ms": {"F": 1e3 * COSTS.f, "I": 1e3 * COSTS.i, "W": 1e3 * COSTS.w, "B": round(1e3 * COSTS.b, 3)},
            "real_ms": round(1e3 * real, 1),
            "rounds_ms": [round(1e3 * span, 1) for span in spans],
            "simulated_ms": round(1e3 * simulated, 1),
            "ratio": round(real / simulated, 4),
        }
        print(json.dumps(line), flush=True)
    print(f"off by at most {worst:.1%}, {TOLERANCE:.0%} allowed", file=sys.stderr)
    return 0 if worst <= TOLERANCE or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
