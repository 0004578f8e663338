"""Repair what our tools write into pages: attributes that mislead screen readers, ballast, scripts that block.

The tests find the first with axe-core and the others as weight and time.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

REPAIRS = (
    # MyST-NB names every folded cell the same, and not as it is written
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # docutils calls the bibliography a list whose items are none
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    # names, punctuation and blanks have the colour of the text: a fifth of a chapter's HTML
    (r'<span class="(?:n|nn|p|w)">([^<]*)</span>', r"\1"),
    # a chapter's figures are most of what it weighs after its text: each is fetched when the reader comes near
    (r'<img (?=[^>]*src="(?:\.\./)*_images/)', '<img loading="lazy" '),
)
# Scripts within the page use what this one defines.
AT_ONCE = "documentation_options.js"


def repair(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Change the page that is about to be written."""
    for wrong, right in REPAIRS if "body" in context else ():
        context["body"] = re.sub(wrong, right, context["body"])
    for script in context["script_files"]:
        if script.filename and not script.filename.endswith(AT_ONCE):
            # All pages share these objects; the search page has scripts of its own that need these at once.
            script.attributes.pop("defer", None)
            if templatename != "search.html":
                script.attributes["defer"] = "defer"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the repair, after all others have added their scripts."""
    app.connect("html-page-context", repair, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
