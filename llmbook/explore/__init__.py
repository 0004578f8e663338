"""The model in the page: a reader types a text, and the weights that the book trained run in the browser.

:func:`explore` returns it for a notebook; the directive ``explorer`` (``book/_ext/explorer.py``) places it in a page of
the site. Both make the same figure: a still picture with a sentence, and a small script that does nothing until the
figure is reached. What runs then is in the JavaScript files of this package; :mod:`llmbook.explore.packing` says how
the weights travel.
"""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

from llmbook import pretrained, tokenization
from llmbook.explore import assets
from llmbook.explore.packing import Packed, pack_folder, pack_model
from llmbook.explore.still import still
from llmbook.pretrained import model_folder
from llmbook.transformer import Decoder, Encoder, unwrapped
from llmbook.viz.frames import InteractiveView, png
from llmbook.viz.tokens import readable_tokens, visible

__all__ = ["PANELS", "Exploration", "explore", "pack_shipped", "prepare"]

PANELS = ("tokens", "next", "map", "heads", "lens")
LIMIT = 128  # tokens that the page shows
AUTO = 500_000  # bytes up to which the model starts without being asked, once the reader has reached it


@dataclass(frozen=True)
class Exploration:
    """An explorer, ready to be written: its model, its picture and what it begins with."""

    packed: Packed
    picture: bytes
    settings: dict[str, Any]
    label: str
    sentence: str
    facts: str

    def html(self, where: dict[str, str], picture: str, name: str = "") -> str:
        """Return the figure.

        Args:
            where: attributes of the figure that say where code and model are: ``data-script`` and a ``url`` in the
                settings for a site, ``data-code`` and ``data-model`` where the figure carries both.
            picture: address of the still picture.
            name: the figure's id, to which links lead.
        """
        url = where.get("url")
        settings = self.settings | ({"url": url} if url else {}) | {"link": bool(url)}
        stored = json.dumps(settings, ensure_ascii=False, separators=(",", ":"))
        attributes = "".join(f' {key}="{escape(value)}"' for key, value in where.items() if key != "url")
        return (
            f'<figure class="lm-explorer"{f" id={chr(34)}{escape(name)}{chr(34)}" if name else ""} role="group" '
            f'aria-label="{escape(self.label)}" data-explorer="{escape(stored)}"{attributes}>'
            f'<div class="lmx-still"><img alt="{escape(self.label)}" src="{picture}" style="max-width:100%">'
            f'<p class="lmx-sentence">{escape(self.sentence)}</p></div>'
            f'<p class="lmx-facts">{self.facts}</p>'
            f"<script>{assets.asset('loader.js')}</script></figure>"
        )


