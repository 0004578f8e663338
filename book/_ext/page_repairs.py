"""Repair what our tools write into pages: attributes that mislead screen readers, ballast, scripts that block.

Each repair names what it waits for; it goes when a release has that. The tests find the first two with axe-core and the
others as weight and time.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

REPAIRS = (
    # Every folded cell has the same name for a screen reader, and not the words that it shows.
    # Until MyST-NB's visit_HideCellInput (myst_nb/sphinx_.py) writes no label.
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # The bibliography is called a list, and its items have another role.
    # Until docutils' visit_citation (docutils/writers/_html_base.py) gives the list no role.
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    # Names, punctuation and blanks have the colour of the text: a fifth of a chapter's HTML.
    # Until Pygments' HtmlFormatter can leave out spans: of what a style gives no colour, and of operators, which stand
    # out as they are and make a tenth of a chapter's bytes.
    (r'<span class="(?:n|nn|o|p|w)">([^<]*)</span>', r"\1"),
    # A chapter's figures are most of its weight after its text: each is fetched when the reader comes near.
    # Until Sphinx's writer heeds docutils' setting `image_loading`, as docutils' own does.
    (r'<img (?=[^>]*src="(?:\.\./)*_images/)', '<img loading="lazy" '),
)
# Scripts within the page use what this one defines; the others need not wait. Until Sphinx defers what it adds itself.
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
