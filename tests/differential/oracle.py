"""The judge's measure: a jaxpr evaluated by NumPy in float64, exactly or with the errors its types allow.

A program's jaxpr knows each rounding that a device makes: the operation and the type of its result.
This evaluates the same jaxpr with every float as float64. With amplitude 0 that is the exact value.
With amplitude a, the result of each operation that rounds is moved at random by up to a times the
error that the operation may have in its type. How far the outputs then move says what error each
element may have, whatever path the errors take: cancellation, long sums, steep functions and
gradients are all in the jaxpr. No compiler takes part.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from . import numpy_ops, numpy_places, numpy_windows
from .numpy_ops import is_float, widened

# Units of roundoff by which a result may be off; 1 where IEEE 754 demands the nearest value.
ROUNDING = {
    "add": 1, "add_any": 1, "sub": 1, "mul": 1, "div": 2, "rem": 1, "integer_pow": 3, "square": 1,
    "sqrt": 2, "rsqrt": 3, "cbrt": 4, "convert_element_type": 1, "nextafter": 2,
}  # fmt: skip
# Engines evaluate these to a few units, and so does XLA on the CPU.
TRANSCENDENTAL_UNITS = 6
TRANSCENDENTALS = {
    "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "tan", "asin", "acos",
    "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc", "erf_inv", "pow",
    "lgamma", "digamma",
}  # fmt: skip
# Their error depends on the number of terms, which comes from the operation's shapes. Partial sums
# are rounded to fp32, or to the type itself where the operation may be done term by term.
SUMS = {"dot_general", "conv_general_dilated"}
STEPWISE_SUMS = {
    "reduce_sum", "reduce_prod", "cumsum", "cumprod", "cumlogsumexp", "reduce_window_sum", "scatter-add", "scatter-mul",
    "select_and_scatter_add",
}
# Every element of these is an element of an operand: nothing is rounded.
EXACT = {
    "neg", "abs", "sign", "floor", "ceil", "round", "max", "min", "clamp", "select_n", "copy", "reshape",
    "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "concatenate", "pad", "rev", "slice",
    "stack", "unstack", "dynamic_slice", "dynamic_update_slice", "gather", "scatter", "scatter-min", "scatter-max", "split",
    "reduce_max", "reduce_min", "cummax", "cummin", "sort", "top_k", "reduce_window_max", "reduce_window_min",
    "iota", "stop_gradient", "optimization_barrier", "bitcast_convert_type", "tile", "reduce_precision",
}  # fmt: skip
CALLS = {
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "scan", "while", "cond",
}  # fmt: skip
UNIT = {np.dtype(t): float(jnp.finfo(t).eps) / 2 for t in (jnp.float32, jnp.float16, jnp.bfloat16)}
SMALLEST_HALF = 2.0**-25  # half the distance of float16's subnormal numbers


class UnknownPrimitive(Exception):
    """A float operation without a row above: the error it may have is not known."""


class Evaluation:
    """One walk over a jaxpr. The same salt with the opposite amplitude moves everything to the other side."""

    def __init__(self, amplitude=0.0, salt=0):
        self.amplitude = amplitude
        self.random = np.random.Generator(np.random.SFC64(salt))

    def rounded(self, x, dtype, units):
        """x as an operation of that type may give it: computed in fp32, then rounded to the type."""
        if not self.amplitude:
            return x
        noise = self.noise(x.shape)
        moved = x * (1 + noise * (UNIT[np.dtype(dtype)] + (units - 1) * UNIT[np.dtype(np.float32)]))
        return moved + noise * SMALLEST_HALF if dtype == np.float16 else moved

    def moved(self, x, spread):
        """x with a relative error of up to the spread."""
        return x * (1 + self.noise(x.shape) * spread) if self.amplitude else x

    def noise(self, shape):
        """Numbers up to the amplitude: three quarters on their own, one quarter to the same side for all.

        Rounding has a side where all elements are alike: bf16 numbers just below their neighbours all
        go up, and a sum over them shows it.
        """
        common = self.amplitude / 4 if self.random.random() < 0.5 else -self.amplitude / 4
        return (self.random.random(shape) - 0.5) * (1.5 * self.amplitude) + common

    def run(self, closed, args):
        with np.errstate(all="ignore"):
            return self.jaxpr(closed.jaxpr, closed.consts, [widened(a) for a in args])

    def jaxpr(self, jaxpr, consts, args):
        env = {}

        def read(v):
            return widened(np.asarray(v.val, v.aval.dtype)) if isinstance(v, core.Literal) else env[v]

        env.update(zip(jaxpr.constvars, map(widened, consts)))
        env.update(zip(jaxpr.invars, args))
        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, self.equation(eqn, [read(v) for v in eqn.invars])))
        return [read(v) for v in jaxpr.outvars]

    def closed(self, closed, args):
        return self.jaxpr(closed.jaxpr, closed.consts, args)

    def equation(self, eqn, args):
        name = eqn.primitive.name
        if name in CALLS:
            return getattr(self, "do_" + name, self.do_call)(eqn.params, args)
        has_floats = any(is_float(v.aval.dtype) for v in eqn.outvars)
        if has_floats and name in SUMS | STEPWISE_SUMS and self.amplitude:
            # The rounding errors of the partial sums of n terms are a walk; here they are noise of the terms.
            spread = partial_unit(eqn) * (n_terms(eqn) / 2) ** 0.5
            args = [self.moved(a, spread) if is_float(v.aval.dtype) else a for v, a in zip(eqn.invars, args)]
        rule = next((m.RULES[name] for m in (numpy_ops, numpy_windows, numpy_places) if name in m.RULES), None)
        if rule:
            out = rule(eqn, *args)
        elif not has_floats and not any(is_float(v.aval.dtype) for v in eqn.invars):
            out = on_the_cpu(eqn, args)
        else:
            raise UnknownPrimitive(f"{name} has no rule")
        out = list(out) if eqn.primitive.multiple_results else [out]
        out = [o if isinstance(o, jax.Array) else np.asarray(o) for o in out]
        return self.results(eqn, out) if has_floats and self.amplitude else out

    def results(self, eqn, out):
        name = eqn.primitive.name
        if name == "reduce_precision":
            return [self.moved(out[0], 2.0 ** -(eqn.params["mantissa_bits"] + 1))]
        if name in EXACT or (name == "convert_element_type" and not narrows(eqn)):
            return out
        if name in SUMS | STEPWISE_SUMS:
            # Where all terms have one sign, the errors of partial sums are relative to the sum.
            out = [self.moved(o, partial_unit(eqn) * n_terms(eqn) ** 0.5) for o in out]
            units = 1
        elif name in TRANSCENDENTALS:
            units = TRANSCENDENTAL_UNITS
        elif name in ROUNDING:
            units = ROUNDING[name]
        else:
            raise UnknownPrimitive(f"how {name} rounds is not known")
        return [self.rounded(o, v.aval.dtype, units) for v, o in zip(eqn.outvars, out)]

    # Control flow

    def do_call(self, params, args):
        inner = next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params)
        return self.closed(inner, args) if hasattr(inner, "consts") else self.jaxpr(inner, [], args)

    def do_scan(self, params, args):
        n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
        consts, carry, xs = args[:n_consts], args[n_consts : n_consts + n_carry], args[n_consts + n_carry :]
        n_ys = len(params["jaxpr"].jaxpr.outvars) - n_carry
        stacked = [[None] * length for _ in range(n_ys)]
        for i in reversed(range(length)) if params["reverse"] else range(length):
            out = self.closed(params["jaxpr"], [*consts, *carry, *(x[i] for x in xs)])
            carry = out[:n_carry]
            for y, value in zip(stacked, out[n_carry:]):
                y[i] = value
        avals = [v.aval for v in params["jaxpr"].jaxpr.outvars[n_carry:]]
        ys = [np.stack(y) if y else numpy_ops.empty((0, *a.shape), a.dtype) for y, a in zip(stacked, avals)]
        return [*carry, *ys]

    def do_while(self, params, args):
        n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
        of_cond, of_body, state = args[:n_cond], args[n_cond : n_cond + n_body], args[n_cond + n_body :]
        while self.closed(params["cond_jaxpr"], [*of_cond, *state])[0]:
            state = self.closed(params["body_jaxpr"], [*of_body, *state])
        return state

    def do_cond(self, params, args):
        branches = params["branches"]
        return self.closed(branches[min(max(int(args[0]), 0), len(branches) - 1)], args[1:])


def on_the_cpu(eqn, args):
    """Random bits and keys: integers alone, which JAX computes as it does everywhere."""
    values = [a if isinstance(a, jax.Array) else jnp.asarray(a) for a in args]
    out = eqn.primitive.bind(*values, **eqn.params)
    many = out if eqn.primitive.multiple_results else [out]
    many = [o if jax.dtypes.issubdtype(o.dtype, jax.dtypes.extended) else np.asarray(o) for o in many]
    return many if eqn.primitive.multiple_results else many[0]


def partial_unit(eqn):
    """The roundoff of a partial sum."""
    is_stepwise = eqn.primitive.name in STEPWISE_SUMS
    return UNIT[np.dtype(eqn.outvars[0].aval.dtype)] if is_stepwise else UNIT[np.dtype(np.float32)]


def narrows(eqn):
    """Whether a conversion can round."""
    source, target = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
    if not is_float(target):
        return False
    if not is_float(source):
        return np.dtype(source).itemsize * 8 > -np.log2(UNIT[np.dtype(target)])
    if target == np.float16:
        return source != np.float16  # the others have a wider range
    return UNIT[np.dtype(source)] < UNIT[np.dtype(target)]


def n_terms(eqn):
    """How many terms the longest sum of this operation has."""
    name, p = eqn.primitive.name, eqn.params
    shape = eqn.invars[0].aval.shape
    if name == "dot_general":
        return size(shape[d] for d in p["dimension_numbers"][0][0])
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        return size(kernel) // max(1, kernel[p["dimension_numbers"].rhs_spec[0]])
    if name in ("reduce_sum", "reduce_prod"):
        return size(shape[d] for d in p["axes"])
    if name.startswith("cum"):
        return shape[p["axis"]]
    if name in ("reduce_window_sum", "select_and_scatter_add"):
        return size(p["window_dimensions"])
    updates = eqn.invars[2].aval.shape  # a scatter, all of whose updates may meet
    return 1 + size(updates) // max(1, size(updates[d] for d in p["dimension_numbers"].update_window_dims))


def size(dims):
    return int(np.prod([int(d) for d in dims], dtype=np.int64))
