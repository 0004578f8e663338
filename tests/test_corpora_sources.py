"""The pinned text: read where it is installed, else fetched once, else replaced with one line that says so."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from small_disk import small_disk

from llmbook import corpora
from llmbook.corpora import CorpusError, _catalogs, _code, _pydocs, describe, installed, own, sources

PACKAGE = installed.Package("toy-package", "toy", "toys")
BINARY = os.urandom(3_000_000)
ARCHIVE = "toy_package-1.0-py3-none-any.whl"


def module(version: str, count: int = 9) -> str:
    words = [hashlib.sha256(f"{version} {number}".encode()).hexdigest() for number in range(count)]
    return "".join(
        f'def f{n}(x: int = {n}):\n    """Say {word}\n    {word[::-1]}."""\n' for n, word in enumerate(words)
    )


def install(site: Path, version: str, package: installed.Package = PACKAGE) -> Path:
    """Write a package as pip installs it, with a binary between its modules."""
    shutil.rmtree(site / package.module, ignore_errors=True)
    folder = site / package.module
    (folder / "tests").mkdir(parents=True)
    for name in ("__init__", "core", "zeta"):
        (folder / f"{name}.py").write_text(module(f"{package.name} {name} {version}"))
    (folder / "kernel.so").write_bytes(BINARY)
    (folder / "tests" / "test_it.py").write_text(module("test"))
    for old in site.glob(f"{package.name.replace('-', '_')}-*"):
        shutil.rmtree(old)
    about = site / f"{package.name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {version}\n")
    return folder


def wheel(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.rglob("*.*")):
            opened.write(path, path.relative_to(folder.parent).as_posix())
    return content.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, with or without ranges; counts what it sends, and stalls if told so."""

    content = b""
    ranges = True
    stall = False
    requests = 0
    sent = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests += 1
        content, found = self.server.content, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.server.ranges and found:
            content = content[int(found[1]) : int(found[2]) + 1]
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.stall:
            self.wfile.write(content[:1000])
            self.wfile.flush()
            time.sleep(60)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)
        self.server.sent += len(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server():
    found = Server(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(autouse=True)
def forgetful():
    """What is said once, and who does not answer, is forgotten before each test."""
    sources.say_once.cache_clear()
    sources._reachable.cache_clear()
    sources._not_had.clear()


@pytest.fixture(scope="module")
def pinned(tmp_path_factory):
    """Return the wheel of version 1.0, and what is pinned of it."""
    folder = install(tmp_path_factory.mktemp("pinned"), "1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pydocs, "in_parallel", one_by_one)
        rows = _pydocs.PYDOCS.read({PACKAGE.name: folder})
        sha256 = describe(_pydocs.PYDOCS.assemble(rows))["sha256"]
    text = sources.text_hash(_pydocs.PYDOCS.text(_pydocs.PYDOCS.read({PACKAGE.name: folder})[PACKAGE.name]))
    source = {"version": "1.0", "text": text, "archive": ARCHIVE}
    corpus = {"recipe": "", "sha256": sha256, "suffixes": [".py"], "sources": {PACKAGE.name: source}}
    return wheel(folder), corpus


@pytest.fixture
def site(tmp_path, monkeypatch, server, pinned):
    """Return a folder of installed packages with version 1.0 of one, to which ``pydocs`` is pinned; the cache is
    empty, and the server has that version's wheel."""
    found = tmp_path / "site"
    install(found, "1.0")
    monkeypatch.syspath_prepend(str(found))
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_pydocs, "in_parallel", one_by_one)
    monkeypatch.setattr(_pydocs, "PYDOCS", _pydocs.PYDOCS._replace(packages=(PACKAGE,)))
    server.content, corpus = pinned
    archive = {
        "url": f"http://127.0.0.1:{server.server_port}/{ARCHIVE}",
        "sha256": hashlib.sha256(server.content).hexdigest(),
        "size": len(server.content),
        "root": "toy",
    }
    path = tmp_path / "sources.json"
    path.write_text(json.dumps({"archives": {ARCHIVE: archive}, "corpora": {"pydocs": corpus}}))
    monkeypatch.setattr(sources, "PINS", path)
    return found


def one_by_one(function, arguments):
    return (function(*one) for one in arguments)


def copies(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "sources").glob("*") if path.suffix != ".lock"]


def fingerprint() -> str:
    return describe(corpora.pydocs())["sha256"]


def test_what_is_installed_is_read_where_it_is_the_pinned_text(site, server):
    assert fingerprint() == sources.pins("pydocs").sha256
    assert corpora.own_text() and server.requests == 0


@pytest.mark.parametrize("ranges", [True, False])
def test_another_version_is_replaced_by_the_pinned_one(site, server, tmp_path, ranges, capfd):
    install(site, "2.0")
    server.ranges = ranges
    assert corpora.own_text() and fingerprint() == sources.pins("pydocs").sha256
    assert len(copies(tmp_path)) == 1 and "not the book's own" not in capfd.readouterr().err
    (folder,) = (tmp_path / "cache" / "sources").glob("toy-package-*")
    assert sorted(path.name for path in folder.rglob("*.*")) == ["__init__.py", "core.py", "zeta.py"]
    assert (server.sent < len(BINARY)) == ranges


@pytest.mark.slow
def test_a_copy_is_fetched_once(site, server, tmp_path):
    install(site, "2.0")
    corpora.pydocs()
    for built in (tmp_path / "cache").glob("pydocs-*"):
        shutil.rmtree(built)
    server.shutdown()
    before = server.requests
    assert fingerprint() == sources.pins("pydocs").sha256 and server.requests == before


def test_a_package_that_is_not_installed_is_fetched(site):
    shutil.rmtree(site)
    assert corpora.own_text()


def test_text_that_was_changed_after_its_installation_is_noticed(site, server):
    path = site / "toy" / "core.py"
    path.write_text(path.read_text().replace("Say", "Tell"))
    assert fingerprint() == sources.pins("pydocs").sha256 and server.requests > 0
    assert "Tell" not in str(corpora.pydocs()["train"]["text"])


def test_code_that_was_changed_without_its_documentation_is_the_same_text(site, server):
    (site / "toy" / "build_of_this_machine.py").write_text("compiler = 'another'\n")
    assert corpora.own_text() and server.requests == 0


def other_text(site: Path) -> bool:
    """Tell whether the corpus is that of what is installed, and says so."""
    expected = describe(_pydocs._pydocs({PACKAGE.name: site / "toy"}))
    return describe(corpora.pydocs()) == expected and not corpora.own_text()


@pytest.mark.slow
def test_offline_another_version_is_read_with_one_line_that_says_so(site, monkeypatch, capfd):
    install(site, "2.0")
    monkeypatch.setattr(sources, "_answers", lambda address: False)
    assert other_text(site)
    corpora.pydocs()
    lines = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if "the book's own" in line]
    assert len(lines) == 1
    assert "toy-package 2.0 for 1.0 (127.0.0.1" in lines[0] and lines[0].endswith("are shown, not asserted.")


