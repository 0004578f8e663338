import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from transformers import LlamaConfig, MptConfig, T5Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gptj import modeling_gptj
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.mpt.modeling_mpt import MptModel
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings

import ch04_positions
from llmbook.attention import MultiHeadAttention, causal_mask, scaled_dot_product_attention
from llmbook.positions import (
    RelativePositionBias,
    alibi_bias,
    alibi_slopes,
    apply_rotary,
    relative_position_bucket,
    rotary,
    sinusoidal,
)
from llmbook.transformer import Decoder, TransformerConfig

seeds = st.integers(0, 2**31)
even = st.integers(1, 16).map(lambda half: 2 * half)
places = st.integers(0, 4096)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def at(place: float, d_head: int, base: float = 10_000.0) -> tuple[torch.Tensor, torch.Tensor]:
    return rotary(torch.tensor([float(place)]), d_head, base)


# --- order without positions ----------------------------------------------------------------------------------------


@given(st.integers(1, 9), seeds)
@settings(max_examples=30, deadline=None)
def test_attention_is_permutation_equivariant(time, seed):
    torch.manual_seed(seed)
    attention = MultiHeadAttention(12, num_heads=3).double()
    hidden, order = normal(2, time, 12, seed=seed, dtype=torch.float64), torch.randperm(time)
    assert_close(attention(hidden[:, order])[0], attention(hidden)[0][:, order], atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["sinusoidal", "rotary", "alibi", "t5", "causal"])
def test_positions_or_a_causal_mask_break_the_symmetry(kind):
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, num_heads=4)
    hidden, order = normal(1, 8, 16), torch.randperm(8)
    added = sinusoidal(8, 16) if kind == "sinusoidal" else 0
    mask = {"alibi": alibi_bias(4, 8), "t5": RelativePositionBias(4)(8), "causal": causal_mask(8)}.get(kind)
    angles = rotary(torch.arange(8), 4) if kind == "rotary" else None

    def run(x):
        return attention(x + added, attention_mask=mask, rotary=angles)[0]

    assert (run(hidden[:, order]) - run(hidden)[:, order]).abs().max() > 1e-2


@given(st.integers(2, 9), seeds)
@settings(max_examples=30, deadline=None)
def test_one_causal_layer_without_positions_sees_a_bag_and_two_see_order(time, seed):
    torch.manual_seed(seed)
    layers = [MultiHeadAttention(12, num_heads=3).double() for _ in range(2)]
    hidden = normal(1, time, 12, seed=seed, dtype=torch.float64)
    order = torch.cat([torch.arange(time - 1).flip(0), torch.tensor([time - 1])])

    def last(x, num_layers):
        for layer in layers[:num_layers]:
            x = x + layer(x, attention_mask=causal_mask(time))[0]
        return x[:, -1]

    assert_close(last(hidden[:, order], 1), last(hidden, 1), atol=1e-10, rtol=0)
    if time > 2:
        assert (last(hidden[:, order], 2) - last(hidden, 2)).abs().max() > 1e-8


# --- sinusoids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "d_model"), [(1, 2), (64, 16), (512, 64), (100, 512)])
def test_sinusoids_equal_those_of_xlm_and_marian(length, d_model):
    ours = sinusoidal(length, d_model)
    assert_close(ours, create_sinusoidal_embeddings(length, d_model, torch.empty(length, d_model)), atol=1e-4, rtol=0)
    halves = torch.cat([ours[:, 0::2], ours[:, 1::2]], dim=1)
    marian = MarianSinusoidalPositionalEmbedding(length, d_model).create_weight()
    assert_close(halves, marian.float(), atol=1e-4, rtol=0)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), even)
@settings(max_examples=50, deadline=None)
def test_dot_products_of_sinusoids_depend_on_the_distance(m, n, shift, d_model):
    p = sinusoidal(1001, d_model).double()
    assert_close(p[m] @ p[n], p[m + shift] @ p[n + shift], atol=2e-4 * d_model, rtol=0)
    assert p[m] @ p[n] <= d_model / 2 + 1e-4


# --- rotary positions -----------------------------------------------------------------------------------------------


@given(places, places, places, even, st.sampled_from([10.0, 10_000.0, 500_000.0]), seeds)
@settings(max_examples=100, deadline=None)
def test_rotary_scores_depend_on_the_distance_only(m, n, shift, d_head, base, seed):
    query, key = normal(2, 1, d_head, seed=seed)

    def score(m, n):
        return apply_rotary(query, *at(m, d_head, base)) @ apply_rotary(key, *at(n, d_head, base)).T

    # angles are held in single precision: at place 8192 to about 1/2000 of a radian
    tolerance = 2e-3 * float(query.norm() * key.norm())
    assert_close(score(m + shift, n + shift), score(m, n), atol=tolerance, rtol=0)


