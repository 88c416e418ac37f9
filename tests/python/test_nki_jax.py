"""NKI kernels inside jitted JAX functions: recorded when the function is traced, part of the program and its profile."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import vtrn.nki
from vtrn.nki import isa as nisa, jax_call, language as nl


@pytest.fixture(autouse=True)
def on_the_chip():
    with jax.default_device(jax.devices("neuron")[0]):
        yield



@vtrn.nki.jit
def add(a, b):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    for i in range(a.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        x = nl.ndarray((128, a.shape[1]), a.dtype, buffer=nl.sbuf)
        y = nl.ndarray((128, a.shape[1]), a.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x, src=a[rows])
        nisa.dma_copy(dst=y, src=b[rows])
        nisa.tensor_tensor(dst=x, data1=x, data2=y, op=nl.add)
        nisa.dma_copy(dst=out[rows], src=x)
    return out


@vtrn.nki.jit
def matmul(lhs_t, rhs, columns=512):
    """lhs_t[k, m].T @ rhs[k, n], tiles of 128 x 128 x columns."""
    (k, m), n = lhs_t.shape, rhs.shape[1]
    out = nl.ndarray((m, n), lhs_t.dtype, buffer=nl.shared_hbm)
    for i in range(m // 128):
        for j in range(n // columns):
            acc = nl.ndarray((128, columns), nl.float32, buffer=nl.psum)
            for p in range(k // 128):
                w = nl.ndarray((128, 128), lhs_t.dtype, buffer=nl.sbuf)
                x = nl.ndarray((128, columns), rhs.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=w, src=lhs_t[p * 128:(p + 1) * 128, i * 128:(i + 1) * 128])
                nisa.dma_copy(dst=x, src=rhs[p * 128:(p + 1) * 128, j * columns:(j + 1) * columns])
                nisa.nc_matmul(dst=acc, stationary=w, moving=x)
            done = nl.ndarray((128, columns), out.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=done, src=acc)
            nisa.dma_copy(dst=out[i * 128:(i + 1) * 128, j * columns:(j + 1) * columns], src=done)
    return out


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_kernel_runs_inside_of_a_jitted_function():
    a, b = draw(256, 512), draw(256, 512, seed=1)
    got = jax.jit(lambda a, b: add(a, b) * a * b)(a, b)
    assert isinstance(got, jax.Array)
    np.testing.assert_array_equal(np.asarray(got), (a + b) * a * b)


def test_a_matmul_gives_the_bits_that_the_kernel_alone_gives():
    lhs_t, rhs = (draw(256, 256).astype(jnp.bfloat16), draw(256, 512, seed=1).astype(jnp.bfloat16))
    got = jax.jit(lambda x, y: matmul(x, y, columns=256))(lhs_t, rhs)
    os.environ["VTRN_CHIP"], before = jax_call.chip_name(), os.environ.get("VTRN_CHIP")
    try:
        alone = matmul(lhs_t, rhs, columns=256)
    finally:
        os.environ.pop("VTRN_CHIP") if before is None else os.environ.update(VTRN_CHIP=before)
    np.testing.assert_array_equal(np.asarray(got).view(np.uint16), np.asarray(alone).view(np.uint16))


def test_two_kernels_and_operations_between_them_are_one_program():
    x, w = draw(128, 128), draw(128, 512, seed=1)

    @jax.jit
    def step(x, w):
        h = jax.nn.relu(matmul(x, w))
        return jnp.sum(add(h, jnp.tanh(h)), axis=0), h

    total, h = step(x, w)
    want = np.maximum(x.T @ w, 0)
    np.testing.assert_allclose(np.asarray(h), want, rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(np.asarray(total), (want + np.tanh(want)).sum(0), rtol=1e-4, atol=1e-3)


def test_a_kernel_in_a_loop_runs_in_each_turn():
    a = draw(128, 64)

    @jax.jit
    def powers(a):
        return jax.lax.fori_loop(0, 5, lambda _, x: add(x, a), a)

    np.testing.assert_allclose(np.asarray(powers(a)), 6 * a, rtol=1e-6)


def test_a_derivative_is_given_by_custom_vjp():
    @jax.custom_vjp
    def product(x, w):
        return matmul(x, w)

    def forward(x, w):
        return matmul(x, w), (x, w)

    def backward(kept, g):
        x, w = kept
        return matmul(w.T, g.T).astype(x.dtype), matmul(x.T, g)

    product.defvjp(forward, backward)
    x, w = draw(512, 512), draw(512, 512, seed=1)
    loss = lambda x, w: jnp.sum(jnp.sin(product(x, w)))  # noqa: E731
    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, w)
    want = jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(x.T @ w)), argnums=(0, 1)))(x, w)
    for g, v in zip(got, want):
        np.testing.assert_allclose(np.asarray(g), np.asarray(v), rtol=2e-3, atol=2e-3 * np.abs(np.asarray(v)).max())


def test_what_jax_cannot_do_with_a_kernel_is_refused_with_the_remedy():
    a = draw(128, 64)
    with pytest.raises(NotImplementedError, match="jax.custom_vjp"):
        jax.grad(lambda x: add(x, a).sum())(a)
    with pytest.raises(NotImplementedError, match="jax.lax.map"):
        jax.vmap(lambda x: add(x, x))(draw(2, 128, 64))
    with pytest.raises(NotImplementedError, match="platform neuron"):
        with jax.default_device(jax.devices("cpu")[0]):
            jax.jit(lambda x: add(x, x))(a)


def test_an_argument_that_a_kernel_writes_is_returned_as_a_new_array():
    @vtrn.nki.jit
    def set_first(x):
        one = nl.ndarray((1, x.shape[1]), x.dtype, buffer=nl.sbuf)
        nisa.memset(one, 7.0)
        nisa.dma_copy(dst=x[0:1], src=one)
        return x

    @vtrn.nki.jit
    def forgets(x):
        set_first.func(x)

    a = jnp.asarray(draw(128, 64))
    before = np.asarray(a).copy()
    got = np.asarray(jax.jit(lambda x: set_first(x) + x)(a))
    np.testing.assert_array_equal(got[0], before[0] + 7)
    np.testing.assert_array_equal(got[1:], 2 * before[1:])
    np.testing.assert_array_equal(np.asarray(a), before)
    with pytest.raises(vtrn.nki.NkiValidationError, match="return the argument"):
        jax.jit(forgets)(a)


def test_results_are_tuples_views_and_values_of_python():
    @vtrn.nki.jit
    def several(x, how):
        out = nl.ndarray((2, 128, 64), x.dtype, buffer=nl.shared_hbm)
        t = nl.ndarray((128, 64), x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=t, src=x)
        for i in range(2):
            nisa.tensor_scalar(dst=t, data=t, op0=nl.add, operand0=1.0)
            nisa.dma_copy(dst=out[i], src=t)
        return out[1], [out, how]

    told = []

    @jax.jit
    def f(x):
        second, (both, how) = several(x, "so")
        told.append(how)
        return second, both

    a = draw(128, 64)
    second, both = f(a)
    np.testing.assert_array_equal(np.asarray(second), a + 1 + 1)
    np.testing.assert_array_equal(np.asarray(both), [a + 1, a + 1 + 1])
    assert told == ["so"]


@vtrn.nki.jit
def careless(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    t = nl.ndarray((128, 64), x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=t[:, 0:32], src=x[:, 0:32])
    nisa.dma_copy(dst=out, src=t)
    return out


def test_reads_of_what_nothing_wrote_are_found_when_the_function_is_traced():
    with pytest.raises(vtrn.nki.NkiValidationError, match="nothing has written 4096 of its elements") as e:
        jax.jit(careless)(draw(128, 64))
    assert e.value.category == "uninitialised"


@pytest.mark.parametrize("policy, value", [("nan", np.nan), ("zero", 0.0)])
def test_unwritten_elements_are_what_the_policy_says(monkeypatch, policy, value):
    monkeypatch.setenv("VTRN_NKI_UNINITIALISED", policy)

    a = draw(128, 64)
    with pytest.warns(UserWarning, match="nothing had written"):
        got = np.asarray(jax.jit(careless)(a))
    np.testing.assert_array_equal(got[:, :32], a[:, :32])
    np.testing.assert_array_equal(got[:, 32:], np.full((128, 32), value, np.float32))


def test_scratch_in_hbm_is_filled_in_jit_too(monkeypatch):
    from test_nki_memory import partly_written

    monkeypatch.setenv("VTRN_NKI_UNINITIALISED", "zero")
    a = draw(128, 64)
    with pytest.warns(UserWarning, match="nothing had written"):
        got = np.asarray(jax.jit(lambda x: partly_written(x) + 1)(a))
    np.testing.assert_array_equal(got, np.concatenate([a[:3] + a[:3], a[3:]]) + 1)


def test_a_loop_over_data_is_refused_since_there_are_no_values():
    @vtrn.nki.jit
    def looks(x):
        t = nl.ndarray((128, 64), x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=t, src=x)
        return t.numpy().sum()

    with pytest.raises(vtrn.nki.NkiValidationError, match="a value is looked at") as e:
        jax.jit(looks)(draw(128, 64))
    assert e.value.category == "unsupported"


PROFILED = """
    import jax, numpy as np, vtrn.nki
    from vtrn.nki import isa as nisa, language as nl

    @vtrn.nki.jit
    def twice(a):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        x = nl.ndarray(a.shape, a.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x, src=a)
        nisa.tensor_tensor(dst=x, data1=x, data2=x, op=nl.add)
        nisa.dma_copy(dst=out, src=x)
        return out

    @jax.jit
    def step(a):
        with jax.named_scope("layer1"):
            b = twice(a)
        return b * a

    a = np.ones((128, 512), np.float32)
    assert (np.asarray(step(a)) == 2).all()
