"""Where an arm's loss is least along the learning rate, and what it may cost not to know that exactly.

The loss is fitted by least squares as a parabola in ln(rate) with a level of its own for every seed: the curve's shape
is the same over seeds, so its noise is far smaller than that of the losses. What is taken is the vertex, not the best
point of the grid; what it may still cost is bounded from the error of the fit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablations.judge.grid import Edge

if TYPE_CHECKING:
    import numpy as np

Losses = Mapping[float, Mapping[int, float]]
"""Rate -> seed -> loss, infinite where the trial diverged or failed."""
LEVEL = 0.05
"""Of the bounds of a comparison's two arms at once, and of the test of the parabola."""
RATES, SEEDS = 4, 2
"""With fewer nothing tells whether a parabola follows the curve: it goes through any three rates, also where one stands
behind a cliff, and one seed has no scatter."""
STEPS = 40
"""The searched range is looked at in so many steps of ln(rate)."""


@dataclass(frozen=True)
class Vertex:
    rate: float
    """Of the least fitted loss, to three digits; where that lies outside the searched range, its best end."""
    excess: float | None
    """By how many nats the fitted loss at `rate` (or at the rate that was asked about) is above any other within the
    range: an upper bound, which holds for two arms at once in 95 % of searches. None where the vertex lies outside,
    or with fewer rates or seeds than RATES and SEEDS."""
    beyond: Edge | None = None
    """The side of the range on which the vertex lies outside."""
    dropped: tuple[float, ...] = ()
    """Rates that the fit leaves out: a trial diverged there, or no parabola follows the curve as far as that."""


def vertex(losses: Losses, taken: float | None = None) -> Vertex | None:
    """None with fewer than three rates, which have no vertex. taken: the rate that was gone on with, whose excess is
    bounded in place of the vertex's."""
    if len(losses) < 3:
        return None
    kept = {rate: dict(losses[rate]) for rate in sorted(losses) if all(map(math.isfinite, losses[rate].values()))}
    if len(kept) < 3:
        return _without_fit(losses, kept)
    fit = _Parabola(kept)
    while len(kept) > 3 and fit.misses:
        del kept[_worse_end(kept)]
        fit = _Parabola(kept)
    dropped = tuple(rate for rate in sorted(losses) if rate not in kept)
    low, high = min(kept), max(kept)
    if fit.curvature <= 0:
        side: Edge | None = "low" if _mean(kept[low]) <= _mean(kept[high]) else "high"
    else:
        side = "low" if fit.lowest <= math.log(low) else "high" if fit.lowest >= math.log(high) else None
    if side is not None:
        return Vertex(low if side == "low" else high, None, side, dropped)
    rate = float(f"{math.exp(fit.lowest):.3g}")
    enough = len(kept) >= RATES and len(kept[low]) >= SEEDS
    known = enough and (taken is None or low <= taken <= high)
    return Vertex(rate, fit.excess(rate if taken is None else taken) if known else None, None, dropped)


def _without_fit(losses: Losses, kept: Losses) -> Vertex:
    """Too few rates did not diverge. What diverges is too fast, as a rule: it lies lower, if anywhere."""
    dropped = tuple(rate for rate in sorted(losses) if rate not in kept)
    side: Edge = "high" if kept and min(losses) in dropped and max(losses) not in dropped else "low"
    return Vertex(min(kept, key=lambda rate: _mean(kept[rate]), default=min(losses)), None, side, dropped)


def _worse_end(losses: Losses) -> float:
    """Of the two ends, but for one beside the best rate: between its neighbours the least loss lies, whatever the curve
    does farther away."""
    rates = sorted(losses)
    best = rates.index(min(rates, key=lambda rate: _mean(losses[rate])))
    ends = [rates[end] for end in (0, len(rates) - 1) if abs(end - best) > 1]
    return max(ends, key=lambda rate: _mean(losses[rate]))


def _mean(losses: Mapping[int, float]) -> float:
    return math.fsum(losses.values()) / len(losses)


class _Parabola:
    """b x + c x^2 and a level per seed, x = ln(rate) - its mean."""

    def __init__(self, losses: Losses) -> None:
        import numpy as np
        import statsmodels.api as sm

        rows = [(math.log(rate), seed, loss) for rate, of_seed in losses.items() for seed, loss in of_seed.items()]
        x, seeds, y = (np.array(column) for column in zip(*rows, strict=True))
        self._centre = float(x.mean())
        self._range = float(x.min() - self._centre), float(x.max() - self._centre)
        levels = (seeds[:, None] == np.unique(seeds)).astype(float)
        # The losses' own size would cost digits: levels take up their mean anyway.
        self._fit: Any = sm.OLS(y - y.mean(), np.hstack([self._powers(x - self._centre), levels])).fit()
        self.slope, self.curvature = (float(value) for value in self._fit.params[:2])
        self.misses = _misses(y, x, levels, float(self._fit.ssr), int(self._fit.df_resid))
        """Whether the points lie off the parabola by more than their scatter over seeds explains."""

    @staticmethod
    def _powers(x: "np.ndarray") -> "np.ndarray":
        import numpy as np

        return np.stack([x, x * x], axis=1)

    @property
    def lowest(self) -> float:
        """ln(rate) at the vertex."""
        return self._centre - self.slope / (2 * self.curvature)

    def excess(self, rate: float) -> float | None:
        """The largest upper end of an interval of f(rate) - f(x), over all x of the range. Near a sharp vertex it is
        curvature * t^2 times the vertex's variance; where the curve is flat it does not break down."""
        import numpy as np

        if self._fit.df_resid < 1:
            return None
        others = self._powers(np.linspace(*self._range, STEPS + 1))
        contrasts = self._powers(np.array([math.log(rate) - self._centre])) - others
        levels = np.zeros((len(contrasts), len(self._fit.params) - 2))
        found = self._fit.t_test(np.hstack([contrasts, levels]))
        return max(0.0, float(found.conf_int(LEVEL / 2)[:, 1].max()))


def _misses(y: "np.ndarray", x: "np.ndarray", levels: "np.ndarray", left: float, free: int) -> bool:
    """The F test of the lack of fit: a parabola against a value for every rate, both with a level per seed."""
    import numpy as np
    import statsmodels.api as sm
    from scipy import stats

    rates = (x[:, None] == np.unique(x)[1:]).astype(float)
    whole = sm.OLS(y - y.mean(), np.hstack([rates, levels])).fit()
    more, scatter = free - int(whole.df_resid), int(whole.df_resid)
    if more < 1 or scatter < 1 or whole.ssr <= 0:
        return False
    ratio = (left - whole.ssr) / more / (whole.ssr / scatter)
    return bool(stats.f.sf(ratio, more, scatter) < LEVEL)
