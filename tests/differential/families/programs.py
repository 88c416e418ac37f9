"""Whole small programs that fit no chain: random numbers, caches, decoding, optimisers, losses, branches."""

from . import FLOATS, family

PLAIN = ("float32", "bfloat16", "float16")


@family("free", has_gradient=False, dtypes=PLAIN, is_wide=True)
def random_numbers(b):
    """jax.random from a key made of an input."""
    A, E = shape = (b.dim("A", middle=0.2), b.dim("E"))
    seed = b.input((), "uint32", ("integers", 0, 2**31), "k")
    key = b.let(b.choose(f"jax.random.key({seed})", f"jax.random.PRNGKey({seed})"), ("2",), "uint32")
    if b.chance(0.4):
        key = b.let(f"jax.random.fold_in({key}, {b.choose(0, 1, 77)})", ("2",), "uint32")
    text = f"{', '.join(shape)}"
    n = b.choose(1, 2)
    out = []
    for i in range(n):
        k = b.let(f"jax.random.split({key}, 3)[{i}]", ("2",), "uint32")
        out.append(b.let(b.choose(
            f"jax.random.uniform({k}, ({text}))", f"jax.random.normal({k}, ({text}))",
            f"jax.random.bernoulli({k}, 0.3, ({text}))", f"jax.random.randint({k}, ({text}), 0, 1000)",
            f"jax.random.bits({k}, ({text}))", f"jax.random.truncated_normal({k}, -2.0, 2.0, ({text}))",
            f"jax.random.exponential({k}, ({text}))", f"jax.random.gumbel({k}, ({text}))",
            f"jax.random.uniform({k}, ({text}), minval=-1, maxval=3)", f"jax.random.rademacher({k}, ({text}))",
            f"jax.random.permutation({k}, {E})", f"jax.random.choice({k}, {E}, ({A},))",
            f"jax.vmap(lambda k: jax.random.uniform(k, ({E},)))(jax.random.split({k}, {A}))"
            if b.size(A) <= 129 else f"jax.random.laplace({k}, ({text}))",
        ), shape, "float32"))  # fmt: skip
    return out


@family("free", has_gradient=False, dtypes=FLOATS, is_wide=True)
def dropout(b):
    A, E = shape = (b.dim("A", middle=0.2), b.dim("E"))
    x, seed = b.input(shape), b.input((), "uint32", ("integers", 0, 2**31), "k")
    keep = b.let(f"jax.random.bernoulli(jax.random.key({seed}), 0.8, ({A}, {E}))", shape, "bool")
    return [b.same(f"jnp.where({keep}, {x} / 0.8, 0)", x), keep]


@family("free", has_gradient=False, dtypes=FLOATS)
def kv_cache(b):
    """A step of decoding: new keys and values go into caches that are donated, attention is over them."""
    B, S = b.dim("B", most=33, small=(1, 2, 3, 4), middle=0), b.dim("S")
    H, K = b.dim("H", most=33, small=(1, 2, 3, 4), middle=0), b.dim("K", most=513)
    shape = (B, S, H, K)
    b.let(f"jnp.zeros(({B}, {S}, {H}, {K}))", shape)
    keys, values = b.input(shape), b.input(shape)
    q, k, v = b.input((B, H, K)), b.input((B, H, K)), b.input((B, H, K))
    at = b.input((), "int32", ("integers", 0, S), "k")
    if b.chance(0.6):
        new = [b.let(f"lax.dynamic_update_slice({c}, {n}[:, None], (0, {at}, 0, 0))", shape)
               for c, n in ((keys, k), (values, v))]  # fmt: skip
        seen = b.let(f"(jnp.arange({S}) <= {at})[None, None, :]", ("1", "1", S), "bool")
    else:
        each = b.input((B,), "int32", ("integers", 0, S), "t")
        new = [b.let(b.choose(f"{c}.at[jnp.arange({B}), {each}].set({n})",
                              f"jax.vmap(lambda c, n, i: lax.dynamic_update_slice(c, n[None], (i, 0, 0)))({c}, {n}, {each})"),
                     shape) for c, n in ((keys, k), (values, v))]  # fmt: skip
        seen = b.let(f"(jnp.arange({S})[None, :] <= {each}[:, None])[:, None, :]", (B, "1", S), "bool")
    scores = b.let(f"jnp.einsum('bhk,bshk->bhs', {q}, {new[0]}).astype(float32) * {K}**-0.5", (B, H, S), "float32")
    p = b.let(f"jax.nn.softmax(jnp.where({seen}, {scores}, -1e9)).astype({b.dtype})", (B, H, S))
    y = b.let(f"jnp.einsum('bhs,bshk->bhk', {p}, {new[1]})", (B, H, K))
    if b.chance(0.8):
        b.donated += [str(keys), str(values)]
    return [y, *new]


