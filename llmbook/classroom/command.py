"""``llmbook grade``: grades a folder of submissions, and can be interrupted and repeated."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from llmbook.classroom import feedback, gradebook, grading, sandbox, source, submissions
from llmbook.classroom.desk import Desk, standing
from llmbook.files import write_whole

SUMMARY = "grade a class's notebooks in a sandbox"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("submissions", type=Path, help="a folder or a zip archive, as Moodle or Canvas export it")
    which = "path of a source, NN-name.md; in a clone of the book's repository the number or the name does, as 03"
    parser.add_argument("--assignment", required=True, metavar="SOURCE", help=which)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results go (default: graded/NN-name)")
    parser.add_argument("--workers", type=int, metavar="N", help="notebooks at a time (default: one for each core)")
    parser.add_argument("--seed", type=int, help="draws the hidden cases (default: a new secret one for each run)")
    limits = sandbox.Limits()
    each = "for one notebook (default: %(default)g)"
    parser.add_argument("--seconds", type=float, default=limits.seconds, metavar="S", help=each)
    parser.add_argument("--memory", type=int, default=limits.memory, metavar="MIB", help=each)
    listed = "the students' names, where files are called after ids: a CSV file with the columns student, name"
    parser.add_argument("--names", type=Path, metavar="CSV", help=listed)
    other = "accept notebooks made from another version of the source"
    parser.add_argument("--any-version", action="store_true", help=other)
    unprotected = "run the code unprotected: for notebooks that you wrote yourself"
    parser.add_argument("--unsafe-no-sandbox", action="store_true", help=unprotected)


def run(arguments: argparse.Namespace) -> int:
    """Grade, write ``grades.csv``, feedback and gradebook, and print what needs a person."""
    path = Path(arguments.assignment)
    path = path if path.suffix == ".md" else source.find_assignment(arguments.assignment)
    assignment = source.read(path)
    out = arguments.out or Path("graded") / assignment.name
    given = arguments.submissions.resolve()
    if out.resolve().is_relative_to(given):
        raise ValueError(f"the results would lie among the submissions: choose another --out than {out}")
    if (arguments.workers is not None and arguments.workers < 1) or arguments.seconds <= 0 or arguments.memory < 256:
        raise ValueError("--workers is at least 1, --seconds more than 0, --memory at least 256")
    if not arguments.unsafe_no_sandbox:
        sandbox.require((given, out, path))
    else:
        print("grading WITHOUT a sandbox: the code can read and change everything that you can", file=sys.stderr)
    desk = Desk(out, assignment)
    try:
        with FileLock(out / ".lock", timeout=0):
            return _run(arguments, assignment, desk)
    except Timeout:
        raise ValueError(f"another `llmbook grade` is at work in {out}: wait for it, or choose another --out") from None


def _workers(memory: int) -> int:
    """Return how many notebooks run at a time: one a core, and no more than fit into memory at their limits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024
    except (OSError, StopIteration):
        return cores
    return max(1, min(cores, free // memory))


def _run(arguments: argparse.Namespace, assignment: source.Assignment, desk: Desk) -> int:
    settings = grading.GradingSettings(
        seed=desk.seed(arguments.seed),
        limits=sandbox.Limits(arguments.seconds, arguments.seconds / 4, arguments.memory),
        unsafe=arguments.unsafe_no_sandbox,
        any_version=arguments.any_version,
    )
    found = submissions.find_submissions(arguments.submissions)
    if arguments.names:
        found = submissions.named(found, arguments.names)
    records, pending, changed = standing(desk, found, settings)
    if records:
        print(f"{len(records)} of {len(found)} submissions were graded before")
    book = desk.folder / "gradebook.db"
    waiting = [grading.StudentRecord(s.student, s.name, s.label, "pending", "not graded yet") for s in pending]
    # earlier marks go before anything can stop this run
    for submission in pending:
        desk.forget(submission.student)
    _publish(desk, [*records.values(), *waiting], found)
    known = gradebook.available()
    if known and book.exists():
        gradebook.update(book, assignment, waiting, [submission.student for submission in changed])
    try:
        with tqdm(total=len(pending), unit="notebook", desc=assignment.name, file=sys.stderr) as bar:

            def done(record: grading.StudentRecord) -> None:
                records[record.student] = record
                if record.status != "pending":
                    desk.store(record)
                    write_whole(desk.feedback(record.student), feedback.feedback_page(record, assignment))
                bar.update()

            workers = arguments.workers or _workers(arguments.memory)
            grading.grade_all(pending, assignment, settings, workers, done)
    except KeyboardInterrupt:
        print("interrupted: give the same command again to grade the rest", file=sys.stderr)
        return 130
    finally:
        everything = {record.student: record for record in waiting} | records
        _publish(desk, list(everything.values()), found)
        if known:
            gradebook.update(book, assignment, list(everything.values()))
    _report(desk, list(records.values()))
    if not known:
        print(gradebook.MISSING, file=sys.stderr)
    return 0


def _publish(desk: Desk, records: Sequence[grading.StudentRecord], found: Sequence[submissions.Submission]) -> None:
    order = {submission.student: place for place, submission in enumerate(found)}
    desk.write_grades(sorted(records, key=lambda record: order[record.student]))


def _report(desk: Desk, records: Sequence[grading.StudentRecord]) -> None:
    """Print counts, the failed submissions with their reasons, and where everything is."""
    count = Counter(record.status for record in records)
    print(f"{count['graded']} graded, {count['failed']} failed")
    for record in sorted(records, key=lambda record: record.student):
        if record.status == "failed":
            print(f"  {feedback.plain(record.student)}: {feedback.plain(record.reason)}")
    print(desk.folder / "grades.csv")
