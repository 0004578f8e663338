"""Entities as tags of words, BIO and BIOES, and their scores (chapter 12).

``B-x`` begins an entity of the kind ``x``, ``I-x`` goes on with it, ``O`` is outside (Ramshaw and Marcus 1995,
arXiv:cmp-lg/9505040). BIOES also marks the last word, ``E-x``, and an entity of one word, ``S-x``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llmbook.metrics import Score

PREFIXES = {"BIO": ("B", "I"), "BIOES": ("B", "I", "E", "S")}


class Entity(NamedTuple):
    """A run of words that names something: its kind, its first word, and the one behind its last."""

    kind: str
    begin: int
    end: int


def _parts(tags: Sequence[str], scheme: str = "BIOES") -> list[tuple[str, str]]:
    """Return the prefix and the kind of each tag."""
    parts = []
    for place, tag in enumerate(tags):
        if not isinstance(tag, str):
            raise ValueError(f"tag {place} is {tag!r}: a word without a tag is O, or left out of both rows")
        prefix, dash, kind = tag.partition("-")
        if tag != "O" and not (dash and kind and prefix in PREFIXES[scheme]):
            allowed = ", ".join(f"{letter}-kind" for letter in PREFIXES[scheme])
            raise ValueError(f"tag {place} is {tag!r}: {scheme} has O, {allowed}")
        parts.append((prefix, kind))
    return parts


def entity_spans(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that tags name, BIO or BIOES, read leniently as CoNLL's script does.

    An entity begins at ``B`` or ``S``, behind ``E`` or ``S``, and wherever the kind changes, so that ``O I-x I-x`` is
    one entity. A model may predict such a sequence; annotators do not write it.

    Raises:
        ValueError: a tag that is of neither scheme.
    """
    found: list[Entity] = []
    open_kind, begin, closed = "", 0, True
    parts = _parts(tags)
    for place, (prefix, kind) in enumerate([*parts, ("O", "")]):
        if open_kind and (kind != open_kind or prefix in "BS" or closed):
            found.append(Entity(open_kind, begin, place))
            open_kind = ""
        if kind and not open_kind:
            open_kind, begin = kind, place
        closed = prefix in "ES"
    return found


def to_tags(entities: Sequence[Entity], length: int, scheme: str = "BIO") -> list[str]:
    """Return the tags of so many words, in ``BIO`` or ``BIOES``.

    Raises:
        ValueError: an unknown scheme, an entity without a word or outside the text, or two that overlap.
    """
    if scheme not in PREFIXES:
        raise ValueError(f"scheme={scheme!r}: it takes {', '.join(PREFIXES)}")
    tags = ["O"] * length
    for entity in entities:
        kind, begin, end = entity
        if not (kind and 0 <= begin < end <= length) or set(tags[begin:end]) != {"O"}:
            raise ValueError(f"{entity} in {length} words: it takes a kind, at least one word, and no overlap")
        tags[begin:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - begin - 1)
        if scheme == "BIOES":
            tags[end - 1] = f"{'S' if end - begin == 1 else 'E'}-{kind}"
    return tags


def entity_scores(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Score:
    """Precision, recall and F1 of whole entities over all rows: kind, first and last word have to be right.

    The same numbers as ``seqeval``'s in its default mode. Where a quotient has no denominator it is 0.

    Raises:
        ValueError: rows of different number or length, or a word without a tag.
    """
    lengths = [len(row) for row in predictions], [len(row) for row in references]
    if lengths[0] != lengths[1]:
        raise ValueError("predictions and references differ in rows or words: give one tag for each word of each row")
    hits = given = right = 0
    for prediction, reference in zip(predictions, references, strict=True):
        ours, theirs = set(entity_spans(prediction)), set(entity_spans(reference))
        hits, given, right = hits + len(ours & theirs), given + len(ours), right + len(theirs)
    both = given + right
    return Score(hits / given if given else 0.0, hits / right if right else 0.0, 2 * hits / both if both else 0.0)
