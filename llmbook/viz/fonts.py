"""Fonts that have the characters of a figure: this machine's, searched where matplotlib's own lacks one (chapter 8)."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any

from matplotlib import font_manager
from matplotlib.cbook import is_math_text
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

#: Matplotlib's own warning, one for each character and each size.
FLOOD = r"Glyph \d+ .* missing from"
#: How our one warning begins.
NO_FONT = "no font of this machine has"

_FAMILIES: dict[str, str | None] = {}  # of each character that was searched, the family that has it
_EAST_ASIAN = ((0x1100, 0x11FF), (0x2E80, 0xA4CF), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F),
               (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))  # fmt: skip


def choose_fonts(texts: Iterable[Text]) -> bool:
    """Give texts that their own fonts cannot write the families of this machine that can, after their own.

    Text that matplotlib's font has is left as it is. Characters that no font has are named in one warning, each once,
    with the font to install; control characters and the like have no glyph anywhere and are not searched.

    Returns:
        Whether some characters have no font, and matplotlib will complain of each.
    """
    lacking = [(text, missing) for text in texts if (missing := _missing(text))]
    wanted = {character for _, missing in lacking for character in missing if _has_glyph(character)}
    unknown = sorted(wanted - _FAMILIES.keys())
    if unknown:
        _FAMILIES.update(_search(unknown))
        without = [character for character in unknown if _FAMILIES[character] is None]
        if without:
            warnings.warn(_advice(without), UserWarning, stacklevel=2)
    left = False
    for text, missing in lacking:
        families = [_FAMILIES.get(character) for character in missing]
        own = text.get_fontfamily()
        text.set_fontfamily([*own, *dict.fromkeys(family for family in families if family and family not in own)])
        left = left or None in families
    return left


def _missing(text: Text) -> list[str]:
    """Return the characters of a text that its fonts do not have."""
    written = text.get_text()
    if (written.isascii() and written.isprintable()) or not text.get_visible() or text.get_usetex():
        return []
    if text.get_parse_math() and is_math_text(written):
        return []
    fonts = [font_manager.get_font(path) for path in _paths(text.get_fontproperties())]
    return [character for character in dict.fromkeys(written)
            if character != "\n" and not any(font.get_char_index(ord(character)) for font in fonts)]  # fmt: skip


def _paths(properties: font_manager.FontProperties) -> list[Any]:
    """Return the files that matplotlib takes for a text, in its order."""
    found = []
    for family in properties.get_family():
        one = properties.copy()
        one.set_family(family)
        try:
            found.append(font_manager.fontManager.findfont(one, fallback_to_default=False))
        except ValueError:  # no such family here
            continue
    return found or [font_manager.fontManager.findfont(properties)]


def _has_glyph(character: str) -> bool:
    return not unicodedata.category(character).startswith("C")


def _search(characters: list[str]) -> dict[str, str | None]:
    """Find a family for each character, few families for all: that first which has the most."""
    _add_new_fonts()
    families: dict[str, str | None] = dict.fromkeys(characters)
    left = set(characters)
    faces = [(entry, font) for entry in _faces() if (font := _open(entry)) is not None]
    known = {family: None for family in _FAMILIES.values() if family}  # one font for one script, as long as it will do
    covered = [(entry, font, {one for one in left if font.get_char_index(ord(one))}) for entry, font in faces]
    covered = [face for face in covered if face[2]]
    while left and covered:
        best = max(covered, key=lambda face: (len(face[2] & left), face[0].name in known))
        covered.remove(best)
        drawn = {one for one in best[2] & left if _draws(best[1], one)}
        families.update(dict.fromkeys(drawn, best[0].name))
        left -= drawn
        covered = [face for face in covered if face[2] & left]
    return families


def _add_new_fonts() -> None:
    """Let matplotlib know of fonts that were installed after it made its list."""
    known = {str(entry.fname) for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError, ValueError):  # bitmaps, or damaged
                continue


def _faces() -> list[font_manager.FontEntry]:
    """Return one face of each family: upright and regular; sans-serif and simplified Chinese ones first."""

    def order(entry: font_manager.FontEntry) -> tuple[Any, ...]:
        weight = font_manager.weight_dict[entry.weight] if isinstance(entry.weight, str) else entry.weight
        names = "Sans" not in entry.name, " SC" not in entry.name, entry.name
        return entry.style != "normal", abs(weight - 400), *names

    chosen: dict[str, font_manager.FontEntry] = {}
    for entry in sorted(font_manager.fontManager.ttflist, key=order):
        if not entry.name.startswith((".", "Last Resort", "LastResort", "Adobe Blank")):  # these have every character
            chosen.setdefault(entry.name, entry)
    return list(chosen.values())


def _open(entry: font_manager.FontEntry) -> FT2Font | None:
    index = getattr(entry, "index", 0)
    try:
        return FT2Font(entry.fname, face_index=index) if index else FT2Font(entry.fname)
    except (OSError, RuntimeError):
        return None


def _draws(font: FT2Font, character: str) -> bool:
    """Tell whether a font has an outline of a character: matplotlib draws no colour bitmaps of emoji."""
    try:
        font.set_size(12, 72)
        font.load_char(ord(character))
        return character.isspace() or len(font.get_path()[0]) > 0
    except RuntimeError:
        return False


def _advice(characters: list[str]) -> str:
    """Say which characters have no font, and which font has them."""
    fonts: dict[str, None] = {}
    for character in characters:
        script = unicodedata.name(character, "").partition(" ")[0].partition("-")[0]
        if any(first <= ord(character) <= last for first, last in _EAST_ASIAN):
            fonts["Noto Sans CJK SC (Debian, Ubuntu, Colab: apt install fonts-noto-cjk)"] = None
        elif script in ("LATIN", "GREEK", "CYRILLIC", "COMBINING", "MODIFIER"):
            fonts["Noto Sans (apt install fonts-noto-core)"] = None
        elif unicodedata.category(character)[0] in "LM":
            fonts[f"Noto Sans {script.title()} (apt install fonts-noto-core)"] = None
        elif ord(character) >= 0x1F000:
            fonts["Noto Emoji, not the coloured one, or Symbola (apt install fonts-symbola)"] = None
        else:
            fonts["Noto Sans Symbols 2 (apt install fonts-noto-core)"] = None
    shown = ", ".join(characters[:12]) + (f" and {len(characters) - 12} more" if len(characters) > 12 else "")
    return f"{NO_FONT} {shown}: figures show boxes in their place; install {'; '.join(fonts)}, then start Python anew"
