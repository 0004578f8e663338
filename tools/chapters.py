"""What the tools and the tests know about a chapter: where its two files are, how they are read and what runs them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
SETUP_TAG = "setup"
# Cell metadata that a manuscript carries; the same list stands in jupytext.toml. Anything else is of one machine.
CELL_METADATA = ("tags", "cellView", "jupyter", "mystnb")
CELL_TIMEOUT = 600  # seconds; the first cell that asks for a corpus on a new machine builds it
# Of a chapter and of all together, by what long trainings compute in (`llmbook.runtime`): a processor that has no
# bfloat16 takes about twice as long for them.
MAX_SECONDS = {"bfloat16": 150, "float32": 300}
MAX_MEMORY_MIB = 2048
MAX_TOTAL_SECONDS = {"bfloat16": 25 * 60, "float32": 50 * 60}
WORKERS = 2


class Problem(Exception):
    """Bad input; the message is one line that names the thing and the remedy."""


@dataclass(frozen=True)
class Chapter:
    """A manuscript and its notebook; ``name`` is the language folder and the file's stem, as in ``en/03-attention``."""

    name: str
    manuscript: Path
    notebook: Path


def find_chapters(root: Path = ROOT) -> list[Chapter]:
    """Return all chapters that have a manuscript, in order."""
    found = []
    for manuscript in sorted(root.glob("book/*/[0-9][0-9]-*.md")):
        language = manuscript.parent.name
        notebook = root / "notebooks" / language / f"{manuscript.stem}.ipynb"
        found.append(Chapter(f"{language}/{manuscript.stem}", manuscript, notebook))
    return found


def select_chapters(chapters: list[Chapter], name: str) -> list[Chapter]:
    """Return the chapters called ``name``, with or without the language folder (then in every language)."""
    chosen = [chapter for chapter in chapters if name in (chapter.name, chapter.name.partition("/")[2])]
    if not chosen:
        known = ", ".join(chapter.name for chapter in chapters) or "none yet"
        raise Problem(f"no chapter is called {name!r}; known: {known}")
    return chosen


def read_manuscript(chapter: Chapter) -> nbformat.NotebookNode:
    """Read the manuscript as a notebook without outputs."""
    try:
        return without_empty_end(jupytext.read(chapter.manuscript))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Problem(f"{chapter.manuscript} cannot be read as a MyST notebook: {reason}") from error


def read_notebook(chapter: Chapter) -> nbformat.NotebookNode:
    """Read the executed notebook."""
    try:
        return without_empty_end(nbformat.read(chapter.notebook, as_version=4))
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise Problem(
            f"{chapter.notebook} is no readable notebook: remove it and run `make notebooks CHAPTER={chapter.name}`"
        ) from error


