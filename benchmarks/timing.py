"""How long a device takes: for the benchmarks of a GPU."""

import statistics
import time
from collections.abc import Callable

import torch


def seconds(function: Callable[[], object], device: str, enough: float = 0.3) -> float:
    """Median time of a call: warm-up, then at least five calls and about `enough` seconds of them."""
    if device != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    repeats = max(5, min(200, int(enough / (time.perf_counter() - start + 1e-9))))
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1000


def product_flops(size: int, dtype: torch.dtype, device: str) -> float:
    """Return the operations per second of a product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)
