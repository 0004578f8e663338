"""From raw text to training text: measure, filter, remove duplicates, redact, describe (chapter 7).

Every step is a plain function of a string or of a record; :mod:`llmbook.pipeline.engine` runs the same functions in
several processes under datatrove.
"""

from llmbook.pipeline.duplicates import (
    Permutations,
    band_pairs,
    collision_probability,
    components,
    fingerprint,
    keep_first,
    shingle_hashes,
    simhash,
    simhash_distance,
    simhash_pairs,
)
from llmbook.pipeline.engine import (
    Job,
    apply,
    datatrove_steps,
    finish,
    process,
    read_shard,
    run,
    shards,
    start,
    write_shard,
)
from llmbook.pipeline.filters import ENGLISH, Limit, failures
from llmbook.pipeline.language import LanguageIdentifier
from llmbook.pipeline.measures import (
    character_repetition,
    flagged_words,
    listed_ratio,
    special_ratio,
    statistics,
    stop_words,
    word_repetition,
    words,
)
from llmbook.pipeline.perplexity import PerplexityScorer
from llmbook.pipeline.redaction import KINDS, Finding, find_personal, redact
from llmbook.pipeline.sheet import data_sheet
from llmbook.pipeline.steps import Drop, Keep, Measure, Redact
from llmbook.pipeline.units import text_units

__all__ = [
    "ENGLISH",
    "KINDS",
    "Drop",
    "Finding",
    "Job",
    "Keep",
    "LanguageIdentifier",
    "Limit",
    "Measure",
    "Permutations",
    "PerplexityScorer",
    "Redact",
    "apply",
    "band_pairs",
    "character_repetition",
    "collision_probability",
    "components",
    "data_sheet",
    "datatrove_steps",
    "failures",
    "find_personal",
    "fingerprint",
    "finish",
    "flagged_words",
    "keep_first",
    "listed_ratio",
    "process",
    "read_shard",
    "redact",
    "run",
    "shards",
    "shingle_hashes",
    "simhash",
    "simhash_distance",
    "simhash_pairs",
    "special_ratio",
    "start",
    "statistics",
    "stop_words",
    "text_units",
    "word_repetition",
    "words",
    "write_shard",
]
