"""Teaching a pretrained model a task (chapters 12 to 15).

Examples become rows of token ids (a dictionary of lists), rows become batches, and ``training.fit`` trains on those:

    backbone, tokenizer = hub.pretrained("pydocs-bert")
    rows = encode_texts(tokenizer, texts, labels, num_labels=10, max_length=96)
    model = SequenceClassifier(backbone, num_labels=10)
    training.fit(model, Examples(rows, batch_size=16, pad=tokenizer.pad_token_id), Settings(200), loss_of=loss)
    logits = predict(model, test_rows, tokenizer.pad_token_id)
"""

from llmbook.finetuning.batches import Batch, Examples, Row, collate, loss, predict
from llmbook.finetuning.encoding import (
    Answer,
    Place,
    check_labels,
    check_pair,
    encode_questions,
    encode_texts,
    encode_words,
    read_answers,
    read_tags,
    token_span,
)
from llmbook.finetuning.heads import SequenceClassifier, SpanFinder, TokenClassifier
from llmbook.finetuning.stopping import EarlyStopping
from llmbook.finetuning.tags import Entity, entity_scores, entity_spans, to_tags

__all__ = [
    "Answer",
    "Batch",
    "EarlyStopping",
    "Entity",
    "Examples",
    "Place",
    "Row",
    "SequenceClassifier",
    "SpanFinder",
    "TokenClassifier",
    "check_labels",
    "check_pair",
    "collate",
    "encode_questions",
    "encode_texts",
    "encode_words",
    "entity_scores",
    "entity_spans",
    "loss",
    "predict",
    "read_answers",
    "read_tags",
    "to_tags",
    "token_span",
]
