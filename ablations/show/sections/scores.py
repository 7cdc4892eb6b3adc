"""The table of lm-eval scores."""

from ablations import numbers
from ablations.judge.result import ArmResult, Result, lack_of_score_signal, score_detail
from ablations.metrics import is_accuracy
from ablations.metrics import metric as metric_of
from ablations.numbers import ABSENT
from ablations.show.table import Table


def scores_table(result: Result) -> Table:
    """lm-eval scores; an accuracy at chance or at the ceiling is marked, since it can decide nothing."""
    metrics = result.score_metrics
    rows = []
    for arm in result.arms.values():
        row = [arm.name]
        for metric in metrics:
            d = result.usual(arm, metric)
            row += [score_cell(arm, metric), numbers.signed(d.mean if d else None, 4)]
            row.append(numbers.interval(d.low, d.high, 4) if d else ABSENT)
        rows.append(row)
    columns = ["arm"]
    for metric in metrics:
        chance = next(
            (c for c, _ in (score_detail(arm, metric) for arm in result.arms.values()) if c is not None), None
        )
        suffix = f" (chance {chance:.2f})" if chance is not None and is_accuracy(metric) else ""
        columns += [metric_of(metric).label + suffix, "difference", "95 % interval"]
    return Table("lm-eval scores", columns, rows if metrics else [], "Means over trials, on items of the test split.")


def score_cell(arm: ArmResult, metric: str) -> str:
    text, lack = numbers.fixed(arm.mean(metric), 4), lack_of_score_signal(arm, metric)
    return text if lack is None else f"{text} ({MARKS[lack]})"


MARKS = {
    "not above chance": "no signal",
    "at the ceiling": "no signal, at the ceiling",
    "too few items": "no signal, too few items",
}
