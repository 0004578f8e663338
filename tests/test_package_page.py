"""The page of the package's public names, built by Sphinx alone."""

import importlib
import re
from html import unescape
from pathlib import Path

import pytest
from single_page import build_page

import house

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def extension():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "book" / "_ext"))
        yield importlib.import_module("package_index")


@pytest.fixture(scope="module")
def build(tmp_path_factory, extension):
    """Return a function that builds a page beside empty chapters: its HTML, the words of the search and complaints."""
    folder = tmp_path_factory.mktemp("site")

    def build(text):
        out, complaints = build_page(folder, "package", text, "package_index", nitpicky=True)
        html = (out / "book" / "en" / "package.html").read_text()
        return html, (out / "searchindex.js").read_text(), complaints

    return build


@pytest.fixture(scope="module")
def built(build):
    return build((ROOT / "book" / "en" / "package.md").read_text())


@pytest.mark.slow
def test_every_public_name_has_a_row_and_nothing_is_complained_of(built):
    html, _, complaints = built
    assert complaints == ""
    anchors = re.findall(r'<dt id="([\w.]+)"', html)
    assert len(anchors) == len(set(anchors))
    assert set(anchors) == {f"{public.module}.{public.name}" for public in house.public_names()}
    known = {"llmbook.attention.scaled_dot_product_attention", "llmbook.metrics.bleu", "llmbook.viz.show_attention"}
    assert known < set(anchors)


def test_a_row_says_how_a_name_is_called_what_it_does_and_where_the_book_has_it(built):
    html, _, _ = built
    row = re.search(r'<dt id="llmbook.attention.causal_mask".*?</dd>', html, re.DOTALL)[0]
    assert 'href="#llmbook.attention.causal_mask"' in row and "<em>" not in row
    text = unescape(re.sub(r"<[^>]+>", "", row))
    assert text.startswith("causal_mask(") and ") -> " in text and "Chapter 3" in text
    assert 'href="../../notebooks/en/03-attention.html"' in row
    assert re.search(r'<dt id="llmbook.transformer.Decoder"[^>]*>\s*<em>class</em> ', html)
    assert "“" not in "".join(re.findall(r"<dt.*?</dt>", html)), "quotes of a signature were made curly"


def test_search_leads_to_the_anchor_of_a_name(built):
    _, index, _ = built
    assert "scaled_dot_product_attention" in index
    assert re.search(r'"llmbook\.attention":\s*\[\[', index), "no objects for the search"


@pytest.mark.slow
def test_an_unknown_floor_is_one_line(build):
    _, _, complaints = build("# Page\n\n:::{package-index} attic\n:::\n")
    assert "no floor 'attic': there are ground, models" in complaints


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return a mask.\n\nMore.", "Return a mask."),
        ("Return what\nPress et al. (2022) did. Then more.", "Return what Press et al. (2022) did."),
        ("No full stop", "No full stop"),
        ("", ""),
    ],
)
def test_first_sentence(extension, docstring, sentence):
    assert extension.first_sentence(docstring) == sentence
