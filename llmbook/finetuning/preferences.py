"""Learning from which of two answers is better, and from rewards (chapter 15)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmbook.finetuning.batches import Batch
from llmbook.finetuning.heads import pool
from llmbook.finetuning.instructions import cut, pad_left, states, text_of
from llmbook.generation import filter_logits
from llmbook.objectives import IGNORE
from llmbook.transformer import Cache, Decoder, padded_positions, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADVANTAGES = ("reinforce", "leave-one-out", "grpo")
KL_ESTIMATORS = ("k1", "k2", "k3")
DRAWN_TOGETHER = 128  # answers in one call of the model
SCORED_TOGETHER = 32  # likewise, where no gradient is wanted: the logits of all answers at once would be large


def token_log_probs(model: Decoder, batch: Batch) -> Tensor:
    """Return the log-probability of each labelled token, in nats, ``(batch, time - 1)``; 0 where there is no label.

    ``labels`` are unshifted, see :func:`llmbook.finetuning.instructions.instruction_row`.
    """
    labels = batch["labels"][:, 1:]  # (batch, time - 1)
    taught = labels != IGNORE  # (batch, time - 1)
    logits = model.lm_head(states(model, batch)[:, :-1][taught]).float()  # (taught, vocab)
    picked = -F.cross_entropy(logits, labels[taught], reduction="none")  # (taught,)
    return torch.zeros(labels.shape, device=labels.device).masked_scatter(taught, picked)  # (batch, time - 1)


def sequence_log_probs(model: Decoder, batch: Batch) -> Tensor:
    """Return the log-probability of each row's labelled tokens together, in nats, ``(batch,)``."""
    if not torch.is_grad_enabled() and len(batch) > SCORED_TOGETHER:
        parts = batch.chunk(-(-len(batch) // SCORED_TOGETHER))
        return torch.cat([sequence_log_probs(model, part) for part in parts])
    return token_log_probs(model, batch).sum(1)


# --- from pairs to a reward -------------------------------------------------------------------------------------------


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the preferences under the model of Bradley and Terry 1952.

    The model (doi:10.1093/biomet/39.3-4.324) says ``P(chosen is preferred) = sigmoid(chosen - rejected)``.

    Args:
        chosen: rewards of the preferred answers, ``(pairs,)``.
        rejected: rewards of the others, ``(pairs,)``.

    Raises:
        ValueError: shapes that differ, or no pair.
    """
    _same_shape(chosen=chosen, rejected=rejected)
    if not chosen.numel():
        raise ValueError("no pair: chosen and rejected are empty; give at least one")
    return -F.logsigmoid(chosen - rejected).mean()


class RewardModel(nn.Module):
    """One number for an instruction with its answer: a linear layer on the state of the last token.

    As in Ouyang et al. 2022 (arXiv:2203.02155) it starts from the instruction-tuned decoder, whose head it replaces.
    """

    def __init__(self, backbone: Decoder) -> None:
        """Put a head, with weights of 0, on a decoder, which is used as it is; copy it first to keep it."""
        super().__init__()
        if not isinstance(unwrapped(backbone), Decoder):
            raise ValueError(
                f"{type(backbone).__name__}: a reward model reads with a Decoder, whose last state saw all"
            )
        self.backbone, self.head = backbone, nn.Linear(backbone.config.d_model, 1, bias=False)
        nn.init.zeros_(self.head.weight)
        self.head.to(next(backbone.parameters()).device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return a reward for each text ``(batch, time)``, padded on the right: ``(batch,)``."""
        hidden = self.backbone.encode(input_ids, attention_mask).last_hidden_state  # (batch, time, d_model)
        read = pool(hidden, attention_mask, "last")  # (batch, d_model)
        return self.head(read)[:, 0].float()  # (batch,)


def pair_rows(chosen: Sequence[dict], rejected: Sequence[dict]) -> list[dict]:
    """Return rows that hold both answers, with names that begin with ``chosen_`` and ``rejected_``.

    Raises:
        ValueError: not as many of the one as of the other.
    """
    if len(chosen) != len(rejected):
        raise ValueError(f"{len(chosen)} chosen and {len(rejected)} rejected answers: a pair has one of each")
    pairs: list[dict] = []
    for better, worse in zip(chosen, rejected, strict=True):
        both = [1] * (len(better["input_ids"]) + len(worse["input_ids"]))  # by which training.fit counts tokens
        named = {f"{half}_{key}": value for half, row in (("chosen", better), ("rejected", worse))
                 for key, value in row.items()}  # fmt: skip
        pairs.append({**named, "attention_mask": both})
    return pairs


def side(batch: Batch, name: str) -> Batch:
    """Return one half of a batch of pairs, ``chosen`` or ``rejected``, as a batch of its own."""
    keys = list(batch.keys())
    names = [key for key in keys if key.startswith(f"{name}_")]
    if not names:
        raise ValueError(f"the batch has {', '.join(keys)}, nothing that begins with {name}_: see pair_rows")
    return Batch(**{key.removeprefix(f"{name}_"): batch[key] for key in names})


def reward_loss(model: RewardModel, batch: Batch) -> Tensor:
    """Return :func:`bradley_terry_loss` of a batch of pairs: what ``training.fit`` takes as ``loss_of``."""
    chosen, rejected = (
        model(batch[f"{half}_input_ids"], batch[f"{half}_attention_mask"]) for half in ("chosen", "rejected")
    )
    return bradley_terry_loss(chosen, rejected)


# --- from pairs to a policy -------------------------------------------------------------------------------------------


def optimal_policy(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Return the distribution that maximises mean reward minus ``beta`` times KL to the reference, ``(..., answers)``.

    It is ``reference * exp(rewards / beta)``, normalised.

    Args:
        reference: probabilities ``(..., answers)``.
        rewards: ``(..., answers)``.
        beta: price of a nat of KL, in units of reward; above 0.
    """
    _positive("beta", beta)
    return (reference.log() + rewards / beta).softmax(-1)


class DpoLoss(NamedTuple):
    """What :func:`dpo_loss` returns; iterating over it gives the loss first.

    Attributes:
        loss: mean over the pairs, with its gradient.
        chosen: implicit rewards of the preferred answers ``(pairs,)``, without gradient.
        rejected: those of the others.
    """

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


def dpo_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1) -> DpoLoss:
    """Return the loss of direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).

    It is :func:`bradley_terry_loss` of the implicit rewards ``beta * (log-probability - that of the reference)``.

    Args:
        chosen: the policy's log-probabilities of the preferred answers in nats, ``(pairs,)``.
        rejected: those of the others.
        ref_chosen: the reference's of the preferred answers, without gradient.
        ref_rejected: the reference's of the others.
        beta: price of a nat of KL.

    Raises:
        ValueError: shapes that differ, or a beta that is not above 0.
    """
    _same_shape(chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    _positive("beta", beta)
    better, worse = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)  # (pairs,)
    return DpoLoss(bradley_terry_loss(better, worse), better.detach(), worse.detach())


def dpo_batch_loss(beta: float) -> Callable[[Decoder, Batch], Tensor]:
    """Return what ``training.fit`` takes as ``loss_of``, for pairs with ``chosen_reference``, ``rejected_reference``.

    Those are the reference's log-probabilities, computed once before training, single numbers in the rows.
    """

    def loss(model: Decoder, batch: Batch) -> Tensor:
        chosen, rejected = (sequence_log_probs(model, side(batch, half)) for half in ("chosen", "rejected"))
        return dpo_loss(chosen, rejected, batch["chosen_reference"], batch["rejected_reference"], beta).loss

    return loss


# --- rewards and a policy ---------------------------------------------------------------------------------------------


def advantages(rewards: Tensor, kind: str = "grpo") -> Tensor:
    """Return how much better each answer is than others to the same prompt, ``(prompts, answers)``.

    Args:
        rewards: ``(prompts, answers)``, several answers to each prompt.
        kind: ``reinforce`` subtracts the mean of all rewards (Williams 1992, doi:10.1007/BF00992696);
            ``leave-one-out`` the mean of the prompt's other answers (Kool et al. 2019); ``grpo`` the mean of the
            prompt's answers, and divides by their standard deviation (Shao et al. 2024, arXiv:2402.03300).

    Raises:
        ValueError: an unknown kind, or a single answer where others are needed.
    """
    if kind not in ADVANTAGES:
        raise ValueError(f"kind={kind!r}: it takes {', '.join(ADVANTAGES)}")
    if rewards.ndim != 2 or (kind != "reinforce" and rewards.shape[1] < 2):
        raise ValueError(f"rewards have shape {tuple(rewards.shape)}: (prompts, answers), for {kind!r} 2 or more each")
    if kind == "reinforce":
        return rewards - rewards.mean()
    centred = rewards - rewards.mean(1, keepdim=True)  # (prompts, answers)
    if kind == "leave-one-out":
        return centred * rewards.shape[1] / (rewards.shape[1] - 1)
    return centred / (rewards.std(1, keepdim=True) + 1e-4)


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """Return the clipped surrogate of PPO (Schulman et al. 2017, arXiv:1707.06347) with one advantage for each answer.

    In the first step on freshly drawn answers the ratio is 1, and the gradient is that of REINFORCE. As in GRPO the
    terms are averaged over the tokens of an answer and then over the answers; one without a token counts nothing.

    Args:
        log_probs: the policy's, of the tokens drawn, ``(answers, time)``, with their gradient.
        old_log_probs: those of the policy that drew them.
        advantages: ``(answers,)``.
        mask: ``(answers, time)``, 1 for tokens that were drawn and 0 for others.
        clip: how far the ratio of new to old probability is followed.
    """
    _same_shape(log_probs=log_probs, old_log_probs=old_log_probs, mask=mask)
    if advantages.shape != log_probs.shape[:1]:
        raise ValueError(f"advantages {tuple(advantages.shape)} for {len(log_probs)} answers: one for each")
    ratio = (log_probs - old_log_probs.detach()).exp()  # (answers, time)
    weight = advantages.detach()[:, None]  # (answers, 1)
    gain = torch.minimum(ratio * weight, ratio.clamp(1 - clip, 1 + clip) * weight)  # (answers, time)
    drawn = mask.sum(1)  # (answers,)
    return -((gain * mask).sum(1) / drawn.clamp(min=1)).sum() / (drawn > 0).sum().clamp(min=1)


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, kind: str = "k3") -> Tensor:
    """Return terms whose mean over draws from the policy estimates KL(policy || reference) in nats, of the same shape.

    With ``r = reference / policy`` (Schulman 2020, "Approximating KL divergence"): ``k1`` is ``-log r``, unbiased, of
    either sign; ``k2`` is ``(log r)^2 / 2``, biased, never negative; ``k3`` is ``r - 1 - log r``, both.

    Args:
        log_probs: the policy's log-probabilities of what it drew.
        ref_log_probs: the reference's of the same.
        kind: the estimator.
    """
    _same_shape(log_probs=log_probs, ref_log_probs=ref_log_probs)
    if kind not in KL_ESTIMATORS:
        raise ValueError(f"kind={kind!r}: it takes {', '.join(KL_ESTIMATORS)}")
    log_ratio = ref_log_probs - log_probs
    if kind == "k1":
        return -log_ratio
    return log_ratio**2 / 2 if kind == "k2" else log_ratio.expm1() - log_ratio


def best_of_n_kl(n: int) -> float:
    """Return an upper bound of KL(best of n answers || one answer) in nats, tight where no two rewards are equal.

    ``log n - (n - 1) / n`` (Beirami et al. 2024, arXiv:2401.01879, show that it is a bound).
    """
    if n < 1:
        raise ValueError(f"n={n}: it takes a number from 1 up")
    return math.log(n) - (n - 1) / n


class Drawn(NamedTuple):
    """Answers that a policy drew.

    Attributes:
        rows: prompt and answer with ``input_ids`` and ``labels``, prompt after prompt.
        texts: the answers as text.
        finished: whether the answer was ended before the limit.
    """

    rows: list[dict]
    texts: list[str]
    finished: list[bool]


@torch.no_grad()
def draw(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    answers: int,
    max_new_tokens: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Drawn:
    """Draw several answers to each prompt, keys and values cached.

    Args:
        model: the policy.
        tokenizer: its ``eos_token`` ends an answer.
        prompts: token ids, see :func:`llmbook.finetuning.instructions.prompt_row`.
        answers: to each prompt.
        max_new_tokens: an answer has at most so many.
        generator: the source of randomness, on the CPU.
        temperature: see :func:`llmbook.generation.filter_logits`.
    """
    end, device, training = tokenizer.eos_token_id, next(model.parameters()).device, model.training
    model.eval()
    repeated = [list(prompt) for prompt in prompts for _ in range(answers)]
    ids, mask = (tensor.to(device) for tensor in pad_left(repeated, tokenizer.pad_token_id))  # (batch, time)
    start = ids.shape[1]
    done = torch.zeros(len(ids), dtype=torch.bool)
    parts = torch.arange(len(ids), device=device).split(DRAWN_TOGETHER)  # memory: the prompts' states are all kept
    caches: list[Cache | None] = [None] * len(parts)
    for _ in range(max_new_tokens):
        positions, last = padded_positions(mask), []
        for number, part in enumerate(parts):
            new = slice(None) if caches[number] is None else slice(-1, None)
            out = model.encode(ids[part][:, new], mask[part], positions[part][:, new], caches[number])
            caches[number] = out.past_key_values
            last.append(model.lm_head(out.last_hidden_state[:, -1]))  # (part, vocab)
        logits = filter_logits(torch.cat(last).float().cpu(), temperature)  # (batch, vocab)
        token = torch.multinomial(logits.softmax(-1), 1, generator=generator)  # (batch, 1)
        token[done] = end
        done |= token[:, 0] == end
        ids = torch.cat([ids, token.to(device)], dim=1)  # (batch, time + 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        if done.all():
            break
    model.train(training)
    rows, texts, finished = [], [], []
    for prompt, new_ids in zip(repeated, ids[:, start:].tolist(), strict=True):
        written = cut(new_ids, end)
        finished.append(len(written) < len(new_ids))
        closed = [*written, end] if finished[-1] else written
        rows.append({"input_ids": prompt + closed, "labels": [IGNORE] * len(prompt) + closed})
        texts.append(text_of(tokenizer, written))
    return Drawn(rows, texts, finished)


def _same_shape(**tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors.values()}) != 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{shapes}: all take the same shape")


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}={value}: it takes a number above 0")
