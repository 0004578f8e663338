"""The scripts of BertViz's views: its own, from the installed package, and the libraries that they draw with.

BertViz asks a content network for require.js, jQuery 2.0.0 and all of d3 5.7.0. Its views use twelve modules of d3 5
and a little of jQuery, for which the present one does. These come from npm: ``tools/vendor.py`` puts them into
``FOLDER``, so that a view can carry them (58 KB packed). Where they are missing, as in Colab, a view names their
addresses, each with its hash.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(sys.prefix) / "share" / "llmbook" / "bertviz"
ADDRESS = "https://cdn.jsdelivr.net/npm/"
VIEWS = ("head", "model", "neuron")
NOTICE = "/*! d3: BSD-3-Clause, Mike Bostock; jQuery: MIT, OpenJS Foundation; BertViz: Apache-2.0, Jesse Vig */\n"

#: npm's packages in the order in which they load, with their file and its hash as in subresource integrity.
LIBRARIES = {
    "jquery@4.0.0": (
        "dist/jquery.slim.min.js",
        "sha384-tcspKDb5tWvyRCOWzevlAeQgHeEzYdUHJpcgnIhcP9w4CnfD7DLAcS+k9QzLbRJO",
    ),
    "d3-array@1.2.4": (
        "dist/d3-array.min.js",
        "sha384-eNoN1QUquT7+e3vJmaXeE4NReeo65Lso043hmS4Btr3vnaCjL8YORqqdXrnOY/zM",
    ),
    "d3-collection@1.0.7": (
        "dist/d3-collection.min.js",
        "sha384-145+nXeqpEYAPJc0FIzxespQKzAs0jmGQO4NfJ/sO9/MUM1e+ePKQYa7yAqBr+mn",
    ),
    "d3-color@1.4.1": (
        "dist/d3-color.min.js",
        "sha384-MYtiRG/2ZZXAxl7x73JOT0eJDr2z/zdvcya22Ya/Qffy0FTitey1yVAd4QmjRkhr",
    ),
    "d3-format@1.4.5": (
        "dist/d3-format.min.js",
        "sha384-MXzPpxuHZi+yUHjCjdKlwsqJRwYd6NZg7swYiZfitFBznNXQRztZc/oS0Yk+0umT",
    ),
    "d3-interpolate@1.4.0": (
        "dist/d3-interpolate.min.js",
        "sha384-8svIvEmul71kOrYiWxgtthhVqB/SHRftITS+iaiT65ZHVa3qoIGSFcoAJkyasjmP",
    ),
    "d3-path@1.0.9": (
        "dist/d3-path.min.js",
        "sha384-DCvsKtGI8OWZhS8EZMCxLdAjvEb32oO+ph5xg3AjuvutmgnLzwSRpMm902Hx104Q",
    ),
    "d3-selection@1.4.2": (
        "dist/d3-selection.min.js",
        "sha384-F2QJGPfXYiLAMeRUSpj+gJAefRs5pZ7Zj081Re8T32O/HbaQFlBTQNvZpB8gv+Z7",
    ),
    "d3-time@1.1.0": (
        "dist/d3-time.min.js",
        "sha384-+XA3GW3QSDYSFQ30zFKN9cMvNGX1rMB6UPbCVbosSjwqEqarmIGnp9j5a39sMvb+",
    ),
    "d3-time-format@2.3.0": (
        "dist/d3-time-format.min.js",
        "sha384-WV9shfArlrxDidGb5pNpFpkO6cVNnlFiTN/ZEuMUKn7AZ+eTtssSdCSxKiVa2+Oh",
    ),
    "d3-scale@2.2.2": (
        "dist/d3-scale.min.js",
        "sha384-cxovXRYQlIFnjAjMT9XB8UEZAbw4aUfiGub8k27Q47d2RyIcvNBO0xDQqFLUaEL5",
    ),
    "d3-scale-chromatic@1.5.0": (
        "dist/d3-scale-chromatic.min.js",
        "sha384-hX5odjoulJel81+3dsnorXlZ7kA46f8qrV+2sBCcEAXaCyEAiRusFRjaefWw2NPp",
    ),
    "d3-shape@1.3.7": (
        "dist/d3-shape.min.js",
        "sha384-E8uzINk3cGP9bslXK0BGozydEt1EQHIerlGK1ZIQXVKm8lIB5WZfb7Bqhs20+KUW",
    ),
}


def library_file(library: str) -> str:
    """Return the name of a library's file, without version and folder."""
    return LIBRARIES[library][0].rpartition("/")[2]


def integrity(text: bytes) -> str:
    """Return the hash of a script as browsers take it."""
    return "sha384-" + base64.b64encode(hashlib.sha384(text).digest()).decode()


def libraries() -> str | None:
    """Return all libraries as one script, or ``None`` where one is missing or not the one that is named here."""
    texts = []
    for library, (_, expected) in LIBRARIES.items():
        try:
            text = (FOLDER / library_file(library)).read_bytes()
        except OSError:
            return None
        if integrity(text) != expected:
            return None
        texts.append(text.decode())
    return NOTICE + "\n".join(texts)


def tags() -> str:
    """Return the tags that load the libraries from the content network, and nothing but what is named here."""
    return "".join(
        f'<script src="{ADDRESS}{library}/{path}" integrity="{expected}" crossorigin="anonymous"></script>'
        for library, (path, expected) in LIBRARIES.items()
    )


@functools.cache
def view_script(view: str) -> str:
    """Return BertViz's script of a view, with its parameters as a variable."""
    spec = find_spec("bertviz")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the interactive views are BertViz's: pip install bertviz, or view='figure'")
    text = Path(spec.origin).with_name(f"{view}_view.js").read_text(encoding="utf-8")
    return text.replace("PYTHON_PARAMS", "window.bertviz_params")


def compressed(value: Any) -> str:
    """Return a JSON value compressed, as text; the same for the same value."""
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


@functools.cache
def asset(name: str) -> str:
    """Return the text of a file of this package."""
    return (files("llmbook.viz") / name).read_text(encoding="utf-8")


def packed_scripts(*views: str) -> str:
    """Return what draws the views, packed: the libraries or, where there are none, the tags that load them."""
    text = libraries()
    scripts = {"libraries": text, "tags": tags() if text is None else ""}
    return compressed(scripts | {view: view_script(view) for view in views})


def site_script() -> str:
    """Return the script that draws all views of a page, with all that they need: a site has it once, for all pages."""
    return f'self.llmbookViewScripts="{packed_scripts(*VIEWS)}";\n{asset("views.js")}'
