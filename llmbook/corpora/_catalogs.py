"""The corpus ``catalogs``: parallel sentences from the translations that the tool chain brings along."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbook.corpora import duplicates, installed, sources
from llmbook.corpora._pydocs import into_splits
from llmbook.corpora.cache import CorpusError, cached
from llmbook.corpora.installed import Package

if TYPE_CHECKING:
    import datasets

RECIPE = "catalogs 2"  # to be raised with every change of what is built
PACKAGES = (
    Package("jupyterlab-language-pack-zh-CN", "jupyterlab_language_pack_zh_CN", ""),
    Package("pydata-sphinx-theme", "pydata_sphinx_theme", ""),
    Package("sphinx", "sphinx", ""),
    Package("sphinx-book-theme", "sphinx_book_theme", ""),
    Package("sphinx-togglebutton", "sphinx_togglebutton", ""),
)
# Folder names that are no language tags; the second writes Chinese in another encoding.
LANGUAGES = {"sr@latin": "sr-Latn", "iw": "he", "zh_TW.Big5": ""}


def catalogs() -> "datasets.DatasetDict":
    """Return sentences of user interfaces in English with their translations, from compiled gettext catalogues.

    They come from Sphinx and its themes (some 70 languages) and from JupyterLab's language pack (simplified Chinese),
    at pinned versions (``llmbook.corpora.sources``). Plurals, and messages that are fuzzy, empty or equal to the
    English, are left out. The split is by the English
    sentence over all languages: one that is in ``test`` is in no other split in any language, nor is one that shares
    half of its word 5-grams.

    Columns:
        id: package, catalogue, language and the message's number, such as ``sphinx/sphinx/de/12``.
        package: the name on the package index.
        language: a language tag, such as ``de``, ``pt-BR``, ``sr-Latn``, ``zh-CN``.
        source: the English sentence.
        target: its translation.
        cluster: the English sentence that decides the split.

    Raises:
        CorpusError: if a package is missing and cannot be fetched, or the cache is damaged or cannot be written.
    """
    _check_babel()
    return sources.pinned_corpus(CATALOGS, _catalogs)


def _check_babel() -> None:
    try:
        import babel.messages.mofile  # noqa: F401
    except ImportError:
        raise CorpusError("The package babel is not installed: run `pip install babel`.") from None


def _catalogs(folders: dict[str, Path]) -> "datasets.DatasetDict":
    named = [(f"{package}/{path.relative_to(folders[package])}", path) for package, path in _files(folders)]
    return cached("catalogs", installed.content_key(RECIPE, named), lambda: _assemble(_read(folders)))


def _files(folders: dict[str, Path]) -> list[tuple[str, Path]]:
    return [
        (package, path)
        for package, folder in folders.items()
        for path in sorted(folder.rglob("LC_MESSAGES/*.mo"))
        if _language(path)
    ]


def _read(folders: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    from tqdm.auto import tqdm

    rows: dict[str, list[dict[str, Any]]] = {package: [] for package in folders}
    for package, path in tqdm(_files(folders), "catalogs: reading", unit=" files"):
        rows[package] += _messages(package, path)
    return rows


def _text(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield from (row["id"], row["source"], row["target"])


def _assemble(found: dict[str, list[dict[str, Any]]]) -> "datasets.DatasetDict":
    from datasets import Features, Value
    from tqdm.auto import tqdm

    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in (row for part in found.values() for row in part):
        rows.setdefault((row["language"], row["source"], row["target"]), row)
    sentences = sorted({row["source"] for row in rows.values()})
    signatures = map(duplicates.signature, sentences)
    signatures = tqdm(signatures, "catalogs: near-duplicates", len(sentences), unit=" sentences")
    clusters = dict(zip(sentences, duplicates.clusters(sentences, sentences, signatures), strict=True))
    columns = ("id", "package", "language", "source", "target", "cluster")
    return into_splits(
        [row | {"cluster": clusters[row["source"]]} for row in rows.values()],
        Features(dict.fromkeys(columns, Value("string"))),
    )


def _messages(package: str, path: Path) -> list[dict[str, Any]]:
    """Return the translated messages of a compiled catalogue, which holds no fuzzy ones."""
    from babel.messages.mofile import read_mo

    language = _language(path)
    with path.open("rb") as file:
        pairs = [(message.id, message.string) for message in read_mo(file) if isinstance(message.id, str)]
    pairs = [(source.strip(), target.strip()) for source, target in pairs if isinstance(target, str)]
    return [
        {"id": f"{package}/{path.stem}/{language}/{number}", "package": package, "language": language}
        | {"source": source, "target": target}
        for number, (source, target) in enumerate(sorted(pairs))
        if source and target and source != target
    ]


def _language(path: Path) -> str:
    """Return the language tag of a catalogue's folder; empty for English and for what is not read."""
    folder = path.parent.parent.name
    language, _, region = folder.replace("-", "_").partition("_")
    tag = LANGUAGES.get(folder, f"{language}-{region.upper()}" if region else language)
    return "" if language == "en" else tag


CATALOGS = sources.Corpus("catalogs", RECIPE, PACKAGES, (".mo",), _read, _read, _text, _assemble)
