"""What is missing or broken among predictions and ratings: refused with its place, or taken by its value."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from llmbook import metrics
from llmbook.evaluation import agreement, ratings

NAN = float("nan")


def one_vector(texts):
    return [(["word"], [[1.0, 0.0]]) for _ in texts]


OF_TEXTS = {
    "bleu": metrics.bleu,
    "chrf": metrics.chrf,
    "meteor": metrics.meteor,
    "rouge": metrics.rouge,
    "exact match": metrics.exact_match,
    "answer F1": metrics.answer_f1,
    "words": metrics.word_error_rate,
    "characters": metrics.character_error_rate,
    "embeddings": lambda p, r: metrics.embedding_score(p, r, one_vector),
}
OF_LABELS = {
    "accuracy": metrics.accuracy,
    "F1": metrics.precision_recall_f1,
    "confusion": lambda p, r: metrics.confusion(p, r)[1].tolist(),
    "edit distance": metrics.edit_distance,
    "alignment": metrics.align,
    "observed": agreement.observed_agreement,
    "Cohen": agreement.cohen_kappa,
}
OF_NUMBERS = {
    "perplexity": metrics.perplexity,
    "bits": lambda values: metrics.bits_per_byte(values, 3),
    "vectors": lambda values: metrics.greedy_matching([list(values)], [[1.0, 2.0, 3.0]]),
    "both orders": lambda values: ratings.both_orders(values, [1, 0, 1]).tolist(),
    "outcomes": lambda values: ratings.Comparisons([0, 1, 0], [1, 0, 1], values, 2).outcome.tolist(),
    "strengths": lambda values: ratings.simulate(values, [0], [1], np.random.default_rng(0)).outcome.tolist(),
}


@pytest.mark.parametrize("gap", [None, NAN, np.float64("nan"), pd.NA, pd.NaT, 3, torch.tensor(1), b"a"], ids=repr)
@pytest.mark.parametrize("metric", OF_TEXTS.values(), ids=OF_TEXTS)
def test_what_is_no_text_is_named_with_its_place(metric, gap):
    with pytest.raises(ValueError, match=r"predictions\[1\] is .*no text"):
        metric(["a", gap], ["a", "b"])
    with pytest.raises(ValueError, match=r"references\[1\] is .*no text"):
        metric(["a", "b"], ["a", gap])


@pytest.mark.parametrize("name", ["bleu", "chrf", "meteor", "rouge", "exact match", "answer F1"])
def test_a_gap_among_several_references_is_named_with_both_places(name):
    with pytest.raises(ValueError, match=r"references\[1\]\[2\] is None, no text"):
        OF_TEXTS[name](["a", "b"], [["a"], ["b", "c", None]])


@pytest.mark.parametrize("metric", OF_TEXTS.values(), ids=OF_TEXTS)
def test_texts_come_in_any_column(metric):
    given, right = ["a cat", "two dogs"], ["a cat", "two big dogs"]
    for column in (tuple, np.array, pd.Series, iter, lambda texts: (text for text in texts)):
        assert metric(column(given), column(right)) == metric(given, right)


@pytest.mark.parametrize("gap", [None, NAN, np.float64("nan"), pd.NA, pd.NaT, torch.tensor(NAN)], ids=repr)
@pytest.mark.parametrize("metric", OF_LABELS.values(), ids=OF_LABELS)
def test_a_missing_label_is_named_with_its_place(metric, gap):
    for given, right in (([0, 1, gap], [0, 1, 1]), ([0, 1, 1], [0, 1, gap])):
        with pytest.raises(ValueError, match=r"\w+\[2\] is (None|nan|<NA>|NaT)"):
            metric(given, right)


@pytest.mark.parametrize("metric", OF_LABELS.values(), ids=OF_LABELS)
def test_labels_are_compared_by_value_in_any_column(metric):
    given, right = [0, 2, 1, 2, 1, 0], [0, 1, 1, 2, 2, 0]
    wanted = metric(given, right)
    for column in (
        np.array,
        torch.tensor,
        pd.Series,
        tuple,
        iter,
        lambda labels: [torch.tensor(label) for label in labels],
        lambda labels: [np.int64(label) for label in labels],
        lambda labels: pd.array(labels, dtype="Int64"),
        lambda labels: [float(label) for label in labels],
    ):
        assert metric(column(given), column(right)) == wanted
        assert metric(column(given), right) == wanted
    with pytest.raises(ValueError, match="single value"):
        metric(torch.tensor(1), torch.tensor(1))


@pytest.mark.parametrize("gap", [None, NAN, pd.NA, pd.NaT, torch.tensor(NAN), "a"], ids=repr)
@pytest.mark.parametrize("metric", OF_NUMBERS.values(), ids=OF_NUMBERS)
def test_a_missing_number_is_named_with_its_place(metric, gap):
    with pytest.raises(ValueError, match=r"\w+\[(0\]\[|0, )?1\] is "):
        metric([0.0, gap, 1.0])


@pytest.mark.parametrize("metric", OF_NUMBERS.values(), ids=OF_NUMBERS)
def test_numbers_come_in_any_column(metric):
    values = [1.0, 0.0, 1.0]
    for column in (
        np.array,
        pd.Series,
        lambda given: torch.tensor(given, requires_grad=True),
        lambda given: torch.tensor(given, dtype=torch.bfloat16),
        lambda given: [torch.tensor(value, requires_grad=True) for value in given],
        lambda given: [np.float32(value) for value in given],
        lambda given: (value for value in given),
    ):
        assert metric(column(values)) == metric(values)


def test_ratings_may_be_missing_where_a_coefficient_allows_it():
    rows = [[1, 2, None], [2, 2, 1], [3, None, 3]]
    wanted = agreement.krippendorff_alpha(rows)
    frame = pd.DataFrame(
        {name: pd.array(column, dtype="Int64") for name, column in zip("abc", zip(*rows, strict=True), strict=True)}
    )
    tensors = [[torch.tensor(NAN if value is None else float(value)) for value in row] for row in rows]
    for given in (frame, frame.to_numpy(), frame.to_numpy().tolist(), tensors, np.array(rows, dtype=float)):
        assert agreement.krippendorff_alpha(given) == wanted
        with pytest.raises(ValueError, match="item 0 lacks a rating"):
            agreement.fleiss_kappa(given)
    whole = [[1, 2, 2], [2, 2, 1], [3, 1, 3]]
    for given in (torch.tensor(whole), [[torch.tensor(value) for value in row] for row in whole], pd.DataFrame(whole)):
        assert agreement.fleiss_kappa(given) == agreement.fleiss_kappa(whole)
        assert agreement.krippendorff_alpha(given) == agreement.krippendorff_alpha(whole)


def test_players_are_whole_numbers_and_none_is_missing():
    for gap, says in ((NAN, "None or NaN"), (None, "None or NaN"), (0.5, "whole numbers")):
        with pytest.raises(ValueError, match=rf"second\[1\] is .*{says}"):
            ratings.Comparisons([0, 0], [1, gap], [1, 1], 2)
    with pytest.raises(ValueError, match="tie=nan"):
        ratings.simulate([0, 0], [0], [1], np.random.default_rng(0), tie=math.nan)


def test_certainty_of_the_wrong_token_is_infinite_and_not_missing():
    assert metrics.perplexity([0.0, -math.inf]) == metrics.bits_per_byte([-math.inf], 1) == math.inf
