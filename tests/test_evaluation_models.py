"""Whatever model of `transformers` a reader brings: scored as a plain loop scores it, or refused in one sentence."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from llmbook.evaluation import command, harness, scoring
from llmbook.evaluation.benchmarks import Benchmark, Item, Template
from llmbook.evaluation.likelihood import BOOK, check_texts, score_texts
from llmbook.evaluation.models import hash_model, open_folder

VOCAB = 320  # rows of the embeddings: more than the tokenizer has tokens, as in most published models
# What makes a model small: each architecture takes those that its configuration knows.
SMALL = {
    "vocab_size": VOCAB, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "is_decoder": True,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "embedding_size": 32, "intermediate_size": 64, "ffn_dim": 64,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2, "encoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 4, "decoder_ffn_dim": 64,
    "encoder_ffn_dim": 64, "max_position_embeddings": 64, "n_positions": 64, "max_seq_len": 64, "context_length": 64,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "state_size": 8,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_group": 1, "topk_group": 1,
    "attention_hidden_size": 32, "lru_width": 32, "mamba_d_state": 4,
}  # fmt: skip
TEXT_PART = {
    name: SMALL[name]
    for name in (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "intermediate_size", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
    )
}  # fmt: skip
IMAGE_PART = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
# Architectures and what they take beside, with the number of tokens that they read.
SCORED = {
    "gpt2": ({}, 64), "gpt_neo": ({"attention_types": [[["global", "local"], 1]]}, 64), "gptj": ({}, 64),
    "gpt_neox": ({}, 64), "gpt_bigcode": ({}, 64), "codegen": ({}, 64), "openai-gpt": ({}, 64), "ctrl": ({}, 64),
    "opt": ({}, 64), "bloom": ({}, 2048), "mpt": ({}, 64), "xglm": ({}, 64), "biogpt": ({}, 64),
    "falcon": ({"head_dim": None, "num_key_value_heads": None, "alibi": True}, 64), "llama": ({}, 64),
    "mistral": ({}, 64), "mixtral": ({}, 64), "qwen2": ({}, 64), "qwen3": ({}, 64), "qwen3_moe": ({}, 64),
    "gemma": ({}, 64), "gemma2": ({}, 64), "gemma3": ({"text_config": TEXT_PART, "vision_config": IMAGE_PART}, 64),
    "phi": ({}, 64), "phi3": ({}, 64), "olmo2": ({}, 64), "olmoe": ({}, 64), "stablelm": ({}, 64),
    "starcoder2": ({}, 64), "cohere": ({}, 64), "glm4": ({}, 64), "granite": ({}, 64), "gpt_oss": ({}, 64),
    "smollm3": ({}, 64), "deepseek_v3": ({"num_key_value_heads": 4}, 64), "mamba": ({}, 2048), "rwkv": ({}, 64),
    "jamba": ({"attn_layer_period": 2, "attn_layer_offset": 1}, 64),
    "bart": ({}, 64), "roberta": ({}, 62), "xlm-roberta": ({}, 62), "bert": ({}, 64), "rembert": ({}, 64),
    "recurrent_gemma": ({"num_hidden_layers": 3}, 2048),
}  # fmt: skip
REFUSED = {
    "bert": ({"is_decoder": False}, "does not read a text from left to right"),
    "roberta": ({"is_decoder": False}, "does not read a text from left to right"),
    "xlnet": ({"max_position_embeddings": None}, "does not read a text from left to right"),
    "xmod": ({}, "does not work on token ids alone .*language"),
}  # fmt: skip


def byte_tokenizer(single="<s> $A"):
    """A small byte-level tokenizer that puts tokens around a text; its vocabulary is smaller than the models'."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    named = ["<s>", "<pad>", "</s>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=named, initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    made.train_from_iterator(["the cat sat on the mat and the dog"] * 5, trainer)
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", pad_token="<pad>", eos_token="</s>", mask_token="<mask>",
        cls_token="<s>", sep_token="</s>",
    )  # fmt: skip


def toy_benchmark(kind="choice", prompts=("the cat", "the dog sat on the mat: ", "a cat and the dog " * 12)):
    """Questions of different lengths, the last one longer than most contexts here."""
    choices = ("sat on", "the mat", "dog") if kind == "choice" else ()
    made = [Item(str(number), prompt, choices, "dog", {"answer": "dog"}) for number, prompt in enumerate(prompts)]
    dev = (Item("shown", "the", choices, "dog", {"answer": "dog"}),)
    return Benchmark("toy", kind, tuple(made), dev, "Which?", {}, {"plain": Template("{x}")}, "plain")


