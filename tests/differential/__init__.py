"""Random programs that look like models, each compared with JAX on the CPU."""
