"""llmbook.metrics against sacrebleu, jiwer, nltk, rouge-score and scikit-learn, on generated and adversarial texts."""

import itertools
import math
import re
import subprocess
import sys
import tracemalloc
import warnings

import jiwer
import nltk.translate.bleu_score as nltk_bleu
import numpy as np
import pytest
import sacrebleu
import sklearn.metrics
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.meteor_score import align_words, meteor_score
from rouge_score.rouge_scorer import RougeScorer

import ch16_metrics
from llmbook import metrics

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ADVERSARIAL = [
    "",
    " ",
    "\n",
    "a",
    ".",
    "the",
    "the the the the the the the",
    "the cat is on the mat",
    "The cat sat on the mat.",
    "the mat is on the cat",
    "cat",
    "return the sum of the array elements over the given axis",
    "returns the product of array elements over a given axis",
    "running runs ran runner run",
    "模型 预测 下一个 词元",
    "语言模型预测下一个词元。",
    "语言模型预测上一个词元!",
    "naïve café — “quoted” … 1,000.50",
    'naive cafe - "quoted" ... 1.000,50',
    "🙂🙃 👩‍👩‍👧 é é",
    "&quot;x&quot; &amp; <skipped> -\ny",
    "first line here\nsecond line there\n\nfirst line here",
    "second line there\nfirst line here",
    "x" * 70,
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "İstanbul STRASSE straße ﬁne K",
    "((a)) -5 5- 3.14, (b",
]
PAIRS = [(a, b) for a in ADVERSARIAL for b in ADVERSARIAL]
FEW = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "ran",
    "runs",
    "running",
    "猫",
    "坐",
    ".",
    ",",
    "-",
    "12",
    "3.5",
    "Mat",
]
SENTENCES = st.lists(st.sampled_from(FEW), max_size=12).map(" ".join)
LINES = st.lists(SENTENCES, max_size=3).map("\n".join)
WILD = st.text(max_size=30)
TEXTS = st.one_of(SENTENCES, LINES, WILD)
many = settings(max_examples=500, deadline=None)


class NoSynonyms:
    """Stands in for WordNet, which nltk would have to download."""

    def synsets(self, word):
        return []


def near(ours, theirs):
    return ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


# --- error rates ----------------------------------------------------------------------------------------------------


def spaced(text):
    """White space in the one form that jiwer and `str.split` understand alike."""
    return " ".join(text.split())


def check_error_rates(prediction, reference):
    prediction, reference = spaced(prediction), spaced(reference)
    if reference:
        words = jiwer.process_words(reference, prediction)
        assert near(metrics.word_error_rate([prediction], [reference]), words.wer)
        assert near(metrics.character_error_rate([prediction], [reference]), jiwer.cer(reference, prediction))
        kinds = [step.kind for step in metrics.align(prediction.split(), reference.split())]
        assert len(kinds) - kinds.count("match") == words.substitutions + words.deletions + words.insertions


def test_error_rates_equal_jiwer_on_adversarial_pairs():
    for pair in PAIRS:
        check_error_rates(*pair)
    texts = [(spaced(a), spaced(b)) for a, b in PAIRS]
    predictions, references = map(list, zip(*texts, strict=True))
    assert near(metrics.word_error_rate(predictions, references), jiwer.wer(references, predictions))
    assert near(metrics.character_error_rate(predictions, references), jiwer.cer(references, predictions))


@pytest.mark.slow
@given(TEXTS, TEXTS)
@many
def test_error_rates_equal_jiwer(prediction, reference):
    check_error_rates(prediction, reference)


def test_jiwer_counts_insertions_where_ours_refuses_and_sees_no_word_boundary_in_a_tab():
    assert jiwer.wer("", "two words") == 2
    assert jiwer.wer("a\tb", "a b") == 2.0 and metrics.word_error_rate(["a b"], ["a\tb"]) == 0


@given(st.text("abcd", max_size=80), st.text("abcd", max_size=80))
@many
def test_edit_distance_equals_the_table_and_the_alignment_explains_it(a, b):
    steps = metrics.align(a, b)
    distance = metrics.edit_distance(a, b)
    assert distance == metrics.edit_distance(b, a) == sum(step.kind != "match" for step in steps)
    assert [s.reference for s in steps if s.reference is not None] == list(range(len(b)))
    assert [s.prediction for s in steps if s.prediction is not None] == list(range(len(a)))
    for step in steps:
        if step.kind in ("match", "substitute"):
            assert (a[step.prediction] == b[step.reference]) == (step.kind == "match")


