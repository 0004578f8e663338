"""The packages that the corpora are read from: where their files lie, found without importing any of them."""

import hashlib
import importlib.util
import os
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from llmbook.corpora.cache import CorpusError

STANDARD_LIBRARY = "standard library"

# Folders without documentation of their own: tests, copies of other projects, and those parts of the standard library
# that are programs, are installed on some systems only (msilib), or have left it since.
TESTS = {"test", "tests", "testing", "_testing", "idle_test"}
COPIES = {"_bundled", "_vendor", "_vendored", "vendored", "vendored_templates", "externals"} | {
    *("array_api_compat", "array_api_extra", "_uarray", "cobyqa", "pyprima")
}
LEFT_OUT = {"site-packages", "dist-packages", "idlelib", "turtledemo", "ensurepip", "lib2to3", "distutils", "msilib"}
SKIPPED_FOLDERS = TESTS | COPIES | LEFT_OUT | {"__pycache__"}
SKIPPED_MODULES = re.compile(r"(test_.*|.*_test|conftest)\.py")


class Package(NamedTuple):
    """A package that is read: its name on the package index, its name in Python, and its field."""

    name: str
    module: str
    topic: str


PACKAGES = (
    Package(STANDARD_LIBRARY, "", "standard library"),
    Package("numpy", "numpy", "arrays"),
    Package("scipy", "scipy", "scientific computing"),
    Package("scikit-learn", "sklearn", "machine learning"),
    Package("pandas", "pandas", "data tables"),
    Package("matplotlib", "matplotlib", "plotting"),
    Package("torch", "torch", "deep learning"),
    Package("sympy", "sympy", "symbolic mathematics"),
    Package("networkx", "networkx", "graphs"),
    Package("nltk", "nltk", "natural language"),
)


def package_folder(package: Package) -> Path:
    """Return the folder that holds a package's modules.

    Raises:
        CorpusError: if the package is not installed.
    """
    if package.name == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    # For a top-level name this looks the package up and does not import it.
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise CorpusError(f"The package {package.name} is not installed: run `pip install {package.name}`.")
    return Path(spec.submodule_search_locations[0])


def source_files(folder: Path, suffixes: Iterable[str] = (".py",)) -> list[Path]:
    """Return the source files under a folder in a fixed order, without tests and copies of other projects."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        wanted = [name for name in names if name.endswith(tuple(suffixes)) and not SKIPPED_MODULES.fullmatch(name)]
        found += [Path(parent, name) for name in wanted]
    return sorted(found, key=lambda path: path.parts)


def is_source(path: str, suffixes: Iterable[str]) -> bool:
    """Tell whether :func:`source_files` would find a path, given as it stands under the folder."""
    *folders, name = path.split("/")
    return name.endswith(tuple(suffixes)) and not SKIPPED_MODULES.fullmatch(name) and not SKIPPED_FOLDERS & set(folders)


def content_key(recipe: str, files: Iterable[tuple[str, Path]]) -> str:
    """Return the hash of a recipe and of named files' contents."""
    digest = hashlib.sha256(recipe.encode())
    for name, path in files:
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
