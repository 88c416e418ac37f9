"""Expanded forms of functions become one operation, which is at least as accurate as the form."""

import re
import subprocess

import capi
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from scipy import special
from chip_run import export
from common import SEED
from paths import BUILD

BF16 = ml_dtypes.bfloat16
SQRT_HALF = np.sqrt(0.5)
SQRT_2_OVER_PI = np.sqrt(2 / np.pi)


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


# --- truth, in float64 -----------------------------------------------------------------------------


def limit(f):
    """f, where it is not known its limit: 0 times infinity is 0 in all of these."""

    def at(x):
        with np.errstate(all="ignore"):
            x = np.asarray(x, np.float64)
            y = f(np.where(np.isinf(x), np.copysign(1e4, x), x))
            return np.where(np.isposinf(x) & (np.abs(y) > 100), np.inf, y)

    return at


def density(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def tanh_share(x):
    return special.expit(2 * SQRT_2_OVER_PI * (x + 0.044715 * x**3))


def gelu_tanh_dx(x):
    s, rest = tanh_share(x), special.expit(-2 * SQRT_2_OVER_PI * (x + 0.044715 * x**3))
    slope = 2 * SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x**2)
    return s + np.where(s * rest == 0, 0, s * rest * x * slope)


def silu_dx(x):
    return special.expit(x) * (1 + x * special.expit(-x))


def gradient(f):
    return lambda x, c: jax.vjp(f, x)[1](c)[0]


def erf_gelu(x):
    return 0.5 * x * (1 + lax.erf(x * np.float32(SQRT_HALF).astype(x.dtype)))


def quotient_gelu(x):
    return x * 0.5 * (1 + lax.erf(x / np.sqrt(2.0).astype(x.dtype)))


def swish(x):
    return x / (1 + jnp.exp(-x))


def tanh_gelu(x):
    """As in the code of the models that had it first: another order of the factors."""
    return 0.5 * x * (1.0 + jnp.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


exact_gelu = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731

# name: the form, the operation that it becomes, the truth, whether the form takes a cotangent
FORMS = {
    "sigmoid": (jax.nn.sigmoid, "logistic", special.expit, False),
    "silu": (jax.nn.silu, "silu", limit(lambda x: x * special.expit(x)), False),
    "swish": (swish, "silu", limit(lambda x: x * special.expit(x)), False),
    "silu gradient": (gradient(jax.nn.silu), "silu_dx", limit(silu_dx), True),
    "softplus": (jax.nn.softplus, "softplus", lambda x: np.logaddexp(np.float64(x), 0), False),
    "softplus gradient": (gradient(jax.nn.softplus), "logistic", special.expit, True),
    "gelu": (jax.nn.gelu, "gelu_tanh", limit(lambda x: x * tanh_share(x)), False),
    "gelu in another order": (tanh_gelu, "gelu_tanh", limit(lambda x: x * tanh_share(x)), False),
    "gelu gradient": (gradient(jax.nn.gelu), "logistic", limit(gelu_tanh_dx), True),
    "exact gelu": (exact_gelu, "gelu", limit(lambda x: x * special.ndtr(x)), False),
    "gelu by erf": (erf_gelu, "gelu", limit(lambda x: x * special.ndtr(x)), False),
    "gelu by erf of a quotient": (quotient_gelu, "gelu", limit(lambda x: x * special.ndtr(x)), False),
    "gradient of gelu by erf": (
        gradient(erf_gelu), "gelu_dx", limit(lambda x: special.ndtr(x) + x * density(x)), True,
    ),
    "gradient of gelu by erf of a quotient": (
        gradient(quotient_gelu), "gelu_dx", limit(lambda x: special.ndtr(x) + x * density(x)), True,
    ),
    "exact gelu gradient": (
        gradient(exact_gelu), "gelu_dx", limit(lambda x: special.ndtr(x) + x * density(x)), True,
    ),
}  # fmt: skip


def numbers(dtype):
    """Every short float, or fp32 of every exponent: zeros, subnormals, infinities and NaN among them."""
    if np.dtype(dtype).itemsize == 2:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)
    rng = np.random.default_rng(SEED)
    bits = np.arange(0, 1 << 32, 1 << 16, dtype=np.uint64) + rng.integers(0, 1 << 16, 1 << 16).astype(np.uint64)
    ends = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38], np.float32)
    near = rng.uniform(-16, 16, 1 << 17).astype(np.float32)
    return np.concatenate([bits.astype(np.uint32).view(np.float32), ends, near])


def graph_of(f, *args, passes="on", tmp_path):
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(export(f, *args))
    command = [BUILD / "src/cli/vtrn", "compile", artifact, "--dump", "graph", "--passes", passes]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def operations(text):
    names = re.findall(r"= stablehlo\.(\w+)", text)
    return [n for n in names if n not in ("constant", "broadcast_in_dim")]


