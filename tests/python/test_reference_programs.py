"""The reference on StableHLO that JAX does not write: oracles are NumPy and the specification."""

import numpy as np
import pytest
from jax._src.interpreters import mlir as jax_mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from reference_oracle import Refused, evaluate


def run(text, *args):
    with jax_mlir.make_ir_context():
        artifact = stablehlo.serialize_portable_artifact_str(
            str(ir.Module.parse(text)), stablehlo.get_current_version())
    return evaluate(artifact, args)


@pytest.mark.parametrize("lower", [True, False])
def test_cholesky_gives_the_factor_of_numpy(lower):
    a = np.random.default_rng(3).standard_normal((2, 5, 5)).astype(np.float32)
    a = a @ a.swapaxes(1, 2) + 5 * np.eye(5, dtype=np.float32)
    got, = run(f"""func.func @main(%a: tensor<2x5x5xf32>) -> tensor<2x5x5xf32> {{
      %0 = "stablehlo.cholesky"(%a) {{lower = {str(lower).lower()}}}
        : (tensor<2x5x5xf32>) -> tensor<2x5x5xf32>
      return %0 : tensor<2x5x5xf32> }}""", a)
    want = np.linalg.cholesky(a.astype(np.float64))
    np.testing.assert_allclose(got, want if lower else want.swapaxes(1, 2), atol=1e-5)


@pytest.mark.parametrize("index", [-1, 0, 1, 2, 7])
def test_a_case_index_out_of_range_takes_the_last_branch(index):
    got, = run("""func.func @main(%i: tensor<i32>) -> tensor<i32> {
      %0 = "stablehlo.case"(%i) ({
        %c = stablehlo.constant dense<10> : tensor<i32>
        stablehlo.return %c : tensor<i32> }, {
        %c = stablehlo.constant dense<20> : tensor<i32>
        stablehlo.return %c : tensor<i32> }, {
        %c = stablehlo.constant dense<30> : tensor<i32>
        stablehlo.return %c : tensor<i32> }) : (tensor<i32>) -> tensor<i32>
      return %0 : tensor<i32> }""", np.int32(index))
    assert got == {0: 10, 1: 20}.get(index, 30)


def test_batch_norm_inference_agrees_with_its_formula():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, 3)).astype(np.float32)
    scale, offset, mean = (rng.standard_normal(3).astype(np.float32) for _ in range(3))
    variance = rng.random(3).astype(np.float32) + 0.5
    t = "tensor<3xf32>"
    got, = run(f"""func.func @main(%x: tensor<4x3xf32>, %s: {t}, %o: {t}, %m: {t}, %v: {t})
        -> tensor<4x3xf32> {{
      %0 = "stablehlo.batch_norm_inference"(%x, %s, %o, %m, %v)
        {{epsilon = 1.0e-3 : f32, feature_index = 1 : i64}}
        : (tensor<4x3xf32>, {t}, {t}, {t}, {t}) -> tensor<4x3xf32>
      return %0 : tensor<4x3xf32> }}""", x, scale, offset, mean, variance)
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(variance + 1e-3) * scale + offset,
                               rtol=1e-5, atol=1e-6)


