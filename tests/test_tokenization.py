"""tokenization: the three algorithms against `tokenizers`, and the tokenizer that the book ships."""

import hashlib
import itertools
import json
import math
from collections import Counter

import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import train_tokenizer as benchmark
from llmbook import pretrained
from llmbook.tokenization import (
    BOS,
    END_OF_TEXT,
    EOS,
    FAMILIES,
    GPT2_PATTERN,
    MARKS_PATTERN,
    MASK,
    PAD,
    apply_bpe,
    backend,
    encode_documents,
    expected_counts,
    learn_bpe,
    load_tokenizer,
    longest_match,
    special_tokens,
    train_byte_bpe,
    train_for_models,
    train_unigram,
    viterbi,
)

TEXTS = [
    "Return the sum of array elements over a given axis, or the mean of the array.",
    "Naïve café: 语言模型 🙂 and 12 arrays of 1024 elements; an element is returned as is.",
    "def f(x):\n    return x\n\n\ndef g(x):\n    return f(x) + f(x)",
]
word_lists = st.dictionaries(st.text("abcdeß语", min_size=1, max_size=9), st.integers(1, 6), min_size=1, max_size=12)
SEPARATOR = "\n"


def library(model, trainer, counts):
    """Train with `tokenizers` on a list of words, each as often as it is counted."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(SEPARATOR)
    tokenizer.train_from_iterator([SEPARATOR.join([word] * count) for word, count in counts.items()], trainer)
    return tokenizer


def model_of(tokenizer):
    return json.loads(tokenizer.to_str())["model"]


def pieces(tokenizer, word):
    return [token.value for token in tokenizer.model.tokenize(word)]


# --- byte-pair encoding


@given(word_lists, st.integers(0, 15))
@settings(deadline=None, max_examples=60)
def test_bpe_has_the_librarys_merges_ids_and_cuts(counts, merges):
    vocabulary, ours = learn_bpe(counts, merges)
    characters = len({c for word in counts for c in word})
    lib = library(models.BPE(), trainers.BpeTrainer(vocab_size=len(vocabulary), show_progress=False), counts)
    theirs = [tuple(pair) for pair in model_of(lib)["merges"]]
    assert ours[: len(theirs)] == theirs
    assert vocabulary == [lib.id_to_token(i) for i in range(len(vocabulary))]
    assert len(vocabulary) <= characters + merges
    ranks = {pair: rank for rank, pair in enumerate(theirs)}
    assert all(apply_bpe(word, ranks) == pieces(lib, word) for word in counts)


def test_bpe_breaks_ties_by_the_smaller_ids():
    vocabulary, merges = learn_bpe({"ab": 1, "cd": 1, "ad": 1}, 3)
    assert merges == [("a", "b"), ("a", "d"), ("c", "d")]
    assert vocabulary == ["a", "b", "c", "d", "ab", "ad", "cd"]


def test_bpe_of_real_text_equals_the_library():
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    counts = Counter(piece for text in TEXTS * 2 for piece, _ in pre.pre_tokenize_str(text))
    lib = Tokenizer(models.BPE())
    lib.pre_tokenizer = pre
    lib.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(vocab_size=140, show_progress=False))
    vocabulary, merges = learn_bpe(counts, 140)
    theirs = [tuple(pair) for pair in model_of(lib)["merges"]]
    assert merges[: len(theirs)] == theirs
    assert vocabulary[:140] == [lib.id_to_token(i) for i in range(140)]


def test_a_negative_number_of_merges_is_refused():
    with pytest.raises(ValueError, match="num_merges=-1"):
        learn_bpe({"a": 1}, -1)


# --- WordPiece


@given(word_lists, st.integers(0, 12))
@settings(deadline=None, max_examples=60)
def test_bpe_with_a_prefix_is_the_librarys_wordpiece_trainer(counts, merges):
    # the library numbers the ## characters in the order of a hash table; named first, they have fixed ids
    first = ["[UNK]", *sorted({"##" + c for word in counts for c in word[1:]})]
    vocabulary, _ = learn_bpe(counts, merges, prefix="##", first_ids=first)
    trainer = trainers.WordPieceTrainer(vocab_size=len(vocabulary), special_tokens=first, show_progress=False)
    lib = library(models.WordPiece(unk_token="[UNK]"), trainer, counts)
    assert vocabulary == [lib.id_to_token(i) for i in range(len(vocabulary))]
    assert all(longest_match(word, set(vocabulary)) == pieces(lib, word) for word in counts)


@given(st.text("abcx", min_size=1, max_size=8), st.sets(st.text("abc", min_size=1, max_size=3), max_size=8))
@settings(deadline=None)
def test_longest_match_cuts_as_the_library_or_gives_the_word_up(word, tokens):
    vocabulary = ["[UNK]", *sorted(tokens), *("##" + token for token in sorted(tokens))]
    lib = models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]")
    assert longest_match(word, vocabulary) == [token.value for token in lib.tokenize(word)]


# --- Unigram


def segmentations(word):
    """All ways to cut a word."""
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]
        yield [word[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]


scored = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.floats(-6, -0.5), max_size=10).map(
    lambda extra: {"a": -3.0, "b": -3.5, "c": -4.0} | extra
)


@given(st.text("abc", min_size=1, max_size=7), scored)
@settings(deadline=None)
def test_forward_backward_and_viterbi_equal_brute_force(word, scores):
    possible = [cut for cut in segmentations(word) if all(piece in scores for piece in cut)]
    logs = [sum(scores[piece] for piece in cut) for cut in possible]
    total = math.fsum(math.exp(log) for log in logs)
    counts, log_probability = expected_counts(word, scores)
    assert math.isclose(log_probability, math.log(total), abs_tol=1e-9)
    expected: Counter[str] = Counter()
    for cut, log in zip(possible, logs, strict=True):
        for piece in cut:
            expected[piece] += math.exp(log) / total
    assert counts.keys() == expected.keys()
    assert all(math.isclose(counts[piece], expected[piece], abs_tol=1e-9) for piece in counts)
    cut, best = viterbi(word, scores)
    assert math.isclose(best, max(logs), abs_tol=1e-9)
    assert "".join(cut) == word


@given(st.text("abc", min_size=1, max_size=12), scored)
@settings(deadline=None)
def test_viterbi_equals_the_library(word, scores):
    lib = models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0)
    theirs = [token.value for token in lib.tokenize(word)]
    ours, best = viterbi(word, scores)
    assert ours == theirs or math.isclose(best, sum(scores[piece] for piece in theirs), abs_tol=1e-9)


def test_unigram_training_equals_the_library_where_nothing_is_pruned():
    counts = Counter(word for text in TEXTS for word in text.split() * 3)
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    theirs = dict(map(tuple, model_of(library(models.Unigram(), trainer, counts))["vocab"]))
    del theirs["<unk>"]
    ours = train_unigram(counts, 200)
    assert ours.keys() == theirs.keys()
    # characters that training dropped come back with the smallest score, which the library raises by 0.0001 for each
    assert all(math.isclose(ours[token], theirs[token], abs_tol=0.005) for token in ours)


def test_unigram_training_respects_the_size_and_keeps_every_character():
    counts = Counter(word for text in TEXTS for word in text.split())
    scores = train_unigram(counts, 80)
    assert len(scores) <= 79
    assert {c for word in counts for c in word} <= scores.keys()
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_bad_arguments_of_unigram_are_named():
    with pytest.raises(ValueError, match=r"vocab_size=2.*3 characters"):
        train_unigram({"abc": 1}, 2)
    with pytest.raises(ValueError, match=r"shrink=1\.5"):
        train_unigram({"abc": 1}, 10, shrink=1.5)
    with pytest.raises(ValueError, match="scores is empty"):
        viterbi("a", {})


# --- the tokenizer that the book ships


@pytest.fixture(scope="module")
def shipped():
    return load_tokenizer()


@given(text=st.text())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back(shipped, text):
    tokenizer = backend(shipped)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    # the mask takes the space before it along; nothing else may change
    assert tokenizer.decode(ids, skip_special_tokens=False) == text or MASK in text


def test_the_shipped_file_has_the_hash_and_the_numbers_of_its_card():
    content = (pretrained.FOLDER / "tokenizer.json").read_bytes()
    card = (pretrained.FOLDER / "tokenizer.md").read_text()
    assert hashlib.sha256(content).hexdigest() in card
    assert len(content) < 300_000
    assert "4,096 tokens" in card


def test_the_shipped_tokenizer_has_its_special_tokens_first(shipped):
    assert len(shipped) == 4096
    assert shipped.convert_ids_to_tokens(range(37)) == special_tokens()
    assert special_tokens()[:5] == [END_OF_TEXT, PAD, MASK, BOS, EOS]
    assert shipped.pad_token_id == 1
    ends = encode_documents(shipped, TEXTS)
    assert all(document[-1] == 0 for document in ends)


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_are_encoded_alike_by_either_kind_of_tokenizer_whatever_it_was_called_with(family):
    tokenizer = load_tokenizer(family)
    expected = encode_documents(backend(load_tokenizer()), TEXTS)
    call = {"padding": "max_length", "truncation": True, "max_length": 8}
    assert len(tokenizer(TEXTS[0], **call).input_ids) == 8
    for ids, wanted in zip(encode_documents(tokenizer, TEXTS), expected, strict=True):
        assert ids.tolist() == wanted.tolist()
    assert len(tokenizer(TEXTS[0], **call).input_ids) == 8, "a later call pads and cuts again"


def test_a_tokenizer_of_tokenizers_is_used_as_it_is():
    tokenizer = train_byte_bpe(TEXTS, 300)
    assert backend(tokenizer) is tokenizer


@pytest.mark.parametrize("given", ["gpt", None, str.split])
def test_what_is_no_tokenizer_is_refused(given):
    with pytest.raises(ValueError, match=r"tokenizer is a \w+: give a tokenizers\.Tokenizer or a fast tokenizer"):
        encode_documents(given, TEXTS)


def test_digits_are_tokens_of_their_own(shipped):
    assert shipped.tokenize("1024x7") == ["1", "0", "2", "4", "x", "7"]


def test_gpt2s_pattern_is_the_one_that_is_used_without_a_pattern():
    with_pattern = train_for_models(TEXTS * 3, 320, pattern=GPT2_PATTERN)
    assert with_pattern.get_vocab() == train_for_models(TEXTS * 3, 320).get_vocab()
    for text in TEXTS:
        assert with_pattern.encode(text).ids == train_for_models(TEXTS * 3, 320).encode(text).ids


def test_the_pattern_for_marks_keeps_words_of_hindi_and_thai_whole_and_changes_no_other():
    hindi, thai, greek = "परियोजना निर्देशिका", "ที่นี่", "άλφα, x² can't\n  1024"
    assert regex.findall(MARKS_PATTERN, hindi) == ["परियोजना", " निर्देशिका"]
    assert len(regex.findall(GPT2_PATTERN, hindi)) > 5
    assert regex.findall(MARKS_PATTERN, thai) == [thai] and len(regex.findall(GPT2_PATTERN, thai)) == 4
    assert regex.findall(MARKS_PATTERN, greek) == regex.findall(GPT2_PATTERN, greek)
    whole = train_for_models([hindi] * 20, 400, pattern=MARKS_PATTERN)
    assert len(whole.encode(hindi).ids) == 2 and whole.decode(whole.encode(hindi).ids) == hindi


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_adds_its_own_tokens(family):
    tokenizer = load_tokenizer(family)
    single, pair = (tokenizer.convert_ids_to_tokens(tokenizer(*texts).input_ids) for texts in (("a",), ("a", "b")))
    assert single == {"gpt": ["a"], "bert": [BOS, "a", EOS], "t5": ["a", EOS]}[family]
    assert pair == {"gpt": ["a", "b"], "bert": [BOS, "a", EOS, "b", EOS], "t5": ["a", EOS, "b", EOS]}[family]
    batch = tokenizer(["a", "a longer text"], padding=True, return_tensors="pt")
    assert batch["input_ids"][0, -1] == tokenizer.pad_token_id
    assert tokenizer.decode(tokenizer("a longer text").input_ids, skip_special_tokens=True) == "a longer text"


def test_a_mask_stands_for_a_word_with_its_space():
    tokenizer = load_tokenizer("bert")
    ids = tokenizer("the <mask> of", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", MASK, "Ġof"]
    assert tokenizer.mask_token_id == 2


def test_a_saved_tokenizer_loads_with_auto_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer("bert")
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a", "b").input_ids == tokenizer("a", "b").input_ids
    assert again.mask_token_id == tokenizer.mask_token_id


def test_made_twice_the_files_are_the_same_bytes(tmp_path):
    made = [
        benchmark.make(tmp_path / name, texts, TEXTS, "none", 320)
        for name, texts in (("once", TEXTS), ("twice", TEXTS), ("turned", TEXTS[::-1]))
    ]
    assert len({paths[0].read_bytes() for paths in made}) == 1
    assert made[0][1].read_text() == made[1][1].read_text()
    assert sorted(path.name for path in (tmp_path / "once").iterdir()) == ["tokenizer.json", "tokenizer.md"]
    assert load_tokenizer(path=made[0][0]).tokenize("the 12") == ["the", "Ġ", "1", "2"]


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size=100: .* need 293 up"):
        train_for_models(TEXTS, 100)
    with pytest.raises(ValueError, match="sentinels=-1"):
        special_tokens(-1)
    with pytest.raises(ValueError, match="family='llama': it takes gpt, bert, t5"):
        load_tokenizer("llama")
    with pytest.raises(FileNotFoundError, match=r"benchmarks/train_tokenizer\.py"):
        load_tokenizer(path=tmp_path / "none.json")
