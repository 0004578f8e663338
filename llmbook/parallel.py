"""One training step in several processes: data, sharded and tensor parallelism, by hand and by torch (chapter 11).

As a script under ``torchrun`` it trains the same small decoder in each way and writes losses, gradients and the bytes
that were sent; :func:`launch` starts it from a notebook::

    torchrun --nproc-per-node 2 --master-addr 127.0.0.1 -m llmbook.parallel FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llmbook.training import next_token_loss
from llmbook.transformer import Decoder, TransformerConfig

# torch renamed the two collectives in 2.13
_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


# --- what the processes share ----------------------------------------------------------------------------------------


def my_rows(batch: Tensor, rank: int, world: int) -> Tensor:
    """Return the rows of a batch ``(batch, ...)`` that process ``rank`` of ``world`` computes.

    Raises:
        ValueError: the rows cannot be shared out evenly; the mean of unequal parts' means is not the batch's mean. Rows
            with different numbers of labels need :func:`loss_factor` as well.
    """
    if len(batch) % world:
        raise ValueError(
            f"a batch of {len(batch)} rows cannot be shared by {world} processes: take a multiple of {world}"
        )
    return batch.chunk(world)[rank]


def ring_bytes(operation: str, size: float, world: int) -> float:
    """Return the bytes that each process sends in a collective on a ring.

    Args:
        operation: ``all_reduce``, ``all_gather`` or ``reduce_scatter``.
        size: bytes of the whole tensor: what is summed, what the gathering ends with, or what the scattering began
            with.
        world: number of processes.

    Raises:
        ValueError: another operation, or no process.
    """
    rounds = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
    if operation not in rounds or world < 1:
        raise ValueError(f"operation={operation!r}, world={world}: it takes {', '.join(rounds)} and at least 1 process")
    return rounds[operation] * size * (world - 1) / world


def ring_all_reduce(tensor: Tensor) -> None:
    """Sum a tensor over all processes in place, sending only to the next process and receiving from the last.

    The tensor is cut into as many chunks as there are processes. In the first ``world - 1`` rounds chunks travel and
    are added up, after which each process holds one finished chunk; in the second ``world - 1`` rounds those travel.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    chunks = list(tensor.view(-1).tensor_split(world))  # world x (about numel / world,)
    for lap in range(2 * (world - 1)):
        out, into = (rank - lap) % world, (rank - lap - 1) % world
        received = torch.empty_like(chunks[into])
        send = dist.P2POp(dist.isend, chunks[out].clone(), (rank + 1) % world)
        receive = dist.P2POp(dist.irecv, received, (rank - 1) % world)
        for request in dist.batch_isend_irecv([send, receive]):  # both at once: a ring of waiting senders would stand
            request.wait()
        if lap < world - 1:
            chunks[into] += received
        else:
            chunks[into].copy_(received)


# --- data parallelism ------------------------------------------------------------------------------------------------


