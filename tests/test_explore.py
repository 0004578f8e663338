"""Packing a model for the page, the explorer's scripts and words, the directive, and what is refused."""

import base64
import gzip
import hashlib
import importlib
import io
import json
import re
import shutil
import struct
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from llmbook import explore as package
from llmbook import generation, hub, pretrained, tokenization
from llmbook.explore import assets, explore, packing, pictures
from llmbook.explore.still import still
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig

SYMBOLS = ["<s>", *"abcdefg"]
SHAPE = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 16, "max_length": 40}


def small(**changes):
    torch.manual_seed(0)
    return Decoder(TransformerConfig(len(SYMBOLS), **SHAPE | changes))


def unpack(file):
    """The weights' bytes and the facts, by the description in packing.py."""
    assert file[:4] == b"LMX1"
    at = 8 + struct.unpack("<I", file[4:8])[0]
    facts = json.loads(gzip.decompress(file[8:at]))
    parts = []
    for size in facts["parts"]:
        parts.append(gzip.decompress(file[at : at + size]))
        at += size
    assert at == len(file)
    prefix, *planes = parts
    if len(planes) == 1:
        return prefix + planes[0], facts
    turned = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], axis=1)  # (words, bytes)
    words = turned.copy().view(f"<u{len(planes)}")[:, 0]
    return prefix + ((words >> 1) | (words << (8 * len(planes) - 1))).tobytes(), facts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_packing_loses_no_bit(dtype):
    model = small().to(dtype)
    packed = packing.pack_model(model, symbols=SYMBOLS)
    weights, facts = unpack(packed.file)
    assert hashlib.sha256(weights).hexdigest() == packed.sha256 == facts["sha256"]
    tensors = load(weights)
    for name, tensor in model.state_dict().items():
        stored = tensors[facts["names"].get(name, "embeddings.weight")]
        assert stored.dtype == dtype and torch.equal(stored, tensor)
    assert facts["kind"] == "decoder" and facts["config"]["d_model"] == 16
    assert packed.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_packing_of_mixed_types_loses_no_bit():
    weights = save({"a": torch.randn(3, 5), "b": torch.randn(7).half()})
    packed = packing._pack(weights, {"kind": "decoder", "parameters": 22})
    assert unpack(packed.file)[0] == weights
    with pytest.raises(ValueError, match="weights of type I64: the page reads BF16, F16, F32"):
        packing._pack(save({"a": torch.arange(3)}), {})


def test_half_precision_travels_in_a_third_less():
    torch.manual_seed(0)
    model = Decoder(TransformerConfig(4096, d_model=128, num_layers=2, num_heads=4, d_ff=256)).bfloat16()
    packed = packing.pack_model(model, tokenization.load_tokenizer("gpt"))
    weights = 2 * packed.parameters
    assert len(packed.file) < 0.73 * weights + 60_000  # of which the tokenizer takes the rest


@pytest.mark.parametrize("make", [
    lambda: Decoder(TransformerConfig(4096, **SHAPE)),
    lambda: Decoder(TransformerConfig(4096, **SHAPE | {"tie_embeddings": False, "num_key_value_heads": 1})),
    lambda: Encoder(TransformerConfig.bert(4096, **SHAPE)),
])  # fmt: skip
def test_folder_is_packed_bit_by_bit_with_the_way_to_our_names(make, tmp_path):
    model = make().half()
    hub.save(model, tmp_path)
    family = "bert" if isinstance(model, Encoder) else "gpt"
    packed = packing.pack_folder(tmp_path, tokenization.load_tokenizer(family))
    weights, facts = unpack(packed.file)
    assert weights == (tmp_path / "model.safetensors").read_bytes()
    tensors = load(weights)
    state = model.state_dict()
    assert set(state) - set(facts["names"]) <= {"lm_head.weight"}
    for ours, theirs in facts["names"].items():
        assert torch.equal(tensors[theirs], state[ours]), ours
    around = {"bert": ([3], [4]), "gpt": ([], [])}[family]
    assert (facts["tokenizer"]["start"], facts["tokenizer"]["end"]) == around
    assert len(facts["tokenizer"]["vocab"]) == 4096 and facts["tokenizer"]["mask"] == 2


