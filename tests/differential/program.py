"""A small typed program: dimensions, inputs, statements of Python text; and the source it is.

Names are a letter and a number (x1 an input, v2 a value, f3 a function, p4 a parameter), dimensions
a capital with or without a number. Shapes are expressions in dimensions, so that a program keeps its
meaning when a dimension changes.
"""

import dataclasses
import inspect
import re

from . import data

NAME = re.compile(r"\b[a-z]\d+\b")
DIM = re.compile(r"\b[A-Z]\d*\b")
FLOAT_TYPES = ("float32", "bfloat16", "float16")
TYPES = (*FLOAT_TYPES, "int32", "uint32", "int16", "uint16", "int8", "uint8")


@dataclasses.dataclass(frozen=True)
class Input:
    """An argument of the program. fill names a function of data.py, with arguments as text; what it
    draws depends on the program's seed and the salt, so that names may change."""

    name: str
    shape: tuple
    dtype: str
    fill: tuple = ("normal",)
    salt: int = 0


@dataclasses.dataclass(frozen=True)
class Let:
    """targets = expr. Alternatives are simpler texts for expr that a shrinker may try."""

    targets: tuple
    expr: str
    alternatives: tuple = ()
    unpacks: bool = False  # expr is a tuple, even of one


@dataclasses.dataclass(frozen=True)
class Function:
    name: str
    params: tuple
    body: tuple
    result: str


@dataclasses.dataclass(frozen=True)
class Program:
    seed: int
    dims: dict
    inputs: tuple
    body: tuple
    outputs: tuple
    donated: tuple = ()  # names of inputs
    label: str = ""  # family, wrapper, dtype, size: how the plan chose it
    shapes: dict = dataclasses.field(default_factory=dict)  # of values, in dimensions, where known


def names_in(text):
    return NAME.findall(text)


def bound_by(statement):
    return statement.targets if isinstance(statement, Let) else (statement.name,)


def used_by(statement):
    """Names that a statement takes from around it."""
    if isinstance(statement, Let):
        return set(names_in(statement.expr))
    inside = set(names_in(statement.result))
    bound = set(statement.params)
    for s in statement.body:
        inside |= used_by(s) - bound
        bound |= set(bound_by(s))
    return inside - bound


def without_dead(body, wanted):
    """The statements that the wanted names need, in order."""
    wanted, kept = set(wanted), []
    for s in reversed(body):
        if not wanted & set(bound_by(s)):
            continue
        wanted -= set(bound_by(s))
        if isinstance(s, Function):
            s = dataclasses.replace(s, body=without_dead(s.body, names_in(s.result)))
        wanted |= used_by(s)
        kept.append(s)
    return tuple(reversed(kept))


def pruned(program):
    """The program without statements, inputs and dimensions that no output needs."""
    body = without_dead(program.body, program.outputs)
    needed = set(program.outputs).union(*map(used_by, body))
    inputs = tuple(x for x in program.inputs if x.name in needed)
    text = " ".join([*(" ".join(map(str, (*x.shape, *x.fill[1:]))) for x in inputs), *lines(body)])
    dims = {k: v for k, v in program.dims.items() if k in set(DIM.findall(text))}
    donated = tuple(n for n in program.donated if n in needed)
    return dataclasses.replace(program, dims=dims, inputs=inputs, body=body, donated=donated)


def without_aliases(program):
    """The program without statements like `v2 = x1`: the second name takes the place of the first."""
    aliases = {}
    body = unaliased(program.body, aliases)
    outputs = tuple(aliases.get(o, o) for o in program.outputs)
    return dataclasses.replace(program, body=body, outputs=outputs)


def unaliased(body, aliases):
    """Takes the aliases of the statements around; adds those of its own."""
    out = []

    def renamed(text):
        return NAME.sub(lambda m: aliases.get(m.group(), m.group()), text)

    for i, s in enumerate(body):
        if isinstance(s, Function):
            inner = {k: v for k, v in aliases.items() if k not in s.params}
            inside = unaliased(s.body, inner)
            result = NAME.sub(lambda m: inner.get(m.group(), m.group()), s.result)
            out.append(dataclasses.replace(s, body=inside, result=result))
            continue
        expr = renamed(s.expr)
        is_alias = len(s.targets) == 1 and not s.unpacks and NAME.fullmatch(expr)
        if is_alias and not any(binds(other, expr) for other in body[i + 1 :]):
            aliases[s.targets[0]] = expr
        else:
            out.append(dataclasses.replace(s, expr=expr, alternatives=tuple(map(renamed, s.alternatives))))
    return tuple(out)


