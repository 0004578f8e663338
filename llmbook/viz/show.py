"""One call that draws the attention of any model (chapters 3 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llmbook.viz.arcs import AttentionView, attention_view
from llmbook.viz.frames import InteractiveView, interactive_view
from llmbook.viz.maps import attention_grid
from llmbook.viz.reading import PARTS, given_attention, read_attention
from llmbook.viz.weights import Attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

#: Tokens that each view can show.
MAX_TOKENS = MappingProxyType({"figure": 256, "arcs": 128, "head": 128, "model": 64, "neuron": 64})
#: Weights that a view draws as lines at the same time, one layer's in the head view.
MAX_LINES = 100_000
#: Numbers that an interactive view stores in the notebook: weights, and in the neuron view queries and keys.
MAX_NUMBERS = 300_000

#: Heat maps of a picture where nobody chose layers: those of GPT-2, 12 layers of 12 heads.
MAX_MAPS = 144

#: What a picture says besides the tokens; pass ``labels`` to say some of it in another language.
LABELS: Mapping[str, str] = MappingProxyType(
    {
        "layer": "Layer",
        "head": "Head",
        "query": "query",
        "key": "key",
        "weight": "attention weight",
        "part": "Attention",
        "self": "Self",
        "encoder": "Encoder",
        "decoder": "Decoder",
        "cross": "Cross",
        "table": "The strongest weights of each head",
    }
)


def show_attention(
    model: nn.Module | None = None,
    inputs: Any = None,
    *,
    tokenizer: Any = None,
    view: str = "figure",
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    part: str | None = None,
    attention: Any = None,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    label: str = "Attention weights",
    labels: Mapping[str, str] = LABELS,
) -> Figure | AttentionView | InteractiveView:
    """Draw what the heads of a model attend to, for one text.

    Either a model is run, ``show_attention(model, "a text", tokenizer=tokenizer)`` or ``show_attention(model, ids)``,
    or weights are at hand, ``show_attention(attention=weights, tokens=tokens)``.

    Args:
        model: of ``llmbook.transformer`` or of ``transformers``: decoder, encoder or encoder-decoder. It is run for
            evaluation and without gradients, with eager attention where it has a choice, and is left as it was.
        inputs: a text, ids ``(time,)`` or ``(1, time)``, or what a tokenizer returns, ``tokenizer(text,
            return_tensors="pt")``; for an encoder-decoder a pair of these, source and target, or what a tokenizer
            returns of both.
        tokenizer: of ``transformers`` or ``tokenizers``; a text needs one, special tokens are added as it does.
        view: ``"figure"``, heat maps of all heads (matplotlib's ``Figure``); ``"arcs"``, the book's own view of one
            layer; or BertViz's ``"head"`` (lines between two columns, one layer at a time), ``"model"`` (all heads at
            a glance) and ``"neuron"`` (queries and keys behind a head's weights, as they meet in the dot product, with
            RoPE applied; what ALiBi or T5 add to the scores is not drawn; not for cross-attention).
        layers: which layers, numbered from 0; one number or several. By default all, or of a deep model as many as
            the view has room for, evenly spaced from the first to the last (for ``"arcs"`` choose one).
        heads: which heads of each layer.
        part: of an encoder-decoder ``"encoder"``, ``"decoder"`` or ``"cross"``. By default all three for the head and
            the model view, where one chooses, cross-attention for a figure, else the decoder.
        attention: weights after the softmax, ``(query, key)``, ``(heads, query, key)``, ``(layers, heads, query,
            key)`` or a model's tuple of layers.
        tokens: what to call the queries, in place of a tokenizer.
        key_tokens: what to call the keys in cross-attention; with an encoder-decoder those of the source.
        label: what the picture shows, as alternative text.
        labels: words of the picture itself, as in ``LABELS``.

    Returns:
        An object that a notebook shows where it is a cell's last value. A query that may attend to nothing, with a
        row of zeros, is drawn empty.

    Raises:
        ValueError: an unknown view, layer or head; a text without tokenizer; several sequences; more tokens than the
            view can show; a model that returns no weights, or none over the tokens (blocks, a pooled sequence);
            weights whose shape does not fit the tokens, that are NaN or no distributions, with the place of the first.
    """
    if view not in MAX_TOKENS:
        raise ValueError(f"view={view!r}: it takes {', '.join(map(repr, MAX_TOKENS))}")
    words = {**LABELS, **labels}
    if (model is None) == (attention is None):
        raise ValueError("show_attention draws a model, (model, inputs), or weights, (attention=, tokens=): give one")
    if model is None:
        if view == "neuron":
            raise ValueError("the neuron view needs queries and keys, hence a model: pass (model, inputs)")
        found = [given_attention(attention, tokens, key_tokens)]
    else:
        only = part or {"figure": "cross", "arcs": "decoder", "neuron": "decoder"}.get(view)
        found = read_attention(model, inputs, tokenizer, tokens, key_tokens, view == "neuron", only)
    chosen = choose_parts(found, part, view)
    if model is not None and layers is None and len(chosen) == 1:
        layers = spaced_layers(chosen[0], heads, view)
    chosen = [one.select(layers, heads) for one in chosen]
    for one in chosen:
        check_size(one, view)
    if view == "figure":
        return attention_grid(chosen, words)
    if view == "arcs":
        return arcs(chosen[0], label, words)
    return interactive_view(chosen, view, label, words)


def choose_parts(found: list[Attention], part: str | None, view: str) -> list[Attention]:
    """Return the parts that a view shows: one, but for BertViz's head and model view of an encoder-decoder."""
    names = [one.name for one in found]
    if part is not None and part not in names:
        allowed = f"it takes {', '.join(map(repr, PARTS))}" if len(found) > 1 else "only an encoder-decoder has parts"
        raise ValueError(f"part={part!r}: {allowed}")
    if len(found) == 1 or (part is None and view in ("head", "model")):
        chosen = found
    else:
        wanted = part or ("cross" if view == "figure" else "decoder")
        chosen = [one for one in found if one.name == wanted]
    if view in ("arcs", "neuron") and chosen[0].name == "cross":
        other = "'head', 'model' or 'figure'"
        raise ValueError(f"view={view!r} shows a text attending to itself, not cross-attention: use view={other}")
    return chosen


