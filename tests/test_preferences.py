import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from llmbook import finetuning as ft
from llmbook import hub
from llmbook.finetuning import instructions as ins
from llmbook.finetuning import preferences as pr
from llmbook.objectives import IGNORE
from llmbook.transformer import Decoder, Encoder, TransformerConfig

numbers = st.floats(-5, 5)


def make_decoder(vocab_size: int = 50, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(TransformerConfig(vocab_size, d_model=32, num_layers=2, num_heads=2)).eval()


def rows(count: int = 3) -> list[dict]:
    generator = torch.Generator().manual_seed(count)
    made = []
    for number in range(count):
        ids = torch.randint(3, 50, (6 + number,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [IGNORE] * 3 + ids[3:]})
    return made


# --- log-probabilities ------------------------------------------------------------------------------------------------


def test_sequence_log_probs_are_those_of_the_answer_alone():
    model, row = make_decoder(), rows(1)[0]
    logits = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    by_hand = sum(logits[at - 1, row["input_ids"][at]] for at in range(3, 6))
    assert_close(pr.sequence_log_probs(model, ft.collate(rows(1), 0))[0], by_hand)
    padded = ft.collate([row, *rows(3)], 0)
    assert_close(pr.sequence_log_probs(model, padded)[0], by_hand)


# --- rewards from pairs -----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(a=numbers, b=numbers, shift=numbers)
def test_bradley_terry_knows_only_the_difference(a, b, shift):
    pair = torch.tensor([a]).double(), torch.tensor([b]).double()
    loss = pr.bradley_terry_loss(*pair)
    assert_close(loss, -torch.log(torch.sigmoid(pair[0] - pair[1]))[0])
    assert_close(loss, pr.bradley_terry_loss(pair[0] + shift, pair[1] + shift))


def test_a_reward_model_learns_which_token_is_preferred():
    model = pr.RewardModel(make_decoder())
    good = [{"input_ids": [5, 6 + i, 7]} for i in range(4)]
    bad = [{"input_ids": [5, 6 + i, 8]} for i in range(4)]
    batch = ft.collate(pr.pair_rows(good, bad), 0)
    assert_close(pr.reward_loss(model, batch).item(), math.log(2))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        pr.reward_loss(model, batch).backward()
        optimizer.step()
    assert pr.reward_loss(model, batch) < 0.1


def test_padding_does_not_change_a_reward():
    model = pr.RewardModel(make_decoder())
    torch.nn.init.normal_(model.head.weight)
    short, long = {"input_ids": [5, 6, 7]}, {"input_ids": [5, 6, 7, 8, 9, 10]}
    alone, both = ft.collate([short], 0), ft.collate([short, long], 0)
    assert_close(model(**alone)[0], model(**both)[0])


def test_halves_of_a_batch_of_pairs_come_back():
    batch = ft.collate(pr.pair_rows(rows(2), rows(2)[::-1]), 0)
    assert pr.side(batch, "rejected")["labels"].shape == pr.side(batch, "chosen")["labels"].shape
    assert set(pr.side(batch, "chosen").keys()) == {"input_ids", "labels", "attention_mask"}
    with pytest.raises(ValueError, match="nothing that begins with better_"):
        pr.side(batch, "better")
    with pytest.raises(ValueError, match="2 chosen and 1 rejected"):
        pr.pair_rows(rows(2), rows(1))
    with pytest.raises(ValueError, match="Encoder"):
        pr.RewardModel(Encoder(TransformerConfig.bert(50, d_model=32, num_layers=1, num_heads=2)))


# --- the optimum and DPO ----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(rewards=st.lists(numbers, min_size=4, max_size=4), beta=st.floats(0.2, 5), seed=st.integers(0, 99))
def test_no_distribution_beats_the_optimal_policy(rewards, beta, seed):
    generator = torch.Generator().manual_seed(seed)
    reference, other = torch.randn(2, 4, generator=generator, dtype=torch.float64).softmax(-1)
    reward = torch.tensor(rewards, dtype=torch.float64)

    def objective(policy):
        return (policy * reward).sum() - beta * (policy * (policy / reference).log()).sum()

    best = pr.optimal_policy(reference, reward, beta)
    assert_close(best.sum().item(), 1.0)
    assert objective(best) >= objective(other) - 1e-9
    z = (reference * (reward / beta).exp()).sum()
    assert_close(objective(best), beta * z.log())
    assert_close(beta * (best / reference).log() + beta * z.log(), reward, atol=1e-6, rtol=1e-6)


def test_dpo_gradient_is_the_formula():
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = values[0].clone().requires_grad_()
    out = pr.dpo_loss(chosen, *values[1:], beta=0.3)
    out.loss.backward()
    assert_close(chosen.grad, -0.3 * torch.sigmoid(out.rejected - out.chosen) / 6)


def test_dpo_begins_at_log_two_and_refuses_bad_input():
    zeros = torch.zeros(3)
    assert_close(pr.dpo_loss(zeros, zeros, zeros, zeros).loss.item(), math.log(2))
    with pytest.raises(ValueError, match="beta=0"):
        pr.dpo_loss(zeros, zeros, zeros, zeros, beta=0)
    with pytest.raises(ValueError, match="the same shape"):
        pr.dpo_loss(zeros, zeros, zeros, torch.zeros(2))


def test_dpo_batch_loss_uses_the_stored_reference():
    model, reference = make_decoder(), make_decoder(seed=1)
    chosen, rejected = rows(3), rows(4)[1:]
    pairs = pr.pair_rows(chosen, rejected)
    with torch.no_grad():
        logs = [pr.sequence_log_probs(reference, ft.collate(part, 0)) for part in (chosen, rejected)]
        ours = [pr.sequence_log_probs(model, ft.collate(part, 0)) for part in (chosen, rejected)]
    for row, a, b in zip(pairs, *logs, strict=True):
        row |= {"chosen_reference": a.item(), "rejected_reference": b.item()}
    loss = pr.dpo_batch_loss(0.2)(model, ft.collate(pairs, 0))
    assert_close(loss, pr.dpo_loss(*ours, *logs, 0.2).loss)


def test_dpo_loss_is_that_of_trl(tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = ins.chat_tokenizer()
    policy, reference = make_decoder(4096), make_decoder(4096, seed=1)
    prompt = [{"role": "user", "content": "Write the first line.\nmean(a, axis)"}]
    answers = [
        {"chosen": "Return the mean.", "rejected": "Returns mean of a."},
        {"chosen": "Compute the mean of a.", "rejected": "A mean"},
    ]
    data = [
        {"prompt": prompt, **{key: [{"role": "assistant", "content": text}] for key, text in pair.items()}}
        for pair in answers
    ]
    settings_ = DPOConfig(str(tmp_path), beta=0.3, per_device_train_batch_size=2, use_cpu=True, bf16=False,
                          report_to="none", gradient_checkpointing=False)  # fmt: skip
    trainer = DPOTrainer(hub.to_hf(policy), hub.to_hf(reference), settings_, train_dataset=Dataset.from_list(data),
                         processing_class=tokenizer)  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, batch)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORE)
    rows_ = ft.Batch(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels)
    with torch.no_grad():
        sums = [pr.sequence_log_probs(model, rows_).chunk(2) for model in (policy, reference)]
    assert_close(pr.dpo_loss(*sums[0], *sums[1], beta=0.3).loss, theirs.detach(), atol=1e-5, rtol=1e-5)


