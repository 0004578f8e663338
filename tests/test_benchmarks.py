import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
import torch

import ch01_language_models
import ch02_three_families
import ch10_recipes
import ch10_training_speed
import pretrain
import recording
from llmbook import hub, runtime, training
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig


def test_the_chapters_engine_trains_and_scores_every_model():
    chapter = ch01_language_models.engine(runtime.setup())
    stream = torch.arange(20_000) % 30  # each token tells the next one
    document = (np.arange(200) % 30).astype(np.int32)
    assert len(chapter["RATES"]) == 3
    for kind, rate in chapter["RATES"].items():
        torch.manual_seed(0)
        model = kind(30, 32)
        before = chapter["log_probs"](model, [document, document[:5]])
        chapter["train_model"](model, stream, 0, rate)
        after = chapter["log_probs"](model, [document, document[:5]])
        assert before.shape == after.shape == (205,)
        assert after.mean() > before.mean() + 0.5, kind.__name__


def test_the_second_chapters_engine_trains_every_family_and_asks_it_in_every_way():
    chapter = ch02_three_families.engine(runtime.setup())
    chapter["train"] = chapter["train"][:300]
    runs = [
        run for name in chapter["FAMILIES"] for run in ch02_three_families.family_runs(chapter, name, passes=1, seed=0)
    ]
    assert [run["method"] for run in runs] == list(chapter["METHODS"])
    assert all(0.02 < run["gaps"] < 1 for run in runs)  # one of 700 words at random would be 0.001
    assert len({run["parameters"] for run in runs}) == 1


def test_the_models_whose_speed_is_compared_learn_the_same():
    torch.manual_seed(0)
    model = Decoder(TransformerConfig(50, d_model=32, num_layers=1, num_heads=2))
    batches = training.Windows(np.arange(2000) * 7 % 50, 16, 4)
    runs = ch10_training_speed.measure(model, batches, steps=8, rounds=1, device=torch.device("cpu"))
    losses = {run["variant"]: run["loss"] for run in runs}
    assert list(losses) == list(ch10_training_speed.VARIANTS) and runs[0]["ratio"] == 1
    assert abs(losses["ours, float32"] - losses["transformers, float32"]) < 1e-3
    assert abs(losses["ours, bfloat16"] - losses["ours, float32"]) < 0.05
    assert all(run["tokens_per_s"] > 0 and 0 < run["batch_share"] < 1 for run in runs)


def test_record_says_where_it_comes_from_and_is_written_in_one_go(tmp_path):
    record = recording.origin()
    assert len(record["commit"]) == 40 and record["versions"]["torch"] and record["command"].startswith("python ")
    path = tmp_path / "results" / "a.json"
    recording.write(path, record | {"runs": [1.5]})
    assert json.loads(path.read_text()) == record | {"runs": [1.5]}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


TINY = {
    "gpt": lambda: Decoder(TransformerConfig(4096, d_model=32, num_layers=1, num_heads=2)),
    "bert": lambda: Encoder(TransformerConfig.bert(4096, d_model=32, num_layers=1, num_heads=2, max_length=256)),
    "t5": lambda: EncoderDecoder(TransformerConfig.t5(4096, d_model=32, num_layers=1, num_heads=2, activation="geglu")),
}


def test_windows_grow_while_the_rate_falls_and_the_tokens_of_a_step_stay():
    made = pretrain.recipe("gpt")
    batches = made.batches(np.arange(20_000) % 4096)
    turn = round(0.75 * made.settings.steps)
    assert training.schedule(turn - 1, made.settings.steps, decay=0.25) == 1
    assert batches(turn - 1).shape == (16, 257) and batches(turn).shape == (8, 513)
    assert not torch.equal(batches(turn), batches(turn + 1))


@pytest.mark.parametrize("name", TINY)
def test_each_recipe_starts_from_an_even_choice_and_teaches_every_part(name):
    made, model = pretrain.recipe(name), TINY[name]()
    ids = made.batches(np.random.default_rng(0).integers(37, 4096, 8000))(0)[:4]
    loss = made.loss(model, ids)
    assert loss.item() == pytest.approx(math.log(4096), abs=0.3)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "type_" not in n)


def test_texts_are_separated_by_a_token_that_bert_and_t5_know():
    ids = torch.tensor([[50, 0, 60, 0]])
    assert pretrain.without_end_of_text(ids).tolist() == [[50, 4, 60]]


def test_t5_is_trained_with_divided_scores_and_is_the_same_without_the_division():
    model, source, target = pretrain.t5(), torch.arange(40, 70)[None], torch.arange(70, 80)[None]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        theirs = hub.to_hf(pretrain.as_t5(model))
        expected, logits = (m(source, decoder_input_ids=target).logits for m in (model, theirs))
    assert model.config.scale_attention and (expected - logits).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", TINY)
def test_a_published_model_has_weights_tokenizer_curve_and_a_card_that_fits(name, tmp_path):
    made = dataclasses.replace(pretrain.recipe(name), build=TINY[name])
    log = [dict.fromkeys(training.LOG_FIELDS, 1.5) | {"step": 50, "tokens": 204800}]
    facts = {"data_sha256": "d" * 64, "documents": 3, "stream": 1000, "device": "cpu", "dtype": "bfloat16"}
    held_out = ["Return the sum of the elements of an array. " * 200] * 20
    pretrain.publish(name, made, made.build(), log, facts, held_out, tmp_path / name)
    card = (tmp_path / name / "README.md").read_text()
    assert hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest() in card
    assert "204,800 tokens (204.8 passes)" in card and "{" not in card
    assert (tmp_path / name / "curve.csv").read_text() == (
        "step,tokens,loss,learning_rate,gradient_norm\n50,204800,1.5,1.5,1.5\n"
    )
    assert type(hub.load(tmp_path / name)) is type(made.build())


def test_each_recipe_of_the_comparison_trains_on_its_share_and_both_loops_agree(monkeypatch):
    monkeypatch.setattr(ch10_recipes, "VOCAB_SIZE", 50)
    monkeypatch.setattr(ch10_recipes, "WINDOW", 16)
    monkeypatch.setattr(ch10_recipes, "BATCH", 4)
    stream = np.arange(5000) * 7 % 50
    test = training.Windows(stream, 16, 16)(0)

    @torch.no_grad()
    def score(model):
        return training.next_token_loss(model.eval(), test).item()

    shape = {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64}
    runs = ch10_recipes.measure(shape, stream, score, 24, [0], rates=(3e-3,))
    assert [run["variant"] for run in runs] == list(ch10_recipes.variants(0.1))
    assert [run["tokens"] for run in runs] == [24 * 64] * 6 + [12 * 64, 8 * 64]
    theirs, ours = runs[0]["bits_per_byte"], runs[1]["bits_per_byte"]
    assert abs(theirs - ours) < 0.1 and theirs < math.log(50) - 0.5  # other initial weights, the same training
