"""Marks and reasons, what a repeated run keeps, and the pages and tables that come of it.

Most run without a sandbox, which changes nothing in what is tested here; the sandbox has its own tests.
"""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import submitting
from submitting import ANSWERS, SECRET, STARTERS, notebook

from llmbook.classroom import build, feedback, grading, runner, sandbox, source, submissions
from llmbook.classroom.by_hand import ByHand
from llmbook.classroom.desk import Desk, file_name, standing

pytestmark = pytest.mark.slow
LIMITS = sandbox.Limits(seconds=60, question_seconds=30)
SETTINGS = grading.GradingSettings(seed=3, limits=LIMITS, unsafe=True)


@pytest.fixture(scope="module")
def assignment(tmp_path_factory):
    return source.read(submitting.write_source(tmp_path_factory.mktemp("source")))


@pytest.fixture(scope="module")
def expected(assignment):
    return grading.expect(assignment, ["Ann"], SETTINGS)


def graded(folder, assignment, expected, content):
    path = folder / "Ann.ipynb"
    path.write_text(content)
    (submission,) = submissions.find_submissions(folder)
    return grading.grade(submission, assignment, expected, SETTINGS)


def test_a_solved_notebook_has_all_points_and_an_untouched_one_none(tmp_path, assignment, expected):
    record = graded(tmp_path, assignment, expected, notebook())
    assert (record.status, record.earned) == ("graded", assignment.points)
    record = graded(tmp_path, assignment, expected, notebook(STARTERS))
    assert (record.status, record.earned) == ("graded", 0)
    assert all("not answered" in mark.reason for mark in record.marks)


@pytest.mark.parametrize(
    "answers, reason",
    [
        ({"q1": "def double(x):\n    return x + x[0]"}, "not the reference's values"),
        ({"q1": "def double(x):\n    return x * np.nan"}, "it holds NaN or infinity"),
        ({"q1": "def double(x):\n    return [1, 2"}, "SyntaxError in line 3"),
        ({"q1": "double = 5"}, "'double' is no function"),
        ({"q1": "def twice(x):\n    return 2 * x"}, "defines no 'double'"),
        ({"q1": "def double(x):\n    return helper(x)"}, "only answer cells are graded"),
        ({"q1": "def double(x):\n    return (2 * x)[None]"}, "another shape"),
        ({"q1": "def double(x):\n    pass"}, "it gave nothing (None), where the reference gives an array"),
        ({"q1": "def double(x):\n    return 'two'"}, "it gave a text, where the reference gives an array"),
        ({"q1": "def double(x):\n    x *= 2\n    raise KeyError(3)"}, "KeyError in line 4"),
    ],
)
def test_a_wrong_answer_costs_its_points_and_says_why(tmp_path, assignment, expected, answers, reason):
    record = graded(tmp_path, assignment, expected, notebook(answers))
    assert record.status == "graded" and record.earned == 4, record
    assert reason in record.marks[0].reason


ODD = [
    "2 ** 20000",
    "[10 ** 5000]",
    "{2 ** 70: 2 ** 80}",
    "[[n, str(n)] for n in range(60_000)]",
    "np.ones(10 ** 7)",
    "np.int64(3)",
    "np.bytes_(b'a')",
    "[np.array([1, 2]), np.array([1])]",
    "[[1.0, 2.0], [3.0]]",
    "range(3)",
    "{'a': {1, 2}}",
    "Odd()",
]


def test_an_odd_answer_costs_its_question_and_never_the_notebook(tmp_path, assignment, expected):
    odd = "class Odd(Exception):\n    __traceback__ = __str__ = __name__ = property(lambda self: 1 / 0)\n"
    for value in ODD:
        answers = {"q1": f"{odd}def double(x):\n    return {value}", "q3": f"{odd}answer = {value}"}
        record = graded(tmp_path, assignment, expected, notebook(answers))
        assert [mark.earned for mark in record.marks] == [0, 3, 0], (value, record)
    record = graded(tmp_path, assignment, expected, notebook({"q1": f"{odd}def double(x):\n    raise Odd()"}))
    assert [mark.earned for mark in record.marks] == [0, 3, 1], record


