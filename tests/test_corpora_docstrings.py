import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.corpora import docstrings
from llmbook.corpora.docstrings import parse, read_docstrings

NUMPYDOC = """\
mean(a, axis=None)

Compute the mean, e.g. of an image. The sum is
divided by the number.

Parameters
----------
a, b : array_like of shape (n, m)
    The values.
axis : {'rows', 'default'}, default: 'rows'
    Along which axis.
\\*args
    Passed on. Default is 3.

Returns
-------
float
    The mean.

Examples
--------
>>> mean([1, 2])
1.5
"""
GOOGLE = """\
Computes the mean.

Args:
    values (list[int], optional): The values.
        Default: ``None``
    axis: along which axis

More text.

Returns:
    float: the mean.

Raises: ValueError if empty
and nothing else.
"""
FIELDS = """\
Compute the mean.

:param list values: the values,
    all of them
:param axis: along which axis
:type axis: int, optional (default: 0)
:return: the mean
:rtype: float
:cvar other: something else
:raises ValueError: if empty
"""


def titles(text: str) -> list[str]:
    return [section.title for section in parse(text).sections]


def test_numpydoc():
    parsed = parse(docstrings.inspect.cleandoc(NUMPYDOC))
    assert parsed.summary == "Compute the mean, e.g. of an image."
    assert parsed.body.startswith("The sum is\ndivided")
    assert [section.title for section in parsed.sections] == ["Parameters", "Returns", "Examples"]
    assert parsed.sections[1].text == "float\n    The mean."
    assert [tuple(parameter)[:3] for parameter in parsed.parameters] == [
        ("a", "array_like of shape (n, m)", ""),
        ("b", "array_like of shape (n, m)", ""),
        ("axis", "{'rows', 'default'}", "'rows'"),
        ("*args", "", "3"),
    ]


def test_google():
    parsed = parse(docstrings.inspect.cleandoc(GOOGLE))
    assert parsed.summary == "Computes the mean."
    assert [tuple(section) for section in parsed.sections[1:]] == [
        ("Returns", "float: the mean."),
        ("Raises", "ValueError if empty\nand nothing else."),
    ]
    assert "More text" not in parsed.sections[0].text
    assert [tuple(parameter)[:3] for parameter in parsed.parameters] == [
        ("values", "list[int]", "None"),
        ("axis", "", ""),
    ]


def test_sphinx_fields():
    parsed = parse(docstrings.inspect.cleandoc(FIELDS))
    assert [section.title for section in parsed.sections] == ["Parameters", "Returns", "Raises"]
    assert not any("cvar" in section.text for section in parsed.sections)
    assert [tuple(parameter) for parameter in parsed.parameters] == [
        ("values", "list", "", "the values,\nall of them"),
        ("axis", "int", "0", "along which axis"),
    ]


@pytest.mark.parametrize(
    ("text", "summary", "body"),
    [
        ("=====\nTitle\n=====\n\nThe first. The second.", "The first.", "The second."),
        ("Title\n=====", "Title", ""),
        ("f(x) -> y\n\nDo it w.r.t. X.\n\nMore.", "Do it w.r.t. X.", "More."),
        (".. currentmodule:: x\n\nDo it.", "Do it.", ""),
        ("Parameters\n----------\nx : int", "", "Parameters\n----------\nx : int"),
        ("Over two\nlines", "Over two lines", ""),
    ],
)
def test_summary_and_body(text, summary, body):
    assert parse(text)[:2] == (summary, body)


@pytest.mark.parametrize(
    ("written", "kind", "default"),
    [
        ("int, optional (default: 5)", "int", "5"),
        ("{'a', 'default'}, default: 'default'", "{'a', 'default'}", "'default'"),
        ("bool, default=True, optional", "bool", "True"),
        ("str, by default 'a'", "str", "'a'"),
        ("tuple, default: (0, len(x) - 1)", "tuple", "(0, len(x) - 1)"),
        ("float, default: :rc:`legend.pad`", "float", ":rc:`legend.pad`"),
        ("rcParams[default]", "rcParams[default]", ""),
        ("array_like, optional", "array_like", ""),
    ],
)
def test_default_is_taken_from_the_type(written, kind, default):
    (parameter,) = parse(f"Parameters\n----------\nx : {written}").parameters
    assert (parameter.type, parameter.default) == (kind, default)


def test_a_table_is_no_title():
    assert titles("Numbers.\n\na     b\n------\n1     2\n\nNotes\n-----\nNone.") == ["Notes"]


@settings(deadline=None)
@given(st.text(st.sampled_from("ab :.-=\n`()>,\\*") | st.characters(), max_size=200))
def test_any_text_can_be_taken_apart(text):
    parsed = parse(docstrings.inspect.cleandoc(text))
    assert "\n" not in parsed.summary
    assert all(section.title and section.text for section in parsed.sections)


def test_docstrings_of_a_module():
    source = b'''"""Module."""
if True:
    class A(Base):
        """Class."""
        def __init__(self, x, *, y: int = 1): pass
        async def f(self) -> int:
            """Method \\ud800."""
            def inner():
                r"""Function \\d."""
def undocumented(): pass
'''
    assert [tuple(found) for found in read_docstrings(source, "m")] == [
        ("m", "module", "", "Module."),
        ("m.A", "class", "A(x, *, y: int=1)", "Class."),
        ("m.A.f", "method", "f(self) -> int", "Method ?."),
        ("m.A.f.inner", "function", "inner()", "Function \\d."),
    ]


@pytest.mark.parametrize("source", [b"print 'Python 2'", b"\x00", b"# coding: nothing\n", b'"""\xff"""'])
def test_a_file_that_is_not_python_has_no_docstrings(source):
    assert read_docstrings(source, "m") == []
