"""Trains the digits network: python examples/digits/train.py [--steps N] [--losses FILE].

JAX_PLATFORMS picks where: neuron,cpu for the virtual chip, cpu for the host."""

import argparse
import json
import os
import sys
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]

import jax
import numpy as np

import model
from progress import Progress, chip_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600, help="training steps (default 600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--losses", help="write the loss of every step to this JSON file")
    args = parser.parse_args()
    os.environ.setdefault("VTRN_SAMPLES_PER_STEP", str(model.BATCH))

    device = jax.devices()[0]
    train, held_out = model.load_data(args.seed)
    params = jax.device_put(model.init_params(args.seed), device)
    velocity = jax.device_put(jax.tree.map(np.zeros_like, model.init_params(args.seed)), device)
    step = jax.jit(model.train_step, donate_argnums=(0, 1))

    progress, losses, seconds = Progress("digits", args.steps), [], []
    for i, (images, labels) in enumerate(model.batches(*train, args.steps, args.seed)):
        start = time.perf_counter()
        params, velocity, loss = step(params, velocity, images, labels)
        losses.append(float(loss))
        seconds.append(time.perf_counter() - start)
        progress.show(i + 1, losses[-1])

    logits = np.asarray(jax.jit(model.logits_of)(params, held_out[0]))
    accuracy = float(np.mean(np.argmax(logits, axis=-1) == held_out[1]))
    seconds_per_step = float(np.median(seconds))
    print(f"digits on {device.platform}: held-out accuracy {accuracy:.2%} of {len(held_out[1])}")
    chip_report(device.platform, seconds_per_step)
    if args.losses:
        with open(args.losses, "w") as f:
            json.dump({"losses": losses, "accuracy": accuracy, "seconds": seconds}, f)


if __name__ == "__main__":
    main()
