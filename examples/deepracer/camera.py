"""The car's camera in JAX: 160x120 luminance images of a track, as one product of matrices and a minimum.

Road and dashes are ellipses on the ground. Whether a ground point (x, y) is inside one is a quadratic form, thus the
scalar product of six coefficients with (x^2, xy, y^2, x, y, 1); what a pixel sees of the ground is fixed in the car's
frame, so its six features are constants. An image is features [pixels, 6] times coefficients [6, ellipses], and the
minimum over the ellipses. Objects are boxes that each pixel's ray meets or does not."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import objects

WIDTH, HEIGHT = 160, 120
FIELD_OF_VIEW_RAD, PITCH_RAD = 1.13, 0.2618  # horizontal; down
AHEAD_M, ABOVE_M = 0.145, 0.130  # of the middle between the axles
STEREO_M = (0.03, -0.03)  # to the left, of the two cameras of STEREO_CAMERAS
ROWS = 4  # parts of the image have a multiple of as many rows: 640 pixels, 5 for each partition
FAR_M = 12.0  # the ground ends in haze here
ROAD_SPACING_M = 0.12
DASH_LENGTH_M, DASH_WIDTH_M, DASH_PERIOD_M = 0.18, 0.04, 0.36
BORDER_M = 0.05  # width of the white line, inside the road's edge
# Luminance of what a pixel shows, 0..255.
SKY, FIELD, ROAD, BORDER, DASH = 190.0, 110.0, 55.0, 235.0, 175.0
SIDE_LIGHT = 0.8  # of an object's long sides, in parts of its ends: assumed
# Rows of pixels in two parts: what is nearer needs fewer ellipses. Number of them, and the point ahead of the car
# whose nearest ellipses are drawn.
NEAR_M = 1.1
NEAR = dict(road=24, dash=8, ahead=0.65)
FAR = dict(road=96, dash=32, ahead=2.4)


def _plane():
    """(down [HEIGHT], right [WIDTH]): where the rows and columns of pixels are on a plane at distance 1 of the lens."""
    focal = WIDTH / 2 / math.tan(FIELD_OF_VIEW_RAD / 2)
    return (np.arange(HEIGHT) - (HEIGHT - 1) / 2) / focal, (np.arange(WIDTH) - (WIDTH - 1) / 2) / focal


def rays():
    """(dx, dy, dz) [HEIGHT * WIDTH]: the directions of the pixels in the car's frame, x ahead, y left, z up."""
    down, right = (a.reshape(-1) for a in np.meshgrid(*_plane(), indexing="ij"))
    ahead = math.cos(PITCH_RAD) - down * math.sin(PITCH_RAD)
    return ahead, -right, -(math.sin(PITCH_RAD) + down * math.cos(PITCH_RAD))


