"""Other things that models do to sequences: short convolutions, running sums, einsums, linear attention."""

from . import family


@family("sequence", keeps_shape=True)
def short_convolution(b, x):
    """A causal convolution of few taps, a channel each, as state space models have it."""
    B, S, D = x.shape
    K = b.fixed("K", b.choose(2, 3, 4, 7))
    b.work(B, S, D, K)
    style = b.choose("grouped", "shifted", "shifted", "dense")
    if style == "dense" and b.size(D) <= 257:
        b.work(B, S, D, D, K)
        w = b.weight((K, D, D), f"{K}*{D}")
        return b.same(f"lax.conv_general_dilated({x}, {w}, (1,), [({K} - 1, 0)], "
                      "dimension_numbers=('NHC', 'HIO', 'NHC'))", x)  # fmt: skip
    w = b.weight((K, D), K)
    if style == "grouped" and b.size(D) <= 513:
        return b.same(f"lax.conv_general_dilated({x}, {w}[:, None, :], (1,), [({K} - 1, 0)], "
                      f"feature_group_count={D}, dimension_numbers=('NHC', 'HIO', 'NHC'))", x)  # fmt: skip
    padded = b.let(f"jnp.pad({x}, ((0, 0), ({K} - 1, 0), (0, 0)))", (B, f"({S}+{K}-1)", D))
    return b.same(f"sum({padded}[:, i:i + {S}] * {w}[i] for i in range({K}))", x)


@family("sequence", keeps_shape=True, is_wide=True)
def cumulative(b, x):
    """Sums, products and maxima so far."""
    B, S, D = x.shape
    axis = b.choose(0, 1, 1, 2)
    n = x.shape[axis]
    ones = ["1"] * 3
    ones[axis] = n
    steps = f"jnp.arange(1, {n} + 1, dtype={x.dtype}).reshape({', '.join(ones)})"
    text = b.choose(
        f"jnp.cumsum({x}, axis={axis}) / {steps}",
        f"jnp.cumsum({x}, axis={axis}) * {n}**-0.5",
        f"lax.cummax({x}, axis={axis})",
        f"lax.cummin({x}, axis={axis}, reverse=True)",
        f"jnp.cumprod(1 + 0.1 * jnp.tanh({x}) / {n}, axis={axis})",
        f"lax.cumlogsumexp({x}, axis={axis}) * 0.5",
        f"lax.cumsum({x}, axis={axis}, reverse=True) / {n}",
        f"jnp.cumsum({x}.astype(float32), axis={axis}).astype({x.dtype}) / {n}",
    )
    return b.same(text, x)


@family("sequence", keeps_shape=True)
def linear_attention(b, x):
    B, S, D = x.shape
    K = b.dim("K", most=257)
    b.work(B, S, D, K, 4)
    q, k, v = (b.matmul(x, b.weight((D, K), D)) for _ in range(3))
    q = b.same(f"jax.nn.softmax({q}, axis=-1)", q)
    k = b.same(b.choose(f"jax.nn.softmax({k}, axis=1)", f"(jax.nn.elu({k}) + 1) / {S}"), k)
    if b.chance(0.5):
        context = b.let(f"jnp.einsum('bsk,bsv->bkv', {k}, {v})", (B, K, K))
        y = b.same(f"jnp.einsum('bsk,bkv->bsv', {q}, {context})", v)
    else:
        b.work(B, S, S, K, 2)
        scores = b.let(f"jnp.tril(jnp.einsum('bqk,bsk->bqs', {q}, {k}))", (B, S, S))
        y = b.same(f"{scores} @ {v}", v)
    return b.matmul(y, b.weight((K, D), K))


