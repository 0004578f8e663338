"""Chapter 18's trainings, one field against another: `llmbook/results/domains.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript). Specialists of six fields, generalists that
have not read the target field, their adaptation with several shares of replay and learning rates, and `pydocs-gpt`
adapted, each from three seeds. The models stay in `--work`; then each of them answers the chapter's benchmark. Runs
that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch18_domains.py --minutes 4
"""

import argparse
import copy
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import disable_progress_bars
from safetensors.torch import load_model, save_model
from transformers import PreTrainedTokenizerFast

from llmbook import corpora, hub, runtime, tokenization, training, transformer
from llmbook.evaluation import domain_items, domains, likelihood, retrieval
from llmbook.evaluation.scoring import score_choices
from recording import ROOT, go_on, origin, run_engine, write

LIBRARY = {
    "copy": copy, "np": np, "torch": torch, "corpora": corpora, "tokenization": tokenization, "training": training,
    "transformer": transformer, "domains": domains, "hub": hub, "likelihood": likelihood, "replace": replace,
}  # fmt: skip
PATH = ROOT / "llmbook" / "results" / "domains.json"
SHARES = (0.0, 0.25, 0.5, 1.0)
RATES = (0.1, 1.0)  # beside 0.3, with which the shares are compared


def jobs(chapter: dict) -> list[tuple[str, tuple]]:
    """Return all runs as (part, key), in the order in which they are made."""
    seeds, target = chapter["SEEDS"], chapter["TARGET"]
    general = [("general", (seed,)) for seed in seeds]
    shared = [("adapted", (share, 0.3, seed)) for seed in seeds for share in SHARES]
    home = [("specialist", (target, seed)) for seed in seeds]
    rates = [("adapted", (0.0, rate, seed)) for seed in seeds for rate in RATES]
    others = [("specialist", (name, seed)) for seed in seeds for name in chapter["FIELDS"] if name != target]
    larger = [("shipped", (seed,)) for seed in seeds]
    asked = [*general, *(job for job in shared if job[1][0] in (0.0, 0.25)), *home]
    found = [*general, *shared, *home, *((("answers", (*job_key(job), "plain"))) for job in asked), *rates, *others]
    looked = [*general, *(job for job in shared if job[1][0] == 0.0), ("pydocs-gpt", ())]
    found += [("answers", (*job_key(job), "retrieval")) for job in looked]
    found += [("answers", ("pydocs-gpt", "plain")), *larger]
    return found + [("answers", (*job_key(job), "plain")) for job in larger]


def job_key(job: tuple[str, tuple]) -> tuple:
    """Return what names a model in the key of its answers."""
    return (job[0], *job[1])


def file_of(work: Path, part: str, key: tuple) -> Path:
    """Return where a model's weights are kept."""
    name = "-".join([part, *(str(value).replace(" ", "_") for value in key)])
    return work / f"{name}.safetensors"


def make(chapter: dict, work: Path, part: str, key: tuple) -> tuple[transformer.Decoder, dict]:
    """Train one model and measure it."""
    target, tests, bits = chapter["TARGET"], chapter["tests"], chapter["bits"]
    start = time.process_time()
    using = chapter["tokenizer"]
    if part == "specialist":
        model = chapter["specialist"](*key)
    elif part == "general":
        model = chapter["generalist"](*key)
    elif part == "adapted":
        share, rate, seed = key
        before = transformer.Decoder(chapter["SHAPE"])
        load_model(before, file_of(work, "general", (seed,)))
        model = chapter["adapted"](before, seed, share, rate)
    else:
        before, using = hub.pretrained("pydocs-gpt")
        model = chapter["adapted_shipped"](before, using, *key)
    seconds = time.process_time() - start
    run = {"part": part, "key": list(key), "seconds": round(seconds, 1)}
    if part == "specialist":
        run["bits"] = {name: bits(model, tests[name]) for name in chapter["FIELDS"]}
    else:
        run["bits"] = {target: bits(model, tests[target], using)}
        run["bits"]["general"] = bits(model, chapter["general_test"], using)
    return model, run


def answers(chapter: dict, work: Path, part: str, key: tuple, how: str) -> dict:
    """Let a model answer the benchmark, with or without a passage in front of each question."""
    target = chapter["TARGET"]
    rows = [row for row in corpora.pydocs()["test"] if row["topic"] == target]
    benchmark = domain_items.domain_benchmark(target, rows)
    if part in ("pydocs-gpt", "shipped"):
        model, tokenizer = hub.pretrained("pydocs-gpt")
    else:
        model = transformer.Decoder(chapter["SHAPE"])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=chapter["tokenizer"],
            eos_token=tokenization.END_OF_TEXT,
            pad_token=tokenization.END_OF_TEXT,
        )
    if part != "pydocs-gpt":
        load_model(model, file_of(work, part, key))
    items = benchmark.items
    if how == "retrieval":
        found = retrieval.passages(chapter["fields"][target].train)
        index = retrieval.BM25(found)
        items = tuple(
            replace(item, prompt=found[index.search(item.prompt, 1)[0].place] + "\n\n" + item.prompt) for item in items
        )
    with torch.autocast("cpu", torch.bfloat16):
        scores = score_choices(model.eval(), tokenizer, benchmark, items=items, start=True)
    right = "".join(str(int(value)) for value in scores.correct())
    return {
        "part": "answers", "key": [part, *key, how], "version": benchmark.version, "right": right,
        "chosen": "".join(map(str, scores.predictions())),
    }  # fmt: skip


def main() -> None:
    """Make what is missing, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this time")
    parser.add_argument("--work", type=Path, default=Path("/tmp/llmbook-domains"), help="where the models are kept")
    arguments = parser.parse_args()
    begin, record = time.monotonic(), origin()
    arguments.work.mkdir(parents=True, exist_ok=True)
    disable_progress_bars()
    rt = runtime.setup()
    chapter = run_engine("18-vertical-domains", LIBRARY | {"rt": rt})
    runs = go_on(PATH, record, chapter["engine_sha256"])
    convention = chapter["APART"].describe()
    record |= {"device": str(rt), "data": corpora.describe(corpora.pydocs()), "convention": convention}
    done = {(run["part"], tuple(run["key"])) for run in runs}
    for part, key in jobs(chapter):
        if (part, key) in done:
            continue
        if time.monotonic() - begin > 60 * arguments.minutes:
            break
        if part == "answers":
            run = answers(chapter, arguments.work, key[0], key[1:-1], key[-1])
            print(part, *key, round(run["right"].count("1") / len(run["right"]), 3), flush=True)
        else:
            model, run = make(chapter, arguments.work, part, key)
            save_model(model, file_of(arguments.work, part, key))
            print(part, *key, {name: round(float(value), 3) for name, value in run["bits"].items()}, flush=True)
        runs.append(run)
        write(PATH, record | {"runs": runs})
    else:
        print("nothing left to do")


if __name__ == "__main__":
    main()
