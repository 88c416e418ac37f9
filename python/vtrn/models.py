"""Models in files that other tools write, as StableHLO artifacts: MLIR text, and ONNX by jaxonnxruntime."""

import os
import pathlib
import sys

VERSION = "1.15.0"  # of StableHLO: what the library reads
BYTECODE = b"ML\xefR"
SUFFIXES = (".mlir", ".onnx")


class ModelError(Exception):
    """What is wrong with the file, or what is missing to read it, in a sentence for the user."""


def _need(module, extra):
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ModelError(f"{e}; `pip install 'vtrn[{extra}]'` brings what reads such files") from e


def from_mlir(path):
    """Text, or bytecode of any dialects that jaxlib knows. @main is the program."""
    data = pathlib.Path(path).read_bytes()
    if data.startswith(BYTECODE) and b"StableHLO_v" in data[:64]:
        return data
    _need("jax", "jax")
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax
    from jaxlib.mlir import ir

    with mlir.make_ir_context(), ir.Location.unknown():
        try:
            module = ir.Module.parse(data if data.startswith(BYTECODE) else data.decode())
            return _jax.mlir.serialize_portable_artifact(mlir.module_to_bytecode(module), VERSION, True)
        except (ir.MLIRError, UnicodeDecodeError, ValueError) as e:
            raise ModelError(f"{path}: {e}") from e
        except Exception as e:
            if type(e).__name__ not in ("JaxRuntimeError", "XlaRuntimeError"):
                raise
            raise ModelError(f"{path}: {e}") from e


def _shape_of(value, given):
    """The dims of an input as the file has them, or as the user gives them; a name is no dim."""
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
            for d in value.type.tensor_type.shape.dim]
    if value.name not in given:
        unknown = [str(d) for d in dims if not isinstance(d, int)]
        if unknown:
            example = ",".join(str(d) if isinstance(d, int) else "1" for d in dims)
            raise ModelError(f"input {value.name} has dims {', '.join(unknown)} of no size; "
                             f"give them: --shape {value.name}={example}")
        return tuple(dims)
    shape = given.pop(value.name)
    if len(shape) != len(dims) or any(isinstance(d, int) and d != s for d, s in zip(dims, shape)):
        raise ModelError(f"input {value.name} is {dims}, which {list(shape)} does not fit")
    return shape


def from_onnx(path, shapes=None):
    """The weights become constants, the inputs the parameters in the order of the file. shapes: dims of inputs by
    name, where the file leaves them open."""
    onnx = _need("onnx", "onnx")
    call_onnx = _need("jaxonnxruntime.call_onnx", "onnx")
    import jax
    import numpy as np

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as e:
        raise ModelError(f"{path}: {e}") from e
    weights = {w.name for w in model.graph.initializer}
    given = dict(shapes or {})
    inputs = [v for v in model.graph.input if v.name not in weights]
    zeros = {v.name: np.zeros(_shape_of(v, given), onnx.helper.tensor_dtype_to_np_dtype(
        v.type.tensor_type.elem_type)) for v in inputs}
    if given:
        raise ModelError(f"--shape {', '.join(given)}: the inputs are {', '.join(zeros) or 'none'}")
    names = list(zeros)
    with jax.default_device(jax.devices("cpu")[0]):
        try:
            function, parameters = call_onnx.call_onnx_model(model, zeros)
            exported = jax.export.export(
                jax.jit(lambda *values: function(parameters, dict(zip(names, values)))),
                platforms=["cpu"])(*zeros.values())
        except NotImplementedError as e:
            raise ModelError(f"{path}: jaxonnxruntime has no {e}") from e
    return exported.mlir_module_serialized


def artifact(path, shapes=None):
    """The StableHLO artifact of the file, as bytes. ModelError says what is wrong in a sentence."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # reading a file starts no chip
    return from_onnx(path, shapes) if str(path).endswith(".onnx") else from_mlir(path)


def main(args):
    if len(args) not in (1, 2) or args[0].startswith("-"):
        sys.exit("usage: python -m vtrn.models FILE [ARTIFACT]: makes ARTIFACT, or FILE.vhlo, of an .mlir or .onnx file")
    try:
        data = artifact(args[0])
    except ModelError as e:
        sys.exit(f"vtrn.models: {e}")
    pathlib.Path(args[1] if len(args) == 2 else args[0] + ".vhlo").write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1:])
