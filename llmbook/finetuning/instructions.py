"""Instructions and their answers as rows: a chat template, loss on the answer, packing, text-to-text (chapter 15)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from llmbook import corpora
from llmbook.finetuning.batches import Batch, Row, collate
from llmbook.objectives import IGNORE, averaged_over, mean_cross_entropy
from llmbook.tokenization import BOS, EOS, load_tokenizer
from llmbook.transformer import Decoder, EncoderDecoder, greedy

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant")
SOURCE = 400  # characters of a source that are kept
LOSS_ON = ("answer", "everything")
#: What is asked: the parts of the book's labelled data that have a text as their answer.
TASKS = ("section", "topic", "type", "summary", "docstring")
#: The chat template of this chapter in Jinja, as a tokenizer of ``transformers`` keeps it. What stands between
#: ``generation`` and ``endgeneration`` is the assistant's: ``apply_chat_template`` can return it as a mask.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<s>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ message['content'] + '</s>' }}{% endgeneration %}"
    "{%- else -%}{{ message['content'] + '</s>' }}{%- endif -%}"
    "{{ '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<s>assistant\\n' }}{%- endif -%}"
)
_MARKS = re.compile(f"({re.escape(BOS)}|{re.escape(EOS)})")


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of ``pydocs-gpt`` with :data:`CHAT_TEMPLATE`; its end token is that of a turn, ``</s>``."""
    tokenizer = load_tokenizer("gpt")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.eos_token = EOS
    return tokenizer


def apply_chat_template(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False) -> str:
    """Write a conversation as one text, as ``apply_chat_template`` does with :data:`CHAT_TEMPLATE`.

    Args:
        messages: each with ``role`` (system, user or assistant) and ``content``.
        add_generation_prompt: end with the head of an assistant's turn, for the model to go on.

    Raises:
        ValueError: no message, another role, or a content that holds one of the marks of a turn: whoever may write
            those can speak in another's name.
    """
    if not messages:
        raise ValueError("no message: a conversation has at least one, {'role': 'user', 'content': ...}")
    parts = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise ValueError(f"role={role!r}: it takes {', '.join(ROLES)}")
        if found := _MARKS.search(content):
            raise ValueError(
                f"the {role}'s text holds {found[0]!r}, which begins or ends a turn: remove it, or the text speaks in "
                "another's name"
            )
        parts.append(f"{BOS}{role}\n{content}{EOS}\n")
    return "".join(parts) + (f"{BOS}assistant\n" if add_generation_prompt else "")


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """One instruction and its answer; ``source`` is what the instruction is about, and may be shortened."""

    task: str
    instruction: str
    source: str
    answer: str

    def user(self, source: str | None = None) -> str:
        """Return what the user says: the instruction, and the source below it."""
        source = self.source if source is None else source
        return f"{self.instruction}\n{source}" if source else self.instruction


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of what somebody wrote: what looks like a special token in it is text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _marked_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a conversation as one text, in which the marks of turns are the only special tokens."""
    ids: list[int] = []
    for place, part in enumerate(_MARKS.split(text)):  # text, mark, text, ..., text
        if place % 2:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
        elif part:
            ids += _ids(tokenizer, part)
    return ids


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return what the ids stand for, without white space around it."""
    return str(tokenizer.decode(list(ids))).strip()


def prompt_row(tokenizer: PreTrainedTokenizerBase, example: Instruction, max_length: int = 160) -> dict[str, list[int]]:
    """Return ``input_ids`` of the user's turn and the head of the assistant's, for the model to go on.

    The source is cut at its end where the prompt is longer than ``max_length`` tokens.

    Raises:
        ValueError: the instruction alone is too long.
    """
    source_ids = _ids(tokenizer, example.source)
    room = max_length - len(_turns(tokenizer, example.user("")))  # an empty source takes no line of its own
    keep = len(source_ids) if len(source_ids) < room else room - 1
    while keep >= 0:
        # a cut may go through a character of several bytes
        source = str(tokenizer.decode(source_ids[:keep])).rstrip("\N{REPLACEMENT CHARACTER}")
        ids = _turns(tokenizer, example.user(example.source if keep == len(source_ids) else source))
        if len(ids) <= max_length:
            return {"input_ids": ids}
        keep = min(keep, len(source_ids)) - 4 if keep > 4 else keep - 1
    raise ValueError(
        f"max_length={max_length}: the instruction alone, {example.instruction[:40]!r}, needs {max_length - room} "
        "tokens; allow more, or shorten it"
    )


