"""Matching tokens by the angle between their vectors, as BERTScore does (Zhang et al. 2020; chapter 16)."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from llmbook.metrics.checks import Score, harmonic, numbers, text_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Embed = Callable[[Sequence[str]], Sequence[tuple[Sequence[Hashable], ArrayLike]]]
"""From texts to tokens and vectors ``(tokens, d)``, for each text. Any model fits behind it."""


class _Weights(dict[Hashable, float]):
    """Weights of tokens; one that was in no text weighs as if it were in none of a few more."""

    def __init__(self, texts: int):
        super().__init__()
        self.texts = texts

    def __missing__(self, token: Hashable) -> float:
        return math.log(self.texts + 1)


def inverse_document_frequency(tokens: Iterable[Iterable[Hashable]]) -> Mapping[Hashable, float]:
    """``log((M + 1) / (m + 1))`` for each token, which occurs in ``m`` of the ``M`` texts.

    Args:
        tokens: the tokens of every reference text, at least one text.

    Returns:
        A mapping that also knows tokens it has not seen: they weigh ``log(M + 1)``.
    """
    sets = [set(text) for text in tokens]
    if not sets:
        raise ValueError("no text to count tokens in: give the tokens of at least one")
    weights = _Weights(len(sets))
    for token, texts in Counter(token for each in sets for token in each).items():
        weights[token] = math.log((len(sets) + 1) / (texts + 1))
    return weights


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (tokens, 1)
    return vectors / np.where(lengths == 0, 1, lengths)


def greedy_matching(
    prediction: ArrayLike,
    reference: ArrayLike,
    prediction_weights: ArrayLike | None = None,
    reference_weights: ArrayLike | None = None,
) -> Score:
    """Match every token with the most similar one of the other text; mean similarity of each side.

    Args:
        prediction: vectors ``(tokens, d)``.
        reference: vectors ``(tokens, d)``.
        prediction_weights: one weight for each token, by default all equal.
        reference_weights: likewise.

    Returns:
        Precision (mean over the prediction), recall (over the reference) and F1, each at most 1; 0 where a side has no
        token, or none with a weight.
    """
    sides = [numbers("prediction", prediction), numbers("reference", reference)]
    if any(side.ndim != 2 for side in sides) or sides[0].shape[1] != sides[1].shape[1]:
        shapes = " and ".join(str(side.shape) for side in sides)
        raise ValueError(f"vectors of shapes {shapes}: give two arrays (tokens, d) with the same d")
    if not len(sides[0]) or not len(sides[1]):
        return Score(0.0, 0.0, 0.0)
    similarity = _unit(sides[0]) @ _unit(sides[1]).T  # (prediction tokens, reference tokens)
    means: list[float] = []
    for best, weights in ((similarity.max(1), prediction_weights), (similarity.max(0), reference_weights)):
        weight = np.ones(len(best)) if weights is None else numbers("weights", weights)
        if weight.shape != best.shape:
            raise ValueError(f"{weight.shape} weights for {len(best)} tokens: give one for each")
        total = weight.sum()
        means.append(float(best @ weight / total) if total else 0.0)
    return Score(means[0], means[1], harmonic(means[0], means[1]) if sum(means) > 0 else 0.0)


def embedding_score(
    predictions: Sequence[str],
    references: Sequence[str],
    embed: Embed,
    idf: Mapping[Hashable, float] | None = None,
) -> list[Score]:
    """BERTScore of every prediction, with any model that gives tokens vectors.

    Args:
        predictions: texts.
        references: one text for each prediction.
        embed: the model, a function from texts to tokens and their vectors; see :func:`hidden_states`.
        idf: weights of the tokens, see :func:`inverse_document_frequency`; by default all weigh the same.
    """
    given, right = text_pairs(predictions, references)
    scores = []
    for (tokens, vectors), (others, wanted) in zip(embed(given), embed(right), strict=True):
        weights = [None, None] if idf is None else [[idf[token] for token in side] for side in (tokens, others)]
        scores.append(greedy_matching(vectors, wanted, *weights))
    return scores


def hidden_states(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", layer: int = -1, batch_size: int = 32
) -> Embed:
    """Make any encoder of Hugging Face's usable by :func:`embedding_score`.

    Args:
        model: as from ``AutoModel.from_pretrained``.
        tokenizer: the model's own; special tokens are left out of the matching.
        layer: which of the ``num_layers + 1`` states to take, the embeddings being number 0.
        batch_size: texts that are computed together.
    """
    import torch

    def embed(texts: Sequence[str]) -> list[tuple[Sequence[Hashable], Any]]:
        found: list[tuple[Sequence[Hashable], Any]] = []
        for start in range(0, len(texts), batch_size):
            part = list(texts[start : start + batch_size])
            encoded = tokenizer(
                part, padding=True, truncation=True, return_tensors="pt", return_special_tokens_mask=True
            )
            special = encoded.pop("special_tokens_mask").bool()  # (batch, time)
            with torch.no_grad():
                outputs = model(**encoded.to(model.device), output_hidden_states=True)
            states = outputs.hidden_states[layer].float().cpu()  # (batch, time, d_model)
            keep = encoded["attention_mask"].cpu().bool() & ~special  # (batch, time)
            ids = encoded["input_ids"].cpu()  # (batch, time)
            for row in range(len(part)):
                found.append((ids[row, keep[row]].tolist(), states[row, keep[row]].numpy()))
        return found

    return embed
