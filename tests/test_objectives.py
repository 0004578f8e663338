import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from transformers.models.clip import modeling_clip

import ch09_objectives
from llmbook import objectives, tokenization
from llmbook.objectives import IGNORE, SpecialTokens
from llmbook.transformer import Stack, TransformerConfig, initialise

SPECIAL = SpecialTokens(ordinary=50, sentinels=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(rows: int = 4, time: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.randint(50, (rows, time), generator=generator(seed))


def without_mask() -> transformers.PreTrainedTokenizerFast:
    tokenizer = tokenization.train_byte_bpe(["a b"], 257)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>")


def make_stack(causal: bool = False, **changes) -> Stack:
    torch.manual_seed(0)
    config = TransformerConfig(SPECIAL.size, d_model=32, num_layers=2, num_heads=2, **changes)
    stack = Stack(config, causal)
    initialise(stack, config)
    return stack.eval()


# --- special tokens --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_the_book() -> dict[str, SpecialTokens]:
    return {family: SpecialTokens.of(tokenization.load_tokenizer(family)) for family in ("bert", "t5")}


def test_special_tokens_of_the_shipped_tokenizer_stand_before_its_text(of_the_book):
    names = tokenization.special_tokens()
    bert, t5 = of_the_book["bert"], of_the_book["t5"]
    assert [names[i] for i in (bert.cls, bert.sep, bert.mask)] == ["<s>", "</s>", "<mask>"]
    assert names[t5.cls] == "<pad>" and names[t5.sentinel(31)] == "<extra_id_31>"
    assert bert.size == bert.first + bert.ordinary == 4096 and bert.first == len(names)
    assert [bert.name(i) for i in (3, 4, 2, 5, 37)] == ["[CLS]", "[SEP]", "[MASK]", "<0>", None]
    assert bert.is_ordinary(torch.tensor([0, 36, 37, 4095])).tolist() == [False, False, True, True]


def test_masking_leaves_special_tokens_alone_wherever_they_stand(of_the_book):
    special = of_the_book["bert"]
    ids = torch.randint(4096, (64, 100), generator=generator())
    batch = objectives.masked(ids, generator(1), special, rate=1.0, parts=(0.0, 1.0, 0.0))
    taught = batch.labels != IGNORE
    assert taught.equal(special.is_ordinary(ids))
    assert special.is_ordinary(batch.input_ids[taught]).all()  # a random token is text
    assert batch.input_ids[~taught].equal(ids[~taught])


def test_spans_of_the_shipped_tokenizer_are_what_transformers_shifts(of_the_book):
    special = of_the_book["t5"]
    ids = torch.randint(37, 4096, (3, 60), generator=generator())
    batch = objectives.span_corruption(ids, generator(), special)
    shape = dict(vocab_size=4096, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    config = transformers.T5Config(**shape, pad_token_id=1, decoder_start_token_id=special.cls)
    theirs = transformers.T5ForConditionalGeneration(config)
    assert batch.decoder_input_ids.equal(theirs._shift_right(batch.labels))
    assert batch.labels[:, 0].tolist() == [5] * 3  # <extra_id_0>


def test_special_tokens_follow_the_ordinary_ones_and_have_names():
    assert (SPECIAL.cls, SPECIAL.sep, SPECIAL.mask, SPECIAL.sentinel(0), SPECIAL.size) == (50, 51, 52, 53, 61)
    assert [SPECIAL.name(i) for i in (49, 50, 51, 52, 53, 60)] == [None, "[CLS]", "[SEP]", "[MASK]", "<0>", "<7>"]
    assert objectives.single(torch.tensor([[1, 2]]), SPECIAL).tolist() == [[50, 1, 2, 51]]


# --- causal ----------------------------------------------------------------------------------------------------------


def test_causal_labels_are_the_next_tokens():
    batch = objectives.causal(torch.tensor([[5, 6, 7]]))
    assert batch.input_ids.tolist() == [[5, 6, 7]] and batch.labels.tolist() == [[6, 7, IGNORE]]


def test_causal_loss_equals_gpt2s():
    torch.manual_seed(0)
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=SPECIAL.size, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    ).eval()
    out = gpt(text(), labels=text())
    assert_close(objectives.token_loss(out.logits, objectives.causal(text()).labels), out.loss)


def test_token_loss_by_hand_and_without_labels():
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [5.0, 1.0]]])  # probabilities 1/4 3/4; 1/2 1/2; unused
    loss = objectives.token_loss(logits, torch.tensor([[1, 0, IGNORE]]))
    assert_close(loss.item(), (math.log(4 / 3) + math.log(2)) / 2)
    assert objectives.token_loss(logits, torch.full((1, 3), IGNORE)) == 0


