"""The life of a process: interrupts, forks and its end."""

import os
import signal
import subprocess
import sys
import time

import conftest
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

ENDLESS = """
import jax, jax.numpy as jnp
f = jax.jit(lambda x: jax.lax.while_loop(lambda v: v[0] < 2, lambda v: v * 1, x))
g = jax.jit(lambda x: x + 1)
g(jnp.zeros(3)).block_until_ready()
print("running", flush=True)
try:
    f(jnp.zeros(3)).block_until_ready()
except KeyboardInterrupt:
    print("stopped", flush=True)
except BaseException as error:
    print(type(error), error, flush=True)
print(g(jnp.ones(3)).tolist(), flush=True)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_an_interrupt_stops_an_endless_loop_and_the_device_goes_on(threads):
    env = {**os.environ, "VTRN_THREADS": threads}
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        assert process.stdout.readline() == "running\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert out == "stopped\n[2.0, 2.0, 2.0]\n"


ENDLESS_RANK = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
mesh = Mesh(np.array(jax.devices("neuron")[:2]), ("x",))
def endless(a):
    b = jax.lax.while_loop(lambda v: v[0] < 2, lambda v: v * 1, a)
    return jax.lax.psum(b, "x")
def over(f):
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("x"), out_specs=P(), check_vma=False))
g = over(lambda a: jax.lax.psum(a, "x"))
g(jnp.zeros(4)).block_until_ready()
for rank in (0, 1):  # either thread has the rank that never ends
    print("running", flush=True)
    x = jnp.full(4, 3.0).at[2 * rank].set(0)
    try:
        over(endless)(x).block_until_ready()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except BaseException as error:
        print(type(error), error, flush=True)
print(g(jnp.ones(4)).tolist(), flush=True)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_an_interrupt_stops_a_rank_that_others_wait_for(threads):
    env = {**os.environ, "VTRN_THREADS": threads, "NEURON_RT_NUM_CORES": "2"}
    process = subprocess.Popen([sys.executable, "-c", ENDLESS_RANK], stdout=subprocess.PIPE, text=True,
                               env=env)  # fmt: skip
    try:
        for _ in range(2):
            assert process.stdout.readline() == "running\n"
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "stopped\n"
        out, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert out == "[2.0, 2.0]\n"


FORKED = """
import os
import jax, jax.numpy as jnp
f = jax.jit(lambda x: x + 1)
x = f(jnp.ones(300))
f(x)
pid = os.fork()
if pid == 0:
    for g in (f, jax.jit(lambda x: x * 2)):  # compiled before, compiled here
        try:
            g(x)
        except Exception as error:
            print("is a fork of the one that opened" in str(error), flush=True)
    os._exit(7)  # as multiprocessing ends its processes
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(float(f(x).sum()))
"""


def test_a_fork_is_refused_with_a_reason_and_the_parent_goes_on(tmp_path):
    env = {**os.environ, "VTRN_THREADS": "2", "VTRN_PROFILE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, env=env, timeout=600
    )
    assert done.stdout == "True\nTrue\n7\n900.0\n", done.stderr
    assert (tmp_path / "profile.json").exists()


FEWER_PLATFORMS = """
import jax
from jax._src import xla_bridge
all_known = xla_bridge.known_platforms
xla_bridge.known_platforms = lambda: all_known() - {"tpu"}
print(jax.jit(lambda x: x + 1)(1.0), jax.default_backend())
"""


def test_a_platform_that_jax_does_not_know_stops_no_start():
    """checkify names the TPU where it is imported."""
    env = {**os.environ, "JAX_PLATFORMS": "neuron,cpu"}
    done = subprocess.run([sys.executable, "-c", FEWER_PLATFORMS], capture_output=True, text=True, env=env, timeout=300)
    assert done.stdout == "2.0 neuron\n", done.stderr
