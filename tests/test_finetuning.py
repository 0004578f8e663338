import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from torch import nn
from torch.testing import assert_close

from llmbook import corpora, hub, tokenization
from llmbook import finetuning as ft
from llmbook.finetuning.heads import pool
from llmbook.training import Settings, fit
from llmbook.transformer import Decoder, Encoder, TransformerConfig

PAD = 1


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.load_tokenizer("bert")


def small_encoder(vocab=40):
    torch.manual_seed(0)
    return Encoder(TransformerConfig.bert(vocab, d_model=16, num_layers=1, num_heads=2, max_length=32)).eval()


def small_decoder(vocab=40):
    torch.manual_seed(0)
    return Decoder(TransformerConfig(vocab, d_model=16, num_layers=1, num_heads=2, max_length=32)).eval()


def some_rows(count=7, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"input_ids": rng.integers(5, 40, rng.integers(2, 12)).tolist(), "labels": int(rng.integers(labels))}
        for _ in range(count)
    ]


# --- batches ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(5, 39), min_size=1, max_size=9), min_size=1, max_size=6))
def test_collating_pads_on_the_right_and_loses_nothing(lists):
    batch = ft.collate([{"input_ids": ids, "labels": [7] * len(ids)} for ids in lists], PAD)
    width = max(map(len, lists))
    assert batch["input_ids"].shape == batch["labels"].shape == (len(lists), width)
    for row, ids in enumerate(lists):
        assert batch["input_ids"][row].tolist() == ids + [PAD] * (width - len(ids))
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * (width - len(ids))
        assert batch["labels"][row].tolist() == [7] * len(ids) + [-100] * (width - len(ids))
    assert batch.numel() == sum(map(len, lists)) + len(lists)


def test_collating_keeps_a_mask_that_the_rows_bring_and_masks_each_kind_of_ids():
    rows = [{"input_ids": [5, 6], "attention_mask": [1, 0], "decoder_input_ids": [7]},
            {"input_ids": [5], "attention_mask": [1], "decoder_input_ids": [7, 8]}]  # fmt: skip
    batch = ft.collate(rows, PAD)
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 0]]
    assert batch["decoder_attention_mask"].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one example"),
        ([{"input_ids": []}], "row 0 has no token"),
        ([{"input_ids": [5]}, {"input_ids": [5], "labels": 1}], "need the same"),
    ],
)
def test_collating_refuses_what_is_no_batch(rows, message):
    with pytest.raises(ValueError, match=message):
        ft.collate(rows, PAD)


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 3))
def test_every_epoch_takes_every_row_once_in_an_order_of_its_own(count, batch_size, seed):
    rows = [{"input_ids": [5], "labels": number} for number in range(count)]
    examples = ft.Examples(rows, batch_size, PAD, seed)
    for epoch in range(2):
        steps = range(epoch * examples.steps_per_epoch, (epoch + 1) * examples.steps_per_epoch)
        seen = [label for step in steps for label in examples(step)["labels"].tolist()]
        assert sorted(seen) == list(range(count))
    assert examples(3)["labels"].tolist() == ft.Examples(rows, batch_size, PAD, seed)(3)["labels"].tolist()


def test_examples_and_batches_refuse_empty_sizes():
    with pytest.raises(ValueError, match="0 rows"):
        ft.Examples([], 4, PAD)
    with pytest.raises(ValueError, match="batch_size=0"):
        ft.Examples(some_rows(), 0, PAD)
    with pytest.raises(ValueError, match="one row for each example"):
        ft.Batch(input_ids=torch.zeros(2, 3), labels=torch.zeros(3))


def test_predicting_ignores_padding_order_and_batch_size():
    model, rows = ft.SequenceClassifier(small_encoder(), 3), some_rows(9)
    model.train()
    alone = [ft.predict(model, [row], PAD)[0] for row in rows]
    for size in (2, 4, 64):
        together = ft.predict(model, rows, PAD, batch_size=size)
        assert_close(torch.stack(together), torch.stack(alone))
    assert model.training


