"""What a kernel by itself refuses or computes, the program made of it and a trace without values do, too: each instruction with
operands whose types, memories, partitions and sizes are drawn by a plan."""

import random

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import nki  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402
from vtrn.nki import dtypes, estimate  # noqa: E402
from vtrn.nki.errors import NkiValidationError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
P, F = 128, 32
TYPES = [d for d in dtypes.by_code if d is not None]
ENGINES = [*nisa.engine]
CMD = nisa.reduce_cmd
PARAM = ((P, 1), "float32")
TILE = ((P, F), "float32")


def engine(r):
    return r.choice(ENGINES) if r.random() < 0.3 else nisa.engine.unknown


def alu(r):
    common = [nl.add, nl.multiply, nl.maximum, nl.subtract]
    return r.choice(common if r.random() < 0.8 else [nl.bitwise_and, nl.left_shift, nl.less, nl.power, nl.logical_and])


def command(r, *others):
    return r.choice([CMD.reduce, CMD.reset_reduce, *others])


def kind(shape, dtype="float32", buffer="sbuf"):
    return shape, dtype, buffer


def gather(o, r):
    nisa.iota(o[2], [[1, 1]], offset=0, channel_multiplier=1)
    nisa.dma_copy(o[0], o[1].ap([[F, P], [1, F]], vector_offset=o[2]), oob_mode=nisa.oob_mode.skip)


def scatter(o, r):
    nisa.iota(o[2], [[1, 1]], offset=0, channel_multiplier=1)
    nisa.dma_copy(o[1].ap([[F, P], [1, F]], vector_offset=o[2]), o[0], oob_mode=nisa.oob_mode.skip,
                  dst_rmw_op=r.choice([None, nl.add]))


def n_gather(o, r):
    nisa.memset(o[2], r.randrange(F - 1))
    nisa.nc_n_gather(*o)


def local_gather(o, r):
    nisa.memset(o[2], 1)
    nisa.local_gather(*o)


def seeded(o, r):
    nisa.set_rng_seed(o[1])
    nisa.rng(o[0], engine=nisa.engine.vector)


def with_state(o, r):
    nisa.rand_set_state(o[1], engine=r.choice([nisa.engine.gpsimd, nisa.engine.vector]))
    nisa.rng(o[0], engine=r.choice([nisa.engine.gpsimd, nisa.engine.vector]))


