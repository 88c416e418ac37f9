"""NKI's first generation: Python's operators on tiles, index expressions and masks, and what masks leave."""

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402
import neuronxcc.nki.language as nl  # noqa: E402

from vtrn.nki import errors  # noqa: E402

rng = np.random.default_rng(7)


def numbers(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


# -- operators of Python


def operator_result(text, dtype, x, column):
    @nki.jit
    def kernel(x, column):
        t, c = nl.load(x), nl.load(column)  # noqa: F841 (names in text)
        found = eval(text, {"x": t, "c": c})
        out = nl.ndarray(found.shape, dtype=found.dtype, buffer=nl.shared_hbm)
        nl.store(out, found)
        return out

    return kernel(x, column)


@pytest.mark.parametrize("text", ["x + c", "x - c", "1 - x", "2 / x", "x / c", "x % c", "x % 3", "7 % x", "c % x", "abs(x)", "-x", "+x",
                                  "x ** 2", "2 ** x", "x * 3", "x < c", "3 >= x", "x == x", "x != 2"])
def test_operators_on_tiles_of_floats(text):
    x, c = rng.integers(-5, 6, (4, 6)) * 1.5 + 0.25, rng.integers(1, 5, (4, 1)) * 0.5
    x, c = x.astype(np.float32), c.astype(np.float32)
    np.testing.assert_allclose(operator_result(text, np.float32, x, c), eval(text, {"x": x, "c": c}), rtol=1e-5)


@pytest.mark.parametrize("text", ["x & x2", "x | x2", "x ^ x2", "~x", "x & 12", "12 | x", "5 ^ x", "x << 3", "x >> 2", "1 << x",
                                  "x % 7", "x | c", "x ^ c", "x % c", "100 % x"])
def test_operators_on_tiles_of_integers(text):
    x, c = rng.integers(1, 30, (4, 6)).astype(np.int32), rng.integers(1, 9, (4, 1)).astype(np.int32)
    text = text.replace("x2", "(x + 5)")
    np.testing.assert_array_equal(operator_result(text, np.int32, x, c), eval(text, {"x": x, "c": c}))


@pytest.mark.parametrize("text", ["-=", "*=", "/=", "%=", "+="])
def test_augmented_assignment_changes_the_tile_that_others_name(text):
    @nki.jit
    def kernel(x, y):
        t, outs = nl.load(x), []
        same = t
        for other in (nl.load(y), 2.0, t[:, 0:1]):
            scope = {"t": t, "y": other}
            exec(f"t {text} y", scope)
        for value in (same, t):
            outs.append(nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm))
            nl.store(outs[-1], value)
        return tuple(outs)

    x, y = (rng.integers(1, 9, (4, 6)).astype(np.float32) for _ in range(2))
    first, second = kernel(x, y)
    want = {"t": x.copy(), "y": y}
    for other in (y, np.float32(2), None):
        want["y"] = want["t"][:, 0:1].copy() if other is None else other
        exec(f"t {text} y", want)
    np.testing.assert_allclose(first, want["t"], rtol=1e-5)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("text, says", [
    ("x // 2", r"sbuf\[4, 6\] float32 // 2: .*nl.floor"), ("3 // x", r"3 // sbuf"), ("x @ x", "nl.matmul"), ("divmod(x, 2)", "nl.mod"),
    ("round(x)", "nl.copy"), ("float(x)", "register"), ("x + None", "a tile takes a tile or a number"), ("x - [1, 2]", "a number"),
    ("x * i", "nisa.iota"), ("i + x", "nisa.iota"), ("x & (i < 2)", "mask="), ("nl.add(x, None)", "NoneType|None"),
    ("(i < 2) | (j < 2)", "joined by & alone.*each part"), ("(i < 2) ^ (j < 2)", "joined by &"), ("~(i < 2)", "opposite"),
    ("(i < 2) & x", "nl.where"), ("0 <= i < 2", r"\(0 <= i\) & \(i < n\)"), ("(i < 2) == (j < 2)", "not compared"),
    ("(i < 2) + 1", "joined by &"), ("x[i % 2, j]", "reshape"), ("x[i // 2, j]", "equal steps"), ("nisa.iota(i % 3 + j, nl.int32)", "equal steps"),
    ("nl.exp(x, mask=i % 2 < 1)", "a box"), ("i // 0", "steps|integer"), ("i % -2", "integer"), ("i // j", "integer"), ("5 % i", "steps"), ("i / 2", "reshape"), ("i ** 2", "steps"),
    ("i @ j", "steps"), ("abs(i)", "steps"), ("i & 1", "steps"), ("i * j", "sums, differences"), ("i + 1.5", "integers"), ("i < 1.5", "integer"),
    ("i != 2", "two parts"), ("1 if i else 2", "truth")])
