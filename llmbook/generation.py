"""Choosing the next token: temperature, top-k, top-p, sampling and beam search (chapter 1).

A model is here any function from token ids ``(batch, time)`` to scores of the next token ``(batch, vocab)``: logits or
log-probabilities, which differ by a constant in each row and so give the same choices. An n-gram model, an LSTM and
a Transformer are all driven by the same lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from llmbook.transformer import Decoder

NextToken = Callable[[Tensor], Tensor]


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Divide by the temperature, then set the logits of tokens outside top-k and top-p to minus infinity.

    The order (temperature, top-k, top-p) and the edge cases are those of Hugging Face's ``generate``.

    Args:
        logits: ``(..., vocab)``.
        temperature: above 0; below 1 sharpens, above 1 flattens.
        top_k: keep the k largest logits (and those equal to the k-th; Fan et al. 2018); ``None`` keeps all.
        top_p: keep the smallest set of most probable tokens whose probabilities reach ``top_p``, in (0, 1]
            (nucleus sampling, Holtzman et al. 2020); always at least one token.

    Returns:
        Filtered logits, same shape.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: it takes a number above 0; for greedy decoding use top_k=1")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: it takes a whole number from 1 up, or None to keep every token")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: it takes a probability above 0 and at most 1")
    logits = logits / temperature
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]  # (..., 1)
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p < 1:
        ascending, order = logits.sort(dim=-1)
        drop = ascending.softmax(-1).cumsum(-1) <= 1 - top_p  # (..., vocab): the tail that top_p can do without
        drop[..., -1] = False
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -math.inf)
    return logits


def sample(
    model: NextToken,
    prompt: Tensor,
    max_new_tokens: int,
    generator: torch.Generator,
    *,
    stop: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Continue ``prompt``, drawing each token from the filtered distribution; ``top_k=1`` is greedy decoding.

    Args:
        model: scores of the next token, see the module's text.
        prompt: token ids ``(batch, time)``.
        max_new_tokens: at most so many tokens are added.
        generator: the source of randomness; tokens are drawn on its device, so that one of the CPU draws the same on a
            GPU.
        stop: a token that ends a sequence; sequences that end early are filled up with it.
        temperature: see :func:`filter_logits`, as for ``top_k`` and ``top_p``.

    Returns:
        Token ids ``(batch, time + new)``, the prompt included.
    """
    ids = prompt
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        logits = filter_logits(model(ids).float(), temperature, top_k, top_p)  # (batch, vocab)
        token = torch.multinomial(logits.softmax(-1).to(generator.device), 1, generator=generator)  # (batch, 1)
        token = token.to(ids.device)
        if stop is not None:
            token[done] = stop
            done |= token[:, 0] == stop
        ids = torch.cat([ids, token], dim=1)
        if stop is not None and done.all():
            break
    return ids


def beam_search(
    model: NextToken, prompt: Tensor, max_new_tokens: int, num_beams: int, *, stop: int | None = None
) -> tuple[Tensor, float]:
    """Look for the most probable continuation, keeping the ``num_beams`` best beginnings at each step.

    Args:
        model: scores of the next token, see the module's text.
        prompt: token ids of one sequence ``(1, time)``.
        max_new_tokens: length of the continuation; one that meets ``stop`` may be shorter.
        num_beams: width of the beam, at least 1 (which is greedy decoding).
        stop: a token that ends a sequence.

    Returns:
        The best sequence found ``(time + new,)``, the prompt included, and the sum of its new tokens' natural-log
        probabilities (no length normalisation: short endings are favoured, see chapter 1).
    """
    if num_beams < 1:
        raise ValueError(f"num_beams={num_beams}: it takes a whole number from 1 up")
    if prompt.ndim != 2 or len(prompt) != 1:
        raise ValueError(f"prompt has shape {tuple(prompt.shape)}: beam search takes one sequence, shape (1, time)")
    beams, scores = prompt, torch.zeros(1, dtype=torch.float64)
    best, best_score = prompt[0], -math.inf
    for _ in range(max_new_tokens):
        log_probs = model(beams).cpu().double().log_softmax(-1)  # (beams, vocab)
        total = (scores[:, None] + log_probs).flatten()  # (beams * vocab,)
        if stop is not None:  # a sequence that ends here competes, and leaves the beam
            ended = scores + log_probs[:, stop]
            if ended.max() > best_score:
                best = torch.cat([beams[int(ended.argmax())], beams.new_tensor([stop])])
                best_score = float(ended.max())
            total.view_as(log_probs)[:, stop] = -math.inf
        scores, place = total.topk(min(num_beams, int(total.isfinite().sum())))
        row, token = place // log_probs.shape[1], place % log_probs.shape[1]
        beams = torch.cat([beams[row], token[:, None].to(beams)], dim=1)
        if stop is not None and scores[0] <= best_score:  # probabilities only fall: nothing better can come
            break
    if scores[0] > best_score:
        best, best_score = beams[0], float(scores[0])
    return best, best_score


def cached_scores(decoder: Decoder) -> NextToken:
    """Return a decoder as a function from ids to scores that computes new tokens only (chapter 1; cache: chapter 5).

    Keys and values of the call before are kept. Where each row of a call is one of the rows before and one token more,
    as in :func:`sample` and :func:`beam_search`, only that token is computed; any other call is computed as a whole.

    Args:
        decoder: a causal model of the book. Ids go to its device; scores come back in ``float32`` on the CPU.
    """
    device = next(decoder.parameters()).device
    seen = torch.empty(0, 0, dtype=torch.long)
    cache: Any = None

    @torch.no_grad()
    def scores(ids: Tensor) -> Tensor:
        nonlocal seen, cache
        new = ids
        if cache is not None and seen.shape[1] == ids.shape[1] - 1:
            same = (ids[:, None, :-1] == seen).all(-1)  # (batch, rows before)
            if same.any(1).all():
                rows = same.int().argmax(1).to(device)  # (batch,)
                cache = [(keys[rows], values[rows]) for keys, values in cache]
                new = ids[:, -1:]
        if new is ids:
            cache = None
        out = decoder(new.to(device), past_key_values=cache, use_cache=True)
        seen, cache = ids, out.past_key_values
        return out.logits[:, -1].float().cpu()  # (batch, vocab)

    return scores
