"""Convolutions of 8-bit integers with 32-bit sums run on the chip, exactly: against sums of NumPy's int64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from test_int_products import extremes, run


@dataclasses.dataclass(frozen=True)
class Conv:
    image: tuple[int, int, int, int]  # batch, rows, columns, features
    window: tuple[int, int, int]  # rows, columns, features of the result
    stride: tuple[int, int] = (1, 1)
    pad: tuple = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    spread: tuple[int, int] = (1, 1)  # of the image, as transposed convolutions have it
    groups: int = 1
    is_nchw: bool = False


CONVS = {
    "1x1": Conv((1, 7, 9, 33), (1, 1, 17)),
    "1x1 of three, stride 2": Conv((3, 9, 7, 65), (1, 1, 130), stride=(2, 2)),
    "3x3": Conv((3, 9, 11, 13), (3, 3, 21), pad=((1, 1), (1, 1))),
    "3x3 of channels first": Conv((3, 9, 11, 13), (3, 3, 21), pad=((1, 1), (1, 1)), is_nchw=True),
    "3x3 of many features": Conv((1, 5, 5, 515), (3, 3, 7), pad=((1, 1), (1, 1))),
    "3x3 of many features first": Conv((3, 5, 3, 259), (3, 3, 5), pad=((1, 1), (1, 1)), is_nchw=True),
    "3x3, stride 2": Conv((3, 15, 13, 33), (3, 3, 19), stride=(2, 2), pad=((0, 1), (1, 0))),
    "7x7, stride 2": Conv((1, 31, 29, 3), (7, 7, 16), stride=(2, 2), pad=((3, 3), (3, 3))),
    "3x3 dilated": Conv((1, 15, 13, 11), (3, 3, 5), pad=((2, 2), (3, 3)), dilation=(2, 3)),
    "depthwise": Conv((3, 11, 9, 37), (3, 3, 37), pad=((1, 1), (1, 1)), groups=37),
    "depthwise of channels first, stride 2": Conv((1, 13, 11, 35), (5, 3, 35), stride=(2, 1), pad=((2, 2), (1, 1)), groups=35, is_nchw=True),
    "depthwise of two results each": Conv((1, 7, 7, 9), (3, 3, 18), groups=9),
    "depthwise of one tap": Conv((3, 5, 7, 33), (1, 1, 33), groups=33),
    "groups": Conv((3, 9, 7, 20), (3, 3, 12), pad=((1, 1), (1, 1)), groups=4),
    "groups of many features": Conv((1, 5, 7, 390), (3, 3, 6), groups=3, pad=((1, 1), (1, 1))),
    "groups of many features first": Conv((3, 5, 7, 390), (3, 3, 6), groups=3, is_nchw=True),
    "transposed": Conv((1, 5, 7, 9), (3, 3, 6), pad=((2, 2), (1, 2)), spread=(2, 2)),
    "a window of 31 x 33": Conv((1, 35, 37, 2), (31, 33, 3)),
}  # fmt: skip


def plain(c: Conv, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """By taps, in int64; x and w with features last."""
    n, _, _, features = x.shape
    spread = np.zeros((n, *((s - 1) * d + 1 for s, d in zip(x.shape[1:3], c.spread)), features), np.int64)
    spread[:, :: c.spread[0], :: c.spread[1]] = x
    padded = np.pad(spread, ((0, 0), *c.pad, (0, 0)))
    sizes = [(p - (k - 1) * d - 1) // s + 1 for p, k, d, s in zip(padded.shape[1:3], w.shape, c.dilation, c.stride)]
    out = np.zeros((n, *sizes, w.shape[3]), np.int64)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            seen = padded[:, i * c.dilation[0] :, j * c.dilation[1] :][:, :: c.stride[0], :: c.stride[1]][:, : sizes[0], : sizes[1]]
            parts = zip(np.split(seen, c.groups, 3), np.split(w[i, j].astype(np.int64), c.groups, 1))
            out += np.concatenate([a @ b for a, b in parts], 3)
    return out


def call(c: Conv, x, w):
    layout = ("NCHW", "OIHW", "NCHW") if c.is_nchw else ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, c.stride, c.pad, lhs_dilation=c.spread, rhs_dilation=c.dilation, dimension_numbers=layout,
                                        feature_group_count=c.groups, preferred_element_type=jnp.int32)  # fmt: skip


def operands(rng, c: Conv, types):
    x = extremes(rng, c.image, types[0])
    return x, extremes(rng, (*c.window[:2], c.image[3] // c.groups, c.window[2]), types[1])


@pytest.mark.parametrize("chip", ["inf1", "trn1", "trn3"])
@pytest.mark.parametrize("name", CONVS)
def test_sums_are_exact_and_no_reference_op_is_left(rng, chip, name):
    c = CONVS[name]
    types = (np.uint8, np.int8) if "7x7" in name or "transposed" in name else (np.int8, np.int8)
    x, w = operands(rng, c, types)
    want = plain(c, x, w)
    first = lambda a: a.transpose(0, 3, 1, 2) if c.is_nchw else a  # noqa: E731
    sent = first(x), w.transpose(3, 2, 0, 1) if c.is_nchw else w
    forms = [lambda x, w: call(c, x.astype(jnp.int32), w.astype(jnp.int32))]
    if types[0] == types[1]:
        forms.append(lambda x, w: call(c, x, w))
    for f in forms:
        got, profile = run(chip, f, *sent)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, first(want))
        assert profile.n_reference_ops == 0


def test_a_window_of_more_taps_than_a_sum_may_have_stays_exact(rng):
    c = Conv((1, 34, 35, 1), (33, 32, 2))
    x, w = operands(rng, c, (np.int8, np.int8))
    np.testing.assert_array_equal(run("trn1", lambda x, w: call(c, x, w), x, w)[0], plain(c, x, w))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_integers_as_floats_are_multiplied_as_floats(rng, dtype):
    """The integers are loaded as they are; a depthwise convolution is elementwise."""
    c = CONVS["depthwise"]
    x, w = (rng.integers(-9, 10, s).astype(np.int8) for s in (c.image, (3, 3, 1, 37)))
    f = lambda x, w: jax.lax.conv_general_dilated(x.astype(dtype), w.astype(dtype), (1, 1), c.pad, dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                                  feature_group_count=37, preferred_element_type=jnp.float32)  # fmt: skip # noqa: E731
    np.testing.assert_array_equal(run("trn1", f, x, w)[0], plain(c, x, w))


def test_every_kernel_agrees_with_the_reference(rng, monkeypatch):
    monkeypatch.setenv("VTRN_VERIFY", "1")
    for chip in ("inf1", "inf2"):
        for name in ("3x3 of many features", "groups", "depthwise"):
            x, w = operands(rng, CONVS[name], (np.int8, np.int8))
            got = run(chip, lambda x, w: call(CONVS[name], x, w), x, w)[0]  # noqa: B023
            np.testing.assert_array_equal(got, plain(CONVS[name], x, w))


BLOCK = [Conv((0, 0, 0, 33), (1, 1, 17), stride=(2, 2)), Conv((0, 0, 0, 17), (3, 3, 17), pad=((1, 1), (1, 1))),
         Conv((0, 0, 0, 17), (3, 3, 17), pad=((1, 1), (1, 1)), groups=17), Conv((0, 0, 0, 17), (1, 1, 65))]  # fmt: skip
SHORTCUT = Conv((0, 0, 0, 33), (1, 1, 65), stride=(2, 2))


@pytest.mark.parametrize("chip", ["inf1", "inf2", "trn2"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_quantised_block_is_exact(rng, chip, batch):
    """As of ResNet: sums are scaled by powers of two, rounded half to even, cut to int8; a shortcut is added."""
    x = rng.integers(-128, 128, (batch, 15, 13, 33)).astype(np.int8)
    ws = [rng.integers(-128, 128, (*c.window[:2], c.image[3] // c.groups, c.window[2])).astype(np.int8) for c in (*BLOCK, SHORTCUT)]
    biases = [rng.integers(-5000, 5000, w.shape[3]).astype(np.int32) for w in ws]
    shift = [2.0**-11, 2.0**-12, 2.0**-10, 2.0**-11, 2.0**-11]

    def block(xp, conv, x, ws, biases):
        def requantised(c, x, k, lowest):
            y = (conv(c, x, ws[k]) + biases[k]).astype(xp.float32) * xp.float32(shift[k])
            return xp.clip(xp.round(y), lowest, 127).astype(xp.int8)

        y = x
        for k, c in enumerate(BLOCK):
            y = requantised(c, y, k, 0 if k < 3 else -128)
        total = y.astype(xp.int32) + requantised(SHORTCUT, x, 4, -128).astype(xp.int32)
        return xp.clip(total, 0, 127).astype(xp.int8)

    n = len(ws)
    f = lambda x, *rest: block(jnp, call, x, rest[:n], rest[n:])  # noqa: E731
    got, profile = run(chip, f, x, *ws, *biases)
    want = block(np, plain, x, ws, biases)
    assert got.dtype == np.int8 and len(np.unique(want)) > 30
    np.testing.assert_array_equal(got, want)
    assert profile.n_reference_ops == 0
