"""Chapter 9's objectives on more text: `llmbook/results/objectives.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Every objective
is trained in one pass over the same rows from each seed, then probed and fine-tuned on the chapter's two tasks. Runs
that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

With ``--finished`` nothing is trained: finished models, the book's and real ones, are probed on the same tasks, and two
of them say which of two sentences follows a third one.

    python benchmarks/ch09_objectives.py --rows 8000
    python benchmarks/ch09_objectives.py --rows 24000 --objectives CLM MLM "MLM + NSP" "MLM 40%"
    python benchmarks/ch09_objectives.py --finished
"""

import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from llmbook import corpora, hub, results
from recording import Job, Runs, parser

CHAPTER = "09-objectives"
PATH = results.FOLDER / "objectives.json"
CONFIRM_BY = ("none 8000 0", "CLM 8000 0")
FINISHED = ("bag of words", "untrained", "pydocs-gpt", "pydocs-bert", "pydocs-t5", "minilm-l6", "smollm2-135m-instruct")
CAUSAL = ("pydocs-gpt", "smollm2-135m-instruct")
PAIRS = 120


def judged(chapter: ModuleType, name: str, rows: Tensor, seed: int) -> dict[str, Any]:
    """Pretrain a model on the rows ``(rows, time)``; return its loss, and what probes and fine-tuning make of it."""
    start = time.perf_counter()
    model, history = chapter.pretrain(name, seed, rows) if name != "none" else (chapter.build(name, seed), [])
    run = {"seconds": time.perf_counter() - start}
    run |= {"loss": float(np.mean(history[-len(history) // 10 :])) if history else None}
    for task, (train, test) in chapter.TASKS.items():
        run[f"{task}, probe"] = chapter.probe(model, train[seed], test)
        run[f"{task}, fine-tuned"] = chapter.fine_tune(model, train[seed], test, seed)
    return run


def jobs(chapter: ModuleType, rows: Tensor, names: Sequence[str] | None = None) -> Iterator[Job]:
    """Yield a job for each seed and objective, by default all of them and the variants of masking."""
    for seed in chapter.SEEDS:
        for name in names or ["none", *chapter.OBJECTIVES, *chapter.VARIANTS]:
            key = {"objective": name, "rows": len(rows), "seed": seed}
            yield Job(lambda name=name, seed=seed: judged(chapter, name, rows, seed), key)


def probed(chapter: ModuleType, name: str, task: str) -> dict[str, Any]:
    """Return which test texts a probe of a finished model classifies rightly: a word of 0 and 1 for each draw."""
    found = chapter.probe_finished(name, task)
    return {states: ["".join(str(int(one)) for one in right) for right in runs] for states, runs in found.items()}


def paired(chapter: ModuleType, name: str) -> dict[str, Any]:
    """Return what a causal model says of neighbouring sentences, in nats."""
    model, encode = hub.pretrained(name)
    scores = chapter.pair_scores(model.to(chapter.rt.device), encode, chapter.neighbours(PAIRS))
    return {question: [round(float(value), 3) for value in values] for question, values in scores.items()}


def finished_jobs(chapter: ModuleType) -> Iterator[Job]:
    """Yield a job for each finished model and task, and one for each model that scores sentences."""
    for name in CAUSAL:
        yield Job(lambda name=name: paired(chapter, name), {"model": name}, where=("pairs",))
    for name in FINISHED:
        for task in chapter.TASKS:
            key = {"model": name, "task": task}
            yield Job(lambda name=name, task=task: probed(chapter, name, task), key, where=("finished",))


def main() -> None:
    """Pretrain, probe, fine-tune, record."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=8000, help="rows of text that each objective sees once")
    options.add_argument("--objectives", nargs="+", help="names, by default all and the variants of masking")
    options.add_argument("--finished", action="store_true", help="train nothing, ask finished models")
    arguments = options.parse_args()

    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    chapter = runs.chapter
    runs.about |= {"data": corpora.describe(chapter.topics), "tokens_per_row": chapter.TIME}
    if arguments.finished:
        runs.go(finished_jobs(chapter))
    else:
        runs.go(jobs(chapter, chapter.cut_rows(arguments.rows), arguments.objectives))


if __name__ == "__main__":
    main()
