"""What an assignment's source becomes: the student's notebook, a course folder for nbgrader, a zip for Gradescope.

``make assignments`` writes all of them. The student's notebook is the same file everywhere; the two others hold the
solutions and hidden cases, and stay with the instructor.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from llmbook.classroom import comparison
from llmbook.classroom.source import Assignment, Question
from llmbook.files import write_whole

SEED = 20261122  # of the hidden cases for nbgrader and otter, which keep one set; ``llmbook grade`` draws new ones
ANSWER_SECONDS = 60
NOT_COUNTED = "*This question was withdrawn: it counts for nothing. Later answers may use its answer.*"
CONFIG = f"""\
# The settings of the course; `nbgrader --help-all` lists all there are. Written by `make assignments`.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "llmbook"
# a student finds the answer cell as the book's notebook has it, without a stub of nbgrader's own
c.ClearSolutions.code_stub = {{"python": ""}}
c.ExecutePreprocessor.timeout = {ANSWER_SECONDS}
c.ExecutePreprocessor.startup_timeout = 120
"""


def instructions_of(assignment: Assignment) -> str:
    """Return what stands below the title of every student's notebook."""
    name = " Write your name into the set-up cell: your data are drawn from it." if assignment.has_variants else ""
    return (
        f"**About {assignment.minutes} minutes, {assignment.points} points.** It runs on a processor, in Colab or "
        f"JupyterLab, and needs NumPy only.{name}\n\n"
        "- Write each answer into the cell that begins with `# Question ...: your answer`. Keep that line, and keep "
        "one such cell for each question; add other cells for trying things out.\n"
        "- The cell below an answer checks it and says what is wrong. Your code is later called with other inputs "
        "too, so think of those that the checks leave out.\n"
        "- An answer counts if all of it is right. It may use the answers above it, and what the set-up cell defines, "
        "but no other files, packages or network.\n"
        "- Before you hand in the notebook: restart the kernel, run all cells, save."
    )


def _metadata(assignment: Assignment, role: str, question: Question | None = None) -> dict[str, object]:
    """Return a cell's metadata for the book's grader and, where a question's, for nbgrader."""
    ours: dict[str, object] = {"role": role, "assignment": assignment.id, "version": assignment.version}
    if question is None:
        return {"llmbook": ours}
    graded = role == "check" and question.id not in assignment.withdrawn
    theirs: dict[str, object] = {
        "schema_version": 3,
        "grade_id": f"{question.id}-{role}",
        "grade": graded,
        "locked": role == "check",
        "solution": role == "answer",
        "task": False,
    }
    if graded:
        theirs["points"] = question.points
    return {"llmbook": {**ours, "id": question.id}, "nbgrader": theirs}


def _notebook(assignment: Assignment, answers: Mapping[str, str], hidden: bool, student: str) -> nbformat.NotebookNode:
    cells = []
    code = assignment.preamble_for(student) if student else assignment.preamble
    setup = new_code_cell(code, metadata=_metadata(assignment, "setup"), id="setup")
    first_question = True
    for number, part in enumerate(assignment.parts):
        if isinstance(part, str):
            cells.append(new_markdown_cell(part, metadata=_metadata(assignment, "text"), id=f"text-{number}"))
            continue
        counts = part.id not in assignment.withdrawn
        if first_question:
            metadata = _metadata(assignment, "text")
            cells += [new_markdown_cell(instructions_of(assignment), metadata=metadata, id="instructions"), setup]
            first_question = False
        heading, _, rest = part.prompt.partition("\n")
        points = f"*{part.points} point{'s' if part.points > 1 else ''}*" if counts else NOT_COUNTED
        reading = f" *Read before: the chapter's section* {part.section}." if part.section else ""
        prompt = f"{heading}\n\n{points}{reading}\n{rest}"
        check = part.public
        if hidden and counts:
            check += f"\n### BEGIN HIDDEN TESTS\n{_hidden_test(assignment, part)}\n### END HIDDEN TESTS"
        cells += [
            new_markdown_cell(prompt, metadata=_metadata(assignment, "text"), id=f"{part.id}-text"),
            new_code_cell(
                f"{part.marker}\n{answers.get(part.id, part.starter)}",
                metadata=_metadata(assignment, "answer", part),
                id=f"{part.id}-answer",
            ),
            new_code_cell(check, metadata=_metadata(assignment, "check", part), id=f"{part.id}-check"),
        ]
    notebook = new_notebook(cells=cells)
    notebook.nbformat_minor = 5
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "llmbook": {"assignment": assignment.id, "version": assignment.version},
        }
    )
    nbformat.validate(notebook)
    return notebook


def student_notebook(
    assignment: Assignment, answers: Mapping[str, str] | None = None, student: str = ""
) -> nbformat.NotebookNode:
    """Return the notebook that students receive.

    ``answers`` (code by question id) and ``student`` (a name, for the set-up cell) make a filled-in one, for tests.
    """
    return _notebook(assignment, answers or {}, hidden=False, student=student)


def solutions(assignment: Assignment) -> dict[str, str]:
    """Return the reference answers by question id, those to withdrawn questions among them."""
    return {question.id: question.solution for question in assignment.executed}


