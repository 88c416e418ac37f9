"""Any operations in any order: shapes change all the time, and old values are used again."""

from . import family
from .sequences import UNARY

MOST = 150_000  # elements of a value


class Soup:
    """The values so far, and steps that make another of one of them."""

    def __init__(self, b, x):
        self.b, self.values = b, [x]

    def some(self):
        """A value, rather a late one."""
        b = self.b
        return self.values[-1] if b.chance(0.6) else b.rng.choice(self.values[-4:])

    def add(self, text, shape, dtype):
        self.values.append(self.b.let(text, shape, dtype))

    def fits(self, shape):
        return self.b.count(shape) <= MOST and len(shape) <= 5

    def step(self):
        steps = [self.unary, self.binary, self.vector, self.reduce, self.transpose, self.merge, self.split, self.slice,
                 self.pad, self.concatenate, self.spread, self.matmul, self.gram, self.where, self.running, self.cast,
                 self.gather, self.scatter, self.softmax, self.stack, self.window, self.flip]  # fmt: skip
        for _ in range(8):
            n = len(self.values)
            self.b.rng.choice(steps)(self.some())
            if len(self.values) > n:
                return

    def unary(self, x):
        text = self.b.choose(*UNARY)
        self.add(text.format(*[x] * text.count("{}")), x.shape, x.dtype)

    def binary(self, x):
        """With another value whose shape fits, as it is or by a mean."""
        y = self.b.rng.choice(self.values)
        op = self.b.choose("{} + {}", "{} - {}", "{} * jnp.tanh({})", "jnp.maximum({}, {})", "{} / (1.5 + jnp.cos({}))")
        if y.dtype != x.dtype:
            y = f"{y}.astype({x.dtype})" if y.shape == x.shape else None
        if y is None or getattr(y, "shape", x.shape) != x.shape:
            y = f"{x}.mean({self.axis(x)}, keepdims=True)" if x.shape else x
        self.add(op.format(x, y), x.shape, x.dtype)

    def vector(self, x):
        if not x.shape:
            return
        i = self.axis(x)
        v = self.b.input((x.shape[i],), x.dtype)
        spread = [":" if k == i else "None" for k in range(len(x.shape))]
        op = self.b.choose("{} + {}", "{} * {}", "jnp.minimum({}, {})", "{} - {}")
        self.add(op.format(x, f"{v}[{', '.join(spread)}]"), x.shape, x.dtype)

    def axis(self, x):
        return self.b.rng.randrange(len(x.shape))

    def reduce(self, x):
        if not x.shape:
            return
        b = self.b
        axes = sorted(b.rng.sample(range(len(x.shape)), b.choose(1, 1, min(2, len(x.shape)))))
        n = "*".join(x.shape[i] for i in axes)
        keeps = b.chance(0.3)
        shape = tuple("1" if i in axes else d for i, d in enumerate(x.shape) if keeps or i not in axes)
        text = b.choose("{}.sum({}, keepdims={}) * ({})**-0.5", "{}.mean({}, keepdims={})", "{}.max({}, keepdims={})",
                        "{}.min({}, keepdims={})")  # fmt: skip
        self.add(text.format(x, tuple(axes), keeps, n), shape, x.dtype)

    def transpose(self, x):
        if len(x.shape) < 2:
            return
        order = list(range(len(x.shape)))
        self.b.rng.shuffle(order)
        self.add(f"jnp.transpose({x}, {tuple(order)})", tuple(x.shape[i] for i in order), x.dtype)

    def merge(self, x):
        if len(x.shape) < 2:
            return
        i = self.b.rng.randrange(len(x.shape) - 1)
        shape = (*x.shape[:i], f"({x.shape[i]}*{x.shape[i + 1]})", *x.shape[i + 2 :])
        self.add(f"{x}.reshape({', '.join(shape)})", shape, x.dtype)

    def split(self, x):
        b = self.b
        options = [(i, k) for i, d in enumerate(x.shape) for k in (2, 3, 4, 8) if b.size(d) % k == 0]
        if not options or len(x.shape) > 4:
            return
        i, k = b.rng.choice(options)
        pair = (str(k), f"({x.shape[i]}//{k})")
        shape = (*x.shape[:i], *(pair if b.chance(0.5) else pair[::-1]), *x.shape[i + 1 :])
        self.add(f"{x}.reshape({', '.join(shape)})", shape, x.dtype)

    def slice(self, x):
        b = self.b
        options = [i for i, d in enumerate(x.shape) if b.size(d) > 1]
        if not options:
            return
        i = b.rng.choice(options)
        d = x.shape[i]
        text, size = b.choose(("1:", f"({d}-1)"), (":-1", f"({d}-1)"), ("::2", f"(({d}+1)//2)"),
                              (f":{d}//2 + 1", f"({d}//2+1)"), ("::-1", d), (f"{d}//3:", f"({d}-{d}//3)"))  # fmt: skip
        at = ", ".join(text if k == i else ":" for k in range(i + 1))
        self.add(f"{x}[{at}]", (*x.shape[:i], size, *x.shape[i + 1 :]), x.dtype)

    def pad(self, x):
        if not x.shape:
            return
        b, i = self.b, self.axis(x)
        low, high = b.choose((1, 0), (0, 1), (2, 3), (0, 7))
        widths = ", ".join(f"({low}, {high})" if k == i else "(0, 0)" for k in range(len(x.shape)))
        shape = (*x.shape[:i], f"({x.shape[i]}+{low + high})", *x.shape[i + 1 :])
        if self.fits(shape):
            self.add(f"jnp.pad({x}, ({widths},), constant_values={b.choose(0, 1.5)})", shape, x.dtype)

    def concatenate(self, x):
        if not x.shape:
            return
        b, i = self.b, self.axis(x)
        others = [v for v in self.values if v.dtype == x.dtype and len(v.shape) == len(x.shape)
                  and all(a == c for k, (a, c) in enumerate(zip(v.shape, x.shape)) if k != i)]  # fmt: skip
        y = b.rng.choice(others)
        shape = (*x.shape[:i], f"({x.shape[i]}+{y.shape[i]})", *x.shape[i + 1 :])
        if self.fits(shape):
            self.add(f"jnp.concatenate([{x}, {y}], axis={i})", shape, x.dtype)

    def spread(self, x):
        """Broadcast along a new dimension."""
        n = str(self.b.choose(2, 3, 5))
        i = self.b.rng.randrange(len(x.shape) + 1)
        shape = (*x.shape[:i], n, *x.shape[i:])
        if self.fits(shape):
            at = ", ".join([":"] * i + ["None"])
            self.add(f"jnp.broadcast_to({x}[{at}], ({', '.join(shape)},))", shape, x.dtype)

    def matmul(self, x):
        if not x.shape:
            return
        b, i = self.b, self.axis(x)
        n = b.dim("N", most=513)
        shape = (*x.shape[:i], *x.shape[i + 1 :], n)
        if self.fits(shape):
            b.work(*x.shape, n)
            w = b.weight((x.shape[i], n), x.shape[i], x.dtype)
            if w.dtype != x.dtype:
                w = b.let(f"{w}.astype({x.dtype})", w.shape, x.dtype)
            text = f"jnp.tensordot({x}, {w}, (({i},), (0,)))" if i < len(x.shape) - 1 else f"{x} @ {w}"
            self.add(text, shape, x.dtype)

    def gram(self, x):
        """A product of a value with itself over one dimension, with another as batch."""
        if len(x.shape) not in (2, 3):
            return
        names, b = "abc"[: len(x.shape)], self.b
        out, inner = b.choose(("ad", "b"), ("bd", "a")) if len(x.shape) == 2 else b.choose(("abd", "c"), ("acd", "b"), ("cbd", "a"))
        kept = out[:-1]
        moved = next(n for n in kept[::-1])
        second = names.replace(moved, "d")
        sizes = dict(zip(names, x.shape))
        shape = (*(sizes[n] for n in kept), sizes[moved])
        if self.fits(shape):
            b.work(*x.shape, sizes[moved])
            self.add(f"jnp.einsum('{names},{second}->{kept}d', {x}, {x}) * ({sizes[inner]})**-0.5", shape, x.dtype)

    def where(self, x):
        b = self.b
        mask = b.input(x.shape[b.rng.randrange(len(x.shape) + 1) :], "bool", ("truth",), "t")
        self.add(b.choose(f"jnp.where({mask}, {x}, {b.choose(0, -1.5)})", f"jnp.where({mask}, {x}, -{x} * 0.5)",
                          f"{x} * {mask}"), x.shape, x.dtype)  # fmt: skip

    def running(self, x):
        if x.shape:
            i = self.axis(x)
            self.add(self.b.choose(f"jnp.cumsum({x}, {i}) * {x.shape[i]}**-0.5", f"lax.cummax({x}, axis={i})",
                                   f"jnp.sort({x}, axis={i})", f"lax.cumsum({x}, {i}, reverse=True) / {x.shape[i]}"),
                     x.shape, x.dtype)  # fmt: skip

    def cast(self, x):
        dtype = self.b.choose("float32", "bfloat16", "float16")
        if dtype != x.dtype:
            self.add(f"{x}.astype({dtype})", x.shape, dtype)

    def gather(self, x):
        if not x.shape:
            return
        b, i = self.b, self.axis(x)
        n = b.dim("T", most=129)
        shape = (*x.shape[:i], n, *x.shape[i + 1 :])
        if self.fits(shape):
            t = b.input((n,), "int32", ("integers", 0, x.shape[i]), "t")
            self.add(f"jnp.take({x}, {t}, axis={i})", shape, x.dtype)

    def scatter(self, x):
        if not x.shape:
            return
        b, n = self.b, self.b.dim("T", most=129)
        shape = (n, *x.shape[1:])
        if self.fits(shape):
            t = b.input((x.shape[0],), "int32", ("integers", 0, n), "t")
            self.add(f"jnp.zeros(({', '.join(shape)},), {x.dtype}).at[{t}].add({x}) * ({x.shape[0]})**-0.5", shape,
                     x.dtype)  # fmt: skip

    def softmax(self, x):
        if x.shape:
            self.add(f"jax.nn.{self.b.choose('softmax', 'softmax', 'log_softmax')}({x}, axis={self.axis(x)})", x.shape,
                     x.dtype)  # fmt: skip

    def stack(self, x):
        i = self.b.rng.randrange(len(x.shape) + 1)
        shape = (*x.shape[:i], "2", *x.shape[i:])
        if self.fits(shape):
            self.add(f"jnp.stack([{x}, -{x}], axis={i})", shape, x.dtype)

    def window(self, x):
        b = self.b
        options = [i for i, d in enumerate(x.shape) if b.size(d) > 2]
        if options:
            i = b.rng.choice(options)
            k = b.input((), "int32", ("integers", 0, x.shape[i]), "k")
            size = f"({x.shape[i]}//2)"
            self.add(f"lax.dynamic_slice_in_dim({x}, {k}, {size}, {i})", (*x.shape[:i], size, *x.shape[i + 1 :]), x.dtype)

    def flip(self, x):
        if x.shape:
            i = self.axis(x)
            self.add(self.b.choose(f"jnp.flip({x}, {i})", f"jnp.roll({x}, 1, {i})", f"jnp.swapaxes({x}, 0, {i})"
                                   if x.shape[0] == x.shape[i] else f"jnp.flip({x}, {i})"), x.shape, x.dtype)  # fmt: skip


@family("sequence", ends=True)
def soup(b, x):
    s = Soup(b, x)
    for _ in range(b.choose(4, 6, 8, 10)):
        s.step()
    return s.values[-1]


@family("sequence", ends=True)
def stew(b, x):
    """The same, and the last values come together, so that none of them is alone at the end."""
    s = Soup(b, x)
    for _ in range(b.choose(4, 6, 8)):
        s.step()
    parts = [f"{v}.astype(float32).mean()" for v in s.values[-3:]]
    last = s.values[-1]
    return b.let(f"{last}.astype(float32) * ({' + '.join(parts)})", last.shape, "float32")
