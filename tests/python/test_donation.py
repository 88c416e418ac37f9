"""Donated arguments: the output takes their memory where that is safe, and the bits never change."""

import ctypes as ct

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import capi
from common import SEED

NOT_REUSED = -2  # of vtrn_executable_input_alias: donated, no output lives there


@pytest.fixture
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def rand(shape, seed, dtype=np.float32):
    return (np.random.default_rng([SEED, seed]).random(shape) * 4 - 2).astype(dtype)


def compile_step(device, step, args, donated):
    jitted = jax.jit(step, donate_argnums=donated)
    exported = jax.export.export(jitted, platforms=["cpu"])(*args)
    assert len(exported.module_kept_var_idx) == len(jax.tree.leaves(args))
    return device.compile(exported.mlir_module_serialized)


def run_both(device, step, args, donated, n_steps=2):
    """n_steps with and without donation -> (executable with donation, its results, the others)."""
    results, executables = [], []
    for argnums in (donated, ()):
        executable = compile_step(device, step, args, argnums)
        leaves = jax.tree.leaves(args)
        for _ in range(n_steps):
            out = executable(*leaves)
            n = len(jax.tree.leaves([args[i] for i in donated]))
            leaves = out[:n] + leaves[n:]
        results.append(out)
        executables.append(executable)
    return executables[0], results[0], results[1]


def aliases(executable, n_inputs):
    return [executable.lib.vtrn_executable_input_alias(executable.handle, i) for i in range(n_inputs)]


def assert_same_bits(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def sgd(params, velocity, grads):
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
    return jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity), velocity


def adam(params, m, v, grads):
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, grads)
    params = jax.tree.map(lambda p, m, v: p - 1e-3 * m / (jnp.sqrt(v) + 1e-8), params, m, v)
    return params, m, v


