"""Real models: made-up wheels on an index of the test's own for all that can go wrong, and the real ones themselves."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import asdict, replace
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jinja2.exceptions import TemplateError
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)

from llmbook import hub, pretrained, tokenization, viz
from llmbook.evaluation import command
from llmbook.files import file_sha256
from llmbook.pretrained import __main__ as program
from llmbook.pretrained import real
from llmbook.sentences import SentenceEncoder
from llmbook.transformer import Decoder, TransformerConfig, greedy, padded_positions

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{% endfor %}"
)
SHAPE = {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64}


def write_gguf(path, positions=16):
    """Write a small Llama in the layout of the real file: matrices in four bits, byte-level BPE, a chat template."""
    rng = np.random.default_rng(0)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "in", "ing", "Ġt", "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(positions)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["i n", "in g", "Ġ t", "Ġ Ġ"])
    for name, number in (("bos", 1), ("eos", 2), ("unk", 0), ("pad", 2)):
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_chat_template(TEMPLATE)
    four = gguf.GGMLQuantizationType.Q4_1
    sizes = {"token_embd": (len(tokens), 32)}
    for layer in range(2):
        names = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32),
                 "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}  # fmt: skip
        sizes |= {f"blk.{layer}.{name}": size for name, size in names.items()}
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", rng.uniform(0.5, 1.5, 32).astype(np.float32))
    writer.add_tensor("output_norm.weight", rng.uniform(0.5, 1.5, 32).astype(np.float32))
    for name, size in sizes.items():
        packed = gguf.quants.quantize(rng.normal(size=size).astype(np.float32) * 0.3, four)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=four)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_sentences(folder, vocabulary=4096):
    """Write a small BERT without a head in the layout of a sentence encoder."""
    config = BertConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, max_position_embeddings=64)  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenization.load_tokenizer("bert").save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    return folder


def write_wheel(folder, package, files):
    """Write a wheel with some files in it; return its hash."""
    name = package.replace("-", "_")
    about = f"{name}-1.0.dist-info"
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, path in files.items():
            archive.write(path, place)
        # what the real ones ask for is not to be fetched
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
                         "Requires-Dist: a-package-that-nobody-has\n")  # fmt: skip
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Return the wheels of two small models, and what stands in the list of models for them."""
    folder = tmp_path_factory.mktemp("shelf")
    file = write_gguf(folder / "tiny.gguf")
    model = write_sentences(folder / "model")
    inside = {f"tiny_sentences/model/{p.relative_to(model)}": p for p in sorted(model.rglob("*")) if p.is_file()}
    wheels = folder / "wheels"
    wheels.mkdir()
    common = {"version": "1.0", "megabytes": 1, "disk": 5, "licence": "MIT", "about": "", "caution": "", "paper": ""}
    known = {}
    for name, member, files in (
        ("tiny-gpt", "tiny_gpt/tiny.gguf", {"tiny_gpt/tiny.gguf": file}),
        ("tiny-sentences", "tiny_sentences/model/", inside),
    ):
        sha256 = write_wheel(wheels, name, files)
        known[name] = real.RealModel(package=name, sha256=sha256, member=member, source=f"someone/{name}", **common)
    return SimpleNamespace(wheels=wheels, known=known, gguf=file, model=model)


@pytest.fixture
def index(shelf, tmp_path, monkeypatch):
    """An index of the two wheels, a cache of the test's own, and nothing of the user's settings of pip."""
    monkeypatch.setattr(real, "REAL_MODELS", shelf.known)
    folder = tmp_path / "index"
    shutil.copytree(shelf.wheels, folder)
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0",
                "LLMBOOK_CACHE": tmp_path / "cache"}  # fmt: skip
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    for variable, value in settings.items():
        monkeypatch.setenv(variable, str(value))
    return folder


def left(cache):
    """Return what lies in a cache besides locks."""
    return sorted(path.name for path in (cache / "models").glob("*") if path.suffix != ".lock")


