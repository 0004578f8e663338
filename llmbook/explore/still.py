"""The picture that stands in for the explorer: on paper, without scripts, and until the reader starts the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmbook.viz.figures import PALETTE, BookFigure, book_style

BARS = 10


def still(tokens: Sequence[str], attention: Any, candidates: Sequence[tuple[str, float]], title: str) -> Any:
    """Draw what the model expects, as bars, beside the maps of all heads.

    Args:
        tokens: names of the text's tokens.
        attention: weights ``(layers, heads, query, key)``.
        candidates: tokens and their probabilities, largest first.
        title: stands over the bars.

    Returns:
        Matplotlib's ``Figure``.
    """
    weights = np.asarray(attention)
    layers, heads = weights.shape[:2]
    with book_style():
        figure = BookFigure(figsize=(7.4, max(2.6, 0.45 + 0.95 * layers)), layout="constrained")
        left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[1, 1.35]))
        bars = left.subplots()
        names = [name for name, _ in candidates[:BARS]][::-1]
        shares = [100 * share for _, share in candidates[:BARS]][::-1]
        bars.barh(range(len(names)), shares, color=PALETTE[0])
        bars.set_yticks(range(len(names)), names, parse_math=False, fontsize=8.5)
        bars.set_title(title, fontsize=9, fontweight="normal", loc="left", parse_math=False)
        bars.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
        bars.grid(False, axis="y")
        axes = right.subplots(layers, heads, squeeze=False)
        for (layer, head), ax in np.ndenumerate(axes):
            ax.imshow(weights[layer, head], vmin=0, vmax=1, cmap="Blues")
            ax.set_title(f"{layer}.{head}", fontsize=8, fontweight="normal", pad=2, loc="center")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
    return figure
