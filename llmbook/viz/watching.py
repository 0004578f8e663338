"""Seeing the queries and keys of any model: they pass through torch's own attention function (chapter 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llmbook.viz.weights import Attention

NO_VECTORS = (
    "the neuron view needs each head's queries and keys, and this model does not pass them to torch's "
    "scaled_dot_product_attention (or changes the weights afterwards, as a forward hook may): use view='head' or "
    "view='model'"
)


@dataclass(eq=False)
class Call:
    """One call of ``F.scaled_dot_product_attention`` on a batch of 1: what it was given, and the weights it used."""

    query: np.ndarray  # (heads, query, d_head)
    key: np.ndarray  # (heads, key, d_head)
    weights: np.ndarray  # (heads, query, key)


class Watch(TorchFunctionMode):
    """While active, keeps what each call of ``F.scaled_dot_product_attention`` is given.

    Positions have been applied by then, and projections may be of any kind: no model needs to be known.
    """

    def __init__(self) -> None:
        """Begin with no call."""
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the call, and let it go on."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.calls.append(_call(*args, **kwargs))
        return func(*args, **kwargs)

    def vectors(self, part: Attention) -> tuple[np.ndarray, np.ndarray]:
        """Return the queries and keys that gave a part's weights, ``(layers, heads, tokens, d_head)`` each.

        Raises:
            ValueError: no call that was seen gives these weights.
        """
        found = []
        for weights in part.weights:
            fits = (
                call
                for call in self.calls
                if call.weights.shape == weights.shape and np.allclose(call.weights, weights, atol=2e-2)
            )
            call = next(fits, None)
            if call is None:
                raise ValueError(NO_VECTORS)
            self.calls.remove(call)
            found.append((call.query, call.key))
        queries, keys = (np.stack(side) for side in zip(*found, strict=True))
        return queries, keys


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    query, key = query[0].float(), key[0].float()  # (heads, tokens, d_head)
    if len(key) < len(query):  # grouped queries share a head of keys
        key = key.repeat_interleave(len(query) // len(key), dim=0)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        mask = attn_mask[0] if attn_mask.ndim == 4 else attn_mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1).nan_to_num()  # (heads, query, key)
    return Call(*(part.cpu().numpy() for part in (query, key, weights)))
