"""The gradebook that nbgrader, its formgrader and its exports read."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmbook.classroom.by_hand import ByHand
from llmbook.classroom.grading import StudentRecord, tidy
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


def manual_marks(path: Path, assignment: Assignment) -> dict[str, ByHand]:
    """Return what instructors have entered in the gradebook for each student: None where a question has nothing."""
    from nbgrader.api import MissingEntry

    with _opened(path) as book:
        try:
            handed_in = book.find_assignment(assignment.name).submissions
        except MissingEntry:
            return {}
        found = {}
        for submission in handed_in:
            grades = [grade for notebook in submission.notebooks for grade in notebook.grades]
            marks = {grade.name.removesuffix("-check"): tidy(grade.manual_score) for grade in grades}
            extra = tidy(sum(grade.extra_credit or 0.0 for grade in grades))
            found[submission.student.id] = ByHand(marks, extra or None)
        return found


def update(
    path: Path,
    assignment: Assignment,
    records: Sequence[StudentRecord],
    by_hand: Mapping[str, ByHand] | None = None,
) -> None:
    """Write automatic scores; a student without a mark has none, and "needs manual grade" instead.

    Manual scores that an instructor entered stay; with ``by_hand`` they become what stands there. Questions that the
    assignment no longer has are taken out.
    """
    if not path.exists():
        _create(path)
    cells = {f"{question.id}-check": question for question in assignment.questions}
    with _opened(path) as book:
        # nbgrader commits after each object: with a class of 200 that takes a minute
        commit, book.db.commit = book.db.commit, book.db.flush
        book.update_or_create_assignment(assignment.name)
        notebook = book.update_or_create_notebook(assignment.name, assignment.name)
        for cell, question in cells.items():
            settings: dict[str, Any] = {"max_score": question.points, "cell_type": "code"}
            book.update_or_create_grade_cell(cell, assignment.name, assignment.name, **settings)
            book.update_or_create_solution_cell(f"{question.id}-answer", assignment.name, assignment.name)
        _remove_others(book, notebook, {*cells, *(f"{question.id}-answer" for question in assignment.questions)})
        for record in records:
            marks = {mark.id: mark for mark in record.marks} if record.status == "graded" else {}
            grades, comments = _entries(book, assignment, record)
            for name, grade in grades.items():
                identity = cells[name].id
                mark = marks.get(identity)
                grade.auto_score = mark.earned if mark else None
                if by_hand is not None:
                    grade.manual_score = by_hand.get(record.student, ByHand()).marks.get(identity)
                grade.needs_manual_grade = mark is None and grade.manual_score is None
            if by_hand is not None:
                _set_extra(list(grades.values()), by_hand.get(record.student, ByHand()).extra or 0)
            for name, comment in comments.items():
                mark = marks.get(name.removesuffix("-answer"))
                comment.auto_comment = (mark.reason if mark else f"{record.status}: {record.reason}") or None
        commit()


def _set_extra(grades: list[Any], points: float) -> None:
    """Make the extra credit of all cells together these points; the first cell takes the difference."""
    difference = tidy(points - sum(grade.extra_credit or 0.0 for grade in grades))
    if difference:
        grades[0].extra_credit = tidy((grades[0].extra_credit or 0.0) + difference)


def _remove_others(book: Any, notebook: Any, kept: set[str]) -> None:
    """Take cells out of the gradebook that the assignment does not have: their points would still be in the sum."""
    for cell in [cell for cell in notebook.grade_cells + notebook.solution_cells if cell.name not in kept]:
        for entry in [*(cell.grades or ()), *(cell.comments or ())]:
            book.db.delete(entry)
        book.db.flush()
        book.db.delete(cell)
    book.db.flush()
    book.db.expire_all()


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


def _entries(book: Any, assignment: Assignment, record: StudentRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a student's grades and comments by cell, with those of questions that came later."""
    from nbgrader.api import Comment, Grade

    book.update_or_create_student(record.student, last_name=record.name)
    (notebook,) = book.update_or_create_submission(assignment.name, record.student).notebooks
    grades = {grade.name: grade for grade in notebook.grades}
    comments = {comment.name: comment for comment in notebook.comments}
    master = notebook.notebook
    for kind, cells, entries in ((Grade, master.grade_cells, grades), (Comment, master.solution_cells, comments)):
        for cell in cells:
            if cell.name not in entries:
                entries[cell.name] = kind(cell=cell, notebook=notebook)
                book.db.add(entries[cell.name])
    return {f"{question.id}-check": grades[f"{question.id}-check"] for question in assignment.questions}, comments
