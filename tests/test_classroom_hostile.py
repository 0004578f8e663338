"""Hostile submissions, run through the real command and the real sandbox, among honest neighbours."""

import csv
import hashlib
import io
import json
import re
import socket
import threading
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitting
from submitting import ANSWERS, SECRET, notebook

ENVIRONMENT = "token-of-the-instructor-51b2"
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'
Q2 = "\ndef total(x):\n    return 1.0\n"  # a wrong answer; q1 and q3 are right, so 3 points are honest
HONEST = 3
SEED = "987654321"
DEAF = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\n"  # no polite end reaches it
NEIGHBOURS = {"Ann": ({}, 6), "Bob": ({"q2": "def total(x):\n    return float(x[0] + x[1] + x[2])"}, 3)}
NEIGHBOURS["Cyn"] = (submitting.STARTERS, 0)

# name: (code of question 2, what becomes of it): points, or a part of the reason why there is no mark
ATTACKS = {
    "reads the tests": (
        "import os\nfound = ''\nfor root, folders, files in os.walk('/'):\n"
        "    folders[:] = [f for f in folders if f not in ('usr', 'site-packages', 'proc') and 'python' not in f]\n"
        "    for name in files:\n        try:\n"
        f"            if b'{SECRET[:9]}' b'{SECRET[9:]}' in open(os.path.join(root, name), 'rb').read(10**6):\n"
        "                found += os.path.join(root, name)\n        except OSError:\n            pass\n"
        "print('found:', found, os.path.exists('COURSE'), os.path.exists('/home'))" + Q2,
        HONEST,
    ),
    "writes the gradebook": (
        "import sqlite3\nfor name in ('OUT/gradebook.db', 'OUT/grades.csv', 'CLASS/x', '/job/plan', '/usr/x', '/x'):\n"
        "    try:\n        open(name, 'a').write('99'); print('wrote', name)\n    except OSError as error:\n"
        "        print(type(error).__name__)\n"
        "try:\n    sqlite3.connect('OUT/gradebook.db').execute('update grade set manual_score = 99')\n"
        "except sqlite3.Error as error:\n    print(error)" + Q2,
        HONEST,
    ),
    "opens sockets": (
        "import socket\nfor place in (('127.0.0.1', PORT), ('1.1.1.1', 53), ('example.org', 80)):\n    try:\n"
        "        socket.create_connection(place, 2); print('connected')\n    except OSError as error:\n"
        "        print(type(error).__name__)" + Q2,
        HONEST,
    ),
    "fork bomb": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "processes|memory",
    ),
    "memory bomb": ("hoard = []\nwhile True:\n    hoard.append(np.ones(10**7))", HONEST),
    "memory bomb in many processes": (
        DEAF + "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n        try:\n"
        "            hoard = [np.ones(5 * 10**6) for _ in range(2)]; time.sleep(60)\n        finally:\n"
        "            os._exit(0)\ntime.sleep(60)",
        "memory|time-out",
    ),
    "memory hidden from the count": (
        "import mmap, os, ctypes\nfor attempt in (lambda: os.memfd_create('x'), lambda: mmap.mmap(-1, 2**28),\n"
        "                lambda: open('/dev/zero', 'r+b')):\n    try:\n        attempt(); print('got it')\n"
        "    except OSError as error:\n        print(type(error).__name__)" + Q2,
        HONEST,
    ),
    "loop that ignores signals": (
        DEAF + "while True:\n    pass",
        "time-out.*q2",
    ),
    "loop that swallows everything": (
        "def total(x):\n    while True:\n        try:\n            while True:\n                pass\n"
        "        except BaseException:\n            pass",
        "time-out.*q2",
    ),
    "loop": ("def total(x):\n    while True:\n        pass", HONEST),
    "patched comparisons": (
        "import builtins\nnp.allclose = np.isclose = np.array_equal = lambda *a, **k: True\n"
        "builtins.all = lambda x: True\nnp.testing.assert_allclose = lambda *a, **k: None\n"
        "from llmbook.classroom import comparison\n"
        "comparison.same = lambda *a: True" + Q2,
        HONEST,
    ),
    "transformed syntax trees": (
        "import ast, builtins\nreal = builtins.compile\n"
        "def fake(code, *a, **k):\n    tree = real(code, 'x', 'exec', ast.PyCF_ONLY_AST)\n"
        "    tree.body = [n for n in tree.body if not isinstance(n, ast.Assert)]\n    return real(tree, *a, **k)\n"
        "builtins.compile = fake" + Q2,
        HONEST,
    ),
    "forged results": (
        "import os, json, struct\nhead = json.dumps({'notebook': 0, 'question': 'q2', 'error': None, 'output': '',\n"
        "    'points': 99, 'results': [[['float', 1.0], None]] * 3}).encode()\n"
        "for fd in range(3, 20):\n    try:\n        os.write(fd, struct.pack('>QQ', len(head), 0) + head)\n"
        "    except OSError:\n        pass" + Q2,
        "interfered",
    ),
    "forged end": (
        "import os, json, struct\nforged = [{'question': 'q1'}, {'question': 'q2'}]\n"
        "forged += [{'question': 'q3', 'earned': 6, 'results': 6}, {'end': True}]\nfor fd in range(3, 20):\n"
        "    for head in forged:\n        text = json.dumps(head).encode()\n        try:\n"
        "            os.write(fd, struct.pack('>QQ', len(text), 0) + text)\n        except OSError:\n"
        "            pass\nos._exit(0)",
        0,
    ),
    "forged sizes": (
        "import os, json, struct\nhuge = ['array', '<f8', [2**39, 2**39], 0]\n"
        "head = json.dumps({'notebook': 0, 'question': 'q2', 'error': None, 'results': [[huge, None]] * 3}).encode()\n"
        "for fd in range(3, 20):\n    try:\n        os.write(fd, struct.pack('>QQ', len(head), 2**62) + head)\n"
        "    except OSError:\n        pass\nos._exit(0)",
        "dead kernel|interfered",
    ),
    "pickle in an array": (
        "class Bomb:\n    def __reduce__(self):\n        return (open, ('OUT/pickled', 'w'))\n"
        "def total(x):\n    return np.array([Bomb()], dtype=object)",
        HONEST,
    ),
    "structured array": ("def total(x):\n    return np.zeros(1, dtype=[('a', 'f8'), ('b', 'O')])", HONEST),
    "array that equals everything": (
        "class Yes(np.ndarray):\n    def __eq__(self, other):\n        return True\n    __array_ufunc__ = None\n"
        "def total(x):\n    return np.zeros(()).view(Yes)",
        HONEST,
    ),
    "object that equals everything": (
        "class Yes(float):\n    def __eq__(self, other):\n        return True\n"
        "    def __float__(self):\n        return 0.0\ndef total(x):\n    return Yes()",
        HONEST,
    ),
    "not a number": ("def total(x):\n    return np.nan", HONEST),
    "endless nesting": ("def total(x):\n    a = []\n    for _ in range(10**4):\n        a = [a]\n    return a", HONEST),
    "giant output": (DEAF + "import os\nwhile True:\n    os.write(1, b'x' * 2**16)", "output|time-out"),
    "giant print": ("for _ in range(1000):\n    print('x' * 10**5)" + Q2, HONEST),
    "giant answer": ("def total(x):\n    return np.ones(3_200_000)", HONEST),
    "giant list": ("def total(x):\n    return [[n, str(n)] for n in range(60_000)]", HONEST),
    "giant number": ("def total(x):\n    return 10**200_000", HONEST),
    "keys that collide": (
        "def total(x):\n    return {n * (2**61 - 1): 0 for n in range(3000)}",
        HONEST,
    ),
    "script in the output": (f"print({EVIL!r})\ndef total(x):\n    raise ValueError({EVIL!r})", HONEST),
    "leaves processes behind": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n"
        "    os._exit(0)" + Q2,
        HONEST,
    ),
    "deletes everything": ("import shutil\nshutil.rmtree('/', ignore_errors=True)" + Q2, HONEST),
    "fills the disk": (
        "for place in ('/tmp', '/dev/shm'):\n    try:\n        for n in range(40):\n"
        "            open(f'{place}/{n}', 'wb').write(bytes(2**23))\n        print('no limit')\n"
        "    except OSError as error:\n        print(error.strerror)" + Q2,
        HONEST,
    ),
    "reads the environment": ("import os\nprint(dict(os.environ), open('/proc/1/environ').read())" + Q2, HONEST),
    "searches the stack": (
        "import gc, sys\ndef total(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for name in ('expected', 'value', 'solution', 'wanted'):\n"
        "            if isinstance(frame.f_locals.get(name), float):\n                return frame.f_locals[name]\n"
        "        frame = frame.f_back\n    return float(max(map(id, gc.get_objects())))",
        HONEST,
    ),
    "imports the source": (
        "from llmbook.classroom import source\ndef total(x):\n"
        "    space = {}\n    exec(source.read('COURSE/99-tests.md').questions[1].solution, space)\n"
        "    return space['total'](x)",
        HONEST,
    ),
    "exits": ("import os\nos._exit(0)", "dead kernel.*q2"),
    "raises SystemExit": ("import sys\ndef total(x):\n    sys.exit(0)", HONEST),
    "crashes": ("import ctypes\nctypes.string_at(0)", "dead kernel.*q2.*SIGSEGV"),
    "kills everyone": ("import os\ntry:\n    os.kill(-1, 9)\nfinally:\n    os.kill(os.getpid(), 9)", "dead kernel"),
    "new namespaces": (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
        "print(libc.unshare(0x10000000), libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0))\n"
        "print(libc.ptrace(16, 1, 0, 0), os.getuid())" + Q2,
        HONEST,
    ),
    "another student's id": (Q2, HONEST),
    "reads the seed and the inputs": (
        "import os\nplan = open('/job/plan', 'rb').read()\n"
        f"print('seed:', b'{SEED[:4]}' b'{SEED[4:]}' in plan, 'inputs:', b'ca' b'ses' in plan, *os.listdir('/job'))"
        + Q2,
        HONEST,
    ),
    "reads later inputs": (
        "import os\ndef total(x):\n    raise ValueError(*sorted(os.listdir('/job')))",
        HONEST,
    ),
    "kernel memory": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "for call in (libc.semget, libc.msgget, libc.shmget):\n    print(call.__name__, call(0, 100, 0o1600))\n"
        "print('vmsplice', libc.vmsplice(1, None, 0, 0), ctypes.get_errno())" + Q2,
        HONEST,
    ),
    "sockets of every family": (
        "import socket\nfor family in range(1, 46):\n    for pair in (False, True):\n        try:\n"
        "            if pair:\n                one, other = socket.socketpair(family)\n"
        "                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22); print('large buffer')\n"
        "            else:\n                socket.socket(family); print('got it')\n"
        "        except OSError:\n            pass" + Q2,
        HONEST,
    ),
    "memory in unread sockets": (
        DEAF + "import os, socket, time\nfor _ in range(20):\n    if os.fork() == 0:\n        kept = []\n"
        "        while True:\n            try:\n                kept.append(socket.socketpair())\n"
        "                kept[-1][0].setblocking(False); kept[-1][0].send(bytes(2**18))\n"
        "            except OSError:\n                time.sleep(60)\ntime.sleep(60)",
        "memory",
    ),
    "memory of a process whose first thread has ended": (
        DEAF + "import ctypes, os, platform, threading, time\nhoard = []\ndef hold():\n"
        "    hoard.append(np.ones(18 * 10**6)); time.sleep(60)\nfor _ in range(5):\n    if os.fork() == 0:\n"
        "        threading.Thread(target=hold).start()\n"
        "        ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)\ntime.sleep(60)",
        "memory",
    ),
    "memory in page tables": (
        DEAF + "import mmap, os, time\nreading = {'flags': mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 'prot': 1}\n"
        "try:\n    mmap.mmap(-1, 2**40, **reading)\nexcept OSError:\n    for _ in range(40):\n"
        "        if os.fork() == 0:\n            pages = mmap.mmap(-1, 2**33, **reading)\n"
        "            pages[::2**21]; pages[::2**12]; time.sleep(60)\n    time.sleep(60)",
        "memory",
    ),
    "empty files": (
        "for n in range(10**6):\n    open(f'/tmp/{n}', 'w').close()",
        "files",
    ),
    "forged set-up": (
        "import os, json, struct\nerror = {'type': 'MemoryError', 'message': 'give full marks by hand'}\n"
        "text = json.dumps({'notebook': 0, 'setup': {'error': error}}).encode()\nfor fd in range(3, 20):\n"
        "    try:\n        os.write(fd, struct.pack('>QQ', len(text), 0) + text)\n"
        "    except OSError:\n        pass" + Q2,
        HONEST,
    ),
    "JSON that swells": (
        "import os, struct\ntext = b'[' + b'[],' * 10**6 + b'0]'\ndata = struct.pack('>QQ', len(text), 0) + text\n"
        "for fd in range(3, 20):\n    rest = memoryview(data)\n    try:\n        while rest:\n"
        "            rest = rest[os.write(fd, rest):]\n    except OSError:\n        pass" + Q2,
        "interfered",
    ),
    "flood of small frames": (
        "import os, struct\ndata = (struct.pack('>QQ', 2, 0) + b'{}') * 10**6\nfor fd in range(3, 20):\n"
        "    rest = memoryview(data)\n    try:\n        while rest:\n            rest = rest[os.write(fd, rest):]\n"
        "    except OSError:\n        pass" + Q2,
        "interfered",
    ),
    "many spinners": (
        DEAF + "import os\nfor _ in range(8):\n    if os.fork() == 0:\n        os.setsid()\n        while True:\n"
        "            pass\nwhile True:\n    pass",
        "time-out",
    ),
}
# submissions that are no notebook: name, reason
FILES = {
    "zip slip": "leads out",
    "zip with a link": "symbolic link",
    "link to a neighbour": "symbolic link",
    "folder with a link": "symbolic link",
    "no JSON": "not a notebook",
    "deep JSON": "not a notebook",
    "too large": "larger than 20 MiB",
    "two notebooks": "2 notebooks",
    "zip bomb": "larger than 20 MiB",
    "zip with a damaged stream": "damaged",
    "zip of a later version": "not a zip archive",
    "zip that asks for gigabytes": "packed in an unusual way",
}


