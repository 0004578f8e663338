"""What `make assignments` writes, and what nbgrader and otter themselves make of it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest

import classroom
from llmbook.classroom import build, grading, source, submissions

pytestmark = pytest.mark.slow
ASSIGNMENTS = {path.stem: source.read(path) for path in source.find_all()}
STUDENT = "Grace Hopper"
TRIED = "03-attention"  # the one that goes through the real tools
OTTER = (sys.executable, "-c", "from otter.cli import cli; cli()")


@pytest.fixture(scope="module")
def environment():
    """The variables with which this Python finds nbgrader and otter."""
    return classroom.environment()


def code_of(notebook, role):
    return {
        cell.metadata["llmbook"].get("id", role): cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.metadata["llmbook"]["role"] == role
    }


def kernel(notebook):
    """Run a notebook's code cells in order, each whether or not the one before failed: {position: error}."""
    space, errors = {}, {}
    with np.errstate(all="ignore"):
        for position, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                try:
                    exec(compile(cell.source, f"<cell {position}>", "exec"), space)
                except Exception as error:
                    errors[position] = error
    return errors


def secrets(assignment):
    """Lines that only an instructor may see: of solutions, hidden cases and wrong solutions."""
    public = {line.strip() for line in assignment.preamble.splitlines()}
    for question in assignment.questions:
        for text in (question.starter, question.public, question.prompt):
            public |= {line.strip() for line in text.splitlines()}
    found = set()
    for question in assignment.questions:
        for code in (question.solution, question.cases, *(code for _, code in question.wrong)):
            lines = {re.sub(r"\s*#.*", "", line).strip() for line in code.splitlines()}
            found |= {line for line in lines if len(line) > 24 and line not in public}
        found |= {why for why, _ in question.wrong} | {question.teaches}
    return found


