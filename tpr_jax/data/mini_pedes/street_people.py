"""Samples people of the domain `street`: clothes and dyes of everyday life, mostly dark and gray."""

import colorsys

import numpy as np

from tpr_jax.data.mini_pedes.wardrobe import (
    MIN_SKIN_DISTANCE,
    SKINS,
    SLEEVES,
    color_distance,
    make_dress,
    pick_weighted,
    sample_body,
    sample_hair,
)

# Ranges of hue in degrees, saturation and value that a name of a color covers.
CLOTH = {
    "black": ((0, 360), (0.0, 0.35), (0.02, 0.16)),
    "dark grey": ((190, 250), (0.0, 0.14), (0.2, 0.33)),
    "grey": ((0, 360), (0.0, 0.1), (0.42, 0.62)),
    "white": ((0, 360), (0.0, 0.06), (0.85, 1.0)),
    "navy": ((214, 240), (0.45, 0.85), (0.14, 0.34)),
    "blue": ((206, 230), (0.5, 0.9), (0.42, 0.8)),
    "light blue": ((190, 218), (0.2, 0.5), (0.72, 0.95)),
    "turquoise": ((168, 188), (0.4, 0.9), (0.45, 0.8)),
    "green": ((90, 150), (0.35, 0.8), (0.36, 0.65)),
    "dark green": ((75, 160), (0.25, 0.6), (0.15, 0.3)),
    "red": ((-10, 6), (0.7, 0.97), (0.55, 0.9)),
    "dark red": ((-14, 4), (0.5, 0.85), (0.25, 0.42)),
    "orange": ((14, 30), (0.7, 0.95), (0.78, 0.98)),
    "yellow": ((44, 58), (0.5, 0.95), (0.76, 0.97)),
    "brown": ((14, 30), (0.4, 0.7), (0.33, 0.5)),
    "dark brown": ((4, 28), (0.25, 0.6), (0.12, 0.25)),
    "beige": ((30, 45), (0.15, 0.4), (0.65, 0.86)),
    "pink": ((328, 350), (0.25, 0.6), (0.76, 0.97)),
    "purple": ((264, 300), (0.35, 0.8), (0.3, 0.62)),
}
DENIM = {
    "blue": ((204, 222), (0.35, 0.65), (0.4, 0.62)),
    "light blue": ((200, 220), (0.18, 0.42), (0.6, 0.82)),
    "navy": ((208, 232), (0.4, 0.7), (0.2, 0.38)),
    "black": ((0, 360), (0.0, 0.2), (0.08, 0.2)),
    "grey": ((200, 230), (0.02, 0.14), (0.36, 0.55)),
}
# fmt: off
TOP_COLORS = {
    "black": 4.0, "dark grey": 1.8, "grey": 1.2, "navy": 1.8, "white": 1.6, "blue": 1.5, "light blue": 1.1,
    "brown": 1.0, "dark brown": 1.3, "beige": 1.0, "red": 1.7, "dark red": 0.6, "green": 0.9,
    "dark green": 0.7, "yellow": 0.7, "orange": 0.6, "pink": 0.7, "purple": 0.6, "turquoise": 0.4,
}
TROUSER_COLORS = {
    "black": 4.0, "dark grey": 1.5, "grey": 1.3, "navy": 1.2, "beige": 0.9, "brown": 0.7,
    "dark brown": 0.5, "white": 0.5, "dark green": 0.4, "blue": 0.5, "light blue": 0.3, "red": 0.25,
    "green": 0.2,
}
JEANS_COLORS = {"blue": 3.0, "navy": 2.0, "light blue": 1.6, "black": 0.6, "grey": 0.5}
SHOE_COLORS = {"black": 4.0, "white": 2.5, "brown": 1.6, "beige": 0.7, "grey": 0.9, "red": 0.3, "blue": 0.4}
BAG_COLORS = {
    "black": 3.0, "brown": 1.0, "white": 0.9, "red": 0.8, "blue": 0.7, "grey": 0.8, "beige": 0.5,
    "green": 0.4, "yellow": 0.4, "pink": 0.4, "orange": 0.3,
}
# fmt: on
HAT_COLORS = {"black": 3.0, "white": 1.3, "grey": 1.0, "red": 0.9, "navy": 0.8, "blue": 0.7, "beige": 0.4}
LOOKALIKES = [  # a garment of the one is not told from a garment of the other in many a light
    {"black", "dark grey", "dark brown", "navy", "dark green"},
    {"white", "beige"},
]


def sample_dye(rng: np.random.Generator, ranges: tuple) -> tuple[int, int, int]:
    """Samples an sRGB color in 0..255 from ranges of hue, saturation and value."""
    hue, saturation, value = (float(rng.uniform(*span)) for span in ranges)
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _sample_dyes(rng: np.random.Generator) -> dict:
    return {
        "cloth": {name: sample_dye(rng, ranges) for name, ranges in CLOTH.items()},
        "denim": {name: sample_dye(rng, ranges) for name, ranges in DENIM.items()},
    }


