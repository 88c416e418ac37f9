"""Kernels inside jitted JAX functions: each call is a custom call whose kernel is recorded when the function is traced."""

import base64
import dataclasses
import functools
import math
import sys
import warnings

import numpy as np

from vtrn.nki import compiler, dtypes, isa, kernel as kernels, language as nl, tensor
from vtrn.nki._load import HBM
from vtrn.nki.errors import NkiValidationError
from vtrn.nki.tensor import ARGUMENT, ndarray

TARGET = "AwsNeuronCustomNativeKernel"
_MOST_GAPS = 4096  # places of a result that nothing writes: each costs a DMA


def is_tracer(value):
    """Whether JAX traces a function of the value. JAX is not imported for the answer."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def _holds_tracer(value):
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tracer, value))
    if isinstance(value, dict):
        return any(map(_holds_tracer, value.values()))
    return is_tracer(value)


def is_traced(args, kwargs):
    return "jax" in sys.modules and (_holds_tracer(args) or _holds_tracer(kwargs))


def chip_name():
    """NEURON_PLATFORM_TARGET_OVERRIDE's, else the chip of JAX's platform neuron, else that of kernels outside of JAX."""
    import jax

    name = kernels.chip_of_target()
    if name:
        return name
    try:
        version = jax.devices("neuron")[0].client.platform_version
    except RuntimeError:
        return kernels.chip_name()
    return version.partition("chip ")[2].split(",")[0].split()[0]


class Program:
    """A recorded kernel: what the custom call carries."""

    def __init__(self, name, data, avals):
        self.name, self.data, self.avals = name, data, avals

    def __eq__(self, other):
        return isinstance(other, Program) and self.data == other.data and self.avals == other.avals

    def __hash__(self):
        return hash(self.data)

    def __repr__(self):
        return f"<{self.name}, {len(self.data)} bytes>"


class _Recording(kernels._Run):
    """A launch on arguments that have shapes and no values."""

    is_recorded = True

    def __init__(self, function, grid, configs):
        super().__init__(function, grid, chip_name(), configs)
        self.session.compute_values(False)
        self.has_values = False
        self.traced, self.structure = [], None

    def _take(self, value):
        if not is_tracer(value) and kernels._numpy(value)[0] is None:
            return super()._take(value)
        region = tensor.shared_hbm if self.grid else tensor.hbm
        made = self.session.tensor(ndarray, value.shape or (1,), dtypes.code_of(value.dtype), HBM, ARGUMENT, None, None,
                                   region, "")
        self.traced.append((value, made))
        return made

    def _output(self, value):
        """Where the view is: number of an output, which is a whole tensor, and the view's first element in it."""
        size = dtypes.numpy_of(value._dtype).itemsize
        if not value.is_contiguous() or value._row_bytes % size:
            raise NkiValidationError(f"{self.function.__name__} returns a view of shape {value.shape} whose elements do not "
                                     "follow each other; inside a jitted function return the tensor, and slice the result",
                                     7)
        for i, known in enumerate(self.outputs):
            if known._storage_id == value._storage_id:
                break
        else:
            i = len(self.outputs)
            self.outputs.append(value)
        if value._dtype != self.outputs[i]._dtype:
            raise NkiValidationError(f"{self.function.__name__} returns one tensor as two types; return one of them", 7)
        self._zero_unwritten(value)
        return _Part(i, value.offset, value.shape)

    def _zero_unwritten(self, value):
        """What nothing writes of a result is 0, as it is outside of JAX: the program stores zeros there."""
        written = value._written()
        if written is None:
            return
        written = np.frombuffer(written, np.uint8) != 0
        ends = np.flatnonzero(np.diff(np.concatenate(([True], written, [True]))))
        n = int(written.size - np.count_nonzero(written))
        what = f"{self.function.__name__}: nothing writes {n} of the {value.size} elements of a result of shape {value.shape}"
        if ends.size > 2 * _MOST_GAPS:
            raise NkiValidationError(f"{what}, in {ends.size // 2} places; write them, for JAX would see what the memory held", 3)
        warnings.warn(f"{what}; they are 0", stacklevel=8)
        row = value.reshape((value.size,))
        zeros = nl.shared_constant(np.zeros(np.diff(ends)[::2].max(), dtypes.numpy_of(value._dtype)))
        for first, end in ends.reshape(-1, 2).tolist():
            isa.dma_copy(row[first:end], zeros[0:end - first])

    def _update_arguments(self):
        for value, made in self.traced:
            if made._n_writes and all(made._storage_id != known._storage_id for known in self.outputs):
                raise NkiValidationError(f"{self.function.__name__} writes to an argument of shape {made.shape} and does "
                                         "not return it; JAX's arrays do not change, so return the argument", 7)

    def _tell_of_scalars(self, error, args, kwargs):
        """Names the numbers that JAX traces in an error of the kernel: they may be its cause."""
        names = [name for name, value in self._named(args, kwargs) if is_tracer(value) and not value.shape]
        if names and error.args and isinstance(error.args[0], str):
            error.args = (f"{error.args[0]}\n  {', '.join(names)}: JAX traces this number, so that the kernel has a tensor of "
                          "shape (1,) in HBM for it: load it, or make it static (jax.jit(static_argnames=), functools.partial)",
                          *error.args[1:])

    def record(self, args, kwargs):
        import jax

        try:
            self.structure = self.run(args, kwargs)
        except (NkiValidationError, TypeError, ValueError) as error:
            self._tell_of_scalars(error, args, kwargs)
            raise
        avals = []
        for v in self.outputs:
            dtype = dtypes.numpy_of(v._dtype)
            n = v._row_bytes // dtype.itemsize
            avals.append(jax.core.ShapedArray(v.shape if v.size == n else (n,), dtype))
        name = self.function.__name__
        return Program(name, self.session.record(name, self.outputs), tuple(avals))


