"""What a build for another processor has to be told of Python: PYTHON cross/python_for.py MACHINE COMPILER DIRECTORY

Python's headers are the same on all of them but for pyconfig.h, and those of two Linuxes with 64 bits differ in that file in
what only Python's own build asks for. The compiler confirms it: each size and alignment that the file names is held against its own.

DIRECTORY gets the headers and build-details.json (PEP 739), which meson reads by -Dpython.build_config."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

TYPES = {
    "_BOOL": "_Bool",
    "FPOS_T": "fpos_t",
    "LONG_DOUBLE": "long double",
    "LONG_LONG": "long long",
    "OFF_T": "off_t",
    "PID_T": "pid_t",
    "PTHREAD_KEY_T": "pthread_key_t",
    "PTHREAD_T": "pthread_t",
    "SIZE_T": "size_t",
    "TIME_T": "time_t",
    "UINTPTR_T": "uintptr_t",
    "VOID_P": "void *",
    "WCHAR_T": "wchar_t",
    "MAX_ALIGN_T": "max_align_t",
} | {name: name.lower() for name in ("SHORT", "INT", "LONG", "FLOAT", "DOUBLE")}


def check(config: str, compiler: str, directory: pathlib.Path) -> None:
    """Fails where the compiler's sizes are not those of pyconfig.h."""
    lines = [f"#include <{name}.h>" for name in ("pthread", "stddef", "stdint", "stdio", "sys/types", "time")]
    found = re.findall(r"^#define (SIZEOF|ALIGNOF)_(\w+) (\d+)$", config, re.MULTILINE)
    if len(found) < 15:
        raise SystemExit(f"cross/python_for.py: {sysconfig.get_config_h_filename()} names {len(found)} sizes; it is not the whole file")
    for kind, name, value in found:
        if name not in TYPES:
            raise SystemExit(f"cross/python_for.py: no type is known for {kind}_{name} of pyconfig.h; add it to TYPES")
        measured = ("sizeof" if kind == "SIZEOF" else "_Alignof") + f"({TYPES[name]})"
        lines.append(f'_Static_assert({measured} == {value}, "{kind}_{name}");')
    source = directory / "sizes.c"
    source.write_text("\n".join(lines) + "\n")
    subprocess.run([compiler, "-D_GNU_SOURCE", "-c", source, "-o", directory / "sizes.o"], check=True)


def main(machine: str, compiler: str, out: str) -> None:
    directory = pathlib.Path(out).resolve()
    shutil.rmtree(directory, ignore_errors=True)
    headers = directory / "include"
    shutil.copytree(sysconfig.get_paths()["include"], headers)
    config = pathlib.Path(sysconfig.get_config_h_filename()).read_text()
    check(config, compiler, directory)
    (headers / "pyconfig.h").write_text(config)
    major, minor = sys.version_info[:2]
    details = {
        "schema_version": "1.0",
        "base_prefix": str(directory),
        "platform": f"linux-{machine}",
        "language": {"version": f"{major}.{minor}", "version_info": {"major": major, "minor": minor}},
        "implementation": {"name": "cpython"},
        "abi": {
            "flags": [],
            "extension_suffix": f".cpython-{major}{minor}-{machine}-linux-gnu.so",
            "stable_abi_suffix": ".abi3.so",
        },
        "libpython": {"dynamic": f"lib/libpython{major}.{minor}.so", "link_extensions": False},
        "c_api": {"headers": str(headers)},
    }
    (directory / "build-details.json").write_text(json.dumps(details, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python cross/python_for.py MACHINE COMPILER DIRECTORY")
    main(*sys.argv[1:])
