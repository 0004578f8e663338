import copy
import json
import math
import random
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmbook import training
from llmbook.training import CheckpointError, Float32Muon, Mixture, Settings, Windows, fit, make_optimizers, schedule
from llmbook.transformer import Decoder, TransformerConfig

HERE = str(Path(__file__).parent)


def small_model(seed=0, dropout=0.0, d_model=16):
    torch.manual_seed(seed)
    return Decoder(TransformerConfig(30, d_model=d_model, num_layers=1, num_heads=2, max_length=16, dropout=dropout))


def small_windows(tokens=400, length=8, batch_size=4, seed=0):
    return Windows((np.arange(tokens) * 7 % 30).astype(np.int32), length, batch_size, seed)


def quiet_fit(model, windows, chosen, **more):
    return fit(model, windows, chosen, progress=False, **more)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# --- data -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_windows_predict_every_token_at_most_once_in_an_epoch(length, batch_size, more, seed):
    stream = np.arange(batch_size * length + 1 + more, dtype=np.int32)
    windows = Windows(stream, length, batch_size, seed)
    rows = torch.cat([windows(step) for step in range(windows.steps_per_epoch)])
    assert rows.shape[1] == length + 1 and rows.dtype == torch.int64
    assert (rows.diff(dim=1) == 1).all()  # neighbours in the stream
    predicted = rows[:, 1:].flatten().tolist()
    assert len(set(predicted)) == len(predicted) > len(stream) - 1 - length * batch_size - length


def test_a_batch_depends_on_its_step_and_the_seed_alone():
    windows, again = small_windows(), small_windows()
    steps = list(range(3 * windows.steps_per_epoch))
    batches = {step: windows(step) for step in steps}
    random.Random(0).shuffle(steps)
    assert all(torch.equal(again(step), batches[step]) for step in steps)
    assert not torch.equal(batches[0], batches[windows.steps_per_epoch])  # another order in the next epoch
    assert not torch.equal(batches[0], small_windows(seed=1)(0))


def test_windows_read_a_memory_map(tmp_path):
    tokens = (np.arange(400) * 7 % 30).astype(np.uint16)
    tokens.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")
    assert torch.equal(Windows(mapped, 8, 4)(3), small_windows()(3))


@pytest.mark.parametrize(("tokens", "length", "batch", "says"), [(30, 8, 4, "needs 33"), (30, 0, 4, "length=0")])
def test_windows_refuse_what_gives_no_batch(tokens, length, batch, says):
    with pytest.raises(ValueError, match=says):
        Windows(np.zeros(tokens, dtype=np.int32), length, batch)


def test_a_mixture_takes_its_share_of_each_stream_in_every_batch():
    streams = [np.zeros(200, dtype=np.int32), np.ones(200, dtype=np.int32)]
    batches = Mixture(streams, [0.75, 0.25], length=8, batch_size=4)
    for step in (0, 5, 30):
        assert batches(step).shape == (4, 9)
        assert batches(step)[:, 0].sum() == 1
    assert torch.equal(batches(3), Mixture(streams, [0.75, 0.25], 8, 4)(3))
    assert len(Mixture(streams, [1, 0], 8, 4).parts) == 1


@pytest.mark.parametrize(
    ("shares", "message"),
    [([0.5], "2 streams and 1 shares"), ([0.5, 0.6], "add up to 1"), ([1.5, -0.5], "add up to 1"),
     ([0.9, 0.1], "whole numbers")],
)  # fmt: skip
def test_impossible_mixtures_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        Mixture([np.zeros(50, dtype=np.int32)] * 2, shares, 8, 4)


# --- schedule and optimisers ------------------------------------------------------------------------------------------


@given(st.sampled_from(training.SCHEDULES), st.integers(2, 300), st.floats(0, 0.5), st.floats(0, 0.5))
@settings(deadline=None)
def test_every_schedule_rises_to_one_and_never_rises_again(kind, steps, warmup, decay):
    factors = [schedule(step, steps, kind, warmup, decay) for step in range(steps)]
    top = factors.index(max(factors))
    assert max(factors) == 1 and min(factors) > 0
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_schedules_by_hand():
    assert [schedule(s, 10, "wsd", 0.2, 0.4) for s in range(10)] == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert [schedule(s, 4, "linear", 0.0) for s in range(4)] == [1.0, 1.0, 2 / 3, 1 / 3]
    assert schedule(6, 11, "cosine", 0.05) == pytest.approx(0.5)


def test_cosine_is_torchs():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        ours = schedule(step + 1, 21, "cosine", 1 / 21)  # one step of warm-up first
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((0, 10, "exponential"), "takes wsd"), ((10, 10), "takes 0 to 9"), ((0, 10, "wsd", 0.9, 0.2), "at most 1")],
)
def test_schedule_names_what_is_wrong(arguments, says):
    with pytest.raises(ValueError, match=says):
        schedule(*arguments)


