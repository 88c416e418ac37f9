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
    document = {"call_overhead_us": max(calls[k] for k in calls if k not in ("slice", "ndarray")),
                "calls_us": calls, "matmul_size": args.size, "matmul_s": ours, "matmul_numpy_s": theirs,
                "matmul_vs_numpy": theirs / ours}
    if args.json:
        print(json.dumps(document))
        return
    for name, us in calls.items():
        print(f"{name:16}{us:8.2f} us a call")
    print(f"matmul {args.size}^3 bf16: {ours:.3f} s, NumPy {theirs:.3f} s: {theirs / ours:.1f} times")


main()
