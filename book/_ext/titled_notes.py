"""Let notes carry a title of their own: ``:::{note} Reading the plot``.

Jupyter and Colab show the fence as text, so a chapter's notes have a title that reads well there; docutils would take
it for the note's first words. A note without a title keeps the usual one, in the site's language.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.locale import admonitionlabels
from sphinx.util.docutils import SphinxDirective

KINDS = ("note", "tip", "hint", "important", "warning", "caution")


class TitledNote(SphinxDirective):
    """A note with an optional title."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Build an admonition of the directive's kind."""
        self.assert_has_content()
        title = self.arguments[0] if self.arguments else str(admonitionlabels[self.name])
        children, messages = self.parse_inline(title)
        note = nodes.admonition("", nodes.title(title, "", *children), classes=[self.name])
        self.set_source_info(note)
        self.state.nested_parse(self.content, self.content_offset, note)
        return [note, *messages]


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of the plain notes."""
    for kind in KINDS:
        app.add_directive(kind, TitledNote, override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
