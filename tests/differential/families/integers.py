"""Integers and truth values: arithmetic, bits, sums, sorting, counting, packed data."""

from . import family

INTEGERS = ("int32", "uint32", "uint8", "int8", "int16", "uint16")
LIMITS = {"int32": (-(2**31), 2**31), "uint32": (0, 2**32), "uint8": (0, 256), "int8": (-128, 128),
          "int16": (-(2**15), 2**15), "uint16": (0, 2**16)}  # fmt: skip


def shape_of(b):
    return (b.dim("A", middle=0.2), b.dim("E"))


def whole(b, shape, dtype=None):
    """Any values of the type, or small ones."""
    dtype = dtype or b.dtype
    low, high = LIMITS[dtype] if b.chance(0.6) else (0 if dtype[0] == "u" else -9, 10)
    return b.input(shape, dtype, ("integers", low, high))


def positive(b, shape, dtype=None):
    return b.input(shape, dtype or b.dtype, ("integers", 1, 100))


UNARY = ("~{}", "-{}", "jnp.abs({})", "jnp.sign({})", "{} * {}", "{} << 1", "{} >> 2", "lax.population_count({})",
         "lax.clz({})", "{} + 7", "{} & 15", "{} ^ 85", "jnp.clip({}, 2, 50)", "{} * 3 - 1", "jnp.where({} > 3, {}, 1)",
         "lax.shift_right_logical({}, jnp.full_like({}, 3))")  # fmt: skip
BINARY = ("{} + {}", "{} - {}", "{} * {}", "{} & {}", "{} | {}", "{} ^ {}", "jnp.maximum({}, {})", "jnp.minimum({}, {})",
          "jnp.where({} < {}, 1, 2).astype({t})", "({} == {}).astype({t})", "jnp.where({} >= {}, 5, 6).astype({t})")  # fmt: skip


@family("free", has_gradient=False, dtypes=INTEGERS, is_wide=True)
def integer_arithmetic(b):
    shape = shape_of(b)
    values = [whole(b, shape), whole(b, shape[b.choose(0, 0, 1) :])]
    for _ in range(b.choose(3, 5, 8)):
        if b.chance(0.45):
            text = b.choose(*UNARY)
            value = b.rng.choice(values)
            values.append(b.let(text.format(*[value] * text.count("{}")), value.shape))
        elif b.chance(0.2):
            text = b.choose("{} // {}", "{} % {}", "lax.div({}, {})", "lax.rem({}, {})")
            value = b.rng.choice([v for v in values if v.shape == shape])
            values.append(b.let(text.format(value, positive(b, shape)), shape))
        else:
            one = b.rng.choice([v for v in values if v.shape == shape])
            values.append(b.let(b.choose(*BINARY).format(one, b.rng.choice(values), t=b.dtype), shape))
    return values[-2:] if values[-2].startswith("v") else values[-1:]


@family("free", has_gradient=False, dtypes=INTEGERS, is_wide=True)
def integer_reductions(b):
    A, E = shape = shape_of(b)
    x = whole(b, shape)
    axis, rest = b.choose((0, E), (1, A))
    out = [
        b.let(f"jnp.sum({x}, {axis}, dtype={b.choose('int32', 'uint32')})", (rest,)),
        b.let(b.choose(f"{x}.max({axis})", f"{x}.min({axis})"), (rest,)),
        b.let(b.choose(f"jnp.cumsum({x}, {axis}, dtype=int32)", f"lax.cummax({x}, axis={axis})",
                       f"lax.cummin({x}, axis={axis}, reverse=True)"), shape),
        b.let(b.choose(f"jnp.argmax({x}, {axis})", f"jnp.argmin({x}, {axis})"), (rest,), "int32"),
        b.let(b.choose(f"({x} > 3).all({axis})", f"({x} > 3).any({axis})", f"({x} > 3).sum({axis})"), (rest,), "int32"),
        b.let(b.choose(f"{x}.sum(dtype=int32)", f"{x}.max()", f"({x} & 3).astype(float32).mean()"), ()),
    ]  # fmt: skip
    b.rng.shuffle(out)
    return out[: b.choose(1, 2, 3)]


