"""What the benchmarks share: a chapter's own code as a module, and records: where they come from, when they are stale.

A record of a chapter's cells names the chapter and carries ``engine_sha256``, the hash of those cells when it was made.
A record whose hash is not today's is *stale*: the benchmark runs again, or ``--confirm`` shows for some of its runs
that today's cells give the same numbers: the recorded ones or, since another processor rounds otherwise and a training
enlarges that, those of the recorded cells on this machine.
"""

import argparse
import ast
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jupytext
import torch
from datasets import disable_progress_bars

from llmbook import runtime
from llmbook.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book" / "en"
LIBRARIES = ("torch", "numpy", "triton")
#: Fields of a run that another run of the same code does not repeat: times and memory.
COSTS = ("seconds", "rise")
#: How far a number of a confirming run may be from the other one, relative to it (absolutely, if it is below 1).
#: Rounding within a library may differ so much; another seed, rate or text makes more.
TOLERANCE = 1e-4


class Cell(NamedTuple):
    """A code cell of a manuscript: its source, the line of the manuscript on which it begins, and its tags."""

    source: str
    line: int
    tags: Sequence[str]

    def tree(self) -> ast.Module:
        """Return the cell's syntax tree, with the manuscript's line numbers.

        Raises:
            SyntaxError: it is not plain Python, as a cell with a magic command.
        """
        return ast.increment_lineno(ast.parse(self.source), self.line - 1)  # type: ignore[no-any-return]


def code_cells(name: str, text: str | None = None) -> list[Cell]:
    """Return the code cells of a chapter, such as ``13-what-to-update``, but for the set-up cell."""
    text = (BOOK / f"{name}.md").read_text(encoding="utf-8") if text is None else text
    place, found = 0, []
    for cell in jupytext.reads(text, fmt="md:myst").cells:
        if cell.cell_type == "code":
            place = text.index(cell.source, text.index("```{code-cell}", place))
            found.append(Cell(cell.source, 1 + text.count("\n", 0, place), cell.metadata.get("tags", ())))
    return [cell for cell in found if "setup" not in cell.tags]


def engine_sha256(name: str, text: str | None = None) -> str:
    """Return the hash of a chapter's cells tagged `engine`, as they are today or in another text of its manuscript."""
    sources = [cell.source for cell in code_cells(name, text) if "engine" in cell.tags]
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()


def chapter(name: str, **given: Any) -> ModuleType:
    """Return a chapter's experiment as a module: what its cells tagged `engine` define, with the chapter's own imports.

    Nothing is defined twice: a recorded run is the page's own code. Of the import statements, which may stand in any
    cell, those are run whose name an engine cell uses; so what only draws or compares is not even loaded. Tracebacks
    name file and line of the manuscript. The module is in ``sys.modules``, so that its classes can be pickled.

    Args:
        name: the manuscript without its ending, such as ``13-what-to-update``.
        given: names that the engine cells take from other cells, such as ``rt``.
    """
    path, cells = BOOK / f"{name}.md", code_cells(name)
    engine = [cell.tree() for cell in cells if "engine" in cell.tags]
    used = {node.id for tree in engine for node in ast.walk(tree) if isinstance(node, ast.Name)}
    module = ModuleType(f"chapter_{name.replace('-', '_')}", f"The cells of {path.name} that are tagged `engine`.")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    vars(module).update(given)
    for tree in [*imports(cells, used), *engine]:
        exec(compile(tree, path, "exec", dont_inherit=True), vars(module))  # our own manuscript
    return module


def imports(cells: Iterable[Cell], used: set[str]) -> Iterator[ast.Module]:
    """Yield the import statements on the top level of cells, each with only the names that are used."""
    for cell in cells:
        try:
            body = cell.tree().body
        except SyntaxError:  # a magic command: only a notebook runs it
            continue
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                node.names = [name for name in node.names if (name.asname or name.name.split(".")[0]) in used]
                if node.names:
                    yield ast.Module([node], [])


def engine_of(module: ModuleType) -> dict[str, str]:
    """Return what a record says of its chapter: name and ``engine_sha256``."""
    name = Path(str(module.__file__)).stem
    return {"chapter": name, "engine_sha256": engine_sha256(name)}


