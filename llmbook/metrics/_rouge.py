"""ROUGE-N, ROUGE-L and ROUGE-Lsum (Lin 2004), equal to the package rouge-score (chapter 16)."""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence

from llmbook.metrics.checks import References, Score, clipped, count_ngrams, harmonic, texts

_OTHER = re.compile(r"[^a-z0-9]+")


@functools.cache
def _porter() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer().stem


@functools.lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """Porter's stem of a word, remembered: the algorithm is slow and words recur."""
    return _porter()(word)


def rouge_tokens(text: str, stemmed: bool = False) -> list[str]:
    """Lower-case runs of the letters a to z and digits; everything else, all of Chinese included, is dropped.

    Args:
        text: any text.
        stemmed: whether words of more than three letters are replaced by their stem.
    """
    tokens = _OTHER.sub(" ", text.lower()).split()
    return [stem(token) if len(token) > 3 else token for token in tokens] if stemmed else tokens


def _score(hits: int, given: int, right: int) -> Score:
    precision, recall = hits / max(given, 1), hits / max(right, 1)
    return Score(precision, recall, harmonic(precision, recall))


def _rouge_n(given: list[str], right: list[str], order: int) -> Score:
    mine, yours = count_ngrams(given, order), count_ngrams(right, order)
    return _score(clipped(mine, yours), mine.total(), yours.total())


def _columns(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Rows of the table of longest common subsequences, each packed into one integer.

    Bit ``j`` of row ``i`` is 0 where the length grows by one from the first ``j`` to the first ``j + 1`` items of
    ``second`` (Allison and Dix 1986, in the form of Hyyrö 2004); row 0 has ones only.
    """
    places: dict[str, int] = {}
    for j, item in enumerate(second):
        places[item] = places.get(item, 0) | (1 << j)
    full = (1 << len(second)) - 1
    rows = [full]
    for item in first:
        row = rows[-1]
        hit = row & places.get(item, 0)
        rows.append(((row + hit) | (row - hit)) & full)
    return rows


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    return len(second) - _columns(first, second)[-1].bit_count()


def _common_places(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Positions in ``first`` of one longest common subsequence: the one that rouge-score finds."""
    rows = _columns(first, second)
    i, j, found = len(first), len(second), []
    while i and j:
        low = (1 << j) - 1
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif (rows[i] & low).bit_count() < (rows[i - 1] & low).bit_count():  # the i-th item added one: keep it
            j -= 1
        else:
            i -= 1
    return found


def _rouge_lsum(given: list[list[str]], right: list[list[str]]) -> Score:
    """Union of the common subsequences of every reference sentence with all predicted ones; a token counts once."""
    left, wanted = Counter(itertools.chain(*given)), Counter(itertools.chain(*right))
    hits = 0
    for sentence in right:
        union = set().union(*(_common_places(sentence, other) for other in given))
        for place in sorted(union):
            token = sentence[place]
            if left[token] > 0 and wanted[token] > 0:
                hits += 1
                left[token] -= 1
                wanted[token] -= 1
    return _score(hits, sum(map(len, given)), sum(map(len, right)))


def _order(kind: str) -> int:
    """Return the order of a ROUGE-N, and 0 for the two kinds made of subsequences."""
    if kind in ("rougeL", "rougeLsum"):
        return 0
    if found := re.fullmatch(r"rouge([1-9])", kind):
        return int(found[1])
    raise ValueError(f"kinds has {kind!r}: it takes rouge1 to rouge9, rougeL and rougeLsum")


def rouge(
    predictions: Sequence[str],
    references: References,
    kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    *,
    stemmed: bool = False,
    tokenize: Callable[[str], list[str]] | None = None,
) -> dict[str, list[Score]]:
    """Score every prediction; a corpus's ROUGE is the mean of these.

    Args:
        predictions: texts.
        references: for each prediction one text or a list, of which the one with the best F1 counts.
        kinds: ``rouge1`` to ``rouge9`` (n-grams), ``rougeL`` (longest common subsequence of the text) and ``rougeLsum``
            (of its lines: put one sentence on each).
        stemmed: whether words are compared by their stems.
        tokenize: a function in place of :func:`rouge_tokens`, which drops all but ASCII letters and digits.

    Returns:
        For each kind one score for each prediction.
    """
    given_texts, allowed_texts = texts(predictions, references)
    orders = {kind: _order(kind) for kind in kinds}
    cut = tokenize or (lambda text: rouge_tokens(text, stemmed))
    whole, lines = any(kind != "rougeLsum" for kind in kinds), "rougeLsum" in orders

    def parts(text: str) -> tuple[list[str], list[list[str]]]:
        return cut(text) if whole else [], [cut(line) for line in text.split("\n") if line] if lines else []

    def score(kind: str, mine: tuple[list[str], list[list[str]]], yours: tuple[list[str], list[list[str]]]) -> Score:
        if kind == "rougeLsum":
            return _rouge_lsum(mine[1], yours[1])
        if kind == "rougeL":
            return _score(_common_length(yours[0], mine[0]), len(mine[0]), len(yours[0]))
        return _rouge_n(mine[0], yours[0], orders[kind])

    results: dict[str, list[Score]] = {kind: [] for kind in kinds}
    for text, others in zip(given_texts, allowed_texts, strict=True):
        mine, allowed = parts(text), [parts(other) for other in others]
        for kind in kinds:
            results[kind].append(max((score(kind, mine, yours) for yours in allowed), key=lambda found: found.f1))
    return results
