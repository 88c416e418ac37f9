"""MLIR text and ONNX on the virtual chip, by the command of the package; NumPy is the oracle."""

import json
import os
import subprocess
import sys

import conftest
import numpy as np
import pytest
from paths import BUILD, ROOT

sys.path.insert(0, str(ROOT / "python"))
from vtrn import cli, models  # noqa: E402

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

TEXT = """module @hello {
  func.func @main(%x: tensor<4x3xf32>, %y: tensor<4x3xf32>) -> tensor<4x3xf32> {
    %0 = stablehlo.add %x, %y : tensor<4x3xf32>
    %1 = chlo.tan %0 : tensor<4x3xf32> -> tensor<4x3xf32>
    return %1 : tensor<4x3xf32>
  } }"""


def vtrn(*args, code=0):
    """The command as the package starts it: in a process of its own, which the program replaces."""
    starter = (f"import sys; sys.path.insert(0, {str(ROOT / 'python')!r}); from vtrn import cli; import os\n"
               f"execv = os.execv; os.execv = lambda _, args: execv({str(BUILD / 'src/cli/vtrn')!r}, args)\n"
               "cli.main()")
    done = subprocess.run([sys.executable, "-c", starter, *map(str, args)], capture_output=True, text=True,
                          timeout=300, env={k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"})
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def run(tmp_path, model, *inputs, options=()):
    args = []
    for i, x in enumerate(inputs):
        np.save(tmp_path / f"in{i}.npy", x)
        args += ["--input", tmp_path / f"in{i}.npy"]
    vtrn("run", model, *args, *options, "--verify", "-o", tmp_path / "out")
    return [np.load(f) for f in sorted((tmp_path / "out").glob("*.npy"))]


def test_text_runs(tmp_path, rng):
    path = tmp_path / "hello.mlir"
    path.write_text(TEXT)
    x, y = (rng.uniform(-0.5, 0.5, (4, 3)).astype(np.float32) for _ in range(2))
    (got,) = run(tmp_path, path, x, y)
    np.testing.assert_allclose(got, np.tan(x + y), rtol=1e-6)
    assert json.loads(vtrn("time", path, "--json"))


def test_bytecode_of_any_dialect_runs(tmp_path):
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context(), ir.Location.unknown():
        plain = mlir.module_to_bytecode(ir.Module.parse(TEXT))
    (tmp_path / "a.mlir").write_bytes(plain)
    artifact = models.artifact(tmp_path / "a.mlir")
    assert b"StableHLO_v" in artifact[:64] and b"StableHLO_v" not in plain[:64]
    (tmp_path / "b.mlir").write_bytes(artifact)
    assert models.artifact(tmp_path / "b.mlir") == artifact
    x = np.ones((4, 3), np.float32)
    for name in ("a.mlir", "b.mlir"):
        (got,) = run(tmp_path, tmp_path / name, x, -x)
        np.testing.assert_array_equal(got, 0 * x)


def test_what_is_no_program_is_refused_in_words(tmp_path):
    path = tmp_path / "bad.mlir"
    path.write_text(TEXT.replace("stablehlo.add", "stablehlo.ad"))
    assert "stablehlo.ad" in vtrn("run", path, code=1)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(models.ModelError, match="bad.mlir"):
        models.artifact(path)
    (tmp_path / "x.onnx").write_bytes(b"hello")
    done = subprocess.run([BUILD / "src/cli/vtrn", "run", tmp_path / "x.onnx"], capture_output=True, text=True)
    assert done.returncode == 3 and "vtrn[onnx]" in done.stderr


def test_shapes_are_read_off_the_command_line(capsys):
    rest, shapes = cli._take_shapes(["run", "m.onnx", "--shape", "x=1,3,8", "--shape", "a=b=2", "--json", "--shape", "s="])
    assert rest == ["run", "m.onnx", "--json"] and shapes == {"x": (1, 3, 8), "a=b": (2,), "s": ()}
    for bad in (["--shape"], ["--shape", "x"], ["--shape", "x=1,-2"], ["--shape", "x=n"]):
        with pytest.raises(SystemExit, match="NAME=DIMS"):
            cli._take_shapes(bad)


@pytest.fixture
def onnx():
    pytest.importorskip("jaxonnxruntime")
    return pytest.importorskip("onnx")


def network(onnx, path, rng, batch):
    """Convolution, pooling, a layer, softmax: the file, and the same in NumPy."""
    h, t = onnx.helper, onnx.TensorProto
    w, f = (rng.normal(size=s).astype(np.float32) / 8 for s in ((8, 3, 3, 3), (8 * 4 * 4, 10)))
    nodes = [h.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), h.make_node("Relu", ["c"], ["r"]),
             h.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
             h.make_node("Flatten", ["p"], ["l"]), h.make_node("Gemm", ["l", "f"], ["g"]),
             h.make_node("Softmax", ["g"], ["y"], axis=-1)]
    graph = h.make_graph(nodes, "net", [h.make_tensor_value_info("x", t.FLOAT, [batch, 3, 8, 8])],
                         [h.make_tensor_value_info("y", t.FLOAT, [batch, 10])],
                         [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(f, "f")])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)]), path)

    def oracle(x):
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        c = np.maximum(np.einsum("nchwij,kcij->nkhw", windows, w), 0)
        p = c.reshape(len(x), 8, 4, 2, 4, 2).max((3, 5)).reshape(len(x), -1) @ f
        e = np.exp(p - p.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    return oracle


def test_onnx_runs(tmp_path, rng, onnx):
    oracle = network(onnx, tmp_path / "net.onnx", rng, 2)
    x = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    (got,) = run(tmp_path, tmp_path / "net.onnx", x)
    np.testing.assert_allclose(got, oracle(x), rtol=1e-4)


def test_sizes_that_the_file_leaves_open_are_asked_for(tmp_path, rng, onnx):
    path = tmp_path / "net.onnx"
    oracle = network(onnx, path, rng, "n")
    assert "--shape x=1,3,8,8" in vtrn("run", path, "--random", code=1)
    for shapes, said in [({"x": (3, 3, 8, 9)}, "does not fit"), ({"x": (1, 3, 8, 8), "z": (1,)}, "the inputs are x")]:
        with pytest.raises(models.ModelError, match=said):
            models.artifact(path, shapes)
    x = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
    (got,) = run(tmp_path, path, x, options=("--shape", "x=3,3,8,8"))
    np.testing.assert_allclose(got, oracle(x), rtol=1e-4)


def test_operators_that_nothing_reads_are_named(tmp_path, onnx):
    h, t = onnx.helper, onnx.TensorProto
    graph = h.make_graph([h.make_node("DFT", ["x"], ["y"])], "net",
                         [h.make_tensor_value_info("x", t.FLOAT, [1, 8, 1])],
                         [h.make_tensor_value_info("y", t.FLOAT, [1, 8, 2])])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)]), tmp_path / "dft.onnx")
    with pytest.raises(models.ModelError, match="DFT"):
        models.artifact(tmp_path / "dft.onnx")
