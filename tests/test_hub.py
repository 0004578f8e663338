import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import pretrain
from llmbook import corpora, hub, tokenization
from llmbook.evaluation import command
from llmbook.explore import explore, pack_shipped
from llmbook.pretrained import FOLDER, model_names
from llmbook.pretrained.real import REAL_MODELS
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig, greedy

VOCAB = 40
AUTO = {Decoder: AutoModelForCausalLM, Encoder: AutoModelForMaskedLM, EncoderDecoder: AutoModelForSeq2SeqLM}
CLASSES = {Decoder: LlamaForCausalLM, Encoder: BertForMaskedLM, EncoderDecoder: T5ForConditionalGeneration}
sizes = {
    "d_model": st.sampled_from([16, 32]),
    "num_layers": st.integers(1, 3),
    "num_heads": st.sampled_from([2, 4]),
    "d_ff": st.sampled_from([None, 20]),
}
llamas = st.builds(
    TransformerConfig,
    st.just(VOCAB),
    **sizes,
    num_key_value_heads=st.sampled_from([None, 1, 2]),
    d_head=st.sampled_from([None, 6]),
    norm_eps=st.sampled_from([1e-6, 1e-3]),
    tie_embeddings=st.booleans(),
    rope_base=st.sampled_from([10_000.0, 500.0]),
)
berts = st.builds(TransformerConfig.bert, st.just(VOCAB), **sizes, type_vocab_size=st.integers(1, 3))
t5s = st.builds(
    TransformerConfig.t5,
    st.just(VOCAB),
    **sizes,
    d_head=st.sampled_from([None, 6]),
    activation=st.sampled_from(["relu", "geglu"]),
)
models = st.one_of(llamas.map(Decoder), berts.map(Encoder), t5s.map(EncoderDecoder))


