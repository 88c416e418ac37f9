"""Convolutions and poolings whose channels are partitions: forwards only programs, as inference has
them. Operands are small integers, so that sums are exact in any order."""

import capi
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from common import SEED
from jax import lax

pytestmark = pytest.mark.part(4)

LAST, FIRST = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def device(request):
    d = capi.Device(chip=request.param, threads=2)
    yield d
    d.close()


def integers(rng, shape, dtype):
    return rng.integers(-2, 3, shape).astype(dtype)


def check(device, function, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        jitted = jax.jit(function, keep_unused=True)
        expected = jax.tree.leaves(jitted(*args))
        exported = jax.export.export(jitted, platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    for got, want in zip(executable(*args), expected, strict=True):
        assert got.shape == want.shape
        np.testing.assert_array_equal(got.astype(np.float32), np.asarray(want, np.float32))
    assert executable.profile().n_reference_ops == 0
    return executable


def conv(x, w, strides=(1, 1), padding="SAME", layout=LAST, **attributes):
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=layout,
                                    preferred_element_type=jnp.float32, **attributes)  # fmt: skip


# images, height, width, channels, channels out, window
SIZES = [(1, 6, 7, c, 24, 3) for c in (1, 3, 16, 17, 31, 32, 33, 64, 127, 128, 129)]
SIZES += [(1, 5, 6, 40, c, 3) for c in (1, 2, 31, 33, 127, 128, 129, 511, 512, 513)]
SIZES += [(3, h, w, 20, 24, 3) for h, w in ((1, 1), (1, 9), (2, 2), (14, 14), (31, 33), (23, 22))]
SIZES += [(1, 9, w, 20, 24, 3) for w in (127, 128, 129, 511, 512, 513, 640, 1025)]
SIZES += [(n, 7, 7, 130, 136, 3) for n in (1, 2, 8, 11)]
SIZES += [(2, 15, 16, 24, 16, k) for k in (2, 4, 5, 7)]
SIZES += [(1, 3, 4, 513, 16, 3), (1, 56, 57, 64, 64, 3), (1, 140, 9, 3, 8, 3)]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_sizes_around_each_edge_equal_the_cpu(device, size, dtype):
    n, h, w, c, out, k = size
    rng = np.random.default_rng(SEED)
    x, kernel = integers(rng, (n, h, w, c), dtype), integers(rng, (k, k, c, out), dtype)
    check(device, lambda x, kernel: jax.nn.relu(conv(x, kernel)), x, kernel)


ATTRIBUTES = {
    "strides": {"strides": (2, 3)},
    "a stride beyond the window": {"strides": (4, 5), "padding": "VALID"},
    "no padding": {"padding": "VALID"},
    "padding beyond the window": {"padding": ((3, 4), (5, 2))},
    "negative padding": {"padding": ((-1, 2), (3, -2))},
    "dilated windows": {"rhs_dilation": (2, 3)},
    "a dilated image": {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))},
    "an image dilated by 3 and 4": {"lhs_dilation": (3, 4), "padding": ((2, 3), (1, 0))},
    "both dilated": {"lhs_dilation": (2, 1), "rhs_dilation": (1, 2), "padding": ((2, 2), (1, 3))},
    "strides along one dim, dilation along the other": {
        "strides": (2, 1), "lhs_dilation": (1, 2), "padding": ((1, 1), (2, 2))},
}  # fmt: skip


@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_windows(device, name, channels, layout):
    rng = np.random.default_rng(SEED)
    x, kernel = (2, 13, 11, channels), (3, 4, channels, 20)
    if layout == FIRST:
        x, kernel = (2, channels, 13, 11), (20, channels, 3, 4)
    x, kernel = (integers(rng, shape, jnp.bfloat16) for shape in (x, kernel))
    check(device, lambda x, kernel: conv(x, kernel, layout=layout, **ATTRIBUTES[name]), x, kernel)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_numbers_of_spatial_dims(device, rank):
    rng = np.random.default_rng(SEED)
    x = integers(rng, (2, *(9, 8, 10)[:rank], 20), np.float32)
    kernel = integers(rng, (*(3, 2, 3)[:rank], 20, 12), np.float32)
    numbers = ("NDHWC"[0] + "DHW"[:rank] + "C", "DHW"[:rank] + "IO", "N" + "DHW"[:rank] + "C")
    check(device, lambda x, kernel: lax.conv_general_dilated(x, kernel, (2,) * rank, "SAME",
                                                             dimension_numbers=numbers), x, kernel)  # fmt: skip


