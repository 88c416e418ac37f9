"""The command line that benchmarks of named figures share."""

import argparse
import json


def main(doc: str, measure, seconds: float) -> None:
    """Prints the dict that measure(seconds of each run) gives, as a table or as one JSON object."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--seconds", type=float, default=seconds, help="of each run")
    args = parser.parse_args()
    figures = measure(args.seconds)
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    for key, value in figures.items():
        print(f"{key:28} {value:12.4g}")
