"""python -m vtrn.nki FILE [ARGUMENT ...]: runs a script whose NKI kernels execute on the virtual chip.
python -m vtrn.nki check FILE ... [--for VERSION] [--json]: what kernels would meet in a version of NKI.
python -m vtrn.nki estimate FILE:KERNEL --shape NAME=N,N:TYPE ...: instructions by line, memory and time, before anything is
computed (--help).
python -m vtrn.nki tune FILE:KERNEL --space NAME=VALUE,VALUE ... --shape NAME=N,N:TYPE ...: variants by simulated
latency (--help)."""

import pathlib
import runpy
import sys

import vtrn.nki


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.argv[1] == "check":
        from vtrn.nki import check

        return check.main(sys.argv[2:])
    if sys.argv[1] == "estimate":
        from vtrn.nki import estimate

        return estimate.main(sys.argv[2:])
    if sys.argv[1] == "tune":
        from vtrn.nki import tune_command

        return tune_command.main(sys.argv[2:])
    if sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0
    if not pathlib.Path(sys.argv[1]).exists():
        print(f"{sys.argv[1]}: there is no such file; python -m vtrn.nki takes a script, or check, estimate or tune (--help)",
              file=sys.stderr)
        return 2
    vtrn.nki.install(force=True)
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(pathlib.Path(sys.argv[0]).resolve().parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
