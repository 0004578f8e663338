"""The look of the book's figures, and figures that the package draws and returns, without pyplot (used from chapter 1).

In a notebook matplotlib chooses its backend when pyplot makes the first figure, and the backend sets
``interactive``, without which no figure is shown at a cell's end. Where that first figure is made in a style context,
the context's end takes the setting back, and no later figure of the notebook is shown. So whatever draws in the book's
style makes its figure here, and leaves pyplot to the reader.

All these figures write every language that the machine has a font for (see :mod:`llmbook.viz.fonts`), and under
:func:`use_style` the reader's own do.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.resources import files
from typing import Any

from matplotlib import rcParams, style
from matplotlib.figure import Figure
from matplotlib.text import Text

from llmbook.viz.fonts import FLOOD, choose_fonts

#: Colours of heads and of lines, told apart by colour-blind readers and legible on white and on near-black.
PALETTE = ("#2f7fc4", "#d9700f", "#12906a", "#c0609a", "#8a6fd1", "#8b7a12", "#1793a5", "#7a7f87")

STYLE_SHEET = str(files("llmbook") / "book.mplstyle")


def use_style() -> None:
    """Give matplotlib's figures the look of the book: its colours, light grid, white card in light and dark.

    Figures of pyplot that are made afterwards choose fonts that have the characters of their texts.
    """
    style.use(STYLE_SHEET)
    hook = f"{__name__}:{write_all_scripts.__name__}"
    rcParams["figure.hooks"] = [*(one for one in rcParams["figure.hooks"] if one != hook), hook]


def book_style() -> AbstractContextManager[None]:
    """Give what is made within the book's look, and put matplotlib's settings back in the end."""
    return style.context(STYLE_SHEET)


class BookFigure(Figure):
    """Matplotlib's figure, which a notebook shows where it is a cell's last value, whether pyplot is in use or not.

    Once pyplot is in use, the notebook has a way of its own to show figures and takes that; the picture is the same.
    Before it is drawn, its texts get fonts that have their characters.
    """

    def draw(self, renderer: Any) -> None:
        """Draw the figure, as matplotlib does, with fonts that have its characters."""
        with _fonts_chosen(self):
            super().draw(renderer)

    def get_tightbbox(self, *args: Any, **options: Any) -> Any:
        """Return the box around all that is drawn, as matplotlib does, measured with the same fonts."""
        with _fonts_chosen(self):
            return super().get_tightbbox(*args, **options)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


class PyplotFigure(BookFigure):
    """A figure that pyplot made, with the same choice of fonts; it calls itself what pyplot's does."""

    def __repr__(self) -> str:
        """Return matplotlib's line, as of its own figure."""
        return super().__repr__().replace(type(self).__name__, Figure.__name__, 1)


def write_all_scripts(figure: Figure) -> None:
    """Let a figure of pyplot choose fonts that have the characters of its texts, whenever it is drawn."""
    if type(figure) is Figure:
        figure.__class__ = PyplotFigure


@contextmanager
def _fonts_chosen(figure: Figure) -> Iterator[None]:
    """Choose the fonts of a figure's texts; where some character has none, matplotlib keeps silent about it."""
    if not choose_fonts(figure.findobj(Text)):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", FLOOD)
        yield
