"""Steps for :mod:`llmbook.pipeline.engine`: the chapter's functions on records. All of them can be pickled."""

from collections.abc import Callable, Collection, Sequence

from llmbook.pipeline.engine import Record
from llmbook.pipeline.filters import Limit, failures
from llmbook.pipeline.language import LanguageIdentifier
from llmbook.pipeline.measures import statistics
from llmbook.pipeline.redaction import redact


class Measure:
    """Write a document's statistics into ``measured``, rounded so that they read the same on every machine."""

    def __init__(
        self, identifier: LanguageIdentifier | None = None, perplexity: Callable[[str], float] | None = None
    ) -> None:
        """With an identifier also ``english``, the probability of English; with a scorer also ``perplexity``."""
        self.identifier, self.perplexity = identifier, perplexity

    def __call__(self, record: Record) -> Record:
        """Return the record with its statistics."""
        measured = statistics(record["text"])
        if self.identifier is not None:
            measured["english"] = self.identifier.probabilities(record["text"]).get("en", 0.0)
        if self.perplexity is not None:
            measured["perplexity"] = self.perplexity(record["text"])
        return {**record, "measured": {name: round(value, 4) for name, value in measured.items()}}


class Keep:
    """Drop a record whose ``measured`` breaks a limit."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        """Use these limits."""
        self.limits = tuple(limits)

    def __call__(self, record: Record) -> Record | None:
        """Return the record, or ``None`` if it is dropped."""
        return None if failures(record["measured"], self.limits) else record


class Redact:
    """Replace personal information in the text; how often each kind was found stands in ``redacted``."""

    def __call__(self, record: Record) -> Record:
        """Return the record with its text redacted."""
        text, counts = redact(record["text"])
        return {**record, "text": text, "redacted": counts}


class Drop:
    """Drop the records with these ids: the second pass of a removal of duplicates, which no shard can decide alone."""

    def __init__(self, ids: Collection[str]) -> None:
        """Use these ids."""
        self.ids = frozenset(ids)

    def __call__(self, record: Record) -> Record | None:
        """Return the record, or ``None`` if it is dropped."""
        return None if record["id"] in self.ids else record
