"""Scaling laws fitted to runs, and what a model costs in memory, arithmetic, hours and energy (chapter 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares

from llmbook.transformer import Decoder, TransformerConfig, count_parameters

# --- laws ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerLaw:
    """``loss = floor + factor / x ** exponent``."""

    floor: float
    factor: float
    exponent: float

    def __call__(self, x: np.ndarray | float) -> np.ndarray | float:
        """Return the loss at ``x``."""
        return self.floor + self.factor / x**self.exponent


@dataclass(frozen=True)
class Law:
    """``loss = E + A / N ** alpha + B / D ** beta`` (Hoffmann et al. 2022, arXiv:2203.15556).

    Attributes:
        E: what no model and no data remove, in nats per token.
        A: of the part that parameters remove.
        alpha: its exponent.
        B: of the part that tokens remove.
        beta: its exponent.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def __call__(self, parameters: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray | float:
        """Return the loss of a model with so many parameters after so many tokens."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    @property
    def exponent(self) -> float:
        """``a`` of the best size ``N ~ C ** a`` for ``C`` operations, ``beta / (alpha + beta)``."""
        return self.beta / (self.alpha + self.beta)

    def best(self, flops: np.ndarray | float) -> tuple[np.ndarray | float, np.ndarray | float]:
        """Return the parameters and tokens with the lowest loss among all with ``6 N D = flops``."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * (np.asarray(flops) / 6) ** self.exponent
        return parameters, np.asarray(flops) / (6 * parameters)


def fit_power(x: Sequence[float] | np.ndarray, loss: Sequence[float] | np.ndarray, floor: bool = True) -> PowerLaw:
    """Fit a power law to the logarithms of losses, by least squares.

    Args:
        x: parameters, tokens or operations, ``(runs,)``.
        loss: ``(runs,)``, above 0.
        floor: whether the loss may level off above zero.

    Raises:
        ValueError: fewer runs than numbers to fit, or values that are not above 0.
    """
    (sizes,), loss = _checked([x], loss, 3 if floor else 2)
    log_x, log_loss = np.log(sizes), np.log(loss)
    if not floor:
        slope, start = np.polyfit(log_x, log_loss, 1)
        return PowerLaw(0.0, float(np.exp(start)), float(-slope))
    middle = log_x.mean()

    def curve(p: np.ndarray) -> np.ndarray:
        return np.logaddexp(p[0], p[1] - np.exp(p[2]) * (log_x - middle)) - log_loss

    starts = [
        (np.log(share * loss.min()), np.log((1 - share) * loss.mean()), np.log(slope))
        for share in (0.2, 0.5, 0.9) for slope in (0.2, 0.6)
    ]  # fmt: skip
    p = _best_of(curve, starts, "linear")
    exponent = float(np.exp(p[2]))
    return PowerLaw(float(np.exp(p[0])), float(np.exp(p[1] + exponent * middle)), exponent)


def fit_law(
    parameters: Sequence[float] | np.ndarray,
    tokens: Sequence[float] | np.ndarray,
    loss: Sequence[float] | np.ndarray,
    start: Law | None = None,
) -> Law:
    """Fit the joint law as Hoffmann et al. do: Huber loss (delta 0.001) of the logarithms, from several starts.

    Args:
        parameters: of each run, ``(runs,)``.
        tokens: of each run, ``(runs,)``.
        loss: of each run, in nats per token, ``(runs,)``.
        start: begin there, and only there; for resampled runs.

    Raises:
        ValueError: fewer than six runs, or values that are not above 0.
    """
    (n, d), loss = _checked([parameters, tokens], loss, 6)
    log_n, log_d, log_loss = np.log(n), np.log(d), np.log(loss)
    mid_n, mid_d = log_n.mean(), log_d.mean()  # numbers around 1 in the middle of the data are easier to fit

    def curve(p: np.ndarray) -> np.ndarray:
        by_n = p[1] - np.exp(p[2]) * (log_n - mid_n)
        by_d = p[3] - np.exp(p[4]) * (log_d - mid_d)
        return np.logaddexp(np.logaddexp(p[0], by_n), by_d) - log_loss

    if start is not None:
        starts = [(
            np.log(start.E), np.log(start.A) - start.alpha * mid_n, np.log(start.alpha),
            np.log(start.B) - start.beta * mid_d, np.log(start.beta),
        )]  # fmt: skip
    else:
        low = float(loss.min())
        starts = [
            (np.log(share * low), np.log((1 - share) * low / 2), np.log(a), np.log((1 - share) * low / 2), np.log(b))
            for share in (0.3, 0.7) for a in (0.2, 0.5) for b in (0.2, 0.5)
        ]  # fmt: skip
    p = _best_of(curve, starts, "huber")
    alpha, beta = float(np.exp(p[2])), float(np.exp(p[4]))
    return Law(
        float(np.exp(p[0])), float(np.exp(p[1] + alpha * mid_n)), alpha, float(np.exp(p[3] + beta * mid_d)), beta
    )


def _checked(columns: list, loss: Sequence[float] | np.ndarray, least: int) -> tuple[list[np.ndarray], np.ndarray]:
    arrays = [np.asarray(column, dtype=float) for column in [*columns, loss]]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1 or len(arrays[0]) < least:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"columns of shapes {shapes}: give columns (runs,) of one length, at least {least} runs")
    if not all((array > 0).all() and np.isfinite(array).all() for array in arrays):
        raise ValueError("sizes and losses are finite and above 0: leave out runs that diverged")
    return arrays[:-1], arrays[-1]


