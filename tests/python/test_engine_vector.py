"""The Vector and GpSimd engines, one instruction at a time, against NumPy."""

import numpy as np
import pytest

import engine_harness as h
from engine_harness import DTYPES, Draws, Machine, Operand, dense, random_operand

pytestmark = pytest.mark.skipif(h.lib is None, reason="the C tests are not built")
FLOATS = ["fp32", "bf16", "fp16", "fp8e4m3", "fp8e5m2"]
INTS = ["int8", "int16", "int32", "uint8", "uint16", "uint32"]
np.seterr(all="ignore")


level = h.each_level(sorted({*h.LEVELS[:1], *h.LEVELS[-1:]}))  # the lowest and the highest


def f32(x):
    return np.asarray(x).astype(np.float32)


def quiet(x):
    """NaN payloads and signs are nobody's promise."""
    return np.where(np.isnan(x), np.float32(np.nan), x)


def maximum(x, y):
    is_x = (x > y) | ((x == y) & np.signbit(y))
    return np.where(np.isnan(x) | np.isnan(y), np.nan, np.where(is_x, x, y)).astype(np.float32)


def minimum(x, y):
    is_x = (x < y) | ((x == y) & np.signbit(x))
    return np.where(np.isnan(x) | np.isnan(y), np.nan, np.where(is_x, x, y)).astype(np.float32)


FP32_OPS = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "max": maximum,
    "min": minimum,
    "abs_max": lambda x, y: maximum(np.abs(x), np.abs(y)),
    "abs_min": lambda x, y: minimum(np.abs(x), np.abs(y)),
    "is_equal": np.equal,
    "not_equal": np.not_equal,
    "is_ge": np.greater_equal,
    "is_gt": np.greater,
    "is_le": np.less_equal,
    "is_lt": np.less,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


def shift(f):
    return lambda x, y: np.where(y < 32, f(x, y & 31), 0).astype(np.uint32)


BIT_OPS = {
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "bitwise_not": lambda x, y: ~x,
    "shift_left": shift(np.left_shift),
    "shift_right_logical": shift(np.right_shift),
    "shift_right_arith": lambda x, y: (x.astype(np.int32) >> np.minimum(y, 31).astype(np.int32)),
}


def values(rng, dtype, shape):
    t = np.dtype(DTYPES[dtype])
    if dtype in INTS:
        small = rng.integers(0, 256, (*shape, t.itemsize), dtype=np.uint8)
        v = small.view(t)[..., 0]
        return np.where(rng.random(shape) < 0.2, rng.integers(0, 3, shape).astype(t), v)
    v = (rng.standard_normal(shape) * 10.0 ** rng.integers(-2, 3, shape)).astype(np.float32)
    special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-40], np.float32)
    return np.where(rng.random(shape) < 0.05, rng.choice(special, shape), v).astype(t)


def to_dtype(x, dtype):
    """What a store makes of fp32 values."""
    x = f32(x)
    if dtype not in INTS:
        return x.astype(DTYPES[dtype])
    info = np.iinfo(dtype)
    r = np.rint(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=1e30, neginf=-1e30))
    return np.clip(r, info.min, info.max).astype(dtype)


