"""Where and how a chapter computes: device, precision, threads, seed and scale, decided once (used by every chapter).

Each of the five can be set by an environment variable; a value that is not allowed is a ``ValueError`` that names
the variable, what it was given and what it takes.
"""

import contextlib
import ctypes
import functools
import gc
import os
import random
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """One decision on where and how to compute; ``print`` it at the top of a chapter.

    Attributes:
        device: where networks and batches are.
        dtype: of a chapter's short trainings.
        fast_dtype: of the products of its longer ones, under :meth:`autocast`: ``bfloat16`` where the device multiplies
            it in hardware. A processor that does not is a hundred times slower in it than in ``float32``.
        threads: on a CPU.
        seed: of all random numbers.
        scale: ``small`` or ``full``, see :meth:`pick`.
    """

    device: torch.device
    dtype: torch.dtype
    fast_dtype: torch.dtype
    threads: int
    seed: int
    scale: str

    def __str__(self) -> str:
        """One line, for the top of a chapter."""
        precision = str(self.dtype).removeprefix("torch.")
        if self.fast_dtype != self.dtype:
            precision += f", long trainings in {str(self.fast_dtype).removeprefix('torch.')}"
        threads = f"{self.threads} thread" + "s" * (self.threads != 1)
        return f"device {self.device} | {precision} | {threads} | seed {self.seed} | scale {self.scale}"

    def pick(self, *, small: T, full: T) -> T:
        """Return the value for this scale: ``small`` fits a laptop's CPU, ``full`` wants a GPU."""
        return small if self.scale == "small" else full

    def autocast(self) -> torch.autocast:
        """Compute products within in ``fast_dtype``; weights stay as they are."""
        return torch.autocast(self.device.type, self.fast_dtype, enabled=self.fast_dtype != torch.float32)

    def generator(self, seed: int | None = None) -> torch.Generator:
        """Return a new CPU generator, seeded with ``seed`` (by default the runtime's own)."""
        return torch.Generator().manual_seed(self.seed if seed is None else seed)


def _choice(variable: str, default: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(variable, default)
    if value not in allowed:
        raise ValueError(f"{variable}={value!r}: it takes {', '.join(allowed)}; unset it for the default ({default})")
    return value


def _integer(variable: str, default: int, least: int) -> int:
    value = os.environ.get(variable, str(default))
    if not value.isdecimal() or int(value) < least:
        raise ValueError(f"{variable}={value!r}: it takes a whole number from {least} up; unset it for {default}")
    return int(value)


def _default_threads() -> int:
    """``OMP_NUM_THREADS`` where it is set; else half the cores, at most four.

    More threads than free cores make small matrix products many times slower: they wait for each other at barriers.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else min(4, max(1, (os.cpu_count() or 1) // 2))


def _available_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fast_precision(device: str) -> str:
    """Return ``bfloat16`` for CUDA and for a CPU that has its products, as far as torch knows; else ``float32``."""
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return "bfloat16" if device == "cuda" or (device == "cpu" and known is not None and known()) else "float32"


@functools.cache
def setup() -> Runtime:
    """Decide device, precision, threads, seed and scale; apply threads and seed to this process; return the decision.

    The first call decides, later calls return the same object. Environment variables override:

    - ``LLMBOOK_DEVICE``: ``cpu``, ``cuda`` or ``mps`` (default: the best one present);
    - ``LLMBOOK_PRECISION``: ``float32``, ``bfloat16`` or ``float16`` (default: ``bfloat16`` on CUDA, else ``float32``,
      and for long trainings ``bfloat16`` on processors that have it in hardware);
    - ``LLMBOOK_THREADS``: CPU threads (default: ``OMP_NUM_THREADS``, else half the cores, at most 4);
    - ``LLMBOOK_SEED``: the base seed (default 0);
    - ``LLMBOOK_SCALE``: ``small`` or ``full`` (default: ``full`` on CUDA, else ``small``).

    Raises:
        ValueError: a variable holds a value that is not allowed, or asks for a device that is not there.
    """
    best = _available_device()
    device = _choice("LLMBOOK_DEVICE", best, ("cpu", "cuda", "mps"))
    if device not in ("cpu", best):
        raise ValueError(f"LLMBOOK_DEVICE={device!r}: torch finds no such device here; use {best!r}, or unset it")
    cuda = device == "cuda"
    precision = _choice("LLMBOOK_PRECISION", "bfloat16" if cuda else "float32", tuple(_DTYPES))
    fast = precision if "LLMBOOK_PRECISION" in os.environ else fast_precision(device)
    scale = _choice("LLMBOOK_SCALE", "full" if cuda else "small", ("small", "full"))
    threads = _integer("LLMBOOK_THREADS", _default_threads(), 1)
    seed = _integer("LLMBOOK_SEED", 0, 0)

    torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return Runtime(torch.device(device), _DTYPES[precision], _DTYPES[fast], threads, seed, scale)


def release_memory() -> None:
    """Give memory that is no longer used back to the system, where the C library can (glibc); elsewhere tidy up only.

    After several trainings a process holds what the largest of them needed, in pieces that a further one may not fit
    into. A notebook with 2 GiB, as on Binder, ends there.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
