"""Draw the logo: three tokens, what the next one attends to, and the next one as a play button.

``python tools/logo.py`` writes ``book/_static/logo.svg`` and ``favicon.svg``; a test compares them with the code.
"""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
BLUE, ORANGE = "#1f6fb2", "#d9660a"
TOKENS = (9.0, 23.0, 37.0)
NEXT, BASE = 53.0, 46.0
WEIGHTS = (2.0, 3.4, 5.2)


def arc(start: float, width: float) -> str:
    """Return a half ellipse from one token to the next one."""
    radius = (NEXT - start) / 2
    return (
        f'<path d="M{start:g} {BASE - 7:g}A{radius:g} {0.86 * radius + 4:g} 0 0 1 {NEXT:g} {BASE - 7:g}" '
        f'fill="none" stroke="{ORANGE}" stroke-width="{width:g}" stroke-linecap="round"/>'
    )


def draw() -> str:
    """Return the picture as SVG, 64 units wide and high; it reads on a light and on a dark ground."""
    arcs = "".join(arc(start, width) for start, width in zip(TOKENS, WEIGHTS, strict=True))
    dots = "".join(f'<circle cx="{x:g}" cy="{BASE:g}" r="4.6" fill="{BLUE}"/>' for x in TOKENS)
    left, right = NEXT - 5.5, NEXT + 7.5
    play = (
        f'<path d="M{left:g} {BASE - 7:g}L{right:g} {BASE:g}L{left:g} {BASE + 7:g}Z" fill="{BLUE}" '
        f'stroke="{BLUE}" stroke-width="3" stroke-linejoin="round"/>'
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">{arcs}{dots}{play}</svg>\n'


def main() -> None:
    """Write the two files."""
    for name in ("logo.svg", "favicon.svg"):
        (STATIC / name).write_text(draw())


if __name__ == "__main__":
    main()
