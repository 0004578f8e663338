"""Layers with LoRA or an adapter around them, tied heads, compiled models: each right, or refused in a sentence."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llmbook import explore, finetuning, hub, training
from llmbook.finetuning import preferences, prompting, updating
from llmbook.finetuning.updating import LoRALinear
from llmbook.transformer import (
    Decoder,
    Encoder,
    EncoderDecoder,
    TransformerConfig,
    greedy,
    plain_state,
    unwrapped,
    unwrapped_name,
)

SHAPE = {"d_model": 16, "num_layers": 2, "num_heads": 2}
IDS = torch.arange(12).view(2, 6)


def decoder() -> Decoder:
    return Decoder(TransformerConfig(50, **SHAPE)).eval()


def encoder() -> Encoder:
    return Encoder(TransformerConfig.bert(50, **SHAPE, max_length=16)).eval()


def encoder_decoder() -> EncoderDecoder:
    return EncoderDecoder(TransformerConfig.t5(50, **SHAPE)).eval()


class TorchModel(nn.Module):
    """Torch's own encoder and decoder, which read their layers' weights on the fast path."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(50, 16)
        self.transformer = nn.Transformer(16, 2, 2, 2, 32, batch_first=True)
        self.lm_head = nn.Linear(16, 50, bias=False)
        self.lm_head.weight = self.embeddings.weight

    def forward(self, ids):
        hidden = self.embeddings(ids)
        return self.lm_head(self.transformer(hidden, hidden))


MODELS = {
    "decoder": decoder,
    "encoder": encoder,
    "encoder-decoder": encoder_decoder,
    "torch": lambda: TorchModel().eval(),
}


def logits_of(model: nn.Module) -> torch.Tensor:
    inner = unwrapped(model)
    if isinstance(inner, TorchModel):
        return model(IDS)
    return model(IDS, decoder_input_ids=IDS).logits if isinstance(inner, EncoderDecoder) else model(IDS).logits


def linear_layers(kind: str) -> list[str]:
    """One layer of each name; those that end alike are wrapped together."""
    names = [name for name, module in MODELS[kind]().named_modules() if isinstance(module, nn.Linear)]
    return sorted({name.rpartition(".")[2] for name in names})


def changed_at_random(model: nn.Module) -> nn.Module:
    """Give everything that was added a part in the result."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B") or ".adapter." in name:
                parameter.normal_(std=0.3)
    return model


def by_hooks(kind: str, target: str, added: nn.Module) -> torch.Tensor:
    """The logits of a fresh model whose layers' outputs are changed from outside, as LoRA and adapters mean it."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] == target:
            layer = added.get_submodule(name)

            def change(_, inputs, output, layer=layer):
                if isinstance(layer, LoRALinear):
                    return output + layer.scale * inputs[0] @ layer.lora_A.T @ layer.lora_B.T
                return layer.adapter(output)

            module.register_forward_hook(change)
    return logits_of(model)


LAYERS = [(kind, target) for kind in MODELS for target in linear_layers(kind)]


