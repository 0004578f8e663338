"""How tokens are written in pictures: readable, with blanks made visible."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_BLANKS = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍"})
_FALLBACK = re.compile("<0x([0-9A-F]{2})>")  # as SentencePiece names a byte of what its vocabulary lacks
_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
#: The byte that byte-level BPE writes as a character: GPT-2's table, unprintable ones from 256 up.
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + number): byte for number, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)
}


def visible(token: str) -> str:
    """Return a token with its blanks made visible, so that a space or a new line is not an empty box.

    A space before or after a word is left out; one that stands alone becomes ``␣``.
    """
    if token.strip() == "":
        return token.translate(_BLANKS).replace(" ", "␣")
    return token.strip(" ").translate(_BLANKS)


def readable_tokens(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """Return the text of each token id, without the marks of byte-level BPE (Ġ) and SentencePiece (▁).

    ``tokenizer`` is one of ``transformers`` or of ``tokenizers``. WordPiece keeps its ``##``, which says that a token
    continues a word; a token that is part of a character shows its bytes, as in ``<E4 BD>``, whether the tokenizer
    writes them as GPT-2 does, as a fallback of SentencePiece (``<0xE4>``) or, as ByT5, by their number.
    """
    to_token = getattr(tokenizer, "convert_ids_to_tokens", None) or getattr(tokenizer, "id_to_token", None)
    if to_token is None or not hasattr(tokenizer, "decode"):
        raise ValueError(
            f"tokenizer is a {type(tokenizer).__name__}: pass one of transformers or of tokenizers, "
            "or the ids and what to call them, tokens=[...]"
        )
    shown = []
    for index in map(int, ids):
        raw = to_token(index)
        if raw is None:
            raise ValueError(f"the tokenizer has no token {index}: use the one that the model was trained with")
        text = tokenizer.decode([index], skip_special_tokens=False)
        part = _bytes(raw, text)
        if part is not None:
            text = part.decode() if part.isascii() else f"<{part.hex(' ').upper()}>"
        shown.append(visible(text or raw.replace("▁", " ").replace("Ġ", " ")))
    return shown


def _bytes(raw: str | bytes, text: str) -> bytes | None:
    """Return the bytes of a token that its decoded ``text`` does not show, by one of the ways of writing them."""
    if isinstance(raw, bytes):  # tokenizers in Python around tiktoken
        return raw if "�" in text or not text else None
    fallback = _FALLBACK.fullmatch(raw)
    if fallback and text != raw:
        return bytes.fromhex(fallback[1])
    if not text and len(raw) == 1 and 128 <= ord(raw) < 256:  # ByT5 leaves out what is no character
        return bytes([ord(raw)])
    if "�" in text and raw != text and all(character in _BYTES for character in raw):
        return bytes(_BYTES[character] for character in raw)
    return None
