"""The book's benchmarks: questions made from documentation that its models never saw (chapter 17).

Items come from the *test* split of ``pydocs``, examples for few-shot prompts and for fitting anything (a temperature, a
choice of prompt) from its *validation* split; near-duplicates never cross that line. No two items of a benchmark come
from the same cluster of near-duplicates, so they can be treated as independent draws.

An item is rendered by a :class:`Template`. Another template gives the same questions in another form:

    benchmark = from_pydocs()["type"]
    benchmark.with_template("channel")
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from llmbook.corpora import pydocs
from llmbook.corpora.labels import SECTION_TITLES, without_fields
from llmbook.tokenization import half_character

if TYPE_CHECKING:
    import datasets

Row = Mapping[str, Any]
Kind = Literal["choice", "generation"]

RECIPE = "benchmarks 1"  # to be raised with every change of what is built
MOST_ITEMS = 400
MOST_DEV = 200
LONGEST = 400  # characters of a signature: a prompt with a few examples has to fit into 512 tokens


@dataclass(frozen=True)
class Template:
    """How a question becomes text: both parts are ``str.format`` patterns over the item's fields.

    Attributes:
        prompt: what the model reads.
        choice: what it may continue with; ``{choice}`` is the bare answer. In a "channel" template the question stands
            here, after the answer.
        delimiter: stands between the two (a space: the tokenizer joins it to the following word).
    """

    prompt: str
    choice: str = "{choice}"
    delimiter: str = " "


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique in its benchmark, and the same in every version that has this question.
        prompt: what the model reads; may be empty in a template that asks for the probability of a whole text.
        choices: texts to choose from, the right one included; empty where the model has to write the answer.
        answer: the right choice, or the text that has to be written.
        metadata: the fields that templates fill in, the bare choices, and where the item comes from.
    """

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> int:
        """Place of the right choice."""
        if not self.choices:
            raise ValueError(f"item {self.id} has no choices: its answer is written, not chosen")
        return self.choices.index(self.answer)


