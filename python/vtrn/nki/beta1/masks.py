"""`and` between comparisons in a mask: the vendor's compiler reads it as &. Python would ask the first for its truth."""

import ast
import inspect
import textwrap
import types


class _Joined(ast.NodeTransformer):
    """a and b, in a keyword or a variable whose name says mask, becomes a & b."""

    n_joined = 0

    def _join(self, node):
        class Ands(ast.NodeTransformer):
            def visit_BoolOp(inner, boolean):  # noqa: N805
                inner.generic_visit(boolean)
                if not isinstance(boolean.op, ast.And) or not all(isinstance(v, (ast.Compare, ast.BinOp)) for v in boolean.values):
                    return boolean
                self.n_joined += 1
                found = boolean.values[0]
                for value in boolean.values[1:]:
                    found = ast.copy_location(ast.BinOp(found, ast.BitAnd(), value), boolean)
                return found

        return Ands().visit(node)

    def visit_keyword(self, node):
        self.generic_visit(node)
        if node.arg == "mask":
            node.value = self._join(node.value)
        return node

    def visit_Assign(self, node):
        self.generic_visit(node)
        if any(isinstance(t, ast.Name) and "mask" in t.id for t in node.targets):
            node.value = self._join(node.value)
        return node


def joined(function):
    """The function with such masks, or as it is: where it has none, or its source or its closure cannot be had."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
        if "mask" not in source or " and " not in source or function.__closure__:
            return function
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return function
    transformer = _Joined()
    tree = ast.increment_lineno(ast.fix_missing_locations(transformer.visit(tree)), function.__code__.co_firstlineno - 1)
    if not transformer.n_joined:
        return function
    tree.body[0].decorator_list = []
    module = compile(tree, function.__code__.co_filename, "exec")
    code = next(c for c in module.co_consts if isinstance(c, types.CodeType) and c.co_name == function.__name__)
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
    made.__kwdefaults__, made.__annotations__, made.__doc__ = function.__kwdefaults__, function.__annotations__, function.__doc__
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    return made
