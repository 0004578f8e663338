"""Chapter 4's schemes of positions trained longer than on the page: `llmbook/results/positions.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice:

- `order`: every scheme with positions, one layer, on the chapter's three questions; where the accuracy inside the
  training length stays below 0.95, one seed again with three times the steps;
- `language`: language models on the bytes of `pydocs` with two layers, trained on texts of 64, and some with a sliding
  window or trained on texts of 512; four of them again with four times the text.

Runs that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch04_positions.py
"""

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor

from llmbook import corpora, results
from recording import Job, Runs, parser

CHAPTER = "04-positions"
PATH = results.FOLDER / "positions.json"
CONVENTION = (
    "language: bytes of documents joined to one stream, windows of 512 bytes that begin every 64; for each place in a "
    "window the bits of the byte there, the same bytes at all places"
)
CONFIRM_BY = ("three back learned 0 1000", "sinusoidal 0 250000")
BATCH = 8
STEPS, BYTES = 1_000, 250_000
#: The language models: name, settings of the model, whether it is trained with four times the text as well.
LANGUAGE: dict[str, tuple[dict[str, Any], bool]] = {
    "none": ({"position": "none"}, False),
    "sinusoidal": ({"position": "sinusoidal"}, False),
    "learned": ({"position": "learned"}, False),
    "rope": ({"position": "rope"}, True),
    "alibi": ({"position": "alibi"}, True),
    "t5": ({"position": "t5"}, False),
    "rope, window 64": ({"position": "rope", "window": 64}, False),
    "rope, trained at 512": ({"position": "rope", "length": 512}, True),
    "alibi, trained at 512": ({"position": "alibi", "length": 512}, True),
}


def order_run(chapter: ModuleType, question: str, position: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one model to answer one question about order; return its accuracy by range and by bin of places."""
    values = chapter.accuracy(chapter.learn(question, position, seed, steps, batch=BATCH), question)
    return {**chapter.by_range(values), "curve": chapter.binned(values)}


def language_run(
    chapter: ModuleType, model: str, seed: int, text: Tensor, held_out: Tensor, layers: int
) -> dict[str, Any]:
    """Train one language model; return its bits per byte in each bin of places."""
    settings = LANGUAGE[model][0]
    trained = chapter.language_model(seed=seed, stream=text, batch=BATCH, num_layers=layers, **settings)
    bits = chapter.binned(chapter.bits(trained, held_out))
    return {"parameters": sum(p.numel() for p in trained.parameters()), "bits_per_byte": bits}


def jobs(chapter: ModuleType, runs: Runs, text: Tensor, held_out: Tensor, layers: int) -> Iterator[Job]:
    """Yield the questions about order and the language models, then longer runs of some."""

    def order(question: str, position: str, seed: int, steps: int) -> Job:
        key = {"question": question, "position": position, "seed": seed, "steps": steps}
        return Job(lambda: order_run(chapter, **key), key, where=("order",))

    def language(model: str, seed: int, size: int) -> Job:
        key = {"model": model, "seed": seed, "bytes": size}
        return Job(lambda: language_run(chapter, model, seed, text[:size], held_out, layers), key, where=("language",))

    schemes = [position for position in chapter.SCHEMES if position != "none"]
    for seed, position, question in itertools.product(chapter.SEEDS, schemes, chapter.QUESTIONS):
        yield order(question, position, seed, STEPS)
    for seed, model in itertools.product(chapter.SEEDS, LANGUAGE):
        yield language(model, seed, BYTES)
    undecided = {(run["question"], run["position"]) for run in runs.rows("order") if run["1-64"] < 0.95}
    for question, position in sorted(undecided):
        yield order(question, position, 0, 3 * STEPS)
    for model, (_, again) in LANGUAGE.items():
        if again:
            yield language(model, 0, 4 * BYTES)


def main() -> None:
    """Train, test, record."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=2, help="layers of the language models")
    options.add_argument("--only", choices=("order", "language"), help="make the runs of one list")
    options.add_argument("--seed", type=int, help="make the runs of one seed")
    arguments = options.parse_args()

    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY, {"layers": arguments.layers})
    chapter = runs.chapter
    docs = corpora.pydocs()
    runs.about |= {"data": corpora.describe(docs), "edges": chapter.EDGES, "convention": CONVENTION}
    docs = docs.shuffle(seed=0)
    text = chapter.byte_stream(docs["train"]["text"], 4 * BYTES)
    held_out = chapter.byte_stream(docs["test"]["text"], chapter.HELD_OUT)
    found = jobs(chapter, runs, text, held_out, arguments.layers)
    runs.go(
        job
        for job in found
        if arguments.only in (None, job.where[0]) and arguments.seed in (None, job.keys[0].get("seed"))
    )


if __name__ == "__main__":
    main()
