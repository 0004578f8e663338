"""Domains, their words, mixtures, transfer, and the items of a domain's benchmark."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmbook import tokenization
from llmbook.evaluation import domain_items, domains
from llmbook.evaluation.domains import Domain, Transfer

CORPUS = {
    "train": {"topic": ["graphs", "graphs", "plots", "maps"], "text": ["a node", "an edge", "an axis", "a legend"]},
    "test": {"topic": ["graphs", "plots"], "text": ["a tree", "a tick"]},
}


def row(name: str, text: str, **columns: object) -> dict:
    given: dict = {
        "id": f"networkx:networkx.{name}", "name": f"networkx.{name}", "kind": "function", "text": text,
        "summary": text.split("\n")[0], "sections": [], "parameters": [],
    }  # fmt: skip
    return given | columns


# --- text and words ---------------------------------------------------------------------------------------------------


def test_domains_are_read_by_name_with_their_splits() -> None:
    found = domains.read_domains(CORPUS, ["plots", "graphs"])
    assert list(found) == ["plots", "graphs"]
    assert found["graphs"] == Domain("graphs", ("a node", "an edge"), (), ("a tree",))


def test_a_domain_without_held_out_text_is_refused() -> None:
    with pytest.raises(ValueError, match="the domain 'maps' has no test text"):
        domains.read_domains(CORPUS)


def test_an_empty_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' has no train text"):
        Domain("x", (), (), ("held out",))
    with pytest.raises(ValueError, match="'x' has no train text"):
        Domain("x", ("  ",), (), ("held out",))
    with pytest.raises(ValueError, match="no domain"):
        domains.read_domains({"train": {"topic": [], "text": []}})


def test_a_text_in_both_splits_and_an_unknown_name_are_refused() -> None:
    with pytest.raises(ValueError, match="1 texts in both train and test"):
        Domain("x", ("same",), (), ("same",))
    with pytest.raises(ValueError, match="no text of 'medicine'"):
        domains.read_domains(CORPUS, ["medicine"])


@settings(max_examples=30, deadline=None)
@given(st.integers(200, 900), st.integers(0, 5))
def test_taken_bytes_are_near_what_was_asked_and_never_more(num_bytes: int, seed: int) -> None:
    texts = ["é" * n for n in range(1, 40)]
    size = sum(len(text.encode()) for text in domains.take_bytes(texts, num_bytes, seed))
    assert 0.95 * num_bytes <= size <= num_bytes


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="1 texts give 3 of num_bytes=100"):
        domains.take_bytes(["abc"], 100)


def test_words_have_no_digits_and_keep_inner_marks() -> None:
    assert domains.vocabulary_words("The add_edge of G2: don't, in-degree 42 (naïve).") == [
        "the", "add_edge", "of", "g", "don't", "in-degree", "naïve"]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 500), st.integers(1, 500))
def test_keyness_is_scipys_log_likelihood_ratio(a: int, b: int, rest: int, other: int) -> None:
    found = domains.keyness({"w": a, "x": rest}, {"w": b, "x": other})["w"]
    table = [[a, rest], [b, other]]
    expected = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
    sign = np.sign(a / (a + rest) - b / (b + other))
    assert found == pytest.approx(sign * expected, abs=1e-8)


def test_counts_without_words_are_refused() -> None:
    with pytest.raises(ValueError, match="0 words of the domain"):
        domains.keyness({}, {"a": 1})
    with pytest.raises(ValueError, match="no word"):
        domains.coverage({"a": 1}, {})


def test_coverage_is_a_share_of_running_words_and_not_symmetric() -> None:
    assert domains.coverage({"a": 1}, {"a": 3, "b": 1}) == 0.75
    assert domains.coverage({"a": 3, "b": 1}, {"a": 1}) == 1.0


def test_the_tax_counts_tokens_of_words() -> None:
    tokenizer = tokenization.train_byte_bpe(["the the the the node"], 300)
    tax = domains.tokenization_tax(tokenizer, ["the the xyz"])
    assert tax.fertility == pytest.approx((1 + 1 + 4) / 3)
    assert tax.split == pytest.approx(1 / 3)
    assert tax.bytes_per_token > 1
    with pytest.raises(ValueError, match="no word"):
        domains.tokenization_tax(tokenizer, ["12 34"])


# --- transfer ---------------------------------------------------------------------------------------------------------

TRANSFER = Transfer(("a", "b", "c"), np.array([[1.0, 3.0, 2.5], [2.0, 2.0, 3.5], [1.5, 2.5, 2.0]]))


def test_excess_is_zero_at_home_and_asymmetry_turns_its_sign() -> None:
    assert np.diag(TRANSFER.excess) == pytest.approx(0)
    assert TRANSFER.excess[0, 1] == 1.0 and TRANSFER.excess[1, 0] == 1.0
    assert TRANSFER.asymmetry == pytest.approx(-TRANSFER.asymmetry.T)


def test_the_nearest_field_is_a_foreign_one() -> None:
    assert TRANSFER.nearest() == {"a": "c", "b": "c", "c": "a"}
    assert TRANSFER.off_diagonal(TRANSFER.bits).tolist() == [3.0, 2.5, 2.0, 3.5, 1.5, 2.5]


def test_matrices_that_fit_no_names_are_refused() -> None:
    with pytest.raises(ValueError, match="2 names and a matrix"):
        Transfer(("a", "b"), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="finite"):
        Transfer(("a", "b"), np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="it takes \\(3, 3\\)"):
        TRANSFER.off_diagonal(np.zeros((2, 2)))


# --- items ------------------------------------------------------------------------------------------------------------

PROSE = row("f", "Return the shortest thing there is.\n\nFor each of the nodes in the graph, compute a path length.\n\n"
                 "Parameters\n----------\nG : graph\n    Its tree.\n")  # fmt: skip


def test_a_term_item_has_the_authors_word_and_no_synonym() -> None:
    items = domain_items.term_items([PROSE], domain_items.GRAPH_TERMS)
    assert items
    synonyms = {term: set(group) for groups in domain_items.GRAPH_TERMS for group in groups for term in group}
    for item in items:
        term = item.answer.split()[0].strip(",.")
        assert item.prompt + item.answer in PROSE["text"].replace("\n", "\n")
        for choice in item.choices:
            word = choice.split()[0].strip(",.")
            assert choice == item.answer or word not in synonyms[term]
        assert len(set(item.choices)) == 4


def test_no_gap_stands_after_an_article_or_outside_of_the_prose() -> None:
    items = domain_items.term_items([PROSE], domain_items.GRAPH_TERMS)
    assert not any(item.prompt.endswith((" a", " an")) for item in items)
    assert not any("tree" in item.answer for item in items)


def test_type_and_call_items_have_the_form_of_the_documents() -> None:
    parameters = [{"name": "G", "type": "NetworkX graph", "default": "", "description": "Its graph."}]
    examples = [{"title": "Examples", "text": ">>> nx.add_path(G)"}]
    rows = [row(name, f"Does {i}.", parameters=parameters, sections=examples)
            for i, name in enumerate(("add_path", "add_star", "add_cycle", "remove_path"))]  # fmt: skip
    typed, called = domain_items.type_items(rows[:1], domain_items.GRAPH_TYPES), domain_items.call_items(rows)
    assert typed[0].prompt.endswith("----------\nG :") and typed[0].answer == " NetworkX graph"
    assert [item.answer for item in called] == ["add_path("]
    assert called[0].prompt.endswith(">>> nx.")


def test_the_same_documents_give_the_same_benchmark_in_any_order_of_calls() -> None:
    one, two = (domain_items.domain_benchmark("graphs", [PROSE]) for _ in range(2))
    assert one.version == two.version and one.kind == "choice" and one.chance == 0.25


def test_terms_in_two_groups_and_too_few_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="'b' stands in two groups"):
        domain_items.term_items([], [[("a",), ("b",), ("c", "b"), ("d",)]])
    with pytest.raises(ValueError, match="four choices need at least four"):
        domain_items.term_items([], [[("a",), ("b",)]])
    with pytest.raises(ValueError, match="2 groups of types"):
        domain_items.type_items([], [("int",), ("float",)])


def test_documents_without_an_item_are_refused() -> None:
    with pytest.raises(ValueError, match="no item can be made of 1 documents"):
        domain_items.domain_benchmark("graphs", [row("f", "Nothing.")])
