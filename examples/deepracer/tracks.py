"""Race tracks: route files of six columns (centre, inner, outer border), our own tracks, and what is computed from either."""

import dataclasses
import os

import numpy as np

# Corners (x, y, radius of the centre line) in metres, driven counter-clockwise; the length that the whole is
# scaled to, and the width of the road.
OWN = {
    "oval": dict(corners=[(0, 0, 1.5), (8, 0, 1.5), (8, 3, 1.5), (0, 3, 1.5)], length=19.5, width=0.95),
    "bend": dict(
        corners=[(0.2, 0, 0.75), (6.6, 0, 1.05), (6.6, 2.1, 1.0), (3.6, 2.1, 0.9), (2.2, 3.9, 1.0), (-0.1, 3.7, 0.9)],
        length=17.7,
        width=0.76,
    ),
    "esses": dict(
        corners=[(0, 0, 1), (5, -0.6, 1.2), (9, 0.4, 1), (8.6, 2.6, 0.9), (6.2, 1.9, 0.8), (4.6, 3.4, 0.9),
                 (2.2, 2.2, 0.8), (0.2, 3.6, 0.9)],
        length=25.0,
        width=1.06,
    ),
    "hairpin": dict(
        corners=[(0, 0, 1), (10, 0, 1), (10, 2.2, 1.05), (3.2, 2.2, 0.9), (3.2, 4.2, 0.9), (10, 4.2, 1.0),
                 (10, 6.4, 1.05), (0, 6.4, 1.5)],
        length=42.0,
        width=0.95,
    ),
}  # fmt: skip
POINT_SPACING_M = 0.15


@dataclasses.dataclass(frozen=True)
class Track:
    """A closed road of N - 1 segments; row N - 1 of each array repeats row 0."""

    name: str
    centre: np.ndarray  # [N, 2] m
    inner: np.ndarray  # [N, 2] m
    outer: np.ndarray  # [N, 2] m
    along: np.ndarray  # [N] m from the start line; along[N - 1] is the length

    @property
    def length(self) -> float:
        return float(self.along[-1])

    def at(self, s):
        """(x, y, heading in radians) of the centre line at s metres from the start line."""
        s = np.asarray(s, np.float64) % self.length
        i = np.clip(np.searchsorted(self.along, s, side="right") - 1, 0, len(self.along) - 2)
        step = self.centre[i + 1] - self.centre[i]
        part = (s - self.along[i]) / (self.along[i + 1] - self.along[i])
        return (*(self.centre[i] + part[..., None] * step).T, np.arctan2(step[..., 1], step[..., 0]))


def from_route(name: str, route) -> Track:
    """The track of an [N, 6] route array. A ValueError says which rule the array breaks."""
    route = np.asarray(route)
    if not np.issubdtype(route.dtype, np.number) or np.iscomplexobj(route):
        raise ValueError(f"{name}: a route has real numbers, this array has {route.dtype}")
    if route.ndim != 2 or route.shape[1] != 6 or route.shape[0] < 4:
        raise ValueError(f"{name}: a route is an array [N, 6] with N >= 4, this one is {list(route.shape)}")
    route = route.astype(np.float64)
    if not np.isfinite(route).all():
        raise ValueError(f"{name}: row {int(np.argmin(np.isfinite(route).all(1)))} of the route is not finite")
    if not np.allclose(route[0], route[-1]):
        route = np.concatenate([route, route[:1]])
    route[-1] = route[0]
    # Points that coincide give a segment without direction.
    moved = np.hypot(*np.diff(route[:, :2], axis=0).T) > 1e-6
    route = np.concatenate([route[:1], route[1:][moved]])
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(route[:, :2], axis=0).T))])
    if np.hypot(*(route[:, 2:4] - route[:, 4:6]).T).min() < 0.1:
        raise ValueError(f"{name}: the road is narrower than 0.1 m somewhere; columns are centre, inner, outer x and y")
    return Track(name, route[:, :2], route[:, 2:4], route[:, 4:6], along)


def load(name: str) -> Track:
    """One of OWN by name, a route file by its path, or by name in a directory of DEEPRACER_TRACKS."""
    if name in OWN:
        return from_route(name, generate(**OWN[name]))
    places = [name] if name.endswith(".npy") else []
    directories = [d for d in os.environ.get("DEEPRACER_TRACKS", "").split(os.pathsep) if d]
    places += [os.path.join(d, f"{name}.npy") for d in directories]
    for path in places:
        if os.path.exists(path):
            try:
                route = np.load(path, allow_pickle=False)
            except (ValueError, EOFError) as e:
                raise ValueError(f"{path}: no array of numbers that NumPy wrote; a route file is one of [N, 6]") from e
            return from_route(os.path.splitext(os.path.basename(path))[0], route)
    raise FileNotFoundError(
        f"no track '{name}': it is neither one of {', '.join(OWN)} nor a file ({', '.join(places) or 'NAME.npy'}); "
        "give the path of a route file, or set DEEPRACER_TRACKS to the directory that holds it"
    )


def generate(corners, length: float, width: float) -> np.ndarray:
    """The route [N, 6] of a polygon whose corners are rounded by arcs, scaled to a length; counter-clockwise."""
    points = np.array([c[:2] for c in corners], np.float64)
    line = []
    for i, (x, y, radius) in enumerate(corners):
        here = np.array([x, y])
        to_last, to_next = points[i - 1] - here, points[(i + 1) % len(points)] - here
        to_last, to_next = to_last / np.hypot(*to_last), to_next / np.hypot(*to_next)
        half = np.arccos(np.clip(to_last @ to_next, -1, 1)) / 2
        mid = to_last + to_next
        centre = here + mid / np.hypot(*mid) * radius / np.sin(half)
        a, b = (here + t * radius / np.tan(half) - centre for t in (to_last, to_next))
        turn = np.arctan2(a[0] * b[1] - a[1] * b[0], a @ b)
        angle = np.arctan2(a[1], a[0]) + np.linspace(0, turn, 32)
        line.append(centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1))
    line = np.concatenate([*line, line[0][:1]])
    # The start line is in the middle of the first straight, as on the service's tracks.
    middle = (line[31] + line[32]) / 2
    line = np.concatenate([[middle], line[32:-1], line[:32], [middle]])
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    n = round(length / POINT_SPACING_M) + 1
    even = np.linspace(0, along[-1], n)
    centre = np.stack([np.interp(even, along, line[:, k]) for k in (0, 1)], 1)
    centre *= length / np.hypot(*np.diff(centre, axis=0).T).sum()
    ahead = np.roll(centre[:-1], -1, 0) - np.roll(centre[:-1], 1, 0)
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], 1) / np.hypot(*ahead.T)[:, None]
    normal = np.concatenate([normal, normal[:1]])
    return np.concatenate([centre, centre + normal * width / 2, centre - normal * width / 2], 1)
