"""Make the models that the book ships, `pydocs-gpt`, `pydocs-bert` and `pydocs-t5`, from `pydocs` alone (chapter 10).

    python benchmarks/pretrain.py --model gpt        # an hour or two on one CPU thread; the same for bert and t5

Checkpoints go to `--work`; an interrupted run goes on from them. At its end the model is written to
`llmbook/pretrained/pydocs-gpt` in Hugging Face's format and half precision, with its tokenizer, the curve of its
training (`curve.csv`) and a card (`README.md`). What the card says of held-out text is computed from the files written.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import io
import platform
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmbook import corpora, hub, ngram, objectives, positions, results, runtime, tokenization, training, transformer
from llmbook.evaluation.likelihood import BOOK, score_texts
from llmbook.files import write_whole
from llmbook.pretrained import FOLDER
from recording import ROOT

VOCAB_SIZE = 4096
CURVE = ("step", "tokens", "loss", "learning_rate", "gradient_norm")


def gpt() -> transformer.Decoder:
    """Return a Llama of 4.2 million parameters."""
    return transformer.Decoder(
        transformer.TransformerConfig(VOCAB_SIZE, d_model=256, num_layers=4, num_heads=4, d_ff=688)
    )


def bert() -> transformer.Encoder:
    """Return a BERT of 4.4 million parameters for texts of up to 256 tokens.

    Its learned positions begin as sinusoids, so that "the token before" is a direction from the first step on.
    """
    model = transformer.Encoder(
        transformer.TransformerConfig.bert(
            VOCAB_SIZE, d_model=256, num_layers=4, num_heads=4, d_ff=1024, max_length=256
        )
    )
    with torch.no_grad():
        waves = positions.sinusoidal(256, 256)  # (time, d_model), mean square 1/2
        model.stack.positions.weight.copy_(0.02 * 2**0.5 * waves)
    return model


def t5() -> transformer.EncoderDecoder:
    """Return a T5 (version 1.1: gated) of 4.9 million parameters, with scores divided by the root of ``d_head``.

    T5 does not divide, which suits its own initial weights and optimiser. With those of this recipe it needed almost
    three times the steps for the same loss in a trial.
    """
    shape = {"d_model": 192, "num_layers": 4, "num_heads": 3, "d_ff": 512, "activation": "geglu"}
    return transformer.EncoderDecoder(transformer.TransformerConfig.t5(VOCAB_SIZE, **shape, scale_attention=True))


def as_t5(model: transformer.EncoderDecoder) -> transformer.EncoderDecoder:
    """Return the same model as a T5, which does not divide scores: the factor goes into the queries' weights."""
    other = transformer.EncoderDecoder(replace_fields(model.config, scale_attention=False))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.endswith("q_proj.weight"):
                parameter.mul_(model.config.d_head**-0.5)
    return other


@cache
def special(name: str) -> objectives.SpecialTokens:
    """Return the special tokens of ``bert`` or ``t5``."""
    return objectives.SpecialTokens.of(tokenization.load_tokenizer(name))


def without_end_of_text(ids: Tensor) -> Tensor:
    """Return windows ``(batch, time + 1)`` as ``(batch, time)`` with BERT's and T5's token between two documents."""
    return ids[:, :-1].masked_fill(ids[:, :-1] == END, special("bert").sep)


def masked_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of masked tokens.

    30 % of all tokens are masked: more than BERT's 15 %, since a short training gains from more answers per text
    (Wettig et al. 2023, arXiv:2202.08005).
    """
    whole = objectives.single(without_end_of_text(ids).cpu(), special("bert"))  # (batch, time + 2)
    batch = objectives.masked(whole, torch.default_generator, special("bert"), rate=0.3)
    at = (batch.labels != objectives.IGNORE).to(ids.device)  # (batch, time + 2)
    logits = model(batch.input_ids.to(ids.device), at=at).logits  # (masked, vocab)
    return F.cross_entropy(logits.float(), batch.labels.to(ids.device)[at])


def span_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of the tokens of T5's targets.

    T5 itself cuts out 15 % in spans of 3. Then few tokens of a window teach, and in a training as short as ours the
    decoder hardly learned to look at the source. UL2 (Tay et al. 2023, arXiv:2205.05131) mixes both kinds.
    """
    text = without_end_of_text(ids).cpu()  # (batch, time)
    batch = objectives.span_corruption(text, torch.default_generator, special("t5"), *SPANS)
    logits = model(batch.input_ids.to(ids.device), decoder_input_ids=batch.decoder_input_ids.to(ids.device)).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch.labels.to(ids.device).flatten())


SPANS = 0.5, 6.0  # share that is cut out, and mean length in tokens
END = tokenization.special_tokens().index(tokenization.END_OF_TEXT)


