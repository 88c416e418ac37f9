"""What is done with a model: run it, differentiate and update it, scan, map, branch and loop over it."""

from .families import FAMILIES


def start(b, kind):
    """The activation that the first family takes."""
    if kind == "sequence":
        shape = b.dim("B", most=33, middle=0.1, small=(1, 2, 3, 4)), b.dim("S", middle=0.15), b.dim("D")
    else:
        shape = (b.dim("N", most=64, middle=0, small=(1, 1, 2, 3)), b.dim("H", most=257, middle=0.1),
                 b.dim("W", most=129, middle=0.1), b.dim("C"))  # fmt: skip
    return b.input(shape)


def layer(b, names, x):
    """Families one after the other, with a normalisation between, now and then around a shortcut."""
    for i, name in enumerate(names):
        family = FAMILIES[name]
        if i and b.chance(0.7):
            mean = f"jnp.mean(jnp.square({x}.astype(float32)), -1, keepdims=True)"
            x = b.same(f"{x} * lax.rsqrt({mean} + 1e-2).astype({x.dtype})", x)
        y = family.build(b, x)
        if family.keeps_shape and b.chance(0.4):
            y = b.same(f"{x} + {y}", x)
        x = y
    return x


def loss_of(b, y):
    """A scalar in float32."""
    y = b.cast(y, "float32")
    kind = b.choose("square", "square", "weighted", "log", *["entropy"] * (len(y.shape) > 1))
    if kind == "square":
        return b.let(f"jnp.mean({y} ** 2)", (), "float32")
    if kind == "weighted":
        target = b.input(y.shape, "float32", letter="t")
        return b.let(f"jnp.mean({y} * {target})", (), "float32")
    if kind == "log":
        return b.let(f"jnp.mean(jnp.log1p({y} ** 2))", (), "float32")
    labels = b.input(y.shape[:-1], "int32", ("integers", 0, y.shape[-1]), "t")
    log_p = b.same(f"jax.nn.log_softmax({y})", y)
    if b.chance(0.5):
        return b.let(f"-jnp.mean(jnp.take_along_axis({log_p}, {labels}[..., None], axis=-1))", (), "float32")
    return b.let(f"-jnp.mean(jnp.sum({log_p} * jax.nn.one_hot({labels}, {y.shape[-1]}), axis=-1))", (), "float32")


def differentiated(b, names, kind, is_checkpointed=False):
    """value_and_grad of a loss -> (loss, gradients, the inputs that they belong to)."""
    with b.function() as f:
        f.result = loss_of(b, layer(b, names, start(b, kind)))
    floats = [b.find(n) for n in f.inputs if n[0] in "xw" and b.find(n).dtype in ("float32", "bfloat16", "float16")]
    set_params(b, f, [x.name for x in floats])
    function = f"jax.checkpoint({f.name})" if is_checkpointed else f.name
    every = ", ".join(str(i) for i in range(len(floats)))
    gradients_type = (("()",), "float32")
    names = ", ".join(x.name for x in floats)
    value, gradients = b.lets(
        f"jax.value_and_grad({function}, argnums=({every},))({names})", ((), "float32"), gradients_type,
        alternatives=(f"{f.name}({names}), None",),
    )  # fmt: skip
    return value, b.lets(gradients, *((x.shape, x.dtype) for x in floats)), floats


def set_params(b, scope, names):
    """Gives a finished function parameters that shadow the inputs of these names."""
    import dataclasses

    body = b.scopes[-1].body
    body[-1] = dataclasses.replace(body[-1], params=tuple(names))


def forward(b, names, kind):
    """Now and then values on the way are results too."""
    y = layer(b, names, start(b, kind))
    inner = [t for s in b.scopes[0].body for t in getattr(s, "targets", ()) if t != y and t in b.shapes]
    b.outputs = [*b.rng.sample(inner, min(len(inner), b.choose(0, 0, 1, 2))), y]


