"""Running a model for its attention weights: any of the book and any of ``transformers`` (chapter 6)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbook.viz.tokens import readable_tokens, visible
from llmbook.viz.weights import Attention, check_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

PARTS = ("encoder", "decoder", "cross")
#: What the key is called that stands for an attention sink, a learnt score in each row that belongs to no token.
SINK = "[sink]"


def given_attention(attention: Any, tokens: Sequence[str] | None, key_tokens: Sequence[str] | None) -> Attention:
    """Wrap weights that are at hand: ``(query, key)``, ``(heads, query, key)``, ``(layers, heads, query, key)``.

    A list or tuple is one of layers: each ``(heads, query, key)`` or, as from a model, ``(1, heads, query, key)``.
    """
    if tokens is None:
        raise ValueError("attention= needs tokens=, the list of what each row is called")
    from_model = isinstance(attention, (list, tuple))
    given = list(enumerate(attention if from_model else [attention]))
    arrays = [_array(layer) for _, layer in given if layer is not None]
    if not arrays:
        raise ValueError(NO_WEIGHTS)
    shape = arrays[0].shape
    if from_model:
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(f"the layers have different shapes: {', '.join(str(array.shape) for array in arrays)}")
        arrays = [array[0] if array.ndim == 4 and len(array) == 1 else array for array in arrays]
    # (layers, heads, query, key)
    array = np.stack(arrays) if from_model else arrays[0][(None,) * max(0, 4 - len(shape))]
    keys = tokens if key_tokens is None else key_tokens
    if array.ndim != 4 or array.shape[2:] != (len(tokens), len(keys)):
        named = f"{len(tokens)} tokens" + ("" if key_tokens is None else f" and {len(keys)} key tokens")
        raise ValueError(
            f"weights have shape {shape}; {named} need ({len(tokens)}, {len(keys)}), with layers and heads before it: "
            "name each row and column, and select one sequence of the batch"
        )
    numbers = [number for number, layer in given if layer is not None] if from_model else None
    return _checked("self" if key_tokens is None else "cross", array, tokens, keys, numbers)


def _array(weights: Any) -> np.ndarray:
    return np.asarray(weights.detach().float().cpu() if hasattr(weights, "detach") else weights, dtype=float)


def _checked(
    name: str, array: np.ndarray, queries: Sequence[str], keys: Sequence[str], numbers: list[int] | None = None
) -> Attention:
    """Check the rows of ``(layers, heads, query, key)``; ``numbers`` are those of the layers where some have none."""
    check_rows(array)
    layers, heads = array.shape[:2]
    shown = [visible(str(token)) for token in queries], [visible(str(token)) for token in keys]
    return Attention(name, array, *shown, numbers or list(range(layers)), list(range(heads)))


NO_WEIGHTS = (
    "the model returned no attention weights: it has to accept output_attentions=True and to return them, as models of "
    "llmbook.transformer do, and those of transformers under attn_implementation='eager'; "
    "or pass attention=weights, tokens=tokens"
)


def read_attention(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any = None,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    vectors: bool = False,
    part: str | None = None,
) -> list[Attention]:
    """Run a model on one text and return its attention, for an encoder-decoder that of its three parts.

    The model runs as for evaluation, without gradients and, where it is one of ``transformers``, with the
    implementation of attention that keeps the weights; afterwards it is as it was. Weights by offset in a window
    (Longformer, LED) are put at their keys, and what a row gives to an attention sink is a last key, ``[sink]``.

    Args:
        model: of ``llmbook.transformer``, of ``transformers``, or one that is called like these.
        inputs: a text, ids ``(time,)`` or ``(1, time)``, or what a tokenizer returns, with its masks; for an
            encoder-decoder a pair of these, source and target, or what a tokenizer returns of both.
        tokenizer: needed for a text; with ids it names them.
        tokens: what to call the ids (of the target), in place of a tokenizer.
        key_tokens: what to call those of the source.
        vectors: whether to read queries and keys as well (not for cross-attention).
        part: of an encoder-decoder, the only part to return: ``"encoder"``, ``"decoder"`` or ``"cross"``.

    Raises:
        ValueError: a text without tokenizer, a batch of several, a model that does not run on ids alone, that returns
            no weights or weights that are no distributions over the tokens: in blocks, of a pooled sequence, scores.
    """
    import torch

    parameters = inspect.signature(model.forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not ("output_attentions" in parameters or open_ended):
        raise ValueError(NO_WEIGHTS)
    read = getattr(model, "main_input_name", "input_ids")
    if read != "input_ids":
        raise ValueError(f"{_name(model)} reads {read}, not the ids of a text: show_attention draws models of text")
    two = "decoder_input_ids" in parameters
    if two:
        if part not in (None, *PARTS):
            raise ValueError(f"part={part!r}: it takes {', '.join(map(repr, PARTS))}")
        inputs = _pair(model, inputs)
    source = _encode(inputs[0] if two else inputs, tokenizer)
    taken = {"input_ids", *parameters} | ({"attention_mask"} if open_ended else set())
    arguments: dict[str, Any] = {key: value for key, value in source.items() if key in taken}
    if two:
        start = getattr(getattr(model, "config", None), "decoder_start_token_id", None)
        target = {f"decoder_{key}": value for key, value in _encode(inputs[1], tokenizer, start).items()}
        arguments |= {key: value for key, value in target.items() if key in parameters}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    arguments = {key: value.to(device) for key, value in arguments.items()}
    if "use_cache" in parameters:
        arguments["use_cache"] = False  # there is one text, and a model without attention layers has no such cache
    with _as_for_reading(model, "eager"):
        output = _run(model, arguments | {"output_attentions": True})
    names = _names(arguments["decoder_input_ids" if two else "input_ids"], tokenizer, tokens, "tokens")
    if not two:
        found = [_part(model, "self", getattr(output, "attentions", None), names, names)]
    else:
        keys = _names(arguments["input_ids"], tokenizer, key_tokens, "key_tokens")
        sides = {"encoder": (keys, keys), "decoder": (names, names), "cross": (names, keys)}
        found = [_part(model, name, getattr(output, f"{name}_attentions", None), *sides[name])
                 for name in PARTS if part in (None, name)]  # fmt: skip
    if vectors:
        from llmbook.viz.watching import NO_VECTORS, Watch

        try:
            with Watch() as watch, _as_for_reading(model, "sdpa"):
                model(**arguments)
        except ValueError as error:  # transformers' models that have no such implementation
            raise ValueError(NO_VECTORS) from error
        found = [part if part.name == "cross" else replace(part, vectors=watch.vectors(part)) for part in found]
    return found


def _name(model: Any) -> str:
    return type(model).__name__


def _run(model: Any, arguments: dict[str, Any]) -> Any:
    """Call the model; where it fails on these ids, as one that needs an image as well, say so in one sentence."""
    try:
        return model(**arguments)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        count = arguments["input_ids"].shape[1]
        what = " ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise ValueError(f"{_name(model)} does not run on these {count} ids alone: {what}") from error


def _part(model: Any, name: str, layers: Sequence[Tensor] | None, queries: list[str], keys: list[str]) -> Attention:
    """Return one part of what a model returned, its weights ``(1, heads, query, key)`` for each layer."""
    numbers = _layer_numbers(model, layers or ())
    layers = [layer for layer in layers or () if layer is not None]  # a layer without attention has none to show
    if not layers:
        raise ValueError(NO_WEIGHTS)
    if not all(hasattr(layer, "ndim") and layer.ndim == 4 for layer in layers):
        kinds = ", ".join(dict.fromkeys(str(tuple(getattr(layer, "shape", ()))) for layer in layers))
        raise ValueError(
            f"{_name(model)} returns its {name} attention in blocks or a form of its own (shape {kinds}), with no "
            f"weight for each pair of {len(queries)} queries and {len(keys)} keys: show_attention cannot draw it"
        )
    arrays = [_array(layer) for layer in layers]
    windows = getattr(getattr(model, "config", None), "attention_window", None)  # of Longformer and LED
    if windows is not None and name in ("self", "encoder"):
        sizes = [windows] * len(arrays) if isinstance(windows, int) else windows
        if any(array.shape[3] != size + 1 for array, size in zip(arrays, sizes, strict=True)):
            raise ValueError(
                f"{_name(model)} returns weights by offset in a window and, beside them, those of global tokens: "
                "show_attention can draw it without global attention only"
            )
        arrays = [_at_keys(array, size) for array, size in zip(arrays, sizes, strict=True)]
    wrong = next((array.shape for array in arrays if array.shape[2:] != (len(queries), len(keys))), None)
    if wrong is not None:
        raise ValueError(
            f"{_name(model)} returns {name} weights of shape {wrong} for {len(queries)} queries and {len(keys)} keys, "
            "so they are over something else than the tokens (a pooled sequence, landmarks, a prefix, a memory): "
            "show_attention cannot name them"
        )
    if len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{_name(model)} has layers with different numbers of heads ({shapes}): pass one layer's "
                         "weights, attention=weights, tokens=tokens")  # fmt: skip
    array = np.concatenate(arrays)
    sums = array.sum(-1)
    if not np.isnan(sums).any():
        if (array < 0).any() or (sums > 1.01).any():
            raise ValueError(f"{_name(model)} returns scores, not what a softmax made of them: its {name} rows are no "
                             "distributions over the tokens, and show_attention cannot draw them")  # fmt: skip
        if (sums < 0.99).any() and any("sink" in key for key, _ in model.named_parameters()):
            array = np.concatenate([array, np.maximum(0, 1 - sums)[..., None]], -1)  # (layers, heads, query, key + 1)
            keys = [*keys, SINK]
        elif ((sums < 0.99) & (sums > 0)).any():
            raise ValueError(
                f"{_name(model)} returns {name} rows that are no distributions over the tokens (one sums to "
                f"{sums[(sums < 0.99) & (sums > 0)].min():.3g}), as sparse blocks or padding make them: show_attention "
                "cannot say where the rest of their weight goes"
            )
    return _checked(name, array, queries, keys, numbers)


def _layer_numbers(model: Any, layers: Sequence[Tensor | None]) -> list[int]:
    """Return the number of each layer that has weights, as the model counts its layers: some mix it with others."""
    present = [number for number, layer in enumerate(layers) if layer is not None]
    if len(present) < len(layers):
        return present
    modules = (module for module in model.modules() if type(module).__name__.endswith("Attention"))
    found = {index for module in modules if isinstance(index := getattr(module, "layer_idx", None), int)}
    return sorted(found) if len(found) == len(present) else present


def _at_keys(array: np.ndarray, window: int) -> np.ndarray:
    """Put weights by offset, ``(1, heads, query, window + 1)``, at their keys: ``(1, heads, query, query)``.

    An offset of ``window // 2`` is the query itself (Beltagy et al. 2020, arXiv:2004.05150).
    """
    count = array.shape[2]
    queries, offsets = np.indices((count, window + 1))
    keys = queries + offsets - window // 2
    inside = (keys >= 0) & (keys < count)
    placed = np.zeros((*array.shape[:3], count))
    placed[..., queries[inside], keys[inside]] = array[..., inside]
    return placed


def _pair(model: Any, inputs: Any) -> tuple[Any, Any]:
    """Return source and target of an encoder-decoder's inputs."""
    if isinstance(inputs, Mapping) and "decoder_input_ids" in inputs:
        return inputs, inputs["decoder_input_ids"]
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if isinstance(inputs, Mapping) and "labels" in inputs and shift is not None:
        import torch

        labels = torch.as_tensor(inputs["labels"])
        return inputs, shift(labels=labels[None] if labels.ndim == 1 else labels)
    if not (isinstance(inputs, (tuple, list)) and len(inputs) == 2):
        raise ValueError("an encoder-decoder takes a pair of inputs, (source, target): texts, or ids beginning "
                         "with the decoder's start token")  # fmt: skip
    return inputs[0], inputs[1]