def test_model_in_several_files_is_packed_as_from_one(tmp_path):
    model = Decoder(TransformerConfig(4096, **SHAPE))
    hub.save(model, tmp_path / "one")
    hub.to_hf(model).save_pretrained(tmp_path / "several", max_shard_size="100KB")
    assert len(list((tmp_path / "several").glob("model-*.safetensors"))) > 1
    tokenizer = tokenization.load_tokenizer("gpt")
    whole, joined = (packing.pack_folder(tmp_path / name, tokenizer) for name in ("one", "several"))
    assert joined == whole
    next((tmp_path / "several").glob("model-*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-0000\d-of-.* copy all files of the model"):
        packing.pack_folder(tmp_path / "several", tokenizer, model)
    (tmp_path / "one" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors and no index"):
        packing.pack_folder(tmp_path / "one", tokenizer, model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_model_that_diverged_is_refused_in_a_sentence(value):
    model = small()
    with torch.no_grad():
        model.stack.blocks[1].attention.q_proj.weight[0, 0] = value
    with pytest.raises(
        ValueError, match=r"stack\.blocks\.1\.attention\.q_proj\.weight of the model holds NaN or infinite"
    ):
        explore(model, "abc", symbols=SYMBOLS)


def test_scores_that_overflow_are_refused():
    model = small(tie_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)
    with pytest.raises(ValueError, match="the model predicts NaN or infinite scores for this text"):
        explore(model, "abc", symbols=SYMBOLS)


@pytest.mark.slow
def test_model_is_loaded_once(monkeypatch):
    loaded, load_model = [], hub.load
    monkeypatch.setattr(hub, "load", lambda folder: loaded.append(folder) or load_model(folder))
    explore("pydocs-bert", "a text")
    assert [folder.name for folder in loaded] == ["pydocs-bert"]


def test_what_the_page_cannot_compute_is_refused(tmp_path):
    tokenizer = tokenization.load_tokenizer("gpt")
    with pytest.raises(ValueError, match="not EncoderDecoder"):
        packing.pack_model(EncoderDecoder(TransformerConfig.t5(8, **SHAPE)), symbols=SYMBOLS)
    with pytest.raises(ValueError, match="position='t5'"):
        packing.pack_model(small(position="t5"), symbols=SYMBOLS)
    with pytest.raises(ValueError, match="exactly one of the two"):
        packing.pack_model(small())
    with pytest.raises(ValueError, match=r"the model has 8 tokens, the tokenizer or the list of symbols 3"):
        packing.pack_model(small(), symbols=SYMBOLS[:3])
    with pytest.raises(ValueError, match="the model has 8 tokens, the tokenizer or the list of symbols 4096"):
        packing.pack_model(small(), tokenizer)
    with pytest.raises(ValueError, match="different and not empty"):
        packing.pack_model(small(), symbols=["a"] * 8)
    other = tokenization.train_byte_bpe(["some text"] * 5, vocab_size=260)  # digits are not single there
    with pytest.raises(ValueError, match="not a BPE with ByteLevel"):
        packing.tokenizer_facts(other)


@pytest.mark.parametrize(("changes", "message"), [
    ({"text": ""}, "text has 0 tokens: the explorer begins with 1 to 40"),
    ({"text": "abc" * 20}, "text has 61 tokens"),
    ({"text": "a1"}, "'1' is no symbol of the model"),
    ({"panels": ["heads", "tails"]}, "panel 'tails': there are tokens, next, map, heads, lens"),
    ({"temperature": 0.0}, "temperature=0.0: the slider goes from 0.1 to 2"),
    ({"top_k": 51}, "top_k=51"),
    ({"top_p": 0.0}, "top_p=0.0"),
    ({"head": (2, 0)}, "there are 2 layers of 2 heads, numbered from 0"),
])  # fmt: skip
def test_settings_that_there_are_not_are_refused(changes, message):
    symbols = SYMBOLS if changes.get("text") != "" else ["_", *SYMBOLS[1:]]
    with pytest.raises(ValueError, match=re.escape(message)):
        explore(small(), **{"text": "abc", "symbols": symbols} | changes)


def read_by_node(facts, texts, folder):
    """Ids of each text, what they are decoded to, the ids of that, and what each id is called, by tokens.js."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: see CONTRIBUTING.md, make book needs it too")
    for name in ("tokens.js", "weights.js"):
        (folder / name).write_text(assets.asset(name), encoding="utf-8")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "given.json").write_text(json.dumps([facts, texts]))
    (folder / "main.js").write_text("""
        globalThis.self = globalThis;
        const {makeTokenizer} = await import("./tokens.js"), {readFileSync} = await import("fs");
        const [facts, texts] = JSON.parse(readFileSync("given.json")), one = makeTokenizer(facts);
        const read = (text) => {
          const ids = one.encode(text), back = one.decode(ids);
          return {ids, back, again: one.encode(back), shown: ids.map((id) => one.show(id))};
        };
        console.log(JSON.stringify(texts.map((text) => {
          try { return read(text); } catch (problem) { return {problem: problem.fields.symbol}; }
        })));
    """)
    done = subprocess.run([node, "main.js"], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.parametrize("symbols", [
    ["a", "b", " ", "🙂"], ["<s>", *"ab🙂𝒳 "], ["🙂", "🙂🙂", "a", "👩\u200d👧"], ["<s>", "🙂", "𝒳𝒴", "a"],
    ["\x1c", "a", "\ufeff"],
])  # fmt: skip
def test_symbols_outside_the_bmp_are_read_as_in_python(symbols, tmp_path):
    facts = packing.symbol_facts(symbols)
    texts = ["ab 🙂b", "🙂", "🙂🙂🙂a", "a𝒳𝒴 𝒳", "👩\u200d👧🙂", "a\x1ca", "a\x85a", "a\ufeffa", "a\u3000🙂", "b😀"]
    for text, found in zip(texts, read_by_node(facts, texts, tmp_path), strict=True):
        try:
            ids, names = package._read(text, None, symbols)
        except ValueError as error:
            assert str(error).startswith(f"{found['problem']!r} is no symbol"), text
            continue
        start = len(facts["start"])
        assert found["ids"] == ids[start:] == found["again"], text
        assert found["shown"] == names(ids[start:])


@pytest.mark.slow
def test_letters_of_recent_versions_of_unicode_have_the_ids_of_python(tmp_path):
    tokenizer = tokenization.load_tokenizer("gpt")
    points = [*range(0, 0x20000, 5), *range(0x2A6D0, 0x34000, 97)]
    given = [chr(point) for point in points if unicodedata.category(chr(point)) == "Cn"]  # new since Python's
    given += "aé١½②数😀\u088f\u1c89\U00016ff4\U0001ccf0"
    texts = [f"x{one}y {one}{one}1 {one}" for one in given]
    backend = tokenization.backend(tokenizer)
    expected = [one.ids for one in backend.encode_batch(texts, add_special_tokens=False)]
    found = read_by_node(packing.tokenizer_facts(tokenizer), texts, tmp_path)
    wrong = [text for text, ids, one in zip(texts, expected, found, strict=True) if one["ids"] != ids]
    assert wrong == []


def test_missing_model_is_named():
    with pytest.raises(FileNotFoundError, match=r"pydocs-nothing is no folder with a config\.json and no model of"):
        explore("pydocs-nothing", "a")


def test_output_carries_model_picture_and_sentence_and_leaves_the_model_alone():
    model = small().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    view = explore(model, "abc", symbols=SYMBOLS, label='A "small" <model>')
    html = view._repr_html_()
    assert model.training and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert 'aria-label="A &quot;small&quot; &lt;model&gt;"' in html and "data-model=" in html and "data-code=" in html
    assert 'alt="A &quot;small&quot; &lt;model&gt;" src="data:image/png;base64,' in html
    assert assets.phrases()["still"] in html
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"} and bundle["text/plain"].startswith("explore(")
    assert len(html) < 200_000
    again = explore(model, "abc", symbols=SYMBOLS, label='A "small" <model>')
    assert again._repr_html_() == html, "the same call gives the same output"


def test_modules_of_a_script_have_different_names():
    for names in (assets.PAGE, assets.PICTURES, assets.WORKER):
        found = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", assets.bundle(names), re.MULTILINE)
        assert len(found) == len(set(found)), sorted(found)
        assert not re.search(r"^(?:import|export)\b", assets.bundle(names), re.MULTILINE)


def test_scripts_are_light():
    assert len(gzip.compress(assets.script().encode())) < 30_000
    assert len(assets.pictures_script().encode()) < 30_000
    assert len(assets.asset("loader.js")) < 2500


def test_all_words_of_the_pictures_are_there_and_used():
    words, source = assets.phrases(what="pictures"), assets.bundle(assets.PICTURES)
    for name in words:
        group = name.partition(".")[0]
        assert f'"{name}"' in source or (f"`{group}.$" in source and "." in name), f"{name} is said nowhere"
    said = set(re.findall(r'(?:say|press|check)\((?:w, )?"([\w.]+)"', source))
    assert said <= set(words)


def test_all_words_are_there_and_used():
    words = assets.phrases()
    source = assets.asset("page.js") + assets.asset("dom.js")
    problems = set(re.findall(r'Problem\("(\w+)"', assets.bundle(assets.WORKER)))
    problems |= set(re.findall(r'code: "(\w+)"', source + assets.bundle(assets.WORKER)))
    assert {f"problem.{code}" for code in problems} == {name for name in words if name.startswith("problem.")}
    for name in words:
        used = f'"{name}"' in source or name in ("still", "facts") or name.startswith("problem.")
        assert used, f"{name} is said nowhere"
    assert not re.search(r">[A-Z][a-z]+ [a-z]+", source), "a sentence outside the list of words"
    with pytest.raises(ValueError, match=r"there is no words\.tlh\.json"):
        assets.phrases("tlh")


def test_picture_shows_bars_and_all_heads():
    weights = np.tril(np.ones((2, 3, 4, 4))) / np.arange(1, 5)[:, None]
    figure = still(["a", "$b", "c_", "d"], weights, [("x$y", 0.5), ("z", 0.25)], "What comes after “d”")
    axes = [ax for part in figure.subfigs for ax in part.axes]
    assert len(axes) == 1 + 6
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["z", "x$y"]
    assert package.png(figure).startswith(b"\x89PNG")


@pytest.mark.slow
def test_stored_output_names_a_shipped_model_and_the_site_adds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "pretrained")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
    extension = importlib.import_module("explorer")
    folder = tmp_path / "pretrained" / "tiny"
    hub.save(Decoder(TransformerConfig(4096, **SHAPE)), folder)
    live = explore("tiny", "a text")._repr_html_()
    monkeypatch.setenv("LLMBOOK_STORED_OUTPUTS", "1")
    stored = explore("tiny", "a text")._repr_html_()
    assert len(stored) < 60_000 and "data-model" not in stored and "data-code" not in stored
    assert "data-model" in explore(small(), "abc", symbols=SYMBOLS)._repr_html_(), "no other model can be found again"
    written = [extension.slim(html, "explorer-1", tmp_path, "images", "../") for html in (live, stored)]
    assert written[0] == written[1]
    torch.manual_seed(1)
    hub.save(Decoder(TransformerConfig(4096, **SHAPE)), folder)
    with pytest.raises(ValueError, match="tiny is another model than in the stored output: run `make notebooks`"):
        extension.slim(stored, "explorer-1", tmp_path, "images", "../")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Build one page with Sphinx and the extension alone, and return its HTML or what was complained of."""
    from sphinx.application import Sphinx

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "book" / "_ext"))

    def build(text):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / "index.md").write_text("# Index\n\n```{toctree}\nsub/page\n```\n")
        (tmp_path / "sub" / "page.md").write_text(text)
        warnings = io.StringIO()
        settings = {"extensions": ["myst_parser", "explorer"], "myst_enable_extensions": ["colon_fence"]}
        Sphinx(tmp_path, None, tmp_path / "out", tmp_path / "trees", "html", confoverrides=settings, status=None,
               warning=warnings, freshenv=True).build()  # fmt: skip
        return (tmp_path / "out" / "sub" / "page.html").read_text(), warnings.getvalue()

    return build