# --- policy gradients -------------------------------------------------------------------------------------------------


def test_advantages_compare_answers_to_one_prompt():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [9.0, 9.0, 9.0, 9.0]])
    for kind in ("leave-one-out", "grpo"):
        assert_close(pr.advantages(rewards, kind).sum(1), torch.zeros(2))
        assert_close(pr.advantages(rewards, kind)[1], torch.zeros(4))
    assert_close(pr.advantages(rewards, "leave-one-out")[0, 0], torch.tensor(1 - 1 / 3))
    assert_close(pr.advantages(rewards, "reinforce").mean(), torch.tensor(0.0))
    with pytest.raises(ValueError, match="kind='ppo'"):
        pr.advantages(rewards, "ppo")
    with pytest.raises(ValueError, match="2 or more"):
        pr.advantages(torch.zeros(4, 1))


def test_on_fresh_answers_the_gradient_is_that_of_reinforce():
    log_probs = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask, weight = torch.ones(3, 5), torch.tensor([1.0, -2.0, 0.5])
    mask[1, 3:] = 0
    pr.policy_loss(log_probs, log_probs.detach(), weight, mask).backward()
    assert_close(log_probs.grad, -(weight[:, None] * mask / mask.sum(1, keepdim=True)) / 3)


def test_the_ratio_is_followed_only_so_far():
    old = torch.zeros(2, 1)
    new = torch.full((2, 1), 1.0, requires_grad=True)  # the ratio is e
    pr.policy_loss(new, old, torch.tensor([1.0, -1.0]), torch.ones(2, 1), clip=0.2).backward()
    assert new.grad[0] == 0 and new.grad[1] > 0
    with pytest.raises(ValueError, match="one for each"):
        pr.policy_loss(new, old, torch.zeros(3), torch.ones(2, 1))