def _encode(inputs: Any, tokenizer: Any, start: int | None = None) -> dict[str, Tensor]:
    """Return ids ``(1, time)`` and what came with them; a target's text gets the decoder's start token in front."""
    import torch

    if isinstance(inputs, str):
        if tokenizer is None:
            raise ValueError("inputs is a text: pass tokenizer=, or the token ids themselves")
        ids = tokenizer.encode(inputs)
        ids = list(getattr(ids, "ids", ids))
        inputs = ids if start is None else [start, *ids]
    given: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {"input_ids": getattr(inputs, "ids", inputs)}
    if "input_ids" not in given:
        raise ValueError(f"inputs has {', '.join(map(str, given)) or 'nothing'}, but no input_ids: pass what the "
                         "model's tokenizer returns for one text")  # fmt: skip
    ids = torch.as_tensor(given["input_ids"])
    flat = ids.ndim == 1
    ids = ids[None] if flat else ids
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(f"inputs have shape {tuple(ids.shape)} and type {ids.dtype}: pass a text or ids (1, time)")
    if len(ids) != 1:
        raise ValueError(f"inputs is a batch of {len(ids)} sequences; a picture shows one: pass inputs[:1]")
    if not ids.numel():
        raise ValueError("inputs is empty: a picture needs at least one token")
    others = {key: torch.as_tensor(given[key]) for key in ("attention_mask", "token_type_ids") if key in given}
    return {"input_ids": ids} | {key: value[None] if flat else value for key, value in others.items()}


