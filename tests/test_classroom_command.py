"""``llmbook grade`` from outside: one class, graded, changed, interrupted and refused."""

import csv
import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitting
from submitting import STARTERS, notebook

from llmbook.__main__ import main
from llmbook.classroom import grading

pytestmark = pytest.mark.slow


def rows(out):
    return {row["student"]: row for row in csv.DictReader(io.StringIO((out / "grades.csv").read_text()))}


@pytest.fixture
def course(tmp_path):
    base = submitting.open_folder(tmp_path)
    submitting.write_source(base / "course")
    submitting.open_folder(base / "class")
    submitting.open_folder(base / "out")
    return base


def hand_in(course, **contents):
    for name, content in contents.items():
        (course / "class" / f"{name}.ipynb").write_text(content)


def words(course, *more):
    source = course / "course" / "99-tests.md"
    return [str(word) for word in (course / "class", "--assignment", source, "--out", course / "out", *more)]


def unsafe(course, *more):
    return main(["grade", *words(course, "--unsafe-no-sandbox", *more)])


def test_an_installed_package_grades_a_source_by_its_path_and_says_what_it_needs_for_a_name(
    course, capsys, monkeypatch
):
    monkeypatch.setattr("llmbook.classroom.source.FOLDER", course / "site-packages" / "assignments")
    monkeypatch.chdir(course / "class")
    hand_in(course, ann=notebook())
    assert unsafe(course) == 0
    assert main(["grade", str(course / "class"), "--assignment", "03", "--out", str(course / "out")]) == 2
    told = capsys.readouterr().err
    assert "no assignment is called '03' in" in told and "/a/folder/NN-name.md" in told


def test_a_later_failure_takes_the_earlier_mark_away(course, capsys):
    hand_in(course, ann=notebook(), bob=notebook(STARTERS))
    assert unsafe(course) == 0
    assert rows(course / "out")["ann"]["score"] == "6" and rows(course / "out")["bob"]["score"] == "0"
    page = course / "out" / "feedback" / "ann.html"
    assert "6 of 6 points" in page.read_text()
    assert unsafe(course) == 0
    printed = capsys.readouterr()
    assert "2 of 2 submissions were graded before" in printed.out and "WITHOUT a sandbox" in printed.err
    hand_in(course, ann=notebook({"q1": "import os\nos._exit(0)"}))
    assert unsafe(course) == 0
    row = rows(course / "out")["ann"]
    assert (row["status"], row["score"], row["q1"]) == ("failed", "", "") and "dead kernel" in row["reason"]
    assert "6 of 6" not in page.read_text() and "dead kernel" in page.read_text()
    assert "ann: dead kernel" in capsys.readouterr().out


def test_a_run_that_cannot_begin_leaves_no_earlier_mark(course, capsys):
    hand_in(course, ann=notebook())
    assert unsafe(course) == 0
    hand_in(course, ann=notebook(STARTERS))
    source = course / "course" / "99-tests.md"
    source.write_text(source.read_text().replace("return x * 2", "return missing"))
    assert unsafe(course) == 2
    assert "the reference solution failed in q1" in capsys.readouterr().err
    assert (rows(course / "out")["ann"]["status"], rows(course / "out")["ann"]["score"]) == ("pending", "")


def test_an_interrupted_run_goes_on_where_it_was(course):
    submitting.needs_linux()
    slow = "import time\ntime.sleep(60)\n" + submitting.ANSWERS["q2"]
    hand_in(course, ann=notebook(), bob=notebook({"q2": slow}), cyn=notebook({"q2": slow}))
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    program = ["-m", "llmbook", "grade", *words(course, "--workers", "2")]
    process = submitting.start(*program, needs=(course,), start_new_session=True, preexec_fn=heard)
    try:
        limit = time.monotonic() + 120
        while not (course / "out" / "feedback" / "ann.html").exists():
            assert time.monotonic() < limit and process.poll() is None, process.communicate()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "interrupted" in errors
    found = rows(course / "out")
    assert [found[name]["status"] for name in ("ann", "bob", "cyn")] == ["graded", "pending", "pending"]
    when = (course / "out" / "records" / "ann.json").stat().st_mtime_ns
    hand_in(course, bob=notebook(), cyn=notebook())
    status, output, errors = submitting.grade(*words(course), needs=(course,))
    assert status == 0, errors
    assert "1 of 3 submissions were graded before" in output and "3 graded, 0 failed" in output
    assert (course / "out" / "records" / "ann.json").stat().st_mtime_ns == when
    assert {row["score"] for row in rows(course / "out").values()} == {"6"}


