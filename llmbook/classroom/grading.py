"""Grades a class: each notebook in its own sandbox, judged outside, every submission with a mark or with a reason.

The instructor's solution runs first, in the same sandbox, and gives the expected values; they never enter a student's.
What a run has finished is kept, one record for each student, so that a run can be interrupted and repeated.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmbook.classroom import comparison, runner, sandbox
from llmbook.classroom.source import Assignment, Question, variant
from llmbook.classroom.submissions import Submission, SubmissionError, answer_notes, one_line, untouched
from llmbook.classroom.submissions import answers as read_answers

BATCH = 10  # variants of the reference solution that one process works out
KEPT_OUTPUT = 2000
FORGED = 16  # frames that a notebook may write into the channel before it is called interference
BUSY = "the machine was busy with other work, so it is graded again in the next run"


def tidy(points: float | None) -> float | None:
    """Return points without what binary fractions add, and without a needless fraction: 0.1 + 0.2 is 0.3, 2.0 is 2."""
    if points is None:
        return None
    points = round(points, 6)
    return int(points) if points == int(points) else points


@dataclass(frozen=True)
class Mark:
    """The outcome of one question: why points are missing, and what the student's cell printed.

    ``late`` says that they are missing because the time was over.
    """

    id: str
    title: str
    points: int
    earned: float
    reason: str = ""
    output: str = ""
    late: bool = False


@dataclass(frozen=True)
class StudentRecord:
    """What is known of a submission: ``graded`` with marks, ``failed`` with the reason, or still ``pending``.

    ``seed`` drew its hidden cases, ``allowed`` is the time in seconds that a question could take, and ``busy`` says
    that the machine was at other work for much of it.
    """

    student: str
    name: str
    label: str
    status: str
    reason: str = ""
    marks: tuple[Mark, ...] = ()
    key: str = ""
    seconds: float = 0.0
    peak: int = 0
    seed: int | None = None
    allowed: float = 0.0
    busy: bool = False
    extra: float = 0

    @property
    def earned(self) -> float | None:
        """The points, or None where there is no mark; ``extra`` are points beside those of the questions."""
        return tidy(sum(mark.earned for mark in self.marks) + self.extra) if self.status == "graded" else None


@dataclass(frozen=True)
class Expected:
    """The hidden cases of one variant: the arguments, and what the reference solution makes of them."""

    arguments: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    values: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class GradingSettings:
    """How a class is graded. ``seed`` draws this run's hidden cases, and never enters a student's sandbox."""

    seed: int
    limits: sandbox.Limits = field(default_factory=sandbox.Limits)
    unsafe: bool = False
    any_version: bool = False


def _plan(notebooks: list[dict[str, Any]], limits: sandbox.Limits, **more: int) -> bytes:
    head = {
        "notebooks": notebooks,
        "rlimits": sandbox.rlimits(limits),
        "path": sandbox.extra_path(),
        "question_seconds": limits.question_seconds,
        "seed": 0,
        **more,
    }
    return runner.frame(head)


def _questions(assignment: Assignment, codes: dict[str, str]) -> list[dict[str, Any]]:
    """Return the cells of a plan. Those of withdrawn questions run as well, since later answers may use them."""
    return [
        {"id": q.id, "name": q.name, "kind": q.kind, "code": codes[q.id], "counts": q in assignment.questions}
        for q in assignment.executed
    ]


def number(assignment: Assignment, student: str) -> int:
    """Return the variant that a student works on; 0 in an assignment that has none."""
    return variant(student) if assignment.has_variants else 0


def expect(assignment: Assignment, students: Sequence[str], settings: GradingSettings) -> dict[int, Expected]:
    """Return, for each variant that these students have, the hidden arguments and the reference solution's values.

    Raises ``ValueError`` if the reference solution does not run; no student's notebook is touched then.
    """
    names = {number(assignment, student): student for student in students}
    expected: dict[int, Expected] = {}
    for start in range(0, len(names), BATCH):
        numbers = list(names)[start : start + BATCH]
        expected |= zip(numbers, _references(assignment, [names[n] for n in numbers], settings), strict=True)
    return expected


def _references(assignment: Assignment, students: list[str], settings: GradingSettings) -> list[Expected]:
    cells = _questions(assignment, {question.id: question.solution for question in assignment.executed})
    cases = {question.id: question.cases for question in assignment.executed}
    questions = [cell | {"cases_code": cases[cell["id"]]} for cell in cells]
    notebooks = [{"setup": assignment.preamble_for(student), "questions": questions} for student in students]
    limits = dataclasses.replace(settings.limits, seconds=settings.limits.seconds * len(students))
    room = limits.results * sandbox.MIB
    outcome = sandbox.run(
        _plan(notebooks, limits, case_seed=settings.seed, answer_bytes=room), limits, unsafe=settings.unsafe
    )
    found = [Expected() for _ in students]
    ended = False
    for head, blob in runner.frames(outcome.data):
        if (error := head.get("error") or head.get("setup", {}).get("error")) is not None:
            where = head.get("question", "the set-up cell")
            raise ValueError(f"{assignment.name}: the reference solution failed in {where}: {_said(error)}")
        if "question" in head:
            one = found[head["notebook"]]
            one.arguments[head["question"]] = [runner.unpack(tree, blob) for tree in head["cases"]]
            for tree, error in head["results"]:
                if error is not None:
                    where = head["question"]
                    raise ValueError(f"{assignment.name}: the reference solution failed in {where}: {_said(error)}")
                one.values.setdefault(head["question"], []).append(runner.unpack(tree, blob))
        ended = ended or "end" in head
    if not ended:
        last = outcome.output.strip().splitlines()[-1:] or ["no message"]
        raise ValueError(f"{assignment.name}: the reference solution ended early ({outcome.stopped or last[0]})")
    return found


def grade(
    submission: Submission,
    assignment: Assignment,
    expected: dict[int, Expected],
    settings: GradingSettings,
    cancel: threading.Event | None = None,
) -> StudentRecord:
    """Grade one submission; the record is ``failed`` with the reason wherever there can be no mark."""
    record = functools.partial(StudentRecord, submission.student, submission.name, submission.label)
    key = ""
    try:
        content = submission.content()
        key = record_key(content, submission, assignment, settings)
        codes = read_answers(content, assignment, submission.data_name, any_version=settings.any_version)
        notes = "; ".join(answer_notes(content, assignment)[:8])
        mine = expected[number(assignment, submission.data_name)]
        notebook = {"setup": assignment.preamble_for(submission.data_name), "questions": _questions(assignment, codes)}
        cases = [_cases(mine.arguments[question.id]) for question in assignment.questions]
        limits = settings.limits
        # so that no answer, however large, takes the others' room
        room = (limits.results - 1) * sandbox.MIB // len(cases) - runner.HEAD
        plan = _plan([notebook], limits, answer_bytes=max(room, sandbox.MIB))
        outcome = sandbox.run(plan, limits, cases=cases, unsafe=settings.unsafe, cancel=cancel)
        if outcome.stopped == "cancelled":
            return record("pending", "interrupted")
        measured: dict[str, Any] = {"key": key, "seconds": round(outcome.seconds, 2), "peak": outcome.peak}
        measured |= {"seed": settings.seed, "allowed": limits.question_seconds, "busy": outcome.busy}
        try:
            return record("graded", notes, marks=_judge(outcome, assignment, codes, mine, settings.limits), **measured)
        except SubmissionError as error:
            return record("failed", str(error), **measured)
    except SubmissionError as error:
        return record("failed", str(error), key=key)
    except Exception as error:  # one submission never ends the run of a class, nor is it a zero
        return record("failed", f"the grader itself failed: {type(error).__name__}: {error}", key=key)


def _cases(arguments: list[tuple[Any, ...]]) -> bytes:
    """Return the inputs of a question as a frame."""
    blob = bytearray()
    return runner.frame({"cases": [runner.pack(each, blob) for each in arguments]}, blob)


def is_final(record: StudentRecord, settings: GradingSettings) -> bool:
    """Whether a mark stands: none of it was lost to a time limit that is wider now, or while the machine was busy."""
    late = any(mark.late for mark in record.marks)
    wider = settings.limits.question_seconds > record.allowed
    return record.status == "graded" and not (late and (wider or record.busy))


def _judge(
    outcome: sandbox.Outcome, assignment: Assignment, codes: dict[str, str], expected: Expected, limits: sandbox.Limits
) -> tuple[Mark, ...]:
    """Return the marks, from frames that the student's code may have forged."""
    questions = {question.id: question for question in assignment.questions}  # the others' cells only run
    marks: dict[str, Mark] = {}
    running, started, ended, forged = "", False, False, False
    try:
        for head, blob in runner.frames(outcome.data, most=3 * len(codes) + FORGED):
            forged = forged or ended
            if "setup" in head:
                if not started:  # before any student's code has run; a later one is forged, and no reason to end
                    raise SubmissionError(f"the set-up cell failed: {_said(head['setup'].get('error'))}")
            elif "begins" in head:
                running = str(head["begins"])[:20]
            elif "end" in head:
                ended = True
            else:
                identity = head["question"]
                if identity in marks or identity not in questions:
                    raise ValueError("an answer too many")
                # at once, so that no more than one answer's text is in memory
                mark = _mark(questions[identity], codes[identity], head, blob, expected.values[identity])
                busy = mark.late and outcome.busy
                marks[identity] = dataclasses.replace(mark, reason=f"{mark.reason}; {BUSY}") if busy else mark
            started = True
    except SubmissionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        forged = True
    # answers out of order are the better reason than an early end
    _check_end(outcome, ended or forged, running if running in codes else "", limits)
    if forged or set(marks) != set(questions):
        raise SubmissionError("the answers did not arrive in order: the notebook interfered with its grading")
    return tuple(marks[question.id] for question in assignment.questions)


