"""Models that the Open Inference Protocol serves: what they take and give, and how rows of requests share a program.

A row is one element of the first axis of the inputs. The encoder takes sentences of any length, padded to a bucket;
a stored model is a folder with model.export (jax.export) and model.toml.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vtrn.serve import quantise
from vtrn.serve.batcher import BatchResult
from vtrn.serve.decoder_engine import FLOATS
from vtrn.serve.errors import bad_request, whole_text
from vtrn.serve.models import encoder
from vtrn.serve.programs import Programs, artifact_of, bucket_for
from vtrn.serve.repository import exported_of, settings_of, weights_of, weights_path
from vtrn.serve.runtime import Device, VtrnError
from vtrn.serve.stages import Pipeline, Wanted, Whole

# The protocol's names of element types; BYTES is text.
DATATYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip
DATATYPE_NAMES = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    name: str
    datatype: str
    shape: tuple[int, ...]  # -1: any


def checked_inputs(specs: list[TensorSpec], given: dict[str, np.ndarray], model: str) -> dict[str, np.ndarray]:
    """The tensors as the specs ask for them; a RequestError names the first that is missing, unknown or wrong."""
    known = {s.name for s in specs}
    for name in given:
        if name not in known:
            raise bad_request(f"{model} has no input {name!r}; its inputs are {', '.join(sorted(known))}", name)
    for spec in specs:
        if spec.name not in given:
            raise bad_request(f"input {spec.name!r} of {model} is missing; its inputs are {', '.join(sorted(known))}", spec.name)  # fmt: skip
        array = given[spec.name]
        datatype = DATATYPE_NAMES.get(array.dtype)
        if datatype != spec.datatype:
            raise bad_request(f"input {spec.name!r} of {model} is {spec.datatype}, {datatype} was sent; convert it", spec.name)  # fmt: skip
        if len(array.shape) != len(spec.shape) or any(w not in (-1, n) for w, n in zip(spec.shape, array.shape)):
            raise bad_request(f"input {spec.name!r} of {model} has shape {list(spec.shape)} (-1: any), "
                              f"{list(array.shape)} was sent", spec.name)  # fmt: skip
        if not array.shape or array.shape[0] == 0:
            raise bad_request(f"input {spec.name!r} of {model} has no rows; send at least one", spec.name)
    rows = {name: given[name].shape[0] for name in known}
    if len(set(rows.values())) > 1:
        raise bad_request(f"the inputs of {model} have different numbers of rows: {rows}")
    return given


class EncoderModel:
    """Sentences to embeddings. `weights` as vtrn.serve.models.encoder names them, matrices in dtype, or kept in a
    byte an element as int8 or fp8."""

    platform = "vtrn_jax"
    about: str | None = None

    def __init__(self, name: str, device: Device, programs: Programs, config: encoder.EncoderConfig, weights,
                 tokenizer, dtype: str = "bf16", cores=(0,), batches=(1, 2, 4, 8, 16, 32),
                 lengths=(16, 32, 64, 128, 256, 512), kept: str | None = None):  # fmt: skip
        self.name, self.config, self.tokenizer, self.version = name, config, tokenizer, "1"
        self._device, self._programs = device, programs
        self.batches, self.lengths = list(batches), [n for n in lengths if n <= config.max_tokens]
        self.max_rows = self.batches[-1]
        self.inputs = [TensorSpec("text", "BYTES", (-1,))]
        self.outputs = [TensorSpec("embedding", "FP32", (-1, config.width))]
        self.dtype = np.dtype(FLOATS[dtype])
        if kept:
            weights = quantise.quantise_all(weights, kept)
        stored = {n: w.astype(self.dtype) if w.ndim == 2 and w.dtype == np.float32 else w for n, w in weights.items()}
        self._shapes = {n: jax.ShapeDtypeStruct(w.shape, w.dtype) for n, w in stored.items()}
        self.weight_bytes = sum(w.nbytes for w in stored.values())
        self._weights = {c: [device.put(stored[n], c) for n in sorted(stored)] for c in cores}

    def rows_of(self, inputs: dict[str, np.ndarray]) -> list[list[int]]:
        texts = []
        for raw in checked_inputs(self.inputs, inputs, self.name)["text"].reshape(-1):
            try:
                texts.append(raw.decode("utf-8") if isinstance(raw, bytes) else str(raw))
            except UnicodeDecodeError:
                raise bad_request(f"input 'text' of {self.name} is not UTF-8", "text") from None
        return self.tokenize(texts)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        rows = [e.ids for e in self.tokenizer.encode_batch([whole_text(t, "text") for t in texts])]
        for i, row in enumerate(rows):
            if len(row) > self.lengths[-1]:
                raise bad_request(f"text {i} has {len(row)} tokens, the longest bucket of {self.name} holds "
                                  f"{self.lengths[-1]}; cut it", "text")  # fmt: skip
        return rows

    def outputs_of(self, rows: list) -> dict[str, np.ndarray]:
        return {"embedding": np.stack(rows)}

    def program(self, batch: int, length: int):
        def function(weights, ids, is_token):
            return (encoder.encode(self.config, weights, ids, is_token, self.dtype),)

        ints = jax.ShapeDtypeStruct((batch, length), jnp.int32)
        return self._programs.get(f"{self.name}/b{batch}_s{length}", lambda: artifact_of(function, self._shapes, ints, ints))  # fmt: skip

    def run(self, rows: list[list[int]], core_i: int) -> BatchResult:
        batch, length = bucket_for(self.batches, len(rows)), bucket_for(self.lengths, max(map(len, rows)))
        ids, is_token = np.zeros((batch, length), np.int32), np.zeros((batch, length), np.int32)
        is_token[len(rows) :, 0] = 1  # padding rows have a mean, too
        for i, row in enumerate(rows):
            ids[i, : len(row)], is_token[i, : len(row)] = row, 1
        program = self.program(batch, length)
        buffers = [self._device.put(a, core_i) for a in (ids, is_token)]
        out = program.executable([*self._weights[core_i], *buffers], core_i)[0].numpy()
        padding = 100 * (1 - sum(map(len, rows)) / ids.size)
        return BatchResult(list(out[: len(rows)]), f"b{batch}_s{length}", batch, padding, program.executable.profile())


class StoredModel:
    """A folder of a model repository: model.export, serialised by jax.export, and model.toml. What that names as weights
    are the first arguments, in the order of their names: they stay on the device."""

    platform = "vtrn_jax_export"

    def __init__(self, folder: pathlib.Path, device: Device, programs: Programs, cores=(0,), wanted: Wanted | None = None):
        self.name, self.version = folder.name, "1"
        settings = settings_of(folder)
        wanted = wanted or wanted_of(folder, settings)
        exported = exported_of(folder / "model.export")
        self.about = settings.get("about")
        weights = _weights_of(folder, settings, exported.in_avals)
        self.weight_bytes = sum(w.nbytes for w in weights)
        self._types = exported.in_avals[len(weights) :]
        self.inputs = _specs(folder, "input", settings.get("inputs"), self._types)
        self.outputs = _specs(folder, "output", settings.get("outputs"), exported.out_avals)
        self.max_rows = self._types[0].shape[0]
        if (given := exported.out_avals[0].shape[0]) != self.max_rows:
            raise VtrnError(f"{folder / 'model.export'} takes {self.max_rows} rows and gives {given}; a served model gives a row for each that it takes")
        kept = exported.module_kept_var_idx
        self._kept = [i - len(weights) for i in kept if i >= len(weights)]
        kind = Pipeline if wanted.pipeline_cores > 1 else Whole
        try:
            self.plan = kind(device, programs, self.name, f"b{self.max_rows}", exported.mlir_module_serialized,
                             [weights[i] for i in kept if i < len(weights)], cores, wanted)  # fmt: skip
        except (VtrnError, ValueError) as error:  # of stages, which name the model, or of the compiler, which does not know it
            if f"model {self.name}: " in str(error):
                raise
            raise VtrnError(f"{folder / 'model.export'}: {error}", getattr(error, "category", 0)) from None
        self.lanes = self.plan.lanes

    def rows_of(self, inputs):
        given = checked_inputs(self.inputs, inputs, self.name)
        return list(zip(*(given[s.name] for s in self.inputs)))

    def outputs_of(self, rows):
        return {s.name: np.stack([row[i] for row in rows]) for i, s in enumerate(self.outputs)}

    def run(self, rows, core_i) -> BatchResult:
        arrays = []
        for i, aval in enumerate(self._types):
            array = np.zeros(aval.shape, aval.dtype)
            array[: len(rows)] = [row[i] for row in rows]
            arrays.append(array)
        result = self.plan.run([arrays[i] for i in self._kept], core_i)
        padding = 100 * (1 - len(rows) / self.max_rows)
        return BatchResult(list(zip(*(o[: len(rows)] for o in result.outputs))), f"b{self.max_rows}", self.max_rows, padding,
                           result.profile, result.core_ns, result.about)  # fmt: skip


def wanted_of(folder: pathlib.Path, settings: dict) -> Wanted:
    """What model.toml says of cores and weights."""
    n, stay = settings.get("pipeline_cores", 1), settings.get("weights_stay")
    if type(n) is not int or n < 1:
        raise ValueError(f"pipeline_cores of {folder / 'model.toml'} is {n!r}; it has to be a whole number from 1")
    if stay not in (None, True, False) or type(stay) is int:
        raise ValueError(f"weights_stay of {folder / 'model.toml'} is {stay!r}; it has to be true or false, or is left out")
    return Wanted(n, stay)


def _weights_of(folder: pathlib.Path, settings: dict, avals) -> list[np.ndarray]:
    """The tensors of the safetensors file that model.toml names, by name, as the first arguments take them."""
    path = weights_path(folder, settings)
    if path is None:
        return []
    stored = weights_of(path)
    weights = [stored[name] for name in sorted(stored)]
    if len(weights) >= len(avals):
        raise ValueError(f"{path} has {len(weights)} tensors, the model takes {len(avals)} arguments with its inputs")
    for name, w, aval in zip(sorted(stored), weights, avals):
        if w.shape != aval.shape or w.dtype != aval.dtype:
            raise ValueError(f"{path}: {name} is {w.dtype}{list(w.shape)}, the model takes {aval.dtype}{list(aval.shape)}")
    return weights


def _specs(folder: pathlib.Path, kind: str, names: list[str] | None, avals) -> list[TensorSpec]:
    """kind: input or output."""
    path = folder / "model.export"
    if names and len(names) != len(avals):
        raise VtrnError(f"{kind}s of {folder / 'model.toml'} names {len(names)} tensor{'s' * (len(names) != 1)}, {', '.join(names)}; the function has "
                        f"{len(avals)} {kind}{'s' * (len(avals) != 1)}{' beside its weights' * (kind == 'input')}: name each, in their order")  # fmt: skip
    if not avals:
        raise VtrnError(f"{path} has no {kind}s{' beside its weights' * (kind == 'input')}; a served model takes and gives tensors")
    names = names or [f"{kind}_{i}" for i in range(len(avals))]
    for name, a in zip(names, avals):
        if not a.shape or a.shape[0] != avals[0].shape[0]:
            raise VtrnError(f"{path}: {kind} {name} is {a.dtype}{list(a.shape)}; a served model takes and gives tensors whose first axis is the batch, "
                            "the same of all")  # fmt: skip
        if not all(isinstance(n, int) for n in a.shape):
            raise VtrnError(f"{path}: {kind} {name} is {a.dtype}[{', '.join(map(str, a.shape))}]; export it with numbers for all sizes")
        if np.dtype(a.dtype) not in DATATYPE_NAMES:
            raise VtrnError(f"{path}: {kind} {name} is of {a.dtype}, for which the protocol has no name; convert it to one of "
                            f"{', '.join(d for d in DATATYPES if d != 'BYTES')}")  # fmt: skip
    return [TensorSpec(n, DATATYPE_NAMES[np.dtype(a.dtype)], (-1, *a.shape[1:])) for n, a in zip(names, avals)]
