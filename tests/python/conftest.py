"""Points JAX at the plugin before anything imports it: the installed package's, else the build's."""

import importlib.util
import os

BUILD = os.environ.get("VTRN_BUILD_DIR") or os.path.join(os.path.dirname(__file__), "../../build")
LIBRARY = os.path.abspath(
    os.environ.get("VTRN_LIBRARY") or os.path.join(BUILD, "src", "libvtrn.so")
)

os.environ["JAX_PLATFORMS"] = "neuron,cpu"
if importlib.util.find_spec("vtrn") is None and os.path.exists(LIBRARY):
    os.environ["PJRT_NAMES_AND_LIBRARY_PATHS"] = f"neuron:{LIBRARY}"
HAS_PLUGIN = importlib.util.find_spec("vtrn") is not None or os.path.exists(LIBRARY)