def average_gradients(model: nn.Module, all_reduce: Callable[[Tensor], Any] = dist.all_reduce) -> None:
    """Replace each gradient by its mean over the processes: one sum of all gradients end to end, then a division."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    flat = torch.cat([cast(Tensor, p.grad).flatten() for p in parameters])  # (parameters,)
    all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def loss_factor(count: float, device: torch.device | str = "cpu") -> float:
    """Return by what this process multiplies its mean loss, so that the processes' mean is that of all their labels.

    :func:`average_gradients`, ``ShardedAdamW``, DDP and FSDP average over processes, as is right where each has as many
    labels. With padding they have not, and a process may have none, whose factor is 0. All processes call it together::

        count = objectives.count_averaged(loss_of, model, rows)
        (loss_of(model, rows) * parallel.loss_factor(count)).backward()

    Args:
        count: labels over which this process's loss is a mean.
        device: where the processes' backend sums, ``cuda`` for NCCL.
    """
    total = torch.tensor(float(count), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return count * dist.get_world_size() / total.item() if total.item() else 1.0


# --- sharded data parallelism ----------------------------------------------------------------------------------------


class ShardedAdamW:
    """AdamW of which each process holds one part: weights, gradients and state (ZeRO, Rajbhandari et al. 2020).

    All parameters end to end are one vector, padded so that it divides. Between the steps a process holds its part of
    it and nothing else of the model.
    """

    def __init__(self, model: nn.Module, learning_rate: float, betas: tuple[float, float] = (0.9, 0.95)) -> None:
        """Keep this process's part of the model's weights and free the rest; every process starts with the same."""
        self.model, self.world = model, dist.get_world_size()
        self.shapes = [p.shape for p in model.parameters()]
        flat = torch.cat([p.detach().flatten() for p in model.parameters()])  # (parameters,)
        self.size = flat.numel()
        self.padded = -(-self.size // self.world) * self.world
        flat = nn.functional.pad(flat, (0, self.padded - self.size))  # (padded,)
        self.mine = nn.Parameter(flat.chunk(self.world)[dist.get_rank()].clone())  # (padded / world,)
        self.optimizer = torch.optim.AdamW([self.mine], lr=learning_rate, betas=betas, weight_decay=0.0)
        self.free()

    def free(self) -> None:
        """Let go of the weights and gradients of the whole model."""
        for parameter in self.model.parameters():
            parameter.data, parameter.grad = parameter.new_empty(0), None

    def gather(self) -> None:
        """Bring the whole model's weights together, to compute with them."""
        flat = self.mine.new_empty(self.padded)  # (padded,)
        _gather(flat, self.mine.detach())
        parts = flat[: self.size].split([shape.numel() for shape in self.shapes])
        for parameter, part, shape in zip(self.model.parameters(), parts, self.shapes, strict=True):
            parameter.data = part.view(shape)

    def reduce_gradients(self) -> None:
        """Leave in each process the mean gradient of its own part, and free the whole model."""
        flat = torch.cat([cast(Tensor, p.grad).flatten() for p in self.model.parameters()])  # (parameters,)
        flat = nn.functional.pad(flat, (0, self.padded - self.size))  # (padded,)
        grad = torch.empty_like(self.mine)  # (padded / world,)
        _reduce_scatter(grad, flat)
        self.mine.grad = grad / self.world
        self.free()

    def step(self) -> None:
        """Update this process's part."""
        self.optimizer.step()


# --- tensor parallelism ----------------------------------------------------------------------------------------------


