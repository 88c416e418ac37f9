"""JAX programs over 8 NeuronCores against JAX on 8 CPU devices: the cases of many_cores.py and many_cores_jit.py."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import conftest
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

SCRIPT, OF_JIT = (pathlib.Path(__file__).with_name(name) for name in ("many_cores.py", "many_cores_jit.py"))


def cases_of(script):
    return [f.name for f in ast.parse(script.read_text()).body
            if isinstance(f, ast.FunctionDef) and any(getattr(d, "id", "") == "case" for d in f.decorator_list)]  # fmt: skip


def run_script(*names, script=SCRIPT, **environment):
    env = {**os.environ, "NEURON_RT_NUM_CORES": "8", "VTRN_INSTANCE": "trn1.32xlarge",
           "XLA_FLAGS": "--xla_force_host_platform_device_count=8", **environment}  # fmt: skip
    done = subprocess.run([sys.executable, script, *names], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results():
    return run_script()


@pytest.fixture(scope="module")
def results_of_jit():
    return run_script(script=OF_JIT)


@pytest.mark.parametrize("name", cases_of(OF_JIT))
def test_jit_over_eight_cores_keeps_its_word(results_of_jit, name):
    assert results_of_jit[name] == "", results_of_jit[name]


@pytest.mark.parametrize("name", cases_of(SCRIPT))
def test_eight_cores_compute_what_eight_cpus_do(results, name):
    assert results[name] == "", results[name]


@pytest.mark.parametrize("environment", [{"VTRN_INSTANCE": "trn2.48xlarge"}, {"VTRN_THREADS": "1"},
                                         {"VTRN_VERIFY": "1"}, {"VTRN_REFERENCE_ONLY": "1"}])  # fmt: skip
def test_other_chips_threads_and_ways_to_compute_change_nothing(environment):
    names = ["where_a_rank_is", "permutations_in_loops_and_branches", "a_train_step_with_gradients"]
    assert run_script(*names, **environment) == dict.fromkeys(names, "")


def test_an_instance_shows_all_of_its_cores():
    code = "import jax; print(len(jax.devices()), jax.devices()[-1])"
    env = {k: v for k, v in os.environ.items() if not k.startswith("NEURON_RT")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**env, "VTRN_INSTANCE": "trn1.32xlarge"})  # fmt: skip
    assert done.stdout.split()[:1] == ["32"], done.stderr[-2000:]
