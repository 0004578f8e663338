"""Elo and Bradley-Terry against scikit-learn and on simulated judges of known strength."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from llmbook.evaluation import ratings
from llmbook.evaluation.ratings import Comparisons, bradley_terry, simulate

STRENGTHS = np.array([-0.9, -0.3, 0.0, 0.4, 0.8])


def drawn(count, seed, **options):
    """Comparisons of random pairs in random order."""
    generator = np.random.default_rng(seed)
    pairs = np.array([generator.choice(5, 2, replace=False) for _ in range(count)])
    return simulate(STRENGTHS, pairs[:, 0], pairs[:, 1], generator, **options)


def design(games):
    """One row for each comparison: 1 for the first, -1 for the second."""
    rows = np.zeros((len(games), games.num_players))
    rows[np.arange(len(games)), games.first] = 1
    rows[np.arange(len(games)), games.second] = -1
    return rows


@pytest.mark.parametrize("position", [False, True])
def test_bradley_terry_is_logistic_regression_without_penalty(position):
    games = drawn(600, 1, position_bias=0.5)
    library = LogisticRegression(C=np.inf, fit_intercept=position, tol=1e-10, max_iter=1000)
    library.fit(design(games), games.outcome)
    found = bradley_terry(games, position=position)
    assert np.allclose(found.strengths, library.coef_[0] - library.coef_[0].mean(), atol=1e-4)
    assert math.isclose(found.position_bias, library.intercept_[0] if position else 0, abs_tol=1e-4)


def test_halved_ties_are_two_half_comparisons():
    games = drawn(600, 2, tie=0.8)
    weight = np.concatenate([games.outcome, 1 - games.outcome])
    library = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    target = np.repeat([1, 0], len(games))
    library.fit(np.concatenate([design(games)] * 2), target, weight)
    found = bradley_terry(games).strengths
    assert np.allclose(found, library.coef_[0] - library.coef_[0].mean(), atol=1e-4)


def test_davidsons_model_is_the_maximum_that_an_optimiser_finds():
    games = drawn(800, 3, tie=0.8, position_bias=0.3)

    def cost(values):
        a, b = values[:5][games.first] + values[5], values[:5][games.second]
        scores = np.stack([b, (a + b) / 2 + values[6], a])
        log_probs = scores - np.log(np.exp(scores).sum(0))
        return -log_probs[(2 * games.outcome).astype(int), np.arange(len(games))].sum()

    best = minimize(cost, np.zeros(7), method="BFGS", options={"gtol": 1e-7})
    found = bradley_terry(games, ties="davidson", position=True)
    assert math.isclose(found.log_likelihood, -best.fun, rel_tol=1e-9)
    assert np.allclose(found.strengths, best.x[:5] - best.x[:5].mean(), atol=1e-4)
    assert np.allclose([found.position_bias, math.log(found.tie)], best.x[5:], atol=1e-4)


def test_many_judgements_recover_the_true_strengths():
    found = bradley_terry(drawn(40_000, 4, tie=0.5, position_bias=0.6), ties="davidson", position=True)
    assert np.allclose(found.strengths, STRENGTHS - STRENGTHS.mean(), atol=0.08)
    assert abs(found.position_bias - 0.6) < 0.05 and abs(found.tie - 0.5) < 0.05
    assert np.array_equal(np.argsort(found.strengths), np.arange(5))
    assert math.isclose(found.preference(4, 0), 1 / (1 + math.exp(-1.7)), abs_tol=0.03)


@pytest.mark.slow
def test_intervals_hold_the_true_strengths_as_often_as_they_say():
    truth, hits = STRENGTHS - STRENGTHS.mean(), []
    for seed in range(40):
        fits = ratings.bootstrap_fits(drawn(400, 100 + seed), resamples=100, seed=seed)
        low, high = ratings.intervals(fits, 0.9).T
        hits += list((low <= truth) & (truth <= high))
    assert binomtest(sum(hits), len(hits), 0.9).proportion_ci(0.999).high > 0.88 and np.mean(hits) < 0.97


def test_bradley_terry_does_not_see_the_order_and_elo_does():
    games = drawn(300, 5)
    other = games.take(np.random.default_rng(0).permutation(300))
    assert np.allclose(bradley_terry(games).strengths, bradley_terry(other).strengths, atol=1e-8)
    assert np.abs(ratings.elo(games) - ratings.elo(other)).max() > 1


def test_elo_moves_by_hand():
    one = Comparisons([0, 0], [1, 1], [1, 0.5], 2)
    after = ratings.elo(one, k=32)
    second = 32 * (0.5 - 1 / (1 + 10 ** (-32 / 400)))
    assert np.allclose(after, [16 + second, -16 - second]) and math.isclose(after.sum(), 0, abs_tol=1e-12)


def test_a_bootstrap_of_the_same_seed_is_the_same_and_its_middle_is_the_fit():
    games = drawn(500, 6)
    one, two = (np.stack([fit.strengths for fit in ratings.bootstrap_fits(games, 200, 7)]) for _ in range(2))
    assert np.array_equal(one, two)
    assert np.allclose(one.mean(0), bradley_terry(games).strengths, atol=0.06)


def test_both_orders_take_out_a_judges_love_of_the_first_place():
    generator = np.random.default_rng(0)
    first, second = np.zeros(20_000, int), np.ones(20_000, int)
    shown = simulate([0, 0], first, second, generator, position_bias=1.0).outcome
    swapped = simulate([0, 0], second, first, generator, position_bias=1.0).outcome
    assert shown.mean() > 0.7
    verdicts = ratings.both_orders(shown, swapped)
    assert set(verdicts) == {0, 0.5, 1} and abs(verdicts.mean() - 0.5) < 0.01


@pytest.mark.slow
def test_so_many_judgements_find_the_difference_as_often_as_promised():
    for preference in (0.6, 0.7):
        count = ratings.judgements_needed(preference)
        wins = np.random.default_rng(1).binomial(count, preference, 2000)
        power = np.mean([binomtest(int(w), count).pvalue < 0.05 for w in wins])
        assert 0.72 < power < 0.85
    assert ratings.judgements_needed(0.4) == ratings.judgements_needed(0.6) > ratings.judgements_needed(0.7)


def test_a_prior_keeps_finite_what_has_no_maximum():
    games = Comparisons([0, 1, 0], [1, 2, 2], [1, 1, 1], 3)
    found = bradley_terry(games, prior=0.5).strengths
    assert found[0] > found[1] > found[2] and abs(found).max() < 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Comparisons([0], [1, 2], [1], 3), "1 first, 2 second, 1 outcomes"),
        (lambda: Comparisons([], [], [], 3), "at least one"),
        (lambda: Comparisons([0], [3], [1], 3), "number them from 0 to 2"),
        (lambda: Comparisons([1], [1], [1], 3), "with itself"),
        (lambda: Comparisons([0], [1], [0.7], 3), "0, 0.5"),
        (lambda: bradley_terry(Comparisons([0, 1], [1, 2], [1, 1], 3)), "no finite maximum"),
        (lambda: bradley_terry(Comparisons([0, 1], [1, 0], [1, 1], 2), position=True), "no single finite maximum"),
        (lambda: bradley_terry(Comparisons([0, 0], [1, 1], [1, 0], 2), position=True), "one order only"),
        (lambda: bradley_terry(drawn(50, 0), ties="thirds"), "half, davidson"),
        (lambda: bradley_terry(drawn(50, 0), prior=-1), "from 0 up"),
        (lambda: ratings.bootstrap_fits(drawn(50, 0), 0), "from 1 up"),
        (lambda: ratings.intervals([], 2), "between 0 and 1"),
        (lambda: ratings.elo(drawn(50, 0), k=0), "above 0"),
        (lambda: ratings.judgements_needed(0.5), "other than 0.5"),
        (lambda: ratings.both_orders([1, 0], [1]), "one of each"),
        (lambda: simulate([0, 0], [0], [1], np.random.default_rng(0), tie=-1), "from 0 up"),
    ],
)
def test_what_cannot_be_computed_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