# --- fetched, checked, kept -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_gguf_file_becomes_the_books_decoder(index, shelf, tmp_path, capfd):
    model, tokenizer = hub.pretrained("tiny-gpt")
    theirs, _ = hub.pretrained("tiny-gpt", library=True)
    told = capfd.readouterr().err
    assert (
        "fetching tiny-gpt: 100%" in told and "1.00M/1.00M" in told and f"kept in {real.place_of('tiny-gpt')}" in told
    )
    assert type(model) is Decoder and type(theirs) is LlamaForCausalLM
    assert model.config == TransformerConfig(263, 32, 2, 2, 1, 16, 64, 16, norm_eps=1e-5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    stored = load_file(real.place_of("tiny-gpt") / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(shelf.gguf).tensors}["blk.1.ffn_down.weight"]
    unpacked = torch.from_numpy(gguf.quants.dequantize(reader.data, reader.tensor_type))
    assert torch.equal(stored["model.layers.1.mlp.down_proj.weight"], unpacked.bfloat16())
    ids = tokenizer("testing 12", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert_close(model(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)
    # each digit alone and the blanks before them together, which transformers would not do by itself
    assert tokenizer.tokenize("testing  12") == ["t", "e", "s", "t", "ing", "ĠĠ", "1", "2"]
    assert tokenizer.decode(ids[0]) == "testing 12" and tokenizer.model_max_length == 16
    with pytest.raises(ValueError, match="17 tokens, but the model was trained on 16 positions"):
        model(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match="17 tokens, but the model was trained on 16 positions"):
        greedy(model, torch.zeros(1, 10, dtype=torch.long), 9)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "in"}], tokenize=False)
    assert chat == "<|im_start|>user\nin<|im_end|>"
    with pytest.raises(TemplateError, match='role "teacher": a message is of system, user or assistant'):
        tokenizer.apply_chat_template([{"role": "teacher", "content": "in"}], tokenize=False)
    assert left(tmp_path / "cache") == [real.place_of("tiny-gpt").parent.name]


@pytest.mark.slow
def test_four_bits_are_unpacked_as_the_page_of_models_says(index, shelf):
    values = np.concatenate([np.linspace(-1, 2, 32), np.random.default_rng(0).normal(size=32)]).astype(np.float32)
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
    assert packed.nbytes == 2 * 20
    found = []
    for block in packed.reshape(2, 20):
        step, smallest = block[:4].view(np.float16).astype(np.float32)
        whole = [*(byte & 15 for byte in block[4:]), *(byte >> 4 for byte in block[4:])]
        found += [smallest + step * number for number in whole]
    assert len(set(found[:32])) <= 16 and found[0] == pytest.approx(values[:32].min(), abs=1e-3)
    assert np.abs(np.array(found[:32]) - values[:32]).max() <= 3 / 15 / 2 + 1e-3  # half a step
    np.testing.assert_array_equal(
        np.float32(found), gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1).ravel()
    )
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(shelf.gguf).tensors}
    tensor = reader["blk.0.attn_k.weight"]
    block = np.asarray(tensor.data)[3, :20]
    step, smallest = block[:4].view(np.float16).astype(np.float32)
    row = smallest + step * np.concatenate([block[4:] & 15, block[4:] >> 4]).astype(np.float32)
    weights = load_file(real.fetch("tiny-gpt", progress=False) / "model.safetensors")
    names = [name for name in weights if "layers.0.self_attn.k_proj" in name]
    kept = weights[names[0]].float().numpy()  # (kv heads * d_head, d_model), rows in another order than in the file
    assert np.isclose(kept, row, rtol=2**-8, atol=1e-6).all(1).any()


def test_what_is_in_the_cache_is_not_fetched_again_and_nothing_of_the_wheel_is_installed(index, monkeypatch):
    place = real.fetch("tiny-sentences", progress=False)
    monkeypatch.setattr(real, "_download", None)
    assert real.fetch("tiny-sentences") == place == hub.model_folder("tiny-sentences") == hub.model_folder(place)
    assert importable("tiny_sentences") is None
    origin = json.loads((place.parent / real.ORIGIN).read_text())
    assert origin["package"] == "tiny-sentences" and set(origin["files"]) >= {"config.json", "1_Pooling/config.json"}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in place.rglob("*"))


def importable(name):
    import importlib.util

    return importlib.util.find_spec(name)


def at_hand(index, monkeypatch):
    """Take the wheels without asking pip, which takes a second."""
    found = {name: index / f"{name.replace('-', '_')}-1.0-py3-none-any.whl" for name in real.REAL_MODELS}
    monkeypatch.setattr(real, "_download", lambda name, folder, progress: found[name])


def test_changed_files_in_the_cache_are_noticed(index, monkeypatch):
    at_hand(index, monkeypatch)
    place = real.fetch("tiny-sentences", progress=False)
    for file in place.iterdir():
        os.utime(file)  # copied to another disk: the same content
    assert real.fetch("tiny-sentences") == place
    weights = place / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(real.ModelError, match=r"damaged \(model\.safetensors is not what was written\): delete .* and"):
        hub.pretrained("tiny-sentences")
    shutil.rmtree(place.parent)
    hub.pretrained("tiny-sentences")
    shutil.rmtree(place)  # the inner folder alone
    hub.pretrained("tiny-sentences")


