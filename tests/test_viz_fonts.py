"""Figures write every language that the machine has a font for, and say once which font it lacks."""

import io
import pickle
import warnings

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, rcParams
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from llmbook import viz
from llmbook.explore.still import still
from llmbook.viz import fonts
from llmbook.viz.frames import png

matplotlib.use("agg")
WORDS = ["我", "爱", "cat"]


def make_font(folder, name, characters, empty=False):
    """A font in which each character is a full square, or has no outline."""
    pen = TTGlyphPen(None)
    if not empty:
        pen.moveTo((0, 0))
        for corner in ((0, 900), (900, 900), (900, 0)):
            pen.lineTo(corner)
        pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square" for character in characters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = folder / f"{name.replace(' ', '')}.ttf"
    builder.save(path)
    return str(path)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with matplotlib's own fonts alone, and those that a test installs."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in str(entry.fname)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "_FAMILIES", {})
    installed = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: installed)
    with matplotlib.rc_context():
        yield lambda *given, **options: installed.append(make_font(tmp_path, *given, **options))
    plt.close("all")


def saved(figure):
    """The picture's bytes, and what was warned of."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue(), [str(one.message) for one in seen]


def drawings():
    weights = np.eye(3)
    yield viz.show_attention(attention=weights, tokens=WORDS)
    yield viz.attention_map(weights, WORDS).figure
    figure, axes = plt.subplots()
    viz.attention_map(weights, WORDS, ax=axes)
    yield figure
    yield still(WORDS, weights[None, None], [("我", 0.5)], "爱")


def test_font_of_the_machine_is_used_by_every_drawing(machine):
    machine("Book Han", "我爱")
    for figure in drawings():
        _, said = saved(figure)
        assert said == []
        texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() in ("我", "爱")]
        texts = [text for text in texts if text.get_visible()]  # a tick has a second label, on the other side
        assert texts and all(text.get_fontfamily() == [*rcParams["font.family"], "Book Han"] for text in texts)
        assert all("Book Han" not in text.get_fontfamily()
                   for text in figure.findobj(matplotlib.text.Text) if text.get_text() == "cat")  # fmt: skip


def test_characters_that_no_font_has_are_said_once(machine):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for figure in drawings():
            figure.savefig(io.BytesIO(), bbox_inches="tight")
    (one,) = [str(warning.message) for warning in seen]
    assert one.startswith("no font of this machine has 我, 爱: figures show boxes") and "Noto Sans CJK SC" in one


@pytest.mark.parametrize(("text", "font"), [
    ("ไทย", "Noto Sans Thai"), ("हिन्दी", "Noto Sans Devanagari"), ("🫠", "Noto Emoji, not the coloured one"),
    ("，한", "Noto Sans CJK SC"), ("\U0001d800", "Noto Sans Symbols 2"),
])  # fmt: skip
def test_warning_names_the_font_to_install(machine, text, font):
    figure = viz.show_attention(attention=np.eye(1), tokens=[text])
    _, said = saved(figure)
    assert len(said) == 1 and font in said[0], said
    assert saved(figure)[1] == []


def test_cyrillic_needs_no_other_font_and_control_characters_no_word(machine):
    figure = viz.show_attention(attention=np.eye(3), tokens=["кошка", "\x07\u2028", "naïve … ↵"])
    assert saved(figure)[1] == []
    assert {tuple(text.get_fontfamily()) for text in figure.findobj(matplotlib.text.Text)} == {("sans-serif",)}


def test_fewest_fonts_are_taken_and_none_without_outlines(machine):
    machine("A Bitmap", "我爱", empty=True)  # as fonts of coloured emoji, which matplotlib draws as nothing
    machine("B Half", "我")
    machine("C Whole", "我爱")
    figure = viz.show_attention(attention=np.eye(2), tokens=WORDS[:2])
    assert saved(figure)[1] == []
    assert set(fonts._FAMILIES.values()) == {"C Whole"}


def test_stand_in_of_a_view_keeps_silent(machine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        viz.show_attention(attention=np.eye(3), tokens=WORDS, view="head")
        png(viz.show_attention(attention=np.eye(3), tokens=WORDS))


def test_english_is_drawn_as_without_the_search(machine, monkeypatch):
    def make():
        figure = viz.show_attention(attention=np.eye(3), tokens=["a", "cat…", "$x$"])
        return saved(figure)[0]

    found = make()
    monkeypatch.setattr(fonts, "_missing", lambda text: [])
    assert make() == found


def test_readers_figures_write_every_language_in_the_books_style(machine):
    machine("Book Han", "我爱")
    viz.use_style()
    viz.use_style()
    assert len(rcParams["figure.hooks"]) == 1
    figure, axes = plt.subplots()
    axes.set_title("我爱")
    axes.set_xlabel("我")
    assert saved(figure)[1] == []
    assert axes.xaxis.label.get_fontfamily()[-1] == "Book Han"
    assert repr(figure).startswith("<Figure size ") and isinstance(figure, Figure)
    assert repr(pickle.loads(pickle.dumps(figure))) == repr(figure)
