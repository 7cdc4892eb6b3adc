"""The sweeps that there are: what each asks, how long it takes here, and how far its answers are."""

from dataclasses import dataclass, field
from pathlib import Path

from ablations.config.compose import compose
from ablations.config.sweepfile import sweep_files
from ablations.record.summary import Summary, summaries
from ablations.sweep.planning import make_plan


@dataclass(frozen=True)
class Listed:
    sweep: str
    question: str
    minutes: float
    """Expected, of this machine's default scale."""
    answers: list[Summary] = field(default_factory=list)
    """Of the user's runs and of what is published, which stands behind where both have a run of a name."""


def listing(runs: Path, results: Path) -> list[Listed]:
    """By name. Raises ConfigError where a sweep's file is wrong."""
    found: dict[tuple[str, str], Summary] = {}
    for root in (results, runs):
        found |= {(summary.sweep, summary.run): summary for _, summary in summaries(root)}
    listed = []
    for name in sweep_files(None):
        config = compose([f"sweep={name}", "track.mode=disabled"])
        answers = [summary for (sweep, _), summary in sorted(found.items()) if sweep == name]
        listed.append(Listed(name, config.sweep.question, make_plan(config).minutes, answers))
    return listed
