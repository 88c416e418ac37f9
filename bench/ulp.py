"""bench/run ulp: unary functions, division, powers and sums against float64, beside JAX on the CPU.

Errors are in units in the last place of the exact result. A row is worse where its largest error is beyond both one ulp
and that of XLA."""

import argparse
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD", ROOT / "build"))
os.environ.setdefault("VTRN_LIBRARY", str(BUILD / "src" / "libvtrn.so"))
os.environ.setdefault("JAX_PLATFORMS", "neuron,cpu")
sys.path.insert(0, str(ROOT / "python"))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import scipy.special as sp  # noqa: E402

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
ALL = (-np.inf, np.inf)
POSITIVE = (0.0, np.inf)


def gelu(x):
    return x * sp.ndtr(x)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


# name: function of JAX, oracle in float64, domain
FUNCTIONS = {
    "exp": (jnp.exp, np.exp, ALL),
    "exp2": (jnp.exp2, np.exp2, ALL),
    "expm1": (jnp.expm1, np.expm1, ALL),
    "log": (jnp.log, np.log, POSITIVE),
    "log2": (jnp.log2, np.log2, POSITIVE),
    "log10": (jnp.log10, np.log10, POSITIVE),
    "log1p": (jnp.log1p, np.log1p, (-1.0, np.inf)),
    "sqrt": (jnp.sqrt, np.sqrt, POSITIVE),
    "rsqrt": (jax.lax.rsqrt, lambda x: 1 / np.sqrt(x), POSITIVE),
    "cbrt": (jnp.cbrt, np.cbrt, ALL),
    "reciprocal": (jnp.reciprocal, np.reciprocal, ALL),
    "square": (jnp.square, np.square, ALL),
    "sin": (jnp.sin, np.sin, ALL),
    "cos": (jnp.cos, np.cos, ALL),
    "tan": (jnp.tan, np.tan, ALL),
    "asin": (jnp.arcsin, np.arcsin, (-1.0, 1.0)),
    "acos": (jnp.arccos, np.arccos, (-1.0, 1.0)),
    "atan": (jnp.arctan, np.arctan, ALL),
    "sinh": (jnp.sinh, np.sinh, ALL),
    "cosh": (jnp.cosh, np.cosh, ALL),
    "tanh": (jnp.tanh, np.tanh, ALL),
    "asinh": (jnp.arcsinh, np.arcsinh, ALL),
    "acosh": (jnp.arccosh, np.arccosh, (1.0, np.inf)),
    "atanh": (jnp.arctanh, np.arctanh, (-1.0, 1.0)),
    "erf": (jax.lax.erf, sp.erf, ALL),
    "erfc": (jax.lax.erfc, sp.erfc, ALL),
    "erf_inv": (jax.lax.erf_inv, sp.erfinv, (-1.0, 1.0)),
    "lgamma": (jax.lax.lgamma, sp.gammaln, ALL),
    "digamma": (jax.lax.digamma, sp.digamma, ALL),
    "bessel_i0e": (jax.lax.bessel_i0e, sp.i0e, ALL),
    "bessel_i1e": (jax.lax.bessel_i1e, sp.i1e, ALL),
    "logistic": (jax.lax.logistic, sp.expit, ALL),
    "softplus": (jax.nn.softplus, lambda x: np.logaddexp(0, x), ALL),
    "log_sigmoid": (jax.nn.log_sigmoid, lambda x: -np.logaddexp(0, -x), ALL),
    "silu": (jax.nn.silu, lambda x: x * sp.expit(x), ALL),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), gelu, ALL),
    "gelu_tanh": (jax.nn.gelu, gelu_tanh, ALL),
    "elu": (jax.nn.elu, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), ALL),
    "mish": (jax.nn.mish, lambda x: x * np.tanh(np.logaddexp(0, x)), ALL),
}


