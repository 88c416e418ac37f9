"""nki.collectives between the ranks of a launch, against NumPy."""

import json
import os
import pathlib
import subprocess
import threading

import ml_dtypes
import numpy as np
import pytest

import vtrn.nki

vtrn.nki.install(force=True)
import nki  # noqa: E402
import nki.collectives as ncc  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402

rng = np.random.default_rng(9)
TYPES = [np.float32, ml_dtypes.bfloat16, np.int32]


def inputs(n, shape, dtype=np.float32):
    return [rng.integers(-50, 50, shape).astype(dtype) for _ in range(n)]


def collective(call, shape_of, buffer=nl.hbm):
    """A kernel that copies its argument, calls, and returns the result."""
    @nki.jit
    def kernel(x):
        src = nl.ndarray(x.shape, x.dtype, buffer=buffer)
        nisa.dma_copy(dst=src, src=x)
        dst = nl.ndarray(shape_of(x.shape), x.dtype, buffer=buffer)
        call(src, dst)
        out = nl.ndarray(dst.shape, dst.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=dst)
        return out

    return kernel


ALL = ncc.ReplicaGroup([[0, 1, 2, 3]])
HALVES = ncc.ReplicaGroup([[0, 2], [3, 1]])


def members(groups, rank):
    return next(g for g in groups.groups if rank in g)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("groups", [ALL, HALVES])
