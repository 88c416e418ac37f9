"""Every attribute of every operation that has some, with values that are not the defaults and differ
from each other: what the reader makes of the artifact against what jaxlib's MLIR reads from it."""

import numpy as np
import pytest
from jax._src.interpreters import mlir as jax_mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from common import SEED
from stablehlo_attrs import ATTRS
from test_vhlo import check_graph, dump, inlined_ops, parse, pytestmark  # noqa: F401


def region(op, dtype="f32", ends="stablehlo.return"):
    t = f"tensor<{dtype}>"
    return f"""({{ ^bb0(%p: {t}, %q: {t}):
        %r = {op} %p, %q : {t}
        {ends} %r : {t} }})"""


def compare_region(direction, dtype="f32", more=""):
    return f"""({{ ^bb0(%p: tensor<{dtype}>, %q: tensor<{dtype}>{more}):
        %r = stablehlo.compare {direction}, %p, %q : (tensor<{dtype}>, tensor<{dtype}>) -> tensor<i1>
        stablehlo.return %r : tensor<i1> }})"""


# operation: (types of the parameters %0, %1, ...; the operation; types of its results)
CASES = {
    "slice": (["6x9xf32"], '''"stablehlo.slice"(%0) {start_indices = array<i64: 1, 2>,
        limit_indices = array<i64: 5, 9>, strides = array<i64: 2, 3>}''', ["2x3xf32"]),
    "pad": (["3x4xf32", "f32"], '''"stablehlo.pad"(%0, %1) {edge_padding_low = array<i64: 1, -1>,
        edge_padding_high = array<i64: 2, 3>, interior_padding = array<i64: 1, 0>}''', ["8x6xf32"]),
    "transpose": (["2x3x4xf32"], '"stablehlo.transpose"(%0) {permutation = array<i64: 2, 0, 1>}',
                  ["4x2x3xf32"]),
    "reverse": (["2x3x4xf32"], '"stablehlo.reverse"(%0) {dimensions = array<i64: 0, 2>}',
                ["2x3x4xf32"]),
    "iota": ([], '"stablehlo.iota"() {iota_dimension = 1 : i64}', ["3x4xi32"]),
    "concatenate": (["2x3xf32", "2x4xf32"],
                    '"stablehlo.concatenate"(%0, %1) {dimension = 1 : i64}', ["2x7xf32"]),
    "broadcast_in_dim": (["3x1xf32"],
                         '"stablehlo.broadcast_in_dim"(%0) {broadcast_dimensions = '
                         'array<i64: 2, 0>}', ["5x2x3xf32"]),
    "dynamic_slice": (["6x7xf32", "i32", "i32"],
                      '"stablehlo.dynamic_slice"(%0, %1, %2) {slice_sizes = array<i64: 2, 3>}',
                      ["2x3xf32"]),
    "reduce": (["2x3x4xf32", "f32"], '"stablehlo.reduce"(%0, %1) ' + region("stablehlo.multiply") +
               " {dimensions = array<i64: 0, 2>}", ["3xf32"]),
    "map": (["2x3xf32", "2x3xf32"], '"stablehlo.map"(%0, %1) ' + region("stablehlo.subtract") +
            " {dimensions = array<i64: 0, 1>}", ["2x3xf32"]),
    "reduce_window": (["4x9xf32", "f32"], '"stablehlo.reduce_window"(%0, %1) ' +
                      region("stablehlo.add") + """ {window_dimensions = array<i64: 2, 3>,
        window_strides = array<i64: 3, 2>, base_dilations = array<i64: 2, 1>,
        window_dilations = array<i64: 1, 2>, padding = dense<[[1, 0], [2, 3]]> : tensor<2x2xi64>}""",
                      ["3x5xf32"]),
    "select_and_scatter": (["4x6xf32", "3x3xf32", "f32"],
                           '"stablehlo.select_and_scatter"(%0, %1, %2) (' +
                           compare_region("GT")[1:-1] + ", " + region("stablehlo.add")[1:-1] +
                           """) {window_dimensions = array<i64: 2, 3>,
        window_strides = array<i64: 2, 2>,
        padding = dense<[[1, 1], [0, 1]]> : tensor<2x2xi64>}""", ["4x6xf32"]),
    "compare": (["3xf32", "3xf32"], '''"stablehlo.compare"(%0, %1) {
        comparison_direction = #stablehlo<comparison_direction LE>,
        compare_type = #stablehlo<comparison_type TOTALORDER>}''', ["3xi1"]),
    "sort": (["3x4xf32", "3x4xi32"], '"stablehlo.sort"(%0, %1) ' + compare_region(
        "GE", more=", %s: tensor<i32>, %t: tensor<i32>") +
        " {dimension = 0 : i64, is_stable = true}", ["3x4xf32", "3x4xi32"]),
    "fft": (["3x8xf32"], '''"stablehlo.fft"(%0) {fft_type = #stablehlo<fft_type RFFT>,
        fft_length = array<i64: 8>}''', ["3x5xcomplex<f32>"]),
    "rng_bit_generator": (["2xui64"], '''"stablehlo.rng_bit_generator"(%0) {
        rng_algorithm = #stablehlo<rng_algorithm PHILOX>}''', ["2xui64", "5xui32"]),
    "reduce_precision": (["3xf32"], '''"stablehlo.reduce_precision"(%0) {exponent_bits = 5 : i32,
        mantissa_bits = 2 : i32}''', ["3xf32"]),
    "cholesky": (["3x3xf32"], '"stablehlo.cholesky"(%0) {lower = true}', ["3x3xf32"]),
    "triangular_solve": (["3x3xf32", "3x2xf32"], '''"stablehlo.triangular_solve"(%0, %1) {
        left_side = true, lower = false, unit_diagonal = true,
        transpose_a = #stablehlo<transpose ADJOINT>}''', ["3x2xf32"]),
    "dot_general": (["2x3x4x5xf32", "5x3x2x6xf32"], '''"stablehlo.dot_general"(%0, %1) {
        dot_dimension_numbers = #stablehlo.dot<lhs_batching_dimensions = [1, 0],
          rhs_batching_dimensions = [1, 2], lhs_contracting_dimensions = [3],
          rhs_contracting_dimensions = [0]>,
        precision_config = [#stablehlo<precision DEFAULT>, #stablehlo<precision HIGH>]}''',
                    ["3x2x4x6xf32"]),
    "convolution": (["5x4x7x2xf32", "3x6x2x4xf32"], '''"stablehlo.convolution"(%0, %1) {
        dimension_numbers = #stablehlo.conv<[1, f, 0, b]x[1, o, 0, i]->[0, b, f, 1]>,
        window_strides = array<i64: 2, 1>, padding = dense<[[1, 2], [0, 3]]> : tensor<2x2xi64>,
        lhs_dilation = array<i64: 1, 2>, rhs_dilation = array<i64: 2, 1>,
        window_reversal = array<i1: true, false>, feature_group_count = 1 : i64,
        batch_group_count = 2 : i64, precision_config = [#stablehlo<precision HIGHEST>,
        #stablehlo<precision DEFAULT>]}''', None),
    "gather": (["3x5x7x2xf32", "4x2x3xi64"], '''"stablehlo.gather"(%0, %1) {
        dimension_numbers = #stablehlo.gather<offset_dims = [0, 2], collapsed_slice_dims = [1],
          operand_batching_dims = [0], start_indices_batching_dims = [2],
          start_index_map = [2, 1], index_vector_dim = 1>,
        slice_sizes = array<i64: 1, 1, 6, 2>, indices_are_sorted = true}''', ["6x4x2x3xf32"]),
    "scatter": (["3x5x7x2xf32", "4x2x3xi64", "6x4x2x3xf32"], '"stablehlo.scatter"(%0, %1, %2) ' +
                region("stablehlo.maximum") + """ {
        scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [0, 2],
          inserted_window_dims = [1], input_batching_dims = [0],
          scatter_indices_batching_dims = [2], scatter_dims_to_operand_dims = [2, 1],
          index_vector_dim = 1>, indices_are_sorted = true, unique_indices = true}""",
                ["3x5x7x2xf32"]),
    "batch_norm_training": (["4x3x2xf32", "3xf32", "3xf32"],
                            '"stablehlo.batch_norm_training"(%0, %1, %2) {epsilon = 1.0e-3 : f32, '
                            "feature_index = 1 : i64}", ["4x3x2xf32", "3xf32", "3xf32"]),
    "batch_norm_inference": (["4x3x2xf32"] + ["2xf32"] * 4,
                             '"stablehlo.batch_norm_inference"(%0, %1, %2, %3, %4) '
                             "{epsilon = 0.125 : f32, feature_index = 2 : i64}", ["4x3x2xf32"]),
    "batch_norm_grad": (["4x3x2xf32"] + ["4xf32"] * 3 + ["4x3x2xf32"],
                        '"stablehlo.batch_norm_grad"(%0, %1, %2, %3, %4) '
                        "{epsilon = 7.5e-5 : f32, feature_index = 0 : i64}",
                        ["4x3x2xf32", "4xf32", "4xf32"]),
    "custom_call": (["3xf32"], '''"stablehlo.custom_call"(%0) {call_target_name = "their.call",
        has_side_effect = true}''', ["3xf32"]),
    "all_reduce": (["3xf32"], '"stablehlo.all_reduce"(%0) ' + region("stablehlo.add") + """ {
        replica_groups = dense<[[0, 2], [1, 3]]> : tensor<2x2xi64>, use_global_device_ids,
        channel_handle = #stablehlo.channel_handle<handle = 7, type = 1>}""", ["3xf32"]),
    "all_gather": (["3x2xf32"], '''"stablehlo.all_gather"(%0) {all_gather_dim = 1 : i64,
        replica_groups = dense<[[0, 1, 2]]> : tensor<1x3xi64>,
        channel_handle = #stablehlo.channel_handle<handle = 5, type = 0>}''', ["3x6xf32"]),
    "reduce_scatter": (["3x6xf32"], '"stablehlo.reduce_scatter"(%0) ' + region("stablehlo.add") +
                       """ {scatter_dimension = 1 : i64,
        replica_groups = dense<[[1, 0, 2]]> : tensor<1x3xi64>,
        channel_handle = #stablehlo.channel_handle<handle = 4, type = 0>}""", ["3x2xf32"]),
    "all_to_all": (["4x6xf32"], '''"stablehlo.all_to_all"(%0) {split_dimension = 1 : i64,
        concat_dimension = 0 : i64, split_count = 2 : i64,
        replica_groups = dense<[[0, 1], [3, 2]]> : tensor<2x2xi64>,
        channel_handle = #stablehlo.channel_handle<handle = 3, type = 0>}''', ["8x3xf32"]),
    "collective_permute": (["3xf32"], '''"stablehlo.collective_permute"(%0) {
        source_target_pairs = dense<[[0, 1], [1, 2], [3, 0]]> : tensor<3x2xi64>,
        channel_handle = #stablehlo.channel_handle<handle = 2, type = 0>}''', ["3xf32"]),
    "collective_broadcast": (["3xf32"], '''"stablehlo.collective_broadcast"(%0) {
        replica_groups = dense<[[2, 1, 0]]> : tensor<1x3xi64>,
        channel_handle = #stablehlo.channel_handle<handle = 6, type = 0>}''', ["3xf32"]),
}