def same(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype and got.shape == want.shape
    g, w = quiet(f32(got)), quiet(f32(want))
    bad = np.argwhere(~((g == w) & (np.signbit(g) == np.signbit(w)) | np.isnan(g) & np.isnan(w)))
    assert bad.size == 0, (len(bad), bad[0], got[tuple(bad[0])], want[tuple(bad[0])])
    if got.dtype.kind in "iu":
        assert np.array_equal(got, want)


def untouched(before, machine, written):
    """Nothing but `written` changed."""
    after = {s: m.copy() for s, m in machine.memory.items()}
    i = machine._index(written)
    after[written.space][i] = before[written.space][i]
    for s in after:
        assert np.array_equal(after[s], before[s])


@pytest.mark.parametrize("op", FP32_OPS)
def test_tensor_tensor_computes_in_fp32_for_any_pattern(op, rng, level):
    m, draws = Machine(), Draws(rng)
    for trial in range(25):
        n, size = int(rng.integers(1, 20)), draws.pick("size", (1, 7, 24, 96, 360, 2048, 3000))
        t0, t1, t2 = (draws.pick(k, FLOATS + INTS) for k in ("dst", "x", "y"))
        d = random_operand(rng, t0, n, size, 0, is_source=False)
        x = random_operand(rng, t1, n, size, 64 * 1024)
        y = random_operand(rng, t2, n, size, 0, space=h.PSUM) if size <= 400 else \
            random_operand(rng, t2, n, size, 128 * 1024)
        m.write(x, values(rng, t1, (n, size)))
        m.write(y, values(rng, t2, (n, size)))
        want = to_dtype(FP32_OPS[op](f32(m.read(x)), f32(m.read(y))), t0)
        before = {s: a.copy() for s, a in m.memory.items()} if trial == 0 else None
        m.run("tensor_tensor", d, x, y, op0=op, n_threads=int(rng.integers(1, 4)))
        same(m.read(d), want)
        if before:
            untouched(before, m, d)


@pytest.mark.parametrize("t", ["fp32", "bf16", "int32"])
@pytest.mark.parametrize("size", [1, 17, 512, 5000])
def test_operations_in_place_are_right(t, size, rng, level):
    m = Machine()
    x, y = dense(t, 4, size), dense(t, 4, size, 80 * 1024)
    m.write(x, values(rng, t, (4, size)))
    m.write(y, values(rng, t, (4, size)))
    a, b = m.read(x), m.read(y)
    m.run("tensor_tensor", x, x, y, op0="subtract")
    want = to_dtype(f32(a) - f32(b), t)
    same(m.read(x), want)
    m.run("tensor_tensor", x, y, x, op0="subtract")
    want = to_dtype(f32(b) - f32(want), t)
    same(m.read(x), want)
    m.run("scalar_tensor_tensor", x, y, None, x, op0="multiply", op1="add", imm=(0.5, 0.0))
    same(m.read(x), to_dtype(f32(b) * np.float32(0.5) + f32(want), t))


INT_OPS = {**{k: v for k, v in FP32_OPS.items() if not k.startswith("abs")},
           "max": np.maximum, "min": np.minimum}


@pytest.mark.parametrize("t", ["int32", "uint32"])
@pytest.mark.parametrize("op", INT_OPS)
def test_gpsimd_is_exact_on_32_bit_integers(op, t, rng, level):
    m = Machine()
    d, x, y = (random_operand(rng, t, 5, 960, k * 64 * 1024, k > 0) for k in range(3))
    m.write(x, values(rng, t, (5, 960)))
    m.write(y, values(rng, t, (5, 960)))
    a, b = m.read(x), m.read(y)
    m.run("tensor_tensor", d, x, y, op0=op, engine="G")
    same(m.read(d), INT_OPS[op](a, b).astype(t))
    s = dense(t, 5, 1, 190 * 1024)
    m.write(s, a[:, :1])
    m.run("tensor_scalar", d, x, s, None, op0=op, op1="add", engine="G", imm=(0, 7))
    same(m.read(d), (INT_OPS[op](a, a[:, :1]).astype(t) + np.array(7, t)).astype(t))


@pytest.mark.parametrize("t", INTS)
@pytest.mark.parametrize("op", BIT_OPS)
def test_bit_operations_see_raw_bits(op, t, rng, level):
    m = Machine()
    n_bits = 8 * np.dtype(t).itemsize
    d, x, y = (random_operand(rng, t, 3, 480, k * 64 * 1024, k > 0) for k in range(3))
    m.write(x, values(rng, t, (3, 480)))
    m.write(y, rng.integers(0, n_bits + 8, (3, 480)) if op.startswith("shift")
            else values(rng, t, (3, 480)))
    a = m.read(x)
    a = a.astype(f"int{n_bits}").astype(np.int32).view(np.uint32) if op.endswith("arith") else \
        a.astype(f"uint{n_bits}").astype(np.uint32)
    b = m.read(y).astype(f"uint{n_bits}").astype(np.uint32)
    want = BIT_OPS[op](a, b).astype(f"uint{n_bits}").view(t)
    m.run("tensor_tensor", d, x, y, op0=op)
    same(m.read(d), want)
    if op != "bitwise_not":
        m.run("tensor_scalar", d, x, None, None, op0=op, op1="bitwise_not", imm=(3, 0))
        same(m.read(d), (~BIT_OPS[op](a, np.uint32(3)).astype(f"uint{n_bits}")).view(t))


@pytest.mark.parametrize("reverse", [0, h.REVERSE0, h.REVERSE1, h.REVERSE0 | h.REVERSE1])
def test_tensor_scalar_chains_two_operations(reverse, rng, level):
    m, draws = Machine(), Draws(rng)
    for _ in range(40):
        op0, op1 = (draws.pick(k, FP32_OPS) for k in ("op0", "op1"))
        t0, t1, t2 = (draws.pick(k, FLOATS + INTS) for k in ("dst", "x", "s"))
        n, size = int(rng.integers(1, 20)), draws.pick("size", (1, 60, 1500))
        d = random_operand(rng, t0, n, size, 0, is_source=False)
        x = random_operand(rng, t1, n, size, 64 * 1024)
        s = dense(t2, n, 1, 190 * 1024)
        m.write(x, values(rng, t1, (n, size)))
        m.write(s, values(rng, t2, (n, 1)))
        a, b, c = f32(m.read(x)), f32(m.read(s)), np.float32(1.75)
        r = f32(FP32_OPS[op0](b, a) if reverse & h.REVERSE0 else FP32_OPS[op0](a, b))
        r = FP32_OPS[op1](c, r) if reverse & h.REVERSE1 else FP32_OPS[op1](r, c)
        m.run("tensor_scalar", d, x, s, None, op0=op0, op1=op1, flags=reverse, imm=(9.0, 1.75))
        same(m.read(d), to_dtype(r, t0))


def test_tensor_copy_keeps_bits_or_converts(rng, level):
    m, draws = Machine(), Draws(rng)
    pairs = [(a, b) for a in FLOATS + INTS for b in FLOATS + INTS]
    for _ in pairs:
        t0, t1 = draws.pick("types", pairs)
        n, size = int(rng.integers(1, 128)), draws.pick("size", (1, 24, 130, 2048))
        d = random_operand(rng, t0, n, size, 0, is_source=False)
        x = random_operand(rng, t1, n, size, 90 * 1024)
        m.write(x, values(rng, t1, (n, size)))
        a = m.read(x)
        m.run("tensor_copy", d, x, n_threads=int(rng.integers(1, 5)))
        if t0 == t1:
            assert m.read(d).tobytes() == a.tobytes()
        else:
            same(m.read(d), to_dtype(a, t0))


def test_memset_writes_the_value_or_the_raw_bits(rng, level):
    m = Machine()
    for t in FLOATS + INTS:
        d = random_operand(rng, t, 9, 3000, 0, is_source=False)
        before = {s: a.copy() for s, a in m.memory.items()}
        m.run("memset", d, imm=(-2.5, 0.0))
        want = np.float32(-2.5).view(t) if t in ("int32", "uint32") else to_dtype(-2.5, t)
        same(m.read(d), np.full((9, 3000), want))
        untouched(before, m, d)


@pytest.mark.parametrize("flags", [0, h.REVERSE0])
@pytest.mark.parametrize("t", ["fp32", "bf16", "fp8e5m2", "int32", "int8"])
def test_copy_predicated_takes_where_the_mask_says(t, flags, rng, level):
    m = Machine()
    for mask_t in ["uint8", "uint16", "uint32"]:
        d = random_operand(rng, t, 5, 480, 0, is_source=False)
        x = random_operand(rng, t, 5, 480, 64 * 1024)
        k = random_operand(rng, mask_t, 5, 480, 128 * 1024)
        m.write(x, values(rng, t, (5, 480)))
        m.write(d, values(rng, t, (5, 480)))
        m.write(k, rng.integers(0, 2, (5, 480)) * rng.integers(1, 255, (5, 480)))
        want = np.where((m.read(k) == 0) == bool(flags), m.read(x), m.read(d))
        m.run("tensor_copy_predicated", d, x, k, flags=flags)
        assert m.read(d).tobytes() == want.tobytes()


@pytest.mark.parametrize("to, start", [("fp32", "bf16"), ("bf16", "fp32"), ("fp32", "int8"), ("bf16", "uint8")])
@pytest.mark.parametrize("n", [33, 700])
def test_a_conversion_in_place_reads_before_it_writes(to, start, n, rng, level):
    m = Machine()
    x, d = dense(start, 20, n), dense(to, 20, n)
    m.write(x, values(rng, start, (20, n)))
    a = m.read(x)
    m.run("tensor_copy", d, x)
    same(m.read(d), to_dtype(a, to))


@pytest.mark.parametrize("flags", [0, h.REVERSE0])
def test_copy_predicated_takes_dense_rows_under_a_mask_of_bytes(flags, rng, level):
    m = Machine()
    for n in [64, 65, 127, 1500]:
        d, x = dense("fp32", 70, n), dense("fp32", 70, n, 64 * 1024)
        k = dense("uint8", 70, n, 128 * 1024)
        m.write(x, values(rng, "fp32", (70, n)))
        m.write(d, values(rng, "fp32", (70, n)))
        m.write(k, rng.integers(0, 2, (70, n)) * rng.integers(1, 255, (70, n)))
        want = np.where((m.read(k) == 0) == bool(flags), m.read(x), m.read(d))
        m.run("tensor_copy_predicated", d, x, k, flags=flags, n_threads=2)
        assert m.read(d).tobytes() == want.tobytes()


def lanes_reduce(f, x, identity):
    """Sixteen lanes of four parts by blocks of 256 elements, then halves: the order the header states."""
    nothing = np.full((*x.shape[:-1], 16), identity, np.float32)

    def join(*terms):
        acc = terms[0]
        for term in terms[1:]:
            acc = f32(f(acc, term))
        return acc

    def block(x):
        n = x.shape[-1]
        rows = np.full((*x.shape[:-1], -(-n // 16) * 16), identity, np.float32)
        rows[..., :n] = x
        rows = rows.reshape(*x.shape[:-1], -1, 16)
        part = [join(nothing, *(rows[..., j, :] for j in range(k, rows.shape[-2], 4))) for k in range(4)]
        return join(join(part[0], part[2]), join(part[1], part[3]))

    lanes = nothing
    for i in range(0, x.shape[-1], 1024):
        four = [block(x[..., j:min(j + 256, i + 1024)]) if j < x.shape[-1] else nothing
                for j in range(i, i + 1024, 256)]
        lanes = join(lanes, join(join(four[0], four[1]), join(four[2], four[3])))
    for half in (8, 4, 2, 1):
        lanes = join(lanes[..., :half], lanes[..., half:2 * half])
    return lanes[..., 0]


REDUCTIONS = {"add": -0.0, "multiply": 1.0, "max": -np.inf, "min": np.inf, "abs_max": 0.0,
              "abs_min": np.inf, "logical_and": 1.0, "logical_or": 0.0, "logical_xor": 0.0}


@pytest.mark.parametrize("op", REDUCTIONS)
def test_tensor_reduce_sums_in_sixteen_lanes_whatever_the_pattern(op, rng, level):
    m, draws = Machine(), Draws(rng)
    shapes = [(rows, size) for rows in (1, 3, 40) for size in (1, 5, 16, 33, 128, 1500)
              if rows * size <= 8000]
    for _ in range(25):
        rows, size = draws.pick("shape", shapes)
        t0, t1 = draws.pick("dst", FLOATS), draws.pick("x", FLOATS)
        negate = draws.pick("negate", (h.NEGATE, 0, 0))
        # the reduced dims last; their steps may be larger than those of the kept
        dims = [(size, rows), (1, size)] if draws.pick("rows first", (True, False)) else \
            [(1, rows), (rows, size)]
        n_reduced = 1
        if size == 128:
            step = dims[1][0]
            dims, n_reduced = [dims[0], (16 * step, 8), (-step, 16)], 2
        x = Operand(t1, 3, dims, 70_000 // 8 * 8)
        d = random_operand(rng, t0, 3, rows, 0, is_source=False)
        m.write(x, values(rng, t1, (3, rows * size)))
        a = f32(m.read(x)).reshape(3, rows, size)
        want = lanes_reduce(FP32_OPS[op], a, REDUCTIONS[op])
        m.run("tensor_reduce", d, x, op0=op, arg=(n_reduced, 0), flags=negate)
        same(m.read(d), to_dtype(-want if negate else want, t0))


def test_reductions_over_everything_and_nothing(rng):
    m = Machine()
    x, d = dense("fp32", 128, 4000, 64 * 1024), dense("fp32", 128, 1)
    m.write(x, rng.standard_normal((128, 4000)))
    m.run("tensor_reduce", d, x, op0="add", arg=(1, 0), n_threads=3)
    np.testing.assert_allclose(m.read(d)[:, 0], m.read(x).astype(np.float64).sum(1), atol=1e-3)
    all_ = dense("fp32", 128, 4000)
    m.run("tensor_reduce", all_, x, op0="max", arg=(0, 0))
    same(m.read(all_), m.read(x))
    i = dense("uint16", 128, 4000, 64 * 1024)
    d = dense("uint16", 128, 1)
    m.run("tensor_reduce", d, i, op0="bitwise_xor", arg=(1, 0))
    same(m.read(d)[:, 0], np.bitwise_xor.reduce(m.read(i), axis=1))


def test_reciprocal_divides(rng, level):
    m = Machine()
    for t in FLOATS:
        x = random_operand(rng, t, 7, 2000, 64 * 1024)
        d = random_operand(rng, "fp32", 7, 2000, 0, is_source=False)
        m.write(x, values(rng, t, (7, 2000)))
        m.run("reciprocal", d, x)
        same(m.read(d), np.float32(1) / f32(m.read(x)))


def test_iota_and_affine_select_count_in_int32(rng, level):
    m = Machine()
    for _ in range(30):
        dims = [(int(rng.integers(-5, 6)), int(k)) for k in rng.choice([1, 3, 7, 16], 3)]
        size = int(np.prod([k for _, k in dims]))
        pattern = Operand("int32", 1, dims)
        pattern.space = 0
        index = (pattern.offsets() - pattern.addr) // 4
        base, mult = (int(v) for v in rng.integers(-1000, 1000, 2))
        value = base + mult * np.arange(6)[:, None] + index[None]
        for t in ("int32", "fp32", "uint16", "bf16"):
            d = random_operand(rng, t, 6, size, 0, is_source=False)
            m.run("iota", d, None, None, pattern, arg=(base, mult), engine="G")
            same(m.read(d), value.astype("int32") if t == "int32" else to_dtype(value, t))
        x = random_operand(rng, "bf16", 6, size, 64 * 1024)
        m.write(x, values(rng, "bf16", (6, size)))
        m.run("affine_select", d, x, None, pattern, arg=(base, mult), op0="is_ge", engine="G",
              imm=(-7.5, 0.0))
        same(m.read(d), np.where(value >= 0, f32(m.read(x)), -7.5).astype(DTYPES["bf16"]))


@pytest.mark.parametrize("op,t", [("add", "fp32"), ("max", "bf16"), ("add", "int32"),
                                  ("bitwise_or", "uint8"), ("min", "fp16")])
def test_partition_reduce_goes_through_the_partitions_in_order(op, t, rng, level):
    m = Machine()
    x = random_operand(rng, t, 128, 1500, 64 * 1024)
    d = random_operand(rng, t, 1, 1500, 0, is_source=False)
    m.write(x, values(rng, t, (128, 1500)))
    a = m.read(x)
    acc = f32(a[0]) if t not in INTS else a[0]
    for row in a[1:]:
        if t in INTS:
            acc = acc | row if op == "bitwise_or" else acc + row
        else:
            acc = FP32_OPS[op](acc, f32(row))
    m.run("tensor_partition_reduce", d, x, op0=op, engine="G", n_threads=2)
    same(m.read(d)[0], acc if t in INTS else to_dtype(acc, t))


def test_shapes_that_differ_are_refused():
    m = Machine()
    with pytest.raises(RuntimeError, match="same number of elements"):
        m.run("tensor_tensor", dense("fp32", 4, 8), dense("fp32", 4, 8), dense("fp32", 4, 9),
              op0="add")
    with pytest.raises(RuntimeError, match="same partitions"):
        m.run("tensor_copy", dense("fp32", 4, 8), dense("fp32", 3, 8))
    with pytest.raises(RuntimeError, match="bit operations"):
        m.run("tensor_scalar", dense("int32", 4, 8), dense("int32", 4, 8), None, None,
              op0="bitwise_and", op1="add")
