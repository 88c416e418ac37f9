"""Donated arguments: the output takes their memory where that is safe, and the bits never change."""

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
