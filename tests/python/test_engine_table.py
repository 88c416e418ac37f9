"""Every row of the instruction table on every engine that has it, over every data type it takes, with
random shapes, strides and partitions, against NumPy and ml_dtypes. A row without a case fails."""

import json
import subprocess
import zlib

import numpy as np
import pytest

import engine_harness as h
import engine_cases_mx  # noqa: F401 (adds its cases)
import engine_cases_registers  # noqa: F401 (adds its cases)
from engine_cases import CASES, FLOATS, LETTERS, N_TRIALS, POOLS, SEED, VTRN, Trial
from engine_harness import DTYPES, PSUM, Draws, Machine, dense
from test_engine_vector import BIT_OPS, FP32_OPS, f32

pytestmark = pytest.mark.skipif(h.lib is None, reason="the C tests are not built")


def table():
    done = subprocess.run([VTRN, "isa", "--json"], capture_output=True, check=True)
    return {row["name"]: [LETTERS[q] for q in row["queues"]]
            for row in json.loads(done.stdout)["instructions"]}


TABLE = table() if h.lib is not None else {}


PROGRAMS = ("collective", "custom_op", "event_semaphore")  # run as whole programs, through the command


def test_every_row_of_the_instruction_table_has_a_case():
    assert set(CASES) == set(TABLE), "write a case for it (see Trial), or take the case away"


def test_every_operation_and_function_of_the_tables_has_an_oracle():
    from test_engine_scalar import FUNCTIONS
    assert set(h.names(0)) == {"none", "power"} | set(FP32_OPS) | set(BIT_OPS)
    assert set(h.names(1)) == {"prelu"} | set(FUNCTIONS)  # prelu has a slope: case("activate")


@pytest.mark.parametrize("name,engine", [(n, e) for n, es in TABLE.items() for e in es])
def test_an_instruction_agrees_with_numpy_over_all_its_types(name, engine, tmp_path):
    if name in PROGRAMS:
        CASES[name](Trial(name, engine, 0, None, None), str(tmp_path))
        return
    m = Machine()
    for level in h.LEVELS:
        h.lib.harness_set_level(level)
        draws = Draws(np.random.default_rng([SEED, zlib.crc32(name.encode())]))
        m.ran.clear()
        for i in range(N_TRIALS[name]):
            print("seed", [SEED, zlib.crc32(name.encode()), i], "level", level)
            CASES[name](Trial(name, engine, i, m, draws))
        assert not draws.unfinished(), "give the case more trials"
        ran = [types for what, where, types in m.ran if (what, where) == (name, engine)]
        assert ran, "the case never ran its instruction"
        for k, pool in enumerate(POOLS[name]):
            used = {types[k] for types in ran if len(types) > k}
            assert used >= set(pool or []), f"operand {k} was never {set(pool) - used}"


def test_power_is_that_of_libm_on_gpsimd():
    rng_ = np.random.default_rng(SEED)
    m = Machine()
    d, x, y = (dense("fp32", 32, 300, k * 4096) for k in range(3))
    a, b = rng_.random((32, 300)) * 4, rng_.standard_normal((32, 300)) * 3
    special = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, -2.0, 2.0, -3.0, 0.5]
    a[0, :100], b[0, :100] = np.repeat(special, 10), np.tile(special, 10)
    m.write(x, a)
    m.write(y, b)
    a, b = m.read(x), m.read(y)
    want = np.power(a.astype(np.float64), b.astype(np.float64))
    m.run("tensor_tensor", d, x, y, op0="power", engine="G")
    got = m.read(d)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want.astype(np.float32), rtol=1e-6)
    m.run("tensor_scalar", d, x, None, None, op0="power", engine="G", imm=(2.0, 0.0))
    np.testing.assert_allclose(m.read(d), np.power(a.astype(np.float64), 2).astype(np.float32),
                               rtol=1e-6)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16", "fp8e4m3", "fp8e5m2", "fp8e3m4"])
def test_a_product_of_any_two_bit_patterns_is_rounded_once(kind):
    """NaN, infinities, zeros of both signs, subnormals and overflow; one term, so no order."""
    rng_ = np.random.default_rng([SEED, zlib.crc32(kind.encode())])
    size = np.dtype(DTYPES[kind]).itemsize
    m = Machine()
    for level in h.LEVELS:
        h.lib.harness_set_level(level)
        weights, moving = dense(kind, 1, 128), dense(kind, 1, 512, 4096)
        out = dense("fp32", 128, 512, 0, space=PSUM)
        w, x = (rng_.integers(0, 256, (1, n * size), dtype=np.uint8).view(DTYPES[kind])
                for n in (128, 512))
        m.write(weights, w)
        m.write(moving, x)
        m.run("ldweights", None, weights, engine="T")
        m.run("matmul", out, moving, engine="T")
        want = (f32(w).astype(np.float64).T * f32(x).astype(np.float64)).astype(np.float32)
        got = m.read(out)
        assert np.array_equal(np.isnan(got), np.isnan(want))
        assert np.array_equal(got, want, equal_nan=True)


