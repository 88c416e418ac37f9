"""The vtrn command as a user types it; NumPy is the oracle for what programs compute."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from paths import BUILD, ROOT

VTRN = BUILD / "src/cli/vtrn"
COMMANDS = ["chips", "run", "profile", "asm", "disasm", "isa", "doctor", "time", "explain", "collectives", "scale",
            "serve", "serve-replay", "bench"]  # fmt: skip


def vtrn(*args, code=0, **kwargs):
    done = subprocess.run([VTRN, *map(str, args)], capture_output=True, timeout=120, **kwargs)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode() if code == 0 else done.stderr.decode()


@pytest.fixture
def matmul(tmp_path):
    """The program of docs/assembly.md."""
    with open(os.path.join(ROOT, "docs/assembly.md")) as f:
        text = re.search(r"```vasm\n(.*?)```", f.read(), re.S).group(1)
    path = tmp_path / "matmul.vasm"
    path.write_text(text)
    return path


ADD = """program "add" chip "trn1" gen 2
arguments 2
outputs _
scratch 0
slot 0 argument fp32 4096 bytes number 0
slot 1 argument bf16 2048 bytes number 1
slot 2 output bf16 2048 bytes number 0
block 0
Sync dma_copy sbuf[0:32, 0]:fp32(1:32), hbm[0, 0, 32*32]:fp32(1:32), ring 0, inc s0+16
Sync dma_copy sbuf[0:32, 256]:bf16(1:32), hbm[1, 0, 32*32]:bf16(1:32), ring 1, inc s1+16
Vector tensor_tensor.add sbuf[0:32, 512]:bf16(1:32), sbuf[0:32, 0]:fp32(1:32), sbuf[0:32, 256]:bf16(1:32), wait s0>=16, wait s1>=16, inc s2
Sync dma_copy hbm[2, 0, 32*32]:bf16(1:32), sbuf[0:32, 512]:bf16(1:32), ring 2, wait s2>=1
stop
"""


@pytest.fixture
def add(tmp_path):
    path = tmp_path / "add.vasm"
    path.write_text(ADD)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    assert f"example: vtrn {command}" in vtrn(command, "--help")
    assert command in vtrn("--help")


def test_wrong_usage_exits_2_and_says_so():
    assert "no command nonsense" in vtrn("nonsense", code=2)
    assert "usage" in vtrn(code=2)
    for command in COMMANDS:
        assert f"vtrn {command}: no option --nonsense" in vtrn(command, "--nonsense", code=2)
    assert "needs a value" in vtrn("run", "x", "--chip", code=2)
    assert "not an integer" in vtrn("run", "x", "--seed", "1x", code=2)
    assert "-o DIR" in vtrn("profile", "x", code=2)


def test_chips_lists_every_chip_file_and_shows_its_numbers():
    listed = json.loads(vtrn("chips", "--json"))
    files = {f[:-5] for f in os.listdir(os.path.join(ROOT, "chips")) if f.endswith(".toml")}
    assert {c["name"] for c in listed["chips"]} == files - {"instances"}
    assert any(i["name"] == "trn1.2xlarge" for i in listed["instances"])
    text = vtrn("chips")
    for chip in listed["chips"]:
        assert chip["name"] in text
    trn1 = json.loads(vtrn("chips", "trn1", "--json"))
    assert trn1["memory"]["sbuf_partition_bytes"] == 192 * 1024
    assert trn1["clock"]["tensor_hz"] == 2.8e9
    assert "sbuf_partition_bytes" in vtrn("chips", "trn1")


def collectives(*args):
    return json.loads(vtrn("collectives", *args, "--json"))


def test_collectives_prints_a_size_a_row():
    text = vtrn("collectives", "all_reduce", "--instance", "trn2.48xlarge", "--ranks", "64", "--sizes", "8K:1G")
    assert len(re.findall(r"(?m)^ +\d+ +[\d.]+ +[\d.]+ +[\d.]+  \w+ +\d+$", text)) == 18
    table = collectives("all_reduce", "--instance", "trn1.32xlarge", "--ranks", "32", "--sizes", "1K,3M,1G")
    assert [row["bytes"] for row in table["rows"]] == [1024, 3 << 20, 1 << 30]
    for row in table["rows"]:
        assert row["algbw_gb_per_s"] == pytest.approx(row["bytes"] / row["time_us"] / 1e3)
        assert row["busbw_gb_per_s"] == pytest.approx(row["algbw_gb_per_s"] * 2 * 31 / 32)
    assert [row["algorithm"] for row in table["rows"]] == ["mesh", "mesh", "ring"]
    assert table["restriction"] is None
    assert "multiple of 32" in collectives("all_reduce", "--instance", "trn1.32xlarge", "--ranks", "12")["restriction"]


def test_collectives_between_nodes_and_of_groups_at_once():
    one = collectives("all_gather", "--instance", "trn1.32xlarge", "--ranks", "32", "--sizes", "64M")["rows"][0]
    two = collectives("all_gather", "--instance", "trn1.32xlarge", "--nodes", "2", "--ranks", "32", "--sizes", "64M")["rows"][0]
    assert two["time_us"] > one["time_us"] and two["algorithm"] == "hierarchical"
    permute = ["permute", "--instance", "trn1.32xlarge", "--sizes", "1M"]
    assert collectives(*permute, "--ranks", "8")["rows"] == collectives(*permute, "--ranks", "8", "--groups", "4")["rows"]


@pytest.mark.parametrize("args, code, part", [
    (["all_reduce"], 2, "--instance is missing"),
    (["reduce", "--instance", "trn1.32xlarge"], 2, "no operation 'reduce'"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--ranks", "33"], 2, "has 32 NeuronCores"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--sizes", "8X"], 2, "--sizes 8X"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--sizes", "8K:1K"], 2, "--sizes 8K:1K"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--sizes", "99999999999G"], 2, "of 1 to 1e15 bytes"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--nodes", "0"], 2, "--nodes is 1"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--nodes", "2", "--ranks", "3"], 2, "evenly"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--groups", "3", "--ranks", "16"], 2, "--groups 3"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--algorithm", "tree"], 2, "no algorithm 'tree'"),
    (["all_reduce", "--instance", "trn1.32xlarge", "--algorithm", "rdh"], 1, "cannot run as rdh"),
    (["all_reduce", "--instance", "trn1.2xlarge", "--nodes", "2"], 1, "no network adapters"),
    (["all_reduce", "--instance", "inf1.24xlarge"], 1, "nothing is known of collectives on inf1"),
    (["all_reduce", "--instance", "trn1.32xlarg"], 1, "did you mean 'trn1.32xlarge'"),
])  # fmt: skip
def test_collectives_refuses_what_it_cannot_tell(args, code, part):
    assert part in vtrn("collectives", *args, code=code)


@pytest.fixture
def step_artifact(tmp_path):
    """An artifact whose first argument of 16 x 16 is donated."""
    jax = pytest.importorskip("jax")
    w, x = (jax.ShapeDtypeStruct(s, np.float32) for s in [(16, 16), (8, 16)])
    path = tmp_path / "step.mlirbc"
    step = jax.jit(lambda w, x: w - 0.1 * (x.T @ x), donate_argnums=0)
    path.write_bytes(jax.export.export(step, platforms=["cpu"])(w, x).mlir_module_serialized)
    return path


def scale(path, *args):
    return json.loads(vtrn("scale", path, "--json", *args))


def test_scale_adds_the_all_reduce_to_one_cores_step(step_artifact):
    table = scale(step_artifact, "--chip", "trn1", "--gradient-bytes", 20 << 20, "--chips", "1,2,4,...,32")
    assert [p["chips"] for p in table["points"]] == [1, 2, 4, 8, 16, 32]
    assert [p["cores"] for p in table["points"]] == [2, 4, 8, 16, 32, 64]
    assert [p["instances"] for p in table["points"]] == [1, 1, 1, 1, 1, 2]
    for point in table["points"]:
        assert point["step_ns"] == pytest.approx(table["core_step_ns"] + point["all_reduce_ns"])
        assert point["efficiency"] == pytest.approx(table["core_step_ns"] / point["step_ns"])
        assert point["dollars_per_1000_steps"] == pytest.approx(8.197 / 3600 * point["instances"] * point["step_ns"] / 1e6)
    pieces = collectives("all_reduce", "--instance", "trn1.32xlarge", "--ranks", "16", "--sizes", "4M,8M")["rows"]
    assert table["points"][3]["all_reduce_ns"] == pytest.approx(1e3 * (2 * pieces[1]["time_us"] + pieces[0]["time_us"]))
    assert len(vtrn("scale", step_artifact, "--chips", "1,16").splitlines()) == 4


def test_scale_takes_the_donated_arguments_for_the_gradients(step_artifact):
    assert scale(step_artifact, "--chips", "1")["gradient_bytes"] == 4 * 16 * 16


@pytest.mark.parametrize("chips", ["0", "2,1", "1,...,8", "1,2,...", "1,,2", "x", "1,2,...,...,8", "99999999"])
def test_scale_refuses_counts_that_do_not_rise(chips):
    said = vtrn("scale", "x", "--chips", chips, code=2)
    assert f"--chips {chips}" in said and "at most 64 rising numbers from 1 to 65536" in said


def test_scale_needs_gradients_and_a_network(step_artifact):
    assert "--gradient-bytes" in vtrn("scale", step_artifact, "--gradient-bytes", "0", code=1)
    assert "no network adapters" in vtrn("scale", step_artifact, "--instance", "trn1.2xlarge", "--chips", "2", code=1)


SPARSE_CHIP = """[chip]
name = "sparse"
version = 1
core_name = "NeuronCore-v1"
generation = 1
cores = 4
executable = false
[memory]
hbm_bytes = 8589934592
hbm_stacks = 2
hbm_bytes_per_s = 26843545600
[clock]
sync_hz = 1.0e9
peak_tensor_flops = 16e12
[limits]
semaphores = 32
dma_engines = 3
dma_queues = 16
[host]
call_ns = 0
bytes_per_s = 0
"""


def test_what_nobody_published_is_not_shown_as_a_zero(tmp_path):
    path = tmp_path / "sparse.toml"
    path.write_text(SPARSE_CHIP)
    text = vtrn("chips", path)
    assert re.search(r"(?m)^  sbuf_partition_bytes +not published$", text)
    assert re.search(r"(?m)^  hbm_bytes +8589934592 bytes$", text)
    assert "not published" not in vtrn("chips", "trn1")
    sparse = json.loads(vtrn("chips", path, "--json"))
    assert sparse["memory"]["sbuf_partition_bytes"] is None and sparse["chip"]["executable"] is False
    assert sparse["limits"]["semaphores"] == 32
    listed = vtrn("chips", env={**os.environ, "VTRN_CHIPS_PATH": str(tmp_path)})
    row = next(line for line in listed.splitlines() if line.startswith("sparse "))
    assert "not published" in row and "0 B" not in row


def test_a_chip_of_too_few_numbers_runs_nothing(tmp_path, add):
    path = tmp_path / "sparse.toml"
    path.write_text(SPARSE_CHIP)
    assert "sparse" in vtrn("run", add, "--random", "--chip", path, code=3)


def test_most_of_inf1_is_assumed_and_said_so():
    constants = json.loads(vtrn("chips", "inf1", "--timing", "--json"))["constants"]
    assert sum(c["basis"] == "assumed" for c in constants) > 40
    assert json.loads(vtrn("chips", "inf1", "--json"))["chip"]["executable"] is True


def test_a_typo_in_a_name_gets_the_near_one():
    assert "did you mean 'trn1'?" in vtrn("chips", "trm1", code=1)
    assert "did you mean" not in vtrn("chips", "trn9", code=1)  # three are as near


def test_an_unknown_chip_is_an_error_that_lists_the_known_ones():
    error = vtrn("chips", "trn9", code=1)
    assert "trn9" in error and "trn1" in error


def test_asm_and_disasm_round_trip_byte_for_byte(matmul, tmp_path):
    vtrn("asm", matmul, "-o", tmp_path / "a.vtrn")
    vtrn("disasm", tmp_path / "a.vtrn", "-o", tmp_path / "b.vasm")
    vtrn("asm", tmp_path / "b.vasm")
    assert (tmp_path / "a.vtrn").read_bytes() == (tmp_path / "b.vtrn").read_bytes()
    counts = json.loads(vtrn("disasm", tmp_path / "a.vtrn", "--json"))
    assert counts["opcodes"]["matmul"] == 1 and counts["instructions"] == 6
    made = json.loads(vtrn("asm", matmul, "-o", tmp_path / "a.vtrn", "--json"))
    assert made["bytes"] == (tmp_path / "a.vtrn").stat().st_size


@pytest.mark.parametrize("output", [["-o", "-"], []])
def test_standard_input_and_output_work(matmul, output):
    done = subprocess.run([VTRN, "asm", "-", *output], input=matmul.read_bytes(),
                          capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith(b"VTRN")


def test_a_mistake_in_the_text_shows_its_line_and_a_caret(matmul):
    matmul.write_text(matmul.read_text().replace("Tensor matmul", "Tensor matmull"))
    error = vtrn("asm", matmul, code=1)
    assert f'{matmul}:18: no instruction is called "matmull"' in error
    lines = error.splitlines()
    assert lines[1][lines[2].index("^"):].startswith("matmull")


def test_an_illegal_program_is_refused_with_rule_values_and_remedy(matmul):
    text = matmul.read_text().replace("psum[0:64, 0x0]:fp32(1:128), sbuf[0:128, 0x100]:fp32(1:128)",
                                      "psum[0:64, 0x0]:fp32(1:640), sbuf[0:128, 0x100]:fp32(1:640)")
    matmul.write_text(text)
    error = vtrn("asm", matmul, code=1)
    assert "moving free size 640 > 512 (one PSUM bank, NeuronCore-v2)" in error
    assert "stablehlo.dot_general model.py:42; split" in error


def test_what_the_chip_lacks_exits_3(matmul):
    assert "made for NeuronCore-v2, trn2 has v3" in vtrn("asm", matmul, "--chip", "trn2", code=3)
    assert "inf1" in vtrn("run", matmul, "--random", "--chip", "inf1", code=3)


def test_a_damaged_program_file_exits_1(matmul, tmp_path):
    vtrn("asm", matmul, "-o", tmp_path / "a.vtrn")
    data = bytearray((tmp_path / "a.vtrn").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.vtrn").write_bytes(data)
    assert "checksum" in vtrn("run", tmp_path / "a.vtrn", "--random", code=1)
    assert "No such file" in vtrn("disasm", tmp_path / "none", code=1)


def test_run_computes_what_numpy_computes(add, tmp_path):
    import ml_dtypes

    rng = np.random.default_rng(1)
    a = rng.standard_normal(1024).astype(np.float32)
    b = rng.standard_normal(1024).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    out = vtrn("run", add, "--input", tmp_path / "a.npy", "--input", tmp_path / "b.npy", "-o",
               tmp_path / "out", "--json")
    got = np.load(tmp_path / "out/out0.npy").view(ml_dtypes.bfloat16)
    want = (a + b.astype(np.float32)).astype(ml_dtypes.bfloat16)
    assert got.tobytes() == want.tobytes()
    summary = json.loads(out)
    assert summary["step_ns"] > 0 and summary["instructions"] >= 4
    assert summary["hbm_read_bytes"] == 4096 + 2048 and summary["hbm_write_bytes"] == 2048


def test_the_matmul_of_the_manual_multiplies(matmul, tmp_path):
    rng = np.random.default_rng(2)
    a = rng.standard_normal((128, 64)).astype(np.float32)
    b = rng.standard_normal((128, 128)).astype(np.float32)
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    out = vtrn("run", matmul, "--input", tmp_path / "a.npy", "--input", tmp_path / "b.npy", "-o",
               tmp_path / "out", "--json")
    got = np.load(tmp_path / "out/out0.npy").reshape(64, 128)
    np.testing.assert_allclose(got, a.T @ b, rtol=1e-5, atol=1e-4)
    assert json.loads(out)["mfu"] > 0


def test_random_inputs_follow_the_seed(add, tmp_path):
    outs = []
    for name, seed in [("x", 1), ("y", 1), ("z", 2)]:
        vtrn("run", add, "--random", "--seed", seed, "-o", tmp_path / name)
        outs.append((tmp_path / name / "out0.npy").read_bytes())
    assert outs[0] == outs[1] != outs[2]
    vtrn("run", add, "--zeros", "--repeat", 3, "-o", tmp_path / "0")
    assert not np.load(tmp_path / "0/out0.npy").view(np.uint16).any()


def test_inputs_of_the_wrong_type_size_or_number_are_refused(add, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(1024, np.int32))
    assert "the program takes fp32" in vtrn("run", add, "--input", tmp_path / "a.npy", "--zeros",
                                            code=1)
    np.save(tmp_path / "a.npy", np.zeros(1023, np.float32))
    assert "the program takes 4096" in vtrn("run", add, "--input", tmp_path / "a.npy", "--zeros",
                                            code=1)
    assert "takes 2 inputs, 0 given" in vtrn("run", add, code=1)


def test_profile_writes_its_three_files(add, tmp_path):
    vtrn("profile", add, "--random", "-o", tmp_path / "profile")
    for name in ["profile.html", "profile.pftrace", "profile.json"]:
        assert (tmp_path / "profile" / name).stat().st_size > 100
    json.loads((tmp_path / "profile/profile.json").read_text())


@pytest.fixture
def layer(tmp_path):
    """An artifact of two products with a softmax between them."""
    jax = pytest.importorskip("jax")

    def f(x, a, b):
        return jax.nn.softmax(x @ a, -1) @ b

    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in [(256, 512), (512, 384), (384, 128)]]
    path = tmp_path / "layer.mlirbc"
    path.write_bytes(jax.export.export(jax.jit(f), platforms=["cpu"])(*shapes).mlir_module_serialized)
    return path


@pytest.mark.parametrize("chip", ["trn1", "trn2", "trn3", "inf2"])
def test_time_says_what_running_it_would_say(layer, add, matmul, tmp_path, chip):
    timed = json.loads(vtrn("time", layer, "--chip", chip, "--json"))
    ran = json.loads(vtrn("profile", layer, "--zeros", "-o", tmp_path / "p", "--chip", chip, "--json"))
    for key in ["step_ns", "mfu", "flops", "hbm_read_bytes", "hbm_write_bytes", "reference_ops"]:
        assert timed[key] == ran[key], key
    assert timed["active"] == {{"dma": "DMA", "gpsimd": "GpSimd"}.get(k, k.title()): v
                               for k, v in ran["active"].items()}
    if chip == "trn1":
        for program in [add, matmul]:
            ran = json.loads(vtrn("run", program, "--zeros", "--json"))
            assert json.loads(vtrn("time", program, "--json"))["step_ns"] == ran["step_ns"]


def test_time_writes_the_profile_that_a_run_writes_but_for_the_host(layer, tmp_path):
    vtrn("time", layer, "-o", tmp_path / "a")
    vtrn("profile", layer, "--zeros", "-o", tmp_path / "b")
    a, b = (json.loads((tmp_path / d / "profile.json").read_text()) for d in "ab")
    for key in ["step_ns", "engines", "top_ops", "explanation", "sbuf_placed_peak_bytes", "sbuf_live_peak_bytes"]:
        assert a[key] == b[key], key


def test_profiles_tell_what_is_placed_from_what_is_live(layer, tmp_path):
    """Of two figures of SBUF and PSUM, in profile.json, in the page and in words."""
    from vtrn import profile

    vtrn("time", layer, "-o", tmp_path)
    p, page = profile.load(tmp_path), (tmp_path / "profile.html").read_text()
    program = vtrn("disasm", layer)
    for memory in ("sbuf", "psum"):
        placed, live = p[f"{memory}_placed_peak_bytes"], p[f"{memory}_live_peak_bytes"]
        assert placed == 128 * int(re.search(rf"{memory}_peak (\d+)", program)[1])  # as the program says of a partition
        assert 0 < live <= placed <= p[f"{memory}_capacity_bytes"] and f"{memory}_peak_bytes" not in p
        samples = json.loads(re.search(rf'"{memory}":(\[[\d,.e+]*\])', page)[1])
        assert max(samples) == live
        assert f"{memory.upper()} live, at most" in page and f"{memory.upper()} placed, up to" in page
        assert f"{memory.upper()} placed {profile._bytes(placed)} and live {profile._bytes(live)} of" in profile.text(p)


def test_time_refuses_a_loop_that_values_end(tmp_path):
    jax = pytest.importorskip("jax")
    loop = jax.jit(lambda n: jax.lax.while_loop(lambda x: x < 100, lambda x: x * 2, n))
    exported = jax.export.export(loop, platforms=["cpu"])(jax.ShapeDtypeStruct((), np.int32))
    (tmp_path / "loop.mlirbc").write_bytes(exported.mlir_module_serialized)
    for command in ["time", "explain"]:
        assert "vtrn profile" in vtrn(command, tmp_path / "loop.mlirbc", code=1)


def test_explain_says_the_same_of_a_program_and_of_its_profile(layer, tmp_path):
    vtrn("time", layer, "-o", tmp_path / "p")
    said = vtrn("explain", layer)
    assert said == vtrn("explain", tmp_path / "p") == vtrn("explain", tmp_path / "p/profile.json")
    sections = json.loads(vtrn("explain", tmp_path / "p", "--json"))["explanation"]
    assert sections == json.loads((tmp_path / "p/profile.json").read_text())["explanation"]
    assert [s["title"] for s in sections] == ["Critical path", "What bounds the step",
                                              "Gaps of the busiest engine", "Roofline"]
    assert all(t in said for s in sections for t in s["sentences"])


def test_explain_names_source_lines_and_the_busiest_engine(layer):
    timed = json.loads(vtrn("time", layer, "--json"))
    sections = {s["title"]: " ".join(s["sentences"])
                for s in json.loads(vtrn("explain", layer, "--json"))["explanation"]}
    busiest = max((share, e) for e, share in timed["active"].items() if e != "DMA")[1]
    assert sections["Gaps of the busiest engine"].startswith(f"{busiest}, the busiest engine")
    assert re.search(r"test_cli\.py:\d+ \(", sections["Critical path"])
    assert re.search(r"semaphore \d+, at most", sections["Gaps of the busiest engine"])
    shares = [float(x) for x in re.findall(r"([\d.]+) % on ", sections["Critical path"])]
    assert 50 < sum(shares) <= 100.5


def test_a_path_has_no_more_time_than_the_step(layer, tmp_path):
    """The chain's work and waits, with the launch, are the step."""
    for chip in ["trn1", "trn2"]:
        vtrn("time", layer, "--chip", chip, "-o", tmp_path / chip)
        path = vtrn("explain", tmp_path / chip).split("\n\n")[0]
        took, step = re.search(r"takes ([\d.]+) us of the step's ([\d.]+) us", path).groups()
        work = sum(float(x) for x in re.findall(r"(?:of the step: |, )\w+ ([\d.]+) %",
                                                path.split("\n")[2]))
        waits = float(re.search(r"waits for ([\d.]+) %", path).group(1))
        assert abs(work + waits - 100 * float(took) / float(step)) < 1.0
        assert float(took) <= float(step)


