"""Accuracy, precision, recall and F1 from one table of counts (chapter 16)."""

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmbook.metrics.checks import Score, by_value, choice, listed, paired, whole

AVERAGES = ("macro", "micro", "weighted")


def confusion(
    predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[Any] | None = None
) -> tuple[list[Any], np.ndarray]:
    """Count how often each label was predicted where each label was right.

    Args:
        predictions: one label for each item; anything hashable, or an array. A missing one is refused.
        references: the right labels, as many.
        labels: the labels in the order wanted; by default all that occur, sorted. It may name labels that do not
            occur, and has to name all that do.

    Returns:
        The labels, and counts ``(reference label, predicted label)``.
    """
    given, right = paired(listed(predictions), listed(references))
    pairs = Counter(zip(right, given, strict=True))
    occurring = {label for pair in pairs for label in pair}
    if not set(map(type, occurring)) <= {str, int, bool}:  # few are looked at, all only where there is a reason to
        given, right = whole("predictions", given), whole("references", right)
        pairs = Counter(zip(right, given, strict=True))
        occurring = {label for pair in pairs for label in pair}
    try:
        names = sorted(occurring) if labels is None else by_value(labels)  # type: ignore[type-var]
    except TypeError as error:
        raise ValueError("labels of different kinds have no order: pass labels=[...] in the order wanted") from error
    index = {label: number for number, label in enumerate(names)}
    if len(index) < len(names):
        raise ValueError(f"labels={names!r} names a label twice: give every label once")
    if unknown := occurring - index.keys():
        raise ValueError(f"unknown labels {sorted(map(repr, unknown))}: labels={names!r} has to name all that occur")
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for (reference, prediction), count in pairs.items():
        counts[index[reference], index[prediction]] = count
    return names, counts


def accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Share of items whose predicted label is the right one, from 0 to 1."""
    given, right = whole("predictions", predictions), whole("references", references)
    paired(given, right)
    return operator.countOf(map(operator.eq, given, right), True) / len(right)


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Quotients, 0 where the divisor is 0."""
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom) != 0)


def precision_recall_f1(
    predictions: Sequence[Any],
    references: Sequence[Any],
    average: str | None = "macro",
    labels: Sequence[Any] | None = None,
) -> Score | dict[Any, Score]:
    """Precision ``TP / (TP + FP)``, recall ``TP / (TP + FN)`` and F1, for each label or averaged over labels.

    Args:
        predictions: one label for each item.
        references: the right labels, as many.
        average: ``macro`` gives every label the same weight, ``weighted`` weighs it by how often it is right, ``micro``
            adds up the counts of all labels first; ``None`` returns one score for each label.
        labels: see :func:`confusion`.

    Returns:
        One score, or for ``average=None`` a dictionary from labels to scores. Where a quotient has no denominator (a
        label that was never predicted has no precision) it is 0, as in scikit-learn with ``zero_division=0``.
    """
    if average is not None:
        choice("average", average, AVERAGES)
    names, counts = confusion(predictions, references, labels)
    hits, predicted, right = counts.diagonal(), counts.sum(0), counts.sum(1)  # (labels,)
    if average == "micro":
        hits, predicted, right = (each.sum(keepdims=True) for each in (hits, predicted, right))
    columns = _divide(hits, predicted), _divide(hits, right), _divide(2 * hits, predicted + right)
    rows = np.stack(columns, axis=1)  # (labels, 3)
    if average is None:
        return {name: Score(*row) for name, row in zip(names, rows.tolist(), strict=True)}
    return Score(*np.average(rows, axis=0, weights=right if average == "weighted" else None).tolist())