def test_muon_gets_the_matrices_inside_and_every_parameter_has_one_optimizer():
    model = small_model()
    adamw, muon = make_optimizers(model, 1e-3, 1e-2)
    names = {id(p): name for name, p in model.named_parameters()}
    of_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert of_muon == {name for name in names.values() if "proj" in name}
    decayed, free = adamw.param_groups
    assert {names[id(p)] for p in decayed["params"]} == {"embeddings.weight"} and free["weight_decay"] == 0
    assert all("norm" in names[id(p)] for p in free["params"])
    everything = [p for optimizer in (adamw, muon) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, everything)) == sorted(names)
    untied = Decoder(TransformerConfig(30, d_model=16, num_layers=1, num_heads=2, tie_embeddings=False))
    _, muon = make_optimizers(untied, 1e-3, 1e-2)
    assert all(p is not untied.lm_head.weight for group in muon.param_groups for p in group["params"])


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no parameter"):
        make_optimizers(small_model().requires_grad_(False), 1e-3)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_fit_is_the_plain_loop():
    model, windows = small_model(), small_windows()
    by_hand = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in by_hand.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in by_hand.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    losses = []
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * schedule(step, 6, "cosine", 0.3)
        loss = training.next_token_loss(by_hand, windows(step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    log = quiet_fit(model, windows, Settings(6, 1e-2, schedule="cosine", warmup=0.3, clip=0.5, log_every=1))
    assert_close(torch.tensor([line["loss"] for line in log]), torch.tensor(losses))
    assert_close(weights(model), weights(by_hand))
    assert [line["tokens"] for line in log] == [32 * n for n in range(1, 7)]


def test_parts_of_a_batch_give_the_same_step_as_the_whole():
    whole, parts = small_model(), small_model()
    quiet_fit(whole, small_windows(), Settings(5, log_every=1))
    quiet_fit(parts, small_windows(), Settings(5, log_every=1, accumulate=4))
    assert_close(weights(whole), weights(parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns(dtype):
    log = quiet_fit(small_model(), small_windows(), Settings(60, 1e-2, 2e-2, log_every=20), dtype=dtype)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]


def test_the_log_is_written_and_sent_to_callbacks(tmp_path):
    sent = []
    log = quiet_fit(small_model(), small_windows(), Settings(10, log_every=4), folder=tmp_path, callbacks=[sent.append])
    assert sent == log and [line["step"] for line in log] == [4, 8, 10]
    assert training.read_log(tmp_path / "log.csv") == log


def test_tensorboard_reads_what_the_callback_writes(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write = training.tensorboard(tmp_path)
    log = quiet_fit(small_model(), small_windows(), Settings(6, log_every=2), callbacks=[write])
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [line["tokens"] for line in log]
    assert_close([event.value for event in events.Scalars("loss")], [line["loss"] for line in log], rtol=1e-6, atol=0)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    def bad(model, ids):
        return training.next_token_loss(model, ids) * math.nan

    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        quiet_fit(small_model(), small_windows(), Settings(5, log_every=2), loss_of=bad, folder=tmp_path)
    assert not training.checkpoints(tmp_path / "checkpoints")


@pytest.mark.parametrize("bad", [{"steps": 0}, {"learning_rate": 0}, {"schedule": "step"}, {"clip": 0}, {"keep": 0}])
def test_settings_refuse_what_is_no_training(bad):
    with pytest.raises(ValueError):
        Settings(**({"steps": 10} | bad))


# --- checkpoints ------------------------------------------------------------------------------------------------------

RUN = textwrap.dedent("""
    import os, signal, sys
    sys.path[:0] = [{tests!r}]
    import torch
    from pathlib import Path
    from llmbook import training
    from test_training import small_model, small_windows
    torch.set_num_threads(1)
    folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
    def die(line):
        if line["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    if kill_at < 0:  # in the middle of writing a checkpoint
        write = training.save_file
        def half(tensors, path):
            write(tensors, path)
            if Path(path).parent.name.endswith(str(-kill_at)):
                os.kill(os.getpid(), signal.SIGKILL)
        training.save_file = half
    model = small_model(dropout=0.1)
    chosen = training.Settings(24, 1e-2, 2e-2, checkpoint_every=5, log_every=1, accumulate=2)
    training.fit(model, small_windows(), chosen, folder=folder, data="d", callbacks=[die], progress=False)
""")


def run(folder, kill_at=0):
    code = RUN.format(tests=HERE)
    return subprocess.run([sys.executable, "-c", code, str(folder), str(kill_at)], capture_output=True, text=True)


def without_speed(folder):
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in training.read_log(folder / "log.csv")]


@pytest.mark.slow
def test_training_that_is_killed_again_and_again_ends_in_the_same_weights(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole).returncode == 0
    rng = random.Random()
    kills = [rng.randint(1, 9), -15, rng.randint(11, 24)]  # a step, half a checkpoint, another step
    for kill_at in kills:
        assert run(broken, kill_at).returncode == -signal.SIGKILL, kills
    done = run(broken)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), done.stderr  # nothing was refused
    names = [path.name for path in training.checkpoints(broken / "checkpoints")]
    assert names == ["step-0000020", "step-0000024"] and not list(broken.glob("checkpoints/partial-*"))
    ours, theirs = (folder / "checkpoints" / names[-1] / "tensors.safetensors" for folder in (broken, whole))
    assert ours.read_bytes() == theirs.read_bytes(), kills
    assert without_speed(broken) == without_speed(whole), kills


@pytest.fixture
def trained(tmp_path):
    """A finished training of 6 steps with checkpoints of steps 3 and 6."""
    chosen = Settings(6, checkpoint_every=3, log_every=1)
    model = small_model()
    quiet_fit(model, small_windows(), chosen, folder=tmp_path, data="d")
    return tmp_path, chosen, model


def damage_tensors(path):
    file = path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def alter_tensors(path):
    file = path / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def damage_state(path):
    (path / "state.json").write_text((path / "state.json").read_text()[:40])


def other_step(path):
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"identity": {"data": "another text"}}))


