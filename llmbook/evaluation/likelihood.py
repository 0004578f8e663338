"""How probable a model finds held-out text, measured in one way that has a name (chapter 1).

A model with a limited context reads a long text in windows, and how these are laid decides the number: how many tokens
a token is predicted from, whether one document is read after another, whether a long one is cut off. So a likelihood is
measured under a :class:`Convention`, whose sentence (:meth:`Convention.describe`) stands beside the number in records
and model cards. :data:`BOOK` is the one that the book reports; two numbers under different ones do not compare.

What is scored is the same under all of them: each token of a document once, its first one after the start token, and at
last the end token, which says that the document is over. The bits of all these tokens are divided by the UTF-8 bytes of
the text alone, so models with different tokenizers compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from llmbook.evaluation.scoring import UNSOUND, batches, start_token
from llmbook.ngram import AddK, KneserNey
from llmbook.tokenization import END_OF_TEXT, half_character, special_as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenIds = Sequence[int] | NDArray[np.int32]
#: What can be scored: from ids ``(batch, time)`` to logits ``(batch, time, vocab)``, or to an object that has them.
LanguageModel = Callable[[Tensor], Any] | AddK | KneserNey


@dataclass(frozen=True)
class Convention:
    """How documents are laid before a model.

    Attributes:
        window: most tokens that the model reads at once.
        overlap: tokens of a window that were scored in the window before it, and are read again as context only. Every
            token has more than so many before it, unless its text begins there.
        joined: whether all documents are one text, in the order in which they are given, so that a document is read
            after the one before it; otherwise each is a text of its own.
        max_tokens: of a document, its end token included, after which it is cut off; ``None`` cuts nothing off.
        start: the token before a text; it is read and not scored. It is the tokenizer's own beginning token where there
            is one (``<s>`` of Llama, ``<bos>`` of Gemma), as in lm-evaluation-harness.
        end: the token that closes a document; it is scored. ``None`` where a tokenizer has none.
    """

    window: int
    overlap: int
    joined: bool
    max_tokens: int | None
    start: str
    end: str | None

    def __post_init__(self) -> None:
        """Refuse windows that do not advance."""
        if self.window < 1 or not 0 <= self.overlap < self.window:
            raise ValueError(
                f"window={self.window}, overlap={self.overlap}: a window takes 1 token or more, and the overlap 0 to "
                "window - 1, so that each window scores something new"
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens}: it takes a number from 1 up, or None to cut nothing off")

    def with_window(self, window: int) -> Convention:
        """Return the same for a model that reads more or fewer tokens: the overlap keeps its share of the window."""
        return replace(self, window=window, overlap=window * self.overlap // self.window)

    def for_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> Convention:
        """Return the same with a tokenizer's own start token (see :func:`scoring.start_token`) and end token.

        Raises:
            ValueError: the tokenizer has no token to begin with.
        """
        start = str(tokenizer.convert_ids_to_tokens(start_token(tokenizer)))
        return replace(self, start=start, end=None if tokenizer.eos_token is None else str(tokenizer.eos_token))

    def describe(self) -> str:
        """Return the sentence that records and model cards print beside a number."""
        overlap = f"that overlap by {self.overlap}" if self.overlap else "that do not overlap"
        parts = [
            "documents joined to one text" if self.joined else "each document alone",
            f"windows of {self.window} tokens {overlap}",
            "nothing cut off" if self.max_tokens is None else f"cut off after {self.max_tokens} tokens",
            f"{self.start} before the first token",
            "no end token scored" if self.end is None else f"{self.end} after the last one, which is scored",
        ]
        return ", ".join(parts)


#: The book's convention, for a model that reads 512 tokens: ``BOOK.with_window(64)`` is that of chapter 1's networks.
BOOK = Convention(window=512, overlap=256, joined=False, max_tokens=None, start=END_OF_TEXT, end=END_OF_TEXT)


@dataclass(frozen=True)
class TextScores:
    """The likelihoods of texts.

    Attributes:
        nats: that each text costs, its end token included, ``(texts,)``.
        tokens: scored in each text, ``(texts,)``.
        bytes: length of each text (of its part that was scored, where it was cut off) in UTF-8, ``(texts,)``.
        convention: under which they were measured.
    """

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    convention: Convention

    @property
    def bits(self) -> NDArray[np.float64]:
        """What each text costs in bits, ``(texts,)``."""
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """The bits of all texts, divided by all of their bytes."""
        return float(self.bits.sum() / self.bytes.sum())

    @property
    def nats_per_token(self) -> float:
        """The nats of all texts, divided by all of their tokens: compares models of one tokenizer only."""
        return float(self.nats.sum() / self.tokens.sum())


@torch.no_grad()
def document_log_probs(
    model: LanguageModel,
    documents: Sequence[TokenIds],
    convention: Convention,
    start: int,
    *,
    batch_size: int = 16,
    dtype: torch.dtype = torch.float32,
) -> list[NDArray[np.float64]]:
    """Return the natural-log probability of every token of each document, ``(tokens,)`` each.

    Args:
        model: from ids ``(batch, time)`` to logits ``(batch, time, vocab)``, or to an object with ``logits``: the
            book's decoder, a causal model of ``transformers``, a network of chapter 1. Rows are padded on the right,
            where a causal model cannot look. Or one of chapter 1's tables of counts (``ngram``), which has a start
            symbol of its own and a history that is shorter than any window: it is asked once for the whole text.
        documents: token ids, ``(tokens,)`` each, with the end token that the convention names.
        convention: how they are laid before the model.
        start: the id of its start token.
        batch_size: windows that are computed together.
        dtype: of the products, as in ``training.fit``.

    Raises:
        ValueError: no documents, one without a token, or a network that gives NaN.
    """
    if not len(documents) or not all(len(document) for document in documents):
        raise ValueError("no document, or one without a token: leave empty ones out")
    kept = [np.asarray(document)[: convention.max_tokens] for document in documents]
    texts = [np.concatenate(kept)] if convention.joined else kept
    if isinstance(model, AddK | KneserNey):
        flat = model.log_prob(texts)  # (tokens,)
    else:
        flat = np.concatenate(_in_windows(model, texts, convention, start, batch_size, dtype))  # (tokens,)
    return np.split(flat, np.cumsum([len(document) for document in kept])[:-1])


def score_texts(
    model: LanguageModel,
    tokenizer: Tokenizer | PreTrainedTokenizerBase,
    texts: Sequence[str],
    convention: Convention,
    *,
    batch_size: int = 16,
    dtype: torch.dtype = torch.float32,
) -> TextScores:
    """Return what texts cost a model; ``score_texts(...).bits_per_byte`` is the number that model cards give.

    Args:
        model: see :func:`document_log_probs`.
        tokenizer: its own, of ``tokenizers`` or ``transformers``.
        texts: at least one, none empty.
        convention: :data:`BOOK`, with the window of the model, unless there is a reason for another.
        batch_size: windows that are computed together.
        dtype: of the products.

    Raises:
        ValueError: no text, one that :func:`check_texts` refuses, a tokenizer without the convention's start or end
            token, a model that gives NaN.
    """
    check_texts(texts)
    start, end = (_token_id(tokenizer, token) for token in (convention.start, convention.end or convention.start))
    closing = [] if convention.end is None else [end]
    encoded = _encoded(tokenizer, texts, convention.max_tokens)
    documents = [np.array([*ids, *closing], dtype=np.int32) for ids, _ in encoded]
    found = document_log_probs(model, documents, convention, start, batch_size=batch_size, dtype=dtype)
    return TextScores(
        nats=np.array([-log_probs.sum() for log_probs in found]),
        tokens=np.array([len(log_probs) for log_probs in found]),
        bytes=np.array([size for _, size in encoded]),
        convention=convention,
    )


def check_texts(texts: Sequence[str]) -> None:
    """Refuse texts that have no likelihood, and say which.

    Raises:
        ValueError: no text, an empty one, or half of a character (a lone surrogate), which UTF-8 cannot write.
    """
    if not len(texts):
        raise ValueError("0 texts: at least one is needed, and none of them empty")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {number} is of the type {type(text).__name__}: texts are strings")
        if not text:
            raise ValueError(f"text {number} of {len(texts)} is empty; texts, none of them empty, are needed: leave it "
                             "out")  # fmt: skip
        if half := half_character(text):
            raise ValueError(
                f"text {number} of {len(texts)} holds half of a character ({half}), which UTF-8 cannot write: decode "
                "it anew, or replace that place by U+FFFD"
            )


def _in_windows(
    model: Callable[[Tensor], Any],
    texts: Sequence[TokenIds],
    convention: Convention,
    start: int,
    batch_size: int,
    dtype: torch.dtype,
) -> list[NDArray[np.float64]]:
    """Return the log-probabilities of texts in order, one array for each window: ``(scored,)``."""
    window, overlap = convention.window, convention.overlap
    rows: list[Tensor] = []
    known: list[int] = []  # predictions of each row that an earlier one has made already
    for text in texts:
        ids = torch.tensor([start, *text])  # (tokens + 1,)
        for begin in range(0, max(1, len(text) - overlap), window - overlap):
            rows.append(ids[begin : begin + window + 1])
            known.append(overlap if begin else 0)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # rows of like lengths together: less padding
    pieces: list[NDArray[np.float64]] = [np.empty(0)] * len(rows)
    module = model if isinstance(model, nn.Module) else None
    parameter = None if module is None else next(module.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    was_training = module is not None and module.training
    if module is not None:
        module.eval()
    try:
        for part in batches(order, lambda row: len(rows[row]) - 1, batch_size, model):
            ids = nn.utils.rnn.pad_sequence([rows[row] for row in part], batch_first=True)  # (batch, time + 1)
            ids = ids.to(device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                output = model(ids[:, :-1])
            logits = getattr(output, "logits", output)  # (batch, time, vocab)
            for number, row in enumerate(part):
                scored = slice(known[row], len(rows[row]) - 1)
                losses = F.cross_entropy(logits[number, scored].float(), ids[number, 1:][scored], reduction="none")
                pieces[row] = -losses.cpu().double().numpy()  # (scored,)
                if np.isnan(pieces[row]).any():
                    raise ValueError(f"the model gives NaN in place of a probability: {UNSOUND}")
    finally:
        if module is not None:
            module.train(was_training)
    return pieces


def _encoded(
    tokenizer: Tokenizer | PreTrainedTokenizerBase, texts: Sequence[str], most: int | None
) -> list[tuple[list[int], int]]:
    """Return the ids of each text, and how many UTF-8 bytes its first ``most`` tokens have.

    What looks like a special token in a text is text.
    """
    if isinstance(tokenizer, Tokenizer):
        with special_as_text(tokenizer):
            encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    else:
        batch = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        if batch.encodings is None:  # written in Python: it does not say which characters a token is of
            if most is not None:
                raise ValueError(
                    f"max_tokens={most}: this tokenizer, written in Python, does not say how many bytes so many tokens "
                    "are; use its fast version, or max_tokens=None"
                )
            return [(ids, len(text.encode())) for text, ids in zip(texts, batch["input_ids"], strict=True)]
        encodings = batch.encodings
    found = []
    for text, encoding in zip(texts, encodings, strict=True):
        if most is not None and len(encoding.ids) > most:
            text = text[: encoding.offsets[most - 1][1]]
        found.append((encoding.ids, len(text.encode())))
    return found


def _token_id(tokenizer: Tokenizer | PreTrainedTokenizerBase, token: str) -> int:
    known = tokenizer.get_vocab()
    if token not in known:
        raise ValueError(
            f"this tokenizer has no token {token!r}, with which texts begin or end: use "
            "convention.for_tokenizer(tokenizer)"
        )
    return int(known[token])
