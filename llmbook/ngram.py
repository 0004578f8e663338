"""n-gram language models over token ids: counts, add-k, interpolated Kneser-Ney (chapter 1).

The n-grams of each order stand in one sorted array of 64-bit keys, ``context_id * (V + 1) + token``, where the id of a
context is the place of that shorter n-gram in its own array. Counting is a sort and looking up is a binary search,
both in NumPy, so that 28 MB of text take seconds, not hours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class _Level:
    """All distinct n-grams of one order n, sorted by key."""

    keys: np.ndarray  # (ngrams,) int64: place of the first n - 1 tokens in their array, times V + 1, plus the last
    counts: np.ndarray  # (ngrams,) how often the n-gram occurs; 0 if it ends in padding, which is never predicted
    continuations: np.ndarray  # (ngrams,) how many different tokens stand before it; empty at the largest order


def _totals(level: _Level, counts: np.ndarray, contexts: int, base: int) -> tuple[np.ndarray, np.ndarray]:
    """For each context: the sum of ``counts`` over its followers, and the number of followers that have any."""
    owner = level.keys // base
    total = np.bincount(owner, counts, contexts).astype(np.int32)
    return total, np.bincount(owner[counts > 0], minlength=contexts).astype(np.int32)


def _unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what ``np.unique`` does, with index, inverse and counts, in half of its memory: places are int32."""
    order = keys.argsort(kind="stable")
    keys = keys[order]
    begins = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:])
    inverse = np.empty(len(keys), dtype=np.int32)
    inverse[order] = np.cumsum(begins, dtype=np.int32) - 1
    starts = np.flatnonzero(begins)
    return keys[starts], order[starts], inverse, np.diff(starts, append=len(keys)).astype(np.int32)