class _Copy(torch.autograd.Function):
    """The same tensor for every process's part; backward, the parts' gradients are added up."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


class _Sum(torch.autograd.Function):
    """The sum of the processes' parts; backward, each part has the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Split(nn.Module):
    """A sublayer of which each process has a part: it reads the whole input, and the outputs are added up."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, hidden: Tensor, *arguments: Any) -> Any:
        output = self.part(_Copy.apply(hidden), *arguments)
        if isinstance(output, tuple):  # attention: output, weights, keys and values
            return _Sum.apply(output[0]), *output[1:]
        return _Sum.apply(output)


def check_split(config: TransformerConfig, world: int) -> None:
    """Refuse a model that cannot be cut into ``world`` equal parts by heads and hidden features.

    Raises:
        ValueError: heads or hidden features that do not divide, or layers with a bias.
    """
    for name in ("num_heads", "num_key_value_heads", "d_ff"):
        if getattr(config, name) % world:
            raise ValueError(
                f"{name}={getattr(config, name)} cannot be shared by {world} processes: change it to a multiple of "
                f"{world}, or use fewer processes"
            )
    if config.bias:
        raise ValueError(
            "bias=True: the sum over the processes would count output biases once for each; use bias=False"
        )


def tensor_parallel(model: Decoder, rank: int, world: int) -> Decoder:
    """Keep in place one part of every block's heads and hidden features (Shoeybi et al. 2019, arXiv:1909.08053).

    Layers that make heads or hidden features are cut by output (rows of ``weight``), layers that read them by input
    (columns). A parameter that was cut carries ``cut``, the axis. Embeddings, norms and head stay whole.

    Raises:
        ValueError: the model cannot be cut evenly, see :func:`check_split`.
    """
    check_split(model.config, world)

    def cut(linear: nn.Linear, axis: int) -> None:
        linear.weight = nn.Parameter(linear.weight.detach().chunk(world, dim=axis)[rank].clone())
        linear.weight.cut = axis  # type: ignore[attr-defined]

    for block in cast(Sequence[Any], model.stack.blocks):
        for name in ("q_proj", "k_proj", "v_proj"):
            cut(getattr(block.attention, name), 0)
        cut(block.attention.o_proj, 1)
        block.attention.num_heads //= world
        block.attention.num_key_value_heads //= world
        for name in ("up_proj", "gate_proj"):
            if getattr(block.feed_forward, name) is not None:
                cut(getattr(block.feed_forward, name), 0)
        cut(block.feed_forward.down_proj, 1)
        block.attention, block.feed_forward = _Split(block.attention), _Split(block.feed_forward)
    return model


def tensor_parallel_plan(model: Decoder, world: int) -> dict[str, Any]:
    """Return the same cut as :func:`tensor_parallel` as a plan for torch's ``parallelize_module``.

    Heads are counted per process there, so the attentions' numbers of heads are divided in place.

    Raises:
        ValueError: the model cannot be cut evenly.
    """
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    check_split(model.config, world)
    plan: dict[str, Any] = {}
    for number, block in enumerate(cast(Sequence[Any], model.stack.blocks)):
        block.attention.num_heads //= world
        block.attention.num_key_value_heads //= world
        layers = {"attention": ("q_proj", "k_proj", "v_proj"), "feed_forward": ("up_proj", "gate_proj")}
        for sublayer, names in layers.items():
            for name in names:
                if getattr(getattr(block, sublayer), name) is not None:
                    plan[f"stack.blocks.{number}.{sublayer}.{name}"] = ColwiseParallel()
        plan[f"stack.blocks.{number}.attention.o_proj"] = RowwiseParallel()
        plan[f"stack.blocks.{number}.feed_forward.down_proj"] = RowwiseParallel()
    return plan


# --- counting what is sent -------------------------------------------------------------------------------------------


#: The dispatcher's names of collectives: what each is, and where the whole tensor stands among its arguments.
_COLLECTIVES = {
    "c10d::allreduce_": ("all_reduce", 0),
    "c10d::_allgather_base_": ("all_gather", 0),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d::send": ("send", 0),
    "_c10d_functional::all_reduce": ("all_reduce", 0),
}


class Meter(TorchDispatchMode):
    """While it is entered, counts the collectives of this process and the bytes a ring sends for them.

    It sees what torch's dispatcher sees: whoever calls the collective, by hand, DDP, FSDP2 or DTensor. Barriers are
    not counted.
    """

    def __init__(self) -> None:
        """Start from zero."""
        super().__init__()
        self.calls: dict[str, int] = {}
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Count, and let it happen."""
        found = _COLLECTIVES.get(func._schema.name)
        if found is not None:
            operation, place = found
            tensors = args[place] if isinstance(args[place], list | tuple) else [args[place]]
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.calls[operation] = self.calls.get(operation, 0) + 1
            self.bytes += size if operation == "send" else ring_bytes(operation, size, dist.get_world_size())
        return func(*args, **(kwargs or {}))


def wire_bytes() -> int | None:
    """Return how many bytes the kernel has sent over the loopback device so far; ``None`` where it does not say."""
    path = Path("/sys/class/net/lo/statistics/tx_bytes")
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


