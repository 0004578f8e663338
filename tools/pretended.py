"""An accelerator that is not there: a processor's arithmetic behind tensors that are not on the processor.

The machines on which this book is made have no GPU. :func:`install` gives PyTorch a device called ``pretended``, by
PyTorch's own facility for backends in Python. Its tensors compute on the CPU and keep a GPU's rules: operands on two
devices, ``.numpy()`` of a device tensor, a CPU generator for device random numbers and device indices into a CPU tensor
are refused, with CUDA's words; with ``float64=False`` so is double precision, as on Apple's GPUs.

What it cannot show: speed and memory of a GPU, its rounding and random numbers (they are the CPU's), kernels of its own
(Triton), code that asks for ``cuda`` by name, and autocast, which is accepted and changes nothing. ``torch.compile``
returns what it was given. A generator of the device is not refused where the CPU draws, and there is no ``nn.GRU``.
"""

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _foreach_utils
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
NAME = "pretended"
HERE = f"{NAME}:0"
CPU = torch.device("cpu")
# Operations that take tensors of two devices: copies, and the indices of an indexed tensor.
COPIES = ("copy_", "_to_copy", "_copy_from", "_copy_from_and_resize")
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
settings = {"float64": True}


def is_here(device: Any) -> bool:
    """Return whether a device, by name or as an object, is the pretended one."""
    return device is not None and torch.device(device).type == NAME


# --- tensors --------------------------------------------------------------------------------------------------------


