"""What the metrics share: a triple of precision, recall and F, counted n-grams, and refusing what cannot be judged."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
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


def paired(predictions: Sequence[T], references: Sequence[object]) -> None:
    """Refuse texts in place of lists, nothing at all, and lists of different lengths."""
    for name, given in (("predictions", predictions), ("references", references)):
        if isinstance(given, str):
            raise ValueError(f"{name} is one text, {given[:40]!r}: give a list of texts, if need be with one element")
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: give one reference, or one list of "
            "references, for every prediction, in the same order"
        )
    if not len(predictions):
        raise ValueError("nothing to judge: predictions and references are empty; give at least one pair")


def several(references: References) -> list[list[str]]:
    """Return every prediction's references as a list; a list without any is an error that says where."""
    found = [[given] if isinstance(given, str) else list(given) for given in references]
    for number, given in enumerate(found):
        if not given:
            raise ValueError(f"prediction {number} has an empty list of references: give at least one text")
    return found


def choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: it takes one of {', '.join(allowed)}")


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a number below the least allowed one."""
    if value < least:
        raise ValueError(f"{name}={value}: it takes a whole number from {least} up")
