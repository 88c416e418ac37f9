"""What XLA's clients write where JAX writes something else: functions and factorisations as custom calls,
tuples, images of another size, donation and replicas as attributes of the module."""

import math
import re

import capi
import ml_dtypes
import numpy as np
import pytest
from common import SEED

mlir = pytest.importorskip("jax._src.interpreters.mlir")
from jaxlib.mlir import ir  # noqa: E402
from jaxlib.mlir.dialects import stablehlo  # noqa: E402

TYPES = {"f32": np.float32, "f64": np.float64, "bf16": ml_dtypes.bfloat16, "f16": np.float16, "i32": np.int32}


def artifact(text):
    with mlir.make_ir_context():
        return stablehlo.serialize_portable_artifact_str(str(ir.Module.parse(text)), "1.13.0")


@pytest.fixture
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def run(device, text, *args):
    return device.compile(artifact(text))(*args)


def refused(device, text):
    with pytest.raises(capi.VtrnError) as error:
        device.compile(artifact(text))
    return str(error.value)


def main(signature, body, attributes=""):
    return f"module @m attributes {{{attributes}}} {{ func.func @main{signature} {{\n{body}\n}} }}"


@pytest.mark.parametrize("name", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("n", [1, 31, 129, 1000])
def test_erf_is_the_call_that_xla_writes(device, rng, name, n):
    x = (rng.standard_normal(n) * 2).astype(TYPES[name])
    body = f"""%0 = stablehlo.custom_call @mhlo.erf(%x) : (tensor<{n}x{name}>) -> tensor<{n}x{name}>
               return %0 : tensor<{n}x{name}>"""
    got = run(device, main(f"(%x: tensor<{n}x{name}>) -> tensor<{n}x{name}>", body), x)[0]
    expected = np.array([math.erf(float(v)) for v in x])
    eps = {"f32": 2**-23, "f64": 2**-50, "bf16": 2**-8, "f16": 2**-11}[name]
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=2 * eps, atol=1e-40)


def test_an_erf_of_other_types_is_refused(device):
    body = """%0 = stablehlo.custom_call @mhlo.erf(%x) : (tensor<4xf32>) -> tensor<5xf32>
              return %0 : tensor<5xf32>"""
    said = refused(device, main("(%x: tensor<4xf32>) -> tensor<5xf32>", body))
    assert "operand 0 has another shape than the result" in said


PAIR = "tuple<tensor<3xf32>, tensor<2xi32>>"


def test_tuples_are_taken_apart(device):
    """Made, handed to a function and back, through a barrier, and taken apart."""
    text = f"""module @m {{
      func.func private @swap(%t: {PAIR}) -> tuple<tensor<2xi32>, tensor<3xf32>> {{
        %0 = stablehlo.get_tuple_element %t[0] : ({PAIR}) -> tensor<3xf32>
        %1 = stablehlo.get_tuple_element %t[1] : ({PAIR}) -> tensor<2xi32>
        %2 = stablehlo.add %0, %0 : tensor<3xf32>
        %3 = stablehlo.tuple %1, %2 : tuple<tensor<2xi32>, tensor<3xf32>>
        return %3 : tuple<tensor<2xi32>, tensor<3xf32>>
      }}
      func.func @main(%x: tensor<3xf32>, %i: tensor<2xi32>) -> (tensor<3xf32>, tensor<2xi32>) {{
        %0 = stablehlo.tuple %x, %i : {PAIR}
        %1 = func.call @swap(%0) : ({PAIR}) -> tuple<tensor<2xi32>, tensor<3xf32>>
        %2 = stablehlo.get_tuple_element %1[1] : (tuple<tensor<2xi32>, tensor<3xf32>>) -> tensor<3xf32>
        %3 = stablehlo.get_tuple_element %1[0] : (tuple<tensor<2xi32>, tensor<3xf32>>) -> tensor<2xi32>
        return %2, %3 : tensor<3xf32>, tensor<2xi32>
      }} }}"""
    x, i = np.array([1, 2, 3], np.float32), np.array([7, -8], np.int32)
    doubled, same = run(device, text, x, i)
    np.testing.assert_array_equal(doubled, 2 * x)
    np.testing.assert_array_equal(same, i)


