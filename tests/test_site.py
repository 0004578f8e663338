"""The built site in a real browser, with every other host blocked: `-n 0`, since one server and one browser serve all.

The browser's name is printed at the start. Every page is opened in light and dark, on a screen and on a phone.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import PHONE, SCREEN, serious_barriers, serve

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
MAX_PAGE_KIB = 1200


def pages():
    toc = (ROOT / "_toc.yml").read_text()
    return [f"{name}.html" for name in re.findall(r"(?:file|root): (\S+)", toc)] + ["search.html"]


@pytest.fixture(scope="session")
def address():
    subprocess.run([sys.executable, ROOT / "tools" / "build_site.py", "--if-changed"], check=True)
    with serve(SITE) as address:
        yield address


@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", pages())
def test_page_is_complete_and_legible(open_page, path, theme, size):
    page = open_page(path, theme, size)
    for diagram in page.locator("pre.mermaid").all():
        diagram.scroll_into_view_if_needed()
        diagram.locator("svg").wait_for()
    assert page.locator("html").get_attribute("data-theme") == theme
    prose = """() => {
        const copy = document.querySelector("article")?.cloneNode(true) ?? document.createElement("p");
        copy.querySelectorAll("pre, code, script, style").forEach(part => part.remove());
        return copy.textContent;
    }"""
    text = page.evaluate(prose)
    assert not re.findall(r"\\\(.*?\\\)|\\\[|\\(?:frac|sum|mid)\b", text), "TeX that was not typeset"
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "the page scrolls sideways"
    unnamed = page.locator("img:not([alt]), figure img[alt=''], .cell_output img[alt='']")
    assert [image.get_attribute("src") for image in unnamed.all()] == []
    assert serious_barriers(page) == []
    assert page.complaints == []
    # All that the page loads, uncompressed, but for mermaid: 0.8 MB of modules, only where there is a diagram.
    sizes = {url: size for url, size in page.bytes.items() if "/vendor/mermaid/" not in url}
    assert sum(sizes.values()) / 1024 < MAX_PAGE_KIB, sorted(sizes.items(), key=lambda item: -item[1])[:8]


@pytest.mark.parametrize("path", [path for path in pages() if path.startswith("notebooks/")])
def test_equations_and_figures_of_a_chapter_are_there(open_page, path):
    page = open_page(path)
    notebook = json.loads((ROOT / path).with_suffix(".ipynb").read_text())
    prose = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert page.locator("div.equation mjx-container").count() == len(re.findall(r"^\$\$", prose, re.MULTILINE)) // 2
    fonts = page.evaluate("document.fonts.ready.then(f => [...f].filter(x => x.status == 'loaded').map(x => x.family))")
    assert any("MJX" in family for family in fonts) or "$" not in prose
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator("pre.mermaid").count() == prose.count("```mermaid")


def test_search_finds_a_word_of_a_chapter(open_page):
    page = open_page("search.html?q=perplexity")
    hit = page.locator("#search-results a[href*='notebooks/en/01-language-models.html']").first
    hit.wait_for()
    hit.click()
    page.wait_for_load_state("networkidle")
    assert "/notebooks/en/01-language-models.html" in page.url
    assert page.complaints == []


def test_search_button_leads_to_the_results(open_page):
    page = open_page("book/en/run.html")
    page.keyboard.press("Control+k")
    page.locator("dialog input[name=q]").fill("smoothing")
    page.keyboard.press("Enter")
    page.locator("#search-results a[href*='01-language-models']").first.wait_for()
    assert page.complaints == []


def test_attention_view_answers_pointer_and_keys(open_page):
    page = open_page("book/en/index.html")
    tokens = page.locator(".lm-tokens button")
    tokens.nth(3).hover()
    assert "lm-query" in tokens.nth(3).get_attribute("class")
    assert tokens.nth(4).locator("i").inner_text() == "", "a causal model does not look ahead"
    shown = [float(text) for text in page.locator(".lm-tokens i").all_inner_texts() if text]
    assert sum(shown) == pytest.approx(1, abs=0.02)
    assert page.locator(".lm-stage path").count() > 0
    tokens.nth(3).focus()
    page.keyboard.press("ArrowLeft")
    assert "lm-query" in tokens.nth(2).get_attribute("class")


def test_chapter_prints_without_the_frame_and_on_white(open_page):
    page = open_page("notebooks/en/01-language-models.html", theme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("html").get_attribute("data-theme") == "light"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.emulate_media(media="print")
    for frame in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer"):
        assert not page.locator(frame).first.is_visible(), frame
    assert page.locator("article h1").first.is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_launch_buttons_name_the_repository(open_page):
    page = open_page("notebooks/en/01-language-models.html")
    config = (ROOT / "_config.yml").read_text()
    owner_and_name = re.search(r"url: https://github\.com/(\S+)", config)[1]
    notebook = "notebooks/en/01-language-models.ipynb"
    links = [link.get_attribute("href") for link in page.locator("a.launch").all()]
    assert f"https://colab.research.google.com/github/{owner_and_name}/blob/main/{notebook}" in links
    assert f"https://mybinder.org/v2/gh/{owner_and_name}/main?urlpath=lab/tree/{notebook}" in links
    assert any(link.endswith(f"_sources/{notebook}") for link in links)
