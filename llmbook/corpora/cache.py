"""Build a data set once, keep it as Arrow files under a key, and trust it only after checking it.

One lock guards every build in a cache folder. Whoever holds it may therefore remove what a killed builder left, and
two processes that ask for the same corpus build it once. A corpus is built in a folder beside its place and renamed
into it, so a folder that has its final name is whole.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbook.files import file_sha256, only_builder, without_progress_bars

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

UNFINISHED = ".unfinished"
MANIFEST = "manifest.json"


class CorpusError(RuntimeError):
    """A corpus cannot be had; the message is one line that names what is wrong and the remedy."""


def cache_folder() -> Path:
    """Return the folder of all corpora: ``LLMBOOK_CACHE``, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("LLMBOOK_CACHE") or platformdirs.user_cache_dir("llmbook")).expanduser().absolute()


def cached(name: str, key: str, build: Callable[[], "datasets.DatasetDict"]) -> "datasets.DatasetDict":
    """Return the data set ``name`` built from the inputs with the hash ``key``, calling ``build`` if it is not in the
    cache.

    Raises:
        CorpusError: if the cache cannot be written, or what lies in it is not what was written.
    """
    root = cache_folder()
    folder = root / f"{name}-{key[:16]}"
    if not folder.is_dir():
        with only_builder(root, "build.lock", f"*{UNFINISHED}", lambda: write_errors(root)):
            if not folder.is_dir():
                corpus = build()
                with write_errors(root):
                    _write(corpus, folder, {"name": name, "key": key})
    return _load(folder)


def describe(corpus: "datasets.DatasetDict") -> dict[str, Any]:
    """Return the content hash of a corpus, and the documents and bytes of each split.

    The hash is of the values alone: not of paths, times, or how the rows lie in files. The bytes are those of the
    column ``text`` in UTF-8, or of all strings where there is no such column.

    Returns:
        ``{"sha256": ..., "splits": {"train": {"documents": ..., "bytes": ...}, ...}}``
    """
    digest = hashlib.sha256()
    splits = {}
    for split in sorted(corpus):
        table = corpus[split].with_format("arrow")[:]
        columns = ["text"] if "text" in table.column_names else table.column_names
        size = 0
        for column in sorted(table.column_names):
            digest.update(f"{split}/{column}:{len(table)};".encode())
            strings = _feed(digest, table[column].combine_chunks())
            size += strings if column in columns else 0
        splits[split] = {"documents": len(table), "bytes": size}
    return {"sha256": digest.hexdigest(), "splits": {split: splits[split] for split in corpus}}


def _feed(digest: Any, array: "pa.Array") -> int:
    """Feed an Arrow array's values to a hash, whatever its chunks and offsets; return the bytes of its strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    digest.update(pc.is_null(array).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_struct(array.type):
        return sum(_feed(digest, child) for child in array.flatten())
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        digest.update(pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64()).to_numpy().tobytes())
        return _feed(digest, array.flatten())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        digest.update(pc.fill_null(pc.binary_length(array), 0).cast(pa.int64()).to_numpy().tobytes())
        joined = "".join(array.drop_null().to_pylist()).encode()
        digest.update(joined)
        return len(joined)
    digest.update(pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0).to_numpy(False).tobytes())
    return 0


def _write(corpus: "datasets.DatasetDict", folder: Path, about: dict[str, str]) -> None:
    """Write a corpus and the manifest of its files beside ``folder``, then rename it into place."""
    unfinished = folder.with_name(folder.name + UNFINISHED)
    try:
        with without_progress_bars("datasets"):
            corpus.save_to_disk(unfinished)
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        manifest = about | describe(corpus) | {"files": {str(f.relative_to(unfinished)): file_sha256(f) for f in files}}
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _load(folder: Path) -> "datasets.DatasetDict":
    """Open a corpus, memory-mapped, after comparing every file with the manifest."""
    import datasets

    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        changed = [name for name, sha256 in manifest["files"].items() if file_sha256(folder / name) != sha256]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _corrupt(folder, str(error)) from None
    if changed:
        raise _corrupt(folder, f"{changed[0]} is not what was written")
    return datasets.load_from_disk(folder)


def _corrupt(folder: Path, reason: str) -> CorpusError:
    return CorpusError(f"The cached corpus {folder} is damaged ({reason}): delete that folder and call again.")


@contextlib.contextmanager
def write_errors(root: Path) -> Iterator[None]:
    """Turn a full disk, a folder that cannot be written and the like into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "free some space there, or set LLMBOOK_CACHE to a folder that can be written"
        raise CorpusError(f"The corpus cannot be stored in {root} ({reason}): {remedy}.") from error