@pytest.mark.slow
def test_in_a_notebook_claims_are_shown_and_not_asserted_once_another_text_is_read(site, monkeypatch, capsys):
    shell = InteractiveShell.instance()
    cell = "def claim():\n    assert 2 + 2 == 5, 'never'\n    return 'went on'\nprint(claim())\nassert 1 == 1"
    try:
        assert isinstance(shell.run_cell(cell).error_in_exec, AssertionError)
        install(site, "2.0")
        monkeypatch.setattr(sources, "_answers", lambda address: False)
        for _ in range(2):
            sources.say_once.cache_clear()
            corpora.pydocs()
        capsys.readouterr()
        result = shell.run_cell(cell)
        assert result.success
        assert capsys.readouterr().out.splitlines() == ["Not so with this text: 2 + 2 == 5", "went on"]
        assert isinstance(shell.run_cell("raise AssertionError('its own')").error_in_exec, AssertionError)
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.slow
def test_what_cannot_be_had_is_asked_for_once_in_a_process(site, server, monkeypatch):
    install(site, "2.0")
    server.content = wheel(install(site.parent / "other", "2.0"))
    monkeypatch.setattr(sources, "ATTEMPTS", 1)
    assert not corpora.own_text()
    asked = server.requests
    assert asked > 0 and not corpora.own_text() and len(corpora.pydocs()) > 0
    assert server.requests == asked


