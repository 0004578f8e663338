"""``llmbook evaluate FOLDER``: all of the book's benchmarks on one model, as a record and a page (chapter 17).

The questions are scored in chunks, and every finished chunk is written down: a run that was interrupted goes on where
it stopped, and a repeated one computes nothing. What is kept is used again for the same weights, tokenizer, questions,
settings and versions only. Files are written under another name and renamed, so none is ever half there.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from llmbook import corpora, runtime
from llmbook.evaluation import likelihood, record_page, scoring
from llmbook.evaluation.benchmarks import Benchmark, Item, from_pydocs
from llmbook.evaluation.likelihood import BOOK, Convention
from llmbook.evaluation.models import Loaded, open_folder
from llmbook.evaluation.statistics import wilson_interval
from llmbook.files import write_whole

SUMMARY = "evaluate a model directory on the book's benchmarks; write a record (JSON) and a page (HTML)"
RECORD, PAGE, UNFINISHED = "evaluation.json", "evaluation.html", "evaluation.unfinished.json"
FORMAT = 3
CHUNK = 40  # questions, or documents, between two writings
RESAMPLES = 2000
LIBRARIES = ("llmbook", "torch", "transformers", "tokenizers", "numpy")
#: Fields of a record that differ between two runs of the same evaluation.
CHANGING = ("date", "seconds", "command")

Progress = Callable[[], object]


# --- scoring ----------------------------------------------------------------------------------------------------------


def _choices(loaded: Loaded, benchmark: Benchmark, part: Sequence[Item], shots: int, batch_size: int) -> dict[str, Any]:
    if loaded.kind == "masked":
        found, cut = scoring.masked_log_likelihoods(loaded.model, loaded.tokenizer, benchmark, shots, items=part)
        chunk = {
            "log_likelihood": np.round(found, 5).tolist(),
            "chosen": found.argmax(1).tolist(),
            "gold": [item.label for item in part],
            "truncated": int(cut.sum()),
        }
        return _finite(chunk, "log_likelihood")
    scores = scoring.score_choices(loaded.model, loaded.tokenizer, benchmark, shots, items=part, batch_size=batch_size)
    chunk = {
        "log_likelihood": np.round(scores.log_likelihood, 5).tolist(),
        "chosen": scores.predictions().tolist(),
        "chosen_by_character": scores.predictions("character").tolist(),
        "gold": scores.gold.tolist(),
        "truncated": int(scores.truncated.sum()),
    }
    return _finite(chunk, "log_likelihood")


def _generation(
    loaded: Loaded, benchmark: Benchmark, part: Sequence[Item], shots: int, batch_size: int
) -> dict[str, Any]:
    scores = scoring.score_generation(
        loaded.model, loaded.tokenizer, benchmark, shots, items=part, batch_size=batch_size
    )
    return {
        "output": list(scores.outputs),
        "reference": list(scores.references),
        "truncated": int(scores.truncated.sum()),
    }


def _check(loaded: Loaded, benchmark: Benchmark, part: Sequence[Item], shots: int) -> None:
    """Refuse questions that this model cannot be asked, before any is."""
    limit = scoring.longest_context(loaded.model)
    if benchmark.kind == "generation":
        scoring.prompt_tokens(loaded.tokenizer, benchmark, part, shots, limit)
    elif loaded.kind == "masked":
        scoring.gap_tokens(loaded.tokenizer, benchmark, part, shots, limit)
    else:
        scoring.choice_tokens(loaded.tokenizer, benchmark, part, shots, limit)


def _check_documents(loaded: Loaded, texts: Sequence[str]) -> None:
    """Refuse texts of which nothing would be scored: the tokenizer drops all of one, and has no end token."""
    if loaded.tokenizer.eos_token_id is None:
        for number, text in enumerate(texts):
            if not loaded.tokenizer.encode(text, add_special_tokens=False):
                raise ValueError(f"text {number} ({text[:40]!r}) has no token for this tokenizer: leave it out")


def _finite(chunk: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a chunk whose numbers are all finite; others would be written as what is no JSON."""
    if not np.isfinite(chunk[name]).all():
        raise ValueError(f"the model gives a likelihood that is infinite: {scoring.UNSOUND}")
    return chunk


