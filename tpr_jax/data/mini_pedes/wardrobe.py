"""Samples people and their clothes as plain dicts, with one palette per domain."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tpr_jax.data.mini_pedes.body import load_body

PALETTES = {
    "mini": {
        "white": (236, 236, 232),
        "black": (26, 26, 28),
        "grey": (128, 130, 134),
        "red": (188, 28, 34),
        "navy": (24, 32, 92),
        "blue": (34, 84, 196),
        "light blue": (132, 184, 226),
        "green": (36, 128, 58),
        "yellow": (234, 200, 48),
        "orange": (232, 118, 26),
        "brown": (104, 66, 38),
        "pink": (232, 128, 168),
        "purple": (112, 52, 148),
        "beige": (206, 188, 152),
    },
    # Clothes with other dyes; captions.py also has coarser names for them.
    "pretrain": {
        "white": (216, 218, 222),
        "black": (44, 40, 46),
        "grey": (148, 146, 138),
        "red": (160, 44, 62),
        "navy": (40, 48, 104),
        "blue": (60, 88, 170),
        "light blue": (150, 190, 214),
        "green": (78, 124, 74),
        "yellow": (208, 182, 92),
        "orange": (206, 120, 62),
        "brown": (122, 92, 70),
        "pink": (214, 150, 170),
        "purple": (124, 76, 140),
        "beige": (190, 178, 150),
    },
}
DENIM = {"blue": (70, 98, 146), "black": (44, 44, 50), "grey": (118, 124, 132)}
SKINS = [(240, 202, 174), (222, 174, 138), (190, 134, 94), (142, 92, 62), (94, 60, 42)]
HAIRS = {
    "black": (26, 23, 21),
    "brown": (84, 54, 34),
    "blond": (208, 172, 108),
    "grey": (164, 164, 164),
    "red": (146, 62, 28),
}
SLEEVES = {
    "t-shirt": 0.72,
    "shirt": 2.0,
    "sweater": 2.0,
    "sleeveless top": 0.12,
    "hoodie": 2.0,
    "jacket": 2.0,
    "coat": 2.0,
}
LONG_SLEEVED = {"shirt", "sweater", "hoodie", "jacket", "coat"}
# Muted colors are more frequent, so that color alone rarely identifies a person.
COMMON = {"white": 2.2, "black": 3.0, "grey": 2.0, "navy": 1.8, "blue": 1.6}
MIN_SKIN_DISTANCE = 32.0


def lab(rgb) -> Float[np.ndarray, "3"]:
    """Converts an sRGB color in 0..255 to CIE L*a*b* (D65; IEC 61966-2-1, CIE 15)."""
    c = np.asarray(rgb, float) / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ c
    f = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@functools.lru_cache(maxsize=4096)  # palettes have few colors, and converting them takes most of sampling
def color_distance(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """Computes the distance of two sRGB colors in L*a*b* (CIE76)."""
    return float(np.linalg.norm(lab(a) - lab(b)))


def pick_weighted(rng: np.random.Generator, weights: dict):
    """Returns a key of `weights`, with the probability of its weight."""
    names = list(weights)
    p = np.array([weights[name] for name in names], float)
    return names[int(rng.choice(len(names), p=p / p.sum()))]


def _garment_color(rng, palette: dict, skin, avoid: tuple = (), minimum: float = 30.0) -> str:
    """Samples a color that is not similar to the skin (it would look bare) or to the colors to avoid."""
    fit = {
        name: COMMON.get(name, 1.0)
        for name, rgb in palette.items()
        if color_distance(rgb, skin) > MIN_SKIN_DISTANCE
        and all(color_distance(rgb, palette[other]) > minimum for other in avoid)
    }
    return pick_weighted(rng, fit)


class Body(NamedTuple):
    """Who wears the clothes: row of the table of bodies, sex, age in 0..1, build, and index of the skin."""

    row: int
    sex: str
    age: float
    build: str | None
    skin: int


def sample_body(rng: np.random.Generator) -> Body:
    """Samples a body and a skin; sex, age and build follow from the body."""
    phen = load_body()["phen"]
    clear = np.flatnonzero(np.abs(phen[:, 0] - 0.5) > 0.3)  # bodies in between match neither word
    row = int(rng.choice(clear))
    sex = "woman" if phen[row, 0] > 0.5 else "man"
    weight = float(phen[row, 3])
    build = "slim" if weight < 0.36 else "heavy" if weight > 0.76 else None
    skin = int(rng.choice(len(SKINS), p=[0.27, 0.27, 0.2, 0.14, 0.12]))
    return Body(row, sex, phen[row, 1], build, skin)


def make_dress(rng: np.random.Generator, top: dict) -> dict:
    """Returns the upper part of a dress: a top in its color, without a pattern."""
    kind = pick_weighted(rng, {"t-shirt": 1, "sleeveless top": 1, "sweater": 0.7})
    return top | {"type": "dress", "sleeve": SLEEVES[kind], "pattern": None, "second": None}


def sample_hair(rng, sex: str, old: bool) -> dict:
    """Samples style and color of the hair."""
    styles = {
        "man": {"short": 7, "medium": 1, "bald": 1.2},
        "woman": {"short": 1.2, "medium": 2.5, "long": 4, "ponytail": 2.2, "bun": 1},
    }
    colors = {"black": 4, "brown": 4, "blond": 2.5, "red": 1, "grey": 5 if old else 0.2}
    return {"style": pick_weighted(rng, styles[sex]), "color": pick_weighted(rng, colors)}


def _sample_top(rng, sex: str, palette: dict, skin) -> tuple[dict, str | None]:
    kinds = {"t-shirt": 5, "shirt": 3, "sweater": 2, "hoodie": 2, "jacket": 3, "coat": 1.2}
    kind = pick_weighted(rng, kinds | ({"sleeveless top": 2} if sex == "woman" else {"sleeveless top": 0.6}))
    color = _garment_color(rng, palette, skin)
    pattern = None
    if kind in ("t-shirt", "shirt", "sweater", "sleeveless top"):
        pattern = pick_weighted(rng, {None: 6, "striped": 2, "checked": 1.5 if kind == "shirt" else 0})
    second = _garment_color(rng, palette, skin, (color,), 45.0) if pattern else None
    inner = _garment_color(rng, palette, skin, (color,), 45.0) if kind == "jacket" else None
    return {
        "type": kind,
        "color": color,
        "pattern": pattern,
        "second": second,
        "sleeve": SLEEVES[kind],
    }, inner


def _sample_lower(rng, sex: str, palette: dict, skin, top: dict) -> dict:
    kinds = {
        "man": {"trousers": 4, "jeans": 3.5, "shorts": 2.5},
        "woman": {"trousers": 3, "jeans": 3, "shorts": 1.2, "skirt": 2.4, "dress": 2.2},
    }
    kind = pick_weighted(rng, kinds[sex])
    if top["type"] == "coat" and kind in ("shorts", "skirt", "dress"):
        kind = "trousers"  # a knee-length coat would hide them
    if kind == "dress":
        color = top["color"]
    elif kind == "jeans":
        color = pick_weighted(rng, {"blue": 4, "black": 1.2, "grey": 1})
    else:
        color = _garment_color(rng, palette, skin, (top["color"],), 24.0)
    length = {
        "skirt": rng.uniform(-4.6, -2.2),
        "dress": rng.uniform(-5.2, -2.6),
        "shorts": rng.uniform(-3.0, -2.0),
    }
    return {"type": kind, "color": color, "length": float(length.get(kind, -7.5))}


def sample_person(rng: np.random.Generator, domain: str) -> dict:
    """Samples a person; every value is a plain string, number, None or a dict of them.

    Sex, age and build come from the sampled body, so that captions agree with the rendered image. Keys:
    domain, body (row of the table), sex, build, skin (index), hair {style, color}, hat {type, color} or
    None, glasses, top {type, color, pattern, second, sleeve}, inner (color under an open jacket) or None,
    lower {type, color, length}, shoes {type, color}, bag {type, color} or None, fit.
    """
    palette = PALETTES[domain]
    body = sample_body(rng)
    sex, skin = body.sex, SKINS[body.skin]
    hair = sample_hair(rng, sex, old=bool(body.age > 0.85))
    hat_kind = pick_weighted(rng, {None: 7, "cap": 1.6, "woolly hat": 0.8})
    if hat_kind and hair["style"] == "bun":
        hair["style"] = "long"
    hat = {"type": hat_kind, "color": _garment_color(rng, palette, skin)} if hat_kind else None
    top, inner = _sample_top(rng, sex, palette, skin)
    lower = _sample_lower(rng, sex, palette, skin, top)
    if lower["type"] == "dress":
        top, inner = make_dress(rng, top), None
    shoe_colors = {
        "white": 3,
        "black": 4,
        "brown": 1.5,
        "red": 1,
        "blue": 1,
        "grey": 1.2,
        "pink": 0.5,
        "yellow": 0.5,
    }
    fit = {
        name: n for name, n in shoe_colors.items() if color_distance(palette[name], skin) > MIN_SKIN_DISTANCE
    }
    shoes = {
        "type": pick_weighted(rng, {"trainers": 4, "shoes": 3, "boots": 1.5}),
        "color": pick_weighted(rng, fit),
    }
    bag_kind = pick_weighted(
        rng, {None: 4, "backpack": 2, "shoulder bag": 1.6, "handbag": 1.6 if sex == "woman" else 0.5}
    )
    bag = (
        {"type": bag_kind, "color": _garment_color(rng, palette, skin, (top["color"],), 36.0)}
        if bag_kind
        else None
    )
    return {
        "domain": domain,
        "body": body.row,
        "sex": sex,
        "build": body.build,
        "skin": body.skin,
        "hair": hair,
        "hat": hat,
        "glasses": bool(rng.random() < 0.2),
        "top": top,
        "inner": inner,
        "lower": lower,
        "shoes": shoes,
        "bag": bag,
        "fit": {"top": float(rng.uniform(0.006, 0.018)), "leg": float(rng.uniform(0.006, 0.024))},
    }


def rgb_of(person: dict, color: str, kind: str = "") -> tuple[int, int, int]:
    """Returns the sRGB color (0..255) of a color name in the person's domain; jeans have their own dyes.

    A person of `street` has dyes of their own.
    """
    if "dyes" in person:
        return person["dyes"]["denim" if kind == "jeans" else "cloth"][color]
    return DENIM[color] if kind == "jeans" else PALETTES[person["domain"]][color]