def test_predictions_for_tokens_and_spans_have_the_rows_lengths():
    rows = [{"input_ids": row["input_ids"], "labels": [0] * len(row["input_ids"])} for row in some_rows()]
    for scores, row in zip(ft.predict(ft.TokenClassifier(small_encoder(), 4), rows, PAD), rows, strict=True):
        assert scores.shape == (len(row["input_ids"]), 4)
    spans = [{"input_ids": row["input_ids"], "start_positions": 0, "end_positions": 0} for row in some_rows()]
    for scores, row in zip(ft.predict(ft.SpanFinder(small_encoder()), spans, PAD), spans, strict=True):
        assert scores.shape == (len(row["input_ids"]), 2)
        assert scores.isfinite().all()


def test_predicting_in_bfloat16_is_near_float32_and_comes_back_as_float32():
    model, rows = ft.SequenceClassifier(small_encoder(), 3), some_rows()
    half = torch.stack(ft.predict(model, rows, PAD, dtype=torch.bfloat16))
    assert half.dtype == torch.float32
    assert_close(half, torch.stack(ft.predict(model, rows, PAD)), atol=0.02, rtol=0.05)


# --- heads ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6), st.integers(0, 5))
def test_gradient_of_the_loss_is_softmax_less_one_hot(scores, label):
    logits = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    label %= len(scores)
    F.cross_entropy(logits, torch.tensor(label)).backward()
    expected = logits.detach().softmax(0) - F.one_hot(torch.tensor(label), len(scores))
    assert_close(logits.grad, expected)


def shipped_pair(kind):
    """The book's and the library's head on the same backbone, with the same weights, both for evaluation."""
    import transformers

    classes = {
        "text": transformers.AutoModelForSequenceClassification,
        "tokens": transformers.AutoModelForTokenClassification,
        "spans": transformers.AutoModelForQuestionAnswering,
    }
    number = {} if kind == "spans" else {"num_labels": 5}
    transformers.logging.set_verbosity_error()
    theirs = classes[kind].from_pretrained(hub.model_folder("pydocs-bert"), dtype=torch.float32, **number).eval()
    backbone, _ = hub.pretrained("pydocs-bert")
    if kind == "text":
        ours = ft.SequenceClassifier(backbone, 5, pooling="first")
        pooler = theirs.bert.pooler.dense  # the library has one more layer, made neutral here but for its tanh
        nn.init.zeros_(pooler.bias)
        with torch.no_grad():
            pooler.weight.copy_(torch.eye(256) * 1e-3)
            ours.head.weight.copy_(theirs.classifier.weight * 1e-3)
    elif kind == "tokens":
        ours = ft.TokenClassifier(backbone, 5)
        ours.head.load_state_dict(theirs.classifier.state_dict())
    else:
        ours = ft.SpanFinder(backbone)
        ours.head.load_state_dict(theirs.qa_outputs.state_dict())
    return ours.eval(), theirs


@pytest.mark.parametrize("kind", ["text", "tokens", "spans"])
@torch.no_grad()
def test_heads_compute_what_transformers_computes(kind):
    ours, theirs = shipped_pair(kind)
    ids = torch.randint(40, 4000, (2, 12), generator=torch.Generator().manual_seed(0))  # (batch, time)
    targets = {
        "text": {"labels": torch.tensor([1, 4])},
        "tokens": {"labels": torch.tensor([[0, 1, -100] * 4, [-100, 2, 3] * 4])},
        "spans": {"start_positions": torch.tensor([3, 0]), "end_positions": torch.tensor([5, 0])},
    }[kind]
    mine, other = ours(ids, **targets), theirs(ids, **targets)
    assert_close(mine.loss, other.loss, atol=2e-4, rtol=1e-4)
    names = ("start_logits", "end_logits") if kind == "spans" else ("logits",)
    for name in names:
        assert_close(mine[name], other[name], atol=2e-4, rtol=1e-3)


def test_padding_changes_no_logit_and_takes_no_probability():
    row = some_rows(1)[0]["input_ids"]
    padded = ft.collate([{"input_ids": row}, {"input_ids": row + row}], PAD)
    for head in (ft.SequenceClassifier(small_encoder(), 3), ft.TokenClassifier(small_encoder(), 3)):
        head.eval()
        alone = head(torch.tensor([row])).logits[0]
        among = head(**padded).logits[0]
        assert_close(among if among.ndim == 1 else among[: len(row)], alone)
    start = ft.SpanFinder(small_encoder()).eval()(**padded).start_logits[0]
    assert start[len(row) :].softmax(0).isnan().all() or (start.softmax(0)[len(row) :] == 0).all()


