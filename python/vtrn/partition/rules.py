"""How an operation runs on parts of its operands.

A rule gets the localiser, the operation and the sharding that Shardy gave its first result. It says which
sharding each operand needs (`need`), rewrites attributes that are sizes, and says which sharding its results
have (`give`). What no rule knows runs whole on every device.
"""

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from vtrn.partition.collectives import shape_of, tensor
from vtrn.partition.shardings import n_shards, names_of, normalized, replicated

ELEMENTWISE = {f"stablehlo.{name}" for name in (
    "abs add and atan2 cbrt ceil clamp compare complex convert cosine count_leading_zeros divide exponential "
    "exponential_minus_one floor imag is_finite log log_plus_one logistic maximum minimum multiply negate not or "
    "popcnt power real reduce_precision remainder round_nearest_afz round_nearest_even rsqrt select shift_left "
    "shift_right_arithmetic shift_right_logical sign sine sqrt subtract tan tanh xor map all_reduce").split()}  # fmt: skip

# Of a sum's parts each, they give parts of the sum's result.
LINEAR = {f"stablehlo.{name}" for name in "add subtract negate convert reshape transpose broadcast_in_dim".split()}

# Reducers whose partial results an all_reduce joins, and what leaves its operand as it is.
IDENTITIES = {
    "stablehlo.add": lambda kind: 0,
    "stablehlo.multiply": lambda kind: 1,
    "stablehlo.maximum": lambda kind: False if kind == bool else -np.inf if kind.kind == "f" else np.iinfo(kind).min,
    "stablehlo.minimum": lambda kind: True if kind == bool else np.inf if kind.kind == "f" else np.iinfo(kind).max,
    "stablehlo.or": lambda kind: 0,
    "stablehlo.and": lambda kind: True if kind == bool else ~kind.type(0),
}

RULES = {}


def rule(*names):
    def register(function):
        RULES.update({f"stablehlo.{name}" if "." not in name else name: function for name in names})
        return function

    return register


def integers(attribute):
    return list(ir.DenseI64ArrayAttr(attribute))


def elementwise(local, op, target):
    for i, operand in enumerate(op.operands):
        local.need(op, i, target if len(shape_of(operand)) else ())
    for result in op.results:
        local.give(result, target)


def free_dims(local, op, target, is_free):
    """Operands and results have dimensions in common; those that are not free are whole."""
    target = tuple(axes if is_free(dim) else () for dim, axes in enumerate(target))
    elementwise(local, op, target)


@rule("optimization_barrier")
def barrier(local, op, target):
    for i in range(len(op.operands)):
        sharding = local.wanted(op.results[i], i)
        local.need(op, i, sharding)
        local.give(op.results[i], sharding)


@rule("constant", "sdy.constant")
def constant(local, op, target):
    value = ir.DenseElementsAttr(op.attributes["value"])
    result = op.results[0]
    if not value.is_splat:
        target = replicated(len(target))
    if op.name == "sdy.constant" or any(target):
        kept = value if not value.is_splat else ir.DenseElementsAttr.get_splat(
            local.local_type(result, target), value.get_splat_value())
        local.replace(result, hlo.constant(kept), target)
    else:
        local.give(result, target)


@rule("iota")
def iota(local, op, target):
    dim = ir.IntegerAttr(op.attributes["iota_dimension"]).value
    result = op.results[0]
    if not target[dim]:
        local.give(result, target)
        return
    kind = local.local_type(result, target)
    part = hlo.iota(kind, dim)
    offset = local.collectives.offset(target[dim], kind.shape[dim])
    offset = hlo.convert(tensor((), part), offset)
    local.replace(result, hlo.add(part, hlo.broadcast_in_dim(kind, offset, [])), target)


@rule("broadcast_in_dim")
def broadcast(local, op, target):
    sizes, whole = local.shape(op.operands[0]), local.shape(op.results[0])
    dims = integers(op.attributes["broadcast_dimensions"])
    local.need(op, 0, tuple(target[d] if sizes[i] == whole[d] else () for i, d in enumerate(dims)))
    local.give(op.results[0], target)


