"""nki-samples: PATH is a checkout of it."""

from vtrn.conformance.nki_scripts import NEEDS_PATH, SAMPLES, files  # noqa: F401 (names of a suite)
from vtrn.conformance.nki_scripts import run_unit as run  # noqa: F401


def units(path):
    return files(path, "samples")