def _turns(tokenizer: PreTrainedTokenizerBase, user: str) -> list[int]:
    return _marked_ids(tokenizer, apply_chat_template([{"role": "user", "content": user}], add_generation_prompt=True))


def instruction_row(
    tokenizer: PreTrainedTokenizerBase, example: Instruction, max_length: int = 192, loss_on: str = "answer"
) -> dict[str, list[int]]:
    """Return ``input_ids`` and ``labels`` of an instruction with its answer.

    ``labels`` are the ids themselves where a token is taught and -100 elsewhere, unshifted as in ``transformers``:
    :func:`labelled_loss` compares each with the logits of the position before it.

    Args:
        tokenizer: see :func:`chat_tokenizer`.
        example: the instruction; its source is cut where prompt and answer have more than ``max_length`` tokens.
        max_length: of the row.
        loss_on: ``answer`` teaches the answer and the mark that ends it, ``everything`` the user's turn as well.

    Raises:
        ValueError: no answer, instruction and answer are too long together, or an unknown ``loss_on``.
    """
    if loss_on not in LOSS_ON:
        raise ValueError(f"loss_on={loss_on!r}: it takes {', '.join(LOSS_ON)}")
    if not example.answer:
        raise ValueError(f"the instruction {example.instruction[:40]!r} has no answer: there is nothing to teach")
    if found := _MARKS.search(example.answer):
        raise ValueError(f"the answer holds {found[0]!r}, which begins or ends a turn: remove it")
    answer = _marked_ids(tokenizer, f"{example.answer}{EOS}")
    if len(answer) >= max_length:
        raise ValueError(f"max_length={max_length}: the answer alone has {len(answer)} tokens; allow more")
    prompt = prompt_row(tokenizer, example, max_length - len(answer))["input_ids"]
    taught = [IGNORE] * len(prompt) if loss_on == "answer" else list(prompt)
    return {"input_ids": prompt + answer, "labels": taught + answer}


