"""Show what a chapter costs to run: the box below its title, and the table of all chapters.

The figures come from ``notebooks/measurements.json``, which ``make notebooks`` writes.
"""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from chapters import Problem, read_measurements

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
    },
}


def measurements() -> dict[str, dict[str, Any]]:
    """Return the measurements by chapter, as ``en/01-language-models``."""
    try:
        return read_measurements()
    except Problem as problem:
        raise ExtensionError(str(problem)) from None


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


class ChapterTimes(SphinxDirective):
    """``{chapter-times}``: a table of all chapters of the page's language, with what each costs to run."""

    def run(self) -> list[nodes.Node]:
        """Write the table in Markdown, so that the chapters' titles are filled in as for any link."""
        language = self.env.docname.split("/")[1]
        strings = STRINGS[language]
        fields = ("chapter", "time", "memory", "device", "date")
        rows = [
            [f"[](/notebooks/{name}.ipynb)", *(described(entry, strings)[field] for field in fields[1:])]
            for name, entry in sorted(measurements().items())
            if name.startswith(f"{language}/")
        ]
        lines = [[strings[field] for field in fields], ["---"] * len(fields), *rows]
        text = [f"| {' | '.join(line)} |" for line in lines] if rows else [strings["none"]]
        container = nodes.Element()
        self.state.nested_parse(StringList(text, self.get_source_info()[0]), self.content_offset, container)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the box and the table."""
    app.connect("doctree-read", add_box)
    app.add_directive("chapter-times", ChapterTimes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
