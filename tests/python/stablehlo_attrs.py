"""The attributes of StableHLO operations as jaxlib's MLIR holds them, in the words of graph_print.

Names and defaults are those of the StableHLO specification. An operation has all of its attributes
here or none is known for it: what graph_print shows must then be nothing, too."""

import re

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

DIRECTIONS = ["EQ", "NE", "GE", "GT", "LE", "LT"]


class Attrs:
    def __init__(self, op):
        self.op, self.a = op, op.attributes

    def has(self, name):
        return name in self.a

    def ints(self, name, default=None):
        if not self.has(name):
            return list(default)
        a = self.a[name]
        for kind in (ir.DenseI64ArrayAttr, ir.DenseBoolArrayAttr):
            try:
                return [int(v) for v in kind(a)]
            except (ValueError, TypeError):
                pass
        return np.asarray(ir.DenseIntElementsAttr(a)).reshape(-1).tolist()

    def pairs(self, name, rank):
        if not self.has(name):
            return np.zeros((rank, 2), int)
        a = ir.DenseIntElementsAttr(self.a[name])
        return np.array([int(v) for v in a]).reshape(a.type.shape) if not a.is_splat else \
            np.full(a.type.shape, int(a.get_splat_value().value))

    def int(self, name, default=0):
        return ir.IntegerAttr(self.a[name]).value if self.has(name) else default

    def flag(self, name):
        return int(ir.BoolAttr(self.a[name]).value) if self.has(name) else 0

    def value(self, name, kind, values):
        return values.index(kind(self.a[name]).value)

    def precision(self):
        if not self.has("precision_config"):
            return 0
        return max([["DEFAULT", "HIGH", "HIGHEST"].index(hlo.PrecisionAttr(p).value)
                    for p in ir.ArrayAttr(self.a["precision_config"])], default=0)

    def rank(self, i=0):
        return ir.RankedTensorType(self.op.operands[i].type).rank


def convolution(a):
    d = hlo.ConvDimensionNumbers(a.a["dimension_numbers"])
    n = len(d.input_spatial_dimensions)
    pad = a.pairs("padding", n)
    return dict(
        lhs_batch=d.input_batch_dimension, lhs_feature=d.input_feature_dimension,
        lhs_spatial=d.input_spatial_dimensions, rhs_in=d.kernel_input_feature_dimension,
        rhs_out=d.kernel_output_feature_dimension, rhs_spatial=d.kernel_spatial_dimensions,
        out_batch=d.output_batch_dimension, out_feature=d.output_feature_dimension,
        out_spatial=d.output_spatial_dimensions, stride=a.ints("window_strides", [1] * n),
        pad_low=pad[:, 0], pad_high=pad[:, 1], lhs_dilation=a.ints("lhs_dilation", [1] * n),
        rhs_dilation=a.ints("rhs_dilation", [1] * n),
        reversal=a.ints("window_reversal", [0] * n), feature_groups=a.int("feature_group_count"),
        batch_groups=a.int("batch_group_count"), precision=a.precision())


def window(a):
    n = a.rank()
    pad = a.pairs("padding", n)
    ones = [1] * n
    return dict(
        window=a.ints("window_dimensions", ones), stride=a.ints("window_strides", ones),
        base_dilation=a.ints("base_dilations", ones), pad_low=pad[:, 0], pad_high=pad[:, 1],
        window_dilation=a.ints("window_dilations", ones))


def select_and_scatter(a):
    """select: the comparison of a region that is one comparison of its parameters, else EQ."""
    out = window(a)
    ops = [o.operation for o in a.op.regions[0].blocks[0].operations]
    out["select"] = 0
    if len(ops) == 2 and ops[0].name == "stablehlo.compare":
        out["select"] = Attrs(ops[0]).value("comparison_direction", hlo.ComparisonDirectionAttr,
                                            DIRECTIONS)
    return out


def gather(a):
    d = hlo.GatherDimensionNumbers(a.a["dimension_numbers"])
    return dict(
        offset_dims=d.offset_dims, collapsed=d.collapsed_slice_dims,
        operand_batching=d.operand_batching_dims, indices_batching=d.start_indices_batching_dims,
        start_index_map=d.start_index_map, slice_sizes=a.ints("slice_sizes"),
        index_vector_dim=d.index_vector_dim, is_sorted=a.flag("indices_are_sorted"))


def scatter(a):
    d = hlo.ScatterDimensionNumbers(a.a["scatter_dimension_numbers"])
    return dict(
        update_window=d.update_window_dims, inserted_window=d.inserted_window_dims,
        input_batching=d.input_batching_dims, indices_batching=d.scatter_indices_batching_dims,
        scatter_dims_to_operand=d.scattered_dims_to_operand_dims,
        index_vector_dim=d.index_vector_dim, is_sorted=a.flag("indices_are_sorted"),
        is_unique=a.flag("unique_indices"))


