"""Questions for the benchmark of a domain, made from its held-out documents (chapter 18)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmbook.evaluation.benchmarks import Benchmark, Item, Template, hash_order

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
        for start, term, before, after in sorted(found, key=lambda entry: hash_order(row["id"], str(entry[0]))):
            if place[term] in taken or len(taken) == PER_DOCUMENT:
                continue
            taken.add(place[term])
            number, group = place[term]
            others = [
                min(g, key=lambda t: hash_order(row["id"], t)) for i, g in enumerate(classes[number]) if i != group
            ]
            wrong = sorted(others, key=lambda t: hash_order(row["id"], str(start), t))[:3]
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
        for entry in sorted(entries, key=lambda entry: hash_order(row["id"], entry["name"])):
            group = place[entry["type"]]
            if group in taken or len(taken) == PER_DOCUMENT or not row["summary"]:
                continue
            taken.add(group)
            others = [names[0] for i, names in enumerate(groups) if i != group]
            wrong = sorted(others, key=lambda t: hash_order(row["id"], entry["name"], t))[:3]
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
        near = sorted(others, key=lambda other: (-len(own & _triples(other)), hash_order(row["id"], other)))
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
    order = tuple(sorted(choices, key=lambda choice: hash_order(row["id"], place, choice)))
    metadata = {
        "question": question, "choices": order, "answer": answer, "document": row["id"], "kind": place.split("/")[0],
        "summary": row["summary"],
    }  # fmt: skip
    return Item(f"{row['id']}/{place}", question, order, answer, metadata)


def _triples(name: str) -> set[str]:
    return {name[i : i + 3] for i in range(len(name) - 2)}
