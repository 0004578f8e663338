"""The corpora of the pinned text: the first run builds them, later ones read the user's cache."""

import random
import re
from collections import Counter

import numpy as np
import pytest
import scipy.sparse

from llmbook import corpora
from llmbook.corpora import cache, duplicates, installed, labels, sources

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
TASKS = ("topic_classification", "section_classification", "named_entities", "summarisation", "question_answering")


@pytest.fixture(scope="module")
def pydocs():
    return corpora.pydocs()


def column(corpus, name):
    return [value for part in corpus.values() for value in part[name]]


def test_pydocs_is_what_the_book_counts_on(pydocs):
    described = corpora.describe(pydocs)
    sizes = {split: part["documents"] for split, part in described["splits"].items()}
    total = sum(sizes.values())
    assert 30_000 < total < 45_000 and 24e6 < sum(part["bytes"] for part in described["splits"].values()) < 40e6
    assert list(sizes) == ["train", "validation", "test"]
    assert 0.88 < sizes["train"] / total < 0.92 and min(sizes.values()) > 0.04 * total
    assert set(column(pydocs, "package")) == {package.name for package in installed.PACKAGES}
    assert set(column(pydocs, "kind")) == {"module", "class", "function", "method"}
    topics = set(zip(column(pydocs, "package"), column(pydocs, "topic"), strict=True))
    assert len(topics) == len(installed.PACKAGES)


def test_no_document_stands_twice(pydocs):
    texts = [" ".join(text.split()) for text in column(pydocs, "text")]
    assert len(set(texts)) == len(texts) and min(map(len, texts)) >= 80
    ids = column(pydocs, "id")
    assert len(set(ids)) == len(ids) and set(column(pydocs, "cluster")) <= set(ids)


def shared_shingles(held_out, train):
    """Yield for each held-out text the exact Jaccard similarity with its nearest text in `train`."""
    vocabulary = {}
    matrices = []
    for texts in (train, held_out):
        rows = [[vocabulary.setdefault(one, len(vocabulary)) for one in duplicates.shingles(text)] for text in texts]
        pointers = np.cumsum([0, *map(len, rows)])
        indices = np.concatenate([np.array(row, dtype=np.int32) for row in rows])
        matrices.append((np.ones(len(indices), dtype=np.int32), indices, pointers))
    train_matrix, held_out_matrix = (
        scipy.sparse.csr_matrix(parts, shape=(len(parts[2]) - 1, len(vocabulary))) for parts in matrices
    )
    sizes = np.diff(train_matrix.indptr)
    transposed = train_matrix.T.tocsr()
    for start in range(0, len(held_out), 200):
        common = (held_out_matrix[start : start + 200] @ transposed).tocoo()
        own = np.diff(held_out_matrix[start : start + 200].indptr)
        similarity = common.data / (own[common.row] + sizes[common.col] - common.data)
        nearest = np.zeros(len(own))
        np.maximum.at(nearest, common.row, similarity)
        yield from nearest


def test_nothing_held_out_has_a_near_duplicate_in_train(pydocs):
    """Every pair is compared exactly, so this also measures what MinHash missed."""
    held_out = [*pydocs["validation"]["text"], *pydocs["test"]["text"]]
    nearest = np.array(list(shared_shingles(held_out, list(pydocs["train"]["text"]))))
    assert nearest.max() < duplicates.THRESHOLD, f"{(nearest >= duplicates.THRESHOLD).sum()} documents leak"
    assert nearest.max() > 0.4  # the comparison itself works


@pytest.mark.parametrize("name", [*TASKS, "retrieval"])
def test_a_task_inherits_the_split(name, pydocs):
    task = getattr(corpora, name)()
    splits = {id: split for split, part in pydocs.items() for id in part["id"]}
    key = {"section_classification": "document", "named_entities": "document", "question_answering": "title"}
    for split, part in task.items():
        assert {splits[id] for id in part[key.get(name, "id")]} == {split}
    ids = column(task, "id")
    assert len(set(ids)) == len(ids) and len(ids) > 15_000


