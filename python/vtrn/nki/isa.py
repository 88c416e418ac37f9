"""nki.isa: the instructions. Arguments are checked for kind and named; the rules are the chip's (src/isa)."""

import importlib
import math
import struct
import warnings

import numpy as np

from vtrn.nki import cores, dtypes, tensor
from vtrn.nki._load import ACT, ALU, GPSIMD, OPCODE, SCALAR, SYNC, TENSOR, VECTOR, core
from vtrn.nki.errors import NkiValidationError  # noqa: F401 (a name of the module)
from vtrn.nki.isa_base import (  # noqa: F401 (names of the module)
    ACT_OF, ALU_OF, NkiInstruction, UNARY_OF, _ACCUMULATE, _CHOSEN, _DONE, _DOUBLE_ROW, _FIRST_BITWISE, _NEGATE,
    _RESET_SUMS, _REVERSE0, _REVERSE1, _act, _alu, _alu_and_operand, _dma, _engine, _issue, _matmul, _scalar, dge_mode,
    dma_engine, dma_engine_, engine, get_nc_sub_version, get_nc_version, gpsimd_engine, matmul_perf_mode, nc_version,
    oob_mode, reduce_cmd, scalar_engine, tensor_engine, unknown_engine, vector_engine)
from vtrn.nki.isa_moves import (  # noqa: F401 (names of the module)
    _is_same_view, dma_compute, dma_copy, dma_transpose, implied_copy, memset, nc_stream_shuffle, spread_row, tensor_copy,
    tensor_copy_dynamic_dst, tensor_copy_dynamic_src, tensor_copy_predicated)
from vtrn.nki.isa_mx import nc_matmul_mx, quantize_mx  # noqa: F401 (names of the module)
from vtrn.nki.tensor import VirtualRegister, ndarray


# -- Tensor engine

_ADDS = "adds"  # += of the first generation: to what other instructions have written, too
_ACCUMULATES = {None: -1, False: 0, True: 1, _ADDS: -2}


def transposes(stationary, moving):
    """Whether a matmul with is_transpose is one with an identity. On NeuronCore-v2, which has no such mode, it says only how a
    profiler counts the matmul. Source: nki.isa.nc_matmul, "Transpose mode"."""
    return get_nc_version() >= nc_version.gen3 or math.prod(moving.shape[1:]) == stationary.shape[0]


def nc_matmul(dst, stationary, moving, is_stationary_onezero=False, is_moving_onezero=False, is_transpose=False,
              accumulate=None, tile_position=(), tile_size=(), perf_mode=matmul_perf_mode.none, name=None):
    if is_transpose and transposes(stationary, moving):
        return nc_transpose(dst, stationary)
    if perf_mode is not matmul_perf_mode.none and matmul_perf_mode(perf_mode) is matmul_perf_mode.double_row:
        return _double_row(dst, stationary, moving, accumulate)
    _matmul(dst, stationary, moving, _ACCUMULATES[accumulate], 0)
    return _DONE


def _double_row(dst, stationary, moving, accumulate):
    """Two rows of fp8 a PE: operands are [K, 2, N], and both halves contract."""
    for what, tile in (("stationary", stationary), ("moving", moving)):
        if tile.ndim != 3 or tile.shape[1] != 2:
            raise ValueError(f"nc_matmul: perf_mode double_row takes {what} of shape (K, 2, N), not {tile.shape}")
    _matmul(dst, stationary[:, 0], moving[:, 0], _ACCUMULATES[accumulate], _DOUBLE_ROW)
    _matmul(dst, stationary[:, 1], moving[:, 1], 1, _DOUBLE_ROW)
    return _DONE


_PE_TRANSPOSE, _TRANSPOSE32 = OPCODE["pe_transpose"], OPCODE["transpose32"]