def test_an_alignment_takes_a_byte_for_each_pair_of_items():
    one, other = ["ab"[number % 2] for number in range(600)], ["acb"[number % 3] for number in range(500)]
    tracemalloc.start()
    try:
        steps = metrics.align(one, other)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(step.kind != "match" for step in steps) == metrics.edit_distance(one, other)
    assert most < 2 * len(one) * len(other)


@given(st.text("ab", max_size=9), st.text("ab", max_size=9), st.text("ab", max_size=9))
def test_edit_distance_obeys_the_triangle_inequality(a, b, c):
    assert metrics.edit_distance(a, c) <= metrics.edit_distance(a, b) + metrics.edit_distance(b, c)


# --- classification -------------------------------------------------------------------------------------------------


def check_classification(predictions, references, averages=("macro", "micro", "weighted", None)):
    assert near(
        metrics.accuracy(predictions, references), float(sklearn.metrics.accuracy_score(references, predictions))
    )
    names, counts = metrics.confusion(predictions, references)
    assert (counts == sklearn.metrics.confusion_matrix(references, predictions, labels=names)).all()
    for average in averages:
        theirs = sklearn.metrics.precision_recall_fscore_support(
            references, predictions, labels=names, average=average, zero_division=0
        )[:3]
        ours = metrics.precision_recall_f1(predictions, references, average)
        rows = list(zip(*theirs, strict=True)) if average is None else theirs
        assert np.allclose(list(ours.values()) if average is None else ours, rows, rtol=1e-12)


LABELS = st.one_of(st.sampled_from("abc"), st.sampled_from(["", "é", "名词", "a b"]))


@pytest.mark.slow
@given(
    st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30), st.sampled_from(["macro", "micro", "weighted", None])
)
@many
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_classification_equals_scikit_learn(pairs, average):
    check_classification(*map(list, zip(*pairs, strict=True)), [average])


@pytest.mark.filterwarnings("ignore:A single label was found")
def test_classification_equals_scikit_learn_on_adversarial_labels():
    check_classification(["a"], ["a"])
    check_classification(["a"], ["b"])
    check_classification(["a"] * 99 + ["b"], ["b"] * 99 + ["a"])
    check_classification(np.arange(500) % 7, np.arange(500) % 5)
    check_classification(torch.arange(60) % 7, torch.arange(60) % 5)
    check_classification([True, False, True], [True, True, False])
    check_classification(ADVERSARIAL, ADVERSARIAL[::-1])


def test_labels_give_the_order_and_may_name_absent_ones():
    names, counts = metrics.confusion(["b", "a"], ["b", "b"], labels=["b", "c", "a"])
    assert names == ["b", "c", "a"] and counts.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    score = metrics.precision_recall_f1(["b", "a"], ["b", "b"], labels=["b", "c", "a"])
    theirs = sklearn.metrics.precision_recall_fscore_support(
        ["b", "b"], ["b", "a"], labels=["b", "c", "a"], average="macro", zero_division=0
    )
    assert np.allclose(score, theirs[:3])


@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30))
def test_micro_averages_are_accuracy_when_every_item_has_one_label(pairs):
    predictions, references = zip(*pairs, strict=True)
    score = metrics.precision_recall_f1(predictions, references, "micro")
    assert score == pytest.approx([metrics.accuracy(predictions, references)] * 3)


# --- answers --------------------------------------------------------------------------------------------------------


