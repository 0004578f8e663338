"""Who handed in what: names of learning platforms, archives, and the cells of a notebook."""

import dataclasses
import json
import os
import unicodedata
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
    put(
        tmp_path
        / "blackboard"
        / "Task 3_eve_attempt_2026-03-01-12-30-00_Task 3_ann_attempt_2026-03-01-12-30-00_a.ipynb"
    )
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


def in_both_forms(folder, files):
    """The same class as a folder and as an archive."""
    for name, content in files.items():
        put(folder / "class" / name, content)
    (folder / "class.zip").write_bytes(submitting.archive_bytes(files))
    return folder / "class", folder / "class.zip"


def test_what_other_programs_leave_behind_is_no_submission_and_no_second_notebook(tmp_path):
    files = {
        "jane/work.ipynb": notebook(),
        "jane/.ipynb_checkpoints/work-checkpoint.ipynb": notebook(),
        "jane/._work.ipynb": "macOS",
        "__MACOSX/jane/._work.ipynb": "macOS",
        "bob/desktop.ini": "Windows",
        "bob/work.ipynb": notebook(),
        "bob/~$work.ipynb": "an editor's lock",
        "Thumbs.db": "Windows",
        ".DS_Store": "macOS",
        ".ipynb_checkpoints/jane-checkpoint.ipynb": notebook(),
    }
    for place in in_both_forms(tmp_path, files):
        assert [(one.student, one.problem) for one in find_submissions(place)] == [("bob", None), ("jane", None)]
    inner = submitting.archive_bytes({name: content for name, content in files.items() if "bob" not in name})
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "ann.zip").write_bytes(inner)
    (found,) = find_submissions(tmp_path / "zips")
    assert found.content() == notebook().encode()


def test_a_file_that_is_called_like_debris_in_part_is_a_submission(tmp_path):
    files = {"eve_5_981___MACOSX.ipynb": notebook(), "ann_6_982_desktop.ini.ipynb": notebook()}
    for place in in_both_forms(tmp_path, files):
        assert [one.student for one in find_submissions(place)] == ["5", "6"]


NAMES = ["José", "Nguyễn", "हिन्दी", "สมชาย", "张三", "Jane Doe", "bo (1)", "jane+ml@uni.edu", "o'brien", "Straße"]


def test_names_of_all_scripts_are_ids_in_one_form(tmp_path):
    files = {f"{unicodedata.normalize('NFD', name)}.ipynb": notebook() for name in NAMES}
    for place in in_both_forms(tmp_path, files):
        found = find_submissions(place)
        assert sorted(one.student for one in found) == sorted(NAMES) and not any(one.problem for one in found)
    put(tmp_path / "three" / "Straße.ipynb")
    put(tmp_path / "three" / "STRASSE.ipynb")
    put(tmp_path / "three" / "ann .ipynb")
    assert [one.student for one in find_submissions(tmp_path / "three")] == ["STRASSE", "Straße", "ann"]


@pytest.mark.parametrize(
    "encoding, who", [("gbk", "张三"), ("gbk", "李四 王五"), ("cp437", "René"), ("cp437", "José"), ("utf-8", "Zoë")]
)
def test_an_archives_names_are_read_in_the_encoding_of_the_program_that_wrote_them(tmp_path, encoding, who):
    data = who.encode(encoding)
    placeholder = "x" * len(data)  # Python writes the flag of UTF-8 beside every name that is not ASCII
    content = submitting.archive_bytes({f"{placeholder}.ipynb": notebook(), "Ann.ipynb": notebook()})
    (tmp_path / "class.zip").write_bytes(content.replace(placeholder.encode(), data))
    found = find_submissions(tmp_path / "class.zip")
    assert [one.student for one in found] == ["Ann", who]
    assert found[1].content() == notebook().encode()


def test_names_that_were_unpacked_in_another_encoding_are_read(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / os.fsdecode("张三.ipynb".encode("gbk"))).write_text(notebook())
    put(tmp_path / "class" / "李四.ipynb")
    assert [one.student for one in find_submissions(tmp_path / "class")] == ["张三", "李四"]


