import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from ablations.judge.grid import on_edge
from ablations.judge.power import seeds_clear_of, seeds_needed
from ablations.judge.stats import Difference, between, differences, holm, lack_of_signal, paired_intervals, tokens_saved
from benchmarks import calibrated_intervals as calibration
from benchmarks import calibrated_jumps, calibrated_search
from benchmarks import calibration as command
from benchmarks.calibrated_moderated import fitted, moderated_intervals
from benchmarks.calibrated_residuals import real_residuals, resampled
from models.base.typed import ConfigError

SWEEPS = 4000


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, float]]:
    return {name: calibration.calibrate(noise, SWEEPS, seed=7) for name, noise in calibration.GENERATORS.items()}


def losses(arm: list[float]) -> dict[int, float]:
    return dict(enumerate(arm))


# differences


def test_one_pair_is_scipys_paired_t() -> None:
    rng = np.random.default_rng(0)
    base = 3.9 + rng.normal(0, 0.04, 6)
    arm = base + 0.004 + rng.normal(0, 0.005, 6)
    (found,) = differences({"a": losses(list(arm)), "b": losses(list(base))}, [("a", "b")], "loss")
    reference = scipy_stats.ttest_rel(arm, base)
    assert found.p == pytest.approx(reference.pvalue) and found.p_holm == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert found.mean == pytest.approx((arm - base).mean()) and found.sd == pytest.approx((arm - base).std(ddof=1))
    assert found.correlation == pytest.approx(np.corrcoef(arm, base)[0, 1])


def test_the_family_widens_the_interval_and_holm_orders_its_p() -> None:
    rng = np.random.default_rng(1)
    base = 3.9 + rng.normal(0, 0.04, 6)
    values = {"base": losses(list(base))}
    values |= {f"a{i}": losses(list(base + 0.004 * i + rng.normal(0, 0.005, 6))) for i in range(4)}
    pairs = [(f"a{i}", "base") for i in range(4)] + [("a1", "a2")]
    family = differences(values, [*pairs, pairs[0]], "loss")
    assert [(d.arm, d.against) for d in family] == pairs, "a repeated pair counts once"
    assert {d.comparisons for d in family} == {5}
    t = scipy_stats.t.isf(0.05 / 5 / 2, 5)
    for d in family:
        assert d.high is not None and d.high - d.mean == pytest.approx(t * d.sd / math.sqrt(6))
    assert [d.p_holm for d in family] == pytest.approx(list(multipletests([d.p for d in family], method="holm")[1]))


def test_only_common_seeds_are_compared_and_missing_ones_keep_the_family() -> None:
    values = {"a": {0: 1.0, 1: 1.2, 2: 9.0}, "b": {0: 1.1, 1: 1.4, 3: -9.0}, "c": {0: 2.0}}
    found = differences(values, [("a", "b"), ("c", "b"), ("gone", "b")], "loss")
    assert [d.n for d in found] == [2, 1, 0]
    assert found[0].mean == pytest.approx(-0.15) and found[0].comparisons == 3
    for d in found[1:]:
        assert (d.low, d.high, d.p, d.resolvable, d.sd) == (None, None, 1.0, None, 0.0) and not d.resolved
    for d in found:
        json.dumps(dataclasses.asdict(d), allow_nan=False)


def test_differences_that_do_not_vary() -> None:
    base = {0: 1.0, 1: 2.0, 2: 3.0}
    same, shifted = differences(
        {"b": base, "s": base, "d": {s: v + 0.1 for s, v in base.items()}}, [("s", "b"), ("d", "b")], "x"
    )
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)
    assert (shifted.low, shifted.high, shifted.p) == (None, None, 1.0), "no error can be estimated from a constant"
    assert shifted.largest == pytest.approx(0.1)
    assert shifted.correlation == pytest.approx(1.0)
    (flat,) = differences({"b": {0: 1.0, 1: 1.0, 2: 1.0}, "a": base}, [("a", "b")], "x")
    assert flat.correlation == 0.0 and flat.low is not None


@pytest.mark.parametrize("scale", [1e-16, 1e-9, 1.0])
def test_the_largest_difference_is_one_of_them(scale: float) -> None:
    base = {0: 5.9, 1: 5.8, 2: 5.7, 3: 5.88}
    off = [0.0, 4 * scale, -8 * scale, scale]
    (found,) = differences({"a": {s: v + off[s] for s, v in base.items()}, "b": base}, [("a", "b")], "loss")
    paired = [base[s] + off[s] - base[s] for s in base]
    assert found.largest == max(map(abs, paired)) and found.sd == float(np.std(paired, ddof=1))
    (alone,) = differences({"a": {0: 1.5}, "b": {0: 1.0}}, [("a", "b")], "x")
    assert (alone.largest, alone.low) == (0.5, None)


