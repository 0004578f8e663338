"""Hugging Face's format: the book's models as Llama, BERT and T5 and back, saved as safetensors (chapter 5).

What :func:`save` writes is opened by ``AutoModelForCausalLM``, ``AutoModelForMaskedLM`` or ``AutoModelForSeq2SeqLM``
``.from_pretrained(folder)``, and so by every tool that stands on them. :func:`pretrained` opens the book's models and
the real ones (:mod:`llmbook.pretrained.real`).
"""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from llmbook.files import without_progress_bars
from llmbook.pretrained import FOLDER, model_folder, real
from llmbook.sentences import SentenceEncoder
from llmbook.tokenization import load_tokenizer
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, Stack, TransformerConfig, plain_state, unwrapped

Model = Decoder | Encoder | EncoderDecoder

# Our name of a module, and Hugging Face's. "N" stands for the number of a layer.
_LLAMA = {
    "embeddings": "model.embed_tokens",
    "stack.blocks.N.attention.q_proj": "model.layers.N.self_attn.q_proj",
    "stack.blocks.N.attention.k_proj": "model.layers.N.self_attn.k_proj",
    "stack.blocks.N.attention.v_proj": "model.layers.N.self_attn.v_proj",
    "stack.blocks.N.attention.o_proj": "model.layers.N.self_attn.o_proj",
    "stack.blocks.N.attention_norm": "model.layers.N.input_layernorm",
    "stack.blocks.N.feed_forward.gate_proj": "model.layers.N.mlp.gate_proj",
    "stack.blocks.N.feed_forward.up_proj": "model.layers.N.mlp.up_proj",
    "stack.blocks.N.feed_forward.down_proj": "model.layers.N.mlp.down_proj",
    "stack.blocks.N.feed_forward_norm": "model.layers.N.post_attention_layernorm",
    "stack.final_norm": "model.norm",
    "lm_head": "lm_head",
}
_BERT = {
    "embeddings": "bert.embeddings.word_embeddings",
    "type_embeddings": "bert.embeddings.token_type_embeddings",
    "stack.positions": "bert.embeddings.position_embeddings",
    "stack.embedding_norm": "bert.embeddings.LayerNorm",
    "stack.blocks.N.attention.q_proj": "bert.encoder.layer.N.attention.self.query",
    "stack.blocks.N.attention.k_proj": "bert.encoder.layer.N.attention.self.key",
    "stack.blocks.N.attention.v_proj": "bert.encoder.layer.N.attention.self.value",
    "stack.blocks.N.attention.o_proj": "bert.encoder.layer.N.attention.output.dense",
    "stack.blocks.N.attention_norm": "bert.encoder.layer.N.attention.output.LayerNorm",
    "stack.blocks.N.feed_forward.up_proj": "bert.encoder.layer.N.intermediate.dense",
    "stack.blocks.N.feed_forward.down_proj": "bert.encoder.layer.N.output.dense",
    "stack.blocks.N.feed_forward_norm": "bert.encoder.layer.N.output.LayerNorm",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "lm_head": "cls.predictions.decoder",
}
_T5 = {
    "embeddings": "shared",
    "lm_head": "lm_head",
    **{
        f"{stack}.{ours}": f"{stack}.{theirs}"
        for stack in ("encoder", "decoder")
        for ours, theirs in {
            "relative_bias.table": "block.0.layer.0.SelfAttention.relative_attention_bias",
            "blocks.N.attention.q_proj": "block.N.layer.0.SelfAttention.q",
            "blocks.N.attention.k_proj": "block.N.layer.0.SelfAttention.k",
            "blocks.N.attention.v_proj": "block.N.layer.0.SelfAttention.v",
            "blocks.N.attention.o_proj": "block.N.layer.0.SelfAttention.o",
            "blocks.N.attention_norm": "block.N.layer.0.layer_norm",
            "blocks.N.cross_attention.q_proj": "block.N.layer.1.EncDecAttention.q",
            "blocks.N.cross_attention.k_proj": "block.N.layer.1.EncDecAttention.k",
            "blocks.N.cross_attention.v_proj": "block.N.layer.1.EncDecAttention.v",
            "blocks.N.cross_attention.o_proj": "block.N.layer.1.EncDecAttention.o",
            "blocks.N.cross_norm": "block.N.layer.1.layer_norm",
            "blocks.N.feed_forward_norm": f"block.N.layer.{1 if stack == 'encoder' else 2}.layer_norm",
            "final_norm": "final_layer_norm",
        }.items()
    },
}