def shaken(model, seed=0):
    """Move every parameter away from its initial value, so that no zero or one hides a mistake."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    return model.eval()


def make(kind, **changes):
    build = {Decoder: TransformerConfig, Encoder: TransformerConfig.bert, EncoderDecoder: TransformerConfig.t5}[kind]
    return shaken(kind(build(VOCAB, **({"d_model": 16, "num_layers": 2, "num_heads": 4} | changes))))


def inputs_of(model):
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(VOCAB, (2, 9), generator=rng)
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 9, [1] * 5 + [0] * 4])}
    if getattr(model.config, "type_vocab_size", 0):
        inputs["token_type_ids"] = torch.randint(model.config.type_vocab_size, (2, 9), generator=rng)
    if isinstance(model, EncoderDecoder | T5ForConditionalGeneration):
        inputs["decoder_input_ids"] = ids[:, :6].flip(0)
    return inputs


def assert_same_logits(one, other, atol=1e-5):
    inputs = inputs_of(one)
    with torch.no_grad():
        ours, theirs = one(**inputs).logits, other(**inputs).logits
    real = inputs["attention_mask"].bool() if "decoder_input_ids" not in inputs else torch.ones(2, 6).bool()
    assert_close(ours[real], theirs[real], rtol=0, atol=atol)  # what stands at padding is nobody's business


# --- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(model=models, seed=st.integers(0, 9))
def test_logits_are_the_same_there_and_back(model, seed):
    theirs = hub.to_hf(shaken(model, seed))
    assert type(theirs) is CLASSES[type(model)] and not theirs.training
    assert_same_logits(model, theirs)
    back = hub.from_hf(theirs)
    assert type(back) is type(model)
    for (name, ours), (again, restored) in zip(model.state_dict().items(), back.state_dict().items(), strict=True):
        assert name == again and torch.equal(ours, restored)


FRESH = [
    LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2)
    ),
    BertForMaskedLM(
        BertConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4)
    ),
    T5ForConditionalGeneration(T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4)),
    T5ForConditionalGeneration(
        T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4,
                 feed_forward_proj="gated-gelu")
    ),
]  # fmt: skip


@pytest.mark.parametrize("theirs", FRESH, ids=["llama", "bert", "t5", "t5-gated"])
def test_a_model_made_by_transformers_computes_the_same_here(theirs):
    ours = hub.from_hf(shaken(theirs))
    assert_same_logits(ours, theirs)
    assert_same_logits(hub.to_hf(ours), theirs)


@pytest.mark.parametrize("kind", CLASSES)
def test_attention_weights_are_the_same(kind):
    model = make(kind)
    theirs = hub.to_hf(model)
    theirs.set_attn_implementation("eager")
    inputs = {name: value for name, value in inputs_of(model).items() if name != "attention_mask"}
    with torch.no_grad():
        ours, hf = (m(**inputs, output_attentions=True) for m in (model, theirs))
    names = ("attentions",) if kind is not EncoderDecoder else (
        "encoder_attentions", "decoder_attentions", "cross_attentions")  # fmt: skip
    for name in names:
        for one, other in zip(getattr(ours, name), getattr(hf, name), strict=True):
            assert_close(one, other, rtol=0, atol=1e-5)


def test_greedy_writes_what_generate_writes():
    prompt = torch.randint(1, VOCAB, (2, 4), generator=torch.Generator().manual_seed(1))
    settings = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    decoder = make(Decoder, num_key_value_heads=2)
    theirs = hub.to_hf(decoder).generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    assert torch.equal(greedy(decoder, prompt, 10), theirs)
    both = make(EncoderDecoder)
    theirs = hub.to_hf(both).generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    assert torch.equal(greedy(both, torch.zeros(2, 1, dtype=torch.long), 10, source=prompt), theirs)


def test_weights_are_copied_and_random_numbers_are_left_alone():
    model = make(Decoder)
    torch.manual_seed(0)
    theirs = hub.to_hf(model)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    with torch.no_grad():
        theirs.model.norm.weight.fill_(7.0)
    assert (model.stack.final_norm.weight != 7.0).all()


@pytest.mark.parametrize("kind", CLASSES)
def test_mode_is_kept(kind):
    assert hub.to_hf(make(kind).train()).training
    assert not hub.from_hf(hub.to_hf(make(kind).eval())).training


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Decoder(TransformerConfig(VOCAB, position="alibi")), r"no Llama: position='alibi' \(it takes 'rope'\)"),
        (Decoder(TransformerConfig(VOCAB, norm_first=False, bias=True)), "norm_first=False.*bias=True"),
        (Encoder(TransformerConfig(VOCAB)), "no BERT: position='rope'.*activation='swiglu'"),
        (Encoder(TransformerConfig.bert(VOCAB, type_vocab_size=0)), "type_vocab_size=0"),
        (Encoder(TransformerConfig.bert(VOCAB, tie_embeddings=False)), "tie_embeddings=False"),
        (EncoderDecoder(TransformerConfig.t5(VOCAB, scale_attention=True)), "no T5: scale_attention=True"),
        (EncoderDecoder(TransformerConfig.t5(VOCAB, activation="swiglu")), "activation='swiglu'"),
    ],
)
def test_a_shape_that_the_class_does_not_compute_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        hub.to_hf(model)


def tiny(config_class, **changes):
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    return config_class(vocab_size=VOCAB, **(sizes | changes))


def tiny_t5(**changes):
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 1, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCAB, **(sizes | changes)))


def tiny_gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=1, n_head=2))


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (tiny_gpt2(), "GPT2LMHeadModel is none of the classes"),
        (LlamaForCausalLM(tiny(LlamaConfig, attention_bias=True)), "attention_bias=True"),
        (LlamaForCausalLM(tiny(LlamaConfig, hidden_act="gelu")), "hidden_act='gelu'"),
        (
            LlamaForCausalLM(
                tiny(LlamaConfig, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
            ),
            "rope_type='linear'",
        ),
        (BertForMaskedLM(tiny(BertConfig, hidden_act="relu")), "hidden_act='relu'"),
        (BertForMaskedLM(tiny(BertConfig, tie_word_embeddings=False)), "tie_word_embeddings=False"),
        (tiny_t5(num_decoder_layers=2), "num_decoder_layers=2"),
        (tiny_t5(relative_attention_max_distance=64), "relative_attention_max_distance=64"),
        (tiny_t5(tie_word_embeddings=False), "scale_decoder_outputs=False"),
    ],
)
def test_what_the_blocks_do_not_compute_is_refused(theirs, message):
    with pytest.raises(ValueError, match=message):
        hub.from_hf(theirs)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_and_loaded_is_the_same_in_every_precision(tmp_path, kind, dtype):
    model = make(kind).to(dtype)
    assert hub.save(model, tmp_path / "model") == tmp_path / "model"
    loaded = hub.load(tmp_path / "model")
    assert loaded.config.d_model == 16 and not loaded.training
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert theirs.dtype == dtype and torch.equal(ours, theirs), name


@pytest.mark.parametrize("kind", CLASSES)
def test_auto_model_opens_what_was_saved(tmp_path, kind):
    model = make(kind)
    opened = AUTO[kind].from_pretrained(hub.save(model, tmp_path)).eval()
    assert type(opened) is CLASSES[kind]
    assert_same_logits(model, opened)
    opened.save_pretrained(tmp_path / "theirs")
    assert_same_logits(model, hub.load(tmp_path / "theirs"))


@pytest.mark.parametrize("kind", CLASSES)
def test_tied_weights_are_stored_once_and_tied_when_loaded(tmp_path, kind):
    hub.save(make(kind), tmp_path)
    tables = [name for name, tensor in load_file(tmp_path / "model.safetensors").items() if tensor.shape == (VOCAB, 16)]
    assert len(tables) == 1
    loaded = hub.load(tmp_path)
    assert loaded.lm_head.weight is loaded.embeddings.weight


def test_untied_weights_stay_untied(tmp_path):
    loaded = hub.load(hub.save(make(Decoder, tie_embeddings=False), tmp_path))
    assert loaded.lm_head.weight is not loaded.embeddings.weight
    assert not torch.equal(loaded.lm_head.weight, loaded.embeddings.weight)


def test_saving_again_replaces_and_keeps_other_files(tmp_path):
    folder = hub.save(make(Decoder), tmp_path / "deep" / "model")
    (folder / "tokenizer.json").write_text("{}")
    hub.save(make(Encoder), folder)
    assert type(hub.load(folder)) is Encoder
    assert (folder / "tokenizer.json").read_text() == "{}"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("moment", ["write", "translate"])
def test_an_interrupted_save_leaves_the_old_files(tmp_path, monkeypatch, moment):
    folder = tmp_path / "model"
    hub.save(make(Decoder), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(self, save_directory, *args, **kwargs):
        (tmp_path / os.fspath(save_directory) / "model.safetensors").write_bytes(b"half a file")
        raise OSError("no space left on device")

    if moment == "write":
        monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", fail)
    else:
        monkeypatch.setattr(hub, "to_hf", lambda model: 1 / 0)
    with pytest.raises((OSError, ZeroDivisionError)):
        hub.save(make(Decoder, num_layers=1), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_model_does_not_replace_a_good_one(tmp_path, bad):
    good = make(Decoder)
    hub.save(good, tmp_path)
    diverged = make(Decoder)
    diverged.stack.final_norm.weight.data[3] = bad
    with pytest.raises(ValueError, match=r"1 tensors have NaN or infinite values, stack\.final_norm\.weight first"):
        hub.save(diverged, tmp_path)
    assert torch.equal(hub.load(tmp_path).stack.final_norm.weight, good.stack.final_norm.weight)


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        hub.save(make(Decoder), tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    hub.save(make(Decoder), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no .*{name[:6]}"):
        hub.load(tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    hub.save(make(Decoder), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"do not fit its config\.json, or the file is damaged"):
        hub.load(tmp_path)


def test_missing_weights_are_not_drawn_at_random(tmp_path):
    hub.save(make(Decoder), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights, model\.layers\.1\.mlp\.up_proj\.weight first"):
        hub.load(tmp_path)


def test_weights_of_another_width_are_refused(tmp_path):
    hub.save(make(Decoder), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(ValueError, match=r"do not fit its config\.json"):
        hub.load(tmp_path)


def test_another_kind_of_model_is_named(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a gpt2: the book's blocks compute llama, bert, t5"):
        hub.load(tmp_path)


def test_weights_in_several_files_are_loaded(tmp_path):
    model = make(Decoder)
    hub.to_hf(model).save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_logits(model, hub.load(tmp_path))


# --- with a tokenizer, and what the book ships ------------------------------------------------------------------------

FAMILY = {Decoder: "gpt", Encoder: "bert", EncoderDecoder: "t5"}


def full_size(kind):
    """Return a small model with the shipped tokenizer's vocabulary."""
    shape = {Decoder: TransformerConfig, Encoder: TransformerConfig.bert, EncoderDecoder: TransformerConfig.t5}[kind]
    return kind(shape(4096, d_model=16, num_layers=1, num_heads=2)).eval()