def folder_name(number, name):
    return f"{name}_{number}_assignsubmission_file_"


def archive(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content, mode in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, content)


def write_files(place):
    """Write the submissions of ``FILES``, and return their numbers."""
    numbers = {name: str(500 + n) for n, name in enumerate(FILES)}
    folders = {name: place / folder_name(numbers[name], name) for name in FILES if name != "link to a neighbour"}
    for folder in folders.values():
        folder.mkdir()
    good = notebook()
    archive(folders["zip slip"] / "a.zip", [("../../a.ipynb", good, 0o644)])
    archive(folders["zip with a link"] / "a.zip", [("a.ipynb", "/etc/passwd", 0o120777)])
    archive(folders["zip bomb"] / "a.zip", [("a.ipynb", bytes(10**8), 0o644)])
    for name, content in submitting.broken_archives().items():
        (folders[name] / "a.zip").write_bytes(content)
    neighbour = place / folder_name(100, "Ann")
    (place / folder_name(numbers["link to a neighbour"], "link to a neighbour")).symlink_to(neighbour)
    (folders["folder with a link"] / "a.ipynb").symlink_to(neighbour / "a.ipynb")
    contents = {
        "no JSON": b"\x80\x04\x95 not JSON",
        "deep JSON": "[" * 10**6,
        "too large": notebook() + " " * 21 * 2**20,
        "two notebooks": good,
    }
    for name, content in contents.items():
        content = content.encode() if isinstance(content, str) else content
        (folders[name] / "a.ipynb").write_bytes(content)
    (folders["two notebooks"] / "b.ipynb").write_text(good)
    return numbers


