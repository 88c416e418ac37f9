"""Runs one instruction of the engines on NumPy operands, through the engine test library."""

import collections
import ctypes

import numpy as np
import pytest
from common import SHORT_FLOATS
from paths import BUILD

PATH = BUILD / "tests/engine/harness/libvtrn_engine_test.so"
lib = ctypes.CDLL(str(PATH)) if PATH.exists() else None

DTYPES = {
    **SHORT_FLOATS,
    "fp32": np.float32,
    "tf32": np.float32,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
}
PACKED = {"fp8e4m3fn_x4": np.uint32, "fp8e5m2_x4": np.uint32, "fp4e2m1fn_x4": np.uint16}
NAMES = {np.dtype(t): name for name, t in DTYPES.items() if name != "tf32"}
SBUF, PSUM, HBM = 1, 2, 3
ENGINES = "TVSGYC"
ACCUMULATE, REVERSE0, REVERSE1, NEGATE, STOCHASTIC, OOB_SKIP, CLAMP_INDEX, LAST, DOUBLE_ROW, SPILL, RESET = (
    1 << i for i in range(11))

# Those that this host has and VTRN_ISA allows. The same cases run at each, so what is covered does
# not depend on the host.
LEVELS = [i for i in range(3) if lib.harness_set_level(i) == i] if lib else []


def level_name(level):
    lib.harness_level_name.restype = ctypes.c_char_p
    return lib.harness_level_name(level).decode()


def each_level(levels=LEVELS, **kw):
    """A fixture that runs a test at each of these levels."""
    @pytest.fixture(params=levels, ids=level_name, **kw)
    def level(request):
        assert lib.harness_set_level(request.param) == request.param
        yield request.param
        lib.harness_set_level(LEVELS[-1])
    return level


class Draws:
    """Random choices by plan. What is picked under a name goes through its whole pool, in random
    order, before anything in it comes again: what is covered follows from the number of picks, not
    from luck."""

    def __init__(self, rng):
        self.rng, self.order, self.never = rng, {}, {}

    def pick(self, name, pool, but=()):
        """The pool of a name has always the same length. `but` is left for a later pick."""
        pool = list(pool)
        order = self.order.setdefault(name, [])
        never = self.never.setdefault(name, set(range(len(pool))))
        if all(pool[i] in but for i in order):
            order += self.rng.permutation(len(pool)).tolist()
        i = next(i for i in order if pool[i] not in but)
        order.remove(i)
        never.discard(i)
        return pool[i]

    def unfinished(self):
        """Names of which a part of the pool was never picked."""
        return [name for name, never in self.never.items() if never]


def names(table):
    """ALU operations (0) or activation functions (1), as the C tables have them."""
    lib.harness_name.restype = ctypes.c_char_p
    out = []
    while (name := lib.harness_name(table, len(out))) is not None:
        out.append(name.decode())
    return out


STRIDE = {SBUF: 192 * 1024 + 64, PSUM: 16 * 1024 + 64}
HBM_BYTES = 1 << 20


class Dim(ctypes.Structure):
    _fields_ = [("step", ctypes.c_int32), ("num", ctypes.c_uint32)]


class Ap(ctypes.Structure):
    _fields_ = [
        ("space", ctypes.c_uint8), ("dtype", ctypes.c_uint8), ("n_dims", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8), ("partition", ctypes.c_uint16),
        ("n_partitions", ctypes.c_uint16), ("slot", ctypes.c_uint32),
        ("reserved2", ctypes.c_int32), ("addr", ctypes.c_int64),
        ("partition_step", ctypes.c_int64), ("dim", Dim * 4),
    ]


class Wait(ctypes.Structure):
    _fields_ = [("semaphore", ctypes.c_uint16), ("reserved", ctypes.c_uint16),
                ("value", ctypes.c_uint32)]


