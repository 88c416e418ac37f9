"""The lidar in JAX: distances to objects in a circle around a car, and what the networks are given of them.

It looks backwards and to the sides: its zero is behind the car, and what lies straight ahead is in its blind sector. Lines
on the ground are flat, so it sees objects alone. Numbers are those of deepracer-simapp (Apache-2.0)."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

import objects

BEAMS, HALF_RAD = 64, 2.61799
NEAR_M, FAR_M, SPREAD_M = 0.15, 12.0, 0.01
CLIP_M = (0.15, 1.0)  # what the network sees of LIDAR
AHEAD_M, ABOVE_M = 0.0374, 0.17145  # of the middle between the axles, and of the ground
SECTORS, SECTOR_CLIP_M = 8, 0.5
KINDS = ("LIDAR", "SECTOR_LIDAR", "DISCRETIZED_SECTOR_LIDAR")


@dataclasses.dataclass(frozen=True)
class Lidar:
    """One of KINDS. Sectors tell whether something is nearer than clip_m, or in which of n_values equal parts of it."""

    kind: str
    n_sectors: int = SECTORS
    n_values: int = 1
    clip_m: float = SECTOR_CLIP_M

    @property
    def n(self) -> int:
        """Numbers that the network is given."""
        return BEAMS if self.kind == "LIDAR" else self.n_sectors * self.n_values


def scan(race, near: dict, noise):
    """Metres [N, BEAMS] to the nearest object in each beam, FAR_M where there is none; noise [N, BEAMS] is standard normal.
    near: poses of the objects in the cars' frames."""
    angle = math.pi + np.linspace(-HALF_RAD, HALF_RAD, BEAMS)
    rays = np.cos(angle), np.sin(angle), np.zeros(BEAMS)
    flown, _ = objects.flights(race, near, (AHEAD_M, 0.0, ABOVE_M), rays)
    flown = jnp.min(flown, 1)
    return jnp.where(flown < FAR_M, jnp.clip(flown + SPREAD_M * noise, NEAR_M, FAR_M), FAR_M)


def nothing(n: int):
    """The scan [n, BEAMS] of a road without objects."""
    return jnp.full((n, BEAMS), FAR_M, jnp.float32)


def shown(lidar: Lidar, metres):
    """fp32 [N, lidar.n]: what the network is given of a scan."""
    if lidar.kind == "LIDAR":
        return jnp.clip(metres, *CLIP_M)
    nearest = jnp.min(metres.reshape(len(metres), lidar.n_sectors, -1), -1)
    step = lidar.clip_m / lidar.n_values
    value = jnp.floor(jnp.minimum(nearest, lidar.clip_m) / step)
    # The last value means that nothing is within clip_m, and has no number of its own.
    chosen = value[..., None] == np.arange(lidar.n_values, dtype=np.float32)
    return jnp.where(chosen, 1.0, 0.0).reshape(len(metres), -1)
