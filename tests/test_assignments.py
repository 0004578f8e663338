"""Every assignment: its solutions are right, an empty notebook earns nothing, and plausible mistakes are caught."""

from __future__ import annotations

import contextlib
import copy
import io
import time
from typing import Any

import numpy as np
import pytest

from llmbook.classroom import source
from llmbook.classroom.comparison import same

SEEDS = (0, 1, 20261122)
STUDENT = "Grace Hopper"
ASSIGNMENTS = {path.stem: source.read(path) for path in source.find_all()}
QUESTIONS = [(name, question) for name, assignment in ASSIGNMENTS.items() for question in assignment.questions]
NAMES = [f"{name}-{question.id}" for name, question in QUESTIONS]
MISTAKES = [(name, question, why, code) for name, question in QUESTIONS for why, code in question.wrong]


def run(code: str, space: dict[str, Any]) -> None:
    """Execute a cell; what it prints is nobody's business."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "<cell>", "exec"), space)


def solved(name: str, student: str = STUDENT) -> dict[str, Any]:
    """The state of a kernel in which all reference solutions have been run."""
    assignment = ASSIGNMENTS[name]
    space: dict[str, Any] = {}
    run(assignment.preamble_for(student), space)
    for question in assignment.questions:
        run(question.solution, space)
    return space


def inputs(question: source.Question, seed: int, space: dict[str, Any]) -> list[tuple]:
    """The hidden cases of a function; a value is asked for once, without arguments."""
    if question.kind == "value":
        return [()]
    hidden = dict(space)
    run(question.cases, hidden)
    return hidden["cases"](seed)


def answer(question: source.Question, space: dict[str, Any], arguments: tuple) -> Any:
    if question.kind == "value":
        return space[question.name]
    with np.errstate(all="ignore"):
        return space[question.name](*copy.deepcopy(arguments))


def points(question: source.Question, space: dict[str, Any], reference: dict[str, Any], seed: int) -> int:
    """All or nothing, as the graders give them; an exception is no answer."""
    for arguments in inputs(question, seed, reference):
        expected = answer(question, reference, arguments)
        try:
            if not same(answer(question, space, arguments), expected, question.tolerance):
                return 0
        except Exception:
            return 0
    return question.points


def passes_public(question: source.Question, space: dict[str, Any]) -> bool:
    try:
        with np.errstate(all="ignore"):
            run(question.public, dict(space))
    except Exception:
        return False
    return True


def test_there_is_an_assignment_for_each_of_the_first_six_chapters():
    chapters = [path.stem for path in sorted((source.ROOT / "book" / "en").glob("0[1-6]-*.md"))]
    assert list(ASSIGNMENTS)[:6] == chapters


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_questions_go_from_recall_to_investigation(name):
    levels = [question.level for question in ASSIGNMENTS[name].questions]
    assert 4 <= len(levels) <= 6
    assert levels[0] == "recall" and levels[-1] == "investigate"
    assert 45 <= ASSIGNMENTS[name].minutes <= 240


@pytest.mark.parametrize(("name", "question"), QUESTIONS, ids=NAMES)
def test_the_solution_passes_public_checks_and_hidden_cases(name, question):
    space = solved(name)
    run(question.public, dict(space))
    for seed in SEEDS:
        assert points(question, space, solved(name), seed) == question.points


@pytest.mark.parametrize(("name", "question"), QUESTIONS, ids=NAMES)
def test_an_untouched_answer_fails_with_a_message_and_earns_nothing(name, question):
    space = solved(name)
    run(question.starter, space)
    with pytest.raises((NotImplementedError, AssertionError), match=r"\w+ \w+"):
        run(question.public, dict(space))
    assert points(question, space, solved(name), 0) == 0


@pytest.mark.parametrize(
    ("name", "question", "why", "code"), MISTAKES, ids=[f"{name}-{q.id}-{why[:40]}" for name, q, why, _ in MISTAKES]
)
def test_a_plausible_mistake_fails_the_hidden_cases(name, question, why, code):
    space = solved(name)
    run(code, space)
    for seed in SEEDS:
        assert points(question, space, solved(name), seed) == 0, f"{why}: passes the hidden cases of seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_some_mistakes_are_seen_by_the_hidden_cases_only_and_others_by_both(name):
    seen = []
    for question in ASSIGNMENTS[name].questions:
        for _, code in question.wrong:
            space = solved(name)
            run(code, space)
            seen.append(passes_public(question, space))
    assert sum(seen) >= 2 and sum(not public for public in seen) >= 5


@pytest.mark.parametrize(("name", "question"), QUESTIONS, ids=NAMES)
def test_public_checks_speak_to_the_student(name, question):
    import ast

    checks = [node for node in ast.walk(ast.parse(question.public)) if isinstance(node, ast.Assert)]
    assert len(checks) >= 2
    assert all(node.msg is not None for node in checks), "an assert without a message tells a student nothing"


@pytest.mark.parametrize(("name", "question"), QUESTIONS, ids=NAMES)
def test_hidden_cases_are_plain_data_that_differ_from_seed_to_seed(name, question):
    def plain(value: Any) -> bool:
        if isinstance(value, np.ndarray):
            return value.dtype.kind in "fiubU"
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        return value is None or type(value) in (int, float, bool, str)

    space = solved(name)
    first, second = inputs(question, 0, space), inputs(question, 1, space)
    assert plain(first) and isinstance(first, list) and all(isinstance(arguments, tuple) for arguments in first)
    if question.kind == "function":
        assert len(first) >= 3 and repr(first) != repr(second)
        assert repr(first) == repr(inputs(question, 0, space))


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_solved_assignment_runs_in_seconds_and_needs_numpy_only(name):
    start = time.process_time()
    space = solved(name)
    for question in ASSIGNMENTS[name].questions:
        run(question.public, dict(space))
        assert points(question, space, solved(name), 0)
    assert time.process_time() - start < 30
    modules = [value.__name__.partition(".")[0] for value in space.values() if type(value).__name__ == "module"]
    assert not {"torch", "llmbook", "nbgrader", "otter"} & set(modules)


@pytest.mark.parametrize("name", [name for name, found in ASSIGNMENTS.items() if found.has_variants])
def test_students_have_their_own_variant_and_a_copied_value_earns_nothing(name):
    assert solved(name)["VARIANT"] == source.variant(STUDENT)
    assert solved(name)["variant"]("Ada Lovelace") == source.variant("Ada Lovelace")
    values = [question for question in ASSIGNMENTS[name].questions if question.kind == "value"]
    assert values
    for question in values:
        others = [solved(name, student) for student in ("Ada Lovelace", "Alan Turing", "Kurt Gödel", "Emmy Noether")]
        copied = [points(question, other, solved(name), 0) for other in others]
        assert copied.count(0) >= 3


def test_at_least_one_assignment_has_variants():
    assert any(assignment.has_variants for assignment in ASSIGNMENTS.values())


def test_the_instructors_guide_has_the_table_of_all_questions():
    from assignments import table

    page = (source.ROOT / "book" / "en" / "teaching.md").read_text(encoding="utf-8")
    remedy = "copy the output of `.venv/bin/python tools/assignments.py --table` into book/en/teaching.md"
    assert table(list(ASSIGNMENTS.values())) in page, remedy
