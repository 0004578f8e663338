"""The sandbox by itself: what a confined program sees, what it may use, and when the machine is refused."""

import collections
import enum
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import submitting
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmbook.classroom import comparison, runner, sandbox

# Runs as an ordinary user; prints one JSON value for each program in the folder.
PROBE = """
import dataclasses, json, sys
from pathlib import Path
from llmbook.classroom import runner, sandbox
for path in sorted(Path(sys.argv[1]).glob("*.py")):
    code, _, options = path.read_text().partition("#LIMITS ")
    limits = sandbox.Limits(**{"seconds": 30, "question_seconds": 20, **json.loads(options or "{}")})
    question = {"id": "q1", "name": "f", "kind": "function", "code": code, "cases": [["tuple", []]]}
    plan = {"notebooks": [{"setup": "", "questions": [question]}], "rlimits": sandbox.rlimits(limits), "path": [],
            "question_seconds": limits.question_seconds, "seed": 0}
    outcome = sandbox.run(runner.frame(plan), limits, unsafe="unsafe" in path.name)
    found = {"stopped": outcome.stopped, "status": outcome.status, "value": None, "error": None}
    for head, blob in runner.frames(outcome.data):
        if "question" in head:
            tree, found["error"] = (head.get("results") or [[None, head["error"]]])[0]
            found["value"] = tree and runner.unpack(tree, blob)
    print(json.dumps([path.stem, found]))
"""
PROGRAMS = {
    "folders": "import os\ndef f():\n    return sorted(os.listdir('/')) + os.listdir('/tmp') + os.listdir('/dev')",
    "package": "def f():\n    from llmbook import classroom\n    return classroom.__name__",
    "repository": f"import os\ndef f():\n    return os.listdir({str(submitting.ROOT)!r})",
    "arithmetic": "import numpy as np\ndef f():\n    return float(np.arange(4).sum())",
    "user": (
        "import os\ndef f():\n    status = open('/proc/self/status').read()\n"
        "    return [os.getuid(), status.split('CapEff:')[1].split()[0]]"
    ),
    "alone": "import os\ndef f():\n    return sorted(int(n) for n in os.listdir('/proc') if n.isdigit())",
    "network": "def f():\n    return [line.split(':')[0].strip() for line in open('/proc/net/dev')][2:]",
    "namespace": "import subprocess\ndef f():\n    return subprocess.run(['unshare', '-U', 'true']).returncode != 0",
    "memory": 'def f():\n    return bytes(600 * 2**20)\n#LIMITS {"memory": 512}',
    "file": "def f():\n    open('/tmp/x', 'wb').write(bytes(2**21))\n#LIMITS {\"folder\": 1}",
    "time": 'import time\ndef f():\n    time.sleep(60)\n#LIMITS {"seconds": 3}',
    "politely": 'import time\ndef f():\n    time.sleep(60)\n#LIMITS {"question_seconds": 1}',
    "magic": "%matplotlib inline\nfiles = !ls /\ndef f():\n    !ls\n    return 5 if 'usr' in files else 0",
    "timed": "%%time\ndef f():\n    return 5",
    "await": "import asyncio\nawait asyncio.sleep(0)\ndef f():\n    return 5",
    "closed": "import os, time\nos.closerange(0, 20)\ntime.sleep(60)",
    "unsafe": "import os\ndef f():\n    return os.path.exists('/etc/passwd')",
    "unsafe-left": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(5)\n    os._exit(0)\n"
        "def f():\n    return 1"
    ),
}


@pytest.fixture(scope="module")
def confined(tmp_path_factory):
    submitting.needs_linux()
    folder = submitting.open_folder(tmp_path_factory.mktemp("programs"))
    for name, code in PROGRAMS.items():
        (folder / f"{name}.py").write_text(code)
    (folder / "probe").write_text(PROBE)
    status, output, errors = submitting.run(folder / "probe", folder, needs=(folder,), env={"TOKEN": "x"})
    assert status == 0, errors
    return dict(map(json.loads, output.splitlines()))


