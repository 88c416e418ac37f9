"""python -m vtrn.nki estimate: what a launch would be, before anything is computed: instructions by line of the kernel,
the memory that its tiles take, the time. A kernel whose loops read data is computed."""

import argparse
import collections
import dataclasses
import json
import sys

from vtrn.nki import kernel as kernels, language as nl, tune_command, tuner
from vtrn.nki.errors import NkiValidationError

MANY = 20_000  # instructions of one line, of which a warning says that a loop is unrolled


@dataclasses.dataclass(frozen=True)
class Estimate:
    n_instructions: int
    lines: list  # of [place, instructions], the most first
    sbuf_peak_bytes: int = 0
    psum_peak_bytes: int = 0
    latency_ns: float = 0.0
    warnings: tuple = ()
    spill_save_bytes: int = 0  # to HBM, of tiles that SBUF has no room for
    spill_reload_bytes: int = 0
    error: str = ""  # what the launch would fail with


_FIGURES = "sbuf_peak_bytes", "psum_peak_bytes", "latency_ns", "spill_save_bytes", "spill_reload_bytes"


def estimate(kernel, *args, **kwargs):
    """The Estimate of a launch."""
    run = tuner._TimedRun(kernel, False)
    error, figures = "", {}
    try:
        run.run(args, kwargs)
        name = kernel.func.__name__
        if run.is_timed:
            figures = run.session.time_cores(name, run.outputs)
        else:
            executable = run.session.finish(name, run.outputs)
            figures = run.session.execute(executable, run.inputs, None)[1]
    except NkiValidationError as e:
        if e.category == "unsupported" and "a value is looked at" in str(e):
            run = tuner._TimedRun(kernel, True)
            run.run(args, kwargs)
            figures = run.session.execute(run.session.finish(kernel.func.__name__, run.outputs), run.inputs, None)[1]
        else:
            error = str(e)
    counts = collections.Counter()
    for place, n in run.session.lines():
        counts[place] += n
    lines = [[place, n] for place, n in counts.most_common()]
    warnings = tuple(f"{place} issues {n} instructions: a loop of Python is unrolled; let an instruction take larger tiles, or use "
                     "nl.fori_loop" for place, n in lines if n >= MANY)
    if not error and run.spills:
        warnings = (kernels.spill_text(run.spills), *warnings)
    return Estimate(sum(counts.values()), lines, warnings=warnings, error=error,
                    **{name: figures[name] for name in _FIGURES if name in figures})


def main(arguments):
    parser = argparse.ArgumentParser("python -m vtrn.nki estimate", description=__doc__)
    tune_command.add_arguments(parser)
    parser.add_argument("--lines", type=int, default=10, metavar="N", help="lines of the kernel that are shown (10)")
    args = parser.parse_args(arguments)
    kernel, others = tune_command.kernel_and_arguments(parser, args)
    try:
        found = estimate(kernel, **others)
    except (TypeError, ValueError, IndexError, MemoryError) as e:
        print(f"estimate: {e}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
        return 1 if found.error else 0
    print(f"{found.n_instructions} instructions")
    for place, n in found.lines[:args.lines]:
        print(f"{n:9}  {place}")
    if not found.error:
        sbuf, psum = (n / nl.tile_size.pmax / 1024 for n in (found.sbuf_peak_bytes, found.psum_peak_bytes))
        print(f"a partition holds {sbuf:.1f} KiB of SBUF and {psum:.1f} KiB of PSUM at most; {found.latency_ns / 1000:.3f} us")
    for text in found.warnings:
        print(f"warning: {text}")
    if found.error:
        print(f"error: {found.error}")
    return 1 if found.error else 0
