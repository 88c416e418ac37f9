"""Writes what examples/c/digits.c trains with: python examples/digits/export.py DIR.

step.vhlo   training step, a StableHLO portable artifact: (6 parameters, 6 velocities, images, labels)
            -> (6 parameters, 6 velocities, loss)
logits.vhlo (6 parameters, held-out images) -> logits
state.bin   initial parameters, then velocities, fp32
train.bin   images [1500, 8, 8, 1] fp32, then labels [1500] int32
test.bin    the same for the 297 held-out digits"""

import os
import sys

import jax
import numpy as np
from jax import export

import model


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    directory = sys.argv[1]
    os.makedirs(directory, exist_ok=True)
    (images, labels), (test_images, test_labels) = model.load_data()
    params = model.init_params()
    velocity = jax.tree.map(np.zeros_like, params)
    batch = images[: model.BATCH], labels[: model.BATCH]
    step = export.export(jax.jit(model.train_step, donate_argnums=(0, 1)))(params, velocity, *batch)
    logits = export.export(jax.jit(model.logits_of))(params, test_images)

    def write(name, *parts):
        with open(os.path.join(directory, name), "wb") as f:
            for part in parts:
                is_bytes = isinstance(part, (bytes, bytearray))
                f.write(part if is_bytes else np.ascontiguousarray(part).tobytes())

    write("step.vhlo", step.mlir_module_serialized)
    write("logits.vhlo", logits.mlir_module_serialized)
    write("state.bin", *jax.tree.leaves((params, velocity)))
    write("train.bin", images, labels)
    write("test.bin", test_images, test_labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
