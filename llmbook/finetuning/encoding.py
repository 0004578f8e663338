"""Texts, tagged words and questions as rows of token ids, and a model's answers as text again (chapter 12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from llmbook.objectives import IGNORE
from llmbook.tokenization import half_character
from llmbook.transformer import Encoder, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EncodedRow = dict[str, Any]
NOWHERE = -1  # the place of a word without a token


class Place(NamedTuple):
    """Where the tokens of a row stand in the text that a question is asked about.

    Attributes:
        example: number of the question that the row belongs to.
        spans: for each token the characters ``(begin, end)`` of the context that it covers, without white space in
            front, or ``None`` for tokens of the question and special ones.
    """

    example: int
    spans: list[tuple[int, int] | None]


class Answer(NamedTuple):
    """What a model answers to a question.

    Attributes:
        text: a piece of the context, or an empty string for no answer.
        begin: its first character in the context; -1 for no answer.
        margin: score of the best span less the score of no answer.
    """

    text: str
    begin: int
    margin: float


# --- what fits together ---------------------------------------------------------------------------------------------


def check_pair(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot belong to a model.

    Looked at are the number of tokens, the id of the padding where the model names one, and whether the tokenizer
    puts the first token in place that an encoder was trained with. Another vocabulary of the same size passes: only
    the model's loss on known text tells it.

    Args:
        model: one of the book's models, a head on one, or a model of ``transformers``.
        tokenizer: of ``transformers``.

    Raises:
        ValueError: they are not of one kind; the message says in what.
    """
    backbone = getattr(model, "backbone", model)
    config = getattr(backbone, "config", None)
    size = getattr(config, "vocab_size", None)
    if size is None:
        raise ValueError(f"{type(model).__name__} has no config.vocab_size: give a model of the book or transformers")
    if len(tokenizer) != size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model's embedding {size:,} rows: the ids mean something "
            "else to the model; load the tokenizer that the model was trained with"
        )
    named = getattr(config, "pad_token_id", None)
    if named is not None and named != tokenizer.pad_token_id:
        raise ValueError(
            f"the tokenizer pads with {tokenizer.pad_token_id}, the model's configuration with {named}: load the "
            "tokenizer that the model was trained with"
        )
    if isinstance(unwrapped(backbone), Encoder) and tokenizer.cls_token_id is None:
        raise ValueError(
            "the model is an encoder and the tokenizer puts no token in front of a text: load it as "
            'tokenization.load_tokenizer("bert")'
        )


def check_labels(labels: Sequence[int], num_labels: int, every_class: bool = False) -> None:
    """Refuse labels that are no class, and on request classes without an example.

    Raises:
        ValueError: a label that is no whole number from 0 to ``num_labels - 1``, with the first row that has one; or
            classes that no row has.
    """
    for row, label in enumerate(labels):
        if isinstance(label, (str, float)) or not 0 <= int(label) < num_labels:
            raise ValueError(
                f"row {row} has the label {label!r}: {num_labels} classes are numbered 0 to {num_labels - 1}; map the "
                "labels, or raise num_labels"
            )
    if every_class and (missing := sorted(set(range(num_labels)) - {int(label) for label in labels})):
        raise ValueError(
            f"no row has the label {', '.join(map(str, missing))} of {num_labels}: a class without an example cannot "
            "be learned; draw more rows, or a share from each class, or leave the class out"
        )


# --- texts ----------------------------------------------------------------------------------------------------------


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    labels: Sequence[int] | None = None,
    num_labels: int | None = None,
    max_length: int = 256,
    every_class: bool = False,
) -> list[EncodedRow]:
    """Return texts as rows, each with one label where labels are given: for ``SequenceClassifier``.

    Args:
        tokenizer: of ``transformers``; it puts the special tokens in place.
        texts: one for each row.
        labels: as many classes, from 0 to ``num_labels - 1``.
        num_labels: number of classes; needed with labels.
        max_length: tokens of a row, special ones included; the end of a longer text is cut off.
        every_class: refuse labels in which a class does not occur.

    Returns:
        For each text ``{"input_ids": ids, "labels": label}``, or without labels the first of these.

    Raises:
        ValueError: numbers of texts and labels that differ, a text without a token, and see :func:`check_labels`.
    """
    if labels is not None:
        if num_labels is None or len(labels) != len(texts):
            raise ValueError(f"{len(texts)} texts, {len(labels)} labels, num_labels={num_labels}: one label for each "
                             "text, and the number of classes")  # fmt: skip
        check_labels(labels, num_labels, every_class)
    ids = _read(tokenizer, texts, truncation=True, max_length=max_length)["input_ids"] if len(texts) else []
    if empty := [row for row, tokens in enumerate(ids) if not tokens]:
        raise ValueError(f"text {empty[0]} has no token: leave empty texts out")
    if labels is None:
        return [{"input_ids": tokens} for tokens in ids]
    return [{"input_ids": tokens, "labels": int(label)} for tokens, label in zip(ids, labels, strict=True)]