def tuple_of(types):
    return "(" + ", ".join(f"tensor<{t}>" for t in types) + ")"


def conv_result(lhs, rhs, numbers, stride, pads, dilations, groups):
    """Type of the result of a convolution; plain arithmetic of the specification."""
    (lb, lf, ls), (ri, ro, rs), (ob, of, os_) = numbers
    out = [0] * len(lhs)
    out[ob], out[of] = lhs[lb] // groups[1], rhs[ro]
    for d, (i, k, o) in enumerate(zip(ls, rs, os_)):
        base = (lhs[i] - 1) * dilations[0][d] + 1 + sum(pads[d])
        out[o] = (base - ((rhs[k] - 1) * dilations[1][d] + 1)) // stride[d] + 1
    return "x".join(map(str, out)) + "xf32"


def program(name):
    args, op, results = CASES[name]
    if name == "convolution":
        results = [conv_result([5, 4, 7, 2], [3, 6, 2, 4], ((3, 1, (2, 0)), (3, 1, (2, 0)),
                                                            (1, 2, (0, 3))),
                               (2, 1), ((1, 2), (0, 3)), ((1, 2), (2, 1)), (1, 2))]
    return results, args, op


def serialize(text):
    with jax_mlir.make_ir_context():
        return stablehlo.serialize_portable_artifact_str(
            str(ir.Module.parse(text)), stablehlo.get_current_version())


