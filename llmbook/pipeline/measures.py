"""What is measured of a document before it is judged, after the ROOTS pipeline (Laurençon et al. 2022, chapter 7)."""

import functools
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from importlib.resources import files

import numpy as np

CHARACTERS, WORDS = 10, 5  # lengths of the n-grams whose repetition is measured
_STRIPPED = string.punctuation + string.digits
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0 modulo 2^64


def words(text: str) -> list[str]:
    """Return the words in lower case: split at white space, punctuation and digits taken off both ends."""
    stripped = (word.strip(_STRIPPED) for word in text.lower().split())
    return [word for word in stripped if word]


def special_ratio(text: str) -> float:
    """Return the share of characters that are neither letters nor marks of letters: 0 to 1, 0 for an empty text."""
    special = sum(n for character, n in Counter(text).items() if unicodedata.category(character)[0] not in "LM")
    return special / (len(text) or 1)


def ngram_hashes(symbols: np.ndarray, n: int, start: int = 0) -> np.ndarray:
    """Return a 64-bit hash of the n-gram at each place: symbols ``(length,)`` uint64 -> ``(length - n + 1,)``, or none.

    ``start`` is what each hash begins with, so that n-grams of different lengths can be told apart.
    """
    places = max(len(symbols) - n + 1, 0)
    hashes = np.full(places, start, dtype=np.uint64)
    for offset in range(n if places else 0):
        hashes = hashes * _BASE + symbols[offset : offset + places]
    return hashes


def _ngram_counts(symbols: np.ndarray, n: int) -> np.ndarray:
    """How often each different n-gram occurs: symbols ``(length,)`` uint64 -> ``(different,)``."""
    return np.unique(ngram_hashes(symbols, n), return_counts=True)[1]


def character_repetition(text: str, n: int = CHARACTERS) -> float:
    """Return the share of character n-grams that the most frequent ones make up.

    Of d different n-grams the sqrt(d) most frequent are taken, those that occur once left out (ROOTS). A text in which
    nothing recurs has 0. A line of d characters again and again has about 1 / sqrt(d), not 1: see chapter 7.
    """
    _check_length(n)
    symbols = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    counts = _ngram_counts(symbols, n)
    if not len(counts):
        return 0.0
    repeated = np.sort(counts[counts > 1])[::-1]
    return float(repeated[: int(np.sqrt(len(counts)))].sum() / counts.sum())


def word_repetition(text_words: Sequence[str], n: int = WORDS) -> float:
    """Return the share of the occurrences of word n-grams that are of one that occurs more than once (ROOTS)."""
    _check_length(n)
    ids: dict[str, int] = {}
    symbols = np.array([ids.setdefault(word, len(ids) + 1) for word in text_words], dtype=np.uint64)
    counts = _ngram_counts(symbols, n)
    return float(counts[counts > 1].sum() / counts.sum()) if len(counts) else 0.0


def listed_ratio(text_words: Sequence[str], listed: Collection[str]) -> float:
    """Return the share of the words that stand in a list: of stop words, or of flagged words; 0 without words."""
    return sum(word in listed for word in text_words) / (len(text_words) or 1)


@functools.cache
def stop_words() -> frozenset[str]:
    """Return scikit-learn's English stop words: the closed classes (articles, prepositions, pronouns, auxiliaries)."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


@functools.cache
def flagged_words() -> frozenset[str]:
    """Return the list of words that ships with datatrove for its filter of addresses, words of one piece only."""
    lines = (files("datatrove") / "assets" / "banned_words.txt").read_text(encoding="utf-8").split("\n")
    return frozenset(line.strip().lower() for line in lines if line.strip().isalpha())


def statistics(text: str) -> dict[str, float]:
    """Return all statistics of a document that need no model: the columns that :data:`~.filters.ENGLISH` limits."""
    text_words = words(text)
    return {
        "words": float(len(text_words)),
        "character_repetition": character_repetition(text),
        "word_repetition": word_repetition(text_words),
        "special_characters": special_ratio(text),
        "stop_words": listed_ratio(text_words, stop_words()),
        "flagged_words": listed_ratio(text_words, flagged_words()),
    }


def _check_length(n: int) -> None:
    if n < 1:
        raise ValueError(f"n={n}: an n-gram has at least one element; give 1 or more")
