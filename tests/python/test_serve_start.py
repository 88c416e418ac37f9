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

from vtrn.serve import arguments, bench, command, http
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
    """The one line that the command ends with; the compiler says below it where the operation is."""
    assert command.main([model, "--repository", str(repository), "--port", "0", *options]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("vtrn serve: ") and all(x.startswith("  at ") for x in said.err.splitlines()[1:])
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
    ("inf1", None, ["--instance", "inf9"], "no instance 'inf9'"),
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


def exported(f, *shapes):
    with jax.default_device(jax.devices("cpu")[0]):
        return export.export(jax.jit(f), platforms=["cpu"])(*shapes).serialize()


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged(folder):
    """The strings of the program: the file itself is read."""
    path = folder / "model.export"
    path.write_bytes(path.read_bytes().replace(b"dot_general", b"dot_gentral"))


def of_no_weights(f, *shapes):
    def change(folder):
        (folder / "model.toml").unlink()
        (folder / "model.export").write_bytes(exported(f, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)))

    return change


def toml(text):
    return lambda folder: (folder / "model.toml").write_bytes(text if isinstance(text, bytes) else text.encode())


NAMED = 'weights = "weights.safetensors"\n'
BROKEN = {
    "half a function": (lambda f: half(f / "model.export"), r"m/model.export \(\d+ bytes\) is no function serialised by jax.export, or not all of it: .*; write it again"),
    "no function": (lambda f: (f / "model.export").write_bytes(b""), r"m/model.export \(0 bytes\) is no function"),
    "a damaged program": (damaged, "m/model.export: .*dot_gentral"),
    "another file": (lambda f: (f / "model.export").write_bytes(b"garbage " * 9), r"m/model.export \(72 bytes\) is no function"),
    "half the weights": (lambda f: half(f / "weights.safetensors"), r"m/weights.safetensors \(\d+ bytes\) is no safetensors file, or not all of it: .*; write it again"),
    "no weights": (lambda f: (f / "weights.safetensors").write_bytes(b""), r"m/weights.safetensors \(0 bytes\) is no safetensors file"),
    "weights that are not there": (lambda f: (f / "weights.safetensors").unlink(), "weights of .*m/model.toml is 'weights.safetensors', and .* is not there"),
    "a misspelt key": (toml(f'inputz = ["x"]\n{NAMED}'), "m/model.toml has the key 'inputz', which means nothing; keys are inputs, outputs, weights, about, pipeline_cores, weights_stay"),
    "a key of one letter less": (toml(f"weight_stay = true\n{NAMED}"), "the key 'weight_stay'"),
    "another such": (toml(f"pipeline_core = 4\n{NAMED}"), "the key 'pipeline_core'"),
    "no TOML": (toml('inputs = ["x"'), "m/model.toml is not TOML: Unclosed array"),
    "no UTF-8": (toml(b"\xff\xfe\x00"), "m/model.toml is not UTF-8 at byte 0; write it as UTF-8"),
    "names that are none": (toml(f"inputs = [3]\n{NAMED}"), r"inputs of .*m/model.toml is \[3\]; it has to be a list of names"),
    "a name twice": (toml(f'outputs = ["y", "y"]\n{NAMED}'), "outputs of .*model.toml is .*each once"),
    "more inputs than there are": (toml(f'inputs = ["x", "z"]\n{NAMED}'), "inputs of .*m/model.toml names 2 tensors, x, z; the function has 1 input beside its weights"),
    "more outputs than there are": (toml(f'outputs = ["y", "z"]\n{NAMED}'), "outputs of .*m/model.toml names 2 tensors, y, z; the function has 1 output: name each"),
    "a scalar": (of_no_weights(lambda x: x.sum(), (ROWS, WIDTH)), r"m/model.export: output output_0 is float32\[\]; a served model"),
    "two batches": (of_no_weights(lambda x, y: x + y.sum(), (ROWS, WIDTH), (2, WIDTH)), r"input input_1 is float32\[2, 8\]; .*the same of all"),
    "fewer rows": (of_no_weights(lambda x: x[:2], (ROWS, WIDTH)), "m/model.export takes 4 rows and gives 2"),
    "complex numbers": (of_no_weights(lambda x: x + 1j, (ROWS, WIDTH)), "output output_0 is of complex64, for which the protocol has no name"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_of_a_model_is_named_with_what_to_do(repository, capsys, name):
    change, words = BROKEN[name]
    change(repository / "m")
    assert re.search(words, refused(repository, capsys))


@pytest.mark.parametrize("name", ["half a function", "half the weights", "a misspelt key", "no TOML", "no UTF-8", "weights that are not there"])
def test_bench_names_it_too(repository, capsys, name):
    change, words = BROKEN[name]
    change(repository / "m")
    assert bench.main([str(repository / "m" / "model.export"), "--instances", "inf2.xlarge"]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and re.search(words, said)


def test_a_pipeline_that_is_refused_names_the_model_as_its_option_takes_it(repository, capsys):
    said = refused(repository, capsys, "--pipeline-cores", "m=2")
    assert "model m: " in said and "give --pipeline-cores m=1" in said
    host = Host(Settings(models=("m",), instance="inf2.xlarge", repository=repository, pipelines={"m": 1}))
    host.close()
    (repository / "m" / "model.toml").write_text(f"weights_stay = true\n{NAMED}")
    assert "model m: weights_stay is true" in refused(repository, capsys)