@rule("transpose")
def transpose(local, op, target):
    order = integers(op.attributes["permutation"])
    needed = [()] * len(order)
    for i, d in enumerate(order):
        needed[d] = target[i]
    local.need(op, 0, tuple(needed))
    local.give(op.results[0], target)


def tiles(shape, sharding):
    """The dimensions as a sequence of sizes and axes, most significant first: equal sequences are one order of
    elements on every device."""
    out = []
    for size, axes in zip(shape, sharding):
        out += list(axes)
        size //= n_shards(axes)
        if size > 1 and out and isinstance(out[-1], int):
            out[-1] *= size
        elif size > 1:
            out.append(size)
    return out


def groups_of_reshape(a, b):
    """Ranges of dimensions of both shapes with the same elements: ((first, last), (first, last))."""
    out, i, j = [], 0, 0
    while i < len(a) or j < len(b):
        first, m, n = (i, j), 1, 1
        while True:
            if m == n and (i, j) != first:
                break
            if (m <= n and i < len(a)) or j == len(b):
                m *= a[i]
                i += 1
            else:
                n *= b[j]
                j += 1
            if i == len(a) and j == len(b):
                break
        while i < len(a) and a[i] == 1:
            i += 1
        while j < len(b) and b[j] == 1:
            j += 1
        out.append(((first[0], i), (first[1], j)))
    return out


@rule("reshape")
def reshape(local, op, target):
    whole, shape = local.shape(op.operands[0]), local.shape(op.results[0])
    needed, given = [()] * len(whole), [()] * len(shape)
    if 0 not in whole:
        for (a, b), (c, d) in groups_of_reshape(whole, shape):
            before, of_result = {}, 1
            for i in range(c, d):
                before.setdefault(of_result, []).extend(target[i])
                of_result *= shape[i]
            of_operand, candidate = 1, []
            for size in whole[a:b]:
                axes = before.pop(of_operand, []) if size > 1 else []
                candidate.append(tuple(axes) if size % n_shards(axes) == 0 else ())
                of_operand *= size
            if tiles(whole[a:b], candidate) == tiles(shape[c:d], target[c:d]):
                needed[a:b], given[c:d] = candidate, target[c:d]
    local.need(op, 0, tuple(needed))
    local.give(op.results[0], tuple(given))


@rule("dot_general")
def dot_general(local, op, target):
    numbers = hlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    batch = [list(numbers.lhs_batching_dimensions), list(numbers.rhs_batching_dimensions)]
    summed = [list(numbers.lhs_contracting_dimensions), list(numbers.rhs_contracting_dimensions)]
    n_batch, at, needed = len(batch[0]), len(batch[0]), []
    for side in range(2):
        sharding = [()] * len(local.shape(op.operands[side]))
        for i, d in enumerate(batch[side]):
            sharding[d] = target[i]
        for d in range(len(sharding)):
            if d not in batch[side] and d not in summed[side]:
                sharding[d] = target[at]
                at += 1
        needed.append(sharding)
    assert n_batch <= at == len(target)
    partial = sum_over(local, op, summed, needed, names_of(target))
    for side in range(2):
        local.need(op, side, tuple(needed[side]))
    local.give(op.results[0], target)
    local.join(op.results[0], partial, "stablehlo.add")


def sum_over(local, op, summed, needed, taken):
    """The axes of summed dimensions that both operands have now stay, unless the result has them too."""
    partial = []
    for d, e in zip(*summed):
        axes, other = local.env[op.operands[0]][d], local.env[op.operands[1]][e]
        if axes == other and not names_of([axes]) & taken:
            needed[0][d] = needed[1][e] = axes
            partial += axes
            taken = taken | names_of([axes])
    return partial


