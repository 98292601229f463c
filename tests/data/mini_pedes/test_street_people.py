"""People of the domain `street`: dyes, clothes, and what is frequent."""

import collections
import colorsys

import numpy as np
import pytest

from tpr_jax.data.mini_pedes.street_people import CLOTH, DENIM, sample_dye, sample_street_person
from tpr_jax.data.mini_pedes.wardrobe import rgb_of, sample_person


@pytest.fixture(scope="module")
def people():
    return [sample_street_person(np.random.default_rng([7, i])) for i in range(400)]


@pytest.mark.parametrize("name", CLOTH)
def test_a_dye_lies_in_the_range_of_its_name(name):
    hues, saturations, values = CLOTH[name]
    for seed in range(20):
        red, green, blue = sample_dye(np.random.default_rng(seed), CLOTH[name])
        hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        near = (
            360 * hue - hues[0] + 25
        ) % 360 - 25  # RGB in whole steps turns the hue of dark colors a little
        assert value == pytest.approx(np.clip(value, *values), abs=0.01)
        if value > 0.3:
            assert saturation == pytest.approx(np.clip(saturation, *saturations), abs=0.03)
            assert saturation < 0.2 or -5 <= near <= hues[1] - hues[0] + 5


def test_people_have_the_keys_of_the_other_domains_and_dyes_of_their_own(people):
    known = set(sample_person(np.random.default_rng(0), "mini"))
    for person in people:
        assert set(person) == known | {"dyes", "old"} and person["domain"] == "street"
        assert set(person["dyes"]["cloth"]) == set(CLOTH) and set(person["dyes"]["denim"]) == set(DENIM)
        for item in (person["top"], person["shoes"], person["bag"], person["hat"]):
            assert item is None or item["color"] in CLOTH
        kind = person["lower"]["type"]
        assert person["lower"]["color"] in (DENIM if kind == "jeans" else CLOTH)
        assert person["top"]["type"] != "coat" or kind in ("trousers", "jeans")
        assert (person["top"]["second"] is None) == (person["top"]["pattern"] is None)
        assert not person["inner"] or person["top"]["type"] == "jacket"
        assert not person["old"] or person["hair"]["color"] == "grey"
    assert len({person["dyes"]["cloth"]["black"] for person in people}) > 300


def test_colors_are_the_persons_own(people):
    person = people[0]
    assert rgb_of(person, "red") == person["dyes"]["cloth"]["red"]
    assert rgb_of(person, "blue", "jeans") == person["dyes"]["denim"]["blue"] != rgb_of(person, "blue")


def test_dark_clothes_and_jeans_are_frequent_and_every_color_occurs(people):
    tops = collections.Counter(person["top"]["color"] for person in people)
    assert set(tops) == set(CLOTH)
    dark = sum(tops[name] for name in ("black", "dark grey", "navy", "dark brown", "dark green", "dark red"))
    assert 0.35 < dark / len(people) < 0.55
    jeans = sum(person["lower"]["type"] == "jeans" for person in people) / len(people)
    assert 0.3 < jeans < 0.6
    assert {"sleeves", "striped", "checked", None} == {person["top"]["pattern"] for person in people}
    assert {"paper", "backpack"} <= {person["bag"]["type"] for person in people if person["bag"]}
    assert any(person["top"].get("hood") for person in people)


def test_a_second_color_is_told_from_the_first(people):
    alike = {"black", "dark grey", "dark brown", "navy", "dark green"}
    for person in people:
        for other in (person["top"]["second"], person["inner"]):
            assert other is None or not {other, person["top"]["color"]} <= alike
            assert other is None or other != person["top"]["color"]
