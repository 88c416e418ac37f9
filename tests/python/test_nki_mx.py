"""MX instructions of NKI against NumPy and ml_dtypes: quantising, products, packed types."""

import ml_dtypes
import numpy as np
import pytest

import vtrn.nki
from vtrn.nki import isa as nisa, isa_mx, language as nl

PACKED = {"float8_e4m3fn_x4": ml_dtypes.float8_e4m3fn, "float8_e5m2_x4": ml_dtypes.float8_e5m2,
          "float4_e2m1fn_x4": ml_dtypes.float4_e2m1fn}
MAX_EXPONENT = {"float8_e4m3fn_x4": 8, "float8_e5m2_x4": 15}
LARGEST = {"float8_e4m3fn_x4": 448.0, "float8_e5m2_x4": 57344.0}


@pytest.fixture(autouse=True)
def on_trn3(monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")


def pack(values, name):
    """values[P, 4F] -> words[P, F], the first value in the lowest bits."""
    codes = values.astype(PACKED[name]).view(np.uint8)
    if name == "float4_e2m1fn_x4":
        c = codes.reshape(codes.shape[0], -1, 4).astype(np.uint16) & 15
        return c[..., 0] | c[..., 1] << 4 | c[..., 2] << 8 | c[..., 3] << 12
    return np.ascontiguousarray(codes).view(np.uint32)


def unpack(words, name):
    if name == "float4_e2m1fn_x4":
        codes = np.stack([words >> 4 * i & 15 for i in range(4)], -1).astype(np.uint8)
        return codes.reshape(words.shape[0], -1).view(PACKED[name]).astype(np.float32)
    return np.ascontiguousarray(words).view(PACKED[name]).astype(np.float32)


def spread(scales):
    """scales[P/8, F] -> [P or P/8, F]: four partitions in each quadrant."""
    if len(scales) <= 4:
        return scales
    out = np.zeros((len(scales) * 8, scales.shape[1]), np.uint8)
    for i, row in enumerate(scales):
        out[i // 4 * 32 + i % 4] = row
    return out


def scaled(words, scales, name):
    """float64 values of the tile, [P, F, 4]."""
    factors = 2.0 ** (scales.astype(np.float64) - 127)
    values = unpack(words, name).reshape(words.shape[0], -1, 4).astype(np.float64)
    return values * np.repeat(factors, 8, axis=0)[:, :, None]


def draw(rng, p, f, name):
    top = {"float8_e4m3fn_x4": 448, "float8_e5m2_x4": 1000, "float4_e2m1fn_x4": 6}[name]
    return pack(rng.uniform(-top, top, (p, 4 * f)), name), rng.integers(115, 130, (p // 8, f)).astype(np.uint8)


@vtrn.nki.jit
def product(stationary, moving, stationary_scale, moving_scale, types, scale_type, out_type, n_times=1):
    tiles = []
    for x, t in zip((stationary, moving), types):
        tile = nl.ndarray(x.shape, t, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile.view(x.dtype), src=x)
        tiles.append(tile)
    for x in (stationary_scale, moving_scale):
        tile = nl.ndarray(x.shape, scale_type, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile.view("uint8"), src=x)
        tiles.append(tile)
    acc = nl.ndarray((stationary.shape[1], moving.shape[1]), out_type, buffer=nl.psum)
    for _ in range(n_times):
        nisa.nc_matmul_mx(acc, *tiles)
    done = nl.ndarray(acc.shape, out_type, buffer=nl.sbuf)
    nisa.tensor_copy(done, acc)
    out = nl.ndarray(acc.shape, out_type, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=done)
    return out


@pytest.mark.parametrize("p, m, n", [(32, 2, 1), (64, 34, 50), (128, 128, 512)])
@pytest.mark.parametrize("a, b", [("float8_e4m3fn_x4", "float8_e4m3fn_x4"), ("float8_e5m2_x4", "float4_e2m1fn_x4"),
                                  ("float4_e2m1fn_x4", "float8_e4m3fn_x4")])
def test_a_product_sums_over_partitions_and_the_four_values_of_an_element(p, m, n, a, b):
    rng = np.random.default_rng(p + m)
    (x, xs), (y, ys) = draw(rng, p, m, a), draw(rng, p, n, b)
    got = product(x, y, spread(xs), spread(ys), (a, b), "uint8", nl.float32, n_times=2)
    terms = scaled(x, xs, a), scaled(y, ys, b)
    want = 2 * np.einsum("kiq,kjq->ij", *terms)
    bound = 2 * np.einsum("kiq,kjq->ij", *map(np.abs, terms)) * (4 * p + 4) * 2.0**-24
    assert (np.abs(got - want) <= bound + 1e-30).all()


def test_scales_may_be_e8m0_and_the_result_bf16():
    rng = np.random.default_rng(3)
    t = "float8_e5m2_x4"
    (x, xs), (y, ys) = draw(rng, 32, 16, t), draw(rng, 32, 24, t)
    fp32 = product(x, y, xs, ys, (t, t), "uint8", nl.float32)
    bf16 = product(x, y, xs, ys, (t, t), "float8_e8m0fnu", nl.bfloat16)
    np.testing.assert_array_equal(bf16, fp32.astype(ml_dtypes.bfloat16))


def test_a_scale_of_255_is_nan_and_one_of_0_is_the_least():
    t = "float8_e4m3fn_x4"
    one = pack(np.ones((32, 8)), t)
    ones, scales = np.full((4, 2), 127, np.uint8), np.full((4, 2), 127, np.uint8)
    scales[1, 0] = 255
    got = product(one, one, ones, scales, (t, t), "uint8", nl.float32)
    assert np.isnan(got[:, 0]).all() and (got[:, 1] == 128).all()
    scales[:] = 0
    got = product(one, one, ones, scales, (t, t), "uint8", nl.float32)
    assert (got == np.float32(2.0**-127) * 128).all()


@vtrn.nki.jit
def quantized(x, name, scale_rows, first=0):
    src = nl.ndarray(x.shape, x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=src, src=x)
    p, f = x.shape[0], x.shape[1] // 4
    data = nl.ndarray((p, f), name, buffer=nl.sbuf)
    scales = nl.ndarray((scale_rows, f), nl.uint8, buffer=nl.sbuf)
    nisa.memset(scales, 9)
    nisa.quantize_mx(dst=data, src=src, dst_scale=scales[first:] if first else scales)
    out = nl.ndarray((p, f), nl.uint32, buffer=nl.shared_hbm)
    out_scales = nl.ndarray(scales.shape, nl.uint8, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=data.view("uint32"))
    nisa.dma_copy(dst=out_scales, src=scales)
    return out, out_scales


def quantize(x, name, doubles):
    """The tile of x[P, 4F], and its scales [P/8, F]."""
    p, f = x.shape[0], x.shape[1] // 4
    values = x.astype(np.float32).reshape(p // 8, 8, f, 4)
    largest = np.abs(values).max(axis=(1, 3))
    exponents = np.frexp(largest)[1] - 1 - (MAX_EXPONENT[name] - doubles)
    scales = np.where(largest == 0, 0, np.maximum(exponents + 127, 0)).astype(np.uint8)
    divided = values / 2.0 ** (scales.astype(np.float64) - 127)[:, None, :, None]
    divided = np.clip(divided, -LARGEST[name], LARGEST[name]).reshape(x.shape).astype(np.float32)
    return pack(divided, name), scales


@pytest.mark.parametrize("doubles", [True, False])
@pytest.mark.parametrize("name", list(MAX_EXPONENT))
@pytest.mark.parametrize("p, f, t", [(32, 4, ml_dtypes.bfloat16), (96, 132, np.float16), (128, 1024, ml_dtypes.bfloat16)])
def test_quantising_divides_by_the_scale_of_each_group(monkeypatch, doubles, name, p, f, t):
    monkeypatch.setattr(isa_mx, "doubles_scales", doubles)
    rng = np.random.default_rng(f)
    x = (rng.standard_normal((p, f)) * 2.0 ** rng.integers(-8, 8, (p, 1))).astype(t)
    x[:8, :4] = 0
    rows = p // 8 if p == 32 else p
    got, got_scales = quantized(x, name, rows)
    want, scales = quantize(x, name, doubles)
    np.testing.assert_array_equal(got, want)
    places = [i // 4 * 32 + i % 4 for i in range(p // 8)]
    np.testing.assert_array_equal(got_scales[places], scales)
    rest = np.setdiff1d(np.arange(rows), places)
    assert (got_scales[rest] == 9).all()


def test_scales_of_several_tiles_share_their_quadrants():
    x = np.random.default_rng(1).standard_normal((64, 16)).astype(ml_dtypes.bfloat16)
    _, scales = quantized(x, "float8_e4m3fn_x4", 128, first=8)
    want = quantize(x, "float8_e4m3fn_x4", True)[1]
    np.testing.assert_array_equal(scales[[8, 9, 10, 11, 40, 41, 42, 43]], want)


def test_an_mx_product_takes_the_time_of_one_in_bf16_and_does_four_times_as_much():
    @vtrn.nki.jit
    def plain(x, y, n_times):
        tiles = []
        for t in (x, y):
            tile = nl.ndarray(t.shape, t.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile, src=t)
            tiles.append(tile)
        acc = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
        for _ in range(n_times):
            nisa.nc_matmul(acc, *tiles)
        out = nl.ndarray(acc.shape, nl.float32, buffer=nl.shared_hbm)
        done = nl.ndarray(acc.shape, nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(done, acc)
        nisa.dma_copy(dst=out, src=done)
        return out

    rng = np.random.default_rng(0)
    t = "float8_e4m3fn_x4"
    (x, xs), (y, ys) = draw(rng, 128, 128, t), draw(rng, 128, 512, t)
    n = 80  # so many that it does not matter when the Tensor engine's clock rises
    mx = vtrn.nki.profile(product)(x, y, spread(xs), spread(ys), (t, t), "uint8", nl.float32, n_times=n)
    bf16 = vtrn.nki.profile(plain)(x.astype(ml_dtypes.bfloat16), y.astype(ml_dtypes.bfloat16), n)
    assert mx.flops == 4 * bf16.flops == n * 2 * 512 * 128 * 512
    assert mx.tensor_active * mx.latency_ns == pytest.approx(bf16.tensor_active * bf16.latency_ns, rel=5e-2)


def test_packed_tiles_are_set_to_zero_and_copied():
    @vtrn.nki.jit
    def kernel(x):
        a = nl.ndarray(x.shape, nl.float4_e2m1fn_x4, buffer=nl.sbuf)
        b = nl.ndarray(x.shape, nl.float4_e2m1fn_x4, buffer=nl.sbuf)
        nisa.memset(a, 0)
        nisa.dma_copy(dst=a[0:16].view("uint16"), src=x[0:16])
        nisa.tensor_copy(b, a)
        assert b.dtype == nl.float4_e2m1fn_x4
        out = nl.ndarray(x.shape, nl.uint16, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=b.view("uint16"))
        return out

    x = np.random.default_rng(0).integers(0, 65536, (32, 5)).astype(np.uint16)
    want = x.copy()
    want[16:] = 0
    np.testing.assert_array_equal(kernel(x), want)


def test_rules_are_named():
    @vtrn.nki.jit
    def kernel(rows, how):
        x = nl.ndarray((rows, 64), nl.bfloat16, buffer=nl.sbuf)
        d = nl.ndarray((rows, 16), nl.float8_e4m3fn_x4, buffer=nl.sbuf)
        s = nl.ndarray((max(rows, 4), 16), nl.uint8, buffer=nl.sbuf)
        nisa.memset(x, 1.0)
        if how == "add":
            nisa.tensor_tensor(d, d, d, nl.add)
        nisa.quantize_mx(d, x, s)

    with pytest.raises(vtrn.nki.NkiValidationError, match="whole quadrants of 32"):
        kernel(48, "")
    with pytest.raises(vtrn.nki.NkiValidationError, match="no engine computes in fp8e4m3fn_x4"):
        kernel(32, "add")


def test_chips_before_trainium3_refuse(monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")
    with pytest.raises(vtrn.nki.NkiValidationError, match="quantize_mx"):
        quantized(np.zeros((32, 16), ml_dtypes.bfloat16), "float8_e4m3fn_x4", 4)


def test_a_decorator_names_the_chip_where_the_environment_names_none(monkeypatch):
    @vtrn.nki.jit(platform_target="trn3")
    def kernel(x):
        assert nisa.get_nc_version() == nisa.nc_version.gen4
        return quantized.func(x, "float8_e5m2_x4", 4)

    x = np.ones((32, 16), ml_dtypes.bfloat16)
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE")
    kernel(x)
    vtrn.nki.profile(kernel)(x)
    assert vtrn.nki.tune(kernel, {})(x).best.latency_ns > 0
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")
    with pytest.raises(AssertionError):
        kernel(x)
    with pytest.raises(ValueError, match="platform_target=trn9"):
        vtrn.nki.jit(platform_target="trn9")(quantized.func)
