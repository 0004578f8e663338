"""Chapter 2's three families with more passes over the text: `llmbook/results/three_families.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Every family is
trained for each number of passes from each seed, and fills the chapter's held-out gaps in each of the chapter's ways.

    python benchmarks/ch02_three_families.py --passes 1 3 10
"""

import argparse
import itertools
import math
import re
import time
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from llmbook import corpora, runtime
from recording import ROOT, origin, run_engine, write


def engine(rt: runtime.Runtime) -> dict:
    """Return what chapter 2's cells tagged `engine` define."""
    namespace = {"Counter": Counter, "defaultdict": defaultdict, "NamedTuple": NamedTuple, "Tensor": Tensor, "F": F}
    modules = {"math": math, "re": re, "np": np, "torch": torch, "nn": nn, "corpora": corpora, "rt": rt}
    return run_engine("02-three-families", namespace | modules)


def family_runs(chapter: dict, name: str, passes: int, seed: int) -> list[dict]:
    """Train one family; return the share of gaps that it fills, for each way of asking it."""
    torch.manual_seed(seed)
    rt = chapter["rt"]
    model = chapter["Backbone"](chapter["V"], chapter["WIDTH"], chapter["LAYERS"]).to(rt.device)
    start = time.perf_counter()
    batches = chapter["stream"](chapter["FAMILIES"][name], chapter["train"], passes, rt.generator(seed))
    chapter["train_model"](model, batches)
    seconds = time.perf_counter() - start
    model.eval()
    ways = {method: fill for method, (family, fill) in chapter["METHODS"].items() if family == name}
    shares = {method: chapter["fill_gaps"](model, fill).eq(chapter["answers"]) for method, fill in ways.items()}
    size = {"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}
    return [
        {"method": method, "passes": passes, "seed": seed, "gaps": right.double().mean().item(), **size}
        for method, right in shares.items()
    ]


def main() -> None:
    """Train, fill gaps, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, nargs="+", required=True, help="how often the text is seen")
    arguments = parser.parse_args()

    record = origin()
    rt = runtime.setup()
    chapter = engine(rt)
    runs = []
    jobs = itertools.product(sorted(arguments.passes), chapter["FAMILIES"], chapter["SEEDS"])
    for passes, name, seed in tqdm(list(jobs), desc="runs"):
        runs += family_runs(chapter, name, passes, seed)
        tqdm.write(f"{runs[-1]['method']}, {passes} passes, seed {seed}: {runs[-1]['gaps']:.3f} of the gaps")

    sizes = {"sentences": len(chapter["train"]), "words": sum(map(len, chapter["train"]))}
    sizes["gaps"] = len(chapter["answers"])
    record |= {"device": str(rt), "data": corpora.describe(chapter["docs"]), "engine_sha256": chapter["engine_sha256"]}
    write(ROOT / "llmbook" / "results" / "three_families.json", record | sizes | {"runs": runs})


if __name__ == "__main__":
    main()
