"""Chapter 10's comparisons of small trainings: `llmbook/results/schedules.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Each optimiser
with each schedule gets its own rates: from a first guess they are multiplied or divided by the square root of two as
long as the loss on *validation* text falls, so that the best are not at an edge of what was tried; then three other
seeds train with them, and their loss on test text is what the chapter shows. Some train for twice the steps too, with
the same rates. Then: windows of several documents with and without a mask between them, trainings that forget a part
of their state when they are interrupted, and batches of several sizes. Runs that the file holds already, made by the
same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch10_schedules.py
    python benchmarks/ch10_schedules.py --lists masks resumed
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from llmbook import corpora, results
from recording import Job, Runs, parser

CHAPTER = "10-pretraining"
PATH = results.FOLDER / "schedules.json"
CONFIRM_BY = ("AdamW wsd 300 0.0028 0",)
LISTS = ("runs", "masks", "resumed", "batches")
#: Every rate that can be tried; each is the square root of two times the one before it.
RATES = (5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3, 5.6e-3, 8e-3, 0.011, 0.016, 0.023, 0.032, 0.045, 0.064, 0.09)
#: The seed that chooses the rates; the chapter's own three are trained with what it chose.
CHOOSE_BY = 3
#: Those that train for twice the steps too, with the rates that were found.
LONGER = [("AdamW, two rates", "wsd"), ("Muon", "wsd"), ("Muon", "linear")]
#: Optimiser, schedule and the first guess of its rates: of the blocks' matrices, of tables and norms. "AdamW" has one
#: rate for both.
CONTENDERS: dict[tuple[str, str], tuple[float, float]] = {
    ("AdamW", "wsd"): (0.0028, 0.0028),
    ("AdamW", "cosine"): (0.004, 0.004),
    ("AdamW", "linear"): (0.004, 0.004),
    ("AdamW", "constant"): (0.002, 0.002),
    ("AdamW, two rates", "wsd"): (0.0028, 0.008),
    ("AdamW, two rates", "linear"): (0.004, 0.011),
    ("Muon", "wsd"): (0.011, 0.004),
    ("Muon", "cosine"): (0.023, 0.008),
    ("Muon", "linear"): (0.023, 0.008),
    ("Muon", "constant"): (0.008, 0.004),
}
WAYS: tuple[tuple[str, ...], ...] = (
    (),
    ("optimiser state",),
    ("place in the data",),
    ("random state",),
    ("optimiser state", "place in the data", "random state"),
)

Rates = tuple[float, ...]


def neighbours(rates: Rates) -> list[Rates]:
    """Return the rates that are tried beside some: for each of them the next ones of the grid, the others unchanged."""
    moves = [tuple(RATES[RATES.index(rate) + move] for rate in rates) for move in (1, -1)]
    return [(*rates[:place], move[place], *rates[place + 1 :]) for move in moves for place in range(len(rates))]


class Search:
    """A descent over rates: the jobs that it still needs, and the best rates once it needs none."""

    def __init__(self, runs: Runs, where: str, key: dict[str, Any], names: tuple[str, ...], first: Rates) -> None:
        """Begin at the first rates; ``names`` are their fields in the record's list ``where``."""
        self.runs, self.where, self.key, self.names = runs, where, key, names
        self.best = first

    def loss(self, rates: Rates) -> float:
        """Return the validation loss of the recorded run with some rates."""
        wanted = self.key | dict(zip(self.names, rates, strict=True)) | {"seed": CHOOSE_BY}
        return float(next(row["validation"] for row in self.runs.rows(self.where) if wanted.items() <= row.items()))

    def jobs(self, make: Callable[..., dict[str, Any]]) -> Iterator[Job]:
        """Yield the runs at the best rates and beside them, and move on while one of those is better."""
        while True:
            tried = [self.best, *neighbours(self.best)]
            for rates in tried:
                key = self.key | dict(zip(self.names, rates, strict=True)) | {"seed": CHOOSE_BY}
                yield Job(functools.partial(make, rates, CHOOSE_BY), key, where=(self.where,))
            better = min(tried, key=self.loss)
            if better == self.best:
                return
            self.best = better


