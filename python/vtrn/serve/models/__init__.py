"""The networks that vtrn serves, in plain JAX, and their weights from Python packages; none is stored here."""
