"""Recurrent cells in lax.scan over positions, and linear recurrences."""

from ..builder import TooLarge
from . import family


def positions_first(b, x):
    B, S, D = x.shape
    if b.size(S) > 300:
        raise TooLarge("steps of a recurrence")
    return b.let(f"jnp.swapaxes({x}, 0, 1)", (S, B, D))


def scanned(b, step, carries, xs, out, options=""):
    """lax.scan(step, carries, xs) -> outputs [S, B, H]."""
    types = [((c.shape), c.dtype) for c in carries]
    init = f"({', '.join(carries)})" if len(carries) > 1 else carries[0]
    values = b.lets(f"lax.scan({step}, {init}, {xs}{options})", (("1",), carries[0].dtype) if len(carries) > 1
                    else types[0], out)  # fmt: skip
    b.shapes.pop(str(values[0]), None)
    return values[1]


def cell(b, x, n_gates, body, n_carries=1):
    """body(b, gates or inputs, carries) -> new carries; the first is the output."""
    B, S, D = x.shape
    H = b.dim("H", most=1025)
    b.work(B, S, f"{D}+{H}", H, n_gates)
    xs = positions_first(b, x)
    w, u, bias = b.weight((D, f"{n_gates}*{H}"), D), b.weight((H, f"{n_gates}*{H}"), H), b.bias((f"{n_gates}*{H}",))
    is_outside = b.chance(0.5)  # inputs of all positions in one matmul
    if is_outside:
        xs = b.let(f"{xs} @ {w} + {bias}", (S, B, f"{n_gates}*{H}"))
    p, q = b.name("p"), b.name("p")
    with b.function(p, q) as f:
        if n_carries > 1:
            carries = b.lets(p, *[((B, H), x.dtype)] * n_carries)
        else:
            carries = [type(x).of(p, (B, H), x.dtype)]
        into = type(x).of(q, (B, f"{n_gates}*{H}" if is_outside else D), x.dtype)
        if not is_outside:
            into = b.let(f"{into} @ {w} + {bias}", (B, f"{n_gates}*{H}"))
        new = body(b, into, carries, u, (B, H), n_gates)
        carry = f"({', '.join(new)})" if n_carries > 1 else new[0]
        f.result = f"{carry}, {new[0]}"
    initial = [b.let(f"jnp.zeros(({B}, {H}), {x.dtype})", (B, H)) if b.chance(0.6) else b.input((B, H))
               for _ in range(n_carries)]  # fmt: skip
    options = b.choose("", "", "", ", reverse=True", ", unroll=2")
    hs = scanned(b, f.name, initial, xs, ((S, B, H), x.dtype), options)
    return b.let(f"jnp.swapaxes({hs}, 0, 1)", (B, S, H))


@family("sequence")
def gru(b, x):
    def body(b, into, carries, u, shape, n):
        h = carries[0]
        hu = b.let(f"{h} @ {u}", (shape[0], f"{n}*{shape[1]}"))
        xr, xz, xn = b.lets(f"jnp.split({into}, 3, axis=-1)", *[(shape, h.dtype)] * 3)
        hr, hz, hn = b.lets(f"jnp.split({hu}, 3, axis=-1)", *[(shape, h.dtype)] * 3)
        r = b.same(f"jax.nn.sigmoid({xr} + {hr})", h)
        z = b.same(f"jax.nn.sigmoid({xz} + {hz})", h)
        c = b.same(f"jnp.tanh({xn} + {r} * {hn})", h)
        return [b.same(b.choose(f"(1 - {z}) * {c} + {z} * {h}", f"{z} * {h} + (1 - {z}) * {c}"), h)]

    return cell(b, x, 3, body)


@family("sequence")
def lstm(b, x):
    def body(b, into, carries, u, shape, n):
        h, c = carries
        gates = b.let(f"{into} + {h} @ {u}", (shape[0], f"{n}*{shape[1]}"))
        i, f, g, o = b.lets(f"jnp.split({gates}, 4, axis=-1)", *[(shape, h.dtype)] * 4)
        c = b.same(f"jax.nn.sigmoid({f}) * {c} + jax.nn.sigmoid({i}) * jnp.tanh({g})", c)
        return [b.same(f"jax.nn.sigmoid({o}) * jnp.tanh({c})", h), c]

    return cell(b, x, 4, body, 2)


@family("sequence")
def simple_rnn(b, x):
    def body(b, into, carries, u, shape, n):
        return [b.same(f"jnp.tanh({into} + {carries[0]} @ {u})", carries[0])]

    return cell(b, x, 1, body)


@family("sequence", keeps_shape=True, is_wide=True)
def linear_recurrence(b, x):
    """h = a * h + x, by lax.scan or by an associative scan."""
    B, S, D = x.shape
    gate = b.same(f"jax.nn.sigmoid({x} + {b.bias((D,))})", x)
    if b.chance(0.5):
        p, q = b.name("p"), b.name("p")
        with b.function(p, q) as f:
            a1, h1 = b.lets(p, (x.shape, x.dtype), (x.shape, x.dtype))
            a2, h2 = b.lets(q, (x.shape, x.dtype), (x.shape, x.dtype))
            for v in (a1, h1, a2, h2):
                b.shapes.pop(str(v))
            f.result = f"{a1} * {a2}, {a2} * {h1} + {h2}"
        return b.same(f"lax.associative_scan({f.name}, ({gate}, {x}), axis=1)[1]", x)
    xs, gates = positions_first(b, x), positions_first(b, gate)
    p, q = b.name("p"), b.name("p")
    with b.function(p, q) as f:
        a, u = b.lets(q, ((B, D), x.dtype), ((B, D), x.dtype))
        h = b.let(f"{a} * {p} + {u}", (B, D))
        f.result = f"{h}, {h}"
    hs = scanned(b, f.name, [b.let(f"jnp.zeros(({B}, {D}), {x.dtype})", (B, D))], f"({gates}, {xs})",
                 ((S, B, D), x.dtype))  # fmt: skip
    return b.let(f"jnp.swapaxes({hs}, 0, 1)", x.shape)
