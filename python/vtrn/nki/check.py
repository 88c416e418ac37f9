"""python -m vtrn.nki check FILE ... --for VERSION [--strict] [--json]: what a kernel would meet in that version of NKI.

Only the text is read, nothing runs: names and keywords of nki, nki.language and nki.isa, loops over registers,
names of the first generation, and Python that the compilers up to 0.6 do not take in a kernel."""

import argparse
import ast
import dataclasses
import json
import pathlib
import sys

from vtrn.nki import versions

_MODULES = ("nki", "nki.language", "nki.isa", "nki.collectives", "nki.typing", "nki.compiler")
FIRST = "neuronxcc.nki"


@dataclasses.dataclass(frozen=True)
class Finding:
    file: str
    line: int
    level: str  # error: it does not work there; warning: it is deprecated
    message: str

    def __str__(self):
        return f"{self.file}:{self.line}: {self.level}: {self.message}"


def _aliases(visitor, node):
    """What the import gives names to."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            root = alias.name.partition(".")[0]
            visitor.aliases[alias.asname or root] = alias.name if alias.asname else root
    elif node.module and not node.level:
        for alias in node.names:
            visitor.aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"


class _Visitor(ast.NodeVisitor):
    def __init__(self, file, version, strict=False):
        self.file, self.version, self.findings = file, version, []
        self.level_of_python = "error" if strict else "warning"
        self.kernels, self.inside = set(), 0  # names of the file's kernels; how deep in one the text is
        self.aliases = {}  # name in the file -> dotted name of a module, or of a member of one
        self.registers = set()

    def tell(self, node, level, message):
        self.findings.append(Finding(self.file, node.lineno, level, message))

    # -- what names mean

    def visit_Import(self, node):
        for alias in node.names:
            self.old(node, alias.name)
            if alias.asname:
                self.aliases[alias.asname] = alias.name
            else:
                root = alias.name.partition(".")[0]
                self.aliases[root] = root

    def visit_ImportFrom(self, node):
        if node.module and not node.level:
            self.old(node, node.module)
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                self.aliases[alias.asname or alias.name] = full
                self.name(node, full)

    def old(self, node, name):
        if name == FIRST or name.startswith(FIRST + "."):
            self.tell(node, "error", f"{name} is the first generation of NKI, which {self.version} is not: calls write to dst "
                      "there, masks and index expressions are gone; see the migration pages")

    def dotted(self, node):
        """"nki.language.load" for nl.load; None for what is no name of a module."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return f"{base}.{node.attr}" if base else None
        return None

    # -- uses

    def name(self, node, full, keywords=()):
        full = full.removeprefix("neuronxcc.")
        module, _, attribute = full.rpartition(".")
        if module == "nki.language.tile_size" and attribute in versions.TILE_SIZE_DEPRECATED:
            since, remedy = versions.TILE_SIZE_DEPRECATED[attribute]
            if versions.number(self.version) >= versions.number(since):
                self.tell(node, "warning", f"tile_size.{attribute} is deprecated from NKI {since} on; {remedy}")
        if module == "nki" and attribute in versions.GONE:
            self.tell(node, "error", f"nki.{attribute} is of the first generation; {versions.GONE[attribute]}")
        for row in versions.ROWS:
            if (row.module, row.name) != (module, attribute) or (row.keyword and row.keyword not in keywords):
                continue
            if not row.is_in(self.version):
                self.tell(node, "error", row.text(self.version))
            elif row.is_deprecated(self.version):
                self.tell(node, "warning", row.text(self.version))

    def visit_Call(self, node):
        self.call_of_kernel(node)
        full = self.dotted(node.func)
        if full:
            for row in versions.ROWS:
                keys = [k.arg for k in node.keywords]
                if row.keyword in keys and f"{row.module}.{row.name}" == full.removeprefix("neuronxcc."):
                    self._keyword(node, row)
        self.generic_visit(node)

    def _keyword(self, node, row):
        if not row.is_in(self.version):
            self.tell(node, "error", row.text(self.version))
        elif row.is_deprecated(self.version):
            self.tell(node, "warning", row.text(self.version))

    def visit_Attribute(self, node):
        full = self.dotted(node)
        if full and any(full.removeprefix("neuronxcc.").startswith(m + ".") for m in _MODULES):
            self.name(node, full)
            return
        self.generic_visit(node)

    # -- Python that compilers take. Source: NKI's language guide, "NKI Values", and its migration page, "Language
    # restrictions"; from 0.7 on kernels are traced, and take all of it.

    def python(self, node, since, message):
        if versions.number(since) <= versions.number(self.version) <= versions.number("0.6"):
            self.tell(node, self.level_of_python, f"{message} (a rule of the compilers of NKI {since} to 0.6)")

    def is_kernel(self, node):
        made_by = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
        return any((self.dotted(d) or "").removeprefix("neuronxcc.") == "nki.jit" for d in made_by)

    def visit_FunctionDef(self, node):
        if not self.is_kernel(node):
            self.generic_visit(node)
            return
        if self.inside:
            self.python(node, "0.2", f"kernel {node.name} within a kernel; make it a plain function")
        if node.args.kwonlyargs:
            self.python(node, "0.3", f"kernel {node.name} has arguments behind *; put those with defaults at the end")
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            if isinstance(default, ast.List):
                self.python(default, "0.3", f"kernel {node.name} has a list for a default; make it a tuple")
        self.inside += 1
        self.generic_visit(node)
        self.inside -= 1

    def visit_Compare(self, node):
        if self.inside:
            for op, other in zip(node.ops, node.comparators):
                is_none = isinstance(other, ast.Constant) and other.value is None
                if isinstance(op, (ast.Is, ast.IsNot)):
                    word, instead = ("is", "==") if isinstance(op, ast.Is) else ("is not", "!=")
                    self.python(node, "0.3", f"`{word}{' None' if is_none else ''}` in a kernel; use `{instead}`")
        self.generic_visit(node)

    def visit_Dict(self, node):
        if self.inside and any(isinstance(k, ast.Constant) and not isinstance(k.value, str) for k in node.keys):
            self.python(node, "0.2", "a dictionary whose keys are no strings, in a kernel; use strings")
        self.generic_visit(node)

    def _generator(self, node):
        if self.inside:
            self.python(node, "0.2", "`yield` in a kernel; return a list or tuple")
        self.generic_visit(node)

    visit_Yield = visit_YieldFrom = _generator

    def call_of_kernel(self, node):
        if self.inside and isinstance(node.func, ast.Name) and node.func.id in self.kernels:
            self.python(node, "0.2", f"kernel {node.func.id} is called by a kernel; call its plain function")
        for argument in (*node.args, *(k.value for k in node.keywords)):
            called = node.func.value if isinstance(node.func, ast.Subscript) else node.func
            if isinstance(argument, ast.List) and isinstance(called, ast.Name) and called.id in self.kernels:
                self.python(argument, "0.3", f"a list for kernel {called.id}; give it a tuple")

    def visit_Module(self, node):
        for part in ast.walk(node):  # imports come first in any case
            if isinstance(part, (ast.Import, ast.ImportFrom)):
                _aliases(self, part)
        self.kernels = {f.name for f in ast.walk(node) if isinstance(f, ast.FunctionDef) and self.is_kernel(f)}
        self.generic_visit(node)

    def visit_Assign(self, node):
        if isinstance(node.value, ast.Call) and self.dotted(node.value.func) == "nki.isa.register_alloc":
            self.registers |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        self.generic_visit(node)

    def visit_While(self, node):
        if isinstance(node.test, ast.Name) and node.test.id in self.registers and self.version == "0.7":
            self.tell(node, "error", f"`while {node.test.id}:` over a register is not in NKI 0.7: it ended with 0.6; use "
                      "nl.while_loop")
        self.generic_visit(node)


def check(text, version, file="<kernel>", strict=False):
    """Findings in the text of a kernel's file. strict: Python that the compiler does not take is an error."""
    versions.number(version)
    visitor = _Visitor(file, version, strict)
    visitor.visit(ast.parse(text, file))
    return sorted(set(visitor.findings), key=lambda f: (f.line, f.message))


def main(arguments):
    parser = argparse.ArgumentParser("python -m vtrn.nki check", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--for", dest="version", default=versions.NEWEST, choices=versions.VERSIONS)
    parser.add_argument("--strict", action="store_true", help="Python that the version's compiler does not take is an error")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    findings = []
    for file in args.files:
        try:
            findings += check(file.read_text(), args.version, str(file), args.strict)
        except (OSError, SyntaxError, UnicodeDecodeError) as e:
            print(f"{file}: {e}", file=sys.stderr)
            return 2
    if args.json:
        print(json.dumps({"version": args.version, "findings": [dataclasses.asdict(f) for f in findings]}, indent=1))
    else:
        for finding in findings:
            print(finding)
        n_errors = sum(f.level == "error" for f in findings)
        print(f"NKI {args.version}: {n_errors} errors, {len(findings) - n_errors} warnings")
    return 1 if any(f.level == "error" for f in findings) else 0
