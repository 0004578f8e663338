"""Losses over labels: the same however a batch is cut, and 0 where there is nothing to learn from."""

import functools
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmbook import finetuning as ft
from llmbook import objectives, training
from llmbook.finetuning import augmentation, instructions, preferences, prompting, updating
from llmbook.objectives import IGNORE
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig

SHAPE = {"d_model": 8, "num_layers": 1, "num_heads": 2}


def decoder() -> Decoder:
    return Decoder(TransformerConfig(30, **SHAPE))


def encoder() -> Encoder:
    return Encoder(TransformerConfig.bert(30, **SHAPE, max_length=16, dropout=0.0))


def classifier(**how) -> ft.SequenceClassifier:
    return ft.SequenceClassifier(encoder(), 3, dropout=0.0, **how)


TOKENS, ROWS, SPANS = "labels of tokens", "labels of rows", "spans"
#: name: the loss, its model, what its rows teach
LOSSES = {
    "labelled": (instructions.labelled_loss, decoder, TOKENS),
    "text to text": (
        functools.partial(instructions.text_to_text_loss, start=0),
        lambda: EncoderDecoder(TransformerConfig.t5(30, **SHAPE, dropout=0.0)),
        TOKENS,
    ),
    "tokens": (ft.loss, lambda: ft.TokenClassifier(encoder(), 30, dropout=0.0), TOKENS),
    "texts": (ft.loss, classifier, ROWS),
    "weighted texts": (ft.loss, lambda: classifier(class_weights=torch.tensor([0.0, 1.0, 5.0])), ROWS),
    "smoothed texts": (
        ft.loss,
        lambda: classifier(class_weights=torch.tensor([0.5, 1.0, 5.0]), label_smoothing=0.2),
        ROWS,
    ),
    "label words": (
        ft.loss,
        lambda: prompting.LabelWords(decoder(), [[1], [2, 3], [4]]),
        ROWS,
    ),
    "spans": (ft.loss, lambda: ft.SpanFinder(encoder(), dropout=0.0), SPANS),
    "tasks": (ft.loss, lambda: updating.MultiTaskClassifier(encoder(), [3, 3], dropout=0.0), "tasks"),
    "mixed": (augmentation.mix_up, classifier, ROWS),
    "adversarial": (augmentation.fgm, classifier, ROWS),
}
LINEAR = [name for name in LOSSES if name not in ("mixed", "adversarial")]  # what draws partners differs by the parts


def make_rows(kind: str, lengths: list[int], labels: list[int]) -> list[dict]:
    """Rows of some lengths; ``labels`` has for each how many of its tokens, or whether it itself, is taught."""
    rows = []
    for number, (length, taught) in enumerate(zip(lengths, labels, strict=True)):
        ids = [(number * 7 + place) % 29 + 1 for place in range(length)]
        row: dict = {"input_ids": ids}
        if kind == TOKENS:
            row["labels"] = [IGNORE] * (length - min(taught, length)) + ids[length - min(taught, length) :]
        elif kind == SPANS:
            row |= dict.fromkeys(("start_positions", "end_positions"), number % length if taught else IGNORE)
        else:
            row["labels"] = number % 3 if taught else IGNORE
            row |= {"task": number % 2} if kind == "tasks" else {}
        rows.append(row)
    return rows


