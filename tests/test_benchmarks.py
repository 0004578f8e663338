import dataclasses
import hashlib
import json
import math
import pickle
import traceback
from collections import Counter
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ch01_language_models
import ch02_three_families
import ch05_generation_speed
import ch10_gpu_training
import ch10_recipes
import ch10_schedules
import ch10_training_speed
import ch11_scaling
import ch12_fine_tuning
import ch13_updating
import ch14_prompting
import ch15_preferences
import ch17_evaluate
import ch18_domains
import pretrain
import recording
from llmbook import generation, hub, results, tokenization, training
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig


def test_the_chapters_engine_trains_and_scores_every_model(engine):
    chapter = engine(ch01_language_models)
    stream = torch.arange(20_000) % 30  # each token tells the next one
    document = (np.arange(200) % 30).astype(np.int32)
    assert len(chapter.FIRST_RATES) == 3
    for kind, rate in chapter.FIRST_RATES.items():
        torch.manual_seed(0)
        model = kind(30, 32)
        before = chapter.log_probs(model, [document, document[:5]])
        chapter.train_model(model, stream, 0, rate)
        after = chapter.log_probs(model, [document, document[:5]])
        assert before.shape == after.shape == (205,)
        assert after.mean() > before.mean() + 0.5, kind.__name__


def test_the_first_benchmark_counts_first_then_searches_every_models_rate(engine):
    chapter = engine(ch01_language_models)
    chapter.WIDTH = 8
    train = [np.arange(50, dtype=np.int32) % 30] * 8
    text = ch01_language_models.Text(train[:1], 100)
    made = []
    jobs = ch01_language_models.jobs(chapter, train, text, text, 30, [100, 200], lambda: made)
    names = []
    for job in jobs:
        names.append(str(job))
        (key,) = job.keys
        if key["rate"] is None or len(names) == 3:
            assert 0 < job.make()["bits_per_byte"] < 20
        rate = key["rate"] or 1  # as if twice the rate that the search begins with were the best of all
        best = 2 * dict((kind.__name__, rate) for kind, rate in chapter.FIRST_RATES.items()).get(key["model"], 1)
        made.append(key | {"validation": abs(math.log2(rate / best))})
    assert names[:3] == ["Kneser-Ney 100 None None", "Kneser-Ney 200 None None", "FeedForwardLM 100 0.004 0"]
    rates = [run["rate"] for run in made if (run["model"], run["tokens"], run["seed"]) == ("LSTMLM", 100, 0)]
    assert rates == [0.008, 0.016, 0.032, 0.064]  # doubled once more, since the best was at the edge
    assert [run["rate"] for run in made if (run["model"], run["seed"]) == ("LSTMLM", 2)] == [0.032, 0.032]


def test_the_first_benchmarks_writers_continue_texts_and_are_read_by_both_models(engine):
    chapter = engine(ch01_language_models)
    torch.manual_seed(0)
    tokenizer = tokenization.train_byte_bpe(["a b c d e f g " * 20], 60 + 256)
    model = Decoder(TransformerConfig(tokenizer.get_vocab_size(), d_model=16, num_layers=1, num_heads=2)).eval()
    starts, people = chapter.beginnings(tokenizer, ["a b c d " * 80, "too short", "e f g a " * 80], tokens=4)
    assert len(starts) == len(people) == 2
    assert all(len(text) == chapter.CHARACTERS for text in people)
    scores = generation.cached_scores(model)
    for method in (*chapter.METHODS, "beam 5"):
        written = chapter.write(scores, tokenizer, starts, method, [0], 5)
        assert len(written) == 2 and all(0 < len(text) <= chapter.CHARACTERS for text in written)
    bits = chapter.token_bits(model, tokenizer, starts, 0)
    assert [len(row) for row in bits] == [4, 4]