def nc_transpose(dst, data, engine=engine.unknown, name=None):
    on = _engine(engine, TENSOR if dst._is_psum else VECTOR)
    opcode = _PE_TRANSPOSE if on & ~_CHOSEN == TENSOR else _TRANSPOSE32
    _issue(opcode, on, 0, 0, 0, 0, dst, data, None, None, 0, 0, 0)
    return _DONE


# -- Vector engine

_TENSOR_TENSOR = OPCODE["tensor_tensor"]
_POWER = ALU["power"]


def tensor_tensor(dst, data1, data2, op, engine=engine.unknown, name=None, dtype=None):
    alu = _alu(op)
    on = VECTOR
    if engine is not _UNKNOWN:
        on = _engine(engine, VECTOR)
    elif alu == _POWER or (dtypes.IS_32_BIT_INTEGER[data1._dtype] and dtypes.IS_32_BIT_INTEGER[data2._dtype]
                           and alu < _FIRST_BITWISE and not (dst._is_psum or data1._is_psum or data2._is_psum)):
        on = GPSIMD  # exact, where Vector computes in fp32
    _issue(_TENSOR_TENSOR, on, 0, alu, 0, 0, dst, data1, data2, None, 0, 0, 0)
    return _DONE


_UNKNOWN = engine.unknown
_TENSOR_SCALAR = OPCODE["tensor_scalar"]


def tensor_scalar(dst, data, op0, operand0, reverse0=False, op1=None, operand1=None, reverse1=False,
                  engine=engine.unknown, name=None, dtype=None):
    alu0, operand0 = _alu_and_operand(op0, operand0)
    alu1, operand1 = _alu_and_operand(op1, operand1)
    on = _engine(engine, GPSIMD if _POWER in (alu0, alu1) else VECTOR)
    code = data._dtype
    _issue(_TENSOR_SCALAR, on, (_REVERSE0 if reverse0 else 0) | (_REVERSE1 if reverse1 else 0), alu0, alu1, 0, dst,
           data, _scalar(operand0, alu0, code, on), _scalar(operand1, alu1, code, on), 0, 0, 0)
    return _DONE


_SCALAR_TENSOR_TENSOR = OPCODE["scalar_tensor_tensor"]


def scalar_tensor_tensor(dst, data, op0, operand0, op1, operand1, reverse0=False, reverse1=False, name=None,
                         dtype=None):
    alu0 = _alu(op0)
    _issue(_SCALAR_TENSOR_TENSOR, VECTOR, (_REVERSE0 if reverse0 else 0) | (_REVERSE1 if reverse1 else 0), alu0,
           _alu(op1), 0, dst, data, _scalar(operand0, alu0, data._dtype, VECTOR), operand1, 0, 0, 0)
    return _DONE


_TENSOR_REDUCE = OPCODE["tensor_reduce"]


def tensor_reduce(dst, op, data, axis, negate=False, keepdims=False, name=None):
    axes, n = tuple(tensor.axes_of("tensor_reduce", data, axis)), data.ndim
    if axes != tuple(range(n - len(axes), n)) or axes[0] == 0:
        raise ValueError(f"tensor_reduce: axis={axis} of {n} dimensions; it reduces the last free dimensions")
    _issue(_TENSOR_REDUCE, VECTOR, _NEGATE if negate else 0, _alu(op), 0, 0, dst, data, None, None, 0, 0, len(axes))
    return _DONE


_READ, _LOAD = OPCODE["vector_read_accumulator"], OPCODE["vector_load_accumulator"]


def _continues(what, on, dst, goes_on):
    """Whether an instruction goes on from the registers of dst's partitions, as it is asked to: what the kernel has not begun there
    begins new, for it would hold what ran before the kernel."""
    launch = tensor.launch
    here = ((1 << dst.shape[0]) - 1) << dst._first_partition
    begun = launch.begun.get(on, 0)
    launch.begun[on] = begun | here
    if not goes_on or not begun & here:
        return False
    if stale := here & ~begun:
        warnings.warn(f"nki.isa.{what} at {core.place()}: reduce_cmd.reduce goes on in {stale.bit_count()} partitions, from number "
                      f"{(stale & -stale).bit_length() - 1} of SBUF on, in which the kernel has not begun: on the chip they hold what "
                      "ran before it; begin with reduce_cmd.reset_reduce in all partitions", stacklevel=4)
    return True


