"""Collectives between ranks of a program in assembly text: every kind, type and reducer, against
NumPy; groups of all shapes; what is refused, and what ranks that part company are told."""

import itertools
import json
import subprocess

import capi
import ml_dtypes
import numpy as np
import pytest
from engine_cases import VTRN

NAMES = {np.dtype(t): n for n, t in {
    "pred": np.bool_, "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32, "fp64": np.float64,
    "complex64": np.complex64, "complex128": np.complex128,
    "fp8e4m3": ml_dtypes.float8_e4m3, "fp8e5m2": ml_dtypes.float8_e5m2}.items()}  # fmt: skip
FLOATS = ("bf16", "fp16", "fp32", "fp64", "fp8e4m3", "fp8e5m2")
NARROW = ("bf16", "fp16", "fp8e4m3", "fp8e5m2")


def program(kind, reducer, groups, dtype, n_in, n_out, exchange, n_ranks, chip="trn1", gen=2):
    size = np.dtype(dtype).itemsize
    width = max(len(g) for g in groups) if groups else 0
    ranks = " ".join("_" if r < 0 else str(r) for g in groups for r in g + [-1] * (width - len(g)))
    return f"""program "test" chip "{chip}" gen {gen}
arguments 1
outputs _
ranks 1 by {n_ranks}
slot 0 argument {NAMES[np.dtype(dtype)]} {n_in * size} bytes number 0
slot 1 output {NAMES[np.dtype(dtype)]} {n_out * size} bytes number 0
source 0 "stablehlo.{kind}" "model.py:7"
custom 0 "stablehlo.{kind}" in 0 out 1 flops 0 blob
collective 0 {kind} {reducer} groups {len(groups)} by {width}: {ranks}
exchange {NAMES[np.dtype(dtype)]} {exchange}
block 0
    CC collective, arg0 0, @0
stop
"""


@pytest.fixture(scope="module")
def device():
    d = capi.Device(instance="trn1.32xlarge")
    yield d
    d.close()


def run(device, text, x, cores=None):
    return [y for [y] in device.load(text.encode()).run_ranks([[row] for row in x], cores)]


def draw(rng, dtype, shape):
    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, 1 << 62, shape, dtype=np.uint64).astype(dtype)
    x = rng.standard_normal(shape) * 4
    return (x + 1j * rng.standard_normal(shape) if dtype.kind == "c" else x).astype(dtype)


