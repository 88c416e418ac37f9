"""TorchNeuron's names over torch_xla: device `neuron`, `torch.autocast("neuron")`, `torch.compile(backend="neuron")`.

Scripts written for AWS's native PyTorch backend then run on the virtual chip. A tensor on device `neuron` is one
of torch_xla, and says `xla`. Operations run one by one, as there; `torch.compile` makes programs of them.

The backend of `torch.compile` is an entry point and always there. The device is there when VTRN_TORCH_NEURON=1,
or after `install()`: PyTorch has room for one device of another's name in a process, and torchax takes it too.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

NAME = "neuron"
_kernels: list[Any] = []  # A library's kernels go when it does.


def compile_backend(graph: Any, example_inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
    """Backend `neuron` of torch.compile: torch_xla's, which hands each graph over as one program."""
    import torch_xla  # noqa: F401
    from torch._dynamo.backends.registry import lookup_backend

    if options:
        raise ValueError(f"torch.compile(backend='neuron'): no options {', '.join(options)}; vtrn knows none")
    return lookup_backend("openxla")(graph, example_inputs)


def _translate(value: Any) -> Any:
    """The device of torch_xla where value names ours; else value."""
    import torch

    if isinstance(value, str) and value.partition(":")[0] == NAME:
        return value.replace(NAME, "xla")
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device(_translate(str(value)))
    return value


def _translated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*map(_translate, args), **{key: _translate(value) for key, value in kwargs.items()})

    return wrapper


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    import torch

    return torch.empty(size, dtype=dtype, device=_translate(device))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    import torch

    return torch.empty_strided(size, stride, dtype=dtype, device=_translate(device))


def _name_device() -> None:
    """What makes a tensor on a device makes it by `empty`, which is torch_xla's here. The functions below ask a
    device without a number for its number first, which only a backend in C++ answers: they get torch_xla's."""
    import torch
    from torch.utils._device import DeviceContext, _device_constructors

    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("empty.memory_format", _empty, "PrivateUse1")
    kernels.impl("empty_strided", _empty_strided, "PrivateUse1")
    _kernels.append(kernels)
    _device_constructors()  # Keeps the functions that set_default_device cares for, before they are wrapped.
    for owner, name in (
        (torch, "tensor"),
        (torch, "as_tensor"),
        (torch, "asarray"),
        (torch, "tril_indices"),
        (torch, "triu_indices"),
        (torch.Tensor, "to"),
        (torch.Tensor, "new_tensor"),
        (DeviceContext, "__init__"),  # set_default_device, and `with torch.device(...)`
        (torch.autocast, "__init__"),
    ):
        setattr(owner, name, _translated(getattr(owner, name)))


def _module() -> ModuleType:
    """torch.neuron: what PyTorch asks of the module of a device, and what scripts call."""
    import torch
    import torch_xla
    from torch_xla import runtime

    module = ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module.device_count = runtime.addressable_device_count
    module.current_device = lambda: torch_xla.device().index
    module.synchronize = lambda device=None: torch_xla.sync(wait=True)
    module.manual_seed = module.manual_seed_all = torch_xla.manual_seed
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    module._is_in_bad_fork = lambda: False
    return module


@functools.cache
def install() -> None:
    import torch

    if torch.__version__.partition("+")[0] != "2.9.1":
        raise ImportError(f"vtrn.torch_neuron is written for torch 2.9.1 with torch_xla 2.9.0, not {torch.__version__}")
    torch.utils.rename_privateuse1_backend(NAME)
    import torch_xla.experimental

    torch._register_device_module(NAME, _module())
    _name_device()
    torch_xla.experimental.eager_mode(True)
    # Scripts may import the package whose names these are.
    sys.modules.setdefault("torch_neuronx", ModuleType("torch_neuronx"))
