"""The chars training divided in one of four ways over all NeuronCores of all processes: one JSON line with the losses, and
digests of what each core has learnt. parallel.py KIND STEPS ROWS [INDEX COUNT PORT]: rows of a batch; the process's
number, of how many, and where they meet."""

import hashlib
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "chars"))

import jax
import jax.numpy as jnp
import model
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

kind, (steps, n_rows, index, count, port) = sys.argv[1], (*map(int, sys.argv[2:]), 0, 1, 0)[:5]
if count > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))

# Of the weights of a layer, the dimension along which tensor parallelism cuts.
CUT = {"qkv": 1, "out": 0, "up": 1, "up_bias": 0, "down": 0, "head": 1}


def spec_of(path, value):
    if kind == "tensor":
        d = CUT.get(path[-1].key)
    elif kind == "fsdp":  # the largest dimension that divides
        sizes = [n if n % mesh.size == 0 else 0 for n in np.shape(value)]
        d = int(np.argmax(sizes)) if any(sizes) else None
    else:
        d = None
    return P() if d is None else P(*[None] * d, "x")


def shared(value, spec):
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, NamedSharding(mesh, spec), lambda part: value[part])


def placed(tree):
    return jax.tree_util.tree_map_with_path(lambda path, value: shared(value, spec_of(path, value)), tree)


def batches():
    of_one = model.batches(model.load_text()[0], steps * -(-n_rows // model.BATCH))
    for _ in range(steps):
        rows = [next(of_one) for _ in range(-(-n_rows // model.BATCH))]
        yield [np.concatenate(of)[:n_rows].astype(np.int32) for of in zip(*rows)]


params, moments = placed(model.init_params()), placed(model.init_moments(model.init_params()))
step = jax.jit(lambda *of: model.train_step(*of, jnp.float32), donate_argnums=(0, 1), out_shardings=(
    *jax.tree.map(lambda t: t.sharding, (params, moments)), NamedSharding(mesh, P())))  # fmt: skip
of_batch = {"data": P("x"), "fsdp": P("x"), "tensor": P(), "sequence": P(None, "x")}[kind]
losses = []
for batch in batches():
    params, moments, loss = step(params, moments, *(shared(t, of_batch) for t in batch))
    losses.append(float(loss.addressable_data(0)))
digests = {}
for i, leaf in enumerate(jax.tree.leaves(params)):
    for shard in leaf.addressable_shards:
        of = digests.setdefault(shard.device.id, hashlib.sha256())
        of.update(f"{i} {shard.index}".encode() + np.asarray(shard.data).tobytes())
print(json.dumps({"losses": losses, "digests": {core: of.hexdigest() for core, of in digests.items()}}), flush=True)
if count > 1:
    os._exit(0)  # the coordinator would wait for processes that have ended