def random_model(kind, changes, auto=AutoModelForCausalLM):
    """A small model of an architecture with weights large enough that its logits differ."""
    known = AutoConfig.for_model(kind)
    mapped = getattr(type(known), "attribute_map", {})
    taken = {} if "text_config" in changes else {
        name: value for name, value in SMALL.items()
        if name not in changes and mapped.get(name) not in SMALL and name in dir(known)
    }  # fmt: skip
    taken |= {name: value for name, value in changes.items() if value is not None}
    torch.manual_seed(0)
    model = auto.from_config(type(known)(**taken)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.1)
    return model


def saved(model, folder, tokenizer=None):
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
        (byte_tokenizer() if tokenizer is None else tokenizer).save_pretrained(folder)
    return folder


@torch.no_grad()
def one_by_one(model, ids, scored):
    """The natural-log probability of the last tokens of one row, without a batch."""
    row = list(ids)[:-1][-scoring.longest_context(model) :]
    log_probs = model(torch.tensor([row])).logits[0].log_softmax(-1)  # (time, vocab)
    return sum(log_probs[len(row) - scored + place, token].item() for place, token in enumerate(ids[-scored:]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCORED)
def test_an_architecture_is_scored_as_a_plain_loop_scores_it(kind, tmp_path):
    changes, context = SCORED[kind]
    loaded = open_folder(saved(random_model(kind, changes), tmp_path))
    model, tokenizer, benchmark = loaded.model, loaded.tokenizer, toy_benchmark()
    assert loaded.about["context"] == context
    scores = scoring.score_choices(model, tokenizer, benchmark)
    wanted = []
    for item in benchmark.items:
        for choice in item.choices:
            both = tokenizer.encode(f"{item.prompt} {choice}")
            wanted.append(one_by_one(model, both, len(both) - len(tokenizer.encode(item.prompt.rstrip()))))
    assert_allclose(scores.log_likelihood.ravel(), wanted, atol=1e-3)
    assert scores.truncated.tolist() == [False, False, context < 2048]
    texts = ["the cat sat", "the dog on the mat and the dog"]
    found = score_texts(model, tokenizer, texts, BOOK.with_window(context).for_tokenizer(tokenizer))
    rows = [[*tokenizer.encode(text), 2] for text in texts]
    assert_allclose(found.nats, [-one_by_one(model, row, len(row) - 1) for row in rows], atol=1e-3)
    together, apart = (
        scoring.score_generation(model, tokenizer, toy_benchmark("generation"), batch_size=n) for n in (3, 1)
    )
    assert together.outputs == apart.outputs
    if context < 2048:
        assert model(torch.full((1, context), 7)).logits.shape[1] == context


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFUSED)
def test_an_architecture_that_gives_no_probability_of_a_text_is_refused(kind, tmp_path):
    changes, words = REFUSED[kind]
    folder = saved(random_model(kind, changes), tmp_path / "model")
    with pytest.raises(ValueError, match=words):
        command.evaluate(folder, tmp_path / "out", benchmarks={"toy": toy_benchmark()}, texts=["a"], progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_a_tokenizers_own_beginning_is_where_the_harness_has_it(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer, model = byte_tokenizer(), random_model(kind, {})
    tasks = [toy_benchmark(prompts=("the cat", "the dog sat ", "<s>the cat", "a cat and the dog " * 12)),
             toy_benchmark("generation")]  # fmt: skip
    for task, name in zip(tasks, ("choices", "written"), strict=True):
        found = harness.run(model, tokenizer, tmp_path / name, harness.write_tasks(tmp_path / name, [task]))
        samples = found["samples"]["llmbook_toy"]
        if task.kind == "choice":
            ours = scoring.score_choices(model, tokenizer, task)
            assert_allclose(harness.log_likelihoods(samples), ours.log_likelihood, atol=1e-3)
            assert np.ptp(ours.log_likelihood) > 0.1
        else:
            theirs = [sample["filtered_resps"][0] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
            written = scoring.score_generation(model, tokenizer, task).outputs
            assert list(written) == [text.split("\n")[0].strip() for text in theirs]


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    """A GPT-2 that the tokenizer's beginning token is put before."""
    return saved(random_model("gpt2", {}), tmp_path_factory.mktemp("brought") / "model")


def evaluated(folder, out, **changes):
    options = {"benchmarks": {"toy": toy_benchmark()}, "texts": ["the cat sat"], "progress": False}
    return command.evaluate(folder, out, **options | changes)


def test_what_a_tokenizer_puts_around_a_text_is_asked_of_it():
    assert scoring.tokens_around(byte_tokenizer("$A")) == ([], [])
    assert scoring.tokens_around(byte_tokenizer()) == ([0], [])
    assert scoring.tokens_around(byte_tokenizer("<s> $A </s>")) == ([0], [2])
    assert scoring.tokens_around(byte_tokenizer("$A </s>")) == ([], [2])
    assert scoring.encode_pair(byte_tokenizer("<s> $A </s>"), "a", "b") == ([0, *scoring.encode_pair(
        byte_tokenizer("$A"), "a", "b")[0]], byte_tokenizer("$A").encode("b"))  # fmt: skip
    classifier = byte_tokenizer()
    classifier.bos_token = classifier.eos_token = None
    assert scoring.start_token(classifier) == 0


def test_a_report_says_with_which_beginning_it_was_measured(small_folder, tmp_path):
    toy, text = evaluated(small_folder, tmp_path)["results"]
    assert toy["method"].startswith("<s> before every prompt") and "<s> before the first token" in text["convention"]


def test_a_token_that_spans_the_border_goes_to_the_answer():
    vocab = {"a": 0, "b": 1, "c": 2, "bc": 3, "abc": 4, "</s>": 5, "x": 6}
    spanning = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocab, merges=[("b", "c"), ("a", "bc")])), eos_token="</s>"
    )
    assert scoring.encode_pair(spanning, "ab", "a") == ([0, 1], [0])
    assert scoring.encode_pair(spanning, "ab", "c") == ([5], [4])
    assert scoring.encode_pair(spanning, "xb", "c") == ([6], [3])
    assert scoring.encode_pair(spanning, "xab", "ca") == ([6], [4, 0])
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_positions=16)).eval()
    item = Item("0", "xab", ("c", "a"), "c", {})
    spanned = Benchmark("border", "choice", (item,), (), "", {}, {"plain": Template("", "{choice}", "")}, "plain")
    found = scoring.score_choices(model, spanning, spanned)
    assert found.tokens.tolist() == [[1, 1]]
    wanted = [one_by_one(model, [6, 4], 1), one_by_one(model, [6, 0, 1, 0], 1)]
    assert_allclose(found.log_likelihood[0], wanted, atol=1e-4)