def test_a_pair_and_its_reverse_are_one_comparison() -> None:
    rng = np.random.default_rng(2)
    values = {name: losses(list(3.9 + rng.normal(0, 0.01, 6))) for name in "abc"}
    pairs = [("a", "b"), ("c", "b"), ("b", "a"), ("c", "b"), ("b", "c"), ("a", "c")]
    family = {(d.arm, d.against): d for d in differences(values, pairs, "loss")}
    assert list(family) == [("a", "b"), ("c", "b"), ("a", "c")]
    assert {d.comparisons for d in family.values()} == {3}
    (alone,) = differences(values, [("b", "a")], "loss")
    mirrored = between(family, "b", "a")
    assert mirrored is not None and between(family, "a", "gone") is None
    assert (mirrored.arm, mirrored.against) == ("b", "a")
    for name in ("mean", "sd", "largest", "p", "correlation", "n"):
        assert getattr(mirrored, name) == pytest.approx(getattr(alone, name)), name
    plain = family["a", "b"]
    assert plain.low is not None and plain.high is not None and mirrored.low is not None
    assert (mirrored.low, mirrored.high) == (-plain.high, -plain.low) and mirrored.mirrored == plain
    (same,) = differences({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0, 1: 2.0}}, [("a", "b")], "loss")
    assert f"{same.mirrored.mean:+.1f} {same.mirrored.low:+.1f} {same.mirrored.high:+.1f}" == "+0.0 +0.0 +0.0"


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        differences({"a": {0: math.nan, 1: 1.0}, "b": {0: 1.0, 1: 1.0}}, [("a", "b")], "loss")
    with pytest.raises(ValueError, match="itself"):
        differences({"a": {0: 1.0}}, [("a", "a")], "loss")
    assert differences({}, [], "loss") == []


# power


@pytest.mark.parametrize("n", [3, 6, 12, 40])
def test_resolvable_agrees_with_statsmodels(n: int) -> None:
    rng = np.random.default_rng(n)
    values = {"a": losses(list(rng.normal(size=n))), "b": losses(list(rng.normal(size=n)))}
    (found,) = differences(values, [("a", "b")], "loss")
    assert found.resolvable is not None
    assert TTestPower().power(found.resolvable / found.sd, n, 0.05) == pytest.approx(0.8, abs=1e-4)


def test_two_seeds_resolve_almost_nothing() -> None:
    """statsmodels' own solver says 10 standard deviations here, its bound; simulation says 57.7."""
    values = {"a": {0: 0.0, 1: 2**0.5}, "b": {0: 0.0, 1: 0.0}}
    pairs = [("a", "b"), *((f"gone{i}", "b") for i in range(4))]
    found = differences(values, pairs, "loss")[0]
    assert found.resolvable is not None
    assert found.sd == pytest.approx(1.0) and found.resolvable == pytest.approx(57.69, abs=0.1)
    rng = np.random.default_rng(0)
    low, _, _ = paired_intervals(found.resolvable + rng.standard_normal((20_000, 2)), 5)
    assert (low > 0).mean() == pytest.approx(0.8, abs=0.01)


def test_seeds_needed() -> None:
    assert seeds_needed(0.005, 0.005, 1) == 10
    assert seeds_needed(-0.005, 0.005, 5) == 16
    assert seeds_needed(0.010, 0.005, 5) == 7
    assert seeds_needed(1.0, 0.005, 5) == 2
    assert seeds_needed(0.0, 0.005, 5) is None and seeds_needed(0.005, 0.0, 5) is None
    assert seeds_needed(1e-7, 0.005, 5) is None


def test_seeds_clear_of_both_edges() -> None:
    """Of 4,000 intervals about 0 as many as wanted lie between them."""
    n = seeds_clear_of([0.01, 0.01], 0.0166, 2)
    assert n is not None and n > (seeds_needed(0.01, 0.0166, 2) or 0)
    values = np.random.default_rng(0).normal(0, 0.0166, (4000, n))
    half = scipy_stats.t.isf(0.05 / 4, n - 1) * values.std(axis=1, ddof=1) / math.sqrt(n)
    mean = values.mean(axis=1)
    assert 0.77 < ((mean - half > -0.01) & (mean + half < 0.01)).mean() < 0.84
    assert seeds_clear_of([0.01], 0.0166, 2) == seeds_needed(0.01, 0.0166, 2)
    assert seeds_clear_of([], 1.0, 1) is None and seeds_clear_of([0.1, 0.0], 1.0, 1) is None


