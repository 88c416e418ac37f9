"""python -m vtrn.partition ARTIFACT -o OUT --devices N: divides a StableHLO artifact that has sharding
annotations, so that C programs run it on N NeuronCores without Python."""

import argparse
import pathlib
import sys

from vtrn import partition
from vtrn.partition import apart


def main():
    parser = argparse.ArgumentParser(prog="python -m vtrn.partition", description=__doc__.split(":", 1)[1])
    parser.add_argument("artifact", type=pathlib.Path, help="as jax.export or a PJRT plugin gets it")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--devices", type=int, required=True, help="how many the program is for")
    options = parser.parse_args()
    try:
        artifact = options.artifact.read_bytes()
        out = apart.partition(artifact, options.devices)
        options.output.write_bytes(artifact if out is None else out)
    except (partition.Failed, partition.Refused) as error:
        sys.exit(f"{parser.prog}: {' at '.join(map(str, error.args))}")
    except OSError as error:
        sys.exit(f"{parser.prog}: {error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