def squad_normalise(text):
    """Written out step by step from the description in the SQuAD paper, as the official script does it."""
    text = "".join(character for character in text.lower() if character not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return " ".join(word for word in re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(TEXTS, TEXTS)
@many
def test_exact_match_and_answer_f1_equal_a_slow_version(prediction, reference):
    mine, yours = squad_normalise(prediction), squad_normalise(reference)
    assert metrics.normalize_answer(prediction) == mine
    assert metrics.exact_match([prediction], [reference]) == (mine == yours)
    common, left = 0, yours.split()
    for word in mine.split():
        if word in left:
            left.remove(word)
            common += 1
    expected = 2 * common / (len(mine.split()) + len(yours.split())) if mine or yours else 1.0
    assert near(metrics.answer_f1([prediction], [reference]), expected)


def test_answers_are_compared_without_articles_case_and_punctuation():
    assert metrics.exact_match(["The  Cat!", "an apple", "theory"], ["cat", "apple.", "ory"]) == pytest.approx(2 / 3)
    assert metrics.exact_match(["float"], [["int", "float"]]) == 1
    assert metrics.answer_f1(["the"], [""]) == 1 and metrics.answer_f1(["the"], ["cat"]) == 0


# --- BLEU -----------------------------------------------------------------------------------------------------------

SMOOTHINGS = [("exp", None), ("floor", None), ("floor", 0.5), ("add-k", None), ("add-k", 2), ("none", None)]


def check_bleu(prediction, references, smoothing, value, tokenize, effective, order=4):
    library = sacrebleu.BLEU(
        tokenize=tokenize,
        smooth_method=smoothing,
        smooth_value=value,
        effective_order=effective,
        max_ngram_order=order,
        force=True,
    )
    theirs = library.corpus_score([prediction], [[reference] for reference in references])
    ours = metrics.bleu(
        [prediction],
        [references],
        tokenize=tokenize,
        smoothing=smoothing,
        smoothing_value=value,
        effective_order=effective,
        max_order=order,
    )
    assert near(ours.score, theirs.score)
    assert near(ours.brevity_penalty, theirs.bp)
    assert ours.precisions == pytest.approx(theirs.precisions)
    assert (ours.prediction_length, ours.reference_length) == (theirs.sys_len, theirs.ref_len)


def test_bleu_equals_sacrebleu_on_adversarial_pairs():
    settings = itertools.cycle(itertools.product(SMOOTHINGS, ["13a", "zh", "char", "none"], [True, False]))
    for number, ((a, b), (smoothing, tokenize, effective)) in enumerate(zip(PAIRS, settings, strict=False)):
        check_bleu(a, [b], *smoothing, tokenize, effective, order=1 + number % 5)
    predictions, references = map(list, zip(*PAIRS, strict=True))
    for tokenize in ("13a", "zh", "char", "none"):
        theirs = sacrebleu.BLEU(tokenize=tokenize).corpus_score(predictions, [references])
        assert near(metrics.bleu(predictions, references, tokenize=tokenize).score, theirs.score)


@pytest.mark.slow
@given(
    TEXTS,
    st.lists(TEXTS, min_size=1, max_size=3),
    st.sampled_from(SMOOTHINGS),
    st.sampled_from(["13a", "zh", "char", "none"]),
    st.booleans(),
    st.integers(1, 5),
)
@many
def test_bleu_equals_sacrebleu(prediction, references, smoothing, tokenize, effective, order):
    check_bleu(prediction, references, *smoothing, tokenize, effective, order)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.booleans())
@settings(max_examples=200, deadline=None)
def test_corpus_bleu_equals_sacrebleu(pairs, lowercase):
    predictions, references = map(list, zip(*pairs, strict=True))
    theirs = sacrebleu.BLEU(lowercase=lowercase).corpus_score(predictions, [references]).score
    assert near(metrics.bleu(predictions, references, lowercase=lowercase).score, theirs)


@pytest.mark.slow
@given(st.lists(st.sampled_from(FEW), min_size=4, max_size=12), st.lists(st.sampled_from(FEW), max_size=12))
@many
def test_bleu_equals_nltk_from_four_words_on(prediction, reference):
    smooth = nltk_bleu.SmoothingFunction()
    methods = {"none": smooth.method0, "floor": smooth.method1, "add-k": smooth.method2, "exp": smooth.method3}
    for smoothing, method in methods.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = nltk_bleu.sentence_bleu([reference], prediction, smoothing_function=method)
        ours = metrics.bleu([" ".join(prediction)], [" ".join(reference)], tokenize="none", smoothing=smoothing)
        assert ours.score / 100 == pytest.approx(theirs, abs=1e-12)


def test_bleu_takes_a_function_that_cuts_text():
    ours = metrics.bleu(["语言模型"], ["语言模型"], tokenize=list)
    assert ours.score == pytest.approx(100) and ours.totals == (4, 3, 2, 1)


@given(st.lists(SENTENCES, min_size=1, max_size=5))
def test_bleu_of_the_references_is_100_or_0_where_there_is_nothing(texts):
    expected = 100 if any(len(text.split()) > 0 for text in texts) else 0
    assert metrics.bleu(texts, texts, effective_order=True, tokenize="none").score == pytest.approx(expected)


# --- chrF -----------------------------------------------------------------------------------------------------------


def check_chrf(prediction, references, words, beta, spaces):
    library = sacrebleu.CHRF(word_order=words, beta=beta, whitespace=spaces)
    theirs = library.corpus_score([prediction], [[reference] for reference in references]).score
    ours = metrics.chrf([prediction], [references], word_order=words, beta=beta, keep_spaces=spaces)
    assert near(ours, theirs)


def test_chrf_equals_sacrebleu_on_adversarial_pairs():
    settings = itertools.cycle(itertools.product([0, 2], [1, 2, 3], [True, False]))
    for (a, b), (words, beta, spaces) in zip(PAIRS, settings, strict=False):
        check_chrf(a, [b], words, beta, spaces)
    predictions, references = map(list, zip(*PAIRS, strict=True))
    for words in (0, 2):
        theirs = sacrebleu.CHRF(word_order=words).corpus_score(predictions, [references]).score
        assert near(metrics.chrf(predictions, references, word_order=words), theirs)


@pytest.mark.slow
@given(
    TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from([0, 1, 2]), st.sampled_from([1, 2]), st.booleans()
)
@many
def test_chrf_equals_sacrebleu(prediction, references, words, beta, spaces):
    check_chrf(prediction, references, words, beta, spaces)


# --- METEOR ---------------------------------------------------------------------------------------------------------


def check_meteor(prediction, references):
    theirs = meteor_score([text.split() for text in references], prediction.split(), wordnet=NoSynonyms())
    assert near(metrics.meteor([prediction], [references])[0], theirs)


def test_meteor_equals_nltk_on_adversarial_pairs():
    for a, b in PAIRS:
        check_meteor(a, [b])


@pytest.mark.slow
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
@many
def test_meteor_equals_nltk(prediction, references):
    check_meteor(prediction, references)


@given(SENTENCES, SENTENCES)
@settings(max_examples=200, deadline=None)
def test_meteor_aligns_the_words_that_nltk_aligns(prediction, reference):
    words = prediction.lower().split(), reference.lower().split()
    assert metrics.meteor_alignment(*words) == align_words(*words, wordnet=NoSynonyms())[0]


def test_meteor_prefers_whole_chunks_and_takes_its_parameters():
    whole, split = metrics.meteor(["a b c d", "d c b a"], ["a b c d", "a b c d"])
    assert whole == pytest.approx(1 - 0.5 / 64) and split == pytest.approx(0.5)
    assert metrics.meteor(["d c b a"], ["a b c d"], gamma=0.0) == [pytest.approx(1)]


# --- ROUGE ----------------------------------------------------------------------------------------------------------


class Characters:
    """A tokenizer for rouge-score that keeps what is not ASCII."""

    def tokenize(self, text):
        return [character for character in text if not character.isspace()]


SCORERS = {stemmed: RougeScorer(KINDS, use_stemmer=stemmed) for stemmed in (False, True)}
BY_CHARACTER = RougeScorer([*KINDS, "rouge5"], tokenizer=Characters())


def check_rouge(scorer, prediction, references, kinds=KINDS, **settings):
    theirs = scorer.score_multi(references, prediction)
    ours = metrics.rouge([prediction], [references], kinds, **settings)
    for kind in kinds:
        wanted = theirs[kind]
        assert ours[kind][0] == pytest.approx((wanted.precision, wanted.recall, wanted.fmeasure)), kind


def test_rouge_equals_rouge_score_on_adversarial_pairs():
    for number, (a, b) in enumerate(PAIRS):
        check_rouge(SCORERS[bool(number % 2)], a, [b], stemmed=bool(number % 2))
        check_rouge(BY_CHARACTER, a, [b], [*KINDS, "rouge5"], tokenize=Characters().tokenize)


@pytest.mark.slow
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.booleans())
@many
def test_rouge_equals_rouge_score(prediction, references, stemmed):
    check_rouge(SCORERS[stemmed], prediction, references, stemmed=stemmed)


