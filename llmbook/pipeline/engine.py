"""The same steps in one loop, or in several processes under datatrove (chapter 7).

A step is a function that takes a record and returns it changed, or ``None`` to drop it. A record is a dictionary with
at least ``id`` and ``text``. Text lies in shards, files of one JSON record in each line; a task makes one output shard
of one input shard, under a name that exists only once it is whole. So a task that was cut off leaves nothing behind,
one that is done twice writes the same bytes, and nothing depends on which process did it.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

Record = dict[str, Any]
Step = Callable[[Record], Record | None]


def apply(steps: Sequence[Step], record: Record) -> Record | None:
    """Pass a record through all steps; ``None`` as soon as one drops it."""
    current: Record | None = record
    for step in steps:
        if current is None:
            break
        current = step(current)
    return current


def read_shard(path: Path) -> Iterator[Record]:
    """Yield the records of a shard that have text; blank lines and a byte order mark are passed over.

    Raises:
        ValueError: a line is no JSON object.
    """
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is no JSON: {error}; write one record in each line") from error
            if not isinstance(record, dict):
                raise ValueError(
                    f"{path}, line {number} is a {type(record).__name__}: a record is an object with id and text"
                )
            if record.get("text"):
                yield record


def write_shard(path: Path, records: Iterable[Record]) -> int:
    """Write records under a temporary name and rename the file when it is whole and on the disk; return their number.

    The bytes depend on the records alone: keys are sorted, and nothing says when or by whom it was written. A record
    with half of a surrogate pair, which UTF-8 cannot write, is written in JSON's escapes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    written = 0
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            try:
                file.write(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")
            except UnicodeEncodeError:
                file.write(json.dumps(record, sort_keys=True) + "\n")
            written += 1
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return written


def shards(folder: Path) -> list[Path]:
    """Return the shards in a folder, sorted.

    Raises:
        ValueError: there is none.
    """
    found = sorted(folder.glob("*.jsonl"))
    if not found:
        raise ValueError(f"{folder} has no file *.jsonl: write the text there, one JSON record in each line")
    return found


def process(source: Path, target: Path, steps: Sequence[Step]) -> int:
    """Apply the steps to all shards of a folder in one plain loop; return the number of records that stay."""
    written = 0
    for rank, path in enumerate(shards(source)):
        records = (apply(steps, record) for record in read_shard(path))
        written += write_shard(target / f"{rank:05d}.jsonl", (record for record in records if record is not None))
    return written


@dataclass(frozen=True)
class Job:
    """What to do: all of it can be pickled, so steps are functions or objects of a module, not of a notebook.

    Attributes:
        source: folder of the input shards.
        target: folder of the output shards.
        logs: folder of datatrove's logs and completion marks; one for each job.
        steps: what happens to each record.
    """

    source: Path
    target: Path
    logs: Path
    steps: tuple[Step, ...]

    @property
    def tasks(self) -> int:
        """One for each input shard."""
        return len(shards(self.source))


def datatrove_steps(job: Job) -> "list[PipelineStep]":
    """Return the job as a datatrove pipeline, for any of its executors: with ``tasks=job.tasks``."""
    from datatrove.data import Document, DocumentsPipeline
    from datatrove.pipeline.base import PipelineStep

    class Read(PipelineStep):
        type, name = "llmbook", "shard in"

        def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
            for path in shards(job.source)[rank::world_size]:
                for record in read_shard(path):
                    rest = {key: value for key, value in record.items() if key not in ("id", "text")}
                    yield Document(text=record["text"], id=record["id"], metadata=rest)

    class Apply(PipelineStep):
        type, name = "llmbook", "steps"

        def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
            for document in data:
                record = apply(job.steps, {**document.metadata, "id": document.id, "text": document.text})
                self.stat_update("total", "forwarded" if record is not None else "dropped")
                if record is not None:
                    rest = {key: value for key, value in record.items() if key not in ("id", "text")}
                    yield Document(text=record["text"], id=record["id"], metadata=rest)

    class Write(PipelineStep):
        type, name = "llmbook", "shard out"

        def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
            records = ({**document.metadata, "id": document.id, "text": document.text} for document in data)
            write_shard(job.target / f"{rank:05d}.jsonl", records)

    return [Read(), Apply(), Write()]


def start(job: Job, workers: int) -> list["subprocess.Popen[bytes]"]:
    """Start processes that share the job's tasks, each a local executor of datatrove for its part of the ranks.

    Each is an interpreter of its own and leads a process group of its own, as on separate machines: none waits for
    another, and tasks that have a completion mark are passed over.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: it takes at least 1")
    tasks = job.tasks
    workers = min(workers, tasks)
    job.logs.mkdir(parents=True, exist_ok=True)
    edges = [tasks * worker // workers for worker in range(workers + 1)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    started = []
    for worker in range(workers):
        with (job.logs / f"worker-{worker}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import work; work()"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert child.stdin
        with suppress(BrokenPipeError):
            pickle.dump((job, edges[worker], edges[worker + 1] - edges[worker]), child.stdin)
            child.stdin.close()
        started.append(child)
    return started


def work() -> None:
    """Run the part of a job that comes in through standard input."""
    job, first, number = pickle.load(sys.stdin.buffer)
    from datatrove.executor import LocalPipelineExecutor

    LocalPipelineExecutor(
        pipeline=datatrove_steps(job),
        tasks=job.tasks,
        workers=1,
        local_tasks=number,
        local_rank_offset=first,
        logging_dir=str(job.logs),
    ).run()


def finish(processes: "Iterable[subprocess.Popen[bytes]]") -> int:
    """Wait for processes of :func:`start`, clear away what those that failed left running; return how many failed."""
    failed = 0
    for child in processes:
        if child.wait() != 0:
            failed += 1
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    return failed


def run(job: Job, workers: int = 2, attempts: int = 3) -> int:
    """Run a job to its end; return how many times workers had to be started again.

    Raises:
        RuntimeError: workers still failed at the last attempt; the message ends with the last lines of their log.
    """
    if attempts < 1:
        raise ValueError(f"attempts={attempts}: it takes at least 1")
    for attempt in range(attempts):
        if not finish(start(job, workers)):
            for partial in job.target.glob("*.partial"):  # of workers that were killed
                partial.unlink()
            return attempt
    said = [line for path in sorted(job.logs.glob("worker-*.log")) for line in path.read_text().splitlines()[-3:]]
    raise RuntimeError(f"workers failed {attempts} times; see {job.logs}. " + " | ".join(said))
