"""How tokens are written in pictures: readable, with blanks made visible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_BLANKS = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍"})


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
    continues a word; a token that is part of a character shows its bytes, as in ``<E4 BD>``.
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
        if "�" in text and raw != text:
            text = f"<{' '.join(f'{_byte(character):02X}' for character in raw)}>"
        shown.append(visible(text or raw.replace("▁", " ").replace("Ġ", " ")))
    return shown


def _byte(character: str) -> int:
    """Return the byte that byte-level BPE writes as this character (GPT-2's table: unprintable ones from 256 up)."""
    code = ord(character)
    if code < 256:
        return code
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [byte for byte in range(256) if byte not in printable][code - 256]
