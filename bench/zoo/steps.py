"""Training steps that programs of several frameworks share."""

import jax
import optax


def of_loss(optimiser, loss_of):
    """A step of an Optax optimiser; loss_of(params, *batch)."""
    @jax.jit
    def step(state, *batch):
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_of)(params, *batch)
        updates, opt_state = optimiser.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    return step
