"""Who handed in what: names of learning platforms, archives, and the cells of a notebook."""

import dataclasses
import json
import zipfile

import pytest
import submitting
from hypothesis import given
from hypothesis import strategies as st
from submitting import ANSWERS, notebook

from llmbook.classroom import source, submissions
from llmbook.classroom.submissions import SubmissionError, answers, find_submissions


@pytest.fixture(scope="module")
def assignment(tmp_path_factory):
    return source.read(submitting.write_source(tmp_path_factory.mktemp("source")))


def put(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook() if content is None else content)
    return path


@pytest.mark.parametrize(
    "name, student, who",
    [
        ("Jane Doe_123456_assignsubmission_file_/work.ipynb", "123456", "Jane Doe"),
        ("Jane Doe_123456_assignsubmission_file/work.ipynb", "123456", "Jane Doe"),
        ("Jane Doe_123456_assignsubmission_file_work.ipynb", "123456", "Jane Doe"),
        ("Zoë O'Neil_7_assignsubmission_file_a b/c.ipynb", "7", "Zoë O'Neil"),
        ("doejane_123_456_work.ipynb", "123", "doejane"),
        ("doejane_LATE_123_456_work-1.ipynb", "123", "doejane"),
        ("jane/03-attention/03-attention.ipynb", "jane", "jane"),
        ("jane.doe@example.org.ipynb", "jane.doe@example.org", "jane.doe@example.org"),
    ],
)
def test_platforms_names_are_understood(tmp_path, name, student, who):
    put(tmp_path / name)
    (found,) = find_submissions(tmp_path)
    assert (found.student, found.name, found.problem) == (student, who, None)
    assert found.content() == notebook().encode()


def test_the_students_part_of_a_name_does_not_decide_whose_it_is(tmp_path):
    put(tmp_path / "moodle" / "Eve_5_assignsubmission_file_Ann_100_assignsubmission_file_a.ipynb")
    put(tmp_path / "canvas" / "eve_6_7_ann_100_200_a.ipynb")
    put(tmp_path / "blackboard" / "Task 3_eve_attempt_2026-03-01-12-30-00_Task 3_ann_attempt_2026-03-01-12-30-00_a.ipynb")
    found = [find_submissions(tmp_path / platform)[0] for platform in ("moodle", "canvas", "blackboard")]
    assert [one.student for one in found] == ["5", "6", "eve"]


def test_a_whole_class_may_come_as_one_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "class.zip", "w") as file:
        file.writestr("Ann_1_assignsubmission_file_/a.ipynb", notebook())
        file.writestr("Bob_2_assignsubmission_file_/../../etc/a.ipynb", notebook())
        file.writestr("Cyn_3_assignsubmission_file_/essay.pdf", "pdf")
    ann, bob, cyn = find_submissions(tmp_path / "class.zip")
    assert ann.content() == notebook().encode()
    assert "leads out" in bob.problem and "not a notebook" in cyn.problem


def test_what_a_platform_exports_beside_the_notebook_is_left_alone(tmp_path):
    put(tmp_path / "Ann_1_assignsubmission_file_" / "a.ipynb")
    put(tmp_path / "Ann_1_assignsubmission_onlinetext_" / "onlinetext.html", "hello")
    (found,) = find_submissions(tmp_path)
    assert found.problem is None


def test_two_notebooks_of_one_student_are_nobodys_mark(tmp_path):
    put(tmp_path / "ann.ipynb")
    put(tmp_path / "Ann" / "a.ipynb")
    (found,) = find_submissions(tmp_path)
    assert "2 submissions of one student" in found.problem
    with pytest.raises(SubmissionError):
        found.content()


@pytest.mark.parametrize("name", ["essay.pdf", "-.-|.ipynb", f"{'x' * 120}.ipynb", "ann\u202e.ipynb"])
def test_other_files_have_a_reason(tmp_path, name):
    put(tmp_path / name)
    assert find_submissions(tmp_path)[0].problem


def test_a_place_without_submissions_is_said_so(tmp_path):
    with pytest.raises(ValueError, match="no submissions"):
        find_submissions(tmp_path)
    with pytest.raises(ValueError, match="neither a folder"):
        find_submissions(tmp_path / "none")


