"""The way of a chapter, on small chapters in a folder of their own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from saving import PROGRAMS, saved_by

import chapters
import notebooks

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
    jupytext_version: 1.19.6
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""

GOOD = """# A title

```{code-cell} ipython3
:tags: [setup]

# Set-up
address = "https://github.com/a/b"
```

Some text.

```{code-cell} ipython3
import os, sys
from tqdm.auto import tqdm
for _ in tqdm(range(3)):
    pass
print("kept", file=sys.stderr)
os.environ["OMP_NUM_THREADS"], os.environ["PYTHONHASHSEED"], os.path.basename(os.getcwd())
```

```{code-cell} ipython3
---
mystnb:
  image:
    alt: a line that rises
---
import matplotlib.pyplot as plt
plt.plot([1, 2]);
```

```{code-cell} ipython3
:tags: [raises-exception]

1 / 0
```
"""


def write_chapter(root: Path, name: str, text: str) -> chapters.Chapter:
    manuscript = root / "book" / f"{name}.md"
    manuscript.parent.mkdir(parents=True, exist_ok=True)
    manuscript.write_text(HEADER + text, encoding="utf-8")
    return next(chapter for chapter in chapters.find_chapters(root) if chapter.name == name)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A tree with one chapter, executed."""
    root = tmp_path_factory.mktemp("executed")
    write_chapter(root, "en/01-one", GOOD)
    assert notebooks.update(root) == []
    return root


@pytest.fixture
def tree(executed, tmp_path):
    """A copy of the executed tree to change."""
    root = tmp_path / "tree"
    shutil.copytree(executed, root)
    return root


def the_chapter(root: Path) -> chapters.Chapter:
    return chapters.find_chapters(root)[0]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_outputs_are_stored_in_normal_form(executed):
    notebook = chapters.read_notebook(the_chapter(executed))
    nbformat.validate(notebook)
    code = chapters.code_cells(notebook)
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert [(output.output_type, output.get("text")) for output in code[1].outputs] == [
        ("stream", "kept\n"),
        ("execute_result", None),
    ]
    assert code[1].outputs[1].data["text/plain"] == "('1', '0', 'en')"
    assert "image/png" in code[2].outputs[0].data
    assert code[3].outputs[0].ename == "ZeroDivisionError"
    assert "version" not in notebook.metadata.language_info
    assert all("execution" not in cell.metadata for cell in notebook.cells)


def test_measurements_say_what_was_measured(executed):
    entry = chapters.read_measurements(executed)["en/01-one"]
    assert entry["code_sha256"] == chapters.code_sha256(chapters.read_notebook(the_chapter(executed)))
    assert 0 < entry["seconds"] < 100
    assert 20 < entry["peak_memory_mib"] < 2000
    assert entry["device"].startswith("CPU") and entry["threads"] == 1 and entry["scale"] == "small"
    assert {"python", "torch", "numpy"} <= set(entry["versions"])


def test_second_run_executes_and_writes_nothing(tree, monkeypatch):
    monkeypatch.setattr(notebooks, "execute_all", lambda due, *rest: [f"executed {name}" for name in due])
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert notebooks.update(tree) == []
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


def test_execution_is_repeatable(tree):
    before = the_chapter(tree).notebook.read_text(encoding="utf-8")
    assert notebooks.update(tree, "01-one") == []
    assert the_chapter(tree).notebook.read_text(encoding="utf-8") == before


def test_text_edit_keeps_outputs_without_executing(tree, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "execute_all", lambda due, *rest: [f"executed {name}" for name in due])
    edit(the_chapter(tree).manuscript, "Some text.", "Other text.\n\n+++\n\nAnd a new cell.")
    assert notebooks.update(tree) == []
    assert "text brought in step" in capsys.readouterr().out
    notebook = chapters.read_notebook(the_chapter(tree))
    assert "And a new cell." in [cell.source for cell in notebook.cells]
    assert all(cell.outputs for cell in chapters.code_cells(notebook)[1:])