SHAPES = [(1000, 300), (7, 50000), (513, 129), (262144,), (100003,), (3, 3, 64, 96)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer,n_states", [(sgd, 1), (adam, 2)])
def test_an_optimizer_updates_tensors_of_many_tiles_in_place(device, optimizer, n_states, dtype):
    trees = [[rand(s, 10 * k + i, dtype) for i, s in enumerate(SHAPES)] for k in range(n_states + 2)]
    trees[n_states] = [np.abs(t) for t in trees[n_states]]  # the second moment is none of a negative
    donated = tuple(range(n_states + 1))
    executable, ours, theirs = run_both(device, optimizer, trees, donated)
    assert_same_bits(ours, theirs)
    n = len(SHAPES) * (n_states + 1)
    assert aliases(executable, n) == list(range(n))


def test_the_hbm_peak_falls_by_what_is_donated():
    shape = (1024, 2048)
    trees = [rand(shape, k) for k in range(3)]
    peaks = []
    for donated in ((0, 1), ()):
        device = capi.Device(threads=2)
        executable = compile_step(device, sgd, trees, donated)
        executable(*trees)
        peaks.append(executable.profile().hbm_peak_bytes)
        device.close()
    assert peaks[1] - peaks[0] == 2 * trees[0].nbytes


N = 384
SQUARE, OTHER = rand((N, N), 100), rand((N, N), 101)
HAZARDS = {
    "the transpose": (lambda x: x + 2 * x.T, True),  # turned into memory of its own first
    "the rows in reverse": (lambda x: x - x[::-1], None),
    "all in reverse": (lambda x: x * 0.5 + x[::-1, ::-1], None),  # few tiles: all loads come first
    "shifted rows": (lambda x: x + jnp.concatenate([x[1:], x[:1]]), None),
    "the first row": (lambda x: x + x[:1], None),
    "the last row": (lambda x: x + x[-1:], None),
    "itself in a product": (lambda x: x @ x * 0.01, None),
    "row sums": (lambda x: x - jnp.sum(x, axis=1, keepdims=True) * 0.01, True),
    "row sums of columns": (lambda x: x - jnp.sum(x, axis=0)[:, None] * 0.01, None),
    "column sums": (lambda x: x - jnp.sum(x, axis=0, keepdims=True) * 0.01, None),
    "softmax": (lambda x: jax.nn.softmax(x, axis=-1), True),
    "the triangle": (lambda x: jnp.where(jnp.arange(N)[:, None] < jnp.arange(N), x, 0.25 * x), True),
    "cumulative sums": (lambda x: jnp.cumsum(x * 0.01, axis=0), None),
    "a slice written": (lambda x: x.at[3:200, 5:77].set(x[4:201, 6:78]), None),
    "a loop": (lambda x: jax.lax.fori_loop(0, 3, lambda i, v: v + v.T * 0.1, x) + x, None),
    "a branch": (lambda x: jax.lax.cond(x[0, 0] > 0, lambda v: v.T + x, lambda v: v - x.T, x), None),
    "nothing": (lambda x: x, True),
}


@pytest.mark.parametrize("name", HAZARDS)
def test_what_is_read_again_is_not_overwritten(device, name):
    f, is_reused = HAZARDS[name]
    executable, ours, theirs = run_both(device, lambda x: (f(x),), [SQUARE], (0,), n_steps=3)
    assert_same_bits(ours, theirs)
    if is_reused is not None:
        assert aliases(executable, 1) == [0 if is_reused else NOT_REUSED]


def test_many_tiles_in_reverse_are_not_overwritten(device):
    x = rand((2048, 2048), 102)
    executable, ours, theirs = run_both(device, lambda x: (x * 0.5 + x[::-1, ::-1],), [x], (0,))
    assert_same_bits(ours, theirs)
    assert aliases(executable, 1) == [NOT_REUSED]


def test_an_update_in_place_waits_for_a_copy_on_its_own_ring(device):
    """The update reads and writes the argument; VTRN_CHECK=1 refuses a copy that may still run."""

    def step(x, i):
        twice = jnp.concatenate([x, x])
        return x.at[i].set(0), twice

    for shape in ((256, 250), (33, 7), (1000, 3)):
        executable, ours, theirs = run_both(device, step, [rand(shape, 5), np.int32(3)], (0,), n_steps=1)
        assert_same_bits(ours, theirs)
        assert aliases(executable, 2)[0] == 0


PAIRS = {
    "a swap": lambda a, b: (b, a),
    "a swap with arithmetic": lambda a, b: (b + 1, a * 0.5),
    "one from both": lambda a, b: (a + b, a - b),
    "the second from the new first": lambda a, b: (a * 0.5 + b, (a * 0.5 + b).T - a),
    "products": lambda a, b: (a @ b * 0.01, a.T @ b * 0.01),
    "one late": lambda a, b: (a + b.T, b + jnp.sum(a + b.T)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_donated_arguments_do_not_disturb_each_other(device, name):
    _, ours, theirs = run_both(device, PAIRS[name], [SQUARE, OTHER], (0, 1), n_steps=3)
    assert_same_bits(ours, theirs)


@pytest.mark.parametrize("seed", range(8))
def test_random_updates_of_slices_and_turns_keep_their_bits(device, seed):
    rng = np.random.default_rng([SEED, 200, seed])
    rows, cols = int(rng.integers(2, 700)), int(rng.integers(2, 700))
    turns = [
        lambda x: x, lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x * 0.5,
        lambda x: jnp.roll(x, int(rng.integers(1, rows)), 0),
        lambda x: x.reshape(cols, rows).T, lambda x: x.T.reshape(rows, cols),
    ]  # fmt: skip
    chosen = [int(i) for i in rng.integers(0, len(turns), 3)]
    print(f"seed {seed}: {rows} x {cols}, turns {chosen}")

    def step(x, y):
        return turns[chosen[0]](x) + y, turns[chosen[1]](y) - turns[chosen[2]](x) * 0.25

    args = [rand((rows, cols), 300 + seed), rand((rows, cols), 400 + seed)]
    state = rng.bit_generator.state

    def same_turns(x, y):
        rng.bit_generator.state = state  # each trace draws the same
        return step(x, y)

    _, ours, theirs = run_both(device, same_turns, args, (0, 1))
    assert_same_bits(ours, theirs)


ROWS, WIDTH = 1024, 192
TABLE, ROW = rand((ROWS, WIDTH), 500), rand((1, WIDTH), 501)
AT = np.array([7, 1000, 33, 512], np.int32)


def one_row(x, row, i):
    return jax.lax.dynamic_update_slice(x, row, (i, jnp.int32(0)))


def two_rows(x, row, i):
    return one_row(one_row(x, row, i), 2 * row, i + 1)


def then(y, read, change=lambda y: y):
    return change(y), read(y)


# Each takes (table, row, index). True: the parts that are updated are all that is written.
UPDATES = {
    "a row": (lambda x, row, i: (one_row(x, row, i),), True),
    "a row that is read": (lambda x, row, i: then(one_row(x, row, i), lambda y: y[:130] @ row[0]), True),
    "a row of it elsewhere": (lambda x, row, i: (one_row(x, x[5:6] + row, i),), True),
    "a row where the program says": (lambda x, row, i: (x.at[40:41].set(row * i.astype(x.dtype)),), True),
    "a part of rows, then all read": (lambda x, row, i: then(x.at[3:5, 10:60].set(i.astype(x.dtype)), lambda y: y @ row[0]), True),
    "two rows": (lambda x, row, i: (two_rows(x, row, i),), True),
    "two rows, read between": (
        lambda x, row, i: then(one_row(x, row, i), lambda y: y @ row[0], lambda y: one_row(y, 2 * row, i + 1)), False),
    "two rows of it reshaped": (
        lambda x, row, i: (two_rows(x.reshape(-1, WIDTH // 2), row[:, : WIDTH // 2], i).reshape(ROWS, WIDTH),), True),
    "rows at indices": (lambda x, row, i: (x.at[i + jnp.arange(4) * 30].set(row * jnp.arange(4, dtype=x.dtype)[:, None]),), True),
    "rows that may meet, added": (lambda x, row, i: (x.at[(i + jnp.arange(40)) % 7].add(jnp.round(row)),), None),
    "the old one too": (lambda x, row, i: (one_row(x, row, i), x[::2] * 2), False),
    "the old one as an output": (lambda x, row, i: (one_row(x, row, i), x), False),
    "the same output twice": (lambda x, row, i: (one_row(x, row, i),) * 2, None),
    "in a loop": (lambda x, row, i: (jax.lax.fori_loop(0, 3, lambda k, y: one_row(y, row, i + k), x),), None),
    "beside a loop": (lambda x, row, i: (one_row(x, row, i), jax.lax.fori_loop(0, i, lambda k, s: s + row, row)), None),
    "swapped with nothing": (lambda x, row, i: (one_row(x.T, row[:, :1] + jnp.zeros((1, ROWS), x.dtype), i % WIDTH).T,), None),
}  # fmt: skip


@pytest.mark.parametrize("chip", ["inf2", "trn2"])
@pytest.mark.parametrize("name", UPDATES)
def test_a_donated_table_costs_the_rows_that_are_written(name, chip):
    f, is_cheap = UPDATES[name]
    device = capi.Device(chip=chip, threads=2)
    for dtype in ("float32", "bfloat16"):
        args = [TABLE.astype(dtype), ROW.astype(dtype), AT[1]]
        step = lambda *a: jax.tree.map(lambda y, t: y.astype(t.dtype), f(*a), jax.eval_shape(f, *a))  # noqa: E731
        executable, ours, theirs = run_both(device, step, args, (0,), n_steps=3)
        assert_same_bits(ours, theirs)
        for i in AT:
            ours = executable(args[0], args[1], i)
            wanted = np.asarray(jax.jit(step)(args[0], args[1], i)[0]).astype(np.float32)
            sums = {"float32": 1e-5, "bfloat16": 0.1}  # are rounded at other places
            tolerance = sums[dtype] if "added" in name else 0
            np.testing.assert_allclose(ours[0].astype(np.float32), wanted, tolerance, tolerance)
        written = executable.profile().hbm_write_bytes
        if is_cheap is not None:
            assert (written < args[0].nbytes / 4) == is_cheap, f"{written} of {args[0].nbytes} bytes"
    device.close()


def test_an_update_in_place_of_an_argument_that_is_kept_works_on_a_copy(device):
    """The caller may protect a donated argument: then its memory must not change."""
    args = [TABLE, ROW, AT[0]]
    executable = compile_step(device, lambda x, row, i: (one_row(x, row, i),), args, (0,))
    assert aliases(executable, 3)[0] == 0
    lib, handles, out = device.lib, (ct.c_void_p * 3)(), (ct.c_void_p * 1)()
    for k, array in enumerate(args):
        handle, dims = ct.c_void_p(), (ct.c_int64 * 12)(*array.shape)
        device.check(lib.vtrn_buffer_create(device.handle, 0, capi.DTYPES.index(array.dtype), array.ndim, dims,
                                            np.asarray(array).ctypes.data_as(ct.c_void_p), ct.byref(handle)))  # fmt: skip
        handles[k] = handle.value
    device.check(lib.vtrn_execute(executable.handle, 0, handles, 3, (ct.c_bool * 3)(True), out, 1))
    kept, got = np.empty_like(TABLE), np.empty_like(TABLE)
    for array, handle in ((kept, handles[0]), (got, out[0])):
        device.check(lib.vtrn_buffer_read(ct.c_void_p(handle), array.ctypes.data_as(ct.c_void_p), array.nbytes))
    for handle in (*handles, *out):
        lib.vtrn_buffer_destroy(ct.c_void_p(handle))
    assert kept.tobytes() == TABLE.tobytes()
    assert got[AT[0]].tobytes() == ROW.tobytes()
    assert np.delete(got, AT[0], 0).tobytes() == np.delete(TABLE, AT[0], 0).tobytes()