def module_of(args, op, results):
    n = len(results)
    for i in range(len(args))[::-1]:
        op = op.replace(f"%{i}", f"%a{i}")
    name = "%z" if n == 1 else f"%z:{n}"
    values = "%z" if n == 1 else ", ".join(f"%z#{i}" for i in range(n))
    params = ", ".join(f"%a{i}: tensor<{t}>" for i, t in enumerate(args))
    types = ", ".join(f"tensor<{t}>" for t in results)
    return f"""func.func public @main({params}) -> ({types}) {{
      {name} = {op} : {tuple_of(args)} -> {tuple_of(results) if n > 1 else types}
      return {values} : {types} }}"""


@pytest.mark.parametrize("name", CASES)
def test_unusual_attributes_are_read_as_jaxlib_reads_them(name, tmp_path):
    results, args, op = program(name)
    data = serialize(module_of(args, op, results))
    text = dump("graph", data, tmp_path)
    assert not text.startswith("ERROR"), text
    assert check_graph(data, text) > 0
    context, module = parse(data)
    with context:
        found = [attrs for kind, _, attrs in inlined_ops(module) if kind == f"stablehlo.{name}"]
    assert found and found[0], "the oracle saw the operation and its attributes"


def test_every_operation_with_attributes_has_a_case():
    assert set(CASES) == set(ATTRS)


