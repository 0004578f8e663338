"""How fast the book's decoder and `transformers` read and write with SmolLM2: `llmbook/results/generation_speed.json`.

Both have the same weights and are asked in turns, so that a busy neighbour slows both; what counts is the ratio within
a round, its median and its range over the rounds. *Reading* computes the logits of all tokens of one text. *Writing*
takes the most probable token again and again with a cache, after a short prompt by `transformer.greedy` and by
`generate`, and after a long one by the same loop for both. The row *matrices alone* multiplies one vector by each
matrix of the model and does nothing else: no program that multiplies token by token, in this type, with torch's
products, writes faster. bfloat16 is measured where the device multiplies it in hardware.

    OMP_NUM_THREADS=1 python benchmarks/ch05_generation_speed.py

On a GPU `make gpu` runs it with `--result llmbook/results/gpu_generation_speed.json`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from llmbook import hub, results, runtime
from llmbook.transformer import Decoder, greedy
from recording import origin, write

MODEL = "smollm2-135m-instruct"
OURS, THEIRS, MATRICES = "ours", "transformers", "matrices alone"
READING, WRITING, WRITING_LONG = "reading", "writing", "writing after a long prompt"


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return how long something takes: of a processor's time on a CPU, which a busy neighbour lengthens least."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.accelerator.synchronize()
    start = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def written(model: Any, prompt: Tensor, new: int) -> Tensor:
    """Continue a prompt ``(1, time)`` greedily, each model by its own program."""
    if isinstance(model, Decoder):
        return greedy(model, prompt, new)
    return model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, min_new_tokens=new, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip


def step_by_step(model: Any, cache: Any, token: Tensor, new: int) -> None:
    """Write from a cache, the same lines for both."""
    for _ in range(new):
        out = model(token, past_key_values=cache, use_cache=True)
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)  # (1, 1)


def share_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Let a model use the very tensors of another of the same weights: one copy fits into a small memory."""
    names = hub.module_names(ours.config, type(ours))
    found = dict(theirs.named_parameters(remove_duplicate=False))
    for name, parameter in ours.named_parameters():
        module, _, leaf = name.rpartition(".")
        parameter.data = found[f"{names[module]}.{leaf}"].data


def multiply(matrices: list[Tensor], vectors: dict[int, Tensor], times: int) -> None:
    """Multiply a vector ``(1, 1, features)`` by each matrix, as often as tokens would be written."""
    for _ in range(times):
        for matrix in matrices:
            F.linear(vectors[matrix.shape[1]], matrix)


@torch.inference_mode()
def round_of(
    models: dict[str, nn.Module], text: Tensor, sizes: dict[str, int], device: torch.device
) -> dict[str, dict[str, float]]:
    """Return the tokens per second of every task and program, once."""
    new, read, short = sizes["new"], text[:, : sizes["read"]], text[:, : sizes["short"]]
    speeds: dict[str, dict[str, float]] = {READING: {}, WRITING: {}, WRITING_LONG: {}}
    for name, model in models.items():
        speeds[READING][name] = read.shape[1] / seconds_of(lambda m=model: m(read), device)
    for name, model in models.items():
        speeds[WRITING][name] = new / seconds_of(lambda m=model: written(m, short, new), device)
    for name, model in models.items():
        out: Any = model(text[:, : sizes["long"]], use_cache=True)
        token = out.logits[:, -1:].argmax(-1)  # (1, 1)
        work = lambda m=model, c=out.past_key_values, t=token: step_by_step(m, c, t, new)  # noqa: E731
        speeds[WRITING_LONG][name] = new / seconds_of(work, device)
    # the table of embeddings is also the last matrix
    matrices = [p for p in models[OURS].parameters() if p.ndim == 2]
    vectors = {size: torch.ones(1, 1, size, dtype=matrices[0].dtype, device=device)
               for size in {matrix.shape[1] for matrix in matrices}}  # fmt: skip
    speeds[WRITING][MATRICES] = new / seconds_of(lambda: multiply(matrices, vectors, new), device)
    return speeds


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def summary(rounds: list[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Return a line for each task: tokens per second of each program, and the ratios to `transformers` by round."""
    lines = []
    for task, programs in rounds[0].items():
        for program in programs:
            speeds = [one[task][program] for one in rounds]
            ratios = [one[task][program] / one[task][THEIRS] for one in rounds]
            lines.append({"task": task, "program": program, "tokens_per_s": spread(speeds), "ratio": spread(ratios)})
    return lines


def measure(
    ours: nn.Module, theirs: nn.Module, text: Tensor, sizes: dict[str, int], rounds: int, dtypes: list[torch.dtype]
) -> list[dict[str, Any]]:
    """Return the lines of every type; the two have to write the same tokens, in float32 at least."""
    device, runs = text.device, []
    for dtype in dtypes:
        models = {OURS: ours.to(device, dtype).eval(), THEIRS: theirs.to(device, dtype).eval()}
        with torch.inference_mode():  # the first calls warm up
            texts = {name: written(model, text[:, : sizes["short"]], sizes["new"]) for name, model in models.items()}
        same = torch.equal(texts[OURS], texts[THEIRS])
        if dtype == torch.float32 and not same:
            raise SystemExit("the two write different tokens in float32: nothing recorded")
        made = [round_of(models, text, sizes, device) for _ in tqdm(range(rounds), desc=str(dtype))]
        name = str(dtype).removeprefix("torch.")
        runs += [{"dtype": name, "same_tokens": same} | line for line in summary(made)]
    return runs


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--read", type=int, default=128, help="tokens of the text that is read")
    parser.add_argument("--short", type=int, default=16, help="tokens of the short prompt")
    parser.add_argument("--long", type=int, default=256, help="tokens of the long prompt")
    parser.add_argument("--new", type=int, default=8, help="tokens that are written")
    parser.add_argument("--model", default=MODEL, help="a name or folder that hub.pretrained opens")
    parser.add_argument("--result", type=Path, default=results.FOLDER / "generation_speed.json")
    arguments = parser.parse_args()

    record = origin()
    rt = runtime.setup()
    sizes = {name: getattr(arguments, name) for name in ("read", "short", "long", "new")}
    theirs, tokenizer = hub.pretrained(arguments.model, library=True)
    ours = hub.from_hf(theirs)
    share_weights(ours, theirs)
    words = "The library returns a list of the files that were read, and their sizes in bytes. "
    ids = tokenizer.encode(words * (1 + max(sizes.values()) // 10))[: max(sizes.values())]
    text = torch.tensor([ids], device=rt.device)  # (1, time)
    dtypes = [torch.float32, *([torch.bfloat16] if rt.fast_dtype == torch.bfloat16 else [])]
    runs = measure(ours, theirs, text, sizes, arguments.rounds, dtypes)
    for run in runs:
        speed, ratio = run["tokens_per_s"], run["ratio"]
        print(f"{run['dtype']:9} {run['task']:28} {run['program']:14} {speed['median']:9.1f} tokens/s  "
              f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})")  # fmt: skip
    record |= {"device": str(rt), "model": str(arguments.model), "sizes": sizes, "rounds": arguments.rounds}
    write(arguments.result, record | {"runs": runs})


if __name__ == "__main__":
    main()