@family("free", has_gradient=False, dtypes=("float32", "bfloat16"))
def decoding(b):
    """A loop that takes the best token each time. Logits are steps apart."""
    B, V, N = b.dim("B", most=129), b.dim("V", most=1025, least=2), b.fixed("N", b.choose(1, 2, 4, 6))
    table = b.input((V, V), "float32", ("distinct_rows", 0.5))
    b.let(f"jnp.zeros(({B}, {V}))", (B, V))
    first = b.input((B,), "int32", ("integers", 0, V), "t")
    out = b.let(f"jnp.zeros(({B}, {N}), int32)", (B, N), "int32")
    i, s = b.name("p"), b.name("p")
    with b.function(i, s) as f:
        token, tokens = b.lets(s, ((B,), "int32"), ((B, N), "int32"))
        logits = b.let(f"{table}.astype({b.dtype})[{token}]", (B, V))
        taken = b.let(b.choose(f"jnp.argmax({logits}, -1)", f"lax.top_k({logits}, 1)[1][:, 0]"), (B,), "int32")
        f.result = f"{taken}, {tokens}.at[:, {i}].set({taken})"
    return b.lets(f"lax.fori_loop(0, {N}, {f.name}, ({first}, {out}))", ((B,), "int32"), ((B, N), "int32"))


@family("free", has_gradient=False, dtypes=FLOATS, is_wide=True)
def optimizer(b):
    """AdamW with clipping by the norm of all gradients, for tensors of several shapes; all is donated."""
    A, E = b.dim("A"), b.dim("E")
    shapes = [(A, E), (E,), (A,), (b.fixed("C", 3), A)][: b.choose(1, 2, 4)]
    types = b.dtype
    params = [b.input(s, types, letter="w") for s in shapes]
    grads = [b.input(s, types, letter="g") for s in shapes]
    m = [b.input(s, "float32", ("normal", 0.1), "m") for s in shapes]
    v = [b.input(s, "float32", ("uniform", 0.1, 1), "m") for s in shapes]
    t = b.input((), "int32", ("integers", 1, 100), "k")
    squares = " + ".join(f"jnp.sum(jnp.square({g}.astype(float32)))" for g in grads)
    norm = b.let(f"jnp.sqrt({squares})", (), "float32")
    clip = b.let(f"jnp.minimum(1.0, 1.0 / ({norm} + 1e-6))", (), "float32")
    out = [norm]
    for p, g, mi, vi in zip(params, grads, m, v):
        g = b.let(f"{g}.astype(float32) * {clip}", p.shape, "float32")
        mi = b.same(f"0.9 * {mi} + 0.1 * {g}", g)
        vi = b.same(f"0.99 * {vi} + 0.01 * jnp.square({g})", g)
        step = b.same(f"({mi} / (1 - 0.9**{t})) / (jnp.sqrt({vi} / (1 - 0.99**{t})) + 1e-8)", g)
        out += [b.let(f"({p}.astype(float32) - 1e-2 * ({step} + 0.1 * {p}.astype(float32))).astype({types})", p.shape),
                mi, vi]  # fmt: skip
    b.donated += [str(x) for x in (*params, *m, *v)]
    return out


@family("free", has_gradient=False, dtypes=FLOATS, is_wide=True)
def losses(b):
    """Losses and their gradients in logits."""
    A, E = shape = (b.dim("A", middle=0.2), b.dim("E", least=2))
    x = b.input(shape)
    labels = b.input((A,), "int32", ("integers", 0, E), "t")
    target = b.input(shape, "float32", letter="t")
    weight = b.input((A,), "float32", ("uniform", 0, 1), "t")
    with b.function(x) as f:
        h = b.cast(x, "float32") if b.chance(0.8) else x
        log_p = f"jax.nn.log_softmax({h})"
        text = b.choose(
            f"-jnp.take_along_axis({log_p}, {labels}[:, None], 1).mean()",
            f"-(jax.nn.one_hot({labels}, {E}) * {log_p}).sum(-1).mean()",
            f"jnp.sum({weight} * (jax.scipy.special.logsumexp({h}, -1) - {h}[jnp.arange({A}), {labels}]))",
            f"jnp.mean(jnp.square({h} - {target}))",
            f"jnp.where(jnp.abs({h} - {target}) < 1, 0.5 * jnp.square({h} - {target}), "
            f"jnp.abs({h} - {target}) - 0.5).mean()",
            f"(jax.nn.softplus({h}) - {h} * (jnp.arange({E}) == {labels}[:, None])).mean()",
            f"(jax.nn.softmax({target}) * (jax.nn.log_softmax({target}) - {log_p})).sum(-1).mean()",
            f"-((0.9 * jax.nn.one_hot({labels}, {E}) + 0.1 / {E}) * {log_p}).sum(-1).mean()",
            f"1 - (({h} * {target}).sum(-1) / jnp.sqrt(jnp.square({h}).sum(-1) * jnp.square({target}).sum(-1) + 1e-3))"
            ".mean()",
            f"jnp.maximum(0, 1 + {h} - {h}[jnp.arange({A}), {labels}][:, None]).mean()",
        )  # fmt: skip
        f.result = b.let(f"{text}.astype(float32)" if text.startswith("jnp") or text.startswith("(")
                         else f"({text}).astype(float32)", (), "float32")  # fmt: skip
    return b.lets(f"jax.value_and_grad({f.name})({x})", ((), "float32"), (shape, x.dtype))


