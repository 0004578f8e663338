"""``{explorer}``: a model that runs in the page (``llmbook.explore``).

```
:::{explorer} pydocs-gpt
:text: Return the mean of the
:temperature: 0.8
:head: 1.2
:::
```
names a model of the book, or a folder seen from the sources' root. Options are those of ``llmbook.explore.explore``:
``text``, ``panels`` (names with commas), ``temperature``, ``top-k``, ``top-p``, ``head`` (layer.head) and ``label``.

As in a notebook's output the figure carries its model and its picture; when the page is written, both become files,
each once for all pages, and the figure gets its name, ``explorer-1`` and so on, to which links lead.
"""

from __future__ import annotations

import json
import re
from html import escape, unescape
from pathlib import Path

from attention_views import picture_as_file, store
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

MARKER = '<figure class="lm-explorer'  # pictures have a second class
SCRIPTS = "_static/vendor/explorer"
MODELS = "_models"


def names(argument: str) -> list[str]:
    """Read names with commas between them."""
    return [name.strip() for name in argument.split(",") if name.strip()]


def layer_and_head(argument: str) -> tuple[int, int]:
    """Read ``layer.head``."""
    found = re.fullmatch(r"\s*(\d+)\.(\d+)\s*", argument)
    if not found:
        raise ValueError("layer and head, numbered from 0, with a point between them: 1.2")
    return int(found[1]), int(found[2])


class Explorer(SphinxDirective):
    """The directive."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {  # noqa: RUF012  # docutils wants a dictionary
        "text": directives.unchanged_required,
        "panels": names,
        "temperature": float,
        "top-k": int,
        "top-p": float,
        "head": layer_and_head,
        "label": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Return the figure, or a one-line error."""
        from llmbook.explore import explore, find  # imports torch: only where a page has an explorer

        model = self.arguments[0]
        beside = Path(self.env.srcdir, model)
        options = {name.replace("-", "_"): value for name, value in self.options.items()}
        try:
            folder = beside if (beside / "config.json").is_file() else find(model)
            html = explore(folder, options.pop("text", ""), language=self.config.language, **options)._repr_html_()
        except (ValueError, FileNotFoundError) as error:
            raise self.error(str(error)) from None
        self.env.note_dependency(str((folder / "model.safetensors").resolve()))
        return [nodes.raw("", html, format="html")]


def slim(html: str, name: str, outdir: Path, images: str, root: str) -> str:
    """Return a figure whose model and picture are files of the site; ``root`` is the way from the page to its first."""

    def stored(match: re.Match[str]) -> str:
        file = store(match[1], outdir / MODELS, "model", ".lmx")
        return f' data-url="{root}{MODELS}/{file}"'

    script = "pictures.js" if " data-picture=" in html else "explorer.js"
    html = re.sub(r' data-code="[^"]*"', f' data-script="{root}{SCRIPTS}/{script}"', html)
    html = re.sub(r' data-model="([^"]*)"', stored, html)
    url = re.search(r' data-url="([^"]*)"', html)
    if url:
        html = html.replace(url[0], "")
        settings = json.loads(unescape(re.search(r'data-explorer="([^"]*)"', html)[1]))
        settings |= {"url": url[1], "link": True}
        written = escape(json.dumps(settings, ensure_ascii=False, separators=(",", ":")))
        html = re.sub(r'data-explorer="[^"]*"', lambda _: f'id="{name}" data-explorer="{written}"', html)
    return picture_as_file(html, outdir / images, f"{root}{images}", "explorer")


def rewrite(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the explorers of a page their names, and take out of them what is stored once."""
    if app.builder.format != "html":
        return
    root = "../" * docname.count("/")
    found = [node for node in doctree.findall(nodes.raw) if MARKER in node.astext()]
    for number, node in enumerate(found, start=1):
        html = slim(node.astext(), f"explorer-{number}", Path(app.outdir), app.builder.imagedir, root)
        node.rawsource = html
        node.children = []
        node += nodes.Text(html)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.add_directive("explorer", Explorer)
    app.connect("doctree-resolved", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
