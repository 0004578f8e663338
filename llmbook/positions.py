"""Where a token stands: sinusoidal, rotary, linear-bias and bucketed relative positions (chapter 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def _frequencies(features: int, base: float, device: torch.device | None = None) -> Tensor:
    """Angles per position of the ``features / 2`` planes, from 1 down to almost ``1 / base``."""
    if features < 2 or features % 2:
        raise ValueError(f"{features} features: positions turn planes of two, so the number must be even")
    return base ** -(torch.arange(0, features, 2, dtype=torch.float32, device=device) / features)  # (features / 2,)


def sinusoidal(length: int, d_model: int, base: float = 10_000.0) -> Tensor:
    """Return the sinusoidal position vectors ``(length, d_model)`` of Vaswani et al. 2017 (arXiv:1706.03762).

    Sine in the even features, cosine in the odd ones.
    """
    angles = torch.outer(torch.arange(length, dtype=torch.float32), _frequencies(d_model, base))  # (length, d_model/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (length, d_model)


def rotary(positions: Tensor, d_head: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Return cosines and sines ``(..., time, d_head)`` for :func:`apply_rotary`.

    Args:
        positions: ``(..., time)``, whole or real numbers.
        d_head: features of a head, even.
        base: the longest wavelength is about ``2 pi base`` tokens.
    """
    angles = positions[..., None].float() * _frequencies(d_head, base, positions.device)  # (..., time, d_head / 2)
    angles = torch.cat([angles, angles], dim=-1)  # (..., time, d_head)
    return angles.cos(), angles.sin()


def apply_rotary(features: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys by their positions (RoPE, Su et al. 2021, arXiv:2104.09864).

    Feature ``i`` is turned with feature ``i + d_head / 2``, the layout of Hugging Face's Llama; the paper pairs
    neighbours, which is the same up to the order of the features.

    Args:
        features: ``(..., time, d_head)``.
        cos: cosines that broadcast to it, see :func:`rotary`.
        sin: sines, likewise.

    Returns:
        The turned features, same shape and type; lengths are kept.
    """
    if features.shape[-2:] != cos.shape[-2:]:
        raise ValueError(
            f"features have (time, d_head) = {tuple(features.shape[-2:])}, the angles {tuple(cos.shape[-2:])}: "
            "make them with rotary(positions, d_head) for the same tokens"
        )
    first, second = features.chunk(2, dim=-1)  # (..., time, d_head / 2) each
    turned = features * cos + torch.cat([-second, first], dim=-1) * sin  # (..., time, d_head)
    return turned.to(features.dtype)


def alibi_slopes(num_heads: int) -> Tensor:
    """Return the slope of each head ``(heads,)`` (ALiBi, Press et al. 2022, arXiv:2108.12409).

    A geometric sequence from ``2^(-8/n)`` to ``2^-8``; where ``num_heads`` is no power of two the missing slopes are
    taken from the sequence of the next one, as the authors do.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads={num_heads}: it takes a whole number from 1 up")
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    slopes += [2 ** (-4 * (2 * head + 1) / power) for head in range(num_heads - power)]
    return torch.tensor(slopes)


def alibi_bias(num_heads: int, query_length: int, key_length: int | None = None) -> Tensor:
    """Return the bias ``(heads, query, key)``: minus the slope times the distance (the queries are the last keys)."""
    key_length = query_length if key_length is None else key_length
    query = torch.arange(key_length - query_length, key_length)[:, None]  # (query, 1)
    distance = (query - torch.arange(key_length)).abs()  # (query, key)
    return -alibi_slopes(num_heads)[:, None, None] * distance  # (heads, query, key)


def relative_position_bucket(
    distance: Tensor, bidirectional: bool = True, num_buckets: int = 32, max_distance: int = 128
) -> Tensor:
    """Return T5's bucket of each distance: one each for near ones, logarithmic for far (arXiv:1910.10683).

    Args:
        distance: key position minus query position, whole numbers of any shape.
        bidirectional: give tokens to the right buckets of their own; otherwise they share the one of distance zero.
        num_buckets: how many in all.
        max_distance: all from here on share the last bucket.

    Returns:
        Buckets from 0 to ``num_buckets - 1``, same shape.
    """
    offset = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = (distance > 0).long() * num_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = num_buckets // 2
    far = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    far = (exact + far.long()).clamp(max=num_buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class RelativePositionBias(nn.Module):
    """T5's learned bias of each head for each bucket of distances."""

    def __init__(
        self, num_heads: int, bidirectional: bool = True, num_buckets: int = 32, max_distance: int = 128
    ) -> None:
        """Make the table ``(buckets, heads)``; see :func:`relative_position_bucket`."""
        super().__init__()
        self.bidirectional, self.num_buckets, self.max_distance = bidirectional, num_buckets, max_distance
        self.table = nn.Embedding(num_buckets, num_heads)

    def forward(self, query_length: int, key_length: int | None = None) -> Tensor:
        """Return the bias ``(heads, query, key)``; the queries are the last of the keys."""
        key_length = query_length if key_length is None else key_length
        device = self.table.weight.device
        query = torch.arange(key_length - query_length, key_length, device=device)[:, None]  # (query, 1)
        distance = torch.arange(key_length, device=device) - query  # (query, key)
        bucket = relative_position_bucket(distance, self.bidirectional, self.num_buckets, self.max_distance)
        return self.table(bucket).permute(2, 0, 1)  # (heads, query, key)