def dot_general(a):
    d = hlo.DotDimensionNumbers(a.a["dot_dimension_numbers"])
    return dict(
        lhs_batch=d.lhs_batching_dimensions, rhs_batch=d.rhs_batching_dimensions,
        lhs_contract=d.lhs_contracting_dimensions, rhs_contract=d.rhs_contracting_dimensions,
        precision=a.precision())


def compare(a):
    kinds = ["FLOAT", "TOTALORDER", "SIGNED", "UNSIGNED"]
    kind = "NOTYPE"
    if a.has("compare_type"):
        kind = kinds[a.value("compare_type", hlo.ComparisonTypeAttr, kinds)]
    direction = hlo.ComparisonDirectionAttr(a.a["comparison_direction"]).value
    return {direction: None, kind: None}


def batch_norm(a):
    # the literal's own digits: MLIR prints the shortest that give the fp32 back
    return dict(epsilon="%g" % ir.FloatAttr(a.a["epsilon"]).value,
                feature_index=a.int("feature_index"))


def triangular_solve(a):
    kinds = ["TRANSPOSE_INVALID", "NO_TRANSPOSE", "TRANSPOSE", "ADJOINT"]
    return dict(left_side=a.flag("left_side"), lower=a.flag("lower"),
                unit_diagonal=a.flag("unit_diagonal"),
                transpose_a=a.value("transpose_a", hlo.TransposeAttr, kinds))


def collective(a, dim=0, concat_dim=0, split_count=0, global_ids="use_global_device_ids"):
    name = "source_target_pairs" if a.has("source_target_pairs") else "replica_groups"
    groups = a.pairs(name, 0)
    channel = hlo.ChannelHandle(a.a["channel_handle"]).handle if a.has("channel_handle") else 0
    return dict(
        channel_id=channel, dim=dim, concat_dim=concat_dim, split_count=split_count,
        use_global_ids=int(a.has(global_ids)), n_groups=groups.shape[0], groups=groups.reshape(-1))


def dims(name, is_one=False):
    return lambda a: {"dims": [a.int(name)] if is_one else a.ints(name)}


ATTRS = {
    "convolution": convolution,
    "reduce_window": window,
    "select_and_scatter": select_and_scatter,
    "gather": gather,
    "scatter": scatter,
    "dot_general": dot_general,
    "compare": compare,
    "batch_norm_training": batch_norm,
    "batch_norm_inference": batch_norm,
    "batch_norm_grad": batch_norm,
    "triangular_solve": triangular_solve,
    "iota": dims("iota_dimension", True),
    "concatenate": dims("dimension", True),
    "broadcast_in_dim": dims("broadcast_dimensions"),
    "transpose": dims("permutation"),
    "reverse": dims("dimensions"),
    "reduce": dims("dimensions"),
    "map": dims("dimensions"),
    "dynamic_slice": dims("slice_sizes"),
    "slice": lambda a: dict(start=a.ints("start_indices"), limit=a.ints("limit_indices"),
                            stride=a.ints("strides")),
    "pad": lambda a: dict(low=a.ints("edge_padding_low"), high=a.ints("edge_padding_high"),
                          interior=a.ints("interior_padding")),
    "sort": lambda a: dict(dimension=a.int("dimension", -1), is_stable=a.flag("is_stable")),
    "fft": lambda a: dict(type=a.value("fft_type", hlo.FftTypeAttr,
                                       ["FFT", "IFFT", "RFFT", "IRFFT"]),
                          length=a.ints("fft_length")),
    "rng_bit_generator": lambda a: dict(algorithm=a.value(
        "rng_algorithm", hlo.RngAlgorithmAttr, ["DEFAULT", "THREE_FRY", "PHILOX"])),
    "reduce_precision": lambda a: dict(exponent_bits=a.int("exponent_bits"),
                                       mantissa_bits=a.int("mantissa_bits")),
    "cholesky": lambda a: dict(flag=a.flag("lower")),
    "custom_call": lambda a: {"@" + ir.StringAttr(a.a["call_target_name"]).value: None,
                              "has_side_effect": a.flag("has_side_effect")},
    "all_reduce": collective,
    "all_gather": lambda a: collective(a, a.int("all_gather_dim")),
    "reduce_scatter": lambda a: collective(a, a.int("scatter_dimension")),
    "all_to_all": lambda a: collective(a, a.int("split_dimension"), a.int("concat_dimension"),
                                       a.int("split_count")),
    "collective_permute": collective,
    "collective_broadcast": collective,
}


def token(name, value):
    if value is None:
        return name
    if isinstance(value, (int, str)):
        return f"{name}={value}"
    return f"{name}=[{','.join(str(int(v)) for v in value)}]"


def wanted(op):
    """What graph_print writes for the operation's attributes, sorted."""
    read = ATTRS.get(op.name.removeprefix("stablehlo."))
    return tuple(sorted(token(*item) for item in read(Attrs(op)).items())) if read else ()


def printed(text):
    """The same of the text between name and type on a line of graph_print. Reducers are derived,
    not read; constants have their own test."""
    return tuple(sorted(a for a in text.split() if not re.match(r"%|reducer=|dense<|splat<", a)))
