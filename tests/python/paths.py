"""Where the project and its build are. VTRN_BUILD names another build directory."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD") or ROOT / "build").resolve()
