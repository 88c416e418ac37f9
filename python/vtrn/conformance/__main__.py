"""python -m vtrn.conformance SUITE [PATH]: the command."""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time

from vtrn.conformance import runner, worker

EPILOG = """suites:
  jax PATH        JAX's own tests; PATH: a checkout of JAX at the tag of the installed version. With
                  --processes N its tests of several processes
  stablehlo PATH  StableHLO's testdata and interpreter tests; PATH: a checkout of StableHLO
  harness         the primitive harnesses that come with JAX
  docs PATH       the examples and tests of NKI's documentation; PATH: a checkout of the Neuron SDK
  asst4 PATH      the kernels of Stanford's CS149, assignment 4, or of a solution, with their latency
  samples PATH    nki-samples; PATH: a checkout of it
  nkilib PATH     nki-library's tests in simulation mode; PATH: a checkout of its tag 2.29

A run that was interrupted goes on where it stopped; --fresh starts again."""


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def arguments():
    parser = argparse.ArgumentParser("python -m vtrn.conformance", epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=sorted(worker.SUITES.keys() - {"processes"}))
    parser.add_argument("path", nargs="?", default="")
    parser.add_argument("--only", metavar="TEXT", help="units whose name contains TEXT; several with commas")
    parser.add_argument("--part", metavar="K/N", help="every Nth unit, from the Kth (1..N)")
    parser.add_argument("--fraction", type=share, default=1.0, metavar="K/N",
                        help="a sample of each unit's cases, the same each time; a larger one later goes on from it")
    parser.add_argument("--least", type=positive, default=worker.LEAST_CASES, metavar="N",
                        help="with --fraction: so many cases of each unit, whatever their share")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), help="worker processes")
    parser.add_argument("--devices", type=positive, metavar="N",
                        help="NeuronCores of each worker, of VTRN_INSTANCE or else of a trn1.32xlarge")
    parser.add_argument("--processes", type=positive, metavar="N",
                        help="of the jax suite: its tests of several processes, with N of them")
    parser.add_argument("--mpi", nargs="?", const="mpirun", metavar="LAUNCHER",
                        help="with --processes: LAUNCHER, mpirun where none is named, starts them, and they talk by MPI")
    parser.add_argument("--timeout", type=positive, default=300, help="seconds for one case")
    parser.add_argument("--slow", action="store_true",
                        help="nkilib: the tests that its simulation mode leaves out as too slow, instead of the others")
    parser.add_argument("--fast", action="store_true", help="nkilib: the tests that it marks as fast, instead of all")
    parser.add_argument("--memory", type=float, metavar="GB",
                        help="a worker that uses more is ended, and its case runs again when the others are through, one at a time, with "
                             "what the host has; one that needs more than that has crashed")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/conformance"),
                        help="folder of the results")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--again", action="store_true", help="run what failed once more")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    return parser, parser.parse_args()


def share(text):
    k, _, n = text.partition("/")
    value = int(k) / int(n or 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("more than 0, at most 1")
    return value


def chosen(units, only, part):
    if only:
        units = [u for u in units if any(text in u for text in only.split(","))]
    if part:
        k, n = (int(x) for x in part.split("/"))
        units = units[k - 1::n]
    return units


def show_progress(run, units):
    counts = run.counts()
    n_bad = counts[runner.FAILED] + counts[runner.CRASHED] + counts[runner.HUNG]
    minutes = (time.monotonic() - run.started) / 60
    end = "\r" if sys.stderr.isatty() else "\n"
    if end == "\r" or sum(counts.values()) % 100 == 0:
        n_finished = sum(map(run.is_finished, units))
        print(f"{n_finished} of {len(units)} units, {sum(counts.values())} cases, {n_bad} bad, "
              f"{counts[runner.SKIPPED]} skipped, {minutes:.1f} min", end=end, file=sys.stderr, flush=True)


def show_devices(n_devices, n_processes):
    """Lets workers see as many NeuronCores."""
    if n_devices or n_processes:
        os.environ.setdefault("VTRN_INSTANCE", "trn1.32xlarge")
        os.environ["NEURON_RT_NUM_CORES"] = str(n_devices or max(1, 8 // n_processes))
    if n_processes:
        os.environ["VTRN_CONFORMANCE_PROCESSES"] = str(n_processes)


def main():
    parser, args = arguments()
    if args.processes and args.suite != "jax":
        parser.error("--processes is of the jax suite")
    if args.mpi and not args.processes:
        parser.error("--mpi needs --processes")
    if args.mpi and not shutil.which(args.mpi):
        parser.error(f"there is no {args.mpi}: install MPI, or name its launcher")
    if args.mpi:
        os.environ |= {"VTRN_TRANSPORT": "mpi", worker.load("processes").LAUNCHER: args.mpi}
    show_devices(args.devices, args.processes)
    name = "processes" if args.processes else args.suite
    suite = worker.load(name)
    if args.fraction < 1 and not getattr(suite, "SAMPLES", False):
        parser.error(f"{name} has no --fraction: choose with --only or --part")
    if (args.slow or args.fast) and args.suite != "nkilib":
        parser.error("--slow and --fast are for nkilib")
    if args.slow and args.fast:
        parser.error("--slow or --fast")
    if args.fast:
        os.environ[suite.FAST] = "1"
    if args.slow:
        os.environ[suite.SLOW] = "1"  # of nki-library, and the workers have it from here
    if suite.NEEDS_PATH and not pathlib.Path(args.path).is_dir():
        parser.error(f"{args.suite} needs the path of a checkout: {args.path or 'none'} is not a folder")
    try:
        units = chosen(suite.units(args.path), args.only, args.part)
    except ValueError as e:
        parser.error(str(e))
    if not units:
        parser.error(f"no unit of {args.suite} is left to run: see PATH, --only and --part")
    if args.fresh:
        (args.out / f"{name}.jsonl").unlink(missing_ok=True)
    run = runner.Run(name, args.path, args.out, args.timeout, args.fraction, args.memory and int(args.memory * 1e9))
    run.least = args.least
    if args.again:
        run.forget_failures(units)
    try:
        run.run(units, args.jobs, show_progress)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    document = runner.summary(run)
    (args.out / f"{name}.txt").write_text(runner.table(document) + "\n")
    print(json.dumps(document, indent=1) if args.json else runner.table(document))
    return 1 if document["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
