"""Chapter 4's schemes of positions in larger models, trained longer: `llmbook/results/positions.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Every scheme,
T5's buckets included, is trained on texts of 64 tokens and tested up to 512: on the chapter's three questions about
order, and as a language model on the bytes of `pydocs`. Runs that the file holds already, made by the same code, are
kept: repeat the command until nothing is left to do.

    python benchmarks/ch04_positions.py --layers 2 --steps 400 --bytes 1000000
"""

import itertools
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor

from llmbook import corpora, results
from recording import Job, Runs, parser

CHAPTER = "04-positions"
PATH = results.FOLDER / "positions.json"
CONVENTION = (
    "bytes of documents joined to one stream, windows of 512 bytes that begin every 64; for each place in a window the "
    "bits of the byte there, the same bytes at all places"
)
CONFIRM_BY = ("three back learned 0", "sinusoidal 0")
BATCH = 8


def order_run(chapter: ModuleType, question: str, position: str, seed: int, steps: int, layers: int) -> dict[str, Any]:
    """Train one model to answer one question about order; return its accuracy by range of places."""
    start = time.perf_counter()
    model = chapter.learn(question, position, seed, steps, batch=BATCH, num_layers=layers)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, **chapter.by_range(chapter.accuracy(model, question))}


def language_run(
    chapter: ModuleType, position: str, seed: int, text: Tensor, held_out: Tensor, layers: int
) -> dict[str, Any]:
    """Train one language model; return its bits per byte in each bin of places."""
    start = time.perf_counter()
    model = chapter.language_model(position, seed, text, batch=BATCH, num_layers=layers)
    seconds = time.perf_counter() - start
    bits = chapter.binned(chapter.bits(model, held_out))
    return {"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters()), "bits_per_byte": bits}


def jobs(chapter: ModuleType, text: Tensor, held_out: Tensor, steps: int, layers: int) -> Iterator[Job]:
    """Yield the questions about order, then the language models."""
    schemes = (*chapter.SCHEMES, "t5")
    for question, position, seed in itertools.product(chapter.QUESTIONS, schemes, chapter.SEEDS):
        key = {"question": question, "position": position, "seed": seed}
        yield Job(lambda key=key: order_run(chapter, **key, steps=steps, layers=layers), key, where=("order",))
    for position, seed in itertools.product(schemes, chapter.SEEDS):
        key = {"position": position, "seed": seed}
        yield Job(
            lambda key=key: language_run(chapter, **key, text=text, held_out=held_out, layers=layers),
            key, where=("language",),
        )  # fmt: skip


def main() -> None:
    """Train, test, record."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=2, help="layers of the models")
    options.add_argument("--steps", type=int, default=400, help="training steps for a question about order")
    options.add_argument("--bytes", type=int, default=1_000_000, help="size of the language models' training text")
    arguments = options.parse_args()

    settings = {"layers": arguments.layers, "steps": arguments.steps, "bytes": arguments.bytes}
    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY, settings)
    chapter = runs.chapter
    docs = corpora.pydocs()
    runs.about |= {"data": corpora.describe(docs), "edges": chapter.EDGES, "convention": CONVENTION}
    docs = docs.shuffle(seed=0)
    text = chapter.byte_stream(docs["train"]["text"], arguments.bytes)
    held_out = chapter.byte_stream(docs["test"]["text"], chapter.HELD_OUT)
    runs.go(jobs(chapter, text, held_out, arguments.steps, arguments.layers))


if __name__ == "__main__":
    main()