@pytest.mark.parametrize("kind", CLASSES)
def test_a_tokenizer_is_saved_with_its_model_and_its_special_tokens_are_named(tmp_path, kind):
    tokenizer = tokenization.load_tokenizer(FAMILY[kind])
    hub.save(full_size(kind), tmp_path, tokenizer)
    opened, theirs = AutoTokenizer.from_pretrained(tmp_path), AUTO[kind].from_pretrained(tmp_path)
    for sentence in ("def f(x): return 12", "naïve 中文 🙂\n", "a <mask> b"):
        assert opened(sentence)["input_ids"] == tokenizer(sentence)["input_ids"]
    assert opened.decode(opened("12 a")["input_ids"], skip_special_tokens=True) == "12 a"
    assert theirs.config.pad_token_id == 1 and theirs.config.eos_token_id == tokenizer.eos_token_id
    if kind is EncoderDecoder:
        assert theirs.config.decoder_start_token_id == 1
        written = theirs.generate(**opened("a", return_tensors="pt", return_token_type_ids=False), max_new_tokens=3)
        assert written[0, 0] == 1


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="4096 tokens, the model 40"):
        hub.save(make(Decoder), tmp_path / "model", tokenization.load_tokenizer())
    assert not (tmp_path / "model").exists()


SHIPPED = model_names()


