"""Printing the book: a small site of three pages, printed by Chromium."""

import importlib
import re
import struct
import zlib

import pytest
from browsing import ROOT

PAGE = (
    '<!doctype html><html lang="en" data-theme="dark"><head><title>{0}</title><link rel="stylesheet" href="{1}"></head>'
    '<body class="landing"><article><section id="top"><h1>{0}</h1>{2}</section></article></body></html>'
)


def png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", struct.pack(">2I5B", 1, 1, 8, 2, 0, 0, 0)), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("pdf")


@pytest.fixture
def site(tmp_path):
    (tmp_path / "en").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.png").write_bytes(png())
    (tmp_path / "one.css").write_text("body { color: black }")
    (tmp_path / "two.css").write_text(".only-two { letter-spacing: 3px }")
    folded = "<details><summary>Solution</summary><p id='deep'>Forty-two.</p></details>"
    picture = "<img src='{}images/red.png' alt='x'>"
    still = f"<figure class='lm-explorer'><div class='lmx-still' hidden>{picture.format('')}</div></figure>"
    first = f"<p><a href='en/two.html#place'>there</a> <a href='https://example.org/'>away</a></p>{folded}{still}"
    lines = (
        "<figure class='lm-attention' data-view='a'><svg></svg><script>document.querySelector('[data-view]')"
        ".dataset.drawn = 'yes'</script></figure>"
    )
    second = f"<h2 id='place'>A place</h2><p class='only-two' id='deep'>Text</p>{picture.format('../')}{lines}"
    wide = f"<table><tr>{'<td style=min-width:80px>word_of_a_wide_table</td>' * 20}</tr></table>"
    third = "<p><a href='../index.html'>back</a></p>" + wide + "<p>Line</p>" * 80
    (tmp_path / "index.html").write_text(PAGE.format("First", "one.css", first))
    (tmp_path / "en" / "two.html").write_text(PAGE.format("Second", "../two.css", second))
    (tmp_path / "en" / "three.html").write_text(PAGE.format("Third", "../one.css", third))
    return tmp_path


PAGES = ["index.html", "en/two.html", "en/three.html"]


def test_pages_become_one_document_with_outline_numbers_and_inner_links(tool, site, browser, tmp_path):
    target = tmp_path / "out" / "book.pdf"
    page = browser.new_page(viewport=tool.PAPER)
    with tool.served(site) as address:
        tool.write(page, address, PAGES, target)
        assert page.locator("h1").all_inner_texts() == ["First", "Second", "Third"]
        links = page.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
        assert links == ["#page-1-place", "https://example.org/", "#page-0"]
        names = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
        assert len(names) == len(set(names)) and {"page-0", "page-1-place", "page-0-deep", "page-1-deep"} <= set(names)
        assert page.locator("details[open]").count() == 1 and page.locator(".lmx-still img").is_visible()
        assert page.locator(".only-two").evaluate("node => getComputedStyle(node).letterSpacing") == "3px"
        assert page.locator("[data-drawn=yes]").count() == 1
        edges = [page.locator(name).last.bounding_box() for name in ("table", "article")]
        right, paper = (edge["x"] + edge["width"] for edge in edges)
        assert right <= paper + 1
        assert page.locator("html").get_attribute("data-theme") == "light"
    printed = target.read_bytes()
    assert printed.startswith(b"%PDF") and b"/Outlines" in printed
    assert len(re.findall(rb"/Type ?/Page\b", printed)) >= 4  # the third page takes more than a sheet
    page.close()


def test_missing_picture_is_named(tool, site, browser, tmp_path):
    (site / "images" / "red.png").unlink()
    page = browser.new_page(viewport=tool.PAPER)
    with tool.served(site) as address, pytest.raises(tool.Problem, match=r"2 pictures are not in the site, .*red\.png"):
        tool.write(page, address, PAGES, tmp_path / "book.pdf")
    page.close()


def test_chapter_is_chosen_by_its_name(tool):
    assert len(tool.select("")) == len(tool.toc_pages()) > 3
    assert tool.select("03-attention") == tool.select("notebooks/en/03-attention") == ["notebooks/en/03-attention.html"]
    with pytest.raises(tool.Problem, match=r"CHAPTER='99-nothing' is no page of _toc\.yml: there are index, "):
        tool.select("99-nothing")