@pytest.mark.parametrize(
    "honest, trick, student",
    [
        ("ann_4711_980_a.ipynb", "eve_4713_981_x_4711_assignsubmission_file_.ipynb", "4713"),
        ("ann_4711_980_a.ipynb", "eve_4713_981_T_ann_attempt_2026-03-01-12-30-00_a.ipynb", "4713"),
        ("Ann_4711_assignsubmission_file_a.ipynb", "Eve_4713_assignsubmission_file_x_4711_1_a.ipynb", "4713"),
        ("T_ann_attempt_2026-03-01-12-30-00_a.ipynb", "T_eve_attempt_2026-03-01-12-30-00_ann_4711_1_a.ipynb", "eve"),
    ],
)
def test_nobody_takes_anothers_identity_by_the_name_of_a_file(tmp_path, honest, trick, student):
    put(tmp_path / "class" / honest)
    put(tmp_path / "class" / trick)
    found = find_submissions(tmp_path / "class")
    assert len(found) == 2 and [one.student for one in found if one.label == trick] == [student]
    put(tmp_path / "late" / trick)
    assert find_submissions(tmp_path / "late")[0].student == student


def test_one_platform_names_a_whole_class(tmp_path):
    for number in range(3):
        put(tmp_path / "class" / f"ann_{number}_98{number}_a.ipynb")
    put(tmp_path / "class" / "Eve_2_assignsubmission_file_.ipynb")
    found = find_submissions(tmp_path / "class")
    assert [one.problem for one in found[:3]] == [None] * 3 and "not one that Canvas gives" in found[3].problem
    put(tmp_path / "two" / "ann_1_981_a.ipynb")
    put(tmp_path / "two" / "Eve_2_assignsubmission_file_.ipynb")
    with pytest.raises(ValueError, match=r"several kinds.*--platform"):
        find_submissions(tmp_path / "two")
    assert [one.student for one in find_submissions(tmp_path / "two", "canvas") if not one.problem] == ["1"]
    with pytest.raises(ValueError, match="known: moodle, canvas"):
        find_submissions(tmp_path / "two", "ilias")
    put(tmp_path / "digits" / "ann_\u0661\u0662_981_a.ipynb")  # Arabic digits are no id of Canvas
    assert find_submissions(tmp_path / "digits")[0].platform == "plain"


def test_a_folder_of_gradescope_without_submitters_is_not_lost(tmp_path):
    put(tmp_path / "submission_metadata.yml", f"{GRADESCOPE}submission_302:\n  :submitters: []\n  :created_at: x\n")
    for number in (300, 301, 302):
        put(tmp_path / f"submission_{number}" / "work.ipynb")
    assert [one.student for one in find_submissions(tmp_path)] == ["4711", "4712", "eve@uni.edu", "submission_302"]


def test_a_list_of_gradescope_is_read_as_yaml_and_numbers_stay_text(tmp_path):
    listing = """--- !ruby/hash:ActiveSupport::HashWithIndifferentAccess
submission_300: {submitters: [{name: "Zo\\xE9 Li", sid: 0047, email: null}, {sid: null, email: b@uni.edu}]}
submission_301:
    :submitters:
        - :sid: &number "0048"
          :name: >-
            Tom
            Li
    :results: {tests: [{output: *number}]}
"""
    put(tmp_path / "submission_metadata.yml", listing)
    for number in (300, 301):
        put(tmp_path / f"submission_{number}" / "work.ipynb")
    assert [(one.student, one.data_name) for one in find_submissions(tmp_path)] == [
        ("0047", "Zoé Li"),
        ("0048", "Tom Li"),
        ("b@uni.edu", "b@uni.edu"),
    ]


