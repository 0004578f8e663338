"""Texts that are not plain English, through everything that cuts, compares, redacts or encodes a text."""

import itertools
import json
import math
import time

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmbook import finetuning, pipeline, tokenization
from llmbook.evaluation import contamination, likelihood, retrieval
from llmbook.finetuning import instructions

# Sixty different units of a script, and what stands between them.
SCRIPTS = {
    "english": ([f"word{number}" for number in range(60)], " "),
    "chinese": ([chr(0x4E00 + 7 * number) for number in range(60)], ""),
    "rare chinese": ([chr(0x20000 + number) for number in range(60)], ""),
    "japanese": ([chr(0x3042 + number) for number in range(60)], ""),
    "thai": ([a + b for a, b in itertools.product("กขคงจฉชซญณ", ("", "ิ", "ี", "ึ", "ู", "่"))], ""),
    "khmer": ([a + b for a, b in itertools.product("កខគឃងចឆជឈញ", ("", "ា", "ិ", "ី", "ុ", "ូ"))], ""),
    "hindi": ([a + b + "न" for a, b in itertools.product("कखगघचछजझटठ", ("", "ा", "ि", "ी", "ु", "ू"))], " "),
    "tamil": ([a + b + "ம்" for a, b in itertools.product("கஙசஞடணதநபம", ("", "ா", "ி", "ீ", "ு", "ூ"))], " "),
    "cyrillic": ([a + b for a, b in itertools.product("бвгджзклмн", ("а", "ей", "ит", "ою", "уй", "ья"))], " "),
    "korean": ([chr(0xAC00 + 28 * number) + "는" for number in range(60)], " "),
    "accents": ([a + b + "é" for a, b in itertools.product("bcdfghjklm", "áèîöũå")], " "),
    "emoji": ([chr(0x1F600 + number) for number in range(60)], ""),
}
# Texts that trip programs.
ODD = {name: between.join(units[:12]) for name, (units, between) in SCRIPTS.items()} | {
    "decomposed": "cafe\u0301 nai\u0308ve Nguye\u0302\u0303n",
    "replacement": "caf\ufffd and \ufffd\ufffd",
    "half a pair": "broken \ud83d here, \ude42 there",
    "two halves": "a smile \ud83d\ude42 in two halves",
    "special": "<s> the end </s> of <|endoftext|> and <mask> <pad> <extra_id_0>",
    "zero width": "zero\u200bwidth \u200b \ufe0f soft\u00adhyphen \u2060 \ufeffmark",
    "persian": "می‌خواهم کتاب‌ها را",
    "family": "a 👩\u200d👩\u200d👧 and a ❤\ufe0f 👍🏽",
    "long word": "a" * 101 + " " + "ß" * 300,
    "symbols": "=== !!! →→→ ∑",
    "controls": "a\x00b \x1b[31mred\x07 \u202eright to left",
    "blank": " \t\u3000 ",
}


@pytest.fixture(scope="module")
def shipped():
    return tokenization.load_tokenizer("bert")


def compared(text, tmp_path, shipped):
    """Fingerprint, shingles and SimHash: the same for other white space, not for another text."""
    assert pipeline.fingerprint(text) == pipeline.fingerprint(" \n".join(text.split(" ")))
    others = [other for other in ODD.values() if other != text]
    assert pipeline.fingerprint(text) not in map(pipeline.fingerprint, others)
    mine = set(pipeline.shingle_hashes(text).tolist())
    assert all(mine != set(pipeline.shingle_hashes(other).tolist()) for other in others)
    assert 0 <= pipeline.simhash(text) < 2**64


def measured(text, tmp_path, shipped):
    """The statistics and the language are numbers."""
    identifier = pipeline.LanguageIdentifier(["the sum of", "la somme de"], ["en", "fr"])
    numbers = [*pipeline.statistics(text).values(), *identifier.probabilities(text).values()]
    assert all(map(math.isfinite, numbers))


def searched(text, tmp_path, shipped):
    """A text with a word is found by itself among others, and its own n-grams overlap with it entirely."""
    found = retrieval.terms(text)
    assert found == contamination.plain_words(text) == pipeline.text_units(text)
    if found:
        documents = ["nothing else", text, "no word in common"]
        assert retrieval.BM25(documents).search(text, 1)[0].place == 1
        assert contamination.NgramIndex([text], 1).overlap(text) == 1