@family("free", has_gradient=False, dtypes=("int32", "float32"))
def control(b):
    """Loops and branches that data decide."""
    A, E = shape = (b.dim("A", most=513), b.dim("E", most=1025))
    x = b.input(shape, b.dtype, ("integers", 0, 20))
    n = b.input((), "int32", ("integers", 0, 7), "k")
    one = f"jnp.asarray(1, {b.dtype})"
    text = b.choose(
        f"lax.while_loop(lambda s: s.sum() < 100000, lambda s: s + s + 1, {x} + 1)",
        f"lax.fori_loop(0, {n}, lambda i, s: s + i.astype({b.dtype}), {x})",
        f"lax.fori_loop(2, {n}, lambda i, s: jnp.where(s > i, s - i.astype({b.dtype}), s * 2), {x})",
        f"lax.scan(lambda c, r: (c + r, c - r), {x}[0], {x})[1]",
        f"lax.cond({n} > 3, lambda s: s * 2, lambda s: s - 1, {x})",
        f"lax.switch({n}, [lambda s: s + 1, lambda s: s[::-1], lambda s: s * s, lambda s: jnp.zeros_like(s)], {x})",
        f"(lambda a, b: {x} + lax.switch({n}, [lambda: a, lambda: b, lambda: a - b]))({x}.max() * 2, {x}[0, 0] + {one})",
        f"(lambda a, b: lax.cond({n} > 3, lambda: (a, b), lambda: (b, a)))({x} * 2, {x}[::-1])[0]",
        f"lax.fori_loop(0, {n}, lambda i, s: (s[1], s[2], s[0]), ({x}, {x} + {one}, {x} * 2))[0]",
        f"lax.map(lambda r: jnp.cumsum(r)[-1] + r, {x})",
        f"lax.fori_loop(0, 3, lambda i, s: lax.cond(i < {n}, lambda t: t + {one}, lambda t: t * 2, s), {x})",
        f"jax.vmap(lambda r, k: lax.cond(k > 5, lambda: r, lambda: -r))({x}, {x}[:, 0])",
        f"lax.fori_loop(0, {n}, lambda i, s: s.at[i % {A}].add({one}), {x})",
        f"lax.while_loop(lambda s: s[0] > 0, lambda s: (s[0] - 1, jnp.roll(s[1], 1, 0)), ({n}, {x}))[1]",
        f"lax.scan(lambda c, k: (lax.switch(k % 3, [lambda t: t + 1, lambda t: t * 2, lambda t: -t], c), None), {x}, "
        f"jnp.arange(4))[0]",
    )  # fmt: skip
    return [b.let(text, shape), n]


@family("free", has_gradient=False, dtypes=PLAIN, is_wide=True)
def conversions(b):
    """From type to type, through bits too."""
    A, E = shape = (b.dim("A", middle=0.2), b.dim("E"))
    x = b.input(shape)
    whole = b.input(shape, "int32", ("integers", -3000, 3000))
    flags = b.input(shape, "bool", ("truth",), "t")
    options = [
        f"{x}.astype(float32)", f"{x}.astype(bfloat16)", f"{x}.astype(float16)", f"({x} * 10).astype(int32)",
        f"{whole}.astype({b.dtype})", f"{whole}.astype(int8)", f"{whole}.astype(uint8)", f"{whole}.astype(uint16)",
        f"{flags}.astype({b.dtype})", f"{flags}.astype(int32) * {whole}", f"{x} > 0", f"{whole}.astype(bool)",
        f"{x}.astype(bfloat16).astype(float32) - {x}.astype(float32)", f"jnp.where({flags}, {x}, {whole})",
        f"lax.bitcast_convert_type({x}, {'uint32' if b.dtype == 'float32' else 'uint16'})",
        f"lax.bitcast_convert_type({x}, {'int32' if b.dtype == 'float32' else 'int16'}) >> 2",
        f"{x} + {whole}.astype(bfloat16)", f"lax.reduce_precision({x}, 8, 7)", f"jnp.isfinite({x}) & {flags}",
        f"(jnp.abs({x}) * 20).astype(uint8)", f"{x} * {flags}",
    ]  # fmt: skip
    return [b.let(text, shape) for text in b.rng.sample(options, b.choose(2, 3, 5))]