def test_the_second_chapters_engine_trains_every_family_and_asks_it_in_every_way(engine):
    chapter = engine(ch02_three_families)
    chapter.train, chapter.held_out = chapter.train[:300], chapter.held_out[:50]
    chapter.SEEDS, chapter.RATES, chapter.PASSES = (0,), (8e-3,), 1
    rates = [{"family": name, "rate": 8e-3, "bits": 6.0} for name in chapter.FAMILIES]
    runs = SimpleNamespace(chapter=chapter, rows=lambda where: rates)
    trials = list(ch02_three_families.jobs(runs, [1], ["rates"]))
    assert [str(job) for job in trials] == [f"{name} 0.008" for name in chapter.FAMILIES]
    assert 0 < trials[0].make()["bits"] < 12
    jobs = list(ch02_three_families.jobs(runs, [1], ["runs"]))
    assert [key["method"] for job in jobs for key in job.keys] == list(chapter.METHODS)
    made = [run for job in jobs for run in job.make()]
    assert len(made) == len(chapter.METHODS)
    assert all(0.02 < run["gaps"] < 1 for run in made)  # one of 700 words at random would be 0.001


def test_the_second_chapters_best_rate_is_the_one_with_the_fewest_bits_of_each_family(engine):
    trials = [("one", 1e-3, 5.0), ("one", 2e-3, 4.0), ("two", 1e-3, 2.0), ("two", 2e-3, 3.0)]
    trials = [dict(zip(("family", "rate", "bits"), trial, strict=True)) for trial in trials]
    assert engine(ch02_three_families).best_rates(trials) == {"one": 2e-3, "two": 1e-3}


def test_the_tenth_chapters_search_goes_on_to_the_best_rates_and_then_trains_the_chapters_seeds():
    rows: list[dict[str, float]] = []
    runs = SimpleNamespace(rows=lambda where: rows, chapter=SimpleNamespace(SEEDS=(0, 1)))

    def make(rates, seed):
        return {"validation": abs(rates[0] - 4e-3) + abs(rates[1] - 2e-3)}

    first = {"matrices": 1e-3, "tables": 4e-3}
    for job in ch10_schedules.searched(runs, "runs", {"optimiser": "AdamW"}, first, make):
        rows.append(job.keys[0] | job.make())
    tried = {(row["matrices"], row["tables"]) for row in rows}
    assert {(5.6e-3, 2e-3), (2.8e-3, 2e-3), (4e-3, 2.8e-3), (4e-3, 1.4e-3)} < tried
    chosen = [(row["matrices"], row["tables"], row["seed"]) for row in rows if row["seed"] != ch10_schedules.CHOOSE_BY]
    assert chosen == [(4e-3, 2e-3, 0), (4e-3, 2e-3, 1)]


@pytest.mark.slow
def test_the_twelfth_chapters_grids_fine_tune_for_every_task(engine):
    chapter = engine(ch12_fine_tuning)
    jobs = {job.where[1]: job for job in ch12_fine_tuning.jobs(chapter)}
    assert set(jobs) == {"curve", "sweep", "fits", "rare", "tags", "spans"}
    counts = Counter(job.where[1] for job in ch12_fine_tuning.jobs(chapter))
    assert counts == {name: len(runs) for name, runs in results.recorded("fine_tuning")["runs"].items()}
    chapter.TEST_ROWS["section"] = chapter.TEST_ROWS["section"][:20]
    chapter.TEST["section"] = tuple(part[:20] for part in chapter.TEST["section"])
    run = chapter.sweep(8e-4, 16, 0, count=16, epochs=1)
    assert set(run) == {"accuracy", "macro F1"} and 0 <= run["accuracy"] <= 1


@pytest.mark.slow
def test_the_thirteenth_chapters_methods_train_with_the_rate_that_was_found(engine):
    chapter = engine(ch13_updating)
    chapter.LABELS, chapter.STEPS = 16, 1
    for rows in (chapter.test, chapter.validation):
        del rows[8:]
    parts = ch13_updating.parts(chapter)
    assert {(part, *key) for part, key in parts} == {
        (run["part"], *run["key"]) for run in results.recorded("updating")["runs"]
    }
    searched = [{"method": "head only", "rate": rate, "accuracy": 1 - rate} for rate in (0.01, 0.03)]
    run = ch13_updating.make(chapter, "methods", ("head only", 0), searched)
    assert run["rate"] == 0.01 and 0 <= run["accuracy"] <= 1 and run["trainable"] < 5000