def test_another_wheel_of_a_model_has_another_place(shelf, monkeypatch):
    monkeypatch.setattr(real, "REAL_MODELS", dict(shelf.known))
    before = real.place_of("tiny-gpt")
    real.REAL_MODELS["tiny-gpt"] = replace(shelf.known["tiny-gpt"], sha256="0" * 64)
    assert real.place_of("tiny-gpt") != before and real.place_of("tiny-gpt").name == "tiny-gpt"


CHILD = """
import json, os, sys, time
from llmbook.pretrained import real
real.REAL_MODELS = {name: real.RealModel(**about) for name, about in json.loads(os.environ["KNOWN"]).items()}
download = real._download
def counted(name, folder, progress):
    with open(os.environ["COUNT"], "a") as file:
        file.write("fetched\\n")
    if os.environ.get("HANG"):
        (folder / "half").write_bytes(b"half a file")
        time.sleep(60)
    return download(name, folder, progress)
real._download = counted
print(real.fetch("tiny-sentences", progress=False))
"""


def start(shelf, count, **more):
    known = json.dumps({name: asdict(model) for name, model in shelf.known.items()})
    environment = {**os.environ, "KNOWN": known, "COUNT": str(count), **more}
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_fetch_it_once_and_what_a_killed_one_left_is_removed(index, shelf, tmp_path):
    count, cache = tmp_path / "count", tmp_path / "cache"
    killed = start(shelf, count, HANG="1")
    while not list(cache.glob("models/*/half")):
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert len(left(cache)) == 1 and not real.place_of("tiny-sentences").exists()
    both = [start(shelf, count) for _ in range(2)]
    assert {child.communicate(timeout=60)[0].strip() for child in both} == {str(real.place_of("tiny-sentences"))}
    assert [child.returncode for child in both] == [0, 0]
    assert count.read_text() == "fetched\n" * 2  # the killed one, and one of the two
    assert left(cache) == [real.place_of("tiny-sentences").parent.name]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def spoil(index):
    wheel = index / "tiny_sentences-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[100] ^= 1
    wheel.write_bytes(content)


def cut(index):
    wheel = index / "tiny_sentences-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[: wheel.stat().st_size // 2])


REMEDY = r'hub\.pretrained\("folder"\), as `hf download someone/tiny-sentences --local-dir folder` writes it$'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (spoil, r"1\.0 is cut off, or not the file that the book names by its SHA-256 .* was not used\).*" + REMEDY),
        (cut, r"1\.0 is cut off, or not the file that the book names by its SHA-256 .* was not used\).*" + REMEDY),
        (shutil.rmtree, r"the package index has no wheel tiny-sentences 1\.0\).*PIP_FIND_LINKS.*" + REMEDY),
    ],
)
def test_a_wheel_that_is_not_the_pinned_one_is_one_line_and_leaves_nothing(index, tmp_path, happens, message):
    happens(index)
    with pytest.raises(real.ModelError, match=message) as caught:
        hub.pretrained("tiny-sentences")
    assert str(caught.value).startswith("tiny-sentences cannot be had (") and "\n" not in str(caught.value)
    assert left(tmp_path / "cache") == []


@pytest.mark.slow
def test_without_a_network_the_remedy_is_named_and_make_goes_on(index, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setattr(real, "REAL_MODELS", {"tiny-sentences": real.REAL_MODELS["tiny-sentences"]})
    assert program.main() == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert "tiny-sentences cannot be had (the package index does not answer): try again with a network" in line
    assert left(tmp_path / "cache") == []


def test_a_full_disk_is_named_before_and_while_it_fills(index, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(real.shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000))
        with pytest.raises(real.ModelError, match=r"the disk is full \(3 MB are free, 5 MB are needed\); free some"):
            real.fetch("tiny-gpt", progress=False)
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    monkeypatch.setattr(real, "_run", lambda command, environment: (1, said))
    with pytest.raises(real.ModelError, match=r"the disk is full \(No space left on device\); free some space there"):
        real.fetch("tiny-gpt", progress=False)
    at_hand(index, monkeypatch)
    with pytest.raises(real.ModelError, match=r"the disk is full \(No space left on device\); free some space there"):
        real.fetch("tiny-gpt", progress=False)
    assert left(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (1, "a warning\nImportError: no gguf\n", r"cannot be converted \(ImportError: no gguf\): install llmbook's"),
        (-9, "", r"cannot be converted \(killed by signal 9: about 1 GB of memory is needed\)"),
    ],
)
def test_a_conversion_that_fails_leaves_nothing(index, tmp_path, monkeypatch, status, said, message):
    at_hand(index, monkeypatch)
    monkeypatch.setattr(real, "_run", lambda command, environment: (status, said))
    with pytest.raises(real.ModelError, match=message):
        real.fetch("tiny-gpt", progress=False)
    assert left(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_named(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(real.ModelError, match=r"cannot be kept in .*models \(Not a directory\): set LLMBOOK_CACHE to"):
        real.fetch("tiny-gpt")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("/usr/bin/python3: No module named pip", r"this Python has no pip .*`python -m ensurepip`"),
        ("WARNING: x\nERROR: Something new\nnotice", "pip: ERROR: Something new"),
        ("", "pip: no message"),
    ],
)
def test_whatever_pip_says_is_one_line(index, monkeypatch, said, message):
    monkeypatch.setattr(real, "_run", lambda command, environment: (1, said))
    with pytest.raises(real.ModelError, match=message):
        real.fetch("tiny-gpt", progress=False)


