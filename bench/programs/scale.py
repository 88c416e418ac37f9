"""The chars training on some NeuronCores, data parallel: one JSON line with losses, a digest of what
was learnt, and the time of a step. scale.py STEPS DTYPE [each]: a batch in all, or for each of them"""

import hashlib
import json
import pathlib
import resource
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "chars"))

import jax
import jax.numpy as jnp
import model
import numpy as np

steps, dtype, is_each = int(sys.argv[1]), jnp.dtype(sys.argv[2]), sys.argv[3:] == ["each"]
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
step = model.data_parallel_step(mesh, dtype)
params = model.init_params()
moments = model.init_moments(params)
data, _ = model.load_text()
losses, times, cpu, process_s = [], [], [], []
cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))


def busy_s():
    """Of each thread, by number."""
    tasks = pathlib.Path("/proc/self/task").glob("*/schedstat")
    return {t.parent.name: int(t.read_text().split()[0]) / 1e9 for t in tasks}


for tokens, targets in model.batches(data, steps):
    batch = [np.tile(t.astype(np.int32), (mesh.size if is_each else 1, 1)) for t in (tokens, targets)]
    if is_each:
        batch = jax.block_until_ready(jax.device_put(batch, cut))
    start, process_start = time.perf_counter(), time.process_time()
    params, moments, loss = step(params, moments, *batch)
    losses.append(float(loss))
    times.append(time.perf_counter() - start)
    process_s.append(time.process_time() - process_start)
    cpu.append(busy_s())
digest = hashlib.sha256()
for leaf in jax.tree.leaves(params):
    digest.update(np.asarray(leaf).tobytes())
busiest_s = max(cpu[-1][t] - cpu[1].get(t, 0) for t in cpu[-1]) / (steps - 2)
print(json.dumps({"losses": losses, "digest": digest.hexdigest(), "step_s": statistics.median(times[2:]),
                  "busiest_thread_s": busiest_s, "step_cpu_s": statistics.median(process_s[2:]),
                  "rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))  # fmt: skip