def _begin_row_results(what, dst, cmd, init, allowed):
    """Brings the registers of the Vector engine into the state that cmd asks for; the flag to add to them."""
    if cmd not in allowed:
        raise ValueError(f"{what}: reduce_cmd {cmd}; it takes {', '.join(c.name for c in allowed)}")
    continues = _continues(what, VECTOR, dst, cmd is _REDUCE)
    if cmd is not _LOAD_REDUCE:
        return _ACCUMULATE if continues else 0
    if init is None:
        raise ValueError(f"{what}: reduce_cmd.load_reduce takes the initial values, too")
    if not isinstance(init, core.Tensor):
        filled = ndarray((dst.shape[0], 1), dtypes.float32)
        memset(filled, float(init))
        init = filled
    _issue(_LOAD, VECTOR, 0, 0, 0, 0, None, init, None, None, 0, 0, 0)
    return _ACCUMULATE


def _end_row_results(dst, negate=False):
    if dst is not None:
        _issue(_READ, VECTOR, _NEGATE if negate else 0, 0, 0, 0, dst, None, None, None, 0, 0, 0)


_TENSOR_SCALAR_REDUCE, _CUMULATIVE = OPCODE["tensor_scalar_reduce"], OPCODE["tensor_scalar_cumulative"]


def tensor_scalar_reduce(dst, data, op0, operand0, reduce_op, reduce_res=None, reverse0=False,
                         reduce_cmd=reduce_cmd.reset_reduce, reduce_init=None, reduce_res_negate=False, name=None):
    if reduce_cmd is _IDLE:  # what NKI 0.2 to 0.6 meant by leaving it out
        reduce_cmd = _RESET_REDUCE
    flags = _begin_row_results("tensor_scalar_reduce", dst, reduce_cmd, reduce_init, _REDUCING)
    alu, operand0 = _alu_and_operand(op0, operand0)
    _issue(_TENSOR_SCALAR_REDUCE, VECTOR, flags | (_REVERSE0 if reverse0 else 0), alu, _alu(reduce_op), 0, dst, data,
           _scalar(operand0, alu, data._dtype, VECTOR), None, 0, 0, 0)
    _end_row_results(reduce_res, reduce_res_negate)
    return _DONE


def tensor_scalar_cumulative(dst, src, op0, op1, imm0, imm1=None, reduce_cmd=reduce_cmd.reset_reduce, name=None):
    flags = _begin_row_results("tensor_scalar_cumulative", dst, reduce_cmd, imm1, _REDUCING)
    alu = _alu(op0)
    _issue(_CUMULATIVE, VECTOR, flags, alu, _alu(op1), 0, dst, src, _scalar(imm0, alu, src._dtype, VECTOR), None, 0, 0,
           0)
    return _DONE


_RANGE_SELECT, _SELECT_REDUCE = OPCODE["range_select"], OPCODE["select_reduce"]
_LEAST = -3.4028234663852886e38


def range_select(dst, on_true_tile, comp_op0, comp_op1, bound0, bound1, reduce_cmd=reduce_cmd.reset_reduce,
                 reduce_res=None, reduce_op=None, range_start=0, on_false_value=_LEAST, name=None):
    if float(np.float32(on_false_value)) != _LEAST:
        raise ValueError(f"range_select: on_false_value={on_false_value}; the chip has the least fp32 alone, {_LEAST}")
    _only_maximum("range_select", reduce_op)
    flags = _begin_row_results("range_select", dst, reduce_cmd, None, (_RESET_REDUCE, _REDUCE, _IDLE))
    _issue(_RANGE_SELECT, VECTOR, flags, _alu(comp_op0), _alu(comp_op1), 0, dst, on_true_tile, bound0, bound1,
           int(range_start), 0, 0)
    _end_row_results(reduce_res)
    return _DONE


