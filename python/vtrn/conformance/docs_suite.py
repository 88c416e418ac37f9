"""The examples of NKI's documentation: PATH is a checkout of the Neuron SDK."""

from vtrn.conformance.nki_scripts import NEEDS_PATH, files  # noqa: F401 (names of a suite)
from vtrn.conformance.nki_scripts import run_unit as run  # noqa: F401


def units(path):
    return files(path, "docs")
