"""One call draws the attention of any model, and says what is wrong with what it is given."""

import base64
import copy
import gzip
import io
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from llmbook import viz
from llmbook.tokenization import train_byte_bpe
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig
from llmbook.viz import scripts
from llmbook.viz.reading import read_attention
from llmbook.viz.show import check_size, spaced_layers

matplotlib.use("agg")
SHAPE = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
IDS = torch.arange(1, 9)[None]
WORDS = ["a", "cat", "sat", "on", "the", "mat", "and", "slept"]


def hugging_face(name):
    torch.manual_seed(0)
    return {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=400, num_key_value_heads=2, **SHAPE)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=3, n_head=4)),
        "bert": lambda: BertForMaskedLM(BertConfig(vocab_size=400, **SHAPE)),
        "t5": lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=32, num_layers=3, num_heads=4)
        ),
    }[name]()


def own(name, **changes):
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=400, d_model=32, num_layers=3, num_heads=4, d_ff=32, max_length=64, **changes)
    return {"decoder": Decoder, "encoder": Encoder, "seq2seq": EncoderDecoder}[name](config)


def weights(*shape, seed=0):
    scores = np.exp(np.random.default_rng(seed).normal(size=shape))
    return scores / scores.sum(-1, keepdims=True)


def unpacked(view):
    """What the view's frame holds: the page and, from it, BertViz's parameters."""
    figure = BeautifulSoup(view._repr_html_(), "html.parser").figure
    data, code = (json.loads(gzip.decompress(base64.b64decode(figure[f"data-{name}"])))
                  for name in ("attention", "scripts"))  # fmt: skip
    parameters = json.loads(re.search(r"const data = (\{.*\});\n", data["html"])[1])
    return data, parameters, code


def array(numbers):
    return np.array(numbers["values"]).reshape(numbers["shape"]) / numbers["unit"]


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("view", ["head", "model", "neuron"])
def test_weights_of_hugging_face_models_are_those_of_eager_attention(name, view):
    model = hugging_face(name)
    assert model.config._attn_implementation == "sdpa", "the default, under which no weights come back"
    _, parameters, _ = unpacked(viz.show_attention(model, IDS, tokens=WORDS, view=view))
    part = parameters["attention"]["all" if view == "neuron" else 0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model.eval()(IDS, output_attentions=True).attentions
    assert np.allclose(array(part["attn"]), torch.cat(expected), atol=6e-4)
    assert part["left_text"] == part["right_text"] == WORDS


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_weights_of_the_books_models_are_theirs(name):
    model = own(name)
    (found,) = viz.read_attention(model, IDS[0], tokens=WORDS)
    with torch.no_grad():
        expected = model(IDS, output_attentions=True).attentions
    assert np.allclose(found.weights, torch.cat(expected))


@pytest.mark.parametrize("model", [hugging_face("t5"), own("seq2seq")], ids=["t5", "ours"])
@pytest.mark.slow
def test_encoder_decoder_shows_three_parts(model):
    model.eval()
    source, target = IDS[:, :6], IDS[:, 2:6]
    view = viz.show_attention(model, (source, target), view="head", key_tokens=WORDS[:6], tokens=WORDS[2:6])
    data, parameters, _ = unpacked(view)
    sizes = [part["attn"]["shape"] for part in parameters["attention"]]
    assert sizes == [[3, 4, 6, 6], [3, 4, 4, 4], [3, 4, 4, 6]]
    assert parameters["attention"][2]["left_text"] == WORDS[2:6]
    assert parameters["attention"][2]["right_text"] == WORDS[:6]
    assert re.findall(r"<option value=\"\d\">(\w+)", data["html"]) == ["Encoder", "Decoder", "Cross"]
    _, parameters, _ = unpacked(viz.show_attention(model, (source, target), view="model", part="cross"))
    assert [part["attn"]["shape"] for part in parameters["attention"]] == [[3, 4, 4, 6]]
    figure = viz.show_attention(model, (source, target))
    assert len([ax for ax in figure.axes if ax.images]) == 12


@pytest.mark.slow
def test_model_is_left_as_it_was():
    model = hugging_face("llama").train()
    model.model.layers[0].eval()
    training = [module.training for module in model.modules()]
    random = torch.random.get_rng_state()
    viz.show_attention(model, IDS, tokens=WORDS, view="neuron")
    assert model.config._attn_implementation == "sdpa"
    assert [module.training for module in model.modules()] == training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), random)
    broken = copy.deepcopy(model)
    broken.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        viz.show_attention(broken, IDS)
    assert broken.config._attn_implementation == "sdpa"
    assert [module.training for module in broken.modules()] == training


