"""How long 10,000 bootstrap resamples of 5,000 items take on one thread: `llmbook/results/bootstrap.json`.

Right and wrong answers (few levels) and graded scores (as many levels as items) go different ways, see
`llmbook.evaluation.statistics`; both have to stay under two seconds. SciPy's bootstrap runs in the same process.

    OMP_NUM_THREADS=1 python benchmarks/ch17_bootstrap.py
"""

import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from scipy import stats

from llmbook import results
from llmbook.evaluation import statistics
from recording import origin, write

ITEMS, RESAMPLES, ROUNDS, LIMIT = 5_000, 10_000, 3, 2.0


def fastest(call: Callable[[], object]) -> float:
    """Return the processor time of the fastest of several rounds, in seconds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    """Measure, compare with SciPy's interval, write the record; fail where the limit is broken."""
    record = origin()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    given = {"right or wrong": (rng.random(ITEMS) < 0.7).astype(float), "graded": rng.random(ITEMS)}
    runs = []
    for name, values in given.items():
        found = statistics.bootstrap_interval(values, RESAMPLES)
        theirs = stats.bootstrap((values,), np.mean, n_resamples=2_000, method="percentile", rng=0, batch=200)
        low, high = theirs.confidence_interval
        if not np.allclose((found.low, found.high), (low, high), atol=2e-3):
            raise SystemExit(f"{name}: {found} is not SciPy's {low:.4f} to {high:.4f}")
        ours = fastest(lambda values=values: statistics.bootstrap_interval(values, RESAMPLES))
        scipy = fastest(
            lambda values=values: stats.bootstrap(
                (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0, batch=200
            )
        )
        runs.append({"values": name, "seconds": round(ours, 4), "scipy_seconds": round(scipy, 3)})
        print(runs[-1], flush=True)
    record |= {"items": ITEMS, "resamples": RESAMPLES, "limit_seconds": LIMIT, "scipy": version("scipy"), "runs": runs}
    write(results.FOLDER / "bootstrap.json", record)
    if slow := [run for run in runs if run["seconds"] >= LIMIT]:
        raise SystemExit(f"over the limit: {slow}")


if __name__ == "__main__":
    main()
