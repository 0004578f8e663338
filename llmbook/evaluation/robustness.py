"""Does a model still answer when the input changes: typos, paraphrases, distractors, behaviour, triggers (chapter 17).

Perturbations take a text and a generator and return a text. Behavioural tests (Ribeiro et al. 2020, arXiv:2005.04118)
take predictions before and after, so that they work with any model. Universal triggers (Wallace et al. 2019,
arXiv:1908.07125) need the gradient of one of the book's classifiers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from llmbook.evaluation.statistics import wilson_interval
from llmbook.finetuning.batches import Batch, Row, collate
from llmbook.finetuning.heads import SequenceClassifier

KINDS = ("minimum functionality", "invariance", "directional")
PLACES = ("begin", "end")

# --- other texts with the same meaning --------------------------------------------------------------------------------

_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {key: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _KEYS for i, key in enumerate(row)}


def typos(text: str, rng: np.random.Generator, rate: float = 0.1) -> str:
    """Return a text with one slip of the finger in a share of its words of four ASCII letters or more.

    The slip is drawn: two letters exchanged, one left out, one doubled, or the key beside it hit. A word's first letter
    stays, as it mostly does when people type.

    Raises:
        ValueError: a rate out of 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: it takes a share of words from 0 to 1")

    def slip(found: re.Match[str]) -> str:
        word = found[0]
        if rng.random() >= rate:
            return word
        kind, i = rng.integers(4), int(rng.integers(1, len(word) - 1))
        if kind == 0:
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        if kind == 1:
            return word[:i] + word[i + 1 :]
        if kind == 2:
            return word[: i + 1] + word[i:]
        near = _NEIGHBOURS[word[i].lower()]
        return word[:i] + near[rng.integers(len(near))] + word[i + 1 :]

    return re.sub(r"[A-Za-z]{4,}", slip, text)


#: Phrases that say the same in a docstring: one of a line may stand for another.
PARAPHRASES: tuple[tuple[str, ...], ...] = (
    ("compute", "calculate", "work out"),
    ("computes", "calculates", "works out"),
    ("return", "give back", "hand back"),
    ("returns", "gives back", "hands back"),
    ("whether", "if"),
    ("number of", "count of"),
    ("must be", "has to be", "should be"),
    ("for example", "e.g.", "for instance"),
    ("the same as", "identical to"),
    ("such as", "like"),
    ("is raised", "is thrown"),
    ("raised when", "thrown when", "raised if"),
    ("contains", "holds", "has in it"),
    ("specifies", "says", "determines"),
    ("in order to", "to", "so as to"),
    ("along", "over"),
    ("along with", "together with"),
    ("use", "employ"),
    ("used", "employed"),
    ("given", "provided"),
    ("only", "solely"),
    ("create", "make", "build"),
    ("a list of", "a sequence of"),
    ("note that", "keep in mind that"),
)
_OTHERS = {
    phrase: tuple(p for p in group if p != phrase)
    for group in PARAPHRASES
    for phrase in group
    if phrase not in ("to", "if", "like", "has in it", "says", "make", "over")  # too many other meanings
}
_PHRASES = re.compile(
    r"(?<![\w.-])(?:" + "|".join(re.escape(p) for p in sorted(_OTHERS, key=len, reverse=True)) + r")(?!\w)",
    re.IGNORECASE,
)


def paraphrase(text: str, rng: np.random.Generator, share: float = 1.0) -> str:
    """Return a text in which a share of the phrases of ``PARAPHRASES`` are exchanged for others of the same meaning.

    The first letter stays a capital where it was one. A text without such a phrase is returned as it is.

    Raises:
        ValueError: a share out of 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: it takes a share of phrases from 0 to 1")

    def other(found: re.Match[str]) -> str:
        choices = _OTHERS[found[0].lower()]
        if rng.random() >= share:
            return found[0]
        new = choices[rng.integers(len(choices))]
        return new[0].upper() + new[1:] if found[0][0].isupper() else new

    return _PHRASES.sub(other, text)


def add_distractor(text: str, distractor: str, place: str = "end") -> str:
    """Return a text with a sentence that has nothing to do with it, as a paragraph before or after.

    Raises:
        ValueError: a place other than ``begin`` and ``end``, or an empty distractor.
    """
    if place not in PLACES:
        raise ValueError(f"place={place!r}: it takes one of {', '.join(PLACES)}")
    if not distractor.strip():
        raise ValueError("the distractor is empty: give a sentence")
    return f"{distractor}\n\n{text}" if place == "begin" else f"{text}\n\n{distractor}"


# --- tests of behaviour -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Behaviour:
    """The result of one behavioural test.

    Attributes:
        name: what was tested.
        kind: one of ``KINDS``.
        failed: which cases failed, ``(cases,)`` of bool.
    """

    name: str
    kind: str
    failed: np.ndarray

    @property
    def rate(self) -> float:
        """Share of cases that failed."""
        return float(self.failed.mean())

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Wilson's interval of the failure rate (over cases that could have been drawn)."""
        _, low, high = wilson_interval(int(self.failed.sum()), len(self.failed), level)
        return low, high

    def row(self) -> dict[str, Any]:
        """Return a line for a table."""
        low, high = self.interval()
        return {"test": self.name, "kind": self.kind, "cases": len(self.failed), "failed": self.rate,
                "from": low, "to": high}  # fmt: skip