def pack(folder):
    explore(folder, "a text")


def evaluate(folder):
    command.evaluate(folder, "never written")


@pytest.mark.parametrize("use", [hub.pretrained, hub.load, hub.model_folder, pack, pack_shipped, evaluate])
@pytest.mark.parametrize("given", ["pydocs-gtp", "", Path("no/folder"), Path(__file__)])
def test_a_missing_model_is_one_error_everywhere(use, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = ", ".join([*SHIPPED, *REAL_MODELS])
    words = f"{given} is no folder with a config.json and no model of the book ({known}): give one of "
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(words)}"):
        use(given)


def test_a_name_of_the_book_goes_before_a_folder_that_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.save(make(Decoder), "pydocs-gpt")
    assert hub.model_folder("pydocs-gpt") == FOLDER / "pydocs-gpt"
    assert hub.load("./pydocs-gpt").config.vocab_size == VOCAB
    assert hub.load(Path("pydocs-gpt")).config.vocab_size == VOCAB
    assert hub.model_folder(Path("pydocs-t5")) == FOLDER / "pydocs-t5", "no folder of this name lies here"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_pretrained_model_comes_in_single_precision_with_its_tokenizer(name):
    model, tokenizer = hub.pretrained(name)
    assert not model.training and {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    stored = hub.load(name)
    assert type(model) is type(stored) and stored.embeddings.weight.dtype == torch.bfloat16
    for key, tensor in stored.float().state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    ours = tokenization.load_tokenizer(FAMILY[type(model)])
    assert tokenizer("a b", "12").input_ids == ours("a b", "12").input_ids
    assert tokenizer.special_tokens_map == ours.special_tokens_map


@pytest.mark.parametrize("kind", CLASSES)
def test_a_folder_of_the_readers_own_is_opened_with_the_tokenizer_in_it(tmp_path, kind):
    given, tokenizer = full_size(kind), tokenization.load_tokenizer(FAMILY[kind])
    model, opened = hub.pretrained(hub.save(given, tmp_path / "own", tokenizer))
    assert_same_logits(given, model)
    assert opened("a b 12", "c").input_ids == tokenizer("a b 12", "c").input_ids
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json: save the tokenizer beside the model"):
        hub.pretrained(hub.save(given, tmp_path / "bare"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_what_its_card_says(name):
    folder = hub.model_folder(name)
    card = (folder / "README.md").read_text(encoding="utf8")
    content = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() in card and len(content) <= 10_000_000
    lines = (folder / "curve.csv").read_text().splitlines()
    assert f"{int(lines[-1].split(',')[1]):,} tokens" in card
    model = hub.load(folder).float()
    kind = type(model)
    assert_same_logits(model, AUTO[kind].from_pretrained(folder, dtype="float32").eval())
    tokenizer, ours = AutoTokenizer.from_pretrained(folder), tokenization.load_tokenizer(FAMILY[kind])
    assert tokenizer("a b 12")["input_ids"] == ours("a b 12")["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_scores_held_out_text_as_its_card_says(name):
    kind = name.removeprefix("pydocs-")
    score = pretrain.score(kind, hub.pretrained(name)[0], corpora.held_out())
    card = (hub.model_folder(name) / "README.md").read_text(encoding="utf8")
    recorded = float(re.search(r"held-out text \| ([\d.]+) ", card)[1])
    assert score == pytest.approx(recorded, abs=0.002)
