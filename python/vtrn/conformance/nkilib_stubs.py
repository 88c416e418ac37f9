"""What nki-library's tests import and the public repository lacks: stand-ins of our own. Types of the vendor's
packages are made of ml_dtypes; what only talks to other machines is empty."""

import dataclasses
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

import ml_dtypes
import numpy as np

from vtrn.nki import dtypes, isa_mx

# Packages that reach other machines or draw charts: a simulation never calls them.
EMPTY = ("fabric2", "paramiko", "boto3", "botocore", "aws_embedded_metrics", "plotext", "debugpy", "pytest_html")


class Nothing(Exception):
    """Stands for any name of an absent package: may be called, subclassed, raised and caught."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


class _EmptyModule(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Nothing,), {})


class _EmptyPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what is in EMPTY, and below it, where nothing else does."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EMPTY:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _EmptyModule(spec.name)

    def exec_module(self, module):
        pass


def module(name, **names):
    made = types.ModuleType(name)
    made.__dict__.update(names)
    sys.modules[name] = made
    return made


# -- neuron_dtypes

# Four narrow floats that are moved as one element, the first lowest.
PACKED = dtypes.packed_types()
ELEMENTS = {"float8_e4m3fn_x4": ml_dtypes.float8_e4m3fn, "float8_e5m2_x4": ml_dtypes.float8_e5m2,
            "float4_e2m1fn_x4": ml_dtypes.float4_e2m1fn}


def packed_name(dtype):
    """The name of a packed type, whatever says it; None of another type."""
    if isinstance(dtype, np.dtype) and dtype.names:
        return dtype.names[0]
    return str(dtype) if str(dtype) in PACKED else None


def unpack(array):
    """The floats of packed elements, as fp32: four times as many in the last dimension."""
    name = packed_name(array.dtype)
    return _values_of_bytes(name)[_bytes_of(array[name])].view(np.float32).reshape(*array.shape[:-1], 4 * array.shape[-1])


def _bytes_of(words):
    """The bytes of each word, the lowest first."""
    words = np.ascontiguousarray(words)
    return words.astype(words.dtype.newbyteorder("<"), copy=False).view(np.uint8)


@functools.cache
def _values_of_bytes(name):
    """The bits of what each byte holds, as fp32: a float of 8 bits, or two of 4, the lower bits first."""
    codes = np.arange(256, dtype=np.uint8)
    if PACKED[name][name].itemsize == 2:
        codes = np.stack([codes & 15, codes >> 4], axis=-1)
    values = codes.view(ELEMENTS[name]).astype(np.float32)
    return values.view(np.uint32 if values.ndim == 1 else np.uint64).reshape(-1)


def pack(values, name):
    """The packed elements of floats, a quarter as many in the last dimension."""
    codes = np.ascontiguousarray(values, np.float32).astype(ELEMENTS[name]).view(np.uint8)
    word = PACKED[name][name]
    if word.itemsize == 2:
        codes = (codes[..., ::2] & 15) | (codes[..., 1::2] << 4)
    return codes.view(word.newbyteorder("<")).astype(word, copy=False).view(PACKED[name])


def static_cast(array, dtype):
    """The array in another type, rounded to nearest even; one above a type's range is infinite or NaN, as ml_dtypes
    has it. To and from packed types the last dimension changes by four."""
    array = np.asarray(array)
    name = packed_name(dtype)
    if packed_name(array.dtype) == name and name:
        return array
    if packed_name(array.dtype):
        array = unpack(array)
    if name:
        return pack(array, name)
    target = np.dtype(np.float32) if str(dtype) == "tfloat32" else np.dtype(str(dtype) if isinstance(dtype, str) else dtype)
    return array.astype(target)


def is_float_type(dtype):
    return ml_dtypes.finfo(dtype) is not None if _has_finfo(dtype) else False


def _has_finfo(dtype):
    try:
        ml_dtypes.finfo(dtype)
    except (ValueError, TypeError):
        return False
    return True


def sizeinbytes(dtype):
    return np.dtype(str(dtype) if isinstance(dtype, str) else dtype).itemsize


def take_numpy_types():
    """nki-library's reference looks types up by their text, which of NumPy's packed ones is another."""
    for name, library in list(sys.modules.items()):
        if name.endswith(".mx_torch_common"):
            def quantize_to_mx(data, out_x4_dtype, call=library.quantize_to_mx):
                return call(data, getattr(dtypes, packed_name(out_x4_dtype) or "", out_x4_dtype))

            library.quantize_to_mx = quantize_to_mx


def install(path):
    """Puts everything in place; path: the checkout."""
    import vtrn.nki

    vtrn.nki.install(force=True)
    isa_mx.doubles_scales = False  # at tag 2.29 a scale is that of OCP's sample algorithm
    dtypes.results_say_packed = True
    np.sctypeDict.update(PACKED)  # np.zeros(shape, nl.float8_e4m3fn_x4) makes an array
    nki = sys.modules["nki"]
    sys.meta_path.append(_EmptyPackages())
    names = {name: getattr(ml_dtypes, name) for name in ("bfloat16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2",
                                                         "float8_e8m0fnu", "float4_e2m1fn")}
    module("neuron_dtypes", static_cast=static_cast, is_float_type=is_float_type, sizeinbytes=sizeinbytes,
           finfo=ml_dtypes.finfo, **PACKED, **names)
    # The private simulator's name for the package.
    parts = {"builtin": types.ModuleType("builtin"), "tensor": types.ModuleType("tensor"),
             **{name: sys.modules["nki." + name] for name in ("compiler", "isa", "language", "typing")}}
    simulated = module("nki_cpu_simulator.nki", **{**vars(nki), **parts})
    module("nki_cpu_simulator", nki=simulated).__path__ = []
    for name, made in parts.items():
        sys.modules["nki_cpu_simulator.nki." + name] = made
    sys.modules["nki_cpu_simulator.nki.isa.constants"] = sys.modules["nki.isa.constants"]
    sys.modules["nki_cpu_simulator.nki.language.dtypes"] = nki.dtype
    module("neuronxcc.starfish").__path__ = []
    module("neuronxcc.starfish.support").__path__ = []
    module("neuronxcc.starfish.support.dtype", static_cast=static_cast)
    if importlib.util.find_spec("attr") is None:
        module("attr", dataclass=dataclasses.dataclass)
    # Two files that the checkout imports and does not have.
    module("test.utils.perf_analysis_private", analyze_trace=Nothing)
    module("test.utils.scripts").__path__ = []
    module("test.utils.scripts.remote_lock_scripts", LockResult=Nothing, LockStatus=Nothing)