def _best_of(curve: Callable[[np.ndarray], np.ndarray], starts: Sequence[tuple], loss: str) -> np.ndarray:
    """Return the parameters with the least cost found from any start; scaled so that delta is 0.001."""
    found = [least_squares(curve, start, loss=loss, f_scale=1e-3, max_nfev=2000) for start in starts]
    return min(found, key=lambda result: result.cost).x


def bootstrap_laws(
    parameters: np.ndarray,
    tokens: np.ndarray,
    loss: np.ndarray,
    resamples: int = 200,
    seed: int = 0,
    trunks: Sequence[Any] | np.ndarray | None = None,
) -> list[Law]:
    """Fit the joint law to runs drawn with replacement, ``resamples`` times.

    What the laws differ by is what the noise of the runs leaves open. That the form of the law may be wrong is not
    part of it. Resamples with fewer than three sizes or three numbers of tokens say nothing and are drawn again.

    Args:
        parameters: of each run, ``(runs,)``.
        tokens: of each run, ``(runs,)``.
        loss: of each run, ``(runs,)``.
        resamples: how many.
        seed: of the draws.
        trunks: which runs share a part of their training, a name for each, ``(runs,)``: those are drawn together. By
            default every run stands alone.

    Raises:
        ValueError: as :func:`fit_law`, or runs of fewer than three sizes or numbers of tokens, or another number of
            names than of runs.
    """
    parameters, tokens, loss = (np.asarray(column, dtype=float) for column in (parameters, tokens, loss))
    if min(len(np.unique(parameters)), len(np.unique(tokens))) < 3:
        raise ValueError("a law in both needs runs of at least three sizes and three numbers of tokens")
    if trunks is not None and len(trunks) != len(loss):
        raise ValueError(f"{len(trunks)} names of trunks for {len(loss)} runs: give one for each")
    names = np.arange(len(loss)) if trunks is None else np.unique(np.asarray(trunks), return_inverse=True)[1].ravel()
    members = [np.flatnonzero(names == name) for name in range(names.max() + 1)]
    best = fit_law(parameters, tokens, loss)
    rng = np.random.default_rng(seed)
    laws: list[Law] = []
    while len(laws) < resamples:
        rows = np.concatenate([members[drawn] for drawn in rng.integers(0, len(members), len(members))])
        if min(len(np.unique(parameters[rows])), len(np.unique(tokens[rows]))) >= 3:
            laws.append(fit_law(parameters[rows], tokens[rows], loss[rows], start=best))
    return laws


# --- arithmetic ------------------------------------------------------------------------------------------------------


def training_flops(parameters: float, tokens: float) -> float:
    """Return the operations of a training, ``6 N D``: two for each weight forward, four backward.

    Attention's products of tokens with tokens are left out: see ``transformer.flops_per_token``.
    """
    return 6 * parameters * tokens


