"""Updates at places that several dims name: sums of rows, of windows and of elements that may meet,
against JAX on the CPU."""

import capi
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from test_views_of_operands import check, whole

pytestmark = pytest.mark.part(3)


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


# name: table, dims named by indices, dims of which a window takes one element, window of the others,
# counts of the updates, dims of the updates that are a window's
PLACES = {
    "rows named by two dims": ((33, 1, 7, 64), (0, 1), (0, 1), (7, 64), (48,), (1, 2)),
    "rows of a short table": ((9, 11, 40), (0, 1), (0, 1), (40,), (300,), (1,)),
    "rows of a long table": ((60, 50, 40), (0, 1), (0, 1), (40,), (300,), (1,)),
    "rows of many columns": ((7, 3, 1100), (0, 1), (0, 1), (1100,), (20,), (1,)),
    "dims named in another order": ((20, 30, 16), (1, 0), (0, 1), (16,), (150,), (1,)),
    "rows of three dims": ((6, 7, 8, 33), (2, 0, 1), (0, 1, 2), (33,), (150,), (1,)),
    "windows around a dim": ((12, 5, 9, 16), (0, 2), (0, 2), (5, 16), (30,), (0, 2)),
    "a dim behind": ((8, 9, 10), (1, 2), (1, 2), (8,), (100,), (0,)),
    "windows of many rows": ((70, 6, 32), (0,), (), (3, 6, 32), (25,), (1, 2, 3)),
    "windows that begin anywhere": ((40, 50), (0, 1), (0,), (7,), (30,), (1,)),
    "many windows that begin anywhere": ((40, 50), (0, 1), (0,), (7,), (600,), (1,)),
    "few large windows that begin anywhere": ((40, 5000), (0, 1), (0,), (3000,), (5,), (1,)),
    "many large windows that begin anywhere": ((200, 300), (0, 1), (), (90, 200), (70,), (1, 2)),
    "elements of a large table": ((700, 1000), (0, 1), (0, 1), (), (300,), ()),
    "updates counted in two dims": ((30, 40, 12), (0, 1), (0, 1), (12,), (9, 15), (1,)),
    "one row": ((1, 1, 20), (0, 1), (0, 1), (20,), (40,), (1,)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.uint32])
@pytest.mark.parametrize("name", PLACES)
def test_updates_named_by_several_dims_add_up(device, rng, name, dtype):
    """Places that meet, that are outside, windows that are partly so, updates that are not finite."""
    table, named, inserted, window, counts, window_dims = PLACES[name]
    numbers = lax.ScatterDimensionNumbers(window_dims, inserted, named)
    extent, left = [], list(window)
    for d in range(len(table)):
        extent.append(1 if d in inserted else left.pop(0))
    places = [rng.integers(-1, table[d] - extent[d] + 2, counts, np.int32) for d in named]
    i = np.stack(places, -1)
    i[: min(40, len(i) // 2)] = i[0]  # so few that the CPU's bf16 holds each partial sum
    shape, left, right = [], list(window), list(counts)
    for d in range(len(window) + len(counts)):
        shape.append((left if d in window_dims else right).pop(0))
    draw = whole
    if np.dtype(dtype).kind in "iu":

        def draw(rng, shape, dtype):
            return rng.integers(0, 1 << 32, shape, np.uint32).view(dtype)

    x, u = draw(rng, table, dtype), draw(rng, shape, dtype)
    if dtype == np.float32:
        u[rng.random(shape) < 0.01], u[rng.random(shape) < 0.01] = np.inf, -np.inf

    def sums(x, i, u):
        def add(x, u, mode="drop"):
            return lax.scatter_add(x, i, u, numbers, mode=mode)

        zeros, ones = jnp.zeros(table, dtype), jnp.ones(shape, dtype)
        return add(x, u), add(x, u, "clip"), add(zeros, u), add(x, ones)

    check(device, sums, x, i, u)


@pytest.mark.parametrize("how", ["add", "set", "mul", "min", "max", "get"])
@pytest.mark.parametrize("mode", ["clip", "fill", "drop", None])
def test_several_dims_are_indexed_in_every_mode(device, rng, how, mode):
    if how == "set":  # the order of sets that meet is open
        i, j = np.divmod(rng.permutation(np.arange(-40, 45))[:50].astype(np.int32), np.int32(5))
    else:
        i, j = (rng.integers(-d - 2, d + 2, 50, np.int32) for d in (13, 5))
    x, u = whole(rng, (13, 5, 3, 20)), whole(rng, (50, 3, 20))

    def at(x, i, j, u):
        ref = x.at[i, j]
        if how == "get":
            return ref.get(mode=mode, fill_value=-1.0)
        return getattr(ref, how)(u, mode=mode)

    if mode == "clip" and how == "set":
        i, j = i % 13, j % 5
    check(device, at, x, i, j, u)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16, np.int32, np.uint32])
@pytest.mark.parametrize("how", ["min", "max", "mul"])
@pytest.mark.parametrize("n, rows, width", [(2, 3, 7), (127, 40, 1), (128, 1, 5), (129, 200, 33), (1025, 60, 3),
                                            (4097, 9000, 2)])  # fmt: skip