def arguments(name, x):
    return (x, np.ones_like(x)) if FORMS[name][3] else (x,)


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_becomes_one_operation(name, dtype, tmp_path):
    f, kind, _, _ = FORMS[name]
    args = arguments(name, np.ones((8, 16), dtype))
    assert kind not in operations(graph_of(f, *args, passes="off", tmp_path=tmp_path))
    made = operations(graph_of(f, *args, tmp_path=tmp_path))
    if name == "gelu gradient":  # no engine has it: a shorter form
        assert "tanh" not in made and made.count(kind) == 2
    else:
        assert made.count(kind) == 1 and set(made) <= {kind, "multiply"}


def run_as_written(device, f, args, tmp_path):
    artifact, program = tmp_path / "form.mlirbc", tmp_path / "form.vtrn"
    artifact.write_bytes(export(f, *args))
    subprocess.run([BUILD / "src/cli/vtrn", "compile", artifact, "--passes", "off", "-o", program], check=True)
    return device.load(program.read_bytes())(*args)[0]


def errors(got, truth, dtype):
    """In units of the last place of the result, absolute, and how many are wrong altogether."""
    info = ml_dtypes.finfo(dtype)
    got = got.astype(np.float64)
    is_wrong = np.isnan(got) != np.isnan(truth)
    is_number = np.isfinite(truth) & np.isfinite(got) & (np.abs(truth) <= float(info.max))
    is_wrong |= ~is_number & ~np.isnan(truth) & ~is_wrong & (np.sign(got) != np.sign(truth))
    got, truth = got[is_number], truth[is_number]
    size = np.maximum(np.abs(truth), float(info.smallest_normal))
    ulp = 2.0 ** np.floor(np.log2(size)) * float(info.eps)
    return np.abs(got - truth) / ulp, np.abs(got - truth), is_wrong


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16])
@pytest.mark.parametrize("name", FORMS)
def test_the_operation_is_at_least_as_accurate_as_the_form(device, name, dtype, tmp_path):
    f, kind, truth, _ = FORMS[name]
    args = arguments(name, numbers(dtype))
    with np.errstate(all="ignore"):
        want = truth(args[0].astype(np.float64))
        form, made = run_as_written(device, f, args, tmp_path), device.compile(export(f, *args))(*args)[0]
        form_ulps, _, form_wrong = errors(form, want, dtype)
        made_ulps, _, made_wrong = errors(made, want, dtype)
    print(f"{made_ulps.max():.3g} ulp, mean {made_ulps.mean():.2g}; as written {form_ulps.max():.3g}")
    assert not np.any(made_wrong & ~form_wrong)
    assert made_ulps.max() <= form_ulps.max()
    assert made_ulps.mean() <= form_ulps.mean()
    if np.dtype(dtype).itemsize == 2 and name != "gelu gradient":
        assert made_ulps.max() <= 0.53


@pytest.mark.parametrize("dtype", [np.float32, BF16])
@pytest.mark.parametrize("name", FORMS)
def test_the_kernels_agree_with_the_reference(name, dtype, tmp_path):
    rng = np.random.default_rng(SEED)
    x = (rng.standard_normal((129, 511)) * 4).astype(dtype)
    artifact = tmp_path / "form.mlirbc"
    args = [x, rng.standard_normal(x.shape).astype(dtype)][: 1 + FORMS[name][3]]
    artifact.write_bytes(export(FORMS[name][0], *args))
    for chip in ("trn1", "trn2"):
        command = [BUILD / "src/cli/vtrn", "run", artifact, "--random", "--verify", "--check", "--chip", chip]
        subprocess.run(command, check=True, capture_output=True)


OVERFLOWS = {
    "log1p of exp": lambda x: jnp.log1p(jnp.exp(x)),
    "silu": jax.nn.silu,
    "x times sigmoid": lambda x: x * jax.nn.sigmoid(x),
    "x over 1 + exp": lambda x: x / (1 + jnp.exp(-x)),
    "gelu": jax.nn.gelu,
    "gelu by erf": lambda x: jax.nn.gelu(x, approximate=False),
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
}


@pytest.mark.parametrize("name", OVERFLOWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_overflows_in_the_form_does_so_on_the_chip(device, name, dtype):
    """A function in place of a form may be more accurate, but hides neither infinities nor NaN."""
    x = np.array([-np.inf, -100, -20, 0, 9, 87, 90, 104, 1e4, np.inf, np.nan] * 40).astype(dtype)
    ours = device.compile(export(OVERFLOWS[name], x))(x)[0].astype(np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        cpu = np.asarray(jax.jit(OVERFLOWS[name])(x)).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(cpu))
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(cpu))