@pytest.mark.parametrize(("kind", "target"), LAYERS, ids="-".join)
def test_lora_and_adapters_take_part_on_every_linear_layer_with_and_without_gradient(kind, target):
    for add in (lambda m: updating.add_lora(m, [target], 2, 4.0), lambda m: updating.add_adapters(m, 3, [target])):
        torch.manual_seed(0)
        model = MODELS[kind]()
        before = logits_of(model).detach()
        if kind == "torch" and target == "out_proj":
            # never called: only LoRA, a change of the weights, can take part
            with pytest.raises(ValueError, match=r"out_proj of nn\.MultiheadAttention is never called"):
                updating.add_adapters(copy.deepcopy(model), 3, [target])
            model = changed_at_random(updating.add_lora(model, [target], 2, 4.0))
            with torch.no_grad():
                wanted = logits_of(updating.merge_lora(copy.deepcopy(model)))
        else:
            model = changed_at_random(add(model))
            wanted = by_hooks(kind, target, model).detach()
        with_gradient = logits_of(model)
        assert not torch.allclose(with_gradient, before)
        assert_close(with_gradient, wanted, atol=1e-4, rtol=1e-4)
        with_gradient.square().sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("lora_" in name or ".adapter." in name):
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        with torch.no_grad():
            assert_close(logits_of(model), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("add", [lambda m: updating.add_lora(m, ["linear1", "linear2"], 2, 4.0),
                                 lambda m: updating.add_adapters(m, 3, ["linear1", "linear2"])])  # fmt: skip
def test_torchs_encoder_with_padding_computes_what_was_added_off_its_fast_path_as_on_it(add):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = changed_at_random(add(nn.TransformerEncoder(layer, 2).eval()))
    hidden, padding = torch.randn(2, 5, 16), torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
    with torch.no_grad():
        fast = model(hidden, src_key_padding_mask=padding)
    slow = model(hidden, src_key_padding_mask=padding)  # LoRA's gradients keep it off
    assert_close(fast[~padding], slow[~padding], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "target"), LAYERS, ids="-".join)
def test_merging_keeps_the_logits_and_the_embeddings(kind, target):
    torch.manual_seed(0)
    model = MODELS[kind]()
    embeddings = model.embeddings.weight.clone()
    changed_at_random(updating.add_lora(model, [target], 2, 4.0))
    with torch.no_grad():
        beside = logits_of(model)
        assert updating.merge_lora(model) is model
        assert_close(logits_of(model), beside, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.embeddings.weight, embeddings)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())


def test_a_merged_head_is_saved_and_opened_as_it_is_or_refused(tmp_path):
    model = decoder()
    changed_at_random(updating.add_lora(model, ["lm_head"], 2, 4.0))
    updating.merge_lora(model)
    assert not model.config.tie_embeddings
    with torch.no_grad():
        assert_close(hub.load(hub.save(model, tmp_path / "gpt"))(IDS).logits, model(IDS).logits)
    for make, says in ((encoder, "tie_embeddings=False"), (encoder_decoder, "lm_head has other weights")):
        model = make()
        changed_at_random(updating.add_lora(model, ["lm_head"], 2, 4.0))
        with pytest.raises(ValueError, match=says):
            hub.save(updating.merge_lora(model), tmp_path / "refused")
        assert not (tmp_path / "refused").exists()


def test_a_layer_that_stands_twice_gets_one_lora_and_one_that_is_wrapped_once_keeps_its_other_place():
    shared = nn.Linear(4, 4)
    both = nn.ModuleDict({"first": shared, "second": shared})
    updating.add_lora(both, ["first", "second"], 2, 4.0)
    assert both["first"] is both["second"]
    assert updating.merge_lora(both)["first"] is both["second"]
    shared = nn.Linear(4, 4)
    one = nn.ModuleDict({"first": shared, "second": shared})
    changed_at_random(updating.add_lora(one, ["second"], 2, 4.0))
    kept, wanted = shared.weight.clone(), one["second"].weight.detach()
    updating.merge_lora(one)
    assert torch.equal(one["first"].weight, kept) and torch.equal(one["second"].weight, wanted)


def test_a_tied_head_of_transformers_is_not_merged_into_what_saving_would_tie_again():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = updating.add_lora(LlamaForCausalLM(config), ["lm_head"], 2, 4.0)
    with pytest.raises(ValueError, match="lm_head shares its weights with the embeddings"):
        updating.merge_lora(model)
    assert isinstance(model.lm_head, LoRALinear)
    inside = updating.add_lora(LlamaForCausalLM(config), ["q_proj"], 2, 4.0)
    assert isinstance(updating.merge_lora(inside), LlamaForCausalLM)


