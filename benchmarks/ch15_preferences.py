"""Chapter 15's longer runs: `llmbook/results/preferences.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript), so nothing is defined twice: T5 on four tasks
in two ways, instruction tuning with two losses, and from each tuned model a reward model, DPO, GRPO and best of n.
Runs that the file holds already, made by the same code, are kept: repeat the command until nothing is left to do. Two
may run at a time, with other parts or seeds.

    python benchmarks/ch15_preferences.py --minutes 4.5
    python benchmarks/ch15_preferences.py --parts preferences --seeds 1
"""

from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from llmbook import corpora, results
from llmbook.finetuning import instructions
from recording import Job, Runs, parser

CHAPTER = "15-instructions-and-preferences"
PATH = results.FOLDER / "preferences.json"
CONFIRM_BY = ("instructions answer 0", "t5 one for all 0", "dpo beta 0.03 0")
PARTS = ("preferences", "everything", "t5")
WAYS = ("one for all", "from scratch")
BETAS = (0.03, 0.3)
#: What GRPO climbs, and the price of a nat of KL.
REWARDS = {"judge": 0.0, "reward model": 0.0}
#: How many answers the chapter's `best_of` chooses from, and who chooses.
BEST_OF, CHOOSERS = (2, 4, 8, 16), ("reward model", "judge")


def text_to_text(chapter: ModuleType, way: str, seed: int) -> dict[str, Any]:
    """Tune T5 in one of two ways and grade it."""
    model, losses = chapter.tune_t5(seed, "pretrained" if way == "one for all" else way)
    return {"losses": losses, **chapter.grade_t5(model)}


def graded(chapter: ModuleType, model: nn.Module, losses: list[float]) -> dict[str, Any]:
    """Grade an instruction-tuned model."""
    answers = instructions.answer(model, chapter.tokenizer, chapter.test, 20, 72)
    return {"losses": losses, "nats": chapter.answer_loss(model), **chapter.grade(chapter.test, answers)}


def preferred(chapter: ModuleType, seed: int) -> Iterator[Job]:
    """Yield what begins with a model tuned on answers: its grades, best of n, GRPO and DPO.

    What several of these jobs need, the tuned model, its pairs and its reward model, is made by the first.
    """
    rt = chapter.rt

    @cache
    def tuned() -> tuple[nn.Module, list[float]]:
        return chapter.tune(seed, "answer")  # type: ignore[no-any-return]

    @cache
    def pairs() -> Any:
        return chapter.make_pairs(tuned()[0], seed)

    @cache
    def rewarded() -> tuple[nn.Module, tuple[float, float]]:
        return chapter.train_reward_model(tuned()[0], pairs(), seed)  # type: ignore[no-any-return]

    @cache
    def before() -> torch.Tensor:
        return chapter.draw(tuned()[0], chapter.exam, 4, rt.generator(seed + 300))[1]  # type: ignore[no-any-return]

    def climb(drawn: Any, marks: torch.Tensor) -> torch.Tensor:
        reward_model, (mean, spread) = rewarded()
        return (chapter.proxy(reward_model, drawn) - mean) / spread  # type: ignore[no-any-return]

    def examined(policy: nn.Module) -> dict[str, Any]:
        return chapter.examine(policy, tuned()[0], before(), *rewarded(), seed)  # type: ignore[no-any-return]

    def by_grpo(reward: str, beta: float) -> dict[str, Any]:
        value = climb if reward != "judge" else lambda drawn, marks: marks.flatten()
        policy, history = chapter.train_grpo(tuned()[0], value, seed, beta=beta)
        return {"way": f"GRPO on the {reward}", "setting": f"beta {beta}", "history": history, **examined(policy)}

    def by_dpo(beta: float) -> dict[str, Any]:
        return {"way": "DPO", **examined(chapter.train_dpo(tuned()[0], pairs(), beta, seed))}

    yield Job(lambda: graded(chapter, *tuned()), {"part": "instructions", "loss_on": "answer", "seed": seed})
    best = [{"way": f"best of n by the {by}", "setting": str(n), "n": n, "by": by} for n in BEST_OF for by in CHOOSERS]
    keys = [{"part": "best of n", "seed": seed, **name} for name in best]
    yield Job(lambda: chapter.best_of(tuned()[0], rewarded()[0], seed), *keys)
    for reward, beta in REWARDS.items():
        key = {"part": "grpo", "reward": reward, "seed": seed}
        yield Job(lambda reward=reward, beta=beta: by_grpo(reward, beta), key)
    for beta in BETAS:
        yield Job(lambda beta=beta: by_dpo(beta), {"part": "dpo", "setting": f"beta {beta}", "seed": seed})


def jobs(chapter: ModuleType, parts: Sequence[str] = PARTS, seeds: Sequence[int] | None = None) -> Iterator[Job]:
    """Yield all runs of some parts and seeds."""
    for part in parts:
        for seed in chapter.SEEDS if seeds is None else seeds:
            if part == "preferences":
                yield from preferred(chapter, seed)
            elif part == "everything":
                key = {"part": "instructions", "loss_on": "everything", "seed": seed}
                yield Job(lambda seed=seed: graded(chapter, *chapter.tune(seed, "everything")), key)
            else:
                for way in WAYS:
                    key = {"part": "t5", "way": way, "seed": seed}
                    yield Job(lambda way=way, seed=seed: text_to_text(chapter, way, seed), key)


def main() -> None:
    """Run what the file lacks, until the time is over."""
    options = parser(__doc__)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="by default all")
    options.add_argument("--seeds", nargs="+", type=int, help="by default the chapter's")
    arguments = options.parse_args()
    runs = Runs(PATH, CHAPTER, arguments, CONFIRM_BY)
    runs.about |= {"data": corpora.describe(corpora.pydocs())}
    runs.go(jobs(runs.chapter, arguments.parts, arguments.seeds))


if __name__ == "__main__":
    main()
