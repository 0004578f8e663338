"""Held-out text is measured on one road: by hand, as chapter 1, transformers and lm-evaluation-harness measure it."""

import ast
import math
from dataclasses import replace
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from llmbook import corpora, hub, ngram, tokenization
from llmbook.evaluation import likelihood
from llmbook.evaluation.likelihood import BOOK, Convention, document_log_probs, score_texts
from llmbook.metrics import bits_per_byte
from llmbook.transformer import Decoder, TransformerConfig

V = 60
SMALL = BOOK.with_window(8)
CHAPTER = Path(__file__).parents[1] / "book" / "en" / "01-language-models.md"


def decoder(vocab_size=V, max_length=64):
    torch.manual_seed(0)
    return Decoder(TransformerConfig(vocab_size, d_model=16, num_layers=1, num_heads=2, max_length=max_length)).eval()


def documents(*lengths):
    rng = np.random.default_rng(0)
    return [np.append(rng.integers(1, V, length - 1), 0).astype(np.int32) for length in lengths]


class Watched:
    """A model that gives each token the same probability and remembers what it was shown."""

    def __init__(self, vocab_size=V):
        self.rows, self.vocab_size = [], vocab_size

    def __call__(self, ids):
        self.rows += ids.tolist()
        return torch.zeros(*ids.shape, self.vocab_size)


# --- what others measure ----------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """An LSTM as chapter 1 has it: ids to logits."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.out = nn.Embedding(V, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, V)

    def forward(self, ids):
        return self.out(self.lstm(self.embed(ids))[0])


def test_it_is_what_chapter_one_builds_in_the_open():
    sources = [cell.source for cell in jupytext.read(CHAPTER).cells if "engine" in cell.metadata.get("tags", [])]
    tree = next(n for source in sources for n in ast.parse(source).body if getattr(n, "name", "") == "log_probs")
    runtime = type("Runtime", (), {"device": torch.device("cpu")})
    names = {"torch": torch, "F": F, "WINDOW": 8, "rt": runtime}
    exec(ast.unparse(tree), names)  # our own manuscript
    torch.manual_seed(0)
    model, some = Recurrent(), documents(1, 3, 8, 9, 12, 13, 40)
    expected = names["log_probs"](model, some)
    assert_allclose(np.concatenate(document_log_probs(model, some, SMALL, start=0)), expected, atol=1e-5)


def test_one_window_costs_what_transformers_calls_its_loss():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2, n_positions=64)).eval()
    (document,) = documents(50)
    ids = torch.tensor([[0, *document]])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    (found,) = document_log_probs(model, [document], BOOK.with_window(64), start=0)
    assert -found.mean() == pytest.approx(loss, abs=1e-5)