@pytest.mark.slow
def test_the_fourteenth_chapters_prompts_are_tuned(engine):
    chapter = engine(ch14_prompting)
    test, labels = chapter.draw("test", 2, 1)
    jobs = list(ch14_prompting.jobs(chapter, test, labels))
    record = results.recorded("prompting")
    assert all(len(job.found(record[job.where[0]])) == 1 for job in jobs)
    assert len(jobs) == len(record["pools"]) + len(record["runs"])
    _, accuracy = chapter.tune("BERT, new head", 2, 0, test, labels, steps=1)
    assert 0 <= accuracy <= 1


@pytest.mark.slow
def test_the_fifteenth_chapters_policies_are_tuned_and_graded(engine):
    chapter = engine(ch15_preferences)
    recorded = results.recorded("preferences")["runs"]
    assert sum(len(job.found(recorded)) for job in ch15_preferences.jobs(chapter)) == len(recorded)
    assert {str(job) for job in ch15_preferences.jobs(chapter, ["t5"], [7])} == {
        "t5 one for all 7",
        "t5 from scratch 7",
    }
    chapter.STEPS, chapter.test, chapter.test_rows = 1, chapter.test[:2], chapter.test_rows[:2]
    run = next(ch15_preferences.jobs(chapter, ["preferences"], [0])).make()
    assert len(run["losses"]) == 1 and 0 < run["nats"] < 20


@pytest.mark.slow
def test_the_eighteenth_chapters_fields_are_trained_on_and_kept(engine, tmp_path):
    chapter = engine(ch18_domains)
    recorded = results.recorded("domains")["runs"]
    jobs = list(ch18_domains.jobs(chapter, tmp_path))
    assert all(len(job.found(recorded)) == 1 for job in jobs) and len(jobs) == len(recorded)
    chapter.tests = {name: texts[:1] for name, texts in chapter.tests.items()}
    whole = chapter.trained
    chapter.trained = lambda batches, steps, *more: whole(batches, 1, *more)
    run = ch18_domains.trained(chapter, tmp_path, "specialist", (chapter.TARGET, 0))
    assert set(run["bits"]) == set(chapter.FIELDS) and all(bits > 0 for bits in run["bits"].values())
    assert ch18_domains.file_of(tmp_path, "specialist", (chapter.TARGET, 0)).is_file()


def test_the_models_whose_speed_is_compared_learn_the_same():
    torch.manual_seed(0)
    model = Decoder(TransformerConfig(50, d_model=32, num_layers=1, num_heads=2))
    batches = training.Windows(np.arange(2000) * 7 % 50, 16, 4)
    runs = ch10_training_speed.measure(model, batches, steps=8, rounds=1, device=torch.device("cpu"))
    losses = {run["variant"]: run["loss"] for run in runs}
    assert list(losses) == list(ch10_training_speed.VARIANTS) and runs[0]["ratio"] == 1
    assert abs(losses["ours, float32"] - losses["transformers, float32"]) < 1e-3
    assert abs(losses["ours, bfloat16"] - losses["ours, float32"]) < 0.05
    assert all(run["tokens_per_s"] > 0 and 0 < run["batch_share"] < 1 for run in runs)


