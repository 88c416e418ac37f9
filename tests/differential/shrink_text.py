"""Shrinking steps that look inside the text of statements: calls, tuples, arguments, subexpressions."""

import ast
import dataclasses
import re

from .program import NAME, Function, Let, bound_by, names_in, used_by

MOST_STATEMENTS = 12  # of a program whose subexpressions are tried one by one


def walk(body, path=()):
    """(path, statement) of all statements, inner ones too; a path is a tuple of positions."""
    for i, s in enumerate(body):
        yield (*path, i), s
        if isinstance(s, Function):
            yield from walk(s.body, (*path, i))


def changed_body(body, path, statements):
    i = path[0]
    if len(path) == 1:
        return (*body[:i], *statements, *body[i + 1 :])
    inner = dataclasses.replace(body[i], body=changed_body(body[i].body, path[1:], statements))
    return (*body[:i], inner, *body[i + 1 :])


def rebuilt(program, path, statements):
    """The program with other statements in the place of one."""
    return dataclasses.replace(program, body=changed_body(program.body, path, statements))


def parsed(text):
    return ast.parse(text, mode="eval").body


def functions_of(program):
    return {s.name: (path, s) for path, s in walk(program.body) if isinstance(s, Function)}


# Calls


def fresh_names(program, function):
    """Names that nothing has, for all that the function binds."""
    texts = [repr(program.body), repr(program.inputs)]
    base = 10 ** len(str(max(int(n[1:]) for text in texts for n in NAME.findall(text))))
    bound = set(function.params)
    for _, s in walk(function.body):
        bound |= set(bound_by(s)) | (set(s.params) if isinstance(s, Function) else set())
    return {n: f"{n[0]}{base + int(n[1:])}" for n in bound}


def renamed(statement, names):
    def text(t):
        return NAME.sub(lambda m: names.get(m.group(), m.group()), t)

    if isinstance(statement, Let):
        return dataclasses.replace(statement, targets=tuple(map(text, statement.targets)), expr=text(statement.expr),
                                   alternatives=tuple(map(text, statement.alternatives)))  # fmt: skip
    return Function(text(statement.name), tuple(map(text, statement.params)),
                    tuple(renamed(s, names) for s in statement.body), text(statement.result))  # fmt: skip


def inlined(program, types_of):
    """A plain call gives way to the body of its function."""
    functions = functions_of(program)
    for path, s in walk(program.body):
        call = parsed(s.expr) if isinstance(s, Let) else None
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in functions):
            continue
        function = functions[call.func.id][1]
        if call.keywords or len(call.args) != len(function.params):
            continue
        names = fresh_names(program, function)
        result = NAME.sub(lambda m, names=names: names.get(m.group(), m.group()), function.result)
        statements = [Let((names[p],), ast.unparse(a)) for p, a in zip(function.params, call.args)]
        statements += [renamed(inner, names) for inner in function.body]
        yield rebuilt(program, path, (*statements, Let(s.targets, result, (), s.unpacks)))


# Tuples


def untupled(program, types_of):
    """`v1, v2 = (a, b)` becomes two statements."""
    for path, s in walk(program.body):
        if not isinstance(s, Let) or not (s.unpacks or len(s.targets) > 1):
            continue
        value = parsed(s.expr)
        if isinstance(value, ast.Tuple) and len(value.elts) == len(s.targets):
            if not set(names_in(s.expr)) & set(s.targets):
                parts = tuple(Let((t,), ast.unparse(e)) for t, e in zip(s.targets, value.elts))
                yield rebuilt(program, path, parts)


class TupleWithout(ast.NodeTransformer):
    """Takes element i out of each tuple of n elements."""

    def __init__(self, n, i):
        self.n, self.i, self.n_found = n, i, 0

    def visit_Tuple(self, node):
        self.generic_visit(node)
        if len(node.elts) == self.n:
            self.n_found += 1
            node.elts.pop(self.i)
        return node


