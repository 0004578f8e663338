"""Chapter 8's learning curves: `llmbook/results/tokenizers.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript): a small network adds two numbers that are cut
in three ways. For each cut and each number of steps the learning rate is the best on validation sums, tried until the
best has a worse one on both sides; the runs that count have other seeds. Runs that the file holds already are kept.

    python benchmarks/ch08_tokenizers.py
"""

import functools
import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor

from llmbook import corpora, results, tokenization
from recording import Job, Runs, parser

CHAPTER = "08-tokenizers"
PATH = results.FOLDER / "tokenizers.json"
CONFIRM_BY = ("BPE 200 0.01 9",)
CUTS = ("digits, zero-padded", "digits", "BPE")
STEPS = (200, 800, 3200)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
FIRST = 2
CHOOSING, SEEDS = 9, (0, 1, 2)


@functools.cache
def tables(chapter: ModuleType) -> dict[str, Tensor]:
    """Return the tokens of 0 to 999 under each cut."""
    texts = list(corpora.pydocs().shuffle(seed=0)["train"].take(3000)["text"])
    gpt2_like = tokenization.train_byte_bpe(texts, 4096)
    return {name: chapter.table_of(cut) for name, cut in chapter.cuts_of(gpt2_like).items()}


def run(chapter: ModuleType, cut: str, steps: int, rate: float, seed: int) -> dict[str, Any]:
    """Train one network; return its shares of sums with all digits right."""
    valid, test = chapter.addition(tables(chapter)[cut], seed, rate, steps)
    return {"valid": valid, "test": test}


def jobs(runs: Runs) -> Iterator[Job]:
    """Yield the runs that choose the rates, until the best rate is not at the edge of those tried; then the others."""
    for cut, steps in itertools.product(CUTS, STEPS):
        valid: dict[int, float] = {}  # by the rate's place in RATES
        wanted, best = [FIRST, FIRST + 1], FIRST
        while wanted:
            for place in wanted:
                key: dict[str, Any] = {"cut": cut, "steps": steps, "rate": RATES[place], "seed": CHOOSING}
                job = Job(functools.partial(run, runs.chapter, **key), key)
                yield job
                for row in job.found(runs.rows()):
                    valid[place] = row["valid"]
            if not valid:  # the jobs are only listed
                return
            best = max(valid, key=valid.__getitem__)
            wanted = [place for place in (best - 1, best + 1) if place not in valid and 0 <= place < len(RATES)]
        for seed in SEEDS:
            key = {"cut": cut, "steps": steps, "rate": RATES[best], "seed": seed}
            yield Job(functools.partial(run, runs.chapter, **key), key)


def main() -> None:
    """Train and record."""
    runs = Runs(PATH, CHAPTER, parser(__doc__).parse_args(), CONFIRM_BY)
    runs.about |= {"data": corpora.describe(corpora.pydocs())}
    runs.go(jobs(runs))


if __name__ == "__main__":
    main()