def _only_maximum(what, op):
    if op is not None and _alu(op) != ALU["max"]:
        raise ValueError(f"{what}: reduce_op is nl.maximum")


def select_reduce(dst, predicate, on_true, on_false, reduce_res=None, reduce_cmd=reduce_cmd.idle, reduce_op=None,
                  reverse_pred=False, name=None):
    _only_maximum("select_reduce", reduce_op)
    flags = _begin_row_results("select_reduce", dst, reduce_cmd, None, (_IDLE, _RESET_REDUCE, _REDUCE))
    if not isinstance(on_false, core.Tensor):
        on_false = float(on_false)
        core.issue_with(on_false, _SELECT_REDUCE, VECTOR, flags | (_REVERSE0 if reverse_pred else 0), 0, 0, 0, dst,
                        on_true, predicate, None, 0, 0, 0)
    else:
        _issue(_SELECT_REDUCE, VECTOR, flags | (_REVERSE0 if reverse_pred else 0), 0, 0, 0, dst, on_true, predicate,
               on_false, 0, 0, 0)
    if reduce_cmd is not _IDLE:
        _end_row_results(reduce_res)
    return _DONE


_EXPONENTIAL = OPCODE["exponential"]


def exponential(dst, src, max_value=0.0, reduce_res=None, reduce_cmd=reduce_cmd.idle, reduce_init=0.0, name=None):
    flags = _begin_row_results("exponential", dst, reduce_cmd, reduce_init, (_IDLE, *_REDUCING))
    if not isinstance(max_value, core.Tensor):
        max_value = float(max_value)
    _issue(_EXPONENTIAL, VECTOR, flags, 0, 0, 0, dst, src, max_value, None, 0, 0, 0)
    if reduce_cmd is not _IDLE:
        _end_row_results(reduce_res)
    return _DONE


_PARTITION_REDUCE = OPCODE["tensor_partition_reduce"]


def tensor_partition_reduce(dst, op, data, name=None):
    _issue(_PARTITION_REDUCE, GPSIMD, 0, _alu(op), 0, 0, dst, data, None, None, 0, 0, 0)
    return _DONE


_RECIPROCAL = OPCODE["reciprocal"]


def reciprocal(dst, data, name=None):
    _issue(_RECIPROCAL, VECTOR, 0, 0, 0, 0, dst, data, None, None, 0, 0, 0)
    return _DONE


_SCAN = OPCODE["tensor_tensor_scan"]


def tensor_tensor_scan(dst, data0, data1, initial, op0, op1, reverse0=False, reverse1=False, name=None):
    flags = (_REVERSE0 if reverse0 else 0) | (_REVERSE1 if reverse1 else 0)
    first = initial if isinstance(initial, core.Tensor) else None
    core.issue_with(0.0 if first is not None else float(initial), _SCAN, VECTOR, flags, _alu(op0), _alu(op1), 0, dst,
                    data0, data1, first, 0, 0, 0)
    return _DONE


def _two(opcode, on=VECTOR):
    def call(dst, data, name=None):
        _issue(opcode, on, 0, 0, 0, 0, dst, data, None, None, 0, 0, 0)
        return _DONE

    return call


bn_stats, bn_aggr = _two(OPCODE["bn_stats"]), _two(OPCODE["bn_aggr"])
_MAX8 = OPCODE["max8"]


def max8(dst, src, name=None):
    _issue(_MAX8, VECTOR, 0, 0, 0, 0, dst, src, None, None, 0, 0, 0)
    return _DONE


def nc_find_index8(dst, data, vals, name=None):
    _issue(OPCODE["find_index8"], VECTOR, 0, 0, 0, 0, dst, data, vals, None, 0, 0, 0)
    return _DONE


