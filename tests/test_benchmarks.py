import importlib.util
from pathlib import Path

import numpy as np
import torch

from llmbook import runtime

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "language_models.py"


def test_the_chapters_engine_trains_and_scores_every_model():
    spec = importlib.util.spec_from_file_location("language_models", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    chapter = benchmark.engine(runtime.setup())
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
