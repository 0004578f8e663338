"""Chapter 7's longer experiments: `llmbook/results/data_pipeline.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript): small models trained on a crawl of the
installed packages, raw, filtered and without near-copies, at equal tokens; and SmolLM2's judgement of documents of the
crawl. The crawl is of the machine that runs this.

    python benchmarks/ch07_data_pipeline.py
"""

import functools
import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from llmbook import corpora, metrics, ngram, pipeline, results, tokenization
from recording import Job, Runs, parser

CHAPTER = "07-data"
PATH = results.FOLDER / "data_pipeline.json"
CONFIRM_BY = ("both 160000 0 5-grams",)
LISTS = ("rates", "pipeline", "judged")
SEEDS = range(3)
RATES_AT, NETWORK_AT = 80_000, 160_000  # tokens; each arm's rate is chosen with seed 0 at the first
TABLES_AT = (80_000, 160_000, 320_000)


class Data:
    """The crawl with what the chapter counts of it, and the texts that models are tested on, as tokens."""

    def __init__(self, chapter: ModuleType) -> None:
        """Crawl, measure, find near-copies, encode."""
        self.chapter = chapter
        docs = corpora.pydocs()
        self.clean = list(docs["train"].shuffle(seed=0)["text"][:8000])
        self.crawled = sorted((row for row in chapter.crawl() if row["text"].strip()), key=lambda row: row["id"])
        self.texts = [row["text"] for row in self.crawled]
        tokenizer = tokenization.train_byte_bpe(self.clean[:3000], chapter.V)
        self.encode = functools.partial(tokenization.encode_documents, tokenizer)
        self.encoded = self.encode(self.texts)
        self.sizes = np.array([len(ids) for ids in self.encoded])
        self.first = np.array(pipeline.components(len(self.texts), chapter.near_copies(self.texts)))
        measured = [pipeline.statistics(text) for text in self.texts]
        self.passes = np.array([not pipeline.failures(row, pipeline.ENGLISH[:6]) for row in measured])
        self.validation = self.encode(docs["validation"].shuffle(seed=0)["text"][:75])
        self.pydocs = self.of(docs["test"].shuffle(seed=0)["text"][:150])
        self.split = functools.cache(self._split)

    def of(self, texts: list[str]) -> tuple[list[np.ndarray], int]:
        """Return texts as tokens, and their bytes."""
        return self.encode(texts), sum(len(text.encode()) for text in texts)

    def _split(self, seed: int) -> tuple[np.ndarray, dict[str, tuple[list[np.ndarray], int]]]:
        """Return training documents in random order, and the tests: one cluster in five is held out."""
        rng = np.random.default_rng(seed)
        held = (rng.random(len(self.first)) < 0.2)[self.first]
        order = rng.permutation(np.flatnonzero(~held))
        rest = rng.permutation(self.chapter.one_each(np.flatnonzero(held), self.first))
        return order, {
            "pydocs": self.pydocs,
            "crawl, passes": self.of([self.texts[i][:2000] for i in rest[self.passes[rest]][:80]]),
            "crawl, fails": self.of([self.texts[i][:2000] for i in rest[~self.passes[rest]][:80]]),
        }

    def documents(self, arm: str, seed: int, budget: int) -> list[np.ndarray]:
        """Return the documents of an arm."""
        chosen = self.chapter.training_text(arm, self.split(seed)[0], self.first, self.passes, self.sizes, budget)
        return [self.encoded[i] for i in chosen]


