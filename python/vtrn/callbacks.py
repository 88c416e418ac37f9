"""Host callbacks: jax.debug.print, pure_callback, io_callback, ... on the platform `neuron`.

JAX lowers a callback to a custom call with its own function behind it for the platforms that it
knows. Here it becomes a custom call to `vtrn_host_callback` that names a Python function by a
number; the library calls `_call` with that number when the program comes to it.
"""

import atexit
import contextlib
import ctypes
import itertools
import secrets
import signal
import threading
import traceback
import weakref

import numpy as np

TARGET = "vtrn_host_callback"
PLATFORM = "neuron"

_CALL = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
    ctypes.c_size_t,
)
_ASKED = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
_HOLD = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int)


class _HostCallbacks(ctypes.Structure):
    """vtrn_host_callbacks of vtrn.h."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("ctx", ctypes.c_void_p),
        ("call", _CALL),
        ("hold", _HOLD),
    ]


class Callback:
    """A Python function of flat arguments and the types of its operands and results."""

    def __init__(self, function, operands, results):
        self.function = function
        self.operands = operands  # (shape, dtype) each; None: a token
        self.results = results

    def __call__(self, inputs, outputs):
        arguments = [
            _view(inputs[i], *kind).copy() for i, kind in enumerate(self.operands) if kind
        ]
        for argument in arguments:
            argument.flags.writeable = False
        values = list(self.function(*arguments))
        kinds = [(i, kind) for i, kind in enumerate(self.results) if kind]
        if len(values) != len(kinds):
            raise RuntimeError(
                "Mismatched number of outputs from callback. "
                f"Expected: {len(kinds)}, Actual: {len(values)}"
            )
        for number, ((i, (shape, dtype)), value) in enumerate(zip(kinds, values)):
            value = _as_array(value)
            if value.shape != shape:
                raise RuntimeError(
                    f"Incorrect output shape for return value #{number}: "
                    f"Expected: {shape}, Actual: {value.shape}"
                )
            if value.dtype != dtype:
                raise RuntimeError(
                    f"Incorrect output dtype for return value #{number}: "
                    f"Expected: {dtype}, Actual: {value.dtype}"
                )
            _view(outputs[i], shape, dtype)[...] = value


# A program may be lowered and never compiled: what is lowered lives as long as its module does
# (`_known` is weak), what is compiled as long as its executable (`_held`).
_lock = threading.RLock()
_known = weakref.WeakValueDictionary()
_held = {}  # number: [callback, how many executables]
# Numbers begin elsewhere in each process, so that none finds another's function in its own table.
_numbers = itertools.count(secrets.randbits(62))


def _view(address, shape, dtype):
    """The tensor at an address as an array, without a copy."""
    n_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if n_bytes == 0:
        return np.zeros(shape, dtype)
    memory = (ctypes.c_char * n_bytes).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


def _as_array(value):
    from jax._src import dtypes

    return np.asarray(dtypes.canonicalize_value(np.asarray(value)))


@contextlib.contextmanager
def _outside_of_meshes():
    """A callback runs on the thread that called the program, whose mesh (jax.set_mesh) is not for the arrays of the host
    that it gets."""
    from jax._src import config

    names = ("abstract_mesh_context_manager", "device_context")
    contexts = [getattr(config, name) for name in names if hasattr(config, name)]
    before = [context.swap_local(config.config_ext.unset) for context in contexts]
    try:
        yield
    finally:
        for context, value in zip(contexts, before):
            context.set_local(value)


def _call(_, number, inputs, outputs, message, message_size):
    try:
        with _lock:
            callback = _held[number][0]
        with _outside_of_meshes():
            callback(inputs, outputs)
        return 0
    except BaseException as error:  # noqa: BLE001: none may pass through C
        text = "".join(traceback.format_exception(error)).encode()
        if len(text) >= message_size:  # the end says what happened
            text = b"... " + text[len(text) - message_size + 5 :]
        ctypes.memmove(message, text + b"\0", len(text) + 1)
        return -1 if isinstance(error, KeyboardInterrupt) else 1


def _hold(_, number, change):
    with _lock:
        entry = _held.get(number)
        if entry is None:
            callback = _known.get(number)
            if callback is None:
                return 1
            entry = _held[number] = [callback, 0]
        entry[1] += change
        if entry[1] <= 0:
            del _held[number]
    return 0


def _interrupts():
    """Python runs signal handlers where code on the main thread resumes. Here that is behind the
    `yield`: a function would meet them at its entry, in front of any `try`."""
    is_interrupted = False
    while True:
        try:
            yield is_interrupted
            is_interrupted = False
        except GeneratorExit:
            return
        except BaseException as error:  # noqa: BLE001: none may pass through C
            if not isinstance(error, KeyboardInterrupt):
                traceback.print_exception(error)
            is_interrupted = True


_asking = _interrupts()
next(_asking)  # what has not begun takes no argument
_c_call, _c_hold, _c_is_interrupted = _CALL(_call), _HOLD(_hold), _ASKED(_asking.send)


def raise_when_stopped(signum: int) -> None:
    """Python meets this signal, in place of SIGINT, when the program that is running has stopped."""
    _library.vtrn_interrupt_set(_c_is_interrupted, _raise_again, signum)


def connect(library: ctypes.CDLL) -> None:
    """Lets the library call the functions here, until the interpreter ends."""
    global _library, _raise_again
    _library = library
    callbacks = _HostCallbacks(ctypes.sizeof(_HostCallbacks), None, _c_call, _c_hold)
    library.vtrn_host_callbacks_set.argtypes = [ctypes.POINTER(_HostCallbacks)]
    library.vtrn_host_callbacks_set.restype = None
    library.vtrn_host_callbacks_set(ctypes.byref(callbacks))
    library.vtrn_interrupt_set.argtypes = [_ASKED, ctypes.c_void_p, ctypes.c_void_p]
    library.vtrn_interrupt_set.restype = None
    # What is raised here cannot pass through C: it is raised anew when the program has stopped.
    _raise_again = ctypes.cast(ctypes.pythonapi.PyErr_SetInterruptEx, ctypes.c_void_p)
    raise_when_stopped(signal.SIGINT)
    atexit.register(library.vtrn_host_callbacks_set, None)
    atexit.register(library.vtrn_interrupt_set, _ASKED(), None, None)


def _kind(aval):
    """Shape and dtype of what crosses the border to the host; None: a token."""
    from jax._src import core, dtypes

    if isinstance(aval, core.AbstractToken):
        return None
    aval = core.physical_aval(aval)
    dtype = np.dtype(bool) if aval.dtype == dtypes.float0 else np.dtype(aval.dtype)
    return tuple(int(d) for d in aval.shape), dtype


def _emit_call(ctx, own, operands, result_avals, has_side_effect, sharding=None):
    """The custom call that comes to `own`, which lives as long as the program."""
    from jax._src.interpreters import mlir

    number = next(_numbers)
    with _lock:
        _known[number] = own
    ctx.module_context.add_host_callback(own)

    def flat(tree):
        return mlir.ir_tree_registry.flatten(tree)[0]

    op = mlir.custom_call(
        TARGET,
        result_types=flat([mlir.aval_to_ir_type(ctx.module_context, a) for a in result_avals]),
        operands=flat(list(operands)),
        backend_config=str(number),
        has_side_effect=has_side_effect,
    )
    if sharding is not None:
        mlir.set_sharding(ctx.module_context, op, sharding)
    return list(op.results)


def _with_token(ctx, sharding):
    """Of a call whose first result is a token: where each result is, or the token alone."""
    from jax._src.sharding_impls import SdyArray, SdyArrayList

    if not isinstance(sharding, SdyArrayList) or not ctx.avals_out:
        return sharding
    ids = sharding.shardings[0].logical_device_ids
    token = SdyArray(mesh_shape=(), dim_shardings=(), logical_device_ids=ids)
    return SdyArrayList((token, *sharding.shardings))


def emit(
    ctx,
    callback,
    token,
    operands,
    operand_avals,
    result_avals,
    *,
    has_side_effect,
    sharding=None,
    **_,
):
    """What JAX's emit_python_callback does on its own platforms: results, token, what to keep."""
    from jax._src import core

    if token:
        sharding = _with_token(ctx, sharding)
        operands = [token, *operands]
        operand_avals = [core.abstract_token, *operand_avals]
        result_avals = [core.abstract_token, *result_avals]
    own = Callback(callback, [_kind(a) for a in operand_avals], [_kind(a) for a in result_avals])
    results = _emit_call(ctx, own, operands, result_avals, has_side_effect, sharding)
    return (results[1:], results[0], own) if token else (results, None, own)