@pytest.mark.parametrize("buffer", [nl.hbm, nl.sbuf])
@pytest.mark.parametrize("op, want", [(nl.add, np.sum), (nl.maximum, np.max), (nl.minimum, np.min)])
def test_all_reduce(dtype, groups, buffer, op, want):
    kernel = collective(lambda s, d: ncc.all_reduce([s], [d], groups, op), lambda s: s, buffer)
    x = inputs(4, (16, 5), dtype)
    for rank, got in enumerate(vtrn.nki.run_ranks(kernel, x)):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want(np.stack([x[m] for m in members(groups, rank)]).astype(np.float64), 0).astype(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("groups", [ALL, HALVES])
@pytest.mark.parametrize("buffer, dim", [(nl.hbm, 0), (nl.sbuf, 0), (nl.sbuf, 1)])
def test_all_gather(dtype, groups, buffer, dim):
    n = len(groups.groups[0])
    kernel = collective(lambda s, d: ncc.all_gather([s], [d], groups, dim), lambda s: (s[0] * n, s[1]) if dim == 0 else
                        (s[0], s[1] * n), buffer)
    x = inputs(4, (16, 5), dtype)
    for rank, got in enumerate(vtrn.nki.run_ranks(kernel, x)):
        np.testing.assert_array_equal(got, np.concatenate([x[m] for m in members(groups, rank)], dim))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("groups", [ALL, HALVES])
def test_reduce_scatter_and_all_to_all(dtype, groups):
    n = len(groups.groups[0])
    x = inputs(4, (8, 3), dtype)
    scatter = collective(lambda s, d: ncc.reduce_scatter([s], [d], groups, 0, nl.add), lambda s: (s[0] // n, s[1]))
    exchange = collective(lambda s, d: ncc.all_to_all([s], [d], groups, 0), lambda s: s)
    for rank, (a, b) in enumerate(zip(vtrn.nki.run_ranks(scatter, x), vtrn.nki.run_ranks(exchange, x))):
        group = members(groups, rank)
        i = group.index(rank)
        total = sum(x[m].astype(np.float64) for m in group)
        np.testing.assert_array_equal(a, np.split(total, n)[i].astype(dtype))
        np.testing.assert_array_equal(b, np.concatenate([np.split(x[m], n)[i] for m in group]))


def test_sums_add_in_fp32_and_round_once():
    x = [np.full((1, 1), v, ml_dtypes.bfloat16) for v in (256.0, 1.0, 1.0)]
    kernel = collective(lambda s, d: ncc.all_reduce([s], [d], ncc.ReplicaGroup([[0, 1, 2]]), nl.add), lambda s: s)
    assert vtrn.nki.run_ranks(kernel, x)[2].astype(np.float32) == 258  # in bfloat16 each 1 would be lost


@pytest.mark.parametrize("chip", ["trn2", "trn3"])
def test_there_may_be_as_many_ranks_as_an_instance_has_chips(chip, monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", chip)  # of trn3 each would reserve the memory of 64 chips
    x = [np.full((1, 1), i, np.float32) for i in range(64)]
    kernel = collective(lambda s, d: ncc.all_reduce([s], [d], ncc.ReplicaGroup([list(range(64))]), nl.add), lambda s: s)
    assert [float(r[0, 0]) for r in vtrn.nki.run_ranks(kernel, x)] == [sum(range(64))] * 64


def test_several_tensors_at_once_and_several_calls():
    @nki.jit
    def kernel(x, y):
        a, b = (nl.ndarray(t.shape, t.dtype, buffer=nl.shared_hbm) for t in (x, y))
        ncc.all_reduce([x, y], [a, b], ALL, nl.add)
        c = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        ncc.all_reduce([a], [c], HALVES, nl.add)
        return b, c

    x, y = inputs(4, (3, 4)), inputs(4, (2, 7))
    for b, c in vtrn.nki.run_ranks(kernel, list(zip(x, y))):
        np.testing.assert_array_equal(b, sum(y))
        np.testing.assert_array_equal(c, 2 * sum(x))
    named = vtrn.nki.run_ranks(kernel, [{"y": b, "x": a} for a, b in zip(x, y)])
    np.testing.assert_array_equal(named[3][0], sum(y))


def test_permutes_by_pairs_leave_others_as_they_are():
    @nki.jit
    def kernel(x):
        src = nl.ndarray(x.shape, x.dtype, buffer=nl.hbm)
        nisa.dma_copy(dst=src, src=x)
        dst = nl.zeros(x.shape, x.dtype, buffer=nl.shared_hbm)
        ncc.collective_permute([src], [dst], [(0, 1), (1, 3), (3, 0)])
        return dst

    x = inputs(4, (2, 3))
    got = vtrn.nki.run_ranks(kernel, x)
    for rank, want in enumerate((x[3], x[0], np.zeros((2, 3)), x[1])):
        np.testing.assert_array_equal(got[rank], want)


def test_a_ring_says_whose_data_come():
    group = ncc.ReplicaGroup([[2, 0, 1]])

    @nki.jit
    def kernel(x):
        out = nl.ndarray((3, *x.shape), x.dtype, buffer=nl.shared_hbm)
        now = [nl.ndarray(x.shape, x.dtype, buffer=nl.hbm) for _ in range(2)]
        nisa.dma_copy(dst=now[0], src=x)
        nisa.dma_copy(dst=now[1], src=x)
        for i in range(3):
            whose = ncc.collective_permute_implicit_current_processing_rank_id(i, group)
            nisa.dma_copy(dst=out.select(0, whose), src=now[0])
            following = [nl.ndarray(x.shape, x.dtype, buffer=nl.hbm) for _ in range(2)]
            ncc.collective_permute_implicit([[t] for t in now], [[t] for t in following], group, channel_ids=[0, 1])
            now = following
        back = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        ncc.collective_permute_implicit_reduce([[now[0]]], [[x]], [[back]], group, nl.add)
        me = nl.ndarray((1, 1), nl.int32, buffer=nl.sbuf)
        nisa.register_store(me, ncc.rank_id())
        number = nl.ndarray((1, 1), nl.int32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=number, src=me)
        return out, back, number

    x = inputs(3, (2, 3))
    for rank, (out, back, number) in enumerate(vtrn.nki.run_ranks(kernel, x)):
        np.testing.assert_array_equal(out, np.stack(x))
        np.testing.assert_array_equal(back, 2 * x[{2: 1, 0: 2, 1: 0}[rank]])
        assert number[0, 0] == rank


@pytest.mark.parametrize("is_prepared", [False, True])
@pytest.mark.parametrize("buffer", [nl.hbm, nl.sbuf])
@pytest.mark.parametrize("is_known", [False, True])
def test_exchanges_whose_lengths_are_data(is_prepared, buffer, is_known):
    groups = ncc.ReplicaGroup([[0, 1, 2]])

    def kernel_of(call, prepare, trigger, size):
        @nki.jit
        def kernel(x, meta):
            shape = meta.shape if buffer is nl.hbm else (1, *meta.shape)
            table = nl.ndarray(shape, nl.uint32, buffer=buffer)
            nisa.dma_copy(dst=table, src=meta)
            dst = nl.zeros((size,), x.dtype, buffer=nl.shared_hbm)
            if is_prepared:
                trigger(prepare([x], [dst], groups, table, recv_counts_known=is_known))
            else:
                call([x], [dst], groups, table, recv_counts_known=is_known)
            out = nl.ndarray(meta.shape, nl.uint32, buffer=nl.shared_hbm)
            nisa.dma_copy(dst=out, src=table)
            return dst, out

        return kernel

    x = [np.arange(10, dtype=np.float32) + 100 * r for r in range(3)]
    counts = np.array([[1, 0, 3], [2, 2, 0], [4, 1, 1]], np.uint32)  # from rank to rank
    displs = np.array([[0, 0, 5], [8, 1, 0], [2, 9, 0]], np.uint32)
    metas = [np.stack([counts[r], displs[r], np.full(3, 77, np.uint32)]) for r in range(3)]
    got = vtrn.nki.run_ranks(kernel_of(ncc.all_to_all_v, ncc.all_to_all_v_prepare, ncc.all_to_all_v_trigger, 12), list(zip(x, metas)))
    for r, (dst, meta) in enumerate(got):
        want = np.zeros(12, np.float32)
        for s in range(3):
            run = x[s][displs[s, r]:displs[s, r] + counts[s, r]]
            want[4 * s:4 * s + len(run)] = run
        np.testing.assert_array_equal(dst, want)
        np.testing.assert_array_equal(meta[2], [77] * 3 if is_known else counts[:, r])
    got = vtrn.nki.run_ranks(kernel_of(ncc.all_gather_v, ncc.all_gather_v_prepare, ncc.all_gather_v_trigger, 12), list(zip(x, metas)))
    for dst, meta in got:
        want = np.zeros(12, np.float32)
        for s in range(3):
            run = x[s][displs[s, 0]:displs[s, 0] + counts[s, 0]]
            want[4 * s:4 * s + len(run)] = run
        np.testing.assert_array_equal(dst, want)
        np.testing.assert_array_equal(meta[2], [77] * 3 if is_known else counts[:, 0])


def test_one_prepare_waits_for_its_trigger():
    one = ncc.ReplicaGroup([[0]])

    @nki.jit
    def kernel(x, meta, how):
        dst = nl.zeros((4,), x.dtype, buffer=nl.shared_hbm)
        first = ncc.all_gather_v_prepare([x], [dst], one, meta)
        if how == "twice":
            ncc.all_to_all_v_prepare([x], [dst], one, meta)
        ncc.all_gather_v_trigger(first)
        if how == "again":
            ncc.all_gather_v_trigger(first)
        return dst

    x, meta = np.arange(4, dtype=np.float32), np.array([[4], [0], [0]], np.uint32)
    np.testing.assert_array_equal(kernel(x, meta, ""), x)
    with pytest.raises(vtrn.nki.NkiValidationError, match="all_gather_v_prepare has not been triggered"):
        kernel(x, meta, "twice")
    with pytest.raises(vtrn.nki.NkiValidationError, match="takes what the last all_gather_v_prepare gave, once"):
        kernel(x, meta, "again")


@nki.jit
def gathered_by_two_cores(x):
    me = nl.program_id(0)
    src, dst = nl.load(x[me]), nl.ndarray((4, 12), x.dtype)
    ncc.all_gather([src], [dst], ALL, 1)
    other = nl.ndarray((4, 12), x.dtype)
    nisa.sendrecv(src=dst, dst=other, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=0)
    out = nl.ndarray((2, 4, 12), x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out[me], src=other)
    return out


def test_each_rank_may_have_two_cores():
    x = inputs(4, (2, 4, 3))
    for got in vtrn.nki.run_ranks(gathered_by_two_cores[2], x):
        np.testing.assert_array_equal(got, np.stack([np.concatenate([y[1 - c] for y in x], 1) for c in range(2)]))


def test_what_is_wrong_is_told_and_leaves_no_thread():
    n_threads = threading.active_count()
    x = inputs(2, (4, 4))
    pair = ncc.ReplicaGroup([[0, 1]])
    ring = collective(lambda s, d: ncc.all_reduce([s], [d], pair, nl.add), lambda s: s)
    with pytest.raises(vtrn.nki.NkiValidationError, match=r"several ranks and this launch one; launch.*run_ranks"):
        ring(x[0])

    @nki.jit
    def uneven(x, n):
        dst = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        for _ in range(n):
            ncc.all_reduce([x], [dst], pair, nl.add)
        return dst

    with pytest.raises(vtrn.nki.NkiValidationError, match=r"deadlock: rank 0 waits in all_reduce at .*test_nki_collectives.py:\d+ "
                                                          "for rank 1; rank 1 is through") as caught:
        vtrn.nki.run_ranks(uneven, [(x[0], 2), (x[1], 1)])
    assert caught.value.category == "deadlock"

    @nki.jit
    def different(x, call):
        dst = nl.ndarray((8, 4), x.dtype, buffer=nl.shared_hbm)
        ncc.all_reduce([x], [dst[0:4]], pair, nl.add) if call else ncc.all_gather([x], [dst], pair, 0)
        return x

    with pytest.raises(vtrn.nki.NkiValidationError, match="all_reduce of rank 1 .* meets all_gather of rank 0 at .*the same order"):
        vtrn.nki.run_ranks(different, [(x[0], False), (x[1], True)])
    for call, error, text in (
        (lambda s, d: ncc.all_reduce([s], [d], pair, nl.multiply), ValueError, "op=multiply; nl.add, nl.maximum"),
        (lambda s, d: ncc.all_reduce(s, [d], pair, nl.add), TypeError, "srcs is a list of tensors"),
        (lambda s, d: ncc.all_reduce([nl.load(s)], [d], pair, nl.add), ValueError, "all are in one of them"),
        (lambda s, d: ncc.all_gather([s], [d], pair, 1), ValueError, "collective_dim=1"),
        (lambda s, d: ncc.all_gather([s], [d], pair, 0), ValueError, "the result has"),
        (lambda s, d: ncc.all_to_all([s[0:3]], [d[0:3]], pair, 0), ValueError, "does not divide by the 2 ranks"),
        (lambda s, d: ncc.all_reduce([d], [s], pair, nl.add), vtrn.nki.NkiValidationError, "nothing has written 16"),
        (lambda s, d: ncc.all_reduce([s], [d], ncc.ReplicaGroup([[0]]), nl.add), ValueError, "rank 1 is in none"),
        (lambda s, d: ncc.collective_permute([s], [d], [(0, 1), (0, 0)]), ValueError, "a source once"),
        (lambda s, d: ncc.all_reduce([s], [d], ncc.ReplicaGroup([[0, 1, 5]]), nl.add), ValueError, "has rank 5"),
    ):
        with pytest.raises(error, match=text):
            vtrn.nki.run_ranks(collective(call, lambda s: s), x)
    np.testing.assert_array_equal(vtrn.nki.run_ranks(ring, x)[0], x[0] + x[1])
    assert threading.active_count() == n_threads


def test_a_rank_alone_needs_no_others():
    one = ncc.ReplicaGroup([[0]])
    x = inputs(1, (4, 4))[0]
    np.testing.assert_array_equal(collective(lambda s, d: ncc.all_reduce([s], [d], one, nl.add), lambda s: s)(x), x)


@pytest.mark.parametrize("name, call, shape_of", [
    ("all_reduce", lambda s, d: ncc.all_reduce([s], [d], ALL, nl.add), lambda s: s),
    ("all_gather", lambda s, d: ncc.all_gather([s], [d], ALL, 0), lambda s: (s[0] * 4, s[1])),
    ("reduce_scatter", lambda s, d: ncc.reduce_scatter([s], [d], ALL, 0, nl.add), lambda s: (s[0] // 4, s[1])),
    ("all_to_all", lambda s, d: ncc.all_to_all([s], [d], ALL, 0), lambda s: s),
    ("collective_permute_implicit", lambda s, d: ncc.collective_permute_implicit([[s]], [[d]], ALL), lambda s: s),
])
@pytest.mark.parametrize("other, said", [
    ((np.float32, (16, 3)), "float32 (16, 3)"),
    ((np.int32, (16, 5)), "int32 (16, 5)"),
])
def test_ranks_whose_tensors_differ_are_named(name, call, shape_of, other, said):
    x = [*inputs(3, (16, 5)), np.ones(other[1], other[0])]
    with pytest.raises(vtrn.nki.NkiValidationError) as e:
        vtrn.nki.run_ranks(collective(call, shape_of), x)
    assert str(e.value).startswith(f"{name}: rank 0 gives float32 (16, 5); ") and f"rank 3 gives {said}: " in str(e.value)
    assert "test_nki_collectives.py:" in str(e.value)


def test_a_permute_to_another_shape_names_both_ranks():
    kernel = collective(lambda s, d: ncc.collective_permute([s], [d], [(0, 1)]), lambda s: s)
    with pytest.raises(vtrn.nki.NkiValidationError,
                       match=r"collective_permute: rank 0 sends float32 \(4, 2\), and dsts of rank 1 is float32 \(4, 3\)"):
        vtrn.nki.run_ranks(kernel, [np.ones((4, 2), np.float32), np.ones((4, 3), np.float32)])


# -- time

def busy(call, shape_of):
    """As collective(), where rank x[0, 0] has more to do before."""
    @nki.jit
    def kernel(x, n):
        t = nl.load(x)
        for _ in range(n):
            t = nl.exp(t)
        src, dst = nl.ndarray(x.shape, x.dtype, buffer=nl.hbm), nl.ndarray(shape_of(x.shape), x.dtype, buffer=nl.hbm)
        nisa.dma_copy(dst=src, src=x)
        call(src, dst)
        out = nl.ndarray(dst.shape, dst.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=dst)
        return out

    return kernel


def collective_ns(op, n_bytes, ranks, instance, lnc=1):
    """What the command says."""
    build = pathlib.Path(os.environ.get("VTRN_BUILD", "build"))
    said = subprocess.run([build / "src/cli/vtrn", "collectives", op, "--instance", instance, "--ranks", str(ranks), "--lnc", str(lnc),
                           "--sizes", str(n_bytes), "--json"], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)["rows"][0]["time_us"] * 1000


@pytest.mark.parametrize("op, call, shape_of, n_bytes", [
    ("all_reduce", lambda s, d: ncc.all_reduce([s], [d], ALL, nl.add), lambda s: s, 128 * 512 * 4),
    ("all_gather", lambda s, d: ncc.all_gather([s], [d], ALL, 0), lambda s: (4 * s[0], s[1]), 4 * 128 * 512 * 4),
    ("reduce_scatter", lambda s, d: ncc.reduce_scatter([s], [d], ALL, 0, nl.add), lambda s: (s[0] // 4, s[1]), 128 * 512 * 4),
    ("all_to_all", lambda s, d: ncc.all_to_all([s], [d], ALL, 0), lambda s: s, 128 * 512 * 4),
    ("permute", lambda s, d: ncc.collective_permute([s], [d], [(0, 1), (1, 2), (2, 3), (3, 0)]), lambda s: s, 128 * 512 * 4),
    ("permute", lambda s, d: ncc.collective_permute_implicit([[s]], [[d]], ALL), lambda s: s, 128 * 512 * 4),
])
def test_the_time_of_a_collective_is_the_models(op, call, shape_of, n_bytes):
    xs = inputs(4, (128, 512))
    done = vtrn.nki.profile_ranks(busy(call, shape_of), [(x, 30 * (rank == 2)) for rank, x in enumerate(xs)])
    (exchange,) = done.exchanges
    assert done.instance == "trn2.3xlarge" and exchange.group == (0, 1, 2, 3) and exchange.n_bytes == n_bytes
    assert exchange.duration_ns == pytest.approx(collective_ns(op, n_bytes, 4, "trn2.3xlarge"), rel=1e-6)
    assert "test_nki_collectives.py:" in exchange.place
    # rank 2 comes last, and all go on together
    assert exchange.wait_ns[2] == 0 and min(exchange.wait_ns[r] for r in (0, 1, 3)) > 5000
    assert done.wait_ns == exchange.wait_ns
    assert done.latency_ns > exchange.begins_ns + exchange.duration_ns
    assert max(p.latency_ns for p in done.ranks) - min(p.latency_ns for p in done.ranks) < 2000
    for mine, alone in zip(done.results, vtrn.nki.run_ranks(busy(call, shape_of), [(x, 0) for x in xs])):
        np.testing.assert_array_equal(mine, alone)


def test_groups_and_several_collectives_have_their_times():
    @nki.jit
    def kernel(x):
        a, b = nl.ndarray(x.shape, x.dtype, buffer=nl.hbm), nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=a, src=x)
        ncc.all_reduce([a], [b], HALVES, nl.add)
        ncc.all_reduce([b], [a], ALL, nl.add)
        nisa.dma_copy(dst=b, src=a)
        return b

    done = vtrn.nki.profile_ranks(kernel, inputs(4, (128, 64)), instance="trn2.48xlarge")
    assert done.instance == "trn2.48xlarge"
    assert [e.group for e in done.exchanges] == [tuple(g) for g in HALVES.groups] + [(0, 1, 2, 3)]
    assert done.exchanges[2].begins_ns >= max(e.begins_ns + e.duration_ns for e in done.exchanges[:2])
    alone = vtrn.nki.profile_ranks(kernel_without_exchange, inputs(4, (128, 64)))
    assert not alone.exchanges and alone.latency_ns < done.latency_ns and alone.wait_ns == (0,) * 4


@nki.jit
def kernel_without_exchange(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.load(x))
    return out


def test_ranks_of_two_cores_have_their_time():
    """Core 0 has more to do, and exchanges with other ranks; both cores wait for each other before and behind."""
    PAIR = ncc.ReplicaGroup([[0, 1]])

    @nki.jit
    def kernel(x, n):
        me = nl.program_id(0)
        src, dst = (nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm) for _ in range(2))
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        t = nl.load(x[me])
        for _ in range(n if me == 0 else 0):
            t = nl.abs(t)
        nisa.dma_copy(dst=src[me], src=t)
        nisa.core_barrier(src, (0, 1))
        if me == 0:
            ncc.all_reduce([src], [dst], PAIR, nl.add)
        nisa.core_barrier(dst, (0, 1))
        nisa.dma_copy(dst=out[me], src=nl.load(dst[me]))
        return out

    xs = [np.abs(x) for x in inputs(2, (2, 128, 512))]
    done = vtrn.nki.profile_ranks(kernel[2], [(xs[0], 0), (xs[1], 40)])
    quick = vtrn.nki.profile_ranks(kernel[2], [(x, 0) for x in xs])
    for got in (*done.results, *vtrn.nki.run_ranks(kernel[2], [(x, 0) for x in xs])):
        np.testing.assert_array_equal(got, xs[0] + xs[1])
    (exchange,) = done.exchanges
    assert done.instance == "trn2.3xlarge" and exchange.group == (0, 1) and exchange.n_bytes == 2 * 128 * 512 * 4
    assert exchange.duration_ns == pytest.approx(collective_ns("all_reduce", exchange.n_bytes, 2, "trn2.3xlarge", lnc=2), rel=1e-6)
    assert exchange.wait_ns[1] == 0 and exchange.wait_ns[0] > 10000 and done.wait_ns == (exchange.wait_ns[0] / 2, 0)
    assert exchange.begins_ns - quick.exchanges[0].begins_ns == pytest.approx(exchange.wait_ns[0], rel=0.1)
    # what follows begins in both cores when the collective is over
    for mine, before in zip(done.ranks, quick.ranks):
        assert mine.latency_ns - (exchange.begins_ns + exchange.duration_ns) == \
            pytest.approx(before.latency_ns - (quick.exchanges[0].begins_ns + exchange.duration_ns), rel=0.01)
        assert mine.sbuf_peak_bytes and mine.n_instructions == before.n_instructions + (40 if mine is done.ranks[1] else 0)


def test_each_core_of_a_rank_exchanges_with_its_like():
    x = inputs(4, (2, 4, 3))
    done = vtrn.nki.profile_ranks(gathered_by_two_cores[2], x, instance="trn2.48xlarge")
    for got in done.results:
        np.testing.assert_array_equal(got, np.stack([np.concatenate([y[1 - c] for y in x], 1) for c in range(2)]))
    assert [e.group for e in done.exchanges] == [(0, 1, 2, 3)] * 2 and len({p.latency_ns for p in done.ranks}) == 1
    alone = vtrn.nki.profile_ranks(kernel_without_exchange[2], inputs(2, (128, 64)))
    assert not alone.exchanges and 0 < alone.latency_ns < done.latency_ns and alone.wait_ns == (0, 0)


def test_what_has_no_time_of_ranks_is_told(monkeypatch):
    with pytest.raises(NotImplementedError, match="a core each, and these are one or 2"):
        vtrn.nki.profile_ranks(kernel_without_exchange[3], inputs(2, (128, 64)))
    reduces = collective(lambda s, d: ncc.all_reduce([s], [d], ncc.ReplicaGroup([[0, 1]]), nl.add), lambda s: s)
    with pytest.raises(vtrn.nki.NkiValidationError, match="instance trn1.2xlarge has chips trn1, and the kernel is for trn2"):
        vtrn.nki.profile_ranks(reduces, inputs(2, (128, 64)), instance="trn1.2xlarge")
    monkeypatch.setenv("VTRN_INSTANCE", "trn2.48xlarge")
    assert vtrn.nki.profile_ranks(reduces, inputs(2, (128, 64))).instance == "trn2.48xlarge"
