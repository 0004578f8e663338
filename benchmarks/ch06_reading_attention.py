"""Chapter 6's longer experiments: `llmbook/results/reading_attention.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice: one layer, made
to train longer; on SmolLM2 heads removed by score and by chance, what the heads of its upper layers cost in a logit
difference, and what its tokens do; and a classifier's copies that are trained to agree with it while they attend
elsewhere. Runs that the file holds already, made by the same code, are kept: repeat the command until nothing is left
to do.

    python benchmarks/ch06_reading_attention.py
"""

import functools
import itertools
import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from llmbook import corpora, hub, results
from llmbook.transformer import Decoder
from recording import Job, Runs, parser

CHAPTER = "06-reading-attention"
PATH = results.FOLDER / "reading_attention.json"
MODEL = "smollm2-135m-instruct"
CONFIRM_BY = ("heads gifts 29", "by score 1 0")
LISTS = ("removed", "heads", "tokens", "adversaries", "one_layer")
LAYERS = range(10, 30)
COUNTS = (1, 4, 16)
STRENGTHS = (0.0, 0.2, 0.5)


def rounded(values: Tensor) -> Any:
    """Return a tensor as nested lists with five decimals."""
    return [rounded(value) for value in values] if values.ndim else round(float(values), 5)


class Real:
    """SmolLM2 with the texts that it is asked about."""

    def __init__(self, chapter: ModuleType) -> None:
        """Open the model and encode the texts."""
        self.chapter = chapter
        decoder, self.tokenizer = hub.pretrained(MODEL)
        assert isinstance(decoder, Decoder)
        self.decoder = decoder.to(chapter.rt.device).requires_grad_(False)
        self.gifts, self.names = chapter.gifts(self.tokenizer)

    @functools.cached_property
    def states(self) -> tuple[Tensor, ...]:
        """The states of all layers on the sentences about gifts."""
        return self.decoder.stack(self.decoder.embeddings(self.gifts)).hidden_states

    @functools.cached_property
    def by_score(self) -> list[tuple[int, int]]:
        """The heads by their induction score, the highest first."""
        ids = self.chapter.twice(4, 32, seed=0)
        weights = torch.stack(self.decoder.stack(self.decoder.embeddings(ids), output_attentions=True).attentions)
        scores = self.chapter.induction_score(weights, ids)  # (layers, heads)
        return [divmod(int(place), scores.shape[1]) for place in scores.flatten().argsort(descending=True)]

    def heads(self, texts: str, layer: int) -> dict[str, Any]:
        """Return by how much the logit difference falls without each head of a layer, for each sentence."""

        def measure(hidden: Tensor) -> Tensor:
            return -self.chapter.logit_difference(self.decoder, hidden, self.names)  # type: ignore[no-any-return]

        return {"costs": rounded(self.chapter.costs_of_layer(self.decoder, self.states, layer, measure))}

    def removed(self, chosen: str, count: int, draw: int) -> dict[str, Any]:
        """Return the nats on the second copy without some heads, on other texts than those that chose the heads."""
        rng, layers, width = random.Random(draw), self.decoder.config.num_layers, self.decoder.config.num_heads
        top = self.by_score[:count]
        if chosen == "anywhere":
            heads = rng.sample(list(itertools.product(range(layers), range(width))), count)
        elif chosen == "same layers":
            heads = []
            for layer in {layer for layer, _ in top}:
                wanted = sum(its_layer == layer for its_layer, _ in top)
                others = [(layer, head) for head in range(width) if (layer, head) not in top]
                heads += rng.sample(others, min(wanted, len(others)))
        else:
            heads = top
        ids = self.chapter.twice(3, 32, seed=10)
        with self.chapter.without(self.decoder, heads):
            hidden = self.decoder.stack(self.decoder.embeddings(ids)).last_hidden_state
            return {"removed": heads, "nats": float(self.chapter.nats(self.decoder, hidden, ids, 34).mean())}

    def tokens(self) -> dict[str, Any]:
        """Return by how much the logit difference falls when a token is a random one, mean over two draws."""
        decoder, chapter, shares = self.decoder, self.chapter, []

        def of_ids(ids: Tensor) -> Tensor:
            hidden = decoder.stack(decoder.embeddings(ids)).last_hidden_state
            return chapter.logit_difference(decoder, hidden, self.names)  # type: ignore[no-any-return]

        for seed in (1, 2):
            rng = chapter.rt.generator(seed)
            noise = torch.randint(1000, 40000, self.gifts.shape, generator=rng).to(self.gifts)
            noise[:, 0] = chapter.START
            shares.append(chapter.occlusion(of_ids, self.gifts, noise))
        return {"shares": rounded(sum(shares, torch.zeros(())) / len(shares))}


