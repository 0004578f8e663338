"""How probable a model finds a text: perplexity and bits per byte (chapters 1 and 16)."""

import math

import numpy as np
from numpy.typing import ArrayLike

from llmbook.metrics.checks import as_numbers, refuse_missing


def perplexity(log_probs: ArrayLike) -> float:
    """Perplexity of a text: the inverse geometric mean of the probabilities of its tokens (chapter 1).

    Args:
        log_probs: natural-log probability of every token, any shape, at least one.

    Returns:
        A number of tokens, at least 1: the size of the uniform choice that would be as surprising. It depends on
        how the text was cut into tokens, so it compares models of one tokenizer only; see :func:`bits_per_byte`.
    """
    values = as_numbers("log_probs", log_probs)
    if values.size == 0:
        raise ValueError("perplexity of no token at all: log_probs is empty; give at least one log-probability")
    mean = values.mean()
    if np.isnan(mean):
        refuse_missing("log_probs", values)
    return float(np.exp(-mean))


def bits_per_byte(log_probs: ArrayLike, num_bytes: int) -> float:
    """Bits the model needs for each byte of the text (chapter 1).

    Args:
        log_probs: natural-log probability of every token of the text, any shape.
        num_bytes: length of the same text in UTF-8 bytes, at least 1.

    Returns:
        ``-sum(log2 p) / num_bytes``. Tokens cancel out, so models with different tokenizers compare, if both read the
        text under one convention: ``llmbook.evaluation.likelihood`` has names for these.
    """
    if num_bytes < 1:
        raise ValueError(f"num_bytes={num_bytes}: it takes the text's length in UTF-8 bytes, at least 1")
    values = as_numbers("log_probs", log_probs)
    total = values.sum()
    if np.isnan(total):
        refuse_missing("log_probs", values)
    return float(-total / math.log(2) / num_bytes)