def test_tuples_are_in_tuples(device):
    nested = f"tuple<{PAIR}, tensor<3xf32>>"
    body = f"""%0 = stablehlo.tuple %x, %i : {PAIR}
        %1 = stablehlo.add %x, %x : tensor<3xf32>
        %2 = stablehlo.tuple %0, %1 : {nested}
        %3 = stablehlo.get_tuple_element %2[0] : ({nested}) -> {PAIR}
        %4 = stablehlo.get_tuple_element %3[1] : ({PAIR}) -> tensor<2xi32>
        %5 = stablehlo.get_tuple_element %2[1] : ({nested}) -> tensor<3xf32>
        return %4, %5 : tensor<2xi32>, tensor<3xf32>"""
    x, i = np.array([1, 2, 3], np.float32), np.array([7, -8], np.int32)
    same, doubled = run(device, main("(%x: tensor<3xf32>, %i: tensor<2xi32>) -> (tensor<2xi32>, tensor<3xf32>)", body), x, i)
    np.testing.assert_array_equal(same, i)
    np.testing.assert_array_equal(doubled, 2 * x)


def test_tuples_that_name_very_many_items_are_refused(device):
    """Each tuple twice in the next: 14 of them name 2^15 - 2 items."""
    kinds = ["tensor<3xf32>", *(f"!t{k}" for k in range(14))]
    lines = [f"%{k + 1} = stablehlo.tuple %{k}, %{k} : !t{k}" for k in range(14)]
    aliases = "\n".join(f"!t{k} = tuple<{kinds[k]}, {kinds[k]}>" for k in range(14))
    body = "\n".join(["%0 = stablehlo.add %x, %x : tensor<3xf32>", *lines, "return %0 : tensor<3xf32>"])
    said = refused(device, aliases + "\n" + main("(%x: tensor<3xf32>) -> tensor<3xf32>", body))
    assert "a tuple of more than 8192 items" in said


def test_tuples_where_there_can_be_none_are_refused_in_words(device):
    make = f"%0 = stablehlo.tuple %x, %i : {PAIR}\n"
    signature = "(%x: tensor<3xf32>, %i: tensor<2xi32>) -> "
    said = refused(device, main(signature + PAIR, make + f"return %0 : {PAIR}"))
    assert "result 0 is a tuple; take it apart by get_tuple_element" in said
    body = make + f"%1 = stablehlo.custom_call @f(%0) : ({PAIR}) -> tensor<3xf32>\nreturn %1 : tensor<3xf32>"
    assert "operand 0 is a tuple" in refused(device, main(signature + "tensor<3xf32>", body))
    said = refused(device, main(f"(%t: {PAIR}) -> tensor<3xf32>",
                                f"%0 = stablehlo.get_tuple_element %t[0] : ({PAIR}) -> tensor<3xf32>\n"
                                "return %0 : tensor<3xf32>"))  # fmt: skip
    assert "tuple<" in said and "neither a ranked tensor nor a token" in said


@pytest.mark.parametrize("n", [1, 2, 5, 33])
@pytest.mark.parametrize("is_lower", [0, 1])
def test_eigh_gives_a_tuple(device, rng, n, is_lower):
    a = rng.standard_normal((2, n, n)).astype(np.float32)
    full = np.tril(a) + np.tril(a, -1).swapaxes(1, 2)
    given = full + np.triu(rng.standard_normal((n, n)).astype(np.float32), 1)  # garbage on the other side
    if not is_lower:
        given = given.swapaxes(1, 2)
    pair = f"tuple<tensor<2x{n}x{n}xf32>, tensor<2x{n}xf32>>"
    body = f"""%0 = stablehlo.custom_call @Eigh(%a) {{backend_config = "{is_lower},1,100,0.000001"}}
                 : (tensor<2x{n}x{n}xf32>) -> {pair}
               %1 = stablehlo.get_tuple_element %0[0] : ({pair}) -> tensor<2x{n}x{n}xf32>
               %2 = stablehlo.get_tuple_element %0[1] : ({pair}) -> tensor<2x{n}xf32>
               return %1, %2 : tensor<2x{n}x{n}xf32>, tensor<2x{n}xf32>"""
    v, w = run(device, main(f"(%a: tensor<2x{n}x{n}xf32>) -> (tensor<2x{n}x{n}xf32>, tensor<2x{n}xf32>)", body), given)
    np.testing.assert_allclose(w, np.linalg.eigvalsh(full.astype(np.float64)), atol=1e-5 * n)
    np.testing.assert_allclose(full @ v, v * w[:, None, :], atol=1e-5 * n)


