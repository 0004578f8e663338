"""The metrics of chapter 16 and the libraries they equal, in time on the same pairs: `llmbook/results/metrics.json`.

Every metric and its library judge the same sentence pairs in one process, in turns, the fastest of several rounds each;
what is recorded as the outcome is the ratio. Results that differ end the run.

    python benchmarks/ch16_metrics.py                  # 10,000 pairs from the test split of `pydocs`
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jiwer
import sacrebleu
import sklearn.metrics
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

from llmbook import corpora, metrics, results
from llmbook.metrics._rouge import stem
from recording import origin, write

LIBRARIES = ("sacrebleu", "jiwer", "rouge-score", "nltk", "scikit-learn", "rapidfuzz")
Pairs = tuple[list[str], list[str]]


class NoSynonyms:
    """Stands in for WordNet, which nltk would have to download."""

    def synsets(self, word: str) -> list[Any]:
        """No word has a synonym."""
        return []


def pairs(count: int, texts: Sequence[str], seed: int = 0) -> Pairs:
    """Return predictions and references: a text, and the text with words dropped, swapped and taken from another."""
    random_ = random.Random(seed)
    references = [random_.choice(texts) for _ in range(count)]
    predictions = []
    for text in references:
        words, others = text.split(), random_.choice(texts).split()
        for _ in range(random_.randrange(5)):
            place = random_.randrange(len(words))
            words[place : place + random_.randrange(1, 3)] = random_.sample(
                others, min(len(others), random_.randrange(3))
            )
            words = words or ["x"]
        predictions.append(" ".join(words))
    return predictions, references


def rivals(given: Pairs) -> dict[str, tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """Name, library, our function and theirs for each metric; both return numbers that have to be equal."""
    predictions, references = given
    labels = [text.split()[0].lower() for text in predictions], [text.split()[0].lower() for text in references]

    def ours_rouge(kind: str, stemmed: bool) -> list[float]:
        return [score.f1 for score in metrics.rouge(predictions, references, [kind], stemmed=stemmed)[kind]]

    def their_rouge(kind: str, stemmed: bool) -> list[float]:
        scorer = RougeScorer([kind], use_stemmer=stemmed)
        return [scorer.score(b, a)[kind].fmeasure for a, b in zip(predictions, references, strict=True)]

    def their_meteor() -> list[float]:
        both = zip(predictions, references, strict=True)
        return [single_meteor_score(b.split(), a.split(), wordnet=NoSynonyms()) for a, b in both]

    def their_sentences(metric: Any) -> list[float]:
        return [metric.sentence_score(a, [b]).score for a, b in zip(predictions, references, strict=True)]

    def their_f1() -> list[float]:
        both = sklearn.metrics.precision_recall_fscore_support
        return list(both(labels[1], labels[0], average="macro", zero_division=0)[:3])

    sentence = partial(sacrebleu.BLEU, effective_order=True)
    found: dict[str, tuple[str, Callable[[], Any], Callable[[], Any]]] = {
        "WER": (
            "jiwer",
            lambda: metrics.word_error_rate(predictions, references),
            lambda: jiwer.wer(references, predictions),
        ),
        "CER": (
            "jiwer",
            lambda: metrics.character_error_rate(predictions, references),
            lambda: jiwer.cer(references, predictions),
        ),
        "accuracy": (
            "scikit-learn",
            lambda: metrics.accuracy(*labels),
            lambda: sklearn.metrics.accuracy_score(labels[1], labels[0]),
        ),
        "F1": ("scikit-learn", lambda: list(metrics.precision_recall_f1(*labels)), their_f1),
        "BLEU": (
            "sacrebleu",
            lambda: metrics.bleu(predictions, references).score,
            lambda: sacrebleu.BLEU().corpus_score(predictions, [references]).score,
        ),
        "BLEU, sentences": (
            "sacrebleu",
            lambda: [metrics.sentence_bleu(a, b) for a, b in zip(predictions, references, strict=True)],
            lambda: their_sentences(sentence()),
        ),
        "chrF": (
            "sacrebleu",
            lambda: metrics.chrf(predictions, references),
            lambda: sacrebleu.CHRF().corpus_score(predictions, [references]).score,
        ),
        "chrF++": (
            "sacrebleu",
            lambda: metrics.chrf(predictions, references, word_order=2),
            lambda: sacrebleu.CHRF(word_order=2).corpus_score(predictions, [references]).score,
        ),
        "METEOR": ("nltk", lambda: metrics.meteor(predictions, references), their_meteor),
    }
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        name = kind.replace("rouge", "ROUGE-")
        found[name] = ("rouge-score", partial(ours_rouge, kind, False), partial(their_rouge, kind, False))
    found["ROUGE-1, stems"] = ("rouge-score", partial(ours_rouge, "rouge1", True), partial(their_rouge, "rouge1", True))
    return found


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result; no cache is warm."""
    for tokenizer in (Tokenizer13a, TokenizerRegexp):
        tokenizer.__call__.cache_clear()
    stem.cache_clear()
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def measure(given: Pairs, rounds: int) -> list[dict[str, Any]]:
    """Time every metric and its library in turns, and compare their results."""
    runs = []
    for name, (library, ours, theirs) in rivals(given).items():
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        results: dict[str, Any] = {}
        for _ in range(rounds):
            for side, function in (("ours", ours), ("theirs", theirs)):
                taken, results[side] = timed(function)
                seconds[side].append(taken)
        difference = max(abs(a - b) for a, b in zip(*(as_list(results[side]) for side in seconds), strict=True))
        if difference > 1e-9:
            raise RuntimeError(f"{name} differs from {library} by {difference}")
        best = {side: min(times) for side, times in seconds.items()}
        runs.append(
            {
                "metric": name,
                "library": library,
                "seconds": round(best["ours"], 5),
                "library_seconds": round(best["theirs"], 5),
                "ratio": round(best["ours"] / best["theirs"], 4),
                "difference": difference,
            }
        )
        print(
            f"{name:16} {best['ours']:8.3f} s, {library} {best['theirs']:8.3f} s: {runs[-1]['ratio']:.2f}", flush=True
        )
    return runs


def as_list(result: Any) -> list[float]:
    """Return one number or many as a list."""
    return list(result) if isinstance(result, list) else [float(result)]


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the fastest counts")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "metrics.json")
    args = parser.parse_args()
    record = origin()
    record["versions"] |= {name: version(name) for name in LIBRARIES}
    summaries = [row["summary"] for row in corpora.pydocs()["test"] if len(row["summary"].split()) >= 5]
    given = pairs(args.pairs, summaries)
    words = sum(len(text.split()) for text in given[1]) / args.pairs
    runs = measure(given, args.rounds)
    write(args.out, record | {"pairs": args.pairs, "words_per_reference": round(words, 1), "runs": runs})


if __name__ == "__main__":
    main()