def test_two_runs_do_not_write_into_one_folder(course, capsys):
    from filelock import FileLock

    hand_in(course, ann=notebook())
    with FileLock(course / "out" / ".lock"):
        assert unsafe(course) == 2
    assert "another `llmbook grade` is at work" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, reason",
    [
        (["--workers", "0"], "--workers is at least 1"),
        (["--seconds", "0"], "--seconds more than 0"),
        (["--out", "CLASS/out"], "among the submissions"),
        (["--assignment", "77"], "no assignment is called '77'"),
        (["--assignment", "none.md"], "NN-name.md"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(course, capsys, more, reason):
    hand_in(course, ann=notebook())
    more = [word.replace("CLASS", str(course / "class")) for word in more]
    assert unsafe(course, *more) == 2
    errors = capsys.readouterr().err.strip().splitlines()[-1]
    assert reason in errors


def test_root_is_refused_by_the_command(course):
    submitting.needs_linux()
    if os.geteuid() != 0:
        pytest.skip("needs root, to refuse it")
    hand_in(course, ann=notebook())
    command = [sys.executable, "-m", "llmbook", "grade", *words(course)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "you are root" in result.stderr and "Traceback" not in result.stderr
    assert list((course / "out").iterdir()) == []


def test_help_says_what_is_needed(capsys):
    with pytest.raises(SystemExit):
        main(["grade", "--help"])
    assert "--unsafe-no-sandbox" in capsys.readouterr().out


def table(out):
    with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def edit(out, **students):
    """Change cells of students in grades.csv, as a spreadsheet of another country saves it."""
    header, *lines = table(out)
    for line in lines:
        for column, value in students.get(line[0], {}).items():
            line[header.index(column)] = value
    text = io.StringIO()
    csv.writer(text, delimiter=";", lineterminator="\r\n").writerows([header, *lines])
    (out / "grades.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())


HALF = {"q1": "double = abs"}  # 4 of 6 points


def test_a_late_submission_graded_alone_leaves_all_other_lines(course, capsys):
    hand_in(course, ann=notebook(), bob=notebook(HALF), cyn=notebook(assignment="04"))
    assert unsafe(course) == 0
    before = rows(course / "out")
    late = course / "late"
    late.mkdir()
    (late / "dan.ipynb").write_text(notebook())
    (late / "bob.ipynb").write_text(notebook())
    assert main(["grade", str(late), *words(course, "--unsafe-no-sandbox")[1:]]) == 0
    after = rows(course / "out")
    assert list(after) == ["ann", "bob", "cyn", "dan"]
    assert after["ann"] == before["ann"] and after["cyn"] == before["cyn"]
    assert (before["bob"]["score"], after["bob"]["score"], after["dan"]["score"]) == ("4", "6", "6")
    assert "2 students are not in" in capsys.readouterr().out
    (earlier,) = (course / "out" / "records" / "earlier").glob("bob-*.json")
    assert '"earned": 0' in earlier.read_text()


def test_a_mark_changed_in_the_table_stays_until_there_is_another_file(course, capsys):
    hand_in(course, ann=notebook(HALF), bob=notebook(HALF), cyn=notebook(assignment="04"), dan=notebook(HALF))
    assert unsafe(course) == 0
    edit(course / "out", ann={"q1": "1,5"}, bob={"score": "5"}, cyn={"score": "4"})
    assert unsafe(course, "--regrade", "ann", "bob", "dan") == 0  # graded anew, which takes nobody's mark by hand
    printed = capsys.readouterr().out
    for part in ("ann, q1: 1.5 by hand", "bob: 1 points beside those of the questions", "cyn, q2: 2 by hand"):
        assert part in printed
    for _ in range(2):
        found = rows(course / "out")
        assert [found[name]["score"] for name in found] == ["5.5", "5", "4", "4"]
        assert [found["cyn"][question] for question in ("q1", "q2", "q3")] == ["2", "2", "0"]
        assert found["cyn"]["status"] == "graded" and "marked by hand: q1 1.5" in found["ann"]["reason"]
        assert "5.5 of 6 points" in (course / "out" / "feedback" / "ann.html").read_text()
        assert unsafe(course) == 0
    edit(course / "out", bob={"score": "4"})
    hand_in(course, ann=notebook())
    assert unsafe(course) == 0
    assert "ann: another file now; the marks by hand for the old one (q1 1.5)" in capsys.readouterr().out
    found = rows(course / "out")
    assert (found["ann"]["score"], found["bob"]["score"], found["ann"]["reason"]) == ("6", "4", "")
    earlier = [path.read_text() for path in (course / "out" / "records" / "earlier").glob("ann-*.json")]
    assert any('"q1": 1.5' in text for text in earlier)


def test_what_an_instructor_added_to_the_table_stays(course, capsys):
    hand_in(course, ann=notebook(), bob=notebook())
    assert unsafe(course) == 0
    header, ann, bob = table(course / "out")
    with (course / "out" / "grades.csv").open("w", newline="") as file:
        lines = [[*header, "room"], [*ann, "B 12"], [*bob, ""], ["zoe", "Zoe", "on paper", "3", *[""] * 7]]
        csv.writer(file).writerows(lines)
    assert unsafe(course) == 0
    found = rows(course / "out")
    (kept,) = (course / "out" / "records" / "earlier").glob("grades-*.csv")
    assert "B 12" in kept.read_text()
    assert found["ann"]["room"] == "B 12" and found["zoe"]["score"] == "3" and found["zoe"]["status"] == "on paper"
    edit(course / "out", ann={"q1": "two"})
    before = (course / "out" / "grades.csv").read_bytes()
    assert unsafe(course) == 2
    assert "grades.csv, ann: q1 is 'two'; give a number" in capsys.readouterr().err
    assert (course / "out" / "grades.csv").read_bytes() == before


def test_one_student_is_graded_again(course, capsys):
    slow = {"q2": "import time\ntime.sleep(3)\n" + submitting.ANSWERS["q2"]}
    hand_in(course, ann=notebook(slow), bob=notebook())
    assert unsafe(course, "--seconds", "4") == 0
    assert rows(course / "out")["ann"]["q2"] != "3"
    when = (course / "out" / "records" / "bob.json").stat().st_mtime_ns
    assert unsafe(course, "--seconds", "60", "--regrade", "ann") == 0
    assert rows(course / "out")["ann"]["score"] == "6"
    assert (course / "out" / "records" / "bob.json").stat().st_mtime_ns == when
    assert unsafe(course, "--regrade", "eve") == 2
    assert "--regrade eve: no such student" in capsys.readouterr().err


def test_a_question_is_withdrawn_and_comes_back(course, capsys):
    hand_in(course, ann=notebook(HALF), bob=notebook())
    assert unsafe(course) == 0
    edit(course / "out", bob={"q1": "1"})
    for more in (["--withdraw", "q1"], []):
        assert unsafe(course, *more) == 0
        found = rows(course / "out")
        assert [(row["score"], row["max_score"]) for row in found.values()] == [("4", "4"), ("4", "4")]
        assert "q1" not in found["ann"]
        assert "2 of 2 submissions were graded before" in capsys.readouterr().out
    assert unsafe(course, "--withdraw", "none") == 0
    assert [(row["q1"], row["score"], row["max_score"]) for row in rows(course / "out").values()] == [
        ("0", "4", "6"),
        ("1", "5", "6"),
    ]
    assert unsafe(course, "--withdraw", "q8") == 2
    assert "no question q8 to withdraw" in capsys.readouterr().err


def test_a_missing_answer_costs_its_question_and_is_said(course, capsys):
    hand_in(course, ann=notebook({"q2": None}))
    assert unsafe(course) == 0
    row = rows(course / "out")["ann"]
    assert (row["status"], row["score"], row["q2"]) == ("graded", "3", "0") and "q2 is missing" in row["reason"]
    assert "ann: question q2 is missing" in capsys.readouterr().out
    page = (course / "out" / "feedback" / "ann.html").read_text()
    assert "there is no answer cell: it was deleted or renamed" in page


def test_a_broken_file_never_stops_the_class(course):
    hand_in(course, ann=notebook())
    for name, content in submitting.broken_archives().items():
        (course / "class" / f"{name}.zip").write_bytes(content)
    (course / "class" / "x;=HYPERLINK(1).ipynb").write_text("{}")
    assert unsafe(course) == 0
    found = rows(course / "out")
    assert found["ann"]["score"] == "6" and len(found) == 5
    assert all(row["status"] == "failed" and row["reason"] for name, row in found.items() if name != "ann")
    text = (course / "out" / "grades.csv").read_text()
    for separator in ",;\t":
        cells = [cell for line in csv.reader(io.StringIO(text), delimiter=separator) for cell in line]
        assert not any(cell.lstrip(" \"'").startswith("=") and cell[0] != "'" for cell in cells)


def test_a_class_keeps_the_platform_that_named_it(course, capsys):
    canvas = course / "class"
    for number, name in enumerate(["ann", "bob"], start=1):
        (canvas / f"{name}_{number}_98{number}_work.ipynb").write_text(notebook())
    assert unsafe(course) == 0
    late = course / "late"
    late.mkdir()
    (late / "1.ipynb").write_text(notebook(HALF))
    assert main(["grade", str(late), *words(course, "--unsafe-no-sandbox")[1:]]) == 2
    assert "--platform canvas or --platform plain" in capsys.readouterr().err
    assert rows(course / "out")["1"]["score"] == "6"
    assert main(["grade", str(late), *words(course, "--unsafe-no-sandbox", "--platform", "plain")[1:]]) == 0
    assert [row["score"] for row in rows(course / "out").values()] == ["4", "6"]


SLOW = {"q2": "import time\ntime.sleep(3)\n" + submitting.ANSWERS["q2"]}


def interrupted(monkeypatch, course, *more):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(grading, "grade_all", stop)
        assert unsafe(course, *more) == 130


def test_a_score_that_was_entered_stays_when_a_question_earns_more(course, capsys):
    hand_in(course, ann=notebook(SLOW))
    assert unsafe(course, "--seconds", "4") == 0
    edit(course / "out", ann={"score": "6.5"})
    assert unsafe(course, "--seconds", "4") == 0
    assert (rows(course / "out")["ann"]["q2"], rows(course / "out")["ann"]["score"]) == ("0", "6.5")
    for _ in range(2):
        assert unsafe(course, "--seconds", "60") == 0
        row = rows(course / "out")["ann"]
        assert (row["q2"], row["score"], row["reason"]) == ("3", "6.5", "marked by hand: score 6.5")
        assert "6.5 of 6 points" in (course / "out" / "feedback" / "ann.html").read_text()
    edit(course / "out", ann={"q1": "1"})
    assert unsafe(course) == 0
    assert "ann: the score stays 6.5, as entered" in capsys.readouterr().out
    assert unsafe(course, "--withdraw", "q2") == 0  # what was beside the questions, now of others
    assert rows(course / "out")["ann"]["score"] == "3.5"
    edit(course / "out", ann={"score": ""})
    assert unsafe(course, "--withdraw", "none") == 0
    assert rows(course / "out")["ann"]["score"] == "5"


@pytest.mark.parametrize("name", [".grades-next.csv", "grades.csv", ".grades.csv"])
def test_the_programs_own_marks_are_none_by_hand_after_a_run_that_broke_off(course, monkeypatch, name):
    hand_in(course, ann=notebook(HALF), bob=notebook(HALF))
    assert unsafe(course) == 0
    hand_in(course, ann=notebook())
    place, full = Path.replace, iter([False, True])

    def replace(path, target):
        if Path(target).name == name and next(full, False):
            raise OSError(28, "No space left on device")
        return place(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        assert unsafe(course) == 2
    edit(course / "out", bob={"q1": "1"})
    for _ in range(2):
        assert unsafe(course) == 0
        found = rows(course / "out")
        assert (found["ann"]["score"], found["ann"]["reason"]) == ("6", "")
        assert (found["bob"]["score"], found["bob"]["reason"]) == ("5", "marked by hand: q1 1")


def test_marks_by_hand_outlast_a_file_that_cannot_be_read_for_once(course, capsys):
    hand_in(course, ann=notebook(HALF))
    assert unsafe(course) == 0
    edit(course / "out", ann={"q1": "2"})
    path = course / "class" / "ann.ipynb"
    content = path.read_text()
    path.unlink()
    path.symlink_to(course / "nowhere")
    assert unsafe(course) == 0
    assert rows(course / "out")["ann"]["status"] == "failed"
    path.unlink()
    path.write_text(content)
    assert unsafe(course) == 0
    assert rows(course / "out")["ann"]["score"] == "6" and "another file" not in capsys.readouterr().out
    path.unlink()
    path.symlink_to(course / "nowhere")
    assert unsafe(course) == 0
    path.unlink()
    path.write_text(notebook({"q2": "total = 5"}))
    assert unsafe(course) == 0
    assert rows(course / "out")["ann"]["score"] == "3" and "ann: another file now" in capsys.readouterr().out


def test_another_file_is_noticed_after_a_run_that_was_interrupted(course, monkeypatch, capsys):
    hand_in(course, ann=notebook(HALF), bob=notebook(HALF))
    assert unsafe(course) == 0
    edit(course / "out", ann={"q1": "2", "q2": "0"}, bob={"q1": "2"})
    interrupted(monkeypatch, course, "--regrade", "ann", "bob")
    hand_in(course, ann=notebook())
    assert unsafe(course) == 0
    assert "ann: another file now; the marks by hand for the old one (q1 2, q2 0)" in capsys.readouterr().out
    found = rows(course / "out")
    assert [(row["score"], row["q1"], row["q2"]) for row in found.values()] == [("6", "2", "3"), ("6", "2", "3")]
    earlier = [path.read_text() for path in (course / "out" / "records" / "earlier").glob("ann-*.json")]
    assert any('"q2": 0' in text for text in earlier)


def test_a_mark_entered_while_a_line_was_pending_counts(course, monkeypatch):
    hand_in(course, ann=notebook(HALF), bob=notebook(HALF))
    interrupted(monkeypatch, course)
    edit(course / "out", ann={"score": "5"}, bob={"q1": "1"})
    assert unsafe(course) == 0
    assert [row["score"] for row in rows(course / "out").values()] == ["5", "5"]


def test_the_marks_by_hand_of_a_failed_submission_lie_among_the_earlier_ones(course):
    hand_in(course, cyn=notebook(assignment="04"))
    assert unsafe(course) == 0
    edit(course / "out", cyn={"score": "4"})
    assert unsafe(course) == 0
    hand_in(course, cyn=notebook(assignment="05"))
    assert unsafe(course) == 0
    earlier = [path.read_text() for path in (course / "out" / "records" / "earlier").glob("cyn-*.json")]
    assert any('"q2": 2' in text for text in earlier)


def test_a_table_that_is_changed_during_a_run_is_kept_and_said(course, monkeypatch, capsys):
    hand_in(course, ann=notebook(HALF), bob=notebook(HALF))
    assert unsafe(course) == 0
    grade_all = grading.grade_all

    def meanwhile(*arguments):
        edit(course / "out", bob={"q1": "1.75"})
        return grade_all(*arguments)

    monkeypatch.setattr(grading, "grade_all", meanwhile)
    assert unsafe(course, "--regrade", "ann") == 0
    assert "grades.csv was changed while this run was at work" in capsys.readouterr().err
    (kept,) = (course / "out" / "records" / "earlier").glob("grades-*.csv")
    assert "1.75" in kept.read_text() and rows(course / "out")["bob"]["q1"] == "0"


def test_a_line_of_no_known_student_is_named(course, capsys):
    hand_in(course, **{"00123": notebook(HALF)})
    assert unsafe(course) == 0
    assert "belong to no known student" not in capsys.readouterr().out
    table = course / "out" / "grades.csv"
    table.write_text(table.read_text().replace("00123,00123,graded,4,6,0", "123,123,graded,6,6,2"))
    assert unsafe(course) == 0
    assert "1 lines of grades.csv belong to no known student and stay as they are: 123" in capsys.readouterr().out
    assert rows(course / "out")["00123"]["score"] == "4"


def test_points_with_a_fraction_are_added_as_people_do(course, capsys):
    hand_in(course, ann=notebook())
    assert unsafe(course) == 0
    edit(course / "out", ann={"q1": "0.1", "q2": "0.2", "q3": "0"})
    assert unsafe(course) == 0
    assert rows(course / "out")["ann"]["score"] == "0.3"
    edit(course / "out", ann={"score": "0.4"})
    assert unsafe(course) == 0
    assert "ann: 0.1 points beside those" in capsys.readouterr().out and rows(course / "out")["ann"]["score"] == "0.4"


def test_a_withdrawn_question_goes_from_the_pages_and_is_graded_where_it_comes_back(course, capsys):
    hand_in(course, ann=notebook(HALF))
    assert unsafe(course) == 0
    late = course / "late"
    late.mkdir()
    (late / "dan.ipynb").write_text(notebook({"q3": "answer = int(double(21))"}))
    again = ["grade", str(late), *words(course, "--unsafe-no-sandbox")[1:]]
    assert main([*again, "--withdraw", "q1"]) == 0
    found = rows(course / "out")
    assert [(row["score"], row["max_score"]) for row in found.values()] == [("4", "4"), ("4", "4")]
    page = (course / "out" / "feedback" / "ann.html").read_text()
    assert "4 of 4 points" in page and "Question 1" not in page
    assert unsafe(course, "--withdraw", "none") == 0
    row = rows(course / "out")["dan"]
    assert (row["status"], row["score"]) == ("pending", "") and "q1 did not count" in row["reason"]
    assert "Not graded: q1 did not count" in (course / "out" / "feedback" / "dan.html").read_text()
    assert main(again) == 0
    assert rows(course / "out")["dan"]["score"] == "6"


def test_a_submission_marked_by_hand_is_counted_as_graded(course, capsys):
    hand_in(course, cyn=notebook(assignment="04"))
    assert unsafe(course) == 0
    assert "0 graded, 1 failed" in capsys.readouterr().out
    edit(course / "out", cyn={"score": "4"})
    assert unsafe(course) == 0
    assert "1 graded, 0 failed" in capsys.readouterr().out


def test_a_late_file_of_blackboard_belongs_to_the_same_student(course, capsys):
    for name in ("ann_lee", "lee"):
        path = course / "class" / f"Task 3_{name}_attempt_2026-03-01-12-30-00_w.ipynb"
        path.write_text(notebook(HALF))
    late = submitting.open_folder(course / "late")
    (late / "Task 3_ann_lee_attempt_2026-03-02-12-30-00_w.ipynb").write_text(notebook())
    again = ["grade", str(late), *words(course, "--unsafe-no-sandbox")[1:]]
    assert main(again) == 2  # alone it may be Lee's
    assert "'Task 3_ann_lee' may be a title and a student's id in several ways" in capsys.readouterr().err
    assert unsafe(course) == 0
    assert main(again) == 0
    assert {student: row["score"] for student, row in rows(course / "out").items()} == {"ann_lee": "6", "lee": "4"}
    (late / "Task 4_bob_attempt_2026-03-02-12-30-00_w.ipynb").write_text(notebook())
    assert main(again) == 2
    assert "now there is 'Task 4_bob'" in capsys.readouterr().err


BOTH = """
import csv, json, sys
from pathlib import Path
from nbgrader.api import Gradebook
from llmbook.__main__ import main
words, out = sys.argv[2:], Path(sys.argv[1])
def grade(*more):
    assert main(["grade", *words, *more]) == 0
    with (out / "grades.csv").open(encoding="utf-8-sig", newline="") as file:
        table = {row["student"]: row["score"] for row in csv.DictReader(file)}
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
        scores = {s.student.id: [s.score, s.max_score] for s in book.assignment_submissions("99-tests")}
    found.append([table, scores])
def enter(student, question, **values):
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
        grade = book.find_grade(f"{question}-check", "99-tests", "99-tests", student)
        for name, value in values.items():
            setattr(grade, name, value)
        book.db.commit()
found = []
grade()
enter("ann", "q1", manual_score=1.0)
enter("bob", "q2", extra_credit=0.5)
grade()
grade("--regrade", "ann", "bob", "cyn")
text = (out / "grades.csv").read_text()
(out / "grades.csv").write_text(text.replace("cyn,cyn,graded,4,6,0,", "cyn,cyn,graded,4,6,2,"))
grade()
enter("cyn", "q1", manual_score=None)
grade()
grade("--withdraw", "q3")
grade("--withdraw", "none")
print(json.dumps(found))
"""


def test_the_table_and_the_gradebook_agree_whichever_was_changed(course):
    import classroom as overlay

    hand_in(course, ann=notebook(HALF), bob=notebook(), cyn=notebook(HALF))
    command = [sys.executable, "-c", BOTH, course / "out", *words(course, "--unsafe-no-sandbox")]
    result = subprocess.run(command, capture_output=True, text=True, env=overlay.environment())
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    for table, book in found:
        assert {student: float(score) for student, score in table.items()} == {
            student: score for student, (score, _) in book.items()
        }
    scores = [[float(table[student]) for student in ("ann", "bob", "cyn")] for table, _ in found]
    entered = [5, 6.5, 4]
    assert scores == [[4, 6, 4], entered, entered, [5, 6.5, 6], entered, [4, 5.5, 3], entered]
    assert [book["ann"][1] for _, book in found] == [6, 6, 6, 6, 6, 5, 6]
