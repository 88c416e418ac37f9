"""Integers of 2 and 4 bits and floats of 4: packed in buffers, in the arguments and results of programs and in the weights
that a product reads; with the values that Python's integers give, at sizes that fill no byte and offsets inside of one."""

import operator
import subprocess

import conftest
import ml_dtypes
import numpy as np
import pytest
from common import SEED
from paths import BUILD

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

import capi  # noqa: E402
from chip_run import export  # noqa: E402

INTS = [jnp.int2, jnp.int4, jnp.uint2, jnp.uint4]
each_int = pytest.mark.parametrize("dtype", INTS, ids=lambda t: np.dtype(t).name)
each_type = pytest.mark.parametrize("dtype", [*INTS, jnp.float4_e2m1fn], ids=lambda t: np.dtype(t).name)


def bits_of(dtype):
    return 2 if "int2" in np.dtype(dtype).name else 4


def bounds(dtype):
    info = ml_dtypes.iinfo(dtype)
    return int(info.min), int(info.max)


def cut(x, dtype):
    """Integers of any size as those of the type with the same low bits."""
    low, high = bounds(dtype)
    return ((np.asarray(x).astype(np.int64) - low) % (high - low + 1) + low).astype(dtype)


def values(dtype, shape, seed=0):
    rng = np.random.default_rng([SEED, seed])
    if dtype in INTS:
        low, high = bounds(dtype)
        return rng.integers(low, high + 1, shape).astype(dtype)
    return (np.abs(rng.standard_normal(shape)) + 0.1).astype(dtype)


def here():
    return jax.devices("neuron")[0]


def same(got, want):
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_array_equal(np.asarray(got).astype(np.float32), want.astype(np.float32))


def run(f, *args):
    return jax.jit(f)(*jax.device_put(args, here()))


# --- buffers ---------------------------------------------------------------------------------------


@each_type
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (3,), (5, 7), (3, 3, 3), (1001,), (64, 33)], ids=str)
def test_a_buffer_is_packed_and_comes_back(dtype, shape):
    x = values(dtype, shape)
    placed = jax.device_put(x, here())
    same(placed, x)
    same(jax.device_put(placed, jax.devices("cpu")[0]), x)
    same(run(lambda x: x, x), x)


@each_type
def test_packed_values_take_a_share_of_a_byte(dtype):
    """Of HBM, by the statistics of the device, and of an argument and a result of a program."""
    n, before = 1 << 22, here().memory_stats()["bytes_in_use"]
    placed = jax.device_put(values(dtype, (n,)), here())
    took = here().memory_stats()["bytes_in_use"] - before
    assert n * bits_of(dtype) // 8 <= took <= 1.1 * n * bits_of(dtype) // 8
    stats = jax.jit(lambda x: x).lower(placed).compile().memory_analysis()
    assert stats.argument_size_in_bytes == stats.output_size_in_bytes == n * bits_of(dtype) // 8


@each_type
def test_arrays_of_any_order_come_and_go(dtype):
    x = values(dtype, (6, 5, 7))
    for seen in (x.T, x[::2, 1:, ::-3], np.asfortranarray(x), x.transpose(1, 0, 2)[:, ::-1]):
        same(jax.device_put(seen, here()), seen)


@each_type
def test_an_order_of_dims_in_memory(dtype):
    layout = pytest.importorskip("jax.experimental.layout")
    x = values(dtype, (5, 7, 3))
    format_ = layout.Format(layout.Layout((2, 0, 1)), jax.sharding.SingleDeviceSharding(here()))
    placed = jax.device_put(x, format_)
    same(placed, x)
    got = jax.jit(lambda x: x[1:, ::2], in_shardings=format_, out_shardings=format_)(placed)
    same(got, x[1:, ::2])


@each_type
def test_copies_between_memories(dtype):
    x = values(dtype, (5, 7))
    there = jax.sharding.SingleDeviceSharding(here(), memory_kind="pinned_host")
    host = jax.device_put(jax.device_put(x, here()), there)
    back = jax.device_put(host, jax.sharding.SingleDeviceSharding(here(), memory_kind="device"))
    same(host, x)
    same(back, x)
    same(jax.jit(lambda x: x[1:, 1:])(back), x[1:, 1:])


