"""Chapter 5's two places of a norm, and what a real model loses without its parts: `llmbook/results/transformer.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Stacks of two,
four and eight blocks with the norm before or after each part are trained at the page's rates, with and without warm-up.
Then SmolLM2-135M-Instruct loses one part of one block after the other, is read through its head after each block, and
answers the chapter's questions. Runs that the file holds already, made by the same code, are kept: repeat the command
until nothing is left to do.

    python benchmarks/ch05_transformer.py
"""

import itertools
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from llmbook import corpora, hub, results
from recording import Job, Runs, parser

CHAPTER = "05-transformer"
PATH = results.FOLDER / "transformer.json"
CONFIRM_BY = ("norms post-norm 2 150", "feed-forward 29")
STEPS = 150


def sweep(chapter: ModuleType, arrange: Any, **settings: Any) -> dict[str, Any]:
    """Train one stack with every rate and warm-up; return a row ``[seed, rate, warm-up, bits]`` for each run."""
    return {"rows": chapter.train_many(arrange, **settings).values.tolist()}


def norms(chapter: ModuleType) -> Iterator[Job]:
    """Yield the stacks of two, four and eight blocks, with the norm before or after each part."""
    arrangements = {"post-norm": chapter.post_norm, "pre-norm": chapter.block}
    for depth, (name, arrange) in itertools.product((2, 4, 8), arrangements.items()):
        key = {"experiment": "norms", "name": name, "depth": depth, "steps": STEPS}
        settings = {"rates": chapter.RATES, "warmups": (1, chapter.WARM), "depth": depth, "steps": STEPS}
        yield Job(lambda a=arrange, s=settings: sweep(chapter, a, **s), key, where=("small",))


def real(chapter: ModuleType) -> Iterator[Job]:
    """Yield what is done to the real model."""

    @cache
    def opened() -> tuple[Any, Any, Any, list[Any]]:
        model, tokenizer = hub.pretrained("smollm2-135m-instruct")
        ids = chapter.some_texts(tokenizer, corpora.held_out())
        model = model.to(chapter.rt.device)
        return model, tokenizer, ids, chapter.run_blocks(model, model.embeddings(ids))

    def lens(state: int) -> dict[str, Any]:
        model, _, ids, states = opened()
        guess = chapter.read_out(model, states[state][:, :-1]).argmax(-1)  # (batch, time - 1)
        return {
            "bits": chapter.bits_per_token(model, states[state], ids).tolist(),
            "says the next token": guess.eq(ids[:, 1:]).double().mean().item(),
            "says its own token": guess.eq(ids[:, :-1]).double().mean().item(),
            "size": states[state].square().mean(-1).sqrt().median().item(),
        }

    def without(what: str, block: int) -> dict[str, Any]:
        model, _, ids, states = opened()
        return {"bits": chapter.removal(model, ids, states, what, block).tolist()}

    def answered(question: str) -> dict[str, Any]:
        model, tokenizer, *_ = opened()
        return {"answer": chapter.answer(model, tokenizer, question)}

    blocks = range(30)
    for state in range(len(blocks) + 1):
        yield Job(lambda state=state: lens(state), {"state": state}, where=("lens",))
    for what in chapter.REMOVED:
        for block in blocks if what == "block" else (0, 1, *blocks[2::3]):
            key = {"what": what, "block": block}
            yield Job(lambda what=what, block=block: without(what, block), key, where=("removed",))
    for question in chapter.QUESTIONS:
        yield Job(lambda question=question: answered(question), {"question": question}, where=("answers",))


GROUPS = {"norms": norms, "real": real}


def main() -> None:
    """Train, take out, record."""
    options = parser(__doc__)
    options.add_argument("--only", choices=GROUPS, help="one group of the runs")
    arguments = options.parse_args()
    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    runs.about |= {"data": corpora.describe(corpora.pydocs())}
    wanted = [arguments.only] if arguments.only else list(GROUPS)
    runs.go(job for name in wanted for job in GROUPS[name](runs.chapter))


if __name__ == "__main__":
    main()