@given(places, even, seeds)
@settings(max_examples=50, deadline=None)
def test_turning_keeps_lengths_and_place_zero_turns_nothing(place, d_head, seed):
    features = normal(3, 1, d_head, seed=seed)
    assert_close(apply_rotary(features, *at(place, d_head)).norm(dim=-1), features.norm(dim=-1))
    assert_close(apply_rotary(features, *at(0, d_head)), features)


@given(st.integers(0, 2000), st.integers(0, 2000), even, seeds)
@settings(max_examples=50, deadline=None)
def test_two_turns_are_one_turn_by_the_sum(m, n, d_head, seed):
    features = normal(1, d_head, seed=seed)
    twice = apply_rotary(apply_rotary(features, *at(m, d_head)), *at(n, d_head))
    tolerance = 1e-3 * float(features.norm())
    assert_close(twice, apply_rotary(features, *at(m + n, d_head)), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("d_head", "base"), [(8, 10_000.0), (64, 10_000.0), (128, 500_000.0)])
def test_equals_hugging_faces_llama(d_head, base):
    parameters = {"rope_type": "default", "rope_theta": base}
    llama = LlamaRotaryEmbedding(LlamaConfig(hidden_size=4 * d_head, num_attention_heads=4, rope_parameters=parameters))
    query, key = normal(2, 2, 4, 50, d_head)
    position_ids = torch.arange(100, 150)[None]
    cos, sin = llama(query, position_ids)
    ours = rotary(position_ids[0], d_head, base)
    assert_close(ours, (cos[0], sin[0]), atol=1e-6, rtol=0)
    theirs = apply_rotary_pos_emb(query, key, cos, sin)
    assert_close((apply_rotary(query, *ours), apply_rotary(key, *ours)), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_squeezed_positions_equal_hugging_faces_linear_scaling(factor):
    parameters = {"rope_type": "linear", "factor": factor, "rope_theta": 10_000.0}
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=parameters)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(300)[None])
    assert_close(rotary(torch.arange(300) / factor, 16), (cos[0], sin[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("position_ids", [torch.arange(40), torch.tensor([[0, 5, 9000], [1, 2, 3]])])
def test_other_frequencies_turn_the_planes_at_their_speeds(position_ids):
    base = 10_000 ** -(torch.arange(0, 16, 2) / 16)
    assert_close(rotary(position_ids, 16, frequencies=base), rotary(position_ids, 16), atol=2e-3, rtol=0)
    assert_close(rotary(position_ids, 16, frequencies=base / 4), rotary(position_ids / 4, 16), atol=2e-3, rtol=0)


@pytest.mark.parametrize("way", ["squeezed", "raised_base", "by_parts"])
@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_the_chapters_ways_slow_the_last_plane_by_the_factor_and_none_more(chapter, way, factor):
    theta = chapter.speeds_of(64, 10_000.0)
    changed = getattr(chapter, way)(theta, factor, 2048)
    assert_close(changed[-1], theta[-1] / factor)
    assert ((theta / factor <= changed * 1.0001) & (changed <= theta * 1.0001)).all()
    if way != "squeezed":
        assert_close(changed[0], theta[0])


def test_gptjs_layout_differs_by_the_order_of_the_features():
    query, key = normal(2, 1, 4, 30, 16)  # (batch, heads, time, d_head) each
    sin, cos = modeling_gptj.create_sinusoidal_positions(30, 16).chunk(2, dim=-1)
    theirs = [
        modeling_gptj.apply_rotary_pos_emb(part.transpose(1, 2), sin[None], cos[None]).transpose(1, 2)
        for part in (query, key)
    ]
    halves = torch.cat([torch.arange(0, 16, 2), torch.arange(1, 16, 2)])
    angles = rotary(torch.arange(30), 16)
    ours = [apply_rotary(part[..., halves], *angles) for part in (query, key)]
    assert_close(ours[0], theirs[0][..., halves])
    assert_close(ours[0] @ ours[1].mT, theirs[0] @ theirs[1].mT, atol=1e-4, rtol=0)
    mixed = apply_rotary(query, *angles) @ apply_rotary(key, *angles).mT
    assert (mixed - theirs[0] @ theirs[1].mT).abs().max() > 1


def test_positions_of_a_batch():
    features, position_ids = normal(3, 4, 5, 8), torch.randint(0, 50, (3, 5))
    together = apply_rotary(features, *rotary(position_ids[:, None], 8))  # (batch, heads, time, d_head)
    one_by_one = [apply_rotary(f, *rotary(p, 8)) for f, p in zip(features, position_ids, strict=True)]
    assert_close(together, torch.stack(one_by_one))


def test_turned_features_keep_their_type_and_pass_gradients():
    features = normal(5, 8).to(torch.bfloat16).requires_grad_()
    turned = apply_rotary(features, *rotary(torch.arange(5), 8))
    assert turned.dtype == torch.bfloat16
    turned.sum().backward()
    assert features.grad.isfinite().all()


# --- ALiBi and T5 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_heads", [1, 2, 3, 4, 6, 8, 12, 16, 20, 71])
def test_alibi_gives_the_attention_of_bloom_and_mpt(num_heads):
    time = 17
    mask = causal_mask(time)
    scores = normal(num_heads, time, time).masked_fill(~mask, -math.inf)
    bloom = build_alibi_tensor(torch.ones(1, time), num_heads, torch.float32)  # (heads, 1, key)
    ours = (scores + alibi_bias(num_heads, time)).softmax(-1)
    assert_close(ours, (scores + bloom).softmax(-1), atol=1e-5, rtol=0)
    if num_heads & (num_heads - 1) == 0:  # MPT orders the slopes of other numbers differently
        model = MptModel(MptConfig(d_model=2 * num_heads, n_heads=num_heads, n_layers=1, vocab_size=10))
        mpt = model.build_mpt_alibi_tensor(num_heads, time)
        assert_close(ours, (scores + mpt).softmax(-1), atol=1e-5, rtol=0)


@given(st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_slopes_are_positive_distinct_and_at_most_one(num_heads):
    slopes = alibi_slopes(num_heads)
    assert slopes.shape == (num_heads,) and (slopes > 0).all() and (slopes <= 1).all()
    assert len(slopes.unique()) == num_heads


def test_alibi_falls_with_the_distance_to_both_sides():
    bias = alibi_bias(4, 6)
    for query, key in itertools.product(range(6), range(6)):
        assert_close(bias[:, query, key], -alibi_slopes(4) * abs(query - key))


@pytest.mark.parametrize("make", [lambda q, k: alibi_bias(4, q, k), lambda q, k: RelativePositionBias(4)(q, k)])
def test_with_a_cache_the_queries_are_the_last_keys(make):
    torch.manual_seed(0)
    whole = make(9, 9)
    torch.manual_seed(0)
    assert_close(make(2, 9), whole[:, -2:])


@given(
    st.lists(st.integers(-100_000, 100_000), min_size=1, max_size=20),
    st.booleans(),
    st.sampled_from([8, 16, 32, 64]),
    st.sampled_from([64, 128, 1000]),
)
@settings(max_examples=100, deadline=None)
def test_buckets_equal_hugging_faces_t5(distances, bidirectional, num_buckets, max_distance):
    distance = torch.tensor(distances)
    ours = relative_position_bucket(distance, bidirectional, num_buckets, max_distance)
    theirs = T5Attention._relative_position_bucket(distance, bidirectional, num_buckets, max_distance)
    assert_close(ours, theirs)
    assert (ours >= 0).all() and (ours < num_buckets).all()


@pytest.mark.parametrize("decoder", [True, False])
def test_bias_equals_hugging_faces_t5(decoder):
    config = T5Config(d_model=16, num_heads=4, d_kv=4, is_decoder=decoder)
    theirs = T5Attention(config, has_relative_attention_bias=True)
    ours = RelativePositionBias(4, bidirectional=not decoder)
    ours.table.load_state_dict(theirs.relative_attention_bias.state_dict())
    assert_close(ours(40), theirs.compute_bias(40, 40)[0])


def test_far_tokens_share_a_bucket_and_near_ones_do_not():
    buckets = relative_position_bucket(-torch.arange(3000), bidirectional=False)
    assert buckets[:16].tolist() == list(range(16))
    assert (buckets.diff() >= 0).all() and (buckets[128:] == 31).all()


# --- what the chapter uses them for ---------------------------------------------------------------------------------


def test_rotary_and_biases_make_attention_independent_of_where_the_text_stands():
    query, key, value = normal(3, 1, 12, 8)
    for start in (0, 7, 500):
        angles = rotary(torch.arange(12) + start, 8)
        output, _ = scaled_dot_product_attention(
            apply_rotary(query, *angles), apply_rotary(key, *angles), value, causal_mask(12)
        )
        if start == 0:
            first = output
        assert_close(output, first, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def chapter(engine):
    return engine(ch04_positions)


def test_the_chapters_engine_trains_every_scheme(chapter):
    text = torch.arange(12_000) % 30  # each byte tells the next one
    for position in chapter.SCHEMES:
        run = ch04_positions.order_run(chapter, "first", position, seed=0, steps=3)
        assert set(chapter.RANGES) < set(run) and 0 <= run["257-512"] <= 1
        assert len(run["curve"]) == len(chapter.EDGES) - 1
    for model in ch04_positions.LANGUAGE:
        run = ch04_positions.language_run(chapter, model, 0, text, text[: chapter.HELD_OUT], layers=1)
        assert len(run["bits_per_byte"]) == len(chapter.EDGES) - 1
        assert run["bits_per_byte"][3] < 4, model  # of eight; inside the training length


def test_a_sliding_window_hides_what_is_farther_back(chapter):
    torch.manual_seed(0)
    model = chapter.TinyDecoder("rope", 16, window=4).eval()
    ids = torch.randint(0, 16, (1, 20))
    changed = ids.clone()
    changed[0, 10] = (ids[0, 10] + 1) % 16
    same = (model(ids) - model(changed)).abs().amax(-1)[0] < 1e-6
    assert same.tolist() == [place not in range(10, 14) for place in range(20)]


def test_reading_in_chunks_costs_what_one_pass_costs(chapter):
    torch.manual_seed(0)
    model = Decoder(TransformerConfig(50, d_model=32, num_layers=2, num_heads=2)).eval()
    ids = torch.randint(0, 50, (23,))
    chapter.set_speeds(model, chapter.raised_base(chapter.speeds_of(16, 10_000.0), 4.0, 512))
    with torch.no_grad():
        logits = model(ids[None, :-1]).logits[0]
    whole = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none") / math.log(2)
    assert_close(chapter.read(model, ids, chunk=8), whole)
    alone = chapter.read(model, ids, chunk=8, together=False)
    assert_close(alone[:8], whole[:8])
    assert (alone[9:] - whole[9:]).abs().max() > 1e-4


def test_the_chapters_measure_reads_the_same_bytes_at_every_place(chapter):

    class Remembers(nn.Module):  # costs depend on the byte alone
        def forward(self, ids):
            return torch.arange(256.0).log_softmax(0).expand(*ids.shape, 256)

    text = torch.randint(0, 256, (chapter.HELD_OUT,), generator=torch.Generator().manual_seed(0))
    bits = torch.from_numpy(chapter.bits(Remembers(), text)).view(-1, chapter.TRAINED)
    assert_close(bits, bits[:1].expand_as(bits), atol=1e-4, rtol=0)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinusoidal(10, 7), "7 features: positions turn planes of two"),
        (lambda: sinusoidal(-1, 8), "length=-1"),
        (lambda: rotary(torch.arange(4), 0), "0 features"),
        (lambda: rotary(torch.arange(4).bfloat16(), 8), "exactly only up to 256"),
        (lambda: rotary(torch.arange(4).half(), 8), "exactly only up to 2048"),
        (lambda: rotary(torch.arange(4), 8, frequencies=torch.ones(8)), r"shape \(8,\): heads of 8 features take one"),
        (lambda: apply_rotary(normal(5, 8), *rotary(torch.arange(4), 8)), r"\(5, 8\), the angles \(4, 8\)"),
        (lambda: apply_rotary(normal(5, 8), *rotary(torch.arange(5), 4)), r"\(5, 8\), the angles \(5, 4\)"),
        (lambda: apply_rotary(normal(3, 4, 5, 8), *rotary(torch.zeros(3, 5), 8)), r"rotary\(positions\[:, None\]"),
        (lambda: apply_rotary(normal(5, 8), *rotary(torch.zeros(2, 5), 8)), "do not broadcast"),
        (lambda: alibi_slopes(0), "num_heads=0"),
        (lambda: alibi_bias(2, 5, 3), "5 queries and 3 keys"),
        (lambda: RelativePositionBias(2)(5, 3), "5 queries and 3 keys"),
        (lambda: relative_position_bucket(torch.zeros(2)), "whole numbers"),
        (lambda: relative_position_bucket(torch.arange(2), num_buckets=2), "num_buckets=2: it takes at least 4"),
        (lambda: relative_position_bucket(torch.arange(2), max_distance=8), "max_distance=8: the 8 nearest"),
        (lambda: RelativePositionBias(2, num_buckets=7), "num_buckets=7"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
