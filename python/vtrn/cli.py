"""The `vtrn` command of an installed package: starts the program that lies beside this file."""

import os
import sys


def main() -> None:
    program = os.path.join(os.path.dirname(__file__), "vtrn")
    os.environ.setdefault("VTRN_PYTHON", sys.executable)  # the one whose JAX `vtrn doctor` looks for
    os.execv(program, [program, *sys.argv[1:]])
