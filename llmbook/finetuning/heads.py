"""Heads for a pretrained encoder or decoder: for texts, for tokens and for spans (chapter 12)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from llmbook.objectives import IGNORE, mean_cross_entropy
from llmbook.transformer import Decoder, Encoder, unwrapped

POOLING = ("first", "mean", "last")


def check_label_range(labels: Tensor, size: int) -> None:
    """Refuse labels that a head of ``size`` logits has none for; torch's own error names neither label nor range.

    Raises:
        ValueError: a label below 0, or ``size`` or more; ``IGNORE`` is allowed.
    """
    counted = labels[labels != IGNORE]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < size:
        raise ValueError(
            f"labels run from {int(counted.min())} to {int(counted.max())}, the head has {size} labels, 0 to "
            f"{size - 1}: make it with num_labels={int(counted.max()) + 1}, or map the labels ({IGNORE} is not counted)"
        )


def linear_head(backbone: Encoder | Decoder, num_labels: int) -> nn.Linear:
    """Return a layer from ``d_model`` to the labels' logits, with small random weights and no bias to begin with.

    It is drawn on the CPU and stands where the backbone is.

    Raises:
        ValueError: fewer than two labels.
    """
    if num_labels < 2:
        raise ValueError(f"num_labels={num_labels}: a classifier needs at least 2")
    head = nn.Linear(backbone.config.d_model, num_labels)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head.to(next(backbone.parameters()).device)


def last_hidden_state(
    backbone: Encoder | Decoder, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
) -> Tensor:
    """Return the last hidden states ``(batch, time, d_model)``; a decoder has no segments.

    Args:
        backbone: what is run.
        input_ids: ``(batch, time)``.
        attention_mask: ``(batch, time)``, 1 for tokens and 0 for padding.
        token_type_ids: ``(batch, time)``, the segment of each token.

    Raises:
        ValueError: segments for a decoder.
    """
    if isinstance(unwrapped(backbone), Encoder):
        return backbone.encode(input_ids, attention_mask, token_type_ids).last_hidden_state
    if token_type_ids is not None:
        raise ValueError("token_type_ids are for an encoder with segments: leave them out with a decoder")
    return backbone.encode(input_ids, attention_mask).last_hidden_state


def pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Return one vector for each text, ``(batch, d_model)``.

    Args:
        hidden: ``(batch, time, d_model)``.
        attention_mask: ``(batch, time)``, 1 for tokens and 0 for padding on the right.
        pooling: ``first`` takes the first token (BERT's ``[CLS]``), ``last`` the last one that is no padding (the only
            one that has read all in a decoder), ``mean`` the mean of those that are no padding.
    """
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        last = attention_mask.sum(1) - 1  # (batch,)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = attention_mask[..., None].to(hidden)  # (batch, time, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


class SequenceClassifier(nn.Module):
    """One label for a text: a linear layer on one vector of the backbone's last states."""

    class_weights: Tensor | None

    def __init__(
        self,
        backbone: Encoder | Decoder,
        num_labels: int,
        pooling: str | None = None,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        """Put a new head on a backbone.

        Args:
            backbone: used as it is, not copied.
            num_labels: from 2 up.
            pooling: see :func:`pool`; by default ``mean`` for an encoder and ``last`` for a decoder.
            dropout: share of the pooled vector that is set to 0 in training.
            label_smoothing: share of the target's probability that goes to all labels alike (Szegedy et al. 2016,
                arXiv:1512.00567).
            class_weights: ``(num_labels,)``, what an example of each label counts; by default all the same.

        Raises:
            ValueError: fewer than two labels, or an unknown pooling.
        """
        super().__init__()
        self.pooling = pooling or ("mean" if isinstance(unwrapped(backbone), Encoder) else "last")
        if self.pooling not in POOLING:
            raise ValueError(f"pooling={pooling!r}: it takes {', '.join(POOLING)}")
        self.backbone, self.num_labels, self.label_smoothing = backbone, num_labels, label_smoothing
        self.dropout, self.head = nn.Dropout(dropout), linear_head(backbone, num_labels)
        weights = None if class_weights is None else class_weights.to(self.head.weight.device)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return logits ``(batch, num_labels)`` and, where labels ``(batch,)`` are given, their cross-entropy.

        It is the mean over rows whose label is not -100, 0 if there is none.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)  # (batch, time)
        hidden = last_hidden_state(self.backbone, input_ids, attention_mask, token_type_ids)  # (batch, time, d_model)
        logits = self.head(self.dropout(pool(hidden, attention_mask, self.pooling)))  # (batch, num_labels)
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        check_label_range(labels, self.num_labels)
        loss = mean_cross_entropy(logits.float(), labels, self.class_weights, self.label_smoothing)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class TokenClassifier(nn.Module):
    """One label for each token."""

    def __init__(self, backbone: Encoder | Decoder, num_labels: int, dropout: float = 0.1) -> None:
        """Put a new head on a backbone, which is used as it is; ``dropout`` is of its last states."""
        super().__init__()
        self.backbone, self.num_labels = backbone, num_labels
        self.dropout, self.head = nn.Dropout(dropout), linear_head(backbone, num_labels)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TokenClassifierOutput:
        """Return logits ``(batch, time, num_labels)`` and the cross-entropy of labels ``(batch, time)``, if given.

        The label -100 marks tokens that are not counted: special tokens, padding, and the second and later tokens of a
        word. A batch without a counted label has loss 0.
        """
        hidden = last_hidden_state(self.backbone, input_ids, attention_mask, token_type_ids)  # (batch, time, d_model)
        logits = self.head(self.dropout(hidden))  # (batch, time, num_labels)
        if labels is None:
            return TokenClassifierOutput(logits=logits)
        check_label_range(labels, self.num_labels)
        loss = mean_cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits)


class SpanFinder(nn.Module):
    """Where an answer begins and ends: two scores for each token (Devlin et al. 2019, arXiv:1810.04805)."""

    def __init__(self, backbone: Encoder | Decoder, dropout: float = 0.1) -> None:
        """Put a new head on a backbone, which is used as it is; ``dropout`` is of its last states."""
        super().__init__()
        self.backbone, self.dropout, self.head = backbone, nn.Dropout(dropout), linear_head(backbone, 2)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Return scores of the first and the last token, ``(batch, time)`` each, and the mean of their cross-entropies.

        Padding gets the score ``-inf``, so that no probability goes there. A question without an answer has both
        positions, ``(batch,)``, at 0, the first token of the text; a row that is not to be taught has both at -100.
        """
        hidden = last_hidden_state(self.backbone, input_ids, attention_mask, token_type_ids)  # (batch, time, d_model)
        scores = self.head(self.dropout(hidden)).float()  # (batch, time, 2)
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[..., None] == 0, -torch.inf)
        start, end = scores.unbind(-1)  # (batch, time) each
        if start_positions is None or end_positions is None:
            return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
        for positions in (start_positions, end_positions):
            check_label_range(positions, scores.shape[1])
        if (odd := ((start_positions == IGNORE) != (end_positions == IGNORE)).nonzero()).numel():
            raise ValueError(
                f"row {int(odd[0])} has a start or an end and {IGNORE} for the other: a span has both, or neither is "
                "taught"
            )
        loss = (mean_cross_entropy(start, start_positions) + mean_cross_entropy(end, end_positions)) / 2
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)
