"""Mixtures of experts. Routing follows inputs that are well apart, so that rounding moves no token."""

from . import family


def route(b, x, tokens, experts):
    """Logits [tokens, experts]: an input with steps of one, and a little of the activation."""
    D = x.shape[-1]
    apart = b.input((tokens, experts), "float32", ("distinct_rows", 1.0), "r")
    flat = b.let(f"{x}.reshape({tokens}, {D})", (tokens, D))
    small = b.let(f"jnp.tanh({flat} @ {b.weight((D, experts), D)}).astype(float32)", (tokens, experts), "float32")
    return flat, b.same(f"{apart} + 0.1 * {small}", small)


def experts_of(b, x):
    B, S, D = x.shape
    E = b.dim("E", most=33, small=(2, 3, 4, 5, 8), middle=0, least=2)
    F = b.dim("F", most=513)
    T = f"({B}*{S})"
    b.work(T, E, D, F, 2)
    return T, E, F


@family("sequence", keeps_shape=True)
def moe_one_hot(b, x):
    """Every expert sees every token; a one-hot gate chooses."""
    T, E, F = experts_of(b, x)
    D = x.shape[-1]
    flat, logits = route(b, x, T, E)
    gates = b.same(f"jax.nn.softmax({logits})", logits)
    chosen = b.let(f"jnp.argmax({logits}, axis=-1)", (T,), "int32")
    gate = b.same(f"{gates} * jax.nn.one_hot({chosen}, {E})", gates)
    if b.chance(0.4):
        runner_up = b.let(f"jnp.argmax(jnp.where(jax.nn.one_hot({chosen}, {E}) > 0, -jnp.inf, {logits}), -1)",
                          (T,), "int32")  # fmt: skip
        gate = b.same(f"{gate} + {gates} * jax.nn.one_hot({runner_up}, {E})", gate)
        gate = b.same(f"{gate} / {gate}.sum(-1, keepdims=True)", gate)
    gate = b.cast(gate, x.dtype)
    h = b.let(f"jax.nn.silu(jnp.einsum('td,edf->etf', {flat}, {b.weight((E, D, F), D)}))", (E, T, F))
    y = b.let(f"jnp.einsum('etf,efd->etd', {h}, {b.weight((E, F, D), F)})", (E, T, D))
    y = b.let(f"jnp.einsum('etd,te->td', {y}, {gate})", (T, D))
    return b.let(f"{y}.reshape({', '.join(x.shape)})", x.shape)


@family("sequence", keeps_shape=True)
def moe_capacity(b, x):
    """Each expert takes the first tokens that chose it, up to its capacity; others pass by."""
    T, E, F = experts_of(b, x)
    D = x.shape[-1]
    C = b.fixed("C", max(1, -(-2 * b.size(T) // b.size(E)) if b.chance(0.5) else b.size(T) // b.size(E)))
    b.work(T, E, C, D, 2)
    flat, logits = route(b, x, T, E)
    chosen = b.let(f"jax.nn.one_hot(jnp.argmax({logits}, -1), {E}, dtype=int32)", (T, E), "int32")
    place = b.same(f"jnp.cumsum({chosen}, axis=0) * {chosen} - 1", chosen)
    gate = b.let(f"(jax.nn.softmax({logits}) * {chosen}).sum(-1)", (T,), "float32")
    if b.chance(0.6):
        to = b.let(f"jax.nn.one_hot({place}, {C}, dtype={x.dtype})", (T, E, C))
        taken = b.let(f"jnp.einsum('tec,td->ecd', {to}, {flat})", (E, C, D))
        back = "jnp.einsum('tec,ecd->td', {to}, {y})"
    else:
        at = b.let(f"jnp.where(({place} >= 0) & ({place} < {C}), {place}, {C}).max(-1)"
                   if b.chance(0.5) else f"jnp.where({place}.max(-1) < {C}, {place}.max(-1), {C})", (T,), "int32")  # fmt: skip
        expert = b.let(f"jnp.argmax({chosen}, -1)", (T,), "int32")
        at = b.same(f"jnp.minimum({at}, {C})", at)
        taken = b.let(f"jnp.zeros(({E}, {C} + 1, {D}), {x.dtype}).at[{expert}, {at}].add({flat})[:, :{C}]", (E, C, D))
        back = f"jnp.pad({{y}}, ((0, 0), (0, 1), (0, 0)))[{expert}, {at}]"
        to = None
    h = b.let(f"jax.nn.gelu(jnp.einsum('ecd,edf->ecf', {taken}, {b.weight((E, D, F), D)}))", (E, C, F))
    y = b.let(f"jnp.einsum('ecf,efd->ecd', {h}, {b.weight((E, F, D), F)})", (E, C, D))
    y = b.let(back.format(to=to, y=y), (T, D))
    y = b.let(f"{y} * {gate}[:, None].astype({x.dtype})", (T, D))
    return b.let(f"{y}.reshape({', '.join(x.shape)})", x.shape)


@family("sequence", keeps_shape=True)
def moe_top_k(b, x):
    """The weights of the best experts are gathered for each token."""
    B, S, D = x.shape
    E = b.dim("E", most=129, small=(2, 3, 4, 8, 16), middle=0, least=2)
    F = b.dim("F", most=129, small=(1, 2, 3, 4, 8), middle=0)
    T, K = f"({B}*{S})", b.fixed("K", b.choose(1, 2))
    b.work(T, K, D, F, 2)
    flat, logits = route(b, x, T, E)
    best, chosen = b.lets(f"lax.top_k({logits}, {K})", ((T, K), "float32"), ((T, K), "int32"))
    gate = b.let(f"jax.nn.softmax({best}).astype({x.dtype})", (T, K))
    up = b.let(f"{b.weight((E, D, F), D)}[{chosen}]", (T, K, D, F))
    down = b.let(f"{b.weight((E, F, D), F)}[{chosen}]", (T, K, F, D))
    h = b.let(f"jax.nn.silu(jnp.einsum('td,tkdf->tkf', {flat}, {up}))", (T, K, F))
    y = b.let(f"jnp.einsum('tkf,tkfd,tk->td', {h}, {down}, {gate})", (T, D))
    return b.let(f"{y}.reshape({', '.join(x.shape)})", x.shape)
