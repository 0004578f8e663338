"""Figures in a notebook, in a real kernel: each is shown once, whatever has drawn before it."""

import subprocess

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from chapters import kernel_environment

pytestmark = pytest.mark.slow

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
STYLE = "from llmbook import viz\nviz.use_style()"
GRID = "import numpy as np\nfrom llmbook import viz\nviz.show_attention(attention=np.eye(2), tokens=['a', 'b'])"
MAP = "import numpy as np\nfrom llmbook import viz\nviz.attention_map(np.eye(2), ['a', 'b']);"
PICTURE = "from llmbook.explore import pictures\npictures.softmax([1.0, 2.0], ['a', 'b'])"
EXPLORE = "from llmbook.explore import explore\nexplore('pydocs-gpt', 'def load(path):')"


def pictures_shown(*cells: str) -> list[int]:
    """Execute the cells one after the other and return how many pictures each shows."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3").execute(env=kernel_environment(), stderr=subprocess.DEVNULL)
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in notebook.cells]


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param([EXPLORE, PLOT], id="explore first"),
        pytest.param([PLOT, EXPLORE, PLOT], id="explore between plots"),
        pytest.param([PICTURE, MAP, PLOT], id="picture first"),
        pytest.param([STYLE, GRID, PLOT, GRID], id="grid first"),
        pytest.param([MAP, GRID, MAP], id="map first"),
    ],
)
def test_each_figure_is_shown_once(cells):
    assert pictures_shown(*cells) == [cell != STYLE for cell in cells]