@family("sequence", keeps_shape=True)
def einsums(b, x):
    """Contractions over other dimensions than the last."""
    B, S, D = x.shape
    style = b.choose("positions", "gram", "bilinear", "outer", "batch")
    if style == "positions":
        b.work(B, S, S, D)
        return b.same(f"jnp.einsum('bsd,st->btd', {x}, {b.weight((S, S), S)})", x)
    if style == "gram":
        b.work(B, S, D, D, 2)
        gram = b.let(f"jnp.einsum('bsd,bse->bde', {x}, {x}) / {S}", (B, D, D))
        return b.same(f"jnp.einsum('bsd,bde->bse', {x}, {gram}) / {D}", x)
    if style == "bilinear":
        K = b.dim("K", most=129)
        b.work(B, S, D, K, D)
        h = b.let(f"jnp.einsum('bsd,dk->bks', {x}, {b.weight((D, K), D)})", (B, K, S))
        return b.same(f"jnp.einsum('bks,kd->bsd', {h}, {b.weight((K, D), K)})", x)
    if style == "outer":
        row = b.let(f"{x}.mean(1)", (B, D))
        column = b.let(f"{x}.mean(2)", (B, S))
        return b.same(f"{x} + jnp.einsum('bs,bd->bsd', {column}, {row})", x)
    b.work(B, S, D, S)
    w = b.weight((B, S, S), S)
    return b.same(f"lax.dot_general({w}, {x}, (((1,), (1,)), ((0,), (0,))))", x)


UNARY = (
    "jnp.tanh({})", "jax.nn.sigmoid({})", "jax.nn.softplus({})", "jnp.exp(-jnp.abs({}))", "jnp.sin({})", "jnp.cos({})",
    "jnp.log1p(jnp.abs({}))", "jnp.sqrt(jnp.abs({}) + 0.5)", "lax.rsqrt(jnp.square({}) + 1)", "jnp.abs({})",
    "jnp.square({}) * 0.3", "1 / (1 + jnp.square({}))", "jnp.expm1(-jnp.abs({}))", "jax.nn.leaky_relu({})",
    "jax.nn.elu({})", "jax.nn.selu({})", "lax.erf({})", "jnp.clip({}, -1, 1)", "jax.nn.relu6({})", "jax.nn.mish({})",
    "jax.nn.hard_swish({})", "jnp.sign({}) * (jnp.sqrt(jnp.abs({}) + 0.25) - 0.5)", "jnp.arctan({})", "jnp.cbrt({} + 5)",
    "jnp.exp2(jnp.minimum({}, 2))", "jnp.log(jnp.abs({}) + 0.2)", "jnp.where({} > 0.3, {}, 0.1 * {})", "-{}",
    "jnp.power(jnp.abs({}) + 0.5, 1.3)", "jnp.sinh(jnp.clip({}, -2, 2))", "lax.integer_pow({} * 0.5, 3)",
    "jnp.floor({}) * 0.1 + {}", "jnp.logaddexp({}, 0.5)", "jax.nn.log_sigmoid({})", "jnp.heaviside({}, 0.5) + {}",
    "jax.nn.squareplus({})", "jnp.sinc({} * 0.5)", "jnp.arctan2({}, 1.5)",
)  # fmt: skip
BINARY = (
    "{} + {}", "{} - {}", "{} * {}", "{} / (jnp.abs({}) + 0.5)", "jnp.maximum({}, {})", "jnp.minimum({}, {})",
    "jnp.where({} > {}, 0.5, -0.25).astype({t})", "jnp.hypot({}, {})", "jnp.logaddexp({}, {})", "jnp.arctan2({}, jnp.abs({}) + 0.5)",
)  # fmt: skip


@family("sequence", keeps_shape=True, is_wide=True)
def elementwise(b, x):
    """A few elementwise operations, with operands that are broadcast along any dimensions."""
    values = [x]
    for _ in range(b.choose(2, 3, 4, 6)):
        if b.chance(0.6):
            text = b.choose(*UNARY)
            values.append(b.same(text.format(*[b.rng.choice(values[-2:])] * text.count("{}")), x))
            continue
        other = values[-2] if len(values) > 1 and b.chance(0.4) else None
        if other is None:
            shape = tuple(d if b.chance(0.5) else "1" for d in x.shape)
            other = b.input(shape[b.choose(0, 0, 1, 2) :] or ("1",))
        pair = [values[-1], other]
        b.rng.shuffle(pair)
        values.append(b.same(b.choose(*BINARY).format(*pair, t=x.dtype), x))
    return values[-1]