def test_rows_that_meet_take_the_least_the_greatest_or_the_product(device, rng, n, rows, width, how, dtype):
    i = rng.integers(-2, rows + 2, n).astype(np.int32)
    is_int = np.dtype(dtype).kind in "iu"
    if how == "mul" and not is_int:  # exact in any order
        i = np.where(np.arange(n) < 300, i % max(1, rows // 2), i)
        x, u = (rng.choice([1, -1, 2, 0.5], s, p=[0.5, 0.4, 0.05, 0.05]).astype(dtype) for s in ((rows, width), (n, width)))
    elif is_int:
        x, u = (rng.integers(0, 1 << 32, s, np.uint32).view(dtype) for s in ((rows, width), (n, width)))
    else:
        x, u = (rng.standard_normal(s).astype(dtype) for s in ((rows, width), (n, width)))
        for special in (np.inf, -np.inf, np.nan):
            u[rng.random(u.shape) < 0.01] = special

    def at(x, i, u):
        return getattr(x.at[i], how)(u, mode="drop", wrap_negative_indices=False)

    check(device, at, x, i, u, n_reference_ops=int(how == "mul" and is_int))


@pytest.mark.parametrize("how", ["min", "max", "mul"])
def test_columns_and_elements_that_meet_take_it_too(device, rng, how):
    x, i, j = whole(rng, (9, 30, 4)), rng.integers(0, 30, (5, 50), np.int32), rng.integers(0, 9, 200, np.int32)

    def at(x, i, j, u, v):
        return getattr(x.at[:, i], how)(u), getattr(x.at[j, j % 7, j % 3], how)(v)

    u, v = (np.sign(whole(rng, s)) for s in ((9, 5, 50, 4), (200,)))
    check(device, at, x, i, j, u, v)


@pytest.mark.parametrize("how", ["segment_max", "segment_min"])
def test_gradients_of_segments_run_on_the_engines(device, rng, how):
    i, x = np.sort(rng.integers(0, 100, 517)).astype(np.int32), rng.standard_normal((517, 6)).astype(np.float32)
    segments = getattr(jax.ops, how)
    f = jax.grad(lambda x: jnp.sum(jnp.where(jnp.isfinite(y := segments(x, i, 260)), y, 0) ** 2))
    check(device, f, x, rtol=1e-5)


def test_more_updates_than_blocks_of_them_are_a_reference_op(device, rng):
    i, u = rng.integers(0, 40, 8200, np.int32), whole(rng, (8200, 3))
    check(device, lambda i, u: jnp.zeros((40, 3)).at[i].max(u), i, u, n_reference_ops=1)


def test_sums_of_many_integers_are_exact(device):
    """Bytes of more than 2^16 updates add up to more than fp32 holds exactly."""
    i, j = np.zeros(70001, np.int32), np.ones(70001, np.int32)
    x, u = np.zeros((3, 4, 2), np.uint32), np.full((70001, 2), 0xFFFFFFFF, np.uint32)
    check(device, lambda x, i, j, u: x.at[i, j].add(u), x, i, j, u)


def test_mapped_updates_add_up(device, rng):
    x, u = whole(rng, (4, 30, 7, 40)), whole(rng, (4, 25, 40))
    i, j = (rng.integers(0, d + 2, (4, 25), np.int32) for d in (30, 7))
    add = jax.vmap(lambda x, i, j, u: x.at[i, j].add(u))
    check(device, add, x, i, j, u)
    check(device, add, (x * 8).astype(np.int32), i, j, u.astype(np.int32))
    check(device, jax.vmap(add), *(np.stack([a, a[::-1]]) for a in (x, i, j, u)))
    check(device, jax.vmap(lambda x, i, u: x.at[:, i].add(u)), x, j, u[:, :30])


def test_updates_that_are_views_add_up(device, rng):
    x, i, j = whole(rng, (50, 40, 24)), *(rng.integers(0, d, 60, np.int32) for d in (50, 40))
    views = [
        ((24, 60), lambda u: u.T), ((120, 24), lambda u: u[::-2]), ((24,), lambda u: u),
        ((60, 1), lambda u: u), ((4, 15, 24), lambda u: u.transpose(1, 0, 2).reshape(60, 24)),
        ((60, 6, 4), lambda u: u.transpose(0, 2, 1).reshape(60, 24)),
    ]  # fmt: skip
    for shape, view in views:
        u = whole(rng, shape)

        def add(x, i, j, u, view=view):
            return x.at[i, j].add(view(u)), x.transpose(1, 0, 2).at[j, i].add(view(u))

        check(device, add, x, i, j, u)


def test_an_update_by_two_index_dims_is_as_short_as_by_one(device, rng):
    """The sums are the same as of rows that one index names: what is added per element is not."""
    x, u = whole(rng, (33, 1, 7, 1024)), whole(rng, (48, 7, 1024))
    i, j = rng.integers(0, 33, 48, np.int32), np.zeros(48, np.int32)

    def instructions(f, *args):
        exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
        executable = device.compile(exported.mlir_module_serialized)
        executable(*args)
        return executable.profile().n_instructions

    one = instructions(lambda x, i, u: x.at[i].add(u), x[:, 0], i, u)
    two = instructions(lambda x, i, j, u: x.at[i, j].add(u), x, i, j, u)
    assert two < 1.5 * one
