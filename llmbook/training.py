"""Training a model: batches, schedules, optimisers, the loop, checkpoints that resume bit for bit (chapter 10)."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from llmbook import runtime
from llmbook.files import file_sha256
from llmbook.objectives import count_averaged
from llmbook.transformer import unwrapped, unwrapped_name

SCHEDULES = ("wsd", "cosine", "linear", "constant")
LOG_FIELDS = ("step", "tokens", "loss", "learning_rate", "gradient_norm", "tokens_per_s")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used, or could not be written; the message says which, why, and what to do."""


# --- data -----------------------------------------------------------------------------------------------------------


class Windows:
    """Batches of windows of a stream of tokens, without padding; each is a function of its step alone.

    The stream is cut into windows of ``length + 1`` tokens that overlap by one, so that every token but the first is
    predicted once in an epoch. Epoch ``e`` takes them in the order that ``(seed, e)`` gives. There is no state: what
    step 1,000 reads does not depend on whether the steps before it ran in this process.
    """

    def __init__(self, stream: np.ndarray | Tensor, length: int, batch_size: int, seed: int = 0) -> None:
        """Cut the windows.

        Args:
            stream: token ids, ``(tokens,)``: documents one after the other, each closed by an end-of-text token. May
                be a memory map.
            length: tokens that a window predicts.
            batch_size: windows in a batch.
            seed: of the order.

        Raises:
            ValueError: sizes below 1, or a stream too short for one batch.
        """
        if length < 1 or batch_size < 1:
            raise ValueError(f"length={length}, batch_size={batch_size}: both take a whole number from 1 up")
        self.stream, self.length, self.batch_size, self.seed = stream, length, batch_size, seed
        self.count = (len(stream) - 1) // length
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)  # the last epoch's, so as not to draw it again
        if self.count < batch_size:
            raise ValueError(
                f"the stream has {len(stream):,} tokens, a batch needs {batch_size * length + 1:,}: give more text, or "
                "a smaller batch_size or length"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the stream."""
        return self.count // self.batch_size

    def __call__(self, step: int) -> Tensor:
        """Return the batch of a step, counted from 0: ``(batch_size, length + 1)``."""
        epoch, row = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.count)
        starts = self._order[row * self.batch_size : (row + 1) * self.batch_size] * self.length
        rows = np.stack([np.asarray(self.stream[s : s + self.length + 1]) for s in starts])
        return torch.from_numpy(rows.astype(np.int64))


class Mixture:
    """Batches that take a fixed number of windows from each of several streams; each a function of its step alone."""

    def __init__(
        self,
        streams: Sequence[np.ndarray | Tensor],
        shares: Sequence[float],
        length: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        """Divide a batch.

        Args:
            streams: token ids of each part, ``(tokens,)``; see :class:`Windows`.
            shares: of each part in every batch, together 1.
            length: tokens that a window predicts.
            batch_size: windows in a batch.
            seed: of the order.

        Raises:
            ValueError: not one share for each stream, shares that are negative or do not add up to 1, or that are no
                whole number of windows.
        """
        if len(streams) != len(shares):
            raise ValueError(f"{len(streams)} streams and {len(shares)} shares: give one share for each stream")
        if min(shares, default=-1) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares={list(shares)}: they take numbers from 0 up that add up to 1")
        sizes = [share * batch_size for share in shares]
        if any(abs(size - round(size)) > 1e-6 for size in sizes):
            raise ValueError(
                f"shares={list(shares)} of batch_size={batch_size} windows are {sizes}: they must be whole numbers; "
                "change the shares or the batch"
            )
        self.parts = [
            Windows(stream, length, round(size), seed)
            for stream, size in zip(streams, sizes, strict=True)
            if round(size)
        ]

    def __call__(self, step: int) -> Tensor:
        """Return the batch of a step, counted from 0: ``(batch_size, length + 1)``."""
        return torch.cat([part(step) for part in self.parts])


# --- schedule and optimisers ------------------------------------------------------------------------------------------


def schedule(step: int, steps: int, kind: str = "wsd", warmup: float = 0.02, decay: float = 0.2) -> float:
    """Return the factor of the learning rate in a step, from 0 to 1.

    All kinds rise on a straight line over the first ``warmup`` share of the steps. Then ``constant`` stays at 1,
    ``linear`` falls on a straight line, ``cosine`` on half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983),
    and ``wsd`` stays at 1 up to the last ``decay`` share, which falls on a straight line (warm-up, stable, decay: Hu et
    al. 2024, arXiv:2404.06395).

    Args:
        step: from 0 to ``steps - 1``.
        steps: of the whole training.
        kind: ``wsd``, ``cosine``, ``linear`` or ``constant``.
        warmup: share of the steps, from 0 to 1.
        decay: share of the steps, for ``wsd``.

    Raises:
        ValueError: an unknown kind, shares that do not fit into one, or a step outside the training.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"kind={kind!r}: it takes {', '.join(SCHEDULES)}")
    if not (0 <= warmup <= 1 and 0 <= decay <= 1 and warmup + decay * (kind == "wsd") <= 1):
        raise ValueError(f"warmup={warmup}, decay={decay}: shares from 0 to 1, together at most 1")
    if not 0 <= step < steps:
        raise ValueError(f"step={step}: it takes 0 to {steps - 1}")
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    left = (steps - step) / (steps - rise)  # from 1 down to 1 / (steps - rise)
    if kind == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    if kind == "linear":
        return left
    if kind == "wsd" and decay:
        return min(1.0, (steps - step) / max(1, round(decay * steps)))
    return 1.0