def block(x, w1, w2, scale, shift, relu_last=True):
    y = jax.nn.relu(conv(x, w1) * scale + shift).astype(x.dtype)
    y = conv(y, w2) * scale + shift + x.astype(jnp.float32)
    return jax.nn.relu(y) if relu_last else y


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("channels", [16, 128, 200])
def test_what_follows_a_convolution_happens_on_the_way_out_of_psum(device, channels, dtype):
    rng = np.random.default_rng(SEED)
    x = integers(rng, (2, 10, 12, channels), dtype)
    w1, w2 = integers(rng, (3, 3, channels, channels), dtype), integers(rng, (1, 1, channels, channels), dtype)
    scale = (2.0 ** rng.integers(-2, 3, channels)).astype(np.float32)
    shift = integers(rng, channels, np.float32)
    # the first result is rounded to bf16, so values beyond 256 would depend on when
    check(device, lambda *a: block(*a), x, w1 // 2, w2, scale / 16, shift)


USES = {
    "two users": lambda y, b: (y + 1, y * 2),
    "a result and a user": lambda y, b: (y, jax.nn.relu(y)),
    "twice in one": lambda y, b: y * y,
    "subtracted": lambda y, b: b - y,
    "leaky": lambda y, b: jnp.where(y > 0, y, y / 4),
    "mean of pixels": lambda y, b: y.sum((1, 2)),
    "sum of all": lambda y, b: y.sum(),
    "sum of channels": lambda y, b: y.sum(-1),
    "largest channel": lambda y, b: y.max(-1),
    "argmax of channels": lambda y, b: jnp.argmax(y, -1),
    "flattened": lambda y, b: y.reshape(y.shape[0], -1) @ jnp.ones((y[0].size, 3)),
    "padded": lambda y, b: jnp.pad(y, ((0, 0), (1, 2), (0, 1), (0, 0))),
    "sliced": lambda y, b: y[:, 1:, ::2, 3:],
    "reversed": lambda y, b: y[:, ::-1],
    "concatenated": lambda y, b: jnp.concatenate([y, y + b], -1),
    "transposed": lambda y, b: y.transpose(0, 3, 1, 2),
    "as in channels first": lambda y, b: y.transpose(3, 0, 1, 2) + 1,
    "a value of each pixel": lambda y, b: y * jnp.arange(11.0)[:, None],
    "one bias for all": lambda y, b: y + b[0],
    "converted": lambda y, b: y.astype(jnp.int32),
    "in a loop": lambda y, b: lax.fori_loop(0, 3, lambda i, z: z + b, y),
}


@pytest.mark.parametrize("name", USES)
def test_uses_of_a_convolution(device, name):
    rng = np.random.default_rng(SEED)
    x, w = integers(rng, (2, 9, 11, 20), np.float32), integers(rng, (3, 3, 20, 24), np.float32)
    b = integers(rng, 24, np.float32)
    check(device, lambda x, w, b: USES[name](conv(x, w), b), x, w, b)


POOLS = {
    "3 x 3": ((2, 12, 13, 24), (1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
    "2 x 2": ((3, 12, 14, 130), (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "overlapping": ((1, 9, 30, 16), (1, 5, 4, 1), (1, 1, 1, 1), "SAME"),
    "columns": ((1, 9, 30, 16), (1, 1, 3, 1), (1, 1, 2, 1), "SAME"),
    "rows": ((1, 9, 30, 16), (1, 3, 1, 1), (1, 2, 1, 1), "VALID"),
    "padded": ((2, 9, 9, 40), (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (2, 0), (0, 0))),
    "all pixels": ((2, 7, 7, 40), (1, 7, 7, 1), (1, 1, 1, 1), "VALID"),
    "channels too": ((2, 7, 7, 40), (1, 2, 2, 3), (1, 2, 2, 2), "SAME"),
    "images too": ((4, 7, 7, 40), (2, 2, 2, 1), (2, 2, 2, 1), "VALID"),
}


@pytest.mark.parametrize("kind", ["max", "min", "sum"])
@pytest.mark.parametrize("name", POOLS)
def test_poolings_of_convolutions_equal_the_cpu(device, name, kind):
    shape, window, strides, padding = POOLS[name]
    rng = np.random.default_rng(SEED)
    x, w = integers(rng, shape, jnp.bfloat16), integers(rng, (3, 3, shape[-1], shape[-1]), jnp.bfloat16)
    init, combine = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min), "sum": (0.0, lax.add)}[kind]

    def pooled(x, w):
        y = jax.nn.relu(conv(x, w))
        return lax.reduce_window(y, init, combine, window, strides, padding)

    check(device, pooled, x, w)
    check(device, lambda x: lax.reduce_window(x, jnp.asarray(init, x.dtype), combine, window, strides, padding)
          if kind != "sum" else x, x.transpose(3, 0, 1, 2))  # fmt: skip


@pytest.mark.parametrize("kind", ["max", "sum"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["fp32", "bf16"])
def test_poolings_along_the_last_dim_equal_the_cpu(device, dtype, kind):
    rng = np.random.default_rng(SEED)
    init, combine = {"max": (-jnp.inf, lax.max), "sum": (0.0, lax.add)}[kind]
    for shape, window, strides in (((3, 40, 9, 10), (1, 1, 3, 3), (1, 1, 2, 2)), ((200, 513), (1, 4), (1, 3)),
                                   ((16, 2, 5, 6, 7), (1, 1, 2, 2, 2), (1, 1, 1, 2, 3))):  # fmt: skip
        x = integers(rng, shape, dtype)
        check(device, lambda x: lax.reduce_window(x, jnp.asarray(init, x.dtype), combine, window, strides,
                                                  "SAME") * 2, x)  # fmt: skip


def test_one_thread_gives_the_bits_of_two():
    rng = np.random.default_rng(SEED)
    x, w = rng.standard_normal((2, 20, 22, 70)), rng.standard_normal((3, 3, 70, 130))
    x, w = x.astype(np.float32), w.astype(np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        exported = jax.export.export(jax.jit(lambda x, w: jax.nn.relu(conv(x, w, (2, 1)))), platforms=["cpu"])(x, w)
    results = []
    for threads in (1, 2):
        d = capi.Device(threads=threads)
        results.append(d.compile(exported.mlir_module_serialized)(x, w)[0])
        d.close()
    np.testing.assert_array_equal(*results)


def test_a_mapped_convolution_and_one_with_gradients(device):
    rng = np.random.default_rng(SEED)
    x, w = integers(rng, (3, 2, 8, 9, 20), np.float32), integers(rng, (3, 3, 20, 24), np.float32)
    check(device, lambda x, w: jax.vmap(lambda a: conv(a, w))(x), x, w)
    check(device, lambda x, w: jax.grad(lambda x: (conv(x, w, (2, 2)) ** 2).sum())(x), x[0], w)
    check(device, lambda x, w: jax.grad(lambda w: (conv(x, w, (2, 2)) ** 2).sum())(w), x[0], w)


def test_a_convolution_takes_a_matmul_a_tap_and_no_transposes(device):
    """64 channels of 16 x 16 pixels: a tile of PSUM, nine taps."""
    x, w = np.ones((64, 1, 16, 16), np.float32), np.ones((3, 3, 64, 64), np.float32)
    executable = check(device, lambda x, w: conv(x, w, layout=("CNHW", "HWIO", "CNHW")), x, w)
    assert executable.profile().n_instructions < 40