def nc_match_replace8(dst, data, vals, imm, dst_idx=None, name=None):
    if dst_idx is not None:
        _issue(OPCODE["find_index8"], VECTOR, _REVERSE0, 0, 0, 0, dst_idx, data, vals, None, 0, 0, 0)
    core.issue_with(float(imm), OPCODE["match_replace8"], VECTOR, 0, 0, 0, 0, dst, data, vals, None, 0, 0, 0)
    return _DONE


_RNG, _SEED, _DROPOUT = OPCODE["rng"], OPCODE["set_rng_seed"], OPCODE["dropout"]


def rng(dst, engine=engine.vector, name=None):
    """Random bits: GpSimd's and Trainium3's generators are XORWOW; docs/hardware.md says what the others are."""
    on = _engine(engine, VECTOR)
    _note_random("rng", on)
    _issue(_RNG, on, 0, 0, 0, 0, dst, None, None, None, int(on & ~_CHOSEN == VECTOR and _generation() >= 4), 0, 0)
    return _DONE


def _note_random(what, on):
    """A kernel by itself begins with generators that are as new; in a jitted function they are as the programs before it left
    them, and a kernel that seeds none of its own is told."""
    launch, on = tensor.launch, on & ~_CHOSEN
    if not launch.is_recorded or on in launch.seeded:
        return
    launch.seeded.add(on)  # as good as told
    warnings.warn(f"nki.isa.{what} at {core.place()}: random numbers without a seed of the kernel's own: in a jitted function they go "
                  "on from what ran before on the core, so calls differ from each other and from a call of the kernel by itself; "
                  "seed them (nl.random_seed, nisa.set_rng_seed, nisa.rand_set_state)", stacklevel=4)


def set_rng_seed(src_seeds, name=None):
    tensor.launch.seeded.add(VECTOR)
    _issue(_SEED, VECTOR, 0, 0, 0, 0, None, src_seeds, None, None, 0, 0, 0)
    return _DONE


def rand_set_state(src_seeds, engine=engine.gpsimd, name=None):
    on = _engine(engine, GPSIMD)
    tensor.launch.seeded.add(on & ~_CHOSEN)
    _issue(OPCODE["rand_set_state"], on, 0, 0, 0, 0, None, src_seeds, None, None, 0, 0, 0)
    return _DONE


def rand_get_state(dst, engine=engine.gpsimd, name=None):
    _issue(OPCODE["rand_get_state"], _engine(engine, GPSIMD), 0, 0, 0, 0, dst, None, None, None, 0, 0, 0)
    return _DONE


def dropout(dst, data, prob, name=None):
    _note_random("dropout", VECTOR)
    _issue(_DROPOUT, VECTOR, 0, 0, 0, 0, dst, data, prob if isinstance(prob, core.Tensor) else float(prob), None,
           int(_generation() >= 4), 0, 0)
    return _DONE


# -- Scalar engine

_ACTIVATE, _READ_SUMS = OPCODE["activate"], OPCODE["act_read_accumulator"]


def activation(dst, op, data, bias=None, scale=1.0, reduce_op=None, reduce_res=None, reduce_cmd=reduce_cmd.idle,
               name=None, dtype=None, engine=engine.scalar):
    _only_scalar("activation", engine)
    activate(dst, op, data, (scale, bias), (reduce_op, reduce_res, reduce_cmd))
    return _DONE


def _only_scalar(what, asked):
    if asked not in (engine.scalar, engine.unknown, None):
        other = ", and on GpSimd from Trainium3 on, which is not there yet" if asked is engine.gpsimd else ""
        raise NotImplementedError(f"{what}: {asked}; it runs on the Scalar engine{other}")


