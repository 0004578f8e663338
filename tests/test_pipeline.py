import itertools
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.naive_bayes import MultinomialNB

import ch07_data_pipeline
from llmbook import pipeline
from llmbook.corpora.duplicates import jaccard, shingles
from llmbook.pipeline.engine import Job, datatrove_steps

texts = st.text(max_size=200)
PROSE = (
    "The committee read every page of the report and it was clear to all of them that the figures in the third table "
    "had been copied from an older one, so they asked the authors for the measurements they had made in the spring."
)


# --- statistics -----------------------------------------------------------------------------------------------------


@given(texts)
def test_statistics_of_any_text_are_finite_and_ratios_lie_between_0_and_1(text):
    for name, value in pipeline.statistics(text).items():
        assert 0 <= value < float("inf")
        assert name == "words" or value <= 1


def slow_character_repetition(text, n=10):
    grams = [text[i : i + n] for i in range(len(text) - n + 1)]
    counts = sorted((grams.count(gram) for gram in set(grams)), reverse=True)
    repeated = [count for count in counts if count > 1]
    return sum(repeated[: int(len(counts) ** 0.5)]) / len(grams) if grams else 0.0


@settings(max_examples=40)
@given(st.text(alphabet="ab ", max_size=120))
def test_repetition_by_hashes_is_repetition_by_definition(text):
    assert pipeline.character_repetition(text) == pytest.approx(slow_character_repetition(text))
    split = text.split()
    grams = [tuple(split[i : i + 2]) for i in range(len(split) - 1)]
    repeated = sum(grams.count(gram) > 1 for gram in grams)
    assert pipeline.word_repetition(split, 2) == pytest.approx(repeated / len(grams) if grams else 0)


def test_prose_has_no_repetition_and_a_line_again_and_again_has_one_over_the_root_of_its_length():
    for length in (25, 100):
        line = "".join(chr(0x4E00 + i) for i in range(length))
        assert pipeline.character_repetition(line * 200) == pytest.approx(length**-0.5, rel=0.02)
    assert pipeline.word_repetition(pipeline.words("to be or not to be " * 20)) == 1
    assert pipeline.character_repetition(PROSE) == pipeline.word_repetition(pipeline.words(PROSE)) == 0


def test_marks_of_letters_are_not_special_characters():
    assert pipeline.special_ratio("नमस्ते") == 0
    assert pipeline.special_ratio("a1 !") == 0.75
    assert pipeline.special_ratio("") == 0


def test_words_lose_punctuation_and_digits_at_both_ends():
    assert pipeline.words('He said: "don\'t 42 (well-known)!"') == ["he", "said", "don't", "well-known"]


def test_an_ngram_of_no_length_is_refused():
    for call in (
        lambda: pipeline.character_repetition("text", 0),
        lambda: pipeline.word_repetition([], 0),
        lambda: pipeline.shingle_hashes("text", 0),
    ):
        with pytest.raises(ValueError, match="n=0"):
            call()


# --- filters --------------------------------------------------------------------------------------------------------


def test_prose_passes_and_each_fault_is_named():
    limits = pipeline.ENGLISH[:-1]  # without the language
    assert pipeline.failures(pipeline.statistics(PROSE), limits) == []
    assert pipeline.failures(pipeline.statistics("Too short."), limits) == ["words"]
    assert "special_characters" in pipeline.failures(pipeline.statistics("1.5 2.5 3.5 " * 50), limits)


def test_limits_that_nothing_meets_and_values_not_measured_are_refused():
    with pytest.raises(ValueError, match="leave no value"):
        pipeline.Limit("words", least=3, most=2)
    with pytest.raises(ValueError, match="measure them or drop"):
        pipeline.failures({"words": 3.0}, pipeline.ENGLISH)
    assert not pipeline.Limit("words", least=0).passes(float("nan"))


# --- language -------------------------------------------------------------------------------------------------------

ENGLISH_TEXTS = ["the cat is on the table", "where is the book", "this is the house that they built"]
FRENCH_TEXTS = ["le chat est sur la table", "où est le livre", "voici la maison que nous avons construite"]