def without_empty_end(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take away the empty code cells that Colab, Kaggle and VS Code put at a notebook's end."""
    while notebook.cells and notebook.cells[-1].cell_type == "code" and not notebook.cells[-1].source.strip():
        notebook.cells.pop()
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """Return a cell's tags."""
    return cell.metadata.get("tags", [])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def code_sha256(notebook: nbformat.NotebookNode) -> str:
    """Hash what execution depends on: the code cells but for the set-up cell, whose address changes no result."""
    return _digest([cell.source for cell in code_cells(notebook) if SETUP_TAG not in tags(cell)])


def cell_contents(notebook: nbformat.NotebookNode) -> list[tuple[str, str, dict[str, Any]]]:
    """Return what the two files of a chapter share of each cell: type, source and the paired metadata."""
    return [
        (cell.cell_type, cell.source, {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata})
        for cell in notebook.cells
    ]


def source_sha256(notebook: nbformat.NotebookNode) -> str:
    """Hash all that a hand can edit in a notebook, but for the set-up cell (`make address` edits that one)."""
    return _digest([content for content in cell_contents(notebook) if SETUP_TAG not in content[2].get("tags", [])])


def package_sha256(root: Path = ROOT) -> str:
    """Hash the companion package's source files."""
    files = sorted(path for path in (root / "llmbook").rglob("*.py"))
    return _digest([(str(path.relative_to(root)), path.read_text(encoding="utf-8")) for path in files])


def measurements_file(root: Path = ROOT) -> Path:
    """Return the committed file of measured times and memory."""
    return root / "notebooks" / "measurements.json"


def environments_file(root: Path = ROOT) -> Path:
    """Return the committed file of what came of the chapters in readers' environments (`make colab`)."""
    return root / "notebooks" / "environments.json"


def rehearsals_file(root: Path = ROOT) -> Path:
    """Return the committed file of what came of the chapters on the pretended device (`make rehearse`)."""
    return root / "notebooks" / "rehearsed.json"


def downloads_file(root: Path = ROOT) -> Path:
    """Return the committed file of how much a chapter's set-up cell fetches in Colab (`tools/colab.py --downloads`)."""
    return root / "notebooks" / "downloads.json"


def _read_json(path: Path, root: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(
            f"{path} is no JSON ({error}): restore it with `git checkout -- {path.relative_to(root)}`"
        ) from error


def read_measurements(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Return the measurements by chapter name; empty before the first execution."""
    return _read_json(measurements_file(root), root)


def read_environments(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Return versions and chapters by the name of the libraries' choice; empty before the first `make colab`."""
    return _read_json(environments_file(root), root)


def read_rehearsals(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Return the outcomes by chapter name; empty before the first `make rehearse`."""
    return _read_json(rehearsals_file(root), root)


def read_downloads(root: Path = ROOT) -> dict[str, int]:
    """Return the megabytes that a chapter's set-up cell fetches in Colab, by chapter name."""
    return _read_json(downloads_file(root), root)


def own_requirements(chapter: Chapter, root: Path = ROOT) -> tuple[str, list[str]]:
    """Return the extra of pyproject.toml that belongs to a chapter, as `ch16`, and its requirements; none is ""."""
    extra = f"ch{chapter.manuscript.stem[:2]}"
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return (extra, extras[extra]) if extra in extras else ("", [])


def own_modules(chapter: Chapter, root: Path = ROOT) -> list[str]:
    """Return what the requirements of a chapter's extra are imported as."""
    return [re.split(r"[^\w-]", line)[0].replace("-", "_") for line in own_requirements(chapter, root)[1]]


def set_up_source(chapter: Chapter, root: Path = ROOT) -> str:
    """Return the source of a chapter's set-up cell, which fetches what the chapter needs and a machine lacks."""
    extra, _ = own_requirements(chapter, root)
    package = f"llmbook[{extra}]" if extra else "llmbook"
    modules = json.dumps(["llmbook", *own_modules(chapter, root)])
    megabytes = read_downloads(root).get(chapter.name, 0)
    return (
        f"# Set-up: installs what is missing; in Colab that fetches {megabytes} MB and takes a minute or two.\n"
        "import importlib.util\n"
        f"if not all(map(importlib.util.find_spec, {modules})):\n"
        f'    %pip install -q "{package} @ git+{repository_url(root)}"'
    )


def repository_url(root: Path = ROOT) -> str:
    """Return the repository's address, which stands in `_config.yml` and nowhere else by hand."""
    path = root / "_config.yml"
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))["repository"]["url"].rstrip("/")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise Problem(f"{path} gives no `repository: url:`; add the repository's address there") from error


def toc_files() -> Iterator[str]:
    """Yield every file that `_toc.yml` names, in its order."""

    def files(entry: Any) -> Iterator[str]:
        if isinstance(entry, dict):
            yield from (entry[key] for key in ("root", "file") if key in entry)
            entry = list(entry.values())
        if isinstance(entry, list):
            for item in entry:
                yield from files(item)

    return files(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


def kernel_environment() -> dict[str, str]:
    """Return the environment in which notebooks are executed and tested: one thread, fixed seeds, no network.

    Stored outputs are those of the path every reader has (CPU, small scale) unless the caller's environment sets
    another.
    """
    environment = dict(os.environ)
    for variable, value in {"LLMBOOK_DEVICE": "cpu", "LLMBOOK_SCALE": "small", "LLMBOOK_THREADS": "1"}.items():
        environment.setdefault(variable, value)
    for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
        environment[f"{library}_NUM_THREADS"] = environment["LLMBOOK_THREADS"]
    offline = [str(ROOT / "tools" / "offline"), environment.get("PYTHONPATH", "")]
    environment |= {
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "LLMBOOK_STORED_OUTPUTS": "1",  # an explorer's output names its model and does not carry it
        # The kernel has to be this environment's, whatever else the user has registered.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, offline)),
        # matplotlib dates its SVG files with it
        "SOURCE_DATE_EPOCH": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return environment


def install_debian(package: str, program: str) -> None:
    """Install a program's package of Debian where it is missing and we may; nothing happens elsewhere."""
    if os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get"):
        print(f"no {program} found: installing Debian's {package}", flush=True)
        for command in ("update", f"install --yes --no-install-recommends {package}"):
            subprocess.run(["apt-get", "-qq", *command.split()], stdout=subprocess.DEVNULL)


def report(problems: list[str]) -> int:
    """Print problems, one line each, and return the exit status."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0
