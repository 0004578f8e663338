"""How far do raters agree, beyond what chance would give: kappa and alpha (chapter 17).

Ratings are an array ``(items, raters)`` of numbers or strings; a missing rating is ``None``, NaN or pandas' NA, where a
coefficient allows it. All coefficients have the form ``1 - observed disagreement / expected disagreement``: 1 is
perfect agreement, 0 is what raters reach who ignore the items, and below 0 they agree less than that.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from llmbook.metrics.checks import by_value, missing

WEIGHTS = ("nominal", "linear", "quadratic")
LEVELS = ("nominal", "ordinal", "interval")


def _choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: it takes one of {', '.join(allowed)}")


def _table(ratings: Sequence[Sequence[Any]] | np.ndarray) -> list[list[Any]]:
    """Return ratings as a list of rows of the same length from 2 up, or say which row is wrong."""
    if hasattr(ratings, "to_numpy"):  # a data frame gives its columns' names otherwise
        ratings = ratings.to_numpy()
    rows = ratings.tolist() if hasattr(ratings, "tolist") else [list(row) for row in ratings]
    if not set(map(type, itertools.chain.from_iterable(rows))) <= {str, int, float, type(None)}:
        rows = [by_value(row) for row in rows]
    if not rows:
        raise ValueError("no item to rate: give ratings as (items, raters) with at least one item")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"item {number} has {len(row)} ratings, item 0 has {len(rows[0])}: give each item one place for every "
                "rater, None where there is no rating"
            )
    if len(rows[0]) < 2:
        raise ValueError("one rater: agreement needs at least two, ratings as (items, raters)")
    return rows


def observed_agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Return the share of items to which two raters gave the same label.

    Raises:
        ValueError: see :func:`cohen_kappa`.
    """
    first, second = _two(first, second)
    return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))


