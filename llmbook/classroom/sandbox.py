"""The sandbox in which student code runs: bubblewrap, limits, and a supervisor that ends everything it started.

Inside there are the Python that grades, the system's libraries, and the package ``llmbook``, all read-only, and two
small folders in memory. There is no network, no home, no course folder, no other submission, no variable of the
instructor's environment, and no path on the disk that can be written. Answers come back through a pipe.

Only Linux has this. ``require`` says why a machine cannot grade and what to do.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import selectors
import shutil
import site
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbook.classroom import runner
from llmbook.files import write_whole

MIB = 2**20
POLL = 0.05
KEPT = 64 * 1024
FILE = 1024  # bytes of the kernel's for a file in memory, even an empty one
WAITING = 4  # times the limit: after that a run ends, however long others had the processor
REMEDY = (
    "grade on Linux (a machine, a virtual machine, or WSL2 on Windows), or on Gradescope with the zip that "
    "`make assignments` writes; for your own notebooks alone there is --unsafe-no-sandbox"
)


class SandboxError(ValueError):
    """Student code cannot be run safely here; the message says why, and what to do."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use, all its processes together; sizes in MiB, times in seconds.

    Times are of the processor or of doing nothing: what a program waits while others have the processor is no part.
    """

    seconds: float = 120
    question_seconds: float = 30
    memory: int = 2048
    processes: int = 64
    folder: int = 64
    results: int = 64
    output: int = 16
    files: int = 10_000


@dataclass(frozen=True)
class Outcome:
    """How a run ended: what it sent, the beginning of what it printed, and what it was stopped for, if it was.

    ``seconds`` are those of a clock; during ``waited`` of them the program was ready and others had the processor.
    """

    data: bytes
    output: str
    status: int
    stopped: str | None
    seconds: float
    peak: int
    waited: float = 0.0

    @property
    def busy(self) -> bool:
        """Whether the machine was too busy to tell a slow answer from one that was kept waiting."""
        return self.waited > 1 and self.waited > self.seconds / 4


def require(hidden: tuple[Path, ...] = ()) -> None:
    """Check that student code can be confined here and that ``hidden`` cannot be seen; else ``SandboxError``."""
    if sys.platform != "linux":
        raise SandboxError(f"student code is confined by bubblewrap, which {sys.platform} does not have: {REMEDY}")
    if os.geteuid() == 0:
        raise SandboxError(
            "you are root, whom no limit on processes binds: grade as an ordinary user (`sudo -u USER llmbook grade "
            "...`, or a new one from `adduser grader`); for your own notebooks alone there is --unsafe-no-sandbox"
        )
    if not shutil.which("bwrap"):
        raise SandboxError(
            "bubblewrap is missing: `sudo apt-get install bubblewrap` (Debian, Ubuntu) or `sudo dnf install "
            f"bubblewrap` (Fedora), version 0.8 or newer; or {REMEDY}"
        )
    for path in hidden:
        for seen in (Path("/usr"), *_visible()):
            if path.resolve().is_relative_to(seen):
                raise SandboxError(f"{path} lies in {seen}, which student code can read: move it somewhere else")
    probe = run(runner.frame({"rlimits": {}, "path": [], "notebooks": [], "question_seconds": 1, "seed": 0}), Limits())
    if probe.status != 0 or not probe.data:
        raise SandboxError(
            f"bubblewrap cannot confine anything here ({_last(probe.output)}). It needs version 0.8 or newer, user "
            "namespaces (Ubuntu 24.04: `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`; not available in "
            f"most containers), and a Python that you may read ({sys.base_prefix}). Or {REMEDY}"
        )


def _last(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _visible() -> list[Path]:
    """Return the folders outside /usr that student code may read: the interpreter, the packages, ``llmbook``."""
    folders = [Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[1], *map(Path, _user_site())]
    resolved = [folder.resolve() for folder in folders]
    return [f for f in dict.fromkeys(resolved) if not f.is_relative_to("/usr")]


def _user_site() -> list[str]:
    """Return the user's own site-packages, if this Python looks there."""
    folder = site.getusersitepackages()
    return [folder] if folder in sys.path else []


def extra_path() -> list[str]:
    """Return the folders where an isolated Python must look besides its own, such as the user's site-packages."""
    return _user_site()