def remove_tensors(path):
    (path / "tensors.safetensors").unlink()


@pytest.mark.parametrize("damage", [damage_tensors, alter_tensors, damage_state, other_step, remove_tensors])
def test_a_bad_checkpoint_is_named_and_the_one_before_is_used(trained, damage):
    folder, chosen, model = trained
    damage(folder / "checkpoints" / "step-0000006")
    again = small_model(seed=5)
    with pytest.warns(UserWarning, match="checkpoint not used: .*step-0000006"):
        log = quiet_fit(again, small_windows(), chosen, folder=folder, data="d")
    assert_close(weights(again), weights(model), rtol=0, atol=0)
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("model", "changes", "data", "says"),
    [
        (lambda: small_model(d_model=32), {}, "d", "of another model: embeddings.weight is"),
        (small_model, {"learning_rate": 0.5}, "d", "other settings: learning_rate is 0.002 there and 0.5 here"),
        (small_model, {}, "other", "other data: 'd' there and 'other' here"),
    ],
)
def test_where_no_checkpoint_can_be_used_nothing_is_overwritten(trained, model, changes, data, says):
    folder, chosen, _ = trained
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    chosen = Settings(**(vars(chosen) | changes))
    fresh = model()
    start = weights(fresh)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=says):
        quiet_fit(fresh, small_windows(), chosen, folder=folder, data=data)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert_close(weights(fresh), start, rtol=0, atol=0)


def test_a_full_disk_costs_no_checkpoint(tmp_path, monkeypatch):
    write, full = training.save_file, {"step-0000004"}

    def save_file(tensors, path):
        if str(path).split("partial-")[1].startswith(("0000004", "0000006")) and full:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(training, "save_file", save_file)
    model, chosen = small_model(), Settings(6, checkpoint_every=2, log_every=1)
    with (
        pytest.warns(UserWarning, match="step 4 could not be written .*No space left"),
        pytest.raises(CheckpointError, match=r"step 6 .* Free some space and call fit again"),
    ):
        quiet_fit(model, small_windows(), chosen, folder=tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000002"]
    full.clear()  # space was freed
    again = small_model(seed=1)
    quiet_fit(again, small_windows(), chosen, folder=tmp_path)
    assert_close(weights(again), weights(model), rtol=0, atol=0)


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_an_os_error_and_leaves_nothing(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path; from llmbook import training\n"
        f"sys.path[:0] = [{HERE!r}]; from test_training import small_model\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: training.save_checkpoint(Path(sys.argv[1]), 1, small_model(), [])\n"
        "except OSError as error: print('refused', list(Path(sys.argv[1]).iterdir()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "refused []\n", done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2000


def test_a_line_of_the_log_that_was_cut_off_is_dropped(trained):
    folder, _, _ = trained
    path = folder / "log.csv"
    whole = training.read_log(path)
    text = path.read_text()
    path.write_text(text[: text.rstrip().rfind(",") - 5])
    assert training.read_log(path) == whole[:-1]


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (96, 48), (7, 7)])
def test_muon_in_float32_equals_that_of_torch_to_the_precision_of_bfloat16(shape):
    draw = torch.Generator().manual_seed(0)
    theirs = nn.Parameter(torch.randn(shape, generator=draw))
    ours = nn.Parameter(theirs.detach().clone())
    optimizers = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1), Float32Muon([ours], lr=0.02, weight_decay=0.1)
    for _ in range(5):
        theirs.grad = torch.randn(shape, generator=draw)
        ours.grad = theirs.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("precision", "kind"), [("bfloat16", torch.optim.Muon), ("float32", Float32Muon)])
def test_muon_computes_in_what_the_processor_is_fast_in(monkeypatch, precision, kind):
    monkeypatch.setattr("llmbook.runtime.fast_precision", lambda device: precision)
    assert type(make_optimizers(nn.Sequential(nn.Linear(3, 4)), 1e-3, 1e-2)[-1]) is kind
