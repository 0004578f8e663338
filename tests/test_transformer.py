import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from llmbook.transformer import (
    Decoder,
    Encoder,
    EncoderDecoder,
    TransformerConfig,
    count_parameters,
    flops_per_token,
    greedy,
    padded_positions,
)

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "t5", "none")
VOCAB = 40
configs = st.builds(
    TransformerConfig,
    st.just(VOCAB),
    d_model=st.sampled_from([16, 24]),
    num_layers=st.integers(1, 3),
    num_heads=st.sampled_from([2, 4]),
    num_key_value_heads=st.sampled_from([None, 1, 2]),
    d_head=st.sampled_from([None, 6]),
    d_ff=st.sampled_from([None, 20]),
    position=st.sampled_from(POSITIONS),
    norm=st.sampled_from(["rms", "layer"]),
    norm_first=st.booleans(),
    embedding_norm=st.booleans(),
    activation=st.sampled_from(["swiglu", "geglu", "gelu", "relu"]),
    bias=st.booleans(),
    tie_embeddings=st.booleans(),
    scale_attention=st.booleans(),
)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter away from its initial value, so that no zero or one hides a mistake."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=rng)
    return model.eval()


def some_ids(batch: int = 2, time: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))


def with_another(ids: torch.Tensor, place: int) -> torch.Tensor:
    changed = ids.clone()
    changed[:, place] = (ids[:, place] + 1) % VOCAB
    return changed


def small(**changes) -> TransformerConfig:
    return TransformerConfig(VOCAB, **({"d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 24} | changes))


# --- who sees what --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(config=configs, place=st.integers(0, 8))
def test_a_later_token_changes_no_earlier_logits(config, place):
    model, ids = shaken(Decoder(config)), some_ids()
    changed = with_another(ids, place)
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.allclose(before[:, place], after[:, place])


@settings(max_examples=15, deadline=None)
@given(config=configs, place=st.integers(0, 8))
def test_every_place_of_an_encoder_notices_every_token(config, place):
    model, ids = shaken(Encoder(config)), some_ids()
    changed = with_another(ids, place)
    with torch.no_grad():
        moved = (model(ids).logits - model(changed).logits).abs().amax((0, 2))
    assert (moved > 0).all()


@settings(max_examples=15, deadline=None)
@given(config=configs)
def test_a_target_sees_its_source_and_no_later_target(config):
    model, source, target = shaken(EncoderDecoder(config)), some_ids(seed=1), some_ids(seed=2)
    other_source, other_target = with_another(source, -1), with_another(target, 5)
    with torch.no_grad():
        before = model(source, None, target).logits
        assert ((before - model(other_source, None, target).logits).abs().amax((0, 2)) > 0).all()
        assert torch.equal(before[:, :5], model(source, None, other_target).logits[:, :5])


@pytest.mark.parametrize("position", POSITIONS)
def test_padding_on_the_right_changes_no_real_token(position):
    ids = some_ids(batch=1)
    padded = torch.cat([ids, torch.full((1, 4), 3)], dim=1)
    mask = torch.tensor([[1] * 9 + [0] * 4])
    for kind in (Decoder, Encoder):
        model = shaken(kind(small(position=position)))
        with torch.no_grad():
            assert_close(model(padded, mask).logits[:, :9], model(ids).logits, rtol=0, atol=1e-4)
    model = shaken(EncoderDecoder(small(position=position)))
    with torch.no_grad():
        alone, beside = model(ids, None, ids).logits, model(padded, mask, ids).logits
    assert_close(beside, alone, rtol=0, atol=1e-4)


# --- the cache ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(config=configs, cut=st.integers(1, 8))
def test_the_cache_changes_no_logits(config, cut):
    model, ids = shaken(Decoder(config)), some_ids()
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :cut], use_cache=True)
        rest = model(ids[:, cut:], past_key_values=first.past_key_values, use_cache=True)
    assert_close(torch.cat([first.logits, rest.logits], dim=1), whole, rtol=1e-4, atol=1e-4)
    assert len(rest.past_key_values) == config.num_layers
    for key, value in rest.past_key_values:
        assert key.shape == value.shape == (2, config.num_key_value_heads, 9, config.d_head)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_greedy_writes_the_same_with_and_without_cache(position, heads):
    model = shaken(Decoder(small(position=position, num_key_value_heads=heads)), seed=heads)
    prompt = some_ids(batch=3, time=5)
    ids = greedy(model, prompt, 12)
    assert torch.equal(ids, greedy(model, prompt, 12, use_cache=False))
    assert torch.equal(ids[:, :5], prompt) and ids.shape == (3, 17)
    for time in range(5, 17):  # each token is the most probable one after what stands before it
        assert torch.equal(model(ids[:, :time]).logits[:, -1].argmax(-1), ids[:, time])


@pytest.mark.parametrize("position", POSITIONS)
def test_greedy_treats_a_padded_batch_as_its_texts_alone(position):
    model = shaken(Decoder(small(position=position)))
    long, short = some_ids(batch=1, time=8), some_ids(batch=1, time=3, seed=5)
    batch = torch.cat([long, torch.cat([torch.full((1, 5), 7), short], dim=1)])
    mask = torch.tensor([[1] * 8, [0] * 5 + [1] * 3])
    for use_cache in (True, False):
        together = greedy(model, batch, 10, use_cache, attention_mask=mask)
        assert torch.equal(together[:1], greedy(model, long, 10))
        assert torch.equal(together[1:, 5:], greedy(model, short, 10))


@pytest.mark.parametrize("position", POSITIONS)
def test_greedy_translates_the_same_with_and_without_cache(position):
    model = shaken(EncoderDecoder(small(position=position)))
    start, source = torch.zeros(2, 1, dtype=torch.long), some_ids(batch=2)
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    ids = greedy(model, start, 10, source=source, attention_mask=mask)
    assert torch.equal(ids, greedy(model, start, 10, use_cache=False, source=source, attention_mask=mask))
    assert torch.equal(ids[1:], greedy(model, start[1:], 10, source=source[1:, :6]))


def test_positions_of_padded_texts_count_from_their_first_token():
    mask = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 1, 1]])
    assert padded_positions(mask).tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 1]]


