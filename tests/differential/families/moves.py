"""Layout and places: concatenations, pads, transposes, slices and updates, gathers, sorting, reductions."""

from . import family


@family("sequence", keeps_shape=True, is_wide=True)
def layout(b, x):
    """What only moves elements, with an elementwise operation between."""
    B, S, D = x.shape
    for _ in range(b.choose(1, 2, 3)):
        w = b.bias((D,))
        text = b.choose(
            f"jnp.roll({x}, 1, axis={b.choose(0, 1, 2)})",
            f"jnp.flip({x}, {b.choose(0, 1, 2, (0, 2), (1, 2))})",
            f"jnp.concatenate([{x}[:, {S}//2:], {x}[:, :{S}//2]], axis=1)",
            f"jnp.concatenate([{x}[..., {D}//3:], {x}[..., :{D}//3] * 2], axis=-1)",
            f"jnp.pad({x}, ((0, 0), (1, 2), (3, 0)))[:, 1:{S} + 1, 2:{D} + 2]",
            f"jnp.pad({x}, ((0, 0), (1, 0), (0, 0)), mode='edge')[:, :{S}]",
            f"lax.pad({x}, jnp.asarray(0.5, {x.dtype}), ((0, 0, 0), (2, -1, 1), (-1, 1, 0)))[:, :{S}, :{D}]"
            if b.size(S) > 1 else f"{x} + {w}",
            f"(jnp.transpose({x}, (2, 0, 1)) * 0.5).transpose(1, 2, 0) + {w}",
            f"(jnp.swapaxes({x}, 1, 2).reshape({B}, {S}, {D}) + {w})",
            f"({x}.reshape(-1) * 0.5).reshape({D}, {S}, {B}).transpose(2, 1, 0)",
            f"jnp.moveaxis(jnp.stack([{x}, -{x}], 0), 0, -1).sum(-1) + {w}",
            f"jnp.stack([{x} * 2, {x} + {w}], axis=1)[:, 1]",
            f"jnp.repeat({x}, 2, axis=1)[:, ::2] + {w}",
            f"jnp.tile({x}, (1, 2, 1))[:, 1:{S} + 1]",
            f"jnp.broadcast_to({x}[:, :1], {x}.shape) + {x}",
            f"jnp.concatenate([{x}, {x} + {w}], 0)[::2]",
            f"jnp.split({x}, [{S}//2], axis=1)[1].sum(1, keepdims=True) + {x}",
            f"jnp.rot90({x}, 2, axes=(1, 2))",
            f"jnp.tril({x}) + jnp.triu({x}, 1) * 2",
            f"{x}[:, jnp.arange({S})[::-1]]",
            f"jnp.squeeze(jnp.expand_dims({x}, 1) * 2, 1)",
        )  # fmt: skip
        x = b.same(text, x)
    return x


