"""The runtime of served programs: vtrn.h through ctypes.

A device is a machine (chip and instance), an executable a program for one of its NeuronCores, a buffer a
tensor in a core's HBM. Whatever the library refuses is a VtrnError with its message. Calls release
Python's lock; the library runs the programs of one device one after the other.
"""

import ctypes as ct
import dataclasses
import functools
import os
import threading

import ml_dtypes
import numpy as np

import vtrn

# The library's names of element types beside NumPy's.
DTYPES = {
    "pred": np.bool_, "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "fp8e4m3fn": ml_dtypes.float8_e4m3fn, "fp8e4m3": ml_dtypes.float8_e4m3, "fp8e5m2": ml_dtypes.float8_e5m2,
    "bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32, "fp64": np.float64,
}  # fmt: skip


class VtrnError(RuntimeError):
    """The library's message; `category` is that of vtrn_error_category()."""

    def __init__(self, message: str, category: int = 0):
        super().__init__(message)
        self.category = category


class _Options(ct.Structure):
    _fields_ = [("struct_size", ct.c_size_t), ("chip", ct.c_char_p), ("instance", ct.c_char_p),
                ("n_threads", ct.c_int)]  # fmt: skip


class _Profile(ct.Structure):
    _fields_ = [("struct_size", ct.c_size_t)] + [
        (name, ct.c_double)
        for name in (
            "step_ns", "tensor_active", "vector_active", "scalar_active", "gpsimd_active", "sync_active",
            "dma_active", "mfu",
        )
    ] + [
        (name, ct.c_uint64)
        for name in (
            "flops", "hbm_read_bytes", "hbm_write_bytes", "hbm_peak_bytes", "sbuf_peak_bytes", "psum_peak_bytes",
        )
    ] + [
        ("reference_time_share", ct.c_double), ("n_reference_ops", ct.c_uint32), ("n_instructions", ct.c_uint64),
        ("host_seconds", ct.c_double), ("functional_seconds", ct.c_double), ("timing_seconds", ct.c_double),
        ("dollars_per_hour", ct.c_double), ("instance_cores", ct.c_int),
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Profile:
    """What the chip would have done in one call; field names are vtrn.h's."""

    step_ns: float
    tensor_active: float
    vector_active: float
    scalar_active: float
    gpsimd_active: float
    dma_active: float
    mfu: float
    flops: int
    hbm_read_bytes: int
    hbm_write_bytes: int
    hbm_peak_bytes: int
    reference_time_share: float
    n_reference_ops: int
    n_instructions: int
    host_seconds: float
    dollars_per_hour: float
    instance_cores: int


@functools.cache
def _library() -> ct.CDLL:
    lib = ct.CDLL(vtrn.library_path())
    lib.vtrn_error_message.restype = ct.c_char_p
    lib.vtrn_error_message.argtypes = lib.vtrn_error_free.argtypes = lib.vtrn_error_category.argtypes = [ct.c_void_p]
    lib.vtrn_buffer_size.restype = ct.c_size_t
    lib.vtrn_device_chip_name.restype = ct.c_char_p
    lib.vtrn_dtype_from_name.restype = ct.c_bool
    for name in ("vtrn_device_open", "vtrn_compile_flags", "vtrn_buffer_create", "vtrn_buffer_read", "vtrn_buffer_write",
                 "vtrn_execute", "vtrn_executable_profile"):  # fmt: skip
        getattr(lib, name).restype = ct.c_void_p
    return lib


def _check(status) -> None:
    if not status:
        return
    lib = _library()
    error = VtrnError(lib.vtrn_error_message(status).decode(), lib.vtrn_error_category(status))
    lib.vtrn_error_free(status)
    raise error


@functools.cache
def _codes() -> dict[np.dtype, int]:
    """The library's number of each element type, by what NumPy calls it."""
    codes = {}
    for name, dtype in DTYPES.items():
        code = ct.c_int()
        if _library().vtrn_dtype_from_name(name.encode(), ct.byref(code)):
            codes[np.dtype(dtype)] = code.value
    return codes


@functools.cache
def _dtypes() -> dict[int, np.dtype]:
    return {code: dtype for dtype, code in _codes().items()}


@dataclasses.dataclass(frozen=True)
class TensorType:
    shape: tuple[int, ...]
    dtype: np.dtype


class Device:
    """A machine of `instance` (VTRN_INSTANCE or trn1.2xlarge when None). Close it when nothing runs."""

    def __init__(self, instance: str | None = None, chip: str | None = None, n_threads: int = 0):
        options = _Options(ct.sizeof(_Options), chip and chip.encode(), instance and instance.encode(), n_threads)
        self._lib, self.handle = _library(), ct.c_void_p()
        _check(self._lib.vtrn_device_open(ct.byref(options), ct.byref(self.handle)))
        self.chip = self._lib.vtrn_device_chip_name(self.handle).decode()
        self.n_cores = self._lib.vtrn_device_n_cores(self.handle)
        named = instance or os.environ.get("VTRN_INSTANCE")
        self.instance_name = named or ("trn1.2xlarge" if self.chip == "trn1" else f"the smallest of {self.chip}")

    def compile(self, artifact: bytes, flags: str = "") -> "Executable":
        """A program of a StableHLO artifact, as jax.export gives it. flags: as in NEURON_CC_FLAGS, and they count after those."""
        handle = ct.c_void_p()
        _check(self._lib.vtrn_compile_flags(self.handle, artifact, ct.c_size_t(len(artifact)), flags.encode(), ct.byref(handle)))
        return Executable(self, handle)

    def put(self, array, core_i: int = 0) -> "Buffer":
        """A copy of the array in a core's HBM."""
        shape = np.shape(array)
        array = np.ascontiguousarray(array).reshape(shape)
        code = _codes().get(array.dtype)
        if code is None:
            raise VtrnError(f"no chip has elements of {array.dtype}; convert the array to one of {', '.join(DTYPES)}")
        dims, handle = (ct.c_int64 * 12)(*shape), ct.c_void_p()
        _check(self._lib.vtrn_buffer_create(self.handle, core_i, code, len(shape), dims,
                                            array.ctypes.data_as(ct.c_void_p), ct.byref(handle)))  # fmt: skip
        return Buffer(handle, TensorType(shape, array.dtype))

    def close(self) -> None:
        if self.handle:
            self._lib.vtrn_device_close(self.handle)
            self.handle = ct.c_void_p()


class Buffer:
    """A tensor in HBM. Its memory is freed with it, or taken by the program that it is donated to."""

    def __init__(self, handle: ct.c_void_p, type_: TensorType):
        self.handle, self.type, self._destroy = handle, type_, _library().vtrn_buffer_destroy

    def numpy(self) -> np.ndarray:
        array = np.empty(self.type.shape, self.type.dtype)
        _check(_library().vtrn_buffer_read(self.handle, array.ctypes.data_as(ct.c_void_p), ct.c_size_t(array.nbytes)))
        return array

    def write(self, array: np.ndarray) -> None:
        """The whole tensor again, of the same type."""
        array = np.ascontiguousarray(array)
        if array.dtype != self.type.dtype or array.shape != self.type.shape:
            raise VtrnError(f"{array.dtype}{list(array.shape)} does not fit into the buffer of {self.type}")
        _check(_library().vtrn_buffer_write(self.handle, array.ctypes.data_as(ct.c_void_p), ct.c_size_t(array.nbytes)))

    def __del__(self):
        if self.handle:
            self._destroy(self.handle)


class Executable:
    """A program for one core. Several threads may call it; the device runs one call at a time."""

    def __init__(self, device: Device, handle: ct.c_void_p):
        self.device, self.handle, self._lib = device, handle, _library()
        self.inputs = self._types(self._lib.vtrn_executable_n_inputs, self._lib.vtrn_executable_input_type)
        self.outputs = self._types(self._lib.vtrn_executable_n_outputs, self._lib.vtrn_executable_output_type)
        self._profile: Profile | None = None
        self._lock = threading.Lock()

    def _types(self, count, describe) -> list[TensorType]:
        types = []
        for i in range(count(self.handle)):
            code, rank, dims = ct.c_int(), ct.c_int(), (ct.c_int64 * 12)()
            describe(self.handle, i, ct.byref(code), ct.byref(rank), dims)
            types.append(TensorType(tuple(dims[: rank.value]), _dtypes()[code.value]))
        return types

    def alias(self, i: int) -> int:
        """The output whose memory input i becomes; -1: none, -2: donated to whichever."""
        return self._lib.vtrn_executable_input_alias(self.handle, i)

    def __call__(self, buffers: list[Buffer], core_i: int = 0) -> list[Buffer]:
        inputs = (ct.c_void_p * max(1, len(buffers)))(*(b.handle.value for b in buffers))
        outputs = (ct.c_void_p * max(1, len(self.outputs)))()
        _check(self._lib.vtrn_execute(self.handle, core_i, inputs, len(buffers), None, outputs, len(self.outputs)))
        return [Buffer(ct.c_void_p(h), t) for h, t in zip(outputs, self.outputs)]

    def profile(self) -> Profile:
        """Of the first call. A program without branches on values takes as long every time."""
        with self._lock:
            if self._profile is None:
                raw = _Profile(struct_size=ct.sizeof(_Profile))
                _check(self._lib.vtrn_executable_profile(self.handle, ct.byref(raw)))
                self._profile = Profile(**{f.name: getattr(raw, f.name) for f in dataclasses.fields(Profile)})
            return self._profile

    def known_profile(self) -> Profile | None:
        """None: nothing asked for it yet."""
        return self._profile

    def __del__(self):
        if self.handle:
            self._lib.vtrn_executable_destroy(self.handle)
