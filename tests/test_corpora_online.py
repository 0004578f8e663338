import re
import socket
import zipfile

import datasets
import pytest

from llmbook.corpora import CorpusError, _online, online

QUESTION = {"id": "1", "title": "t", "context": "c", "question": "q", "answers": {"text": ["c"], "answer_start": [0]}}
ROWS = {
    "wikitext": {"text": "a"},
    "wikitext-103": {"text": "a"},
    "tinystories": {"text": "a"},
    "sst2": {"idx": 0, "sentence": "a", "label": 1},
    "squad": QUESTION,
    "squad_v2": QUESTION,
    "cnn_dailymail": {"article": "a", "highlights": "b", "id": "c"},
    "wmt14": {"translation": {"de": "a", "en": "b"}},
    "wmt16": {"translation": {"ro": "a", "en": "b"}},
    "glue": {"sentence": "a", "label": 1, "idx": 0},
    "super_glue": {"question": "q", "passage": "p", "idx": 0, "label": 1},
    "ceval": {"id": 0, "question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "A", "explanation": ""},
    "cmmlu": {"Question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "Answer": "A"},
}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBOOK_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "mirror"


def put(folder, name, split, *rows):
    (folder / name).mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(list(rows)).to_parquet(folder / name / f"{split}.parquet")


@pytest.mark.parametrize("name", _online.PUBLIC_SETS)
def test_a_mirror_serves_every_set(name, mirror):
    put(mirror, name, "train", *[ROWS[name]] * 4)
    put(mirror, name, "validation", ROWS[name])
    assert {split: part[0] for split, part in online(name).items()} == {"train": ROWS[name], "validation": ROWS[name]}
    assert len(online(name, "train[:50%]")) == 2


def test_another_schema_is_refused(mirror):
    put(mirror, "sst2", "train", {"text": "a", "label": 1})
    with pytest.raises(CorpusError, match=r"^The data set sst2 lacks the columns idx, sentence:[^\n]*$"):
        online("sst2")


def test_a_mirror_without_the_set_says_so(mirror):
    with pytest.raises(CorpusError, match=r"^[^\n]*mirror/squad has no files[^\n]*question_answering\(\) offline\.$"):
        online("squad")


def test_a_split_that_is_not_there_is_one_clear_error(mirror):
    put(mirror, "wikitext", "train", ROWS["wikitext"])
    with pytest.raises(CorpusError, match=r"^The data set wikitext cannot be had \([^\n]*nowhere[^\n]*$"):
        online("wikitext", "nowhere")


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_one_clear_error_comes_after_one_question(offline, tmp_path, monkeypatch):
    asked, connect = [], socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: asked.append(to) or connect(self, to))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CorpusError, match=r"^[^\n]*wikitext cannot be had[^\n]*corpora.pydocs\(\) offline\.$"):
        online("wikitext")
    assert asked == ([] if offline else [("127.0.0.1", 9)]), "what asks again and again makes the reader wait"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CorpusError, match=r"'c4'.*wikitext.*cmmlu"):
        online("c4")
    with pytest.raises(CorpusError, match="ROOTS is gated"):
        online("roots")


def test_every_set_is_pinned_to_a_commit_and_has_an_offline_stand_in():
    for wanted in _online.PUBLIC_SETS.values():
        assert re.fullmatch("[0-9a-f]{40}", wanted.revision)
        assert callable(getattr(__import__("llmbook.corpora").corpora, wanted.offline))


@pytest.fixture
def hub(monkeypatch):
    """A hub that writes down what it is asked for and answers with one row of the set."""
    asked = {}

    def load_dataset(path, config=None, **options):
        asked.update(options, path=path, config=config)
        return datasets.DatasetDict(train=datasets.Dataset.from_list([ROWS[asked.pop("name")]]))

    monkeypatch.delenv("LLMBOOK_MIRROR", raising=False)
    monkeypatch.setattr(_online, "_answers", lambda address: True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("name", [name for name, wanted in _online.PUBLIC_SETS.items() if not wanted.files])
def test_the_hub_is_asked_for_the_pinned_commit(name, hub):
    hub["name"] = name
    online(name)
    path, config, revision, *_ = _online.PUBLIC_SETS[name]
    assert hub == {"path": path, "config": config, "revision": revision, "split": None}


def test_another_part_of_a_set_is_asked_for_by_its_name(hub):
    hub["name"] = "glue"
    online("glue", "validation", config="mnli")
    assert (hub["config"], hub["split"]) == ("mnli", "validation")


def test_a_set_with_a_script_is_read_from_its_archive_at_the_pinned_commit(hub):
    hub["name"] = "cmmlu"
    online("cmmlu", config="law")
    address = f"hf://datasets/haonan-li/cmmlu@{_online.PUBLIC_SETS['cmmlu'].revision}/cmmlu_v1_0_1.zip"
    assert hub["path"] == "csv"
    assert hub["data_files"] == {part: f"zip://{part}/law.csv::{address}" for part in ("dev", "test")}


def test_tables_in_an_archive_are_read_as_the_addresses_say(tmp_path, monkeypatch):
    row = ROWS["cmmlu"]
    with zipfile.ZipFile(tmp_path / "cmmlu_v1_0_1.zip", "w") as archive:
        for part in ("dev", "test"):
            archive.writestr(f"{part}/law.csv", ",".join(row) + "\n" + ",".join(row.values()) + "\n")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = {part: address.format(config="law", root=tmp_path) for part, address in _online.PUBLIC_SETS["cmmlu"].files}
    found = datasets.load_dataset("csv", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {part: rows[0] for part, rows in found.items()} == {"dev": row, "test": row}
