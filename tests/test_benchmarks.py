import json

import numpy as np
import torch

import language_models
import recording
import three_families
import training_speed
from llmbook import runtime, training
from llmbook.transformer import Decoder, TransformerConfig


def test_the_chapters_engine_trains_and_scores_every_model():
    chapter = language_models.engine(runtime.setup())
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
    chapter = three_families.engine(runtime.setup())
    chapter["train"] = chapter["train"][:300]
    runs = [run for name in chapter["FAMILIES"] for run in three_families.family_runs(chapter, name, passes=1, seed=0)]
    assert [run["method"] for run in runs] == list(chapter["METHODS"])
    assert all(0.02 < run["gaps"] < 1 for run in runs)  # one of 700 words at random would be 0.001
    assert len({run["parameters"] for run in runs}) == 1


def test_the_models_whose_speed_is_compared_learn_the_same():
    torch.manual_seed(0)
    model = Decoder(TransformerConfig(50, d_model=32, num_layers=1, num_heads=2))
    batches = training.Windows(np.arange(2000) * 7 % 50, 16, 4)
    runs = training_speed.measure(model, batches, steps=8, rounds=1, device=torch.device("cpu"))
    losses = {run["variant"]: run["loss"] for run in runs}
    assert list(losses) == list(training_speed.VARIANTS) and runs[0]["ratio"] == 1
    assert abs(losses["ours, float32"] - losses["transformers, float32"]) < 1e-3
    assert abs(losses["ours, bfloat16"] - losses["ours, float32"]) < 0.05
    assert all(run["tokens_per_s"] > 0 for run in runs)


def test_record_says_where_it_comes_from_and_is_written_in_one_go(tmp_path):
    record = recording.origin()
    assert len(record["commit"]) == 40 and record["versions"]["torch"] and record["command"].startswith("python ")
    path = tmp_path / "results" / "a.json"
    recording.write(path, record | {"runs": [1.5]})
    assert json.loads(path.read_text()) == record | {"runs": [1.5]}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
