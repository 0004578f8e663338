"""Chapter 14's learning curves and pools of mappings: `llmbook/results/prompting.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Runs that the
file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch14_prompting.py
    python benchmarks/ch14_prompting.py --minutes 4.5
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from llmbook import corpora, results
from recording import Job, Runs, parser

CHAPTER = "14-prompting"
PATH = results.FOLDER / "prompting.json"
CONFIRM_BY = ("8 0", "BERT, new head 2 0", "GPT, soft prompt 2 0")
EACH = (2, 8, 32)
POOLS = (8, 4096)
TEST_EACH = 100


def pool_run(chapter: ModuleType, pool: int, seed: int) -> dict[str, Any]:
    """Train on episodes of a fixed pool of mappings; test on those, and on mappings that are new."""
    model, log, fixed = chapter.learn_in_context(seed, pool=pool)
    fresh = chapter.new_mappings(400, np.random.default_rng(12345))
    rows = np.random.default_rng(0).integers(pool, size=400)
    known, known_seen = chapter.answers_right(model, tuple(part[rows] for part in fixed))
    new, new_seen = chapter.answers_right(model, fresh)
    return {
        "loss": log[-1]["loss"],
        "known mappings, seen": float(known[known_seen].mean()),
        "known mappings, unseen": float(known[~known_seen].mean()),
        "new mappings, seen": float(new[new_seen].mean()),
        "new mappings, unseen": float(new[~new_seen].mean()),
    }  # fmt: skip


def jobs(chapter: ModuleType, test: list[str], labels: np.ndarray) -> Iterator[Job]:
    """Yield the pools of mappings, then the learning curves, which are judged on test texts."""

    def tuned(method: str, each: int, seed: int) -> dict[str, float]:
        return {"accuracy": chapter.tune(method, each, seed, test, labels)[1]}

    for seed in chapter.SEEDS:
        for pool in POOLS:
            key = {"pool": pool, "seed": seed}
            yield Job(lambda key=key: pool_run(chapter, **key), key, where=("pools",))
    for each in EACH:
        for seed in chapter.SEEDS:
            for method in chapter.RATES:
                key = {"method": method, "each": each, "seed": seed}
                yield Job(lambda key=key: tuned(**key), key)


def main() -> None:
    """Train what is missing, record."""
    runs = Runs(PATH, CHAPTER, parser(__doc__).parse_args(), CONFIRM_BY)
    test, labels = runs.chapter.draw("test", TEST_EACH, 1)
    runs.about |= {"data": corpora.describe(runs.chapter.sections), "test_texts": len(test)}
    runs.go(jobs(runs.chapter, test, labels))


if __name__ == "__main__":
    main()