def test_an_encoder_whose_positions_begin_at_two_reads_two_tokens_fewer(tmp_path):
    model = random_model("roberta", {"is_decoder": False}, AutoModelForMaskedLM)
    folder = saved(model, tmp_path / "model", byte_tokenizer("<s> $A </s>"))
    record = evaluated(folder, tmp_path / "out")
    assert record["model"]["context"] == 62 and record["results"][0]["truncated"] == 1


@pytest.mark.parametrize(
    ("kind", "changes", "tokens"),
    [
        ("gemma3", {"text_config": TEXT_PART, "vision_config": IMAGE_PART}, 64),
        ("bloom", {}, 2048), ("mamba", {}, 2048), ("mpt", {}, 64), ("roberta", {}, 62), ("opt", {}, 64),
    ],
)  # fmt: skip
def test_how_much_a_model_reads_is_found_where_its_config_says_it(kind, changes, tokens):
    assert scoring.longest_context(random_model(kind, changes)) == tokens


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_before_any_score(value, tmp_path):
    model = random_model("gpt2", {})
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[3, 5] = value
    with pytest.raises(ValueError, match=r"h\.1\.mlp\.c_fc\.weight first"):
        evaluated(saved(model, tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_logits_that_are_no_numbers_are_refused_before_any_score(tmp_path):
    model = random_model("gpt2", {})
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(3e38)
        model.transformer.wte.weight.mul_(1e3)
    with pytest.raises(ValueError, match="gives NaN in place of logits"):
        evaluated(saved(model, tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_breaks_on_one_input_is_never_given_a_score():
    class Broken(torch.nn.Module):
        config = None

        def forward(self, ids):
            logits = torch.zeros(*ids.shape, VOCAB).masked_fill((ids == 7)[..., None], float("nan"))
            return type("Output", (), {"logits": logits})

    tokenizer = byte_tokenizer()
    with pytest.raises(ValueError, match="pair 1: the model gives NaN"):
        scoring.log_likelihoods(Broken(), [([1], [2]), ([7], [2])])
    with pytest.raises(ValueError, match="NaN in place of logits"):
        scoring.generate_lines(Broken(), tokenizer, [[7]])
    seven = tokenizer.decode([7])
    with pytest.raises(ValueError, match="NaN in place of a probability"):
        score_texts(Broken(), tokenizer, ["a", seven + "a"], BOOK.for_tokenizer(tokenizer))


def test_what_lies_beside_a_model_does_not_change_its_hash(small_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(small_folder, folder)
    before = hash_model(folder)
    first = evaluated(folder, folder)
    (folder / "trainer_state.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    again = evaluated(folder, folder)
    assert first["model"]["sha256"] == again["model"]["sha256"] == before == hash_model(folder)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        changed = tmp_path / name.replace(".", "-")
        shutil.copytree(small_folder, changed)
        (changed / name).write_bytes((changed / name).read_bytes() + b" ")
        assert hash_model(changed) != before


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["hello", ""], "text 1 of 2 is empty"),
        (["a", "b", "c\ud83d"], r"text 2 of 3 holds half of a character \(U\+D83D at place 1\)"),
        ([None], "text 0 is of the type NoneType"),
        ([], "at least one"),
    ],
)
def test_a_text_without_a_likelihood_is_named_before_anything_runs(small_folder, tmp_path, monkeypatch, texts, words):
    evaluated(small_folder, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(command, "open_folder", None)
    with pytest.raises(ValueError, match=words):
        evaluated(small_folder, tmp_path / "out", texts=texts)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(ValueError, match=words):
        check_texts(texts)


def test_a_question_with_half_a_character_is_named():
    with pytest.raises(ValueError, match=r"toy, item '1': it holds half of a character \(U\+DC00\)"):
        toy_benchmark(prompts=("fine", "not\udc00"))


def test_a_choice_that_cannot_be_scored_is_named_before_anything_runs(small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_compute", None)
    good = toy_benchmark(prompts=("a",))
    long = Item("long", "a", ("dog", "z" * 80, "b"), "dog", {})
    bad = Benchmark("long", "choice", (long,), (), "", {}, {"plain": Template("")}, "plain")
    with pytest.raises(ValueError, match=r"long, item long: the choice 'zzz.* has 81 tokens .* score 1 to 63"):
        evaluated(small_folder, tmp_path / "out", benchmarks={"good": good, "bad": bad})
    assert not (tmp_path / "out").exists()


def test_a_row_is_scored_the_same_beside_one_that_is_long_enough_to_change_the_rotations():
    rotations = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    rotations["original_max_position_embeddings"] = 16
    changes = {"rope_parameters": rotations, "original_max_position_embeddings": 16, "num_key_value_heads": 4}
    model, tokenizer = random_model("phi3", changes), byte_tokenizer()
    prompts = [[65] * 3, [66, 67] * 5, [70, 71] * 7, [68, 69] * 14, [72, 73] * 15]
    pairs, texts = [(prompt, [74, 75]) for prompt in prompts], ["the cat", "the dog sat on the mat", "z" * 30]
    convention = BOOK.with_window(64).for_tokenizer(tokenizer)
    together, apart = (
        (
            scoring.log_likelihoods(model, pairs, size),
            score_texts(model, tokenizer, texts, convention, batch_size=size).nats,
            scoring.generate_lines(model, tokenizer, prompts, 6, size),
        )
        for size in (8, 1)
    )
    assert_allclose(together[0], apart[0], atol=1e-4)
    assert_allclose(together[1], apart[1], atol=1e-4)
    assert together[2] == apart[2]


@pytest.mark.parametrize(
    ("kind", "parts"), [("default", [[3, 9, 16, 17], [17, 20]]), ("dynamic", [[3, 9, 16], [17, 17], [20]])]
)
def test_rows_behind_the_length_at_which_rotations_change_stand_with_their_like(kind, parts):
    rotations = {"rope_type": kind, "rope_theta": 1e4, **({"factor": 4.0} if kind == "dynamic" else {})}
    model = random_model("llama", {"rope_parameters": rotations, "max_position_embeddings": 16})
    assert list(scoring.batches([3, 9, 16, 17, 17, 20], int, 4, model)) == parts
    assert list(scoring.batches([], int, 4, model)) == []


def test_every_end_token_of_a_model_ends_what_it_writes():
    class Counting(torch.nn.Module):
        """Writes the id after the last one."""

        generation_config = type("Config", (), {"eos_token_id": [2, 70]})

        def forward(self, ids):
            return type("Output", (), {"logits": torch.nn.functional.one_hot(ids + 1, VOCAB).float()})

    tokenizer = byte_tokenizer()
    assert scoring.generate_lines(Counting(), tokenizer, [[65]]) == [tokenizer.decode([66, 67, 68, 69])]
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        scoring.generate_lines(Counting(), tokenizer, [[65], []])


def test_a_tokenizer_with_ids_beyond_the_embeddings_is_refused(small_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(small_folder, folder)
    stored = json.loads((folder / "tokenizer.json").read_text())
    token, _ = stored["model"]["vocab"].popitem()
    stored["model"]["vocab"][token] = VOCAB + 5  # as many tokens as before, with a gap
    stored["model"]["merges"] = [pair for pair in stored["model"]["merges"] if "".join(pair) != token]
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=f"{VOCAB + 6} tokens, the model's embedding {VOCAB} rows"):
        open_folder(folder)