@each_type
@pytest.mark.parametrize("n", [1, 6, 7, 1001])
def test_donated_arguments(dtype, n):
    x = values(dtype, (n,))
    placed = jax.device_put(x, here())
    got = jax.jit(lambda x: (x[::-1], x[: n // 2]), donate_argnums=0)(placed)
    same(got[0], x[::-1])
    same(got[1], x[: n // 2])
    same(jax.jit(lambda x: x, donate_argnums=0)(jax.device_put(x, here())), x)


@each_type
def test_the_bytes_that_a_c_program_sees(dtype):
    x = values(dtype, (5, 7))
    artifact = jax.export.export(jax.jit(lambda x: (x, x.T)), platforms=["neuron"])(x).mlir_module_serialized
    device = capi.Device(threads=2)
    compiled = device.compile(artifact)
    loaded = device.load(compiled.program())  # which knows bytes alone
    for got, again, want in zip(compiled(x), loaded(capi.pack(x)), (x, x.T), strict=True):
        same(got, want)
        np.testing.assert_array_equal(again, capi.pack(np.ascontiguousarray(want)))
    compiled.destroy()
    loaded.destroy()
    device.close()


@each_type
def test_a_callback_gets_and_gives_arrays(dtype):
    x = values(dtype, (5, 3))

    def seen(a):
        assert np.asarray(a).dtype == np.dtype(dtype)
        return np.asarray(a)[::-1]

    same(run(lambda x: jax.pure_callback(seen, jax.ShapeDtypeStruct(x.shape, x.dtype), x[:, ::-1]), x), x[::-1, ::-1])


@pytest.mark.parametrize("dtype", [*INTS, jnp.float4_e2m1fn, jnp.float8_e4m3b11fnuz, jnp.float8_e4m3fnuz, jnp.float8_e5m2fnuz,
                                   jnp.float8_e8m0fnu, jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float8_e3m4, jnp.float8_e4m3],
                         ids=lambda t: np.dtype(t).name)
def test_devices_have_parts(dtype):
    if len(jax.devices("neuron")) < 2:
        pytest.skip("one device is shown")
    mesh = jax.sharding.Mesh(np.array(jax.devices("neuron")[:2]), "x")
    x = values(dtype, (6, 5))
    cut_at = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    placed = jax.device_put(x, cut_at)
    same(jax.jit(lambda x: x[:, ::-1])(placed), x[:, ::-1])
    same(jax.jit(lambda x: x[::-1], out_shardings=cut_at)(placed), x[::-1])


# --- operations ------------------------------------------------------------------------------------


@each_int
def test_arithmetic_of_all_pairs(dtype):
    low, high = bounds(dtype)
    a, b = (v.reshape(-1) for v in np.meshgrid(np.arange(low, high + 1), np.arange(low, high + 1)))
    bits = bits_of(dtype)
    mask = (1 << bits) - 1
    by = b & mask  # shifts take the count without a sign
    is_cut = by >= bits
    half = 1 << (bits - 1)
    filled = ((a & mask) ^ half) - half  # the highest bit in all those above, of an unsigned type too
    quotient = np.array([-1 if y == 0 else int(x / y) for x, y in zip(a, b, strict=True)])
    rest = np.array([x if y == 0 else x - y * int(x / y) for x, y in zip(a, b, strict=True)])
    want = [a + b, a - b, a * b, np.maximum(a, b), np.minimum(a, b), a & b, a | b, a ^ b, quotient, rest,
            np.where(is_cut, 0, a << np.minimum(by, bits)), np.where(is_cut, 0, (a & mask) >> np.minimum(by, bits)),
            filled >> np.minimum(by, bits)]

    def f(a, b):
        return [a + b, a - b, a * b, lax.max(a, b), lax.min(a, b), a & b, a | b, a ^ b, lax.div(a, b), lax.rem(a, b),
                lax.shift_left(a, b), lax.shift_right_logical(a, b), lax.shift_right_arithmetic(a, b)]

    for got, expected in zip(run(f, a.astype(dtype), b.astype(dtype)), want, strict=True):
        same(got, cut(expected, dtype))
    compared = [operator.lt, operator.le, operator.eq, operator.ne, operator.ge, operator.gt]
    for got, compare in zip(run(lambda a, b: [c(a, b) for c in compared], a.astype(dtype), b.astype(dtype)), compared,
                            strict=True):
        np.testing.assert_array_equal(got, compare(a, b))


@each_int
def test_functions_of_all_values(dtype):
    low, high = bounds(dtype)
    a, bits = np.arange(low, high + 1), bits_of(dtype)
    codes = a & ((1 << bits) - 1)
    ones = np.array([bin(c).count("1") for c in codes])
    zeros = np.array([bits - int(c).bit_length() for c in codes])
    want = [-a, ~a, ones, zeros, np.clip(a, 0, 1), a**3]  # JAX has neither abs nor sign of these
    got = run(lambda a: [lax.neg(a), lax.bitwise_not(a), lax.population_count(a), lax.clz(a), lax.clamp(dtype(0), a, dtype(1)), lax.integer_pow(a, 3)],
              a.astype(dtype))
    for one, expected in zip(got, want, strict=True):
        same(one, cut(expected, dtype))


@each_int
@pytest.mark.parametrize("n", [1, 7, 64, 1001])
def test_conversions(dtype, n):
    x, low, high = values(dtype, (n,)), *bounds(dtype)
    a = x.astype(np.int64)
    wide = [jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32, jnp.bfloat16, jnp.float16, jnp.float32,
            jnp.float8_e5m2, jnp.bool_]
    for got, t in zip(run(lambda x: [x.astype(t) for t in wide], x), wide, strict=True):
        same(got, (a != 0) if t == jnp.bool_ else a.astype(np.float32).astype(t) if jnp.issubdtype(t, jnp.floating)
             else a.astype(t))
    i = np.random.default_rng(SEED).integers(-300, 300, n).astype(np.int32)
    f = (i / 16).astype(np.float32)
    others = run(lambda i, f: [i.astype(dtype), i.astype(jnp.int8).astype(dtype), i.astype(jnp.uint16).astype(dtype),
                               (i > 0).astype(dtype), f.astype(dtype), f.astype(jnp.bfloat16).astype(dtype)], i, f)
    clipped = np.clip(np.trunc(f), low, high)
    for got, expected in zip(others, [i, i, i, i > 0, clipped, np.clip(np.trunc(f.astype(ml_dtypes.bfloat16)), low, high)],
                             strict=True):
        same(got, cut(expected, dtype))


@each_int
def test_small_types_of_each_other(dtype):
    x = values(dtype, (5, 9))
    others = [t for t in INTS if t != dtype]
    for got, t in zip(run(lambda x: [x.astype(t) for t in others], x), others, strict=True):
        same(got, cut(x.astype(np.int64), t))
    twin = {jnp.int2: jnp.uint2, jnp.uint2: jnp.int2, jnp.int4: jnp.uint4, jnp.uint4: jnp.int4}[dtype]
    same(run(lambda x: lax.bitcast_convert_type(x, twin), x), cut(x.astype(np.int64), twin))


@each_type
def test_elements_move_from_and_to_the_middle_of_bytes(dtype):
    x, i = values(dtype, (5, 7, 3)), np.int32(1)
    y = values(dtype, (2, 7, 3), 1)
    want = [x[1:4, 1:, 1:], x[::-2, 3], x.T, x.reshape(7, 15)[1:], np.concatenate([x[:1], y, x[3:]]), x[1:3], x[[4, 0, 1]],
            np.roll(x, 1, 0), np.stack([x[0], x[3]], 2), np.pad(x, ((1, 0), (0, 1), (1, 1)), constant_values=dtype(1))]
    updated, scattered = x.copy(), x.copy()
    updated[1:3] = y
    scattered[[4, 1]] = y

    def f(x, y, i):
        return [x[1:4, 1:, 1:], x[::-2, 3], x.T, x.reshape(7, 15)[1:], jnp.concatenate([x[:1], y, x[3:]]),
                lax.dynamic_slice(x, (i, 0, 0), (2, 7, 3)), x[jnp.array([4, 0, 1])], jnp.roll(x, 1, 0),
                jnp.stack([x[0], x[3]], 2), jnp.pad(x, ((1, 0), (0, 1), (1, 1)), constant_values=dtype(1)),
                lax.dynamic_update_slice(x, y, (i, 0, 0)), x.at[jnp.array([4, 1])].set(y)]

    for got, expected in zip(run(f, x, y, i), [*want, updated, scattered], strict=True):
        same(got, expected)


@each_int
def test_sums_products_and_extremes(dtype):
    x = values(dtype, (33, 9))
    a = x.astype(np.int64)
    zero, one, low, high = (np.dtype(dtype).type(v) for v in (0, 1, *bounds(dtype)))
    got = run(lambda x: [lax.reduce(x, zero, lax.add, (0,)), lax.reduce(x, one, lax.mul, (1,)),
                         lax.reduce(x, low, lax.max, (0, 1)), lax.reduce(x, high, lax.min, (1,)),
                         lax.reduce(x, zero, lambda a, b: a + b * b, (1,)),
                         lax.reduce_window(x, zero, lax.add, (3, 2), (2, 1), "VALID"), lax.cumsum(x, 0), lax.cummax(x, 1)], x)
    squares = np.zeros(33, np.int64)
    for j in range(9):
        squares = cut(squares + a[:, j] ** 2, dtype).astype(np.int64)
    windows = sum(a[r : r + 31 : 2, c : c + 8] for r in range(3) for c in range(2))
    want = [a.sum(0), np.prod(a, 1), a.max(), a.min(1), squares, windows, a.cumsum(0), np.maximum.accumulate(a, 1)]
    for one_of, expected in zip(got, want, strict=True):
        same(one_of, cut(expected, dtype))


@each_int
def test_loops_branches_sorting_and_constants(dtype):
    x, constant = values(dtype, (7, 5)), values(dtype, (5,), 1)
    a, c = x.astype(np.int64), constant.astype(np.int64)

    def f(x):
        total, seen = lax.scan(lambda s, r: (s + r * constant, s), jnp.zeros(5, dtype), x)
        last = lax.while_loop(lambda s: s[0] < 6, lambda s: (s[0] + 1, s[1] + s[1]), (0, x[1]))[1]
        chosen = lax.cond(x[0, 0] > 0, lambda x: x + dtype(1), lambda x: x - dtype(1), x)
        return [total, seen, last, chosen, jnp.sort(x, 0), jnp.asarray(constant), jnp.full((3, 3), dtype(1))]

    sums = np.concatenate([np.zeros((1, 5), np.int64), (a * c).cumsum(0)])
    want = [sums[-1], sums[:-1], a[1] * 64, a + (1 if a[0, 0] > 0 else -1), np.sort(a, 0), c, np.ones((3, 3), np.int64)]
    for got, expected in zip(run(f, x), want, strict=True):
        same(got, cut(expected, dtype))


@pytest.mark.parametrize("n", [16, 17, 1001])
def test_floats_of_4_bits_are_decoded_on_the_engines(n):
    x = np.resize(np.arange(16, dtype=np.uint8), n).view(ml_dtypes.float4_e2m1fn)
    device = capi.Device(threads=2)
    executable = device.compile(export(lambda x: [x.astype(t) for t in (jnp.float32, jnp.bfloat16, jnp.float16)], x))
    for got in executable(x):
        np.testing.assert_array_equal(got.astype(np.float32), x.astype(np.float32))
        np.testing.assert_array_equal(np.signbit(got.astype(np.float32)), np.signbit(x.astype(np.float32)))
    assert executable.profile().n_reference_ops == 0
    executable.destroy()
    device.close()


# --- products --------------------------------------------------------------------------------------

SIZES = [(1, 2, 4), (1, 576, 192), (31, 33, 128), (129, 128, 516), (4, 1000, 511), (7, 129, 33), (130, 300, 24)]


@pytest.mark.part(3)
@each_int
@pytest.mark.parametrize("chip", ["inf2", "trn2", "trn3"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_product_reads_packed_weights_as_they_are(dtype, chip, size):
    m, k, n = size
    device = capi.Device(chip=chip, threads=2)
    rng = np.random.default_rng(SEED)
    for float_type in (jnp.bfloat16, jnp.float32):
        x = rng.integers(-8, 9, (m, k)).astype(float_type)
        for is_turned in (False, True):
            w = values(dtype, (n, k) if is_turned else (k, n))
            wide = w.astype(np.float32)
            want = x.astype(np.float32) @ (wide.T if is_turned else wide)

            def f(x, w):
                wide = w.astype(float_type)
                return jnp.matmul(x, wide.T if is_turned else wide, preferred_element_type=jnp.float32)

            executable = device.compile(export(f, x, w))
            np.testing.assert_array_equal(executable(x, w)[0], want)
            profile = executable.profile()
            assert profile.n_reference_ops == 0
            if m <= 128 and w.shape[1] % (8 // bits_of(dtype)) == 0:
                assert profile.hbm_read_bytes <= 1.05 * (x.nbytes + capi.pack(w).nbytes) + 4096
            executable.destroy()
    device.close()


@each_int
def test_heads_and_batches_of_packed_weights(dtype):
    w, x = values(dtype, (3, 4, 16, 8)), np.random.default_rng(SEED).integers(-4, 5, (3, 5, 16)).astype(np.float32)
    n = w.astype(np.float32)
    got = run(lambda x, w: [jnp.einsum("bsd,bhde->bhse", x, w.astype(x.dtype)), jnp.einsum("bsd,bhde->bse", x, w.astype(x.dtype)),
                            x @ w.astype(x.dtype).transpose(0, 2, 1, 3).reshape(3, 16, 32),
                            jnp.einsum("bsd,bhed->bhse", x[..., :8], w.astype(x.dtype))], x, w)
    want = [np.einsum("bsd,bhde->bhse", x, n), np.einsum("bsd,bhde->bse", x, n), x @ n.transpose(0, 2, 1, 3).reshape(3, 16, 32),
            np.einsum("bsd,bhed->bhse", x[..., :8], n)]
    for one, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, expected)


@each_int
def test_weights_in_loops_and_of_scales(dtype):
    w, x = values(dtype, (3, 24, 24)), np.random.default_rng(SEED).integers(-2, 3, (5, 24)).astype(np.float32)
    scale = np.exp2(np.arange(24) % 3).astype(np.float32)
    n = w.astype(np.float32)

    def f(x, w, scale):
        layers = lax.scan(lambda h, v: (jnp.clip(h @ v.astype(h.dtype), -4, 4), None), x, w)[0]
        again = lax.fori_loop(0, 3, lambda _, h: jnp.clip(h @ w[1].astype(h.dtype), -4, 4), x)
        return [layers, again, (x @ w[0].astype(x.dtype)) * scale, x @ (w[2].astype(x.dtype) * scale), w.sum(1, dtype=jnp.int32)]

    layers, again = x, x
    for v in n:
        layers, again = np.clip(layers @ v, -4, 4), np.clip(again @ n[1], -4, 4)
    want = [layers, again, (x @ n[0]) * scale, x @ (n[2] * scale), w.astype(np.int32).sum(1)]
    for got, expected in zip(run(f, x, w, scale), want, strict=True):
        np.testing.assert_array_equal(got, expected)


# --- files of the command line ---------------------------------------------------------------------


@each_int
def test_vtrn_run_takes_and_gives_a_byte_a_value(dtype, tmp_path):
    low, high = bounds(dtype)
    byte = np.int8 if low else np.uint8
    x = np.arange(low, high + 1).astype(byte)
    (tmp_path / "f.vhlo").write_bytes(export(lambda x: ~x, jax.ShapeDtypeStruct(x.shape, dtype)))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "large.npy", np.where(x == 1, high + 1, x).astype(byte))
    command = [BUILD / "src/cli/vtrn", "run", tmp_path / "f.vhlo", "-o", tmp_path / "out", "--input"]
    subprocess.run([*command, tmp_path / "x.npy"], check=True, capture_output=True)
    got = np.load(tmp_path / "out/out0.npy")
    np.testing.assert_array_equal(got.view(byte), cut(~x.astype(np.int64), dtype).astype(byte))
    refused = subprocess.run([*command, tmp_path / "large.npy"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert f"element {1 - low} is {high + 1}; {np.dtype(dtype).name} has {low} to {high}" in refused.stderr
