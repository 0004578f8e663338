"""Name a folded cell that imports for what it holds; the others keep MyST-NB's words."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

PROMPTS = {"en": "Imports and settings"}
IMPORT = re.compile(r"^(?:import|from) ", re.MULTILINE)


def name(app: Sphinx, doctree: nodes.document) -> None:
    """Put the name on each cell with the tag ``hide-input`` whose code imports something."""
    for cell in doctree.findall(nodes.container):
        sources = [code.astext() for code in cell.findall(nodes.literal_block)]
        if cell.get("hide_mode") == "input" and any(map(IMPORT.search, sources)):
            cell["prompt_show"] = cell["prompt_hide"] = PROMPTS[app.config.language]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the name."""
    app.connect("doctree-read", name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