# calibration (benchmarks/calibration.py is the long form)


def test_simultaneous_coverage(rows: dict[str, dict[str, float]]) -> None:
    """95 +- 1 % for normal noise of any variances. Heavy tails make the t conservative: 97 %, above the 96 % asked."""
    for name in ("normal", "variance x5", "sd x5"):
        assert rows[name]["coverage"] == pytest.approx(0.95, abs=0.01), name
        assert rows[name]["mixed_coverage"] == pytest.approx(0.95, abs=0.01), name
    assert 0.95 <= rows["heavy_tailed"]["coverage"] <= 0.98


def test_false_verdicts_stay_under_five_percent(rows: dict[str, dict[str, float]]) -> None:
    for name, row in rows.items():
        assert row["false_verdicts"] <= 0.05, name


def test_power_at_ten_millinats(rows: dict[str, dict[str, float]]) -> None:
    assert rows["normal"]["power_one"] == pytest.approx(0.75, abs=0.02)
    assert rows["normal"]["power_all"] == pytest.approx(0.75, abs=0.02)
    assert rows["normal"]["holm_power_one"] - rows["normal"]["power_one"] < 0.01, "one effect: Holm adds nothing"


def test_the_procedures_that_are_not_used_fail(rows: dict[str, dict[str, float]]) -> None:
    for name in ("normal", "variance x5", "sd x5"):
        assert rows[name]["unadjusted_fwer"] > 0.15, name
        assert rows[name]["cut_mixed_coverage"] < 0.935, "Bonferroni cut at 0 by Holm is not simultaneous"
    noise = calibration.GENERATORS["sd x5"]
    pooled = calibration.simulate(noise, [0.0] * 5, SWEEPS, np.random.default_rng(0))
    covered = calibration.covers(calibration.dunnett_intervals(pooled, 2.688), [0.0] * 5)
    assert 1 - covered > 0.06, "a blocked Dunnett pools variances that differ"
    assert rows["sd x5"]["moderated_coverage"] < 0.935, "variances drawn towards each other, where they do differ"


def test_holms_adjusted_p_is_that_of_statsmodels() -> None:
    p = np.random.default_rng(3).uniform(0, 1, (20, 5))
    p[:5, 1], p[5:9, 3] = p[:5, 4], 0.0  # ties, and none at all
    assert holm(p).tolist() == [multipletests(row, method="holm")[1].tolist() for row in p]
    assert holm(p).max() == 1.0 > holm(p).min(), "some are cut at 1"


def published(folder: Path, table: np.ndarray, **config: object) -> None:
    """Records of losses [arms, seeds]."""
    folder.mkdir(parents=True, exist_ok=True)
    for arm, seed in np.ndindex(table.shape):
        record = {"status": "complete", "seed": seed, "metrics": {"loss": table[arm, seed]}}
        record["config"] = {"optim": {"lr": float(arm)}, "eval": {"split": "test"}, **config}
        (folder / f"{arm}-{seed}-{len(list(folder.iterdir()))}.json").write_text(json.dumps(record))


def test_real_residuals_are_read_from_published_records(tmp_path: Path) -> None:
    folder = tmp_path / "moe_balance" / "cpu" / "records"
    assert real_residuals(tmp_path).size == 0
    rng = np.random.default_rng(0)
    table = 3.9 + rng.normal(0, 0.04, (1, 4)) + rng.normal(0, 0.005, (3, 4))
    published(folder, table)
    found = real_residuals(tmp_path)
    assert found.size == 12 and abs(found.mean()) < 1e-12 and found.std() == pytest.approx(1.0)
    published(folder, 3.9 + 0.01 * rng.normal(0, 0.005, (3, 4)), before=["a trunk"])
    found = real_residuals(tmp_path)
    assert [part.std() for part in np.split(found, 2)] == pytest.approx([1, 1]), "a class has a scale of its own"
    published(tmp_path / "recall" / "cpu" / "records", 10 * table, data={"source": "skill"})
    assert real_residuals(tmp_path).size == found.size, "skills jump, and are left out"
    draws = resampled(found)(rng, (2000, 6))
    assert draws.std() == pytest.approx(1.0, abs=0.05) and abs(draws.mean()) < 0.05