def _labels_with_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Count the labels but the first of each row, before which there is nothing to predict it from."""
    return (batch["labels"][:, 1:] != IGNORE).sum()


@averaged_over(_labels_with_logits)
def labelled_loss(model: Decoder, batch: Batch) -> Tensor:
    """Return the mean loss of the labelled tokens in nats, 0 if there is none: ``loss_of`` of ``training.fit``.

    The head is computed only where there is a label. Batches of packed rows (see :func:`pack`) keep their examples
    apart.
    """
    labels = batch["labels"][:, 1:]  # (batch, time - 1)
    hidden = states(model, batch)[:, :-1][labels != IGNORE]  # (taught, d_model)
    return mean_cross_entropy(model.lm_head(hidden).float(), labels[labels != IGNORE])


# --- packing ----------------------------------------------------------------------------------------------------------


def pack(rows: Sequence[Row], length: int) -> list[dict[str, list[int]]]:
    """Put several rows one behind the other into rows of at most ``length`` tokens, each whole (first fit).

    Returns:
        Rows with ``input_ids``, ``labels``, ``example_ids`` (1 for the tokens of the first example, 2 for the second
        ...; :func:`llmbook.finetuning.collate` makes 0 of padding) and ``position_ids`` (counted anew for each). The
        first label of every example is -100: nothing before it belongs to it.

    Raises:
        ValueError: a row that is longer than ``length``.
    """
    packed: list[dict[str, list[int]]] = []
    for number, row in enumerate(rows):
        size = len(row["input_ids"])
        if size > length:
            raise ValueError(f"row {number} has {size} tokens and does not fit into length={length}: allow more")
        place = next((old for old in packed if len(old["input_ids"]) + size <= length), None)
        if place is None:
            place = {"input_ids": [], "labels": [], "example_ids": [], "position_ids": []}
            packed.append(place)
        example = place["example_ids"][-1] + 1 if place["example_ids"] else 1
        place["input_ids"] += list(row["input_ids"])
        place["labels"] += [IGNORE, *row["labels"][1:]]
        place["example_ids"] += [example] * size
        place["position_ids"] += range(size)
    return packed


def block_diagonal_mask(example_ids: Tensor) -> Tensor:
    """Return who may look where in packed rows, ``(batch, 1, time, time)`` of bool: own example, no later token.

    Args:
        example_ids: ``(batch, time)``, see :func:`pack`. Padding (0) forms an example of its own.
    """
    same = example_ids[:, :, None] == example_ids[:, None, :]  # (batch, query, key)
    causal = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril()  # (query, key)
    return (same & causal)[:, None]  # (batch, 1, query, key)


def states(model: Decoder, batch: Batch) -> Tensor:
    """Return the decoder's last hidden states ``(batch, time, d_model)``, packed examples kept apart.

    Raises:
        ValueError: packed rows for a decoder with ALiBi, whose distances the mask does not replace.
    """
    names = set(batch.keys())
    if "example_ids" not in names:
        return model.encode(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    stack = model.stack
    if stack.config.position in ("alibi", "t5"):
        raise ValueError(f"position={stack.config.position!r}: packed rows need rope, learned, sinusoidal or none")
    positions, mask = batch["position_ids"], block_diagonal_mask(batch["example_ids"])  # (batch, 1, time, time)
    hidden = stack.add_positions(model.embeddings(batch["input_ids"]), positions)  # (batch, time, d_model)
    turn = stack.rotations(positions, hidden)
    hidden = stack.dropout(stack.embedding_norm(hidden))
    for block in stack.blocks:
        hidden, *_ = block(hidden, mask, turn)  # (batch, time, d_model)
    return stack.final_norm(hidden)


# --- instructions from pydocs -----------------------------------------------------------------------------------------


def instructions(split: str, tasks: Iterable[str] = TASKS, count: int = 1000, seed: int = 0) -> list[Instruction]:
    """Return ``count`` instructions for each task, made from the labels that the documentation itself holds.

    The answers of ``section`` and ``topic`` are names of classes, that of ``type`` is a stretch of the source, those of
    ``summary`` (from the rest of the document) and ``docstring`` (from name and signature alone) are a sentence that a
    person wrote. Each example is in the split of its document.

    Args:
        split: ``train``, ``validation`` or ``test``.
        tasks: some of :data:`TASKS`.
        count: for each task, or as many as there are.
        seed: of the choice.

    Raises:
        ValueError: an unknown task or a count below 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: it takes at least 1")
    made: list[Instruction] = []
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"task {task!r}: it takes {', '.join(TASKS)}")
        found = (example for example in _made(task, split, seed) if not _MARKS.search(example.user() + example.answer))
        made += [example for example, _ in zip(found, range(count), strict=False)]
    return made


def _made(task: str, split: str, seed: int) -> Iterator[Instruction]:
    if task == "section":
        data = corpora.section_classification()[split]
        names = data.features["label"].names
        for text, label in _rows(data, seed, "text", "label"):
            yield Instruction(task, "What is this part of a docstring for?", text[:SOURCE], names[label])
    elif task == "topic":
        data = corpora.topic_classification()[split]
        names = data.features["label"].names
        for text, label in _rows(data, seed, "masked", "label"):
            yield Instruction(task, "Which field is this from?", text[:SOURCE], names[label])
    elif task == "type":
        for context, question, answers in _rows(
            corpora.question_answering()[split], seed, "context", "question", "answers"
        ):
            if question.startswith("What is the type") and answers["text"] and len(answers["text"][0]) <= 60:
                begin = context.rfind("\n", 0, max(answers["answer_start"][0] - 40, 0)) + 1
                source = context[begin:][:SOURCE]
                if answers["text"][0] in source:
                    yield Instruction(task, question, source, answers["text"][0])
    elif task == "summary":
        for body, summary in _rows(corpora.summarisation()[split], seed, "body", "summary"):
            if len(summary) <= 110:
                yield Instruction(task, "Say in one sentence what this is.", body[:SOURCE], summary)
    else:
        for signature, summary in _rows(corpora.pydocs()[split], seed, "signature", "summary"):
            if signature and 15 <= len(summary) <= 110:
                yield Instruction(task, "Write the first line of its docstring.", signature[:100], summary)


def _rows(data: datasets.Dataset, seed: int, *columns: str) -> Iterator[tuple]:
    """Yield rows of some columns in random order, read in blocks."""
    order = np.random.default_rng(seed).permutation(len(data))
    data = data.select_columns(list(columns))
    for start in range(0, len(order), 1000):
        part = data[order[start : start + 1000]]
        yield from zip(*(part[column] for column in columns), strict=True)