def renumbered(program):
    """The program with names that count from one."""
    order = list(dict.fromkeys(NAME.findall(source(program))))
    names = {n: f"{n[0]}{i}" for i, n in enumerate(order, 1)}

    def text(t):
        return NAME.sub(lambda m: names.get(m.group(), m.group()), t)

    def statement(s):
        if isinstance(s, Let):
            return dataclasses.replace(s, targets=tuple(map(text, s.targets)), expr=text(s.expr),
                                       alternatives=tuple(map(text, s.alternatives)))  # fmt: skip
        return Function(text(s.name), tuple(map(text, s.params)), tuple(map(statement, s.body)), text(s.result))

    return dataclasses.replace(
        program,
        inputs=tuple(dataclasses.replace(x, name=text(x.name)) for x in program.inputs),
        body=tuple(map(statement, program.body)),
        outputs=tuple(map(text, program.outputs)),
        donated=tuple(map(text, program.donated)),
        shapes={text(k): v for k, v in program.shapes.items()},
    )


def binds(statement, name):
    """Whether the name means something else in or after the statement."""
    if isinstance(statement, Let):
        return name in statement.targets
    return name in statement.params or any(binds(s, name) for s in statement.body)


def lines(body, is_noting=False):
    out = []
    for s in body:
        if isinstance(s, Let):
            comma = "," if s.unpacks and len(s.targets) == 1 else ""
            out.append(f"{', '.join(s.targets)}{comma} = {s.expr}")
            if is_noting:
                out += [f"note('{t}', {t})" for t in s.targets]
        else:
            out.append(f"def {s.name}({', '.join(s.params)}):")
            if is_noting:
                out += [f"    note('{t}', {t})" for t in s.params]
            out += ["    " + line for line in lines(s.body, is_noting)]
            out.append(f"    return {s.result}")
    return out


def source(program, is_noting=False):
    """The text of `program(inputs)`. With is_noting it calls note(name, value) for each value."""
    head = f"def program({', '.join(x.name for x in program.inputs)}):"
    body = [*lines(program.body, is_noting), f"return {', '.join(program.outputs)},"]
    return "\n".join([head, *("    " + line for line in body)])


def header(program):
    text = ["import jax", "import jax.numpy as jnp", "import numpy as np", "from jax import lax",
            f"from jax.numpy import {', '.join(TYPES)}", ""]  # fmt: skip
    if program.dims:
        text.append(f"{', '.join(program.dims)} = {', '.join(map(str, program.dims.values()))}")
    return "\n".join(text)


def namespace(program):
    scope = {}
    exec(header(program), scope)
    return scope


def compiled(program, note=None):
    """The program as a Python function."""
    scope = namespace(program)
    scope["note"] = note
    exec(source(program, note is not None), scope)
    return scope["program"]


def shape_text(x):
    return "(" + "".join(f"{d}, " for d in x.shape) + ")"


def arguments(program):
    """Arrays for the inputs; each depends on the seed, its own salt and its own shape alone."""
    import jax.numpy as jnp
    import numpy as np

    arrays = []
    for x in program.inputs:
        shape = tuple(int(eval(str(d), dict(program.dims))) for d in x.shape)
        extra = [eval(str(a), dict(program.dims)) for a in x.fill[1:]]
        values = getattr(data, x.fill[0])(np.random.default_rng([program.seed, x.salt]), shape, *extra)
        arrays.append(np.asarray(values).astype(jnp.dtype(x.dtype)))
    return arrays


def reproducer(program, comment=""):
    """A script that runs the program on both devices and prints where they differ."""
    used = sorted({x.fill[0] for x in program.inputs})
    made = [
        f"    {x.fill[0]}(np.random.default_rng({[program.seed, x.salt]}), "
        f"{', '.join([shape_text(x), *map(str, x.fill[1:])])}).astype(jnp.dtype({x.dtype!r})),  # {x.name}"
        for x in program.inputs
    ]
    donated = [i for i, x in enumerate(program.inputs) if x.name in program.donated]
    keyword = f", donate_argnums={tuple(donated)}" if donated else ""
    parts = [
        "\n".join("# " + line for line in comment.splitlines()),
        header(program),
        "\n\n".join(inspect.getsource(getattr(data, name)).rstrip() for name in used),
        source(program),
        "\n".join(["arguments = [", *made, "]"]),
        "\n".join([
            "results = []",
            'for platform in ("neuron", "cpu"):',
            "    placed = jax.device_put(arguments, jax.local_devices(backend=platform)[0])",
            f"    results.append(jax.jit(program{keyword})(*placed))",
            "for i, (ours, theirs) in enumerate(zip(*results)):",
            "    a, b = np.asarray(ours), np.asarray(theirs)",
            "    differing = int((a != b).sum())",
            '    print(f"output {i}: {a.dtype}{a.shape}, {differing} of {a.size} elements differ")',
            "    if differing and a.dtype.kind not in 'iub':",
            "        print('  largest difference', np.nanmax(np.abs(a.astype(float) - b.astype(float))),",
            "              'of', np.nanmax(np.abs(b.astype(float))))",
        ]),
    ]  # fmt: skip
    return "\n\n".join(p for p in parts if p) + "\n"