@pytest.mark.parametrize(
    ("listing", "word"), [("a: [", "is not YAML"), ("- a\n", "holds a list"), ("x: \x07", "is not YAML")]
)
def test_a_broken_list_of_gradescope_is_one_error(tmp_path, listing, word):
    put(tmp_path / "submission_metadata.yml", listing)
    put(tmp_path / "submission_300" / "work.ipynb")
    with pytest.raises(ValueError, match=rf"{word}.*--platform plain"):
        find_submissions(tmp_path)
    assert find_submissions(tmp_path, "plain")[0].student == "submission_300"


def test_a_name_with_a_hyphen_is_one_name_where_no_platform_writes_groups(tmp_path):
    content = json.dumps({"nbformat": 4, "cells": [submitting.code_cell('STUDENT = "Jane Watson"')]})
    put(tmp_path / "Mary-Jane Watson.ipynb", content)
    (found,) = submissions.own_data(find_submissions(tmp_path), VARIED)
    with pytest.raises(SubmissionError, match="names Jane Watson, but the submission is Mary-Jane Watson's"):
        answers(found.content(), VARIED, found.data_name)


def test_blackboards_last_attempt_counts(tmp_path):
    put(tmp_path / "My_task 3_j_doe_attempt_2026-03-01-12-30-00_work.ipynb", "an earlier one")
    put(tmp_path / "My_task 3_j_doe_attempt_2026-03-02-12-30-00_work.ipynb")
    put(tmp_path / "My_task 3_j_doe_attempt_2026-03-02-12-30-00.txt", "Name: Jane Doe")
    put(tmp_path / "My_task 3_bob_attempt_2026-03-01-12-30-00_work.ipynb")
    bob, jane = find_submissions(tmp_path)
    assert (bob.student, jane.student, jane.problem) == ("bob", "j_doe", None)
    assert jane.content() == notebook().encode()


GRADESCOPE = """---
submission_300:
  :submitters:
  - :name: Jane Doe
    :sid: '4711'
    :email: jane@uni.edu
  - :name: Tom Li
    :sid: '4712'
    :email: tom@uni.edu
  :created_at: 2026-03-01 12:30:00.000000000 Z
  :results:
    tests:
    - output: "x
      :submitters:
      - :name: Eve"
submission_301:
  :submitters:
  - :name: Eve
    :sid: ''
    :email: eve@uni.edu
"""


def test_a_gradescope_export_names_the_students_of_each_folder(tmp_path):
    files = {
        "assignment_1_export/submission_metadata.yml": GRADESCOPE,
        "assignment_1_export/submission_300/work.ipynb": notebook(),
        "assignment_1_export/submission_301/work.ipynb": notebook(),
    }
    for place in in_both_forms(tmp_path, files):
        found = find_submissions(place)
        assert [(one.student, one.name) for one in found] == [
            ("4711", "Jane Doe"),
            ("4712", "Tom Li"),
            ("eve@uni.edu", "Eve"),
        ]
        assert not any(one.problem for one in found)


def test_a_class_in_a_folder_or_an_archive_of_its_own_is_found(tmp_path):
    moodle = {f"Student {n}_{n}_assignsubmission_file_/a.ipynb": notebook() for n in range(3)}
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "moodle.zip").write_bytes(submitting.archive_bytes(moodle))
    folders = {"class/ann/a.ipynb": notebook(), "class/bob/a.ipynb": notebook()}
    (tmp_path / "class.zip").write_bytes(submitting.archive_bytes(folders))
    assert [one.student for one in find_submissions(tmp_path / "downloads")] == ["0", "1", "2"]
    assert [one.student for one in find_submissions(tmp_path / "class.zip")] == ["ann", "bob"]
    put(tmp_path / "one" / "jane" / "a.ipynb")
    put(tmp_path / "one" / "jane" / "b.ipynb")
    (found,) = find_submissions(tmp_path / "one")
    assert found.student == "jane" and "2 notebooks in the folder" in found.problem