def test_pooling_takes_the_first_the_last_or_the_mean_of_the_real_tokens():
    hidden = torch.arange(12.0).reshape(2, 3, 2)  # (batch, time, d_model)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(hidden, mask, "first").tolist() == [[0, 1], [6, 7]]
    assert pool(hidden, mask, "last").tolist() == [[2, 3], [10, 11]]
    assert pool(hidden, mask, "mean").tolist() == [[1, 2], [8, 9]]


def test_class_weights_and_smoothing_reach_the_loss():
    rows, weights = ft.collate(some_rows(), PAD), torch.tensor([1.0, 5.0, 0.5])
    model = ft.SequenceClassifier(small_encoder(), 3, class_weights=weights, label_smoothing=0.2).eval()
    out = model(**rows)
    expected = F.cross_entropy(out.logits, rows["labels"], weights, label_smoothing=0.2)
    assert_close(out.loss, expected)


def test_a_decoder_takes_a_head_and_reads_its_last_token():
    model = ft.SequenceClassifier(small_decoder(), 3).eval()
    assert model.pooling == "last"
    rows = some_rows()
    first = ft.predict(model, [rows[0]], PAD)[0]
    padded = ft.collate([rows[0], {"input_ids": [5] * 20, "labels": 0}], PAD)
    assert_close(model(**padded).logits[0], first)
    with pytest.raises(ValueError, match="token_type_ids"):
        model(torch.tensor([[5]]), token_type_ids=torch.tensor([[0]]))


@pytest.mark.parametrize("label", [3, -1])
def test_a_head_refuses_labels_that_it_has_no_logit_for(label):
    with pytest.raises(ValueError, match="the head has 3 labels, 0 to 2"):
        ft.SequenceClassifier(small_encoder(), 3)(torch.tensor([[5, 6]]), labels=torch.tensor([label]))
    with pytest.raises(ValueError, match="0 to 2"):
        ft.TokenClassifier(small_encoder(), 3)(torch.tensor([[5, 6]]), labels=torch.tensor([[-100, label]]))


def test_a_head_refuses_impossible_sizes_poolings_and_positions():
    with pytest.raises(ValueError, match="at least 2"):
        ft.SequenceClassifier(small_encoder(), 1)
    with pytest.raises(ValueError, match="first, mean, last"):
        ft.SequenceClassifier(small_encoder(), 3, pooling="cls")
    with pytest.raises(ValueError, match="0 to 1"):
        ft.SpanFinder(small_encoder())(
            torch.tensor([[5, 6]]), start_positions=torch.tensor([0]), end_positions=torch.tensor([2])
        )


def test_training_learns_what_can_be_learned():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        label = int(rng.integers(2))
        rows.append({"input_ids": [*rng.integers(10, 40, 6).tolist(), 5 + label], "labels": label})
    model = ft.SequenceClassifier(small_encoder(), 2)
    chosen = Settings(60, learning_rate=5e-3, schedule="linear", log_every=60)
    fit(model, ft.Examples(rows, 10, PAD), chosen, ft.loss, progress=False)
    right = [
        int(scores.argmax()) == row["labels"] for scores, row in zip(ft.predict(model, rows, PAD), rows, strict=True)
    ]
    assert np.mean(right) > 0.95


# --- texts ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4), st.integers(3, 20))
def test_texts_begin_and_end_with_the_special_tokens_within_the_limit(tokenizer, texts, longest):
    rows = ft.encode_texts(tokenizer, texts, [0] * len(texts), 2, max_length=longest)
    for text, row in zip(texts, rows, strict=True):
        ids = row["input_ids"]
        assert len(ids) <= longest
        assert ids[0] == tokenizer.cls_token_id
        assert ids[-1] == tokenizer.sep_token_id
        if len(ids) < longest:
            assert tokenizer.decode(ids[1:-1]) == text or "<" in text


def test_texts_without_labels_are_rows_without_labels(tokenizer):
    assert list(ft.encode_texts(tokenizer, ["a sum"])[0]) == ["input_ids"]
    assert ft.encode_texts(tokenizer, []) == []


@pytest.mark.parametrize("label", [10, -1, "arrays", 1.5, -100])
def test_labels_out_of_range_are_refused_with_row_and_range(tokenizer, label):
    with pytest.raises(ValueError, match=r"row 1 has the label .* numbered 0 to 9"):
        ft.encode_texts(tokenizer, ["a", "b"], [3, label], num_labels=10)


