"""How hard is an item, and does it tell good models from bad: classical statistics and item response (chapter 18).

Responses are an array ``(persons, items)`` of 0 and 1; "persons" are models, raters or readers. The item response
models say ``P(right) = c + (1 - c) sigmoid(a (theta - b))`` with ability ``theta`` of a person, difficulty ``b`` and
discrimination ``a`` of an item, and ``c`` what a guess gives (Rasch 1960 with ``a = 1``, ``c = 0``; Birnbaum 1968).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]

KINDS = ("1pl", "2pl")
POINTS = 41  # of the grid over abilities
SPREAD = 0.5  # standard deviation of log a, and 2 of b: weak beliefs that keep a small table from running away


def check_responses(responses: ArrayLike, constant: bool = False) -> Array:
    """Return responses as an array, or say what is wrong with them.

    Args:
        responses: ``(persons, items)`` of 0 and 1.
        constant: allow items that all persons answer alike.

    Raises:
        ValueError: not two axes, fewer than two persons or items, values other than 0 and 1, an item that all persons
            answer alike.
    """
    try:
        table = np.asarray(responses, dtype=np.float64)
    except ValueError as error:
        raise ValueError("responses of different lengths: give every person an answer to every item") from error
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(f"responses of shape {table.shape}: (persons, items) with at least two of each")
    if not np.isin(table, (0, 1)).all():
        raise ValueError("responses other than 0 and 1: score each answer as right or wrong first")
    if not constant and len(same := np.flatnonzero(table.min(0) == table.max(0))):
        shown = ", ".join(map(str, same[:5])) + (", ..." if len(same) > 5 else "")
        raise ValueError(
            f"{len(same)} of {table.shape[1]} items are answered alike by all persons ({shown}): they do not tell "
            "persons apart; keep responses[:, varying(responses)]"
        )
    return table


def varying(responses: ArrayLike) -> NDArray[np.bool_]:
    """Return which items are not answered alike by all persons, ``(items,)``."""
    table = check_responses(responses, constant=True)
    return np.asarray(table.min(0) < table.max(0))


# --- classical --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemStatistics:
    """Classical statistics of a test.

    Attributes:
        easiness: share of the persons who are right, ``(items,)``.
        discrimination: correlation of an item with the number right among the *other* items, ``(items,)``.
        reliability: Cronbach's alpha, for items right or wrong Kuder and Richardson's formula 20: the share of the
            scores' variance that is not noise of the items, if all measure one thing.
    """

    easiness: Array
    discrimination: Array
    reliability: float


def item_statistics(responses: ArrayLike) -> ItemStatistics:
    """Return the classical statistics of a test.

    Raises:
        ValueError: see :func:`check_responses`, constant items among it.
    """
    table = check_responses(responses)
    rest = table.sum(1, keepdims=True) - table  # (persons, items)
    x, y = table - table.mean(0), rest - rest.mean(0)  # (persons, items)
    scale = np.sqrt((x**2).sum(0) * (y**2).sum(0))  # (items,)
    discrimination = np.divide((x * y).sum(0), scale, out=np.zeros(len(scale)), where=scale > 0)
    k, total = table.shape[1], table.sum(1).var()
    alpha = k / (k - 1) * (1 - table.var(0).sum() / total) if total > 0 else 0.0
    return ItemStatistics(table.mean(0), discrimination, float(alpha))


def keep_items(responses: ArrayLike, least: float = 0.1, easiness: tuple[float, float] = (0.05, 0.95)) -> list[str]:
    """Return for each item what speaks against it, an empty text for one that should stay.

    Args:
        responses: ``(persons, items)``; constant items are allowed here, and named.
        least: the smallest discrimination.
        easiness: the smallest and largest share of right answers.
    """
    table = check_responses(responses, constant=True)
    moves = varying(table)
    reasons = ["nobody is right" if share == 0 else "everybody is right" for share in table.mean(0)]
    if moves.sum() < 2:
        return [reason if not changes else "" for reason, changes in zip(reasons, moves, strict=True)]
    found = item_statistics(table[:, moves])
    for place, share, value in zip(np.flatnonzero(moves), found.easiness, found.discrimination, strict=True):
        reasons[place] = (
            "the better models are wrong" if value < 0
            else "hardly tells models apart" if value < least
            else "too hard" if share < easiness[0]
            else "too easy" if share > easiness[1]
            else ""
        )  # fmt: skip
    return reasons


# --- item response ----------------------------------------------------------------------------------------------------


def probability(
    ability: ArrayLike, difficulty: ArrayLike, discrimination: ArrayLike = 1.0, guess: float = 0.0
) -> Array:
    """Return the probability of a right answer, ``(persons, items)``, from ``(persons,)`` and ``(items,)``."""
    theta = np.asarray(ability, dtype=np.float64)[:, None]  # (persons, 1)
    b, a = np.asarray(difficulty, dtype=np.float64), np.asarray(discrimination, dtype=np.float64)
    if a.ndim and a.shape != b.shape:
        raise ValueError(f"{b.size} difficulties and {a.size} discriminations: one of each for every item")
    _check_guess(guess)
    return np.asarray(guess + (1 - guess) / (1 + np.exp(-a * (theta - b))))  # (persons, items)


def _check_guess(guess: float) -> None:
    if not 0 <= guess < 1:
        raise ValueError(f"guess={guess}: it takes a probability from 0 up to, not including, 1")


def simulate(
    ability: ArrayLike, difficulty: ArrayLike, discrimination: ArrayLike = 1.0, guess: float = 0.0, seed: int = 0
) -> Array:
    """Draw answers of persons of known ability to items of known parameters, ``(persons, items)`` of 0 and 1."""
    chance = probability(ability, difficulty, discrimination, guess)
    return (np.random.default_rng(seed).random(chance.shape) < chance).astype(np.float64)


def information(
    ability: ArrayLike, difficulty: ArrayLike, discrimination: ArrayLike = 1.0, guess: float = 0.0
) -> Array:
    """Return the Fisher information about an ability that each item gives, ``(persons, items)``.

    ``I = a^2 (1 - p) / p ((p - c) / (1 - c))^2``; without guessing ``a^2 p (1 - p)``, largest where ``theta = b``. The
    standard error of an ability is one over the root of the sum over the items.
    """
    p = probability(ability, difficulty, discrimination, guess)  # (persons, items)
    a = np.asarray(discrimination, dtype=np.float64)
    return np.asarray(a**2 * (1 - p) / p * ((p - guess) / (1 - guess)) ** 2)


@dataclass(frozen=True)
class ItemResponse:
    """A fitted item response model.

    Attributes:
        difficulty: ``b``, in standard deviations of ability, ``(items,)``.
        discrimination: ``a``, ``(items,)``.
        guess: ``c``, as given.
        ability: expected ability of each person given the answers, ``(persons,)``.
        ability_error: its posterior standard deviation, ``(persons,)``.
        log_likelihood: marginal, of all answers, in nats.
    """

    difficulty: Array
    discrimination: Array
    guess: float
    ability: Array
    ability_error: Array
    log_likelihood: float


def fit(responses: ArrayLike, kind: str = "2pl", guess: float = 0.0, prior: bool = True) -> ItemResponse:
    """Fit difficulties and discriminations by marginal maximum likelihood (Bock and Aitkin 1981).

    Abilities are taken as drawn from a standard normal distribution and summed out on a grid:
    ``log L = sum over persons of log sum over grid points q of w_q prod over items P(x | theta_q)``. The 1PL has one
    discrimination for all items, estimated too, which is the Rasch model with abilities of any variance.

    Args:
        responses: ``(persons, items)`` of 0 and 1, without constant items.
        kind: ``1pl`` or ``2pl``.
        guess: the lower asymptote ``c``, the same for all items: 1/4 where a blind guess among four is right.
        prior: add weak beliefs, ``log a ~ N(0, 0.5^2)`` and ``b ~ N(0, 2^2)``; without them an item that the best
            persons alone solve has no finite estimate.

    Raises:
        ValueError: see :func:`check_responses`; an unknown kind; a guess outside of 0 to 1.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: it takes {', '.join(KINDS)}")
    _check_guess(guess)
    table = torch.tensor(check_responses(responses))  # (persons, items)
    items = table.shape[1]
    grid = torch.linspace(-5, 5, POINTS, dtype=torch.float64)  # (points,)
    log_weight = torch.log_softmax(-(grid**2) / 2, 0)  # (points,)
    share = table.mean(0).clamp(0.02, 0.98)
    start = -torch.logit(((share - guess) / (1 - guess)).clamp(0.05, 0.95))
    b = start.clone().requires_grad_()  # (items,)
    log_a = torch.zeros(items if kind == "2pl" else 1, dtype=torch.float64, requires_grad=True)

    def joint() -> Tensor:
        """Log-probability of each person's answers together with each ability, ``(persons, points)``."""
        right = guess + (1 - guess) * torch.sigmoid(log_a.exp() * (grid[:, None] - b))  # (points, items)
        right = right.clamp(1e-12, 1 - 1e-12)
        return table @ right.log().T + (1 - table) @ (1 - right).log().T + log_weight

    def objective() -> Tensor:
        beliefs = (log_a**2).sum() / (2 * SPREAD**2) + (b**2).sum() / (2 * 2**2) if prior else 0.0
        return -torch.logsumexp(joint(), 1).sum() + beliefs

    optimizer = torch.optim.LBFGS([b, log_a], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        together = joint()  # (persons, points)
        posterior = together.softmax(1)  # (persons, points)
        ability = posterior @ grid  # (persons,)
        variance = posterior @ grid**2 - ability**2  # (persons,)
        total = torch.logsumexp(together, 1).sum().item()
        a = log_a.exp().expand(items)
    return ItemResponse(
        b.detach().numpy().copy(), a.numpy().copy(), guess, ability.numpy(), variance.clamp(min=0).sqrt().numpy(), total
    )


def shortest_test(fitted: ItemResponse, ability: Sequence[float] | Array, count: int) -> NDArray[np.int64]:
    """Return the places of the items that tell most about given abilities, the most informative first, ``(count,)``.

    Raises:
        ValueError: more items than there are.
    """
    if not 1 <= count <= len(fitted.difficulty):
        raise ValueError(f"count={count}: there are {len(fitted.difficulty)} items")
    told = information(ability, fitted.difficulty, fitted.discrimination, fitted.guess).sum(0)  # (items,)
    return np.asarray(np.argsort(-told, kind="stable")[:count])