def _color(rng, weights: dict, dyes: dict, skin, avoid: tuple = ()) -> str:
    """Samples a color that is not similar to the skin, nor a lookalike of the colors to avoid."""
    unfit = set(avoid).union(*(group for group in LOOKALIKES for name in avoid if name in group))
    fit = {
        name: weight
        for name, weight in weights.items()
        if name not in unfit and color_distance(dyes["cloth"][name], skin) > MIN_SKIN_DISTANCE / 2
    }
    return pick_weighted(rng, fit)


def _sample_top(rng, sex: str, dyes: dict, skin) -> tuple[dict, str | None]:
    kinds = {"jacket": 5, "coat": 3.5, "sweater": 1.6, "hoodie": 1.5, "t-shirt": 1.6, "shirt": 1.4}
    kind = pick_weighted(rng, kinds | {"sleeveless top": 0.4 if sex == "woman" else 0.1})
    color = _color(rng, TOP_COLORS, dyes, skin)
    patterns = {
        "jacket": {None: 7, "sleeves": 1.8, "striped": 0.7},
        "sweater": {None: 6, "striped": 2, "sleeves": 0.5},
        "hoodie": {None: 7, "sleeves": 1},
        "t-shirt": {None: 6, "striped": 2},
        "shirt": {None: 6, "striped": 1, "checked": 2},
    }
    pattern = pick_weighted(rng, patterns.get(kind, {None: 1}))
    top = {"type": kind, "color": color, "pattern": pattern, "second": None, "sleeve": SLEEVES[kind]}
    if pattern:
        top["second"] = _color(rng, TOP_COLORS, dyes, skin, (color,))
    if kind in ("jacket", "coat") and rng.random() < 0.15:
        top["hood"] = _color(rng, {"grey": 2, "black": 2, "red": 1, "white": 1, color: 3}, dyes, skin)
    inner = None
    if kind == "jacket" and not pattern and rng.random() < 0.35:
        inner = _color(rng, TOP_COLORS, dyes, skin, (color,))
    return top, inner


def _sample_lower(rng, sex: str, top: dict, dyes: dict, skin) -> dict:
    kinds = {"jeans": 4.5, "trousers": 5, "shorts": 0.5}
    if sex == "woman":
        kinds |= {"skirt": 0.7, "dress": 0.6}
    kind = pick_weighted(rng, kinds)
    if top["type"] == "coat" and kind in ("shorts", "skirt", "dress"):
        kind = "trousers"  # a knee-length coat would hide them
    if kind == "jeans":
        color = pick_weighted(rng, JEANS_COLORS)
    else:
        color = top["color"] if kind == "dress" else _color(rng, TROUSER_COLORS, dyes, skin)
    length = {
        "skirt": rng.uniform(-4.6, -2.2),
        "dress": rng.uniform(-5.2, -2.6),
        "shorts": rng.uniform(-3.0, -2.0),
    }
    return {"type": kind, "color": color, "length": float(length.get(kind, -7.5))}


def sample_street_person(rng: np.random.Generator) -> dict:
    """Samples a person of everyday life, with the keys of `wardrobe.sample_person` and further ones.

    These are `dyes` (cloth and denim: name of a color -> RGB, of this person alone), `old`, and in `top`
    possibly `hood`, the color of a hood. The pattern `sleeves` is a top whose sleeves and shoulders have the
    second color, and a bag may be `paper` in the hand.
    """
    body = sample_body(rng)
    sex, skin, dyes = body.sex, SKINS[body.skin], _sample_dyes(rng)
    hair = sample_hair(rng, sex, old=bool(body.age > 0.8))
    hat = None
    if rng.random() < 0.16:
        hat = {
            "type": pick_weighted(rng, {"cap": 1, "woolly hat": 1}),
            "color": _color(rng, HAT_COLORS, dyes, skin),
        }
        hair["style"] = "long" if hair["style"] == "bun" else hair["style"]
    top, inner = _sample_top(rng, sex, dyes, skin)
    lower = _sample_lower(rng, sex, top, dyes, skin)
    if lower["type"] == "dress":
        top, inner = make_dress(rng, top), None
    shoe_kind = pick_weighted(rng, {"trainers": 4, "shoes": 4, "boots": 1.5})
    kinds = {None: 5, "backpack": 1.2, "shoulder bag": 1.2, "paper": 0.7}
    bag_kind = pick_weighted(rng, kinds | {"handbag": 1.4 if sex == "woman" else 0.5})
    bag = None
    if bag_kind:
        color = "white" if bag_kind == "paper" else _color(rng, BAG_COLORS, dyes, skin, (top["color"],))
        bag = {"type": bag_kind, "color": color}
    return {
        "domain": "street",
        "dyes": dyes,
        "body": body.row,
        "sex": sex,
        "old": hair["color"] == "grey" and bool(body.age > 0.8),
        "build": body.build,
        "skin": body.skin,
        "hair": hair,
        "hat": hat,
        "glasses": bool(rng.random() < 0.15),
        "top": top,
        "inner": inner,
        "lower": lower,
        "shoes": {"type": shoe_kind, "color": _color(rng, SHOE_COLORS, dyes, skin)},
        "bag": bag,
        "fit": {"top": float(rng.uniform(0.006, 0.024)), "leg": float(rng.uniform(0.006, 0.026))},
    }
