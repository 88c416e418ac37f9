"""Two programs of a kernel on the cores of a logical NeuronCore: exchanges, barriers, and what is wrong with them."""

import signal
import threading

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import nki  # noqa: E402
import nki.collectives as ncc  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402


@nki.jit
def swap(a):
    """Each program takes its half of a, and adds the other's to it."""
    me = nl.program_id(0)
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    mine, other = nl.load(a[me]), nl.ndarray(a.shape[1:], a.dtype)
    for pipe in range(3):
        nisa.sendrecv(src=mine, dst=other, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=pipe)
        nisa.tensor_tensor(mine, mine, other, nl.add)
    nisa.dma_copy(out[me], mine)
    nisa.core_barrier(out, (0, 1))
    theirs = nl.load(out[1 - me])
    back = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(back[me], theirs)
    return out, back


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 128, 33), (2, 31, 1000)])
def test_programs_exchange_tiles(shape):
    a = np.random.default_rng(1).integers(-9, 9, shape).astype(np.float32)
    out, back = swap[2](a)
    np.testing.assert_array_equal(out, np.broadcast_to(4 * (a[0] + a[1]), shape))
    np.testing.assert_array_equal(back, out[::-1])


def test_a_run_is_as_any_other_and_leaves_no_thread():
    a = np.random.default_rng(2).standard_normal((2, 64, 100)).astype(np.float32)
    first = swap[2](a)[0]
    n_threads = threading.active_count()
    for _ in range(3):
        np.testing.assert_array_equal(swap[2](a)[0], first)
    left = [t for t in threading.enumerate() if t.is_alive() and t.name.startswith(("program", "rank"))]
    for thread in left:  # such as were not to begin any more
        thread.join(10)
    assert not any(t.is_alive() for t in left)


def kernel_of(first, second):
    @nki.jit
    def kernel(a):
        tile, other = nl.load(a), nl.ndarray(a.shape, a.dtype)
        me = nl.program_id(0)

        def exchange(pipe):
            nisa.sendrecv(tile, other, 1 - me, 1 - me, pipe)

        def barrier():
            nisa.core_barrier(a, (0, 1))

        (first if me == 0 else second)(exchange, barrier)
        return a

    return kernel


@pytest.mark.parametrize("first, second, text", [
    (lambda x, b: b(), lambda x, b: None, "core 0 waits in core_barrier at .*core 1 is through"),
    (lambda x, b: None, lambda x, b: b(), "core 1 waits in core_barrier at .*core 0 is through"),
    (lambda x, b: (x(0), b()), lambda x, b: x(0), "core 0 waits in core_barrier at .*core 1 is through"),
    (lambda x, b: x(0), lambda x, b: (x(0), x(1)), "core 1 waits in sendrecv at .*core 0 is through"),
    (lambda x, b: b(), lambda x, b: x(2), "core 1 waits in sendrecv at .*core 0 in core_barrier at"),
    (lambda x, b: x(1), lambda x, b: x(2), "core 1 waits in sendrecv at .*core 0 in sendrecv at"),
])
def test_programs_that_never_meet_are_a_deadlock(first, second, text):
    n_threads = threading.active_count()
    with pytest.raises(vtrn.nki.NkiValidationError, match=text) as caught:
        kernel_of(first, second)[2](np.ones((2, 2), np.float32))
    assert caught.value.category == "deadlock"
    left = [t for t in threading.enumerate() if t.is_alive() and t.name.startswith(("program", "rank"))]
    for thread in left:  # such as were not to begin any more
        thread.join(10)
    assert not any(t.is_alive() for t in left)


def test_an_error_of_either_program_ends_the_launch():
    def fails(x, b):
        x(0)
        raise KeyError("mine")

    for first, second in ((fails, lambda x, b: (x(0), b())), (lambda x, b: (x(0), b()), fails)):
        with pytest.raises(KeyError, match="mine"):
            kernel_of(first, second)[2](np.ones((2, 2), np.float32))


