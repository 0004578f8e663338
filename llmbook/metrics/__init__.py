"""Numbers that judge a model or a text (begun in chapter 1; chapter 16 builds each of them).

Predictions come first and references second, everywhere. A reference may be several texts where the metric's authors
say what that means. BLEU and chrF are on the scale of their papers, 0 to 100; everything else is a plain number.
"""

from llmbook.metrics._bleu import Bleu, bleu, sentence_bleu
from llmbook.metrics._chrf import chrf
from llmbook.metrics._meteor import count_chunks, meteor, meteor_alignment
from llmbook.metrics._rouge import rouge, rouge_tokens
from llmbook.metrics.answers import answer_f1, exact_match, normalize_answer
from llmbook.metrics.checks import Score
from llmbook.metrics.classification import accuracy, confusion, precision_recall_f1
from llmbook.metrics.edits import Edit, align, character_error_rate, edit_distance, word_error_rate
from llmbook.metrics.embedding import Embed, embedding_score, greedy_matching, hidden_states, inverse_document_frequency
from llmbook.metrics.likelihood import bits_per_byte, perplexity

__all__ = [
    "Bleu",
    "Edit",
    "Embed",
    "Score",
    "accuracy",
    "align",
    "answer_f1",
    "bits_per_byte",
    "bleu",
    "character_error_rate",
    "chrf",
    "confusion",
    "count_chunks",
    "edit_distance",
    "embedding_score",
    "exact_match",
    "greedy_matching",
    "hidden_states",
    "inverse_document_frequency",
    "meteor",
    "meteor_alignment",
    "normalize_answer",
    "perplexity",
    "precision_recall_f1",
    "rouge",
    "rouge_tokens",
    "sentence_bleu",
    "word_error_rate",
]