def _behaviour(name: str, kind: str, one: ArrayLike, other: ArrayLike, rule: Callable[..., np.ndarray]) -> Behaviour:
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(
            f"{name}: arrays of shapes {first.shape} and {second.shape}; give one number for each case in both"
        )
    return Behaviour(name, kind, rule(first, second))


def minimum_functionality(name: str, predicted: ArrayLike, wanted: ArrayLike) -> Behaviour:
    """Return which easy cases a model gets wrong that it has to get right, labels ``(cases,)`` each."""
    return _behaviour(name, KINDS[0], predicted, wanted, lambda p, w: p != w)


def invariance(name: str, before: ArrayLike, after: ArrayLike) -> Behaviour:
    """Return in which cases a change that should not matter changed the prediction, labels ``(cases,)`` each."""
    return _behaviour(name, KINDS[1], before, after, lambda b, a: b != a)


def directional(name: str, before: ArrayLike, after: ArrayLike, direction: int, tolerance: float = 0.0) -> Behaviour:
    """Return in which cases a score moved against the direction in which a change has to move it, or too far.

    Args:
        name: what is tested.
        before: scores, ``(cases,)``.
        after: scores of the changed texts, in the same order.
        direction: 1 where they must not fall, -1 where they must not rise.
        tolerance: by so much they may move in the wrong direction.
    """
    if direction not in (1, -1) or tolerance < 0:
        raise ValueError(f"direction={direction}, tolerance={tolerance}: they take 1 or -1, and a number from 0 up")
    return _behaviour(name, KINDS[2], before, after, lambda b, a: direction * (a - b) < -tolerance)


# --- universal triggers -----------------------------------------------------------------------------------------------


def with_trigger(rows: Sequence[Row], trigger: Sequence[int], at: int = 1) -> list[dict[str, Any]]:
    """Return rows with the same tokens put in at one place, by default after the first token (``[CLS]``).

    Args:
        rows: with ``input_ids``, lists of at least ``at`` tokens.
        trigger: token ids.
        at: how many tokens stand before them.
    """
    short = [number for number, row in enumerate(rows) if len(row["input_ids"]) < at]
    if short:
        raise ValueError(f"row {short[0]} has fewer than at={at} tokens: put the trigger further to the front")
    return [{**row, "input_ids": [*row["input_ids"][:at], *trigger, *row["input_ids"][at:]]} for row in rows]


def trigger_gradient(model: SequenceClassifier, batch: Batch, at: int, length: int) -> Tensor:
    """Return the gradient of the loss with respect to the embeddings of a trigger, summed over the batch.

    Args:
        model: in ``eval`` mode.
        batch: with the trigger in it, and labels.
        at: the trigger's first place.
        length: its tokens.

    Returns:
        ``(length, d_model)``: one trigger stands in all texts, so its gradient is the sum of theirs.
    """
    kept: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()  # (batch, time, d_model)
        kept.append(leaf)
        return leaf

    handle = model.backbone.embeddings.register_forward_hook(keep)
    try:
        loss = model(**batch).loss
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(loss, kept)  # (batch, time, d_model)
    return gradient[:, at : at + length].sum(0).float()


