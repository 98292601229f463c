"""Makes small meshes for what the body model lacks: shoes, bags, brims, ponytails, hoods."""

# ruff: noqa: RUF005 (`vector + (x, y, z)` adds arrays)

import numpy as np
from jaxtyping import Float

from tpr_jax.data.mini_pedes.body import load_body
from tpr_jax.data.mini_pedes.wardrobe import HAIRS, rgb_of

# Rings along the foot, from heel to toe: position, height (meters), width relative to the widest.
SHOE_RINGS = np.array(
    [
        (-0.02, 0.034, 0.56),
        (0.01, 0.084, 0.76),
        (0.12, 0.102, 0.84),
        (0.30, 0.106, 0.84),
        (0.45, 0.092, 0.86),
        (0.62, 0.068, 0.96),
        (0.78, 0.056, 1.00),
        (0.92, 0.046, 0.84),
        (1.01, 0.034, 0.50),
        (1.04, 0.016, 0.20),
    ]
)
# Points across the foot: fraction of half the width, and of the height. The first and last are the sole.
SHOE_PROFILE = np.array(
    [
        (1, 0),
        (1.04, 0.28),
        (0.98, 0.62),
        (0.7, 0.9),
        (0, 1.0),
        (-0.7, 0.9),
        (-0.98, 0.62),
        (-1.04, 0.28),
        (-1, 0),
    ]
)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Returns the triangles [2 (rows-1) (columns-1), 3] of a grid of vertices, row by row."""
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    b = a + columns
    return np.concatenate([np.stack([a, b, b + 1], 1), np.stack([a, b + 1, a + 1], 1)])


def ellipsoid(center, radii, roundness: float = 1.0, n: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Makes a superellipsoid (vertices, faces): an ellipsoid with roundness 1, a box toward 0."""
    u, v = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, 2 * n + 1), np.linspace(-np.pi, np.pi, 4 * n + 1), indexing="ij"
    )

    def power(w):
        return np.sign(w) * np.abs(w) ** roundness

    unit = np.stack(
        [power(np.cos(u)) * power(np.cos(v)), power(np.cos(u)) * power(np.sin(v)), power(np.sin(u))], -1
    )
    return np.asarray(center) + unit.reshape(-1, 3) * np.asarray(radii), _grid_faces(2 * n + 1, 4 * n + 1)


