"""The reference on StableHLO text that JAX does not write, against XLA's CPU compiler on the same text:
unusual attributes of every operation, random dimension numbers, every pair of types, edge values."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import ml_dtypes
import numpy as np
import pytest
from jax._src.lib import xla_client
from common import SEED
from reference_oracle import compare, evaluate
from test_vhlo_attrs import CASES, compare_region, module_of, program, random_convolution, \
    region, serialize

pytestmark = pytest.mark.part(3)

TYPES = {
    "i1": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "ui8": np.uint8, "ui16": np.uint16, "ui32": np.uint32, "ui64": np.uint64,
    "f8E4M3FN": ml_dtypes.float8_e4m3fn, "f8E5M2": ml_dtypes.float8_e5m2,
    "f8E4M3": ml_dtypes.float8_e4m3, "f8E3M4": ml_dtypes.float8_e3m4,
    "bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32, "f64": np.float64,
    "complex<f32>": np.complex64, "complex<f64>": np.complex128,
}
INTS = ["i8", "i16", "i32", "i64", "ui8", "ui16", "ui32", "ui64"]
FLOATS = ["bf16", "f16", "f32", "f64"]
np.seterr(all="ignore")


def xla(text, args):
    cpu = jax.local_devices(backend="cpu")[0]
    run = cpu.client.compile_and_load(text, xla_client.DeviceList((cpu,)),
                                      xla_client.CompileOptions())
    with jax.enable_x64(True):
        out = run.execute_sharded([jax.device_put(a, cpu) for a in args])
        return [np.asarray(a[0]) for a in out.disassemble_into_single_device_arrays()]


def shape_of(kind):
    *dims, dtype = kind.split("x") if "complex" not in kind else (
        *kind[:kind.index("complex")].split("x")[:-1], kind[kind.index("complex"):])
    return tuple(map(int, dims)), np.dtype(TYPES[dtype])


def random_of(rng, kind):
    shape, dtype = shape_of(kind)
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        return rng.integers(0, 6, shape).astype(dtype)
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.kind == "c" else x).astype(dtype)


def check(args, op, results, arrays, bound=None):
    text = module_of(args, op, results)
    compare(xla(text, arrays), evaluate(serialize(text), arrays), bound=bound)


ONE_DEVICE = [n for n in CASES if n not in (
    "custom_call", "all_reduce", "all_gather", "reduce_scatter", "all_to_all",
    "collective_permute", "collective_broadcast")]


@pytest.mark.parametrize("name", ONE_DEVICE)
def test_an_operation_with_unusual_attributes_agrees_with_xla(name, rng):
    results, args, op = program(name)
    for _ in range(2):
        arrays = [random_of(rng, kind) for kind in args]
        if name in ("reduce", "reduce_window"):
            arrays[1] = np.float32(name == "reduce")  # neutral for its product, or its sum
        if name == "cholesky":
            arrays = [a @ a.T + 3 * np.eye(3, dtype=a.dtype) for a in arrays]
        if name.startswith("batch_norm_i") or name == "batch_norm_grad":
            arrays[-2 if name == "batch_norm_grad" else -1] = \
                np.abs(arrays[-2 if name == "batch_norm_grad" else -1]) + 0.1
        check(args, op, results, arrays)


@pytest.mark.parametrize("case", range(12))
def test_a_convolution_of_random_attributes_agrees_with_xla(case, rng):
    rng = np.random.default_rng([SEED, case])
    types, op, result = random_convolution(rng)
    check(types, op, [result], [random_of(rng, kind) for kind in types])


def random_indexing(rng):
    """Dimension numbers of a gather, or of the scatter that undoes it: (operand shape, indices shape,
    window sizes, result shape, the numbers by name)."""
    rank = int(rng.integers(1, 5))
    operand = rng.integers(2, 6, rank).tolist()
    dims = rng.permutation(rank).tolist()
    n_batching = int(rng.integers(0, min(rank, 2)))
    batching = sorted(dims[:n_batching])
    rest = [d for d in range(rank) if d not in batching]
    collapsed = sorted(rng.choice(rest, int(rng.integers(0, len(rest) + 1)), False).tolist())
    window = [1 if d in batching + collapsed else int(rng.integers(1, operand[d] + 1))
              for d in range(rank)]
    start_map = rng.choice(rest, int(rng.integers(1, len(rest) + 1)), False).tolist()
    batch = rng.integers(1, 5, int(rng.integers(n_batching, 4))).tolist()
    places = sorted(rng.choice(len(batch), n_batching, False).tolist()) if n_batching else []
    for place, d in zip(places, batching):
        batch[place] = operand[d]
    vector_dim = int(rng.integers(0, len(batch) + 1))
    indices = batch[:vector_dim] + [len(start_map)] + batch[vector_dim:]
    indices_batching = [p if p < vector_dim else p + 1 for p in places]
    if len(start_map) == 1 and rng.random() < 0.5:  # the vector dimension may be left out
        indices, vector_dim, indices_batching = batch, len(batch), places
    offset_sizes = [window[d] for d in range(rank) if d not in batching + collapsed]
    n = len(batch) + len(offset_sizes)
    offset = sorted(rng.choice(n, len(offset_sizes), False).tolist())
    rest_sizes, result = list(batch), []
    for i in range(n):
        result.append(offset_sizes.pop(0) if i in offset else rest_sizes.pop(0))
    return operand, indices, window, result, dict(
        offset=offset, collapsed=collapsed, batching=batching, indices_batching=indices_batching,
        start_map=start_map, vector_dim=vector_dim)


def kind_of(shape, dtype):
    return "x".join([*map(str, shape), dtype])


def random_indices(rng, shape):
    return rng.integers(-2, 7, shape).astype(np.int32)


@pytest.mark.parametrize("case", range(16))
def test_a_gather_of_random_dimension_numbers_agrees_with_xla(case):
    rng = np.random.default_rng([SEED, case])
    operand, indices, window, result, n = random_indexing(rng)
    op = f'''"stablehlo.gather"(%0, %1) {{dimension_numbers = #stablehlo.gather<
      offset_dims = {n["offset"]}, collapsed_slice_dims = {n["collapsed"]},
      operand_batching_dims = {n["batching"]},
      start_indices_batching_dims = {n["indices_batching"]},
      start_index_map = {n["start_map"]}, index_vector_dim = {n["vector_dim"]}>,
      slice_sizes = array<i64: {", ".join(map(str, window))}>, indices_are_sorted = false}}'''
    args = [kind_of(operand, "f32"), kind_of(indices, "i32")]
    check(args, op, [kind_of(result, "f32")],
          [random_of(rng, args[0]), random_indices(rng, indices)])


@pytest.mark.parametrize("reducer", ["add", "maximum", "multiply", "replace"])
@pytest.mark.parametrize("case", range(6))
def test_a_scatter_of_random_dimension_numbers_agrees_with_xla(case, reducer):
    rng = np.random.default_rng([SEED, case])
    operand, indices, _, updates, n = random_indexing(rng)
    body = """({ ^bb0(%p: tensor<i32>, %q: tensor<i32>):
        stablehlo.return %q : tensor<i32> })""" if reducer == "replace" else \
        region(f"stablehlo.{reducer}", "i32")
    op = f'''"stablehlo.scatter"(%0, %1, %2) {body} {{
      scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = {n["offset"]},
      inserted_window_dims = {n["collapsed"]}, input_batching_dims = {n["batching"]},
      scatter_indices_batching_dims = {n["indices_batching"]},
      scatter_dims_to_operand_dims = {n["start_map"]}, index_vector_dim = {n["vector_dim"]}>,
      indices_are_sorted = false, unique_indices = false}}'''
    args = [kind_of(operand, "i32"), kind_of(indices, "i32"), kind_of(updates, "i32")]
    check(args, op, [args[0]], [random_of(rng, args[0]), random_indices(rng, indices),
                                random_of(rng, args[2])])


def random_window(rng, shape, may_dilate):
    """(attributes, shape of the result)"""
    n = len(shape)
    size, stride = rng.integers(1, 4, n), rng.integers(1, 3, n)
    base, dilation = (rng.integers(1, 4, n) if may_dilate else np.ones(n, int) for _ in range(2))
    pads = rng.integers(0, 3, (n, 2)) if may_dilate else \
        np.stack([rng.integers(0, size), rng.integers(0, size)], 1)
    room = (np.array(shape) - 1) * base + 1 + pads.sum(1) - ((size - 1) * dilation + 1)
    listed = lambda v: ", ".join(map(str, v))  # noqa: E731
    text = f"""window_dimensions = array<i64: {listed(size)}>,
      window_strides = array<i64: {listed(stride)}>,
      padding = dense<{pads.tolist()}> : tensor<{n}x2xi64>"""
    if may_dilate:
        text += f""", base_dilations = array<i64: {listed(base)}>,
      window_dilations = array<i64: {listed(dilation)}>"""
    return text, (room // stride + 1).tolist() if (room >= 0).all() else None


@pytest.mark.parametrize("reducer", ["add", "maximum", "minimum", "multiply"])
@pytest.mark.parametrize("dtype", ["f32", "i32", "bf16"])
def test_windows_with_dilations_and_paddings_agree_with_xla(reducer, dtype, rng):
    n_done = 0
    while n_done < 3:
        shape = rng.integers(4, 9, int(rng.integers(1, 4))).tolist()
        text, out = random_window(rng, shape, True)
        if out is None:
            continue
        args = [kind_of(shape, dtype), dtype]
        # how often an initial value that is not neutral counts is left to the implementation
        t = np.dtype(TYPES[dtype])
        lowest, highest = (-np.inf, np.inf) if dtype != "i32" else (-2**31, 2**31 - 1)
        neutral = {"add": 0, "multiply": 1, "maximum": lowest, "minimum": highest}[reducer]
        check(args, f'"stablehlo.reduce_window"(%0, %1) {region(f"stablehlo.{reducer}", dtype)} '
              f"{{{text}}}", [kind_of(out, dtype)],
              [random_of(rng, args[0]), np.array(neutral, t)])
        n_done += 1


@pytest.mark.parametrize("direction", ["GE", "GT", "LE", "LT"])
def test_select_and_scatter_with_padding_and_ties_agrees_with_xla(direction, rng):
    """Ties in one dimension only: in more, the order of the search is left to the implementation."""
    n_done = 0
    while n_done < 3:
        shape = rng.integers(4, 9, int(rng.integers(1, 4))).tolist()
        text, out = random_window(rng, shape, False)
        if out is None:
            continue
        args = [kind_of(shape, "f32"), kind_of(out, "f32"), "f32"]
        op = '"stablehlo.select_and_scatter"(%0, %1, %2) (' + compare_region(direction)[1:-1] + \
            ", " + region("stablehlo.add")[1:-1] + ") {" + text + "}"
        x = rng.integers(0, 3, shape) if len(shape) == 1 else \
            rng.permutation(int(np.prod(shape))).reshape(shape)
        arrays = [x.astype(np.float32), random_of(rng, args[1]), np.float32(0.5)]
        check(args, op, [args[0]], arrays)
        n_done += 1


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16"])
def test_batch_norms_agree_with_xla(index, dtype, rng):
    shape = (3, 4, 5)
    full, one = kind_of(shape, dtype), kind_of(shape[index:index + 1], dtype)
    attrs = f"{{epsilon = 1.0e-2 : f32, feature_index = {index} : i64}}"
    x, scale, offset, mean = (random_of(rng, k) for k in (full, one, one, one))
    variance = np.abs(random_of(rng, one)) + np.array(0.5, x.dtype)
    bound = 2e-2 if dtype == "f16" else None
    check([full, one, one], f'"stablehlo.batch_norm_training"(%0, %1, %2) {attrs}',
          [full, one, one], [x, scale, offset], bound)
    check([full] + [one] * 4, f'"stablehlo.batch_norm_inference"(%0, %1, %2, %3, %4) {attrs}',
          [full], [x, scale, offset, mean, variance], bound)
    check([full, one, one, one, full],
          f'"stablehlo.batch_norm_grad"(%0, %1, %2, %3, %4) {attrs}', [full, one, one],
          [x, scale, mean, variance, random_of(rng, full)], bound)


@pytest.mark.parametrize("dtype", ["f32", "f64", "complex<f32>"])
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("transpose", ["NO_TRANSPOSE", "TRANSPOSE", "ADJOINT"])
def test_triangular_systems_have_the_solution_of_numpy(dtype, left, lower, transpose, rng):
    """NumPy: XLA's CPU compiler takes its own from LAPACK."""
    a_kind, b_kind = f"2x4x4x{dtype}", f"2x4x3x{dtype}" if left else f"2x3x4x{dtype}"
    a, b = random_of(rng, a_kind), random_of(rng, b_kind)
    a += 3 * np.eye(4, dtype=a.dtype)
    for unit in (False, True):
        text = module_of([a_kind, b_kind], f'''"stablehlo.triangular_solve"(%0, %1) {{
          left_side = {str(left).lower()}, lower = {str(lower).lower()},
          unit_diagonal = {str(unit).lower()},
          transpose_a = #stablehlo<transpose {transpose}>}}''', [b_kind])
        t = (np.tril if lower else np.triu)(a)
        if unit:
            t = np.where(np.eye(4, dtype=bool), 1, t)
        t = {"NO_TRANSPOSE": t, "TRANSPOSE": t.swapaxes(1, 2),
             "ADJOINT": t.swapaxes(1, 2).conj()}[transpose]
        want = np.linalg.solve(t, b) if left else \
            np.linalg.solve(t.swapaxes(1, 2), b.swapaxes(1, 2)).swapaxes(1, 2)
        compare([want.astype(a.dtype)], evaluate(serialize(text), [a, b]), bound=1e-4)


