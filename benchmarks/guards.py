"""What the guards cost, and whether they cry wolf: every arm of every sweep, or of those that are named.

    python -m benchmarks.guards [scale=smoke] [sweeps=[NAME,...]] [runs_dir=runs]

prints a line for each sweep (arms, seconds of an arm, the slowest guard) and for each guard that does not pass, then a
JSON line. One thread; the corpora are prepared first and not counted.
"""

import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ablations.config.compose import compose
from ablations.config.sweepfile import sweep_files
from ablations.guards.arm import GUARDS, found
from ablations.guards.subject import Subject
from ablations.sweep.plan import config_guards
from ablations.sweep.planning import make_plan
from models.base.command import parse
from models.base.streams import obeyed, spoken
from tasks.prepared import prepare_data


@dataclass(frozen=True)
class Asked:
    scale: str = "smoke"
    sweeps: list[str] = field(default_factory=list)
    """All, if empty."""
    runs_dir: Path = Path("runs")


def main(words: list[str]) -> int:
    """The number of guards that did not pass."""
    asked = parse(Asked, words)
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {guard.name: [] for guard in GUARDS}
    by_arm: list[float] = []
    failed = 0
    for name in asked.sweeps or sorted(sweep_files(None)):
        words = [f"sweep={name}", f"scale={asked.scale}", f"runs_dir={asked.runs_dir}", "arms=all", "eval.tasks=[]"]
        plan = make_plan(compose(words))
        arms: dict[str, float] = {}
        slowest = ("", 0.0)
        for arm in plan.arms.values():
            data = prepare_data(arm.keys.data, arm.keys.model.vocab_size, asked.runs_dir / "data")
            subject, results = Subject(arm.keys, plan.seeds[0], data), config_guards(plan, arm)
            arms[arm.name] = 0.0
            for guard in GUARDS:
                if guard.concerns(arm.keys):
                    started = time.perf_counter()
                    results.append(found(guard, subject))
                    taken = time.perf_counter() - started
                    seconds[guard.name].append(taken)
                    arms[arm.name] += taken
                    slowest = max(slowest, (guard.name, taken), key=lambda pair: pair[1])
            for result in results:
                if not result.passed:
                    failed += 1
                    print(f"{name}, {arm.name}: {result.name}: {result.said}")
        by_arm += arms.values()
        least, most = min(arms.values()), max(arms.values())
        print(f"{name}: {len(arms)} arms, {least:.1f} to {most:.1f} s each; {slowest[0]} up to {slowest[1]:.1f} s",
              flush=True)  # fmt: skip
    means = {name: round(statistics.fmean(taken), 2) for name, taken in seconds.items() if taken}
    report = {"benchmark": "guards", "scale": asked.scale, "arms": len(by_arm), "failed": failed, "seconds": means}
    print(json.dumps(report | {"seconds_per_arm": round(statistics.fmean(by_arm), 2)}))
    return failed


if __name__ == "__main__":
    sys.exit(spoken(lambda: obeyed(lambda: min(1, main(sys.argv[1:])))))
