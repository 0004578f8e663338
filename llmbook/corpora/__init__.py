"""Text that the machine holds already, with labels that people wrote, as Hugging Face data sets (all chapters)."""

from llmbook.corpora._catalogs import catalogs
from llmbook.corpora._code import code
from llmbook.corpora._online import online
from llmbook.corpora._pydocs import held_out, pydocs
from llmbook.corpora.cache import CorpusError, describe
from llmbook.corpora.labels import (
    named_entities,
    question_answering,
    retrieval,
    section_classification,
    summarisation,
    topic_classification,
)
from llmbook.corpora.own import own_text

__all__ = [
    "CorpusError",
    "catalogs",
    "code",
    "describe",
    "held_out",
    "named_entities",
    "online",
    "own_text",
    "pydocs",
    "question_answering",
    "retrieval",
    "section_classification",
    "summarisation",
    "topic_classification",
]