@pytest.mark.parametrize("bare", [False, True])
def test_answers_are_found_by_metadata_or_by_their_first_line(assignment, bare):
    found = answers(notebook(bare=bare).encode(), assignment, "Ann")
    assert {key: code.partition("\n")[2] for key, code in found.items()} == ANSWERS


def test_the_same_answer_twice_is_one(assignment):
    text = submitting.MARKER.format("q1") + ANSWERS["q1"]
    copy = submitting.code_cell(text, {"role": "answer", "id": "q1"})
    assert answers(notebook(extra=[copy]).encode(), assignment, "Ann")["q1"] == text


@pytest.mark.parametrize(
    "content, reason",
    [
        (notebook(dict.fromkeys(ANSWERS)), "no answer cell of this assignment; question q1 is missing"),
        (notebook(assignment="04"), "assignment 04, not of 99"),
        (notebook(version="old"), "version old"),
        ("{}", "no nbformat"),
        ("PK\x03\x04", "no JSON"),
        ('{"nbformat": 3, "worksheets": []}', "format 4"),
        ('{"nbformat": 4, "cells": [7]}', "format 4"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": 7}]}', "no text"),
    ],
)
def test_an_uncertain_notebook_is_refused_with_the_reason(assignment, content, reason):
    with pytest.raises(SubmissionError, match=reason):
        answers(content.encode(), assignment, "Ann")


def test_an_instructor_may_accept_another_version(assignment):
    assert answers(notebook(version="old").encode(), assignment, "Ann", any_version=True)


LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@pytest.mark.slow
@given(st.recursive(LEAVES, lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_no_json_makes_the_reader_fail_otherwise(tree):
    cells = [{"cell_type": "code", "source": "x", "metadata": tree}, tree]
    cells = cells[: 1 + isinstance(tree, dict)]
    for content in (tree, {"nbformat": 4, "cells": tree}, {"nbformat": 4, "cells": cells}):
        with pytest.raises(SubmissionError):
            answers(json.dumps(content).encode(), PLAIN, "Ann")


QUESTION = source.Question("q1", "t", "use", "", 1, "f", "value", "", "", "", "", "", 0.0, ())
PLAIN = source.Assignment("99", "99-tests", "T", 5, "v", "", (QUESTION,), (QUESTION,))
VARIED = dataclasses.replace(PLAIN, preamble='STUDENT = ""\nimport numpy as np')


@pytest.mark.parametrize(
    "written, reason",
    [("doe, JANE", None), ("", "no name"), ("John Doe", "names John Doe, but the submission is Jane Doe's")],
)
def test_the_data_of_another_student_are_refused(written, reason):
    setup = submitting.code_cell(f"STUDENT = {written!r}  # your name")
    content = json.dumps({"nbformat": 4, "cells": [setup, submitting.code_cell(submitting.MARKER.format("q1"))]})
    if reason is None:
        assert answers(content.encode(), VARIED, "Jane Doe")
    else:
        with pytest.raises(SubmissionError, match=reason):
            answers(content.encode(), VARIED, "Jane Doe")


def test_a_list_gives_ids_their_names(tmp_path):
    put(tmp_path / "class" / "s1.ipynb")
    put(tmp_path / "class" / "s2.ipynb")
    put(tmp_path / "names.csv", "student,name\ns1,Jane Doe\n")
    found = submissions.named(find_submissions(tmp_path / "class"), tmp_path / "names.csv")
    assert [(one.student, one.name) for one in found] == [("s1", "Jane Doe"), ("s2", "s2")]
    put(tmp_path / "names.csv", "id,who\n")
    with pytest.raises(ValueError, match="columns `student` and `name`"):
        submissions.named(found, tmp_path / "names.csv")


def test_a_locked_archive_is_refused(tmp_path, monkeypatch):
    put(tmp_path / "ann" / "x.zip", "not an archive")
    (found,) = find_submissions(tmp_path)
    with pytest.raises(SubmissionError, match="not a zip"):
        found.content()
    monkeypatch.setattr(submissions, "LARGEST", 10)
    put(tmp_path / "bob.ipynb")
    with pytest.raises(SubmissionError, match="larger than"):
        find_submissions(tmp_path)[1].content()