# --- counts ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(config=configs, length=st.integers(1, 12))
def test_operations_counted_by_formula_and_by_torch_agree(config, length):
    model = Decoder(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(some_ids(batch=2, time=length))
    assert counter.get_total_flops() == 2 * length * flops_per_token(config, length)


def test_parameters_of_famous_shapes():
    with torch.device("meta"):
        llama = Decoder(
            TransformerConfig(32_000, 4096, 32, 32, d_ff=11_008, tie_embeddings=False),
        )
        bert = Encoder(TransformerConfig.bert(30_522, d_model=768, num_layers=12, num_heads=12))
        t5 = EncoderDecoder(TransformerConfig.t5(32_128, d_model=512, num_layers=6, num_heads=8))
    assert count_parameters(llama) == 6_738_415_616
    assert count_parameters(bert) == 109_514_298
    assert count_parameters(t5) == 60_506_624


def test_tied_embeddings_are_counted_once():
    tied, untied = Decoder(small()), Decoder(small(tie_embeddings=False))
    assert count_parameters(untied) - count_parameters(tied) == VOCAB * 16
    assert count_parameters(tied, embeddings=False) == count_parameters(tied) - VOCAB * 16


# --- training and hooks ---------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(config=configs, kind=st.sampled_from([Decoder, Encoder, EncoderDecoder]))
def test_gradient_reaches_every_parameter(config, kind):
    model, ids = shaken(kind(config)), some_ids()
    inputs = {"decoder_input_ids": ids.flip(0)} if kind is EncoderDecoder else {}
    model(ids, **inputs).logits.square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_evaluation_is_deterministic_and_dropout_is_not():
    model, ids = Decoder(small(dropout=0.5)), some_ids()
    assert not torch.equal(model(ids).logits, model(ids).logits)
    model.eval()
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("kind", [Decoder, Encoder, EncoderDecoder])
def test_tied_weights_stay_tied_through_copy_and_state_dict(kind):
    model = kind(small())
    for other in (copy.deepcopy(model), kind(small())):
        other.load_state_dict(model.state_dict())
        assert other.lm_head.weight is other.embeddings.weight
        other.embeddings.weight.data[0, 0] = 5.0
        assert other.lm_head.weight[0, 0] == 5.0


@pytest.mark.parametrize("position", POSITIONS)
def test_asking_for_weights_changes_no_logits(position):
    model, ids = shaken(Decoder(small(position=position))), some_ids()
    mask = torch.tensor([[1] * 9, [0] * 2 + [1] * 7])
    with torch.no_grad():
        plain, asked = model(ids, mask), model(ids, mask, output_attentions=True)
    assert_close(asked.logits, plain.logits, rtol=1e-4, atol=1e-4)
    assert plain.attentions is None and len(asked.attentions) == 2
    for weights in asked.attentions:
        assert weights.shape == (2, 4, 9, 9)
        assert_close(weights[0].sum(-1), torch.ones(4, 9))
        assert torch.equal(weights.triu(1), torch.zeros_like(weights))
        assert (weights[1, :, :, :2] == 0).all()  # padding is not looked at
        assert (weights[1, :, :2] == 0).all()  # and looks at nothing


def test_zeroing_a_head_through_its_hook_equals_zeroing_its_columns():
    model, ids, head = shaken(Decoder(small())), some_ids(), 2

    def zero(module, inputs, output):
        output = output.clone()
        output[:, head] = 0
        return output

    hook = model.stack.blocks[0].attention.heads.register_forward_hook(zero)
    with torch.no_grad():
        hooked = model(ids).logits
    hook.remove()
    without = copy.deepcopy(model)
    without.stack.blocks[0].attention.o_proj.weight.data[:, head * 4 : (head + 1) * 4] = 0
    with torch.no_grad():
        assert_close(hooked, without(ids).logits)
        assert not torch.allclose(hooked, model(ids).logits)


def test_a_hook_on_the_pattern_replaces_the_weights():
    model, ids = shaken(Decoder(small(num_layers=1))), some_ids()
    attention = model.stack.blocks[0].attention
    hook = attention.pattern.register_forward_hook(lambda module, inputs, weights: torch.eye(9).expand_as(weights))
    with torch.no_grad():
        hooked = model(ids, output_attentions=True)
    hook.remove()
    alone = torch.cat([model(ids[:, i : i + 1], position_ids=torch.tensor([[i]])).logits for i in range(9)], dim=1)
    assert torch.equal(hooked.attentions[0], torch.eye(9).expand(2, 4, 9, 9))
    assert_close(hooked.logits, alone.detach(), rtol=1e-4, atol=1e-4)  # each token looked at itself only


def test_hidden_states_are_the_stream_from_embeddings_to_last_block():
    model, ids = shaken(Decoder(small())), some_ids()
    states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == 3 and all(state.shape == (2, 9, 16) for state in states)
    assert_close(states[0], model.embeddings(ids))
    assert_close(model.lm_head(model.stack.final_norm(states[-1])), model(ids).logits)


def test_encoder_output_can_be_passed_on():
    model, source, target = shaken(EncoderDecoder(small())), some_ids(seed=1), some_ids(time=4)
    out = model(source, None, target, output_attentions=True)
    again = model(None, None, target, out.encoder_last_hidden_state)
    assert_close(again.logits, out.logits)
    assert out.cross_attentions[0].shape == (2, 4, 4, 9)
    assert out.encoder_attentions[0].shape == (2, 4, 9, 9) and out.decoder_attentions[0].shape == (2, 4, 4, 4)
    assert again.encoder_attentions is None


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "rotary"}, "position='rotary': it takes rope, learned"),
        ({"norm": "batch"}, "norm='batch': it takes rms, layer"),
        ({"activation": "tanh"}, "activation='tanh'"),
        ({"d_model": 0}, "d_model=0: it takes a whole number from 1 up"),
        ({"d_model": 16.0}, "d_model=16.0: it takes a whole number"),
        ({"num_layers": True}, "num_layers=True: it takes a whole number"),
        ({"d_ff": 0}, "d_ff=0: it takes a whole number"),
        ({"type_vocab_size": -1}, "type_vocab_size=-1: it takes a whole number from 0 up"),
        ({"num_heads": 3}, "d_model=16 is no multiple of num_heads=3"),
        ({"num_key_value_heads": 3}, "num_heads=4 is no multiple of num_key_value_heads=3"),
        ({"num_key_value_heads": 0}, "num_key_value_heads=0"),
        ({"d_head": 5}, "d_head=5 is odd, and position='rope'"),
        ({"d_model": 15, "num_heads": 5, "position": "sinusoidal"}, "d_model=15 is odd"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"norm_eps": 0.0}, "norm_eps=0.0: it takes a number above 0"),
        ({"rope_base": -1.0}, "rope_base=-1.0"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": some_ids()[0]}, r"input_ids has shape \(9,\)"),
        ({"input_ids": some_ids().float()}, "type torch.float32"),
        ({"input_ids": some_ids() + VOCAB}, "the model's table from 0 to 39"),
        ({"input_ids": some_ids() - VOCAB}, "input_ids run from -"),
        ({"input_ids": some_ids(), "attention_mask": torch.ones(2, 8)}, r"attention_mask has shape \(2, 8\)"),
        ({"input_ids": some_ids(), "position_ids": torch.arange(8)[None]}, r"position_ids has shape \(1, 8\)"),
        ({"input_ids": some_ids(), "past_key_values": []}, "past_key_values has 0 layers"),
    ],
)
def test_bad_input_of_a_decoder_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Decoder(small())(**arguments)