def identifier(**changes):
    labels = ["en"] * len(ENGLISH_TEXTS) + ["fr"] * len(FRENCH_TEXTS)
    return pipeline.LanguageIdentifier(ENGLISH_TEXTS + FRENCH_TEXTS, labels, **changes)


def test_languages_are_told_apart_and_probabilities_sum_to_one():
    ours = identifier()
    assert ours.identify("the dog is in the house")[0] == "en"
    assert ours.identify("le chien est dans la maison")[0] == "fr"
    assert sum(ours.probabilities("la table").values()) == pytest.approx(1)
    assert ours.probabilities("1.5 -- 2.5") == {"en": 0.5, "fr": 0.5}


def test_the_identifier_is_multinomial_naive_bayes():
    ours = identifier(bits=10)
    counts = np.stack([ours.counts(text) for text in ENGLISH_TEXTS + FRENCH_TEXTS])
    library = MultinomialNB(alpha=0.3, fit_prior=False).fit(counts, ["en"] * 3 + ["fr"] * 3)
    for text in ("the cat est sur", "maison", "zzz"):
        expected = library.predict_proba([ours.counts(text)])[0]
        assert list(ours.probabilities(text).values()) == pytest.approx(expected.tolist(), rel=1e-4)


def test_an_identifier_refuses_what_it_cannot_learn_from():
    with pytest.raises(ValueError, match="one language for each"):
        pipeline.LanguageIdentifier(["a"], [])
    with pytest.raises(ValueError, match="no text"):
        pipeline.LanguageIdentifier([], [])
    with pytest.raises(ValueError, match="bits=30"):
        identifier(bits=30)


def test_perplexity_is_lower_for_the_text_it_was_trained_on():
    scorer = pipeline.PerplexityScorer([PROSE] * 3, vocab_size=300, order=3)
    assert scorer(PROSE) < scorer("0x7f 0x3c %$ {}[]" * 5)
    with pytest.raises(ValueError, match="no text"):
        pipeline.PerplexityScorer([])


# --- duplicates -----------------------------------------------------------------------------------------------------


def made_up(count, length, seed=0, vocabulary=400):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in rng.integers(0, vocabulary, length)) for _ in range(count)]


def test_fingerprints_ignore_case_white_space_and_punctuation_only():
    assert pipeline.fingerprint("Hello,  World!\n") == pipeline.fingerprint("hello world")
    assert pipeline.fingerprint("hello worlds") != pipeline.fingerprint("hello world")


@given(st.lists(st.sampled_from("abcde"), max_size=30))
def test_hashed_shingles_are_as_many_as_shingles(letters):
    text = " ".join(letters)
    assert len(pipeline.shingle_hashes(text)) == len(shingles(text))


@given(st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=2000), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_signatures_are_those_of_datasketch(values, seed):
    permutations = pipeline.Permutations(16, seed)
    library = MinHash(num_perm=16, permutations=(permutations.a, permutations.b), scheme="affine32", hashfunc=int)
    library.update_batch(values)
    hashes = np.array(sorted(values), dtype=np.uint64)
    assert permutations.signature(hashes).tolist() == library.hashvalues.tolist()


def test_agreement_of_signatures_estimates_the_jaccard_similarity():
    base = made_up(1, 600)[0].split()
    permutations = pipeline.Permutations(512)
    for kept in (600, 500, 400, 300):
        other = base[:kept] + made_up(1, 600 - kept, seed=1)[0].split()
        exact = jaccard(shingles(" ".join(base)), shingles(" ".join(other)))
        estimate = np.mean(permutations(" ".join(base)) == permutations(" ".join(other)))
        assert estimate == pytest.approx(exact, abs=4 * (0.25 / 512) ** 0.5)


def test_bands_find_pairs_as_often_as_the_formula_says():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**32, (3000, 32), dtype=np.uint32)
    agree = rng.random((3000, 32)) < 0.6  # each number of the signatures agrees with this probability
    second = np.where(agree, first, first ^ np.uint32(1))
    found = pipeline.band_pairs(np.concatenate([first, second]), bands=8, rows=4)
    assert found <= {(i, i + 3000) for i in range(3000)}
    assert len(found) / 3000 == pytest.approx(pipeline.collision_probability(0.6, 8, 4), abs=0.03)


