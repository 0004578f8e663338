"""Bring notebooks in step with their manuscripts and execute those whose code changed: `make notebooks`.

A chapter is executed when the hash of its code cells is not the one recorded with its outputs. The companion package
is left out of that hash: `make test` runs every notebook against the package as it is, and a hash that moved with each
docstring would re-execute the whole book for each of them. When the package has changed, the tool says so.
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

from chapters import (
    CELL_METADATA,
    CELL_TIMEOUT,
    MAX_MEMORY_MIB,
    MAX_SECONDS,
    ROOT,
    SETUP_TAG,
    WORKERS,
    Chapter,
    Problem,
    cell_contents,
    code_cells,
    code_sha256,
    find_chapters,
    kernel_environment,
    measurements_file,
    package_sha256,
    read_manuscript,
    read_measurements,
    read_notebook,
    report,
    select_chapters,
    source_sha256,
    tags,
)
from llmbook.files import write_whole

METADATA: dict[str, Any] = {
    # jupytext takes the name of the lexer that a manuscript gives its code cells from here
    "jupytext": {"default_lexer": "ipython3"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
RECORDED_VERSIONS = ("llmbook", "torch", "numpy", "datasets", "transformers", "tokenizers", "matplotlib")
PROGRESS = re.compile(r"\d+%\||\d+it \[|\d+/\? \[|TqdmWarning|from \.autonotebook import")

_kernels: set[int] = set()


# --- the pair -------------------------------------------------------------------------------------------------------


def pair(chapter: Chapter, root: Path = ROOT) -> tuple[nbformat.NotebookNode, bool]:
    """Return the notebook that the manuscript asks for, and whether its outputs have to be computed.

    The manuscript wins. A notebook that was edited by hand since this tool wrote it, and does not say what the
    manuscript says, is never overwritten: that is a ``Problem``.
    """
    notebook = read_manuscript(chapter)
    if not chapter.notebook.exists():
        return notebook, True
    stored = read_notebook(chapter)
    if cell_contents(stored) != cell_contents(notebook) and was_edited(chapter, stored):
        tidy(chapter, stored)
        newer = max(chapter.manuscript, chapter.notebook, key=lambda path: path.stat().st_mtime)
        raise Problem(
            f"{chapter.notebook.relative_to(root)} was edited and differs from {chapter.manuscript.relative_to(root)}: "
            f"`.venv/bin/jupytext --sync {chapter.manuscript.relative_to(root)}` keeps the newer one, "
            f"now {newer.relative_to(root)} (`touch` the other to keep that), then run `make notebooks` again"
        )
    if code_sha256(stored) != code_sha256(notebook) or len(code_cells(stored)) != len(code_cells(notebook)):
        return notebook, True
    for cell, old in zip(code_cells(notebook), code_cells(stored), strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    counts = [cell.execution_count for cell in code_cells(notebook)]
    recorded = read_measurements(root).get(chapter.name, {}).get("code_sha256")
    return notebook, recorded != code_sha256(notebook) or counts != list(range(1, len(counts) + 1))


def was_edited(chapter: Chapter, stored: nbformat.NotebookNode) -> bool:
    """Tell whether someone edited the notebook since this tool wrote it; one it never wrote counts by its date."""
    written = stored.metadata.get("llmbook", {}).get("source_sha256")
    if written is None:
        return chapter.notebook.stat().st_mtime > chapter.manuscript.stat().st_mtime
    return written != source_sha256(stored)


def tidy(chapter: Chapter, stored: nbformat.NotebookNode) -> None:
    """Take out of an edited notebook what another program put there beside the edit; it stays edited, and as old.

    jupytext would else carry the name of that program's kernel into the manuscript.
    """
    foreign = any(key not in CELL_METADATA for cell in stored.cells for key in cell.metadata)
    if not foreign and stored.metadata.get("kernelspec") == METADATA["kernelspec"]:
        return
    written, times = stored.metadata.get("llmbook", {}).get("source_sha256", ""), chapter.notebook.stat()
    normalise(stored)
    stored.metadata.llmbook.source_sha256 = written
    write_whole(chapter.notebook, nbformat.writes(stored) + "\n")
    os.utime(chapter.notebook, ns=(times.st_atime_ns, times.st_mtime_ns))


# --- normal form ----------------------------------------------------------------------------------------------------


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Remove from a notebook what differs between two executions on two machines, and give its cells stable names."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        name = SETUP_TAG if SETUP_TAG in tags(cell) else source_id(cell)
        seen[name] = seen.get(name, 0) + 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"
        cell.metadata = nbformat.NotebookNode(
            {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
        )
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(normal_output, cell.outputs) if output is not None]
    notebook.metadata = nbformat.from_dict(METADATA | {"llmbook": {"source_sha256": source_sha256(notebook)}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5


def source_id(cell: nbformat.NotebookNode) -> str:
    """Return a name for a cell that changes with its text and with nothing else."""
    return hashlib.sha256(f"{cell.cell_type}\0{cell.source}".encode()).hexdigest()[:12]


def normal_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """Return an output without progress bars and widgets, or None where nothing else was in it."""
    if output.output_type == "stream":
        # a carriage return starts the line anew: only what stands at its end was meant to stay
        lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in output.text.split("\n")]
        if output.name == "stderr":
            lines = [line for line in lines if not PROGRESS.search(line)]
        output.text = "\n".join(lines)
        return output if output.text.strip() else None
    if "data" in output and WIDGET_MIME in output.data:
        return None
    return output


# --- execution ------------------------------------------------------------------------------------------------------


class Execution:
    """One chapter in one kernel: its progress, and the memory of the kernel's process tree while it runs."""

    def __init__(self, chapter: Chapter, notebook: nbformat.NotebookNode, timeout: float) -> None:
        """Prepare the client and the progress line."""
        self.chapter = chapter
        self.notebook = notebook
        self.pid = 0
        self.peak_bytes = 0
        self.cell_number = 0
        self.began = time.monotonic()
        self.stopped = threading.Event()
        self.bar = tqdm(
            total=len(code_cells(notebook)),
            desc=chapter.name,
            leave=False,
            disable=None,
            bar_format="{desc}: cell {n_fmt}/{total_fmt} |{bar}| {elapsed}",
        )
        self.client = NotebookClient(
            notebook,
            kernel_name=METADATA["kernelspec"]["name"],
            timeout=timeout,
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(chapter.notebook.parent)}},
            on_notebook_start=self._start,
            on_cell_execute=self._next,
        )

    def run(self) -> dict[str, float]:
        """Execute all cells; return seconds and peak memory; a failing cell is a ``Problem`` that names it."""
        for cell in code_cells(self.notebook):
            cell.outputs, cell.execution_count = [], None
        try:
            # what a cell writes to stderr is an output; the process's own is about its sockets
            self.client.execute(env=kernel_environment(), stderr=subprocess.DEVNULL)
        except CellExecutionError as error:
            raise Problem(f"{self._place()}: {error.ename}: {first_line(error.evalue)}") from error
        except CellTimeoutError as error:
            raise Problem(f"{self._place()}: took longer than {self.client.timeout:g} s") from error
        except DeadKernelError as error:
            raise Problem(f"{self._place()}: the kernel died, most likely for want of memory") from error
        finally:
            self.stopped.set()
            self.bar.close()
            _kernels.discard(self.pid)
        return {
            "seconds": round(time.monotonic() - self.began, 1),
            "peak_memory_mib": round(self.peak_bytes / 2**20),
        }

    def _place(self) -> str:
        cells = code_cells(self.notebook)
        if not self.cell_number:
            return f"{self.chapter.name}, before the first cell"
        return f"{self.chapter.name}, cell {self.cell_number} (`{first_line(cells[self.cell_number - 1].source)}`)"

    def _start(self, notebook: nbformat.NotebookNode) -> None:
        self.began = time.monotonic()
        manager: Any = self.client.km  # the kernel is a process of this machine: its provisioner has an id
        self.pid = manager.provisioner.pid
        _kernels.add(self.pid)
        threading.Thread(target=self._watch, daemon=True).start()

    def _next(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "code":
            self.cell_number = sum(other.cell_type == "code" for other in self.notebook.cells[: cell_index + 1])
            self.bar.n = self.cell_number
            self.bar.refresh()

    def _watch(self) -> None:
        ticks = 0
        while not self.stopped.wait(0.1):
            self.peak_bytes = max(self.peak_bytes, tree_memory(self.pid))
            ticks += 1
            if ticks % 10 == 0:
                self.bar.refresh()


def first_line(text: str) -> str:
    """Return the first line that says something, at most 100 characters of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return (lines or [text.strip()])[0][:100] if text.strip() else ""


def tree_memory(pid: int) -> int:
    """Return the resident bytes of a process and all below it (shared pages count once for each)."""
    total = 0
    try:
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def machine() -> str:
    """Return the processor's name as the system gives it."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def describe_run() -> dict[str, Any]:
    """Return what else a measurement is of: device, threads, products of long trainings, scale, date and versions."""
    from llmbook import runtime  # imports torch

    environment = kernel_environment()
    device = environment["LLMBOOK_DEVICE"]
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in RECORDED_VERSIONS}
    return {
        "device": f"CPU ({machine()})" if device == "cpu" else device,
        "threads": int(environment["LLMBOOK_THREADS"]),
        "products": runtime.fast_precision(device),
        "scale": environment["LLMBOOK_SCALE"],
        "date": date.today().isoformat(),
        "versions": versions,
    }


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder against other threads and processes of this tool; no lock file stays behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def record(root: Path, name: str, entry: dict[str, Any]) -> None:
    """Put one chapter's measurement into the committed file; entries of chapters that are gone leave it."""
    path = measurements_file(root)
    known = {chapter.name for chapter in find_chapters(root)}
    with folder_lock(path.parent):
        entries = {key: value for key, value in read_measurements(root).items() if key in known} | {name: entry}
        write_whole(path, json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_notebook(chapter: Chapter, notebook: nbformat.NotebookNode) -> bool:
    """Write a notebook in normal form unless it stands there already; return whether it was written."""
    normalise(notebook)
    nbformat.validate(notebook)
    text = nbformat.writes(notebook) + "\n"
    if chapter.notebook.exists() and chapter.notebook.read_text(encoding="utf-8") == text:
        return False
    chapter.notebook.parent.mkdir(parents=True, exist_ok=True)
    write_whole(chapter.notebook, text)
    return True


def execute(chapter: Chapter, notebook: nbformat.NotebookNode, root: Path, timeout: float) -> str:
    """Execute a chapter, store its outputs and its measurement, and return a line about it."""
    if not sys.stderr.isatty():
        print(f"{chapter.name}: executing {len(code_cells(notebook))} cells", flush=True)
    chapter.notebook.parent.mkdir(parents=True, exist_ok=True)
    package = package_sha256(root)
    measured = Execution(chapter, notebook, timeout).run()
    write_notebook(chapter, notebook)
    entry = {"code_sha256": code_sha256(notebook), "llmbook_sha256": package, **measured, **describe_run()}
    record(root, chapter.name, entry)
    seconds, memory = measured["seconds"], measured["peak_memory_mib"]
    line = f"{chapter.name}: {len(code_cells(notebook))} cells, {seconds} s, {memory} MiB"
    if seconds > (allowed := MAX_SECONDS[entry["products"]]) or memory > MAX_MEMORY_MIB:
        line += f": over the budget of {allowed} s, {MAX_MEMORY_MIB} MiB (if it built a corpus on the way, run again)"
    return line


def execute_all(due: list[tuple[Chapter, nbformat.NotebookNode]], root: Path, timeout: float) -> list[str]:
    """Execute chapters, two at a time, each in a kernel of its own; return the problems."""
    problems = []
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(execute, chapter, notebook, root, timeout) for chapter, notebook in due]
        for future in as_completed(futures):
            try:
                tqdm.write(future.result())
            except (Problem, OSError) as problem:
                problems.append(f"{problem} (stored outputs are as they were)")
    return problems


