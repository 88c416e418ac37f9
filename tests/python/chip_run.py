"""A JAX function on a device of its own, of any chip."""

import subprocess

import capi
import jax
import jax.export
from paths import BUILD


def export(f, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.export.export(jax.jit(f, keep_unused=True), platforms=["cpu"])(*args).mlir_module_serialized


def run(f, *args, chip="trn1", threads=2):
    """All results; no operation may have run as its reference."""
    device = capi.Device(chip=chip, threads=threads)
    executable = device.compile(export(f, *args))
    try:
        got = executable(*args)
        assert executable.profile().n_reference_ops == 0
    finally:
        executable.destroy()
        device.close()
    return got


def dump(f, *args, stage, tmp_path, chip="trn1"):
    """A stage of its compilation as text: `vtrn compile --dump`."""
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(export(f, *args))
    command = [BUILD / "src/cli/vtrn", "compile", artifact, "--dump", stage, "--chip", chip]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
