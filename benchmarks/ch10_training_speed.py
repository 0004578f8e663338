"""Tokens per second of our training step against that of `transformers`' Llama: `llmbook/results/training_speed.json`.

Both have the same shape, start from the same weights, and see the same batches of `pydocs` with the same optimiser, in
float32 and with the products in bfloat16, in turns, so that a busy neighbour slows all of them. Each is one line of
ratios within one run; the final losses stand beside the speeds, and the share of the time in which a step waits for its
batch, which is read from a memory map.

    python benchmarks/ch10_training_speed.py --steps 12 --rounds 5
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from llmbook import corpora, hub, results, runtime, tokenization, training, transformer
from recording import origin, write

VARIANTS = {
    "transformers, float32": (hub.to_hf, torch.float32),
    "ours, float32": (lambda model: model, torch.float32),
    "transformers, bfloat16": (hub.to_hf, torch.bfloat16),
    "ours, bfloat16": (lambda model: model, torch.bfloat16),
}


class Clocked:
    """Batches, and the seconds that making them took."""

    def __init__(self, batches: Callable[[int], torch.Tensor]) -> None:
        """Start at no seconds."""
        self.batches, self.seconds = batches, 0.0

    def __call__(self, step: int) -> torch.Tensor:
        """Return the batch of a step."""
        start = time.perf_counter()
        batch = self.batches(step)
        self.seconds += time.perf_counter() - start
        return batch


def measure(
    model: transformer.Decoder, batches: Callable[[int], torch.Tensor], steps: int, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """Train every variant from the model's weights in each round; return speeds and final losses."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    chosen = training.Settings(2 + steps, 2e-3, log_every=1)
    for _ in tqdm(range(rounds), desc="rounds"):
        for name, (convert, dtype) in VARIANTS.items():
            variant: nn.Module = convert(copy.deepcopy(model)).to(device)
            if not isinstance(variant, transformer.Decoder):
                variant.config.use_cache = False
            clocked, start = Clocked(batches), time.perf_counter()
            log = training.fit(variant, clocked, chosen, dtype=dtype, progress=False)
            waited = clocked.seconds / (time.perf_counter() - start)
            speed = median(line["tokens_per_s"] for line in log[2:])  # the first steps warm up
            runs[name].append({"loss": log[-1]["loss"], "tokens_per_s": speed, "batch_share": waited})
    slowest = median(run["tokens_per_s"] for run in runs["transformers, float32"])
    return [
        {
            "variant": name,
            "tokens_per_s": median(run["tokens_per_s"] for run in found),
            "ratio": median(run["tokens_per_s"] for run in found) / slowest,
            "loss": found[-1]["loss"],
            "batch_share": median(run["batch_share"] for run in found),
        }
        for name, found in runs.items()
    ]


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of a variant in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    parser.add_argument("--window", type=int, default=256, help="tokens that a window predicts")
    parser.add_argument("--batch", type=int, default=16, help="windows in a batch")
    arguments = parser.parse_args()

    record = origin()
    rt = runtime.setup()
    tokenizer = tokenization.load_tokenizer("gpt")
    texts = list(corpora.pydocs()["train"].shuffle(seed=0)["text"][:2000])
    stream = np.concatenate(tokenization.encode_documents(tokenizer, texts)).astype(np.uint16)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "stream.bin"
    stream.tofile(path)
    mapped = np.memmap(path, dtype=np.uint16, mode="r")
    batches = training.Windows(mapped, arguments.window, arguments.batch, seed=0)
    shape = {"d_model": 256, "num_layers": 4, "num_heads": 4, "d_ff": 688, "max_length": 512}
    torch.manual_seed(0)
    model = transformer.Decoder(transformer.TransformerConfig(len(tokenizer), **shape))
    runs = measure(model, batches, arguments.steps, arguments.rounds, rt.device)
    folder.cleanup()
    for run in runs:
        print(f"{run['variant']:24} {run['tokens_per_s']:8,.0f} tokens/s  {run['ratio']:.2f}  loss {run['loss']:.3f}  "
              f"batches {run['batch_share']:.2%}")  # fmt: skip
    record |= {"device": str(rt), "shape": shape, "parameters": transformer.count_parameters(model)}
    record |= {"window": arguments.window, "batch": arguments.batch, "runs": runs}
    write(results.FOLDER / "training_speed.json", record)


if __name__ == "__main__":
    main()
