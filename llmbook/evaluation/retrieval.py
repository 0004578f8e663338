"""Finding the document that a question is about: BM25, and how good a ranking is (chapter 18)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from llmbook.pipeline.units import text_units

FORMS = ("lucene", "robertson")


def terms(text: str) -> list[str]:
    """Return what is looked up: runs of letters, digits and ``_`` in lower case.

    Letters have their combining marks with them, and where a script has no spaces each character is a term
    (:func:`llmbook.pipeline.text_units`).
    """
    return text_units(text)


class Hit(NamedTuple):
    """A document that was found: its place in the collection, and its score."""

    place: int
    score: float


class BM25:
    """A collection that can be searched with BM25 (Robertson and Zaragoza 2009, doi:10.1561/1500000019).

    ``score(q, d) = sum over the terms t of q of idf(t) f (k1 + 1) / (f + k1 (1 - b + b |d| / average))``, with ``f``
    for how often t stands in d and ``|d|`` the number of terms of d. All but the query's counts is computed once.
    """

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75, form: str = "lucene") -> None:
        """Index documents.

        Args:
            documents: the collection.
            k1: how soon more of the same term stops to count.
            b: how much long documents are discounted: 0 not at all, 1 in proportion.
            form: of ``idf`` for a term in ``n`` of ``N`` documents. ``robertson``:
                ``log((N - n + 0.5) / (n + 0.5))``, which is negative for terms in more than half of them; ``lucene``:
                ``log(1 + ...)`` of the same fraction, which never is.

        Raises:
            ValueError: no document with a term, or parameters out of range.
        """
        if not k1 >= 0 or not 0 <= b <= 1:
            raise ValueError(f"k1={k1}, b={b}: k1 takes a number from 0 up, b one from 0 to 1")
        if form not in FORMS:
            raise ValueError(f"form={form!r}: it takes {', '.join(FORMS)}")
        counts = [Counter(terms(document)) for document in documents]
        lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)  # (documents,)
        if not lengths.any():
            raise ValueError(f"{len(counts)} documents without a single term: there is nothing to search")
        self.terms: dict[str, int] = {}
        for count in counts:
            for term in count:
                self.terms.setdefault(term, len(self.terms))
        rows = np.repeat(np.arange(len(counts)), [len(count) for count in counts])  # (entries,)
        columns = np.array([self.terms[term] for count in counts for term in count])  # (entries,)
        frequency = np.array([n for count in counts for n in count.values()], dtype=np.float64)  # (entries,)
        holding = np.bincount(columns, minlength=len(self.terms))  # (terms,)
        odds = (len(counts) - holding + 0.5) / (holding + 0.5)  # (terms,)
        self.idf: NDArray[np.float64] = np.log1p(odds) if form == "lucene" else np.log(odds)
        norm = k1 * (1 - b + b * lengths / lengths.mean())  # (documents,)
        weights = self.idf[columns] * frequency * (k1 + 1) / (frequency + norm[rows])  # (entries,)
        self.weights = sparse.csc_array((weights, (rows, columns)), shape=(len(counts), len(self.terms)))

    def __len__(self) -> int:
        """Return the number of documents."""
        return int(self.weights.shape[0])

    def scores(self, query: str) -> NDArray[np.float64]:
        """Return the score of every document, ``(documents,)``.

        Raises:
            ValueError: no term of the query occurs in the collection, so that no document is better than another.
        """
        known = Counter(term for term in terms(query) if term in self.terms)
        if not known:
            raise ValueError(
                f"no word of the query {query[:60]!r} occurs in the {len(self)} documents: rephrase it, or answer "
                "without retrieval"
            )
        columns = [self.terms[term] for term in known]
        return np.asarray(self.weights[:, columns] @ np.array([float(n) for n in known.values()]))

    def search(self, query: str, count: int = 10) -> list[Hit]:
        """Return the best documents, best first; of equal scores the one that stands first in the collection."""
        if count < 1:
            raise ValueError(f"count={count}: it takes a number from 1 up")
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:count]
        return [Hit(int(place), float(scores[place])) for place in best]

    def rank(self, query: str, target: int) -> int:
        """Return the place of one document in the ranking, counted from 1; ties count against it."""
        scores = self.scores(query)
        if not 0 <= target < len(scores):
            raise ValueError(f"target={target}: there are documents 0 to {len(scores) - 1}")
        return int((scores >= scores[target]).sum())


def passages(texts: Sequence[str], longest: int = 250) -> list[str]:
    """Cut texts into passages of at most so many characters, at blank lines where possible, else at line ends."""
    found: list[str] = []
    for text in texts:
        current = ""
        for line in text.split("\n"):
            full = len(current) + len(line) + 1 > longest
            if current.strip() and (full or (not line.strip() and len(current) > longest / 2)):
                found.append(current.strip("\n"))
                current = ""
            current += line[:longest] + "\n"
        if current.strip():
            found.append(current.strip("\n"))
    return found


def vote(index: BM25, documents: Sequence[str], query: str, choices: Sequence[str], count: int = 10) -> int:
    """Answer a question by its nearest neighbours: return the place of the choice that the best documents speak for.

    Each of the ``count`` best documents gives its score to the choices of which it has all the terms that not all
    choices have. Of equal choices the first wins.

    Raises:
        ValueError: documents that are not those of the index, no choice, or no known word in the query.
    """
    if len(documents) != len(index) or not choices:
        raise ValueError(f"{len(documents)} documents for an index of {len(index)}, {len(choices)} choices")
    own = [set(terms(choice)) for choice in choices]
    shared = own[0].intersection(*own)
    own = [words - shared for words in own]
    votes = np.zeros(len(choices))
    for hit in index.search(query, count):
        words = set(terms(documents[hit.place]))
        votes += [hit.score * (bool(mine) and mine <= words) for mine in own]
    return int(votes.argmax())


def recall_at(ranks: ArrayLike, k: int) -> float:
    """Return the share of queries whose document is among the first ``k``."""
    return float((_ranks(ranks) <= k).mean())


def mean_reciprocal_rank(ranks: ArrayLike) -> float:
    """Return the mean of ``1 / rank``."""
    return float((1 / _ranks(ranks)).mean())


def _ranks(ranks: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(ranks, dtype=np.float64)
    if not values.size or not (values >= 1).all():
        raise ValueError("ranks are counted from 1, and there must be at least one")
    return values
