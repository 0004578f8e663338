"""Create `.venv` from the lock, or leave it alone when it is up to date. Runs on the system's own Python.

Only the standard library is used here, and only syntax that an older Python can read: the one-line answer to an
unsupported version has to come from that version. `.venv` counts as finished when its stamp says so; the stamp is
taken away before any change and put back as the last step, so whatever stops in between is made anew by the next run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_VERSION = "3.11"
# torch from PyPI brings its CUDA libraries; a CPU build needs less than half of it.
NEEDED_GIB = 6
STAMP = "llmbook-stamp"


class Problem(Exception):
    """Something the reader has to settle; the message is one line that names it and the remedy."""


def describe_lock(root: Path) -> str:
    """Return a hash of what decides the content of `.venv`: the lock, the package's dependencies, Python, the place.

    The place counts because a virtual environment cannot be moved, and a copied tree has a copied one.
    """
    dependencies = (root / "pyproject.toml").read_text(encoding="utf-8").split("\n[tool.")[0]
    parts = [PYTHON_VERSION, str(root), (root / "requirements.txt").read_text(encoding="utf-8"), dependencies]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_current(root: Path) -> bool:
    """Tell whether `.venv` is finished and made from the present lock."""
    stamp = root / ".venv" / STAMP
    try:
        return stamp.read_text(encoding="utf-8").strip() == describe_lock(root)
    except OSError:
        return False


def is_complete(root: Path) -> bool:
    """Tell whether a finished `.venv`, of the right Python and made in this place, can be changed where it stands."""
    venv = root / ".venv"
    if not ((venv / STAMP).exists() and (venv / "bin/python").exists()):
        return False
    settings = (venv / "pyvenv.cfg").read_text(encoding="utf-8")
    return f"version = {PYTHON_VERSION}." in settings and str(venv) in settings


def version_of(python: str) -> str | None:
    """Return ``major.minor`` of an interpreter, or None where it does not run."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def choose_python(wanted: str) -> str:
    """Return the interpreter to build `.venv` with: the one asked for, or the first of the right version."""
    remedy = f"install it (Debian 12: apt-get install python{PYTHON_VERSION}-venv; elsewhere: pyenv or conda)"
    if wanted:
        found = version_of(wanted)
        if found == PYTHON_VERSION:
            return wanted
        state = f"is Python {found}" if found else "does not run"
        raise Problem(f"PYTHON={wanted} {state}; the lock is for Python {PYTHON_VERSION}: name one, or {remedy}")
    for candidate in (f"python{PYTHON_VERSION}", sys.executable, f"/usr/bin/python{PYTHON_VERSION}"):
        if version_of(candidate) == PYTHON_VERSION:
            return candidate
    found = ".".join(map(str, sys.version_info[:2]))
    raise Problem(
        f"found Python {found}, but the lock is for Python {PYTHON_VERSION}: {remedy}, or name it: make PYTHON=/path"
    )


def check_disk(root: Path) -> None:
    """Fail where the installation would not fit."""
    free = shutil.disk_usage(root).free / 2**30
    if free < NEEDED_GIB:
        raise Problem(f"{root} has {free:.1f} GiB free, the environment needs {NEEDED_GIB} GiB: free some space")


def ensure_venv_module(python: str) -> None:
    """Install Debian's package for `venv` where it is missing and we may; else say what to do."""

    def present() -> bool:
        return subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0

    if present():
        return
    package = f"python{PYTHON_VERSION}-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"{python} has no venv module: installing {package} with apt-get", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", package]):
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        if present():
            return
    raise Problem(f"{python} cannot make virtual environments: install {package} (sudo apt-get install {package})")


def run_pip(root: Path, arguments: list[str], lock: int) -> None:
    """Run pip in `.venv`; on a terminal the package in hand is shown on one line; failure is pip's own last word.

    pip inherits the open lock, so that one left behind by a killed `make` keeps the next from working beside it.
    Packages that come as source (seqeval) are built in the way that newer pips use anyway: Debian's builds them in an
    older one, which does not bring what their `setup.py` needs.
    """
    command = [str(root / ".venv/bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--use-pep517"]
    terminal = sys.stdout.isatty()
    lines = []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, *arguments], cwd=root, env=environment, text=True, pass_fds=[lock],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as pip:  # fmt: skip
        try:
            for line in pip.stdout or ():
                lines.append(line.strip())
                if terminal:
                    width = shutil.get_terminal_size().columns - 1
                    print("\r" + line.strip()[:width].ljust(width), end="", flush=True)
        except BaseException:
            pip.kill()
            raise
        finally:
            if terminal:
                print("\r" + " " * (shutil.get_terminal_size().columns - 1), end="\r", flush=True)
    if pip.returncode != 0:
        spoken = [line for line in lines if line]
        errors = [line for line in spoken if line.startswith("ERROR:")] or spoken or ["no output"]
        raise Problem(f"pip failed: {errors[-1]} - check network, disk space and pip's configuration, then run again")


def install(root: Path, wanted: str) -> None:
    """Bring `.venv` in line with the lock: in place where a finished one stands, from nothing otherwise."""
    with Path(__file__).open() as own:
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting: another process is installing .venv", flush=True)
            fcntl.flock(own, fcntl.LOCK_EX)
        if is_current(root):
            return
        began = time.monotonic()
        python = choose_python(wanted)
        check_disk(root)
        venv = root / ".venv"
        stamp = venv / STAMP
        target = describe_lock(root)
        packages = sum("==" in line for line in (root / "requirements.txt").read_text(encoding="utf-8").splitlines())
        if is_complete(root):
            print(f".venv: bringing {packages} packages in line with requirements.txt", flush=True)
            stamp.unlink()
        else:
            print(f".venv: installing {packages} packages with {python}; a few minutes, once", flush=True)
            ensure_venv_module(python)
            stamp.unlink(missing_ok=True)
            if venv.is_symlink():
                venv.unlink()
            elif venv.exists():
                shutil.rmtree(venv)
            made = subprocess.run([python, "-m", "venv", str(venv)], capture_output=True, text=True)
            if made.returncode != 0:
                last = (made.stdout + made.stderr).strip().splitlines()[-1:] or ["no output"]
                raise Problem(f"{python} -m venv .venv failed: {last[0]} - check disk space and permissions")
        run_pip(root, ["-r", "requirements.txt"], own.fileno())
        run_pip(root, ["--no-deps", "--no-build-isolation", "-e", "."], own.fileno())
        temporary = stamp.with_suffix(".new")
        temporary.write_text(target + "\n", encoding="utf-8")
        temporary.replace(stamp)
        print(f".venv: ready after {time.monotonic() - began:.0f} s", flush=True)


def main() -> int:
    """Check the asked-for Python, then install unless there is nothing to do."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = os.environ.get("PYTHON", "")
    try:
        if wanted:
            choose_python(wanted)
        if not is_current(ROOT):
            install(ROOT, wanted)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error} - check disk space and permissions, then run again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the next make starts the installation again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
