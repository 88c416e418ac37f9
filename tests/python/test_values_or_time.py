"""Executions that compute values alone, or time alone: VTRN_TIMING=off, VTRN_VALUES=off, `vtrn time`."""

import json
import subprocess

import capi
import chip_run
import numpy as np
import pytest
from paths import BUILD

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

VTRN = BUILD / "src/cli/vtrn"


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    monkeypatch.delenv("VTRN_CHECK", raising=False)


def counted(x, w):
    """A loop that counts, and in it another one."""

    def inner(i, y):
        return jnp.tanh(y @ w) + jnp.float32(i)

    return lax.scan(lambda c, r: (lax.fori_loop(0, 3, inner, c) + r, c.sum()), x, jnp.stack([x] * 7))


def decided(x):
    """A loop that its values end."""
    return lax.while_loop(lambda v: v.sum() < 100.0, lambda v: v * 2 + 0.5, x)


ARGUMENTS = (np.linspace(-1, 1, 33 * 40).astype(np.float32).reshape(33, 40), np.eye(40, dtype=np.float32))


def execute(f, *args):
    """(results, step time in ns or the error when it is asked for)."""
    device = capi.Device()
    executable = device.compile(chip_run.export(f, *args))
    try:
        results = executable(*args)
        try:
            return results, executable.profile().step_ns
        except capi.VtrnError as error:
            return results, str(error)
    finally:
        executable.destroy()
        device.close()


@pytest.mark.parametrize("f", [counted, lambda x, w: jnp.tanh(x @ w).sum()], ids=["loops", "straight"])
def test_time_alone_is_the_time_of_a_run(f, monkeypatch, tmp_path):
    _, expected = execute(f, *ARGUMENTS)
    monkeypatch.setenv("VTRN_VALUES", "off")
    assert execute(f, *ARGUMENTS)[1] == expected
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(chip_run.export(f, *ARGUMENTS))
    done = subprocess.run([VTRN, "time", artifact, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["step_ns"] == expected


def test_useful_operations_are_counted_each_time_round(tmp_path):
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(chip_run.export(counted, *ARGUMENTS))
    done = subprocess.run([VTRN, "time", artifact, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["flops"] == 7 * 3 * 2 * 33 * 40 * 40


def test_values_alone_are_the_values_of_a_run(monkeypatch):
    expected, _ = execute(counted, *ARGUMENTS)
    monkeypatch.setenv("VTRN_TIMING", "off")
    got, time = execute(counted, *ARGUMENTS)
    for a, b in zip(got, expected, strict=True):
        assert a.tobytes() == b.tobytes()
    assert "VTRN_TIMING is off" in time


def test_a_loop_that_values_end_is_refused_without_them(monkeypatch):
    monkeypatch.setenv("VTRN_VALUES", "off")
    with pytest.raises(capi.VtrnError, match="loop counters; a loop that other values end needs VTRN_VALUES=on"):
        execute(decided, ARGUMENTS[0])


@pytest.mark.parametrize("setting, part", [
    ({"VTRN_VALUES": "off", "VTRN_TIMING": "off"}, "both off"),
    ({"VTRN_VALUES": "none"}, "'none' is neither on nor off"),
    ({"VTRN_VALUES": "off", "VTRN_CHECK": "1"}, "VTRN_CHECK looks at values"),
    ({"VTRN_VALUES": "off", "VTRN_VERIFY": "1"}, "VTRN_VERIFY looks at values"),
])  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(setting, part, monkeypatch):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(capi.VtrnError, match=part):
        capi.Device()
