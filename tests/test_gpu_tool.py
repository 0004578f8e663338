"""`make gpu`: pieces end in time, go on where they stopped, and a killed call loses nothing that was recorded."""

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import time

import psutil
import pytest
import torch
from single_page import build_page

import gpu
from chapters import ROOT, find_chapters
from llmbook import results
from recording import origin

ABOUT = {"date": "2026-01-01", "commit": "0" * 40}


class Clock:
    """A clock that runs when somebody sleeps, and jobs that take what they are said to take."""

    def __init__(self, takes):
        self.time, self.takes, self.started, self.most = 0.0, takes, [], 0
        self.running = []

    def __call__(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds

    def start(self, piece):
        if self.takes[piece.name] is None:
            raise KeyboardInterrupt
        job = Job(self, piece)
        self.started.append(piece.name)
        self.running.append(job)
        self.most = max(self.most, len(self.running))
        return job


class Job:
    def __init__(self, clock, piece):
        self.clock, self.piece, self.end, self.stopped = clock, piece, clock() + clock.takes[piece.name], False

    def ended(self):
        return self.clock() >= self.end

    def stop(self):
        self.stopped = not self.ended()
        if self in self.clock.running:
            self.clock.running.remove(self)

    def outcome(self):
        cells = {"cells": [1, 2], "raised": []} if self.piece.chapter else {}
        return {"ended": gpu.STOPPED if self.stopped else "done"} | cells


def piece(name, limit=100.0, chapter=False, made_of="x"):
    return gpu.Piece(name, made_of, limit, ("true",), chapter)


@pytest.fixture
def record(tmp_path):
    return gpu.Record(tmp_path / "gpu.json", lambda: ABOUT)


def work(clock, pieces, record, **options):
    return [left.name for left in gpu.work(pieces, record, clock.start, clock=clock, sleep=clock.sleep, **options)]


def test_a_call_begins_what_ends_in_its_time_and_the_next_goes_on(record):
    pieces = [piece("a"), piece("b"), piece("c", 120), piece("d", 60)]
    clock = Clock({"a": 99, "b": 30, "c": 100, "d": 10})
    assert work(clock, pieces, record, minutes=4) == ["c"]  # of 240 seconds 111 are left when it is its turn
    assert clock.started == ["a", "b", "d"] and clock.time <= 240
    clock = Clock({"c": 100})
    assert work(clock, pieces, record, minutes=4) == []
    assert clock.started == ["c"] and list(record.pieces()) == ["a", "b", "d", "c"]
    assert work(Clock({}), pieces, record) == []


def test_what_takes_longer_is_stopped_and_only_a_benchmark_or_more_time_begins_it_again(record):
    pieces = [piece("slow"), piece("en/01-a", chapter=True)]
    clock = Clock({"slow": 1000, "en/01-a": 1000})
    assert work(clock, pieces, record) == [] and clock.time <= 480
    assert {entry["ended"] for entry in record.pieces().values()} == {gpu.STOPPED}
    clock = Clock({"slow": 10})
    assert work(clock, pieces, record) == [] and clock.started == ["slow"]
    clock = Clock({"en/01-a": 150})
    assert work(clock, [piece("en/01-a", 200, chapter=True)], record) == []
    assert record.pieces()["en/01-a"]["ended"] == "done"
    assert work(Clock({}), [piece("en/01-a", 400, chapter=True)], record) == []


def test_benchmarks_run_alone_and_chapters_together(record):
    pieces = [piece("a"), *(piece(f"en/0{n}-x", chapter=True) for n in range(1, 7))]
    clock = Clock({one.name: 50 for one in pieces})
    assert work(clock, pieces, record, lanes=4) == []
    assert clock.most == 4 and 150 <= clock.time < 160


def test_a_killed_call_keeps_what_was_recorded_and_stops_what_runs(record):
    pieces = [piece("a"), piece("en/01-x", chapter=True), piece("en/02-x", chapter=True)]
    clock = Clock({"a": 10, "en/01-x": 50, "en/02-x": None})
    with pytest.raises(KeyboardInterrupt):
        work(clock, pieces, record)
    assert list(record.pieces()) == ["a"] and not clock.running
    clock = Clock({"en/01-x": 50, "en/02-x": 50})
    assert work(clock, pieces, record) == [] and clock.started == ["en/01-x", "en/02-x"]


def test_other_code_is_measured_again(record):
    assert work(Clock({"a": 1}), [piece("a")], record) == []
    clock = Clock({"a": 1})
    assert work(clock, [piece("a", made_of="y")], record) == [] and clock.started == ["a"]
    assert record.pieces()["a"]["made_of"] == "y"
    assert json.loads(record.path.read_text())["date"] == ABOUT["date"]


def test_all_pieces_together_take_a_quarter_of_an_hour_the_most_valuable_first(tmp_path):
    pieces = gpu.make_pieces(find_chapters(), tmp_path, rehearsing=False)
    alone = [one.limit for one in pieces if not one.chapter]
    chapters = [one for one in pieces if one.chapter]
    assert [one.name for one in pieces[: len(alone)]] == list(gpu.BENCHMARKS)
    assert sorted(one.name for one in chapters) == [chapter.name for chapter in find_chapters()]
    waves = -(-len(chapters) // gpu.LANES)
    assert sum(alone) + waves * gpu.CHAPTER_SECONDS <= 15 * 60
    assert max(one.limit for one in pieces) <= 60 * gpu.MINUTES


MANUSCRIPT = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

```{code-cell} ipython3
print("never seen")
```

```{code-cell} ipython3
:tags: [raises-exception]

1 / 0
```

```{code-cell} ipython3
raise ValueError("of two\\nlines")
```

```{code-cell} ipython3
import subprocess
subprocess.Popen(["sleep", "300"])
import time
time.sleep(SECONDS)
```
"""


def started(tmp_path, seconds):
    manuscript = tmp_path / "01-a.md"
    manuscript.write_text(MANUSCRIPT.replace("SECONDS", str(seconds)), encoding="utf-8")
    words = (sys.executable, gpu.__file__, "--cells", str(manuscript))
    return gpu.Process(gpu.Piece("en/01-a", "x", 1.0, words, chapter=True), gpu.variables_of(rehearsing=True))


def until(true):
    end = time.monotonic() + 240
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def alive_in_group(group):
    """Return the processes of a group that have not ended; one that nobody waits for stays listed as a zombie."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_chapters_cells_run_in_a_process_of_their_own_and_what_raised_is_named(tmp_path):
    job = started(tmp_path, 0)
    until(job.ended)
    job.stop()
    outcome = job.outcome()
    assert outcome["ended"] == "done" and outcome["cells"] == [4, 4]
    assert outcome["raised"] == ["cell 3: ValueError: of two"]


@pytest.mark.slow
def test_a_chapter_that_is_stopped_says_how_far_it_came_and_leaves_no_process(tmp_path):
    job = started(tmp_path, 300)
    until(lambda: job.state.exists() and json.loads(job.state.read_text())["cells"][0] == 3)
    job.stop()
    outcome = job.outcome()
    assert outcome["ended"] == gpu.STOPPED and outcome["cells"] == [3, 4]
    until(lambda: not alive_in_group(job.process.pid))


def test_a_benchmark_that_fails_is_recorded_with_its_last_line(tmp_path):
    words = (sys.executable, "-c", "print('begun'); raise SystemExit('the index does not answer')")
    job = gpu.Process(gpu.Piece("a", "x", 1.0, words), dict(os.environ))
    until(job.ended)
    job.stop()
    assert job.outcome() == {"ended": "status 1: the index does not answer"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_one_sentence_says_what_is_needed():
    done = subprocess.run([sys.executable, ROOT / "tools" / "gpu.py"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "needs an NVIDIA GPU" in done.stderr and "--rehearse" in done.stderr


# --- the page -------------------------------------------------------------------------------------------------------


RECORDS = {
    "gpu": {"pieces": {
        "training speed": {"ended": "status 1: a | b", "seconds": 61.0},
        "en/03-attention": {"ended": "done", "seconds": 9.0, "cells": [5, 6], "raised": ["cell 2: ValueError: x | y"]},
    }},
    "gpu_training_speed": {"device": "device cuda | bfloat16", "runs": [
        {"variant": "compiled", "batch": 32, "tokens_per_s": 5e5, "utilisation": 0.512, "memory_gib": 40.0}]},
    "attention": {"peak": {"bfloat16": 700.0}, "runs": [
        {"kernel": "triton", "d_head": 64, "causal": True, "dtype": "bfloat16", "length": length, "tflops": tflops}
        for length, tflops in ((512, 100.0), (1024, 350.0), (2048, None))]},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_the_page_shows_what_is_recorded_or_says_that_nothing_is(tmp_path, monkeypatch, there):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    folder = tmp_path / "results"
    folder.mkdir()
    if there:
        for name, record in RECORDS.items():
            (folder / f"{name}.json").write_text(json.dumps(origin() | record))
    monkeypatch.setattr(results, "FOLDER", folder)
    monkeypatch.setattr(importlib.import_module("recorded_runs"), "link", lambda name: f"[](/notebooks/{name}.md)")
    names = ["gpu-training", "gpu-kernel", "gpu-pieces", "gpu-chapters", "speeds", "attic"]
    text = "# A page\n\n" + "\n".join(f":::{{recorded}} {name}\n:::\n" for name in names)
    out, complaints = build_page(tmp_path / "site", "gpu", text, "recorded_runs")
    html = (out / "book/en/gpu.html").read_text()
    assert complaints.count("\n") == 1 and "no table 'attic'" in complaints
    assert html.count("Nothing is recorded here yet: no GPU has been at hand.") == (0 if there else 4)
    assert html.count("Nothing is recorded here yet.") == 1
    if there:
        plain = re.sub(r"<[^>]+>", "", html)  # inline code is a span for each word
        for words in ("51%", "350.0", "50%", "status 1: a | b", "5 of 6", "cell 2: ValueError: x | y", "1 min 01 s"):
            assert words in plain, words
        assert html.count("<table") == 4