def _documents(loaded: Loaded, texts: Sequence[str], batch_size: int) -> dict[str, Any]:
    scores = likelihood.score_texts(loaded.model, loaded.tokenizer, texts, _convention(loaded), batch_size=batch_size)
    return _finite({"nats": np.round(scores.nats, 4).tolist(), "bytes": scores.bytes.tolist()}, "nats")


def _convention(loaded: Loaded) -> Convention:
    """Return the book's convention for this model: the window is its context."""
    return BOOK.with_window(scoring.longest_context(loaded.model)).for_tokenizer(loaded.tokenizer)


# --- the numbers of the report ----------------------------------------------------------------------------------------


def _joined(chunks: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [value for chunk in chunks for value in chunk[name]]


def summarise(benchmark: Benchmark, chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a benchmark's score with Wilson's interval of 95 %, from the chunks of its items.

    Raises:
        ValueError: no item, answers and right answers of different numbers, or an empty reference.
    """
    names = ("chosen", "gold") if benchmark.kind == "choice" else ("output", "reference")
    given, wanted = (_joined(chunks, name) for name in names)
    ids = _joined(chunks, "ids")
    if not ids or not len(given) == len(wanted) == len(ids):
        raise ValueError(
            f"{benchmark.name}: {len(ids)} items, {len(given)} answers, {len(wanted)} right answers; one of each is "
            "needed for every item, and at least one item"
        )
    if empty := [name for name, reference in zip(ids, wanted, strict=True) if reference == ""]:
        raise ValueError(
            f"{benchmark.name}, item {empty[0]}: the right answer is empty, nothing can be compared with it"
        )
    right = sum(a == b for a, b in zip(given, wanted, strict=True))
    interval = wilson_interval(right, len(ids))
    found = {
        "items": len(ids),
        "metric": "accuracy" if benchmark.kind == "choice" else "exact match",
        "score": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "interval": "95 %, Wilson, over items",
        "chance": benchmark.chance,
        "truncated": sum(chunk["truncated"] for chunk in chunks),
    }
    if benchmark.kind == "choice" and "chosen_by_character" in chunks[0]:
        by_character = _joined(chunks, "chosen_by_character")
        found["score_by_character"] = float(np.mean([a == b for a, b in zip(by_character, wanted, strict=True)]))
    return found


def summarise_bits(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return bits per byte over all documents, with a percentile bootstrap over documents (95 %)."""
    nats, size = np.array(_joined(chunks, "nats")), np.array(_joined(chunks, "bytes"), dtype=float)  # (documents,)
    if not len(nats) or len(nats) != len(size) or not size.all():
        raise ValueError(f"{len(nats)} documents' likelihoods and {len(size)} lengths: one of each, and no empty text")
    drawn = np.random.default_rng(0).integers(len(nats), size=(RESAMPLES, len(nats)))  # (resamples, documents)
    ratios = nats[drawn].sum(1) / size[drawn].sum(1) / np.log(2)  # (resamples,)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {
        "items": len(nats),
        "metric": "bits per byte",
        "score": float(nats.sum() / size.sum() / np.log(2)),
        "low": float(low),
        "high": float(high),
        "interval": "95 %, bootstrap over documents",
    }


# --- keeping and writing ----------------------------------------------------------------------------------------------


def _prepare(out: Path) -> None:
    """Make the folder and try whether it takes a file, before an hour is spent."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OSError(
            f"the results cannot be written to {out} ({reason}): give --out a folder you may write"
        ) from error


def _kept(out: Path, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return chunks by their key, from an unfinished or a finished record of the same model, settings and versions."""
    chunks: dict[str, Any] = {}
    for name in (RECORD, UNFINISHED):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            record = json.loads((out / name).read_text(encoding="utf-8"))
            if record["format"] == FORMAT and record["key"] == key:
                chunks |= record["chunks"]
    return chunks


def versions() -> dict[str, str]:
    """Return the versions that a score may depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _machine() -> str:
    where = f"{os.cpu_count()} {platform.machine()} cores, {platform.system()}"
    return f"{torch.cuda.get_device_name()}, {where}" if torch.cuda.is_available() else where


@dataclass(frozen=True)
class _Job:
    """One line of the report: a benchmark with a number of examples, or the held-out text."""

    name: str
    version: str
    shots: int
    ids: tuple[str, ...]
    check: Callable[[int, int], object]  # raises where a question from one place to another cannot be scored
    score: Callable[[int, int], dict[str, Any]]  # of the questions from one place to another
    summarise: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    about: dict[str, Any]

    def chunks(self) -> Iterator[tuple[str, int, int]]:
        """Yield each chunk's key and where it begins and ends."""
        for begin in range(0, len(self.ids), CHUNK):
            end = min(begin + CHUNK, len(self.ids))
            names = hashlib.sha256("\n".join(self.ids[begin:end]).encode()).hexdigest()[:12]
            yield f"{self.name} {self.version} {self.shots} {begin}-{end} {names}", begin, end


def _benchmark_job(loaded: Loaded, benchmark: Benchmark, shots: int, count: int, batch_size: int) -> _Job:
    chosen = benchmark.items[:count]
    score = _choices if benchmark.kind == "choice" else _generation
    about = {
        "kind": benchmark.kind, "template": benchmark.template, "description": benchmark.description,
        "datasheet": dict(benchmark.datasheet),
    }  # fmt: skip
    if loaded.kind == "masked":
        about["method"] = "the choice is masked, mean log-likelihood of its tokens"
    elif beginning := scoring.tokens_around(loaded.tokenizer)[0]:
        names = " ".join(map(str, loaded.tokenizer.convert_ids_to_tokens(beginning)))
        about["method"] = f"{names} before every prompt, where the tokenizer puts it, as in lm-evaluation-harness"
    return _Job(
        benchmark.name, benchmark.version, shots, tuple(item.id for item in chosen),
        lambda begin, end: _check(loaded, benchmark, chosen[begin:end], shots),
        lambda begin, end: score(loaded, benchmark, chosen[begin:end], shots, batch_size),
        lambda chunks: summarise(benchmark, chunks), about,
    )  # fmt: skip


def _with_a_gap_at_the_end(benchmark: Benchmark) -> Benchmark:
    """Return a benchmark in the first template in which the answer alone follows the question, and can be masked."""
    fitting = [name for name, way in benchmark.templates.items() if way.prompt and way.choice == "{choice}"]
    if benchmark.template in fitting or not fitting:
        return benchmark
    return benchmark.with_template(fitting[0])


def _text_job(loaded: Loaded, texts: Sequence[str], batch_size: int) -> _Job:
    convention = _convention(loaded).describe()
    version = hashlib.sha256("\x00".join([convention, *texts]).encode()).hexdigest()[:12]
    about = {
        "kind": "text",
        "description": "How many bits does the model need for a byte of documents it never saw?",
        "convention": convention,
    }
    return _Job(
        "held-out text", version, 0, tuple(str(number) for number in range(len(texts))),
        lambda begin, end: _check_documents(loaded, texts[begin:end]),
        lambda begin, end: _documents(loaded, texts[begin:end], batch_size), summarise_bits, about,
    )  # fmt: skip


def evaluate(
    folder: str | Path,
    out: str | Path,
    limit: int | None = None,
    shots: Sequence[int] = (0,),
    batch_size: int = 16,
    benchmarks: Mapping[str, Benchmark] | None = None,
    texts: Sequence[str] | None = None,
    command: str = "",
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate a model directory and write ``evaluation.json`` and ``evaluation.html`` into ``out``; return the record.

    Args:
        folder: see :func:`models.open_folder`.
        out: is made where it does not exist; results of the same model, settings and versions in it are used again.
        limit: questions of each benchmark, and documents; by default all.
        shots: numbers of examples in the prompt; each benchmark is run with each.
        batch_size: rows that are computed together.
        benchmarks: by default the book's, ``benchmarks.from_pydocs()``.
        texts: for bits per byte, by default those of ``corpora.held_out()``.
        command: what the record says it was made by.
        progress: whether to draw a bar.

    Raises:
        ValueError: a model that cannot be evaluated, a limit or batch size below 1, more shots than there are examples,
            a question or a text that cannot be scored. All of it is said before anything is computed or written.
        OSError: a folder that is not there, or cannot be written.
    """
    if (limit is not None and limit < 1) or batch_size < 1 or not shots:
        raise ValueError(f"limit={limit}, batch_size={batch_size}, shots={list(shots)}: the first two take 1 or more")
    begin, out = time.monotonic(), Path(out)
    if texts is not None:
        likelihood.check_texts(texts)
    loaded = open_folder(folder)
    device = runtime.setup().device
    loaded.model.to(device)
    questions = from_pydocs() if benchmarks is None else benchmarks
    documents = corpora.held_out() if texts is None else list(texts)
    for benchmark in questions.values():
        for count in shots:
            scoring.few_shot_context(benchmark, count)  # refuses a number that there are no examples for
    key = {
        "model": loaded.about["sha256"], "versions": versions(), "batch_size": batch_size, "precision": "float32",
        "threads": torch.get_num_threads(), "device": device.type,
    }  # fmt: skip
    jobs, refused = [], []
    for benchmark in questions.values():
        if loaded.kind == "masked" and benchmark.kind == "generation":
            why = "the answer has to be written, and a model that fills gaps does not continue a text"
            refused.append({"name": benchmark.name, "applies": False, "why": why})
            continue
        if loaded.kind == "masked":
            benchmark = _with_a_gap_at_the_end(benchmark)
        size = min(limit or len(benchmark), len(benchmark))
        jobs += [_benchmark_job(loaded, benchmark, count, size, batch_size) for count in shots]
    if loaded.kind == "masked":
        why = "its gaps are filled one by one, which gives no probability of a whole text (chapter 2)"
        refused.append({"name": "held-out text", "applies": False, "why": why})
    else:
        jobs.append(_text_job(loaded, documents[:limit], batch_size))
    kept = _kept(out, key)
    for job in jobs:
        for name, first, last in job.chunks():
            if name not in kept:
                job.check(first, last)
    _prepare(out)
    chunks = _compute(jobs, out, key, kept, progress)
    lines = []
    for job in jobs:
        own = [chunks[name] for name, _, _ in job.chunks()]
        line = {"name": job.name, "applies": True, "version": job.version, "shots": job.shots}
        lines.append(line | job.about | job.summarise(own))
    wanted = [name for job in jobs for name, _, _ in job.chunks()]
    record = {
        "format": FORMAT,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begin, 1),
        "machine": _machine(),
        "model": loaded.about,
        "settings": {"limit": limit, "shots": list(shots)},
        "key": key,
        "results": lines + refused,
        "chunks": {name: chunks[name] for name in wanted},
    }
    page = record_page.page(record)
    write_whole(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / PAGE, page)
    (out / UNFINISHED).unlink(missing_ok=True)
    for left in out.glob(".evaluation.*.partial"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)
    return record


def _compute(
    jobs: Sequence[_Job], out: Path, key: Mapping[str, Any], kept: dict[str, Any], progress: bool
) -> dict[str, Any]:
    """Return all chunks, those kept and those computed now; what is computed is written down at once."""
    todo = [(job, *chunk) for job in jobs for chunk in job.chunks()]
    total = sum(end - begin for _, _, begin, end in todo)
    with tqdm(total=total, desc="evaluate", unit=" questions", disable=not progress) as bar:
        for job, name, begin, end in todo:
            bar.set_postfix_str(f"{job.name}, {job.shots} shots", refresh=False)
            if name not in kept:
                kept[name] = {"ids": list(job.ids[begin:end])} | job.score(begin, end)
                unfinished = {"format": FORMAT, "key": key, "chunks": kept}
                write_whole(out / UNFINISHED, json.dumps(unfinished, ensure_ascii=False))
            bar.update(end - begin)
    return kept


# --- the command line -------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what ``llmbook evaluate`` takes."""
    parser.add_argument("folder", metavar="MODEL_DIR", type=Path, help="a model directory (config, weights, tokenizer)")
    parser.add_argument("--out", type=Path, help="folder for the results (default: evaluation-NAME)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N questions of each benchmark only")
    parser.add_argument("--shots", type=int, nargs="+", default=[0], metavar="K", help="examples in the prompt")
    parser.add_argument("--batch-size", type=int, default=16, help="rows computed together (default: 16)")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write, and print one line for each benchmark."""
    runtime.setup()
    out = arguments.out or Path(f"evaluation-{arguments.folder.resolve().name}")
    command = shlex.join(["llmbook", *sys.argv[1:]])
    try:
        record = evaluate(
            arguments.folder, out, arguments.limit, arguments.shots, arguments.batch_size, command=command
        )
    except corpora.CorpusError as error:  # the questions could not be made, or not be stored
        raise OSError(str(error)) from error
    print(record_page.table(record))
    print(f"{out / RECORD}\n{out / PAGE}")
    return 0
