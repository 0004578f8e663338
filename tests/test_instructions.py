import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import LlamaForCausalLM

from llmbook import finetuning as ft
from llmbook import hub
from llmbook.finetuning import instructions as ins
from llmbook.objectives import IGNORE
from llmbook.transformer import Decoder, EncoderDecoder, TransformerConfig

EXAMPLE = ins.Instruction("type", "What is the type of the parameter axis?", "axis : int, optional\n    Axis.", "int")
words = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="<"), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def tokenizer():
    return ins.chat_tokenizer()


def make_decoder(vocab_size: int = 4096, **changes) -> Decoder:
    torch.manual_seed(0)
    return Decoder(TransformerConfig(vocab_size, d_model=32, num_layers=2, num_heads=2, **changes)).eval()


# --- template ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(contents=st.lists(words, min_size=1, max_size=4), ask=st.booleans())
def test_rendering_is_what_transformers_makes_of_the_template(contents, ask):
    messages = [{"role": ins.ROLES[1 + i % 2], "content": text} for i, text in enumerate(contents)]
    tokenizer = ins.chat_tokenizer()
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    assert ins.apply_chat_template(messages, ask) == theirs


def test_rows_are_the_ids_and_the_mask_that_transformers_returns(tokenizer):
    row = ins.instruction_row(tokenizer, EXAMPLE)
    messages = [{"role": "user", "content": EXAMPLE.user()}, {"role": "assistant", "content": EXAMPLE.answer}]
    theirs = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    newline = len(theirs["input_ids"]) - 1  # the line break behind the last turn is not taught, and left out
    assert row["input_ids"] == theirs["input_ids"][:newline]
    assert [int(label != IGNORE) for label in row["labels"]] == theirs["assistant_masks"][:newline]


def test_loss_on_everything_teaches_every_token(tokenizer):
    row = ins.instruction_row(tokenizer, EXAMPLE, loss_on="everything")
    assert row["labels"] == row["input_ids"]


def test_a_long_source_is_cut_and_the_answer_stays(tokenizer):
    long = ins.Instruction("summary", "Say in one sentence what this is.", "An array. " * 300, "The answer.")
    row = ins.instruction_row(tokenizer, long, max_length=60)
    assert 52 <= len(row["input_ids"]) <= 60
    assert tokenizer.decode([i for i in row["labels"] if i != IGNORE]) == "The answer.</s>"


@pytest.mark.parametrize("mark", ["<s>", "</s>"])
def test_a_turn_that_speaks_in_another_name_is_refused(tokenizer, mark):
    with pytest.raises(ValueError, match="begins or ends a turn"):
        ins.apply_chat_template([{"role": "user", "content": f"Hello{mark}assistant"}])
    with pytest.raises(ValueError, match="begins or ends a turn"):
        ins.instruction_row(tokenizer, ins.Instruction("type", "What?", "", f"int{mark}"))


def test_bad_conversations_and_rows_are_refused(tokenizer):
    with pytest.raises(ValueError, match="no message"):
        ins.apply_chat_template([])
    with pytest.raises(ValueError, match="role='bot'"):
        ins.apply_chat_template([{"role": "bot", "content": "Hello"}])
    with pytest.raises(ValueError, match="loss_on='all'"):
        ins.instruction_row(tokenizer, EXAMPLE, loss_on="all")
    with pytest.raises(ValueError, match="has no answer"):
        ins.instruction_row(tokenizer, ins.Instruction("type", "What?", "", ""))
    with pytest.raises(ValueError, match="the answer alone has"):
        ins.instruction_row(tokenizer, EXAMPLE, max_length=2)
    with pytest.raises(ValueError, match="the instruction alone"):
        ins.instruction_row(tokenizer, EXAMPLE, max_length=10)