def gradient(b, names, kind):
    value, gradients, _ = differentiated(b, names, kind, is_checkpointed=b.chance(0.2))
    b.outputs = [value, *gradients]


def sgd(b, names, kind):
    value, gradients, floats = differentiated(b, names, kind)
    b.outputs = [value]
    for g, x in zip(gradients, floats):
        if x.name[0] == "w" or x is floats[0]:
            b.outputs.append(b.let(f"{x.name} - (0.1 * {g}).astype({x.dtype})", x.shape, x.dtype))
            b.donated.append(x.name)


def adam(b, names, kind):
    value, gradients, floats = differentiated(b, names, kind)
    b.outputs = [value]
    for g, x in zip(gradients, floats):
        if x.name[0] != "w" and x is not floats[0]:
            continue
        g = b.cast(g, "float32")
        m = b.input(x.shape, "float32", ("normal", 0.1), "m")
        v = b.input(x.shape, "float32", ("uniform", 0.5, 1.0), "m")
        m2 = b.same(f"0.9 * {m} + 0.1 * {g}", g)
        v2 = b.same(f"0.999 * {v} + 0.001 * {g} * {g}", g)
        step = b.same(f"0.01 * ({m2} / 0.9) / (jnp.sqrt({v2} / 0.99) + 1e-8)", g)
        b.outputs += [b.let(f"{x.name} - {step}.astype({x.dtype})", x.shape, x.dtype), m2, v2]
        b.donated += [x.name, str(m), str(v)]


def scanned(b, names, x):
    """lax.scan of layers with stacked weights; the carry is the activation if its shape stays."""
    L = b.fixed("L", b.choose(1, 2, 3, 4, 5))
    p, q = b.name("p"), b.name("p")
    keeps = all(FAMILIES[n].keeps_shape for n in names)
    with b.function(p, q) as f:
        slot = len(f.body)
        like = type(x).of(p, x.shape, x.dtype)
        y = layer(b, names, like)
        if keeps:
            y = b.same(f"jnp.tanh({y})" if b.chance(0.5) else f"{y} * 0.5 + {p} * 0.5", x)
            f.result = f"{y}, {b.let(f'jnp.sum({y}.astype(float32))', (), 'float32')}"
        else:
            f.result = f"{p} * 0.5, {y}"
        stacked = [n for n in f.inputs if b.find(n).dtype != "int32"]
        from .program import Let

        if stacked:
            f.body.insert(slot, Let(tuple(stacked), q, (), True))
    for n in stacked:
        b.replace_input(n, shape=(L, *b.find(n).shape))
    every = "(" + "".join(f"{n}, " for n in stacked) + ")" if stacked else "None"
    first = "(" + "".join(f"{n}[0], " for n in stacked) + ")" if stacked else "None"
    options = "" if b.chance(0.7) else ", reverse=True"
    options += "" if stacked else f", length={L}"
    carried, ys = b.lets(
        f"lax.scan({f.name}, {x}, {every}{options})", (x.shape, x.dtype),
        ((L,), "float32") if keeps else ((L, *y.shape), y.dtype),
        alternatives=(f"{f.name}({x}, {first})",),
    )  # fmt: skip
    return carried, ys


def scan(b, names, kind):
    b.outputs = list(scanned(b, names, start(b, kind)))


def scan_gradient(b, names, kind):
    with b.function() as f:
        carried, ys = scanned(b, names, start(b, kind))
        first = loss_of(b, carried)
        f.result = b.let(f"{first} + jnp.mean({ys}.astype(float32) ** 2)", (), "float32")
    floats = [b.find(n) for n in f.inputs if n[0] in "xw" and b.find(n).dtype in ("float32", "bfloat16", "float16")]
    set_params(b, f, [x.name for x in floats])
    every = ", ".join(str(i) for i in range(len(floats)))
    value, gradients = b.lets(
        f"jax.value_and_grad({f.name}, argnums=({every},))({', '.join(x.name for x in floats)})",
        ((), "float32"), ((), "float32"),
    )  # fmt: skip
    b.outputs = [value, *b.lets(gradients, *((x.shape, x.dtype) for x in floats))]


