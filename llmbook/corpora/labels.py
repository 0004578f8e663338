"""Labelled tasks made from ``pydocs``: nobody annotated anything, the labels are what the authors wrote.

Every task keeps the split of ``pydocs``: an example is in the split of its document. An example whose input stands
already in an earlier split (train, then validation, then test) or earlier in its own is left out, since short parts
such as a returned value's description recur where whole documents do not.
"""

import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from llmbook.corpora import docstrings
from llmbook.corpora._pydocs import pydocs
from llmbook.corpora.cache import cached, describe
from llmbook.corpora.installed import PACKAGES

if TYPE_CHECKING:
    import datasets

_Row = dict[str, Any]
RECIPE = "labels 4"  # to be raised with every change of what is built

MASK = "PACKAGE"
ALIASES = ("np", "pd", "plt", "nx", "mpl", "sp", "nn")
SECTION_TITLES = ("Parameters", "Returns", "Raises", "Notes", "Examples")
ENTITIES = ("class", "function", "module", "exception", "attribute", "parameter", "type", "literal")
TAGS = ("O", *(f"{position}-{entity}" for entity in ENTITIES for position in "BI"))


def topic_classification() -> "datasets.DatasetDict":
    """Return documents with the field of their package: which topic is this text about?

    Columns:
        id: the document's id in ``pydocs``.
        text: the document.
        masked: the same with the names of the ten packages (in any spelling, also within a longer name), their usual
            aliases (``np``, ``plt`` ...) and the names of their modules in a dotted name or an import replaced by
            ``PACKAGE``, so that a model has to read the rest.
        label: ``ClassLabel`` of the ten topics.
    """
    return _topic_classification(pydocs())


def _topic_classification(corpus: "datasets.DatasetDict") -> "datasets.DatasetDict":
    from datasets import ClassLabel, Features, Value

    modules = frozenset(
        part
        for part_of in corpus.values()
        for name in part_of["name"]
        for part in name.split(".")[:-1]
        if not part[:1].isupper()
    )

    def examples(row: _Row) -> Iterator[_Row]:
        yield {"id": row["id"], "text": row["text"], "masked": mask(row["text"], modules), "label": row["topic"]}

    topics = ClassLabel(names=[package.topic for package in PACKAGES])
    string = Value("string")
    features = Features({"id": string, "text": string, "masked": string, "label": topics})
    return _derived("topic-classification", corpus, examples, features, "text")


_PACKAGE_NAMES = re.compile(
    "|".join([r"scikit(?:[-_\s]*learn)?", r"standard\s+library", "stdlib", "pytorch", "pylab"])
    + "|"
    + "|".join(sorted({package.module for package in PACKAGES if package.module})),
    re.IGNORECASE,
)
_ALIASES = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(ALIASES)})(?![A-Za-z0-9_])")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_IMPORTED = re.compile(r"(?m)(?<=import )[a-z_]\w*|(?<=from )[a-z_]\w*(?= import)|(?<=:mod:`)\w+(?=`)")


def mask(text: str, modules: Iterable[str]) -> str:
    """Return a text with the names of packages, their aliases and, in dotted names and imports, modules masked."""

    def dotted(found: re.Match[str]) -> str:
        return ".".join(MASK if part in modules else part for part in found[0].split("."))

    text = _DOTTED.sub(dotted, text)
    text = _IMPORTED.sub(lambda found: MASK if found[0] in modules else found[0], text)
    return _ALIASES.sub(MASK, _PACKAGE_NAMES.sub(MASK, text))


def section_classification() -> "datasets.DatasetDict":
    """Return sections of docstrings without their titles: what is this part for?

    Columns:
        id: the document's id in ``pydocs``, a slash, and the section's number.
        document: the document's id in ``pydocs``.
        text: the section's text; the markers of ``:param x:`` fields, which would tell, are taken out.
        label: ``ClassLabel`` of Parameters, Returns, Raises, Notes, Examples.
    """
    return _section_classification(pydocs())


def _section_classification(corpus: "datasets.DatasetDict") -> "datasets.DatasetDict":
    from datasets import ClassLabel, Features, Value

    def examples(row: _Row) -> Iterator[_Row]:
        for number, section in enumerate(row["sections"]):
            text = without_fields(section["text"])
            if section["title"] in SECTION_TITLES and len(text) >= 20:
                yield {
                    "id": f"{row['id']}/{number}",
                    "document": row["id"],
                    "text": text,
                    "label": section["title"],
                }

    string = Value("string")
    features = Features(
        {"id": string, "document": string, "text": string, "label": ClassLabel(names=list(SECTION_TITLES))}
    )
    return _derived("section-classification", corpus, examples, features, "text")


