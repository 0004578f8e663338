"""Chapter 3's FlashAttention kernel on a GPU, against PyTorch's and the plain lines: `llmbook/results/attention.json`.

First every kernel is compared with the exact result in double precision; a wrong one ends the program. Then each is
timed, forward only, for every length, width of a head, type and with or without a causal mask. `tflops` counts
4 n^2 d operations for each head, half of that under a causal mask, whatever a kernel really computes. The machine's own
peak is measured by a large matrix product in the same type, its bandwidth by copying a large tensor.

    python benchmarks/ch03_attention.py

The record is written after each width, type and mask; the same command goes on from there. Without a GPU,
a trial of the program itself (through Triton's interpreter, so the times mean nothing):

    TRITON_INTERPRET=1 python benchmarks/ch03_attention.py --device cpu --lengths 32 --d-heads 16 --dtypes float32 \\
        --tokens 64 --width 32 --matrix 64 --result /tmp/attention.json
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from llmbook import flash, results
from llmbook.attention import causal_mask, scaled_dot_product_attention
from recording import origin, write
from timing import product_flops, seconds

RESULT = results.FOLDER / "attention.json"
#: rows, cols, warps, stages that are tried for the kernel; None is its own choice
CONFIGS = [None, *itertools.product((64, 128), (64, 128), (4, 8), (2, 3))]
#: largest difference from the exact result that rounding explains, for inputs of variance one
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def eager(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Write all scores to memory."""
    mask = causal_mask(query.shape[2], key.shape[2], query.device) if causal else None
    return scaled_dot_product_attention(query, key, value, mask)[0]