def test_bands_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"bands=9.*\(4, 32\)"):
        pipeline.band_pairs(np.zeros((4, 32), dtype=np.uint32), 9, 4)
    with pytest.raises(ValueError, match="count=0"):
        pipeline.Permutations(0)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=25), st.integers(0, 6), st.data())
def test_simhash_blocks_find_every_pair_within_the_distance(values, distance, data):
    for value in list(values):  # something to be found
        flipped = data.draw(st.sets(st.integers(0, 63), max_size=8))
        values.append(value ^ sum(1 << bit for bit in flipped))
    exact = {
        (i, j)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if pipeline.simhash_distance(values[i], values[j]) <= distance
    }
    assert pipeline.simhash_pairs(values, distance) == exact


def test_simhash_of_like_texts_is_near_and_of_unlike_texts_far():
    first, second = made_up(2, 400)
    changed = first.replace("w1 ", "w2 ")
    assert pipeline.simhash_distance(pipeline.simhash(first), pipeline.simhash(first.upper())) == 0
    assert pipeline.simhash_distance(pipeline.simhash(first), pipeline.simhash(changed)) < 16
    assert pipeline.simhash_distance(pipeline.simhash(first), pipeline.simhash(second)) > 18
    with pytest.raises(ValueError, match="distance=64"):
        pipeline.simhash_pairs([1], 64)


def test_of_each_component_the_first_document_stays():
    assert pipeline.components(6, [(1, 3), (3, 5), (0, 2)]).tolist() == [0, 1, 0, 1, 4, 1]
    assert pipeline.keep_first(6, [(1, 3), (3, 5), (0, 2)]).tolist() == [True, True, False, False, True, False]
    assert pipeline.keep_first(3, []).all()
    assert pipeline.keep_first(0, []).tolist() == []


# --- redaction ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, redacted",
    [
        ("Mail to jane.doe+x@example.co.uk, please.", "Mail to PI:EMAIL, please."),
        ('api_key = "q8sKd93jfLs0Aq2m"', 'api_key = "PI:KEY"'),
        ("key AKIAIOSFODNN7EXAMPLE here", "key PI:KEY here"),
        ("from 93.184.216.34 and 2606:4700:4700::1111", "from PI:IP and PI:IP"),
        ("- Fix a leak. Patch by Ada Quill.", "- Fix a leak. Patch by PI:NAME."),
        ("* José Álvarez <jose@posta.es>", "* PI:NAME <PI:EMAIL>"),
        ("- Faster search (Łucja van der Meer, #12)", "- Faster search (PI:NAME, #12)"),
    ],
)
def test_personal_information_is_replaced_by_its_kind(text, redacted):
    assert pipeline.redact(text)[0] == redacted


@pytest.mark.parametrize(
    "text",
    [
        "@pytest.mark.parametrize('x', [1])",
        "A @ B is a product of matrices, a@b too",
        "listens on 127.0.0.1 and 192.168.0.7",
        "upgrade to version 1.2.3.4 or v2.0.0.1",
        "commit 3b961b7b64d7a6bffd4592e3d90c49b3d20ffd20",
        "See Also\n========\nInverse Matrix",
        "at 12:30:45 on Monday",
        "use std::be::read for big-endian",
    ],
)
def test_what_looks_alike_is_left_alone(text):
    assert pipeline.redact(text) == (text, {})


@given(texts)
def test_redaction_changes_nothing_the_second_time_and_findings_do_not_overlap(text):
    once, _ = pipeline.redact(text)
    assert pipeline.redact(once)[0] == once
    findings = pipeline.find_personal(text)
    assert all(first.end <= second.start for first, second in itertools.pairwise(findings))


# --- data sheet -----------------------------------------------------------------------------------------------------


def test_a_data_sheet_has_all_seven_sections_or_is_refused():
    sections = ["Motivation", "Composition", "Collection", "Preprocessing", "Uses", "Distribution", "Maintenance"]
    answers = {section: {"Why?": "Because.", "How much?": {"bytes": 12345, "share": 0.25}} for section in sections}
    sheet = pipeline.data_sheet("Test", answers)
    assert all(f"## {section}" in sheet for section in sections)
    assert "| bytes | 12,345 |" in sheet
    with pytest.raises(ValueError, match=r"missing \['Uses'\]"):
        pipeline.data_sheet("Test", {key: value for key, value in answers.items() if key != "Uses"})


