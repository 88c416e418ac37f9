"""What the program itself says while it is divided: how a function with custom_partitioning runs on parts, and who
is told of a sharding (inspect_array_sharding)."""

import itertools
import math
import types

import numpy as np
from jaxlib.mlir import ir

from vtrn.partition.collectives import shape_of
from vtrn.partition.shardings import Axis, Failed, Refused, normalized, replicated, whole_axes

PARTITIONED = "CustomSPMDPartitioning"  # as JAX names it
INSPECTED = "vtrn_inspect_sharding"  # as vtrn.callbacks lowers it


def target_of(op):
    return ir.StringAttr(op.attributes["call_target_name"]).value if op.name == "stablehlo.custom_call" else None


def calls_of(module, target):
    found = []

    def visit(op):
        found.extend([op] if target_of(op) == target else [])
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def forget_rules(module):
    """Shardy knows by now where values are; the function itself says what it needs of its operands."""
    for op in calls_of(module, PARTITIONED):
        if "sdy.sharding_rule" in op.attributes:
            del op.attributes["sdy.sharding_rule"]


# Shardings as XLA's.


def as_xla(mesh, sharding):
    """Devices are numbered by their places in the mesh, as JAX expects them."""
    from jax._src.lib import xla_client

    places = np.arange(mesh.n_devices).reshape(tuple(mesh.sizes.values()) or (1,))
    used = [axis.name for axes in sharding for axis in axes]
    if not used:
        return xla_client.HloSharding.replicate()
    names = list(mesh.sizes)
    order = [names.index(name) for name in used]
    rest = [i for i in range(len(names)) if i not in order]
    n_copies = math.prod(mesh.sizes[names[i]] for i in rest)
    out = xla_client.OpSharding()
    out.type = xla_client.OpSharding.Type.OTHER
    parts = [math.prod(axis.size for axis in axes) for axes in sharding]
    out.tile_assignment_dimensions = parts + [n_copies] * (n_copies > 1)
    out.tile_assignment_devices = places.transpose(order + rest).ravel().tolist()
    out.replicate_on_last_tile_dim = n_copies > 1
    return xla_client.HloSharding.from_proto(out)


def from_xla(mesh, sharding, rank):
    from jax._src.sharding_impls import parse_flatten_op_sharding

    sizes = types.SimpleNamespace(shape=mesh.sizes, size=mesh.n_devices)
    spec = list(parse_flatten_op_sharding(sharding, sizes)[0])
    out = [() if axes is None else (axes,) if isinstance(axes, str) else tuple(axes) for axes in spec]
    out += [()] * (rank - len(out))
    return tuple(normalized(Axis(name, 1, mesh.sizes[name]) for name in axes) for axes in out)


def shape_for_xla(local, value):
    from jax._src.lib import xla_client

    return xla_client.Shape.array_shape(dtype_of(ir.RankedTensorType(value.type).element_type), local.shape(value))


def dtype_of(kind):
    from jax._src.interpreters import mlir

    dtypes = [dtype for dtype in mlir._dtype_to_ir_type if dtype != np.dtype([("float0", np.void, 0)])]
    found = next((dtype for dtype in dtypes if mlir.dtype_to_ir_type(dtype) == kind), None)
    if found is None:
        raise Refused(f"NumPy has no type for {kind}")
    return found


# Functions with custom_partitioning.


def jaxs_own():
    try:
        from jax._src import custom_partitioning
    except ImportError:  # where it was until JAX 0.8
        from jax.experimental import custom_partitioning
    return custom_partitioning


def key_of(op):
    return ir.StringAttr(op.attributes["backend_config"]).value


def expressible(local, info, sharding):
    """As far as the function's mesh has axes for it."""
    from jax._src import sharding as jax_sharding

    sharding = tuple(whole_axes(local.mesh, axes) for axes in sharding)
    try:
        info.to_mesh_pspec_sharding(as_xla(local.mesh, sharding), len(sharding))
    except jax_sharding.IndivisibleError:
        return replicated(len(sharding))
    return sharding


