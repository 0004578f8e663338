"""Attention as heat maps (used from chapter 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llmbook.viz.figures import BookFigure, book_style, write_all_scripts
from llmbook.viz.weights import Attention, check_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # of a grid with one layer
WIDTH = 7.0  # inches, the book's column


def attention_array(weights: Any, tokens: Sequence[str], key_tokens: Sequence[str] | None = None) -> np.ndarray:
    """Return attention weights as an array ``(heads, query, key)``; heads of weights ``(query, key)`` is 1.

    ``weights`` is an array or tensor whose rows are distributions over the keys. A row of zeros is accepted: it is
    that of a query that may attend to nothing. In cross-attention ``tokens`` are the queries and ``key_tokens`` the
    keys. Raises ``ValueError`` where the shape does not fit the tokens, or where a row is no distribution.
    """
    array = np.asarray(weights.detach().float().cpu() if hasattr(weights, "detach") else weights, dtype=float)
    array = array[None] if array.ndim == 2 else array
    queries, keys = len(tokens), len(tokens if key_tokens is None else key_tokens)
    if array.ndim != 3 or array.shape[1:] != (queries, keys):
        named = f"{queries} tokens" if key_tokens is None else f"{queries} tokens and {keys} key tokens"
        raise ValueError(
            f"weights have shape {tuple(np.shape(weights))}; {named} need ({queries}, {keys}) "
            f"or (heads, {queries}, {keys}): select one sequence of the batch"
        )
    check_rows(array)
    return array


def attention_map(
    weights: Any,
    tokens: Sequence[str],
    ax: Axes | None = None,
    key_tokens: Sequence[str] | None = None,
    query_label: str = "query",
    key_label: str = "key",
    weight_label: str = "attention weight",
) -> Axes:
    """Draw one head's weights ``(query, key)`` as a heat map, queries downwards, and return its axes.

    Without ``ax`` the map has a figure of its own, with a scale; in a row of maps only the outer ones are labelled.
    In cross-attention the keys have tokens of their own, ``key_tokens``.
    """
    array = attention_array(weights, tokens, key_tokens)
    if len(array) != 1:
        raise ValueError(f"attention_map draws one head, not {len(array)}: pass weights[head] or weights.mean(0)")
    keys = tokens if key_tokens is None else key_tokens
    alone = ax is None
    if ax is None:
        import matplotlib.pyplot as plt  # as the reader's own plots: the notebook shows it at the cell's end

        _, ax = plt.subplots(figsize=(2.4 + 0.26 * len(keys), 1.6 + 0.26 * len(tokens)))
    write_all_scripts(cast("Figure", ax.figure.figure))  # of a subfigure the whole
    image = ax.imshow(array[0], vmin=0, vmax=1, cmap="Blues")
    plain: Any = {"fontsize": "small", "parse_math": False}  # a token may hold dollar signs
    ax.set_xticks(range(len(keys)), keys, rotation=60, ha="right", rotation_mode="anchor", **plain)
    ax.set_yticks(range(len(tokens)), tokens, **plain)
    ax.set(xlabel=key_label, ylabel=query_label)
    ax.grid(False)
    if alone:
        ax.figure.colorbar(image, ax=ax, label=weight_label, fraction=0.046, pad=0.03)
    else:
        ax.label_outer()
    return ax


def attention_grid(parts: Sequence[Attention], labels: Mapping[str, str], width: float = WIDTH) -> Figure:
    """Draw the heads of all layers as small heat maps, a row for each layer; the heads of one layer fill lines.

    Each part of an encoder-decoder has a grid of its own, one below the other.
    """
    with book_style():
        shapes = [_grid_shape(part, width) for part in parts]
        heights = [
            rows * (cell[1] + 0.3 * part.one_layer) + 1.1 for part, (rows, _, cell) in zip(parts, shapes, strict=True)
        ]
        columns = max(columns * cell[0] for _, columns, cell in shapes)
        figure = BookFigure(figsize=(min(width, columns + 2.1), sum(heights)))
        figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
        grids = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
        for grid, part, (rows, columns, cell) in zip(grids, parts, shapes, strict=True):
            if len(parts) > 1:
                grid.suptitle(labels[part.name], x=0.01, ha="left", fontsize=11, fontweight="bold")
            axes = grid.subplots(rows, columns, squeeze=False)
            image = _draw_heads(part, axes, cell, labels)
            bar = grid.colorbar(image, ax=axes, shrink=min(1, 1.8 / (rows * cell[1])), aspect=16, pad=0.015)
            bar.set_label(labels["weight"], fontsize=9)
            bar.ax.tick_params(labelsize=8)
    return figure


def _grid_shape(part: Attention, width: float) -> tuple[int, int, tuple[float, float]]:
    """Return rows, columns, and the width and height in inches of one map."""
    layers, heads, queries, keys = part.weights.shape
    columns = min(heads, COLUMNS) if part.one_layer else heads
    rows = math.ceil(heads / columns) if part.one_layer else layers
    wide = min(3.2 if rows * columns == 1 else 2.2, (width - 1.9) / columns, max(1.0, 0.22 * keys))
    return rows, columns, (wide, wide * min(1.6, max(0.4, queries / keys)))


def _draw_heads(part: Attention, axes: np.ndarray, cell: tuple[float, float], labels: Mapping[str, str]) -> Any:
    layers, heads = part.weights.shape[:2]
    columns = axes.shape[1]
    image: Any = None
    for number, ax in enumerate(axes.flat):
        layer, head = divmod(number, heads)
        if layer >= layers:
            ax.set_axis_off()
            continue
        image = ax.imshow(part.weights[layer, head], vmin=0, vmax=1, cmap="Blues")
        ax.grid(False)
        left, bottom = number % columns == 0, number + columns >= layers * heads
        roomy = min(cell) > 0.6  # else there is no room for words
        _label_some(ax.xaxis, part.keys, cell[0], bottom and roomy)
        _label_some(ax.yaxis, part.queries, cell[1], left and roomy)
        if layer == 0:
            name = f"{labels['head']} {part.heads[head]}" if roomy or head == 0 else str(part.heads[head])
            ax.set_title(name, loc="center" if roomy or head else "right", fontsize=9, fontweight="normal", pad=3)
        if left:
            name = f"{labels['layer']} {part.layers[layer]}" if roomy or layer == 0 else str(part.layers[layer])
            ax.set_ylabel(labels["query"] if part.one_layer else name, fontsize=9, loc="center" if roomy else "bottom")
        if bottom and part.one_layer:
            ax.set_xlabel(labels["key"], fontsize=9)
    return image


def _label_some(axis: Any, tokens: Sequence[str], inches: float, shown: bool) -> None:
    """Write as many tokens along an axis as there is room for: every second, third, ..."""
    step = math.ceil(len(tokens) * 0.11 / inches)
    places = range(0, len(tokens), step)
    names = [_short(tokens[place]) if shown else "" for place in places]
    size = min(9.0, max(6.5, 50 * inches / len(tokens)))
    axis.set_ticks(places, names, fontsize=size, parse_math=False)
    axis.set_tick_params(length=1.5 if shown else 0, pad=1.5)
    if shown and axis.axis_name == "x":
        for text in axis.get_ticklabels():
            text.set(rotation=60, ha="right", rotation_mode="anchor")


def _short(token: str, length: int = 12) -> str:
    return token if len(token) <= length else token[: length - 1] + "…"