def sdpa_flash(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Run PyTorch's own FlashAttention, on a GPU; on the CPU what PyTorch has."""
    if not query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


def ours(config: tuple[int, int, int, int] | None) -> Callable[..., Tensor]:
    """Return the Triton kernel with these rows, cols, warps and stages."""
    if config is None:
        return flash.flash_attention
    rows, cols, num_warps, num_stages = config

    def run(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return flash.flash_attention(
            query, key, value, causal, rows=rows, cols=cols, num_warps=num_warps, num_stages=num_stages
        )

    return run


def inputs(batch: int, heads: int, length: int, d_head: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Return query, key and value (batch, heads, length, d_head), the same for everyone."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, heads, length, d_head)
    return [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3)]


def extra_memory(function: Callable[[], Tensor], device: str) -> float | None:
    """MiB that a call needs at most, above what was there before it, its output included."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def largest_error(function: Callable[..., Tensor], d_head: int, dtype: torch.dtype, causal: bool, device: str) -> float:
    """Return the largest difference from the exact result in double precision, for a length that fits no block."""
    query, key, value = inputs(2, 2, 77 if device == "cpu" else 1000, d_head, dtype, device)
    exact = eager(query.double(), key.double(), value.double(), causal)
    return (function(query, key, value, causal).double() - exact).abs().max().item()


def peaks(dtypes: list[torch.dtype], size: int, device: str) -> dict[str, float]:
    """TFLOP/s of a large square matrix product in each type, and GB/s of a copy (read and written bytes)."""
    measured = {}
    for dtype in dtypes:
        measured[str(dtype).removeprefix("torch.")] = product_flops(size, dtype, device) / 1e12
    source = torch.empty(size * size * 8, device=device)
    target = torch.empty_like(source)
    measured["copy_gb_per_s"] = (
        2 * source.numel() * source.element_size() / seconds(lambda: target.copy_(source), device) / 1e9
    )
    return measured


def tune(d_head: int, dtype: torch.dtype, causal: bool, shape: tuple[int, int, int], device: str) -> tuple | None:
    """Return the fastest of CONFIGS; those that do not fit the GPU are passed over. On the CPU, the default."""
    if device != "cuda":
        return None
    query, key, value = inputs(*shape, d_head, dtype, device)
    reference = flash.flash_attention(query, key, value, causal)  # itself compared with the exact result elsewhere
    times: dict[tuple | None, float] = {}
    for config in CONFIGS:
        function = ours(config)
        try:
            if torch.allclose(function(query, key, value, causal), reference, atol=TOLERANCE[dtype]):
                times[config] = seconds(lambda f=function: f(query, key, value, causal), device, 0.05)
        except Exception as error:  # Triton has several for a kernel that does not fit
            tqdm.write(f"d_head {d_head}, {dtype}, {config}: {type(error).__name__}")
    return min(times, key=times.__getitem__)


def measure(arguments: argparse.Namespace, runs: list[dict], keep: Callable[[list[dict]], object]) -> None:
    """Check, tune and time everything that is not among the runs; keep them after each width, type and mask."""
    dtypes = [getattr(torch, name) for name in arguments.dtypes]
    cases = list(itertools.product(arguments.d_heads, dtypes, (False, True)))
    known = {(run["d_head"], run["dtype"], run["causal"]) for run in runs}
    for d_head, dtype, causal in tqdm(cases, desc="cases"):
        if (d_head, str(dtype).removeprefix("torch."), causal) in known:
            continue
        heads = max(1, arguments.width // d_head)
        middle = sorted(arguments.lengths)[len(arguments.lengths) // 2]
        config = tune(d_head, dtype, causal, (max(1, arguments.tokens // middle), heads, middle), arguments.device)
        kernels = {"triton": ours(None), "sdpa-flash": sdpa_flash, "eager": eager}
        if config is not None:
            kernels["triton, tuned"] = ours(config)
        for name, kernel in kernels.items():
            error = largest_error(kernel, d_head, dtype, causal, arguments.device)
            if not error < TOLERANCE[dtype]:
                raise SystemExit(f"{name}, d_head {d_head}, {dtype}, causal {causal}: off by {error}; nothing recorded")
            for length in sorted(arguments.lengths):
                batch = max(1, arguments.tokens // length)
                query, key, value = inputs(batch, heads, length, d_head, dtype, arguments.device)
                run = {
                    "kernel": name, "d_head": d_head, "dtype": str(dtype).removeprefix("torch."), "causal": causal,
                    "length": length, "batch": batch, "heads": heads, "largest_error": error,
                    "config": config if name == "triton, tuned" else None,
                    "seconds": None, "tflops": None, "extra_mib": None,
                }  # fmt: skip
                call = lambda f=kernel, q=query, k=key, v=value, c=causal: f(q, k, v, c)  # noqa: E731
                try:
                    run["extra_mib"] = extra_memory(call, arguments.device)
                    run["seconds"] = seconds(call, arguments.device)
                    operations = 4 * batch * heads * length**2 * d_head / (2 if causal else 1)
                    run["tflops"] = operations / run["seconds"] / 1e12
                except torch.OutOfMemoryError:
                    tqdm.write(f"{name}, length {length}: out of memory")
                runs.append(run)
                del query, key, value, call
        keep(runs)


def main() -> None:
    """Check, time, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--d-heads", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"], help="names of torch's types")
    parser.add_argument("--tokens", type=int, default=16384, help="batch times length")
    parser.add_argument("--width", type=int, default=2048, help="heads times d_head")
    parser.add_argument("--matrix", type=int, default=8192, help="size of the product that measures the peak")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; --device cpu makes a trial run (see --help), whose times mean nothing")

    record = origin() | {"device": arguments.device, "cuda": torch.version.cuda}
    kept = json.loads(arguments.result.read_text()) if arguments.result.exists() else {}
    same = all(kept.get(field) == record[field] for field in ("commit", "machine", "device"))
    dtypes = [getattr(torch, name) for name in arguments.dtypes]
    record["peak"] = kept["peak"] if same else peaks(dtypes, arguments.matrix, arguments.device)
    measure(arguments, kept["runs"] if same else [], lambda runs: write(arguments.result, record | {"runs": runs}))


if __name__ == "__main__":
    main()