@family("free", has_gradient=False, dtypes=PLAIN, is_wide=True)
def not_finite(b):
    """NaN, infinities and zeros of both signs on their way through."""
    A, E = shape = (b.dim("A", middle=0.2), b.dim("E"))
    x, y = (b.input(shape, fill=("spiked",)) for _ in range(2))
    options = [
        f"{x} + {y}", f"{x} * {y}", f"{x} / {y}", f"jnp.maximum({x}, {y})", f"jnp.minimum({x}, {y})", f"{x}.max(0)",
        f"{x}.min(1)", f"jnp.isnan({x})", f"jnp.isinf({x})", f"jnp.isfinite({x} * {y})", f"jnp.nan_to_num({x})",
        f"{x} > {y}", f"{x} == {y}", f"{x} != {y}", f"jnp.where({x} > 0, {y}, {x})", f"jnp.exp({x})", f"jnp.tanh({x})",
        f"jax.nn.relu({x})", f"jnp.sqrt({x})", f"jnp.abs({x})", f"-{x}", f"jnp.sign({x})", f"jnp.clip({x}, -1, 1)",
        f"jnp.sort({x}, axis=1)", f"{x}.argmax(1)", f"jax.nn.sigmoid({x})", f"jnp.where(jnp.isnan({x}), 0, {x}).sum(1)",
        f"1 / {x}", f"lax.rsqrt({x})", f"jnp.log({x})", f"jnp.concatenate([{x}, {y}], 0)[::2]", f"{x}.sum()",
        f"jax.nn.softmax({x})", f"lax.cummax({x}, axis=1)", f"jnp.nanmax({x}, 0)", f"jnp.floor({x})",
    ]  # fmt: skip
    return [b.let(text, shape) for text in b.rng.sample(options, b.choose(2, 3, 5))]


@family("free", has_gradient=False, dtypes=FLOATS)
def matmuls(b):
    """Products of any layout: transposed, batched, over several dimensions, vectors, with results in fp32."""
    M, K, N = b.dim("M"), b.dim("K"), b.dim("N")
    B = b.dim("B", most=33, small=(1, 2, 3, 4), middle=0)
    style = b.choose("plain", "transposed", "left", "both", "batched", "vector", "outer", "wide", "two", "chain", "sum")
    b.work(B if style in ("batched", "two") else "1", M, K, N)
    scale = (("normal", f"{K}**-0.5"),)
    if style == "plain":
        return [b.let(f"{b.input((M, K))} @ {b.input((K, N), None, *scale)}", (M, N))]
    if style == "transposed":
        return [b.let(f"{b.input((M, K))} @ {b.input((N, K), None, *scale)}.T", (M, N))]
    if style == "left":
        return [b.let(f"{b.input((K, M))}.T @ {b.input((K, N), None, *scale)}", (M, N))]
    if style == "both":
        return [b.let(f"({b.input((N, K))} @ {b.input((K, M), None, *scale)}).T + {b.input((N,))}", (M, N))]
    if style == "batched":
        return [b.let(f"jnp.einsum('bmk,bkn->bmn', {b.input((B, M, K))}, {b.input((B, K, N), None, *scale)})", (B, M, N))]
    if style == "vector":
        return [b.let(f"{b.input((M, K))} @ {b.input((K,), None, *scale)}", (M,)),
                b.let(f"{b.input((K,), None, *scale)} @ {b.input((K, N))}", (N,))]  # fmt: skip
    if style == "outer":
        return [b.let(f"jnp.outer({b.input((M,))}, {b.input((N,))}) + {b.input((N,))}", (M, N))]
    if style == "wide":
        return [b.let(f"jnp.matmul({b.input((M, K))}, {b.input((K, N), None, *scale)}, preferred_element_type=float32)",
                      (M, N), "float32")]  # fmt: skip
    if style == "two":
        return [b.let(f"jnp.einsum('bmk,bkn->mn', {b.input((B, M, K))}, {b.input((B, K, N), None, *scale)})", (M, N))]
    x = b.input((M, K))
    one, two = b.weight((K, N), K), b.weight((K, N), K)
    b.work(M, K, N)
    if style == "chain":
        h = b.let(f"{x} @ {one}", (M, N))
        return [h, b.let(f"jnp.maximum({h}, 0).T @ {x}", (N, K))]
    return [b.let(f"{x} @ {one} + {x} @ {two}", (M, N)), b.let(f"({x} @ {one} - {b.input((N,))}).max(0)", (N,))]
