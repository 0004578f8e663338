"""How the corpora are built and kept: deterministic, once, whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_disk import small_disk

from llmbook.corpora import (
    CorpusError,
    _pydocs,
    cache,
    catalogs,
    code,
    describe,
    duplicates,
    installed,
    pydocs,
    sources,
    workers,
)

WORDS = [f"word{number}" for number in range(19)]


def sentence(seed: int, length: int = 30) -> str:
    return " ".join(WORDS[(seed * seed + seed * place * place + place) % len(WORDS)] for place in range(length))


def fake_package(root: Path, name: str = "numpy", functions: int = 12) -> Path:
    """Write a package that no one can import, whose functions have texts of their own."""
    folder = root / name
    (folder / "tests").mkdir(parents=True)
    body = [
        f'def f{n}():\n    """{sentence(n).capitalize()}.\n\n    {sentence(n + 50)}\n    """\n'
        for n in range(functions)
    ]
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n" + "".join(body[::2]))
    (folder / "more.py").write_text("".join(body[1::2]) + body[0].replace("f0", "same").replace(" ", "  "))
    (folder / "tests" / "test_it.py").write_text(body[0].replace("word1 ", "other "))
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a fake package; the cache is a folder of its own."""
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    return fake_package(tmp_path / "packages")


def everything(corpus):
    return [row for part in corpus.values() for row in part]


@pytest.mark.slow
def test_documents(folder):
    rows = everything(_pydocs._pydocs({"numpy": folder}))
    assert sorted(row["name"] for row in rows) == sorted(
        [f"numpy.f{n}" for n in range(0, 12, 2)] + [f"numpy.more.f{n}" for n in range(1, 12, 2)]
    )
    assert {row["topic"] for row in rows} == {"arrays"}
    assert all(row["id"] == f"numpy:{row['name']}" and row["signature"].endswith("()") for row in rows)


@pytest.mark.slow
def test_two_builds_anywhere_with_any_number_of_processes_are_equal(folder, tmp_path, monkeypatch):
    first = describe(_pydocs._pydocs({"numpy": folder}))
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    elsewhere = fake_package(tmp_path / "elsewhere")
    assert describe(_pydocs._pydocs({"numpy": elsewhere})) == first
    assert [f.name for f in (tmp_path / "another").glob("pydocs*")] == [
        f.name for f in (tmp_path / "cache").glob("pydocs*")
    ]


@pytest.mark.slow
def test_another_content_is_another_corpus(folder, tmp_path):
    first = describe(_pydocs._pydocs({"numpy": folder}))
    (folder / "more.py").write_text("")
    assert describe(_pydocs._pydocs({"numpy": folder}))["sha256"] != first["sha256"]
    assert len(list((tmp_path / "cache").glob("pydocs*"))) == 2


def test_near_duplicates_stay_together():
    text = sentence(1, 60)
    texts = [text, text.replace("word1 ", "other ", 1), sentence(2, 60), "a b", "A  b."]
    ids = ["b", "a", "c", "e", "d"]
    assert duplicates.clusters(ids, texts, map(duplicates.signature, texts)) == ["a", "a", "c", "d", "d"]
    shares = [duplicates.split_of(str(number)) for number in range(4000)]
    assert 0.88 < shares.count("train") / 4000 < 0.92 and set(shares) == {"train", "validation", "test"}


NESTED = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=5),
            "many": st.none() | st.lists(st.fixed_dictionaries({"a": st.text(max_size=3), "b": st.integers(-9, 9)})),
        }
    ),
    min_size=1,
    max_size=6,
)
SCHEMA = pa.schema([("text", pa.string()), ("many", pa.list_(pa.struct([("a", pa.string()), ("b", pa.int64())])))])


