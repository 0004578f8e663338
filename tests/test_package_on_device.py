"""What takes a model or tensors works where they are: on the pretended accelerator, with the CPU's numbers."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import pretended
from llmbook import attention, flash, generation, hub, interventions, objectives, positions, tokenization, training, viz
from llmbook import finetuning as ft
from llmbook.evaluation import contamination, cost, likelihood, robustness, scoring
from llmbook.finetuning import augmentation, instructions, preferences, prompting, updating
from llmbook.metrics import checks
from llmbook.transformer import Decoder, Encoder, EncoderDecoder, TransformerConfig, greedy

VOCAB, SHAPE = 50, {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "max_length": 32}


@pytest.fixture(scope="module")
def device():
    return pretended.install()


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.load_tokenizer("gpt")


def make(kind=Decoder, place="cpu", seed=0, **changes) -> nn.Module:
    torch.manual_seed(seed)
    return kind(TransformerConfig(**({"vocab_size": VOCAB} | SHAPE | changes))).eval().to(place)


def ids_of(batch=2, time=6, seed=0) -> torch.Tensor:
    return torch.randint(5, VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))


def rows_of(count=6) -> list[dict]:
    ids = ids_of(count, 7).tolist()
    return [{"input_ids": row[: 4 + number % 3], "labels": number % 3} for number, row in enumerate(ids)]


def plain(value):
    """Bring what a function returns to the CPU, in depth."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    if isinstance(value, dict) or hasattr(value, "keys"):
        return {key: plain(value[key]) for key in value}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def same(compute, device) -> None:
    """Compute on the CPU and on the device, and compare."""
    torch.manual_seed(0)
    here = plain(compute("cpu"))
    torch.manual_seed(0)
    assert_close(plain(compute(device)), here, atol=1e-5, rtol=1e-4)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "alibi", "t5"])
def test_a_decoder_with_padding_and_cache(device, position):
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])

    def run(place):
        model, ids = make(place=place, position=position), ids_of().to(place)
        out = model(ids, attention_mask=mask.to(place), output_attentions=True, use_cache=True)
        more = model(ids[:, :1], past_key_values=model(ids, use_cache=True).past_key_values, use_cache=True)
        return [out.logits, *out.attentions, more.logits, greedy(model, ids, 3, attention_mask=mask.to(place))]

    same(run, device)


def test_encoder_and_encoder_decoder(device):
    def run(place):
        encoder = make(Encoder, place, position="learned", type_vocab_size=2)
        pair, ids = make(EncoderDecoder, place, position="t5"), ids_of().to(place)
        return [encoder(ids).logits, pair(ids, decoder_input_ids=ids[:, :3]).logits]

    same(run, device)


def test_attention_by_hand_positions_and_flash(device):
    def run(place):
        q, k, v = torch.randn(3, 2, 2, 6, 8, generator=torch.Generator().manual_seed(0)).to(place)
        mask = attention.causal_mask(6, device=q.device)
        output, weights = attention.scaled_dot_product_attention(q, k, v, mask)
        grads = attention.attention_backward(q, k, v, weights, torch.ones_like(output))
        cos, sin = positions.rotary(torch.arange(6, device=q.device), 8)
        blocks = attention.blockwise_attention(q, k, v, block_size=2)
        return [
            output, weights, *grads, positions.apply_rotary(q, cos, sin), positions.alibi_bias(2, 6, device=q.device),
            positions.sinusoidal(6, 8, device=q.device), positions.RelativePositionBias(2).to(place)(6), blocks,
        ]  # fmt: skip

    same(run, device)
    assert flash.interpreted() or not torch.cuda.is_available()


def test_interventions(device):
    def run(place):
        model, ids = make(place=place), ids_of().to(place)
        with interventions.without_heads(model.stack.blocks[0].attention, [1]):
            without = model(ids, output_attentions=True)
        point = torch.ones(4, device=place)
        slopes = interventions.integrated_gradients(lambda x: (x**3).sum(-1), point, torch.zeros_like(point))
        return [without.logits, interventions.attention_rollout(without.attentions), slopes]

    same(run, device)


def test_generation_draws_the_same_as_on_the_cpu(device):
    def run(place):
        model, ids = make(place=place), ids_of().to(place)

        def scores(tokens):
            return model(tokens).logits[:, -1]

        drawn = generation.sample(scores, ids, 5, torch.Generator().manual_seed(1), top_k=9, top_p=0.9, stop=7)
        best, score = generation.beam_search(scores, ids[:1], 4, 3, stop=7)
        return [drawn, best, torch.tensor(score)]

    same(run, device)