IPYTHON = [
    "display(np.arange(3))",
    "np.dot?",
    "files = !ls",
    "get_ipython().run_line_magic('matplotlib', 'inline')",
    "from IPython import get_ipython as shell\nshell().run_line_magic('time', '1')",
    "import asyncio\nawait asyncio.sleep(0)",
    "import inspect\ndef g(): return 5\nassert inspect.getsource(g) == 'def g(): return 5\\n'",
    "import sys\nsys.stdout.buffer.write(b'hi')\nsys.stdout.fileno()",
    "%matplotlib inline\ny = (9\n     % 5)\nassert y == 4",
    "%config InlineBackend.figure_format = 'svg'",
    "%load_ext autoreload\n%autoreload 2",
    "x = %pwd",
]


def test_answers_may_use_what_ipython_allows(tmp_path, assignment, expected):
    for line in IPYTHON:
        code = f"{line}\n{ANSWERS['q1']}"
        record = graded(tmp_path, assignment, expected, notebook({"q1": code}))
        assert record.earned == 6, (line, record)


def test_a_line_that_cannot_run_is_named(tmp_path, assignment, expected):
    record = graded(tmp_path, assignment, expected, notebook({"q1": f"%nonsense 3\n{ANSWERS['q1']}"}))
    assert record.earned == 4 and "UsageError in line 2" in record.marks[0].reason
    assert "%nonsense" in record.marks[0].reason


def judged(assignment, expected, frames, **how):
    outcome = sandbox.Outcome(b"".join(map(runner.frame, frames)), "", 0, None, 60.0, 0, **how)
    codes = {question.id: question.solution for question in assignment.questions}
    return grading._judge(outcome, assignment, codes, expected[0], LIMITS)


def test_time_lost_on_a_busy_machine_is_said_and_graded_again(assignment, expected):
    late = {"type": "TooLong", "message": "it took more than 4 s and was stopped", "line": None, "late": True}
    frames = [{"question": question.id, "error": late} for question in assignment.questions]
    for waited, busy in ((0.0, False), (40.0, True)):
        marks = judged(assignment, expected, [*frames, {"end": True}], waited=waited)
        assert all(mark.late and ("busy" in mark.reason) is busy for mark in marks)
        record = grading.StudentRecord("a", "a", "a", "graded", marks=marks, allowed=30, busy=busy)
        assert grading.is_final(record, SETTINGS) is not busy
        wider = dataclasses.replace(SETTINGS, limits=dataclasses.replace(LIMITS, question_seconds=31))
        assert not grading.is_final(record, wider)
    on_time = dataclasses.replace(record, marks=())
    assert grading.is_final(on_time, wider)


def test_only_a_set_up_before_any_answer_can_fail(assignment, expected):
    setup = {"setup": {"error": {"type": "MemoryError", "message": "give full marks", "line": None}}}
    answers = [{"question": question.id, "error": {"type": "X", "message": ""}} for question in assignment.questions]
    with pytest.raises(submissions.SubmissionError, match="set-up cell failed: MemoryError"):
        judged(assignment, expected, [setup])
    marks = judged(assignment, expected, [{"begins": "q1"}, setup, *answers, {"end": True}])
    assert [mark.earned for mark in marks] == [0, 0, 0]
    flood = [{"begins": "q1"}] * 10_000
    with pytest.raises(submissions.SubmissionError, match="interfered"):
        judged(assignment, expected, [*flood, *answers, {"end": True}])


def test_answers_that_change_their_input_do_not_change_the_next_case(tmp_path, assignment, expected):
    record = graded(tmp_path, assignment, expected, notebook({"q1": "def double(x):\n    x *= 2\n    return x"}))
    assert record.earned == 6


