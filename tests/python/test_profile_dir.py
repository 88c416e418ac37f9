"""What VTRN_PROFILE leaves behind: an index of the run, whole files, whatever ends the process."""

import html.parser
import json
import os
import re
import signal
import subprocess
import sys
import time

import conftest
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

START = """
import os, sys, time
import jax, jax.numpy as jnp
big = jax.jit(lambda x: jnp.tanh(x @ x).sum())
small = jax.jit(lambda x: x + 1)
for _ in range(3):
    big(jnp.ones((256, 256))).block_until_ready()
small(jnp.ones(3)).block_until_ready()
"""
ENDLESS = START + """
f = jax.jit(lambda x: jax.lax.while_loop(lambda v: v[0] < 2, lambda v: v * 1, x))
x = jnp.zeros(3)
f.lower(x).compile()
print("running", flush=True)
f(x).block_until_ready()
"""
IN_CALLBACK = START + """
def wait(x):
    print("running", flush=True)
    time.sleep(60)
    return x
f = jax.jit(lambda x: jax.pure_callback(wait, x, x))
f(jnp.zeros(3)).block_until_ready()
"""
ASLEEP = START + """
print("running", flush=True)
time.sleep(60)
"""
OWN_HANDLER = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
""" + ASLEEP


def start(code, directory, **kwargs):
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "VTRN_PROFILE": str(directory)}, **kwargs)


def end(process):
    try:
        return process.communicate(timeout=300)
    finally:
        process.kill()


def check_whole(directory):
    """Every file is there and complete; nothing half-written is beside them."""
    files = {f.name for f in directory.iterdir() if f.is_file()}
    assert {"profile.json", "profile.html", "profile.pftrace", "summary.json", "index.html"} <= files
    assert not list(directory.rglob("*.part")) and not list(directory.rglob("error.txt"))
    for file in directory.rglob("*.json"):
        json.loads(file.read_text())
    for file in directory.rglob("*.html"):
        assert file.read_text().rstrip().endswith("</html>")
    return json.loads((directory / "summary.json").read_text())


class Rows(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data):
        self.cells.append(data.strip())


def test_the_index_has_the_program_with_the_most_device_time_in_front(tmp_path):
    out, error = end(process := start(START, tmp_path))
    assert process.returncode == 0 and "profile" not in error, error
    summary = check_whole(tmp_path)
    programs = summary["executables"]
    assert programs[0]["name"] == "jit__lambda" and programs[0]["executions"] == 3
    assert programs[0]["flops"] >= 2 * 256**3
    only_moves = [p["name"] in ("jit_broadcast_in_dim", "jit_convert_element_type") for p in programs]
    assert only_moves == sorted(only_moves) and any(only_moves)
    for kind in (False, True):
        times = [p["device_ns"] for p, moves in zip(programs, only_moves) if moves == kind]
        assert times == sorted(times, reverse=True)
    assert programs[0]["device_ns"] < programs[0]["total_simulated_ns"]
    assert programs[0]["total_simulated_ns"] == pytest.approx(3 * programs[0]["step_ns"])
    page = Rows()
    page.feed((tmp_path / "index.html").read_text())
    assert page.links == [p["profile"] + "/profile.html" for p in programs]
    for link in page.links:
        assert (tmp_path / link).is_file()
    assert json.loads((tmp_path / "profile.json").read_text())["step_ns"] == pytest.approx(programs[0]["step_ns"])


@pytest.mark.parametrize("code", [ASLEEP, ENDLESS, IN_CALLBACK], ids=["asleep", "endless", "in a callback"])
def test_sigterm_writes_the_profile_and_kills(tmp_path, code):
    process = start(code, tmp_path)
    assert process.stdout.readline() == "running\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, error = end(process)
    assert process.returncode == -signal.SIGTERM, error
    summary = check_whole(tmp_path)
    assert summary["executables"][0]["executions"] == 3


def test_a_handler_of_the_program_stays(tmp_path):
    process = start(OWN_HANDLER, tmp_path)
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGTERM)
    end(process)
    assert process.returncode == 5
    check_whole(tmp_path)


def test_a_full_disk_is_reported_and_no_file_is_half_written(tmp_path):
    """RLIMIT_FSIZE stands for the disk: the page does not fit, the old one stays."""
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + START + (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))\n")
    (tmp_path / "profile.html").write_text("old</html>")
    (tmp_path / "profile.json").write_text("{}")
    _, error = end(start(code, tmp_path))
    said = re.search(r"vtrn: the profile is not complete: .*cannot write \d+ bytes to (\S+): (.*)", error)
    assert said and "File too large" in said.group(2), error
    assert (tmp_path / "profile.html").read_text() == "old</html>"
    assert not list(tmp_path.rglob("*.part"))
    json.loads((tmp_path / "summary.json").read_text())


def test_flush_raises_what_went_wrong(tmp_path):
    code = START + """
import shutil
from vtrn import profile
profile.flush()
before = os.stat(os.environ["VTRN_PROFILE"] + "/profile.json").st_mtime_ns
profile.flush()  # nothing ran since
print(before == os.stat(os.environ["VTRN_PROFILE"] + "/profile.json").st_mtime_ns)
small(jnp.ones(3)).block_until_ready()
shutil.rmtree(os.environ["VTRN_PROFILE"])
open(os.environ["VTRN_PROFILE"], "w").close()
try:
    profile.flush()
except OSError as e:
    print(e)
"""
    out, error = end(start(code, tmp_path / "p"))
    lines = out.splitlines()
    assert lines[0] == "True" and "Not a directory" in lines[1], (out, error)
    assert "the profile is not complete" in error


def test_a_fork_that_is_terminated_writes_nothing(tmp_path):
    code = START + """
import signal
if (pid := os.fork()) == 0:
    time.sleep(60)
time.sleep(0.2)
os.kill(pid, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.path.exists(os.environ["VTRN_PROFILE"] + "/profile.json"))
"""
    out, error = end(start(code, tmp_path))
    assert out == "-15 False\n", error
    check_whole(tmp_path)
