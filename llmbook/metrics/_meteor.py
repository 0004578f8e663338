"""METEOR with its exact and its stem stage (Banerjee and Lavie 2005, Lavie and Agarwal 2007; chapter 16).

The third stage matches synonyms from WordNet, which has to be downloaded; it is left out. The result is that of
``nltk.translate.meteor_score`` with a WordNet that knows no synonym.
"""

from collections.abc import Callable, Sequence

from llmbook.metrics._rouge import stem
from llmbook.metrics.checks import References, texts


def _match(given: dict[int, str], right: dict[int, str]) -> list[tuple[int, int]]:
    """Pair equal words from the end: each word of the prediction with the last free one; remove what was paired."""
    places: dict[str, list[int]] = {}
    for j, word in right.items():
        places.setdefault(word, []).append(j)
    pairs = [(i, places[word].pop()) for i, word in reversed(given.items()) if places.get(word)]
    for i, j in pairs:
        del given[i], right[j]
    return pairs


def meteor_alignment(prediction: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs ``(place in the prediction, place in the reference)``, in order: equal words first, then equal stems.

    The papers ask for the alignment with the fewest crossings. This is nltk's: ties are broken from the end.

    Args:
        prediction: words, in lower case if case is to be ignored.
        reference: likewise.
    """
    given, right = dict(enumerate(prediction)), dict(enumerate(reference))
    pairs = _match(given, right)
    if given and right:
        stems = ({place: stem(word) for place, word in side.items()} for side in (given, right))
        pairs += _match(*stems)
    return sorted(pairs)


def count_chunks(pairs: Sequence[tuple[int, int]]) -> int:
    """Count the runs of an alignment that are contiguous on both sides."""
    return sum(k == 0 or (pairs[k - 1][0] + 1, pairs[k - 1][1] + 1) != pair for k, pair in enumerate(pairs))


def _meteor(given: list[str], right: list[str], alpha: float, beta: float, gamma: float) -> float:
    pairs = meteor_alignment(given, right)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(given), len(pairs) / len(right)
    mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    return mean * (1 - gamma * (count_chunks(pairs) / len(pairs)) ** beta)


def meteor(
    predictions: Sequence[str],
    references: References,
    *,
    alpha: float = 0.9,
    beta: float = 3.0,
    gamma: float = 0.5,
    tokenize: Callable[[str], list[str]] = str.split,
) -> list[float]:
    """METEOR of every prediction, from 0 to 1; a corpus's is usually reported as their mean.

    Args:
        predictions: texts; case is ignored.
        references: for each prediction one text or a list, of which the one with the best score counts.
        alpha: weight of recall in the mean of precision and recall, from 0 to 1.
        beta: how steeply the penalty grows with the number of chunks.
        gamma: the largest penalty, from 0 to 1.
        tokenize: a function from a text to its words.
    """
    given_texts, allowed_texts = texts(predictions, references)
    for name, value in (("alpha", alpha), ("gamma", gamma)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: it takes a number from 0 to 1")
    scores = []
    for text, others in zip(given_texts, allowed_texts, strict=True):
        words = [[word.lower() for word in tokenize(each)] for each in (text, *others)]
        scores.append(max(_meteor(words[0], right, alpha, beta, gamma) for right in words[1:]))
    return scores