@settings(deadline=None, max_examples=30)
@given(NESTED, st.integers(0, 6))
def test_the_content_hash_is_of_the_values_alone(rows, cut):
    whole = datasets.Dataset(pa.Table.from_pylist(rows, SCHEMA))
    parts = [pa.Table.from_pylist(part, SCHEMA) for part in (rows[:cut], rows[cut:])]
    chunked = datasets.Dataset(pa.concat_tables(parts))
    selected = datasets.concatenate_datasets([whole, whole]).select(range(len(rows), 2 * len(rows)))
    described = describe(datasets.DatasetDict(train=whole))
    assert described == describe(datasets.DatasetDict(train=chunked)) == describe(datasets.DatasetDict(train=selected))
    size = sum(len((row["text"] or "").encode()) for row in rows)
    assert described["splits"] == {"train": {"documents": len(rows), "bytes": size}}
    changed = [*rows[:-1], rows[-1] | {"text": (rows[-1]["text"] or "") + "!"}]
    other = datasets.Dataset(pa.Table.from_pylist(changed, SCHEMA))
    assert describe(datasets.DatasetDict(train=other))["sha256"] != described["sha256"]


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest", "bad manifest"])
def test_a_damaged_cache_is_one_clear_error(folder, tmp_path, damage):
    _pydocs._pydocs({"numpy": folder})
    (built,) = (tmp_path / "cache").glob("pydocs-*")
    data = next(built.rglob("*.arrow"))
    if damage == "changed":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "missing":
        data.unlink()
    elif damage == "no manifest":
        (built / cache.MANIFEST).unlink()
    else:
        (built / cache.MANIFEST).write_text("[]")
    with pytest.raises(CorpusError, match=rf"^[^\n]*{built}[^\n]*delete that folder[^\n]*$"):
        _pydocs._pydocs({"numpy": folder})


def test_a_cache_folder_that_cannot_be_made_is_one_clear_error(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CorpusError, match=r"^[^\n]*/file/cache[^\n]*Not a directory[^\n]*set LLMBOOK_CACHE[^\n]*$"):
        _pydocs._pydocs({"numpy": folder})


def test_a_full_disk_is_one_clear_error_and_nothing_stays(folder, tmp_path, monkeypatch):
    with small_disk(tmp_path / "full") as full:
        monkeypatch.setenv("LLMBOOK_CACHE", str(full))
        with pytest.raises(
            CorpusError, match=rf"^[^\n]*{full}[^\n]*No space left on device[^\n]*free some space[^\n]*$"
        ):
            _pydocs._pydocs({"numpy": folder})
        assert [path.name for path in full.iterdir()] == ["build.lock"]


@pytest.mark.slow
def test_a_file_size_limit_is_one_clear_error_and_nothing_stays(folder, tmp_path):
    script = f"""
import resource, signal
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from llmbook.corpora import CorpusError, _pydocs
try:
    _pydocs._pydocs({{"numpy": Path({str(folder)!r})}})
except CorpusError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60)
    assert found.stdout.count("\n") == 1 and "File too large" in found.stdout, found.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["build.lock"]


def test_a_missing_package_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "installed_version", lambda name: "")
    monkeypatch.setattr(sources, "_reachable", lambda address: False)
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CorpusError, match=r"^The package numpy is not installed: run `pip install numpy`\.$"):
        pydocs()
    with pytest.raises(CorpusError, match="pip install numpy"):
        code()
    with pytest.raises(CorpusError, match="pip install jupyterlab-language-pack-zh-CN"):
        catalogs()


def test_catalogs_need_babel(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel.messages.mofile", None)
    with pytest.raises(CorpusError, match=r"^The package babel is not installed: run `pip install babel`\.$"):
        catalogs()


# Builds a corpus of one row through the cache; says when it is building, and waits to be killed if told so.
BUILDER = """
import sys, time
from pathlib import Path
import datasets
from llmbook.corpora import cache, describe

def build():
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(1)
    return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["a"]}))

def wait(path):
    print("writing", flush=True)
    time.sleep(60)

if "wait" in sys.argv:
    cache.file_sha256 = wait
