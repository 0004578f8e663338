"""Exact match and token F1 of short answers, as SQuAD counts them (Rajpurkar et al. 2016; chapter 16)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

from llmbook.metrics.checks import References, harmonic, texts

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, the articles *a*, *an*, *the*, and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(predictions: Sequence[str], references: References) -> float:
    """Share of predictions that equal one of their references after :func:`normalize_answer`, from 0 to 1."""
    given, references_of = texts(predictions, references)
    hits = 0
    for prediction, allowed in zip(given, references_of, strict=True):
        hits += normalize_answer(prediction) in map(normalize_answer, allowed)
    return hits / len(given)


def _token_f1(prediction: str, reference: str) -> float:
    given, right = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not given or not right:
        return float(given == right)
    common = (Counter(given) & Counter(right)).total()
    return harmonic(common / len(given), common / len(right))


def answer_f1(predictions: Sequence[str], references: References) -> float:
    """Mean over predictions of the F1 of their bags of normalised words, with the best of their references.

    An answer that is empty after normalising scores 1 against another empty one and 0 otherwise, as in SQuAD 2.0.
    """
    texts_given, references_of = texts(predictions, references)
    pairs = zip(texts_given, references_of, strict=True)
    return sum(max(_token_f1(given, right) for right in allowed) for given, allowed in pairs) / len(texts_given)
