"""Interactive attention views in a page of the book, with every other host blocked: Chromium, light, dark, phone.

The book is one of a single chapter, made here and built as the real one is.
"""

import re
import shutil

import nbformat
import numpy as np
import pytest
from browsing import PHONE, ROOT, SCREEN, build_site, new_context, serious_barriers, serve, watched_page
from playwright.sync_api import expect

from llmbook import viz
from llmbook.viz import scripts

PAGE = "notebooks/en/01-test.html"
TOKENS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "then", "it"),
    *("goes", "home", "to", "sleep", "until", "the", "next", "day", "begins", "to", "dawn", "."),
)
VIEWS = {"head": 0, "model": 1, "neuron": 2}


def weights(*shape):
    scores = np.exp(3 * np.random.default_rng(0).normal(size=shape)) * np.tri(*shape[-2:])
    return scores / scores.sum(-1, keepdims=True)


SMALL = {"attention": weights(3, 4, 12, 12), "tokens": TOKENS[:12]}


def neuron_view():
    import torch

    from llmbook.transformer import Decoder, TransformerConfig

    torch.manual_seed(0)
    model = Decoder(TransformerConfig(vocab_size=30, d_model=16, num_layers=2, num_heads=2, d_ff=16))
    return viz.show_attention(model, torch.arange(8), tokens=TOKENS[:8], view="neuron", label="Queries and keys")


def shown(view, **changes):
    arguments = {"attention": weights(6, 6, 24, 24), "tokens": TOKENS, "view": view, "label": f"The {view} view"}
    return viz.show_attention(**arguments | changes)


def notebook(*views):
    cells = [nbformat.v4.new_markdown_cell("# Views")]
    for number, view in enumerate(views):
        output = nbformat.v4.new_output("display_data", data=view._repr_mimebundle_())
        metadata = {"tags": [f"view{number}"], "mystnb": {"image": {"alt": "x"}}}
        cells.append(nbformat.v4.new_code_cell("view", outputs=[output], execution_count=number + 1, metadata=metadata))
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("book")
    for name in ("book", "tools", "_config.yml", "package-lock.json"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, root / name)
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/en/index\nchapters: [file: notebooks/en/01-test]\n")
    for chapter in (root / "book" / "en").glob("*.md"):
        chapter.unlink()
    (root / "book" / "en" / "01-test.md").write_text("# Views\n")
    (root / "book" / "en" / "index.md").write_text("# Index\n\nNo view here.\n")
    (root / "notebooks" / "en").mkdir(parents=True)
    chapter = notebook(shown("head"), shown("model", **SMALL), neuron_view())
    nbformat.write(chapter, root / "notebooks" / "en" / "01-test.ipynb")
    return build_site(root)


@pytest.fixture(scope="session")
def address(site):
    with serve(site) as address:
        yield address


def drawn(page, number):
    """Scroll to a view, wait until it is drawn, and return its frame."""
    figure = page.locator(".lm-bertviz").nth(number)
    figure.scroll_into_view_if_needed()
    expect(figure.locator("img")).to_be_hidden(timeout=30_000)
    return figure.locator("iframe").element_handle().content_frame()


@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_views_draw_without_another_host(open_page, theme, size):
    page = open_page(PAGE, theme, size)
    for view, number in VIEWS.items():
        frame = drawn(page, number)
        assert frame.locator("#vis svg line").count() > 100, view
        assert ("dark" in frame.evaluate("({...document.documentElement.dataset})")) == (theme == "dark")
        background = "getComputedStyle({}).backgroundColor"
        assert frame.evaluate(background.format("document.documentElement")) == page.evaluate(
            background.format("document.body")
        )
        heights = frame.evaluate("[document.documentElement.scrollHeight, innerHeight]")
        assert heights[0] <= heights[1] + 1, f"{view} scrolls within its frame"
        if size == SCREEN:
            box = frame.locator("#frame").evaluate("box => [box.scrollWidth, box.clientWidth]")
            assert box[0] <= box[1] + 1, f"{view} is wider than its frame"
        assert serious_barriers(frame) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "the page scrolls sideways"
    assert serious_barriers(page) == []
    assert page.complaints == []
    assert page.evaluate("[typeof require, typeof define, typeof jQuery, typeof d3]") == ["undefined"] * 4