print(describe(cache.cached("small", "k" * 64, build))["sha256"])
"""


def start(script: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_builders_at_once_build_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    log = tmp_path / "log"
    builders = [start(BUILDER, str(log)) for _ in range(2)]
    first, second = (builder.communicate(timeout=60) for builder in builders)
    assert first[0] == second[0] and len(first[0]) == 65, first[1] + second[1]
    assert log.read_text() == "built\n"


@pytest.mark.slow
def test_a_builder_killed_while_it_writes_leaves_nothing_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    log = tmp_path / "log"
    killed = start(BUILDER, str(log), "wait")
    assert killed.stdout.readline() == "writing\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert [path.suffix for path in (tmp_path / "cache").glob("small*")] == [cache.UNFINISHED]
    next_one = start(BUILDER, str(log))
    assert len(next_one.communicate(timeout=60)[0]) == 65
    assert [path.name for path in (tmp_path / "cache").glob("small*")] == ["small-" + "k" * 16]


# Reads files as the corpus does, and says so with a file beside it.
MARKED = """
from pathlib import Path
from llmbook.corpora import _pydocs

original = _pydocs._read_file

def read_file(*arguments):
    Path(__file__).with_name("reading").touch()
    return original(*arguments)
"""


@pytest.mark.slow
def test_a_builder_killed_while_it_reads_leaves_no_process(folder, tmp_path):
    (folder / "slow.py").write_text("x = 1\n" * 20_000)
    (tmp_path / "marked.py").write_text(MARKED)  # a module, so that the reading processes can import it
    script = "import sys, pathlib\nsys.path.insert(0, sys.argv[2])\nimport marked\n"
    script += "from llmbook.corpora import _pydocs\n_pydocs._read_file = marked.read_file\n"
    script += "_pydocs._pydocs({str(n): pathlib.Path(sys.argv[1]) for n in range(20)})"
    killed = start(script, str(folder), str(tmp_path))
    while not (tmp_path / "reading").exists() and killed.poll() is None:
        time.sleep(0.05)
    children = psutil.Process(killed.pid).children()
    assert children
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["build.lock"]


def test_a_reading_process_that_ends_early_is_one_clear_error():
    with pytest.raises(CorpusError, match=r"^A process that builds the corpus has ended[^\n]*$"):
        list(workers.in_parallel(os._exit, [(0,)] * 100))


def run(script: str, *arguments: str) -> str:
    found = subprocess.run([sys.executable, "-", *arguments], input=script, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
def test_a_script_without_a_main_guard_can_build(folder):
    script = "import sys, pathlib\nfrom llmbook.corpora import _pydocs\nprint('once')\n"
    assert run(script + "_pydocs._pydocs({'numpy': pathlib.Path(sys.argv[1])})", str(folder)) == "once\n"


def test_import_does_no_work():
    heavy = "{'datasets', 'pyarrow', 'datasketch', 'numpy', 'torch', 'joblib', 'filelock', 'tqdm'}"
    assert run(f"import sys, llmbook.corpora\nprint({heavy} & set(sys.modules))") == "set()\n"


@pytest.mark.slow
def test_reading_imports_none_of_the_packages_read():
    script = """
import sys
from llmbook.corpora import docstrings, installed
for package in installed.PACKAGES:
    files = installed.source_files(installed.package_folder(package))
    texts = [one.text for path in files[:5] for one in docstrings.read_docstrings(path.read_bytes(), "m")]
    print(package.name, len(files) > 100, len([docstrings.parse(text) for text in texts]) > 3)
print({package.module for package in installed.PACKAGES} & set(sys.modules))
"""
    *lines, imported = run(script).splitlines()
    assert len(lines) == 10 and all(line.endswith("True True") for line in lines), lines
    assert imported == "set()"


@pytest.mark.slow
def test_settings_of_datasets_stay_as_they_were(folder):
    datasets.enable_progress_bars()
    _pydocs._pydocs({"numpy": folder})
    assert not datasets.are_progress_bars_disabled() and datasets.is_caching_enabled()