def update(root: Path, name: str = "", timeout: float = CELL_TIMEOUT) -> list[str]:
    """Bring all chapters, or the named one, up to date; return the problems, one line each.

    A chapter that is named is executed even where nothing changed.
    """
    chapters = find_chapters(root)
    if name:
        chapters = select_chapters(chapters, name)
    due, problems = [], []
    measurements = read_measurements(root)
    for chapter in chapters:
        try:
            notebook, changed = pair(chapter, root)
        except Problem as problem:
            problems.append(str(problem))
            continue
        if changed or name:
            due.append((chapter, notebook))
            continue
        written = write_notebook(chapter, notebook)
        hint = ""
        if measurements[chapter.name].get("llmbook_sha256") != package_sha256(root):
            hint = f"; llmbook has changed since: `make notebooks CHAPTER={chapter.name}` executes it"
        print(f"{chapter.name}: {'text brought in step' if written else 'up to date'}{hint}", flush=True)
    return problems + execute_all(due, root, timeout)


def build_corpora() -> None:
    """Make the corpora, which a kernel without a network cannot fetch, and see that they are the book's own text."""
    from llmbook.corpora import own_text
    from llmbook.corpora.own import PINNED

    if other := [name for name in PINNED if not own_text(name)]:
        raise Problem(
            f"{', '.join(other)}: the pinned text is neither installed here nor can it be fetched, and stored outputs "
            "are made of no other: run it again with a network"
        )


def stop(signum: int, frame: object) -> None:
    """End the kernels and this process at once: the threads that wait for a cell cannot be interrupted."""
    for pid in list(_kernels):
        try:
            kernel = psutil.Process(pid)
            for member in [*kernel.children(recursive=True), kernel]:
                member.kill()
        except psutil.NoSuchProcess:
            continue
    print("\nstopped; chapters not finished keep their old outputs", file=sys.stderr, flush=True)
    os._exit(128 + signum)


def main() -> int:
    """Parse the command line of `make notebooks`."""
    parser = argparse.ArgumentParser(description="Execute the chapters whose code changed, or a named one.")
    parser.add_argument("chapter", nargs="?", default="", help="a chapter, such as 03-attention or en/03-attention")
    arguments = parser.parse_args()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        build_corpora()
        return report(update(ROOT, arguments.chapter))
    except Problem as problem:
        return report([str(problem)])


if __name__ == "__main__":
    sys.exit(main())
