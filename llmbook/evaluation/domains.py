"""A vertical domain: its text, its vocabulary, what a tokenizer costs it, and how knowledge transfers (chapter 18)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llmbook.tokenization import special_as_text

WORD = re.compile(r"[^\W\d_]+(?:[_'’-][^\W\d_]+)*")


# --- text -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Domain:
    """The texts of one field.

    Attributes:
        name: of the field.
        train: texts to learn from.
        validation: held-out texts to choose with; may be empty.
        test: held-out texts to judge with.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a domain that cannot be learned or cannot be judged."""
        for split, use in (("train", "learn from"), ("test", "judge with")):
            if not any(text.strip() for text in getattr(self, split)):
                raise ValueError(
                    f"the domain {self.name!r} has no {split} text: give at least one document to {use}, kept apart "
                    "from the other splits"
                )
        if shared := set(self.train) & set(self.test):
            raise ValueError(
                f"the domain {self.name!r} has {len(shared)} texts in both train and test, {min(shared)[:40]!r} first: "
                "remove them from one"
            )


def read_domains(
    corpus: Mapping[str, Mapping[str, Sequence[str]]], names: Iterable[str] | None = None, column: str = "topic"
) -> dict[str, Domain]:
    """Return the domains of a corpus such as ``corpora.pydocs()``, by name, in the order of the names.

    Args:
        corpus: the splits ``train``, ``test`` and, where there is one, ``validation``, with the columns ``text`` and
            ``column``.
        names: which domains; by default all of them, sorted.
        column: what tells domains apart.

    Raises:
        ValueError: a domain without text to train on or without held-out text.
    """
    texts: dict[str, dict[str, list[str]]] = {}
    for split in ("train", "validation", "test"):
        if split in corpus:
            for name, text in zip(corpus[split][column], corpus[split]["text"], strict=True):
                texts.setdefault(name, {}).setdefault(split, []).append(text)
    chosen = sorted(texts) if names is None else list(names)
    if not chosen:
        raise ValueError("no domain: the corpus is empty, or no name was given")
    if unknown := [name for name in chosen if name not in texts]:
        raise ValueError(f"no text of {unknown[0]!r}: the corpus has {', '.join(sorted(texts))}")
    return {
        name: Domain(name, *(tuple(texts[name].get(split, ())) for split in ("train", "validation", "test")))
        for name in chosen
    }


def take_bytes(texts: Sequence[str], num_bytes: int, seed: int | None = None) -> list[str]:
    """Return whole texts of nearly a number of UTF-8 bytes, in the given order or, with a seed, shuffled.

    A text that would exceed the number is passed over, so that domains can be compared at nearly equal size.

    Raises:
        ValueError: the texts that fit have fewer bytes than 95 % of what is asked: no comparison would be fair.
    """
    order = range(len(texts)) if seed is None else np.random.default_rng(seed).permutation(len(texts))
    chosen: list[str] = []
    total = 0
    for place in order:
        size = len(texts[place].encode())
        if total + size <= num_bytes:
            chosen.append(texts[place])
            total += size
    if total < 0.95 * num_bytes:
        raise ValueError(f"{len(texts)} texts give {total:,} of num_bytes={num_bytes:,} bytes: ask for fewer")
    return chosen


# --- vocabulary -------------------------------------------------------------------------------------------------------


def vocabulary_words(text: str) -> list[str]:
    """Return the words of a text in lower case: letters, with ``_``, ``'`` and ``-`` inside; no digits."""
    return WORD.findall(text.lower())


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts."""
    return Counter(word for text in texts for word in vocabulary_words(text))


def keyness(domain: Mapping[str, int], reference: Mapping[str, int]) -> dict[str, float]:
    """Return the log-likelihood ratio of each word of a domain, signed (Dunning 1993; Rayson and Garside 2000).

    With ``a`` of ``c`` words of the domain and ``b`` of ``d`` words of the reference being this one, and
    ``E1 = c (a + b) / (c + d)``, ``E2 = d (a + b) / (c + d)`` what one common rate would give:
    ``G2 = 2 (a ln(a / E1) + b ln(b / E2) + ...)`` over the four cells of the table of this word against all others.
    It is negative for a word that is rarer in the domain than in the reference.

    Raises:
        ValueError: one of the two counts is empty.
    """
    c, d = sum(domain.values()), sum(reference.values())
    if not c or not d:
        raise ValueError(f"{c} words of the domain, {d} of the reference: both need at least one")
    a = np.array(list(domain.values()), dtype=np.float64)  # (words,)
    b = np.array([reference.get(word, 0) for word in domain], dtype=np.float64)  # (words,)
    table = np.stack([a, b, c - a, d - b])  # (4, words)
    rate = (a + b) / (c + d)  # (words,)
    expected = np.stack([c * rate, d * rate, c * (1 - rate), d * (1 - rate)])  # (4, words)
    terms = np.zeros_like(table)
    np.divide(table, expected, out=terms, where=table > 0)
    terms = table * np.log(terms, out=np.zeros_like(terms), where=table > 0)
    ratio = 2 * terms.sum(0) * np.sign(a / c - b / d)
    return dict(zip(domain, ratio.tolist(), strict=True))


def coverage(known: Mapping[str, int], text: Mapping[str, int]) -> float:
    """Return the share of a text's running words that another text has: 0 to 1, and not the same the other way round.

    Raises:
        ValueError: the text has no word.
    """
    total = sum(text.values())
    if not total:
        raise ValueError("the text has no word: coverage is a share of its words")
    return sum(count for word, count in text.items() if word in known) / total


@dataclass(frozen=True)
class TokenizationTax:
    """What a tokenizer costs a text.

    Attributes:
        bytes_per_token: UTF-8 bytes in a token, spaces and line ends included.
        fertility: tokens for each running word (Rust et al. 2021), spaces taken with the word.
        split: share of the running words that are cut into two tokens or more.
    """

    bytes_per_token: float
    fertility: float
    split: float


def tokenization_tax(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenizationTax:
    """Measure a tokenizer on texts; each different word is encoded once, with the space before it.

    Raises:
        ValueError: the texts have no word.
    """
    counts = word_counts(texts)
    if not counts:
        raise ValueError("no word in the texts: give at least one")
    with special_as_text(tokenizer):
        encodings = tokenizer.encode_batch_fast([" " + word for word in counts], add_special_tokens=False)
        tokens = sum(len(e.ids) for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))
    lengths = np.array([len(encoding.ids) for encoding in encodings])  # (words,)
    weights = np.array(list(counts.values()))  # (words,)
    return TokenizationTax(
        bytes_per_token=sum(len(text.encode()) for text in texts) / tokens,
        fertility=float((lengths * weights).sum() / weights.sum()),
        split=float(weights[lengths > 1].sum() / weights.sum()),
    )


# --- reading a transfer matrix ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """A matrix of costs: ``bits[i, j]`` is what a model of field ``i`` needs for text of field ``j``.

    Attributes:
        names: of the fields.
        bits: ``(trained, tested)``, bits per byte.
    """

    names: tuple[str, ...]
    bits: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse what is no square of finite numbers."""
        n = len(self.names)
        if np.shape(self.bits) != (n, n):
            raise ValueError(f"{n} names and a matrix {np.shape(self.bits)}: it takes {n} rows and {n} columns")
        if n < 2 or not np.isfinite(self.bits).all():
            raise ValueError("a transfer matrix takes at least two fields and finite numbers")

    @property
    def excess(self) -> NDArray[np.float64]:
        """What a foreign model needs more than the field's own, ``(trained, tested)``; 0 on the diagonal.

        Differences within a column only: the text is the same, so how hard the field is cancels out.
        """
        return np.asarray(self.bits - np.diag(self.bits)[None, :])

    @property
    def asymmetry(self) -> NDArray[np.float64]:
        """``excess[i, j] - excess[j, i]``: positive where ``i`` serves ``j`` worse than ``j`` serves ``i``."""
        return np.asarray(self.excess - self.excess.T)

    def nearest(self) -> dict[str, str]:
        """Return for each tested field the foreign field whose model needs the fewest bits for it."""
        foreign = self.bits + np.diag(np.full(len(self.names), np.inf))
        return {name: self.names[int(foreign[:, j].argmin())] for j, name in enumerate(self.names)}

    def off_diagonal(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the entries of another matrix ``(trained, tested)`` that are not on the diagonal, row by row."""
        if np.shape(matrix) != self.bits.shape:
            raise ValueError(f"a matrix {np.shape(matrix)}: it takes {self.bits.shape}, as this one has")
        return np.asarray(matrix)[~np.eye(len(self.names), dtype=bool)]