class NGramCounts:
    """Counts of all n-grams up to ``order`` in documents of token ids.

    Each document is padded on the left with ``order - 1`` symbols that are context only: they are never predicted and
    are no part of the vocabulary. Nothing is added on the right; close documents with an end token if the model is to
    learn where they end (:func:`llmbook.tokenization.encode_documents` does).
    """

    def __init__(self, documents: Sequence[Sequence[int] | np.ndarray], vocab_size: int, order: int):
        """Count.

        Args:
            documents: token ids in ``range(vocab_size)``, one sequence each.
            vocab_size: number of tokens V.
            order: the longest n-grams counted, at least 1.
        """
        if order < 1:
            raise ValueError(f"order={order}: an n-gram has at least one token; give 1 or more")
        self.order, self.vocab_size = order, vocab_size
        self.base = vocab_size + 1  # the padding symbol is token number V
        self.levels: list[_Level] = []
        tokens, offset = self.pad(documents)
        real = tokens < vocab_size
        if not real.any():
            raise ValueError("no token to count: the documents are empty")
        ids = np.zeros(len(tokens), dtype=np.int32)  # of the (n - 1)-gram that ends at each place; one empty 0-gram
        for n in range(1, order + 1):
            where = np.flatnonzero(offset >= n - 1)  # the n-gram lies within its document
            keys = ids[where - 1 if n > 1 else where] * np.int64(self.base)
            keys += tokens[where]
            keys, first, inverse, counts = _unique(keys)
            counts[~real[where[first]]] = 0
            if n > 1:  # each different n-gram is one continuation of its last n - 1 tokens
                seen = counts > 0
                shorter = self.levels[-1]
                continuations = np.bincount(ids[where[first[seen]]], minlength=len(shorter.keys))
                self.levels[-1] = _Level(shorter.keys, shorter.counts, continuations.astype(np.int32))
            ids = np.full(len(tokens), -1, dtype=np.int32)
            ids[where] = inverse
            self.levels.append(_Level(keys, counts, np.empty(0, dtype=np.int32)))

    def pad(self, documents: Sequence[Sequence[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Join documents, ``order - 1`` padding symbols before each.

        Returns:
            The tokens ``(places,)`` and the place of each within its own padded document ``(places,)``, both int32.
        """
        padding = np.full(self.order - 1, self.vocab_size, dtype=np.int32)
        parts = [np.concatenate([padding, np.asarray(document, dtype=np.int32)]) for document in documents]
        tokens = np.concatenate(parts) if parts else padding[:0]
        offset = np.concatenate([np.arange(len(part), dtype=np.int32) for part in parts]) if parts else tokens
        given = tokens[offset >= self.order - 1]  # without the padding
        if len(given) and (given.min() < 0 or given.max() >= self.vocab_size):
            raise ValueError(
                f"token ids run from {given.min()} to {given.max()}; this model's run from 0 to "
                f"{self.vocab_size - 1}: encode with the tokenizer the model was counted with"
            )
        return tokens, offset

    def find(self, n: int, context: np.ndarray, token: np.ndarray) -> np.ndarray:
        """Place of each n-gram among those of order ``n``, or -1 where it (or its context) was never seen.

        Args:
            n: the order.
            context: ids of the contexts among the (n - 1)-grams, -1 for unseen, any shape.
            token: the last tokens, same shape.
        """
        keys = self.levels[n - 1].keys
        wanted = context * np.int64(self.base) + token
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((context >= 0) & (keys[place] == wanted), place, -1)

    def walk(self, documents: Sequence[Sequence[int] | np.ndarray]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For n = 1 .. order, look up every token of ``documents`` with its n - 1 predecessors.

        Yields:
            n; the id of each token's context among the (n - 1)-grams; the place of the n-gram; -1 for unseen.
            Both have shape ``(tokens,)``.
        """
        tokens, offset = self.pad(documents)
        targets = np.flatnonzero(offset >= self.order - 1)
        ids = np.zeros(len(tokens), dtype=np.int64)
        for n in range(1, self.order + 1):
            where = np.flatnonzero(offset >= n - 1)
            context = ids[where - 1 if n > 1 else where]
            before = np.full(len(tokens), -1, dtype=np.int64)
            before[where] = context
            ids = np.full(len(tokens), -1, dtype=np.int64)
            ids[where] = self.find(n, context, tokens[where])
            yield n, before[targets], ids[targets]

    def context_id(self, context: Sequence[int]) -> int:
        """Place of ``context`` among the n-grams of its own length, or -1 if it was never seen; 0 for the empty one."""
        place = np.zeros(1, dtype=np.int64)
        for n, token in enumerate(context, start=1):
            place = self.find(n, place, np.array([token]))
        return int(place[0])

    def followers(self, context: Sequence[int]) -> tuple[np.ndarray, slice]:
        """The tokens seen after ``context``, and where those n-grams stand in the arrays of their order."""
        place = self.context_id(context)
        keys = self.levels[len(context)].keys
        low, high = np.searchsorted(keys, [place * self.base, (place + 1) * self.base]) if place >= 0 else (0, 0)
        return keys[low:high] % self.base, slice(low, high)

    def last_tokens(self, context: Sequence[int], length: int) -> list[int]:
        """The last ``length`` tokens of ``context``, filled up with padding on the left."""
        filled = [self.vocab_size] * length + [int(token) for token in context]
        return filled[len(filled) - length :]


class AddK:
    """The n-gram model with ``k`` added to every count (Lidstone; Laplace for k = 1; maximum likelihood for k = 0).

    ``P(w | h) = (c(h, w) + k) / (c(h) + k V)``, where h is the last ``order - 1`` tokens. With k = 0 the probability
    of every token after an unseen context is taken as 0.
    """

    def __init__(self, counts: NGramCounts, order: int, k: float):
        """Use the counts of n-grams of one ``order``, at most ``counts.order``."""
        _check_order(counts, order)
        if k < 0:
            raise ValueError(f"k={k}: it takes a number from 0 up")
        self.counts, self.order, self.k = counts, order, k
        level = counts.levels[order - 1]
        contexts = len(counts.levels[order - 2].keys) if order > 1 else 1
        self._total, _ = _totals(level, level.counts, contexts, counts.base)

    def log_prob(self, documents: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        """Natural-log probability of every token of the documents, joined: ``(tokens,)`` float64, ``-inf`` for 0."""
        for n, context, place in self.counts.walk(documents):
            if n == self.order:
                count = np.where(place >= 0, self.counts.levels[n - 1].counts[place], 0)
                total = np.where(context >= 0, self._total[context], 0)
                break
        return _log(_ratio(count + self.k, total + self.k * self.counts.vocab_size))

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Probability of every token after ``context`` (any length; the last ``order - 1`` count): ``(V,)`` float64."""
        context = self.counts.last_tokens(context, self.order - 1)
        tokens, where = self.counts.followers(context)
        count = np.zeros(self.counts.base)
        count[tokens] = self.counts.levels[self.order - 1].counts[where]
        count = count[:-1]  # without padding
        return _ratio(count + self.k, count.sum() + self.k * self.counts.vocab_size)


class KneserNey:
    """Interpolated Kneser-Ney (Kneser and Ney 1995; interpolated as in Chen and Goodman 1999).

    ``P_n(w | h) = max(c(h, w) - D_n, 0) / c(h) + D_n N(h) / c(h) * P_{n-1}(w | h')``: the largest order uses counts,
    the orders below use continuation counts (how many different tokens precede the n-gram), h' is h without its first
    token, N(h) the number of different followers. After an unseen context the shorter context decides alone.
    """

    def __init__(self, counts: NGramCounts, order: int, discount: float | None = None, uniform: bool = True):
        """Use n-grams up to ``order``, at most ``counts.order``.

        Args:
            counts: the counts; one object serves models of all orders up to its own.
            order: the longest n-grams used.
            discount: D for every order, between 0 and 1; by default each order's own, n1 / (n1 + 2 n2), from the
                number of n-grams that occur once and twice (Ney, Essen and Kneser 1994).
            uniform: interpolate the unigrams with the uniform distribution, so that no token has probability 0;
                ``False`` is the definition of ``nltk.lm.KneserNeyInterpolated``.
        """
        _check_order(counts, order)
        if discount is not None and not 0 <= discount <= 1:
            raise ValueError(f"discount={discount}: it takes a number from 0 to 1, or None to estimate it")
        self.counts, self.order = counts, order
        self._counts: list[np.ndarray] = []
        self._total: list[np.ndarray] = []
        self._distinct: list[np.ndarray] = []
        self.discounts: list[float] = []
        for n in range(1, order + 1):
            level = counts.levels[n - 1]
            values = level.counts if n == order else level.continuations
            contexts = len(counts.levels[n - 2].keys) if n > 1 else 1
            total, distinct = _totals(level, values, contexts, counts.base)
            if n == 1 and not uniform:
                self.discounts.append(0.0)
            else:
                self.discounts.append(_estimate_discount(values) if discount is None else discount)
            self._counts.append(values)
            self._total.append(total)
            self._distinct.append(distinct)

    def log_prob(self, documents: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        """Natural-log probability of every token of the documents, joined: ``(tokens,)`` float64, ``-inf`` for 0."""
        probability = np.array(1 / self.counts.vocab_size)
        for n, context, place in self.counts.walk(documents):
            total = np.where(context >= 0, self._total[n - 1][context], 0)
            count = np.where(place >= 0, self._counts[n - 1][place], 0)
            discount, distinct = self.discounts[n - 1], self._distinct[n - 1][context]
            mixed = _ratio(np.maximum(count - discount, 0) + discount * distinct * probability, total)
            probability = np.where(total > 0, mixed, probability)
            if n == self.order:
                break
        return _log(probability)

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Probability of every token after ``context`` (any length; the last ``order - 1`` count): ``(V,)`` float64."""
        probability = np.full(self.counts.base, 1 / self.counts.vocab_size)
        for n in range(1, self.order + 1):
            history = self.counts.last_tokens(context, n - 1)
            tokens, where = self.counts.followers(history)
            count = self._counts[n - 1][where]
            if total := count.sum():
                discount = self.discounts[n - 1]
                probability *= discount * np.count_nonzero(count) / total
                probability[tokens] += np.maximum(count - discount, 0) / total
        return probability[:-1]  # without padding


def _check_order(counts: NGramCounts, order: int) -> None:
    if not 1 <= order <= counts.order:
        raise ValueError(f"order={order}: these counts allow 1 to {counts.order}; count again with a larger order")


def _estimate_discount(counts: np.ndarray) -> float:
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return once / (once + 2 * twice) if once else 0.75  # a common default, for a text too small to tell


def _ratio(numerator: np.ndarray, denominator: np.ndarray | float) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=np.asarray(denominator) > 0)


def _log(probability: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(probability)