def test_replaced_weights_are_shown():
    model = own("decoder")
    model.stack.blocks[1].attention.pattern.register_forward_hook(lambda module, inputs, output: output * 0)
    (found,) = viz.read_attention(model, IDS)
    assert not found.weights[1].any() and found.weights[0].any()
    with pytest.raises(ValueError, match="does not pass them to torch's scaled_dot_product_attention"):
        viz.show_attention(model, IDS, view="neuron")


@pytest.mark.parametrize(
    "model",
    [hugging_face("llama"), own("decoder"), own("decoder", num_key_value_heads=2), own("encoder", position="alibi"),
     own("decoder", position="t5"), hugging_face("bert")],
    ids=["llama", "rope", "grouped", "alibi", "t5", "bert"],
)  # fmt: skip
def test_neuron_view_has_the_queries_and_keys_that_give_the_weights(model):
    (found,) = viz.read_attention(model.eval(), IDS, vectors=True)
    queries, keys = found.vectors
    assert queries.shape == keys.shape == (3, 4, 8, 8)
    rows = slice(5, 6)  # one query in the middle, all keys up to its own
    scores = queries[..., rows, :] @ keys.swapaxes(-1, -2) / np.sqrt(8)
    if getattr(getattr(model, "config", None), "position", "") in ("alibi", "t5"):
        return  # their biases come on top; that the sum gives the weights is what read_attention checked
    scores = scores[..., :6] if np.triu(found.weights[0, 0], 1).max() == 0 else scores
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    assert np.allclose(expected, found.weights[..., rows, : scores.shape[-1]], atol=1e-5)


def test_neuron_view_knows_whether_a_model_looks_ahead():
    for name, expected in (("decoder", False), ("encoder", True)):
        _, parameters, _ = unpacked(viz.show_attention(own(name), IDS, view="neuron", layers=[2, 1], heads=3))
        assert parameters["bidirectional"] is expected
        assert parameters["options"] == {"layer": [2, 1], "att_head": [3]}
        assert parameters["attention"]["all"]["queries"]["shape"] == [2, 1, 8, 8]


@pytest.mark.slow
def test_neuron_view_of_an_encoder_decoder_shows_one_part():
    for part, count in ((None, 4), ("encoder", 6)):
        view = viz.show_attention(hugging_face("t5"), (IDS[:, :6], IDS[:, :4]), view="neuron", part=part)
        _, parameters, _ = unpacked(view)
        assert parameters["attention"]["all"]["keys"]["shape"] == [3, 4, count, 8]
        assert parameters["bidirectional"] is (part == "encoder")


def test_layers_and_heads_are_chosen_in_the_order_given():
    given = weights(3, 4, 8, 8)
    _, parameters, _ = unpacked(
        viz.show_attention(attention=given, tokens=WORDS, view="model", layers=[2, 0], heads=[1, 3])
    )
    assert np.allclose(array(parameters["attention"][0]["attn"]), given[[2, 0]][:, [1, 3]], atol=6e-4)
    assert (parameters["include_layers"], parameters["include_heads"]) == ([2, 0], [1, 3])


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_text_is_encoded_and_its_tokens_are_readable():
    tokenizer = train_byte_bpe(["a cat sat on the mat " * 9, "词"], 280)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    text = "the cat\n\n sat 词"
    for one in (tokenizer, fast):
        (found,) = viz.read_attention(own("decoder"), text, one)
        assert found.queries == viz.readable_tokens(one, tokenizer.encode(text).ids)
        assert "Ġ" not in "".join(found.queries) and "↵" in found.queries
        assert "".join(found.queries).startswith("thecat")
    assert viz.readable_tokens(tokenizer, tokenizer.encode("词").ids)[-1] in ("<8D>", "词", "<AF 8D>")


