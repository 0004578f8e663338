"""What makes the site: the logo, Node, and errors of one line each."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tool(monkeypatch):
    """Import a tool the way it imports its neighbours."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


@pytest.fixture
def copy(tmp_path):
    """A tree of its own with one page and one small chapter, to break."""
    for name in ("book", "tools", "llmbook", "_config.yml", "_toc.yml", "package-lock.json"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / name)
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/en/index\nchapters: [file: notebooks/en/01-test]\n")
    for chapter in (tmp_path / "book" / "en").glob("[0-9]*.md"):
        chapter.unlink()
    (tmp_path / "book" / "en" / "01-test.md").write_text("# Test\n")
    (tmp_path / "book" / "en" / "index.md").write_text("# Index\n")
    (tmp_path / "notebooks" / "en").mkdir(parents=True)
    write_notebook(tmp_path, "# Test\n")
    return tmp_path


def write_notebook(root, text):
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    (root / "notebooks" / "en" / "01-test.ipynb").write_text(json.dumps(notebook))


def build(root):
    return subprocess.run([sys.executable, root / "tools" / "build_site.py"], capture_output=True, text=True)


def test_logo_is_as_drawn(tool):
    drawn = tool("logo").draw()
    for name in ("logo.svg", "favicon.svg"):
        assert (ROOT / "book" / "_static" / name).read_text() == drawn


def test_node_comes_from_the_wheel_where_the_machine_has_none(tool, monkeypatch):
    vendor = tool("vendor")
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    vendor.node_tools.cache_clear()
    node, npm = vendor.node_tools()
    vendor.node_tools.cache_clear()
    assert subprocess.run([node, "--version"], capture_output=True, text=True).stdout.startswith("v")
    assert subprocess.run([*npm, "--version"], capture_output=True).returncode == 0


def test_lock_names_no_registry():
    lock = json.loads((ROOT / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    wanted = json.loads((ROOT / "package.json").read_text())
    assert lock["packages"][""]["dependencies"] == wanted["dependencies"]


def test_browser_that_is_not_there_is_named(tool, monkeypatch):
    browser = tool("browser")
    monkeypatch.setenv("LLMBOOK_BROWSER", "/nowhere/chromium")
    with pytest.raises(browser.Problem, match="LLMBOOK_BROWSER=/nowhere/chromium"):
        browser.find_browser()


def test_each_mistake_is_one_line_and_the_old_site_stays(copy):
    site = copy / "_build" / "html"
    assert build(copy).stdout.strip() == str(site / "index.html")
    before = (site / "book" / "en" / "index.html").read_text()
    write_notebook(copy, "# Test\n\n[a](nowhere.ipynb) [b](#nothing) ![c](none.png)\n\n$$\n\\nomacro\n$$\n")
    (copy / "book" / "en" / "index.md").write_text("# Changed\n\n```{notebook-output} en/01-test landing\n```\n")
    result = build(copy)
    assert result.returncode == 1 and not result.stdout
    lines = result.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for words in (
        ("01-test.ipynb: cell 1, line 3", "nowhere.ipynb"),
        ("01-test.ipynb: cell 1, line 3", "nothing"),
        ("01-test.ipynb: cell 1, line 3", "none.png"),
        ("01-test.ipynb: cell 1, line 5", r"Undefined control sequence \nomacro"),
        ("book/en/index.md:3", "landing", "make notebooks CHAPTER=en/01-test"),
    ):
        assert [line for line in lines if all(word in line for word in words)], words
    assert (site / "book" / "en" / "index.html").read_text() == before


def test_missing_page_is_named(copy):
    (copy / "_toc.yml").write_text("format: jb-book\nroot: book/en/index\nchapters: [file: book/en/nowhere]\n")
    result = build(copy)
    assert result.returncode == 1
    assert result.stderr.startswith("error: _toc.yml names book/en/nowhere") and result.stderr.count("\n") == 1


def test_placeholder_of_the_address_is_said_and_is_no_error(tool, monkeypatch, tmp_path, capsys):
    build_site, page = tool("build_site"), tmp_path / "index.html"
    for name, value in {"ROOT": tmp_path, "BUILD": tmp_path, "build": lambda: page}.items():
        monkeypatch.setattr(build_site, name, value)
    monkeypatch.setattr(sys, "argv", ["build_site.py"])
    config = tmp_path / "_config.yml"
    config.write_text("repository:\n  url: https://github.com/your_organisation/llmbook\n")
    assert build_site.main() == 0
    out, err = capsys.readouterr()
    assert out == f"{page}\n" and err.count("\n") == 1
    assert err.startswith("note: ") and "in 1 places of 1 files" in err and "`make address URL=" in err
    config.write_text("repository:\n  url: https://github.com/an-owner/llmbook\n")
    assert build_site.main() == 0
    assert capsys.readouterr() == (f"{page}\n", "")


def test_build_after_a_stopped_one(copy):
    (copy / "_build" / "part" / "_build" / "html").mkdir(parents=True)
    (copy / "_build" / "part" / "_build" / "html" / "left.html").write_text("left over")
    (copy / "_build" / "vendor" / "vendor").mkdir(parents=True)
    assert build(copy).returncode == 0
    assert not (copy / "_build" / "html" / "left.html").exists()


def test_folded_imports_are_named_for_what_they_are(tool, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    folded_imports = tool("folded_imports")
    doctree = new_document("test")

    def cell(code, **attributes):
        node = nodes.container(prompt_show="Show code", prompt_hide="Hide code", **attributes)
        node += nodes.literal_block(code, code)
        doctree.append(node)
        return node

    imports = cell("import math\n\nrt = runtime.setup()", hide_mode="input")
    others = [cell("from math import pi", hide_mode="all"), cell("import math"), cell("x = 1", hide_mode="input")]
    folded_imports.name(SimpleNamespace(config=SimpleNamespace(language="en")), doctree)
    assert imports["prompt_show"] == imports["prompt_hide"] == "Imports and settings"
    assert {node["prompt_show"] for node in others} == {"Show code"}
