"""Copies that change the layout in HBM: every bit of every element arrives, NumPy says where."""

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import capi
from common import SEED


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def any_bits(rng, shape, dtype):
    """Numbers, infinities, NaNs with payloads, denormals: whatever the bits say."""
    return rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]


def run(device, f, *args):
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    out = executable(*args)[0]
    assert executable.profile().n_reference_ops == 0
    return out


SHAPES = [(64, 128, 32), (300, 200), (3, 129, 257), (5, 16, 1600), (2, 7, 3, 900), (200, 17, 20)]
SHAPES += [(1023, 33), (33, 1023), (2049, 129), (129, 2049), (64, 25088)]


@pytest.mark.parametrize("dtype", [np.float32, np.int32, ml_dtypes.bfloat16, np.float16, np.int8])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_transposed_copy_keeps_every_bit(device, shape, dtype):
    rng = np.random.default_rng([SEED, *shape])
    x = any_bits(rng, shape, dtype)
    axes = [int(i) for i in rng.permutation(len(shape))]
    for axes in (axes, [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]):
        turned = np.transpose(x, axes)
        more = any_bits(rng, (2, *turned.shape[1:]), dtype)
        got = run(device, lambda x, y: jnp.concatenate([jnp.transpose(x, axes), y]), x, more)
        assert got.tobytes() == np.concatenate([turned, more]).tobytes(), axes


FEW_COLUMNS = [  # what is innermost in the source is narrow, and one stretch with what is outside of it
    ((2, 257, 64, 8), (0, 3, 2, 1)), ((512, 16, 8), (2, 1, 0)), ((1, 130, 36, 8), (0, 3, 2, 1)),
    ((3, 129, 5, 33, 3), (4, 0, 3, 2, 1)), ((640, 7, 2, 31), (3, 2, 1, 0)), ((257, 128, 2), (2, 1, 0)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int32])
@pytest.mark.parametrize("shape, axes", FEW_COLUMNS)
def test_a_transposed_copy_of_narrow_matrices_keeps_every_bit(device, shape, axes, dtype):
    rng = np.random.default_rng(SEED)
    x = any_bits(rng, shape, dtype)
    turned = np.transpose(x, axes)
    more = any_bits(rng, (2, *turned.shape[1:]), dtype)
    got = run(device, lambda x, y: jnp.concatenate([jnp.transpose(x, axes), y]), x, more)
    assert got.tobytes() == np.concatenate([turned, more]).tobytes()


def test_a_transposed_copy_of_narrow_matrices_is_turned(device):
    """A tile of the PE array takes columns of many matrices: one each would take as long as each element."""
    x, y = np.zeros((512, 512, 8), np.float32), np.zeros((2, 512, 512), np.float32)
    as_floats = chip_ns(device, lambda x, y: jnp.concatenate([jnp.transpose(x, (2, 1, 0)), y]), x, y)
    as_integers = chip_ns(device, lambda x, y: jnp.concatenate([jnp.transpose(x, (2, 1, 0)), y]),
                          x.astype(np.int32), y.astype(np.int32))  # fmt: skip
    assert as_floats < as_integers / 3


def chip_ns(device, f, *args):
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    executable(*args)
    return executable.profile().step_ns


@pytest.mark.parametrize("shape", [*SHAPES, (400, 13, 64), (60, 31, 33), (1000, 15, 15)])
def test_turning_never_takes_longer_than_moving_each_element(device, shape):
    """The PE array turns floats only: integers of their size go one by one."""
    axes = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]

    def both(x, y):
        return jnp.concatenate([jnp.transpose(x, axes), y])

    ns = []
    for dtype in (np.float32, np.int32):
        x = np.zeros(shape, dtype)
        ns.append(chip_ns(device, both, x, np.zeros((2, *np.transpose(x, axes).shape[1:]), dtype)))
    assert ns[0] <= ns[1], ns


@pytest.mark.parametrize("seed", range(6))
def test_slices_of_transposes_of_reverses_keep_every_bit(device, seed):
    rng = np.random.default_rng([SEED, 1, seed])
    shape = tuple(int(n) for n in rng.integers(20, 90, 3))
    axes = [int(i) for i in rng.permutation(3)]
    x = any_bits(rng, shape, np.float32)
    print(f"seed {seed}: {shape}, axes {axes}")

    def turn(x):
        return x[:, ::-1, 1:].transpose(axes)[2:, :, ::2]

    expected = turn(x)
    more = any_bits(rng, (1, *expected.shape[1:]), np.float32)
    got = run(device, lambda x, y: jnp.concatenate([turn(x), y]), x, more)
    assert got.tobytes() == np.concatenate([expected, more]).tobytes()
