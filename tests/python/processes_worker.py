"""One process of several that run the same programs; test_jax_processes.py starts them. Usage:
processes_worker.py CASE[,CASE...] INDEX COUNT PORT [FOLDER]. INDEX "mpi": that of MPI's launcher. Prints what the case
returns, of several a list, as JSON, on its last line; with FOLDER into the file FOLDER/INDEX, as a launcher mixes what is printed."""

import hashlib
import json
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

IS_MPI = sys.argv[2] == "mpi"
COUNT, PORT = (int(a) for a in sys.argv[3:5])
INDEX = int(next(os.environ[name] for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK") if name in os.environ)
            if IS_MPI else sys.argv[2])  # fmt: skip
CASES = {}


def case(f):
    CASES[f.__name__] = f
    return f


def mesh(shape=None, names=("x",)):
    devices = np.array(jax.devices("neuron"))
    return Mesh(devices.reshape(shape or len(devices)), names)


def numbers(*shape, dtype=np.float32):
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * 4).astype(dtype)


def shared(x, m, spec):
    return jax.make_array_from_callback(x.shape, NamedSharding(m, spec), lambda index: x[index])


def digests(tree):
    """Of each leaf, the bytes of the shards here, by device."""
    return [{s.device.id: hashlib.sha256(np.asarray(s.data).tobytes()).hexdigest()[:16] for s in a.addressable_shards}
            for a in jax.tree.leaves(tree)]  # fmt: skip


def run(f, args, ins, outs, m):
    """The digests of the results, and the simulated time."""
    call = jax.jit(jax.shard_map(f, mesh=m, in_specs=ins, out_specs=outs, check_vma=False))
    compiled = call.lower(*args).compile()
    results = digests(compiled(*args))
    return results, compiled.cost_analysis()["optimal_seconds"]


@case
def collectives():
    """Every collective over all and over some devices of a mesh, in several types."""
    m = mesh((4, 2), ("x", "y"))
    ring = [(i, (i + 1) % 4) for i in range(4)]
    every = {
        "psum": lambda a: (lax.psum(a, "x"), lax.psum(a, ("x", "y"))),
        "pmax": lambda a: (lax.pmax(a, "y"), lax.pmin(a, ("x", "y"))),
        "all_gather": lambda a: (lax.all_gather(a, "x"), lax.all_gather(a, "y", axis=1, tiled=True)),
        "reduce_scatter": lambda a: lax.psum_scatter(lax.all_gather(a, "x"), "x"),
        "all_to_all": lambda a: lax.all_to_all(a.reshape(4, -1), "x", 0, 1, tiled=True),
        "ppermute": lambda a: (lax.ppermute(a, "x", ring), lax.ppermute(a, "x", [(0, 3), (2, 1)])),
        "loop": lambda a: lax.fori_loop(0, 3, lambda i, c: lax.psum(c, "y") * 0.5 + i, a),
    }
    results = {}
    for dtype in (np.float32, jnp.bfloat16, np.int32):
        x = shared(numbers(8, 4 * 130).astype(dtype), m, P("x", "y"))
        for name, f in every.items():
            if name == "loop" and dtype == np.int32:
                continue
            results[f"{name} {np.dtype(dtype).name}"] = run(f, (x,), P("x", "y"), P("x", "y"), m)
    return results


@case
def uneven_ranks():
    """What ranks do depends on their data: their times differ, and every process knows all."""
    m = mesh()
    x = np.ones((8, 64), np.float32)
    x[5] = 9

    def f(a):
        n = jnp.where(a[0, 0] > 5, 40, 3)
        return lax.psum(lax.fori_loop(0, n, lambda i, c: jnp.sin(c) + 1, a), "x")

    return run(f, (shared(x, m, P("x")),), P("x"), P(), m)


