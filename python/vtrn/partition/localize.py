"""Turns a module whose values Shardy has given shardings into what one device runs.

Types become those of a device's part, in place. Each operation says which sharding it needs of its
operands (`rules.py`); where a value has another one, the collectives between the two are inserted before the
operation. So every operation is right on its own, whatever Shardy's collectives were for: these are read as
no more than changes of sharding.
"""

import itertools
import operator

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func, sdy
from jaxlib.mlir.dialects import stablehlo as hlo

from vtrn.partition import custom, rules
from vtrn.partition.collectives import Collectives, shape_of
from vtrn.partition.shardings import (Axis, Failed, Mesh, Refused, fitted, n_shards, normalized, replicated,
                                      whole_axes)  # fmt: skip

RESHARDS = ("sdy.all_gather", "sdy.all_slice", "sdy.all_to_all", "sdy.collective_permute", "sdy.all_reduce",
            "sdy.reshard", "sdy.sharding_constraint",
            "sdy.replicated_to_unreduced")  # fmt: skip


CALLBACK = "vtrn_host_callback"  # as vtrn.callbacks names it


def zero_of(kind):
    """An attribute of the element type."""
    if isinstance(kind, ir.ComplexType):
        return ir.Attribute.parse(f"#complex.number<:{kind.element_type} 0.0, 0.0>")
    return ir.FloatAttr.get(kind, 0.0) if isinstance(kind, ir.FloatType) else ir.IntegerAttr.get(kind, 0)


def nothing(kind):
    """A value of the type: zeros, or a token."""
    if not isinstance(kind, ir.RankedTensorType):
        return ir.Operation.create("stablehlo.create_token", [kind]).result
    return hlo.constant(ir.DenseElementsAttr.get_splat(kind, zero_of(kind.element_type)))


def is_tensor(value):
    return isinstance(value.type, ir.RankedTensorType)


