"""What the metrics share: a triple of precision, recall and F, counted n-grams, and refusing what cannot be judged.

Columns come as lists, arrays, tensors, series of pandas, generators; their elements as Python's, numpy's or torch's
(``0-dim`` tensors equal each other by value and are hashed by identity). What is missing in them, ``None``, NaN or
pandas' NA, is refused here with its place.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_PLAIN = {str, int, bool, bytes}  # types whose values are neither missing nor of another library
References = Sequence[str | Sequence[str]]


class Score(NamedTuple):
    """Precision, recall and their harmonic mean, each from 0 to 1."""

    precision: float
    recall: float
    f1: float


def harmonic(precision: float, recall: float, beta: float = 1.0) -> float:
    """Return F-beta, ``(1 + beta^2) P R / (beta^2 P + R)``, and 0 where both are 0."""
    bottom = beta * beta * precision + recall
    return (1 + beta * beta) * precision * recall / bottom if bottom else 0.0


def count_ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """Count the runs of ``order`` tokens; none where the text is shorter."""
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def clipped(given: Counter[tuple[str, ...]], allowed: Counter[tuple[str, ...]]) -> int:
    """Count the n-grams of one table that the other has too, each as often as the other has it at most."""
    return sum(min(count, allowed[gram]) for gram, count in given.items() if gram in allowed)


def missing(value: Any) -> bool:
    """Return whether a value stands for none: ``None``, NaN of any kind, NaT, pandas' NA."""
    if type(value) in _PLAIN:
        return False
    if value is None or type(value).__name__ == "NAType":
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError, RuntimeError):  # an array, which is no single value
        return False


def _distinct(values: list[Any]) -> Collection[Any]:
    """Return each value once where they can be hashed; most columns have few, and those are looked at."""
    try:
        return set(values)
    except TypeError:
        return values


def listed(values: Iterable[Any]) -> list[Any]:
    """Return a column as a list; refuse what is a single value."""
    found = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(found, Iterable):
        raise ValueError(f"{values!r} is a single value: give a list, or an array or tensor of one dimension")
    return found if isinstance(found, list) else list(found)


def _column(values: Iterable[Any]) -> tuple[list[Any], Collection[Any]]:
    """Return a column as Python's own values, and each of them once."""
    found = listed(values)
    distinct = _distinct(found)
    if any(hasattr(kind, "item") for kind in set(map(type, distinct)) - _PLAIN):
        found = [value.item() if hasattr(value, "item") and not np.shape(value) else value for value in found]
        distinct = _distinct(found)
    return found, distinct


def _plain_numbers(values: list[Any]) -> bool:
    """Return whether all are Python's own numbers and none is NaN: in one sum, where a look at each costs more."""
    try:
        total = sum(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return type(total) in (int, float) and total == total


def by_value(values: Iterable[Any]) -> list[Any]:
    """Return a column's elements as Python's own values, which are hashed and compared by value.

    Raises:
        ValueError: it is no column but a single value.
    """
    return _column(values)[0]


def whole(name: str, values: Iterable[Any]) -> list[Any]:
    """Return :func:`by_value` values, none of which is missing.

    Args:
        name: of the argument, for the error.
        values: the column.

    Raises:
        ValueError: a missing value; the message has its place.
    """
    found = listed(values)
    if _plain_numbers(found):
        return found
    found, distinct = _column(found)
    if any(map(missing, distinct)):
        number = [missing(value) for value in found].index(True)
        raise ValueError(
            f"{name}[{number}] is {found[number]!r}, a missing value: leave the item out on both sides, or give it a "
            "label of its own, as where a missing answer is a wrong one"
        )
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) > 0