# --- tagged words ---------------------------------------------------------------------------------------------------


def encode_words(
    tokenizer: PreTrainedTokenizerBase,
    words: Sequence[Sequence[str]],
    tags: Sequence[Sequence[int]] | None = None,
    num_labels: int | None = None,
    max_length: int = 256,
) -> tuple[list[EncodedRow], list[list[int]]]:
    """Return lists of words as rows with one label for each word, on the first of its tokens: for ``TokenClassifier``.

    The words are joined by spaces before they are cut, since that is how the model has met words; tokens are assigned
    to words by their characters. Special tokens and the second and later tokens of a word get -100, which no loss
    counts.

    Args:
        tokenizer: a fast one of ``transformers``.
        words: for each row its words.
        tags: for each row as many classes.
        num_labels: number of classes; needed with tags.
        max_length: tokens of a row, special ones included; the words behind are cut off.

    Returns:
        The rows, and for each the place of every word's first token, for :func:`read_tags`. Words that were cut off
        have none, so a list may be shorter than its words; a word of which the tokenizer makes nothing, such as one of
        invisible characters, has -1.

    Raises:
        ValueError: words and tags of different numbers, an empty word or one with white space, and see
            :func:`check_labels`.
    """
    _needs_offsets(tokenizer)
    if tags is not None:
        if num_labels is None or len(tags) != len(words):
            raise ValueError(f"{len(words)} rows of words, {len(tags)} of tags, num_labels={num_labels}: one tag for "
                             "each word, and the number of classes")  # fmt: skip
        for number, (some, given) in enumerate(zip(words, tags, strict=True)):
            if len(some) != len(given):
                raise ValueError(f"row {number} has {len(some)} words and {len(given)} tags: one tag for each word")
            check_labels(given, num_labels)
    for number, some in enumerate(words):
        if bad := [word for word in some if not word or word.split() != [word]]:
            raise ValueError(
                f"row {number} has the word {bad[0]!r}: a word has at least one character and no white space"
            )
    texts = [" ".join(some) for some in words]
    if not texts:
        return [], []
    coded = _read(tokenizer, texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
    rows: list[EncodedRow] = []
    firsts: list[list[int]] = []
    for number, (text, some) in enumerate(zip(texts, words, strict=True)):
        word_at = [place for place, word in enumerate(some) for _ in range(len(word) + 1)]  # by character
        places: list[int] = []
        covered = _covered(text, coded["offset_mapping"][number], coded.sequence_ids(number), 0)
        for place, span in enumerate(covered):
            if span is not None and span[0] < span[1] and word_at[span[0]] >= len(places):
                places += [NOWHERE] * (word_at[span[0]] - len(places)) + [place]
        row: EncodedRow = {"input_ids": coded["input_ids"][number]}
        if tags is not None:
            row["labels"] = [IGNORE] * len(row["input_ids"])
            for place, tag in zip(places, tags[number], strict=False):
                if place != NOWHERE:
                    row["labels"][place] = int(tag)
        rows.append(row)
        firsts.append(places)
    return rows, firsts


def read_tags(
    logits: Sequence[Tensor], firsts: Sequence[Sequence[int]], words: Sequence[Sequence[str]], names: Sequence[str]
) -> list[list[str]]:
    """Return the most probable tag of each word, ``O`` for those that were cut off or have no token.

    Args:
        logits: for each row ``(time, labels)``, as ``predict`` returns them.
        firsts: of :func:`encode_words`.
        words: what went into it.
        names: of the tags, by class.
    """
    found = []
    for scores, places, some in zip(logits, firsts, words, strict=True):
        best = scores[list(places)].argmax(-1).tolist() if places else []
        read = [names[tag] if place != NOWHERE else "O" for tag, place in zip(best, places, strict=True)]
        found.append(read + ["O"] * (len(some) - len(read)))
    return found


# --- questions ------------------------------------------------------------------------------------------------------


def encode_questions(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Mapping[str, Any]] | None = None,
    max_length: int = 256,
    stride: int | None = None,
) -> tuple[list[EncodedRow], list[Place]]:
    """Return questions and the texts they are about as rows with the answer's first and last token: for ``SpanFinder``.

    A row is ``[CLS] question [SEP] context [SEP]``, with token types 0 and 1. A question without an answer has both
    positions at 0, the first token (Devlin et al. 2019, arXiv:1810.04805).

    Args:
        tokenizer: a fast one of ``transformers`` that puts a first token in front.
        questions: one for each context.
        contexts: the texts.
        answers: as in SQuAD, ``{"text": [...], "answer_start": [...]}``, the latter in characters; the first answer
            counts, and empty lists mean that there is none.
        max_length: tokens of a row, special ones and question included.
        stride: ``None`` cuts the end of a longer context off. A number makes several rows of one, windows that overlap
            by so many tokens; those in which the answer does not stand as a whole count as having none.

    Returns:
        The rows, and for each where its tokens stand, for :func:`read_answers`.

    Raises:
        ValueError: an answer that does not stand where it should, or that was cut off; a tokenizer without a first
            token; a question that leaves no room for a context.
    """
    _needs_offsets(tokenizer)
    if tokenizer.cls_token_id is None:
        raise ValueError(
            "the tokenizer puts no token in front, where 'no answer' would point: load it as "
            'tokenization.load_tokenizer("bert")'
        )
    if len(questions) != len(contexts) or (answers is not None and len(answers) != len(questions)):
        counts = f"{len(questions)} questions, {len(contexts)} contexts, {None if answers is None else len(answers)}"
        raise ValueError(f"{counts} answers: give as many of each")
    rows: list[EncodedRow] = []
    places: list[Place] = []
    for example, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        span = None if answers is None else _checked_span(example, context, answers[example])
        coded = _encode_pair(tokenizer, example, question, context, max_length, stride)
        whole = False
        for window in range(len(coded["input_ids"])):
            covered = _covered(context, coded["offset_mapping"][window], coded.sequence_ids(window), 1)
            row: EncodedRow = {name: coded[name][window] for name in ("input_ids", "token_type_ids")}
            if answers is not None:
                first, last = (0, 0) if span is None else token_span(covered, *span) or (0, 0)
                whole = whole or first > 0
                row |= {"start_positions": first, "end_positions": last}
            rows.append(row)
            places.append(Place(example, covered))
        if span is not None and not whole:
            advice = "leave the question out" if stride is not None else "give stride=, which makes overlapping windows"
            raise ValueError(
                f"question {example}: the answer {context[span[0] : span[1]]!r}, characters {span[0]} to {span[1]}, is "
                f"cut off by max_length={max_length}: raise it (the model's limit allowing), or {advice}"
            )
    return rows, places


