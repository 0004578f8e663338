"""The look of the book's figures, and figures that the package draws and returns, without pyplot (used from chapter 1).

In a notebook matplotlib chooses its backend when pyplot makes the first figure, and the backend sets
``interactive``, without which no figure is shown at a cell's end. Where that first figure is made in a style context,
the context's end takes the setting back, and no later figure of the notebook is shown. So whatever draws in the book's
style makes its figure here, and leaves pyplot to the reader.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from importlib.resources import files

from matplotlib import style
from matplotlib.figure import Figure

#: Colours of heads and of lines, told apart by colour-blind readers and legible on white and on near-black.
PALETTE = ("#2f7fc4", "#d9700f", "#12906a", "#c0609a", "#8a6fd1", "#8b7a12", "#1793a5", "#7a7f87")

STYLE_SHEET = str(files("llmbook") / "book.mplstyle")


def use_style() -> None:
    """Give matplotlib's figures the look of the book: its colours, light grid, white card in light and dark."""
    style.use(STYLE_SHEET)


def book_style() -> AbstractContextManager[None]:
    """Give what is made within the book's look, and put matplotlib's settings back in the end."""
    return style.context(STYLE_SHEET)


class BookFigure(Figure):
    """Matplotlib's figure, which a notebook shows where it is a cell's last value, whether pyplot is in use or not.

    Once pyplot is in use, the notebook has a way of its own to show figures and takes that; the picture is the same.
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()