def texts(data, name=""):
    """All texts in a file, whatever it is: of a notebook its cells, of a zip its members, of others the bytes."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from texts(archive.read(member), member)
        return
    text = data.decode("utf-8", errors="replace")
    yield text
    if name.endswith(".ipynb"):
        yield from (cell.source for cell in nbformat.reads(text, as_version=4).cells)


def assert_keeps_secrets(files, assignment):
    hidden = secrets(assignment)
    assert len(hidden) > 50
    for path in files:
        for text in texts(path.read_bytes(), path.name):
            leaked = [line for line in hidden if line in text]
            assert not leaked, f"{path.name} holds {leaked[0]!r}"
            assert "HIDDEN" not in text and "BEGIN SOLUTION" not in text


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_students_notebook_has_one_marked_cell_for_each_answer(name):
    assignment = ASSIGNMENTS[name]
    notebook = build.student_notebook(assignment)
    nbformat.validate(notebook)
    answers = code_of(notebook, "answer")
    assert list(answers) == [question.id for question in assignment.questions]
    for question in assignment.questions:
        assert answers[question.id] == f"# Question {question.id}: your answer\n{question.starter}"
    assert code_of(notebook, "check") == {question.id: question.public for question in assignment.questions}
    assert f"{assignment.points} points" in notebook.cells[1].source
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_students_notebook_needs_no_grader_and_no_installation(name):
    cells = build.student_notebook(ASSIGNMENTS[name]).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
    assert imported <= {"numpy", *sys.stdlib_module_names}
    assert "%" not in [line[:1] for line in code.splitlines()] and "pip install" not in code


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_students_notebook_holds_no_solution_and_no_hidden_case(name, tmp_path):
    assert_keeps_secrets([build.write_student(ASSIGNMENTS[name], tmp_path)], ASSIGNMENTS[name])


def test_the_search_for_secrets_finds_them_in_notebooks_and_zips(tmp_path):
    assignment = ASSIGNMENTS[TRIED]
    solved = build.write_notebook(build.student_notebook(assignment, build.solutions(assignment)), tmp_path / "a.ipynb")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(solved, "deep/a.ipynb")
    for path in (solved, tmp_path / "b.zip"):
        with pytest.raises(AssertionError, match="holds"):
            assert_keeps_secrets([path], assignment)


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_solved_notebook_passes_its_checks_and_in_an_untouched_one_all_fail(name):
    assignment = ASSIGNMENTS[name]
    assert not kernel(build.student_notebook(assignment, build.solutions(assignment), STUDENT))
    untouched = build.student_notebook(assignment)
    errors = kernel(untouched)
    checks = [i for i, cell in enumerate(untouched.cells) if cell.metadata["llmbook"]["role"] == "check"]
    assert list(errors) == checks and all(str(error) for error in errors.values())


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_nbgraders_tests_pass_for_the_solutions_and_each_fails_for_its_wrong_ones(name):
    assignment = ASSIGNMENTS[name]
    master = build.nbgrader_notebook(assignment)
    assert not kernel(master)
    checks = {cell.metadata["llmbook"].get("id"): i for i, cell in enumerate(master.cells) if "HIDDEN" in cell.source}
    assert list(checks) == [question.id for question in assignment.questions]
    for question in assignment.questions:
        for _, code in question.wrong:
            for cell in master.cells:
                if cell.id == f"{question.id}-answer":
                    right, cell.source = cell.source, code
                    assert checks[question.id] in kernel(master)
                    cell.source = right


def test_writing_is_repeatable_and_keeps_an_instructors_settings(tmp_path):
    assignment = ASSIGNMENTS[TRIED]
    first = build.write_student(assignment, tmp_path).read_bytes()
    assert build.write_student(assignment, tmp_path).read_bytes() == first
    master = build.write_nbgrader(assignment, tmp_path / "course")
    assert master == tmp_path / "course" / "source" / TRIED / f"{TRIED}.ipynb"
    (tmp_path / "course" / "nbgrader_config.py").write_text("# mine")
    build.write_nbgrader(assignment, tmp_path / "course")
    assert (tmp_path / "course" / "nbgrader_config.py").read_text() == "# mine"


def test_without_otter_the_zip_is_refused_with_the_remedy(tmp_path):
    bare = {"PATH": os.environ["PATH"]}
    with pytest.raises(ValueError, match=r"otter could not make 03-attention\.zip.*requirements-classroom\.txt"):
        build.write_gradescope(ASSIGNMENTS[TRIED], tmp_path, bare)
    assert not list(tmp_path.iterdir())


def run(command, folder, environment):
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout


def nbgrader(folder, environment, *words):
    return run([sys.executable, "-m", "nbgrader", *words], folder, environment)


@pytest.fixture(scope="module")
def course(tmp_path_factory, environment):
    """A course folder with one assignment, released by nbgrader."""
    folder = tmp_path_factory.mktemp("course")
    build.write_nbgrader(ASSIGNMENTS[TRIED], folder)
    nbgrader(folder, environment, "generate_assignment", TRIED, "--create")
    return folder


def test_nbgraders_release_is_the_students_notebook_and_holds_no_secret(course):
    files = [path for path in (course / "release").rglob("*") if path.is_file()]
    assert [path.name for path in files] == [f"{TRIED}.ipynb"]
    assert_keeps_secrets(files, ASSIGNMENTS[TRIED])
    release, ours = nbformat.read(files[0], as_version=4), build.student_notebook(ASSIGNMENTS[TRIED])
    for cell, other in zip(release.cells, ours.cells, strict=True):
        assert cell.source.strip() == other.source.strip()


def test_nbgrader_validates_the_master(course, environment):
    said = nbgrader(course, environment, "validate", f"source/{TRIED}/{TRIED}.ipynb")
    assert "passes all the tests" in said


def test_nbgrader_gives_full_marks_to_the_solved_and_none_to_the_untouched_notebook(course, environment):
    assignment = ASSIGNMENTS[TRIED]
    answers = build.solutions(assignment)
    wrong = {**answers, "q1": assignment.questions[0].wrong[2][1]}  # passes the public checks
    for student, given in {"solved": answers, "untouched": {}, "wrong": wrong}.items():
        path = course / "submitted" / student / TRIED / f"{TRIED}.ipynb"
        build.write_notebook(build.student_notebook(assignment, given), path)
    nbgrader(course, environment, "autograde", TRIED, "--create")
    # what the formgrader's pages ask for
    code = textwrap.dedent(f"""
        import json
        from nbgrader.apps.api import NbGraderAPI
        from traitlets.config.loader import PyFileConfigLoader
        api = NbGraderAPI(config=PyFileConfigLoader("nbgrader_config.py", path=".").load_config())
        found = api.get_assignment({TRIED!r})
        marks = {{one["student"]: [one["score"], one["max_score"]] for one in api.get_submissions({TRIED!r})}}
        print(json.dumps([found["status"], found["num_submissions"], found["max_score"], marks]))
        """)
    said = run([sys.executable, "-c", code], course, environment)
    status, handed_in, points, marks = json.loads(said.splitlines()[-1])
    assert (handed_in, points) == (3, assignment.points) and status == "draft"
    assert marks == {"solved": [16, 16], "untouched": [0, 16], "wrong": [14, 16]}
    nbgrader(course, environment, "export", "--to", "grades.csv")
    with (course / "grades.csv").open() as lines:
        assert {row["student_id"]: float(row["score"]) for row in csv.DictReader(lines)}["solved"] == 16


@pytest.fixture(scope="module")
def zips(tmp_path_factory, environment):
    """Gradescope's autograders of all assignments, by `otter generate`."""
    folder = tmp_path_factory.mktemp("gradescope")
    for assignment in ASSIGNMENTS.values():
        build.write_gradescope(assignment, folder, environment)
    return folder


