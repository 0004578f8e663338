"""Run each chapter where readers run it: the installed package alone, in another Python (`make colab`).

An environment is made under `_build/colab` with the package as a wheel and nothing else of the repository. Its corpora
are built once, with the network; then each notebook is executed by itself in an empty folder, without the network. A
cell that raises is a problem, and so is one that shows less than the stored page does: no figure where the page has
one, no text where it has some. `notebooks/environments.json` keeps the outcome for the page "Run it".

Of the packages that single chapters use besides (the extras `chNN`), a chapter sees its own alone.

`COLAB_PYTHON` names the interpreter. `LIBRARIES=newest` takes what pip finds today for the ranges of pyproject.toml,
`LIBRARIES=colab` holds the versions of `tools/colab-pins.txt`. `tools/colab.py --downloads` counts what the set-up
cells fetch there and writes it into them.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from chapters import (
    CELL_TIMEOUT,
    ROOT,
    SETUP_TAG,
    WORKERS,
    Chapter,
    Problem,
    code_cells,
    downloads_file,
    environments_file,
    find_chapters,
    kernel_environment,
    own_modules,
    own_requirements,
    read_environments,
    read_manuscript,
    read_notebook,
    report,
    select_chapters,
    set_up_source,
    tags,
)
from llmbook.files import write_whole
from notebooks import first_line, folder_lock, normal_output

PINS = ROOT / "tools" / "colab-pins.txt"
LIBRARIES = {"newest": None, "colab": PINS}
RUNNER = ("ipykernel", "nbclient")  # what a notebook needs besides the package, and Colab has
RECORDED = ("torch", "transformers", "tokenizers", "datasets", "numpy", "scipy", "pandas", "matplotlib", "scikit-learn")
# Everything that a chapter may ask for is there beforehand: a reader has the network for it, the chapters here do not.
BUILD = (
    "from llmbook import corpora; from llmbook.pretrained.__main__ import main; main(); "
    "corpora.pydocs(), corpora.catalogs(), corpora.code()"
)
KERNEL = "llmbook-readers"
# What Colab has, with all that these need: its list as far as it is known here. The rest a set-up cell fetches.
COLAB_HAS = (
    "absl-py", "accelerate", "aiohttp", "babel", "datasets", "ipykernel", "lxml", "matplotlib", "networkx", "nltk",
    "pandas", "peft", "regex", "requests", "safetensors", "scikit-learn", "scipy", "sentencepiece", "sympy", "tabulate",
    "tokenizers", "torch", "tqdm", "transformers",
)  # fmt: skip
MEGABYTE = 1e6


# --- the environment ------------------------------------------------------------------------------------------------


def command(*words: str | Path, environment: dict[str, str] | None = None) -> str:
    """Return what a command prints, run in a folder without the package; its last error line is a ``Problem``."""
    with tempfile.TemporaryDirectory() as empty:
        run = subprocess.run(words, cwd=empty, capture_output=True, text=True, env=environment)
    if run.returncode:
        lines = [line for line in (run.stderr + run.stdout).splitlines() if line.strip()] or ["no message"]
        raise Problem(f"`{' '.join(map(str, words[:6]))} ...` failed: {lines[-1]}")
    return run.stdout


def choose_python(wanted: str) -> str:
    """Return the interpreter that was asked for, else Python 3.12 where there is one, else this one."""
    for candidate in (wanted,) if wanted else ("python3.12", sys.executable):
        if path := shutil.which(candidate):
            return path
    raise Problem(f"COLAB_PYTHON={wanted} is no program here: name an interpreter of Python 3.11 to 3.13")


def make_environment(folder: Path, python: str, pins: Path | None) -> Path:
    """Bring an environment in line with the package as it is; return its interpreter."""
    settings = [(ROOT / "pyproject.toml").read_text(), pins.read_text() if pins else str(date.today()), python]
    stamp, key = folder / "llmbook-stamp", hashlib.sha256("\0".join(settings).encode()).hexdigest()
    own = folder / "bin" / "python"
    with tempfile.TemporaryDirectory() as temporary:
        print("building the package's wheel", flush=True)
        sources = Path(temporary) / "sources"  # a copy: setuptools leaves a folder `build` beside what it packs
        shutil.copytree(ROOT / "llmbook", sources / "llmbook", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, sources)
        command(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", temporary, sources)
        (wheel,) = Path(temporary).glob("*.whl")
        if not stamp.exists() or stamp.read_text() != key:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"making {folder.relative_to(ROOT)} with {python}: several minutes", flush=True)
            command(python, "-m", "venv", folder)
            limits = ["-c", str(pins)] if pins else []
            extras = ",".join(sorted({own_requirements(chapter)[0] for chapter in find_chapters()} - {""}))
            command(own, "-m", "pip", "install", "-q", f"{wheel}[{extras}]", *RUNNER, *limits)
            stamp.write_text(key)
        else:
            command(own, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel)
    return own


def readers_environment(folder: Path) -> dict[str, str]:
    """Return the variables of a kernel there: those of every stored run, its own cache, nothing of the repository."""
    environment = kernel_environment()
    environment["PYTHONPATH"] = str(ROOT / "tools" / "offline")
    environment["LLMBOOK_CACHE"] = str(folder / "cache")
    environment.pop("VIRTUAL_ENV", None)
    return environment


def versions_of(python: Path) -> dict[str, str]:
    """Return the versions of Python and of what the chapters compute with, in an environment."""
    program = (
        "import importlib.metadata as m, json, platform, sys; "
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    return json.loads(command(python, "-c", program, *RECORDED))


# --- one chapter ----------------------------------------------------------------------------------------------------


def shown(cell: nbformat.NotebookNode) -> set[str]:
    """Return the kinds of outputs that a cell shows on the page: ``stream``, ``image/png``, ``text/html`` ..."""
    kinds: set[str] = set()
    for output in map(normal_output, cell.outputs):
        if output is not None and output.output_type == "stream" and output.name == "stdout":
            kinds.add("stream")
        elif output is not None and "data" in output:
            kinds |= set(output.data) - {"text/plain"} or {"text/plain"}
    return kinds


def differences(stored: nbformat.NotebookNode, found: nbformat.NotebookNode) -> list[str]:
    """Return what a run lacks beside the stored page: cells that raised, and cells that show less."""
    problems = []
    for number, (page, here) in enumerate(zip(code_cells(stored), code_cells(found), strict=True), 1):
        raised = [output for output in here.outputs if output.output_type == "error"]
        expected = any(output.output_type == "error" for output in page.outputs)
        if raised and not expected:
            problems.append(f"cell {number}: {raised[0].ename}: {first_line(raised[0].evalue)}")
        elif missing := shown(page) - shown(here):
            problems.append(f"cell {number} shows no {', '.join(sorted(missing))}")
    return problems


def brought(wanted: Iterable[str]) -> set[str]:
    """Return the names of requirements and of all that the installed ones require in turn."""
    todo = [Requirement(line) for line in wanted]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        entry = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        extras = {"", *requirement.extras}
        if entry in seen:
            continue
        seen.add(entry)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the graders are not installed
            further = map(Requirement, importlib.metadata.requires(requirement.name) or [])
            todo += [
                one for one in further if not one.marker or any(one.marker.evaluate({"extra": name}) for name in extras)
            ]
    return {name for name, _ in seen}


def hidden_from(chapter: Chapter) -> list[str]:
    """Return the modules that other chapters' set-up cells install, and neither this one's nor Colab."""
    has = brought([*COLAB_HAS, *own_requirements(chapter)[1]])
    others = {module for other in find_chapters() for module in own_modules(other)}
    return sorted(module for module in others if canonicalize_name(module) not in has)


def run_alone(chapter: Chapter, kernels: Path, environment: dict[str, str], hidden: Iterable[str]) -> dict[str, Any]:
    """Execute a chapter's notebook by itself in an empty folder, without the hidden modules; return what came of it."""
    stored = read_notebook(chapter)
    notebook = nbformat.from_dict(stored)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, kernel_name=KERNEL, timeout=CELL_TIMEOUT, allow_errors=True, coalesce_streams=True,
            store_widget_state=False, resources={"metadata": {"path": folder}},
        )  # fmt: skip
        client.create_kernel_manager().kernel_spec_manager.kernel_dirs = [str(kernels)]
        try:
            client.execute(env=environment | {"LLMBOOK_HIDDEN": ",".join(hidden)}, stderr=subprocess.DEVNULL)
            problems = differences(stored, notebook)
        except (CellTimeoutError, DeadKernelError) as error:
            problems = [f"{type(error).__name__}: {str(error).splitlines()[0]}"]
    return {"seconds": round(time.monotonic() - begin), "problems": problems}


