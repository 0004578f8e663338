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
#: What a model's folder holds beside weights (``*.safetensors``) and SentencePiece models (``*.model``) that decides
#: its answers: configurations, and the files of tokenizers. All else, such as results or a trainer's notes, does not.
MODEL_FILES = frozenset({
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "entity_vocab.json",
    "emoji.json", "dict.txt", "byte_maps.json", "normalizer.json", "word_shape.json", "word_pronunciation.json",
    "target_vocab.json", "vocab-src.json", "vocab-tgt.json", "prophetnet.tokenizer", "bpe.codes", "source.spm",
    "target.spm",
})  # fmt: skip
TRIAL = 48  # tokens of the text on which a model is tried before it is judged
TOLERANCE = 1e-3  # of the spread of its logits, by which they may depend on what stands beside them in a batch


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
        ValueError: a model of a kind that cannot be evaluated, a damaged file, missing weights, weights or logits that
            are no numbers, a tokenizer with other tokens; a model for continuing texts that looks ahead.
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
    rows, most = _embedding_rows(model), max((*tokenizer.get_vocab().values(), len(tokenizer) - 1)) + 1
    if rows is not None and most > rows:
        raise ValueError(
            f"the tokenizer in {folder} has {most:,} tokens, the model's embedding {rows:,} rows: put the "
            "tokenizer there that the model was trained with"
        )
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer in {folder} has no mask token, and the model fills gaps: save the right one")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(
                f"the weights in {folder} are no numbers (NaN or infinite), {name} first: the training diverged or the "
                "file is damaged, so there is nothing to score; take an earlier checkpoint"
            )
    _try(folder, model.eval(), tokenizer, kind)
    about = {
        "name": folder.resolve().name,
        "sha256": hash_model(folder),
        "type": config.model_type,
        "kind": kind,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": len(tokenizer),
        "context": longest_context(model),
    }
    return Loaded(model, tokenizer, kind, about)


def _embedding_rows(model: Any) -> int | None:
    """Return how many tokens a model has embeddings of, or ``None`` where it does not say."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):  # such as CTRL with several parts, or bytes that are hashed
        return None


@torch.no_grad()
def _try(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase, kind: ModelKind) -> None:
    """Refuse a model that gives no logits of a short text, or a causal one whose logits depend on what comes after."""
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in sorted(tokenizer.get_vocab().values()) if token not in special][:4096]
    size = min(TRIAL, longest_context(model) // 2)
    if not ordinary or size < 1:
        raise ValueError(f"{folder}: {len(ordinary)} ordinary tokens, {2 * size} tokens of context: nothing to be read")
    drawn = torch.randint(len(ordinary), (2 * size,), generator=torch.Generator().manual_seed(0))  # (2 * size,)
    row = torch.tensor(ordinary)[drawn]  # (2 * size,)
    pair = torch.stack([row, torch.cat([row[:size], torch.zeros_like(row[size:])])])  # (2, 2 * size)
    try:
        alone = model(row[None, :size]).logits  # (1, size, vocab)
        again = model(pair if kind == "causal" else row[None, :size]).logits  # (2, 2 * size, vocab), or as before
    except Exception as error:  # of whatever kind its code raises for want of images, sounds, a language ...
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the model in {folder} does not work on token ids alone ({type(error).__name__}: {reason}), and the "
            "benchmarks give it nothing else: evaluate a model that reads text"
        ) from error
    most = max(tokenizer.get_vocab().values()) + 1
    if alone.ndim != 3 or alone.shape[1] != size or alone.shape[2] < most:
        raise ValueError(
            f"the model in {folder} gives logits {tuple(alone.shape)} for {size} tokens of a text; (1, {size}, {most} "
            "or more) is needed, a logit for each token at each place"
        )
    if alone.isnan().any() or again.isnan().any():
        raise ValueError(
            f"the model in {folder} gives NaN in place of logits: its numbers overflow in float32, or its "
            "configuration is another one's; there is nothing to score"
        )
    difference = (again[:, :size] - alone).abs().nan_to_num(0.0).max()  # of two infinite ones: none
    if difference > TOLERANCE * alone[alone.isfinite()].std():
        found = f"the model in {folder} ({type(model).__name__})"
        if kind == "masked":
            raise ValueError(
                f"{found} gives other logits for the same text a second time (by {difference:.2g}): it draws numbers "
                "where it should not, as Reformer does without a hash_seed; set it in config.json"
            )
        raise ValueError(
            f"{found} does not read a text from left to right: its logits depend on what comes later or on the rest of "
            f"the batch (by {difference:.2g}), so they give no probability of a continuation; evaluate a causal model, "
            "or an encoder that was saved with its head for gaps (...ForMaskedLM)"
        )


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
    """Return the SHA-256 of all that decides a model's answers: configuration, weights, tokenizer; names and bytes.

    Other files in its folder, such as the results of an evaluation, change nothing; see :data:`MODEL_FILES`.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if (path.suffix in (".safetensors", ".model") or path.name in MODEL_FILES) and path.is_file():
            digest.update(f"{path.name}:{path.stat().st_size};".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
