"""Text that the machine holds already, with labels that people wrote, as Hugging Face data sets (all chapters)."""

from llmbook.corpora.cache import CorpusError, describe
from llmbook.corpora.catalogues import catalogs
from llmbook.corpora.documents import pydocs
from llmbook.corpora.labels import (
    named_entities,
    question_answering,
    retrieval,
    section_classification,
    summarisation,
    topic_classification,
)
from llmbook.corpora.public import online
from llmbook.corpora.sources import code

__all__ = [
    "CorpusError",
    "catalogs",
    "code",
    "describe",
    "named_entities",
    "online",
    "pydocs",
    "question_answering",
    "retrieval",
    "section_classification",
    "summarisation",
    "topic_classification",
]
