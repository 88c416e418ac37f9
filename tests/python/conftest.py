"""Points JAX at the plugin before anything imports it: the installed package's, else the source
tree's with the library of the build."""

import importlib.util
import os
import signal
import sys
import zlib

import numpy as np
import pytest
from common import SEED
from paths import BUILD, ROOT

LIBRARY = os.path.abspath(os.environ.get("VTRN_LIBRARY") or BUILD / "src" / "libvtrn.so")

# A background job of a shell without job control ignores interrupts, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["JAX_PLATFORMS"] = "neuron,cpu"
# Whatever a test compiles must be free of races and of reads of what nothing wrote.
os.environ.setdefault("VTRN_CHECK", "1")
if importlib.util.find_spec("vtrn") is None and os.path.exists(LIBRARY):
    os.environ["VTRN_LIBRARY"] = LIBRARY
    os.environ["PYTHONPATH"] = os.pathsep.join(  # of the processes that tests start
        [str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    sys.path.insert(0, str(ROOT / "python"))
os.environ.setdefault("NEURON_RT_NUM_CORES", "2")  # transfers between devices need two
HAS_PLUGIN = importlib.util.find_spec("vtrn") is not None or os.path.exists(LIBRARY)


@pytest.fixture(autouse=True)
def oracles_run_on_the_host(request):
    """JAX is an oracle in all tests but those of the plugin: there it must not run on the plugin."""
    if request.module.__name__.startswith("test_jax") or "jax" not in sys.modules:
        yield
        return
    import jax

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


@pytest.fixture
def rng(request):
    """Random numbers of the test's own; VTRN_TEST_SEED gives others."""
    seed = [SEED, zlib.crc32(request.node.name.encode())]
    print("seed", seed)
    return np.random.default_rng(seed)


def pytest_collection_modifyitems(config, items):
    """Of a file marked `part(n)`, one case in n of each test runs, always the same ones: which, its name
    decides. VTRN_SWEEP=all runs every case, as does naming a case or a test on the command line."""
    if os.environ.get("VTRN_SWEEP") == "all" or any("::" in a for a in config.args) or config.option.keyword:
        return
    kept, left_out, seen = [], [], {}
    for item in items:
        mark = item.get_closest_marker("part")
        if not mark:
            kept.append(item)
            continue
        function = (item.path, item.originalname)
        is_in_part = zlib.crc32(item.name.encode()) % mark.args[0] == 0
        (kept if is_in_part or function not in seen else left_out).append(item)
        seen[function] = True
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