@family("free", has_gradient=False, dtypes=INTEGERS)
def integer_order(b):
    """Sorting with ties: those stay in order."""
    A, E = shape = (b.dim("A", most=513, middle=0.2), b.dim("E"))
    x = whole(b, shape)
    K = b.fixed("K", max(1, min(b.size(E), b.choose(1, 3, 8, 17))))
    axis = b.choose(0, 1, 1)
    style = b.choose("sort", "argsort", "top_k", "pairs", "search", "unique")
    if style == "sort":
        return [b.let(f"jnp.sort({x}, axis={axis})", shape)]
    if style == "argsort":
        return [b.let(f"jnp.argsort({x}, axis={axis}, stable=True)", shape, "int32")]
    if style == "top_k":
        return b.lets(f"lax.top_k({x}, {K})", ((A, K), b.dtype), ((A, K), "int32"))
    if style == "pairs":
        y = b.input(shape, "float32")
        return b.lets(f"lax.sort(({x}, {y}), dimension={axis}, num_keys=1, is_stable=True)", (shape, b.dtype),
                      (shape, "float32"))  # fmt: skip
    if style == "search":
        row = b.let(f"jnp.sort({x}[0])", (E,))
        return [b.let(f"jnp.searchsorted({row}, {x}[:, 0])", (A,), "int32")]
    row = b.let(f"jnp.sort({x}, axis=1)", shape)
    return [b.let(f"({row}[:, 1:] != {row}[:, :-1]).sum(1) + 1", (A,), "int32")]


@family("free", has_gradient=False, dtypes=INTEGERS, is_wide=True)
def counting(b):
    """Histograms and one-hot counts, and look-ups in tables of integers."""
    A, E = b.dim("A", middle=0.3), b.dim("E", least=2)
    at = b.input((A,), "int32", ("integers", 0, E), "t")
    add = whole(b, (A,))
    table = whole(b, (E,))
    return [
        b.let(b.choose(f"jnp.zeros(({E},), int32).at[{at}].add(1)", f"jnp.bincount({at}, length={E})",
                       f"jax.nn.one_hot({at}, {E}, dtype=int32).sum(0)" if b.size(A) * b.size(E) < 500000
                       else f"jnp.zeros(({E},), int32).at[{at}].add({at})"), (E,), "int32"),
        b.let(b.choose(f"{table}[{at}]", f"jnp.take({table}, {at})"), (A,)),
        b.let(b.choose(f"{table}.at[{at}].add({add})", f"{table}.at[{at}].max({add})", f"{table}.at[{at}].min({add})"),
              (E,)),
    ]  # fmt: skip


@family("free", has_gradient=False, dtypes=INTEGERS)
def integer_matmul(b):
    """Quantised products: narrow integers, sums of 32 bits."""
    M, K, N = b.dim("M"), b.dim("K"), b.dim("N")
    b.work(M, K, N)
    x, w = (b.input(s, b.dtype, ("integers", 0 if b.dtype[0] == "u" else -100, 100)) for s in ((M, K), (K, N)))
    wide = "uint32" if b.dtype[0] == "u" else "int32"
    y = b.let(f"lax.dot_general({x}, {w}, (((1,), (0,)), ((), ())), preferred_element_type={wide})", (M, N), wide)
    scale = b.input((N,), "float32", ("uniform", 0.5, 1.5))
    return [y, b.let(f"{y}.astype(float32) * {scale}", (M, N), "float32")]


@family("free", has_gradient=False, dtypes=("float32", "bfloat16", "float16"), is_wide=True)
def quantised(b):
    """Values to small integers and back. Inputs are well away from where rounding would decide."""
    A, E = shape = shape_of(b)
    steps = b.input(shape, "int32", ("integers", -100, 100))
    scale = b.choose("0.5", "0.25", "0.125")
    off = b.input((E,), "int32", ("integers", -20, 20))
    x = b.let(f"({steps} + 0.25).astype({b.dtype}) * {scale}", shape)
    q = b.let(f"jnp.clip(jnp.round({x} / {scale}), -127, 127).astype(int8)", shape, "int8")
    y = b.let(f"({q}.astype({b.dtype}) + {off}.astype({b.dtype})) * {scale}", shape)
    narrow = b.choose("uint8", "int16", "int32")
    return [q, y, b.let(f"jnp.clip({x}, 0, 20).astype({narrow})", shape, narrow),
            b.let(f"{x}.astype({b.choose('float32', 'bfloat16', 'float16')})", shape)]  # fmt: skip


@family("free", has_gradient=False, dtypes=("float32", "bfloat16", "float16"), is_wide=True)
def images_of_bytes(b):
    """Bytes to normalised floats, with masks; and the highest of the classes."""
    A, E = shape = shape_of(b)
    x = b.input(shape, "uint8", ("integers", 0, 256))
    mask = b.input(shape, "bool", ("truth", 0.7), "t")
    y = b.let(f"({x}.astype({b.dtype}) / 255 - 0.5) * 2", shape)
    kept = b.let(f"jnp.where({mask}, {y}, {b.choose(0, -1.5)})", shape)
    return [kept, b.let(f"{mask} & ({x} > 127)", shape, "bool"), b.let(f"jnp.logical_xor({mask}, {x} == 0).sum(1)",
            (A,), "int32"), b.let(f"({kept} * {mask}).sum(0) / jnp.maximum({mask}.sum(0), 1)", (E,))]  # fmt: skip
