"""Read docstrings out of source text, and take a docstring apart: summary, body, sections, parameters.

Three conventions are in use among the packages, and all three are read: numpydoc (an underlined title), Google's
(``Args:`` and an indented block) and Sphinx's fields (``:param x:``).
"""

import ast
import inspect
import itertools
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple


class Docstring(NamedTuple):
    """A docstring as it stands in a module: where it belongs, and its text after ``inspect.cleandoc``."""

    name: str
    kind: str
    signature: str
    text: str


class Section(NamedTuple):
    """A titled part of a docstring; the title is the usual one (``Args`` is ``Parameters``)."""

    title: str
    text: str


class Parameter(NamedTuple):
    """A parameter as documented; what the docstring does not say is empty."""

    name: str
    type: str
    default: str
    description: str


class Parsed(NamedTuple):
    """The parts of a docstring: its first sentence, what follows it, and what stands under titles."""

    summary: str
    body: str
    sections: list[Section]
    parameters: list[Parameter]


def read_docstrings(source: bytes, module: str) -> list[Docstring]:
    """Return every docstring of a module, class or function in the source, in order; none if it is not valid Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in other people's strings
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return []
    return list(_walk(tree, module, "module"))


def _walk(node: ast.AST, name: str, kind: str) -> Iterator[Docstring]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield Docstring(name, kind, _signature(node), text.encode("utf-8", "replace").decode())
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{name}.{child.name}", "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}", "method" if kind == "class" else "function")
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):  # under ``if``, ``try``, ``with``
            yield from _walk(child, name, kind)


def _signature(node: ast.AST) -> str:
    """Return ``name(arguments) -> type`` of a function, or of a class by its ``__init__``; empty for a module."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({ast.unparse(node.args)}){returns}"
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.FunctionDef) and child.name == "__init__":
                arguments = re.sub(r"^self(, /)?(, |$)", "", ast.unparse(child.args))
                return f"{node.name}({arguments})"
        return node.name
    return ""


# The titles in use, and the one name each goes by here.
TITLES = {
    alias: title
    for title, aliases in {
        "Parameters": "Parameters|Parameter|Params|Args|Arguments|Arg|Argument",
        "Other Parameters": "Other Parameters|Keyword args|Keyword Args|Keyword Arguments|Keyword arguments",
        "Returns": "Returns|Return",
        "Yields": "Yields|Yield",
        "Raises": "Raises|Raise|Exceptions|Throws",
        "Warns": "Warns",
        "Attributes": "Attributes|Attribute|Properties",
        "Methods": "Methods",
        "Notes": "Notes|Note",
        "Warnings": "Warnings|Warning",
        "Examples": "Examples|Example|Usage|Sample usage|Example usage|Usage Example",
        "See Also": "See Also|See also",
        "References": "References|Reference",
        "Shape": "Shape",
        "Options": "Options",
    }.items()
    for alias in aliases.split("|")
}
UNDERLINE = re.compile(r"([-=~^])\1{2,}\s*")
GOOGLE = re.compile(rf"({'|'.join(sorted(TITLES, key=len, reverse=True))})\s?::?(?:\s+(\S.*))?")
FIELD = re.compile(
    r"[:@](param|parameter|arg|argument|key|keyword|kwparam|type|kwtype|return|returns|rtype|raise|raises|except|exception)"
    r"\b\s*([^:\n]*):(?:\s+|$)"
)
OTHER_FIELD = re.compile(r"[:@][a-z]+\b[^:\n]*:(?:\s|$)")
FIELD_TITLES = dict.fromkeys(("return", "returns", "rtype"), "Returns") | dict.fromkeys(
    ("raise", "raises", "except", "exception"), "Raises"
)
NUMPYDOC_ENTRY = re.compile(r"(\\?\*{0,2}\w+(?:\s*,\s*\\?\*{0,2}\w+)*)\s*(?::\s*(.*))?")
GOOGLE_ENTRY = re.compile(r"[`]*(\\?\*{0,2}\w+)[`]*\s*(?:\(((?:[^()]|\([^()]*\))*)\))?\s*:\s*(.*)")
# A default within a type (``int, default: 5``), and within a description (``Default is 5.``), there only a literal.
TYPE_DEFAULT = re.compile(
    r"[,;\s]*\(?(?<![\w'\"`.\[])(?:by\s+)?[Dd]efault(?:s|ing)?\b(?!['\"`])(?:\s+(?:value\s+)?(?:is|to)\b)?\s*[:=]?\s*"
    r"(\S.*?)\.?(?:,\s*optional)?$"
)
LITERAL = r"""``[^`\n]+``|`[^`\n]+`|"[^"\n]*"|'[^'\n]*'|[-+]?\d[\w.+-]*\b|None|True|False"""
TEXT_DEFAULT = re.compile(rf"\b[Dd]efault(?:s? ?(?:value )?(?:is|to)|\s?[:=])\s+({LITERAL})(?!\w)")
OPTIONAL = re.compile(r"[,;\s]*\(?\boptional\b\)?[,;\s]*$|[,;(\s]+$")
SIGNATURE_LINE = re.compile(r"[\w.]+\(.*\)(\s*(->|=>|--)\s*.*)?")
PARAGRAPH = re.compile(r"(?:.*\S.*(?:\n|$))+")
ABBREVIATION = r"(?<!\.[a-z])(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\bal)(?<!\bresp)(?<!\b[A-Z])"  # also e.g., i.e., w.r.t.
SENTENCE_END = re.compile(rf"{ABBREVIATION}[.!?][)\"'`]*(?=\s+[A-Z`*:\[(\"'])")


