"""Other people's test suites, run on the virtual chip: `python -m vtrn.conformance SUITE [PATH]`.

A suite names its cases and runs one at a time in a worker process (worker.py); the runner
(runner.py) keeps several workers busy, survives their crashes, and writes down each result as it
arrives, so that an interrupted run goes on where it stopped. The suites themselves stay outside of
this package: jax and stablehlo take the path of a checkout; harness comes with JAX."""
