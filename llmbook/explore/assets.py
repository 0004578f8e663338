"""The explorer's scripts, put together: the modules beside this file as one script for the page, one for its worker."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import re
from importlib.resources import files

PAGE = ("sampling.js", "draw.js", "page.js")
WORKER = ("weights.js", "tokens.js", "sampling.js", "model.js", "worker.js")


@functools.cache
def asset(name: str) -> str:
    """Return the text of a file of this package."""
    return (files("llmbook.explore") / name).read_text(encoding="utf-8")


def words(language: str = "en") -> dict[str, str]:
    """Return all that the explorer says, in a language.

    Raises:
        ValueError: there is no such language.
    """
    try:
        return dict(json.loads(asset(f"words.{language}.json")))
    except FileNotFoundError:
        raise ValueError(f"language={language!r}: there is no words.{language}.json in llmbook/explore") from None


def bundle(names: tuple[str, ...]) -> str:
    """Join modules to one script: their names are different, so that imports and exports can be left out."""
    text = "\n".join(asset(name) for name in names)
    text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
    return re.sub(r"^ *//.*\n", "", text, flags=re.MULTILINE)


@functools.cache
def script(language: str = "en") -> str:
    """Return the script that a page loads once its reader has reached an explorer: with style, words and worker."""
    parts = {"css": asset("explorer.css"), "words": words(language), "worker": bundle(WORKER)}
    kit = json.dumps(parts, ensure_ascii=False)
    return (
        f"(() => {{\n{bundle(PAGE)}\nconst kit = {kit};\n"
        "self.llmbookExplorer = (figure) => new Explorer(figure, kit);\n})();\n"
    )


def packed_script(language: str = "en") -> str:
    """Return the same, compressed, as a notebook's output carries it."""
    return base64.b64encode(gzip.compress(script(language).encode(), 9, mtime=0)).decode()
