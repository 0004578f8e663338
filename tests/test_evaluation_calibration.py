"""Reliability, calibration error and its bias, temperature."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from llmbook.evaluation import calibration

RNG = np.random.default_rng(0)
SURE = RNG.random(500)
RIGHT = (RNG.random(500) < SURE**2).astype(float)


@pytest.mark.parametrize(("binning", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_reliability_is_that_of_scikit_learn(binning, strategy):
    found = calibration.reliability(SURE, RIGHT, 10, binning)
    accuracy, confidence = calibration_curve(RIGHT, SURE, n_bins=10, strategy=strategy)
    assert_allclose(found.confidence, confidence, atol=0.01)
    assert_allclose(found.accuracy, accuracy, atol=0.03)
    assert found.items.sum() == 500


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_the_error_lies_between_the_gap_of_the_means_and_one(items, bins):
    sure, right = (np.array(values, dtype=float) for values in zip(*items, strict=True))
    for binning in ("width", "mass"):
        error = calibration.expected_calibration_error(sure, right, bins, binning)
        assert abs(sure.mean() - right.mean()) - 1e-9 <= error <= 1


def test_error_by_hand():
    error = calibration.expected_calibration_error([0.95, 0.85, 0.85, 0.35], [1, 1, 0, 0], bins=10)
    assert error == pytest.approx((0.05 + 2 * 0.35 + 0.35) / 4)


def test_a_calibrated_model_shows_an_error_that_falls_with_items():
    few, many = (calibration.error_of_calibrated(RNG.random(n), resamples=100).mean() for n in (50, 5000))
    assert few > 0.06 > 0.03 > many > 0


def test_the_null_holds_a_calibrated_model():
    sure = RNG.random(400)
    right = (RNG.random(400) < sure).astype(float)
    null = calibration.error_of_calibrated(sure)
    assert calibration.expected_calibration_error(sure, right) < np.quantile(null, 0.999)


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_temperature_finds_the_one_that_made_the_data(truth):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 4)) * 2 * truth
    chances = np.exp(scores / truth)
    chances /= chances.sum(1, keepdims=True)
    gold = (rng.random((20_000, 1)) > chances.cumsum(1)).sum(1)
    assert calibration.fit_temperature(scores, gold) == pytest.approx(truth, rel=0.05)


def test_cost_is_that_of_scikit_learn_and_no_temperature_is_better_than_the_fitted():
    scores = RNG.normal(size=(200, 3)) * 4
    gold = RNG.integers(3, size=200)
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert calibration.negative_log_likelihood(scores, gold) == pytest.approx(log_loss(gold, probs))
    best = calibration.negative_log_likelihood(scores, gold, calibration.fit_temperature(scores, gold))
    assert all(best <= calibration.negative_log_likelihood(scores, gold, t) + 1e-9 for t in (0.5, 1, 2, 5, 20))


def test_brier_score_of_certainty():
    assert calibration.brier_score([[1, 0], [0, 1]], [0, 1]) == 0
    assert calibration.brier_score([[1, 0]], [1]) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: calibration.reliability([0.5], [1, 0]), "one number of each"),
        (lambda: calibration.reliability([], []), "one number of each"),
        (lambda: calibration.reliability([1.5], [1]), "from 0 to 1"),
        (lambda: calibration.reliability([0.5], [0.5]), "other values"),
        (lambda: calibration.reliability([0.5], [1], bins=0), "bins=0"),
        (lambda: calibration.reliability([0.5], [1], binning="depth"), "width, mass"),
        (lambda: calibration.fit_temperature([[1.0, 2.0]], [2]), "2 choices"),
        (lambda: calibration.brier_score([0.5], [0]), "shapes"),
        (lambda: calibration.negative_log_likelihood([[1.0, 2.0]], [0], 0), "temperature=0"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
