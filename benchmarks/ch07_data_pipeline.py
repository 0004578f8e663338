"""Chapter 7's steps against datatrove's own, in MB/s on one core: `llmbook/results/data_pipeline.json`.

Runs the chapter's own code (the cells tagged `engine` of its manuscript) on its whole crawl and on documents of
`pydocs`, and the filter pipeline of the chapter under the engine with one and with two workers.

    python benchmarks/ch07_data_pipeline.py --documents 4000
"""

import argparse
import tempfile
import time
from pathlib import Path

import recording
from llmbook import corpora, pipeline, results

CHAPTER = "07-data"
PATH = results.FOLDER / "data_pipeline.json"


def engine_runs(work: Path, records: list[dict]) -> dict[str, float]:
    """Seconds for measure, filter and redact over all records: the plain loop, then one and two workers."""
    for shard in range(8):
        pipeline.write_shard(work / "raw" / f"{shard:03d}.jsonl", records[shard::8])
    steps = (pipeline.Measure(), pipeline.Keep(pipeline.ENGLISH[:6]), pipeline.Redact())
    start = time.perf_counter()
    pipeline.process(work / "raw", work / "plain", steps)
    seconds = {"plain loop": time.perf_counter() - start}
    for workers in (1, 2):
        name = f"datatrove, {workers} worker{'s' * (workers > 1)}"
        job = pipeline.Job(work / "raw", work / f"out-{workers}", work / f"logs-{workers}", steps)
        start = time.perf_counter()
        pipeline.run(job, workers=workers)
        seconds[name] = time.perf_counter() - start
        for path in pipeline.shards(job.target):
            if path.read_bytes() != (work / "plain" / path.name).read_bytes():
                raise RuntimeError(f"{path} differs from the plain loop's")
    return seconds


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4000, help="documents of pydocs besides the crawl")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the fastest counts")
    parser.add_argument("--out", type=Path, default=PATH)
    args = parser.parse_args()
    record = recording.origin()
    with tempfile.TemporaryDirectory() as folder:
        chapter = recording.chapter(CHAPTER, work=Path(folder))
        crawled = sorted((row for row in chapter.crawl() if row["text"].strip()), key=lambda row: row["id"])
        docs = corpora.pydocs()["train"].shuffle(seed=0)["text"][: args.documents]
        sample = [text for text in [*(row["text"] for row in crawled), *docs] if len(text.split()) >= 5]
        speeds = {}
        for name, (ours, theirs) in chapter.contest.items():
            fast, reference = (chapter.speed(f, sample, args.repeats) for f in (ours, theirs))
            speeds[name] = {"ours": fast, "datatrove": reference, "ratio": fast / reference}
        record |= {
            **recording.engine_of(chapter),
            "documents": len(sample),
            "bytes": sum(len(text.encode()) for text in sample),
            "MB/s": speeds,
            "seconds": engine_runs(Path(folder), crawled),
        }
    recording.write(args.out, record)


if __name__ == "__main__":
    main()
