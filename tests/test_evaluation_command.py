"""`llmbook evaluate`: one record and one page, the same after a kill; bad input is said and leaves nothing behind."""

import argparse
import dataclasses
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llmbook import hub, tokenization
from llmbook.evaluation import command, record_page, scoring
from llmbook.evaluation.benchmarks import Benchmark, Item, Template, render
from llmbook.evaluation.likelihood import BOOK, score_texts
from llmbook.evaluation.models import hash_model, open_folder
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig

TEXTS = [f"The function number {number} returns the sum of {number} values along an axis." for number in range(5)] * 2


def choice_benchmark(count=6, name="colours <b>"):
    """Four colours to choose from."""
    way = Template("{thing} number {n} is")
    colours = ("red", "green", "blue", "white and black")

    def item(n, part):
        fields = {"thing": "Paint", "n": n, "answer": colours[n % 4], "choices": list(colours)}
        return render(f"{part}{n}", fields, way, "choice")

    return Benchmark(
        name, "choice", tuple(item(n, "t") for n in range(count)), tuple(item(n, "d") for n in range(3)),
        "Which <i>colour</i>?", {"Made from": "<script>alert(1)</script>"}, {"plain": way}, "plain",
    )  # fmt: skip


def written_benchmark(count=4):
    """One word to write."""
    way = Template("def f(x={x}): the default of x is")
    made = tuple(render(f"w{n}", {"x": n, "answer": str(n)}, way, "generation") for n in range(count))
    dev = (render("d", {"x": 9, "answer": "9"}, way, "generation"),)
    return Benchmark("written", "generation", made, dev, "Write it.", {}, {"plain": way}, "plain")


