"""The corpus ``catalogs``: parallel sentences from the translations that the tool chain brings along."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbook.corpora import duplicates, installed
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

    They come from Sphinx and its themes (some 70 languages) and from JupyterLab's language pack (simplified Chinese).
    Plurals, and messages that are fuzzy, empty or equal to the English, are left out. The split is by the English
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
        CorpusError: if a package is missing, or the cache is damaged or cannot be written.
    """
    return _catalogs({package.name: installed.package_folder(package) for package in PACKAGES})


def _catalogs(folders: dict[str, Path]) -> "datasets.DatasetDict":
    try:
        import babel.messages.mofile  # noqa: F401
    except ImportError:
        raise CorpusError("The package babel is not installed: run `pip install babel`.") from None
    files = [
        (package, path)
        for package, folder in folders.items()
        for path in sorted(folder.rglob("LC_MESSAGES/*.mo"))
        if _language(path)
    ]
    named = [(f"{package}/{path.relative_to(folders[package])}", path) for package, path in files]
    return cached("catalogs", installed.content_key(RECIPE, named), lambda: _build(files))


def _build(files: list[tuple[str, Path]]) -> "datasets.DatasetDict":
    from datasets import Features, Value
    from tqdm.auto import tqdm

    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for package, path in tqdm(files, "catalogs: reading", unit=" files"):
        for row in _messages(package, path):
            rows.setdefault((row["language"], row["source"], row["target"]), row)
    sources = sorted({row["source"] for row in rows.values()})
    signatures = tqdm(map(duplicates.signature, sources), "catalogs: near-duplicates", len(sources), unit=" sentences")
    clusters = dict(zip(sources, duplicates.clusters(sources, sources, signatures), strict=True))
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