# --- masked ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=50)
def test_masking_touches_only_chosen_ordinary_tokens(seed, rate):
    ids = objectives.single(text(seed=seed), SPECIAL)
    batch = objectives.masked(ids, generator(seed), SPECIAL, rate)
    taught = batch.labels != IGNORE
    assert batch.labels[taught].equal(ids[taught])
    assert batch.input_ids[~taught].equal(ids[~taught])
    assert not taught[ids >= SPECIAL.ordinary].any()
    assert set(batch.input_ids[taught].tolist()) <= {*range(50), SPECIAL.mask}


@pytest.mark.parametrize(("parts", "shown"), [((1, 0, 0), "mask"), ((0, 0, 1), "same"), ((0, 1, 0), "random")])
def test_each_way_of_hiding_alone(parts, shown):
    ids = text(100)
    batch = objectives.masked(ids, generator(), SPECIAL, 0.5, parts)
    taught = batch.labels != IGNORE
    if shown == "random":
        assert (batch.input_ids[taught] < 50).all() and (batch.input_ids[taught] != ids[taught]).float().mean() > 0.9
    else:
        expected = torch.full_like(ids, SPECIAL.mask) if shown == "mask" else ids
        assert batch.input_ids[taught].equal(expected[taught])


def test_masking_has_the_rates_of_hugging_faces_collator():
    from tokenizers import Tokenizer, models

    vocabulary = {f"t{i}": i for i in range(50)} | {"[MASK]": 50, "[PAD]": 51}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t0")), mask_token="[MASK]", pad_token="[PAD]"
    )
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=0)
    ids = text(600, 100)
    theirs = collator([{"input_ids": row.tolist()} for row in ids])
    ours = objectives.masked(ids, generator(), SPECIAL)

    def shares(inputs, labels, mask):
        taught = labels != IGNORE
        hidden = inputs[taught] == mask
        return torch.tensor([taught.float().mean(), hidden.float().mean(), (inputs == labels)[taught].float().mean()])

    found = shares(ours.input_ids, ours.labels, SPECIAL.mask)
    assert_close(found, shares(theirs["input_ids"], theirs["labels"], 50), atol=0.02, rtol=0)
    assert_close(found, torch.tensor([0.15, 0.8, 0.1 + 0.1 / 50]), atol=0.015, rtol=0)


def test_masked_loss_equals_berts():
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    bert = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=SPECIAL.size, **shape)).eval()
    batch = objectives.masked(text(), generator(), SPECIAL)
    out = bert(batch.input_ids, labels=batch.labels)
    assert_close(objectives.token_loss(out.logits, batch.labels), out.loss)


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_next_sentence_takes_wrong_parts_from_other_rows():
    ids = torch.arange(10)[:, None].expand(10, 6).clone()  # row i holds only i
    labels = []
    for seed in range(40):
        batch = objectives.next_sentence(ids, generator(seed), SPECIAL)
        assert batch.input_ids.shape == (10, 9)
        for row, (tokens, types, label) in enumerate(zip(*(part.tolist() for part in batch), strict=True)):
            assert tokens[:5] == [50, row, row, row, 51] and tokens[-1] == 51 and types == [0] * 5 + [1] * 4
            assert (set(tokens[5:8]) == {row}) == (label == 0) and len(set(tokens[5:8])) == 1
        labels += batch.labels.tolist()
    assert 0.42 < sum(labels) / len(labels) < 0.58


