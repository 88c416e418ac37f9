"""Programs over several processes: the bits and the simulated times of one, and clear errors where a
process is lost. The cases are those of processes_worker.py."""

import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

import conftest
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

WORKER = pathlib.Path(__file__).with_name("processes_worker.py")
N_CORES = 8
SECONDS = 240  # after which a case hangs


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(case, n, variables):
    """variables: of all processes, or a list of those of each."""
    port = free_port()
    own = variables if isinstance(variables, list) else [variables] * n
    env = {**os.environ, "NEURON_RT_NUM_CORES": str(N_CORES // n), "VTRN_INSTANCE": "trn1.32xlarge"}
    return [subprocess.Popen([sys.executable, WORKER, case, str(i), str(n), str(port)], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**env, **own[i]})
            for i in range(n)]  # fmt: skip


def finish(processes):
    """[(exit code, what the process printed as JSON or None, its stderr)]"""
    out = []
    try:
        for p in processes:
            stdout, stderr = p.communicate(timeout=SECONDS)
            lines = stdout.splitlines()
            out.append((p.returncode, json.loads(lines[-1]) if lines else None, stderr[-3000:]))
    finally:
        for p in processes:
            p.kill()
            p.wait()
    return out


def run(case, n, variables=None):
    out = finish(start(case, n, variables or {}))
    for code, _, stderr in out:
        assert code == 0, stderr
    return [result for _, result, _ in out]


SAME_BITS = ("collectives", "sharded_jit", "chars")  # what several processes compute as one does


@functools.cache
def together(n):
    """Case: the results of n processes. They start once for all cases, for that takes longer than a case."""
    return dict(zip(SAME_BITS, zip(*run(",".join(SAME_BITS), n)), strict=True))


@functools.cache
def alone(case):
    return together(1)[case][0] if case in SAME_BITS else run(case, 1)[0]


def joined(shards):
    """The digests of all processes, of one result."""
    return [{k: v for part in leaf for k, v in part.items()} for leaf in zip(*shards)]


@pytest.mark.parametrize("n", [2, 4])
def test_collectives_give_the_bits_and_times_of_one_process(n):
    results, want = together(n)["collectives"], alone("collectives")
    for name, (digests, seconds) in want.items():
        assert joined([r[name][0] for r in results]) == digests, name
        assert [r[name][1] for r in results] == [seconds] * n, name


def test_processes_whose_ranks_do_different_things_agree_on_the_time():
    results, (digests, seconds) = run("uneven_ranks", 2), alone("uneven_ranks")
    assert joined([r[0] for r in results]) == digests
    assert [r[1] for r in results] == [seconds] * 2


@pytest.mark.parametrize("n", [2, 4])
def test_divided_programs_and_global_arrays(n):
    assert joined(together(n)["sharded_jit"]) == alone("sharded_jit")


@pytest.mark.parametrize("n", [2, 4])
def test_the_chars_model_learns_the_same_bits(n):
    results, (losses, weights) = together(n)["chars"], alone("chars")
    assert [r[0] for r in results] == [losses] * n
    assert joined([r[1] for r in results]) == weights


def test_a_killed_process_is_named_by_all_others_at_once():
    out = finish(start("one_is_killed", 4, {}))
    assert out[1][0] == -9
    for i in (0, 2, 3):
        exit_code, (first, again), stderr = out[i]
        assert exit_code == 0, stderr
        assert "process 1 (pid " in first["error"], first
        assert "rank" in first["error"] or "the start of" in first["error"], first
        assert "no longer connected" in again["error"], again
        assert first["seconds"] < 30 and again["seconds"] < 5


@pytest.mark.parametrize("case", ["one_raises", "one_exits"])
def test_a_process_that_leaves_is_named_at_once(case):
    (first_code, told, first_stderr), (own_code, _, stderr) = finish(start(case, 2, {}))
    assert first_code == 0, first_stderr
    assert "unavailable: process 1 (pid " in told["error"] and "has ended" in told["error"], told
    assert told["seconds"] < 30
    if case == "one_raises":  # the end by sys.exit goes through JAX's shutdown, whose coordinator has gone here
        assert own_code == 1 and "KeyError" in stderr, stderr


def test_arrays_move_between_processes():
    first, second = run("arrays_that_move", 2)
    assert first == [[True, False, True, False, True, False, True]] and second == []


def test_an_array_that_is_not_sent_is_an_error():
    result, _ = run("one_never_sends", 2, {"VTRN_WATCHDOG_SECONDS": "2"})
    assert "process 1 (pid " in result["error"] and "did not send an array within 2 s" in result["error"], result


def test_an_error_that_is_not_caught_ends_the_process_with_code_1():
    (code, _, stderr), killed = finish(start("nobody_catches_it", 2, {}))
    assert code == 1 and killed[0] == -9
    assert "unavailable: process 1 (pid " in stderr, stderr


def test_a_process_killed_within_a_program_is_named_with_the_collective():
    (exit_code, result, stderr), _ = finish(start("one_is_killed_in_a_program", 2, {}))
    assert exit_code == 0, stderr
    text = result["error"]
    assert "process 1 (pid " in text and "has ended" in text, text
    assert "rank 0 (core 0) waits in stablehlo.all_reduce at processes_worker.py:" in text, text
    assert "execution 1" in text and "rank 4 (core 4, process 1" in text, text


def test_a_process_that_hangs_is_named_after_the_watchdogs_time():
    [result, late] = run("one_hangs", 2, {"VTRN_WATCHDOG_SECONDS": "3"})
    assert "process 1 (pid " in result["error"] and "showed nothing for 3 s" in result["error"], result
    assert "VTRN_WATCHDOG_SECONDS" in result["error"] and 2.5 < result["seconds"] < 6
    assert "process 0 (pid " in late["error"] and "gave up" in late["error"], late


def test_programs_that_differ_are_refused_in_all_processes():
    for first, again in run("programs_differ", 2):
        assert "the programs of processes differ" in first["error"] and "jit_f" in first["error"], first
        assert "process 0 (pid " in first["error"] and "process 1 (pid " in first["error"]
        assert again["error"] == ""


def test_what_fails_in_one_process_fails_in_all_and_they_go_on():
    for first, again in run("one_fails", 2):
        assert "the file is gone" in first["error"], first
        assert again["error"] == ""


def test_ranks_that_wait_in_vain_are_named_in_all_processes():
    texts = [r["error"] for r in run("ranks_diverge", 4)]
    assert "ranks 0, 1, 2, 3, 4, 6, 7 wait" in texts[0] and "rank 5 (core 5) has ended" in texts[0], texts[0]
    assert len(set(texts)) == 1


def test_variables_of_neuron_make_processes_without_jax_distributed():
    variables = {"NEURON_PJRT_PROCESSES_NUM_DEVICES": "3,5", "NEURON_RT_ROOT_COMM_ID": f"127.0.0.1:{free_port()}"}
    results = run("opens", 2, [{**variables, "NEURON_PJRT_PROCESS_INDEX": str(i)} for i in range(2)])
    assert results == [[list(range(8)), [0, 1, 2], 0], [list(range(8)), [3, 4, 5, 6, 7], 1]]


@pytest.mark.parametrize("variables,said", [
    ({"NEURON_RT_NUM_CORES": "20"}, "asks for 20 NeuronCores, and 12 are left of the 32"),
    ({"NEURON_RT_VISIBLE_CORES": "0-3"}, "NeuronCore 0 is listed by process 0"),
    ([{}, {"VTRN_INSTANCE": "trn2.48xlarge"}], "is on trn2.48xlarge"),
    ([{}, {"NEURON_RT_NUM_CORES": "77"}], "NEURON_RT_NUM_CORES asks for 77 NeuronCores"),
])  # fmt: skip
def test_machines_that_do_not_fit_together_are_refused_in_all_processes(variables, said):
    for result in run("opens", 2, variables):
        assert said in result["error"], result


def test_a_process_that_does_not_come_is_named():
    variables = {"NEURON_PJRT_PROCESSES_NUM_DEVICES": "1,1", "NEURON_RT_ROOT_COMM_ID": f"127.0.0.1:{free_port()}",
                 "NEURON_PJRT_PROCESS_INDEX": "0", "VTRN_WATCHDOG_SECONDS": "2"}  # fmt: skip
    [process] = finish(start("opens", 1, variables))
    assert "process 1 did not open its NeuronCores within 2 s" in process[1]["error"]


def launch(case, n, **variables):
    """The results by process, of processes that MPI's launcher starts."""
    env = {**os.environ, "NEURON_RT_NUM_CORES": str(N_CORES // n), "VTRN_INSTANCE": "trn1.32xlarge",
           "VTRN_TRANSPORT": "mpi", "VTRN_WATCHDOG_SECONDS": "60", "OMPI_ALLOW_RUN_AS_ROOT": "1",
           "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
           "OMPI_MCA_rmaps_base_oversubscribe": "1", **variables}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        command = ["mpirun", "-n", str(n), sys.executable, WORKER, case, "mpi", str(n), str(free_port()), folder]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        try:
            stdout, stderr = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        files = [pathlib.Path(folder, str(i)) for i in range(n)]
        assert all(f.exists() for f in files), (process.returncode, stdout[-1000:], stderr[-3000:])
        return [json.loads(f.read_text()) for f in files], process.returncode


needs_mpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="no MPI is installed")


@needs_mpi
@pytest.mark.parametrize("n", [2, 4])
def test_over_mpi_the_bits_and_times_are_those_of_one_process(n):
    results, code = launch("collectives", n)
    for name, (digests, seconds) in alone("collectives").items():
        assert joined([r[name][0] for r in results]) == digests, name
        assert [r[name][1] for r in results] == [seconds] * n, name
    assert code == 0


@needs_mpi
def test_over_mpi_programs_that_differ_are_refused_and_all_go_on():
    results, _ = launch("programs_differ", 2)
    for first, again in results:
        assert "the programs of processes differ" in first["error"] and again["error"] == ""


@pytest.mark.parametrize("variables,said", [
    ({"VTRN_MPI_LIBRARY": "libno_such_mpi.so"}, "libno_such_mpi.so"),
    ({"VTRN_MPI_LIBRARY": "libm.so.6"}, "libm.so.6 has no MPI_Init_thread"),
    ({"VTRN_TRANSPORT": "smoke"}, "'smoke' is neither tcp nor mpi"),
])  # fmt: skip
def test_mpi_that_is_not_there_is_an_error(variables, said):
    for result in run("opens", 2, {"VTRN_TRANSPORT": "mpi", **variables}):
        assert said in result["error"], result


OF_ONE_THREAD = """
int MPI_Init_thread(int *c, char ***v, int wanted, int *level) { return *level = 0; }
int MPI_Initialized(int *is) { return *is = 0; }
int MPI_Finalized(int *is) { return *is = 0; }
int MPI_Query_thread(int *level) { return *level = 0; }
int MPI_Finalize(void) { return 0; }
int MPI_Test(void) { return 1; }
int MPI_Isend(void) { return 1; }
int MPI_Recv(void) { return 1; }
int MPI_Iprobe(void) { return 1; }
int MPI_Get_count(void) { return 1; }
int MPI_Comm_rank(int comm, int *rank) { return *rank = 0; }
int MPI_Comm_size(int comm, int *size) { *size = 1; return 0; }
"""


def test_mpi_for_one_thread_alone_is_an_error(tmp_path):
    source, library = tmp_path / "mpi.c", tmp_path / "libmpi_single.so"
    source.write_text(OF_ONE_THREAD)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    for result in run("opens", 2, {"VTRN_TRANSPORT": "mpi", "VTRN_MPI_LIBRARY": str(library)}):
        assert "allows calls from its first thread only" in result["error"], result


def test_more_processes_than_cores_are_refused_in_all():
    for result in run("opens", 4, {"VTRN_INSTANCE": "trn1.2xlarge", "NEURON_RT_NUM_CORES": "1"}):
        assert "trn1.2xlarge" in result["error"] and "2" in result["error"], result