@pytest.mark.slow
def test_directive_places_the_model_once_and_its_mistakes_are_one_line(page, tmp_path):
    hub.save(Decoder(TransformerConfig(4096, **SHAPE)).half(), tmp_path / "models" / "tiny")
    placed = (
        ":::{explorer} models/tiny\n:text: One text\n:head: 1.1\n:panels: next, heads\n:top-k: 7\n:label: Tiny\n:::\n\n"
    )
    html, warnings = page("# Page\n\n" + 2 * placed)
    assert re.findall(r'id="(explorer-\d)"', html) == ["explorer-1", "explorer-2"] and 'aria-label="Tiny"' in html
    assert warnings == ""
    found = [json.loads(match.replace("&quot;", '"')) for match in re.findall(r'data-explorer="([^"]*)"', html)]
    assert len(found) == 2 and found[0] == found[1]
    assert found[0]["text"] == "One text" and found[0]["panels"] == ["next", "heads"] and found[0]["topK"] == 7
    assert (found[0]["layer"], found[0]["head"], found[0]["link"]) == (1, 1, True)
    (stored,) = (tmp_path / "out" / "_models").iterdir()
    assert found[0]["url"] == f"../_models/{stored.name}"
    weights, _ = unpack(stored.read_bytes())
    assert weights == (tmp_path / "models" / "tiny" / "model.safetensors").read_bytes()
    assert 'data-script="../_static/vendor/explorer/explorer.js"' in html and "data-model=" not in html
    for mistake, message in (
        (":::{explorer} pydocs-nothing\n:text: a\n:::", "pydocs-nothing is no folder"),
        (":::{explorer} models/tiny\n:text: a\n:panels: tails\n:::", "panel 'tails'"),
        (":::{explorer} models/tiny\n:::", "text has 0 tokens"),
        (":::{explorer} models/tiny\n:text: a\n:head: first\n:::", "layer and head, numbered from 0"),
    ):
        _, warnings = page(f"# Page\n\n{mistake}\n")
        assert "page.md:3" in warnings and message in warnings, warnings


