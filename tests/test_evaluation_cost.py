"""Costs: what is counted is exact; what is timed is only there and in order."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ch17_cost
from llmbook import hub, scaling
from llmbook.evaluation import cost
from llmbook.transformer import Decoder, Encoder, TransformerConfig


def decoder(**changes):
    torch.manual_seed(0)
    shape = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_key_value_heads": 2} | changes
    return Decoder(TransformerConfig(50, **shape)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 17)])
def test_the_formula_is_what_the_cache_takes(dtype, batch, length):
    model = decoder().to(dtype)
    cache = model(torch.zeros(batch, length, dtype=torch.long), use_cache=True).past_key_values
    size = torch.finfo(dtype).bits // 8
    assert cost.measured_cache_bytes(cache) == scaling.cache_bytes(model.config, batch, length, size)


def test_the_cache_of_transformers_takes_the_same():
    model = decoder()
    cache = hub.to_hf(model)(torch.zeros(2, 9, dtype=torch.long), use_cache=True).past_key_values
    pairs = [(layer.keys, layer.values) for layer in cache.layers]
    assert cost.measured_cache_bytes(pairs) == scaling.cache_bytes(model.config, 2, 9)


def test_tied_weights_count_once():
    model = decoder()
    assert cost.weight_bytes(model) == 4 * sum(p.numel() for p in model.parameters())
    assert cost.weight_bytes(decoder(tie_embeddings=False)) == cost.weight_bytes(model) + 4 * 50 * 32


def test_a_generation_is_timed_with_medians_of_both_phases():
    timing = cost.time_generation(decoder(), torch.zeros(2, 5, dtype=torch.long), max_new_tokens=4, repeats=3)
    assert (timing.batch, timing.prompt, timing.new) == (2, 5, 4)
    assert timing.first_token > 0 and timing.per_token > 0
    assert np.isclose(timing.throughput, 8 / (timing.first_token + 3 * timing.per_token))


def test_the_peak_holds_the_cache_and_the_logits_and_grows_with_the_prompt():
    model = decoder()
    small, large = (torch.zeros(2, length, dtype=torch.long) for length in (32, 128))
    peaks = [cost.peak_bytes(model, ids) for ids in (small, large)]
    for ids, peak in zip((small, large), peaks, strict=True):
        assert peak >= scaling.cache_bytes(model.config, *ids.shape) + ids.numel() * 50 * 4
    assert 3 < peaks[1] / peaks[0] < 5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_nobody_on_the_front_is_beaten_and_everybody_off_it_is(systems):
    costs, goods = zip(*systems, strict=True)
    for (c, g), kept in zip(systems, cost.cheapest(costs, goods), strict=True):
        beaten = any(a <= c and b >= g and (a, b) != (c, g) for a, b in systems)
        assert kept != beaten


def test_the_benchmark_measures_what_it_says(tmp_path, monkeypatch):
    for name, value in {"BATCHES": (1, 2), "LENGTHS": (4,), "NEW": 2}.items():
        monkeypatch.setattr(ch17_cost, name, value)
    model = Decoder(TransformerConfig(4096, d_model=16, num_layers=1, num_heads=2)).eval()
    with torch.no_grad():
        runs = ch17_cost.timings(model, "float32", [])
        assert ch17_cost.timings(model, "float32", runs) == []
    found = ch17_cost.bits_and_seconds(model, [np.arange(100) % 7], num_bytes=100, context=16)
    assert [run["batch"] for run in runs] == [1, 2]
    assert abs(found["bits_per_byte"] - np.log2(4096)) < 1.5 and found["seconds_per_1000"] > 0
    assert all(run["cache_bytes"] == run["cache_formula"] < run["peak_bytes"] for run in runs)
    json.dumps(runs)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cost.time_generation(Encoder(TransformerConfig.bert(9, d_model=8)), torch.zeros(1, 1), 2), "Encoder"),
        (lambda: cost.time_generation(decoder(), torch.zeros(1, 0).long(), 2), "at least one token"),
        (lambda: cost.time_generation(decoder(), torch.zeros(1, 2).long(), 1), "2 or more"),
        (lambda: scaling.cache_bytes(decoder().config, 0, 5), "1 or more"),
        (lambda: cost.cheapest([1, 2], [1]), "one of each"),
        (lambda: cost.cheapest([], []), "one of each"),
    ],
)
def test_what_cannot_be_measured_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
