"""Strengths from comparisons of two: Elo, Bradley-Terry, ties, the first place's advantage, intervals (chapter 17).

A comparison is a row of :class:`Comparisons`: who was shown first, who second, and how it ended (1 the first was
preferred, 0 the second, 0.5 a tie). Strengths are in natural logits: a difference of ``d`` is a preference with the
probability ``sigmoid(d)``. Times ``400 / ln(10)``, about 174, they are on the scale of chess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import logsumexp
from scipy.stats import norm

from llmbook.metrics.checks import numbers

TIES = ("half", "davidson")
_FINITE = 15.0  # logits: on its way to infinity, where a float's rounding would stop it
#: Elo's points for one natural logit.
ELO_POINTS = 400 / math.log(10)


@dataclass(frozen=True)
class Comparisons:
    """Comparisons of two among ``num_players``, in the order in which they were made.

    Attributes:
        first: who was shown first, ``(comparisons,)``, whole numbers from 0 to ``num_players - 1``.
        second: who was shown second, ``(comparisons,)``.
        outcome: 1 where the first was preferred, 0 the second, 0.5 for a tie, ``(comparisons,)``.
        num_players: how many there are.
    """

    first: np.ndarray
    second: np.ndarray
    outcome: np.ndarray
    num_players: int

    def __post_init__(self) -> None:
        """Make arrays of what was given, and refuse what is no comparison."""
        for name, kind in (("first", np.int64), ("second", np.int64), ("outcome", np.float64)):
            values = numbers(name, getattr(self, name)).reshape(-1)
            if kind is np.int64 and (odd := np.flatnonzero(values != np.floor(values))).size:
                raise ValueError(f"{name}[{odd[0]}] is {values[odd[0]]:g}: players are whole numbers from 0 up")
            object.__setattr__(self, name, values.astype(kind))
        sizes = {len(self.first), len(self.second), len(self.outcome)}
        if sizes == {0} or len(sizes) > 1:
            raise ValueError(
                f"{len(self.first)} first, {len(self.second)} second, {len(self.outcome)} outcomes: give one of each "
                "for every comparison, at least one"
            )
        players = np.concatenate([self.first, self.second])
        if players.min() < 0 or players.max() >= self.num_players:
            raise ValueError(
                f"players run from {players.min()} to {players.max()}, num_players={self.num_players}: number them "
                f"from 0 to {self.num_players - 1}"
            )
        if (same := np.flatnonzero(self.first == self.second)).size:
            raise ValueError(f"comparison {same[0]} is of player {self.first[same[0]]} with itself: leave it out")
        if (odd := np.flatnonzero(~np.isin(self.outcome, (0, 0.5, 1)))).size:
            raise ValueError(f"outcome {self.outcome[odd[0]]} of comparison {odd[0]}: it takes 0, 0.5 (a tie) or 1")

    def __len__(self) -> int:
        """Return the number of comparisons."""
        return len(self.first)

    def take(self, rows: ArrayLike) -> Comparisons:
        """Return some of the comparisons, in the order of ``rows``."""
        rows = np.asarray(rows)
        return Comparisons(self.first[rows], self.second[rows], self.outcome[rows], self.num_players)


def simulate(
    strengths: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    rng: np.random.Generator,
    position_bias: float = 0.0,
    tie: float = 0.0,
) -> Comparisons:
    """Return what judges say who follow the model: Davidson's with an advantage of the first place.

    ``P(first) : P(tie) : P(second)`` is ``e^a : tie * sqrt(e^a e^b) : e^b``, where ``a`` is the strength of the first
    plus ``position_bias`` and ``b`` that of the second (Davidson 1970, doi:10.1080/01621459.1970.10481082).

    Args:
        strengths: in logits, ``(players,)``.
        first: who is shown first, ``(comparisons,)``.
        second: who is shown second, ``(comparisons,)``.
        rng: the source of randomness.
        position_bias: logits that the first place is worth.
        tie: 0 for judges who never call a tie; with 1, equals tie in a third of the cases.
    """
    if not tie >= 0:
        raise ValueError(f"tie={tie}: it takes a number from 0 up")
    values, first, second = numbers("strengths", strengths), np.asarray(first), np.asarray(second)
    a, b = values[first] + position_bias, values[second]  # (comparisons,)
    scores = np.stack([b, (a + b) / 2 + (math.log(tie) if tie else -math.inf), a])  # (3, comparisons)
    chances = np.exp(scores - logsumexp(scores, axis=0)).cumsum(0)
    drawn = (rng.random(len(first)) > chances[:2]).sum(0)  # 0, 1 or 2
    return Comparisons(first, second, drawn / 2, len(values))


def elo(games: Comparisons, k: float = 16.0, start: float = 0.0) -> np.ndarray:
    """Return Elo's ratings after all comparisons, one after the other, ``(players,)``, in points of chess.

    After each comparison the first gets ``k * (outcome - expected)`` and the second loses as much, with ``expected = 1
    / (1 + 10 ** ((second - first) / 400))``. The result depends on the order of the comparisons, and goes on wandering
    however many there are.

    Args:
        games: the comparisons, in order.
        k: the largest step.
        start: everybody's first rating.
    """
    if not k > 0:
        raise ValueError(f"k={k}: it takes a number above 0")
    ratings = [start] * games.num_players
    for i, j, outcome in zip(games.first.tolist(), games.second.tolist(), games.outcome.tolist(), strict=True):
        step = k * (outcome - 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400)))
        ratings[i] += step
        ratings[j] -= step
    return np.array(ratings)


@dataclass(frozen=True)
class Fit:
    """What :func:`bradley_terry` found.

    Attributes:
        strengths: in logits, ``(players,)``, their mean 0.
        position_bias: logits that the first place is worth; 0 where it was not asked for.
        tie: Davidson's parameter; 0 where ties were halved.
        log_likelihood: of the comparisons, in nats (without the prior).
    """

    strengths: np.ndarray
    position_bias: float
    tie: float
    log_likelihood: float

    def preference(self, first: int, second: int) -> float:
        """Return the probability that the one is preferred to the other, ties and position aside."""
        return float(1 / (1 + np.exp(self.strengths[second] - self.strengths[first])))


def bradley_terry(games: Comparisons, ties: str = "half", position: bool = False, prior: float = 0.0) -> Fit:
    """Return the strengths under which the comparisons are most probable (Bradley and Terry 1952).

    The model (doi:10.1093/biomet/39.3-4.324) says ``P(i is preferred to j) = sigmoid(s_i - s_j)``. It is a logistic
    regression, its likelihood is concave, and Newton's method finds the maximum in a few steps.

    Args:
        games: the comparisons; their order does not matter.
        ties: ``half`` counts a tie as half a preference for each; ``davidson`` gives ties a probability of their own,
            see :func:`simulate`.
        position: whether to estimate what the first place is worth.
        prior: subtracts ``prior / 2 * sum(s ** 2)`` from the log-likelihood (a normal prior with variance ``1 /
            prior``); 0 is maximum likelihood.

    Raises:
        ValueError: an unknown kind of ties, a negative prior, or comparisons without one finite maximum: some players
            were preferred to all others whenever they met, or two groups never met (Ford 1957), or the first place or
            ties explain every outcome.
    """
    if ties not in TIES:
        raise ValueError(f"ties={ties!r}: it takes one of {', '.join(TIES)}")
    if prior < 0:
        raise ValueError(f"prior={prior}: it takes a number from 0 up")
    return _fit(*_cells(games), games.num_players, ties, position, prior)


def _cells(games: Comparisons) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs in order ``(pairs, 2)`` and how often each ended in second, tie, first ``(pairs, 3)``."""
    codes, place = np.unique(games.first * games.num_players + games.second, return_inverse=True)
    counts = np.zeros((len(codes), 3))
    np.add.at(counts, (place, (2 * games.outcome).astype(int)), 1)
    return np.stack([codes // games.num_players, codes % games.num_players], axis=1), counts


def _fit(pairs: np.ndarray, counts: np.ndarray, players: int, ties: str, position: bool, prior: float) -> Fit:
    tied = ties == "davidson" and bool(counts[:, 1].any())
    if not tied:  # a tie is half a preference for each
        counts = np.stack([counts[:, 0] + counts[:, 1] / 2, np.zeros(len(counts)), counts[:, 2] + counts[:, 1] / 2], 1)
    if not prior:
        _check_connected(pairs, counts, players)
    size = players + position + tied
    features = np.zeros((len(pairs), 3, size))  # (pairs, outcomes, parameters): the outcomes' scores are linear
    rows = np.arange(len(pairs))
    features[rows, 0, pairs[:, 1]] = features[rows, 2, pairs[:, 0]] = 1
    features[rows, 1, pairs[:, 0]] = features[rows, 1, pairs[:, 1]] = 0.5
    if position:
        features[:, 2, players], features[:, 1, players] = 1, 0.5
    if tied:
        features[:, 1, -1] = 1
    mask = np.array([0, 0 if tied else -math.inf, 0])
    total, penalty = counts.sum(1), np.where(np.arange(size) < players, prior, 0.0)

    def value(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scores = features @ parameters + mask  # (pairs, 3)
        log_probs = scores - logsumexp(scores, axis=1, keepdims=True)
        seen = np.where(counts > 0, counts * np.where(counts > 0, log_probs, 0), 0).sum()
        return float(seen), np.exp(log_probs)

    parameters = np.zeros(size)
    likelihood, chances = value(parameters)
    for _ in range(100):
        gradient = np.einsum("po,pos->s", counts - total[:, None] * chances, features) - penalty * parameters
        mean = np.einsum("po,pos->ps", chances, features)  # (pairs, parameters)
        hessian = np.einsum("p,po,pos,pot->st", total, chances, features, features)
        hessian += np.diag(penalty) - np.einsum("p,ps,pt->st", total, mean, mean)
        # a common shift of all strengths changes nothing: one direction is flat, and the shortest step leaves it out
        step, _, rank, _ = np.linalg.lstsq(hessian, gradient, rcond=1e-12)
        if rank < size - (prior == 0) or np.abs(parameters).max() > _FINITE:
            raise ValueError(
                "the likelihood has no single finite maximum: position or ties explain every outcome, or each pair was "
                "shown in one order only; drop position=True or ties='davidson', add comparisons, or give a prior such "
                "as 0.1"
            )
        if np.abs(gradient).max() < 1e-9 * max(1.0, total.sum()):
            break
        target = likelihood - (penalty * parameters**2).sum() / 2
        scale = 1.0
        while scale > 1e-6:
            trial = parameters + scale * step
            likelihood, chances = value(trial)
            if likelihood - (penalty * trial**2).sum() / 2 >= target - 1e-12 * abs(target):
                break
            scale /= 2
        parameters = trial
    strengths = parameters[:players] - parameters[:players].mean()
    bias = float(parameters[players]) if position else 0.0
    return Fit(strengths, bias, float(np.exp(parameters[-1])) if tied else 0.0, likelihood)


def _check_connected(pairs: np.ndarray, counts: np.ndarray, players: int) -> None:
    won, lost = counts[:, 2] > 0, counts[:, 0] > 0
    winner = np.concatenate([pairs[won, 0], pairs[lost, 1]])
    loser = np.concatenate([pairs[won, 1], pairs[lost, 0]])
    graph = coo_array((np.ones(len(winner)), (winner, loser)), shape=(players, players))
    groups, of = connected_components(graph, directed=True, connection="strong")
    if groups > 1:
        small = np.flatnonzero(of == np.bincount(of).argmin())
        raise ValueError(
            f"the likelihood has no finite maximum: players {small[:5].tolist()} were always, or never, preferred to "
            "the others, or never met them; add comparisons, leave them out, or give a prior such as 0.1"
        )


def bootstrap_fits(
    games: Comparisons,
    resamples: int = 200,
    seed: int = 0,
    ties: str = "half",
    position: bool = False,
    prior: float = 0.0,
) -> list[Fit]:
    """Return a fit for each resample of the comparisons, drawn with replacement.

    Args:
        games: the comparisons.
        resamples: how many.
        seed: of the draws.
        ties: see :func:`bradley_terry`, as for ``position`` and ``prior``.
        position: whether to estimate what the first place is worth.
        prior: keeps a resample finite in which a player lost every time.
    """
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: it takes a whole number from 1 up")
    pairs, counts = _cells(games)
    rng = np.random.default_rng(seed)
    shares = counts.reshape(-1) / counts.sum()
    drawn = rng.multinomial(len(games), shares, size=resamples).reshape(resamples, *counts.shape)
    found = []
    for number, table in enumerate(drawn):
        kept = table.sum(1) > 0
        try:
            found.append(_fit(pairs[kept], table[kept].astype(float), games.num_players, ties, position, prior))
        except ValueError as error:
            raise ValueError(f"resample {number} of the comparisons: {error}") from error
    return found


def intervals(fits: Sequence[Fit], level: float = 0.95) -> np.ndarray:
    """Return percentile intervals of the strengths from :func:`bootstrap`, ``(players, 2)``, lower and upper."""
    if not 0 < level < 1:
        raise ValueError(f"level={level}: it takes a share between 0 and 1")
    strengths = np.stack([fit.strengths for fit in fits])  # (resamples, players)
    return np.quantile(strengths, [(1 - level) / 2, (1 + level) / 2], axis=0).T


def both_orders(shown: ArrayLike, swapped: ArrayLike) -> np.ndarray:
    """Return one verdict from two in which the same pair was shown in both orders: 1, 0, or 0.5 where they conflict.

    Args:
        shown: outcomes with the first of the pair in the first place, ``(pairs,)``.
        swapped: outcomes with it in the second place, from the view of whoever was shown first, ``(pairs,)``.
    """
    one, other = numbers("shown", shown), 1 - numbers("swapped", swapped)
    if one.shape != other.shape:
        raise ValueError(f"{one.shape} outcomes and {other.shape} with the order swapped: give one of each for a pair")
    mean = (one + other) / 2
    return np.where(mean > 0.5, 1.0, np.where(mean < 0.5, 0.0, 0.5))


def judgements_needed(preference: float, power: float = 0.8, level: float = 0.05) -> int:
    """Return how many comparisons of two systems show that one is preferred, by a two-sided test against one half.

    ``((z_level sqrt(1/4) + z_power sqrt(p(1 - p))) / (p - 1/2)) ** 2``, the normal approximation, rounded up.

    Args:
        preference: share of comparisons that the better one wins, other than 0.5.
        power: chance of finding the difference.
        level: chance of finding one where there is none.
    """
    if not 0 < preference < 1 or preference == 0.5:
        raise ValueError(f"preference={preference}: it takes a share between 0 and 1, other than 0.5")
    if not (0 < power < 1 and 0 < level < 1):
        raise ValueError(f"power={power}, level={level}: both take a share between 0 and 1")
    spread = norm.isf(level / 2) / 2 + norm.ppf(power) * math.sqrt(preference * (1 - preference))
    return math.ceil((spread / (preference - 0.5)) ** 2)