@dataclass(frozen=True)
class Benchmark:
    """A set of questions of one kind, fixed by its content.

    Attributes:
        name: such as ``type``.
        kind: ``choice`` or ``generation``.
        items: the questions that are scored.
        dev: questions from other documents, for few-shot prompts and for fitting.
        description: the question in one sentence.
        datasheet: what whoever reads a score should know, by heading.
        templates: the ways of asking, the default first.
        template: the name of the way in which ``items`` are rendered.
    """

    name: str
    kind: Kind
    items: tuple[Item, ...]
    dev: tuple[Item, ...]
    description: str
    datasheet: Mapping[str, str] = field(hash=False)
    templates: Mapping[str, Template] = field(hash=False)
    template: str

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        _check(self)

    def __len__(self) -> int:
        """Return the number of scored questions."""
        return len(self.items)

    @property
    def delimiter(self) -> str:
        """What stands between prompt and answer."""
        return self.templates[self.template].delimiter

    @cached_property
    def version(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of everything a score depends on: items, dev items, template."""
        content = [
            [self.name, self.kind, self.delimiter],
            *([item.id, item.prompt, item.choices, item.answer] for item in (*self.items, *self.dev)),
        ]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:12]

    @property
    def chance(self) -> float:
        """Expected score of guessing blindly; 0 where the answer is written."""
        if self.kind == "generation":
            return 0.0
        return 1 / len(self.items[0].choices)

    def with_template(self, template: str | Template) -> Benchmark:
        """Return the same questions asked in another way: one of ``templates`` by its name, or a new one."""
        if isinstance(template, Template):
            name, templates = "custom", {**self.templates, "custom": template}
        elif template in self.templates:
            name, templates = template, dict(self.templates)
        else:
            raise ValueError(f"template={template!r}: {self.name} has {', '.join(self.templates)}")
        way = templates[name]
        items = tuple(render(item.id, item.metadata, way, self.kind) for item in self.items)
        dev = tuple(render(item.id, item.metadata, way, self.kind) for item in self.dev)
        return replace(self, items=items, dev=dev, templates=templates, template=name)

    def take(self, count: int) -> Benchmark:
        """Return the benchmark with its first ``count`` items only (they stand in a random, fixed order)."""
        if not 1 <= count <= len(self.items):
            raise ValueError(f"count={count}: {self.name} has {len(self.items)} items; take 1 to {len(self.items)}")
        return replace(self, items=self.items[:count])

    def with_field(self, name: str, values: Sequence[Any]) -> Benchmark:
        """Return the benchmark with another value in one field of each item, and its text made anew from it.

        Args:
            name: of a field that the template fills in, such as ``description``; ``answer`` and ``choices`` stay.
            values: one for each item, in their order; the dev items stay as they are.

        Raises:
            ValueError: a field that the template does not fill in, or not one value for each item.
        """
        way = self.templates[self.template]
        if name not in _fields(way):
            raise ValueError(
                f"name={name!r}: the template {self.template} of {self.name} fills in {', '.join(sorted(_fields(way)))}"
            )
        if len(values) != len(self.items):
            raise ValueError(f"{len(values)} values for the {len(self.items)} items of {self.name}: give one for each")
        items = tuple(
            render(item.id, {**item.metadata, name: value}, way, self.kind)
            for item, value in zip(self.items, values, strict=True)
        )
        return replace(self, items=items)

    def without_question(self) -> Benchmark:
        """Return the same choices behind an empty question: what scores above chance here, the answers give away."""
        if self.kind != "choice":
            raise ValueError(f"{self.name} has no choices: only a multiple-choice benchmark has answers to score alone")
        way = self.templates[self.template]
        blank = {key: "" for key in _fields(way)}

        def emptied(item: Item) -> Item:
            return render(item.id, {**item.metadata, **blank}, way, self.kind)

        return replace(self, items=tuple(map(emptied, self.items)), dev=tuple(map(emptied, self.dev)))


def _fields(way: Template) -> set[str]:
    """Return the names of the fields of the question that a template fills in."""
    return {name for name in re.findall(r"{(\w+)}", way.prompt + way.choice) if name not in ("choice", "dashes")}


def _check(benchmark: Benchmark) -> None:
    if benchmark.kind not in ("choice", "generation"):
        raise ValueError(f"kind={benchmark.kind!r}: it takes choice, generation")
    if not benchmark.items:
        raise ValueError(f"the benchmark {benchmark.name} has no items: give at least one")
    if benchmark.template not in benchmark.templates:
        raise ValueError(f"template={benchmark.template!r}: there are {', '.join(benchmark.templates) or 'none'}")
    counts = Counter(item.id for item in (*benchmark.items, *benchmark.dev))
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{benchmark.name}: two items have the id {repeated[0]!r}; ids are unique, dev part included")
    for item in (*benchmark.items, *benchmark.dev):
        if half := half_character("".join((item.id, item.prompt, *item.choices, item.answer))):
            raise ValueError(
                f"{benchmark.name}, item {item.id!r}: it holds half of a character ({half.split()[0]}), which UTF-8 "
                "cannot write: decode its text anew, or replace that place by U+FFFD"
            )
        if benchmark.kind == "choice" and (len(item.choices) < 2 or item.choices.count(item.answer) != 1):
            raise ValueError(
                f"{benchmark.name}, item {item.id}: {len(item.choices)} choices that hold the answer "
                f"{item.choices.count(item.answer)} times; give at least two, with the answer once among them"
            )
        if benchmark.kind == "generation" and (item.choices or not item.answer.strip()):
            raise ValueError(f"{benchmark.name}, item {item.id}: it takes an answer that is not empty, and no choices")
    if benchmark.kind == "choice" and len({len(item.choices) for item in benchmark.items}) > 1:
        raise ValueError(f"{benchmark.name}: all items need the same number of choices, for one level of chance")


def render(name: str, metadata: Mapping[str, Any], way: Template, kind: Kind) -> Item:
    """Return an item as text.

    Args:
        name: its id.
        metadata: the fields of the template, ``answer``, and for ``kind="choice"`` the bare ``choices``.
        way: the template.
        kind: ``choice`` or ``generation``.
    """

    def filled(pattern: str, choice: str) -> str:
        return pattern.format(**{**metadata, "choice": choice, "dashes": "-" * len(choice)})

    choices = tuple(filled(way.choice, choice) for choice in metadata.get("choices", ()))
    if kind == "choice":
        return Item(name, filled(way.prompt, ""), choices, filled(way.choice, metadata["answer"]), metadata)
    return Item(name, filled(way.prompt, ""), (), metadata["answer"], metadata)


def from_pydocs() -> dict[str, Benchmark]:
    """Return the book's four benchmarks by name.

    - ``function``: which function does this description describe? Four names of one package.
    - ``type``: which type does this parameter have? Four common types.
    - ``section``: which section of a docstring is this passage? Five titles, equally frequent.
    - ``default``: write a parameter's default value, which stands in the signature. Exact match.

    They are made from ``pydocs()``, so their content (and ``version``) depends on the installed packages' versions.
    """
    corpus = pydocs()
    made = (function(corpus), parameter_type(corpus), section(corpus), default(corpus))
    return {benchmark.name: benchmark for benchmark in made}


# --- the four benchmarks ----------------------------------------------------------------------------------------------


def function(corpus: datasets.DatasetDict, distractors: Literal["hard", "words", "easy"] = "hard") -> Benchmark:
    """Return the benchmark ``function``: which function does this description describe?

    Args:
        corpus: ``pydocs()``, or any corpus of its shape with the splits ``test`` and ``validation``.
        distractors: ``hard``: three names of the same package that share most words with the right one; how many of
            them are longer than it is drawn by chance, so that its length tells nothing. ``words`` (the benchmark
            ``function-words``): the same without a look at the length. ``easy`` (``function-easy``): three names of
            other packages, drawn by chance. Names come from all splits: a name is no text that a model has or has not
            seen.
    """
    if distractors not in ("hard", "words", "easy"):
        raise ValueError(f"distractors={distractors!r}: it takes hard, words, easy")
    names = _Names(row for split in corpus.values() for row in _light(split, _NAMED) if _has_public_name(row))

    def candidates(rows: Sequence[Row]) -> Iterator[tuple[Row, str, dict[str, Any]]]:
        for row in rows:
            if not _has_public_name(row) or len(row["summary"]) < 20:
                continue
            wrong = names.confusing(row, distractors == "hard") if distractors != "easy" else names.easy(row)
            if len(wrong) == 3:
                answer = _last(row["name"])
                choices = _shuffled([answer, *wrong], row["id"])
                yield row, "", {"description": row["summary"].rstrip(" ."), "answer": answer, "choices": choices}

    return _benchmark(
        corpus, "function" if distractors == "hard" else f"function-{distractors}", "choice", candidates,
        "Which function does this description describe?",
        {
            "question": Template("Description: {description}.\nFunction:"),
            "example": Template("{description}.\n\nExamples\n--------\n>>>", "{choice}("),
            "instruction": Template("Which function is this? {description}.\nThis function is called"),
            "channel": Template("", "See Also\n--------\n{choice} : {description}.", ""),
        },
        {
            "Made from": "the first sentence and the name of public functions and methods",
            "Wrong answers": {
                "hard": "names of the same package that share most words with the right one, shorter and longer ones",
                "words": "names of the same package that share most words with the right one, most of them longer",
                "easy": "names of other packages, by chance",
            }[distractors],
            "Known weakness": "a description often repeats words of the name: compare with a count of shared words",
        },
    )  # fmt: skip


#: Common types; what stands in one line would do for each other, and is never offered as a wrong answer to it.
TYPES: tuple[tuple[str, ...], ...] = (
    ("bool",), ("int", "integer"), ("float",), ("str", "string"), ("callable", "function"), ("dict",),
    ("list", "tuple", "sequence"), ("array_like", "array-like", "ndarray", "array", "Tensor"), ("graph",
    "NetworkX graph"), ("DataFrame", "Series"),
)  # fmt: skip


def parameter_type(corpus: datasets.DatasetDict) -> Benchmark:
    """Return the benchmark ``type``: which type does this parameter have? Wrong answers are other common types."""
    alike = {name: group for group in TYPES for name in group}

    def candidates(rows: Sequence[Row]) -> Iterator[tuple[Row, str, dict[str, Any]]]:
        entries = [
            (row, parameter)
            for row in rows
            for parameter in row["parameters"]
            if parameter["type"] in alike and len(parameter["description"]) >= 20 and row["summary"]
        ]
        frequency = Counter(parameter["type"] for _, parameter in entries)
        common = [kind for kind in frequency if frequency[kind] >= max(1, len(entries) // 200)]
        for row, parameter in entries:
            answer = parameter["type"]
            others = [kind for kind in common if kind not in alike[answer]]
            wrong: list[str] = []
            for kind in sorted(others, key=lambda kind: _draw(row["id"], parameter["name"], kind)):
                if all(kind not in alike[taken] for taken in wrong):
                    wrong.append(kind)
            if len(wrong) >= 3:
                yield row, parameter["name"], {
                    "function": _last(row["name"]), "summary": row["summary"].rstrip(" ."),
                    "parameter": parameter["name"], "description": _first_sentence(parameter["description"]),
                    "answer": answer, "choices": _shuffled([answer, *wrong[:3]], row["id"] + parameter["name"]),
                }  # fmt: skip

    return _benchmark(
        corpus, "type", "choice", candidates, "Which type does this parameter have?",
        {
            "entry": Template("{summary}.\n\nParameters\n----------\n{parameter} :"),
            "question": Template("{summary}.\nThe parameter {parameter}: {description}\nType:"),
            "instruction": Template("{description}\nQuestion: What is the type of {parameter}?\nAnswer:"),
            "channel": Template(
                "", "{summary}.\n\nParameters\n----------\n{parameter} : {choice}\n    {description}", ""
            ),
        },
        {
            "Made from": "entries of parameters with a common type and a description",
            "Wrong answers": "three other common types; types that would do for each other are not set against "
            "each other",
            "Known weakness": "bool and int are frequent answers: compare with the answers alone",
        },
    )  # fmt: skip


def section(corpus: datasets.DatasetDict) -> Benchmark:
    """Return the benchmark ``section``: which of five sections is this passage? As many of each, as far as they go."""

    def candidates(rows: Sequence[Row]) -> Iterator[tuple[Row, str, dict[str, Any]]]:
        for row in rows:
            for number, part in enumerate(row["sections"]):
                passage = _shortened(without_fields(part["text"]), 240)
                if part["title"] in SECTION_TITLES and len(passage) >= 40:
                    fields = {"passage": passage, "answer": part["title"], "choices": list(SECTION_TITLES)}
                    yield row, str(number), fields

    return _benchmark(
        corpus, "section", "choice", candidates, "Which section of a docstring is this passage?",
        {
            "channel": Template("", "{choice}\n{dashes}\n{passage}", ""),
            "question": Template("{passage}\n\nSection:"),
            "instruction": Template("{passage}\n\nQuestion: Which section is this?\nAnswer:"),
            "title": Template("{passage}\n\nThe text above stands under the title"),
        },
        {
            "Made from": "titled sections without their titles, cut to 240 characters",
            "Wrong answers": "the other four titles, always in the same order",
            "Known weakness": "Examples begin with >>>: a rule of a few lines gets far (chapter 12)",
        },
        balance=60,
    )  # fmt: skip


def default(corpus: datasets.DatasetDict) -> Benchmark:
    """Return the benchmark ``default``: write the default value of a parameter; it stands in the given signature."""

    def candidates(rows: Sequence[Row]) -> Iterator[tuple[Row, str, dict[str, Any]]]:
        for row in rows:
            if len(row["signature"]) > LONGEST:
                continue
            for parameter in row["parameters"]:
                name, value = parameter["name"], parameter["default"]
                pattern = rf"[(,\s]{re.escape(name)}\s*(?::[^=,]+)?=\s*([^,)]+)"
                found = re.search(pattern, row["signature"])
                if value and found and found[1].strip() == value and parameter["type"]:
                    yield row, name, {
                        "signature": row["signature"], "summary": row["summary"].rstrip(" ."), "parameter": name,
                        "type": parameter["type"], "answer": value,
                    }  # fmt: skip

    return _benchmark(
        corpus, "default", "generation", candidates, "Write the default value of this parameter.",
        {
            "entry": Template("{signature}\n\n{summary}.\n\nParameters\n----------\n{parameter} : {type}, default:"),
            "question": Template("{signature}\nQuestion: What is the default of {parameter}?\nAnswer:"),
        },
        {
            "Made from": "entries of parameters whose default stands in the signature as well",
            "Wrong answers": "none: the answer is written, up to the end of the line, and compared character by "
            "character",
            "Known weakness": "None, True and False are frequent: compare with always writing the most frequent one",
        },
        balance=50,
    )  # fmt: skip


# --- what they share --------------------------------------------------------------------------------------------------

Candidates = Callable[[Sequence[Row]], Iterable[tuple[Row, str, dict[str, Any]]]]


def _benchmark(
    corpus: datasets.DatasetDict,
    name: str,
    kind: Kind,
    candidates: Candidates,
    description: str,
    templates: dict[str, Template],
    about: dict[str, str],
    balance: int | None = None,
) -> Benchmark:
    """Draw items: one of each cluster, in the order of a hash, at most ``balance`` with the same answer."""
    first = next(iter(templates))
    parts = []
    for split, most in (("test", MOST_ITEMS), ("validation", MOST_DEV)):
        if split not in corpus:
            raise ValueError(f"the corpus has {', '.join(corpus)}: a benchmark takes its items from {split}")
        rows = _light(corpus[split])
        found = sorted(candidates(rows), key=lambda entry: _draw(entry[0]["id"], entry[1]))
        seen: set[str] = set()
        answers: Counter[str] = Counter()
        items: list[Item] = []
        for row, place, fields in found:
            if row["cluster"] in seen or (balance and answers[fields["answer"]] >= balance) or len(items) == most:
                continue
            seen.add(row["cluster"])
            answers[fields["answer"]] += 1
            metadata = {**fields, "package": row["package"], "topic": row["topic"], "document": row["id"]}
            items.append(render(row["id"] + (f"/{place}" if place else ""), metadata, templates[first], kind))
        parts.append(tuple(items))
    datasheet = {
        "Question": description,
        **about,
        "Source": "the test split of llmbook.corpora.pydocs (documentation of ten installed packages); examples for "
        "prompts from its validation split",
        "Size": f"{len(parts[0])} items, {len(parts[1])} examples, one of each cluster of near-duplicates",
        "Language and field": "English, documentation of Python packages",
        "Licence": "that of each package; the items are made on your machine and not redistributed",
        "Do not use it for": "saying what a model knows outside of such documentation, or comparing models that "
        "were trained on the web, where all of these pages stand",
        "Recipe": RECIPE,
    }
    return Benchmark(name, kind, parts[0], parts[1], description, datasheet, templates, first)


_NAMED = ["package", "name", "kind", "summary"]
_COLUMNS = ["id", "package", "topic", "name", "kind", "signature", "summary", "sections", "parameters", "cluster"]


def _light(split: datasets.Dataset, columns: Sequence[str] = _COLUMNS) -> list[Row]:
    """Return the rows of a split without the columns that no benchmark reads."""
    return split.select_columns(list(columns)).to_list()


def hash_order(*parts: str) -> str:
    """Return what orders things at random, and always in the same way: sort by it."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _draw(*parts: str) -> str:
    """Return the order of things in these benchmarks, which another recipe draws anew."""
    return hash_order(RECIPE, *parts)


def _shuffled(texts: Sequence[str], seed: str) -> list[str]:
    return sorted(texts, key=lambda text: _draw("order", seed, text))


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _has_public_name(row: Row) -> bool:
    return row["kind"] in ("function", "method") and not _last(row["name"]).startswith("_")


def words_of(text: str) -> frozenset[str]:
    """Return the words of a name or a sentence in lower case: of ``StateSpace.to_zpk`` state, space, to, zpk."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    return frozenset(part.lower() for part in parts)


class _Names:
    """The names of functions, with what is needed to find those that are easily confused."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.packages: dict[str, str] = {}  # of each name the first package
        self.summaries: dict[str, set[str]] = {}
        self.by_word: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            name = _last(row["name"])
            self.summaries.setdefault(name, set()).add(row["summary"])
            if self.packages.setdefault(name, row["package"]) == row["package"] and len(self.summaries[name]) == 1:
                for word in words_of(name):
                    self.by_word.setdefault((row["package"], word), []).append(name)
        self.all = sorted(self.packages)

    def confusing(self, row: Row, balanced: bool) -> list[str]:
        """Return three names of the same package that share most words with a row's name, or none.

        With ``balanced``, none to three of them are longer than it, each number as often as the others.
        """
        right = _last(row["name"])
        own = words_of(right)
        shared = Counter(name for word in own for name in self.by_word.get((row["package"], word), ()))
        near = [name for name in shared if self._wrong(name, row, own)]
        near.sort(key=lambda name: (-shared[name], _draw(row["id"], name)))
        if not balanced:
            return near[:3] if len(near) >= 3 else []
        longer = [name for name in near if len(name) > len(right)]
        shorter = [name for name in near if len(name) <= len(right)]
        count = int(_draw("longer", row["id"])[:8], 16) % 4
        return [*longer[:count], *shorter[: 3 - count]] if count <= len(longer) and 3 - count <= len(shorter) else []

    def easy(self, row: Row) -> list[str]:
        """Return three names of other packages, drawn by chance; none for a name that has no confusing ones."""
        own = words_of(_last(row["name"]))
        start = int(_draw(row["id"])[:8], 16)
        order = (self.all[(start + 7919 * step) % len(self.all)] for step in range(len(self.all)))
        other = (name for name in order if self.packages[name] != row["package"] and self._wrong(name, row, own))
        return list(itertools.islice(other, 3)) if self.confusing(row, balanced=True) else []

    def _wrong(self, name: str, row: Row, own: frozenset[str]) -> bool:
        """Tell whether a name is surely not the answer: other words, and no function with the same first sentence."""
        return words_of(name) != own and row["summary"] not in self.summaries[name]


def _first_sentence(text: str) -> str:
    """Return the beginning of a description on one line, of at most 200 characters."""
    line = " ".join(text.split("\n\n")[0].split())
    return _shortened(line.split(". ")[0].rstrip(".") + ".", 200)


def _shortened(text: str, longest: int) -> str:
    """Cut a text after a word, so that it has at most ``longest`` characters."""
    if len(text) <= longest:
        return text
    return re.sub(r"\s\S*\Z", "", text[: longest + 1]).rstrip()
