"""The folder with one assignment's results: a record for each student, ``grades.csv``, feedback pages, the seed."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbook.classroom._tables import safe_cell
from llmbook.classroom.by_hand import (
    ByHand,
    Sheet,
    adjusted,
    edits,
    given_words,
    kept_rows,
    load_by_hand,
    merge,
    save_by_hand,
)
from llmbook.classroom.grading import GradingSettings, Mark, StudentRecord, is_final, record_key
from llmbook.classroom.source import Assignment
from llmbook.classroom.submissions import Submission, SubmissionError
from llmbook.files import write_whole

HAND = ".by-hand.json"
WRITTEN, NEXT = ".grades.csv", ".grades-next.csv"  # copies of ``grades.csv``: as it was written, and as it will be


def file_name(student: str) -> str:
    """Return a file name for a student's id: safe whatever the id is, and another one for every student."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in student)[:60]
    return plain if plain == student else f"{plain}-{hashlib.sha256(student.encode()).hexdigest()[:8]}"


class Desk:
    """The folder of one assignment's results: records, ``grades.csv``, feedback pages, the seed."""

    def __init__(self, folder: Path, assignment: Assignment) -> None:
        """Take the folder, and make it if it is not there."""
        self.folder, self.assignment = Path(folder), assignment
        self.folder.mkdir(parents=True, exist_ok=True)
        self.records = self.folder / "records"
        self.contents: dict[str, str] = {}  # the hash of each student's notebook
        self.by_hand: dict[str, ByHand] = {}
        self.in_book: dict[str, ByHand] = {}
        self.sheet = Sheet()
        self.seen: bytes | None = None  # ``grades.csv`` as this run read or wrote it

    def about(self) -> dict[str, Any]:
        """Return what earlier runs noted: seed, platform of the class, withdrawn questions; empty before the first."""
        try:
            noted = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def note(self, **facts: object) -> None:
        """Add facts to what later runs know."""
        about = {**self.about(), "assignment": self.assignment.name, "version": self.assignment.version, **facts}
        write_whole(self.folder / "run.json", json.dumps(about, indent=1) + "\n", mode=0o600)

    def seed(self, given: int | None) -> int:
        """Return the seed of this run's hidden cases, the one given or a new secret one, and write it down."""
        given = secrets.randbelow(2**31) if given is None else given
        self.note(seed=given)
        return given

    def _path(self, student: str) -> Path:
        return self.records / f"{file_name(student)}.json"

    def _stored(self, path: Path) -> tuple[StudentRecord, str] | None:
        """Return a record and the hash of the notebook that it is of."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            content = str(data.pop("content", ""))
            marks = tuple(Mark(**mark) for mark in data.pop("marks"))
            return StudentRecord(**data, marks=marks), content
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def load(self, student: str) -> StudentRecord | None:
        """Return the record that an earlier run left, if it can be read."""
        stored = self._stored(self._path(student))
        return stored[0] if stored and stored[0].student == student else None

    def load_all(self) -> dict[str, StudentRecord]:
        """Return the records of all students, also of those whose submissions are not among today's."""
        found = [stored[0] for path in sorted(self.records.glob("*.json")) if (stored := self._stored(path))]
        return {record.student: record for record in found}

    def store(self, record: StudentRecord) -> None:
        """Write a record."""
        data = dataclasses.asdict(record) | {"content": self.contents.get(record.student, "")}
        write_whole(self._path(record.student), json.dumps(data, indent=1) + "\n", mode=0o600)

    def forget(self, waiting: StudentRecord, another_file: bool) -> str | None:
        """Put a mark among the earlier ones, and the record ``waiting`` in its place, which knows the notebook.

        With ``another_file`` the marks by hand, which were for the old one, are taken back; they are returned in words.
        """
        student = waiting.student
        record, given = self.load(student), self.by_hand.get(student, ByHand())
        if record is not None and (record.status == "graded" or given != ByHand()):
            data = dataclasses.asdict(record) | {"by_hand": dataclasses.asdict(given)}
            kept = json.dumps(data, indent=1) + "\n"
            hashed = hashlib.sha256(kept.encode()).hexdigest()[:8]
            write_whole(self.records / "earlier" / f"{self._path(student).stem}-{hashed}.json", kept, mode=0o600)
        taken = self._clear(student) if another_file else None
        self.store(waiting)
        self.feedback(student).unlink(missing_ok=True)
        return taken

    def collect(self, book: Mapping[str, ByHand]) -> list[str]:
        """Take in the marks that were entered by hand since the last run; return what they are, in words.

        ``book`` is what stands in the gradebook. Raises ``ValueError`` for an entry in ``grades.csv`` that is no mark.
        """
        path = self.folder / "grades.csv"
        self.seen = path.read_bytes() if path.exists() else b""
        self.sheet = Sheet.read(path)
        copies = [copy for name in (WRITTEN, NEXT) if (copy := self.records / name).exists()]
        as_written = self.seen in [copy.read_bytes() for copy in copies]
        if path.exists() and not as_written:
            self._keep_table(self.seen)
        known, self.in_book = load_by_hand(self.records / HAND)
        students = {safe_cell(student): student for student in {*self.load_all(), *known, *book}}
        changed = {} if as_written else edits(self.sheet, [Sheet.read(copy) for copy in copies], self.assignment)
        sheet = {students[cell]: given for cell, given in changed.items() if cell in students}
        self.by_hand, words = merge(known, sheet, book, self.in_book)
        save_by_hand(self.records / HAND, self.by_hand, self.in_book)
        lost = [cell for cell in changed if cell not in students]
        return [*words, *(f"{cell}: no submission is known, and what was entered does not count" for cell in lost)]

    def strangers(self, students: Collection[str]) -> list[str]:
        """Return the lines of ``grades.csv`` that belong to none of these students, nor to any with a record."""
        known = {safe_cell(student) for student in {*students, *self.load_all()}}
        return [student for student in self.sheet.rows if student not in known]

    def rescue(self) -> str | None:
        """Keep a copy of a ``grades.csv`` that was changed since this run read or wrote it; return so, in words."""
        path = self.folder / "grades.csv"
        if self.seen is None or not path.exists() or (now := path.read_bytes()) == self.seen:
            return None
        return (
            f"grades.csv was changed while this run was at work, which writes it anew: the changed one lies in "
            f"{self._keep_table(now)}; enter those marks once more"
        )

    def _keep_table(self, table: bytes) -> Path:
        """Put a ``grades.csv`` among the earlier ones, so that nothing that was changed there is lost."""
        hashed = hashlib.sha256(table).hexdigest()[:8]
        return write_whole(self.records / "earlier" / f"grades-{hashed}.csv", table, mode=0o600)

    def _clear(self, student: str) -> str | None:
        """Take back the marks by hand for a file that was handed in before; return what they were, in words."""
        given = self.by_hand.pop(student, ByHand())
        save_by_hand(self.records / HAND, self.by_hand, self.in_book)
        words = given_words(given, self.assignment.questions)
        kept = self.records / "earlier"
        return (
            f"{student}: another file now; the marks by hand for the old one ({words}) lie in {kept}" if words else None
        )

    def balance(self, records: Collection[StudentRecord]) -> None:
        """Set what is beside the questions where a score was entered as a whole, which a new mark does not change."""
        for record in records:
            given = self.by_hand.get(record.student, ByHand())
            if given.total is not None:
                self.by_hand[record.student] = dataclasses.replace(given, extra=self.adjusted(record).extra or None)
        save_by_hand(self.records / HAND, self.by_hand, self.in_book)

    def settle(self, students: Collection[str]) -> None:
        """Note that the gradebook has the marks by hand of these students."""
        self.in_book |= {student: self.by_hand.get(student, ByHand()) for student in students}
        save_by_hand(self.records / HAND, self.by_hand, self.in_book)

    def adjusted(self, record: StudentRecord) -> StudentRecord:
        """Return a record with the marks that were given by hand."""
        return adjusted(record, self.by_hand.get(record.student, ByHand()), self.assignment)

    def feedback(self, student: str) -> Path:
        """Return where a student's feedback page lies."""
        return self.folder / "feedback" / f"{file_name(student)}.html"

    def write_grades(self, records: Sequence[StudentRecord]) -> Path:
        """Write ``grades.csv``: one line a student; the score is empty where there is no mark.

        Lines of students without a record and columns of their own, which an instructor may have added, stay.
        """
        identities = [question.id for question in self.assignment.questions]
        columns = ["student", "name", "status", "score", "max_score", *identities, "reason", "file"]
        gone = re.compile(r"q[0-9]+|")  # questions that do not count any more
        columns += [name for name in self.sheet.columns if name not in columns and not gone.fullmatch(name)]
        lines: list[Mapping[str, object]] = []
        for record in records:
            each = {mark.id: mark.earned for mark in record.marks}
            line = {
                **self.sheet.rows.get(safe_cell(record.student), {}),
                **{"student": safe_cell(record.student), "name": safe_cell(record.name), "status": record.status},
                **{"score": "" if record.earned is None else record.earned, "max_score": self.assignment.points},
                **{identity: each.get(identity, "") for identity in identities},
                **{"reason": safe_cell(record.reason), "file": safe_cell(record.label)},
            }
            lines.append(line)
        lines += kept_rows(self.sheet, [record.student for record in records])
        text = io.StringIO()
        table = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
        path = self.folder / "grades.csv"
        write_whole(self.records / NEXT, text.getvalue(), mode=0o600)  # first, so that it is known to be the program's
        write_whole(path, text.getvalue())
        (self.records / NEXT).replace(self.records / WRITTEN)
        self.seen = text.getvalue().encode()
        return path


