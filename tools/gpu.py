"""Measure the book on a GPU, with one command and without the network: `make gpu`.

The work is cut into pieces, the most valuable first: the speed of reading and writing with SmolLM2, the use that
training makes of the GPU, chapter 3's kernel, then every chapter's cells at full scale, each in a process of its own. A
piece has a time limit; one call begins no piece that would not end within eight minutes, and the same command goes on
from what is recorded. Benchmarks run alone, since they are timed; chapters share the GPU.

`llmbook/results/gpu.json` says what came of each piece; the benchmarks write records of their own beside it. What was
made from other code than today's is made again. Without a GPU `--rehearse` runs the same pieces on the processor, tiny,
into `_build/gpu`: it shows that the commands work, and measures nothing.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apart import Apart, cells_of, environment, run_cells
from chapters import (
    ROOT,
    Chapter,
    Problem,
    code_sha256,
    find_chapters,
    package_sha256,
    read_manuscript,
    read_measurements,
    report,
    select_chapters,
)
from llmbook.files import write_whole

MINUTES = 8.0  # of one call
CHAPTER_SECONDS = 100.0
LANES = 4  # chapters at a time
STOPPED = "stopped"
#: Of each benchmark: script, seconds, the record it writes, options on a GPU and in a rehearsal.
BENCHMARKS: dict[str, tuple[str, float, str, str, str]] = {
    "reading and writing with SmolLM2": (
        "ch05_generation_speed.py", 60, "gpu_generation_speed.json", "--rounds 5 --read 1024 --long 1024 --new 64",
        "--model pydocs-gpt --rounds 1 --read 16 --short 4 --long 16 --new 2",
    ),
    "training speed": (
        "ch10_gpu_training.py", 150, "gpu_training_speed.json", "",
        "--device cpu --variants plain --batches 2 --width 64 --layers 1 --vocab 96 --length 32 --steps 2 "
        "--matrices 64",
    ),
    "chapter 3's kernel": (
        "ch03_attention.py", 180, "attention.json", "--dtypes bfloat16",
        "--device cpu --lengths 32 --d-heads 16 --dtypes float32 --tokens 64 --width 32 --matrix 64",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A part of the work.

    Attributes:
        name: as it stands in the record.
        made_of: hash of the code that it runs.
        limit: seconds after which it is stopped.
        command: what is run; a chapter's ends with the file that it writes its outcome into.
        chapter: whether it may share the GPU, and its outcome is of cells.
    """

    name: str
    made_of: str
    limit: float
    command: tuple[str, ...]
    chapter: bool = False


class Job(Protocol):
    """A piece that has been started."""

    def ended(self) -> bool:
        """Tell whether it has come to its end."""

    def stop(self) -> None:
        """End it, if it has not ended, and all that it started."""

    def outcome(self) -> dict[str, Any]:
        """Return what came of it: ``ended``, and of a chapter ``cells`` and ``raised``."""


# --- in the process of one chapter ----------------------------------------------------------------------------------


def tell_cells(manuscript: Path, outcome: Path) -> None:
    """Run a manuscript's code cells; after each, write down how many have run, how long they took and what raised."""
    cells, raised = cells_of(manuscript), []
    slowest = {"cell": 0, "seconds": 0.0}
    for number, ran in enumerate(run_cells(cells), 1):
        slowest = max(slowest, {"cell": number, "seconds": ran.seconds}, key=lambda one: one["seconds"])
        if ran.raised:
            raised.append(f"cell {number}: {ran.raised}")
        write_whole(outcome, json.dumps({"cells": [number, len(cells)], "raised": raised, "slowest": slowest}))


# --- around it ------------------------------------------------------------------------------------------------------


class Process(Apart):
    """A piece in a process of its own."""

    def __init__(self, piece: Piece, variables: dict[str, str]) -> None:
        """Start it."""
        super().__init__(piece.command, variables, piece.chapter)
        self.piece, self.stopped = piece, False

    def stop(self) -> None:
        """See :class:`Job`."""
        self.stopped = not self.ended()
        super().stop()

    def outcome(self) -> dict[str, Any]:
        """See :class:`Job`."""
        told, last = self.close()
        ended = STOPPED if self.stopped else "done"
        if not self.stopped and self.process.returncode:
            ended = f"status {self.process.returncode}: {last[:300]}"
        nothing = {"cells": [0, 0], "raised": []} if self.piece.chapter else {}
        return {"ended": ended} | nothing | told


class Record:
    """What came of the pieces, in a file that is written after each."""

    def __init__(self, path: Path, about: Callable[[], dict[str, Any]]) -> None:
        """Open the file; ``about`` returns what a record says of machine, versions and commit."""
        self.path, self.about = path, about

    def pieces(self) -> dict[str, dict[str, Any]]:
        """Return the outcomes by name."""
        if not self.path.exists():
            return {}
        return json.loads(self.path.read_text(encoding="utf-8"))["pieces"]  # type: ignore[no-any-return]

    def has(self, piece: Piece) -> bool:
        """Tell whether a piece need not be made: of the same code, ended, or a chapter that had as much time."""
        known = self.pieces().get(piece.name, {})
        if known.get("made_of") != piece.made_of:
            return False
        return known["ended"] != STOPPED or (piece.chapter and known["limit"] >= piece.limit)

    def keep(self, piece: Piece, outcome: dict[str, Any]) -> None:
        """Write down what came of a piece."""
        entry = {"made_of": piece.made_of, "limit": piece.limit} | outcome
        record = self.about() | {"pieces": self.pieces() | {piece.name: entry}}
        write_whole(self.path, json.dumps(record, indent=1) + "\n")