def activate(dst, op, data, scale_and_bias, reduction, slope=0.0):
    """op(data * scale + bias). reduction: operation, tile of the results or None, reduce_cmd. slope: prelu's."""
    (scale, bias), (reduce_op, reduce_res, cmd) = scale_and_bias, reduction
    if bias is None:
        bias = -0.0  # the one bias that keeps the sign of a zero
    elif not isinstance(bias, core.Tensor):
        bias = float(bias)
        if bias != 0 and _generation() < 3:
            filled = ndarray((data.shape[0], 1), dtypes.float32)  # on v2 a bias is a tile
            memset(filled, bias)
            bias = filled
    if not isinstance(scale, core.Tensor):
        scale = float(scale)
    flags, act = 0, _act(op)
    if cmd is not _IDLE or reduce_res is not None:
        flags = _sum_flags(reduce_op, cmd, dst)
    if act == _SIN:
        _warn_of_wide_angles(data, scale, bias)
    slope_bits = struct.unpack("<I", struct.pack("<f", slope))[0] if slope else 0
    _issue(_ACTIVATE, SCALAR, flags, 0, 0, act, dst, data, scale, bias, slope_bits, 0, 0)
    if reduce_res is not None:
        _issue(_READ_SUMS, SCALAR, 0, 0, 0, 0, reduce_res, None, None, None, 0, 0, 0)


_IDLE, _RESET, _RESET_REDUCE = reduce_cmd.idle, reduce_cmd.reset, reduce_cmd.reset_reduce
_REDUCE, _LOAD_REDUCE = reduce_cmd.reduce, reduce_cmd.load_reduce
_REDUCING = (_RESET_REDUCE, _REDUCE, _LOAD_REDUCE)


_SIN = ACT["sin"]


def _warn_of_wide_angles(data, scale, bias):
    """The chip's sine is a polynomial made for -pi to pi; the vendor's API page gives 27.65 for sin(9)."""
    if not tensor.launch.has_values:
        return
    angle = np.abs(np.asarray(data, np.float64) * np.asarray(scale, np.float64) + np.asarray(bias, np.float64))
    widest = angle.max(initial=0)
    if widest > math.pi * (1 + 1e-5):
        warnings.warn(f"nki.isa.activation(op=nl.sin): angles up to {widest:.6g}; the chip's function is made for -pi to "
                      "pi and is wrong beyond, where this gives the sine; nl.sin takes whole turns off first", stacklevel=4)


def _generation():
    return tensor.session().chip()["gen"]


def _sum_flags(op, cmd, dst):
    """What an activation does to the registers that sum up. A read leaves them: reduce goes on from there. Source:
    nki.isa.activation, its pseudo code. At first they are 0, whatever ran before the kernel."""
    resets = not _continues("activation", SCALAR, dst, cmd in (_REDUCE, _IDLE))
    if cmd is _RESET:
        return _RESET_SUMS
    if cmd is _IDLE:
        return _RESET_SUMS if resets else 0
    if op is None or _alu(op) != ALU["add"]:
        raise ValueError("activation: reduce_op is nl.add")
    return _ACCUMULATE | (_RESET_SUMS if resets else 0)


def activation_reduce(dst, op, data, reduce_op, reduce_res, bias=None, scale=1.0, name=None):
    return activation(dst, op, data, bias, scale, reduce_op, reduce_res, _RESET_REDUCE)


# -- GpSimd engine

_IOTA, _AFFINE_SELECT = OPCODE["iota"], OPCODE["affine_select"]


def _pattern(what, pattern):
    try:
        return tuple((int(step), int(n)) for step, n in pattern)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: pattern={pattern}; it is a list of pairs [step, number], one a free dimension") from None


def iota(dst, pattern, offset=0, channel_multiplier=0, name=None):
    _issue(_IOTA, GPSIMD, 0, 0, 0, 0, dst, None, None, _pattern("iota", pattern), int(offset), channel_multiplier, 0)
    return _DONE


def affine_select(dst, pattern, channel_multiplier, on_true_tile, on_false_value, cmp_op=None, offset=0, name=None):
    alu = ALU["is_equal"] if cmp_op is None else _alu(cmp_op)
    core.issue_with(float(on_false_value), _AFFINE_SELECT, GPSIMD, 0, alu, 0, 0, dst, on_true_tile, None,
                    _pattern("affine_select", pattern), int(offset), int(channel_multiplier), 0)
    return _DONE