def _plain_environment() -> dict[str, str]:
    """Return the variables that student code sees: none of the instructor's."""
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "LLMBOOK")}
    one["LLMBOOK_THREADS"] = one.pop("LLMBOOK_NUM_THREADS")
    return one | {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "student",
        "LOGNAME": "student",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _bubblewrap(job: Path, limits: Limits, info: int, filter_: int | None) -> list[str]:
    """Return the command that runs a program in a new, almost empty machine."""
    options = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    options += ["--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv"]
    for name, value in _plain_environment().items():
        options += ["--setenv", name, value]
    options += ["--info-fd", str(info)]
    if filter_ is not None:
        options += ["--seccomp", str(filter_)]
    options += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime"):
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    options += ["--proc", "/proc", "--tmpfs", "/dev"]
    for name in ("null", "random", "urandom"):  # no /dev/zero: shared maps of it would escape the count of memory
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name in ("/tmp", "/dev/shm"):
        options += ["--size", str(limits.folder * MIB), "--tmpfs", name]
    for folder in _visible():
        options += ["--ro-bind", str(folder), str(folder)]
    if Path(sys.prefix).resolve() != Path(sys.prefix):
        options += ["--ro-bind", str(Path(sys.prefix).resolve()), sys.prefix]
    options += ["--ro-bind", str(job), "/job", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    return ["bwrap", *options, "--", sys.executable, "-I", "-B", "/job/runner.py"]


@dataclass(frozen=True)
class _Processor:
    """The numbers by which a processor's Linux knows what the filter looks at."""

    audit: int
    mmap: int
    socketpair: int
    socket: int
    setsockopt: int
    refused: tuple[int, ...]


# Refused are system calls that hide memory from the count or widen the kernel's surface; honest code needs none.
_PROCESSORS = {
    # memfd_create memfd_secret shmget semget msgget mq_open vmsplice io_uring_setup bpf perf_event_open userfaultfd
    # keyctl add_key request_key ptrace mount setns open_by_handle_at
    "x86_64": _Processor(
        *(0xC000003E, 9, 53, 41, 54),
        (319, 447, 29, 64, 68, 240, 278, 425, 321, 298, 323, 250, 248, 249, 101, 165, 308, 304),
    ),
    "aarch64": _Processor(
        *(0xC00000B7, 222, 199, 198, 208),
        (279, 447, 194, 190, 186, 180, 75, 425, 280, 241, 282, 219, 217, 218, 117, 40, 268, 265),
    ),
}


def _filter() -> bytes | None:
    """Return the seccomp program, or None on other processors than the two that are known.

    It refuses the calls of the list, shared anonymous maps, and sockets: nobody could be called, and what lies unread
    in a socket is memory that no process has. Pairs of local sockets, which ``asyncio`` needs, keep small buffers.
    """
    if platform.machine() not in _PROCESSORS:
        return None
    known = _PROCESSORS[platform.machine()]
    load, equal, at_least, both, leave = 0x20, 0x15, 0x35, 0x54, 0x06
    kill, allow, error = 0x80000000, 0x7FFF0000, 0x00050000
    first, flags = 16, 16 + 3 * 8  # where the call's arguments lie: the first, and mmap's fourth
    shared_anonymous, local = 0x01 | 0x20, 1
    body = [(load, 0, 0, 4), (equal, 1, 0, known.audit), (leave, 0, 0, kill), (load, 0, 0, 0)]
    body += [(at_least, 0, 1, 0x40000000), (leave, 0, 0, error | errno.ENOSYS)]  # the x32 numbering of the same calls
    refused = [*((call, errno.ENOSYS) for call in known.refused), (known.socket, errno.EAFNOSUPPORT)]
    for call, why in [*refused, (known.setsockopt, errno.EPERM)]:
        body += [(equal, 0, 1, call), (leave, 0, 0, error | why)]
    body += [(equal, 0, 4, known.socketpair), (load, 0, 0, first), (equal, 0, 1, local), (leave, 0, 0, allow)]
    body += [(leave, 0, 0, error | errno.EAFNOSUPPORT)]
    body += [(equal, 0, 4, known.mmap), (load, 0, 0, flags), (both, 0, 0, shared_anonymous)]
    body += [(equal, 0, 1, shared_anonymous), (leave, 0, 0, error | errno.ENOMEM), (leave, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *line) for line in body)


@functools.cache
def _scope(memory: int, processes: int) -> tuple[str, ...]:
    """Return the command before bubblewrap that puts all into one memory cgroup, if this user's systemd gives one."""
    limits = (f"MemoryMax={memory * MIB * 5 // 4}", "MemorySwapMax=0", f"TasksMax={processes * 4}")
    command = ["systemd-run", "--user", "--scope", "--quiet", "--collect"]
    command += [part for limit in limits for part in ("-p", limit)] + ["--"]
    seen = 'cat "/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/memory.max"'
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10, "env": _session()}
    with tempfile.TemporaryFile() as file:  # pipes have to come through as well
        seen += f" && test -e /proc/self/fd/{file.fileno()}"
        try:
            probe = subprocess.run([*command, "sh", "-c", seen], pass_fds=[file.fileno()], **options)
        except (OSError, subprocess.TimeoutExpired):
            return ()
    granted = probe.returncode == 0 and probe.stdout.strip() == limits[0].partition("=")[2]
    return (*command, "env", "-i") if granted else ()


def _session() -> dict[str, str]:
    """Return the variables by which ``systemd-run`` finds the user's systemd, and the path of programs."""
    names = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    return {name: os.environ[name] for name in names if name in os.environ}


def run(
    plan: bytes,
    limits: Limits,
    *,
    cases: Sequence[bytes] = (),
    unsafe: bool = False,
    cancel: threading.Event | None = None,
) -> Outcome:
    """Run a plan (see ``runner``) in a fresh sandbox and return what came of it; nothing of it is alive afterwards.

    ``cases`` are the inputs of the questions, a frame each, for a plan without them: a question's are there only when
    those before it have been answered. ``cancel`` ends the run when it is set. With ``unsafe`` the same
    program runs as an ordinary process, with the limits that the system has for one.
    """
    with tempfile.TemporaryDirectory(prefix="llmbook-grade-") as name:
        job = Path(name)
        shutil.copy(runner.__file__, job / "runner.py")
        (job / "plan").write_bytes(plan)
        return _supervised(job, limits, _Cases(job, cases), unsafe, cancel or threading.Event())


class _Cases:
    """Hands a question's inputs to the runner when those before it have been answered."""

    def __init__(self, job: Path, cases: Sequence[bytes]) -> None:
        self.job, self.waiting = job, list(cases)
        self.place = self.arrived = self.given = 0
        if os.name == "nt":  # where nobody reads along
            while self.waiting:
                self._give()

    def look(self, data: bytearray) -> None:
        """Count the frames that have come: one before each cell, then two a question, of which the first asks."""
        cells = len(self.waiting) + self.given
        while self.waiting and self.place + runner.LENGTHS.size <= len(data):
            place = self.place + runner.LENGTHS.size + sum(runner.LENGTHS.unpack_from(data, self.place))
            if place > len(data):
                return
            self.place, self.arrived = place, self.arrived + 1
            if self.arrived == cells + 2 * self.given + 1:
                self._give()

    def _give(self) -> None:
        write_whole(self.job / f"cases-{self.given}", self.waiting.pop(0))
        self.given += 1


def rlimits(limits: Limits) -> dict[str, int]:
    """Return the limits of a single process, which the runner sets; they bind before the sum of all is over its cap."""
    return {
        "RLIMIT_CORE": 0,
        "RLIMIT_AS": (2 * limits.memory + 8192) * MIB,  # libraries reserve far more than they use
        "RLIMIT_CPU": int(limits.seconds) + 5,
        "RLIMIT_DATA": limits.memory * MIB,
        "RLIMIT_FSIZE": limits.folder * MIB,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_NOFILE": 256,
    } | ({"RLIMIT_NPROC": limits.processes + _tasks_of_user()} if sys.platform == "linux" else {})


def _tasks_of_user() -> int:
    """Return how many tasks this user has: older kernels count them all against the sandbox's limit."""
    count = 0
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if path.stat().st_uid == os.getuid():
                count += sum(1 for _ in (path / "task").iterdir())
    return count


def _supervised(job: Path, limits: Limits, cases: _Cases, unsafe: bool, cancel: threading.Event) -> Outcome:
    """Start the program, read its pipes, watch its time, memory and processes, and end it with all its children."""
    passed: list[int] = []
    information = -1
    try:
        if unsafe:
            command = [sys.executable, "-I", "-B", str(job / "runner.py")]
            environment = _plain_environment() | {"HOME": str(job)}
            environment |= {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
        else:
            information, writing = os.pipe()
            passed.append(writing)
            program = _filter()
            if program is not None:
                reading, filling = os.pipe()
                passed.append(reading)
                os.write(filling, program)
                os.close(filling)
            command = _bubblewrap(job, limits, writing, passed[1] if program is not None else None)
            scope = _scope(limits.memory, limits.processes)
            command = [*scope, shutil.which("bwrap") or "bwrap", *command[1:]]
            environment = _session() if scope else {}
        options: dict[str, Any] = {} if os.name == "nt" else {"start_new_session": True, "pass_fds": passed}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=job if unsafe else "/",
            env=environment,
            **options,
        )
    finally:
        for descriptor in passed:
            os.close(descriptor)
    try:
        watch = _Watch(process, limits, cases, unsafe, cancel)
        watch.until_end()
    finally:
        _end(process, information)
        if information >= 0:
            os.close(information)
    return watch.outcome()


def _end(process: subprocess.Popen[bytes], information: int) -> None:
    """Kill what still runs. In a sandbox its first process dies with all others before bubblewrap itself ends."""
    if process.poll() is None and information >= 0:
        with suppress(OSError, ValueError, IndexError):
            os.set_blocking(information, False)
            inner = int(os.read(information, 4096).decode().partition(":")[2].split(",")[0].strip(" \n}"))
            os.kill(inner, 9)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
    if information < 0:
        with suppress(OSError, AttributeError):
            os.killpg(process.pid, 9)
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


class _Watch:
    """Reads a running program's pipes and stops it at the first limit that it passes."""

    def __init__(
        self, process: subprocess.Popen[bytes], limits: Limits, cases: _Cases, unsafe: bool, cancel: threading.Event
    ) -> None:
        self.process, self.limits, self.cases, self.unsafe, self.cancel = process, limits, cases, unsafe, cancel
        self.started = time.monotonic()
        self.runner, self.waited = (process.pid if unsafe else 0), 0.0
        self.data, self.text = bytearray(), bytearray()
        self.printed = self.peak = 0
        self.stopped: str | None = None

    def until_end(self) -> None:
        if os.name == "nt":
            return self._until_end_without_pipes()
        with selectors.DefaultSelector() as selector:
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            looked = 0.0
            while selector.get_map() and self.stopped is None:
                ended = self.process.poll() is not None  # asked first: what it wrote before it ended is read below
                ready = selector.select(POLL)
                for key, _ in ready:
                    if not self._read(key.fd):
                        selector.unregister(key.fileobj)
                if time.monotonic() - looked >= POLL:
                    self._look()
                    looked = time.monotonic()
                if ended and not ready:
                    break  # without a sandbox, a child that left the group may hold the pipe
        if self.stopped is None:
            self._wait()

    def _wait(self) -> None:
        """Both pipes are closed: whoever goes on now cannot answer any more."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(2)

    def _until_end_without_pipes(self) -> None:
        """Wait on Windows, where pipes cannot be polled; sizes are checked afterwards."""
        try:
            data, text = self.process.communicate(timeout=self.limits.seconds)
            self.data, self.text = bytearray(data), bytearray(text[:KEPT])
        except subprocess.TimeoutExpired:
            self.stopped = "time"

    def _read(self, descriptor: int) -> bool:
        """Take what a pipe has; False when it is closed."""
        chunk = os.read(descriptor, MIB)
        assert self.process.stdout is not None
        if descriptor == self.process.stdout.fileno():
            self.data += chunk
            self.cases.look(self.data)
            if len(self.data) > self.limits.results * MIB:
                self.stopped = "results"
        else:
            self.text += chunk[: KEPT - len(self.text)]
            self.printed += len(chunk)
            if self.printed > self.limits.output * MIB:
                self.stopped = "output"
        return bool(chunk)

    def _look(self) -> None:
        """Compare the use of all processes together with the limits."""
        family = _processes.family(self.process.pid)
        if not self.runner and len(family) > 2:
            self.runner = family[2]  # bubblewrap, the first process inside, and what that started before student code
        self.waited = max(self.waited, waiting(self.runner))
        elapsed = time.monotonic() - self.started
        late = max(elapsed - self.waited, elapsed / WAITING, processor_seconds(family))
        if late > self.limits.seconds:
            self.stopped = "time"
        if self.cancel.is_set():
            self.stopped = "cancelled"
        files, besides = 0, 0
        if self.runner and not self.unsafe:
            files, space = folders_in_memory(self.runner)
            besides = space + sockets(self.runner)
        memory = usage(family) + besides
        if memory > self.limits.memory * MIB:  # a process that is just starting another one counts double for a moment
            time.sleep(POLL / 5)
            memory = usage(family) + besides
        self.peak = max(self.peak, memory)
        if memory > self.limits.memory * MIB:
            self.stopped = "memory"
        if files > self.limits.files:
            self.stopped = "files"
        if len(family) > self.limits.processes:
            self.stopped = "processes"

    def outcome(self) -> Outcome:
        text = self.text.decode(errors="replace")
        seconds = time.monotonic() - self.started
        status = self.process.returncode
        return Outcome(bytes(self.data), text, status, self.stopped, seconds, self.peak, self.waited)


class _Processes:
    """Who is whose child, on the whole machine; looked up once for all sandboxes that ask at about the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.when = 0.0
        self.children: dict[int, list[int]] = {}

    def family(self, root: int) -> list[int]:
        """Return a process and all that descend from it."""
        with self.lock:
            if time.monotonic() - self.when > POLL / 2:
                self.children = self._read()
                self.when = time.monotonic()
            children = self.children
        family = [root]
        for process in family:  # grows as it is read
            family += children.get(process, ())
        return family

    def _read(self) -> dict[int, list[int]]:
        children: dict[int, list[int]] = {}
        for name in filter(str.isdigit, os.listdir("/proc") if sys.platform == "linux" else ()):  # noqa: PTH208
            with suppress(OSError, ValueError, IndexError):
                status = Path("/proc", name, "stat").read_bytes()
                children.setdefault(int(status.rpartition(b")")[2].split()[1]), []).append(int(name))
        return children


_processes = _Processes()


def usage(family: Sequence[int]) -> int:
    """Return the bytes of memory that processes hold: their own and shared pages, swapped ones too, and page tables.

    Pages of files (libraries) are not counted. A process whose first thread has ended is read by another of its
    threads. Nothing on systems without /proc.
    """
    memory = 0
    for process in family:
        with suppress(OSError):
            found = _held(Path("/proc", str(process)))
            if found is None:
                tasks = Path("/proc", str(process), "task").iterdir()
                found = next((held for held in map(_held, tasks) if held is not None), 0)
            memory += found
    return memory


def _held(task: Path) -> int | None:
    """Return the bytes that a thread's process holds, or None if the thread has ended."""
    counted = (b"RssAnon:", b"RssShmem:", b"VmSwap:", b"VmPTE:", b"HugetlbPages:")
    with suppress(OSError):
        lines = [line.split() for line in (task / "status").read_bytes().splitlines() if line.startswith(counted)]
        return sum(int(line[1]) for line in lines) * 1024 if lines else None
    return None


def processor_seconds(family: Sequence[int]) -> float:
    """Return the processor time of processes and of their children that have ended."""
    ticks = 0
    for process in family:
        with suppress(OSError, ValueError, IndexError):
            status = Path("/proc", str(process), "stat").read_bytes().rpartition(b")")[2].split()
            ticks += sum(map(int, status[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0


def waiting(process: int) -> float:
    """Return for how many seconds a process's first thread was ready while others had the processor; 0 if unknown."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc", str(process), "schedstat").read_bytes().split()[1]) / 1e9
    return 0.0


def folders_in_memory(process: int) -> tuple[int, int]:
    """Return how many files the folders have that a confined process can write into, and the bytes that they take."""
    files = space = 0
    for name in ("tmp", "dev/shm"):
        with suppress(OSError):
            found = os.statvfs(f"/proc/{process}/root/{name}")
            used = found.f_files - found.f_ffree
            files += used
            space += (found.f_blocks - found.f_bfree) * found.f_frsize + used * FILE
    return files, space


def sockets(process: int) -> int:
    """Return the bytes that may lie unread in the local sockets of a confined process's network."""
    with suppress(OSError, ValueError):
        count = Path("/proc", str(process), "net", "unix").read_bytes().count(b"\n") - 1
        return max(0, count) * int(Path("/proc/sys/net/core/wmem_default").read_text())
    return 0
