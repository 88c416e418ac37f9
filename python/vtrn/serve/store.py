"""vtrn serve-export: networks that come with vtrn, written as folders of a model repository.

A folder has model.export, the function serialised by jax.export, weights.safetensors, its first arguments by name, and
model.toml, which names tensors and says where the weights are from.
"""

import dataclasses
import json
import pathlib
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from vtrn.serve import arguments as read
from vtrn.serve import weights as packages
from vtrn.serve.decoder_engine import FLOATS
from vtrn.serve.models import vad, vision
from vtrn.serve.weights import MissingPackage

RANDOM = "random weights: shapes and times are the network's, answers mean nothing"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network whose function takes weights, then the inputs, and gives the outputs."""

    function: typing.Callable
    inputs: dict[str, tuple[int, ...]]  # fp32, without the axis of the batch
    outputs: list[str]
    weights: typing.Callable[[], tuple[dict[str, np.ndarray], str]]  # in fp32, and where they are from


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The same every time; products keep about the size of what goes in."""
    rng, weights = np.random.default_rng(1), {}
    for name, shape in shapes.items():
        if name.endswith("scale"):
            weights[name] = np.ones(shape, np.float32)
        elif len(shape) == 1:
            weights[name] = np.zeros(shape, np.float32)
        else:
            weights[name] = rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[:-1]) ** -0.5)
    return weights


_IMAGE = {"image": (vision.SIZE, vision.SIZE, 3)}
ENTRIES = {
    "resnet50": Entry(lambda w, x: (vision.resnet50(w, x),), _IMAGE, ["logits"],
                      lambda: (random_weights(vision.resnet50_shapes()), RANDOM)),
    "vit_b16": Entry(lambda w, x: (vision.vit_b16(w, x),), _IMAGE, ["logits"],
                     lambda: (random_weights(vision.vit_b16_shapes()), RANDOM)),
    "silero_vad": Entry(vad.step, {"input": (vad.N_CONTEXT + vad.N_NEW,), "state": (2, vad.N_STATE)}, ["output", "stateN"],
                        lambda: (packages.load_silero_vad(), "weights of the Python package silero-vad")),
}  # fmt: skip


def write(name: str, repository: pathlib.Path, batch: int, dtype: str, more: str = "") -> tuple[pathlib.Path, str]:
    """The folder repository/name, and where its weights are from. Matrices are in dtype, vectors in fp32. more: further lines of
    model.toml."""
    entry = ENTRIES[name]
    weights, origin = entry.weights()
    kept = {n: w.astype(FLOATS[dtype]) if w.ndim > 1 else w for n, w in weights.items()}
    shapes = {n: jax.ShapeDtypeStruct(w.shape, w.dtype) for n, w in kept.items()}
    inputs = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in entry.inputs.values()]
    with jax.default_device(jax.devices("cpu")[0]):
        exported = export.export(jax.jit(entry.function, keep_unused=True), platforms=["cpu"])(shapes, *inputs)
    folder = repository / name
    folder.mkdir(parents=True, exist_ok=True)
    from safetensors.numpy import save_file

    save_file(kept, folder / "weights.safetensors")
    (folder / "model.export").write_bytes(exported.serialize())
    (folder / "model.toml").write_text(
        f"about = {json.dumps(origin)}\nweights = \"weights.safetensors\"\ninputs = {json.dumps(list(entry.inputs))}\n"
        f"outputs = {json.dumps(entry.outputs)}\n{more}", encoding="utf-8")  # fmt: skip
    return folder, origin


def main(arguments: list[str]) -> int:
    args = read.store().parse_args(arguments)
    more = f"pipeline_cores = {args.pipeline_cores}\n" if args.pipeline_cores > 1 else ""
    more += f"weights_stay = {args.weights_stay}\n" if args.weights_stay else ""
    try:
        for name in args.models:
            folder, origin = write(name, args.repository, args.batch, args.dtype, more)
            print(f"{folder}: batch {args.batch}, {args.dtype}, {origin}")
    except (MissingPackage, OSError) as error:
        print(f"vtrn serve-export: {error}", file=sys.stderr)
        return 1
    return 0