def token_span(spans: Sequence[tuple[int, int] | None], begin: int, end: int) -> tuple[int, int] | None:
    """Return the first and the last token of the characters ``begin`` to ``end``, or ``None`` if not all are there.

    Args:
        spans: the characters of each token; see :class:`Place`.
        begin: first character.
        end: the one behind the last.
    """
    inside = [place for place, span in enumerate(spans) if span and span[0] < end and span[1] > begin]
    if not inside:
        return None
    first, last = spans[inside[0]], spans[inside[-1]]
    if first is None or last is None or first[0] > begin or last[1] < end:
        return None
    return inside[0], inside[-1]


def read_answers(
    scores: Sequence[Tensor],
    places: Sequence[Place],
    contexts: Sequence[str],
    max_tokens: int = 30,
    threshold: float = -torch.inf,
) -> list[Answer]:
    """Return the best answer to each question, or none where no span is better than that by more than a threshold.

    The score of tokens ``i`` to ``j`` is ``start[i] + end[j]``, with ``i <= j`` and at most ``max_tokens`` tokens, all
    in the context. No answer has the score ``start[0] + end[0]``, of several windows the lowest (Devlin et al. 2019).

    Args:
        scores: for each row start and end, ``(time, 2)``, as ``predict`` returns them.
        places: of :func:`encode_questions`.
        contexts: what went into it.
        max_tokens: of the longest answer.
        threshold: the margin that an answer has to exceed.
    """
    best: list[tuple[float, int, int]] = [(-torch.inf, 0, 0)] * len(contexts)
    none = [torch.inf] * len(contexts)
    for table, (example, spans) in zip(scores, places, strict=True):
        allowed = torch.tensor([span is not None for span in spans])  # (time,)
        start = table[:, 0].masked_fill(~allowed, -torch.inf)  # (time,)
        end = table[:, 1].masked_fill(~allowed, -torch.inf)  # (time,)
        band = torch.ones(len(spans), len(spans), dtype=torch.bool).triu().tril(max_tokens - 1)  # (time, time)
        pairs = (start[:, None] + end[None]).masked_fill(~band, -torch.inf)  # (time, time)
        first, last = divmod(int(pairs.argmax()), len(spans))
        begins, ends = spans[first], spans[last]
        if begins is not None and ends is not None and float(pairs[first, last]) > best[example][0]:
            best[example] = float(pairs[first, last]), begins[0], ends[1]
        none[example] = min(none[example], float(table[0].sum()))
    found = []
    for context, (score, first, behind), nothing in zip(contexts, best, none, strict=True):
        margin = score - nothing
        kept = margin > threshold and behind > first
        found.append(Answer(context[first:behind], first, margin) if kept else Answer("", -1, margin))
    return found