class Float32Muon(torch.optim.Optimizer):
    """``torch.optim.Muon`` with its iteration in float32, which that one computes in bfloat16 (Jordan et al. 2024).

    On a processor without bfloat16 in hardware a step of torch's takes a hundred times as long. The two are equal to
    the precision of bfloat16; chapter 10 derives the iteration.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.1, momentum: float = 0.95):
        """Take matrices only; ``weight_decay`` is a rate that is multiplied by ``lr``."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix along the orthogonal matrix nearest to its momentum (Nesterov's)."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])  # (rows, columns)
                update = _orthogonalised(torch.lerp(matrix.grad, mean, group["momentum"]))
                rows, columns = matrix.shape
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.sub_(update, alpha=group["lr"] * max(1, rows / columns) ** 0.5)


def _orthogonalised(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Return about ``U V^T`` for ``matrix = U S V^T``, ``(rows, columns)``, by Newton-Schulz iterations."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(rounds):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), wide, beta=3.4445)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def make_optimizers(
    model: nn.Module,
    learning_rate: float,
    muon_learning_rate: float | None = None,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
) -> list[torch.optim.Optimizer]:
    """Return AdamW for a model, or Muon for the matrices of its blocks and AdamW for the rest.

    Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest matrix with orthogonal rows or columns.
    It is for the matrices inside; embeddings, the output layer, norms and biases stay with AdamW. Norms and biases
    get no weight decay.

    Args:
        model: its parameters that require a gradient are shared out.
        learning_rate: of AdamW.
        muon_learning_rate: of Muon; ``None`` gives everything to AdamW.
        weight_decay: of all matrices and embeddings, as a rate that is multiplied by the learning rate.
        betas: of AdamW.

    Raises:
        ValueError: a model without parameters to train.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and unwrapped_name(name).rpartition(".")[2] in ("lm_head", "head"):
            tables.add(id(module.weight))
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise ValueError("the model has no parameter that requires a gradient")
    inner = [] if muon_learning_rate is None else [p for _, p in named if p.ndim == 2 and id(p) not in tables]
    taken = {id(p) for p in inner}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True))
    if inner and muon_learning_rate is not None:
        in_half = runtime.fast_precision(inner[0].device.type) == "bfloat16"
        kind = torch.optim.Muon if in_half and hasattr(torch.optim, "Muon") else Float32Muon
        optimizers.append(kind(inner, lr=muon_learning_rate, weight_decay=weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


# --- the loop ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        steps: of the whole training, however often it is interrupted.
        learning_rate: the largest one, of AdamW.
        muon_learning_rate: the largest one, of Muon; ``None`` trains with AdamW alone.
        weight_decay: of matrices and embeddings.
        schedule: ``wsd``, ``cosine``, ``linear`` or ``constant``; see :func:`schedule`.
        warmup: share of the steps in which the learning rate rises.
        decay: share of the steps in which it falls, for ``wsd``.
        clip: largest norm of the gradient; ``math.inf`` for none.
        accumulate: parts in which a batch is computed, to save memory; they weigh as many labels as they have.
        seed: of what the model draws (dropout).
        checkpoint_every: steps between two checkpoints; 0 for none but the last.
        keep: number of checkpoints that stay.
        log_every: steps between two lines of the log.
    """

    steps: int
    learning_rate: float = 2e-3
    muon_learning_rate: float | None = None
    weight_decay: float = 0.1
    schedule: str = "wsd"
    warmup: float = 0.02
    decay: float = 0.2
    clip: float = 1.0
    accumulate: int = 1
    seed: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    log_every: int = 10

    def __post_init__(self) -> None:
        """Refuse what no training can be made of."""
        for name in ("steps", "accumulate", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it takes a whole number from 1 up")
        if self.checkpoint_every < 0 or not self.clip > 0 or not self.learning_rate > 0:
            raise ValueError("checkpoint_every takes 0 or more, clip and learning_rate numbers above 0")
        schedule(0, self.steps, self.schedule, self.warmup, self.decay)


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of each next token of a batch ``(batch, time + 1)``.

    Raises:
        ValueError: rows of a single token, which has no next one.
    """
    if ids.shape[1] < 2:
        raise ValueError(f"ids have shape {tuple(ids.shape)}: a row needs 2 tokens or more, to have a next one")
    logits = model(ids[:, :-1]).logits  # (batch, time, vocab)
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def fit(
    model: nn.Module,
    batch_at: Callable[[int], Any],
    settings: Settings,
    loss_of: Callable[[nn.Module, Any], Tensor] = next_token_loss,
    *,
    folder: Path | None = None,
    data: str = "",
    dtype: torch.dtype = torch.float32,
    optimizers: Sequence[torch.optim.Optimizer] | None = None,
    callbacks: Sequence[Callable[[dict[str, float]], object]] = (),
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train a model in place, where its parameters are; go on from the newest good checkpoint in ``folder``.

    With the same arguments an interrupted training ends in the same weights as an uninterrupted one, bit for bit on a
    CPU: a batch is a function of its step, and a checkpoint holds weights, the optimisers' state and the state of
    torch's random numbers. ``folder`` gets ``log.csv`` and ``checkpoints/``.

    Args:
        model: on any device, in float32.
        batch_at: from a step, counted from 0, to a batch whose first axis is cut for ``settings.accumulate``: windows
            ``(batch, time + 1)``, or a ``finetuning.Batch``.
        settings: see :class:`Settings`.
        loss_of: from model and (part of) a batch to a mean loss in nats: over the labels that are not -100, or over
            the rows of a batch without labels; a mean over something else says so with ``objectives.averaged_over``.
            Of a batch without any label it has to be 0, as the book's are.
        folder: where the log and the checkpoints stand; ``None`` writes nothing.
        data: a fingerprint of the data; a checkpoint made from other data is not used.
        dtype: of the products: ``torch.float32``, or ``bfloat16``/``float16`` under autocast (the latter with a
            scaled loss).
        optimizers: by default those of :func:`make_optimizers`; the schedule scales the learning rates they come with.
        callbacks: each is called with every line of the log; one that returns ``True`` ends the training.
        progress: show a bar with tokens per second, loss and time left.

    Returns:
        The log, one dictionary with the fields ``LOG_FIELDS`` for each line; losses are means over those of its steps
        that had a label.

    Raises:
        CheckpointError: there are checkpoints and none can be used, or the last one could not be written.
        FloatingPointError: the loss is no number.
        ValueError: ``accumulate`` above 1 and a loss that cannot be computed in parts.
    """
    device = next(model.parameters()).device
    if optimizers is None:
        optimizers = make_optimizers(model, settings.learning_rate, settings.muon_learning_rate, settings.weight_decay)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group.setdefault("peak_lr", group["lr"])
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    # what the result depends on; how often to write is not part of it
    recipe = dataclasses.asdict(dataclasses.replace(settings, checkpoint_every=0, keep=1, log_every=1))
    identity = {"settings": recipe, "data": data, "dtype": str(dtype)}
    torch.manual_seed(settings.seed)
    first, lines = 0, []
    if folder is not None:
        first = resume(folder / "checkpoints", model, optimizers, scaler, identity)
        lines = _open_log(folder / "log.csv", first)
    tokens = int(lines[-1]["tokens"]) if lines else 0
    sums, since, clock = torch.zeros((), device=device), 0, time.perf_counter()
    model.train()
    bar = tqdm(range(first, settings.steps), initial=first, total=settings.steps, disable=not progress, unit="step")
    for step in bar:
        factor = schedule(step, settings.steps, settings.schedule, settings.warmup, settings.decay)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
        batch = batch_at(step)
        parts = batch.chunk(settings.accumulate)
        shares, taught = _shares(model, parts, loss_of)
        for part, share in zip(parts, shares, strict=True):
            if not share:  # no label in it, and in others
                continue
            part = part.to(device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = loss_of(model, part) * share
            scaler.scale(loss).backward()
            sums += loss.detach()
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        model.zero_grad(set_to_none=True)
        tokens += batch.numel() - len(batch)
        since += taught
        done = step + 1
        ends = False
        due = done == settings.steps or (settings.checkpoint_every > 0 and done % settings.checkpoint_every == 0)
        if due or done % settings.log_every == 0:
            mean, now = sums.item() / max(since, 1), time.perf_counter()
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"the loss is {mean} before step {done}: try a smaller learning rate, a longer warm-up or "
                    "bfloat16; a loss of your own may be the mean of nothing where a batch has no label"
                )
            before = int(lines[-1]["tokens"]) if lines else 0
            line = dict(zip(LOG_FIELDS, (done, tokens, mean, settings.learning_rate * factor, norm.item(),
                                         (tokens - before) / (now - clock)), strict=True))  # fmt: skip
            lines.append(line)
            sums.zero_()
            since, clock = 0, now
            bar.set_postfix(loss=f"{mean:.3f}", tokens_per_s=f"{line['tokens_per_s']:,.0f}")
            ends = any([callback(line) is True for callback in callbacks])  # a list: each of them is called
            if folder is not None:
                _append_log(folder / "log.csv", line)
        if (due or ends) and folder is not None:
            _save_or_warn(folder / "checkpoints", done, model, optimizers, scaler, identity, settings)
        if ends:
            break
    return lines


def _shares(
    model: nn.Module, parts: Sequence[Any], loss_of: Callable[[nn.Module, Any], Tensor]
) -> tuple[list[float], bool]:
    """Return each part's share of what the batch's loss is a mean over, and whether there is anything at all."""
    counts = []
    for part in parts:
        count = count_averaged(loss_of, model, part)
        if count is None and len(parts) > 1:
            raise ValueError(
                f"{getattr(loss_of, '__name__', loss_of)} is no mean over a batch's rows and cannot be computed in "
                f"{len(parts)} parts: train with accumulate=1"
            )
        counts.append(1.0 if count is None else count)
    total = sum(counts)
    return [count / total if total else 1 / len(parts) for count in counts], total > 0


# --- the log ----------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the lines of a log; a last line that was cut off is left out."""
    with path.open(newline="", encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    whole = [row for row in rows if None not in row.values() and None not in row]
    return [{name: float(row[name]) for name in LOG_FIELDS} for row in whole]


def tensorboard(folder: Path) -> Callable[[dict[str, float]], None]:
    """Return a callback for :func:`fit` that writes each line of the log as TensorBoard's events, over tokens.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard is not installed: pip install tensorboard, or leave this callback out"
        ) from error
    writer = SummaryWriter(str(folder))

    def write(line: dict[str, float]) -> None:
        for name in LOG_FIELDS[2:]:
            writer.add_scalar(name, line[name], int(line["tokens"]))
        writer.flush()

    return write


def _open_log(path: Path, first: int) -> list[dict[str, float]]:
    """Keep the lines up to a checkpoint's step; what came after it will be computed again."""
    lines = [line for line in read_log(path) if line["step"] <= first] if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, LOG_FIELDS)
        writer.writeheader()
        writer.writerows(lines)
    partial.replace(path)
    return lines


def _append_log(path: Path, line: dict[str, float]) -> None:
    with path.open("a", newline="", encoding="utf8") as file:
        csv.DictWriter(file, LOG_FIELDS).writerow(line)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None = None,
    identity: dict[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Write ``folder/step-0000100`` in one go, then remove all but the newest ``keep``.

    ``tensors.safetensors`` holds weights, the optimisers' state and torch's random-number state; ``state.json`` the
    rest, with the SHA-256 of the first. Both are on the disk, under another name, before the folder gets its own: a
    process that is killed, or a full disk, leaves the earlier checkpoints as they were.

    Raises:
        OSError: the disk is full, or may not be written; nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("partial-*"):
        shutil.rmtree(stale)
    partial = folder / f"partial-{step:07d}"
    try:
        partial.mkdir()
        tensors = {f"model.{name}": p.detach().cpu().contiguous() for name, p in _named_tensors(model)}
        tensors |= _optimizer_tensors(optimizers)
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        save_file(tensors, partial / "tensors.safetensors")
        state = {
            "step": step,
            "sha256": file_sha256(partial / "tensors.safetensors"),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "identity": identity or {},
            "torch": torch.__version__,
        }
        (partial / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf8")
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        final = folder / f"step-{step:07d}"
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    except SafetensorError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(errno.EIO, f"cannot write {partial}: {error}") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer] = (),
    scaler: torch.amp.GradScaler | None = None,
    identity: dict[str, Any] | None = None,
) -> int:
    """Bring model, optimisers and random numbers into the state of a checkpoint; return its step.

    Everything is checked before anything is changed.

    Raises:
        CheckpointError: files missing, cut off or altered, made for another model or by another recipe.
    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf8"))
        digest = file_sha256(path / "tensors.safetensors")
        if digest != state["sha256"]:
            raise CheckpointError(f"{path}: tensors.safetensors is cut off or was altered (SHA-256 {digest[:12]}...)")
        tensors = load_file(path / "tensors.safetensors")
        tensors = {unwrapped_name(name): tensor for name, tensor in tensors.items()}
        step = int(state["step"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no whole checkpoint: {type(error).__name__}: {error}") from error
    for name, wanted in (identity or {}).items():
        found = state["identity"].get(name)
        if found != wanted:
            raise CheckpointError(f"{path} was made with other {name}: {_difference(found, wanted)}")
    weights = dict(_named_tensors(model))
    shapes = {name.removeprefix("model."): tuple(t.shape) for name, t in tensors.items() if name.startswith("model.")}
    expected = {name: tuple(t.shape) for name, t in weights.items()}
    if shapes != expected:
        raise CheckpointError(f"{path} is of another model: {_difference(shapes, expected)}")
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(tensors[f"model.{name}"])
    for number, optimizer in enumerate(optimizers):
        _load_optimizer(optimizer, tensors, f"optimizer{number}.")
    if scaler is not None and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return step


def resume(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None = None,
    identity: dict[str, Any] | None = None,
) -> int:
    """Load the newest checkpoint that can be used and return its step; 0 where there are none.

    One that cannot be used is named in a warning, with the reason, and the one before it is tried.

    Raises:
        CheckpointError: there are checkpoints, and not one can be used.
    """
    refused = []
    for path in reversed(checkpoints(folder)):
        try:
            return load_checkpoint(path, model, optimizers, scaler, identity)
        except CheckpointError as error:
            refused.append(str(error))
            warnings.warn(f"checkpoint not used: {error}", stacklevel=2)
    if refused:
        raise CheckpointError(
            f"no checkpoint in {folder} can be used; to train from the start, choose another folder or remove it. "
            + "; ".join(refused)
        )
    return 0


def _save_or_warn(
    folder: Path,
    done: int,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    identity: dict[str, Any],
    settings: Settings,
) -> None:
    """Save; go on training where that fails on the way, and fail where it was the last one."""
    try:
        save_checkpoint(folder, done, model, optimizers, scaler, identity, settings.keep)
    except OSError as error:
        message = f"the checkpoint of step {done} could not be written ({error}); earlier ones are as they were"
        if done == settings.steps:
            raise CheckpointError(f"{message}. Free some space and call fit again: it goes on from them") from error
        warnings.warn(message, stacklevel=3)


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return each parameter and persistent buffer once; tied ones under their first name."""
    model = unwrapped(model)
    persistent = set(model.state_dict())
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in persistent]
    return [(unwrapped_name(name), tensor) for name, tensor in [*model.named_parameters(), *buffers]]


def _optimizer_tensors(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    found = {}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                found[f"optimizer{number}.{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return found


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, _, field = name.removeprefix(prefix).partition(".")
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in [*wanted, *found]:
            if found.get(name) != wanted.get(name):
                return f"{name} is {found.get(name, 'missing')} there and {wanted.get(name, 'missing')} here"
    return f"{found!r} there and {wanted!r} here"
