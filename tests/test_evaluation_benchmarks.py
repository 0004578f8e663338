"""The book's benchmarks: what they are made of, what makes a version, and what cannot be one."""

import json
from dataclasses import replace

import pytest
from datasets import DatasetDict

from llmbook import corpora
from llmbook.evaluation import harness
from llmbook.evaluation.benchmarks import (
    TYPES,
    Benchmark,
    Template,
    from_pydocs,
    function,
    hash_order,
    render,
    section,
    words_of,
)


@pytest.fixture(scope="module")
def benchmarks():
    return from_pydocs()


@pytest.fixture(scope="module")
def clusters():
    return {split: dict(zip(part["id"], part["cluster"], strict=True)) for split, part in corpora.pydocs().items()}


@pytest.mark.parametrize("name", ["function", "type", "section", "default"])
def test_items_come_from_the_test_split_one_of_a_cluster_and_examples_from_validation(benchmarks, clusters, name):
    benchmark = benchmarks[name]
    own = [clusters["test"][item.metadata["document"]] for item in benchmark.items]
    assert len(set(own)) == len(own) >= 100
    dev = [clusters["validation"][item.metadata["document"]] for item in benchmark.dev]
    assert len(set(dev)) == len(dev) >= 50
    assert not set(own) & set(dev)


@pytest.mark.parametrize("name", ["function", "type", "section"])
def test_choices_hold_the_answer_once_and_it_stands_anywhere(benchmarks, name):
    places = [item.label for item in benchmarks[name].items]
    choices = len(benchmarks[name].items[0].choices)
    assert set(places) == set(range(choices))
    assert max(places.count(place) for place in range(choices)) < 0.45 * len(places)
    assert all(len(set(item.choices)) == choices for item in benchmarks[name].items)


def test_wrong_types_would_not_do_for_the_right_one(benchmarks):
    alike = {name: group for group in TYPES for name in group}
    for item in benchmarks["type"].items:
        kinds = [alike[choice] for choice in item.metadata["choices"]]
        assert len(set(kinds)) == 4


def test_easy_names_come_from_other_packages(benchmarks):
    easy = function(corpora.pydocs(), "easy")
    assert [item.id for item in easy.items] == [item.id for item in benchmarks["function"].items]
    assert easy.version != benchmarks["function"].version


def test_the_length_of_a_name_tells_little(benchmarks):
    def shortest(benchmark):
        return sum(len(item.answer) == min(map(len, item.choices)) for item in benchmark.items) / len(benchmark)

    assert shortest(benchmarks["function"]) < 0.4 < shortest(function(corpora.pydocs(), "words"))


def test_defaults_stand_in_their_signatures(benchmarks):
    for item in benchmarks["default"].items:
        assert item.answer in item.metadata["signature"]
        assert item.metadata["parameter"] in item.metadata["signature"]


def test_two_builds_are_the_same_version(benchmarks):
    again = from_pydocs()
    assert {name: b.version for name, b in again.items()} == {name: b.version for name, b in benchmarks.items()}


def test_every_change_of_content_is_another_version(benchmarks):
    benchmark = benchmarks["type"]
    changed = replace(benchmark.items[0], prompt=benchmark.items[0].prompt + " ")
    versions = {
        benchmark.version,
        replace(benchmark, items=(changed, *benchmark.items[1:])).version,
        benchmark.take(10).version,
        benchmark.with_template("channel").version,
        benchmark.with_template(Template("{description}")).version,
    }
    assert len(versions) == 5
    assert benchmark.with_template(benchmark.template).version == benchmark.version


@pytest.mark.parametrize("name", ["function", "type", "section", "default"])
def test_templates_keep_the_question_and_the_place_of_the_answer(benchmarks, name):
    for template in benchmarks[name].templates:
        other = benchmarks[name].with_template(template)
        for mine, theirs in zip(benchmarks[name].items, other.items, strict=True):
            assert mine.id == theirs.id
            if mine.choices:
                assert mine.label == theirs.label
            assert "{" not in theirs.prompt or "{" in str(mine.metadata)


def test_without_the_question_only_the_choices_are_left(benchmarks):
    blank = benchmarks["function"].without_question()
    assert len({item.prompt for item in blank.items}) == 1
    assert [item.choices for item in blank.items] == [item.choices for item in benchmarks["function"].items]


