"""What one device of a divided program runs, as a module without Shardy's dialect: XLA's converter to HLO knows none of it."""

from jaxlib.mlir import ir

from vtrn.partition.calls import move_body
from vtrn.partition.shardings import Refused

BODIES = ("sdy.manual_computation", "sdy.named_computation")
# Where values are, and nothing else: on one device each is its operand.
PLACES = ("sdy.sharding_constraint", "sdy.reshard", "sdy.propagation_barrier", "sdy.data_flow_edge")
SAID = ("sdy.", "mhlo.sharding", "mhlo.in_spmd_parameters_shardings", "mhlo.out_spmd_output_sharding", "vtrn.unreduced")


def unannotated(module):
    """In place; a module for several devices has its values in one manual computation (`is_manual`). Raises Refused."""
    for op in list(module.body.operations):
        if op.operation.name.startswith("sdy."):
            op.operation.erase()
        elif op.operation.name == "func.func":
            _plain_block(op.regions[0].blocks[0] if op.regions[0].blocks else None)
            _set_type(op)
    module.operation.walk(_forget)


def _plain_block(block):
    for op in list(block.operations) if block else ():
        op = op.operation
        for region in op.regions:
            for inner in region.blocks:
                _plain_block(inner)
        if op.name in BODIES:
            _inline(op)
        elif op.name in PLACES:
            op.results[0].replace_all_uses_with(op.operands[0])
            op.erase()
        elif op.name == "stablehlo.async_start":
            raise Refused("XLA's converter to HLO knows no asynchronous operations of StableHLO")
        elif op.name.startswith("sdy.") and op.name != "sdy.return":
            if len(op.results):
                raise Refused(f"{op.name} is no operation of one device")
            op.erase()


def _inline(op):
    """The operations of the body take op's place. An argument of the function has the type of its part."""
    body = op.regions[0].blocks[0]
    for outer, inner in zip(op.operands, body.arguments):
        if outer.type != inner.type:
            if not isinstance(outer.owner, ir.Block) or sum(1 for _ in outer.uses) > 1:
                raise Refused("a value is divided in two ways, which has no one type")
            outer.set_type(inner.type)
        inner.replace_all_uses_with(outer)
    move_body(body, op)
    body.operations[len(body.operations) - 1].operation.erase()
    op.erase()


def _set_type(function):
    block = function.regions[0].blocks[0] if function.regions[0].blocks else None
    if block:
        end = block.operations[len(block.operations) - 1]
        kind = ir.FunctionType.get([a.type for a in block.arguments], [v.type for v in end.operands])
        function.attributes["function_type"] = ir.TypeAttr.get(kind)
    for name in ("arg_attrs", "res_attrs"):
        if name in function.attributes:
            of_each = [ir.DictAttr(d) for d in ir.ArrayAttr(function.attributes[name])]
            kept = [{e.name: e.attr for e in d if not e.name.startswith(SAID)} for d in of_each]
            function.attributes[name] = ir.ArrayAttr.get([ir.DictAttr.get(d) for d in kept])


def _forget(op):
    for name in [name for name in op.attributes if name.startswith(SAID)]:
        del op.attributes[name]
    return ir.WalkResult.ADVANCE