def test_a_program_sees_python_and_an_empty_folder(confined):
    seen = confined["folders"]["value"]
    assert {"home", "root/.ssh", "media", "mnt", "srv", "var", "run", "sys"}.isdisjoint(seen)
    assert set(seen) >= {"usr", "null", "urandom"} and "zero" not in seen


def test_it_has_the_packages_but_not_the_repository(confined):
    assert confined["package"]["value"] == "llmbook.classroom"
    assert confined["arithmetic"]["value"] == 6.0
    seen = confined["repository"]
    assert seen["error"] or set(seen["value"]) <= {"llmbook", Path(sys.prefix).name}


def test_it_is_nobody_in_particular_and_alone(confined):
    assert confined["user"]["value"] == [1000, "0" * 16]
    assert len(confined["alone"]["value"]) <= 3
    assert confined["network"]["value"] == ["lo"]
    assert confined["namespace"]["value"] is True


def test_limits_are_kept(confined):
    assert confined["memory"]["error"]["type"] == "MemoryError"
    assert confined["file"]["error"]["type"] == "OSError"
    assert confined["time"]["stopped"] == "time"
    assert confined["politely"]["stopped"] is None and confined["politely"]["error"]["type"] == "TooLong"


def test_a_program_that_closes_its_pipes_does_not_go_on(confined):
    assert confined["closed"]["value"] is None and confined["closed"]["status"] != 0


def test_lines_for_ipython_do_not_matter(confined):
    assert confined["magic"]["value"] == 5
    assert confined["timed"]["value"] == confined["await"]["value"] == 5


def test_without_a_sandbox_the_same_program_runs(confined):
    assert confined["unsafe"]["value"] is True
    assert confined["unsafe-left"]["value"] == 1


BUSY = """
import os, subprocess, sys, time
from llmbook.classroom import runner, sandbox
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
try:
    code = "import time\\ndef f():\\n    end = time.process_time() + 1.5\\n"
    code += "    while time.process_time() < end: pass\\n    return 5"
    question = {"id": "q1", "name": "f", "kind": "function", "code": code, "cases": [["tuple", []]]}
    plan = {"notebooks": [{"setup": "", "questions": [question]}], "rlimits": {}, "path": [], "question_seconds": 2.5}
    began = time.monotonic()
    outcome = sandbox.run(runner.frame(plan | {"seed": 0}), sandbox.Limits(seconds=20), unsafe=True)
    answers = [head["results"] for head, _ in runner.frames(outcome.data) if "question" in head]
    print(answers == [[[["int", 5], None]]], outcome.busy, time.monotonic() - began > 2.5, answers)
finally:
    for other in others:
        other.kill()
"""


@pytest.mark.slow
def test_waiting_for_the_processor_is_no_part_of_the_time():
    submitting.needs_linux()
    result = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True)
    assert result.stdout.startswith("True True True"), result


HOLDING = {
    "page tables": (
        "import mmap\npages = mmap.mmap(-1, 2**33, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)\n"
        "pages[::2**21]\nprint(flush=True)\ninput()"
    ),
    "ended first thread": (
        "import ctypes, platform, threading, time\nhoard = bytearray(b'x') * 2**24\n"
        "def hold():\n    time.sleep(0.5)\n    print(flush=True)\n    input()\n"
        "threading.Thread(target=hold).start()\n"
        "ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)"
    ),
}


@pytest.mark.parametrize("name", HOLDING)
def test_memory_that_resident_pages_do_not_show_is_counted(name):
    submitting.needs_linux()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDING[name]], **pipes) as process:
        process.stdout.readline()
        held = sandbox.usage([process.pid])
        process.kill()
    assert held > 2**24, held


def test_processor_time_is_that_of_the_system():
    submitting.needs_linux()
    before = sandbox.processor_seconds([os.getpid()])
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert 0.1 < sandbox.processor_seconds([os.getpid()]) - before < 1
    assert sandbox.processor_seconds([2**30]) == sandbox.waiting(2**30) == sandbox.usage([2**30]) == 0