def hotflip(gradient: Tensor, embeddings: Tensor, count: int, allowed: Tensor | None = None) -> Tensor:
    """Return the tokens that lower the loss most, as the gradient sees it (Ebrahimi et al. 2018, arXiv:1712.06751).

    Exchanging the vector ``e`` for ``e'`` changes the loss by about ``(e' - e) . gradient``; ``e`` is the same for all
    candidates, so those with the smallest ``e' . gradient`` are the best.

    Args:
        gradient: of the loss, ``(length, d_model)``.
        embeddings: the table, ``(vocab, d_model)``.
        count: candidates for each place.
        allowed: ``(vocab,)`` of bool, by default all tokens.

    Returns:
        Token ids ``(length, count)``, the best first.
    """
    change = gradient @ embeddings.float().T  # (length, vocab)
    if allowed is not None:
        if int(allowed.sum()) < count:
            raise ValueError(f"{int(allowed.sum())} tokens are allowed and count={count}: allow more, or ask for fewer")
        change = change.masked_fill(~allowed.to(change.device), torch.inf)
    return change.topk(count, largest=False).indices


@dataclass(frozen=True)
class Trigger:
    """What :func:`universal_trigger` found.

    Attributes:
        ids: the tokens, ``length`` of them.
        start: the tokens that it began with.
        losses: the attacker's loss on the batch at hand after each exchange that was tried; lower is better for it.
    """

    ids: list[int]
    start: list[int]
    losses: list[float]


def universal_trigger(
    model: SequenceClassifier,
    rows: Sequence[Row],
    pad: int,
    length: int = 3,
    target: int | None = None,
    steps: int = 2,
    candidates: int = 8,
    batch_size: int = 24,
    allowed: Tensor | None = None,
    at: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Trigger:
    """Look for a few tokens that lead a classifier astray in front of any text (Wallace et al. 2019).

    From tokens at random, in each step: draw texts, take the gradient at the trigger, let :func:`hotflip` name
    candidates for every place, try them one by one with the model, and keep what lowers the attacker's loss.

    Args:
        model: a classifier; it is not changed and left in ``eval`` mode.
        rows: texts with their labels, to search on; test the trigger on others.
        pad: id of the token that pads.
        length: tokens of the trigger.
        target: the label that all texts should get; rows that have it are left out. By default any wrong one.
        steps: rounds over all places.
        candidates: tokens tried at each place and step.
        batch_size: texts drawn for a step.
        allowed: ``(vocab,)`` of bool, tokens that the attacker may use.
        at: how many tokens stand before the trigger.
        seed: of the first tokens and the draws.
        dtype: of the products, as in ``training.fit``.

    Raises:
        ValueError: a length, steps or candidates below 1, a target that is no label, or no row that has another label.
    """
    if min(length, steps, candidates) < 1:
        raise ValueError(f"length={length}, steps={steps}, candidates={candidates}: each takes a number from 1 up")
    if target is not None and not 0 <= target < model.num_labels:
        raise ValueError(f"target={target}: the model has the labels 0 to {model.num_labels - 1}")
    used = [row for row in rows if row["labels"] != target]
    if not used:
        raise ValueError(f"no row has another label than target={target}: give texts to be led astray")
    model.eval()
    device = next(model.parameters()).device
    table = model.backbone.embeddings.weight.detach()  # (vocab, d_model)
    permitted = torch.ones(len(table), dtype=torch.bool, device=device) if allowed is None else allowed.to(device)
    rng = np.random.default_rng(seed)
    trigger = rng.choice(permitted.nonzero()[:, 0].cpu().numpy(), size=length).tolist()
    start, sign, losses = list(trigger), -1.0 if target is None else 1.0, []

    def batch_of(part: Sequence[Row], ids: Sequence[int]) -> Batch:
        return collate(with_trigger(part, ids, at), pad).to(device)

    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for _ in range(steps):
            chosen = rng.permutation(len(used))[:batch_size]
            part = [used[row] if target is None else {**used[row], "labels": target} for row in chosen]
            gradient = sign * trigger_gradient(model, batch_of(part, trigger), at, length)  # (length, d_model)
            tried = hotflip(gradient, table, candidates, permitted).tolist()
            with torch.no_grad():
                best = sign * float(model(**batch_of(part, trigger)).loss)
                for place in range(length):
                    for token in tried[place]:
                        changed = [*trigger[:place], token, *trigger[place + 1 :]]
                        loss = sign * float(model(**batch_of(part, changed)).loss)
                        if loss < best:
                            best, trigger = loss, changed
                        losses.append(best)
    return Trigger(trigger, start, losses)
