"""What `pydocs-gpt` costs to run, and what its quality costs: `llmbook/results/evaluation_cost.json` (chapter 17).

First part: time to the first token, per token, throughput and memory against batch and prompt length, in float32 and
bfloat16. Second part: bits per byte of held-out documents against seconds per thousand scored tokens and memory, for
several context lengths and precisions, and for n-gram models counted on the same training text. Measurements that the
file holds already are kept.

    python benchmarks/ch17_cost.py
"""

import argparse
import json
import math
import time
from dataclasses import asdict

import torch
from tqdm.auto import tqdm

from llmbook import corpora, hub, ngram, results, runtime, tokenization
from llmbook.evaluation import cost
from llmbook.metrics import bits_per_byte
from recording import origin, write

BATCHES, LENGTHS, NEW = (1, 2, 4, 8, 16), (32, 64, 128, 256, 448), 32
CONTEXTS, ORDERS, DOCUMENTS = (16, 64, 256, 512), (2, 3, 5), 200
CHECK = {"context": 16, "documents": 20}  # what the chapter computes again
PATH = results.FOLDER / "evaluation_cost.json"


@torch.no_grad()
def nats(model: torch.nn.Module, stream: torch.Tensor, context: int) -> float:
    """Return the nats of a stream of tokens ``(tokens,)`` in windows that overlap by half, as in chapter 1."""
    half = context // 2
    padded = torch.nn.functional.pad(stream, (half + 1, -len(stream) % half))
    total, left, device = 0.0, len(stream), next(model.parameters()).device
    for rows in padded.unfold(0, context + 1, half).split(max(1, 4096 // context)):
        rows = rows.to(device)  # (rows, context + 1)
        logits = model(rows[:, :-1]).logits[:, -half:].float()  # (rows, half, vocab)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, -half:].flatten(), reduction="none")
        total += float(losses[:left].double().sum())
        left -= min(left, len(losses))
    return total


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
                "cache_formula": cost.cache_bytes(model.config, batch, length, size),
                "peak_bytes": cost.peak_bytes(model, prompt),
            }
            found.append(run)
    return found


def main() -> None:
    """Measure and record."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    record, rt = origin(), runtime.setup()
    old = json.loads(PATH.read_text()) if PATH.exists() else {}
    runs, systems = old.get("runs", []), old.get("systems", [])
    record |= {"device": str(rt), "new_tokens": NEW, "documents": DOCUMENTS}
    models = {"float32": hub.load(hub.shipped("pydocs-gpt")).float().to(rt.device)}
    models["bfloat16"] = hub.load(hub.shipped("pydocs-gpt")).to(rt.device, torch.bfloat16)
    with torch.no_grad():
        for precision, model in models.items():
            runs += timings(model, precision, runs)
            write(PATH, record | {"runs": runs, "systems": systems})

    docs = corpora.pydocs().shuffle(seed=0)
    texts = docs["test"]["text"][:DOCUMENTS]
    size = sum(len(text.encode()) for text in texts)
    tokenizer = tokenization.load_tokenizer("gpt").backend_tokenizer
    encoded = tokenization.encode_documents(tokenizer, texts)
    stream = torch.cat([torch.from_numpy(ids) for ids in encoded]).long()  # (tokens,)
    few, part = CHECK["documents"], sum(len(text.encode()) for text in texts[: CHECK["documents"]])
    short = torch.cat([torch.from_numpy(ids) for ids in encoded[:few]]).long()  # (tokens,)
    bits = nats(models["float32"], short, CHECK["context"]) / math.log(2) / part
    record |= {"check": CHECK | {"bits_per_byte": bits}}
    known = {system["name"] for system in systems}
    for precision, model in models.items():
        weights = cost.weight_bytes(model)
        for context in tqdm(CONTEXTS, desc=precision):
            name = f"pydocs-gpt, {precision}, context {context}"
            if name in known:
                continue
            begin = time.perf_counter()
            bits = nats(model, stream, context) / math.log(2) / size
            seconds = time.perf_counter() - begin
            systems.append({"name": name, "kind": f"transformer, {precision}", "bits_per_byte": bits,
                            "seconds_per_1000": 1000 * seconds / len(stream), "bytes": weights})  # fmt: skip
            write(PATH, record | {"runs": runs, "systems": systems})
    if not {f"Kneser-Ney, order {order}" for order in ORDERS} <= known:
        train = tokenization.encode_documents(tokenizer, docs["train"]["text"][:])
        counts = ngram.NGramCounts(train, tokenizer.get_vocab_size(), order=max(ORDERS))
        for order in ORDERS:
            table = ngram.KneserNey(counts, order)
            begin = time.perf_counter()
            bits = bits_per_byte(table.log_prob(encoded), size)
            seconds = time.perf_counter() - begin
            stored = sum(level.keys.nbytes + level.counts.nbytes for level in counts.levels[:order])
            systems.append({"name": f"Kneser-Ney, order {order}", "kind": "n-gram counts", "bits_per_byte": bits,
                            "seconds_per_1000": 1000 * seconds / len(stream), "bytes": stored})  # fmt: skip
    write(PATH, record | {"runs": runs, "systems": systems})


if __name__ == "__main__":
    main()
