"""Attention against PyTorch and Hugging Face, its backward pass against autograd, and what bad input gives."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmbook.attention import (
    MultiHeadAttention,
    attention_backward,
    blockwise_attention,
    causal_mask,
    masked_softmax,
    padding_mask,
    scaled_dot_product_attention,
)

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)


def tensors(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def query_key_value(batch=(2, 3), queries=6, keys=9, d_k=8, d_v=5, **options):
    return tensors((*batch, queries, d_k), (*batch, keys, d_k), (*batch, keys, d_v), **options)


def random_mask(*shape, seed=0, share=0.6):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


any_attention = given(
    queries=sizes,
    keys=sizes,
    d_k=sizes,
    d_v=sizes,
    masked=st.booleans(),
    scale=st.none() | st.floats(0.1, 2),
    seed=seeds,
)


# --- one head -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@any_attention
def test_equals_torchs_function(queries, keys, d_k, d_v, masked, scale, seed):
    query, key, value = query_key_value((2, 3), queries, keys, d_k, d_v, seed=seed)
    mask = random_mask(2, 1, queries, keys, seed=seed) if masked else None
    output, weights = scaled_dot_product_attention(query, key, value, mask, scale)
    assert_close(output, F.scaled_dot_product_attention(query, key, value, mask, scale=scale))
    assert_close(weights @ value, output)


@settings(max_examples=40, deadline=None)
@given(queries=sizes, keys=sizes, seed=seeds)
def test_rows_are_distributions_over_what_may_be_seen(queries, keys, seed):
    query, key, value = query_key_value((2,), queries, keys, seed=seed)
    mask = random_mask(2, queries, keys, seed=seed, share=0.4)
    _, weights = scaled_dot_product_attention(query, key, value, mask)
    assert not weights[~mask].any()
    assert_close(weights.sum(-1), mask.any(-1).double())  # 1, or 0 where nothing may be seen


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_order_of_the_entries_does_not_matter(seed):
    query, key, value = query_key_value(seed=seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    expected, _ = scaled_dot_product_attention(query, key, value)
    assert_close(scaled_dot_product_attention(query, key[..., order, :], value[..., order, :])[0], expected)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, shift=st.floats(-50, 50))
def test_softmax_ignores_what_all_scores_have_in_common(seed, shift):
    (scores,) = tensors((3, 4, 7), seed=seed)
    mask = random_mask(3, 4, 7, seed=seed)
    assert_close(masked_softmax(scores + shift, mask), masked_softmax(scores, mask))


def test_a_bias_is_added_to_the_scores():
    query, key, value = query_key_value()
    (bias,) = tensors((3, 6, 9), seed=1)
    output, _ = scaled_dot_product_attention(query, key, value, bias)
    assert_close(output, F.scaled_dot_product_attention(query, key, value, bias))


@pytest.mark.parametrize("kind", ["boolean", "minus infinity"])
def test_a_fully_masked_row_gives_zeros_and_finite_gradients(kind):
    inputs = [part.requires_grad_() for part in query_key_value()]
    mask = torch.ones(6, 9, dtype=torch.bool)
    mask[2] = False
    if kind != "boolean":
        mask = torch.zeros(6, 9, dtype=torch.float64).masked_fill(~mask, -math.inf)
    output, weights = scaled_dot_product_attention(*inputs, mask)
    assert not output[:, :, 2].any() and not weights[:, :, 2].any()
    gradients = torch.autograd.grad(output.square().sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][:, :, 2].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masks_work_in_half_precision(dtype):
    query, key, value = query_key_value(dtype=dtype)
    mask = causal_mask(6, 9) & padding_mask(torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9]))
    output, weights = scaled_dot_product_attention(query, key, value, mask)
    exact, _ = scaled_dot_product_attention(query.double(), key.double(), value.double(), mask)
    assert output.dtype == weights.dtype == dtype
    assert_close(output.double(), exact, atol=3e-2, rtol=3e-2)


def test_nan_weights_are_not_hidden():
    query, key, value = query_key_value()
    query[0, 0, 0, 0] = math.nan
    output, _ = scaled_dot_product_attention(query, key, value)
    assert output[0, 0, 0].isnan().all() and output[0, 0, 1:].isfinite().all()


# --- backwards ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@any_attention
def test_backward_equals_autograd_to_1e_10(queries, keys, d_k, d_v, masked, scale, seed):
    inputs = [part.requires_grad_() for part in query_key_value((2,), queries, keys, d_k, d_v, seed=seed)]
    mask = random_mask(2, queries, keys, seed=seed) if masked else None
    output, weights = scaled_dot_product_attention(*inputs, mask, scale)
    (grad_output,) = tensors(output.shape, seed=seed + 1)
    expected = torch.autograd.grad(output, inputs, grad_output)
    by_hand = attention_backward(*inputs, weights, grad_output, scale)
    for ours, theirs in zip(by_hand, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-10


def test_backward_names_its_results():
    query, key, value = query_key_value()
    output, weights = scaled_dot_product_attention(query, key, value)
    gradients = attention_backward(query, key, value, weights, torch.ones_like(output))
    assert (gradients.query.shape, gradients.key.shape, gradients.value.shape) == (query.shape, key.shape, value.shape)


# --- masks ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(queries=sizes, earlier=st.integers(0, 9))
def test_causal_mask_lets_each_query_see_up_to_its_own_place(queries, earlier):
    keys = queries + earlier
    mask = causal_mask(queries, keys)
    expected = [[column <= row + earlier for column in range(keys)] for row in range(queries)]
    assert mask.tolist() == expected


def test_causal_mask_equals_torchs_is_causal():
    query, key, value = query_key_value(keys=6)
    output, _ = scaled_dot_product_attention(query, key, value, causal_mask(6))
    assert_close(output, F.scaled_dot_product_attention(query, key, value, is_causal=True))


def test_padding_changes_nothing_for_the_real_tokens():
    query, key, value = query_key_value(queries=4, keys=4)
    alone, _ = scaled_dot_product_attention(query, key, value)
    padded = [torch.cat([part, 100 * torch.ones_like(part)], dim=2) for part in (key, value)]
    mask = padding_mask(torch.tensor([[1] * 4 + [0] * 4] * 2))
    assert mask.shape == (2, 1, 1, 8) and mask.dtype == torch.bool
    assert_close(scaled_dot_product_attention(query, *padded, mask)[0], alone)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: causal_mask(4, 3), "4 queries and 3 keys"),
        (lambda: padding_mask(torch.ones(2, 3, 4)), r"shape \(2, 3, 4\): padding_mask takes \(batch, key\)"),
        (lambda: scaled_dot_product_attention(*tensors((3, 8), (5, 6), (5, 4))), "query has 8 features and key 6"),
        (lambda: scaled_dot_product_attention(*tensors((3, 8), (5, 8), (4, 4))), "5 keys and 4 values"),
        (lambda: scaled_dot_product_attention(*tensors((8,), (5, 8), (5, 4))), "at least two dimensions"),
        (
            lambda: scaled_dot_product_attention(*tensors((2, 3, 8), (4, 5, 8), (4, 5, 8))),
            r"query \(2, 3, 8\), key \(4, 5, 8\).*must be the same, or 1",
        ),
        (
            lambda: scaled_dot_product_attention(*query_key_value(), torch.ones(2, 9).bool()),
            r"shape \(2, 9\), the scores \(2, 3, 6, 9\).*padding_mask",
        ),
        (
            lambda: scaled_dot_product_attention(*query_key_value(), torch.ones(7, 2, 3, 6, 9).bool()),
            "must broadcast to",
        ),
        (
            lambda: scaled_dot_product_attention(*query_key_value(), torch.ones(6, 9, dtype=torch.long)),
            r"torch.int64: pass booleans .*mask.bool\(\)",
        ),
        (lambda: blockwise_attention(*query_key_value(), block_size=0), "block_size=0"),
        (lambda: blockwise_attention(*query_key_value(keys=5), 4, causal=True), "6 queries and 5 keys"),
        (lambda: MultiHeadAttention(10, 3), "d_model=10 is no multiple of num_heads=3"),
        (lambda: MultiHeadAttention(12, 4, 3), "num_heads=4 is no multiple of num_key_value_heads=3"),
    ],
)
def test_bad_input_is_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- block by block -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(queries=sizes, earlier=st.integers(0, 12), block_size=st.integers(1, 25), causal=st.booleans(), seed=seeds)
def test_blocks_of_any_size_give_the_exact_result(queries, earlier, block_size, causal, seed):
    keys = queries + earlier
    query, key, value = query_key_value((2, 2), queries, keys, seed=seed)
    exact, _ = scaled_dot_product_attention(query, key, value, causal_mask(queries, keys) if causal else None)
    assert_close(blockwise_attention(query, key, value, block_size, causal), exact)


def test_blocks_survive_scores_that_overflow():
    query, key, value = query_key_value(dtype=torch.float32)
    output = blockwise_attention(100 * query, 100 * key, value, block_size=2)
    assert output.isfinite().all()
    assert_close(output, scaled_dot_product_attention(100 * query, 100 * key, value)[0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_blocks_keep_their_sums_in_float32(dtype, tolerance):
    query, key, value = query_key_value((1,), 4, 3000, 16, 8, dtype=dtype)
    output = blockwise_attention(query, key, value, block_size=1)
    exact, _ = scaled_dot_product_attention(query.double(), key.double(), value.double())
    assert output.dtype == dtype
    assert (output.double() - exact).abs().max() < tolerance * exact.abs().max() + tolerance / 10


def test_blocks_never_hold_a_matrix_of_scores():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    query, key, value = query_key_value((1,), 600, 600, 8, 8)
    with torch.no_grad(), Largest() as largest:
        blockwise_attention(query, key, value, block_size=16, causal=True)
    assert largest.elements <= 600 * 16


# --- many heads -----------------------------------------------------------------------------------------------------


def with_copied_weights(d_model, num_heads, bias):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(d_model, num_heads, bias=bias, batch_first=True).double()
    ours = MultiHeadAttention(d_model, num_heads, bias=bias).double()
    with torch.no_grad():
        for linear, weight in zip((ours.q_proj, ours.k_proj, ours.v_proj), theirs.in_proj_weight.chunk(3), strict=True):
            linear.weight.copy_(weight)
        ours.o_proj.weight.copy_(theirs.out_proj.weight)
        if bias:
            nn.init.normal_(theirs.in_proj_bias)
            nn.init.normal_(theirs.out_proj.bias)
            for linear, vector in zip(
                (ours.q_proj, ours.k_proj, ours.v_proj), theirs.in_proj_bias.chunk(3), strict=True
            ):
                linear.bias.copy_(vector)
            ours.o_proj.bias.copy_(theirs.out_proj.bias)
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("mask", [None, "causal", "padding"])
def test_heads_equal_torchs_module_with_its_weights(bias, num_heads, mask):
    ours, theirs = with_copied_weights(24, num_heads, bias)
    (x,) = tensors((2, 7, 24))
    real = torch.tensor([[1] * 5 + [0] * 2, [1] * 7])
    masks = {None: (None, {}), "causal": (causal_mask(7), {"attn_mask": ~causal_mask(7)}),
             "padding": (padding_mask(real), {"key_padding_mask": ~real.bool()})}  # fmt: skip
    our_mask, their_masks = masks[mask]
    output, weights, _ = ours(x, attention_mask=our_mask, output_attentions=True)
    expected, their_weights = theirs(x, x, x, average_attn_weights=False, **their_masks)
    assert_close(output, expected)
    assert_close(weights, their_weights)
    fused, none, _ = ours(x, attention_mask=our_mask)
    assert none is None
    assert_close(fused, expected)


def test_cross_attention_equals_torchs_module():
    ours, theirs = with_copied_weights(24, 3, True)
    x, context = tensors((2, 5, 24), (2, 8, 24))
    assert_close(ours(x, context)[0], theirs(x, context, context)[0])


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_grouped_keys_equal_torchs_grouped_function(groups):
    torch.manual_seed(0)
    module = MultiHeadAttention(32, 8, num_key_value_heads=groups).double()
    (x,) = tensors((2, 6, 32))
    output, weights, (key, value) = module(x, attention_mask=causal_mask(6), output_attentions=True)
    query = module.split(module.q_proj(x), 8)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    assert key.shape == (2, groups, 6, 4) and weights.shape == (2, 8, 6, 6)
    assert_close(output, module.o_proj(mixed.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_asked_to_be_causal_it_gives_what_the_mask_gives(groups):
    layer = MultiHeadAttention(32, 4, groups).eval()
    (x,) = tensors((2, 7, 32), dtype=torch.float32)
    with torch.no_grad():
        masked, weights, _ = layer(x, attention_mask=causal_mask(7), output_attentions=True)
        asked, none, _ = layer(x, is_causal=True)
        assert_close(asked, masked, rtol=1e-4, atol=1e-6)
        assert none is None
        again, found, _ = layer(x, is_causal=True, output_attentions=True)
        assert torch.equal(again, masked) and torch.equal(found, weights)
        layer.pattern.register_forward_hook(lambda module, given, pattern: pattern)
        assert torch.equal(layer(x, is_causal=True)[0], masked)


def test_the_fused_and_the_plain_way_agree_on_rows_that_may_see_nothing():
    module = MultiHeadAttention(8, 2).double()
    (x,) = tensors((2, 3, 8))
    mask = padding_mask(torch.tensor([[0, 0, 0], [1, 1, 1]]))
    plain, weights, _ = module(x, attention_mask=mask, output_attentions=True)
    assert not weights[0].any()
    assert_close(module(x, attention_mask=mask)[0], plain)
    assert_close(plain[0], module.o_proj.bias.expand(3, 8))


def test_a_cache_gives_what_the_whole_text_gives():
    module = MultiHeadAttention(16, 4, num_key_value_heads=2).double()
    (x,) = tensors((2, 6, 16))
    whole, *_ = module(x, attention_mask=causal_mask(6))
    _, _, cache = module(x[:, :4], attention_mask=causal_mask(4))
    rest, _, cache = module(x[:, 4:], attention_mask=causal_mask(2, 6), cache=cache)
    assert_close(rest, whole[:, 4:])
    assert cache[0].shape == (2, 2, 6, 4)


def test_hooks_read_and_replace_patterns_and_heads():
    module = MultiHeadAttention(16, 4).double()
    (x,) = tensors((2, 6, 16))
    seen = {}
    handles = [
        module.pattern.register_forward_hook(lambda _, inputs, output: seen.update(pattern=output)),
        module.heads.register_forward_hook(lambda _, inputs, output: output.index_fill(1, torch.tensor([1]), 0.0)),
    ]
    without, *_ = module(x)
    for handle in handles:
        handle.remove()
    output, weights, _ = module(x, output_attentions=True)
    assert_close(seen["pattern"], weights)
    value = module.split(module.v_proj(x), 4)
    contribution = (weights @ value)[:, 1] @ module.o_proj.weight[:, 4:8].T
    assert_close(output - without, contribution)  # heads are added: leaving one out removes its term


def test_own_width_and_scale_of_heads():
    module = MultiHeadAttention(16, 4, d_head=10, scale=1.0, bias=False).double()
    (x,) = tensors((2, 6, 16))
    output, weights, _ = module(x, output_attentions=True)
    query, key = (module.split(projection(x), 4) for projection in (module.q_proj, module.k_proj))
    assert_close(weights, (query @ key.transpose(-2, -1)).softmax(-1))
    assert output.shape == (2, 6, 16) and sum(p.numel() for p in module.parameters()) == 4 * 16 * 40


def test_a_mask_that_does_not_fit_is_refused_on_both_ways():
    module = MultiHeadAttention(16, 4)
    for output_attentions in (True, False):
        with pytest.raises(ValueError, match="must broadcast"):
            module(torch.randn(2, 6, 16), attention_mask=torch.ones(2, 5).bool(), output_attentions=output_attentions)


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_a_source_of_another_batch_is_refused_with_and_without_shared_keys(kv_heads):
    module = MultiHeadAttention(16, 4, kv_heads)
    for output_attentions in (True, False):
        with pytest.raises(ValueError, match="the dimensions before the last two must be the same"):
            module(torch.randn(2, 6, 16), torch.randn(3, 6, 16), output_attentions=output_attentions)


def test_equals_a_layer_of_hugging_faces_llama():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention

    from llmbook.positions import rotary

    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=8,
                         num_hidden_layers=1, attn_implementation="eager")  # fmt: skip
    torch.manual_seed(0)
    theirs = LlamaAttention(config, layer_idx=0).double()
    ours = MultiHeadAttention(32, 4, 2, bias=False).double()
    ours.load_state_dict({name: weight for name, weight in theirs.state_dict().items()})
    (x,) = tensors((2, 6, 32))
    cos, sin = (part.double() for part in rotary(torch.arange(6), 8))
    bias = torch.zeros(6, 6, dtype=torch.float64).masked_fill(~causal_mask(6), -math.inf)[None, None]
    expected, their_weights = theirs(x, (cos[None], sin[None]), bias)
    output, weights, _ = ours(x, attention_mask=causal_mask(6), rotary=(cos, sin), output_attentions=True)
    assert_close(weights, their_weights)
    assert_close(output, expected)