def mapped(b, names, kind):
    """jax.vmap over the activation and some of the weights, at dimension 0 or the last."""
    V = b.fixed("V", b.choose(1, 2, 3, 5))
    with b.function() as f:
        y = layer(b, names, start(b, kind))
        f.result = y
    axes = []
    for i, n in enumerate(f.inputs):
        x = b.find(n)
        axis = b.choose(0, 0, len(x.shape)) if i == 0 else b.choose(None, None, 0)
        axes.append(axis)
        if axis is not None:
            b.replace_input(n, shape=(*x.shape[:axis], V, *x.shape[axis:]))
    set_params(b, f, f.inputs)
    out_axis = b.choose(0, 0, 0, 1) if y.shape else 0
    out = f", out_axes={out_axis}" if out_axis else ""
    in_axes = "(" + "".join(f"{a}, " for a in axes) + ")"
    shape = (*y.shape[:out_axis], V, *y.shape[out_axis:])
    b.outputs = [b.let(f"jax.vmap({f.name}, in_axes={in_axes}{out})({', '.join(f.inputs)})", shape, y.dtype)]


def branch(b, names, kind):
    """lax.cond or lax.switch between the layer and something simple."""
    x = start(b, kind)
    p = b.name("p")
    with b.function(p) as f:
        y = f.result = layer(b, names, type(x).of(p, x.shape, x.dtype))
    p2 = b.name("p")
    with b.function(p2) as g:
        filled = f"jnp.full(({', '.join(y.shape)},), 0.25, {y.dtype})"
        g.result = b.same(f"{filled} * {p2}.sum().astype({y.dtype})" if b.chance(0.5) else filled, y)
    n = b.choose(0, 1)
    k = b.input((), "int32", ("fixed", n), "k")
    if b.chance(0.5):
        expr = f"lax.cond({k} == 0, {f.name}, {g.name}, {x})"
    else:
        expr = f"lax.switch({k}, [{f.name}, {g.name}, {f.name}], {x})"
    b.outputs = [b.let(expr, y.shape, y.dtype, alternatives=(f"{f.name}({x})", f"{g.name}({x})")), k]


def loop(b, names, kind):
    """fori_loop or while_loop over the layer, as often as an input says."""
    x = start(b, kind)
    n = b.input((), "int32", ("fixed", b.choose(0, 1, 2, 3)), "k")
    i, p = b.name("p"), b.name("p")
    like = type(x).of(p, x.shape, x.dtype)
    with b.function(i, p) as f:
        y = layer(b, names, like)
        if all(FAMILIES[name].keeps_shape for name in names):
            f.result = b.same(f"{y} * 0.5 + {p} * 0.5", x)
        else:
            f.result = b.same(f"{p} * (1 + jnp.tanh({y}.astype(float32).mean())).astype({x.dtype})", x)
    if b.chance(0.5):
        out = b.let(f"lax.fori_loop(0, {n}, {f.name}, {x})", x.shape, x.dtype, (f"{f.name}(0, {x})",))
        b.outputs = [out]
        return
    s = b.name("p")
    with b.function(s) as g:
        count, inner = b.lets(s, ((), "int32"), (x.shape, x.dtype))
        g.result = f"{count} + 1, {f.name}({count}, {inner})"
    b.outputs = b.lets(
        f"lax.while_loop(lambda s: s[0] < {n}, {g.name}, (0, {x}))", ((), "int32"), (x.shape, x.dtype),
        alternatives=(f"{g.name}((0, {x}))",),
    )  # fmt: skip


WITHOUT_GRADIENT = {"forward": forward, "scan": scan, "map": mapped, "branch": branch, "loop": loop}
WITH_GRADIENT = {"gradient": gradient, "sgd": sgd, "adam": adam, "scan_gradient": scan_gradient}
WRAPPERS = {**WITHOUT_GRADIENT, **WITH_GRADIENT}
