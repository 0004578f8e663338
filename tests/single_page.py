"""One page of the book beside empty chapters, built by Sphinx alone."""

import io
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from chapters import find_chapters

STUB = "---\norphan: true\n---\n\n# {title}\n"


def build_page(folder: Path, name: str, text: str, *extensions: str, **settings: Any) -> tuple[Path, str]:
    """Build ``book/en/NAME.md`` with extensions of ``book/_ext`` that can be imported.

    Returns the folder of the site, and what Sphinx complained of but for another Sphinx that was started in this
    process.
    """
    for place in ("book/en", "notebooks/en"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for chapter in find_chapters():
        (folder / "notebooks" / f"{chapter.name}.md").write_text(STUB.format(title="A chapter"))
    (folder / "book/en/run.md").write_text(STUB.format(title="Run it"))
    (folder / "index.md").write_text(f"# Index\n\n```{{toctree}}\nbook/en/{name}\n```\n")
    (folder / f"book/en/{name}.md").write_text(text)
    complaints, out = io.StringIO(), folder / "out"
    settings |= {"extensions": ["myst_parser", *extensions], "myst_enable_extensions": ["colon_fence"],
                 "suppress_warnings": ["app"]}  # fmt: skip
    Sphinx(folder, None, out, folder / "trees", "html", confoverrides=settings, status=None,
           warning=complaints, freshenv=True).build()  # fmt: skip
    return out, complaints.getvalue()