def test_operators_that_are_not_there_say_so_with_their_line(text, says):
    @nki.jit
    def kernel(x):
        t, i, j = nl.load(x), nl.arange(4)[:, None], nl.arange(6)[None, :]
        eval(compile(text, "my_kernel.py", "eval"), {"x": t, "i": i, "j": j, "nl": nl, "nisa": nisa})

    with pytest.raises(errors.NkiTypeError, match=f"(?s){says}.*\n  at my_kernel.py:1"):
        kernel(numbers(4, 6))


def test_operators_of_arrays_and_numpys_numbers_are_the_tiles():
    @nki.jit
    def kernel(x, scale):
        t, outs = nl.load(x), []
        for found in (np.float32(2) * t, scale_array - t, t - scale_array, np.float32(1) / t, np.float32(3) > t, scale_array <= t):
            outs.append(nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm))
            nl.store(outs[-1], found)
        return tuple(outs)

    x, scale_array = numbers(4, 6), numbers(4, 6)
    wanted = 2 * x, scale_array - x, x - scale_array, 1 / x, x < 3, scale_array <= x
    for got, want in zip(kernel(x, scale_array), wanted):
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("text", ["np.exp(x)", "np.maximum(x, 0)", "np.add.reduce(x)", "np.sum(x)", "np.add(x, 1, out=x)"])
def test_functions_of_numpy_on_tiles_are_told(text):
    @nki.jit
    def kernel(x):
        t = nl.load(x)
        assert np.asarray(t).shape == np.abs(np.asarray(t)).shape
        eval(compile(text, "my_kernel.py", "eval"), {"x": t, "np": np})

    with pytest.raises(errors.NkiTypeError, match=r"(?s)np\.\w+.*sbuf\[4, 6\] float32.*np.asarray.*at my_kernel.py:1"):
        kernel(numbers(4, 6))


@pytest.mark.parametrize("x, y, want", [
    ("int32", "float16", "float16"), ("uint16", "tfloat32", "tfloat32"), ("float32", "bfloat16", "float32"), ("float16", "bfloat16", "float32"),
    ("float32", "tfloat32", "float32"), ("float8_e4m3", "float16", "float16"), ("float8_e4m3", "bfloat16", "bfloat16"),
    ("float8_e4m3", "float8_e5m2", "bfloat16"), ("int16", "int32", "int32"), ("uint8", "uint16", "uint16"), ("uint16", "int32", "int32"),
    ("int8", "uint8", "int16"), ("int8", "uint16", "int32"), ("int32", "uint32", "float32"), ("int8", "int8", "int8")])
def test_types_of_two_tiles_are_promoted_as_documented(x, y, want):
    @nki.jit
    def kernel(a):
        tiles = [nl.copy(nl.load(a), dtype=getattr(nl, kind)) for kind in (x, y)]
        for pair in (tiles, tiles[::-1]):
            assert nl.add(*pair).dtype == want
            out = nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.shared_hbm)
            nl.store(out, nl.add(*pair, dtype=nl.float32))
        return out

    np.testing.assert_array_equal(kernel(np.full((4, 6), 3.0, np.float32)), 6)


# -- what a mask leaves


@pytest.mark.parametrize("make", [
    lambda x, m: nl.copy(x, mask=m), lambda x, m: nisa.tensor_copy(x, mask=m), lambda x, m: nl.add(x, 0.0, mask=m),
    lambda x, m: nl.maximum(x, x, mask=m), lambda x, m: nl.where(nl.greater(x, 0, dtype=nl.uint8), x, x, mask=m),
    lambda x, m: nisa.tensor_scalar(x, nl.multiply, nl.add(nl.multiply(x[:, 0:1], 0), 1), mask=m),
    lambda x, m: nisa.activation(nl.copy, x, mask=m), lambda x, m: nl.load(x, mask=m)], ids=range(8))
