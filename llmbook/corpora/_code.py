"""The corpus ``code``: source files in seven programming languages, as they lie in installed packages."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbook.corpora import duplicates, installed
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
    """Return source files of installed packages: the ten of ``pydocs``, and three that bring Cython, JavaScript and
    CSS.

    Tests and copies of other projects are passed over, as are files that a program made (said in their first lines, or
    a line of more than 500 characters), under 200 bytes, over 100,000 bytes, or not in UTF-8. Of equal files one
    stays. Of each language at most 4,000,000 bytes are taken, in the order of the files' SHA-256: a choice that depends
    on nothing but the files. The split is by near-duplicate cluster, as in ``pydocs``.

    Columns:
        id: the package and the path, such as ``numpy/linalg/_linalg.py``.
        package: the name on the package index, or ``standard library``.
        path: the path within the package's folder.
        language: Python, Cython, C, C/C++ header, C++, JavaScript, CSS.
        text: the file's content.
        cluster: the id of one file of the cluster of near-duplicates that this one belongs to.

    Raises:
        CorpusError: if a package is missing, or the cache is damaged or cannot be written.
    """
    return _code({package.name: installed.package_folder(package) for package in PACKAGES})


def _code(folders: dict[str, Path]) -> "datasets.DatasetDict":
    files = [
        (name, folder, path) for name, folder in folders.items() for path in installed.source_files(folder, LANGUAGES)
    ]
    named = [(f"{name}/{path.relative_to(folder).as_posix()}", path) for name, folder, path in files]
    return cached("code", installed.content_key(RECIPE, named), lambda: _build(files))


def _build(files: list[tuple[str, Path, Path]]) -> "datasets.DatasetDict":
    from datasets import Features, Value
    from tqdm.auto import tqdm

    rows = list(_chosen(tqdm(files, "code: reading", unit=" files")))
    rows.sort(key=lambda row: row["id"])
    texts = [row["text"] for row in rows]
    found = in_parallel(duplicates.signature, [(text,) for text in texts])
    signatures = tqdm(found, "code: near-duplicates", len(rows), unit=" files")
    for row, cluster in zip(rows, duplicates.clusters([row["id"] for row in rows], texts, signatures), strict=True):
        row["cluster"] = cluster
    columns = ("id", "package", "path", "language", "text", "cluster")
    return into_splits(rows, Features(dict.fromkeys(columns, Value("string"))))


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
        where = path.relative_to(folder).as_posix()
        row = {"id": f"{package}/{where}", "package": package, "path": where, "text": text}
        by_hash.setdefault(hashlib.sha256(content).hexdigest(), row | {"language": LANGUAGES[path.suffix]})
    size = dict.fromkeys(LANGUAGES.values(), 0)
    for _, row in sorted(by_hash.items()):
        size[row["language"]] += len(row["text"].encode())
        if size[row["language"]] <= BYTES_PER_LANGUAGE:
            yield row