def standing(
    desk: Desk, submissions: Sequence[Submission], settings: GradingSettings, again: Collection[str] = ()
) -> tuple[dict[str, StudentRecord], list[Submission], list[Submission]]:
    """Return what earlier runs settled, what is still to be graded, and whose notebook is another one than before.

    Only marks are final: a submission that failed is tried again, and so are one that lost points to a time limit that
    is wider now, and those of the students ``again``.
    """
    settled: dict[str, StudentRecord] = {}
    pending, changed = [], []
    questions = {question.id for question in desk.assignment.questions}
    for submission in submissions:
        stored = desk._stored(desk._path(submission.student))
        record, before = stored if stored and stored[0].student == submission.student else (None, "")
        try:
            content = submission.content()
            key = record_key(content, submission, desk.assignment, settings)
            now = hashlib.sha256(content).hexdigest()
        except SubmissionError:
            key = now = ""
        desk.contents[submission.student] = now or before  # a file that cannot be read is not another file
        complete = record is not None and questions <= {mark.id for mark in record.marks}
        final = record is not None and is_final(record, settings) and bool(key) and record.key == key and complete
        if record is not None and final and submission.student not in again:
            settled[submission.student] = dataclasses.replace(record, label=submission.label)
            continue
        pending.append(submission)
        if record is not None and now and (before != now if before else record.key != key):
            changed.append(submission)
    return settled, pending, changed
