"""Where a token stands: sinusoidal, rotary, linear-bias and bucketed relative positions (chapter 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def _frequencies(features: int, base: float, device: torch.device | None = None) -> Tensor:
    """Angles per position of the ``features / 2`` planes, from 1 down to almost ``1 / base``."""
    if features < 2 or features % 2:
        raise ValueError(f"{features} features: positions turn planes of two, so the number must be even")
    # 1 / base^x rather than base^-x: rounded like Hugging Face's, so that far positions have the same angles
    return 1 / base ** (torch.arange(0, features, 2, dtype=torch.float32, device=device) / features)  # (features / 2,)


def sinusoidal(length: int, d_model: int, base: float = 10_000.0, device: torch.device | None = None) -> Tensor:
    """Return the sinusoidal position vectors ``(length, d_model)`` of Vaswani et al. 2017 (arXiv:1706.03762).

    Sine in the even features, cosine in the odd ones.
    """
    if length < 0:
        raise ValueError(f"length={length}: it takes a whole number from 0 up")
    places = torch.arange(length, dtype=torch.float32, device=device)  # (length,)
    angles = torch.outer(places, _frequencies(d_model, base, device))  # (length, d_model / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (length, d_model)


def rotary(
    positions: Tensor, d_head: int, base: float = 10_000.0, frequencies: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines ``(..., time, d_head)`` for :func:`apply_rotary`, in single precision.

    Args:
        positions: ``(..., time)``, whole or real numbers; positions of a batch ``(batch, time)`` are given a dimension
            for the heads, ``positions[:, None]``.
        d_head: features of a head, even.
        base: the longest wavelength is almost ``2 pi base`` tokens.
        frequencies: angle per position of each plane, ``(d_head / 2,)``, in place of those that follow from the base:
            a model that reads texts longer than those of its training has them changed (chapter 4).

    Raises:
        ValueError: an odd ``d_head``, frequencies of another number of planes, or positions in half precision, which
            cannot tell far tokens apart.
    """
    if positions.dtype in (torch.float16, torch.bfloat16):
        exact = 2048 if positions.dtype == torch.float16 else 256
        raise ValueError(
            f"positions are {positions.dtype}, which holds whole numbers exactly only up to {exact}: make them with "
            "torch.arange(time), and give the angles a lower precision afterwards if you must"
        )
    speeds = _frequencies(d_head, base, positions.device)  # (d_head / 2,)
    if frequencies is not None:
        if frequencies.shape != speeds.shape:
            raise ValueError(
                f"frequencies have shape {tuple(frequencies.shape)}: heads of {d_head} features take one for each of "
                f"their {d_head // 2} planes"
            )
        speeds = frequencies.to(speeds)
    angles = positions[..., None].float() * speeds  # (..., time, d_head / 2)
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

    Raises:
        ValueError: angles made for other tokens, another ``d_head`` or another batch.
    """
    if features.shape[-2:] != cos.shape[-2:]:
        raise ValueError(
            f"features have (time, d_head) = {tuple(features.shape[-2:])}, the angles {tuple(cos.shape[-2:])}: "
            "make them with rotary(positions, d_head) for the same tokens"
        )
    leading = zip(reversed(cos.shape), reversed(features.shape), strict=False)
    if cos.ndim > features.ndim or any(size not in (1, wanted) for size, wanted in leading):
        raise ValueError(
            f"angles of shape {tuple(cos.shape)} do not broadcast to features of shape {tuple(features.shape)}: "
            "for positions of a batch (batch, time) pass rotary(positions[:, None], d_head)"
        )
    first, second = features.chunk(2, dim=-1)  # (..., time, d_head / 2) each
    turned = features * cos + torch.cat([-second, first], dim=-1) * sin  # (..., time, d_head)
    return turned.to(features.dtype)


def alibi_slopes(num_heads: int, device: torch.device | None = None) -> Tensor:
    """Return the slope of each head ``(heads,)`` (ALiBi, Press et al. 2022, arXiv:2108.12409).

    A geometric sequence from ``2^(-8/n)`` to ``2^-8``; where ``num_heads`` is no power of two the missing slopes are
    taken from the sequence of the next one, as the authors do.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads={num_heads}: it takes a whole number from 1 up")
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    slopes += [2 ** (-4 * (2 * head + 1) / power) for head in range(num_heads - power)]
    return torch.tensor(slopes, device=device)


def _relative_positions(query_length: int, key_length: int | None, device: torch.device | None) -> Tensor:
    """Return key position minus query position ``(query, key)``; the queries are the last of the keys."""
    key_length = query_length if key_length is None else key_length
    if key_length < query_length:
        raise ValueError(f"{query_length} queries and {key_length} keys: each query needs its own token among the keys")
    query = torch.arange(key_length - query_length, key_length, device=device)[:, None]  # (query, 1)
    return torch.arange(key_length, device=device) - query  # (query, key)


def alibi_bias(
    num_heads: int, query_length: int, key_length: int | None = None, device: torch.device | None = None
) -> Tensor:
    """Return the bias ``(heads, query, key)``: minus the slope times the distance, whichever way it points.

    The queries are the last of the keys. The future is not masked: combine it with a causal mask where there is one.
    """
    distance = _relative_positions(query_length, key_length, device).abs()  # (query, key)
    return -alibi_slopes(num_heads, device)[:, None, None] * distance  # (heads, query, key)


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

    Raises:
        ValueError: too few buckets, a ``max_distance`` that leaves nothing far, distances that are no whole numbers.
    """
    if distance.is_floating_point():
        raise ValueError(f"distances are {distance.dtype}: they take whole numbers, key position minus query position")
    sides = 2 if bidirectional else 1
    near = num_buckets // sides // 2
    if near < 1 or num_buckets % sides:
        raise ValueError(f"num_buckets={num_buckets}: it takes at least {2 * sides}, and an even number for two sides")
    if max_distance <= near:
        raise ValueError(
            f"max_distance={max_distance}: the {near} nearest distances have a bucket each; it takes a larger number"
        )
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
        relative_position_bucket(torch.tensor(0), bidirectional, num_buckets, max_distance)  # fails early
        self.bidirectional, self.num_buckets, self.max_distance = bidirectional, num_buckets, max_distance
        self.table = nn.Embedding(num_buckets, num_heads)

    def forward(self, query_length: int, key_length: int | None = None) -> Tensor:
        """Return the bias ``(heads, query, key)``; the queries are the last of the keys."""
        distance = _relative_positions(query_length, key_length, self.table.weight.device)  # (query, key)
        bucket = relative_position_bucket(distance, self.bidirectional, self.num_buckets, self.max_distance)
        return self.table(bucket).permute(2, 0, 1)  # (heads, query, key)
