"""Reading a model: hooks that change it and leave it as it was, rollout, integrated gradients."""

import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llmbook.interventions import attention_rollout, changed, integrated_gradients, without_heads
from llmbook.transformer import Decoder, TransformerConfig


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TransformerConfig(30, d_model=16, num_layers=2, num_heads=4, d_ff=16, bias=True)
    model = Decoder(config).requires_grad_(False)
    torch.nn.init.normal_(model.embeddings.weight)
    return model


IDS = torch.randint(0, 30, (3, 7), generator=torch.Generator().manual_seed(0))


def test_changed_changes_and_restores(model):
    before = model(IDS).logits
    attention = model.stack.blocks[0].attention
    with changed(attention.o_proj, torch.zeros_like):
        assert not torch.allclose(model(IDS).logits, before)
    assert_close(model(IDS).logits, before, rtol=0, atol=0)


def test_changed_restores_after_an_error(model):
    attention = model.stack.blocks[0].attention
    with pytest.raises(RuntimeError, match="stop"), changed(attention.pattern, torch.zeros_like):
        raise RuntimeError("stop")
    assert not attention.pattern._forward_hooks


def test_reading_a_pattern_changes_no_logits(model):
    before = model(IDS).logits
    with changed(model.stack.blocks[1].attention.pattern, lambda weights: weights):
        assert_close(model(IDS).logits, before)


def test_removed_heads_say_the_same_about_every_text(model):
    seen = {}
    attention = model.stack.blocks[0].attention
    with without_heads(attention, [1, 3]), changed(attention.heads, lambda out: seen.setdefault("heads", out)):
        model(IDS)
    output = seen["heads"]  # (batch, heads, time, d_head)
    assert_close(output[:, [1, 3]], output[:1, [1, 3], :1].expand(3, 2, 7, 4))
    assert output[:, [0, 2]].std(0).min() > 0


def test_one_head_may_be_a_number(model):
    attention = model.stack.blocks[1].attention
    with without_heads(attention, 2):
        one = model(IDS).logits
    with without_heads(attention, [2]):
        assert_close(model(IDS).logits, one)


def test_unknown_head_is_named(model):
    attention = model.stack.blocks[0].attention
    with pytest.raises(ValueError, match="heads=4: there are 4, numbered 0 to 3"), without_heads(attention, 4):
        pass


@given(
    layers=st.integers(1, 4),
    heads=st.integers(1, 3),
    length=st.integers(1, 6),
    share=st.floats(0, 1),
    seed=st.integers(0),
)
def test_rollout_gives_distributions(layers, heads, length, share, seed):
    rng = torch.Generator().manual_seed(seed % 2**63)
    weights = [torch.randn(2, heads, length, length, generator=rng).softmax(-1) for _ in range(layers)]
    rolled = attention_rollout(weights, share)
    assert (rolled >= 0).all()
    assert_close(rolled.sum(-1), torch.ones(2, length))


def test_rollout_of_causal_attention_sees_no_future(model):
    rolled = attention_rollout(model(IDS, output_attentions=True).attentions)
    assert_close(rolled, rolled.tril())


def test_rollout_by_hand():
    first, second = torch.tensor([[1.0, 0], [0.5, 0.5]]), torch.tensor([[1.0, 0], [1.0, 0]])
    rolled = attention_rollout([first[None, None], second[None, None]])
    assert_close(rolled[0], torch.tensor([[1.0, 0.0], [0.625, 0.375]]))
    assert_close(attention_rollout([first[None, None]], residual=0)[0], first)


@pytest.mark.parametrize(
    ("weights", "share", "message"),
    [
        ([], 0.5, "attentions is empty"),
        ([torch.ones(1, 1, 2, 2) / 2], 1.5, "residual=1.5"),
        ([torch.ones(1, 1, 2, 3) / 3], 0.5, r"shapes \(1, 1, 2, 3\): rollout takes self-attention"),
        ([torch.ones(2, 2) / 2], 0.5, "rollout takes self-attention"),
    ],
)
def test_rollout_refuses(weights, share, message):
    with pytest.raises(ValueError, match=message):
        attention_rollout(weights, share)


def last_logit(model):
    return lambda embeddings: model.lm_head(model.stack(embeddings).last_hidden_state[:, -1])[:, 5]


def test_integrated_gradients_equal_captum(model):
    embeddings, baselines = model.embeddings(IDS), model.embeddings(IDS.flip(0))
    function = last_logit(model)
    theirs = IntegratedGradients(function).attribute(embeddings, baselines, n_steps=16, method="riemann_middle")
    assert_close(
        integrated_gradients(function, embeddings, baselines, steps=16), theirs.to(embeddings), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_integrated_gradients_are_complete(model):
    embeddings, baselines = model.embeddings(IDS), model.embeddings(IDS.flip(0))
    function = last_logit(model)
    shares = integrated_gradients(function, embeddings, baselines, steps=400).sum((1, 2))
    assert_close(shares, function(embeddings) - function(baselines), rtol=1e-2, atol=1e-2)


def test_integrated_gradients_of_a_linear_function_need_one_step():
    weight, inputs = torch.tensor([2.0, -1.0]), torch.tensor([[3.0, 4.0]])
    shares = integrated_gradients(lambda x: x @ weight, inputs, torch.zeros(1, 2), steps=1)
    assert_close(shares, torch.tensor([[6.0, -4.0]]))


def test_integrated_gradients_need_a_step():
    with pytest.raises(ValueError, match="steps=0"):
        integrated_gradients(lambda x: x.sum(-1), torch.ones(1, 2), torch.zeros(1, 2), steps=0)