class Pretended(torch.Tensor):
    """A tensor on the pretended device; ``on_cpu`` holds its numbers."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        """Wrap a tensor of the CPU, whose memory is shared."""
        if inner.dtype is torch.float64 and not settings["float64"]:
            raise TypeError(
                f"Cannot convert a {NAME} Tensor to float64 dtype as the {NAME} framework doesn't support float64. "
                "Please use float32 instead."
            )
        made = _wrapper(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=_device(),
        )  # fmt: skip
        made.on_cpu = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute one operation that has a tensor of this device among its arguments."""
        return compute(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        """Show numbers and device."""
        grad = ", requires_grad=True" if self.requires_grad and self.is_leaf else ""
        return f"{repr(self.on_cpu)[:-1]}, device='{HERE}'{grad})"

    def __format__(self, spec: str) -> str:
        """Write a single number as Python does, as torch has it for its own class alone."""
        return self.item().__format__(spec) if self.dim() == 0 else object.__format__(self, spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretended":
        """Copy a leaf, with its gradient."""
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol"
            )
        copy: Any = Pretended(self.on_cpu.detach().clone())
        if isinstance(self, nn.Parameter):
            copy = nn.Parameter(copy, self.requires_grad)
        else:
            copy.requires_grad_(self.requires_grad)
        if self.grad is not None:
            copy.grad = self.grad.detach().clone()
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as torch does for devices whose memory it cannot read: by way of the CPU."""
        packed = (self.on_cpu.detach(), self.dtype, HERE, self.requires_grad and not isinstance(self, nn.Parameter))
        rebuild: Any = torch._utils._rebuild_device_tensor_from_cpu_tensor
        if isinstance(self, nn.Parameter):
            return torch._utils._rebuild_parameter, (self.detach(), self.requires_grad, OrderedDict())
        return rebuild, packed

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse, as every accelerator does."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {HERE} device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        """Refuse what numpy and matplotlib ask for."""
        return self.numpy()

    def tolist(self) -> Any:
        """Return Python numbers."""
        return self.on_cpu.tolist()

    def new_tensor(self, data: Any, *, device: Any = None, **options: Any) -> Tensor:  # type: ignore[override]
        """Return a new tensor of this type and device."""
        requires_grad = options.pop("requires_grad", False)
        made = self.on_cpu.new_tensor(data, **options).to(_device() if device is None else device)
        return made.requires_grad_(requires_grad)

    def __getitem__(self, index: Any) -> Any:  # type: ignore[override]
        """Index; lists are made tensors first, which torch would make where a backend in Python is not asked."""
        return torch._C.TensorBase.__getitem__(self, _as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write what an index names."""
        torch._C.TensorBase.__setitem__(self, _as_tensors(index), value)

    def data_ptr(self) -> int:
        """Return the address of the numbers."""
        return self.on_cpu.data_ptr()

    def untyped_storage(self) -> Any:
        """Return the memory of the numbers, by whose address tensors that share it are known."""
        return self.on_cpu.untyped_storage()


def _as_tensors(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_as_tensors(part) for part in index)
    if isinstance(index, (list, range, np.ndarray)):
        return torch.as_tensor(index, dtype=None if len(index) else torch.long)
    return index


_wrapper = torch.Tensor._make_wrapper_subclass
_ITS_DATA: Any = torch._C.TensorBase.__dict__["data"]


@functools.cache
def _device() -> torch.device:
    return torch.device(NAME, 0)


def _set_data(self: Tensor, value: Tensor) -> None:
    """Give a tensor other data, as ``parameter.data = x`` and ``module.to(device)`` do: it stays the same object."""
    if isinstance(self, Pretended) and isinstance(value, Pretended):
        _ITS_DATA.__set__(self, value)
        self.on_cpu = value.on_cpu
    elif isinstance(self, Pretended) or isinstance(value, Pretended):
        other = value.detach().requires_grad_(self.requires_grad)
        for name, attribute in self.__dict__.items():
            if name != "on_cpu":
                other.__dict__[name] = attribute
        if isinstance(self, nn.Parameter):
            other = nn.Parameter(other, self.requires_grad)
        torch.utils.swap_tensors(self, other)
    else:
        _ITS_DATA.__set__(self, value)


# --- one operation --------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What the schema of an operation says that matters here, read once."""

    name: str
    written: tuple[int | str | None, ...]  # for each value returned: the argument that it is, by place or name
    resizes: bool  # may change the shape of what it writes
    kernel: Callable[..., Any]  # what computes it on the CPU


def _plan(func: Any) -> Plan:
    """Read the schema of an operation, once: the plan is kept at the operation, whose hash costs more than a look."""
    schema = func._schema
    where: dict[str, int | str] = {}
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            for alias in argument.alias_info.before_set:
                where[alias] = argument.name if argument.kwarg_only else place
    written: list[int | str | None] = []
    for value in schema.returns:
        info = value.alias_info
        written.append(where.get(next(iter(info.before_set), "")) if info is not None and info.is_write else None)
    name = schema.name.split("::")[1]
    resized = torch.Tag.inplace_view in func.tags or name == "resize_" or any(type(at) is str for at in written)
    func.pretended_plan = Plan(name, tuple(written), resized, OWN.get(name, func))
    return func.pretended_plan


PLAIN = {int, float, bool, type(None), torch.dtype, torch.layout, torch.device, str}
NEW = (None,)


class Found:
    """What stands among the arguments of an operation: tensors of the device, of the CPU, a generator."""

    __slots__ = ("generator", "here", "there")

    def __init__(self) -> None:
        """Nothing yet."""
        self.here = self.there = False
        self.generator: Any = None

    def inside(self, value: Any) -> Any:
        """Return an argument with CPU tensors in the place of the device's."""
        if type(value) is Pretended:
            self.here = True
            return value.on_cpu
        if isinstance(value, (list, tuple)):
            return [self.inside(item) for item in value]
        if isinstance(value, Tensor):
            self.there = self.there or value.dim() > 0
        elif isinstance(value, torch._C.Generator):
            self.generator = value
        return value


def _two_devices(name: str) -> RuntimeError:
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {HERE} and cpu! "
        f"(when computing {name})"
    )


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU that has a tensor of the device, or the device itself, among its arguments."""
    try:
        plan = func.pretended_plan
    except AttributeError:
        plan = _plan(func)
    found = Found()
    plain, named = [], {}
    for value in args:
        kind = type(value)
        if kind is Pretended:
            found.here = True
            plain.append(value.on_cpu)
        else:
            plain.append(value if kind in PLAIN else found.inside(value))
    to_here = found.here
    if kwargs:
        named = {name: found.inside(value) for name, value in kwargs.items() if name != "pin_memory"}
        to_here = found.here
        if (device := kwargs.get("device")) is not None:
            to_here = is_here(device)
            named["device"] = CPU if to_here else device
    if found.there and plan.name not in COPIES and found.here:
        _check_mixed(plan.name, args)
    if plan.name in COPIES and plan.name != "_to_copy":
        to_here = type(args[0]) is Pretended
    if found.generator is not None and to_here and found.generator._cdata not in _generators:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    out = plan.kernel(*plain, **named)
    if plan.resizes:
        for place in plan.written:
            written = kwargs[place] if isinstance(place, str) else args[0 if place is None else place]
            if type(written) is Pretended:
                _resize(written)
    if type(out) is Tensor and plan.written == NEW and to_here:
        return _outside(out, args)
    if isinstance(out, Tensor):
        if plan.written[0] is not None:
            return args[plan.written[0]] if isinstance(plan.written[0], int) else kwargs[plan.written[0]]
        return _outside(out, args) if to_here else out
    if isinstance(out, (tuple, list)):
        places = plan.written if len(plan.written) == len(out) else NEW * len(out)
        wrapped: list[Any] = []
        for value, place in zip(out, places, strict=True):
            if place is not None:
                wrapped.append(args[place] if isinstance(place, int) else kwargs[place])
            else:
                wrapped.append(_outside(value, args) if to_here else value)
        return wrapped if isinstance(out, list) else tuple(wrapped)
    return out


def _resize(tensor: Pretended) -> None:
    """Give a tensor the shape of its numbers, which an operation has changed in place."""
    inner = tensor.on_cpu
    if tensor.shape != inner.shape or tensor.stride() != inner.stride():
        with torch._C._DisableTorchDispatch():
            _ITS_DATA.__set__(tensor, Pretended(inner))


def _outside(value: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, Tensor):
        return [_outside(item, args) for item in value] if isinstance(value, list) else value
    for argument in args:
        if type(argument) is Pretended and argument.on_cpu is value:
            return argument
    return Pretended(value)


def _check_mixed(name: str, args: tuple[Any, ...]) -> None:
    """Refuse operands on two devices, but for indices on the CPU into a tensor of the device."""
    if name not in INDEXED:
        raise _two_devices(name)
    if type(args[0]) is not Pretended and any(type(index) is Pretended for index in args[1]):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    values = args[2] if len(args) > 2 and isinstance(args[2], Tensor) else args[0]
    if (type(args[0]) is Pretended) != (type(values) is Pretended) and values.dim() > 0:
        raise _two_devices(name)


def _lstm_cell(
    gates: Tensor, hidden: Tensor, cell: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The step of an LSTM that accelerators compute as one kernel: the new state, cell and the four gates."""
    total = gates + hidden
    if input_bias is not None and hidden_bias is not None:
        total = total + input_bias + hidden_bias
    i, f, g, o = total.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = f * cell + i * g
    return o * new.tanh(), new, torch.cat((i, f, g, o), 1)