def test_a_model_is_saved_from_the_device_and_opened_again(device, tmp_path):
    model = make(place=device, vocab_size=60)
    hub.save(model, tmp_path / "model")
    assert_close(plain(hub.load(tmp_path / "model")(ids_of()).logits), plain(model(ids_of().to(device)).logits))
    assert next(hub.to_hf(model).parameters()).device.type in ("cpu", "pretended")


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("muon", [None, 0.02])
def test_training_and_resuming_give_the_numbers_of_the_cpu(device, muon, tmp_path):
    windows = training.Windows(np.arange(400) % VOCAB, 8, 4)
    settings = training.Settings(6, muon_learning_rate=muon, checkpoint_every=3, log_every=1, accumulate=2)

    def run(place, folder=None, stop=False):
        model = make(place=place, dropout=0.0)
        ends = (lambda line: line["step"] == 3,) if stop else ()
        log = training.fit(model, windows, settings, folder=folder, progress=False, callbacks=ends)
        return [[line["loss"] for line in log], dict(model.named_parameters())]

    same(run, device)
    run(device, tmp_path, stop=True)
    assert_close(plain(run(device, tmp_path)[1]), plain(run(device)[1]), atol=0, rtol=0)


def test_objectives_are_made_on_the_cpu_and_learned_on_the_device(device):
    special = objectives.SpecialTokens.of(tokenization.load_tokenizer("bert"))
    ids = torch.randint(special.first, special.first + 30, (4, 12), generator=torch.Generator().manual_seed(0))

    def run(place):
        draw, model = torch.Generator().manual_seed(0), make(Encoder, place, vocab_size=special.size)
        hidden = objectives.masked(ids, draw, special)
        logits = model(hidden.input_ids.to(place)).logits
        wrong = objectives.replaced(ids, hidden, logits[hidden.labels.to(place) != objectives.IGNORE], draw)
        order = objectives.permuted(ids, draw, special)
        masks = [mask.to(place) for mask in (order.content_mask, order.query_mask)]
        known = model.embeddings(ids.to(place))
        streams = objectives.two_stream(model.stack, known, torch.zeros_like(known), *masks)
        views = [
            model.encode(view.to(place)).last_hidden_state[:, 0] for view in objectives.two_views(ids, draw, special)
        ]
        loss = objectives.token_loss(logits, hidden.labels.to(place))
        return [wrong.input_ids, *streams, objectives.info_nce(*views), loss]

    same(run, device)