# By name: what is called with the operands and a source of choices, and the operands: shape, type, memory.
CALLS = {
    "tensor_tensor": (lambda o, r: nisa.tensor_tensor(*o, alu(r), engine=engine(r)), TILE, TILE, TILE),
    "tensor_scalar": (lambda o, r: nisa.tensor_scalar(o[0], o[1], alu(r), o[2], r.random() < 0.5, r.choice([None, nl.add]), o[3],
                                                      engine=engine(r)), TILE, TILE, PARAM, PARAM),
    "scalar_tensor_tensor": (lambda o, r: nisa.scalar_tensor_tensor(o[0], o[1], alu(r), o[2], alu(r), o[3]), TILE, TILE, PARAM, TILE),
    "tensor_reduce": (lambda o, r: nisa.tensor_reduce(o[0], alu(r), o[1], 1, negate=r.random() < 0.3), PARAM, TILE),
    "tensor_copy": (lambda o, r: nisa.tensor_copy(*o, engine=engine(r)), TILE, TILE),
    "tensor_copy_predicated": (lambda o, r: nisa.tensor_copy_predicated(*o), TILE, TILE, kind((P, F), "uint8")),
    "memset": (lambda o, r: nisa.memset(o[0], r.choice([0, 1.5]), engine=engine(r)), TILE),
    "reciprocal": (lambda o, r: nisa.reciprocal(*o), TILE, TILE),
    "tensor_tensor_scan": (lambda o, r: nisa.tensor_tensor_scan(*o, alu(r), alu(r)), TILE, TILE, TILE, PARAM),
    "nc_stream_shuffle": (lambda o, r: nisa.nc_stream_shuffle(*o, [r.choice([*range(32), 255]) for _ in range(32)]),
                          kind((32, F)), kind((32, F))),
    "bn_stats": (lambda o, r: nisa.bn_stats(*o), kind((P, 6)), TILE),
    "bn_aggr": (lambda o, r: nisa.bn_aggr(*o), kind((P, 2)), kind((P, 12))),
    "max8": (lambda o, r: nisa.max8(*o), kind((P, 8)), TILE),
    "nc_find_index8": (lambda o, r: nisa.nc_find_index8(*o), kind((P, 8), "uint32"), TILE, kind((P, 8))),
    "nc_match_replace8": (lambda o, r: nisa.nc_match_replace8(*o[:3], 0.0, o[3]), TILE, TILE, kind((P, 8)), kind((P, 8), "uint32")),
    "rng": (lambda o, r: nisa.rng(o[0], engine=engine(r)), kind((P, F), "uint32")),
    "set_rng_seed": (seeded, kind((P, F), "uint32"), kind((1, 1), "uint32")),
    "rand_set_state": (with_state, kind((P, F), "uint32"), kind((P, 6), "uint32")),
    "rand_get_state": (lambda o, r: nisa.rand_get_state(o[0], engine=engine(r)), kind((P, 6), "uint32")),
    "dropout": (lambda o, r: nisa.dropout(*o), TILE, TILE, PARAM),
    "tensor_scalar_reduce": (lambda o, r: nisa.tensor_scalar_reduce(*o[:2], alu(r), o[2], alu(r), o[3], reduce_init=0.5,
                                                                    reduce_cmd=command(r, CMD.load_reduce)), TILE, TILE, PARAM, PARAM),
    "tensor_scalar_cumulative": (lambda o, r: nisa.tensor_scalar_cumulative(*o[:2], alu(r), alu(r), o[2], o[3],
                                                                            command(r, CMD.load_reduce)), TILE, TILE, PARAM, PARAM),
    "range_select": (lambda o, r: nisa.range_select(*o[:2], nl.greater, nl.less, o[2], o[3], command(r, CMD.idle), o[4]),
                     TILE, TILE, PARAM, PARAM, PARAM),
    "select_reduce": (lambda o, r: nisa.select_reduce(o[0], o[1], o[2], o[3], o[4], command(r, CMD.idle)),
                      TILE, kind((P, F), "uint8"), TILE, PARAM, PARAM),
    "exponential": (lambda o, r: nisa.exponential(*o[:4], command(r, CMD.idle, CMD.load_reduce)), TILE, TILE, PARAM, PARAM),
    "activation": (lambda o, r: nisa.activation(o[0], r.choice([nl.exp, nl.copy, nl.tanh]), o[1], o[2], o[3], nl.add, o[4],
                                                command(r, CMD.idle, CMD.reset)), TILE, TILE, PARAM, PARAM, PARAM),
    "iota": (lambda o, r: nisa.iota(o[0], [[1, F]], 3, 2), kind((P, F), "int32")),
    "affine_select": (lambda o, r: nisa.affine_select(o[0], [[1, F]], 1, o[1], 0.0, nl.greater, -20), TILE, TILE),
    "tensor_partition_reduce": (lambda o, r: nisa.tensor_partition_reduce(o[0], r.choice([nl.add, nl.maximum]), o[1]), kind((1, F)), TILE),
    "nc_n_gather": (n_gather, TILE, TILE, kind((P, F), "uint32")),
    "local_gather": (local_gather, TILE, TILE, kind((P, 2), "uint16")),
    "nonzero_with_count": (lambda o, r: nisa.nonzero_with_count(*o), kind((P, F + 1), "int32"), kind((P, F), "int32")),
    "nc_matmul": (lambda o, r: nisa.nc_matmul(*o), kind((64, F), "float32", "psum"), kind((P, 64)), TILE),
    "nc_matmul bf16": (lambda o, r: nisa.nc_matmul(*o), kind((64, F), "float32", "psum"), kind((P, 64), "bfloat16"),
                       kind((P, F), "bfloat16")),
    "double_row": (lambda o, r: nisa.nc_matmul(*o, perf_mode=nisa.matmul_perf_mode.double_row), kind((64, F), "float32", "psum"),
                   kind((P, 2, 64), "float8_e5m2"), kind((P, 2, F), "float8_e5m2")),
    "nc_transpose": (lambda o, r: nisa.nc_transpose(*o, engine=engine(r)), kind((F, F)), kind((F, F))),
    "nc_matmul_mx": (lambda o, r: nisa.nc_matmul_mx(*o), kind((64, F), "float32", "psum"), kind((P, 64), "float8_e4m3fn_x4"),
                     kind((P, F), "float8_e4m3fn_x4"), kind((P, 64), "uint8"), kind((P, F), "uint8")),
    "quantize_mx": (lambda o, r: nisa.quantize_mx(*o), kind((P, F), "float8_e4m3fn_x4"), kind((P, 4 * F), "bfloat16"),
                    kind((P, F), "uint8")),
    "dma_copy": (lambda o, r: nisa.dma_copy(*o, engine=engine(r), dst_rmw_op=r.choice([None, nl.add])), TILE, TILE),
    "dma_transpose": (lambda o, r: nisa.dma_transpose(*o), kind((F, P)), TILE),
    "dma_compute": (lambda o, r: nisa.dma_compute(o[0], [o[1], o[2]], nl.add), TILE, TILE, TILE),
    "gather": (gather, TILE, kind((P, F), "float32", "hbm"), kind((P, 1), "int32")),
    "scatter": (scatter, TILE, kind((P, F), "float32", "hbm"), kind((P, 1), "int32")),
}
CHIPS_WITHOUT = {"exponential": ("trn1", "trn2"), "nc_matmul_mx": ("trn1", "trn2"), "quantize_mx": ("trn1", "trn2"),
                 "range_select": ("trn1",), "nonzero_with_count": ("trn1",), "double_row": ("trn1",), "rand_set_state": ("trn1",),
                 "rand_get_state": ("trn1",)}