# --- the same training in every way ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What every scheme trains: a small decoder on random tokens, the same in all processes.

    Attributes:
        vocab_size: tokens.
        d_model: features of a token.
        num_layers: blocks.
        num_heads: heads of attention.
        d_ff: hidden features.
        batch: rows of a batch, of all processes together.
        length: tokens that a row predicts.
        steps: of training.
        learning_rate: of AdamW.
        seed: of weights and tokens.
    """

    vocab_size: int = 256
    d_model: int = 128
    num_layers: int = 2
    num_heads: int = 4
    d_ff: int = 256
    batch: int = 8
    length: int = 32
    steps: int = 4
    learning_rate: float = 1e-3
    seed: int = 0

    def model(self) -> Decoder:
        """Return the model with its first weights."""
        torch.manual_seed(self.seed)
        shape = self.d_model, self.num_layers, self.num_heads
        return Decoder(TransformerConfig(self.vocab_size, *shape, d_ff=self.d_ff))

    def batches(self) -> Tensor:
        """Return all batches ``(steps, batch, length + 1)``."""
        generator = torch.Generator().manual_seed(self.seed)
        size = self.steps, self.batch, self.length + 1
        return torch.randint(0, self.vocab_size, size, generator=generator)

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(parameters, lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)


SCHEMES = (
    "data, ring by hand", "data, by hand", "data, DDP", "sharded, by hand", "sharded, FSDP2", "tensor, by hand",
    "tensor, DTensor",
)  # fmt: skip


@dataclass
class Run:
    """What a scheme did.

    Attributes:
        losses: mean loss of each step's batch before the step, in nats.
        gradient: of the first step, all parameters end to end ``(parameters,)``.
        calls: collectives of one step, by kind.
        counted: bytes that a process sends in one step, by what it asked for (see :class:`Meter`).
        wire: bytes that the kernel saw on the loopback device in one step, per process; the least of the steps after
            the first, since others use the device too. ``None`` where the kernel does not say.
        held: bytes of weights, gradients and optimiser state that a process holds between two steps.
    """

    losses: list[float]
    gradient: Tensor
    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    counted: float = 0.0
    wire: float | None = None
    held: int = 0


def train_alone(task: Task) -> Run:
    """Train in one process."""
    model = task.model()
    optimizer = task.optimizer(model.parameters())
    losses, gradient = [], torch.empty(0)
    for step, ids in enumerate(task.batches()):
        loss = next_token_loss(model, ids)
        loss.backward()
        if step == 0:
            gradient = torch.cat([cast(Tensor, p.grad).flatten() for p in model.parameters()])  # (parameters,)
        optimizer.step()
        model.zero_grad()
        losses.append(loss.item())
    return Run(losses, gradient, held=_held(model.parameters(), optimizer))


def _held(parameters: Any, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights and the optimiser's state (gradients are as large as the weights, and counted with them)."""
    total = 0
    for parameter in parameters:
        tensors = [parameter, parameter]
        tensors += [value for value in optimizer.state.get(parameter, {}).values() if torch.is_tensor(value)]
        for tensor in tensors:
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            total += local.numel() * local.element_size() * (local.ndim > 0)  # the step's number does not count
    return total


def train_together(task: Task, scheme: str, device: torch.device | None = None) -> Run:
    """Train in this process and its neighbours by one of ``SCHEMES``; all return the same losses and gradient.

    Args:
        task: what to train.
        scheme: how to share it.
        device: of this process; by default the CPU.

    Raises:
        ValueError: an unknown scheme, or a task that the processes cannot share.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r}: it takes {', '.join(SCHEMES)}")
    rank, world = dist.get_rank(), dist.get_world_size()
    kind, way = scheme.split(", ")
    device = device or torch.device("cpu")
    model: Any = task.model().to(device)
    module, sharded = model, None
    if way == "DDP":
        module = nn.parallel.DistributedDataParallel(model)
    elif scheme == "sharded, by hand":
        sharded = ShardedAdamW(model, task.learning_rate)
    elif way == "FSDP2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world,))
        for block in model.stack.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif scheme == "tensor, by hand":
        tensor_parallel(model, rank, world)
    elif way == "DTensor":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import parallelize_module

        parallelize_module(model, init_device_mesh(device.type, (world,)), tensor_parallel_plan(model, world))
    optimizer = sharded.optimizer if sharded else task.optimizer(model.parameters())
    run, wires = Run([], torch.empty(0)), []
    for step, ids in enumerate(task.batches().to(device)):
        rows = ids if kind == "tensor" else my_rows(ids, rank, world)  # (batch / world, length + 1)
        dist.barrier()
        before = wire_bytes()
        with Meter() as meter:
            if sharded:
                sharded.gather()
            loss = next_token_loss(module, rows)
            loss.backward()
            if sharded:
                sharded.reduce_gradients()
            elif way == "by hand" and kind == "data":
                average_gradients(model)
            elif way == "ring by hand":
                average_gradients(model, ring_all_reduce)
        dist.barrier()
        after = wire_bytes()
        if before is not None and after is not None and step and device.type == "cpu":
            wires.append((after - before) / world)
        run.calls, run.counted = meter.calls, meter.bytes
        if step == 0:
            run.gradient = _whole_gradient(model, sharded)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        run.losses.append(mean.item() / world)
    run.wire = min(wires) if wires else None
    run.held = _held([sharded.mine] if sharded else list(model.parameters()), optimizer)
    return run


def _whole_gradient(model: Any, sharded: ShardedAdamW | None) -> Tensor:
    """Bring the gradient of all parameters together, ``(parameters,)``, in every process."""
    if sharded is not None:
        flat = sharded.mine.new_empty(sharded.padded)
        _gather(flat, cast(Tensor, sharded.mine.grad))
        return flat[: sharded.size]
    parts = []
    for parameter in model.parameters():
        grad = parameter.grad
        if hasattr(grad, "full_tensor"):
            grad = grad.full_tensor()
        elif hasattr(parameter, "cut"):
            pieces = [torch.empty_like(grad) for _ in range(dist.get_world_size())]
            dist.all_gather(pieces, grad.contiguous())
            grad = torch.cat(pieces, dim=parameter.cut)
        parts.append(grad.flatten())
    return torch.cat(parts)


# --- pipelines -------------------------------------------------------------------------------------------------------


def bubble(stages: int, microbatches: int) -> float:
    """Return the share of time in which a stage of a pipeline waits (Huang et al. 2019, arXiv:1811.06965).

    All micro-batches go forward, then all go back; a stage takes the same time for each.

    Raises:
        ValueError: no stage or no micro-batch.
    """
    if stages < 1 or microbatches < 1:
        raise ValueError(f"stages={stages}, microbatches={microbatches}: both take a whole number from 1 up")
    return (stages - 1) / (microbatches + stages - 1)


# --- starting processes ----------------------------------------------------------------------------------------------


def command(folder: Path, task: Task, schemes: Sequence[str], processes: int, port: int) -> list[str]:
    """Return the command line that runs this file in several processes on this machine."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-addr", "127.0.0.1",
        "--master-port", str(port), "-m", "llmbook.parallel", str(folder), "--schemes", *schemes, "--task",
        json.dumps(dataclasses.asdict(task)),
    ]  # fmt: skip


