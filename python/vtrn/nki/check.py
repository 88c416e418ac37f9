"""python -m vtrn.nki check FILE ... --for VERSION [--json]: what a kernel would meet in that version of NKI.

Only the text is read, nothing runs: names and keywords of nki, nki.language and nki.isa, loops over registers, and
names of the first generation."""

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


class _Visitor(ast.NodeVisitor):
    def __init__(self, file, version):
        self.file, self.version, self.findings = file, version, []
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

    def visit_Assign(self, node):
        if isinstance(node.value, ast.Call) and self.dotted(node.value.func) == "nki.isa.register_alloc":
            self.registers |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        self.generic_visit(node)

    def visit_While(self, node):
        if isinstance(node.test, ast.Name) and node.test.id in self.registers and self.version == "0.7":
            self.tell(node, "error", f"`while {node.test.id}:` over a register is not in NKI 0.7: it ended with 0.6; use "
                      "nl.while_loop")
        self.generic_visit(node)


def check(text, version, file="<kernel>"):
    """Findings in the text of a kernel's file."""
    versions.number(version)
    visitor = _Visitor(file, version)
    visitor.visit(ast.parse(text, file))
    return sorted(set(visitor.findings), key=lambda f: (f.line, f.message))


def main(arguments):
    parser = argparse.ArgumentParser("python -m vtrn.nki check", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--for", dest="version", default=versions.NEWEST, choices=versions.VERSIONS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    findings = []
    for file in args.files:
        try:
            findings += check(file.read_text(), args.version, str(file))
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