def _check_end(outcome: sandbox.Outcome, ended: bool, running: str, limits: sandbox.Limits) -> None:
    """Say why a run did not come to its end."""
    where = f" (in question {running})" if running else ""
    reasons = {
        "time": f"time-out: not finished after {limits.seconds:g} s{f'; {BUSY}' if outcome.busy else ''}",
        "memory": f"memory: more than {limits.memory} MiB",
        "files": f"files: more than {limits.files} at once",
        "processes": f"processes: more than {limits.processes} at once",
        "output": f"output: more than {limits.output} MiB printed",
        "results": f"output: more than {limits.results} MiB of answers",
    }
    if outcome.stopped:
        raise SubmissionError(reasons[outcome.stopped] + where)
    if ended and outcome.status == 0:
        return
    status = outcome.status - 128 if outcome.status > 128 else -outcome.status
    try:
        how = f"signal {status}, {signal.Signals(status).name}" if status > 0 else f"exit status {outcome.status}"
    except ValueError:
        how = f"exit status {outcome.status}"
    raise SubmissionError(f"dead kernel: the program ended early{where}, {how}")


def _said(error: Any) -> str:
    """Return an error in one line."""
    if not isinstance(error, dict):
        return "an error"
    line = error.get("line")
    where = f" in line {line} of the cell" if isinstance(line, int) and 0 < line < 100_000 else ""
    kind, message = one_line(str(error.get("type")))[:80], str(error.get("message"))[: runner.MESSAGE]
    message = one_line(message) if message.strip() else ""
    if _is_late(error):
        return message
    hint = "; only answer cells are graded, and what they need must stand in one" if kind == "NameError" else ""
    return f"{kind}{where}: {message}{hint}" if message else f"{kind}{where}"