def neighbours(kind):
    """Finite values of the type, ascending."""
    size = 8 * np.dtype(DTYPES[kind]).itemsize
    codes = np.arange(1 << size, dtype=f"uint{size}").view(DTYPES[kind]).astype(np.float32)
    return np.unique(codes[np.isfinite(codes)])


@pytest.mark.parametrize("kind", [k for k in FLOATS if k not in ("fp32", "tf32")])
@pytest.mark.parametrize("name,engine", [("tensor_copy", "V"), ("activate", "S"),
                                         ("tensor_scalar", "G"), ("tensor_tensor", "V")])
def test_stochastic_rounding_takes_the_neighbours_in_proportion(kind, name, engine):
    """Any magnitude, subnormals too: only the two neighbours come out, and the mean is the value."""
    rng_ = np.random.default_rng([SEED, zlib.crc32(kind.encode())])
    grid = neighbours(kind)
    grid = grid[np.abs(grid) < 1e30]
    low = rng_.integers(0, len(grid) - 1, 128)
    low[:8] = np.searchsorted(grid, 0) + np.arange(-4, 4)  # around zero
    share = rng_.choice([0.0, 0.5, 0.1, 0.9, 1 / 3, 0.75], 128)
    value = f32(grid[low] + (grid[low + 1].astype(np.float64) - grid[low]) * share)
    n = 4000
    m = Machine()
    x, d = dense("fp32", 128, n, 64 * 1024), dense(kind, 128, n)
    zero = dense("fp32", 128, n, 128 * 1024)
    m.write(x, np.broadcast_to(value[:, None], (128, n)))
    m.write(zero, -0.0)
    more = {"tensor_copy": ((), {}), "activate": ((), dict(func="copy", imm=(1.0, -0.0))),
            "tensor_scalar": ((), dict(op0="multiply", op1="multiply", imm=(1.0, 1.0))),
            "tensor_tensor": ((zero,), dict(op0="add"))}[name]
    m.run(name, d, x, *more[0], engine=engine, flags=h.STOCHASTIC, **more[1])
    y = f32(m.read(d)).astype(np.float64)
    down, up = grid[low].astype(np.float64), grid[low + 1].astype(np.float64)
    assert ((y == down[:, None]) | (y == up[:, None])).all()
    p = (value - down) / (up - down)
    sigma = np.sqrt(np.maximum(p * (1 - p), 1e-9) / n)
    z = ((y == up[:, None]).mean(1) - p) / sigma
    assert (np.abs(z[(p > 0) & (p < 1)]) < 5).all(), (value[np.abs(z) >= 5], z[np.abs(z) >= 5])
    assert (y[p == 0] == down[p == 0, None]).all()
    assert abs(z.mean()) < 0.5, "unbiased over all values"


@pytest.mark.parametrize("name", sorted(TABLE))
def test_legal_flags_are_those_that_an_instruction_obeys(name):
    """The validator lets no flag pass that the engine would ignore."""
    rounded = {"tensor_tensor", "tensor_scalar", "scalar_tensor_tensor", "tensor_reduce",
               "tensor_copy", "memset", "reciprocal", "tensor_tensor_scan", "bn_stats", "bn_aggr",
               "max8", "match_replace8", "dropout", "activate", "act_read_accumulator", "iota",
               "affine_select", "tensor_partition_reduce", "matmul", "tensor_scalar_reduce",
               "tensor_scalar_cumulative", "range_select", "select_reduce", "exponential",
               "vector_read_accumulator"}
    registers = {"tensor_scalar_reduce", "tensor_scalar_cumulative", "range_select",
                 "select_reduce", "exponential"}
    swapped = {"tensor_scalar", "scalar_tensor_tensor", "tensor_tensor_scan"}
    want = h.STOCHASTIC * (name in rounded) | (h.REVERSE0 | h.REVERSE1) * (name in swapped)
    want |= h.ACCUMULATE * (name in registers)
    want |= {"matmul": h.ACCUMULATE | h.LAST | h.DOUBLE_ROW, "matmul_mx": h.ACCUMULATE | h.LAST, "ldweights": h.DOUBLE_ROW,
             "find_index8": h.REVERSE0, "tensor_scalar_reduce": h.REVERSE0,
             "tensor_scalar_cumulative": h.REVERSE0, "select_reduce": h.REVERSE0,
             "vector_read_accumulator": h.NEGATE, "activate": h.ACCUMULATE | h.RESET, "dma_copy": h.ACCUMULATE | h.SPILL,
             "dma_gather": h.OOB_SKIP | h.CLAMP_INDEX, "tensor_reduce": h.NEGATE,
             "dma_scatter": h.OOB_SKIP | h.CLAMP_INDEX | h.ACCUMULATE,
             "tensor_copy_predicated": h.REVERSE0}.get(name, 0)
    assert h.lib.harness_legal_flags(h.lib.harness_opcode(name.encode())) == want
