"""Intervals, paired tests, power and corrections: against scipy, against known truths, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from llmbook.evaluation import statistics

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(st.integers(1, 500), st.data())
@settings(max_examples=100, deadline=None)
def test_wilson_interval_is_scipys_and_holds_the_share(count, data):
    right = data.draw(st.integers(0, count))
    found = statistics.wilson_interval(right, count)
    theirs = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert_allclose((found.low, found.high), (theirs.low, theirs.high), atol=1e-9)
    assert 0 <= found.low <= found.mean <= found.high <= 1 or math.isclose(found.low, found.mean, abs_tol=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_seed_interval_is_scipys_for_any_number_of_seeds(values):
    mean, half = statistics.seed_interval(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval() if np.std(values) else (mean, mean)
    assert_allclose((mean - half, mean + half), tuple(theirs), atol=1e-9)


@pytest.mark.parametrize(("values", "message"), [([0.5], "at least two"), ([], "at least two"), ([1, math.nan], "NaN")])
def test_seed_interval_refuses_what_has_no_spread(values, message):
    with pytest.raises(ValueError, match=message):
        statistics.seed_interval(values)


@pytest.mark.parametrize("kind", ["binary", "graded"])
def test_bootstrap_agrees_with_scipys(kind):
    rng = np.random.default_rng(0)
    values = rng.normal(size=200) if kind == "graded" else (rng.random(200) < 0.7).astype(float)
    found = statistics.bootstrap_interval(values, 20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    assert_allclose((found.low, found.high), (theirs.low, theirs.high), atol=0.015)
    assert found.mean == values.mean()


def test_bootstrap_of_constant_values_is_a_point():
    assert statistics.bootstrap_interval([1.0] * 20) == (1.0, 1.0, 1.0)


def test_bootstrap_depends_on_its_seed_alone():
    values = np.random.default_rng(0).random(100)
    assert (statistics.bootstrap_means(values, 50, seed=3) == statistics.bootstrap_means(values, 50, seed=3)).all()
    assert (statistics.bootstrap_means(values, 50, seed=3) != statistics.bootstrap_means(values, 50, seed=4)).any()


def test_few_and_many_levels_draw_from_the_same_distribution():
    rng = np.random.default_rng(0)
    values = np.round(rng.random(500), 1)
    few = statistics.bootstrap_means(values, 4000)
    many = statistics.bootstrap_means(values + rng.normal(scale=1e-9, size=500), 4000, seed=1)
    assert stats.ks_2samp(few, many).pvalue > 0.001


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    hits = []
    for seed in range(300):
        values = (rng.random(300) < 0.4).astype(float)
        found = statistics.bootstrap_interval(values, 1000, seed)
        hits.append(found.low <= 0.4 <= found.high)
    assert 0.9 < np.mean(hits) < 0.99


def test_a_group_of_copies_counts_as_one_item():
    values = np.array([1.0, 0, 1, 1, 0, 0, 1, 0] * 5)
    alone = statistics.standard_error(values)
    copies = np.repeat(values, 3)
    assert_allclose(statistics.standard_error(copies, np.repeat(np.arange(40), 3).tolist()), alone)
    assert statistics.standard_error(copies) < 0.7 * alone
    single = list(range(40))
    assert_allclose(statistics.standard_error(values, single), alone)
    wide = statistics.bootstrap_interval(copies, 4000, groups=np.repeat(np.arange(40), 3).tolist())
    plain = statistics.bootstrap_interval(values, 4000)
    assert_allclose(wide.high - wide.low, plain.high - plain.low, rtol=0.1)


def test_permutation_approaches_the_exact_test():
    rng = np.random.default_rng(0)
    a, b = (rng.random(300) < 0.6).astype(float), (rng.random(300) < 0.5).astype(float)
    found, exact = statistics.paired_permutation(a, b, 40_000), statistics.mcnemar(a, b)
    assert_allclose(found.p_value, exact.p_value, atol=0.01)
    assert found.difference == exact.difference == pytest.approx(a.mean() - b.mean())


def test_permutation_of_graded_scores_is_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.15, size=100), rng.normal(size=100)
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=5000, rng=0
    )
    assert_allclose(statistics.paired_permutation(a, b, 20_000).p_value, theirs.pvalue, atol=0.02)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_exchanging_the_models_changes_the_sign_alone(pairs):
    a, b = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    first, second = statistics.paired_permutation(a, b, 200), statistics.paired_permutation(b, a, 200)
    assert first.difference == -second.difference
    assert first.p_value == second.p_value
    assert 0 < first.p_value <= 1


def test_equal_models_have_p_one_and_tests_keep_their_level():
    same = np.array([1.0, 0, 1])
    assert statistics.paired_permutation(same, same).p_value == 1
    assert statistics.mcnemar(same, same).p_value == 1
    rng = np.random.default_rng(0)
    p = [statistics.paired_permutation(rng.normal(size=40), rng.normal(size=40), 300, s).p_value for s in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.09


def test_items_needed_reach_the_power():
    for difference, disagreement in ((0.05, 0.2), (0.02, 0.1), (0.1, None)):
        needed = statistics.items_needed(difference, disagreement)
        assert statistics.power(needed, difference, disagreement) == pytest.approx(0.8, abs=0.01)
        assert statistics.power(needed // 2, difference, disagreement) < 0.6
    assert statistics.items_needed(0.05, 0.2) < statistics.items_needed(0.05)
    assert statistics.items_needed(-0.05, 0.2) == statistics.items_needed(0.05, 0.2)


@given(SHARES)
@settings(max_examples=100, deadline=None)
def test_corrections_are_ordered_and_keep_the_order(p_values):
    p = np.array(p_values)
    holm, bonferroni = statistics.holm(p), statistics.bonferroni(p)
    step_up = statistics.benjamini_hochberg(p)
    assert (p <= step_up + 1e-12).all()
    assert (step_up <= holm + 1e-12).all()
    assert (holm <= bonferroni + 1e-12).all()
    assert_allclose(step_up, stats.false_discovery_control(p), atol=1e-12)
    for adjusted in (holm, step_up):
        assert (np.diff(adjusted[p.argsort()]) >= -1e-12).all()


def test_holm_by_hand():
    assert_allclose(statistics.holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: statistics.paired_permutation([1, 0], [1]), "2 values in a and 1 in b"),
        (lambda: statistics.bootstrap_interval([]), "1 or more"),
        (lambda: statistics.bootstrap_interval([1.0, float("nan")]), "NaN"),
        (lambda: statistics.bootstrap_interval([1.0], 0), "resamples=0"),
        (lambda: statistics.bootstrap_interval([1.0, 0.0], level=95), "level=95"),
        (lambda: statistics.bootstrap_interval([1.0, 0.0], groups=["a", "a"]), "one group"),
        (lambda: statistics.standard_error([1.0, 0.0], ["a"]), "1 groups for 2"),
        (lambda: statistics.wilson_interval(3, 2), "3 right of 2"),
        (lambda: statistics.mcnemar([0.5], [1]), "graded"),
        (lambda: statistics.items_needed(0), "difference=0"),
        (lambda: statistics.items_needed(0.3, 0.2), "disagreement=0.2"),
        (lambda: statistics.power(0, 0.1), "items=0"),
        (lambda: statistics.power(10, 0.5, accuracy=0.9), "outside"),
        (lambda: statistics.holm([1.2]), "between 0 and 1"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