def one_layer(chapter: ModuleType, seed: int, learning_rate: float, steps: int) -> dict[str, Any]:
    """Train a model of one layer; return its loss on repeated letters of the chapter's test texts."""
    model = chapter.make_model(seed, num_layers=1)
    chapter.train(model, chapter.fresh(seed, steps), learning_rate)
    test, _ = chapter.repeats(128, chapter.LENGTH, chapter.rt.generator(99))
    return {"loss": float(chapter.token_losses(model, test)[:, chapter.AGAIN].mean())}


@functools.cache
def classified(chapter: ModuleType) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ids and labels of the texts to be classified, by split."""
    words = {"train": chapter.read_words("train", 900), "test": chapter.read_words("test", 100)}
    known = chapter.most_common(words["train"][0])
    return {split: (chapter.to_numbers(texts, known), labels) for split, (texts, labels) in words.items()}


@functools.cache
def base_model(chapter: ModuleType, reader: str, seed: int, learned: bool) -> Any:
    """Return a trained classifier."""
    return chapter.train_classifier(seed, reader, learned, *classified(chapter)["train"])


def adversaries(chapter: ModuleType, reader: str, seed: int) -> dict[str, Any]:
    """Return, on test texts, how far other models' predictions and weights are from a base model's.

    The others: the base with new attention, trained for each strength; uniform attention; the next seed's base.
    """
    base, (test_x, test_labels) = base_model(chapter, reader, seed, True), classified(chapter)["test"]

    def row(model: Any) -> dict[str, float]:
        moved, distance = chapter.compare(base, model, test_x)
        right = (model(test_x).argmax(1) == test_labels).float().mean()
        return {"moved": float(moved.mean()), "distance": float(distance.mean()), "accuracy": float(right)}

    trained = [
        {"strength": strength} | row(chapter.trained_adversary(base, seed, strength, classified(chapter)["train"][0]))
        for strength in STRENGTHS
    ]
    return {
        "base": row(base),
        "uniform": row(base_model(chapter, reader, seed, False)),
        "other seed": row(base_model(chapter, reader, (seed + 1) % 3, True)),
        "trained": trained,
    }


def jobs(chapter: ModuleType, wanted: list[str]) -> Iterator[Job]:
    """Yield the runs of the wanted lists."""
    real = functools.cache(lambda: Real(chapter))
    for chosen, count in itertools.product(("by score", "anywhere", "same layers"), COUNTS):
        for draw in range(1 if chosen == "by score" else 3):
            key = {"chosen": chosen, "count": count, "draw": draw}
            if "removed" in wanted:
                yield Job(lambda key=key: real().removed(**key), key, where=("removed",))
    for layer in LAYERS:
        key = {"texts": "gifts", "layer": layer}
        if "heads" in wanted:
            yield Job(lambda key=key: real().heads(**key), {"experiment": "heads", **key}, where=("heads",))
    if "tokens" in wanted:
        yield Job(lambda: real().tokens(), {"method": "occlusion"}, where=("tokens",))
    for reader, seed in itertools.product(("LSTM",), range(2)):
        key = {"reader": reader, "seed": seed}
        if "adversaries" in wanted:
            yield Job(lambda key=key: adversaries(chapter, **key), key, where=("adversaries",))
    for seed in range(2):
        key = {"seed": seed, "learning_rate": 5e-3, "steps": 2000}
        if "one_layer" in wanted:
            yield Job(lambda key=key: one_layer(chapter, **key), key, where=("one_layer",))


def main() -> None:
    """Train, take apart, record."""
    options = parser(__doc__)
    options.add_argument("--lists", nargs="+", choices=LISTS, default=LISTS, help="make the runs of these lists only")
    arguments = options.parse_args()
    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY, {"model": MODEL})
    runs.about |= {"data": corpora.describe(corpora.pydocs())}
    runs.go(jobs(runs.chapter, arguments.lists))


if __name__ == "__main__":
    main()
