"""Trains the character model: python examples/chars/train.py [--steps N] [--fp32] [--losses FILE].

JAX_PLATFORMS picks where: neuron,cpu for the virtual chip, cpu for the host. Matmuls take bf16
operands and accumulate in fp32; --fp32 keeps them fp32."""

import argparse
import functools
import json
import os
import sys
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]

import jax
import jax.numpy as jnp
import numpy as np

import model
from progress import Progress, chip_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="training steps (default 300)")
    parser.add_argument("--fp32", action="store_true", help="matmuls in fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--losses", help="write the loss of every step to this JSON file")
    args = parser.parse_args()
    os.environ.setdefault("VTRN_SAMPLES_PER_STEP", str(model.BATCH))
    dtype = jnp.float32 if args.fp32 else jnp.bfloat16

    device = jax.devices()[0]
    train, held_out = model.load_text()
    params = model.init_params(args.seed)
    moments = jax.device_put(model.init_moments(params), device)
    params = jax.device_put(params, device)
    step = jax.jit(functools.partial(model.train_step, dtype=dtype), donate_argnums=(0, 1))
    evaluate = jax.jit(functools.partial(model.loss_of, dtype=dtype))

    progress, losses, seconds = Progress("chars", args.steps), [], []
    for i, (tokens, targets) in enumerate(model.batches(train, args.steps, args.seed)):
        start = time.perf_counter()
        params, moments, loss = step(params, moments, tokens, targets)
        losses.append(float(loss))
        seconds.append(time.perf_counter() - start)
        progress.show(i + 1, losses[-1])

    tests = list(model.batches(held_out, 8, args.seed + 100))
    held_out_loss = float(np.mean([float(evaluate(params, x, y)) for x, y in tests]))
    print(
        f"chars on {device.platform}: held-out loss {held_out_loss:.4f} nats a character "
        f"({held_out_loss / np.log(2):.3f} bits; guessing: {np.log(model.N_CHARS):.2f} nats)"
    )
    chip_report(device.platform, float(np.median(seconds)))
    if args.losses:
        with open(args.losses, "w") as f:
            json.dump({"losses": losses, "held_out_loss": held_out_loss, "seconds": seconds}, f)


if __name__ == "__main__":
    main()
