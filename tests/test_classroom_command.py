"""``llmbook grade`` from outside: one class, graded, changed, interrupted and refused."""

import csv
import functools
import io
import os
import signal
import subprocess
import sys
import time

import pytest
import submitting
from submitting import STARTERS, notebook

from llmbook.__main__ import main

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
        while not (course / "out" / "records" / "ann.json").exists():
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
