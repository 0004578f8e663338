"""A report card: what was measured of a model, for whom it is, and for whom it is not (chapter 18).

After model cards (Mitchell et al. 2019, doi:10.1145/3287560.3287596). No number of a card is typed: sentences are
templates whose figures are filled in from what was measured, and a digit that stands in a template is refused.
"""

from __future__ import annotations

import html
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmbook.files import write_whole

SECTIONS = ("Model", "Use it for", "Do not use it for", "Text", "How it was judged", "What it gets wrong")


@dataclass(frozen=True)
class Measurement:
    """A number with its uncertainty.

    Attributes:
        name: what was measured.
        value: the estimate.
        low: lower end of its interval.
        high: upper end.
        n: number of items, documents or seeds behind it.
        unit: what it counts.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no estimate inside an interval."""
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError(f"{self.name}: {self.value} from {self.low} to {self.high}; a card takes finite numbers")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.name}: {self.value} lies outside of its interval, {self.low} to {self.high}")
        if self.n < 1:
            raise ValueError(f"{self.name}: measured on {self.n}; it takes at least 1")

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The row of a table: name, estimate, interval, number."""
        return (
            f"{self.name} ({self.unit})" if self.unit else self.name,
            f"{self.value:.3f}",
            f"{self.low:.3f} to {self.high:.3f}",
            f"{self.n:,}",
        )


@dataclass(frozen=True)
class ReportCard:
    """What is said of a model.

    Attributes:
        title: its name.
        sections: for each of ``SECTIONS`` a text, a template in the form of ``str.format``: ``{items}`` stands for a
            fact. Of a fact that is a number the usual formats apply: ``{share:.0%}``.
        facts: what templates refer to.
        measurements: the table under "How it was judged".
        failures: kinds of failures and how often they were found, for "What it gets wrong".
    """

    title: str
    sections: Mapping[str, str]
    facts: Mapping[str, object]
    measurements: Sequence[Measurement]
    failures: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a card that leaves a section out, has nothing measured, or has a number typed in."""
        missing = [name for name in SECTIONS if not self.sections.get(name, "").strip()]
        unknown = sorted(set(self.sections) - set(SECTIONS))
        if missing or unknown:
            raise ValueError(f"a card has the sections {', '.join(SECTIONS)}: missing {missing}, unknown {unknown}")
        if not self.measurements:
            raise ValueError("no measurement: a card reports at least one")
        for name, text in self.sections.items():
            _filled(name, text, self.facts)

    def text(self, section: str) -> str:
        """Return a section's text with the facts filled in."""
        return _filled(section, self.sections[section], self.facts)

    def to_markdown(self) -> str:
        """Return the card as Markdown."""
        lines = [f"# Report card: {self.title}"]
        for name in SECTIONS:
            lines += ["", f"## {name}", "", self.text(name)]
            for head, rows in self._tables(name):
                lines += ["", _row(head), _row(["---"] * len(head)), *map(_row, rows)]
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """Return the card as a page that stands alone."""
        lines = [f"<h1>Report card: {html.escape(self.title)}</h1>"]
        for name in SECTIONS:
            lines += [f"<h2>{html.escape(name)}</h2>", f"<p>{html.escape(self.text(name))}</p>"]
            for head, rows in self._tables(name):
                lines.append("<table><thead>" + _html_row(head, "th") + "</thead><tbody>")
                lines += [_html_row(row, "td") for row in rows]
                lines.append("</tbody></table>")
        body = "\n".join(lines)
        title = html.escape(f"Report card: {self.title}")
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            f"<style>body{{font-family:sans-serif;max-width:50em;margin:2em auto;padding:0 1em}}"
            f"td,th{{padding:.2em .8em;text-align:left}}</style></head>\n<body>\n{body}\n</body></html>\n"
        )

    def save(self, folder: str | Path) -> Path:
        """Write ``card.md`` and ``card.html`` into a folder, each in one go; return the folder."""
        folder = Path(folder)
        write_whole(folder / "card.md", self.to_markdown())
        write_whole(folder / "card.html", self.to_html())
        return folder

    def _tables(self, section: str) -> list[tuple[list[str], list[Sequence[str]]]]:
        if section == "How it was judged":
            head = ["measured", "estimate", "interval", "of"]
            return [(head, [measurement.cells for measurement in self.measurements])]
        if section == "What it gets wrong" and self.failures:
            ordered = sorted(self.failures.items(), key=lambda entry: -entry[1])
            return [(["kind of failure", "count"], [(name, str(count)) for name, count in ordered])]
        return []


def _filled(section: str, text: str, facts: Mapping[str, object]) -> str:
    """Return a template with the facts filled in; refuse digits outside of placeholders, and unknown facts."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"section {section!r} is no template ({error}): write {{{{ for a brace") from error
    for literal, name, _, _ in parts:
        if found := re.search(r"\S*\d\S*", literal):
            raise ValueError(
                f"section {section!r} has {found[0]!r} typed in: put the number into facts and write its name in braces"
            )
        if name is not None and (not name.isidentifier() or name not in facts):
            raise ValueError(f"section {section!r} refers to {name!r}: facts has {', '.join(facts) or 'nothing'}")
    return text.format_map(facts)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
