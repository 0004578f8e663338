"""A chapter's cells in a process of their own, without a notebook's kernel: for `make rehearse` and `make gpu`."""

import contextlib
import io
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from chapters import ROOT, Chapter, code_cells, kernel_environment, read_manuscript, tags
from notebooks import first_line

# --- in that process ------------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """A cell that has run: its first line, what it raised without announcing it (``""``: nothing), and its seconds."""

    line: str
    raised: str
    seconds: float


def cells_of(manuscript: Path) -> list[nbformat.NotebookNode]:
    """Return the code cells of a manuscript, which need not be a chapter's."""
    return code_cells(read_manuscript(Chapter(manuscript.stem, manuscript, manuscript)))


def run_cells(cells: Sequence[nbformat.NotebookNode]) -> Iterator[Ran]:
    """Run cells one after the other, silently; yield each when it has ended."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    for cell in cells:
        began = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = shell.run_cell(cell.source, store_history=False)
            shell.run_cell("import matplotlib.pyplot; matplotlib.pyplot.close('all')")
        error = result.error_before_exec or result.error_in_exec
        surprise = error is not None and "raises-exception" not in tags(cell)
        raised = f"{type(error).__name__}: {first_line(str(error))}" if surprise else ""
        yield Ran(first_line(cell.source), raised, round(time.monotonic() - began, 1))


# --- around it ------------------------------------------------------------------------------------------------------


def environment(**variables: str) -> dict[str, str]:
    """Return those of every stored run, without the network, with others in their place.

    The package and the tools are those that stand here, before what may be installed of another copy.
    """
    found = kernel_environment()
    paths = [str(ROOT), str(ROOT / "tools"), found["PYTHONPATH"]]
    return found | variables | {"PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg"}


class Apart:
    """A program that runs in an empty folder, as the leader of all that it starts."""

    def __init__(self, words: Sequence[str], variables: dict[str, str], tells: bool = True) -> None:
        """Start it; one that ``tells`` gets a last argument, the JSON file that it writes its outcome into."""
        self.folder = tempfile.TemporaryDirectory()
        self.state, self.errors = Path(self.folder.name) / "state.json", Path(self.folder.name) / "errors"
        empty = Path(self.folder.name) / "empty"
        empty.mkdir()
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*words, str(self.state)] if tells else words, cwd=empty, env=variables, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def ended(self) -> bool:
        """Tell whether it has come to its end."""
        return self.process.poll() is not None

    def stop(self) -> None:
        """End it, if it has not ended, and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> tuple[dict[str, Any], str]:
        """Return what it told, ``{}`` without, and the last line of its errors; remove its folder."""
        told = json.loads(self.state.read_text(encoding="utf-8")) if self.state.exists() else {}
        lines = [line for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        self.folder.cleanup()
        return told, (lines or ["no message"])[-1]
