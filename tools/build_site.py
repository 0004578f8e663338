"""Build the site: ``python tools/build_site.py [--if-changed]``; the last line is the path of its first page.

Pages are written into a folder of their own, which takes the place of ``_build/html`` when all is well: a build that
fails or is stopped leaves the old site as it was. Every warning is an error and becomes one line: file, line, message.
An address that is still a placeholder is no error: one line says so, and how it is set.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from PIL import Image

from address import placeholder_note
from chapters import ROOT, Problem, report, toc_files
from vendor import copy_assets, purge_styles

BUILD = ROOT / "_build"
SITE = BUILD / "html"
PART = BUILD / "part"
SOURCES = (
    "_config.yml",
    "_toc.yml",
    "package-lock.json",
    "book/**/*",
    "notebooks/**/*",
    "tools/build_site.py",
    "tools/chapters.py",
    "tools/vendor.py",
    "tools/purge.mjs",
    "tools/house.py",
    "llmbook/**/*.py",  # the page of its public names
    "llmbook/viz/*",  # the script that draws the views
    "llmbook/explore/*",
    "llmbook/pretrained/*",
    "llmbook/pretrained/pydocs-*/*",  # the explorer and its models
)
# What the theme brings and no page asks for (see vendor.subset_icons and book/_templates).
UNUSED = (
    "_static/scripts/bootstrap.js*",
    "_static/scripts/fontawesome.js*",
    "_static/vendor/fontawesome",
    "_static/**/*.map",
    "_static/*webpack-macros.html",
)
COMPLAINT = re.compile(r"(?:(?P<place>\S+?): )?(?:WARNING|ERROR|CRITICAL|Extension error)\S*:? ?(?P<text>.*)")


def check_toc() -> None:
    """Stop with one line when a page of ``_toc.yml`` is not there."""
    for name in toc_files():
        if not any((ROOT / f"{name}{suffix}").is_file() for suffix in ("", ".md", ".ipynb")):
            raise Problem(f"_toc.yml names {name}, but there is no such .md or .ipynb file: add it or remove the line")


def newest(paths: Iterator[Path]) -> float:
    """Return the latest time of change; what Python compiles while the site is built is no source."""
    return max(path.stat().st_mtime for path in paths if path.is_file() and path.suffix != ".pyc")


def is_current() -> bool:
    """Tell whether the built site is newer than all that it is made from."""
    page = SITE / "index.html"
    return page.is_file() and page.stat().st_mtime > newest(path for name in SOURCES for path in ROOT.glob(name))


def problems(log: str) -> list[str]:
    """Return Sphinx's complaints, one line each, without its colours; a notebook's line becomes cell and line."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", log).splitlines():
        found = COMPLAINT.match(line)
        if not found:
            continue
        place = (found["place"] or "").replace(f"{ROOT}/", "")
        if cell := re.fullmatch(r"(.*\.ipynb):(\d+)", place):
            index, number = divmod(int(cell[2]), 10_000)  # MyST-NB's way to number lines, from 1
            place = f"{cell[1]}: cell {index}, line {number - 1}"
        lines.append(f"{place}: {found['text']}" if place else found["text"] or line)
    return lines


def shrink_figures(folder: Path) -> None:
    """Store figures with a palette of 256 colours, which a plot does not exceed visibly: a third of the bytes."""
    for path in folder.glob("*.png"):
        with Image.open(path) as figure:
            small = figure.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


def size_figures(site: Path) -> None:
    """Write its width and height on each picture of every page, so that text does not move when the picture comes."""

    def sized(tag: re.Match[str]) -> str:
        file = site / "_images" / tag[1]
        if " width=" in tag[0] or " style=" in tag[0]:
            return tag[0]
        with Image.open(file) as picture:
            width, height = picture.size
        return f'{tag[0][:-1].removesuffix("/").rstrip()} width="{width}" height="{height}"/>'

    picture = re.compile(r'<img [^>]*src="(?:\.\./)*_images/([\w.-]+\.png)"[^>]*>')
    for page in site.rglob("*.html"):
        page.write_text(picture.sub(sized, page.read_text(encoding="utf-8")), encoding="utf-8")


def build() -> Path:
    """Build the whole site and put it in place."""
    started = time.time()
    check_toc()
    for folder in (PART, BUILD / "vendor"):
        shutil.rmtree(folder, ignore_errors=True)
    copy_assets(BUILD / "vendor")
    command = ["jupyter-book", "build", str(ROOT), "--path-output", str(PART), "-W", "-n", "--keep-going", "-q"]
    command[0] = str(Path(sys.executable).with_name(command[0]))
    # the book's extensions, and the tools that they use
    folders = [str(ROOT / "book" / "_ext"), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
    )
    if result.returncode:
        found = problems(result.stdout)
        raise Problem("\nerror: ".join(found) or f"Sphinx failed: {result.stdout.strip()[-2000:]}")
    finished = PART / "_build" / "html"
    for pattern in UNUSED:
        for path in finished.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    purge_styles(finished)
    shrink_figures(finished / "_images")
    size_figures(finished)
    old = BUILD / "html.old"
    shutil.rmtree(old, ignore_errors=True)
    if SITE.exists():
        SITE.rename(old)
    finished.rename(SITE)
    os.utime(SITE / "index.html", (started, started))
    for folder in (PART, old):
        shutil.rmtree(folder, ignore_errors=True)
    return SITE / "index.html"


def main() -> int:
    """Build under a lock, so that two builds at once take turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--if-changed", action="store_true", help="do nothing when no source is newer than the site")
    arguments = parser.parse_args()
    try:
        BUILD.mkdir(exist_ok=True)
        with FileLock(BUILD / "site.lock"):
            page = SITE / "index.html" if arguments.if_changed and is_current() else build()
        note = placeholder_note(ROOT)
    except Problem as problem:
        return report([str(problem)])
    except OSError as error:
        return report([f"the site cannot be written: {error}"])
    if note:
        print(f"note: {note}", file=sys.stderr, flush=True)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