# --- the engine -----------------------------------------------------------------------------------------------------


def long_enough(record, least):
    return record if len(record["text"].split()) >= least else None


def redacted(record):
    text, counts = pipeline.redact(record["text"])
    return {**record, "text": text, "redacted": counts}


def slowly(record):
    time.sleep(0.01)
    return record


STEPS = (partial(long_enough, least=10), redacted)


def write_source(folder, tasks=6, documents=20):
    for shard in range(tasks):
        rows = [
            {
                "id": f"{shard}-{i}",
                "language": "en",
                "text": f"Document {i} of shard {shard}, by é@example.org " * (i % 4),
            }
            for i in range(documents)
        ]
        pipeline.write_shard(folder / f"part-{shard:03d}.jsonl", rows)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


@pytest.mark.slow
def test_several_workers_write_the_same_bytes_as_the_plain_loop(source, tmp_path):
    kept = pipeline.process(source, tmp_path / "plain", STEPS)
    job = Job(source, tmp_path / "engine", tmp_path / "logs", STEPS)
    assert pipeline.run(job, workers=3) == 0
    assert content(job.target) == content(tmp_path / "plain")
    lines = [json.loads(line) for data in content(job.target).values() for line in data.decode().splitlines()]
    assert len(lines) == kept == 6 * 10  # of four lengths, two are long enough
    assert "é@" not in "".join(line["text"] for line in lines)


