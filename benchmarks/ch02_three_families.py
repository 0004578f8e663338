"""Chapter 2's families by learning rate, and by passes: `llmbook/results/three_families.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. First each
family is trained at each rate and judged by its own task on the validation sentences; the best rate of each is the one
that the chapter uses. With `--only runs` every family is then trained for each number of passes from each seed, and
fills the chapter's held-out gaps in each of the chapter's ways. Runs that the file holds already, made by the same
code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch02_three_families.py --only rates
"""

import itertools
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from llmbook import corpora, results
from recording import Job, Runs, parser

CHAPTER = "02-three-families"
PATH = results.FOLDER / "three_families.json"
CONFIRM_BY = ("autoencoding 0.008",)


def trained(chapter: ModuleType, make: Any, passes: int, seed: int, rate: float) -> Any:
    """Return the chapter's network, trained on a family's batches."""
    model = chapter.new_model(seed)
    batches = chapter.stream(make, chapter.train, passes, chapter.rt.generator(seed))
    chapter.train_model(model, batches, rate)
    return model.eval()


def gaps_filled(chapter: ModuleType, model: Any, way: Any) -> float:
    """Return the share of the held-out gaps that a model fills in some way."""
    return float(chapter.fill_gaps(model, way).eq(chapter.answers).double().mean())


def trial(chapter: ModuleType, name: str, rate: float) -> dict[str, Any]:
    """Train one family at one rate; return the bits of its own task on the validation sentences."""
    make = chapter.FAMILIES[name]
    model = trained(chapter, make, chapter.PASSES, 0, rate)
    return {"bits": chapter.validation_bits(model, make), "parameters": sum(p.numel() for p in model.parameters())}


def family_runs(chapter: ModuleType, name: str, passes: int, seed: int, rate: float) -> list[dict[str, Any]]:
    """Train one family; return the share of gaps that it fills, for each way of asking it."""
    model = trained(chapter, chapter.FAMILIES[name], passes, seed, rate)
    scores = chapter.SCORES[name]
    total = sum(scores(model, x).sum().item() for _, x in chapter.by_length(chapter.held_out))
    nats = -total / sum(map(len, chapter.held_out))
    return [{"gaps": gaps_filled(chapter, model, way), "nats": nats} for way in ways(chapter, name).values()]


def ways(chapter: ModuleType, name: str) -> dict[str, Any]:
    """Return the chapter's ways of asking a family for a gap."""
    return {method: fill for method, (family, fill) in chapter.METHODS.items() if family == name}


PARTS = ("rates", "runs")


def jobs(runs: Runs, passes: Sequence[int], parts: Sequence[str] = PARTS) -> Iterator[Job]:
    """Yield a job for each training; it makes a run for each way of asking."""
    yield from (job for job in all_jobs(runs, passes) if job.where[0] in parts)


def all_jobs(runs: Runs, passes: Sequence[int]) -> Iterator[Job]:
    """Yield the jobs of all parts; those after the rates need them."""
    chapter = runs.chapter
    for name, rate in itertools.product(chapter.FAMILIES, chapter.RATES):
        key = {"family": name, "rate": rate}
        yield Job(lambda name=name, rate=rate: trial(chapter, name, rate), key, where=("rates",))
    best = chapter.best_rates(runs.rows("rates"))
    for count, seed, name in itertools.product(passes, chapter.SEEDS, chapter.FAMILIES):
        keys = [{"method": method, "passes": count, "seed": seed} for method in ways(chapter, name)]
        yield Job(lambda name=name, count=count, seed=seed: family_runs(chapter, name, count, seed, best[name]), *keys)


def main() -> None:
    """Train, fill gaps, record."""
    options = parser(__doc__)
    options.add_argument("--passes", type=int, nargs="+", default=[6], help="how often the text is seen")
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the record")
    arguments = options.parse_args()

    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    train = runs.chapter.train
    runs.about |= {"data": corpora.describe(runs.chapter.docs), "sentences": len(train)}
    runs.about |= {"words": sum(map(len, train)), "gaps": len(runs.chapter.answers)}
    runs.go(jobs(runs, sorted(arguments.passes), arguments.only))


if __name__ == "__main__":
    main()
