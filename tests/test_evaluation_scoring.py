"""Log-likelihoods and written answers: by hand, for every batch size, and as lm-evaluation-harness gives them."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from llmbook import hub, tokenization
from llmbook.evaluation import harness, scoring
from llmbook.evaluation.benchmarks import Template, from_pydocs


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.load_tokenizer("gpt")


@pytest.fixture(scope="module")
def gpt():
    return hub.pretrained("pydocs-gpt")[0]


@pytest.fixture(scope="module")
def benchmarks():
    return {name: benchmark.take(8) for name, benchmark in from_pydocs().items()}


@pytest.fixture(scope="module")
def other(tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=512, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).eval()


def test_a_choice_costs_what_its_tokens_cost(gpt, tokenizer, benchmarks):
    item = benchmarks["function"].items[0]
    scores = scoring.score_choices(gpt, tokenizer, benchmarks["function"])
    for choice, found in zip(item.choices, scores.log_likelihood[0], strict=True):
        both = tokenizer.encode(f"{item.prompt} {choice}", add_special_tokens=False)
        start = len(tokenizer.encode(item.prompt, add_special_tokens=False))
        log_probs = gpt(torch.tensor([both])).logits[0].detach().log_softmax(-1)  # (time, vocab)
        assert found == pytest.approx(sum(log_probs[i - 1, both[i]].item() for i in range(start, len(both))), abs=1e-3)


@pytest.mark.parametrize("name", ["type", "section"])
def test_the_size_of_a_batch_changes_nothing(gpt, tokenizer, benchmarks, name):
    one, many = (scoring.score_choices(gpt, tokenizer, benchmarks[name], batch_size=n) for n in (1, 32))
    assert_allclose(one.log_likelihood, many.log_likelihood, atol=1e-3)


@pytest.mark.parametrize("shots", [0, 2])
def test_the_harness_gives_the_same_numbers_for_two_kinds_of_models(
    gpt, other, tokenizer, benchmarks, tmp_path, monkeypatch, shots
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chosen = [*benchmarks.values(), benchmarks["section"].with_template("channel")]
    tasks = harness.write_tasks(tmp_path, chosen)
    theirs = AutoModelForCausalLM.from_pretrained(hub.model_folder("pydocs-gpt"), dtype="float32")
    for ours, given in ((gpt, theirs), (other, other)):
        found = harness.run(given, tokenizer, tmp_path, tasks, shots)
        for name, benchmark in zip(tasks, chosen, strict=True):
            if benchmark.kind == "generation":
                written = scoring.score_generation(ours, tokenizer, benchmark, shots)
                samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
                assert written.outputs == tuple(sample["filtered_resps"][0].split("\n")[0] for sample in samples)
                assert found["results"][name]["exact_match,line"] == pytest.approx(written.accuracy())
                continue
            scores = scoring.score_choices(ours, tokenizer, benchmark, shots)
            assert_allclose(harness.log_likelihoods(found["samples"][name]), scores.log_likelihood, atol=1e-3)
            assert found["results"][name]["acc,none"] == scores.accuracy()
            assert found["results"][name]["acc_norm,none"] == scores.accuracy("character")
            assert found["results"][name]["acc_bytes,none"] == scores.accuracy("byte")
            assert found["versions"][name] == benchmark.version


def test_a_start_token_stands_before_every_prompt(gpt, tokenizer, benchmarks):
    item = benchmarks["type"].items[0]
    found = scoring.score_choices(gpt, tokenizer, benchmarks["type"], start=True).log_likelihood[0, 0]
    prompt, answer = scoring.encode_pair(tokenizer, item.prompt, f" {item.choices[0]}")
    by_hand = scoring.log_likelihoods(gpt, [([tokenizer.eos_token_id, *prompt], answer)])[0]
    assert found == pytest.approx(by_hand, abs=1e-3)


def test_space_at_the_end_of_a_prompt_belongs_to_the_answer(tokenizer):
    assert scoring.encode_pair(tokenizer, "Type: ", "int") == scoring.encode_pair(tokenizer, "Type:", " int")
    prompt, answer = scoring.encode_pair(tokenizer, "Type:", " int")
    assert tokenizer.decode(prompt) == "Type:"
    assert tokenizer.decode(answer) == " int"


def test_an_empty_prompt_begins_with_the_end_of_text(tokenizer):
    assert scoring.encode_pair(tokenizer, "", "int")[0] == [tokenizer.eos_token_id]
    assert scoring.encode_pair(tokenizer, " ", "int", start=5)[0] == [5]


def test_a_long_prompt_loses_its_beginning_and_says_so(gpt, tokenizer, benchmarks):
    way = Template("word " * 600 + "{description}\n{parameter} :")
    scores = scoring.score_choices(gpt, tokenizer, benchmarks["type"].take(2).with_template(way))
    assert scores.truncated.all()
    assert np.isfinite(scores.log_likelihood).all()
    assert not scoring.score_choices(gpt, tokenizer, benchmarks["type"]).truncated.any()


def test_lengths_are_those_of_the_bare_choice(gpt, tokenizer, benchmarks):
    scores = scoring.score_choices(gpt, tokenizer, benchmarks["type"])
    for item, characters, tokens in zip(benchmarks["type"].items, scores.characters, scores.tokens, strict=True):
        assert characters.tolist() == [len(choice) for choice in item.choices]
        assert tokens.tolist() == [len(tokenizer.encode(" " + choice)) for choice in item.choices]


def test_probabilities_sum_to_one_and_temperature_keeps_the_order(gpt, tokenizer, benchmarks):
    scores = scoring.score_choices(gpt, tokenizer, benchmarks["function"])
    for temperature in (0.5, 1.0, 5.0):
        probs = scores.probabilities(temperature=temperature)
        assert_allclose(probs.sum(1), 1)
        assert (probs.argmax(1) == scores.predictions()).all()


def test_examples_stand_before_the_prompt(benchmarks):
    context = scoring.few_shot_context(benchmarks["type"], 2)
    first, second = benchmarks["type"].dev[:2]
    assert context == f"{first.prompt} {first.answer}\n\n{second.prompt} {second.answer}\n\n"
    assert scoring.few_shot_context(benchmarks["type"], 0) == ""


def test_written_answers_end_with_their_line(gpt, tokenizer, benchmarks):
    written = scoring.score_generation(gpt, tokenizer, benchmarks["default"])
    assert not any("\n" in output for output in written.outputs)
    assert (written.correct() == [o == r for o, r in zip(written.outputs, written.references, strict=True)]).all()
    one = scoring.score_generation(gpt, tokenizer, benchmarks["default"], batch_size=1)
    assert one.outputs == written.outputs


def test_mutual_information_takes_out_what_the_answers_have_alone(gpt, tokenizer, benchmarks):
    alone = scoring.answer_alone(gpt, tokenizer, benchmarks["function"])
    assert_allclose(scoring.mutual_information(alone, alone), 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, t, b: scoring.score_choices(m, t, b["default"]), "use score_generation"),
        (lambda m, t, b: scoring.score_generation(m, t, b["type"]), "use score_choices"),
        (lambda m, t, b: scoring.score_choices(m, t, b["type"], shots=10_000), "shots=10000"),
        (lambda m, t, b: scoring.score_choices(m, t, b["type"]).accuracy("words"), "norm='words'"),
        (lambda m, t, b: scoring.score_choices(m, t, b["type"]).probabilities(temperature=0), "temperature=0"),
        (lambda m, t, b: scoring.score_generation(m, t, b["default"], max_new_tokens=512), "max_new_tokens=512"),
        (lambda m, t, b: scoring.encode_pair(t, "a", " "), "empty answer"),
        (lambda m, t, b: scoring.log_likelihoods(m, [([], [1])]), "pair 0"),
        (lambda m, t, b: scoring.log_likelihoods(m, [([1], [1] * 600)]), "shorten"),
    ],
)
def test_what_cannot_be_scored_is_refused(gpt, tokenizer, benchmarks, call, words):
    with pytest.raises(ValueError, match=words):
        call(gpt, tokenizer, benchmarks)
