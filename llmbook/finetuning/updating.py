"""What to update when a pretrained model learns a task: all, a part, or a little beside it (chapter 13).

All of it goes through ``training.fit`` as it is: which parameters require a gradient says what trains, ``optimizers=``
says how fast, a callback says from when on, and ``loss_of`` may compute its gradient in its own way.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from llmbook.finetuning.heads import check_label_range, last_hidden_state, linear_head, pool
from llmbook.objectives import averaged_over, mean_cross_entropy
from llmbook.transformer import Decoder, Encoder, unwrapped, unwrapped_name

_USED = r"^(?!.*\b(?:transform|transform_norm|lm_head)\b)"  # a task does not use the output layer of the pretraining
_HEAD = r"^heads?\."  # it is new and always trains
#: Patterns for :func:`train_only`, by the name of what trains beside the head.
CHOICES: dict[str, tuple[str, ...]] = {
    "full": (_USED,),
    "head": (_HEAD,),
    "feed-forward": (_HEAD, r"feed_forward\.\w+_proj\."),
    "attention": (_HEAD, r"attention\.\w+_proj\."),
    "bias": (_HEAD, rf"{_USED}.*\.bias$"),  # BitFit: Ben Zaken et al. 2022, arXiv:2106.10199
    "adapters": (_HEAD, r"\.adapter\.", rf"{_USED}.*_norm\."),  # Houlsby et al. 2019 train the norms as well
    "lora": (_HEAD, r"\.lora_[AB]$"),
}


def train_only(model: nn.Module, *patterns: str) -> int:
    """Let only those parameters train whose name a pattern is found in (``re.search``); return how many numbers.

    Names are those of ``model.named_parameters()``: ``head.weight``, ``backbone.stack.blocks.0.attention.q_proj.bias``.

    Raises:
        ValueError: no pattern, or one that no name fits.
    """
    named = _named_parameters(model)
    for pattern in patterns or ("(none)",):
        if not patterns or not any(re.search(pattern, name) for name, _ in named):
            names = _some(name for name, _ in named)
            raise ValueError(f"pattern {pattern!r} is found in no parameter's name; they look like {names}")
    for name, parameter in named:
        parameter.requires_grad_(any(re.search(pattern, name) for pattern in patterns))
    return trainable(model)


def _named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters under the names that they have in a model that is not compiled."""
    return [(unwrapped_name(name), parameter) for name, parameter in unwrapped(model).named_parameters()]


