"""Chapter 11's small runs over model size and tokens, and one larger run held back: `llmbook/results/scaling.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. First the
learning rate of Muon is swept at three widths and a power of the width is drawn through the best ones. Then each
width is trained on a plateau with that rate, and a copy is let down at each number of tokens. Runs that the file holds
already, made by the same code, are kept: repeat the command until nothing is left to do.

    OMP_NUM_THREADS=1 python benchmarks/ch11_scaling.py
"""

import argparse
import copy
import math
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from llmbook import corpora, runtime, tokenization, training, transformer
from recording import ROOT, earlier, origin, run_engine, write

LIBRARY = {
    "copy": copy, "np": np, "torch": torch, "nn": nn, "corpora": corpora, "tokenization": tokenization,
    "training": training, "transformer": transformer,
}  # fmt: skip
ENDS = [256_000, 512_000, 1_024_000, 2_048_000, 4_096_000]  # tokens
SWEPT = {24: (1e-2, 2e-2, 4e-2, 8e-2), 40: (1e-2, 2e-2, 4e-2, 8e-2), 64: (1e-2, 2e-2, 4e-2)}
GRID = [(24, 0, ENDS), (40, 0, ENDS), (64, 0, ENDS[:4]), (96, 0, ENDS[:4])]
HELD_BACK = (128, 0, [2_560_000])
AGAIN = [(width, seed, ENDS[:3]) for seed in (1, 2) for width in (24, 40, 64)]


def engine(rt: runtime.Runtime) -> dict[str, Any]:
    """Return what chapter 11's cells tagged `engine` define."""
    return run_engine("11-scaling", LIBRARY | {"rt": rt})


def best_rate(rates: list[float], losses: list[float]) -> float:
    """Return the lowest point of a parabola through the best rate and its neighbours; an end if the best is there."""
    place = int(np.argmin(losses))
    if place in (0, len(rates) - 1):
        return rates[place]
    x, y = np.log(rates[place - 1 : place + 2]), losses[place - 1 : place + 2]
    a, b, _ = np.polyfit(x, y, 2)
    return float(np.exp(-b / (2 * a)))


def rate_rule(sweep: list[dict[str, Any]]) -> tuple[float, float]:
    """Return ``a, b`` of the rule ``rate = a * width ** b`` through the best rates of the widths."""
    widths = sorted({run["d_model"] for run in sweep})
    best = []
    for width in widths:
        runs = sorted((run for run in sweep if run["d_model"] == width), key=lambda run: run["rate"])
        best.append(best_rate([run["rate"] for run in runs], [run["loss"] for run in runs]))
    b, log_a = np.polyfit(np.log(widths), np.log(best), 1)
    return float(np.exp(log_a)), float(b)


def main() -> None:
    """Sweep, run, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=14_000, help="training documents to read")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this time")
    arguments = parser.parse_args()

    begin, record = time.monotonic(), origin()
    chapter = engine(runtime.setup())
    path = ROOT / "llmbook" / "results" / "scaling.json"
    kept = earlier(path, chapter["engine_sha256"])
    lists = {name: kept.get(name, []) for name in ("sweep", "runs", "held_back")}
    stream = chapter["read"](arguments.documents)
    step_tokens = chapter["BATCH"] * chapter["WINDOW"]
    largest = max(HELD_BACK[2])
    if len(stream) <= largest:
        raise SystemExit(f"{len(stream):,} tokens, the longest run reads {largest:,}: raise --documents")
    held_out_bytes = sum(len(text.encode()) for text in chapter["held_out_texts"])
    shapes = {}
    for width, (layers, heads, d_ff) in chapter["SHAPES"].items():
        model = chapter["build"](width, 0)
        total, own = (transformer.count_parameters(model, embeddings=which) for which in (True, False))
        shapes[str(width)] = {
            "num_layers": layers, "num_heads": heads, "d_ff": d_ff,
            "parameters": own,
            "embedding_parameters": total - own,
            "flops_per_token": 3 * transformer.flops_per_token(model.config, chapter["WINDOW"]),
        }  # fmt: skip
    record |= {
        "engine_sha256": chapter["engine_sha256"], "data": corpora.describe(chapter["docs"]),
        "documents": arguments.documents, "tokens": len(stream), "shapes": shapes,
        "held_out": {"tokens": len(chapter["held_out"]), "bytes": held_out_bytes},
        "convention": f"documents joined to one text, windows of {chapter['WINDOW']} tokens that do not overlap, the "
        "last incomplete batch of 64 windows left out, <|endoftext|> after each document, which is scored",
    }  # fmt: skip

    def run(name: str, width: int, ends: list[int], rate: float, seed: int) -> None:
        """Make one run unless it is there, and store it."""
        made = {(run["d_model"], run["tokens"], run["rate"], run["seed"]) for run in lists[name]}
        wanted = {(width, round(end / step_tokens) * step_tokens, rate, seed) for end in ends}
        if wanted <= made or time.monotonic() - begin > 60 * arguments.minutes:
            return
        start = time.perf_counter()
        points = chapter["branched_run"](stream, width, [round(end / step_tokens) for end in ends], rate, seed)
        for point in points:
            shape = shapes[str(width)]
            point |= {"parameters": shape["parameters"], "flops": shape["flops_per_token"] * point["tokens"]}
            tqdm.write(" ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in point.values()))
        points[-1]["seconds"] = time.perf_counter() - start
        lists[name] += points
        write(path, record | {"rule": rule, **lists})

    rule: dict[str, float] | None = None
    for width, rates in tqdm(SWEPT.items(), desc="sweep"):
        for rate in rates:
            run("sweep", width, [ENDS[1]], rate, 0)
    if {(run["d_model"], run["rate"]) for run in lists["sweep"]} < {(w, r) for w in SWEPT for r in SWEPT[w]}:
        return
    a, b = rate_rule(lists["sweep"])
    rule = {"factor": a, "exponent": b}
    print(f"learning rate {a:.3g} * width ** {b:.2f}")
    for name, jobs in (("runs", GRID), ("held_back", [HELD_BACK]), ("runs", AGAIN)):
        for width, seed, ends in tqdm(jobs, desc=name):
            run(name, width, ends, a * width**b, seed)


if __name__ == "__main__":
    main()
