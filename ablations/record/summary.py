"""summary.json: a result in a few words, for lists of results. It lies beside the tables that it is made with."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ablations.files import read_json, write_json
from models.base.typed import ConfigError, build

SUMMARY = "summary.json"
FORMAT: Final = 1
SETTLED = ("agrees", "disagrees", "depends on the length")


@dataclass(frozen=True)
class Summary:
    """Of one run of a sweep."""

    sweep: str
    scale: str
    run: str
    """The scale, or `<scale>@<hash>`."""
    question: str
    answer: str
    """The sentence that its page begins with."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Outcome -> how many claims have it."""
    seeds: int = 0
    trials: int = 0
    """Finished, of those that are `planned`."""
    planned: int = 0
    picture: str | None = None
    """The first figure, from the run's folder."""
    note: str = ""
    """What the scale says about its numbers."""
    format: Literal[1] = FORMAT

    @property
    def claims(self) -> int:
        return sum(self.outcomes.values())

    @property
    def settled(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if outcome in SETTLED)

    @property
    def state(self) -> str:
        """`4 of 9 claims settled, 8 seeds`."""
        done = "" if self.trials == self.planned else f", {self.trials} of {self.planned} trials"
        claims = f"{self.settled} of {self.claims} claims settled" if self.claims else "no claims"
        return f"{claims}, {self.seeds} seeds{done}"

    def write(self, folder: Path) -> None:
        write_json(folder / SUMMARY, dataclasses.asdict(self))


def summary_in(folder: Path) -> Summary | None:
    """Of a run's folder; None where there is none that can be read."""
    try:
        return build(Summary, read_json(folder / SUMMARY))
    except (ConfigError, OSError):
        return None


def summaries(root: Path) -> Iterator[tuple[Path, Summary]]:
    """(folder, summary) of every run under runs/ or results/, by sweep and run."""
    for path in sorted(root.glob(f"*/*/{SUMMARY}")):
        found = summary_in(path.parent)
        if found is not None:
            yield path.parent, found