def test_the_engines_own_executor_writes_them_too(source, tmp_path):
    from datatrove.executor import LocalPipelineExecutor

    pipeline.process(source, tmp_path / "plain", STEPS)
    job = Job(source, tmp_path / "engine", tmp_path / "logs", STEPS)
    executor = LocalPipelineExecutor(datatrove_steps(job), tasks=job.tasks, workers=1, logging_dir=str(job.logs))
    executor.run()
    assert content(job.target) == content(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills process groups")
def test_a_worker_killed_in_the_middle_loses_and_duplicates_nothing(source, tmp_path):
    steps = (*STEPS, slowly)
    pipeline.process(source, tmp_path / "plain", steps)
    job = Job(source, tmp_path / "engine", tmp_path / "logs", steps)
    workers = pipeline.start(job, 2)
    deadline = time.time() + 60
    while len(list(job.target.glob("*.jsonl"))) < 3:
        assert time.time() < deadline, (job.logs / "worker-0.log").read_text()
        time.sleep(0.005)
    os.killpg(workers[0].pid, signal.SIGKILL)  # the process and what it started
    os.killpg(workers[1].pid, signal.SIGKILL)
    assert pipeline.finish(workers) == 2
    whole = content(tmp_path / "plain")
    left = {name: data for name, data in content(job.target).items() if name.endswith(".jsonl")}
    assert 0 < len(left) < len(whole)
    assert all(whole[name] == data for name, data in left.items())  # what has its name is whole
    done = {path.name: path.stat().st_mtime_ns for path in job.target.glob("*.jsonl")}
    assert pipeline.run(job, workers=2) == 0
    assert content(job.target) == whole
    marked = {path.name for path in (job.logs / "completions").iterdir()}
    assert marked == {f"{rank:05d}" for rank in range(job.tasks)}
    again = [name for name, before in done.items() if (job.target / name).stat().st_mtime_ns != before]
    assert len(again) <= 2  # a task is done again only if the kill came between its file and its mark


def killed_once(record, folder):
    """Kill the process that handles one record, the first time."""
    marker = Path(folder) / "killed"
    if record["id"] == "4-11" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return record


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills itself")
def test_run_starts_a_dead_worker_again_and_ends_with_the_same_bytes(source, tmp_path):
    pipeline.process(source, tmp_path / "plain", STEPS)
    steps = (partial(killed_once, folder=str(tmp_path)), *STEPS)
    job = Job(source, tmp_path / "engine", tmp_path / "logs", steps)
    assert pipeline.run(job, workers=2) == 1
    assert content(job.target) == content(tmp_path / "plain")


@pytest.mark.slow
def test_the_books_steps_give_the_same_bytes_too_and_measure_filter_redact_and_drop(tmp_path):
    rows = [
        {"id": "good", "text": PROSE + " Write to jane@example.com."},
        {"id": "short", "text": "Too short."},
        {"id": "copy", "text": PROSE},
        {"id": "french", "text": "le chat est sur la table et la maison que nous avons construite est le livre " * 3},
    ]
    for shard, row in enumerate(rows):
        pipeline.write_shard(tmp_path / "source" / f"{shard}.jsonl", [row])
    scorer = pipeline.PerplexityScorer([PROSE], vocab_size=300, order=2)
    limits = (pipeline.ENGLISH[0], pipeline.ENGLISH[-1], pipeline.Limit("perplexity", most=1e6))
    steps = (pipeline.Measure(identifier(), scorer), pipeline.Keep(limits), pipeline.Redact(), pipeline.Drop({"copy"}))
    assert pipeline.process(tmp_path / "source", tmp_path / "plain", steps) == 1
    job = Job(tmp_path / "source", tmp_path / "engine", tmp_path / "logs", steps)
    assert pipeline.run(job, workers=2) == 0
    assert content(job.target) == content(tmp_path / "plain")
    record = json.loads(content(job.target)["00000.jsonl"])
    assert record["text"].endswith("PI:EMAIL.") and record["redacted"] == {"EMAIL": 1}
    assert record["measured"]["english"] > 0.8


def broken(record):
    raise RuntimeError("this step always fails")


@pytest.mark.slow
def test_a_step_that_fails_again_and_again_is_reported(source, tmp_path):
    job = Job(source, tmp_path / "engine", tmp_path / "logs", (broken,))
    with pytest.raises(RuntimeError, match=r"failed 1 times.*this step always fails"):
        pipeline.run(job, workers=1, attempts=1)
    assert not list(job.target.glob("*.jsonl"))


def test_an_empty_source_and_no_workers_are_refused(tmp_path, source):
    with pytest.raises(ValueError, match=r"no file \*.jsonl"):
        pipeline.process(tmp_path / "nowhere", tmp_path / "out", ())
    job = Job(source, tmp_path / "out", tmp_path / "logs", ())
    with pytest.raises(ValueError, match="workers=0"):
        pipeline.start(job, 0)
    with pytest.raises(ValueError, match="attempts=0"):
        pipeline.run(job, attempts=0)


# --- the benchmark --------------------------------------------------------------------------------------------------


def test_the_chapters_engine_crawls_finds_copies_and_trains(engine):
    chapter = engine(ch07_data_pipeline)
    assert set(next(chapter.crawl())) == {"id", "package", "text", "licence"}
    assert chapter.near_copies([PROSE, "another text of one line", PROSE + " end"]) == [(0, 2)]
    documents = [np.arange(40) % 7] * 80
    model = chapter.train(documents, 0, 2e-2)
    assert chapter.nats(model, documents[:2]).mean() < -chapter.unigram(documents, documents[:2]).mean()


def test_the_arms_of_the_chapters_experiment_spend_one_budget(engine):
    chapter = engine(ch07_data_pipeline)
    first = np.array([0, 0, 0, 3, 4, 4, 6, 7])  # two clusters of copies, three documents alone
    passes, sizes = np.array([1, 1, 1, 0, 1, 1, 1, 1], bool), np.full(8, 10)
    chosen = {arm: chapter.training_text(arm, np.arange(8), first, passes, sizes, 45).tolist() for arm in chapter.ARMS}
    assert chosen == {
        "crawl": [0, 1, 2, 3, 4],
        "each once": [0, 3, 4],
        "filtered": [0, 1, 2, 4, 5],
        "deduplicated": [0, 3, 4, 6, 7],
        "both": [0, 4, 6, 7],
    }
    repeated, once = (chapter.training_set([np.arange(10)] * 40, 0, 200, 5, again) for again in (True, False))
    assert (len(repeated), len(once)) == (10 + 2 * 5, 10 + 2)
