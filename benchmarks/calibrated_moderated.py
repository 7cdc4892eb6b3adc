"""Moderated variances (limma's empirical Bayes, Smyth 2004): each arm's is drawn towards what all arms have.

Part of `python -m benchmarks.calibration`, which says why no sweep is judged by them.
"""

import numpy as np


def moderated_intervals(paired: np.ndarray, comparisons: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends [..., arms] of intervals of paired differences [..., arms, seeds] at level alpha / comparisons each.

    The prior is that of the arms of one sweep: a scaled inverse chi-square, whose degrees of freedom and scale follow
    from mean and variance of the log variances (Smyth 2004, section 6.2).
    """
    from scipy import stats

    n, arms = paired.shape[-1], paired.shape[-2]
    d, variance, mean = n - 1, paired.var(-1, ddof=1), paired.mean(-1)
    prior, scale = fitted(variance, d)
    with np.errstate(invalid="ignore"):
        moderated = np.where(
            np.isinf(prior)[..., None],
            scale[..., None],
            (prior[..., None] * scale[..., None] + d * variance) / (prior[..., None] + d),
        )
    freedom = np.minimum(prior + d, d * arms)  # no more than all arms have
    half = stats.t.isf(alpha / comparisons / 2, freedom)[..., None] * np.sqrt(moderated / n)
    return mean - half, mean + half


def fitted(variance: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of freedom (infinite where variances differ by no more than chance) and scale [...] of the prior of
    variances [..., arms] with d degrees of freedom each."""
    from scipy import special

    logs = np.log(variance) - special.digamma(d / 2) + np.log(d / 2)
    beyond = logs.var(-1, ddof=1) - special.polygamma(1, d / 2)
    prior = np.where(beyond > 0, 2 * _inverse_trigamma(np.maximum(beyond, 1e-12)), np.inf)
    with np.errstate(invalid="ignore"):
        shift = np.where(np.isinf(prior), 0.0, special.digamma(prior / 2) - np.log(prior / 2))
    return prior, np.exp(logs.mean(-1) + shift)


def _inverse_trigamma(x: np.ndarray) -> np.ndarray:
    """Newton's iteration of Smyth 2004 (appendix), which converges from below for every x > 0."""
    from scipy import special

    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = special.polygamma(1, y)
        y = y + trigamma * (1 - trigamma / x) / special.polygamma(2, y)
    return y