def _lstm_cell_backward(
    grad_state: Tensor | None, grad_cell: Tensor | None, cell: Tensor, new: Tensor, gates: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Its derivative: of the gates before their non-linearities, of the old cell, and of the biases."""
    i, f, g, o = gates.chunk(4, 1)
    squashed = new.tanh()
    total = torch.zeros_like(new) if grad_cell is None else grad_cell
    grad_o = torch.zeros_like(new)
    if grad_state is not None:
        total = total + grad_state * o * (1 - squashed**2)
        grad_o = grad_state * squashed
    parts = (total * g * i * (1 - i), total * cell * f * (1 - f), total * i * (1 - g**2), grad_o * o * (1 - o))
    grad = torch.cat(parts, 1)
    return grad, total * f, grad.sum(0) if has_bias else None


OWN = {"_thnn_fused_lstm_cell": _lstm_cell, "_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward}


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Attention as the CPU would do it, by its fused kernel where that takes the arguments."""
    given = [tensor for tensor in (query, key, value, attn_mask) if tensor is not None]
    if any(type(tensor) is not Pretended and isinstance(tensor, Tensor) for tensor in given):
        # wrapped by functorch, or of two devices
        fused = False
        if {tensor.device.type for tensor in given} != {NAME}:
            raise _two_devices("scaled_dot_product_attention")
    else:
        choice: Any = torch._fused_sdp_choice
        own: Any = (query, key, value, attn_mask)
        inner = [None if tensor is None else tensor.on_cpu for tensor in own]
        fused = attn_mask is None or not attn_mask.requires_grad
        fused = fused and choice(*inner, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa) == 1
    if fused:
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
        return aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )[0]
    return aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


# --- generators -----------------------------------------------------------------------------------------------------

_generators: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