BINARY = {"add": np.add, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
          "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}  # fmt: skip


def reduced(op, rows):
    """From the first to the last, floats of two bytes and less in fp32."""
    name = NAMES[rows[0].dtype]
    wide = np.float32 if name in NARROW else rows[0].dtype
    acc = rows[0].astype(wide)
    with np.errstate(all="ignore"):
        for x in rows[1:]:
            acc = BINARY[op](acc, x.astype(wide))
        return acc.astype(rows[0].dtype)


def same_bits(a, b):
    assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def suits(op, dtype):
    kind = np.dtype(dtype).kind
    if NAMES[np.dtype(dtype)] in FLOATS:
        return op not in ("and", "or", "xor")
    return kind != "c" or op in ("add", "multiply")


@pytest.mark.parametrize("dtype", NAMES)
def test_an_all_reduce_goes_from_the_first_rank_to_the_last(device, dtype):
    rng = np.random.default_rng(7)
    for op, n in itertools.product(BINARY, (1, 33, 5000)):
        if not suits(op, dtype):
            continue
        x = draw(rng, dtype, (4, n))
        text = program("all_reduce", op, [[2, 0, 1], [3]], dtype, n, n,
                       f"1 by 1 of {n} from 0 0 0 to 0 0 0", 4)  # fmt: skip
        got = run(device, text, x)
        want = reduced(op, [x[2], x[0], x[1]])
        if dtype.kind == "c":  # the compiler of the host may round products of parts in one
            np.testing.assert_allclose(got[0], want, rtol=1e-5)
        else:
            same_bits(got[0], want)
        same_bits(got[1], got[0])
        same_bits(got[2], got[0])
        same_bits(got[3], x[3])


@pytest.mark.parametrize("dtype", [d for d in NAMES if NAMES[d] in FLOATS and np.dtype(d).kind != "c"])
def test_plus_zero_is_above_minus_zero_whatever_the_order(device, dtype):
    x = np.array(list(itertools.product([0.0, -0.0], repeat=3))).T.astype(dtype)  # [rank][case]
    n = x.shape[1]
    is_minus = np.signbit(x.astype(np.float32))
    for op, want in (("maximum", is_minus.all(0)), ("minimum", is_minus.any(0))):
        text = program("all_reduce", op, [[0, 1, 2]], dtype, n, n, f"1 by 1 of {n} from 0 0 0 to 0 0 0", 3)
        for got in run(device, text, x):
            np.testing.assert_array_equal(np.signbit(got.astype(np.float32)), want)


def test_a_nan_of_any_rank_is_the_maximum(device):
    x = np.array([[1, np.nan, 2], [np.nan, 5, 3], [0, 1, -np.inf]], np.float32)
    for op in ("maximum", "minimum"):
        text = program("all_reduce", op, [[0, 1, 2]], np.float32, 3, 3,
                       "1 by 1 of 3 from 0 0 0 to 0 0 0", 3)  # fmt: skip
        got = run(device, text, x)[0]
        assert np.isnan(got[:2]).all() and got[2] == BINARY[op].reduce(x[:, 2])


@pytest.mark.parametrize("n,outer,inner", [(2, 1, 1), (3, 5, 31), (8, 2, 129), (4, 33, 2500)])
def test_gathers_and_scatters_move_the_right_blocks(device, n, outer, inner):
    rng = np.random.default_rng(n)
    ranks = list(rng.permutation(n))
    groups = [[int(r) for r in ranks]]
    x = draw(rng, np.float32, (n, outer, inner))
    size = outer * inner
    text = program("all_gather", "none", groups, np.float32, size, n * size,
                   f"1 by {outer} of {inner} from 0 0 {inner} to {inner} 0 {n * inner}", n)  # fmt: skip
    want = np.concatenate([x[r] for r in ranks], axis=1)
    for got in run(device, text, x.reshape(n, -1)):
        same_bits(got, want.ravel())
    x = draw(rng, np.float32, (n, outer, n * inner))
    text = program("reduce_scatter", "add", groups, np.float32, n * size, size,
                   f"1 by {outer} of {inner} from {inner} 0 {n * inner} to 0 0 {inner}", n)  # fmt: skip
    total = reduced("add", [x[r] for r in ranks])
    got = run(device, text, x.reshape(n, -1))
    for place, r in enumerate(ranks):
        same_bits(got[r], np.ascontiguousarray(total[:, place * inner:][:, :inner]).ravel())
    text = program("all_to_all", "none", groups, np.float32, n * size, n * size,
                   f"1 by {outer} of {inner} from {inner} 0 {n * inner} "
                   f"to {inner} 0 {n * inner}", n)  # fmt: skip
    got = run(device, text, x.reshape(n, -1))
    for place, r in enumerate(ranks):
        want = np.concatenate([x[s][:, place * inner:][:, :inner] for s in ranks], axis=1)
        same_bits(got[r], np.ascontiguousarray(want).ravel())


def test_a_permute_and_a_broadcast_leave_zeros_where_nobody_sends(device):
    x = draw(np.random.default_rng(3), np.int32, (6, 1000))
    exchange = "1 by 1 of 1000 from 0 0 0 to 0 0 0"
    text = program("collective_permute", "none", [[0, 1], [1, 2], [2, 0], [3, 3], [4, 5]], np.int32,
                   1000, 1000, exchange, 6)  # fmt: skip
    got = run(device, text, x)
    for r, source in enumerate([2, 0, 1, 3, None, 4]):
        same_bits(got[r], x[source] if source is not None else np.zeros(1000, np.int32))
    text = program("collective_broadcast", "none", [[3, 1, 0], [5, 4]], np.int32, 1000, 1000,
                   exchange, 6)  # fmt: skip
    got = run(device, text, x)
    for r, source in enumerate([3, 3, None, 3, 5, 5]):
        same_bits(got[r], x[source] if source is not None else np.zeros(1000, np.int32))


def test_bits_are_the_same_for_any_number_of_threads_and_any_cores():
    x = draw(np.random.default_rng(5), np.float32, (7, 20001))
    text = program("all_reduce", "add", [[0, 1, 2, 3, 4, 5, 6]], np.float32, 20001, 20001,
                   "1 by 1 of 20001 from 0 0 0 to 0 0 0", 7)  # fmt: skip
    results = set()
    for threads, cores in ((1, None), (2, None), (5, [31, 2, 8, 4, 30, 6, 1])):
        d = capi.Device(instance="trn1.32xlarge", threads=threads)
        results.add(b"".join(y.tobytes() for y in run(d, text, x, cores)))
        d.close()
    assert len(results) == 1


@pytest.mark.parametrize("chip,instance,gen", [("trn1", "trn1.32xlarge", 2), ("inf2", "inf2.48xlarge", 2),
                                               ("trn2", "trn2.48xlarge", 3)])  # fmt: skip
def test_other_instances_run_them_and_say_how_long_they_take(chip, instance, gen):
    d = capi.Device(instance=instance)
    x = draw(np.random.default_rng(1), np.float32, (4, 1 << 18))
    text = program("all_reduce", "add", [[0, 1, 2, 3]], np.float32, 1 << 18, 1 << 18,
                   f"1 by 1 of {1 << 18} from 0 0 0 to 0 0 0", 4, chip, gen)  # fmt: skip
    e = d.load(text.encode())
    e.run_ranks([[row] for row in x])
    done = subprocess.run([VTRN, "collectives", "all_reduce", "--instance", instance, "--ranks", "4",
                           "--sizes", "1M:1M", "--json"], capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["rows"]
    launch_us = 30
    assert row["time_us"] < e.profile().step_ns / 1000 < row["time_us"] + launch_us
    d.close()


def copies(n, first_waits=""):
    """20 copies of an argument of n elements, one behind the other."""
    lines = [f"    Sync dma_copy hbm[2, 0, 1*0]:fp32(1:{n}), hbm[0, 0, 1*0]:fp32(1:{n}), ring 0, inc s1+16"
             + (f", wait s1>={16 * k}" if k else first_waits) for k in range(20)]  # fmt: skip
    return "\n".join(lines) + "\n"


def test_a_collective_runs_beside_what_does_not_wait_for_it(device):
    n = 1 << 16
    text = program("all_reduce", "add", [[0, 1]], np.float32, n, n,
                   f"1 by 1 of {n} from 0 0 0 to 0 0 0", 2)  # fmt: skip
    text = text.replace("source 0", f"slot 2 scratch fp32 {4 * n} bytes at 0\nsource 0", 1)
    text = text.replace("ranks", f"scratch {4 * n}\nranks", 1)
    line = "    CC collective, arg0 0, @0\n"
    x = draw(np.random.default_rng(2), np.float32, (2, n))

    def step(body):
        e = device.load(text.replace(line, body).encode())
        e.run_ranks([[row] for row in x])
        return e.profile().step_ns

    exchange = step(line)
    beside = step(line + copies(n))
    behind = step(line.replace("@0", "@0, inc s0") + copies(n, ", wait s0>=1"))
    launch_ns = 20000
    assert behind - beside > 0.9 * (exchange - launch_ns)


# --- ranks that part company ----------------------------------------------------------------------

DIVERGING = """program "test" chip "trn1" gen 2
arguments 2
outputs _
ranks 1 by 3
slot 0 argument int32 4 bytes number 0
slot 1 argument fp32 64 bytes number 1
slot 2 output fp32 64 bytes number 0
source 0 "stablehlo.all_reduce" "model.py:7"
source 1 "stablehlo.all_gather" "model.py:9"
custom 0 "stablehlo.all_reduce" in 1 out 2 flops 0 blob
collective 0 all_reduce add groups 1 by 3: 0 1 2
exchange fp32 1 by 1 of 16 from 0 0 0 to 0 0 0
custom 1 "stablehlo.all_reduce" in 1 out 2 flops 0 blob
collective 1 all_reduce maximum groups 1 by 3: 0 1 2
exchange fp32 1 by 1 of 16 from 0 0 0 to 0 0 0
block 0
    CC collective, arg0 0, @0
switch hbm[0, 0] to 1 2 3
block 1
    CC collective, arg0 0, @0
stop
block 2
    CC collective, arg0 1, @1
stop
block 3
stop
"""


def test_ranks_that_take_other_branches_are_named_with_op_and_line(device):
    x = np.ones(16, np.float32)
    way = [np.array([i], np.int32) for i in (0, 0, 1)]
    e = device.load(DIVERGING.encode())
    with pytest.raises(capi.VtrnError) as error:
        e.run_ranks([[w, x] for w in way], [4, 9, 2])
    text = str(error.value)
    assert text.startswith("deadlock: stablehlo.all_reduce at model.py:7, execution 2: ranks 0, 1")
    assert "rank 2 (core 2) waits in stablehlo.all_gather at model.py:9, execution 1" in text
    way[2][0] = 2
    with pytest.raises(capi.VtrnError, match=r"(?s)ranks 0, 1 wait.*rank 2 \(core 2\) has ended"):
        e.run_ranks([[w, x] for w in way], [4, 9, 2])
    way[2][0] = 0
    for [y] in e.run_ranks([[w, x] for w in way], [4, 9, 2]):
        same_bits(y, 3 * x)


# --- what is refused --------------------------------------------------------------------------------

GOOD = program("all_reduce", "add", [[0, 1], [2, 3]], np.float32, 16, 16,
               "1 by 1 of 16 from 0 0 0 to 0 0 0", 4)  # fmt: skip


@pytest.mark.parametrize("old,new,message", [
    ("2 by 2: 0 1 2 3", "2 by 2: 0 1 2 4", "group 1 has rank 4; there are 0..3"),
    ("2 by 2: 0 1 2 3", "2 by 2: 0 1 2 1", "rank 1 is twice in the groups"),
    ("2 by 2: 0 1 2 3", "1 by 2: 0 1", "no group has rank 2 of 4"),
    ("2 by 2: 0 1 2 3", "2 by 2: 0 1 2", "3 ranks for 2 groups by 2"),
    ("of 16 from", "of 17 from", "the parts of a result have 17 elements"),
    ("from 0 0 0", "from 4 0 0", None),
    ("1 by 1 of 16 from 0 0 0", "2 by 1 of 8 from 0 9 0", "a part is outside of slot 0 or 1"),
    ("add groups", "and groups", "cores do not reduce fp32 by and"),
    ("add groups", "none groups", "kind 0 with reducer 0 does not exist"),
    ("CC collective, arg0 0", "GpSimd custom_op, arg0 0", "is a collective"),
    ("CC collective, arg0 0", "Sync collective, arg0 0", "Sync does not have this instruction"),
    ("out 1", "out 0", "output 0: slot 0 is read only"),
    ("ranks 1 by 4", "ranks 3000 by 4000", "at most 1048576 ranks"),
])  # fmt: skip
def test_a_table_that_makes_no_sense_is_refused(device, old, new, message):
    assert old in GOOD
    if message is None:
        device.load(GOOD.replace(old, new).encode())
        return
    with pytest.raises(capi.VtrnError) as error:
        device.load(GOOD.replace(old, new).encode())
    assert message in str(error.value)


def test_only_an_all_reduce_may_write_where_it_reads(device):
    x = np.arange(64, dtype=np.float32).reshape(4, 16)
    for got, want in zip(run(device, GOOD.replace("outputs _", "outputs 0"), x),
                         [x[0] + x[1]] * 2 + [x[2] + x[3]] * 2):  # fmt: skip
        same_bits(got, want)
    text = program("all_to_all", "none", [[0, 1], [2, 3]], np.float32, 16, 16,
                   "1 by 1 of 8 from 8 0 0 to 8 0 0", 4)  # fmt: skip
    run(device, text, x)
    with pytest.raises(capi.VtrnError, match=r"operand 0 \(slot 0\) and result 0 \(slot 1\) share memory"):
        run(device, text.replace("outputs _", "outputs 0"), x)


def test_fewer_cores_than_ranks_and_one_core_twice_are_refused(device):
    e = device.load(GOOD.encode())
    x = np.ones(16, np.float32)
    with pytest.raises(capi.VtrnError, match="is for 4 NeuronCores that exchange data, and was given 2"):
        e.run_ranks([[x], [x]])
    with pytest.raises(capi.VtrnError, match="is for 4 NeuronCores"):
        e(x)
    with pytest.raises(capi.VtrnError, match="ranks 1 and 3 are both on core 5"):
        e.run_ranks([[x]] * 4, [0, 5, 1, 5])


def test_text_and_file_hold_the_same_program(device, tmp_path):
    path = tmp_path / "program.vtrn"
    path.write_bytes(device.load(GOOD.encode()).program())
    shown = subprocess.run([VTRN, "disasm", path], capture_output=True, check=True).stdout
    assert b"collective 0 all_reduce add groups 2 by 2: 0 1 2 3" in shown
    assert device.load(shown).program() == path.read_bytes()
