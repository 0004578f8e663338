"""What a model is asked while it is pretrained: collators and losses of nine objectives (chapter 9).

A collator is a pure function: it takes token ids ``(batch, time)`` and a generator of random numbers and returns a
named tuple with inputs, labels and masks, where the ids are; a generator of the CPU draws the same for every device.
Labels of ``-100`` (:data:`IGNORE`) are not taught. A loss function stands here where the objective is not plain
cross-entropy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmbook.tokenization import EOS, MASK
from llmbook.transformer import Block, Stack, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Label of a position that is not taught; ``ignore_index`` of torch's cross-entropy.
IGNORE = -100

LossT = TypeVar("LossT", bound=Callable[..., Tensor])


# --- means and what they are taken over ------------------------------------------------------------------------------


def averaged_over(count: Callable[[Any, Any], Tensor | float] | None) -> Callable[[LossT], LossT]:
    """Say of a loss what it is a mean over, so that the parts of a batch can be put together to the batch's mean.

    The mean of a batch is not the mean of its parts' means where the parts have different numbers of labels.
    ``training.fit`` weighs each part by this number; where a loss does not say it, by :func:`count_taught`::

        @averaged_over(lambda model, batch: len(batch))
        def loss_of_answers(model, batch): ...

    Args:
        count: from model and (part of) a batch to the number of what is averaged; ``None`` for a loss that is no mean
            and needs the batch as a whole, which ``training.fit`` then refuses to cut.
    """

    def mark(loss: LossT) -> LossT:
        loss.averaged_over = count  # type: ignore[attr-defined]
        return loss

    return mark


def count_taught(model: nn.Module, batch: Any) -> float:
    """Return over how many labels a model's own loss of a batch is a mean.

    Those of ``labels`` (or ``start_positions``) that are not :data:`IGNORE`; a label weighs what the model's
    ``class_weights`` say, and the first of a row nothing in a causal model of ``transformers``, which has no logits for
    it. Without labels, as in windows of tokens, the rows.

    Args:
        model: what computes the loss.
        batch: a tensor ``(rows, ...)`` or a ``finetuning.Batch``.
    """
    names = [] if isinstance(batch, Tensor) else list(batch.keys())
    names = [name for name in names if name in ("labels", "start_positions")]
    if not names:
        return len(batch)
    labels = batch[names[0]]
    if labels.ndim == 2 and type(unwrapped(model)).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        labels = labels[:, 1:]
    return _weight_of(labels, getattr(unwrapped(model), "class_weights", None))


def _weight_of(labels: Tensor, class_weights: Tensor | None) -> float:
    taught = labels[labels != IGNORE]
    return taught.numel() if class_weights is None else float(class_weights[taught.to(class_weights.device)].sum())


def count_averaged(loss_of: Callable[..., Tensor], model: nn.Module, batch: Any) -> float | None:
    """Return over how many labels, rows or the like a loss of a batch is a mean, ``None`` if it needs all of the batch.

    See :func:`averaged_over`; :func:`count_taught` counts for a loss that does not say it.
    """
    while isinstance(loss_of, functools.partial):
        loss_of = loss_of.func
    count = getattr(loss_of, "averaged_over", count_taught)
    return None if count is None else float(count(model, batch))


def mean_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy in nats, averaged over the labels that are taught; 0, with a gradient of 0, if none is.

    Args:
        logits: ``(items, labels)``.
        labels: ``(items,)``, :data:`IGNORE` where nothing is taught.
        class_weights: ``(labels,)``, what an item of each label counts; the mean is divided by the sum of these.
        label_smoothing: share of the target's probability that goes to all labels alike.
    """
    reduction = "mean" if _weight_of(labels, class_weights) > 0 else "sum"  # torch's mean of nothing is NaN
    return F.cross_entropy(
        logits, labels, class_weights, ignore_index=IGNORE, reduction=reduction, label_smoothing=label_smoothing
    )


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that are no text: after the ordinary ones, or, with ``first``, before them.

    Attributes:
        ordinary: number of ordinary tokens, those of the tokenizer's vocabulary that are text.
        sentinels: how many tokens may stand for a span (T5 has 100).
        first: the first ordinary id; those before it are special.
        leading: ids of the tokens ``cls``, ``sep``, ``mask`` and of the first sentinel, if those are before
            ``first``; by default the four follow the ordinary ones.
    """

    ordinary: int
    sentinels: int = 16
    first: int = 0
    leading: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to choose from, and special ids among the ordinary ones."""
        if self.ordinary < 2 or self.sentinels < 2:
            raise ValueError(f"ordinary={self.ordinary}, sentinels={self.sentinels}: each takes a number from 2 up")
        if self.leading is not None:
            last = max(*self.leading, self.leading[3] + self.sentinels - 1)
            if min(self.leading) < 0 or last >= self.first:
                raise ValueError(
                    f"leading={self.leading} with {self.sentinels} sentinels: these ids run from {min(self.leading)} "
                    f"to {last}, and must lie between 0 and the first ordinary one, {self.first}"
                )

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
        """Return those of a tokenizer that :func:`llmbook.tokenization.load_tokenizer` opened for BERT or T5.

        T5 has no token for a whole text: its decoder begins with padding, which stands for ``cls`` here.

        Raises:
            ValueError: a tokenizer without mask token or sentinels.
        """
        vocab = tokenizer.get_vocab()
        sentinels = sorted(vocab[token] for token in vocab if token.startswith("<extra_id_"))
        start = tokenizer.pad_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
        mask = vocab.get(MASK)
        if mask is None or len(sentinels) < 2 or start is None:
            raise ValueError(f"this tokenizer has no {MASK}, <extra_id_...> or padding: use load_tokenizer('bert')")
        first = sentinels[-1] + 1
        leading = (start, vocab[EOS], mask, sentinels[0])
        return cls(len(vocab) - first, len(sentinels), first, leading)

    def _id(self, place: int) -> int:
        return self.first + self.ordinary + place if self.leading is None else self.leading[place]

    @property
    def cls(self) -> int:
        """The token that stands first and for the whole text; also the first token a decoder reads."""
        return self._id(0)

    @property
    def sep(self) -> int:
        """The token that ends a text or a part of it."""
        return self._id(1)

    @property
    def mask(self) -> int:
        """The token that stands where one was hidden."""
        return self._id(2)

    @property
    def size(self) -> int:
        """Size of the model's vocabulary, special tokens included."""
        return self.first + self.ordinary + (3 + self.sentinels if self.leading is None else 0)

    def sentinel(self, number: int) -> int:
        """Return the token that stands for the span with this number, counted from 0."""
        if not 0 <= number < self.sentinels:
            raise ValueError(f"sentinel {number}: there are {self.sentinels}; make SpecialTokens with more of them")
        return self._id(3) + number

    def is_ordinary(self, ids: Tensor) -> Tensor:
        """Return whether each id is text: bool of the ids' shape."""
        return (ids >= self.first) & (ids < self.first + self.ordinary)

    def name(self, token: int) -> str | None:
        """Return how a special token is written, ``None`` for an ordinary one."""
        names = {self.cls: "[CLS]", self.sep: "[SEP]", self.mask: "[MASK]"}
        names |= {self.sentinel(number): f"<{number}>" for number in range(self.sentinels)}
        return names.get(token)