class _EveryGenerator(type(torch._C.Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_EveryGenerator):
    """``torch.Generator``, which makes one of the device too: torch itself makes none for a backend in Python."""

    def __new__(cls, device: Any = "cpu") -> Any:
        """Return a generator of the device asked for."""
        if not is_here(device):
            return torch._C.Generator(device)
        made: Any = super().__new__(cls)
        _generators[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The pretended one."""
        return _device()


# --- installation ---------------------------------------------------------------------------------------------------


class _Module:
    """What torch asks of ``torch.pretended``: one device, without queues."""

    is_initialized = is_available = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: torch.set_rng_state(state))

    @staticmethod
    def synchronize(device: Any = None) -> None:
        """Do nothing: an operation has ended when it returns."""

    manual_seed = manual_seed_all = synchronize


_libraries: list[torch.library.Library] = []


def install(float64: bool = True) -> torch.device:
    """Make the device known to this process; return it.

    Args:
        float64: whether it computes in double precision.
    """
    settings["float64"] = float64
    if _libraries:
        return torch.device(NAME)
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    operations, others = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    _libraries.extend((operations, others))
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    others.fallback(lambda func, *args, **kwargs: compute(func, args, kwargs), "PrivateUse1")
    operations.impl("scaled_dot_product_attention", _attention, "AutogradPrivateUse1")
    torch.Tensor.data = property(_ITS_DATA.__get__, _set_data)  # type: ignore[method-assign, assignment]
    torch.Generator = Generator  # type: ignore[misc, assignment]
    torch.compile = _compile  # type: ignore[assignment]
    # `with torch.device(...)` knows the functions that make tensors by a list, made once: here, before two are replaced
    _device_constructors()
    for function in (torch.tensor, torch.as_tensor):
        setattr(torch, function.__name__, _from_data(function))
    # a moved module keeps its parameters as objects, and so what is tied and what an optimiser holds, as on a GPU
    torch.__future__.set_swap_module_params_on_conversion(True)
    # by default optimisers take all parameters at once here, as they do on CUDA
    _foreach_utils._foreach_supported_types.append(Pretended)  # type: ignore[arg-type]
    return torch.device(NAME)


def _from_data(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let ``torch.tensor`` and ``torch.as_tensor``, which bypass backends in Python, make tensors of the device."""

    @functools.wraps(function)
    def made(data: Any, *args: Any, **options: Any) -> Tensor:
        device = options.pop("device", None)
        if device is None and isinstance(data, Pretended):
            device = data.device
        if not is_here(device):
            return function(data, *args, device=device, **options)
        requires_grad = options.pop("requires_grad", False)
        if isinstance(data, Pretended):
            moved = data.to(*args, **options)
            moved = moved.detach().clone() if function.__name__ == "tensor" else moved
        else:
            moved = function(data, *args, **options).to(device)
        return moved.requires_grad_() if requires_grad else moved

    return made


def _compile(model: Any = None, **options: Any) -> Any:
    return model if model is not None else lambda function: function


def use(float64: bool = True) -> torch.device:
    """Install the device and let ``llmbook.runtime.setup`` decide for it, whatever the environment says of the device.

    Precision, threads, seed and scale are those of the CPU.
    """
    from llmbook import runtime

    device = install(float64)
    decided = replace(runtime.setup(), device=device, fast_dtype=torch.float32)
    runtime.setup = lambda: decided  # type: ignore[assignment]
    return device


# --- what runs where ------------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Counts floating-point operations of matrix products, convolutions and attention, on the device and elsewhere.

    By PyTorch's own formulas (``torch.utils.flop_counter``), with those of two kernels of the CPU added. It also counts
    networks: modules with parameters that are called, and not from within another, by where their parameters are.
    """

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self.here = self.elsewhere = 0
        self.networks: dict[bool, weakref.WeakSet[nn.Module]] = {True: weakref.WeakSet(), False: weakref.WeakSet()}
        self.counts = {True: 0, False: 0}
        self._depth = 0
        self._hooks: list[Any] = []

    def __enter__(self) -> "Watch":
        """Begin to count."""
        if not self._hooks:
            self._hooks = [
                nn.modules.module.register_module_forward_pre_hook(self._before),
                nn.modules.module.register_module_forward_hook(self._after, always_call=True),
            ]
        super().__enter__()
        return self

    def _before(self, module: nn.Module, args: Any) -> None:
        self._depth += 1
        if self._depth == 1 and module not in self.networks[True] and module not in self.networks[False]:
            parameter = next(module.parameters(), None)
            if parameter is not None:
                place = parameter.device.type == NAME
                self.networks[place].add(module)
                self.counts[place] += 1

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute an operation and count it."""
        kwargs = kwargs or {}
        formula = _formula(func)
        if formula is None:
            if _composite(func):
                with self:
                    out = func.decompose(*args, **kwargs)
                if out is not NotImplemented:
                    return out
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        count = formula(*args, **kwargs, out_val=out)
        if any(type(value) is Pretended for value in args):
            self.here += count
        else:
            self.elsewhere += count
        return out


def _rnn_flops(x: Tensor, w1: Tensor, w2: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return 2 * (x.numel() // x.shape[-1]) * (w1.numel() + w2.numel())


def _rnn_backward_flops(x: Tensor, w1: Tensor, w2: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return 2 * _rnn_flops(x, w1, w2)


@functools.cache
def _more_formulas() -> dict[str, Callable[..., int]]:
    return {
        "_scaled_dot_product_flash_attention_for_cpu": flop_registry[aten._scaled_dot_product_flash_attention],
        "_scaled_dot_product_flash_attention_for_cpu_backward": flop_registry[
            aten._scaled_dot_product_flash_attention_backward
        ],
        "mkldnn_rnn_layer": _rnn_flops,
        "mkldnn_rnn_layer_backward": _rnn_backward_flops,
    }


@functools.cache
def _composite(func: Any) -> bool:
    return func._can_decompose() if hasattr(func, "_can_decompose") else False


@functools.cache
def _formula(func: Any) -> Callable[..., int] | None:
    packet = getattr(func, "_overloadpacket", func)
    return flop_registry.get(packet) or _more_formulas().get(getattr(packet, "__name__", ""))
