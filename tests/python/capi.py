"""The C API through ctypes: compile an artifact, run it, read its profile."""

import ctypes as ct

import ml_dtypes
import numpy as np
from paths import BUILD

# numbering of vtrn_dtype in src/base/dtype.h
DTYPES = [
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    ml_dtypes.float8_e4m3, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e3m4,
    ml_dtypes.bfloat16, np.float16, None, np.float32, np.float64, np.complex64, np.complex128,
    ml_dtypes.int2, ml_dtypes.int4, ml_dtypes.uint2, ml_dtypes.uint4, ml_dtypes.float4_e2m1fn,
]  # fmt: skip


def bits_of(dtype):
    """Of a value in a buffer: those of less than a byte are packed."""
    name = np.dtype(dtype).name
    return 2 if "int2" in name else 4 if "int4" in name or "float4" in name else 8 * np.dtype(dtype).itemsize


def pack(array):
    """The bytes of a buffer: the first value in the lowest bits."""
    bits = bits_of(array.dtype)
    if bits >= 8:
        return array
    codes = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    codes = np.pad(codes, (0, -len(codes) % (8 // bits))).reshape(-1, 8 // bits)
    return (codes << (np.arange(8 // bits, dtype=np.uint8) * bits)).sum(1).astype(np.uint8)


def unpack(packed, shape, dtype):
    bits = bits_of(dtype)
    codes = packed[:, None] >> (np.arange(8 // bits, dtype=np.uint8) * bits) & ((1 << bits) - 1)
    return codes.reshape(-1)[: int(np.prod(shape))].astype(np.uint8).view(dtype).reshape(shape)


def library_path():
    for candidate in (BUILD / "src" / "libvtrn.so", BUILD / "libvtrn.so"):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"libvtrn.so in {BUILD}: build the project first")


class Profile(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t), ("step_ns", ct.c_double),
        ("tensor_active", ct.c_double), ("vector_active", ct.c_double),
        ("scalar_active", ct.c_double), ("gpsimd_active", ct.c_double),
        ("sync_active", ct.c_double), ("dma_active", ct.c_double),
        ("mfu", ct.c_double), ("flops", ct.c_uint64),
        ("hbm_read_bytes", ct.c_uint64), ("hbm_write_bytes", ct.c_uint64),
        ("hbm_peak_bytes", ct.c_uint64), ("sbuf_peak_bytes", ct.c_uint64),
        ("psum_peak_bytes", ct.c_uint64), ("reference_time_share", ct.c_double),
        ("n_reference_ops", ct.c_uint32), ("n_instructions", ct.c_uint64),
        ("host_seconds", ct.c_double), ("functional_seconds", ct.c_double),
        ("timing_seconds", ct.c_double), ("dollars_per_hour", ct.c_double),
        ("instance_cores", ct.c_int), ("spill_save_bytes", ct.c_uint64), ("spill_reload_bytes", ct.c_uint64),
    ]  # fmt: skip


class Options(ct.Structure):
    _fields_ = [("struct_size", ct.c_size_t), ("chip", ct.c_char_p), ("instance", ct.c_char_p),
                ("n_threads", ct.c_int)]  # fmt: skip


class Rank(ct.Structure):
    _fields_ = [("core_i", ct.c_int), ("inputs", ct.POINTER(ct.c_void_p)),
                ("outputs", ct.POINTER(ct.c_void_p))]  # fmt: skip


class VtrnError(RuntimeError):
    pass


class Device:
    def __init__(self, chip=None, threads=0, instance=None):
        self.lib = ct.CDLL(str(library_path()))
        self.lib.vtrn_error_message.restype = ct.c_char_p
        self.lib.vtrn_buffer_size.restype = ct.c_size_t
        for name in ("vtrn_device_open", "vtrn_compile", "vtrn_buffer_create", "vtrn_buffer_read",
                     "vtrn_execute", "vtrn_execute_ranks", "vtrn_executable_profile", "vtrn_program_load",
                     "vtrn_executable_program"):  # fmt: skip
            getattr(self.lib, name).restype = ct.c_void_p
        options = Options(ct.sizeof(Options), chip and chip.encode(),
                          instance and instance.encode(), threads)
        self.handle = ct.c_void_p()
        self.check(self.lib.vtrn_device_open(ct.byref(options), ct.byref(self.handle)))

    def check(self, status):
        if status:
            text = self.lib.vtrn_error_message(ct.c_void_p(status)).decode()
            self.lib.vtrn_error_free(ct.c_void_p(status))
            raise VtrnError(text)

    def compile(self, artifact):
        handle = ct.c_void_p()
        artifact = bytes(artifact)
        self.check(self.lib.vtrn_compile(self.handle, artifact, ct.c_size_t(len(artifact)),
                                         ct.byref(handle)))  # fmt: skip
        return Executable(self, handle)

    def load(self, program):
        """A program file, or assembly text."""
        handle = ct.c_void_p()
        program = bytes(program)
        self.check(self.lib.vtrn_program_load(self.handle, program, ct.c_size_t(len(program)),
                                              ct.byref(handle)))  # fmt: skip
        return Executable(self, handle)

    def close(self):
        self.lib.vtrn_device_close(self.handle)


class Executable:
    def __init__(self, device, handle):
        self.device, self.lib, self.handle = device, device.lib, handle

    def _output_type(self, i):
        dtype, rank, dims = ct.c_int(), ct.c_int(), (ct.c_int64 * 12)()
        self.lib.vtrn_executable_output_type(self.handle, i, ct.byref(dtype), ct.byref(rank), dims)
        return DTYPES[dtype.value], tuple(dims[: rank.value])

    def _buffer(self, array, core):
        shape = np.shape(array)
        array = np.ascontiguousarray(array).reshape(shape)
        buffer = ct.c_void_p()
        index = next(k for k, t in enumerate(DTYPES) if t is not None and array.dtype == t)
        dims = (ct.c_int64 * 12)(*shape)
        array = pack(array)
        self.device.check(self.lib.vtrn_buffer_create(
            self.device.handle, core, index, len(shape), dims,
            array.ctypes.data_as(ct.c_void_p), ct.byref(buffer)))  # fmt: skip
        return buffer.value

    def _results(self, outputs):
        results = []
        for i, output in enumerate(outputs):
            dtype, shape = self._output_type(i)
            result = np.empty(shape, dtype)
            if bits_of(dtype) < 8:
                result = pack(np.zeros(shape, dtype))
            self.device.check(self.lib.vtrn_buffer_read(
                ct.c_void_p(output), result.ctypes.data_as(ct.c_void_p),
                ct.c_size_t(result.nbytes)))  # fmt: skip
            self.lib.vtrn_buffer_destroy(ct.c_void_p(output))
            results.append(unpack(result, shape, dtype) if bits_of(dtype) < 8 else result)
        return results

    def __call__(self, *arrays):
        check, lib = self.device.check, self.lib
        n_out = lib.vtrn_executable_n_outputs(self.handle)
        inputs = (ct.c_void_p * max(1, len(arrays)))()
        for i, array in enumerate(arrays):
            inputs[i] = self._buffer(array, 0)
        outputs = (ct.c_void_p * max(1, n_out))()
        try:
            check(lib.vtrn_execute(self.handle, 0, inputs, len(arrays), None, outputs, n_out))
        finally:
            for i in range(len(arrays)):
                lib.vtrn_buffer_destroy(ct.c_void_p(inputs[i]))
        return self._results(outputs[:n_out])

    def run_ranks(self, arrays, cores=None):
        """arrays: by rank and input; the outputs likewise. cores: of the ranks, else 0, 1, ..."""
        n_out = self.lib.vtrn_executable_n_outputs(self.handle)
        cores = cores or list(range(len(arrays)))
        ranks = (Rank * len(arrays))()
        keep = []
        for rank, row, core in zip(ranks, arrays, cores):
            inputs = (ct.c_void_p * max(1, len(row)))(*[self._buffer(a, core) for a in row])
            outputs = (ct.c_void_p * max(1, n_out))()
            keep.append((inputs, outputs))
            rank.core_i, rank.inputs, rank.outputs = core, inputs, outputs
        try:
            self.device.check(self.lib.vtrn_execute_ranks(self.handle, ranks, len(arrays), None))
        finally:
            for (inputs, _), row in zip(keep, arrays):
                for i in range(len(row)):
                    self.lib.vtrn_buffer_destroy(ct.c_void_p(inputs[i]))
        return [self._results(outputs[:n_out]) for _, outputs in keep]

    def program(self):
        """What vtrn_program_load() takes."""
        data, size = ct.c_void_p(), ct.c_size_t()
        self.device.check(self.lib.vtrn_executable_program(self.handle, ct.byref(data),
                                                           ct.byref(size)))  # fmt: skip
        program = ct.string_at(data, size.value)
        self.lib.vtrn_free(data)
        return program

    def destroy(self):
        self.lib.vtrn_executable_destroy(self.handle)

    def profile(self):
        profile = Profile(struct_size=ct.sizeof(Profile))
        self.device.check(self.lib.vtrn_executable_profile(self.handle, ct.byref(profile)))
        return profile
