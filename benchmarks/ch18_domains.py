"""Chapter 18's trainings, one field against another: `llmbook/results/domains.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript). Specialists of six fields, generalists that
have not read the target field, their adaptation with several shares of replay and learning rates, and `pydocs-gpt`
adapted, each from three seeds. The models stay in `--work`; then each of them answers the chapter's benchmark. Runs
that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch18_domains.py --minutes 4
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors.torch import load_model, save_model
from transformers import PreTrainedTokenizerFast

from llmbook import corpora, hub, results, tokenization, transformer
from llmbook.evaluation import domain_items, retrieval
from llmbook.evaluation.scoring import score_choices
from recording import Job, Runs, parser

CHAPTER = "18-vertical-domains"
PATH = results.FOLDER / "domains.json"
CONFIRM_BY = ("specialist graphs 0", "shipped 1")
SHARES = (0.0, 0.25, 0.5, 1.0)
RATES = (0.1, 1.0)  # beside 0.3, with which the shares are compared


def parts(chapter: ModuleType) -> list[tuple[str, tuple[Any, ...]]]:
    """Return all runs as (part, key), in the order in which they are made."""
    seeds, target = chapter.SEEDS, chapter.TARGET
    general = [("general", (seed,)) for seed in seeds]
    shared = [("adapted", (share, 0.3, seed)) for seed in seeds for share in SHARES]
    home = [("specialist", (target, seed)) for seed in seeds]
    rates = [("adapted", (0.0, rate, seed)) for seed in seeds for rate in RATES]
    others = [("specialist", (name, seed)) for seed in seeds for name in chapter.FIELDS if name != target]
    larger = [("shipped", (seed,)) for seed in seeds]
    asked = [*general, *(job for job in shared if job[1][0] in (0.0, 0.25)), *home]
    found = [*general, *shared, *home, *((("answers", (*job_key(job), "plain"))) for job in asked), *rates, *others]
    looked = [*general, *(job for job in shared if job[1][0] == 0.0), ("pydocs-gpt", ())]
    found += [("answers", (*job_key(job), "retrieval")) for job in looked]
    found += [("answers", ("pydocs-gpt", "plain")), *larger]
    return found + [("answers", (*job_key(job), "plain")) for job in larger]


def jobs(chapter: ModuleType, work: Path) -> Iterator[Job]:
    """Yield all runs; their models are kept in a folder, from which later ones read them."""
    for part, key in parts(chapter):
        does = answered if part == "answers" else trained
        yield Job(
            lambda part=part, key=key, does=does: does(chapter, work, part, key), {"part": part, "key": list(key)}
        )


def job_key(job: tuple[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return what names a model in the key of its answers."""
    return (job[0], *job[1])


def file_of(work: Path, part: str, key: tuple[Any, ...]) -> Path:
    """Return where a model's weights are kept."""
    name = "-".join([part, *(str(value).replace(" ", "_") for value in key)])
    return work / f"{name}.safetensors"


def trained(chapter: ModuleType, work: Path, part: str, key: tuple[Any, ...]) -> dict[str, Any]:
    """Train one model, keep it and measure it."""
    target, tests, bits = chapter.TARGET, chapter.tests, chapter.bits
    start = time.process_time()
    using = chapter.tokenizer
    if part == "specialist":
        model = chapter.specialist(*key)
    elif part == "general":
        model = chapter.generalist(*key)
    elif part == "adapted":
        share, rate, seed = key
        before = transformer.Decoder(chapter.SHAPE)
        load_model(before, file_of(work, "general", (seed,)))
        model = chapter.adapted(before, seed, share, rate)
    else:
        before, using = hub.pretrained("pydocs-gpt")
        model = chapter.adapted_shipped(before, using, *key)
    seconds = time.process_time() - start
    run: dict[str, Any] = {"seconds": round(seconds, 1)}
    if part == "specialist":
        run["bits"] = {name: bits(model, tests[name]) for name in chapter.FIELDS}
    else:
        run["bits"] = {target: bits(model, tests[target], using)}
        run["bits"]["general"] = bits(model, chapter.general_test, using)
    save_model(model, file_of(work, part, key))
    return run


def answered(chapter: ModuleType, work: Path, _: str, named: tuple[Any, ...]) -> dict[str, Any]:
    """Let a model answer the benchmark, with or without a passage in front of each question."""
    part, *key, how = named
    target = chapter.TARGET
    rows = [row for row in corpora.pydocs()["test"] if row["topic"] == target]
    benchmark = domain_items.domain_benchmark(target, rows)
    if part in ("pydocs-gpt", "shipped"):
        model, tokenizer = hub.pretrained("pydocs-gpt")
    else:
        model = transformer.Decoder(chapter.SHAPE)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=chapter.tokenizer,
            eos_token=tokenization.END_OF_TEXT,
            pad_token=tokenization.END_OF_TEXT,
        )
    if part != "pydocs-gpt":
        load_model(model, file_of(work, part, tuple(key)))
    items = benchmark.items
    if how == "retrieval":
        found = retrieval.passages(chapter.fields[target].train)
        index = retrieval.BM25(found)
        items = tuple(
            replace(item, prompt=found[index.search(item.prompt, 1)[0].place] + "\n\n" + item.prompt) for item in items
        )
    with chapter.rt.autocast():
        scores = score_choices(model.eval(), tokenizer, benchmark, items=items, start=True)
    right = "".join(str(int(value)) for value in scores.correct())
    chosen = "".join(map(str, scores.predictions()))
    return {"version": benchmark.version, "right": right, "chosen": chosen}


def main() -> None:
    """Make what is missing, record."""
    options = parser(__doc__)
    options.add_argument("--work", type=Path, default=Path("/tmp/llmbook-domains"), help="where the models are kept")
    arguments = options.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    runs.about |= {"data": corpora.describe(corpora.pydocs()), "convention": runs.chapter.APART.describe()}
    runs.go(jobs(runs.chapter, arguments.work))


if __name__ == "__main__":
    main()
