"""What cross/python_for.py tells a build for another processor of Python; the wheels themselves are make wheels-aarch64's."""

import json
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest
from paths import ROOT

if not pathlib.Path(sysconfig.get_config_h_filename()).exists() or not shutil.which("gcc"):
    pytest.skip("no headers of Python, or no gcc", allow_module_level=True)


def call(directory, flags=""):
    """With this host's compiler and flags."""
    compiler = directory / "cc"
    compiler.write_text(f'#!/bin/sh\nexec gcc {flags} "$@"\n')
    compiler.chmod(0o755)
    command = [sys.executable, ROOT / "cross/python_for.py", "aarch64", compiler, directory / "python"]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_details_name_the_other_processor_and_headers_that_are_there(tmp_path):
    done = call(tmp_path)
    assert done.returncode == 0, done.stderr
    details = json.loads((tmp_path / "python/build-details.json").read_text())
    assert details["abi"]["extension_suffix"] == f".cpython-{sys.version_info[0]}{sys.version_info[1]}-aarch64-linux-gnu.so"
    headers = pathlib.Path(details["c_api"]["headers"])
    assert (headers / "Python.h").is_file() and "SIZEOF_VOID_P" in (headers / "pyconfig.h").read_text()


@pytest.mark.parametrize("flag,name", [("-fshort-wchar", "SIZEOF_WCHAR_T"), ("-mlong-double-64", "SIZEOF_LONG_DOUBLE")])
def test_a_processor_of_other_sizes_is_refused(tmp_path, flag, name):
    compiler_has_it = subprocess.run(["gcc", flag, "-E", "-x", "c", "/dev/null"], capture_output=True).returncode == 0
    if not compiler_has_it:
        pytest.skip(f"gcc has no {flag} here")
    done = call(tmp_path, flag)
    assert done.returncode != 0 and name in done.stderr
