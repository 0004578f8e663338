"""Chapter 2's three families with more passes over the text: `llmbook/results/three_families.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Every family is
trained for each number of passes from each seed, and fills the chapter's held-out gaps in each of the chapter's ways.
Runs that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch02_three_families.py --passes 1 3 10
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch

from llmbook import corpora, results
from recording import Job, Runs, parser

CHAPTER = "02-three-families"
PATH = results.FOLDER / "three_families.json"
CONFIRM_BY = ("autoregressive, left side only 1 0", "autoencoding 1 0", "sequence-to-sequence 1 0")


def family_runs(chapter: ModuleType, name: str, passes: int, seed: int) -> list[dict[str, Any]]:
    """Train one family; return the share of gaps that it fills, for each way of asking it."""
    torch.manual_seed(seed)
    rt = chapter.rt
    model = chapter.Backbone(chapter.V, chapter.WIDTH, chapter.LAYERS).to(rt.device)
    start = time.perf_counter()
    batches = chapter.stream(chapter.FAMILIES[name], chapter.train, passes, rt.generator(seed))
    chapter.train_model(model, batches)
    seconds = time.perf_counter() - start
    model.eval()
    size = {"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}
    shares = [chapter.fill_gaps(model, fill).eq(chapter.answers) for fill in ways(chapter, name).values()]
    return [{"gaps": right.double().mean().item(), **size} for right in shares]


def ways(chapter: ModuleType, name: str) -> dict[str, Any]:
    """Return the chapter's ways of asking a family for a gap."""
    return {method: fill for method, (family, fill) in chapter.METHODS.items() if family == name}


def jobs(chapter: ModuleType, passes: Sequence[int]) -> Iterator[Job]:
    """Yield a job for each training; it makes a run for each way of asking."""
    for count, name, seed in itertools.product(passes, chapter.FAMILIES, chapter.SEEDS):
        keys = [{"method": method, "passes": count, "seed": seed} for method in ways(chapter, name)]
        yield Job(lambda name=name, count=count, seed=seed: family_runs(chapter, name, count, seed), *keys)


def main() -> None:
    """Train, fill gaps, record."""
    options = parser(__doc__)
    options.add_argument("--passes", type=int, nargs="+", default=[1, 3, 10], help="how often the text is seen")
    arguments = options.parse_args()

    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    train = runs.chapter.train
    runs.about |= {"data": corpora.describe(runs.chapter.docs), "sentences": len(train)}
    runs.about |= {"words": sum(map(len, train)), "gaps": len(runs.chapter.answers)}
    runs.go(jobs(runs.chapter, sorted(arguments.passes)))


if __name__ == "__main__":
    main()
