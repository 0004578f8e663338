"""Marks that instructors enter by hand, in ``grades.csv`` or in the gradebook: found, brought together, and kept."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmbook.classroom._tables import read_table, safe_cell
from llmbook.classroom.grading import Mark, StudentRecord, tidy
from llmbook.classroom.source import Assignment, Question
from llmbook.files import write_whole

BY_HAND = "marked by hand"


@dataclass(frozen=True)
class ByHand:
    """What an instructor gave one student: points of questions, and ``extra`` beside those; None is nothing.

    ``total`` is a score that was entered as a whole, over the questions ``counted``, such as ``q1 q2``: as long as
    these count, ``extra`` is what it has more or less than they have now.
    """

    marks: Mapping[str, float | None] = field(default_factory=dict)
    extra: float | None = None
    total: float | None = None
    counted: str = ""


def adjusted(record: StudentRecord, given: ByHand, assignment: Assignment) -> StudentRecord:
    """Return a record with the marks that were given by hand, and only the questions that the assignment has.

    A submission that failed is graded once each of its questions has a mark, and one that was graded without a question
    that counts now is not graded until that has one.
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
    lacking = [q.id for q in assignment.questions if q.id not in {mark.id for mark in marks}]
    if set(given.counted.split()) != {question.id for question in assignment.questions}:
        given = dataclasses.replace(given, total=None)
    status, extra, again = record.status, given.extra or 0, ""
    if not lacking:
        status = "graded"
        if given.total is not None:
            extra = tidy(given.total - sum(mark.earned for mark in marks)) or 0
    elif status == "graded":
        status = "pending"
        again = f"{', '.join(lacking)} did not count when this was graded: grade the notebook again"
    note = given_words(given, assignment.questions)
    reason = "; ".join(part for part in (again, record.reason, f"{BY_HAND}: {note}" if note else "") if part)
    return dataclasses.replace(record, status=status, marks=tuple(marks), extra=extra, reason=reason)


def given_words(given: ByHand, questions: Sequence[Question]) -> str:
    """Return the marks given by hand in words, such as ``q1 1.5, extra 2``."""
    points = [f"{q.id} {given.marks[q.id]:g}" for q in questions if given.marks.get(q.id) is not None]
    if given.total is not None:
        points.append(f"score {given.total:g}")
    elif given.extra:
        points.append(f"extra {given.extra:g}")
    return ", ".join(points)


def load_by_hand(path: Path) -> tuple[dict[str, ByHand], dict[str, ByHand]]:
    """Return the marks given by hand so far, and those of them that the gradebook had when it was last written."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tables = (data["students"], data.get("gradebook", {}))
        known, in_book = ({student: ByHand(**given) for student, given in table.items()} for table in tables)
        return known, in_book
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}, the marks given by hand, cannot be read: bring back a copy, or remove it") from error


def save_by_hand(path: Path, given: Mapping[str, ByHand], in_book: Mapping[str, ByHand]) -> None:
    """Write the marks given by hand, and those that the gradebook has, if there are any or were any."""
    data = {
        key: {student: dataclasses.asdict(one) for student, one in sorted(table.items()) if one != ByHand()}
        for key, table in (("students", given), ("gradebook", in_book))
    }
    if any(data.values()) or path.exists():
        write_whole(path, json.dumps(data, indent=1) + "\n", mode=0o600)


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


def edits(now: Sheet, written: Sequence[Sheet], assignment: Assignment) -> dict[str, ByHand]:
    """Return the marks that were changed in ``grades.csv`` since the program wrote it, by the student's cell.

    A changed score stands for the whole: the questions keep theirs, and it has points beside them, or, where they have
    none, it is spread over them from the first. An emptied one takes back what was beside them. Of ``written``, the
    copies of what the program wrote, one may not have come into ``grades.csv``, or another may: what stands in any of
    them was not entered. Raises ``ValueError`` for what is no number.
    """
    found = {}
    columns = {column: None for sheet in written for column in sheet.columns if re.fullmatch("q[0-9]+", column)}
    for student, row in now.rows.items():
        if not (old := [sheet.rows[student] for sheet in written if student in sheet.rows]):
            continue
        # a column that was taken out was not emptied
        points = {name: _points(row if name in now.columns else old[0], name) for name in columns}
        marks = {name: new for name, new in points.items() if new not in [_points(one, name) for one in old]}
        given = ByHand(marks)
        score = _points(row, "score") if "score" in now.columns else _points(old[0], "score")
        if score not in [_points(one, "score") for one in old]:
            known = [value for value in points.values() if value is not None]
            empty = [question for question in assignment.questions if points.get(question.id, 0) is None]
            if score is None:
                given = ByHand(marks, 0)
            elif empty:
                given = ByHand(marks | _spread(score - sum(known), empty))
            else:
                given = ByHand(marks, tidy(score - sum(known)), score, " ".join(columns))
        if given != ByHand():
            found[student] = given
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
        spread[question.id] = tidy(min(max(score, 0), question.points))
        score -= min(max(score, 0), question.points)
    return {**spread, questions[-1].id: tidy(score)}


def merge(
    known: Mapping[str, ByHand],
    sheet: Mapping[str, ByHand],
    book: Mapping[str, ByHand],
    in_book: Mapping[str, ByHand],
) -> tuple[dict[str, ByHand], list[str]]:
    """Return the marks given by hand, with what was changed since in ``grades.csv`` and in the gradebook, and words.

    Where both were changed, ``grades.csv`` counts, and the words say so. ``in_book`` is what the gradebook had when it
    was last written: what stands there still was not entered since.
    """
    merged, words = {}, []
    for student in sorted({*known, *sheet, *book}):
        old, entered, changed, seen = (table.get(student, ByHand()) for table in (known, book, sheet, in_book))
        marks = dict(old.marks)
        for identity in sorted({*entered.marks, *changed.marks}):
            before, there = marks.get(identity), entered.marks.get(identity)
            moved = identity in entered.marks and there not in (before, seen.marks.get(identity))
            if identity in changed.marks:
                marks[identity] = changed.marks[identity]
                if moved and there != marks[identity]:
                    words.append(f"{student}, {identity}: the gradebook says {there}, grades.csv counts")
            elif moved:
                marks[identity] = there
            if marks.get(identity) != before:
                words.append(f"{student}, {identity}: {_said(marks[identity])}")
        marks = {identity: points for identity, points in marks.items() if points is not None}
        extra, total, counted = old.extra, old.total, old.counted
        moved = student in book and entered.extra not in (extra, seen.extra)
        if changed.extra is not None:
            extra, total, counted = changed.extra or None, changed.total, changed.counted
            if moved and entered.extra != extra:
                words.append(f"{student}: the gradebook has {entered.extra or 0:g} points extra, grades.csv counts")
        elif moved:
            extra, total, counted = entered.extra, None, ""
        elif total is not None and marks != dict(old.marks):
            words.append(f"{student}: the score stays {total:g}, as entered; empty it to have the questions' sum")
        if (extra, total) != (old.extra, old.total):
            words.append(f"{student}: {extra or 0:g} points beside those of the questions, by hand")
        merged[student] = ByHand(marks, extra, total, counted)
    return merged, words


def _said(points: float | None) -> str:
    return "the program's mark again" if points is None else f"{points:g} by hand"


def kept_rows(sheet: Sheet, students: Sequence[str]) -> list[Mapping[str, str]]:
    """Return the lines of students of whom nothing is known here, as those that an instructor added."""
    ours = {safe_cell(student) for student in students}
    return [row for student, row in sheet.rows.items() if student not in ours]
