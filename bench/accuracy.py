"""Published measurements of the hardware beside what vtrn says: a row each, then each group.

    bench/run accuracy [--json] [--group G]... [--family F] [--all] [--traces DIR]
                       [--nki-sources DIR] [--write DIR] [--read FILE]

Groups: formula, instruction, interval, dma, trace, kernel (the machine model alone), collective (the model of
links and algorithms), compiled, model (through the compiler), nki (kernels from their own source, of which
--nki-sources has the checkouts; it alone names lines that have no time, and why), mfu (shares of the tensor engine's peak). Without --all two models of each family run.
--write DIR leaves accuracy.md and accuracy.svg there; --read FILE takes the rows from the --json of an
earlier run.
"""

import argparse
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD", ROOT / "build"))


def arguments(groups):
    parser = argparse.ArgumentParser(prog="bench/run accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--group", action="append", choices=groups, help="only this group; may be repeated")
    parser.add_argument("--family", help="only this family of models, as models.csv names it")
    parser.add_argument("--all", action="store_true", help="every model, not two of each family")
    parser.add_argument("--traces", type=pathlib.Path, help="folder of the published timelines, for the group trace")
    parser.add_argument("--nki-sources", type=pathlib.Path, metavar="DIR",
                        help="folder of the kernels' repositories, OWNER/NAME each, for the group nki")
    parser.add_argument("--write", type=pathlib.Path, help="folder for accuracy.md and accuracy.svg; implies --all")
    parser.add_argument("--read", type=pathlib.Path, help="the --json of an earlier run, instead of measuring")
    options = parser.parse_args()
    options.all |= options.write is not None
    return options


def measure(options, groups):
    """Rows of the groups, the MFU table, and why lines of the group nki have no row."""
    from accuracy import collectives, compiled, machine, models, nki_sources, utilization

    rows = machine.measure(BUILD, groups, options.traces)
    if "collective" in groups:
        rows += collectives.measure(BUILD)
    if "compiled" in groups:
        rows += compiled.measure(BUILD)
    if "model" in groups:
        rows += models.measure(BUILD, not options.all, options.family)
    missing = {}
    if "nki" in groups and options.nki_sources:
        found, missing = nki_sources.measure(BUILD, options.nki_sources)
        rows += found
    return rows, utilization.measure(BUILD) if "mfu" in groups else [], missing


def main():
    from accuracy import report, rows

    options = arguments([*rows.GROUPS, "mfu"])
    groups = ["model"] if options.family else options.group or [*rows.GROUPS, "mfu"]
    if options.read:
        document = json.loads(options.read.read_text())
        measured = [row for row in map(rows.from_dict, document["table"]) if row.group in groups]
        mfu, missing = document["mfu"] if "mfu" in groups else [], document.get("nki_missing", {})
    else:
        measured, mfu, missing = measure(options, groups)
    if options.json:
        document = rows.by_group(measured) | {"families": rows.by_family(measured), "instances": rows.by_instance(measured)}
        json.dump(document | {"mfu": mfu, "nki_missing": missing, "table": [row.as_dict() for row in measured]}, sys.stdout, indent=1)
        print()
    else:
        report.print_text(measured, mfu)
        for name, why in missing.items():
            print(f"nki         {name}: {why}")
    if options.write:
        report.write(options.write, measured, mfu)


if __name__ == "__main__":
    main()
