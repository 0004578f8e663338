"""Duplicates: exact ones by hash, near ones by MinHash and by SimHash (chapter 7).

The corpora of :mod:`llmbook.corpora` ask datasketch for the pairs and draw a split from them; here is what happens
inside, and fast. What a near-duplicate is, sets of word 5-grams with a Jaccard similarity, is theirs:
:func:`llmbook.corpora.duplicates.shingles` and ``jaccard``. Of English text both make the same sets; the words here
(:func:`~.units.text_units`) keep combining marks, and are characters where a script has no spaces.
"""

import hashlib
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from llmbook.pipeline.measures import ngram_hashes
from llmbook.pipeline.units import units_or_symbols

SHINGLE_WORDS = 5
MOST_PAIRS = 10_000_000  # of one bucket: about a gigabyte


def fingerprint(text: str) -> str:
    """Return the SHA-256 of a text's words in lower case: equal texts, white space and punctuation aside, share it.

    Words are those of :func:`~.units.text_units`. Of a text without any, the symbols count.
    """
    return hashlib.sha256(" ".join(units_or_symbols(text)).encode("utf-8", "surrogatepass")).hexdigest()


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread 64-bit integers over all 64 bits (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def shingle_hashes(text: str, n: int = SHINGLE_WORDS) -> np.ndarray:
    """Return a 64-bit hash of every different word n-gram, sorted: ``(shingles,)`` uint64.

    A text of fewer than n words has one shingle, all of its words; the empty text has one too. Words are those of
    :func:`~.units.text_units`: single characters of Chinese, for example.
    """
    if n < 1:
        raise ValueError(f"n={n}: a shingle has at least one word; give 1 or more")
    found = [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in units_or_symbols(text)]
    symbols = _mix(np.array(found, dtype=np.uint64))
    size = min(n, len(symbols))
    return np.unique(_mix(ngram_hashes(symbols, size, start=size)))


class Permutations:
    """``count`` random permutations of the 32-bit integers, ``x -> a x + b mod 2^32`` with odd ``a``.

    The formula is that of ``datasketch.MinHash`` (scheme ``affine32``), and with the same ``a`` and ``b`` so are the
    signatures.
    """

    def __init__(self, count: int, seed: int = 1):
        """Draw ``a`` and ``b``, each ``(count,)`` uint32."""
        if count < 1:
            raise ValueError(f"count={count}: a signature has at least one number; give 1 or more")
        rng = np.random.default_rng(seed)
        self.a = rng.integers(0, 2**32, count, dtype=np.uint32) | np.uint32(1)
        self.b = rng.integers(0, 2**32, count, dtype=np.uint32)

    def signature(self, hashes: np.ndarray) -> np.ndarray:
        """Return the smallest permuted hash of a set for each permutation: ``(shingles,)`` -> ``(count,)`` uint32."""
        values = hashes.astype(np.uint32)  # the lower half of 64-bit hashes
        values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        values ^= values >> np.uint32(16)
        smallest = np.full(len(self.a), 2**32 - 1, dtype=np.uint32)
        for start in range(0, len(values), 512):  # small enough for the cache
            permuted = self.a[:, None] * values[start : start + 512] + self.b[:, None]  # (count, shingles)
            np.minimum(smallest, permuted.min(axis=1), out=smallest)
        return smallest

    def __call__(self, text: str) -> np.ndarray:
        """Return the signature of a text: ``(count,)`` uint32."""
        return self.signature(shingle_hashes(text))


def collision_probability(similarity: float, bands: int, rows: int) -> float:
    """Return the probability that two sets of this Jaccard similarity agree in all rows of at least one band."""
    return 1 - (1 - similarity**rows) ** bands


def _bucket_pairs(members: np.ndarray, largest: int | None) -> Iterator[tuple[int, int]]:
    """The pairs of a bucket; of each member with the first only where there are more than ``largest``."""
    places = members.tolist()
    if largest is not None and len(places) > largest:
        return ((places[0], other) for other in places[1:])
    _check_number(math.comb(len(places), 2), len(places))
    return itertools.combinations(places, 2)


def _check_number(pairs: int, documents: int) -> None:
    if pairs > MOST_PAIRS:
        raise ValueError(
            f"a bucket of {documents:,} documents has {pairs:,} pairs, more than {MOST_PAIRS:,}: keep one of each set "
            "of exact copies (pipeline.fingerprint) and search again, or give largest=200, which pairs each document "
            "of a larger bucket with the bucket's first one only"
        )


def _equal_groups(keys: np.ndarray) -> list[np.ndarray]:
    """The places of equal rows of ``keys``, where there are two or more, in rising order."""
    _, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    return [group for group in np.split(order, np.cumsum(counts)[:-1]) if len(group) > 1]


def band_pairs(signatures: np.ndarray, bands: int, rows: int, largest: int | None = None) -> set[tuple[int, int]]:
    """Return the pairs ``(first, second)`` of documents that agree in all rows of at least one band.

    Args:
        signatures: ``(documents, bands * rows)`` or wider; the columns beyond are not used.
        bands: number of bands.
        rows: numbers of the signature in each band.
        largest: of a bucket with more documents, pair each with the first one only. These pairs connect the bucket as
            all pairs do, but if they are checked and the first document is unlike the others, copies are missed.

    Raises:
        ValueError: more columns asked for than there are, or a bucket of more than :data:`MOST_PAIRS` pairs.
    """
    if bands < 1 or rows < 1 or signatures.ndim != 2 or bands * rows > signatures.shape[1]:
        raise ValueError(
            f"bands={bands} times rows={rows} do not fit signatures of shape {signatures.shape}: "
            "it takes (documents, at least bands * rows)"
        )
    pairs: set[tuple[int, int]] = set()
    for band in range(bands):
        block = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        keys = block.view([("", block.dtype)] * rows).ravel()
        for members in _equal_groups(keys):
            pairs.update(_bucket_pairs(members, largest))
    return pairs


def simhash(text: str, n: int = SHINGLE_WORDS) -> int:
    """Return the 64-bit SimHash of a text's word n-grams (Charikar 2002; Manku et al. 2007).

    Each shingle's hash votes on each bit, +1 for a one and -1 for a zero; the sign of the sum is the bit.
    """
    bits = np.unpackbits(shingle_hashes(text, n)[:, None].view(np.uint8), axis=1)  # (shingles, 64)
    votes = 2 * bits.sum(axis=0, dtype=np.int64) - len(bits)  # (64,)
    return int.from_bytes(np.packbits(votes > 0).tobytes(), "little")


def simhash_distance(first: int, second: int) -> int:
    """Return the number of bits in which two fingerprints differ, 0 to 64."""
    return (first ^ second).bit_count()


def simhash_pairs(fingerprints: Sequence[int], distance: int, largest: int | None = None) -> set[tuple[int, int]]:
    """Return the pairs of documents whose 64-bit fingerprints differ in at most ``distance`` bits.

    The 64 bits are cut into ``distance + 1`` blocks. Two fingerprints with at most ``distance`` different bits agree in
    one block at least, so only those that agree in a block are compared (Manku et al. 2007).

    Args:
        fingerprints: of :func:`simhash`.
        distance: 0 to 63 bits.
        largest: of more documents that agree in a block, compare each with the first one only: pairs are missed.

    Raises:
        ValueError: a distance out of range, or a block of more than :data:`MOST_PAIRS` pairs.
    """
    if not 0 <= distance < 64:
        raise ValueError(f"distance={distance}: it takes 0 to 63 of 64 bits")
    values = np.array(fingerprints, dtype=np.uint64)
    edges = np.linspace(0, 64, distance + 2).astype(int)
    pairs: set[tuple[int, int]] = set()
    for low, high in itertools.pairwise(edges.tolist()):
        mask = np.uint64((1 << high) - (1 << low))
        for members in _equal_groups(values & mask):
            if len(members) <= 32 or (largest is not None and len(members) > largest):
                near = ((i, j) for i, j in _bucket_pairs(members, largest)
                        if (fingerprints[i] ^ fingerprints[j]).bit_count() <= distance)  # fmt: skip
                pairs.update(near)
            else:
                pairs.update(_near_pairs(members, values[members], distance))
    return pairs


def _near_pairs(members: np.ndarray, values: np.ndarray, distance: int) -> Iterator[tuple[int, int]]:
    """The pairs of a large block that are near enough: one document with all behind it at a time, in arrays."""
    found = 0
    for place, first in enumerate(members.tolist()):
        near = np.flatnonzero(_ones(values[place] ^ values[place + 1 :]) <= distance) + place + 1
        found += len(near)
        _check_number(found, len(members))
        yield from zip(itertools.repeat(first), members[near].tolist(), strict=False)


def _ones(values: np.ndarray) -> np.ndarray:
    """Return the number of ones in each of 64-bit integers: ``(n,)`` uint64 -> ``(n,)``."""
    pairs = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bytewise = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bytewise * np.uint64(0x0101010101010101)) >> np.uint64(56)


def components(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return for each of ``count`` documents the first one that pairs connect it with: ``(count,)``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    first = np.full(labels.max(initial=-1) + 1, count)
    np.minimum.at(first, labels, np.arange(count))
    return first[labels]


def keep_first(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return which documents stay if of each cluster only the first does: ``(count,)`` bool."""
    return components(count, pairs) == np.arange(count)
