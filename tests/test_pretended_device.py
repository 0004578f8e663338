"""The pretended accelerator refuses what CUDA refuses, and computes what the CPU computes."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

import pretended


@pytest.fixture(scope="module")
def device():
    return pretended.install()


def network(seed: int = 0) -> nn.Sequential:
    """A net with tied tables, a norm and dropout."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Embedding(7, 8), nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 7)
    )
    net[5].weight = net[0].weight
    return net


def pair(device, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same numbers on the CPU and on the device, both with a gradient."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.clone().requires_grad_(), x.to(device).requires_grad_()


# what each raises on CUDA, with the words in CUDA's message
REFUSED = {
    "a sum of two devices": (lambda d: torch.ones(2, device=d) + torch.ones(2), RuntimeError, "same device"),
    "a product": (lambda d: torch.ones(2, 2, device=d) @ torch.ones(2, 2), RuntimeError, "same device"),
    "ids on the CPU": (lambda d: nn.Embedding(3, 2).to(d)(torch.tensor([1])), RuntimeError, "same device"),
    "labels on the CPU": (
        lambda d: F.cross_entropy(torch.ones(2, 3, device=d), torch.tensor([0, 1])), RuntimeError, "same device",
    ),
    "a mask on the CPU": (
        lambda d: torch.ones(2, device=d).masked_fill(torch.tensor([True, False]), 0.0), RuntimeError, "same device",
    ),
    "attention over two devices": (
        lambda d: F.scaled_dot_product_attention(*torch.ones(2, 1, 1, 2, 4, device=d), torch.ones(1, 1, 2, 4)),
        RuntimeError, "same device",
    ),
    "values for another device's places": (
        lambda d: torch.ones(3, device=d).index_put_((torch.tensor([0, 1]),), torch.zeros(2)),
        RuntimeError, "same device",
    ),
    "indices of the device into the CPU": (
        lambda d: torch.ones(3)[torch.tensor([0], device=d)], RuntimeError, "indices should be either on cpu or",
    ),
    "numpy": (lambda d: torch.ones(2, device=d).numpy(), TypeError, r"Use Tensor.cpu\(\) to copy"),
    "numpy by its function": (lambda d: np.asarray(torch.ones(2, device=d)), TypeError, r"Use Tensor.cpu\(\) to copy"),
    "numpy of a list": (lambda d: np.array([torch.ones((), device=d)]), TypeError, r"Use Tensor.cpu\(\) to copy"),
    "a generator of the CPU": (
        lambda d: torch.rand(2, device=d, generator=torch.Generator()), RuntimeError, "device type for generator but",
    ),
    "drawing with a generator of the CPU": (
        lambda d: torch.multinomial(torch.ones(2, device=d), 1, generator=torch.Generator()),
        RuntimeError, "for generator",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_gpu_refuses_is_refused(device, what):
    call, kind, words = REFUSED[what]
    with pytest.raises(kind, match=words):
        call(device)


def test_double_precision_can_be_refused(device):
    assert torch.ones(2, dtype=torch.float64, device=device).sum().item() == 2
    pretended.install(float64=False)
    try:
        with pytest.raises(TypeError, match="doesn't support float64"):
            torch.ones(2, device=device).double()
        assert torch.ones(2).double().dtype is torch.float64
    finally:
        pretended.install()


def test_what_a_gpu_allows_is_allowed(device):
    x = torch.arange(6.0, device=device).view(2, 3)
    assert_close((x + torch.tensor(1.0)).cpu(), torch.arange(1.0, 7).view(2, 3))  # a number on the CPU
    assert x[torch.tensor([1])].tolist() == [[3, 4, 5]]  # indices on the CPU
    x[0] = torch.tensor([9.0, 9, 9])  # a copy
    x[1, torch.tensor(2)] = 7
    assert x[:, [0, 2]].tolist() == [[9, 9], [3, 7]] and x[np.array([1]), 0].tolist() == [3]
    x[:, [1]] = x[:, [1]] * 1
    assert x.tolist() == [[9, 9, 9], [3, 4, 7]] and x.cpu().numpy().sum() == 41
    assert f"{x.sum():.1f} {float(x.max())} {int(x.argmax())}" == "41.0 9.0 0" and "pretended:0" in repr(x)
    assert x.device != device and x.device == torch.device("pretended", 0)  # as `cuda:0` is not `cuda`


def test_tensors_are_made_on_the_device(device):
    made = [
        torch.zeros(2, device=device), torch.tensor([1, 2], device=device), torch.as_tensor([1.0], device=device),
        torch.arange(3, device=device), torch.randint(3, (2,), device=device), torch.eye(2, device=device),
        torch.ones(1, device=device).new_tensor([2.0]), torch.from_numpy(np.ones(2)).to(device),
    ]  # fmt: skip
    assert all(type(tensor) is pretended.Pretended and tensor.device.type == "pretended" for tensor in made)
    assert [len(tensor) for tensor in made] == [2, 2, 1, 3, 2, 2, 1, 2] and torch.tensor(made[1]).tolist() == [1, 2]


def test_tensors_are_made_where_a_context_says(device):
    with torch.device("meta"):
        assert torch.tensor([1, 2]).device.type == torch.arange(2).device.type == "meta"


def test_generators_of_the_device_draw_on_it(device):
    draws = [torch.rand(3, device=device, generator=torch.Generator(device).manual_seed(1)).tolist() for _ in range(2)]
    assert draws[0] == draws[1] and torch.Generator(device=device).device.type == "pretended"
    assert isinstance(torch.default_generator, torch.Generator) and torch.Generator().device.type == "cpu"


@pytest.mark.parametrize("mask, causal", [(None, False), (None, True), ("bool", False), ("float", False)])
def test_attention_and_its_gradient_are_those_of_the_cpu(device, mask, causal):
    here, there = pair(device, 2, 4, 5, 8)
    options = {"attn_mask": None if mask is None else torch.ones(5, 5).tril().bool(), "is_causal": causal}
    if mask == "float":
        options["attn_mask"] = torch.randn(5, 5)
    found = []
    for x in (here, there):
        moved = {name: value.to(x.device) if torch.is_tensor(value) else value for name, value in options.items()}
        out = F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True, **moved)
        out.square().sum().backward()
        found.append((out.detach().cpu(), x.grad.cpu()))
    assert_close(found[0], found[1])


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"foreach": False}])
def test_training_gives_the_numbers_of_the_cpu(device, options):
    states = []
    for place in ("cpu", device):
        net = network()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, **options)  # before the move, as it may be on a GPU
        weight = net[0].weight
        net.to(place)
        assert net[0].weight is weight and net[5].weight is weight
        torch.manual_seed(1)
        ids = torch.arange(7, device=place)
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(net(ids), ids.flip(0)).backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
        states.append(({name: p.detach().cpu() for name, p in net.state_dict().items()}, norm.cpu()))
    assert_close(states[0], states[1])


