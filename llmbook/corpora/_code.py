"""The corpus ``code``: source files in seven programming languages, as they lie in installed packages."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbook.corpora import duplicates, installed, sources
from llmbook.corpora._pydocs import into_splits
from llmbook.corpora.cache import cached
from llmbook.corpora.installed import Package
from llmbook.corpora.workers import in_parallel

if TYPE_CHECKING:
    import datasets

RECIPE = "code 1"  # to be raised with every change of what is built
LANGUAGES = {
    ".py": "Python",
    ".pyx": "Cython",
    ".c": "C",
    ".h": "C/C++ header",
    ".cpp": "C++",
    ".js": "JavaScript",
    ".css": "CSS",
}
# Besides the packages of ``pydocs``: Cython and headers, and the JavaScript and CSS of the tools that draw the site.
PACKAGES = (
    *installed.PACKAGES,
    Package("pyarrow", "pyarrow", ""),
    Package("docutils", "docutils", ""),
    Package("sphinx", "sphinx", ""),
)
BYTES_PER_LANGUAGE = 4_000_000
SHORTEST, LONGEST = 200, 100_000  # bytes of a file
LONGEST_LINE = 500  # characters: beyond it a file was made by a program
GENERATED = re.compile(r"(?i)auto-?\s?generated|@generated|generated (by|from|with|using|file)|do not edit|minified")


def code() -> "datasets.DatasetDict":
    """Return source files of packages: the ten of ``pydocs``, and three that bring Cython, JavaScript and CSS.

    The versions and the files are pinned (``llmbook.corpora.sources``); this rule chose the files. Tests and copies of
    other projects are passed over, as are files that a program made (said in their first lines, or a line of more than
    500 characters), under 200 bytes, over 100,000 bytes, or not in UTF-8. Of equal files one stays. Of each language at
    most 4,000,000 bytes are taken, in the order of the files' SHA-256: a choice that depends on nothing but the files.
    The split is by near-duplicate cluster, as in ``pydocs``.

    Columns:
        id: the package and the path, such as ``numpy/linalg/_linalg.py``.
        package: the name on the package index, or ``standard library``.
        path: the path within the package's folder.
        language: Python, Cython, C, C/C++ header, C++, JavaScript, CSS.
        text: the file's content.
        cluster: the id of one file of the cluster of near-duplicates that this one belongs to.

    Raises:
        CorpusError: if a package is missing and cannot be fetched, or the cache is damaged or cannot be written.
    """
    return sources.pinned_corpus(CODE, _code)


def _code(folders: dict[str, Path]) -> "datasets.DatasetDict":
    named = [(f"{name}/{path.relative_to(folder).as_posix()}", path) for name, folder, path in _files(folders)]
    return cached("code", installed.content_key(RECIPE, named), lambda: _assemble(_select(folders)))


def _files(folders: dict[str, Path]) -> list[tuple[str, Path, Path]]:
    return [
        (name, folder, path) for name, folder in folders.items() for path in installed.source_files(folder, LANGUAGES)
    ]


def _read(folders: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the pinned files of each package, as far as they are there."""
    from tqdm.auto import tqdm

    pinned = sources.pinned_files("code")
    paths = [(name, folder, folder / path) for name, folder in folders.items() for path in pinned[name]]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    for name, folder, path in tqdm(paths, "code: reading", unit=" files"):
        if path.is_file():
            rows[name].append(_row(name, folder, path, path.read_bytes().decode("utf-8", "replace")))
    return rows


def _text(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield from (row["path"], row["text"])


def _row(package: str, folder: Path, path: Path, text: str) -> dict[str, Any]:
    where = path.relative_to(folder).as_posix()
    row = {"id": f"{package}/{where}", "package": package, "path": where, "text": text}
    return row | {"language": LANGUAGES[path.suffix]}


def _assemble(found: dict[str, list[dict[str, Any]]]) -> "datasets.DatasetDict":
    from datasets import Features, Value
    from tqdm.auto import tqdm

    rows = sorted((row for part in found.values() for row in part), key=lambda row: row["id"])
    texts = [row["text"] for row in rows]
    signatures = in_parallel(duplicates.signature, [(text,) for text in texts])
    signatures = tqdm(signatures, "code: near-duplicates", len(rows), unit=" files")
    for row, cluster in zip(rows, duplicates.clusters([row["id"] for row in rows], texts, signatures), strict=True):
        row["cluster"] = cluster
    columns = ("id", "package", "path", "language", "text", "cluster")
    return into_splits(rows, Features(dict.fromkeys(columns, Value("string"))))


def _select(folders: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the files that are chosen among those of all packages."""
    from tqdm.auto import tqdm

    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    for row in _chosen(tqdm(_files(folders), "code: reading", unit=" files")):
        rows[row["package"]].append(row)
    return rows


def _chosen(files: Iterable[tuple[str, Path, Path]]) -> Iterator[dict[str, Any]]:
    """Yield the files that people wrote, each text once, of every language as many as the limit allows."""
    by_hash: dict[str, dict[str, Any]] = {}
    for package, folder, path in files:
        content = path.read_bytes()
        if not SHORTEST <= len(content) <= LONGEST:
            continue
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if GENERATED.search(text[:500]) or max(map(len, text.split("\n"))) > LONGEST_LINE:
            continue
        by_hash.setdefault(hashlib.sha256(content).hexdigest(), _row(package, folder, path, text))
    size = dict.fromkeys(LANGUAGES.values(), 0)
    for _, row in sorted(by_hash.items()):
        size[row["language"]] += len(row["text"].encode())
        if size[row["language"]] <= BYTES_PER_LANGUAGE:
            yield row


CODE = sources.Corpus("code", RECIPE, PACKAGES, (), _read, _select, _text, _assemble)
