"""Draw flow charts while the site is built, so that a page needs no script to show them.

A chart is a fence of ``mermaid``, which GitHub and JupyterLab draw by themselves. Here Graphviz, in Node, makes two
drawings of it: one that runs as the source says, and one from top to bottom for narrow screens. Colours are the style
sheet's. This is the part of Mermaid's language that the book uses; anything else is an error of the build::

    graph LR
        subgraph name [title]
        A[box] --> B(rounded) -->|words at the arrow| C{choice}
        end
        C --> D([pill])
        D --> E((circle))
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vendor import node_tools

HEADER = re.compile(r"(?:graph|flowchart) (LR|TD|TB)")
SUBGRAPH = re.compile(r"subgraph (\w+) \[(.+)\]")
ARROW = re.compile(r"\s*-->\s*(?:\|([^|]*)\|\s*)?")
# Graphviz's shape and style for each pair of Mermaid's brackets; the longer pairs first.
SHAPES = {
    ("([", "])"): "shape=box,style=rounded",
    ("((", "))"): 'shape=circle,margin="0.02"',
    ("[", "]"): "shape=box",
    ("(", ")"): "shape=box,style=rounded",
    ("{", "}"): 'shape=diamond,margin="0.02"',
}
NODE = re.compile(r"(\w+)(?:" + "|".join(f"{re.escape(left)}.+?{re.escape(right)}" for left, right in SHAPES) + ")?")
SETTINGS = (
    "bgcolor=transparent;nodesep=0.22;ranksep=0.32;pad=0.05;fontname=Helvetica;fontsize=12;labeljust=l;"
    'node[fontname=Helvetica,fontsize=13,height=0.4,margin="0.2,0.06"];'
    "edge[fontname=Helvetica,fontsize=11.5,arrowsize=0.65];"
)


@dataclass
class Chart:
    """A flow chart: nodes as (label, DOT attributes) by name, arrows as (from, to, words), subgraphs by title."""

    direction: str = "TB"
    nodes: dict[str, tuple[str, str]] = field(default_factory=dict)
    arrows: list[tuple[str, str, str]] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)

    def described(self) -> str:
        """Return the chart in words: what leads to what, in the source's order."""
        steps = []
        for start, end, words in self.arrows:
            label = f" ({words})" if words else ""
            step = f"{self.nodes[start][0]} to {self.nodes[end][0]}{label}"
            title = next((title for title, members in self.groups.items() if start in members), "")
            steps.append(f"{title}: {step}" if title else step)
        return f"Flow chart: {'; '.join(steps)}."

    def parts(self) -> list[Chart]:
        """Return one chart for each subgraph where no arrow leads out of one, else the whole."""
        members = {name: title for title, names in self.groups.items() for name in names}
        if set(members) != set(self.nodes) or any(members[start] != members[end] for start, end, _ in self.arrows):
            return [self]
        return [
            Chart(
                self.direction,
                {name: self.nodes[name] for name in names},
                [arrow for arrow in self.arrows if arrow[0] in names],
                {title: names},
            )
            for title, names in self.groups.items()
        ]

    def dot(self, direction: str) -> str:
        """Return the chart in Graphviz's language."""
        lines = [f"{_quoted(name)}[label={_quoted(label)},{look}]" for name, (label, look) in self.nodes.items()]
        for number, (title, names) in enumerate(self.groups.items()):
            lines.append(f"subgraph cluster{number}{{label={_quoted(title)};{';'.join(map(_quoted, names))}}}")
        lines += [f"{_quoted(start)}->{_quoted(end)}[label={_quoted(words)}]" for start, end, words in self.arrows]
        return f"digraph{{rankdir={direction};{SETTINGS}{';'.join(lines)}}}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def read(source: str) -> Chart:
    """Read a chart.

    Raises:
        ValueError: a line is none of those above; the message has its text.
    """
    header, *lines = [line.strip() for line in source.strip().splitlines()]
    found = HEADER.fullmatch(header)
    if not found:
        raise ValueError(f"a chart begins with `graph LR`, `graph TD` or `flowchart LR`, not with {header!r}")
    chart = Chart("LR" if found[1] == "LR" else "TB")
    group: list[str] | None = None
    for line in filter(None, lines):
        if found := SUBGRAPH.fullmatch(line):
            group = chart.groups.setdefault(found[2], [])
        elif line == "end" and group is not None:
            group = None
        else:
            _read_chain(line, chart, group)
    return chart


def _read_chain(line: str, chart: Chart, group: list[str] | None) -> None:
    place, before, words = 0, "", ""
    while True:
        found = NODE.match(line, place)
        if not found:
            raise ValueError(f"no node where one should be, {line[place:]!r}, in {line!r} (see book/_ext/diagrams.py)")
        name, label = found[1], found[0][len(found[1]) :]
        for (left, right), look in SHAPES.items():
            if label.startswith(left) and label.endswith(right):
                chart.nodes[name] = (label[len(left) : -len(right)].strip('"'), look)
                break
        chart.nodes.setdefault(name, (name, SHAPES["[", "]"]))
        if group is not None and name not in group:
            group.append(name)
        if before:
            chart.arrows.append((before, name, words))
        place = found.end()
        if place == len(line):
            return
        arrow = ARROW.match(line, place)
        if not arrow:
            raise ValueError(f"no arrow where one should be, {line[place:]!r}, in {line!r} (see book/_ext/diagrams.py)")
        before, words, place = name, arrow[1] or "", arrow.end()


def draw(graphs: list[str]) -> list[str]:
    """Return graphs in Graphviz's language as SVG for a page: sizes in pixels, without names and colours."""
    script = Path(__file__).with_suffix(".mjs")
    result = subprocess.run(
        [node_tools()[0], str(script)], input=json.dumps(graphs), capture_output=True, text=True, check=True
    )
    drawings = []
    for svg in json.loads(result.stdout):
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<!--.*?-->|<title>.*?</title>|\n", "", svg, flags=re.DOTALL)
        svg = re.sub(r' (?:id|fill|stroke|font-family|xmlns(?::\w+)?)="[^"]*"', "", svg)
        drawings.append(re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', svg))
    return drawings


class Diagram(SphinxDirective):
    """The directive ``{mermaid}``, which MyST makes of the fence."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the two drawings as one picture with a description, or a one-line error."""
        self.assert_has_content()
        try:
            chart = read("\n".join(self.content))
        except ValueError as error:
            raise self.error(str(error)) from None
        parts = chart.parts()
        drawings = draw([part.dot(direction) for direction in (chart.direction, "TB") for part in parts])
        wide, narrow = drawings[: len(parts)], drawings[len(parts) :]
        html = (
            f'<div class="diagram" role="img" aria-label="{escape(chart.described())}">'
            f'<div class="wide">{"".join(wide)}</div><div class="narrow">{"".join(narrow)}</div></div>'
        )
        return [nodes.raw("", html, format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("mermaid", Diagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
