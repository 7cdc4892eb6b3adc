"""What a tiny model of each kind learns of each skill, between chance and ceiling.

    python -m benchmarks.skills [skills=[NAME,...]] [seeds=1] [scale=cpu] [out=results/skills] [KEY=VALUE ...]

trains each arm of `benchmarks/sweeps/skills.yaml` on each skill, made small enough that a million tokens may teach it,
on seeds that no sweep uses. It shows which skills tell tiny models apart and which are beyond all of them; no claim
rests on it. The table is written anew after every skill, and keeps the rows of those that were measured before.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from ablations import numbers
from ablations.config.compose import compose
from ablations.config.sweepfile import read_sweep
from ablations.config.trialkeys import TrialKeys
from ablations.files import read_json, write_json
from ablations.home import ROOT
from ablations.show.render import markdown
from ablations.show.table import Table
from ablations.sweep.planning import make_plan
from benchmarks.pilot import FIRST_SEED, SWEEPS, finished
from models.base.command import parse, parted
from models.base.files import write_atomically
from models.base.streams import obeyed, spoken
from models.base.typed import AtLeast, AtMost, ConfigError, build, closest
from tasks.skills.chosen import skill_of

TOKENS_A_STEP = 1024
SETTINGS = {
    "recall": ("pairs: [2, 4, 8], keys: 16", 32),
    "noisy": ("noise: [20, 60], slots: 32", 64),
    "fuzzy": ("key_tokens: [2], keys: 4, pairs: 14", 64),
    "copy": ("copied: [4, 8]", 32),
    "phonebook": ("facts: 256", 64),
    "hops": ("hops: [1, 2], nodes: 6, names: 12, asked: 4", 32),
    "names": ("characters: [2, 3], sentences: 6, pieces: 8", 64),
    "star": ("path: [3], nodes: 10", 32),
    "chain": ("statements: 3, modulus: 5, steps: true", 32),
    "polynomial": ("operations: [1], modulus: 5", 32),
    "automaton": ("states: [4], symbols: 8, longest: 12, read: 32", 128),
    "grammar": ("depths: [1, 2], clauses: 8, classes: 4, nouns: 2, verbs: 8", 64),
}
"""Of each skill, and the tokens of a sequence."""


@dataclass(frozen=True)
class Row:
    """Of one skill; `right`: of each kind the share of answers that are right, by seed."""

    skill: str
    settings: str
    tokens: int
    chance: float
    ceiling: float
    right: dict[str, list[float]]


def kinds_of(skill: str, scale: str, words: list[str]) -> dict[str, TrialKeys]:
    """Each arm's training, as any sweep at this scale would resolve it."""
    settings, seq_len = SETTINGS[skill]
    own = [
        f"data.skill={skill}",
        f"data.settings={{{settings}}}",
        f"data.seq_len={seq_len}",
        f"data.batch_size={TOKENS_A_STEP // seq_len}",
    ]
    plan = make_plan(compose(["sweep=skills", f"sweeps_dir={SWEEPS}", f"scale={scale}", *own, *words]))
    return {name: arm.keys for name, arm in plan.arms.items() if arm.kind == "arm"}


def measured(skill: str, kinds: dict[str, TrialKeys], seeds: int) -> Row:
    right: dict[str, list[float]] = {}
    for kind, keys in kinds.items():
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            record = finished(f"skills={skill}", f"{skill}-{kind}-{seed}", keys, seed)
            right.setdefault(kind, []).append(record.metrics["answer_accuracy"])
            print(f"{skill}, {kind}, seed {seed}: {right[kind][-1]:.3f} right", file=sys.stderr, flush=True)
    made, settings = skill_of(keys.data), keys.data.settings or {}
    said = ", ".join(f"{name}: {value}" for name, value in settings.items())
    return Row(skill, said, keys.trained_tokens, made.chance, made.ceiling, right)


def table(rows: list[Row]) -> Table:
    kinds = [kind for kind in read_sweep(SWEEPS / "skills.yaml").arms if any(kind in row.right for row in rows)]
    lines = [
        [row.skill, row.settings, f"{row.tokens:,}", numbers.fixed(row.chance, 3), numbers.fixed(row.ceiling, 3)]
        + [", ".join(numbers.fixed(value, 3) for value in row.right.get(kind, [])) for kind in kinds]
        for row in rows
    ]
    note = "Share of the answers that are right on items of the test split, of each seed. One learning rate for all."
    return Table("Skills", ["skill", "settings", "tokens", "chance", "ceiling", *kinds], lines, note)


@dataclass(frozen=True)
class Asked:
    """Words of its own; all others change the trainings."""

    skills: list[str] = field(default_factory=list)
    """All, if empty."""
    seeds: Annotated[int, AtLeast(1), AtMost(1000)] = 1
    scale: str = "cpu"
    out: Path = ROOT / "results/skills"


def main(words: list[str]) -> int:
    own, changes = parted(Asked, words)
    asked = parse(Asked, own)
    if unknown := [name for name in asked.skills if name not in SETTINGS]:
        known = ", ".join(SETTINGS)
        raise ConfigError(f"skills={unknown[0]}: no such skill (known: {known}){closest(unknown[0], SETTINGS)}")
    torch.set_num_threads(1)
    chosen = {name: kinds_of(name, asked.scale, changes) for name in asked.skills or SETTINGS}
    path = asked.out / "skills.json"
    for name, kinds in chosen.items():
        row = measured(name, kinds, asked.seeds)
        rows = {kept["skill"]: build(Row, kept) for kept in (read_json(path) if path.is_file() else [])} | {name: row}
        ordered = [rows[name] for name in SETTINGS if name in rows]
        write_json(path, [asdict(row) for row in ordered])
        write_atomically(path.with_name("table.md"), "\n".join(["# Skills", "", *markdown(table(ordered)), ""]))
    print(path.with_name("table.md"))
    return 0


if __name__ == "__main__":
    sys.exit(spoken(lambda: obeyed(lambda: main(sys.argv[1:]))))