def test_reading_and_writing_are_compared_on_the_same_tokens_in_turns():
    torch.manual_seed(0)
    model = Decoder(TransformerConfig(50, d_model=32, num_layers=1, num_heads=2, num_key_value_heads=1)).eval()
    text = torch.arange(24)[None] % 50  # (1, time)
    sizes = {"read": 12, "short": 4, "long": 20, "new": 3}
    theirs = hub.to_hf(model)
    runs = ch05_generation_speed.measure(model, theirs, text, sizes, 2, [torch.float32])
    speed = ch05_generation_speed
    assert [(run["task"], run["program"]) for run in runs] == [
        (speed.READING, speed.OURS), (speed.READING, speed.THEIRS), (speed.WRITING, speed.OURS),
        (speed.WRITING, speed.THEIRS), (speed.WRITING, speed.MATRICES), (speed.WRITING_LONG, speed.OURS),
        (speed.WRITING_LONG, speed.THEIRS),
    ]  # fmt: skip
    assert all(run["same_tokens"] and run["tokens_per_s"]["least"] > 0 for run in runs)
    assert all(run["ratio"] == {"median": 1, "least": 1, "most": 1} for run in runs if run["program"] == speed.THEIRS)
    theirs.model.norm.weight.data.neg_()  # the least probable token is now the most probable
    with pytest.raises(SystemExit, match="different tokens"):
        ch05_generation_speed.measure(model, theirs, text, sizes, 1, [torch.float32])


def test_the_recorded_ratios_of_the_real_model_are_of_the_same_tokens():
    record = results.recorded("generation_speed")
    assert record["model"] == ch05_generation_speed.MODEL and record["rounds"] >= 3
    assert all(run["same_tokens"] for run in record["runs"] if run["dtype"] == "float32")


@pytest.mark.slow
def test_the_training_of_a_gpu_goes_on_from_its_record(tmp_path, monkeypatch):
    result = tmp_path / "training.json"
    tiny = ["--device", "cpu", "--variants", "plain", "--width", "64", "--layers", "1", "--vocab", "96", "--length",
            "16", "--steps", "2", "--matrices", "32", "--result", str(result)]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["ch10_gpu_training.py", "--batches", "2", *tiny])
    ch10_gpu_training.main()
    first = json.loads(result.read_text())
    assert first["flops_per_token"] > 6 * 64 * 96 and first["peak_flops"] > 0
    monkeypatch.setattr("sys.argv", ["ch10_gpu_training.py", "--batches", "2", "3", *tiny])
    ch10_gpu_training.main()
    record = json.loads(result.read_text())
    assert record["runs"][:1] == first["runs"] and [run["batch"] for run in record["runs"]] == [2, 3]
    run = record["runs"][1]
    assert run["utilisation"] == run["tokens_per_s"] * record["flops_per_token"] / record["peak_flops"]


def test_an_evaluation_is_recorded_with_the_command_that_makes_it(tmp_path):
    run = ch17_evaluate.evaluated(
        "pydocs-gpt", tmp_path, 2, 2, benchmarks={}, texts=["The sum.", "A list."], progress=False
    )
    assert run["command"] == "llmbook evaluate pydocs-gpt --limit 2 --batch-size 2"
    assert run["results"][0]["metric"] == "bits per byte" and run["model"]["name"] == "pydocs-gpt"


def test_record_says_where_it_comes_from_and_is_written_in_one_go(tmp_path):
    record = recording.origin()
    assert len(record["commit"]) == 40 and record["versions"]["torch"] and record["command"].startswith("python ")
    path = tmp_path / "results" / "a.json"
    recording.write(path, record | {"runs": [1.5]})
    assert json.loads(path.read_text()) == record | {"runs": [1.5]}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


TINY = {
    "gpt": lambda: Decoder(TransformerConfig(4096, d_model=32, num_layers=1, num_heads=2)),
    "bert": lambda: Encoder(TransformerConfig.bert(4096, d_model=32, num_layers=1, num_heads=2, max_length=256)),
    "t5": lambda: EncoderDecoder(TransformerConfig.t5(4096, d_model=32, num_layers=1, num_heads=2, activation="geglu")),
}


def test_windows_grow_while_the_rate_falls_and_the_tokens_of_a_step_stay():
    made = pretrain.recipe("gpt")
    batches = made.batches(np.arange(20_000) % 4096)
    turn = round(0.75 * made.settings.steps)
    assert training.schedule(turn - 1, made.settings.steps, decay=0.25) == 1
    assert batches(turn - 1).shape == (16, 257) and batches(turn).shape == (8, 513)
    assert not torch.equal(batches(turn), batches(turn + 1))


