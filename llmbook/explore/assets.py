"""The explorer's scripts, put together: the modules beside this file as one script for the page, one for its worker."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import re
from importlib.resources import files

PAGE = ("dom.js", "sampling.js", "draw.js", "page.js")
PICTURES = ("dom.js", "pictures.js")
WORKER = ("weights.js", "tokens.js", "sampling.js", "model.js", "worker.js")


@functools.cache
def asset(name: str) -> str:
    """Return the text of a file of this package."""
    return (files("llmbook.explore") / name).read_text(encoding="utf-8")


def phrases(language: str = "en", what: str = "words") -> dict[str, str]:
    """Return all that the explorer says, or the pictures (``what="pictures"``), in a language.

    Raises:
        ValueError: there is no such language.
    """
    try:
        return dict(json.loads(asset(f"{what}.{language}.json")))
    except FileNotFoundError:
        raise ValueError(f"language={language!r}: there is no {what}.{language}.json in llmbook/explore") from None


def bundle(names: tuple[str, ...]) -> str:
    """Join modules to one script: their names are different, so that imports and exports can be left out."""
    text = "\n".join(asset(name) for name in names)
    text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
    return re.sub(r"^ *//.*\n", "", text, flags=re.MULTILINE)


@functools.cache
def script(language: str = "en") -> str:
    """Return the script that a page loads once its reader has reached an explorer: with style, words and worker."""
    css = asset("base.css") + asset("explorer.css")
    parts = {"css": css, "words": phrases(language), "worker": bundle(WORKER)}
    kit = json.dumps(parts, ensure_ascii=False)
    return (
        f"(() => {{\n{bundle(PAGE)}\nconst kit = {kit};\n"
        "self.llmbookExplorer = (figure) => new Explorer(figure, kit);\n})();\n"
    )


@functools.cache
def pictures_script(language: str = "en") -> str:
    """Return the script of the small pictures, all of them."""
    css = asset("base.css") + asset("pictures.css")
    kit = json.dumps({"css": css, "words": phrases(language, "pictures")}, ensure_ascii=False)
    return (
        f"(() => {{\n{bundle(PICTURES)}\nconst kit = {kit};\n"
        "self.llmbookPicture = (figure) => makePicture(figure, kit);\n})();\n"
    )


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def packed_script(language: str = "en") -> str:
    """Return the explorer's script, compressed, as a notebook's output carries it."""
    return _packed(script(language))


def packed_pictures(language: str = "en") -> str:
    """Return the pictures' script, likewise."""
    return _packed(pictures_script(language))
