"""What the functions of nki.isa share: names of engines and commands, and how arguments become numbers."""

import enum

from vtrn.nki import dtypes, tensor
from vtrn.nki._load import ALU, GPSIMD, SCALAR, SYNC, TENSOR, VECTOR, core
from vtrn.nki.tensor import VirtualRegister

_issue, _dma, _matmul, _memset, _shuffle = core.issue, core.dma, core.matmul, core.memset, core.shuffle


class engine(enum.Enum):
    unknown = 0
    tensor = 1
    scalar = 2
    gpsimd = 3
    dma = 4
    vector = 5
    sync = 6


unknown_engine, tensor_engine, scalar_engine = engine.unknown, engine.tensor, engine.scalar
gpsimd_engine, vector_engine, dma_engine_ = engine.gpsimd, engine.vector, engine.dma
_ENGINES = {engine.tensor: TENSOR, engine.scalar: SCALAR, engine.gpsimd: GPSIMD, engine.vector: VECTOR,
            engine.sync: SYNC}


class reduce_cmd(enum.Enum):
    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class dge_mode(enum.Enum):
    unknown = 0
    swdge = 1
    hwdge = 2
    none = 3


class oob_mode(enum.Enum):
    error = 0
    skip = 1


class matmul_perf_mode(enum.Enum):
    none = "none"
    double_row = "double_row"


class nc_version(enum.IntEnum):
    gen2 = 2
    gen3 = 3
    gen4 = 4


class dma_engine(enum.Enum):
    dma = 1
    gpsimd_dma = 2


class NkiInstruction:
    """What an instruction returns. The virtual chip keeps every dependence of data by itself."""

    def depends_on(self, *producers):
        return self


_DONE = NkiInstruction()
_REVERSE0, _REVERSE1, _NEGATE, _ACCUMULATE, _OOB_SKIP, _DOUBLE_ROW, _RESET_SUMS = 2, 4, 8, 1, 32, 256, 1024
_FIRST_BITWISE = ALU["bitwise_and"]

# Filled by nki.language, whose functions name operations too.
ALU_OF, ACT_OF = {}, {}
UNARY_OF = {}  # operations of one operand: the ALU's, and what stands for the second


def _alu(op):
    if op is None:
        return 0
    try:
        return ALU_OF[op]
    except (KeyError, TypeError):
        raise ValueError(f"{getattr(op, '__name__', op)!r} is no operation of the Vector engine's ALU") from None


def _alu_and_operand(op, operand):
    """An operation of one operand has None or 0 for the second."""
    if op in UNARY_OF and not isinstance(operand, core.Tensor) and not operand:
        return UNARY_OF[op]
    return _alu(op), operand


def _act(op):
    try:
        return ACT_OF[op]
    except (KeyError, TypeError):
        raise ValueError(f"{getattr(op, '__name__', op)!r} is no function of the Scalar engine") from None


# What the number of an engine has besides; src/nki/python/ext_call.c has the same numbers.
_CHOSEN, _IMPLIED = 0x80, 0x40


def _engine(given, default):
    """The engine's number, marked where the kernel chooses it: no other engine runs the instruction then."""
    if given is engine.unknown or given is None:
        return default
    try:
        return _ENGINES[given] | _CHOSEN
    except (KeyError, TypeError):
        raise ValueError(f"engine {given!r}: this instruction runs on no such engine") from None


def _scalar(operand, alu, data_code, on):
    """A per-partition operand: a tile, a float, or raw bits where the operation works on bits."""
    if operand is None or isinstance(operand, core.Tensor):
        return operand
    if isinstance(operand, VirtualRegister):
        operand = operand.value
    if alu >= _FIRST_BITWISE or (on & ~_CHOSEN == GPSIMD and dtypes.IS_32_BIT_INTEGER[data_code]):
        return int(operand)
    return float(operand)


def get_nc_version():
    return nc_version(tensor.session().chip()["gen"])


def get_nc_sub_version():
    return 0
