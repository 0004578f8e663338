"""What `pydocs-gpt` costs to run, and what its quality costs: `llmbook/results/evaluation_cost.json` (chapter 17).

First part: time to the first token, per token, throughput and memory against batch and prompt length, in float32 and
bfloat16. Second part: bits per byte of held-out documents, under the book's convention, against seconds per thousand
scored tokens and memory, for several context lengths and precisions, and for n-gram models counted on the same training
text. Measurements that the file holds already are kept.

    python benchmarks/ch17_cost.py
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from tqdm.auto import tqdm

from llmbook import corpora, hub, ngram, results, runtime, scaling, tokenization
from llmbook.evaluation import cost
from llmbook.evaluation.likelihood import BOOK, LanguageModel, document_log_probs
from llmbook.metrics import bits_per_byte
from recording import origin, write

BATCHES, LENGTHS, NEW = (1, 2, 4, 8, 16), (32, 64, 128, 256, 448), 32
CONTEXTS, ORDERS = (16, 64, 256, 512), (2, 3, 5)
CHECK = {"context": 16, "documents": 20}  # what the chapter computes again
END = tokenization.special_tokens().index(tokenization.END_OF_TEXT)
PATH = results.FOLDER / "evaluation_cost.json"


def bits_and_seconds(
    model: LanguageModel, documents: Sequence[np.ndarray], num_bytes: int, context: int
) -> dict[str, float]:
    """Score documents under the book's convention, in windows of so many tokens."""
    convention, batch_size = BOOK.with_window(context), max(1, 4096 // context)
    begin = time.perf_counter()
    found = np.concatenate(document_log_probs(model, documents, convention, END, batch_size=batch_size))  # (tokens,)
    seconds = time.perf_counter() - begin
    return {"bits_per_byte": bits_per_byte(found, num_bytes), "seconds_per_1000": 1000 * seconds / len(found)}


def timings(model: torch.nn.Module, precision: str, done: list[dict]) -> list[dict]:
    """Return times and memory for each batch and length that is not done."""
    known = {(run["precision"], run["batch"], run["prompt"]) for run in done}
    found = []
    for batch in BATCHES:
        for length in LENGTHS:
            if (precision, batch, length) in known:
                continue
            prompt = torch.randint(4096, (batch, length), generator=torch.Generator().manual_seed(0))
            prompt = prompt.to(next(model.parameters()).device)  # (batch, length)
            run = asdict(cost.time_generation(model, prompt, NEW, repeats=3)) | {"precision": precision}
            size = next(model.parameters()).element_size()
            cache = model(prompt, use_cache=True).past_key_values
            run |= {
                "cache_bytes": cost.measured_cache_bytes(cache),
                "cache_formula": scaling.cache_bytes(model.config, batch, length, size),
                "peak_bytes": cost.peak_bytes(model, prompt),
            }
            found.append(run)
    return found


def main() -> None:
    """Measure and record."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    made, rt = origin(), runtime.setup()
    old = json.loads(PATH.read_text()) if PATH.exists() else {}
    runs, systems = old.pop("runs", []), old.pop("systems", [])
    record = old  # says where the runs come from; "scored" says it of the systems
    gpt, tokenizer = hub.pretrained("pydocs-gpt")
    models = {"float32": gpt.to(rt.device), "bfloat16": hub.load("pydocs-gpt").to(rt.device, torch.bfloat16)}
    with torch.no_grad():
        for precision, model in models.items():
            if found := timings(model, precision, runs):
                runs += found
                record |= made | {"device": str(rt), "new_tokens": NEW}
                write(PATH, record | {"runs": runs, "systems": systems})

    texts = corpora.held_out()
    documents = tokenization.encode_documents(tokenizer, texts)
    sizes = [len(text.encode()) for text in texts]
    few = CHECK["documents"]
    again = bits_and_seconds(models["float32"], documents[:few], sum(sizes[:few]), CHECK["context"])
    convention = f"{BOOK.with_window(max(CONTEXTS)).describe()}; shorter windows overlap by half of theirs"
    if systems and record.get("convention") != convention:
        raise SystemExit(f"{PATH} was scored under another convention ({record.get('convention')}): delete its systems")
    record |= {"documents": len(texts), "check": CHECK | {"bits_per_byte": again["bits_per_byte"]}}
    record |= {"convention": convention, "scored": record.get("scored", made)}
    known = {system["name"] for system in systems}
    for precision, model in models.items():
        weights = cost.weight_bytes(model)
        for context in tqdm(CONTEXTS, desc=precision):
            name = f"pydocs-gpt, {precision}, context {context}"
            if name in known:
                continue
            found = bits_and_seconds(model, documents, sum(sizes), context)
            systems.append({"name": name, "kind": f"transformer, {precision}"} | found | {"bytes": weights})
            write(PATH, record | {"runs": runs, "systems": systems})
    if not {f"Kneser-Ney, order {order}" for order in ORDERS} <= known:
        texts = list(corpora.pydocs()["train"].shuffle(seed=0)["text"])
        train = tokenization.encode_documents(tokenizer, texts, control=True)  # what pydocs-gpt has read
        counts = ngram.NGramCounts(train, len(tokenizer), order=max(ORDERS))
        for order in ORDERS:
            table = ngram.KneserNey(counts, order)
            found = bits_and_seconds(table, documents, sum(sizes), max(CONTEXTS))
            stored = sum(level.keys.nbytes + level.counts.nbytes for level in counts.levels[:order])
            name = f"Kneser-Ney, order {order}"
            systems.append({"name": name, "kind": "n-gram counts"} | found | {"bytes": stored})
    write(PATH, record | {"runs": runs, "systems": systems})


if __name__ == "__main__":
    main()
