"""FlashAttention's forward pass as a Triton kernel (chapter 3; Dao et al. 2022, arXiv:2205.14135).

The order of the loops is that of the second version (Dao 2023, arXiv:2307.08691): each program keeps its queries.

Triton is optional (``pip install triton``, on Linux). On a GPU the kernel is compiled. Without one it runs through
Triton's interpreter, which is NumPy and slow, if ``TRITON_INTERPRET=1`` was set before Triton was first imported (by
this module, or by another one such as ``transformers``).
"""

# mypy: disable-error-code="no-untyped-def"
# The kernel's arguments are what Triton makes of them: pointers, and numbers known when it is compiled.

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # an optional extra, and there is none for macOS or Windows
    triton = None

D_HEADS = (16, 32, 64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def flash_forward(
    query,  # pointers to contiguous tensors (batch * heads, time, D)
    key,
    value,
    output,
    queries,  # how many
    keys,
    scale,  # of the scores, times log2(e), because 2^x is faster than e^x
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,  # queries of one program
    COLS: tl.constexpr,  # keys of one step
):
    """One program: the outputs of ROWS queries of one head, over all keys of that head."""
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # (ROWS,): places of the queries
    feature = tl.arange(0, D)  # (D,)
    here = head * queries * D + row[:, None] * D + feature[None, :]  # (ROWS, D): offsets
    real = row[:, None] < queries  # (ROWS, 1): the last program may reach beyond the end
    q = tl.load(query + here, mask=real, other=0.0)  # (ROWS, D): stays in the program

    top = tl.full([ROWS], float("-inf"), tl.float32)  # largest score so far
    total = tl.zeros([ROWS], tl.float32)  # sum of 2^(score - top) so far
    mixed = tl.zeros([ROWS, D], tl.float32)  # sum of 2^(score - top) * value so far
    end = keys
    if CAUSAL:  # what lies after this program's last query is never read
        end = tl.minimum(keys, (tl.program_id(0) + 1) * ROWS + keys - queries)

    for start in range(0, end, COLS):
        col = start + tl.arange(0, COLS)  # (COLS,): places of the keys
        there = head * keys * D + col[:, None] * D + feature[None, :]  # (COLS, D): offsets
        k = tl.load(key + there, mask=col[:, None] < keys, other=0.0)  # (COLS, D)
        v = tl.load(value + there, mask=col[:, None] < keys, other=0.0)  # (COLS, D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # (ROWS, COLS)
        visible = col[None, :] < keys  # (1, COLS)
        if CAUSAL:
            visible = visible & (col[None, :] <= row[:, None] + keys - queries)  # (ROWS, COLS)
        scores = tl.where(visible, scores, float("-inf"))

        new_top = tl.maximum(top, tl.max(scores, 1))  # (ROWS,)
        old = tl.exp2(top - new_top)  # (ROWS,): what the sums so far are worth now
        weights = tl.exp2(scores - new_top[:, None])  # (ROWS, COLS), not yet normalised
        total = total * old + tl.sum(weights, 1)
        mixed = mixed * old[:, None]
        mixed = tl.dot(weights.to(v.dtype), v, mixed, input_precision="ieee")  # adds to mixed
        top = new_top

    result = (mixed / total[:, None]).to(output.dtype.element_ty)  # (ROWS, D)
    tl.store(output + here, result, mask=real)


kernel: Any = triton.jit(flash_forward) if triton else None


def interpreted() -> bool:
    """Tell whether the kernel runs through Triton's interpreter; ``False`` also where Triton is missing."""
    return kernel is not None and type(kernel).__name__ == "InterpretedFunction"


def blocks(query: Tensor) -> tuple[int, int, int]:
    """Return rows, cols and warps for these queries, chosen so that sums and scores fit a program's registers.

    ``tests/test_flash.py`` compiles them for several GPUs and sees that no register spills to memory.
    """
    turing = query.is_cuda and torch.cuda.get_device_capability(query.device) < (8, 0)
    if query.dtype == torch.float32 or turing:  # no tensor cores: every product takes registers of its own
        return (32, 32, 4) if query.shape[-1] <= 64 else (16, 16, 4)
    return (128, 64, 8) if query.shape[-1] <= 128 else (64, 32, 8)


def _check(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> None:
    if triton is None:
        raise RuntimeError(
            "flash_attention needs Triton, which is not installed: on Linux, pip install triton; elsewhere "
            "use blockwise_attention, the same algorithm in PyTorch"
        )
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if (
        query.ndim != 4
        or key.shape != value.shape
        or (*query.shape[:2], query.shape[3]) != (*key.shape[:2], key.shape[-1])
    ):
        raise ValueError(f"{shapes}: it takes (batch, heads, time, d_head), alike but for the time of the queries")
    if not (query.numel() and key.numel()):
        raise ValueError(f"{shapes}: there must be at least one query and one key")
    if query.shape[-1] not in D_HEADS:
        raise ValueError(f"d_head={query.shape[-1]}: the kernel takes {D_HEADS}; pad the features with zeros")
    if query.dtype not in DTYPES or {query.dtype, key.dtype, value.dtype} != {query.dtype}:
        raise ValueError(
            f"query is {query.dtype}, key {key.dtype}, value {value.dtype}: pass all three as float16, bfloat16 or "
            "float32"
        )
    if {query.device, key.device, value.device} != {query.device}:
        raise ValueError(f"query is on {query.device}, key on {key.device}, value on {value.device}: move them to one")
    if causal and query.shape[2] > key.shape[2]:
        raise ValueError(
            f"{query.shape[2]} queries and {key.shape[2]} keys: each query needs its own token among the keys"
        )
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        raise ValueError("flash_attention has a forward pass only: call it under torch.no_grad(), or detach its inputs")
    if query.device.type == "cpu" and not interpreted():
        raise RuntimeError(
            "the tensors are on the CPU, where the kernel only runs through Triton's interpreter: set "
            "TRITON_INTERPRET=1 before Python starts (or before anything imports triton), or move them to a GPU"
        )
    if interpreted() and type(tl.sum).__name__ != "InterpretedFunction":
        raise RuntimeError(
            "TRITON_INTERPRET was set after Triton had been imported: set it before Python starts, or before anything "
            "imports triton"
        )


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool = False,
    scale: float | None = None,
    *,
    rows: int | None = None,
    cols: int | None = None,
    num_warps: int | None = None,
    num_stages: int = 2,
) -> Tensor:
    """Attention in one kernel that never writes the scores to memory: exact, forward only.

    Args:
        query: ``(batch, heads, query, d_head)``; ``d_head`` is one of ``D_HEADS``, the type one of ``DTYPES``.
        key: ``(batch, heads, key, d_head)``.
        value: ``(batch, heads, key, d_head)``.
        causal: let each query see the keys up to its own place; the queries are the last of the keys.
        scale: factor of the scores, by default ``1 / sqrt(d_head)``.
        rows: queries of one program, a power of two from 16 up; by default see :func:`blocks`.
        cols: keys of one step, likewise.
        num_warps: groups of 32 threads that share a program, likewise.
        num_stages: how many steps' loads are under way at once.

    Returns:
        Output ``(batch, heads, query, d_head)`` of the inputs' type; sums are kept in float32. The interpreter cannot
        multiply bfloat16 (github.com/triton-lang/triton/issues/11584), so there it is computed in float32 and rounded.

    Raises:
        ValueError: shapes, types or devices that the kernel does not take, or inputs that need gradients.
        RuntimeError: Triton is missing, or the tensors are on the CPU and the interpreter is not switched on.
    """
    _check(query, key, value, causal)
    batch, heads, queries, d_head = query.shape
    keys, dtype = key.shape[2], query.dtype
    defaults = blocks(query)
    rows, cols = rows or defaults[0], cols or defaults[1]
    for name, size in (("rows", rows), ("cols", cols)):
        if size < 16 or size & (size - 1):
            raise ValueError(f"{name}={size}: it takes a power of two from 16 up")
    if interpreted() and dtype == torch.bfloat16:
        query, key, value = query.float(), key.float(), value.float()
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    output = torch.empty_like(query)  # (batch, heads, query, d_head)
    scale = 1 / math.sqrt(d_head) if scale is None else scale
    grid = (triton.cdiv(queries, rows), batch * heads)
    kernel[grid](
        query, key, value, output, queries, keys, scale * math.log2(math.e), causal, d_head, rows, cols,
        num_warps=num_warps or defaults[2], num_stages=num_stages,
    )  # fmt: skip
    return output.to(dtype)