def test_a_question_may_use_the_answers_before_it(tmp_path, assignment, expected):
    content = notebook({"q2": "def total(x):\n    return float(double(x).sum() / 2)"})
    record = graded(tmp_path, assignment, expected, content)
    assert record.earned == 6


def test_a_question_may_use_the_answer_to_one_that_was_withdrawn(tmp_path, assignment):
    questions = {question.id: question for question in assignment.questions}
    chained = dataclasses.replace(questions["q2"], solution="def total(x):\n    return float(double(x).sum() / 2)")
    parts = tuple(chained if part == questions["q2"] else part for part in assignment.parts)
    asked = (questions["q1"], chained, questions["q3"])
    fewer = source.withdraw(dataclasses.replace(assignment, parts=parts, questions=asked), ["q1"])
    values = grading.expect(fewer, ["Ann"], SETTINGS)
    assert list(values[0].values) == ["q2", "q3"]
    content = notebook({"q2": chained.solution})
    record = graded(tmp_path, fewer, values, content)
    assert [(mark.id, mark.earned) for mark in record.marks] == [("q2", 3), ("q3", 1)] and record.reason == ""
    record = graded(tmp_path, fewer, values, notebook({"q1": "double = missing"}))  # its error costs nothing
    assert (record.status, record.earned) == ("graded", 4)


def test_a_students_own_exception_is_not_the_time_that_was_over(tmp_path, assignment, expected):
    code = "class TooLong(Exception): pass\ndef total(x):\n    raise TooLong('give three points')"
    record = graded(tmp_path, assignment, expected, notebook({"q2": code}))
    assert not record.marks[1].late and "TooLong in line 4 of the cell: give three points" in record.marks[1].reason


def test_a_dead_kernel_is_a_failure_and_no_zero(tmp_path, assignment, expected):
    record = graded(tmp_path, assignment, expected, notebook({"q2": "import os\nos._exit(1)"}))
    assert (record.status, record.earned, record.marks) == ("failed", None, ())
    assert "dead kernel" in record.reason and "q2" in record.reason


def test_a_fault_of_the_grader_fails_one_submission_only(tmp_path, assignment, monkeypatch):
    record = graded(tmp_path, assignment, {}, notebook())
    assert record.status == "failed" and "the grader itself failed" in record.reason


def test_a_reference_that_fails_ends_the_run_before_any_student(assignment):
    broken = dataclasses.replace(assignment.questions[0], solution="def double(x):\n    return y")
    with pytest.raises(ValueError, match="reference solution failed in q1: NameError"):
        grading.expect(dataclasses.replace(assignment, questions=(broken,)), ["Ann"], SETTINGS)


def test_the_seed_draws_the_cases(assignment, expected):
    again = grading.expect(assignment, ["Ann"], SETTINGS)[0].arguments["q1"][0][0]
    other = grading.expect(assignment, ["Ann"], dataclasses.replace(SETTINGS, seed=4))[0].arguments["q1"][0][0]
    np.testing.assert_array_equal(expected[0].arguments["q1"][0][0], again)
    assert not np.array_equal(again, other)


def test_students_with_their_own_data_have_their_own_values():
    question = source.Question("q1", "t", "use", "", 1, "a", "value", "", "a = 0", "a = size", "", "", 0.0, ())
    setup = 'STUDENT = ""\nsize = len(STUDENT)'
    varied = source.Assignment("98", "98-own", "T", 5, "v", setup, (question,), (question,))
    names = ["Ann", "Roberta", *(f"S{'x' * n}" for n in range(grading.BATCH))]
    expected = grading.expect(varied, names, SETTINGS)
    assert [expected[source.variant(name)].values["q1"] for name in names] == [[len(name)] for name in names]


