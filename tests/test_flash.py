"""The Triton kernel through Triton's interpreter, compiled for GPUs that are not here, and its benchmark.

The interpreter must be chosen before Triton is imported, and another test of the same process may have imported it. So
the kernel runs in a process of its own.
"""

import importlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmbook.attention import causal_mask, scaled_dot_product_attention
from llmbook.flash import D_HEADS, flash_attention

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is an optional extra for Linux"
)


@pytest.fixture(scope="module")
def interpreter():
    """Run flash_attention in a process in which Triton interprets."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(len, ()).result()  # starts the process, with the environment as it is now
        yield lambda *args, **options: pool.submit(flash_attention, *args, **options).result(timeout=300)


def inputs(batch=1, heads=2, queries=24, keys=None, d_head=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys = queries if keys is None else keys
    shapes = [(batch, heads, time, d_head) for time in (queries, keys, keys)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def exact(query, key, value, causal=False, scale=None):
    mask = causal_mask(query.shape[2], key.shape[2]) if causal else None
    return scaled_dot_product_attention(query.double(), key.double(), value.double(), mask, scale)[0]


# --- the right numbers ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [(64, 64), (50, 50), (7, 33), (1, 40), (1, 1), (33, 34)],
    ids=lambda length: str(length),
)
def test_kernel_equals_the_exact_result(interpreter, queries, keys, causal, dtype):
    parts = inputs(queries=queries, keys=keys, dtype=dtype)
    output = interpreter(*parts, causal, rows=32, cols=16)
    assert output.dtype == dtype and output.shape == parts[0].shape
    assert (output.double() - exact(*parts, causal)).abs().max() < TOLERANCE[dtype]


@needs_triton
@pytest.mark.parametrize("d_head", D_HEADS)
def test_every_width_with_the_kernels_own_blocks(interpreter, d_head):
    parts = inputs(batch=2, queries=40, d_head=d_head)
    assert (interpreter(*parts, causal=True).double() - exact(*parts, True)).abs().max() < 1e-5


@pytest.mark.slow
@needs_triton
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    queries=st.integers(1, 40),
    earlier=st.integers(0, 40),
    rows=st.sampled_from([16, 32]),
    cols=st.sampled_from([16, 32, 64]),
    causal=st.booleans(),
    scale=st.none() | st.floats(0.05, 1.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_lengths_blocks_and_scales_of_any_size(interpreter, queries, earlier, rows, cols, causal, scale, seed):
    parts = inputs(queries=queries, keys=queries + earlier, seed=seed)
    output = interpreter(*parts, causal, scale, rows=rows, cols=cols)
    assert (output.double() - exact(*parts, causal, scale)).abs().max() < 2e-5


@needs_triton
def test_equals_torchs_function_on_inputs_that_are_not_contiguous(interpreter):
    parts = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in inputs(batch=2, heads=3, queries=20)]
    assert not parts[0].is_contiguous()
    output = interpreter(*parts, causal=True)
    assert torch.allclose(output, F.scaled_dot_product_attention(*parts, is_causal=True), atol=1e-5)


@needs_triton
def test_scores_that_would_overflow(interpreter):
    query, key, value = inputs()
    output = interpreter(100 * query, 100 * key, value)
    assert output.isfinite().all()
    assert (output.double() - exact(100 * query, 100 * key, value)).abs().max() < 1e-3


@needs_triton
def test_the_future_does_not_matter(interpreter):
    query, key, value = inputs(queries=20, keys=30)  # query i stands at place i + 10
    before = interpreter(query, key, value, causal=True, rows=16, cols=16)
    key[:, :, 25:], value[:, :, 25:] = 50.0, 1e6
    after = interpreter(query, key, value, causal=True, rows=16, cols=16)
    assert torch.equal(before[:, :, :15], after[:, :, :15])
    assert not torch.isclose(before[:, :, 15:], after[:, :, 15:]).any()


# --- what it does not take ------------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: ((q[0], k, v), {}), r"query \(2, 24, 16\).*it takes \(batch, heads, time, d_head\)"),
        (lambda q, k, v: ((q, k[:, :1], v), {}), "alike but for the time of the queries"),
        (lambda q, k, v: ((q, k, v[:, :, :3]), {}), "alike but for the time of the queries"),
        (lambda q, k, v: ((q, k[:, :1], v[:, :1]), {}), "alike but for the time of the queries"),
        (lambda q, k, v: ((q[:, :, :0], k, v), {}), "at least one query and one key"),
        (lambda q, k, v: ((q[..., :12], k[..., :12], v[..., :12]), {}), "d_head=12: the kernel takes .*pad"),
        (lambda q, k, v: ((q.double(), k.double(), v.double()), {}), "float64.*float16, bfloat16 or float32"),
        (lambda q, k, v: ((q.half(), k, v), {}), "pass all three as"),
        (lambda q, k, v: ((q, k[:, :, :9], v[:, :, :9], True), {}), "24 queries and 9 keys"),
        (lambda q, k, v: ((q.requires_grad_(), k, v), {}), "forward pass only"),
        (lambda q, k, v: ((q, k, v), {"rows": 24}), "rows=24: it takes a power of two from 16 up"),
        (lambda q, k, v: ((q, k, v), {"cols": 8}), "cols=8: it takes a power of two"),
    ],
)
def test_bad_input_is_refused_with_a_reason(interpreter, change, message):
    arguments, options = change(*inputs())
    with pytest.raises(ValueError, match=message):
        interpreter(*arguments, **options)


def python(code, **environment):
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, cwd=ROOT)


CALL = "import torch; from llmbook.flash import flash_attention; x = torch.randn(1, 1, 4, 16); flash_attention(x, x, x)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "environment", "message"),
    [
        ("import sys; sys.modules['triton'] = None; ", {}, "on Linux, pip install triton; elsewhere"),
        pytest.param("", {}, "set TRITON_INTERPRET=1", marks=needs_triton),
        pytest.param(
            "import triton, os; os.environ['TRITON_INTERPRET'] = '1'; ", {}, "before anything imports triton",
            marks=needs_triton,
        ),
        pytest.param("", {"TRITON_INTERPRET": "1"}, None, marks=needs_triton),
    ],
    ids=["no triton", "no interpreter", "interpreter too late", "interpreter"],
)  # fmt: skip
@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_what_is_missing_is_named(before, environment, message):
    done = python(before + CALL, **environment)
    if message is None:
        assert done.returncode == 0, done.stderr
    else:
        assert "RuntimeError" in done.stderr and message in done.stderr


# --- for GPUs that are not here ---------------------------------------------------------------------------------------

COMPILE = """
import json, subprocess, sys, tempfile, torch, triton
from pathlib import Path
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from llmbook import flash
tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
found = []
for capability, name, d_head in json.loads(sys.argv[1]):
    class Query:  # what blocks() asks of a tensor on that GPU
        is_cuda, device, dtype, shape = True, None, getattr(torch, name), (1, 1, 1, d_head)
    torch.cuda.get_device_capability = lambda device: divmod(capability, 10)
    rows, cols, warps = flash.blocks(Query())
    constants = {"CAUSAL": True, "D": d_head, "ROWS": rows, "COLS": cols}
    pointer = "*" + {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[name]
    signature = dict.fromkeys(("query", "key", "value", "output"), pointer)
    signature |= {"queries": "i32", "keys": "i32", "scale": "fp32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(flash.kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in range(4)})
    done = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": warps, "num_stages": 2})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(done.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    stack, ptx = int(usage.split("STACK:")[1].split()[0]), done.asm["ptx"]
    found.append([done.metadata.shared, stack, "wgmma" in ptx, "mma.sync" in ptx])
print(json.dumps(found))
"""
GPUS = {
    "T4": (75, "float16", 128, 64, None),  # Colab's: little shared memory, and Triton leaves its tensor cores alone
    "A100": (80, "bfloat16", 64, 163, "mma.sync"),
    "RTX 30": (86, "bfloat16", 128, 99, "mma.sync"),
    "H100, H200": (90, "bfloat16", 128, 227, "wgmma"),
    "H100, exact": (90, "float32", 128, 227, None),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    cases = json.dumps([gpu[:3] for gpu in GPUS.values()])
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, cases], capture_output=True, text=True, cwd=ROOT,
        env=variables | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(GPUS, json.loads(done.stdout), strict=True))


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("gpu", GPUS)
def test_kernel_compiles_for_gpus_without_spilling(compiled, gpu):
    *_, shared_kib, units = GPUS[gpu]
    shared, stack, hopper, ampere = compiled[gpu]
    assert shared <= shared_kib * 1024
    assert stack == 0  # no register spills to memory
    assert (hopper, ampere) == (units == "wgmma", units == "mma.sync")


# --- the benchmark --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_triton
def test_benchmark_checks_times_and_records(tmp_path):
    result = tmp_path / "attention.json"
    arguments = ["--device", "cpu", "--lengths", "32", "48", "--d-heads", "16", "--dtypes", "float32", "--tokens", "64"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "ch03_attention.py", *arguments, "--width", "32", "--matrix", "64",
         "--result", result],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(result.read_text(encoding="utf8"))
    assert {"command", "date", "commit", "device", "cuda", "machine", "versions", "peak", "runs"} == set(record)
    assert set(record["peak"]) == {"float32", "copy_gb_per_s"} and min(record["peak"].values()) > 0
    combinations = {(run["kernel"], run["causal"], run["length"]) for run in record["runs"]}
    assert combinations == {
        (kernel, causal, length)
        for kernel in ("triton", "sdpa-flash", "eager")
        for causal in (False, True)
        for length in (32, 48)
    }
    for run in record["runs"]:
        operations = 4 * run["batch"] * run["heads"] * run["length"] ** 2 * 16 / (2 if run["causal"] else 1)
        assert math.isclose(run["tflops"] * 1e12 * run["seconds"], operations)
        assert run["largest_error"] < 1e-5
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
@needs_triton
def test_benchmark_says_that_there_is_no_gpu(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "ch03_attention.py", "--result", tmp_path / "attention.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "finds no GPU" in done.stderr
    assert not (tmp_path / "attention.json").exists()