def weights(n, n_resized, kind, config):
    """[n_resized][n]: what each pixel takes of the original, after the definition of PyTorch."""
    keeps_corners, has_centers = config[0] == "1", config[1] == "1"
    i = np.arange(n_resized, dtype=np.float32)
    if keeps_corners:
        scale = np.float32(n - 1) / np.float32(n_resized - 1) if n_resized > 1 else np.float32(0)
    else:
        scale = np.float32(n) / np.float32(n_resized)
    half = np.float32(0.5 if has_centers else 0)
    if kind == "Bilinear":
        at = np.clip(scale * (i + half) - half, 0, n - 1)
        return np.stack([np.interp(at, np.arange(n), column) for column in np.eye(n)], axis=1)
    at = scale * (i + half)
    nearest = np.floor(at + 0.5) if keeps_corners else np.floor(at)
    return np.eye(n)[np.clip(nearest, 0, n - 1).astype(int)]


def resize_text(target, config, name, shape, result):
    a, b = ("x".join(map(str, s)) + "x" + name for s in (shape, result))
    body = f"""%0 = stablehlo.custom_call @{target}(%x) {{backend_config = "\\22{config}\\22"}}
                 : (tensor<{a}>) -> tensor<{b}>
               return %0 : tensor<{b}>"""
    return main(f"(%x: tensor<{a}>) -> tensor<{b}>", body)


@pytest.mark.parametrize("kind", ["Nearest", "Bilinear"])
@pytest.mark.parametrize("config", ["00", "01", "10"])
@pytest.mark.parametrize("size,resized", [((8, 8), (16, 16)), ((7, 5), (3, 9)), ((1, 4), (5, 1)), ((13, 2), (13, 7)),
                                          ((33, 31), (10, 65))], ids=str)  # fmt: skip
@pytest.mark.parametrize("is_gradient", [False, True])
def test_images_are_resized(device, rng, kind, config, size, resized, is_gradient):
    wy, wx = (weights(n, m, kind, config) for n, m in zip(size, resized, strict=True))
    shapes = [(2, *size, 3), (2, *resized, 3)]
    if is_gradient:
        shapes, wy, wx = shapes[::-1], wy.T, wx.T
    x = rng.standard_normal(shapes[0]).astype(np.float32)
    target = f"Resize{kind}" + "Grad" * is_gradient
    got = run(device, resize_text(target, config, "f32", *shapes), x)[0]
    np.testing.assert_allclose(got, np.einsum("ay,byxc,wx->bawc", wy, x, wx), rtol=1e-6, atol=3e-6)


@pytest.mark.parametrize("name,eps", [("f64", 1e-6), ("bf16", 2**-8), ("f16", 2**-10)])
def test_images_of_every_float_are_resized(device, rng, name, eps):
    x = rng.standard_normal((1, 6, 4, 2)).astype(TYPES[name])
    got = run(device, resize_text("ResizeBilinear", "01", name, x.shape, (1, 9, 9, 2)), x)[0]
    wy, wx = weights(6, 9, "Bilinear", "01"), weights(4, 9, "Bilinear", "01")
    expected = np.einsum("ay,byxc,wx->bawc", wy, x.astype(np.float64), wx)
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=eps, atol=eps)