def parse(text: str) -> Parsed:
    """Take a docstring apart.

    ``summary`` is the first sentence of the first paragraph, its white space made single; a title above it, a line that
    repeats the signature and directives (``.. currentmodule::``) are passed over. ``body`` is everything after it,
    titles and sections included. ``sections`` are the parts that stand under a title, ``parameters`` the entries of
    those that list parameters.
    """
    blocks = _blocks(text.split("\n"))
    sections = [Section(block.title, block.text) for block in blocks]
    parameters = [
        entry for block in blocks if block.title in ("Parameters", "Other Parameters") for entry in _entries(block)
    ]
    return Parsed(*_summary(text, blocks[0].start if blocks else None), sections, parameters)


class _Block(NamedTuple):
    start: int  # the line of the title
    style: str
    title: str
    text: str


def _blocks(lines: list[str]) -> list[_Block]:
    """Return the titled parts of a docstring: an underlined one ends at the next title, others with their indent."""
    blocks = []
    number = 0
    while number < len(lines):
        style, title, first = _title(lines, number)
        if not style:
            number += 1
            continue
        end = first
        if style == "underlined":
            while end < len(lines) and _title(lines, end)[0] != style:
                end += 1
        else:
            while end < len(lines) and _continues(lines, end, style, title):
                end += 1
        content = lines[first:end]
        if style == "google":  # what stands beside the title
            beside = GOOGLE.fullmatch(lines[number])
            content = [beside[2] if beside and beside[2] else "", inspect.cleandoc("\n".join(["", *content]))]
        block = "\n".join(content).strip("\n").rstrip()
        if block:
            blocks.append(_Block(number, style, TITLES.get(title, TITLES.get(title.title(), title)), block))
        number = end
    return blocks


def _title(lines: list[str], number: int) -> tuple[str, str, int]:
    """Return the style and the title that a line begins, and the line its content starts at; an empty style if none."""
    line, after = lines[number], lines[number + 1] if number + 1 < len(lines) else ""
    if not line.strip() or line[0].isspace() or line.startswith(">>>"):
        return "", "", number
    title = line.strip().rstrip(":")
    if "  " in title:  # a table's head
        return "", "", number
    if UNDERLINE.fullmatch(after) and not UNDERLINE.fullmatch(line) and abs(len(after.strip()) - len(line.strip())) < 5:
        heading = number < 2 and title not in TITLES  # of the whole text
        return ("", "", number) if heading else ("underlined", title, number + 2)
    if found := FIELD.match(line):
        return "fields", FIELD_TITLES.get(found[1], "Parameters"), number
    if found := GOOGLE.fullmatch(line):
        following = next((other for other in lines[number + 1 :] if other.strip()), "")
        if found[2] or following[:1].isspace():
            return "google", found[1], number + 1
    return "", "", number