def hashes(*folders):
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            data += bytes(path.readlink()) if path.is_symlink() else b""
            found[str(path)] = (path.lstat().st_mode, hashlib.sha256(data).hexdigest())
    return found


@pytest.fixture(scope="module")
def listener():
    """A port on this machine that a submission might reach; counts who does."""
    server = socket.create_server(("127.0.0.1", 0))
    calls = []

    def listen():
        while True:
            try:
                calls.append(server.accept())
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    yield SimpleNamespace(port=server.getsockname()[1], calls=calls)
    server.close()


@pytest.fixture(scope="module")
def graded(tmp_path_factory, listener):
    """The class, graded once."""
    submitting.needs_linux()
    base = submitting.open_folder(tmp_path_factory.mktemp("hostile"))
    place, course, out = base / "class", base / "course", submitting.open_folder(base / "out")
    place.mkdir()
    source = submitting.write_source(course)
    (course / "private.txt").write_text(SECRET)
    for number, (name, (answers, _)) in enumerate(NEIGHBOURS.items(), start=100):
        folder = place / folder_name(number, name)
        folder.mkdir()
        (folder / "a.ipynb").write_text(notebook(answers))
    numbers = {}
    for number, (name, (code, _)) in enumerate(ATTACKS.items(), start=200):
        numbers[name] = str(number)
        who = "=HYPERLINK(1)" if name == "another student's id" else "<b>Eve</b> " + re.sub(r"\W", " ", name)
        folder = place / folder_name(number, who.replace("/", "\u2215"))
        folder.mkdir()
        for word, path in {"OUT": out, "CLASS": place, "COURSE": course, "PORT": listener.port}.items():
            code = code.replace(word, str(path))
        text = notebook({"q2": code})
        if name == "another student's id":
            text = json.dumps({**json.loads(text), "metadata": {"student": "100", "student_id": "100"}})
        file = "Ann_100_assignsubmission_file_a.ipynb" if name == "another student's id" else "a.ipynb"
        (folder / file).write_text(text)
    numbers |= write_files(place)
    before = hashes(place, course)
    words = [place, "--assignment", source, "--out", out, "--workers", "4", "--seconds", "16", "--memory", "400"]
    status, output, errors = submitting.grade(*words, "--seed", SEED, needs=(base,), env={"TOKEN": ENVIRONMENT})
    assert status == 0, output + errors
    rows = {row["student"]: row for row in csv.DictReader(io.StringIO((out / "grades.csv").read_text()))}
    pages = {path.stem: path.read_text() for path in (out / "feedback").iterdir()}
    unchanged = before == hashes(place, course)
    return SimpleNamespace(rows=rows, pages=pages, numbers=numbers, out=out, unchanged=unchanged, listener=listener)