def test_transformers_t5_reads_the_type_of_a_wrapped_layers_weights():
    config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    for add in (lambda m: updating.add_lora(m, ["wo"], 2, 4.0), lambda m: updating.add_adapters(m, 2, ["wo"])):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config).eval()
        before = model(input_ids=IDS, decoder_input_ids=IDS).logits
        after = changed_at_random(add(model))(input_ids=IDS, decoder_input_ids=IDS).logits
        assert after.isfinite().all() and not torch.allclose(after, before)


def test_a_wrapped_layer_answers_for_its_shape_and_an_adapted_one_is_not_computed_with_by_its_weights():
    base = nn.Linear(4, 6)
    model = nn.ModuleDict({"layer": base})
    layer = updating.add_adapters(model, 2, ["layer"])["layer"]
    assert (layer.in_features, layer.out_features, layer.weight.dtype) == (4, 6, torch.float32)
    assert layer.weight.shape == (6, 4) and layer.bias.shape == (6,)
    with pytest.raises(RuntimeError, match="call the layer"):
        nn.functional.linear(torch.ones(1, 4), layer.weight)
    lora = updating.add_lora(nn.ModuleDict({"layer": nn.Linear(4, 6, bias=False)}), ["layer"], 2, 4)["layer"]
    assert (lora.in_features, lora.out_features, lora.bias) == (4, 6, None)
    assert_close(nn.functional.linear(torch.ones(1, 4), lora.weight), lora(torch.ones(1, 4)))


@pytest.mark.parametrize("make", [decoder, encoder, encoder_decoder])
def test_a_model_with_something_around_its_layers_is_not_written_as_a_plain_one(make, tmp_path):
    for add in (lambda m: updating.add_lora(m, ["q_proj"], 2, 4.0), lambda m: updating.add_adapters(m, 2, ["o_proj"])):
        model = add(make())
        with pytest.raises(ValueError, match=r"attention.\w_proj has LoRA or an adapter around it.*merge_lora"):
            hub.save(model, tmp_path / "model")
        if make is not encoder_decoder:
            with pytest.raises(ValueError, match="merge_lora"):
                explore.packing.pack_model(model, symbols=["<s>", *(f"t{number}" for number in range(49))])


# --- compiled ---------------------------------------------------------------------------------------------------------


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_inside(model: nn.Module) -> nn.Module:
    """Compile each block, as large models are compiled."""
    for module in list(model.modules()):
        for name, blocks in list(module.named_children()):
            if name == "blocks":
                setattr(module, name, nn.ModuleList(compiled(block) for block in blocks))
    return model


def test_names_and_models_are_found_under_any_depth_of_wrapping():
    model = decoder()
    assert unwrapped(nn.DataParallel(compiled(model))) is model and unwrapped(model) is model
    assert unwrapped_name("_orig_mod.stack.blocks.0._orig_mod.norm.weight") == "stack.blocks.0.norm.weight"
    state = plain_state(compiled(compiled_inside(copy.deepcopy(model))))
    assert list(state) == list(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [compiled, compiled_inside])