def scores(data: Data, text: str, budget: int, seed: int, model: str, rate: float | None) -> dict[str, Any]:
    """Train a model on an arm's documents; return tokens, documents and bits per byte on each test."""
    chapter, documents = data.chapter, data.documents(text, seed, budget)
    if model == "network":
        network = chapter.train(documents, seed, rate)
    elif model == "5-grams":
        table = ngram.KneserNey(ngram.NGramCounts(documents, chapter.V, 5), 5)
    made: dict[str, Any] = {"rate": rate, "tokens": sum(map(len, documents)), "documents": len(documents), "bits": {}}
    for test, (ids, size) in data.split(seed)[1].items():
        if model == "network":
            values = -chapter.nats(network, ids)
        else:
            values = table.log_prob(ids) if model == "5-grams" else chapter.unigram(documents, ids)
        made["bits"][test] = round(float(metrics.bits_per_byte(values, size)), 5)
    return made


def validated(data: Data, documents: list[np.ndarray], rate: float) -> dict[str, Any]:
    """Return a network's loss on validation documents of `pydocs`, in nats per token."""
    chapter = data.chapter
    loss = chapter.nats(chapter.train(documents, 0, rate), data.validation).mean()
    return {"nats": round(float(loss), 5)}


def judged(data: Data, count: int = 60, length: int = 400) -> list[dict[str, Any]]:
    """Return SmolLM2's, the 5-gram filter's and zlib's bits per byte for the beginnings of documents of the crawl."""
    rng = np.random.default_rng(0)
    alone = np.unique(data.first)
    long = [int(i) for i in rng.permutation(alone) if len(data.texts[i]) >= length][:count]
    texts = [data.texts[i][:length] for i in long]
    scorer = pipeline.PerplexityScorer(data.clean[2000:4500])
    logs = [scorer.model.log_prob(tokenization.encode_documents(scorer.tokenizer, [text])) for text in texts]
    table = [float(metrics.bits_per_byte(log, len(text.encode()))) for log, text in zip(logs, texts, strict=True)]
    smollm = data.chapter.bits_of_smollm(texts)
    return [
        {
            "document": data.crawled[i]["id"],
            "passes": bool(data.passes[i]),
            "5-grams": round(table[place], 4),
            "SmolLM2": round(float(smollm[place]), 4),
            "zlib": round(data.chapter.compressed(texts[place]), 4),
        }
        for place, i in enumerate(long)
    ]


def best(runs: Runs, text: str) -> float:
    """Return the rate with the lowest validation loss among the recorded runs of an arm."""
    found = [run for run in runs.rows("rates") if run["text"] == text]
    return float(min(found, key=lambda run: run["nats"])["rate"])


def jobs(runs: Runs, wanted: list[str]) -> Iterator[Job]:
    """Yield the runs of the wanted lists; rates come first, since the networks use the best ones."""
    chapter = runs.chapter
    data = functools.cache(lambda: Data(chapter))
    for text, rate in itertools.product(chapter.ARMS, chapter.RATES):
        key = {"text": text, "budget": RATES_AT, "rate": rate}
        if "rates" in wanted:
            yield Job(
                lambda key=key: validated(data(), data().documents(key["text"], 0, RATES_AT), key["rate"]),
                key, where=("rates",),
            )  # fmt: skip
    models = [(NETWORK_AT, "network")] + [(budget, name) for budget in TABLES_AT for name in ("5-grams", "unigrams")]
    for (budget, model), text, seed in itertools.product(models, chapter.ARMS, SEEDS):
        key = {"text": text, "budget": budget, "seed": seed, "model": model}
        if "pipeline" in wanted:
            yield Job(
                lambda key=key: scores(
                    data(), **key, rate=best(runs, key["text"]) if key["model"] == "network" else None
                ),
                key, where=("pipeline",),
            )  # fmt: skip
    if "judged" in wanted:
        yield Job(lambda: {"documents": judged(data())}, {"length": 400}, where=("judged",))


def main() -> None:
    """Train, score, record."""
    options = parser(__doc__)
    options.add_argument("--lists", nargs="+", choices=LISTS, default=LISTS, help="make the runs of these lists only")
    arguments = options.parse_args()
    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    runs.about |= {"data": corpora.describe(corpora.pydocs())}
    runs.go(jobs(runs, arguments.lists))


if __name__ == "__main__":
    main()
