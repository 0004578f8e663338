"""Pictures of attention: what they show, and what they refuse."""

import json
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook import viz

TOKENS = ["the", "cat", "<s>", "\n", "词"]


def weights(heads, count, seed=0):
    scores = np.exp(np.random.default_rng(seed).normal(size=(heads, count, count))) * np.tri(count)
    return scores / scores.sum(-1, keepdims=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=6), st.integers(1, 3))
def test_view_carries_any_token_and_the_weights(tokens, heads):
    array = weights(heads, len(tokens))
    soup = BeautifulSoup(viz.attention_view(tokens, array)._repr_html_(), "html.parser")
    assert len(soup.select(".lm-tokens button")) == len(tokens)
    data = json.loads(re.search(r"const data=(\{.*?\]\}),ns", soup.script.string)[1])
    assert np.allclose(data["weights"], array, atol=5e-4)
    assert len(soup.select(".lm-heads button")) == (heads if heads > 1 else 0)
    assert len(soup.select("tbody tr")) == len(tokens)


def test_view_escapes_tokens_and_shows_blanks():
    html = viz.attention_view(TOKENS, weights(1, 5))._repr_html_()
    assert "&lt;s&gt;" in html and "<s>" not in html
    assert "↵" in html


def test_view_is_the_same_each_time_and_needs_no_other_host():
    first, second = (viz.attention_view(TOKENS, weights(2, 5)) for _ in range(2))
    assert first._repr_html_() == second._repr_html_()
    assert set(re.findall(r"https?://[^\s\"'`]+", first._repr_html_())) == {"http://www.w3.org/2000/svg"}
    assert repr(first) == "AttentionView(5 tokens, 2 heads)"


def test_view_speaks_the_language_it_is_given():
    html = viz.attention_view(TOKENS, weights(2, 5), label="注意力权重", head_label="头")._repr_html_()
    assert 'aria-label="注意力权重"' in html and 'aria-label="头 2"' in html and "Head" not in html


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\); 5 tokens need \(5, 5\)"),
        (np.ones((1, 1, 5, 5)), "select one sequence of the batch"),
        (np.full((5, 5), 0.1), "but head 0, query 0 sums to 0.5: pass them after the softmax"),
        (np.eye(5) * 2 - 1 / 5, "query 0 has the weight -0.2: pass them after the softmax"),
        (np.where(np.eye(5, k=3) > 0, np.nan, np.eye(5)), "head 0, query 0 has weights that are NaN"),
    ],
)
def test_what_is_no_attention_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        viz.attention_view(TOKENS, array)


def test_tensors_with_gradient_are_accepted():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(weights(2, 5), requires_grad=True)
    assert "5 tokens, 2 heads" in repr(viz.attention_view(TOKENS, tensor))


def test_map_labels_its_axes():
    import matplotlib

    matplotlib.use("agg")
    viz.use_style()
    ax = viz.attention_map(weights(1, 5), [*TOKENS[:3], "x", "y"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key", "query")
    assert [label.get_text() for label in ax.get_xticklabels()] == [*TOKENS[:3], "x", "y"]
    with pytest.raises(ValueError, match="draws one head, not 2"):
        viz.attention_map(weights(2, 5), TOKENS)


def test_row_of_zeros_is_drawn_empty():
    masked = weights(1, 5)
    masked[0, 2] = 0
    viz.attention_map(masked[0], TOKENS)
    rows = BeautifulSoup(viz.attention_view(TOKENS, masked)._repr_html_(), "html.parser").select("tbody tr")
    assert [bool(row.td.text) for row in rows] == [True, True, False, True, True]


def test_map_of_cross_attention_has_its_own_keys():
    across = np.full((2, 3), 1 / 3)
    ax = viz.attention_map(across, ["le", "chat"], key_tokens=["the", "cat", "."], query_label="cible")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["the", "cat", "."]
    assert ax.get_ylabel() == "cible"
    with pytest.raises(ValueError, match=r"2 tokens and 3 key tokens need \(2, 3\)"):
        viz.attention_map(across.T, ["le", "chat"], key_tokens=["the", "cat", "."])


def test_view_numbers_heads_as_it_is_told():
    soup = BeautifulSoup(viz.attention_view(TOKENS, weights(2, 5), heads=[0, 3])._repr_html_(), "html.parser")
    assert [button.text for button in soup.select(".lm-heads button")] == ["0", "3"]
    assert [cell.text for cell in soup.select("thead th")] == ["Head 0", "Head 3"]
    with pytest.raises(ValueError, match="3 numbers for 2 heads"):
        viz.attention_view(TOKENS, weights(2, 5), heads=[0, 1, 2])


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" the", "the"), ("\n", "↵"), (":\n", ":↵"), (" \t", "␣⇥"), ("##ing", "##ing"), ("词", "词"), ("", "")],
)
def test_blanks_of_a_token_are_visible(token, shown):
    assert viz.visible(token) == shown