def redacted(text, tmp_path, shipped):
    """Nothing is taken for personal, and what is personal between two such texts is all that goes."""
    assert pipeline.redact(text) == (text, {})
    secrets = {"jane@example.com": "EMAIL", "8.8.8.8": "IP", "AKIAIOSFODNN7EXAMPLE": "KEY"}
    latin = text.strip()[-1:].isascii() or text.strip()[:1].isascii() or "é" in text or "ß" in text or "\u0303" in text
    for (secret, kind), gap in itertools.product(secrets.items(), (" ",) if latin else (" ", "")):
        expected = f"{text}{gap}PI:{kind}{gap}{text}", {kind: 1}
        assert pipeline.redact(f"{text}{gap}{secret}{gap}{text}") == expected


def stored(text, tmp_path, shipped):
    """A shard gives back what was written."""
    records = [{"id": "1", "text": text}, {"id": text, "text": "the next"}]
    pipeline.write_shard(tmp_path / "shard.jsonl", records)
    read = list(pipeline.read_shard(tmp_path / "shard.jsonl"))
    whole = tokenization.well_formed if "\ud83d\ude42" in text else str  # JSON joins two halves
    assert read == [{key: whole(value) for key, value in record.items()} for record in records]


def encoded(text, tmp_path, shipped):
    """A document has one end, no other special token, and comes back as it was; a perplexity is finite."""
    end = shipped.convert_tokens_to_ids(tokenization.END_OF_TEXT)
    (ids,) = tokenization.encode_documents(shipped, [text])
    assert ids[-1] == end and not set(ids[:-1].tolist()) & {*shipped.all_special_ids, end}
    decoded = tokenization.backend(shipped).decode(ids[:-1].tolist(), skip_special_tokens=False)
    assert decoded == tokenization.well_formed(text)
    trained = tokenization.train_byte_bpe([text, "the sum of the sums"], 260)
    (ids,) = tokenization.encode_documents(trained, [text])
    assert ids.tolist().count(0) == 1 and trained.decode(ids[:-1].tolist()) == tokenization.well_formed(text)
    assert math.isfinite(pipeline.PerplexityScorer(["the sum"], vocab_size=257, order=2)(text))


def tagged(text, tmp_path, shipped):
    """Every word has its tag on its own first token."""
    words = tokenization.well_formed(text).split() or ["none"]
    tags = list(range(len(words)))
    ((row,), _) = finetuning.encode_words(shipped, [words], [tags], len(words), max_length=2000)
    assert [label for label in row["labels"] if label != -100] == tags
    assert not set(row["input_ids"][1:-1]) & set(shipped.all_special_ids)
    if tokenization.well_formed(text) != text:
        with pytest.raises(ValueError, match="text 0 holds half of a surrogate pair"):
            finetuning.encode_words(shipped, [text.split()])


def segmented(text, tmp_path, shipped):
    """WordPiece and Unigram cut every word as the library does."""
    text = tokenization.well_formed(text)
    letters = sorted(set(text))[::2]
    vocabulary = {"[UNK]": 0} | {f"{mark}{letter}": 0 for letter in letters for mark in ("", "##")}
    numbered = {token: number for number, token in enumerate(vocabulary)}
    scores = {letter: -1.0 - number / 7 for number, letter in enumerate(letters or "a")}
    wordpiece = models.WordPiece(numbered, unk_token="[UNK]")
    unigram = models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0)
    for word in text.split():
        assert tokenization.longest_match(word, numbered) == [token.value for token in wordpiece.tokenize(word)]
        assert tokenization.viterbi(word, scores)[0] == [token.value for token in unigram.tokenize(word)]


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    "holds",
    [compared, measured, searched, redacted, stored, encoded, tagged, segmented],
    ids=lambda holds: holds.__name__,
)
def test_every_text_goes_through_everything(holds, text, tmp_path, shipped):
    holds(text, tmp_path, shipped)


@pytest.mark.parametrize("units, between", SCRIPTS.values(), ids=SCRIPTS)
def test_near_copies_are_found_in_every_script(units, between):
    text = between.join(units)
    near = between.join([*units[:30], units[0], *units[31:]])
    far = between.join(units[::-1])
    assert pipeline.text_units(text) == units
    first, second, third = (set(pipeline.shingle_hashes(one).tolist()) for one in (text, near, far))
    assert len(first & second) / len(first | second) > 0.75 and not first & third
    assert pipeline.simhash_distance(pipeline.simhash(text), pipeline.simhash(near)) < 20
    assert contamination.NgramIndex([text]).overlap(between.join(units[10:40])) == 1
    assert contamination.NgramIndex([text]).overlap(far) == 0
    index = retrieval.BM25([between.join(units[:20]), between.join(units[20:40]), between.join(units[40:])])
    assert [index.search(units[place], 1)[0].place for place in (3, 33, 55)] == [0, 1, 2]


