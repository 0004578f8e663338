"""Attention: softmax(QK'/sqrt(d_k))V with masks, by hand backwards, block by block, and with many heads (chapter 3).

A mask says who may attend to whom: boolean with ``True`` for "may attend", as in
:func:`torch.nn.functional.scaled_dot_product_attention`, or a floating-point bias that is added to the scores.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmbook.positions import apply_rotary


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ValueError(f"{shapes}: each needs at least two dimensions, (..., time, features)")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query has {query.shape[-1]} features and key {key.shape[-1]}: their dot product needs the same number"
        )
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"{key.shape[-2]} keys and {value.shape[-2]} values: each key needs its value")
    try:
        leading = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    except RuntimeError:
        raise ValueError(f"{shapes}: the dimensions before the last two must be the same, or 1") from None
    if attention_mask is None:
        return
    if not (attention_mask.dtype == torch.bool or attention_mask.is_floating_point()):
        raise ValueError(
            f"attention_mask is {attention_mask.dtype}: pass booleans (True = may attend), e.g. mask.bool(), "
            "or a floating-point bias that is added to the scores"
        )
    scores = torch.Size([*leading, query.shape[-2], key.shape[-2]])
    try:
        fits = torch.broadcast_shapes(attention_mask.shape, scores) == scores
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, the scores {tuple(scores)}: the mask must "
            "broadcast to (..., query, key); a mask of keys (batch, key) needs padding_mask()"
        )


def masked_softmax(scores: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Softmax over the keys, where a row that may attend to nothing gets weights of zero instead of NaN.

    Args:
        scores: ``(..., query, key)``.
        attention_mask: boolean (``True`` = may attend) or a bias, broadcast to the scores.

    Returns:
        Weights, same shape; each row sums to 1, or to 0 where every key is masked (by ``False`` or by minus infinity).
    """
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, -math.inf)
        else:
            scores = scores + attention_mask
    nothing = scores.eq(-math.inf).all(-1, keepdim=True)  # (..., query, 1)
    return scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Average the values with weights softmax(query key' * scale) (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        query: ``(..., query, d_k)``.
        key: ``(..., key, d_k)``; leading dimensions broadcast.
        value: ``(..., key, d_v)``.
        attention_mask: see the module's text; broadcast to ``(..., query, key)``.
        scale: factor of the scores, by default ``1 / sqrt(d_k)``.

    Returns:
        Output ``(..., query, d_v)`` and weights ``(..., query, key)``. A query that may attend to nothing gets zeros
        in both, as in torch's own function.

    Raises:
        ValueError: shapes that do not fit each other, a mask of whole numbers.
    """
    _check_shapes(query, key, value, attention_mask)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale  # (..., query, key)
    weights = masked_softmax(scores, attention_mask)  # (..., query, key)
    return weights @ value, weights


class Gradients(NamedTuple):
    """Gradients of a loss for the three inputs of attention."""

    query: Tensor
    key: Tensor
    value: Tensor


def attention_backward(
    query: Tensor, key: Tensor, value: Tensor, weights: Tensor, grad_output: Tensor, scale: float | None = None
) -> Gradients:
    """Backpropagate through :func:`scaled_dot_product_attention`, as derived in chapter 3.

    Args:
        query: ``(..., query, d_k)``.
        key: ``(..., key, d_k)``.
        value: ``(..., key, d_v)``.
        weights: ``(..., query, key)``, as the forward pass returned them; a mask is contained in their zeros.
        grad_output: gradient of the loss for the output, ``(..., query, d_v)``.
        scale: as in the forward pass.

    Returns:
        Gradients for query, key and value, each of its input's shape (without broadcasting).
    """
    _check_shapes(query, key, value, None)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    grad_value = weights.transpose(-2, -1) @ grad_output  # (..., key, d_v)
    grad_weights = grad_output @ value.transpose(-2, -1)  # (..., query, key)
    mean = (weights * grad_weights).sum(-1, keepdim=True)  # (..., query, 1)
    grad_scores = weights * (grad_weights - mean)  # (..., query, key)
    grad_query = grad_scores @ key * scale  # (..., query, d_k)
    grad_key = grad_scores.transpose(-2, -1) @ query * scale  # (..., key, d_k)
    return Gradients(grad_query, grad_key, grad_value)


def causal_mask(query_length: int, key_length: int | None = None, device: torch.device | None = None) -> Tensor:
    """Return the mask ``(query, key)`` that lets each token attend to itself and to what stands before it.

    With more keys than queries the queries are the last tokens, as when a cache holds the keys of earlier ones.
    """
    key_length = query_length if key_length is None else key_length
    if key_length < query_length:
        raise ValueError(f"{query_length} queries and {key_length} keys: each query needs its own token among the keys")
    ones = torch.ones(query_length, key_length, dtype=torch.bool, device=device)
    return ones.tril(key_length - query_length)


def padding_mask(attention_mask: Tensor) -> Tensor:
    """Turn a tokenizer's mask of real tokens ``(batch, key)`` (1 = token, 0 = padding) into ``(batch, 1, 1, key)``."""
    if attention_mask.ndim != 2:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}: padding_mask takes (batch, key)")
    return attention_mask.bool()[:, None, None, :]