@given(st.text("ab 猫\n", max_size=40), st.text("ab 猫\n", max_size=40))
@many
def test_rouge_equals_rouge_score_on_characters(prediction, reference):
    check_rouge(BY_CHARACTER, prediction, [reference], [*KINDS, "rouge5"], tokenize=Characters().tokenize)


def test_rouge_drops_chinese_unless_it_is_told_how_to_cut():
    text = ["语言模型预测下一个词元"]
    assert metrics.rouge(text, text)["rouge1"][0].f1 == 0
    assert metrics.rouge(text, text, tokenize=list)["rougeL"][0].f1 == 1


# --- embeddings -----------------------------------------------------------------------------------------------------


def random_vectors(texts):
    """Every character gets a vector of its own."""
    return [
        (list(text), [np.random.default_rng(ord(character)).normal(size=8) for character in text]) for text in texts
    ]


@given(st.text("abcde", min_size=1, max_size=9), st.text("abcde", min_size=1, max_size=9))
@settings(deadline=None)
def test_greedy_matching_equals_the_cosine_table_of_scikit_learn(prediction, reference):
    (_, mine), (_, yours) = random_vectors([prediction, reference])
    table = sklearn.metrics.pairwise.cosine_similarity(mine, yours)
    precision, recall = table.max(1).mean(), table.max(0).mean()
    score = metrics.greedy_matching(mine, yours)
    assert score[:2] == pytest.approx((precision, recall))
    weights = np.arange(1, len(prediction) + 1), np.arange(1, len(reference) + 1)
    weighted = metrics.greedy_matching(mine, yours, *weights)
    assert weighted.precision == pytest.approx(np.average(table.max(1), weights=weights[0]))
    assert weighted.recall == pytest.approx(np.average(table.max(0), weights=weights[1]))