def test_pages_share_one_script_and_pictures_are_files(open_page, site):
    html = (site / PAGE).read_text()
    assert html.count('lm-bertviz"') == 3 and "data-scripts" not in html and "data:image/png" not in html
    assert "DecompressionStream" not in html
    pictures = re.findall(r'<img [^>]*alt="[^"]+" src="\.\./\.\./(_images/attention-\w+\.png)"', html)
    assert len(pictures) == 3 and all((site / name).is_file() for name in pictures)
    assert len(html) < 100_000
    page = open_page(PAGE)
    assert len([url for url in page.bytes if "/bertviz/views.js" in url]) == 1
    assert "bertviz" not in "".join(open_page("book/en/index.html").bytes)
    assert (site / "_static" / "vendor" / "bertviz" / "d3-selection-LICENSE").is_file()


def test_head_view_answers_the_pointer(open_page):
    page = open_page(PAGE)
    frame = drawn(page, VIEWS["head"])
    opacity = "lines => lines.map(line => +line.getAttribute('stroke-opacity')).reduce((a, b) => a + b)"
    frame.locator("#left text", has_text="fox").hover()
    assert frame.locator("#attention").get_attribute("visibility") == "hidden"
    assert frame.locator("line[visibility=visible]").count() == 24 * 6
    assert frame.locator("line[visibility=visible]:not([left-token-index='3'])").count() == 0
    frame.locator("#left text", has_text="over").hover()
    assert frame.locator("line[visibility=visible][left-token-index='5']").count() == 24 * 6
    squares = frame.locator("#vis svg > g:last-child > rect")
    assert squares.first.locator("title").text_content() == "Head 0"
    squares.nth(2).click()
    heads = frame.locator(".headAttention")
    assert heads.nth(2).locator("line").evaluate_all(opacity) == 0
    assert heads.nth(1).locator("line").evaluate_all(opacity) > 1
    before = heads.nth(1).locator("line").first.evaluate("line => line.__data__")
    frame.locator("select#layer").select_option("4")
    assert heads.nth(2).locator("line").evaluate_all(opacity) == 0, "the head stays off in the next layer"
    assert squares.nth(5).locator("title").text_content() == "Head 5"
    values = frame.locator(".headAttention").nth(1).locator("line").evaluate_all("lines => lines.map(l => l.__data__)")
    assert np.allclose(np.reshape(values, (24, 24)), weights(6, 6, 24, 24)[4, 1], atol=6e-4)
    assert before == 1
    assert page.complaints == []


def test_model_view_opens_a_head(open_page):
    page = open_page(PAGE)
    frame = drawn(page, VIEWS["model"])
    assert frame.locator(".attn_background").count() == 12
    assert frame.locator(".detail").count() == 0
    box = frame.locator("#attn_background_2_3").bounding_box()
    page.mouse.click(box["x"] + 10, box["y"] + 10)
    assert frame.locator("text.detail").text_content() == "Layer 2, Head 3"
    assert frame.locator(".detail text.token").all_text_contents() == [*TOKENS[:12], *TOKENS[:12]]
    assert page.complaints == []


def test_neuron_view_shows_queries_and_keys(open_page):
    page = open_page(PAGE)
    frame = drawn(page, VIEWS["neuron"])
    assert frame.locator("select#att_head option").all_text_contents() == ["0", "1"]
    frame.locator("#collapsed text.token", has_text="over").first.hover()
    plus = frame.locator("#collapsed rect[width='16']").nth(5)
    plus.click()
    assert frame.locator("#expanded").get_attribute("visibility") == "visible"
    frame.locator("#expanded text.token", has_text="over").first.hover()
    products = frame.locator(".dotproduct").evaluate_all("squares => squares.map(s => +s.dataset.value)")
    assert len(products) == 8 and len(set(products)) > 4
    assert frame.locator("#queries .vector").first.locator(".element").count() == 8
    assert page.complaints == []


