"""Kernels of vtrn.nki as wholes: what users call, what is checked, what comes out."""

import os
import re
import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import nki  # noqa: E402
import nki.compiler  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402

BF16 = ml_dtypes.bfloat16
rng = np.random.default_rng(3)
A = rng.standard_normal((128, 512)).astype(np.float32)


@nki.jit
def doubled(a):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.add(nl.load(a), nl.load(a)))
    return out


@nki.jit
def matmul(lhs_t, rhs):
    (k, m), n = lhs_t.shape, rhs.shape[1]
    out = nl.ndarray((m, n), nl.float32, buffer=nl.shared_hbm)
    for i in nl.affine_range(m // 128):
        for j in nl.affine_range(n // 512):
            total = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
            for c in nl.affine_range(k // 128):
                x, y = nl.ndarray((128, 128), lhs_t.dtype), nl.ndarray((128, 512), rhs.dtype)
                nisa.dma_copy(x, lhs_t[c * 128:(c + 1) * 128, nl.ds(i * 128, 128)])
                nisa.dma_copy(y, rhs[c * 128:(c + 1) * 128, nl.ds(j * 512, 512)])
                nisa.nc_matmul(total, x, y)
            done = nl.copy(total)
            nisa.dma_copy(out[i * 128:(i + 1) * 128, j * 512:(j + 1) * 512], done)
    return out


@nki.jit
def flash_attention(q, k, v):
    """One head: q, k [d, n], v [n, d], tiles of 128 queries by 512 keys, running maximum and sum."""
    d, n = q.shape
    out = nl.ndarray((n, d), nl.float32, buffer=nl.shared_hbm)
    values = [nl.load(v[j * 128:(j + 1) * 128, :]) for j in range(n // 128)]
    keys = nl.load(k)
    for i in nl.affine_range(n // 128):
        query = nl.load(q[:, i * 128:(i + 1) * 128])
        largest, total, result = nl.full((128, 1), -1e30, nl.float32), nl.zeros((128, 1), nl.float32), \
            nl.zeros((128, d), nl.float32)
        for j in nl.sequential_range(n // 512):
            scores = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
            nisa.nc_matmul(scores, query, keys[:, j * 512:(j + 1) * 512])
            top, negated, shrink = (nl.ndarray((128, 1), nl.float32) for _ in range(3))
            nisa.tensor_reduce(top, nl.maximum, scores, 1)
            nisa.tensor_tensor(top, top, largest, nl.maximum)
            nisa.tensor_scalar(negated, top, nl.multiply, -1.0)
            nisa.activation(shrink, nl.exp, largest, bias=negated)
            weights, partial = nl.ndarray((128, 512), v.dtype), nl.ndarray((128, 1), nl.float32)
            nisa.activation_reduce(weights, nl.exp, scores, nl.add, partial, bias=negated)
            nisa.scalar_tensor_tensor(total, total, nl.multiply, shrink, nl.add, partial)
            product = nl.ndarray((128, d), nl.float32, buffer=nl.psum)
            for c in range(4):
                turned = nl.ndarray((128, 128), v.dtype, buffer=nl.psum)
                nisa.nc_transpose(turned, weights[:, c * 128:(c + 1) * 128])
                nisa.nc_matmul(product, nl.copy(turned), values[j * 4 + c])
            nisa.scalar_tensor_tensor(result, result, nl.multiply, shrink, nl.add, product)
            nisa.tensor_copy(largest, top)
        nisa.reciprocal(total, total)
        nisa.tensor_scalar(result, result, nl.multiply, total)
        nl.store(out[i * 128:(i + 1) * 128, :], result)
    return out


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_a_kernel_gives_what_numpy_gives():
    np.testing.assert_array_equal(doubled(A), A + A)
    np.testing.assert_array_equal(nki.simulate(doubled)(A), A + A)
    assert doubled(A.astype(BF16)).dtype == BF16


def test_a_kernel_keeps_the_face_of_its_function():
    assert matmul.__name__ == "matmul" and "lhs_t" in str(matmul.__signature__)
    assert nki.jit(mode="trace")(doubled) is doubled


def test_matmul_and_its_profile(tmp_path):
    a, b = (rng.standard_normal(s).astype(BF16) for s in ((256, 256), (256, 1024)))
    done = vtrn.nki.profile(matmul, tmp_path)(a, b)
    np.testing.assert_allclose(done.result, a.astype(np.float32).T @ b.astype(np.float32), rtol=1e-4, atol=1e-4)
    assert done.flops == 2 * 256 * 256 * 1024
    assert done.latency_ns > 0 and 0 < done.mfu < 1 and 0 < done.tensor_active < 1
    assert {p.name for p in tmp_path.iterdir()} >= {"profile.html", "profile.json", "profile.pftrace"}
    assert "test_nki_kernels.py" in (tmp_path / "profile.html").read_text()


def test_flash_attention(tmp_path):
    d, n = 64, 1024
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((d, n), (d, n), (n, d)))
    done = vtrn.nki.profile(flash_attention, tmp_path)(q, k, v)
    want = softmax(q.T.astype(np.float64) @ k) @ v
    np.testing.assert_allclose(done.result, want, rtol=2e-4, atol=2e-5)


def test_layers_of_the_language():
    """softmax, mean and variance by nl's functions."""
    def kernel(x, gamma):
        out = nl.ndarray((2, *x.shape), nl.float32, buffer=nl.shared_hbm)
        tile = nl.load(x)
        nl.store(out[0], nl.softmax(tile))
        scaled = nl.ndarray(x.shape, nl.float32)
        squares = nl.mean(nl.square(tile), axis=1)
        nisa.tensor_scalar(scaled, tile, nl.multiply, nl.rsqrt(nl.add(squares, 1e-6)))
        nl.store(out[1], nl.multiply(scaled, nl.broadcast_to(nl.load(gamma), x.shape)))
        return out

    gamma = rng.standard_normal((1, 512)).astype(np.float32)
    got = nki.jit(kernel)(A, gamma)
    np.testing.assert_allclose(got[0], softmax(A.astype(np.float64)), rtol=1e-5, atol=1e-7)
    want = A / np.sqrt(np.mean(A.astype(np.float64) ** 2, 1, keepdims=True) + 1e-6) * gamma
    np.testing.assert_allclose(got[1], want, rtol=1e-5, atol=1e-6)


def test_sine_takes_whole_turns_off_first():
    def kernel(x):
        out = nl.ndarray(x.shape, nl.float32, buffer=nl.shared_hbm)
        nl.store(out, nl.sin(nl.load(x)))
        return out

    x = np.concatenate([rng.uniform(-10, 10, (128, 300)), rng.uniform(-1e5, 1e5, (128, 212))], 1).astype(np.float32)
    x[0, :9] = [0, -0.0, np.pi, -np.pi, 3 * np.pi, 9.0, 1e-30, np.pi / 2, 1e5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = nki.jit(kernel)(x)
    np.testing.assert_allclose(got, np.sin(x.astype(np.float64)), rtol=0, atol=1e-6)


def test_an_activation_with_angles_that_the_chip_gets_wrong_warns():
    def kernel(x, scale):
        tile = nl.load(x)
        nisa.activation(tile, nl.sin, tile, scale=scale)
        out = nl.ndarray(x.shape, nl.float32, buffer=nl.shared_hbm)
        nl.store(out, tile)
        return out

    x = np.full((4, 5), 3.1, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nki.jit(kernel)(x, 1.0)
    with pytest.warns(UserWarning, match=r"angles up to 9\.3;.*nl\.sin takes whole turns off") as caught:
        nki.jit(kernel)(x, 3.0)
    assert caught[0].filename == __file__


def test_a_grid_runs_each_program_on_shared_tensors():
    def kernel(a):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        i, j = nl.program_id(0), nl.program_id(1)
        nl.store(out[nl.ds(i * 32, 32), nl.ds(j * 256, 256)],
                 nl.multiply(nl.load(a[nl.ds(i * 32, 32), nl.ds(j * 256, 256)]), nl.num_programs(0)))
        return out

    np.testing.assert_array_equal(nki.jit(kernel)[4, 2](A), A * 4)


def test_a_kernel_writes_to_its_argument_in_place(tmp_path):
    def kernel(a):
        nisa.dma_copy(a[0:64], nl.multiply(nl.load(a[0:64]), 2.0))
        return a

    a = A.copy()
    done = vtrn.nki.profile(kernel, tmp_path)(a)
    want = A.copy()
    want[:64] *= 2
    np.testing.assert_array_equal(a, want)
    np.testing.assert_array_equal(done.result, want)


def test_kernels_call_kernels_and_return_structures():
    def kernel(a):
        return doubled(a), [doubled(a), None]

    one, (two, none) = nki.jit(kernel)(A)
    np.testing.assert_array_equal(one, A + A)
    np.testing.assert_array_equal(two, A + A)
    assert none is None


def test_registers_and_dynamic_loops():
    def kernel(a, n):
        out = nl.ndarray((1, 1), nl.float32, buffer=nl.shared_hbm)
        count, total = nisa.register_alloc(), nl.zeros((1, 1), nl.float32)
        nisa.register_load(count, nl.load(n))
        nl.fori_loop(0, count, lambda i: nisa.tensor_tensor(total, total, nl.load(a[0:1, nl.ds(i, 1)]), nl.add))
        nl.store(out, total)
        return out

    a = np.arange(10, dtype=np.float32).reshape(1, 10)
    assert nki.jit(kernel)(a, np.full((1, 1), 7, np.int32))[0, 0] == 21


NO_SPILLS = nki.compiler.CompileConfig(nki_alloc_fallback=False)


def failure(kernel, *arrays):
    with pytest.raises(vtrn.nki.NkiValidationError) as e:
        nki.jit(kernel, compile_config=NO_SPILLS)(*arrays)
    return str(e.value)


def line_of(kernel, text):
    import inspect

    lines, first = inspect.getsourcelines(kernel)
    return f"test_nki_kernels.py:{first + next(i for i, line in enumerate(lines) if text in line)}"


def test_an_unwritten_element_is_told_where_it_is_read():
    def kernel(a):
        tile = nl.ndarray((128, 512), nl.float32)
        nisa.dma_copy(tile[:, 0:300], a[:, 0:300])
        nisa.memset(tile[5:128, 300:512], 0)  # partition rule is broken below, not here

    message = failure(kernel, A)
    assert "may not start at partition 5" in message and line_of(kernel, "5:128") in message

    def reads(a):
        tile = nl.ndarray((128, 512), nl.float32)
        nisa.dma_copy(tile[:, 0:300], a[:, 0:300])
        nisa.memset(tile[0:64, 300:512], 0)
        nl.exp(tile)

    message = failure(reads, A)
    assert "uninitialised" in message and "first [64, 300]" in message and str(64 * 212) in message
    assert line_of(reads, "nl.exp") in message


@pytest.mark.parametrize("text, body", [
    ("start at partition 16", lambda t, a: nisa.tensor_copy(t[16:80, :], t[16:80, :])),
    ("128", lambda t, a: nl.load(np_like(a))),
    ("contracts over 128 partitions", lambda t, a: nisa.nc_matmul(psum(64, 512), t[:, 0:64], t[0:64, :])),
    ("64 partitions", lambda t, a: nisa.nc_matmul(psum(64, 512), t[:, 0:128], t)),
    ("does not", lambda t, a: nisa.nc_matmul(nl.ndarray((64, 512), nl.float32), t[:, 0:64], t)),
    ("elements a partition", lambda t, a: nisa.tensor_tensor(nl.ndarray((128, 512), nl.float32), t, t[:, 0:100],
                                                             nl.add)),
    ("raw bits", lambda t, a: nisa.tensor_tensor(t, t, t, nl.bitwise_and)),
    ("from element", lambda t, a: nisa.tensor_copy(t[:, 0:4], t.ap([[512, 128], [1, 4]], offset=510))),
    ("does not read PSUM", lambda t, a: nisa.dma_copy(a, psum(128, 512))),
], ids=["partition start", "partitions", "contraction", "result", "result in SBUF", "elements", "bits", "bounds",
        "DMA from PSUM"])
def test_rules_of_the_chip_name_values_and_line(text, body):
    def kernel(a):
        body(nl.load(a), a)

    message = failure(kernel, A)
    assert text in message and "test_nki_kernels.py:" in message, message


def psum(*shape):
    return nl.ndarray(shape, nl.float32, buffer=nl.psum)


def np_like(a):
    return nl.ndarray((256, 4), nl.float32, buffer=nl.hbm)


def test_an_index_beyond_a_tensor_is_an_error():
    def kernel(a):
        nl.load(a[0:129, 0:4])

    with pytest.raises(IndexError, match="128 of dimension 0, which has 128"):
        nki.jit(kernel)(A)


def test_tiles_that_live_together_must_fit(monkeypatch):
    """Capacity counts from a tile's first use to its last, not while Python holds it."""
    def add(total, tile):
        part = nl.ndarray((128, 1), nl.float32)
        nisa.tensor_reduce(part, nl.add, tile, 1)
        nisa.tensor_tensor(total, total, part, nl.add)

    def kernel(a, reads_at_once):
        out = nl.ndarray((128, 1), nl.float32, buffer=nl.shared_hbm)
        total, tiles = nl.zeros((128, 1), nl.float32), []
        for _ in range(6):
            tiles.append(nl.ndarray((128, 12000), nl.float32))  # 48,000 bytes a partition of 208 KiB usable
            nisa.memset(tiles[-1], 0.5)
            nisa.tensor_scalar(tiles[-1], tiles[-1], nl.multiply, 2.0)  # what a tile holds is no load that may wait
            if reads_at_once:
                add(total, tiles[-1])
        if not reads_at_once:
            for tile in tiles:
                add(total, tile)
        nl.store(out, total)
        return out

    monkeypatch.setenv("VTRN_CHIP", "trn2")
    assert (nki.jit(kernel)(A, True) == 72000).all()
    message = failure(kernel, A, False)
    assert "SBUF" in message and "48000 bytes" in message and line_of(kernel, "memset") in message


def test_tiles_placed_by_hand_may_not_overlap_while_in_use():
    def kernel(a, offset):
        one = nl.ndarray((128, 512), nl.float32, address=(0, 0))
        two = nl.ndarray((128, 512), nl.float32, address=(0, offset))
        nisa.dma_copy(one, a)
        nisa.dma_copy(two, a)
        nisa.tensor_tensor(two, one, two, nl.add)

    nki.jit(kernel)(A, 2048)
    assert "overlap" in failure(kernel, A, 1024)


def test_what_is_placed_by_hand_overwrites_what_was_there():
    def kernel(a):
        out = nl.ndarray((2, 128, 512), a.dtype, buffer=nl.shared_hbm)
        held = []
        for i in range(2):
            tile = nl.ndarray((128, 512), nl.float32, address=(0, 1024))
            nisa.dma_copy(tile, a)
            nisa.tensor_scalar(tile, tile, nl.multiply, float(i + 1))
            nisa.dma_copy(out[i], tile)
            held.append(tile)
        unwritten = nl.ndarray((128, 512), nl.float32, address=(0, 1024))
        if late:
            nisa.dma_copy(out[0], unwritten)
        return out

    late = False
    assert np.array_equal(nki.jit(kernel)(A), np.stack([A, 2 * A]))
    late = True
    assert "nothing has written" in failure(kernel, A)


def test_a_scalar_offset_beyond_its_dimension_is_skipped_or_an_error():
    def kernel(a, row, mode, stores=False):
        out = nl.ndarray((4, 128), a.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(out, a[0:4, 0:128])
        number = nl.ndarray((1, 1), nl.int32)
        nisa.memset(number, row)
        tile = nl.full((1, 128), 7.0, nl.float32)
        if stores:
            nisa.dma_copy(out.ap([[128, 1], [1, 128]], scalar_offset=number, indirect_dim=0), tile, oob_mode=mode)
        else:
            nisa.dma_copy(tile, a.ap([[512, 1], [1, 128]], scalar_offset=number, indirect_dim=0), oob_mode=mode)
            nisa.dma_copy(out[0:1], tile)
        return out

    run = nki.jit(kernel)
    error, skip = nisa.oob_mode.error, nisa.oob_mode.skip
    assert np.array_equal(run(A, 5, error)[0], A[5, :128])
    for row in (128, -1):
        assert (run(A, row, skip)[0] == 7).all()
        assert np.array_equal(run(A, row, skip, True), A[:4, :128])
        with pytest.raises(IndexError, match=f"scalar_offset is {row}, and dimension 0 has 128"):
            run(A, row, error)


def test_values_are_there_at_each_line():
    seen = []

    def kernel(a):
        tile = nl.load(a[0:2, 0:3])
        seen.append(str(tile))
        seen.append(np.asarray(tile))

    nki.jit(kernel)(A)
    assert "sbuf[2, 3] float32" in seen[0]
    np.testing.assert_array_equal(seen[1], A[0:2, 0:3])


def test_a_view_beyond_its_tensor_shows_no_other_memory():
    def kernel(a):
        return str(nl.load(a).ap([[512, 128], [1, 512]], offset=1000000))

    assert "a view reaches" in failure(kernel, A)

    def multiplies(a):
        tile = nl.load(a)
        nisa.nc_matmul(psum(128, 512).ap([[512, 128], [1, 512]], offset=10**9), tile[:, 0:128], tile)

    assert "a view reaches" in failure(multiplies, A)


def test_kernels_of_several_threads_take_turns():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        for i, got in enumerate(pool.map(doubled, [A * i for i in range(16)])):
            np.testing.assert_array_equal(got, A * i + A * i)


def test_types_compare_with_numpys():
    assert nl.float32 == np.float32 and nl.bfloat16 == BF16 and nl.float32 != np.float16
    assert str(nl.float32) == "float32" and np.dtype(nl.bfloat16) == BF16
    assert nl.ndarray | tuple  # an annotation
    with pytest.raises(ValueError, match="Unsupported dtype"):
        doubled(A.astype(np.float64))


def test_a_result_that_is_not_all_written_is_told():
    def kernel(a):
        out = nl.ndarray((128, 512), nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(out[0:64], a[0:64])
        return out

    with pytest.warns(UserWarning, match="nothing has written 32768"):
        nki.jit(kernel)(A)


def test_a_script_runs_with_vtrn_in_the_place_of_nki(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""import sys
import numpy as np
import nki
import nki.isa as nisa
import nki.language as nl
from nki.typing import tensor

@nki.jit
def kernel(a):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.exp(nl.load(a)))
    return out

print(kernel(np.zeros((2, 3), np.float32)).sum(), sys.argv[1])
""")
    done = subprocess.run([sys.executable, "-m", "vtrn.nki", str(script), "word"], capture_output=True, text=True,
                          env=os.environ)
    assert done.stdout == "6.0 word\n", done.stderr


def test_what_python_cannot_do_with_a_tile_says_what_does():
    @nki.jit
    def compares(x):
        tile = nl.load(x)
        return nl.zeros((1, 1), nl.float32) if tile > 3 else tile

    with pytest.raises(TypeError, match="not compared by Python.*nl.greater"):
        compares(np.ones((4, 4), np.float32))

    @nki.jit
    def copies(x):
        tile = nl.ndarray((1, 3), nl.float32, nl.sbuf)
        nisa.dma_copy(tile, x)
        return tile

    with pytest.raises(TypeError, match="dma_copy: src is a list, not a tensor"):
        copies([1.0, 2.0, 3.0])


@pytest.mark.parametrize("ask, said", [
    (lambda tile: 1 if tile[0:1, 0:1] else 2, "a tile has no truth for `if`"),
    (lambda tile: not tile[3:4, 5:6], "a tile has no truth for `if`"),
    (lambda tile: tile == 0, "a tile is not compared with int by Python.*nl.equal"),
    (lambda tile: tile != 1.5, "a tile is not compared with float by Python.*nl.equal"),
    (lambda tile: tile == np.float32(0), "a tile is not compared with float32 by Python"),
    (lambda tile: np.float32(0) == tile, "a tile is not compared with float32 by Python"),
    (lambda tile: np.zeros(3) != tile, "a tile is not compared with ndarray by Python"),
    (lambda tile: np.float32(0) > tile, "a tile is not compared by Python"),
    (lambda tile: tile == nisa.register_alloc(), "a tile is not compared with VirtualRegister by Python"),
])
def test_a_tile_is_no_condition(ask, said):
    @nki.jit
    def kernel(x):
        ask(nl.load(x))
        return x

    with pytest.raises(vtrn.nki.NkiValidationError, match=said) as e:
        kernel(A)
    assert re.search(r"\n  at .*test_nki_kernels\.py:[0-9]+", str(e.value))


def test_an_optional_tile_that_was_given_is_true_with_a_warning():
    """nki-library's kernels ask so, of tiles in SBUF too."""
    @nki.jit
    def kernel(x):
        tile = nl.load(x)
        return x if tile and not None else None

    with pytest.warns(UserWarning, match="a tile as a condition is true, whatever its elements: nl.equal") as warned:
        assert kernel(A) is not None
    assert warned[0].filename == __file__


@pytest.mark.parametrize("take, said", [
    (lambda x: nl.load(x)[:, 1:A.shape[1] + 1], r"subscript slice\(1, {1}, None\) of a tensor in sbuf of shape \({0}, .*\): index {2}"),
    (lambda x: x[0:A.shape[0] + 1], r"subscript slice\(0, .*of a tensor in private_hbm .*: index {0} of dimension 0"),
    (lambda x: nl.load(x)[0, 0, 0], "there are more of them than dimensions"),
    (lambda x: nl.load(x).select(1, 9999), "select: index 9999 of dimension 1 of a tensor in sbuf of shape"),
    (lambda x: nl.ndarray((4, 300), nl.float32, name="scores")[4:5], "of a tensor scores in sbuf of shape"),
])
def test_a_subscript_out_of_range_names_tensor_and_line(take, said):
    @nki.jit
    def kernel(x):
        take(x)
        return x

    said = said.replace("{0}", str(A.shape[0])).replace("{1}", str(A.shape[1] + 1)).replace("{2}", str(A.shape[1]))
    with pytest.raises(IndexError, match=said) as e:
        kernel(A)
    assert re.search(r"\n  at .*test_nki_kernels\.py:[0-9]+", str(e.value))


@pytest.mark.parametrize("call, kind, said", [
    (lambda t: nl.sum(t, axis=5), ValueError, r"nl.sum: axis=5 of a tile of shape .*; its axes are 0 to 1"),
    (lambda t: nl.mean(t, axis=(1, 1)), ValueError, "nl.mean: axis="),
    (lambda t: nl.var(t, axis=-5), ValueError, "nl.var: axis=-5 of a tile"),
    (lambda t: nl.softmax(t, axis=2), ValueError, "nl.softmax: axis=2 of a tile"),
    (lambda t: nl.softmax(t.reshape((t.shape[0], 2, -1))), ValueError, "nl.softmax: .* all free dimensions at once"),
    (lambda t: nl.max(t, axis=1.0), TypeError, "nl.max: axis=1.0; it is an integer"),
    (lambda t: nisa.tensor_reduce(t, nl.add, t, axis=9), ValueError, "tensor_reduce: axis=9 of a tile"),
    (lambda t: nl.ndarray((128, 0), nl.float32), vtrn.nki.NkiValidationError, "without elements: dimension 1 is 0"),
])
def test_axes_and_shapes_that_are_wrong_are_told(call, kind, said):
    @nki.jit
    def kernel(x):
        call(nl.load(x))
        return x

    with pytest.raises(kind, match=said):
        kernel(A)


def test_an_argument_without_elements_is_named():
    with pytest.raises(ValueError, match=r"argument x has shape \(0, 8\), which has no elements"):
        nki.jit(lambda x: x)(np.zeros((0, 8), np.float32))


@pytest.mark.parametrize("make", [lambda room: nl.ndarray((128, room + 4), nl.uint8),
                                  lambda room: nl.ndarray((128, 4), nl.uint8, address=(0, room - 2))])
def test_what_a_kernel_has_of_sbuf_is_one_figure(make):
    @nki.jit
    def kernel(x):
        make(nl.tile_size.total_available_sbuf_size)
        return x

    with pytest.raises(vtrn.nki.NkiValidationError, match="SBUF of trn2 has 212992 for kernels, 16384 being reserved"):
        kernel(A)


def test_tensors_are_found_by_identity():
    @nki.jit
    def kernel(x, bias=None):
        one, other = nl.load(x), nl.load(x)
        assert one == one and not one != one and one != other and not one == other
        assert one != None and not one == None  # noqa: E711
        assert [other, one].index(one) == 1 and {one: 1, other: 2}[other] == 2
        assert bias if bias is not None else x  # an argument that was given
        return x

    kernel(A), kernel(A, A)


@pytest.mark.parametrize("call, said", [
    (lambda f: f([1.0, 2.0], [3.0, 4.0]), r"added: argument a is a list.*\.shape, at .*np\.asarray\(a\)"),
    (lambda f: f(A, (3.0, 4.0)), r"added: argument b is a tuple.*np\.asarray\(b\)"),
])
def test_a_list_for_an_array_is_named(call, said):
    @nki.jit
    def added(a, b):
        out = nl.ndarray(a.shape, b.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.add(nl.load(a), nl.load(b)))
        return out

    with pytest.raises(TypeError, match=said):
        call(added)


@pytest.mark.parametrize("given, said", [
    (lambda f: f(A, A.astype(np.float64)), "second: argument b: Unsupported dtype.*cast it to float32"),
    (lambda f: f(A, b=[A, A.astype(np.uint64)]), "second: argument b: Unsupported dtype.*cast it to uint32"),
])
def test_an_argument_of_a_type_that_nki_has_not_is_named(given, said):
    @nki.jit
    def second(a, b):
        return a

    with pytest.raises(ValueError, match=said):
        given(second)


def test_the_command_tells_what_it_takes(tmp_path):
    def command(*arguments):
        return subprocess.run([sys.executable, "-m", "vtrn.nki", *arguments], capture_output=True, text=True, env=os.environ)

    for option in ("-h", "--help"):
        done = command(option)
        assert done.returncode == 0 and all(f"vtrn.nki {name} " in done.stdout for name in ("check", "estimate", "tune"))
    done = command(str(tmp_path / "nofile.py"))
    assert done.returncode == 2 and "nofile.py: there is no such file" in done.stderr and len(done.stderr.splitlines()) == 1


def test_unwritten_elements_are_known_whatever_was_written_in_whatever_order():
    rng = np.random.default_rng(5)
    for _ in range(20):
        n, found, mask = 40, {}, np.zeros((40, 24), bool)

        @nki.jit
        def kernel(x):
            out = nl.ndarray((n, 24), nl.float32, buffer=nl.shared_hbm)
            t = nl.ndarray((n, 24), nl.float32, buffer=nl.sbuf)
            for _ in range(rng.integers(1, 30)):
                r0, c0 = rng.integers(0, n), rng.integers(0, 24)
                r1, c1 = rng.integers(r0 + 1, n + 1), rng.integers(c0 + 1, 25) if rng.integers(2) else 24
                c0 = c0 if c1 != 24 or rng.integers(2) else 0
                nisa.dma_copy(dst=out[r0:r1, c0:c1], src=x[r0:r1, c0:c1])
                nisa.dma_copy(dst=t[r0:r1, c0:c1], src=x[r0:r1, c0:c1])
                mask[r0:r1, c0:c1] = True
                for y in (out, t):
                    found["n"] = y._array()[1]
                    assert found["n"] == (~mask).sum()
            if not mask.all():
                first = [int(i) for i in np.argwhere(~mask)[0]]
                with pytest.raises(vtrn.nki.NkiValidationError, match=re.escape(f"first [{first[0]}, {first[1]}]")):
                    nisa.tensor_copy(dst=nl.ndarray((n, 24), nl.float32, buffer=nl.sbuf), src=t)
            return out

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kernel(np.zeros((n, 24), np.float32))


def test_an_argument_is_read_where_it_lies_and_never_written_there_before_the_kernel_is_over():
    @nki.jit
    def kernel(x, fails):
        one = nl.ndarray((1, x.shape[1]), x.dtype, buffer=nl.sbuf)
        nisa.memset(one, 7.0)
        nisa.dma_copy(dst=x[1:2], src=one)
        assert (x.numpy()[1] == 7).all()
        if fails:
            raise KeyError("on purpose")
        return x

    memory = np.zeros(64 * 4 + 8, np.uint8)
    for a in (np.arange(64, dtype=np.float32).reshape(4, 16), memory[4:4 + 256].view(np.float32).reshape(4, 16)):
        before = a.copy()
        with pytest.raises(KeyError):
            kernel(a, True)
        np.testing.assert_array_equal(a, before)
        got = kernel(a, False)
        before[1] = 7
        np.testing.assert_array_equal(got, before)
        np.testing.assert_array_equal(a, before)
    frozen = np.ones((4, 16), np.float32)
    frozen.flags.writeable = False
    np.testing.assert_array_equal(add_one(frozen), frozen + 1)


@nki.jit
def add_one(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    t = nl.ndarray(x.shape, x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=t, src=x)
    nisa.tensor_scalar(dst=t, data=t, op0=nl.add, operand0=1.0)
    nisa.dma_copy(dst=out, src=t)
    return out


@pytest.mark.parametrize("call, said", [
    (lambda t: nisa.tensor_tensor(t((128, 8)), t((128, 8)), t((128, 9)), nl.add),
     "tensor_tensor: dst has 8 elements a partition, data2 has 9"),
    (lambda t: nisa.tensor_scalar(t((128, 8)), t((128, 8)), nl.add, t((64, 1))),
     "the scalar operand0 has 64 partitions, dst has 128"),
    (lambda t: nisa.nc_matmul(t((128, 8), buffer=nl.psum), t((128, 128), nl.int32), t((128, 8), nl.int32)),
     "stationary is int32"),
    (lambda t: nisa.activation(t((128, 8)), nl.exp, t((64, 8))), "dst has 128 partitions, data has 64"),
])
def test_errors_name_operands_as_the_call_does(call, said):
    def tile(shape, dtype=nl.float32, buffer=nl.sbuf):
        x = nl.ndarray(shape, dtype, buffer=buffer)
        if buffer is nl.sbuf:
            nisa.memset(x, 0)
        return x

    @nki.jit
    def kernel():
        call(tile)

    with pytest.raises(vtrn.nki.NkiValidationError, match=re.escape(said)) as e:
        kernel()
    assert not re.search(r"\bap[0-9]", str(e.value))


def test_a_tile_that_is_overwritten_whole_may_be_placed_anew():
    """Three tiles take half of SBUF each, and no two of them hold what is read later at a time."""
    columns = nl.tile_size.sbuf_fmax // 2 - 64

    def kernel(a, rows, part=None):
        tiles = [nl.ndarray((128, columns), nl.float32) for _ in range(3)]
        total = nl.zeros((rows, 8), nl.float32)
        for i in range(7):
            tile = tiles[i % 3]
            if part:
                nisa.memset(tile[:, 0:part], float(i))
                nisa.memset(tile[:, part:columns], float(i))
            else:
                nisa.tensor_scalar(tile, nl.load(a).broadcast(1, columns), nl.add, float(i))
            nisa.tensor_tensor(total, total, tile[0:rows, columns - 8:columns], nl.add)
        out = nl.ndarray((rows, 8), nl.float32, buffer=nl.shared_hbm)
        nl.store(out, total)
        return out

    a = np.arange(128, dtype=np.float32).reshape(128, 1)
    done = vtrn.nki.profile(nki.jit(kernel), directory="out/test/split")(a, 128)
    np.testing.assert_array_equal(done.result, np.broadcast_to(7 * a + 21, (128, 8)))
    with pytest.raises(vtrn.nki.NkiValidationError, match="does not fit"):  # each write leaves something that may be read
        nki.jit(kernel, compile_config=NO_SPILLS)(a, 128, part=100)


def test_an_empty_view_is_a_view_that_no_instruction_takes():
    @nki.jit
    def kernel(a, use):
        tile = nl.load(a)
        for view in (a[0:0], a[3:3, 1:4], tile[:, 2:2]):
            assert 0 in view.shape and view.size == 0
        use(tile)
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        nl.store(out, tile)
        return out

    a = np.arange(20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_array_equal(kernel(a, lambda t: None), a)
    for use in (lambda t: nisa.dma_copy(dst=t[:, 0:0], src=t[:, 1:1]), lambda t: nisa.tensor_scalar(t[:, 0:0], t[:, 0:0], nl.add, 1.0)):
        with pytest.raises(vtrn.nki.NkiValidationError, match=r"sbuf\[4, 0\] fp32 has no elements; leave the instruction out"):
            kernel(a, use)


@pytest.mark.parametrize("n", [65536, 70000, 131072])
def test_a_run_longer_than_a_size_field_is_two_dimensions(n):
    @nki.jit
    def kernel(a):
        tile = nl.ndarray((4, n), nl.uint8)
        nisa.dma_copy(dst=tile, src=a)
        other = nl.ndarray((4, n), nl.uint8)
        if n == 65536:
            nisa.tensor_copy(other, tile)
        else:  # more than one instruction of an engine takes
            nisa.dma_copy(dst=other, src=tile)
        out = nl.ndarray((4, n), nl.uint8, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=other)
        return out

    a = np.random.default_rng(1).integers(0, 255, (4, n)).astype(np.uint8)
    np.testing.assert_array_equal(kernel(a), a)


@pytest.mark.parametrize("how", [[], ["-m", "vtrn.nki"]])
def test_the_first_kernel_of_the_readme_runs(how, tmp_path):
    with open(os.path.join(os.path.dirname(__file__), "../../README.md")) as f:
        code = re.search(r"```python\n(import numpy as np, vtrn.nki.*?)```", f.read(), re.S)[1]
    (tmp_path / "first.py").write_text(code)
    done = subprocess.run([sys.executable, *how, "first.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2. 2." in done.stdout and (tmp_path / "out/nki/add/profile.html").exists()


@pytest.mark.parametrize("target, said", [("trn2", "tensor indirection is NeuronCore-v4's, and this is v3"),
                                          ("trn3", "tensor indirection of NeuronCore-v4 is not there yet")])
def test_tensor_indirection_says_what_there_is(target, said, monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", target)

    @nki.jit
    def kernel(x):
        tile = nl.load(x)
        tile.indirect(nl.copy(tile, nl.uint32))
        return x

    with pytest.raises(NotImplementedError, match=said + "; nisa.local_gather"):
        kernel(A)


def test_what_nothing_wrote_of_a_result_is_zero():
    """Not what an earlier kernel left in the same memory."""
    @nki.jit
    def whole(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(x))
        return out

    @nki.jit
    def part(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        nl.store(out[0:3, 1:4], nl.load(x[0:3, 1:4]))
        return out

    want = np.zeros_like(A)
    want[0:3, 1:4] = A[0:3, 1:4]
    for _ in range(3):
        whole(A)
        with pytest.warns(UserWarning, match="nothing has written .* elements of a result of shape .*; they are 0"):
            np.testing.assert_array_equal(part(A), want)


def test_a_pattern_of_a_views_own_rows_goes_on_by_partitions():
    """nki-library takes views for dense tiles."""
    @nki.jit
    def kernel(x):
        tile = nl.load(x)
        half = tile[0:4, 3:8]
        out = nl.ndarray((4, 4), x.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.copy(half.ap([[5, 4], [1, 4]], offset=1)))
        with pytest.raises(vtrn.nki.NkiValidationError, match="no multiple of the 10 of a partition"):
            nl.copy(half.ap([[4, 4], [1, 4]]))
        return out

    x = np.arange(40, dtype=np.float32).reshape(4, 10)
    np.testing.assert_array_equal(kernel(x), x[:, 4:8])


def test_rows_behind_an_offset_are_counted_from_it():
    """As nki-library scatters into the second half of a tensor."""
    @nki.jit
    def kernel(x, rows):
        out = nl.ndarray((16, 5), x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=nl.zeros((16, 5), x.dtype))
        nisa.dma_copy(dst=out.ap([[5, 4], [1, 5]], offset=40, vector_offset=nl.load(rows)), src=nl.load(x))
        return out

    x, rows = np.arange(20, dtype=np.float32).reshape(4, 5), np.array([[7], [0], [3], [2]], np.int32)
    want = np.zeros((16, 5), np.float32)
    want[8 + rows[:, 0]] = x
    np.testing.assert_array_equal(kernel(x, rows), want)
    with pytest.raises(vtrn.nki.NkiValidationError, match="index 8 of row 0 is outside of the tensor's 8 rows"):
        kernel(x, np.array([[8], [0], [3], [2]], np.int32))


def test_two_tiles_that_python_compares_are_told_apart_with_a_warning():
    @vtrn.nki.jit
    def kernel(a):
        x, y = nl.load(a), nl.load(a)
        assert x == x and y in [None, y]
        with pytest.warns(UserWarning, match="whether they are one object"):
            assert not x == y
        with pytest.warns(UserWarning, match="whether they are one object"):
            assert x != y
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        nl.store(out, x)
        return out

    kernel(np.ones((8, 4), np.float32))
