"""Attention: multi-head, grouped query, causal; softmax in float32 or the type of the activations."""

from . import family


def heads(b, x, w, n_heads, width):
    """x[B, S, D] @ w[D, N*K] -> [B, S, N, K]."""
    y = b.matmul(x, w)
    return b.let(f"{y}.reshape({x.shape[0]}, {x.shape[1]}, {n_heads}, {width})", (*x.shape[:2], n_heads, width))


@family("sequence", keeps_shape=True)
def attention(b, x):
    B, S, D = x.shape
    K = b.dim("K", most=513)
    G = b.dim("G", most=12, small=(1, 1, 2, 3), middle=0)
    R = b.dim("R", most=12, small=(1, 1, 2, 3), middle=0)  # query heads that share a key head
    H = f"({R}*{G})"
    b.work(B, H, S, S, K, 2)
    q = heads(b, x, b.weight((D, f"{H}*{K}"), D), H, K)
    k = heads(b, x, b.weight((D, f"{G}*{K}"), D), G, K)
    v = heads(b, x, b.weight((D, f"{G}*{K}"), D), G, K)
    if b.chance(0.5):
        if b.chance(0.5):
            k = b.let(f"jnp.repeat({k}, {R}, axis=2)", (B, S, H, K))
            v = b.let(f"jnp.repeat({v}, {R}, axis=2)", (B, S, H, K))
        else:
            k = b.let(f"jnp.broadcast_to({k}[:, :, None], ({B}, {S}, {R}, {G}, {K})).reshape({B}, {S}, {H}, {K})",
                      (B, S, H, K))  # fmt: skip
            v = b.let(f"jnp.broadcast_to({v}[:, :, None], ({B}, {S}, {R}, {G}, {K})).reshape({B}, {S}, {H}, {K})",
                      (B, S, H, K))  # fmt: skip
        scores = b.let(f"jnp.einsum('bqhk,bshk->bhqs', {q}, {k})", (B, H, S, S))
        weighted = "jnp.einsum('bhqs,bshk->bqhk', {p}, {v})"
    else:
        q = b.let(f"{q}.reshape({B}, {S}, {G}, {R}, {K})", (B, S, G, R, K))
        scores = b.let(f"jnp.einsum('bqgrk,bsgk->bgrqs', {q}, {k})", (B, G, R, S, S))
        weighted = "jnp.einsum('bgrqs,bsgk->bqgrk', {p}, {v})"
    if b.chance(0.6):
        scores = b.cast(scores, "float32")
    scores = b.same(f"{scores} * {K}**-0.5", scores)
    if b.chance(0.6):
        scores = b.same(f"jnp.where(jnp.tril(jnp.ones(({S}, {S}), bool)), {scores}, {b.choose(-1e9, -3e4)})", scores)
    if b.chance(0.7):
        p = b.same(f"jax.nn.softmax({scores}, axis=-1)", scores)
    else:
        e = b.same(f"jnp.exp({scores} - {scores}.max(-1, keepdims=True))", scores)
        p = b.same(f"{e} / {e}.sum(-1, keepdims=True)", scores)
    p = b.cast(p, b.dtype)
    y = b.let(weighted.format(p=p, v=v), (B, S, H, K))
    y = b.let(f"{y}.reshape({B}, {S}, {H}*{K})", (B, S, f"{H}*{K}"))
    return b.matmul(y, b.weight((f"{H}*{K}", D), f"{H}*{K}"))
