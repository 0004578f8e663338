import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmbook import finetuning as ft
from llmbook import training
from llmbook.finetuning import augmentation, updating
from llmbook.transformer import Decoder, Encoder, TransformerConfig

SHAPE = {"d_model": 16, "num_layers": 3, "num_heads": 2, "max_length": 16}
LABELS = 4


def make_model(seed: int = 0, dropout: float = 0.0) -> ft.SequenceClassifier:
    torch.manual_seed(seed)
    return ft.SequenceClassifier(Encoder(TransformerConfig.bert(50, **SHAPE)), LABELS, dropout=dropout)


def make_rows(count: int = 12, seed: int = 0, **more) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {"input_ids": rng.integers(5, 50, rng.integers(3, 9)).tolist(), "labels": int(rng.integers(LABELS)), **more}
        for _ in range(count)
    ]


def make_batch(count: int = 12, seed: int = 0) -> ft.Batch:
    return ft.collate(make_rows(count, seed), pad=1)


def fit(model: nn.Module, steps: int = 4, loss_of=ft.loss, rows=None, **how) -> list[dict[str, float]]:
    recipe = training.Settings(steps, learning_rate=1e-2, log_every=1)
    return training.fit(model, ft.Examples(rows or make_rows(), 6, pad=1), recipe, loss_of, progress=False, **how)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def randomise_lora(model: nn.Module) -> None:
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lora_B"):
                p.normal_(std=0.1)


# --- which parameters train ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["full", "head", "feed-forward", "attention", "bias"])
def test_training_changes_what_was_chosen_and_nothing_else(choice):
    model = make_model()
    updating.train_only(model, *updating.CHOICES[choice])
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    before = weights(model)
    fit(model)
    unused = {name for name in wanted if "k_proj.bias" in name}  # shifts all scores of a query alike
    assert wanted - unused <= changed(before, model) <= wanted
    assert "head.weight" in wanted and not any("lm_head" in name or "transform" in name for name in wanted)


def test_the_number_of_parameters_that_train_is_returned():
    model = make_model()
    assert updating.train_only(model, *updating.CHOICES["head"]) == 16 * LABELS + LABELS
    full = updating.train_only(model, *updating.CHOICES["full"])
    assert full == sum(p.numel() for n, p in model.named_parameters() if "transform" not in n and "lm_head" not in n)


def test_a_pattern_that_fits_nothing_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"'query'.*look like .*backbone"):
        updating.train_only(model, "query")
    with pytest.raises(ValueError, match="no parameter's name"):
        updating.train_only(model)


# --- layer by layer --------------------------------------------------------------------------------------------------


def test_layers_are_counted_from_the_embeddings_to_the_head():
    names = {n: updating.depth(n, 3) for n, _ in make_model().named_parameters()}
    assert names["head.weight"] == 4
    assert names["backbone.embeddings.weight"] == names["backbone.stack.positions.weight"] == 0
    assert [names[f"backbone.stack.blocks.{i}.feed_forward.up_proj.weight"] for i in range(3)] == [1, 2, 3]
    decoder = ft.SequenceClassifier(Decoder(TransformerConfig(50, **SHAPE)), LABELS)
    assert {updating.depth(n, 3) for n, _ in decoder.named_parameters()} == {0, 1, 2, 3, 4}


