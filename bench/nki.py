"""bench/run nki: NKI kernels on the virtual chip. Host time of a call beyond the work of its instruction, and kernels
against NumPy that executes the same instructions one by one."""

import argparse
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD", ROOT / "build"))
os.environ.setdefault("VTRN_LIBRARY", str(BUILD / "src" / "libvtrn.so"))
sys.path.insert(0, str(ROOT / "python"))

import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402

import vtrn.nki  # noqa: E402
import vtrn.nki.isa as nisa  # noqa: E402
import vtrn.nki.language as nl  # noqa: E402

BF16 = ml_dtypes.bfloat16


def per_call_us(call, n=1000, n_batches=20):
    """The least of many batches: other processes share the host."""
    best = float("inf")
    for _ in range(n_batches):
        start = time.perf_counter()
        for _ in range(n):
            call()
        best = min(best, time.perf_counter() - start)
    return best / n * 1e6


def overhead():
    """Microseconds of a call whose tile has one element: the instruction itself takes nanoseconds."""
    found = {}

    @vtrn.nki.jit
    def kernel(a):
        x, y, z = (nl.zeros((1, 1), nl.float32) for _ in range(3))
        big = nl.ndarray((128, 512), nl.float32)
        found["tensor_tensor"] = per_call_us(lambda: nisa.tensor_tensor(z, x, y, nl.add))
        found["tensor_copy"] = per_call_us(lambda: nisa.tensor_copy(dst=z, src=x))
        found["tensor_scalar"] = per_call_us(lambda: nisa.tensor_scalar(z, x, nl.multiply, 2.0))
        found["activation"] = per_call_us(lambda: nisa.activation(z, nl.exp, x))
        found["dma_copy"] = per_call_us(lambda: nisa.dma_copy(dst=z, src=a))
        found["slice"] = per_call_us(lambda: big[0:128, 0:64])
        found["ndarray"] = per_call_us(lambda: nl.ndarray((128, 512), nl.float32))

    kernel(np.zeros((1, 1), np.float32))
    return found