def without_fields(text: str) -> str:
    """Return a text without the markers of Sphinx's fields: ``:param x: a`` becomes ``x: a``, ``:return: a`` ``a``."""
    marker = re.compile(rf"^{docstrings.FIELD.pattern}")
    return "\n".join(marker.sub(lambda found: f"{found[2]}: " if found[2] else "", line) for line in text.split("\n"))


def named_entities() -> "datasets.DatasetDict":
    """Return paragraphs and parameter entries as tokens with tags: which words name what?

    The entities are those that the authors marked: reST roles (``:class:`X` ``), double back-ticks, any mark-up round
    the name of one of the document's parameters, the name and type of a parameter's entry, and the exceptions
    under Raises. The mark-up is taken out of the tokens. A paragraph without any is left out, because nothing says
    that it has no entity.

    Columns:
        id: the document's id in ``pydocs``, a slash, and a number.
        document: the document's id in ``pydocs``.
        tokens: words and punctuation marks.
        tags: one ``ClassLabel`` for each token: ``O``, or ``B-`` and ``I-`` with class, function, module, exception,
            attribute, parameter, type, literal.
    """
    return _named_entities(pydocs())


def _named_entities(corpus: "datasets.DatasetDict") -> "datasets.DatasetDict":
    from datasets import ClassLabel, Features, List, Value

    def examples(row: _Row) -> Iterator[_Row]:
        parameters = frozenset(parameter["name"].lstrip("*") for parameter in row["parameters"])
        pieces = [entities(paragraph, parameters) for paragraph in _paragraphs(row["text"])]
        for name, kind, written, description in _entries(row):
            head = [(name, kind), (":", "")]
            head += [(_plain(written), "type"), (".", "")] if written else []
            pieces.append(head + entities(description.split("\n\n")[0], parameters))
        number = 0
        for tagged in pieces:
            tokens, tags = bio(tagged)
            if len(tokens) > 3 and set(tags) != {"O"}:
                yield {"id": f"{row['id']}/{number}", "document": row["id"], "tokens": tokens, "tags": tags}
                number += 1

    string = Value("string")
    tags = List(ClassLabel(names=list(TAGS)))
    features = Features({"id": string, "document": string, "tokens": List(string), "tags": tags})
    return _derived("named-entities", corpus, examples, features, "tokens")


_ROLES = {
    "class": "class",
    "exc": "exception",
    "func": "function",
    "meth": "function",
    "mod": "module",
    "attr": "attribute",
    "data": "attribute",
    "const": "attribute",
}
_MARKUP = re.compile(
    r":(?:(?:py|c|rst|std):)?(?P<role>[a-z]+(?:[-_:][a-z]+)*):`(?P<target>[^`]+)`"
    r"|``(?P<literal>[^`]+(?:`[^`]+)*)``"
    r"|`(?P<single>[^`\s](?:[^`]*[^`\s])?)`(?P<link>__?)?"
    r"|(?<![\w*])(?P<stars>\*{1,2})(?P<star>[^\s*](?:[^*\n]*[^\s*])?)(?P=stars)(?![\w*])"
    r"|(?P<note>\[[\w#*]+\]_)"
)


def entities(text: str, parameters: Iterable[str]) -> list[tuple[str, str]]:
    """Return a marked-up text as pieces of plain text, each with the kind of entity it is, or an empty string."""
    pieces = []
    end = 0
    for found in _MARKUP.finditer(text):
        pieces.append((text[end : found.start()], ""))
        end = found.end()
        name, kind = _marked(found)
        pieces.append((name, "parameter" if name in parameters and not found["link"] else kind))
    pieces.append((text[end:], ""))
    return [(_plain(piece), kind) for piece, kind in pieces]


def _marked(found: re.Match[str]) -> tuple[str, str]:
    """Return what a piece of mark-up shows, and the kind of entity that it says this is."""
    if found["literal"]:
        return found["literal"].strip(), "literal"
    written = found["target"] or found["single"] or found["star"] or ""
    name = _target(written)
    if found["role"]:
        return name, _ROLES.get(found["role"].split(":")[-1], "")
    refers_to_class = written[:1] in (".", "~") and name.rsplit(".", 1)[-1][:1].isupper()  # ``.Axes``, in Matplotlib
    return name, "class" if refers_to_class else ""