def test_a_class_without_an_example_is_refused_on_request(tokenizer):
    assert ft.encode_texts(tokenizer, ["a", "b"], [0, 2], num_labels=4)
    with pytest.raises(ValueError, match=r"no row has the label 1, 3 of 4"):
        ft.encode_texts(tokenizer, ["a", "b"], [0, 2], num_labels=4, every_class=True)
    ft.check_labels([0, 1], 2, every_class=True)


def test_texts_refuse_missing_labels_and_empty_texts(tokenizer):
    with pytest.raises(ValueError, match="2 texts, 1 labels"):
        ft.encode_texts(tokenizer, ["a", "b"], [0], num_labels=2)
    with pytest.raises(ValueError, match="num_labels=None"):
        ft.encode_texts(tokenizer, ["a"], [0])
    with pytest.raises(ValueError, match="text 1 has no token"):
        ft.encode_texts(tokenization.load_tokenizer("gpt"), ["a", ""])


# --- tagged words -----------------------------------------------------------------------------------------------------

WORD = st.text(st.characters(exclude_categories=("Zs", "Zl", "Zp", "Cc", "Cs")), min_size=1, max_size=9).filter(
    lambda word: word.split() == [word]
)


@settings(deadline=None)
@given(st.lists(WORD, min_size=1, max_size=12), st.integers(6, 40))
def test_every_word_that_fits_gets_its_tag_once_on_its_first_token(tokenizer, words, longest):
    tags = list(range(len(words)))
    (row,), (places,) = ft.encode_words(tokenizer, [words], [tags], len(words), max_length=longest)
    labels = row["labels"]
    assert [label for label in labels if label != -100] == tags[: len(places)]
    assert [labels[place] for place in places] == tags[: len(places)]
    if len(row["input_ids"]) < longest:
        assert len(places) == len(words)
        one_hot = F.one_hot(torch.tensor(labels).clamp(0), len(words) + 1).float()  # (time, labels)
        names = [str(tag) for tag in tags] + ["other"]
        assert ft.read_tags([one_hot], [places], [words], names) == [names[:-1]]


def test_words_are_cut_as_in_running_text(tokenizer):
    (row,), (places,) = ft.encode_words(tokenizer, [["the", "array_like", "value"]], [[0, 1, 2]], 3)
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert row["input_ids"] == tokenizer("the array_like value")["input_ids"]
    assert [pieces[place].strip("Ġ") for place in places] == ["the", "array", "value"]
    assert row["labels"].count(-100) == len(pieces) - 3


def test_words_that_are_cut_off_are_read_as_outside(tokenizer):
    words = ["axis"] * 20
    (row,), (places,) = ft.encode_words(tokenizer, [words], [[1] * 20], 2, max_length=10)
    assert len(row["input_ids"]) == 10
    scores = torch.tensor([[0.0, 1.0]]).expand(10, 2)  # (time, labels)
    assert ft.read_tags([scores], [places], [words], ["O", "B-x"]) == [["B-x"] * len(places) + ["O"] * 12]


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        ([["a", "b"]], [[0]], "2 words and 1 tags"),
        ([["a"]], [[5]], "row 0 has the label 5"),
        ([["a", ""]], [[0, 0]], "no white space"),
        ([["a b"]], [[0]], "no white space"),
        ([["a"]], [[0], [1]], "1 rows of words, 2 of tags"),
    ],
)
def test_words_refuse_tags_that_do_not_fit(tokenizer, words, tags, message):
    with pytest.raises(ValueError, match=message):
        ft.encode_words(tokenizer, words, tags, 3)


# --- tags -------------------------------------------------------------------------------------------------------------

ANY_BIO = st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"]), min_size=1, max_size=12)
ANY_BIOES = st.lists(st.sampled_from(["O", *(f"{p}-{k}" for p in "BIES" for k in "xy")]), min_size=1, max_size=12)


@given(st.one_of(ANY_BIO, ANY_BIOES))
def test_entities_are_those_of_seqeval(tags):
    assert [tuple(entity) for entity in ft.entity_spans(tags)] == [(k, b, e + 1) for k, b, e in get_entities(tags)]