def _refuse(what, remedy):
    def rule(*_, **params):
        raise NotImplementedError(f"{params['program'].name} is an NKI kernel, which JAX does not {what}; {remedy}")

    return rule


@functools.cache
def _primitive():
    from jax.extend.core import Primitive
    from jax._src import dispatch
    from jax._src.interpreters import mlir
    from jax.interpreters import ad, batching
    from vtrn import jax_plugin

    jax_plugin.initialize()  # else JAX does not know the platform before it has opened a device
    p = Primitive("nki_call")
    p.multiple_results = True
    p.def_impl(functools.partial(dispatch.apply_primitive, p))
    p.def_abstract_eval(lambda *_, program: program.avals)

    def lower(ctx, *operands, program):
        return mlir.custom_call(
            TARGET,
            result_types=[mlir.aval_to_ir_type(ctx.module_context, aval) for aval in ctx.avals_out],
            operands=operands,
            backend_config=base64.b64encode(program.data).decode(),
            api_version=2,
        ).results

    def elsewhere(ctx, *operands, program):
        raise NotImplementedError(f"{program.name} is an NKI kernel, which runs on platform neuron; this program is "
                                  f"compiled for {', '.join(ctx.module_context.platforms)}")

    mlir.register_lowering(p, elsewhere)
    mlir.register_lowering(p, lower, platform="neuron")
    ad.primitive_jvps[p] = _refuse("differentiate", "give its caller a derivative by jax.custom_vjp")
    batching.primitive_batchers[p] = _refuse("map by vmap", "call it in jax.lax.map, or write a kernel with a dimension more")
    return p


def call(function, grid, args, kwargs, fills=False, configs=compiler.Configs()):
    """The results of a kernel's function as JAX traces them. args and kwargs hold tracers, arrays and values of Python.
    fills: elements that nothing has written are read as NaN, whatever the environment says."""
    run = _Recording(function, grid, configs)
    if fills:
        run.session.fill_unwritten(True)
    program = run.record(args, kwargs)
    results = _primitive().bind(*(_as_jax(v, made) for v, made in run.traced), program=program)
    return _results(run.structure, results)


def _as_jax(value, made):
    import jax.numpy as jnp

    return jnp.reshape(jnp.asarray(value), made.shape)


def _results(structure, results):
    if isinstance(structure, _Part):
        whole, n = results[structure.output], math.prod(structure.shape)
        if whole.size != n:
            whole = whole.reshape(-1)[structure.first:structure.first + n]
        return whole.reshape(structure.shape)
    if isinstance(structure, (list, tuple)):
        return type(structure)(_results(s, results) for s in structure)
    return structure


@dataclasses.dataclass(frozen=True)
class _Part:
    """A result of the kernel: elements of an output from `first` on."""

    output: int
    first: int
    shape: tuple
