"""A vertical domain: its text, its vocabulary, what a tokenizer costs it, and how knowledge transfers (chapter 18)."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from llmbook.evaluation.items import Benchmark, Item, Template
from llmbook.tokenization import encode_documents
from llmbook.training import Windows

WORD = re.compile(r"[^\W\d_]+(?:[_'’-][^\W\d_]+)*")
SCORED_TOGETHER = 32  # windows whose logits are held at once


# --- text -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Domain:
    """The texts of one field.

    Attributes:
        name: of the field.
        train: texts to learn from.
        validation: held-out texts to choose with; may be empty.
        test: held-out texts to judge with.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a domain that cannot be learned or cannot be judged."""
        for split, use in (("train", "learn from"), ("test", "judge with")):
            if not any(text.strip() for text in getattr(self, split)):
                raise ValueError(
                    f"the domain {self.name!r} has no {split} text: give at least one document to {use}, kept apart "
                    "from the other splits"
                )
        if shared := set(self.train) & set(self.test):
            raise ValueError(
                f"the domain {self.name!r} has {len(shared)} texts in both train and test, {min(shared)[:40]!r} first: "
                "remove them from one"
            )


def read_domains(
    corpus: Mapping[str, Mapping[str, Sequence[str]]], names: Iterable[str] | None = None, column: str = "topic"
) -> dict[str, Domain]:
    """Return the domains of a corpus such as ``corpora.pydocs()``, by name, in the order of the names.

    Args:
        corpus: the splits ``train``, ``test`` and, where there is one, ``validation``, with the columns ``text`` and
            ``column``.
        names: which domains; by default all of them, sorted.
        column: what tells domains apart.

    Raises:
        ValueError: a domain without text to train on or without held-out text.
    """
    texts: dict[str, dict[str, list[str]]] = {}
    for split in ("train", "validation", "test"):
        if split in corpus:
            for name, text in zip(corpus[split][column], corpus[split]["text"], strict=True):
                texts.setdefault(name, {}).setdefault(split, []).append(text)
    chosen = sorted(texts) if names is None else list(names)
    if not chosen:
        raise ValueError("no domain: the corpus is empty, or no name was given")
    if unknown := [name for name in chosen if name not in texts]:
        raise ValueError(f"no text of {unknown[0]!r}: the corpus has {', '.join(sorted(texts))}")
    return {
        name: Domain(name, *(tuple(texts[name].get(split, ())) for split in ("train", "validation", "test")))
        for name in chosen
    }


def take_bytes(texts: Sequence[str], num_bytes: int, seed: int | None = None) -> list[str]:
    """Return whole texts of nearly a number of UTF-8 bytes, in the given order or, with a seed, shuffled.

    A text that would exceed the number is passed over, so that domains can be compared at nearly equal size.

    Raises:
        ValueError: the texts that fit have fewer bytes than 95 % of what is asked: no comparison would be fair.
    """
    order = range(len(texts)) if seed is None else np.random.default_rng(seed).permutation(len(texts))
    chosen: list[str] = []
    total = 0
    for place in order:
        size = len(texts[place].encode())
        if total + size <= num_bytes:
            chosen.append(texts[place])
            total += size
    if total < 0.95 * num_bytes:
        raise ValueError(f"{len(texts)} texts give {total:,} of num_bytes={num_bytes:,} bytes: ask for fewer")
    return chosen


# --- vocabulary -------------------------------------------------------------------------------------------------------


def vocabulary_words(text: str) -> list[str]:
    """Return the words of a text in lower case: letters, with ``_``, ``'`` and ``-`` inside; no digits."""
    return WORD.findall(text.lower())


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts."""
    return Counter(word for text in texts for word in vocabulary_words(text))


def keyness(domain: Mapping[str, int], reference: Mapping[str, int]) -> dict[str, float]:
    """Return the log-likelihood ratio of each word of a domain, signed (Dunning 1993; Rayson and Garside 2000).

    With ``a`` of ``c`` words of the domain and ``b`` of ``d`` words of the reference being this one, and
    ``E1 = c (a + b) / (c + d)``, ``E2 = d (a + b) / (c + d)`` what one common rate would give:
    ``G2 = 2 (a ln(a / E1) + b ln(b / E2) + ...)`` over the four cells of the table of this word against all others.
    It is negative for a word that is rarer in the domain than in the reference.

    Raises:
        ValueError: one of the two counts is empty.
    """
    c, d = sum(domain.values()), sum(reference.values())
    if not c or not d:
        raise ValueError(f"{c} words of the domain, {d} of the reference: both need at least one")
    a = np.array(list(domain.values()), dtype=np.float64)  # (words,)
    b = np.array([reference.get(word, 0) for word in domain], dtype=np.float64)  # (words,)
    table = np.stack([a, b, c - a, d - b])  # (4, words)
    rate = (a + b) / (c + d)  # (words,)
    expected = np.stack([c * rate, d * rate, c * (1 - rate), d * (1 - rate)])  # (4, words)
    terms = np.zeros_like(table)
    np.divide(table, expected, out=terms, where=table > 0)
    terms = table * np.log(terms, out=np.zeros_like(terms), where=table > 0)
    ratio = 2 * terms.sum(0) * np.sign(a / c - b / d)
    return dict(zip(domain, ratio.tolist(), strict=True))


def coverage(known: Mapping[str, int], text: Mapping[str, int]) -> float:
    """Return the share of a text's running words that another text has: 0 to 1, and not the same the other way round.

    Raises:
        ValueError: the text has no word.
    """
    total = sum(text.values())
    if not total:
        raise ValueError("the text has no word: coverage is a share of its words")
    return sum(count for word, count in text.items() if word in known) / total


@dataclass(frozen=True)
class TokenizationTax:
    """What a tokenizer costs a text.

    Attributes:
        bytes_per_token: UTF-8 bytes in a token, spaces and line ends included.
        fertility: tokens for each running word (Rust et al. 2021), spaces taken with the word.
        split: share of the running words that are cut into two tokens or more.
    """

    bytes_per_token: float
    fertility: float
    split: float


def tokenization_tax(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenizationTax:
    """Measure a tokenizer on texts; each different word is encoded once, with the space before it.

    Raises:
        ValueError: the texts have no word.
    """
    counts = word_counts(texts)
    if not counts:
        raise ValueError("no word in the texts: give at least one")
    encodings = tokenizer.encode_batch_fast([" " + word for word in counts], add_special_tokens=False)
    lengths = np.array([len(encoding.ids) for encoding in encodings])  # (words,)
    weights = np.array(list(counts.values()))  # (words,)
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))
    return TokenizationTax(
        bytes_per_token=sum(len(text.encode()) for text in texts) / tokens,
        fertility=float((lengths * weights).sum() / weights.sum()),
        split=float(weights[lengths > 1].sum() / weights.sum()),
    )


# --- mixing -----------------------------------------------------------------------------------------------------------


class Mixture:
    """Batches that take a fixed number of windows from each of several streams; each a function of its step alone."""

    def __init__(
        self,
        streams: Sequence[NDArray[np.int32]],
        shares: Sequence[float],
        length: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        """Divide a batch.

        Args:
            streams: token ids of each part, ``(tokens,)``; see ``training.Windows``.
            shares: of each part in every batch, together 1.
            length: tokens that a window predicts.
            batch_size: windows in a batch.
            seed: of the order.

        Raises:
            ValueError: not one share for each stream, shares that are negative or do not add up to 1, or that are no
                whole number of windows.
        """
        if len(streams) != len(shares):
            raise ValueError(f"{len(streams)} streams and {len(shares)} shares: give one share for each stream")
        if min(shares, default=-1) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares={list(shares)}: they take numbers from 0 up that add up to 1")
        sizes = [share * batch_size for share in shares]
        if any(abs(size - round(size)) > 1e-6 for size in sizes):
            raise ValueError(
                f"shares={list(shares)} of batch_size={batch_size} windows are {sizes}: they must be whole numbers; "
                "change the shares or the batch"
            )
        self.parts = [
            Windows(stream, length, round(size), seed)
            for stream, size in zip(streams, sizes, strict=True)
            if round(size)
        ]

    def __call__(self, step: int) -> Tensor:
        """Return the batch of a step, counted from 0: ``(batch_size, length + 1)``."""
        return torch.cat([part(step) for part in self.parts])


# --- judging ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def document_log_probs(
    model: nn.Module,
    documents: Sequence[NDArray[np.int32]],
    end: int,
    window: int = 256,
    dtype: torch.dtype = torch.float32,
) -> list[NDArray[np.float64]]:
    """Return the natural-log probability of every token of each document, as a decoder reads them.

    Each document begins after an end-of-text token and is cut into windows that do not overlap: a token sees at most
    the ``window`` tokens before it, on average half as many. The same cut for all models makes them comparable.

    Args:
        model: a decoder, whose output has ``logits``; left in the mode that it was in.
        documents: token ids, ``(tokens,)`` each, closed by the end-of-text token.
        end: the id of that token.
        window: tokens predicted in a window.
        dtype: of the products, as in ``training.fit``.

    Raises:
        ValueError: no documents, or one without a token.
    """
    if not len(documents) or not all(len(document) for document in documents):
        raise ValueError("no document, or one without a token: leave empty ones out")
    rows: list[Tensor] = []
    owner: list[int] = []
    for number, document in enumerate(documents):
        ids = torch.tensor([end, *document.tolist()])  # (tokens + 1,)
        for begin in range(0, len(ids) - 1, window):
            rows.append(ids[begin : begin + window + 1])
            owner.append(number)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    pieces: list[NDArray[np.float64]] = [np.empty(0)] * len(rows)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        for start in range(0, len(order), SCORED_TOGETHER):
            part = order[start : start + SCORED_TOGETHER]
            ids = nn.utils.rnn.pad_sequence([rows[row] for row in part], batch_first=True, padding_value=-100)
            ids = ids.to(device)  # (batch, time + 1)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = model(ids[:, :-1].clamp(min=0)).logits  # (batch, time, vocab)
            found = -F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")  # (batch, time)
            for row, line in zip(part, found.cpu().double().numpy(), strict=True):
                pieces[row] = line[: len(rows[row]) - 1]
    finally:
        model.train(training)
    parts: list[list[NDArray[np.float64]]] = [[] for _ in documents]
    for number, piece in zip(owner, pieces, strict=True):
        parts[number].append(piece)
    return [np.concatenate(part) for part in parts]


def document_bits(
    model: nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    window: int = 256,
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.float64]:
    """Return the bits that a decoder needs for each text, its end included: ``(texts,)``.

    Divide the sum by the texts' UTF-8 bytes for bits per byte, see :func:`document_log_probs` for the rest.
    """
    documents = encode_documents(tokenizer, texts)
    end = int(documents[0][-1]) if documents else 0
    log_probs = document_log_probs(model, documents, end, window, dtype)
    return np.array([-values.sum() / math.log(2) for values in log_probs])


# --- reading a transfer matrix ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """A matrix of costs: ``bits[i, j]`` is what a model of field ``i`` needs for text of field ``j``.

    Attributes:
        names: of the fields.
        bits: ``(trained, tested)``, bits per byte.
    """

    names: tuple[str, ...]
    bits: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse what is no square of finite numbers."""
        n = len(self.names)
        if np.shape(self.bits) != (n, n):
            raise ValueError(f"{n} names and a matrix {np.shape(self.bits)}: it takes {n} rows and {n} columns")
        if n < 2 or not np.isfinite(self.bits).all():
            raise ValueError("a transfer matrix takes at least two fields and finite numbers")

    @property
    def excess(self) -> NDArray[np.float64]:
        """What a foreign model needs more than the field's own, ``(trained, tested)``; 0 on the diagonal.

        Differences within a column only: the text is the same, so how hard the field is cancels out.
        """
        return np.asarray(self.bits - np.diag(self.bits)[None, :])

    @property
    def asymmetry(self) -> NDArray[np.float64]:
        """``excess[i, j] - excess[j, i]``: positive where ``i`` serves ``j`` worse than ``j`` serves ``i``."""
        return np.asarray(self.excess - self.excess.T)

    def nearest(self) -> dict[str, str]:
        """Return for each tested field the foreign field whose model needs the fewest bits for it."""
        foreign = self.bits + np.diag(np.full(len(self.names), np.inf))
        return {name: self.names[int(foreign[:, j].argmin())] for j, name in enumerate(self.names)}

    def off_diagonal(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the entries of another matrix ``(trained, tested)`` that are not on the diagonal, row by row."""
        if np.shape(matrix) != self.bits.shape:
            raise ValueError(f"a matrix {np.shape(matrix)}: it takes {self.bits.shape}, as this one has")
        return np.asarray(matrix)[~np.eye(len(self.names), dtype=bool)]


# --- a benchmark for a domain -----------------------------------------------------------------------------------------

Row = Mapping[str, Any]
Groups = Sequence[Sequence[str]]
LONGEST = 200  # characters of text before the gap
AFTER = 60  # characters after it
SHORTEST = 25
#: Technical terms of networkx' documentation, by their place in a sentence; synonyms stand together.
GRAPH_TERMS: Sequence[Groups] = (
    (
        ("node", "vertex"), ("edge", "link", "arc"), ("graph", "network"), ("path", "walk"), ("cycle",), ("tree",),
        ("clique",), ("degree",), ("weight", "cost"), ("flow",), ("community", "cluster"), ("component",),
        ("matching",), ("cut",), ("neighbor",),
    ),
    (
        ("nodes", "vertices"), ("edges", "links", "arcs"), ("graphs", "networks"), ("paths", "walks"), ("cycles",),
        ("trees",), ("cliques",), ("degrees",), ("weights", "costs"), ("communities", "clusters"), ("components",),
        ("neighbors",),
    ),
    (
        ("directed",), ("undirected",), ("bipartite",), ("weighted",), ("connected",), ("planar",), ("random",),
        ("complete",), ("shortest",), ("maximum", "maximal", "largest"), ("minimum", "minimal", "smallest"),
    ),
)  # fmt: skip
#: Types of parameters in the same documentation; those that would do for each other stand together.
GRAPH_TYPES: Groups = (
    ("NetworkX graph", "graph", "NetworkX Graph", "Graph"), ("node", "nodes", "node label"), ("int", "integer"),
    ("float", "number"), ("string", "str"), ("bool", "boolean"), ("list", "iterable"), ("dict", "dictionary"),
    ("function", "callable"),
)  # fmt: skip
PER_DOCUMENT = 2  # items of a kind
HEADING = re.compile(r"\n[^\n]+\n[-=~]{3,}\s*\n")


def term_items(rows: Iterable[Row], classes: Sequence[Groups]) -> list[Item]:
    """Return items in which a technical term was taken out of a sentence: which of four belongs there?

    The right answer is the author's word. Wrong ones are terms of the same class, and never a synonym of the right one.
    No gap stands after *a* or *an*, which would tell vowels from consonants.

    Args:
        rows: held-out documents, with the columns of ``corpora.pydocs()``.
        classes: sets of terms that fit the same places (nouns in the singular, in the plural, adjectives ...), each a
            list of groups of synonyms.

    Raises:
        ValueError: a class with fewer than four groups, or a term that stands in two.
    """
    place: dict[str, tuple[int, int]] = {}
    for number, groups in enumerate(classes):
        if len(groups) < 4:
            raise ValueError(f"class {number} has {len(groups)} groups of synonyms: four choices need at least four")
        for group, synonyms in enumerate(groups):
            for term in synonyms:
                if term in place:
                    raise ValueError(f"the term {term!r} stands in two groups: a wrong choice might be right")
                place[term] = (number, group)
    pattern = re.compile(rf"(?<![\w`*-])({'|'.join(sorted(place, key=len, reverse=True))})(?![\w`*-])")
    items = []
    for row in rows:
        prose = HEADING.split(row["text"])[0]
        found = []
        for match in pattern.finditer(prose):
            before = prose[: match.start()]
            after = re.split(r"(?<=[.:;])\s|\n\s*\n", prose[match.end() :])[0][:AFTER].rstrip()
            if len(before) >= SHORTEST and before[-1] == " " and not re.search(r"\ban? $", before, re.IGNORECASE):
                found.append((match.start(), match[1], before[-LONGEST:].rstrip(), after))
        taken: set[tuple[int, int]] = set()
        for start, term, before, after in sorted(found, key=lambda entry: _draw(row["id"], str(entry[0]))):
            if place[term] in taken or len(taken) == PER_DOCUMENT:
                continue
            taken.add(place[term])
            number, group = place[term]
            others = [min(g, key=lambda t: _draw(row["id"], t)) for i, g in enumerate(classes[number]) if i != group]
            wrong = sorted(others, key=lambda t: _draw(row["id"], str(start), t))[:3]
            items.append(_choice(row, f"term/{start}", before, [t + after for t in (term, *wrong)]))
    return items


def type_items(rows: Iterable[Row], groups: Groups) -> list[Item]:
    """Return items that ask for the type of a parameter, in the form of the documents: ``G :`` and four types.

    Args:
        rows: held-out documents.
        groups: types, those that would do for each other in one group.

    Raises:
        ValueError: fewer than four groups.
    """
    if len(groups) < 4:
        raise ValueError(f"{len(groups)} groups of types: four choices need at least four")
    place = {name: group for group, names in enumerate(groups) for name in names}
    items = []
    for row in rows:
        entries = [entry for entry in row["parameters"] if entry["type"] in place and entry["name"]]
        taken: set[int] = set()
        for entry in sorted(entries, key=lambda entry: _draw(row["id"], entry["name"])):
            group = place[entry["type"]]
            if group in taken or len(taken) == PER_DOCUMENT or not row["summary"]:
                continue
            taken.add(group)
            others = [names[0] for i, names in enumerate(groups) if i != group]
            wrong = sorted(others, key=lambda t: _draw(row["id"], entry["name"], t))[:3]
            prompt = f"{row['summary']}\n\nParameters\n----------\n{entry['name']} :"
            items.append(_choice(row, f"type/{entry['name']}", prompt, [entry["type"], *wrong]))
    return items


def call_items(rows: Sequence[Row]) -> list[Item]:
    """Return items that ask which function an example calls, after the function's summary and the lines before.

    Wrong answers are names of other documents that share the most letters' triples with the right one.
    """
    names = sorted({row["name"].rsplit(".", 1)[-1] for row in rows if row["kind"] == "function"})
    items = []
    for row in rows:
        name = row["name"].rsplit(".", 1)[-1]
        example = next((part["text"] for part in row["sections"] if part["title"] == "Examples"), "")
        match = re.search(rf"\b{re.escape(name)}\(", example)
        if row["kind"] != "function" or not match or name in row["summary"]:
            continue
        before = f"{row['summary']}\n\nExamples\n--------\n{example[: match.start()]}"
        own = _triples(name)
        others = [other for other in names if other != name and other not in row["summary"]]
        near = sorted(others, key=lambda other: (-len(own & _triples(other)), _draw(row["id"], other)))
        if len(near) >= 3 and len(before) <= 2 * LONGEST:
            items.append(_choice(row, "call", before, [f"{choice}(" for choice in (name, *near[:3])], delimiter=""))
    return items


def domain_benchmark(
    name: str,
    rows: Sequence[Row],
    classes: Sequence[Groups] = GRAPH_TERMS,
    types: Groups = GRAPH_TYPES,
    dev: Sequence[Row] = (),
) -> Benchmark:
    """Return the items of all three kinds as a benchmark of chapter 17, scored with ``score_choices``.

    Args:
        name: of the benchmark.
        rows: held-out documents that items are made of.
        classes: see :func:`term_items`.
        types: see :func:`type_items`.
        dev: other held-out documents, for examples.

    Raises:
        ValueError: no item can be made, or what the kinds of items refuse.
    """

    def made(rows: Sequence[Row]) -> tuple[Item, ...]:
        return (*term_items(rows, classes), *type_items(rows, types), *call_items(rows))

    items = made(rows)
    if not items:
        raise ValueError(f"no item can be made of {len(rows)} documents: give more, or other terms and types")
    way = Template("{question}", "{choice}", "")
    datasheet = {
        "Question": "which of four continuations is the author's",
        "Kinds": "term: a technical term in its sentence; type: of a parameter; call: in an example",
        "Source": "held-out documents of one field; several items may come from one document (metadata: document)",
        "Known weakness": "the author's word is taken to be the only right one",
    }
    return Benchmark(name, "choice", items, made(dev), datasheet["Question"], datasheet, {"text": way}, "text")


def _choice(row: Row, place: str, question: str, choices: Sequence[str], delimiter: str = " ") -> Item:
    """Return an item; the first choice is the right one, and they are put into an order that a hash gives."""
    answer, *_ = choices = [delimiter + choice for choice in choices]
    order = tuple(sorted(choices, key=lambda choice: _draw(row["id"], place, choice)))
    metadata = {
        "question": question, "choices": order, "answer": answer, "document": row["id"], "kind": place.split("/")[0],
        "summary": row["summary"],
    }  # fmt: skip
    return Item(f"{row['id']}/{place}", question, order, answer, metadata)


def _triples(name: str) -> set[str]:
    return {name[i : i + 3] for i in range(len(name) - 2)}


def _draw(*parts: str) -> str:
    """Return what orders things at random, and always in the same way."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
