"""The book's models as Hugging Face's: the same logits there and back, through a file, and what is refused."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel

from llmbook import hub
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig, greedy

IDS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 6 + [0] * 3, [1] * 9])
SMALL = {"d_model": 32, "num_layers": 2}
MODELS = {
    "llama": (Decoder, TransformerConfig(50, **SMALL), AutoModelForCausalLM),
    "llama, grouped": (Decoder, TransformerConfig(50, **SMALL, num_key_value_heads=2, d_ff=48), AutoModelForCausalLM),
    "llama, untied": (Decoder, TransformerConfig(50, **SMALL, tie_embeddings=False, d_head=16), AutoModelForCausalLM),
    "bert": (Encoder, TransformerConfig.bert(50, **SMALL), AutoModelForMaskedLM),
    "t5": (EncoderDecoder, TransformerConfig.t5(50, **SMALL, d_head=16), AutoModelForSeq2SeqLM),
    "t5, gated": (EncoderDecoder, TransformerConfig.t5(50, **SMALL, activation="geglu"), AutoModelForSeq2SeqLM),
}


def build(name):
    kind, config, auto = MODELS[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model, auto


@torch.no_grad()
def logits(model):
    more = {"decoder_input_ids": IDS[:, :4]} if "decoder_input_ids" in model.forward.__code__.co_varnames or getattr(
        model.config, "is_encoder_decoder", False) else {}  # fmt: skip
    result = model(input_ids=IDS, attention_mask=MASK, **more).logits
    return result if more else result[MASK.bool()]


@pytest.mark.parametrize("name", MODELS)
def test_logits_agree_there_and_back_and_through_a_file(name, tmp_path):
    model, auto = build(name)
    ours = logits(model)
    theirs = hub.to_hf(model)
    assert (logits(theirs) - ours).abs().max() < 1e-5
    back = hub.from_hf(theirs)
    assert back.config == model.config and torch.equal(logits(back), ours)
    folder = hub.save(model, tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".json") == ["model.safetensors"]
    assert (logits(auto.from_pretrained(folder).eval()) - ours).abs().max() < 1e-5
    assert torch.equal(logits(hub.load(folder).eval()), ours)
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing temporary is left"


def test_greedy_decoding_is_that_of_generate():
    model, _ = build("llama, grouped")
    theirs = hub.to_hf(model).generate(IDS, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(greedy(model, IDS, 8), theirs)


def test_training_a_copy_leaves_the_original_alone():
    model, _ = build("bert")
    before = logits(model)
    theirs = hub.to_hf(model)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), before)


def test_embeddings_stay_tied_after_loading(tmp_path):
    model = hub.load(hub.save(build("llama")[0], tmp_path / "model"))
    assert model.lm_head.weight is model.embeddings.weight


def test_interrupted_save_leaves_the_old_files(tmp_path, monkeypatch):
    model, _ = build("llama")
    folder = hub.save(model, tmp_path / "model")
    old = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(self, *args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("transformers.LlamaForCausalLM.save_pretrained", fail)
    with pytest.raises(OSError, match="no space"):
        hub.save(build("llama, untied")[0], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == old
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"position": "alibi"}, r"no Llama: position='alibi' \(it takes 'rope'\)"),
        ({"norm_first": False}, "no Llama: norm_first=False"),
        ({"bias": True, "activation": "gelu"}, "activation='gelu'.*bias=True"),
    ],
)
def test_other_shapes_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        hub.to_hf(Decoder(TransformerConfig(50, **SMALL, **config)))


def test_other_classes_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="GPT2LMHeadModel is none of the classes"):
        hub.from_hf(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2)))
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        hub.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        hub.save(build("llama")[0], tmp_path / "file")
    broken, _ = build("llama")
    broken.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="has diverged"):
        hub.save(broken, tmp_path / "broken")