def test_learning_rates_fall_by_the_decay_from_the_head_down():
    model = make_model()
    updating.train_only(model, *updating.CHOICES["full"])
    (optimizer,) = updating.layerwise_optimizers(model, 0.1, decay=0.5, weight_decay=0.3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert rates[id(p)] == pytest.approx(0.1 * 0.5 ** (4 - updating.depth(name, 3)))
    assert {g["weight_decay"] for g in optimizer.param_groups for p in g["params"] if p.ndim < 2} == {0.0}


def test_without_decay_the_optimiser_does_what_the_usual_one_does():
    models = [make_model() for _ in range(2)]
    for model in models:
        updating.train_only(model, *updating.CHOICES["full"])
    fit(models[0], optimizers=updating.layerwise_optimizers(models[0], 1e-2, decay=1.0))
    fit(models[1], optimizers=training.make_optimizers(models[1], 1e-2))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(("rate", "decay"), [(0.1, 0.0), (0.1, 1.5), (0.0, 0.5)])
def test_rates_that_are_none_are_refused(rate, decay):
    with pytest.raises(ValueError, match="decay"):
        updating.layerwise_optimizers(make_model(), rate, decay)


def test_a_model_without_layers_or_without_anything_to_train_is_refused():
    with pytest.raises(ValueError, match="no backbone"):
        updating.layerwise_optimizers(nn.Linear(2, 2), 0.1, 0.5)
    with pytest.raises(ValueError, match="no parameter"):
        updating.layerwise_optimizers(make_model().requires_grad_(False), 0.1, 0.5)
    with pytest.raises(ValueError, match="every=0"):
        updating.Unfreezing(make_model(), 0)


def test_layers_thaw_one_by_one_from_the_head_down():
    model = make_model()
    updating.train_only(model, *updating.CHOICES["full"])
    optimizers = training.make_optimizers(model, 1e-2)
    callback = updating.Unfreezing(model, every=2)
    seen = []

    def watch(line):
        before, seen_now = seen[-1][1] if seen else start, changed(seen[-1][1] if seen else start, model)
        assert before.keys() == weights(model).keys()
        seen.append(({updating.depth(n, 3) for n in seen_now}, weights(model)))

    start = weights(model)
    fit(model, steps=9, optimizers=optimizers, callbacks=[watch, callback])
    assert [min(layers) for layers, _ in seen] == [4, 4, 3, 3, 2, 2, 1, 1, 0]


def test_what_was_frozen_before_stays_frozen_when_layers_thaw():
    model = make_model()
    updating.train_only(model, *updating.CHOICES["bias"])
    callback = updating.Unfreezing(model, every=1)
    callback({"step": 10})
    used = {n for n, _ in model.named_parameters() if "transform" not in n and "lm_head" not in n}
    wanted = {n for n in used if n.endswith("bias")} | {"head.weight"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == wanted


# --- adapters and LoRA -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add", [lambda m: updating.add_lora(m, ["q_proj", "v_proj"], 2, 4.0),
                                 lambda m: updating.add_adapters(m, 4)])  # fmt: skip
def test_what_is_added_changes_nothing_at_first_and_all_of_it_trains(add):
    plain, model = make_model(), make_model()
    add(model)
    batch = make_batch()
    assert_close(model(**batch).logits, plain(**batch).logits)
    before = weights(model)
    wanted = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("lora_B" in n or "adapter.up" in n for n in wanted) and "head.weight" in wanted
    fit(model, steps=3)
    assert changed(before, model) == wanted


@given(rank=st.integers(1, 16), alpha=st.floats(0.5, 64), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_merged_weights_give_the_same_logits(rank, alpha, seed):
    model = make_model(seed).eval()
    updating.add_lora(model, ["q_proj", "k_proj", "up_proj", "down_proj"], rank, alpha)
    randomise_lora(model)
    batch = make_batch(seed=seed)
    with torch.no_grad():
        before = model(**batch).logits
        updating.merge_lora(model)
        assert_close(model(**batch).logits, before, atol=1e-4, rtol=1e-4)
    assert set(dict(model.named_parameters())) == set(dict(make_model().named_parameters()))


def test_lora_starts_from_its_generator():
    made = [updating.add_lora(make_model(), ["q_proj"], 2, 4, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    first = [dict(m.named_parameters())["backbone.stack.blocks.0.attention.q_proj.lora_A"] for m in made]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_lora_equals_peft_in_logits_gradients_and_merged_weights():
    peft = pytest.importorskip("peft")
    targets = ["q_proj", "v_proj", "down_proj"]
    ours = updating.add_lora(make_model(), targets, rank=3, alpha=5)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, lora_dropout=0.0, modules_to_save=["head"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(make_model(), config)
    randomise_lora(ours)
    mapping = {}
    for name, _ in theirs.named_parameters():
        ends = {".lora_A.default.weight": ".lora_A", ".lora_B.default.weight": ".lora_B"}
        if end := next((end for end in ends if name.endswith(end)), None):
            mapping[name] = name.removeprefix("base_model.model.").removesuffix(end) + ends[end]
    own = dict(ours.named_parameters())
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name in mapping:
                p.copy_(own[mapping[name]])
    assert len(mapping) == 2 * 3 * 3
    batch = make_batch()
    out, expected = ours(**batch), theirs(**batch)
    assert_close(out.logits, expected.logits)
    out.loss.backward()
    expected.loss.backward()
    grads = dict(theirs.named_parameters())
    for name, mine in mapping.items():
        assert_close(own[mine].grad, grads[name].grad)
    merged = theirs.merge_and_unload()
    updating.merge_lora(ours)
    assert_close(ours(**batch).logits, merged(**batch).logits)


def test_lora_trains_as_peft_counts():
    peft = pytest.importorskip("peft")
    ours = updating.add_lora(make_model(), ["q_proj"], 4, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(make_model(), peft.LoraConfig(r=4, target_modules=["q_proj"]))
    head = 16 * LABELS + LABELS
    assert updating.trainable(ours) - head == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["query"], r"'query' matches no linear layer: their names end in .*q_proj"),
        (["q_proj", "proj"], "'proj' matches no linear layer"),
        ([], "at least one"),
        (["q_proj", "q_proj"], "another one matches"),
        ("q_proj", r"it takes a list of names, \['q_proj'\]"),
    ],
)
def test_a_lora_target_that_matches_nothing_is_refused_and_leaves_the_model_alone(targets, message):
    model = make_model()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        updating.add_lora(model, targets, 2, 4)
    assert not changed(before, model) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1), (17, 1), (2, 0)])
