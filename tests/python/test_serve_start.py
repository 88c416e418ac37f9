"""What `vtrn serve` refuses before it serves anything: an environment that leaves answers without values or times, machines and
cores that are not there, model folders whose files are not what they should be."""

import re

import pytest

for package in ("jax", "fastapi", "uvicorn", "safetensors"):
    pytest.importorskip(package, reason="pip install 'vtrn[serve]'")

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from safetensors.numpy import save_file

from vtrn.serve import arguments, command, http
from vtrn.serve.host import Host, Settings
from vtrn.serve.runtime import VtrnError

VARIABLES = ("VTRN_VALUES", "VTRN_TIMING", "VTRN_CHIP", "VTRN_INSTANCE", "NEURON_RT_NUM_CORES")
WIDTH, ROWS = 8, 4


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def served(host, *_):  # a test that expects a refusal fails, and does not wait for a signal
        host.close()
        raise AssertionError("the server started")

    monkeypatch.setattr(http, "serve", served)


@pytest.fixture
def repository(tmp_path):
    """A folder of one model, m: y = relu(x w)."""
    folder = tmp_path / "m"
    folder.mkdir()
    weights = {"w": np.random.default_rng(1).standard_normal((WIDTH, WIDTH)).astype(np.float32)}
    with jax.default_device(jax.devices("cpu")[0]):
        made = export.export(jax.jit(lambda p, x: jax.nn.relu(x @ p["w"])), platforms=["cpu"])(
            weights, jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32))  # fmt: skip
    (folder / "model.export").write_bytes(made.serialize())
    (folder / "model.toml").write_text('inputs = ["x"]\noutputs = ["y"]\nweights = "weights.safetensors"\n')
    save_file(weights, folder / "weights.safetensors")
    return tmp_path


def refused(repository, capsys, *options, model="m"):
    """The one line that the command ends with."""
    assert command.main([model, "--repository", str(repository), "--port", "0", *options]) == 1
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and said.err.startswith("vtrn serve: ")
    return said.err


@pytest.mark.parametrize("variable, words", [("VTRN_VALUES", "VTRN_VALUES is off.*unset it.*vtrn bench"), ("VTRN_TIMING", "VTRN_TIMING is off.*unset it")])
def test_a_server_without_values_or_times_is_refused(repository, capsys, monkeypatch, variable, words):
    monkeypatch.setenv(variable, "off")
    with pytest.raises(VtrnError, match=words):
        Host(Settings(models=("m",), instance="inf2.xlarge", repository=repository)).close()
    assert variable in refused(repository, capsys)


@pytest.mark.parametrize("text, words", [("9", "asks for 9 NeuronCores; inf2.xlarge has 2 here: give a number from 1 to 2"), ("0", "asks for 0"), ("x", "asks for x")])
def test_more_cores_than_the_machine_has_are_refused(repository, capsys, monkeypatch, text, words):
    monkeypatch.setenv("NEURON_RT_NUM_CORES", text)
    assert words in refused(repository, capsys)


def test_fewer_cores_are_all_that_models_are_dealt_out_over(repository, capsys, monkeypatch):
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "1")
    assert "placed on core 1; inf2 has core 0 alone here" in refused(repository, capsys, "--cores", "m=1")
    host = Host(Settings(models=("m",), instance="inf2.xlarge", n_cores="1", repository=repository))
    assert "1 NeuronCore here" in host.placement_text()
    host.close()


@pytest.mark.parametrize("chip, instance, options, words", [
    ("inf1", None, [], "VTRN_CHIP is inf1, and the instance of vtrn serve, unless --instance says otherwise, is inf2.xlarge.*give --instance inf1.xlarge .*or unset VTRN_CHIP"),
    ("inf1", "trn1.2xlarge", [], "VTRN_CHIP is inf1, and VTRN_INSTANCE is trn1.2xlarge, which has other chips"),
    ("inf1", None, ["--instance", "trn1.2xlarge"], "VTRN_CHIP is inf1, and --instance is trn1.2xlarge, which has other chips"),
])  # fmt: skip
def test_a_chip_of_another_instance_is_told_who_named_the_instance(repository, capsys, monkeypatch, chip, instance, options, words):
    monkeypatch.setenv("VTRN_CHIP", chip)
    if instance:
        monkeypatch.setenv("VTRN_INSTANCE", instance)
    assert re.search(words, refused(repository, capsys, *options))


@pytest.mark.parametrize("text, words", [("m=", "'m=' is not MODEL=CORES with numbers of cores, as m=0 or m=0,1"), ("m=0,x", "is not MODEL=CORES"),
                                         ("m", "is not MODEL=CORES"), ("m=0,0", "names core 0 twice; name each core once")])  # fmt: skip
def test_cores_that_are_no_cores_are_wrong_usage(capsys, text, words):
    with pytest.raises(SystemExit):
        arguments.serve().parse_args(["m", "--cores", text])
    assert words in capsys.readouterr().err
