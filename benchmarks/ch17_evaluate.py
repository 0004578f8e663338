"""`llmbook evaluate` on a real model and on the book's own, the same questions: `llmbook/results/evaluation.json`.

Each model is evaluated as the command does it, by name or by its folder, into a folder of its own under
`_build/evaluation`; a run that was stopped goes on there. The record keeps what the reports say, without the answers to
single questions.

    OMP_NUM_THREADS=1 python benchmarks/ch17_evaluate.py --limit 80
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from llmbook import results, runtime
from llmbook.evaluation import command, record_page
from recording import ROOT, origin, write

MODELS = ("smollm2-135m-instruct", "pydocs-gpt")
#: What a record keeps of each line of a report.
FIELDS = (
    "name", "applies", "why", "version", "shots", "items", "metric", "score", "low", "high", "interval", "chance",
    "score_by_character", "truncated", "template", "convention", "method",
)  # fmt: skip


def evaluated(model: str, out: Path, limit: int | None, batch_size: int, **options: Any) -> dict[str, Any]:
    """Return what the report of a model says, and the command that makes it."""
    words = ["llmbook", "evaluate", model, *(["--limit", str(limit)] if limit else []), "--batch-size", str(batch_size)]
    said = shlex.join(words)
    report = command.evaluate(model, out / Path(model).name, limit, batch_size=batch_size, command=said, **options)
    print(record_page.table(report), flush=True)
    lines = [{field: line[field] for field in FIELDS if field in line} for line in report["results"]]
    return {"command": said, "model": report["model"], "key": report["key"], "results": lines}


def main() -> None:
    """Evaluate and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, help="names or folders")
    parser.add_argument("--limit", type=int, help="the first questions of each benchmark, and documents")
    parser.add_argument("--batch-size", type=int, default=8, help="rows computed together")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "evaluation", help="folder for the reports")
    parser.add_argument("--result", type=Path, default=results.FOLDER / "evaluation.json")
    arguments = parser.parse_args()

    record = origin() | {"device": str(runtime.setup()), "limit": arguments.limit}
    record["runs"] = [
        evaluated(str(model), arguments.out, arguments.limit, arguments.batch_size) for model in arguments.models
    ]
    write(arguments.result, record)


if __name__ == "__main__":
    main()