@pytest.mark.parametrize("dtype", ["f32", "f64", "complex<f32>", "complex<f64>"])
@pytest.mark.parametrize("lower", [True, False])
def test_cholesky_has_the_factor_of_numpy(dtype, lower, rng):
    kind = f"2x5x5x{dtype}"
    a = random_of(rng, kind)
    a = a @ a.swapaxes(1, 2).conj() + 5 * np.eye(5, dtype=a.dtype)
    text = module_of([kind], f'"stablehlo.cholesky"(%0) {{lower = {str(lower).lower()}}}', [kind])
    want = np.linalg.cholesky(a)
    want = want if lower else want.swapaxes(1, 2).conj()
    got, = evaluate(serialize(text), [a])
    compare([want], [(np.tril if lower else np.triu)(got)], bound=1e-4)


@pytest.mark.parametrize("wide", ["f32", "f64"])
@pytest.mark.parametrize("lengths", [(8,), (7,), (4, 6), (3, 5), (2, 3, 4)])
def test_fourier_transforms_are_those_of_numpy(wide, lengths, rng):
    n, c = len(lengths), f"complex<{wide}>"
    axes = tuple(range(1, 1 + n))
    half = (*lengths[:-1], lengths[-1] // 2 + 1)
    cases = [("FFT", lengths, c, lengths, c, np.fft.fftn), ("IFFT", lengths, c, lengths, c, np.fft.ifftn),
             ("RFFT", lengths, wide, half, c, np.fft.rfftn)]
    for kind, before, start, after, end, f in cases:
        x_kind, y_kind = kind_of((2, *before), start), kind_of((2, *after), end)
        x = random_of(rng, x_kind)
        text = module_of([x_kind], f'''"stablehlo.fft"(%0) {{
          fft_type = #stablehlo<fft_type {kind}>,
          fft_length = array<i64: {", ".join(map(str, lengths))}>}}''', [y_kind])
        compare([f(x, axes=axes).astype(TYPES[end])], evaluate(serialize(text), [x]), bound=1e-4)
    x = np.fft.rfftn(random_of(rng, kind_of((2, *lengths), wide)), axes=axes).astype(TYPES[c])
    text = module_of([kind_of((2, *half), c)], f'''"stablehlo.fft"(%0) {{
      fft_type = #stablehlo<fft_type IRFFT>,
      fft_length = array<i64: {", ".join(map(str, lengths))}>}}''', [kind_of((2, *lengths), wide)])
    want = np.fft.irfftn(x, s=lengths, axes=axes).astype(TYPES[wide])
    compare([want], evaluate(serialize(text), [x]), bound=1e-4)


def edge_values(rng, dtype):
    t = np.dtype(TYPES[dtype])
    if t == np.bool_:
        return np.array([False, True] * 4)
    if t.kind in "iu":
        i = np.iinfo(t)
        bits = rng.integers(0, 256, (300, t.itemsize), dtype=np.uint8).view(t)[:, 0]
        return np.concatenate([np.array([i.min, i.max, 0, 1, i.max - 1, i.min + 1], t), bits,
                               rng.integers(0, 100, 50).astype(t)])
    parts = [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 255, 256, 127.5,
             -128.5, 32767.5, 65504, 65520, 448, 449, 464, 240, 248, 15.5, 15.75, 2.0**31, -2.0**31,
             2.0**32, 2.0**63, 2.0**64, -2.0**63, 1e30, -1e30, 1e-10, 2.0**-24, 2.0**-9, 2.0**-17]
    v = np.concatenate([parts, rng.standard_normal(200) * 10.0**rng.integers(-6, 11, 200)])
    return (v + 1j * v[::-1] if t.kind == "c" else v).astype(t)


@pytest.mark.parametrize("start", TYPES)
def test_conversions_to_every_type_agree_with_xla_on_edge_values(start, rng):
    x = edge_values(rng, start)
    kind, others = kind_of(x.shape, start), [t for t in TYPES if t != start]
    kinds = [kind_of(x.shape, t) for t in others]
    lines = "\n".join(f"%{i} = stablehlo.convert %a : (tensor<{kind}>) -> tensor<{k}>"
                      for i, k in enumerate(kinds))
    types = ", ".join(f"tensor<{k}>" for k in kinds)
    text = f"""func.func public @main(%a: tensor<{kind}>) -> ({types}) {{
      {lines}
      return {", ".join(f"%{i}" for i in range(len(kinds)))} : {types} }}"""
    for to, want, got in zip(others, xla(text, [x]), evaluate(serialize(text), [x])):
        same = want == got
        same |= np.isnan(want) & np.isnan(got) if want.dtype.kind not in "iub" else False
        assert same.all(), (to, x[~same][:5], want[~same][:5], got[~same][:5])


@pytest.mark.parametrize("name", ["floor", "ceil", "round_nearest_even", "round_nearest_afz"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_rounding_is_right_at_ties_and_edges(name, dtype, rng):
    t = np.dtype(TYPES[dtype])
    x = np.concatenate([np.arange(-40, 40) / 4, edge_values(rng, dtype).astype(np.float64),
                        np.nextafter(np.float32(0.5), np.float32([0, 1])),
                        [2.0**23 + 0.5, 2.0**52 + 0.5, 0.49999999999999994]]).astype(t)
    wide = x.astype(np.float64)
    want = {"floor": np.floor, "ceil": np.ceil, "round_nearest_even": np.rint,
            "round_nearest_afz": lambda v: np.copysign(
                np.where(np.abs(v) - np.trunc(np.abs(v)) >= 0.5, np.trunc(np.abs(v)) + 1,
                         np.trunc(np.abs(v))), v)}[name](wide).astype(t)
    kind = kind_of(x.shape, dtype)
    got, = evaluate(serialize(module_of([kind], f'"stablehlo.{name}"(%0)', [kind])), [x])
    assert np.array_equal(got, want, equal_nan=True)
    assert np.array_equal(np.signbit(got)[~np.isnan(x)], np.signbit(want)[~np.isnan(x)])


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "remainder",
                                  "shift_left", "shift_right_logical", "shift_right_arithmetic",
                                  "maximum", "minimum", "and", "or", "xor"])
@pytest.mark.parametrize("dtype", INTS)
def test_integers_agree_with_xla_at_the_edges(name, dtype, rng):
    """Overflow, division by zero, shifts beyond the width."""
    x, y = integer_edges(rng, dtype)
    kind = kind_of(x.shape, dtype)
    check([kind, kind], f'"stablehlo.{name}"(%0, %1)', [kind], [x, y])


@pytest.mark.parametrize("dtype", INTS)
def test_integer_powers_wrap_and_negative_exponents_give_what_xla_gives(dtype, rng):
    """XLA looks at six bits of an exponent only: Python is the oracle for those that are not
    negative."""
    x, y = integer_edges(rng, dtype)
    kind = kind_of(x.shape, dtype)
    text = module_of([kind, kind], '"stablehlo.power"(%0, %1)', [kind])
    got, = evaluate(serialize(text), [x, y])
    n_bits = 8 * x.dtype.itemsize
    want = np.array([pow(int(a), max(int(b), 0), 1 << n_bits) for a, b in zip(x, y)],
                    np.uint64).astype(f"uint{n_bits}").view(x.dtype)
    theirs, = xla(text, [x, y])
    assert np.array_equal(got, np.where(y < 0, theirs, want))


def integer_edges(rng, dtype):
    t = np.dtype(TYPES[dtype])
    i = np.iinfo(t)
    s = np.array([i.min, i.max, 0, 1, 2, 3, i.max - 1, i.bits - 1, i.bits, i.bits + 1], t)
    if i.min:
        s = np.concatenate([s, np.array([-1, -2, -3, i.min + 1], t)])
    x, y = np.repeat(s, len(s)), np.tile(s, len(s))
    bits = rng.integers(0, 256, (2, 200, t.itemsize), dtype=np.uint8).view(t)[..., 0]
    return np.concatenate([x, bits[0]]), np.concatenate([y, bits[1]])


@pytest.mark.parametrize("is_stable", ["true", "false"])
@pytest.mark.parametrize("dimension", [0, 1])
def test_a_sort_by_the_second_operand_then_the_first_agrees_with_numpy(dimension, is_stable, rng):
    """Three operands; ties of both keys keep their order when the sort is stable."""
    kinds = ["9x11xi32", "9x11xf32", "9x11xi64"]
    a, b = rng.integers(0, 3, (9, 11)).astype(np.int32), rng.integers(0, 3, (9, 11)).astype(np.float32)
    c = np.arange(99).reshape(9, 11)
    op = f'''"stablehlo.sort"(%0, %1, %2) ({{
      ^bb0(%p: tensor<i32>, %q: tensor<i32>, %r: tensor<f32>, %s: tensor<f32>, %t: tensor<i64>,
           %u: tensor<i64>):
        %v = stablehlo.compare GT, %r, %s : (tensor<f32>, tensor<f32>) -> tensor<i1>
        %w = stablehlo.compare EQ, %r, %s : (tensor<f32>, tensor<f32>) -> tensor<i1>
        %x = stablehlo.compare LT, %p, %q : (tensor<i32>, tensor<i32>) -> tensor<i1>
        %y = stablehlo.and %w, %x : tensor<i1>
        %k = stablehlo.or %v, %y : tensor<i1>
        stablehlo.return %k : tensor<i1> }})
      {{dimension = {dimension} : i64, is_stable = {is_stable}}}'''
    got = evaluate(serialize(module_of(kinds, op, kinds)), [a, b, c])
    order = np.lexsort((a, -b), axis=dimension)  # lexsort is stable, the last key comes first
    for g, x in list(zip(got, (a, b, c)))[:3 if is_stable == "true" else 2]:
        assert np.array_equal(g, np.take_along_axis(x, order, dimension))


def test_a_map_of_three_operands_agrees_with_xla(rng):
    kind = "3x4xf32"
    op = '''"stablehlo.map"(%0, %1, %2) ({ ^bb0(%p: tensor<f32>, %q: tensor<f32>, %r: tensor<f32>):
        %s = stablehlo.multiply %p, %q : tensor<f32>
        %t = stablehlo.subtract %s, %r : tensor<f32>
        stablehlo.return %t : tensor<f32> }) {dimensions = array<i64: 0, 1>}'''
    check([kind] * 3, op, [kind], [random_of(rng, kind) for _ in range(3)])


def test_dynamic_slices_and_updates_of_any_rank_clamp_as_in_xla(rng):
    for _ in range(5):
        rank = int(rng.integers(1, 5))
        shape = rng.integers(2, 6, rank)
        size = [int(rng.integers(1, d + 1)) for d in shape]
        full, part, at = kind_of(shape, "f32"), kind_of(size, "f32"), ["i32"] * rank
        arrays = [random_of(rng, full), *[np.int32(v) for v in rng.integers(-9, 9, rank)]]
        names = ", ".join(f"%{i + 1}" for i in range(rank))
        check([full, *at], f'"stablehlo.dynamic_slice"(%0, {names}) {{slice_sizes = '
              f'array<i64: {", ".join(map(str, size))}>}}', [part], arrays)
        names = ", ".join(f"%{i + 2}" for i in range(rank))
        check([full, part, *at], f'"stablehlo.dynamic_update_slice"(%0, %1, {names})', [full],
              [arrays[0], random_of(rng, part), *arrays[1:]])