def step_of(name: str, rows: list[dict], parts: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss that a step of a training logs, and the gradient that its optimiser is given."""
    loss_of, make, _ = LOSSES[name]
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    found: dict[str, torch.Tensor] = {}

    class Look(torch.optim.SGD):
        def step(self, closure=None):
            found.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    recipe = training.Settings(1, clip=1e9, accumulate=parts, log_every=1)
    batches = ft.Examples(rows, len(rows), pad=0)
    (line,) = training.fit(model, batches, recipe, loss_of, optimizers=[Look(model.parameters(), 0.1)], progress=False)
    return line["loss"], found


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR)
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_a_step_is_the_same_however_its_batch_is_cut(name, data):
    count = data.draw(st.integers(2, 5))
    lengths = data.draw(st.lists(st.integers(2, 6), min_size=count, max_size=count))
    labels = data.draw(st.lists(st.sampled_from([0, 0, 1, 6]), min_size=count, max_size=count))
    rows = make_rows(LOSSES[name][2], lengths, labels)
    loss, gradient = step_of(name, rows, 1)
    for parts in range(2, count + 1):
        other, other_gradient = step_of(name, rows, parts)
        assert abs(loss - other) < 1e-4 * max(1, abs(loss))
        for key, value in gradient.items():
            assert_close(other_gradient.get(key, torch.zeros_like(value)), value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_label_has_loss_0_and_gradient_0(name):
    loss_of, make, kind = LOSSES[name]
    torch.manual_seed(0)
    model = make()
    batch = ft.collate(make_rows(kind, [3, 5, 2, 4], [0, 0, 0, 0]), pad=0)
    loss = loss_of(model, batch)
    assert loss.item() == 0
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", LINEAR)
def test_rows_without_a_label_change_nothing(name):
    kind = LOSSES[name][2]
    rows = make_rows(kind, [4, 4, 4, 4], [3, 0, 3, 0])
    for parts in (1, 4):
        assert step_of(name, rows, parts)[0] == pytest.approx(step_of(name, rows[::2], 1)[0], rel=1e-5)


def test_losses_of_tensors_are_0_or_refuse_where_nothing_is_taught():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    ignored = torch.full((2, 3), IGNORE)
    for loss in (objectives.token_loss(logits, ignored), objectives.detection_loss(logits[..., 0], ignored),
                 objectives.mean_cross_entropy(logits.flatten(0, 1), ignored.flatten())):  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0 and not gradient.any()
    log_probs, mask = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3)
    assert preferences.policy_loss(log_probs, log_probs, torch.ones(2), mask).item() == 0
    half = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    drawn = preferences.policy_loss(log_probs, log_probs, torch.ones(2), half)
    assert drawn.item() == preferences.policy_loss(log_probs[:1], log_probs[:1], torch.ones(1), half[:1]).item() == -1
    none = torch.zeros(0)
    for call in (
        lambda: preferences.bradley_terry_loss(none, none),
        lambda: objectives.info_nce(none[:, None], none[:, None]),
        lambda: objectives.reinforce_loss(none[:, None], none),
    ):
        with pytest.raises(ValueError, match="at least one"):
            call()
    with pytest.raises(ValueError, match="2 tokens or more"):
        training.next_token_loss(decoder(), torch.ones(2, 1).long())


def test_pairs_without_a_taught_token_say_nothing_about_the_policy():
    rows = make_rows(TOKENS, [3, 4], [0, 0])
    pairs = [row | {"chosen_reference": 0.0, "rejected_reference": 0.0} for row in preferences.pair_rows(rows, rows)]
    model = decoder()
    loss = preferences.dpo_batch_loss(0.1)(model, ft.collate(pairs, pad=0))
    loss.backward()
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_span_with_one_end_is_refused_with_its_row():
    batch = ft.collate([{"input_ids": [1, 2], "start_positions": 0, "end_positions": 1},
                        {"input_ids": [1, 2], "start_positions": 0, "end_positions": IGNORE}], pad=0)  # fmt: skip
    with pytest.raises(ValueError, match="row 1 has a start or an end"):
        ft.SpanFinder(encoder())(**batch)


def test_a_loss_says_what_it_is_a_mean_over_and_one_that_is_no_mean_is_not_cut():
    rows = make_rows(TOKENS, [4, 6], [1, 6])

    @objectives.averaged_over(lambda model, batch: len(batch))
    def of_rows(model, batch):
        logits = model(batch["input_ids"]).logits.flatten(0, 1)
        taught = nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="none").view(len(batch), -1)
        return (taught.sum(1) / (batch["labels"] != IGNORE).sum(1)).mean()

    lines = []
    for parts in (1, 2):
        torch.manual_seed(0)
        recipe = training.Settings(1, accumulate=parts, log_every=1)
        lines += training.fit(decoder(), ft.Examples(rows, 2, 0), recipe, of_rows, progress=False)
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-5)
    model = updating.MultiTaskClassifier(encoder(), [3, 3])
    examples = ft.Examples(make_rows("tasks", [3, 3], [1, 1]), 2, 0)
    with pytest.raises(ValueError, match="surgery_loss is no mean"):
        training.fit(model, examples, training.Settings(1, accumulate=2), updating.surgery_loss, progress=False)


def test_a_step_without_labels_counts_nothing_in_the_log():
    taught, silent = make_rows(TOKENS, [4, 4], [3, 0])

    def batch_at(step):
        return ft.collate([taught if step == 0 else silent], pad=0)

    def logged(steps):
        torch.manual_seed(0)
        recipe = training.Settings(steps, learning_rate=1e-9, log_every=steps)
        return training.fit(decoder(), batch_at, recipe, instructions.labelled_loss, progress=False)[-1]["loss"]

    assert logged(3) == pytest.approx(logged(1), rel=1e-5)


PROCESS = """
import os, sys, torch, torch.distributed as dist
from llmbook import finetuning as ft, objectives, parallel
from llmbook.finetuning import instructions
from llmbook.transformer import Decoder, TransformerConfig
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
rank = dist.get_rank()
rows = [{"input_ids": [1, 2, 3, 4], "labels": [-100, -100, -100, 4]}]
rows += [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}]
for silent in (False, True):
    if silent:
        rows[0]["labels"] = [-100] * 4
    def gradient(model, batch, factor):
        (instructions.labelled_loss(model, batch) * factor).backward()
    def fresh():
        torch.manual_seed(0)
        return Decoder(TransformerConfig(30, d_model=8, num_layers=1, num_heads=2))
    alone, shared = fresh(), fresh()
    gradient(alone, ft.collate(rows, 0), 1.0)
    mine = ft.collate(rows[rank : rank + 1], 0)
    count = objectives.count_averaged(instructions.labelled_loss, shared, mine)
    gradient(shared, mine, parallel.loss_factor(count))
    parallel.average_gradients(shared)
    for p, q in zip(alone.parameters(), shared.parameters()):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-4)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_with_different_numbers_of_labels_have_the_gradient_of_one(tmp_path):
    line = [sys.executable, "-c", PROCESS, str(tmp_path / "meeting")]
    runs = [subprocess.Popen([*line, str(rank)], env=dict(os.environ), stderr=subprocess.PIPE) for rank in (0, 1)]
    errors = [run.communicate(timeout=120)[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
