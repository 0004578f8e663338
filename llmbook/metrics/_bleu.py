"""BLEU (Papineni et al. 2002), tokenised and smoothed as in sacrebleu (Post 2018; chapter 16)."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmbook.metrics.checks import References, at_least, choice, clipped, count_ngrams, texts

SMOOTHINGS = {"none": 0.0, "floor": 0.1, "add-k": 1.0, "exp": 0.0}  # with the value that each takes by default

_13A = [
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),  # ASCII punctuation stands alone,
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),  # full stop and comma unless they stand in a number,
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # and a hyphen after a digit
]
# The characters that sacrebleu's "zh" sets apart. What it writes for those from U+20000 on amounts to the range
# \u2001-\u2a6d, which has dashes and quotation marks in it, and leaves the characters themselves out.
_HAN = re.compile(
    "([\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\u2001-\u2a6d\u2f81-\u2fa1\uff00-\uffef"
    "\u2e80-\u2eff\u3000-\u303f\u31c0-\u31ef\u2f00-\u2fdf\u2ff0-\u2fff\u3100-\u312f\u31a0-\u31bf\ufe10-\ufe1f"
    "\ufe30-\ufe4f\u3200-\u33ff])"
)


def _western(text: str) -> list[str]:
    for pattern, replacement in _13A:
        text = pattern.sub(replacement, text)
    return text.split()


def _tokenize_13a(text: str) -> list[str]:
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in text:
        for entity, character in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
            text = text.replace(entity, character)
    return _western(f" {text} ")


def _tokenize_zh(text: str) -> list[str]:
    return _western(_HAN.sub(r" \1 ", text.strip()))


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "13a": _tokenize_13a,
    "zh": _tokenize_zh,
    "char": lambda text: list("".join(text.split())),
    "none": str.split,
}


@dataclass(frozen=True)
class Bleu:
    """BLEU from 0 to 100 with all that it is made of; tuples have one entry for each order from 1 up."""

    score: float
    brevity_penalty: float
    precisions: tuple[float, ...]  # in per cent, smoothed
    matches: tuple[int, ...]  # clipped
    totals: tuple[int, ...]
    prediction_length: int
    reference_length: int


def _count(prediction: list[str], references: list[list[str]], max_order: int) -> list[int]:
    """Clipped matches of one text, by order. An order without a match ends the search: longer ones have none either."""
    matches = [0] * max_order
    for order in range(1, min(max_order, len(prediction)) + 1):
        allowed = count_ngrams(references[0], order)
        for other in references[1:]:
            allowed |= count_ngrams(other, order)
        found = clipped(count_ngrams(prediction, order), allowed)
        if not found:
            break
        matches[order - 1] = found
    return matches


def _combine(
    matches: list[int], totals: list[int], lengths: tuple[int, int], smoothing: str, value: float, effective: bool
) -> Bleu:
    """Brevity penalty and smoothed geometric mean from counts that may be one text's or a corpus's."""
    given, wanted = lengths
    penalty = 1.0 if given >= wanted else math.exp(1 - wanted / given) if given else 0.0
    precisions = [0.0] * len(matches)
    orders, halvings = len(matches), 0
    for n, (match, total) in enumerate(zip(matches, totals, strict=True)):
        extra = value if smoothing == "add-k" and n else 0.0
        if not any(matches) or total + extra == 0:
            break
        orders = n + 1 if effective else orders
        if match + extra == 0 and smoothing == "exp":
            halvings += 1
            precisions[n] = 100 / (2**halvings * total)
        elif match + extra == 0 and smoothing == "floor":
            precisions[n] = 100 * value / total
        else:
            precisions[n] = 100 * (match + extra) / (total + extra)
    used = precisions[:orders]
    score = penalty * math.exp(sum(map(math.log, used)) / orders) if all(used) else 0.0
    return Bleu(score, penalty, tuple(precisions), tuple(matches), tuple(totals), given, wanted)


def bleu(
    predictions: Sequence[str],
    references: References,
    *,
    tokenize: str | Callable[[str], list[str]] = "13a",
    smoothing: str = "exp",
    smoothing_value: float | None = None,
    max_order: int = 4,
    effective_order: bool = False,
    lowercase: bool = False,
) -> Bleu:
    """BLEU of a corpus: the counts of all texts are added up before anything is divided.

    Args:
        predictions: texts.
        references: for each prediction one text or a list of texts, empty ones allowed.
        tokenize: ``13a`` (Western languages), ``zh`` (Han characters one by one), ``char``, ``none`` (white space), or
            a function from a text to its tokens.
        smoothing: what happens to a precision of zero: ``none`` leaves it, ``floor`` replaces the zero matches,
            ``add-k`` adds to matches and totals of every order but the first, ``exp`` halves a match again and again
            (Chen and Cherry 2014).
        smoothing_value: for ``floor`` (0.1 by default) and ``add-k`` (1).
        max_order: longest n-gram.
        effective_order: leave out orders longer than the text; advisable for single sentences.
        lowercase: whether case is ignored.
    """
    given_texts, allowed_texts = texts(predictions, references)
    choice("smoothing", smoothing, tuple(SMOOTHINGS))
    at_least("max_order", max_order, 1)
    if isinstance(tokenize, str):
        choice("tokenize", tokenize, tuple(TOKENIZERS))
        tokenize = TOKENIZERS[tokenize]
    matches, totals, lengths = [0] * max_order, [0] * max_order, [0, 0]
    for text, others in zip(given_texts, allowed_texts, strict=True):
        given = tokenize(text.lower() if lowercase else text)
        allowed = [tokenize(other.lower() if lowercase else other) for other in others]
        for n, found in enumerate(_count(given, allowed, max_order)):
            matches[n] += found
            totals[n] += max(0, len(given) - n)
        lengths[0] += len(given)
        lengths[1] += min(map(len, allowed), key=lambda length: (abs(length - len(given)), length))
    value = SMOOTHINGS[smoothing] if smoothing_value is None else smoothing_value
    return _combine(matches, totals, (lengths[0], lengths[1]), smoothing, value, effective_order)


def sentence_bleu(
    prediction: str,
    references: str | Sequence[str],
    *,
    tokenize: str | Callable[[str], list[str]] = "13a",
    smoothing: str = "exp",
    smoothing_value: float | None = None,
    max_order: int = 4,
    effective_order: bool = True,
) -> float:
    """BLEU of one text from 0 to 100, with the effective order by default; the arguments are those of :func:`bleu`."""
    return bleu(
        [prediction],
        [references],
        tokenize=tokenize,
        smoothing=smoothing,
        smoothing_value=smoothing_value,
        max_order=max_order,
        effective_order=effective_order,
    ).score
