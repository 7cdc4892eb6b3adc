"""Two arms item by item, over seeds and items crossed: would they differ on other items, and by other seeds?

Every item is answered by every seed. Pooled, S x I answers would count as independent, and 11 % of arms that are equal
would differ (at 5 %); here what one item adds for all seeds, and what one seed adds for all items, are parts of the
error: d_si = mean + seed_s + item_i + rest_si, all random. Letters: S seeds, I items (or documents).

What a t over seeds says (`ablations/judge/sidebyside.py`) is of these very items. Of two single checkpoints nothing is
said of seeds: McNemar's test over items, or a t over documents.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.judge.sidebyside import same_batches
from ablations.record.record import Record
from tasks.evals.known import OUR_TASKS
from tasks.evals.perplexities import DOCUMENTS, LEAST

UNITS = {"bytes": ("bits per byte", math.log(2)), "words": ("nats per word", 1.0), "answers": ("nats per answer", 1.0)}
"""Of what each document adds: what it is over a unit, and nats in one of those."""


@dataclass(frozen=True)
class Crossed:
    """One score, `other` minus `one`."""

    score: str
    """`task, what`."""
    seeds: int
    items: int
    one: float
    other: float
    low: float | None
    """Ends of the 95 % interval of the difference; None where there is no error to estimate."""
    high: float | None
    p: float
    """Two-sided."""

    @property
    def difference(self) -> float:
        return self.other - self.one


@dataclass(frozen=True)
class Answers:
    """Of one side: (S, I) values, whose mean is the score, and each item's weight (I,) in it, of mean 1."""

    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    right_or_wrong: bool

    @property
    def score(self) -> float:
        """Values count as they are: a document's has its length in it."""
        return float(self.values.mean())


def item_by_item(one: Sequence[Record], other: Sequence[Record]) -> list[Crossed]:
    """Of every score whose outcomes both sides kept for the same items: over the seeds that are common where both
    learned from the same batches, or of two single trials. Records of a side differ in seed alone."""
    left, right = ({r.seed: r for r in side if r.status == "complete"} for side in (one, other))
    if len(one) == len(other) == len(left) == len(right) == 1:
        pairs = [(*left.values(), *right.values())]
    else:
        pairs = [(left[seed], right[seed]) for seed in sorted(left.keys() & right.keys()) if same_batches(one, other)]
    if not pairs or pairs[0][0].config.get("eval") != pairs[0][1].config.get("eval"):
        return []
    sides = [dict(_answers([pair[side] for pair in pairs])) for side in (0, 1)]
    same_text = pairs[0][0].data == pairs[0][1].data  # our own tasks' items are made of it
    return [
        compared(name, here, sides[1][name])
        for name, here in sides[0].items()
        if name in sides[1]
        and (same_text or name.split(",")[0] not in OUR_TASKS)
        and np.array_equal(here.weights, sides[1][name].weights)
    ]


def compared(score: str, one: Answers, other: Answers) -> Crossed:
    """The difference of two sides' answers to the same items by the same seeds."""
    d_SI = other.values - one.values
    seeds, items = d_SI.shape
    if seeds == 1 and one.right_or_wrong:
        low, high, p = None, None, mcnemar(one.values[0], other.values[0])
    else:
        centred_SI = d_SI - d_SI.mean() * one.weights + d_SI.mean()  # a ratio's part that is the documents' lengths
        low, high, p = interval(centred_SI)
    return Crossed(score, seeds, items, one.score, other.score, low, high, p)


def interval(d_SI: NDArray[np.float64], alpha: float = 0.05) -> tuple[float | None, float | None, float]:
    """Ends and two-sided p of the mean of a two-way layout of random seeds and random items, by its mean squares and
    Satterthwaite's degrees of freedom. The variance is no less than what either alone makes it. One seed: a t over
    items. Equal arms differ in 3.5 to 5.5 % of simulations (the tests repeat them), and pooled in 6 to 21 %."""
    from scipy import stats

    (seeds, items), mean = d_SI.shape, float(d_SI.mean())
    if items < LEAST:
        return None, None, 1.0
    by_item = seeds * float(d_SI.mean(0).var(ddof=1))
    if seeds == 1:
        squares, freedom = by_item, float(items - 1)
    else:
        by_seed = items * float(d_SI.mean(1).var(ddof=1))
        rest_SI = d_SI - d_SI.mean(0) - d_SI.mean(1, keepdims=True) + mean
        rest = float((rest_SI**2).sum()) / ((seeds - 1) * (items - 1))
        squares, freedom = by_seed + by_item - rest, 0.0
        if squares > 0:
            parts = by_seed**2 / (seeds - 1) + by_item**2 / (items - 1) + rest**2 / ((seeds - 1) * (items - 1))
            freedom = squares**2 / parts
        for alone, own in ((by_seed, seeds - 1), (by_item, items - 1)):
            if squares < alone:
                squares, freedom = alone, float(own)
        freedom = max(freedom, 1.0)
    if squares <= 0:
        return None, None, 1.0
    error = math.sqrt(squares / (seeds * items))
    half = float(stats.t.isf(alpha / 2, freedom)) * error
    return mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom))


def mcnemar(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Two-sided p, exact, of two checkpoints' answers to the same items, right 1 and wrong 0."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    table = [[int(((one == a) & (other == b)).sum()) for b in (1, 0)] for a in (1, 0)]
    return float(test(table, exact=True).pvalue)


def _answers(records: Sequence[Record]) -> Iterator[tuple[str, Answers]]:
    """Of every score that all records kept the outcomes of, for as many items each."""
    for task in records[0].scores:
        rows = [record.scores.get(task, {}) for record in records]
        texts = [row.get("items") for row in rows]
        if all(isinstance(text, str) and len(text) == len(texts[0] or "") for text in texts) and texts[0]:
            values = np.array([[float(right) for right in text or ""] for text in texts])
            yield f"{task}, right", Answers(values, np.ones(values.shape[1]), True)
        columns = [row.get(DOCUMENTS) for row in rows]
        for unit, (what, nats) in UNITS.items():
            if all(isinstance(column, Mapping) and column.get(unit) == _of(columns[0], unit) for column in columns):
                units = np.array(_of(columns[0], unit), dtype=np.float64)
                of_each = np.array([_of(column, "nats") for column in columns], dtype=np.float64) / nats
                if units.size and np.isfinite(of_each).all():
                    yield f"{task}, {what}", Answers(of_each / units.mean(), units / units.mean(), False)


def _of(columns: Any, name: str) -> list[float]:
    return list(columns.get(name, [])) if isinstance(columns, Mapping) else []
