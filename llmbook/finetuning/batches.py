"""Rows of different lengths as batches for ``training.fit``, and the model's answers without padding (chapter 12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmbook.objectives import IGNORE

#: One example: ``input_ids`` and, where there are any, ``token_type_ids``, ``labels`` and so on; lists or single
#: numbers.
Row = Mapping[str, Any]
#: What a row says about the answer: names of arguments that make a head compute a loss.
TARGETS = ("labels", "start_positions", "end_positions")


class Batch:
    """Tensors by the names of a model's arguments, with the examples along the first axis.

    ``model(**batch)`` passes them on; ``training.fit`` cuts and moves it as it does a tensor of windows.
    """

    def __init__(self, **tensors: Tensor) -> None:
        """Take the tensors, one row for each example."""
        if len({len(tensor) for tensor in tensors.values()}) != 1:
            sizes = {name: len(tensor) for name, tensor in tensors.items()}
            raise ValueError(f"tensors of {sizes} rows: each takes one row for each example, and there must be one")
        self.tensors = tensors

    def keys(self) -> Iterator[str]:
        """Names, for ``**batch``."""
        return iter(self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor by its name."""
        return self.tensors[name]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(next(iter(self.tensors.values())))

    def numel(self) -> int:
        """Tokens that are no padding and one more for each example, as many as a window holds beside its targets."""
        return int(self["attention_mask"].sum()) + len(self)

    def chunk(self, parts: int) -> list[Batch]:
        """Cut into at most so many batches of about the same number of examples."""
        pieces = [tensor.chunk(parts) for tensor in self.tensors.values()]
        return [Batch(**dict(zip(self.tensors, piece, strict=True))) for piece in zip(*pieces, strict=True)]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in self.tensors.items()})


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Pad rows on the right to the longest of them.

    Lists become ``(batch, time)``: names that end in ``labels`` are padded with -100, which no loss counts, those that
    end in ``input_ids`` with ``pad``, others with 0. Single numbers become ``(batch,)``. Each ``...input_ids`` gets its
    ``...attention_mask`` (1 for tokens, 0 for padding) unless the rows bring one.

    Raises:
        ValueError: no row, a row without a token, or rows with different names.
    """
    if not rows:
        raise ValueError("no row: a batch needs at least one example")
    names = list(rows[0])
    if odd := next((row for row in rows if set(row) != set(names)), None):
        raise ValueError(f"rows with the names {names} and {list(odd)}: all rows of a batch need the same")
    tensors: dict[str, Tensor] = {}
    for name in names:
        values = [row[name] for row in rows]
        if np.ndim(values[0]) == 0:
            tensors[name] = torch.as_tensor(values)  # (batch,)
            continue
        lengths = torch.tensor([len(value) for value in values])  # (batch,)
        if name.endswith("input_ids"):
            if not lengths.all():
                raise ValueError(f"row {int(lengths.argmin())} has no token in {name}: leave empty texts out")
            mask = name.removesuffix("input_ids") + "attention_mask"
            if mask not in names:
                tensors[mask] = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()  # (batch, time)
        fill = IGNORE if name.endswith("labels") else pad if name.endswith("input_ids") else 0
        parts = [torch.as_tensor(value) for value in values]
        tensors[name] = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)  # (batch, time)
    return Batch(**tensors)


class Examples:
    """Batches of rows in random order, each a function of its step alone, like ``training.Windows``.

    Epoch ``e`` takes the rows in the order that ``(seed, e)`` gives; its last batch may be smaller.
    """

    def __init__(self, rows: Sequence[Row], batch_size: int, pad: int, seed: int = 0) -> None:
        """Keep the rows.

        Args:
            rows: see ``Row`` and :func:`collate`.
            batch_size: examples in a batch.
            pad: id of the token that pads.
            seed: of the order.

        Raises:
            ValueError: no rows, or a batch size below 1.
        """
        if not rows or batch_size < 1:
            raise ValueError(f"{len(rows)} rows, batch_size={batch_size}: both take at least 1")
        self.rows, self.batch_size, self.pad, self.seed = rows, batch_size, pad, seed

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the rows."""
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return collate([self.rows[row] for row in chosen], self.pad)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss that the model computes itself where it gets labels: what ``training.fit`` takes."""
    return model(**batch).loss


@torch.no_grad()
def predict(
    model: nn.Module, rows: Sequence[Row], pad: int, batch_size: int = 64, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Return the model's logits for each row, in the rows' order, without padding and dropout.

    Rows of like length are computed together. The model is left in the mode that it was in.

    Args:
        model: one of the heads; on any device.
        rows: see :func:`collate`; their ``TARGETS`` are left out.
        pad: id of the token that pads.
        batch_size: rows that are computed together.
        dtype: of the products, as in ``training.fit``; bfloat16 is faster where the processor has it.

    Returns:
        For each row its logits on the CPU, in float32: ``(labels,)``; ``(time, labels)`` from a model that labels
        tokens; ``(time, 2)``, start and end, from one that finds spans.
    """
    device, training = next(model.parameters()).device, model.training
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            plain = [{name: value for name, value in rows[row].items() if name not in TARGETS} for row in part]
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                out = model(**collate(plain, pad).to(device))
            logits = out.logits if "logits" in out else torch.stack([out.start_logits, out.end_logits], dim=-1)
            logits = logits.float().cpu()  # (batch, labels), (batch, time, labels) or (batch, time, 2)
            for row, answer in zip(part, logits, strict=True):
                found[row] = answer[: len(rows[row]["input_ids"])] if answer.ndim == 2 else answer
    finally:
        model.train(training)
    return found
