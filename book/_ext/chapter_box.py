"""Show what a chapter costs to run, the box below its title and the table of all chapters, and where it was run.

The figures come from ``notebooks/measurements.json``, which ``make notebooks`` writes, from
``notebooks/environments.json``, which ``make colab`` writes, and from ``notebooks/rehearsed.json``, which ``make
rehearse`` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from chapters import Problem, read_environments, read_measurements, read_rehearsals

STRINGS = {
    "en": {
        "box": "Measured cost of running this chapter",
        "chapter": "Chapter",
        "time": "Time",
        "memory": "Peak memory",
        "device": "Device",
        "date": "Measured on",
        "versions": "With",
        "setting": "{device}, threads: {threads}, scale: {scale}",
        "none": "No chapter has been measured yet.",
        "libraries": "Libraries",
        "whole": "Chapters that run to their end and show all",
        "others": "The others",
        "cells": "{chapter}: {count} of its cells",
        "newest": "the newest that the package admits",
        "colab": "those of Colab, as far as they are known, else the newest",
        "nowhere": "The chapters have not been run in readers' environments yet.",
        "ran": "Cells that ran",
        "networks": "Networks on the device",
        "share": "Operations on the device",
        "raised": "What stopped",
        "of": "{0} of {1}",
        "nothing": "no network",
        "unrehearsed": "The chapters have not been rehearsed yet.",
    },
}


def _read(reader: Callable[[], dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    try:
        return reader()
    except Problem as problem:
        raise ExtensionError(str(problem)) from None


def measurements() -> dict[str, dict[str, Any]]:
    """Return the measurements by chapter, as ``en/01-language-models``."""
    return _read(read_measurements)


def duration(seconds: float) -> str:
    """Write seconds the way a reader plans: 48 s, 2 min 05 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def described(entry: dict[str, Any], strings: dict[str, str]) -> dict[str, str]:
    """Return the text of each field of a measurement."""
    return {
        "time": duration(entry["seconds"]),
        "memory": f"{round(entry['peak_memory_mib'])} MiB",
        "device": strings["setting"].format_map(entry),
        "date": entry["date"],
        "versions": ", ".join(f"{name} {version}" for name, version in entry["versions"].items()),
    }


def add_box(app: Sphinx, doctree: nodes.document) -> None:
    """Put the box below the title of a chapter."""
    folder, _, name = app.env.docname.partition("/")
    entry = measurements().get(name)
    title = next(doctree.findall(nodes.title), None)
    if folder != "notebooks" or not entry or title is None:
        return
    strings = STRINGS[name.split("/")[0]]
    fields = "".join(
        f'<div class="{field}"><dt>{escape(strings[field])}</dt><dd>{escape(text)}</dd></div>'
        for field, text in described(entry, strings).items()
    )
    html = f'<aside class="measured" aria-label="{escape(strings["box"])}"><dl>{fields}</dl></aside>'
    title.parent.insert(title.parent.index(title) + 1, nodes.raw("", html, format="html"))


class Table(SphinxDirective):
    """A table that is written in Markdown, so that the chapters' titles are filled in as for any link."""

    def table(self, heads: list[str], rows: list[list[str]], none: str) -> list[nodes.Node]:
        """Return the table, or a sentence where there are no rows."""
        lines = [heads, ["---"] * len(heads), *rows]
        text = [f"| {' | '.join(line)} |" for line in lines] if rows else [none]
        container = nodes.Element()
        self.state.nested_parse(StringList(text, self.get_source_info()[0]), self.content_offset, container)
        return container.children

    @property
    def language(self) -> str:
        """The folder of the page's language."""
        return self.env.docname.split("/")[1]


class ChapterTimes(Table):
    """``{chapter-times}``: a table of all chapters of the page's language, with what each costs to run."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        strings = STRINGS[self.language]
        fields = ("chapter", "time", "memory", "device", "date")
        rows = [
            [link(name), *(described(entry, strings)[field] for field in fields[1:])]
            for name, entry in sorted(measurements().items())
            if name.startswith(f"{self.language}/")
        ]
        return self.table([strings[field] for field in fields], rows, strings["none"])


class ChapterEnvironments(Table):
    """``{chapter-environments}``: with which libraries the chapters ran with the installed package alone."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        strings, rows = STRINGS[self.language], []
        for libraries, entry in sorted(_read(read_environments).items()):
            chapters = {
                name: outcome for name, outcome in entry["chapters"].items() if name.startswith(f"{self.language}/")
            }
            broken = {name: len(outcome["problems"]) for name, outcome in chapters.items() if outcome["problems"]}
            others = [strings["cells"].format(chapter=link(name), count=count) for name, count in broken.items()]
            rows.append([
                strings[libraries], ", ".join(f"{name} {version}" for name, version in entry["versions"].items()),
                f"{len(chapters) - len(broken)} / {len(chapters)}", "; ".join(others),
                max((outcome["date"] for outcome in chapters.values()), default=""),
            ])  # fmt: skip
        heads = [strings[field] for field in ("libraries", "versions", "whole", "others", "date")]
        return self.table(heads, rows, strings["nowhere"])


class ChapterRehearsals(Table):
    """``{chapter-rehearsals}``: what of each chapter ran on the pretended accelerator, and where it computed."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        strings, rows = STRINGS[self.language], []
        for name, entry in sorted(_read(read_rehearsals).items()):
            if name.startswith(f"{self.language}/"):
                computes = entry["networks"][1] and entry["share"] is not None
                rows.append([
                    link(name), strings["of"].format(*entry["cells"]),
                    strings["of"].format(*entry["networks"]) if computes else strings["nothing"],
                    f"{entry['share']:.1%}" if computes else "",
                    "; ".join(f"`{problem.replace('|', '/').replace('`', '')}`" for problem in entry["problems"]),
                    entry["date"],
                ])  # fmt: skip
        heads = [strings[field] for field in ("chapter", "ran", "networks", "share", "raised", "date")]
        return self.table(heads, rows, strings["unrehearsed"])


def link(name: str) -> str:
    """Return a link to a chapter, as its title."""
    return f"[](/notebooks/{name}.ipynb)"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the box and the tables."""
    app.connect("doctree-read", add_box)
    app.add_directive("chapter-times", ChapterTimes)
    app.add_directive("chapter-environments", ChapterEnvironments)
    app.add_directive("chapter-rehearsals", ChapterRehearsals)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