@pytest.mark.parametrize(
    "first, second",
    [("की", "का"), ("दिन", "दान"), ("🙂", "💣"), ("===", "!!!"), ("ที่", "ที"), ("か", "が"), ("שָׁלוֹם", "שָׁלִים")],
)
def test_texts_that_differ_in_marks_or_symbols_are_different(first, second):
    assert pipeline.fingerprint(first) != pipeline.fingerprint(second)
    assert not np.intersect1d(pipeline.shingle_hashes(first), pipeline.shingle_hashes(second)).size


def test_ways_to_write_one_text_are_the_same():
    assert pipeline.text_units("Cafe\u0301 co\u00adop") == pipeline.text_units("café coop") == ["café", "coop"]
    assert pipeline.fingerprint("中文，分词。") == pipeline.fingerprint("中 文 分词")
    assert pipeline.text_units("I ❤\ufe0f 中文 v2_x") == ["i", "中", "文", "v2_x"]


# --- redaction --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("服务器地址8.8.8.8。", "服务器地址PI:IP。"),
        ("地址是2606:4700:4700::1111吗", "地址是PI:IP吗"),
        ("密钥AKIAIOSFODNN7EXAMPLE", "密钥PI:KEY"),
        ("口令token：q8sKd93jfLs0Aq2m。", "口令token：PI:KEY。"),
        ("请联系jane@example.com谢谢", "请联系PI:EMAIL谢谢"),
        ("이메일jane@example.com으로", "이메일PI:EMAIL으로"),
        ("ติดต่อjane@example.comครับ", "ติดต่อPI:EMAILครับ"),
        ("пишите иван@пример.рф", "пишите PI:EMAIL"),
        ("邮箱 用户@例子.中国 。", "邮箱 PI:EMAIL 。"),
        ("José: josé@exämple.com, jose\u0301@exa.com", "José: PI:EMAIL, PI:EMAIL"),
        ("请升级到版本1.2.3.4", "请升级到版本1.2.3.4"),
        ("-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----。", "PI:KEY。"),
        ("-----BEGIN PRIVATE KEY-----\nQUJD", "-----BEGIN PRIVATE KEY-----\nQUJD"),
    ],
)
def test_redaction_has_its_borders_beside_other_scripts(text, expected):
    assert pipeline.redact(text)[0] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "Thanks",
        "a1@example.com ",
        "请联系jane@example.com谢谢",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----",
        "Copyright ",
        "Copyright (c)" + " " * 50,
        "(Ada Quill",
        "* Ada Quill\n",
        "Ada ",
        "a@b.",
        "sk-",
        "token ",
        "1.",
        "::",
        "中",
    ],
)
def test_the_time_of_redaction_is_linear_in_the_text(part):
    def seconds(length):
        text = (part * (length // len(part) + 1))[:length]
        taken = []
        for _ in range(3):
            start = time.process_time()
            pipeline.redact(text)
            taken.append(time.process_time() - start)
        return min(taken)

    short, long = seconds(8_000), seconds(128_000)
    assert long < 64 * max(short, 0.002)  # 16 times the text; a quadratic time would be 256 times as long


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_no_pair_of_a_large_block_is_lost():
    prints = [0xABCDEF | 0xFFFFFFFF << 32] + [0xABCDEF | number << 36 for number in range(250)]
    exact = {pair for pair in itertools.combinations(range(251), 2)
             if pipeline.simhash_distance(*(prints[place] for place in pair)) <= 1}  # fmt: skip
    assert pipeline.simhash_pairs(prints, 1) == exact
    assert pipeline.simhash_pairs(prints, 1, largest=200) < exact
    signatures = np.zeros((300, 4), dtype=np.uint32)
    assert pipeline.band_pairs(signatures, 1, 4) == set(itertools.combinations(range(300), 2))
    assert pipeline.band_pairs(signatures, 1, 4, largest=200) == {(0, other) for other in range(1, 300)}


def test_a_bucket_that_memory_cannot_hold_is_refused_with_the_ways_out():
    with pytest.raises(ValueError, match=r"bucket of 5,000 documents has 12,497,500 pairs.*fingerprint.*largest=200"):
        pipeline.band_pairs(np.zeros((5000, 2), dtype=np.uint32), 1, 2)
    assert len(pipeline.band_pairs(np.zeros((5000, 2), dtype=np.uint32), 1, 2, largest=200)) == 4999


# --- JSON Lines -------------------------------------------------------------------------------------------------------


def test_shards_are_read_as_other_programs_write_them(tmp_path):
    rows = [{"id": "1", "text": "a\u2028b"}, {"id": "2", "text": "b"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    for number, text in enumerate(
        ["\n\n".join(lines), "\ufeff" + "\n".join(lines), "\r\n".join([*lines, " ", ""]), "\n \n" + "\n".join(lines)]
    ):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(text.encode())
        assert list(pipeline.read_shard(path)) == rows
    assert pipeline.process(tmp_path, tmp_path / "out", ()) == 8


@pytest.mark.parametrize("line, message", [("{'id': 1}", "line 2 is no JSON"), ("[1]", "line 2 is a list")])
def test_a_bad_line_of_a_shard_is_named(tmp_path, line, message):
    (tmp_path / "bad.jsonl").write_text(f'{{"id": "1", "text": "a"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=rf"bad\.jsonl, {message}"):
        list(pipeline.read_shard(tmp_path / "bad.jsonl"))


# --- encoding ---------------------------------------------------------------------------------------------------------


def test_special_tokens_in_a_document_are_text_unless_asked_otherwise(shipped):
    end, start = shipped.convert_tokens_to_ids([tokenization.END_OF_TEXT, "<s>"])
    (as_text,) = tokenization.encode_documents(shipped, ["a<|endoftext|>b<s>"])
    (as_control,) = tokenization.encode_documents(shipped, ["a<|endoftext|>b<s>"], control=True)
    assert as_text.tolist().count(end) == 1 and start not in as_text
    assert as_control.tolist().count(end) == 2 and start in as_control
    assert shipped("a<s>")["input_ids"].count(start) == 2  # a call goes on reading them as before
    with tokenization.special_as_text(shipped) as inner:
        assert start not in inner.encode("a<s>", add_special_tokens=False).ids
    assert start in tokenization.backend(shipped).encode("a<s>", add_special_tokens=False).ids


def test_special_tokens_are_text_for_every_task_and_in_scores(shipped):
    end, sep = shipped.convert_tokens_to_ids([tokenization.END_OF_TEXT, "</s>"])
    (row,) = finetuning.encode_texts(shipped, ["one</s>two"])
    assert row["input_ids"].count(sep) == 1
    (row, *_), _ = finetuning.encode_questions(shipped, ["what </s> ends?"], ["a </s> of a text"])
    assert row["input_ids"].count(sep) == 2
    gpt = instructions.chat_tokenizer()
    asked = instructions.Instruction("summary", "Repeat <mask> and <|endoftext|>.", "a <pad> of", "an <mask>")
    (row, short) = instructions.instruction_row(gpt, asked), instructions.text_to_text_row(gpt, asked)
    tokens = gpt.convert_ids_to_tokens(row["input_ids"])
    assert [token for token in tokens if token in tokenization.special_tokens()] == ["<s>", "</s>", "<s>", "</s>"]
    assert [short[name].count(sep) for name in ("input_ids", "labels")] == [1, 1]
    assert gpt.decode(short["labels"][:-1]) == "an <mask>"
    for tokenizer in (gpt, tokenization.backend(gpt)):
        assert end not in likelihood._encoded(tokenizer, ["a<|endoftext|>b"], None)[0][0]


def test_a_word_without_a_token_takes_no_label_from_the_words_behind():
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "john", "lives", "in", "paris"])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]")
    words, names = ["\u200b", "John", "\ufe0f", "\u200b", "lives", "in", "Paris", "\u200d"], ["O", "B-place", "B-name"]
    tags = [0, 2, 0, 0, 0, 0, 1, 0]
    (row,), (places,) = finetuning.encode_words(tokenizer, [words], [tags], 3)
    assert row["labels"] == [2, 0, 0, 1]
    assert places == [-1, 0, -1, -1, 1, 2, 3]
    logits = torch.eye(3)[torch.tensor(row["labels"])]  # (time, labels)
    read = finetuning.read_tags([logits], [places], [words], names)[0]
    assert read == [names[tag] for tag in tags]


def test_a_model_of_nothing_is_empty_or_refused():
    for counts in ({"": 3}, {"a": 0}):
        with pytest.raises(ValueError, match="no character that occurs"):
            tokenization.train_unigram(counts, 5)
    assert tokenization.learn_bpe({}, 5) == ([], []) and tokenization.train_unigram({}, 5) == {}