def test_a_memory_bomb_in_json_is_refused_before_it_is_read():
    for text in (b"[" * 500 + b"]" * 500, b"[" + b"[]," * 10**6 + b"0]"):
        with pytest.raises(ValueError, match="too many values"):
            list(runner.frames(runner.LENGTHS.pack(len(text), 0) + text))
    assert runner.weigh(rb'{"[[[,\\\"[": [1, {"a\\": 2}]}') == (9, 3)


def test_more_frames_than_there_can_be_are_refused():
    with pytest.raises(ValueError, match="too many frames"):
        list(runner.frames(runner.frame({}) * 3, most=2))


def refusal(monkeypatch, **changes):
    places = {"system": (sys, "platform"), "user": (os, "geteuid"), "which": (shutil, "which")}
    for name, value in changes.items():
        monkeypatch.setattr(*places[name], value)
    with pytest.raises(sandbox.SandboxError) as caught:
        sandbox.require()
    return str(caught.value)


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_refused_with_the_remedy(monkeypatch, system):
    reason = refusal(monkeypatch, system=system)
    assert all(word in reason for word in ("WSL2", "virtual machine", "Gradescope", "--unsafe-no-sandbox"))


def test_root_is_refused(monkeypatch):
    submitting.needs_linux()
    assert "ordinary user" in refusal(monkeypatch, user=lambda: 0)


def test_a_machine_without_bubblewrap_is_refused(monkeypatch):
    submitting.needs_linux()
    assert "apt-get install bubblewrap" in refusal(monkeypatch, user=lambda: 1000, which=lambda name: None)


def test_a_bubblewrap_that_cannot_confine_is_refused(monkeypatch, tmp_path):
    submitting.needs_linux()
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho no permission to create a namespace >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    reason = refusal(monkeypatch, user=lambda: 1000, which=lambda name: str(tmp_path / "bwrap"))
    assert "no permission to create a namespace" in reason and "0.8" in reason


def test_what_student_code_could_read_is_refused(monkeypatch):
    submitting.needs_linux()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with pytest.raises(sandbox.SandboxError, match="move it somewhere else"):
        sandbox.require((Path(sys.prefix) / "class",))


def test_a_memory_cgroup_is_used_where_systemd_gives_one(monkeypatch, tmp_path):
    submitting.needs_linux()
    fake = tmp_path / "systemd-run"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sandbox._scope.cache_clear()
    for answer, granted in (("echo 671088640", True), ("echo max", False), ("exit 1", False)):
        fake.write_text(f"#!/bin/sh\n{answer}\n")
        fake.chmod(0o755)
        sandbox._scope.cache_clear()
        command = sandbox._scope(512, 64)
        assert bool(command) is granted
    sandbox._scope.cache_clear()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda x: st.lists(x, max_size=4) | st.tuples(x, x) | st.dictionaries(st.text(), x, max_size=4),
    max_leaves=10,
)


@given(PLAIN)
def test_plain_values_survive_the_way(value):
    blob = bytearray()
    (head, data) = next(runner.frames(runner.frame({"v": runner.pack(value, blob)}, blob)))
    assert runner.unpack(head["v"], data) == value


DTYPES = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64))


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_side=0)))
def test_arrays_survive_the_way(array):
    blob = bytearray(b"before")
    tree = json.loads(json.dumps(runner.pack(array, blob)))
    found = runner.unpack(tree, bytes(blob))
    assert found.shape == array.shape and found.dtype.kind == array.dtype.kind
    np.testing.assert_array_equal(found, array)


def test_tensors_become_arrays():
    torch = pytest.importorskip("torch")
    blob = bytearray()
    tree = runner.pack(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True), blob)
    assert runner.unpack(tree, bytes(blob)).shape == (2, 3)


class Counted(enum.IntEnum):
    TWO = 2


Pair = collections.namedtuple("Pair", "a b")
SAME = [
    ([np.str_("a"), np.str_("b")], ["a", "b"]),
    (np.array(["a", "b"]), ["a", "b"]),
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    ([np.int64(3), np.int64(4)], [3, 4]),
    ({np.int64(1): np.float64(2)}, {1: 2.0}),
    (Counted.TWO, 2),
    (Pair(1, [2.5]), (1, [2.5])),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (10**5000, 10**5000),
    ([2**63, -(2**63)], [2**63, -(2**63)]),
    ([True, 1], [True, 1]),
]


