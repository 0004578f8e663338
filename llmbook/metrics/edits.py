"""Edit distance, its alignment, and the error rates of words and characters (chapter 16)."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from llmbook.metrics.checks import text_pairs, whole

_BOTH, _DELETE, _INSERT = range(3)  # the ways to a cell of the table: an item of both sides, of the reference alone ...


class Edit(NamedTuple):
    """One step of an alignment; an index is ``None`` where the step takes nothing from that side."""

    kind: str  # "match", "substitute", "delete" or "insert"
    reference: int | None
    prediction: int | None


def edit_distance(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
    """Fewest substitutions, deletions and insertions that turn one sequence into the other (Levenshtein 1966).

    A column of the table of distances is held in two integers, one bit for each row: whether the number grows or
    shrinks from row to row (Myers 1999, in the form of Hyyrö 2003). One step handles a whole column.

    Args:
        prediction: any sequence of hashable items: a text is a sequence of characters.
        reference: likewise. The distance is symmetric.

    Raises:
        ValueError: an item that is missing: ``None``, NaN or the like.
    """
    return _distance(*_by_value(prediction, reference))


def _by_value(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> tuple[Sequence, Sequence]:
    """Return sequences whose items are hashed by value, none missing; those of texts and whole numbers are already."""
    if isinstance(prediction, str) and isinstance(reference, str):
        return prediction, reference
    known = isinstance(prediction, list) and isinstance(reference, list)
    if known and {*map(type, prediction), *map(type, reference)} <= {str, int}:
        return prediction, reference
    return whole("prediction", prediction), whole("reference", reference)


def _distance(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
    """Compute :func:`edit_distance` of sequences whose items are hashed by value."""
    start, end_a, end_b = 0, len(prediction), len(reference)
    while start < end_a and start < end_b and prediction[start] == reference[start]:
        start += 1
    while end_a > start and end_b > start and prediction[end_a - 1] == reference[end_b - 1]:
        end_a, end_b = end_a - 1, end_b - 1
    short, long = sorted((prediction[start:end_a], reference[start:end_b]), key=len)
    if len(short) <= 1:
        return len(long) - (len(short) == 1 and short[0] in long)

    places: dict[Hashable, int] = {}  # for each item the rows where it stands
    bit = 1
    for item in long:
        places[item] = places.get(item, 0) | bit
        bit <<= 1
    full, last = bit - 1, bit >> 1
    up, down, distance = full, 0, len(long)  # bits of rows where the column's distance rises, falls
    find = places.get
    for item in short:
        equal = find(item, 0)
        across = (((equal & up) + up) ^ up) | equal
        rise = down | (full & ~(across | up))
        fall = up & across
        if rise & last:
            distance += 1
        elif fall & last:
            distance -= 1
        rise = (rise << 1) | 1
        equal |= down
        up = (fall << 1) | (full & ~(equal | rise))
        down = rise & equal & full
        up &= full
    return distance


def align(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> list[Edit]:
    """One shortest way from the reference to the prediction, step by step (Wagner and Fischer 1974).

    The distance is unique, the way is not: here a match or substitution goes before a deletion, that before an
    insertion, seen from the end. Other programs break ties otherwise and report other numbers of substitutions. It
    takes a byte for each pair of items: 9 MB for 3,000 and 3,000.

    Args:
        prediction: any sequence of hashable items.
        reference: likewise.

    Raises:
        ValueError: an item that is missing, see :func:`edit_distance`.
    """
    prediction, reference = _by_value(prediction, reference)
    width = len(prediction) + 1
    above = list(range(width))  # the last row of the table of distances, which alone is kept
    taken = [bytearray([_INSERT]) * width]  # taken[i][j]: last step to i items of the reference, j of the prediction
    for i, item in enumerate(reference, 1):
        row, steps_of_row = [i], bytearray([_DELETE])
        left = i
        for j, other in enumerate(prediction):
            step, least = _BOTH, above[j] + (item != other)
            if (deleted := above[j + 1] + 1) < least:
                step, least = _DELETE, deleted
            if left + 1 < least:
                step, least = _INSERT, left + 1
            row.append(left := least)
            steps_of_row.append(step)
        above = row
        taken.append(steps_of_row)
    steps = []
    i, j = len(reference), len(prediction)
    while i or j:
        step = taken[i][j]
        if step == _BOTH:
            i, j = i - 1, j - 1
            steps.append(Edit("match" if reference[i] == prediction[j] else "substitute", i, j))
        elif step == _DELETE:
            i -= 1
            steps.append(Edit("delete", i, None))
        else:
            j -= 1
            steps.append(Edit("insert", None, j))
    return steps[::-1]


def _error_rate(predictions: list[Sequence[str]], references: list[Sequence[str]], unit: str) -> float:
    total = sum(map(len, references))
    if not total:
        raise ValueError(f"the references are empty, so the errors have no {unit}s to be divided by: leave them out")
    return sum(map(_distance, predictions, references)) / total


def word_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Edits for each word of the reference, over all texts together; it can exceed 1.

    Args:
        predictions: texts; a word is what stands between white space.
        references: one text for each prediction, at least one of them not empty.
    """
    given, right = text_pairs(predictions, references)
    return _error_rate([text.split() for text in given], [text.split() for text in right], "word")


def character_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Edits for each character of the reference (Unicode code points, spaces inside the text included).

    Args:
        predictions: texts; white space at their ends does not count.
        references: one text for each prediction, at least one of them not empty.
    """
    given, right = text_pairs(predictions, references)
    return _error_rate([text.strip() for text in given], [text.strip() for text in right], "character")