def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, block_size: int, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Attention that reads keys and values one block at a time and never holds a full row of scores.

    The running maximum and sum of each row are the online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) on
    which FlashAttention rests (Dao et al. 2022, arXiv:2205.14135). The result is exact, not an approximation.

    Args:
        query: ``(..., query, d_k)``.
        key: ``(..., key, d_k)``.
        value: ``(..., key, d_v)``.
        block_size: keys in a block, from 1 up.
        causal: let each query see the keys up to its own place (the queries are the last of the keys).
        scale: factor of the scores, by default ``1 / sqrt(d_k)``.

    Returns:
        Output ``(..., query, d_v)``, of the values' type; the sums are kept in float32 or better.
    """
    _check_shapes(query, key, value, None)
    if block_size < 1:
        raise ValueError(f"block_size={block_size}: it takes a whole number from 1 up")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    queries, keys = query.shape[-2], key.shape[-2]
    if causal and keys < queries:
        raise ValueError(f"{queries} queries and {keys} keys: each query needs its own token among the keys")
    place = torch.arange(keys - queries, keys, device=query.device)[:, None]  # (query, 1): of the queries
    exact = torch.promote_types(query.dtype, torch.float32)  # half precision is too coarse for sums
    output = query.new_zeros(*query.shape[:-1], value.shape[-1], dtype=exact)  # (..., query, d_v): weighted sum so far
    top = query.new_full((*query.shape[:-1], 1), -math.inf, dtype=exact)  # (..., query, 1): largest score so far
    total = torch.zeros_like(top)  # (..., query, 1): sum of exp(score - top) so far
    for start in range(0, keys, block_size):
        block = slice(start, start + block_size)
        scores = (query @ key[..., block, :].transpose(-2, -1)).to(exact) * scale  # (..., query, block)
        if causal:
            column = torch.arange(keys, device=query.device)[block]  # (block,): places of the keys
            scores = scores.masked_fill(column > place, -math.inf)
        new_top = torch.maximum(top, scores.amax(-1, keepdim=True))  # (..., query, 1)
        shift = new_top.masked_fill(new_top == -math.inf, 0.0)  # nothing seen yet: no NaN from inf - inf
        old = (top - shift).exp()  # (..., query, 1): what the old sums are worth now
        exp_scores = (scores - shift).exp()  # (..., query, block)
        total = total * old + exp_scores.sum(-1, keepdim=True)
        output = output * old + exp_scores @ value[..., block, :].to(exact)
        top = new_top
    return (output / total).to(value.dtype)


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in its own projection of the tokens.

    ``pattern`` and ``heads`` are identities through which the weights ``(batch, heads, query, key)`` and the heads'
    outputs ``(batch, heads, query, d_head)`` pass: a forward hook on them reads or replaces either. Torch's fused
    kernel, which keeps no weights, serves where nobody asks for them.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_key_value_heads: int | None = None,
        d_head: int | None = None,
        bias: bool = True,
        scale: float | None = None,
    ) -> None:
        """Make the four projections.

        Args:
            d_model: features of a token.
            num_heads: number of heads.
            num_key_value_heads: heads of keys and values, each shared by ``num_heads / num_key_value_heads`` heads of
                queries (grouped-query attention, Ainslie et al. 2023, arXiv:2305.13245); by default one for each head.
            d_head: features of a head, by default ``d_model / num_heads``.
            bias: whether the projections have a bias.
            scale: factor of the scores, by default ``1 / sqrt(d_head)``.
        """
        super().__init__()
        groups = num_heads if num_key_value_heads is None else num_key_value_heads
        if d_head is None and d_model % num_heads:
            raise ValueError(f"d_model={d_model} is no multiple of num_heads={num_heads}: change one, or give d_head")
        if num_heads % groups:
            raise ValueError(f"num_heads={num_heads} is no multiple of num_key_value_heads={groups}: change one")
        self.num_heads, self.num_key_value_heads = num_heads, groups
        self.d_head = d_model // num_heads if d_head is None else d_head
        self.scale = 1 / math.sqrt(self.d_head) if scale is None else scale
        self.q_proj = nn.Linear(d_model, num_heads * self.d_head, bias)
        self.k_proj = nn.Linear(d_model, groups * self.d_head, bias)
        self.v_proj = nn.Linear(d_model, groups * self.d_head, bias)
        self.o_proj = nn.Linear(num_heads * self.d_head, d_model, bias)
        self.pattern = nn.Identity()
        self.heads = nn.Identity()

    def split(self, features: Tensor, num_heads: int) -> Tensor:
        """Cut ``(batch, time, heads * d_head)`` into heads: ``(batch, heads, time, d_head)``."""
        return features.unflatten(-1, (num_heads, self.d_head)).transpose(1, 2)

    def forward(
        self,
        hidden: Tensor,
        context: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: tuple[Tensor, Tensor] | None = None,
        output_attentions: bool = False,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Attend from ``hidden`` to ``context`` (by default to ``hidden`` itself).

        Args:
            hidden: ``(batch, query, d_model)``.
            context: ``(batch, key, d_model)`` for cross-attention.
            attention_mask: broadcast to ``(batch, heads, query, key)``.
            rotary: cosines and sines of the queries' positions, see ``llmbook.positions``.
            cache: keys and values of earlier tokens, ``(batch, kv heads, earlier, d_head)`` each, put before the new.
            output_attentions: whether to return the weights.
            is_causal: without a mask and a cache, let each token attend to itself and to what stands before it.

        Returns:
            Output ``(batch, query, d_model)``; weights ``(batch, heads, query, key)`` or ``None``; keys and values.
        """
        own = context is None  # then queries, keys and values are of one shape but for the heads
        context = hidden if context is None else context
        query = self.split(self.q_proj(hidden), self.num_heads)  # (batch, heads, query, d_head)
        key = self.split(self.k_proj(context), self.num_key_value_heads)  # (batch, kv heads, key, d_head)
        value = self.split(self.v_proj(context), self.num_key_value_heads)  # (batch, kv heads, key, d_head)
        if rotary is not None:
            query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
        if cache is not None:
            key, value = torch.cat([cache[0], key], dim=2), torch.cat([cache[1], value], dim=2)
        keys_and_values = key, value
        shared = self.num_heads // self.num_key_value_heads  # heads of queries for each of keys and values
        weighs = output_attentions or bool(self.pattern._forward_hooks)
        if is_causal and weighs:
            attention_mask, is_causal = causal_mask(query.shape[2], key.shape[2], query.device), False
        # where torch's kernels share keys among heads without a copy
        bare = own and attention_mask is None and not weighs
        if shared > 1 and not bare:
            key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))  # (batch, heads, key, d_head)
        if not bare:
            _check_shapes(query, key, value, attention_mask)
        weights = None
        if weighs:
            scores = query @ key.transpose(-2, -1) * self.scale  # (batch, heads, query, key)
            weights = self.pattern(masked_softmax(scores, attention_mask))  # (batch, heads, query, key)
            mixed = weights @ value  # (batch, heads, query, d_head)
        else:
            mixed = F.scaled_dot_product_attention(
                query, key, value, attention_mask, is_causal=is_causal, scale=self.scale, enable_gqa=bare and shared > 1
            )
        mixed = self.heads(mixed)  # (batch, heads, query, d_head)
        output = self.o_proj(mixed.transpose(1, 2).flatten(2))  # (batch, query, d_model)
        return output, weights, keys_and_values
