"""Laws are found again in data made from them; arithmetic agrees with real tensors and published figures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ch11_scaling
from llmbook import results, scaling, training
from llmbook.transformer import Decoder, TransformerConfig, count_parameters, flops_per_token

LAW = scaling.Law(E=1.7, A=40.0, alpha=0.4, B=300.0, beta=0.35)


def grid(law=LAW, noise=0.0, seed=0):
    """Sizes, tokens and losses of 30 runs of a law."""
    n, d = (column.flatten() for column in np.meshgrid(np.geomspace(1e4, 1e6, 6), np.geomspace(2e5, 2e7, 5)))
    return n, d, law(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))


def test_a_joint_law_is_found_again():
    found = scaling.fit_law(*grid())
    for name in ("E", "A", "alpha", "B", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(LAW, name), rel=0.02)


def test_one_diverged_run_hardly_moves_the_fit():
    n, d, loss = grid(noise=0.002)
    loss[7] *= 1.5
    assert scaling.fit_law(n, d, loss).exponent == pytest.approx(LAW.exponent, abs=0.05)


def test_noise_gives_intervals_that_hold_the_truth():
    laws = scaling.bootstrap_laws(*grid(noise=0.003), resamples=40)
    low, high = np.quantile([law.exponent for law in laws], (0.02, 0.98))
    assert low < LAW.exponent < high and high - low < 0.2
    again = scaling.bootstrap_laws(*grid(noise=0.003), resamples=3)
    assert again == laws[:3]  # the same seed draws the same runs


def test_runs_of_one_trunk_are_drawn_together():
    n, d, loss = grid()
    loss = loss * np.exp(0.01 * np.random.default_rng(0).standard_normal(6)[np.unique(n, return_inverse=True)[1]])
    alone = scaling.bootstrap_laws(n, d, loss, resamples=30)
    together = scaling.bootstrap_laws(n, d, loss, resamples=30, trunks=n)  # the noise is one draw for each size
    spread = [np.std([law.alpha for law in laws]) for laws in (alone, together)]
    assert spread[1] > 1.2 * spread[0]
    with pytest.raises(ValueError, match="3 names of trunks for 30 runs"):
        scaling.bootstrap_laws(n, d, loss, trunks=[0, 1, 2])


def test_power_laws_are_found_again_with_and_without_a_floor():
    x = np.geomspace(1e4, 1e8, 9)
    truth = scaling.PowerLaw(1.2, 30.0, 0.3)
    found = scaling.fit_power(x, truth(x))
    assert (found.floor, found.factor, found.exponent) == pytest.approx((1.2, 30.0, 0.3), rel=0.02)
    straight = scaling.fit_power(x, scaling.PowerLaw(0.0, 5.0, 0.1)(x), floor=False)
    assert (straight.floor, straight.factor, straight.exponent) == pytest.approx((0, 5.0, 0.1))
    assert scaling.fit_power(x, truth(x), floor=False).exponent < 0.3  # a floor taken for a slope


@given(st.floats(1e12, 1e24), st.floats(0.2, 0.6), st.floats(0.2, 0.6), st.floats(1, 1e3), st.floats(1, 1e3))
def test_no_other_size_is_better_for_the_same_operations(flops, alpha, beta, a, b):
    law = scaling.Law(1.0, a, alpha, b, beta)
    n, d = law.best(flops)
    assert 6 * n * d == pytest.approx(flops)
    for factor in (0.5, 0.9, 1.1, 2):
        assert law(n * factor, d / factor) >= law(n, d) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [1, 2], [1, 2]), "at least 6 runs"),
        (([1] * 6, [1] * 6, [1] * 5), "of one length"),
        (([1] * 6, [1] * 6, [1, 1, 1, 1, 1, -1]), "above 0"),
        (([1] * 6, [1] * 6, [1, 1, 1, 1, 1, float("nan")]), "diverged"),
    ],
)
def test_runs_that_cannot_be_fitted_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        scaling.fit_law(*columns)


def test_a_law_in_both_needs_runs_that_differ_in_both():
    with pytest.raises(ValueError, match="at least three sizes"):
        scaling.bootstrap_laws(np.ones(8), np.geomspace(1, 9, 8), np.linspace(3, 2, 8))


@pytest.mark.slow
def test_published_models_have_their_published_numbers_of_parameters():
    gpt3 = TransformerConfig(50_257, 12_288, 96, 96, position="learned", max_length=2048, norm="layer", bias=True,
                             activation="gelu")  # fmt: skip
    bloom = TransformerConfig(250_880, 14_336, 70, 112, position="alibi", norm="layer", embedding_norm=True, bias=True,
                              activation="gelu")  # fmt: skip
    llama = TransformerConfig(32_000, 4096, 32, 32, d_ff=11_008, tie_embeddings=False)
    assert scaling.parameters_of(llama) == 6_738_415_616
    assert scaling.parameters_of(bloom) == 176_247_271_424
    assert scaling.parameters_of(gpt3) == pytest.approx(175e9, rel=0.003)
    assert scaling.training_flops(scaling.parameters_of(gpt3), 300e9) == pytest.approx(3.14e23, rel=0.005)


def test_state_is_what_a_real_optimizer_holds():
    model = Decoder(TransformerConfig(50, 32, 2, 4, d_ff=48))
    optimizer = torch.optim.AdamW(model.parameters())
    training.next_token_loss(model, torch.arange(40).view(4, 10)).backward()
    optimizer.step()
    expected = scaling.state_bytes(count_parameters(model), "float32 AdamW")
    assert sum(p.nbytes for p in model.parameters()) == expected["weights"]
    assert sum(p.grad.nbytes for p in model.parameters()) == expected["gradients"]
    means = [state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert sum(means) == expected["means"]
    assert sum(scaling.state_bytes(1).values()) == 16
    assert sum(scaling.state_bytes(1, shards=8).values()) == 2


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 20), st.integers(1, 3))
def test_activations_are_what_autograd_keeps(layers, heads, length, batch):
    config = TransformerConfig(30, 8 * heads, layers, heads, d_ff=24)
    model = Decoder(config)
    model.stack.final_norm = torch.nn.Identity()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, or its place would be used again
        return tensor

    embeddings = torch.randn(batch, length, config.d_model, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.stack(embeddings)
    total = sum(size for size, _ in kept.values())
    assert total == pytest.approx(scaling.activation_bytes(config, batch, length), rel=0.1)


def test_checkpointing_keeps_one_block_and_the_inputs_of_all():
    config = TransformerConfig(30, 64, 10, 4)
    kept = scaling.activation_bytes(config, 4, 32, checkpointing=True)
    one = scaling.activation_bytes(TransformerConfig(30, 64, 1, 4), 4, 32)
    assert kept == one + 10 * 4 * 32 * 64 * 4 < scaling.activation_bytes(config, 4, 32) / 4


def test_a_shape_that_the_count_is_not_made_for_is_refused():
    with pytest.raises(ValueError, match="made for"):
        scaling.activation_bytes(TransformerConfig.bert(30), 1, 8)
    with pytest.raises(ValueError, match="grouped"):
        scaling.activation_bytes(TransformerConfig(30, num_key_value_heads=2), 1, 8)


def test_the_cache_is_what_a_model_returns():
    config = TransformerConfig(30, 32, 3, 4, num_key_value_heads=2)
    with torch.no_grad():
        cache = Decoder(config)(torch.zeros(2, 9, dtype=torch.long), use_cache=True).past_key_values
    held = sum(part.nbytes for pair in cache for part in pair)
    assert scaling.cache_bytes(config, 2, 9, size=4) == held


@given(st.floats(1e15, 1e25), st.floats(1e12, 1e15), st.floats(0.05, 1))
def test_hours_and_utilisation_undo_each_other(flops, peak, share):
    hours = scaling.gpu_hours(flops, peak, share)
    assert scaling.utilisation(flops, hours, peak) == pytest.approx(share)


def test_energy_of_bloom_is_the_published_one():
    assert scaling.energy_kwh(1_082_990, 400) == pytest.approx(433_196)


def test_impossible_arithmetic_is_refused():
    with pytest.raises(ValueError, match=r"utilisation=1\.5"):
        scaling.gpu_hours(1e20, 1e12, 1.5)
    with pytest.raises(ValueError, match="recipe='sgd'"):
        scaling.state_bytes(1, "sgd")


# --- the recorded runs ----------------------------------------------------------------------------------------------


def test_the_best_rate_is_the_lowest_point_of_a_parabola():
    assert ch11_scaling.best_rate([1, 2, 4], [2.0, 1.0, 2.0]) == pytest.approx(2)
    assert ch11_scaling.best_rate([1, 2, 4], [3.0, 2.0, 1.0]) == 4
    runs = [{"d_model": width, "rate": 1 / width * f, "loss": abs(np.log(f))} for width in (8, 16) for f in (0.5, 1, 2)]
    assert ch11_scaling.rate_rule(runs) == pytest.approx((1, -1))


def test_a_branch_of_the_plateau_is_the_run_with_that_end(engine):
    chapter = engine(ch11_scaling)
    chapter.BATCH, chapter.WINDOW = 2, 16
    stream = np.arange(9000) * 7 % 60
    points = chapter.branched_run(stream, 24, [30, 60], 0.01, 0)
    assert [point["tokens"] for point in points] == [30 * 32, 60 * 32]
    model = chapter.build(24, 0)
    recipe = training.Settings(60, 0.004, 0.01, warmup=chapter.WARMUP / 60, decay=chapter.FALL)
    training.fit(model, training.Windows(stream, 16, 2, 0), recipe, progress=False)
    assert chapter.held_out_loss(model) == pytest.approx(points[1]["loss"], abs=1e-6)


def test_the_record_counts_parameters_and_operations_as_the_package_does():
    record = results.recorded("scaling")
    for width, shape in record["shapes"].items():
        config = TransformerConfig(512, int(width), shape["num_layers"], shape["num_heads"], d_ff=shape["d_ff"])
        assert shape["parameters"] == scaling.parameters_of(config, embeddings=False)
        assert shape["flops_per_token"] == 3 * flops_per_token(config, 64)
    for run in record["runs"] + record["held_back"]:
        assert run["flops"] == record["shapes"][str(run["d_model"])]["flops_per_token"] * run["tokens"]
        assert 1 < run["loss"] < 7
    assert len({(run["d_model"], run["tokens"]) for run in record["runs"]}) >= 9
