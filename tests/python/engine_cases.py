"""One case a row of the instruction table: a random use of the instruction, and NumPy's answer."""

import os
import subprocess
import zlib

import numpy as np
import pytest

from common import SEED
import engine_harness as h
from engine_harness import DTYPES, HBM, PSUM, SBUF, Operand, dense, random_dims
from test_engine_vector import FP32_OPS, INTS, INT_OPS, f32, same, values
from test_engine_vector import to_dtype as to_common_dtype

VTRN = os.path.join(h.BUILD, "src/cli/vtrn")
FLOATS = ["fp32", "bf16", "fp16", "tf32", "fp8e4m3", "fp8e4m3fn", "fp8e5m2", "fp8e3m4"]
ALL = FLOATS + INTS
INTS_OF_32_BITS = ["int32", "uint32"]
LETTERS = {"Tensor": "T", "Vector": "V", "Scalar": "S", "GpSimd": "G", "Sync": "Y",
           "CC": "C"}
np.seterr(all="ignore")


def round_tf32(x):
    """Ten bits of mantissa, to nearest, ties to even."""
    x = f32(x)
    bits = x.view(np.uint32).astype(np.uint64)
    cut = ((bits + 0xFFF + (bits >> 13 & 1)) & ~np.uint64(0x1FFF)).astype(np.uint32)
    return np.where(np.isfinite(x), cut.view(np.float32), x)


def to_dtype(x, name):
    return round_tf32(x) if name == "tf32" else to_common_dtype(x, name)