def trainable(model: nn.Module) -> int:
    """Return how many numbers train."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _some(names: Iterable[str], count: int = 4) -> str:
    """Return a few names that differ in more than the layer's number."""
    kinds = {re.sub(r"\.\d+\.", ".0.", name): None for name in names}
    shown = list(kinds)
    return ", ".join(shown[:: max(1, len(shown) // count)][:count]) or "(there are none)"


# --- layer by layer --------------------------------------------------------------------------------------------------


def depth(name: str, num_layers: int) -> int:
    """Return the layer of a parameter of a task's model: 0 for embeddings, 1 to ``num_layers``, then the head.

    Args:
        name: as in ``model.named_parameters()``.
        num_layers: blocks of the backbone.
    """
    if re.match(_HEAD, name):
        return num_layers + 1
    if found := re.search(r"\bblocks\.(\d+)\.", name):
        return int(found[1]) + 1
    return num_layers if "final_norm" in name else 0


def _num_layers(model: nn.Module) -> int:
    model = unwrapped(model)
    backbone = unwrapped(getattr(model, "backbone", model))
    if backbone is model or not isinstance(backbone, Encoder | Decoder):
        raise ValueError(f"{type(model).__name__} has no backbone with layers: pass a head of llmbook.finetuning")
    return backbone.config.num_layers


def layerwise_optimizers(
    model: nn.Module, learning_rate: float, decay: float, weight_decay: float = 0.1
) -> list[torch.optim.Optimizer]:
    """Return AdamW for ``training.fit(optimizers=...)`` whose learning rate falls from the head down.

    The head gets ``learning_rate``, each layer below ``decay`` times that of the one above, the embeddings the smallest
    (discriminative fine-tuning: Howard and Ruder 2018, arXiv:1801.06146). Norms and biases get no weight decay.

    Args:
        model: a head of ``llmbook.finetuning``; its parameters that require a gradient are shared out.
        learning_rate: of the head.
        decay: above 0, up to 1, which is the same rate everywhere.
        weight_decay: of matrices and embeddings.

    Raises:
        ValueError: a decay or a rate that is none, nothing to train, or a model without layers.
    """
    if not 0 < decay <= 1 or not learning_rate > 0:
        raise ValueError(f"decay={decay}, learning_rate={learning_rate}: above 0, and the decay at most 1")
    layers = _num_layers(model)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in _named_parameters(model):
        if parameter.requires_grad:
            groups.setdefault((depth(name, layers), parameter.ndim >= 2), []).append(parameter)
    if not groups:
        raise ValueError("the model has no parameter that requires a gradient")
    settings = []
    for (layer, matrix), parameters in sorted(groups.items()):
        rate = learning_rate * decay ** (layers + 1 - layer)
        settings.append({"params": parameters, "lr": rate, "weight_decay": weight_decay if matrix else 0.0})
    return [torch.optim.AdamW(settings, lr=learning_rate, betas=(0.9, 0.95), fused=True)]


class Unfreezing:
    """A callback for ``training.fit`` that lets one more layer train at a time, from the head down.

    Gradual unfreezing (Howard and Ruder 2018, arXiv:1801.06146). Make the optimisers before this, of all parameters
    that shall train in the end: a frozen one has no gradient, and AdamW leaves it alone. Give ``Settings`` a
    ``log_every`` that divides ``every``. A training that is resumed from a checkpoint starts with the head alone
    again until the callback is called the first time.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        """Freeze all but the head; ``every`` is the number of steps after which the next layer joins.

        Raises:
            ValueError: ``every`` below 1, or a model without layers.
        """
        if every < 1:
            raise ValueError(f"every={every}: it takes a number of steps from 1 up")
        self.every, self.layers = every, _num_layers(model)
        self.chosen = [(depth(n, self.layers), p) for n, p in _named_parameters(model) if p.requires_grad]
        self.lowest = self.layers + 1
        self({"step": 0})

    def __call__(self, line: dict[str, float]) -> None:
        """Set what trains from the step of a line of the log on."""
        self.lowest = max(0, self.layers + 1 - int(line["step"]) // self.every)
        for layer, parameter in self.chosen:
            parameter.requires_grad_(layer >= self.lowest)


# --- a little beside it: adapters and LoRA ----------------------------------------------------------------------------


def _targets(model: nn.Module, targets: Sequence[str]) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Return parent, name in it, and layer for each linear layer whose name ends in a target, as peft finds them."""
    if isinstance(targets, str):
        raise ValueError(f"targets={targets!r}: it takes a list of names, [{targets!r}]")
    model = unwrapped(model)
    # a layer that is wrapped already goes by its old name, so as to be found and refused; one that stands in several
    # places is found in each
    every = model.named_modules(remove_duplicate=False)
    linear = {
        unwrapped_name(name).removesuffix(".base"): module for name, module in every if isinstance(module, nn.Linear)
    }
    found = []
    for target in targets:
        names = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not names:
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(f"target {target!r} matches no linear layer: their names end in {', '.join(ends)}")
        found += names
    if not found or len(set(found)) != len(found):
        raise ValueError(f"targets={list(targets)}: give at least one, and none whose layers another one matches")
    wrapped = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear | AdaptedLinear)}
    if again := next((name for name in found if id(linear[name]) in wrapped), None):
        raise ValueError(f"{again} is wrapped already: merge_lora first, or start from the pretrained model")
    return [(*_place(model, name), linear[name]) for name in found]


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds the one of a name, and its name there."""
    parent, _, last = name.rpartition(".")
    return unwrapped(model.get_submodule(parent)), last


def _replace(places: Sequence[tuple[nn.Module, str, Any]], make: Callable[[Any], nn.Module]) -> None:
    """Put what is made of each module into its place; one that stands in several is made once."""
    made: dict[int, nn.Module] = {}
    for parent, name, module in places:
        if id(module) not in made:
            made[id(module)] = make(module)
        setattr(parent, name, made[id(module)])


class Adapter(nn.Module):
    """A bottleneck with a residual connection: ``x + up(gelu(down(x)))`` (Houlsby et al. 2019, arXiv:1902.00751)."""

    def __init__(self, features: int, size: int, generator: torch.Generator | None = None) -> None:
        """Make the two layers; ``up`` begins at 0, so that the adapter begins as the identity."""
        super().__init__()
        self.down, self.up = nn.Linear(features, size), nn.Linear(size, features)
        nn.init.normal_(self.down.weight, std=0.02, generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden: Tensor) -> Tensor:
        """Change ``(..., features)``."""
        inner = F.gelu(self.down(hidden))  # (..., size)
        return hidden + self.up(inner)  # (..., features)


class _NotTheWhole(Tensor):
    """Weights that answer for their properties and refuse to be computed with."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":
            raise RuntimeError(
                "these weights have an adapter behind them, which a computation with the weights alone leaves out: "
                "call the layer, or use LoRA, which is a change of the weights"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class AdaptedLinear(nn.Module):
    """A linear layer with an adapter behind it.

    It has the names of a linear layer. Its ``weight`` may be asked for type and device and not computed with, which
    would leave out the adapter: torch's own layers then call this one in place of their fast path.
    """

    def __init__(self, base: nn.Linear, adapter: Adapter) -> None:
        """Keep both."""
        super().__init__()
        self.base, self.adapter = base, adapter
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def weight(self) -> Tensor:
        """The layer's weights, to be looked at."""
        return self.base.weight.detach().as_subclass(_NotTheWhole)

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias, to be looked at."""
        return None if self.base.bias is None else self.base.bias.detach().as_subclass(_NotTheWhole)

    def forward(self, features: Tensor) -> Tensor:
        """Transform ``(..., in_features)`` to ``(..., out_features)``."""
        return self.adapter(self.base(features))


def add_adapters(
    model: nn.Module,
    size: int,
    targets: Sequence[str] = ("o_proj", "down_proj"),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Put an adapter behind layers, in place, and freeze all but adapters, norms and the head; return the model.

    Args:
        model: a head of ``llmbook.finetuning``.
        size: width of the bottleneck.
        targets: endings of the layers' names; by default those that end the sublayers of a block.
        generator: of the first weights; torch's own by default.

    Raises:
        ValueError: a size below 1, a target that matches no linear layer, a layer that has one already, or one that is
            never called (of ``nn.MultiheadAttention``).
    """
    if size < 1:
        raise ValueError(f"size={size}: it takes a whole number from 1 up")
    places = _targets(model, targets)
    if read := next((name for parent, name, _ in places if isinstance(parent, nn.MultiheadAttention)), None):
        raise ValueError(
            f"{read} of nn.MultiheadAttention is never called, its weights are read: an adapter behind it would be "
            "left out; choose another layer, such as linear2, or LoRA"
        )
    _replace(places, lambda base: AdaptedLinear(base, Adapter(base.out_features, size, generator).to(base.weight)))
    train_only(model, *_that_fit(model, CHOICES["adapters"]))
    return model


def _that_fit(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Leave out patterns that no parameter fits: a bare encoder has no head."""
    names = [name for name, _ in _named_parameters(model)]
    return [pattern for pattern in patterns if any(re.search(pattern, name) for name in names)]


class LoRALinear(nn.Module):
    r"""A linear layer and a change of rank ``r`` beside it (Hu et al. 2022, arXiv:2106.09685).

    ``y = W x + b + (alpha / r) B A x`` with ``A`` of shape ``(rank, in_features)`` and ``B`` ``(out_features, rank)``.
    It has the names of a linear layer, for code that reads the weights in place of calling it, as torch's attention.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator | None = None) -> None:
        """Freeze the layer; draw ``A`` as ``nn.Linear`` draws its weights, begin ``B`` at 0: no change at first."""
        super().__init__()
        self.base, self.rank, self.scale = base.requires_grad_(False), rank, alpha / rank
        drawn = torch.empty(rank, base.in_features, dtype=base.weight.dtype)  # (rank, in_features), on the CPU
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        self.lora_A = nn.Parameter(drawn.to(base.weight.device))  # (rank, in_features)
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))  # (out_features, rank)
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def weight(self) -> Tensor:
        """The weights with the change, ``(out_features, in_features)``, computed anew each time."""
        return self.base.weight + self.scale * self.lora_B @ self.lora_A

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias ``(out_features,)``."""
        return self.base.bias

    def forward(self, features: Tensor) -> Tensor:
        """Transform ``(..., in_features)`` to ``(..., out_features)``."""
        inner = F.linear(features, self.lora_A)  # (..., rank)
        return self.base(features) + F.linear(inner, self.lora_B) * self.scale  # (..., out_features)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a linear layer with the change added to its weights, its own where the base's are tied."""
        layer = copy.copy(self.base)
        layer._parameters = dict(self.base._parameters)  # a copy's table is the original's
        layer.weight = nn.Parameter(self.weight, requires_grad=False)  # (out_features, in_features)
        return layer


def add_lora(
    model: nn.Module, targets: Sequence[str], rank: int, alpha: float, generator: torch.Generator | None = None
) -> nn.Module:
    """Put LoRA beside layers, in place, and freeze all but it and the head; return the model.

    Args:
        model: any model with linear layers; of a head of ``llmbook.finetuning`` the ``head`` goes on training.
        targets: endings of the layers' names, as peft's ``target_modules``: ``["q_proj", "v_proj"]``.
        rank: of the change.
        alpha: the change is multiplied by ``alpha / rank``.
        generator: of the first weights; torch's own by default.

    Raises:
        ValueError: a rank below 1 or no smaller than the layer, a target that matches no linear layer, or a layer that
            has LoRA already.
    """
    places = _targets(model, targets)
    largest = min(min(base.in_features, base.out_features) for _, _, base in places)
    if not 1 <= rank <= largest or not alpha > 0:
        raise ValueError(
            f"rank={rank}, alpha={alpha}: the rank takes 1 to {largest}, the smallest layer's, alpha a number above 0"
        )
    _replace(places, lambda base: LoRALinear(base, rank, alpha, generator))
    train_only(model, *_that_fit(model, CHOICES["lora"]))
    return model


def merge_lora(model: nn.Module) -> nn.Module:
    """Add each change to its layer's weights and take LoRA out, in place; return the model, as fast as before.

    The weights stay frozen; :func:`train_only` chooses anew. A head whose weights are those of the embeddings gets its
    own, since only it has changed; the book's decoders and encoders say so in their ``config``.

    Raises:
        ValueError: there is no LoRA in it, or it is on a layer that a model of ``transformers`` ties to its embeddings.
    """
    inner = unwrapped(model)
    every = inner.named_modules(remove_duplicate=False)
    layers = [(unwrapped_name(name), module) for name, module in every if isinstance(module, LoRALinear)]
    if not layers:
        raise ValueError("the model has no LoRA to merge: call add_lora first")
    holders = Counter(id(p) for module in inner.modules() for p in module._parameters.values() if p is not None)
    tied = [name for name, module in layers if holders[id(module.base.weight)] > 1]
    if tied and getattr(getattr(inner, "config", None), "tie_word_embeddings", False):
        raise ValueError(
            f"{tied[0]} shares its weights with the embeddings, and tie_word_embeddings=True makes them one again when "
            "the model is saved and opened: leave LoRA beside it, or untie the model before add_lora"
        )
    _replace([(*_place(inner, name), module) for name, module in layers], LoRALinear.merged)
    for module in inner.modules():  # an encoder-decoder's config says how it scales as well, and stays
        if isinstance(module, Decoder | Encoder) and module.config.tie_embeddings:
            tied_still = module.lm_head.weight is module.embeddings.weight
            module.config = dataclasses.replace(module.config, tie_embeddings=tied_still)
    return model


# --- several tasks ---------------------------------------------------------------------------------------------------


class MultiTaskClassifier(nn.Module):
    """Several classifications of texts with one backbone and a head for each (Caruana 1997).

    Rows have, beside ``input_ids`` and ``labels``, the number of their ``task``; batches may mix tasks.
    """

    def __init__(self, backbone: Encoder | Decoder, num_labels: Sequence[int], dropout: float = 0.1) -> None:
        """Put new heads on a backbone, which is used as it is; ``num_labels`` has a number for each task.

        Raises:
            ValueError: no task, or one with fewer than two labels.
        """
        super().__init__()
        if not num_labels:
            raise ValueError("num_labels is empty: give the number of labels of each task")
        self.backbone, self.num_labels = backbone, tuple(num_labels)
        self.pooling = "mean" if isinstance(unwrapped(backbone), Encoder) else "last"
        self.dropout, self.heads = nn.Dropout(dropout), nn.ModuleList(linear_head(backbone, n) for n in num_labels)

    def forward(
        self,
        input_ids: Tensor,
        task: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return logits ``(batch, most labels)``, ``-inf`` where a task has fewer, and the mean cross-entropy.

        Args:
            input_ids: ``(batch, time)``.
            task: ``(batch,)``, from 0.
            attention_mask: ``(batch, time)``.
            labels: ``(batch,)``.

        Raises:
            ValueError: a task that has no head, or labels out of a task's range.
        """
        low, high = int(task.min()), int(task.max())
        if not 0 <= low <= high < len(self.heads):
            raise ValueError(f"tasks run from {low} to {high}, the model has heads for 0 to {len(self.heads) - 1}")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)  # (batch, time)
        hidden = last_hidden_state(self.backbone, input_ids, attention_mask, None)  # (batch, time, d_model)
        pooled = self.dropout(pool(hidden, attention_mask, self.pooling))  # (batch, d_model)
        every = [F.pad(head(pooled).float(), (0, max(self.num_labels) - n), value=-torch.inf)
                 for head, n in zip(self.heads, self.num_labels, strict=True)]  # fmt: skip
        logits = torch.stack(every)[task, torch.arange(len(task), device=task.device)]  # (batch, most labels)
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        for number, size in enumerate(self.num_labels):
            check_label_range(labels[task == number], size)
        return SequenceClassifierOutput(loss=mean_cross_entropy(logits, labels), logits=logits)


def task_losses(model: nn.Module, batch: Any) -> list[Tensor]:
    """Return the loss of each task that a batch has, each the mean over its labelled rows; each has its own graph."""
    losses = []
    for number in batch["task"].unique().tolist():
        chosen = batch["task"] == number  # (batch,)
        losses.append(model(**{name: batch[name][chosen] for name in list(batch.keys())}).loss)
    return losses


def shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the backbone's parameters that train: what the tasks share."""
    return [p for name, p in _named_parameters(model) if p.requires_grad and not re.match(_HEAD, name)]


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return a loss's gradient as one vector ``(numbers,)``, 0 where it does not depend on a parameter."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])


def without_conflict(vectors: Sequence[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
    """Take out of each gradient what runs against another task's (PCGrad: Yu et al. 2020, arXiv:2001.06782).

    Args:
        vectors: the tasks' gradients, ``(numbers,)`` each.
        generator: of the order in which a task meets the others; in the order given without it.

    Returns:
        The changed gradients, in the same order. Two tasks' point at most at a right angle to each other's originals.
    """
    changed = []
    for number, vector in enumerate(vectors):
        others = [other for place, other in enumerate(vectors) if place != number]
        order = range(len(others)) if generator is None else torch.randperm(len(others), generator=generator).tolist()
        for other in (others[place] for place in order):
            along = vector @ other
            if along < 0:
                vector = vector - along / (other @ other) * other
        changed.append(vector)
    return changed


@averaged_over(None)
def surgery_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the sum of the tasks' losses with PCGrad's gradient for what they share: ``loss_of`` of ``training.fit``.

    The value is the sum of the losses. Its gradient with respect to the shared parameters is the sum of
    :func:`without_conflict`'s, with respect to the heads the usual one: it is computed here, and put behind a linear
    function of the parameters that has it. It needs the tasks' rows together: ``Settings.accumulate`` has to be 1.
    """
    shared = shared_parameters(model)
    heads = [p for name, p in _named_parameters(model) if p.requires_grad and re.match(_HEAD, name)]
    number = sum(p.numel() for p in shared)
    losses = task_losses(model, batch)
    raw = [gradients(loss, [*shared, *heads]) for loss in losses]
    wanted = torch.stack(without_conflict([vector[:number] for vector in raw])).sum(0)  # (numbers,)
    wanted = torch.cat([wanted, torch.stack([vector[number:] for vector in raw]).sum(0)])
    parts = wanted.split([p.numel() for p in [*shared, *heads]])
    linear = torch.stack([(p.flatten() * g).sum() for p, g in zip([*shared, *heads], parts, strict=True)]).sum()
    return torch.stack(losses).sum().detach() + linear - linear.detach()


# --- memory ----------------------------------------------------------------------------------------------------------


def training_memory(model: nn.Module, batch: Any, loss_of: Callable[[nn.Module, Any], Tensor]) -> dict[str, int]:
    """Return the bytes that a step of AdamW needs, by what they are for.

    ``parameters``: all weights. ``gradients``: of those that train. ``optimizer``: two numbers for each of them.
    ``activations``: what autograd keeps from the forward pass for the backward pass, counted once for each storage and
    without the weights themselves, as ``torch.autograd.graph.saved_tensors_hooks`` shows it.
    """
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, batch)
    found = {
        "parameters": sum(p.numel() * p.element_size() for p in model.parameters()),
        "gradients": sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad),
        "optimizer": sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad),
        "activations": sum(kept.values()),
    }
    del loss
    return found
