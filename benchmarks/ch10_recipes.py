"""What our recipe buys over `transformers`' own `Trainer`, part by part: `llmbook/results/recipes.json`.

All runs train a Llama of one shape on the same windows of `pydocs` in the same order, in bfloat16, and are judged by
bits per byte of held-out text, under the book's convention. The first is `LlamaForCausalLM` under `Trainer` with its
default settings, but for the learning rate, which is the best of `RATES`. Each next run changes one thing more, up to
`benchmarks/pretrain.py`'s recipe; its learning rates are those of the shipped model and are not tuned to this size. The
last two train with a half and a third of the tokens.

    python benchmarks/ch10_recipes.py --shape small --steps 240 --seeds 3       # what each part buys
    python benchmarks/ch10_recipes.py --shape shipped --steps 2000 --seeds 1  # first and last at that size
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from llmbook import corpora, hub, results, runtime, tokenization, training, transformer
from llmbook.evaluation.likelihood import BOOK, score_texts
from pretrain import VOCAB_SIZE
from recording import origin, write

PATH = results.FOLDER / "recipes.json"
SHAPES = {
    "small": {"d_model": 128, "num_layers": 2, "num_heads": 4, "d_ff": 344},
    "shipped": {"d_model": 256, "num_layers": 4, "num_heads": 4, "d_ff": 688},
}
WINDOW, BATCH = 256, 16
RATES = (1e-3, 3e-3, 1e-2)
ADAMW, MUON = 5e-3, 0.015


def build(shape: dict[str, int], seed: int) -> transformer.Decoder:
    """Return a new model of a shape."""
    torch.manual_seed(seed)
    return transformer.Decoder(transformer.TransformerConfig(VOCAB_SIZE, **shape))


class Rows(torch.utils.data.Dataset):
    """The windows of all steps, one after the other, as `Trainer` takes them; it is told not to shuffle."""

    def __init__(self, batches: training.Windows, steps: int) -> None:
        """Take the batches of so many steps."""
        self.batches, self.steps, self.kept = batches, steps, (-1, torch.empty(0))

    def __len__(self) -> int:
        """Return the number of windows."""
        return self.steps * self.batches.batch_size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a window with itself as labels, which the model shifts; the token after it is not used."""
        step, row = divmod(index, self.batches.batch_size)
        if self.kept[0] != step:
            self.kept = step, self.batches(step)
        ids = self.kept[1][row]  # (window + 1,)
        return {"input_ids": ids, "labels": ids}


class InOrder(Trainer):
    """The library's trainer, which shuffles unless told otherwise: the windows are in random order already."""

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        assert self.train_dataset is not None
        return torch.utils.data.SequentialSampler(self.train_dataset)


def with_trainer(shape: dict[str, int], batches: training.Windows, steps: int, rate: float, seed: int) -> nn.Module:
    """Train `transformers`' Llama, with its own initial weights, by its own `Trainer`; windows as in :class:`Rows`."""
    config = hub.to_hf(build(shape, 0)).config
    config.use_cache = False
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, max_steps=steps, learning_rate=rate, per_device_train_batch_size=batches.batch_size, seed=seed,
            bf16=True, use_cpu=not torch.cuda.is_available(), save_strategy="no", report_to=[], disable_tqdm=True,
            logging_strategy="no",
        )  # fmt: skip
        InOrder(model, settings, train_dataset=Rows(batches, steps)).train()
    return model


def with_ours(
    shape: dict[str, int], batches: training.Windows, steps: int, seed: int, scaled: bool = True, **changes: Any
) -> nn.Module:
    """Train the book's decoder with `training.fit`; ``scaled=False`` gives all matrices GPT-2's plain 0.02."""
    model = build(shape, seed)
    if not scaled:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.mul_(math.sqrt(2 * shape["num_layers"]))
    chosen = {"learning_rate": ADAMW, "warmup": 0.015, "decay": 0.25, "seed": seed, "log_every": steps} | changes
    training.fit(model, batches, training.Settings(steps, **chosen), dtype=torch.bfloat16, progress=False)
    return model