def explore(
    model: str | Path | Decoder | Encoder,
    text: str = "",
    *,
    tokenizer: Any = None,
    symbols: Sequence[str] | None = None,
    panels: Sequence[str] = PANELS,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    head: tuple[int, int] = (0, 0),
    label: str = "",
    language: str = "en",
) -> InteractiveView:
    """Show a model at work: type a text, see every head attend, switch heads off, and continue token by token.

    The output carries the model and all that draws it, so that it runs wherever a notebook shows HTML with scripts,
    JupyterLab and Colab among them, and asks no host for anything. The site's build takes the model out again and
    stores it once. Where ``LLMBOOK_STORED_OUTPUTS`` is set, as ``make notebooks`` does, the output only names a model
    that the book ships, so that notebooks stay small: the picture stands in until the cell is run.

    Args:
        model: the name of a model that the book ships (``"pydocs-gpt"``), a folder that ``llmbook.hub.save`` wrote, or
            a decoder or encoder of ``llmbook.transformer``, which runs in its present precision.
        text: the text to begin with.
        tokenizer: by default the book's, for a model of its size; see also ``symbols``.
        symbols: the name of each token of a model without a tokenizer; a first one of several characters (``<s>``)
            starts every text.
        panels: what is shown: ``"tokens"``, ``"next"``, ``"map"``, ``"heads"``, ``"lens"``.
        temperature: to begin with, from 0.1 to 2, as ``top_k`` (up to 50) and ``top_p``.
        head: layer and head that are enlarged at first, numbered from 0.
        label: what the picture shows, as alternative text; by default a sentence with the most probable tokens.
        language: of the explorer's own words.

    Raises:
        ValueError: a model that the page cannot compute or whose predictions are NaN, a setting or a panel that there
            is not, a text that is empty or too long.
        FileNotFoundError: no such model.
    """
    made = prepare(
        model, text, tokenizer=tokenizer, symbols=symbols, panels=panels, temperature=temperature, top_k=top_k,
        top_p=top_p, head=head, label=label, language=language,
    )  # fmt: skip
    where: dict[str, str] = {}
    if not ("model" in made.settings and os.environ.get("LLMBOOK_STORED_OUTPUTS")):
        where["data-code"] = assets.packed_script(language)
        where["data-model"] = base64.b64encode(made.packed.file).decode()
    picture = f"data:image/png;base64,{base64.b64encode(made.picture).decode()}"
    return InteractiveView(made.html(where, picture), made.picture, f"explore({made.label})")


def prepare(
    model: str | Path | Decoder | Encoder,
    text: str,
    *,
    tokenizer: Any = None,
    symbols: Sequence[str] | None = None,
    panels: Sequence[str] = PANELS,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    head: tuple[int, int] = (0, 0),
    label: str = "",
    language: str = "en",
) -> Exploration:
    """Pack the model and draw its picture; arguments and errors are those of :func:`explore`."""
    from llmbook import hub  # imports transformers' models: memory that the pictures do not need

    _check(panels, temperature, top_k, top_p)
    shipped: dict[str, str] = {}
    if isinstance(model, str | Path):
        folder = model_folder(model)
        network = hub.load(folder)
        if not isinstance(network, Decoder | Encoder):
            raise ValueError(f"{folder} holds an encoder-decoder: the page computes a decoder or an encoder")
        tokenizer = tokenizer or _tokenizer(isinstance(network, Decoder), folder)
        packed = pack_folder(folder, tokenizer, network)
        shipped = {"model": folder.name} if folder.parent == pretrained.FOLDER else {}
    else:
        network = unwrapped(model)
        if tokenizer is None and symbols is None:
            tokenizer = _tokenizer(isinstance(network, Decoder), None)
        packed = pack_model(network, tokenizer, symbols)
    layers, heads = network.config.num_layers, network.config.num_heads
    if not (0 <= head[0] < layers and 0 <= head[1] < heads):
        raise ValueError(f"head={head}: there are {layers} layers of {heads} heads, numbered from 0")
    ids, names = _read(text, tokenizer, symbols)
    room = min(LIMIT, network.config.max_length)
    if not ids or len(ids) > room:
        raise ValueError(f"text has {len(ids)} tokens: the explorer begins with 1 to {room} of them")
    place, probabilities, attention = _predict(network, ids, packed.kind, tokenizer)
    words = assets.phrases(language)
    best = probabilities.topk(min(10, len(probabilities)))
    candidates = list(zip(names(best.indices.tolist()), best.values.tolist(), strict=True))
    shown = names(ids)
    quoted = words["quoted"].format(token=shown[place])
    title = words["next" if packed.kind == "decoder" else "hidden"].format(token=quoted)
    expected = ", ".join(f"{name} {share:.0%}" for name, share in candidates[:3])
    label = label or f"{text} — {title}: {expected}"
    settings = {
        "text": text, "temperature": temperature, "topK": top_k or 0, "topP": top_p, "layer": head[0], "head": head[1],
        "panels": list(panels), "limit": room, "sha256": packed.sha256, "bytes": len(packed.file),
        "auto": len(packed.file) <= AUTO, **shipped,
    }  # fmt: skip
    facts = words["facts"].format(
        parameters=f"{packed.parameters:,}", size=_size(len(packed.file)), sha256=f"<code>{packed.sha256}</code>"
    )
    picture = png(still(shown, attention, candidates, title))
    return Exploration(packed, picture, settings, label, words["still"], facts)