HEADS = {
    "one label": lambda place: ft.SequenceClassifier(make(Encoder, place), 3, class_weights=torch.tensor([1.0, 2, 3])),
    "from the last token": lambda place: ft.SequenceClassifier(make(place=place), 3, pooling="last"),
    "LoRA": lambda place: updating.add_lora(
        ft.SequenceClassifier(make(Encoder, place), 3), ["q_proj", "v_proj"], 2, 4.0, torch.Generator().manual_seed(3)
    ),
    "adapters": lambda place: updating.add_adapters(ft.SequenceClassifier(make(Encoder, place), 3), size=4),
    "a soft prompt": lambda place: prompting.LabelWords(
        prompting.SoftPrompt(make(place=place), 3), [[5], [6, 7], [8]]
    ),
    "a prefix": lambda place: prompting.LabelWords(prompting.Prefix(make(place=place), 3), [[5], [6], [8]]),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_heads_stand_where_the_model_is_and_learn_there(device, head):
    def run(place):
        torch.manual_seed(0)
        model = HEADS[head](place)
        assert {p.device.type for p in model.parameters()} == {torch.device(place).type}
        settings = training.Settings(3, learning_rate=1e-2, log_every=1)
        log = training.fit(model, ft.Examples(rows_of(), 3, 0), settings, ft.loss, progress=False)
        scores = ft.predict(model, rows_of(), 0)
        if head == "LoRA":
            updating.merge_lora(model)
            assert_close(torch.stack(ft.predict(model, rows_of(), 0)), torch.stack(scores), atol=1e-5, rtol=1e-4)
        return [[line["loss"] for line in log], scores]

    same(run, device)


def test_words_spans_and_several_tasks(device):
    words = [{**row, "labels": [1] * len(row["input_ids"])} for row in rows_of()]
    spans = [{"input_ids": row["input_ids"], "start_positions": 1, "end_positions": 2} for row in rows_of()]
    tasks = [{**row, "task": number % 2, "labels": number % 2} for number, row in enumerate(rows_of())]

    def run(place):
        found = []
        for make_head, rows in (
            (lambda net: ft.TokenClassifier(net, 2), words), (ft.SpanFinder, spans),
            (lambda net: updating.MultiTaskClassifier(net, [2, 3]), tasks),
        ):  # fmt: skip
            torch.manual_seed(0)
            model, batch = make_head(make(Encoder, place)).eval(), ft.collate(rows, 0).to(place)
            found.append(model(**batch).loss)
        vectors = [
            updating.gradients(loss, updating.shared_parameters(model)) for loss in updating.task_losses(model, batch)
        ]
        found += updating.without_conflict(vectors)
        model = ft.SequenceClassifier(make(Encoder, place), 3, dropout=0.0)
        batch = ft.collate(rows_of(), 0).to(place)
        memory = updating.training_memory(model, batch, ft.loss)
        return [*found, augmentation.fgm(model, batch), memory]

    same(run, device)


def test_answers_rewards_and_preferences(device, tokenizer):
    examples = [
        instructions.Instruction("type", "What is x?", "x : int", "int"),
        instructions.Instruction("type", "?", "y", "y"),
    ]

    def run(place):
        model = make(place=place, vocab_size=len(tokenizer), max_length=64)
        rows = [instructions.instruction_row(tokenizer, example) for example in examples]
        batch = ft.collate(rows, 0).to(place)
        prompts = [instructions.prompt_row(tokenizer, example)["input_ids"] for example in examples]
        drawn = preferences.draw(model, tokenizer, prompts, 2, 4, torch.Generator().manual_seed(0))
        judge = preferences.RewardModel(model)
        both = ft.collate(preferences.pair_rows(rows, rows[::-1]), 0).to(place)
        chosen = preferences.sequence_log_probs(model, batch)
        loss = preferences.dpo_loss(chosen, chosen.flip(0), chosen.detach(), chosen.detach().flip(0))
        packed = ft.collate(instructions.pack(rows, 80), 0).to(place)
        return [
            chosen, [row["input_ids"] for row in drawn.rows], preferences.reward_loss(judge, both), loss.loss,
            instructions.labelled_loss(model, packed),
            [len(text) for text in instructions.answer(model, tokenizer, examples, 4)],
        ]  # fmt: skip

    same(run, device)


# --- judging and showing ----------------------------------------------------------------------------------------------


def test_likelihoods_of_texts_and_answers(device, tokenizer):
    texts = ["The mean of the array.", "Return a new list with the items."]
    convention = dataclasses.replace(likelihood.BOOK, window=16, overlap=4)

    def run(place):
        model = make(place=place, vocab_size=len(tokenizer))
        pairs = [([5, 6], [7]), ([5, 6], [8, 9]), ([4], [7])]
        return [
            *(torch.from_numpy(part) for part in contamination.token_statistics(model, [[5, 6, 7]])[0]),
            likelihood.score_texts(model, tokenizer, texts, convention).bits_per_byte,
            torch.from_numpy(scoring.log_likelihoods(model, pairs)),
            prompting.answer_log_likelihoods(model, [[5, 6], [7]], [[8], [9, 10]], context=[3]),
        ]

    same(run, device)


def test_attacks_and_costs(device):
    def run(place):
        torch.manual_seed(0)
        model = ft.SequenceClassifier(make(Encoder, place), 3).eval()
        allowed = torch.arange(VOCAB) > 9
        found = robustness.universal_trigger(model, rows_of(), 0, 2, candidates=3, allowed=allowed)
        close = robustness.hotflip(torch.ones(2, 16, device=place), model.backbone.embeddings.weight, 2, allowed)
        decoder = make(place=place)
        cost.time_generation(decoder, ids_of(), 2, 1)
        return [found.ids, found.losses, close, cost.weight_bytes(decoder)]

    same(run, device)


def test_metrics_and_views_take_tensors_of_the_device(device):
    assert checks.numbers("values", torch.tensor([1.0, 2], device=device)).tolist() == [1, 2]
    weights = torch.full((1, 1, 2, 3, 3), 1 / 3, device=device)
    assert viz.attention_map(weights[0, 0, 0], ["a", "b", "c"]) is not None
    shown = viz.read_attention(make(Encoder, device), ids_of(1).to(device))
    assert shown[0].weights.shape[-1] == 6
