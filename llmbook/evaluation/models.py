"""A model's folder, opened for evaluation: what kind of model it holds, and what decides its answers (chapter 17)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from llmbook.evaluation.scoring import longest_context
from llmbook.files import without_progress_bars
from llmbook.pretrained import model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ModelKind = Literal["causal", "masked"]


@dataclass(frozen=True)
class Loaded:
    """A model directory, opened.

    Attributes:
        model: of ``transformers``, in float32 and ``eval`` mode.
        tokenizer: the one beside it.
        kind: ``causal`` continues a text, ``masked`` fills gaps.
        about: what the record says of it.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind
    about: dict[str, Any]


def open_folder(folder: str | Path) -> Loaded:
    """Open a directory that ``hub.save`` or ``save_pretrained`` wrote, without a network and without running its code.

    Args:
        folder: or the name of a model that the book ships, see :func:`llmbook.pretrained.model_folder`.

    Raises:
        FileNotFoundError: no such folder, or no configuration, weights (safetensors) or tokenizer in it.
        ValueError: a model of a kind that cannot be evaluated, a damaged file, missing weights, a tokenizer with other
            tokens.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    folder = model_folder(folder)
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} has no *.safetensors: save the model with hub.save or save_pretrained")
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        raise FileNotFoundError(
            f"{folder} has no tokenizer: save it beside the model, hub.save(model, folder, tokenizer) or "
            "tokenizer.save_pretrained(folder)"
        )
    with _one_line(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = _kind(folder, config)
    auto: Any = AutoModelForCausalLM if kind == "causal" else AutoModelForMaskedLM
    with without_progress_bars("transformers"), _one_line(folder):
        model, info = auto.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if info["missing_keys"]:
        raise ValueError(f"{folder} lacks weights, {sorted(info['missing_keys'])[0]} first: save the model anew")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer in {folder} has {len(tokenizer):,} tokens, the model's embedding {rows:,} rows: put the "
            "tokenizer there that the model was trained with"
        )
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer in {folder} has no mask token, and the model fills gaps: save the right one")
    about = {
        "name": folder.resolve().name,
        "sha256": hash_model(folder),
        "type": config.model_type,
        "kind": kind,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": len(tokenizer),
        "context": longest_context(model),
    }
    return Loaded(model.eval(), tokenizer, kind, about)


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Turn whatever a broken file makes of a library into one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the model in {folder} does not load ({type(error).__name__}: {reason})") from error


def _kind(folder: Path, config: Any) -> ModelKind:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = getattr(config, "architectures", None) or []
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{folder} holds an encoder-decoder ({config.model_type}): none of the benchmarks applies to it, since it "
            "neither continues a text nor fills single gaps; evaluate a causal or a masked language model"
        )
    if any(name.endswith("ForMaskedLM") for name in names):
        return "masked"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise ValueError(
        f"{folder} holds a {config.model_type} ({', '.join(names) or 'no architecture named'}): the benchmarks take a "
        "causal language model (...ForCausalLM), or one that fills gaps (...ForMaskedLM)"
    )


def hash_model(folder: Path) -> str:
    """Return the SHA-256 of all that decides a model's answers: configuration, weights, tokenizer; names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".model", ".txt") and path.is_file():
            digest.update(f"{path.name}:{path.stat().st_size};".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
