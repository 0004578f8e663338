"""runtime, metrics and tokenization: the small modules that everything stands on."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook import runtime
from llmbook.metrics import bits_per_byte, perplexity
from llmbook.tokenization import END_OF_TEXT, encode_documents, train_byte_bpe

SAMPLE = ["Return the sum of array elements over a given axis.", "Naïve café: 语言模型 🙂", "def f(x):\n    return x"]


@pytest.fixture
def decide(monkeypatch):
    """Decide anew under the given environment, and put this process back as it was."""
    threads = torch.get_num_threads()

    def decided(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"LLMBOOK_{name.upper()}", value)
        return runtime.setup.__wrapped__()

    yield decided
    torch.set_num_threads(threads)


def test_long_trainings_take_bfloat16_where_the_processor_has_it(decide, monkeypatch):
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has)
        chosen = decide(device="cpu")
        assert (chosen.dtype, chosen.fast_dtype) == (torch.float32, dtype)
        with chosen.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
        assert ("long trainings in bfloat16" in str(chosen)) == has
    assert decide(device="cpu", precision="bfloat16").fast_dtype == torch.bfloat16


def test_environment_variables_override(decide):
    chosen = decide(device="cpu", precision="bfloat16", threads="1", seed="7", scale="full")
    assert str(chosen) == "device cpu | bfloat16 | 1 thread | seed 7 | scale full"
    assert chosen.pick(small=1, full=2) == 2
    assert chosen.generator().initial_seed() == 7
    assert chosen.generator(3).initial_seed() == 3


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("device", "tpu", "cpu, cuda, mps"),
        ("precision", "int8", "float32"),
        ("threads", "0", "from 1 up"),
        ("threads", "two", "from 1 up"),
        ("seed", "-1", "from 0 up"),
        ("scale", "huge", "small, full"),
    ],
)
def test_a_bad_variable_is_named_with_what_it_takes(decide, name, value, allowed):
    with pytest.raises(ValueError, match=f"LLMBOOK_{name.upper()}='{value}'.*{allowed}"):
        decide(**{name: value})


def test_an_absent_device_is_named(decide, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"LLMBOOK_DEVICE=.cuda.: torch finds no such device"):
        decide(device="cuda")


@pytest.mark.slow
def test_setup_decides_once_and_seeds():
    code = (
        "import torch; from llmbook import runtime; a = runtime.setup(); x = torch.rand(1);"
        "assert runtime.setup() is a; print(x.item(), torch.rand(1).item())"
    )
    environment = {**os.environ, "LLMBOOK_SEED": "5", "LLMBOOK_DEVICE": "cpu"}
    outputs = {subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) for _ in range(2)}
    assert len(outputs) == 1


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30))
def test_perplexity_is_the_inverse_geometric_mean(probabilities):
    expected = math.prod(probabilities) ** (-1 / len(probabilities))
    assert perplexity(np.log(probabilities)) == pytest.approx(expected)


def test_a_uniform_model_of_bytes_needs_eight_bits_however_it_is_cut():
    assert bits_per_byte(np.full(10, math.log(1 / 256)), 10) == pytest.approx(8)
    assert bits_per_byte(np.full(5, math.log(1 / 256**2)), 10) == pytest.approx(8)


def test_perplexity_equals_exponentiated_cross_entropy():
    logits, labels = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 5
    log_probs = logits.log_softmax(-1)[torch.arange(9), labels]
    assert perplexity(log_probs) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels).exp()))


def test_metrics_of_nothing_are_errors():
    with pytest.raises(ValueError, match="empty"):
        perplexity([])
    with pytest.raises(ValueError, match="num_bytes=0"):
        bits_per_byte([-1.0], 0)


@given(st.text(max_size=60))
@settings(deadline=None)
def test_byte_bpe_gives_any_text_back(text):
    tokenizer = train_byte_bpe(SAMPLE, 300)
    ids = encode_documents(tokenizer, [text])[0]
    assert ids[-1] == tokenizer.token_to_id(END_OF_TEXT) == 0
    assert tokenizer.decode(ids[:-1].tolist()) == text.replace(END_OF_TEXT, "")


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size=100"):
        train_byte_bpe(SAMPLE, 100)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's count of pages")
def test_free_memory_goes_back_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytearray(b"1" * 100_000) for _ in range(2000)]
    kept = blocks[::20]  # so that what is free lies between what is not
    del blocks
    before = resident()
    runtime.release_memory()
    assert resident() < before - 100e6 and len(kept) == 100
