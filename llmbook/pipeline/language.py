"""Which language is a text in? Naive Bayes over hashed character n-grams (chapter 7)."""

from collections.abc import Sequence

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class LanguageIdentifier:
    """``P(language | text)`` from the counts of the text's character n-grams of length 1 to ``longest``.

    Each n-gram is hashed into one of ``2**bits`` buckets. With ``log_prob`` of shape ``(buckets, languages)`` the score
    of a language is the sum of its entries for the text's n-grams: Naive Bayes with additive smoothing and equal
    priors, as ``sklearn.naive_bayes.MultinomialNB(fit_prior=False)``.
    """

    def __init__(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        longest: int = 3,
        bits: int = 16,
        smoothing: float = 0.3,
    ):
        """Count.

        Args:
            texts: training texts.
            languages: the language of each.
            longest: length of the longest n-grams, at least 1.
            bits: logarithm of the number of buckets, 8 to 24.
            smoothing: what is added to each count, above 0.
        """
        if len(texts) != len(languages):
            raise ValueError(f"{len(texts)} texts and {len(languages)} languages: give one language for each text")
        if not texts:
            raise ValueError("no text to learn from: give at least one")
        if longest < 1 or not 8 <= bits <= 24 or smoothing <= 0:
            raise ValueError(
                f"longest={longest}, bits={bits}, smoothing={smoothing}: they take 1 up, 8 to 24, and above 0"
            )
        self.longest, self.bits = longest, bits
        self.languages = sorted(set(languages))
        joined: dict[str, list[str]] = {language: [] for language in self.languages}
        for text, language in zip(texts, languages, strict=True):
            joined[language].append(text)
        counts = [sum(self.counts(text) for text in joined[language]) for language in self.languages]
        smoothed = np.stack(counts) + smoothing  # (languages, buckets)
        log_prob = np.log(smoothed / smoothed.sum(axis=1, keepdims=True))
        self.log_prob = np.ascontiguousarray(log_prob.T, dtype=np.float32)  # (buckets, languages)

    def buckets(self, text: str) -> np.ndarray:
        """Return the bucket of every n-gram of a text in lower case, its ends marked by a space: ``(n-grams,)``."""
        padded = " " + " ".join(text.lower().split()) + " "
        symbols = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
        hashes = np.zeros(len(symbols), dtype=np.uint64)
        parts = []
        for n in range(1, min(self.longest, len(symbols)) + 1):
            hashes = (hashes[: len(symbols) - n + 1] + symbols[n - 1 :] + np.uint64(n)) * _MULTIPLIER
            parts.append(hashes >> np.uint64(64 - self.bits))
            hashes ^= hashes >> np.uint64(29)
        return np.concatenate(parts).astype(np.int64)

    def counts(self, text: str) -> np.ndarray:
        """Return how often each bucket occurs: ``(buckets,)``."""
        return np.bincount(self.buckets(text), minlength=2**self.bits)

    def scores(self, text: str) -> np.ndarray:
        """Return the log-likelihood of a text in each language: ``(languages,)`` float64."""
        return self.log_prob[self.buckets(text)].sum(axis=0, dtype=np.float64)

    def probabilities(self, text: str) -> dict[str, float]:
        """Return ``P(language | text)`` for each language.

        The n-grams of a text overlap and are far from independent, which Naive Bayes takes them to be, so these
        numbers are nearer to 0 and 1 than they should be. Of a text without letters nothing is known: all are equal.
        """
        scores = self.scores(text) if any(map(str.isalpha, text)) else np.zeros(len(self.languages))
        odds = np.exp(scores - scores.max())
        return dict(zip(self.languages, (odds / odds.sum()).tolist(), strict=True))

    def identify(self, text: str) -> tuple[str, float]:
        """Return the most probable language and its probability."""
        probabilities = self.probabilities(text)
        best = max(probabilities, key=lambda language: probabilities[language])
        return best, probabilities[best]