def test_an_unknown_name_lists_the_known_ones():
    known = ", ".join([*pretrained.model_names(), *real.REAL_MODELS])
    with pytest.raises(FileNotFoundError, match=rf"no model of the book \({known}\): give one of these names"):
        hub.pretrained("smollm3")
    with pytest.raises(
        ValueError, match=r"'smollm3' is no real model of the book: give one of smollm2-135m-instruct, "
    ):
        real.fetch("smollm3")


def test_a_folder_of_the_cache_and_one_of_transformers_are_evaluated_alike(index, tmp_path):
    folder = real.fetch("tiny-gpt", progress=False)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    options = {"benchmarks": {}, "texts": ["The sum of the axes.", "A list of names."], "progress": False}
    reports = [command.evaluate(one, tmp_path / "out", **options) for one in (folder, "tiny-gpt", tmp_path / "plain")]
    (first,), (named,), (plain,) = (report["results"] for report in reports)
    assert first["metric"] == "bits per byte" and first["score"] == named["score"]
    assert plain["score"] == pytest.approx(first["score"], rel=1e-6)
    assert all(report["key"]["device"] == "cpu" for report in reports)


# --- models that do not fit -------------------------------------------------------------------------------------------


def test_a_folder_of_another_family_is_refused_with_its_tokenizer_too(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    tokenization.load_tokenizer().save_pretrained(tmp_path)
    for library in (False, True):
        with pytest.raises(ValueError, match="holds a gpt2: the book's blocks compute llama, bert, t5"):
            hub.pretrained(tmp_path, library=library)


@pytest.mark.parametrize("rows", [4000, 5000])
@pytest.mark.parametrize("library", [False, True])
def test_a_tokenizer_with_too_many_or_too_few_tokens_is_another_models(tmp_path, rows, library):
    hub.save(Decoder(TransformerConfig(rows, **SHAPE)), tmp_path)
    tokenization.load_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"has 4,096 tokens, the model's table of embeddings {rows:,} rows: put the"):
        hub.pretrained(tmp_path, library=library)


def test_a_table_that_is_filled_up_to_a_round_number_is_no_other_models(tmp_path):
    hub.save(Decoder(TransformerConfig(4224, **SHAPE)), tmp_path)
    tokenization.load_tokenizer().save_pretrained(tmp_path)
    assert type(hub.pretrained(tmp_path)[0]) is Decoder


# --- sentence vectors -------------------------------------------------------------------------------------------------


def by_the_library(model, tokenizer, texts, longest):
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


TEXTS = ["A man is eating.", "", "Someone eats food, slowly and with great care.", "x " * 400, "A man is eating."]


def test_sentence_vectors_are_the_librarys_mean_in_any_order_and_batch(shelf):
    model, tokenizer = hub.pretrained(shelf.model)
    theirs, _ = hub.pretrained(shelf.model, library=True)
    assert type(model) is SentenceEncoder and type(theirs) is BertModel and not model.training
    vectors = model.encode(TEXTS)
    assert_close(vectors, by_the_library(theirs, tokenizer, TEXTS, 24), rtol=0, atol=1e-5)
    assert_close(vectors.norm(dim=-1), torch.ones(5))
    assert_close(vectors, model.encode(TEXTS, batch_size=2), rtol=0, atol=1e-6)
    assert model.encode([]).shape == (0, 32)
    weights = model(torch.tensor([[3, 9, 4]]), output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in weights] == [(1, 2, 3, 3)] * 2


