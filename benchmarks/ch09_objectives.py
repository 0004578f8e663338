"""Chapter 9's objectives on more text: `llmbook/results/objectives.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Every objective
is trained in one pass over the same rows from each seed, then probed and fine-tuned on the chapter's two tasks. Runs
that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch09_objectives.py --rows 8000
    python benchmarks/ch09_objectives.py --rows 24000 --objectives CLM MLM "MLM + NSP"
"""

import argparse
import copy
import math
import time
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from datasets import concatenate_datasets
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm

from llmbook import corpora, objectives, runtime, tokenization
from llmbook.transformer import Stack, TransformerConfig, initialise
from recording import ROOT, earlier, origin, run_engine, write

LIBRARY = {
    "copy": copy, "math": math, "partial": partial, "np": np, "torch": torch, "nn": nn, "F": F,
    "concatenate_datasets": concatenate_datasets, "TfidfVectorizer": TfidfVectorizer,
    "LogisticRegression": LogisticRegression, "RidgeClassifierCV": RidgeClassifierCV, "make_pipeline": make_pipeline,
    "StandardScaler": StandardScaler, "corpora": corpora, "objectives": objectives, "tokenization": tokenization,
    "Stack": Stack, "TransformerConfig": TransformerConfig, "initialise": initialise,
}  # fmt: skip


def engine(rt: runtime.Runtime) -> dict:
    """Return what chapter 9's cells tagged `engine` define."""
    return run_engine("09-objectives", LIBRARY | {"rt": rt})


def main() -> None:
    """Pretrain, probe, fine-tune, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, required=True, help="rows of text that each objective sees once")
    parser.add_argument("--objectives", nargs="+", help="names, by default all and the variants of masking")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this time")
    arguments = parser.parse_args()

    begin, record = time.monotonic(), origin()
    rt = runtime.setup()
    chapter = engine(rt)
    path = ROOT / "llmbook" / "results" / "objectives.json"
    kept = earlier(path, chapter["engine_sha256"])
    runs, commands = kept.get("runs", []), kept.get("commands", [])
    done = {(run["objective"], run["rows"], run["seed"]) for run in runs}
    rows = chapter["cut_rows"](arguments.rows)
    names = arguments.objectives or ["none", *chapter["OBJECTIVES"], *chapter["VARIANTS"]]
    jobs = [(name, seed) for seed in chapter["SEEDS"] for name in names if (name, len(rows), seed) not in done]
    record |= {"device": str(rt), "data": corpora.describe(chapter["topics"]), "tokens_per_row": chapter["TIME"]}
    record |= {"engine_sha256": chapter["engine_sha256"], "commands": [*commands, record.pop("command")]}
    for name, seed in tqdm(jobs, desc="runs"):
        if time.monotonic() - begin > 60 * arguments.minutes:
            break
        start = time.perf_counter()
        model, history = chapter["pretrain"](name, seed, rows) if name != "none" else (chapter["build"](name, seed), [])
        run = {"objective": name, "rows": len(rows), "seed": seed, "seconds": time.perf_counter() - start,
               "loss": float(np.mean(history[-len(history) // 10 :])) if history else None}  # fmt: skip
        for task, (train, test) in chapter["TASKS"].items():
            run[f"{task}, probe"] = chapter["probe"](model, train[seed], test)
            run[f"{task}, fine-tuned"] = chapter["fine_tune"](model, train[seed], test, seed)
        runs.append(run)
        tqdm.write(" ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in run.values()))
        write(path, record | {"runs": runs})


if __name__ == "__main__":
    main()
