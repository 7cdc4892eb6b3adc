"""Do the intervals and verdicts hold what they promise? Simulated sweeps, judged by the code that judges real ones.

    python -m benchmarks.calibration            # 10,000 sweeps per cell, seconds on one core

A simulated sweep has a baseline and five arms, six seeds, a seed-to-seed sd of 0.04 nats that all arms share, and a
residual per arm and seed such that paired differences have an sd of 0.005 (the pilot's figures). Every comparison is
with the one baseline, so differences correlate by 0.5. Beside the procedure in use stand three that are not, to show
what each would do: intervals without adjustment, Bonferroni's cut at 0 where Holm rejects, and a blocked Dunnett. Two
more tables are of the search, and of skills that come as a jump.
The last line is one JSON object.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ablations.files import read_json
from ablations.judge.stats import holm, paired_intervals
from ablations.judge.verdicts import place_of
from benchmarks import calibrated_jumps, calibrated_search
from benchmarks.calibrated_search import CELLS

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


def resampled(residuals: np.ndarray) -> Noise:
    """Draws with replacement from residuals of real runs [any], brought to mean 0 and unit variance."""
    pool = (residuals - residuals.mean()) / residuals.std()
    return lambda rng, shape: rng.choice(pool, shape)


GENERATORS: dict[str, Noise] = {
    "normal": normal,
    "heavy_tailed": heavy_tailed,
    "variance x5": unequal(5),
    "sd x5": unequal(25),
}


def real_residuals(results: Path, metric: str = "loss") -> np.ndarray:
    """Test-split residuals of all published sweeps at scale=cpu, after arm and seed effects: [arms x seeds, flat].

    Arms are told apart by their resolved configs. Empty where nothing is published.
    """
    pool = []
    for folder in sorted(results.glob("*/cpu/records")):
        arms: dict[str, dict[int, float]] = defaultdict(dict)
        for path in sorted(folder.glob("*.json")):
            record = read_json(path)
            if record["status"] == "complete" and record["config"].get("eval", {}).get("split") == "test":
                arms[json.dumps(record["config"], sort_keys=True)][record["seed"]] = record["metrics"][metric]
        rows = [arm for arm in arms.values() if len(arm) >= 3]
        seeds = sorted(set.intersection(*(set(arm) for arm in rows))) if rows else []
        if len(rows) >= 2 and len(seeds) >= 3:
            table = np.array([[arm[seed] for seed in seeds] for arm in rows])
            pool.append((table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()).ravel())
    return np.concatenate(pool) if pool else np.empty(0)


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
    if critical is not None:
        row["dunnett_fwer"] = 1 - covers(dunnett_intervals(losses["null"], critical), null)
        row["dunnett_power_one"] = float(resolves(dunnett_intervals(losses["one"], critical))[2])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibration of intervals and verdicts by simulated sweeps.")
    parser.add_argument("--sweeps", type=int, default=10_000, help="simulated sweeps per cell")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parents[1] / "results")
    arguments = parser.parse_args()
    generators = dict(GENERATORS)
    residuals = real_residuals(arguments.results)
    if residuals.size:
        generators["resampled"] = resampled(residuals)
    critical = dunnett_critical()
    rows = {}
    for number, (name, noise) in enumerate(generators.items(), start=1):
        print(f"{number}/{len(generators)} {name}: {arguments.sweeps} sweeps x 5 cells", file=sys.stderr, flush=True)
        rows[name] = calibrate(noise, arguments.sweeps, seed=number, critical=critical)
    few = max(1, arguments.sweeps // 10)
    searches = {
        f"{curve}, {name}": calibrated_search.calibrate(CELLS[curve], noise, 0.002, few)
        for curve in CELLS
        for name, noise in (("normal", normal), ("heavy", heavy_tailed))
    }
    skipped = [] if residuals.size else ["resampled: no published records"]
    print(f"{'':22}" + "".join(f"{name:>14}" for name in rows))
    for figure in next(iter(rows.values())):
        print(f"{figure:22}" + "".join(f"{row[figure]:14.3f}" for row in rows.values()))
    print(f"\nsearch, choice and confirmation, {few} sweeps a row; false: of the bounded")
    print(f"{'':30}" + "".join(f"{figure:>16}" for figure in next(iter(searches.values()))))
    for name, row in searches.items():
        print(f"{name:30}" + "".join(f"{value:16.4f}" for value in row.values()))
    rng, jumps = np.random.default_rng(0), list[dict[str, Any]]()
    print(f"\nnats that fall by jumps, misses, {arguments.sweeps} sweeps a row")
    print(f"{'of two arms, and a third, jump':40}{'seeds':>8}{'level':>16}{'a t':>16}{'beside counts':>16}")
    for case in calibrated_jumps.CASES:
        missed = [1 - covered for covered in calibrated_jumps.coverage(case, arguments.sweeps, rng)]
        jumps.append({**asdict(case), "missed": missed})
        worth = f" (worth {case.of_other:g})" if case.of_other != 1 else ""
        worth += f" ({case.begun:.0%} begun)" if case.begun else ""
        name = f"{case.arm:.0%}, {case.none:.0%}, {case.other:.0%}{worth}"
        print(f"{name:40}{case.seeds:8}{case.level:16.4f}" + "".join(f"{value:16.4f}" for value in missed))
    for line in skipped:
        print(f"skipped {line}")
    error = (0.05 * 0.95 / arguments.sweeps) ** 0.5
    print(f"standard error of a figure near 0.05 or 0.95: {error:.4f}; of a power near 0.75: {error * 2:.4f}")
    summary: dict[str, Any] = {"benchmark": "calibration", "sweeps": arguments.sweeps, "seeds": SEEDS, "arms": ARMS + 1}
    summary |= {"residuals": int(residuals.size), "dunnett_critical": round(critical, 3), "skipped": skipped}
    print(json.dumps(summary | {"rows": rows, "searches": searches, "jumps": jumps}))


if __name__ == "__main__":
    main()