def test_sentence_order_swaps_the_two_halves():
    ids = torch.tensor([[1, 2, 3, 4, 9]])  # the odd token is left out
    seen = set()
    for seed in range(20):
        batch = objectives.sentence_order(ids, generator(seed), SPECIAL)
        label = batch.labels.item()
        assert batch.input_ids.tolist() == [[50, 3, 4, 51, 1, 2, 51] if label else [50, 1, 2, 51, 3, 4, 51]]
        seen.add(label)
    assert seen == {0, 1}


def test_masked_pairs_have_berts_pretraining_loss():
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    bert = transformers.BertForPreTraining(transformers.BertConfig(vocab_size=SPECIAL.size, **shape)).eval()
    pair = objectives.next_sentence(text(8), generator(), SPECIAL)
    batch = objectives.masked(pair.input_ids, generator(1), SPECIAL)
    out = bert(
        batch.input_ids, token_type_ids=pair.token_type_ids, labels=batch.labels, next_sentence_label=pair.labels
    )
    ours = objectives.token_loss(out.prediction_logits, batch.labels)
    assert_close(ours + F.cross_entropy(out.seq_relationship_logits, pair.labels), out.loss)


# --- permutations ----------------------------------------------------------------------------------------------------


def test_permutation_masks_by_hand():
    content, query = objectives.permutation_masks(torch.tensor([[2, 0, 1]]))  # first position 2, then 0, then 1
    assert query.int().tolist() == [[[0, 0, 1], [1, 0, 1], [0, 0, 0]]]
    assert content.int().tolist() == [[[1, 0, 1], [1, 1, 1], [0, 0, 1]]]


@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
@settings(deadline=None, max_examples=50)
def test_last_of_the_order_are_predicted_and_special_tokens_read_first(seed, share):
    ids = objectives.single(text(seed=seed), SPECIAL)
    batch = objectives.permuted(ids, generator(seed), SPECIAL, share)
    assert batch.order.sort(1).values.equal(torch.arange(22).expand(4, 22))
    assert (ids.gather(1, batch.order[:, :2]) >= SPECIAL.ordinary).all()
    count = max(1, round(share * 22))
    for row, order in enumerate(batch.order):
        last = order[-count:]
        expected = torch.full((22,), IGNORE)
        expected[last] = ids[row, last]
        assert batch.labels[row].equal(torch.where(ids[row] < 50, expected, IGNORE))
    assert batch.content_mask.equal(batch.query_mask | torch.eye(22, dtype=torch.bool))
    assert batch.query_mask.sum().item() == 4 * 22 * 21 // 2


