"""Kappa and alpha against scikit-learn and nltk, on generated ratings and where they are undefined."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nltk.metrics.agreement import AnnotationTask
from nltk.metrics.distance import interval_distance
from sklearn.metrics import cohen_kappa_score

from llmbook.evaluation.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, observed_agreement

NAMES = {"nominal": None, "linear": "linear", "quadratic": "quadratic"}


@st.composite
def tables(draw, missing=False, raters=None):
    """Ratings (items, raters) from 1 to 5, with gaps if so asked."""
    items, raters = draw(st.integers(2, 15)), raters or draw(st.integers(2, 5))
    value = st.integers(1, 5) | st.none() if missing else st.integers(1, 5)
    return [[draw(value) for _ in range(raters)] for _ in range(items)]


def triples(rows):
    """The form that nltk reads."""
    return [
        (f"rater {r}", f"item {i}", value)
        for i, row in enumerate(rows)
        for r, value in enumerate(row)
        if value is not None
    ]


def usable(rows):
    """At least two different labels among the ratings that have a partner."""
    rows = [[value for value in row if value is not None] for row in rows]
    return len({value for row in rows if len(row) > 1 for value in row}) > 1


@settings(max_examples=150, deadline=None)
@given(tables(raters=2), st.sampled_from(sorted(NAMES)))
def test_cohens_kappa_is_scikit_learns(rows, weights):
    first, second = zip(*rows, strict=True)
    assume(len({*first, *second}) > 1 and not (len(set(first)) == len(set(second)) == 1 and first == second))
    wanted = cohen_kappa_score(first, second, weights=NAMES[weights])
    assert math.isclose(cohen_kappa(first, second, weights), wanted, abs_tol=1e-12)


def test_weighted_kappa_counts_labels_that_nobody_used_as_steps_of_the_scale():
    first, second = [1, 1, 5, 5, 1], [1, 5, 5, 1, 1]
    wanted = cohen_kappa_score(first, second, labels=[1, 2, 3, 4, 5], weights="linear")
    assert math.isclose(cohen_kappa(first, second, "linear", labels=[1, 2, 3, 4, 5]), wanted)


@settings(max_examples=100, deadline=None)
@given(tables())
def test_fleiss_kappa_is_nltks_multi_pi(rows):
    assume(usable(rows))
    assert math.isclose(fleiss_kappa(rows), AnnotationTask(triples(rows)).pi(), abs_tol=1e-9)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(tables(missing=True), st.sampled_from(["nominal", "interval"]))
def test_alpha_is_nltks_with_gaps_and_without(rows, level):
    assume(usable(rows))
    task = AnnotationTask(triples(rows))
    if level == "interval":
        task = AnnotationTask(triples(rows), interval_distance)
    assert math.isclose(krippendorff_alpha(rows, level), task.alpha(), abs_tol=1e-9)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(tables(missing=True))
def test_ordinal_alpha_is_nltks_with_the_ordinal_distance(rows):
    assume(usable(rows))
    paired = [value for row in rows for value in row if value is not None and sum(v is not None for v in row) > 1]

    def distance(a, b):
        low, high = min(a, b), max(a, b)
        return (sum(low <= v <= high for v in paired) - (paired.count(a) + paired.count(b)) / 2) ** 2

    wanted = AnnotationTask(triples(rows), distance).alpha()
    assert math.isclose(krippendorff_alpha(rows, "ordinal"), wanted, abs_tol=1e-9)


@settings(max_examples=50, deadline=None)
@given(tables(missing=True), st.randoms(use_true_random=False))
def test_alpha_does_not_depend_on_the_order_of_raters_and_items_nor_on_ratings_without_a_partner(rows, random):
    assume(usable(rows))
    shuffled = [random.sample(row, len(row)) for row in random.sample(rows, len(rows))]
    shuffled.append([3] + [None] * (len(rows[0]) - 1))
    for level in ("nominal", "ordinal", "interval"):
        assert math.isclose(krippendorff_alpha(shuffled, level), krippendorff_alpha(rows, level), abs_tol=1e-9)


def test_alpha_of_krippendorffs_own_example():
    # "Computing Krippendorff's Alpha-Reliability" (2011), the data of section C: four observers, twelve units
    observers = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    rows = list(zip(*([None if v == "." else int(v) for v in line.split()] for line in observers), strict=True))
    found = [krippendorff_alpha(rows, level) for level in ("nominal", "ordinal", "interval")]
    assert np.allclose(found, [0.743, 0.815, 0.849], atol=6e-4)


def test_nan_and_none_are_both_missing():
    rows = [[1, 2, None], [2, 2, 1], [3, None, 3]]
    as_array = np.array(rows, dtype=float)
    assert krippendorff_alpha(as_array, "interval") == krippendorff_alpha(rows, "interval")


def test_perfect_agreement_is_one_and_a_single_label_is_undefined():
    assert cohen_kappa("abc", "abc") == fleiss_kappa(["aa", "bb"]) == krippendorff_alpha(["aa", "bb"]) == 1
    assert math.isnan(cohen_kappa("aaa", "aaa")) and math.isnan(fleiss_kappa(["aa", "aa"]))
    assert math.isnan(krippendorff_alpha(["aa", "aa"]))


def test_high_raw_agreement_can_be_below_chance():
    first, second = [1] * 90 + [1] * 5 + [0] * 5, [1] * 90 + [0] * 5 + [1] * 5
    assert observed_agreement(first, second) == 0.9 and cohen_kappa(first, second) < 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cohen_kappa([1, 2], [1]), "2 ratings of the one rater, 1 of the other"),
        (lambda: cohen_kappa([], []), "at least one"),
        (lambda: cohen_kappa([1, None], [1, 1]), "first rater left items out"),
        (lambda: cohen_kappa([1], [2], "cubic"), "nominal, linear, quadratic"),
        (lambda: cohen_kappa([1], [2], labels=[1]), "label 2 is not among"),
        (lambda: fleiss_kappa([[1, 2], [1]]), "item 1 has 1 ratings"),
        (lambda: fleiss_kappa([[1, None]]), "item 0 lacks a rating"),
        (lambda: fleiss_kappa([[1], [2]]), "at least two"),
        (lambda: krippendorff_alpha([]), "no item"),
        (lambda: krippendorff_alpha([[1, None], [None, 2]]), "no item has two ratings"),
        (lambda: krippendorff_alpha(["ab", "aa"], "interval"), "takes numbers"),
        (lambda: krippendorff_alpha([[1, 2]], "ratio"), "nominal, ordinal, interval"),
    ],
)
def test_what_cannot_be_judged_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
