"""Paints points of the body's surface: skin, hair, and garments that are cut in canonical coordinates.

Points are rows (x, y, z, position along the arm, weight of the arm); see `body.load_body`.
"""

import numpy as np
from jaxtyping import Bool, Float

from tpr_jax.data.mini_pedes.wardrobe import HAIRS, SKINS, rgb_of

PARTS = ("background", "skin", "hair", "hat", "glasses", "top", "inner", "lower", "shoes", "bag")
PART = {name: i for i, name in enumerate(PARTS)}
COAT_END = -2.7


def scalp(q: Float[np.ndarray, "p 5"], short: bool) -> Bool[np.ndarray, " p"]:
    """Selects the hair: the head above a line from the brow over the ear to the nape."""
    x, y, z = np.abs(q[:, 0]), q[:, 1], q[:, 2]
    line = np.where(z > 0.6, 7.5 + (z - 0.6) * 0.42, 6.45 + np.clip((z + 0.1) / 0.7, 0, 1) * 1.05)
    ear = (x > 0.78) & (y < 7.5) & (z > 0.1) if short else np.zeros(len(q), bool)
    return (y > line) & (x < 1.3) & ~ear


def hat_region(q: Float[np.ndarray, "p 5"], kind: str) -> Bool[np.ndarray, " p"]:
    """Selects the part of the head that a cap or a woolly hat covers."""
    y, z = q[:, 1], q[:, 2]
    edge = 7.62 + 0.12 * z if kind == "cap" else 7.34 + 0.26 * z
    return y > edge


def _neckline(q: np.ndarray) -> np.ndarray:
    """Returns values below 1 within the neckline, which is deeper in front than behind."""
    deep = np.where(q[:, 2] > 0.35, 0.95, 0.62)
    return np.hypot(q[:, 0] / 0.86, (q[:, 1] - 6.15) / deep)


def _hem(person: dict) -> float:
    """Returns the height of the top's hem; a top is tucked into a skirt, and a dress ends at its seam."""
    return {"skirt": 0.95, "dress": 0.4}.get(person["lower"]["type"], -0.35 if person["inner"] else -0.05)


def top_region(person: dict, q: Float[np.ndarray, "p 5"]) -> Bool[np.ndarray, " p"]:
    """Selects the part of the body that the top covers."""
    arm = (q[:, 4] > 0.5) & (q[:, 3] > person["top"]["sleeve"])
    strap = person["top"]["sleeve"] < 0.5  # a sleeveless top leaves the end of the shoulder bare
    bare = strap & (np.abs(q[:, 0]) > 1.32) & (q[:, 1] > 4.2)
    hand = (q[:, 4] > 0.5) & (q[:, 3] > 1.98)
    return (q[:, 1] > _hem(person)) & (q[:, 1] < 6.12) & (_neckline(q) > 1) & ~arm & ~bare & ~hand


def lower_region(person: dict, q: Float[np.ndarray, "p 5"]) -> Bool[np.ndarray, " p"]:
    """Selects the part of the body that trousers, jeans or shorts cover; skirts are separate meshes."""
    if person["lower"]["type"] in ("skirt", "dress"):
        return np.zeros(len(q), bool)
    return (q[:, 1] <= _hem(person) + 0.12) & (q[:, 1] > person["lower"]["length"]) & (q[:, 4] < 0.5)


def _paint_top(person: dict, q: np.ndarray, part: np.ndarray, rgb: np.ndarray) -> None:
    top, where = person["top"], top_region(person, q)
    x, y, z, along, arm = q.T
    color = np.array(rgb_of(person, top["color"]), float)
    part[where], rgb[where] = PART["top"], color
    if top["pattern"]:
        second = np.array(rgb_of(person, top["second"]), float)
        sleeve = arm > 0.5
        if top["pattern"] == "sleeves":
            rgb[where & (sleeve | (y > 4.75))] = second
        elif top["pattern"] == "striped":
            rgb[where & (np.where(sleeve, along * 3.4, y * 1.35) % 1 < 0.45)] = second
        else:
            rows = np.where(sleeve, along * 3.6, y * 1.4) % 1 < 0.36
            columns = np.where(sleeve, z * 1.6, x * 1.6) % 1 < 0.36
            rgb[where & (rows ^ columns)] = 0.45 * color + 0.55 * second
            rgb[where & rows & columns] = second
    if top["type"] == "shirt":
        rgb[where & (np.abs(x) < 0.07) & (z > 0.2)] *= 0.72
        rgb[where & (_neckline(q) < 1.3)] *= 0.9
    edge = 0.5 - 0.035 * (y - 3)
    if person["inner"]:
        opened = where & (np.abs(x) < edge) & (z > 0.2) & (arm < 0.3)
        part[opened], rgb[opened] = PART["inner"], rgb_of(person, person["inner"])
        rgb[where & (np.abs(np.abs(x) - edge) < 0.07) & (z > 0.2)] *= 0.6
    # Hems, cuffs and the collar make the edges of a garment visible.
    rgb[where & (_neckline(q) < 1.12)] *= 0.66
    if top["type"] != "dress":
        rgb[where & (y < _hem(person) + 0.14)] *= 0.7
    rgb[where & (arm > 0.5) & (along > top["sleeve"] - 0.07)] *= 0.7
    if top["sleeve"] < 0.5:
        rgb[where & (np.abs(x) > 1.22) & (y > 4.2)] *= 0.75