@pytest.mark.slow
def test_where_stored_outputs_are_made_claims_are_asserted(site, monkeypatch):
    shell = InteractiveShell.instance()
    try:
        monkeypatch.setenv("LLMBOOK_STORED_OUTPUTS", "1")
        install(site, "2.0")
        monkeypatch.setattr(sources, "_answers", lambda address: False)
        corpora.pydocs()
        assert isinstance(shell.run_cell("assert 2 + 2 == 5").error_in_exec, AssertionError)
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.slow
def test_the_own_text_comes_with_the_network(site, monkeypatch):
    install(site, "2.0")
    with monkeypatch.context() as offline:
        offline.setattr(sources, "_answers", lambda address: False)
        assert not corpora.own_text()
    sources._reachable.cache_clear()  # as in the next process
    sources._not_had.clear()
    assert corpora.own_text()


def test_offline_without_the_package_is_one_clear_error(site, monkeypatch):
    shutil.rmtree(site)
    monkeypatch.setattr(sources, "_answers", lambda address: False)
    with pytest.raises(
        CorpusError, match=r"^The package toy-package is not installed: run `pip install toy-package`\.$"
    ):
        corpora.pydocs()


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("damage", ["truncated", "other text", "missing"])
def test_a_wrong_archive_leaves_nothing_behind(site, server, tmp_path, monkeypatch, damage, ranges, capfd):
    monkeypatch.setattr(sources, "ATTEMPTS", 1)
    folder = install(site, "2.0")
    server.ranges = ranges
    if damage == "other text":
        server.content = wheel(folder)
        pinned = json.loads(sources.PINS.read_text())
        pinned["archives"][ARCHIVE]["size"] = len(server.content)
        sources.PINS.write_text(json.dumps(pinned))
    else:
        server.content = server.content[:-5000] if damage == "truncated" else b""
    assert other_text(site)
    assert copies(tmp_path) == [] and "toy-package 2.0 for 1.0" in capfd.readouterr().err


def test_a_connection_that_breaks_once_is_taken_up_again(site, server, monkeypatch):
    install(site, "2.0")
    original, broken = sources._block, []

    def block(response, *arguments):
        if not broken:
            broken.append(True)
            raise sources.FetchError("reset")
        return original(response, *arguments)

    monkeypatch.setattr(sources, "_block", block)
    assert corpora.own_text() and broken