def spaced_layers(one: Attention, heads: int | Sequence[int] | None, view: str) -> list[int] | None:
    """Return evenly spaced layers that a view has room for; ``None`` where all fit, or not even one does."""
    layer = one.select(0, heads)  # each layer is of this size
    if view == "arcs":
        return None
    room = MAX_MAPS // len(layer.heads)  # an interactive view has a figure beside it, for print
    if view != "figure":
        numbers = layer.weights.size + sum(side.size for side in layer.vectors or ())
        room = min(room, MAX_NUMBERS // max(1, numbers))
        if view == "model":
            room = min(room, MAX_LINES // max(1, layer.weights.size))
    if not 1 <= room < len(one.layers):
        return None
    return [round(place * (len(one.layers) - 1) / max(1, room - 1)) for place in range(room)]


def check_size(one: Attention, view: str) -> None:
    """Raise ``ValueError`` where a view would not be legible, or too slow to draw."""
    layers, heads, queries, keys = one.weights.shape
    count, most = max(queries, keys), MAX_TOKENS[view]
    if count > most:
        raise ValueError(
            f"{count} tokens; view={view!r} can show {most}: pass a shorter text or fewer ids, or use view='figure'"
            + (f" (up to {MAX_TOKENS['figure']})" if view != "figure" else "")
        )
    lines = heads * queries * keys * (layers if view == "model" else 1)
    if view in ("head", "model", "neuron") and lines > MAX_LINES:
        raise ValueError(
            f"{layers} layers of {heads} heads and {queries} x {keys} tokens are {lines:,} lines; view={view!r} can "
            f"draw {MAX_LINES:,}: choose layers= or heads=, or pass a shorter text"
        )
    numbers = one.weights.size + sum(side.size for side in one.vectors or ())
    if view in ("head", "model", "neuron") and numbers > MAX_NUMBERS:
        raise ValueError(
            f"{layers} layers of {heads} heads and {count} tokens are {numbers:,} numbers; view={view!r} stores up to "
            f"{MAX_NUMBERS:,} in the notebook: choose layers= or heads=, or pass a shorter text"
        )


def arcs(one: Attention, label: str, words: Mapping[str, str]) -> AttentionView:
    """Return the book's own view of one layer."""
    if not one.one_layer:
        raise ValueError(
            f"view='arcs' shows one layer and there are {len(one.layers)}: choose one, as layers={one.layers[0]}"
        )
    if len(one.keys) > len(one.queries):
        raise ValueError(
            f"view='arcs' shows a text attending to itself, not to {one.keys[-1]} as well: use view='head'"
        )
    return attention_view(one.queries, one.weights[0], label, words["head"], heads=one.heads)