def _t5_feed_forward(gated: bool) -> dict[str, str]:
    """Return the names of T5's feed-forward layers, which a gate changes."""
    names = (
        {"up_proj": "wi_1", "gate_proj": "wi_0", "down_proj": "wo"} if gated else {"up_proj": "wi", "down_proj": "wo"}
    )
    return {
        f"{stack}.blocks.N.feed_forward.{ours}": f"{stack}.block.N.layer.{place}.DenseReluDense.{theirs}"
        for stack, place in (("encoder", 1), ("decoder", 2))
        for ours, theirs in names.items()
    }


def module_names(config: TransformerConfig, kind: type[nn.Module]) -> dict[str, str]:
    """Return Hugging Face's name for each module of our model, layers numbered."""
    if kind is EncoderDecoder:
        names = _T5 | _t5_feed_forward(config.activation == "geglu")
    else:
        names = _LLAMA if kind is Decoder else _BERT
    return {
        ours.replace(".N.", f".{layer}."): theirs.replace(".N.", f".{layer}.")
        for layer in range(config.num_layers)
        for ours, theirs in names.items()
    }


#: Hugging Face's second names of one tensor.
ALIASES = {
    "cls.predictions.bias": "cls.predictions.decoder.bias",
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
}


def _translate(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Rename the entries of a state dict; raise for one of a module that ``names`` does not know."""
    renamed = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if module not in names:
            raise ValueError(f"{name} has no place in the other model: its blocks have another shape")
        renamed[f"{names[module]}.{leaf}"] = tensor
    return renamed


def _refuse_difference(config: TransformerConfig, wanted: dict[str, Any], family: str) -> None:
    """Raise where a model is not of the shape that Hugging Face's class computes."""
    different = [
        f"{name}={getattr(config, name)!r} (it takes {value!r})"
        for name, value in wanted.items()
        if getattr(config, name) not in (value if isinstance(value, tuple) else (value,))
    ]
    if different:
        raise ValueError(f"this model is no {family}: {', '.join(different)}; change its TransformerConfig")


def _hf_config(model: Model) -> Any:
    config = model.config
    if isinstance(model, Decoder):
        wanted = {"position": "rope", "norm": "rms", "norm_first": True, "activation": "swiglu", "bias": False,
                  "embedding_norm": False, "scale_attention": True}  # fmt: skip
        _refuse_difference(config, wanted, "Llama")
        return LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.d_model, intermediate_size=config.d_ff,
            num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_key_value_heads, head_dim=config.d_head,
            rms_norm_eps=config.norm_eps, max_position_embeddings=config.max_length,
            tie_word_embeddings=config.tie_embeddings, rope_parameters={"rope_type": "default",
            "rope_theta": config.rope_base}, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
    if isinstance(model, Encoder):
        wanted = {"position": "learned", "norm": "layer", "norm_first": False, "activation": "gelu", "bias": True,
                  "embedding_norm": True, "scale_attention": True, "num_key_value_heads": config.num_heads,
                  "d_head": config.d_model // config.num_heads, "tie_embeddings": True}  # fmt: skip
        _refuse_difference(config, wanted, "BERT")
        if not config.type_vocab_size:
            raise ValueError("this model is no BERT: type_vocab_size=0 (it takes 1 or more); change its config")
        return BertConfig(
            vocab_size=config.vocab_size, hidden_size=config.d_model, intermediate_size=config.d_ff,
            num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
            max_position_embeddings=config.max_length, type_vocab_size=config.type_vocab_size,
            layer_norm_eps=config.norm_eps, hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=0.0, pad_token_id=None,
        )  # fmt: skip
    wanted = {"position": "t5", "norm": "rms", "norm_first": True, "activation": ("relu", "geglu"), "bias": False,
              "embedding_norm": False, "scale_attention": False, "num_key_value_heads": config.num_heads,
              "tie_embeddings": True}  # fmt: skip
    _refuse_difference(config, wanted, "T5")
    special: dict[str, Any] = {
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": None,
        "decoder_start_token_id": 0,
    }
    return T5Config(
        vocab_size=config.vocab_size, d_model=config.d_model, d_kv=config.d_head, d_ff=config.d_ff,
        num_layers=config.num_layers, num_decoder_layers=config.num_layers, num_heads=config.num_heads,
        layer_norm_epsilon=config.norm_eps,
        dropout_rate=config.dropout, feed_forward_proj="relu" if config.activation == "relu" else "gated-gelu",
        **special,
    )  # fmt: skip


def to_hf(model: Model) -> PreTrainedModel:
    """Return the same model as Hugging Face's ``LlamaForCausalLM``, ``BertForMaskedLM`` or ``T5For...Generation``.

    The weights are copied, in their precision: training the one leaves the other alone. Ids of special tokens belong to
    the tokenizer and are left unset (but for T5's padding and start token, 0). Both compute the same logits in ``eval``
    mode; while training, dropout falls in different places (Llama has none).

    Raises:
        ValueError: the model has a shape that those classes do not compute; the message names each difference. Or it
            has LoRA or adapters, see :func:`llmbook.transformer.plain_state`, or is none of the three.
    """
    model = unwrapped(model)
    kinds = {Decoder: LlamaForCausalLM, Encoder: BertForMaskedLM, EncoderDecoder: T5ForConditionalGeneration}
    if type(model) not in kinds:
        raise ValueError(
            f"{type(model).__name__} is no model of Hugging Face's format: it takes a Decoder, an Encoder or an "
            "EncoderDecoder; of a head pass its backbone"
        )
    config = _hf_config(model)
    weights = plain_state(model)
    with torch.random.fork_rng(devices=[]):  # its own initial weights, overwritten below, cost no random numbers
        theirs = kinds[type(model)](config)
    state = _translate(weights, module_names(model.config, type(model)))
    expected = theirs.state_dict()
    state |= {name: state[alias] for name, alias in ALIASES.items() if name in expected}
    weight = model.embeddings.weight
    theirs = theirs.to(weight.device, weight.dtype)
    theirs.load_state_dict(state)
    return theirs.train(model.training)


def from_hf(hf_model: PreTrainedModel) -> Model:
    """Return the book's model with the weights of a Hugging Face Llama, BERT or T5 (with its language-model head).

    Raises:
        ValueError: another class, or a shape that the book's blocks do not have.
    """
    theirs: Any = hf_model.config
    model: Model
    if isinstance(hf_model, LlamaForCausalLM):
        rope = getattr(theirs, "rope_parameters", None) or {"rope_theta": theirs.rope_theta}
        scaling = rope.get("rope_type", "default")
        _refuse_unlike(theirs, {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"})
        if scaling != "default":
            raise ValueError(f"rope_type={scaling!r}: the book's blocks compute 'default' only")
        model = Decoder(
            TransformerConfig(
                theirs.vocab_size, theirs.hidden_size, theirs.num_hidden_layers, theirs.num_attention_heads,
                theirs.num_key_value_heads, theirs.head_dim, theirs.intermediate_size, theirs.max_position_embeddings,
                norm_eps=theirs.rms_norm_eps, tie_embeddings=theirs.tie_word_embeddings, rope_base=rope["rope_theta"],
            )
        )  # fmt: skip
    elif isinstance(hf_model, BertForMaskedLM):
        model = Encoder(_from_bert(theirs))
    elif isinstance(hf_model, T5ForConditionalGeneration):
        _refuse_unlike(
            theirs,
            {"feed_forward_proj": ("relu", "gated-gelu"), "relative_attention_num_buckets": 32,
             "relative_attention_max_distance": 128, "num_decoder_layers": theirs.num_layers,
             "tie_word_embeddings": True, "scale_decoder_outputs": True},
        )  # fmt: skip
        model = EncoderDecoder(
            TransformerConfig.t5(
                theirs.vocab_size, d_model=theirs.d_model, num_layers=theirs.num_layers, num_heads=theirs.num_heads,
                d_head=theirs.d_kv, d_ff=theirs.d_ff, norm_eps=theirs.layer_norm_epsilon, dropout=theirs.dropout_rate,
                activation="relu" if theirs.feed_forward_proj == "relu" else "geglu",
            )
        )  # fmt: skip
    else:
        raise ValueError(
            f"{type(hf_model).__name__} is none of the classes that the book's blocks compute: "
            "LlamaForCausalLM, BertForMaskedLM, T5ForConditionalGeneration"
        )
    names = {theirs: ours for ours, theirs in module_names(model.config, type(model)).items()}
    state = {name: tensor for name, tensor in hf_model.state_dict().items() if name not in ALIASES}
    model = model.to(hf_model.device, hf_model.dtype)
    model.load_state_dict(_translate(state, names))
    return model.train(hf_model.training)


def _from_bert(theirs: Any) -> TransformerConfig:
    """Return the shape of a Hugging Face BERT."""
    _refuse_unlike(theirs, {"hidden_act": "gelu", "is_decoder": False, "tie_word_embeddings": True})
    return TransformerConfig.bert(
        theirs.vocab_size, d_model=theirs.hidden_size, num_layers=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads, d_ff=theirs.intermediate_size,
        max_length=theirs.max_position_embeddings, type_vocab_size=theirs.type_vocab_size,
        norm_eps=theirs.layer_norm_eps, dropout=theirs.hidden_dropout_prob,
    )  # fmt: skip


def _refuse_unlike(config: Any, wanted: dict[str, Any]) -> None:
    """Raise where a Hugging Face model computes what the book's blocks do not."""
    for name, value in wanted.items():
        allowed = value if isinstance(value, tuple) else (value,)
        given = getattr(config, name, allowed[0])
        if given not in allowed:
            raise ValueError(f"{name}={given!r}: the book's blocks compute {' or '.join(map(repr, allowed))} only")


def save(model: Model, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Path:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, which may exist; return its path.

    The files are written beside the folder and moved when complete: an interrupted save leaves the old ones. Other
    files of the folder (a tokenizer's) stay.

    Args:
        model: any of the three.
        folder: where to write.
        tokenizer: its files are written too, so that ``AutoTokenizer`` opens the folder, and ``config.json`` names its
            tokens for beginning, end and padding (with which T5's decoder begins).

    Raises:
        ValueError: ``folder`` is a file, the model has a shape that :func:`to_hf` refuses, or weights that are NaN or
            infinite, as after a training that diverged; the old files stay.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    broken = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{len(broken)} tensors have NaN or infinite values, {broken[0]} first: this model has diverged, and "
            "nothing was saved; go back to an earlier checkpoint and a smaller learning rate"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        theirs = to_hf(model)
        if tokenizer is not None:
            _name_special_tokens(theirs, tokenizer)
            _save_tokenizer(tokenizer, temporary, getattr(theirs.config, "max_position_embeddings", None))
        with without_progress_bars("transformers"):
            theirs.save_pretrained(temporary)
        folder.mkdir(exist_ok=True)
        for path in temporary.iterdir():
            path.chmod(0o644)  # safetensors makes files that nobody else may read
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(temporary)
    return folder


def _name_special_tokens(theirs: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a tokenizer's special tokens into the settings that ``generate`` reads."""
    if len(tokenizer) != theirs.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {theirs.config.vocab_size}: not of one kind"
        )
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if theirs.config.is_encoder_decoder:
        ids["decoder_start_token_id"] = tokenizer.pad_token_id
    theirs.config.update(ids)
    if theirs.can_generate():
        theirs.generation_config.update(**ids)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, longest: int | None) -> None:
    """Write a tokenizer's files, in the words that older versions of transformers read as well."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    if longest is not None:
        config["model_max_length"] = longest
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")


def pretrained(
    name: str | Path, library: bool = False
) -> tuple[Model | SentenceEncoder | PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a pretrained model, in ``float32`` and ``eval`` mode, and the tokenizer that it was trained with.

    Args:
        name: ``"pydocs-gpt"``, ``"pydocs-bert"`` or ``"pydocs-t5"``, which the book ships; ``"smollm2-135m-instruct"``
            or ``"minilm-l6"``, real models that the first call fetches (:mod:`llmbook.pretrained.real`); or a folder
            that :func:`save` or ``save_pretrained`` wrote with a tokenizer, see
            :func:`llmbook.pretrained.model_folder`.
        library: whether to return the model of ``transformers`` in place of the book's; both compute the same.

    Returns:
        ``(model, tokenizer)``: a decoder, an encoder, an encoder-decoder or a sentence encoder of the book, and a
        tokenizer of ``transformers`` that puts around a text what this kind of model has read around its texts. A
        book's decoder of a real model refuses texts that are longer than those it was trained on.

    Raises:
        FileNotFoundError: there is no such model, or it lies there without weights or tokenizer.
        ModelError: a real model cannot be had, see :func:`llmbook.pretrained.real.fetch`.
        ValueError: as :func:`load`, or a tokenizer that is another model's.
    """
    folder = model_folder(name)
    theirs = _open(folder, AutoModel if _is_sentence_encoder(folder) else None)
    if library or isinstance(theirs, BertModel):
        theirs = theirs.float()  # the book's own are made of the 16-bit weights: two copies of 32 bits need a GiB
    tokenizer: Any
    if folder.parent == FOLDER:
        family = {LlamaForCausalLM: "gpt", BertForMaskedLM: "bert", T5ForConditionalGeneration: "t5"}
        tokenizer = load_tokenizer(family[type(theirs)])
        return (theirs if library else from_hf(theirs).float()), tokenizer
    tokenizer = _open_tokenizer(folder, theirs.config.vocab_size)
    if library:
        return theirs, tokenizer
    if isinstance(theirs, BertModel):
        return _sentence_encoder(theirs, tokenizer, folder), tokenizer
    model = from_hf(theirs).float()
    if isinstance(model, Decoder) and str(name) in real.REAL_MODELS:
        model.stack.register_forward_pre_hook(_refuse_longer_texts, with_kwargs=True)
    return model, tokenizer


def _open_tokenizer(folder: Path, rows: int) -> Any:
    """Open the tokenizer beside a model whose table of embeddings has so many rows."""
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json: save the tokenizer beside the model, hub.save(model, folder, tokenizer), "
            "or open the model alone with hub.load"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not 0.95 * rows <= len(tokenizer) <= rows:  # many tables are filled up to a round number
        raise ValueError(
            f"the tokenizer in {folder} has {len(tokenizer):,} tokens, the model's table of embeddings {rows:,} rows: "
            "put the tokenizer there that the model was trained with"
        )
    return tokenizer


def _is_sentence_encoder(folder: Path) -> bool:
    """Tell whether a folder holds a sentence encoder, a BERT without a head; refuse another way of joining vectors."""
    pooling = folder / "1_Pooling" / "config.json"
    if not pooling.is_file():
        return False
    wanted = json.loads(pooling.read_text(encoding="utf-8"))
    if modes := [key for key, value in wanted.items() if value is True and key != "pooling_mode_mean_tokens"]:
        raise ValueError(f"{folder} joins its tokens' vectors by {', '.join(modes)}: the book's class by their mean")
    return True


def _sentence_encoder(theirs: BertModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> SentenceEncoder:
    """Return the book's sentence encoder with the weights of a BERT that has no head."""
    config = _from_bert(theirs.config)
    about = folder / "sentence_bert_config.json"
    longest = json.loads(about.read_text(encoding="utf-8"))["max_seq_length"] if about.is_file() else config.max_length
    model = SentenceEncoder(config, tokenizer, longest)
    names = {other: ours for ours, other in module_names(config, Encoder).items()}
    state = {f"bert.{key}": tensor for key, tensor in theirs.state_dict().items() if not key.startswith("pooler.")}
    model.encoder.load_state_dict(_translate(state, names))
    return model.eval()


def _refuse_longer_texts(stack: Stack, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Raise where a stack is to compute positions that its model has not been trained on (a forward pre-hook)."""
    call = inspect.signature(stack.forward).bind(*given, **named).arguments
    past = call.get("past_key_values")
    length = call["embeddings"].shape[1] + (past[0][0].shape[2] if past else 0)
    if length > stack.config.max_length:
        raise ValueError(
            f"{length:,} tokens, but the model was trained on {stack.config.max_length:,} positions and computes "
            "nothing sensible beyond: shorten the text, or score it in windows (llmbook.evaluation.likelihood)"
        )


def load(folder: str | Path) -> Model:
    """Return the book's model, in ``eval`` mode, from a local folder that :func:`save` or ``save_pretrained`` wrote.

    Weights keep the precision of the file: call ``.float()`` on a model that is stored in half precision before
    computing on a CPU, or open it with :func:`pretrained`.

    Args:
        folder: see :func:`llmbook.pretrained.model_folder`.

    Raises:
        FileNotFoundError: there is no such folder, or no ``config.json`` or weights in it.
        ValueError: a model of another shape than the book's, see :func:`from_hf`; a damaged file; weights that are
            missing, which ``from_pretrained`` would draw at random.
    """
    folder = model_folder(folder)
    if _is_sentence_encoder(folder):
        raise ValueError(f"{folder} holds a sentence encoder, which has no logits: open it with hub.pretrained")
    return from_hf(_open(folder))


def _open(folder: Path, kind: Any = None) -> PreTrainedModel:
    """Open a folder with ``transformers``, by default with the class that has a language model's head."""
    if not any(folder.glob("model*.safetensors")):  # a large model's weights are in several files
        raise FileNotFoundError(f"{folder} has no model*.safetensors: save the model anew with hub.save")
    config = AutoConfig.from_pretrained(folder)
    kinds = {"llama": AutoModelForCausalLM, "bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}
    if config.model_type not in kinds:
        raise ValueError(f"{folder} holds a {config.model_type}: the book's blocks compute {', '.join(kinds)}")
    options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "local_files_only": True}
    with without_progress_bars("transformers"):
        try:
            theirs, info = (kind or kinds[config.model_type]).from_pretrained(folder, **options)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"the weights in {folder} do not fit its config.json, or the file is damaged") from error
    if info["missing_keys"]:
        raise ValueError(f"{folder} lacks weights, {sorted(info['missing_keys'])[0]} first: save the model anew")
    return theirs
