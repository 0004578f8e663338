"""chrF and chrF++: n-grams of characters, and a few of words (Popović 2015 and 2017; chapter 16)."""

from collections import Counter
from collections.abc import Iterable, Sequence

from llmbook.metrics.checks import References, at_least, harmonic, texts

_PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _words(text: str) -> list[str]:
    """Words with one punctuation mark split off, from the end or else from the beginning."""
    words = []
    for word in text.split():
        if len(word) > 1 and word[-1] in _PUNCTUATION:
            words += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _PUNCTUATION:
            words += [word[0], word[1:]]
        else:
            words.append(word)
    return words


def _grams(text: str, char_order: int, word_order: int, keep_spaces: bool) -> list[Counter[str]]:
    """One table of counts for each order of characters, then of words."""
    line = text if keep_spaces else "".join(text.split())
    tables = [Counter([line[i : i + n] for i in range(len(line) - n + 1)]) for n in range(1, char_order + 1)]
    if word_order:
        words = _words(text)
        for n in range(1, word_order + 1):
            tables.append(Counter([" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]))
    return tables


def _compare(given: list[Counter[str]], right: list[Counter[str]]) -> list[tuple[int, int, int]]:
    """For each order: n-grams of the prediction (0 where the reference has none), of the reference, in both."""
    counts = []
    for mine, yours in zip(given, right, strict=True):
        matches = sum([min(count, yours[gram]) for gram, count in mine.items() if gram in yours])
        counts.append((mine.total() if yours else 0, yours.total(), matches))
    return counts


def _f_score(counts: Iterable[Sequence[int]], beta: float) -> float:
    """F-beta of the mean precision and mean recall over the orders that both texts have."""
    usable = [row for row in counts if row[0] and row[1]]
    if not usable:
        return 0.0
    precision = sum(matches / given for given, _, matches in usable) / len(usable)
    recall = sum(matches / right for _, right, matches in usable) / len(usable)
    return 100 * harmonic(precision, recall, beta)


def chrf(
    predictions: Sequence[str],
    references: References,
    *,
    char_order: int = 6,
    word_order: int = 0,
    beta: float = 2.0,
    lowercase: bool = False,
    keep_spaces: bool = False,
) -> float:
    """Character n-gram F-score of a corpus from 0 to 100, as sacrebleu computes it.

    Args:
        predictions: texts.
        references: for each prediction one text or a list, of which the one with the best score counts.
        char_order: longest n-gram of characters.
        word_order: longest n-gram of words: 0 is chrF, 2 is chrF++.
        beta: recall weighs ``beta`` times as much as precision.
        lowercase: whether case is ignored.
        keep_spaces: whether white space counts as a character.
    """
    given_texts, allowed_texts = texts(predictions, references)
    at_least("char_order", char_order, 1)
    at_least("word_order", word_order, 0)
    totals = [[0, 0, 0] for _ in range(char_order + word_order)]
    for text, others in zip(given_texts, allowed_texts, strict=True):
        lines = [each.lower() if lowercase else each for each in (text, *others)]
        given, *allowed = (_grams(each, char_order, word_order, keep_spaces) for each in lines)
        found = [_compare(given, right) for right in allowed]
        best = found[0] if len(found) == 1 else max(found, key=lambda counts: _f_score(counts, beta))
        for total, row in zip(totals, best, strict=True):
            for column in range(3):
                total[column] += row[column]
    return _f_score(totals, beta)