def matmul(lhs_t, rhs):
    """Tiles of 128 x 512, all of K loaded once for each row of tiles."""
    (k, m), n = lhs_t.shape, rhs.shape[1]
    out = nl.ndarray((m, n), nl.bfloat16, buffer=nl.shared_hbm)
    for i in range(m // 128):
        left = [nl.load(lhs_t[c * 128:(c + 1) * 128, i * 128:(i + 1) * 128]) for c in range(k // 128)]
        for j in range(n // 512):
            total = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
            for c in range(k // 128):
                nisa.nc_matmul(total, left[c], nl.load(rhs[c * 128:(c + 1) * 128, j * 512:(j + 1) * 512]))
            nl.store(out[i * 128:(i + 1) * 128, j * 512:(j + 1) * 512], nl.copy(total, nl.bfloat16))
    return out


def matmul_numpy(lhs_t, rhs):
    """The same instructions as NumPy does them: a copy a load, fp32 inside, a cast at the store."""
    (k, m), n = lhs_t.shape, rhs.shape[1]
    out = np.empty((m, n), BF16)
    for i in range(m // 128):
        left = [lhs_t[c * 128:(c + 1) * 128, i * 128:(i + 1) * 128].copy() for c in range(k // 128)]
        for j in range(n // 512):
            total = np.zeros((128, 512), np.float32)
            for c in range(k // 128):
                right = rhs[c * 128:(c + 1) * 128, j * 512:(j + 1) * 512].copy()
                total += left[c].astype(np.float32).T @ right.astype(np.float32)
            out[i * 128:(i + 1) * 128, j * 512:(j + 1) * 512] = total.astype(BF16)
    return out


def seconds(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def tiled(lhs_t, rhs, columns, group, engine):
    """A matmul with tiles of so many columns, `group` row tiles for each load of rhs, copied out by `engine`."""
    (k, m), n = lhs_t.shape, rhs.shape[1]
    out = nl.ndarray((m, n), nl.bfloat16, buffer=nl.shared_hbm)
    left = [[nl.load(lhs_t[c * 128:(c + 1) * 128, i * 128:(i + 1) * 128]) for c in range(k // 128)]
            for i in range(m // 128)]
    for g in range(0, m // 128, group):
        for j in range(n // columns):
            at = slice(j * columns, (j + 1) * columns)
            right = [nl.load(rhs[c * 128:(c + 1) * 128, at]) for c in range(k // 128)]
            for i in range(g, min(g + group, m // 128)):
                total = nl.ndarray((128, columns), nl.float32, buffer=nl.psum)
                for c in range(k // 128):
                    nisa.nc_matmul(total, left[i][c], right[c])
                stored = nl.ndarray((128, columns), nl.bfloat16)
                nisa.tensor_copy(stored, total, engine=getattr(nisa.engine, engine))
                nl.store(out[i * 128:(i + 1) * 128, at], stored)
    return out


def tuning(a, b):
    """Variants a minute, on all host cores."""
    space = {"columns": [64, 128, 256, 512], "group": [1, 2, 4, 8], "engine": ["vector", "scalar"]}
    start = time.perf_counter()
    tuned = vtrn.nki.tune(tiled, space, jobs=None)(a, b)
    return len(tuned.variants) / (time.perf_counter() - start) * 60, tuned


# -- kernels of the ladder: each against NumPy that does its instructions one by one


def softmax_kernel(a):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    for i in range(a.shape[0] // 128):
        x = nl.load(a[i * 128:(i + 1) * 128])
        largest, total = nl.ndarray((128, 1), nl.float32), nl.ndarray((128, 1), nl.float32)
        nisa.tensor_reduce(largest, nl.maximum, x, 1, negate=True)
        nisa.activation_reduce(x, nl.exp, x, nl.add, total, bias=largest)
        nisa.reciprocal(total, total)
        nisa.tensor_scalar(x, x, nl.multiply, total)
        nl.store(out[i * 128:(i + 1) * 128], x)
    return out


def softmax_numpy(a):
    out = np.empty_like(a)
    for i in range(a.shape[0] // 128):
        x = a[i * 128:(i + 1) * 128].copy()
        largest = -x.max(1, keepdims=True)
        x = np.exp(x + largest)
        total = np.float32(1) / x.sum(1, keepdims=True)
        out[i * 128:(i + 1) * 128] = x * total
    return out


def rmsnorm_kernel(a, g):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    gain = nl.broadcast_to(nl.load(g), (128, a.shape[1]))
    for i in range(a.shape[0] // 128):
        x = nl.load(a[i * 128:(i + 1) * 128])
        square, total = nl.ndarray(x.shape, nl.float32), nl.ndarray((128, 1), nl.float32)
        nisa.activation_reduce(square, nl.square, x, nl.add, total)
        nisa.activation(total, nl.rsqrt, total, scale=1.0 / a.shape[1])
        nisa.scalar_tensor_tensor(x, x, nl.multiply, total, nl.multiply, gain)
        nl.store(out[i * 128:(i + 1) * 128], x)
    return out


def rmsnorm_numpy(a, g):
    out = np.empty_like(a)
    gain = np.broadcast_to(g, (128, a.shape[1])).copy()
    for i in range(a.shape[0] // 128):
        x = a[i * 128:(i + 1) * 128].copy()
        total = (x * x).sum(1, keepdims=True)
        total = np.float32(1) / np.sqrt(total * np.float32(1 / a.shape[1]))
        out[i * 128:(i + 1) * 128] = (x * total) * gain
    return out


def flash_kernel(q, k, v):
    """One head, [d, length] each but v, blocks of 128 queries and 512 keys."""
    d, length = q.shape
    out = nl.ndarray((length, d), nl.float32, buffer=nl.shared_hbm)
    keys = [nl.load(k[:, j * 512:(j + 1) * 512]) for j in range(length // 512)]
    values = [nl.load(v[j * 128:(j + 1) * 128]) for j in range(length // 128)]
    for i in range(length // 128):
        mine = nl.load(q[:, i * 128:(i + 1) * 128])
        most, total, result = (nl.ndarray((128, n), nl.float32) for n in (1, 1, d))
        nisa.memset(most, -1e30), nisa.memset(total, 0), nisa.memset(result, 0)
        for j in range(length // 512):
            score = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
            nisa.nc_matmul(score, mine, keys[j])
            here, newest, shrink, part = (nl.ndarray((128, 1), nl.float32) for _ in range(4))
            nisa.tensor_reduce(here, nl.maximum, score, 1)
            nisa.tensor_tensor(newest, most, here, nl.maximum)
            nisa.tensor_tensor(shrink, most, newest, nl.subtract)
            nisa.activation(shrink, nl.exp, shrink)
            nisa.tensor_copy(most, newest)
            nisa.tensor_scalar(newest, newest, nl.multiply, -1.0)
            weight = nl.ndarray((128, 512), nl.bfloat16)
            nisa.activation_reduce(weight, nl.exp, score, nl.add, part, bias=newest)
            nisa.scalar_tensor_tensor(total, total, nl.multiply, shrink, nl.add, part)
            product = nl.ndarray((128, d), nl.float32, buffer=nl.psum)
            for c in range(4):
                turned = nl.ndarray((128, 128), nl.bfloat16, buffer=nl.psum)
                nisa.nc_transpose(turned, weight[:, c * 128:(c + 1) * 128])
                stationary = nl.ndarray((128, 128), nl.bfloat16)
                nisa.tensor_copy(stationary, turned)
                nisa.nc_matmul(product, stationary, values[j * 4 + c])
            nisa.scalar_tensor_tensor(result, result, nl.multiply, shrink, nl.add, product)
        nisa.reciprocal(total, total)
        nisa.tensor_scalar(result, result, nl.multiply, total)
        nl.store(out[i * 128:(i + 1) * 128], result)
    return out


def flash_numpy(q, k, v):
    d, length = q.shape
    out = np.empty((length, d), np.float32)
    keys = [k[:, j * 512:(j + 1) * 512].copy() for j in range(length // 512)]
    values = [v[j * 128:(j + 1) * 128].copy() for j in range(length // 128)]
    for i in range(length // 128):
        mine = q[:, i * 128:(i + 1) * 128].copy()
        most, total, result = np.full((128, 1), -1e30, np.float32), np.zeros((128, 1), np.float32), \
            np.zeros((128, d), np.float32)
        for j in range(length // 512):
            score = mine.astype(np.float32).T @ keys[j].astype(np.float32)
            here = score.max(1, keepdims=True)
            newest = np.maximum(most, here)
            shrink = np.exp(most - newest)
            most = newest.copy()
            newest = newest * np.float32(-1)
            wide = np.exp(score + newest)
            part, weight = wide.sum(1, keepdims=True), wide.astype(BF16)
            total = total * shrink + part
            product = np.zeros((128, d), np.float32)
            for c in range(4):
                turned = weight[:, c * 128:(c + 1) * 128].T.copy()
                product += turned.astype(np.float32).T @ values[j * 4 + c].astype(np.float32)
            result = result * shrink + product
        out[i * 128:(i + 1) * 128] = result * (np.float32(1) / total)
    return out


def chain_kernel(a, b):
    """What an epilogue does: scale, add, silu, store."""
    out = nl.ndarray(a.shape, nl.bfloat16, buffer=nl.shared_hbm)
    for i in range(a.shape[0] // 128):
        x, y = nl.load(a[i * 128:(i + 1) * 128]), nl.load(b[i * 128:(i + 1) * 128])
        nisa.scalar_tensor_tensor(x, x, nl.multiply, 0.5, nl.add, y)
        z = nl.ndarray(x.shape, nl.bfloat16)
        nisa.activation(z, nl.silu, x)
        nl.store(out[i * 128:(i + 1) * 128], z)
    return out


def chain_numpy(a, b):
    out = np.empty(a.shape, BF16)
    for i in range(a.shape[0] // 128):
        x, y = a[i * 128:(i + 1) * 128].copy(), b[i * 128:(i + 1) * 128].copy()
        x = x * np.float32(0.5) + y
        out[i * 128:(i + 1) * 128] = (x / (1 + np.exp(-x))).astype(BF16)
    return out


def ladder(rng):
    """(kernel, NumPy, arrays) by name."""
    def f32(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    a, b = f32(1024, 2048), f32(1024, 2048)
    q, k, v = (f32(128, 4096).astype(BF16) / BF16(4) for _ in range(3))
    return {"softmax": (softmax_kernel, softmax_numpy, (a,)), "rmsnorm": (rmsnorm_kernel, rmsnorm_numpy, (a, f32(1, 2048))),
            "silu of a sum": (chain_kernel, chain_numpy, (a, b)),
            "flash_attention": (flash_kernel, flash_numpy, (q, k, np.ascontiguousarray(v.T)))}


def against_numpy(rng):
    """How many times faster than NumPy each kernel of the ladder is; both give the same values."""
    found = {}
    for name, (kernel, reference, arrays) in ladder(rng).items():
        ours, theirs = float("inf"), float("inf")
        for _ in range(3):
            t, got = seconds(vtrn.nki.jit(kernel), *arrays)
            ours = min(ours, t)
            t, want = seconds(reference, *arrays)
            theirs = min(theirs, t)
        assert np.allclose(got.astype(np.float32), want.astype(np.float32), rtol=2e-2, atol=2e-2), name
        found[name] = theirs / ours
    return found


def main():
    parser = argparse.ArgumentParser("bench/run nki")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", type=int, default=1024, help="M, N, K of the matmul")
    args = parser.parse_args()
    calls = overhead()
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((args.size, args.size)).astype(BF16) for _ in range(2))
    kernel = vtrn.nki.jit(matmul)
    kernel(a[:128, :128], b[:128, :512])
    ours, got = seconds(kernel, a, b)
    theirs, want = seconds(matmul_numpy, a, b)
    assert np.allclose(got.astype(np.float32), want.astype(np.float32), rtol=2e-2, atol=1e-1)
    ratios = against_numpy(rng)
    per_minute, tuned = tuning(a[:1024, :1024], b[:1024, :1024])
    ratios["matmul"] = theirs / ours
    document = {"flash_attention_vs_numpy": ratios["flash_attention"], "vs_numpy": ratios,
                "geomean_vs_numpy": float(np.exp(np.mean(np.log(list(ratios.values()))))),
                "tune_variants_min": per_minute, "tune_best": tuned.best.parameters, "call_overhead_us": max(calls[k] for k in calls if k not in ("slice", "ndarray")),
                "calls_us": calls, "matmul_size": args.size, "matmul_s": ours, "matmul_numpy_s": theirs,
                "matmul_vs_numpy": theirs / ours}
    if args.json:
        print(json.dumps(document))
        return
    for name, us in calls.items():
        print(f"{name:16}{us:8.2f} us a call")
    print(f"tuner: {per_minute:.0f} variants a minute, best {tuned.best.parameters}, "
          f"{tuned.best.latency_ns / 1000:.1f} us")
    for name, ratio in ratios.items():
        print(f"{name:16}{ratio:8.1f} times as fast as NumPy")
    print(f"{'geometric mean':16}{document['geomean_vs_numpy']:8.1f}")
    print(f"matmul {args.size}^3 bf16: {ours:.3f} s, NumPy {theirs:.3f} s: {theirs / ours:.1f} times")


main()