def _check_ids(ids: Tensor, least: int = 1) -> None:
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(f"ids have shape {tuple(ids.shape)} and type {ids.dtype}: pass whole numbers (batch, time)")
    if ids.shape[1] < least:
        raise ValueError(f"{ids.shape[1]} tokens in a row: this objective needs at least {least}")


def _check_rate(name: str, rate: float) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"{name}={rate}: it takes a share above 0 and up to 1")


def _dice(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Return numbers from 0 to 1, drawn where the generator is, on the device of ``like``."""
    return torch.rand(shape, generator=generator, device=generator.device).to(like.device)


def _column(ids: Tensor, token: int) -> Tensor:
    return torch.full_like(ids[:, :1], token)  # (batch, 1)


def single(ids: Tensor, special: SpecialTokens) -> Tensor:
    """Return ``[CLS] text [SEP]``, ``(batch, 1 + time + 1)``."""
    _check_ids(ids)
    return torch.cat([_column(ids, special.cls), ids, _column(ids, special.sep)], dim=1)


# --- token by token --------------------------------------------------------------------------------------------------


class TokenBatch(NamedTuple):
    """Inputs, and for each position the token to be predicted there.

    Attributes:
        input_ids: ``(batch, time)``.
        labels: ``(batch, time)``, :data:`IGNORE` where nothing is to be predicted.
    """

    input_ids: Tensor
    labels: Tensor


def causal(ids: Tensor) -> TokenBatch:
    """Causal language modelling: each position is to predict the next token (Radford et al. 2018).

    The labels are shifted already: label ``t`` is token ``t + 1``, and the last position has none.
    """
    _check_ids(ids, least=2)
    return TokenBatch(ids, torch.cat([ids[:, 1:], _column(ids, IGNORE)], dim=1))


def masked(
    ids: Tensor,
    generator: torch.Generator,
    special: SpecialTokens,
    rate: float = 0.15,
    parts: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> TokenBatch:
    """Masked language modelling (Devlin et al. 2019, arXiv:1810.04805).

    Args:
        ids: ``(batch, time)``; special tokens are never chosen.
        generator: source of randomness.
        special: the special tokens.
        rate: probability with which each ordinary token is chosen; the chosen ones are taught.
        parts: of the chosen tokens, the shares replaced by ``[MASK]``, replaced by a random token, left as they are.
    """
    _check_ids(ids)
    _check_rate("rate", rate)
    if min(parts) < 0 or abs(sum(parts) - 1) > 1e-6:
        raise ValueError(f"parts={parts}: three shares that add up to 1, of [MASK], a random token, the token itself")
    chosen = (_dice(ids.shape, generator, ids) < rate) & special.is_ordinary(ids)  # (batch, time)
    dice = _dice(ids.shape, generator, ids)  # (batch, time)
    words = torch.randint(special.ordinary, ids.shape, generator=generator, device=generator.device)  # (batch, time)
    random = special.first + words.to(ids.device)  # (batch, time)
    hidden = torch.where(dice < parts[0], special.mask, torch.where(dice < parts[0] + parts[1], random, ids))
    return TokenBatch(torch.where(chosen, hidden, ids), torch.where(chosen, ids, IGNORE))


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, averaged over the positions that are taught; 0 if none is.

    Args:
        logits: ``(batch, time, vocab)``.
        labels: ``(batch, time)``.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: each label needs its logits")
    total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


# --- pairs of segments -----------------------------------------------------------------------------------------------


class PairBatch(NamedTuple):
    """Two segments in a row, ``[CLS] a [SEP] b [SEP]``, and one label for each row.

    Attributes:
        input_ids: ``(batch, time)``.
        token_type_ids: ``(batch, time)``, 0 up to the first ``[SEP]``, 1 after it.
        labels: ``(batch,)``, 0 for two segments as they stood in the text, 1 for a pair that was made up.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    labels: Tensor


def _pair(first: Tensor, second: Tensor, made_up: Tensor, special: SpecialTokens) -> PairBatch:
    left = single(first, special)  # (batch, 1 + half + 1)
    right = torch.cat([second, _column(second, special.sep)], dim=1)  # (batch, half + 1)
    types = torch.cat([torch.zeros_like(left), torch.ones_like(right)], dim=1)  # (batch, time)
    return PairBatch(torch.cat([left, right], dim=1), types, made_up.long())


def next_sentence(ids: Tensor, generator: torch.Generator, special: SpecialTokens) -> PairBatch:
    """Next-sentence prediction: does the second segment follow the first? (Devlin et al. 2019, arXiv:1810.04805).

    Each row is cut in the middle. With probability one half its second segment is replaced by that of another row, so
    the rows of a batch should come from different documents.

    Args:
        ids: ``(batch, time)``, at least two rows; an odd last token is left out.
        generator: source of randomness.
        special: the special tokens.
    """
    _check_ids(ids, least=2)
    if len(ids) < 2:
        raise ValueError("a batch of 1: next_sentence takes the wrong segment from another row, give at least two")
    first, second = ids[:, : ids.shape[1] // 2 * 2].chunk(2, dim=1)  # (batch, half) each
    made_up = _dice((len(ids),), generator, ids) < 0.5  # (batch,)
    step = torch.randint(1, len(ids), (len(ids),), generator=generator, device=generator.device)  # never the row itself
    other = second[(torch.arange(len(ids), device=step.device) + step) % len(ids)]  # (batch, half)
    return _pair(first, torch.where(made_up[:, None], other, second), made_up, special)


def sentence_order(ids: Tensor, generator: torch.Generator, special: SpecialTokens) -> PairBatch:
    """Sentence-order prediction: have the two segments been swapped? (Lan et al. 2020, arXiv:1909.11942).

    Both segments always come from one text; arguments as for :func:`next_sentence`.
    """
    _check_ids(ids, least=2)
    first, second = ids[:, : ids.shape[1] // 2 * 2].chunk(2, dim=1)  # (batch, half) each
    swapped = _dice((len(ids),), generator, ids) < 0.5  # (batch,)
    left = torch.where(swapped[:, None], second, first)  # (batch, half)
    return _pair(left, torch.where(swapped[:, None], first, second), swapped, special)


# --- permutations ----------------------------------------------------------------------------------------------------


class PermutationBatch(NamedTuple):
    """A text, an order in which to read it, and who may look at whom in that order.

    Attributes:
        input_ids: ``(batch, time)``.
        order: ``(batch, time)``, the positions in the order in which they are read.
        content_mask: ``(batch, query, key)``, true where the key is read no later than the query.
        query_mask: ``(batch, query, key)``, true where the key is read before the query.
        labels: ``(batch, time)``, the tokens that are read last, :data:`IGNORE` elsewhere.
    """

    input_ids: Tensor
    order: Tensor
    content_mask: Tensor
    query_mask: Tensor
    labels: Tensor


def permutation_masks(order: Tensor) -> tuple[Tensor, Tensor]:
    """Return content mask and query mask ``(batch, query, key)`` of reading orders ``(batch, time)``."""
    _check_ids(order)
    if not order.sort(dim=1).values.equal(torch.arange(order.shape[1], device=order.device).expand_as(order)):
        raise ValueError("order: each row takes every position from 0 to time - 1 once")
    rank = order.argsort(dim=1)  # (batch, time): when a position is read
    query_mask = rank[:, None, :] < rank[:, :, None]  # (batch, query, key)
    return rank[:, None, :] <= rank[:, :, None], query_mask


def permuted(ids: Tensor, generator: torch.Generator, special: SpecialTokens, share: float = 1 / 6) -> PermutationBatch:
    """Permutation language modelling (Yang et al. 2019, arXiv:1906.08237).

    Args:
        ids: ``(batch, time)``; special tokens are read first and never predicted.
        generator: source of randomness.
        special: the special tokens.
        share: of all positions, those to be predicted: the last ones of the order, at least one (XLNet: 1/6).
    """
    _check_ids(ids, least=2)
    _check_rate("share", share)
    dice = _dice(ids.shape, generator, ids)  # (batch, time)
    order = torch.where(special.is_ordinary(ids), dice, -1.0).argsort(dim=1)  # (batch, time)
    content_mask, query_mask = permutation_masks(order)
    count = max(1, round(share * ids.shape[1]))
    last = torch.zeros_like(ids, dtype=torch.bool).scatter(1, order[:, -count:], True)  # (batch, time)
    labels = torch.where(last & special.is_ordinary(ids), ids, IGNORE)  # (batch, time)
    return PermutationBatch(ids, order, content_mask, query_mask, labels)


def two_stream(
    stack: Stack, content: Tensor, query: Tensor, content_mask: Tensor, query_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Run XLNet's two streams through the blocks of a stack (Yang et al. 2019, arXiv:1906.08237).

    Both streams use the same weights. The content stream knows the token at its own place, the query stream only the
    place, and looks at the content stream alone; so a query's output does not depend on the token it has to predict.

    Args:
        stack: its positions must be ``rope`` (or ``none``), which tell a query where it stands without its content.
        content: embeddings of the tokens ``(batch, time, d_model)``.
        query: what a place starts from that does not know its token ``(batch, time, d_model)``: one learned vector.
        content_mask: ``(batch, query, key)``, see :class:`PermutationBatch`.
        query_mask: ``(batch, query, key)``.

    Returns:
        Content stream and query stream ``(batch, time, d_model)``, after the stack's last norm.
    """
    config = stack.config
    if config.position not in ("rope", "none") or stack.causal:
        raise ValueError(
            f"a stack with position={config.position!r} and causal={stack.causal}: the streams need an encoder's stack "
            "with position='rope', so that a place is known without its token"
        )
    turn = stack.rotations(torch.arange(content.shape[1], device=content.device)[None], content)
    content, query = stack.embedding_norm(content), stack.embedding_norm(query)  # (batch, time, d_model) each
    for layer in stack.blocks:
        block: Block = unwrapped(layer)
        known = block.before(content, block.attention_norm)  # (batch, time, d_model): keys and values of both streams
        asked = block.before(query, block.attention_norm)  # (batch, time, d_model)
        update, *_ = block.attention(asked, known, query_mask[:, None], turn)
        query = block.after(query, update, block.attention_norm)
        asked = block.before(content, block.attention_norm)  # again: sharing `known` changes gradients' last bits
        update, *_ = block.attention(asked, known, content_mask[:, None], turn)
        content = block.after(content, update, block.attention_norm)
        update = block.feed_forward(block.before(query, block.feed_forward_norm))
        query = block.after(query, update, block.feed_forward_norm)
        update = block.feed_forward(block.before(content, block.feed_forward_norm))
        content = block.after(content, update, block.feed_forward_norm)
    return stack.final_norm(content), stack.final_norm(query)


# --- replaced tokens -------------------------------------------------------------------------------------------------


class ReplacedBatch(NamedTuple):
    """A text in which a small model has replaced some tokens.

    Attributes:
        input_ids: ``(batch, time)``.
        labels: ``(batch, time)``, 1 where the token is not the original one, 0 elsewhere.
    """

    input_ids: Tensor
    labels: Tensor


def replaced(ids: Tensor, hidden: TokenBatch, logits: Tensor, generator: torch.Generator) -> ReplacedBatch:
    """Replaced-token detection: put a small model's guesses where tokens were masked (ELECTRA, arXiv:2003.10555).

    A guess that happens to be the original token counts as original. No gradient flows through the guesses.

    Args:
        ids: the text ``(batch, time)``.
        hidden: the same text as :func:`masked` returned it.
        logits: the small model's, for the taught positions only, in their order: ``(taught, vocab)``.
        generator: source of randomness.
    """
    at = hidden.labels != IGNORE  # (batch, time)
    if hidden.labels.shape != ids.shape or len(logits) != int(at.sum()):
        raise ValueError(
            f"{len(logits)} rows of logits and {int(at.sum())} masked tokens: pass logits[batch.labels != -100]"
        )
    chances = logits.detach().float().to(generator.device).softmax(-1)  # (taught, vocab)
    guesses = torch.multinomial(chances, 1, generator=generator)[:, 0]  # (taught,)
    corrupted = ids.clone()
    corrupted[at] = guesses.to(ids)
    return ReplacedBatch(corrupted, (corrupted != ids).long())


def detection_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy in nats, averaged over positions but those with :data:`IGNORE` (padding); 0 if none is left.

    Args:
        logits: log-odds that the token was replaced, ``(batch, time)``.
        labels: 1 for replaced, 0 for original, ``(batch, time)``.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must have the same shape")
    taught = labels != IGNORE
    reduction = "mean" if taught.any() else "sum"  # torch's mean of nothing is NaN
    return F.binary_cross_entropy_with_logits(logits[taught], labels[taught].to(logits), reduction=reduction)


# --- spans -----------------------------------------------------------------------------------------------------------


class SpanBatch(NamedTuple):
    """A text with spans cut out, and the spans, for an encoder-decoder.

    Attributes:
        input_ids: ``(batch, source)``, a sentinel in place of each span.
        decoder_input_ids: ``(batch, target)``: the labels moved one step to the right, begun by ``[CLS]``.
        labels: ``(batch, target)``, each span after its sentinel, and a last sentinel.
    """

    input_ids: Tensor
    decoder_input_ids: Tensor
    labels: Tensor


def _segments(total: int, parts: int, rows: int, generator: torch.Generator) -> Tensor:
    """Cut ``total`` into ``parts`` lengths of at least 1, all ways equally likely: ``(rows, parts)``."""
    dice = torch.rand(rows, total - 1, generator=generator, device=generator.device).cpu()  # (rows, total - 1)
    cuts = dice.argsort(1)[:, : parts - 1].sort(1).values + 1
    ends = torch.cat([torch.zeros(rows, 1).long(), cuts, torch.full((rows, 1), total)], dim=1)  # (rows, parts + 1)
    return ends.diff(dim=1)


def span_corruption(
    ids: Tensor, generator: torch.Generator, special: SpecialTokens, rate: float = 0.15, mean_length: float = 3.0
) -> SpanBatch:
    """T5's span corruption (Raffel et al. 2020, arXiv:1910.10683): cut spans out, let the decoder write them.

    The number of tokens and of spans is the same in every row, so nothing needs padding; a row begins with text and
    ends with a span, as in T5's own code.

    Args:
        ids: ``(batch, time)``.
        generator: source of randomness.
        special: the special tokens.
        rate: share of the tokens that is cut out, at least one.
        mean_length: of a span, in tokens.
    """
    _check_ids(ids, least=2)
    _check_rate("rate", rate)
    if mean_length < 1:
        raise ValueError(f"mean_length={mean_length}: a span has at least one token")
    rows, time = ids.shape
    cut = min(max(round(time * rate), 1), time - 1)
    spans = min(max(round(cut / mean_length), 1), time - cut)
    if spans >= special.sentinels:
        raise ValueError(f"{spans} spans and {special.sentinels} sentinels: one more is needed than spans")
    kept = _segments(time - cut, spans, rows, generator).to(ids.device)  # (batch, spans)
    lost = _segments(cut, spans, rows, generator).to(ids.device)  # (batch, spans)
    ends = torch.stack([kept, lost], dim=2).flatten(1).cumsum(1)  # (batch, 2 * spans): kept, lost, kept, ...
    place = torch.arange(time, device=ids.device).expand(rows, time)  # (batch, time)
    piece = torch.searchsorted(ends, place.contiguous(), right=True)  # (batch, time): even = kept, odd = lost
    starts = torch.cat([torch.ones_like(piece[:, :1]), piece.diff(dim=1)], dim=1).bool()  # (batch, time)
    hidden, sentinel = piece % 2 == 1, special.sentinel(0) + piece // 2  # (batch, time) each
    source = torch.where(hidden, sentinel, ids)[~hidden | starts].view(rows, -1)  # (batch, time - cut + spans)
    target = torch.where(hidden, ids, sentinel)[hidden | starts].view(rows, -1)  # (batch, cut + spans)
    labels = torch.cat([target, _column(ids, special.sentinel(spans))], dim=1)  # (batch, cut + spans + 1)
    return SpanBatch(source, torch.cat([_column(ids, special.cls), labels[:, :-1]], dim=1), labels)


# --- views -----------------------------------------------------------------------------------------------------------


class ViewBatch(NamedTuple):
    """Two views of each text, ``(batch, 1 + length + 1)`` each; row ``i`` of one belongs to row ``i`` of the other."""

    first: Tensor
    second: Tensor


def two_views(
    ids: Tensor, generator: torch.Generator, special: SpecialTokens, length: int | None = None, rate: float = 0.1
) -> ViewBatch:
    """Cut two independent random pieces out of each text (random cropping, Izacard et al. 2022, arXiv:2112.09118).

    Args:
        ids: ``(batch, time)``.
        generator: source of randomness.
        special: the special tokens.
        length: tokens of a view, by default half of the text.
        rate: share of a view's tokens that is replaced by ``[MASK]``.
    """
    _check_ids(ids, least=2)
    length = ids.shape[1] // 2 if length is None else length
    if not 1 <= length <= ids.shape[1] or not 0 <= rate < 1:
        raise ValueError(f"length={length}, rate={rate}: a length from 1 to {ids.shape[1]}, a share from 0 to below 1")

    def view() -> Tensor:
        last = ids.shape[1] - length
        start = torch.randint(last + 1, (len(ids), 1), generator=generator, device=generator.device)  # (batch, 1)
        piece = ids.gather(1, (start + torch.arange(length, device=start.device)).to(ids.device))  # (batch, length)
        hidden = _dice(piece.shape, generator, ids) < rate  # (batch, length)
        return single(piece.masked_fill(hidden, special.mask), special)  # (batch, 1 + length + 1)

    return ViewBatch(view(), view())


def info_nce(first: Tensor, second: Tensor, temperature: float = 0.05) -> Tensor:
    """Contrastive loss in nats: which of the other views belongs to this one? (arXiv:1807.03748).

    Both directions are averaged, as in CLIP.

    Args:
        first: one vector for each text ``(batch, features)``; only its direction counts.
        second: the other view's ``(batch, features)``.
        temperature: the cosines are divided by it.
    """
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise ValueError(
            f"{tuple(first.shape)} and {tuple(second.shape)}: two views of the same shape (batch, features), at least "
            "one text"
        )
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: it takes a number above 0")
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T  # (batch, batch)
    right = torch.arange(len(first), device=first.device)  # (batch,)
    scores = cosines / temperature  # (batch, batch)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


# --- adversarial -----------------------------------------------------------------------------------------------------


def reinforce_loss(log_probs: Tensor, rewards: Tensor, baseline: Tensor | float | None = None) -> Tensor:
    """Surrogate whose gradient is the REINFORCE estimate (Williams 1992, doi:10.1007/BF00992696).

    Args:
        log_probs: of the tokens that were drawn, ``(batch, time)``, with their gradient.
        rewards: one for each text, ``(batch,)``; no gradient flows through it.
        baseline: subtracted from the rewards, by default their mean; it changes the variance, not (or hardly, if it
            is the batch's own mean) the expectation.
    """
    if log_probs.ndim != 2 or rewards.shape != log_probs.shape[:1] or not len(rewards):
        raise ValueError(
            f"log_probs {tuple(log_probs.shape)} and rewards {tuple(rewards.shape)}: (batch, time) and (batch,), at "
            "least one text"
        )
    rewards = rewards.detach()
    advantage = rewards - (rewards.mean() if baseline is None else baseline)  # (batch,)
    return -(advantage * log_probs.sum(1)).mean()