def test_new_address_in_the_set_up_cell_does_not_execute(tree, monkeypatch):
    monkeypatch.setattr(notebooks, "execute_all", lambda due, *rest: [f"executed {name}" for name in due])
    for path in (the_chapter(tree).manuscript, the_chapter(tree).notebook):
        edit(path, "github.com/a/b", "github.com/c/d")
    assert notebooks.update(tree) == []


def test_changed_code_is_due(tree):
    edit(the_chapter(tree).manuscript, "plt.plot([1, 2])", "plt.plot([1, 3])")
    assert notebooks.pair(the_chapter(tree), tree)[1]


def test_changed_package_gives_a_hint(tree, capsys):
    (tree / "llmbook").mkdir()
    (tree / "llmbook/new.py").write_text("x = 1\n", encoding="utf-8")
    assert notebooks.update(tree) == []
    assert "llmbook has changed since" in capsys.readouterr().out


def test_failing_cell_is_named_and_outputs_stay(tree):
    chapter = the_chapter(tree)
    before = chapter.notebook.read_bytes(), chapters.measurements_file(tree).read_bytes()
    edit(chapter.manuscript, "import matplotlib.pyplot as plt", "# a comment\nundefined_name + 1")
    problems = notebooks.update(tree)
    assert problems == [
        "en/01-one, cell 3 (`undefined_name + 1`): NameError: name 'undefined_name' is not defined "
        "(stored outputs are as they were)"
    ]
    assert (chapter.notebook.read_bytes(), chapters.measurements_file(tree).read_bytes()) == before
    assert sorted(path.name for path in chapter.notebook.parent.iterdir()) == ["01-one.ipynb"]


@pytest.mark.slow
def test_slow_dead_and_networking_cells_end_in_one_line_each(tmp_path):
    write_chapter(tmp_path, "en/01-slow", "```{code-cell} ipython3\nimport time\ntime.sleep(60)\n```\n")
    write_chapter(tmp_path, "en/02-dead", "```{code-cell} ipython3\nimport os\nos._exit(1)\n```\n")
    network = "import urllib.request\nurllib.request.urlopen('http://192.0.2.1', timeout=3)"
    write_chapter(tmp_path, "zh/01-net", f"```{{code-cell}} ipython3\n{network}\n```\n")
    slow, dead, net = sorted(notebooks.update(tmp_path, timeout=5))
    assert slow.startswith("en/01-slow, cell 1 (`import time`): took longer than 5 s")
    assert dead.startswith("en/02-dead, cell 1 (`import os`): the kernel died")
    assert net.startswith("zh/01-net, cell 1 (`import urllib.request`): NetworkUsedError")
    assert not list((tmp_path / "notebooks").glob("*/*.ipynb"))


def test_notebook_edited_out_of_step_stops(tree):
    chapter = the_chapter(tree)
    edit(chapter.notebook, "Some text.", "The notebook's text.")
    edit(chapter.manuscript, "Some text.", "The manuscript's text.")
    before = chapter.notebook.read_bytes()
    (problem,) = notebooks.update(tree)
    assert "notebooks/en/01-one.ipynb was edited and differs from book/en/01-one.md" in problem
    assert "jupytext --sync book/en/01-one.md" in problem
    assert chapter.notebook.read_bytes() == before