def letters(ids):
    table = torch.randn(9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    return 2 * table[ids[:, -1]]


@pytest.mark.parametrize("num_beams", [1, 2, 5])
def test_tree_of_a_beam_search_ends_where_the_search_ends(num_beams):
    prompt = torch.tensor([[3, 1]])
    tree = pictures.beam_tree(letters, prompt, 6, num_beams)
    best = max((leaf for leaf in tree if leaf["depth"] == 6 and leaf["kept"]), key=lambda leaf: leaf["score"])
    path = []
    while best["parent"] is not None:
        path.insert(0, best)
        best = tree[best["parent"]]
    ids, score = generation.beam_search(letters, prompt, 6, num_beams)
    assert [leaf["token"] for leaf in path] == ids[2:].tolist()
    assert path[-1]["score"] == pytest.approx(score)
    assert all(sum(leaf["kept"] for leaf in tree if leaf["depth"] == depth) == num_beams for depth in range(1, 7))


M = torch.zeros(3, 2)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: pictures.attention(M, M, M, ["a", "b"]), "query has shape (3, 2): it takes (2, features)"),
    (lambda: pictures.attention(M, torch.zeros(3, 4), M, ["a", "b", "c"]), "query has 2 features, key 4"),
    (lambda: pictures.attention(torch.zeros(3, 13), M, M, ["a", "b", "c"]), "up to 12 of each"),
    (lambda: pictures.attention(M, M, M, ["a", "b", "c"], value_names=["x"]), "1 value_names for 2 features"),
    (lambda: pictures.softmax([1.0], ["a"]), "give 2 to 12 of each"),
    (lambda: pictures.softmax([1.0, 4.0], ["a", "b"]), "scores from -3 to 3"),
    (lambda: pictures.softmax([1.0, 2.0], ["a", "b"], d_k=100), "d_k=100: the slider has the powers of 2"),
    (lambda: pictures.rope(torch.zeros(3), torch.zeros(3)), "3 and 3 features: 2 to 12, even, the same"),
    (lambda: pictures.rope(torch.zeros(4), torch.zeros(4), places=(1, 65)), "places=(1, 65): they go from 0 to 64"),
    (lambda: pictures.masks(["a"] * 17), "17 tokens, size=3"),
    (lambda: pictures.masks(["a", "b"], kind="block"), "kind='block': there are full, causal, prefix, window"),
    (lambda: pictures.merges({}, [(("a", "b"), 1)]), "0 words and 1 merges"),
    (lambda: pictures.merges({"ab": 1}, []), "1 words and 0 merges"),
    (lambda: pictures.beam(letters, torch.tensor([1, 2]), str), "prompt has shape (2,)"),
    (lambda: pictures.beam(letters, torch.tensor([[1, 2]]), str, most_beams=6), "most_beams=6: up to 8 steps"),
])  # fmt: skip
def test_pictures_refuse_what_they_cannot_show(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_still_of_attention_fills_its_canvas():
    few, many = ["a=?", "b=?"], ["a=1", "b=2", "c=3", "d=4"]
    view = pictures.attention(torch.randn(2, 3), torch.randn(4, 3), torch.randn(4, 10), few, many)
    still_picture = Image.open(io.BytesIO(base64.b64decode(view._repr_mimebundle_()["image/png"]))).convert("L")
    drawn = np.asarray(still_picture) < 200  # (height, width)
    assert drawn.any(axis=1).mean() > 0.7 and drawn.any(axis=0).mean() > 0.7


def test_picture_is_the_same_for_the_same_call_and_writes_its_words_safely():
    made = [pictures.masks(["<b>", '"', "数组"], kind="window", size=2)._repr_html_() for _ in range(2)]
    assert made[0] == made[1] and "<b>" not in made[0]
