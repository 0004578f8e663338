"""Teaching a pretrained model a task (chapters 12 to 15).

Examples become rows of token ids (a dictionary of lists), rows become batches, and `training.fit` trains on those:

    model = SequenceClassifier(hub.load(hub.shipped("pydocs-bert")).float(), num_labels=10)
    training.fit(model, Examples(rows, batch_size=16, pad=tokenizer.pad_token_id), Settings(200), loss_of=loss)
"""

from llmbook.finetuning.batches import Batch, Examples, Row, collate, loss, predict
from llmbook.finetuning.heads import SequenceClassifier, SpanFinder, TokenClassifier

__all__ = [
    "Batch",
    "Examples",
    "Row",
    "SequenceClassifier",
    "SpanFinder",
    "TokenClassifier",
    "collate",
    "loss",
    "predict",
]
