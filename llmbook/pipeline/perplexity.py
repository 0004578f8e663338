"""The perplexity of a document under chapter 1's n-gram model, as a filter (Wenzek et al. 2020, CCNet; chapter 7)."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from llmbook import metrics, ngram, tokenization


class PerplexityScorer:
    """A tokenizer and an interpolated Kneser-Ney model of good text; call it with a text."""

    def __init__(self, good: Sequence[str], vocab_size: int = 1024, order: int = 4):
        """Train both on texts that are taken as good.

        Args:
            good: the texts, at least one.
            vocab_size: of the byte-level tokenizer, at least 257.
            order: of the n-gram model, at least 1.
        """
        if not good:
            raise ValueError("no text to learn from: give at least one")
        self.tokenizer: Tokenizer = tokenization.train_byte_bpe(good, vocab_size)
        documents = tokenization.encode_documents(self.tokenizer, good)
        self.model = ngram.KneserNey(ngram.NGramCounts(documents, vocab_size, order), order)

    def __call__(self, text: str) -> float:
        """Return the perplexity per token of a text, its end token included."""
        return metrics.perplexity(self.model.log_prob(tokenization.encode_documents(self.tokenizer, [text])))