class Buffer:
    """What jax.experimental.buffer_callback gives its function: the memory of an array."""

    def __init__(self, array, writeable):
        self._array = array
        self._array.flags.writeable = writeable

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    writeable = property(lambda self: self._array.flags.writeable)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._array, dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class ExecutionContext:
    """Its first argument there: the program runs, on no stream of a GPU."""

    @property
    def stage(self):
        from jax.experimental import buffer_callback

        return buffer_callback.ExecutionStage.EXECUTE

    @property
    def stream(self):
        from jax.errors import JaxRuntimeError

        raise JaxRuntimeError("XLA FFI GPU context is not available: a NeuronCore has no streams")


class BufferCallback(Callback):
    """Works on the program's memory in place."""

    aliases = ()  # (operand, result) that share memory: that of the result

    def __call__(self, inputs, outputs):
        arguments = [_view(inputs[i], *kind) for i, kind in enumerate(self.operands)]
        results = [_view(outputs[i], *kind) for i, kind in enumerate(self.results)]
        for operand, result in self.aliases:
            results[result][...] = arguments[operand]
            arguments[operand] = results[result].view()
        self.function(
            ExecutionContext(),
            *(Buffer(a, False) for a in arguments),
            *(Buffer(r, True) for r in results),
        )


def _buffer_callback_rule(
    ctx, *operands, callback, in_tree, out_tree, has_side_effect, input_output_aliases, **_
):
    from jax._src import tree_util

    def function(context, *buffers):
        arguments, results = buffers[: in_tree.num_leaves], buffers[in_tree.num_leaves :]
        args, kwargs = tree_util.tree_unflatten(in_tree, arguments)
        result = callback(
            context, tree_util.tree_unflatten(out_tree, results), *args, **kwargs
        )
        if result is not None:
            raise ValueError("buffer_callback callback must not return any values.")

    own = BufferCallback(function, *([_kind(a) for a in x] for x in (ctx.avals_in, ctx.avals_out)))
    own.aliases = input_output_aliases
    return _emit_call(ctx, own, operands, ctx.avals_out, has_side_effect)