# --- inside ---------------------------------------------------------------------------------------------------------


def _needs_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} does not tell which characters a token covers: use a fast one")


def _read(tokenizer: PreTrainedTokenizerBase, *texts: Sequence[str], **options: Any) -> Any:
    """Call a tokenizer on texts, or on texts and their second parts, with special tokens in them read as text."""
    try:
        return tokenizer(*map(list, texts), split_special_tokens=True, **options)
    except TypeError:  # what it says of half a surrogate pair names neither the text nor the reason
        for row, text in ((row, text) for part in texts for row, text in enumerate(part)):
            if isinstance(text, str) and half_character(text):
                raise ValueError(
                    f"text {row} holds half of a surrogate pair, which is no character: give "
                    "tokenization.well_formed(text)"
                ) from None
        raise


def _covered(
    text: str, offsets: Iterable[tuple[int, int]], sequence: Iterable[int | None], wanted: int
) -> list[tuple[int, int] | None]:
    """Return for each token of one part the characters it covers, without white space in front; ``None`` for others.

    A byte-level tokenizer counts the space before a word to its first token.
    """
    found: list[tuple[int, int] | None] = []
    for (begin, end), part in zip(offsets, sequence, strict=True):
        while part == wanted and begin < end and text[begin].isspace():
            begin += 1
        found.append((begin, end) if part == wanted else None)
    return found


def _checked_span(example: int, context: str, answer: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the characters of the first answer, or ``None`` for a question without one."""
    texts, starts = answer["text"], answer["answer_start"]
    if len(texts) != len(starts):
        raise ValueError(f"question {example} has {len(texts)} answers and {len(starts)} places: give one for each")
    if not texts:
        return None
    begin, end = starts[0], starts[0] + len(texts[0])
    if not texts[0] or context[begin:end] != texts[0]:
        raise ValueError(
            f"question {example}: at character {begin} stands {context[begin:end]!r}, not the answer {texts[0]!r}: "
            "answer_start counts characters (not bytes or tokens) of the context as it is given here"
        )
    return begin, end


def _encode_pair(
    tokenizer: PreTrainedTokenizerBase, example: int, question: str, context: str, max_length: int, stride: int | None
) -> Any:
    """Encode one question and its context, as one window or several."""
    taken = len(_read(tokenizer, [question])["input_ids"][0]) + 1
    if taken + (stride or 0) >= max_length:
        raise ValueError(
            f"question {example} takes {taken} of max_length={max_length} tokens, and stride={stride}: no room is left "
            "for its context; raise max_length"
        )
    several: dict[str, Any] = {"return_overflowing_tokens": True, "stride": stride} if stride is not None else {}
    return _read(
        tokenizer,
        [question],
        [context],
        truncation="only_second",
        max_length=max_length,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        **several,
    )
