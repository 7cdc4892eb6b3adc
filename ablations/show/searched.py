"""The table of the search: every point, what was chosen, and what lies at the end of its grid."""

import json
import statistics

from ablations import numbers
from ablations.judge.result import ArmResult, Result
from ablations.show.table import Table


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
        arm = result.arms.get(name)
        chosen = bool(arm) and arm is not None and arm.chosen == point
        rows.append(
            [
                name,
                numbers.settings(point),
                "chosen" if chosen else "",
                f"{len(losses)}/{len(trials)}",
                numbers.fixed(statistics.fmean(losses) if losses else None, 4),
                numbers.fixed(statistics.fmean(balance) if balance else None, 3),
                (numbers.fixed(arm.mistuning, 4) if arm.mistuning is not None else "none") if chosen and arm else "",
                (_edges(arm) or _no_edge(arm, result)) if chosen and arm else "",
            ]
        )
    columns = ["arm", "point", "", "finished", "validation loss", "MaxVio_global", "mistuning estimate", "on an edge"]
    note = (
        "Mistuning estimate: what a learning rate between the searched ones may gain, from a parabola; no bound (none: "
        "the optimum is on the edge)."
    )
    ends = [f"{arm.name} ({_edges(arm)})" for arm in result.arms.values() if arm.edges]
    if ends:
        note += f" The chosen value is the last of its grid, and a better one may lie beyond: {', '.join(ends)}."
    return Table("Search", columns, rows, note, words=(0, 1, 2, 7), folded=True)


def _no_edge(arm: ArmResult, result: Result) -> str:
    """`none`; of a grid of two both values are the last, so that nothing is known of what lies beyond."""
    points = [trial.point for trial in result.search if trial.arm == arm.name]
    short = [key for key in arm.chosen if 1 < len({point[key] for point in points if key in point}) < 3]
    return f"{', '.join(numbers.setting(key, arm.chosen[key]) for key in short)} of two" if short else "none"


def _edges(arm: ArmResult) -> str:
    """`u 0.03 highest`."""
    return ", ".join(f"{numbers.setting(key, arm.chosen[key])} {side}est" for key, side in arm.edges.items())
