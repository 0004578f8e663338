"""A model as the page fetches it: the bytes of ``model.safetensors``, packed without loss, and what the page must know.

A file is ``LMX1``, the length of the facts, the facts (JSON: shape, names of parameters, tokenizer), then the weights.
Half-precision weights hardly compress, since the bits after the binary point are as good as random; only the exponents
are alike. So each word is rotated by one bit, which puts the exponent into a byte of its own, the first bytes of all
words are stored together, then the second bytes, and each such plane is compressed for itself. The browser undoes it
and compares the SHA-256 of the result with that of the file the chapter wrote.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save
from torch import Tensor, nn

from llmbook import tokenization
from llmbook.transformer import Decoder, Encoder, count_parameters, plain_state, unwrapped

MAGIC = b"LMX1"
TYPES = {"BF16": 2, "F16": 2, "F32": 4}  # bytes of a number
_KINDS: dict[type[nn.Module], str] = {Decoder: "decoder", Encoder: "encoder"}


@dataclass(frozen=True)
class Packed:
    """A model ready for the page: the file, the SHA-256 of its weights and what a line under the explorer says."""

    file: bytes
    sha256: str
    parameters: int
    kind: str


def pack_model(model: Decoder | Encoder, tokenizer: Any = None, symbols: Sequence[str] | None = None) -> Packed:
    """Pack a model of :mod:`llmbook.transformer` in its present precision, with our names of its parameters.

    Args:
        model: any shape of decoder or encoder but T5's relative positions.
        tokenizer: of ``transformers`` or ``tokenizers``, a byte-level BPE as the book's.
        symbols: in place of a tokenizer, the name of each token; a first one of several characters starts every text.

    Raises:
        ValueError: what the page cannot compute, or not exactly one of ``tokenizer`` and ``symbols``.
    """
    model = unwrapped(model)
    kind = _kind(model)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in plain_state(model).items()}
    if model.config.tie_embeddings:
        del state["lm_head.weight"]  # the embeddings
    names = {name: name for name in state}
    facts = _facts(model, kind, names, tokenizer, symbols)
    return _pack(save(state), facts)


def pack_folder(folder: str | Path, tokenizer: Any = None, model: Any = None) -> Packed:
    """Pack the weights of a folder that :func:`llmbook.hub.save` wrote, bit by bit as they are.

    Args:
        folder: with ``config.json`` and ``model.safetensors``, or with several such files and their index, as
            ``save_pretrained`` writes a large model.
        tokenizer: of ``transformers`` or ``tokenizers``, a byte-level BPE as the book's.
        model: what :func:`llmbook.hub.load` makes of the folder, where it is at hand; loaded by default.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a model that the page cannot compute.
    """
    from llmbook import hub  # imports transformers' models: memory that the pictures do not need

    folder = Path(folder)
    model = hub.load(folder) if model is None else model
    kind = _kind(model)
    assert isinstance(model, Decoder | Encoder)
    weights = _weights(folder)
    stored = set(_header(weights))
    names = {}
    theirs_of = hub.module_names(model.config, type(model))
    aliases = {alias: name for name, alias in hub.ALIASES.items()}
    for ours in model.state_dict():
        module, _, leaf = ours.rpartition(".")
        theirs = f"{theirs_of[module]}.{leaf}"
        found = theirs if theirs in stored else aliases.get(theirs)
        if found in stored:
            names[ours] = str(found)
        elif not (ours == "lm_head.weight" and model.config.tie_embeddings):
            raise ValueError(f"{folder} lacks {theirs}: save the model anew with hub.save")
    if model.config.tie_embeddings:
        names.pop("lm_head.weight", None)
    return _pack(weights, _facts(model, kind, names, tokenizer, None))


def _weights(folder: Path) -> bytes:
    """Return the weights of a folder as one ``safetensors`` file, bit by bit."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return whole.read_bytes()
    if not index.is_file():
        raise FileNotFoundError(f"{folder} has no model.safetensors and no index of several such files: save the model "
                                "anew with hub.save")  # fmt: skip
    place = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(place.values())):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} lacks {name}, which {index.name} names: copy all files of the model")
        tensors |= load_file(folder / name)
    return save({name: tensors[name] for name in sorted(place)}, {"format": "pt"})


def _kind(model: Any) -> str:
    if type(model) not in _KINDS:
        raise ValueError(f"the page computes llmbook.transformer's Decoder and Encoder, not {type(model).__name__}")
    if model.config.position == "t5":
        raise ValueError("position='t5': the page computes rope, learned, sinusoidal, alibi or none")
    return _KINDS[type(model)]