@pytest.mark.parametrize("value, plain", SAME, ids=lambda value: type(value).__name__)
def test_values_of_subclasses_and_numpy_scalars_become_plain(value, plain):
    blob = bytearray()
    found = runner.unpack(json.loads(json.dumps(runner.pack(value, blob))), bytes(blob))
    assert found == plain and type(found) is type(plain)
    if isinstance(plain, list):
        assert [type(item) for item in found] == [type(item) for item in plain]


def test_a_long_list_of_numbers_is_as_short_as_an_array():
    blob = bytearray()
    tree = runner.pack([0.1] * 400_000, blob)
    assert len(json.dumps(tree)) < 100 and len(blob) == 8 * 400_000


def test_a_scalar_may_be_of_numpy_or_of_python():
    assert comparison.same(np.bool_(True), True, 0) and comparison.same(True, np.bool_(True), 0)
    assert comparison.same(np.array(2.0), 2, 0) and comparison.same([np.str_("a")], ["a"], 0)
    assert not comparison.same(np.int64(1), [1], 0) and not comparison.same(np.int64(1), True, 0)
    assert not comparison.same(True, 1, 0) and not comparison.same({}, 3, 0)


def test_whole_numbers_of_any_length_are_compared():
    assert comparison.same(10**5000, 10**5000, 0) and not comparison.same(10**5000 + 1, 10**5000, 0)
    assert comparison.same(1e20, 10**20, 1e-6) and comparison.same(10**20 + 1, 10**20, 1e-6)
    assert not comparison.same(1.0, 10**400, 1e-6) and not comparison.same([1.5, 10**400], np.ones(2), 1e-6)


OTHERS = [object(), {1, 2}, b"bytes", np.array([None]), lambda: 1, np.datetime64("2026-01-01")]


@pytest.mark.parametrize("value", OTHERS)
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="return a numpy array"):
        runner.pack(value, bytearray())


JSON = st.recursive(
    st.none() | st.integers() | st.floats() | st.sampled_from(["array", "list", "dict", "int", "<f8", "|O"]),
    lambda x: st.lists(x, max_size=5),
)


@given(JSON, st.binary(max_size=64))
def test_whatever_arrives_is_a_plain_value_or_a_value_error(tree, blob):
    try:
        value = runner.unpack(tree, blob)
    except ValueError:
        return
    assert isinstance(value, type(None) | bool | int | float | str | list | tuple | dict | np.ndarray)


@pytest.mark.parametrize(
    "tree",
    [
        ["array", "|O", [1], 0],
        ["array", "<f8", [2**39, 2**39], 0],
        ["array", "<f8", [-1], 0],
        ["array", "<f8", [1], -8],
        ["array", "<f8", [9], 0],
        ["array", [["a", "f8"]], [1], 0],
        ["dict", [[["list", []], ["none"]]]],
        ["int", 1.5],
        ["whole", "0b1"],
        ["row", "list", "<f8", 9, 0],
        ["row", "list", "<f4", 1, 0],
        ["row", "set", "<f8", 1, 0],
        ["texts", "list", ["a", 1]],
        ["dict", [[["int", n * (2**61 - 1)], ["none"]] for n in range(2000)]],
        ["int", True],
    ],
)
def test_poisoned_values_are_refused(tree):
    with pytest.raises(ValueError):
        runner.unpack(tree, bytes(64))


@given(st.binary(max_size=200))
def test_whatever_arrives_is_frames_or_a_value_error(data):
    with suppress(ValueError):
        assert all(type(head) is dict for head, _ in runner.frames(data))


def test_a_frame_whose_text_fills_the_memory_is_refused():
    text = b"[" * (runner.HEAD + 1)
    with pytest.raises(ValueError, match="too long"):
        list(runner.frames(runner.LENGTHS.pack(len(text), 0) + text))


def test_the_runner_needs_nothing_of_the_package():
    source = Path(runner.__file__).read_text()
    assert "llmbook." not in source.replace("``llmbook``", "")
    assert textwrap.dedent(source).startswith('"""What runs inside')
