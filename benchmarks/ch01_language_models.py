"""Chapter 1's models on more and more text: `llmbook/results/language_models.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. For every N and
seed, each model is trained in one pass over the first N tokens of `pydocs`, shuffled as in the chapter, and scored on
the chapter's held-out documents; Kneser-Ney of order 5 is counted on the same tokens.

    python benchmarks/ch01_language_models.py --tokens 100000 300000 1000000 3000000 --width 256
"""

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from llmbook import corpora, ngram, runtime, tokenization
from llmbook.evaluation.likelihood import BOOK
from llmbook.metrics import bits_per_byte
from recording import ROOT, origin, run_engine, write


def engine(rt: runtime.Runtime) -> dict:
    """Return what chapter 1's cells tagged `engine` define."""
    return run_engine("01-language-models", {"math": math, "np": np, "torch": torch, "nn": nn, "F": F, "rt": rt})


def main() -> None:
    """Train, score, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", required=True, help="sizes of the training text, in tokens")
    parser.add_argument("--width", type=int, default=256, help="width of the networks")
    arguments = parser.parse_args()

    record = origin()
    rt = runtime.setup()
    chapter = engine(rt)
    docs = corpora.pydocs()
    fingerprint = corpora.describe(docs)
    docs = docs.shuffle(seed=0)
    texts, held_out = docs["train"]["text"], corpora.held_out()
    num_bytes = sum(len(text.encode()) for text in held_out)
    tokenizer = tokenization.train_byte_bpe(texts[:5000], vocab_size=1024)
    vocab_size = tokenizer.get_vocab_size()
    test = tokenization.encode_documents(tokenizer, held_out)
    train = tokenization.encode_documents(tokenizer, texts)
    ends = np.cumsum([len(document) for document in train])
    stream = torch.from_numpy(np.concatenate(train)).long()

    runs = []
    jobs = [(n, kind, seed) for n in sorted(arguments.tokens) for kind in chapter["RATES"] for seed in chapter["SEEDS"]]
    for n in sorted(arguments.tokens):
        start = time.perf_counter()
        table = ngram.KneserNey(ngram.NGramCounts(train[: np.searchsorted(ends, n)], vocab_size, 5), 5)
        seconds = time.perf_counter() - start
        bits = bits_per_byte(table.log_prob(test), num_bytes)
        runs.append({"model": "Kneser-Ney", "tokens": n, "seed": None, "bits_per_byte": bits, "seconds": seconds})
    for n, kind, seed in tqdm(jobs, desc="runs"):
        torch.manual_seed(seed)
        model = kind(vocab_size, arguments.width).to(rt.device)
        start = time.perf_counter()
        chapter["train_model"](model, stream[:n], seed, chapter["RATES"][kind])
        seconds = time.perf_counter() - start
        bits = bits_per_byte(chapter["log_probs"](model, test), num_bytes)
        size = sum(p.numel() for p in model.parameters())
        runs.append({"model": kind.__name__, "tokens": n, "seed": seed, "bits_per_byte": bits, "seconds": seconds,
                     "parameters": size})  # fmt: skip
        tqdm.write(f"{kind.__name__} {n:,} tokens, seed {seed}: {bits:.3f} bits per byte, {seconds:.0f} s")

    convention = BOOK.with_window(chapter["WINDOW"]).describe()
    record |= {"device": str(rt), "data": fingerprint, "width": arguments.width, "convention": convention, "runs": runs}
    write(ROOT / "llmbook" / "results" / "language_models.json", record)


if __name__ == "__main__":
    main()