def write_kernel(folder: Path, python: Path) -> None:
    """Write the kernel specification of an environment."""
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / KERNEL).mkdir(parents=True)
    text = json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})
    (folder / KERNEL / "kernel.json").write_text(text, encoding="utf-8")


# --- what a set-up cell fetches ---------------------------------------------------------------------------------------


def size_on_index(name: str) -> int:
    """Return the bytes of the newest version's file that pip takes on Linux with Python 3.12."""
    with urlopen(f"https://pypi.org/pypi/{name}/json", timeout=60) as answer:
        files = {file["filename"]: file["size"] for file in json.load(answer)["urls"]}
    for kind in (r"none-any\.whl", r"(cp312|abi3)-manylinux.*x86_64\.whl", r"tar\.gz|zip"):
        if sizes := [size for file, size in files.items() if re.search(kind + "$", file)]:
            return sizes[0]
    raise Problem(f"{name}: the index has no file for Linux")


def count_downloads() -> None:
    """Write what each set-up cell fetches in Colab, in megabytes, into a committed file and into the cells."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    common, there = pyproject["project"]["dependencies"], brought(COLAB_HAS)
    archive = subprocess.run(["git", "archive", "--format=tar.gz", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    chapters = find_chapters()
    fetched = {chapter.name: brought([*common, *own_requirements(chapter)[1]]) - there for chapter in chapters}
    size = {name: size_on_index(name) for name in sorted(set().union(*fetched.values()))}
    megabytes = {
        name: round((len(archive.stdout) + sum(size[one] for one in names)) / MEGABYTE)
        for name, names in fetched.items()
    }
    write_whole(downloads_file(ROOT), json.dumps(megabytes, indent=1) + "\n")
    for chapter in chapters:  # `make notebooks` brings the notebooks in step
        old = next(cell.source for cell in code_cells(read_manuscript(chapter)) if SETUP_TAG in tags(cell))
        text = chapter.manuscript.read_text(encoding="utf-8")
        write_whole(chapter.manuscript, text.replace(old, set_up_source(chapter), 1))


# --- all of them ----------------------------------------------------------------------------------------------------


def keep(libraries: str, chapters: dict[str, dict[str, Any]], versions: dict[str, str], root: Path = ROOT) -> None:
    """Put the outcome of some chapters into the committed file; those of other versions leave it."""
    path = environments_file(root)
    with folder_lock(path.parent):
        record = read_environments(root)
        old = record.get(libraries, {})
        known = old.get("chapters", {}) if old.get("versions") == versions else {}
        record[libraries] = {"versions": versions, "chapters": dict(sorted((known | chapters).items()))}
        write_whole(path, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def run(libraries: str, python: str, name: str) -> list[str]:
    """Run all chapters, or the named one, in one environment; return the problems, one line each."""
    if libraries not in LIBRARIES:
        raise Problem(f"LIBRARIES={libraries}: there are {', '.join(LIBRARIES)}")
    chapters = select_chapters(find_chapters(), name) if name else find_chapters()
    folder = ROOT / "_build" / "colab" / libraries
    own = make_environment(folder, choose_python(python), LIBRARIES[libraries])
    environment = readers_environment(folder)
    print("building the corpora", flush=True)
    command(own, "-c", BUILD, environment=environment | {"PYTHONPATH": ""})
    versions = versions_of(own)
    print(", ".join(f"{package} {version}" for package, version in versions.items()), flush=True)
    found: list[str] = []
    with tempfile.TemporaryDirectory() as kernels, ThreadPoolExecutor(WORKERS) as pool:
        write_kernel(Path(kernels), own)

        def one(chapter: Chapter) -> None:
            outcome = run_alone(chapter, Path(kernels), environment, hidden_from(chapter))
            keep(libraries, {chapter.name: outcome | {"date": date.today().isoformat()}}, versions)
            print(f"{chapter.name}: {outcome['seconds']} s, {len(outcome['problems'])} problems", flush=True)
            found.extend(f"{chapter.name}, {problem}" for problem in outcome["problems"])

        list(pool.map(one, chapters))
    return found


def main() -> int:
    """Parse the command line of `make colab`."""
    parser = argparse.ArgumentParser(description="Run the chapters with the installed package alone.")
    parser.add_argument("chapter", nargs="?", default="", help="a chapter, such as 03-attention; all without it")
    parser.add_argument("--libraries", default="newest", help="newest (of the ranges), or colab (Colab's pins)")
    parser.add_argument("--python", default="", help="the interpreter; python3.12 if found")
    parser.add_argument("--downloads", action="store_true", help="count what the set-up cells fetch, and nothing else")
    arguments = parser.parse_args()
    try:
        if arguments.downloads:
            count_downloads()
            return 0
        return report(run(arguments.libraries or "newest", arguments.python, arguments.chapter))
    except Problem as problem:
        return report([str(problem)])


if __name__ == "__main__":
    sys.exit(main())