@pytest.mark.parametrize("rows, columns", [((0, 40), (0, 5)), ((32, 64), (2, 8)), ((64, 128), (0, 8)), ((0, 0), (0, 8))])
def test_elements_outside_of_a_mask_keep_their_values(make, rows, columns):
    @nki.jit
    def kernel(x, old):
        i, j = nl.arange(128)[:, None], nl.arange(8)[None, :]
        to = nl.load(old)
        source = x if make.__code__.co_names[1] == "load" else nl.load(x)
        to[i, j] = make(source, (i >= rows[0]) & (i < rows[1]) & (j >= columns[0]) & (j < columns[1]))
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nl.store(out, to)
        return out

    x, old = numbers(128, 8), numbers(128, 8)
    want = old.copy()
    want[slice(*rows), slice(*columns)] = x[slice(*rows), slice(*columns)]
    np.testing.assert_array_equal(kernel(x, old), want)


def test_a_masked_load_keeps_what_was_before_partitions_where_engines_do_not_begin():
    @nki.jit
    def kernel(x, old):
        i, j = nl.arange(128)[:, None], nl.arange(8)[None, :]
        to = nl.load(old)
        to[i, j] = nl.load(x[i, j], mask=i >= 3)
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nl.store(out, to)
        return out

    x, old = numbers(128, 8), numbers(128, 8)
    np.testing.assert_array_equal(kernel(x, old), np.where(np.arange(128)[:, None] >= 3, x, old))


def test_a_masked_result_is_stored_in_a_part_whose_rest_its_tensor_does_not_have():
    """As the migration guide has it."""
    @nki.jit
    def kernel(x):
        out = nl.ndarray((129, 13), dtype=x.dtype, buffer=nl.shared_hbm)
        for k in range(2):
            for c in range(2):
                i, j = nl.mgrid[0:128, 0:8]
                mask = (i + 128 * k < 129) & (j + 8 * c < 13)
                out[i + 128 * k, j + 8 * c] = nl.multiply(nl.load(x[i + 128 * k, j + 8 * c], mask=mask), 2.0, mask=mask)
        return out

    x = numbers(129, 13)
    np.testing.assert_array_equal(kernel(x), x * 2)


@pytest.mark.parametrize("lo", [0, 32, 64])
def test_masked_rows_of_reductions_and_columns_stay_where_they_are(lo):
    @nki.jit
    def kernel(x, old):
        i, j = nl.arange(128)[:, None], nl.arange(8)[None, :]
        t, mask = nl.load(x), (i >= lo) & (i < lo + 32) & (j < 6)
        total, largest, shifted = nl.load(old), nl.load(old), nl.load(x)
        total[i, nl.arange(1)[None, :]] = nl.sum(t, axis=1, keepdims=True, mask=mask)
        top = nisa.max8(src=t, mask=(i >= lo) & (i < lo + 32))
        largest[...] = top[:, 0:1] if lo == 0 else nl.max(t, axis=1, keepdims=True, mask=mask)
        shifted[i, j] = nisa.tensor_scalar(t, nl.subtract, t[:, 0:1], mask=mask)
        outs = [nl.ndarray(v.shape, dtype=x.dtype, buffer=nl.shared_hbm) for v in (total, shifted)]
        nl.store(outs[0], total), nl.store(outs[1], shifted)
        return tuple(outs)

    x, old = numbers(128, 8), numbers(128, 1)
    total, shifted = kernel(x, old)
    want, rows = old.copy(), slice(lo, lo + 32)
    want[rows] = x[rows, :6].sum(1, keepdims=True)
    np.testing.assert_allclose(total, want, rtol=1e-5, atol=1e-6)
    want = x.copy()
    want[rows, :6] -= x[rows, 0:1]
    np.testing.assert_array_equal(shifted, want)


def test_names_that_are_not_there_may_be_asked_for():
    for module in (nl, nisa):
        assert not hasattr(module, "no_such_name") and getattr(module, "no_such_name", 3) == 3
        with pytest.raises(NotImplementedError, match="no_such_name is not there"):
            module.no_such_name
