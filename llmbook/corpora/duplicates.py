"""Near-duplicates: documents that share half of their word 5-grams, and a split that never parts them.

Two documents are near-duplicates when the Jaccard similarity of their sets of word 5-grams is at least 0.5. The
threshold was chosen by reading pairs: from 0.5 up they are one text with a few words changed (``Series.min`` and
``Series.max``), and even there the largest cluster of ``pydocs`` has about twenty documents; at 0.4 they share a
template only, and at 0.3 clusters of a hundred begin to grow together.

MinHash with banding (Broder 1997; chapter 7) proposes the pairs, the exact similarity decides, and the connected
components are the clusters. 32 bands of two rows propose a pair at the threshold with the probability
1 - (1 - 0.5^2)^32 = 0.9999, and one at 0.6 with 0.9999994: the price is more pairs to check, which is cheap here.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

THRESHOLD = 0.5
PERMUTATIONS = 64
BANDS, ROWS = 32, 2
SHINGLE_WORDS = 5


def shingles(text: str) -> set[str]:
    """Return the word 5-grams of a text in lower case; all its words as one where there are fewer than five."""
    words = re.findall(r"\w+", text.lower())
    last = max(len(words) - SHINGLE_WORDS, 0)
    return {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last + 1)}


def jaccard(first: set[str], second: set[str]) -> float:
    """Return the size of the intersection over the size of the union."""
    return len(first & second) / (len(first | second) or 1)


def signature(text: str) -> "np.ndarray":
    """Return the MinHash signature of a text's word 5-grams: ``(64,)`` integers."""
    from datasketch import MinHash

    minhash = MinHash(num_perm=PERMUTATIONS)
    minhash.update_batch([shingle.encode() for shingle in shingles(text)])
    return minhash.hashvalues


def clusters(ids: Sequence[str], texts: Sequence[str], signatures: Iterable["np.ndarray"]) -> list[str]:
    """Return for each document the smallest id of its cluster of near-duplicates, in the order given."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
    parent = list(range(len(ids)))

    def root(document: int) -> int:
        while parent[document] != document:
            parent[document] = document = parent[parent[document]]
        return document

    for document, hashvalues in enumerate(signatures):
        minhash = MinHash(num_perm=PERMUTATIONS)
        minhash.hashvalues = hashvalues
        own = shingles(texts[document])
        for other in sorted(index.query(minhash)):
            first, second = root(document), root(other)
            if first != second and jaccard(own, shingles(texts[other])) >= THRESHOLD:
                smaller, larger = sorted((first, second), key=lambda member: ids[member])
                parent[larger] = smaller
        index.insert(document, minhash)
    return [ids[root(document)] for document in range(len(ids))]


def split_of(cluster: str) -> str:
    """Return the split of a cluster, decided by its hash: 90 % train, 5 % validation, 5 % test."""
    share = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.9 else "validation" if share < 0.95 else "test"
