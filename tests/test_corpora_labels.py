import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.corpora import _pydocs, labels

NUMPY = '''"""Arrays for everyone who has numbers in the plural, as numpy (np) has them, and scipy.linalg."""
class Array:
    """A grid of values of one type, see :class:`~numpy.matrix` and `Array.sum` or ``np.zeros(3)``.

    It can be given to the function :func:`numpy.mean`, which needs *axis* to be ``None``.

    Notes
    -----
    Views share memory with the array that they were made from.
    """
    def sum(self, axis, keep):
        """Add the values along an axis, and return what comes out of it.

        Parameters
        ----------
        axis : int, default: 0
            Along which `axis` the values are added.
        keep : bool
            Whether the axis is kept with the length of one.

        Returns
        -------
        Array
            The sums, an array with an axis fewer.

        Raises
        ------
        ValueError
            If there is no such `axis`.
        """
'''
TORCH = '''def mean(values, axis):
    """Return the mean of some values, which is their sum over their number.

    Args:
        values (Tensor): the values, a tensor of any shape, of which none may be missing.
        axis (int, optional): along which axis. Default: ``None``

    Returns:
        Tensor: the mean, a tensor with an axis fewer than before.
    """
'''


def write(root: Path, name: str, **modules: str) -> Path:
    for module, source in modules.items():
        path = root / name / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root / name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBOOK_CACHE", str(root / "cache"))
        patch.setattr(_pydocs.duplicates, "split_of", lambda cluster: "test" if "torch" in cluster else "train")
        folders = {"numpy": write(root, "numpy", core=NUMPY), "torch": write(root, "torch", functional=TORCH)}
        yield _pydocs._pydocs(folders)


def rows(task):
    return [row | {"split": split} for split, part in task.items() for row in part]


def split_of_documents(corpus):
    return {row["id"]: row["split"] for row in rows(corpus)}


@pytest.mark.slow
def test_topics(corpus):
    task = labels._topic_classification(corpus)
    found = {row["id"]: row for row in rows(task)}
    assert {id: row["split"] for id, row in found.items()} == split_of_documents(corpus)
    names = task["train"].features["label"].names
    assert {names[row["label"]] for row in found.values()} == {"arrays", "deep learning"}
    assert found["numpy:numpy.core"]["masked"].endswith("as PACKAGE (PACKAGE) has them, and PACKAGE.linalg.")


def test_sections(corpus):
    task = labels._section_classification(corpus)
    names = task["train"].features["label"].names
    found = {(row["document"], names[row["label"]]): row for row in rows(task)}
    assert found["numpy:numpy.core.Array", "Notes"]["text"].startswith("Views share memory")
    assert ("torch:torch.functional.mean", "Returns") in found
    assert all(row["split"] == split_of_documents(corpus)[row["document"]] for row in found.values())


def test_the_markers_of_fields_do_not_stay_in_sections():
    assert labels.without_fields(":param x: the values\n:type x: int\n:return: the mean") == (
        "x: the values\nx: int\nthe mean"
    )


def tagged(task, document):
    names = task["train"].features["tags"].feature.names
    return [
        [(token, names[tag]) for token, tag in zip(row["tokens"], row["tags"], strict=True)]
        for row in rows(task)
        if row["document"] == document
    ]


def test_entities(corpus):
    task = labels._named_entities(corpus)
    first, second = tagged(task, "numpy:numpy.core.Array")
    assert ("matrix", "B-class") in first
    assert [pair for pair in first if pair[1].endswith("literal")] == [
        *[("np", "B-literal"), (".", "I-literal"), ("zeros", "I-literal")],
        *[("(", "I-literal"), ("3", "I-literal"), (")", "I-literal")],
    ]
    assert ("numpy", "B-function") in second
    entries = tagged(task, "numpy:numpy.core.Array.sum")
    assert entries[0][:4] == [("axis", "B-parameter"), (":", "O"), ("int", "B-type"), (".", "O")]
    assert ("axis", "B-parameter") in entries[0][4:]
    assert entries[-1][0] == ("ValueError", "B-exception")


MARKED_UP = st.lists(
    st.sampled_from(
        [":class:`A.b`", ":py:func:`~a.b`", "``x = 1``", "`axis`", "*axis*", "`t <u>`_", "[1]_", "`", ":a:`"]
    )
    | st.text(st.sampled_from("ab ,.\n"), max_size=5)
).map(" ".join)


@settings(deadline=None)
@given(MARKED_UP, st.booleans())
def test_tags_go_with_tokens_and_no_markup_stays(text, known):
    tokens, tags = labels.bio(labels.entities(text, {"axis"} if known else set()))
    assert len(tokens) == len(tags)
    assert not any("`" in token for token in tokens)
    for before, tag in zip(["O", *tags], tags, strict=False):
        assert tag in labels.TAGS
        assert not tag.startswith("I-") or before in (f"B-{tag[2:]}", f"I-{tag[2:]}")


NAMES = [
    "numpy",
    "NumPy",
    "pytorch",
    "torch",
    "scikit-learn",
    "sklearn",
    "np",
    "plt",
    "to_numpy",
    "import nltk",
    "a.np.b",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*NAMES, "and", "normal", "x", ".", "``"]), max_size=20))
def test_no_package_name_stays_in_a_masked_text(words):
    masked = labels.mask(" ".join(words), {"linalg"})
    assert not re.search("numpy|torch|learn|nltk", masked, re.IGNORECASE)
    assert not re.search(r"\b(np|plt)\b", masked)
    assert masked.count("normal") == words.count("normal")


def test_summaries_stand_apart(corpus):
    (row,) = (row for row in rows(labels._summarisation(corpus)) if row["id"] == "torch:torch.functional.mean")
    assert row["summary"].startswith("Return the mean of some values") and row["body"].startswith("Args:")
    for row in rows(labels._retrieval(corpus)):
        assert row["document"].startswith(row["id"].partition(":")[2] + "\n")
        assert row["query"] not in " ".join(row["document"].split())


def test_questions(corpus):
    found = {(row["title"], row["question"]): row for row in rows(labels._question_answering(corpus))}
    for row in found.values():
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"][start : start + len(text)] == text
    asked = {
        (title.rpartition(".")[2], question.partition(" the ")[2]): row["answers"]["text"]
        for (title, question), row in found.items()
    }
    assert asked == {
        ("sum", "type of the parameter axis?"): ["int"],
        ("sum", "default of the parameter axis?"): ["0"],
        ("sum", "type of the parameter keep?"): ["bool"],
        ("sum", "default of the parameter keep?"): [],
        ("mean", "type of the parameter values?"): ["Tensor"],
        ("mean", "default of the parameter values?"): [],
        ("mean", "type of the parameter axis?"): ["int"],
        ("mean", "default of the parameter axis?"): ["None"],
    }


def test_an_input_seen_in_train_is_not_repeated_in_test(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path))
    task = labels._topic_classification(type(corpus)(train=corpus["train"], test=corpus["train"]))
    assert set(task) == {"train"} and len(task["train"]) == len(corpus["train"])