def test_an_exchange_needs_two_programs():
    with pytest.raises(vtrn.nki.NkiValidationError, match=r"kernel\[2\]"):
        kernel_of(lambda x, b: b(), None)(np.ones((2, 2), np.float32))


def test_each_core_has_its_own_memory():
    """Both programs hold tiles of 120 KiB a partition, which one core has no room for."""
    @nki.jit
    def kernel(a):
        me = nl.program_id(0)
        out = nl.ndarray((2, *a.shape), a.dtype, buffer=nl.shared_hbm)
        tile = nl.load(a)
        nisa.core_barrier(out, (0, 1))
        nisa.dma_copy(out[me], tile)
        return out

    a = np.random.default_rng(3).standard_normal((128, 30 * 1024)).astype(np.float32)
    np.testing.assert_array_equal(kernel[2](a), np.stack([a, a]))


def test_each_core_has_its_own_sums():
    @nki.jit
    def kernel(a):
        me = nl.program_id(0)
        out = nl.ndarray((2, 64, 1), np.float32, buffer=nl.shared_hbm)
        tile, total, other = nl.load(a[me]), nl.ndarray((64, 1), np.float32), nl.ndarray(a.shape[1:], a.dtype)
        nisa.activation(tile, nl.copy, tile, reduce_op=nl.add, reduce_cmd=nisa.reduce_cmd.reset_reduce)
        nisa.sendrecv(tile, other, 1 - me, 1 - me, 0)
        nisa.activation(tile, nl.copy, tile, reduce_op=nl.add, reduce_res=total, reduce_cmd=nisa.reduce_cmd.reduce)
        nisa.dma_copy(out[me], total)
        return out

    a = np.random.default_rng(4).integers(-9, 9, (2, 64, 50)).astype(np.float32)
    np.testing.assert_array_equal(kernel[2](a), 2 * a.sum(2, keepdims=True))


def busy(n_each, has_barrier):
    """Program i does n_each[i] instructions, then both may meet, then each does one more."""
    @nki.jit
    def kernel(a):
        me = nl.program_id(0)
        out = nl.ndarray((2, *a.shape), a.dtype, buffer=nl.shared_hbm)
        x = nl.load(a)
        for _ in range(n_each[me]):
            nisa.tensor_scalar(x, x, nl.add, 1.0)
        nisa.dma_copy(out[me], x)
        if has_barrier:
            nisa.core_barrier(out, (0, 1))
        nisa.tensor_scalar(x, x, nl.add, 1.0)
        nisa.dma_copy(out[me], x)
        return out

    return kernel


A = np.zeros((128, 512), np.float32)


@pytest.mark.parametrize("has_barrier", [False, True])
def test_two_cores_work_at_the_same_time(has_barrier):
    done = {n: vtrn.nki.profile(busy(n, has_barrier))[2](A) for n in ((40, 0), (0, 40), (40, 40))}
    times = {n: d.latency_ns for n, d in done.items()}
    assert times[40, 0] == times[0, 40]
    assert times[40, 40] == pytest.approx(times[40, 0], rel=0.02)  # they share HBM
    np.testing.assert_array_equal(done[40, 0].result[:, 0, 0], [41, 1])
    assert done[40, 40].n_instructions > done[40, 0].n_instructions + 39
    assert done[40, 40].vector_active > 1.5 * done[40, 0].vector_active  # the mean of both


def test_what_follows_a_barrier_begins_when_both_have_come():
    short, late, none = (vtrn.nki.profile(busy(n, True))[2](A).latency_ns for n in ((0, 0), (0, 40), (0, 80)))
    assert late - short > 30 * 512 / 1.4 and none - late == pytest.approx(late - short, rel=0.1)
    apart = vtrn.nki.profile(busy((0, 40), False))[2](A).latency_ns
    assert late > apart