def random_convolution(rng):
    """(types of the operands, the operation, type of its result)"""
    n = int(rng.integers(1, 4))
    order = [rng.permutation(n + 2).tolist() for _ in range(3)]
    numbers = [(o[0], o[1], o[2:]) for o in order]
    fg, bg = [(1, 1), (3, 1), (1, 2), (6, 1)][rng.integers(4)]
    lhs, rhs = [0] * (n + 2), [0] * (n + 2)
    lhs[numbers[0][0]], lhs[numbers[0][1]] = 4, 6
    rhs[numbers[1][0]], rhs[numbers[1][1]] = 6 // fg, 6
    for i, k in zip(numbers[0][2], numbers[1][2]):
        lhs[i], rhs[k] = int(rng.integers(7, 12)), int(rng.integers(1, 4))
    stride, ld, rd = (rng.integers(1, 4, n).tolist() for _ in range(3))
    pads = rng.integers(-1, 4, (n, 2)).tolist()
    flips = ["true" if f else "false" for f in rng.integers(0, 2, n)]
    letters = []
    for (first, second, spatial), names in zip(numbers, ("bf", "io", "bf")):
        s = [""] * (n + 2)
        s[first], s[second] = names
        for d, at in enumerate(spatial):
            s[at] = str(d)
        letters.append("[" + ", ".join(s) + "]")
    listed = lambda v: ", ".join(map(str, v))  # noqa: E731
    op = f'''"stablehlo.convolution"(%0, %1) {{
      dimension_numbers = #stablehlo.conv<{letters[0]}x{letters[1]}->{letters[2]}>,
      window_strides = array<i64: {listed(stride)}>, lhs_dilation = array<i64: {listed(ld)}>,
      rhs_dilation = array<i64: {listed(rd)}>, window_reversal = array<i1: {listed(flips)}>,
      padding = dense<{pads}> : tensor<{n}x2xi64>, feature_group_count = {fg} : i64,
      batch_group_count = {bg} : i64}}'''
    result = conv_result(lhs, rhs, numbers, stride, pads, (ld, rd), (fg, bg))
    return ["x".join(map(str, s)) + "xf32" for s in (lhs, rhs)], op, result


def test_convolutions_of_random_attributes_are_read_as_jaxlib_reads_them(tmp_path):
    rng = np.random.default_rng(SEED)
    print("seed", SEED)
    for _ in range(20):
        types, op, result = random_convolution(rng)
        data = serialize(module_of(types, op, [result]))
        text = dump("graph", data, tmp_path)
        assert not text.startswith("ERROR"), text
        assert check_graph(data, text) == 1