def test_gradescope_gets_all_it_needs(zips):
    for name, assignment in ASSIGNMENTS.items():
        with zipfile.ZipFile(zips / f"{name}.zip") as archive:
            names = set(archive.namelist())
            assert {"run_autograder", "run_otter.py", "setup.sh", "environment.yml", "otter_config.json"} <= names
            assert {f"tests/{question.id}.py" for question in assignment.questions} <= names
            assert "name" not in json.loads(archive.read("otter_config.json"))
            assert b"numpy" in archive.read("environment.yml")


def test_otters_test_files_give_all_points_to_solutions_and_none_to_untouched_answers(zips, environment, tmp_path):
    for name, assignment in ASSIGNMENTS.items():
        with zipfile.ZipFile(zips / f"{name}.zip") as archive:
            archive.extractall(tmp_path / name)
        for kind, answers in (("solved", build.solutions(assignment)), ("untouched", {})):
            notebook = build.student_notebook(assignment, answers, STUDENT)
            cells = [cell.source for cell in notebook.cells if cell.metadata["llmbook"]["role"] in ("setup", "answer")]
            (tmp_path / name / f"{kind}.py").write_text("\n\n".join(cells), encoding="utf-8")
    code = textwrap.dedent("""
        import json
        from pathlib import Path
        from otter.test_files.exception_test import ExceptionTestFile
        marks = {}
        for folder in sorted(Path().iterdir()):
            for kind in ("solved", "untouched"):
                space = {}
                exec((folder / f"{kind}.py").read_text(encoding="utf-8"), space)
                files = [ExceptionTestFile.from_file(str(path)) for path in sorted(folder.glob("tests/*.py"))]
                for file in files:
                    file.run(space)
                score, possible = (sum(getattr(file, what) for file in files) for what in ("score", "possible"))
                marks[f"{folder.name} {kind}"] = [score, possible]
        print(json.dumps(marks))
        """)
    marks = json.loads(run([sys.executable, "-c", code], tmp_path, environment).splitlines()[-1])
    for name, assignment in ASSIGNMENTS.items():
        assert marks[f"{name} solved"] == [assignment.points, assignment.points]
        assert marks[f"{name} untouched"] == [0, assignment.points]