def test_an_exchange_takes_time_of_both_cores_and_the_tuner_knows_it(tmp_path):
    a = np.random.default_rng(1).integers(-9, 9, (2, 64, 100)).astype(np.float32)
    done = vtrn.nki.profile(swap, tmp_path)[2](a)
    np.testing.assert_array_equal(done.result[0], np.broadcast_to(4 * (a[0] + a[1]), a.shape))
    assert done.directory == "" and done.latency_ns > 8000  # 3 exchanges, a load and two stores, each some 2 us
    again = vtrn.nki.profile(swap, tmp_path)[2](a)
    assert again.latency_ns == done.latency_ns

    @nki.jit
    def kernel(a, n):
        out, me = nl.ndarray((2, 128, 64), a.dtype, buffer=nl.shared_hbm), nl.program_id(0)
        x, y = nl.load(a), nl.ndarray(a.shape, a.dtype)
        for i in range(n):
            nisa.sendrecv(src=x, dst=y, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=0)
        nisa.dma_copy(out[me], x)
        return out

    tuned = vtrn.nki.tune(kernel[2], {"n": [3, 1, 2]})(np.ones((128, 64), np.float32))
    times = {v.parameters["n"]: v.latency_ns for v in tuned.variants}
    assert times[1] < times[2] < times[3] and tuned.best.parameters == {"n": 1}


def test_two_cores_are_refused_in_a_program_of_one():
    jax = pytest.importorskip("jax")
    with pytest.raises(vtrn.nki.NkiValidationError, match="this is a program of one"):
        jax.jit(lambda a: swap[2](a))(np.ones((2, 4, 4), np.float32))


def test_a_launch_over_two_cores_leaves_nothing_behind():
    import gc
    import weakref

    seen = []

    def kernel(a):
        tile = nl.load(a)
        seen.append(weakref.ref(nl.program_id.__globals__["tensor"].launch.turns))
        nisa.core_barrier(tile, (0, 1))
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        nl.store(out, tile)
        return out

    gc.disable()  # a cycle would keep the session, and its memory, until Python looks for cycles
    try:
        nki.jit(kernel)[2](np.ones((4, 8), np.float32))
        assert len(seen) == 2 and seen[0]() is None
    finally:
        gc.enable()


def race_kernel(body):
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        tile = nl.load(a)
        body(nl.program_id(0), out, tile)
        return out

    return kernel


HALF = np.arange(32, dtype=np.float32).reshape(8, 4)


def halves(me, out, tile):
    nisa.dma_copy(dst=out[4 * me:4 * me + 4], src=tile[4 * me:4 * me + 4])


def alike(me, out, tile):  # both write the same values
    nisa.dma_copy(dst=out, src=tile)


def ordered(me, out, tile):
    halves(me, out, tile)
    nisa.core_barrier(out, (0, 1))
    nisa.dma_copy(dst=tile[4 * (1 - me):4 * (1 - me) + 4], src=out[4 * me:4 * me + 4])
    nisa.core_barrier(out, (0, 1))
    nisa.dma_copy(dst=tile, src=out)
    both = nl.ndarray(tile.shape, tile.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=both, src=tile)  # the same values of either, which each may read back
    nisa.dma_copy(dst=tile, src=both)


def overwrites(me, out, tile):
    nisa.tensor_scalar(tile, tile, nl.add, float(me))
    nisa.dma_copy(dst=out[:, 1:3], src=tile[:, 1:3])
    nisa.dma_copy(dst=out[:, 0:1], src=tile[:, 0:1])
    nisa.dma_copy(dst=out[:, 3:4], src=tile[:, 3:4])


def reads(me, out, tile):
    if me == 0:
        nisa.dma_copy(dst=out, src=tile)
    else:
        nisa.dma_copy(dst=tile, src=out)