def gpu_hours(flops: float, peak: float, utilisation: float) -> float:
    """Return the hours of one device.

    Args:
        flops: operations.
        peak: operations per second of the device at most.
        utilisation: share of the peak that is used, above 0, at most 1.

    Raises:
        ValueError: a utilisation or peak that cannot be.
    """
    if not 0 < utilisation <= 1 or not peak > 0:
        raise ValueError(f"utilisation={utilisation}, peak={peak}: a share above 0, at most 1, and a peak above 0")
    return flops / (peak * utilisation) / 3600


def utilisation(flops: float, hours: float, peak: float) -> float:
    """Return the share of the peak that a training of so many device hours used."""
    return flops / (hours * 3600 * peak)


def energy_kwh(hours: float, watts: float, overhead: float = 1.0) -> float:
    """Return the energy of device hours at a power; ``overhead`` is that of the building, 1 for none."""
    return hours * watts / 1000 * overhead


#: Bytes of each parameter: weights, gradients, the optimiser's copy of the weights, its two means.
STATE = {
    "float32 AdamW": {"weights": 4, "gradients": 4, "means": 8},
    "mixed AdamW": {"weights": 2, "gradients": 2, "float32 copy": 4, "means": 8},
}


def state_bytes(parameters: float, recipe: str = "mixed AdamW", shards: int = 1) -> dict[str, float]:
    """Return the bytes that training keeps between two steps, by kind (Rajbhandari et al. 2020, arXiv:1910.02054).

    Args:
        parameters: of the model.
        recipe: one of ``STATE``.
        shards: processes that share it, each holding one part.

    Raises:
        ValueError: another recipe, or no shard.
    """
    if recipe not in STATE or shards < 1:
        raise ValueError(f"recipe={recipe!r}, shards={shards}: it takes {', '.join(STATE)} and at least 1 shard")
    return {name: size * parameters / shards for name, size in STATE[recipe].items()}


def activation_bytes(
    config: TransformerConfig, batch_size: int, length: int, size: int = 4, checkpointing: bool = False
) -> int:
    """Return the bytes that the blocks of our decoder keep from the forward for the backward pass.

    Counted from the operations of ``llmbook.transformer``: pre-norm RMSNorm, SwiGLU, rotary positions, fused
    attention (which keeps no weights), no dropout, no bias, as many heads of keys as of queries. Small terms are
    counted too: one number for each token or for each head and token, masks, the rotations. Embeddings, final norm,
    head and loss come on top.

    Args:
        config: the shape.
        batch_size: sequences.
        length: tokens of each.
        size: bytes of a number.
        checkpointing: keep only each block's input, and compute the rest of one block again when it is needed.

    Raises:
        ValueError: a shape that the count is not made for.
    """
    made_for = {"norm": "rms", "activation": "swiglu", "position": "rope", "bias": False, "norm_first": True}
    wrong = {name: value for name, value in made_for.items() if getattr(config, name) != value}
    if wrong or config.num_heads != config.num_key_value_heads:
        raise ValueError(f"the count is made for {made_for} and no grouped heads; this shape is {config}")
    inner = config.num_heads * config.d_head
    # twice: what enters the norm, that with its length one, and what leaves; one number per token for the norm
    features = 6 * config.d_model + 2
    features += 4 * inner + config.num_heads  # queries, keys, values and their mixture; one number per head
    features += 4 * config.d_ff  # gate before and after its nonlinearity, up, and their product
    block = (batch_size * length * features + length**2) * size  # with the mask
    turns = 2 * length * config.d_head * size
    if checkpointing:
        return config.num_layers * batch_size * length * config.d_model * size + block + turns
    return config.num_layers * block + turns


def cache_bytes(config: TransformerConfig, batch_size: int, length: int, size: int = 4) -> int:
    """Return the bytes of a cache: a key and a value for each layer, key-value head and token.

    ``2 * layers * kv_heads * d_head * length * batch_size * size``.

    Args:
        config: the shape.
        batch_size: sequences.
        length: tokens of each.
        size: bytes of a number.

    Raises:
        ValueError: a number below 1.
    """
    if min(batch_size, length, size) < 1:
        raise ValueError(f"batch_size={batch_size}, length={length}, size={size}: each takes 1 or more")
    return 2 * config.num_layers * config.num_key_value_heads * config.d_head * length * batch_size * size


def parameters_of(config: TransformerConfig, embeddings: bool = True) -> int:
    """Count a decoder's parameters without memory for them."""
    with torch.device("meta"):
        return count_parameters(Decoder(config), embeddings)