@settings(deadline=None)
@given(st.lists(st.tuples(ANY_BIO, ANY_BIO), min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore::seqeval.metrics.v1.UndefinedMetricWarning")
@pytest.mark.filterwarnings("ignore:.*ill-defined.*")
def test_entity_scores_are_those_of_seqeval(pairs):
    given_, right = [], []
    for prediction, reference in pairs:
        size = min(len(prediction), len(reference))
        given_.append(prediction[:size])
        right.append(reference[:size])
    ours = ft.entity_scores(given_, right)
    theirs = [measure(right, given_, zero_division=0) for measure in (precision_score, recall_score, f1_score)]
    assert all(math.isclose(a, b, abs_tol=1e-12) for a, b in zip(ours, theirs, strict=True))


@given(ANY_BIO, st.sampled_from(["BIO", "BIOES"]))
def test_entities_survive_either_scheme(tags, scheme):
    entities = ft.entity_spans(tags)
    written = ft.to_tags(entities, len(tags), scheme)
    assert ft.entity_spans(written) == entities
    assert ft.to_tags(ft.entity_spans(written), len(tags), scheme) == written


def test_tags_refuse_what_is_no_tag():
    for bad in ("B", "X-x", "I-", "b-x", None, float("nan"), 1):
        with pytest.raises(ValueError, match="tag 1 is"):
            ft.entity_spans(["O", bad])
    with pytest.raises(ValueError, match="BIO, BIOES"):
        ft.to_tags([], 3, "IOB")
    for bad in [("x", 1, 1), ("x", 0, 4), ("", 0, 1)]:
        with pytest.raises(ValueError, match="at least one word"):
            ft.to_tags([ft.Entity(*bad)], 3)
    with pytest.raises(ValueError, match="overlap"):
        ft.to_tags([ft.Entity("x", 0, 2), ft.Entity("y", 1, 3)], 3)
    with pytest.raises(ValueError, match="rows or words"):
        ft.entity_scores([["O"]], [["O", "O"]])


# --- questions --------------------------------------------------------------------------------------------------------

CONTEXT = "a : float, optional\n    The slope.\nb : str, default: 'k'\n    Colour é of it."


def answer(text, context=CONTEXT):
    return {"text": [text], "answer_start": [context.index(text)]}


NOTHING = {"text": [], "answer_start": []}


@settings(deadline=None, max_examples=60)
@given(st.lists(WORD, min_size=2, max_size=15), st.data())
def test_a_span_of_whole_words_comes_back_as_it_was(tokenizer, words, data):
    context = " ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    begin = len(" ".join(words[:first])) + (first > 0)
    text = " ".join(words[first : last + 1])
    known = [{"text": [text], "answer_start": [begin]}]
    rows, places = ft.encode_questions(tokenizer, ["Which?"], [context], known, max_length=256)
    perfect = torch.full((len(rows[0]["input_ids"]), 2), -9.0)  # (time, 2)
    perfect[rows[0]["start_positions"], 0] = perfect[rows[0]["end_positions"], 1] = 9.0
    (found,) = ft.read_answers([perfect], places, [context], max_tokens=256, threshold=0.0)
    assert (found.text, found.begin) == (text, begin)


def test_a_question_is_in_front_with_token_type_0_and_its_tokens_are_no_answer(tokenizer):
    (row,), (place,) = ft.encode_questions(tokenizer, ["Type of a?"], [CONTEXT], [answer("float")])
    separator = row["input_ids"].index(tokenizer.sep_token_id)
    assert row["token_type_ids"] == [0] * (separator + 1) + [1] * (len(row["input_ids"]) - separator - 1)
    assert place.spans[: separator + 1] == [None] * (separator + 1)
    assert place.spans[-1] is None
    assert CONTEXT[slice(*place.spans[row["start_positions"]])] == "float"


def test_a_question_without_an_answer_points_at_the_first_token(tokenizer):
    (row,), _ = ft.encode_questions(tokenizer, ["Default of a?"], [CONTEXT], [NOTHING])
    assert (row["start_positions"], row["end_positions"]) == (0, 0)
    (row,), _ = ft.encode_questions(tokenizer, ["Default of a?"], [CONTEXT])
    assert "start_positions" not in row


def test_a_span_that_truncation_cuts_off_is_an_error_that_says_what_to_do(tokenizer):
    with pytest.raises(ValueError, match=r"question 1: the answer 'Colour.*max_length=20.*stride="):
        ft.encode_questions(tokenizer, ["Type?"] * 2, [CONTEXT] * 2, [answer("float"), answer("Colour é of it.")], 20)
    half = CONTEXT.index("Colour") + len("Colour é of it")
    ids = tokenizer("Type?", CONTEXT[:half])["input_ids"]
    with pytest.raises(ValueError, match="cut off"):  # its beginning is still there
        ft.encode_questions(tokenizer, ["Type?"], [CONTEXT], [answer("Colour é of it.")], len(ids) - 1)


def test_windows_keep_an_answer_that_truncation_would_cut_off(tokenizer):
    rows, places = ft.encode_questions(tokenizer, ["Type?"], [CONTEXT], [answer("'k'")], 22, stride=8)
    assert len(rows) > 1
    assert {place.example for place in places} == {0}
    have = [row for row in rows if row["start_positions"]]
    assert 1 <= len(have) < len(rows)
    scores = []
    for row in rows:
        table = torch.zeros(len(row["input_ids"]), 2)  # (time, 2)
        table[row["start_positions"], 0] = table[row["end_positions"], 1] = 5.0
        scores.append(table)
    (found,) = ft.read_answers(scores, places, [CONTEXT])
    assert found.text == "'k'"
    with pytest.raises(ValueError, match="leave the question out"):
        ft.encode_questions(tokenizer, ["Type?"], [CONTEXT], [answer(CONTEXT)], 22, stride=8)


def test_reading_answers_obeys_the_order_the_length_and_the_threshold(tokenizer):
    (row,), places = ft.encode_questions(tokenizer, ["Type?"], [CONTEXT])
    size = len(row["input_ids"])
    context = [place for place, span in enumerate(places[0].spans) if span]
    scores = torch.zeros(size, 2)  # (time, 2)
    scores[context[9], 0], scores[context[2], 1] = 9.0, 9.0  # the end before the start: no span
    scores[context[5], 0], scores[context[6], 1] = 8.0, 8.0
    scores[1, 0] = scores[1, 1] = 99.0  # in the question: no answer either
    (best,) = ft.read_answers([scores], places, [CONTEXT])
    begin, end = places[0].spans[context[5]][0], places[0].spans[context[6]][1]
    assert (best.text, best.begin, best.margin) == (CONTEXT[begin:end], begin, 16.0)
    (one,) = ft.read_answers([scores], places, [CONTEXT], max_tokens=1)
    assert one.margin == 9.0
    scores[0] = 3.0
    assert ft.read_answers([scores], places, [CONTEXT], threshold=9.9)[0].text == best.text
    assert ft.read_answers([scores], places, [CONTEXT], threshold=10.0)[0] == ("", -1, 10.0)


def test_questions_refuse_answers_that_do_not_stand_there(tokenizer):
    wrong = {"text": ["float"], "answer_start": [5]}
    with pytest.raises(ValueError, match=r"question 0: at character 5 stands .* not the answer 'float'"):
        ft.encode_questions(tokenizer, ["Type?"], [CONTEXT], [wrong])
    with pytest.raises(ValueError, match="1 answers and 0 places"):
        ft.encode_questions(tokenizer, ["Type?"], [CONTEXT], [{"text": ["x"], "answer_start": []}])
    with pytest.raises(ValueError, match="give as many of each"):
        ft.encode_questions(tokenizer, ["Type?"], [CONTEXT], [NOTHING, NOTHING])
    with pytest.raises(ValueError, match="no room is left"):
        ft.encode_questions(tokenizer, ["Type " * 40], [CONTEXT], [NOTHING], 32)
    with pytest.raises(ValueError, match='load_tokenizer\\("bert"\\)'):
        ft.encode_questions(tokenization.load_tokenizer("gpt"), ["Type?"], [CONTEXT])


def test_offsets_need_a_fast_tokenizer():
    with pytest.raises(ValueError, match="use a fast one"):
        ft.encode_words(object(), [["a"]])


@pytest.mark.slow
def test_the_books_questions_come_back_from_their_tokens(tokenizer):
    questions = corpora.question_answering()["test"].select(range(120))
    texts, contexts, answers = questions["question"], questions["context"], questions["answers"]
    rows, places = ft.encode_questions(tokenizer, texts, contexts, answers, 256, stride=64)
    perfect = []
    for row in rows:
        table = torch.zeros(len(row["input_ids"]), 2)  # (time, 2)
        table[row["start_positions"], 0] = table[row["end_positions"], 1] = 9.0
        perfect.append(table)
    found = ft.read_answers(perfect, places, contexts, max_tokens=200)
    exact = [known["text"][0] == ours.text for known, ours in zip(answers, found, strict=True) if known["text"]]
    assert np.mean(exact) > 0.95  # the others begin or end within a token


# --- what fits together -----------------------------------------------------------------------------------------------


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    import transformers

    for name in ("pydocs-bert", "pydocs-gpt"):
        ft.check_pair(*hub.pretrained(name))
    with pytest.raises(ValueError, match="4,096 tokens, the model's embedding 40 rows"):
        ft.check_pair(ft.SequenceClassifier(small_encoder(), 2), tokenizer)
    with pytest.raises(ValueError, match="no token in front"):
        ft.check_pair(small_encoder(4096), tokenization.load_tokenizer("gpt"))
    with pytest.raises(ValueError, match=r"has no config\.vocab_size"):
        ft.check_pair(nn.Linear(2, 2), tokenizer)
    config = transformers.BertConfig(vocab_size=4096, hidden_size=16, num_hidden_layers=1, num_attention_heads=1,
                                     intermediate_size=16, pad_token_id=0)  # fmt: skip
    with pytest.raises(ValueError, match="pads with 1, the model's configuration with 0"):
        ft.check_pair(transformers.BertModel(config), tokenizer)


# --- stopping ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 4), st.booleans())
def test_stopping_waits_as_told_and_restores_the_best_weights(values, patience, larger):
    model, measured = nn.Linear(1, 1), iter(values)
    stopping = ft.EarlyStopping(model, lambda: next(measured), patience, larger)
    seen = []
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(step)
        seen.append(value)
        if stopping({"step": step}):
            break
    best = (max if larger else min)(seen)
    assert stopping.best == stopping.restore() == best
    assert int(model.weight) == stopping.best_step == seen.index(best)
    since = len(seen) - 1 - seen.index(best)
    assert since == patience or len(seen) == len(values)


def test_stopping_ends_a_training():
    rows, model = some_rows(20), ft.SequenceClassifier(small_encoder(), 3)
    values = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    stopping = ft.EarlyStopping(model, lambda: next(values), patience=2)
    chosen = Settings(100, learning_rate=1e-3, log_every=5)
    log = fit(model, ft.Examples(rows, 4, PAD), chosen, ft.loss, callbacks=[stopping], progress=False)
    assert log[-1]["step"] == 20
    assert (stopping.best_step, stopping.best) == (10, 0.6)


def test_stopping_refuses_no_patience_and_nothing_measured():
    with pytest.raises(ValueError, match="patience=0"):
        ft.EarlyStopping(nn.Linear(1, 1), lambda: 0.0, 0)
    with pytest.raises(ValueError, match="nothing has been measured"):
        ft.EarlyStopping(nn.Linear(1, 1), lambda: 0.0, 1).restore()


# --- the networked variant --------------------------------------------------------------------------------------------


def test_public_sets_in_their_own_schema_become_rows(tokenizer, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("LLMBOOK_MIRROR", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made_up = {
        "sst2": {"idx": 0, "sentence": "a fine film", "label": 1},
        "squad": {"id": "1", "title": "t", "context": CONTEXT, "question": "Type of a?", "answers": answer("float")},
    }
    for name, row in made_up.items():
        (tmp_path / name).mkdir()
        datasets.Dataset.from_list([row] * 3).to_parquet(tmp_path / name / "train.parquet")
    reviews, questions = (corpora.online(name, "train") for name in made_up)
    rows = ft.encode_texts(tokenizer, reviews["sentence"], reviews["label"], num_labels=2)
    assert [row["labels"] for row in rows] == [1, 1, 1]
    rows, places = ft.encode_questions(tokenizer, questions["question"], questions["context"], questions["answers"])
    first, last = rows[0]["start_positions"], rows[0]["end_positions"]
    assert CONTEXT[places[0].spans[first][0] : places[0].spans[last][1]] == "float"


def test_without_a_network_the_public_sets_name_what_to_use_instead(monkeypatch):
    import datasets

    monkeypatch.delenv("LLMBOOK_MIRROR", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    for name, instead in (("sst2", "topic_classification"), ("squad", "question_answering")):
        with pytest.raises(corpora.CorpusError, match=instead):
            corpora.online(name)