BENCHMARKS = {"colours": choice_benchmark(), "written": written_benchmark()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small decoder with the book's tokenizer."""
    torch.manual_seed(0)
    shape = TransformerConfig(4096, d_model=16, num_layers=1, num_heads=2, max_length=64)
    path = tmp_path_factory.mktemp("models") / "small-gpt"
    return hub.save(Decoder(shape), path, tokenization.load_tokenizer("gpt"))


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    torch.manual_seed(0)
    shape = TransformerConfig.bert(4096, d_model=16, num_layers=1, num_heads=2, max_length=64)
    path = tmp_path_factory.mktemp("models") / "small-bert"
    return hub.save(Encoder(shape), path, tokenization.load_tokenizer("bert"))


def evaluate(folder, out, **changes):
    options = {"benchmarks": BENCHMARKS, "texts": TEXTS, "progress": False} | changes
    return command.evaluate(folder, out, **options)


def stable(path):
    """The bytes of a record without what may differ between two runs: one line each."""
    lines = Path(path).read_bytes().split(b"\n")
    return [line for line in lines if not any(line.startswith(f' "{name}":'.encode()) for name in command.CHANGING)]


def test_a_record_has_all_that_is_needed_to_read_it_and_scores_like_the_functions(folder, tmp_path):
    record = evaluate(folder, tmp_path / "deep" / "out")
    assert json.loads((tmp_path / "deep" / "out" / "evaluation.json").read_text()) == record
    for name in ("command", "date", "machine", "model", "settings", "results"):
        assert name in record
    assert {"torch", "transformers", "python"} <= set(record["key"]["versions"])
    assert record["model"]["sha256"] == hash_model(folder) and record["model"]["kind"] == "causal"
    colours, written, text = record["results"]
    model, tokenizer = hub.pretrained(folder)
    assert colours["score"] == scoring.score_choices(model, tokenizer, BENCHMARKS["colours"]).accuracy()
    assert written["score"] == scoring.score_generation(model, tokenizer, BENCHMARKS["written"]).accuracy()
    assert colours["version"] == BENCHMARKS["colours"].version and colours["chance"] == 0.25
    assert text["metric"] == "bits per byte" and text["low"] < text["score"] < text["high"]
    assert text["convention"] == BOOK.with_window(64).describe()
    assert text["score"] == pytest.approx(score_texts(model, tokenizer, TEXTS, BOOK.with_window(64)).bits_per_byte)
    assert all(line["low"] <= line["score"] <= line["high"] for line in record["results"])
    assert not (tmp_path / "deep" / "out" / command.UNFINISHED).exists()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_writes_the_same_bytes(folder, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    script = (
        "import sys, time; sys.path[:0] = [sys.argv[3]]; import test_evaluation_command as t\n"
        "from llmbook.evaluation import command\n"
        "command.CHUNK = 2; compute = command._choices\n"
        "begun = []\ndef one(*given):\n    if begun: print('kept', flush=True); time.sleep(600)\n"
        "    begun.append(1); return compute(*given)\n"
        "command._choices = one; t.evaluate(sys.argv[1], sys.argv[2])"
    )
    here = str(Path(__file__).parent)
    words = [sys.executable, "-c", script, str(folder), str(killed), here]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "kept\n", "the first chunk is written down before the second is computed"
        process.send_signal(signal.SIGKILL)
    kept = json.loads((killed / command.UNFINISHED).read_text())["chunks"]
    (killed / ".evaluation.json.x.partial").write_text("{")  # as if killed while writing
    assert len(kept) == 1 and not (killed / command.RECORD).exists() and not (killed / command.PAGE).exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "CHUNK", 2)
        computed = []
        choices = command._choices
        patch.setattr(command, "_choices", lambda *given: computed.append(1) or choices(*given))
        evaluate(folder, killed)
        again = len(computed)
        evaluate(folder, whole)
    assert again == 2 and len(computed) == again + 3
    assert stable(killed / command.RECORD) == stable(whole / command.RECORD)
    assert len(stable(whole / command.RECORD)) > 100
    assert {path.name for path in killed.iterdir()} == {command.RECORD, command.PAGE}


def test_an_interruption_between_chunks_keeps_the_finished_ones(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "CHUNK", 2)
    generate = command._generation
    monkeypatch.setattr(command, "_generation", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [command.UNFINISHED]
    monkeypatch.setattr(command, "_generation", generate)
    monkeypatch.setattr(command, "_choices", None)  # all of its chunks are there
    evaluate(folder, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [command.PAGE, command.RECORD]


@pytest.mark.slow
def test_what_belongs_to_another_model_benchmark_or_setting_is_not_used_again(folder, tmp_path, monkeypatch):
    calls = []
    choices = command._choices
    monkeypatch.setattr(command, "_choices", lambda *given: calls.append(1) or choices(*given))
    only = {"colours": BENCHMARKS["colours"]}
    evaluate(folder, tmp_path / "out", benchmarks=only)
    evaluate(folder, tmp_path / "out", benchmarks=only)
    assert len(calls) == 1
    evaluate(folder, tmp_path / "out", benchmarks={"colours": choice_benchmark(7)})
    assert len(calls) == 2
    evaluate(folder, tmp_path / "out", benchmarks=only, batch_size=3)
    assert len(calls) == 3
    evaluate(folder, tmp_path / "out", benchmarks=only, batch_size=3, shots=(2,))
    assert len(calls) == 4
    other = tmp_path / "other"
    torch.manual_seed(1)
    shape = TransformerConfig(4096, d_model=16, num_layers=1, num_heads=2, max_length=64)
    hub.save(Decoder(shape), other, tokenization.load_tokenizer("gpt"))
    evaluate(other, tmp_path / "out", benchmarks=only, batch_size=3, shots=(2,))
    assert len(calls) == 5
    (tmp_path / "out" / command.RECORD).write_text("{ damaged")
    evaluate(other, tmp_path / "out", benchmarks=only, batch_size=3, shots=(2,))
    assert len(calls) == 6


def test_an_encoder_is_judged_where_that_makes_sense(encoder_folder, tmp_path):
    record = evaluate(encoder_folder, tmp_path, limit=3)
    colours, written, text = record["results"]
    assert colours["applies"] and colours["items"] == 3 and "masked" in colours["method"]
    assert not written["applies"] and not text["applies"]
    assert "Does not apply" in (tmp_path / command.PAGE).read_text() and "does not apply" in record_page.table(record)


def test_an_encoder_is_asked_in_a_way_that_leaves_a_gap(encoder_folder, tmp_path):
    ways = {"whole": Template("", "{choice} is {thing} number {n}", ""), **BENCHMARKS["colours"].templates}
    colours = dataclasses.replace(BENCHMARKS["colours"], templates=ways).with_template("whole")
    record = evaluate(encoder_folder, tmp_path, benchmarks={"colours": colours}, limit=2)
    assert record["results"][0]["template"] == "plain"


def test_masked_choices_are_scored_at_their_own_masks(encoder_folder):
    loaded = open_folder(encoder_folder)
    item = BENCHMARKS["colours"].items[0]
    tokenizer = loaded.tokenizer
    found, cut = scoring.masked_log_likelihoods(loaded.model, tokenizer, BENCHMARKS["colours"], items=[item])
    answer = tokenizer(" red", add_special_tokens=False)["input_ids"]
    before = tokenizer(item.prompt, add_special_tokens=False)["input_ids"]
    ids = [3, *before, *[2] * len(answer), 4]
    log_probs = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = np.mean([log_probs[1 + len(before) + k, token].item() for k, token in enumerate(answer)])
    assert found.shape == (1, 4) and abs(found[0, 0] - wanted) < 1e-4 and cut.tolist() == [False]


def test_the_page_stands_alone_escaped_and_readable_on_a_phone(folder, tmp_path, browser):
    from browsing import PHONE

    evaluate(folder, tmp_path, shots=(0, 1))
    page = (tmp_path / command.PAGE).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "colours &lt;b&gt;" in page
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", page)
    for theme in ("light", "dark"):
        context = browser.new_context(viewport=PHONE, color_scheme=theme, offline=True)
        view = context.new_page()
        asked = []
        view.on("request", lambda request, asked=asked: asked.append(request.url))
        view.goto(f"file://{tmp_path / command.PAGE}")
        assert [url for url in asked if not url.startswith("file:")] == []
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        assert view.locator("h1").inner_text() == "Evaluation of small-gpt"
        bright = view.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (bright == "rgb(255, 255, 255)") == (theme == "light")
        context.close()


def test_the_command_line_prints_a_table(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "from_pydocs", lambda: BENCHMARKS)
    monkeypatch.setattr(command.corpora, "held_out", lambda: TEXTS)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    status = command.run(parser.parse_args([str(folder), "--out", str(tmp_path), "--limit", "2", "--shots", "0", "1"]))
    shown = capsys.readouterr()
    assert status == 0 and "bits per byte" in shown.out and "evaluation.json" in shown.out and "100%" in shown.err
    assert command.SUMMARY and len(json.loads((tmp_path / command.RECORD).read_text())["results"]) == 5


def broken(folder, tmp_path, change):
    """A copy of a model's folder with one thing wrong."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "no folder with a config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no \\*.safetensors"),
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "has no tokenizer"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 50), "does not load"),
        (lambda f: (f / "config.json").write_text("{"), "does not load"),
        (lambda f: (f / "config.json").write_text('{"model_type": "vit"}'), "causal language model"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "does not load"),
    ],
)
def test_a_folder_that_is_no_model_is_said_and_nothing_is_written(folder, tmp_path, change, words):
    copy = broken(folder, tmp_path, change)
    with pytest.raises((ValueError, OSError), match=words):
        evaluate(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_bad_input_is_said_and_nothing_is_written(folder, tmp_path):
    with pytest.raises(OSError, match="is no folder"):
        evaluate(tmp_path / "nothing", tmp_path / "out")
    shape = TransformerConfig.t5(4096, d_model=16, num_layers=1, num_heads=2)
    t5 = hub.save(EncoderDecoder(shape), tmp_path / "t5", tokenization.load_tokenizer("t5"))
    with pytest.raises(ValueError, match="t5 holds an encoder-decoder"):
        evaluate(t5, tmp_path / "out")
    small = hub.save(
        Decoder(TransformerConfig(300, d_model=16, num_layers=1, num_heads=2)), tmp_path / "small",
    )  # fmt: skip
    tokenization.load_tokenizer("gpt").save_pretrained(small)
    with pytest.raises(ValueError, match="4,096 tokens, the model's embedding 300 rows"):
        evaluate(small, tmp_path / "out")
    for changes in ({"limit": 0}, {"batch_size": 0}, {"shots": ()}):
        with pytest.raises(ValueError, match="1 or more"):
            evaluate(folder, tmp_path / "out", **changes)
    with pytest.raises(ValueError, match="shots=50"):
        evaluate(folder, tmp_path / "out", shots=(50,))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_computed(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(command, "_compute", None)
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="cannot be written to"):
            evaluate(folder, out)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_reference_and_numbers_that_do_not_fit_are_said():
    way = Template("{x}")
    empty = Item("a", "?", (), " ", {"x": "?"})
    with pytest.raises(ValueError, match="not empty"):
        Benchmark("b", "generation", (empty,), (), "", {}, {"plain": way}, "plain")
    written = BENCHMARKS["written"]
    chunk = {"ids": ["w0", "w1"], "output": ["0"], "reference": ["0", "1"], "truncated": 0}
    with pytest.raises(ValueError, match="2 items, 1 answers, 2 right answers"):
        command.summarise(written, [chunk])
    with pytest.raises(ValueError, match="item w1: the right answer is empty"):
        command.summarise(written, [chunk | {"output": ["0", "1"], "reference": ["0", ""]}])
    with pytest.raises(ValueError, match="no empty text"):
        command.summarise_bits([{"nats": [1.0, 2.0], "bytes": [1]}])
