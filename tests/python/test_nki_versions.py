"""The version switch of vtrn.nki, and what `python -m vtrn.nki check` finds in kernels."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402
from vtrn.nki import check, versions  # noqa: E402

KERNEL = """import nki
import nki.isa as nisa
from nki import language as nl
from nki.isa import dma_copy as copy

@nki.jit(mode="trace")
def kernel(a):
    n = nisa.register_alloc(3)
    while n:
        nisa.register_move(n, imm=0)
    for i in nl.dynamic_range(4):
        nisa.tensor_copy(dst, src, dtype=nl.float32)
    copy(dst, src, dst_rmw_op=nl.add)
    for j in nl.affine_range(nl.tile_size.psum_fmax):
        nisa.nc_matmul(p, x, y, accumulate=True)
    nl.fori_loop(0, 4, body)
    return nl.load(a)
"""
FOUND = {  # version -> (line, a part of the message)
    "0.2": {(15, "accumulate="), (16, "fori_loop"), (17, "load is not in NKI 0.2: it came with 0.3; use nisa.dma_copy")},
    "0.3": {(6, "mode="), (10, "imm="), (12, "dtype="), (13, "dst_rmw_op="), (16, "fori_loop")},
    "0.6": {(6, "mode="), (10, "imm="), (12, "dtype="), (13, "dst_rmw_op=")},
    "0.7": {(6, "mode="), (9, "while n:"), (10, "imm="), (11, "dynamic_range is not in NKI 0.7: it ended with 0.6; use "
             "nl.fori_loop"), (12, "dtype="), (13, "dst_rmw_op="), (14, "affine_range is deprecated"), (14, "psum_fmax")},
}


@pytest.mark.parametrize("version", FOUND)
def test_a_kernel_is_checked_for_a_version(version):
    findings = check.check(KERNEL, version, "kernel.py")
    assert len(findings) == len(FOUND[version]), findings
    for line, text in FOUND[version]:
        assert any(f.line == line and text in f.message for f in findings), (line, text, findings)
    for f in findings:
        assert f.level == ("warning" if "deprecated" in f.message else "error")


def test_names_of_other_modules_are_not_nkis():
    text = "import numpy as nl\nimport mine as nisa\nnl.load(1)\nnisa.dynamic_range(2)\nload(3)\n"
    assert check.check(text, "0.2") == check.check(text, "0.7") == []


def test_the_first_generation_is_told():
    findings = check.check("import neuronxcc.nki as nki\nimport neuronxcc.nki.language as nl\nnki.benchmark(f)\nnl.arange(4)\n",
                           "0.6")
    assert [f.line for f in findings] == [1, 2, 3, 4]
    assert "vtrn.nki.profile" in findings[2].message


def test_the_command(tmp_path):
    file = tmp_path / "kernel.py"
    file.write_text(KERNEL)
    done = subprocess.run([sys.executable, "-m", "vtrn.nki", "check", file, "--for", "0.7", "--json"], capture_output=True,
                          text=True)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["version"] == "0.7" and len(document["findings"]) == len(FOUND["0.7"])
    assert set(document["findings"][0]) == {"file", "line", "level", "message"}
    file.write_text("import nki\n")
    done = subprocess.run([sys.executable, "-m", "vtrn.nki", "check", file], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "NKI 0.7: 0 errors, 0 warnings\n"
    file.write_text("def (")
    assert subprocess.run([sys.executable, "-m", "vtrn.nki", "check", file], capture_output=True).returncode == 2


@pytest.fixture
def installed():
    def install(version):
        vtrn.nki.install(force=True, version=version)
        import nki
        import nki.isa
        import nki.language

        return nki, nki.isa, nki.language

    yield install
    vtrn.nki.install(force=True)


def test_each_version_has_its_names(installed):
    for version in versions.VERSIONS:
        nki, nisa, nl = installed(version)
        modules = {"nki": nki, "nki.isa": nisa, "nki.language": nl}
        for row in versions.ROWS:
            if row.keyword is None and not row.is_in(version):
                with pytest.raises(AttributeError, match=f"is not in NKI {version}"):
                    getattr(modules[row.module], row.name)
        assert hasattr(nl, "load") == (version != "0.2")
        assert hasattr(nl, "fori_loop") == (version >= "0.6")
        assert hasattr(nisa, "constants") == hasattr(nl, "range") == (version <= "0.5")
        assert version > "0.5" or list(nl.range(1, 6, 2)) == [1, 3, 5]


@pytest.mark.parametrize("version", versions.VERSIONS)
def test_a_kernel_runs_in_each_version(installed, version):
    nki, nisa, nl = installed(version)

    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        x = nl.ndarray(a.shape, a.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x, src=a)
        nisa.tensor_scalar(x, x, nl.add, 1.0)
        nisa.dma_copy(dst=out, src=x)
        return out

    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(kernel(a), a + 1)


def test_keywords_and_loops_of_other_versions_are_refused(installed):
    a = np.zeros((2, 2), np.float32)

    def launch(nki, body):
        def kernel(x):
            body(x)
            return x

        return nki.jit(kernel)(a)

    nki, nisa, nl = installed("0.6")
    with pytest.raises(TypeError, match=r"tensor_copy\(dtype=\) is not in NKI 0.6: it ended with 0.2"):
        launch(nki, lambda x: nisa.tensor_copy(nl.load(x), nl.load(x), dtype=nl.float32))

    def loops(x):
        n = nisa.register_alloc(1)
        while n:
            nisa.register_move(n, nisa.register_alloc(0))

    launch(nki, loops)
    nki, nisa, nl = installed("0.7")
    with pytest.raises(TypeError, match="nl.while_loop"):
        launch(nki, loops)
    nki, nisa, nl = installed(None)
    launch(nki, lambda x: nisa.tensor_copy(nl.load(x), nl.load(x), dtype=nl.float32))


def test_the_environment_chooses(installed, monkeypatch):
    monkeypatch.setenv("VTRN_NKI_VERSION", "0.7")
    assert not hasattr(installed(None)[2], "dynamic_range")
    monkeypatch.setenv("VTRN_NKI_VERSION", "1.0")
    with pytest.raises(ValueError, match="NKI 1.0: one of 0.2"):
        installed(None)
    monkeypatch.delenv("VTRN_NKI_VERSION")


PYTHON = '''import nki
import nki.language as nl

@nki.jit
def inner(x):
    return x

@nki.jit(mode="auto")
def kernel(x, sizes=[1, 2], *, flag=None):
    if flag is None and sizes is not flag:
        return inner(x)
    table = {1: x, "two": x}
    def numbers():
        yield 1
    return table["two"]

def outside(x, flag=None):
    return kernel(x, [3], flag) if flag is None else {1: 2}
'''


def test_python_that_the_compiler_does_not_take_is_told():
    def found(version, strict=False):
        return {(f.line, f.message.partition(" (a rule")[0]) for f in check.check(PYTHON, version, strict=strict)
                if "a rule of the compilers" in f.message and f.level == ("error" if strict else "warning")}

    since_2 = {(11, "kernel inner is called by a kernel; call its plain function"), (14, "`yield` in a kernel; return a list or tuple"),
               (12, "a dictionary whose keys are no strings, in a kernel; use strings")}
    since_3 = {(9, "kernel kernel has arguments behind *; put those with defaults at the end"),
               (9, "kernel kernel has a list for a default; make it a tuple"), (10, "`is None` in a kernel; use `==`"),
               (10, "`is not` in a kernel; use `!=`"), (18, "a list for kernel kernel; give it a tuple")}
    assert found("0.2") == since_2
    assert found("0.3") == found("0.6", strict=True) == since_2 | since_3
    assert not found("0.7")


def test_the_command_is_strict_if_asked(tmp_path, capsys):
    file = tmp_path / "k.py"
    file.write_text("import nki\n\n@nki.jit\ndef kernel(x, n=None):\n    return x if n is None else n\n")
    assert check.main([str(file), "--for", "0.6"]) == 0 and "1 warnings" in capsys.readouterr().out
    assert check.main([str(file), "--for", "0.6", "--strict", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["line"], finding["level"]) == (5, "error")
