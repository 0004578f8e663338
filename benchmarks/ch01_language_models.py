"""Chapter 1's models on more and more text: `llmbook/results/language_models.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. For every N and
seed, each model is trained in one pass over the first N tokens of `pydocs`, shuffled as in the chapter, and scored on
the chapter's held-out documents; Kneser-Ney of order 5 is counted on the same tokens. Runs that the file holds already,
made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch01_language_models.py --tokens 100000 300000 1000000 2000000 --width 256
"""

import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch

from llmbook import corpora, ngram, results, tokenization
from llmbook.evaluation.likelihood import BOOK
from llmbook.metrics import bits_per_byte
from recording import Job, Runs, parser

CHAPTER = "01-language-models"
PATH = results.FOLDER / "language_models.json"
CONFIRM_BY = ("Kneser-Ney 100000 None", "LSTMLM 100000 0")


def jobs(
    chapter: ModuleType, train: list[np.ndarray], test: list[np.ndarray], num_bytes: int, vocab_size: int,
    sizes: list[int], width: int,
) -> Iterator[Job]:  # fmt: skip
    """Yield every model's run on every size of the training text: the counts first, then the networks."""
    ends = np.cumsum([len(document) for document in train])
    stream = torch.from_numpy(np.concatenate(train)).long()  # (tokens,)

    def count(n: int) -> dict[str, Any]:
        start = time.perf_counter()
        table = ngram.KneserNey(ngram.NGramCounts(train[: np.searchsorted(ends, n)], vocab_size, 5), 5)
        seconds = time.perf_counter() - start
        return {"bits_per_byte": bits_per_byte(table.log_prob(test), num_bytes), "seconds": seconds}

    def learn(n: int, kind: Any, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        model = kind(vocab_size, width).to(chapter.rt.device)
        start = time.perf_counter()
        chapter.train_model(model, stream[:n], seed, chapter.RATES[kind])
        seconds = time.perf_counter() - start
        bits = bits_per_byte(chapter.log_probs(model, test), num_bytes)
        return {"bits_per_byte": bits, "seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}

    for n in sizes:
        yield Job(lambda n=n: count(n), {"model": "Kneser-Ney", "tokens": n, "seed": None})
    for n in sizes:
        for kind in chapter.RATES:
            for seed in chapter.SEEDS:
                key = {"model": kind.__name__, "tokens": n, "seed": seed}
                yield Job(lambda n=n, kind=kind, seed=seed: learn(n, kind, seed), key)


def main() -> None:
    """Train, score, record."""
    options = parser(__doc__)
    sizes = [100_000, 300_000, 1_000_000, 2_000_000]
    options.add_argument("--tokens", type=int, nargs="+", default=sizes, help="sizes of the training text, in tokens")
    options.add_argument("--width", type=int, default=256, help="width of the networks")
    arguments = options.parse_args()

    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY, {"width": arguments.width})
    docs = corpora.pydocs()
    runs.about["data"] = corpora.describe(docs)
    runs.about["convention"] = BOOK.with_window(runs.chapter.WINDOW).describe()
    docs = docs.shuffle(seed=0)
    texts, held_out = docs["train"]["text"], corpora.held_out()
    num_bytes = sum(len(text.encode()) for text in held_out)
    tokenizer = tokenization.train_byte_bpe(texts[:5000], vocab_size=1024)
    test = tokenization.encode_documents(tokenizer, held_out)
    train = tokenization.encode_documents(tokenizer, texts)
    vocab_size = tokenizer.get_vocab_size()
    runs.go(jobs(runs.chapter, train, test, num_bytes, vocab_size, sorted(arguments.tokens), arguments.width))


if __name__ == "__main__":
    main()