class Trial:
    """One random use of an instruction. Its choices come from the plan that all trials of a test
    share."""

    def __init__(self, name, engine, i, machine, draws):
        self.name, self.engine, self.i, self.m, self.draws = name, engine, i, machine, draws
        self.rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), i])
        self.base = {SBUF: 0, PSUM: 0}
        self.n_operands = 0
        self.threads = self.pick("threads", (1, 2, 3)) if draws else 1

    def pick(self, name, pool, but=()):
        return self.draws.pick(name, pool, but)

    def types(self, *names):
        return [self.pick(name, ALL) for name in names]

    def two_types(self):
        """Every third time one type, where bits move."""
        a = self.pick("dst", ALL)
        return a, a if self.pick("bits move", (True, False, False)) else self.pick("src", ALL)

    def size(self, *pool):
        return self.pick("size", pool)

    def flag(self, name):
        return self.pick(name, (False, True))

    def integer(self, lo, hi):
        return int(self.rng.integers(lo, hi))

    def dims(self, size, is_source):
        self.n_operands += 1
        n_dims = self.pick(f"dims of operand {self.n_operands}", (1, 2, 3, 4))
        return random_dims(self.rng, size, is_source, n_dims)

    def operand(self, dtype, n, size, is_source=True, space=SBUF, partition=None, n_max=128):
        """Somewhere of its own in the memory, any pattern, any first partition."""
        dims, first = self.dims(size, is_source) if size > 1 else random_dims(
            self.rng, size, is_source)
        itemsize = np.dtype(h.PACKED.get(dtype) or DTYPES[dtype]).itemsize
        span = first + sum(max(0, step * (num - 1)) for step, num in dims) + 1
        at = -(-self.base[space] // itemsize) * itemsize
        self.base[space] = at + span * itemsize
        limit = h.STRIDE[space] - 64
        assert self.base[space] <= limit, "a case asks for more than the memory has"
        if partition is None:
            partition = self.integer(0, n_max - n + 1)
        return Operand(dtype, n, dims, at + first * itemsize, partition, space)

    def column(self, dtype, n, partition=None):
        return self.operand(dtype, n, 1, partition=partition)

    def fill(self, o, v=None):
        """Writes random values and gives back what the memory then holds."""
        v = values(self.rng, o.name, (o.n, o.offsets().size)) if v is None else v
        self.m.write(o, round_tf32(v) if o.name == "tf32" else v)
        return self.m.read(o)

    def run(self, *operands, **kw):
        self.m.run(self.name, *operands, engine=self.engine, n_threads=self.threads, **kw)

    def shape(self):
        return self.integer(1, 33), self.size(1, 5, 24, 96, 360)


CASES = {}
POOLS = {}  # of each operand, for the check that all were used
N_TRIALS = {}


def case(name, *pools, n_trials=3 * len(ALL)):
    def register(f):
        CASES[name], POOLS[name], N_TRIALS[name] = f, pools, n_trials
        return f
    return register


# --- Tensor --------------------------------------------------------------------------------------


def tile(t, o, is_exact):
    """Small integers, whose sums are exact in fp32, or reals."""
    shape = (o.n, o.offsets().size)
    v = t.rng.integers(-8, 9, shape) if is_exact else t.rng.standard_normal(shape)
    t.m.write(o, v.astype(np.float32).astype(o.dtype))
    x = f32(t.m.read(o))
    return (round_tf32(x) if o.name == "tf32" else x).astype(np.float64)


def product(t, weights_type, moving_type):
    k, m, n = t.integer(1, 129), t.integer(1, 129), t.size(1, 16, 48, 130, 360)
    weights = t.operand(weights_type, k, m, space=SBUF)
    moving = t.operand(moving_type, k, n)
    out_type = t.pick("dst", ("bf16", "fp32", "fp32", "fp32"))
    out = t.operand(out_type, m, n, False, space=PSUM)
    is_exact, is_adding = t.flag("exact"), t.flag("adding")
    w, x = tile(t, weights, is_exact), tile(t, moving, is_exact)
    old = f32(t.fill(out, t.rng.integers(-50, 50, (m, n)).astype(np.float32)))
    t.m.run("ldweights", None, weights, engine="T", n_threads=t.threads)
    t.m.run("matmul", out, moving, engine="T", n_threads=t.threads,
            flags=h.ACCUMULATE if is_adding else 0)
    want = w.T @ x + (old if is_adding else 0)
    if is_exact:
        same(t.m.read(out), to_dtype(want, out_type))
        return
    bound = (k + 2) * 2.0**-24 * (np.abs(w).T @ np.abs(x) + np.abs(old))
    bound += np.abs(want) * 2.0**-8 if out_type == "bf16" else 0
    assert (np.abs(f32(t.m.read(out)) - want) <= bound).all()


@case("ldweights", None, FLOATS)
def ldweights(t):
    product(t, t.pick("weights", FLOATS), t.pick("moving", FLOATS))


@case("matmul", ["fp32", "bf16"], FLOATS)
def matmul(t):
    product(t, t.pick("weights", FLOATS), t.pick("moving", FLOATS))


@case("pe_transpose", ALL, ALL)
def pe_transpose(t):
    p, f = t.integer(1, 129), t.integer(1, 129)
    kind = t.pick("type", ALL)
    x = t.operand(kind, p, f)
    a = t.fill(x)
    same_type = t.operand(kind, f, p, False, space=PSUM)
    t.run(same_type, x)
    assert t.m.read(same_type).tobytes() == np.ascontiguousarray(a.T).tobytes()
    if kind in FLOATS:
        wide = t.operand("fp32", f, p, False, space=PSUM)
        t.run(wide, x)
        same(t.m.read(wide), f32(a).T)


# --- Vector and GpSimd ---------------------------------------------------------------------------


def types_in_fp32(t, third):
    """[dst, x, third] that the engine computes in fp32: GpSimd is exact on two integers of 32 bits."""
    k0, k1 = t.types("dst", "x")
    is_wide = t.engine == "G" and k1 in INTS_OF_32_BITS
    return [k0, k1, t.pick(third, ALL, INTS_OF_32_BITS if is_wide else ())]


@case("tensor_tensor", ALL, ALL, ALL)
def tensor_tensor(t):
    n, size = t.shape()
    is_exact = t.engine == "G" and t.pick("exact", (True, False, False))
    kinds = [t.pick("exact type", INTS_OF_32_BITS)] * 3 if is_exact else types_in_fp32(t, "y")
    d, x, y = (t.operand(k, n, size, i > 0) for i, k in enumerate(kinds))
    a, b = t.fill(x), t.fill(y)
    op = t.pick("exact op", INT_OPS) if is_exact else t.pick("op", FP32_OPS)
    t.run(d, x, y, op0=op)
    same(t.m.read(d), INT_OPS[op](a, b).astype(kinds[0]) if is_exact else
         to_dtype(FP32_OPS[op](f32(a), f32(b)), kinds[0]))


@case("tensor_scalar", ALL, ALL, ALL)
def tensor_scalar(t):
    n, size = t.shape()
    kinds = types_in_fp32(t, "s")  # exact integers: test_gpsimd_is_exact_on_32_bit_integers
    d, x, s = t.operand(kinds[0], n, size, False), t.operand(kinds[1], n, size), \
        t.column(kinds[2], n)
    a, b, c = f32(t.fill(x)), f32(t.fill(s)), np.float32(-2.5)
    op0, op1 = t.pick("op0", FP32_OPS), t.pick("op1", [*FP32_OPS, "none"])
    r0, r1 = t.flag("reverse0"), t.flag("reverse1")
    want = f32(FP32_OPS[op0](b, a) if r0 else FP32_OPS[op0](a, b))
    if op1 != "none":
        want = FP32_OPS[op1](c, want) if r1 else FP32_OPS[op1](want, c)
    t.run(d, x, s, None, op0=op0, op1=op1, imm=(9.0, float(c)),
          flags=r0 * h.REVERSE0 + r1 * h.REVERSE1)
    same(t.m.read(d), to_dtype(want, kinds[0]))


@case("scalar_tensor_tensor", ALL, ALL, ALL, ALL)
def scalar_tensor_tensor(t):
    n, size = t.shape()
    kinds = t.types("dst", "x", "s", "y")
    d, x, y = (t.operand(kinds[i], n, size, i > 0) for i in (0, 1, 3))
    s = t.column(kinds[2], n)
    a, b, c = f32(t.fill(x)), f32(t.fill(s)), f32(t.fill(y))
    op0, op1 = t.pick("op0", FP32_OPS), t.pick("op1", FP32_OPS)
    r0, r1 = t.flag("reverse0"), t.flag("reverse1")
    want = f32(FP32_OPS[op0](b, a) if r0 else FP32_OPS[op0](a, b))
    want = FP32_OPS[op1](c, want) if r1 else FP32_OPS[op1](want, c)
    t.run(d, x, s, y, op0=op0, op1=op1, flags=r0 * h.REVERSE0 + r1 * h.REVERSE1)
    same(t.m.read(d), to_dtype(want, kinds[0]))


@case("tensor_reduce", ALL, ALL)
def tensor_reduce(t):
    """Values whose sums and products are exact in any order."""
    n, rows, size = t.integer(1, 33), t.integer(1, 9), t.size(1, 4, 30, 300)
    k0, k1 = t.types("dst", "x")
    x = t.operand(k1, n, 1)
    step = t.integer(1, 4)
    x.dims = [(step * size, rows), (step, size)]
    t.base[SBUF] += step * size * rows * 4
    d = t.operand(k0, n, rows, False)
    op = t.pick("op", ("add", "subtract", "multiply", "max", "min", "logical_and", "logical_or",
                       "logical_xor"))
    pool = [1, 1, 1, 2] if op == "multiply" else [0, 1, 2, 3]
    v = t.rng.choice(pool, (n, rows, size)) if size < 60 or op != "multiply" else \
        np.ones((n, rows, size))
    a = f32(t.fill(x, v.reshape(n, -1))).reshape(n, rows, size).astype(np.float64)
    if op == "subtract":
        want = a[..., 0] - a[..., 1:].sum(-1)
    elif op.startswith("logical"):
        want = {"and": np.all, "or": np.any, "xor": lambda b, axis: (b != 0).sum(axis) % 2}[
            op[8:]](a, axis=-1)
    else:
        want = {"add": np.sum, "multiply": np.prod, "max": np.max, "min": np.min}[op](a, axis=-1)
    negate = t.flag("negate")
    if negate:
        want = -f32(want)
    t.run(d, x, op0=op, arg=(1, 0), flags=h.NEGATE * negate)
    got, want = f32(t.m.read(d)), f32(to_dtype(want, k0))
    assert np.array_equal(got, want, equal_nan=True), (op, k0, k1, got[:2], want[:2])


@case("tensor_copy", ALL, ALL)
def tensor_copy(t):
    n, size = t.shape()
    k0, k1 = t.two_types()
    d, x = t.operand(k0, n, size, False), t.operand(k1, n, size)
    a = t.fill(x)
    t.run(d, x)
    if k0 == k1:
        assert t.m.read(d).tobytes() == a.tobytes()
    else:
        same(t.m.read(d), to_dtype(a, k0))


@case("tensor_copy_predicated", ALL, ALL, ["int8", "int16", "int32", "uint8", "uint16", "uint32"])
def tensor_copy_predicated(t):
    n, size = t.shape()
    kind, mask_kind = t.pick("type", ALL), t.pick("mask", INTS)
    d, x = t.operand(kind, n, size, False), t.operand(kind, n, size)
    mask = t.operand(mask_kind, n, size)
    a, old = t.fill(x), t.fill(d)
    k = t.fill(mask, t.rng.integers(0, 2, (n, size)) * t.rng.integers(1, 120, (n, size)))
    reverse = t.flag("reverse")
    t.run(d, x, mask, flags=h.REVERSE0 * reverse)
    assert t.m.read(d).tobytes() == np.where((k == 0) == reverse, a, old).tobytes()


@case("memset", ALL)
def memset(t):
    n, size = t.shape()
    kind = t.pick("type", ALL)
    value = np.float32(t.pick("value", (0.0, -0.0, 1.5, -2.5, 300.7, 1e9, np.inf)))
    d = t.operand(kind, n, size, False)
    t.run(d, imm=(float(value), 0.0))
    want = value.view(kind) if kind in ("int32", "uint32") else to_dtype(value, kind)
    same(t.m.read(d), np.broadcast_to(want, (n, size)))


@case("reciprocal", ALL, ALL)
def reciprocal(t):
    n, size = t.shape()
    k0, k1 = t.types("dst", "x")
    d, x = t.operand(k0, n, size, False), t.operand(k1, n, size)
    a = f32(t.fill(x))
    t.run(d, x)
    same(t.m.read(d), to_dtype(np.float32(1) / a, k0))


@case("tensor_tensor_scan", ALL, ALL, ALL)
def tensor_tensor_scan(t):
    n, size = t.shape()
    kinds = t.types("dst", "x", "y")
    d, x, y = (t.operand(k, n, size, i > 0) for i, k in enumerate(kinds))
    a, b = f32(t.fill(x)), f32(t.fill(y))
    op0, op1 = t.pick("op0", FP32_OPS), t.pick("op1", FP32_OPS)
    if t.pick("multiplies and adds", (True, False, False)):
        op0, op1 = "multiply", "add"
    r0, r1 = t.flag("reverse0"), t.flag("reverse1")
    initial = t.operand("fp32", n, 1) if t.flag("initial tile") else None
    last = f32(t.fill(initial))[:, 0] if initial is not None else np.full(n, 0.75, np.float32)
    want = np.empty((n, size), np.float32)
    for i in range(size):
        r = f32(FP32_OPS[op0](last, a[:, i]) if r0 else FP32_OPS[op0](a[:, i], last))
        last = f32(FP32_OPS[op1](b[:, i], r) if r1 else FP32_OPS[op1](r, b[:, i]))
        want[:, i] = last
    t.run(d, x, y, initial, op0=op0, op1=op1, imm=(0.75, 0.0), flags=r0 * h.REVERSE0 + r1 * h.REVERSE1)
    same(t.m.read(d), to_dtype(want, kinds[0]))


@case("transpose32", ALL, ALL)
def transpose32(t):
    p, f, kind = t.integer(1, 33), t.integer(1, 33), t.pick("type", ALL)
    x, d = t.operand(kind, p, f), t.operand(kind, f, p, False)
    a = t.fill(x)
    t.run(d, x)
    assert t.m.read(d).tobytes() == np.ascontiguousarray(a.T).tobytes()


@case("stream_shuffle", ALL, ALL)
def stream_shuffle(t):
    n, size, kind = 32 * t.integer(1, 5), t.size(1, 7, 100, 360), t.pick("type", ALL)
    d, x = t.operand(kind, n, size, False, partition=0), t.operand(kind, n, size, partition=0)
    mask = np.where(t.rng.random(32) < 0.2, 255, t.rng.integers(0, 32, 32))
    a, want = t.fill(x), t.fill(d)
    for r in range(n):
        if mask[r % 32] != 255:
            want[r] = a[r // 32 * 32 + mask[r % 32]]
    t.run(d, x, shuffle=[int(v) for v in mask])
    assert t.m.read(d).tobytes() == want.tobytes()


@case("bn_stats", ["fp32"], ALL)
def bn_stats(t):
    n, size, kind = t.integer(1, 33), t.size(1, 2, 9, 360), t.pick("x", ALL)
    d, x = t.operand("fp32", n, 6, False), t.operand(kind, n, size)
    a = f32(t.fill(x, t.rng.integers(0, 9, (n, size)))).astype(np.float64)
    t.run(d, x)
    got = t.m.read(d)
    for k, part in enumerate((a[:, ::2], a[:, 1::2])):
        count = part.shape[1]
        assert (got[:, 3 * k] == count).all()
        mean = part.mean(1) if count else np.zeros(n)
        var = part.var(1) * count if count else np.zeros(n)
        np.testing.assert_allclose(got[:, 3 * k + 1], mean, rtol=1e-6)
        np.testing.assert_allclose(got[:, 3 * k + 2], var, rtol=1e-6, atol=1e-9)


@case("bn_aggr", ["fp32"], ["fp32", "bf16", "fp16", "tf32"])
def bn_aggr(t):
    n, groups, kind = t.integer(1, 33), t.integer(1, 100), t.pick("x", POOLS["bn_aggr"][1])
    d, x = t.operand("fp32", n, 2, False), t.operand(kind, n, 3 * groups)
    v = t.rng.random((n, groups, 3)) * 4
    v[..., 0] = t.rng.integers(1, 9, (n, groups))
    count, mean, m2 = np.moveaxis(f32(t.fill(x, v.reshape(n, -1))).reshape(n, groups, 3).astype(
        np.float64), 2, 0)
    total = count.sum(1)
    want_mean = (count * mean).sum(1) / total
    want_var = (m2 + count * (mean - want_mean[:, None])**2).sum(1) / total
    t.run(d, x)
    np.testing.assert_allclose(t.m.read(d), np.stack([want_mean, want_var], 1), rtol=1e-6)


def search_data(t, kind, n, size):
    """Few values, so that there are ties."""
    return t.rng.integers(0, 6, (n, size)) if t.flag("small") else \
        values(t.rng, "int8", (n, size)) // 8


@case("max8", ALL, ALL)
def max8(t):
    n, size, (k0, k1) = t.integer(1, 33), t.size(8, 9, 300), t.types("dst", "x")
    d, x = t.operand(k0, n, 8, False), t.operand(k1, n, size)
    a = f32(t.fill(x, search_data(t, k1, n, size)))
    t.run(d, x)
    same(t.m.read(d), to_dtype(np.sort(a, axis=1)[:, ::-1][:, :8], k0))


def matches(data, wanted):
    """First index of each value that no equal value before it took; -1 where there is none."""
    out = np.full(wanted.shape, -1)
    for r in range(len(data)):
        taken = set()
        for j, v in enumerate(wanted[r]):
            hits = [i for i in np.flatnonzero(data[r] == v) if i not in taken]
            if hits:
                out[r, j] = hits[0]
                taken.add(hits[0])
    return out


@case("find_index8", ["uint16", "uint32"], ALL, ALL)
def find_index8(t):
    n, size, (k1, k2) = t.integer(1, 33), t.size(8, 9, 300), t.types("x", "y")
    k0 = t.pick("dst", ("uint16", "uint32"))
    d, x, y = t.operand(k0, n, 8, False), t.operand(k1, n, size), t.operand(k2, n, 8)
    a, b = f32(t.fill(x, search_data(t, k1, n, size))), f32(t.fill(y, t.rng.integers(0, 8, (n, 8))))
    want, reverse = matches(a, b), t.flag("reverse0")
    if reverse:
        for r in range(n):
            for v in set(b[r]):
                equal = np.flatnonzero(b[r] == v)
                want[r, equal] = want[r, equal[::-1]]
    t.run(d, x, y, flags=reverse * h.REVERSE0)
    assert np.array_equal(t.m.read(d), want.astype(np.int64).astype(k0))


@case("match_replace8", ALL, ALL, ALL)
def match_replace8(t):
    n, size = t.integer(1, 33), t.size(8, 9, 300)
    k0, k1, k2 = t.types("dst", "x", "y")
    d, x, y = t.operand(k0, n, size, False), t.operand(k1, n, size), t.operand(k2, n, 8)
    a, b = f32(t.fill(x, search_data(t, k1, n, size))), f32(t.fill(y, t.rng.integers(0, 8, (n, 8))))
    want = a.copy()
    for r, found in enumerate(matches(a, b)):
        want[r, found[found >= 0]] = 17.0
    t.run(d, x, y, imm=(17.0, 0.0))
    same(t.m.read(d), to_dtype(want, k0))


def xorshift(state, n):
    """n outputs of each of the generators; advances state, uint64."""
    out = []
    for _ in range(n):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        out.append((state >> np.uint64(32)).astype(np.uint32))
    return np.stack(out, 1)


def splitmix(x):
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def seed(t, value):
    """Seeds Vector; the states of the partitions that follow from it."""
    s = t.column("uint32", 1)
    t.fill(s, [[value]])
    t.m.run("set_rng_seed", None, s, engine="V", n_threads=t.threads)
    return splitmix(np.uint64(value << 32) | np.arange(128, dtype=np.uint64))


def xorwow(words, n):
    """n outputs of each row's generators, six words each, which take turns; advances them."""
    generators, out = words.reshape(len(words), -1, 6), []
    for i in range(n):
        s = generators[:, i % generators.shape[1]]
        x = s[:, 0] ^ s[:, 0] >> np.uint32(2)
        last = s[:, 4] ^ s[:, 4] << np.uint32(4) ^ x ^ x << np.uint32(1)
        s[:, :4] = s[:, 1:5].copy()
        s[:, 4] = last
        s[:, 5] += np.uint32(362437)
        out.append(last + s[:, 5])
    return np.stack(out, 1)


def first_words(engine, seed, rows):
    """The state that rows of XORWOW generators begin with."""
    number = {"V": 1, "G": 3}[engine]
    at = np.uint64(seed << 32 | number << 16) | (np.asarray(rows, np.uint64) << np.uint64(8))[:, None]
    return splitmix(at | np.arange(24 if engine == "V" else 6, dtype=np.uint64)).astype(np.uint32)


@case("rand_set_state", None, ["uint32"])
def rand_set_state(t):
    n, size = t.integer(1, 33), t.integer(1, 60)
    words = t.rng.integers(0, 1 << 32, (n, 24 if t.engine == "V" else 6)).astype(np.uint32)
    s = t.operand("uint32", n, words.shape[1])
    d = dense("uint32", n, size, 8192, partition=s.partition)
    words = np.array(t.fill(s, words), np.uint32)
    t.m.run("rand_set_state", None, s, engine=t.engine, n_threads=t.threads)
    t.m.run("rng", d, engine=t.engine, n_threads=t.threads, arg=(int(t.engine == "V"), 0))
    assert np.array_equal(t.m.read(d), xorwow(words, size))


@case("rand_get_state", ["uint32"])
def rand_get_state(t):
    n = t.integer(1, 33)
    d = t.operand("uint32", n, 24 if t.engine == "V" else 6, False)
    words = first_words(t.engine, 0, range(d.partition, d.partition + n))
    t.m.restart()
    bits = dense("uint32", n, 7, 8192, partition=d.partition)
    t.m.run("rng", bits, engine=t.engine, n_threads=t.threads, arg=(int(t.engine == "V"), 0))
    assert np.array_equal(t.m.read(bits), xorwow(words, 7))
    t.run(d)
    assert np.array_equal(t.m.read(d), words)


@case("set_rng_seed", None, ["uint32"])
def set_rng_seed(t):
    state = seed(t, t.integer(0, 1 << 32))
    d = dense("uint32", 128, 3, 4096)
    t.m.run("rng", d, engine="V", n_threads=t.threads)
    assert np.array_equal(t.m.read(d), xorshift(state, 3))


@case("rng", INTS)
def rng(t):
    n, size, kind = t.integer(1, 33), t.size(1, 24, 360), t.pick("dst", INTS)
    d = t.operand(kind, n, size, False)
    if t.engine == "V":
        state = seed(t, t.integer(0, 1 << 32))[d.partition:d.partition + n]
        want = xorshift(state, size)
    else:  # GpSimd has no seed: the state that the harness begins with
        t.m.restart()
        want = xorwow(first_words("G", 0, range(d.partition, d.partition + n)), size)
    t.run(d)
    assert np.array_equal(t.m.read(d), want.astype(kind))


@case("dropout", ALL, ALL, ["fp32"])
def dropout(t):
    n, size = t.integer(1, 33), t.size(1, 24, 360)
    (k0, k1), p = t.types("dst", "x"), np.float32(t.pick("share", (0.0, 0.25, 0.9, 1.0)))
    d, x, s = t.operand(k0, n, size, False), t.operand(k1, n, size), t.column("fp32", n)
    a = f32(t.fill(x))
    t.fill(s, np.full((n, 1), p))
    state = seed(t, t.integer(0, 1 << 32))[d.partition:d.partition + n]
    uniform = (xorshift(state, size) >> np.uint32(8)) * np.float32(2.0**-24)
    t.run(d, x, s)
    same(t.m.read(d), to_dtype(np.where(uniform < p, np.float32(0), a), k0))


# --- Scalar --------------------------------------------------------------------------------------


@case("activate", ALL, ALL, ["fp32"], FLOATS)
def activate(t):
    """The frame; the functions have test_engine_scalar.py."""
    n, size = t.shape()
    (k0, k1), k3 = t.types("dst", "x"), t.pick("bias", FLOATS)
    d, x = t.operand(k0, n, size, False), t.operand(k1, n, size)
    scale, bias = t.column("fp32", n), t.column(k3, n)
    a = f32(t.fill(x, t.rng.integers(-9, 9, (n, size)) if "u" not in k1 else None))
    s, b = f32(t.fill(scale, t.rng.integers(-4, 5, (n, 1)) / 4)), \
        f32(t.fill(bias, t.rng.integers(-4, 5, (n, 1)) / 4))
    func, f = t.pick("func", (
        ("copy", lambda v: v), ("relu", lambda v: np.maximum(v, 0)), ("abs", np.abs),
        ("square", np.square), ("prelu", lambda v: np.where(v > 0, v, v * np.float32(0.25)))))
    slope = int(np.float32(0.25).view(np.int32))
    t.run(d, x, scale, bias, func=func, arg=(slope, 0))
    v = f32(f32(a * s) + b)
    got = t.m.read(d)
    same(np.where(f32(got) == 0, got.dtype.type(0), got),  # the sign of a zero is not compared
         np.where(f32(to_dtype(f(v), k0)) == 0, got.dtype.type(0), to_dtype(f(v), k0)))


@case("act_read_accumulator", ALL)
def act_read_accumulator(t):
    n, size, kind = t.integer(1, 33), t.size(1, 24, 360), t.pick("dst", ALL)
    x, y = t.operand("fp32", n, size), t.operand("fp32", n, size, False)
    x.partition = y.partition
    total = t.column(kind, n, y.partition)
    a = t.fill(x, t.rng.integers(0, 3, (n, size)))
    for n_sums, flags in enumerate((h.RESET, h.ACCUMULATE | h.RESET, h.ACCUMULATE, h.ACCUMULATE, h.ACCUMULATE | h.RESET, h.RESET)):
        t.m.run("activate", y, x, engine="S", func="copy", flags=flags, imm=(1.0, 0.0), n_threads=t.threads)
        if t.flag(f"reads {n_sums}") or n_sums == 3:  # which leaves them
            t.run(total)
            same(t.m.read(total), to_dtype((0, 1, 2, 3, 1, 0)[n_sums] * a.sum(1, keepdims=True), kind))


@case("act_table_load", n_trials=7)
def act_table_load(t):
    """Costs time and changes nothing."""
    before = {s: m.copy() for s, m in t.m.memory.items()}
    t.run(arg=(t.pick("table", range(7)), 0))
    assert all(np.array_equal(before[s], t.m.memory[s]) for s in before)


# --- GpSimd --------------------------------------------------------------------------------------


def index_pattern(t, n):
    dims = [(t.integer(-9, 10), k) for k in t.rng.choice([1, 3, 7], 3).tolist()]
    p = Operand("int32", 1, dims)
    p.space = 0
    base, step = t.integer(-99, 99), t.integer(-9, 10)
    return p, (base, step), base + step * np.arange(n)[:, None] + p.offsets()[None] // 4


@case("iota", ALL)
def iota(t):
    n, kind = t.integer(1, 33), t.pick("dst", ALL)
    p, arg, want = index_pattern(t, n)
    d = t.operand(kind, n, want.shape[1], False)
    t.run(d, None, None, p, arg=arg)
    same(t.m.read(d), want.astype(np.int32) if kind == "int32" else
         want.astype(np.uint32) if kind == "uint32" else to_dtype(want, kind))


@case("affine_select", ALL, ALL)
def affine_select(t):
    n, (k0, k1) = t.integer(1, 33), t.types("dst", "x")
    p, arg, index = index_pattern(t, n)
    d, x = t.operand(k0, n, index.shape[1], False), t.operand(k1, n, index.shape[1])
    op = t.pick("op", ("is_equal", "not_equal", "is_ge", "is_gt", "is_le", "is_lt"))
    a = t.fill(x)
    t.run(d, x, None, p, arg=arg, op0=op, imm=(-7.5, 0.0))
    holds = FP32_OPS[op](index, 0)
    same(t.m.read(d), np.where(holds, to_dtype(a, k0), to_dtype(np.float32(-7.5), k0)))


@case("tensor_partition_reduce", ALL, ALL)
def tensor_partition_reduce(t):
    n, size, kind = t.integer(1, 129), t.size(1, 24, 360), t.pick("type", ALL)
    d, x = t.operand(kind, 1, size, False), t.operand(kind, n, size)
    if kind in INTS and t.flag("bits"):
        op = t.pick("bit op", ("bitwise_or", "bitwise_and"))
        a = t.fill(x)
        want = (np.bitwise_or if op == "bitwise_or" else np.bitwise_and).reduce(a, axis=0)
    else:
        op = t.pick("op", ("add", "max"))
        a = t.fill(x, t.rng.integers(0, 3, (n, size)))
        wide = f32(a).astype(np.float64)
        want = to_dtype(wide.sum(0) if op == "add" else wide.max(0), kind)
    t.run(d, x, op0=op)
    same(t.m.read(d)[0], want.astype(DTYPES[kind]))


def run_text(text, inputs, tmp, **environment):
    """Outputs of a program in assembly text, or of an artifact."""
    path = os.path.join(tmp, "program")
    with open(path, "wb") as f:
        f.write(text)
    args = [VTRN, "run", path, "-o", tmp]
    for i, array in enumerate(inputs):
        np.save(os.path.join(tmp, f"in{i}.npy"), array)
        args += ["--input", os.path.join(tmp, f"in{i}.npy")]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(os.path.join(tmp, "out0.npy"))


@case("custom_op")
def custom_op(t, tmp):
    """A Fourier transform has no lowering: the program holds custom ops, and transforms."""
    jax = pytest.importorskip("jax")
    exported = jax.export.export(jax.jit(lambda x: jax.numpy.abs(jax.numpy.fft.rfft(x))),
                                 platforms=["cpu"])(jax.ShapeDtypeStruct((33,), np.float32))
    path = os.path.join(tmp, "fft.mlirbc")
    with open(path, "wb") as f:
        f.write(exported.mlir_module_serialized)
    text = subprocess.run([VTRN, "disasm", path], capture_output=True, check=True).stdout
    assert b"custom_op" in text, "it runs on the engines now: take another operation"
    x = t.rng.standard_normal(33).astype(np.float32)
    got = run_text(exported.mlir_module_serialized, [x], tmp)
    np.testing.assert_allclose(got, np.abs(np.fft.rfft(x)), rtol=1e-5)


@case("collective")
def collective(t, tmp):
    """Two ranks; test_collectives.py has all kinds, types and groups."""
    import capi
    text = """program "sum" chip "trn1" gen 2
arguments 1
outputs _
ranks 1 by 2
slot 0 argument fp32 132 bytes number 0
slot 1 output fp32 132 bytes number 0
custom 0 "all_reduce" in 0 out 1 flops 0 blob
collective 0 all_reduce add groups 1 by 2: 1 0
exchange fp32 1 by 1 of 33 from 0 0 0 to 0 0 0
block 0
    CC collective, arg0 0
stop
"""
    x = t.rng.standard_normal((2, 33)).astype(np.float32)
    device = capi.Device("trn1")
    got = device.load(text.encode()).run_ranks([[row] for row in x])
    assert all(np.array_equal(y, x[1] + x[0]) for [y] in got)
    device.close()


# --- DMA -----------------------------------------------------------------------------------------


def dma_side(t, kind, n, size, is_source):
    """SBUF or HBM; in HBM rows lie anywhere."""
    if t.flag("source in SBUF" if is_source else "destination in SBUF"):
        return t.operand(kind, n, size, is_source)
    dims, first = t.dims(size, is_source)
    itemsize = np.dtype(DTYPES[kind]).itemsize
    pitch = first + sum(max(0, step * (num - 1)) for step, num in dims) + 1 + t.integer(0, 3)
    at = (h.HBM_BYTES // 2 if is_source else 0) + first * itemsize
    assert pitch * n * itemsize < h.HBM_BYTES // 2
    return Operand(kind, n, dims, at, 0, HBM, pitch)


@case("dma_copy", ALL, ALL)
def dma_copy(t):
    n, size = t.integer(1, 33), t.size(1, 24, 96)
    k0, k1 = t.two_types()
    d, x = dma_side(t, k0, n, size, False), dma_side(t, k1, n, size, True)
    a, old = t.fill(x), t.fill(d)
    is_adding = t.pick("adding", (True, False, False))
    t.run(d, x, flags=h.ACCUMULATE * is_adding)
    got = t.m.read(d)
    if not is_adding and k0 == k1:
        assert got.tobytes() == a.tobytes()
    elif is_adding and k0 == k1 and k0 in ("int32", "uint32"):
        assert np.array_equal(got, old + a)
    else:
        same(got, to_dtype(f32(old) + f32(a) if is_adding else f32(a), k0))


TWO_OR_FOUR = [k for k in ALL if np.dtype(DTYPES[k]).itemsize in (2, 4)]


@case("dma_transpose", TWO_OR_FOUR, TWO_OR_FOUR)
def dma_transpose(t):
    p, f, kind = t.integer(1, 65), t.integer(1, 65), t.pick("type", TWO_OR_FOUR)
    d, x = dma_side(t, kind, f, p, False), dma_side(t, kind, p, f, True)
    a = t.fill(x)
    t.run(d, x)
    assert t.m.read(d).tobytes() == np.ascontiguousarray(a.T).tobytes()


def indexed(t, table_kind, row_kind, is_gather):
    """(table in HBM, rows in SBUF, indices, flags, the row each entry means or -1)"""
    n, size, n_table = t.integer(1, 129), t.size(1, 9, 24), t.integer(1, 40)
    table = Operand(table_kind, n_table, [(1, size)], 4096, 0, HBM, size + t.integer(0, 5))
    rows = t.operand(row_kind, n, size, not is_gather)
    index = t.column(t.pick("index", ("int32", "uint32")), n)
    flags = t.pick("bounds", (h.OOB_SKIP, h.CLAMP_INDEX, 0))
    low, high = (0, n_table) if flags == 0 else (0 if index.name == "uint32" else -3, n_table + 3)
    i = t.fill(index, t.rng.integers(low, high, (n, 1)))[:, 0].astype(np.int64)
    meant = np.where((i >= 0) & (i < n_table), i,
                     -1 if flags == h.OOB_SKIP else np.clip(i, 0, n_table - 1))
    return table, rows, index, flags, meant


def shown(table, n):
    """The table as the instruction names it: rows that are indexed do not count as partitions."""
    o = Operand(table.name, n, table.dims, table.addr, 0, HBM, table.pitch)
    return o


@case("dma_gather", ALL, ALL, ["int32", "uint32"])
def dma_gather(t):
    k0, k1 = t.two_types()
    table, rows, index, flags, meant = indexed(t, k1, k0, True)
    a, want = t.fill(table), t.fill(rows)
    for r, i in enumerate(meant):
        if i >= 0:
            want[r] = a[i] if k0 == k1 else to_dtype(a[i], k0)
    t.run(rows, shown(table, rows.n), index, flags=flags, arg=(0, table.n))
    got = t.m.read(rows)
    same(got, want) if k0 != k1 else np.testing.assert_equal(got.tobytes(), want.tobytes())


@case("dma_scatter", ALL, ALL, ["int32", "uint32"])
def dma_scatter(t):
    k0, k1 = t.two_types()
    table, rows, index, flags, meant = indexed(t, k0, k1, False)
    a, want = t.fill(rows), t.fill(table)
    is_adding = t.flag("adding")
    is_int = k0 == k1 and k0 in ("int32", "uint32")
    for r, i in enumerate(meant):
        if i < 0:
            continue
        if not is_adding:
            want[i] = a[r] if k0 == k1 else to_dtype(a[r], k0)
        else:
            want[i] = want[i] + a[r] if is_int else to_dtype(f32(want[i]) + f32(a[r]), k0)
    t.run(shown(table, rows.n), rows, index, flags=flags | h.ACCUMULATE * is_adding,
          arg=(0, table.n))
    same(t.m.read(table), want)


SEMAPHORES = """program "meet" chip "trn1" gen 2
arguments 1
outputs _
scratch 0
slot 0 argument fp32 4096 bytes number 0
slot 1 output fp32 4096 bytes number 0
block 0
MOVER dma_copy sbuf[0:32, 0]:fp32(1:32), hbm[0, 0, 32*32]:fp32(1:32), ring 0, inc s0+16
ENGINE event_semaphore, wait s0>=16, inc s1
MOVER dma_copy hbm[1, 0, 32*32]:fp32(1:32), sbuf[0:32, 0]:fp32(1:32), ring 1, wait s1>=1
stop
"""


@case("event_semaphore")
def event_semaphore(t, tmp):
    """A store that waits for an engine that waits for the load sees what was loaded."""
    engine = {v: k for k, v in LETTERS.items()}[t.engine]
    mover = "GpSimd" if engine == "Sync" else "Sync"  # a queue is in order anyway: wait across two
    x = t.rng.standard_normal(1024).astype(np.float32)
    lines = SEMAPHORES.replace("ENGINE", engine).replace("MOVER", mover).splitlines(keepends=True)
    order = ["Tensor", "Vector", "Scalar", "GpSimd", "Sync", "CC"]
    body = sorted(lines[7:10], key=lambda line: order.index(line.split()[0]))
    got = run_text("".join(lines[:7] + body + lines[10:]).encode(), [x], tmp)
    assert np.array_equal(got.ravel(), x)
