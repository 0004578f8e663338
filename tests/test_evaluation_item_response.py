"""Item statistics and item response: known parameters come back, and bad tables are named."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.linear_model import LogisticRegression

from llmbook.evaluation import item_response as irt


def simulated(persons: int = 400, items: int = 30, guess: float = 0.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    theta, b, a = rng.normal(size=persons), rng.normal(size=items), rng.lognormal(0, 0.4, size=items)
    return theta, b, a, irt.simulate(theta, b, a, guess, seed=seed + 1)


def test_two_parameters_are_recovered_from_simulated_answers() -> None:
    theta, b, a, answers = simulated()
    found = irt.fit(answers, "2pl")
    assert np.corrcoef(found.difficulty, b)[0, 1] > 0.97
    assert np.corrcoef(found.discrimination, a)[0, 1] > 0.8
    assert np.corrcoef(found.ability, theta)[0, 1] > 0.9


def test_without_beliefs_an_item_that_nearly_all_solve_runs_away() -> None:
    _, _, a, answers = simulated()
    free, held = irt.fit(answers, prior=False), irt.fit(answers)
    assert free.log_likelihood > held.log_likelihood
    assert free.discrimination.max() > 10 * a.max() > held.discrimination.max()


def test_the_one_parameter_model_has_one_discrimination_and_recovers_difficulties() -> None:
    rng = np.random.default_rng(0)
    b = np.linspace(-2, 2, 20)
    answers = irt.simulate(rng.normal(size=600), b, 1.3)
    found = irt.fit(answers, "1pl", prior=False)
    assert len(set(found.discrimination.tolist())) == 1
    assert found.discrimination[0] == pytest.approx(1.3, abs=0.25)
    assert np.abs(found.difficulty - b).max() < 0.5


@pytest.mark.slow
def test_a_fit_is_at_least_as_likely_as_the_truth_and_as_a_simpler_model() -> None:
    _theta, b, a, answers = simulated(persons=200, items=12)
    two, one = irt.fit(answers, "2pl", prior=False), irt.fit(answers, "1pl", prior=False)
    assert two.log_likelihood >= one.log_likelihood - 1e-6
    truth = 0.0
    for row in answers:

        def joint(t: float, row: np.ndarray = row) -> float:
            p = irt.probability([t], b, a)[0]
            return float(np.prod(np.where(row == 1, p, 1 - p)) * stats.norm.pdf(t))

        truth += math.log(integrate.quad(joint, -6, 6)[0])
    assert two.log_likelihood > truth - 0.1


def test_the_marginal_likelihood_is_scipys_integral() -> None:
    _, _, _, answers = simulated(persons=30, items=8)
    found = irt.fit(answers, "2pl")
    total = 0.0
    for row in answers:

        def joint(t: float, row: np.ndarray = row) -> float:
            p = irt.probability([t], found.difficulty, found.discrimination)[0]
            return float(np.prod(np.where(row == 1, p, 1 - p)) * stats.norm.pdf(t))

        total += math.log(integrate.quad(joint, -8, 8)[0])
    assert found.log_likelihood == pytest.approx(total, rel=1e-3)


def test_with_abilities_known_items_are_logistic_regressions() -> None:
    theta, _b, _a, answers = simulated(persons=800, items=15)
    found = irt.fit(answers, "2pl")
    slopes = [LogisticRegression(C=1e6).fit(theta[:, None], x).coef_[0, 0] for x in answers.T]
    assert np.corrcoef(slopes, found.discrimination)[0, 1] > 0.8


def test_guessing_is_needed_where_there_was_guessing() -> None:
    rng = np.random.default_rng(0)
    b, a = np.linspace(-1.5, 1.5, 20), np.full(20, 1.5)
    answers = irt.simulate(rng.normal(size=600), b, a, guess=0.25, seed=1)
    right, wrong = irt.fit(answers, guess=0.25), irt.fit(answers)
    assert wrong.discrimination[b > 0.5].mean() < right.discrimination[b > 0.5].mean()


def test_information_is_the_squared_slope_over_the_variance() -> None:
    for guess in (0.0, 0.25):
        low, high, at = (irt.probability([0.3 + d], [0.1], [1.4], guess)[0, 0] for d in (-1e-5, 1e-5, 0.0))
        expected = ((high - low) / 2e-5) ** 2 / (at * (1 - at))
        assert irt.information([0.3], [0.1], [1.4], guess)[0, 0] == pytest.approx(expected, rel=1e-6)
    assert irt.information([0.0], [0.0], [2.0])[0, 0] == pytest.approx(1.0)


def test_classical_statistics_are_numpys_correlations() -> None:
    _, _, _, answers = simulated(persons=60, items=10)
    found = irt.item_statistics(answers)
    for item in range(10):
        rest = np.delete(answers, item, axis=1).sum(1)
        assert found.discrimination[item] == pytest.approx(np.corrcoef(answers[:, item], rest)[0, 1])
    assert found.easiness == pytest.approx(answers.mean(0))
    assert 0 < found.reliability < 1


def test_repeating_every_item_makes_a_test_more_reliable() -> None:
    _, _, _, answers = simulated(persons=100, items=8)
    assert irt.item_statistics(np.hstack([answers, answers])).reliability > irt.item_statistics(answers).reliability


def test_pruning_names_what_speaks_against_an_item() -> None:
    rng = np.random.default_rng(0)
    good = irt.simulate(np.linspace(-2, 2, 200), np.zeros(8), 2.0, seed=1)
    reversed_item = 1 - (np.linspace(-2, 2, 200) > rng.normal(size=200))
    table = np.column_stack([good, np.ones(200), np.zeros(200), reversed_item])
    reasons = irt.keep_items(table)
    assert reasons[:8] == [""] * 8
    assert reasons[8:] == ["everybody is right", "nobody is right", "the better models are wrong"]


def test_the_shortest_test_takes_the_most_informative_items_first() -> None:
    _, _, _, answers = simulated()
    found = irt.fit(answers)
    first = irt.shortest_test(found, [0.0], 5)
    told = irt.information([0.0], found.difficulty, found.discrimination)[0]
    assert told[first[0]] == told.max()
    assert len(set(first.tolist())) == 5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=6), st.floats(0, 0.5))
def test_probabilities_rise_with_ability_from_the_guess_to_one(difficulty: list[float], guess: float) -> None:
    p = irt.probability([-30.0, -1.0, 1.0, 30.0], difficulty, 1.0, guess)
    assert (np.diff(p, axis=0) >= 0).all()
    assert p[0] == pytest.approx(guess, abs=1e-6)
    assert p[-1] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[1, 1, 0], [1, 0, 1], [1, 1, 1]], "1 of 3 items are answered alike by all persons"),
        ([[1, 0], [1]], "different lengths"),
        ([1, 0, 1], "shape"),
        ([[1, 0]], "at least two"),
        ([[0.5, 1], [1, 0]], "other than 0 and 1"),
    ],
)
def test_bad_tables_are_refused(table: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        irt.fit(table)
    with pytest.raises(ValueError, match=message):
        irt.item_statistics(table)


def test_bad_arguments_are_refused() -> None:
    table = [[1, 0], [0, 1], [1, 1]]
    with pytest.raises(ValueError, match="1pl, 2pl"):
        irt.fit(table, "3pl")
    with pytest.raises(ValueError, match="guess=1"):
        irt.fit(table, guess=1.0)
    with pytest.raises(ValueError, match="2 difficulties and 3"):
        irt.probability([0.0], [0.0, 1.0], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="count=9"):
        irt.shortest_test(irt.fit(table), [0.0], 9)