def test_the_nearest_pixel_keeps_its_bits(device):
    x = np.array([np.nan, np.inf, -0.0, 1e-42], np.float32).reshape(1, 2, 2, 1)
    got = run(device, resize_text("ResizeNearest", "00", "f32", x.shape, (1, 4, 4, 1)), x)[0]
    assert got.tobytes() == np.repeat(np.repeat(x, 2, 1), 2, 2).tobytes()
    i = np.arange(6, dtype=np.int32).reshape(1, 3, 2, 1)
    got = run(device, resize_text("ResizeNearest", "00", "i32", i.shape, (1, 3, 4, 1)), i)[0]
    np.testing.assert_array_equal(got, np.repeat(i, 2, 2))


@pytest.mark.parametrize("target,config,name,shape,result", [
    ("ResizeBilinear", "0", "f32", (1, 2, 2, 1), (1, 4, 4, 1)),
    ("ResizeBilinear", "02", "f32", (1, 2, 2, 1), (1, 4, 4, 1)),
    ("ResizeBilinear", "001", "f32", (1, 2, 2, 1), (1, 4, 4, 1)),
    ("ResizeBilinear", "00", "i32", (1, 2, 2, 1), (1, 4, 4, 1)),
    ("ResizeBilinear", "00", "f32", (1, 2, 2, 1), (1, 4, 4, 2)),
    ("ResizeNearest", "00", "f32", (1, 0, 2, 1), (1, 4, 4, 1)),
    ("ResizeNearestGrad", "00", "i32", (1, 4, 4, 1), (1, 2, 2, 1)),
    ("ResizeCubic", "00", "f32", (1, 2, 2, 1), (1, 4, 4, 1)),
])  # fmt: skip
def test_a_resize_that_is_none_is_refused(device, target, config, name, shape, result):
    assert target in refused(device, resize_text(target, config, name, shape, result))


def alias(*pairs):
    entries = ", ".join(
        f"{{alias = {{alias_kind = \"may_alias\", parameter_index = array<i64{part}>, parameter_number = {p} : i64}},"
        f" output_index = array<i64{output}>}}" for p, part, output in pairs)  # fmt: skip
    return f"mhlo.input_output_alias = [{entries}]"


UPDATE = """%0 = stablehlo.multiply %w, %g : tensor<300x40xf32>
            %1 = stablehlo.add %w, %0 : tensor<300x40xf32>
            return %0, %1 : tensor<300x40xf32>, tensor<300x40xf32>"""
UPDATE_TYPE = "(%w: tensor<300x40xf32>, %g: tensor<300x40xf32>) -> (tensor<300x40xf32>, tensor<300x40xf32>)"


def aliases_of(executable, n):
    return [executable.lib.vtrn_executable_input_alias(executable.handle, i) for i in range(n)]


def test_a_parameter_that_the_module_lets_an_output_have_is_donated(device, rng):
    w, g = rng.standard_normal((2, 300, 40)).astype(np.float32)
    executable = device.compile(artifact(main(UPDATE_TYPE, UPDATE, alias((0, "", ": 1")))))
    assert aliases_of(executable, 2) == [1, -1]
    product, updated = executable(w, g)
    np.testing.assert_array_equal(product, w * g)
    np.testing.assert_allclose(updated, w + w * g, rtol=1e-6, atol=1e-6)


