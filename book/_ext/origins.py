"""``{origins}``: a table of what the book uses and did not write, with its licence, made from the files that name it.

```
:::{origins} real
:::
```
names one of ``TABLES``. A licence is the one that the thing itself states: a package's own words where it is installed,
the lock file of npm, the list of the real models.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from chapters import ROOT
from llmbook.corpora import _catalogs, _code, _online, installed
from llmbook.files import file_sha256
from llmbook.pretrained import FOLDER, model_names
from llmbook.pretrained.real import REAL_MODELS

HUB = "https://huggingface.co"
CLASSIFIER = "License :: OSI Approved :: "


class Cell(NamedTuple):
    """A text, its address if it has one, and whether it is code."""

    text: str
    address: str = ""
    code: bool = False


Row = list[Cell]


def licence_of(package: str) -> str:
    """Return the licence that an installed package states: its expression, a short text, or its classifiers."""
    if package == installed.STANDARD_LIBRARY:
        return "PSF-2.0"
    about: Any = importlib.metadata.metadata(package)  # a message of e-mail, which its type does not say
    stated = about.get("License-Expression") or about.get("License") or ""
    if stated and len(stated) < 60 and "\n" not in stated:
        return stated
    classified = [line.removeprefix(CLASSIFIER) for line in about.get_all("Classifier") or [] if CLASSIFIER in line]
    return ", ".join(classified) or stated.strip().partition("\n")[0] or "not stated"


def shipped() -> list[Row]:
    """Return the models of the package, which the book's recipe made from `pydocs`."""
    rows = []
    for name in model_names():
        card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
        parameters = re.search(r"of ([\d,]+) parameters", card)
        weights = file_sha256(FOLDER / name / "model.safetensors")
        told = parameters[1] if parameters else "see its card"
        rows.append([Cell(name, code=True), Cell(told), Cell("MIT, as the package"), Cell(weights[:16], code=True)])
    return rows


def real() -> list[Row]:
    """Return the models that others trained."""
    return [
        [
            Cell(name, code=True),
            Cell(model.source, f"{HUB}/{model.source}"),
            Cell(model.licence),
            Cell(f"{model.package} {model.version}", f"https://pypi.org/project/{model.package}/{model.version}/"),
            Cell(model.sha256[:16], code=True),
            Cell(f"{model.megabytes} MB"),
        ]
        for name, model in REAL_MODELS.items()
    ]


def cautions() -> list[Row]:
    """Return what the real models are, and what has to be said of numbers measured with them."""
    return [
        [Cell(name, model.paper, code=True), Cell(f"{model.about[:1].upper()}{model.about[1:]}."), Cell(model.caution)]
        for name, model in REAL_MODELS.items()
    ]


def texts() -> list[Row]:
    """Return the packages whose documentation, translations and sources are the book's corpora."""
    corpora: dict[str, list[str]] = {}
    for corpus, packages in (
        ("pydocs", installed.PACKAGES),
        ("catalogs", _catalogs.PACKAGES),
        ("code", _code.PACKAGES),
    ):
        for package in packages:
            corpora.setdefault(package.name, []).append(corpus)
    rows = []
    for name, read in corpora.items():
        known = name != installed.STANDARD_LIBRARY
        address = f"https://pypi.org/project/{name}/" if known else "https://docs.python.org/3/license.html"
        rows.append([Cell(name, address), Cell(", ".join(read), code=True), Cell(licence_of(name))])
    return rows


def public() -> list[Row]:
    """Return the public data sets that a cell with a network may ask for."""
    return [
        [
            Cell(name, code=True),
            Cell(wanted.path, f"{HUB}/datasets/{wanted.path}"),
            Cell(wanted.revision[:12], code=True),
        ]
        for name, wanted in _online.PUBLIC_SETS.items()
    ]


def npm() -> list[Row]:
    """Return what the site takes from npm, with the versions and licences of the lock file."""
    wanted = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    locked = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    rows = []
    for name in sorted({**wanted["dependencies"], **wanted["devDependencies"]}):
        entry = locked[f"node_modules/{name}"]
        address = f"https://www.npmjs.com/package/{name}/v/{entry['version']}"
        rows.append([Cell(name, address), Cell(entry["version"]), Cell(entry.get("license", "not stated"))])
    return rows


TABLES: dict[str, tuple[Callable[[], list[Row]], dict[str, list[str]]]] = {
    "shipped": (shipped, {"en": ["Model", "Parameters", "Licence", "SHA-256 of the weights, its beginning"]}),
    "real": (real, {"en": ["Name here", "Original", "Licence", "Wheel", "Its SHA-256, beginning", "Size"]}),
    "cautions": (cautions, {"en": ["Model", "What it is", "What to say of numbers measured with it"]}),
    "texts": (texts, {"en": ["Package", "Read for", "Licence, as the package states it"]}),
    "public": (public, {"en": ["Name here", "Data set", "Commit"]}),
    "npm": (npm, {"en": ["Package", "Version", "Licence"]}),
}


def table(heads: list[str], rows: list[Row]) -> nodes.table:
    """Return a table with a head."""
    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=1) for _ in heads]
    body = [[entry(cell) for cell in row] for row in rows]
    for part, lines in ((nodes.thead(), [[entry(Cell(head)) for head in heads]]), (nodes.tbody(), body)):
        part += [nodes.row("", *line) for line in lines]
        group += part
    return nodes.table("", group, classes=["origins"])


def entry(cell: Cell) -> nodes.entry:
    """Return a cell of a table."""
    text: nodes.Node = nodes.literal("", cell.text) if cell.code else nodes.Text(cell.text)
    if cell.address:
        text = nodes.reference("", "", text, refuri=cell.address, internal=False)
    return nodes.entry("", nodes.paragraph("", "", text))


class Origins(SphinxDirective):
    """The directive."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table, or a one-line error."""
        name = self.arguments[0]
        if name not in TABLES:
            raise self.error(f"no table {name!r}: there are {', '.join(TABLES)}")
        rows, heads = TABLES[name]
        return [table(heads[self.env.docname.split("/")[1]], rows())]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("origins", Origins)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