def test_the_prior_of_moderated_variances_is_found_again() -> None:
    """By its definition (Smyth 2004): variances are drawn from a scaled inverse chi-square, and seen with 5 degrees of
    freedom each."""
    rng = np.random.default_rng(0)
    true = 0.3 * 4.0 / rng.chisquare(4.0, 200_000)
    prior, scale = fitted((true * rng.chisquare(5, true.size) / 5)[None], 5)
    assert prior == pytest.approx(4.0, rel=0.05) and scale == pytest.approx(0.3, rel=0.02)
    prior, scale = fitted(np.full((1, 8), 0.7), 5)
    assert np.isinf(prior) and scale[0] > 0.7, "variances that do not differ"
    low, high = moderated_intervals(rng.normal(0, 1, (3, 8, 6)), 1, 0.05)
    assert low.shape == high.shape == (3, 8) and (low < high).all()


def test_what_was_simulated_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (calibrated_search, calibrated_jumps):
        monkeypatch.setattr(module, "CASES", module.CASES[:2])
    words = ["sweeps=20", f"results={tmp_path}", f"out={tmp_path / 'kept'}"]
    found = command.run(words)
    assert json.loads((tmp_path / "kept/calibration.json").read_text()) == json.loads(json.dumps(found))
    page = (tmp_path / "kept/table.md").read_text()
    assert page.count("\n## ") == 3 and "| sharp, 0.002, heavy-tailed |" in page and "| moderated_false |" in page
    with pytest.raises(ConfigError, match="is a file; name a folder$"):
        command.run([f"out={__file__}"])


# scores, tuning, balance, cost


def test_a_score_has_signal_or_lacks_it_for_a_reason() -> None:
    assert lack_of_signal([0.40, 0.41, 0.42], chance=0.25, items=1000) is None
    chance, ceiling, few = "not above chance", "at the ceiling", "too few items"
    assert lack_of_signal([0.28, 0.29, 0.28], chance=0.25, items=1000) == chance, "3 SE of 1,000 items are 0.041"
    assert lack_of_signal([0.35, 0.35], chance=0.25, items=100) == chance
    assert lack_of_signal([0.99, 0.995], chance=0.25, items=1000) == ceiling
    assert lack_of_signal([1.0], 0.25, 1000) == ceiling and lack_of_signal([1.0, 1.0], 0.5, 400) == ceiling
    assert lack_of_signal([0.0], 0.25, 1000) == chance and lack_of_signal([0.0, 0.0], 0.0, 1000) == chance
    assert lack_of_signal([0.10, 0.60, 0.25, 0.45], chance=0.25, items=10_000) == chance, "the spread over seeds counts"
    assert lack_of_signal([], 0.25, 1000) == "no score"
    assert lack_of_signal([0.55, 0.55], chance=0.25, items=1000, ceiling=0.58) == ceiling
    assert lack_of_signal([0.5, 0.5], 0.25, items=4) == lack_of_signal([1.0], 0.25, items=2) == few


def test_on_edge() -> None:
    assert on_edge({1e-3: 0.8, 2e-3: 0.9, 4e-3: 1.0}) == "low"
    assert on_edge({4e-3: 0.8, 1e-3: 1.0, 2e-3: 0.9}) == "high"
    assert on_edge({1e-3: 0.9, 2e-3: 0.9, 4e-3: math.inf}) is None, "an inner point that is as good"
    assert on_edge({1e-3: 0.9}) is None and on_edge({1e-3: math.inf, 2e-3: math.inf}) == "low"


def test_tokens_saved_inverts_a_known_scaling() -> None:
    """Loss falls by 0.1 per e-fold of tokens; an arm that is as good with 20 % fewer tokens saved 20 %."""
    control = Difference(
        "control", "base", "loss", 6, -0.1 * math.log(0.9), 0.001, 0.012, 0.008, 0.013, 0.0, 0.0, 0.9, 0.001
    )
    assert tokens_saved(0.1 * math.log(0.8), control) == pytest.approx(0.2)
    assert tokens_saved(0.1 * math.log(1.25), control) == pytest.approx(-0.25)
    assert tokens_saved(-0.01, dataclasses.replace(control, low=-0.001)) is None
    assert tokens_saved(-0.01, dataclasses.replace(control, low=None, high=None)) is None
    assert tokens_saved(8.0, dataclasses.replace(control, mean=0.001, low=0.0005, high=0.0015)) is None, "e^843 times"


def test_what_is_constant_but_for_rounding_goes_along_with_nothing():
    """scipy would divide rounding by rounding, and warn."""
    import warnings

    from ablations.judge.stats import _correlations

    nearly, varied = [[1.0, 1.0 + 2e-16, 1.0], [1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0], [1.0, 2.0, 3.5]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _correlations(np.array([nearly])) == [0.0]
        found = _correlations(np.array([nearly, varied, np.zeros((2, 3))])).tolist()
    assert found[0] == found[2] == 0.0 and found[1] == pytest.approx(np.corrcoef(varied)[0, 1])
