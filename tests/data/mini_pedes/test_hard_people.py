"""People of the domain `hard`: groups that are equal but for one attribute."""

import itertools

import numpy as np
import pytest

from tpr_jax.data.mini_pedes.hard_people import GROUP_SIZE, group_of, sample_group, with_attribute
from tpr_jax.data.mini_pedes.wardrobe import PALETTES, SKINS, color_distance, sample_person


def _leaves(value, path: str = "") -> dict:
    """Returns the leaves of nested dicts by their path."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, item in value.items() for k, v in _leaves(item, f"{path}/{name}").items()}


@pytest.fixture(scope="module")
def groups():
    return [sample_group(np.random.default_rng([5, i])) for i in range(150)]


def test_half_of_the_identities_are_in_groups():
    assert [group_of(i) for i in range(17)] == [0, 0, 0, 0, *[None] * 4, 8, 8, 8, 8, *[None] * 4, 16]


def test_people_of_a_group_differ_in_one_attribute(groups):
    for attribute, people in groups:
        assert len(people) == GROUP_SIZE
        for a, b in itertools.combinations(people, 2):
            first, second = _leaves(a), _leaves(b)
            different = {k for k in first.keys() | second.keys() if first.get(k) != second.get(k)}
            if attribute == "bag":  # a missing bag has no color
                assert different <= {"/bag", "/bag/type", "/bag/color"} and different
                assert not (a["bag"] and b["bag"]) or different == {"/bag/type"}
            else:
                assert different == {f"/{attribute.removesuffix('_color')}/color"}


def test_every_attribute_occurs(groups):
    wanted = {"top_color", "lower_color", "shoes_color", "bag_color", "hat_color", "bag"}
    assert {attribute for attribute, _ in groups} == wanted


def test_colors_of_look_alikes_are_far_apart_from_each_other_and_the_skin(groups):
    palette = PALETTES["mini"]
    for attribute, people in groups:
        if attribute == "bag":
            continue
        part = attribute.removesuffix("_color")
        colors = [palette[person[part]["color"]] for person in people]
        assert min(color_distance(a, b) for a, b in itertools.combinations(colors, 2)) > 30
        assert min(color_distance(color, SKINS[people[0]["skin"]]) for color in colors) > 30
        if part in ("lower", "bag"):
            assert min(color_distance(c, palette[people[0]["top"]["color"]]) for c in colors) > 30
        if part == "top" and people[0]["inner"]:
            assert min(color_distance(c, palette[people[0]["inner"]]) for c in colors) > 30


def test_dresses_denim_and_patterns_keep_their_colors(groups):
    for attribute, people in groups:
        lower, top = people[0]["lower"], people[0]["top"]
        assert not (attribute in ("top_color", "lower_color") and lower["type"] == "dress")
        assert not (attribute == "lower_color" and lower["type"] == "jeans")
        assert not (attribute == "top_color" and top["pattern"])


def test_replacing_an_attribute_leaves_the_person_as_is():
    person = sample_person(np.random.default_rng(1), "mini")
    before = _leaves(person)
    changed = with_attribute(person, "shoes_color", "pink")
    assert changed["shoes"] == person["shoes"] | {"color": "pink"} and _leaves(person) == before
    assert with_attribute(person, "bag", None)["bag"] is None
