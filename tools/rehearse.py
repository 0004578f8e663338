"""Run the chapters on an accelerator that is not there: `make rehearse`.

Each chapter's cells run in a process of their own on the device of `pretended.py`, without the network, at small scale.
A cell that raises is a problem, and so is a chapter that leaves its networks on the CPU: of the floating-point
operations of matrix products, convolutions and attention at least `GOAL` has to be on the device.
`notebooks/rehearsed.json` keeps the outcome for the page "Run it". No number of a chapter comes from here.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from apart import Apart, cells_of, environment, run_cells
from chapters import (
    ROOT,
    WORKERS,
    Chapter,
    Problem,
    find_chapters,
    read_rehearsals,
    rehearsals_file,
    report,
    select_chapters,
)
from llmbook.files import write_whole
from notebooks import folder_lock

GOAL = 0.95
LIMIT = 1800  # seconds for a chapter: small operations are several times as slow on this device as on the CPU
RECORDED = ("torch", "transformers", "numpy")


# --- in the process of one chapter ----------------------------------------------------------------------------------


def shorten_trainings(most: int = 2) -> None:
    """Let `llmbook.training.fit` take so many steps at most, in this process."""
    from llmbook import training

    whole = training.fit

    def fit(model: Any, batch_at: Any, settings: Any, *given: Any, **named: Any) -> Any:
        few = dataclasses.replace(settings, steps=min(settings.steps, most), log_every=1)
        return whole(model, batch_at, few, *given, **named)

    training.fit = fit


def rehearse(manuscript: Path, outcome: Path, float64: bool = True, brief: bool = False) -> None:
    """Run a manuscript's code cells on the pretended device; write what came of them after each.

    Args:
        manuscript: a chapter's text.
        outcome: a JSON file: for each cell that has run its seconds, error and operations here and elsewhere.
        float64: whether the device computes in double precision.
        brief: whether trainings end after two steps, and what is asserted of their results is not looked at.
    """
    import pretended

    pretended.use(float64)
    if brief:
        shorten_trainings()
    cells: list[dict[str, Any]] = []
    with pretended.Watch() as watch:
        here = elsewhere = 0
        for line, raised, seconds in run_cells(cells_of(manuscript)):
            cells.append({
                "error": "" if brief and raised.startswith("AssertionError") else raised,
                "seconds": seconds,
                "here": watch.here - here,
                "elsewhere": watch.elsewhere - elsewhere,
                "line": line,
            })  # fmt: skip
            here, elsewhere = watch.here, watch.elsewhere
            found = {"cells": cells, "networks": sum(watch.counts.values()), "networks_here": watch.counts[True]}
            write_whole(outcome, json.dumps(found))


# --- around it ------------------------------------------------------------------------------------------------------


def run_apart(chapter: Chapter, limit: float, float64: bool = True, brief: bool = False) -> dict[str, Any]:
    """Rehearse a chapter in a process of its own; return what `rehearse` wrote, and how it ended."""
    words = [sys.executable, __file__, *["--single"] * (not float64), *["--brief"] * brief]
    words += ["--apart", str(chapter.manuscript)]
    job = Apart(words, environment(LLMBOOK_DEVICE="cpu", LLMBOOK_SCALE="small"))
    began = time.monotonic()
    status: int | None = None
    try:
        status = job.process.wait(limit)
    except subprocess.TimeoutExpired:
        ended = f"stopped after {limit:.0f} s"
    finally:
        job.stop()
    told, last = job.close()
    if status is not None:
        ended = f"the process ended with status {status}: {last}" if status else ""
    nothing = {"cells": [], "networks": 0, "networks_here": 0}
    return nothing | told | {"ended": ended, "seconds": round(time.monotonic() - began)}


def judged(state: dict[str, Any], total: int) -> dict[str, Any]:
    """Return the entry of a chapter: how much of it ran and where, and its problems, one line each."""
    cells = state["cells"]
    problems = [f"cell {number}: {cell['error']}" for number, cell in enumerate(cells, 1) if cell["error"]]
    if state["ended"]:
        problems.append(f"{state['ended']}, after cell {len(cells)} of {total}")
    here, elsewhere = (sum(cell[place] for cell in cells) for place in ("here", "elsewhere"))
    return {
        "cells": [len(cells), total],
        "networks": [state["networks_here"], state["networks"]],
        "operations": here + elsewhere,
        "share": round(here / (here + elsewhere), 4) if here + elsewhere else None,
        "problems": problems,
        "seconds": state["seconds"],
    }


def left_behind(state: dict[str, Any]) -> list[str]:
    """Return a line for each of the five cells that leave most operations on the CPU."""
    cells = enumerate(state["cells"], 1)
    most = sorted((item for item in cells if item[1]["elsewhere"]), key=lambda item: -item[1]["elsewhere"])[:5]
    return [f"  cell {n}: {cell['elsewhere']:.2g} operations elsewhere (`{cell['line']}`)" for n, cell in most]


def keep(outcomes: dict[str, dict[str, Any]], root: Path = ROOT) -> None:
    """Put the outcome of some chapters into the committed file; those of chapters that are gone leave it."""
    known = {chapter.name for chapter in find_chapters(root)}
    path = rehearsals_file(root)
    with folder_lock(path.parent):
        record = {name: entry for name, entry in read_rehearsals(root).items() if name in known} | outcomes
        write_whole(path, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def run(name: str, limit: float, float64: bool = True, brief: bool = False) -> list[str]:
    """Rehearse all chapters, or the named one; return the problems, one line each."""
    chapters = select_chapters(find_chapters(), name) if name else find_chapters()
    versions = {"python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in RECORDED}
    found: list[str] = []

    def one(chapter: Chapter) -> None:
        state = run_apart(chapter, limit, float64, brief)
        entry = judged(state, len(cells_of(chapter.manuscript)))
        if float64 and not brief:
            keep({chapter.name: entry | {"date": date.today().isoformat(), "versions": versions}})
        share = "nothing to compute"
        if entry["share"] is not None:
            share = f"{entry['share']:.1%} of {entry['operations']:.2g} operations"
        networks = "{} of {} networks".format(*entry["networks"])
        ran = "{} of {} cells".format(*entry["cells"])
        lines = [f"{chapter.name}: {ran}, {entry['seconds']} s; on the device: {networks}, {share}"]
        low = entry["share"] is not None and entry["share"] < GOAL and entry["networks"][1]
        if low:
            lines += left_behind(state)
            found.append(f"{chapter.name}: {entry['share']:.1%} of the operations are on the device, not {GOAL:.0%}")
        print("\n".join(lines), flush=True)
        found.extend(f"{chapter.name}, {problem}" for problem in entry["problems"])

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, chapters))
    return found


def main() -> int:
    """Parse the command line of `make rehearse`."""
    parser = argparse.ArgumentParser(description="Run the chapters on a pretended accelerator.")
    parser.add_argument("chapter", nargs="?", default="", help="a chapter, such as 09-objectives; all without it")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for a chapter")
    parser.add_argument("--single", action="store_true", help="no double precision, as on Apple's GPUs; keeps nothing")
    parser.add_argument("--brief", action="store_true", help="two steps of each training, no assertions; keeps nothing")
    parser.add_argument("--apart", nargs=2, type=Path, metavar=("MANUSCRIPT", "OUTCOME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.apart:
        manuscript, outcome = arguments.apart
        rehearse(manuscript, outcome, float64=not arguments.single, brief=arguments.brief)
        return 0
    try:
        return report(run(arguments.chapter, arguments.limit, not arguments.single, arguments.brief))
    except Problem as problem:
        return report([str(problem)])


if __name__ == "__main__":
    sys.exit(main())