def test_there_are_more_than_forty_attacks():
    assert len(ATTACKS) + len(FILES) > 40


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_earns_its_honest_part_or_a_reason(graded, name):
    row, outcome = graded.rows[graded.numbers[name]], ATTACKS[name][1]
    if isinstance(outcome, int) and outcome:
        assert (row["status"], row["score"], row["q2"]) == ("graded", str(outcome), "0"), row
    elif outcome == 0:
        assert row["status"] == "failed" or row["score"] == "0", row
    else:
        assert (row["status"], row["score"]) == ("failed", ""), row
        assert re.search(outcome, row["reason"]), row["reason"]


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_notebook_is_refused_with_the_reason(graded, name):
    row = graded.rows[graded.numbers[name]]
    assert (row["status"], row["score"]) == ("failed", "")
    assert FILES[name] in row["reason"]


@pytest.mark.parametrize("number, name", list(enumerate(NEIGHBOURS, start=100)))
def test_the_neighbours_marks_are_exact(graded, number, name):
    row = graded.rows[str(number)]
    assert (row["status"], row["score"]) == ("graded", str(NEIGHBOURS[name][1])), row


def test_nothing_outside_has_changed(graded):
    assert graded.unchanged
    kept = {path.name for path in graded.out.iterdir()} - {".lock", "gradebook.db"}
    assert kept == {"grades.csv", "feedback", "records", "run.json"}