"""


def test_one_profile_has_the_kernel_and_the_program(tmp_path):
    script = tmp_path / "step.py"
    script.write_text(textwrap.dedent(PROFILED))
    env = {**os.environ, "VTRN_PROFILE": str(tmp_path / "out"), "VTRN_CHECK": "1", "VTRN_VERIFY": "1",
           "JAX_PLATFORMS": "neuron,cpu"}
    subprocess.run([sys.executable, str(script)], env=env, check=True)
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    ops = {o["op"]: o for o in profile["top_ops"]}
    assert profile["name"] == "jit_step"
    assert ops["tensor_tensor"]["place"] == f"{script}:10 in layer1/twice"
    assert ops["tensor_tensor"]["scope"] == "layer1/twice"
    assert ops["tensor_tensor"]["engine_ns"] > 0 and ops["stablehlo.multiply"]["engine_ns"] > 0
    assert profile["hbm_read_bytes"] >= 2 * 128 * 512 * 4


def test_a_kernel_that_was_recorded_for_another_chip_is_refused():
    env = {**os.environ, "NEURON_PLATFORM_TARGET_OVERRIDE": "trn2", "VTRN_CHIP": "trn1", "JAX_PLATFORMS": "neuron,cpu"}
    tests = pathlib.Path(__file__).parent
    code = "import jax, test_nki_jax as t; jax.jit(t.add)(t.draw(128, 8), t.draw(128, 8))"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tests, capture_output=True, text=True)
    assert "kernel add was recorded for trn2 and the program is for trn1" in done.stderr


def test_a_foreign_kernel_is_refused():
    from jax.ffi import ffi_call

    def call(x):
        return ffi_call(jax_call.TARGET, jax.ShapeDtypeStruct(x.shape, x.dtype), custom_call_api_version=2,
                        legacy_backend_config="eyJrZXJuZWwiOiAxfQ==")(x)

    with pytest.raises(Exception, match="no kernel that vtrn.nki recorded"):
        jax.jit(call)(draw(4, 4))


def test_the_first_generation_runs_so_too():
    from vtrn.nki import beta1
    from vtrn.nki.beta1 import language as old

    @beta1.jit
    def triple(x):
        out = old.ndarray(x.shape, dtype=x.dtype, buffer=old.shared_hbm)
        t = old.load(x)
        old.store(out, t * 3.0)
        return out

    a = draw(128, 64)
    np.testing.assert_array_equal(np.asarray(jax.jit(lambda x: triple(x) + x)(a)), a * 3 + a)


def test_programs_of_a_grid_are_recorded_one_after_the_other():
    @vtrn.nki.jit
    def halves(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        i = nl.program_id(0)
        t = nl.ndarray((128, x.shape[1]), x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=t, src=x[i * 128:(i + 1) * 128])
        nisa.tensor_scalar(dst=t, data=t, op0=nl.multiply, operand0=float(i + 2))
        nisa.dma_copy(dst=out[i * 128:(i + 1) * 128], src=t)
        return out

    a = draw(384, 64)
    got = np.asarray(jax.jit(lambda x: halves[3](x))(a))
    np.testing.assert_array_equal(got, a * np.repeat([2, 3, 4], 128)[:, None].astype(np.float32))


@vtrn.nki.jit
def wide(x):
    """x + 39 through tiles that go round in all of SBUF."""
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    for i in range(40):
        t = nl.ndarray((128, 3000), nl.float32)
        nisa.memset(t, float(i))
        nisa.dma_copy(dst=t[:, 0:x.shape[1]], src=x)
        p = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
        nisa.tensor_copy(p, t[:, 0:512])
        nisa.tensor_scalar(p, p, nl.add, float(i))
        nisa.tensor_copy(t[:, 0:512], p)
        nisa.dma_copy(dst=out, src=t[:, 0:x.shape[1]])
    return out


def test_a_kernel_that_fills_sbuf_leaves_what_others_keep_there():
    x, w = draw(128, 512), draw(512, 512, seed=1)

    @jax.jit
    def f(x, w):
        h = jnp.tanh(x @ w)
        k = wide(x)
        y = jax.nn.softmax(h @ w)
        return (y + h) * k, wide(h) @ w

    got = f(x, w)
    h = np.tanh(x @ w)
    e = np.exp(h @ w - (h @ w).max(1, keepdims=True))
    np.testing.assert_allclose(np.asarray(got[0]), (e / e.sum(1, keepdims=True) + h) * (x + 39), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(np.asarray(got[1]), (h + 39) @ w, rtol=1e-3, atol=2e-2)


MANY = """
    import jax, numpy as np
    from jax.sharding import Mesh, PartitionSpec as P
    from test_nki_jax import add, draw

    mesh = Mesh(np.array(jax.devices()), ("x",))
    a, b = draw(256, 64), draw(256, 64, seed=1)
    f = jax.jit(jax.shard_map(lambda a, b: add(a, b) * 2, mesh=mesh, in_specs=(P("x"), P("x")), out_specs=P("x")))
    assert len(jax.devices()) == 2 and (np.asarray(f(a, b)) == (a + b) * 2).all()