# Shapes as operands; what computes them is constant, or joined of constants.
DYNAMIC = {
    "broadcast": ("""%c = stablehlo.constant dense<[3, 2, 2]> : tensor<3xi64>
      %r = "stablehlo.dynamic_broadcast_in_dim"(%x, %c) {broadcast_dimensions = array<i64: 0, 1>}
        : (tensor<3x2xf32>, tensor<3xi64>) -> tensor<3x2x2xf32>""",
                  "3x2x2", lambda x: np.broadcast_to(x[..., None], (3, 2, 2))),
    "iota": ("""%c = stablehlo.constant dense<[2, 3]> : tensor<2xi32>
      %r = stablehlo.dynamic_iota %c, dim = 1 : (tensor<2xi32>) -> tensor<2x3xf32>""",
             "2x3", lambda x: np.broadcast_to(np.arange(3.0), (2, 3))),
    "reshape": ("""%c = stablehlo.constant dense<6> : tensor<1xi32>
      %r = stablehlo.dynamic_reshape %x, %c : (tensor<3x2xf32>, tensor<1xi32>) -> tensor<6xf32>""",
                "6", lambda x: x.reshape(6)),
    "pad": ("""%l = stablehlo.constant dense<[1, -1]> : tensor<2xi64>
      %h0 = stablehlo.constant dense<2> : tensor<1xi64>
      %h1 = stablehlo.constant dense<0> : tensor<1xi32>
      %h2 = stablehlo.convert %h1 : (tensor<1xi32>) -> tensor<1xi64>
      %h = stablehlo.concatenate %h0, %h2, dim = 0 : (tensor<1xi64>, tensor<1xi64>) -> tensor<2xi64>
      %i = stablehlo.constant dense<[0, 1]> : tensor<2xi64>
      %v = stablehlo.constant dense<9.0> : tensor<f32>
      %r = stablehlo.dynamic_pad %x, %v, %l, %h, %i : (tensor<3x2xf32>, tensor<f32>, tensor<2xi64>,
        tensor<2xi64>, tensor<2xi64>) -> tensor<6x2xf32>""",
            "6x2", lambda x: np.pad(np.stack([np.full(3, 9), x[:, 1]], 1), ((1, 2), (0, 0)), constant_values=9)),
    "slice": ("""%s = stablehlo.constant dense<[0, 1]> : tensor<2xi64>
      %l = stablehlo.constant dense<[3, 2]> : tensor<2xi64>
      %t = stablehlo.constant dense<[2, 1]> : tensor<2xi64>
      %r = stablehlo.real_dynamic_slice %x, %s, %l, %t : (tensor<3x2xf32>, tensor<2xi64>,
        tensor<2xi64>, tensor<2xi64>) -> tensor<2x1xf32>""",
              "2x1", lambda x: x[::2, 1:]),
    "gather": ("""%i = stablehlo.constant dense<[[2], [0]]> : tensor<2x1xi32>
      %c = stablehlo.constant dense<[1, 2]> : tensor<2xi32>
      %r = "stablehlo.dynamic_gather"(%x, %i, %c) {dimension_numbers = #stablehlo.gather<
        offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>,
        indices_are_sorted = false} : (tensor<3x2xf32>, tensor<2x1xi32>, tensor<2xi32>) -> tensor<2x2xf32>""",
               "2x2", lambda x: x[[2, 0]]),
    "conv": ("""%y = stablehlo.reshape %x : (tensor<3x2xf32>) -> tensor<1x6x1xf32>
      %k = stablehlo.constant dense<1.0> : tensor<3x1x1xf32>
      %c = stablehlo.constant dense<1> : tensor<1x2xi64>
      %r = "stablehlo.dynamic_conv"(%y, %k, %c) {window_strides = array<i64: 1>,
        dimension_numbers = #stablehlo.conv<[b, 0, f]x[0, i, o]->[b, 0, f]>,
        batch_group_count = 1 : i64, feature_group_count = 1 : i64}
        : (tensor<1x6x1xf32>, tensor<3x1x1xf32>, tensor<1x2xi64>) -> tensor<1x6x1xf32>""",
             "1x6x1", lambda x: np.convolve(x.reshape(6), np.ones(3), "same").reshape(1, 6, 1)),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_shape_that_is_a_constant_operand_is_a_shape(name):
    body, shape, want = DYNAMIC[name]
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    got, = run(f"func.func @main(%x: tensor<3x2xf32>) -> tensor<{shape}xf32> {{ {body}\n"
               f"return %r : tensor<{shape}xf32> }}", x)
    np.testing.assert_array_equal(got, want(x))


def test_broadcast_adds_dimensions_in_front():
    x = np.arange(3, dtype=np.float32)
    got, = run("""func.func @main(%x: tensor<3xf32>) -> tensor<2x4x3xf32> {
      %r = stablehlo.broadcast %x, sizes = [2, 4] : (tensor<3xf32>) -> tensor<2x4x3xf32>
      return %r : tensor<2x4x3xf32> }""", x)
    np.testing.assert_array_equal(got, np.broadcast_to(x, (2, 4, 3)))


def test_a_shape_that_the_program_computes_is_refused_by_name():
    with pytest.raises(Refused, match="computed as the program runs; make it a constant"):
        run("""func.func @main(%x: tensor<3xf32>, %p: tensor<1xi64>) -> tensor<5xf32> {
          %v = stablehlo.constant dense<9.0> : tensor<f32>
          %i = stablehlo.constant dense<0> : tensor<1xi64>
          %r = stablehlo.dynamic_pad %x, %v, %p, %p, %i : (tensor<3xf32>, tensor<f32>, tensor<1xi64>,
            tensor<1xi64>, tensor<1xi64>) -> tensor<5xf32>
          return %r : tensor<5xf32> }""", np.zeros(3, np.float32), np.ones(1, np.int64))


@pytest.mark.parametrize("start", [(0, 0), (1, 0), (2, 1)])
def test_a_slice_starts_where_the_program_says(start):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    got, = run("""func.func @main(%x: tensor<4x3xf32>, %s: tensor<2xi64>) -> tensor<2x2xf32> {
      %n = stablehlo.constant dense<2> : tensor<2xi64>
      %l = stablehlo.add %s, %n : tensor<2xi64>
      %t = stablehlo.constant dense<1> : tensor<2xi64>
      %r = stablehlo.real_dynamic_slice %x, %s, %l, %t : (tensor<4x3xf32>, tensor<2xi64>,
        tensor<2xi64>, tensor<2xi64>) -> tensor<2x2xf32>
      return %r : tensor<2x2xf32> }""", x, np.array(start, np.int64))
    np.testing.assert_array_equal(got, x[start[0] : start[0] + 2, start[1] : start[1] + 2])


SCAN = """func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.composite "chlo.scan" %x {composite_attributes = {dimension = 0 : i64, is_reverse = REVERSE},
    decomposition = @impl, version = 1 : i32} : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32> }
func.func private @impl(%x: tensor<4xf32>) -> tensor<4xf32> { return %x : tensor<4xf32> }"""


def test_a_scan_in_reverse_whose_decomposition_runs_forwards_is_refused():
    x = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(run(SCAN.replace("REVERSE", "false"), x)[0], x)
    with pytest.raises(Refused, match="chlo.scan in reverse; reverse its operands"):
        run(SCAN.replace("REVERSE", "true"), x)


def test_the_size_of_a_dimension_is_a_constant():
    got, = run("""func.func @main(%x: tensor<3x7xf32>) -> tensor<i32> {
      %0 = stablehlo.get_dimension_size %x, dim = 1 : (tensor<3x7xf32>) -> tensor<i32>
      return %0 : tensor<i32> }""", np.zeros((3, 7), np.float32))
    assert got == 7


@pytest.mark.parametrize("number, kind", [(np.uint8(0b10110001), "ui8"), (np.float32(-1.7), "f32")])
def test_a_number_is_as_many_booleans_as_it_has_bits_the_lowest_first(number, kind):
    n = 8 * number.nbytes
    bits = np.unpackbits(np.frombuffer(number.tobytes(), np.uint8), bitorder="little").astype(bool)
    got, = run(f"""func.func @main(%x: tensor<{kind}>) -> tensor<{n}xi1> {{
      %0 = stablehlo.bitcast_convert %x : (tensor<{kind}>) -> tensor<{n}xi1>
      return %0 : tensor<{n}xi1> }}""", number)
    np.testing.assert_array_equal(got, bits)
    back, = run(f"""func.func @main(%x: tensor<{n}xi1>) -> tensor<{kind}> {{
      %0 = stablehlo.bitcast_convert %x : (tensor<{n}xi1>) -> tensor<{kind}>
      return %0 : tensor<{kind}> }}""", bits)
    assert back == number


def test_atan2_of_complex_numbers_is_that_of_their_definition():
    rng = np.random.default_rng(8)
    y, x = (rng.standard_normal(20) + 1j * rng.standard_normal(20) for _ in range(2))
    t = "tensor<20xcomplex<f64>>"
    got, = run(f"""func.func @main(%y: {t}, %x: {t}) -> {t} {{
      %0 = stablehlo.atan2 %y, %x : {t}
      return %0 : {t} }}""", y, x)
    np.testing.assert_allclose(got, -1j * np.log((x + 1j * y) / np.sqrt(x * x + y * y)), rtol=1e-14)
