"""Programs with Orbax checkpoints."""

import tempfile

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

import samples


def resume():
    """Training that is stored and taken up again every five steps."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"w1": jax.random.normal(keys[0], (64, 99)) * 0.1, "w2": jax.random.normal(keys[1], (99, 10)) * 0.1}
    optimiser = optax.adam(1e-2)
    directory = tempfile.TemporaryDirectory()
    manager = ocp.CheckpointManager(directory.name, options=ocp.CheckpointManagerOptions(max_to_keep=2))

    @jax.jit
    def train(state, images, labels):
        def loss_of(params):
            logits = jax.nn.relu(images.reshape(len(images), -1) @ params["w1"]) @ params["w2"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_of)(state["params"])
        updates, opt_state = optimiser.update(grads, state["opt_state"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state, "i": state["i"] + 1}, loss

    def step(state, images, labels):
        state, loss = train(state, images, labels)
        i = int(state["i"])
        if i % 5 == 0:
            manager.save(i, args=ocp.args.StandardSave(state))
            manager.wait_until_finished()
            like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
            state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(like))
        return state, loss

    step.directory = directory
    return {"params": params, "opt_state": optimiser.init(params), "i": jnp.int32(0)}, step, samples.digit_batches(64)
