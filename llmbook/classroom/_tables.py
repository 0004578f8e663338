"""Texts and tables as other programs save them: with a byte order mark, in UTF-16, GBK or Latin letters, with ``;``."""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from collections.abc import Sequence

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def one_line(text: str) -> str:
    """Return a name in one line and without characters that control a terminal or the direction of writing."""
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).split()) or "unnamed"


def old_encoding(texts: Sequence[bytes], western: str) -> str:
    """Return the encoding of texts that carry no sign of it: UTF-8, GB 18030 (and so GBK) or ``western``.

    All texts are looked at together. Bytes of a Western encoding may by chance be GBK, but then of rare characters:
    GBK it is where at least half of what is not ASCII are the common characters of GB 2312.
    """
    together = b"\n".join(texts)
    for encoding in ("utf-8", "gb18030"):
        try:
            foreign = [c for c in together.decode(encoding) if not c.isascii()]
        except UnicodeDecodeError:
            continue
        common = [c for c in foreign if "\u4e00" <= c <= "\u9fff" and c.encode("gb2312", "ignore")]
        if encoding == "utf-8" or 2 * len(common) >= len(foreign):
            return encoding
    return western


def decoded(data: bytes) -> str:
    """Return a text file's text, in whichever of the usual encodings it was saved."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if b"\0" in data[:4]:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
    return data.decode(old_encoding([data], "cp1252"), "replace")


def read_table(data: bytes) -> tuple[list[str], list[dict[str, str]]]:
    """Return a CSV file's columns and rows, without the spaces around each value; ``,``, ``;`` or a tab separates."""
    text = decoded(data)
    first = text.partition("\n")[0]
    if first.startswith("sep="):  # Excel's own line above the header
        text = text.partition("\n")[2]
        first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    columns = [column.strip() for column in lines[0]] if lines else []
    rows = [
        {column: cell.strip() for column, cell in zip(columns, [*line, *[""] * len(columns)], strict=False)}
        for line in lines[1:]
        if any(cell.strip() for cell in line)
    ]
    return columns, rows


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula, nor for several cells where ``;`` or a tab separates."""
    safe, begins = [], True
    for character in text:
        if begins and character in "=+-@\t\r\uff1d\uff0b\uff0d\uff20":
            safe.append("'")
        begins = character in ";\t\r\n|" or (begins and (character.isspace() or character in "\"'"))
        safe.append(character)
    return "".join(safe)