def test_a_rank_that_is_none_is_refused(rank, alpha):
    with pytest.raises(ValueError, match="the rank takes 1 to 16"):
        updating.add_lora(make_model(), ["q_proj"], rank, alpha)


def test_lora_on_lora_an_adapter_of_no_size_and_nothing_to_merge_are_refused():
    model = updating.add_lora(make_model(), ["q_proj"], 2, 4)
    with pytest.raises(ValueError, match="wrapped already"):
        updating.add_lora(model, ["q_proj"], 2, 4)
    with pytest.raises(ValueError, match="wrapped already"):
        updating.add_adapters(updating.add_adapters(make_model(), 2), 2)
    with pytest.raises(ValueError, match="size=0"):
        updating.add_adapters(make_model(), 0)
    with pytest.raises(ValueError, match="no LoRA"):
        updating.merge_lora(make_model())


def test_a_bare_encoder_gets_lora_without_a_head():
    encoder = updating.add_lora(Encoder(TransformerConfig.bert(50, **SHAPE)), ["q_proj"], 2, 4)
    assert {n.rpartition(".")[2] for n, p in encoder.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


# --- several tasks ---------------------------------------------------------------------------------------------------


def make_tasks(dropout: float = 0.0) -> updating.MultiTaskClassifier:
    torch.manual_seed(0)
    return updating.MultiTaskClassifier(Encoder(TransformerConfig.bert(50, **SHAPE)), [LABELS, 6], dropout)


def task_rows() -> list[dict]:
    return make_rows(8, task=0) + make_rows(8, seed=1, task=1)


def test_each_row_gets_the_logits_of_its_own_task():
    model, batch = make_tasks().eval(), ft.collate(task_rows(), 1)
    logits = model(**batch).logits
    assert logits.shape == (16, 6)
    assert torch.isinf(logits[:8, 4:]).all() and torch.isfinite(logits[8:]).all()
    for number in (0, 1):
        single = ft.SequenceClassifier(model.backbone, model.num_labels[number], dropout=0.0)
        single.head = model.heads[number]
        rows = [{k: v for k, v in row.items() if k != "task"} for row in task_rows() if row["task"] == number]
        expected = single(**ft.collate(rows, 1))
        assert_close(logits[8 * number : 8 * number + 8, : model.num_labels[number]], expected.logits)
        assert_close(updating.task_losses(model, batch)[number], expected.loss)
    assert_close(model(**batch).loss, torch.stack(updating.task_losses(model, batch)).mean())
    assert len(ft.predict(model, task_rows(), 1)) == 16


def test_tasks_and_labels_out_of_range_are_refused():
    model = make_tasks()
    with pytest.raises(ValueError, match="tasks run from 0 to 2, the model has heads for 0 to 1"):
        model(**ft.collate([*task_rows(), *make_rows(1, task=2)], 1))
    rows = task_rows()
    rows[0]["labels"] = 5  # task 0 has four labels, task 1 six
    with pytest.raises(ValueError, match="num_labels=6"):
        model(**ft.collate(rows, 1))
    with pytest.raises(ValueError, match="empty"):
        updating.MultiTaskClassifier(Encoder(TransformerConfig.bert(50, **SHAPE)), [])


@given(seed=st.integers(0, 999), tasks=st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_surgery_takes_conflict_out_of_two_gradients_and_leaves_friends_alone(seed, tasks):
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(tasks)]
    new = updating.without_conflict(vectors)
    if tasks == 2:
        assert float(new[0] @ vectors[1]) >= -1e-9 and float(new[1] @ vectors[0]) >= -1e-9
    for number, vector in enumerate(vectors):
        others = [other for place, other in enumerate(vectors) if place != number]
        if all(vector @ other >= 0 for other in others):
            assert_close(new[number], vector)
        assert float(new[number].norm()) <= float(vector.norm()) + 1e-9


def test_the_loss_with_surgery_has_the_losses_value_and_pcgrads_gradient():
    model, batch = make_tasks(), ft.collate(task_rows(), 1)
    shared = updating.shared_parameters(model)
    losses = updating.task_losses(model, batch)
    vectors = [updating.gradients(loss, shared) for loss in losses]
    value = updating.surgery_loss(model, batch)
    assert_close(value, torch.stack(losses).sum())
    value.backward()
    got = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in shared])
    assert_close(got, sum(updating.without_conflict(vectors)))
    plain = copy.deepcopy(model)
    plain.zero_grad()
    torch.stack(updating.task_losses(plain, batch)).sum().backward()
    for ours, theirs in zip(model.heads.parameters(), plain.heads.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad)


