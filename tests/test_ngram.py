import nltk.lm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.ngram import AddK, KneserNey, NGramCounts

VOCAB = 6
# for nltk, whose vocabulary counts <UNK> and <s> as words of its own: the last token never occurs in zipf_documents
WORDS = [*"abcd", "<UNK>", "<s>"]
texts = st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=12), min_size=1, max_size=6).filter(any)
contexts = st.lists(st.integers(0, VOCAB - 1), max_size=7)


def zipf_documents(seed: int, count: int = 20, length: int = 30) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [(rng.zipf(1.6, size=length).clip(1, VOCAB - 1) - 1).tolist() for _ in range(count)]


def all_models(counts: NGramCounts) -> list[AddK | KneserNey]:
    orders = range(1, counts.order + 1)
    return [
        *[AddK(counts, n, k) for n in orders for k in (0.01, 1)],
        *[KneserNey(counts, n, discount=d) for n in orders for d in (None, 0.4)],
        *[KneserNey(counts, n, uniform=False) for n in orders],
    ]


def nltk_padded(document: list[int], order: int) -> list[str]:
    return ["<s>"] * (order - 1) + [WORDS[token] for token in document]


def nltk_grams(documents: list[list[int]], order: int) -> list[list[tuple]]:
    """n-grams of every order that end in a real token, with the padding our model uses."""
    sentences = []
    for document in documents:
        padded = nltk_padded(document, order)
        ends = range(order - 1, len(padded))
        sentences.append([tuple(padded[i - n + 1 : i + 1]) for n in range(1, order + 1) for i in ends])
    return sentences


def nltk_log_probs(model, documents: list[list[int]], order: int) -> np.ndarray:
    scores = []
    for document in documents:
        padded = nltk_padded(document, order)
        scores += [model.score(padded[i], padded[i - order + 1 : i]) for i in range(order - 1, len(padded))]
    with np.errstate(divide="ignore"):
        return np.log(scores)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kneser_ney_equals_nltk(order, seed):
    train, test = zipf_documents(seed), zipf_documents(seed + 100)
    ours = KneserNey(NGramCounts(train, VOCAB, order), order, discount=0.3, uniform=False)
    theirs = nltk.lm.KneserNeyInterpolated(order, discount=0.3)
    theirs.fit(nltk_grams(train, order), vocabulary_text=[*"abcd", "<s>"])
    if order == 1:  # nltk's unigrams ask for bigrams' continuations even here; the definition is the relative frequency
        theirs = nltk.lm.MLE(1)
        theirs.fit(nltk_grams(train, 1), vocabulary_text=[*"abcd", "<s>"])
    np.testing.assert_allclose(ours.log_prob(test), nltk_log_probs(theirs, test, order), atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("k", [0, 0.1, 1])
def test_add_k_equals_nltk(order, k):
    train = zipf_documents(3)
    test = train if k == 0 else zipf_documents(103)
    ours = AddK(NGramCounts(train, VOCAB, order), order, k)
    theirs = nltk.lm.Lidstone(k, order)
    theirs.fit(nltk_grams(train, order), vocabulary_text=[*"abcd", "<s>"])
    np.testing.assert_allclose(ours.log_prob(test), nltk_log_probs(theirs, test, order), atol=1e-6)


@given(texts, contexts)
@settings(deadline=None, max_examples=60)
def test_probabilities_sum_to_one_after_any_context(documents, context):
    for model in all_models(NGramCounts(documents, VOCAB, 4)):
        distribution = model.distribution(context)
        assert distribution.shape == (VOCAB,)
        assert (distribution >= 0).all()
        assert distribution.sum() == pytest.approx(1, abs=1e-9)


@given(texts)
@settings(deadline=None, max_examples=40)
def test_maximum_likelihood_sums_to_one_after_seen_contexts_and_gives_nothing_after_unseen(documents):
    counts = NGramCounts(documents, VOCAB, 2)
    seen = {a for document in documents for a in document[:-1]}
    for token in range(VOCAB):
        assert AddK(counts, 2, 0).distribution([token]).sum() == pytest.approx(float(token in seen))


@given(texts, texts)
@settings(deadline=None, max_examples=40)
def test_log_prob_agrees_with_distribution(train, test):
    for model in all_models(NGramCounts(train, VOCAB, 3)):
        expected = [model.distribution(document[:i])[token] for document in test for i, token in enumerate(document)]
        np.testing.assert_allclose(np.exp(model.log_prob(test)), expected, atol=1e-12)


@given(texts)
@settings(deadline=None, max_examples=40)
def test_counts_are_the_plain_counts(documents):
    counts = NGramCounts(documents, VOCAB, 3)
    for n in (1, 2, 3):
        padded = [[VOCAB] * 2 + document for document in documents]
        grams = [tuple(p[i - n + 1 : i + 1]) for p in padded for i in range(2, len(p))]
        for gram in set(grams):
            tokens, where = counts.followers(gram[:-1])
            found = dict(zip(tokens.tolist(), counts.levels[n - 1].counts[where].tolist(), strict=True))
            assert found[gram[-1]] == grams.count(gram)


def test_order_of_documents_does_not_matter():
    train, test = zipf_documents(5), zipf_documents(6)
    one = KneserNey(NGramCounts(train, VOCAB, 4), 4).log_prob(test)
    other = KneserNey(NGramCounts(train[::-1], VOCAB, 4), 4).log_prob(test)
    np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NGramCounts([[0, 1]], VOCAB, 0), "order=0"),
        (lambda: NGramCounts([[0, VOCAB + 1]], VOCAB, 2), "token ids run from 0 to 7"),
        (lambda: NGramCounts([[0, VOCAB]], VOCAB, 2), "token ids run from 0 to 6"),
        (lambda: NGramCounts([[]], VOCAB, 2), "empty"),
        (lambda: KneserNey(NGramCounts([[0, 1]], VOCAB, 2), 3), "order=3"),
        (lambda: KneserNey(NGramCounts([[0, 1]], VOCAB, 2), 2, discount=1.5), "discount=1.5"),
        (lambda: AddK(NGramCounts([[0, 1]], VOCAB, 2), 2, -1), "k=-1"),
    ],
)
def test_bad_input_says_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