def test_a_donated_parameter_that_is_read_after_its_output_is_written_is_not_overwritten(device, rng):
    """Each output reads what the other would overwrite: they cannot both lie where they are let."""
    w, g = rng.standard_normal((2, 300, 40)).astype(np.float32)
    body = """%0 = stablehlo.reverse %g, dims = [0] : tensor<300x40xf32>
              %1 = stablehlo.add %w, %0 : tensor<300x40xf32>
              %2 = stablehlo.reverse %w, dims = [0] : tensor<300x40xf32>
              %3 = stablehlo.add %g, %2 : tensor<300x40xf32>
              return %1, %3 : tensor<300x40xf32>, tensor<300x40xf32>"""
    text = main(UPDATE_TYPE, body, alias((0, "", ": 0"), (1, "", ": 1")))
    for got, expected in zip(run(device, text, w, g), (w + g[::-1], g + w[::-1]), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_only_output_has_no_index(device):
    text = main("(%x: tensor<4xf32>) -> tensor<4xf32>",
                "%0 = stablehlo.add %x, %x : tensor<4xf32>\nreturn %0 : tensor<4xf32>", alias((0, "", "")))  # fmt: skip
    assert aliases_of(device.compile(artifact(text)), 1) == [0]


@pytest.mark.parametrize("pair", [(0, ": 0", ": 1"), (0, "", ": 0, 1")])
def test_aliases_of_parts_are_passed_over(device, pair):
    assert aliases_of(device.compile(artifact(main(UPDATE_TYPE, UPDATE, alias(pair)))), 2) == [-1, -1]


def test_an_alias_of_another_type_is_passed_over(device):
    text = main("(%x: tensor<4xf32>) -> tensor<2x2xf32>",
                "%0 = stablehlo.reshape %x : (tensor<4xf32>) -> tensor<2x2xf32>\nreturn %0 : tensor<2x2xf32>",
                alias((0, "", ": 0")))  # fmt: skip
    assert aliases_of(device.compile(artifact(text)), 1) == [-1]


@pytest.mark.parametrize("pair", [(2, "", ": 0"), (0, "", ": 2"), (-1, "", ": 0")])
def test_an_alias_of_what_is_not_there_is_refused(device, pair):
    said = refused(device, main(UPDATE_TYPE, UPDATE, alias(pair)))
    assert re.search(r"mhlo.input_output_alias: parameter -?\d and output \d, there are 2 and 2", said)


ADD = "^bb0(%a: tensor<f32>, %b: tensor<f32>):\n%c = stablehlo.add %a, %b : tensor<f32>\nstablehlo.return %c : tensor<f32>"
EXCHANGES = {
    "all_reduce": f"""%0 = "stablehlo.all_reduce"(%x) ({{ {ADD} }})
        {{replica_groups = dense<> : tensor<0x0xi64>}} : (tensor<4xf32>) -> tensor<4xf32>""",
    "collective_permute": """%0 = "stablehlo.collective_permute"(%x)
        {source_target_pairs = dense<[[0, 1]]> : tensor<1x2xi64>} : (tensor<4xf32>) -> tensor<4xf32>""",
    "replica_id": """%1 = stablehlo.replica_id : tensor<ui32>
        %2 = stablehlo.convert %1 : (tensor<ui32>) -> tensor<f32>
        %3 = stablehlo.broadcast_in_dim %2, dims = [] : (tensor<f32>) -> tensor<4xf32>
        %0 = stablehlo.add %x, %3 : tensor<4xf32>""",
}  # fmt: skip


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("is_in_branch", [False, True])
def test_replicas_that_depend_on_each_other_run_together(device, name, is_in_branch):
    body, result = EXCHANGES[name], "%0"
    if is_in_branch:
        body = f"""%p = stablehlo.constant dense<true> : tensor<i1>
          %r = "stablehlo.if"(%p) ({{ {body} stablehlo.return %0 : tensor<4xf32> }},
                                   {{ stablehlo.return %x : tensor<4xf32> }}) : (tensor<i1>) -> tensor<4xf32>"""
        result = "%r"
    text = main("(%x: tensor<4xf32>) -> tensor<4xf32>", f"{body}\nreturn {result} : tensor<4xf32>",
                "mhlo.num_replicas = 2 : i32")  # fmt: skip
    x = np.arange(8, dtype=np.float32).reshape(2, 4) + SEED
    got = np.array([y for [y] in device.compile(artifact(text)).run_ranks([[r] for r in x])])
    want = {"all_reduce": [x[0] + x[1]] * 2, "collective_permute": [0 * x[0], x[0]],
            "replica_id": [x[0], x[1] + 1]}[name]  # fmt: skip
    np.testing.assert_array_equal(got, want)


GROUPS = """%0 = "stablehlo.all_reduce"(%x) ({ ADD })
    {replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>MODE} : (tensor<4xf32>) -> tensor<4xf32>"""
CHANNEL = ", channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>"


@pytest.mark.parametrize("mode,groups", [
    ("", [[0, 2], [1, 3]]),  # replicas 0 and 1, of each partition by itself
    (CHANNEL, [[0, 1, 2, 3]]),  # replicas 0 and 1 with all partitions
    (CHANNEL + ", use_global_device_ids", None),  # devices 0 and 1: 2 and 3 are in no group
])  # fmt: skip
def test_groups_are_of_replicas_of_both_or_of_devices(device, mode, groups):
    body = GROUPS.replace("ADD", ADD).replace("MODE", mode)
    text = main("(%x: tensor<4xf32>) -> tensor<4xf32>", f"{body}\nreturn %0 : tensor<4xf32>",
                "mhlo.num_replicas = 2 : i32, mhlo.num_partitions = 2 : i32")  # fmt: skip
    if groups is None:
        said = refused(device, text)
        assert "stablehlo.all_reduce" in said and "no group has device 2 of 4" in said
        return
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    big = type(device)(instance="trn1.32xlarge")
    got = [y for [y] in big.compile(artifact(text)).run_ranks([[r] for r in x])]
    for group in groups:
        for r in group:
            np.testing.assert_array_equal(got[r], x[group].sum(0))
    big.close()


def test_a_reducer_that_is_no_single_operation_runs_as_its_region(device):
    region = """^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %h = stablehlo.constant dense<0.5> : tensor<f32>
      %c = stablehlo.multiply %a, %h : tensor<f32>
      %d = stablehlo.add %c, %b : tensor<f32>
      stablehlo.return %d : tensor<f32>"""
    body = f"""%0:2 = "stablehlo.all_reduce"(%x, %y) ({{ {region} }})
        {{replica_groups = dense<[[1, 2, 0]]> : tensor<1x3xi64>}}
        : (tensor<33xf32>, tensor<5xf32>) -> (tensor<33xf32>, tensor<5xf32>)
      %1 = "stablehlo.reduce_scatter"(%x) ({{ {region} }})
        {{replica_groups = dense<[[1, 2, 0]]> : tensor<1x3xi64>, scatter_dimension = 0 : i64}}
        : (tensor<33xf32>) -> tensor<11xf32>"""
    text = main("(%x: tensor<33xf32>, %y: tensor<5xf32>) -> (tensor<33xf32>, tensor<5xf32>, tensor<11xf32>)",
                f"{body}\nreturn %0#0, %0#1, %1 : tensor<33xf32>, tensor<5xf32>, tensor<11xf32>",
                "mhlo.num_replicas = 3 : i32")  # fmt: skip
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((3, 33)).astype(np.float32)
    y = rng.standard_normal((3, 5)).astype(np.float32)
    big = type(device)(instance="trn1.32xlarge")
    e = big.compile(artifact(text))
    again = big.load(e.program())
    for got in (e.run_ranks(list(zip(x, y))), again.run_ranks(list(zip(x, y)))):
        want = [(a[1] * 0.5 + a[2]) * 0.5 + a[0] for a in (x, y)]
        for r, place in ((1, 0), (2, 1), (0, 2)):
            for a, b in zip(got[r], (*want, want[0][11 * place :][:11])):
                np.testing.assert_array_equal(a, b)
    big.close()


def test_replicas_that_do_not_are_the_same_program(device):
    text = main("(%x: tensor<4xf32>) -> tensor<4xf32>",
                "%0 = stablehlo.add %x, %x : tensor<4xf32>\nreturn %0 : tensor<4xf32>",
                "mhlo.num_replicas = 2 : i32")  # fmt: skip
    x = np.arange(4, dtype=np.float32) + SEED
    np.testing.assert_array_equal(run(device, text, x)[0], 2 * x)
