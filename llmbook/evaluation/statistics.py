"""How sure a score is: intervals, paired tests, power, many comparisons at once (chapter 17).

Values are one number for each item of a benchmark (1 for right, 0 for wrong, or any score), in the order of the items.
All of it takes items for independent draws; where several items come from one document, give ``groups``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and the two ends of its interval."""

    mean: float
    low: float
    high: float


class SeedInterval(NamedTuple):
    """A mean over seeds and half of the width of its 95% interval: ``mean ± half``."""

    mean: float
    half: float

    def __format__(self, spec: str) -> str:
        """Write both numbers by one format: ``f"{interval:.3f}"`` is such as ``0.812 ± 0.020``."""
        return f"{self.mean:{spec}} ± {self.half:{spec}}"


class PairedTest(NamedTuple):
    """A difference of two scores on the same items, and how often chance alone makes one as large.

    Attributes:
        difference: mean of ``a - b``.
        p_value: two-sided.
    """

    difference: float
    p_value: float


def _values(name: str, values: ArrayLike, least: int = 1) -> Floats:
    """Return finite numbers ``(items,)``, or raise."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < least:
        raise ValueError(f"{name} has shape {array.shape}: it takes one number for each item, {least} or more")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(array)).sum())} values that are NaN or infinite: score "
                         "every item, or leave items out of both sides")  # fmt: skip
    return array


def _share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value}: it takes a number above 0 and below 1")


def standard_error(values: ArrayLike, groups: Sequence[object] | None = None) -> float:
    """Return the standard error of the mean of ``values`` ``(items,)``.

    Args:
        values: at least two.
        groups: of each item, such as the document that it was made from: items of one group are not independent. The
            error is then clustered (Miller 2024, arXiv:2411.00640), and about as large as if each group were one item.
    """
    array = _values("values", values, 2)
    if groups is None:
        return float(array.std(ddof=1) / math.sqrt(len(array)))
    if len(groups) != len(array):
        raise ValueError(f"{len(groups)} groups for {len(array)} values: name the group of every item")
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    if len(names) < 2:
        raise ValueError("all items are of one group: nothing can be said about another one; give at least two groups")
    places = np.array([names[name] for name in groups])  # (items,)
    sums = np.bincount(places, array - array.mean())  # (groups,)
    return float(np.sqrt(len(names) / (len(names) - 1) * (sums**2).sum()) / len(array))


def seed_interval(values: ArrayLike) -> SeedInterval:
    """Return the mean of a few runs that differ in their seed, with its 95% interval by Student's t (chapter 9).

    The half width is ``t * standard deviation / sqrt(runs)`` with ``t`` of ``runs - 1`` degrees of freedom: 12.7 for
    two runs, 4.3 for three, 2.8 for five (Student 1908, 10.1093/biomet/6.1.1).

    Args:
        values: one number for each run ``(runs,)``, at least two.

    Raises:
        ValueError: fewer than two runs, which say nothing about their spread, or a number that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"values has shape {array.shape}: it takes one number for each run; one run says nothing "
                         "about another seed's, so run at least two")  # fmt: skip
    quantile = float(stats.t.ppf(0.975, len(array) - 1))
    return SeedInterval(float(_values("values", array).mean()), quantile * standard_error(array))


def wilson_interval(right: int, count: int, level: float = 0.95) -> Interval:
    """Return the interval of a share of right answers by its score test (Wilson 1927, 10.2307/2276774)."""
    if count < 1 or not 0 <= right <= count:
        raise ValueError(f"{right} right of {count}: it takes at least one item, and 0 to that many right ones")
    _share("level", level)
    z = float(stats.norm.isf((1 - level) / 2))
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def bootstrap_means(
    values: ArrayLike, resamples: int = 10_000, seed: int = 0, groups: Sequence[object] | None = None
) -> Floats:
    """Return the means of ``resamples`` samples with replacement of ``values`` ``(items,)``: ``(resamples,)``.

    Where the values have few levels (right or wrong), how often each level is drawn is multinomial, and drawn at once:
    the same distribution, a hundred times as fast. With ``groups`` whole groups are drawn.
    """
    array = _values("values", values)
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: it takes a whole number from 1 up")
    rng = np.random.default_rng(seed)
    if groups is not None:
        standard_error(array, groups)  # its checks of the groups
        names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
        places = np.array([names[name] for name in groups])  # (items,)
        sums, sizes = np.bincount(places, array), np.bincount(places)  # (groups,)
        found = np.empty(resamples)
        for part in _parts(resamples, len(sums)):
            drawn = rng.integers(len(sums), size=(part.stop - part.start, len(sums)))  # (part, groups)
            found[part] = sums[drawn].sum(1) / sizes[drawn].sum(1)
        return found
    levels, counts = np.unique(array, return_counts=True)  # (levels,)
    if len(levels) <= 64:
        drawn = rng.multinomial(len(array), counts / len(array), size=resamples)  # (resamples, levels)
        return drawn @ levels / len(array)
    found = np.empty(resamples)
    for part in _parts(resamples, len(array)):
        drawn = rng.integers(len(array), size=(part.stop - part.start, len(array)), dtype=np.int32)  # (part, items)
        found[part] = array[drawn].mean(1)
    return found


