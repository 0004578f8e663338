"""Asking a pretrained model without changing it, and learning the question (chapter 14).

Tokens of a prompt that somebody wrote: :func:`answer_log_likelihoods` scores answers, :func:`calibrate` takes out what
the prompt favours by itself. A prompt that is learned: :class:`SoftPrompt` and :class:`Prefix` stand before a frozen
model and take its place under the heads of chapter 12, or under :class:`LabelWords`, whose labels are words:

    gpt, tokenizer = hub.pretrained("pydocs-gpt")
    model = LabelWords(SoftPrompt(gpt, init=ids), words=[[1147], [928]])
    training.fit(model, Examples(rows, batch_size=16, pad=tokenizer.pad_token_id), Settings(100), loss_of=loss)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from llmbook.finetuning.batches import collate
from llmbook.objectives import IGNORE, mean_cross_entropy
from llmbook.transformer import Decoder, Encoder, StackOutput, unwrapped

Ids = Sequence[int]


# --- prompts of tokens ------------------------------------------------------------------------------------------------


def _padded(rows: Sequence[Ids], name: str) -> tuple[Tensor, Tensor]:
    """Return ids and mask ``(rows, time)``, padded on the right with 0."""
    if not rows:
        raise ValueError(f"no {name}: give at least one")
    lengths = torch.tensor([len(ids) for ids in rows])  # (rows,)
    if not lengths.all():
        raise ValueError(f"number {int(lengths.argmin())} of the {name} has no token: each needs at least one")
    batch = collate([{"input_ids": row} for row in rows], pad=0)
    return batch["input_ids"], batch["attention_mask"]


@torch.no_grad()
def answer_log_likelihoods(
    model: Decoder, prompts: Sequence[Ids], answers: Sequence[Ids], context: Ids = (), batch_size: int = 32
) -> Tensor:
    """Return ``log P(answer | context, prompt)`` in nats for each prompt and each answer.

    Every prompt is computed once, whatever the number of answers, and the context once in all: keys and values of what
    comes before are kept.

    Args:
        model: a decoder in ``eval`` mode.
        prompts: token ids, of any lengths from 1 up.
        answers: token ids, of any lengths from 1 up; the log-probabilities of an answer's tokens are summed.
        context: token ids that stand before every prompt, as the examples of a few-shot prompt do.
        batch_size: sequences that are computed together.

    Returns:
        ``(prompts, answers)``, on the CPU.

    Raises:
        ValueError: an encoder, no prompt or answer, or one without a token.
    """
    if not isinstance(unwrapped(model), Decoder):
        raise ValueError(f"{type(model).__name__} predicts no next token: answer_log_likelihoods takes a Decoder")
    device = next(model.parameters()).device
    prompt_ids, prompt_mask = (part.to(device) for part in _padded(prompts, "prompts"))  # (prompts, time)
    answer_ids, answer_mask = (part.to(device) for part in _padded(answers, "answers"))  # (answers, length)
    common = model.encode(torch.tensor([list(context)], device=device)).past_key_values if context else None
    found = torch.empty(len(prompts), len(answers))
    for part in torch.arange(len(prompts)).split(batch_size):
        ids, mask = prompt_ids[part], prompt_mask[part]  # (batch, time)
        longest = int(mask.sum(1).max())
        ids, mask = ids[:, :longest], mask[:, :longest]
        before = None if common is None else [tuple(x.expand(len(part), -1, -1, -1) for x in kv) for kv in common]
        mask = torch.cat([mask.new_ones(len(part), len(context)), mask], dim=1)  # (batch, context + time)
        out = model.encode(ids, mask, past_key_values=before)  # type: ignore[arg-type]
        length = mask.sum(1)  # (batch,)
        last = out.last_hidden_state[torch.arange(len(part)), length - len(context) - 1]  # (batch, d_model)
        first = model.lm_head(last).float().log_softmax(-1)  # (batch, vocab)
        scores = first[:, answer_ids[:, 0]]  # (batch, answers)
        longer = torch.tensor([place for place, answer in enumerate(answers) if len(answer) > 1])  # (longer answers,)
        if len(longer):
            pairs = torch.cartesian_prod(torch.arange(len(part)), longer)  # (pairs, 2)
            for row, column in (some.T for some in pairs.split(batch_size)):
                scores[row, column] += _rest(model, out, mask, length, row, answer_ids[column], answer_mask[column])
        found[part] = scores.cpu()
    return found


def _rest(
    model: Decoder, out: StackOutput, mask: Tensor, length: Tensor, row: Tensor, ids: Tensor, ids_mask: Tensor
) -> Tensor:
    """Return the log-probabilities of answers ``(pairs, length)`` without their first tokens, ``(pairs,)``."""
    longest = int(ids_mask.sum(1).max())
    ids, ids_mask = ids[:, :longest], ids_mask[:, :longest]
    rows = row.unique()
    cache = [(keys[row], values[row]) for keys, values in out.past_key_values] if len(rows) > 1 else [
        (keys[rows].expand(len(row), -1, -1, -1), values[rows].expand(len(row), -1, -1, -1))
        for keys, values in out.past_key_values
    ]  # fmt: skip
    positions = length[row, None] + torch.arange(longest - 1, device=ids.device)  # (pairs, length - 1)
    seen = torch.cat([mask[row], ids_mask[:, :-1]], dim=1)  # (pairs, context + time + length - 1)
    states = model.encode(ids[:, :-1], seen, positions, cache).last_hidden_state  # (pairs, length - 1, d_model)
    wanted = ids_mask[:, 1:].bool()  # (pairs, length - 1)
    costs = F.cross_entropy(model.lm_head(states[wanted]).float(), ids[:, 1:][wanted], reduction="none")  # (tokens,)
    return torch.zeros(wanted.shape, device=ids.device).masked_scatter(wanted, -costs).sum(1)  # (pairs,)


def calibrate(log_probs: Tensor, content_free: Tensor) -> Tensor:
    """Divide each label's probability by what it gets for an input without content (Zhao et al. 2021, 2102.09690).

    Args:
        log_probs: of the labels ``(examples, labels)``, up to a constant in each row.
        content_free: of the same labels for the same prompt with "N/A", an empty text and the like in the place of the
            text, ``(inputs, labels)`` or ``(labels,)``; the probabilities of several are averaged.

    Returns:
        Log-probabilities ``(examples, labels)``, normalised over the labels.

    Raises:
        ValueError: different numbers of labels.
    """
    if log_probs.shape[-1] != content_free.shape[-1]:
        raise ValueError(
            f"{log_probs.shape[-1]} labels in log_probs and {content_free.shape[-1]} in content_free: both come from "
            "the same answers in the same order"
        )
    prior = content_free.log_softmax(-1).reshape(-1, content_free.shape[-1]).exp().mean(0).log()  # (labels,)
    return (log_probs - prior).log_softmax(-1)


# --- prompts of vectors -----------------------------------------------------------------------------------------------


class _Prompted(nn.Module):
    """A frozen model behind a learned prompt; stands where the model itself would, under any head."""

    def __init__(self, model: Decoder | Encoder, length: int | None, init: Ids | None) -> None:
        super().__init__()
        if (length is None) == (init is None):
            raise ValueError("give the prompt's length, or init, the tokens that it begins as: one of the two")
        self.length = len(init) if init is not None else int(length or 0)
        limit = model.config.max_length
        if not 1 <= self.length < limit:
            raise ValueError(f"a prompt of {self.length} tokens: it takes 1 to {limit - 1}, the model reads {limit}")
        self.model, self.config = model.requires_grad_(False), model.config

    def _first_ids(self, init: Ids | None, seed: int) -> Tensor:
        """Return the tokens that the prompt begins as, ``(length,)``: those of ``init``, or random ones."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(self.config.vocab_size, (self.length,), generator=generator)  # (length,)
        return (drawn if init is None else torch.as_tensor(init)).to(self.model.embeddings.weight.device)

    def _widened(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask  # (batch, time)
        return torch.cat([mask.new_ones(len(mask), self.length), mask], dim=1)  # (batch, length + time)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> StackOutput:
        raise NotImplementedError

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the logits of the tokens, without those of the prompt: ``(batch, time, vocab)``."""
        return vocabulary_logits(self.model, self.encode(input_ids, attention_mask).last_hidden_state)


class SoftPrompt(_Prompted):
    """Vectors before the embeddings of a frozen model (Lester et al. 2021, arXiv:2104.08691).

    ``prompt`` ``(length, d_model)`` is all that is trained. The model is frozen in place.
    """

    def __init__(
        self, model: Decoder | Encoder, length: int | None = None, init: Ids | None = None, seed: int = 0
    ) -> None:
        """Begin as the embeddings of the tokens ``init``, or as ``length`` random ones of the vocabulary."""
        super().__init__(model, length, init)
        self.prompt = nn.Parameter(model.embeddings.weight[self._first_ids(init, seed)].detach().clone())

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> StackOutput:
        """Run the model on prompt and tokens; the states are those of the tokens, ``(batch, time, d_model)``.

        The other fields of the output hold prompt and tokens.
        """
        prompt = self.prompt.expand(len(input_ids), -1, -1)  # (batch, length, d_model)
        embeddings = torch.cat([prompt, self.model.embeddings(input_ids)], dim=1)  # (batch, length + time, d_model)
        model = unwrapped(self.model)
        if isinstance(model, Encoder) and self.config.type_vocab_size:
            embeddings = embeddings + model.type_embeddings.weight[0]  # all of them in segment 0
        out = self.model.stack(embeddings, self._widened(input_ids, attention_mask))
        out.last_hidden_state = out.last_hidden_state[:, self.length :]  # (batch, time, d_model)
        return out


class Prefix(_Prompted):
    """Keys and values before those of the tokens, in every layer of a frozen model (Li and Liang 2021, 2101.00190).

    ``prefix`` ``(layers, 2, kv heads, length, d_head)``, keys first, is all that is trained, without the paper's
    reparametrisation by a network. The model is frozen in place.
    """

    def __init__(
        self, model: Decoder | Encoder, length: int | None = None, init: Ids | None = None, seed: int = 0
    ) -> None:
        """Begin as what the model computes for the tokens ``init``, or for ``length`` random ones."""
        super().__init__(model, length, init)
        with torch.no_grad():
            cache = model.encode(self._first_ids(init, seed)[None]).past_key_values
        self.prefix = nn.Parameter(torch.stack([torch.stack([keys[0], values[0]]) for keys, values in cache]))

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> StackOutput:
        """Run the model on the tokens after the prefix; their states are ``(batch, time, d_model)``."""
        embeddings = self.model.embeddings(input_ids)  # (batch, time, d_model)
        model = unwrapped(self.model)
        if isinstance(model, Encoder) and self.config.type_vocab_size:
            embeddings = embeddings + model.type_embeddings.weight[0]
        rows = self.prefix[:, :, None].expand(-1, -1, len(input_ids), -1, -1, -1)  # (layers, 2, batch, ...)
        cache = [(keys, values) for keys, values in rows]
        return self.model.stack(embeddings, self._widened(input_ids, attention_mask), past_key_values=cache)


def vocabulary_logits(model: Decoder | Encoder, states: Tensor) -> Tensor:
    """Turn last hidden states ``(..., d_model)`` into logits ``(..., vocab)`` with the model's own head."""
    model = unwrapped(model)
    if isinstance(model, Encoder):
        states = model.transform_norm(F.gelu(model.transform(states)))  # (..., d_model)
    return model.lm_head(states)


class LabelWords(nn.Module):
    """A classifier whose labels are words: the model's own head, asked for those words in one place.

    In a decoder the place is after the last token, in an encoder at the mask token (Schick and Schuetze 2021,
    arXiv:2001.07676). Nothing is new, so it classifies before it is trained.
    """

    def __init__(
        self,
        backbone: Decoder | Encoder | SoftPrompt | Prefix,
        words: Sequence[Ids],
        mask_token_id: int | None = None,
        reduce: Literal["sum", "mean"] = "sum",
    ) -> None:
        """Choose the words.

        Args:
            backbone: used as it is, not copied.
            words: for each label the ids of its words, each of one token.
            mask_token_id: of an encoder: the place of the answer, once in each row.
            reduce: whether a label's words share its probability (``sum``) or its logit is their mean (``mean``).

        Raises:
            ValueError: fewer than two labels, a label without words, a word of two labels, an encoder without its mask.
        """
        super().__init__()
        self.backbone, self.num_labels, self.reduce = backbone, len(words), reduce
        self.model = backbone.model if isinstance(backbone, _Prompted) else backbone
        if isinstance(unwrapped(self.model), Encoder) != (mask_token_id is not None):
            raise ValueError("an encoder answers at its mask token, a decoder after the last one: give mask_token_id "
                             "with an encoder, and only there")  # fmt: skip
        flat = [word for label in words for word in label]
        if len(words) < 2 or not all(len(label) for label in words) or len(set(flat)) < len(flat):
            raise ValueError(f"words={[list(label) for label in words]}: at least two labels, each with one word or "
                             "more, and no word twice")  # fmt: skip
        if not 0 <= min(flat) <= max(flat) < self.model.config.vocab_size:
            raise ValueError(
                f"words run from {min(flat)} to {max(flat)}, the vocabulary has {self.model.config.vocab_size} tokens: "
                "encode them with the model's tokenizer"
            )
        if reduce not in ("sum", "mean"):
            raise ValueError(f"reduce={reduce!r}: it takes sum, mean")
        self.words, self.mask_token_id = [list(label) for label in words], mask_token_id

    def place(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return where the answer is read in each row, ``(batch,)``."""
        if self.mask_token_id is None:
            return attention_mask.sum(1) - 1
        masks = input_ids == self.mask_token_id  # (batch, time)
        if bad := [row for row, count in enumerate(masks.sum(1).tolist()) if count != 1]:
            raise ValueError(f"row {bad[0]} has {int(masks[bad[0]].sum())} mask tokens: the pattern needs one, and "
                             "truncation must not cut it off")  # fmt: skip
        return masks.int().argmax(1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return logits ``(batch, num_labels)`` and, where labels ``(batch,)`` are given, their cross-entropy."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)  # (batch, time)
        at = self.place(input_ids, attention_mask)  # (batch,)
        states = self.backbone.encode(input_ids, attention_mask).last_hidden_state  # (batch, time, d_model)
        states = states[torch.arange(len(at), device=at.device), at]  # (batch, d_model)
        words = vocabulary_logits(self.model, states).float()  # (batch, vocab)
        chosen = [words[:, label] for label in self.words]  # each (batch, words of a label)
        parts = [logits.logsumexp(-1) if self.reduce == "sum" else logits.mean(-1) for logits in chosen]
        logits = torch.stack(parts, dim=-1)  # (batch, num_labels)
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        counted = labels[labels != IGNORE]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < self.num_labels:
            raise ValueError(
                f"labels run from {int(counted.min())} to {int(counted.max())}, there are words for {self.num_labels}, "
                f"0 to {self.num_labels - 1}: map the labels, or add words"
            )
        return SequenceClassifierOutput(loss=mean_cross_entropy(logits, labels), logits=logits)