def origin() -> dict[str, Any]:
    """Return command, date, commit, machine and versions; call it at the start, since the repository may move on."""
    commit = git("rev-parse", "HEAD")
    machine = f"{os.cpu_count()} shared {platform.machine()} cores"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": machine,
        "versions": versions,
    }


def stale(path: Path) -> str:
    """Return what is wrong with a file's record of a chapter's cells, and what to do; nothing if it is of today's."""
    record = json.loads(path.read_text(encoding="utf-8"))
    name, made_by = record.get("chapter"), record.get("engine_sha256")
    if name is None or made_by == (today := engine_sha256(name)):
        return ""
    script = next((ROOT / "benchmarks").glob(f"ch{name[:2]}_*.py")).relative_to(ROOT)
    return (
        f"{path.name} was recorded with other cells than {name} has today (engine_sha256 {str(made_by)[:8]}, today "
        f"{today[:8]}). Make the runs again: python {script}. If the cells still compute the same, confirm it: "
        f"python {script} --confirm"
    )


def commit_with(name: str, sha256: str, most: int = 300) -> str:
    """Return the newest of the latest commits whose engine cells have a hash, and whose scripts can show a run."""
    seen: dict[str, bool] = {}
    for commit in git("rev-list", f"--max-count={most}", "HEAD").split():
        blob = git("rev-parse", f"{commit}:book/en/{name}.md")
        if blob not in seen:
            seen[blob] = engine_sha256(name, git("cat-file", "-p", blob)) == sha256
        if seen[blob] and "--show" in git("cat-file", "-p", f"{commit}:benchmarks/recording.py"):
            return commit
    return ""


def git(*words: str) -> str:
    """Return what a git command prints; nothing if it fails."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.removesuffix("\n")


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record in one go and say where it is."""
    write_whole(path, json.dumps(record, indent=1) + "\n")
    print(path)