# --- packing ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_packing_keeps_every_token_once(sizes):
    rows = [{"input_ids": [100 * i + j for j in range(n)], "labels": list(range(n))} for i, n in enumerate(sizes)]
    packed = ins.pack(rows, 12)
    before, after = ([i for row in part for i in row["input_ids"]] for part in (rows, packed))
    assert sorted(before) == sorted(after)
    for row in packed:
        assert len(row["input_ids"]) <= 12
        starts = [at for at, place in enumerate(row["position_ids"]) if place == 0]
        assert all(row["labels"][at] == IGNORE for at in starts)
        assert row["example_ids"] == sorted(row["example_ids"])
        for at, ids in enumerate(row["input_ids"]):
            assert ids % 100 == row["position_ids"][at]


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "none"])
def test_packed_examples_have_the_states_that_they_have_alone(position):
    model = make_decoder(50, position=position)
    sizes = [5, 9, 3, 7]
    ids = [torch.randint(50, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in sizes]
    rows = [{"input_ids": row, "labels": row} for row in ids]
    batch = ft.collate(ins.pack(rows, 16), 0)
    states = ins.states(model, batch)
    alone = {tuple(row): model.encode(torch.tensor([row])).last_hidden_state[0] for row in ids}
    for number, marks in enumerate(batch["example_ids"]):
        for example in range(1, int(marks.max()) + 1):
            here = marks == example
            assert_close(
                states[number, here], alone[tuple(batch["input_ids"][number, here].tolist())], atol=1e-5, rtol=0
            )


def test_transformers_llama_agrees_on_packed_rows():
    model = make_decoder(50)
    rows = [{"input_ids": list(range(1, 6)), "labels": [0] * 5}, {"input_ids": list(range(9, 17)), "labels": [0] * 8}]
    batch = ft.collate(ins.pack(rows, 16), 0)
    theirs: LlamaForCausalLM = hub.to_hf(model)
    mask = torch.zeros(1, 1, 13, 13).masked_fill(~ins.block_diagonal_mask(batch["example_ids"]), -torch.inf)
    logits = theirs(batch["input_ids"], attention_mask=mask, position_ids=batch["position_ids"]).logits
    assert_close(model.lm_head(ins.states(model, batch)), logits, atol=1e-5, rtol=1e-5)


def test_a_packed_batch_has_the_loss_of_its_examples():
    model = make_decoder(50)
    rows = [{"input_ids": [1, 2, 3, 4], "labels": [IGNORE, 2, 3, 4]}, {"input_ids": [7, 8, 9], "labels": [7, 8, 9]}]
    packed = ins.labelled_loss(model, ft.collate(ins.pack(rows, 8), 0))
    assert_close(packed, ins.labelled_loss(model, ft.collate(rows, 0)))


def test_rows_too_long_and_models_with_distances_are_refused():
    row = {"input_ids": [1] * 9, "labels": [1] * 9}
    with pytest.raises(ValueError, match="does not fit into length=8"):
        ins.pack([row], 8)
    with pytest.raises(ValueError, match="alibi"):
        ins.states(make_decoder(50, position="alibi"), ft.collate(ins.pack([row], 9), 0))


# --- data and answers -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_instructions_are_of_the_asked_tasks_and_the_same_again():
    made = ins.instructions("validation", ["section", "type"], count=30)
    assert [example.task for example in made] == ["section"] * 30 + ["type"] * 30
    assert made == ins.instructions("validation", ["section", "type"], count=30)
    assert all(example.answer in example.source for example in made[30:])
    with pytest.raises(ValueError, match="task 'poem'"):
        ins.instructions("train", ["poem"])
    with pytest.raises(ValueError, match="count=0"):
        ins.instructions("train", count=0)


def test_training_on_one_instruction_makes_the_model_answer_it(tokenizer):
    model = make_decoder()
    batch = ft.collate([ins.instruction_row(tokenizer, EXAMPLE)], tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        ins.labelled_loss(model, batch).backward()
        optimizer.step()
    assert ins.answer(model, tokenizer, [EXAMPLE], max_new_tokens=4) == ["int"]


# --- text to text -----------------------------------------------------------------------------------------------------


def test_text_to_text_loss_is_that_of_transformers_t5(tokenizer):
    torch.manual_seed(0)
    model = EncoderDecoder(TransformerConfig.t5(4096, d_model=32, num_layers=2, num_heads=2)).eval()
    rows = [ins.text_to_text_row(tokenizer, EXAMPLE), ins.text_to_text_row(tokenizer, EXAMPLE, max_answer=1)]
    batch = ft.collate(rows, tokenizer.pad_token_id)
    theirs = hub.to_hf(model)
    theirs.config.pad_token_id = theirs.config.decoder_start_token_id = tokenizer.pad_token_id
    assert_close(ins.text_to_text_loss(model, batch), theirs(**batch).loss)
    decoded = tokenizer.decode(rows[0]["input_ids"])
    assert decoded.startswith("type: What is the type of the parameter axis? axis : int") and decoded.endswith("</s>")
    assert len(ins.text_to_text_answer(model, tokenizer, [EXAMPLE, EXAMPLE], max_new_tokens=3)) == 2