@pytest.mark.parametrize("name", TINY)
def test_each_recipe_starts_from_an_even_choice_and_teaches_every_part(name):
    made, model = pretrain.recipe(name), TINY[name]()
    ids = made.batches(np.random.default_rng(0).integers(37, 4096, 8000))(0)[:4]
    loss = made.loss(model, ids)
    assert loss.item() == pytest.approx(math.log(4096), abs=0.3)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "type_" not in n)


def test_texts_are_separated_by_a_token_that_bert_and_t5_know():
    ids = torch.tensor([[50, 0, 60, 0]])
    assert pretrain.without_end_of_text(ids).tolist() == [[50, 4, 60]]


def test_t5_is_trained_with_divided_scores_and_is_the_same_without_the_division():
    model, source, target = pretrain.t5(), torch.arange(40, 70)[None], torch.arange(70, 80)[None]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        theirs = hub.to_hf(pretrain.as_t5(model))
        expected, logits = (m(source, decoder_input_ids=target).logits for m in (model, theirs))
    assert model.config.scale_attention and (expected - logits).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_published_model_has_weights_tokenizer_curve_and_a_card_that_fits(name, tmp_path):
    made = dataclasses.replace(pretrain.recipe(name), build=TINY[name])
    log = [dict.fromkeys(training.LOG_FIELDS, 1.5) | {"step": 50, "tokens": 204800}]
    facts = {"data_sha256": "d" * 64, "documents": 3, "stream": 1000, "device": "cpu", "dtype": "bfloat16"}
    held_out = ["Return the sum of the elements of an array. " * 200] * 20
    pretrain.publish(name, made, made.build(), log, facts, held_out, tmp_path / name)
    card = (tmp_path / name / "README.md").read_text()
    assert hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest() in card
    assert "204,800 tokens (204.8 passes)" in card and "{" not in card
    assert (tmp_path / name / "curve.csv").read_text() == (
        "step,tokens,loss,learning_rate,gradient_norm\n50,204800,1.5,1.5,1.5\n"
    )
    assert type(hub.load(tmp_path / name)) is type(made.build())


@pytest.mark.slow
def test_each_recipe_of_the_comparison_trains_on_its_share_and_both_loops_agree(monkeypatch):
    monkeypatch.setattr(ch10_recipes, "VOCAB_SIZE", 50)
    monkeypatch.setattr(ch10_recipes, "WINDOW", 16)
    monkeypatch.setattr(ch10_recipes, "BATCH", 4)
    stream = np.arange(5000) * 7 % 50
    test = training.Windows(stream, 16, 16)(0)

    @torch.no_grad()
    def score(model):
        return training.next_token_loss(model.eval(), test).item()

    shape = {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64}
    runs = ch10_recipes.measure(shape, stream, score, 24, [0], rates=(3e-3,))
    assert [run["variant"] for run in runs] == list(ch10_recipes.variants(0.1))
    assert [run["tokens"] for run in runs] == [24 * 64] * 6 + [12 * 64, 8 * 64]
    theirs, ours = runs[0]["bits_per_byte"], runs[1]["bits_per_byte"]
    assert abs(theirs - ours) < 0.1 and theirs < math.log(50) - 0.5  # other initial weights, the same training


# --- a chapter as a module --------------------------------------------------------------------------------------------