def _mark(question: Question, code: str, head: dict[str, Any], blob: bytes, expected: list[Any]) -> Mark:
    """Compare the answers to one question with the reference's: all points for all cases right, else none."""
    output = head.get("output")
    mark = functools.partial(Mark, question.id, question.title, question.points)
    output = output[:KEPT_OUTPUT] if isinstance(output, str) else ""
    if not code:
        return mark(0, "there is no answer cell: it was deleted or renamed", output)
    if (error := head.get("error")) is not None:
        return mark(0, _said(error), output, _is_late(error))
    results = head.get("results")
    if not isinstance(results, list) or len(results) != len(expected):
        return mark(0, "no answers arrived", output)
    wrong, late = [], False
    for result, value in zip(results, expected, strict=True):
        if not isinstance(result, list) or len(result) != 2:
            wrong.append("no answer arrived")
        elif result[1] is not None:
            wrong.append(_said(result[1]))
            late = late or _is_late(result[1])
        else:
            try:
                why = _difference(runner.unpack(result[0], blob), value, question.tolerance)
            except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
                why = "the answer is no plain value"
            wrong += [why] if why else []
    if not wrong:
        return mark(question.points, "", output)
    count = len(expected)
    right = f"{count - len(wrong)} of {count} hidden cases right; " if question.kind == "function" else ""
    begun = "not answered: the cell is as it was given out; " if untouched(code, question) else ""
    return mark(0, f"{begun}{right}{wrong[0]}", output, late)