def nbgrader_notebook(assignment: Assignment) -> nbformat.NotebookNode:
    """Return the instructor's notebook: solutions and hidden tests stand between nbgrader's marks."""
    answers = {
        question.id: f"{question.starter}\n### BEGIN SOLUTION\n{question.solution}\n### END SOLUTION"
        for question in assignment.executed
    }
    return _notebook(assignment, answers, hidden=True, student="")


def _literal(code: str) -> str:
    """Return a Python literal of some code, readable where it can be."""
    plain = "'''" not in code and "\\" not in code and not code.endswith("'")
    return f"'''\n{code}\n'''" if plain else repr(code)


def _test_body(assignment: Assignment, question: Question) -> str:
    """Return code that defines ``hidden_test(student)`` for a mapping of what the student's notebook has defined.

    The reference solutions run in a namespace of their own, on the same inputs.
    """
    before = [other.solution for other in assignment.executed[: assignment.executed.index(question) + 1]]
    reference = "\n\n\n".join([*before, question.cases])
    equality = inspect.getsource(comparison.same)
    setup, code = _literal(assignment.preamble), _literal(reference)
    call = (
        f"""\
    for arguments in reference["cases"]({SEED}):
        expected = reference["{question.name}"](*copy.deepcopy(arguments))
        found = student["{question.name}"](*copy.deepcopy(arguments))
        assert same(found, expected, {question.tolerance}), "an answer to other inputs is wrong\""""
        if question.kind == "function"
        else f"""\
    expected = reference["{question.name}"]
    assert same(student["{question.name}"], expected, {question.tolerance}), "the value is wrong\""""
    )
    return f"""\
import copy
from typing import Any

import numpy as np


{equality}

def hidden_test(student):
    reference = {{}}
    setup = {setup}
    name = f"STUDENT = {{student.get('STUDENT', '')!r}}"
    exec(setup.replace('STUDENT = ""', name, 1), reference)
    exec({code}, reference)
{call}"""


def _hidden_test(assignment: Assignment, question: Question) -> str:
    """Return the hidden part of a check cell, which leaves nothing behind in the kernel's namespace."""
    body = _test_body(assignment, question)
    return f"_test = {{}}\nexec({body!r}, _test)\n_test['hidden_test'](globals())\ndel _test"


def otter_test(assignment: Assignment, question: Question) -> str:
    """Return otter's test file for a question: the public checks, worth nothing, and the hidden cases, worth all."""
    return f"""\
# Written by `make assignments`: public checks and hidden cases of question {question.id} of {assignment.name}.
from otter.test_files import test_case

OK_FORMAT = False
name = "{question.id}"
points = {question.points}


{_test_body(assignment, question)}


@test_case(name="{question.id}: public checks", points=0)
def test_public(env):
    exec({_literal(question.public)}, dict(env))


@test_case(name="{question.id}: other inputs", points={question.points}, hidden=True)
def test_hidden(env):
    hidden_test(env)
"""


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> Path:
    """Write a notebook, whole or not at all."""
    return write_whole(path, nbformat.writes(notebook) + "\n")


def write_student(assignment: Assignment, folder: Path) -> Path:
    """Write the student's notebook and return its path."""
    return write_notebook(student_notebook(assignment), folder / f"{assignment.name}.ipynb")


def write_nbgrader(assignment: Assignment, course: Path) -> Path:
    """Put the assignment into a course folder and return the instructor's notebook.

    Settings that are there already are kept: they may be the instructor's own.
    """
    if not (course / "nbgrader_config.py").exists():
        write_whole(course / "nbgrader_config.py", CONFIG)
    path = course / "source" / assignment.name / f"{assignment.name}.ipynb"
    return write_notebook(nbgrader_notebook(assignment), path)


def write_gradescope(assignment: Assignment, folder: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Write the zip that Gradescope takes as an autograder, by ``otter generate``, and return its path.

    ``environment`` are the variables with which this Python finds otter-grader; ``ValueError`` if it does not.
    """
    path = folder.resolve() / f"{assignment.name}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for question in assignment.questions:
            write_whole(work / "tests" / f"{question.id}.py", otter_test(assignment, question))
        # no ``name``: it would make otter insist on a notebook that was written for it
        write_whole(work / "otter_config.json", json.dumps({"show_stdout": False, "show_hidden": False, "logo": False}))
        write_whole(work / "requirements.txt", "numpy\n")
        new = path.with_name(f".{path.name}.new")
        command = [
            *(sys.executable, "-c", "from otter.cli import cli; cli()", "generate", "--tests-dir", "tests"),
            *("--config", "otter_config.json", "--requirements", "requirements.txt", "--no-environment"),
            *("--output-path", str(new), "--python-version", "3.11"),
        ]
        run = subprocess.run(command, cwd=work, capture_output=True, text=True, env=environment)
        if run.returncode != 0:
            last = (run.stderr.strip() or run.stdout.strip() or "no output").splitlines()[-1]
            raise ValueError(f"otter could not make {path.name}: {last} - install requirements-classroom.txt")
        new.replace(path)
    return path
