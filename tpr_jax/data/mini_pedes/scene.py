"""Samples how a person is photographed: camera, light, background."""

import numpy as np
from jaxtyping import Float
from PIL import Image

from tpr_jax.data.mini_pedes.body import walking_pose

# Front, one side, back, the other side (degrees; 0 faces the camera); every view is jittered around these.
AZIMUTHS = (0.0, 80.0, 180.0, -80.0)
# The cameras of `pretrain` rotate all hues by this angle in degrees (red to blue). The names of colors must
# be learned again for `mini`, which is possible because no hue is lost. Two kinds of real cameras can differ
# as much.
PRETRAIN_HUE = -20.0


def sample_view(rng: np.random.Generator, domain: str, index: int) -> dict:
    """Samples the camera, pose and light of image `index` of a person, in radians and meters."""
    mini = domain == "mini"
    jitter = rng.uniform(-32, 32) if index % 2 == 0 else rng.uniform(-28, 28)
    azimuth = (AZIMUTHS[index % 4] + jitter + 180.0) % 360.0 - 180.0
    walking = rng.random() < 0.75
    sun = rng.normal(0, 0.6, 3) + np.array([0, 0, 0.7])
    return {
        "azimuth": float(np.deg2rad(azimuth)),
        "elevation": float(np.deg2rad(rng.uniform(-2, 16) if mini else rng.uniform(18, 38))),
        "distance": float(rng.uniform(4.5, 7.5) if mini else rng.uniform(2.8, 4.2)),
        "fill": float(rng.uniform(0.86, 0.95) if mini else rng.uniform(0.92, 1.06)),
        "shift": rng.uniform(-1, 1, 2) * (0.05, 0.02),
        "pose": walking_pose(
            phase=rng.uniform(0, 2 * np.pi),
            stride=np.deg2rad(rng.uniform(7, 15) if walking else rng.uniform(0, 3)),
            swing=np.deg2rad(rng.uniform(4, 18) if walking else rng.uniform(0, 4)),
            bend=np.deg2rad(rng.uniform(5, 22)),
            spread=rng.uniform(0.13, 0.2),
        ),
        "sun": sun / np.linalg.norm(sun),
        "ambient": float(rng.uniform(0.5, 0.72)),
        "exposure": float(rng.uniform(0.84, 1.1) if mini else rng.uniform(0.7, 1.15)),
        "balance": rng.uniform(0.95, 1.05, 3) if mini else rng.uniform(0.89, 1.09, 3),
        "sensor": np.eye(3) if mini else turn_hue(PRETRAIN_HUE),
        "blur": float(rng.uniform(0.0, 0.55) if mini else rng.uniform(0.5, 1.1)),
        "noise": float(rng.uniform(0.0, 1.5) if mini else rng.uniform(2.0, 7.0)),
    }