def work(
    pieces: Sequence[Piece],
    record: Record,
    start: Callable[[Piece], Job],
    minutes: float = MINUTES,
    lanes: int = LANES,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Piece]:
    """Make the pieces that the record lacks, as far as the time goes; return those that are left.

    Args:
        pieces: in the order of their worth.
        record: gets each outcome at once.
        start: starts a piece.
        minutes: no piece begins whose limit would pass them.
        lanes: chapters at a time; every other piece is alone.
        clock: seconds.
        sleep: waits for some.
    """
    end = clock() + 60 * minutes
    waiting = [piece for piece in pieces if not record.has(piece)]
    running: dict[Piece, tuple[Job, float]] = {}

    def fits(piece: Piece) -> bool:
        together = piece.chapter and len(running) < lanes and all(other.chapter for other in running)
        return (together or not running) and clock() + piece.limit <= end

    try:
        while True:
            for piece, (job, began) in list(running.items()):
                spent = clock() - began
                if not job.ended() and spent < piece.limit:
                    continue
                job.stop()
                del running[piece]
                outcome = job.outcome() | {"seconds": round(spent, 1)}
                record.keep(piece, outcome)
                print(line(piece, outcome), flush=True)
            while chosen := next(filter(fits, waiting), None):
                waiting.remove(chosen)
                running[chosen] = start(chosen), clock()
            if not running:
                return waiting
            sleep(0.2)
    finally:
        for job, _ in running.values():
            job.stop()


def line(piece: Piece, outcome: dict[str, Any]) -> str:
    """Return what is printed of a piece."""
    words = f"{piece.name}: {outcome['ended']}, {outcome['seconds']:.0f} s"
    if piece.chapter:
        done, total = outcome["cells"]
        words += "".join([f", {done} of {total} cells", *(f"; {raised}" for raised in outcome["raised"])])
    return words


def sha256(*files: Path) -> str:
    """Return the hash of some files' bytes."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def make_pieces(
    chapters: Sequence[Chapter], folder: Path, rehearsing: bool, seconds: float = CHAPTER_SECONDS
) -> list[Piece]:
    """Return the pieces: the benchmarks, then the chapters, the shortest first."""
    pieces = []
    for name, (script, limit, result, full, tiny) in BENCHMARKS.items():
        path = ROOT / "benchmarks" / script
        options = [*(tiny if rehearsing else full).split(), "--result", str(folder / result)]
        pieces.append(Piece(name, sha256(path), limit, (sys.executable, str(path), *options)))
    measured = read_measurements()
    for chapter in sorted(chapters, key=lambda one: measured.get(one.name, {}).get("seconds", 0.0)):
        words = (sys.executable, str(Path(__file__)), "--cells", str(chapter.manuscript))
        pieces.append(Piece(chapter.name, code_sha256(read_manuscript(chapter)), seconds, words, chapter=True))
    return pieces


def variables_of(rehearsing: bool) -> dict[str, str]:
    """Return the variables of a piece: full scale on the GPU, or small on the processor; no network."""
    where = {"LLMBOOK_DEVICE": "cuda", "LLMBOOK_SCALE": "full"}
    if rehearsing:
        where = {"LLMBOOK_DEVICE": "cpu", "LLMBOOK_SCALE": "small", "TRITON_INTERPRET": "1"}
    variables = environment(**where)
    for name in ("LLMBOOK_PRECISION", "LLMBOOK_SEED"):
        variables.pop(name, None)
    return variables


def about() -> dict[str, Any]:
    """Return what the record says of itself, and the hash of the package."""
    sys.path.append(str(ROOT / "benchmarks"))
    from recording import origin

    return origin() | {"package_sha256": package_sha256()}


def chosen_chapters(names: Sequence[str]) -> Iterator[Chapter]:
    """Yield the chapters of some names, all of them without one."""
    if not names:
        yield from find_chapters()
    for name in names:
        yield from select_chapters(find_chapters(), name)


def main() -> int:
    """Parse the command line of `make gpu`."""
    parser = argparse.ArgumentParser(description="Measure the book on a GPU.")
    parser.add_argument("chapters", nargs="*", help="chapters, such as 03-attention; all without one")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin no piece that would end later")
    parser.add_argument("--seconds", type=float, default=CHAPTER_SECONDS, help="for each chapter")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: tiny, on the processor")
    parser.add_argument("--cells", nargs=2, type=Path, metavar=("MANUSCRIPT", "OUTCOME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cells:
        tell_cells(*arguments.cells)
        return 0
    import torch

    if not arguments.rehearse and not torch.cuda.is_available():
        return report([
            f"this needs an NVIDIA GPU and a torch that is built for it, and torch {torch.__version__} finds none "
            "here: `.venv/bin/python tools/gpu.py --rehearse` tries the same pieces on the processor"
        ])  # fmt: skip
    folder = ROOT / "_build" / "gpu" if arguments.rehearse else ROOT / "llmbook" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        chapters = list(chosen_chapters(arguments.chapters))
    except Problem as problem:
        return report([str(problem)])
    pieces = make_pieces(chapters, folder, arguments.rehearse, arguments.seconds)
    variables, record = variables_of(arguments.rehearse), Record(folder / "gpu.json", about)
    lanes = 1 if arguments.rehearse else max(1, min(LANES, (os.cpu_count() or 1) // 3))
    left = work(pieces, record, lambda piece: Process(piece, variables), arguments.minutes, lanes)
    print(f"{record.path}: {len(pieces) - len(left)} of {len(pieces)} pieces" + ("" if left else ", all of them"))
    if left:
        print(f"left: {', '.join(piece.name for piece in left)}; the same command goes on from here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