class Instr(ctypes.Structure):
    _fields_ = [
        ("opcode", ctypes.c_uint16), ("engine", ctypes.c_uint8), ("queue", ctypes.c_uint8),
        ("op0", ctypes.c_uint8), ("op1", ctypes.c_uint8), ("func", ctypes.c_uint8),
        ("n_waits", ctypes.c_uint8), ("flags", ctypes.c_uint32),
        ("update_semaphore", ctypes.c_uint16), ("update_value", ctypes.c_uint16),
        ("wait", Wait * 2), ("imm", ctypes.c_uint32 * 2), ("arg", ctypes.c_int32 * 2),
        ("source", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("ap", Ap * 4),
        ("shuffle", ctypes.c_uint8 * 32),
    ]


class Operand:
    """n rows of a memory, each of dims [(step, num), ...] in elements from byte addr. In SBUF and
    PSUM row r lies in partition `partition` + r, in HBM `pitch` elements after row r - 1."""

    def __init__(self, dtype, n, dims, addr=0, partition=0, space=SBUF, pitch=1):
        self.name, self.dtype = dtype, np.dtype(PACKED.get(dtype) or DTYPES[dtype])
        self.n, self.dims = n, list(dims)
        self.addr, self.partition, self.space, self.pitch = addr, partition, space, pitch

    def offsets(self):
        """Byte offset of each element of a row, in order."""
        index = np.zeros(1, np.int64)
        for step, num in self.dims:
            index = (index[:, None] + np.arange(num) * step).reshape(-1)
        return self.addr + index * self.dtype.itemsize

    def ap(self):
        a = Ap(self.space, lib.harness_dtype(self.name.encode()), len(self.dims), 0,
               self.partition, self.n, 0, 0, self.addr, self.pitch)
        for i, (step, num) in enumerate(self.dims):
            a.dim[i] = Dim(step, num)
        return a


class Machine:
    """One core's SBUF and PSUM as byte arrays."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.memory = {}
        for space, n in STRIDE.items():
            room = np.empty(128 * n + 64, np.uint8)
            start = -room.ctypes.data % 64  # cache lines begin as they do in a core
            self.memory[space] = room[start:start + 128 * n].reshape(128, n)
            self.memory[space][:] = rng.integers(0, 256, (128, n), dtype=np.uint8)
        self.memory[HBM] = rng.integers(0, 256, (1, HBM_BYTES), dtype=np.uint8)
        self.ran = collections.Counter()  # (instruction, engine, dtypes of its operands)
        self.core = None
        self.restart()

    def restart(self):
        """The registers as they are at the beginning; the memories stay."""
        if self.core:
            lib.harness_core_destroy(self.core)
        lib.harness_core.restype = ctypes.c_void_p
        self.core = ctypes.c_void_p(lib.harness_core(
            self._pointer(SBUF), ctypes.c_size_t(STRIDE[SBUF]),
            self._pointer(PSUM), ctypes.c_size_t(STRIDE[PSUM])))
        lib.harness_set_hbm(self.core, self._pointer(HBM))

    def __del__(self):
        if self.core:
            lib.harness_core_destroy(self.core)

    def _pointer(self, space):
        return self.memory[space].ctypes.data_as(ctypes.c_void_p)

    def _index(self, o):
        bytes_ = o.offsets()[:, None] + np.arange(o.dtype.itemsize)
        if o.space == HBM:
            starts = np.arange(o.n) * o.pitch * o.dtype.itemsize
            return np.zeros((o.n, 1, 1), np.int64), bytes_[None] + starts[:, None, None]
        rows = np.arange(o.partition, o.partition + o.n)
        return rows[:, None, None], bytes_[None]

    def write(self, o, values):
        v = np.ascontiguousarray(np.broadcast_to(np.asarray(values, o.dtype),
                                                 (o.n, o.offsets().size)))
        raw = v.view(np.uint8).reshape(o.n, -1, o.dtype.itemsize)
        self.memory[o.space][self._index(o)] = raw

    def read(self, o):
        raw = np.ascontiguousarray(self.memory[o.space][self._index(o)])
        return raw.reshape(o.n, -1).view(o.dtype)

    def run(self, name, *operands, engine="V", op0="none", op1="none", func="copy", flags=0,
            imm=(0.0, 0.0), arg=(0, 0), n_threads=1, n_times=1, shuffle=None):
        """Operands in ap order; None is absent. imm: floats, or ints for raw bits."""
        i = Instr(opcode=lib.harness_opcode(name.encode()), engine=ENGINES.index(engine),
                  op0=lib.harness_alu(op0.encode()), op1=lib.harness_alu(op1.encode()),
                  func=lib.harness_act(func.encode()), flags=flags, update_semaphore=0xFFFF)
        assert lib.harness_instr_bytes() == ctypes.sizeof(Instr)
        for k, v in enumerate(imm):
            i.imm[k] = v & 0xFFFFFFFF if isinstance(v, int) else \
                int(np.float32(v).view(np.uint32))
        i.arg[:] = arg
        if shuffle is not None:
            i.shuffle[:] = shuffle
        for k, o in enumerate(operands):
            if o is not None:
                i.ap[k] = o.ap()
        message = ctypes.create_string_buffer(1000)
        category = lib.harness_run(self.core, ctypes.byref(i), n_threads, n_times, message,
                                   ctypes.c_size_t(1000))
        if category:
            raise RuntimeError(message.value.decode())
        self.ran[name, engine, tuple(o.name if o else None for o in operands)] += 1


def dense(dtype, n, size, addr=0, **kw):
    return Operand(dtype, n, [(1, size)], addr, **kw)


def random_dims(rng, size, is_source, n_dims=None):
    """A pattern of `size` elements in 1 to 4 dims, with negative steps, and zero ones in sources.
    Returns dims and the first element that makes all offsets >= 0."""
    factors = [size]
    for _ in range(rng.integers(0, 4) if n_dims is None else n_dims - 1):
        f = factors.pop(rng.integers(0, len(factors)))
        divisors = [d for d in range(1, f + 1) if f % d == 0]
        d = int(rng.choice(divisors))
        factors += [d, f // d]
    rng.shuffle(factors)
    dims, span, first = [], 1, 0
    for num in factors[::-1]:
        step = span + int(rng.integers(0, 3) if rng.random() < 0.3 else 0)
        span = step * num if num > 1 else span
        if is_source and rng.random() < 0.2:
            step = 0
        if rng.random() < 0.2:
            step, first = -step, first + step * (num - 1)
        dims.append((step, int(num)))
    dims = dims[::-1]
    if rng.random() < 0.3:  # any order of the dims
        rng.shuffle(dims)
        dims = [tuple(map(int, d)) for d in dims]
    return dims, int(first)


def random_operand(rng, dtype, n, size, base, is_source=True, space=SBUF, partition=0):
    dims, first = random_dims(rng, size, is_source)
    return Operand(dtype, n, dims, base + first * np.dtype(DTYPES[dtype]).itemsize, partition,
                   space)
