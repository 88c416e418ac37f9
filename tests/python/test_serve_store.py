"""Networks that vtrn serve-export writes, and stored models with weights beside them."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

for package in ("jax", "safetensors"):
    pytest.importorskip(package, reason="pip install 'vtrn[serve]'")

import jax
import jax.numpy as jnp
from jax import export
from safetensors.numpy import save_file

from vtrn.serve import bench, store
from vtrn.serve.machine import command_path
from vtrn.serve.models import vad, vision
from vtrn.serve.programs import Programs
from vtrn.serve.runtime import Device, VtrnError
from vtrn.serve.tensor_models import StoredModel


@pytest.fixture(scope="module")
def device():
    device = Device("inf2.xlarge", n_threads=2)
    yield device
    device.close()


def plain_vad(weights, samples, state):
    """One stream in float64, sums over windows one by one."""
    w = {n: np.asarray(v, np.float64) for n, v in weights.items()}

    def conv(x, name, stride):
        k = w[f"{name}.weight"]
        at = range(0, x.shape[1] - k.shape[2] + 1, stride)
        return np.stack([np.einsum("oik,ik->o", k, x[:, t : t + k.shape[2]]) for t in at], 1)

    x = np.concatenate([samples, samples[::-1][1:65]])[None]
    x = conv(x, "stft_conv", 128)
    x = np.hypot(x[:129], x[129:])
    for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
        x = np.maximum(conv(np.pad(x, ((0, 0), (1, 1))), name, stride) + w[f"{name}.bias"][:, None], 0)
    hidden, cell = state
    gates = w["lstm_cell.weight_ih"] @ x[:, 0] + w["lstm_cell.bias_ih"] + w["lstm_cell.weight_hh"] @ hidden + w["lstm_cell.bias_hh"]
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    i, f, g, o = gates.reshape(4, -1)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    return sigmoid(w["final_conv.weight"][0, :, 0] @ np.maximum(hidden, 0) + w["final_conv.bias"][0]), np.stack([hidden, cell])


def test_streams_of_speech_detection_share_calls_and_keep_their_states(device, tmp_path, monkeypatch):
    weights = store.random_weights(vad.weight_shapes())
    weights |= {n: np.random.default_rng(5).standard_normal(w.shape).astype(np.float32) * 0.1 for n, w in weights.items() if w.ndim == 1}
    monkeypatch.setitem(store.ENTRIES, "silero_vad", store.dataclasses.replace(store.ENTRIES["silero_vad"], weights=lambda: (weights, "a test")))
    folder, origin = store.write("silero_vad", tmp_path, 4, "fp32")
    assert origin == "a test"
    model = StoredModel(folder, device, Programs(device))
    assert model.about == "a test" and model.weight_bytes == sum(w.nbytes for w in weights.values())
    assert [s.name for s in model.inputs] == ["input", "state"] and [s.name for s in model.outputs] == ["output", "stateN"]
    rng = np.random.default_rng(6)
    audio = rng.standard_normal((3, 64 + 3 * 512)).astype(np.float32)
    states, wanted = np.zeros((3, 2, 128), np.float32), np.zeros((3, 2, 128))
    for t in range(3):
        samples = audio[:, t * 512 : t * 512 + 576]
        result = model.run([(samples[i], states[i]) for i in range(3)], 0)
        assert result.profile.n_reference_ops == 0 and result.padding_percent == 25
        for i in range(3):
            probability, states[i] = result.rows[i]
            want, wanted[i] = plain_vad(weights, samples[i], wanted[i])
            np.testing.assert_allclose(probability[0], want, atol=2e-6)
            np.testing.assert_allclose(states[i], wanted[i], atol=2e-5)


def test_vision_networks_have_the_parameters_of_the_published_ones():
    count = lambda shapes: sum(int(np.prod(s)) for s in shapes.values())  # noqa: E731
    assert count(vision.resnet50_shapes()) == 25_557_032
    assert count(vision.vit_b16_shapes()) == 86_567_656


def test_a_small_image_passes_resnet_as_on_the_cpu(device):
    """Of all blocks; 32 pixels, for the test's time."""
    weights = store.random_weights(vision.resnet50_shapes())
    image = np.random.default_rng(7).random((1, 32, 32, 3)).astype(np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        exported = export.export(jax.jit(lambda w, x: vision.resnet50(w, x)), platforms=["cpu"])(weights, image)
        want = np.asarray(jax.jit(vision.resnet50)(weights, image))
    executable = device.compile(exported.mlir_module_serialized)
    got = executable([device.put(x) for x in jax.tree.leaves((weights, image))])[0].numpy()
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
    assert executable.profile().n_reference_ops == 0


@pytest.fixture
def linear(tmp_path):
    """A folder with y = x w + b, its weights beside it."""
    folder = tmp_path / "linear"
    folder.mkdir()
    rng = np.random.default_rng(8)
    weights = {"w": rng.standard_normal((6, 5)).astype(np.float32), "b": rng.standard_normal(5).astype(np.float32)}
    f = jax.jit(lambda p, x: x @ p["w"] + p["b"], keep_unused=True)
    with jax.default_device(jax.devices("cpu")[0]):
        exported = export.export(f, platforms=["cpu"])(weights, jax.ShapeDtypeStruct((4, 6), jnp.float32))
    (folder / "model.export").write_bytes(exported.serialize())
    (folder / "model.toml").write_text('weights = "w.safetensors"\n')
    save_file(weights, folder / "w.safetensors")
    return folder, weights


def test_weights_beside_a_stored_model_stay_on_the_device(device, linear):
    folder, weights = linear
    model = StoredModel(folder, device, Programs(device), (0, 1))
    assert [s.shape for s in model.inputs] == [(-1, 6)] and model.max_rows == 4
    rows = [(x,) for x in np.random.default_rng(9).standard_normal((3, 6)).astype(np.float32)]
    for core in (0, 1):
        for row, (got,) in zip(rows, model.run(rows, core).rows):
            np.testing.assert_allclose(got, row[0] @ weights["w"] + weights["b"], atol=1e-5)
    described, _ = bench.read_model(folder / "model.export", None, None)
    assert described["batch"] == 4 and described["bytes"] == 4 * (4 * 6 + 4 * 5)  # weights are not copied a call


WRONG = {
    "weights of another shape": (lambda w: {**w, "w": w["w"][:4]}, None, r"w is float32\[4, 5\], the model takes float32\[6, 5\]"),
    "weights of another type": (lambda w: {**w, "b": w["b"].astype(np.float16)}, None, "b is float16"),
    "more weights than arguments": (lambda w: {**w, "z": w["b"], "zz": w["b"]}, None, "has 4 tensors, the model takes 3 arguments"),
    "weights of another folder": (None, "../w.safetensors", "has to name a file of its folder"),
    "a number": (None, 3, "has to name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights_of_a_stored_model_are_named(device, linear, name):
    folder, weights = linear
    change, named, text = WRONG[name]
    if change:
        save_file(change(weights), folder / "w.safetensors")
    else:
        (folder / "model.toml").write_text(f"weights = {named!r}\n".replace("'", '"'))
    with pytest.raises((ValueError, VtrnError), match=text):
        StoredModel(folder, device, Programs(device))


def test_the_command_says_what_it_cannot_write(tmp_path):
    for arguments, code, text in ((["resnet51"], 2, "invalid choice: 'resnet51'"), ([], 2, "required: MODEL"),
                                  (["resnet50", "--repository", str(tmp_path / "file" / "in")], 1, "serve-export")):  # fmt: skip
        (pathlib.Path(tmp_path) / "file").write_text("")
        done = subprocess.run([command_path(), "serve-export", *arguments], capture_output=True, text=True,
                              env={**os.environ, "VTRN_PYTHON": sys.executable})  # fmt: skip
        assert done.returncode == code and text in done.stderr