def variants(best: float) -> dict[str, tuple[float, Callable[..., nn.Module], dict[str, Any]]]:
    """Return name, share of the tokens, function and settings of each run, each with one change more."""
    plain = {"schedule": "linear", "warmup": 0.0, "learning_rate": best, "weight_decay": 0.0, "scaled": False}
    warm = plain | {"weight_decay": 0.1, "warmup": 0.015}
    plateau = warm | {"schedule": "wsd"}
    scaled = plateau | {"scaled": True}
    muon = {"muon_learning_rate": MUON}
    return {
        "transformers' Llama and Trainer": (1.0, with_trainer, {"rate": best}),
        "our loop, the same settings": (1.0, with_ours, plain),
        "+ weight decay and warm-up": (1.0, with_ours, warm),
        "+ plateau before the fall": (1.0, with_ours, plateau),
        "+ small initial residual weights": (1.0, with_ours, scaled),
        "+ Muon, its rates: the shipped recipe": (1.0, with_ours, muon),
        "the shipped recipe, half the tokens": (0.5, with_ours, muon),
        "the shipped recipe, a third of the tokens": (1 / 3, with_ours, muon),
    }


ENDS = (
    "transformers' Llama and Trainer",
    "+ Muon, its rates: the shipped recipe",
    "the shipped recipe, half the tokens",
)


def measure(
    shape: dict[str, int],
    stream: np.ndarray,
    score: Callable[[nn.Module], float],
    steps: int,
    seeds: Sequence[int],
    names: Sequence[str] | None = None,
    rates: Sequence[float] = RATES,
) -> list[dict[str, Any]]:
    """Find the Trainer's best learning rate with another seed, then train each variant with each seed."""
    runs = []
    for rate in rates if len(rates) > 1 else ():
        seed = max(seeds) + 1
        model = with_trainer(shape, training.Windows(stream, WINDOW, BATCH, seed), steps, rate, seed)
        runs.append({"variant": "sweep", "rate": rate, "seed": seed, "bits_per_byte": score(model)})
        tqdm.write(f"Trainer, {rate}: {runs[-1]['bits_per_byte']:.4f}")
    best = min(runs, key=lambda run: run["bits_per_byte"])["rate"] if runs else rates[0]
    chosen = {name: variant for name, variant in variants(best).items() if names is None or name in names}
    for seed in tqdm(seeds, desc="seeds"):
        for name, (share, train, settings) in chosen.items():
            some = max(1, round(share * steps))
            model = train(shape, training.Windows(stream, WINDOW, BATCH, seed), some, seed=seed, **settings)
            tokens = some * BATCH * WINDOW
            runs.append({"variant": name, "rate": settings.get("rate", settings.get("learning_rate", ADAMW)),
                         "seed": seed, "tokens": tokens, "bits_per_byte": score(model)})  # fmt: skip
            tqdm.write(f"{name}, seed {seed}: {runs[-1]['bits_per_byte']:.4f}")
    return runs


def main() -> None:
    """Train, score and record one shape; the other shape's record stays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--steps", type=int, required=True, help="of 16 windows of 256 tokens")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--rate", type=float, help="the Trainer's learning rate, where it is known from a small shape")
    chosen = parser.parse_args()
    record = origin()
    rt = runtime.setup()
    tokenizer = tokenization.load_tokenizer()
    texts = list(corpora.pydocs()["train"].shuffle(seed=0)["text"])
    stream = np.concatenate(tokenization.encode_documents(tokenizer, texts, control=True))  # the shipped stream
    held_out, convention = corpora.held_out(), BOOK.with_window(WINDOW)

    def score(model: nn.Module) -> float:
        return score_texts(model, tokenizer, held_out, convention).bits_per_byte

    shape = SHAPES[chosen.shape]
    ends = ENDS if chosen.shape == "shipped" else None
    rates = RATES if chosen.rate is None else (chosen.rate,)
    runs = measure(shape, stream, score, chosen.steps, range(chosen.seeds), ends, rates)
    record |= {
        "device": str(rt),
        "shape": shape,
        "parameters": transformer.count_parameters(build(shape, 0)),
        "convention": convention.describe(),
        "runs": runs,
    }
    if chosen.shape == "shipped":  # what the long training of this size reached, measured in the same way
        record["pydocs-gpt"] = score(hub.pretrained("pydocs-gpt")[0])
    whole = json.loads(PATH.read_text()) if PATH.exists() else {}
    write(PATH, whole | {chosen.shape: record})


if __name__ == "__main__":
    main()