def test_embedding_score_of_equal_texts_is_one_and_of_nothing_zero():
    def embed(texts):
        return [(tokens, np.reshape(vectors, (-1, 8))) for tokens, vectors in random_vectors(texts)]

    scores = metrics.embedding_score(["abc", "", "cba"], ["abc", "abc", "abc"], embed)
    assert [score.f1 for score in scores] == pytest.approx([1, 0, 1])  # order does not count where vectors are fixed
    idf = metrics.inverse_document_frequency(["abc", "ab", "a"])
    assert idf["a"] == 0 and idf["c"] == pytest.approx(math.log(2)) and idf["z"] == pytest.approx(math.log(4))
    assert metrics.embedding_score(["a"], ["a"], embed, idf)[0].f1 == 0  # no token has a weight


def test_hidden_states_makes_any_encoder_usable():
    torch.manual_seed(0)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "cat", "sat"]
    vocabulary = tokenizers_word_level(words)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertModel(config).eval()
    embed = metrics.hidden_states(model, vocabulary, batch_size=2)
    found = embed(["the cat sat", "cat", "the the"])
    assert [(list(tokens), vectors.shape) for tokens, vectors in found] == [
        ([4, 5, 6], (3, 16)),
        ([5], (1, 16)),
        ([4, 4], (2, 16)),
    ]
    alone = embed(["cat"])[0][1]
    assert np.allclose(found[1][1], alone, atol=1e-5)  # padding changes nothing
    assert metrics.embedding_score(["the cat"], ["the cat"], embed)[0].f1 == pytest.approx(1)


def tokenizers_word_level(words):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


# --- laws that hold for all of them ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_scores_stay_in_their_range(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    assert 0 <= metrics.bleu(predictions, references).score <= 100 + 1e-9
    assert 0 <= metrics.chrf(predictions, references) <= 100 + 1e-9
    assert all(0 <= score <= 1 for score in metrics.meteor(predictions, references))
    for scores in metrics.rouge(predictions, references).values():
        assert all(0 <= part <= 1 for score in scores for part in score)


