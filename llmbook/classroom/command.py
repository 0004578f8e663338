"""``llmbook grade``: grades a folder of submissions, and can be interrupted and repeated."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from llmbook.classroom import feedback, gradebook, grading, sandbox, source, submissions
from llmbook.classroom.desk import Desk, standing
from llmbook.files import write_whole

SUMMARY = "grade a class's notebooks in a sandbox"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("submissions", type=Path, help="a folder or a zip archive, as your platform exports it")
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
    who = "who named the files (default: whoever named most of them): %(choices)s"
    parser.add_argument("--platform", choices=submissions.PLATFORMS, help=who)
    out = "questions that do not count, as q4,q6; kept for later runs; another list replaces this one, `none` ends it"
    parser.add_argument("--withdraw", metavar="QUESTIONS", help=out)
    anew = "grade these students again (ids, as in grades.csv), whatever is known of them"
    parser.add_argument("--regrade", nargs="+", default=[], metavar="ID", help=anew)
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
    desk.assignment = assignment = source.withdraw(assignment, _withdrawn(arguments.withdraw, desk))
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
    if arguments.withdraw is not None:
        desk.note(withdrawn=list(_withdrawn(arguments.withdraw, desk)))
    if assignment.withdrawn:
        print(f"withdrawn, and worth nothing: {', '.join(assignment.withdrawn)}")
    found = _found(arguments, assignment, desk)
    book = desk.folder / "gradebook.db"
    known = gradebook.available()
    for words in desk.collect(gradebook.manual_marks(book, assignment) if known and book.exists() else {}):
        print(f"  {feedback.plain(words)}")
    before = desk.load_all()
    records, pending, changed = standing(desk, found, settings, arguments.regrade)
    if records:
        print(f"{len(records)} of {len(found)} submissions were graded before")
    if strangers := desk.strangers([submission.student for submission in found]):
        listed = feedback.plain(", ".join(strangers[:10])) + (", ..." if len(strangers) > 10 else "")
        print(
            f"{len(strangers)} lines of grades.csv belong to no known student and stay as they are: {listed} (a "
            "spreadsheet may have changed an id, as 00123 into 123)"
        )
    if elsewhere := sorted(set(before) - {submission.student for submission in found}):
        print(f"{len(elsewhere)} students are not in {arguments.submissions}: their lines stay as they are")
    waiting = [grading.StudentRecord(s.student, s.name, s.label, "pending", "not graded yet") for s in pending]
    # earlier marks go before anything can stop this run
    another = {submission.student for submission in changed}
    for record in waiting:
        if taken := desk.forget(record, record.student in another):
            print(f"  {feedback.plain(taken)}")
    everything = {student: before[student] for student in elsewhere} | {record.student: record for record in waiting}
    _publish(desk, everything | records)
    if known and book.exists():
        gradebook.update(book, assignment, waiting, by_hand=desk.by_hand)
    try:
        with tqdm(total=len(pending), unit="notebook", desc=assignment.name, file=sys.stderr) as bar:

            def done(record: grading.StudentRecord) -> None:
                records[record.student] = record
                if record.status != "pending":
                    desk.store(record)
                    _give_feedback(desk, record)
                bar.update()

            workers = arguments.workers or _workers(arguments.memory)
            grading.grade_all(pending, assignment, settings, workers, done)
    except KeyboardInterrupt:
        print("interrupted: give the same command again to grade the rest", file=sys.stderr)
        return 130
    finally:
        everything |= records
        _publish(desk, everything)
        for record in everything.values():
            if desk.adjusted(record).status != "pending" or desk.feedback(record.student).exists():
                _give_feedback(desk, record)
        if known:
            gradebook.update(book, assignment, list(everything.values()), by_hand=desk.by_hand)
            desk.settle(everything)
    _report(desk, [desk.adjusted(record) for record in records.values()])
    if not known:
        print(gradebook.MISSING, file=sys.stderr)
    return 0


def _withdrawn(given: str | None, desk: Desk) -> Sequence[str]:
    """Return the questions that an option, or that of an earlier run, withdraws."""
    if given is None:
        noted = desk.about().get("withdrawn")
        ours = {question.id for question in desk.assignment.questions}
        return [identity for identity in noted if identity in ours] if isinstance(noted, list) else []
    return [] if given == "none" else [identity.strip() for identity in given.split(",") if identity.strip()]


def _found(
    arguments: argparse.Namespace, assignment: source.Assignment, desk: Desk
) -> Sequence[submissions.Submission]:
    """Return the submissions, named by the platform that the class was named by before."""
    noted = desk.about().get("platform")
    task = desk.about().get("task")  # of a class that Blackboard named
    found = submissions.find_submissions(arguments.submissions, arguments.platform, task)
    platform = found[0].platform
    if arguments.platform is None and noted not in (None, platform):
        raise ValueError(
            f"the files of this class were named by {noted}, and these look like {platform}'s: say which it is with "
            f"--platform {noted} or --platform {platform}, or choose another --out"
        )
    if arguments.names:
        found = submissions.named(found, arguments.names)
        unnamed = [one.student for one in found if one.name == one.student]
        if unnamed:
            print(f"{arguments.names} has no name for {feedback.plain(', '.join(unnamed[:10]))}", file=sys.stderr)
    missing = sorted(set(arguments.regrade) - {submission.student for submission in found})
    if missing:
        raise ValueError(f"--regrade {' '.join(missing)}: no such student in {arguments.submissions}")
    desk.note(platform=platform, **({"task": found[0].task} if platform == "blackboard" else {}))
    return submissions.own_data(found, assignment)


def _give_feedback(desk: Desk, record: grading.StudentRecord) -> None:
    write_whole(desk.feedback(record.student), feedback.feedback_page(desk.adjusted(record), desk.assignment))


def _publish(desk: Desk, records: Mapping[str, grading.StudentRecord]) -> None:
    if words := desk.rescue():
        print(words, file=sys.stderr)
    desk.balance(records.values())
    desk.write_grades([desk.adjusted(records[student]) for student in sorted(records)])


def _report(desk: Desk, records: Sequence[grading.StudentRecord]) -> None:
    """Print counts, the failed submissions and what is odd about the others, and where everything is."""
    count = Counter(record.status for record in records)
    print(f"{count['graded']} graded, {count['failed']} failed")
    for record in sorted(records, key=lambda record: record.student):
        if record.reason:
            print(f"  {feedback.plain(record.student)}: {feedback.plain(record.reason)}")
    print(desk.folder / "grades.csv")