def test_a_member_that_points_elsewhere_is_not_written(site, server, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        opened.writestr("toy/../../../evil.py", "x = 1")
        opened.writestr("toy/good.py", "x = 1")
        opened.writestr("toy//tmp/evil.py", "x = 1")
    server.content = content.getvalue()
    archive = sources.pins("pydocs").sources[PACKAGE.name].archive._replace(size=len(server.content))
    folder = sources.fetch_archive("toy", archive, sources.Wanted((".py",)), tmp_path / "here")
    assert [path.name for path in tmp_path.rglob("*.py") if site not in path.parents] == ["good.py"]
    assert (folder / "good.py").read_text() == "x = 1"


def test_a_cache_without_room_for_a_copy_is_one_clear_error(site, tmp_path, monkeypatch):
    install(site, "2.0")
    with small_disk(tmp_path / "full") as full:
        monkeypatch.setenv("LLMBOOK_CACHE", str(full))
        (full / "filler").write_bytes(bytes(8192))
        with pytest.raises(
            CorpusError, match=rf"^[^\n]*{full}[^\n]*No space left on device[^\n]*free some space[^\n]*$"
        ):
            corpora.pydocs()
        assert [path.name for path in (full / "sources").iterdir()] == ["fetch.lock"]


# Fetches one archive into the cache.
FETCHER = """
import sys
from llmbook.corpora import sources
archive = sources.Archive(sys.argv[1], sys.argv[2], int(sys.argv[3]), "toy")
print(sources.fetch_archive("toy", archive, sources.Wanted((".py",))))
"""


def fetcher(archive: sources.Archive) -> subprocess.Popen:
    command = [sys.executable, "-c", FETCHER, archive.url, archive.sha256, str(archive.size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [True, False])
def test_a_fetch_that_is_killed_leaves_nothing_for_ever(site, server, tmp_path, ranges):
    archive = sources.pins("pydocs").sources[PACKAGE.name].archive
    server.ranges, server.stall = ranges, True
    killed = fetcher(archive)
    while not server.requests:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert [Path(name).suffix for name in copies(tmp_path)] == [".unfinished"]
    server.stall = False
    folder = Path(fetcher(archive).communicate(timeout=60)[0].strip())
    assert len(copies(tmp_path)) == 1 and len(list(folder.glob("*.py"))) == 3


@pytest.mark.slow
def test_two_processes_fetch_an_archive_once(site, server, tmp_path):
    archive = sources.pins("pydocs").sources[PACKAGE.name].archive
    server.ranges = False
    first, second = (one.communicate(timeout=60)[0] for one in [fetcher(archive) for _ in range(2)])
    assert first == second and first.strip()
    assert server.requests == 2  # for a range, refused, and for the whole


TEMPLATE = b"""\
/* Module configuration */
#include "Python.h"

/* -- ADDMODULE MARKER 1 -- */

extern PyObject* PyMarshal_Init(void);

struct _inittab _PyImport_Inittab[] = {

/* -- ADDMODULE MARKER 2 -- */

    {0, 0}
};
"""


def test_the_standard_library_comes_from_pythons_source_archive(server, tmp_path):
    """What the build of Python writes, the table of its modules, is made of the template again."""
    table = "config-3.11-x86_64-linux-gnu/config.c"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in {
            "Lib/json/__init__.py": b"json = 1\n",
            "Lib/test/test_json.py": b"test = 1\n",
            "Lib/idlelib/run.py": b"idle = 1\n",
            "Lib/msilib/schema.py": b"on_windows_only = 1\n",
            "Modules/config.c.in": TEMPLATE,
            "Modules/other.c": b"",
        }.items():
            member = tarfile.TarInfo(f"Python-3.11.7/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    server.content = content.getvalue()
    pinned = sources.Archive(
        f"http://127.0.0.1:{server.server_port}/Python-3.11.7.tgz",
        hashlib.sha256(server.content).hexdigest(),
        0,
        "Python-3.11.7/Lib",
    )
    wanted = sources.Wanted((".py",), (table,), ("posix", "_io"))
    folder = sources.fetch_archive("standard library", pinned, wanted, tmp_path)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()}
    assert found == {"json/__init__.py", table}
    made = (folder / table).read_text()
    assert sources.built_in_modules(made) == ["posix", "_io"]
    assert made.index("PyInit__io(void);\n\n/* -- ADDMODULE MARKER 1") < made.index('{"_io", PyInit__io},\n\n/* -- ADD')
    with pytest.raises(sources.FetchError, match=r"has the SHA-256 [0-9a-f]{64}, not 0000"):
        sources.fetch_archive("standard library", pinned._replace(sha256="0000"), wanted, tmp_path)


@pytest.mark.parametrize("name", sorted(own.PINNED))
def test_the_pins_are_those_of_todays_recipe(name):
    pinned, corpus = sources.pins(name), own.PINNED[name]
    assert pinned.recipe == corpus.recipe, "the recipe has changed: run tools/pin.py (see CONTRIBUTING.md)"
    assert list(pinned.sources) == [package.name for package in corpus.packages]
    for source in pinned.sources.values():
        assert re.fullmatch("[0-9a-f]{64}", source.archive.sha256) and re.fullmatch("[0-9a-f]{64}", source.text)
        assert source.archive.url.startswith("https://") and source.version in source.archive.url


def test_the_pins_stay_with_the_package():
    assert sources.PINS.parent == Path(installed.__file__).parent and sources.PINS.stat().st_size < 100_000
    assert tuple(own.PINNED.values()) == (_pydocs.PYDOCS, _catalogs.CATALOGS, _code.CODE)


def test_own_text_knows_three_corpora():
    with pytest.raises(ValueError, match=r"^name='squad': it has to be one of pydocs, catalogs, code$"):
        corpora.own_text("squad")
