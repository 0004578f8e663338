"""Pictures that answer: attention with editable matrices, softmax, RoPE, masks, BPE merges, the tree of a beam search.

Each function takes what a chapter computed and returns what a cell shows: a still picture with a small script that
replaces it by the interactive one, in the same style as the explorer. All pictures share one script, under 30 KB.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llmbook.explore import assets
from llmbook.generation import NextToken
from llmbook.viz.figures import PALETTE, BookFigure, book_style
from llmbook.viz.frames import InteractiveView, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 12  # rows and features of a matrix that can be edited
MASKS = ("full", "causal", "prefix", "window")


def _view(name: str, data: dict[str, Any], figure: Figure, label: str, language: str) -> InteractiveView:
    """Put picture, data and script together."""
    picture = png(figure)
    stored = json.dumps({"name": name, "data": data}, ensure_ascii=False, separators=(",", ":"))
    sentence = assets.phrases(language)["still"]
    html = (
        f'<figure class="lm-explorer lm-picture" role="group" aria-label="{escape(label)}" '
        f'data-picture="{escape(stored)}" data-code="{assets.packed_pictures(language)}">'
        f'<div class="lmx-still"><img alt="{escape(label)}" style="max-width:100%" '
        f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        f'<p class="lmx-sentence">{escape(sentence)}</p></div><script>{assets.asset("loader.js")}</script></figure>'
    )
    return InteractiveView(html, picture, f"{name}: {label}")


def _figure(columns: int, height: float = 2.6, **options: Any) -> tuple[Figure, np.ndarray]:
    with book_style():
        figure = BookFigure(figsize=(7.2, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False, **options)
    return figure, axes[0]


def _matrix(name: str, values: Any, rows: int) -> list[list[float]]:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
    if array.ndim != 2 or len(array) != rows or not 1 <= array.shape[1] <= MOST or rows > MOST:
        raise ValueError(f"{name} has shape {array.shape}: it takes ({rows}, features), up to {MOST} of each")
    return [[round(float(number), 4) for number in row] for row in array]


def attention(
    query: Any,
    key: Any,
    value: Any,
    tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    scaled: bool = True,
    value_names: Sequence[str] | None = None,
    label: str = "Queries, keys and values, and what attention makes of them",
    language: str = "en",
) -> InteractiveView:
    """Show one head whose queries ``(query, d_k)``, keys ``(key, d_k)`` and values ``(key, d_v)`` can be edited.

    ``value_names`` says what the features of the values are, where they are not only numbers.

    Raises:
        ValueError: shapes that do not fit the tokens, or more than twelve rows or features.
    """
    names = list(tokens if key_tokens is None else key_tokens)
    matrices = [
        _matrix(name, part, len(rows))
        for name, part, rows in (("query", query, tokens), ("key", key, names), ("value", value, names))
    ]
    if len(matrices[0][0]) != len(matrices[1][0]):
        raise ValueError(f"query has {len(matrices[0][0])} features, key {len(matrices[1][0])}: they must agree")
    if value_names is not None and len(value_names) != len(matrices[2][0]):
        raise ValueError(f"{len(value_names)} value_names for {len(matrices[2][0])} features of the values")
    q, k, v = map(np.array, matrices)  # (query, d_k), (key, d_k), (key, d_v)
    scores = q @ k.T / (math.sqrt(q.shape[1]) if scaled else 1)  # (query, key)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    figure = _matrices(q, k, v, scores, weights, (list(tokens), names), value_names)
    data = dict(zip(("query", "key", "value"), matrices, strict=True))
    features = None if value_names is None else list(value_names)
    return _view(
        "attention",
        {**data, "queries": list(tokens), "keys": names, "features": features, "scaled": scaled},
        figure, label, language,
    )  # fmt: skip


def _matrices(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    rows: tuple[list[str], list[str]],
    value_names: Sequence[str] | None,
) -> Figure:
    """Draw what goes in above what comes out: one scale of colours for all numbers, and one for the weights."""
    parts = {"Q": q, "K": k, "V": v, "Scores": scores, "Weights": weights, "Output": weights @ v}
    limit = max(np.abs(part).max() for part in parts.values()) or 1.0
    widths = [max(q.shape[1], len(k))] * 2 + [v.shape[1]]
    cell = min(0.34, 4.4 / sum(widths))  # inches
    heights = [max(len(q), len(k)), len(q)]
    with book_style():
        figure = BookFigure(figsize=(7.2, 1.5 + cell * sum(heights)), layout="constrained")
        axes = figure.subplots(2, 3, width_ratios=widths, height_ratios=heights)
        shown = {}
        for ax, (name, part) in zip(axes.flat, parts.items(), strict=True):
            scale = {"cmap": "Blues", "vmin": 0, "vmax": 1} if name == "Weights" else {
                "cmap": "cividis", "vmin": -limit, "vmax": limit}  # fmt: skip
            shown[name] = ax.imshow(part, **scale)
            ax.set_title(name, fontsize=9, loc="center")
            names = rows[1] if name in ("K", "V") else rows[0]
            ax.set_yticks(range(len(names)), names, fontsize=7.5, parse_math=False)
            columns = rows[1] if name in ("Scores", "Weights") else value_names if name in ("V", "Output") else None
            ax.set_xticks(range(part.shape[1]), columns or [""] * part.shape[1], fontsize=7.5, parse_math=False)
            ax.tick_params(length=0)
            if name in ("Scores", "Weights"):
                ax.tick_params(axis="x", rotation=90)
            ax.grid(False)
        for name, label, row in (("V", "number", 0), ("Weights", "weight", 1)):
            bar = figure.colorbar(shown[name], ax=axes[row], fraction=0.03, aspect=12)
            bar.set_label(label, fontsize=8)
            bar.ax.tick_params(labelsize=7.5)
    return figure


def softmax(
    scores: Sequence[float],
    tokens: Sequence[str],
    d_k: int = 64,
    label: str = "Scores and their softmax",
    language: str = "en",
) -> InteractiveView:
    """Show what temperature, and the division by the root of ``d_k``, do to a row of scores ``(key,)``.

    The scores are those after the division, so that they are about as large as 1; they are shown from -3 to 3.

    Raises:
        ValueError: another number of tokens than of scores, more than twelve, or a ``d_k`` that is no power of 2.
    """
    row = [round(float(score), 2) for score in scores]
    if len(row) != len(tokens) or not 2 <= len(row) <= 12 or not all(abs(score) <= 3 for score in row):
        raise ValueError(f"{len(row)} scores and {len(tokens)} tokens: give 2 to 12 of each, scores from -3 to 3")
    if not 1 <= d_k <= 1024 or d_k & (d_k - 1):
        raise ValueError(f"d_k={d_k}: the slider has the powers of 2 from 1 to 1024")
    figure, axes = _figure(2, sharey=True)
    for ax, factor, title in zip(axes, (1, math.sqrt(d_k)), ("divided by √d_k", "not divided"), strict=True):
        weights = np.exp(factor * (np.array(row) - max(row)))
        ax.bar(range(len(row)), weights / weights.sum(), color=PALETTE[0])
        ax.set_xticks(range(len(row)), tokens, parse_math=False, fontsize=8, rotation=30)
        ax.set_title(f"{title} ({d_k} features)", fontsize=9, loc="left")
    axes[0].set_ylabel("weight")
    return _view("softmax", {"scores": row, "tokens": list(tokens), "dK": d_k}, figure, label, language)


def rope(
    query: Any,
    key: Any,
    places: tuple[int, int] = (5, 2),
    base: float = 10_000.0,
    label: str = "A query and a key turned by their places, in each plane",
    language: str = "en",
) -> InteractiveView:
    """Show RoPE at work on a query and a key ``(d_head,)``, neighbouring features paired to planes.

    Raises:
        ValueError: vectors that are not of the same even length up to 12, places outside 0 to 64.
    """
    pair = [np.asarray(part, dtype=float).reshape(-1) for part in (query, key)]
    if len(pair[0]) != len(pair[1]) or len(pair[0]) % 2 or not 2 <= len(pair[0]) <= 12:
        raise ValueError(f"query and key have {len(pair[0])} and {len(pair[1])} features: 2 to 12, even, the same")
    if not all(0 <= place <= 64 for place in places):
        raise ValueError(f"places={places}: they go from 0 to 64")
    longest = max(np.abs(part).max() for part in pair) or 1.0
    planes = [np.round(part.reshape(-1, 2) / longest, 4) for part in pair]  # (planes, 2) each
    count = len(planes[0])
    figure, axes = _figure(count, 7.0 / count + 0.2)
    for plane, ax in enumerate(axes):
        ax.add_patch(_circle())
        for (x, y), place, colour in zip((part[plane] for part in planes), places, PALETTE[:2], strict=True):
            turn = complex(x, y) * np.exp(1j * place * base ** (-plane / count))
            ax.annotate("", (turn.real, turn.imag), (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
        ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=[], yticks=[], aspect="equal")
        ax.set_title(f"plane {plane}", fontsize=9, loc="center")
    data = {"query": planes[0].tolist(), "key": planes[1].tolist(), "places": list(places), "base": base}
    return _view("rope", data, figure, label, language)


def _circle() -> Any:
    from matplotlib.patches import Circle

    return Circle((0, 0), 1.2, fill=False, color="#c8c8c8")


def masks(
    tokens: Sequence[str],
    kind: str = "causal",
    size: int = 3,
    label: str = "Which tokens may look at which",
    language: str = "en",
) -> InteractiveView:
    """Show the mask patterns of encoder, decoder, prefix model and sliding window on some tokens.

    Raises:
        ValueError: an unknown kind, a size that does not fit, or more than sixteen tokens.
    """
    count = len(tokens)
    if kind not in MASKS:
        raise ValueError(f"kind={kind!r}: there are {', '.join(MASKS)}")
    if not 1 <= count <= 16 or not 1 <= size <= count:
        raise ValueError(f"{count} tokens, size={size}: give 1 to 16 tokens, and a size from 1 to their number")
    query, key = np.indices((count, count))
    patterns = {
        "full": query >= 0,
        "causal": key <= query,
        "prefix": (key <= query) | (key < size),
        "window": (key <= query) & (query - key < size),
    }
    figure, axes = _figure(4, 2.4)
    for ax, (name, pattern) in zip(axes, patterns.items(), strict=True):
        ax.imshow(pattern, cmap="Blues", vmin=0, vmax=1.3)
        ax.set_title(name, fontsize=9, loc="center")
        ax.set_xticks([])
        ax.set_yticks(range(count), tokens if name == "full" else [""] * count, fontsize=7, parse_math=False)
        ax.grid(False)
    return _view("masks", {"tokens": list(tokens), "kind": kind, "size": size}, figure, label, language)


def merges(
    word_counts: Mapping[str, int],
    learned: Sequence[tuple[tuple[str, str], int]],
    own: str = "",
    label: str = "Byte-pair encoding, merge by merge",
    language: str = "en",
) -> InteractiveView:
    """Show how byte-pair encoding joins characters to pieces, step by step, in given words and in the reader's own.

    Args:
        word_counts: the words that were learned from, with their counts; the twelve most frequent are shown.
        learned: pairs in the order in which they were merged, each with its count at that time.
        own: a word of the reader's to begin with.
        label: alternative text.
        language: of the picture's own words.

    Raises:
        ValueError: no word, or no merge or more than 200.
    """
    if not word_counts or not 1 <= len(learned) <= 200:
        raise ValueError(f"{len(word_counts)} words and {len(learned)} merges: give a word, and 1 to 200 merges")
    shown = sorted(word_counts.items(), key=lambda item: -item[1])[:12]
    steps = [{"pair": list(pair), "count": count} for pair, count in learned]
    names = [" + ".join(pair) for pair, _ in learned[:30]]
    figure, (ax,) = _figure(1, 0.6 + 0.22 * len(names))
    ax.barh(range(len(names)), [count for _, count in learned[:30]], color=PALETTE[0])
    ax.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    ax.invert_yaxis()
    ax.set_xlabel("times that the pair stood there when it was merged")
    return _view("merges", {"words": shown, "steps": steps, "own": own}, figure, label, language)


def beam_tree(model: NextToken, prompt: torch.Tensor, steps: int, num_beams: int) -> list[dict[str, Any]]:
    """Return what a beam search looks at: for each step the candidates of each beam, and which of them it keeps.

    As :func:`llmbook.generation.beam_search` without a stop token. Each beam shows its ``num_beams`` best
    continuations: no other can be among the ``num_beams`` best of all.

    Returns:
        Nodes ``{id, parent, depth, token, score, kept}``, of which the first is the prompt; scores are sums of
        natural-log probabilities.
    """
    tree: list[dict[str, Any]] = [{"id": 0, "parent": None, "depth": 0, "token": None, "score": 0.0, "kept": True}]
    beams = [(0, prompt)]
    for depth in range(1, steps + 1):
        found = []
        for number, ids in beams:
            best = model(ids).double().log_softmax(-1)[0].topk(num_beams)
            for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                score = tree[number]["score"] + value
                found.append((score, number, torch.cat([ids, torch.tensor([[token]])], 1)))
        order = sorted(range(len(found)), key=lambda place: -found[place][0])
        kept, beams = set(order[:num_beams]), []
        for place, (score, number, ids) in enumerate(found):
            leaf = {"id": len(tree), "parent": number, "depth": depth, "token": int(ids[0, -1]), "score": score}
            tree.append(leaf | {"kept": place in kept})
        first = len(tree) - len(found)
        beams = [(first + place, found[place][2]) for place in order[:num_beams]]
    return tree


def beam(
    model: NextToken,
    prompt: torch.Tensor,
    names: Any,
    steps: int = 5,
    most_beams: int = 4,
    num_beams: int = 3,
    label: str = "Beam search as a tree",
    language: str = "en",
) -> InteractiveView:
    """Show the tree of a beam search for every width up to ``most_beams``.

    Args:
        model: scores of the next token, as in :mod:`llmbook.generation`.
        prompt: ids ``(1, time)``.
        names: a function from an id to what it is called.
        steps: tokens that are added, up to 8.
        most_beams: widest beam, up to 5.
        num_beams: width to begin with.
        label: alternative text.
        language: of the picture's own words.

    Raises:
        ValueError: several sequences, or numbers outside these bounds.
    """
    if prompt.ndim != 2 or len(prompt) != 1:
        raise ValueError(f"prompt has shape {tuple(prompt.shape)}: beam search takes one sequence, shape (1, time)")
    if not 1 <= steps <= 8 or not 1 <= num_beams <= most_beams <= 5:
        raise ValueError(
            f"steps={steps}, num_beams={num_beams}, most_beams={most_beams}: up to 8 steps, and 1 <= num_beams <= "
            "most_beams <= 5"
        )
    start = " ".join(names(int(token)) for token in prompt[0, -3:])
    trees = []
    for width in range(1, most_beams + 1):
        tree = beam_tree(model, prompt, steps, width)
        for leaf in tree:
            leaf |= {"token": names(leaf["token"]) if leaf["depth"] else start, "score": round(leaf["score"], 4)}
        trees.append(tree)
    shown = trees[num_beams - 1]
    figure, (ax,) = _figure(1, 0.5 + 0.24 * num_beams**2)
    places: dict[int, tuple[int, float]] = {}
    for leaf in shown:
        row = sum(1 for other in places.values() if other[0] == leaf["depth"])
        places[leaf["id"]] = (leaf["depth"], float(-row))
        x, y = places[leaf["id"]]
        if leaf["parent"] is not None:
            px, py = places[leaf["parent"]]
            ax.plot([px + 0.45, x - 0.03], [py, y], color=PALETTE[0] if leaf["kept"] else "#c8c8c8", linewidth=1)
        ax.text(x, y, leaf["token"], va="center", fontsize=7.5, parse_math=False,
                color="#22262e" if leaf["kept"] else "#8a8f98")  # fmt: skip
    ax.set(xlim=(-0.1, steps + 0.8), ylim=(min(y for _, y in places.values()) - 0.7, 0.7))
    ax.set_axis_off()
    return _view("beam", {"trees": trees, "width": num_beams}, figure, label, language)
