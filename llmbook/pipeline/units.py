"""The units that texts are compared by: words, and characters where a script has no spaces (chapter 7).

Copies, shingles, overlaps with a test and search terms all begin here, so that they agree on what a word is. In Python
``\\w`` leaves out combining marks, without which the Hindi words for *day* and *gift* are one, and takes a whole
Chinese sentence for a word.
"""

import functools
import re
import unicodedata

_WORD = re.compile(r"\w+")
# Scripts that put no space between words: Chinese, Japanese, Thai, Lao, Burmese, Khmer and the Tai scripts.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3021-\u3029\u3031-\u303c\u3041-\u30ff"
    "\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f"
)
_UNSPACED_HIGH = "\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
_PICTURES = "\U0001f000-\U0001faff"  # emoji
_JOINERS = "\u00ad\u200c\u200d\u2060\ufe00-\ufe0f\ufeff"  # nobody sees them, nor variation selectors
_INVISIBLE = re.compile(f"[{_JOINERS}\U000e0100-\U000e01ef]+")


def text_units(text: str) -> list[str]:
    """Return what a text consists of, in lower case: words, single characters of scripts without spaces, and emoji.

    A word is a run of letters, digits and ``_`` with their combining marks, composed (NFC); of English text this is
    ``re.findall(r"\\w+", text.lower())``. Chinese, Japanese, Thai, Lao, Burmese and Khmer give one unit for each
    character with its marks. Joiners, soft hyphens and variation selectors, which nobody sees, are left out; so is
    all other punctuation.
    """
    lowered = text.lower()
    if lowered.isascii():
        return _WORD.findall(lowered)
    unit, odd = _patterns()
    composed = unicodedata.normalize("NFC", lowered)
    if not odd.search(composed):  # most texts in Latin, Greek, Cyrillic, Arabic or Korean letters
        return _WORD.findall(composed)
    return unit.findall(_INVISIBLE.sub("", composed))


def units_or_symbols(text: str) -> list[str]:
    """Return the :func:`text_units`, or of a text that has none the text itself, white space evened out, as one.

    So "===" and "!!!", or two texts of nothing but symbols, are different texts. A blank text has no unit.
    """
    return text_units(text) or [symbols for symbols in [" ".join(text.split())] if symbols]


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what matches a unit with its marks, and what finds a character for which ``\\w+`` would not do."""
    codes = [code for code in range(0x1F000) if unicodedata.category(chr(code))[0] == "M"]
    starts = [code for code, before in zip(codes, [-2, *codes], strict=False) if code != before + 1]
    ends = [code for code, behind in zip(codes, [*codes[1:], -2], strict=True) if code != behind - 1]
    marks = "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))
    unspaced = _UNSPACED + _UNSPACED_HIGH
    unit = rf"(?:[^\W{unspaced}]+[{marks}]*)+|(?:(?=\w)[{unspaced}]|[{_PICTURES}])[{marks}]*"
    low = "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True) if end < 0x10000)
    # apart from the characters of 16 bits, since a class with both is many times slower
    return re.compile(unit), re.compile(f"[{low}{_UNSPACED}{_JOINERS}]|[\U00010000-\U0010ffff]")
