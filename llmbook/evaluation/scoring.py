"""Scoring a causal language model on a benchmark: likelihoods of choices, and answers that it writes (chapter 17).

The definitions are those of lm-evaluation-harness (Gao et al., https://doi.org/10.5281/zenodo.5371628), checked against
it in chapter 17. A model is the book's decoder or any causal one of ``transformers``: a call with token ids
``(batch, time)`` that returns an object with ``logits`` ``(batch, time, vocab)``. Rows are padded on the right, where a
causal model cannot look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmbook.evaluation.benchmarks import Benchmark, Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Norm = Literal["sum", "token", "character", "byte"]
SHOT_DELIMITER = "\n\n"
CONTEXT = 512  # tokens, where a model does not say how long a text it reads


class CausalModel(Protocol):
    """What can be scored."""

    def __call__(self, input_ids: Tensor) -> Any:
        """Return an object with ``logits`` ``(batch, time, vocab)`` for ids ``(batch, time)``."""


@dataclass(frozen=True)
class ChoiceScores:
    """Log-likelihoods of the choices of a benchmark, item by item.

    Attributes:
        benchmark: its name.
        version: its version.
        shots: number of examples in the prompt.
        ids: of the items.
        log_likelihood: of each choice given its prompt, in nats, ``(items, choices)``.
        tokens: its length in tokens, ``(items, choices)``.
        characters: its length in characters, without the delimiter, ``(items, choices)``.
        bytes: its length in UTF-8 bytes, without the delimiter, ``(items, choices)``.
        gold: place of the right choice, ``(items,)``.
        truncated: items of which some of the prompt did not fit into the model's context, ``(items,)``.
    """

    benchmark: str
    version: str
    shots: int
    ids: tuple[str, ...]
    log_likelihood: NDArray[np.float64]
    tokens: NDArray[np.int64]
    characters: NDArray[np.int64]
    bytes: NDArray[np.int64]
    gold: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def scores(self, norm: Norm = "sum") -> NDArray[np.float64]:
        """Return what choices are compared by, ``(items, choices)``.

        Args:
            norm: ``sum`` is the log-likelihood itself (the harness's ``acc``); ``character`` divides it by the length
                of the choice in characters (``acc_norm``), ``byte`` in bytes (``acc_bytes``), ``token`` in tokens.
        """
        if norm not in get_args(Norm):
            raise ValueError(f"norm={norm!r}: it takes {', '.join(get_args(Norm))}")
        if norm == "sum":
            return self.log_likelihood
        return self.log_likelihood / {"token": self.tokens, "character": self.characters, "byte": self.bytes}[norm]

    def predictions(self, norm: Norm = "sum") -> NDArray[np.int64]:
        """Return the chosen place of each item, ``(items,)``; of equal scores the first."""
        return self.scores(norm).argmax(1)

    def correct(self, norm: Norm = "sum") -> NDArray[np.float64]:
        """Return 1 for each item that is right and 0 for the others, ``(items,)``."""
        return (self.predictions(norm) == self.gold).astype(float)

    def accuracy(self, norm: Norm = "sum") -> float:
        """Return the share of items that are right."""
        return float(self.correct(norm).mean())

    def probabilities(self, norm: Norm = "sum", temperature: float = 1.0) -> NDArray[np.float64]:
        """Return the softmax of the scores over an item's choices, one of which must be right: ``(items, choices)``."""
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: it takes a number above 0")
        scores = self.scores(norm) / temperature  # (items, choices)
        scores = np.exp(scores - scores.max(1, keepdims=True))  # (items, choices)
        return scores / scores.sum(1, keepdims=True)


@dataclass(frozen=True)
class GenerationScores:
    """What a model wrote for each item of a benchmark, and whether it is the answer.

    Attributes:
        benchmark: its name.
        version: its version.
        shots: number of examples in the prompt.
        ids: of the items.
        outputs: what the model wrote up to the end of the line, without spaces around it.
        references: what it should have written.
        truncated: items of which some of the prompt did not fit, ``(items,)``.
    """

    benchmark: str
    version: str
    shots: int
    ids: tuple[str, ...]
    outputs: tuple[str, ...]
    references: tuple[str, ...]
    truncated: NDArray[np.bool_]

    def correct(self) -> NDArray[np.float64]:
        """Return 1 for each output that is its reference, character by character, else 0: ``(items,)``."""
        return np.array([float(out == ref) for out, ref in zip(self.outputs, self.references, strict=True)])

    def accuracy(self) -> float:
        """Return the share of outputs that are their references."""
        return float(self.correct().mean())


def few_shot_context(benchmark: Benchmark, shots: int) -> str:
    """Return the text that stands before each prompt: the first ``shots`` dev items with their answers.

    Raises:
        ValueError: a negative number, or more than there are dev items.
    """
    if not 0 <= shots <= len(benchmark.dev):
        raise ValueError(f"shots={shots}: {benchmark.name} has {len(benchmark.dev)} examples; take 0 to that many")
    examples = [item.prompt + benchmark.delimiter + item.answer for item in benchmark.dev[:shots]]
    return "".join(example + SHOT_DELIMITER for example in examples)


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that stands before a text: beginning of text, else end of text.

    Raises:
        ValueError: the tokenizer has neither.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise ValueError(
            "the tokenizer has neither a bos nor an eos token, and nothing before which a first token has a "
            "probability: set tokenizer.bos_token, or do not ask for a start token"
        )
    return int(start)


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, start: int | None = None
) -> tuple[list[int], list[int]]:
    """Return the token ids of a prompt and of the answer after it, cut where the harness cuts.

    White space at the end of the prompt belongs to the answer. Both are encoded as one text, and the prompt has as many
    tokens as it has alone: a token that spans the border goes to the answer.

    Args:
        tokenizer: of ``transformers``.
        prompt: may be empty.
        answer: not empty.
        start: the token that stands for an empty prompt; by default the tokenizer's beginning- or end-of-text token.
    """
    if not answer.strip():
        raise ValueError("an empty answer has no likelihood to compare: give at least one visible character")
    stripped = prompt.rstrip()
    answer = prompt[len(stripped) :] + answer
    if not stripped:
        return [start_token(tokenizer) if start is None else start], tokenizer.encode(answer, add_special_tokens=False)
    both = tokenizer.encode(stripped + answer, add_special_tokens=False)
    before = tokenizer.encode(stripped, add_special_tokens=False)
    return before, both[len(before) :]


