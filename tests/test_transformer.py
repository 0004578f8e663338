"""Decoder, encoder and encoder-decoder: who sees whom, the cache, hooks on heads, and what they refuse."""

import pytest
import torch
from torch.testing import assert_close

from llmbook import transformer
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig, greedy

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "t5", "none")
IDS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def small(**changes):
    return TransformerConfig(50, **{"d_model": 32, "num_layers": 2, "num_heads": 4} | changes)


def decoder(seed=0, **changes):
    torch.manual_seed(seed)
    model = Decoder(small(**changes)).eval()
    for parameter in model.parameters():  # weights large enough that attention matters
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("norm_first", [True, False])
def test_cache_gives_the_same_tokens(position, norm_first):
    model = decoder(position=position, norm_first=norm_first, num_key_value_heads=2)
    assert torch.equal(greedy(model, IDS, 8), greedy(model, IDS, 8, use_cache=False))


@pytest.mark.parametrize("position", POSITIONS)
def test_padding_on_the_left_changes_nothing(position):
    model = decoder(position=position)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), IDS], dim=1)
    mask = (torch.arange(12) >= 3).long().expand(2, -1)
    assert torch.equal(greedy(model, padded, 6, attention_mask=mask)[:, 3:], greedy(model, IDS, 6))


@torch.no_grad()
def test_decoder_sees_the_past_and_encoder_everything():
    changed = IDS.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 50
    model = decoder()
    assert_close(model(changed).logits[:, :5], model(IDS).logits[:, :5])
    assert not torch.allclose(model(changed).logits[:, 5:], model(IDS).logits[:, 5:])
    encoder = Encoder(TransformerConfig.bert(50, d_model=32, num_layers=2)).eval()
    assert not torch.allclose(encoder(changed).logits[:, 0], encoder(IDS).logits[:, 0])


@torch.no_grad()
def test_weights_are_distributions_and_do_not_change_the_logits():
    model = decoder(position="t5")
    out = model(IDS, output_attentions=True, output_hidden_states=True)
    assert_close(out.logits, model(IDS).logits)
    assert [tuple(weights.shape) for weights in out.attentions] == [(2, 4, 9, 9)] * 2
    assert all(torch.allclose(weights.sum(-1), torch.ones(2, 4, 9)) for weights in out.attentions)
    assert [tuple(state.shape) for state in out.hidden_states] == [(2, 9, 32)] * 3


@torch.no_grad()
def test_hook_on_heads_removes_one():
    model = decoder()
    attention = model.stack.blocks[1].attention

    def without(module, inputs, output):
        output = output.clone()
        output[:, 2] = 0
        return output

    handle = attention.heads.register_forward_hook(without)
    ablated = model(IDS).logits
    handle.remove()
    attention.o_proj.weight[:, 2 * 8 : 3 * 8] = 0
    assert_close(model(IDS).logits, ablated)


@torch.no_grad()
def test_hook_on_pattern_replaces_the_weights():
    model = decoder()
    plain = model(IDS).logits
    handle = model.stack.blocks[0].attention.pattern.register_forward_hook(lambda m, i, o: torch.zeros_like(o))
    assert not torch.allclose(model(IDS).logits, plain)
    handle.remove()
    assert_close(model(IDS).logits, plain)


@torch.no_grad()
def test_encoder_decoder_decodes_with_and_without_cache():
    torch.manual_seed(0)
    model = EncoderDecoder(TransformerConfig.t5(50, d_model=32, num_layers=2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    start = torch.zeros(2, 1, dtype=torch.long)
    assert torch.equal(greedy(model, start, 8, source=IDS), greedy(model, start, 8, use_cache=False, source=IDS))
    out = model(IDS, decoder_input_ids=IDS[:, :4], output_attentions=True)
    assert [tuple(w[0].shape) for w in (out.encoder_attentions, out.decoder_attentions, out.cross_attentions)] == [
        (2, 4, 9, 9), (2, 4, 4, 4), (2, 4, 4, 9)]  # fmt: skip


def test_shared_parameters_are_counted_once():
    model = Decoder(small())
    block = 4 * 32 * 32 + 3 * 32 * 128 + 2 * 32
    assert transformer.count_parameters(model) == 50 * 32 + 2 * block + 32
    assert transformer.count_parameters(model, embeddings=False) == 2 * block + 32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(position="here"), "position='here': it takes rope, learned"),
        (lambda: small(d_model=30), "no multiple of num_heads=4"),
        (lambda: small(num_layers=0), "num_layers=0"),
        (lambda: small(dropout=1.0), "dropout=1.0"),
        (lambda: decoder()(IDS.float()), "pass whole numbers"),
        (lambda: decoder()(IDS + 50), "encode with the tokenizer"),
        (lambda: decoder(position="learned", max_length=8)(IDS), "has learned 8 positions"),
        (lambda: decoder()(IDS, attention_mask=torch.ones(2, 5)), "attention_mask has shape"),
        (lambda: EncoderDecoder(TransformerConfig.t5(50, d_model=32))(IDS), "decoder_input_ids"),
        (lambda: greedy(decoder(), IDS[:, :0], 2), "at least one token"),
    ],
)
def test_what_no_model_takes_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