@pytest.mark.parametrize("kind", submitting.broken_archives())
def test_a_broken_archive_is_one_students_row(tmp_path, kind):
    place = tmp_path / "class"
    put(place / "bob.ipynb")
    (place / "ann.zip").write_bytes(submitting.broken_archives()[kind])
    ann, bob = find_submissions(place)
    with pytest.raises(SubmissionError, match=r"damaged|zip"):
        ann.content()
    assert bob.content() == notebook().encode()


def test_whatever_a_library_raises_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "ann.zip").write_bytes(submitting.archive_bytes({"a.ipynb": notebook()}))

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(zipfile.ZipFile, "open", fails)
    (found,) = find_submissions(tmp_path)
    with pytest.raises(SubmissionError, match="damaged"):
        found.content()
    monkeypatch.setattr(submissions, "_read_file", fails)
    with pytest.raises(SubmissionError, match="cannot be read: MemoryError"):
        found.content()


def test_lists_that_would_fill_the_memory_are_refused_before_they_are_read(assignment, monkeypatch):
    monkeypatch.setattr(submissions, "MOST_LISTS", 10)
    with pytest.raises(SubmissionError, match="clear the outputs"):
        answers(notebook().encode(), assignment, "Ann")


MARKED = submitting.MARKER.format("q1")
Q1 = {"role": "answer", "id": "q1"}


def with_first_answer(*cells):
    """A notebook whose answer to question 1 stands in these cells."""
    whole = json.loads(notebook())
    whole["cells"][1:2] = cells
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    "cells, code, odd",
    [
        ([("", Q1), (MARKED + ANSWERS["q1"], Q1)], ANSWERS["q1"], 0),
        (
            [(MARKED + "def h(x):\n    return 2 * x", Q1), ("double = h", Q1)],
            "def h(x):\n    return 2 * x\ndouble = h",
            0,
        ),
        ([(MARKED + ANSWERS["q1"], Q1), (MARKED + ANSWERS["q1"] + "\n", Q1)], ANSWERS["q1"], 0),
        ([(MARKED + ANSWERS["q1"], Q1), ((MARKED + ANSWERS["q1"]).replace("\n", "\r\n"), Q1)], ANSWERS["q1"], 0),
        ([(MARKED + ANSWERS["q1"], Q1), (MARKED + submitting.STARTERS["q1"], Q1)], ANSWERS["q1"], 0),
        ([(MARKED + ANSWERS["q1"], Q1), (MARKED + "double = abs", Q1)], "double = abs", 1),
        ([(MARKED + ANSWERS["q1"], Q1), ("assert double", None), ("double = abs", Q1)], "double = abs", 1),
        ([("x = 1\n#  Question q1 : your answer\n" + ANSWERS["q1"], None)], ANSWERS["q1"], 0),
    ],
    ids=["empty half", "two halves", "line", "CRLF", "starter", "copies", "copy without its marker", "line above"],
)
def test_split_and_copied_answers_are_read_as_the_notebook_runs(assignment, cells, code, odd):
    content = with_first_answer(*(submitting.code_cell(*cell) for cell in cells))
    assert answers(content, assignment, "Ann")["q1"].rstrip("\n").endswith(code)
    notes = submissions.answer_notes(content, assignment)
    assert len(notes) == odd and all("2 times" in note for note in notes)


def test_answers_in_one_cell_are_parted_at_their_markers(assignment):
    both = "\n".join(submitting.MARKER.format(question) + ANSWERS[question] for question in ("q1", "q2"))
    whole = json.loads(notebook())
    whole["cells"][1:3] = [submitting.code_cell(both, Q1)]
    found = answers(json.dumps(whole).encode(), assignment, "Ann")
    assert all(found[question].strip().endswith(ANSWERS[question]) for question in ("q1", "q2"))
    assert "total" not in found["q1"]


