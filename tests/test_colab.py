import json
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import colab
from chapters import (
    ROOT,
    Chapter,
    Problem,
    find_chapters,
    own_modules,
    read_downloads,
    read_environments,
    repository_url,
    set_up_source,
)

FIGURE = new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "<Figure>"})


def page(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return new_notebook(cells=list(cells))


def text(words: str, name: str = "stdout") -> nbformat.NotebookNode:
    return new_output("stream", name=name, text=words)


def test_cells_that_raise_or_show_less_than_the_page_are_named():
    error = new_output("error", ename="ValueError", evalue="too short\nby two", traceback=[])
    stored = page(
        new_code_cell("1", outputs=[text("5\n")]),
        new_code_cell("2", outputs=[FIGURE, text("6\n")]),
        new_code_cell("3"),
        new_code_cell("4", outputs=[error]),
        new_code_cell("5", outputs=[text("a warning", "stderr")]),
    )
    found = page(
        new_code_cell("1", outputs=[text("another number\n")]),
        new_code_cell("2", outputs=[text("6\n")]),
        new_code_cell("3", outputs=[error]),
        new_code_cell("4", outputs=[error]),
        new_code_cell("5"),
    )
    assert colab.differences(stored, stored) == []
    assert colab.differences(stored, found) == ["cell 2 shows no image/png", "cell 3: ValueError: too short"]


@pytest.mark.slow
def test_a_chapter_runs_alone_in_an_empty_folder_without_the_network(tmp_path):
    sources = [
        "from pathlib import Path; print(list(Path().iterdir()))",
        "import socket; socket.create_connection(('example.org', 80))",
        "import importlib.util as i; assert i.find_spec('torch') and not i.find_spec('jiwer'); print('hidden')",
        "import jiwer",
        "print('still here')",
    ]
    stored = page(*(new_code_cell(source, outputs=[text("x\n")]) for source in sources))
    path = tmp_path / "01-a.ipynb"
    nbformat.write(stored, path)
    colab.write_kernel(tmp_path / "kernels", Path(sys.executable))
    outcome = colab.run_alone(
        Chapter("en/01-a", tmp_path / "01-a.md", path),
        tmp_path / "kernels",
        colab.readers_environment(tmp_path),
        ["jiwer"],
    )
    assert [problem.split(":")[1] for problem in outcome["problems"]] == [" NetworkUsedError", " ModuleNotFoundError"]
    assert nbformat.read(path, 4).cells[0].outputs == [text("x\n")]


def test_outcomes_are_kept_by_versions(tmp_path):
    (tmp_path / "notebooks").mkdir()
    one, other = {"python": "3.12.1"}, {"python": "3.13.0"}
    good, bad = {"seconds": 3, "problems": []}, {"seconds": 4, "problems": ["cell 1 shows no stream"]}
    colab.keep("newest", {"en/02-b": bad}, one, tmp_path)
    colab.keep("newest", {"en/01-a": good}, one, tmp_path)
    assert list(read_environments(tmp_path)["newest"]["chapters"]) == ["en/01-a", "en/02-b"]
    colab.keep("newest", {"en/01-a": good}, other, tmp_path)
    colab.keep("colab", {"en/02-b": good}, other, tmp_path)
    record = read_environments(tmp_path)
    assert record["newest"] == {"versions": other, "chapters": {"en/01-a": good}} and "colab" in record
    assert json.loads((tmp_path / "notebooks" / "environments.json").read_text()) == record


def test_a_chapter_sees_the_packages_of_its_own_set_up_cell_alone():
    by_number = {chapter.manuscript.stem[:2]: chapter for chapter in find_chapters()}
    assert own_modules(by_number["16"]) == ["jiwer", "rouge_score", "sacrebleu"]
    assert {"jiwer", "trl"} <= set(colab.hidden_from(by_number["01"]))
    hidden = set(colab.hidden_from(by_number["17"]))  # lm-eval brings sacrebleu; Colab has peft
    assert "trl" in hidden and not hidden & {"lm_eval", "sacrebleu", "peft"}


def test_megabytes_of_a_set_up_cell_are_those_that_were_counted(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("pyproject.toml", "_config.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "notebooks" / "downloads.json").write_text('{"en/16-metrics": 41}')
    chapter = Chapter("en/16-metrics", tmp_path / "16-metrics.md", tmp_path / "16-metrics.ipynb")
    source = set_up_source(chapter, tmp_path)
    assert "fetches 41 MB" in source and '["llmbook", "jiwer", "rouge_score", "sacrebleu"]' in source
    assert f'"llmbook[ch16] @ git+{repository_url()}"' in source
    assert read_downloads().keys() == {chapter.name for chapter in find_chapters()}


def test_what_is_not_there_is_said():
    with pytest.raises(Problem, match="COLAB_PYTHON=python9"):
        colab.choose_python("python9")
    with pytest.raises(Problem, match="LIBRARIES=old: there are newest, colab"):
        colab.run("old", "", "")
    with pytest.raises(Problem, match="No module named"):
        colab.command(sys.executable, "-c", "import nothing_of_this_book")
