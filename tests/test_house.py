"""The rules of the companion package (CONTRIBUTING.md): kept by all of it, and each seen to fail on a made-up house."""

import ast
import re

import pytest

import house

RULES = [house.steps_up, house.circles, house.borrowed_privates, house.undocumented, house.single_backticks]


def parsed(**sources: str) -> dict[str, house.Module]:
    """Return made-up modules: ``viz__maps`` is ``llmbook.viz.maps``."""
    named = {"llmbook." + key.replace("__", "."): ast.parse(source) for key, source in sources.items()}
    return {
        name: house.Module(name, any(other.startswith(f"{name}.") for other in named), tree)
        for name, tree in named.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps(rule):
    if problems := rule(house.modules()):
        pytest.fail("\n".join(problems), pytrace=False)


def test_every_room_of_the_floors_exists():
    assert {room for rooms in house.FLOORS.values() for room in rooms} == {
        house.room(name) for name in house.modules()
    } - {"", "__main__"}
    assert all(house.floor(f"llmbook.{room}") >= 0 for pair in house.EXCEPTIONS for room in pair)


def test_the_page_for_contributors_has_the_same_floors():
    page = (house.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| ({'|'.join(house.FLOORS)}) \| (.*) \|$", page, re.MULTILINE)
    assert {floor: set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows} == {
        floor: set(rooms) for floor, rooms in house.FLOORS.items()
    }


def test_exceptions_are_needed():
    known = house.modules()
    taken = {(house.room(name), house.room(other)) for name in known for other, _ in house.imports(known[name], known)}
    assert set(house.EXCEPTIONS) <= taken


BAD = [
    (house.steps_up, {"metrics": "from llmbook import viz", "viz": ""}, "llmbook.metrics imports llmbook.viz"),
    (house.steps_up, {"files": "def f():\n    from llmbook.hub import load", "hub": ""}, "imports llmbook.hub"),
    (house.steps_up, {"files": "from . import hub", "hub": ""}, "llmbook.files imports llmbook"),
    (
        house.steps_up,
        {"classroom__desk": "import llmbook.hub", "hub": ""},
        "llmbook.classroom.desk imports llmbook.hub",
    ),
    (house.steps_up, {"attic": ""}, "llmbook.attic stands on no floor"),
    (house.circles, {"viz__a": "from llmbook.viz import b", "viz__b": "import llmbook.viz.a"}, "in a circle"),
    (house.borrowed_privates, {"hub": "from llmbook.files import _x", "files": ""}, "llmbook.hub takes _x"),
    (house.borrowed_privates, {"hub": "from llmbook import files\nfiles._x()", "files": ""}, "llmbook.hub takes _x"),
    (house.borrowed_privates, {"hub": "from llmbook.metrics._a import b", "metrics___a": ""}, "llmbook.hub takes b"),
    (house.undocumented, {"hub": '"""A."""\nclass A:\n    """B."""\n    def c(self): ...'}, "llmbook.hub.A.c"),
    (house.single_backticks, {"hub": '"""A `b`, ``c`` and :func:`d`."""'}, "llmbook.hub: `b` in a docstring"),
]


@pytest.mark.parametrize(("rule", "sources", "message"), BAD, ids=[f"{rule.__name__}-{text}" for rule, _, text in BAD])
def test_bad_house_breaks(rule, sources, message):
    known = parsed(**sources)
    problems = rule(known)
    assert len(problems) == 1 or rule is house.undocumented
    assert any(message in problem for problem in problems)


def test_a_private_file_may_be_used_within_its_package():
    assert house.borrowed_privates(parsed(metrics="from llmbook.metrics._a import b", metrics___a="")) == []
