"""Show which outputs the tests compute again: the marker comment of nbval becomes a tick at the cell."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

MARKER = "# NBVAL_CHECK_OUTPUT\n"


def mark(app: Sphinx, doctree: nodes.document) -> None:
    """Take the comment off the code and give the cell the class ``checked``, which the style sheet shows."""
    for block in doctree.findall(nodes.literal_block):
        code = block.astext()
        if code.startswith(MARKER) and block.parent is not None:
            block.parent["classes"].append("checked")
            block.rawsource = code.removeprefix(MARKER)
            block.children = []
            block += nodes.Text(block.rawsource)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the mark."""
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
