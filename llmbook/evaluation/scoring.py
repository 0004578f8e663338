"""Scoring a causal language model on a benchmark: likelihoods of choices, and answers that it writes (chapter 17).

The definitions are those of lm-evaluation-harness (Gao et al., https://doi.org/10.5281/zenodo.5371628), checked against
it in chapter 17. A model is the book's decoder or any causal one of ``transformers``: a call with token ids
``(batch, time)`` that returns an object with ``logits`` ``(batch, time, vocab)``. Rows are padded on the right, where a
causal model cannot look.

A tokenizer that puts a token of its own before every text (``<s>`` in Llama, ``<bos>`` in Gemma) puts it before every
prompt, as in the harness: the model never read a text without it. See :func:`tokens_around`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmbook.evaluation.benchmarks import Benchmark, Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Norm = Literal["sum", "token", "character", "byte"]
Row = TypeVar("Row")
SHOT_DELIMITER = "\n\n"
NEW_TOKENS = 16  # after which a written answer is cut
CONTEXT = 512  # tokens, where a model does not say how long a text it reads
TRANSFORMERS_CONTEXT = 2048  # the same for a model of transformers (Bloom, Mamba): what the harness takes
#: Where the configurations of ``transformers`` say how many tokens a model reads, the first that they have.
CONTEXT_FIELDS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions", "seq_length",
)  # fmt: skip


#: What to do about a model whose numbers are none.
UNSOUND = "its weights are damaged or overflow in this precision; save it anew, or take float32"


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


def tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer itself puts before and after every text: ``[CLS]`` and ``[SEP]``, ``<s>``, none.

    They are read off an encoded text, since no attribute says it for every tokenizer.
    """
    for text in ("a", "A", "the", "1", "."):
        alone = tokenizer.encode(text, add_special_tokens=False)
        framed = tokenizer.encode(text)
        for place in range(len(framed) - len(alone) + 1 if alone else 0):
            if framed[place : place + len(alone)] == alone:
                return framed[:place], framed[place + len(alone) :]
    return [], []


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that stands before a text: beginning of text, else end of text.

    A tokenizer that names no beginning of text and puts one token before every text has that one for it (``[CLS]``).

    Raises:
        ValueError: the tokenizer has none of them.
    """
    if tokenizer.bos_token_id is not None:
        return int(tokenizer.bos_token_id)
    before, _ = tokens_around(tokenizer)
    start = before[0] if len(before) == 1 else tokenizer.eos_token_id
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
    tokens as it has alone: a token that spans the border goes to the answer. (The harness then has the prompt as it is
    alone, so that the characters before the border stand twice, or no token is left for the answer.) The tokens that
    the tokenizer puts before every text come first.

    Args:
        tokenizer: of ``transformers``.
        prompt: may be empty.
        answer: not empty.
        start: the token that stands for an empty prompt; by default the tokenizer's beginning- or end-of-text token.

    Returns:
        Both; the answer has no token where the tokenizer drops all of its characters.

    Raises:
        ValueError: an answer without a visible character, or an empty prompt where the tokenizer has no token for it.
    """
    return _encoded_pair(tokenizer, prompt, answer, start, tokens_around(tokenizer)[0])


def _encoded_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, start: int | None, beginning: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Do what ``encode_pair`` does, for a beginning that is known."""
    if not answer.strip():
        raise ValueError("an empty answer has no likelihood to compare: give at least one visible character")
    stripped = prompt.rstrip()
    answer = prompt[len(stripped) :] + answer
    if not stripped:
        return [start_token(tokenizer) if start is None else start], tokenizer.encode(answer, add_special_tokens=False)
    both = tokenizer.encode(stripped + answer, add_special_tokens=False)
    before = tokenizer.encode(stripped, add_special_tokens=False)
    size = len(before)
    if both[:size] != before or len(both) == size:
        size = _tokens_within(tokenizer, stripped + answer, len(stripped), both, before)
    before = _begun(both[:size], beginning)
    if not before:
        before = [start_token(tokenizer) if start is None else start]
    return before, both[size:]


def _tokens_within(
    tokenizer: PreTrainedTokenizerBase, text: str, border: int, both: Sequence[int], before: Sequence[int]
) -> int:
    """Return how many of a text's first tokens end at or before a place in it."""
    if tokenizer.is_fast:
        ends = [end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping]
        return next((number for number, end in enumerate(ends) if end > border), len(ends))
    same = [one == other for one, other in zip(both, before, strict=False)]  # written in Python: it knows no places
    return min([*same, False].index(False), len(both) - 1)


