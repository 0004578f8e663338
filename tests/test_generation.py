import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llmbook.generation import beam_search, cached_scores, filter_logits, sample
from llmbook.transformer import Decoder, TransformerConfig


def random_model(seed: int, vocab: int = 5):
    """A first-order Markov chain with random logits."""
    table = torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed)) * 2
    return lambda ids: table[ids[:, -1]]


@given(
    st.integers(0, 10_000),
    st.floats(0.2, 3),
    st.one_of(st.none(), st.integers(1, 60)),
    st.floats(0.05, 1),
)
@settings(deadline=None, max_examples=200)
def test_filters_equal_hugging_face(seed, temperature, top_k, top_p):
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 3
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    assert_close(filter_logits(logits, temperature, top_k, top_p), expected)


@given(st.integers(0, 10_000), st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=100)
def test_top_p_keeps_the_smallest_set_that_reaches_p(seed, top_p):
    logits = torch.randn(20, generator=torch.Generator().manual_seed(seed)).double()
    kept = filter_logits(logits, top_p=top_p).isfinite()
    probabilities = logits.softmax(-1)
    mass = probabilities[kept].sum()
    assert mass >= top_p - 1e-9
    assert mass - probabilities[kept].min() < top_p + 1e-9


def test_sampling_follows_the_distribution():
    model = random_model(0)
    prompt = torch.zeros(20_000, 1, dtype=torch.long)
    drawn = sample(model, prompt, 1, torch.Generator().manual_seed(0))[:, 1].bincount(minlength=5) / 20_000
    assert_close(drawn, model(prompt[:1])[0].softmax(-1), atol=0.02, rtol=0)


def test_top_k_one_is_greedy_and_needs_no_luck():
    model, prompt = random_model(1), torch.tensor([[2]])
    one = sample(model, prompt, 8, torch.Generator().manual_seed(0), top_k=1)
    other = sample(model, prompt, 8, torch.Generator().manual_seed(1), top_k=1)
    assert one.equal(other)
    assert all(b == model(torch.tensor([[a]])).argmax() for a, b in itertools.pairwise(one[0].tolist()))


def test_sequences_stop_and_stay_stopped():
    ids = sample(random_model(2), torch.ones(200, 1, dtype=torch.long), 12, torch.Generator().manual_seed(0), stop=0)
    ended = (ids == 0).cumsum(1) > 0
    assert ended.any()
    assert (ids[ended] == 0).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stop", [None, 0])
def test_wide_beam_finds_the_best_sequence(seed, stop):
    model, length = random_model(seed), 4
    best = -math.inf
    for tokens in itertools.product(range(5), repeat=length):
        score, previous = 0.0, 1
        for token in tokens:
            score += float(model(torch.tensor([[previous]])).double().log_softmax(-1)[0, token])
            previous = token
            if token == stop:
                break
        best = max(best, score)
    _, score = beam_search(model, torch.tensor([[1]]), length, 5**length, stop=stop)
    assert score == pytest.approx(best)


def test_beam_of_one_is_greedy():
    model, prompt = random_model(3), torch.tensor([[4]])
    greedy = sample(model, prompt, 6, torch.Generator(), top_k=1)[0]
    assert beam_search(model, prompt, 6, 1)[0].equal(greedy)


@pytest.mark.parametrize("num_beams", [2, 4])
def test_beam_search_equals_hugging_face(num_beams):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5)
    gpt = GPT2LMHeadModel(config).eval()
    prompt = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        ours, _ = beam_search(lambda ids: gpt(ids).logits[:, -1], prompt, 8, num_beams)
        theirs = gpt.generate(
            prompt, max_new_tokens=8, num_beams=num_beams, do_sample=False, length_penalty=0.0, eos_token_id=None,
            pad_token_id=0, attention_mask=torch.ones_like(prompt),
        )  # fmt: skip
    assert ours.equal(theirs[0])


def test_cached_scores_choose_as_scores_computed_anew():
    torch.manual_seed(0)
    decoder = Decoder(TransformerConfig(40, d_model=16, num_layers=2, num_heads=2)).eval()
    computed = []
    decoder.register_forward_pre_hook(lambda _, given: computed.append(given[0].numel()))
    kept, prompt = cached_scores(decoder), torch.tensor([[3, 1, 4], [1, 5, 9]])

    @torch.no_grad()
    def anew(ids):
        return decoder(ids).logits[:, -1]

    for settings_ in ({"top_k": 1}, {"temperature": 1.5}):
        drawn = [sample(scores, prompt, 6, torch.Generator().manual_seed(0), **settings_) for scores in (kept, anew)]
        assert drawn[0].equal(drawn[1])
    (ours, ours_score), (theirs, theirs_score) = (beam_search(scores, prompt[:1], 6, 3) for scores in (kept, anew))
    assert ours.equal(theirs) and math.isclose(ours_score, theirs_score, rel_tol=1e-5)
    computed.clear()
    sample(kept, prompt, 6, torch.Generator().manual_seed(0), top_k=1)
    assert computed == [6, 2, 2, 2, 2, 2]
    assert_close(kept(torch.tensor([[7]])), anew(torch.tensor([[7]])))  # another text: nothing is taken from the last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature=0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": 2}, "top_p=2"),
    ],
)
def test_bad_settings_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        filter_logits(torch.zeros(3), **arguments)


def test_bad_beams_say_what_is_allowed():
    with pytest.raises(ValueError, match="num_beams=0"):
        beam_search(random_model(0), torch.tensor([[1]]), 3, 0)
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        beam_search(random_model(0), torch.tensor([[1], [2]]), 3, 2)