def turn_hue(degrees: float) -> Float[np.ndarray, "3 3"]:
    """Returns the matrix that rotates RGB colors around the gray axis (Rodrigues' rotation formula)."""
    axis = np.full(3, 3**-0.5)
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def camera_axes(view: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns unit vectors toward the camera, to its right, and up."""
    a, e = view["azimuth"], view["elevation"]
    back = np.array([np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)])
    right = np.cross(-back, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    return back, right, np.cross(right, -back)


def fit_camera(points: Float[np.ndarray, "n 3"], view: dict, height: int, width: int):
    """Returns a projection (points [n, 3] to x, y in pixels and depth in meters) with all `points` in frame.

    The focal length follows from the projected extent, so that hands, feet and bags are in frame in any pose;
    a `fill` above 1 crops on purpose, and so may the shift of a `loose` view.
    """
    back, right, up = camera_axes(view)
    center = (points.min(0) + points.max(0)) / 2
    eye = center + back * view["distance"]

    def rays(p):
        q = p - eye
        depth = -(q @ back)
        return (q @ right) / depth, (q @ up) / depth, depth

    u, v, _ = rays(points)
    wide, tall = np.ptp(u), np.ptp(v)
    focal = min(view["fill"] * height / tall, 0.96 * max(view["fill"], 1.0) * width / wide)
    slack_x = max(0.0, width - focal * wide) * 0.3
    slack_y = max(0.0, height - focal * tall) * 0.3
    middle_u, middle_v = (u.max() + u.min()) / 2, (v.max() + v.min()) / 2
    if view.get("loose"):  # a box of a detector, which may cut the person
        slack_x, slack_y = width, height
    off_x = float(np.clip(view["shift"][0] * width, -slack_x, slack_x))
    off_y = float(np.clip(view["shift"][1] * height, -slack_y, slack_y))

    def project(p: np.ndarray) -> np.ndarray:
        x, y, depth = rays(p)
        return np.stack(
            [width / 2 + off_x + focal * (x - middle_u), height / 2 + off_y - focal * (y - middle_v), depth],
            1,
        )

    return project


def smooth_noise(rng: np.random.Generator, height: int, width: int, octaves: int) -> Float[np.ndarray, "h w"]:
    """Sums bicubically enlarged white noise; each octave has half the size and strength."""
    out = np.zeros((height, width), np.float32)
    for k in range(1, octaves + 1):
        cells = (max(2, height * 2**k // width + 2), 2**k + 2)
        coarse = Image.fromarray(rng.standard_normal(cells).astype(np.float32))
        out += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 2**k
    return out


def _wall(rng, image: np.ndarray, horizon: int) -> None:
    """Draws bricks or panels: darker joints, with every second row shifted."""
    tall = int(rng.integers(12, 40))
    wide = int(tall * rng.uniform(1.0, 2.6))
    y, x = np.mgrid[:horizon, : image.shape[1]]
    joint = (y % tall < 2) | ((x + (y // tall % 2) * (wide // 2)) % wide < 2)
    image[:horizon][joint] *= rng.uniform(0.72, 0.9)


def _buildings(rng, image: np.ndarray, horizon: int) -> None:
    """Draws house fronts, doors and cars: upright blocks of muted colors that end at the horizon."""
    width = image.shape[1]
    for _ in range(int(rng.integers(3, 8))):
        x, w = int(rng.integers(-20, width)), int(rng.integers(width // 6, width))
        y = int(rng.integers(0, max(1, horizon - horizon // 4)))
        tint = rng.uniform(50, 200) * np.array([1, rng.uniform(0.85, 1.1), rng.uniform(0.8, 1.15)])
        image[y:horizon, max(0, x) : max(0, x + w)] = tint
        for window in range(y + 6, horizon - 6, 22):
            image[window : window + 9, max(0, x + 4) : max(0, x + w - 4)] *= 0.85


def _foliage(rng, image: np.ndarray, horizon: int) -> None:
    """Draws leaves: mottled dark green over the upper part."""
    height, width = image.shape[:2]
    noise = smooth_noise(rng, height, width, 5)
    mass = noise > rng.uniform(-0.4, 0.3)
    mass[horizon:] = False
    leaf = np.array([52, 86, 44]) * rng.uniform(0.6, 1.2)
    image[mass] = (leaf * (1 + 0.35 * noise[..., None]))[mass]


def _floor(rng, image: np.ndarray, horizon: int) -> None:
    """Draws pavement: joints that converge toward the horizon, sometimes the bars of a crossing."""
    height, width = image.shape[:2]
    y, x = np.mgrid[horizon:height, :width]
    near = (y - horizon + 6.0) / (height - horizon + 6.0)
    across = (x - width / 2) / near / rng.uniform(20, 60) + rng.uniform(0, 1)
    along = 1.0 / near * rng.uniform(1.5, 4.0) + rng.uniform(0, 1)
    if rng.random() < 0.2 and np.ptp(image[-1, 0]) < 20:  # crossings are on gray roads only
        image[horizon:][(along % 1) < 0.45] *= rng.uniform(1.2, 1.5)
    else:
        image[horizon:][((along % 1) < 0.06) | ((across % 1) < 0.05)] *= rng.uniform(0.78, 0.92)


def background(rng: np.random.Generator, domain: str, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """Draws a place, as float RGB in 0..255: streets for `mini`, floors seen from above for `pretrain`."""
    high = domain == "pretrain"
    horizon = int(height * (rng.uniform(0.02, 0.3) if high else rng.uniform(0.3, 0.62)))
    far = [
        [150, 168, 190],
        [186, 186, 180],
        [122, 112, 100],
        [160, 132, 104],
        [96, 104, 116],
        [176, 160, 140],
    ]
    ground = [[112, 112, 114], [152, 146, 136], [88, 102, 70], [136, 116, 96], [84, 86, 92]]
    if high:
        ground = [[170, 168, 160], [128, 120, 126], [96, 110, 120], [186, 170, 150], [70, 74, 70]]
    image = np.empty((height, width, 3))
    image[:horizon] = np.array(far[rng.integers(len(far))]) * rng.uniform(0.7, 1.15)
    image[horizon:] = np.array(ground[rng.integers(len(ground))]) * rng.uniform(0.75, 1.15)
    if horizon > 8:
        (_wall, _buildings, _foliage)[int(rng.integers(3))](rng, image, horizon)
    if high or rng.random() < 0.6:
        _floor(rng, image, horizon)
    image += (smooth_noise(rng, height, width, 5) * rng.uniform(8, 18))[..., None]
    return image
