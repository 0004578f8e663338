"""Files and folders that are written whole or not at all, a file's hash, and a switch that hides libraries' bars."""

import contextlib
import hashlib
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal


def write_whole(path: Path, content: str | bytes, mode: int = 0o644) -> Path:
    """Write a file in one go, its folder too: whoever opens it finds the old content or the new one, never a part.

    Text is written as UTF-8, its line ends as they are. Where it fails, the old file stays and nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(partial).chmod(mode)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def only_builder(
    root: Path, lock: str, unfinished: str, errors: Callable[[], AbstractContextManager], waiting: str = ""
) -> Iterator[None]:
    """Be the only process that builds something in a folder, which is made; others wait, and look again when they may.

    Args:
        root: the folder.
        lock: name of the lock file in it; what has another lock is built beside.
        unfinished: pattern of the folders in it that a process which was killed has left; they are removed.
        errors: makes the context in which the folder is written, which says in words what goes wrong.
        waiting: what to print where another process is building.
    """
    import filelock

    held = filelock.FileLock(root / lock)
    with errors():
        root.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0 if waiting else -1)
        except filelock.Timeout:
            print(waiting, file=sys.stderr)
            held.acquire()
    try:
        with errors():
            for left in root.glob(unfinished):
                shutil.rmtree(left)
        yield
    finally:
        held.release()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def without_progress_bars(library: Literal["datasets", "transformers"]) -> Iterator[None]:
    """Keep a library from drawing a bar for a file of a few megabytes; afterwards its bars are as they were before."""
    bars = importlib.import_module(f"{library}.utils.logging")  # both call their switch by the same three names
    shown = bars.is_progress_bar_enabled()
    if shown:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
