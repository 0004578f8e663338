"""Chapter 1's models, each at its best rate, on more text, and SmolLM2: `llmbook/results/language_models.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. For each number
of tokens N, each network is trained in one pass over the first N tokens of `pydocs`, shuffled as in the chapter. Its
learning rate is doubled and halved, with the first seed, until the rate with the fewest bits on validation text is not
at the edge of those tried; with that rate the other seeds follow. Kneser-Ney of order 5 is counted on the same tokens.
Besides: SmolLM2's bits for held-out documents, and what it writes after the beginnings of some, with its bits for that
and for what people wrote there.
Runs that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch01_language_models.py && python benchmarks/ch01_language_models.py --real
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from llmbook import corpora, generation, hub, ngram, results, tokenization
from llmbook.evaluation.likelihood import BOOK, score_texts
from llmbook.metrics import bits_per_byte
from llmbook.ngram import KneserNey
from recording import Job, Runs, parser

CHAPTER = "01-language-models"
PATH = results.FOLDER / "language_models.json"
CONFIRM_BY = ("Kneser-Ney 200000 None None", "LSTMLM 200000 0.016 0")
Rows = Callable[..., list[dict[str, Any]]]


class Text(NamedTuple):
    """Documents as token ids, and how many bytes they have."""

    documents: list[np.ndarray]
    num_bytes: int

    def bits_per_byte(self, log_prob: np.ndarray) -> float:
        """Return what a byte costs, from the natural-log probabilities of all tokens."""
        return bits_per_byte(log_prob, self.num_bytes)


def best_rate(rows: list[dict[str, Any]], model: str, tokens: int, seed: int) -> float:
    """Return the learning rate with which a network needs the fewest bits on validation text."""
    found = [run for run in rows if (run["model"], run["tokens"], run["seed"]) == (model, tokens, seed)]
    return float(min(found, key=lambda run: run["validation"])["rate"])


def jobs(
    chapter: ModuleType, train: list[np.ndarray], validation: Text, test: Text, vocab_size: int, sizes: list[int],
    rows: Rows,
) -> Iterator[Job]:  # fmt: skip
    """Yield every model's run on every size of the training text: the counts first, then the networks.

    Args:
        chapter: its engine cells.
        train: what they are trained on.
        validation: what chooses the rates.
        test: what is reported.
        vocab_size: of the tokenizer.
        sizes: numbers of tokens.
        rows: returns the runs that there are already; the next rate depends on them.
    """
    ends = np.cumsum([len(document) for document in train])
    stream = torch.from_numpy(np.concatenate(train)).long()  # (tokens,)

    def count(n: int) -> dict[str, Any]:
        start = time.perf_counter()
        table = KneserNey(ngram.NGramCounts(train[: np.searchsorted(ends, n)], vocab_size, 5), 5)
        seconds = time.perf_counter() - start
        bits = {"validation": validation, "bits_per_byte": test}
        scores = {name: text.bits_per_byte(table.log_prob(text.documents)) for name, text in bits.items()}
        return scores | {"seconds": seconds}

    def learn(n: int, kind: Any, rate: float, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        model = kind(vocab_size, chapter.WIDTH).to(chapter.rt.device)
        start = time.process_time()
        chapter.train_model(model, stream[:n], seed, rate)
        seconds = time.process_time() - start
        bits = {"validation": validation, "bits_per_byte": test}
        scores = {name: text.bits_per_byte(chapter.log_probs(model, text.documents)) for name, text in bits.items()}
        return scores | {"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}

    def job(n: int, kind: Any, rate: float, seed: int) -> Job:
        key = {"model": kind.__name__, "tokens": n, "rate": rate, "seed": seed}
        return Job(partial(learn, n, kind, rate, seed), key)

    for n in sizes:
        yield Job(partial(count, n), {"model": "Kneser-Ney", "tokens": n, "rate": None, "seed": None})
    first, *others = chapter.SEEDS
    starts = dict(chapter.FIRST_RATES)
    for n in sizes:
        for kind, rate in starts.items():
            tried: set[float] = set()
            while missing := [r for r in (rate / 2, rate, 2 * rate) if r not in tried]:
                for new in missing:
                    yield job(n, kind, new, first)
                tried |= set(missing)
                rate = best_rate(rows(), kind.__name__, n, first)
            starts[kind] = rate  # the search on more text begins here
    for n in sizes:
        for kind in starts:
            rate = best_rate(rows(), kind.__name__, n, first)
            for seed in others:
                yield job(n, kind, rate, seed)


def real_jobs(chapter: ModuleType, held_out: list[str]) -> Iterator[Job]:
    """Yield the runs of SmolLM2: what it writes after the beginnings of held-out texts, and what it needs for them.

    Args:
        chapter: its engine cells.
        held_out: the texts that are scored, and continued.
    """
    opened: Any = hub.pretrained("smollm2-135m-instruct")
    model, tokenizer = opened
    model.to(chapter.rt.device)
    special = [tokenizer.bos_token_id, *tokenizer.all_special_ids]
    starts, people = chapter.beginnings(tokenizer, held_out)

    def judged(written: list[str]) -> dict[str, Any]:
        """Return what each continuation costs SmolLM2, in bits, and its mean bits at each place."""
        whole = [start + text for start, text in zip(starts, written, strict=True)]
        found, before = (chapter.token_bits(model, tokenizer, texts, special[0]) for texts in (whole, starts))
        bits = [round(float(row.sum() - first.sum()), 3) for row, first in zip(found, before, strict=True)]
        least = min(len(row) for row in found)
        places = np.mean([row[:least] for row in found], axis=0)
        return {"bits": bits, "places": [round(float(value), 3) for value in places]}

    def greedy() -> dict[str, Any]:
        scores = generation.cached_scores(model)
        written = chapter.write(scores, tokenizer, starts, "greedy", special, new_tokens=48)
        return {"texts": written} | judged(written)

    yield Job(lambda: judged(people), {"writer": "people", "method": "people"}, where=("written",))
    yield Job(greedy, {"writer": "SmolLM2", "method": "greedy"}, where=("written",))
    convention = BOOK.for_tokenizer(tokenizer)
    for number, text in enumerate(held_out[: chapter.SMOL_DOCUMENTS]):

        def score(text: str = text) -> dict[str, Any]:
            found = score_texts(model, tokenizer, [text], convention, batch_size=1)
            return {"bits": float(found.bits[0]), "tokens": int(found.tokens[0]), "bytes": int(found.bytes[0])}

        yield Job(score, {"document": number}, where=("smollm2",))


def main() -> None:
    """Train, score, record."""
    options = parser(__doc__)
    sizes = [200_000]
    options.add_argument("--tokens", type=int, nargs="+", default=sizes, help="sizes of the training text, in tokens")
    options.add_argument("--real", action="store_true", help="SmolLM2 in place of the networks")
    arguments = options.parse_args()

    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    docs = corpora.pydocs()
    runs.about["data"] = corpora.describe(docs)
    runs.about["width"] = runs.chapter.WIDTH
    runs.about["convention"] = BOOK.with_window(runs.chapter.WINDOW).describe()
    docs = docs.shuffle(seed=0)
    texts = docs["train"]["text"]
    tokenizer = tokenization.train_byte_bpe(texts[:5000], vocab_size=1024)

    def encoded(texts: list[str]) -> Text:
        return Text(tokenization.encode_documents(tokenizer, texts), sum(len(text.encode()) for text in texts))

    validation, test = encoded(docs["validation"]["text"][:100]), encoded(corpora.held_out())
    few = max(arguments.tokens) < 1_000_000  # then a part of the text is enough
    train = tokenization.encode_documents(tokenizer, texts[:5000] if few else texts)
    vocab_size = tokenizer.get_vocab_size()
    if arguments.real:
        runs.go(real_jobs(runs.chapter, corpora.held_out()))
    else:
        runs.go(jobs(runs.chapter, train, validation, test, vocab_size, sorted(arguments.tokens), runs.rows))


if __name__ == "__main__":
    main()