@rule("convolution")
def convolution(local, op, target):
    numbers = hlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    is_grouped = any(ir.IntegerAttr(op.attributes[f"{of}_group_count"]).value > 1 for of in ("feature", "batch"))
    given = [()] * len(target)
    needed = [[()] * len(target), [()] * len(target)]
    summed = [[numbers.input_feature_dimension], [numbers.kernel_input_feature_dimension]]
    partial = []
    if not is_grouped:
        given[numbers.output_batch_dimension] = target[numbers.output_batch_dimension]
        given[numbers.output_feature_dimension] = target[numbers.output_feature_dimension]
        needed[0][numbers.input_batch_dimension] = target[numbers.output_batch_dimension]
        needed[1][numbers.kernel_output_feature_dimension] = target[numbers.output_feature_dimension]
        partial = sum_over(local, op, summed, needed, names_of(given))
    for side in range(2):
        local.need(op, side, tuple(needed[side]))
    local.give(op.results[0], tuple(given))
    local.join(op.results[0], partial, "stablehlo.add")


def reducer_of(op):
    """The operation of a region that applies one to its two arguments; None: it does more."""
    operations = list(op.regions[0].blocks[0].operations)
    arguments = list(op.regions[0].blocks[0].arguments)
    if len(operations) != 2 or operations[0].name not in IDENTITIES or len(operations[0].operands) != 2:
        return None
    is_plain = list(operations[0].operands) in (arguments, arguments[::-1])
    return operations[0].name if is_plain else None


def is_identity(value, kind):
    splat = splat_of(value)
    return splat is not None and bool(splat == IDENTITIES[kind](splat.dtype))


def splat_of(value):
    """The element of a tensor that is a constant, or a constant broadcast, as NumPy's; None: not known."""
    owner = value.owner
    while isinstance(owner, (ir.Operation, ir.OpView)) and owner.name == "stablehlo.broadcast_in_dim":
        owner = owner.operands[0].owner
    if not isinstance(owner, (ir.Operation, ir.OpView)) or owner.name not in ("stablehlo.constant", "sdy.constant"):
        return None
    value = ir.DenseElementsAttr(owner.attributes["value"])
    kind = ir.RankedTensorType(value.type).element_type
    if not value.is_splat:
        return None
    if isinstance(kind, ir.FloatType):
        return np.float64(value.get_splat_value().value)
    if not isinstance(kind, ir.IntegerType):
        return None
    if kind.width == 1:
        return np.bool_(value.get_splat_value().value)
    if kind.width < 8:
        return None
    return np.dtype(f"{'u' * kind.is_unsigned}int{kind.width}").type(value.get_splat_value().value)


@rule("reduce")
def reduce(local, op, target):
    n = len(op.results)
    dims = integers(op.attributes["dimensions"])
    rank = len(local.shape(op.operands[0]))
    rest = iter(target)
    needed = [() if d in dims else next(rest) for d in range(rank)]
    kind = reducer_of(op) if n == 1 else None
    partial = []
    is_free = not kind or is_identity(op.operands[1], kind)
    if is_free and all(local.env[op.operands[i]] == local.env[op.operands[0]] for i in range(n)):
        taken = names_of(target)
        for d in dims:
            axes = local.env[op.operands[0]][d]
            if not names_of([axes]) & taken:
                needed[d] = axes
                partial += axes
                taken |= names_of([axes])
    for i in range(n):
        local.need(op, i, tuple(needed))
        local.need(op, n + i, ())
        local.give(op.results[i], target)
    if kind:
        local.join(op.results[0], partial, kind)
    elif partial:
        reduce_parts(local, op, partial)


def reduce_parts(local, op, axes):
    """What the devices along the axes have found is gathered and reduced again. (A reduction may take its
    initial values as often as it likes.)"""
    n, found = len(op.results), list(op.results)
    with ir.InsertionPoint.after(op):
        parts = [hlo.reshape(tensor((1, *shape_of(value)), value), value) for value in found]
        parts = [local.collectives.all_gather(part, 0, normalized(axes)) for part in parts]
        again = op.clone()
    again.attributes["dimensions"] = ir.DenseI64ArrayAttr.get([0])
    for i, part in enumerate(parts):
        again.operands[i] = part
    if "sdy.sharding" in again.attributes:
        del again.attributes["sdy.sharding"]
    for i in range(n):
        first = next(use.owner for use in found[i].uses if use.owner.name == "stablehlo.reshape" and
                     shape_of(use.owner.results[0]) == (1, *shape_of(found[i])))  # fmt: skip
        found[i].replace_all_uses_except(again.results[i], [first.operation])
        local.env[again.results[i]] = local.env[found[i]]


