"""Do the intervals and verdicts hold what they promise? Simulated sweeps, judged by the code that judges real ones.

    python -m benchmarks.calibration            # 10,000 sweeps per cell, some minutes on one core
    python -m benchmarks.calibration sweeps=10_000 out=results/calibration

Beside the procedure in use stand four that are not, to show what each would do: intervals without adjustment,
Bonferroni's cut at 0 where Holm rejects, a blocked Dunnett, and variances moderated over arms. Two more tables are of
the search, and of skills that come as a jump. The last line is one JSON object.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.home import ROOT
from ablations.show.table import Table
from ablations.show.terminal import print_tables
from benchmarks import calibrated_jumps, calibrated_search
from benchmarks.calibrated_intervals import ARMS, GENERATORS, SEEDS, calibrate, dunnett_critical
from benchmarks.calibrated_residuals import real_residuals, resampled
from benchmarks.kept import check_folder, keep
from models.base.bounds import Count
from models.base.command import keys_of, parse
from models.base.streams import obeyed, spoken

RESAMPLED = "resampled"
Rows = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Command:
    """KEY=VALUE words."""

    sweeps: Count = 10_000
    """Simulated ones of a cell; a tenth of them where each has a search."""
    results: Path = ROOT / "results"
    """Where the published records lie whose residuals are drawn from."""
    out: Path | None = None
    """A folder for calibration.json and table.md; null: what is printed is all."""


def intervals(command: Command, residuals: np.ndarray) -> dict[str, dict[str, float]]:
    generators = dict(GENERATORS) | ({RESAMPLED: resampled(residuals)} if residuals.size else {})
    critical, rows = dunnett_critical(), {}
    for number, (name, noise) in enumerate(generators.items(), start=1):
        say(f"intervals, {number} of {len(generators)}: {name}")
        rows[name] = calibrate(noise, command.sweeps, seed=number, critical=critical)
    return rows


def searches(command: Command) -> dict[str, dict[str, float]]:
    rows = {}
    for number, cell in enumerate(calibrated_search.CASES, start=1):
        say(f"searches, {number} of {len(calibrated_search.CASES)}: {cell.name}")
        rows[cell.name] = calibrated_search.calibrate_case(cell, max(1, command.sweeps // 10))
    return rows


def jumps(command: Command) -> list[dict[str, Any]]:
    say(f"jumps: {len(calibrated_jumps.CASES)} cells")
    rng, found = np.random.default_rng(0), list[dict[str, Any]]()
    for case in calibrated_jumps.CASES:
        missed = [1 - covered for covered in calibrated_jumps.coverage(case, command.sweeps, rng)]
        found.append({**asdict(case), "level": case.level, "missed": missed})
    return found


def tables(sweeps: int, rows: Rows, searched: Rows, jumped: Sequence[Mapping[str, Any]]) -> list[Table]:
    error = (0.05 * 0.95 / sweeps) ** 0.5
    cells = [[figure, *(f"{row[figure]:.3f}" for row in rows.values())] for figure in next(iter(rows.values()))]
    note = (
        f"Of {sweeps:,} sweeps each, with {SEEDS} seeds of {ARMS + 1} arms; a figure near 0.05 or 0.95 has a standard "
        f"error of {error:.4f}, a power one of {2 * error:.4f}. `{RESAMPLED}`: residuals of the published sweeps of "
        "text, each in units of its sweep, design and size."
    )
    found = [Table("Intervals and verdicts", ["share of sweeps", *rows], cells, note)]
    figures = list(next(iter(searched.values())))
    cells = [[name, *(f"{row[figure]:.4f}" for figure in figures)] for name, row in searched.items()]
    note = (
        f"Of {max(1, sweeps // 10):,} sweeps each. The second figure of a name is a trial's standard deviation; false "
        "verdicts and what is seen are shares of the bounded, in nats all else."
    )
    found.append(Table("Search, choice and confirmation", ["curve", *figures], cells, note))
    columns = ["of arm, baseline and a third, jump", "seeds", "level", "a t misses", "beside counts"]
    cells = [
        [_shares(row), str(row["seeds"]), f"{row['level']:.4f}", *(f"{miss:.4f}" for miss in row["missed"])]
        for row in jumped
    ]
    note = (
        "How often an interval of nats that fall by jumps misses the truth: by a t alone, and beside limits of counts."
    )
    found.append(Table("Skills that jump", columns, cells, note))
    return found


def _shares(row: Mapping[str, Any]) -> str:
    worth = f" (worth {row['of_other']:g})" if row["of_other"] != 1 else ""
    worth += f" ({row['begun']:.0%} begun)" if row["begun"] else ""
    return f"{row['arm']:.0%}, {row['none']:.0%}, {row['other']:.0%}{worth}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(words: Sequence[str]) -> dict[str, Any]:
    """What the command prints last. Raises ConfigError, before anything is simulated, for what cannot be obeyed."""
    command = parse(Command, words)
    check_folder(command.out)
    residuals = real_residuals(command.results)
    rows, searched, jumped = intervals(command, residuals), searches(command), jumps(command)
    shown = tables(command.sweeps, rows, searched, jumped)
    print_tables(shown)
    if not residuals.size:
        print(f"skipped {RESAMPLED}: {command.results} has no published records")
    found = {"benchmark": "calibration", "sweeps": command.sweeps, "seeds": SEEDS, "arms": ARMS + 1}
    found |= {"residuals": int(residuals.size), "rows": rows, "searches": searched, "jumps": jumped}
    if command.out is not None:
        about = (
            "How often intervals hold what they promise, and verdicts are false: `python -m benchmarks.calibration`."
        )
        keep(command.out, "calibration", "Calibration", about, shown, found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print(__doc__, *keys_of(Command), sep="\n  ")
        return 0

    def work() -> int:
        print(json.dumps(run(words)))
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
