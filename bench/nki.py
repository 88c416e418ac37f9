"""bench/run nki: NKI kernels on the virtual chip. Host time of a call beyond the work of its instruction, and kernels
against NumPy that executes the same instructions one by one."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
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
from ladder import nki_kernels  # noqa: E402

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


def host_limits():
    """What all cores of the host give: GFLOP/s of fp32 multiply-adds from registers (as `bench/run engine` measures them on one
    core), and GB/s that copies of 8 MiB read, which is as much as they write."""
    n_cores = len(os.sched_getaffinity(0))
    done = subprocess.run([BUILD / "bench" / "engine", "--json"], check=True, capture_output=True)
    pairs = [(np.ones(1 << 21, np.float32), np.zeros(1 << 21, np.float32)) for _ in range(n_cores)]

    def copy(pair):
        for _ in range(20):
            np.copyto(pair[1], pair[0])

    with concurrent.futures.ThreadPoolExecutor(n_cores) as pool:
        took = min(seconds(lambda: list(pool.map(copy, pairs)))[0] for _ in range(5))
    return n_cores * json.loads(done.stdout)["peak_gflops"], n_cores * 20 * (1 << 23) / took / 1e9


def all_close(got, want):
    if isinstance(got, tuple):
        return all(all_close(g, w) for g, w in zip(got, want))
    return np.allclose(got.astype(np.float32), want.astype(np.float32), rtol=2e-2, atol=1e-1)


def n_bytes(arrays):
    return sum(a.nbytes for a in (arrays if isinstance(arrays, tuple) else (arrays,)))


def against_numpy(size, gflops, gb_s):
    """By kernel of the ladder: seconds of the kernel and of NumPy, and the least that the host's multiply-adds and its copies
    permit for operations and for the bytes of arguments and results. Both give the same values. They run in turns, a few
    launches each, with a rest in between: threads of NumPy's BLAS spin for some time when a product is done."""
    found = {}
    for name, (kernel, reference, arrays, n_flops) in nki_kernels.ladder(np.random.default_rng(0), size).items():
        call, ours, theirs = vtrn.nki.jit(kernel), float("inf"), float("inf")
        for _ in range(2):
            time.sleep(0.2)
            for _ in range(2 if n_flops > 1e11 else 8):
                t, got = seconds(call, *arrays)
                ours = min(ours, t)
            time.sleep(0.05)
            for _ in range(1 if n_flops > 1e11 else 5):
                t, want = seconds(reference, *arrays)
                theirs = min(theirs, t)
        assert all_close(got, want), name
        least = max(n_flops / gflops, max(n_bytes(arrays), n_bytes(got)) / gb_s) / 1e9
        found[name] = {"s": ours, "numpy_s": theirs, "least_s": least}
    return found


def main():
    parser = argparse.ArgumentParser("bench/run nki")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", type=int, default=1024, help="M, N, K of the matmul")
    args = parser.parse_args()
    calls = overhead()
    gflops, gb_s = host_limits()
    kernels = against_numpy(args.size, gflops, gb_s)
    rng = np.random.default_rng(0)
    per_minute, tuned = tuning(*(rng.standard_normal((1024, 1024)).astype(BF16) for _ in range(2)))
    ratios = {name: k["numpy_s"] / k["s"] for name, k in kernels.items()}
    matmul = kernels["matmul"]
    document = {"flash_attention_vs_numpy": ratios["flash_attention"], "vs_numpy": ratios,
                "geomean_vs_numpy": float(np.exp(np.mean(np.log(list(ratios.values()))))), "kernels": kernels,
                "host_gflops": gflops, "host_copy_gb_s": gb_s,
                "tune_variants_min": per_minute, "tune_best": tuned.best.parameters,
                "call_overhead_us": max(calls[k] for k in calls if k not in ("slice", "ndarray")), "calls_us": calls,
                "matmul_size": args.size, "matmul_s": matmul["s"], "matmul_numpy_s": matmul["numpy_s"],
                "matmul_vs_numpy": ratios["matmul"], "matmul_gflops": 2 * args.size ** 3 / matmul["s"] / 1e9}
    if args.json:
        print(json.dumps(document))
        return
    for name, us in calls.items():
        print(f"{name:16}{us:8.2f} us a call")
    print(f"tuner: {per_minute:.0f} variants a minute, best {tuned.best.parameters}, "
          f"{tuned.best.latency_ns / 1000:.1f} us")
    print(f"host: {gflops:.0f} GFLOP/s, copies at {gb_s:.0f} GB/s")
    print(f"{'':16}{'ms':>9}{'NumPy ms':>10}{'times':>7}{'at most':>9}")
    for name, k in kernels.items():
        print(f"{name:16}{k['s'] * 1e3:9.3f}{k['numpy_s'] * 1e3:10.3f}{ratios[name]:7.1f}{k['numpy_s'] / k['least_s']:9.1f}")
    print(f"{'geometric mean':35}{document['geomean_vs_numpy']:7.1f}")
    print(f"matmul {args.size}^3 bf16: {document['matmul_gflops']:.0f} GFLOP/s")


main()
