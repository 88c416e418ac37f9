"""The reference on StableHLO that JAX does not write: oracles are NumPy and the specification."""

import numpy as np
import pytest
from jax._src.interpreters import mlir as jax_mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from reference_oracle import evaluate


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
