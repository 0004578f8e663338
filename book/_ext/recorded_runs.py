"""``{recorded}``: a table of a record in ``llmbook/results``, or the sentence that there is none yet.

```
:::{recorded} scores
:::
```
names one of ``TABLES``. Below the table stands where and when it was recorded, and by which command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chapter_box import Table, duration, link
from docutils import nodes
from sphinx.application import Sphinx

from llmbook import results

Rows = list[list[str]]

STRINGS = {
    "en": {
        "none": "Nothing is recorded here yet.",
        "no GPU": "Nothing is recorded here yet: no GPU has been at hand.",
        "where": "Recorded on {date}: {machine}; torch {torch}; {device}`{command}`",
        "interval": "{score:.3f} ({low:.3f} to {high:.3f})",
        "speed": "{median:,.1f}",
        "ratio": "{median:.2f} ({least:.2f} to {most:.2f})",
        "cells": "{0} of {1}",
        "share": "{0:.0%}",
        "gib": "{0:.1f} GiB",
        "chance": "{0:.2f}",
    },
}
HEADS = {
    "scores": {"en": ["Model", "Benchmark", "Items", "Score, with its interval of 95 %", "What it is", "Guessing"]},
    "speeds": {"en": ["Type", "Task", "Program", "Tokens per second", "As many times `transformers`"]},
    "training": {"en": ["Loss", "Rows of a batch", "Tokens per second", "Share of the measured peak", "Memory"]},
    "kernel": {"en": ["Kernel", "Width of a head", "Mask", "Length", "TFLOP/s", "Share of the measured peak"]},
    "chapters": {"en": ["Chapter", "Cells that ran", "Time", "How it ended", "What raised"]},
    "pieces": {"en": ["Benchmark", "Time", "How it ended"]},
}


def scores(record: dict[str, Any], words: dict[str, str]) -> Rows:
    """Return what ``llmbook evaluate`` said of each model."""
    return [
        [
            f"`{run['model']['name']}`", line["name"], str(line["items"]), words["interval"].format_map(line),
            line["metric"], words["chance"].format(line["chance"]) if line.get("chance") else "",
        ]
        for run in record["runs"]
        for line in run["results"]
        if line["applies"]
    ]  # fmt: skip


def speeds(record: dict[str, Any], words: dict[str, str]) -> Rows:
    """Return tokens per second of reading and writing, with the ratios within a round."""
    return [
        [
            run["dtype"], run["task"], run["program"], words["speed"].format_map(run["tokens_per_s"]),
            words["ratio"].format_map(run["ratio"]),
        ]
        for run in record["runs"]
    ]  # fmt: skip


def training(record: dict[str, Any], words: dict[str, str]) -> Rows:
    """Return how much of a GPU a training uses."""
    return [
        [
            run["variant"], str(run["batch"]), f"{run['tokens_per_s']:,.0f}", words["share"].format(run["utilisation"]),
            words["gib"].format(run["memory_gib"]),
        ]
        for run in record["runs"]
    ]  # fmt: skip


def kernel(record: dict[str, Any], words: dict[str, str]) -> Rows:
    """Return the speed of chapter 3's kernel and its neighbours at the largest length that each reached."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in record["runs"]:
        key = run["kernel"], run["d_head"], run["causal"], run["dtype"]
        if run["tflops"] is not None and run["length"] >= best.get(key, {"length": 0})["length"]:
            best[key] = run
    return [
        [
            run["kernel"], str(run["d_head"]), "causal" if run["causal"] else "none", f"{run['length']:,}",
            f"{run['tflops']:.1f}", words["share"].format(run["tflops"] / record["peak"][run["dtype"]]),
        ]
        for run in best.values()
    ]  # fmt: skip


def chapters(record: dict[str, Any], words: dict[str, str]) -> Rows:
    """Return what came of each chapter at full scale."""
    return [
        [
            link(name), words["cells"].format(*piece["cells"]), duration(piece["seconds"]), piece["ended"],
            "; ".join(f"`{raised}`" for raised in piece["raised"]).replace("|", "\\|"),
        ]
        for name, piece in sorted(record["pieces"].items())
        if "cells" in piece
    ]  # fmt: skip


def pieces(record: dict[str, Any], words: dict[str, str]) -> Rows:
    """Return what came of the benchmarks of ``make gpu``."""
    return [
        [name, duration(piece["seconds"]), piece["ended"].replace("|", "\\|")]
        for name, piece in record["pieces"].items()
        if "cells" not in piece
    ]


#: Of each name: the record's, and what makes the rows below the heads of its name.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, str]], Rows]]] = {
    "scores": ("evaluation", scores),
    "speeds": ("generation_speed", speeds),
    "gpu-speeds": ("gpu_generation_speed", speeds),
    "gpu-training": ("gpu_training_speed", training),
    "gpu-kernel": ("attention", kernel),
    "gpu-pieces": ("gpu", pieces),
    "gpu-chapters": ("gpu", chapters),
}


class Recorded(Table):
    """The directive."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table and where it comes from, or a one-line error."""
        name = self.arguments[0]
        if name not in TABLES:
            raise self.error(f"no table {name!r}: there are {', '.join(TABLES)}")
        source, rows_of = TABLES[name]
        words = STRINGS[self.language]
        if source not in results.names():
            return self.table([], [], words["no GPU" if name.startswith("gpu-") else "none"])
        record = results.recorded(source)
        told = record | {"torch": record["versions"]["torch"], "device": ""}
        if "device" in record:
            told["device"] = record["device"].replace(" | ", ", ") + "; "
        table = self.table(HEADS[rows_of.__name__][self.language], rows_of(record, words), words["none"])
        return [*table, *self.table([], [], words["where"].format_map(told))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("recorded", Recorded)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