class Job:
    """Runs that are made together, mostly one: what names each of them, and what makes the rest of it."""

    def __init__(self, make: Callable[[], Any], *keys: dict[str, Any], where: tuple[str, ...] = ("runs",)) -> None:
        """Describe a job.

        Args:
            make: returns the other fields of the run, or a list of them, one for each key.
            keys: fields that name each run among those of its list.
            where: the list's place in the record.
        """
        self.make, self.where = make, where
        self.keys: list[dict[str, Any]] = json.loads(json.dumps(keys))  # as they are read from the file

    def __str__(self) -> str:
        """Return the values of the first key, such as ``methods LoRA 0``."""
        values = [part for value in self.keys[0].values() for part in (value if isinstance(value, list) else [value])]
        return " ".join(map(str, values))

    def found(self, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return those of the runs that this job makes, in its order."""
        return [run for key in self.keys for run in runs if key.items() <= run.items()]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the command line with the options that :class:`Runs` knows."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this time")
    made.add_argument(
        "--confirm", nargs="*", metavar="RUN",
        help="make some recorded runs again, by default cheap ones; if their numbers are the recorded ones, the record "
        "is of today's cells. A run is named by what is printed at its beginning, such as 'methods LoRA 0'",
    )  # fmt: skip
    made.add_argument("--show", metavar="RUN", help="make one recorded run again, print it as JSON, and write nothing")
    return made


class Runs:
    """The runs of a chapter's cells in a record: those are made that the file lacks, and it is written after each.

    The file is read anew each time, so that two commands with different runs can work on it. Runs of other cells than
    today's do not count.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        arguments: argparse.Namespace,
        confirm_by: Sequence[str],
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Open the chapter.

        Args:
            path: the record's file.
            name: the chapter, as for :func:`chapter`.
            arguments: what a :func:`parser` read.
            confirm_by: the runs that ``--confirm`` makes unless it names others.
            settings: what all runs of the file have in common; a file with others is refused.
        """
        self.path, self.arguments, self.confirm_by = path, arguments, confirm_by
        self.end = time.monotonic() + 60 * arguments.minutes
        #: What the record says besides its runs; scripts add to it.
        self.about = origin()
        disable_progress_bars()
        self.rt = runtime.setup()
        self.chapter = chapter(name, rt=self.rt)
        self.engine = engine_of(self.chapter)
        self.settings = settings or {}
        self.about |= {"device": str(self.rt), **self.settings}

    @property
    def confirming(self) -> bool:
        """Whether recorded runs are made again, and none are added."""
        return self.arguments.confirm is not None or self.arguments.show is not None

    def read(self) -> dict[str, Any]:
        """Return the file's record; an empty one where there is none, or where other cells made it.

        Raises:
            SystemExit: its runs have other settings or data.
        """
        record: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        if not self.confirming and record.get("engine_sha256") != self.engine["engine_sha256"]:
            return {}
        for field in (*self.settings, "data"):
            if field in record and field in self.about and record[field] != self.about[field]:
                raise SystemExit(
                    f"{self.path} holds runs with {field} {record[field]}, these would have {self.about[field]}: "
                    "give the same, or delete the file"
                )
        return record

    def rows(self, *where: str) -> list[dict[str, Any]]:
        """Return the runs of one of the record's lists, by default ``runs``."""
        found: Any = self.read()
        for name in where or ("runs",):
            found = found.get(name, {})
        return found or []

    def has(self, job: Job) -> bool:
        """Whether the record has all runs of a job."""
        return len(job.found(self.rows(*job.where))) >= len(job.keys)

    def drop(self, unwanted: Callable[[dict[str, Any]], bool]) -> None:
        """Take runs out of the list ``runs``, to be made anew."""
        record = self.read()
        kept = [run for run in record.get("runs", []) if not unwanted(run)]
        if not self.confirming and len(kept) < len(record.get("runs", [])):
            write(self.path, record | {"runs": kept})

    def go(self, jobs: Iterable[Job]) -> None:
        """Make the runs that are missing until the time is over, or confirm recorded ones.

        Args:
            jobs: read one after the other, so that one may depend on the runs of those before it.

        Raises:
            SystemExit: a run that was to be confirmed is unknown, or does not give the recorded numbers.
        """
        if self.arguments.show is not None:
            print(json.dumps(self.make(self.recorded(jobs, [self.arguments.show])[0])))
            return
        if self.arguments.confirm is not None:
            self.confirm(jobs)
            return
        if self.path.exists() and (problem := stale(self.path)):
            print(f"{problem}. Its runs go with the first new one.", flush=True)
        for job in jobs:
            if self.has(job):
                continue
            if time.monotonic() > self.end:
                print("the time is over: the same command goes on from here")
                return
            self.add(job, self.make(job))
        print("nothing left to do")

    def make(self, job: Job) -> list[dict[str, Any]]:
        """Make the runs of a job; processor time counts for the last of them unless it says its own."""
        start = time.process_time()
        results = job.make()
        results = results if isinstance(results, list) else [results]
        rows = [key | result for key, result in zip(job.keys, results, strict=True)]
        rows[-1].setdefault("seconds", time.process_time() - start)
        for row in rows:
            print(*(f"{v:.4g}" if isinstance(v, float) else v for v in row.values() if is_short(v)), flush=True)
        return json.loads(json.dumps(rows))  # type: ignore[no-any-return]

    def add(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """Write runs to the file, beside those that it has."""
        kept = self.read()
        commands = kept.get("commands", [])
        record = kept | self.about | self.engine
        record["commands"] = [*commands, *({self.about["command"]} - set(commands))]
        runs: Any = record
        for name in job.where[:-1]:
            runs = runs.setdefault(name, {})
        runs.setdefault(job.where[-1], []).extend(rows)
        write_whole(self.path, json.dumps(record, indent=1) + "\n")

    def recorded(self, jobs: Iterable[Job], names: Sequence[str]) -> list[Job]:
        """Return the jobs of some names whose runs the record has.

        Raises:
            SystemExit: there is no such run.
        """
        found = {str(job): job for job in jobs if self.has(job)}
        if unknown := [name for name in names if name not in found]:
            raise SystemExit(f"{self.path.name} has no run {unknown[0]!r}; it has {', '.join(found)}")
        return [found[name] for name in names]

    def confirm(self, jobs: Iterable[Job]) -> None:
        """Make recorded runs again; if all numbers are the same, the record is of today's cells, and says why.

        Raises:
            SystemExit: a run is unknown, or a number differs by more than TOLERANCE, both from the recorded one and
                from that of the recorded cells on this machine; nothing is written.
        """
        record = self.read()
        before, today = record.get("engine_sha256"), self.engine["engine_sha256"]
        if before == today:
            print(f"{self.path.name} is of today's cells: there is nothing to confirm")
            return
        entries = []
        for job in self.recorded(jobs, self.arguments.confirm or self.confirm_by):
            was, made = job.found(self.rows(*job.where)), self.make(job)
            against, worst = "the record", difference(was, made)
            if worst > TOLERANCE and (commit := commit_with(self.engine["chapter"], str(before))):
                print(f"{job}: {worst:.3g} from the record; now with the cells of commit {commit[:7]}", flush=True)
                products = str(self.rt.fast_dtype).removeprefix("torch.")
                against = (
                    f"the recorded cells on the same machine (commit {commit[:7]}), products in {products} in both"
                )
                was = self.earlier(job, commit)
                worst = difference(was, made)
            if worst > TOLERANCE:
                print(f"{job} is not the same again (largest difference {worst:.3g}, allowed {TOLERANCE}):")
                print(against, json.dumps(was), "today's cells", json.dumps(made), sep="\n")
                raise SystemExit(1)
            print(f"{job}: the same as {against} (largest difference {worst:.3g})", flush=True)
            entries.append({"run": str(job), "compared with": against, "largest difference": worst})
        facts = {field: self.about[field] for field in ("date", "commit", "command", "versions")}
        change = {"from": before, "to": today}
        confirmed = [*record.get("confirmed", []), *(facts | change | entry for entry in entries)]
        write(self.path, record | self.engine | {"confirmed": confirmed})

    def earlier(self, job: Job, commit: str) -> list[dict[str, Any]]:
        """Return the runs of a job as a commit makes them, cells and package, in a process of its own.

        Raises:
            SystemExit: the commit's benchmark cannot make them.
        """
        words, options = sys.argv[1:], ["--show", str(job)]
        start = words.index("--confirm")
        rest = next((i for i in range(start + 1, len(words)) if words[i].startswith("-")), len(words))
        with tempfile.TemporaryDirectory(prefix="llmbook-confirm-") as name:
            folder = Path(name)
            parts = ("llmbook", "benchmarks", "book/en")
            packed = subprocess.run(
                ["git", "archive", commit, *parts], cwd=ROOT, capture_output=True, check=True
            ).stdout
            subprocess.run(["tar", "-x"], cwd=folder, input=packed, check=True)
            manuscript = folder / "book" / "en" / f"{self.engine['chapter']}.md"
            text = manuscript.read_text(encoding="utf-8").replace("torch.bfloat16", str(self.rt.fast_dtype))
            manuscript.write_text(text, encoding="utf-8")  # cells that do not ask what the machine is fast in
            script = folder / "benchmarks" / Path(sys.argv[0]).name
            ran = subprocess.run(
                [sys.executable, str(script), *words[:start], *words[rest:], *options],
                cwd=folder, env=os.environ | {"PYTHONPATH": name}, capture_output=True, text=True,
            )  # fmt: skip
        if ran.returncode != 0:
            raise SystemExit(f"commit {commit[:7]} cannot make {job} again:\n{ran.stderr[-2000:]}")
        return json.loads(ran.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def is_short(value: Any) -> bool:
    """Whether a value of a run fits on its printed line."""
    return len(str(value)) <= 60


def difference(recorded: Any, made: Any) -> float:
    """Return the largest difference of two runs' numbers, relative to the recorded one if that is above 1.

    What is not a number has to be equal, else the difference is infinite. Times and memory (COSTS) are left out; what
    the record has, the new run has to have.
    """
    if isinstance(recorded, dict) and isinstance(made, dict):
        names = [name for name in recorded if name not in COSTS]
        return max((difference(recorded[name], made.get(name)) for name in names), default=0.0)
    if isinstance(recorded, list) and isinstance(made, list) and len(recorded) == len(made):
        return max((difference(a, b) for a, b in zip(recorded, made, strict=True)), default=0.0)
    if isinstance(recorded, int | float) and isinstance(made, int | float):
        return abs(recorded - made) / max(1.0, abs(recorded))
    return 0.0 if recorded == made else math.inf
