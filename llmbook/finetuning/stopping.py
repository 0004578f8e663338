"""Stopping a training when it no longer helps, with the best weights kept (chapter 12)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class EarlyStopping:
    """A callback for ``training.fit`` that measures, keeps the best weights, and stops when there is no progress.

        stopping = EarlyStopping(model, lambda: accuracy_on(validation_rows), patience=3)
        training.fit(model, examples, Settings(1000, log_every=20), loss, callbacks=[stopping])
        stopping.restore()

    It measures with every line of the log, so ``Settings.log_every`` says how often. Prechelt 1998
    (doi:10.1007/3-540-49430-8_3) compares rules for when to stop; this one counts measurements without progress.
    """

    def __init__(self, model: nn.Module, measure: Callable[[], float], patience: int, larger: bool = True) -> None:
        """Begin with the model's weights as they are, not measured.

        Args:
            model: whose weights are kept; weights without a gradient are not copied.
            measure: on validation examples; it should leave the model in the mode it was in, as ``predict`` does.
            patience: measurements in a row without progress that end the training.
            larger: whether larger is better, as of an accuracy; ``False`` for a loss.

        Raises:
            ValueError: a patience below 1.
        """
        if patience < 1:
            raise ValueError(f"patience={patience}: it takes a whole number from 1 up")
        self.model, self.measure, self.patience, self.larger = model, measure, patience, larger
        self.history: list[tuple[int, float]] = []
        self.best_step = 0
        self._best: dict[str, Tensor] = {}
        self._waited = 0

    @property
    def best(self) -> float:
        """The best value measured so far.

        Raises:
            ValueError: nothing has been measured.
        """
        if not self.history:
            raise ValueError("nothing has been measured: train with this as a callback first")
        return dict(self.history)[self.best_step]

    def __call__(self, line: dict[str, float]) -> bool:
        """Measure; return whether to stop."""
        value, step = float(self.measure()), int(line["step"])
        first = not self.history
        improved = first or (value > self.best if self.larger else value < self.best)
        self.history.append((step, value))
        if improved:
            self.best_step, self._waited = step, 0
            trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
            self._best = {name: p.detach().clone() for name, p in trained}
            return False
        self._waited += 1
        return self._waited >= self.patience

    @torch.no_grad()
    def restore(self) -> float:
        """Give the model the best weights that were measured; return their value."""
        best = self.best
        parameters = dict(self.model.named_parameters())
        for name, tensor in self._best.items():
            parameters[name].copy_(tensor)
        return best