def _shoe(rest: Float[np.ndarray, "n 3"], side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes a closed shoe for one foot in the rest pose: vertices, faces, and a mask of the sole's faces."""
    canon = load_body()["canon"]
    foot = rest[(canon[:, 1] < -7.5) & (canon[:, 0] * side > 0)]
    ground = foot[:, 2].min() - 0.008
    order = np.argsort(foot[:, 1])
    tenth = len(order) // 10
    heel, toe = foot[order[-tenth:], :2].mean(0), foot[order[:tenth], :2].mean(0)
    ahead = (toe - heel) / np.linalg.norm(toe - heel)
    aside = np.array([-ahead[1], ahead[0]])
    s, t = (foot[:, :2] - heel) @ ahead, (foot[:, :2] - heel) @ aside
    start, length = s.min() - 0.008, np.ptp(s) + 0.02
    middle, half = (t.max() + t.min()) / 2, np.ptp(t) / 2 + 0.004
    rings = []
    for position, tall, wide in SHOE_RINGS:
        xy = (
            heel
            + ahead * (start + position * length)
            + np.outer(middle * position + SHOE_PROFILE[:, 0] * half * wide, aside)
        )
        rings.append(np.c_[xy, ground + SHOE_PROFILE[:, 1] * tall])
    columns = len(SHOE_PROFILE)
    faces = _grid_faces(len(rings), columns)
    column = faces.min(1) % columns
    return np.concatenate(rings), faces, (column == 0) | (column == columns - 2)


def _mean(posed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return posed[mask].mean(0)


def _bag_pieces(person: dict, posed: np.ndarray) -> list:
    canon = load_body()["canon"]
    x, y, z = canon.T
    kind, color = person["bag"]["type"], rgb_of(person, person["bag"]["color"])
    dark = tuple(0.62 * np.array(color))
    if kind == "backpack":
        back = posed[(np.abs(x) < 1) & (y > 2.5) & (y < 5) & (z < 0)]
        center = np.array([0, back[:, 1].max() + 0.05, back[:, 2].mean() - 0.03])
        main = ellipsoid(center, (0.145, 0.085, 0.2), 0.4)
        pocket = ellipsoid(center + (0, 0.075, -0.075), (0.105, 0.03, 0.085), 0.4)
        return [(*main, "bag", color), (*pocket, "bag", dark)]
    if kind == "paper":
        hand = _mean(posed, x > 4.6)
        return [(*ellipsoid(hand + (0.02, -0.06, 0.0), (0.012, 0.11, 0.15), 0.2), "bag", color)]
    if kind == "handbag":
        hand = _mean(posed, x > 4.6)
        main = ellipsoid(hand + (0.01, 0, -0.17), (0.045, 0.135, 0.095), 0.4)
        handle = ellipsoid(hand + (0.01, 0, -0.06), (0.012, 0.06, 0.03), 0.6)
        return [(*main, "bag", color), (*handle, "bag", dark)]
    hip = posed[(x > 1.2) & (np.abs(y - 0.3) < 0.6) & (np.abs(z) < 0.8) & (load_body()["arm"] < 0.2)]
    center = np.array([hip[:, 0].max() + 0.035, hip[:, 1].mean() + 0.03, hip[:, 2].mean() - 0.05])
    main = ellipsoid(center, (0.05, 0.125, 0.1), 0.4)
    flap = ellipsoid(center + (0.008, 0, 0.045), (0.05, 0.128, 0.05), 0.4)
    return [(*main, "bag", color), (*flap, "bag", dark)]


def _head_pieces(person: dict, posed: np.ndarray) -> list:
    x, y, z = load_body()["canon"].T
    pieces = []
    hair = np.array(HAIRS[person["hair"]["color"]], float)
    nape = _mean(posed, (np.abs(x) < 0.25) & (y > 7.2) & (y < 7.7) & (z < 0))
    if person["hair"]["style"] == "ponytail":
        pieces.append((*ellipsoid(nape + (0, 0.035, 0.0), (0.03, 0.035, 0.03)), "hair", hair))
        pieces.append((*ellipsoid(nape + (0, 0.055, -0.125), (0.042, 0.034, 0.15)), "hair", hair))
    if person["hair"]["style"] == "bun":
        pieces.append((*ellipsoid(nape + (0, 0.03, 0.05), (0.055, 0.05, 0.055)), "hair", hair))
    if person["hair"]["style"] in ("medium", "long"):
        # Hair behind the neck, wide enough to be visible beside it from the front.
        long = person["hair"]["style"] == "long"
        drop, half = (0.19, 0.19) if long else (0.115, 0.125)
        curtain = ellipsoid(nape + (0, 0.018 if long else -0.005, -drop + 0.05), (0.098, 0.05, half), 0.75)
        pieces.append((*curtain, "hair", hair))
    if person["hat"]:
        color = np.array(rgb_of(person, person["hat"]["color"]), float)
        crown = posed[(y > 8.3) & (np.abs(x) < 0.4)]
        if person["hat"]["type"] == "cap":
            brow = _mean(posed, (y > 7.72) & (y < 7.95) & (z > 1.2))
            pieces.append(
                (*ellipsoid(brow + (0, -0.045, 0.012), (0.078, 0.085, 0.009), 0.8), "hat", 0.8 * color)
            )
        else:
            top = np.array([crown[:, 0].mean(), crown[:, 1].mean(), crown[:, 2].max() + 0.045])
            pieces.append((*ellipsoid(top, (0.03, 0.03, 0.028)), "hat", 0.9 * color))
    if person["top"]["type"] == "hoodie" or person["top"].get("hood"):
        hood = person["top"].get("hood") or person["top"]["color"]
        color = 0.88 * np.array(rgb_of(person, hood), float)
        neck = _mean(posed, (np.abs(x) < 0.4) & (y > 5.6) & (y < 6.0) & (z < 0.2))
        pieces.append((*ellipsoid(neck + (0, 0.035, -0.035), (0.125, 0.065, 0.075), 0.8), "top", color))
    return pieces


def prop_pieces(person: dict, rest: np.ndarray, posed: np.ndarray, transforms: np.ndarray) -> list:
    """Makes all small meshes of a posed person: a list of (vertices, faces, part name, RGB)."""
    pieces = _head_pieces(person, posed)
    if person["bag"]:
        pieces += _bag_pieces(person, posed)
    upper = np.array(rgb_of(person, person["shoes"]["color"]), float)
    sole = np.array((214, 214, 210) if person["shoes"]["type"] == "trainers" else (40, 36, 34), float)
    if person["shoes"]["color"] == "white":
        sole = np.array((168, 168, 170), float)
    for side, name in ((1.0, "foot.L"), (-1.0, "foot.R")):
        vertices, faces, is_sole = _shoe(rest, side)
        move = transforms[load_body()["bones"].index(name)]
        vertices = vertices @ move[:, :3].T + move[:, 3]
        pieces.append((vertices, faces[~is_sole], "shoes", upper))
        pieces.append((vertices, faces[is_sole], "shoes", sole))
    return pieces