def test_sentence_vectors_refuse_what_is_no_list_of_texts(shelf):
    model, tokenizer = hub.pretrained(shelf.model)
    for given, message in (("a text", r"one text: give a list of them, \[text\]"), (["a", 3], r"texts\[1\] is a int")):
        with pytest.raises(ValueError, match=message):
            model.encode(given)
    with pytest.raises(ValueError, match="batch_size=0: it takes a whole number from 1 up"):
        model.encode(["a"], batch_size=0)
    with pytest.raises(ValueError, match="max_tokens=65: the model has positions for 3 to 64 tokens"):
        SentenceEncoder(model.config, tokenizer, 65)


def test_an_encoder_without_logits_is_not_loaded_as_a_language_model(shelf, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds a sentence encoder, which has no logits: open it with hub\.pretrained"
    ):
        hub.load(shelf.model)
    other = shutil.copytree(shelf.model, tmp_path / "other")
    (other / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    with pytest.raises(ValueError, match="joins its tokens' vectors by pooling_mode_cls_token: the book's class by"):
        hub.pretrained(other)


# --- the real ones; `make venv` has put them in place ---------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2():
    model, tokenizer = hub.pretrained("smollm2-135m-instruct")
    tokenizer.padding_side = "left"
    return model, tokenizer, hub.pretrained("smollm2-135m-instruct", library=True)[0]


@pytest.mark.slow
def test_smollm2_has_the_same_logits_and_greedy_text_with_padding_and_cache(smollm2):
    model, tokenizer, theirs = smollm2
    assert type(model) is Decoder and sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    prompts = ["The capital of France is Paris, and the capital of Italy is", "In 1969, 12 people"]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert not mask.all()
    positions = padded_positions(mask)
    with torch.no_grad():
        ours, other = (one(ids, attention_mask=mask, position_ids=positions).logits for one in (model, theirs))
        assert_close(ours[mask.bool()], other[mask.bool()], rtol=0, atol=1e-5)
        first = model(ids[:, :-3], mask[:, :-3], positions[:, :-3], use_cache=True)
        rest = model(ids[:, -3:], mask, positions[:, -3:], past_key_values=first.past_key_values)
    assert_close(rest.logits, other[:, -3:], rtol=0, atol=5e-4)  # other sums in another order; logits reach 30
    written = greedy(model, ids, 12, attention_mask=mask)
    wanted = theirs.generate(ids, attention_mask=mask, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert torch.equal(written, wanted)
    assert tokenizer.decode(written[0, ids.shape[1] :]).startswith(" Rome.")


@pytest.mark.slow
def test_smollm2_reads_chats_and_refuses_what_it_was_not_made_for(smollm2):
    model, tokenizer, _ = smollm2
    assert tokenizer.tokenize("in  1969") == ["in", "ĠĠ", "1", "9", "6", "9"]
    asked = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n") and "named SmolLM" in text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == (
        "<|im_start|>",
        "<|im_end|>",
        8192,
    )
    with pytest.raises(TemplateError, match='role "teacher"'):
        tokenizer.apply_chat_template([{"role": "teacher", "content": "Hello"}])
    with pytest.raises(ValueError, match="9,000 tokens, but the model was trained on 8,192 positions"):
        model(torch.zeros(1, 9000, dtype=torch.long))


@pytest.mark.slow
def test_attention_of_smollm2_is_shown(smollm2):
    model, tokenizer, _ = smollm2
    figure = viz.show_attention(model, "The capital of France is Paris", tokenizer=tokenizer, layers=[0, 29], heads=[0])
    assert figure.axes[0].get_title() == "Head 0"
    assert "Layer 29" in [ax.get_ylabel() for ax in figure.axes]


@pytest.mark.slow
def test_minilm_gives_the_librarys_vectors_and_alike_texts_alike_ones():
    model, tokenizer = hub.pretrained("minilm-l6")
    theirs, _ = hub.pretrained("minilm-l6", library=True)
    vectors = model.encode([*TEXTS, "The price of oil fell."])
    assert_close(vectors, by_the_library(theirs, tokenizer, [*TEXTS, "The price of oil fell."], 256), rtol=0, atol=1e-5)
    weights = file_sha256(hub.model_folder("minilm-l6") / "model.safetensors")
    assert weights.startswith("53aa51172d142c89"), "the published file, as the page on models says"
    assert vectors[0] @ vectors[2] > 0.4 > vectors[0] @ vectors[5]