def _facts(
    model: Decoder | Encoder, kind: str, names: dict[str, str], tokenizer: Any, symbols: Sequence[str] | None
) -> dict[str, Any]:
    if (tokenizer is None) == (symbols is None):
        raise ValueError("the page needs a tokenizer or the names of the symbols: give exactly one of the two")
    size = model.config.vocab_size
    written = symbol_facts(symbols) if symbols is not None else tokenizer_facts(tokenizer)
    tokens = len(written["symbols" if symbols is not None else "vocab"])
    if tokens != size:
        raise ValueError(f"the model has {size} tokens, the tokenizer or the list of symbols {tokens}: they must agree")
    return {
        "kind": kind,
        "config": asdict(model.config),
        "names": names,
        "parameters": count_parameters(model),
        "tokenizer": written,
    }


def symbol_facts(symbols: Sequence[str]) -> dict[str, Any]:
    """Describe a vocabulary of symbols."""
    if len(set(symbols)) != len(symbols) or not all(symbols):
        raise ValueError("symbols must be different and not empty")
    return {"type": "symbols", "symbols": list(symbols), "start": [0] if len(symbols[0]) > 1 else []}


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """Describe a byte-level BPE, with what it puts around a text.

    Raises:
        ValueError: a tokenizer of another kind, whose ids the page would not get right.
    """
    backend = tokenization.backend(tokenizer)
    stored = json.loads(backend.to_str())
    model, before = stored["model"], stored.get("pre_tokenizer") or {}
    steps = [(step["type"], step.get("individual_digits"), step.get("use_regex"), step.get("add_prefix_space"))
             for step in before.get("pretokenizers", [])]  # fmt: skip
    usual = [("Digits", True, None, None), ("ByteLevel", None, True, False)]
    odd = [name for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
           if model.get(name)]  # fmt: skip
    if model["type"] != "BPE" or steps != usual or stored.get("normalizer") or odd:
        raise ValueError(
            "the page reads a byte-level BPE made by llmbook.tokenization.train_for_models (single digits, GPT-2's "
            f"pattern, no normaliser), not a {model['type']} with {before.get('type')}: pass symbols= for other tokens"
        )
    vocab = [backend.id_to_token(index) for index in range(backend.get_vocab_size())]
    bare = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a").ids
    at = whole.index(bare[0])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    added = [
        {"id": token["id"], "content": token["content"], "lstrip": token["lstrip"]} for token in stored["added_tokens"]
    ]
    return {
        "type": "bytes",
        "vocab": vocab,
        "merges": merges,
        "added": added,
        "start": whole[:at],
        "end": whole[at + len(bare) :],
        "mask": backend.token_to_id("<mask>"),
    }


def _header(weights: bytes) -> dict[str, dict[str, Any]]:
    """Return what a ``safetensors`` file says of each of its tensors, by name: type, shape and place."""
    (length,) = struct.unpack("<Q", weights[:8])
    return {name: entry for name, entry in json.loads(weights[8 : 8 + length]).items() if name != "__metadata__"}


def _pack(weights: bytes, facts: dict[str, Any]) -> Packed:
    """Put facts and weights together."""
    (length,) = struct.unpack("<Q", weights[:8])
    types = {entry["dtype"] for entry in _header(weights).values()}
    if not types <= set(TYPES):
        raise ValueError(f"weights of type {', '.join(sorted(types - set(TYPES)))}: the page reads {', '.join(TYPES)}")
    sizes = {TYPES[name] for name in types}
    word = sizes.pop() if len(sizes) == 1 else 1
    parts = [_compress(weights[: 8 + length]), *map(_compress, _planes(weights[8 + length :], word))]
    sha256 = hashlib.sha256(weights).hexdigest()
    facts |= {"sha256": sha256, "bytes": len(weights), "parts": [len(part) for part in parts]}
    head = gzip.compress(json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode(), 9, mtime=0)
    file = MAGIC + struct.pack("<I", len(head)) + head + b"".join(parts)
    return Packed(file, sha256, facts["parameters"], facts["kind"])


def _planes(data: bytes, word: int) -> list[bytes]:
    """Rotate words of ``word`` bytes by one bit to the left; return all their first bytes, all second bytes, ..."""
    if word == 1:
        return [data]
    words = np.frombuffer(data, dtype=f"<u{word}")
    turned = (words << 1) | (words >> (8 * word - 1))  # the sign leaves the exponent's byte
    bytes_of = turned.astype(f"<u{word}").view(np.uint8).reshape(-1, word)  # (words, word)
    return [bytes_of[:, place].tobytes() for place in range(word)]


def _compress(data: bytes) -> bytes:
    """Return the smaller of two gzip streams: with and without the search for repetitions."""
    tried = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        stream = zlib.compressobj(9, zlib.DEFLATED, 31, 9, strategy)
        tried.append(stream.compress(data) + stream.flush())
    return min(tried, key=len)