@family("sequence", keeps_shape=True, is_wide=True)
def slices(b, x):
    """Static and dynamic slices, and updates in place."""
    B, S, D = x.shape
    k = b.input((), "int32", ("integers", -2, 2 * b.size(S) // 3 + 2), "k")
    L = b.fixed("L", max(1, b.size(S) // b.choose(1, 2, 3)))
    part = (B, L, D)
    text = b.choose(
        f"lax.dynamic_update_slice_in_dim({x}, lax.dynamic_slice_in_dim({x}, {k}, {L}, 1) * 2, 0, 1)",
        f"lax.dynamic_update_slice({x}, {b.input(part)}, (0, {k}, 0))",
        f"{x}.at[:, {k}].set(0.5)",
        f"{x}.at[:, {k}].add({b.bias((D,))})",
        f"{x}.at[:, :{L}].multiply(0.5)",
        f"{x}.at[:, ::2].add(1)",
        f"{x}.at[..., -1].set({x}[..., 0])",
        f"{x} + lax.dynamic_index_in_dim({x}, {k}, 1)",
        f"{x}.at[:, :{L}].max({b.input(part)})",
        f"{x} + lax.dynamic_slice({x}, (0, {k}, {k}), ({B}, 1, 1))",
        f"lax.slice_in_dim(jnp.concatenate([{x}, {x}], 1), 1, {S} + 1, axis=1) - {x}",
        f"jnp.where(jnp.arange({S})[:, None] < {k}, {x}, {b.bias((D,))})",
    )
    return b.same(text, x)


@family("sequence", keeps_shape=True)
def places(b, x):
    """Gathers and scatters at places that inputs give, some of them equal."""
    B, S, D = x.shape
    N = b.dim("N", most=513)
    rows = b.input((N,), "int32", ("integers", 0, S), "t")
    own = b.input((B, S), "int32", ("integers", 0, S), "t")
    features = b.input((N,), "int32", ("integers", 0, D), "t")
    b.let(f"jnp.zeros(({B}, {N}, {D}))", (B, N, D))
    text = b.choose(
        f"{x}.at[:, {rows}].add({b.input((B, N, D))} * 0.2)",
        f"{x} + {x}[:, {rows}].mean(1, keepdims=True)",
        f"jnp.take_along_axis({x}, {own}[..., None], axis=1)",
        f"{x} + jnp.take({x}, {features}, axis=-1).sum(-1, keepdims=True) / {N}",
        f"{x}.at[:, {rows}, {features}].add(0.25)",
        f"{x} + {x}[:, {rows}, {features}].sum(-1)[:, None, None] / {N}",
        f"{x}.at[jnp.arange({B})[:, None], {own}].add({x})",
        f"{x} + jax.ops.segment_sum({b.input((N, D))}, {rows}, num_segments={S}) / {N}",
        f"{x}.at[:, {rows}].max({b.input((B, N, D))})",
        f"jnp.take({x}, {own}[0], axis=1, mode='clip')",
        f"{x}.at[:, {rows} + {S} - 1].add(1, mode='drop')",
        f"{x} + {x}.at[:, {rows} + 1].get(mode='fill', fill_value=0).mean(1, keepdims=True)",
    )
    return b.same(text, x)


@family("sequence", keeps_shape=True)
def order(b, x):
    """Sorting and the largest elements. Indices come of an input whose values are well apart."""
    B, S, D = x.shape
    apart = b.input((B, S), "float32", ("distinct_rows", 0.5), "r")
    K = b.fixed("K", max(1, min(b.size(D), b.choose(1, 2, 5, 8, 9))))
    text = b.choose(
        f"jnp.sort({x}, axis={b.choose(0, 1, 2)})",
        f"-jnp.sort(-{x}, axis=-1)",
        f"jnp.take_along_axis({x}, jnp.argsort({apart}, axis=1)[..., None], axis=1)",
        f"{x} + lax.top_k({x}, {K})[0].sum(-1, keepdims=True)",
        f"{x} * jnp.argsort(jnp.argsort({apart}, 1), 1)[..., None].astype({x.dtype}) / {S}",
        f"jnp.where({x} >= lax.top_k({x}, {K})[0][..., -1:], {x}, 0)",
        f"lax.sort(({apart}[..., None] + jnp.zeros({x}.shape), {x}), dimension=1, num_keys=1)[1]",
        f"{x} + jnp.take_along_axis({x}, jnp.argmax({apart}, 1)[:, None, None], 1)",
        f"{x} * jax.nn.one_hot(jnp.argmin({apart}, 1), {S}, dtype={x.dtype})[..., None]",
        f"{x} - jnp.median({x}.astype(float32), axis=-1, keepdims=True).astype({x.dtype})",
    )
    return b.same(text, x)


@family("sequence", keeps_shape=True, is_wide=True)
def reductions(b, x):
    """Reductions over any dimensions, brought back to the shape."""
    axes = b.choose("0", "1", "2", "(0, 1)", "(0, 2)", "(1, 2)", "None")
    n = "*".join(x.shape[i] for i in range(3) if str(i) in axes) if axes != "None" else "*".join(x.shape)
    h = b.cast(x, "float32") if b.chance(0.4) else x
    text = b.choose(
        "{0} - {0}.mean({1}, keepdims=True)",
        "{0} + {0}.sum({1}, keepdims=True) * ({2})**-0.5",
        "{0} - {0}.max({1}, keepdims=True)",
        "{0} * (0.5 + {0}.var({1}, keepdims=True))",
        "{0} + {0}.min({1}, keepdims=True)",
        "{0} + ({0} > 0).sum({1}, keepdims=True).astype({3}) / ({2})",
        "jnp.where(({0} > 4).any({1}, keepdims=True), 0, {0})",
        "{0} + jnp.prod(1 + 0.1 * jnp.tanh({0}) / ({2}), {1}, keepdims=True)",
        "{0} / jnp.sqrt(1 + jnp.square({0}).sum({1}, keepdims=True))",
        "{0} + jnp.abs({0}).max({1}, keepdims=True)",
        "{0} + jnp.linalg.norm({0}, axis={1}, keepdims=True) * ({2})**-0.5" if axes in ("0", "1", "2")
        else "{0} + jnp.square({0}).mean({1}, keepdims=True)",
    )  # fmt: skip
    return b.cast(b.same(text.format(h, axes, n, h.dtype), h), x.dtype)


@family("sequence", ends=True, is_wide=True)
def reduced(b, x):
    """Reductions that take dimensions away, of something computed."""
    axis = b.choose(0, 1, 1, 2)
    shape = tuple(d for i, d in enumerate(x.shape) if i != axis)
    kind = b.choose("sum", "mean", "max", "min")
    if kind in ("max", "min"):
        # In a short type many values near 1 round to it, and how many decides the gradient of each.
        y = b.let(f"jnp.tanh({x}.astype(float32) * 0.25).{kind}({axis}).astype({x}.dtype)", shape)
    else:
        y = b.let(f"jnp.tanh({x}).{kind}({axis})", shape)
    if b.chance(0.5):
        return b.let(f"{y} * {y}.mean()", shape)
    other = b.input((*shape, b.dim("Q", most=129)))
    return b.let(f"{y}[..., None] + {other}", other.shape)