@pytest.mark.parametrize("program", PROGRAMS)
def test_notebook_saved_in_another_program_keeps_outputs_and_needs_no_execution(tree, program, monkeypatch):
    monkeypatch.setattr(notebooks, "Execution", None)
    chapter = the_chapter(tree)
    before = chapters.read_notebook(chapter)
    nbformat.write(saved_by(program, before), chapter.notebook)
    assert notebooks.update(tree) == []
    after = chapters.read_notebook(chapter)
    assert chapters.cell_contents(after) == chapters.cell_contents(before) and after.metadata == before.metadata
    kinds = [sorted(output.output_type for output in cell.outputs) for cell in chapters.code_cells(after)]
    assert kinds == [sorted(output.output_type for output in cell.outputs) for cell in chapters.code_cells(before)]
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_text_edited_in_another_program_reaches_the_manuscript_alone(tree, program, monkeypatch):
    chapter = the_chapter(tree)
    shutil.copy(chapters.ROOT / "jupytext.toml", tree)
    before = chapters.cell_contents(chapters.read_manuscript(chapter))
    notebook = saved_by(program, chapters.read_notebook(chapter))
    next(cell for cell in notebook.cells if cell.source == "Some text.").source = "Other text."
    nbformat.write(notebook, chapter.notebook)
    for _ in range(2):
        (problem,) = notebooks.update(tree)
        assert "was edited and differs" in problem
    later = time.time() + 5
    os.utime(chapter.notebook, (later, later))
    sync = [sys.executable, "-m", "jupytext", "--sync", chapter.manuscript.relative_to(tree)]
    subprocess.run(sync, cwd=tree, check=True, capture_output=True)
    monkeypatch.setattr(notebooks, "Execution", None)
    assert notebooks.update(tree) == []
    edited = [(kind, "Other text." if text == "Some text." else text, kept) for kind, text, kept in before]
    assert chapters.cell_contents(chapters.read_manuscript(chapter)) == edited != before
    assert "  display_name: Python 3\n" in chapter.manuscript.read_text(encoding="utf-8")
    assert not re.search("colab|kaggle|vscode|_uuid|outputId", chapter.manuscript.read_text(encoding="utf-8"))
    assert chapter.manuscript.read_text(encoding="utf-8").endswith("1 / 0\n```\n")


def test_both_edited_alike_is_in_step(tree):
    for path in (the_chapter(tree).manuscript, the_chapter(tree).notebook):
        edit(path, "Some text.", "The same text.")
    assert notebooks.update(tree) == []


def test_outputs_are_not_made_of_another_text(monkeypatch):
    monkeypatch.setattr("llmbook.corpora.own_text", lambda name: name != "code")
    with pytest.raises(
        chapters.Problem, match=r"^code: the pinned text is neither installed here nor can it be fetched"
    ):
        notebooks.build_corpora()


def test_unknown_chapter_lists_the_known(tree):
    with pytest.raises(chapters.Problem, match=r"no chapter is called '99-x'; known: en/01-one"):
        notebooks.update(tree, "99-x")


def test_unreadable_files_end_in_one_line(tree):
    the_chapter(tree).notebook.write_text("{", encoding="utf-8")
    (problem,) = notebooks.update(tree)
    assert "01-one.ipynb is no readable notebook: remove it" in problem
    chapters.measurements_file(tree).write_text("{", encoding="utf-8")
    with pytest.raises(chapters.Problem, match=r"measurements\.json is no JSON"):
        notebooks.update(tree)


@pytest.mark.slow
def test_measurements_survive_many_writers(tmp_path):
    for number in range(1, 9):
        write_chapter(tmp_path, f"en/{number:02}-x", "text\n")
    (tmp_path / "notebooks").mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import notebooks; from pathlib import Path\n"
        "notebooks.record(Path(sys.argv[2]), sys.argv[3], {'seconds': 1})"
    )
    tools = str(chapters.ROOT / "tools")
    writers = [
        subprocess.Popen([sys.executable, "-c", code, tools, str(tmp_path), f"en/{number:02}-x"])
        for number in range(1, 9)
    ]
    assert [writer.wait(600) for writer in writers] == [0] * 8
    assert len(json.loads(chapters.measurements_file(tmp_path).read_text(encoding="utf-8"))) == 8


@pytest.mark.slow
def test_stopped_run_ends_its_kernel_and_leaves_nothing(tmp_path):
    marker = tmp_path / "kernel"
    cell = f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    write_chapter(tmp_path, "en/01-long", f"```{{code-cell}} ipython3\n{cell}\n```\n")
    shutil.copytree(chapters.ROOT / "tools", tmp_path / "tools")
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "tools/notebooks.py")], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    kernel = int(marker.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert "chapters not finished keep their old outputs" in process.stderr.read()
    while Path(f"/proc/{kernel}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)
    assert not [path for path in (tmp_path / "notebooks").rglob("*") if path.is_file()]
