"""``{notebook-output}``: show the stored output of one cell of a chapter on another page.

````
```{notebook-output} en/01-language-models landing
```
````
puts the HTML that the cell tagged ``landing`` computed where the directive stands.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from chapters import ROOT, Problem, find_chapters, read_notebook, select_chapters, tags


def stored_html(cell: dict[str, Any]) -> str | None:
    """Return the first HTML output of a cell."""
    data = (output.get("data", {}) for output in cell.get("outputs", []))
    return next((mime["text/html"] for mime in data if "text/html" in mime), None)


class NotebookOutput(SphinxDirective):
    """The directive: a chapter's name and a cell's tag."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Return the stored HTML, or a one-line error that names the chapter and the tag."""
        name, tag = self.arguments
        try:
            chapter = select_chapters(find_chapters(), name)[0]
            notebook = read_notebook(chapter)
        except Problem as problem:
            raise self.error(str(problem)) from None
        self.env.note_dependency(str(chapter.notebook.relative_to(ROOT)))
        found = (stored_html(cell) for cell in notebook.cells if tag in tags(cell))
        html = next(filter(None, found), None)
        if html is None:
            raise self.error(
                f"no executed cell of {name} has the tag {tag!r} and an HTML output: "
                f"tag the cell in {chapter.manuscript.name} and run `make notebooks CHAPTER={name}`"
            )
        # On such a page an attention view moves on by itself (see llmbook.viz); in its chapter it waits for the reader.
        return [nodes.raw("", f"<div data-cycle>{html}</div>", format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("notebook-output", NotebookOutput)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
