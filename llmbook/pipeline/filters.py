"""Thresholds on statistics (chapter 7)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A document stays if ``least <= value <= most`` for one of its statistics."""

    statistic: str
    least: float = -math.inf
    most: float = math.inf

    def __post_init__(self) -> None:
        """Refuse a limit that nothing can meet."""
        if not self.least <= self.most:
            raise ValueError(
                f"{self.statistic}: least={self.least} and most={self.most} leave no value: least must be at most most"
            )

    def passes(self, value: float) -> bool:
        """Whether a value lies within the limits; NaN does not."""
        return self.least <= value <= self.most


# What BigScience published for English (parameters_filtering.py of bigscience-workshop/data-preparation). Its limit of
# perplexity is left out: it belongs to its own tokenizer and model.
ENGLISH = (
    Limit("words", least=20, most=100_000),
    Limit("character_repetition", most=0.106),
    Limit("word_repetition", most=0.19),
    Limit("special_characters", most=0.4),
    Limit("stop_words", least=0.3),
    Limit("flagged_words", most=0.01),
    Limit("english", least=0.8),
)


def failures(measured: Mapping[str, float], limits: Sequence[Limit]) -> list[str]:
    """Return the names of the statistics that break a limit, in the order of the limits.

    Raises:
        ValueError: a limit is on a statistic that was not measured.
    """
    missing = [limit.statistic for limit in limits if limit.statistic not in measured]
    if missing:
        raise ValueError(f"limits on {missing}, but measured are {sorted(measured)}: measure them or drop the limit")
    return [limit.statistic for limit in limits if not limit.passes(measured[limit.statistic])]
