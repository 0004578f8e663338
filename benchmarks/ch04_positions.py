"""Chapter 4's schemes of positions in larger models, trained longer: `llmbook/results/positions.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. Every scheme,
T5's buckets included, is trained on texts of 64 tokens and tested up to 512: on the chapter's three questions about
order, and as a language model on the bytes of `pydocs`.

    python benchmarks/ch04_positions.py --layers 2 --steps 400 --bytes 1000000
"""

import argparse
import itertools
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from llmbook import corpora, positions, runtime
from llmbook.attention import MultiHeadAttention, causal_mask
from recording import ROOT, origin, run_engine, write

BATCH = 8


def engine(rt: runtime.Runtime) -> dict:
    """Return what chapter 4's cells tagged `engine` define."""
    modules = {"F": F, "itertools": itertools, "math": math, "nn": nn, "np": np, "torch": torch}
    ours = {"MultiHeadAttention": MultiHeadAttention, "causal_mask": causal_mask, "positions": positions, "rt": rt}
    return run_engine("04-positions", modules | ours)


def order_run(chapter: dict, question: str, position: str, seed: int, steps: int, layers: int) -> dict:
    """Train one model to answer one question about order; return its accuracy by range of places."""
    start = time.perf_counter()
    model = chapter["learn"](question, position, seed, steps, batch=BATCH, num_layers=layers)
    seconds = time.perf_counter() - start
    shares = chapter["by_range"](chapter["accuracy"](model, question))
    return {"question": question, "position": position, "seed": seed, "seconds": seconds, **shares}


def language_run(
    chapter: dict, position: str, seed: int, text: torch.Tensor, held_out: torch.Tensor, layers: int
) -> dict:
    """Train one language model; return its bits per byte in each bin of places."""
    start = time.perf_counter()
    model = chapter["language_model"](position, seed, text, batch=BATCH, num_layers=layers)
    seconds = time.perf_counter() - start
    bits = chapter["binned"](chapter["bits"](model, held_out))
    parameters = sum(p.numel() for p in model.parameters())
    return {"position": position, "seed": seed, "seconds": seconds, "parameters": parameters, "bits_per_byte": bits}


def main() -> None:
    """Train, test, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="layers of the models")
    parser.add_argument("--steps", type=int, default=400, help="training steps for a question about order")
    parser.add_argument("--bytes", type=int, default=1_000_000, help="size of the language models' training text")
    arguments = parser.parse_args()

    record = origin()
    rt = runtime.setup()
    chapter = engine(rt)
    schemes, seeds = (*chapter["SCHEMES"], "t5"), chapter["SEEDS"]
    docs = corpora.pydocs()
    fingerprint = corpora.describe(docs)
    docs = docs.shuffle(seed=0)
    text = chapter["byte_stream"](docs["train"]["text"], arguments.bytes)
    held_out = chapter["byte_stream"](docs["test"]["text"], chapter["HELD_OUT"])

    order, language = [], []
    for job in tqdm(list(itertools.product(chapter["QUESTIONS"], schemes, seeds)), desc="questions"):
        order.append(order_run(chapter, *job, arguments.steps, arguments.layers))
    for position, seed in tqdm(list(itertools.product(schemes, seeds)), desc="language models"):
        language.append(language_run(chapter, position, seed, text, held_out, arguments.layers))
        tqdm.write(f"{position} {seed}: {[round(b, 2) for b in language[-1]['bits_per_byte']]}")

    settings = {"layers": arguments.layers, "steps": arguments.steps, "bytes": arguments.bytes}
    record |= {"engine_sha256": chapter["engine_sha256"], "device": str(rt), "data": fingerprint, **settings}
    record |= {"edges": chapter["EDGES"], "order": order, "language": language}
    write(ROOT / "llmbook" / "results" / "positions.json", record)


if __name__ == "__main__":
    main()
