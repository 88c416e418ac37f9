"""How much of the tensor engine's peak some programs reach: MFU, the useful operations of the
program over those that the engine could have done in its time."""

import jax.numpy as jnp

from accuracy import layers
from accuracy.models import time_artifact

# Program, chip, what was published of it (None: nothing).
PROGRAMS = (
    ("a @ b, 4096^3, bf16", "trn1", None),
    ("a @ b, 4096^3, bf16", "trn2", None),
    ("a @ b, 2048^3, bf16", "trn2", None),
    ("BERT-large, batch 8, 128 rows", "trn1", 0.49),
    ("ResNet-50, batch 8", "inf2", 0.20),
    ("GPT-2 small training step, batch 8, 1024 rows", "trn2", None),
    ("GPT-2 small training step, batch 1, 256 rows", "trn1", None),
)


def build_program(name):
    """(function, shapes, donated) of a program of the table."""
    from accuracy import models_encoder, models_training, models_vision

    if name.startswith("a @ b"):
        n = int(name.split(", ")[1].removesuffix("^3"))
        return (lambda a, b: a @ b), (layers.shape(n, n, dtype=jnp.bfloat16),) * 2, ()
    if name.startswith("BERT-large"):
        return *models_encoder.build("bert-large-cased", 8, 128), ()
    if name.startswith("ResNet-50"):
        return *models_vision.build("resnet50", 8), ()
    batch, n_rows = (8, 1024) if "1024" in name else (1, 256)
    return *models_training.build("gpt2", batch, n_rows), (0,)


def measure(build):
    from accuracy import artifact

    out = []
    for name, chip, published in PROGRAMS:
        made = artifact.make(*build_program(name))
        timed = time_artifact(build, made, chip)
        line = {"name": name, "chip": chip, "published": published}
        out.append(line | {"mfu": timed["mfu"], "ms": timed["step_ns"] / 1e6})
    return out
