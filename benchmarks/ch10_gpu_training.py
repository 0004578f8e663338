"""How much of a GPU our training loop uses, with a GPT of 124 million parameters: `gpu_training_speed.json`.

`training.fit` trains a `Decoder` of GPT-2 small's size in bfloat16 under autocast, as it is and compiled. Operations
are counted by `transformer.flops_per_token`, three times for a step; the *utilisation* is their number per second
divided by the machine's own peak: the fastest of some large matrix products in bfloat16, measured in the same run.
The goal is a half. Steps that warm up and compile are not timed.

    python benchmarks/ch10_gpu_training.py

The record is written after each run; the same command goes on from there. Without a GPU, a trial of the program itself:

    python benchmarks/ch10_gpu_training.py --device cpu --variants plain --batches 2 --width 64 --layers 1 --vocab 96 \\
        --length 32 --steps 3 --matrices 128 --result /tmp/training.json
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from llmbook import results, runtime, training
from llmbook.transformer import Decoder, TransformerConfig, count_parameters, flops_per_token
from recording import origin, write
from timing import product_flops

#: How the loss of a batch is computed; the compiled one is one program, model and cross-entropy together.
VARIANTS: dict[str, Callable[[], Callable[..., torch.Tensor]]] = {
    "compiled": lambda: torch.compile(training.next_token_loss),
    "plain": lambda: training.next_token_loss,
}
WARM_UP = 3
GOAL = 0.5


def shape(arguments: argparse.Namespace) -> TransformerConfig:
    """Return the model's shape: with the defaults, as wide and deep as GPT-2 small."""
    return TransformerConfig(
        arguments.vocab, d_model=arguments.width, num_layers=arguments.layers, num_heads=arguments.width // 64,
        d_ff=arguments.width * 8 // 3, max_length=arguments.length,
    )  # fmt: skip


def speed(
    config: TransformerConfig, variant: str, batch_size: int, steps: int, length: int, device: torch.device
) -> dict[str, float]:
    """Train for some steps; return the median tokens per second of a step, the last loss and the most memory in use."""
    torch.manual_seed(0)
    model = Decoder(config).to(device)
    generator = torch.Generator().manual_seed(0)
    stream = torch.randint(config.vocab_size, (batch_size * (length + 1) * 8,), generator=generator)  # (tokens,)
    windows = training.Windows(stream, length, batch_size)
    chosen = training.Settings(WARM_UP + steps, 3e-4, log_every=1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset()
    log = training.fit(model, windows, chosen, VARIANTS[variant](), dtype=torch.bfloat16, progress=False)
    most = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    speeds = [line["tokens_per_s"] for line in log[WARM_UP:]]
    return {"tokens_per_s": median(speeds), "loss": log[-1]["loss"], "memory_gib": most}


def main() -> None:
    """Measure the peak, train, record after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64], help="rows of a batch, several to try")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=50304, help="tokens of the vocabulary")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a run")
    parser.add_argument("--matrices", type=int, nargs="+", default=[4096, 8192, 16384], help="sizes for the peak")
    parser.add_argument("--result", type=Path, default=results.FOLDER / "gpu_training_speed.json")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; --device cpu makes a trial run (see --help), whose times mean nothing")

    config, device = shape(arguments), torch.device(arguments.device)
    flops = 3 * flops_per_token(config, arguments.length)  # of a step, for a token
    about: dict[str, Any] = origin() | {"device": str(runtime.setup()), "goal": GOAL}
    about |= {"parameters": count_parameters(Decoder(config)), "length": arguments.length, "flops_per_token": flops}
    record = json.loads(arguments.result.read_text()) if arguments.result.exists() else {}
    if any(record.get(field) != about[field] for field in ("commit", "machine", "parameters", "length")):
        record = about | {
            "peak_flops": max(product_flops(size, torch.bfloat16, arguments.device) for size in arguments.matrices),
            "runs": [],
        }
    for variant, batch_size in itertools.product(arguments.variants, arguments.batches):
        key = {"variant": variant, "batch": batch_size}
        if any(key.items() <= run.items() for run in record["runs"]):
            continue
        try:
            run = key | speed(config, variant, batch_size, arguments.steps, arguments.length, device)
        except torch.OutOfMemoryError:
            print(f"{variant}, {batch_size} rows: out of memory")
            continue
        run["utilisation"] = run["tokens_per_s"] * flops / record["peak_flops"]
        print(
            f"{variant}, {batch_size} rows: {run['tokens_per_s']:,.0f} tokens/s, {run['utilisation']:.1%} of the peak"
        )
        record["runs"].append(run)
        write(arguments.result, record)


if __name__ == "__main__":
    main()