@pytest.mark.parametrize("make", [decoder, encoder, encoder_decoder])
def test_compiled_models_are_saved_as_what_they_are(make, wrap, tmp_path):
    model = wrap(make())
    opened = hub.load(hub.save(model, tmp_path / "model"))
    with torch.no_grad():
        assert_close(logits_of(opened), logits_of(model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"), [(compiled, copy.copy), (copy.copy, compiled), (compiled_inside, compiled)]
)
def test_a_training_goes_on_compiled_or_not(first, second, tmp_path):
    windows, recipe = training.Windows(np.arange(500) % 50, 8, 2), training.Settings(3, checkpoint_every=2)
    model = first(decoder())
    training.fit(model, windows, recipe, folder=tmp_path, progress=False)
    again = second(decoder())
    assert training.resume(tmp_path / "checkpoints", again, []) == 3
    assert_close(plain_state(again), plain_state(model))


def test_a_checkpoint_whose_names_are_those_of_a_compiled_model_is_read(tmp_path, monkeypatch):
    model = decoder()
    named = [(f"_orig_mod.{name}", tensor) for name, tensor in model.named_parameters()]
    with monkeypatch.context() as patch:
        patch.setattr(training, "_named_tensors", lambda _: named)
        training.save_checkpoint(tmp_path, 1, model, [])
    again = decoder()
    assert training.resume(tmp_path, again, []) == 1
    assert_close(plain_state(again), plain_state(model))


def test_what_trains_is_chosen_by_the_same_names_in_a_compiled_model():
    for choice in ("full", "head", "bias", "attention"):
        plain = finetuning.SequenceClassifier(encoder(), 3)
        for model in (compiled(plain), compiled(finetuning.SequenceClassifier(compiled(encoder()), 3))):
            wanted = updating.train_only(plain, *updating.CHOICES[choice])
            assert updating.train_only(model, *updating.CHOICES[choice]) == wanted, choice
    updating.train_only(plain, *updating.CHOICES["full"])
    pairs = zip(
        *(updating.layerwise_optimizers(m, 1e-3, 0.5)[0].param_groups for m in (plain, compiled(plain))), strict=True
    )
    assert all(a["lr"] == b["lr"] and len(a["params"]) == len(b["params"]) for a, b in pairs)
    assert updating.Unfreezing(compiled(plain), 2).layers == 2
    assert len(updating.shared_parameters(compiled(plain))) == len(updating.shared_parameters(plain))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "encoder", "encoder-decoder"])
def test_lora_is_added_and_merged_in_a_compiled_model(kind):
    torch.manual_seed(0)
    model = compiled(MODELS[kind]())
    with torch.no_grad():
        before = logits_of(model)
        changed_at_random(updating.add_lora(model, ["q_proj", "lm_head"], 2, 4.0))
        beside = logits_of(model)
        assert not torch.allclose(beside, before)
        assert_close(logits_of(updating.merge_lora(model)), beside, atol=1e-4, rtol=1e-4)
    changed_at_random(updating.add_adapters(model, 2, ["down_proj"]))
    assert not torch.allclose(logits_of(model), beside)


@pytest.mark.slow
def test_a_compiled_model_is_of_its_own_kind_wherever_kinds_are_told_apart():
    gpt, bert = decoder(), encoder()
    assert finetuning.SequenceClassifier(compiled(bert), 3).pooling == "mean"
    head = finetuning.SequenceClassifier(bert, 3).eval()
    other = copy.copy(head)
    other._modules = {**head._modules, "backbone": compiled(bert)}
    types = torch.zeros_like(IDS)
    assert_close(other(IDS, token_type_ids=types).logits, head(IDS, token_type_ids=types).logits)
    assert preferences.RewardModel(compiled(gpt)).head.out_features == 1
    assert torch.equal(greedy(compiled(gpt), IDS, 2), greedy(gpt, IDS, 2))
    with torch.no_grad():
        assert_close(
            prompting.answer_log_likelihoods(compiled(gpt), [[1, 2]], [[3], [4, 5]]),
            prompting.answer_log_likelihoods(gpt, [[1, 2]], [[3], [4, 5]]),
        )
    assert prompting.LabelWords(compiled(bert), [[1], [2]], mask_token_id=5).num_labels == 2
    symbols = ["<s>", *(f"t{number}" for number in range(49))]
    packed = [explore.packing.pack_model(model, symbols=symbols) for model in (gpt, compiled(gpt))]
    assert packed[0] == packed[1]


def test_a_head_and_a_model_of_another_kind_are_no_model_of_the_hubs_format(tmp_path):
    for model in (finetuning.SequenceClassifier(encoder(), 3), nn.Linear(2, 2)):
        with pytest.raises(ValueError, match=f"{type(model).__name__} is no model"):
            hub.save(model, tmp_path / "head")