# --- answering --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Instruction],
    max_new_tokens: int = 32,
    max_length: int = 160,
    batch_size: int = 64,
) -> list[str]:
    """Return the model's greedy answer to each instruction, up to the mark that ends a turn."""
    rows = [prompt_row(tokenizer, example, max_length)["input_ids"] for example in examples]
    device = next(model.parameters()).device

    def write(part: Sequence[Sequence[int]]) -> Tensor:
        ids, mask = pad_left(part, tokenizer.pad_token_id)  # (batch, time) each
        return greedy(model, ids.to(device), max_new_tokens, attention_mask=mask.to(device))[:, ids.shape[1] :]

    return _written(model, tokenizer, rows, tokenizer.eos_token_id, batch_size, write)


def _written(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    end: int,
    batch_size: int,
    write: Callable[[Sequence[Sequence[int]]], Tensor],
) -> list[str]:
    """Return what ``write`` makes of each row up to ``end``, as text; rows of like length are written together."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    found, training = [""] * len(rows), model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            new = write([rows[number] for number in part])  # (batch, new)
            for number, ids in zip(part, new.tolist(), strict=True):
                found[number] = text_of(tokenizer, cut(ids, end))
    finally:
        model.train(training)
    return found


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask ``(batch, time)`` of prompts that end together, as generating takes them."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])  # (batch, time)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])  # (batch, time)
    return ids, mask


def cut(ids: Sequence[int], end: int) -> list[int]:
    """Return ids up to the first ``end``, without it."""
    ids = list(ids)
    return ids[: ids.index(end)] if end in ids else ids


# --- text to text -----------------------------------------------------------------------------------------------------


def text_to_text_row(
    tokenizer: PreTrainedTokenizerBase, example: Instruction, max_length: int = 128, max_answer: int = 40
) -> dict[str, list[int]]:
    """Return ``input_ids`` (a prefix that names the task, and the source) and ``labels`` (the answer) for a T5.

    The prefix is Raffel et al.'s (2020, arXiv:1910.10683): the task's name and a colon, in plain text. A question
    stands between the two. The source is cut at the end, an answer too; both close with ``</s>``.
    """
    asked = f"{example.instruction} " if example.task == "type" else ""
    source = _ids(tokenizer, f"{example.task}: {asked}{example.source}")[: max_length - 1]
    target = _ids(tokenizer, example.answer)[: max_answer - 1]
    (end,) = _marked_ids(tokenizer, EOS)
    return {"input_ids": [*source, end], "labels": [*target, end]}


def shift_right(labels: Tensor, start: int) -> Tensor:
    """Return the decoder's input ``(batch, time)``: a start token, then the labels without the last.

    Args:
        labels: ``(batch, time)``; -100 becomes ``start``, which is T5's padding as well.
        start: id of the start token.
    """
    shifted = labels.new_full(labels.shape, start)  # (batch, time)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORE, start)


def text_to_text_loss(model: EncoderDecoder, batch: Batch, start: int = 1) -> Tensor:
    """Return the mean loss of the answers' tokens in nats, 0 if there is none: ``loss_of`` of ``training.fit``.

    Args:
        model: an encoder-decoder.
        batch: of rows of :func:`text_to_text_row`.
        start: id that the decoder begins with; 1 is ``<pad>`` in the book's tokenizer, with which T5 begins.
    """
    labels = batch["labels"]  # (batch, target)
    out = model(batch["input_ids"], batch["attention_mask"], shift_right(labels, start))
    return mean_cross_entropy(out.logits.flatten(0, 1).float(), labels.flatten())


@torch.no_grad()
def text_to_text_answer(
    model: EncoderDecoder,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Instruction],
    max_new_tokens: int = 32,
    max_length: int = 128,
    batch_size: int = 64,
) -> list[str]:
    """Return the model's greedy answer to each instruction, written as :func:`text_to_text_row` writes it."""
    rows = [text_to_text_row(tokenizer, example, max_length)["input_ids"] for example in examples]
    device, pad = next(model.parameters()).device, tokenizer.pad_token_id

    def write(part: Sequence[Sequence[int]]) -> Tensor:
        batch = collate([{"input_ids": row} for row in part], pad).to(device)
        first = torch.full((len(part), 1), pad, device=device)  # (batch, 1)
        return greedy(model, first, max_new_tokens, True, batch["input_ids"], batch["attention_mask"])[:, 1:]

    (end,) = _marked_ids(tokenizer, EOS)
    return _written(model, tokenizer, rows, end, batch_size, write)
