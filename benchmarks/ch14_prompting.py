"""Chapter 14's learning curves and pools of mappings: `llmbook/results/prompting.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Runs that the
file holds already, made by the same code, are kept: repeat the command until nothing is left to do.

    python benchmarks/ch14_prompting.py
    python benchmarks/ch14_prompting.py --minutes 4.5
"""

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from tqdm.auto import tqdm

from llmbook import corpora, hub, runtime, tokenization, training
from llmbook import finetuning as ft
from llmbook.finetuning.prompting import LabelWords, Prefix, SoftPrompt
from llmbook.transformer import Decoder, TransformerConfig
from recording import ROOT, earlier, origin, run_engine, write

LIBRARY = {
    "np": np, "torch": torch, "F": F, "nn": nn, "TfidfVectorizer": TfidfVectorizer,
    "LogisticRegression": LogisticRegression, "make_pipeline": make_pipeline, "corpora": corpora, "hub": hub,
    "tokenization": tokenization, "training": training, "ft": ft, "LabelWords": LabelWords, "Prefix": Prefix,
    "SoftPrompt": SoftPrompt, "Decoder": Decoder, "TransformerConfig": TransformerConfig,
}  # fmt: skip

EACH = (2, 8, 32)
POOLS = (8, 4096)
TEST_EACH = 100


def pool_run(chapter: dict, pool: int, seed: int) -> dict:
    """Train on episodes of a fixed pool of mappings; test on those, and on mappings that are new."""
    model, log, fixed = chapter["learn_in_context"](seed, pool=pool)
    fresh = chapter["new_mappings"](400, np.random.default_rng(12345))
    rows = np.random.default_rng(0).integers(pool, size=400)
    known, known_seen = chapter["answers_right"](model, tuple(part[rows] for part in fixed))
    new, new_seen = chapter["answers_right"](model, fresh)
    return {
        "pool": pool, "seed": seed, "loss": log[-1]["loss"],
        "known mappings, seen": float(known[known_seen].mean()),
        "known mappings, unseen": float(known[~known_seen].mean()),
        "new mappings, seen": float(new[new_seen].mean()),
        "new mappings, unseen": float(new[~new_seen].mean()),
    }  # fmt: skip


def main() -> None:
    """Train what is missing, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this time")
    arguments = parser.parse_args()

    begin, record = time.monotonic(), origin()
    rt = runtime.setup()
    chapter = run_engine("14-prompting", LIBRARY | {"rt": rt})
    path = ROOT / "llmbook" / "results" / "prompting.json"
    kept = earlier(path, chapter["engine_sha256"])
    pools, runs = kept.get("pools", []), kept.get("runs", [])
    done = {(run["pool"], run["seed"]) for run in pools} | {(run["method"], run["each"], run["seed"]) for run in runs}
    jobs: list[tuple] = [(pool, seed) for seed in chapter["SEEDS"] for pool in POOLS]
    jobs += [(method, each, seed) for each in EACH for seed in chapter["SEEDS"] for method in chapter["RATES"]]
    test, labels = chapter["draw"]("test", TEST_EACH, 1)
    record |= {"device": str(rt), "data": corpora.describe(chapter["sections"]), "test_texts": len(test)}
    record |= {"engine_sha256": chapter["engine_sha256"]}
    for job in tqdm([job for job in jobs if job not in done], desc="runs"):
        if time.monotonic() - begin > 60 * arguments.minutes:
            break
        start = time.process_time()
        if len(job) == 2:
            pools.append(pool_run(chapter, *job) | {"seconds": time.process_time() - start})
            tqdm.write(str(pools[-1]))
        else:
            method, each, seed = job
            _, score = chapter["tune"](method, each, seed, test, labels)
            runs.append({"method": method, "each": each, "seed": seed, "accuracy": score,
                         "seconds": time.process_time() - start})  # fmt: skip
            tqdm.write(str(runs[-1]))
        write(path, record | {"pools": pools, "runs": runs})


if __name__ == "__main__":
    main()