def test_view_follows_the_pages_theme(open_page):
    page = open_page(PAGE)
    drawn(page, 0)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    frame = page.frame_locator(".lm-bertviz iframe").nth(0)
    frame.locator("html[data-dark] #vis svg line").first.wait_for(state="attached")
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    frame.locator("html:not([data-dark]) #vis svg line").first.wait_for(state="attached")
    assert page.complaints == []


def test_picture_stands_in_on_paper_and_without_scripts(browser, address, open_page):
    page = open_page(PAGE)
    drawn(page, 0)
    page.emulate_media(media="print")
    expect(page.locator(".lm-bertviz img").first).to_be_visible()
    expect(page.locator(".lm-bertviz iframe").first).to_be_hidden()
    context = new_context(browser, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/{PAGE}")
    picture = page.locator(".lm-bertviz img").first
    expect(picture).to_be_visible()
    assert picture.get_attribute("alt") == "The head view" and picture.bounding_box()["width"] > 300
    context.close()


def test_site_opened_from_the_disk_draws(browser, site):
    context = new_context(browser)
    page = watched_page(context, "file:")
    page.goto((site / PAGE).as_uri())
    assert drawn(page, 0).locator("#vis svg line").count() > 100
    # a browser takes no fonts from the disk, and says so
    assert [text for text in page.complaints if text.startswith("asks another host")] == []
    context.close()


@pytest.fixture
def colab(browser, tmp_path):
    """Open an output as Colab does: in a frame of another origin that may run scripts and nothing else."""
    contexts = []

    def open_output(html, *allowed):
        (tmp_path / "output.html").write_text(f"<!doctype html><html><body>{html}</body></html>")
        (tmp_path / "index.html").write_text(
            f'<iframe sandbox="allow-scripts" width="800" height="2000" src="{inner}/output.html"></iframe>'
        )
        contexts.append(new_context(browser))
        page = watched_page(contexts[-1], outer, inner, *allowed)
        page.goto(f"{outer}/index.html")
        return page

    with serve(tmp_path) as outer, serve(tmp_path) as inner:
        yield open_output
    for context in contexts:
        context.close()


def test_output_draws_in_a_frame_of_another_origin(colab):
    views = shown("head")._repr_html_() + shown("model", **SMALL)._repr_html_()
    page = colab(views + views)  # a cell that was run again
    outputs = page.frames[1]
    for number in range(4):
        outputs.locator(".lm-bertviz").nth(number).scroll_into_view_if_needed()
        expect(outputs.locator(".lm-bertviz img").nth(number)).to_be_hidden(timeout=30_000)
        frame = outputs.locator(".lm-bertviz iframe").nth(number).element_handle().content_frame()
        assert frame.locator("#vis svg line").count() > 100
    assert page.complaints == []


@pytest.mark.parametrize("tampered", [False, True])
def test_installed_alone_the_libraries_come_checked_from_their_network(colab, monkeypatch, tmp_path, tampered):
    monkeypatch.setattr(scripts, "FOLDER", tmp_path / "none")
    page = colab("")

    def answer(route):
        library = route.request.url.removeprefix(scripts.ADDRESS)
        name, _, path = re.fullmatch(r"([^@]+)@([^/]+)/(.+)", library).groups()
        body = (ROOT / "node_modules" / name / path).read_text()
        body += "/**/" if tampered and name == "d3-selection" else ""
        route.fulfill(body=body, content_type="text/javascript", headers={"access-control-allow-origin": "*"})

    page.context.route(f"{scripts.ADDRESS}**", answer)
    (tmp_path / "output.html").write_text(f"<!doctype html><html><body>{shown('head')._repr_html_()}</body></html>")
    page.reload()
    outputs = page.frames[1]
    outputs.locator(".lm-bertviz iframe").wait_for(state="attached")
    if tampered:
        page.wait_for_timeout(1500)
        expect(outputs.locator(".lm-bertviz img")).to_be_visible()
        assert any("integrity" in complaint for complaint in page.complaints)
    else:
        expect(outputs.locator(".lm-bertviz img")).to_be_hidden(timeout=30_000)
        assert page.complaints == []