def test_training_with_surgery_goes_through_fit():
    log = fit(make_tasks(), steps=30, loss_of=updating.surgery_loss, rows=task_rows())
    assert log[-1]["loss"] < log[0]["loss"]


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_counts_what_trains_and_what_autograd_keeps():
    model, batch = make_model(), make_batch()
    size = sum(p.numel() for p in model.parameters())
    found = {}
    for choice in ("full", "head", "bias"):
        number = updating.train_only(model, *updating.CHOICES[choice])
        found[choice] = updating.training_memory(model, batch, ft.loss)
        assert found[choice]["parameters"] == 4 * size
        assert found[choice]["gradients"] == 4 * number and found[choice]["optimizer"] == 8 * number
    assert found["head"]["activations"] < found["bias"]["activations"] < found["full"]["activations"]


def test_a_linear_layer_keeps_its_input_and_no_weights():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x):
            return self.layer(x).sum()

    found = updating.training_memory(Model(), torch.zeros(3, 8), lambda model, x: model(x))
    assert found["activations"] == 3 * 8 * 4


# --- augmentation ----------------------------------------------------------------------------------------------------

TEXT = "Return the sum\n  of all elements, over the given axis."


@given(text=st.text(), share=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_changed_words_are_words_of_the_text(text, share, seed):
    new = augmentation.change_words(text, np.random.default_rng(seed), share)
    assert set(new.split()) <= set(text.split())
    assert bool(new.split()) == bool(text.split())


def test_words_change_by_the_share_and_not_at_all_without_one():
    rng = np.random.default_rng(0)
    assert augmentation.change_words(TEXT, rng, 0.0) == TEXT
    made = {augmentation.change_words(TEXT, rng, 0.2) for _ in range(60)}
    assert {len(text.split()) for text in made} == {8, 10, 12}  # taken out, swapped, inserted
    assert all("\n  " in text or len(text.split()) < 10 for text in made)
    assert augmentation.change_words("word", rng, 1.0) == "word"


def test_model_one_finds_who_wrote_which_word():
    pairs = [("the house", "das Haus"), ("the book", "das Buch"), ("a book", "ein Buch")]
    table = augmentation.translation_table([(a.split(), b.split()) for a, b in pairs], rounds=30)
    assert max(table["house"], key=table["house"].get) == "Haus"
    assert max(table["the"], key=table["the"].get) == "das"
    assert max(table["a"], key=table["a"].get) == "ein"
    for row in table.values():
        assert sum(row.values()) == pytest.approx(1, abs=0.02)


def test_model_one_equals_nltks():
    from nltk.translate import AlignedSent, IBMModel1

    pairs = [("the house", "das Haus"), ("the book", "das Buch"), ("a book", "ein Buch"), ("book the", "Buch")]
    pairs = [(a.split(), b.split()) for a, b in pairs]
    ours = augmentation.translation_table(pairs, rounds=8)
    theirs = IBMModel1([AlignedSent(b, [*a]) for a, b in pairs], 8)
    # nltk adds an empty word to each source, as the paper does: ours with it gives the same
    ours = augmentation.translation_table([([*a, "(empty)"], b) for a, b in pairs], rounds=8)
    for source, row in ours.items():
        for target, chance in row.items():
            key = None if source == "(empty)" else source
            assert theirs.translation_table[target][key] == pytest.approx(chance, abs=1e-6)


def test_a_round_trip_changes_known_words_only():
    there, back = {"sum": {"fr:somme": 1.0}}, {"fr:somme": {"total": 1.0}}
    rng = np.random.default_rng(0)
    assert augmentation.round_trip(TEXT, there, back, rng, 1.0) == TEXT.replace("sum", "total")
    assert augmentation.round_trip(TEXT, there, {}, rng, 1.0) == TEXT
    assert augmentation.round_trip(TEXT, there, back, rng, 0.0) == TEXT


def test_shares_strengths_and_tables_that_are_none_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"share=1\.5"):
        augmentation.change_words(TEXT, rng, 1.5)
    with pytest.raises(ValueError, match="share=-1"):
        augmentation.round_trip(TEXT, {}, {}, rng, -1)
    with pytest.raises(ValueError, match="no pair"):
        augmentation.translation_table([([], ["a"])])
    for broken in (lambda: augmentation.mix_up(make_model(), make_batch(), 0),
                   lambda: augmentation.fgm(make_model(), make_batch(), 0)):  # fmt: skip
        with pytest.raises(ValueError, match=r"(alpha|epsilon)=0"):
            broken()


