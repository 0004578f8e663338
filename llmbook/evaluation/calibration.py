"""Whether a model is right as often as it says: reliability, calibration error, temperature (chapter 17)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

Floats = NDArray[np.float64]
Binning = Literal["width", "mass"]


class Reliability(NamedTuple):
    """A reliability diagram: one entry for each bin that holds an item.

    Attributes:
        edges: of all bins, ``(bins + 1,)``.
        confidence: mean confidence in each bin that is not empty, ``(filled,)``.
        accuracy: share of right answers there, ``(filled,)``.
        items: how many items there, ``(filled,)``.
    """

    edges: Floats
    confidence: Floats
    accuracy: Floats
    items: NDArray[np.int64]


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 10, binning: Binning = "width") -> Reliability:
    """Sort answers into bins by how sure the model was, and compare with how often it was right.

    Args:
        confidence: probability that the model gave to the answer it chose, ``(items,)``, from 0 to 1.
        correct: 1 or 0 for each item.
        bins: number of bins.
        binning: ``width``: bins of equal width from 0 to 1; ``mass``: with the same number of items in each.

    Raises:
        ValueError: different lengths, no items, values out of range, fewer than one bin.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not len(sure):
        raise ValueError(f"confidence has shape {sure.shape} and correct {right.shape}: one number of each per item")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError(f"confidence runs from {sure.min()} to {sure.max()}: it takes probabilities from 0 to 1")
    if not np.isin(right, (0, 1)).all():
        raise ValueError("correct holds other values than 0 and 1: give one of them for each item")
    if bins < 1:
        raise ValueError(f"bins={bins}: it takes a whole number from 1 up")
    if binning == "width":
        edges = np.linspace(0, 1, bins + 1)  # (bins + 1,)
        place = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)  # (items,): (low, high]
    elif binning == "mass":
        order = sure.argsort(kind="stable")
        place = np.empty(len(sure), dtype=np.int64)
        place[order] = np.arange(len(sure)) * bins // len(sure)
        edges = np.concatenate([[0.0], [sure[order][len(sure) * k // bins] for k in range(1, bins)], [1.0]])
    else:
        raise ValueError(f"binning={binning!r}: it takes width, mass")
    count = np.bincount(place, minlength=bins)  # (bins,)
    filled = count > 0
    means = [np.bincount(place, values, bins)[filled] / count[filled] for values in (sure, right)]
    return Reliability(edges, means[0], means[1], count[filled])


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = 10, binning: Binning = "width"
) -> float:
    """Return the mean distance of confidence and accuracy over the bins, weighted by their items.

    Naeini et al. 2015, 10.1609/aaai.v29i1.9602; Guo et al. 2017, arXiv:1706.04599. It is biased upwards: a bin of few
    items is off its confidence by chance, and every distance counts as positive.
    """
    found = reliability(confidence, correct, bins, binning)
    return float(np.abs(found.confidence - found.accuracy) @ found.items / found.items.sum())


def error_of_calibrated(
    confidence: ArrayLike, bins: int = 10, binning: Binning = "width", resamples: int = 200, seed: int = 0
) -> Floats:
    """Return what a perfectly calibrated model with these confidences would show as its error: ``(resamples,)``.

    Each resample makes every answer right with exactly the probability that the model gave it. The mean is the bias of
    the measurement, its upper quantiles the threshold of a test (Vaicenavicius et al. 2019, arXiv:1902.06977).
    """
    sure = np.asarray(confidence, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.random((resamples, len(sure))) < sure  # (resamples, items)
    return np.array([expected_calibration_error(sure, row, bins, binning) for row in drawn])


def brier_score(probabilities: ArrayLike, gold: ArrayLike) -> float:
    """Return the mean squared distance between probabilities ``(items, choices)`` and the right answers (Brier 1950).

    0 is the best. ``gold`` ``(items,)`` is the place of each right choice. Unlike a calibration error it cannot be
    lowered by giving up resolution: it is a proper score.
    """
    given, right = _probabilities(probabilities, gold)
    target = np.zeros_like(given)
    target[np.arange(len(right)), right] = 1.0
    return float(((given - target) ** 2).sum(1).mean())


def _probabilities(values: ArrayLike, gold: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    given, right = np.asarray(values, dtype=np.float64), np.asarray(gold, dtype=np.int64)
    if given.ndim != 2 or right.shape != given.shape[:1] or not len(right):
        raise ValueError(f"scores {given.shape} and gold {right.shape}: their shapes are (items, choices) and (items,)")
    if right.min() < 0 or right.max() >= given.shape[1]:
        raise ValueError(f"gold runs from {right.min()} to {right.max()}: there are {given.shape[1]} choices, from 0")
    return given, right


def negative_log_likelihood(scores: ArrayLike, gold: ArrayLike, temperature: float = 1.0) -> float:
    """Return the mean cost of the right choices in nats under ``softmax(scores / temperature)``.

    Args:
        scores: ``(items, choices)``, such as log-likelihoods.
        gold: place of the right choice, ``(items,)``.
        temperature: above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: it takes a number above 0")
    given, right = _probabilities(scores, gold)
    scaled = given / temperature  # (items, choices)
    top = scaled.max(1)
    normaliser = top + np.log(np.exp(scaled - top[:, None]).sum(1))  # (items,)
    return float((normaliser - scaled[np.arange(len(right)), right]).mean())


def fit_temperature(scores: ArrayLike, gold: ArrayLike) -> float:
    """Return the temperature that makes the right choices most likely (Guo et al. 2017, arXiv:1706.04599).

    Above 1 where the model is too sure, below 1 where it is not sure enough. The order of the choices, and so the
    accuracy, stays. Fit it on other items than those that are judged.

    Args:
        scores: ``(items, choices)``.
        gold: ``(items,)``.
    """
    given, right = _probabilities(scores, gold)

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(given, right, float(np.exp(log_temperature)))

    found = minimize_scalar(cost, bounds=(np.log(1e-2), np.log(1e2)), method="bounded")
    return float(np.exp(found.x))
