"""How long a fixed piece of work takes on one core of this machine, in seconds; the last line says it.

Budgets in seconds mean little where one machine takes twice as long as the next. `make notebooks` measures with this
how fast a machine is, as many copies side by side as it executes chapters. Plain Python, so that no library's version
and no processor's special units change it.
"""

import time

REPEATS = 5
#: What the work takes on the machine for which the budgets were set, two copies side by side: see `within_budget`.
REFERENCE_SECONDS = 0.11


def work() -> int:
    """Count pairs, sort them, and multiply small matrices of plain numbers."""
    state, counts = 1, dict[tuple[int, int], int]()
    for _ in range(120_000):
        before, state = state, (state * 1_103_515_245 + 12_345) % 2_147_483_648
        pair = before % 251, state % 251
        counts[pair] = counts.get(pair, 0) + 1
    ordered = sorted(counts, key=lambda pair: (-counts[pair], pair))
    rows = [[float(a * b % 7) for a in range(60)] for b in range(60)]
    columns = list(zip(*rows, strict=True))
    product = [[sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in rows]
    return len(ordered) + int(product[3][4])


def main() -> None:
    """Print the middle one of several times."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    print(sorted(times)[REPEATS // 2])


if __name__ == "__main__":
    main()
