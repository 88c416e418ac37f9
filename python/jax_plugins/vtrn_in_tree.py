"""JAX finds the plugin in a source tree on PYTHONPATH; the installed package has an entry point."""

from vtrn.jax_plugin import initialize as initialize
