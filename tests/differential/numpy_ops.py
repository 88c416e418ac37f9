"""JAX's primitives in NumPy, floats as float64: elementwise operations, layout, reductions, sorting.

A rule takes the equation and its operands' values. Integers keep their type and wrap around.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

FLOATS = {np.dtype(t) for t in (np.float16, np.float32, np.float64, jnp.bfloat16)}
RULES = {}


def is_float(dtype):
    return not jax.dtypes.issubdtype(dtype, jax.dtypes.extended) and np.dtype(dtype) in FLOATS


def widened(value):
    """A float array as float64; keys stay what they are."""
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    value = np.asarray(value)
    return value.astype(np.float64) if is_float(value.dtype) else value


def empty(shape, dtype):
    return np.zeros(shape, np.float64 if is_float(dtype) else dtype)


def rule(*names):
    def register(function):
        RULES.update({name: function for name in names})
        return function

    return register


def elementwise(name, function):
    RULES[name] = lambda eqn, *args: function(*args)


for name, function in {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil,
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "rem": np.fmod,
    "max": np.maximum, "min": np.minimum, "square": np.square, "sqrt": np.sqrt, "cbrt": np.cbrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p,
    "expm1": np.expm1, "tanh": np.tanh, "logistic": scipy.special.expit, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "erf": scipy.special.erf, "erfc": scipy.special.erfc, "erf_inv": scipy.special.erfinv,
    "lgamma": scipy.special.gammaln, "digamma": scipy.special.digamma, "is_finite": np.isfinite,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "stop_gradient": lambda x: x, "copy": lambda x: x, "reduce_precision": lambda x: x,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
}.items():  # fmt: skip
    elementwise(name, function)


@rule("optimization_barrier")
def optimization_barrier(eqn, *args):
    return args


@rule("div")
def div(eqn, a, b):
    if is_float(a.dtype):
        return a / b
    b = np.where(b == 0, b.dtype.type(1), b)
    return ((a - np.fmod(a, b)) // b).astype(a.dtype)


@rule("pow")
def power(eqn, a, b):
    return np.power(a, b if is_float(b.dtype) or not is_float(a.dtype) else b.astype(np.float64))


@rule("integer_pow")
def integer_pow(eqn, x):
    y = eqn.params["y"]
    if is_float(x.dtype):
        return x ** float(y)
    return np.power(x, x.dtype.type(y))


@rule("round")
def round_(eqn, x):
    if int(eqn.params["rounding_method"]) == 1:
        return np.rint(x)
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


@rule("nextafter")
def nextafter(eqn, a, b):
    dtype = eqn.invars[0].aval.dtype
    return np.nextafter(a.astype(dtype), b.astype(dtype)).astype(np.float64)


@rule("shift_left", "shift_right_logical", "shift_right_arithmetic")
def shift(eqn, x, by):
    bits, name = x.dtype.itemsize * 8, eqn.primitive.name
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    is_far = by.astype(unsigned) >= bits
    near = np.where(is_far, 0, by).astype(x.dtype)
    if name == "shift_left":
        return np.where(is_far, 0, np.left_shift(x, near)).astype(x.dtype)
    if name == "shift_right_logical":
        shifted = np.right_shift(x.astype(unsigned), near.astype(unsigned))
        return np.where(is_far, 0, shifted).astype(x.dtype)
    return np.right_shift(x, np.where(is_far, bits - 1, near).astype(x.dtype))


@rule("population_count")
def population_count(eqn, x):
    return np.bitwise_count(x.astype(f"u{x.dtype.itemsize}")).astype(x.dtype)


@rule("clz")
def count_leading_zeros(eqn, x):
    bits = x.dtype.itemsize * 8
    length = np.frexp(x.astype(f"u{x.dtype.itemsize}").astype(np.float64))[1]
    return (bits - length).astype(x.dtype)


@rule("select_n")
def select_n(eqn, which, *cases):
    if which.shape != cases[0].shape:
        which = np.broadcast_to(which, cases[0].shape)
    out = np.array(cases[0])
    for i, case in enumerate(cases[1:], 1):
        out = np.where(which == i, case, out)
    return out


@rule("convert_element_type")
def convert_element_type(eqn, x):
    return converted(x, eqn.params["new_dtype"])


def converted(x, target):
    if is_float(target):
        return x.astype(np.float64)
    target = np.dtype(target)
    if target == np.bool_:
        return x != 0
    if is_float(x.dtype):
        info = np.iinfo(target)
        return np.clip(np.trunc(np.nan_to_num(x, nan=0.0)), info.min, info.max).astype(target)
    return x.astype(target)


@rule("bitcast_convert_type")
def bitcast_convert_type(eqn, x):
    source, target = np.dtype(eqn.invars[0].aval.dtype), np.dtype(eqn.params["new_dtype"])
    x = np.ascontiguousarray(x.astype(source)).reshape(x.shape)
    if source.itemsize == target.itemsize:
        return widened(x.view(target) if x.ndim else x.reshape(1).view(target).reshape(()))
    shape = (*x.shape, source.itemsize // target.itemsize) if source.itemsize > target.itemsize else x.shape[:-1]
    return widened(x.reshape(-1).view(target).reshape(shape))


# Layout


@rule("iota")
def iota(eqn):
    out, d = eqn.outvars[0].aval, eqn.params["dimension"]
    line = np.arange(out.shape[d]).reshape([-1 if i == d else 1 for i in range(len(out.shape))])
    return converted(np.broadcast_to(line, out.shape), out.dtype)


@rule("reshape", "squeeze", "expand_dims")
def reshape(eqn, x, *_):
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        x = x.transpose(eqn.params["dimensions"])
    return x.reshape(eqn.outvars[0].aval.shape)


@rule("transpose")
def transpose(eqn, x):
    return x.transpose(eqn.params["permutation"])


@rule("broadcast_in_dim")
def broadcast_in_dim(eqn, x, *_):
    shape, dims = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    spread = [1] * len(shape)
    for d, n in zip(dims, x.shape):
        spread[d] = n
    return np.broadcast_to(x.reshape(spread), shape)


@rule("concatenate")
def concatenate(eqn, *args):
    return np.concatenate(args, eqn.params["dimension"])


@rule("stack")
def stack(eqn, *args):
    return np.stack(args, eqn.params["axis"])


@rule("unstack")
def unstack(eqn, x):
    return list(np.moveaxis(x, eqn.params["axis"], 0))


@rule("tile")
def tile(eqn, x):
    return np.tile(x, eqn.params["reps"])


@rule("split")
def split(eqn, x):
    return np.split(x, np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"])


@rule("rev")
def rev(eqn, x):
    return np.flip(x, eqn.params["dimensions"])


@rule("slice")
def slice_(eqn, x):
    p = eqn.params
    strides = p["strides"] or [1] * x.ndim
    return x[tuple(slice(a, b, s) for a, b, s in zip(p["start_indices"], p["limit_indices"], strides))]


@rule("pad")
def pad(eqn, x, value):
    return padded(x, value, eqn.params["padding_config"])


def padded(x, value, config):
    """Interior padding first, then the edges, which may be negative."""
    for d, (low, high, interior) in enumerate(config):
        n = x.shape[d] + max(0, x.shape[d] - 1) * interior
        shape = list(x.shape)
        shape[d] = max(0, n + low + high)
        out = np.full(shape, value, x.dtype)
        positions = low + np.arange(x.shape[d]) * (interior + 1)
        kept = (positions >= 0) & (positions < shape[d])
        at = [slice(None)] * x.ndim
        at[d] = positions[kept]
        out[tuple(at)] = np.compress(kept, x, d)
        x = out
    return x


# Reductions and scans along dimensions


def reduction(name, function):
    RULES[name] = lambda eqn, x: function(x, axis=tuple(eqn.params["axes"])).astype(x.dtype)


for name, function in {
    "reduce_sum": np.sum, "reduce_prod": np.prod, "reduce_max": np.max, "reduce_min": np.min,
    "reduce_and": np.bitwise_and.reduce, "reduce_or": np.bitwise_or.reduce, "reduce_xor": np.bitwise_xor.reduce,
}.items():  # fmt: skip
    reduction(name, function)


@rule("argmax", "argmin")
def argmax(eqn, x):
    find = np.argmax if eqn.primitive.name == "argmax" else np.argmin
    return find(x, eqn.params["axes"][0]).astype(eqn.params["index_dtype"])


CUMULATIVE = {"cumsum": np.add, "cumprod": np.multiply, "cummax": np.maximum, "cummin": np.minimum,
              "cumlogsumexp": np.logaddexp}  # fmt: skip


@rule(*CUMULATIVE)
def cumulative(eqn, x):
    axis = eqn.params["axis"]
    if eqn.params["reverse"]:
        x = np.flip(x, axis)
    out = CUMULATIVE[eqn.primitive.name].accumulate(x, axis=axis, dtype=x.dtype)
    return np.flip(out, axis) if eqn.params["reverse"] else out


@rule("sort")
def sort(eqn, *args):
    d, n_keys = eqn.params["dimension"], eqn.params["num_keys"]
    # np.lexsort is stable, takes the last key first, and puts NaN last.
    order = np.lexsort(tuple(reversed(args[:n_keys])), axis=d)
    return [np.take_along_axis(a, order, d) for a in args]


@rule("top_k")
def top_k(eqn, x):
    k, axis = eqn.params["k"], eqn.params.get("axis", x.ndim - 1)
    flipped = -x if is_float(x.dtype) else np.invert(x)
    order = np.argsort(flipped, axis, kind="stable")
    order = np.take(order, np.arange(k), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int32)


@rule("dot_general")
def dot_general(eqn, a, b):
    (contract_a, contract_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    out = eqn.outvars[0].aval
    a, b = (x.astype(np.float64 if is_float(out.dtype) else out.dtype) for x in (a, b))
    free_a = [d for d in range(a.ndim) if d not in contract_a and d not in batch_a]
    free_b = [d for d in range(b.ndim) if d not in contract_b and d not in batch_b]
    k = int(np.prod([a.shape[d] for d in contract_a], dtype=np.int64))
    batch = int(np.prod([a.shape[d] for d in batch_a], dtype=np.int64))
    left = a.transpose([*batch_a, *free_a, *contract_a]).reshape(batch, -1 if k and batch else 0, k)
    right = b.transpose([*batch_b, *contract_b, *free_b]).reshape(batch, k, -1 if k and batch else 0)
    return (left @ right).reshape(out.shape) if k and batch else np.zeros(out.shape, a.dtype)
