"""Reading a model: change what a module returns, remove heads, follow attention and gradients to tokens (chapter 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llmbook.attention import MultiHeadAttention


@contextmanager
def changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While active, the module returns ``change(output)`` in place of its output.

    ``change`` may return what it was given, to read it only. It must not write into the tensor that it gets.
    """
    hook = module.register_forward_hook(lambda module, inputs, output: change(output))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def without_heads(attention: MultiHeadAttention, heads: int | Sequence[int]) -> Iterator[None]:
    """While active, some heads say the same whatever the text: their output is its mean over the batch and all places.

    The mean keeps what the rest of the model is used to receive, so that only the heads' news is lost.

    Raises:
        ValueError: a head that the module does not have.
    """
    chosen = [heads] if isinstance(heads, int) else list(heads)
    if not all(0 <= head < attention.num_heads for head in chosen):
        raise ValueError(f"heads={heads}: there are {attention.num_heads}, numbered 0 to {attention.num_heads - 1}")

    def silence(output: Tensor) -> Tensor:
        output = output.clone()  # (batch, heads, time, d_head)
        output[:, chosen] = output[:, chosen].mean((0, 2), keepdim=True)
        return output

    with changed(attention.heads, silence):
        yield


def attention_rollout(attentions: Sequence[Tensor], residual: float = 0.5) -> Tensor:
    """Multiply the layers' attention, averaged over heads, with the residual connections between them.

    Abnar and Zuidema 2020 (arXiv:2005.00928). Head and layer count alike, however much or little they write.

    Args:
        attentions: weights of each layer, from the first, ``(batch, heads, token, token)``.
        residual: share of the residual connection, from 0 to 1; the paper takes one half.

    Returns:
        For each token after the last layer its distribution over the input's tokens, ``(batch, token, token)``.

    Raises:
        ValueError: no layers, weights of cross-attention, a share that is none.
    """
    if not attentions:
        raise ValueError("attentions is empty: run the model with output_attentions=True (transformers: 'eager')")
    if not 0 <= residual <= 1:
        raise ValueError(f"residual={residual}: it takes a share from 0 to 1")
    if any(layer.ndim != 4 or layer.shape[-1] != layer.shape[-2] for layer in attentions):
        shapes = ", ".join(str(tuple(layer.shape)) for layer in attentions)
        raise ValueError(f"attentions have shapes {shapes}: rollout takes self-attention, (batch, heads, token, token)")
    same = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
    rolled = same.expand(len(attentions[0]), -1, -1)  # (batch, token, token)
    for layer in attentions:
        rolled = (residual * same + (1 - residual) * layer.mean(1)) @ rolled
    return rolled


def integrated_gradients(
    function: Callable[[Tensor], Tensor], inputs: Tensor, baselines: Tensor, steps: int = 32
) -> Tensor:
    """Share out ``function(inputs) - function(baselines)`` among the numbers of the input.

    Sundararajan et al. 2017 (arXiv:1703.01365); the integral along the straight line by the midpoint rule.

    Args:
        function: from inputs to one number for each sequence, ``(batch,)``; sequences must not influence each other.
        inputs: ``(batch, ...)``, for instance embeddings ``(batch, time, d_model)``.
        baselines: where the line begins, broadcast to the inputs.
        steps: points on the line, from 1 up. The sum of the result falls short of the difference where they are few.

    Returns:
        One number for each of the inputs', same shape; add them over ``d_model`` for a token's share.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: it takes a whole number from 1 up")
    way = inputs.detach() - baselines.detach()  # (batch, ...)
    total = torch.zeros_like(way)
    for step in range(steps):
        point = (baselines.detach() + (step + 0.5) / steps * way).requires_grad_()
        total += torch.autograd.grad(function(point).sum(), point)[0]
    return total / steps * way
