"""The commands that Python runs: vtrn serve, vtrn serve-replay, vtrn serve-export, vtrn bench."""

import os
import sys

from vtrn.serve import arguments as read

arguments_of = {"serve": read.serve, "serve-replay": read.replay, "bench": read.bench, "serve-export": read.store}


def main(arguments: list[str]) -> int:
    # Functions are traced here and run through the library, not through JAX's plugin.
    os.environ["JAX_PLATFORMS"] = "cpu"
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in arguments_of:
        arguments_of[name]().parse_args(rest)  # wrong usage is said before a missing package is
    try:
        if name == "serve":
            from vtrn.serve import command as module
        elif name == "serve-replay":
            from vtrn.serve import replay as module
        elif name == "bench":
            from vtrn.serve import bench as module
        elif name == "serve-export":
            from vtrn.serve import store as module
        else:
            print("usage: python -m vtrn.serve serve|serve-replay|serve-export|bench ...", file=sys.stderr)
            return 2
    except ModuleNotFoundError as error:
        print(f"vtrn {name}: the Python package {error.name} is missing; pip install 'vtrn[serve]'", file=sys.stderr)
        return 3
    return module.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