def _target(written: str) -> str:
    """Return what a role shows: the title of ``title <target>``, the last part of ``~a.b.c``."""
    title = re.sub(r"\s*<[^<>]*>$", "", written) or written
    if title.startswith("~"):
        title = title.rsplit(".", 1)[-1]
    return title.lstrip("~.!")


def _plain(text: str) -> str:
    """Return a text without what mark-up is left in it (unclosed, or within another)."""
    text = re.sub(r":(?:[a-z]+:)+`", "`", text)
    return text.replace("`", "").replace("\\", "")


def bio(pieces: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return the tokens of tagged pieces of text, and a BIO tag for each."""
    tokens: list[str] = []
    tags: list[str] = []
    for text, kind in pieces:
        for number, token in enumerate(re.findall(r"\w+|[^\w\s]", text)):
            tokens.append(token)
            tags.append(f"{'I' if number else 'B'}-{kind}" if kind else "O")
    return tokens, tags


def _entries(row: _Row) -> Iterator[tuple[str, str, str, str]]:
    """Yield the name, the kind, the type and the description of each parameter with a type and each exception."""
    for parameter in row["parameters"]:
        if parameter["type"] and not _CODE.search(parameter["description"]):
            yield parameter["name"], "parameter", parameter["type"], parameter["description"]
    for section in row["sections"]:
        if section["title"] == "Raises":
            for found in _RAISED.finditer(section["text"]):
                yield found["name"], "exception", "", inspect.cleandoc(found["when"])


_RAISED = re.compile(r"(?m)^(?P<name>[A-Z]\w*)\s*(?::|$)(?P<when>.*(?:\n[ \t]+\S.*)*)")
_CODE = re.compile(r"(?m)^\.\. |>>> |::$")


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of running text: no titles, lists of parameters, code or directives."""
    for found in docstrings.PARAGRAPH.finditer(text):
        paragraph = found[0].strip("\n")
        lines = paragraph.split("\n")
        begins_a_section = docstrings.FIELD.match(lines[0]) or docstrings.GOOGLE.fullmatch(lines[0])
        underlined = any(docstrings.UNDERLINE.fullmatch(line) for line in lines)
        if not (lines[0][0].isspace() or begins_a_section or underlined or _CODE.search(paragraph)):
            yield paragraph


def summarisation() -> "datasets.DatasetDict":
    """Return texts with the sentence that stood above them: say in one sentence what this is.

    Texts of fewer than 200 characters, sentences of fewer than 10 or more than 300, and sentences that their text
    repeats are left out.

    Columns:
        id: the document's id in ``pydocs``.
        body: the document without its first sentence.
        summary: that sentence.
    """
    return _summarisation(pydocs())


def _summarisation(corpus: "datasets.DatasetDict") -> "datasets.DatasetDict":
    from datasets import Features, Value

    def examples(row: _Row) -> Iterator[_Row]:
        summary, body = row["summary"], row["body"]
        if 10 <= len(summary) <= 300 and len(body) >= 200 and not _stands_in(summary, body):
            yield {"id": row["id"], "body": body, "summary": summary}

    string = Value("string")
    features = Features({"id": string, "body": string, "summary": string})
    return _derived("summarisation", corpus, examples, features, "body")


def retrieval() -> "datasets.DatasetDict":
    """Return first sentences with the documents they were taken from: find the function that does this.

    Documents of fewer than 80 characters are left out, and so is a sentence that stands in its document, that
    another document has had before, or that has fewer than 10 characters.

    Columns:
        id: the document's id in ``pydocs``.
        query: the first sentence.
        document: the qualified name, the signature, and the text after the first sentence.
    """
    return _retrieval(pydocs())


def _retrieval(corpus: "datasets.DatasetDict") -> "datasets.DatasetDict":
    from datasets import Features, Value

    def examples(row: _Row) -> Iterator[_Row]:
        document = "\n".join(part for part in (row["name"], row["signature"], row["body"]) if part)
        if len(row["summary"]) >= 10 and len(row["body"]) >= 80 and not _stands_in(row["summary"], document):
            yield {"id": row["id"], "query": row["summary"], "document": document}

    string = Value("string")
    features = Features({"id": string, "query": string, "document": string})
    return _derived("retrieval", corpus, examples, features, "query")


def _stands_in(sentence: str, text: str) -> bool:
    return " ".join(sentence.lower().split()).rstrip(".") in " ".join(text.lower().split())


LONGEST_CONTEXT = 2000  # characters
UNANSWERABLE = 3  # at most one question of a document in so many has no answer, as in SQuAD 2


def question_answering() -> "datasets.DatasetDict":
    """Return questions about parameters: what is the type, what is the default? About one in four has no answer.

    The schema is that of SQuAD 2, so its metric and its readers apply. A question without an answer asks for a default
    where the entry of the parameter mentions none.

    Columns:
        id: the document's id in ``pydocs``, a slash, and a number.
        title: the document's id in ``pydocs``.
        context: the section that lists the parameters, of at most 2,000 characters.
        question: such as ``What is the default of the parameter alpha?``.
        answers: ``{text, answer_start}``, lists of one element, or empty.
    """
    return _question_answering(pydocs())


def _question_answering(corpus: "datasets.DatasetDict") -> "datasets.DatasetDict":
    from datasets import Features, List, Value

    def examples(row: _Row) -> Iterator[_Row]:
        questions = []
        for section in row["sections"]:
            if section["title"] == "Parameters" and len(section["text"]) <= LONGEST_CONTEXT:
                questions += list(_questions(section["text"], row["parameters"]))
        answered = [question for question in questions if question["answers"]["text"]]
        empty = [question for question in questions if not question["answers"]["text"]]
        empty.sort(key=lambda question: hashlib.sha256((row["id"] + question["question"]).encode()).digest())
        share = max(len(answered) // (UNANSWERABLE - 1), 1) if answered else 0
        for number, question in enumerate(answered + empty[:share]):
            yield {"id": f"{row['id']}/{number}", "title": row["id"], **question}

    string = Value("string")
    features = Features(
        {
            "id": string,
            "title": string,
            "context": string,
            "question": string,
            "answers": {"text": List(string), "answer_start": List(Value("int32"))},
        }
    )
    return _derived("question-answering", corpus, examples, features, "context", "question")


_ENTRY = re.compile(r"(?m)^`*\\?\*{0,2}\w+(?:\s*,\s*\\?\*{0,2}\w+)*`*(?=\s*[:(]|\s*$)")


def _questions(context: str, parameters: list[_Row]) -> Iterator[_Row]:
    """Yield the questions that a list of parameters answers, and those for defaults that it does not mention."""
    by_name = {parameter["name"]: parameter for parameter in parameters}
    entries = list(_ENTRY.finditer(context))
    ends = [entry.start() for entry in entries[1:]] + [len(context)]
    for entry, end in zip(entries, ends if entries else [], strict=True):
        written = context[entry.end() : end]
        default_at = written.lower().find("default")
        for name in re.findall(r"\w+", entry[0]):
            if name not in by_name:
                continue
            for what, begin in (("type", 0), ("default", max(default_at, 0))):
                answer = by_name[name][what]
                found = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)").search(written, begin) if answer else None
                if found or (what == "default" and not answer and default_at < 0):
                    starts = [entry.end() + found.start()] if found else []
                    yield {
                        "context": context,
                        "question": f"What is the {what} of the parameter {name}?",
                        "answers": {"text": [answer] if found else [], "answer_start": starts},
                    }


def _derived(
    name: str,
    corpus: "datasets.DatasetDict",
    examples: Callable[[_Row], Iterator[_Row]],
    features: "datasets.Features",
    *given: str,
) -> "datasets.DatasetDict":
    """Return the examples made from each document, none whose columns ``given`` have been seen before."""
    from datasets import Dataset, DatasetDict
    from tqdm.auto import tqdm

    def build() -> "datasets.DatasetDict":
        seen: set[str] = set()
        parts = {}
        for split, documents in corpus.items():
            rows = []
            for document in tqdm(documents, f"{name}: {split}", unit=" documents"):
                for row in examples(document):
                    key = " ".join(str([row[column] for column in given]).split())
                    if key not in seen:
                        seen.add(key)
                        rows.append(row)
            if rows:
                columns = {column: [row[column] for row in rows] for column in features}
                parts[split] = Dataset.from_dict(columns, features)
        return DatasetDict(parts)

    return cached(name, hashlib.sha256(f"{RECIPE} {name} {describe(corpus)['sha256']}".encode()).hexdigest(), build)
