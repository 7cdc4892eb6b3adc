"""The tables of the search: what was chosen for each arm, and every point that was tried."""

import json
import statistics

from ablations import numbers
from ablations.judge.grid import LEARNING_RATE
from ablations.judge.result import ArmResult, Result
from ablations.judge.verdicts import BOUNDS
from ablations.numbers import ABSENT
from ablations.show.table import Table

RATES_NOTE = (
    "A learning rate is the vertex of a parabola in its logarithm, fitted over the search seeds at the chosen "
    "strength. It may cost: by how much its loss lies above the best within the searched range, at most (95 %); "
    "unknown where the vertex lies outside, one seed leaves no error to judge by, or the parabola follows three rates "
    "alone, which hide a cliff."
)
EARLIER_NOTE = (
    "A learning rate is the best searched one. What it may cost was estimated under the plan's own rule, from a "
    "parabola through three points: no bound, as later plans have."
)


def chosen_table(result: Result) -> Table:
    """One row per searched arm: its values, and what is not known of them."""
    rows = []
    for arm in result.arms.values():
        if arm.choice is None or not arm.chosen:
            continue
        searched = LEARNING_RATE in arm.chosen
        cost = "unknown" if arm.mistuning is None else numbers.fixed(arm.mistuning, 4)
        rows.append([arm.name, numbers.settings(arm.chosen), cost if searched else ABSENT,
                     _edges(arm) or _no_edge(arm, result)])  # fmt: skip
    note = ""
    if any(LEARNING_RATE in arm.chosen for arm in result.arms.values()):
        note = RATES_NOTE if BOUNDS in result.plan.decision_rule else EARLIER_NOTE
    elsewhere = [f"{arm.name} ({at})" for arm in result.arms.values() if (at := _elsewhere(arm))]
    if elsewhere:
        note += f" Confirmed at another rate than this rule would take: {', '.join(elsewhere)}."
    ends = [f"{arm.name} ({_edges(arm)})" for arm in result.arms.values() if _edges(arm)]
    if ends:
        note += f"{' ' if note else ''}A better value may lie beyond the searched range: {', '.join(ends)}."
    return Table("Chosen values", ["arm", "chosen", "it may cost", "on an edge"], rows, note, words=(0, 1, 3))


def search_table(result: Result) -> Table:
    """One row per arm and point: the mean over the search seeds, on the search-validation split."""
    points: dict[tuple[str, str], list[int]] = {}
    for index, trial in enumerate(result.search):
        points.setdefault((trial.arm, json.dumps(trial.point, sort_keys=True)), []).append(index)
    rows = []
    for (name, key), indices in sorted(points.items()):
        trials, point = [result.search[i] for i in indices], json.loads(key)
        losses = [t.loss for t in trials if t.loss is not None]
        balance = [t.max_vio_global for t in trials if t.max_vio_global is not None]
        rows.append(
            [
                name,
                numbers.settings(point),
                f"{len(losses)}/{len(trials)}",
                numbers.fixed(statistics.fmean(losses) if losses else None, 4),
                numbers.fixed(statistics.fmean(balance) if balance else None, 3),
            ]
        )
    columns = ["arm", "point", "finished", "validation loss", "MaxVio_global"]
    return Table("Search", columns, rows, words=(0, 1), folded=True)


def _no_edge(arm: ArmResult, result: Result) -> str:
    """`none`; of a grid of two both values are the last, so that nothing is known of what lies beyond."""
    points = [trial.point for trial in result.search if trial.arm == arm.name]
    short = [key for key in arm.chosen if 1 < len({point[key] for point in points if key in point}) < 3]
    return f"{', '.join(numbers.setting(key, arm.chosen[key]) for key in short)} of two" if short else "none"


def _elsewhere(arm: ArmResult) -> str:
    """`0.0035, where the vertex is 0.00326`, of an arm whose rate an earlier rule has chosen."""
    found = arm.choice.vertex if arm.choice is not None else None
    if found is None or found.rate == arm.chosen.get(LEARNING_RATE, found.rate):
        return ""
    return f"{arm.chosen[LEARNING_RATE]:g}, where the vertex is {found.rate:g}"


def _edges(arm: ArmResult) -> str:
    """`u 0.03 highest`."""
    return ", ".join(f"{numbers.setting(key, arm.chosen[key])} {side}est" for key, side in arm.edges.items()
                     if key in arm.chosen)  # fmt: skip