def _names(ids: Tensor, tokenizer: Any, tokens: Sequence[str] | None, argument: str) -> list[str]:
    row = ids[0].tolist()
    if tokens is None:
        return readable_tokens(tokenizer, row) if tokenizer is not None else [str(index) for index in row]
    if len(tokens) != len(row):
        raise ValueError(f"{argument} has {len(tokens)} names for {len(row)} ids: give one for each")
    return [str(token) for token in tokens]


@contextmanager
def _as_for_reading(model: Any, implementation: str) -> Iterator[None]:
    """Switch to evaluation, no gradients and an implementation of attention; put everything back in the end."""
    import torch

    training = [module for module in model.modules() if module.training]
    switched = hasattr(model, "set_attn_implementation")
    before = [(config, config._attn_implementation) for config in _configurations(model)] if switched else []
    try:
        model.eval()
        if switched and getattr(model, "_can_set_attn_implementation", lambda: True)():
            model.set_attn_implementation(implementation)
        elif (
            switched
        ):  # an older class, as Falcon's, which would go on as it is, with a mask for another implementation
            model.config._attn_implementation = implementation
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        for config, chosen in before:
            config._attn_implementation = chosen


def _configurations(model: Any) -> list[Any]:
    """Return the configurations that say which attention a model and its parts compute, each after what holds it."""
    found: dict[int, Any] = {}

    def add(config: Any) -> None:
        if hasattr(config, "_attn_implementation") and id(config) not in found:
            found[id(config)] = config
            for key in config.sub_configs or ():
                add(getattr(config, key, None))

    add(model.config)
    for module in model.modules():
        add(getattr(module, "config", None))
    return list(found.values())