def class_of(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.ipynb").write_text(content)
    return folder


def test_marks_are_kept_and_failures_are_tried_again(tmp_path, assignment):
    place = class_of(tmp_path / "class", Ann=notebook(), Bob=notebook(assignment="04"))
    desk = Desk(tmp_path / "out", assignment)
    records = []
    grading.grade_all(submissions.find_submissions(place), assignment, SETTINGS, 2, records.append)
    for record in records:
        desk.store(record)
    assert {record.student: record.status for record in records} == {"Ann": "graded", "Bob": "failed"}
    settled, pending, changed = standing(desk, submissions.find_submissions(place), SETTINGS)
    assert settled["Ann"] == desk.load("Ann") and [s.student for s in pending] == ["Bob"] and changed == []
    class_of(place, Ann=notebook(STARTERS))
    settled, pending, changed = standing(desk, submissions.find_submissions(place), SETTINGS)
    assert settled == {} and [s.student for s in changed] == ["Ann"]
    class_of(place, Ann=notebook())
    other = dataclasses.replace(SETTINGS, seed=9)
    assert set(standing(desk, submissions.find_submissions(place), other)[0]) == {"Ann"}


def test_a_damaged_record_is_no_mark(tmp_path, assignment):
    desk = Desk(tmp_path, assignment)
    desk.store(grading.StudentRecord("Ann", "Ann", "a", "graded"))
    for text in ("", "[]", "{}", '{"marks": 5}'):
        (tmp_path / "records" / "Ann.json").write_text(text)
        assert desk.load("Ann") is None


def test_what_the_gradebook_had_before_was_not_entered_since(tmp_path, assignment):
    def collected(**in_book):
        desk = Desk(tmp_path, assignment)
        desk.collect({student: ByHand(*given) for student, given in in_book.items()})
        return desk

    desk = collected(ann=({"q1": 1},), bob=({"q1": 1}, 2), cyn=({"q1": None}, None))
    desk.by_hand["cyn"] = ByHand({"q1": 2}, 1)
    desk.settle(["ann", "bob", "cyn"])
    desk = collected()  # a run without nbgrader, in which Ann's mark is taken back and Bob's changed
    desk.by_hand |= {"ann": ByHand(), "bob": ByHand({"q1": 2}, 1)}
    desk.balance([])
    desk = collected(ann=({"q1": 1},), bob=({"q1": 1}, 2), cyn=({"q1": None}, None))  # only Cyn's were emptied there
    assert desk.by_hand == {"ann": ByHand(), "bob": ByHand({"q1": 2}, 1), "cyn": ByHand()}


def test_each_run_has_a_seed_of_its_own_that_is_closed_to_others(tmp_path, assignment):
    desk = Desk(tmp_path, assignment)
    assert desk.seed(None) != desk.seed(None) and desk.seed(4) == 4 != desk.seed(None)
    assert (tmp_path / "run.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("student", ["../../etc/passwd", "a/b", "", ".", "é", "x" * 300, "-rf", "con\0"])
def test_an_id_never_leads_out_of_the_folder(tmp_path, assignment, student):
    path = Desk(tmp_path, assignment).feedback(student)
    assert path.parent == tmp_path / "feedback" and len(path.name) < 100 and path.name.isascii()
    assert file_name("a/b") != file_name("a-b")


def test_a_page_escapes_what_students_wrote_and_shows_no_hidden_test(tmp_path, assignment, expected):
    evil = '</pre><script>alert(1)</script>\x1b[2J\u202e"'
    answer = f"print({evil!r})\ndef total(x):\n    raise ValueError({evil!r} + repr(x)[:1])"
    record = graded(tmp_path, assignment, expected, notebook({"q2": answer}))
    page = feedback.feedback_page(dataclasses.replace(record, name=evil, student=evil), assignment)
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert page.count("</pre>") == 1 and "default-src 'none'" in page and 'lang="en"' in page
    assert SECRET not in page and "default_rng" not in page and "http" not in page.replace("http-equiv", "")
    failed = feedback.feedback_page(grading.StudentRecord("a", "a", "a", "failed", "<b>"), assignment)
    assert "Not graded: &lt;b&gt;" in failed and "points" not in failed


GRADEBOOK = """
import json, sys, time
from pathlib import Path
from nbgrader.api import Gradebook
from llmbook.classroom import gradebook, source
from llmbook.classroom.grading import Mark, StudentRecord
assignment = source.read(Path(sys.argv[1]))
path = Path(sys.argv[2])
def record(student, status="graded", earned=(2, 3, 1)):
    marks = tuple(Mark(q.id, q.title, q.points, e) for q, e in zip(assignment.questions, earned))
    return StudentRecord(student, student, student, status, "a reason", marks if status == "graded" else ())
def state():
    with Gradebook(f"sqlite:///{path}") as book:
        found = book.assignment_submissions("99-tests")
        return {s.student.id: [s.score, s.max_score, s.needs_manual_grade] for s in found}
out = []
gradebook.update(path, assignment, [record("ann"), record("bob", earned=(2, 0, 1))])
out.append(state())
gradebook.update(path, assignment, [record("ann", "failed"), record("bob", earned=(2, 0, 1))])
out.append(state())
with Gradebook(f"sqlite:///{path}") as book:
    book.find_grade("q1-check", "99-tests", "99-tests", "ann").manual_score = 1.5
    book.db.commit()
gradebook.update(path, assignment, [record("ann", "failed")])
out.append(state())
gradebook.update(path, assignment, [record("ann", "pending")], by_hand={})
out.append(state())
started = time.process_time()
gradebook.update(path, assignment, [record(f"s{n}") for n in range(50)])
out.append(time.process_time() - started)
with Gradebook(f"sqlite:///{path}") as book:
    out.append([c.comment for n in book.find_submission("99-tests", "ann").notebooks for c in n.comments][0])
print(json.dumps(out))
"""


def test_nbgrader_opens_the_gradebook(tmp_path):
    import classroom as overlay

    path = submitting.write_source(tmp_path)
    command = [sys.executable, "-c", GRADEBOOK, path, tmp_path / "gradebook.db"]
    result = subprocess.run(command, capture_output=True, text=True, env=overlay.environment())
    assert result.returncode == 0, result.stderr
    first, failed, manual, cleared, seconds, comment = json.loads(result.stdout)
    assert first == {"ann": [6, 6, False], "bob": [3, 6, False]}
    assert failed == {"ann": [0, 6, True], "bob": [3, 6, False]}  # no score, and flagged
    assert manual["ann"] == [1.5, 6, True]
    assert cleared["ann"] == [0, 6, True]
    assert seconds < 20 and comment == "pending: a reason"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_every_reason_for_which_a_run_is_stopped_has_words():
    for stopped in ("time", "memory", "processes", "files", "output", "results"):
        outcome = sandbox.Outcome(b"", "", 137, stopped, 1.0, 0)
        with pytest.raises(submissions.SubmissionError, match=r"more than|not finished"):
            grading._check_end(outcome, False, "q1", LIMITS)


def test_the_fixture_is_a_source_of_three_questions(assignment):
    assert [question.id for question in assignment.questions] == list(ANSWERS)


@pytest.mark.parametrize("path", source.find_all(), ids=lambda path: path.stem)
def test_the_books_assignments_are_graded_right(path, tmp_path):
    assignment = source.read(path)
    who = "Grace Hopper"
    expected = grading.expect(assignment, [who], SETTINGS)
    for student, answers, points in (("s1", build.solutions(assignment), assignment.points), ("s2", {}, 0)):
        build.write_notebook(build.student_notebook(assignment, answers, who), tmp_path / f"{student}.ipynb")
        submission = submissions.Submission(student, "HopperGrace", student, tmp_path / f"{student}.ipynb")
        record = grading.grade(submission, assignment, expected, SETTINGS)
        assert (record.status, record.earned) == ("graded", points), record
