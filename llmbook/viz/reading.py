"""Running a model for its attention weights: any of the book and any of ``transformers`` (chapter 6)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbook.viz.tokens import readable_tokens, visible
from llmbook.viz.weights import Attention, check_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

PARTS = ("encoder", "decoder", "cross")


def given_attention(attention: Any, tokens: Sequence[str] | None, key_tokens: Sequence[str] | None) -> Attention:
    """Wrap weights that are at hand: ``(query, key)``, ``(heads, query, key)``, ``(layers, heads, query, key)``.

    A list or tuple is one of layers: each ``(heads, query, key)`` or, as from a model, ``(1, heads, query, key)``.
    """
    if tokens is None:
        raise ValueError("attention= needs tokens=, the list of what each row is called")
    from_model = isinstance(attention, (list, tuple))
    arrays = [_array(layer) for layer in (attention if from_model else [attention]) if layer is not None]
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
    return _checked("self" if key_tokens is None else "cross", array, tokens, keys)


def _array(weights: Any) -> np.ndarray:
    return np.asarray(weights.detach().float().cpu() if hasattr(weights, "detach") else weights, dtype=float)


def _checked(name: str, array: np.ndarray, queries: Sequence[str], keys: Sequence[str]) -> Attention:
    check_rows(array)
    layers, heads = array.shape[:2]
    shown = [visible(str(token)) for token in queries], [visible(str(token)) for token in keys]
    return Attention(name, array, *shown, list(range(layers)), list(range(heads)))


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
) -> list[Attention]:
    """Run a model on one text and return its attention, for an encoder-decoder that of its three parts.

    The model runs as for evaluation, without gradients and, where it is one of ``transformers``, with the
    implementation of attention that keeps the weights; afterwards it is as it was.

    Args:
        model: of ``llmbook.transformer``, of ``transformers``, or one that is called like these.
        inputs: a text, or ids ``(time,)`` or ``(1, time)``; for an encoder-decoder a pair, source and target.
        tokenizer: needed for a text; with ids it names them.
        tokens: what to call the ids (of the target), in place of a tokenizer.
        key_tokens: what to call those of the source.
        vectors: whether to read queries and keys as well (not for cross-attention).

    Raises:
        ValueError: a text without tokenizer, a batch of several, a model that returns no weights.
    """
    import torch

    parameters = inspect.signature(model.forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not ("output_attentions" in parameters or open_ended):
        raise ValueError(NO_WEIGHTS)
    two = "decoder_input_ids" in parameters
    if two and not (isinstance(inputs, (tuple, list)) and len(inputs) == 2):
        raise ValueError("an encoder-decoder takes a pair of inputs, (source, target): texts, or ids beginning "
                         "with the decoder's start token")  # fmt: skip
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    source = _encode(inputs[0] if two else inputs, tokenizer)
    arguments = {"input_ids": source.to(device)}
    if two:
        start = getattr(getattr(model, "config", None), "decoder_start_token_id", None)
        target = _encode(inputs[1], tokenizer, start)
        arguments["decoder_input_ids"] = target.to(device)
    with _as_for_reading(model, "eager"):
        output = model(**arguments, output_attentions=True)
    names = _names(source if not two else target, tokenizer, tokens, "tokens")
    if not two:
        found = [_part("self", getattr(output, "attentions", None), names, names)]
    else:
        keys = _names(source, tokenizer, key_tokens, "key_tokens")
        sides = {"encoder": (keys, keys), "decoder": (names, names), "cross": (names, keys)}
        found = [_part(name, getattr(output, f"{name}_attentions", None), *sides[name])
                 for name in PARTS]  # fmt: skip
    if vectors:
        from llmbook.viz.watching import Watch

        with Watch() as watch, _as_for_reading(model, "sdpa"):
            model(**arguments)
        found = [part if part.name == "cross" else replace(part, vectors=watch.vectors(part)) for part in found]
    return found


def _part(name: str, layers: Sequence[Tensor] | None, queries: list[str], keys: list[str]) -> Attention:
    layers = [layer for layer in layers or () if layer is not None]  # a layer without attention has none to show
    if not layers:
        raise ValueError(NO_WEIGHTS)
    return _checked(name, np.concatenate([_array(layer) for layer in layers]), queries, keys)


def _encode(inputs: Any, tokenizer: Any, start: int | None = None) -> Tensor:
    """Return ids ``(1, time)``; a target's text gets the decoder's start token in front."""
    import torch

    if isinstance(inputs, str):
        if tokenizer is None:
            raise ValueError("inputs is a text: pass tokenizer=, or the token ids themselves")
        ids = tokenizer.encode(inputs)
        ids = list(getattr(ids, "ids", ids))
        inputs = ids if start is None else [start, *ids]
    ids = torch.as_tensor(inputs)
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(f"inputs have shape {tuple(ids.shape)} and type {ids.dtype}: pass a text or ids (1, time)")
    if len(ids) != 1:
        raise ValueError(f"inputs is a batch of {len(ids)} sequences; a picture shows one: pass inputs[:1]")
    if not ids.numel():
        raise ValueError("inputs is empty: a picture needs at least one token")
    return ids


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
    if switched:
        parts = {key: getattr(model.config, key)._attn_implementation for key in model.config.sub_configs or ()}
        before = {"": model.config._attn_implementation, **parts}
    try:
        model.eval()
        if switched:
            model.set_attn_implementation(implementation)
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        if switched:
            model.set_attn_implementation(before)