def _text(name: str, place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(
            f"{name}{place} is {value!r:.60}, no text: give a text, '' for an empty answer, or leave the pair out"
        )
    return value


def texts(predictions: Iterable[Any], references: Iterable[Any]) -> tuple[list[str], list[list[str]]]:
    """Return predictions, and for each a list of its references, all of them texts.

    Raises:
        ValueError: see :func:`paired`; an element that is no text, or an empty list of references.
    """
    given, right = paired(predictions, references)
    several = [list(each) if _is_list(each) else [each] for each in right]
    for number, (prediction, allowed) in enumerate(zip(given, several, strict=True)):
        if not isinstance(prediction, str):
            _text("predictions", f"[{number}]", prediction)
        if not allowed:
            raise ValueError(f"prediction {number} has an empty list of references: give at least one text")
        for place, text in enumerate(allowed):
            if not isinstance(text, str):
                _text("references", f"[{number}]" if text is right[number] else f"[{number}][{place}]", text)
    return given, several


def text_pairs(predictions: Iterable[Any], references: Iterable[Any]) -> tuple[list[str], list[str]]:
    """Return predictions and references, one text each.

    Raises:
        ValueError: see :func:`paired`; an element that is no text.
    """
    given, right = paired(predictions, references)
    for name, column in (("predictions", given), ("references", right)):
        for number, text in enumerate(column):
            if not isinstance(text, str):
                _text(name, f"[{number}]", text)
    return given, right


def as_numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Return an array in double precision, NaN where a value is missing; see :func:`numbers`."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()
    elif isinstance(values, Iterator):
        values = list(values)
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # tensors with a gradient in a list, NA, text, ragged rows
        return _one_by_one(name, values, error)


def refuse_missing(name: str, array: NDArray[np.float64]) -> None:
    """Refuse an array with NaN in it; the message has the first place."""
    if (odd := np.argwhere(np.isnan(array))).size:
        place = ", ".join(map(str, odd[0].tolist()))
        raise ValueError(f"{name}[{place}] is None or NaN, a missing value: leave it out")


def numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Return an array of numbers, none of which is missing, in double precision.

    Args:
        name: of the argument, for the error.
        values: an array, tensor, list (of lists) or generator; with or without a gradient, on any device.

    Raises:
        ValueError: a value that is missing or no number; the message has its place.
    """
    array = as_numbers(name, values)
    if np.isnan(array.sum()):  # one pass, without a copy
        refuse_missing(name, np.atleast_1d(array))
    return array


def _one_by_one(name: str, values: Any, error: Exception) -> NDArray[np.float64]:
    if not _is_list(values):
        raise ValueError(f"{name} is {values!r:.60}: it takes numbers") from error
    found: list[Any] = []
    for number, value in enumerate(values):
        if _is_list(value):
            found.append(numbers(f"{name}[{number}]", value))
            continue
        try:
            found.append(np.asarray(by_value([value])[0], dtype=np.float64))
        except (TypeError, ValueError) as nested:
            raise ValueError(f"{name}[{number}] is {value!r:.60}, missing or no number: leave it out") from nested
    if len({np.shape(value) for value in found}) > 1:
        raise ValueError(f"{name} has rows of different lengths: give an array") from error
    return np.asarray(found)


def paired(predictions: Iterable[Any], references: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Return two columns as lists; refuse texts in place of lists, nothing at all, and lists of different lengths."""
    for name, given in (("predictions", predictions), ("references", references)):
        if isinstance(given, str):
            raise ValueError(f"{name} is one text, {given[:40]!r}: give a list of texts, if need be with one element")
    predictions = predictions if isinstance(predictions, list) else list(predictions)
    references = references if isinstance(references, list) else list(references)
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: give one reference, or one list of "
            "references, for every prediction, in the same order"
        )
    if not len(predictions):
        raise ValueError("nothing to judge: predictions and references are empty; give at least one pair")
    return predictions, references


def choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: it takes one of {', '.join(allowed)}")


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a number below the least allowed one."""
    if value < least:
        raise ValueError(f"{name}={value}: it takes a whole number from {least} up")
