"""Decoder, encoder and encoder-decoder, assembled from the same blocks (chapter 5).

With the defaults of :class:`TransformerConfig` a decoder is a Llama; ``TransformerConfig.bert()`` and ``.t5()`` give
the other two shapes for which ``llmbook.hub`` knows the way to Hugging Face's classes. Any other combination (a
post-norm decoder, an encoder with ALiBi, ...) is as good a model, for experiments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmbook.attention import MultiHeadAttention, causal_mask, padding_mask
from llmbook.positions import RelativePositionBias, alibi_bias, rotary, sinusoidal

#: Keys and values of all tokens so far, one pair ``(batch, kv heads, time, d_head)`` for each layer.
Cache = list[tuple[Tensor, Tensor]]

_CHOICES = {
    "position": ("rope", "learned", "sinusoidal", "alibi", "t5", "none"),
    "norm": ("rms", "layer"),
    "activation": ("swiglu", "geglu", "gelu", "relu"),
}


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a model.

    Attributes:
        vocab_size: number of tokens.
        d_model: features of a token.
        num_layers: number of blocks (of each stack in an encoder-decoder).
        num_heads: heads of queries.
        num_key_value_heads: heads of keys and values; fewer than ``num_heads`` is grouped-query attention.
        d_head: features of a head, by default ``d_model / num_heads``.
        d_ff: hidden features of the feed-forward network, by default ``4 * d_model``.
        max_length: longest sequence, for learned positions.
        position: ``rope``, ``learned``, ``sinusoidal``, ``alibi``, ``t5`` or ``none``.
        norm: ``rms`` or ``layer``.
        norm_first: normalise before each sublayer (pre-norm) or after adding it (post-norm).
        norm_eps: added to the mean square.
        embedding_norm: normalise the embeddings, as BERT does.
        activation: of the feed-forward network: ``swiglu``, ``geglu`` (both gated), ``gelu`` or ``relu``.
        bias: whether linear layers have one.
        tie_embeddings: use the input embeddings as output weights.
        type_vocab_size: kinds of segments (BERT has 2); 0 for none.
        scale_attention: divide the scores by ``sqrt(d_head)``; T5 does not.
        dropout: of embeddings and sublayers' outputs, while training.
        rope_base: see :func:`llmbook.positions.rotary`.
    """

    vocab_size: int
    d_model: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_key_value_heads: int = None  # type: ignore[assignment]  # filled in by __post_init__, as the next two
    d_head: int = None  # type: ignore[assignment]
    d_ff: int = None  # type: ignore[assignment]
    max_length: int = 512
    position: str = "rope"
    norm: str = "rms"
    norm_first: bool = True
    norm_eps: float = 1e-6
    embedding_norm: bool = False
    activation: str = "swiglu"
    bias: bool = False
    tie_embeddings: bool = True
    type_vocab_size: int = 0
    scale_attention: bool = True
    dropout: float = 0.0
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        """Refuse what no model can be made of."""
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: it takes {', '.join(allowed)}")
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "max_length"):
            self._check_whole(name, 1)
        self._check_whole("type_vocab_size", 0)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: it takes a probability from 0 up to, not including, 1")
        for name in ("norm_eps", "rope_base"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: it takes a number above 0")
        if self.d_head is None and self.d_model % self.num_heads:
            raise ValueError(
                f"d_model={self.d_model} is no multiple of num_heads={self.num_heads}: change one, or give d_head"
            )
        defaults = {
            "num_key_value_heads": self.num_heads,
            "d_head": self.d_model // self.num_heads,
            "d_ff": 4 * self.d_model,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # the class is frozen
            self._check_whole(name, 1)
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is no multiple of num_key_value_heads={self.num_key_value_heads}: "
                "change one"
            )
        turned = {"rope": "d_head", "sinusoidal": "d_model"}.get(self.position)
        if turned is not None and getattr(self, turned) % 2:
            raise ValueError(
                f"{turned}={getattr(self, turned)} is odd, and position={self.position!r} turns pairs of features: "
                "make it even, or choose other positions"
            )

    def _check_whole(self, name: str, smallest: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < smallest:
            raise ValueError(f"{name}={value!r}: it takes a whole number from {smallest} up")

    @classmethod
    def bert(cls, vocab_size: int, **changes: Any) -> TransformerConfig:
        """Return BERT's shape (Devlin et al. 2019, arXiv:1810.04805): post-norm, GELU, learned positions."""
        shape: dict[str, Any] = {
            "position": "learned", "norm": "layer", "norm_first": False, "norm_eps": 1e-12, "activation": "gelu",
            "embedding_norm": True, "bias": True, "type_vocab_size": 2,
        }  # fmt: skip
        return cls(vocab_size, **(shape | changes))

    @classmethod
    def t5(cls, vocab_size: int, **changes: Any) -> TransformerConfig:
        """Return T5's shape (Raffel et al. 2020, arXiv:1910.10683): pre-norm, ReLU, bucketed relative positions."""
        shape: dict[str, Any] = {"position": "t5", "activation": "relu", "scale_attention": False}
        return cls(vocab_size, **(shape | changes))


@dataclass
class Output:
    """What a model returns; the names are Hugging Face's. Fields that were not asked for are ``None``.

    Attributes:
        logits: ``(batch, time, vocab)``.
        hidden_states: the embeddings and each block's output, ``(batch, time, d_model)``, in an encoder-decoder the
            decoder's; the last one before the final norm.
        attentions: weights of each layer, ``(batch, heads, query, key)``.
        past_key_values: the cache, to be passed on with the next tokens.
        encoder_last_hidden_state: ``(batch, source, d_model)``.
        encoder_attentions: weights of each layer of the encoder.
        decoder_attentions: weights of each layer of the decoder among its own tokens.
        cross_attentions: weights of each layer of the decoder over the encoder's tokens.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    past_key_values: Cache | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


def make_norm(config: TransformerConfig) -> nn.Module:
    """Return the configured normalisation of ``d_model`` features."""
    if config.norm == "layer":
        return nn.LayerNorm(config.d_model, config.norm_eps)
    return nn.RMSNorm(config.d_model, config.norm_eps)


class FeedForward(nn.Module):
    """Two linear layers with a nonlinearity, applied to each token alone; gated ones have a third layer.

    The gate is that of Shazeer 2020 (arXiv:2002.05202): ``down(activation(gate(x)) * up(x))``.
    """

    def __init__(self, config: TransformerConfig) -> None:
        """Make the layers."""
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, config.d_ff, config.bias)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, config.bias)
        activations: dict[str, Callable[[Tensor], Tensor]] = {
            "swiglu": F.silu,
            "geglu": nn.GELU("tanh"),
            "gelu": F.gelu,
            "relu": F.relu,
        }
        self.activation = activations[config.activation]
        gated = config.activation in ("swiglu", "geglu")
        self.gate_proj = nn.Linear(config.d_model, config.d_ff, config.bias) if gated else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform ``(batch, time, d_model)``."""
        up = self.up_proj(hidden)  # (batch, time, d_ff)
        inner = self.activation(up) if self.gate_proj is None else self.activation(self.gate_proj(hidden)) * up
        return self.down_proj(inner)  # (batch, time, d_model)


class Block(nn.Module):
    """Self-attention, cross-attention where there is an encoder, feed-forward network: each added to the residual."""

    def __init__(self, config: TransformerConfig, cross: bool = False) -> None:
        """Make the sublayers, and a norm for each."""
        super().__init__()
        self.norm_first = config.norm_first
        scale = None if config.scale_attention else 1.0
        shape = config.d_model, config.num_heads, config.num_key_value_heads, config.d_head, config.bias, scale
        self.attention = MultiHeadAttention(*shape)
        self.attention_norm = make_norm(config)
        self.cross_attention = MultiHeadAttention(*shape) if cross else None
        self.cross_norm = make_norm(config) if cross else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = make_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def before(self, hidden: Tensor, norm: nn.Module) -> Tensor:
        """Return what a sublayer reads of ``(batch, time, d_model)``: with pre-norm it is normalised."""
        return norm(hidden) if self.norm_first else hidden

    def after(self, hidden: Tensor, update: Tensor, norm: nn.Module) -> Tensor:
        """Return ``(batch, time, d_model)`` with a sublayer's update added; with post-norm the sum is normalised."""
        hidden = hidden + self.dropout(update)
        return hidden if self.norm_first else norm(hidden)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: tuple[Tensor, Tensor] | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        output_attentions: bool = False,
        is_causal: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None, Tensor | None]:
        """Return the new ``(batch, time, d_model)``, keys and values, and the weights of self- and cross-attention."""
        read = self.before(hidden, self.attention_norm)
        update, weights, cached = self.attention(
            read, None, attention_mask, rotary, cache, output_attentions, is_causal
        )
        hidden = self.after(hidden, update, self.attention_norm)  # (batch, time, d_model)
        cross_weights = None
        if self.cross_attention is not None and self.cross_norm is not None:
            read = self.before(hidden, self.cross_norm)
            update, cross_weights, _ = self.cross_attention(
                read, context, context_mask, output_attentions=output_attentions
            )
            hidden = self.after(hidden, update, self.cross_norm)  # (batch, time, d_model)
        update = self.feed_forward(self.before(hidden, self.feed_forward_norm))
        return self.after(hidden, update, self.feed_forward_norm), cached, weights, cross_weights


@dataclass
class StackOutput:
    """What a stack returns: see :class:`Output`."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] | None
    cross_attentions: tuple[Tensor, ...] | None
    past_key_values: Cache


def _takes_no_mask(device: torch.device) -> bool:
    """Tell whether torch's fastest kernel there takes no mask, and hides later tokens when it is asked to."""
    return device.type != "cpu"


class Stack(nn.Module):
    """Positions, masks and the blocks: all of a model between its embeddings and its head."""

    def __init__(self, config: TransformerConfig, causal: bool, cross: bool = False) -> None:
        """Make the blocks; ``causal`` hides later tokens, ``cross`` adds attention to an encoder."""
        super().__init__()
        self.config, self.causal = config, causal
        if config.position == "learned":
            self.positions = nn.Embedding(config.max_length, config.d_model)
        if config.position == "t5":
            self.relative_bias = RelativePositionBias(config.num_heads, bidirectional=not causal)
        self.embedding_norm = make_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, cross) for _ in range(config.num_layers))
        self.final_norm = make_norm(config) if config.norm_first else nn.Identity()

    def add_positions(self, embeddings: Tensor, position_ids: Tensor) -> Tensor:
        """Add position vectors to ``(batch, time, d_model)`` where the model has them."""
        if self.config.position == "learned":
            looks = position_ids.numel() and not torch.compiler.is_compiling()
            if looks and int(position_ids.max()) >= self.config.max_length:
                raise ValueError(
                    f"{int(position_ids.max()) + 1} tokens, but the model has learned {self.config.max_length} "
                    "positions: shorten the text, or make the model with a larger max_length"
                )
            return embeddings + self.positions(position_ids)
        if self.config.position == "sinusoidal":
            table = sinusoidal(int(position_ids.max()) + 1, self.config.d_model)  # (time, d_model)
            return embeddings + table.to(embeddings)[position_ids]
        return embeddings

    def rotations(self, position_ids: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return RoPE's cosines and sines, ``(batch or 1, 1, time, d_head)``, in the type of the embeddings."""
        if self.config.position != "rope":
            return None
        cos, sin = rotary(position_ids, self.config.d_head, self.config.rope_base)  # (batch or 1, time, d_head)
        return cos[:, None].to(embeddings), sin[:, None].to(embeddings)

    def cached_tokens(self, past_key_values: Cache | None, batch_size: int) -> int:
        """Return how many earlier tokens the cache holds; refuse one that is not of this model and batch."""
        if past_key_values is None:
            return 0
        layers, held = len(past_key_values), len(past_key_values[0][0]) if past_key_values else batch_size
        if (layers, held) != (len(self.blocks), batch_size):
            raise ValueError(
                f"past_key_values has {layers} layers for a batch of {held}, the model {len(self.blocks)} layers and "
                f"the tokens a batch of {batch_size}: pass on what the last call with these sequences returned"
            )
        return past_key_values[0][0].shape[2]

    def mask(self, embeddings: Tensor, attention_mask: Tensor | None, key_length: int) -> Tensor | None:
        """Combine causal mask, padding and position bias to what broadcasts to ``(batch, heads, query, key)``."""
        query_length, device = embeddings.shape[1], embeddings.device
        hides = self.causal and query_length > 1  # nothing comes after a single query
        allowed = causal_mask(query_length, key_length, device)[None, None] if hides else None
        if attention_mask is not None:
            if attention_mask.shape != (len(embeddings), key_length):
                raise ValueError(
                    f"attention_mask has shape {tuple(attention_mask.shape)}: it takes (batch, tokens) = "
                    f"{(len(embeddings), key_length)}, the tokens of the cache included"
                )
            padding = padding_mask(attention_mask)  # (batch, 1, 1, key)
            allowed = padding if allowed is None else allowed & padding  # (batch, 1, query, key)
        if self.config.position == "alibi":
            bias = alibi_bias(self.config.num_heads, query_length, key_length).to(embeddings)  # (heads, query, key)
        elif self.config.position == "t5":
            bias = self.relative_bias(query_length, key_length)  # (heads, query, key)
        else:
            return allowed
        return bias[None] if allowed is None else bias[None].masked_fill(~allowed, -math.inf)

    def forward(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> StackOutput:
        """Run the blocks on ``(batch, time, d_model)``; the other arguments are those of the models."""
        past = self.cached_tokens(past_key_values, len(embeddings))
        key_length = past + embeddings.shape[1]
        if position_ids is None:
            position_ids = torch.arange(past, key_length, device=embeddings.device)[None]  # (1, time)
        if position_ids.shape not in (embeddings.shape[:2], (1, embeddings.shape[1])):
            raise ValueError(
                f"position_ids has shape {tuple(position_ids.shape)}: it takes (batch, time) = "
                f"{tuple(embeddings.shape[:2])}, the positions of the new tokens"
            )
        turn = self.rotations(position_ids, embeddings)
        is_causal = (
            self.causal and key_length == embeddings.shape[1] > 1 and attention_mask is None
            and self.config.position not in ("alibi", "t5") and _takes_no_mask(embeddings.device)
        )  # fmt: skip
        mask = None if is_causal else self.mask(embeddings, attention_mask, key_length)
        if context is not None and len(context) != len(embeddings):
            raise ValueError(f"{len(context)} sources for {len(embeddings)} targets: each target needs its source")
        cross_mask = None if context_mask is None else padding_mask(context_mask)  # (batch, 1, 1, source)
        hidden = self.dropout(self.embedding_norm(self.add_positions(embeddings, position_ids)))
        states, weights, cross_weights, cache = [hidden], [], [], []
        for layer, block in enumerate(self.blocks):
            earlier = past_key_values[layer] if past_key_values else None
            hidden, kept, own, across = block(
                hidden, mask, turn, earlier, context, cross_mask, output_attentions, is_causal
            )  # (batch, time, d_model), ...
            states.append(hidden)
            cache.append(kept)
            weights.append(own)
            cross_weights.append(across)
        return StackOutput(
            self.final_norm(hidden),
            tuple(states),
            tuple(weights) if output_attentions else None,
            tuple(cross_weights) if output_attentions and context is not None else None,
            cache,
        )


def initialise(model: nn.Module, config: TransformerConfig) -> None:
    """Draw weights as GPT-2 does: standard deviation 0.02, less for the layers that write to the residual stream."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            writes = name.endswith(("o_proj", "down_proj"))
            nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * config.num_layers) if writes else 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_ids(ids: Tensor, size: int, name: str = "input_ids") -> None:
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(f"{name} has shape {tuple(ids.shape)} and type {ids.dtype}: pass whole numbers (batch, time)")
    # a model without data, to be counted, has nothing to look at; a compiled one must not stop to look
    if ids.is_meta or not ids.numel() or torch.compiler.is_compiling():
        return
    low, high = int(ids.min()), int(ids.max())
    if not 0 <= low <= high < size:
        raise ValueError(
            f"{name} run from {low} to {high}, the model's table from 0 to {size - 1}: encode with the tokenizer "
            "the model was trained with"
        )


class Decoder(nn.Module):
    """A causal language model; with the default configuration a Llama."""

    def __init__(self, config: TransformerConfig) -> None:
        """Make embeddings, stack and head."""
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.stack = Stack(config, causal=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        initialise(self, config)
        if config.tie_embeddings:
            self.lm_head.weight = self.embeddings.weight

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> StackOutput:
        """Run all but the head, for another head; the arguments are those of :meth:`forward`."""
        _check_ids(input_ids, self.config.vocab_size)
        embeddings = self.embeddings(input_ids)  # (batch, time, d_model)
        return self.stack(
            embeddings, attention_mask, position_ids, past_key_values, output_attentions=output_attentions
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Output:
        """Return the logits of each next token.

        Args:
            input_ids: ``(batch, time)``; with a cache only the new tokens.
            attention_mask: ``(batch, tokens)``, 1 for tokens and 0 for padding, those in the cache included.
            position_ids: ``(batch, time)``, by default counted from the first token (or from the cache's end).
            past_key_values: what an earlier call returned.
            use_cache: whether to return the cache.
            output_attentions: whether to return the weights.
            output_hidden_states: whether to return embeddings and blocks' outputs.
        """
        out = self.encode(input_ids, attention_mask, position_ids, past_key_values, output_attentions)
        return Output(
            self.lm_head(out.last_hidden_state),
            out.hidden_states if output_hidden_states else None,
            out.attentions,
            out.past_key_values if use_cache else None,
        )


class Encoder(nn.Module):
    """A masked language model; with ``TransformerConfig.bert()`` a BERT."""

    def __init__(self, config: TransformerConfig) -> None:
        """Make embeddings, stack and head."""
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        if config.type_vocab_size:
            self.type_embeddings = nn.Embedding(config.type_vocab_size, config.d_model)
        self.stack = Stack(config, causal=False)
        self.transform = nn.Linear(config.d_model, config.d_model)
        self.transform_norm = nn.LayerNorm(config.d_model, config.norm_eps)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size)
        initialise(self, config)
        if config.tie_embeddings:
            self.lm_head.weight = self.embeddings.weight

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_attentions: bool = False,
    ) -> StackOutput:
        """Run all but the head, for another head; the arguments are those of :meth:`forward`."""
        _check_ids(input_ids, self.config.vocab_size)
        embeddings = self.embeddings(input_ids)  # (batch, time, d_model)
        if self.config.type_vocab_size:
            segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids  # (batch, time)
            if segments.shape != input_ids.shape:
                raise ValueError(
                    f"token_type_ids has shape {tuple(segments.shape)}, input_ids {tuple(input_ids.shape)}: "
                    "each token needs its segment"
                )
            _check_ids(segments, self.config.type_vocab_size, "token_type_ids")
            embeddings = embeddings + self.type_embeddings(segments)
        return self.stack(embeddings, attention_mask, output_attentions=output_attentions)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        at: Tensor | None = None,
    ) -> Output:
        """Return logits for each token given all tokens.

        Args:
            input_ids: ``(batch, time)``.
            attention_mask: ``(batch, time)``, 1 for tokens and 0 for padding.
            token_type_ids: segment of each token ``(batch, time)``, by default 0.
            output_attentions: whether to return the weights.
            output_hidden_states: whether to return embeddings and blocks' outputs.
            at: where logits are wanted, ``(batch, time)`` of bool: then they are ``(wanted, vocab)``, in that order. In
                pretraining most tokens are not predicted, and the head is a good part of a small model's work.
        """
        if at is not None and (at.shape != input_ids.shape or at.dtype != torch.bool):
            raise ValueError(
                f"at has shape {tuple(at.shape)} and type {at.dtype}: it takes bool of the ids' shape "
                f"{tuple(input_ids.shape)}"
            )
        out = self.encode(input_ids, attention_mask, token_type_ids, output_attentions)
        hidden = out.last_hidden_state if at is None else out.last_hidden_state[at]  # (batch, time, d_model) or fewer
        features = self.transform_norm(F.gelu(self.transform(hidden)))  # (batch, time, d_model) or (wanted, d_model)
        return Output(self.lm_head(features), out.hidden_states if output_hidden_states else None, out.attentions)


class EncoderDecoder(nn.Module):
    """A sequence-to-sequence model; with ``TransformerConfig.t5()`` a T5. Both stacks share the embeddings."""

    def __init__(self, config: TransformerConfig) -> None:
        """Make embeddings, both stacks and head."""
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, causal=False)
        self.decoder = Stack(config, causal=True, cross=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        initialise(self, config)
        if config.tie_embeddings:
            self.lm_head.weight = self.embeddings.weight

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> StackOutput:
        """Run the encoder on the source ``(batch, source)``; its last hidden state may be used for many targets."""
        _check_ids(input_ids, self.config.vocab_size)
        return self.encoder(self.embeddings(input_ids), attention_mask, output_attentions=output_attentions)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_last_hidden_state: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Output:
        """Return the logits of each next token of the target.

        Args:
            input_ids: the source ``(batch, source)``.
            attention_mask: ``(batch, source)``, 1 for tokens and 0 for padding.
            decoder_input_ids: the target so far ``(batch, time)``, begun by a start token; with a cache only its end.
            encoder_last_hidden_state: what an earlier call or :meth:`encode` returned, in place of ``input_ids``.
            past_key_values: the decoder's cache from an earlier call.
            use_cache: whether to return the cache.
            output_attentions: whether to return the weights.
            output_hidden_states: whether to return the decoder's embeddings and blocks' outputs.
        """
        if decoder_input_ids is None or (input_ids is None) == (encoder_last_hidden_state is None):
            raise ValueError(
                "an encoder-decoder takes decoder_input_ids and one of input_ids and encoder_last_hidden_state: "
                "give the target so far, beginning with the start token"
            )
        encoded = None
        if input_ids is not None:
            encoded = self.encode(input_ids, attention_mask, output_attentions)
            encoder_last_hidden_state = encoded.last_hidden_state  # (batch, source, d_model)
        _check_ids(decoder_input_ids, self.config.vocab_size, "decoder_input_ids")
        out = self.decoder(
            self.embeddings(decoder_input_ids),
            past_key_values=past_key_values,
            context=encoder_last_hidden_state,
            context_mask=attention_mask,
            output_attentions=output_attentions,
        )
        features = out.last_hidden_state  # (batch, time, d_model)
        if self.config.tie_embeddings:  # keeps the logits' size at the start, as T5 does
            features = features * self.config.d_model**-0.5
        return Output(
            self.lm_head(features),
            out.hidden_states if output_hidden_states else None,
            None,
            out.past_key_values if use_cache else None,
            encoder_last_hidden_state,
            encoded.attentions if encoded is not None else None,
            out.attentions,
            out.cross_attentions,
        )


def unwrapped(model: nn.Module) -> Any:
    """Return the model within what ``torch.compile``, DDP or ``DataParallel`` put around it; others as they are."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = cast(nn.Module, model._modules["_orig_mod"])
        else:
            return model


def unwrapped_name(name: str) -> str:
    """Return the name that a parameter or module has where nothing is compiled: without ``_orig_mod``."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod") if "_orig_mod" in name else name


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of one of the three models under its own names, for whoever writes them down.

    Raises:
        ValueError: LoRA or adapters around its layers, or a head that is tied in the configuration alone.
    """
    inner = unwrapped(model)
    state = {unwrapped_name(name): tensor for name, tensor in inner.state_dict().items()}
    if found := next((name for name in state if ".base." in name), None):
        raise ValueError(
            f"{found.partition('.base.')[0]} has LoRA or an adapter around it, which a plain model has no place for: "
            "updating.merge_lora adds LoRA to the weights; keep adapters with training.save_checkpoint"
        )
    if inner.config.tie_embeddings and inner.lm_head.weight is not inner.embeddings.weight:
        raise ValueError(
            "lm_head has other weights than the embeddings, and tie_embeddings=True says that they are one, as after "
            "merging LoRA of a T5's lm_head: keep the model with training.save_checkpoint, or put LoRA on other layers"
        )
    return state


def count_parameters(model: nn.Module, embeddings: bool = True) -> int:
    """Count a model's parameters, shared ones once; without those of its ``nn.Embedding`` tables if so asked."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return sum(parameter.numel() for parameter in model.parameters() if embeddings or id(parameter) not in tables)


def flops_per_token(config: TransformerConfig, length: int) -> int:
    """Count floating-point operations of a :class:`Decoder` per token, forward, in sequences of ``length`` tokens.

    Two for each parameter of a matrix, and attention's scores and sums over all ``length`` keys (torch's kernels and
    its ``FlopCounterMode`` do not leave out what a causal mask hides). A training step takes three times as many.
    """
    attention = 2 * config.d_model * config.d_head * (config.num_heads + config.num_key_value_heads)
    gated = config.activation in ("swiglu", "geglu")
    feed_forward = (3 if gated else 2) * config.d_model * config.d_ff
    matrices = config.num_layers * (attention + feed_forward) + config.vocab_size * config.d_model
    return 2 * matrices + 4 * length * config.num_layers * config.num_heads * config.d_head


def padded_positions(attention_mask: Tensor) -> Tensor:
    """Return positions ``(batch, time)`` that count each row's tokens from 0 and leave its padding out (at 0)."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def greedy(
    model: Decoder | EncoderDecoder,
    prompt: Tensor,
    max_new_tokens: int,
    use_cache: bool = True,
    source: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Continue ``prompt`` with the most probable token each time.

    Args:
        model: a decoder, or an encoder-decoder with its ``source``; in ``eval`` mode, if it has dropout.
        prompt: ``(batch, time)``; for an encoder-decoder the start token ``(batch, 1)``.
        max_new_tokens: number of tokens to add.
        use_cache: keep keys and values of earlier tokens, instead of computing them again at each step.
        source: the encoder's token ids ``(batch, source)``.
        attention_mask: 1 for tokens and 0 for padding: of the prompt ``(batch, time)``, padded on the left, or of the
            source ``(batch, source)`` where there is one.

    Returns:
        Token ids ``(batch, time + new)``. For sampling and beams see ``llmbook.generation``.

    Raises:
        ValueError: an encoder (it predicts no next token), an empty prompt, a prompt padded on the right.
    """
    kind = unwrapped(model)
    if not isinstance(kind, Decoder | EncoderDecoder):
        raise ValueError(f"{type(kind).__name__} predicts no next token: greedy takes a Decoder or EncoderDecoder")
    if isinstance(kind, EncoderDecoder) == (source is None):
        raise ValueError("source belongs to an EncoderDecoder, which needs it: give one exactly there")
    if prompt.ndim != 2 or not prompt.shape[1]:
        raise ValueError(f"prompt has shape {tuple(prompt.shape)}: it takes (batch, time) with at least one token")
    if isinstance(kind, Decoder) and attention_mask is not None and not attention_mask[:, -1].all():
        raise ValueError("the prompt is padded on the right, where the next token goes: pad on the left")
    encoded = None
    if isinstance(kind, EncoderDecoder) and source is not None:
        encoded = model.encode(source, attention_mask).last_hidden_state  # (batch, source, d_model)
    ids, mask, cache = prompt, attention_mask, None
    for _ in range(max_new_tokens):
        new = slice(None) if cache is None else slice(-1, None)  # with a cache only the last token is fed
        if isinstance(kind, EncoderDecoder):
            out = model(None, mask, ids[:, new], encoded, past_key_values=cache, use_cache=use_cache)
        else:
            positions = None if mask is None else padded_positions(mask)[:, new]  # (batch, time) or (batch, 1)
            out = model(ids[:, new], mask, positions, past_key_values=cache, use_cache=use_cache)
            mask = None if mask is None else torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        cache = out.past_key_values
        ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], dim=1)  # (batch, time + 1)
    return ids