@case
def sharded_jit():
    """Programs that are divided, and jax's own tools for global arrays."""
    from jax.experimental import multihost_utils

    m = mesh((4, 2), ("x", "y"))
    a, b = numbers(64, 48), numbers(48, 32)
    f = jax.jit(lambda p, q: jax.nn.softmax(p @ q), out_shardings=NamedSharding(m, P("y", "x")))
    y = f(shared(a, m, P("x", "y")), shared(b, m, P("y", None)))
    gathered = multihost_utils.process_allgather(y, tiled=True)
    np.testing.assert_allclose(gathered, np.asarray(jax.nn.softmax(jnp.asarray(a @ b))), rtol=1e-4, atol=1e-6)
    local = np.full((len(jax.local_devices()), 3), INDEX, np.float32)
    rows = jax.make_array_from_process_local_data(NamedSharding(mesh(), P("x")), local)
    total = jax.jit(lambda t: t.sum(), out_shardings=NamedSharding(mesh(), P()))(rows)
    assert float(total.addressable_data(0)) == sum(i * 3 * 8 // COUNT for i in range(COUNT))
    multihost_utils.assert_equal(np.arange(3), "all have the same")
    return digests(y)


def halves(x, first, second):
    """Rows over two devices of the processes `first` and `second`."""
    two = [jax.local_devices(process_index=i)[k] for k, i in enumerate((first, second))]
    return shared(x, Mesh(np.array(two), ("x",)), P("x")), NamedSharding(Mesh(np.array(two[::-1]), ("x",)), P("x"))


@case
def arrays_that_move():
    """device_put between processes, of more than sockets buffer, in both directions at once, and beside programs."""
    x = numbers(2, 3_000_001)
    for k in range(3):
        y, other_way_round = halves(x + k, 0, 1)
        z = jax.device_put(y, other_way_round)
        assert float(sum_of(mesh())(shared(numbers(8, 4), mesh(), P("x"))).addressable_data(0).sum()) != 0
        for shard in z.addressable_shards:
            assert shard.device.process_index == INDEX
            np.testing.assert_array_equal(np.asarray(shard.data), (x + k)[shard.index])
    flags = jax.device_put(np.arange(7) % 2 == 0, jax.local_devices(process_index=1)[0])
    back = jax.device_put(flags, jax.local_devices(process_index=0)[1])
    return [np.asarray(s.data).tolist() for s in back.addressable_shards]


@case
def one_never_sends():
    [device] = jax.local_devices(process_index=1)[:1]
    y = jax.device_put(np.ones(5, np.float32), device)
    if INDEX == 1:
        time.sleep(8)
        return {"error": ""}
    result = error_of(lambda: jax.device_put(y, jax.local_devices(process_index=0)[0]))
    time.sleep(6)
    return result


@case
def chars():
    """The loss of data-parallel training, and the weights behind it."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples" / "chars"))
    import model

    m = mesh(None, ("d",))
    data, _ = model.load_text()
    step = model.data_parallel_step(m, jnp.float32)
    params = model.init_params()
    moments, losses = model.init_moments(params), []
    whole = NamedSharding(m, P())
    params, moments = (jax.tree.map(lambda t: shared(np.asarray(t), m, P()), tree) for tree in (params, moments))
    for tokens, targets in model.batches(data, 3):
        rows = [shared(np.asarray(t).astype(np.int32), m, P("d")) for t in (tokens, targets)]
        params, moments, loss = step(params, moments, *rows)
        losses.append(float(np.asarray(jax.device_put(loss, whole).addressable_data(0))))
    return losses, digests(params)


def sum_of(m, scale=1.0):
    def f(a):
        return lax.psum(a * scale, "x")

    return jax.jit(jax.shard_map(f, mesh=m, in_specs=P("x"), out_specs=P(), check_vma=False))


def error_of(function):
    """The text of the error, and how long it took."""
    began = time.monotonic()
    try:
        jax.block_until_ready(function())
    except Exception as error:
        return {"error": str(error), "seconds": time.monotonic() - began}
    return {"error": "", "seconds": time.monotonic() - began}


@case
def one_is_killed():
    m = mesh()
    x = shared(numbers(8, 64), m, P("x"))
    sum_of(m)(x)
    if INDEX == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return error_of(lambda: sum_of(m)(x)), error_of(lambda: sum_of(m)(x))


def one_leaves(leave):
    m = mesh()
    x = shared(numbers(8, 64), m, P("x"))
    sum_of(m)(x)
    if INDEX == 1:
        leave()
    return error_of(lambda: sum_of(m)(x))


@case
def one_raises():
    return one_leaves(lambda: {}["of the user's"])


@case
def one_exits():
    return one_leaves(lambda: sys.exit(3))


@case
def one_is_killed_in_a_program():
    m = mesh()

    def host(a):
        if INDEX == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return a

    def f(a):
        a = lax.psum(a, "x")
        a = jax.pure_callback(host, jax.ShapeDtypeStruct(a.shape, a.dtype), a)
        return lax.psum(a, "x")

    call = jax.jit(jax.shard_map(f, mesh=m, in_specs=P("x"), out_specs=P(), check_vma=False))
    return error_of(lambda: call(shared(numbers(8, 64), m, P("x"))))


@case
def one_hangs():
    m = mesh()
    x = shared(numbers(8, 64), m, P("x"))
    sum_of(m)(x)
    if INDEX == 1:
        time.sleep(6)
    result = error_of(lambda: sum_of(m)(x))
    if INDEX == 0:
        time.sleep(6)  # JAX ends all processes once its coordinator, which is here, has ended
    return result


@case
def nobody_catches_it():
    m = mesh()
    x = shared(numbers(8, 64), m, P("x"))
    if INDEX == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return digests(sum_of(m)(x))


@case
def programs_differ():
    m = mesh()
    x = shared(numbers(8, 64), m, P("x"))
    results = [error_of(lambda: sum_of(m, 1.0 + INDEX)(x))]
    results.append(error_of(lambda: sum_of(m)(x)))  # they go on together
    return results


@case
def one_fails():
    """A callback that fails in one process fails the program in all."""
    m = mesh()

    def host(a):
        if INDEX == 1:
            raise ValueError("the file is gone")
        return a

    def f(a):
        return lax.psum(jax.pure_callback(host, jax.ShapeDtypeStruct(a.shape, a.dtype), a), "x")

    call = jax.jit(jax.shard_map(f, mesh=m, in_specs=P("x"), out_specs=P(), check_vma=False))
    x = shared(numbers(8, 64), m, P("x"))
    return [error_of(lambda: call(x)), error_of(lambda: sum_of(m)(x))]


@case
def ranks_diverge():
    m = mesh()
    x = np.ones((8, 64), np.float32)
    x[5] = -1

    def f(a):
        return lax.cond(a[0, 0] > 0, lambda v: lax.psum(v, "x"), lambda v: v * 2.0, a)

    call = jax.jit(jax.shard_map(f, mesh=m, in_specs=P("x"), out_specs=P("x"), check_vma=False))
    return error_of(lambda: call(shared(x, m, P("x"))))


@case
def opens():
    try:
        return [d.id for d in jax.devices()], [d.id for d in jax.local_devices()], jax.process_index()
    except Exception as error:
        return {"error": str(error)}


def main():
    if COUNT > 1 and "NEURON_RT_ROOT_COMM_ID" not in os.environ:
        jax.distributed.initialize(f"127.0.0.1:{PORT}", COUNT, INDEX)
    results = [CASES[name]() for name in sys.argv[1].split(",")]
    result = results if len(results) > 1 else results[0]
    if IS_MPI:
        pathlib.Path(sys.argv[5], str(INDEX)).write_text(json.dumps(result))
    else:
        print(json.dumps(result), flush=True)
    if IS_MPI and "error" not in json.dumps(result):
        return jax.distributed.shutdown()
    os._exit(0)  # the coordinator of jax.distributed would wait for processes that have ended


if __name__ == "__main__":
    main()
