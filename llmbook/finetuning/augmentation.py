"""More examples from those there are, and harder ones: word operations, round trips, mix-up, FGM (chapter 13)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmbook.finetuning.heads import SequenceClassifier, last_hidden_state, pool
from llmbook.objectives import IGNORE

OPERATIONS = ("swap", "delete", "insert")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name}={share}: it takes a share from 0 to 1")


def change_words(text: str, rng: np.random.Generator, share: float = 0.1) -> str:
    """Return a text with one operation of EDA applied to a share of its words (Wei and Zou 2019, arXiv:1901.11196).

    The operation is drawn: ``swap`` exchanges two words, ``delete`` takes words out, ``insert`` puts in copies of other
    words of the text. (EDA's fourth replaces words by synonyms of WordNet, which has to be downloaded; see
    :func:`round_trip`.) Spaces and line ends stay where they are.

    Raises:
        ValueError: a share out of 0 to 1.
    """
    _check_share("share", share)
    pieces = re.split(r"(\s+)", text)  # words at even places, what separates them at odd ones
    places = [place for place in range(0, len(pieces), 2) if pieces[place]]
    count = min(round(share * len(places)), len(places) - 1)
    if count < 1:
        return text
    operation = OPERATIONS[rng.integers(len(OPERATIONS))]
    for place in rng.choice(places, size=count, replace=False):
        other = rng.choice(places)
        if operation == "swap":
            pieces[place], pieces[other] = pieces[other], pieces[place]
        elif operation == "delete":
            pieces[place] = ""
        else:
            pieces[place] = f"{pieces[place]} {pieces[other]}"
    return "".join(pieces)


def translation_table(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]], rounds: int = 5
) -> dict[str, dict[str, float]]:
    """Return probabilities ``t(target word | source word)`` from sentences and their translations.

    IBM's model 1 (Brown et al. 1993): each word of the target was written by one of the source's words, nobody knows
    which; expectation-maximisation begins with all equally likely. Probabilities below 0.002 are left out.

    Args:
        pairs: source and target, as words.
        rounds: of expectation and maximisation.

    Raises:
        ValueError: no pair of two sentences with words.
    """
    pairs = [(source, target) for source, target in pairs if source and target]
    if not pairs:
        raise ValueError("no pair of sentences with words: there is nothing to learn a translation from")
    sources, targets = ({w: i for i, w in enumerate(sorted({w for p in pairs for w in p[side]}))} for side in (0, 1))
    cells = [(sources[s], targets[t], n) for n, (source, target) in enumerate(pairs) for t in target for s in source]
    # which word of the target a cell belongs to: words of one sentence share what was written
    written, counter = [], 0
    for source, target in pairs:
        for _ in target:
            written += [counter] * len(source)
            counter += 1
    source_of, target_of, _ = np.array(cells).T  # (cells,) each
    of_word = np.array(written)  # (cells,)
    kinds, kind = np.unique(source_of.astype(np.int64) * len(targets) + target_of, return_inverse=True)  # (kinds,)
    owner = kinds // len(targets)  # (kinds,), the source word
    t = np.ones(len(kinds))  # (kinds,)
    for _ in range(rounds):
        share = t[kind]  # (cells,)
        share = share / np.bincount(of_word, share)[of_word]  # expectation: who wrote this word?
        counts = np.bincount(kind, share)  # (kinds,)
        t = counts / np.bincount(owner, counts)[owner]  # maximisation
    table: dict[str, dict[str, float]] = {}
    source_words, target_words = list(sources), list(targets)
    for place in np.flatnonzero(t >= 0.002):
        word = target_words[int(kinds[place] % len(targets))]
        table.setdefault(source_words[int(owner[place])], {})[word] = float(t[place])
    return table


def round_trip(
    text: str,
    there: Mapping[str, Mapping[str, float]],
    back: Mapping[str, Mapping[str, float]],
    rng: np.random.Generator,
    share: float = 0.3,
) -> str:
    """Return a text with a share of its words translated word by word and back again, drawn from two tables.

    Back-translation (Sennrich et al. 2016, arXiv:1511.06709; for augmentation Edunov et al. 2018, arXiv:1808.09381) in
    small: words, not sentences. Words that a table does not know stay.

    Raises:
        ValueError: a share out of 0 to 1.
    """
    _check_share("share", share)
    pieces = re.split(r"(\w+)", text)
    for place in range(1, len(pieces), 2):
        if rng.random() < share:
            foreign = _draw(there.get(pieces[place].lower()), rng)
            pieces[place] = _draw(back.get(foreign or ""), rng) or pieces[place]
    return "".join(pieces)


def _draw(chances: Mapping[str, float] | None, rng: np.random.Generator) -> str | None:
    if not chances:
        return None
    weights = np.array(list(chances.values()))
    return str(rng.choice(list(chances), p=weights / weights.sum()))


def mix_up(model: SequenceClassifier, batch: Any, alpha: float = 0.4) -> Tensor:
    """Return the loss of pairs of examples mixed, inputs and labels alike (Zhang et al. 2018, arXiv:1710.09412).

    Texts have no mean, so the pooled vectors are mixed (Guo et al. 2019, arXiv:1905.08941), with a weight from
    ``Beta(alpha, alpha)`` for each pair; rows with the label -100 are left out. Draws from torch's own generator as
    dropout does, which ``Settings.seed`` seeds.

    Raises:
        ValueError: ``alpha`` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: it takes a number above 0")
    mask = batch["attention_mask"]  # (batch, time)
    hidden = last_hidden_state(model.backbone, batch["input_ids"], mask, None)  # (batch, time, d_model)
    pooled = pool(hidden, mask, model.pooling)  # (batch, d_model)
    labels = batch["labels"]  # (batch,)
    pooled, labels = pooled[labels != IGNORE], labels[labels != IGNORE]  # (labelled, d_model), (labelled,)
    weight = torch.distributions.Beta(alpha, alpha).sample(labels.shape).to(pooled.device)  # (labelled,)
    partner = torch.randperm(len(labels), device=pooled.device)  # (labelled,)
    mixed = weight[:, None] * pooled + (1 - weight[:, None]) * pooled[partner]  # (labelled, d_model)
    logits = model.head(model.dropout(mixed)).float()  # (labelled, num_labels)
    own = F.cross_entropy(logits, labels, reduction="none")  # (labelled,)
    other = F.cross_entropy(logits, labels[partner], reduction="none")  # (labelled,)
    return (weight * own + (1 - weight) * other).sum() / max(len(labels), 1)


