"""Chapter 15's longer runs: `llmbook/results/preferences.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice: T5 on four tasks
in two ways, instruction tuning with two losses, and from each tuned model a reward model, DPO, GRPO and best of n.
Runs that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do. Two
may run at a time, with other parts or seeds.

    python benchmarks/ch15_preferences.py --minutes 4.5
    python benchmarks/ch15_preferences.py --parts preferences --seeds 1
"""

import argparse
import copy
import math
import re
import time
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import torch
from torch import nn

from llmbook import corpora, hub, metrics, runtime, training
from llmbook import finetuning as ft
from llmbook.finetuning import instructions, preferences
from llmbook.transformer import EncoderDecoder
from recording import ROOT, earlier, origin, run_engine, write

LIBRARY = {
    "copy": copy, "re": re, "Counter": Counter, "defaultdict": defaultdict, "np": np, "torch": torch, "ft": ft,
    "hub": hub, "metrics": metrics, "training": training, "instructions": instructions, "preferences": preferences,
    "EncoderDecoder": EncoderDecoder,
}  # fmt: skip
PARTS = ("preferences", "everything", "t5")
WAYS = ("one for all", "from scratch")
BETAS = (0.03, 0.3)
#: What GRPO climbs, and the price of a nat of KL.
REWARDS = {"judge": 0.0, "reward model": 0.0}


def engine(rt: runtime.Runtime) -> dict[str, Any]:
    """Return what chapter 15's cells tagged `engine` define."""
    return run_engine("15-instructions-and-preferences", LIBRARY | {"rt": rt})


class Record:
    """The file's runs; each is named by its part and what sets it apart within the part."""

    def __init__(self, chapter: dict[str, Any], minutes: float, about: dict[str, Any]) -> None:
        """Take what is to be said about the runs."""
        self.path, self.end = ROOT / "llmbook" / "results" / "preferences.json", time.monotonic() + 60 * minutes
        self.sha, self.command = chapter["engine_sha256"], about.pop("command")
        self.about = about | {"engine_sha256": self.sha}

    def read(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the runs that the same code made, by this command or another, and the commands."""
        kept = earlier(self.path, self.sha)
        return kept.get("runs", []), kept.get("commands", [])

    def has(self, **name: Any) -> bool:
        """Whether there is such a run."""
        return any(all(run.get(key) == value for key, value in name.items()) for run in self.read()[0])

    def late(self) -> bool:
        """Whether no further run should begin."""
        return time.monotonic() > self.end

    def add(self, start: float, **run: Any) -> None:
        """Keep a run that began at ``start``, and write the file."""
        run["seconds"] = time.perf_counter() - start
        print({key: round(value, 3) if isinstance(value, float) else value
               for key, value in run.items() if key not in ("history", "losses")}, flush=True)  # fmt: skip
        runs, commands = self.read()
        commands = commands if self.command in commands else [*commands, self.command]
        write(self.path, self.about | {"commands": commands, "runs": [*runs, run]})


def text_to_text(chapter: dict[str, Any], record: Record, way: str, seed: int) -> None:
    """Tune T5 in one of two ways and grade it."""
    name = {"part": "t5", "way": way, "seed": seed}
    if record.has(**name):
        return
    start = time.perf_counter()
    model, losses = chapter["tune_t5"](seed, "pretrained" if way == "one for all" else way)
    record.add(start, **name, losses=losses, **chapter["grade_t5"](model))


def tuned(chapter: dict[str, Any], record: Record, loss_on: str, seed: int) -> nn.Module:
    """Return an instruction-tuned model; grade it unless the file has its grades."""
    start = time.perf_counter()
    model, losses = chapter["tune"](seed, loss_on)
    name = {"part": "instructions", "loss_on": loss_on, "seed": seed}
    if not record.has(**name):
        answers = instructions.answer(model, chapter["tokenizer"], chapter["test"], 20, 72)
        grades = chapter["grade"](chapter["test"], answers)
        record.add(start, **name, losses=losses, nats=chapter["answer_loss"](model), **grades)
    return model


def preferred(chapter: dict[str, Any], rt: runtime.Runtime, record: Record, model: nn.Module, seed: int) -> None:
    """From a tuned model: reward model, best of n, DPO and GRPO, each examined."""
    start = time.perf_counter()
    pairs = chapter["make_pairs"](model, seed)
    reward_model, scale = chapter["train_reward_model"](model, pairs, seed)
    if not record.has(part="best of n", seed=seed):
        for found in chapter["best_of"](model, reward_model, seed):
            record.add(start, part="best of n", seed=seed, way=f"best of n by the {found['by']}",
                       setting=str(found["n"]), **found)  # fmt: skip
            start = time.perf_counter()

    def climb(drawn: Any, marks: torch.Tensor) -> torch.Tensor:
        return (chapter["proxy"](reward_model, drawn) - scale[0]) / scale[1]

    _, before = chapter["draw"](model, chapter["exam"], 4, rt.generator(seed + 300))
    judged = model, before, reward_model, scale, seed
    for reward, beta in REWARDS.items():
        name = {"part": "grpo", "reward": reward, "seed": seed}
        if record.has(**name) or record.late():
            continue
        start = time.perf_counter()
        value = climb if reward != "judge" else lambda drawn, marks: marks.flatten()
        policy, history = chapter["train_grpo"](model, value, seed, beta=beta)
        way = "GRPO on the judge" if reward == "judge" else "GRPO on the reward model"
        record.add(start, **name, way=way, setting=f"beta {beta}", history=history,
                   **chapter["examine"](policy, *judged))  # fmt: skip
    for beta in BETAS:
        name = {"part": "dpo", "setting": f"beta {beta}", "seed": seed}
        if record.has(**name) or record.late():
            continue
        start = time.perf_counter()
        policy = chapter["train_dpo"](model, pairs, beta, seed)
        record.add(start, **name, way="DPO", **chapter["examine"](policy, *judged))


def main() -> None:
    """Run what the file lacks, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after this time")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="by default all")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default the chapter's")
    arguments = parser.parse_args()
    about, rt = origin(), runtime.setup()
    chapter = engine(rt)
    about |= {"device": str(rt), "data": corpora.describe(corpora.pydocs())}
    record = Record(chapter, arguments.minutes, about)
    for part in arguments.parts:
        for seed in arguments.seeds or chapter["SEEDS"]:
            if record.late():
                return
            if part == "preferences":
                done = sum(run["part"] in ("grpo", "dpo") and run["seed"] == seed for run in record.read()[0])
                if done < len(REWARDS) + len(BETAS):
                    preferred(chapter, rt, record, tuned(chapter, record, "answer", seed), seed)
            elif part == "everything":
                if not record.has(part="instructions", loss_on="everything", seed=seed):
                    tuned(chapter, record, "everything", seed)
            else:
                for way in WAYS:
                    if not record.late():
                        text_to_text(chapter, record, way, seed)


if __name__ == "__main__":
    main()
