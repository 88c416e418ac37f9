"""Cases of engine_cases for the instructions that leave results in the registers of the Vector engine, and for the
gathers of the GpSimd engine."""

import numpy as np

import engine_harness as h
from engine_cases import ALL, FP32_OPS, INTS, case, dense, f32, same, to_dtype

REDUCTIONS = {"add": (np.add, 0.0), "multiply": (np.multiply, 1.0), "max": (np.maximum, -np.inf),
              "min": (np.minimum, np.inf)}
COMPARISONS = ("is_equal", "is_ge", "is_gt", "is_le", "is_lt")
LEAST = np.float32(-np.finfo(np.float32).max)


def small(t, o, lo=-2, hi=3):
    """Integers whose sums and products are exact in fp32."""
    t.fill(o, t.rng.integers(0 if o.name in INTS else lo, hi, (o.n, o.offsets().size)))
    return f32(t.m.read(o))


def scalar(t, n, value=1.5):
    """A [P, 1] operand or None, and its values."""
    s = t.operand("fp32", n, 1) if t.flag("scalar tile") else None
    return s, f32(t.fill(s, t.rng.integers(-2, 3, (n, 1)))) if s is not None else np.full((n, 1), value, np.float32)


def load(t, n, partition):
    """Registers of these partitions, now with known numbers; the numbers."""
    s = t.column("fp32", n, partition)
    known = f32(t.fill(s, t.rng.integers(-3, 4, (n, 1))))
    t.m.run("vector_load_accumulator", None, s, engine="V", n_threads=t.threads)
    return known


def check_registers(t, d, want):
    out = t.column("fp32", d.n, d.partition)
    t.m.run("vector_read_accumulator", out, engine="V", n_threads=t.threads)
    same(t.m.read(out) + np.float32(0), f32(want) + np.float32(0))  # of zeros the sign is not compared


def reduced(op, rows, start):
    """Along each row, from start on."""
    f, _ = REDUCTIONS[op]
    with np.errstate(all="ignore"):
        return f(start, f.reduce(rows.astype(np.float64), axis=1, keepdims=True))


@case("tensor_scalar_reduce", ALL, ALL)
def tensor_scalar_reduce(t):
    n, size, (k0, k1) = t.integer(1, 33), t.size(1, 5, 16, 360), t.types("dst", "x")
    d, x = t.operand(k0, n, size, False), t.operand(k1, n, size)
    a, (s, b) = small(t, x, -1, 2), scalar(t, n, 1.0)
    op0, op1 = t.pick("op0", ("add", "multiply", "max", "is_ge")), t.pick("op1", tuple(REDUCTIONS))
    if op1 == "multiply":
        op0 = "is_ge"  # products of many larger numbers overflow
    is_adding, reverse = t.flag("adds"), t.flag("reverse0")
    start = load(t, n, d.partition) if is_adding else REDUCTIONS[op1][1]
    row = f32(FP32_OPS[op0](b, a) if reverse else FP32_OPS[op0](a, b))
    t.run(d, x, s, op0=op0, op1=op1, imm=(1.0, 0.0), flags=is_adding * h.ACCUMULATE + reverse * h.REVERSE0)
    same(t.m.read(d), to_dtype(row, k0))
    check_registers(t, d, reduced(op1, row, start))


@case("tensor_scalar_cumulative", ALL, ALL)
def tensor_scalar_cumulative(t):
    n, size, (k0, k1) = t.integer(1, 33), t.size(1, 5, 16, 130), t.types("dst", "x")
    d, x = t.operand(k0, n, size, False), t.operand(k1, n, size)
    a, (s, b) = small(t, x, -1, 2), scalar(t, n, 1.0)
    op1 = t.pick("op1", (*REDUCTIONS, "subtract"))
    op0 = "is_ge" if op1 == "multiply" else t.pick("op0", ("add", "max"))
    is_adding = t.flag("adds")
    reg = load(t, n, d.partition) if is_adding else np.full((n, 1), REDUCTIONS.get(op1, (None, 0.0))[1], np.float32)
    row, want = f32(FP32_OPS[op0](a, b)), np.empty((n, size), np.float32)
    for i in range(size):
        reg = f32(FP32_OPS[op1](row[:, i:i + 1], reg))
        want[:, i:i + 1] = reg
    t.run(d, x, s, op0=op0, op1=op1, imm=(1.0, 0.0), flags=is_adding * h.ACCUMULATE)
    same(t.m.read(d), to_dtype(want, k0))
    check_registers(t, d, reg)


@case("range_select", ALL, ["fp32", "bf16", "fp16"])
def range_select(t):
    n, size, k0 = t.integer(1, 33), t.size(1, 5, 16, 360), t.pick("dst", ALL)
    k1 = t.pick("x", ("fp32", "bf16", "fp16"))
    d, x = t.operand(k0, n, size, False), t.operand(k1, n, size)
    lo, hi = t.operand("fp32", n, 1), t.operand("fp32", n, 1)
    a = f32(t.fill(x, t.rng.standard_normal((n, size))))
    low, high = f32(t.fill(lo, t.rng.integers(0, size, (n, 1)))), f32(t.fill(hi, t.rng.integers(0, size + 9, (n, 1))))
    op0, op1 = t.pick("op0", COMPARISONS), t.pick("op1", COMPARISONS)
    first, is_adding = t.integer(-3, 9), t.flag("adds")
    start = load(t, n, d.partition) if is_adding else np.float32(-np.inf)
    index = first + np.arange(size, dtype=np.float32)[None]
    row = np.where(f32(FP32_OPS[op0](index, low)).astype(bool) & f32(FP32_OPS[op1](index, high)).astype(bool), a, LEAST)
    t.run(d, x, lo, hi, op0=op0, op1=op1, arg=(first, 0), flags=is_adding * h.ACCUMULATE)
    same(t.m.read(d), to_dtype(row, k0))
    check_registers(t, d, np.maximum(row.max(1, keepdims=True), start))


