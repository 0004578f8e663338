"""Chapter 2's gaps for SmolLM2: `llmbook/results/real_families.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice. SmolLM2 fills
the gaps of the chapter's test in the sentences as they are written: by the left side alone, by both sides, and by a
right side that belongs to another sentence. Runs that the file holds already, made by the same code, are kept: repeat
the command until nothing is left to do.

    python benchmarks/ch02_real_models.py --gaps 120
"""

from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from llmbook import corpora, hub, results
from recording import Job, Runs, parser

CHAPTER = "02-three-families"
PATH = results.FOLDER / "real_families.json"
CONFIRM_BY = ("0",)
BLOCK = 10


@cache
def smollm2() -> tuple[Any, Any]:
    """Return SmolLM2 and its tokenizer."""
    return hub.pretrained("smollm2-135m-instruct", library=True)


def gap_runs(chapter: ModuleType, begin: int) -> list[dict[str, Any]]:
    """Return what SmolLM2 puts into a block of gaps."""
    real, tokenizer = smollm2()
    pool = chapter.one_token_words(tokenizer)
    found = list(chapter.real_gaps(pool))
    made = []
    for number in range(begin, begin + BLOCK):
        gap, other = found[number], found[(number + len(found) // 2) % len(found)]
        left, both = chapter.real_guesses(real, tokenizer, pool, gap, gap.right)
        _, wrong = chapter.real_guesses(real, tokenizer, pool, gap, other.right)
        made.append({"word": gap.word, "left": left, "both": both, "wrong right": wrong})
    return made


def jobs(chapter: ModuleType, gaps: int) -> Iterator[Job]:
    """Yield a job for each block of gaps; it makes a run for each gap."""
    for begin in range(0, gaps, BLOCK):
        keys = [{"number": begin + i} for i in range(BLOCK)]
        yield Job(lambda begin=begin: gap_runs(chapter, begin), *keys, where=("gaps",))


def main() -> None:
    """Fill gaps, record."""
    options = parser(__doc__)
    options.add_argument("--gaps", type=int, default=120, help=f"how many, a multiple of {BLOCK}")
    arguments = options.parse_args()

    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    runs.about |= {"data": corpora.describe(runs.chapter.docs)}
    runs.go(jobs(runs.chapter, arguments.gaps))


if __name__ == "__main__":
    main()