MANUSCRIPT = """---
kernelspec: {name: python3, display_name: Python 3}
---

# A chapter

```{code-cell} ipython3
:tags: [setup]

import nowhere_to_be_found
```

```{code-cell} ipython3
import math
import matplotlib_of_another_world, textwrap as wrap
```

Prose with `root(x)`.

```{code-cell} ipython3
%time import magic
```

```{code-cell} ipython3
:tags: [engine]

class Number(int):
    pass

def root(x):
    return math.sqrt(x - shift)
```

```{code-cell} ipython3
:tags: [engine]

def wide(text):
    return wrap.fill(text, 5)
```
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "BOOK", tmp_path)
    (tmp_path / "01-roots.md").write_text(MANUSCRIPT)
    return tmp_path / "01-roots.md"


def test_a_chapter_is_a_module_with_the_imports_that_its_engine_uses(book):
    chapter = recording.chapter("01-roots", shift=1)
    assert chapter.root(10) == 3 and chapter.wide("ab cd ef") == "ab cd\nef"
    chapter.shift = 2
    assert chapter.root(11) == 3
    assert pickle.loads(pickle.dumps(chapter.Number(3))) == 3 and chapter.root.__module__ == "chapter_01_roots"


def test_an_error_names_the_manuscripts_line(book):
    with pytest.raises(ValueError) as error:
        recording.chapter("01-roots", shift=1).root(-1)
    last = traceback.extract_tb(error.tb)[-1]
    assert (last.filename, last.line) == (str(book), "return math.sqrt(x - shift)")
    assert book.read_text().splitlines()[last.lineno - 1].strip() == last.line


def test_the_hash_is_that_of_the_engine_cells_alone(book):
    before = recording.engine_sha256("01-roots")
    book.write_text(MANUSCRIPT.replace("Prose", "Text").replace("import math", "import math, cmath"))
    assert recording.engine_sha256("01-roots") == before
    book.write_text(MANUSCRIPT.replace("fill(text, 5)", "fill(text, 6)"))
    assert recording.engine_sha256("01-roots") != before


# --- a record's runs --------------------------------------------------------------------------------------------------


def options(*words):
    return recording.parser("").parse_args(words)


@pytest.fixture
def roots(book, monkeypatch, capsys):
    """Make roots of some numbers with given options; return the record, and what was printed."""
    path = book.parent / "results" / "roots.json"
    monkeypatch.setitem(globals(), "made", [])

    def roots(numbers, *words, wrong=0.0, seconds=1.0, **settings):
        runs = recording.Runs(path, "01-roots", options(*words), ["4 a"], settings)
        runs.chapter.shift = 0

        def root(x):
            made.append(x)
            return {"root": runs.chapter.root(x) + wrong, "seconds": seconds}

        runs.go(recording.Job(lambda x=x: root(x), {"key": (x, "a")}, where=("all", "runs")) for x in numbers)
        return json.loads(path.read_text()), capsys.readouterr().out

    roots.path = path
    return roots


made = []  # numbers whose roots were computed


def test_runs_go_on_from_their_record(roots):
    record, text = roots([4, 9])
    assert record["all"]["runs"] == [{"key": [x, "a"], "root": x**0.5, "seconds": 1.0} for x in (4, 9)]
    assert text.splitlines() == ["[4, 'a'] 2 1", "[9, 'a'] 3 1", "nothing left to do"]
    assert record["chapter"] == "01-roots" and record["engine_sha256"] == recording.engine_sha256("01-roots")
    record, text = roots([4, 9, 16])
    assert made == [4, 9, 16] and len(record["all"]["runs"]) == 3 and record["commands"] == [record["command"]]
    _, text = roots([9])
    assert text == "nothing left to do\n" and made == [4, 9, 16]


def test_no_run_begins_after_the_time(roots):
    roots([4])
    record, text = roots([4, 9], "--minutes", "0")
    assert text.startswith("the time is over") and len(record["all"]["runs"]) == 1


def test_runs_with_other_settings_are_refused(roots):
    roots([4], width=1)
    with pytest.raises(SystemExit, match="holds runs with width 1, these would have 2"):
        roots([9], width=2)


def change_the_cell(book):
    book.write_text(MANUSCRIPT.replace("x - shift)", "-(shift - x))"))


def test_runs_of_other_cells_do_not_count_and_the_reason_is_said(roots, book):
    roots([4, 9])
    change_the_cell(book)
    record, text = roots([4])
    assert "roots.json was recorded with other cells than 01-roots has today" in text and "--confirm" in text
    assert made == [4, 9, 4] and "all" in record and len(record["all"]["runs"]) == 1


def test_equal_numbers_confirm_a_record_for_todays_cells(roots, book):
    before, _ = roots([4, 9])
    change_the_cell(book)
    assert recording.stale(roots.path)
    record, _ = roots([4, 9], "--confirm", seconds=7.0, wrong=1e-6)
    assert recording.stale(roots.path) == "" and made == [4, 9, 4]
    assert record["all"] == before["all"] and record["commit"] == before["commit"]
    (entry,) = record["confirmed"]
    assert (entry["from"], entry["to"]) == (before["engine_sha256"], recording.engine_sha256("01-roots"))
    assert entry["run"] == "4 a" and entry["largest difference"] == pytest.approx(5e-7)
    assert set(entry) >= {"date", "commit", "command", "versions"}
    record, _ = roots([4, 9, 16])  # goes on, and keeps what was confirmed
    assert len(record["all"]["runs"]) == 3 and record["confirmed"] == [entry]
    assert "nothing to confirm" in roots([4], "--confirm")[1]


def test_other_numbers_confirm_nothing(roots, book, capsys, monkeypatch):
    roots([4, 9])
    change_the_cell(book)
    before = roots.path.read_bytes()
    monkeypatch.setattr(recording, "commit_with", lambda name, sha256: "")
    with pytest.raises(SystemExit) as error:
        roots([4, 9], "--confirm", "9 a", wrong=0.01)
    assert error.value.code == 1 and roots.path.read_bytes() == before and made == [4, 9, 9]
    text = capsys.readouterr().out
    assert "9 a is not the same again" in text and '"root": 3.0' in text and '"root": 3.01' in text
    with pytest.raises(SystemExit, match="has no run '5 a'; it has 4 a, 9 a"):
        roots([4, 9], "--confirm", "5 a")


def test_numbers_of_another_processor_are_confirmed_by_the_recorded_cells_on_this_one(roots, book, monkeypatch):
    roots([4, 9])
    change_the_cell(book)
    monkeypatch.setattr(recording, "commit_with", lambda name, sha256: "a" * 40)
    here = [{"key": [4, "a"], "root": 2.01, "seconds": 5}]
    monkeypatch.setattr(recording.Runs, "earlier", lambda self, job, commit: here)
    record, text = roots([4, 9], "--confirm", wrong=0.01)
    assert "0.005 from the record; now with the cells of commit aaaaaaa" in text
    (entry,) = record["confirmed"]
    assert entry["compared with"].startswith("the recorded cells on the same machine (commit aaaaaaa)")
    assert entry["largest difference"] < 1e-9 and recording.stale(roots.path) == ""
    assert record["all"]["runs"][0]["root"] == 2  # what was recorded stays


def test_the_newest_commit_with_the_recorded_cells_is_found():
    chapter = ch11_scaling.CHAPTER
    head = recording.git("show", f"HEAD:book/en/{chapter}.md")
    assert recording.commit_with(chapter, recording.engine_sha256(chapter, head)) == recording.git("rev-parse", "HEAD")
    assert recording.commit_with(chapter, "0" * 64, most=1) == ""


@pytest.mark.parametrize(
    ("recorded", "made", "expected"),
    [
        ({"a": 2.0, "seconds": 1}, {"a": 2.5, "seconds": 9, "new": 3}, 0.25),
        ({"a": [100, 0.5]}, {"a": [101, 0.5]}, 0.01),
        ({"a": [1]}, {"a": [1, 1]}, math.inf),
        ({"a": "0110"}, {"a": "0111"}, math.inf),
        ({"a": None, "b": 1}, {"a": None}, math.inf),
    ],
)
def test_the_difference_of_two_runs_leaves_out_what_they_cost(recorded, made, expected):
    assert recording.difference(recorded, made) == pytest.approx(expected)


# --- the records of the book ------------------------------------------------------------------------------------------

WITH_ENGINE = [
    module
    for path in sorted((recording.ROOT / "benchmarks").glob("ch*.py"))
    if hasattr(module := import_module(path.stem), "CHAPTER")
]


@pytest.mark.parametrize("benchmark", WITH_ENGINE, ids=lambda module: module.__name__)
def test_a_record_is_of_todays_cells(benchmark):
    assert results.recorded(benchmark.PATH.stem)["chapter"] == benchmark.CHAPTER
    problem = recording.stale(benchmark.PATH)
    assert not problem, problem