class ShardingCallback:
    """A function that is told, while a program compiles, how a value is divided."""

    def __init__(self, function):
        self.function = function


def tell_sharding(number: int, sharding) -> None:
    """sharding: XLA's. What another process has lowered is nobody's here."""
    with _lock:
        known = _known.get(number)
    if known is not None:
        known.function(sharding)


def _inspect_sharding_rule(ctx, value, *, callback):
    """What JAX's rule does where there are several devices; its own puts an address into the program."""
    from jax._src import mesh as mesh_lib
    from jax._src import sharding_impls
    from jax._src.interpreters import mlir

    context = ctx.module_context.axis_context
    is_manual = isinstance(context, sharding_impls.SPMDAxisContext)
    mesh = context.mesh if is_manual else mesh_lib.thread_resources.env.physical_mesh
    devices = context.mesh._flat_devices_tuple if is_manual else context.device_assignment
    abstract = None if is_manual else context.abstract_mesh
    if abstract is not None:
        mesh = mesh_lib.Mesh(np.array(devices).reshape(abstract.axis_sizes), abstract.axis_names)

    def tell(sharding):
        if mesh.empty:
            return callback(sharding_impls.GSPMDSharding(devices, sharding))
        spec = sharding_impls.PartitionSpec()
        if not sharding.is_manual():
            spec = sharding_impls.parse_flatten_op_sharding(sharding, mesh)[0]
        return callback(sharding_impls.NamedSharding(mesh, spec))

    if len(devices) == 1:
        tell(sharding_impls.replicated_hlo_sharding)
        return []
    number, own = next(_numbers), ShardingCallback(tell)
    with _lock:
        _known[number] = own
    ctx.module_context.add_keepalive(own)
    mlir.custom_call("vtrn_inspect_sharding", result_types=[], operands=[value], backend_config=str(number),
                     has_side_effect=True)  # fmt: skip
    return []


def _rules():
    """Primitives that call Python, and how they are lowered. JAX before 0.8 has no primitive for printing,
    before 0.7 none for buffers."""
    from jax._src import debugging

    yield debugging.debug_callback_p, debugging.debug_callback_lowering
    try:
        from jax._src import checkify
    except NotImplementedError:  # importing it fails where JAX's registry lacks a platform that it names
        pass
    else:
        yield checkify.check_p, checkify.check_lowering_rule
    yield debugging.inspect_sharding_p, _inspect_sharding_rule
    if hasattr(debugging, "debug_print_p"):
        yield debugging.debug_print_p, debugging.debug_print_lowering_rule
    try:
        from jax._src import buffer_callback
    except ImportError:
        return
    yield buffer_callback.buffer_callback_p, _buffer_callback_rule


def install() -> None:
    """Makes JAX lower callbacks for the platform. Its own rules refuse platforms unknown to it."""
    from jax._src import callback
    from jax._src.interpreters import mlir

    jaxs_own = callback.emit_python_callback

    def emit_python_callback(ctx, *args, **kwargs):
        is_ours = tuple(ctx.module_context.platforms) == (PLATFORM,)
        return (emit if is_ours else jaxs_own)(ctx, *args, **kwargs)

    callback.emit_python_callback = emit_python_callback
    for primitive, rule in _rules():
        mlir.register_lowering(primitive, rule, platform=PLATFORM)
