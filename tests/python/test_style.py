"""C functions take at most six parameters: what belongs together is a struct with a name."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("include", "src", "tests", "bench", "fuzz", "examples")
FILES = sorted(
    p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in (".c", ".h", ".inc")
)
MAX_PARAMETERS = 6
# Programs that users have compiled call these two; a struct instead would break each of them.
PUBLIC = {"vtrn_buffer_create", "vtrn_execute"}

NOISE = re.compile(
    r"""/\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""", re.S | re.X
)
CPLUSPLUS = re.compile(r"^#ifdef __cplusplus$.*?^#endif$", re.M | re.S)
DIRECTIVE = re.compile(r"^[ \t]*#((?:[^\n\\]|\\.)*)$", re.M | re.S)
MACRO = re.compile(r"\s*define\s+\w+(?:\([^)]*\))?(.*)", re.S)
TOKEN = re.compile(r"#\w+|\w+|\S")
KEYWORDS = {"if", "for", "while", "switch", "return", "sizeof", "else", "do"}


def end_of_parentheses(tokens, start):
    """The index behind the parenthesis that closes the one at start; the commas directly in it."""
    depth, commas = 0, 0
    for i in range(start, len(tokens)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(tokens[i], 0)
        commas += tokens[i] == "," and depth == 1
        if depth == 0:
            return i + 1, commas
    return len(tokens), commas


def functions_of(text, terminators=("{", ";")):
    """(name, parameters) of each function that is declared or defined at the top level."""
    tokens = TOKEN.findall(text)
    found, depth, depth_before, i = [], 0, [], 0
    while i < len(tokens):
        if tokens[i] == "#if":
            depth_before.append(depth)
        elif tokens[i] == "#else":  # instead of what stands behind the #if
            depth = depth_before[-1]
        elif tokens[i] == "#endif":
            depth_before.pop()
        elif depth == 0 and tokens[i] == "(":
            end, commas = end_of_parentheses(tokens, i)
            name, before = ([""] * 2 + tokens[:i])[:-3:-1]
            has_type = re.fullmatch(r"\w+|\*|\)", before) and before not in KEYWORDS
            if re.fullmatch(r"[A-Za-z_]\w*", name) and name not in KEYWORDS and has_type:
                if end < len(tokens) and tokens[end] in terminators:
                    found.append((name, commas + 1 if end > i + 2 else 0))
            i = end
            continue
        depth += {"{": 1, "}": -1}.get(tokens[i], 0)
        i += 1
    assert depth == 0, "braces that do not match"
    return found


def branch_of(directive):
    """What is left of a directive: where the branches of a condition begin and end."""
    word = directive.group(1).split()[0]
    kinds = {"if": "#if", "ifdef": "#if", "ifndef": "#if", "elif": "#else", "else": "#else"}
    return kinds.get(word, "#endif" if word == "endif" else "")


def functions_in(source):
    """Those of a file, and those that its macros define."""
    text = NOISE.sub(" ", CPLUSPLUS.sub("", source))
    macros = [MACRO.fullmatch(d.group(1)) for d in DIRECTIVE.finditer(text)]
    found = functions_of(DIRECTIVE.sub(branch_of, text))
    for macro in filter(None, macros):
        body = re.sub(r"\s*##\s*", "", macro.group(1).replace("\\\n", "\n"))
        if body.count("{") == body.count("}"):
            found += functions_of(body, terminators=("{",))
    return found


@pytest.mark.parametrize(
    "source, expected",
    [
        ("int f(void);", [("f", 1)]),
        ("static bool f(int a, /* b, */ int c) { g(1, 2, 3); }", [("f", 2)]),
        ("void f(void (*g)(int, int), int h[static 2]);", [("f", 2)]),
        ("typedef struct t { int (*f)(int, int, int); } t;", []),
        ("static inline __attribute__((always_inline)) void\nf(int a,\n  int b) {}", [("f", 2)]),
        ("char *f(const char *a) { if (a) { return h(a, a); } }", [("f", 1)]),
        ("#define M(t) \\\n static t f_##t(int a, \\\n int b) { }\nM(int)", [("f_t", 2)]),
        ("#define M(t) for (int i = 0, j = 1; ;) { }", []),
        ('#ifdef __cplusplus\nextern "C" {\n#endif\nint f(int a, int b);', [("f", 2)]),
        ("#if A\nint f(int a) {\n#else\nint f(void) {\n#endif\n}", [("f", 1), ("f", 1)]),
        ("static const int x = 3, y[] = {1, 2};\n// f(1, 2);\n", []),
    ],
)
def test_parameters_are_counted(source, expected):
    assert functions_in(source) == expected


def test_functions_are_found():
    names = {name for path in FILES for name, _ in functions_in(path.read_text())}
    assert len(names) > 3000 and PUBLIC <= names


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_take_at_most_six_parameters(folder):
    broken = {
        f"{path.relative_to(ROOT)}: {name} takes {n}"
        for path in FILES
        if path.is_relative_to(ROOT / folder)
        for name, n in functions_in(path.read_text())
        if n > MAX_PARAMETERS and name not in PUBLIC
    }
    assert not broken, "\n".join(sorted(broken))
