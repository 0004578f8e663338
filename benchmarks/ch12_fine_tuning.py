"""Chapter 12's grids: `llmbook/results/fine_tuning.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice: learning curves
over the number of labels (`curve`, `tags`, `spans`), over-fitting and its cures (`fits`), learning rate and batch size
(`sweep`), and rare classes (`rare`), each from three seeds. Runs that the file holds already, made by the same code,
are kept: repeat the command until nothing is left to do.

    python benchmarks/ch12_fine_tuning.py --minutes 5
"""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from llmbook import finetuning as ft
from llmbook import results
from recording import Job, Runs, parser

CHAPTER = "12-supervised-fine-tuning"
PATH = results.FOLDER / "fine_tuning.json"
CONFIRM_BY = ("section 32 pretrained 0", "40 pretrained 0", "60 pretrained 0")
STARTS = ("pretrained", "from scratch")
Run = dict[str, Any]


def jobs(chapter: ModuleType) -> Iterator[Job]:
    """Yield all runs, the cheaper grids first."""
    for kind, key, compute in grids(chapter):
        yield Job(lambda key=key, compute=compute: compute(**key), key, where=("runs", kind))


def grids(chapter: ModuleType) -> Iterator[tuple[str, Run, Callable[..., Run]]]:
    """Yield the kind of each run, what names it, and what computes the rest of it."""

    def curve(task: str, count: int, start: str, seed: int) -> Run:
        longer = 3 if start.endswith("longer") else 1
        model = chapter.learn(task, count, start == "pretrained", seed, longer)
        return chapter.scores_of(task, chapter.classify(model, chapter.TEST_ROWS[task]))

    def tags(count: int, start: str, seed: int) -> Run:
        found = chapter.tag(chapter.learn_tags(count, start == "pretrained", seed))
        return {"f1": ft.entity_scores(found, chapter.TAG_RIGHT).f1}

    def spans(count: int, start: str, seed: int) -> Run:
        model = chapter.learn_spans(count, start == "pretrained", seed, 3)
        found = chapter.answers_of(model, chapter.ASKED_ROWS, chapter.ASKED_PLACES, chapter.ASKED[1])
        return chapter.judge([one.text if one.margin > 0 else "" for one in found], chapter.ASKED_RIGHT)

    def rare(weighted: bool, seed: int) -> Run:
        return {"predictions": chapter.learn_lopsided(seed, weighted)}

    def sweep(rate: float, batch_size: int, seed: int) -> Run:
        return chapter.sweep(rate, batch_size, seed)

    def fits(name: str, seed: int) -> Run:
        return {"history": chapter.memorise(name, seed)}

    seeds = chapter.SEEDS
    begun = [{"start": start, "seed": seed} for seed in seeds for start in STARTS]
    few = [({"task": task, "count": count}, one) for one in begun for task in chapter.TASKS for count in (32, 128)]
    yield from (("curve", which | one, curve) for which, one in few)
    grid = [(rate, size) for rate in chapter.RATES for size in chapter.BATCHES]
    swept = [{"rate": rate, "batch_size": size, "seed": seed} for seed in seeds for rate, size in grid]
    yield from (("sweep", key, sweep) for key in swept)
    yield from (("fits", {"name": name, "seed": seed}, fits) for seed in seeds for name in chapter.FITS)
    yield from (("rare", {"weighted": weighted, "seed": seed}, rare) for seed in seeds for weighted in (False, True))
    for scale in (1, 1 / 4, 4):
        yield from (("tags", {"count": round(160 * scale)} | one, tags) for one in begun)
        yield from (("spans", {"count": round(240 * scale)} | one, spans) for one in begun)
    for task in chapter.TASKS:
        yield from (("curve", {"task": task, "count": 512} | one, curve) for one in begun)
        longer = {"task": task, "count": 128, "start": "from scratch, longer"}
        yield from (("curve", longer | {"seed": seed}, curve) for seed in seeds)


def main() -> None:
    """Fine-tune, judge, record."""
    options = parser(__doc__)
    options.add_argument("--kinds", nargs="+", help="only these, by default all")
    arguments = options.parse_args()
    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    kinds = arguments.kinds
    runs.go(job for job in jobs(runs.chapter) if not kinds or job.where[1] in kinds)


if __name__ == "__main__":
    main()
