"""Keep interactive attention views small: all pages share one script, and each view's picture is a file.

In a notebook a view (``llmbook.viz.show_attention``) carries its scripts and its picture, so that it needs nothing
else; here they are taken out of each page, and the script of ``tools/vendor.py`` draws all views.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from site_files import picture_as_file
from sphinx.application import Sphinx

MARKER = '<figure class="lm-bertviz"'
SCRIPT = "vendor/bertviz/views.js"


def slim(html: str, images: Path, address: str) -> str:
    """Return a view without scripts, its picture a file."""
    html = re.sub(r' data-scripts="[^"]*"', "", html)
    html = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    return picture_as_file(html, images, address, "attention")


def views(doctree: nodes.document | None) -> list[nodes.raw]:
    """Return the nodes of a page that hold a view."""
    return [node for node in doctree.findall(nodes.raw) if MARKER in node.astext()] if doctree else []


def rewrite(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take out of a page's views what they share."""
    if app.builder.format != "html":
        return
    address = f"{'../' * docname.count('/')}{app.builder.imagedir}"
    for node in views(doctree):
        html = slim(node.astext(), Path(app.outdir, app.builder.imagedir), address)
        node.rawsource = html
        node.children = []
        node += nodes.Text(html)


def add_script(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give the script to pages that have a view, and to no other."""
    if views(doctree):
        app.add_js_file(SCRIPT)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.connect("doctree-resolved", rewrite)
    app.connect("html-page-context", add_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