def has_plain_window(op, dim, rank):
    def at(name, default):
        return integers(op.attributes[name])[dim] if name in op.attributes else default

    padding = np.array(op.attributes["padding"]).reshape(rank, 2) if "padding" in op.attributes else np.zeros((rank, 2))
    names = ("window_dimensions", "window_strides", "base_dilations", "window_dilations")
    return all(at(name, 1) == 1 for name in names) and not padding[dim].any()


@rule("reduce_window")
def reduce_window(local, op, target):
    rank, n = len(target), len(op.results)
    given = tuple(axes if has_plain_window(op, d, rank) else () for d, axes in enumerate(target))
    for i in range(n):
        local.need(op, i, given)
        local.need(op, n + i, ())
        local.give(op.results[i], given)


@rule("select_and_scatter")
def select_and_scatter(local, op, target):
    given = tuple(axes if has_plain_window(op, d, len(target)) else () for d, axes in enumerate(target))
    local.need(op, 0, given)
    local.need(op, 1, given)
    local.need(op, 2, ())
    local.give(op.results[0], given)


@rule("concatenate")
def concatenate(local, op, target):
    dim = ir.IntegerAttr(op.attributes["dimension"]).value
    free_dims(local, op, target, lambda d: d != dim)


@rule("reverse")
def reverse(local, op, target):
    dims = integers(op.attributes["dimensions"])
    free_dims(local, op, target, lambda d: d not in dims)


@rule("sort")
def sort(local, op, target):
    dim = ir.IntegerAttr(op.attributes["dimension"]).value
    free_dims(local, op, target, lambda d: d != dim)


@rule("chlo.top_k")
def top_k(local, op, target):
    free_dims(local, op, target, lambda d: d != len(target) - 1)


@rule("cholesky")
def cholesky(local, op, target):
    free_dims(local, op, target, lambda d: d < len(target) - 2)


@rule("triangular_solve")
def triangular_solve(local, op, target):
    free_dims(local, op, target, lambda d: d < len(target) - 2)


@rule("fft")
def fft(local, op, target):
    n = len(integers(op.attributes["fft_length"]))
    free_dims(local, op, target, lambda d: d < len(target) - n)


@rule("pad")
def pad(local, op, target):
    edges = [integers(op.attributes[name]) for name in ("edge_padding_low", "edge_padding_high", "interior_padding")]
    given = tuple(axes if not any(edge[d] for edge in edges) else () for d, axes in enumerate(target))
    local.need(op, 0, given)
    local.need(op, 1, ())
    local.give(op.results[0], given)