def test_kl_estimators_estimate_the_kl():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 6, generator=generator) * 0.5).log_softmax(-1)
    exact = F.kl_div(q, p, log_target=True, reduction="sum")
    drawn = torch.multinomial(p.exp(), 40_000, replacement=True, generator=generator)
    estimates = {kind: pr.kl_estimate(p[drawn], q[drawn], kind) for kind in pr.KL_ESTIMATORS}
    assert_close(estimates["k1"].mean(), exact, atol=0.02, rtol=0)
    assert_close(estimates["k3"].mean(), exact, atol=0.01, rtol=0)
    assert estimates["k3"].std() < estimates["k1"].std()
    assert estimates["k3"].min() >= -1e-6 and estimates["k2"].min() >= 0
    with pytest.raises(ValueError, match="kind='k4'"):
        pr.kl_estimate(p, q, "k4")


def test_best_of_n_is_as_far_as_the_formula_says():
    n, draws = 4, 200_000
    best = torch.rand(draws, n, generator=torch.Generator().manual_seed(0)).max(1).values  # density n x^(n-1)
    assert_close((n * best ** (n - 1)).log().mean().item(), pr.best_of_n_kl(n), atol=0.01, rtol=0)
    assert pr.best_of_n_kl(1) == 0
    with pytest.raises(ValueError, match="n=0"):
        pr.best_of_n_kl(0)


def test_drawn_answers_follow_the_models_probabilities():
    tokenizer, model = ins.chat_tokenizer(), make_decoder(4096)
    with torch.no_grad():
        model.lm_head.weight[:] *= 20  # a peaked model, the same for both
    prompts = [[5, 6, 7, 8], [9, 10]]
    drawn = pr.draw(model, tokenizer, prompts, 2, 6, torch.Generator().manual_seed(0), temperature=1e-3)
    assert len(drawn.rows) == len(drawn.texts) == 4
    for row, prompt in zip(drawn.rows, [p for p in prompts for _ in range(2)], strict=True):
        assert row["input_ids"][: len(prompt)] == prompt and row["labels"][: len(prompt)] == [IGNORE] * len(prompt)
        greedy = model(torch.tensor([row["input_ids"]])).logits.argmax(-1)[0]
        assert row["labels"][len(prompt) :] == greedy[len(prompt) - 1 : -1].tolist()