def pack_shipped(name: str) -> Packed:
    """Pack a model that the book ships, with its tokenizer.

    Raises:
        FileNotFoundError: there is no such model.
    """
    folder = model_folder(name)
    family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    return pack_folder(folder, _tokenizer(family == "llama", folder))


def _check(panels: Sequence[str], temperature: float, top_k: int | None, top_p: float) -> None:
    for panel in panels:
        if panel not in PANELS:
            raise ValueError(f"panel {panel!r}: there are {', '.join(PANELS)}")
    if not 0.1 <= temperature <= 2:
        raise ValueError(f"temperature={temperature}: the slider goes from 0.1 to 2")
    if top_k is not None and not 1 <= top_k <= 50:
        raise ValueError(f"top_k={top_k}: the slider goes from 1 to 50, or None for all tokens")
    if not 0.05 <= top_p <= 1:
        raise ValueError(f"top_p={top_p}: the slider goes from 0.05 to 1")


def _tokenizer(decoder: bool, folder: Path | None) -> Any:
    """Return the tokenizer in the model's folder, or else the book's own."""
    own = folder / "tokenizer.json" if folder is not None else None
    path = own if own is not None and own.is_file() else None
    return tokenization.load_tokenizer("gpt" if decoder else "bert", path)


def _read(text: str, tokenizer: Any, symbols: Sequence[str] | None) -> tuple[list[int], Any]:
    """Return a text's ids and the function that names ids."""
    if symbols is None:
        backend = tokenization.backend(tokenizer)
        return (backend.encode(text).ids if text else []), lambda ids: readable_tokens(backend, ids)
    known = {symbol: index for index, symbol in enumerate(symbols)}
    starts = len(symbols[0]) > 1
    ids = [0] if starts else []
    longest = max(map(len, symbols))
    at = 0
    while at < len(text):
        fits = (text[at : at + length] for length in range(longest, 0, -1))
        symbol = next((one for one in fits if one in known and not (starts and known[one] == 0)), None)
        if symbol is None and text[at].strip():
            raise ValueError(f"{text[at]!r} is no symbol of the model: there are {' '.join(symbols)}")
        if symbol is not None:
            ids.append(known[symbol])
        at += len(symbol or " ")
    return ids, lambda ids: [visible(symbols[index]) for index in ids]


@torch.no_grad()
def _predict(
    network: Decoder | Encoder, ids: list[int], kind: str, tokenizer: Any
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return the place asked for, its probabilities ``(vocab,)`` and all weights ``(layers, heads, query, key)``."""
    exact = copy.deepcopy(network).cpu().float().eval()  # as the page computes, whatever the weights' precision
    broken = next((name for name, tensor in exact.state_dict().items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise ValueError(
            f"{broken} of the model holds NaN or infinite numbers, as after a training that diverged: the explorer "
            "shows models with finite weights, so go back to a checkpoint from before"
        )
    output = exact(torch.tensor([ids]), output_attentions=True)
    if not output.logits.isfinite().all():
        raise ValueError(
            "the model predicts NaN or infinite scores for this text, though its weights are finite: they are too "
            "large to compute with; train with a smaller learning rate, or clip gradients"
        )
    place = len(ids) - 1
    if kind == "encoder":
        mask = tokenization.backend(tokenizer).token_to_id("<mask>") if tokenizer is not None else None
        place = ids.index(mask) if mask in ids else min(1, place)
    attention = torch.stack(output.attentions)[:, 0]  # (layers, heads, query, key)
    return place, output.logits[0, place].softmax(-1), attention


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
