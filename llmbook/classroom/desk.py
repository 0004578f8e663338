"""The folder with one assignment's results: a record for each student, ``grades.csv``, feedback pages, the seed."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from llmbook.classroom.grading import GradingSettings, Mark, StudentRecord, is_final, record_key
from llmbook.classroom.source import Assignment
from llmbook.classroom.submissions import Submission, SubmissionError
from llmbook.files import write_whole


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

    def seed(self, given: int | None) -> int:
        """Return the seed of this run's hidden cases, the one given or a new secret one, and write it down."""
        path = self.folder / "run.json"
        given = secrets.randbelow(2**31) if given is None else given
        about = {"assignment": self.assignment.name, "version": self.assignment.version, "seed": given}
        write_whole(path, json.dumps(about, indent=1) + "\n", mode=0o600)
        return int(given)

    def _path(self, student: str) -> Path:
        return self.records / f"{file_name(student)}.json"

    def load(self, student: str) -> StudentRecord | None:
        """Return the record that an earlier run left, if it can be read."""
        try:
            data = json.loads(self._path(student).read_text())
            marks = tuple(Mark(**mark) for mark in data.pop("marks"))
            record = StudentRecord(**data, marks=marks)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return record if record.student == student else None

    def store(self, record: StudentRecord) -> None:
        """Write a record."""
        write_whole(self._path(record.student), json.dumps(dataclasses.asdict(record), indent=1) + "\n", mode=0o600)

    def forget(self, student: str) -> None:
        """Remove a record and the feedback page: the submission is another one now."""
        self._path(student).unlink(missing_ok=True)
        self.feedback(student).unlink(missing_ok=True)

    def feedback(self, student: str) -> Path:
        """Return where a student's feedback page lies."""
        return self.folder / "feedback" / f"{file_name(student)}.html"

    def write_grades(self, records: Sequence[StudentRecord]) -> Path:
        """Write ``grades.csv``: one line a student; the score is empty where there is no mark."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        identities = [question.id for question in self.assignment.questions]
        table.writerow(["student", "name", "status", "score", "max_score", *identities, "reason", "file"])
        for record in records:
            each = {mark.id: mark.earned for mark in record.marks}
            score = "" if record.earned is None else record.earned
            cells = [_cell(record.student), _cell(record.name), record.status, score, self.assignment.points]
            cells += [each.get(identity, "") for identity in identities]
            table.writerow([*cells, _cell(record.reason), _cell(record.label)])
        path = self.folder / "grades.csv"
        write_whole(path, text.getvalue())
        return path


def _cell(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def standing(
    desk: Desk, submissions: Sequence[Submission], settings: GradingSettings
) -> tuple[dict[str, StudentRecord], list[Submission], list[Submission]]:
    """Return what earlier runs settled, what is still to be graded, and which of those are new or changed.

    Only marks are final: a submission that failed is tried again, and one that lost points to a time limit that is
    wider now.
    """
    settled: dict[str, StudentRecord] = {}
    pending, changed = [], []
    for submission in submissions:
        record = desk.load(submission.student)
        try:
            key = record_key(submission.content(), submission, desk.assignment, settings)
        except SubmissionError:
            key = ""
        same = record is not None and record.key == key and record.label == submission.label
        if record is not None and same and key and is_final(record, settings):
            settled[submission.student] = record
            continue
        pending.append(submission)
        if not same:
            changed.append(submission)
    return settled, pending, changed
