"""Vectors of whole texts: an encoder whose tokens' vectors are averaged (chapter 5; used for search from chapter 19).

Sentence-BERT (Reimers and Gurevych 2019, arXiv:1908.10084): a BERT without its language-model head, tuned so that the
mean of the tokens' vectors is close for texts of one meaning. ``hub.pretrained("minilm-l6")`` opens one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from llmbook.transformer import Encoder, StackOutput, TransformerConfig


class SentenceEncoder(nn.Module):
    """The book's :class:`llmbook.transformer.Encoder` without a head, and the tokenizer that it was trained with.

    Attributes:
        config: the shape of the encoder.
        encoder: embeddings and stack; its head is taken off, so it gives no logits.
        tokenizer: of ``transformers``.
        max_tokens: texts are cut after so many tokens, the two special ones included.
    """

    def __init__(self, config: TransformerConfig, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        """Make the layers; their weights are loaded by ``hub``."""
        super().__init__()
        if not 3 <= max_tokens <= config.max_length:
            raise ValueError(f"max_tokens={max_tokens}: the model has positions for 3 to {config.max_length} tokens")
        self.config, self.tokenizer, self.max_tokens = config, tokenizer, max_tokens
        self.encoder = Encoder(config)
        del self.encoder.transform, self.encoder.transform_norm, self.encoder.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_attentions: bool = False,
    ) -> StackOutput:
        """Return the vector of each token, as :meth:`llmbook.transformer.Encoder.encode`."""
        return self.encoder.encode(input_ids, attention_mask, token_type_ids, output_attentions)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Return a vector of length 1 for each text: the mean of its tokens' vectors, so a dot product is the cosine.

        Args:
            texts: any number of them, in any order; long ones are cut after ``max_tokens`` tokens.
            batch_size: texts that are computed together, those of like length.

        Returns:
            ``(texts, d_model)``, on the model's device.

        Raises:
            ValueError: one text in place of a list, something that is no text, a batch size below 1.
        """
        if isinstance(texts, str):
            raise ValueError("texts is one text: give a list of them, [text]")
        if wrong := [place for place, text in enumerate(texts) if not isinstance(text, str)]:
            raise ValueError(f"texts[{wrong[0]}] is a {type(texts[wrong[0]]).__name__}: give a list of texts")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it takes a whole number from 1 up")
        weight = self.encoder.embeddings.weight
        vectors = weight.new_zeros(len(texts), self.config.d_model)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for begin in range(0, len(order), batch_size):
            places = order[begin : begin + batch_size]
            inputs = self.tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, max_length=self.max_tokens,
                return_tensors="pt",
            ).to(weight.device)  # fmt: skip
            hidden = self(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state  # (batch, time, d_model)
            real = inputs["attention_mask"][..., None].to(hidden)  # (batch, time, 1)
            vectors[places] = F.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)  # (batch, d_model)
        return vectors