def searched(
    runs: Runs, where: str, key: dict[str, Any], first: dict[str, float], make: Callable[..., dict[str, Any]]
) -> Iterator[Job]:
    """Yield the runs that choose the rates of one contender, and then those of the chapter's seeds with them."""
    search = Search(runs, where, key, tuple(first), tuple(first.values()))
    yield from search.jobs(make)
    named = dict(zip(search.names, search.best, strict=True))
    for seed in runs.chapter.SEEDS:
        yield Job(functools.partial(make, search.best, seed), key | named | {"seed": seed}, where=(where,))


def contenders(runs: Runs) -> Iterator[Job]:
    """Yield the trainings of all optimisers and schedules, and some with twice the steps."""
    chapter = runs.chapter

    def trained(optimiser: str, schedule: str, steps: int, rates: Rates, seed: int) -> dict[str, Any]:
        kind = optimiser.partition(",")[0]
        found = chapter.contender(kind, schedule, rates[0], rates[-1], seed, steps)
        return found | {"tables": rates[-1]}

    for (optimiser, schedule), first in CONTENDERS.items():
        key = {"optimiser": optimiser, "schedule": schedule, "steps": chapter.STEPS}
        start = dict(zip(("matrices",) if optimiser == "AdamW" else ("matrices", "tables"), first, strict=False))
        make = functools.partial(trained, optimiser, schedule, chapter.STEPS)
        yield from searched(runs, "runs", key, start, make)
    for optimiser, schedule in LONGER:
        key = {"optimiser": optimiser, "schedule": schedule, "steps": chapter.STEPS}
        best = next(row for row in runs.rows() if key.items() <= row.items() and row["seed"] == chapter.SEEDS[0])
        rates = {name: best[name] for name in ("matrices", "tables")}
        for seed in chapter.SEEDS:
            longer = key | {"steps": 2 * chapter.STEPS} | rates | {"seed": seed}
            make = functools.partial(trained, optimiser, schedule, 2 * chapter.STEPS, tuple(rates.values()), seed)
            yield Job(make, longer, where=("runs",))


def masks(runs: Runs) -> Iterator[Job]:
    """Yield the trainings on windows of short documents, with and without a mask between them."""
    for kind in runs.chapter.MASKS:

        def make(rates: Rates, seed: int, kind: str = kind) -> dict[str, Any]:
            model = runs.chapter.train_packed(seed, kind, rates[0])
            return {split: runs.chapter.alone(model, split) for split in ("validation", "test")}

        yield from searched(runs, "masks", {"mask": kind}, {"rate": 0.008}, make)


def resumed(runs: Runs) -> Iterator[Job]:
    """Yield the trainings that are interrupted once, or every tenth part, and forget something."""
    chapter = runs.chapter
    once, often = chapter.STEPS // 2, chapter.STEPS // 10
    for seed, forgets, every in itertools.product(chapter.SEEDS, WAYS, (once, often)):
        if every == often and not forgets:  # what forgets nothing is the same however often it is interrupted
            continue

        def make(seed: int = seed, forgets: tuple[str, ...] = forgets, every: int = every) -> dict[str, Any]:
            return {"test": chapter.held_out_loss(chapter.interrupted(seed, forgets, every))}

        yield Job(make, {"forgets": list(forgets), "every": every, "seed": seed}, where=("resumed",))


def batches(runs: Runs) -> Iterator[Job]:
    """Yield the trainings with batches of several sizes."""
    for sizes in ((4,), (16,), (4, 16)):

        def make(rates: Rates, seed: int, sizes: tuple[int, ...] = sizes) -> dict[str, Any]:
            return dict(runs.chapter.grown(seed, sizes, rates[0]))

        yield from searched(runs, "batches", {"sizes": list(sizes)}, {"rate": 0.004}, make)


def jobs(runs: Runs, wanted: list[str]) -> Iterator[Job]:
    """Yield the runs of the wanted lists."""
    found = {"runs": contenders, "masks": masks, "resumed": resumed, "batches": batches}
    for name in wanted:
        yield from found[name](runs)


def main() -> None:
    """Search, train, record."""
    options = parser(__doc__)
    options.add_argument("--lists", nargs="+", choices=LISTS, default=LISTS, help="make the runs of these lists only")
    arguments = options.parse_args()
    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    runs.about |= {"data": corpora.describe(corpora.pydocs()), "steps": runs.chapter.STEPS}
    runs.go(jobs(runs, arguments.lists))


if __name__ == "__main__":
    main()