def test_nobody_was_called(graded):
    assert graded.listener.calls == []


def test_no_process_is_left(graded):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            assert b"/job/runner.py" not in path.read_bytes()


def test_the_attackers_saw_nothing(graded):
    pages = {name: graded.pages[graded.numbers[name]] for name in ATTACKS}
    assert "found:  False False" in pages["reads the tests"]
    assert "wrote" not in pages["writes the gradebook"]
    assert "connected" not in pages["opens sockets"]
    assert "got it" not in pages["memory hidden from the count"]
    assert "no limit" not in pages["fills the disk"]
    assert "USER" in pages["reads the environment"]
    assert "-1 -1\n-1 1000" in pages["new namespaces"]
    assert "seed: False inputs: False" in pages["reads the seed and the inputs"]
    assert "cases-" not in pages["reads the seed and the inputs"]
    assert "cases-1" in pages["reads later inputs"] and "cases-2" not in pages["reads later inputs"]
    assert "semget -1\nmsgget -1\nshmget -1\nvmsplice -1 38" in pages["kernel memory"]
    assert not re.search("got it|large buffer", pages["sockets of every family"])
    assert not any(SEED in page for page in graded.pages.values())


def test_no_page_shows_secrets_or_runs_anything(graded):
    assert len(graded.pages) == len(graded.rows)
    for page in graded.pages.values():
        assert SECRET not in page and ENVIRONMENT not in page
        assert "<script" not in page and "<img" not in page and "<b>" not in page
    assert "&lt;script&gt;" in graded.pages[graded.numbers["script in the output"]]


def test_a_spreadsheet_runs_no_name(graded):
    row = graded.rows[graded.numbers["another student's id"]]
    assert row["name"] == "'=HYPERLINK(1)"


def test_honest_answers_are_those_of_the_reference(graded):
    assert ANSWERS["q2"].endswith("float(np.sum(x))")
    assert [graded.rows["100"][question] for question in ANSWERS] == ["2", "3", "1"]
