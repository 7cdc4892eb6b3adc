"""Intervals and verdicts of simulated sweeps, by the code that judges real ones, and by procedures that are not in use.

Part of `python -m benchmarks.calibration`. A simulated sweep has a baseline and five arms, six seeds, a seed-to-seed
sd of 0.04 nats that all arms share, and a residual per arm and seed such that paired differences have an sd of 0.005
(the pilot's figures). Every comparison is with the one baseline, so differences correlate by 0.5.
"""

from collections.abc import Callable

import numpy as np

from ablations.judge.stats import holm, paired_intervals
from ablations.judge.verdicts import place_of
from benchmarks.calibrated_moderated import moderated_intervals

SEEDS, ARMS, SEED_SD, PAIRED_SD, ALPHA = 6, 5, 0.04, 0.005, 0.05
EFFECT, LARGE, MARGIN = 0.010, 0.1, 0.010
EDGES = [(-np.inf, 0.0), (-np.inf, MARGIN), (-MARGIN, MARGIN), (-MARGIN, MARGIN), (-0.03, -0.02)]
BOUNDARY = [0.0, MARGIN, MARGIN, -MARGIN, -0.02]
"""Per arm the region of a claim (better, not worse, equal twice, value) and a true effect on its very edge, where
neither `agrees` nor `disagrees` may be said: every resolved verdict is a false one."""

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with 3 degrees of freedom, scaled to unit variance."""
    return rng.standard_t(3, shape) / np.sqrt(3)


def unequal(ratio: float) -> Noise:
    """Normal; over the arms the variance grows by `ratio`, centred on that of the baseline (row 0), which is 1."""

    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        variances = np.concatenate([[1.0], np.geomspace(ratio**-0.5, ratio**0.5, shape[1] - 1)])
        return rng.standard_normal(shape) * np.sqrt(variances)[:, None]

    return noise


GENERATORS: dict[str, Noise] = {
    "normal": normal,
    "heavy_tailed": heavy_tailed,
    "variance x5": unequal(5),
    "sd x5": unequal(25),
}


def simulate(noise: Noise, effects: list[float], sweeps: int, rng: np.random.Generator) -> np.ndarray:
    """Losses [sweeps, 1 + arms, seeds]; row 0 is the baseline, and `effects` are the arms' true differences from it."""
    residual = noise(rng, (sweeps, 1 + len(effects), SEEDS)) * PAIRED_SD / np.sqrt(2)
    seed_effect = rng.normal(0, SEED_SD, (sweeps, 1, SEEDS))
    return 3.9 + seed_effect + np.array([0.0, *effects])[:, None] + residual


def cut_intervals(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bonferroni's intervals, cut at 0 on the far side where Holm rejects 0 and they still hold it. Open at the cut."""
    paired = losses[:, 1:] - losses[:, :1]
    low, high, p = paired_intervals(paired, ARMS, ALPHA)
    rejected, tiny = holm(p) <= ALPHA, 1e-300
    mean = paired.mean(-1)
    return (
        np.where(rejected & (mean > 0), np.maximum(low, tiny), low),
        np.where(rejected & (mean < 0), np.minimum(high, -tiny), high),
    )


def dunnett_intervals(losses: np.ndarray, critical: float) -> tuple[np.ndarray, np.ndarray]:
    """Blocked Dunnett: one residual variance for all arms, from the seeds-by-arms layout."""
    _, k, n = losses.shape
    residual = (
        losses - losses.mean(1, keepdims=True) - losses.mean(2, keepdims=True) + losses.mean((1, 2), keepdims=True)
    )
    half = critical * np.sqrt((residual**2).sum((1, 2)) / ((k - 1) * (n - 1)) * 2 / n)[:, None]
    mean = (losses[:, 1:] - losses[:, :1]).mean(-1)
    return mean - half, mean + half


def dunnett_critical(alpha: float = ALPHA) -> float:
    """Two-sided equicoordinate quantile of the multivariate t (correlation 0.5, (seeds - 1) x arms df)."""
    from scipy import optimize, stats

    t = stats.multivariate_t(shape=0.5 + 0.5 * np.eye(ARMS), df=(SEEDS - 1) * ARMS)

    def missing(c: float) -> float:
        return t.cdf(np.full(ARMS, c), lower_limit=np.full(ARMS, -c), random_state=0) - (1 - alpha)

    return float(optimize.brentq(missing, 1.5, 5.0, xtol=1e-3))


def covers(intervals: tuple[np.ndarray, np.ndarray], truth: list[float]) -> float:
    """Share of sweeps in which every interval holds its true difference."""
    low, high = intervals
    return float(((low <= truth) & (np.array(truth) <= high)).all(-1).mean())


def resolves(intervals: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Per arm, the share of sweeps whose interval excludes 0."""
    return ((intervals[0] > 0) | (intervals[1] < 0)).mean(0)


def false_verdicts(intervals: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of sweeps with a resolved verdict though every true effect is on the edge of its region (BOUNDARY)."""
    wrong = 0
    for low, high in zip(*intervals, strict=True):
        wrong += any(place_of(*ends) != "not resolved" for ends in zip(low, high, EDGES, strict=True))
    return wrong / len(intervals[0])


def calibrate(noise: Noise, sweeps: int, seed: int = 0, critical: float | None = None) -> dict[str, float]:
    """One row of the table. `critical`: the blocked Dunnett's, left out where None."""
    rng = np.random.default_rng(seed)
    null, one, all_equal = [0.0] * ARMS, [0.0, 0.0, EFFECT, 0.0, 0.0], [EFFECT] * ARMS
    mixed = [0.0] + [LARGE] * (ARMS - 1)  # where a step-down test spends most on the one true null
    losses = {
        name: simulate(noise, effects, sweeps, rng)
        for name, effects in (("null", null), ("edge", BOUNDARY), ("one", one), ("all", all_equal), ("mixed", mixed))
    }
    paired = {name: loss[:, 1:] - loss[:, :1] for name, loss in losses.items()}
    ours = {name: paired_intervals(difference, ARMS, ALPHA)[:2] for name, difference in paired.items()}
    rejected = {name: holm(paired_intervals(d, ARMS, ALPHA)[2]) <= ALPHA for name, d in paired.items()}
    row = {
        "coverage": covers(ours["null"], null),
        "false_verdicts": false_verdicts(ours["edge"]),
        "power_one": float(resolves(ours["one"])[2]),
        "power_all": float(resolves(ours["all"]).mean()),
        "mixed_coverage": covers(ours["mixed"], mixed),
        "holm_fwer": float(rejected["null"].any(-1).mean()),
        "holm_power_one": float(rejected["one"][:, 2].mean()),
        "holm_power_all": float(rejected["all"].mean()),
        "cut_mixed_coverage": covers(cut_intervals(losses["mixed"]), mixed),
        "unadjusted_fwer": 1 - covers(paired_intervals(paired["null"], 1, ALPHA)[:2], null),
    }
    moderated = {name: moderated_intervals(paired[name], ARMS, ALPHA) for name in ("null", "edge", "one")}
    row["moderated_coverage"] = covers(moderated["null"], null)
    row["moderated_false"] = false_verdicts(moderated["edge"])
    row["moderated_power"] = float(resolves(moderated["one"])[2])
    if critical is not None:
        row["dunnett_fwer"] = 1 - covers(dunnett_intervals(losses["null"], critical), null)
        row["dunnett_power_one"] = float(resolves(dunnett_intervals(losses["one"], critical))[2])
    return row
