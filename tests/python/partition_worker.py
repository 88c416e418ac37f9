"""Runs programs of partition_programs.py on eight NeuronCores: a line of JSON in, a line out.

{"program": name} -> {"file": .npz of the results, "partition": how the library divided it, "text": of what one device
runs, "shapes": of its parts of the arguments}
{"specs": [old, new]} -> the same of an identity between two shardings
"""

import json
import os
import sys
import tempfile

os.environ["NEURON_RT_NUM_CORES"] = "8"
os.environ["VTRN_INSTANCE"] = "trn2.3xlarge"

import jax
import numpy as np
import partition_programs as programs
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from vtrn import partition

SEEN = []


def watch(own):
    def watched(artifact, n_devices):
        SEEN.append("refused")
        out = own(artifact, n_devices)
        SEEN[-1] = "manual" if out is None else "divided"
        return out

    return watched


def spec_of(axes):
    return P(*(tuple(of) or None for of in axes))


def run(mesh, query):
    def place(specs):
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P))

    options = {}
    if "program" in query:
        _, arguments, specs, out, _ = programs.PROGRAMS[query["program"]]
        function = programs.function_of(query["program"], mesh)
    else:
        old, new = map(spec_of, query["specs"])
        function, arguments, specs, out = (lambda x: x * 1), (programs.X,), (old,), new
    if out is not None:
        options["out_shardings"] = place(out)
    compiled = jax.jit(function, in_shardings=place(specs), **options).lower(*arguments).compile()
    with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
        np.savez(file, *map(np.asarray, jax.tree.leaves(compiled(*arguments))))
    parts = zip(jax.tree.leaves(compiled.input_shardings[0]), jax.tree.leaves(arguments), strict=True)
    return {"file": file.name, "text": compiled.as_text(), "shapes": [s.shard_shape(np.shape(a)) for s, a in parts]}


def main():
    partition.partition = watch(partition.partition)
    devices = np.array(jax.devices("neuron")).reshape(tuple(programs.AXES.values()))
    mesh = Mesh(devices, tuple(programs.AXES))
    for line in sys.stdin:
        SEEN.clear()
        try:
            answer = run(mesh, json.loads(line)) | {"partition": SEEN[0] if SEEN else "none"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
