"""Prompts of tokens and of vectors: scores, calibration, and parity with peft (chapter 14)."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.testing import assert_close

from llmbook import finetuning, hub, training
from llmbook.finetuning import prompting
from llmbook.finetuning.prompting import LabelWords, Prefix, SoftPrompt, answer_log_likelihoods, calibrate
from llmbook.transformer import Decoder, Encoder, TransformerConfig

V = 50


def decoder(**changes: object) -> Decoder:
    torch.manual_seed(0)
    shape: dict = {"d_model": 32, "num_layers": 2, "num_heads": 4} | changes
    model = Decoder(TransformerConfig(V, **shape)).eval()
    for parameter in model.parameters():
        parameter.data *= 4  # away from the uniform distribution
    return model


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(TransformerConfig.bert(V, d_model=32, num_layers=2, num_heads=4, max_length=40)).eval()


def batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, V, (3, 9), generator=torch.Generator().manual_seed(1))  # (batch, time)
    mask = torch.ones_like(ids)  # (batch, time)
    mask[1, 6:] = 0
    return ids, mask


def one_by_one(model: Decoder, context: list[int], prompt: list[int], answer: list[int]) -> float:
    ids = torch.tensor([[*context, *prompt, *answer]])  # (1, time)
    log_probs = model(ids).logits[0].log_softmax(-1)  # (time, vocab)
    start = len(context) + len(prompt) - 1
    return sum(log_probs[start + place, token].item() for place, token in enumerate(answer))


ids_of = st.lists(st.integers(0, V - 1), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(ids_of, min_size=1, max_size=4),
    answers=st.lists(ids_of, min_size=1, max_size=3),
    context=st.lists(st.integers(0, V - 1), max_size=4),
    batch_size=st.integers(1, 5),
)
def test_log_likelihoods_are_those_of_one_sequence_at_a_time(
    prompts: list[list[int]], answers: list[list[int]], context: list[int], batch_size: int
) -> None:
    model = decoder(num_key_value_heads=2)
    with torch.no_grad():
        wanted = [[one_by_one(model, context, prompt, answer) for answer in answers] for prompt in prompts]
    found = answer_log_likelihoods(model, prompts, answers, context, batch_size)
    assert_close(found, torch.tensor(wanted), atol=1e-4, rtol=1e-4)


def test_log_likelihoods_of_all_tokens_sum_to_one() -> None:
    found = answer_log_likelihoods(decoder(), [[3, 4]], [[token] for token in range(V)])
    assert_close(found.exp().sum(), torch.tensor(1.0))


def test_log_likelihoods_refuse_encoders_and_empty_prompts() -> None:
    with pytest.raises(ValueError, match="Encoder predicts no next token"):
        answer_log_likelihoods(encoder(), [[1]], [[2]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number 1 of the prompts has no token"):
        answer_log_likelihoods(decoder(), [[1], []], [[2]])
    with pytest.raises(ValueError, match="no answers"):
        answer_log_likelihoods(decoder(), [[1]], [])


@given(st.lists(st.floats(-20, 0), min_size=2, max_size=6), st.integers(0, 2**31))
def test_calibrated_content_free_input_is_uniform(scores: list[float], seed: int) -> None:
    free = torch.tensor([scores])  # (1, labels)
    assert_close(calibrate(free, free), torch.full_like(free, 1 / len(scores)).log(), atol=1e-4, rtol=1e-4)
    others = torch.randn(4, len(scores), generator=torch.Generator().manual_seed(seed))  # (examples, labels)
    assert_close(calibrate(others, free).exp().sum(-1), torch.ones(4))
    shifted = others + torch.tensor([[1.0], [2.0], [3.0], [4.0]])  # a constant in each row
    assert_close(calibrate(others, free), calibrate(shifted, free), atol=1e-4, rtol=1e-4)


def test_calibration_with_uniform_prior_changes_no_decision() -> None:
    scores = torch.randn(10, 3)  # (examples, labels)
    assert_close(calibrate(scores, torch.zeros(2, 3)), scores.log_softmax(-1))
    with pytest.raises(ValueError, match="3 labels in log_probs and 2"):
        calibrate(scores, torch.zeros(2))


def test_soft_prompt_gives_the_logits_of_peft() -> None:
    ours = SoftPrompt(decoder(), length=5)
    theirs = get_peft_model(hub.to_hf(decoder()), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    theirs.prompt_encoder["default"].embedding.weight.data = ours.prompt.data.clone()
    ids, mask = batch()
    with torch.no_grad():
        wanted = theirs.eval()(input_ids=ids, attention_mask=mask).logits[:, 5:]  # (batch, time, vocab)
        assert_close(ours(ids, mask)[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)
    count = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_prefix_gives_the_logits_and_gradients_of_peft(kv_heads: int) -> None:
    model = decoder(num_key_value_heads=kv_heads)
    ours = Prefix(copy.deepcopy(model), length=5)
    theirs = get_peft_model(hub.to_hf(model), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    rows = ours.prefix.detach().permute(3, 0, 1, 2, 4).flatten(1)  # (length, layers * 2 * kv heads * d_head)
    weight = theirs.prompt_encoder["default"].embedding.weight
    assert weight.shape == rows.shape
    weight.data = rows.clone()
    ids, mask = batch()
    wanted = theirs(input_ids=ids, attention_mask=mask).logits  # (batch, time, vocab)
    found = ours(ids, mask)  # (batch, time, vocab)
    assert_close(found[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)
    wanted[:, -1].square().sum().backward()
    found[:, -1].square().sum().backward()
    grad = ours.prefix.grad.permute(3, 0, 1, 2, 4).flatten(1)  # type: ignore[union-attr]
    assert_close(grad, weight.grad, atol=1e-4, rtol=1e-4)


def test_soft_prompt_of_an_encoder_is_that_of_embeddings_given_to_bert() -> None:
    ours = SoftPrompt(encoder(), length=4)
    ids, mask = batch()
    embeddings = torch.cat([ours.prompt.expand(3, -1, -1), ours.model.embeddings(ids)], 1)  # (batch, 4 + time, d_model)
    wide = torch.cat([torch.ones(3, 4, dtype=torch.long), mask], 1)  # (batch, 4 + time)
    with torch.no_grad():
        wanted = hub.to_hf(ours.model).eval()(inputs_embeds=embeddings, attention_mask=wide).logits[:, 4:]
        assert_close(ours(ids, mask)[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(init=st.lists(st.integers(0, V - 1), min_size=1, max_size=6), kind=st.sampled_from([SoftPrompt, Prefix]))
def test_prompt_that_begins_as_a_text_is_that_text(init: list[int], kind: type[SoftPrompt | Prefix]) -> None:
    model = decoder()
    ids, _ = batch()
    with torch.no_grad():
        wanted = model(torch.cat([torch.tensor([init] * 3), ids], 1)).logits[:, len(init) :]  # (batch, time, vocab)
        assert_close(kind(model, init=init)(ids), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [SoftPrompt, Prefix])
@pytest.mark.parametrize("make", [decoder, encoder])
def test_prompts_ignore_padding(kind: type[SoftPrompt | Prefix], make) -> None:
    prompted = kind(make(), length=3)
    ids, mask = batch()
    with torch.no_grad():
        assert_close(prompted(ids, mask)[1, :6], prompted(ids[1:2, :6])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [SoftPrompt, Prefix])
@pytest.mark.parametrize("make", [decoder, encoder])
def test_only_the_prompt_is_trained_and_the_task_is_learned(kind: type[SoftPrompt | Prefix], make) -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask_id = 2 if isinstance(model, Encoder) else None
    classifier = LabelWords(kind(model, length=4), [[10], [11]], mask_id)
    rng = torch.Generator().manual_seed(0)
    rows = [{"input_ids": [*torch.randint(20, 30, (5,), generator=rng).tolist(), 2], "labels": 1} for _ in range(16)]
    log = training.fit(
        classifier, finetuning.Examples(rows, 8, 1), training.Settings(40, learning_rate=0.05, log_every=5),
        finetuning.loss, progress=False,
    )  # fmt: skip
    assert log[-1]["loss"] < log[0]["loss"] - 1e-4
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [name for name, p in classifier.named_parameters() if p.requires_grad] in (
        ["backbone.prompt"], ["backbone.prefix"]
    )  # fmt: skip


@pytest.mark.parametrize("kind", [SoftPrompt, Prefix])
def test_prompted_models_stand_under_the_heads_of_chapter_12(kind: type[SoftPrompt | Prefix]) -> None:
    head = finetuning.SequenceClassifier(kind(decoder(), length=3), 4, pooling="last").eval()  # type: ignore[arg-type]
    ids, mask = batch()
    assert head(ids, mask).logits.shape == (3, 4)


def test_label_words_are_the_models_own_logits() -> None:
    model = decoder()
    ids, mask = batch()
    words = [[7], [8, 9], [10]]
    with torch.no_grad():
        full = model(ids, mask).logits  # (batch, time, vocab)
        last = torch.stack([full[0, 8], full[1, 5], full[2, 8]])  # (batch, vocab)
        found = LabelWords(model, words)(ids, mask).logits  # (batch, labels)
        assert_close(found, torch.stack([last[:, 7], last[:, [8, 9]].logsumexp(-1), last[:, 10]], -1))
        mean = LabelWords(model, words, reduce="mean")(ids, mask).logits
        assert_close(mean[:, 1], last[:, [8, 9]].mean(-1))


def test_label_words_of_an_encoder_are_read_at_the_mask() -> None:
    model = encoder()
    ids, mask = batch()
    ids[:, 4] = 2
    with torch.no_grad():
        wanted = model(ids, mask).logits[:, 4, [7, 8]]  # (batch, labels)
        assert_close(LabelWords(model, [[7], [8]], mask_token_id=2)(ids, mask).logits, wanted)
    ids[1, 5] = 2
    with pytest.raises(ValueError, match="row 1 has 2 mask tokens"):
        LabelWords(model, [[7], [8]], mask_token_id=2)(ids, mask)


@pytest.mark.parametrize(
    ("words", "mask_id", "message"),
    [
        ([[1]], None, "at least two labels"),
        ([[1], []], None, "at least two labels"),
        ([[1, 2], [2]], None, "no word twice"),
        ([[1], [V]], None, "the vocabulary has 50"),
        ([[1], [2]], 3, "give mask_token_id with an encoder"),
    ],
)
def test_label_words_refuse(words: list[list[int]], mask_id: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelWords(decoder(), words, mask_id)


def test_label_out_of_range_is_refused() -> None:
    ids, mask = batch()
    with pytest.raises(ValueError, match="labels run from 0 to 2, there are words for 2"):
        LabelWords(decoder(), [[1], [2]])(ids, mask, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("kind", [SoftPrompt, Prefix])
def test_prompts_refuse_lengths_that_leave_no_room(kind: type[SoftPrompt | Prefix]) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        kind(decoder())
    with pytest.raises(ValueError, match="one of the two"):
        kind(decoder(), length=3, init=[1, 2, 3])
    with pytest.raises(ValueError, match="a prompt of 40 tokens: it takes 1 to 39"):
        kind(encoder(), length=40)
    with pytest.raises(ValueError, match="a prompt of 0 tokens"):
        kind(decoder(), length=0)


@pytest.mark.parametrize("kind", [SoftPrompt, Prefix])
def test_random_prompts_are_those_of_their_seed(kind: type[SoftPrompt | Prefix]) -> None:
    first, same, other = (next(kind(decoder(), length=4, seed=seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_vocabulary_logits_are_those_of_the_model() -> None:
    ids, mask = batch()
    for model in (decoder(), encoder()):
        states = model.encode(ids, mask).last_hidden_state  # (batch, time, d_model)
        assert_close(prompting.vocabulary_logits(model, states), model(ids, mask).logits)
