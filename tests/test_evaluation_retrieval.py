"""BM25 scores as SQLite does, and says so when a query has no known word."""

import math
import re
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.evaluation import retrieval
from llmbook.evaluation.retrieval import BM25

DOCUMENTS = [
    "shortest path in a weighted graph",
    "the degree of a node",
    "a bipartite graph has two sets of nodes, and no path within a set",
    "maximum flow: capacity of edges, flow of edges",
    "colour of a map",
    "spectrum of a matrix and its eigenvalues",
    "path, path, path",
]


def from_the_formula(query: str, documents: list[str], k1: float = 1.2, b: float = 0.75) -> np.ndarray:
    split = [re.findall(r"\w+", document.lower()) for document in documents]
    average = sum(map(len, split)) / len(split)
    scores = np.zeros(len(split))
    for term in re.findall(r"\w+", query.lower()):
        holding = sum(term in words for words in split)
        if holding:
            idf = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
            for place, words in enumerate(split):
                if f := words.count(term):
                    scores[place] += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(words) / average))
    return scores


@pytest.mark.parametrize("query", ["path", "weighted path of a graph", "flow flow edges", "node unknownword"])
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.5), (2.0, 1.0), (0.9, 0.0)])
def test_scores_are_those_of_the_formula(query: str, k1: float, b: float) -> None:
    assert BM25(DOCUMENTS, k1, b).scores(query) == pytest.approx(from_the_formula(query, DOCUMENTS, k1, b))


def test_scores_are_sqlites() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("create virtual table docs using fts5(body)")
    database.executemany("insert into docs(rowid, body) values (?, ?)", enumerate(DOCUMENTS))
    index = BM25(DOCUMENTS, form="robertson")
    for words in (["flow"], ["bipartite", "matrix"], ["degree", "capacity", "map"]):
        rows = database.execute("select rowid, -bm25(docs) from docs where docs match ?", [" OR ".join(words)])
        for row, score in rows:
            assert index.scores(" ".join(words))[row] == pytest.approx(score, rel=1e-6)


def test_search_returns_the_best_first_and_ranks_count_ties_against() -> None:
    index = BM25(DOCUMENTS)
    hits = index.search("path", 3)
    assert hits[0].place == 6
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert index.rank("path", 6) == 1
    assert index.rank("path", 4) == len(DOCUMENTS)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=20), min_size=2, max_size=6), st.sampled_from("abc"))
def test_lucenes_scores_are_never_negative(documents: list[str], query: str) -> None:
    documents = [*documents, "a b c"]
    assert (BM25(documents).scores(query) >= 0).all()


def test_robertsons_idf_is_negative_for_a_term_of_most_documents() -> None:
    documents = ["graph a", "graph b", "graph c", "d"]
    index = BM25(documents, form="robertson")
    assert index.idf[index.terms["graph"]] < 0
    assert BM25(documents).idf[index.terms["graph"]] > 0


def test_a_query_without_known_words_is_refused() -> None:
    with pytest.raises(ValueError, match="no word of the query 'myocardial infarction' occurs in the 7 documents"):
        BM25(DOCUMENTS).search("myocardial infarction")
    with pytest.raises(ValueError, match="no word of the query"):
        BM25(DOCUMENTS).scores("")


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "0 documents"),
        (["", "  "], {}, "without a single term"),
        (["a"], {"k1": -1}, "k1=-1"),
        (["a"], {"b": 2}, "b=2"),
        (["a"], {"form": "okapi"}, "lucene, robertson"),
    ],
)
def test_bad_collections_are_refused(documents: list[str], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BM25(documents, **options)


def test_bad_places_and_counts_are_refused() -> None:
    index = BM25(DOCUMENTS)
    with pytest.raises(ValueError, match="target=7"):
        index.rank("path", 7)
    with pytest.raises(ValueError, match="count=0"):
        index.search("path", 0)


def test_passages_lose_no_word_and_are_short() -> None:
    text = "one two\nthree\n\n" + "four five six " * 10 + "\n\nseven"
    found = retrieval.passages([text, "", "eight"], longest=60)
    assert all(len(passage) <= 60 for passage in found)
    assert {"one", "three", "seven", "eight"} <= set(retrieval.terms(" ".join(found)))


def test_neighbours_vote_for_the_choice_they_hold() -> None:
    documents = ["the degree of a node", "a node has a degree", "an edge has a weight"]
    index = BM25(documents)
    assert retrieval.vote(index, documents, "the degree of a", [" edge now", " node now", " tree now"]) == 1
    with pytest.raises(ValueError, match="2 documents for an index of 3"):
        retrieval.vote(index, documents[:2], "degree", ["a", "b"])


def test_measures_of_rankings() -> None:
    assert retrieval.recall_at([1, 3, 11], 10) == pytest.approx(2 / 3)
    assert retrieval.mean_reciprocal_rank([1, 2, 4]) == pytest.approx((1 + 0.5 + 0.25) / 3)
    for bad in ([], [0, 1]):
        with pytest.raises(ValueError, match="counted from 1"):
            retrieval.recall_at(bad, 1)