def ground_of_rows():
    """(x [rows], left [rows, WIDTH], first row) in metres ahead and left of the lens's foot, of each row that shows ground."""
    down, right = _plane()
    falls = math.sin(PITCH_RAD) + down * math.cos(PITCH_RAD)
    with np.errstate(divide="ignore"):
        t = ABOVE_M / falls
        x = t * (math.cos(PITCH_RAD) - down * math.sin(PITCH_RAD))
    first = -(-int(np.argmax((falls > 0) & (x < FAR_M))) // ROWS) * ROWS
    return AHEAD_M + x[first:], -t[first:, None] * right, first


def scene(track) -> dict:
    """The ellipses of a track: rows (x, y, cos, sin of the long axis, 1/a^2, 1/b^2), and b, half of the short axis.

    Discs on the lines between inner and outer border make the road: their union has the borders as envelope, whatever
    the width does."""

    def resampled(spacing, phase):
        n = max(8, round(track.length / spacing))
        s = (np.arange(n) + phase) * track.length / n
        columns = [np.interp(s, track.along, c) for c in (*track.inner.T, *track.outer.T)]
        inner, outer = np.stack(columns[:2], 1), np.stack(columns[2:], 1)
        return s, (inner + outer) / 2, np.hypot(*(inner - outer).T) / 2

    _, middle, half = resampled(ROAD_SPACING_M, 0.0)
    one, nil = np.ones(len(half)), np.zeros(len(half))
    road = np.stack([*middle.T, one, nil, half**-2.0, half**-2.0, half], 1)
    s, _, _ = resampled(DASH_PERIOD_M, 0.5)
    x, y, heading = track.at(s)
    one = np.ones(len(s))
    a, b = DASH_LENGTH_M / 2, DASH_WIDTH_M / 2
    dash = np.stack([x, y, np.cos(heading), np.sin(heading), one / a**2, one / b**2, one * b], 1)
    return {"road": road.astype(np.float32), "dash": dash.astype(np.float32)}


def _nearest(table, x, y, n):
    """The n rows of table [P, 7] nearest to each point: [cars, n, 7]. All of them, if there are not more."""
    if table.shape[0] <= n:
        return jnp.broadcast_to(table, (x.shape[0], *table.shape))
    d = (table[:, 0] - x[:, None]) ** 2 + (table[:, 1] - y[:, None]) ** 2
    _, i = jax.lax.top_k(-d, n)
    return table[i]


def _coefficients(ellipses, x, y, cos, sin):
    """[cars, n, 6]: the quadratic forms in the frame of a car at (x, y), heading (cos, sin); 1 is the border."""
    cos, sin = cos[:, None], sin[:, None]
    dx, dy = ellipses[..., 0] - x[:, None], ellipses[..., 1] - y[:, None]
    cx, cy = cos * dx + sin * dy, cos * dy - sin * dx
    u, v = cos * ellipses[..., 2] + sin * ellipses[..., 3], cos * ellipses[..., 3] - sin * ellipses[..., 2]
    p, q = ellipses[..., 4], ellipses[..., 5]
    xx, xy, yy = u * u * p + v * v * q, u * v * (p - q), v * v * p + u * u * q
    bx, by = xx * cx + xy * cy, xy * cx + yy * cy
    return jnp.stack([xx, 2 * xy, yy, -2 * bx, -2 * by, bx * cx + by * cy], -1)


def _covered(distance, half, most):
    """Part of a pixel inside a line, in widths of a pixel: the distance of its middle from the line's middle, half the
    width of the line, and the most that the line can cover of it."""
    return jnp.clip(half - jnp.abs(distance) + 0.5, 0.0, most)


def _smallest(field):
    """The minimum over axis 1 of [rows, n, cars], by halves: an operation on long rows each."""
    while (n := field.shape[1]) > 1:
        half = n // 2
        rest = field[:, 2 * half :]
        field = jnp.minimum(field[:, :half], field[:, half : 2 * half])
        if n % 2:
            field = jnp.concatenate([jnp.minimum(field[:, :1], rest), field[:, 1:]], 1)
    return field[:, 0]


def _paint(tables, pose, rows, part):
    """fp32 [cars, rows, WIDTH]: rows of ground (x [rows], left [rows, WIDTH], width of a pixel [rows]), in metres."""
    x, y, cos, sin = pose
    ahead_x, ahead_y = x + part["ahead"] * cos, y + part["ahead"] * sin
    gx, gy, pixel = (np.broadcast_to(a, rows[1].shape).reshape(-1) for a in (rows[0][:, None], rows[1], rows[2][:, None]))
    features = np.stack([gx * gx, gx * gy, gy * gy, gx, gy, np.ones_like(gx)], 1).astype(np.float32)
    per_pixel = (1 / pixel).astype(np.float32)
    features *= per_pixel[:, None] ** 2
    distance = {}
    for kind in ("road", "dash"):
        ellipses = _nearest(tables[kind], ahead_x, ahead_y, part[kind])
        half = jnp.mean(ellipses[..., 6], -1)[:, None]
        forms = _coefficients(ellipses, x, y, cos, sin) * (half * half)[..., None]
        field = jnp.einsum("rf,knf->rkn", features, forms.transpose(1, 0, 2), precision="highest")
        distance[kind] = jnp.sqrt(jnp.maximum(_smallest(field).T, 0.0))
        if kind == "road":
            edge = half * per_pixel
    border, dash = BORDER_M / 2 * per_pixel, DASH_WIDTH_M / 2 * per_pixel
    beyond = distance["road"] - edge
    on_road = jnp.clip(0.5 - beyond, 0.0, 1.0)
    on_border = _covered(beyond + border, border, np.minimum(1, 2 * border))
    on_dash = _covered(distance["dash"], dash, np.minimum(1, 2 * dash))
    shade = FIELD + (ROAD - FIELD) * on_road
    shade = shade + (DASH - shade) * on_dash
    shade = shade + (BORDER - shade) * on_border
    return shade.reshape(x.shape[0], len(rows[0]), WIDTH)


def _with_objects(shade, race, near, aside):
    """shade [cars, HEIGHT, WIDTH] with the objects of a race in front; near: their poses in the cars' frames."""
    flown, is_side = objects.flights(race, near, (AHEAD_M, aside, ABOVE_M), rays())
    colour = race.of_each("shade")[:, None]
    colour = jnp.where(is_side, colour * SIDE_LIGHT, colour)
    shade, nearest = shade.reshape(len(shade), -1), objects.FAR_M
    for k in range(race.n):
        shade = jnp.where(flown[:, k] < nearest, colour[:, k], shade)
        nearest = jnp.minimum(flown[:, k], nearest)
    return shade.reshape(-1, HEIGHT, WIDTH)


def images(tables, x, y, heading, boxes=None, aside=0.0):
    """uint8 [cars, HEIGHT, WIDTH] for cars at (x, y) in metres, heading in radians; tables as scene() gives them. boxes: a
    race and the poses of its objects in the cars' frames; aside: metres of the lens to the left of the car's middle."""
    ahead, left, first = ground_of_rows()
    left = left + aside
    pixel = np.abs(left[:, 0] - left[:, 1])
    n_far = -(-int(np.argmax(ahead < NEAR_M)) // ROWS) * ROWS
    pose = x, y, jnp.cos(heading), jnp.sin(heading)
    far = _paint(tables, pose, (ahead[:n_far], left[:n_far], pixel[:n_far]), FAR)
    near = _paint(tables, pose, (ahead[n_far:], left[n_far:], pixel[n_far:]), NEAR)
    sky = jnp.full((x.shape[0], first, WIDTH), SKY, jnp.float32)
    shade = jnp.concatenate([sky, far, near], 1)
    if boxes:
        shade = _with_objects(shade, *boxes, aside)
    return shade.astype(jnp.uint8)
