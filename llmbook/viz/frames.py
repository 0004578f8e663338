"""BertViz's head, model and neuron view in a frame that needs no other host (chapter 6; Vig 2019, arXiv:1906.05714)."""

from __future__ import annotations

import base64
import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbook.viz.fonts import NO_FONT
from llmbook.viz.maps import attention_grid
from llmbook.viz.scripts import asset, compressed, packed_scripts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmbook.viz.weights import Attention

#: Pixels that a view takes before it is scaled to the page.
WIDTHS = {"head": 345, "model": 970, "neuron": 1010}
TALL = 900  # pixels, of the model view's small pictures together
LONGEST = 14  # characters of a token that fit a view's column
STRONGEST = 3  # pairs of tokens in a head's row of the table

STYLE = (
    ".lm-bertviz{margin:1rem 0}.lm-bertviz>img{display:block;max-width:100%}"
    ".lm-bertviz>img[hidden]{display:none!important}"
    "@media print{.lm-bertviz>iframe{display:none!important}.lm-bertviz>img[hidden]{display:block!important}}"
)


class InteractiveView:
    """What ``show_attention`` returns for a view of BertViz: a notebook shows it, a terminal prints one line.

    Where scripts do not run (on GitHub, on paper, in a notebook that is not trusted) a picture of the same weights
    stands in, with its label as alternative text; below either, the strongest weights of each head are a table.
    """

    def __init__(self, html: str, picture: bytes, summary: str) -> None:
        """Keep the three forms."""
        self._html = html
        self._picture = picture
        self._summary = summary

    def _repr_html_(self) -> str:
        return self._html

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        picture = base64.b64encode(self._picture).decode()
        return {"text/html": self._html, "image/png": picture, "text/plain": self._summary}

    def __repr__(self) -> str:
        """Return the line that a terminal shows."""
        return self._summary


def interactive_view(parts: Sequence[Attention], view: str, label: str, labels: Mapping[str, str]) -> InteractiveView:
    """Put a view of BertViz, its stand-in and its table together; all of it is text that a notebook stores."""
    picture = png(attention_grid(parts, labels))
    html = (
        f'<figure class="lm-bertviz" role="group" aria-label="{escape(label)}" '
        f'data-attention="{compressed({"view": view, "html": frame_page(parts, view, label, labels)})}" '
        f'data-scripts="{packed_scripts(view)}"><style>{STYLE}</style>'
        f'<img alt="{escape(label)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        f"{weights_table(parts, labels)}<script>{asset('views.js')}</script></figure>"
    )
    sizes = ", ".join(f"{' x '.join(map(str, part.weights.shape))}" for part in parts)
    return InteractiveView(html, picture, f"InteractiveView({view}: {sizes})")


def png(figure: Figure) -> bytes:
    """Return a figure as a small picture: 128 colours do for one colour map."""
    from PIL import Image

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NO_FONT)  # the view itself has every script; this one has boxes for some
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    small = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def frame_page(parts: Sequence[Attention], view: str, label: str, labels: Mapping[str, str]) -> str:
    """Return the frame's page, but for the scripts."""
    first = parts[0]
    data: dict[str, Any] = {"root_div_id": "bertviz", "default_filter": "0", "options": {}}
    data["attention"] = [_part_data(part, labels) for part in parts]
    controls = {}
    if view == "neuron":
        data["attention"] = {"all": data["attention"][0]}
        above = np.triu(np.ones(first.weights.shape[2:], dtype=bool), 1)
        data |= {"default_filter": "all", "bidirectional": bool(first.weights[..., above].any())}
        data["options"] = {"layer": first.layers, "att_head": first.heads}
        controls = {"layer": labels["layer"], "att_head": labels["head"]}
    else:
        data["include_layers"] = first.layers
        if view == "head":
            controls["layer"] = labels["layer"]
            data["squares"] = [f"{labels['head']} {head}" for head in first.heads]
        else:
            data |= {"include_heads": first.heads, "total_heads": columns(parts)}
        if len(parts) > 1:
            controls["filter"] = labels["part"]
    names = [escape(labels[part.name]) for part in parts]
    options = "".join(f'<option value="{index}">{name}</option>' for index, name in enumerate(names))
    fields = {
        "title": escape(label),
        "view": view,
        "width": f"{max(WIDTHS[view], 20 * len(first.heads) if view == 'head' else 0)}px",
        "controls": "".join(
            f'<label>{escape(name)} <select id="{key}">{options if key == "filter" else ""}</select></label>'
            for key, name in controls.items()
        ),
        "data": json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"),
    }
    page = asset("frame.html")
    for name, text in fields.items():
        page = page.replace(f"%%{name}%%", text)
    return page


def columns(parts: Sequence[Attention]) -> int:
    """Return among how many heads the model view divides its width: more than there are where it would be too tall.

    BertViz gives each token of a small picture ``84 / columns`` pixels.
    """
    tallest = max(len(part.layers) * max(part.weights.shape[2:]) for part in parts)
    return max(len(parts[0].heads), min(24, max(6, math.ceil(tallest * 84 / TALL))))


def _part_data(part: Attention, labels: Mapping[str, str]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": labels[part.name],
        "left_text": [shorten(token) for token in part.queries],
        "right_text": [shorten(token) for token in part.keys],
        "attn": _numbers(part.weights, 1000),
    }
    if part.vectors is not None:
        data |= {"queries": _numbers(part.vectors[0], 100), "keys": _numbers(part.vectors[1], 100)}
    return data


def _numbers(array: np.ndarray, unit: int) -> dict[str, Any]:
    """Return an array as whole numbers of ``1 / unit``."""
    return {"shape": array.shape, "unit": unit, "values": np.rint(array.ravel() * unit).astype(int).tolist()}


def shorten(token: str) -> str:
    """Cut a token to what fits a view's column."""
    return token if len(token) <= LONGEST else token[: LONGEST - 1] + "…"


def weights_table(parts: Sequence[Attention], labels: Mapping[str, str]) -> str:
    """Return a folded table of each head's strongest weights: what the picture shows, for readers who do not see it."""
    rows = []
    for part in parts:
        name = f"{labels[part.name]}, " if len(parts) > 1 else ""
        for layer, heads in zip(part.layers, part.weights, strict=True):
            for head, weights in zip(part.heads, heads, strict=True):
                best = np.argsort(-weights, axis=None, kind="stable")[:STRONGEST]
                pairs = [divmod(int(index), weights.shape[1]) for index in best if weights.flat[index] >= 0.005]
                text = "; ".join(f"{part.queries[q]} → {part.keys[k]} {weights[q, k]:.2f}" for q, k in pairs)
                place = f"{name}{labels['layer']} {layer}, {labels['head']} {head}"
                rows.append(f'<tr><th scope="row">{escape(place)}</th><td>{escape(text)}</td></tr>')
    return f"<details><summary>{escape(labels['table'])}</summary><table>{''.join(rows)}</table></details>"
