"""Chapter 12's grids: `llmbook/results/fine_tuning.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice: learning curves
over the number of labels (`curve`, `tags`, `spans`), over-fitting and its cures (`fits`), learning rate and batch size
(`sweep`), and rare classes (`rare`), each from three seeds. Runs that the file holds already, made by the same code,
are kept: repeat the command until nothing is left to do.

    python benchmarks/ch12_fine_tuning.py --minutes 5
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from llmbook import corpora, hub, runtime, tokenization
from llmbook import finetuning as ft
from llmbook.metrics import accuracy, answer_f1, exact_match, precision_recall_f1
from llmbook.training import Settings, fit, make_optimizers
from llmbook.transformer import Encoder
from recording import ROOT, earlier, origin, run_engine, write

LIBRARY = {
    "replace": replace, "np": np, "torch": torch, "F": F, "corpora": corpora, "hub": hub, "tokenization": tokenization,
    "ft": ft, "accuracy": accuracy, "answer_f1": answer_f1, "exact_match": exact_match,
    "precision_recall_f1": precision_recall_f1, "Settings": Settings, "fit": fit, "make_optimizers": make_optimizers,
    "Encoder": Encoder,
}  # fmt: skip
PATH = ROOT / "llmbook" / "results" / "fine_tuning.json"
STARTS = ("pretrained", "from scratch")
Run = dict[str, Any]


def engine(rt: runtime.Runtime) -> dict[str, Any]:
    """Return what chapter 12's cells tagged `engine` define."""
    return run_engine("12-supervised-fine-tuning", LIBRARY | {"rt": rt})


def jobs(chapter: dict[str, Any]) -> Iterator[tuple[str, Run, Callable[[], Run]]]:
    """Yield the kind of each run, what identifies it, and what computes the rest of it."""

    def curve(task: str, count: int, start: str, seed: int) -> Run:
        longer = 3 if start.endswith("longer") else 1
        model = chapter["learn"](task, count, start == "pretrained", seed, longer)
        return chapter["scores_of"](task, chapter["classify"](model, chapter["TEST_ROWS"][task]))

    def tags(count: int, start: str, seed: int) -> Run:
        found = chapter["tag"](chapter["learn_tags"](count, start == "pretrained", seed))
        return {"f1": ft.entity_scores(found, chapter["TAG_RIGHT"]).f1}

    def spans(count: int, start: str, seed: int) -> Run:
        model = chapter["learn_spans"](count, start == "pretrained", seed, 3)
        found = chapter["answers_of"](model, chapter["ASKED_ROWS"], chapter["ASKED_PLACES"], chapter["ASKED"][1])
        return chapter["judge"]([one.text if one.margin > 0 else "" for one in found], chapter["ASKED_RIGHT"])

    def rare(weighted: bool, seed: int) -> Run:
        return {"predictions": chapter["learn_lopsided"](seed, weighted)}

    def sweep(rate: float, batch_size: int, seed: int) -> Run:
        return chapter["sweep"](rate, batch_size, seed)

    def fits(name: str, seed: int) -> Run:
        return {"history": chapter["memorise"](name, seed)}

    seeds = chapter["SEEDS"]
    begun = [{"start": start, "seed": seed} for seed in seeds for start in STARTS]
    few = [({"task": task, "count": count}, one) for one in begun for task in chapter["TASKS"] for count in (32, 128)]
    yield from (("curve", which | one, curve) for which, one in few)
    grid = [(rate, size) for rate in chapter["RATES"] for size in chapter["BATCHES"]]
    swept = [{"rate": rate, "batch_size": size, "seed": seed} for seed in seeds for rate, size in grid]
    yield from (("sweep", key, sweep) for key in swept)
    yield from (("fits", {"name": name, "seed": seed}, fits) for seed in seeds for name in chapter["FITS"])
    yield from (("rare", {"weighted": weighted, "seed": seed}, rare) for seed in seeds for weighted in (False, True))
    for scale in (1, 1 / 4, 4):
        yield from (("tags", {"count": round(160 * scale)} | one, tags) for one in begun)
        yield from (("spans", {"count": round(240 * scale)} | one, spans) for one in begun)
    for task in chapter["TASKS"]:
        yield from (("curve", {"task": task, "count": 512} | one, curve) for one in begun)
        longer = {"task": task, "count": 128, "start": "from scratch, longer"}
        yield from (("curve", longer | {"seed": seed}, curve) for seed in seeds)


def main() -> None:
    """Fine-tune, judge, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this time")
    parser.add_argument("--kinds", nargs="+", help="only these, by default all")
    arguments = parser.parse_args()

    begin, record = time.monotonic(), origin()
    rt = runtime.setup()
    chapter = engine(rt)
    kept = earlier(PATH, chapter["engine_sha256"])
    runs, commands = kept.get("runs", {}), kept.get("commands", [])
    record |= {"device": str(rt), "engine_sha256": chapter["engine_sha256"]}
    record |= {"commands": sorted({*commands, record.pop("command")})}
    for kind, key, compute in tqdm(list(jobs(chapter)), desc="runs"):
        done = runs.setdefault(kind, [])
        wanted = not arguments.kinds or kind in arguments.kinds
        if not wanted or any(key.items() <= run.items() for run in done):
            continue
        if time.monotonic() - begin > 60 * arguments.minutes:
            break
        start = time.process_time()
        done.append(key | compute(**key) | {"seconds": time.process_time() - start})
        shown = {name: value for name, value in done[-1].items() if not isinstance(value, list)}
        tqdm.write(f"{kind} {shown}")
        write(PATH, record | {"runs": runs})


if __name__ == "__main__":
    main()
