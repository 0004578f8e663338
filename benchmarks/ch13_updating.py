"""Chapter 13's comparison of what to update: `llmbook/results/updating.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript). First each method's memory, in a process of
its own, and its learning rate, chosen on validation texts from a seed of its own; then every method, LoRA's ranks, two
tasks at once and augmentation, from three seeds. Runs that the file holds already, made by the same code, are kept:
repeat the command until nothing is left to do.

    python benchmarks/ch13_updating.py --minutes 4
"""

import argparse
import math
import multiprocessing
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars

from llmbook import corpora, hub, objectives, runtime, tokenization, training
from llmbook import finetuning as ft
from llmbook.finetuning import augmentation, updating
from llmbook.transformer import Encoder
from recording import ROOT, go_on, origin, run_engine, write

LIBRARY = {
    "re": re, "time": time, "partial": partial, "np": np, "torch": torch, "F": F, "Dataset": Dataset,
    "corpora": corpora, "hub": hub, "objectives": objectives, "tokenization": tokenization, "training": training,
    "ft": ft, "augmentation": augmentation, "updating": updating, "Encoder": Encoder,
}  # fmt: skip
PATH = ROOT / "llmbook" / "results" / "updating.json"
SEARCH_SEED = 10
#: Whose learning rate a method uses that has no search of its own.
SAME_RATE = {"from scratch": "full", "LoRA, all layers": "LoRA"}
#: Tried as well, since the best of the chapter's rates stood at the end of their row.
MORE_RATES = [
    ("head only", 1e-1),
    ("feed-forward", 4e-3),
    ("biases", 3e-2),
    ("layer-wise rates", 8e-3),
    ("gradual unfreezing", 1e-3),
    ("gradual unfreezing", 3e-3),
    ("adapters", 1e-2),
    ("LoRA", 3e-2),
    # alpha / rank is the same for all ranks, and what a step changes grows with the rank
    ("LoRA, rank 1", 1e-2),
    ("LoRA, rank 1", 3e-2),
    ("LoRA, rank 64", 1e-3),
    ("LoRA, rank 64", 3e-3),
    ("LoRA, rank 64", 1e-2),
]


def engine(rt: runtime.Runtime) -> dict:
    """Return what chapter 13's cells tagged `engine` define."""
    disable_progress_bars()
    return run_engine("13-what-to-update", LIBRARY | {"rt": rt})


def rate_of(method: str, searched: list[dict]) -> float:
    """Return the rate with the best validation accuracy."""
    method = SAME_RATE.get(method, method)
    tried = [run for run in searched if run["method"] == method]
    return max(tried, key=lambda run: run["accuracy"])["rate"]


def jobs(chapter: dict) -> list[tuple[str, tuple]]:
    """Return all runs as (part, key), in the order in which they are made."""
    methods, seeds = list(chapter["METHODS"]), chapter["SEEDS"]
    # gradual unfreezing begins as head-only training does and ends as full fine-tuning
    measured = [name for name in methods if name != "gradual unfreezing" and not name.startswith("LoRA, rank")]
    found = [("memory", (name,)) for name in measured]
    found += [("search", (name, rate)) for name, rates in chapter["RATES"].items() for rate in rates]
    found += [("search", (name, rate)) for name, rate in MORE_RATES]
    found += [("methods", (name, seed)) for seed in seeds for name in methods]
    found += [("tasks", (kind, seed)) for seed in seeds
              for kind in ("topics alone", "sections alone", "both", "both, PCGrad")]  # fmt: skip
    return found + [("augmentation", (kind, seed)) for seed in seeds
                    for kind in ("none", "word operations", "round trip", "mix-up", "FGM")]  # fmt: skip


def make(chapter: dict, part: str, key: tuple, searched: list[dict]) -> dict:
    """Make one run."""
    if part == "search":
        name, rate = key
        _, run = chapter["run"](name, SEARCH_SEED, rate, tested=chapter["validation"])
    elif part == "methods":
        _, run = chapter["run"](*key, rate_of(key[0], searched))
    elif part == "augmentation":
        if "round trip" not in chapter["CHANGES"]:
            chapter["add_round_trip"]()
        _, run = chapter["run_few"](*key, rate=rate_of("full", searched))
    elif part == "tasks":
        _, run = chapter["run_tasks"](*key, rate=rate_of("full", searched))
    else:
        context = multiprocessing.get_context("fork")  # each begins as this process is, before any training
        queue = context.Queue()
        child = context.Process(target=lambda: queue.put(memory_of(chapter, key[0])))
        child.start()
        run = queue.get(timeout=300)
        child.join()
    return {"part": part, "key": list(key), **run}


def memory_of(chapter: dict, name: str) -> dict:
    """Return how far this process's resident memory rises above the model's own during five steps of a method."""
    model, how = chapter["prepared"](name, 0, 1e-4)
    rows = chapter["rows_of"](chapter["draw"](chapter["topics"]["train"], 5 * chapter["BATCH"]))
    chapter["accuracy"](model, rows[:16])  # what the first products allocate once is not counted
    batch = ft.collate(rows[: chapter["BATCH"]], chapter["PAD"])
    with torch.autocast("cpu", torch.bfloat16):
        counted = updating.training_memory(model, batch, ft.loss)
    status = Path("/proc/self/status")
    before = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    chapter["train"](model, rows, 1e-4, 0, steps=5, **how)
    peak = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return {"method": name, "rise": (peak - before) * 1024, **counted}


def main() -> None:
    """Make what is missing, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this time")
    arguments = parser.parse_args()
    begin, record = time.monotonic(), origin()
    rt = runtime.setup()
    chapter = engine(rt)
    runs = go_on(PATH, record, chapter["engine_sha256"])
    record |= {"device": str(rt), "data": corpora.describe(chapter["topics"])}
    if {job for job in jobs(chapter) if job[0] == "search"} <= {(run["part"], tuple(run["key"])) for run in runs}:
        searched = [run for run in runs if run["part"] == "search"]  # a better rate was found since: make it anew
        runs = [run for run in runs if run["part"] != "methods" or run["rate"] == rate_of(run["method"], searched)]
    done = {(run["part"], tuple(run["key"])) for run in runs}
    for part, key in jobs(chapter):
        if (part, key) in done:
            continue
        if time.monotonic() - begin > 60 * arguments.minutes:
            break
        run = make(chapter, part, key, [run for run in runs if run["part"] == "search"])
        runs.append(run)
        print(*(f"{v:.3f}" if isinstance(v, float) else v for k, v in run.items() if k != "cosines"), flush=True)
        write(PATH, record | {"runs": runs})
    else:
        print("nothing left to do")


if __name__ == "__main__":
    main()