def longest_context(model: Any) -> int:
    """Return how many tokens a model reads: its config's ``max_length`` (the book's) or ``max_position_embeddings``."""
    config = getattr(model, "config", None)
    for name in ("max_position_embeddings", "n_positions") + (() if hasattr(config, "to_dict") else ("max_length",)):
        if isinstance(value := getattr(config, name, None), int):
            return value
    return CONTEXT


@torch.no_grad()
def log_likelihoods(
    model: CausalModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 16
) -> NDArray[np.float64]:
    """Return ``log P(answer | prompt)`` in nats for pairs of token ids, ``(pairs,)``.

    Pairs that differ in their last token only (one-token answers to the same question) share one row of computation. A
    row that is too long for the model loses tokens at its beginning.

    Args:
        model: a causal model in ``eval`` mode.
        pairs: prompt and answer, each of at least one token.
        batch_size: rows that are computed together.
    """
    for number, (prompt, answer) in enumerate(pairs):
        if not len(prompt) or not len(answer):
            raise ValueError(f"pair {number}: a prompt of {len(prompt)} and an answer of {len(answer)} tokens; both "
                             "need at least one")  # fmt: skip
    limit = longest_context(model)
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, answer) in enumerate(pairs):
        if len(answer) >= limit:
            raise ValueError(f"pair {number}: an answer of {len(answer)} tokens, the model reads {limit}: shorten it")
        rows.setdefault((*prompt, *answer)[:-1][-limit:], []).append(number)
    order = sorted(rows, key=len)  # rows of like lengths together: less padding
    device = _device(model)
    found = np.zeros(len(pairs))
    for begin in range(0, len(order), batch_size):
        part = order[begin : begin + batch_size]
        ids = torch.zeros(len(part), len(part[-1]), dtype=torch.long)  # (batch, time)
        for place, row in enumerate(part):
            ids[place, : len(row)] = torch.tensor(row)
        logits = model(ids.to(device)).logits  # (batch, time, vocab)
        for place, row in enumerate(part):
            most = max(len(pairs[number][1]) for number in rows[row])
            end = len(row)
            log_probs = logits[place, end - most : end].float().log_softmax(-1).cpu()  # (most, vocab)
            for number in rows[row]:
                ahead = torch.tensor(list(pairs[number][1]))  # (answer,)
                chosen = log_probs[most - len(ahead) :].gather(1, ahead[:, None])  # (answer, 1)
                found[number] = chosen.double().sum().item()
    return found