def _begun(ids: list[int], beginning: Sequence[int]) -> list[int]:
    """Return ids with the tokenizer's beginning before them, unless the text itself begins with it."""
    return ids if ids[: len(beginning)] == list(beginning) else [*beginning, *ids]


def longest_context(model: Any) -> int:
    """Return how many tokens a model reads, as its config says: ``max_length`` in the book's, :data:`CONTEXT_FIELDS`.

    A model of several parts (Gemma 3 with images) says it in the part for text. RoBERTa and its kin count positions
    from ``padding_idx + 1`` on, which leaves 512 of 514. Where nothing is said, it is :data:`TRANSFORMERS_CONTEXT`
    for a model of ``transformers``, else :data:`CONTEXT`.
    """
    config: Any = getattr(model, "config", None)
    theirs = hasattr(config, "to_dict")
    parts = [config.get_text_config(decoder=True), config] if hasattr(config, "get_text_config") else [config]
    for part in parts:
        for name in CONTEXT_FIELDS if theirs else (*CONTEXT_FIELDS, "max_length"):
            value = getattr(part, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value - _unused_positions(model, value)
    return TRANSFORMERS_CONTEXT if theirs else CONTEXT


def _unused_positions(model: Any, positions: int) -> int:
    """Return how many rows of a table of positions stand before the one of a text's first token."""
    for name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
        padding, weight = getattr(module, "padding_idx", None), getattr(module, "weight", None)
        if "position" in name.rpartition(".")[2] and padding is not None and isinstance(weight, Tensor):
            return padding + 1 if len(weight) == positions else 0
    return 0


def batches(rows: Sequence[Row], length: Callable[[Row], int], size: int, model: Any) -> Iterator[Sequence[Row]]:
    """Yield rows that may be computed together, at most ``size``; they come and go in the order of their length.

    Rotations of the kinds ``longrope`` (Phi-3) and ``dynamic`` change for a whole batch as soon as one of its rows is
    longer than those that the model was first trained on; such rows are only put beside others of their length.
    """
    border = _rotations_change_behind(model)
    place = 0
    while place < len(rows):
        part = rows[place : place + size]
        first = length(part[0])
        # rows stand in the order of their length, so that those that stay together are the first ones
        part = [row for row in part if length(row) == first or max(length(row), first) <= border]
        yield part
        place += len(part)


def _rotations_change_behind(model: Any) -> float:
    """Return the length behind which a model of ``transformers`` rotates queries and keys in another way."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        return math.inf
    config = config.get_text_config(decoder=True)
    said = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [said, *(part for part in said.values() if isinstance(part, dict))]  # there may be one for a kind of layer
    changing = [kind for kind in kinds if kind.get("rope_type", kind.get("type")) in ("longrope", "dynamic")]
    name = "original_max_position_embeddings"
    known = [kind.get(name) or getattr(config, name, None) or config.max_position_embeddings for kind in changing]
    return min(known, default=math.inf)


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

    Raises:
        ValueError: an empty prompt or answer, an answer that the model cannot read, a log-probability that is NaN.
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
    for part in batches(order, len, batch_size, model):
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
    if np.isnan(found).any():
        number = int(np.isnan(found).argmax())
        raise ValueError(f"pair {number}: the model gives NaN in place of a likelihood: {UNSOUND}")
    return found


def _device(model: Any) -> torch.device:
    parameter = next(model.parameters(), None) if hasattr(model, "parameters") else None
    return torch.device("cpu") if parameter is None else parameter.device


def choice_tokens(
    tokenizer: PreTrainedTokenizerBase,
    benchmark: Benchmark,
    items: Sequence[Item],
    shots: int,
    limit: int,
    *,
    start: bool = False,
) -> list[tuple[list[int], list[int]]]:
    """Return prompt and answer of each choice of each item as token ids, the choices of an item side by side.

    Args:
        tokenizer: the one that the model was trained with.
        benchmark: of the kind ``choice``.
        items: whose choices are encoded.
        shots: number of examples before the prompt, from the dev part.
        limit: tokens that the model reads; a prompt may exceed it, a choice may not.
        start: as in :func:`score_choices`.

    Raises:
        ValueError: a benchmark of the other kind, too many shots, a choice that has no token or too many of them.
    """
    if benchmark.kind != "choice":
        raise ValueError(f"{benchmark.name} is of the kind {benchmark.kind}: use score_generation")
    context, (beginning, _) = few_shot_context(benchmark, shots), tokens_around(tokenizer)
    first = start_token(tokenizer) if start else None
    pairs = []
    for item in items:
        for choice in item.choices:
            prompt, answer = _encoded_pair(
                tokenizer, context + item.prompt, benchmark.delimiter + choice, None, beginning
            )
            _check_answer(benchmark, item, choice, len(answer), limit - 1)
            if first is not None and prompt[0] != first:
                prompt = [first, *prompt]
            pairs.append((prompt, answer))
    return pairs


def _check_answer(benchmark: Benchmark, item: Item, choice: str, size: int, most: int) -> None:
    """Refuse a choice whose number of tokens cannot be scored."""
    if not 1 <= size <= most:
        raise ValueError(
            f"{benchmark.name}, item {item.id}: the choice {choice[:40]!r} has {size} tokens for this tokenizer, and "
            f"the model can score 1 to {most} of them: take the item out, or write the choice in another way"
        )


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
        ValueError: a benchmark of the other kind, too many shots, a choice that has no token or too many of them.
    """
    chosen = benchmark.items if items is None else tuple(items)
    limit = longest_context(model)
    pairs = choice_tokens(tokenizer, benchmark, chosen, shots, limit, start=start)
    found = log_likelihoods(model, pairs, batch_size)  # (items * choices,)
    shape = (len(chosen), len(chosen[0].choices))
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


def gap_tokens(
    tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, items: Sequence[Item], shots: int, limit: int
) -> list[tuple[list[int], list[int]]]:
    """Return prompt and answer of each choice as token ids for a model that fills gaps, without what stands around.

    Args:
        tokenizer: the one that the model was trained with.
        benchmark: of the kind ``choice``.
        items: whose choices are encoded.
        shots: number of examples before the prompt, from the dev part.
        limit: tokens that the model reads; a prompt may exceed it, a choice may not.

    Raises:
        ValueError: too many shots, a choice that has no token or too many of them.
    """
    context, around = few_shot_context(benchmark, shots), sum(map(len, tokens_around(tokenizer)))
    pairs = []
    for item in items:
        for choice in item.choices:
            text = context + item.prompt
            prompt, answer = _encoded_pair(tokenizer, text, benchmark.delimiter + choice, tokenizer.cls_token_id, ())
            _check_answer(benchmark, item, choice, len(answer), limit - around - 1)
            pairs.append((prompt, answer))
    return pairs


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

    Raises:
        ValueError: too many shots, a choice that has no token or too many of them, a log-probability that is NaN.
    """
    chosen = benchmark.items if items is None else tuple(items)
    begin, end = tokens_around(tokenizer)  # [CLS] and [SEP]
    limit, device = longest_context(model), _device(model)
    pairs = iter(gap_tokens(tokenizer, benchmark, chosen, shots, limit))
    found, cut = [], []
    for item in chosen:
        scores, too_long = [], False
        for _ in item.choices:
            prompt, answer = next(pairs)
            room = limit - len(answer) - len(begin) - len(end)
            too_long |= len(prompt) > room
            ids = [*begin, *prompt[-room:], *([tokenizer.mask_token_id] * len(answer)), *end]
            logits = model(torch.tensor([ids], device=device)).logits[0]  # (time, vocab)
            places = torch.arange(len(answer)) + len(ids) - len(end) - len(answer)  # (answer,)
            log_probs = logits[places].float().log_softmax(-1).cpu()  # (answer, vocab)
            scores.append(log_probs.gather(1, torch.tensor(answer)[:, None]).mean().item())
        if np.isnan(scores).any():
            where = f"{benchmark.name}, item {item.id}"
            raise ValueError(f"{where}: the model gives NaN in place of a likelihood: {UNSOUND}")
        found.append(scores)
        cut.append(too_long)
    return np.array(found), np.array(cut)


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase,
    benchmark: Benchmark,
    items: Sequence[Item],
    shots: int,
    limit: int,
    max_new_tokens: int = NEW_TOKENS,
    *,
    start: bool = False,
) -> list[list[int]]:
    """Return what a model reads before it writes the answer of each item: token ids, at least one, nothing cut off.

    Args:
        tokenizer: the one that the model was trained with.
        benchmark: of the kind ``generation``.
        items: whose prompts are encoded.
        shots: number of examples before the prompt, from the dev part.
        limit: tokens that the model reads.
        max_new_tokens: tokens after which an answer is cut.
        start: as in :func:`score_choices`.

    Raises:
        ValueError: a benchmark of the other kind, too many shots, a number of new tokens that the model cannot read.
    """
    if benchmark.kind != "generation":
        raise ValueError(f"{benchmark.name} is of the kind {benchmark.kind}: use score_choices")
    if not 1 <= max_new_tokens < limit:
        raise ValueError(f"max_new_tokens={max_new_tokens}: it takes 1 to {limit - 1} for this model")
    context, (beginning, _) = few_shot_context(benchmark, shots), tokens_around(tokenizer)
    before = [start_token(tokenizer)] if start else beginning
    found = []
    for item in items:
        ids = _begun(tokenizer.encode(context + item.prompt, add_special_tokens=False), before)
        found.append(ids or [start_token(tokenizer)])
    return found


def score_generation(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: Benchmark,
    shots: int = 0,
    *,
    items: Sequence[Item] | None = None,
    max_new_tokens: int = NEW_TOKENS,
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
    chosen = benchmark.items if items is None else tuple(items)
    limit = longest_context(model) - max_new_tokens
    prompts = prompt_tokens(tokenizer, benchmark, chosen, shots, longest_context(model), max_new_tokens, start=start)
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
    max_new_tokens: int = NEW_TOKENS,
    batch_size: int = 16,
) -> list[str]:
    """Continue prompts (token ids) greedily up to a line break, an end token or ``max_new_tokens``.

    Returns the texts without special tokens and without the white space around them; one that begins with a line break
    is empty. End tokens are the tokenizer's and those of the model's ``generation_config``. Every step computes the
    whole row again: slow, and right for any causal model without knowing its cache or positions.

    Raises:
        ValueError: a prompt without a token, or a model that gives NaN.
    """
    if empty := [number for number, ids in enumerate(prompts) if not len(ids)]:
        raise ValueError(f"prompt {empty[0]} has no token: give at least one, such as start_token(tokenizer)")
    ends = _end_tokens(model, tokenizer)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    device = _device(model)
    texts = [""] * len(prompts)
    for part in batches(order, lambda number: len(prompts[number]) + max_new_tokens, batch_size, model):
        running = {number: list(prompts[number]) for number in part}
        for _ in range(max_new_tokens):
            lengths = [len(ids) for ids in running.values()]
            ids = torch.zeros(len(running), max(lengths), dtype=torch.long)  # (batch, time)
            for place, row in enumerate(running.values()):
                ids[place, : len(row)] = torch.tensor(row)
            logits = model(ids.to(device)).logits  # (batch, time, vocab)
            last = logits[torch.arange(len(lengths)), torch.tensor(lengths) - 1]  # (batch, vocab)
            highest, tokens = last.max(-1)  # (batch,), (batch,)
            if highest.isnan().any():
                raise ValueError(f"the model gives NaN in place of logits: {UNSOUND}")
            for number, token in zip(list(running), tokens.tolist(), strict=True):
                ended = token in ends
                if not ended:
                    running[number].append(token)
                    written = running[number][len(prompts[number]) :]
                    texts[number] = str(tokenizer.decode(written, skip_special_tokens=True))
                if ended or "\n" in texts[number]:
                    del running[number]
            if not running:
                break
    return [text.split("\n")[0].strip() for text in texts]


def _end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int | None]:
    """Return the ids after which a model writes nothing more; some models have several."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list | tuple) else [ends])}


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
