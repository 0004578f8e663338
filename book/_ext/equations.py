"""Typeset every equation while the site is built, so that a page needs no script to show it.

MathJax runs once, in Node; pages carry its HTML (with MathML for screen readers), one style sheet and the fonts that
they use. TeX that MathJax does not understand is a warning with file and line, hence an error of the build.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

from vendor import node_tools

STYLE_SHEET = "equations.css"
FONTS = "vendor/mathjax"
# Attributes of the text for screen readers that say nothing within a page.
BALLAST = re.compile(r' (?:xmlns|unselectable|data-mjx-[\w-]+)="[^"]*"')
logger = logging.getLogger(__name__)


class Typesetter:
    """A running MathJax: lines of JSON in, lines of JSON out."""

    def __init__(self) -> None:
        """Start Node."""
        script = Path(__file__).with_suffix(".mjs")
        command = [node_tools()[0], str(script), FONTS]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask = functools.cache(self._ask)

    def _ask(self, **request: Any) -> dict[str, str]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def typeset(self, node: nodes.Element, tex: str, display: bool) -> str:
        """Return the equation as HTML; on bad TeX warn at the node's place and return the TeX itself."""
        answer = self.ask(tex=tex, display=display)
        if "error" in answer:
            logger.warning("equation: %s: %s", answer["error"], " ".join(tex.split()), location=node)
            return f"<code>{nodes.unescape(tex)}</code>"
        return BALLAST.sub("", answer["html"])

    def style_sheet(self) -> str:
        """Return the rules that the equations typeset so far need, and end the process."""
        css = self._ask()["css"]
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        return css


def display_tex(text: str) -> str:
    """Join the paragraphs of a displayed equation the way Sphinx does: lines of one block are aligned."""
    parts = [
        part if r"\\" not in part else rf"\begin{{split}}{part}\end{{split}}"
        for part in text.split("\n\n")
        if part.strip()
    ]
    return parts[0] if len(parts) == 1 else r"\begin{aligned}" + r"\\".join(parts) + r"\end{aligned}"


def visit_inline(writer: Any, node: nodes.math) -> None:
    """Write an equation within a line."""
    writer.body.append(writer.builder.typesetter.typeset(node, node.astext(), display=False))
    raise nodes.SkipNode


def visit_display(writer: Any, node: nodes.math_block) -> None:
    """Write an equation on its own line, with its number where it has one."""
    tex = node.astext() if node["nowrap"] else display_tex(node.astext())
    writer.body.append(writer.starttag(node, "div", CLASS="equation"))
    writer.body.append(writer.builder.typesetter.typeset(node, tex, display=True))
    if node["number"]:
        writer.body.append(f'<span class="eqno">({get_node_equation_number(writer, node)})</span>')
    writer.body.append("</div>\n")
    raise nodes.SkipNode


def start(app: Sphinx) -> None:
    """Start MathJax when pages are to be written."""
    if app.builder.format == "html":
        app.builder.typesetter = Typesetter()  # type: ignore[attr-defined]


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write the style sheet beside the pages."""
    if app.builder.format == "html":
        css = app.builder.typesetter.style_sheet()  # type: ignore[attr-defined]
        Path(app.outdir, "_static", STYLE_SHEET).write_text(css)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("typeset", (visit_inline, None), (visit_display, None))
    app.add_css_file(STYLE_SHEET)
    app.connect("builder-inited", start)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
