"""Samples the people of the domain `hard`: half of them in groups that are equal but for one attribute."""

import numpy as np

from tpr_jax.data.mini_pedes.wardrobe import MIN_SKIN_DISTANCE, PALETTES, SKINS, color_distance, sample_person

GROUP_SIZE = 4
GROUP_EVERY = 2  # of the blocks of GROUP_SIZE successive identities, one of so many is a group
BAGS = (None, "backpack", "handbag", "shoulder bag")
COLORED = ("top", "lower", "shoes", "bag", "hat")
SHOE_COLORS = ("white", "black", "brown", "red", "blue", "pink", "yellow")
LEAST_DISTANCE = 34.0  # of two colors in L*a*b*, in which look-alikes differ


def group_of(identity: int) -> int | None:
    """Returns the first identity of the group that an identity is in, or None if it is in none."""
    block = identity // GROUP_SIZE
    return block * GROUP_SIZE if block % GROUP_EVERY == 0 else None


def with_attribute(person: dict, attribute: str, value: str | None) -> dict:
    """Returns the person with one attribute replaced, named as in `captions.visible_attributes`.

    `attribute` is 'bag', the kind of bag or None, or a part of `COLORED` with `_color`.
    """
    if attribute == "bag":
        return person | {"bag": person["bag"] | {"type": value} if value else None}
    part = attribute.removesuffix("_color")
    return person | {part: person[part] | {"color": value}}


def _distinct_colors(rng: np.random.Generator, person: dict, part: str) -> list[str]:
    """Samples colors for a part that differ clearly from each other, the skin, and the adjacent clothes."""
    palette = PALETTES[person["domain"]]
    adjacent = {
        "top": [person["lower"]["color"], *([person["inner"]] if person["inner"] else [])],
        "lower": [person["top"]["color"]],
        "bag": [person["top"]["color"]],
    }
    chosen: list[str] = []
    for name in rng.permutation(SHOE_COLORS if part == "shoes" else list(palette)).tolist():
        others = [palette[other] for other in chosen + adjacent.get(part, [])]
        clear = all(color_distance(palette[name], other) > LEAST_DISTANCE for other in others)
        if clear and color_distance(palette[name], SKINS[person["skin"]]) > MIN_SKIN_DISTANCE:
            chosen.append(name)
    return chosen


def _can_vary(person: dict, part: str) -> bool:
    """Tells whether a part's color can be replaced alone: a dress is top and bottom, denim has few dyes."""
    if part in ("top", "lower") and person["lower"]["type"] == "dress":
        return False
    if part == "top":
        return not person["top"]["pattern"]
    return bool(person[part]) and person[part]["type"] != "jeans"


def sample_group(rng: np.random.Generator) -> tuple[str, list[dict]]:
    """Samples `GROUP_SIZE` people who differ in one attribute, and each from all others.

    Returns:
      The attribute, as in `with_attribute`, and the people.
    """
    person = sample_person(rng, "mini")
    attributes = [f"{part}_color" for part in COLORED if _can_vary(person, part)]
    if person["bag"]:
        attributes.append("bag")
    for attribute in rng.permutation(attributes).tolist():
        if attribute == "bag":
            values = [BAGS[i] for i in rng.permutation(len(BAGS))]
        else:
            values = _distinct_colors(rng, person, attribute.removesuffix("_color"))
        if len(values) >= GROUP_SIZE:
            return attribute, [with_attribute(person, attribute, value) for value in values[:GROUP_SIZE]]
    return sample_group(rng)