def test_a_cache_of_another_batch_is_refused():
    model = Decoder(small())
    cache = model(some_ids(batch=3), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="2 layers for a batch of 3, the model 2 layers and the tokens a batch of 2"):
        model(some_ids(batch=2, time=1), past_key_values=cache)


def test_more_tokens_than_learned_positions_are_refused():
    model = Decoder(small(position="learned", max_length=8))
    with pytest.raises(ValueError, match="9 tokens, but the model has learned 8 positions"):
        model(some_ids())
    cache = model(some_ids(time=8), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="9 tokens"):
        model(some_ids(time=1), past_key_values=cache)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.long), "token_type_ids has shape"),
        (torch.full((2, 9), 2), "token_type_ids run from 2 to 2"),
    ],
)
def test_bad_segments_of_an_encoder_are_refused(segments, message):
    with pytest.raises(ValueError, match=message):
        Encoder(TransformerConfig.bert(VOCAB, d_model=16, num_heads=4))(some_ids(), token_type_ids=segments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "takes decoder_input_ids and one of input_ids"),
        ({"input_ids": some_ids()}, "takes decoder_input_ids"),
        ({"decoder_input_ids": some_ids()}, "one of input_ids and encoder_last_hidden_state"),
        ({"input_ids": some_ids(batch=3), "decoder_input_ids": some_ids()}, "3 sources for 2 targets"),
        ({"input_ids": some_ids(), "decoder_input_ids": some_ids() + 99}, "decoder_input_ids run from"),
    ],
)
def test_bad_input_of_an_encoder_decoder_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EncoderDecoder(small())(**arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Encoder, {}, "Encoder predicts no next token"),
        (EncoderDecoder, {}, "source belongs to an EncoderDecoder"),
        (Decoder, {"source": some_ids()}, "source belongs to an EncoderDecoder"),
        (Decoder, {"prompt": some_ids(time=0)}, "at least one token"),
        (Decoder, {"prompt": some_ids()[0]}, r"prompt has shape \(9,\)"),
        (Decoder, {"attention_mask": torch.tensor([[1] * 9, [1] * 8 + [0]])}, "padded on the right"),
    ],
)
def test_bad_input_of_greedy_is_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        greedy(kind(small()), **({"prompt": some_ids(), "max_new_tokens": 2} | arguments))