def test_a_missing_or_strange_cell_costs_its_question_only(assignment):
    strange = [
        submitting.code_cell("x", {"role": "answer", "id": "q9"}),
        submitting.code_cell("# Question q3: your answer\nx", Q1),
    ]
    content = notebook({"q2": None}, extra=strange).encode()
    found = answers(content, assignment, "Ann")
    assert found["q2"] == "" and found["q1"].endswith(ANSWERS["q1"]) and found["q3"].endswith(ANSWERS["q3"])
    told = "; ".join(submissions.answer_notes(content, assignment))
    for part in ("q9 is not in this assignment", "q2 is missing", "q1 by its metadata and q3 by its first line"):
        assert part in told


def test_a_withdrawn_question_is_not_missed(assignment):
    fewer = source.withdraw(assignment, ["q2"])
    assert list(answers(notebook().encode(), fewer, "Ann")) == ["q1", "q2", "q3"]  # q3 may use what q2 defines
    for left in (notebook(), notebook({"q2": None})):
        assert submissions.answer_notes(left.encode(), fewer) == []


@pytest.mark.parametrize(
    "line",
    [
        'STUDENT: str = "Tom Li"',
        "STUDENT = ('Tom Li')",
        'STUDENT = """Tom Li"""',
        "STUDENT='Tom Li'  # me",
        "STUDENT = 'T\\om Li'",
    ],
)
def test_a_name_may_be_written_as_python_allows(line):
    content = json.dumps(
        {"nbformat": 4, "cells": [submitting.code_cell(line), submitting.code_cell(MARKED + ANSWERS["q1"])]}
    )
    assert answers(content.encode(), VARIED, "Tom Li")


def own(name):
    setup = submitting.code_cell(f"STUDENT = {name!r}")
    return json.dumps({"nbformat": 4, "cells": [setup, submitting.code_cell(MARKED + ANSWERS["q1"])]})


def test_the_members_of_a_group_hand_in_the_notebook_of_one_of_them(tmp_path):
    handed_in = {"Group A-Tom Li": "Tom Li", "Group A-Ann Lee": "Tom Li", "Group B-Eve": "Tom Li", "Group B-Bo": "Bo"}
    for number, (name, written) in enumerate(handed_in.items(), start=1):
        put(tmp_path / "class" / f"{name}_{number}_assignsubmission_file_" / "a.ipynb", own(written))
    found = {one.name: one for one in submissions.own_data(find_submissions(tmp_path / "class"), VARIED)}
    for name in ("Group A-Tom Li", "Group A-Ann Lee", "Group B-Bo"):
        assert found[name].drawn_for == handed_in[name]
        assert answers(found[name].content(), VARIED, found[name].data_name)
    put(tmp_path / "names.csv", "student,name\n1,Li Tom\n2,Ann Lee\n")
    listed = submissions.named(list(found.values()), tmp_path / "names.csv")
    assert submissions.own_data(listed, VARIED)[1].drawn_for == "Tom Li"
    assert found["Group B-Eve"].drawn_for is None
    with pytest.raises(SubmissionError, match="names Tom Li"):
        answers(found["Group B-Eve"].content(), VARIED, found["Group B-Eve"].data_name)


def test_a_hyphen_in_a_name_is_no_group(tmp_path):
    for number, name in enumerate(["Jean-Luc Roy", "Jean-Paul Roy", "Ann Lee"], start=1):
        put(tmp_path / f"{name}_{number}_assignsubmission_file_" / "a.ipynb", own("Jean-Paul Roy"))
    found = submissions.own_data(find_submissions(tmp_path), VARIED)
    assert [one.drawn_for for one in found] == [None, "Jean-Paul Roy", None]


def test_blind_marking_takes_the_name_in_the_notebook_from_one_student_only(tmp_path):
    for number, written in enumerate(["Tom Li", "Ann Lee", "li tom"], start=1):
        put(tmp_path / f"Teilnehmer_{number}_assignsubmission_file_" / "a.ipynb", own(written))
    first, second, third = submissions.own_data(find_submissions(tmp_path), VARIED)
    assert second.drawn_for == "Ann Lee" and second.problem is None
    assert "1, 3 hand in notebooks with the same name" in first.problem == third.problem
    put(tmp_path / "open" / "Participant_1_assignsubmission_file_" / "a.ipynb", own("Tom Li"))
    put(tmp_path / "open" / "Tom Li_2_assignsubmission_file_" / "a.ipynb", own("Tom Li"))
    eve, _ = submissions.own_data(find_submissions(tmp_path / "open"), VARIED)
    with pytest.raises(SubmissionError, match="names Tom Li"):  # who calls themselves so in an open class gains nothing
        answers(eve.content(), VARIED, eve.data_name)