def chosen_by_function(local, op):
    """What the function does with parts, as a module, and the shardings of its operands and its results."""
    from jax._src.lib import xla_client

    custom = jaxs_own()
    info = custom._sharding_callbacks.get(key_of(op).encode())
    if info is None:
        raise Failed("a function with custom_partitioning is not in this process: compile the program where it was traced")
    if local.manual:
        raise Refused("custom_partitioning in a shard_map that leaves axes of the mesh to the compiler")
    operands = [expressible(local, info, local.env[value]) for value in op.operands]
    results = [expressible(local, info, local.wanted(result, i)) for i, result in enumerate(op.results)]
    shapes = [shape_for_xla(local, value) for value in (*op.operands, *op.results)]
    shapes, result_shapes = shapes[:len(operands)], shapes[len(operands):]
    operands, results = ([as_xla(local.mesh, sharding) for sharding in side] for side in (operands, results))
    shape, sharding = result_shapes[0], results[0]
    if len(results) != 1:
        shape = xla_client.Shape.tuple_shape(result_shapes)
        sharding = xla_client.HloSharding.tuple_sharding(shape, results)
    try:
        module, operands, sharding = custom._custom_partitioning_partition(shapes, operands, shape, sharding,
                                                                           key_of(op).encode())  # fmt: skip
    except Exception as error:
        raise Failed(f"custom_partitioning: {type(error).__name__}: {error}") from error
    results = sharding.tuple_elements() if len(results) != 1 else [sharding]
    sides = zip((op.operands, op.results), (operands, results))
    return module, [[from_xla(local.mesh, s, len(shape_of(v))) for v, s in zip(values, side)] for values, side in sides]


def adopt(module, owner):
    """The block of @main of the module; the functions that it calls become those of the owner, under free names."""
    names = {ir.StringAttr(op.attributes["sym_name"]).value for op in owner.body.operations}
    functions = [op.operation for op in module.body.operations if op.operation.name == "func.func"]
    own = {ir.StringAttr(op.attributes["sym_name"]).value: op for op in functions}
    free = (name for i in itertools.count() if (name := f"part{i}") not in names)
    new = {name: next(free) for name in own if name != "main"}

    def rename(op):
        if op.name == "func.call":
            op.attributes["callee"] = ir.FlatSymbolRefAttr.get(new[ir.FlatSymbolRefAttr(op.attributes["callee"]).value])
        if op.name.startswith("sdy."):
            raise Refused(f"the function of custom_partitioning has {op.name} in what one device runs")
        return ir.WalkResult.ADVANCE

    for name, function in own.items():
        function.walk(rename)
        if name != "main":
            function.attributes["sym_name"] = ir.StringAttr.get(new[name])
            function.move_before(owner.body.operations[0].operation)
    return own["main"].regions[0].blocks[0]


def run_function(local, op):
    """In place of the call, what its function does with the device's parts."""
    module, (operands, results) = chosen_by_function(local, op)
    for i, sharding in enumerate(operands):
        local.need(op, i, fitted_or_refused(local, op.operands[i], sharding))
    with op.location:
        module = ir.Module.parse(module)
        body = adopt(module, local.module)
        for argument, operand in zip(body.arguments, op.operands):
            if argument.type != operand.type:
                raise Failed(f"custom_partitioning: the function takes {argument.type} where its part is {operand.type}")
            argument.replace_all_uses_with(operand)
        *inside, end = list(body.operations)
        values = list(end.operands)
        end.operation.erase()
        for inner in inside:
            inner.operation.move_before(op)
        for result, value, sharding in zip(op.results, values, results):
            fitted_or_refused(local, result, sharding)
            if isinstance(value.owner, ir.Block) or value in local.env:  # an operand that it passes on
                value = ir.Operation.create("stablehlo.reshape", [value.type], [value]).result
            local.replace(result, value, sharding)


def fitted_or_refused(local, value, sharding):
    for n, axes in zip(local.shape(value), sharding):
        if n % math.prod(axis.size for axis in axes):
            raise Refused(f"custom_partitioning divides a dimension of {n} into parts that are not equal")
    return sharding


# Shardings that the program asks for.


def tell(op, sharding):
    from vtrn import callbacks

    try:
        callbacks.tell_sharding(int(key_of(op)), sharding)
    except Exception as error:
        raise Failed(f"inspect_array_sharding: {type(error).__name__}: {error}") from error


def tell_all(module, sharding):
    """Of a program that is not divided any further."""
    for op in calls_of(module, INSPECTED):
        tell(op, sharding)


def inspect(local, op):
    from jax._src.lib import xla_client

    value = local.whole(op.operands[0])
    is_manual = len(local.manual) == len(local.mesh.sizes)
    sharding = tuple(whole_axes(local.mesh, axes) for axes in local.env[value])
    tell(op, xla_client.HloSharding.manual() if is_manual else as_xla(local.mesh, sharding))
    local.forget(op)
