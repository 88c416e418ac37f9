"""Puts functions in the places where they are called: Shardy joins parts of sums at the border of a function."""

from jaxlib.mlir import ir


def has_unreduced(module):
    return "unreduced=" in module.operation.get_asm(large_elements_limit=16, enable_debug_info=False)


def inline_all(module):
    """In place. Functions that nothing calls any more stay."""
    functions = {ir.StringAttr(op.attributes["sym_name"]).value: op.operation for op in module.body.operations
                 if op.operation.name == "func.func"}  # fmt: skip
    done = set()

    def inline_in(name):
        """Calls inside of what is called come first, so that each body is copied as it will stay."""
        if name in done:
            return
        done.add(name)
        calls = []

        def visit(op):
            calls.extend([op] if op.name == "func.call" else [])
            return ir.WalkResult.ADVANCE

        functions[name].walk(visit)
        for call in calls:
            callee = ir.FlatSymbolRefAttr(call.attributes["callee"]).value
            inline_in(callee)
            _inline(call, functions[callee])

    for name in functions:
        inline_in(name)


def _inline(call, function):
    copy = function.clone(ip=ir.InsertionPoint(function))
    block = copy.operation.regions[0].blocks[0]
    for argument, operand in zip(block.arguments, call.operands):
        argument.replace_all_uses_with(operand)
    move_body(block, call)
    copy.operation.erase()
    call.erase()


def move_body(block, op):
    """The operations of the block stand before op, whose results are what the block returns; the block keeps its end, op is
    left to be erased."""
    *inside, end = list(block.operations)
    for inner in inside:
        inner.operation.move_before(op)
    for result, value in zip(op.results, end.operands):
        result.replace_all_uses_with(value)
