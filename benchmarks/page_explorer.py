"""The model in the page, measured in Chromium: bytes, time to the first answer, time per token, distance from Python.

    python benchmarks/page_explorer.py pydocs-gpt pydocs-bert            # writes llmbook/results/explorer.json
    python benchmarks/page_explorer.py /path/to/a/model --out /tmp/run.json

A page of nothing but the explorer is served from this machine, so that fetching takes no time to speak of; what a
slower line adds can be told from the bytes.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import tempfile
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

from llmbook import explore, hub, results, tokenization
from llmbook.explore import assets
from llmbook.pretrained import model_folder
from llmbook.transformer import Encoder
from recording import ROOT, origin, write

TEXT = "Return the mean of the values along the given axis."
CONTEXT = 64  # tokens before the ones whose time is taken
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FIGURE = "document.querySelector('.lm-explorer')"
# What the worker answers, as plain lists.
ASK = f"""(question) => {FIGURE}.explorer.thread.ask("ask", question).then((answer) => (
  {{...answer, logits: [...answer.logits], attention: [...answer.attention], lens: null, compared: null}}))"""


class Quiet(SimpleHTTPRequestHandler):
    """A server that does not write down who asked."""

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


def prepared(model: str, folder: Path) -> dict[str, Any]:
    """Write a page with the explorer into a folder; return what is known of its files."""
    encoder = isinstance(hub.load(model), Encoder)
    made = explore.prepare(model, TEXT.replace("mean", "<mask>") if encoder else TEXT)
    figure = made.html({"url": "model.lmx", "data-script": "explorer.js"}, "still.png", "explorer-1")
    page = f"<!doctype html><html lang=en data-theme=light><meta charset=utf-8><body>{figure}</body></html>"
    (folder / "index.html").write_text(page, encoding="utf-8")
    (folder / "explorer.js").write_text(assets.script(), encoding="utf-8")
    (folder / "model.lmx").write_bytes(made.packed.file)
    (folder / "still.png").write_bytes(made.picture)
    weights = model_folder(model) / "model.safetensors"
    script = assets.script().encode()
    return {
        "sha256": made.packed.sha256, "parameters": made.packed.parameters, "kind": made.packed.kind,
        "bytes_of_weights": weights.stat().st_size, "bytes_to_fetch": len(made.packed.file),
        "bytes_of_script": len(script), "bytes_of_script_gzip": len(gzip.compress(script)),
    }  # fmt: skip


def first_answer(page: Page, address: str) -> float:
    """Open the page, press the button and wait for the first answer, drawn; seconds from the press."""
    page.goto(address, wait_until="networkidle")
    button = page.locator(".lmx-start")
    button.wait_for()
    start = time.perf_counter()
    button.click()
    page.wait_for_function(f"() => {FIGURE}.dataset.answers", timeout=60_000)
    return time.perf_counter() - start


def token_times(page: Page, ids: list[int], kind: str) -> dict[str, float]:
    """Milliseconds for all tokens at once and, with the cache, for one more."""
    first = page.evaluate(ASK, {"ids": ids[:CONTEXT], "lens": False})
    times = {"milliseconds_for_64_tokens": 1e3 * first["seconds"]}
    if kind == "decoder":
        steps = []
        for length in range(CONTEXT + 1, len(ids) + 1):
            answer = page.evaluate(ASK, {"ids": ids[:length], "lens": False})
            assert answer["fresh"] == 1
            steps.append(1e3 * answer["seconds"])
        times["milliseconds_per_token"] = statistics.median(steps)
    return times


def long_tasks(page: Page) -> float:
    """Milliseconds of the page's longest task over 50 ms while someone types; 0 where there is none."""
    page.evaluate(
        "new PerformanceObserver(list => (self.long ??= []).push(...list.getEntries().map(task => task.duration)))"
        ".observe({type: 'longtask'})"
    )
    page.locator("textarea").fill(TEXT * 4)
    page.locator("textarea").press_sequentially(" and what is typed then", delay=60)
    page.wait_for_timeout(1000)
    return max(page.evaluate("self.long ?? []"), default=0.0)


@torch.no_grad()
def distance(page: Page, model: str, count: int) -> dict[str, float]:
    """Largest differences of logits and attention from llmbook's, computed in double precision, over many texts."""
    network, tokenizer = hub.pretrained(model)
    network = network.double()
    rng, words = np.random.default_rng(0), [*TEXT.split(), "\n\n", "Parameters", "x_1", "3.14", "数组", "😀"]
    worst = {"logits": 0.0, "attention": 0.0}
    for _ in range(count):
        text = " ".join(rng.choice(words, rng.integers(1, 30)))
        ids = tokenizer(text)["input_ids"]
        answer = page.evaluate(ASK, {"text": text, "lens": False})
        assert answer["ids"] == ids
        output = network(torch.tensor([ids]), output_attentions=True)
        logits = output.logits[0, answer["place"]].numpy()
        weights = torch.stack(output.attentions)[:, 0].flatten().numpy()
        worst["logits"] = max(worst["logits"], float(abs(np.array(answer["logits"]) - logits).max()))
        worst["attention"] = max(worst["attention"], float(abs(np.array(answer["attention"]) - weights).max()))
    return worst


def measure(model: str, rounds: int, texts: int, executable: str) -> dict[str, Any]:
    """Measure one model."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        record: dict[str, Any] = {"model": Path(model).name, **prepared(model, folder)}
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=temporary))
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        record["browser"] = f"Chromium {browser.version}"
        answers = []
        for _ in range(rounds):  # a new context has an empty cache
            context = browser.new_context()
            page = context.new_page()
            answers.append(first_answer(page, address))
            if len(answers) < rounds:
                context.close()
        record["seconds_to_first_answer"] = statistics.median(answers)
        ids = tokenization.load_tokenizer("gpt")(TEXT * 8)["input_ids"][: CONTEXT + 20]
        record |= token_times(page, ids, record["kind"])
        record["longest_task_while_typing"] = long_tasks(page)
        record["largest_difference"] = distance(page, model, texts)
        browser.close()
        server.shutdown()
    return record


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names of the book's models, or folders")
    parser.add_argument("--rounds", type=int, default=5, help="times that the page is opened anew")
    parser.add_argument("--texts", type=int, default=50, help="texts compared with Python")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "explorer.json")
    arguments = parser.parse_args()
    sys.path.append(str(ROOT / "tools"))
    from browser import find_browser

    executable, _ = find_browser()
    record = origin()
    runs = [measure(model, arguments.rounds, arguments.texts, executable) for model in arguments.models]
    write(arguments.out, record | {"rounds": arguments.rounds, "texts": arguments.texts, "runs": runs})


if __name__ == "__main__":
    main()
