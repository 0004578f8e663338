"""Chapter 11's small runs over model size and tokens, and one larger run held back: `llmbook/results/scaling.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. First the
learning rate of Muon is swept at three widths and a power of the width is drawn through the best ones. Then each
width is trained on a plateau with that rate, and a copy is let down at each number of tokens. Last, the two smallest
widths are trained with the operations of a run of the third, three seeds each (`equal`). Runs that the file holds
already, made by the same code, are kept: repeat the command until nothing is left to do.

    OMP_NUM_THREADS=1 python benchmarks/ch11_scaling.py
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from llmbook import corpora, results, transformer
from recording import Job, Runs, parser

CHAPTER = "11-scaling"
PATH = results.FOLDER / "scaling.json"
CONFIRM_BY = ("24 512000 0.08 0",)
ENDS = [256_000, 512_000, 1_024_000, 2_048_000, 4_096_000]  # tokens
SWEPT = {24: (1e-2, 2e-2, 4e-2, 8e-2), 40: (1e-2, 2e-2, 4e-2, 8e-2), 64: (1e-2, 2e-2, 4e-2)}
GRID = [(24, 0, ENDS), (40, 0, ENDS), (64, 0, ENDS[:4]), (96, 0, ENDS[:4])]
HELD_BACK = (128, 0, [2_560_000])
AGAIN = [(width, seed, ENDS[:3]) for seed in (1, 2) for width in (24, 40, 64)]
EQUAL = {40: 1_141_760, 24: 2_544_640}  # tokens: as many operations 6 N D as width 64 spends on 512,000, to 0.04%


def best_rate(rates: list[float], losses: list[float]) -> float:
    """Return the lowest point of a parabola through the best rate and its neighbours; an end if the best is there."""
    place = int(np.argmin(losses))
    if place in (0, len(rates) - 1):
        return rates[place]
    x, y = np.log(rates[place - 1 : place + 2]), losses[place - 1 : place + 2]
    a, b, _ = np.polyfit(x, y, 2)
    return float(np.exp(-b / (2 * a)))


def rate_rule(sweep: list[dict[str, Any]]) -> tuple[float, float]:
    """Return ``a, b`` of the rule ``rate = a * width ** b`` through the best rates of the widths."""
    widths = sorted({run["d_model"] for run in sweep})
    best = []
    for width in widths:
        runs = sorted((run for run in sweep if run["d_model"] == width), key=lambda run: run["rate"])
        best.append(best_rate([run["rate"] for run in runs], [run["loss"] for run in runs]))
    b, log_a = np.polyfit(np.log(widths), np.log(best), 1)
    return float(np.exp(log_a)), float(b)


def shapes_of(chapter: ModuleType) -> dict[str, dict[str, int]]:
    """Return shape, parameters and operations for a token of each width."""
    shapes = {}
    for width, (layers, heads, d_ff) in chapter.SHAPES.items():
        model = chapter.build(width, 0)
        total, own = (transformer.count_parameters(model, embeddings=which) for which in (True, False))
        shapes[str(width)] = {
            "num_layers": layers, "num_heads": heads, "d_ff": d_ff,
            "parameters": own,
            "embedding_parameters": total - own,
            "flops_per_token": 3 * transformer.flops_per_token(model.config, chapter.WINDOW),
        }  # fmt: skip
    return shapes


def jobs(chapter: ModuleType, stream: np.ndarray, runs: Runs) -> Iterator[Job]:
    """Yield the sweep of learning rates; then, with the rule drawn through the best ones, the other trainings.

    Each job is a training that makes a run for each number of tokens at which a copy is let down.
    """
    step_tokens, shapes = chapter.BATCH * chapter.WINDOW, runs.about["shapes"]

    def trained(width: int, ends: list[int], rate: float, seed: int) -> list[dict[str, Any]]:
        shape = shapes[str(width)]
        points = chapter.branched_run(stream, width, [round(end / step_tokens) for end in ends], rate, seed)
        sizes = [{"parameters": shape["parameters"], "flops": shape["flops_per_token"] * p["tokens"]} for p in points]
        return [point | size for point, size in zip(points, sizes, strict=True)]

    def job(name: str, width: int, ends: list[int], rate: float, seed: int) -> Job:
        tokens = [round(end / step_tokens) * step_tokens for end in ends]
        keys = [{"d_model": width, "tokens": count, "rate": rate, "seed": seed} for count in tokens]
        return Job(lambda: trained(width, ends, rate, seed), *keys, where=(name,))

    for width, rates in SWEPT.items():
        for rate in rates:
            yield job("sweep", width, [ENDS[1]], rate, 0)
    a, b = rate_rule(runs.rows("sweep"))
    runs.about["rule"] = {"factor": a, "exponent": b}
    print(f"learning rate {a:.3g} * width ** {b:.2f}")
    for name, planned in (("runs", GRID), ("held_back", [HELD_BACK]), ("runs", AGAIN)):
        for width, seed, ends in planned:
            yield job(name, width, ends, a * width**b, seed)
    for seed in (0, 1, 2):
        for width, tokens in EQUAL.items():
            yield job("equal", width, [tokens], a * width**b, seed)


def main() -> None:
    """Sweep, run, record."""
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=14_000, help="training documents to read")
    arguments = options.parse_args()

    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY, {"documents": arguments.documents})
    chapter = runs.chapter
    stream = chapter.read(arguments.documents)
    largest = max(HELD_BACK[2])
    if len(stream) <= largest:
        raise SystemExit(f"{len(stream):,} tokens, the longest run reads {largest:,}: raise --documents")
    held_out_bytes = sum(len(text.encode()) for text in chapter.held_out_texts)
    runs.about |= {
        "data": corpora.describe(chapter.docs), "tokens": len(stream), "shapes": shapes_of(chapter), "rule": None,
        "held_out": {"tokens": len(chapter.held_out), "bytes": held_out_bytes},
        "convention": f"documents joined to one text, windows of {chapter.WINDOW} tokens that do not overlap, the "
        "last incomplete batch of 64 windows left out, <|endoftext|> after each document, which is scored",
    }  # fmt: skip
    runs.go(jobs(chapter, stream, runs))


if __name__ == "__main__":
    main()
