"""An assignment's source: what is read from it, and what is said when something is missing or wrong."""

import re
import textwrap
from pathlib import Path

import jupytext
import numpy as np
import pytest

from llmbook.classroom import source

ROOT = Path(__file__).resolve().parents[1]
GOOD = """\
---
jupytext:
  cell_metadata_filter: llmbook
  notebook_metadata_filter: kernelspec,jupytext,llmbook
kernelspec:
  display_name: Python 3
  language: python
  name: python3
llmbook:
  minutes: 60
---

# Assignment 7: Doubling

Some words.

```{code-cell} ipython3
:llmbook: {role: setup}

STUDENT = ""  # your name
import numpy as np
```

## Question 1: twice as much

Write `double(x)`.

```{code-cell} ipython3
---
llmbook:
  role: answer
  id: q1
  points: 2
  level: recall
  teaches: That two times one is two.
  name: double
---
def double(x):
    raise NotImplementedError("Question 1 has no answer yet")
```

```{code-cell} ipython3
:llmbook: {role: solution}

def double(x):
    return 2 * x
```

```{code-cell} ipython3
:llmbook: {role: check}

assert double(1) == 2, "two times one is two"
```

```{code-cell} ipython3
:llmbook: {role: cases}

def cases(seed):
    return [(seed,), (3.0,)]
```

```{code-cell} ipython3
:llmbook: {role: wrong, why: it adds two}

def double(x):
    return x + 2
```

```{code-cell} ipython3
:llmbook: {role: wrong, why: it squares}

def double(x):
    return x * x
```

```{code-cell} ipython3
:llmbook: {role: wrong, why: it forgets}

def double(x):
    return x
```

+++

Some last words.
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="07-doubling.md"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_everything_of_a_question_is_read(write):
    assignment = source.read(write(GOOD))
    assert (assignment.id, assignment.name, assignment.minutes) == ("07", "07-doubling", 60)
    assert assignment.title == "Assignment 7: Doubling"
    (question,) = assignment.questions
    assert (question.id, question.title, question.points) == ("q1", "twice as much", 2)
    assert (question.kind, question.tolerance, question.level) == ("function", 1e-6, "recall")
    assert question.prompt == "## Question 1: twice as much\n\nWrite `double(x)`."
    assert question.solution == "def double(x):\n    return 2 * x"
    assert [why for why, _ in question.wrong] == ["it adds two", "it squares", "it forgets"]
    assert question.marker == "# Question q1: your answer"


def test_parts_keep_the_order_of_the_page(write):
    assignment = source.read(write(GOOD))
    before, question, after = assignment.parts
    assert before.startswith("# Assignment 7") and question == assignment.questions[0] and after == "Some last words."


def test_the_version_changes_with_the_source(write):
    one = source.read(write(GOOD))
    assert one.version == source.read(write(GOOD)).version
    assert one.version != source.read(write(GOOD.replace("Some words", "Other words"))).version


def test_a_source_survives_jupytext(write):
    again = jupytext.writes(jupytext.reads(GOOD, fmt="md:myst"), fmt="md:myst")
    one, other = source.read(write(GOOD)), source.read(write(again))
    assert one.questions == other.questions and one.preamble == other.preamble


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  minutes: 60\n", "  hours: 1\n", "header.*minutes: 90"),
        ("# Assignment 7: Doubling", "Doubling", "no title.*# Assignment 3"),
        (":llmbook: {role: setup}\n", "", r"cell 2: role None; a code cell has one of setup, answer"),
        ("role: check", "role: chek", r"cell 6: role 'chek'"),
        ("## Question 1: twice", "## Question 2: twice", r"'q1' does not belong to the heading: call it q2"),
        ("## Question 1: twice as much", "## Question one", r"heading is `## Question 1: title`"),
        ("  points: 2\n", "", r"`points` is None; give a int"),
        ("  points: 2\n", "  points: 0\n", r"at least one point"),
        ("  level: recall", "  level: hard", r"level 'hard'; known: recall, use"),
        ("  name: double", "  name: 2x", r"'2x' is no name"),
        ("  name: double", "  name: triple", r"role answer defines no triple"),
        ("  name: double", "  name: double\n  kind: list", r"kind 'list'; known: function, value"),
        ("  name: double", "  name: double\n  tolerence: 1", r"has tolerence; known: id, kind"),
        ("def cases(seed)", "def case(seed)", r"no function `cases\(seed\)`"),
        ("return 2 * x", "return 2 *", r"cell 5: the code is no Python \(invalid syntax, line 2"),
        (", why: it squares", "", r"wrong solution without `why:`"),
        (
            "    return x * x",
            "    return x * x\n```\n\n```{code-cell} ipython3\n:llmbook: {role: check}\n\nx = 1",
            "2 cells with the role check",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_cell_and_the_remedy(write, old, new, message):
    assert old in GOOD
    with pytest.raises(ValueError, match=message) as caught:
        source.read(write(GOOD.replace(old, new, 1)))
    assert "07-doubling.md, " in str(caught.value)


def test_two_wrong_solutions_are_too_few(write):
    start = GOOD.index("```{code-cell} ipython3\n:llmbook: {role: wrong, why: it forgets}")
    with pytest.raises(ValueError, match="2 wrong solutions; a question has at least 3"):
        source.read(write(GOOD[:start]))


def test_a_missing_or_foreign_file_is_named(tmp_path, write):
    with pytest.raises(ValueError, match=r"08-x\.md cannot be read"):
        source.read(tmp_path / "08-x.md")
    with pytest.raises(ValueError, match=r"is called NN-name\.md"):
        source.read(write(GOOD, "doubling.md"))
    (tmp_path / "09-x.md").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8"):
        source.read(tmp_path / "09-x.md")


def test_an_assignment_is_found_by_number_or_name(write):
    path = write(GOOD)
    for number in ("07", "7", "07-doubling"):
        assert source.find_assignment(number, path.parent) == path
    with pytest.raises(ValueError, match=r"no assignment is called '8' in .*; known: 07-doubling\. Give the path"):
        source.find_assignment("8", path.parent)


def test_an_assignment_is_found_here_first_and_then_in_the_repository_of_the_package(tmp_path, write, monkeypatch):
    monkeypatch.setattr(source, "FOLDER", write(GOOD).parent)
    monkeypatch.chdir(tmp_path)
    assert source.find_assignment("07") == source.FOLDER / "07-doubling.md"
    own = tmp_path / "assignments" / "07-our-own.md"
    own.parent.mkdir(exist_ok=True)
    own.write_text(GOOD)
    assert source.find_assignment("07") == own


def test_without_a_repository_the_error_names_the_folders_and_what_to_give(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "FOLDER", tmp_path / "site-packages" / "assignments")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        source.find_assignment("03")
    told = str(error.value)
    assert f"{tmp_path / 'assignments'} or {source.FOLDER}; known: none" in told and "NN-name.md" in told


def test_a_students_name_goes_into_the_set_up_cell_as_a_string(write):
    assignment = source.read(write(GOOD))
    assert assignment.has_variants
    space = {}
    exec(assignment.preamble_for('Jane "J" O\'Neil\n\\1'), space)
    assert space["STUDENT"] == 'Jane "J" O\'Neil\n\\1'
    plain = source.read(write(GOOD.replace('STUDENT = ""  # your name\n', "")))
    assert not plain.has_variants and plain.preamble_for("Jane") == plain.preamble


def test_a_variant_belongs_to_a_person_however_a_platform_spells_the_name():
    assert source.variant("Jane Smith") == source.variant("smithjane") == source.variant("SMITH, Jane")
    assert source.variant("Zoë Müller") == source.variant("zoe muller")
    assert len({source.variant(f"student {number}") for number in range(100)}) > 50
    assert all(0 <= source.variant(name) < source.VARIANTS for name in ("", "陈 伟", "x"))


def test_every_set_up_cell_with_variants_carries_the_same_lines():
    for path in source.find_all():
        assignment = source.read(path)
        if assignment.has_variants:
            space = {}
            exec(assignment.preamble_for("Zoë Müller"), space)
            assert space["VARIANT"] == source.variant("Zoë Müller")
            assert all(space["variant"](name) == source.variant(name) for name in ("", "陈 伟", "Jane Smith"))


def test_checks_leave_the_answers_and_the_set_up_alone():
    stored = re.compile(r"^(\w+)(?:, (\w+))*(?:, (\w+))? = ", re.MULTILINE)
    for path in source.find_all():
        assignment = source.read(path)
        names = {question.name for question in assignment.questions} | {"np", "STUDENT", "VARIANT"}
        for question in assignment.questions:
            assert not {name for found in stored.findall(question.public) for name in found} & names


def test_a_source_with_a_byte_order_mark_and_other_line_ends_is_the_same(tmp_path):
    path = tmp_path / "07-doubling.md"
    path.write_text(GOOD)
    plain = source.read(path)
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert source.read(path) == plain


SECOND = GOOD[GOOD.index("## Question 1") :].replace("Question 1", "Question 2").replace("q1", "q2")
TWO = f"{GOOD}\n+++\n\n{SECOND.replace('double', 'twice')}"


@pytest.mark.parametrize(
    "withdrawn",
    [
        "  minutes: 60\n  withdrawn: [q1]",
        "  minutes: 60\n  withdrawn:  ['q1']",
        "  withdrawn: [q1]  # its cases are wrong\n  minutes: 60",
        "  minutes: 60\n  withdrawn:\n  - q1",
        "  withdrawn:\n    - q1\n  minutes: 60",
    ],
)
def test_a_question_may_be_withdrawn_and_the_version_stays(tmp_path, withdrawn):
    path = tmp_path / "07-doubling.md"
    path.write_text(TWO)
    whole = source.read(path)
    path.write_text(TWO.replace("  minutes: 60", withdrawn))
    fewer = source.read(path)
    assert fewer.version == whole.version and fewer == source.withdraw(whole, ["q1"])
    assert [question.id for question in fewer.questions] == ["q2"] and fewer.withdrawn == ("q1",)
    assert fewer.points == whole.questions[1].points and fewer.executed == whole.questions
    for inline in ("{minutes: 60, withdrawn: [q1]}", "{withdrawn: [q1], minutes: 60}", "{withdrawn: [q1],minutes: 60}"):
        path.write_text(TWO.replace("  minutes: 60", f"  {inline}"))
        fewer = source.read(path)
        path.write_text(TWO.replace("  minutes: 60", "  {minutes: 60}"))
        assert fewer.withdrawn == ("q1",) and fewer.version == source.read(path).version


@pytest.mark.parametrize(
    "withdrawn, message",
    [
        ("[q3]", "no question q3 to withdraw; 07-doubling has q1, q2"),
        ("[q1, q2]", "at least one"),
        ("q1", "give a list"),
    ],
)
def test_what_cannot_be_withdrawn_is_said(tmp_path, withdrawn, message):
    path = tmp_path / "07-doubling.md"
    path.write_text(TWO.replace("  minutes: 60", f"  minutes: 60\n  withdrawn: {withdrawn}"))
    with pytest.raises(ValueError, match=message):
        source.read(path)


def headings(chapter):
    """The headings of a chapter's sections, in order."""
    text = re.sub(
        r"^```.*?^```", "", (ROOT / "book" / "en" / f"{chapter}.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    return re.findall(r"^##+ (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("path", source.find_all(ROOT / "assignments"), ids=lambda path: path.stem)
def test_every_question_names_a_section_of_its_chapter(path):
    sections = headings(path.stem)
    for question in source.read(path).questions:
        assert question.section in sections, f"{path.stem} {question.id}: {question.section!r} is no section"


def test_an_assignment_is_due_when_its_sections_have_been_read():
    rows = re.findall(
        r"^\| (\d+) \| (.+?) \| .+? \| (.+?) \|$", (ROOT / "book/en/teaching.md").read_text(), re.MULTILINE
    )
    assert [int(week) for week, *_ in rows] == list(range(1, 13))
    read, begun, due = {}, "", {}
    for week, reading, hand_in in rows:
        if reading.startswith("the rest of it"):
            read[begun] = headings(begun)
        for chapter, until in re.findall(r"notebooks/en/([\w-]+)\.ipynb\)(?:, to \*(.+?)\*)?", reading):
            sections, begun = headings(chapter), chapter
            assert not until or until in sections
            read[chapter] = sections[: sections.index(until)] if until else sections
        for number in re.findall(r"Assignment (\d)", hand_in):
            path = source.find_assignment(number)
            due[number] = week
            for question in source.read(path).questions:
                assert question.section in read.get(path.stem, ()), f"week {week}: {path.stem} {question.id}"
    assert len(due) == len(source.find_all(ROOT / "assignments"))


# What a student does, and the message of the public check that names it: assignment, question, code, words.
NAMED = {
    ("01", "q3", "ends at 0"): """
        kept = counts - D
        total = counts.sum(1, keepdims=True)
        rest = total - kept.sum(1, keepdims=True)
        return np.where(total > 0, (kept + rest * lower) / np.maximum(total, 1), lower)""",
    ("01", "q5", "order of the tokens"): """
        ordered = np.sort(probabilities)[::-1].copy()
        ordered[int(np.searchsorted(np.cumsum(ordered), p)) + 1 :] = 0
        return ordered / ordered.sum()""",
    ("01", "q5", "a third token is not needed"): """
        order = np.argsort(-probabilities)
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept = np.zeros_like(probabilities)
        kept[order[before <= p]] = probabilities[order[before <= p]]
        return kept / kept.sum()""",
    ("03", "q6", "NaN"): """
        found = np.zeros((len(widths), 2))
        for row, width in enumerate(widths):
            for column, divisor in enumerate((1.0, np.sqrt(width))):
                weights = softmax(query[:, :width] @ key[:, :width].T / divisor)
                found[row, column] = -(weights * np.log2(weights)).sum(axis=-1).mean()
        return found""",
}


@pytest.mark.parametrize(("number", "identity", "words"), NAMED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_public_check_catches_the_mistake_that_it_names(number, identity, words):
    assignment = source.read(source.find_assignment(number, ROOT / "assignments"))
    names = {}
    exec(assignment.preamble, names)
    for question in assignment.questions:
        exec(question.solution, names)
        if question.id == identity:
            break
    exec(question.public, dict(names))
    signature = re.search(rf"def {question.name}\(.*\):", question.starter)[0]
    exec(signature + textwrap.indent(textwrap.dedent(NAMED[number, identity, words]), "    "), names)
    with pytest.raises(AssertionError, match=words):
        exec(question.public, names)


def test_choosing_on_the_test_sentences_never_gives_the_honest_answer():
    """In assignment 1, question 6, for a hundred of the thousand languages."""
    assignment = source.read(source.find_assignment("01", ROOT / "assignments"))
    question = assignment.questions[5]
    names = {}
    exec(assignment.preamble.partition("VARIANT = ")[0], names)
    words = sorted({"array", "axis", "copy", "index", "mean", "of", "return", "shape", "sum", "the"})
    assert f"VOCABULARY = {words}".replace("'", '"') in assignment.preamble and "changed=0.25" in assignment.preamble
    place = {word: number for number, word in enumerate([*words, "</s>"])}

    def counted(sentences):
        counts = np.zeros((len(place), len(place)))  # (before, after): the end's row is the beginning's
        for sentence in sentences:
            for before, after in zip(["</s>", *sentence], [*sentence, "</s>"], strict=True):
                counts[place[before], place[after]] += 1
        return counts

    def best(train, other):
        logs = [np.log((train + k) / (train.sum(1, keepdims=True) + k * len(place))) for k in ks]
        return int(np.argmin([-(other * log).sum() for log in logs]))

    exec(question.starter.partition("my_model")[0], names)
    ks = names["KS"]
    for number in range(0, 1000, 10):
        rng = np.random.default_rng([number, 7])
        parts = [(40, 0.0), (60, 0.0), (60, 0.25)]
        train, validation, test = (counted(names["sentences_of"](number, n, rng, share)) for n, share in parts)
        assert best(train, validation) != best(train, test), f"variant {number}"
