"""A report card holds what was measured, and no number that was typed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from llmbook.evaluation.report_card import SECTIONS, Measurement, ReportCard

ACCURACY = Measurement("accuracy", 0.5, 0.4, 0.6, 120)


def card(**changes: object) -> ReportCard:
    sections = {name: f"About {{field}}, {name.lower()}." for name in SECTIONS}
    given: dict = {
        "title": "model | one",
        "sections": sections,
        "facts": {"field": "graphs <b>", "share": 0.5},
        "measurements": [ACCURACY],
        "failures": {"synonym": 3, "rare term": 12},
    }
    return ReportCard(**(given | changes))


def test_a_card_has_all_sections_facts_and_measurements() -> None:
    text = card().to_markdown()
    assert all(f"## {name}" in text for name in SECTIONS)
    assert "| accuracy | 0.500 | 0.400 to 0.600 | 120 |" in text
    assert text.index("rare term") < text.index("synonym")


def test_formats_of_facts_apply() -> None:
    sections = dict(card().sections) | {"Use it for": "It answers {share:.0%} of them."}
    assert card(sections=sections).text("Use it for") == "It answers 50% of them."


def test_the_page_escapes_and_stands_alone() -> None:
    page = card().to_html()
    assert "graphs &lt;b&gt;" in page and "<b>" not in page
    assert page.startswith("<!doctype html>") and not re.search(r"(src|href)=", page)
    assert page.count("<table>") == page.count("</table>") == 2


def test_a_typed_number_is_refused() -> None:
    sections = dict(card().sections) | {"Text": "About 3 MB."}
    with pytest.raises(ValueError, match="section 'Text' has '3' typed in"):
        card(sections=sections)


@pytest.mark.parametrize("text", ["See {missing}.", "See {field.upper}.", "An open { brace"])
def test_what_no_fact_answers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="section 'Text'"):
        card(sections=dict(card().sections) | {"Text": text})


def test_a_card_without_a_section_or_a_measurement_is_refused() -> None:
    sections = dict(card().sections)
    del sections["Do not use it for"]
    with pytest.raises(ValueError, match="missing \\['Do not use it for'\\]"):
        card(sections=sections)
    with pytest.raises(ValueError, match="unknown \\['Praise'\\]"):
        card(sections=dict(card().sections) | {"Praise": "Wonderful."})
    with pytest.raises(ValueError, match="no measurement"):
        card(measurements=[])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": 0.7}, "outside of its interval"),
        ({"low": float("nan")}, "finite"),
        ({"n": 0}, "at least 1"),
    ],
)
def test_a_measurement_without_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ACCURACY, **changes)


def test_saving_writes_both_forms_and_leaves_nothing_else(tmp_path: Path) -> None:
    card().save(tmp_path / "new")
    card().save(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["card.html", "card.md"]
    assert (tmp_path / "new" / "card.md").read_text(encoding="utf-8") == card().to_markdown()