@pytest.mark.parametrize(("kind", "score"), [("solved", 16), ("untouched", 0)])
def test_otter_grades_the_students_notebook(zips, environment, tmp_path, kind, score):
    assignment = ASSIGNMENTS[TRIED]
    answers = build.solutions(assignment) if kind == "solved" else {}
    build.write_notebook(build.student_notebook(assignment, answers), tmp_path / f"{TRIED}.ipynb")
    out = tmp_path / "out"
    out.mkdir()
    command = [*OTTER, "run", f"{TRIED}.ipynb", "--autograder", str(zips / f"{TRIED}.zip"), "--output-dir", str(out)]
    run(command, tmp_path, environment)
    results = json.loads((out / "results.json").read_text())["tests"]
    graded = [test for test in results if "max_score" in test]
    assert sum(test["score"] for test in graded) == score
    assert sum(test["max_score"] for test in graded) == assignment.points
    assert all(test["visibility"] == "hidden" for test in graded)  # a student sees the summary of the public checks


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_books_own_grader_agrees(name, tmp_path):
    assignment = ASSIGNMENTS[name]
    mistakes = {question.id: question.wrong[0][1] for question in assignment.questions}
    for student, answers in {"solved": build.solutions(assignment), "untouched": {}, "mistaken": mistakes}.items():
        build.write_notebook(build.student_notebook(assignment, answers, student), tmp_path / f"{student}.ipynb")
    marks = {}
    settings = grading.GradingSettings(seed=5, unsafe=True)  # the notebooks are ours

    def done(record):
        marks[record.student] = (record.status, record.earned)

    grading.grade_all(submissions.find_submissions(tmp_path), assignment, settings, 1, done)
    assert marks == {"solved": ("graded", assignment.points), "untouched": ("graded", 0), "mistaken": ("graded", 0)}


def test_make_assignments_writes_everything(environment, monkeypatch, tmp_path, capsys):
    import assignments

    monkeypatch.setattr(assignments, "FOLDER", tmp_path / "out")
    monkeypatch.setattr(assignments, "ROOT", tmp_path)
    monkeypatch.setattr(assignments, "SOURCES", tmp_path / "assignments")
    (tmp_path / "assignments").mkdir()
    assert assignments.main() == 1 and "a source is called NN-name.md" in capsys.readouterr().err
    shutil.copy(source.find_assignment("03"), tmp_path / "assignments")
    assert assignments.main() == 0
    written = [Path(line).as_posix() for line in capsys.readouterr().out.split()]
    assert written == [
        "out/student/03-attention.ipynb",
        "out/nbgrader/source/03-attention/03-attention.ipynb",
        "out/gradescope/03-attention.zip",
    ]
    assert all((tmp_path / path).exists() for path in written)


def test_hidden_tests_know_the_solutions_of_withdrawn_questions():
    assignment = source.withdraw(source.read(source.find_assignment("01")), ["q2"])
    student = {}
    for code in (assignment.preamble_for("Ann"), *(question.solution for question in assignment.executed)):
        exec(code, student)
    for question in assignment.questions:
        test = {}
        exec(build._test_body(assignment, question), test)
        test["hidden_test"](student)


def test_a_withdrawn_question_stays_on_new_pages_without_points():
    assignment = source.withdraw(source.read(source.find_assignment("01")), ["q2"])
    for notebook in (build.student_notebook(assignment), build.nbgrader_notebook(assignment)):
        texts = {cell.id: cell.source for cell in notebook.cells}
        assert build.NOT_COUNTED in texts["q2-text"] and build.NOT_COUNTED not in texts["q1-text"]
        graded = {cell.id for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")}
        assert graded == {f"{question.id}-check" for question in assignment.questions}
        assert "HIDDEN" not in texts["q2-check"]
    assert set(build.solutions(assignment)) == {question.id for question in assignment.executed}