@case("select_reduce", ALL, ALL, INTS)
def select_reduce(t):
    n, size, (k0, k1) = t.integer(1, 33), t.size(1, 5, 16, 360), t.types("dst", "x")
    d, x, p = t.operand(k0, n, size, False), t.operand(k1, n, size), t.operand(t.pick("predicate", INTS), n, size)
    a, holds = small(t, x, -9, 9), t.fill(p, t.rng.integers(0, 2, (n, size))) != 0
    s, b = scalar(t, n, -0.5)
    reverse, is_adding = t.flag("reverse0"), t.flag("adds")
    start = load(t, n, d.partition) if is_adding else np.float32(-np.inf)
    row = f32(np.where(holds != reverse, a, b))
    t.run(d, x, p, s, imm=(-0.5, 0.0), flags=reverse * h.REVERSE0 + is_adding * h.ACCUMULATE)
    same(t.m.read(d), to_dtype(row, k0))
    check_registers(t, d, np.maximum(row.max(1, keepdims=True), start))


@case("exponential", ["fp32"], ALL)
def exponential(t):
    n, size, k1 = t.integer(1, 33), t.size(1, 5, 16, 360), t.pick("x", ALL)
    d, x = t.operand("fp32", n, size, False), t.operand(k1, n, size)
    a, (s, b) = small(t, x, -4, 5), scalar(t, n, 1.5)
    is_adding = t.flag("adds")
    start = load(t, n, d.partition) if is_adding else 0.0
    t.run(d, x, s, imm=(1.5, 0.0), flags=is_adding * h.ACCUMULATE)
    got, want = t.m.read(d), np.exp(a.astype(np.float64) - b)
    assert np.allclose(got, want, rtol=1e-6)
    out = t.column("fp32", n, d.partition)
    t.m.run("vector_read_accumulator", out, engine="V", n_threads=t.threads)
    assert np.allclose(t.m.read(out), start + got.astype(np.float64).sum(1, keepdims=True), rtol=1e-5, atol=1e-5)


@case("vector_read_accumulator", ALL)
def vector_read_accumulator(t):
    n, kind, negated = t.integer(1, 33), t.pick("dst", ALL), t.flag("negate")
    d = t.column(kind, n)
    known = load(t, n, d.partition)
    for _ in range(2):  # reading leaves them
        t.run(d, flags=negated * h.NEGATE)
        same(t.m.read(d), to_dtype(-known if negated else known, kind))


@case("vector_load_accumulator", None, ALL)
def vector_load_accumulator(t):
    n, kind = t.integer(1, 33), t.pick("src", ALL)
    s = t.column(kind, n)
    a = small(t, s)
    t.run(None, s)
    check_registers(t, s, a)


@case("nc_n_gather", ALL, ALL, ["uint32"])
def nc_n_gather(t):
    n, size, n_out, kind = t.integer(1, 33), t.size(1, 5, 360), t.integer(1, 60), t.pick("type", ALL)
    d, x, i = t.operand(kind, n, n_out, False), t.operand(kind, n, size), t.operand("uint32", n, n_out)
    a, index = t.fill(x), t.fill(i, t.rng.integers(0, size, (n, n_out)))
    t.run(d, x, i)
    assert t.m.read(d).tobytes() == np.take_along_axis(a, index.astype(np.int64), 1).tobytes()


@case("local_gather", ALL, ALL, ["uint16"])
def local_gather(t):
    n, size, kind = 16 * t.integer(1, 9), t.size(1, 5, 360), t.pick("type", ALL)
    per_row, run = t.integer(1, 5), t.pick("run", (1, 2, 4, 8))
    run = min(run, size)
    run = 1 << (run.bit_length() - 1)
    n_valid = t.integer(1, 16 * per_row + 1)
    d = t.operand(kind, n, n_valid * run, False, partition=0)
    x, i = t.operand(kind, n, size, partition=0), t.operand("uint16", n, per_row, partition=0)
    a, index = t.fill(x), t.fill(i, t.rng.integers(0, size - run + 1, (n, per_row)))
    t.run(d, x, i, arg=(run, n_valid))
    want = []
    for r in range(n):
        flat = index[r // 16 * 16:r // 16 * 16 + 16].T.reshape(-1)[:n_valid].astype(np.int64)
        want.append(a[r][(flat[:, None] + np.arange(run)).reshape(-1)])
    assert t.m.read(d).tobytes() == np.stack(want).tobytes()


@case("nonzero_with_count", ["int32"], ["fp32", "int32"])
def nonzero_with_count(t):
    n, size, kind = t.integer(1, 129), t.size(1, 5, 360), t.pick("src", ("fp32", "int32"))
    d, x = t.operand("int32", n, size + 1, False), t.operand(kind, n, size)
    a = t.fill(x, t.rng.integers(-1, 2, (n, size)))
    want = t.fill(d)
    offset, pad = t.integer(-99, 99), t.integer(-9, 9)
    for r in range(0, n, 16):
        found = np.flatnonzero(a[r]) + offset
        want[r] = [*found, *[pad] * (size - found.size), found.size]
    t.run(d, x, arg=(offset, pad))
    assert np.array_equal(t.m.read(d), want)