def _device(model: Any) -> torch.device:
    parameter = next(model.parameters(), None) if hasattr(model, "parameters") else None
    return torch.device("cpu") if parameter is None else parameter.device


def score_choices(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: Benchmark,
    shots: int = 0,
    *,
    items: Sequence[Item] | None = None,
    batch_size: int = 16,
    start: bool = False,
) -> ChoiceScores:
    """Score each choice of each item by its log-likelihood after the prompt.

    Args:
        model: a causal model in ``eval`` mode.
        tokenizer: the one that the model was trained with.
        benchmark: of the kind ``choice``.
        shots: number of examples before the prompt, from the dev part.
        items: others than ``benchmark.items``, such as ``benchmark.dev``.
        batch_size: rows that are computed together.
        start: put the tokenizer's beginning-of-text (else its end-of-text) token before each prompt, as at the
            beginning of a training document. The harness does not, unless the tokenizer itself adds one.

    Raises:
        ValueError: a benchmark of the other kind, too many shots.
    """
    if benchmark.kind != "choice":
        raise ValueError(f"{benchmark.name} is of the kind {benchmark.kind}: use score_generation")
    chosen = benchmark.items if items is None else tuple(items)
    context = few_shot_context(benchmark, shots)
    first = start_token(tokenizer) if start else None
    pairs = []
    for item in chosen:
        for choice in item.choices:
            prompt, answer = encode_pair(tokenizer, context + item.prompt, benchmark.delimiter + choice)
            if first is not None and prompt[0] != first:
                prompt = [first, *prompt]
            pairs.append((prompt, answer))
    found = log_likelihoods(model, pairs, batch_size)  # (items * choices,)
    shape = (len(chosen), len(chosen[0].choices))
    limit = longest_context(model)
    too_long = np.array([len(prompt) + len(answer) - 1 > limit for prompt, answer in pairs])
    return ChoiceScores(
        benchmark.name, benchmark.version, shots, tuple(item.id for item in chosen),
        log_likelihood=found.reshape(shape),
        tokens=np.array([len(answer) for _, answer in pairs]).reshape(shape),
        characters=np.array([[len(choice) for choice in item.choices] for item in chosen]),
        bytes=np.array([[len(choice.encode()) for choice in item.choices] for item in chosen]),
        gold=np.array([item.label for item in chosen]),
        truncated=np.any(too_long.reshape(shape), axis=1, keepdims=True)[:, 0],
    )  # fmt: skip