_N_GATHER, _LOCAL_GATHER, _NONZERO = OPCODE["nc_n_gather"], OPCODE["local_gather"], OPCODE["nonzero_with_count"]


def nc_n_gather(dst, data, indices, name=None):
    _issue(_N_GATHER, GPSIMD, 0, 0, 0, 0, dst, data, indices, None, 0, 0, 0)
    return _DONE


def local_gather(dst, src_buffer, index, num_elem_per_idx=1, num_valid_indices=None, name=None):
    if num_valid_indices is None:
        num_valid_indices = 16 * math.prod(index.shape[1:])
    _issue(_LOCAL_GATHER, GPSIMD, 0, 0, 0, 0, dst, src_buffer, index, None, int(num_elem_per_idx),
           int(num_valid_indices), 0)
    return _DONE


def nonzero_with_count(dst, src, index_offset=0, padding_val=-1, name=None):
    _issue(_NONZERO, GPSIMD, 0, 0, 0, 0, dst, src, None, None, int(index_offset), int(padding_val), 0)
    return _DONE


# -- two cores

def sendrecv(src, dst, send_to_rank, recv_from_rank, pipe_id, dma_engine=dma_engine.dma, name=None,
             use_gpsimd_dma=False):
    me = tensor.launch.program[0] if tensor.launch.program else 0
    for what, rank in (("send_to_rank", send_to_rank), ("recv_from_rank", recv_from_rank)):
        if int(rank) != 1 - me:
            raise ValueError(f"sendrecv: {what}={rank}: core {me} exchanges with core {1 - me}")
    if dst._dtype != src._dtype or dst.shape[0] != src.shape[0] or math.prod(dst.shape) != math.prod(src.shape):
        raise ValueError(f"sendrecv: dst {dst.shape} {dst.dtype}, src {src.shape} {src.dtype}: both are alike")
    if not (src.buffer is tensor.sbuf and dst.buffer is tensor.sbuf):
        raise ValueError(f"sendrecv: src in {src.buffer.value}, dst in {dst.buffer.value}: both are in SBUF")
    cores.meet("sendrecv", ("sendrecv", int(pipe_id)), (src, dst), _exchange)
    return _DONE


def _exchange(first, second):
    running = tensor.session()
    for me, (to, source) in enumerate(((first[1], second[0]), (second[1], first[0]))):
        running.set_core(me)
        _dma(to, source, SYNC, 0)


def core_barrier(data, cores, engine=engine.gpsimd, name=None):
    if tuple(cores) != (0, 1):
        raise ValueError(f"core_barrier: cores={cores}; it is for (0, 1)")
    _barrier("core_barrier", ("core_barrier",), None, lambda first, second: None)
    return _DONE


_barrier = cores.meet


# -- registers

def register_alloc(x=None):
    return VirtualRegister(x or 0)


def register_move(dst, src=None, imm=None):
    dst.value = int(src if src is not None else imm)


def register_load(dst, src):
    dst.value = tensor.read_number("register_load: src", src)


def register_store(dst, src):
    from vtrn.nki import scalars

    scalars.put_number(dst, int(src))


# Of modules that are made of this one.
_COMPOSED = {"activate2": "isa_more", "rand2": "isa_more", "sequence_bounds": "isa_more", "topk": "isa_topk",
             "NkiScalar": "scalars", "scalar_load": "scalars", "scalar_store": "scalars"}


def __getattr__(name):
    if name in _COMPOSED:
        return getattr(importlib.import_module("vtrn.nki." + _COMPOSED[name]), name)
    raise AttributeError(f"module 'nki.isa' has no attribute {name!r}")


class constants:
    dge_mode, oob_mode, matmul_perf_mode = dge_mode, oob_mode, matmul_perf_mode
    reduce_cmd, engine, dma_engine = reduce_cmd, engine, dma_engine
