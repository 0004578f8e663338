"""Whether a model has seen the test: overlap of n-grams where the training text is at hand, and traces in the
probabilities where it is not (chapter 17).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from llmbook.evaluation.scoring import CausalModel, longest_context
from llmbook.pipeline.units import text_units

Floats = NDArray[np.float64]


def plain_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation, so that reformatting hides nothing.

    Where a script has no spaces its characters stand for words (:func:`llmbook.pipeline.text_units`).
    """
    return text_units(text)


def _hashes(tokens: Sequence[str], order: int) -> set[int]:
    """Return a hash of each run of ``order`` words. Hashes of two runs agree by chance about once in 2**60 pairs."""
    return {hash(gram) for gram in zip(*(tokens[start:] for start in range(order)), strict=False)}


class NgramIndex:
    """The word n-grams of a training text, to look test items up in (as for GPT-3: 2005.14165, appendix C)."""

    def __init__(self, texts: Iterable[str], order: int = 8) -> None:
        """Index the texts.

        Args:
            texts: the training documents.
            order: words of an n-gram. GPT-3 used 8 to 13, after the length of the items of a benchmark.

        Raises:
            ValueError: an order below 1.
        """
        if order < 1:
            raise ValueError(f"order={order}: it takes a whole number from 1 up")
        if isinstance(texts, str):
            raise ValueError("texts is one text: give a list of texts, if need be with one element")
        self.order = order
        self._grams: set[int] = set()
        for text in texts:
            self._grams |= _hashes(plain_words(text), order)

    def __len__(self) -> int:
        """Return the number of different n-grams."""
        return len(self._grams)

    def overlap(self, text: str) -> float:
        """Return the share of the text's n-grams that the index holds, from 0 to 1; NaN if the text is too short."""
        grams = _hashes(plain_words(text), self.order)
        return len(grams & self._grams) / len(grams) if grams else float("nan")


@torch.no_grad()
def token_statistics(
    model: CausalModel, texts: Sequence[Sequence[int]], batch_size: int = 16
) -> list[tuple[Floats, Floats, Floats]]:
    """Return for each text the log-probability of each of its tokens but the first, and what was to be expected.

    Args:
        model: a causal model in ``eval`` mode.
        texts: token ids, each at least two; what exceeds the model's context is left out.
        batch_size: texts that are computed together.

    Returns:
        For each text three arrays ``(tokens - 1,)``, in nats: the log-probability of the token, and the mean and
        standard deviation of the log-probability of a token drawn from the model there.
    """
    if short := [number for number, ids in enumerate(texts) if len(ids) < 2]:
        raise ValueError(f"text {short[0]} has {len(texts[short[0]])} tokens: it takes two or more")
    limit = longest_context(model)
    rows = [list(ids)[:limit] for ids in texts]
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else torch.device("cpu")
    found: list[Any] = [None] * len(rows)
    for begin in range(0, len(order), batch_size):
        part = order[begin : begin + batch_size]
        ids = torch.zeros(len(part), len(rows[part[-1]]), dtype=torch.long)  # (batch, time)
        for place, number in enumerate(part):
            ids[place, : len(rows[number])] = torch.tensor(rows[number])
        logits = model(ids.to(device)).logits  # (batch, time, vocab)
        for place, number in enumerate(part):
            length = len(rows[number])
            log_probs = logits[place, : length - 1].float().log_softmax(-1).cpu()  # (length - 1, vocab)
            probs = log_probs.exp()  # (length - 1, vocab)
            chosen = log_probs.gather(1, ids[place, 1:length, None])[:, 0]  # (length - 1,)
            mean = (probs * log_probs).sum(-1)  # (length - 1,)
            spread = ((probs * log_probs**2).sum(-1) - mean**2).clamp_min(1e-12).sqrt()  # (length - 1,)
            found[number] = tuple(part.double().numpy() for part in (chosen, mean, spread))
    return found


def min_k(values: ArrayLike, k: float = 0.2) -> float:
    """Return the mean of the smallest share ``k`` of values ``(tokens,)``: Min-K% Prob for log-probabilities.

    Shi et al. 2024, arXiv:2310.16789: a text that was not seen has a few tokens that come as a surprise. With values
    standardised by :func:`token_statistics`, ``(log p - mean) / spread``, it is Min-K%++ (Zhang et al., 2404.02936).

    Raises:
        ValueError: no values, or a share outside of 0 to 1.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"values has shape {array.shape}: it takes one number for each token, at least one")
    if not 0 < k <= 1:
        raise ValueError(f"k={k}: it takes a share above 0 and at most 1")
    count = max(1, int(len(array) * k))
    return float(np.partition(array, count - 1)[:count].mean())


def area_under_curve(seen: ArrayLike, unseen: ArrayLike) -> float:
    """Return how often a seen text has a higher score than an unseen one, ties counted half: the area under the ROC.

    Args:
        seen: scores of texts that were trained on.
        unseen: of texts that were not.
    """
    first, second = np.asarray(seen, dtype=np.float64), np.asarray(unseen, dtype=np.float64)
    if first.ndim != 1 or second.ndim != 1 or not len(first) or not len(second):
        raise ValueError(f"{first.size} seen and {second.size} unseen scores: it takes at least one of each, in lists")
    above = (first[:, None] > second).mean() + (first[:, None] == second).mean() / 2
    return float(above)
