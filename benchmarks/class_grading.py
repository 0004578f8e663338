"""How fast a class is graded: `llmbook grade` on 200 notebooks, and plain `nbgrader autograde` on the first twenty.

The class works on one assignment: most notebooks are solved, some are wrong in one question, untouched, or end in a
loop. Both graders get the same files; nbgrader runs them one after the other, as it does, and unprotected. Marks on
which the two differ end the run. `llmbook/results/grading.json`, with the machine's load, which slows both.

    python benchmarks/class_grading.py                          # 200 notebooks of assignment 03, two at a time
    python benchmarks/class_grading.py --students 20 --beside 5
"""

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmbook import results
from llmbook.classroom import build, source
from llmbook.classroom.sandbox import usage
from recording import ROOT, origin, write

sys.path.insert(0, str(ROOT / "tools"))

import classroom
from bubblewrap import as_user

LOOP = "def {name}(*_, **__):\n    while True:\n        pass"
EVERY = 40  # one notebook in so many ends in a loop


def notebook(assignment: source.Assignment, number: int) -> Any:
    """Return the notebook of one student: what it is like depends on the number."""
    answers = {identity: f"{code}\n# {number}" for identity, code in build.solutions(assignment).items()}
    question = assignment.questions[number % len(assignment.questions)]
    if number % 4 == 1:
        answers[question.id] = question.wrong[number % len(question.wrong)][1]
    if number % 10 == 3:
        answers = {}
    if number % EVERY == EVERY - 1:
        answers[question.id] = LOOP.format(name=question.name)
    return build.student_notebook(assignment, answers, student(number))


def student(number: int) -> str:
    """Return a student's name."""
    return f"Student {chr(97 + number // 26)}{chr(97 + number % 26)}"


def measured(command: Sequence[str], folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run a command; return its seconds, and the most memory of all its processes together."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            peak[0] = max(peak[0], usage(process.pid)[1])

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    over.set()
    thread.join()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{output[-3000:]}")
    return {"seconds": round(time.monotonic() - started, 1), "peak_mib": round(peak[0] / 2**20)}


def ours(assignment: source.Assignment, path: Path, base: Path, count: int, workers: int) -> dict[str, Any]:
    """Grade the class with `llmbook grade`, as an ordinary user."""
    out = base / f"out-{count}"
    out.mkdir()
    out.chmod(0o777)
    place = base / f"class-{count}"
    for number in range(count):
        folder = place / f"{student(number)}_{1000 + number}_assignsubmission_file_"
        build.write_notebook(notebook(assignment, number), folder / f"{assignment.name}.ipynb")
    words = [str(place), "--assignment", str(path), "--out", str(out), "--workers", str(workers), "--seed", "1"]
    command = as_user(sys.executable, "-m", "llmbook", "grade", *words, needs=(base,))
    result: dict[str, Any] = measured(command, Path("/"), classroom.environment())
    rows = list(csv.DictReader(io.StringIO((out / "grades.csv").read_text())))
    result["marks"] = {row["name"]: row["score"] for row in rows}
    result["failed"] = sum(row["status"] == "failed" for row in rows)
    return rate(result, count)


def theirs(assignment: source.Assignment, base: Path, count: int) -> dict[str, Any]:
    """Grade the first notebooks with plain `nbgrader autograde`."""
    course, environment = base / "course", classroom.environment()
    build.write_nbgrader(assignment, course)
    config = course / "nbgrader_config.py"
    # what `llmbook grade` allows one question, and go on after it
    extra = "\nc.ExecutePreprocessor.timeout = 30\nc.ExecutePreprocessor.interrupt_on_timeout = True\n"
    config.write_text(config.read_text() + extra)
    run = [sys.executable, "-m", "nbgrader"]
    measured([*run, "generate_assignment", assignment.name, "--create"], course, environment)
    for number in range(count):
        folder = course / "submitted" / f"s{number}" / assignment.name
        build.write_notebook(notebook(assignment, number), folder / f"{assignment.name}.ipynb")
    result: dict[str, Any] = measured([*run, "autograde", assignment.name, "--create"], course, environment)
    measured([*run, "export", "--to", "grades.csv"], course, environment)
    rows = csv.DictReader(io.StringIO((course / "grades.csv").read_text()))
    result["marks"] = {student(int(row["student_id"][1:])): row["score"] for row in rows}
    return rate(result, count)


def rate(result: dict[str, Any], count: int) -> dict[str, Any]:
    """Add submissions per minute."""
    result["submissions"] = count
    result["per_minute"] = round(60 * count / result["seconds"], 1)
    return result


def main() -> None:
    """Grade, compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assignment", default="03", help="number (default: %(default)s)")
    parser.add_argument("--students", type=int, default=200, help="the class (default: %(default)s)")
    parser.add_argument("--beside", type=int, default=20, help="of them for nbgrader (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="notebooks at a time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "grading.json", help="default: %(default)s")
    options = parser.parse_args()
    record = origin()
    path = source.find_assignment(options.assignment)
    assignment = source.read(path)
    with tempfile.TemporaryDirectory(prefix="llmbook-benchmark-") as name:
        base = Path(name)
        base.chmod(0o777)
        whole = ours(assignment, path, base, options.students, options.workers)
        part = ours(assignment, path, base, options.beside, options.workers)
        rival = theirs(assignment, base, options.beside)
    for who, mark in part.pop("marks").items():
        if float(mark or 0) != float(rival["marks"][who]):
            raise SystemExit(f"{who}: {mark} points here, {rival['marks'][who]} with nbgrader")
    del whole["marks"], rival["marks"]
    record |= {"assignment": assignment.name, "version": assignment.version, "workers": options.workers}
    record |= {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}
    record["versions"]["nbgrader"] = nbgrader_version()
    record |= {"class": whole, "same_twenty": part, "nbgrader": rival}
    for title, result in (("llmbook grade", whole), ("llmbook grade", part), ("nbgrader autograde", rival)):
        print(f"{title:20}{result['submissions']:4} submissions{result['per_minute']:8.1f} per minute")
    write(options.out, record)


def nbgrader_version() -> str:
    """Return the version of nbgrader in the overlay."""
    sys.path.append(str(classroom.overlay()))
    return version("nbgrader")


if __name__ == "__main__":
    main()
