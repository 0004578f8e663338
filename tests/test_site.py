"""The built site in a real browser, with every other host blocked: `-n 0`, since one server and one browser serve all.

The browser's name is printed at the start. Every page is opened in light and dark, on a screen and on a phone.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import PHONE, SCREEN, new_context, serious_barriers, serve

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
# What a browser fetches until the network is quiet, uncompressed: document, styles, scripts, fonts, pictures in sight.
MAX_PAGE_KIB = 1200
MAX_REQUESTS = 45
MAX_SHIFT = 0.1  # the largest sum of layout shifts within five seconds, as browsers report it
# Fonts as no machine has them: where the site's own do not come, letters are very wide, and what only screen readers
# read is four times its size. Only the last is seen in a page whose fonts are there.
OTHER_FONTS = """
  html { --serif: monospace !important; --sans: monospace !important }
  mjx-assistive-mml math { font-size: 400% !important }
"""
SHIFTS = """
  window.shifts = [];
  new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifts.push([entry.startTime, entry.value]);
  }).observe({type: "layout-shift", buffered: true});
"""
# Pictures whose sides have another ratio than in their file.
STRETCHED = """
  [...document.querySelectorAll("main img")].filter(image => {
    const style = getComputedStyle(image), box = image.getBoundingClientRect();
    const rim = (...sides) => sides.reduce(
      (sum, side) => sum + parseFloat(style["padding" + side]) + parseFloat(style["border" + side + "Width"]), 0);
    const width = box.width - rim("Left", "Right"), height = box.height - rim("Top", "Bottom");
    return width > 0 && Math.abs(width * image.naturalHeight / (height * image.naturalWidth) - 1) > 0.03;
  }).map(image => image.alt)
"""


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
    assert page.locator("html").get_attribute("data-theme") == theme
    prose = """() => {
        const copy = document.querySelector("article")?.cloneNode(true) ?? document.createElement("p");
        copy.querySelectorAll("pre, code, script, style").forEach(part => part.remove());
        return copy.textContent;
    }"""
    text = page.evaluate(prose)
    assert not re.findall(r"\\\(.*?\\\)|\\\[|\\(?:frac|sum|mid)\b", text), "TeX that was not typeset"
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "the page scrolls sideways"
    # a picture without words stands in the frame, beside words that say the same
    unnamed = page.locator("img:not([alt]), article img[alt='']")
    assert [image.get_attribute("src") for image in unnamed.all()] == []
    mute = "images => images.filter(image => !image.parentElement.textContent.trim()).map(image => image.outerHTML)"
    assert page.locator("img[alt='']").evaluate_all(mute) == []
    assert serious_barriers(page) == []
    assert page.complaints == []
    sizes = sorted(page.bytes.items(), key=lambda item: -item[1])
    assert sum(page.bytes.values()) / 1024 <= MAX_PAGE_KIB, sizes[:8]
    assert len(sizes) <= MAX_REQUESTS, sizes
    page.add_style_tag(content=OTHER_FONTS)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "its width depends on fonts"


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
    assert page.evaluate(STRETCHED) == []
    assert page.locator(".diagram").count() == prose.count("```mermaid")


@pytest.mark.parametrize("path", [path for path in pages() if path.startswith("notebooks/")])
def test_no_line_of_code_is_cut_off_on_a_screen(open_page, path):
    page = open_page(path)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    page.evaluate("document.fonts.load('12px \"JetBrains Mono Variable\"')")
    too_long = """cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth)
        .map(cell => cell.textContent.split("\\n").reduce((a, b) => b.length > a.length ? b : a))"""
    assert page.locator(".cell_input pre").evaluate_all(too_long) == [], "lines of more than 113 characters"


def largest_shift(shifts):
    """A page's cumulative layout shift: windows end after a second of rest, or after five."""
    largest = window = start = last = 0
    for time, value in shifts:
        if time - last > 1000 or time - start > 5000:
            window, start = 0, time
        window, last = window + value, time
        largest = max(largest, window)
    return largest


@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
@pytest.mark.parametrize("path", [path for path in pages() if path.startswith("notebooks/")])
def test_text_stays_where_it_is_while_pictures_come(browser, address, path, size):
    context = new_context(browser, size=size)
    page = context.new_page()
    # what scripts draw in place of a picture comes whenever the machine has time for it
    page.route(re.compile(r"/(explorer/(explorer|pictures)|bertviz/views)\.js"), lambda route: route.abort())
    page.add_init_script(SHIFTS)
    page.goto(f"{address}/{path}", wait_until="networkidle")
    page.evaluate("""async () => {
        for (let place = 0; place < document.documentElement.scrollHeight; place += innerHeight / 2) {
            scrollTo({top: place, behavior: "instant"});
            await new Promise(resolve => setTimeout(resolve, 50));
        }
    }""")
    assert largest_shift(page.evaluate("shifts")) < MAX_SHIFT
    context.close()


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
