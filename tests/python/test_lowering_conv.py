"""Convolutions on the engines: every kind of grouping, any dimension numbers."""

import capi
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from common import SEED
from jax import lax
from reference_oracle import compare
from test_reference_xla import random_of, xla
from test_vhlo_attrs import module_of, random_convolution, serialize

pytestmark = pytest.mark.part(2)


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


@pytest.mark.parametrize("case", range(36))
def test_a_convolution_of_random_attributes_equals_xla(device, case):
    rng = np.random.default_rng([SEED, case])
    types, op, result = random_convolution(rng)
    print(op)
    arrays = [random_of(rng, kind) for kind in types]
    text = module_of(types, op, [result])
    executable = device.compile(serialize(text))
    compare(xla(text, arrays), executable(*arrays), bound=2e-5)
    assert executable.profile().n_reference_ops == 0


LAST, FIRST = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")
GROUPED = {
    # images, height, width, channels, channels out, groups, window, strides, dilation, layout
    "one channel each": (2, 9, 11, 24, 24, 24, 3, (1, 1), (1, 1), LAST),
    "channels first": (2, 9, 11, 24, 24, 24, 3, (1, 1), (1, 1), FIRST),
    "of many taps": (1, 10, 12, 40, 40, 40, 7, (1, 1), (1, 1), LAST),
    "of more taps than a fusion has room for": (1, 12, 12, 8, 8, 8, 9, (1, 1), (1, 1), LAST),
    "of more channels than SBUF has room for": (1, 4, 4, 1500, 1500, 1500, 5, (1, 1), (1, 1), LAST),
    "with strides": (2, 12, 9, 16, 16, 16, 3, (2, 3), (1, 1), LAST),
    "dilated": (2, 12, 12, 16, 16, 16, 3, (1, 1), (2, 3), LAST),
    "of one tap": (2, 5, 6, 32, 32, 32, 1, (1, 1), (1, 1), LAST),
    "two channels from each": (2, 8, 8, 12, 24, 12, 3, (1, 1), (1, 1), LAST),
    "four groups": (2, 8, 8, 16, 32, 4, 3, (1, 1), (1, 1), LAST),
    "four groups, channels first": (2, 8, 8, 16, 32, 4, 3, (1, 1), (1, 1), FIRST),
}


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", GROUPED)
def test_a_grouped_convolution_and_its_gradients_equal_the_cpu(device, name, dtype):
    n, h, w, channels, out, groups, k, strides, dilation, layout = GROUPED[name]
    rng = np.random.default_rng(SEED)
    x, kernel = (n, h, w, channels), (k, k, channels // groups, out)
    if layout == FIRST:
        x, kernel = (n, channels, h, w), (out, channels // groups, k, k)
    # small integers: sums are exact in any order
    x = rng.integers(-2, 3, x).astype(dtype)
    kernel = rng.integers(-2, 3, kernel).astype(dtype)

    def conv(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, "SAME", rhs_dilation=dilation,
                                        dimension_numbers=layout, feature_group_count=groups,
                                        preferred_element_type=jnp.float32)  # fmt: skip

    def both(x, kernel):
        y, pull = jax.vjp(conv, x, kernel)
        return y, *pull(jnp.sign(y))

    with jax.default_device(jax.devices("cpu")[0]):
        jitted = jax.jit(both)
        expected = [np.asarray(e) for e in jitted(x, kernel)]
        exported = jax.export.export(jitted, platforms=["cpu"])(x, kernel)
    executable = device.compile(exported.mlir_module_serialized)
    for got, want in zip(executable(x, kernel), expected, strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))
    assert executable.profile().n_reference_ops == 0


def test_what_is_not_finite_stays_in_its_channel(device):
    x = np.ones((1, 6, 6, 8), np.float32)
    x[0, 2, 3, 5] = np.inf
    x[0, 4, 1, 2] = np.nan

    def conv(x):
        return lax.conv_general_dilated(x, jnp.ones((3, 3, 1, 8)), (1, 1), "SAME",
                                        dimension_numbers=LAST, feature_group_count=8)  # fmt: skip

    with jax.default_device(jax.devices("cpu")[0]):
        expected = np.asarray(jax.jit(conv)(x))
        exported = jax.export.export(jax.jit(conv), platforms=["cpu"])(x)
    np.testing.assert_array_equal(device.compile(exported.mlir_module_serialized)(x)[0], expected)


def test_few_wide_transfers_feed_a_convolution_of_many_dims(device):
    """The rows that a fusion is cut into decide how many transfers its operands take."""
    lhs, rhs, out = (7, 11, 4, 6, 10), (3, 3, 2, 1, 6), (6, 7, 3, 6, 4)
    op = (
        "stablehlo.convolution(%a, %b) dim_numbers = [0, 1, b, f, 2]x[2, 0, 1, i, o]->[1, 2, 0, f, b], "
        "window = {stride = [3, 2, 2], pad = [[0, 0], [0, 2], [-1, -1]], lhs_dilate = [2, 1, 2], "
        "rhs_dilate = [2, 1, 2], reverse = [true, false, true]} "
        "{batch_group_count = 1 : i64, feature_group_count = 6 : i64}"
    )
    types = ["tensor<" + "x".join(map(str, dims)) + "xf32>" for dims in (lhs, rhs, out)]
    text = (
        f"module {{ func.func @main(%a: {types[0]}, %b: {types[1]}) -> {types[2]} {{\n"
        f"%0 = {op} : ({types[0]}, {types[1]}) -> {types[2]}\nreturn %0 : {types[2]} }} }}"
    )
    rng = np.random.default_rng(SEED)
    arrays = [rng.standard_normal(dims).astype(np.float32) for dims in (lhs, rhs)]
    executable = device.compile(serialize(text))
    compare(xla(text, arrays), executable(*arrays), bound=2e-5)
    assert executable.profile().n_instructions < 200