def test_weights_are_merged_in_place(device):
    x = torch.randn(4, 8)
    found = []
    for place in ("cpu", device):
        net = network().eval().to(place)
        with torch.no_grad():
            net[1].weight += 0.5 * torch.eye(8, device=place)
            net[1].weight.data.mul_(2)
            net[1].weight.data = net[1].weight.data + 1
            net[1].weight[0] = 3.0
            net[0].weight.copy_(torch.ones(7, 8))
            net[1].bias.data = torch.zeros(8, device=place)
        found.append([part.detach().cpu() for part in (net[1](x.to(place)), net[5].weight, net[1].weight)])
    assert_close(found[0], found[1])


def test_copies_keep_ties_and_gradients(device):
    net = network().to(device)
    net(torch.tensor([1], device=device)).sum().backward()
    twin = copy.deepcopy(net)
    assert twin[0].weight is twin[5].weight and twin[0].weight is not net[0].weight
    assert_close(twin[1].weight.grad.cpu(), net[1].weight.grad.cpu())
    with torch.no_grad():
        twin[0].weight.zero_()
    assert net[0].weight.abs().sum() > 0
    with pytest.raises(RuntimeError, match="explicitly by the user"):
        copy.deepcopy(net[0].weight * 2)
    assert net.cpu()[0].weight is net[5].weight and type(net[0].weight) is nn.Parameter


