"""The `vtrn` command of an installed package: starts the program that is beside this file. Models that the program does
not read itself, MLIR text and ONNX, become artifacts first (models.py)."""

import os
import sys


def _take_shapes(args):
    """Takes `--shape NAME=2,3` out of the arguments. Returns the rest, and the shapes by name."""
    rest, shapes = [], {}
    args = iter(args)
    for arg in args:
        if arg != "--shape":
            rest.append(arg)
            continue
        name, equals, dims = next(args, "").rpartition("=")
        if not equals or not all(d.isdecimal() for d in dims.split(",") if dims):
            sys.exit("vtrn: --shape takes NAME=DIMS: --shape input=1,3,224,224")
        shapes[name] = tuple(int(d) for d in dims.split(",")) if dims else ()
    return rest, shapes


def _in_memory(data, name):
    """A file that the program can open and that is gone when it ends."""
    fd = os.memfd_create(name, 0)
    os.set_inheritable(fd, True)
    with open(fd, "wb", closefd=False) as f:
        f.write(data)
    return f"/proc/self/fd/{fd}"


def _read_models(args):
    from vtrn import models

    rest, shapes = _take_shapes(args)
    read = []
    for arg in rest:
        if arg.endswith(models.SUFFIXES) and os.path.isfile(arg):
            try:
                arg = _in_memory(models.artifact(arg, shapes), os.path.basename(arg))
            except models.ModelError as e:
                print(f"vtrn: {e}", file=sys.stderr)
                sys.exit(1)
        read.append(arg)
    return read


def main() -> None:
    program = os.path.join(os.path.dirname(__file__), "vtrn")
    os.environ.setdefault("VTRN_PYTHON", sys.executable)  # runs serve, serve-replay and bench; `vtrn doctor` asks it
    args = sys.argv[1:]
    if any(arg.endswith((".mlir", ".onnx")) for arg in args):
        args = _read_models(args)
    os.execv(program, [program, *args])


if __name__ == "__main__":
    main()