class Local:
    def __init__(self, module, mesh):
        self.module, self.mesh = module, mesh
        self.collectives = Collectives(mesh)
        self.env = {}  # the sharding that a value has
        # Values of which devices along the axes have parts: (axes, what joins them). Where something else
        # than the end of a program or a reduce_scatter reads one, it is joined first.
        self.partial = {}
        self.shardings = {}  # of functions: name -> (of arguments, of results)
        self.sums = {}  # likewise, the axes along which they are parts of sums
        self.manual = ()  # names of axes that the program divides by itself

    # What Shardy said.

    def axes_of(self, axis, mesh):
        axis = sdy.AxisRefAttr(axis)
        info = axis.sub_axis_info
        if info is None:
            axis = Axis(axis.name, 1, mesh.sizes[axis.name])
        else:
            info = sdy.SubAxisInfoAttr(info)
            axis = Axis(axis.name, info.pre_size, info.size)
        axes = [axis] if mesh is self.mesh else self.mesh.own_axes(mesh, axis)
        if axes is None:
            raise Refused(f"axis {axis.name} of mesh {mesh.name} is none of mesh {self.mesh.name}'s")
        return axes

    def mesh_of(self, sharding):
        name = str(sharding.mesh_or_ref).lstrip("@").strip('"')
        if name not in self.mesh.by_name:
            raise Refused(f"a value is divided over {name}, which has other devices than mesh {self.mesh.name}")
        return self.mesh.by_name[name]

    def parse(self, sharding, rank):
        """A TensorShardingAttr, without axes that are manual here. Which of them it calls unreduced,
        `unreduced` tells."""
        if sharding is None:
            return replicated(rank)
        sharding = sdy.TensorShardingAttr(sharding)
        dims = [list(sdy.DimensionShardingAttr(d).axes) for d in sharding.dimension_shardings]
        if len(dims) != rank:  # on one device, of a callback: it has no dimensions
            return replicated(rank)
        mesh = self.mesh_of(sharding) if any(dims) else self.mesh
        dims = [[part for axis in axes for part in self.axes_of(axis, mesh)] for axes in dims]
        return tuple(normalized(axis for axis in axes if axis.name not in self.manual) for axes in dims)

    def unreduced(self, sharding):
        axes = [] if sharding is None else list(sdy.TensorShardingAttr(sharding).unreduced_axes)
        mesh = self.mesh_of(sdy.TensorShardingAttr(sharding)) if axes else self.mesh
        return normalized(part for axis in axes for part in self.axes_of(axis, mesh))

    def unreduced_of(self, result):
        """Of an operation's only result."""
        return self.sums_of(result.owner)[0] if len(result.owner.results) == 1 else ()

    def sums_of(self, op):
        """The axes along which each result is to stay in parts of a sum."""
        if "sdy.sharding" not in op.attributes:
            return [()] * len(op.results)
        return list(map(self.unreduced, sdy.TensorShardingPerValueAttr(op.attributes["sdy.sharding"]).shardings))

    def wanted(self, result, i):
        """What Shardy gave result i of an operation, as far as its shape allows."""
        if not is_tensor(result):
            return ()
        shape = self.shape(result)
        attributes = result.owner.attributes
        if "sdy.sharding" not in attributes:
            return replicated(len(shape))
        per_value = sdy.TensorShardingPerValueAttr(attributes["sdy.sharding"])
        return fitted(self.parse(list(per_value.shardings)[i], len(shape)), shape)

    def fit(self, sharding, value):
        """A TensorShardingAttr, as far as the value's shape allows; of a token (), which is not divided."""
        return fitted(self.parse(sharding, len(shape_of(value))), self.shape(value)) if is_tensor(value) else ()

    # Values.

    def shape(self, value):
        """Of the whole tensor."""
        shape = shape_of(value)
        return tuple(n * n_shards(axes) for n, axes in zip(shape, self.env.get(value, replicated(len(shape)))))

    def local_type(self, value, sharding):
        kind = ir.RankedTensorType(value.type)
        return ir.RankedTensorType.get([n // n_shards(axes) for n, axes in zip(kind.shape, sharding)],
                                       kind.element_type)

    def give(self, value, sharding):
        """An operation's result or a block's argument, whose sharding is not known yet."""
        if is_tensor(value):
            value.set_type(self.local_type(value, sharding))
            self.env[value] = sharding

    def replace(self, result, value, sharding):
        """A result by what has been computed in its place."""
        self.env[value] = sharding
        result.replace_all_uses_with(value)
        self.forget(result.owner.operation)

    def forget(self, op):
        if op not in self.dead:
            self.dead.append(op)

    def whole(self, value):
        """The value, not parts of it that are yet to be joined."""
        if value not in self.partial:
            return value
        axes, kind = self.partial[value]
        new = self.collectives.all_reduce(value, axes, kind)
        self.env[new] = self.env[value]
        return new

    def need(self, op, i, sharding, has_parts=False):
        """has_parts: the operation takes parts of a sum; these are divided as the sum would be."""
        if not is_tensor(op.operands[i]):
            return
        value = op.operands[i] if has_parts else self.whole(op.operands[i])
        new = self.collectives.reshard(value, self.env[value], sharding)
        if new != op.operands[i]:
            self.env[new] = sharding
            op.operands[i] = new

    def need_sum(self, op, i, sharding, axes):
        """An operand as parts of a sum along the axes: what is no such part is left to one device."""
        is_part = bool(axes) and sorted(self.partial.get(op.operands[i], ((),))[0]) == sorted(axes)
        self.need(op, i, sharding, is_part)
        if axes and not is_part:
            rules.keep_once(self, op, i, axes)

    def join(self, result, axes, kind):
        """Joins what devices along the axes have, but for axes along which it is to stay in parts: that a
        reduce_scatter joins, or that Shardy calls unreduced."""
        axes = normalized(axes)
        if not axes:
            return
        uses = list(result.uses)
        if len(uses) == 1 and uses[0].owner.name == "sdy.reduce_scatter":
            self.partial[result] = (axes, kind)
            return
        kept = [axis for axis in self.unreduced_of(result) if kind == "stablehlo.add"]
        kept = tuple(kept) if set(kept) <= set(axes) else ()
        left = tuple(axis for axis in axes if axis not in kept)
        whole = result
        if left:
            with ir.InsertionPoint.after(result.owner):
                whole = self.collectives.all_reduce(result, left, kind)
            result.replace_all_uses_except(whole, [whole.owner.operation])
            self.env[whole] = self.env[result]
        if kept:
            self.partial[whole] = (kept, kind)

    # Operations.

    def run(self, block):
        """The operations of a block, in order; its arguments are known."""
        for op in list(block.operations):
            with op.location, ir.InsertionPoint(op):
                self.dead = []
                try:
                    self.rewrite(op.operation)
                except (Refused, Failed) as error:
                    raise error if error.args[1:] else type(error)(f"{op.name}: {error}", place_of(op)) from error
                for dead in self.dead:
                    dead.erase()

    def rewrite(self, op):
        name = op.name
        if name in CONTROL:
            CONTROL[name](self, op)
            return
        if name in rules.LINEAR and self.unreduced_of(op.results[0]):
            self.add_parts(op)
            return
        self.rewrite_plain(op)

    def add_parts(self, op):
        """Of a sum that stays in parts: a linear operation does with the parts what it does with the sum."""
        axes, result = self.unreduced_of(op.results[0]), op.results[0]
        parts = {}
        for i, value in enumerate(op.operands):
            is_part = sorted(self.partial.get(value, ((),))[0]) == sorted(axes)
            if not is_part and value not in parts:
                self.need(op, i, self.env[value])
                rules.keep_once(self, op, i, axes)
            elif value in self.partial:
                parts[value] = self.partial.pop(value)
        self.rewrite_plain(op)
        self.partial |= parts
        self.partial[result] = (axes, "stablehlo.add")

    def rewrite_plain(self, op):
        name = op.name
        target = self.wanted(op.results[0], 0) if len(op.results) else ()
        is_known = name in rules.ELEMENTWISE or (name.startswith("chlo.") and self.has_one_shape(op))
        if name in RESHARDS:
            self.reshard(op)
        elif name in rules.RULES:
            rules.RULES[name](self, op, target)
        elif is_known:
            # Shardy has no rule for most of CHLO: what it says of a result need not fit the operand.
            is_unary = name.startswith("chlo.") and len(op.operands) == 1
            rules.elementwise(self, op, self.env[op.operands[0]] if is_unary else target)
        elif self.is_callback(op):
            self.run_on_first(op)
        elif name == "stablehlo.custom_call" and custom.target_of(op) in CUSTOM:
            CUSTOM[custom.target_of(op)](self, op)
        else:
            self.run_whole(op)
        for attribute in ("sdy.sharding", "sdy.sharding_rule", "mhlo.sharding"):
            if op not in self.dead and attribute in op.attributes:
                del op.attributes[attribute]

    def has_one_shape(self, op):
        shapes = {self.shape(v) for v in [*op.operands, *op.results] if is_tensor(v)}
        return len(shapes) == 1

    def is_callback(self, op):
        """Whether it calls the host for all devices together: in a shard_map each device calls."""
        return (op.name == "stablehlo.custom_call" and not self.manual
                and ir.StringAttr(op.attributes["call_target_name"]).value == CALLBACK)  # fmt: skip

    def run_on_first(self, op):
        """Once, by the first device, which gives the others what the host gave."""
        self.run_whole(op)
        device = hlo.convert(ir.RankedTensorType.get([], ir.IntegerType.get_signless(32)), hlo.partition_id())
        kinds = [result.type for result in op.results]
        choice = ir.Operation.create("stablehlo.case", kinds, [device], regions=2)
        first, others = (region.blocks.append() for region in choice.regions)
        with ir.InsertionPoint(others):  # what is not there has any value
            ir.Operation.create("stablehlo.return", [], list(map(nothing, kinds)))
        with ir.InsertionPoint.after(choice):
            given = [self.collectives.broadcast(value) if is_tensor(value) else value for value in choice.results]
        for result, value in zip(op.results, given):
            if is_tensor(value):
                self.env[value] = self.env[result]
            result.replace_all_uses_with(value)
        with ir.InsertionPoint(first):
            end = ir.Operation.create("stablehlo.return", [], list(op.results))
        op.move_before(end)

    def run_whole(self, op):
        """On every device alike."""
        for i, operand in enumerate(op.operands):
            if is_tensor(operand):
                self.need(op, i, replicated(len(shape_of(operand))))
        for result in op.results:
            if is_tensor(result):
                self.give(result, replicated(len(shape_of(result))))

    def reshard(self, op):
        result = op.results[0]
        sharding = op.attributes["out_sharding" if "out_sharding" in op.attributes else "sharding"]
        shape = self.shape(result)
        sharding = fitted(self.parse(sharding, len(shape)), shape)
        value = self.whole(op.operands[0])
        self.replace(result, self.collectives.reshard(value, self.env[value], sharding), sharding)

    def scatter_to_sum(self, op):
        """sharded_to_unreduced: what a device has stands at its place among zeros."""
        result, value = op.results[0], self.whole(op.operands[0])
        shape, old = self.shape(result), self.env[value]
        new = fitted(self.parse(op.attributes["out_sharding"], len(shape)), shape)
        axes = self.unreduced(op.attributes["out_sharding"])
        lost = {d: old[d][len(new[d]):] for d in range(len(new)) if old[d] != new[d]}
        is_direct = all(old[d][:len(new[d])] == new[d] for d in lost)
        if not is_direct or sorted(axis for of in lost.values() for axis in of) != sorted(axes):
            self.reshard(op)
            return
        starts = [self.collectives.offset(lost[d], n) if d in lost else self.collectives.scalar(0)
                  for d, n in enumerate(shape_of(value))]
        whole = hlo.dynamic_update_slice(rules.zeros(self.local_type(result, new)), value, starts)
        self.replace(result, whole, new)
        self.partial[whole] = (axes, "stablehlo.add")

    def reduce_scatter(self, op):
        value, result = op.operands[0], op.results[0]
        if value not in self.partial:
            self.reshard(op)
            return
        axes, kind = self.partial[value]
        shape = self.shape(result)
        old, new = self.env[value], fitted(self.parse(op.attributes["out_sharding"], len(shape)), shape)
        gained = {d: new[d][len(old[d]):] for d in range(len(new)) if new[d] != old[d]}
        is_direct = all(new[d][:len(old[d])] == old[d] for d in gained)
        if not is_direct or sorted(axis for of in gained.values() for axis in of) != sorted(axes):
            value = self.collectives.all_reduce(value, axes, kind)
            value = self.collectives.reshard(value, old, new)
        else:
            for d, of in gained.items():
                value = self.collectives.reduce_scatter(value, d, of, kind)
        self.replace(result, value, new)

    # Control flow, functions, and what the program divided by itself.

    def end_of(self, block):
        return block.operations[len(block.operations) - 1]

    def yield_as(self, block, shardings, sums=None):
        """The values that a block gives, in these shardings, as parts of sums along these axes."""
        end = self.end_of(block)
        with end.location, ir.InsertionPoint(end):
            for i, sharding in enumerate(shardings):
                self.need_sum(end, i, sharding, sums[i] if sums else ())

    def carried(self, op):
        """while: values are carried in the shardings of its results."""
        shardings, sums = [self.wanted(result, i) for i, result in enumerate(op.results)], self.sums_of(op)
        for i, sharding in enumerate(shardings):
            self.need_sum(op, i, sharding, sums[i])
        for region, yielded in zip(op.regions, (([()],), (shardings, sums))):
            block = region.blocks[0]
            self.take(block.arguments, shardings, sums)
            self.inside(block)
            self.yield_as(block, *yielded)
        self.give_all(op, shardings, sums)

    def branches(self, op):
        shardings, sums = [self.wanted(result, i) for i, result in enumerate(op.results)], self.sums_of(op)
        self.need(op, 0, ())
        for region in op.regions:
            self.inside(region.blocks[0])
            self.yield_as(region.blocks[0], shardings, sums)
        self.give_all(op, shardings, sums)

    def inside(self, block):
        dead = self.dead
        self.run(block)
        self.dead = dead

    def take(self, values, shardings, sums):
        """Values that come from elsewhere, as results of an operation with regions or arguments of a block."""
        for value, sharding, axes in zip(values, shardings, sums):
            self.give(value, sharding)
            if axes:
                self.partial[value] = (axes, "stablehlo.add")

    def give_all(self, op, shardings, sums):
        self.take(op.results, shardings, sums)
        if "sdy.sharding" in op.attributes:
            del op.attributes["sdy.sharding"]

    def call(self, op):
        name = ir.FlatSymbolRefAttr(op.attributes["callee"]).value
        arguments, results = self.shardings[name]
        sums, of_results = self.sums[name]
        for i, sharding in enumerate(arguments):
            self.need_sum(op, i, sharding, sums[i])
        self.give_all(op, results, of_results)

    def splice(self, op):
        """A manual computation: its body divides the manual axes by itself."""
        manual = {ir.StringAttr(axis).value for axis in ir.ArrayAttr.parse(manual_axes_text(op))}
        ins, outs = (list(sdy.TensorShardingPerValueAttr(op.attributes[name]).shardings)
                     for name in ("in_shardings", "out_shardings"))
        block = op.regions[0].blocks[0]
        if not manual <= set(self.mesh.sizes):
            raise Refused(f"shard_map divides axes {', '.join(sorted(manual))}, the program mesh {self.mesh.name}")
        outer = self.manual
        for i, sharding in enumerate(ins):
            self.need_sum(op, i, self.fit(sharding, op.operands[i]), self.unreduced(sharding))
        self.manual = (*outer, *manual)
        for argument, sharding, operand in zip(block.arguments, ins, op.operands):
            self.give(argument, self.fit(sharding, argument))
            if argument.type != operand.type:
                raise Refused(f"an argument of {operand.type} does not fit its sharding")
        self.inside(block)
        self.yield_as(block, [self.fit(sharding, value) for sharding, value in zip(outs, self.end_of(block).operands)])
        self.manual = outer
        for argument, operand in zip(block.arguments, op.operands):
            argument.replace_all_uses_with(operand)
        self.forget(op)
        values = list(self.end_of(block).operands)
        for inner in list(block.operations)[:-1]:
            inner.operation.move_before(op)
        for result, value, sharding in zip(op.results, values, outs):
            if not is_tensor(value):
                result.replace_all_uses_with(value)
                continue
            # The result is a value of its own: its sharding has the manual axes, which value's has not.
            value = hlo.reshape(value.type, value)
            self.replace(result, value, self.fit(sharding, result))
            if self.unreduced(sharding):
                self.partial[value] = (self.unreduced(sharding), "stablehlo.add")



def manual_axes_text(op):
    text = str(op.attributes["manual_axes"])
    return "[" + text[text.index("{") + 1:text.rindex("}")] + "]"


def place_of(op):
    return str(op.location).removeprefix("loc(").removesuffix(")")


def refuse(local, op):
    raise Refused("there is no rule for it")


CUSTOM = {custom.PARTITIONED: custom.run_function, custom.INSPECTED: custom.inspect}

CONTROL = {
    "stablehlo.while": Local.carried,
    "stablehlo.case": Local.branches,
    "stablehlo.if": Local.branches,
    "stablehlo.return": lambda local, op: None,
    "sdy.return": lambda local, op: None,
    "func.return": lambda local, op: None,
    "func.call": Local.call,
    "sdy.manual_computation": Local.splice,
    "sdy.reduce_scatter": Local.reduce_scatter,
    "sdy.sharded_to_unreduced": Local.scatter_to_sum,
    "sdy.sharding_group": Local.forget,
    "sdy.named_computation": refuse,
}


def has_manual(module):
    found = []

    def visit(op):
        found.extend([True] * (op.name == "sdy.manual_computation"))
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return bool(found)


def has_gspmd(module):
    """Whether arguments or results of functions have shardings without a mesh."""
    functions = [op for op in module.body.operations if op.operation.name == "func.func"]
    lists = [ir.ArrayAttr(f.attributes[of]) for f in functions for of in ("arg_attrs", "res_attrs") if of in f.attributes]
    return any("mhlo.sharding" in ir.DictAttr(entry) for entries in lists for entry in entries)


def add_mesh(module, sizes, devices):
    """Its name."""
    taken = {ir.StringAttr(op.attributes["sym_name"]).value for op in module.body.operations}
    name = next(name for i in itertools.count() if (name := f"parts{i or ''}") not in taken)
    axes = [sdy.MeshAxisAttr.get(axis, size) for axis, size in sizes.items()]
    with ir.InsertionPoint.at_block_begin(module.body):
        ir.Operation.create("sdy.mesh", attributes={"sym_name": ir.StringAttr.get(name),
                                                    "mesh": sdy.MeshAttr.get(axes, devices)})  # fmt: skip
    return name


def refined(module, meshes, devices):
    """A mesh of the same devices, added to the module, of whose axes each axis of the meshes is made: so what
    is divided over any of them is divided over whole axes. None: they have no common parts, or a shard_map
    names axes of its own."""
    n = meshes[0].n_devices
    strides = {1, n}
    for mesh in meshes:
        strides |= {n // size for size in itertools.accumulate(mesh.sizes.values(), operator.mul)}
    order = sorted(strides, reverse=True)
    if has_manual(module) or any(high % low for high, low in itertools.pairwise(order)):
        return None
    sizes = {f"part{i}": high // low for i, (high, low) in enumerate(itertools.pairwise(order))}
    return Mesh(add_mesh(module, sizes, devices), sizes, devices)


def mesh_of(module, n_devices):
    """The mesh that values are divided over; `by_name` has it and others of the same devices, whose axes are
    taken for parts of its own."""
    meshes = []
    for op in module.body.operations:
        if op.operation.name != "sdy.mesh":
            continue
        attribute = sdy.MeshAttr(op.attributes["mesh"])
        axes = [sdy.MeshAxisAttr(axis) for axis in attribute.axes]
        if not axes:
            continue
        mesh = Mesh(ir.StringAttr(op.attributes["sym_name"]).value, {axis.name: axis.size for axis in axes},
                    list(attribute.device_ids))
        if mesh.n_devices != n_devices:
            raise Refused(f"mesh {mesh.name} has {mesh.n_devices} devices, the program {n_devices}")
        meshes.append((mesh, list(attribute.device_ids)))
    if not meshes and has_gspmd(module):
        raise Refused("its shardings are GSPMD's, and Shardy is not asked")
    if not meshes:  # nothing is divided; but callbacks run once
        return Mesh(add_mesh(module, {"all": n_devices}, []), {"all": n_devices})
    mesh, devices = meshes[0]
    if len({tuple(other.sizes.values()) for other, ids in meshes if ids == devices}) > 1:
        mesh = refined(module, [other for other, ids in meshes if ids == devices], devices) or mesh
    mesh.by_name = {other.name: mesh if other.sizes == mesh.sizes else other for other, ids in meshes if ids == devices}
    return mesh


def functions_of(module):
    return [op for op in module.body.operations if op.operation.name == "func.func"]


def attributes_of(function, name, n):
    """The sharding of each argument ("arg_attrs") or result ("res_attrs"); None: none was given."""
    if name not in function.attributes:
        return [None] * n
    return [of["sdy.sharding"] if "sdy.sharding" in of else None
            for of in map(ir.DictAttr, ir.ArrayAttr(function.attributes[name]))]


def signature(local, function, is_main):
    kind = ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value)
    sides = []
    for name, types in (("arg_attrs", kind.inputs), ("res_attrs", kind.results)):
        side = []
        for sharding, of in zip(attributes_of(function, name, len(types)), types):
            if not isinstance(of, ir.RankedTensorType):
                side.append(())
                continue
            sharding = fitted(local.parse(sharding, of.rank), of.shape)
            side.append(tuple(whole_axes(local.mesh, axes) for axes in sharding) if is_main else sharding)
        sides.append(side)
    return sides


def sums_of(local, function, arguments, results):
    """The axes along which devices have parts of a sum, of each argument and each result."""
    return [[local.unreduced(sharding) for sharding in attributes_of(function, name, len(of))]
            for name, of in (("arg_attrs", arguments), ("res_attrs", results))]


def sharding_attribute(mesh, sharding, sums=()):
    dims = [sdy.DimensionShardingAttr.get([sdy.AxisRefAttr.get(axis.name) for axis in axes], True) for axes in sharding]
    return sdy.TensorShardingAttr.get(mesh.name, dims, [], [sdy.AxisRefAttr.get(axis.name) for axis in sums])


def with_shardings(function, name, mesh, shardings, sums):
    """The function's attributes name what its arguments or results have. The library takes parts of sums
    from programs alone that know of them, as the mark says."""
    old = list(map(ir.DictAttr, ir.ArrayAttr(function.attributes[name]))) if name in function.attributes else []
    old = old or [ir.DictAttr.get({})] * len(shardings)
    new = []
    for of, sharding, axes in zip(old, shardings, sums):
        entries = {entry.name: entry.attr for entry in of} | {"sdy.sharding": sharding_attribute(mesh, sharding, axes)}
        new.append(ir.DictAttr.get(entries | ({"vtrn.unreduced": ir.StringAttr.get("sum")} if axes else {})))
    function.attributes[name] = ir.ArrayAttr.get(new)


def without_shardings(function):
    for name in ("arg_attrs", "res_attrs"):
        if name in function.attributes:
            old = map(ir.DictAttr, ir.ArrayAttr(function.attributes[name]))
            function.attributes[name] = ir.ArrayAttr.get([
                ir.DictAttr.get({entry.name: entry.attr for entry in of if entry.name != "sdy.sharding"}) for of in old])


def wrap(function, mesh, arguments, results, sums):
    """The body becomes that of a manual computation over all axes."""
    kind = ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value)
    body = function.regions[0].blocks[0]
    with function.location:
        entry = ir.Block.create_at_start(function.regions[0], kind.inputs, [function.location] * len(kind.inputs))
        with ir.InsertionPoint(entry):
            op = ir.Operation.create(
                "sdy.manual_computation", list(kind.results), list(entry.arguments),
                attributes={
                    "in_shardings": per_value(mesh, arguments), "out_shardings": per_value(mesh, results),
                    "manual_axes": sdy.ManualAxesAttr.get([ir.StringAttr.get(name) for name in mesh.sizes])},
                regions=1)  # fmt: skip
            func.ReturnOp(list(op.results))
        body.append_to(op.regions[0])
        end = body.operations[len(body.operations) - 1]
        with ir.InsertionPoint(end):
            ir.Operation.create("sdy.return", [], list(end.operands))
        end.operation.erase()
    with_shardings(function, "arg_attrs", mesh, arguments, sums[0])
    with_shardings(function, "res_attrs", mesh, results, sums[1])


def per_value(mesh, shardings):
    return sdy.TensorShardingPerValueAttr.get([sharding_attribute(mesh, sharding) for sharding in shardings])


def plain_constants(module):
    """Constants of Shardy's dialect as StableHLO's, in every region."""
    found = []

    def visit(op):
        if op.name == "sdy.constant":
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for op in found:
        with op.location, ir.InsertionPoint(op):
            new = hlo.ConstantOp(op.attributes["value"])
            if "sdy.sharding" in op.attributes:
                new.attributes["sdy.sharding"] = op.attributes["sdy.sharding"]
        op.results[0].replace_all_uses_with(new.result)
        op.erase()


def localize(module, n_devices):
    """Of a module that Shardy has partitioned for n_devices, in place. Raises Refused."""
    mesh = mesh_of(module, n_devices)
    plain_constants(module)
    local = Local(module, mesh)
    functions = functions_of(module)
    for function in functions:
        name = ir.StringAttr(function.attributes["sym_name"]).value
        local.shardings[name] = signature(local, function, name == "main")
        local.sums[name] = sums_of(local, function, *local.shardings[name])
    for function in functions:
        name = ir.StringAttr(function.attributes["sym_name"]).value
        arguments, results = local.shardings[name]
        sums, body = local.sums[name], function.regions[0].blocks[0]
        local.take(body.arguments, arguments, sums[0])
        local.run(body)
        local.yield_as(body, results, sums[1])
        if name == "main":
            wrap(function, mesh, arguments, results, sums)
            continue
        without_shardings(function)
        end = body.operations[len(body.operations) - 1]
        function.attributes["function_type"] = ir.TypeAttr.get(
            ir.FunctionType.get([a.type for a in body.arguments], [o.type for o in end.operands]))