@torch.no_grad()
def masked_log_likelihoods(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: Benchmark,
    shots: int = 0,
    *,
    items: Sequence[Item] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return what a model that fills gaps gives each choice, and which items' prompts were cut.

    The choice is replaced by as many masks as it has tokens, and each of its tokens is scored at its own mask, with all
    of the others hidden. The mean over its tokens is taken, since the model was told how many there are.

    Args:
        model: a masked model of ``transformers`` in ``eval`` mode.
        tokenizer: its own, with a mask token.
        benchmark: of the kind ``choice``, in a template that ends with the choice.
        shots: number of examples before the prompt, from the dev part.
        items: others than ``benchmark.items``, such as ``benchmark.dev``.

    Returns:
        Nats per token ``(items, choices)``, and whether some of the prompt did not fit ``(items,)``.
    """
    chosen = benchmark.items if items is None else tuple(items)
    context, outer = few_shot_context(benchmark, shots), tokenizer("")["input_ids"]
    begin, end = outer[: len(outer) // 2], outer[len(outer) // 2 :]  # [CLS] and [SEP]
    limit, device = longest_context(model), _device(model)
    found, cut = [], []
    for item in chosen:
        scores, too_long = [], False
        for choice in item.choices:
            prompt, answer = encode_pair(
                tokenizer, context + item.prompt, benchmark.delimiter + choice, tokenizer.cls_token_id
            )
            room = limit - len(answer) - len(outer)
            too_long |= len(prompt) > room
            ids = [*begin, *prompt[-room:], *([tokenizer.mask_token_id] * len(answer)), *end]
            logits = model(torch.tensor([ids], device=device)).logits[0]  # (time, vocab)
            places = torch.arange(len(answer)) + len(ids) - len(end) - len(answer)  # (answer,)
            log_probs = logits[places].float().log_softmax(-1).cpu()  # (answer, vocab)
            scores.append(log_probs.gather(1, torch.tensor(answer)[:, None]).mean().item())
        found.append(scores)
        cut.append(too_long)
    return np.array(found), np.array(cut)


def score_generation(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: Benchmark,
    shots: int = 0,
    *,
    items: Sequence[Item] | None = None,
    max_new_tokens: int = 16,
    batch_size: int = 16,
    start: bool = False,
) -> GenerationScores:
    """Let the model write each answer greedily, up to the end of the line.

    Args:
        model: a causal model in ``eval`` mode.
        tokenizer: the one that the model was trained with.
        benchmark: of the kind ``generation``.
        shots: number of examples before the prompt, from the dev part.
        items: others than ``benchmark.items``, such as ``benchmark.dev``.
        max_new_tokens: tokens after which an answer is cut.
        batch_size: prompts that are continued together.
        start: as in :func:`score_choices`.

    Raises:
        ValueError: a benchmark of the other kind, too many shots, a number of new tokens that the model cannot read.
    """
    if benchmark.kind != "generation":
        raise ValueError(f"{benchmark.name} is of the kind {benchmark.kind}: use score_choices")
    limit = longest_context(model) - max_new_tokens
    if max_new_tokens < 1 or limit < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: it takes 1 to {limit + max_new_tokens - 1} for this model")
    chosen = benchmark.items if items is None else tuple(items)
    context = few_shot_context(benchmark, shots)
    before = [start_token(tokenizer)] if start else []
    prompts = [before + tokenizer.encode(context + item.prompt, add_special_tokens=False) for item in chosen]
    outputs = generate_lines(model, tokenizer, [ids[-limit:] for ids in prompts], max_new_tokens, batch_size)
    return GenerationScores(
        benchmark.name, benchmark.version, shots, tuple(item.id for item in chosen), tuple(outputs),
        references=tuple(item.answer for item in chosen), truncated=np.array([len(ids) > limit for ids in prompts]),
    )  # fmt: skip


@torch.no_grad()
def generate_lines(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 16,
    batch_size: int = 16,
) -> list[str]:
    """Continue prompts (token ids) greedily up to a line break, an end token or ``max_new_tokens``.

    Returns the texts without the white space around them; one that begins with a line break is empty. Every step
    computes the whole row again: slow, and right for any causal model without knowing its cache or positions.
    """
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    device = _device(model)
    texts = [""] * len(prompts)
    for begin in range(0, len(order), batch_size):
        running = {number: list(prompts[number]) for number in order[begin : begin + batch_size]}
        for _ in range(max_new_tokens):
            lengths = [len(ids) for ids in running.values()]
            ids = torch.zeros(len(running), max(lengths), dtype=torch.long)  # (batch, time)
            for place, row in enumerate(running.values()):
                ids[place, : len(row)] = torch.tensor(row)
            logits = model(ids.to(device)).logits  # (batch, time, vocab)
            last = logits[torch.arange(len(lengths)), torch.tensor(lengths) - 1]  # (batch, vocab)
            for number, token in zip(list(running), last.argmax(-1).tolist(), strict=True):
                ended = token == tokenizer.eos_token_id
                if not ended:
                    running[number].append(token)
                    texts[number] = str(tokenizer.decode(running[number][len(prompts[number]) :]))
                if ended or "\n" in texts[number]:
                    del running[number]
            if not running:
                break
    return [text.split("\n")[0].strip() for text in texts]


def answer_alone(
    model: CausalModel, tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, batch_size: int = 16
) -> ChoiceScores:
    """Score the choices behind an empty question (see :meth:`Benchmark.without_question`): what they give away."""
    return score_choices(model, tokenizer, benchmark.without_question(), batch_size=batch_size)


def mutual_information(scores: ChoiceScores, alone: ChoiceScores) -> NDArray[np.float64]:
    """Return ``log P(choice | prompt) - log P(choice | empty question)``, ``(items, choices)``.

    What the question adds to a choice (Brown et al. 2020, 2005.14165, section 2.4; the harness's ``acc_mutual_info``).
    """
    if scores.ids != alone.ids:
        raise ValueError("scores and alone hold different items: score the same items in the same order")
    return scores.log_likelihood - alone.log_likelihood


def best_norm(scores: Callable[[Norm], float]) -> Norm:
    """Return the normalisation with the highest score; choose it on the dev part, never on the test items."""
    return max(get_args(Norm), key=lambda norm: (scores(norm), -math.inf if norm != "sum" else 0.0))