def test_special_tokens_are_shown():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {"[CLS]": 0, "[SEP]": 1, "play": 2, "##ing": 3, "[UNK]": 4}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = [("[CLS]", 0), ("[SEP]", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    (found,) = viz.read_attention(own("encoder"), "Playing", tokenizer)
    assert found.queries == ["[CLS]", "play", "##ing", "[SEP]"]


def test_sentencepiece_marks_are_no_part_of_a_word():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("▁cat", -2.0), ("s", -3.0)], 0, False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    assert viz.readable_tokens(tokenizer, [2, 3, 1]) == ["cat", "s", "␣"]


def byte_fallback():
    """A tokenizer as Llama 2's, whose vocabulary has bytes for what it lacks."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])  # fmt: skip
    return tokenizer


def test_bytes_are_readable_however_a_tokenizer_writes_them():
    from transformers import ByT5Tokenizer

    fallback = byte_fallback()
    assert viz.readable_tokens(fallback, fallback.encode("a 你\n ").ids) == ["a", "␣", "<E4>", "<BD>", "<A0>", "↵", "␣"]
    assert viz.readable_tokens(fallback, [fallback.token_to_id("<0x20>")]) == ["␣"]
    byt5 = ByT5Tokenizer()
    assert viz.readable_tokens(byt5, byt5("aä").input_ids) == ["a", "<C3>", "<A4>", "</s>"]
    ours = train_byte_bpe(["a"], 257)
    assert viz.readable_tokens(ours, ours.encode("你").ids) == ["<E4>", "<BD>", "<A0>"]
    assert viz.readable_tokens(ours, ours.encode("<0xE4>").ids) == list("<0xE4>")


def test_unknown_character_of_a_piece_is_no_byte():
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁词\ufffd", -1.0), ("ä", -2.0)], 0, False))
    tokenizer.decoder = decoders.Metaspace()
    assert viz.readable_tokens(tokenizer, [1, 2]) == ["词\ufffd", "ä"]


@pytest.mark.parametrize("kind", ["pt", "np", None, "dict", "encoding"])
def test_what_a_tokenizer_returns_is_an_input(kind):
    tokenizer = train_byte_bpe(["a cat sat on the mat " * 9], 280)
    fast, model, text = PreTrainedTokenizerFast(tokenizer_object=tokenizer), own("decoder"), "the cat sat"
    (expected,) = viz.read_attention(model, text, tokenizer)
    given = (
        tokenizer.encode(text) if kind == "encoding" else fast(text, return_tensors=kind if kind != "dict" else "pt")
    )
    (found,) = viz.read_attention(model, dict(given) if kind == "dict" else given, fast)
    assert found.queries == expected.queries and np.array_equal(found.weights, expected.weights)


def test_mask_that_comes_with_the_ids_is_kept():
    model = hugging_face("bert")
    batch = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 6 + [0] * 2]), "special_tokens_mask": IDS * 0}
    (found,) = viz.read_attention(model, batch | {"token_type_ids": IDS * 0})
    assert found.weights[..., 6:].max() < 1e-6 and np.allclose(found.weights[..., :6].sum(-1), 1)
    with pytest.raises(
        ValueError, match=r"inputs has attention_mask, but no input_ids: pass what the model's tokenizer"
    ):
        viz.read_attention(model, {"attention_mask": IDS})
    with pytest.raises(ValueError, match="a batch of 2 sequences"):
        viz.read_attention(model, {"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1], [1, 1]]})


def test_encoder_decoder_takes_what_a_tokenizer_returns_of_both_texts():
    model = hugging_face("t5")
    model.config.decoder_start_token_id = 0
    source, labels = IDS[:, :6], IDS[:, 2:5]
    target = torch.cat([torch.zeros(1, 1, dtype=torch.long), labels[:, :-1]], 1)
    expected = viz.read_attention(model, (source, target))
    batch = {"input_ids": source, "attention_mask": torch.ones_like(source)}
    for pair in (batch | {"decoder_input_ids": target}, batch | {"labels": labels}, (batch, {"input_ids": target})):
        for one, other in zip(viz.read_attention(model, pair), expected, strict=True):
            assert one.keys == other.keys and np.allclose(one.weights, other.weights, atol=1e-6)
    with pytest.raises(ValueError, match=r"an encoder-decoder takes a pair of inputs"):
        viz.read_attention(model, batch)


def test_target_of_a_text_begins_with_the_start_token():
    tokenizer = train_byte_bpe(["a cat sat on the mat " * 9], 280)
    model = hugging_face("t5")
    model.config.decoder_start_token_id = 0
    found = {part.name: part for part in viz.read_attention(model, ("a cat", "the mat"), tokenizer)}
    assert found["decoder"].queries[0] == "<|endoftext|>"
    assert found["cross"].keys == found["encoder"].queries


# --- what is returned -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_figure_has_a_map_for_each_head_and_is_shown_once():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = viz.show_attention(attention=weights(3, 4, 8, 8), tokens=WORDS)
    assert isinstance(figure, Figure) and figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == before, "open figures are shown again at the cell's end"
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="center") for ax in maps[:4]] == [f"Head {head}" for head in range(4)]
    assert [ax.get_ylabel() for ax in maps[::4]] == [f"Layer {layer}" for layer in range(3)]
    shown = viz.show_attention(attention=weights(3, 6, 8, 8), tokens=WORDS, layers=1)
    assert len([ax for ax in shown.axes if ax.images]) == 6


def test_dollars_of_a_token_are_no_mathematics():
    figure = viz.show_attention(attention=np.eye(2), tokens=["$\\frac$", "$$"])
    figure.savefig(io.BytesIO())
    viz.attention_map(np.eye(2), ["$\\frac$", "$$"]).figure.savefig(io.BytesIO())


def test_arcs_are_the_books_own_view():
    view = viz.show_attention(own("decoder"), IDS, tokens=WORDS, view="arcs", layers=1, heads=[0, 2])
    buttons = BeautifulSoup(view._repr_html_(), "html.parser").select(".lm-heads button")
    assert [button.text for button in buttons] == ["0", "2"]
    with pytest.raises(ValueError, match="shows one layer and there are 3: choose one, as layers=0"):
        viz.show_attention(own("decoder"), IDS, view="arcs")


@pytest.mark.slow
@pytest.mark.parametrize("view", ["head", "model"])
def test_view_brings_scripts_picture_and_table(view, monkeypatch):
    monkeypatch.setattr(scripts, "libraries", lambda: "window.jQuery = window.d3 = 1;")
    shown = viz.show_attention(attention=weights(2, 3, 8, 8), tokens=WORDS, view=view, label="Cats & mats")
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    figure = BeautifulSoup(bundle["text/html"], "html.parser").figure
    assert figure["aria-label"] == figure.img["alt"] == "Cats & mats"
    assert figure.img["src"].split(",")[1] == bundle["image/png"]
    with Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))) as picture:
        assert picture.width > 300
    assert len(figure.select("details tr")) == 6
    assert figure.select_one("details th").text == "Layer 0, Head 0"
    data, _, code = unpacked(shown)
    assert data["view"] == view and code["libraries"].startswith("window.jQuery") and not code["tags"]
    assert "renderVis" in code[view] or "renderThumbnail" in code[view]
    assert "PYTHON_PARAMS;" not in code[view]
    assert (
        shown._repr_html_()
        == viz.show_attention(attention=weights(2, 3, 8, 8), tokens=WORDS, view=view, label="Cats & mats")._repr_html_()
    ), "re-run, the same"


def test_view_without_local_libraries_names_them_with_their_hashes(monkeypatch, tmp_path):
    monkeypatch.setattr(scripts, "FOLDER", tmp_path)
    _, _, code = unpacked(viz.show_attention(attention=weights(1, 1, 2, 2), tokens="ab", view="head"))
    tags = BeautifulSoup(code["tags"], "html.parser").select("script")
    assert code["libraries"] is None and len(tags) == len(scripts.LIBRARIES) == 13
    assert all(tag["integrity"].startswith("sha384-") and tag["crossorigin"] == "anonymous" for tag in tags)
    assert tags[0]["src"] == "https://cdn.jsdelivr.net/npm/jquery@4.0.0/dist/jquery.slim.min.js"


def test_library_that_was_changed_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(scripts, "FOLDER", tmp_path)
    monkeypatch.setattr(scripts, "LIBRARIES", {"a@1": ("dist/a.js", scripts.integrity(b"good"))})
    (tmp_path / "a.js").write_bytes(b"good")
    assert scripts.libraries().endswith("good")
    (tmp_path / "a.js").write_bytes(b"bad")
    assert scripts.libraries() is None


def test_libraries_are_those_of_the_lock():
    root = Path(__file__).resolve().parents[1]
    wanted = json.loads((root / "package.json").read_text())["dependencies"]
    assert set(scripts.LIBRARIES) <= {f"{name}@{version}" for name, version in wanted.items()}


def test_tool_puts_libraries_where_views_look_for_them(monkeypatch, tmp_path):
    vendor = pytest.importorskip("vendor")
    monkeypatch.setattr(scripts, "FOLDER", tmp_path / "share")
    monkeypatch.setattr(scripts, "LIBRARIES", {"a@1": ("dist/a.js", scripts.integrity(b"good"))})
    script = tmp_path / "a" / "dist" / "a.js"
    script.parent.mkdir(parents=True)
    script.write_text("bad")
    with pytest.raises(vendor.Problem, match="bring them in step"):
        vendor.provide_libraries(tmp_path)
    script.write_text("good")
    vendor.provide_libraries(tmp_path)
    assert scripts.libraries().endswith("good")
    script.unlink()
    vendor.provide_libraries(tmp_path)


@pytest.mark.slow
def test_view_of_six_layers_six_heads_and_24_tokens_stays_small(monkeypatch):
    tokens = [f"token{index}" for index in range(24)]
    view = viz.show_attention(attention=weights(6, 6, 24, 24), tokens=tokens, view="model")
    _, _, code = unpacked(view)
    if code["libraries"] is None:
        pytest.skip("npm's libraries are not installed: run `make lab` or `make book` once")
    assert len(json.dumps(view._repr_mimebundle_())) < 300 * 1024


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
@pytest.mark.slow
def test_any_token_goes_into_the_frame_and_out_again(tokens):
    count = len(tokens)
    view = viz.show_attention(attention=np.eye(count), tokens=tokens, view="head", label="</script><b>")
    data, parameters, _ = unpacked(view)
    shown = [viz.visible(token) for token in tokens]
    kept = parameters["attention"][0]["left_text"]
    for text, whole in zip(kept, shown, strict=True):
        assert text == whole or (text[-1] == "…" and whole.startswith(text[:-1]))
    page = BeautifulSoup(data["html"], "html.parser")
    assert len(page.find_all("script")) == 2 and not page.find_all("b")


@pytest.mark.slow
def test_words_are_those_that_are_given():
    labels = {"layer": "层", "head": "头", "weight": "权重", "table": "表", "part": "注意力"} | dict.fromkeys(
        ("query", "key", "self", "encoder", "decoder", "cross"), "词"
    )
    view = viz.show_attention(
        hugging_face("t5"), (IDS, IDS), tokens=WORDS, key_tokens=WORDS, view="head", label="图", labels=labels
    )
    texts = BeautifulSoup(view._repr_html_(), "html.parser").figure
    data, *_ = unpacked(view)
    page = BeautifulSoup(data["html"], "html.parser")
    for part in (texts, page):
        for element in part.select("script, style"):
            element.decompose()
    written = texts.text + texts["aria-label"] + page.text.replace("%%scripts%%", "")
    assert set(re.findall(r"[A-Za-z]+", written)) <= set(WORDS)


def test_pdf_of_a_notebook_shows_the_picture():
    import nbformat
    from nbconvert import LatexExporter

    data = viz.show_attention(attention=np.eye(2), tokens="ab", view="head")._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell("view", outputs=[nbformat.v4.new_output("display_data", data=data)])
    latex, resources = LatexExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert [name for name in resources["outputs"] if name.endswith(".png")] and r"\includegraphics" in latex


# --- bad input ------------------------------------------------------------------------------------------------------


class Silent(nn.Module):
    """A model that takes the argument and returns no weights."""

    def forward(self, input_ids, **_):
        return copy.copy(torch.nn.Linear)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"view": "heads"}, "view='heads': it takes 'figure', 'arcs', 'head', 'model', 'neuron'"),
        ({"layers": 3}, r"layers=3: there are 3, numbered 0 to 2"),
        ({"heads": [0, -1]}, r"heads=\[0, -1\]: there are 4"),
        ({"heads": [1, 1]}, "several different ones"),
        ({"layers": []}, r"layers=\[\]"),
        ({"inputs": "a cat"}, "inputs is a text: pass tokenizer="),
        ({"inputs": torch.ones(2, 4, dtype=torch.long)}, "a batch of 2 sequences; a picture shows one"),
        ({"inputs": torch.ones(1, 4)}, "pass a text or ids"),
        ({"inputs": torch.ones(1, 0, dtype=torch.long)}, "at least one token"),
        ({"inputs": IDS.repeat(1, 9), "view": "model"}, r"72 tokens; view='model' can show 64: pass a shorter text"),
        ({"inputs": IDS.repeat(1, 33)}, "264 tokens; view='figure' can show 256"),
        ({"inputs": IDS.repeat(1, 17), "view": "head"}, "use view='figure'"),
        ({"tokens": WORDS[:3]}, "tokens has 3 names for 8 ids"),
        ({"part": "cross"}, "only an encoder-decoder has parts"),
        ({"model": nn.Linear(2, 2)}, "the model returned no attention weights"),
        ({"model": Silent()}, "the model returned no attention weights"),
        ({"model": None}, r"a model, \(model, inputs\), or weights"),
        ({"model": own("seq2seq")}, r"takes a pair of inputs, \(source, target\)"),
        ({"model": own("seq2seq"), "inputs": (IDS, IDS), "part": "crosss"}, "'encoder', 'decoder', 'cross'"),
        ({"model": own("seq2seq"), "inputs": (IDS, IDS), "part": "cross", "view": "arcs"}, "not cross-attention"),
        ({"tokenizer": object()}, "tokenizer is a object: pass one of transformers or of tokenizers"),
        ({"inputs": torch.tensor([[399]]), "tokenizer": train_byte_bpe(["a"], 257)}, "no token 399"),
    ],
)
def test_bad_call_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        viz.show_attention(**{"model": own("decoder"), "inputs": IDS} | arguments)


NAN = weights(2, 2, 3, 3)
NAN[1, 0, 2] = np.nan


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (NAN, "layer 1, head 0, query 2 has weights that are NaN"),
        (weights(2, 2, 3, 3) * 1.1, "layer 0, head 0, query 0 sums to 1.1: pass them after the softmax"),
        (weights(2, 3, 4), r"shape \(2, 3, 4\); 3 tokens need \(3, 3\), with layers and heads before it"),
        ([weights(2, 3, 3), weights(1, 3, 3)], r"different shapes: \(2, 3, 3\), \(1, 3, 3\)"),
        ([weights(2, 2, 3, 3)], "select one sequence of the batch"),
        ((), "no attention weights"),
        ((None, None), "no attention weights"),
        (weights(3), r"shape \(3,\)"),
    ],
)
def test_weights_that_are_none_are_refused_with_their_place(attention, message):
    with pytest.raises(ValueError, match=message):
        viz.show_attention(attention=attention, tokens=["a", "b", "c"])


def test_weights_need_names_and_have_no_neurons():
    with pytest.raises(ValueError, match="attention= needs tokens="):
        viz.show_attention(attention=np.eye(3))
    with pytest.raises(ValueError, match="the neuron view needs queries and keys, hence a model"):
        viz.show_attention(attention=np.eye(3), tokens="abc", view="neuron")


def test_too_many_lines_name_the_way_out():
    with pytest.raises(ValueError, match=r"8 layers of 8 heads and 60 x 60 tokens are 230,400 lines.*choose layers="):
        viz.show_attention(attention=weights(8, 8, 60, 60), tokens=["x"] * 60, view="model")
    with pytest.raises(ValueError, match=r"8 layers of 12 heads and 70 tokens are 470,400 numbers; view='head' stores"):
        viz.show_attention(attention=weights(8, 12, 70, 70), tokens=["x"] * 70, view="head")
    viz.show_attention(attention=weights(8, 8, 60, 60), tokens=["x"] * 60, view="model", layers=[0], heads=range(3))


def deep(num_layers=30):
    """Return a decoder of as many layers and heads as SmolLM2 has."""
    return Decoder(TransformerConfig(vocab_size=400, d_model=36, num_layers=num_layers, num_heads=9, d_ff=8)).eval()


@pytest.mark.slow
def test_of_a_deep_model_as_many_layers_are_shown_as_there_is_room_for_from_the_first_to_the_last():
    ids = torch.arange(20)
    found = read_attention(deep(), ids)[0]
    for view, count in (("figure", 16), ("head", 16), ("model", 16)):
        layers = spaced_layers(found, None, view)
        assert (layers[0], layers[-1], len(layers)) == (0, 29, count) and layers == sorted({*layers}), view
        check_size(found.select(layers, None), view)
    assert spaced_layers(found, [0, 1], "figure") is None  # 60 maps
    assert spaced_layers(found, None, "arcs") is None
    longer = read_attention(deep(), torch.arange(60))[0]
    assert spaced_layers(longer, None, "model") == [0, 14, 29]  # 32,400 lines each
    assert len(spaced_layers(longer, None, "head") or []) == 9  # 32,400 numbers each
    names = " ".join(ax.get_ylabel() for ax in viz.show_attention(deep(), ids).axes)
    assert "Layer 0" in names and names.split()[-3:] != ["0"] and "29" in names and " 1 " not in names
    with pytest.raises(ValueError, match=r"30 layers of 9 heads and 20 x 20 tokens are 108,000 lines.*choose layers="):
        viz.show_attention(deep(), ids, view="model", layers=range(30))


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (1, 2, 3, 3)])
def test_weights_at_hand_may_have_fewer_dimensions(shape):
    given = weights(*shape)
    _, parameters, _ = unpacked(viz.show_attention(attention=torch.tensor(given), tokens="abc", view="head"))
    found = array(parameters["attention"][0]["attn"])
    assert found.ndim == 4 and np.allclose(found, given.reshape(found.shape), atol=6e-4)


def test_a_models_tuple_is_taken_as_it_is():
    model = own("decoder")
    output = model(IDS, output_attentions=True)
    _, parameters, _ = unpacked(viz.show_attention(attention=output.attentions, tokens=WORDS, view="head"))
    assert parameters["attention"][0]["attn"]["shape"] == [3, 4, 8, 8]


def test_fully_masked_rows_are_drawn_empty():
    masked = weights(1, 2, 3, 3)
    masked[0, :, 1] = 0
    for view in ("figure", "arcs", "head", "model"):
        viz.show_attention(attention=masked, tokens="abc", view=view)
