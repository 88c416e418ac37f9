"""What nki-library's tests import and the public repository lacks: stand-ins of our own. Types of the vendor's
packages are made of ml_dtypes; what only talks to other machines is empty."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

import ml_dtypes
import numpy as np

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

class X4(str):
    """Four narrow floats that are moved as one element: held as unsigned integers, the first lowest."""

    def __new__(cls, name, element, word, bits):
        self = super().__new__(cls, name)
        self.element, self.word, self.bits = element, np.dtype(word), bits
        return self


X4_TYPES = {t: t for t in (X4("float8_e4m3fn_x4", ml_dtypes.float8_e4m3fn, np.uint32, 8),
                           X4("float8_e5m2_x4", ml_dtypes.float8_e5m2, np.uint32, 8),
                           X4("float4_e2m1fn_x4", ml_dtypes.float4_e2m1fn, np.uint16, 4))}


def static_cast(array, dtype):
    """The array in another type, rounded to nearest even; one above a type's range is infinite or NaN, as ml_dtypes
    has it."""
    array = np.asarray(array)
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


def install(path):
    """Puts everything in place; path: the checkout."""
    import vtrn.nki

    vtrn.nki.install(force=True)
    nki = sys.modules["nki"]
    sys.meta_path.append(_EmptyPackages())
    names = {name: getattr(ml_dtypes, name) for name in ("bfloat16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2",
                                                         "float8_e8m0fnu", "float4_e2m1fn")}
    module("neuron_dtypes", static_cast=static_cast, is_float_type=is_float_type, sizeinbytes=sizeinbytes,
           finfo=ml_dtypes.finfo, **{str(t): t for t in X4_TYPES}, **names)
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
    # Two files that the checkout imports and does not have.
    module("test.utils.perf_analysis_private", analyze_trace=Nothing)
    module("test.utils.scripts").__path__ = []
    module("test.utils.scripts.remote_lock_scripts", LockResult=Nothing, LockStatus=Nothing)
