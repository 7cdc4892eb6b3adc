"""What a small model answers of each problem after pre-training alone: whether a sweep on it has something to find.

    python -m benchmarks.pilot [problems=[NAME,...]] [seeds=2] [scale=cpu] [out=results/pilot] [KEY=VALUE ...]

trains one model for each problem and seed, on answers of which a share is wrong and another is short, and scores it as
sweeps are scored. Rewards and teachers have something to do where pass@1 lies between 0.2 and 0.6 and pass@8 clearly
above it. The table is written anew after every problem, and keeps the rows of those that were measured before.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from ablations import numbers
from ablations.config.compose import compose
from ablations.config.trialkeys import TrialKeys
from ablations.files import read_json, write_json
from ablations.home import ROOT
from ablations.record.record import Record
from ablations.show.render import markdown
from ablations.show.table import Table
from ablations.sweep.planning import make_plan
from ablations.trial.job import TrialJob
from ablations.trial.train import run_trial
from models.base.command import parse, parted
from models.base.files import write_atomically
from models.base.streams import obeyed, spoken
from models.base.typed import AtLeast, AtMost, ConfigError, build

SWEEPS = ROOT / "benchmarks/sweeps"
FIRST_SEED = 2000
"""Seeds that no sweep uses."""
SETTINGS = {
    "sums": "digits: [2, 3]",
    "modchain": "length: [2, 3, 4]",
    "sorting": "numbers: [4, 5, 6]",
    "countdown": "numbers: [3]",
}
SHARES = "wrong: 0.3, short: 0.2"
"""Of the answers that are learned."""
METRICS = ("greedy_right", "pass_1", "pass_8", "pass_64", "answers_formatted", "answer_tokens")


@dataclass(frozen=True)
class Row:
    """Of one problem; `values`: each metric by seed."""

    problem: str
    settings: str
    tokens: int
    seconds: list[float]
    values: dict[str, list[float]]


def keys_of(problem: str, scale: str, words: list[str]) -> TrialKeys:
    """Of a pre-training, as any sweep at this scale would resolve them."""
    own = [f"data.problem={problem}", f"data.settings={{{SETTINGS[problem]}, {SHARES}}}"]
    return make_plan(compose(["sweep=pilot", f"sweeps_dir={SWEEPS}", f"scale={scale}", *own, *words])).baseline.keys


def measured(problem: str, keys: TrialKeys, seeds: int) -> Row:
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    seconds = list[float]()
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        record = finished(f"problems={problem}", f"pilot-{problem}-{seed}", keys, seed)
        for name in METRICS:
            values[name].append(record.metrics[name])
        seconds.append(record.timings["train_s"])
        print(f"{problem}, seed {seed}: pass@1 {values['pass_1'][-1]:.3f}", file=sys.stderr, flush=True)
    return Row(problem, f"{SETTINGS[problem]}, {SHARES}", keys.trained_tokens, seconds, values)


def finished(place: str, identity: str, keys: TrialKeys, seed: int) -> Record:
    """A trial's record, of which nothing else is kept. Raises ConfigError, which begins with `place`, where it did not
    come to its end."""
    with tempfile.TemporaryDirectory() as folder:
        record = run_trial(TrialJob(identity, keys, seed, folder, str(ROOT / "runs/data")), lambda event: None)
    if record.status != "complete":
        raise ConfigError(f"{place}: {identity} {record.status}: {record.reason}; change its keys")
    return record


def table(rows: list[Row]) -> Table:
    heads = ["problem", "settings", "tokens", "greedy right", "pass@1", "pass@8", "pass@64", "formatted"]
    lines = []
    for row in rows:
        shares = [_shown(row.values[name], 3) for name in METRICS[:-1]]
        lines.append([row.problem, row.settings, f"{row.tokens:,}", *shares, _shown(row.values["answer_tokens"], 1)])
    note = "Of each seed, on the test split: 64 answers to each question, and a greedy one."
    return Table("Pilot", [*heads, "tokens of an answer"], lines, note)


def _shown(values: list[float], digits: int) -> str:
    return ", ".join(numbers.fixed(value, digits) for value in values)


@dataclass(frozen=True)
class Asked:
    """Words of its own; all others change the trainings."""

    problems: list[str] = field(default_factory=list)
    """All, if empty."""
    seeds: Annotated[int, AtLeast(1), AtMost(1000)] = 2
    scale: str = "cpu"
    out: Path = ROOT / "results/pilot"


def main(words: list[str]) -> int:
    own, changes = parted(Asked, words)
    asked = parse(Asked, own)
    if unknown := [name for name in asked.problems if name not in SETTINGS]:
        raise ConfigError(f"problems={unknown[0]}: no such problem (known: {', '.join(SETTINGS)})")
    torch.set_num_threads(1)
    chosen = {name: keys_of(name, asked.scale, changes) for name in asked.problems or SETTINGS}
    path = asked.out / "pilot.json"
    rows = {row["problem"]: build(Row, row) for row in (read_json(path) if path.is_file() else [])}
    for name, keys in chosen.items():
        rows[name] = measured(name, keys, asked.seeds)
        ordered = [rows[name] for name in SETTINGS if name in rows]
        write_json(path, [asdict(row) for row in ordered])
        write_atomically(path.with_name("table.md"), "\n".join(["# Pilot", "", *markdown(table(ordered)), ""]))
    print(path.with_name("table.md"))
    return 0


if __name__ == "__main__":
    sys.exit(spoken(lambda: obeyed(lambda: main(sys.argv[1:]))))