def test_windows_without_overlap_are_the_harness_rolling_windows():
    """lm-evaluation-harness, ``get_rolling_token_windows`` with its default ``context_len=1``, but for the last one."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    model, (document,) = decoder(), documents(24)
    windows = map(make_disjoint_window, get_rolling_token_windows(document.tolist(), 0, 8, 1))
    total = 0.0
    for context, scored in windows:
        both = torch.tensor([[*context, *scored]])
        with torch.no_grad():
            log_probs = model(both[:, :-1]).logits.log_softmax(-1)[0, len(context) - 1 :]
        total += log_probs.gather(1, torch.tensor(scored)[:, None]).sum().item()
    (found,) = document_log_probs(model, [document], replace(SMALL, overlap=0), start=0)
    assert found.sum() == pytest.approx(total, abs=1e-4)


def test_each_window_is_read_alone_where_none_overlaps():
    model, convention = decoder(), replace(BOOK, window=4, overlap=0)
    some = [np.array([5, 6, 7, 8, 9, 0]), np.array([3, 0])]
    found = document_log_probs(model, some, convention, start=0)
    with torch.no_grad():
        for ids, expected in (([0, 5, 6, 7, 8], found[0][:4]), ([8, 9, 0], found[0][4:]), ([0, 3, 0], found[1])):
            logits = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
            chosen = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
            assert_allclose(chosen.numpy(), expected, atol=1e-5)


def test_a_table_of_counts_answers_for_whole_texts():
    some = documents(5, 30, 2)
    table = ngram.KneserNey(ngram.NGramCounts(some, V, 3), 3)
    alone = document_log_probs(table, some, SMALL, start=0)
    assert_allclose(np.concatenate(alone), table.log_prob(some))
    joined = document_log_probs(table, some, replace(SMALL, joined=True), start=0)
    assert_allclose(np.concatenate(joined), table.log_prob([np.concatenate(some)]))
    assert [len(part) for part in joined] == [5, 30, 2] and not np.allclose(joined[1], alone[1])


# --- laws of all conventions ------------------------------------------------------------------------------------------

conventions = st.integers(1, 12).flatmap(
    lambda window: st.builds(
        Convention, st.just(window), st.integers(0, window - 1), st.booleans(), st.none() | st.integers(1, 20),
        st.just("<s>"), st.just("</s>"),
    )
)  # fmt: skip


@given(conventions, st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 5))
@settings(deadline=None)
def test_every_token_is_scored_once_and_no_window_is_longer_than_it_may_be(convention, lengths, batch_size):
    model, some = Watched(), documents(*lengths)
    found = document_log_probs(model, some, convention, start=0, batch_size=batch_size)
    assert [len(part) for part in found] == [min(n, convention.max_tokens or n) for n in lengths]
    assert_allclose(np.concatenate(found), -math.log(V), rtol=1e-6)
    assert max(map(len, model.rows)) <= convention.window


class Counting:
    """A model whose probability of any token says how many tokens it has read: logits of token 1 against all others."""

    def __call__(self, ids):
        logits = torch.zeros(*ids.shape, 2)
        logits[..., 1] = torch.arange(1, ids.shape[1] + 1)  # the number of tokens that have been read
        return logits


def read_before(convention, length):
    """How many tokens, the start token included, each token of a document of ones is predicted from."""
    (found,) = document_log_probs(Counting(), [np.ones(length, dtype=np.int32)], convention, start=0)
    return np.round(-np.log(np.expm1(-found)))  # log(1 + exp(-n)) = -log p


@given(st.integers(2, 10), st.integers(1, 40), st.data())
@settings(deadline=None)
def test_a_token_is_predicted_from_more_than_the_overlap_and_at_most_the_window(window, length, data):
    overlap = data.draw(st.integers(0, window - 1))
    found = read_before(replace(BOOK, window=window, overlap=overlap), length)
    from_start = np.arange(1, length + 1)
    assert (found == np.where(from_start <= window, from_start, found)).all()
    assert (found >= np.minimum(from_start, overlap + 1)).all() and (found <= window).all()


@given(st.integers(2, 10), st.integers(1, 40))
@settings(deadline=None)
def test_more_overlap_never_takes_context_away_in_the_mean(window, length):
    means = [read_before(replace(BOOK, window=window, overlap=n), length).mean() for n in range(window)]
    assert (np.diff(means) >= -1e-9).all()


def test_joined_documents_are_one_text_and_documents_alone_do_not_see_each_other():
    model, some = decoder(), documents(5, 9, 4)
    joined = document_log_probs(model, some, replace(SMALL, joined=True), start=0)
    (whole,) = document_log_probs(model, [np.concatenate(some)], SMALL, start=0)
    assert_allclose(np.concatenate(joined), whole, atol=1e-6)
    alone = document_log_probs(model, some, SMALL, start=0)
    for document, expected in zip(some, alone, strict=True):
        assert_allclose(document_log_probs(model, [document], SMALL, start=0)[0], expected, atol=1e-5)
    assert_allclose(joined[0], alone[0], atol=1e-5)
    assert not np.allclose(joined[1], alone[1], atol=1e-3)


def test_batches_change_nothing_and_a_model_stays_in_its_mode():
    model, some = decoder().train(), documents(3, 30, 11)
    one, many = (document_log_probs(model, some, SMALL, start=0, batch_size=n) for n in (1, 64))
    assert_allclose(np.concatenate(one), np.concatenate(many), atol=1e-5)
    assert model.training


def test_products_in_half_precision_are_near():
    model, some = decoder(), documents(20, 5)
    exact, rounded = (
        np.concatenate(document_log_probs(model, some, SMALL, start=0, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert_allclose(exact, rounded, atol=0.05)
    assert not np.array_equal(exact, rounded)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_bits_are_counted_over_all_tokens_with_the_end_and_bytes_over_the_text_alone():
    tokenizer = tokenization.train_byte_bpe(["a graph has nodes"], 280)
    model = decoder(280)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    texts = ["a graph", "nodes and é"]
    tokens = np.array([len(ids) for ids in tokenization.encode_documents(tokenizer, texts)])
    scores = score_texts(model, tokenizer, texts, SMALL)
    assert scores.tokens.tolist() == tokens.tolist() and scores.bytes.tolist() == [7, 12]
    assert_allclose(scores.bits, tokens * math.log2(280), rtol=1e-5)
    assert scores.bits_per_byte == pytest.approx(tokens.sum() * math.log2(280) / 19)
    assert scores.nats_per_token == pytest.approx(math.log(280), rel=1e-5)
    assert score_texts(model, tokenizer, texts, replace(SMALL, end=None)).tokens.tolist() == (tokens - 1).tolist()


def test_both_kinds_of_tokenizers_give_the_same_and_metrics_agrees():
    fast, model = tokenization.load_tokenizer("gpt"), decoder(4096)
    texts = ["Return the sum of an array.", "naïve: 数"]
    one, two = (score_texts(model, tokenizer, texts, SMALL) for tokenizer in (fast, fast.backend_tokenizer))
    assert_allclose(one.nats, two.nats)
    ids = tokenization.encode_documents(fast.backend_tokenizer, texts)
    log_probs = np.concatenate(document_log_probs(model, ids, SMALL, start=0))
    assert one.bits_per_byte == pytest.approx(bits_per_byte(log_probs, sum(len(text.encode()) for text in texts)))


def test_of_a_text_that_is_cut_off_only_the_bytes_that_were_scored_count():
    tokenizer, model = tokenization.load_tokenizer("gpt"), decoder(4096)
    text = "Return the sum of the elements of an array over an axis."
    cut = score_texts(model, tokenizer, [text, "Short."], replace(SMALL, max_tokens=5))
    kept = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:5])
    assert text.startswith(kept) and cut.bytes.tolist() == [len(kept), 6] and cut.tokens[0] == 5
    exact = score_texts(model, tokenizer, [kept], replace(SMALL, end=None))
    assert cut.nats[0] == pytest.approx(exact.nats[0], abs=1e-4)


def test_another_tokenizers_own_tokens_begin_and_end_a_text():
    raw = tokenization.train_byte_bpe(["a graph has nodes"], 280)
    raw.add_special_tokens(["<s>", "</s>"])
    own = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    convention = SMALL.for_tokenizer(own)
    assert (convention.start, convention.end) == ("<s>", "</s>")
    model = Watched(vocab_size=300)
    scores = score_texts(model, own, ["a"], convention)
    assert scores.tokens.tolist() == [2] and model.rows[0][0] == own.bos_token_id
    assert SMALL.for_tokenizer(tokenization.load_tokenizer("gpt")) == SMALL
    ended = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>")
    assert SMALL.for_tokenizer(ended).end is None
    with pytest.raises(ValueError, match="neither a bos nor an eos"):
        SMALL.for_tokenizer(PreTrainedTokenizerFast(tokenizer_object=raw))
    with pytest.raises(ValueError, match="no token '<none>'"):
        score_texts(model, raw, ["a"], replace(SMALL, start="<none>"))


def test_a_convention_is_a_sentence():
    assert BOOK.describe() == (
        "each document alone, windows of 512 tokens that overlap by 256, nothing cut off, <|endoftext|> before the "
        "first token, <|endoftext|> after the last one, which is scored"
    )
    other = Convention(64, 0, joined=True, max_tokens=100, start="<s>", end=None)
    assert other.describe() == (
        "documents joined to one text, windows of 64 tokens that do not overlap, cut off after 100 tokens, <s> before "
        "the first token, no end token scored"
    )
    assert BOOK.with_window(64).overlap == 32 and BOOK.with_window(1).overlap == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: replace(BOOK, window=0), "window=0"),
        (lambda: replace(BOOK, overlap=512), "overlap=512"),
        (lambda: replace(BOOK, overlap=-1), "overlap=-1"),
        (lambda: replace(BOOK, max_tokens=0), "max_tokens=0"),
        (lambda: document_log_probs(Watched(), [], BOOK, start=0), "no document"),
        (lambda: document_log_probs(Watched(), [[1], []], BOOK, start=0), "without a token"),
        (lambda: score_texts(Watched(), tokenization.load_tokenizer("gpt"), ["a", ""], BOOK), "none of them empty"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.slow
def test_the_held_out_documents_are_those_of_chapter_one():
    texts = corpora.held_out()
    assert texts == list(corpora.pydocs().shuffle(seed=0)["test"]["text"][:200]) and len(texts) == 200


@pytest.mark.slow
def test_the_shipped_model_reads_better_with_more_context_and_the_convention_is_seen_in_the_number():
    model, tokenizer = hub.pretrained("pydocs-gpt")
    texts = [text for text in corpora.held_out() if len(text) > 2000][:3]
    book, apart = (
        score_texts(model, tokenizer, texts, convention).bits_per_byte
        for convention in (BOOK.with_window(128), replace(BOOK.with_window(128), overlap=0))
    )
    assert book < apart - 0.02
    assert likelihood.BOOK.window == model.config.max_length