def test_mix_up_of_an_example_with_itself_is_the_usual_loss():
    model, batch = make_model(), make_batch(1)
    assert_close(augmentation.mix_up(model, batch), model(**batch).loss)
    torch.manual_seed(3)
    first = augmentation.mix_up(model, make_batch())
    torch.manual_seed(3)
    assert torch.equal(first, augmentation.mix_up(model, make_batch()))


def test_fgm_moves_each_text_by_epsilon_along_its_gradient():
    model, batch, epsilon = make_model(), make_batch(), 0.5
    _, move = augmentation._uphill(model, batch, epsilon, retain_graph=False)
    assert_close(move.flatten(1).norm(dim=1), torch.full((12,), epsilon))
    assert_close(move[batch["attention_mask"] == 0], torch.zeros(int((batch["attention_mask"] == 0).sum()), 16))
    # the same by hand, on the embeddings' output
    inputs = model.backbone.embeddings(batch["input_ids"]).detach().requires_grad_()
    handle = model.backbone.embeddings.register_forward_hook(lambda *call: inputs)
    loss = model(**batch).loss
    handle.remove()
    (slope,) = torch.autograd.grad(loss, inputs)
    assert_close(move, epsilon * slope / slope.flatten(1).norm(dim=1)[:, None, None])
    total = augmentation.fgm(model, batch, epsilon)
    assert total.item() > 2 * loss.item()
    assert not model.backbone.embeddings._forward_hooks


@pytest.mark.parametrize("loss_of", [augmentation.mix_up, augmentation.fgm])
def test_losses_of_harder_examples_go_through_fit(loss_of):
    log = fit(make_model(), steps=40, loss_of=loss_of)
    assert log[-1]["loss"] < log[0]["loss"]


def test_fgm_works_where_the_embeddings_are_frozen():
    model = updating.add_lora(make_model(), ["q_proj"], 2, 4)
    augmentation.fgm(model, make_batch()).backward()
    assert augmentation.attack(model, make_batch()).shape == (12, LABELS)
    assert model.backbone.embeddings.weight.grad is None