def influence(outputs, ids: torch.Tensor) -> torch.Tensor:
    """Which inputs change which outputs: (query, key)."""
    columns = []
    for key in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, key] = (changed[0, key] + 1) % 50
        columns.append((outputs(changed) - outputs(ids))[0].abs().amax(-1) > 1e-7)
    return torch.stack(columns, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("norm_first", [True, False])
def test_streams_see_what_the_masks_allow(norm_first):
    ids, stack = text(1, 9), make_stack(norm_first=norm_first)
    table = nn.Embedding(SPECIAL.size, 32)
    start = torch.randn(1, 1, 32).expand(1, 9, 32)
    batch = objectives.permuted(ids, generator(3), SPECIAL)
    masks = batch.content_mask, batch.query_mask

    def stream(number):
        return lambda ids: objectives.two_stream(stack, table(ids), start, *masks)[number]

    assert influence(stream(0), ids).equal(batch.content_mask[0])
    assert influence(stream(1), ids).equal(batch.query_mask[0])


@torch.no_grad()
def test_query_mask_means_what_it_means_to_xlnet():
    torch.manual_seed(0)
    shape = dict(d_model=32, n_layer=2, n_head=2, d_inner=64)
    xlnet = transformers.XLNetModel(transformers.XLNetConfig(vocab_size=SPECIAL.size, **shape)).eval()
    batch = objectives.permuted(text(1, 9), generator(3), SPECIAL)
    may_not, targets = (~batch.query_mask).float(), torch.eye(9)[None]
    found = influence(lambda ids: xlnet(ids, perm_mask=may_not, target_mapping=targets)[0], batch.input_ids)
    first = batch.order[0, 0]  # may look at nothing; XLNet's finite penalty then lets it look at everything
    expected = batch.query_mask[0].index_fill(0, first, True)
    assert found.equal(expected)


@torch.no_grad()
def test_reading_from_left_to_right_is_a_causal_stack():
    stack, causal = make_stack(), make_stack(causal=True)
    hidden = torch.randn(2, 7, 32)
    masks = objectives.permutation_masks(torch.arange(7).expand(2, 7))
    content, _ = objectives.two_stream(stack, hidden, torch.zeros(2, 7, 32), *masks)
    assert_close(content, causal(hidden).last_hidden_state)


def test_two_streams_train_the_same_weights():
    stack = make_stack()
    batch = objectives.permuted(text(2, 9), generator(), SPECIAL)
    _, query = objectives.two_stream(
        stack, torch.randn(2, 9, 32), torch.randn(1, 1, 32).expand(2, 9, 32), batch.content_mask, batch.query_mask
    )
    query.square().sum().backward()
    assert all(parameter.grad is not None for parameter in stack.parameters())


# --- replaced tokens -------------------------------------------------------------------------------------------------


def test_replaced_puts_guesses_in_and_counts_right_ones_as_original():
    ids = torch.tensor([[3, 4, 5, 6]])
    hidden = objectives.TokenBatch(torch.tensor([[3, 52, 5, 52]]), torch.tensor([[IGNORE, 4, IGNORE, 6]]))
    logits = torch.full((2, SPECIAL.size), -1e9)
    logits[0, 4] = logits[1, 9] = 0.0  # the first guess is right, the second is 9
    batch = objectives.replaced(ids, hidden, logits, generator())
    assert batch.input_ids.tolist() == [[3, 4, 5, 9]] and batch.labels.tolist() == [[0, 0, 0, 1]]


def test_replaced_draws_from_the_generators_distribution():
    ids = torch.zeros(1, 20_000, dtype=torch.long)
    hidden = objectives.TokenBatch(ids + SPECIAL.mask, ids)
    logits = torch.tensor([0.2, 0.3, 0.5]).log().expand(20_000, 3)
    drawn = objectives.replaced(ids, hidden, logits, generator()).input_ids
    assert_close(drawn[0].bincount() / 20_000, torch.tensor([0.2, 0.3, 0.5]), atol=0.02, rtol=0)


def test_detection_loss_by_hand_and_equals_electras():
    by_hand = objectives.detection_loss(torch.tensor([[math.log(3), 0.0, 9.0]]), torch.tensor([[1, 0, IGNORE]]))
    assert_close(by_hand.item(), (math.log(4 / 3) + math.log(2)) / 2)
    torch.manual_seed(0)
    shape = dict(embedding_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    electra = transformers.ElectraForPreTraining(transformers.ElectraConfig(vocab_size=SPECIAL.size, **shape)).eval()
    labels = torch.randint(2, (4, 20), generator=generator())
    out = electra(text(), labels=labels)
    assert_close(objectives.detection_loss(out.logits, labels), out.loss)


# --- spans -----------------------------------------------------------------------------------------------------------


def restore(batch: objectives.SpanBatch, row: int) -> list[int]:
    """Put the spans back where their sentinels stand."""
    spans: dict[int, list[int]] = {}
    for token in batch.labels[row].tolist():
        if token >= SPECIAL.sentinel(0):
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    found = [spans.get(token, [token]) for token in batch.input_ids[row].tolist()]
    return list(itertools.chain(*found))


@given(st.integers(0, 10_000), st.integers(2, 40), st.floats(0.05, 1.0), st.floats(1, 8))
@settings(deadline=None, max_examples=100)
def test_spans_go_back_to_where_they_were(seed, time, rate, mean_length):
    special = SpecialTokens(50, sentinels=64)
    ids = text(3, time, seed)
    batch = objectives.span_corruption(ids, generator(seed), special, rate, mean_length)
    assert [restore(batch, row) for row in range(3)] == ids.tolist()
    cut = min(max(round(time * rate), 1), time - 1)
    spans = (batch.input_ids[0] >= special.ordinary).sum().item()
    assert batch.input_ids.shape == (3, time - cut + spans) and batch.labels.shape == (3, cut + spans + 1)
    assert batch.labels[:, -1].tolist() == [special.sentinel(spans)] * 3
    assert batch.decoder_input_ids[:, 0].tolist() == [special.cls] * 3
    assert batch.decoder_input_ids[:, 1:].equal(batch.labels[:, :-1])


def test_one_span_by_hand():
    batch = objectives.span_corruption(torch.tensor([[7, 8, 9, 10]]), generator(), SPECIAL, rate=0.5, mean_length=2)
    assert batch.input_ids.tolist() == [[7, 8, 53]] and batch.labels.tolist() == [[53, 9, 10, 54]]


def test_span_loss_equals_t5s():
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=SPECIAL.size, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
        decoder_start_token_id=SPECIAL.cls,
    )  # fmt: skip
    t5 = transformers.T5ForConditionalGeneration(config).eval()
    batch = objectives.span_corruption(text(), generator(), SPECIAL)
    theirs = t5(batch.input_ids, labels=batch.labels)
    logits = t5(batch.input_ids, decoder_input_ids=batch.decoder_input_ids).logits
    assert_close(objectives.token_loss(logits, batch.labels), theirs.loss)


# --- views -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_views_are_pieces_of_their_own_text(seed, length):
    ids = torch.arange(40).view(2, 20)
    for view in objectives.two_views(ids, generator(seed), SPECIAL, length, rate=0.2):
        assert view.shape == (2, length + 2)
        for row, tokens in enumerate(view[:, 1:-1].tolist()):
            offsets = {token - place for place, token in enumerate(tokens) if token != SPECIAL.mask}
            assert len(offsets) <= 1
            assert all(20 * row <= start <= 20 * (row + 1) - length for start in offsets)


def test_info_nce_by_hand_and_of_equal_vectors():
    first, second = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # lengths do not count
    right = math.exp(1 / 0.5)
    assert_close(objectives.info_nce(first, second, 0.5).item(), -math.log(right / (right + 1)))
    assert_close(objectives.info_nce(torch.ones(7, 3), torch.ones(7, 3)).item(), math.log(7))


def test_info_nce_equals_clips_loss():
    torch.manual_seed(0)
    u, v = F.normalize(torch.randn(6, 8), dim=-1), F.normalize(torch.randn(6, 8), dim=-1)
    assert_close(objectives.info_nce(u, v, 0.1), modeling_clip.image_text_contrastive_loss(u @ v.T / 0.1))


# --- adversarial -----------------------------------------------------------------------------------------------------


def test_reinforce_is_the_gradient_of_the_expected_reward():
    logits = torch.tensor([0.2, -0.5, 1.0], requires_grad=True)
    reward = torch.tensor([1.0, 0.0, 0.3])
    (exact,) = torch.autograd.grad(-(logits.softmax(0) * reward).sum(), logits)
    drawn = torch.multinomial(logits.softmax(0).detach(), 50_000, True, generator=generator())
    for baseline in (None, 0.0, 0.5):
        loss = objectives.reinforce_loss(logits.log_softmax(0)[drawn][:, None], reward[drawn], baseline)
        (estimate,) = torch.autograd.grad(loss, logits)
        assert_close(estimate, exact, atol=0.015, rtol=0)


def test_equal_rewards_teach_nothing():
    log_probs = torch.randn(4, 3, requires_grad=True)
    objectives.reinforce_loss(log_probs, torch.full((4,), 0.7)).backward()
    assert_close(log_probs.grad, torch.zeros(4, 3))


# --- all of them -----------------------------------------------------------------------------------------------------

COLLATORS = {
    "masked": lambda ids, g: objectives.masked(ids, g, SPECIAL),
    "next_sentence": lambda ids, g: objectives.next_sentence(ids, g, SPECIAL),
    "sentence_order": lambda ids, g: objectives.sentence_order(ids, g, SPECIAL),
    "permuted": lambda ids, g: objectives.permuted(ids, g, SPECIAL),
    "span_corruption": lambda ids, g: objectives.span_corruption(ids, g, SPECIAL, rate=0.4),
    "two_views": lambda ids, g: objectives.two_views(ids, g, SPECIAL),
}


@pytest.mark.parametrize("name", COLLATORS)
def test_collators_are_pure(name):
    ids = text()
    before, state = ids.clone(), torch.get_rng_state()
    one, again, other = (COLLATORS[name](ids, generator(seed)) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(one, again, strict=True))
    assert not all(a.equal(b) for a, b in zip(one, other, strict=True))
    assert ids.equal(before) and torch.get_rng_state().equal(state)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SpecialTokens(1), "from 2 up"),
        (lambda: SpecialTokens(50, 8, first=10, leading=(0, 1, 2, 3)), "first ordinary one, 10"),
        (lambda: SpecialTokens.of(without_mask()), "load_tokenizer"),
        (lambda: SPECIAL.sentinel(8), "there are 8"),
        (lambda: objectives.causal(torch.zeros(3).long()), "(batch, time)"),
        (lambda: objectives.causal(torch.zeros(2, 3)), "whole numbers"),
        (lambda: objectives.causal(torch.zeros(2, 1).long()), "at least 2"),
        (lambda: objectives.masked(text(), generator(), SPECIAL, rate=0), "above 0"),
        (lambda: objectives.masked(text(), generator(), SPECIAL, parts=(0.5, 0.5, 0.5)), "add up to 1"),
        (lambda: objectives.token_loss(torch.zeros(2, 3, 5), torch.zeros(2, 4).long()), "each label"),
        (lambda: objectives.next_sentence(text(1), generator(), SPECIAL), "at least two"),
        (lambda: objectives.permutation_masks(torch.tensor([[0, 0, 1]])), "every position"),
        (lambda: objectives.permuted(text(), generator(), SPECIAL, share=1.5), "up to 1"),
        (lambda: objectives.two_stream(make_stack(causal=True), *[torch.zeros(1, 2, 32)] * 4), "rope"),
        (lambda: objectives.two_stream(make_stack(position="alibi"), *[torch.zeros(1, 2, 32)] * 4), "rope"),
        (
            lambda: objectives.replaced(
                text(), objectives.masked(text(), generator(), SPECIAL), torch.zeros(1, 61), generator()
            ),
            "batch.labels != -100",
        ),
        (lambda: objectives.detection_loss(torch.zeros(2, 3, 1), torch.zeros(2, 3)), "same shape"),
        (lambda: objectives.span_corruption(text(2, 40), generator(), SPECIAL, 0.5, 1), "sentinels"),
        (lambda: objectives.span_corruption(text(), generator(), SPECIAL, mean_length=0.5), "at least one token"),
        (lambda: objectives.two_views(text(), generator(), SPECIAL, length=21), "from 1 to 20"),
        (lambda: objectives.info_nce(torch.zeros(2, 3), torch.zeros(3, 3)), "same shape"),
        (lambda: objectives.info_nce(torch.zeros(2, 3), torch.zeros(2, 3), 0), "above 0"),
        (lambda: objectives.reinforce_loss(torch.zeros(2, 3), torch.zeros(3)), "(batch,)"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError) as error:
        call()
    assert says in str(error.value)


def test_the_chapters_engine_pretrains_with_every_objective_and_judges_it(engine):
    chapter = engine(ch09_objectives)
    rows = chapter.cut_rows(32)
    assert rows.shape == (32, chapter.TIME)
    for name in (*chapter.OBJECTIVES, *chapter.VARIANTS):
        before = chapter.build(name, 0)
        model, losses = chapter.pretrain(name, 0, rows)
        assert len(losses) == 2 and all(map(math.isfinite, losses)), name
        moved = [not a.equal(b) for a, b in zip(before.parameters(), model.parameters(), strict=True)]
        assert sum(moved) > 0.9 * len(moved), name
    train, test = chapter.TASKS["section"]
    assert 0.2 < chapter.probe(model, train[0], test) < 1
    assert 0.5 < chapter.bag_of_words(train[0], test).mean() < 1
