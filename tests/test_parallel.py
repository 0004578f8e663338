"""Several processes train what one process trains, and send what the formulas say."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llmbook import parallel, training
from llmbook.transformer import Decoder, TransformerConfig

TASK = parallel.Task(vocab_size=64, d_model=32, d_ff=48, steps=3)


def processes_with(word):
    """Command lines of running processes that contain a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return parallel.train_alone(TASK)


@pytest.fixture(scope="module")
def together():
    """All schemes in two processes under torchrun."""
    return parallel.launch(TASK, timeout=240)


@pytest.mark.parametrize("scheme", parallel.SCHEMES)
def test_two_processes_have_the_losses_and_gradients_of_one(scheme, alone, together):
    run = together[scheme]
    assert_close(run.losses, alone.losses, rtol=0, atol=2e-5)
    assert_close(run.gradient, alone.gradient, rtol=1e-4, atol=1e-6)


def test_processes_send_what_the_formulas_say(alone, together):
    size = 4 * alone.gradient.numel()  # bytes
    whole = parallel.ring_bytes("all_reduce", size, 2)
    assert together["data, ring by hand"].counted == whole
    assert together["data, by hand"].counted == whole
    assert together["data, DDP"].counted == whole
    assert together["sharded, by hand"].counted == pytest.approx(whole, abs=16)  # padded
    blocks = 4 * sum(p.numel() for p in TASK.model().stack.blocks.parameters())
    again = parallel.ring_bytes("all_gather", blocks, 2)  # before the backward pass
    assert together["sharded, FSDP2"].counted == pytest.approx(whole + again, rel=0.01)
    one = parallel.ring_bytes("all_reduce", 4 * TASK.batch * TASK.length * TASK.d_model, 2)
    assert together["tensor, by hand"].counted == 4 * TASK.num_layers * one
    assert together["tensor, by hand"].calls == {"all_reduce": 4 * TASK.num_layers}


def test_the_kernel_saw_at_least_what_was_counted(together):
    for run in together.values():
        if run.wire is not None:  # others may use the loopback device too
            assert run.wire > 0.99 * run.counted


def test_shards_hold_half_of_the_state(alone, together):
    assert alone.held == 16 * alone.gradient.numel()  # bytes: weight, gradient, two means
    assert together["data, DDP"].held == alone.held
    for scheme in ("sharded, by hand", "sharded, FSDP2"):
        assert together[scheme].held == pytest.approx(alone.held / 2, rel=0.01)
    assert alone.held / 2 < together["tensor, by hand"].held < alone.held  # the embeddings stay whole


@pytest.mark.slow
def test_a_launch_that_takes_too_long_is_killed_with_all_its_processes(monkeypatch):
    communicate = subprocess.Popen.communicate

    def too_long(process, timeout=None):
        """Let the time be over once torchrun and both of its workers are there."""
        if timeout == 600:
            while len(processes_with("987123")) < 3 and process.poll() is None:
                time.sleep(0.1)
            timeout = 0.1
        return communicate(process, timeout=timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", too_long)
    with pytest.raises(TimeoutError, match="not done after 600 s and were killed"):
        parallel.launch(parallel.Task(steps=987_123), ["data, by hand"], timeout=600)
    deadline = time.monotonic() + 60
    while processes_with("987123") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_with("987123")


@pytest.mark.slow
def test_a_process_that_fails_is_reported():
    with pytest.raises(RuntimeError, match="scheme='data, by magic': it takes data, ring by hand"):
        parallel.launch(TASK, ["data, by magic"])


def test_a_task_that_does_not_divide_is_refused_before_a_process_starts():
    with pytest.raises(ValueError, match="num_heads=4 cannot be shared by 3 processes"):
        parallel.launch(TASK, ["tensor, by hand"], processes=3)
    with pytest.raises(ValueError, match="a batch of 8 rows cannot be shared by 3 processes: take a multiple of 3"):
        parallel.launch(TASK, ["data, by hand"], processes=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3, "d_head": 8}, "num_heads=3 cannot be shared by 2"),
        ({"num_heads": 4, "num_key_value_heads": 1}, "num_key_value_heads=1 cannot be shared by 2"),
        ({"d_ff": 33}, "d_ff=33 cannot be shared by 2"),
        ({"bias": True}, "bias=True"),
    ],
)
def test_a_model_that_cannot_be_cut_evenly_is_refused(change, message):
    config = TransformerConfig(**({"vocab_size": 20, "d_model": 24, "num_layers": 1, "num_heads": 4} | change))
    with pytest.raises(ValueError, match=message):
        parallel.tensor_parallel(Decoder(config), 0, 2)
    with pytest.raises(ValueError, match=message):
        parallel.tensor_parallel_plan(Decoder(config), 2)


