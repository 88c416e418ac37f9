"""Embeddings with their gradients, positions, rotary embeddings, the way back to a vocabulary."""

from . import family


def angles(b, S, half):
    """[S, half] in float32."""
    base = b.choose("10000.0", "100.0", "500000.0")
    inverse = b.let(f"{base} ** (-jnp.arange({half}, dtype=float32) / {half})", (half,), "float32")
    if b.chance(0.6):
        position = b.let(f"jnp.arange({S})", (S,), "int32")
    else:
        position = b.input((S,), "int32", ("integers", 0, 2 * b.size(S)), "t")
    style = b.choose("{0}[:, None] * {1}[None, :]", "jnp.einsum('s,k->sk', {0}.astype(float32), {1})",
                     "jnp.outer({0}, {1})")  # fmt: skip
    return b.let(style.format(position, inverse), (S, half), "float32")


@family("sequence", keeps_shape=True, is_wide=True)
def rope(b, x):
    B, S, D = x.shape
    if b.size(D) % 2:
        x = b.let(f"jnp.pad({x}, ((0, 0), (0, 0), (0, 1)))", (B, S, f"({D}+1)"))
    width = x.shape[-1]
    half = f"({width}//2)"
    angle = angles(b, S, half)
    c = b.let(f"jnp.cos({angle}).astype({x.dtype})", (S, half))
    s = b.let(f"jnp.sin({angle}).astype({x.dtype})", (S, half))
    style = b.choose("halves", "interleaved", "rotate")
    if style == "halves":
        one = b.let(f"{x}[..., :{half}]", (B, S, half))
        two = b.let(f"{x}[..., {half}:]", (B, S, half))
        y = b.same(f"jnp.concatenate([{one} * {c} - {two} * {s}, {one} * {s} + {two} * {c}], axis=-1)", x)
    elif style == "interleaved":
        one = b.let(f"{x}[..., ::2]", (B, S, half))
        two = b.let(f"{x}[..., 1::2]", (B, S, half))
        y = b.let(f"jnp.stack([{one} * {c} - {two} * {s}, {one} * {s} + {two} * {c}], -1).reshape({B}, {S}, {width})",
                  x.shape)  # fmt: skip
    else:
        turned = b.same(f"jnp.concatenate([-{x}[..., {half}:], {x}[..., :{half}]], -1)", x)
        y = b.same(f"{x} * jnp.tile({c}, (1, 2)) + {turned} * jnp.tile({s}, (1, 2))", x)
    return b.let(f"{y}[..., :{D}]", (B, S, D)) if width != D else y


@family("sequence", keeps_shape=True, is_wide=True)
def embedding(b, x):
    B, S, D = x.shape
    V = b.dim("V", least=2)
    tokens = b.input((B, S), "int32", ("integers", 0, V), "t")
    table = b.weight((V, D), 4)
    style = b.choose("index", "index", "take", "one_hot", "clip")
    text = {
        "index": f"{table}[{tokens}]",
        "take": f"jnp.take({table}, {tokens}, axis=0)",
        "clip": f"jnp.take({table}, {tokens} + 1, axis=0, mode='clip')",
        "one_hot": f"jax.nn.one_hot({tokens}, {V}, dtype={x.dtype}) @ {table}",
    }[style]
    if style == "one_hot":
        b.work(B, S, V, D)
        b.let(f"jnp.zeros(({B}, {S}, {V}))", (B, S, V))
    return b.same(f"{x} + {b.same(text, x)}", x)


@family("sequence", keeps_shape=True, is_wide=True)
def positions(b, x):
    """Learned positions: whole, sliced from a longer table, or relative."""
    B, S, D = x.shape
    style = b.choose("whole", "sliced", "dynamic", "types")
    if style == "whole":
        return b.same(f"{x} + {b.weight((S, D), 4)}", x)
    if style == "types":
        kinds = b.input((B, S), "int32", ("integers", 0, 2), "t")
        return b.same(f"{x} + jnp.where({kinds}[..., None] == 1, {b.bias((D,))}, {b.bias((D,))})", x)
    table = b.weight((f"({S}+5)", D), 4)
    if style == "sliced":
        return b.same(f"{x} + {table}[3:{S} + 3]", x)
    k = b.input((), "int32", ("fixed", b.choose(0, 2, 5)), "k")
    return b.same(f"{x} + lax.dynamic_slice_in_dim({table}, {k}, {S})", x)


@family("sequence", is_wide=True)
def unembedding(b, x):
    """Logits over a vocabulary, from a table or its transpose, with a soft cap."""
    B, S, D = x.shape
    V = b.dim("V")
    b.work(B, S, D, V)
    if b.chance(0.5):
        y = b.let(f"jnp.einsum('bsd,vd->bsv', {x}, {b.weight((V, D), D)})", (B, S, V))
    else:
        y = b.let(f"{x} @ {b.weight((V, D), D)}.T", (B, S, V))
    if b.chance(0.3):
        y = b.same(f"15 * jnp.tanh({y} / 15)", y)
    if b.chance(0.3):
        y = b.same(f"{y} + {b.bias((V,))}", y)
    return y