def _two(first: Sequence[Any], second: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return two raters' ratings as lists of Python's own values, none missing."""
    first, second = by_value(first), by_value(second)
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"{len(first)} ratings of the one rater, {len(second)} of the other: give one of each for every item, at "
            "least one"
        )
    for name, given in (("first", first), ("second", second)):
        if odd := [number for number, value in enumerate(given) if missing(value)]:
            raise ValueError(
                f"the {name} rater left items out, {name}[{odd[0]}] is {given[odd[0]]!r}: drop those items, or use "
                "krippendorff_alpha"
            )
    return first, second


def cohen_kappa(
    first: Sequence[Any], second: Sequence[Any], weights: str = "nominal", labels: Sequence[Any] | None = None
) -> float:
    """Return Cohen's kappa of two raters (Cohen 1960, doi:10.1177/001316446002000104; weighted: 1968).

    Expected disagreement is that of two raters who keep their own shares of labels and ignore the items.

    Args:
        first: a label for each item.
        second: the other rater's, in the same order.
        weights: how bad two labels' difference is: ``nominal`` all alike, ``linear`` and ``quadratic`` by their
            distance, or its square, in the order of ``labels``.
        labels: all labels in their order; by default those that occur, sorted.

    Returns:
        At most 1; NaN where both raters give all items one and the same label, since then nothing can be expected.

    Raises:
        ValueError: different numbers of ratings, none, missing ones, a label that is not in ``labels``.
    """
    _choice("weights", weights, WEIGHTS)
    first, second = _two(first, second)
    known = sorted({*first, *second}) if labels is None else by_value(labels)
    place = {label: number for number, label in enumerate(known)}
    if odd := [label for label in (*first, *second) if label not in place]:
        raise ValueError(f"label {odd[0]!r} is not among labels={known}: add it, or correct the rating")
    counts = np.zeros((len(known), len(known)))  # (labels of the first, labels of the second)
    np.add.at(counts, ([place[label] for label in first], [place[label] for label in second]), 1)
    distance = np.abs(np.subtract.outer(np.arange(len(known)), np.arange(len(known)))).astype(float)
    cost = {"nominal": np.sign(distance), "linear": distance, "quadratic": distance**2}[weights]  # (labels, labels)
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()  # (labels, labels)
    return _coefficient(float((cost * counts).sum()), float((cost * expected).sum()))


def _coefficient(observed: float, expected: float) -> float:
    return 1 - observed / expected if expected > 0 else float("nan")


def fleiss_kappa(ratings: Sequence[Sequence[Any]] | np.ndarray) -> float:
    """Return Fleiss' kappa of two or more raters (Fleiss 1971, doi:10.1037/h0031619).

    The raters of an item may be others than those of the next, as long as they are as many: only the counts of labels
    matter, and chance is drawn from the labels of all raters together.

    Args:
        ratings: labels ``(items, raters)``, none missing.

    Returns:
        At most 1; NaN where all ratings are one and the same label.

    Raises:
        ValueError: no item, fewer than two raters, rows of different lengths, a missing rating.
    """
    rows = _table(ratings)
    for number, row in enumerate(rows):
        if any(map(missing, row)):
            raise ValueError(f"item {number} lacks a rating: Fleiss' kappa takes all; use krippendorff_alpha")
    place = {label: number for number, label in enumerate(dict.fromkeys(label for row in rows for label in row))}
    counts = np.zeros((len(rows), len(place)))  # (items, labels)
    for number, row in enumerate(rows):
        np.add.at(counts[number], [place[label] for label in row], 1)
    raters = counts.sum(1)[0]
    agreeing = (counts * (counts - 1)).sum(1) / (raters * (raters - 1))  # (items,): share of pairs that agree
    shares = counts.sum(0) / counts.sum()  # (labels,)
    return _coefficient(1 - float(agreeing.mean()), 1 - float((shares**2).sum()))


def krippendorff_alpha(ratings: Sequence[Sequence[Any]] | np.ndarray, level: str = "nominal") -> float:
    """Return Krippendorff's alpha of two or more raters, each of whom may have left items out.

    Every pair of ratings of one item counts, divided by the item's number of ratings less one, so that each rating
    weighs the same; items with a single rating say nothing and are left out. Expected disagreement is that of two
    ratings drawn without replacement from all that were counted (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability").

    Args:
        ratings: ``(items, raters)``, ``None`` or NaN where there is no rating.
        level: ``nominal`` labels; ``ordinal``, where the distance of two labels is the number of ratings between them;
            ``interval``, the square of the numbers' difference.

    Returns:
        At most 1; NaN where all ratings are one and the same label.

    Raises:
        ValueError: no item, one rater, rows of different lengths, no item with two ratings, or text where the level
            takes numbers (``interval``).
    """
    _choice("level", level, LEVELS)
    rows = [[value for value in row if not missing(value)] for row in _table(ratings)]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise ValueError("no item has two ratings: alpha compares ratings of one item; give some to two raters")
    labels = sorted({label for row in rows for label in row})
    if level == "interval" and any(isinstance(label, str) for label in labels):
        raise ValueError(f"level='interval' takes numbers and found {labels[0]!r}: use 'nominal', or give numbers")
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(rows), len(labels)))  # (items, labels)
    for number, row in enumerate(rows):
        np.add.at(counts[number], [place[label] for label in row], 1)
    weight = 1 / (counts.sum(1) - 1)  # (items,)
    coincidences = (counts * weight[:, None]).T @ counts - np.diag(weight @ counts)  # (labels, labels)
    totals = counts.sum(0)  # (labels,): ratings that have a partner
    distance = _distance(labels, totals, level)
    expected = (np.outer(totals, totals) - np.diag(totals)) / (totals.sum() - 1)  # (labels, labels)
    return _coefficient(float((distance * coincidences).sum()), float((distance * expected).sum()))


def _distance(labels: Sequence[Any], totals: np.ndarray, level: str) -> np.ndarray:
    """Return squared distances ``(labels, labels)``."""
    if level == "nominal":
        return 1 - np.eye(len(labels))
    if level == "interval":
        values = np.asarray(labels, dtype=float)
        return np.subtract.outer(values, values) ** 2
    middle = np.cumsum(totals) - totals / 2  # ratings below a label, and half of its own
    return np.subtract.outer(middle, middle) ** 2