@given(st.integers(1, 6), st.integers(1, 5))
def test_rows_are_shared_out_once(world, each):
    batch = torch.arange(world * each * 2).view(world * each, 2)
    parts = [parallel.my_rows(batch, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat(parts), batch)
    assert {len(part) for part in parts} == {each}


def test_parts_of_a_model_add_up_to_its_weights():
    config = TransformerConfig(20, d_model=16, num_layers=2, num_heads=4, d_ff=24)
    torch.manual_seed(0)
    whole = Decoder(config)
    parts = []
    for rank in range(4):
        torch.manual_seed(0)
        parts.append(parallel.tensor_parallel(Decoder(config), rank, 4))
    named = [dict(part.named_parameters()) for part in parts]
    for name, weight in whole.named_parameters():
        path = name.replace("attention.", "attention.part.").replace("feed_forward.", "feed_forward.part.")
        pieces = [of[path] for of in named]
        cut = getattr(pieces[0], "cut", None)
        assert_close(pieces[0] if cut is None else torch.cat(pieces, dim=cut), weight, rtol=0, atol=0)


@given(st.floats(1, 1e12), st.integers(1, 1000))
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(size, world):
    parts = parallel.ring_bytes("reduce_scatter", size, world) + parallel.ring_bytes("all_gather", size, world)
    assert parallel.ring_bytes("all_reduce", size, world) == pytest.approx(parts)
    assert parallel.ring_bytes("all_reduce", size, world) < 2 * size or world == 1e9


def test_formulas_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="operation='broadcast'"):
        parallel.ring_bytes("broadcast", 8, 2)
    with pytest.raises(ValueError, match="stages=0"):
        parallel.bubble(0, 4)


@given(st.integers(1, 8), st.integers(1, 12))
def test_the_bubble_is_what_a_simulated_pipeline_waits(stages, microbatches):
    ends = {}
    for forward in (True, False):
        start = max(ends.values(), default=0)
        order = range(stages) if forward else reversed(range(stages))
        for stage in order:
            for part in range(microbatches):
                before = ends.get((forward, part, stage - 1 if forward else stage + 1), start)
                own = ends.get((forward, part - 1, stage), start)
                ends[forward, part, stage] = max(before, own) + 1
    total = max(ends.values())
    assert 1 - 2 * microbatches / total == pytest.approx(parallel.bubble(stages, microbatches))


@pytest.mark.slow
def test_the_script_runs_by_its_command(tmp_path):
    line = parallel.command(tmp_path, TASK, ["data, by hand"], 1, parallel._free_port())
    done = subprocess.run(line, capture_output=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert {path.name for path in tmp_path.iterdir()} == {"runs.json", "gradients.safetensors"}
    assert line[:3] == [sys.executable, "-m", "torch.distributed.run"]


def test_training_alone_is_what_the_loop_of_chapter_10_does(alone):
    model, optimizer = TASK.model(), None
    optimizer = TASK.optimizer(model.parameters())
    losses = []
    for ids in TASK.batches():
        loss = training.next_token_loss(model, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == alone.losses
