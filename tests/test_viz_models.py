"""The attention of every architecture that a reader may bring is drawn at the keys that are named, or refused."""

import inspect

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.models.auto import modeling_auto

from llmbook import viz

IDS = torch.arange(3, 15)  # 12
TARGET = IDS[:5]
#: Sizes under all the names that configurations have for them; each model gets those that its own has.
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "emb_dim"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "n_inner", "hidden_dim", "d_inner"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "encoder_ffn_embed_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "kv_lora_rank", "q_lora_rank"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("num_local_experts", "n_routed_experts", "num_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    "vocab_size": 64, "num_key_value_heads": 2, "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "sep_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip

DECODERS = [
    "bitnet", "bloom", "biogpt", "cohere", "cohere2", "ctrl", "gemma", "gemma2", "gemma3_text", "glm4", "gpt2",
    "gpt_bigcode", "gpt_neox", "granite", "granitemoe", "helium", "llama", "minimax_m2", "mistral", "mixtral",
    "modernbert-decoder", "nemotron", "olmo", "olmo2", "olmoe", "openai-gpt", "opt", "persimmon", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2", "xglm",
]  # fmt: skip
#: Those whose configuration needs more than a size.
DECODERS_WITH = {
    "codegen": {"rotary_dim": 4}, "deepseek_v3": {"num_key_value_heads": 4}, "falcon": {"head_dim": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]}, "gptj": {"rotary_dim": 4},
    "mpt": {},
}  # fmt: skip
ENCODERS = [
    "albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "esm", "ibert",
    "layoutlm", "mobilebert", "modernbert", "mpnet", "nystromformer", "rembert", "roberta", "roformer", "xlm",
]  # fmt: skip
SEQ2SEQ = ["bart", "bigbird_pegasus", "blenderbot", "fsmt", "m2m_100", "marian", "mbart", "mt5", "pegasus", "plbart",
           "switch_transformers", "t5", "umt5"]  # fmt: skip
#: The number of the layer that has attention among others that have not.
HYBRIDS = {
    "jamba": ({"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "expert_layer_period": 2}, [1]),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, [1]),
    "olmo_hybrid": ({}, [1]),
    "qwen3_next": ({"layer_types": ["linear_attention", "full_attention"]}, [1]),
    "recurrent_gemma": ({"num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"]}, [2]),
}
REFUSED = {
    "fnet": ({}, "the model returned no attention weights"),
    "funnel": ({"block_sizes": [1, 1], "num_hidden_layers": None, "num_decoder_layers": 1},
               r"weights of shape \(1, 4, 6, 12\) for 12 queries and 12 keys, so .* \(a pooled sequence"),
    "longt5": ({"local_radius": 3}, r"returns its encoder attention in blocks .*no weight for each pair"),
    "mamba": ({}, "the model returned no attention weights"),
    "minimax": ({}, r"weights of shape \(1, 4, 8, 8\) for 12 queries"),
    "mra": ({}, "the model returned no attention weights"),
    "pegasus_x": ({}, "returns its encoder attention in blocks"),
    "rwkv": ({}, r"in blocks or a form of its own \(shape \(1, 12, 32\)\)"),
    "squeezebert": ({}, "returns scores, not what a softmax made of them"),
    "yoso": ({}, r"in blocks or a form of its own \(shape \(1, 12, 32\)\)"),
}  # fmt: skip


def tiny(name, **changes):
    """A model of random weights with about 30,000 parameters."""
    transformers.logging.set_verbosity_error()
    defaults = AutoConfig.for_model(name)
    sizes = {key: value for key, value in SMALL.items() if isinstance(getattr(defaults, key, None), int | None)
             and hasattr(defaults, key)} | changes  # fmt: skip
    config = AutoConfig.for_model(name, **{key: value for key, value in sizes.items() if value is not None})
    kinds = {
        AutoModelForSeq2SeqLM: modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        AutoModelForCausalLM: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        AutoModelForMaskedLM: modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    }
    if name in ENCODERS or name in REFUSED:
        kinds = dict(reversed(kinds.items()))
    torch.manual_seed(0)
    return next(kind for kind, names in kinds.items() if name in names).from_config(config)


def inputs_of(model):
    return (IDS, TARGET) if "decoder_input_ids" in inspect.signature(model.forward).parameters else IDS


def assert_distributions(part):
    assert part.weights.shape[2:] == (len(part.queries), len(part.keys))
    assert (part.weights >= 0).all() and np.allclose(part.weights.sum(-1), 1, atol=1e-3)
    assert len(part.weights) == len(part.layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DECODERS, *DECODERS_WITH])
