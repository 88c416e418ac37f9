"""python -m vtrn.nki tune: searches a kernel's parameters by simulated latency."""

import argparse
import ast
import dataclasses
import json
import math
import os
import pathlib
import runpy
import sys

import numpy as np

import vtrn.nki

_EXAMPLE = """example:
  python -m vtrn.nki tune matmul.py:matmul --shape lhs_t=1024,512:bfloat16 --shape rhs=1024,2048:bfloat16 \\
      --space columns=128,256,512 --space buffers=1,2 --set engine=vector
"""


def add_arguments(parser):
    """What both commands take for a kernel and its arguments."""
    parser.add_argument("kernel", metavar="FILE:KERNEL")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=N,N:TYPE",
                        help="an array of random numbers for a parameter")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one value for a parameter")
    parser.add_argument("--args", metavar="FUNCTION", help="a function of the file that returns the kernel's other "
                                                           "arguments by name, instead of --shape")
    parser.add_argument("--lnc", type=int, metavar="N", help="launch on so many cores: kernel[N]")
    parser.add_argument("--json", action="store_true")


def kernel_and_arguments(parser, args):
    """The kernel as launched, and its arguments by name."""
    vtrn.nki.install(force=True)
    names, kernel = _load(args.kernel)
    kernel = vtrn.nki.jit(kernel)
    if args.lnc:
        kernel = kernel[args.lnc]
    rng = np.random.default_rng(0)
    others = {}
    if args.args:
        if not callable(names.get(args.args)):
            parser.error(f"--args {args.args}: the file has no such function")
        others.update(names[args.args]())
    others.update((name, _array(text, rng)) for name, text in (_pair(s, "--shape") for s in args.shape))
    others.update((name, _value(text)) for name, text in (_pair(s, "--set") for s in args.set))
    return kernel, others


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a plain word


def _pair(text, what):
    name, separator, rest = text.partition("=")
    if not separator or not name or not rest:
        missing = "a value behind =" if separator and name else "a name before =" if separator else "NAME=VALUE"
        raise SystemExit(f"{what} {text!r}: {missing} is needed")
    return name, rest


def _array(text, rng):
    """"128,512:bfloat16" as normally distributed numbers, or small integers."""
    shape, _, dtype = text.partition(":")
    try:
        dtype = vtrn.nki.dtypes.numpy_of(vtrn.nki.dtypes.code_of(dtype or "float32"))
        shape = tuple(int(n) for n in shape.split(","))
        if min(shape) < 1:
            raise ValueError(f"a dimension is {min(shape)}")
    except ValueError as e:
        raise SystemExit(f"--shape {text!r}: {e}; it is numbers, then :TYPE, as in 128,512:bfloat16") from None
    n_bytes, room = math.prod(shape) * (dtype.itemsize + 8), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > room:  # the numbers are drawn in 64 bits
        raise SystemExit(f"--shape {text!r}: numbers for it take {n_bytes / 2**30:.1f} GiB of memory and the host has "
                         f"{room / 2**30:.1f}; give a smaller shape")
    if dtype.kind in "iu":
        return rng.integers(0, 8, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _load(target):
    path, separator, name = target.rpartition(":")
    if not separator:
        raise SystemExit(f"{target!r}: FILE:KERNEL is needed")
    if not pathlib.Path(path).is_file():
        raise SystemExit(f"{path}: there is no such file; FILE:KERNEL names a Python file and a function of it")
    sys.path.insert(0, str(pathlib.Path(path).resolve().parent))
    try:
        names = runpy.run_path(path, run_name="vtrn_tune")
    except SyntaxError as e:
        raise SystemExit(f"{path}: {e}") from None
    if not callable(names.get(name)):
        kernels = sorted(k for k, v in names.items() if isinstance(v, vtrn.nki.Kernel))
        raise SystemExit(f"{path} has no function {name!r}; its kernels: {', '.join(kernels) or 'none'}")
    return names, names[name]


def _row(variant):
    return {k: v for k, v in dataclasses.asdict(variant).items() if v or k != "error"}


def main(arguments):
    parser = argparse.ArgumentParser("python -m vtrn.nki tune", description=__doc__, epilog=_EXAMPLE,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--space", action="append", default=[], metavar="NAME=VALUE,...",
                        help="values of a parameter; all combinations are tried")
    parser.add_argument("--jobs", type=int, help="processes (all cores of the host)")
    args = parser.parse_args(arguments)
    if args.jobs is not None and args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: at least one process is needed; without --jobs all cores of the host work")
    if not args.space:
        parser.error("--space names no parameter")
    kernel, others = kernel_and_arguments(parser, args)
    space = {name: [_value(v) for v in values.split(",")] for name, values in (_pair(s, "--space") for s in args.space)}
    try:
        tuned = vtrn.nki.tune(kernel, space, jobs=args.jobs)(**others)
    except (ValueError, TypeError) as e:
        print(f"tune: {str(e).removeprefix('tune: ')}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"best": _row(tuned.best), "variants": [_row(v) for v in tuned.variants],
                          "pareto": [_row(v) for v in tuned.pareto]}))
        return 0
    print(tuned.table())
    print("Pareto front of latency and SBUF:", "; ".join(
        f"{', '.join(f'{k}={v}' for k, v in p.parameters.items())}: {p.latency_ns / 1000:.3f} us, "
        f"{p.sbuf_peak_bytes / 1024:.1f} KiB" for p in tuned.pareto))
    return 0
