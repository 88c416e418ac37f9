"""Files of a model's folder: model.export, model.toml and the weights that it names. What is wrong with one is a VtrnError that names
the file and what to do.
"""

import pathlib
import tomllib

import numpy as np

from vtrn.serve.runtime import VtrnError

KEYS = ("inputs", "outputs", "weights", "about", "pipeline_cores", "weights_stay")


def settings_of(folder: pathlib.Path) -> dict:
    """model.toml, {} where there is none. Keys are those that are known, names are names."""
    path = folder / "model.toml"
    if not path.exists():
        return {}
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise VtrnError(f"{path} is not UTF-8 at byte {error.start}; write it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise VtrnError(f"{path} is not TOML: {error}; its keys are {', '.join(KEYS)}, as in inputs = [\"x\"]") from None
    for key in settings:
        if key not in KEYS:
            raise VtrnError(f"{path} has the key {key!r}, which means nothing; keys are {', '.join(KEYS)}")
    for key in ("inputs", "outputs"):
        names = settings.get(key, [])
        if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names) or len(set(names)) < len(names):
            raise VtrnError(f"{key} of {path} is {names!r}; it has to be a list of names, each once, as [\"x\"]")
    for key in ("weights", "about"):
        if not isinstance(settings.get(key, ""), str):
            what = "name a file of its folder" if key == "weights" else "be a text"
            raise VtrnError(f"{key} of {path} has to {what}, it is {settings[key]!r}")
    return settings


def exported_of(path: pathlib.Path):
    """The function that jax.export serialised."""
    from jax import export

    data = bytearray(path.read_bytes())
    try:
        return export.deserialize(data)
    except Exception as error:  # of flatbuffers, of struct, of jax, by what is broken
        raise VtrnError(f"{path} ({len(data)} bytes) is no function serialised by jax.export, or not all of it: {error}; "
                        "write it again, as jax.export.export(jax.jit(f))(...).serialize() gives it") from None  # fmt: skip


def weights_path(folder: pathlib.Path, settings: dict) -> pathlib.Path | None:
    named = settings.get("weights")
    if named is None:
        return None
    path = (folder / named).resolve()
    if folder.resolve() not in path.parents:
        raise VtrnError(f"weights of {folder / 'model.toml'} has to name a file of its folder, it is {named!r}")
    if not path.is_file():
        raise VtrnError(f"weights of {folder / 'model.toml'} is {named!r}, and {path} is not there; put the file there, or leave the key out")
    return path


def weights_of(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file."""
    import safetensors
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise VtrnError(f"{path} ({path.stat().st_size} bytes) is no safetensors file, or not all of it: {error}; "
                        "write it again by safetensors.numpy.save_file") from None  # fmt: skip


def n_weights_of(path: pathlib.Path) -> int:
    import safetensors

    try:
        with safetensors.safe_open(path, "numpy") as f:
            return len(f.keys())
    except safetensors.SafetensorError:
        return len(weights_of(path))  # and it says what is wrong