# What differs from the operands of CALLS: of one operand, and of all.
DIFFERENCES = ("nothing", "type", "types", "memory", "partition", "size")


def numbers(g, shape, dtype):
    array = dtypes.numpy_of(dtypes.code_of(dtype))
    if dtype == "bool":
        return g.integers(0, 2, shape).astype(bool)
    if array.kind in "iu":
        return g.integers(0, 100, shape).astype(array)
    if "e8m0" in dtype:
        return g.integers(120, 130, shape).astype(np.uint8).view(array)
    return g.standard_normal(shape).astype(array)


def drawn(name, chip, number):
    """(Operands, the source of choices that is left): of each memory, type, shape, first partition, first column."""
    r, difference = random.Random(f"{name} {chip} {number}"), DIFFERENCES[number % len(DIFFERENCES)]
    specs, operands = CALLS[name][1:], []
    which, rows, common = r.randrange(len(specs)), r.choice([32, 64, 16, 96]), r.choice(TYPES)
    for i, spec in enumerate(specs):
        shape, dtype, memory = (*spec, "sbuf")[:3]
        shape, first, column, is_it = list(shape), 0, 0, i == which
        if difference == "type" and is_it:
            dtype = r.choice(TYPES)
        elif difference == "types":
            dtype = common if dtype == "float32" else dtype
        elif difference == "memory" and is_it:
            memory = r.choice(["psum", "hbm", "sbuf"])
        elif difference == "partition":
            shape[0] = rows if shape[0] == P else shape[0]
            first = min(P - shape[0], r.choice([0, 0, 32, 64, 96, 16, 1]))
        elif difference == "size" and is_it:
            d = r.randrange(len(shape))
            shape[d] = max(1, min(shape[d] + r.choice([1, -1, 64, 1024, -16]), P if d == 0 else 4096))
            column = r.choice([0, 1, 3])
        operands.append((memory, dtype, tuple(shape), first, column))
    return operands, r


def tile_of(array, memory, dtype):
    array = array if array.dtype == dtype else array.view(dtype)
    tile = nl.ndarray(array.shape, dtype, buffer=nl.private_hbm if memory == "hbm" else nl.sbuf)
    nisa.dma_copy(tile, array)
    if memory != "psum":
        return tile
    sums = nl.ndarray(tile.shape, dtype, buffer=nl.psum)
    nisa.tensor_copy(sums, tile)
    return sums


