"""Attention weights with the names of their tokens, layers and heads, and what makes them weights (chapter 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Attention:
    """The weights of a model, or of one part of an encoder-decoder, and what they are called.

    Attributes:
        name: ``self``, or ``encoder``, ``decoder``, ``cross``.
        weights: ``(layers, heads, query, key)``.
        queries: the tokens that attend.
        keys: the tokens attended to.
        layers: number of each layer, as the model counts them from 0.
        heads: number of each head.
        vectors: queries and keys ``(layers, heads, tokens, d_head)``, positions applied, where they were asked for.
    """

    name: str
    weights: np.ndarray
    queries: list[str]
    keys: list[str]
    layers: list[int]
    heads: list[int]
    vectors: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def one_layer(self) -> bool:
        """Tell whether there is a single layer."""
        return len(self.layers) == 1

    def select(self, layers: int | Sequence[int] | None, heads: int | Sequence[int] | None) -> Attention:
        """Keep some layers and heads, each once, in the order given, by their numbers."""
        chosen = _chosen("layers", layers, self.layers), _chosen("heads", heads, self.heads)
        at = np.ix_([self.layers.index(one) for one in chosen[0]], [self.heads.index(one) for one in chosen[1]])
        vectors = self.vectors and (self.vectors[0][at], self.vectors[1][at])
        return replace(self, weights=self.weights[at], layers=chosen[0], heads=chosen[1], vectors=vectors)


def _chosen(name: str, wanted: int | Sequence[int] | None, numbers: list[int]) -> list[int]:
    if wanted is None:
        return numbers
    chosen = [int(index) for index in ([wanted] if isinstance(wanted, (int, np.integer)) else wanted)]
    if not chosen or len({*chosen}) < len(chosen) or not {*chosen} <= {*numbers}:
        count = len(numbers)
        named = f"0 to {count - 1}" if numbers == list(range(count)) else ", ".join(map(str, numbers))
        raise ValueError(f"{name}={wanted!r}: there are {count}, numbered {named}; give one or several different ones")
    return chosen


def check_rows(array: np.ndarray) -> None:
    """Raise ``ValueError`` where a row of weights ``(..., query, key)`` is no distribution; zeros alone are accepted.

    The message names the place of the first one, as its layer, head and query.
    """
    sums = array.sum(-1)
    wrong = ~((array >= 0).all(-1) & (np.isclose(sums, 1, atol=1e-2) | (array == 0).all(-1)))  # NaN fails both
    if not wrong.any():
        return
    place = [int(index) for index in np.argwhere(wrong)[0]]
    names = ("layer", "head", "query")[-len(place) :]
    where = ", ".join(f"{name} {index}" for name, index in zip(names, place, strict=True))
    row = array[tuple(place)]
    if np.isnan(row).any():
        raise ValueError(
            f"{where} has weights that are NaN: a softmax over a row that is masked throughout gives these "
            "(mask with a large negative number, or set such rows to zero), and so does a diverged model"
        )
    what = f"sums to {row.sum():.3g}" if (row >= 0).all() else f"has the weight {row.min():.3g}"
    raise ValueError(
        f"each row of weights must be a distribution over the keys, but {where} {what}: pass them after the softmax"
    )
