import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import colab
from chapters import Chapter, Problem, read_environments

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
        "print('still here')",
    ]
    stored = page(*(new_code_cell(source, outputs=[text("x\n")]) for source in sources))
    path = tmp_path / "01-a.ipynb"
    nbformat.write(stored, path)
    colab.write_kernel(tmp_path / "kernels", Path(sys.executable))
    outcome = colab.run_alone(
        Chapter("en/01-a", tmp_path / "01-a.md", path), tmp_path / "kernels", colab.readers_environment(tmp_path)
    )
    assert [problem.split(":")[1] for problem in outcome["problems"]] == [" NetworkUsedError"]
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


def test_what_is_not_there_is_said():
    with pytest.raises(Problem, match="COLAB_PYTHON=python9"):
        colab.choose_python("python9")
    with pytest.raises(Problem, match="LIBRARIES=old: there are newest, colab"):
        colab.run("old", "", "")
    with pytest.raises(Problem, match="No module named"):
        colab.command(sys.executable, "-c", "import nothing_of_this_book")