def fgm(model: nn.Module, batch: Any, epsilon: float = 1.0) -> Tensor:
    """Return the loss plus the loss at embeddings moved uphill: FGM (Miyato et al. 2017, arXiv:1605.07725).

    Each text's embeddings move by ``epsilon`` along their gradient, over its norm. Costs two passes: ``loss_of`` of
    ``training.fit``.

    Args:
        model: a head of ``llmbook.finetuning``.
        batch: with labels.
        epsilon: Euclidean norm of the move, over all of a text's tokens and features.

    Raises:
        ValueError: ``epsilon`` is not above 0.
    """
    clean, move = _uphill(model, batch, epsilon, retain_graph=True)
    return clean + _with_embeddings(model, batch, lambda embeddings: embeddings + move).loss


def attack(model: nn.Module, batch: Any, epsilon: float = 1.0) -> Tensor:
    """Return the logits ``(batch, num_labels)`` at embeddings moved uphill; the arguments are those of :func:`fgm`."""
    with torch.enable_grad():
        _, move = _uphill(model, batch, epsilon, retain_graph=False)
    with torch.no_grad():
        return _with_embeddings(model, batch, lambda embeddings: embeddings + move).logits.float()


def _uphill(model: nn.Module, batch: Any, epsilon: float, retain_graph: bool) -> tuple[Tensor, Tensor]:
    """Return the loss, and for each text the move of norm ``epsilon`` that raises it fastest."""
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon}: it takes a number above 0")
    found: list[Tensor] = []

    def remember(embeddings: Tensor) -> Tensor:
        found.append(embeddings if embeddings.requires_grad else embeddings.detach().requires_grad_())
        return found[0]

    clean = _with_embeddings(model, batch, remember).loss
    (slope,) = torch.autograd.grad(clean, found[0], retain_graph=retain_graph)  # (batch, time, d_model)
    norm = slope.flatten(1).norm(dim=1).clamp(min=1e-12)  # (batch,)
    return clean, epsilon * slope / norm[:, None, None]  # (batch, time, d_model)


def _with_embeddings(model: nn.Module, batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Run the model with its embeddings changed."""
    handle = model.get_submodule("backbone.embeddings").register_forward_hook(lambda *call: change(call[-1]))
    try:
        return model(**batch)
    finally:
        handle.remove()