@dataclass(frozen=True)
class Recipe:
    """How a model is made: its shape, its loss, the tokens of a window, windows in a batch, and how it is trained."""

    build: Callable[[], hub.Model]
    loss: Callable[[nn.Module, Tensor], Tensor]
    window: int
    batch: int
    settings: training.Settings
    about: str
    double_at_end: bool = False

    def batches(self, stream: np.ndarray) -> Callable[[int], Tensor]:
        """Return the batches; with ``double_at_end`` windows are twice as long, and half as many, in the decay."""
        chosen = self.settings
        usual = training.Windows(stream, self.window, self.batch)
        if not self.double_at_end:
            return usual
        longer = training.Windows(stream, 2 * self.window, self.batch // 2)
        turn = chosen.steps - round(chosen.decay * chosen.steps)
        return lambda step: usual(step) if step < turn else longer(step - turn)


def recipe(model: str) -> Recipe:
    """Return the recipe of ``gpt``, ``bert`` or ``t5``."""
    shared = {"warmup": 0.015, "decay": 0.25, "weight_decay": 0.1, "checkpoint_every": 250, "log_every": 50}
    if model == "gpt":
        chosen = training.Settings(5200, 5e-3, 0.015, **shared)
        return Recipe(gpt, training.next_token_loss, 256, 16, chosen, "the next token is predicted", True)
    if model == "bert":
        chosen = training.Settings(4000, 5e-3, 0.015, **shared)
        return Recipe(bert, masked_loss, 254, 16, chosen, "30 % of the tokens are masked (80/10/10) and predicted")
    chosen = training.Settings(3000, 5e-3, 0.015, **(shared | {"warmup": 0.02}))
    about = "half of the tokens, in spans of 6 on average, are cut out and written by the decoder"
    return Recipe(t5, span_loss, 256, 16, chosen, about)


@torch.no_grad()
def held_out_loss(model: nn.Module, made: Recipe, documents: Sequence[np.ndarray]) -> float:
    """Return the recipe's own loss in nats on all windows of the documents, with masks that are always the same."""
    windows = training.Windows(np.concatenate(documents), made.window, made.batch)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    device = next(model.parameters()).device
    losses = [made.loss(model, windows(step).to(device)).item() for step in range(windows.steps_per_epoch)]
    torch.set_rng_state(state)
    return float(np.mean(losses))


def score(name: str, model: nn.Module, held_out: Sequence[str]) -> float:
    """Return bits per byte of ``gpt`` on held-out texts, for the others nats per predicted token."""
    tokenizer = tokenization.load_tokenizer(name)
    if name == "gpt":
        return score_texts(model, tokenizer, held_out, BOOK).bits_per_byte
    documents = tokenization.encode_documents(tokenizer, held_out)
    return held_out_loss(model, recipe(name), documents)


def curve(log: Sequence[dict[str, float]]) -> bytes:
    """Return the log as CSV without speeds, which are the machine's and not the training's."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CURVE, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for line in log:
        whole = {name: int(line[name]) for name in ("step", "tokens")}
        writer.writerow(whole | {name: f"{line[name]:.6g}" for name in CURVE[2:]})
    return file.getvalue().encode()


CARD = """# pydocs-{name}

{kind} of {parameters:,} parameters, made by `python benchmarks/pretrain.py --model {name}`
from the training split of `llmbook.corpora.pydocs()` (documentation of Python packages, in English) and nothing else:
{about}. It is for teaching: it knows nothing but how such documentation
is written.

| | |
|---|---|
| shape | {shape} |
| SHA-256 of `model.safetensors` | `{sha256}` ({megabytes:.1f} MB, bfloat16) |
| SHA-256 of `pydocs` | `{data_sha256}` ({documents:,} documents, {stream:,} tokens in the training split) |
| tokenizer | the book's, {vocab_size:,} tokens (`../tokenizer.md`) |
| trained on | {tokens:,} tokens ({epochs:.1f} passes), {steps:,} steps of {batch} windows of {window} tokens{longer} |
| optimisers | Muon ({muon}) for matrices, AdamW ({adamw}) for the rest; weight decay {decay} |
| learning rate | rises over {warmup:.1%} of the steps, stays, falls to 0 over the last {fall:.0%} |
| precision | weights float32, products {dtype}; seed 0 |
| made with | torch {torch}, Python {python}, {date}, {device} |
| held-out text | {held_out} |

The held-out text is {held_documents} documents of the test split, the same as in chapter 1.
{compared}`curve.csv` has the loss of each 50 steps in nats per predicted token. Chapter 10 explains the recipe.

    from llmbook import hub
    model, tokenizer = hub.pretrained("pydocs-{name}")

or, with `transformers`: `{auto}.from_pretrained(hub.model_folder("pydocs-{name}"), dtype="float32")`.
"""
KINDS = {
    "gpt": ("A decoder (Llama's shape)", "AutoModelForCausalLM"),
    "bert": ("An encoder (BERT's shape)", "AutoModelForMaskedLM"),
    "t5": ("An encoder-decoder (T5's shape, version 1.1)", "AutoModelForSeq2SeqLM"),
}


def comparison(documents: Sequence[np.ndarray], held_out: Sequence[str]) -> str:
    """Return what chapter 1's models need for the same held-out texts, the first counted on the documents here."""
    tokenizer = tokenization.load_tokenizer()
    table = ngram.KneserNey(ngram.NGramCounts(list(documents), VOCAB_SIZE, order=5), 5)
    bits = score_texts(table, tokenizer, held_out, BOOK).bits_per_byte
    recorded = results.recorded("language_models")["runs"]
    most = max(run["tokens"] for run in recorded)
    lstm = [run["bits_per_byte"] for run in recorded if run["model"] == "LSTMLM" and run["tokens"] == most]
    text = (
        f"Convention: {BOOK.describe()}. Under it Kneser-Ney smoothing of order 5, counted on the same tokens as this "
        f"model was trained on, needs {bits:.3f} bits per byte, and the LSTM of chapter 1, in its windows of 64 "
        f"tokens, after its longest recorded training ({most:,} tokens) {min(lstm):.3f}."
    )
    return f"{textwrap.fill(text, 100)}\n{textwrap.fill(against_trainer(), 100)}\n"


def against_trainer() -> str:
    """Return what `benchmarks/ch10_recipes.py` recorded at this size: plain training, ours, ours on half the tokens."""
    record = results.recorded("recipes")["shipped"]
    runs = record["runs"]
    plain, ours, half = (run["bits_per_byte"] for run in runs)
    return (
        f"`transformers`' Llama of this size, trained by its own `Trainer` on {runs[0]['tokens']:,} tokens in the same "
        f"order, needs {plain:.3f}; this recipe {ours:.3f} after as many, {half:.3f} after half; and this model "
        f"{record['pydocs-gpt']:.3f}, if measured as these were: {record['convention']}."
    )


def publish(
    name: str,
    made: Recipe,
    model: hub.Model,
    log: Sequence[dict[str, float]],
    facts: dict[str, object],
    held_out: Sequence[str],
    folder: Path,
    compared: str = "",
) -> None:
    """Write model, tokenizer, curve and card; what the card says of held-out text is of the stored weights."""
    hub.save(model.to("cpu", torch.bfloat16), folder, tokenization.load_tokenizer(name))
    stored = hub.load(folder).float()
    result = f"{score(name, stored, held_out):.3f} {'bits per byte' if name == 'gpt' else 'nats per predicted token'}"
    content = (folder / "model.safetensors").read_bytes()
    config = stored.config
    chosen = made.settings
    card = CARD.format(
        name=name,
        kind=KINDS[name][0],
        auto=KINDS[name][1],
        about=made.about,
        parameters=transformer.count_parameters(stored),
        shape=f"d_model {config.d_model}, {config.num_layers} layers, {config.num_heads} heads, d_ff {config.d_ff}",
        sha256=hashlib.sha256(content).hexdigest(),
        megabytes=len(content) / 1e6,
        vocab_size=config.vocab_size,
        tokens=int(log[-1]["tokens"]),
        epochs=log[-1]["tokens"] / int(str(facts["stream"])),
        steps=chosen.steps,
        batch=made.batch,
        window=made.window,
        longer=f", {made.batch // 2} of {2 * made.window} while the learning rate falls" * made.double_at_end,
        muon=chosen.muon_learning_rate,
        adamw=chosen.learning_rate,
        decay=chosen.weight_decay,
        warmup=chosen.warmup,
        fall=chosen.decay,
        torch=importlib.metadata.version("torch"),
        python=platform.python_version(),
        date=date.today().isoformat(),
        held_out=result,
        held_documents=len(held_out),
        compared=compared,
        **facts,
    )
    write_whole(folder / "curve.csv", curve(log))
    write_whole(folder / "README.md", card)
    print(f"{folder}: {result}")


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(KINDS), required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "_build" / "pretrain", help="where checkpoints go")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the model goes (default: %(default)s)")
    chosen = parser.parse_args(arguments)

    rt = runtime.setup()
    made = recipe(chosen.model)
    docs = corpora.pydocs()
    fingerprint = corpora.describe(docs)
    tokenizer = tokenization.load_tokenizer()
    documents = tokenization.encode_documents(tokenizer, list(docs["train"].shuffle(seed=0)["text"]), control=True)
    stream = np.concatenate(documents).astype(np.uint16)
    held_out = corpora.held_out()
    torch.manual_seed(0)
    model = made.build().to(rt.device)
    print(f"pydocs-{chosen.model}: {transformer.count_parameters(model):,} parameters, {len(stream):,} tokens of text")
    tokens = hashlib.sha256(stream.tobytes()).hexdigest()
    log = training.fit(model, made.batches(stream), made.settings, made.loss, folder=chosen.work / chosen.model,
                       data=f"{chosen.model} {tokens}", dtype=torch.bfloat16)  # fmt: skip
    if isinstance(model, transformer.EncoderDecoder):
        model = as_t5(model)
    facts = {"data_sha256": fingerprint["sha256"], "documents": len(documents), "stream": len(stream)}
    facts |= {"device": rt.device.type, "dtype": "bfloat16"}
    compared = comparison(documents, held_out) if chosen.model == "gpt" else ""
    publish(chosen.model, made, model, log, facts, held_out, chosen.folder / f"pydocs-{chosen.model}", compared)


if __name__ == "__main__":
    main()
