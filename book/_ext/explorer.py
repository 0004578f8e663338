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

A figure carries its model and its picture, as an output of ``llmbook.explore`` does in a notebook. When the page is
written, both become files, each once for all pages, and explorers get their names, ``explorer-1`` and so on, to which
links lead. An output that was stored without its model (see ``explore``) gets the package's, if that is the same.
"""

from __future__ import annotations

import base64
import json
import re
from html import escape, unescape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from site_files import picture_as_file, store
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
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
        from llmbook.explore import explore  # imports torch: only where a page has an explorer
        from llmbook.pretrained import model_folder

        model = self.arguments[0]
        beside = Path(self.env.srcdir, model)
        options = {name.replace("-", "_"): value for name, value in self.options.items()}
        try:
            folder = beside if (beside / "config.json").is_file() else model_folder(model)
            html = explore(folder, options.pop("text", ""), language=self.config.language, **options)._repr_html_()
        except (ValueError, FileNotFoundError) as error:
            raise self.error(str(error)) from None
        self.env.note_dependency(str((folder / "model.safetensors").resolve()))
        return [nodes.raw("", html, format="html")]


def slim(html: str, name: str, outdir: Path, images: str, root: str) -> str:
    """Return a figure whose model and picture are files of the site; ``root`` is the way from the page to its first.

    Raises:
        ValueError: a stored output names a model of the book that has changed since.
    """
    picture = " data-picture=" in html
    script = f"{root}{SCRIPTS}/{'pictures' if picture else 'explorer'}.js"
    html = re.sub(r' data-code="[^"]*"', "", html)
    html = html.replace("<figure ", f'<figure data-script="{script}" ', 1)
    if not picture:
        stored = re.search(r' data-explorer="([^"]*)"', html)
        assert stored, "llmbook.explore writes the settings of every explorer"
        settings = json.loads(unescape(stored[1]))
        carried = re.search(r' data-model="([^"]*)"', html)
        packed = carried[1] if carried else shipped(settings["model"], settings["sha256"])
        settings |= {"url": f"{root}{MODELS}/{store(packed, outdir / MODELS, 'model', '.lmx')}", "link": True}
        written = escape(json.dumps(settings, ensure_ascii=False, separators=(",", ":")))
        html = re.sub(r' data-model="[^"]*"', "", html)
        html = re.sub(r' data-explorer="[^"]*"', lambda _: f' id="{name}" data-explorer="{written}"', html)
    return picture_as_file(html, outdir / images, f"{root}{images}", "explorer")


def shipped(model: str, sha256: str) -> str:
    """Return a model of the book as text, as an output carries it, if it is still the one that the output shows."""
    from llmbook.explore import pack_shipped  # imports torch

    packed = pack_shipped(model)
    if packed.sha256 != sha256:
        raise ValueError(f"{model} is another model than in the stored output: run `make notebooks` for this chapter")
    return base64.b64encode(packed.file).decode()


def rewrite(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the explorers of a page their names, and take out of them what is stored once."""
    if app.builder.format != "html":
        return
    root = "../" * docname.count("/")
    found = [node for node in doctree.findall(nodes.raw) if MARKER in node.astext()]
    for number, node in enumerate(found, start=1):
        try:
            html = slim(node.astext(), f"explorer-{number}", Path(app.outdir), app.builder.imagedir, root)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("%s", error, location=node)
            continue
        node.rawsource = html
        node.children = []
        node += nodes.Text(html)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.add_directive("explorer", Explorer)
    app.connect("doctree-resolved", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
