"""The book's benchmarks as local task files of lm-evaluation-harness, and a run through it (chapter 17).

Importing this module costs nothing; ``lm_eval`` is imported by :func:`run`, which takes several seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbook.evaluation.benchmarks import Benchmark, Item
from llmbook.evaluation.scoring import SHOT_DELIMITER
from llmbook.files import without_progress_bars, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def task_name(benchmark: Benchmark) -> str:
    """Return the name under which the harness knows a benchmark: ``llmbook_type``, ``llmbook_type_channel`` ..."""
    first = next(iter(benchmark.templates))
    return f"llmbook_{benchmark.name}" + ("" if benchmark.template == first else f"_{benchmark.template}")


def _row(item: Item) -> dict[str, Any]:
    row: dict[str, Any] = {"id": item.id, "prompt": item.prompt, "answer": item.answer}
    return row | ({"choices": list(item.choices), "label": item.label} if item.choices else {})


def write_tasks(folder: str | Path, benchmarks: Iterable[Benchmark]) -> list[str]:
    """Write a task file (YAML) and its items (JSON lines) for each benchmark; return the names of the tasks.

    The folder is then given to the harness as ``--include_path`` (or ``TaskManager(include_path=...)``). The files name
    each other by absolute paths: write them anew after moving the folder.

    Raises:
        ValueError: ``folder`` is a file.
    """
    import yaml

    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for benchmark in benchmarks:
        name = task_name(benchmark)
        files = {"test": folder / f"{name}.test.jsonl", "dev": folder / f"{name}.dev.jsonl"}
        for split, items in (("test", benchmark.items), ("dev", benchmark.dev)):
            write_whole(files[split], "".join(json.dumps(_row(item), ensure_ascii=False) + "\n" for item in items))
        task: dict[str, Any] = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {split: str(file) for split, file in files.items()}},
            "test_split": "test",
            "fewshot_split": "dev",
            "fewshot_config": {"sampler": "first_n"},
            "doc_to_text": "prompt",
            "target_delimiter": benchmark.delimiter,
            "fewshot_delimiter": SHOT_DELIMITER,
            "metadata": {"version": benchmark.version},
        }
        if benchmark.kind == "choice":
            metrics = ["acc", "acc_norm", "acc_bytes"]
            task |= {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "label"}
        else:
            metrics = ["exact_match"]
            task |= {
                "output_type": "generate_until",
                "doc_to_target": "answer",
                "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 16},
                "filter_list": [
                    {"name": "line", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
                ],
            }
        task["metric_list"] = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics]
        write_whole(folder / f"{name}.yaml", yaml.safe_dump(task, sort_keys=False, allow_unicode=True))
        names.append(name)
    return names


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    tasks: Iterable[str],
    shots: int = 0,
    limit: int | None = None,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Run lm-evaluation-harness on tasks that :func:`write_tasks` wrote; nothing is fetched.

    Args:
        model: a causal model of ``transformers``, in memory.
        tokenizer: its own.
        folder: with the task files.
        tasks: their names.
        shots: examples in the prompt, the first ones of the dev part.
        limit: only so many items of each task.
        batch_size: rows that are computed together.

    Returns:
        What ``lm_eval.simple_evaluate`` returns: ``results``, ``samples``, ``versions`` ...

    Raises:
        ValueError: no tasks, or one that is not in the folder.
    """
    wanted = list(tasks)
    known = sorted(path.stem for path in Path(folder).glob("*.yaml"))
    if not wanted or (missing := [name for name in wanted if name not in known]):
        raise ValueError(f"tasks={wanted}: {folder} holds {', '.join(known) or 'none'}" + (
            f"; {missing[0]} is not among them" if wanted else ""))  # fmt: skip
    with _quiet():
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        return lm_eval.simple_evaluate(
            model=wrapped, tasks=wanted, num_fewshot=shots, limit=limit, task_manager=manager, bootstrap_iters=0
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the harness's bars and remarks; errors are raised as before."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with without_progress_bars("datasets"), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def log_likelihoods(samples: Iterable[dict[str, Any]]) -> list[list[float]]:
    """Return the log-likelihoods of the choices in the samples of a multiple-choice task, in the order of the items."""
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    return [[response[0] for response in sample["filtered_resps"]] for sample in ordered]
