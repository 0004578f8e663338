"""The public data sets that a reader knows, from the Hugging Face hub, each at one commit.

The commits were looked up in public code that pins them. ROOTS is not among the sets: its parts are gated (each
reader has to accept their terms), and no pinned commit of one could be found to rely on.
"""

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmbook.corpora.cache import CorpusError

if TYPE_CHECKING:
    import datasets

SECONDS_TO_ANSWER = 5


class PublicSet(NamedTuple):
    """A data set on the hub at a commit, the columns of all its parts, and the corpus that stands in for it offline.

    ``config`` is the part that is loaded unless another one is asked for. ``files`` are for a set that has a script in
    place of plain files, which ``datasets`` does not run any more: the table of each split, by the part's name.
    """

    path: str
    config: str | None
    revision: str
    columns: frozenset[str]
    offline: str
    files: tuple[tuple[str, str], ...] = ()


_TEXT = frozenset({"text"})
_QUESTIONS = frozenset({"id", "title", "context", "question", "answers"})
_CHOICES = frozenset("ABCD")
_WIKITEXT = "b08601e04326c79dfdd32d625aee71d232d685c3"

PUBLIC_SETS = {
    "wikitext": PublicSet("Salesforce/wikitext", "wikitext-2-raw-v1", _WIKITEXT, _TEXT, "pydocs"),
    "wikitext-103": PublicSet("Salesforce/wikitext", "wikitext-103-raw-v1", _WIKITEXT, _TEXT, "pydocs"),
    "tinystories": PublicSet(
        "roneneldan/TinyStories", None, "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64", _TEXT, "pydocs"
    ),
    "sst2": PublicSet(
        "stanfordnlp/sst2",
        None,
        "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
        frozenset({"idx", "sentence", "label"}),
        "topic_classification",
    ),
    "squad": PublicSet(
        "rajpurkar/squad", None, "7b6d24c440a36b6815f21b70d25016731768db1f", _QUESTIONS, "question_answering"
    ),
    "squad_v2": PublicSet(
        "rajpurkar/squad_v2", None, "3ffb306f725f7d2ce8394bc1873b24868140c412", _QUESTIONS, "question_answering"
    ),
    "cnn_dailymail": PublicSet(
        "abisee/cnn_dailymail",
        "3.0.0",
        "96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
        frozenset({"article", "highlights", "id"}),
        "summarisation",
    ),
    "wmt14": PublicSet(
        "wmt/wmt14", "de-en", "b199e406369ec1b7634206d3ded5ba45de2fe696", frozenset({"translation"}), "catalogs"
    ),
    "wmt16": PublicSet(
        "wmt/wmt16", "ro-en", "41d8a4013aa1489f28fea60ec0932af246086482", frozenset({"translation"}), "catalogs"
    ),
    "glue": PublicSet(
        "nyu-mll/glue",
        "cola",
        "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        frozenset({"idx", "label"}),
        "topic_classification",
    ),
    "super_glue": PublicSet(
        "aps/super_glue", "boolq", "3de24cf8022e94f4ee4b9d55a6f539891524d646", frozenset({"idx"}), "question_answering"
    ),
    "ceval": PublicSet(
        "ceval/ceval-exam",
        "computer_network",
        "617524a00b307ff6f9933702f724131fe12ca7ce",
        _CHOICES | {"question", "answer"},
        "question_answering",
    ),
    "cmmlu": PublicSet(
        "haonan-li/cmmlu",
        "computer_science",
        "efcc940752ea4a1ea94d2727f11f83858d64fc8e",
        _CHOICES | {"Question", "Answer"},
        "question_answering",
        (("dev", "zip://dev/{config}.csv::{root}/cmmlu_v1_0_1.zip"),
         ("test", "zip://test/{config}.csv::{root}/cmmlu_v1_0_1.zip")),
    ),
}  # fmt: skip


def online(name: str, split: str | None = None, config: str | None = None) -> "datasets.DatasetDict | datasets.Dataset":
    """Return a public data set from the Hugging Face hub, or one split of it, at a pinned commit.

    ``LLMBOOK_MIRROR`` names a folder to read instead, with the files ``<name>/<split>.parquet``. With
    ``HF_HUB_OFFLINE=1`` a set that was downloaded before is read from the hub's cache.

    Args:
        name: a key of ``PUBLIC_SETS``, such as ``wikitext``, ``squad`` or ``glue``; another name's error has them all.
        split: such as ``train`` or ``validation[:10%]``; all of them where it is not given.
        config: the part of a set that has several, such as ``mnli`` of glue, ``rte`` of super_glue, ``law`` of ceval;
            where it is not given one part stands for the set (cola, boolq, computer_network, computer_science).

    Raises:
        CorpusError: if the name is unknown, the hub cannot be reached or the columns are not the expected ones.
    """
    if name not in PUBLIC_SETS:
        known = ", ".join(PUBLIC_SETS)
        roots = " ROOTS is gated and not among them." if name.lower().startswith("roots") else ""
        raise CorpusError(f"There is no public data set {name!r} here; there are {known}.{roots}")
    import datasets

    wanted = PUBLIC_SETS[name]
    if config is not None:
        wanted = wanted._replace(config=config)
    if not (_mirror() or datasets.config.HF_HUB_OFFLINE or _answers(datasets.config.HF_ENDPOINT)):
        raise _unavailable(name, f"{datasets.config.HF_ENDPOINT} does not answer")
    try:
        found = _from_mirror(name, split) if _mirror() else _from_hub(wanted, split)
    except Exception as error:  # the hub's client raises a score of types, and its own dependencies' besides
        raise _unavailable(name, str(error).partition("\n")[0] or type(error).__name__) from error
    for part in found.values() if isinstance(found, datasets.DatasetDict) else [found]:
        if missing := wanted.columns - set(part.column_names):
            columns = ", ".join(sorted(missing))
            raise CorpusError(f"The data set {name} lacks the columns {columns}: it is not the one the book expects.")
    return found


def _from_hub(wanted: PublicSet, split: str | None) -> "datasets.DatasetDict | datasets.Dataset":
    import datasets

    if wanted.files:
        root = f"hf://datasets/{wanted.path}@{wanted.revision}"
        files = {part: address.format(config=wanted.config, root=root) for part, address in wanted.files}
        return datasets.load_dataset("csv", data_files=files, split=split)
    return datasets.load_dataset(wanted.path, wanted.config, revision=wanted.revision, split=split)


def _from_mirror(name: str, split: str | None) -> "datasets.DatasetDict | datasets.Dataset":
    import datasets

    files = {path.stem: str(path) for path in sorted(Path(_mirror(), name).glob("*.parquet"))}
    if not files:
        raise FileNotFoundError(f"{Path(_mirror(), name)} has no files <split>.parquet")
    return datasets.load_dataset("parquet", data_files=files, split=split)


def _mirror() -> str:
    return os.environ.get("LLMBOOK_MIRROR", "")


def _answers(address: str) -> bool:
    """Tell whether a web server answers within a few seconds, the name's look-up included."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS_TO_ANSWER).close()
        except urllib.error.HTTPError:
            pass  # an answer as well
        except BaseException:  # in a thread of its own, where nobody would catch it: no network, or one that is refused
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return answered.is_set()


def _unavailable(name: str, reason: str) -> CorpusError:
    offline = PUBLIC_SETS[name].offline
    return CorpusError(f"The data set {name} cannot be had ({reason}): use llmbook.corpora.{offline}() offline.")