def _parts(resamples: int, width: int) -> list[slice]:
    """Cut the resamples into parts that fit into a processor's cache and a laptop's memory."""
    step = max(1, 500_000 // width)
    return [slice(begin, min(begin + step, resamples)) for begin in range(0, resamples, step)]


def bootstrap_interval(
    values: ArrayLike,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence[object] | None = None,
) -> Interval:
    """Return the mean of ``values`` ``(items,)`` and its percentile bootstrap interval.

    Efron 1979, 10.1214/aos/1176344552.

    Args:
        values: one for each item.
        resamples: samples drawn with replacement, each of as many items.
        seed: of the draws.
        level: share of the resampled means between the two ends.
        groups: as in :func:`standard_error`.
    """
    _share("level", level)
    means = bootstrap_means(values, resamples, seed, groups)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(np.asarray(values, dtype=np.float64))), float(low), float(high))


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the mean of ``a - b`` over the same items and its bootstrap interval."""
    return bootstrap_interval(_differences(a, b), resamples, seed, level)


def _differences(a: ArrayLike, b: ArrayLike) -> Floats:
    first, second = _values("a", a), _values("b", b)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values in a and {len(second)} in b: a paired test compares the same items")
    return first - second


def paired_permutation(a: ArrayLike, b: ArrayLike, resamples: int = 10_000, seed: int = 0) -> PairedTest:
    """Test whether two models differ on the same items, by exchanging their answers item by item (Fisher 1935).

    If the two were alike, each item's two values could as well have changed places. The p-value is the share of such
    exchanges with a difference at least as large, with the observed one counted as one of them, so that it is never 0.
    For values 0 and 1 it approaches the exact sign test on the items on which the two disagree (McNemar's).

    Args:
        a: one value for each item.
        b: of the other model, in the same order.
        resamples: random exchanges.
        seed: of the draws.
    """
    differences = _differences(a, b)
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: it takes a whole number from 1 up")
    rng = np.random.default_rng(seed)
    sizes = np.abs(differences[differences != 0])  # (items that differ,)
    levels, counts = np.unique(sizes, return_counts=True)  # (levels,)
    if len(levels) <= 64:  # of the differences of one size, as many stay as a coin says
        stay = rng.binomial(counts, 0.5, size=(resamples, len(levels)))  # (resamples, levels)
        totals = (2 * stay - counts) @ levels  # (resamples,)
    else:
        totals = np.empty(resamples)
        for part in _parts(resamples, len(sizes)):
            signs = rng.integers(2, size=(part.stop - part.start, len(sizes)), dtype=np.int8) * 2.0 - 1  # (part, items)
            totals[part] = signs @ sizes
    observed = abs(differences.sum())
    as_large = int((np.abs(totals) >= observed - 1e-9 * max(1.0, observed)).sum())
    return PairedTest(float(differences.mean()), (as_large + 1) / (resamples + 1))


def mcnemar(a: ArrayLike, b: ArrayLike) -> PairedTest:
    """Return the exact sign test on the items that one model has right and the other wrong (McNemar 1947).

    Args:
        a: 1 or 0 for each item.
        b: of the other model, in the same order.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences = _differences(first, second)
    if not np.isin(np.concatenate([first, second]), (0, 1)).all():
        raise ValueError("a and b hold other values than 0 and 1: use paired_permutation for graded scores")
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p_value = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return PairedTest(float(differences.mean()), float(p_value))


# --- how many items ---------------------------------------------------------------------------------------------------


def disagreement_spread(difference: float, disagreement: float) -> float:
    """Return the standard deviation of one item's difference, which is 1, 0 or -1.

    Args:
        difference: of the two accuracies.
        disagreement: share of items that one model has right and the other wrong; at least the difference.
    """
    if not abs(difference) <= disagreement <= 1:
        raise ValueError(f"disagreement={disagreement}: it lies between the difference, {abs(difference)}, and 1")
    return math.sqrt(disagreement - difference**2)


def power(
    items: int, difference: float, disagreement: float | None = None, accuracy: float = 0.5, alpha: float = 0.05
) -> float:
    """Return how often a test finds a difference of two accuracies that is there (normal approximation, two-sided).

    Args:
        items: number of items.
        difference: of the two accuracies, not 0.
        disagreement: share of items on which one model is right and the other wrong, for a paired test on the same
            items. ``None``: two different samples of so many items, or scores of which only the means are known.
        accuracy: mean of the two accuracies, for samples that are not paired.
        alpha: how often the test may find what is not there.
    """
    if items < 1:
        raise ValueError(f"items={items}: it takes a whole number from 1 up")
    _share("alpha", alpha)
    spread = _spread(difference, disagreement, accuracy)
    reach = abs(difference) * math.sqrt(items) / spread if spread else math.inf
    critical = float(stats.norm.isf(alpha / 2))
    return float(stats.norm.cdf(reach - critical) + stats.norm.cdf(-reach - critical))


def items_needed(
    difference: float,
    disagreement: float | None = None,
    accuracy: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Return how many items a test needs to find a difference with probability ``power``; arguments as in ``power()``.

    The formula is the textbook one, ``((z_{1 - alpha/2} + z_power) * spread / difference)^2``.
    """
    _share("alpha", alpha)
    _share("power", power)
    spread = _spread(difference, disagreement, accuracy)
    z = float(stats.norm.isf(alpha / 2) - stats.norm.isf(power))
    return max(1, math.ceil((z * spread / abs(difference)) ** 2))


def _spread(difference: float, disagreement: float | None, accuracy: float) -> float:
    if not 0 < abs(difference) <= 1:
        raise ValueError(f"difference={difference}: it takes a difference of two shares, not 0, at most 1")
    if disagreement is not None:
        return disagreement_spread(difference, disagreement)
    _share("accuracy", accuracy)
    a, b = accuracy + difference / 2, accuracy - difference / 2
    if min(a, b) < 0 or max(a, b) > 1:
        raise ValueError(f"accuracy={accuracy}, difference={difference}: one of the two would lie outside of 0 to 1")
    return math.sqrt(a * (1 - a) + b * (1 - b))


# --- many comparisons -------------------------------------------------------------------------------------------------


def _p_values(p_values: ArrayLike) -> Floats:
    array = _values("p_values", p_values)
    if array.min() < 0 or array.max() > 1:
        raise ValueError(f"p_values run from {array.min()} to {array.max()}: they lie between 0 and 1")
    return array


def bonferroni(p_values: ArrayLike) -> Floats:
    """Return p-values ``(tests,)`` multiplied by their number, at most 1."""
    array = _p_values(p_values)
    return np.minimum(array * len(array), 1.0)


def holm(p_values: ArrayLike) -> Floats:
    """Return adjusted p-values ``(tests,)``: below alpha are those that may be called different (Holm 1979).

    With probability 1 - alpha none of them is a false alarm, whatever the dependence between the tests.
    """
    array = _p_values(p_values)
    order = array.argsort()
    adjusted = np.maximum.accumulate(array[order] * (len(array) - np.arange(len(array))))
    found = np.empty_like(array)
    found[order] = np.minimum(adjusted, 1.0)
    return found


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Return adjusted p-values ``(tests,)``; of those below q, a share of q at most is false alarms on average.

    Benjamini and Hochberg 1995, 10.1111/j.2517-6161.1995.tb02031.x; for tests that are independent or positively
    dependent.
    """
    array = _p_values(p_values)
    order = array.argsort()[::-1]
    adjusted = np.minimum.accumulate(array[order] * len(array) / np.arange(len(array), 0, -1))
    found = np.empty_like(array)
    found[order] = np.minimum(adjusted, 1.0)
    return found