"""


def test_a_kernel_runs_in_a_shard_map():
    env = {**os.environ, "NEURON_RT_NUM_CORES": "2", "JAX_PLATFORMS": "neuron,cpu"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(MANY)], env=env, cwd=pathlib.Path(__file__).parent, check=True)


def test_a_recorded_kernel_is_exported_with_its_program():
    a = draw(128, 8)
    check = jax.export.DisabledSafetyCheck.custom_call(jax_call.TARGET)
    made = jax.export.export(jax.jit(lambda a: add(a, a)), platforms=["neuron"], disabled_checks=[check])(a)
    got = jax.export.deserialize(made.serialize()).call(a)
    np.testing.assert_array_equal(np.asarray(got), a + a)


@vtrn.nki.jit
def scaled(x, s=1.0):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    tile = nl.load(x)
    print("tile", tile)
    nl.store(out, nl.multiply(tile, s))
    return out


def test_a_printed_tile_has_no_values_while_jax_traces(capsys):
    x = draw(128, 64)
    np.testing.assert_array_equal(jax.jit(lambda x: scaled(x, 2.0))(x), 2 * x)
    assert "tile <sbuf[128, 64] float32: no values, as JAX traces the kernel" in capsys.readouterr().out


def test_a_number_that_jax_traces_is_named_where_the_kernel_fails():
    with pytest.raises(vtrn.nki.NkiValidationError, match=r"s: JAX traces this number, so that the kernel has a tensor(.|\n)*static"):
        jax.jit(scaled)(draw(128, 64), 2.0)
    jax.jit(scaled, static_argnames="s")(draw(128, 64), s=2.0)


def test_an_argument_without_elements_is_named():
    with pytest.raises(ValueError, match=r"scaled: argument x has shape \(0, 64\), which has no elements"):
        jax.jit(scaled)(draw(128, 64)[:0])


@vtrn.nki.jit
def upper_half(a):
    whole = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    row = nl.ndarray((4, a.shape[1]), nl.bfloat16, buffer=nl.shared_hbm)
    tile = nl.load(a)
    nl.store(whole[0:64], tile[0:64])
    nl.store(row[1:2], tile[1:2])
    return whole, (row,)


def test_what_no_kernel_writes_of_a_result_is_zero_inside_jit():
    a = jnp.asarray(np.arange(1, 4097, dtype=np.float32).reshape(128, 32))
    (a * 5.0).block_until_ready()  # memory that is given back with numbers in it
    with pytest.warns(UserWarning) as told:
        whole, (row,) = jax.jit(lambda v: upper_half(v + 0.0))(a)
    assert [str(w.message).split(": ", 1)[1] for w in told] == [
        "nothing writes 2048 of the 4096 elements of a result of shape (128, 32); they are 0",
        "nothing writes 96 of the 128 elements of a result of shape (4, 32); they are 0"]
    want = np.array(a)
    want[64:] = 0
    np.testing.assert_array_equal(whole, want)
    row = np.asarray(row.astype(jnp.float32))
    np.testing.assert_array_equal(row[1], np.asarray(a[1].astype(jnp.bfloat16).astype(jnp.float32)))
    assert not row[[0, 2, 3]].any()


def draws(x, seeds, engine):
    out = nl.ndarray(x.shape, np.uint32, buffer=nl.shared_hbm)
    tile = nl.ndarray((128, 8), np.uint32)
    if seeds is not None:
        state = nl.load(seeds)
        if engine is nisa.engine.vector and nisa.get_nc_version() < nisa.nc_version.gen4:
            nisa.set_rng_seed(state)
        else:
            nisa.rand_set_state(state, engine)
    nisa.rng(tile, engine)
    nisa.dma_copy(out, tile)
    return out


def test_random_numbers_without_a_seed_are_told():
    kernel = vtrn.nki.jit(draws)
    x = np.zeros((128, 8), np.float32)
    with pytest.warns(UserWarning, match=r"nki.isa.rng at .*test_nki_jax.py:\d+: random numbers without a seed"):
        jax.jit(lambda x: kernel(x, None, nisa.engine.vector))(x)


def test_random_numbers_with_a_seed_are_those_of_the_kernel_by_itself(recwarn):
    kernel = vtrn.nki.jit(draws)
    x, seeds = np.zeros((128, 8), np.float32), np.full((1, 1), 7, np.uint32)
    step = jax.jit(lambda x, seeds: kernel(x, seeds, nisa.engine.vector))
    first, second = (np.asarray(step(x, seeds)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, kernel(x, seeds, nisa.engine.vector))
    assert not [w for w in recwarn if "without a seed" in str(w.message)]


@pytest.mark.parametrize("what", ["activation", "read", "tensor_scalar_reduce"])
def test_sums_that_a_kernel_goes_on_from_begin_new_in_each_call(what):
    commands = nisa.reduce_cmd

    @vtrn.nki.jit
    def kernel(a):
        out = nl.ndarray((128, 1), nl.float32, buffer=nl.shared_hbm)
        tile, total = nl.load(a), nl.ndarray((128, 1), nl.float32)
        if what == "tensor_scalar_reduce":
            nisa.tensor_scalar_reduce(tile, tile, nl.add, 1.0, nl.add, total, reduce_cmd=commands.reduce)
        else:
            command = commands.idle if what == "read" else commands.reduce
            nisa.activation(tile, nl.copy, tile, reduce_op=nl.add, reduce_res=total, reduce_cmd=command)
        nisa.dma_copy(out, total)
        return out

    @vtrn.nki.jit
    def before(a):
        out = nl.ndarray((128, 1), nl.float32, buffer=nl.shared_hbm)
        tile, total = nl.load(a), nl.ndarray((128, 1), nl.float32)
        nisa.activation_reduce(tile, nl.copy, tile, nl.add, total)
        nisa.tensor_scalar_reduce(tile, tile, nl.add, 1.0, nl.add, total)
        nisa.dma_copy(out, total)
        return out

    a = np.random.default_rng(3).integers(-9, 9, (128, 32)).astype(np.float32)
    alone, step = np.asarray(kernel(a)), jax.jit(lambda a: (before(a), kernel(a)))
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(step(a)[1]), alone)
