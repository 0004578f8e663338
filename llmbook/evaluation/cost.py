"""What a model costs to run: time to the first token and per token, throughput, memory (chapter 17).

Two phases have to be told apart. Reading the prompt (prefill) computes all of its tokens at once and decides when the
first new token comes; writing computes one token at a time, with keys and values of all earlier ones in a cache.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from llmbook.transformer import Cache, Decoder, unwrapped


@dataclass(frozen=True)
class Timing:
    """Times of one generation, medians over repetitions.

    Attributes:
        batch: sequences written together.
        prompt: tokens of each prompt.
        new: tokens written for each.
        first_token: seconds from the prompt to the first token of all sequences.
        per_token: seconds for each further token of all sequences.
        throughput: new tokens per second, of all sequences and the whole generation.
    """

    batch: int
    prompt: int
    new: int
    first_token: float
    per_token: float
    throughput: float


@torch.no_grad()
def time_generation(model: Decoder, prompt: Tensor, max_new_tokens: int, repeats: int = 3) -> Timing:
    """Time greedy writing with a cache; one generation before the first that counts warms up.

    Args:
        model: in ``eval`` mode, on any device.
        prompt: token ids ``(batch, time)``.
        max_new_tokens: tokens to write, from 2 up.
        repeats: generations that are timed.

    Raises:
        ValueError: no decoder, an empty prompt, fewer than two new tokens or one repetition.
    """
    if not isinstance(unwrapped(model), Decoder):
        raise ValueError(f"{type(model).__name__} predicts no next token: time_generation takes a Decoder")
    if prompt.ndim != 2 or not prompt.numel():
        raise ValueError(f"prompt has shape {tuple(prompt.shape)}: it takes (batch, time) with at least one token")
    if max_new_tokens < 2 or repeats < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}, repeats={repeats}: they take 2 or more, and 1 or more")
    device = next(model.parameters()).device
    prompt = prompt.to(device)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    first, rest = [], []
    for _ in range(repeats + 1):
        begin = now()
        out = model(prompt, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)  # (batch, 1)
        read = now()
        for _ in range(max_new_tokens - 1):
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1].argmax(-1, keepdim=True)  # (batch, 1)
        first.append(read - begin)
        rest.append(now() - read)
    first_token, written = median(first[1:]), median(rest[1:])
    batch = len(prompt)
    per_token = written / (max_new_tokens - 1)
    speed = batch * max_new_tokens / (first_token + written)
    return Timing(batch, prompt.shape[1], max_new_tokens, first_token, per_token, speed)


def measured_cache_bytes(cache: Cache) -> int:
    """Return the bytes of the tensors of a cache, as they lie in memory."""
    return sum(tensor.numel() * tensor.element_size() for pair in cache for tensor in pair)


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters, shared ones once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@torch.no_grad()
def peak_bytes(model: Decoder, prompt: Tensor) -> int:
    """Return the most memory that reading a prompt needs at once, beside weights and prompt.

    On a GPU from torch's allocator, on a CPU from the profiler's record of every allocation and release.
    """
    prompt = prompt.to(next(model.parameters()).device)
    if prompt.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(prompt, use_cache=True)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        out = model(prompt, use_cache=True)
    del out
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return int(max(np.cumsum([size for _, size in sorted(changes)]), default=0))


def cheapest(cost: ArrayLike, quality: ArrayLike) -> np.ndarray:
    """Return which systems no other one beats in cost and quality at once (the Pareto front), ``(systems,)`` of bool.

    Args:
        cost: less is better, ``(systems,)``.
        quality: more is better, ``(systems,)``; for bits per byte give its negative.
    """
    costs, goods = np.asarray(cost, dtype=float), np.asarray(quality, dtype=float)
    if costs.shape != goods.shape or costs.ndim != 1 or not len(costs):
        raise ValueError(f"costs of shape {costs.shape}, qualities of shape {goods.shape}: one of each for a system")
    not_worse = (costs[:, None] <= costs) & (goods[:, None] >= goods)  # (systems, systems): the row beats the column
    better = (costs[:, None] < costs) | (goods[:, None] > goods)
    return np.logical_not((not_worse & better).any(0))