def test_no_package_name_stays_in_the_masked_texts():
    task = corpora.topic_classification()
    names = re.compile("(?i)numpy|scipy|scikit|sklearn|pandas|matplotlib|torch|sympy|networkx|nltk|standard library")
    aliases = re.compile(r"(?<![A-Za-z0-9_])(np|pd|plt|nx)(?![A-Za-z0-9_])")
    for text in column(task, "masked"):
        assert not names.search(text) and not aliases.search(text), text
    counts = Counter(column(task, "label"))
    assert len(counts) == 10 and min(counts.values()) > 1_000


def test_sections_have_five_labels():
    assert set(column(corpora.section_classification(), "label")) == set(range(5))


def test_entities_align_and_all_kinds_occur():
    task = corpora.named_entities()
    kinds = Counter(tag for tags in column(task, "tags") for tag in tags)
    assert all(kinds[number] for number, name in enumerate(labels.TAGS) if not name.startswith("I-"))
    for tokens, tags in zip(column(task, "tokens"), column(task, "tags"), strict=True):
        assert len(tokens) == len(tags) and not any("`" in token for token in tokens)


def test_summaries_are_not_in_what_they_summarise():
    for name, given, wanted in (("summarisation", "body", "summary"), ("retrieval", "document", "query")):
        task = getattr(corpora, name)()
        for text, sentence in zip(column(task, given), column(task, wanted), strict=True):
            assert sentence.lower() not in " ".join(text.lower().split())


def test_answers_stand_where_they_are_said_to_stand():
    task = corpora.question_answering()
    without = 0
    for context, answers in zip(column(task, "context"), column(task, "answers"), strict=True):
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            assert text and context[start : start + len(text)] == text
        without += not answers["text"]
    assert 0.2 < without / len(column(task, "id")) < 0.4


def test_catalogs():
    task = corpora.catalogs()
    languages = Counter(column(task, "language"))
    assert len(languages) > 50 and languages["zh-CN"] > 3_000 and "en" not in languages
    assert all(re.fullmatch(r"[a-z]{2,3}(-Latn|-[A-Z]{2})?", language) for language in languages)
    sources = [set(part["source"]) for part in task.values()]
    assert len(sources) == 3 and not (sources[0] & sources[1] or sources[0] & sources[2] or sources[1] & sources[2])
    for source, target in zip(column(task, "source"), column(task, "target"), strict=True):
        assert source.strip() and target.strip() and source != target


def test_code():
    task = corpora.code()
    size = Counter()
    for language, text in zip(column(task, "language"), column(task, "text"), strict=True):
        size[language] += len(text.encode())
    assert set(size) == {"Python", "Cython", "C", "C/C++ header", "C++", "JavaScript", "CSS"}
    assert max(size.values()) <= 4_000_000
    clusters = [set(part["cluster"]) for part in task.values()]
    assert not (clusters[0] & clusters[1] or clusters[0] & clusters[2] or clusters[1] & clusters[2])


@pytest.mark.parametrize("name", ["catalogs", "code"])
def test_no_near_duplicate_of_a_sample_is_held_out_elsewhere(name):
    task = getattr(corpora, name)()
    texts = {split: sorted(set(part["source" if name == "catalogs" else "text"])) for split, part in task.items()}
    held_out = random.Random(0).sample(texts["validation"] + texts["test"], 40)
    assert max(shared_shingles(held_out, texts["train"])) < duplicates.THRESHOLD


def test_the_cache_holds_the_hash_that_describe_gives(pydocs):
    sha256 = corpora.describe(pydocs)["sha256"]
    manifests = [path.read_text() for path in cache.cache_folder().glob(f"pydocs-*/{cache.MANIFEST}")]
    assert any(sha256 in manifest for manifest in manifests)


@pytest.mark.parametrize("name", ["pydocs", "catalogs", "code"])
def test_a_corpus_is_the_books_own_if_its_fingerprint_is(name):
    found = corpora.describe(getattr(corpora, name)())["sha256"]
    assert corpora.own_text(name) == (found == sources.pins(name).sha256)
