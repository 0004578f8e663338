"""The corpus ``pydocs``: the documentation of the packages that the book installs anyway, at pinned versions."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbook.corpora import docstrings, duplicates, installed, sources
from llmbook.corpora.cache import cached
from llmbook.corpora.installed import PACKAGES
from llmbook.corpora.workers import in_parallel

if TYPE_CHECKING:
    import datasets

RECIPE = "pydocs 3"  # to be raised with every change of what is built
SHORTEST = 80  # characters, white space made single: below it stand remarks, not documents
SPLITS = ("train", "validation", "test")
HELD_OUT = 200  # documents


def pydocs() -> "datasets.DatasetDict":
    """Return the docstrings of ten packages as documents.

    The standard library, numpy, scipy, scikit-learn, pandas, matplotlib, torch, sympy, networkx and nltk are read
    without importing them, at pinned versions (``llmbook.corpora.sources``): from the installed files where
    they are those, else from a copy that is fetched. Tests, and copies of other projects that a package carries along,
    are passed over, as are texts under 80 characters. Of texts equal up to white space the one with the most public
    name stays. About 90 % of the documents are in ``train``, 5 % each in ``validation`` and ``test``.

    Columns:
        id: ``package:qualified name``, with ``#2``, ``#3`` ... where one name has several texts.
        package: the name on the package index, or ``standard library``.
        topic: the package's field, such as ``deep learning``.
        name: the qualified name where the text is defined, such as ``scipy.stats._stats_py.gmean``.
        kind: ``module``, ``class``, ``function`` or ``method``.
        signature: ``name(arguments) -> type``; empty for a module.
        text: the docstring after ``inspect.cleandoc``.
        summary: its first sentence.
        body: what follows the summary, sections included.
        sections: the titled parts, ``{title, text}``; ``Args``, ``Arguments`` ... are ``Parameters``, and so on.
        parameters: the documented parameters, ``{name, type, default, description}``; empty where nothing is said.
        cluster: the id of one document of the cluster of near-duplicates that this one belongs to.

    Two documents are near-duplicates when they share half of their word 5-grams (``llmbook.corpora.duplicates``); a
    cluster is never parted by the split.

    Raises:
        CorpusError: if a package is missing and cannot be fetched, or the cache is damaged or cannot be written.
    """
    return sources.pinned_corpus(PYDOCS, _pydocs)


def held_out() -> list[str]:
    """Return the 200 documents of the test split on which the book reports bits per byte (chapter 1).

    They are the first ones of ``pydocs().shuffle(seed=0)["test"]``. What a model, a table or a tokenizer was made from
    is never among them.

    Raises:
        CorpusError: see :func:`pydocs`.
    """
    return list(pydocs()["test"].shuffle(seed=0)["text"][:HELD_OUT])


def _pydocs(folders: dict[str, Path]) -> "datasets.DatasetDict":
    """Return the docstrings found in the folders of packages, by the packages' names."""
    recipe = f"{RECIPE} {sys.version_info[:2]}"
    named = [(f"{name}/{path.relative_to(folder)}", path) for name, folder, path in _files(folders)]
    return cached("pydocs", installed.content_key(recipe, named), lambda: _assemble(_read(folders)))


def _files(folders: dict[str, Path]) -> list[tuple[str, Path, Path]]:
    return [(name, folder, path) for name, folder in folders.items() for path in installed.source_files(folder)]


def _read(folders: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the documents of each package, not yet compared with each other."""
    from tqdm.auto import tqdm

    files = _files(folders)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    found = tqdm(in_parallel(_read_file, files), "pydocs: reading", len(files), unit=" files")
    for (name, _, _), part in zip(files, found, strict=True):
        rows[name] += part
    return rows


def _text(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield name and text of each document of a package: what is pinned."""
    for row in rows:
        yield from (row["columns"]["name"], row["text"])


def _assemble(found: dict[str, list[dict[str, Any]]]) -> "datasets.DatasetDict":
    from tqdm.auto import tqdm

    rows = _without_repetitions([row for part in found.values() for row in part])
    signatures = tqdm([row.pop("signature") for row in rows], "pydocs: near-duplicates", unit=" documents")
    clusters = duplicates.clusters([row["id"] for row in rows], [row["text"] for row in rows], signatures)
    rows = [row["columns"] | {"id": row["id"], "cluster": cluster} for row, cluster in zip(rows, clusters, strict=True)]
    return into_splits(rows, features())


def _read_file(package: str, folder: Path, path: Path) -> list[dict[str, Any]]:
    """Return the documents of a file, each with its columns and its MinHash signature."""
    topic = next((known.topic for known in PACKAGES if known.name == package), package)
    rows = []
    for found in docstrings.read_docstrings(path.read_bytes(), _module_name(package, folder, path)):
        if len(" ".join(found.text.split())) < SHORTEST:
            continue
        parsed = docstrings.parse(found.text)
        columns: dict[str, Any] = {"package": package, "topic": topic} | found._asdict() | parsed._asdict()
        columns["sections"] = [section._asdict() for section in parsed.sections]
        columns["parameters"] = [parameter._asdict() for parameter in parsed.parameters]
        rows.append({"text": found.text, "columns": columns, "signature": duplicates.signature(found.text)})
    return rows


def _module_name(package: str, folder: Path, path: Path) -> str:
    parts = path.relative_to(folder).with_suffix("").parts
    parts = parts if package == installed.STANDARD_LIBRARY else (folder.name, *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _without_repetitions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows sorted by their ids, which they get here; of equal texts the most public one stays."""

    def obscurity(row: dict[str, Any]) -> tuple[int, int, str, str]:
        parts = row["columns"]["name"].split(".")
        return sum(part.startswith("_") for part in parts), len(parts), row["columns"]["name"], row["text"]

    unique: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=obscurity):
        unique.setdefault(" ".join(row["text"].split()), row)
    seen: dict[str, int] = {}
    for row in unique.values():
        name = f"{row['columns']['package']}:{row['columns']['name']}"
        seen[name] = seen.get(name, 0) + 1
        row["id"] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return sorted(unique.values(), key=lambda row: row["id"])


def into_splits(rows: list[dict[str, Any]], features: "datasets.Features") -> "datasets.DatasetDict":
    """Return rows as data sets, each in the split that its ``cluster`` decides; a split without rows is left out."""
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

    parts: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for row in rows:
        parts[duplicates.split_of(row["cluster"])].append(row)
    schema = features.arrow_schema
    return DatasetDict({split: Dataset(pa.Table.from_pylist(part, schema)) for split, part in parts.items() if part})


def features() -> "datasets.Features":
    """Return the types of the columns of ``pydocs``."""
    from datasets import Features, List, Value

    string = Value("string")
    plain = ("id", "package", "topic", "name", "kind", "signature", "text", "summary", "body")
    return Features(
        dict.fromkeys(plain, string)
        | {
            "sections": List(dict.fromkeys(docstrings.Section._fields, string)),
            "parameters": List(dict.fromkeys(docstrings.Parameter._fields, string)),
            "cluster": string,
        }
    )


PYDOCS = sources.Corpus("pydocs", RECIPE, PACKAGES, (".py",), _read, _read, _text, _assemble)