def reads_before(me, out, tile):
    nisa.dma_copy(dst=out, src=tile)
    nisa.core_barrier(out, (0, 1))
    if me == 0:
        nisa.dma_copy(dst=tile, src=out)
    else:
        nisa.tensor_scalar(tile, tile, nl.add, 1.0)
        nisa.dma_copy(dst=out, src=tile)


@pytest.mark.parametrize("body", [halves, alike, ordered])
def test_programs_that_a_barrier_orders_do_not_race(body, monkeypatch):
    monkeypatch.setenv("VTRN_NKI_RACES", "error")
    np.testing.assert_array_equal(race_kernel(body)[2](HALF), HALF)


@pytest.mark.parametrize("body, text", [
    (overwrites, r"core 1 overwrites 64 bytes of hbm\[8, 2\] fp32 that core 0 wrote, and nothing orders the two; put nisa.core_barrier"),
    (reads, r"core 1 reads 128 bytes of hbm\[8, 4\] fp32 that core 0 wrote"),
    (reads_before, r"core (1 overwrites 128 bytes.* that core 0 reads|0 reads 128 bytes .* that core 1 wrote)"),
])
def test_accesses_of_two_cores_that_nothing_orders_are_told(body, text, monkeypatch):
    place = r"; at .*test_nki_cores.py:\d+, and before at .*test_nki_cores.py:\d+"
    with pytest.warns(UserWarning, match="kernel: race: " + text + ".*" + place):
        race_kernel(body)[2](HALF)
    monkeypatch.setenv("VTRN_NKI_RACES", "error")
    with pytest.raises(vtrn.nki.NkiValidationError, match=text) as caught:
        race_kernel(body)[2](HALF)
    assert caught.value.category == "hazard"
    monkeypatch.setenv("VTRN_NKI_RACES", "ignore")
    race_kernel(body)[2](HALF)
    monkeypatch.setenv("VTRN_NKI_RACES", "often")
    with pytest.raises(ValueError, match="warn, error, ignore"):
        race_kernel(body)[2](HALF)


@nki.jit
def exchanged_by_cores(a):
    me, out = nl.program_id(0), nl.ndarray((2, 128, 16), nl.float32, buffer=nl.shared_hbm)
    x, y = nl.load(a[me]), nl.ndarray((128, 16), nl.float32)
    for _ in range(8):
        nisa.sendrecv(src=x, dst=y, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=0)
    nl.store(out[me], y)
    return out


@nki.jit
def exchanged_by_ranks(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(out, x)
    for _ in range(9):
        ncc.collective_permute([out], [out], [(0, 1), (1, 0)])
    return out


def by_cores(a):
    return exchanged_by_cores[2](a)


def by_ranks(a):
    return np.stack(vtrn.nki.run_ranks(exchanged_by_ranks, list(a)))


@pytest.mark.parametrize("exchange", [by_cores, by_ranks])
def test_an_interrupt_ends_all_programs_wherever_it_comes(exchange):
    """Also while a program's thread starts, or passes the turn on: the launch ends, and later ones are right."""
    class Interrupt(BaseException):
        pass

    is_armed = False

    def interrupt(*_):
        if is_armed:  # it may come late, behind what it is to interrupt
            raise Interrupt

    a = np.arange(2 * 128 * 16, dtype=np.float32).reshape(2, 128, 16)
    want, n_ended = exchange(a), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(100):
            try:
                is_armed = True
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + i))
                exchange(a)
                is_armed = False
            except (Interrupt, RuntimeError) as error:
                is_armed = False
                # Of a lock that Python had not taken yet when the interrupt came while it started a thread.
                assert isinstance(error, Interrupt) or "release" in str(error)
                n_ended += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            np.testing.assert_array_equal(exchange(a), want)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert n_ended > 10
    left = [t for t in threading.enumerate() if t.is_alive() and t.name.startswith(("program", "rank"))]
    for thread in left:  # such as were not to begin any more
        thread.join(10)
    assert not any(t.is_alive() for t in left)
    np.testing.assert_array_equal(want, a[::-1])