def _is_late(error: Any) -> bool:
    """Whether an error says that the time for the question was over."""
    return isinstance(error, dict) and error.get("late") is True


def _difference(given: Any, expected: Any, tolerance: float) -> str | None:
    """Say how an answer differs from the reference's without giving that away; None if it does not."""
    with np.errstate(all="ignore"):
        if comparison.same(given, expected, tolerance):
            return None
    if type(given) is not type(expected) and _kind(given) != _kind(expected):
        return f"it gave {_kind(given)}, where the reference gives {_kind(expected)}"
    if isinstance(expected, np.ndarray) and np.shape(given) != expected.shape:
        return "an array of another shape than the reference's"
    if _kind(expected) == "a text":
        return "not the reference's text"
    if _unsound(given) and not _unsound(expected):
        return "it holds NaN or infinity, where the reference has numbers"
    return "not the reference's values"


def _unsound(value: Any) -> bool:
    """Whether numbers hold NaN or infinity."""
    try:
        return not bool(np.isfinite(np.asarray(value, dtype=float)).all())
    except (TypeError, ValueError, OverflowError):
        return False


def _kind(value: Any) -> str:
    """Name what a value is."""
    if isinstance(value, np.ndarray):
        return "an array" if value.ndim else "a number"
    names = {"bool": "a truth value", "int": "a number", "float": "a number", "str": "a text", "tuple": "a list"}
    return names.get(type(value).__name__, "nothing (None)" if value is None else f"a {type(value).__name__}")


@functools.cache
def engine() -> str:
    """Return the version of what decides a mark: when it changes, notebooks are graded again."""
    sources = (Path(module.__file__).read_bytes() for module in (runner, comparison) if module.__file__)
    return hashlib.sha256(b"".join(sources)).hexdigest()[:12]


def record_key(content: bytes, submission: Submission, assignment: Assignment, settings: GradingSettings) -> str:
    """Return what a mark depends on; the same key is not graded twice.

    The seed is no part of it: each run draws hidden cases of its own, and the marks of earlier runs stand.
    """
    parts = [submission.name, assignment.version, engine(), str(settings.any_version)]
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + content).hexdigest()


def grade_all(
    submissions: Sequence[Submission],
    assignment: Assignment,
    settings: GradingSettings,
    workers: int,
    done: Callable[[StudentRecord], None],
) -> None:
    """Grade submissions, ``workers`` at a time; ``done`` gets each record as it is ready, in this thread.

    An interruption (Ctrl-C) ends the sandboxes that are at work; their submissions have no record then.
    """
    if not submissions:
        return
    expected = expect(assignment, [submission.data_name for submission in submissions], settings)
    cancel = threading.Event()
    waiting: Iterator[Submission] = iter(submissions)
    running: set[Future[StudentRecord]] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(running) < workers and (submission := next(waiting, None)) is not None:
                    running.add(pool.submit(grade, submission, assignment, expected, settings, cancel))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done(future.result())
        except BaseException:
            cancel.set()
            raise
