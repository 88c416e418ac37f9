"""neuronxcc.nki, the first generation of NKI: kernels whose calls return tiles. docs/nki.md says what there is."""

import functools
import logging
import math
import sys
import types

import numpy as np

from vtrn.nki import dtypes, jax_call, kernel as core_kernel, tensor as core_tensor
from vtrn.nki.beta1 import isa, language, masks
from vtrn.nki.beta1.tensor import Tensor
from vtrn.nki.errors import NkiValidationError


def _wrapped(value):
    if isinstance(value, core_tensor.ndarray):
        return Tensor(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_wrapped(v) for v in value)
    if isinstance(value, dict):
        return {k: _wrapped(v) for k, v in value.items()}
    return value


def _unwrapped(value):
    if isinstance(value, Tensor):
        if value.base._is_on_chip:  # a result that the kernel did not store
            stored = core_tensor.ndarray(value.shape, value.dtype, core_tensor.shared_hbm)
            language.store(Tensor(stored), value)
            return stored
        return value.raw()
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_unwrapped(v) for v in value)
    return value


def _body(function):
    @functools.wraps(function)
    def body(*args, **kwargs):
        return _unwrapped(function(*_wrapped(args), **_wrapped(kwargs)))

    body.reuses_loads = not getattr(function, _SKIPS, False)
    return body


_SKIPS = "skips_middle_end_transformations"


def _skip_middle_end_transformations(kernel):
    """The program loads what the kernel loads, however often."""
    if isinstance(kernel, Kernel):
        kernel.func.reuses_loads = False
    else:
        setattr(kernel, _SKIPS, True)
    return kernel


class Kernel(core_kernel.Kernel):
    """A kernel of the first generation. Called in another kernel it is part of that one. func: what runs, and takes and
    gives tensors of vtrn.nki; function: the kernel itself."""

    fills = True  # masks leave elements that are computed on and not stored
    has_cores = False

    def __init__(self, function, grid=()):
        super().__init__(_body(function), grid)
        self.function = function

    def __getitem__(self, key):
        sizes = key if isinstance(key, tuple) else (key,)
        return Kernel(self.function, tuple(max(1, n.__index__()) for n in sizes))  # 0 counts as 1 in that generation

    def __call__(self, *args, **kwargs):
        if core_kernel.is_running():
            return self.function(*args, **kwargs)
        args, kwargs = _with_arrays(args), _with_arrays(kwargs)
        if "jax" in sys.modules and jax_call.is_traced(args, kwargs):
            return jax_call.call(self.func, self.grid, args, kwargs, fills=True)
        run = core_kernel._Run(self.func, self.grid)
        run.session.fill_unwritten(True)
        return run.run(args, kwargs)


def jit(func=None, mode=None, **unused):
    """mode: "benchmark" is nki.benchmark; all others run the kernel here."""
    if func is None:
        return functools.partial(jit, mode=mode)
    if mode == "benchmark":
        return benchmark(func)
    return func if isinstance(func, Kernel) else Kernel(masks.joined(func))


trace = jit


def simulate_kernel(kernel, *args, **kwargs):
    return jit(kernel)(*args, **kwargs)


def baremetal(func=None, **unused):
    return jit if func is None else jit(func)


class _Latency:
    """Of nki.benchmark: the simulated time of each call."""

    def __init__(self):
        self.nc_latency = self
        self.times_us = []

    def get_latency_percentile(self, percentile):
        ordered = sorted(self.times_us)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percentile / 100))]


class _Benchmarked(Kernel):
    """Runs, and tells the time that the chip would take. directory: where the profile goes; None: out/nki/ and the kernel's name."""

    def __getitem__(self, key):
        made = _Benchmarked(self.function, super().__getitem__(key).grid, self.directory)
        made.benchmark_result = self.benchmark_result
        return made

    def __init__(self, function, grid=(), directory=None):
        super().__init__(function, grid)
        self.benchmark_result, self.directory = _Latency(), directory

    def __call__(self, *args, **kwargs):
        if core_kernel.is_running():
            return self.function(*args, **kwargs)
        if _is_shapes(args, kwargs) and self.directory is None:
            return self._time_of_shapes(_with_arrays(args), _with_arrays(kwargs))
        done = core_kernel._Profiled(self, self.directory)(*_with_arrays(args), **_with_arrays(kwargs))
        self.benchmark_result.times_us.append(done.latency_ns / 1000)
        return done.result

    def _time_of_shapes(self, args, kwargs):
        """Of arguments without values, as nt.tensor[[128, 512], nl.float32]: nothing is computed, and nothing returned."""
        from vtrn.nki import estimate

        found = estimate.estimate(self, *args, **kwargs)
        if found.error:
            raise NkiValidationError(found.error)
        self.benchmark_result.times_us.append(found.latency_ns / 1000)