@rule("slice")
def slice_(local, op, target):
    whole, shape = local.shape(op.operands[0]), local.shape(op.results[0])
    given = tuple(axes if whole[d] == shape[d] else () for d, axes in enumerate(target))
    limits = integers(op.attributes["limit_indices"])
    limits = [limit // n_shards(axes) for limit, axes in zip(limits, given)]
    local.need(op, 0, given)
    op.attributes["limit_indices"] = ir.DenseI64ArrayAttr.get(limits)
    local.give(op.results[0], given)


@rule("dynamic_slice")
def dynamic_slice(local, op, target):
    whole, shape = local.shape(op.operands[0]), local.shape(op.results[0])
    given = tuple(axes if whole[d] == shape[d] else () for d, axes in enumerate(target))
    local.need(op, 0, given)
    for i in range(1, len(op.operands)):
        local.need(op, i, ())
    op.attributes["slice_sizes"] = ir.DenseI64ArrayAttr.get([n // n_shards(axes) for n, axes in zip(shape, given)])
    local.give(op.results[0], given)


@rule("dynamic_update_slice")
def dynamic_update_slice(local, op, target):
    whole, shape = local.shape(op.operands[0]), local.shape(op.operands[1])
    given = tuple(axes if whole[d] == shape[d] else () for d, axes in enumerate(target))
    local.need(op, 0, given)
    local.need(op, 1, given)
    for i in range(2, len(op.operands)):
        local.need(op, i, ())
    local.give(op.results[0], given)


def without(dims, rank):
    return [d for d in range(rank) if d not in dims]


@rule("gather")
def gather(local, op, target):
    numbers = hlo.GatherDimensionNumbers(op.attributes["dimension_numbers"])
    whole, of_indices = local.shape(op.operands[0]), local.shape(op.operands[1])
    sizes = integers(op.attributes["slice_sizes"])
    batching = list(numbers.operand_batching_dims)
    operand, indices, given = [()] * len(whole), [()] * len(of_indices), [()] * len(target)
    offsets = list(numbers.offset_dims)
    windows = without([*numbers.collapsed_slice_dims, *batching], len(whole))
    for d, r in zip(windows, offsets):
        if sizes[d] == whole[d]:
            operand[d] = given[r] = target[r]
            sizes[d] //= n_shards(target[r])
    places = without([numbers.index_vector_dim], len(of_indices))
    for i, r in zip(places, without(offsets, len(target))):
        indices[i] = given[r] = target[r]
    for d, i in zip(batching, numbers.start_indices_batching_dims):
        operand[d] = indices[i]
    axes = indexed_axes(local, op, list(numbers.start_index_map), names_of([*given, *operand, *indices]))
    if axes and sizes[numbers.start_index_map[0]] == 1:
        operand[numbers.start_index_map[0]] = axes
    else:
        axes = ()
    local.need(op, 0, tuple(operand))
    local.need(op, 1, tuple(indices))
    n_rows = shape_of(op.operands[0])[numbers.start_index_map[0]] if axes else 0
    if axes:
        whole_index = hlo.clamp(local.collectives.scalar(0), as_i32(op.operands[1]),
                                local.collectives.scalar(n_rows * n_shards(axes) - 1))
        op.operands[1] = from_own_part(local, whole_index, axes, n_rows)
    op.attributes["slice_sizes"] = ir.DenseI64ArrayAttr.get(sizes)
    local.give(op.results[0], tuple(given))
    if axes:
        keep_found(local, op, numbers, n_rows, axes)


def indexed_axes(local, op, index_map, taken):
    """The axes of the one dimension that indices address, if nothing else is divided over them."""
    axes = local.env[op.operands[0]][index_map[0]] if len(index_map) == 1 else ()
    kind = ir.RankedTensorType(op.operands[0].type).element_type
    return () if names_of([axes]) & taken or isinstance(kind, ir.ComplexType) else axes


def as_i32(value):
    i32 = ir.IntegerType.get_signless(32)
    return hlo.convert(ir.RankedTensorType.get(shape_of(value), i32), value)


def from_own_part(local, indices, axes, n_rows):
    """Indices into the whole as indices into the device's own rows; others are below 0 or too large."""
    offset = local.collectives.offset(axes, n_rows)
    return hlo.subtract(indices, hlo.broadcast_in_dim(indices.type, offset, []))


def keep_found(local, op, numbers, n_rows, axes):
    """Of a gather, zeros where another device has the row; their sum is the whole."""
    result, index = op.results[0], op.operands[1]
    shape = shape_of(result)
    with ir.InsertionPoint.after(op):
        i1 = ir.IntegerType.get_signless(1)
        low = hlo.broadcast_in_dim(index.type, local.collectives.scalar(0), [])
        high = hlo.broadcast_in_dim(index.type, local.collectives.scalar(n_rows), [])
        is_own = hlo.and_(hlo.compare(index, low, hlo.ComparisonDirectionAttr.get("GE")),
                          hlo.compare(index, high, hlo.ComparisonDirectionAttr.get("LT")))
        places = without(list(numbers.offset_dims), len(shape))
        is_own = hlo.reshape(ir.RankedTensorType.get([shape[d] for d in places], i1), is_own)
        is_own = hlo.broadcast_in_dim(ir.RankedTensorType.get(shape, i1), is_own, places)
        kept = hlo.SelectOp(is_own, result, zeros(result.type))
        is_flag = str(ir.RankedTensorType(result.type).element_type) == "i1"
        whole = local.collectives.all_reduce(kept.result, normalized(axes), f"stablehlo.{'or' if is_flag else 'add'}")
    result.replace_all_uses_except(whole, [kept.operation])
    local.env[whole] = local.env[result]


def zeros(kind):
    is_float = isinstance(ir.RankedTensorType(kind).element_type, ir.FloatType)
    return hlo.constant(ir.Attribute.parse(f"dense<{'0.0' if is_float else '0' if 'i1>' not in str(kind) else 'false'}> : {kind}"))


@rule("scatter")
def scatter(local, op, target):
    numbers = hlo.ScatterDimensionNumbers(op.attributes["scatter_dimension_numbers"])
    n = len(op.results)
    whole, of_indices, of_updates = (local.shape(op.operands[i]) for i in (0, n, n + 1))
    batching = list(numbers.input_batching_dims)
    operand, indices, updates = [()] * len(whole), [()] * len(of_indices), [()] * len(of_updates)
    windows = list(numbers.update_window_dims)
    for d, u in zip(without([*numbers.inserted_window_dims, *batching], len(whole)), windows):
        if of_updates[u] == whole[d]:
            operand[d] = updates[u] = target[d]
    places = without([numbers.index_vector_dim], len(of_indices))
    pairs = list(zip(places, without(windows, len(of_updates))))
    for d, i in zip(batching, numbers.scatter_indices_batching_dims):
        operand[d] = indices[i] = target[d]
        updates[dict(pairs)[i]] = target[d]
    kind = reducer_of(op) if n == 1 else None
    index_map = list(numbers.scattered_dims_to_operand_dims)
    partial, taken = [], names_of([*operand, *indices])
    axes = target[index_map[0]] if len(index_map) == 1 and index_map[0] in numbers.inserted_window_dims else ()
    axes = () if names_of([axes]) & taken else axes
    if axes:
        operand[index_map[0]] = axes
        taken |= names_of([axes])
    for i, u in pairs:
        added = local.env[op.operands[n + 1]][u]
        is_free = not indices[i] and kind == "stablehlo.add" and not names_of([added]) & taken
        if is_free and i not in numbers.scatter_indices_batching_dims:
            indices[i] = updates[u] = added
            partial += added
            taken |= names_of([added])
    for i in range(n):
        local.need(op, i, tuple(operand))
        local.need(op, n + 1 + i, tuple(updates))
    local.need(op, n, tuple(indices))
    if axes:  # what belongs to another device is out of bounds, and is left out
        n_rows = shape_of(op.operands[0])[index_map[0]]
        op.operands[n] = from_own_part(local, as_i32(op.operands[n]), axes, n_rows)
    if partial and not is_identity(op.operands[0], kind):
        keep_once(local, op, 0, partial)
    for result in op.results:
        local.give(result, tuple(operand))
    local.join(op.results[0], partial, kind)


def keep_once(local, op, i, axes):
    """Operand i on one of the devices along the axes, and zeros on the others: parts of a sum."""
    kept = op.operands[i]
    i1 = ir.IntegerType.get_signless(1)
    is_first = hlo.compare(local.collectives.offset(axes, 1), local.collectives.scalar(0),
                           hlo.ComparisonDirectionAttr.get("EQ"))
    is_first = hlo.broadcast_in_dim(ir.RankedTensorType.get(shape_of(kept), i1), is_first, [])
    op.operands[i] = hlo.select(is_first, kept, zeros(kept.type))
    local.env[op.operands[i]] = local.env[kept]


@rule("all_gather", "reduce_scatter", "all_to_all")
def manual_collective(local, op, target):
    """Written by the program, along axes that are manual there; other axes divide other dimensions."""
    names = ("all_gather_dim", "scatter_dimension", "split_dimension", "concat_dimension")
    dims = {ir.IntegerAttr(op.attributes[name]).value for name in names if name in op.attributes}
    for i in range(len(op.operands)):
        sharding = tuple(() if d in dims else axes for d, axes in enumerate(local.wanted(op.results[i], i)))
        local.need(op, i, sharding)
        local.give(op.results[i], sharding)


@rule("collective_permute", "collective_broadcast")
def manual_permute(local, op, target):
    elementwise(local, op, target)