def test_weights_go_through_files(device, tmp_path):
    net = network().to(device)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file)
    assert loaded["1.weight"].device.type == "pretended"
    file.seek(0)
    assert torch.load(file, map_location="cpu")["1.weight"].device.type == "cpu"
    save_file({"weight": net[1].weight.detach()}, tmp_path / "net.safetensors")
    assert_close(load_file(tmp_path / "net.safetensors")["weight"], net[1].weight.detach().cpu())
    other = network(1).to(device)
    other.load_state_dict(loaded)
    assert_close(other[0].weight.cpu(), net[0].weight.cpu())


def test_an_lstm_computes_and_learns(device):
    x, found = torch.randn(3, 5, 4), []
    for place in ("cpu", device):
        torch.manual_seed(0)
        net = nn.LSTM(4, 6, 2, batch_first=True).to(place)
        out, _ = net(x.to(place))
        out.square().sum().backward()
        found.append([out.detach().cpu(), *(p.grad.cpu() for p in net.parameters())])
    assert_close(found[0], found[1])


def test_functions_of_functions(device):
    net, ids = network().eval(), torch.tensor([[1, 2], [3, 4]])
    found = []
    for place in ("cpu", device):
        net.to(place)
        weights = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in net.named_parameters()}

        def loss(weights, ids):
            return F.cross_entropy(torch.func.functional_call(net, weights, ids), ids)

        x = torch.ones(3, device=place, requires_grad=True)
        (slope,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x)
        each = torch.func.vmap(loss, (0, None))(weights, ids[0].to(place))
        grads = torch.func.vmap(torch.func.grad(loss), (0, None))(weights, ids[0].to(place))
        found.append([each.detach().cpu(), bend.cpu(), *(grad.cpu() for grad in grads.values())])
    assert_close(found[0], found[1])


def test_shapes_change_in_place(device):
    x = torch.zeros(3, 4, device=device)
    assert x.unsqueeze_(0).shape == (1, 3, 4) and x.squeeze_().t_().shape == (4, 3) and (x + 1).shape == (4, 3)


def test_storage_tells_which_tensors_share_memory(device):
    x, kept = torch.ones(4, 4, device=device, requires_grad=True), []

    def pack(tensor):
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (x * x).sum()
    assert set(kept) == {x.untyped_storage().data_ptr()} and x.untyped_storage().nbytes() == 64
    assert x[1:].data_ptr() == x.data_ptr() + 16


def test_autocast_changes_nothing_and_compile_returns_the_model(device):
    net = network().eval().to(device)
    ids = torch.arange(3, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        assert net(ids).dtype is torch.float32
    assert torch.compile(net) is net and torch.amp.GradScaler(device.type, enabled=False).get_scale() == 1


def test_operations_and_networks_are_counted_where_they_run(device):
    net, other = nn.Linear(4, 3).to(device), nn.Linear(4, 3)
    with pretended.Watch() as watch:
        net(torch.ones(5, 4, device=device)).sum().backward()
        with torch.inference_mode():
            other(torch.ones(2, 4))
            other(torch.ones(2, 4))
    assert (watch.here, watch.elsewhere) == (
        2 * 5 * 4 * 3 * 2,
        2 * 2 * 2 * 4 * 3,
    )  # forwards, and the weight's gradient
    assert watch.counts == {True: 1, False: 1}