def test_decoder_of_any_architecture_looks_back(name):
    model = tiny(name, **DECODERS_WITH.get(name, {}))
    before = [module.training for module in model.modules()], model.config._attn_implementation
    (part,) = viz.read_attention(model, IDS)
    assert_distributions(part)
    assert part.queries == part.keys == [str(index) for index in IDS.tolist()]
    assert np.triu(part.weights, 1).max() < 1e-6 and part.layers == [0, 1]
    assert ([module.training for module in model.modules()], model.config._attn_implementation) == before
    assert viz.show_attention(model, IDS).axes


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_of_any_architecture_looks_both_ways(name):
    (part,) = viz.read_attention(tiny(name), IDS)
    assert_distributions(part)
    assert np.triu(part.weights, 1).max() > 0.01 and np.tril(part.weights, -1).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_encoder_decoder_of_any_architecture_has_three_parts(name):
    found = viz.read_attention(tiny(name), (IDS, TARGET))
    assert [(part.name, *part.weights.shape[2:]) for part in found] == [
        ("encoder", 12, 12), ("decoder", 5, 5), ("cross", 5, 12)
    ]  # fmt: skip
    for part in found:
        assert_distributions(part)
    assert np.triu(found[1].weights, 1).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", HYBRIDS)
def test_layer_among_others_without_attention_keeps_its_number(name):
    changes, numbers = HYBRIDS[name]
    model = tiny(name, **changes)
    (part,) = viz.read_attention(model, IDS)
    assert_distributions(part)
    assert part.layers == numbers
    assert viz.show_attention(model, IDS, layers=numbers[0]).axes
    with pytest.raises(ValueError, match=rf"layers=0: there are 1, numbered {numbers[0]}; give"):
        viz.show_attention(model, IDS, layers=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_is_none_over_the_tokens_is_refused_in_a_sentence(name):
    changes, reason = REFUSED[name]
    model = tiny(name, **changes)
    with pytest.raises(ValueError, match=reason) as raised:
        viz.show_attention(model, inputs_of(model), part="encoder" if name in ("longt5", "pegasus_x") else None)
    assert len(str(raised.value)) < 400 and "\n" not in str(raised.value)


def test_sink_is_a_key_of_its_own():
    model = tiny("gpt_oss", sliding_window=4).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.fill_(1.0)
    (part,) = viz.read_attention(model, IDS)
    assert part.keys == [*part.queries, "[sink]"]
    assert_distributions(part)
    assert np.triu(part.weights[..., :12], 1).max() < 1e-6, "the tokens keep their places"
    shares = part.weights[..., 12]
    assert (shares > 0.05).all() and np.allclose(shares[:, :, 0], np.e / (np.e + 1), atol=0.1), "scores are near 0"
    for view in ("figure", "head", "model"):
        viz.show_attention(model, IDS, view=view, layers=1)
    for view, reason in (("arcs", r"not to \[sink\] as well"), ("neuron", "does not pass them to")):
        with pytest.raises(ValueError, match=reason):
            viz.show_attention(model, IDS, view=view, layers=1)


@pytest.mark.parametrize(("name", "count"), [("longformer", 12), ("longformer", 5), ("led", 12)])
def test_offsets_in_a_window_are_put_at_their_keys(name, count):
    model = tiny(name, attention_window=4).eval()  # two keys on each side; 5 offsets fit 5 keys by their number alone
    ids = IDS[:count]
    part = viz.read_attention(model, (ids, TARGET) if name == "led" else ids)[0]
    assert_distributions(part)
    if name == "led":
        attention = model.led.encoder.layers[0].self_attn.longformer_self_attn
    else:
        attention = model.longformer.encoder.layer[0].attention.self
    seen = []

    def look(_, inputs, options, output):
        seen.append(options["hidden_states"] if "hidden_states" in options else inputs[0])

    attention.register_forward_hook(look, with_kwargs=True)
    with torch.no_grad():
        model(ids[None], **({"decoder_input_ids": TARGET[None]} if name == "led" else {}))
    hidden = seen[0][0, :count]
    query, key = (layer(hidden).view(count, 4, 8).transpose(0, 1) for layer in (attention.query, attention.key))
    distance = (torch.arange(count)[:, None] - torch.arange(count)).abs()
    scores = (query @ key.mT / 8**0.5).masked_fill(distance > 2, -torch.inf)  # (heads, query, key)
    assert np.allclose(part.weights[0], scores.softmax(-1).detach(), atol=1e-5)


def test_global_attention_beside_a_window_is_refused():
    from transformers import LongformerForSequenceClassification

    config = AutoConfig.for_model("longformer", **{key: SMALL[key] for key in (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "pad_token_id",
        "max_position_embeddings")}, attention_window=4)  # fmt: skip
    with pytest.raises(ValueError, match="beside them, those of global tokens"):
        viz.read_attention(LongformerForSequenceClassification(config), IDS[:6])


def test_sparse_blocks_that_leave_weight_out_are_refused():
    model = tiny("big_bird", attention_type="block_sparse", block_size=4, num_random_blocks=1)
    with pytest.raises(ValueError, match=r"no distributions over the tokens \(one sums to 0\.\d+\), as sparse blocks"):
        viz.read_attention(model, torch.randint(3, 60, (1, 100), generator=torch.Generator().manual_seed(0)))


def test_model_that_needs_more_than_ids_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"BertForMaskedLM does not run on these 2 ids alone: IndexError index out of"):
        viz.read_attention(tiny("bert"), torch.tensor([3, 64]))
    model = tiny("bert")
    model.main_input_name = "pixel_values"
    with pytest.raises(ValueError, match="BertForMaskedLM reads pixel_values, not the ids of a text"):
        viz.read_attention(model, IDS)


def test_parts_of_a_model_keep_the_attention_they_had():
    model = tiny("mpt")
    assert model.config.attn_config._attn_implementation is None, "it never chose"
    viz.read_attention(model, IDS)
    assert model.config.attn_config._attn_implementation is None
    model = tiny("llama")
    model.set_attn_implementation("sdpa")
    viz.read_attention(model, IDS, vectors=True)
    assert {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")} == {"sdpa"}


def test_part_alone_is_read_where_another_cannot_be_drawn():
    model = tiny("longt5", local_radius=3)
    (part,) = viz.read_attention(model, (IDS, TARGET), part="cross")
    assert part.name == "cross" and part.weights.shape[2:] == (5, 12)
    assert viz.show_attention(model, (IDS, TARGET)).axes, "the figure's default is the cross-attention"
    with pytest.raises(ValueError, match="part='crosss': it takes 'encoder', 'decoder', 'cross'"):
        viz.read_attention(model, (IDS, TARGET), part="crosss")


def test_layers_of_a_tuple_keep_their_numbers():
    weights = torch.full((1, 2, 3, 3), 1 / 3)
    figure = viz.show_attention(attention=(None, weights, None, weights), tokens="abc")
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel().startswith("Layer")] == ["Layer 1", "Layer 3"]