def launch(
    task: Task | None = None, schemes: Sequence[str] = SCHEMES, processes: int = 2, timeout: float = 180.0
) -> dict[str, Run]:
    """Train a task by each scheme in processes on this machine, one thread each, and return what each did.

    The processes talk over the loopback device (gloo): no network is needed. They are gone when this returns, however
    it returns.

    Args:
        task: what to train.
        schemes: some of ``SCHEMES``.
        processes: how many.
        timeout: seconds after which all are killed.

    Raises:
        ValueError: a task that so many processes cannot share.
        TimeoutError: it took too long.
        RuntimeError: a process failed; the message has the end of what it wrote.
    """
    task = task or Task()
    for scheme in schemes:
        if scheme.startswith("tensor"):
            check_split(task.model().config, processes)
        else:
            my_rows(task.batches()[0], 0, processes)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    names = {name for _, name in socket.if_nameindex()} if hasattr(socket, "if_nameindex") else set()
    for name in names & {"lo", "lo0"}:  # or gloo looks up the machine's own name, which may lead nowhere
        environment["GLOO_SOCKET_IFNAME"] = name
    with tempfile.TemporaryDirectory() as folder:
        line = command(Path(folder), task, schemes, processes, _free_port())
        with _group(line, environment) as process:
            try:
                _, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"{processes} processes were not done after {timeout:g} s and were killed") from None
        if process.returncode:
            raise RuntimeError(f"a process failed:\n{errors.decode(errors='replace')[-3000:]}")
        gradients = load_file(Path(folder) / "gradients.safetensors")
        found = json.loads((Path(folder) / "runs.json").read_text(encoding="utf8"))
    return {name: Run(gradient=gradients[name], **rest) for name, rest in found.items()}


@contextlib.contextmanager
def _group(line: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own, and end it and all it started on the way out.

    torchrun puts its workers into groups of their own and ends them when it is asked to end itself.
    """
    process = subprocess.Popen(
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=20)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Train by every scheme asked for and let the first process write what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where runs.json and gradients.safetensors go")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, help="some of: " + "; ".join(SCHEMES))
    parser.add_argument("--backend", choices=("gloo", "nccl"), default="gloo", help="gloo: CPU; nccl: one GPU each")
    parser.add_argument("--task", type=json.loads, default={}, help="what differs from the defaults of Task, as JSON")
    arguments = parser.parse_args()

    warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module.*")  # nothing is changed in place here
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if arguments.backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(arguments.backend)
    try:
        task = Task(**arguments.task)
        runs = {scheme: train_together(task, scheme, device) for scheme in arguments.schemes}
        if dist.get_rank() == 0:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            save_file({name: run.gradient.cpu().clone() for name, run in runs.items()},
                      arguments.folder / "gradients.safetensors")  # fmt: skip
            rest = {
                name: {field: value for field, value in vars(run).items() if field != "gradient"}
                for name, run in runs.items()
            }
            (arguments.folder / "runs.json").write_text(json.dumps(rest), encoding="utf8")
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