def test_another_value_in_a_field_changes_the_text_and_nothing_else():
    way = Template("{colour} and {size}: {colour}?")
    fields = [{"colour": "red", "size": n, "choices": ["1", "2"], "answer": "1"} for n in range(3)]
    items = tuple(render(f"i{n}", given, way, "choice") for n, given in enumerate(fields))
    dev = (render("d", fields[0], way, "choice"),)
    asked = _make(items=items, dev=dev, templates={"t": way})
    other = asked.with_field("colour", ["green", "blue", "red"])
    assert [item.prompt for item in other.items] == ["green and 0: green?", "blue and 1: blue?", "red and 2: red?"]
    assert [(item.id, item.choices, item.answer) for item in other.items] == [
        (item.id, item.choices, item.answer) for item in items
    ]
    assert other.dev == dev and other.items[2] == items[2] and asked.items == items
    assert other.version != asked.version == asked.with_field("colour", ["red"] * 3).version
    assert other.with_template(Template("{colour}")).items[0].prompt == "green"  # the field itself is another one


def test_an_order_by_hashes_is_the_same_always_and_another_for_other_parts():
    assert hash_order("a", "b") == hash_order("a", "b") != hash_order("ab")
    assert sorted("abcdef", key=hash_order) != sorted("abcdef", key=lambda x: hash_order("salt", x))


def test_datasheets_say_where_items_come_from_and_what_is_weak(benchmarks):
    for benchmark in benchmarks.values():
        assert {"Source", "Made from", "Known weakness", "Licence", "Size"} <= set(benchmark.datasheet)


def test_words_of_names():
    assert words_of("StateSpace.to_zpk") == {"state", "space", "to", "zpk"}
    assert words_of("HTTPServer2") == {"http", "server", "2"} or "server" in words_of("HTTPServer2")


def test_task_files_hold_the_items(benchmarks, tmp_path):
    names = harness.write_tasks(tmp_path, [benchmarks["type"], benchmarks["type"].with_template("channel")])
    assert names == ["llmbook_type", "llmbook_type_channel"]
    rows = [json.loads(line) for line in (tmp_path / "llmbook_type.test.jsonl").read_text().splitlines()]
    assert [row["choices"][row["label"]] for row in rows] == [item.answer for item in benchmarks["type"].items]
    assert benchmarks["type"].version in (tmp_path / "llmbook_type.yaml").read_text()
    assert not list(tmp_path.glob(".*"))


def test_no_task_files_in_a_file(benchmarks, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        harness.write_tasks(tmp_path / "file", benchmarks.values())


def test_unknown_tasks_are_named(tmp_path):
    with pytest.raises(ValueError, match="llmbook_nothing is not among them"):
        harness.run(None, None, tmp_path, ["llmbook_nothing"])


def _make(**changes):
    way = Template("{text}")
    given = render("a", {"text": "x", "choices": ["1", "2"], "answer": "1"}, way, "choice")
    fields = {"name": "n", "kind": "choice", "items": (given,), "dev": (), "description": "", "datasheet": {},
              "templates": {"t": way}, "template": "t"}  # fmt: skip
    return Benchmark(**(fields | changes))


ITEM = _make().items[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: _make(items=()), "no items"),
        (lambda: _make(kind="essay"), "choice, generation"),
        (lambda: _make(items=(ITEM, ITEM)), "two items have the id 'a'"),
        (lambda: _make(dev=(ITEM,)), "two items"),
        (lambda: _make(items=(replace(ITEM, answer="3"),)), "0 times"),
        (lambda: _make(items=(replace(ITEM, choices=("1", "1")),)), "2 times"),
        (lambda: _make(items=(ITEM, replace(ITEM, id="b", choices=("1", "2", "3")))), "same number"),
        (lambda: _make(kind="generation"), "no choices"),
        (lambda: _make(kind="generation", items=(replace(ITEM, choices=(), answer=" "),)), "not empty"),
        (lambda: _make(template="u"), "template='u'"),
        (lambda: _make().with_template("u"), "n has t"),
        (lambda: _make().take(2), "count=2"),
        (lambda: _make().with_field("colour", ["red"]), "name='colour': the template t of n fills in text"),
        (lambda: _make().with_field("text", ["a", "b"]), "2 values for the 1 items"),
        (lambda: function(DatasetDict(), "medium"), "hard, words, easy"),
        (lambda: section(DatasetDict()), "takes its items from test"),
        (lambda: replace(ITEM, choices=()).label, "no choices"),
    ],
)
def test_what_is_no_benchmark_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
