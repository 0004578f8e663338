"""Flow charts of the site: how the fence of Mermaid is read, and that the drawing's words fit into its shapes."""

import importlib

import pytest
from browsing import PHONE, ROOT, SCREEN, new_context

SOURCE = """
graph LR
    subgraph one [a stack]
    A[tokens so far] -->|all of them| B(a model) --> C{choose one}
    end
    subgraph two [another]
    X([x]) --> Y((+))
    end
"""


def drawn_chapters() -> list[str]:
    """The manuscripts with a flow chart, whichever they are today."""
    return [path.stem for path in sorted((ROOT / "book" / "en").glob("*.md")) if "```mermaid\n" in path.read_text()]


@pytest.fixture(scope="module")
def diagrams():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "book" / "_ext"))
        yield importlib.import_module("diagrams")


def test_chart_is_read_with_its_labels_arrows_and_groups(diagrams):
    chart = diagrams.read(SOURCE)
    assert {name: label for name, (label, _) in chart.nodes.items()} == {
        "A": "tokens so far", "B": "a model", "C": "choose one", "X": "x", "Y": "+",
    }  # fmt: skip
    assert chart.arrows == [("A", "B", "all of them"), ("B", "C", ""), ("X", "Y", "")]
    assert chart.groups == {"a stack": ["A", "B", "C"], "another": ["X", "Y"]}
    assert [list(part.nodes) for part in chart.parts()] == [["A", "B", "C"], ["X", "Y"]]
    assert chart.described() == (
        "Flow chart: a stack: tokens so far to a model (all of them); a stack: a model to choose one; another: x to +."
    )


def test_chart_with_an_arrow_between_groups_stays_whole(diagrams):
    chart = diagrams.read(SOURCE + "    C --> X\n")
    assert chart.parts() == [chart]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("sequenceDiagram\n A->>B: x", "begins with"),
        ("graph LR\n A -.-> B", "no arrow where one should be"),
        ("graph LR\n A --> [x]", "no node where one should be"),
    ],
)
def test_what_it_cannot_draw_is_an_error(diagrams, source, words):
    with pytest.raises(ValueError, match=words):
        diagrams.read(source)


@pytest.mark.parametrize("chapter", drawn_chapters())
@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
def test_drawing_is_legible(diagrams, browser, chapter, size):
    source = (ROOT / "book" / "en" / f"{chapter}.md").read_text().split("```mermaid\n")[1].split("```")[0]
    style = (ROOT / "book" / "_static" / "book.css").read_text()
    context = new_context(browser, size=size)
    page = context.new_page()
    chart = diagrams.read(source)
    wide = size == SCREEN
    drawings = diagrams.draw([part.dot("LR" if wide else "TB") for part in chart.parts()])
    html = f'<div class="diagram"><div class="{"wide" if wide else "narrow"}">{"".join(drawings)}</div></div>'
    column = 720 if wide else 358
    page.set_content(f"<style>{style}</style><div style='width:{column}px'>{html}</div>")
    shown = page.locator(".diagram svg text").evaluate_all(
        "texts => texts.map(text => text.getBoundingClientRect().height)"
    )
    assert len(shown) >= len(chart.nodes) and min(shown) > 10, "letters of less than 10 pixels"
    outside = page.locator(".diagram .node").evaluate_all("""nodes => nodes.filter(node => {
        const [shape, text] = ["polygon, path, ellipse", "text"].map(name => node.querySelector(name));
        return text.getBBox().width > 1.02 * shape.getBBox().width;
    }).map(node => node.textContent)""")
    assert outside == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    context.close()
