"""Chapter 13's comparison of what to update: `llmbook/results/updating.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript). First each method's memory, in a process of
its own, and its learning rate, chosen on validation texts from a seed of its own; then every method, LoRA's ranks, two
tasks at once and augmentation, from three seeds. Runs that the file holds already, made by the same code, are kept:
repeat the command until nothing is left to do.

    python benchmarks/ch13_updating.py --minutes 4
"""

import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from llmbook import corpora, results
from llmbook import finetuning as ft
from llmbook.finetuning import updating
from recording import Job, Runs, parser

CHAPTER = "13-what-to-update"
PATH = results.FOLDER / "updating.json"
CONFIRM_BY = ("methods head only 0", "methods LoRA 0", "tasks topics alone 0", "augmentation none 0")
SEARCH_SEED = 10
#: Whose learning rate a method uses that has no search of its own.
SAME_RATE = {"from scratch": "full", "LoRA, all layers": "LoRA"}
#: Tried as well, since the best of the chapter's rates stood at the end of their row.
MORE_RATES = [
    ("head only", 1e-1),
    ("feed-forward", 4e-3),
    ("biases", 3e-2),
    ("layer-wise rates", 8e-3),
    ("gradual unfreezing", 1e-3),
    ("gradual unfreezing", 3e-3),
    ("adapters", 1e-2),
    ("LoRA", 3e-2),
    # alpha / rank is the same for all ranks, and what a step changes grows with the rank
    ("LoRA, rank 1", 1e-2),
    ("LoRA, rank 1", 3e-2),
    ("LoRA, rank 64", 1e-3),
    ("LoRA, rank 64", 3e-3),
    ("LoRA, rank 64", 1e-2),
]


def rate_of(method: str, searched: list[dict[str, Any]]) -> float:
    """Return the rate with the best validation accuracy."""
    method = SAME_RATE.get(method, method)
    tried = [run for run in searched if run["method"] == method]
    return max(tried, key=lambda run: run["accuracy"])["rate"]


def parts(chapter: ModuleType) -> list[tuple[str, tuple[Any, ...]]]:
    """Return all runs as (part, key), in the order in which they are made."""
    methods, seeds = list(chapter.METHODS), chapter.SEEDS
    # gradual unfreezing begins as head-only training does and ends as full fine-tuning
    measured = [name for name in methods if name != "gradual unfreezing" and not name.startswith("LoRA, rank")]
    found = [("memory", (name,)) for name in measured]
    found += [("search", (name, rate)) for name, rates in chapter.RATES.items() for rate in rates]
    found += [("search", (name, rate)) for name, rate in MORE_RATES]
    found += [("methods", (name, seed)) for seed in seeds for name in methods]
    found += [("tasks", (kind, seed)) for seed in seeds
              for kind in ("topics alone", "sections alone", "both", "both, PCGrad")]  # fmt: skip
    return found + [("augmentation", (kind, seed)) for seed in seeds
                    for kind in ("none", "word operations", "round trip", "mix-up", "FGM")]  # fmt: skip


def jobs(chapter: ModuleType, runs: Runs) -> Iterator[Job]:
    """Yield all runs; those after the search take the learning rates that it found."""

    def searched() -> list[dict[str, Any]]:
        return [run for run in runs.rows() if run["part"] == "search"]

    for part, key in parts(chapter):
        name = {"part": part, "key": list(key)}
        if part == "methods":  # where a better rate was found since, the run is made anew
            best = rate_of(key[0], searched())
            runs.drop(lambda run, name=name, best=best: name.items() <= run.items() and run["rate"] != best)
        yield Job(lambda part=part, key=key: make(chapter, part, key, searched()), name)


def make(chapter: ModuleType, part: str, key: tuple[Any, ...], searched: list[dict[str, Any]]) -> dict[str, Any]:
    """Make one run."""
    if part == "search":
        name, rate = key
        _, run = chapter.run(name, SEARCH_SEED, rate, tested=chapter.validation)
    elif part == "methods":
        _, run = chapter.run(*key, rate_of(key[0], searched))
    elif part == "augmentation":
        if "round trip" not in chapter.CHANGES:
            chapter.add_round_trip()
        _, run = chapter.run_few(*key, rate=rate_of("full", searched))
    elif part == "tasks":
        _, run = chapter.run_tasks(*key, rate=rate_of("full", searched))
    else:
        context = multiprocessing.get_context("fork")  # each begins as this process is, before any training
        queue = context.Queue()
        child = context.Process(target=lambda: queue.put(memory_of(chapter, key[0])))
        child.start()
        run = queue.get(timeout=300)
        child.join()
    return run


def memory_of(chapter: ModuleType, name: str) -> dict[str, Any]:
    """Return how far this process's resident memory rises above the model's own during five steps of a method."""
    model, how = chapter.prepared(name, 0, 1e-4)
    rows = chapter.rows_of(chapter.draw(chapter.topics["train"], 5 * chapter.BATCH))
    chapter.accuracy(model, rows[:16])  # what the first products allocate once is not counted
    batch = ft.collate(rows[: chapter.BATCH], chapter.PAD)
    with chapter.rt.autocast():
        counted = updating.training_memory(model, batch, ft.loss)
    status = Path("/proc/self/status")
    before = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    chapter.train(model, rows, 1e-4, 0, steps=5, **how)
    peak = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return {"method": name, "rise": (peak - before) * 1024, **counted}


def main() -> None:
    """Make what is missing, record."""
    runs = Runs(PATH, CHAPTER, parser(__doc__).parse_args(), CONFIRM_BY)
    runs.about |= {"data": corpora.describe(runs.chapter.topics)}
    runs.go(jobs(runs.chapter, runs))


if __name__ == "__main__":
    main()