def benchmark(kernel=None, **unused):
    if kernel is None:
        return benchmark
    return _Benchmarked(_function_of(kernel))


def _function_of(kernel):
    return kernel.function if isinstance(kernel, Kernel) else masks.joined(kernel)


def profile(func=None, *, working_directory=None, **unused):
    """A kernel whose calls write profile.html, a trace and profile.json to the directory."""
    if func is None:
        return functools.partial(profile, working_directory=working_directory)
    directory = None if working_directory is None else str(working_directory)
    return _Benchmarked(_function_of(func), (), directory)


class _Allocation:
    """A place that a kernel asks for by hand: the memory counts, the place is found anew. slot: what names the place of a
    block, of allocations by which several blocks have one. is_manual: the kernel says where, and the tile stays there."""

    def __init__(self, region, slot=None, is_manual=False):
        self.region, self.slot, self.is_manual = region, slot, is_manual

    def __call__(self, *args, **kwargs):
        return self

    def auto_alloc(self):
        return _Allocation(self.region)

    def alloc(self, func=None, **unused):
        return _Allocation(self.region, func if callable(func) else None, True)

    def mod_alloc(self, *, num_bank_tiles=(), num_par_tiles=(), num_free_tiles=(), **unused):
        counts = [tuple(n) for n in (num_bank_tiles, num_par_tiles, num_free_tiles) if n]
        if not counts:
            return _Allocation(self.region, None, True)
        turns = [math.prod(n) for n in zip(*counts)]
        return _Allocation(self.region, lambda block, *_: tuple(i % n for i, n in zip(block, turns)), True)


def _same(function=None, **unused):
    return function if function is not None else lambda f: f


def _module(name, **names):
    module = types.ModuleType(name)
    module.__dict__.update(names)
    sys.modules[name] = module
    return module


def install():
    """Makes `neuronxcc.nki` and what is below it name this."""
    this = sys.modules[__name__]
    if not hasattr(logging, "OFF"):  # a level above all, which the vendor's package adds and kernels' scripts name
        logging.OFF = logging.CRITICAL + 10
    package = _module("neuronxcc")
    package.__path__ = []
    compiler = _module("neuronxcc.nki.compiler", sbuf=_Allocation(core_tensor.sbuf), psum=_Allocation(core_tensor.psum),
                       skip_middle_end_transformations=_skip_middle_end_transformations, enable_stack_allocator=_same, no_reorder=_same,
                       multi_buffer=_same, force_auto_alloc=_same)
    typing = _module("neuronxcc.nki.typing", tensor=_Annotation(), mutable_tensor=_Annotation(), scalar=_scalar)
    package.nki, this.compiler, this.typing = this, compiler, typing
    sys.modules.update({"neuronxcc.nki": this, "neuronxcc.nki.language": language, "neuronxcc.nki.isa": isa,
                        "neuronxcc.nki.isa.constants": isa.constants})


def _scalar(tile):
    """The number in a tile of one element, as a loop's bound. A kernel that asks for it runs with values."""
    return tile.base._index("nki.typing.scalar", tile.base)


class _Annotation:
    """tensor[128, 512] and the like, which mean nothing when a kernel runs; tensor[[128, 512], nl.float32] stands for an argument
    of that shape and type."""

    def __getitem__(self, key):
        if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], (list, tuple)):
            return _Shape(tuple(key[0]), dtypes.numpy_of(dtypes.code_of(key[1])))
        return self

    def __or__(self, other):
        return self

    __ror__ = __or__

    def __instancecheck__(self, x):
        """isinstance(x, nki.typing.tensor) asks for a tensor."""
        return isinstance(x, Tensor)


class _Shape(_Annotation):
    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, dtype


def _is_shapes(args, kwargs):
    return any(isinstance(v, _Shape) for v in (*args, *kwargs.values()))


def _with_arrays(given):
    """Arguments with zeros for those that are shapes alone."""
    def array(v):
        return np.zeros(v.shape, v.dtype) if isinstance(v, _Shape) else v

    return {k: array(v) for k, v in given.items()} if isinstance(given, dict) else tuple(map(array, given))
