"""Number a chapter as its file is numbered: `notebooks/en/16-metrics` is chapter 16, whether or not 12 exists yet."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

CHAPTER = re.compile(r"notebooks/\w+/(\d\d)-[\w-]+")


def renumber(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Replace the first part of each section's number, which Sphinx took from the place in the contents."""
    changed = []
    for name, numbers in env.toc_secnumbers.items():
        match = CHAPTER.fullmatch(name)
        if match is None or numbers.get("", (0,))[0] == int(match[1]):
            continue
        first = int(match[1])
        for anchor, number in numbers.items():
            if number:
                numbers[anchor] = (first, *number[1:])
        for node in [env.titles[name], *env.tocs[name].findall(nodes.reference)]:
            if node.get("secnumber"):
                node["secnumber"] = [first, *node["secnumber"][1:]]
        changed.append(name)
    return changed


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the numbers, after those of Sphinx."""
    app.connect("env-get-updated", renumber, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
