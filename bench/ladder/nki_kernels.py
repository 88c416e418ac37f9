"""The kernels that bench/run nki times, each beside NumPy that does its instructions one by one."""

import ml_dtypes
import numpy as np

import vtrn.nki.isa as nisa
import vtrn.nki.language as nl

BF16 = ml_dtypes.bfloat16
FP8 = np.dtype(ml_dtypes.float8_e4m3)
LARGEST_FP8 = 240.0


def matmul_kernel(lhs_t, rhs):
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


def layernorm_kernel(a, g, b):
    """Statistics of 512 columns at a time, as many as bn_stats takes."""
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    n = a.shape[1]
    gain, shift = (nl.broadcast_to(nl.load(v), (128, n)) for v in (g, b))
    for i in range(a.shape[0] // 128):
        x = nl.load(a[i * 128:(i + 1) * 128])
        stats, both, rate = nl.ndarray((128, n // 512, 6), nl.float32), nl.ndarray((128, 2), nl.float32), \
            nl.ndarray((128, 1), nl.float32)
        for c in range(n // 512):
            nisa.bn_stats(stats[:, c], x[:, c * 512:(c + 1) * 512])
        nisa.bn_aggr(both, stats)
        nisa.activation(rate, nl.rsqrt, both[:, 1:2], scale=1.0)
        nisa.tensor_scalar(x, x, nl.subtract, both[:, 0:1], op1=nl.multiply, operand1=rate)
        nisa.tensor_tensor(x, x, gain, nl.multiply)
        nisa.tensor_tensor(x, x, shift, nl.add)
        nl.store(out[i * 128:(i + 1) * 128], x)
    return out


def layernorm_numpy(a, g, b):
    out = np.empty_like(a)
    n = a.shape[1]
    gain, shift = (np.broadcast_to(v, (128, n)).copy() for v in (g, b))
    for i in range(a.shape[0] // 128):
        x = a[i * 128:(i + 1) * 128].copy()
        parts = [x[:, c * 512:(c + 1) * 512] for c in range(n // 512)]
        means, variances = np.stack([p.mean(1) for p in parts], 1), np.stack([p.var(1) for p in parts], 1)
        mean = means.mean(1, keepdims=True)
        rate = np.float32(1) / np.sqrt(variances.mean(1, keepdims=True) + means.var(1, keepdims=True))
        x = (x - mean) * rate
        x = x * gain
        out[i * 128:(i + 1) * 128] = x + shift
    return out


def rope_kernel(a, cos, sin, heads=16):
    """Rotates the two halves of each head: a[token, head * 128], cos[token, 64]."""
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    for i in range(a.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        x = nl.load(a[rows]).reshape_dim(1, (heads, 2, 64))
        c, s = (nl.load(t[rows]).expand_dim(1).broadcast(1, heads) for t in (cos, sin))
        y, part = nl.ndarray((128, heads, 2, 64), nl.float32), nl.ndarray((128, heads, 64), nl.float32)
        nisa.tensor_tensor(y[:, :, 0], x[:, :, 0], c, nl.multiply)
        nisa.tensor_tensor(part, x[:, :, 1], s, nl.multiply)
        nisa.tensor_tensor(y[:, :, 0], y[:, :, 0], part, nl.subtract)
        nisa.tensor_tensor(y[:, :, 1], x[:, :, 1], c, nl.multiply)
        nisa.tensor_tensor(part, x[:, :, 0], s, nl.multiply)
        nisa.tensor_tensor(y[:, :, 1], y[:, :, 1], part, nl.add)
        nl.store(out[rows], y.reshape((128, a.shape[1])))
    return out


def rope_numpy(a, cos, sin, heads=16):
    out = np.empty_like(a)
    for i in range(a.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        x = a[rows].copy().reshape(128, heads, 2, 64)
        c, s = cos[rows].copy()[:, None], sin[rows].copy()[:, None]
        y = np.empty_like(x)
        y[:, :, 0] = x[:, :, 0] * c
        part = x[:, :, 1] * s
        y[:, :, 0] = y[:, :, 0] - part
        y[:, :, 1] = x[:, :, 1] * c
        part = x[:, :, 0] * s
        y[:, :, 1] = y[:, :, 1] + part
        out[rows] = y.reshape(128, -1)
    return out


def gated_mlp_kernel(x_t, gate, up, down):
    """down^T (silu(gate^T x) * up^T x) of x_t[d, tokens], gate and up [d, f], down[f, d]; 512 tokens at once."""
    (d, n), f = x_t.shape, gate.shape[1]
    out = nl.ndarray((n, down.shape[1]), nl.bfloat16, buffer=nl.shared_hbm)
    weights = [[nl.load(w[c * 128:(c + 1) * 128]) for c in range(w.shape[0] // 128)] for w in (gate, up, down)]
    for t in range(n // 512):
        x = [nl.load(x_t[c * 128:(c + 1) * 128, t * 512:(t + 1) * 512]) for c in range(d // 128)]
        hidden = []
        for j in range(f // 128):
            sums = [nl.ndarray((128, 512), nl.float32, buffer=nl.psum) for _ in range(2)]
            for c in range(d // 128):
                for w in range(2):
                    nisa.nc_matmul(sums[w], weights[w][c][:, j * 128:(j + 1) * 128], x[c])
            bent, product = nl.ndarray((128, 512), nl.float32), nl.ndarray((128, 512), nl.bfloat16)
            nisa.activation(bent, nl.silu, sums[0])
            nisa.tensor_tensor(product, bent, sums[1], nl.multiply)
            hidden.append(product)
        for i in range(4):
            total = nl.ndarray((128, down.shape[1]), nl.float32, buffer=nl.psum)
            for j in range(f // 128):
                nisa.nc_matmul(total, hidden[j][:, i * 128:(i + 1) * 128], weights[2][j])
            nl.store(out[t * 512 + i * 128:t * 512 + (i + 1) * 128], nl.copy(total, nl.bfloat16))
    return out


def gated_mlp_numpy(x_t, gate, up, down):
    (d, n), f = x_t.shape, gate.shape[1]
    out = np.empty((n, down.shape[1]), BF16)
    weights = [[w[c * 128:(c + 1) * 128].copy() for c in range(w.shape[0] // 128)] for w in (gate, up, down)]
    for t in range(n // 512):
        x = [x_t[c * 128:(c + 1) * 128, t * 512:(t + 1) * 512].copy() for c in range(d // 128)]
        hidden = []
        for j in range(f // 128):
            sums = [np.zeros((128, 512), np.float32) for _ in range(2)]
            for c in range(d // 128):
                for w in range(2):
                    left = weights[w][c][:, j * 128:(j + 1) * 128]
                    sums[w] += left.astype(np.float32).T @ x[c].astype(np.float32)
            bent = sums[0] / (1 + np.exp(-sums[0]))
            hidden.append((bent * sums[1]).astype(BF16))
        for i in range(4):
            total = np.zeros((128, down.shape[1]), np.float32)
            for j in range(f // 128):
                left = hidden[j][:, i * 128:(i + 1) * 128]
                total += left.astype(np.float32).T @ weights[2][j].astype(np.float32)
            out[t * 512 + i * 128:t * 512 + (i + 1) * 128] = total.astype(BF16)
    return out


def top_8_kernel(a):
    """The eight largest of each row, as a router chooses experts, and where they are."""
    values = nl.ndarray((a.shape[0], 8), nl.float32, buffer=nl.shared_hbm)
    indices = nl.ndarray((a.shape[0], 8), nl.uint32, buffer=nl.shared_hbm)
    for i in range(a.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        x = nl.load(a[rows])
        most, where = nl.ndarray((128, 8), nl.float32), nl.ndarray((128, 8), nl.uint32)
        nisa.max8(most, x)
        nisa.nc_find_index8(where, x, most)
        nl.store(values[rows], most)
        nl.store(indices[rows], where)
    return values, indices


def top_8_numpy(a):
    values, indices = np.empty((a.shape[0], 8), np.float32), np.empty((a.shape[0], 8), np.uint32)
    for i in range(a.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        x = a[rows].copy()
        most = np.partition(x, -8, axis=1)[:, -8:]
        most = np.sort(most, axis=1)[:, ::-1]
        where = np.argpartition(x, -8, axis=1)[:, -8:]
        where = np.take_along_axis(where, np.argsort(-np.take_along_axis(x, where, 1), 1), 1)
        values[rows], indices[rows] = most, where
    return values, indices


def quantize_kernel(a):
    """Rows of fp8 with a scale each."""
    out = nl.ndarray(a.shape, nl.float8_e4m3, buffer=nl.shared_hbm)
    scales = nl.ndarray((a.shape[0], 1), nl.float32, buffer=nl.shared_hbm)
    for i in range(a.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        x = nl.load(a[rows])
        size, scale, rate = nl.ndarray(x.shape, nl.float32), nl.ndarray((128, 1), nl.float32), nl.ndarray((128, 1), nl.float32)
        small = nl.ndarray(x.shape, nl.float8_e4m3)
        nisa.activation(size, nl.abs, x)
        nisa.tensor_reduce(scale, nl.maximum, size, 1)
        nisa.tensor_scalar(scale, scale, nl.multiply, 1.0 / LARGEST_FP8)
        nisa.reciprocal(rate, scale)
        nisa.tensor_scalar(small, x, nl.multiply, rate)
        nl.store(out[rows], small)
        nl.store(scales[rows], scale)
    return out, scales


def quantize_numpy(a):
    out, scales = np.empty(a.shape, FP8), np.empty((a.shape[0], 1), np.float32)
    for i in range(a.shape[0] // 128):
        rows = slice(i * 128, (i + 1) * 128)
        x = a[rows].copy()
        size = np.abs(x)
        scale = size.max(1, keepdims=True)
        scale = scale * np.float32(1 / LARGEST_FP8)
        rate = np.float32(1) / scale
        out[rows] = (x * rate).astype(FP8)
        scales[rows] = scale
    return out, scales


def ladder(rng, size=1024):
    """(kernel, NumPy, arrays, multiply-adds of its matmuls as two operations each) by name, ten of them; the matmul has
    size^3."""
    def f32(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def bf16(*shape):
        return f32(*shape).astype(BF16)

    a, b = f32(1024, 2048), f32(1024, 2048)
    q, k, v = (f32(128, 4096).astype(BF16) / BF16(4) for _ in range(3))
    angles = f32(1024, 64)
    gate, up, down = (bf16(*shape) / BF16(16) for shape in ((512, 1024), (512, 1024), (1024, 512)))
    return {"softmax": (softmax_kernel, softmax_numpy, (a,), 0), "rmsnorm": (rmsnorm_kernel, rmsnorm_numpy, (a, f32(1, 2048)), 0),
            "layernorm": (layernorm_kernel, layernorm_numpy, (a, f32(1, 2048), f32(1, 2048)), 0),
            "silu of a sum": (chain_kernel, chain_numpy, (a, b), 0),
            "rope": (rope_kernel, rope_numpy, (a, np.cos(angles), np.sin(angles)), 0),
            "quantize_fp8": (quantize_kernel, quantize_numpy, (a,), 0), "top_8": (top_8_kernel, top_8_numpy, (a,), 0),
            "gated_mlp": (gated_mlp_kernel, gated_mlp_numpy, (bf16(512, 1024), gate, up, down), 6 * 1024 * 512 * 1024),
            "flash_attention": (flash_kernel, flash_numpy, (q, k, np.ascontiguousarray(v.T)), 4 * 128 * 4096 ** 2),
            "matmul": (matmul_kernel, matmul_numpy, (bf16(size, size), bf16(size, size)), 2 * size ** 3)}
