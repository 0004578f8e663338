"""The gradebook that nbgrader, its formgrader and its exports read."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmbook.classroom.grading import StudentRecord
from llmbook.classroom.source import Assignment

MISSING = (
    "gradebook.db was not written, since nbgrader is not installed: `pip install nbgrader` and give the same "
    "command again (nothing is graded twice)"
)


def available() -> bool:
    """Return whether nbgrader can be imported."""
    try:
        import nbgrader.api  # noqa: F401
    except ImportError:
        return False
    return True


def update(path: Path, assignment: Assignment, records: Sequence[StudentRecord], cleared: Sequence[str] = ()) -> None:
    """Write automatic scores; a student without a mark has none, and "needs manual grade" instead.

    Manual scores that an instructor entered stay, except those of the ``cleared`` students, whose submission is another
    one now.
    """
    if not path.exists():
        _create(path)
    cells = {f"{question.id}-check": question for question in assignment.questions}
    with _opened(path) as book:
        # nbgrader commits after each object: with a class of 200 that takes a minute
        commit, book.db.commit = book.db.commit, book.db.flush
        book.update_or_create_assignment(assignment.name)
        book.update_or_create_notebook(assignment.name, assignment.name)
        for cell, question in cells.items():
            settings: dict[str, Any] = {"max_score": question.points, "cell_type": "code"}
            book.update_or_create_grade_cell(cell, assignment.name, assignment.name, **settings)
            book.update_or_create_solution_cell(f"{question.id}-answer", assignment.name, assignment.name)
        for record in records:
            marks = {mark.id: mark for mark in record.marks} if record.status == "graded" else {}
            grades, comments = _entries(book, assignment.name, record, set(cells))
            for name, grade in grades.items():
                mark = marks.get(cells[name].id)
                grade.auto_score = mark.earned if mark else None
                if record.student in cleared:
                    grade.manual_score = None
                grade.needs_manual_grade = mark is None and grade.manual_score is None
            for name, comment in comments.items():
                mark = marks.get(name.removesuffix("-answer"))
                comment.auto_comment = (mark.reason if mark else f"{record.status}: {record.reason}") or None
        commit()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a gradebook, quietly."""
    from nbgrader.api import Gradebook

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Gradebook(f"sqlite:///{path}") as book:
            yield book


def _create(path: Path) -> None:
    """Make an empty gradebook, whole or not at all. nbgrader runs ``alembic``, which need not be on the path."""
    import nbgrader

    before = os.environ.get("PATH", os.defpath)
    beside = [str(Path(sys.executable).parent), str(Path(nbgrader.__file__).parents[1] / "bin")]
    os.environ["PATH"] = os.pathsep.join([*beside, before])
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".gradebook-") as folder:
            with _opened(Path(folder, path.name)):
                pass
            Path(folder, path.name).replace(path)
    finally:
        os.environ["PATH"] = before


def _entries(
    book: Any, assignment: str, record: StudentRecord, cells: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a student's grades and comments by cell; made anew if the assignment had other questions before."""
    book.update_or_create_student(record.student, last_name=record.name)
    for _ in range(2):
        (notebook,) = book.update_or_create_submission(assignment, record.student).notebooks
        grades = {grade.name: grade for grade in notebook.grades}
        if cells <= set(grades):
            break
        book.remove_submission(assignment, record.student)
    comments = {comment.name: comment for comment in notebook.comments}
    return {name: grades[name] for name in cells}, comments
