"""Divides a program over devices: Shardy's passes, which jaxlib has, then `localize`.

The plugin's library calls `partition` with an artifact that has sharding annotations, and compiles what it
gives back: one manual computation over all axes of the mesh, as shard_map writes it.
"""

import atexit
import ctypes

from vtrn.partition import apart
from vtrn.partition.apart import DIVIDED, MANUAL, UNDIVIDED, WRONG
from vtrn.partition.shardings import Failed, Refused

PROPAGATION = "builtin.module(sdy-propagation-pipeline)"
# Reshards are made explicit for every operation, then named as collectives.
RESHARDS = """builtin.module(func.func(sdy-insert-explicit-reshards{enable-full-version=true}),
func.func(sdy-reshard-to-collectives),canonicalize,cse)"""
VERSION = "1.15.0"  # of StableHLO's artifacts; the library reads this and older ones


def _context():
    from jax._src.interpreters import mlir

    return mlir.make_ir_context()


def is_manual(module):
    """Whether @main is one manual computation over all axes, or has nothing to divide."""
    main = next(op for op in module.body.operations if op.operation.name == "func.func"
                and str(op.attributes["sym_name"]) == '"main"')  # fmt: skip
    operations = [op.operation for op in main.regions[0].blocks[0].operations]
    if len(operations) != 2 or operations[0].name != "sdy.manual_computation":
        return False
    sides = _text(main, "arg_attrs", "res_attrs")
    if "unreduced=" in sides + _text(operations[0], "in_shardings", "out_shardings"):
        return "vtrn.unreduced" in sides  # JAX's own are divided, too
    text = str(operations[0].attributes["manual_axes"])
    meshes = [op for op in module.body.operations if op.operation.name == "sdy.mesh"]
    return all(f'"{axis.name}"' in text for axis in _axes_of(meshes))


def _text(op, *names):
    return "".join(str(op.attributes[name]) for name in names if name in op.attributes)


def _n_partitions(module):
    from jaxlib.mlir import ir

    attributes = module.operation.attributes
    return ir.IntegerAttr(attributes["mhlo.num_partitions"]).value if "mhlo.num_partitions" in attributes else 1


def _axes_of(meshes):
    from jaxlib.mlir.dialects import sdy

    return [sdy.MeshAxisAttr(axis) for op in meshes for axis in sdy.MeshAttr(op.attributes["mesh"]).axes]


def partition_module(module, n_devices):
    """In place. Raises Refused, and Failed."""
    from jaxlib.mlir import ir, passmanager

    from vtrn.partition import calls, custom
    from vtrn.partition.localize import localize

    with module.context, ir.Location.unknown():
        if calls.has_unreduced(module):
            calls.inline_all(module)
            passmanager.PassManager.parse("builtin.module(symbol-dce)").run(module.operation)
        passmanager.PassManager.parse(PROPAGATION).run(module.operation)
        custom.forget_rules(module)
        passmanager.PassManager.parse(RESHARDS.replace("\n", "")).run(module.operation)
        localize(module, n_devices)
        module.operation.verify()
        passmanager.PassManager.parse("builtin.module(cse,symbol-dce)").run(module.operation)


def partition(artifact, n_devices):
    """The artifact of a manual program, or None if `artifact` is one. Raises Refused, and Failed."""
    from jax._src.lib import xla_client
    from jaxlib import _jax
    from jaxlib.mlir.dialects import stablehlo

    from vtrn.partition import custom

    with _context() as context:
        try:
            module = stablehlo.deserialize_portable_artifact(context, artifact)
        except Exception as error:
            raise Refused(f"it is no StableHLO artifact that jaxlib reads: {error}") from None
        n_devices = n_devices or _n_partitions(module)
        if n_devices == 1 or is_manual(module):
            custom.tell_all(module, xla_client.HloSharding.manual())
            return None
        try:
            partition_module(module, n_devices)
        except Refused as refused:
            whole = stablehlo.deserialize_portable_artifact(context, artifact)
            if custom.calls_of(whole, custom.PARTITIONED):
                raise Failed("a function with custom_partitioning needs a program that can be divided",
                             words_of(refused)) from refused  # fmt: skip
            custom.tell_all(whole, xla_client.HloSharding.replicate())
            raise
        return _jax.mlir.serialize_portable_artifact(module, VERSION, True)


def one_device(artifact):
    """The artifact of what one of its devices runs, with the shapes of its parts and no annotations. Raises Refused."""
    from jaxlib import _jax
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    from vtrn.partition.unannotated import unannotated

    with _context() as context, ir.Location.unknown(context):
        module = stablehlo.deserialize_portable_artifact(context, artifact)
        n_devices = _n_partitions(module)
        if n_devices > 1 and not is_manual(module):
            partition_module(module, n_devices)
        unannotated(module)
        module.operation.verify()
        return _jax.mlir.serialize_portable_artifact(module, VERSION, True)


_EMIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
_PARTITION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, _EMIT,
                              ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)  # fmt: skip


_ONE_DEVICE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, _EMIT, ctypes.c_void_p,
                               ctypes.c_void_p, ctypes.c_size_t)  # fmt: skip


class _Partitioner(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("ctx", ctypes.c_void_p), ("partition", _PARTITION),
                ("one_device", _ONE_DEVICE), ("partition_file", _PARTITION)]  # fmt: skip


def words_of(error):
    if isinstance(error, (Refused, Failed)):
        return " at ".join(map(str, error.args))
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _answer(make, emit, sink, message, message_size):
    try:
        out = make()
        if out is None:
            return MANUAL
        emit(sink, out, len(out))
        return DIVIDED
    except Exception as error:  # nothing may pass through C
        text = words_of(error).encode()[: message_size - 1] + b"\0"
        ctypes.memmove(message, text, len(text))
        return WRONG if isinstance(error, Failed) else UNDIVIDED


def _partition(_, artifact, size, n_devices, *where):
    return _answer(lambda: partition(ctypes.string_at(artifact, size), n_devices), *where)


def _one_device(_, artifact, size, *where):
    return _answer(lambda: one_device(ctypes.string_at(artifact, size)), *where)


def _partition_file(_, artifact, size, n_devices, *where):
    return _answer(lambda: apart.partition(ctypes.string_at(artifact, size), n_devices), *where)


_c_partition, _c_one_device, _c_partition_file = _PARTITION(_partition), _ONE_DEVICE(_one_device), _PARTITION(_partition_file)


def connect(library):
    """Lets the library call `partition`, until the interpreter ends."""
    partitioner = _Partitioner(ctypes.sizeof(_Partitioner), None, _c_partition, _c_one_device, _c_partition_file)
    library.vtrn_partitioner_set.argtypes = [ctypes.POINTER(_Partitioner)]
    library.vtrn_partitioner_set.restype = None
    library.vtrn_partitioner_set(ctypes.byref(partitioner))
    atexit.register(library.vtrn_partitioner_set, None)
