"""Data types: NKI's names for the chip's and NumPy's."""

import ml_dtypes
import numpy as np

from vtrn.nki._load import DTYPE

# NKI's name, the chip's, NumPy's
_ROWS = (
    ("bool_", "pred", np.bool_),
    ("int8", "int8", np.int8),
    ("int16", "int16", np.int16),
    ("int32", "int32", np.int32),
    ("int64", "int64", np.int64),  # of scalars: moved by DMA, and no engine's
    ("uint8", "uint8", np.uint8),
    ("uint16", "uint16", np.uint16),
    ("uint32", "uint32", np.uint32),
    ("float16", "fp16", np.float16),
    ("float32", "fp32", np.float32),
    ("bfloat16", "bf16", ml_dtypes.bfloat16),
    ("tfloat32", "tf32", np.float32),
    ("float8_e4m3", "fp8e4m3", ml_dtypes.float8_e4m3),
    ("float8_e4m3fn", "fp8e4m3fn", ml_dtypes.float8_e4m3fn),
    ("float8_e5m2", "fp8e5m2", ml_dtypes.float8_e5m2),
    ("float8_e8m0fnu", "fp8e8m0fnu", ml_dtypes.float8_e8m0fnu),
    # Four narrow floats in one element, the first in the lowest bits; NumPy has the bits.
    ("float8_e4m3fn_x4", "fp8e4m3fn_x4", np.uint32),
    ("float8_e5m2_x4", "fp8e5m2_x4", np.uint32),
    ("float4_e2m1fn_x4", "fp4e2m1fn_x4", np.uint16),
)


class DType(str):
    """A data type: its name, which NumPy takes too, and which equals NumPy's type of that name."""

    __slots__ = ()

    def __eq__(self, other):
        if isinstance(other, str):
            return str.__eq__(self, other)
        if other is None:
            return False  # which NumPy takes for float64
        try:
            dtype = np.dtype(other)
            return str.__eq__(self, dtype.names[0] if dtype in _packed else dtype.name)
        except TypeError:
            return False

    def __ne__(self, other):
        return not self == other

    __hash__ = str.__hash__

    @property
    def itemsize(self):
        return np.dtype(numpy_of(code_of(self))).itemsize


by_code = [None] * len(DTYPE)  # DType by the chip's number
_numpy = [None] * len(DTYPE)
codes = {}  # whatever names a type -> the chip's number
_packed = {}  # NumPy's type of a packed one, if an array is to say which it is: a field of that name -> its name
for _name, _chip, _type in _ROWS:
    _dtype = DType("bool" if _name == "bool_" else _name)
    globals()[_name] = _dtype
    by_code[DTYPE[_chip]] = _dtype
    _numpy[DTYPE[_chip]] = np.dtype(_type)
    codes[_name] = codes[_dtype] = DTYPE[_chip]
    if _name.endswith("_x4"):
        _fields = np.dtype([(_name, _type)])
        codes[_fields], _packed[_fields] = DTYPE[_chip], _dtype
    elif _name != "tfloat32":
        codes[_type] = codes[np.dtype(_type)] = DTYPE[_chip]

X4_TYPES = tuple(d for d in by_code if d is not None and d.endswith("_x4"))

IS_FLOAT = [d is not None and "float" in d and not d.endswith("_x4") for d in by_code]
IS_32_BIT_INTEGER = [d in ("int32", "uint32") for d in by_code]
IS_BITS = [d is not None and (d.endswith("_x4") or "e8m0" in d) for d in by_code]  # no engine computes with them


def code_of(dtype):
    """The chip's number of a type, whatever names it."""
    try:
        return codes[dtype]
    except (KeyError, TypeError):
        pass
    try:
        code = codes[np.dtype(dtype)]
    except (KeyError, TypeError):
        raise ValueError(f"Unsupported dtype: {dtype!r}; NKI has {', '.join(d for d in by_code if d)}") from None
    try:
        codes[dtype] = code
    except TypeError:
        pass
    return code


def numpy_of(code):
    return _numpy[code]


results_say_packed = False  # or have the bits of a packed type alone


def result_type(code):
    """NumPy's type of what a kernel returns."""
    return packed_types()[by_code[code]] if results_say_packed and by_code[code] in X4_TYPES else _numpy[code]


def packed_types():
    """NumPy's types of arrays that say which packed type they hold, by its name: of one field, the bits."""
    return {str(name): fields for fields, name in _packed.items()}