def fewer_elements(program, types_of):
    """An element of an unpacked tuple that nothing uses goes, here and where the tuple is made."""
    for path, s in walk(program.body):
        if not isinstance(s, Let) or not s.unpacks or len(s.targets) < 2 or not NAME.fullmatch(s.expr):
            continue
        outer = program.body
        for i in path[:-1]:
            outer = outer[i].body
        used = set(program.outputs) if len(path) == 1 else set(names_in(owner(program, path).result))
        for other in outer[path[-1] + 1 :]:
            used |= used_by(other)
        for i, target in enumerate(s.targets):
            if target in used:
                continue
            without = dataclasses.replace(s, targets=s.targets[:i] + s.targets[i + 1 :])
            candidate = rebuilt(program, path, (without,))
            yield from with_shorter_tuple(candidate, s.expr, path, len(s.targets), i)


def owner(program, path):
    """The function whose body holds the statement."""
    statement = program.body[path[0]]
    for i in path[1:-1]:
        statement = statement.body[i]
    return statement


def with_shorter_tuple(program, name, path, n, i):
    """The tuple of that name is what a statement binds, or what a call passes to a function."""
    holder = owner(program, path) if len(path) > 1 else None
    is_parameter = holder is not None and name in holder.params
    for other_path, s in walk(program.body):
        if not isinstance(s, Let):
            continue
        makes = holder.name in names_in(s.expr) if is_parameter else name in s.targets
        if makes:
            edit = TupleWithout(n, i)
            expr = ast.unparse(edit.visit(parsed(s.expr)))
            if edit.n_found:
                yield rebuilt(program, other_path, (dataclasses.replace(s, expr=expr),))


def fewer_arguments(program, types_of):
    """An argument that a gradient is not taken of, or that vmap does not map, is seen from inside anyway."""
    functions = functions_of(program)
    for path, s in walk(program.body):
        call = parsed(s.expr) if isinstance(s, Let) else None
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Call)):
            continue
        names = [n for n in names_in(ast.unparse(call.func)) if n in functions]
        keyword = next((k for k in call.func.keywords if k.arg in ("argnums", "in_axes")), None)
        if len(names) != 1 or keyword is None or not isinstance(keyword.value, ast.Tuple):
            continue
        function_path, function = functions[names[0]]
        for i, (param, arg) in enumerate(zip(function.params, call.args)):
            if not isinstance(arg, ast.Name) or arg.id != param:
                continue
            values = [e.value for e in keyword.value.elts]
            if keyword.arg == "argnums":
                if i in values:
                    continue
                left = [v - (v > i) for v in values]
            else:
                if values[i] is not None:
                    continue
                left = values[:i] + values[i + 1 :]
            text = "(" + "".join(f"{v}, " for v in left) + ")"
            changed = re.sub(keyword.arg + r"=\([^()]*\)", f"{keyword.arg}={text}", ast.unparse(call.func))
            arguments = ", ".join(ast.unparse(a) for k, a in enumerate(call.args) if k != i)
            params = function.params[:i] + function.params[i + 1 :]
            candidate = rebuilt(program, function_path, (dataclasses.replace(function, params=params),))
            yield rebuilt(candidate, path, (dataclasses.replace(s, expr=f"{changed}({arguments})"),))


# Subexpressions


def subexpressions(program, types_of):
    """A statement becomes one of its parts; whatever still traces may do."""
    if sum(1 for _ in walk(program.body)) > MOST_STATEMENTS:
        return
    for path, s in walk(program.body):
        if not isinstance(s, Let) or len(s.targets) != 1 or s.unpacks:
            continue
        seen = set()
        for node in ast.walk(parsed(s.expr)):
            if isinstance(node, ast.expr) and not isinstance(node, (ast.Constant, ast.Tuple, ast.Lambda)):
                text = ast.unparse(node)
                if text != ast.unparse(parsed(s.expr)) and text not in seen and names_in(text):
                    seen.add(text)
                    yield rebuilt(program, path, (dataclasses.replace(s, expr=text, alternatives=()),))