# --- bad input ------------------------------------------------------------------------------------------------------

OVER_PAIRS = [
    metrics.accuracy,
    metrics.precision_recall_f1,
    metrics.word_error_rate,
    metrics.character_error_rate,
    metrics.exact_match,
    metrics.answer_f1,
    metrics.bleu,
    metrics.chrf,
    metrics.meteor,
    metrics.rouge,
    lambda p, r: metrics.embedding_score(p, r, random_vectors),
]


@pytest.mark.parametrize("metric", OVER_PAIRS)
def test_lists_that_do_not_pair_up_are_refused(metric):
    with pytest.raises(ValueError, match=r"2 predictions for 1 references.*in the same order"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="nothing to judge"):
        metric([], [])


@pytest.mark.parametrize("metric", OVER_PAIRS[2:])
def test_one_text_in_place_of_a_list_is_refused(metric):
    with pytest.raises(ValueError, match=r"predictions is one text, 'abc'.*give a list"):
        metric("abc", ["a", "b", "c"])
    with pytest.raises(ValueError, match="references is one text"):
        metric(["abc"], "abc")


@pytest.mark.parametrize("metric", [metrics.bleu, metrics.chrf, metrics.meteor, metrics.rouge, metrics.exact_match])
def test_an_empty_list_of_references_is_refused_with_its_place(metric):
    with pytest.raises(ValueError, match="prediction 1 has an empty list of references"):
        metric(["a", "b"], [["a"], []])


def test_an_error_rate_without_a_reference_word_is_refused():
    with pytest.raises(ValueError, match="no words to be divided by"):
        metrics.word_error_rate(["a b", ""], ["", " "])
    with pytest.raises(ValueError, match="no characters to be divided by"):
        metrics.character_error_rate(["a"], [" "])
    assert metrics.word_error_rate(["a b", "c"], ["", "c"]) == 2.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.confusion(["x"], ["a"], labels=["a", "b"]), r"unknown labels .*'x'.*name all that occur"),
        (lambda: metrics.confusion(["a"], ["a"], labels=["a", "a"]), "names a label twice"),
        (lambda: metrics.confusion(["a"], [1]), "different kinds"),
        (lambda: metrics.precision_recall_f1(["a"], ["a"], "mean"), "average='mean'.*macro, micro, weighted"),
        (lambda: metrics.bleu(["a"], ["a"], smoothing="add"), "smoothing='add'.*none, floor, add-k, exp"),
        (lambda: metrics.bleu(["a"], ["a"], tokenize="14a"), "tokenize='14a'.*13a, zh, char, none"),
        (lambda: metrics.bleu(["a"], ["a"], max_order=0), "max_order=0"),
        (lambda: metrics.chrf(["a"], ["a"], char_order=0), "char_order=0"),
        (lambda: metrics.chrf(["a"], ["a"], word_order=-1), "word_order=-1"),
        (lambda: metrics.rouge(["a"], ["a"], ["rouge0"]), "kinds has 'rouge0'.*rouge1 to rouge9"),
        (lambda: metrics.meteor(["a"], ["a"], alpha=2), "alpha=2"),
        (lambda: metrics.meteor(["a"], ["a"], gamma=-1), "gamma=-1"),
        (lambda: metrics.greedy_matching(np.ones((2, 3)), np.ones((2, 4))), r"\(2, 3\) and \(2, 4\)"),
        (lambda: metrics.greedy_matching(np.ones((2, 3)), np.ones((2, 3)), [1.0]), "weights for 2 tokens"),
        (lambda: metrics.inverse_document_frequency([]), "no text"),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_importing_the_metrics_loads_neither_nltk_nor_transformers():
    code = "import sys, llmbook.metrics; print(sorted({'nltk', 'transformers', 'sklearn'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_the_benchmark_compares_equal_results():
    pairs = ch16_metrics.pairs(30, ["return the sum of all elements", "the cat sat on it"])
    runs = ch16_metrics.measure(pairs, rounds=1)
    assert {run["metric"] for run in runs} >= {"WER", "CER", "BLEU", "chrF", "METEOR", "ROUGE-1", "ROUGE-L", "F1"}
    assert all(run["ratio"] > 0 and run["difference"] < 1e-9 for run in runs)