def stored(tile):
    if tile.buffer is nl.psum:
        copied = nl.ndarray(tile.shape, tile.dtype)
        nisa.tensor_copy(copied, tile)
        tile = copied
    out = nl.ndarray(tile.shape, tile.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(out, tile)
    return out


def made(name, chip, number):
    """A kernel and its arguments: the call on the drawn operands, all of which are results."""
    operands, r = drawn(name, chip, number)
    state, g = r.getstate(), np.random.default_rng(number)
    arrays = [numbers(g, (P, *shape[1:-1], shape[-1] + column), dtype) for _, dtype, shape, _, column in operands]

    def kernel(*given):
        choices = random.Random()
        choices.setstate(state)
        tiles = [tile_of(a, memory, dtype) for a, (memory, dtype, *_) in zip(given, operands)]
        views = [tile[(slice(first, first + shape[0]), *(slice(0, n) for n in shape[1:-1]), slice(column, column + shape[-1]))]
                 for tile, (_, _, shape, first, column) in zip(tiles, operands)]
        CALLS[name][0](views, choices)
        return tuple(map(stored, tiles))

    return nki.jit(kernel), arrays


def error_of(call):
    """(What is raised, as text, or None; what is returned.)"""
    try:
        return None, call()
    except (NkiValidationError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        return str(error), None


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("chip", ["trn1", "trn2", "trn3"])
def test_a_kernel_its_program_and_a_trace_refuse_the_same(tmp_path, monkeypatch, chip, name):
    monkeypatch.setenv("VTRN_CHIP", chip)
    n_accepted = 0
    for number in range(10 * len(DIFFERENCES)):
        if number >= len(DIFFERENCES) and (n_accepted or chip in CHIPS_WITHOUT.get(name, ())):
            return
        kernel, arrays = made(name, chip, number)
        where = f"{name} {number} on {chip}: {drawn(name, chip, number)[0]}"
        error, results = error_of(lambda: kernel(*(a.copy() for a in arrays)))
        traced, found = error_of(lambda: estimate.estimate(kernel, *arrays))
        assert (traced or found.error or None) == error, where
        if error:
            continue
        n_accepted += 1
        error, done = error_of(lambda: vtrn.nki.profile(kernel, str(tmp_path))(*(a.copy() for a in arrays)))
        assert error is None, where
        assert all(x.tobytes() == y.tobytes() for x, y in zip(results, done.result)), where
    assert n_accepted > 0


@pytest.mark.parametrize("a, b", [("float32", "bfloat16"), ("float16", "float32")])
def test_a_matmul_of_fp32_with_narrower_floats_is_refused_alike(a, b):
    def kernel(stationary, moving):
        x, y = tile_of(stationary, "sbuf", a), tile_of(moving, "sbuf", b)
        sums = nl.ndarray((P, F), nl.float32, buffer=nl.psum)
        nisa.nc_matmul(sums, x, y)
        return stored(sums)

    g = np.random.default_rng(0)
    arrays = numbers(g, (P, P), a), numbers(g, (P, F), b)
    errors = {error_of(lambda: run(*arrays))[0] for run in (nki.jit(kernel), vtrn.nki.profile(kernel))}
    assert len(errors) == 1
    assert "nc_matmul" in (text := errors.pop()) and "fp32 and tf32 go only with each other" in text and __file__ in text


def test_rows_of_hbm_are_gathered_to_hbm_and_scattered_from_there(tmp_path):
    table, order = np.arange(P * F, dtype=np.float32).reshape(P, F), np.random.default_rng(1).permutation(P).astype(np.int32)[:, None]

    def kernel(table, order):
        index, rows, back = tile_of(order, "sbuf", "int32"), *(nl.ndarray((P, F), nl.float32, buffer=nl.shared_hbm) for _ in range(2))
        nisa.dma_copy(rows, table.ap([[F, P], [1, F]], vector_offset=index))
        nisa.dma_copy(back.ap([[F, P], [1, F]], vector_offset=index), rows)
        return rows, back

    rows, back = vtrn.nki.profile(kernel, str(tmp_path))(table, order).result
    np.testing.assert_array_equal(rows, table[order[:, 0]])
    np.testing.assert_array_equal(back, table)


@pytest.mark.parametrize("call, text", [
    (lambda x: nl.ndarray((-1, 4), nl.float32), r"dimension 0 is -1: dimensions are positive.*make it smaller"),
    (lambda x: nl.ndarray((2**30, 2**30), nl.float32, buffer=nl.hbm), r"dimension 1 is 1073741824: .* at most 2\^46 bytes; make it smaller"),
    (lambda x: nl.ndarray((70_000, 4), nl.float32), r"a tile of 70000 partitions; SBUF of trn2 has 128; split its first dimension"),
    (lambda x: nisa.tensor_copy(nl.load(x), 3), r"tensor_copy: src is 3, no tensor; load"),
    (lambda x: nisa.nc_find_index8(nl.load(x), nl.load(x), "a"), r"find_index8: vals is 'a', neither a tensor nor a number; load"),
    (lambda x: x[::0], r"a slice with step 0; a step is positive or negative"),
    (lambda x: nl.ndarray((1,) * 9, nl.float32), r"shape: 9 dimensions > 8; merge some \(reshape\)"),
    (lambda x: nisa.iota(nl.load(x), [[1]]), r"iota: pattern=\[\[1\]\]; it is a list of pairs \[step, number\]"),
])
def test_an_error_of_an_argument_says_rule_values_and_remedy(monkeypatch, call, text):
    monkeypatch.setenv("VTRN_CHIP", "trn2")
    with pytest.raises((NkiValidationError, TypeError, ValueError), match=text):
        nki.jit(lambda x: call(x))(np.ones((4, 8), np.float32))
