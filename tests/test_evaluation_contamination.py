"""Finding leaks: n-grams of the training text, and probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import roc_auc_score

from llmbook.evaluation import contamination
from llmbook.transformer import Decoder, TransformerConfig

TEXT = "Return the sum of the elements over a given axis, and keep the dimensions."


def test_reformatting_hides_nothing():
    index = contamination.NgramIndex(["Something before. " + TEXT + " Something after."], order=5)
    assert index.overlap(TEXT.upper().replace(",", " --").replace(" ", "\n")) == 1
    assert index.overlap("An entirely different sentence about plots, figures and their labels.") == 0


def test_half_of_a_text_overlaps_by_about_half():
    words = [f"w{k}" for k in range(40)]
    index = contamination.NgramIndex([" ".join(words[:20])], order=3)
    assert index.overlap(" ".join(words)) == pytest.approx(18 / 38)


def test_a_text_too_short_to_tell_is_no_number():
    assert np.isnan(contamination.NgramIndex([TEXT], order=8).overlap("the sum"))


@given(st.lists(st.text("ab ", max_size=20), max_size=5), st.text("ab ", max_size=20), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_overlap_is_a_share_and_whole_for_what_was_indexed(texts, text, order):
    share = contamination.NgramIndex([*texts, text], order).overlap(text)
    assert np.isnan(share) or share == 1


def test_statistics_of_tokens_are_those_of_the_whole_distribution():
    torch.manual_seed(0)
    model = Decoder(TransformerConfig(50, d_model=16, num_layers=1, num_heads=2)).eval()
    rows = [[3, 4, 5, 6], [7, 8]]
    found = contamination.token_statistics(model, rows)
    for row, (chosen, mean, spread) in zip(rows, found, strict=True):
        log_probs = model(torch.tensor([row])).logits[0, :-1].detach().log_softmax(-1)  # (time - 1, vocab)
        draws = torch.distributions.Categorical(logits=log_probs)
        assert_allclose(chosen, draws.log_prob(torch.tensor(row[1:])).numpy(), atol=1e-5)
        assert_allclose(mean, -draws.entropy().numpy(), atol=1e-5)
        assert (spread > 0).all()
        assert len(chosen) == len(row) - 1


def test_min_k_takes_the_least_probable():
    assert contamination.min_k([-1.0, -9.0, -2.0, -7.0, -3.0], 0.4) == -8
    assert contamination.min_k([-1.0, -9.0], 0.1) == -9
    assert contamination.min_k([-1.0, -9.0], 1) == -5


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_area_is_that_of_scikit_learn(seen, unseen):
    theirs = roc_auc_score([1] * len(seen) + [0] * len(unseen), seen + unseen)
    assert contamination.area_under_curve(seen, unseen) == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: contamination.NgramIndex([TEXT], 0), "order=0"),
        (lambda: contamination.NgramIndex(TEXT), "one text"),
        (lambda: contamination.min_k([]), "at least one"),
        (lambda: contamination.min_k([1.0], 0), "k=0"),
        (lambda: contamination.area_under_curve([], [1]), "at least one"),
        (lambda: contamination.token_statistics(None, [[1]]), "1 tokens"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
