"""Perturbations keep what they must, behavioural tests count what they say, triggers fool a small classifier."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.evaluation import robustness
from llmbook.finetuning import Examples, SequenceClassifier, collate, loss
from llmbook.training import Settings, fit
from llmbook.transformer import Encoder, TransformerConfig

VOCAB, PAD = 40, 1


def generator(seed=0):
    return np.random.default_rng(seed)


@settings(max_examples=80, deadline=None)
@given(st.text(), st.integers(0, 5))
def test_no_rate_changes_nothing_and_a_seed_always_the_same(text, seed):
    assert robustness.typos(text, generator(seed), 0) == robustness.paraphrase(text, generator(seed), 0) == text
    for change in (robustness.typos, robustness.paraphrase):
        assert change(text, generator(seed), 0.5) == change(text, generator(seed), 0.5)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("abcdefghijklmnop", min_size=1, max_size=9), min_size=1, max_size=12), st.integers(0, 99))
def test_a_typo_is_one_slip_in_a_long_word(words, seed):
    changed = robustness.typos(" ".join(words), generator(seed), 1.0).split(" ")
    assert len(changed) == len(words)
    for before, after in zip(words, changed, strict=True):
        assert after[0] == before[0] and abs(len(after) - len(before)) <= 1
        if len(before) < 4:
            assert after == before


def test_about_so_many_words_get_a_typo():
    text = " ".join(["parameter"] * 4000)
    share = np.mean([w != "parameter" for w in robustness.typos(text, generator(), 0.3).split()])
    assert 0.25 < share < 0.35


def test_a_paraphrase_exchanges_phrases_and_keeps_capitals():
    text = "Returns whether the sum is read-only. The count must be used."
    found = {robustness.paraphrase(text, generator(seed)) for seed in range(20)}
    assert all(f.startswith(("Gives back if", "Hands back if")) and "read-only" in f for f in found)
    assert {"has to be employed" in f or "should be employed" in f for f in found} == {True}
    assert robustness.paraphrase("Nothing here.", generator()) == "Nothing here."


def test_a_distractor_stands_where_it_was_asked_for():
    assert robustness.add_distractor("a", "b") == "a\n\nb" and robustness.add_distractor("a", "b", "begin") == "b\n\na"


def test_behavioural_tests_count_failures():
    labels = np.array([0, 1, 2, 2])
    assert robustness.minimum_functionality("easy", labels, [0, 1, 1, 1]).rate == 0.5
    assert robustness.invariance("typos", labels, labels).failed.sum() == 0
    scores = robustness.directional("more evidence", [0.1, 0.5, 0.5], [0.2, 0.45, 0.2], 1, tolerance=0.1)
    assert scores.failed.tolist() == [False, False, True]
    assert robustness.directional("less", [0.1, 0.5], [0.2, 0.4], -1).failed.tolist() == [True, False]
    row = scores.row()
    assert row["cases"] == 3 and row["from"] < row["failed"] < row["to"] and row["kind"] in robustness.KINDS


@pytest.fixture(scope="module")
def classifier():
    """It has learned that texts with token 7 are of class 1 and all others of class 0."""
    torch.manual_seed(0)
    draw = generator(1)
    rows = []
    for number in range(400):
        ids = [3, *draw.integers(8, VOCAB, 6).tolist()]
        if number % 2:
            ids[int(draw.integers(1, 7))] = 7
        rows.append({"input_ids": ids, "labels": number % 2})
    shape = TransformerConfig.bert(VOCAB, d_model=16, num_layers=1, num_heads=2, max_length=32)
    model = SequenceClassifier(Encoder(shape), 2)
    fit(model, Examples(rows, 32, PAD), Settings(150, learning_rate=5e-3), loss_of=loss, progress=False)
    return model.eval(), rows


def test_the_triggers_gradient_is_autograds_through_the_table(classifier):
    model, rows = classifier
    batch = collate(robustness.with_trigger(rows[:8], [9, 10]), PAD)
    found = robustness.trigger_gradient(model, batch, 1, 2)
    table = model.backbone.embeddings
    states = table(batch["input_ids"]).detach().requires_grad_()
    handle = table.register_forward_hook(lambda *_: states)
    model(**batch).loss.backward()
    handle.remove()
    model.zero_grad()
    assert torch.allclose(found, states.grad[:, 1:3].sum(0), atol=1e-7)


def test_hotflip_orders_tokens_by_the_first_order_change():
    gradient, table = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0], [-2.0, 0.0], [-1.0, 1.0], [3.0, 0.0]])
    assert robustness.hotflip(gradient, table, 2).tolist() == [[1, 2]]
    allowed = torch.tensor([True, False, True, True])
    assert robustness.hotflip(gradient, table, 2, allowed).tolist() == [[2, 0]]


def test_a_trigger_is_found_and_beats_tokens_at_random(classifier):
    model, rows = classifier
    negatives = [row for row in rows[200:] if row["labels"] == 0]

    def turned(trigger):
        batch = collate(robustness.with_trigger(negatives, trigger), PAD)
        return float((model(**batch).logits.argmax(-1) == 1).float().mean())

    found = robustness.universal_trigger(model, rows[:200], PAD, length=2, target=1, steps=2, seed=0)
    assert 7 in found.ids and turned(found.ids) > 0.9
    assert np.mean([turned(generator(seed).integers(8, VOCAB, 2).tolist()) for seed in range(5)]) < 0.3
    assert found.losses == sorted(found.losses[: 2 * 8], reverse=True) + found.losses[2 * 8 :]
    again = robustness.universal_trigger(model, rows[:200], PAD, length=2, target=1, steps=2, seed=0)
    assert again == found


def test_an_attacker_keeps_to_the_tokens_allowed(classifier):
    model, rows = classifier
    allowed = torch.zeros(VOCAB, dtype=torch.bool)
    allowed[20:30] = True
    found = robustness.universal_trigger(model, rows, PAD, length=2, allowed=allowed)
    assert all(20 <= token < 30 for token in found.ids)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: robustness.typos("a", generator(), 1.5), "from 0 to 1"),
        (lambda m: robustness.paraphrase("a", generator(), -1), "from 0 to 1"),
        (lambda m: robustness.add_distractor("a", "b", "middle"), "begin, end"),
        (lambda m: robustness.add_distractor("a", " "), "is empty"),
        (lambda m: robustness.invariance("x", [1], [1, 2]), "one number for each case"),
        (lambda m: robustness.invariance("x", [], []), "one number for each case"),
        (lambda m: robustness.directional("x", [1], [1], 2), "1 or -1"),
        (lambda m: robustness.with_trigger([{"input_ids": [3]}], [4], at=2), "row 0 has fewer"),
        (lambda m: robustness.universal_trigger(m, [{"input_ids": [3, 4], "labels": 1}], PAD, target=1), "no row has"),
        (lambda m: robustness.universal_trigger(m, [], PAD, target=2), "labels 0 to 1"),
        (lambda m: robustness.universal_trigger(m, [], PAD, length=0), "from 1 up"),
        (lambda m: robustness.hotflip(torch.ones(1, 2), torch.ones(4, 2), 2, torch.arange(4) < 1), "allow more"),
    ],
)
def test_what_cannot_be_done_is_said(classifier, call, words):
    with pytest.raises(ValueError, match=words):
        call(classifier[0])