def _paint_bag_strap(person: dict, q: np.ndarray, part: np.ndarray, rgb: np.ndarray) -> None:
    if not person["bag"] or person["bag"]["type"] in ("handbag", "paper"):
        return
    x, y, z, _, arm = q.T
    on = (part == PART["top"]) | (part == PART["inner"])
    if person["bag"]["type"] == "backpack":
        strap = (np.abs(np.abs(x) - 0.98) < 0.17) & (y > 2.4) & (z > -0.6)
    else:  # over the right shoulder, down to the left hip
        strap = (np.abs((y - 3.0) * 0.6 + x) < 0.17) & (arm < 0.6)
    strap &= on
    part[strap], rgb[strap] = PART["bag"], 0.85 * np.array(rgb_of(person, person["bag"]["color"]), float)


def paint_clothes(person: dict, q: Float[np.ndarray, "p 5"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part index [p] (0: no garment) and RGB [p, 3] of the clothes at surface points."""
    part, rgb = np.zeros(len(q), np.uint8), np.zeros((len(q), 3))
    lower = lower_region(person, q)
    kind = person["lower"]["type"]
    part[lower], rgb[lower] = PART["lower"], rgb_of(person, person["lower"]["color"], kind)
    rgb[lower & (q[:, 1] < person["lower"]["length"] + 0.16)] *= 0.72
    rgb[lower & (q[:, 1] > _hem(person) - 0.3)] *= 0.6
    if kind == "jeans":  # worn lighter in front of the thigh, seams at the side
        rgb[lower] *= (
            1
            + 0.16 * np.clip(1 - np.hypot(np.abs(q[lower, 0]) - 1.2, (q[lower, 1] + 2) / 2.4), 0, 1)[:, None]
        )
    _paint_top(person, q, part, rgb)
    _paint_bag_strap(person, q, part, rgb)
    return part, rgb


def paint_body(person: dict, q: Float[np.ndarray, "p 5"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part index [p] and RGB [p, 3] of the body itself, without its clothes."""
    x, y, z = np.abs(q[:, 0]), q[:, 1], q[:, 2]
    skin = np.array(SKINS[person["skin"]], float)
    hair = np.array(HAIRS[person["hair"]["color"]], float)
    part, rgb = np.full(len(q), PART["skin"], np.uint8), np.tile(skin, (len(q), 1))
    rgb[(x < 0.32) & (np.abs(y - 6.42) < 0.08) & (z > 1.2)] = skin * (0.8, 0.62, 0.62)
    rgb[(np.abs(x - 0.38) < 0.2) & (np.abs(y - 7.28) < 0.09) & (z > 1)] = (48, 40, 38)
    rgb[(np.abs(x - 0.42) < 0.28) & (np.abs(y - 7.54) < 0.06) & (z > 1)] = 0.45 * skin + 0.45 * np.minimum(
        hair, skin
    )
    if person["glasses"]:
        frame = (np.abs(y - 7.28) < 0.2) & (x > 0.1) & (x < 0.72) & (z > 0.9)
        frame |= (np.abs(y - 7.36) < 0.09) & (z > 0.45) & (x < 1.0)
        part[frame], rgb[frame] = PART["glasses"], (22, 22, 26)
    if person["hair"]["style"] != "bald":
        hairy = scalp(q, short=person["hair"]["style"] == "short")
        part[hairy], rgb[hairy] = PART["hair"], hair
    clothes, colors = paint_clothes(person, q)
    part[clothes > 0], rgb[clothes > 0] = clothes[clothes > 0], colors[clothes > 0]
    shoe = y < (-5.6 if person["shoes"]["type"] == "boots" else -7.5)
    shoe &= clothes == 0
    part[shoe], rgb[shoe] = PART["shoes"], rgb_of(person, person["shoes"]["color"])
    return part, rgb