def test_a_text_that_is_all_padding_gives_finite_logits():
    for kind in (Decoder, Encoder):
        for position in POSITIONS:
            model = shaken(kind(small(position=position)))
            mask = torch.tensor([[1] * 9, [0] * 9])
            for asked in (False, True):
                with torch.no_grad():
                    assert model(some_ids(), mask, output_attentions=asked).logits.isfinite().all()


def test_defaults_are_filled_in_and_the_class_is_frozen():
    config = TransformerConfig(10, d_model=24, num_heads=3)
    assert (config.num_key_value_heads, config.d_head, config.d_ff) == (3, 8, 96)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 5
    wider = dataclasses.replace(small(), d_ff=None, d_model=32)
    assert wider.d_ff == 128


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_logits_at_chosen_places_are_those_of_the_whole(seed):
    model = shaken(Encoder(TransformerConfig.bert(VOCAB, d_model=16, num_layers=2, num_heads=2))).eval()
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCAB, (3, 7), generator=rng)
    at = torch.rand(3, 7, generator=rng) < 0.4
    assert_close(model(ids, at=at).logits, model(ids).logits[at], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at", [torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 4)])
def test_places_of_another_shape_or_type_are_refused(at):
    model = Encoder(TransformerConfig.bert(VOCAB, d_model=16, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match=r"it takes bool of the ids' shape \(1, 4\)"):
        model(torch.zeros(1, 4, dtype=torch.long), at=at)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        Decoder(TransformerConfig(VOCAB, d_model=16, num_layers=1, num_heads=2)),
        Encoder(TransformerConfig.bert(VOCAB, d_model=16, num_layers=1, num_heads=2)),
        EncoderDecoder(TransformerConfig.t5(VOCAB, d_model=16, num_layers=1, num_heads=2)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_are_compiled_as_one_graph(model):
    ids = torch.arange(8).view(2, 4)
    inputs = {"decoder_input_ids": ids} if isinstance(model, EncoderDecoder) else {}
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # without a compiler of C++
    assert_close(compiled(ids, **inputs).logits, model(ids, **inputs).logits)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("groups", [1, 4])
def test_a_gpu_is_asked_for_its_causal_kernel_where_a_mask_would_say_no_more(position, groups, monkeypatch):
    torch.manual_seed(0)
    config = TransformerConfig(VOCAB, d_model=16, num_layers=2, num_key_value_heads=groups, position=position)
    model, ids, asked = shaken(Decoder(config)), some_ids(), []
    with torch.no_grad():
        whole = model(ids).logits
        monkeypatch.setattr("llmbook.transformer._takes_no_mask", lambda device: True)  # as on a GPU
        plain = torch.nn.functional.scaled_dot_product_attention

        def watched(query, key, value, mask=None, **options):
            asked.append(options["is_causal"] and mask is None)
            return plain(query, key, value, mask, **options)

        monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", watched)
        assert_close(model(ids).logits, whole, rtol=1e-4, atol=1e-5)
        assert set(asked) == {position not in ("alibi", "t5")}
        first = model(ids[:, :-2], use_cache=True)
        del asked[:]
        rest = model(ids[:, -2:], past_key_values=first.past_key_values)
        assert_close(rest.logits, whole[:, -2:], rtol=1e-4, atol=1e-5)
        model(ids, attention_mask=torch.ones_like(ids))
        assert not any(asked)


def test_a_single_token_after_a_cache_makes_no_mask(monkeypatch):
    config = TransformerConfig(VOCAB, d_model=16, num_layers=2, num_key_value_heads=2)
    model, ids = shaken(Decoder(config)), some_ids()
    with torch.no_grad():
        first = model(ids[:, :-1], use_cache=True)
        whole = model(ids).logits
        monkeypatch.setattr("llmbook.transformer.causal_mask", None)
        rest = model(ids[:, -1:], past_key_values=first.past_key_values)
    assert_close(rest.logits, whole[:, -1:], rtol=1e-4, atol=1e-5)
