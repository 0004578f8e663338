"""Marks that instructors enter by hand, in ``grades.csv`` or in the gradebook: found, brought together, and kept."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmbook.classroom._tables import read_table, safe_cell
from llmbook.classroom.grading import Mark, StudentRecord
from llmbook.classroom.source import Assignment, Question
from llmbook.files import write_whole

BY_HAND = "marked by hand"


@dataclass(frozen=True)
class ByHand:
    """What an instructor gave one student: points of questions, and ``extra`` beside those; None is nothing."""

    marks: Mapping[str, float | None] = field(default_factory=dict)
    extra: float | None = None


def tidy(points: float | None) -> float | None:
    """Return points without a needless fraction: 2.0 is 2."""
    return int(points) if points is not None and points == int(points) else points


def adjusted(record: StudentRecord, given: ByHand, assignment: Assignment) -> StudentRecord:
    """Return a record with the marks that were given by hand, and only the questions that the assignment has.

    A submission that failed is graded once each of its questions has a mark.
    """
    automatic = {mark.id: mark for mark in record.marks}
    marks = []
    for question in assignment.questions:
        mark = automatic.get(question.id)
        points = given.marks.get(question.id)
        if points is not None:
            mark = mark or Mark(question.id, question.title, question.points, 0)
            reason = f"{BY_HAND}; the program said: {mark.reason}" if mark.reason else BY_HAND
            mark = dataclasses.replace(mark, earned=points, reason=reason)
        if mark is not None:
            marks.append(mark)
    status = "graded" if len(marks) == len(assignment.questions) else record.status
    note = given_words(given, assignment.questions)
    reason = "; ".join(part for part in (record.reason, f"{BY_HAND}: {note}" if note else "") if part)
    return dataclasses.replace(record, status=status, marks=tuple(marks), extra=given.extra or 0, reason=reason)


def given_words(given: ByHand, questions: Sequence[Question]) -> str:
    """Return the marks given by hand in words, such as ``q1 1.5, extra 2``."""
    points = [f"{q.id} {given.marks[q.id]:g}" for q in questions if given.marks.get(q.id) is not None]
    return ", ".join([*points, *([f"extra {given.extra:g}"] if given.extra else [])])


def load_by_hand(path: Path) -> tuple[dict[str, ByHand], bool]:
    """Return the marks given by hand so far, and whether the gradebook has them too."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {student: ByHand(**given) for student, given in data["students"].items()}, bool(data["in_gradebook"])
    except FileNotFoundError:
        return {}, False
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}, the marks given by hand, cannot be read: bring back a copy, or remove it") from error


def save_by_hand(path: Path, given: Mapping[str, ByHand], in_gradebook: bool) -> None:
    """Write the marks given by hand, if there are any or were any."""
    students = {student: dataclasses.asdict(one) for student, one in sorted(given.items()) if one != ByHand()}
    if students or path.exists():
        write_whole(path, json.dumps({"in_gradebook": in_gradebook, "students": students}, indent=1) + "\n", mode=0o600)


@dataclass(frozen=True)
class Sheet:
    """A ``grades.csv`` as it stands: its columns, and its lines by the student's cell."""

    columns: tuple[str, ...] = ()
    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Sheet:
        """Read a sheet, as a spreadsheet program may have saved it; ``ValueError`` if it is no such table."""
        try:
            columns, rows = read_table(path.read_bytes())
        except FileNotFoundError:
            return cls()
        if "student" not in columns:
            raise ValueError(f"{path} has no column `student`: bring that line back, or move the file away")
        return cls(tuple(columns), {row["student"]: row for row in rows})


def edits(now: Sheet, before: Sheet, assignment: Assignment) -> dict[str, ByHand]:
    """Return the marks that were changed in ``grades.csv`` since the program wrote it, by the student's cell.

    A changed score without changed questions becomes points beside those of the questions, or, where they have none,
    is spread over them from the first. Raises ``ValueError`` for what is no number.
    """
    found = {}
    identities = [column for column in before.columns if re.fullmatch("q[0-9]+", column) and column in now.columns]
    for student, row in now.rows.items():
        if (old := before.rows.get(student)) is None:
            continue
        points = {identity: _points(row, identity) for identity in identities}
        marks = {identity: new for identity, new in points.items() if new != _points(old, identity)}
        score, extra = _points(row, "score"), None
        if score is not None and score != _points(old, "score"):
            known = [value for value in points.values() if value is not None]
            empty = [question for question in assignment.questions if points.get(question.id, 0) is None]
            if empty:
                marks |= _spread(score - sum(known), empty)
            else:
                extra = score - sum(known)
        if marks or extra is not None:
            found[student] = ByHand(marks, tidy(extra))
    return found


def _points(row: Mapping[str, str], column: str) -> float | None:
    """Return the number in a cell, as 1.5 or 1,5; None if it is empty."""
    text = row.get(column, "").lstrip("'").replace(",", ".")
    try:
        points = float(text) if text else None
    except ValueError:
        points = float("nan")
    if points is not None and not abs(points) < 1e6:
        told = f"grades.csv, {row.get('student')}: {column} is {row[column]!r}"
        raise ValueError(f"{told}; give a number, or empty the cell to take the program's mark")
    return tidy(points)


def _spread(score: float, questions: Sequence[Question]) -> dict[str, float | None]:
    """Return points for questions without a mark that make the score, from the first question on."""
    spread: dict[str, float | None] = {}
    for question in questions[:-1]:
        spread[question.id] = min(max(score, 0), question.points)
        score -= min(max(score, 0), question.points)
    return {**spread, questions[-1].id: score}


def merge(
    known: Mapping[str, ByHand],
    sheet: Mapping[str, ByHand],
    book: Mapping[str, ByHand],
    in_gradebook: bool,
) -> tuple[dict[str, ByHand], list[str]]:
    """Return the marks given by hand, with what was changed since in ``grades.csv`` and in the gradebook, and words.

    Where both were changed, ``grades.csv`` counts, and the words say so. ``in_gradebook``: whether the gradebook was
    written since ``known`` was; if not, what it lacks was not taken back there.
    """
    merged, words = {}, []
    for student in sorted({*known, *sheet, *book}):
        old, entered, changed = (table.get(student, ByHand()) for table in (known, book, sheet))
        marks = dict(old.marks)
        for identity in sorted({*entered.marks, *changed.marks}):
            before, there = marks.get(identity), entered.marks.get(identity)
            moved = identity in entered.marks and there != before and (in_gradebook or there is not None)
            if identity in changed.marks:
                marks[identity] = changed.marks[identity]
                if moved and there != marks[identity]:
                    words.append(f"{student}, {identity}: the gradebook says {there}, grades.csv counts")
            elif moved:
                marks[identity] = there
            if marks.get(identity) != before:
                words.append(f"{student}, {identity}: {_said(marks[identity])}")
        extra = old.extra
        if changed.extra is not None:
            extra = changed.extra or None
        elif student in book and (in_gradebook or entered.extra):
            extra = entered.extra
        if extra != old.extra:
            words.append(f"{student}: {extra or 0:g} points beside those of the questions, by hand")
        merged[student] = ByHand({key: points for key, points in marks.items() if points is not None}, extra)
    return merged, words


def _said(points: float | None) -> str:
    return "the program's mark again" if points is None else f"{points:g} by hand"


def kept_rows(sheet: Sheet, students: Sequence[str]) -> list[Mapping[str, str]]:
    """Return the lines of students of whom nothing is known here, as those that an instructor added."""
    ours = {safe_cell(student) for student in students}
    return [row for student, row in sheet.rows.items() if student not in ours]
