"""NeuronCore pipeline: a program cut into stages, a core each. A stage is a program of its own, with the operations of a stretch
of the whole; what a later one reads of it passes through memory.

The stretches are chosen so that the slowest is as fast as it can be: first by what operations cost roughly, then by what the timing
model says of the stages that come of it.
"""

import dataclasses
import math
import typing

from vtrn.serve.runtime import VtrnError

ROUNDS = 4  # of cutting anew by measured times
FLOPS_PER_BYTE = 600.0  # of the first cut only: what a byte that moves counts in operations of the array


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor that passes between stages: an argument of the whole (op_i -1), or the result of an operation."""

    op_i: int
    i: int


@dataclasses.dataclass
class Stage:
    artifact: bytes
    takes: list[Value]
    gives: list[Value]
    first: int  # operations [first, end) of the whole
    end: int


class Program:
    """A StableHLO artifact whose operations can be dealt out."""

    def __init__(self, artifact: bytes):
        from jax._src.interpreters import mlir as jax_mlir
        from jaxlib.mlir import ir, passmanager
        from jaxlib.mlir.dialects import func, stablehlo

        self._ir, self._func, self._stablehlo = ir, func, stablehlo
        self.context = jax_mlir.make_ir_context()
        with self.context:
            self.module = stablehlo.deserialize_portable_artifact(self.context, artifact)
            with ir.Location.unknown():
                passmanager.PassManager.parse("builtin.module(inline,symbol-dce)").run(self.module.operation)
        functions = {f.sym_name.value: f for f in self.module.body.operations if hasattr(f, "sym_name")}
        self.main, self.others = functions.pop("main"), list(functions.values())
        block = self.main.entry_block
        *self.ops, last = list(block.operations)
        self.arguments = list(block.arguments)
        self._place = {v: Value(-1, i) for i, v in enumerate(self.arguments)}
        for k, op in enumerate(self.ops):
            self._place |= {v: Value(k, i) for i, v in enumerate(op.results)}
        self.results = [self._place[v] for v in last.operands]
        self.reads = [self._reads(op) for op in self.ops]
        self.is_free = [op.operation.name == "stablehlo.constant" for op in self.ops]

    def _reads(self, op) -> list[Value]:
        """Of the operation and its regions, which may use values from outside."""
        found = [self._place[v] for v in op.operands if v in self._place]
        for region in op.regions:
            for block in region:
                for inner in block:
                    found += self._reads(inner.operation)
        return list(dict.fromkeys(found))

    def value(self, at: Value):
        return self.arguments[at.i] if at.op_i < 0 else self.ops[at.op_i].results[at.i]

    def n_bytes(self, at: Value) -> int:
        kind = self._ir.RankedTensorType(self.value(at).type)
        bits = kind.element_type.width if hasattr(kind.element_type, "width") else 32
        return math.prod(kind.shape) * max(8, bits) // 8

    def cost(self, k: int) -> float:
        """Of an operation, in no unit: products by their arithmetic, everything by the bytes that it makes and the weights it
        reads."""
        op = self.ops[k]
        if self.is_free[k]:
            return 0.0
        moved = sum(self.n_bytes(Value(k, i)) for i in range(len(op.results)))
        moved += sum(self.n_bytes(v) for v in self.reads[k] if v.op_i < 0)
        flops = 0.0
        if op.operation.name in ("stablehlo.dot_general", "stablehlo.convolution"):
            sizes = [math.prod(self._ir.RankedTensorType(v.type).shape) for v in (*op.operands, *op.results)]
            flops = 2.0 * math.sqrt(max(1.0, float(math.prod(sizes))))  # exact for a product of matrices
        return flops + FLOPS_PER_BYTE * moved

    def stage(self, first: int, end: int) -> Stage:
        """The operations [first, end) as a program. Constants are made where they are read."""
        mine = [k for k in range(first, end) if not self.is_free[k]]
        read = list(dict.fromkeys(v for k in mine for v in self.reads[k]))
        takes = [v for v in read if not first <= v.op_i < end and not (v.op_i >= 0 and self.is_free[v.op_i])]
        takes.sort(key=lambda v: (v.op_i, v.i))  # arguments first, as the whole has them: weights are the first of those
        later = {v for k in range(end, len(self.ops)) for v in self.reads[k]} | set(self.results)
        gives = [Value(k, i) for k in mine for i in range(len(self.ops[k].results)) if Value(k, i) in later]
        return Stage(self._artifact(mine, read, takes, gives), takes, gives, first, end)

    def _artifact(self, mine, read, takes, gives) -> bytes:
        from jaxlib import _jax

        from vtrn.partition import VERSION

        ir, func = self._ir, self._func
        with self.context, ir.Location.unknown():
            module = ir.Module.create()
            with ir.InsertionPoint(module.body):
                for other in self.others:
                    other.operation.clone()
                made = func.FuncOp("main", ir.FunctionType.get([self.value(v).type for v in takes],
                                                               [self.value(v).type for v in gives]))  # fmt: skip
                made.attributes["sym_visibility"] = ir.StringAttr.get("public")
                block = made.add_entry_block()
            known = {self.value(v): block.arguments[i] for i, v in enumerate(takes)}
            with ir.InsertionPoint(block):
                constants = [v.op_i for v in read if v.op_i >= 0 and self.is_free[v.op_i]]
                for k in sorted({*mine, *constants}):
                    copy = self.ops[k].operation.clone()
                    self._rename(self.ops[k].operation, copy, known)
                    known |= {v: copy.results[i] for i, v in enumerate(self.ops[k].results)}
                func.ReturnOp([known[self.value(v)] for v in gives])
            return _jax.mlir.serialize_portable_artifact(module, VERSION, True)

    def _rename(self, old, new, known) -> None:
        """A clone reads the values of the whole: those of the stage in their place."""
        for i, v in enumerate(old.operands):
            if v in known:
                new.operands[i] = known[v]
        for a, b in zip(old.regions, new.regions):
            for x, y in zip(a, b):
                for p, q in zip(x, y):
                    self._rename(p.operation, q.operation, known)


def balanced(costs: list[float], n: int) -> list[int]:
    """Where n stretches of the list end, so that the largest sum is least. Each has something that costs."""
    total, low, high = sum(costs), max(costs, default=0.0), sum(costs)
    for _ in range(60):
        middle = (low + high) / 2
        ends = _ends(costs, middle)
        low, high = (low, middle) if len(ends) <= n else (middle, high)
    ends = _ends(costs, high * (1 + 1e-12) + 1e-12 * total)
    while len(ends) < n:  # some could be cut further: the largest that can
        starts = [0, *ends[:-1]]
        spans = [(sum(costs[a:b]), a, b) for a, b in zip(starts, ends) if sum(c > 0 for c in costs[a:b]) > 1]
        if not spans:
            return ends
        _, a, b = max(spans)
        halves = _ends(costs[a:b], sum(costs[a:b]) * 0.5 + max(costs[a:b]) * 0.5)
        cut = a + halves[0] if halves[0] < b - a else a + 1
        ends = sorted({*ends, cut})
    return ends


def _ends(costs: list[float], most: float) -> list[int]:
    ends, here = [], 0.0
    for i, c in enumerate(costs):
        if here + c > most and here > 0:
            ends.append(i)
            here = 0.0
        here += c
    return [*ends, len(costs)]


def cut(artifact: bytes, n_stages: int, time_of: typing.Callable[[Stage], float]) -> tuple[Program, list[Stage], list[float]]:
    """The stages and their times. time_of(stage) gives ns."""
    program = Program(artifact)
    if n_stages < 1:
        raise VtrnError(f"a pipeline has {n_stages} stages; give one or more")
    costs = [program.cost(k) for k in range(len(program.ops))]
    n_most = sum(c > 0 for c in costs)
    if n_stages > n_most:
        raise VtrnError(f"a pipeline of {n_stages} cores: the program has {n_most} operations; give as many cores at most")
    best: tuple[float, list[Stage], list[float]] | None = None
    tried: set[tuple[int, ...]] = set()
    for _ in range(ROUNDS):
        ends = balanced(costs, n_stages)
        if tuple(ends) in tried:
            break
        tried.add(tuple(ends))
        stages = [program.stage(a, b) for a, b in zip([0, *ends[:-1]], ends)]
        times = [time_of(s) for s in stages]
        if best is None or max(times) < best[0]:
            best = (max(times), stages, times)
        for s, t in zip(stages, times):
            share = t / max(sum(costs[s.first : s.end]), 1e-30)
            for k in range(s.first, s.end):
                costs[k] *= share
    return program, best[1], best[2]


def n_sent(program: Program, stages: list[Stage], i: int) -> int:
    """Bytes of results of stages up to i that later ones read."""
    read = {v for later in stages[i + 1 :] for v in later.takes}
    return sum(program.n_bytes(v) for v in read if 0 <= v.op_i < stages[i].end)


def run(program: Program, stages: list[Stage], arguments: list, call: typing.Callable) -> list:
    """The whole's results. call(stage number, operands) gives what a stage gives."""
    values = {Value(-1, i): a for i, a in enumerate(arguments)}
    for i, stage in enumerate(stages):
        values |= zip(stage.gives, call(i, [values[v] for v in stage.takes]))
    return [values[v] for v in program.results]