@pytest.mark.parametrize("text, error", [
    ('{"version": 1}', "an older vtrn wrote it"),
    ('{"version": "1.0"}', "is no profile"),
    ('{"explanation": [{"title": "a", "sentences": ["b": "c"]}]}', "not as vtrn writes it"),
    ('{"explanation": [{"title": "a", "sentences": ["\\u12"]}]}', "not as vtrn writes it"),
    ('{"explanation": [{"title": "a', "breaks off after 29 bytes"),
    ('{"explanation": ', "breaks off after 16 bytes"),
    ('{"version": 1, "name": "{", ', "breaks off after 28 bytes"),
    ('{"explanation": }', "not as vtrn writes it"),
])
def test_explain_refuses_what_is_no_explanation(tmp_path, text, error):
    (tmp_path / "profile.json").write_text(text)
    assert error in vtrn("explain", tmp_path, code=1)


def test_a_profile_that_breaks_off_is_said_so_wherever_it_does(layer, tmp_path):
    vtrn("time", layer, "-o", tmp_path)
    whole = (tmp_path / "profile.json").read_text()
    for n in [*range(1, len(whole) - 1, 97), len(whole.rstrip()) - 1]:
        (tmp_path / "profile.json").write_text(whole[:n])
        said = vtrn("explain", tmp_path, code=1)
        assert f"breaks off after {n} bytes" in said and "Critical path" not in said
    done = subprocess.run([sys.executable, "-m", "vtrn.profile", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "profile.json is no whole profile" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run([sys.executable, "-m", "vtrn.profile", tmp_path / "nothing"], capture_output=True, text=True)
    assert done.returncode == 1 and "No such file" in done.stderr and "Traceback" not in done.stderr


def test_explain_reads_every_escape(tmp_path):
    document = {"explanation": [{"title": "a\"\\/\n", "sentences": ["\u00e9\u20ac \t", "plain"]},
                                {"title": "b", "sentences": []}]}
    (tmp_path / "profile.json").write_text(json.dumps(document))
    assert json.loads(vtrn("explain", tmp_path, "--json")) == document
    (tmp_path / "profile.json").write_text('{"explanation": []}')
    assert json.loads(vtrn("explain", tmp_path, "--json")) == {"explanation": []}
    assert "No such file" in vtrn("explain", tmp_path / "nothing", code=1)


def test_an_artifact_is_compiled_and_run(tmp_path):
    jax = pytest.importorskip("jax")
    exported = jax.export.export(jax.jit(lambda x: x * 2 + 1), platforms=["cpu"])(
        jax.ShapeDtypeStruct((4, 100), np.float32))
    (tmp_path / "f.mlirbc").write_bytes(exported.mlir_module_serialized)
    x = np.random.default_rng(3).standard_normal((4, 100)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    vtrn("run", tmp_path / "f.mlirbc", "--input", tmp_path / "x.npy", "-o", tmp_path / "out")
    np.testing.assert_allclose(np.load(tmp_path / "out/out0.npy"), x * 2 + 1, rtol=1e-6)
    vtrn("disasm", tmp_path / "f.mlirbc", "-o", tmp_path / "f.vasm")
    vtrn("run", tmp_path / "f.vasm", "--input", tmp_path / "x.npy", "-o", tmp_path / "again")
    assert np.array_equal(np.load(tmp_path / "again/out0.npy"),
                          np.load(tmp_path / "out/out0.npy").ravel())


@pytest.fixture
def plus_one(tmp_path):
    """x + 1 of [33, 5]."""
    import jax
    import jax.export

    path = tmp_path / "plus_one.mlirbc"
    f = jax.export.export(jax.jit(lambda x: x + 1), platforms=["cpu"])
    path.write_bytes(f(jax.ShapeDtypeStruct((33, 5), np.float32)).mlir_module_serialized)
    return path


@pytest.mark.parametrize("shape", [(5, 33), (165,), (3, 11, 5), (33, 5, 2)])
def test_an_input_of_another_shape_is_refused(plus_one, tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
    said = vtrn("run", plus_one, "--input", tmp_path / "x.npy", code=1)
    assert f"its shape is {shape}, the program takes (33, 5)" in said


def test_dims_of_one_do_not_make_another_shape(plus_one, tmp_path):
    x = np.arange(165, dtype=np.float32).reshape(33, 1, 5, 1)
    np.save(tmp_path / "x.npy", x)
    vtrn("run", plus_one, "--input", tmp_path / "x.npy", "-o", tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out/out0.npy"), x[:, 0, :, 0] + 1)


@pytest.mark.parametrize("options", [["--check"], ["--verify"], ["-o", "out"]])
def test_options_about_values_are_refused_where_there_are_none(plus_one, tmp_path, options):
    env = os.environ | {"VTRN_VALUES": "off", "VTRN_CHECK": ""}
    said = vtrn("run", plus_one, "--random", *options, code=1, env=env, cwd=tmp_path)
    assert f"{options[0]} is about values, and VTRN_VALUES is off" in said
    vtrn("run", plus_one, "--random", env=env)


def test_a_run_without_times_writes_its_outputs(plus_one, tmp_path):
    env = os.environ | {"VTRN_TIMING": "off", "VTRN_CHECK": ""}
    out = ["--zeros", "-o", tmp_path / "out"]
    assert "values alone, VTRN_TIMING is off" in vtrn("run", plus_one, *out, env=env)
    assert (np.load(tmp_path / "out/out0.npy") == 1).all()
    said = json.loads(vtrn("run", plus_one, *out, "--json", env=env))
    assert said["outputs"] == 1 and "step_ns" not in said
    assert "VTRN_TIMING is off" in vtrn("profile", plus_one, *out, env=env, code=1)


def test_every_command_takes_the_chip_of_the_instance(plus_one, tmp_path):
    env = os.environ | {"VTRN_INSTANCE": "trn2.3xlarge"}
    env.pop("VTRN_CHIP", None)
    assert json.loads(vtrn("run", plus_one, "--zeros", "--json", env=env))["chip"] == "trn2"
    assert json.loads(vtrn("time", plus_one, "--json", env=env))["chip"] == "trn2"
    assert 'chip "trn2"' in vtrn("disasm", plus_one, env=env)


@pytest.mark.parametrize("command", [["run", "--random"], ["time"], ["explain"], ["compile", "-o", "out.vprog"]])
def test_a_program_of_several_cores_is_refused(tmp_path, command):
    """No command may say of one core what is the work of two."""
    import jax
    import jax.export
    from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

    divided = NamedSharding(AbstractMesh((2,), ("d",)), PartitionSpec("d"))
    f = jax.jit(lambda x: x.sum(0), in_shardings=divided)
    artifact = jax.export.export(f, platforms=["cpu"])(jax.ShapeDtypeStruct((8, 8), np.float32))
    path = tmp_path / "two.mlirbc"
    path.write_bytes(artifact.mlir_module_serialized)
    said = vtrn(command[0], path, *command[1:], code=3, cwd=tmp_path)
    assert "for 2 NeuronCores that exchange data" in said and "vtrn scale" in said


def test_a_number_of_samples_that_is_none_is_refused_before_the_run(plus_one):
    for text in ("abc", "0", "-1", "8x"):
        env = os.environ | {"VTRN_SAMPLES_PER_STEP": text}
        assert f"VTRN_SAMPLES_PER_STEP: '{text}'" in vtrn("run", plus_one, "--zeros", code=1, env=env)


def test_dmas_are_not_busier_than_any_dma(plus_one):
    said = json.loads(vtrn("time", plus_one, "--json"))
    assert 0 < said["dma_busy"] <= said["active"]["DMA"]


def test_values_do_not_depend_on_the_times_of_the_chip(tmp_path):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    exported = jax.export.export(
        jax.jit(lambda x, w: jax.nn.softmax(jnp.tanh(x @ w), axis=-1)), platforms=["cpu"])(
        jax.ShapeDtypeStruct((130, 257), np.float32), jax.ShapeDtypeStruct((257, 65), np.float32))
    (tmp_path / "f.mlirbc").write_bytes(exported.mlir_module_serialized)
    vtrn("disasm", tmp_path / "f.mlirbc", "-o", tmp_path / "f.vasm")
    slow = tmp_path / "chips"
    slow.mkdir()
    for name in os.listdir(os.path.join(ROOT, "chips")):
        if name.endswith(".toml"):
            with open(os.path.join(ROOT, "chips", name), encoding="utf-8") as f:
                text = re.sub(r"(?m)^(\w+_ns|\w+_cycles) = ([\d_.]+)",
                              lambda m: f"{m[1]} = {3 * float(m[2].replace('_', '')) + 1}", f.read())
            (slow / name).write_text(text)
    steps = []
    for out, chips in [("known", ""), ("slow", str(slow))]:
        text = vtrn("run", tmp_path / "f.vasm", "--random", "-o", tmp_path / out, "--json",
                    env={**os.environ, "VTRN_CHIPS_PATH": chips})
        steps.append(json.loads(text)["step_ns"])
    assert steps[1] > 2 * steps[0]
    assert (tmp_path / "known/out0.npy").read_bytes() == (tmp_path / "slow/out0.npy").read_bytes()


def test_doctor_finds_the_host_in_order():
    checks = {c["name"]: c for c in json.loads(vtrn("doctor", "--json"))["checks"]}
    assert checks["self test"]["ok"] and checks["chips"]["ok"]
    assert int(checks["cores"]["text"]) >= 1


def test_chips_timing_says_where_each_number_comes_from():
    shown = json.loads(vtrn("chips", "trn2", "--timing", "--json"))
    assert (shown["chip"], shown["version"]) == ("trn2", 2)
    bases = {c["basis"] for c in shown["constants"]}
    assert bases == {"documented", "measured", "fitted", "assumed"}
    for constant in shown["constants"]:
        assert constant["source"] and constant["name"] and (constant["unit"] or constant["value"] in (True, False))
    text = vtrn("chips", "trn2@2", "--timing")
    assert text.startswith("trn2@2\n")
    assert "dma.start_ns" in text and "measured" in text


def test_a_profile_says_which_assumed_numbers_it_rests_on(add, tmp_path):
    vtrn("profile", add, "--random", "-o", tmp_path / "profile")
    profile = json.loads((tmp_path / "profile/profile.json").read_text())
    assumed = profile["assumed"]
    assert profile["chip_version"] >= 1
    assert assumed["n_constants"] > 0 and assumed["constants"]
    changes = [abs(c["ten_percent_more"]) for c in assumed["constants"]]
    assert changes == sorted(changes, reverse=True) and changes[0] < 0.1
    names = {f"{c['table']}.{c['name']}": c["basis"]
             for c in json.loads(vtrn("chips", profile["chip"], "--timing", "--json"))["constants"]}
    assert all(names[c["name"]] == "assumed" for c in assumed["constants"])


def test_doctor_and_chips_say_which_instance_a_chip_alone_takes():
    listed = json.loads(vtrn("chips", "--json"))["chips"]
    assert {c["name"]: c["instance"] for c in listed} == {
        "inf1": "inf1.xlarge", "inf2": "inf2.xlarge", "trn1": "trn1.2xlarge",
        "trn2": "trn2.3xlarge", "trn3": "trn3-gen1-ultraserver"}
    starred = [line.split()[0] for line in vtrn("chips").splitlines() if line.endswith(" *")]
    assert starred == [c["instance"] for c in listed]
    for chip, text in [("trn2", "trn2.3xlarge: 1 trn2 chip, 8 cores"),
                       ("trn3", "trn3-gen1-ultraserver: 64 trn3 chips, 512 cores")]:
        checks = json.loads(vtrn("doctor", "--json", env={**os.environ, "VTRN_CHIP": chip}))["checks"]
        assert text in [c["text"] for c in checks if c["name"] == "machine"]


def test_doctor_says_what_is_wrong_with_the_environment():
    done = subprocess.run([VTRN, "doctor"], capture_output=True, timeout=120,
                          env={**os.environ, "VTRN_CHIP": "trn9"})
    assert done.returncode == 1 and b"BAD  machine          no chip 'trn9'" in done.stdout


def test_the_manual_of_the_instruction_set_is_up_to_date():
    with open(os.path.join(ROOT, "docs/isa.md")) as f:
        assert f.read() == vtrn("isa", "--markdown"), "run: vtrn isa --markdown > docs/isa.md"
    assert len(json.loads(vtrn("isa", "--json"))["instructions"]) > 30
    assert "tensor_scalar" in vtrn("isa", "tensor_scalar")
    vtrn("isa", "nonsense", code=2)