@pytest.mark.parametrize(
    "data",
    [
        "student,name\n4711,张三\n".encode("gbk"),
        "student,name\n4711,张三\n".encode("utf-16"),
        "student,name\n4711,张三\n".encode("utf-16-le"),
        "sep=;\r\nStudent;Name\r\n 4711 ;张三 \r\n".encode("utf-8-sig"),
        "name\tstudent\n张三\t4711\n\n".encode(),
    ],
    ids=["GBK", "UTF-16", "no mark", "Excel", "tabs"],
)
def test_a_list_of_names_may_come_from_any_spreadsheet(tmp_path, data):
    (tmp_path / "names.csv").write_bytes(data)
    found = [submissions.Submission("4711", "4711", "a", tmp_path)]
    assert submissions.named(found, tmp_path / "names.csv")[0].name == "张三"


def test_a_list_in_latin_letters_is_not_taken_for_chinese_and_says_what_is_wrong(tmp_path):
    roster = tmp_path / "names.csv"
    found = [submissions.Submission("josé", "josé", "a", tmp_path)]
    roster.write_bytes("student,name\njosé,Renée Müller\n".encode("cp1252"))
    assert submissions.named(found, roster)[0].name == "Renée Müller"
    roster.write_text("student,name\na,A\na,B\n")
    with pytest.raises(ValueError, match="two names for the student a"):
        submissions.named(found, roster)
    with pytest.raises(ValueError, match=r"cannot be read.*give a CSV file"):
        submissions.named(found, tmp_path / "none.csv")


EDITORS = {
    "colab": (
        {"colab": {"base_uri": "https://localhost/"}, "id": "aBcD", "outputId": "e-1"},
        {"colab": {"provenance": []}},
    ),
    "kaggle": ({"_uuid": "1", "_cell_guid": "2", "trusted": True}, {"kaggle": {"accelerator": "none"}}),
    "vscode": ({"vscode": {"languageId": "python"}}, {"language_info": {"name": "python"}, "orig_nbformat": 4}),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("bare", [False, True])
def test_notebooks_of_other_editors_are_read(assignment, editor, encoding, bare):
    of_cell, of_notebook = EDITORS[editor]
    whole = json.loads(notebook(bare=bare)) | {"metadata": of_notebook}
    printed = {"output_type": "stream", "name": "stdout", "text": ["張三\n"]}
    for number, cell in enumerate(whole["cells"]):
        cell["metadata"] |= of_cell
        cell["source"] = cell["source"].splitlines(keepends=True)
        cell["execution_count"] = 40 - number
        cell["outputs"] = [{"output_type": "display_data", "data": {}, "metadata": {}}, printed]
    trailing = [
        {"cell_type": "markdown", "source": "", "metadata": of_cell},
        submitting.code_cell(""),
        {"cell_type": "raw"},
    ]
    whole["cells"] = [*whole["cells"], *trailing]
    content = json.dumps(whole, ensure_ascii=False, indent=2).encode(encoding)
    assert {key: code.partition("\n")[2] for key, code in answers(content, assignment, "Ann").items()} == ANSWERS
    assert submissions.answer_notes(content, assignment) == []


def test_what_a_browser_appends_to_a_name_does_not_matter(tmp_path):
    put(tmp_path / "ann.ipynb.txt")
    put(tmp_path / "bob" / "work.ipynb.json")
    assert [(one.student, one.problem) for one in find_submissions(tmp_path)] == [("ann", None), ("bob", None)]