def points(domain, dtype, n, rng):
    """Numbers of all magnitudes, as many near 1 and 0.1 to 100, each as the type has it; sorted, none twice."""
    low, high = domain
    info = jnp.finfo(dtype)
    tiny, most = float(info.smallest_normal), float(info.max)
    magnitudes = np.exp2(rng.uniform(np.log2(tiny), np.log2(most), n // 4))
    near = np.exp2(rng.uniform(-4, 7, n // 4))
    around_one = 1 + rng.uniform(-0.25, 0.25, n // 4)
    inside = rng.uniform(max(low, -30.0), min(high, 30.0), n - 3 * (n // 4))
    x = np.concatenate([magnitudes, near, around_one, inside])
    x[::2] *= -1 if low < 0 else 1
    x = x.astype(dtype)
    as64 = x.astype(np.float64)
    return np.unique(x[(as64 > low) & (as64 < high) & (np.abs(as64) >= tiny)])


def errors(got, exact, dtype):
    """In ulps; infinite where a number is none, or none is a number. Results that are not normal are left out."""
    info = jnp.finfo(dtype)
    got = np.asarray(got).astype(np.float64)
    with np.errstate(all="ignore"):
        ulp = np.exp2(np.floor(np.log2(np.abs(exact))) - info.nmant)
        error = np.abs(got - exact) / ulp
    is_normal = (np.abs(exact) >= float(info.smallest_normal)) & (np.abs(exact) <= float(info.max))
    return np.where(is_normal, np.where(np.isnan(error), np.inf, error), 0.0)


def on(platform, f, *args):
    device = jax.devices(platform)[0]
    return np.asarray(jax.jit(f)(*(jax.device_put(a, device) for a in args)))


def row(f, args, exact, dtype):
    found = {}
    for side, platform in (("", "neuron"), ("xla_", "cpu")):
        error = errors(on(platform, f, *args), exact, dtype)
        at = int(np.argmax(error))
        found[side + "max"] = float(error[at])
        found[side + "mean"] = float(np.mean(error[np.isfinite(error)]))
        if not side:
            found["at"] = [float(a[at]) for a in args if a.ndim == 1]
    found["is_worse"] = found["max"] > max(1.0, found["xla_max"])
    return found


def unary(only, n, rng):
    rows = {}
    for name, (f, oracle, domain) in FUNCTIONS.items():
        for kind, dtype in DTYPES.items():
            if only and name not in only:
                continue
            x = points(domain, dtype, n, rng)
            with np.errstate(all="ignore"):
                exact = oracle(x.astype(np.float64))
            rows[f"{name}.{kind}"] = row(f, (x,), exact, dtype)
    return rows


def binary(only, n, rng):
    rows = {}
    for kind, dtype in DTYPES.items():
        x = points(ALL, dtype, n, rng)
        y = rng.permutation(x)
        pairs = {"divide": (jnp.divide, np.divide, x, y),
                 "power": (jnp.power, np.power, np.abs(x), y),
                 "atan2": (jnp.arctan2, np.arctan2, x, y),
                 "hypot": (jnp.hypot, np.hypot, x, y)}
        for name, (f, oracle, a, b) in pairs.items():
            if only and name not in only:
                continue
            with np.errstate(all="ignore"):
                exact = oracle(a.astype(np.float64), b.astype(np.float64))
            rows[f"{name}.{kind}"] = row(f, (a, b), exact, dtype)
    return rows


def sums(only, rng):
    """Sums in fp32, relative to the sum of magnitudes, in units of 2^-24: XLA's differ with its vectors."""
    rows = {}
    for n in (1000, 4096, 65536, 1 << 20):
        name = f"sum_{n}"
        if only and "sum" not in only and name not in only:
            continue
        x = rng.uniform(0, 1, (max(1, (1 << 21) // n), n)).astype(np.float32)
        exact = x.astype(np.float64).sum(1)
        found = {}
        for side, platform in (("", "neuron"), ("xla_", "cpu")):
            error = np.abs(on(platform, lambda v: v.sum(1), x) - exact) / exact * 2.0**24
            found[side + "max"], found[side + "mean"] = float(error.max()), float(error.mean())
        found["is_worse"] = found["max"] > max(1.0, found["xla_max"])
        rows[name + ".fp32"] = found
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--only", default="", help="functions, with commas between them")
    parser.add_argument("--points", type=int, default=1 << 17, help="arguments of each function")
    args = parser.parse_args()
    only = set(filter(None, args.only.split(",")))
    rng = np.random.default_rng(1)
    rows = {**unary(only, args.points, rng), **binary(only, args.points, rng), **sums(only, rng)}
    worse = [name for name, r in rows.items() if r["is_worse"]]
    if args.json:
        print(json.dumps({"rows": rows, "n_rows": len(rows), "n_worse": len(worse), "worse": worse}))
        return
    print(f"{'function':18} {'max ulp':>9} {'XLA':>9} {'mean':>8} {'XLA':>8}")
    for name, r in rows.items():
        at = ", ".join(f"{v:.9g}" for v in r.get("at", []))
        print(f"{name:18} {r['max']:9.3g} {r['xla_max']:9.3g} {r['mean']:8.3g} {r['xla_mean']:8.3g}"
              + (f"  worse, at {at}" if r["is_worse"] else ""))
    print(f"{len(worse)} of {len(rows)} rows are worse than one ulp and than XLA")


if __name__ == "__main__":
    main()