def _continues(lines: list[str], number: int, style: str, title: str) -> bool:
    """Tell whether a line still belongs to the Google-style section or the run of fields above it."""
    line = lines[number]
    if not line.strip() or line[0].isspace():
        return True
    if (other := _title(lines, number))[0] or OTHER_FIELD.match(line):
        return style == "fields" and other[:2] == (style, title)
    return bool(lines[number - 1].strip()) and (style == "fields" or not lines[number - 1][0].isspace())


def _summary(text: str, stop: int | None) -> tuple[str, str]:
    """Return the first sentence before the line ``stop``, and the text after it."""
    lines = text.split("\n")
    before = "\n".join(lines[:stop])
    heading = ""
    for found in PARAGRAPH.finditer(before):
        rows = found[0].strip("\n").split("\n")
        while len(rows) > 1 and (UNDERLINE.fullmatch(rows[0]) or UNDERLINE.fullmatch(rows[1])):
            heading = heading or (rows[0] if UNDERLINE.fullmatch(rows[1]) else rows[1]).strip()
            rows = rows[2:] if UNDERLINE.fullmatch(rows[1]) else rows[1:]
        if rows and SIGNATURE_LINE.fullmatch(rows[0]):
            rows = rows[1:]
        paragraph = "\n".join(rows)
        if not paragraph or UNDERLINE.fullmatch(paragraph) or re.match(r"\s*(\.\.|:mod:`|>>>)", paragraph):
            continue
        start = found.start() + found[0].rindex(paragraph)
        end = SENTENCE_END.search(paragraph)
        length = end.end() if end else len(paragraph)
        return " ".join(paragraph[:length].split()), text[start + length :].strip("\n").lstrip(" ")
    return heading, text[text.index(heading) + len(heading) :].lstrip("-=~^\n ") if heading else text


def _entries(block: _Block) -> list[Parameter]:
    """Return the parameters that a section lists."""
    if block.style == "fields":
        return _field_entries(block.text)
    pattern = NUMPYDOC_ENTRY if block.style == "underlined" else GOOGLE_ENTRY
    entries = []
    lines = block.text.split("\n")
    starts = [number for number, line in enumerate(lines) if line[:1].strip() and pattern.fullmatch(line.rstrip())]
    for start, end in itertools.pairwise([*starts, len(lines)]):
        found = pattern.fullmatch(lines[start].rstrip())
        assert found
        rest = inspect.cleandoc("\n".join(["", *lines[start + 1 : end]])).strip()
        if block.style == "underlined":
            names, written, description = found[1], found[2] or "", rest
        else:
            names, written, description = found[1], found[2] or "", f"{found[3]}\n{rest}".strip()
        kind, default = _type_and_default(written)
        if not default and (literal := TEXT_DEFAULT.search(description)):
            default = literal[1].strip("`")
        entries += [Parameter(name.strip().lstrip("\\"), kind, default, description) for name in names.split(",")]
    return entries


def _field_entries(text: str) -> list[Parameter]:
    """Return the parameters of a run of ``:param x:`` and ``:type x:`` fields."""
    types: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if FIELD.match(line)]
    for start, end in itertools.pairwise([*starts, len(lines)]):
        found = FIELD.match(lines[start])
        assert found
        content = inspect.cleandoc("\n".join([lines[start][found.end() :], *lines[start + 1 : end]])).strip()
        *kind, name = found[2].split() or [""]
        if found[1] in ("type", "kwtype"):
            types[name] = content
        else:
            descriptions[name] = content
            if kind:
                types.setdefault(name, " ".join(kind))
    entries = []
    for name in {**descriptions, **types}:
        kind_of, default = _type_and_default(types.get(name, ""))
        literal = TEXT_DEFAULT.search(descriptions.get(name, ""))
        default = default or (literal[1].strip("`") if literal else "")
        entries.append(Parameter(name, kind_of, default, descriptions.get(name, "")))
    return entries


def _type_and_default(written: str) -> tuple[str, str]:
    """Split what stands after a parameter's name: ``int, optional (default: 5)`` gives ``int`` and ``5``."""
    found = TYPE_DEFAULT.search(written)
    kind = written[: found.start()] if found else written
    while (shorter := OPTIONAL.sub("", kind)) != kind:
        kind = shorter
    default = found[1].strip() if found else ""
    if default.endswith(")") and default.count(")") > default.count("("):
        default = default[:-1].rstrip()
    return kind.strip(), default.strip("`") if default.startswith("`") else default
