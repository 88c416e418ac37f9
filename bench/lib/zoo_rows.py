"""What both zoos share: a row for each program that ran, and why the others did not."""

import json
import sys


def measure_each(names, missing, measure, line) -> tuple[list[dict], dict]:
    """(rows, {program: error}). missing(name) lists the packages that are not there; a row is shown at once."""
    rows, failed = [], {}
    for name in names:
        absent = missing(name)
        if absent:
            print(f"{name:20} left out: {', '.join(absent)} not installed", file=sys.stderr)
            continue
        try:
            rows.append(measure(name))
            print(line(rows[-1]), file=sys.stderr, flush=True)
        except RuntimeError as error:
            failed[name] = str(error)
            print(f"{name:20} failed: {error}", file=sys.stderr, flush=True)
    return rows, failed


def show(numbers: dict, details: dict, is_json: bool) -> None:
    """The numbers of all programs; in JSON with the details too."""
    if is_json:
        print(json.dumps(numbers | details, indent=2))
        return
    for key, value in numbers.items():
        print(f"{key:28} {'none' if value is None else format(value, '.6g')}")
