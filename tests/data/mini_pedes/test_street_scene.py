"""Places and cameras of the domain `street`."""

import numpy as np
import pytest

from tpr_jax.data.mini_pedes import street_scene
from tpr_jax.data.mini_pedes.generate import THING_EVERY, make_example
from tpr_jax.data.mini_pedes.paint import PART
from tpr_jax.data.mini_pedes.render import paint_person
from tpr_jax.data.mini_pedes.street_people import CLOTH, sample_street_person
from tpr_jax.data.mini_pedes.street_scene import (
    draw_sign,
    draw_vehicle,
    render_street,
    render_thing,
    street_background,
    street_view,
    take_photo,
)

SIZE = (192, 64)


def _rng(*key):
    return np.random.default_rng(key)


def _saturated():
    image = np.full((256, 100, 3), 128.0)
    image[64:192, 30:70] = (200, 30, 40)
    return image


def test_views_are_of_loose_boxes_from_above_and_far():
    views = [street_view(_rng(i), i) for i in range(300)]
    elevations, fills = (np.array([view[key] for view in views]) for key in ("elevation", "fill"))
    pixels = np.array([view["pixels"] for view in views])
    assert np.rad2deg(elevations).min() < 5 and 35 < np.rad2deg(elevations).max() <= 42
    assert 0.08 < (fills >= 1).mean() < 0.2 and (fills < 0.62).any()
    assert pixels.min() >= 48 and pixels.max() <= 200 and np.median(pixels) < 120
    assert all(view["loose"] for view in views) and len({view["aspect"] for view in views}) == 300


def test_a_loose_view_may_cut_the_person():
    person, rng = sample_street_person(_rng(2)), _rng(0)
    view = street_view(rng, 0) | {"fill": 0.9, "shift": np.array((0.0, 0.5))}
    cut, whole = (
        paint_person(np.zeros((128, 48, 3)), person, view | {"loose": loose}, _rng(1)) > 0
        for loose in (True, False)
    )
    assert cut[-1].any() and not cut[: 128 // 3].any()
    assert not whole[0].any() and not whole[-1].any() and whole.sum() > 1.3 * cut.sum()


def test_rendering_is_a_function_of_the_seed():
    person, view = sample_street_person(_rng(1)), street_view(_rng(2), 0)
    one, two, other = (render_street(person, view, _rng(seed), *SIZE) for seed in (5, 5, 6))
    assert one["image"].shape == (*SIZE, 3) and one["image"].dtype == np.uint8
    np.testing.assert_array_equal(one["image"], two["image"])
    assert (one["image"] != other["image"]).any()
    assert one["parts"].shape == (256, round(256 * view["aspect"]))


def test_neighbors_and_signs_hide_parts(monkeypatch):
    monkeypatch.setattr(street_scene, "draw_sign", lambda rng, image, color: image.fill(7))  # a large sign
    person = sample_street_person(_rng(1))
    view = street_view(_rng(2), 0) | {"fill": 0.9, "shift": np.zeros(2)}
    shown = np.array([(render_street(person, view, _rng(i), *SIZE)["parts"] > 0).sum() for i in range(60)])
    assert 0.02 < (shown == 0).mean() < 0.25  # behind the sign
    assert 0.02 < ((shown > 0) & (shown < shown.max())).mean() < 0.25  # behind a neighbor


def test_a_camera_of_few_pixels_loses_detail():
    rng = np.random.default_rng(0)
    fine = np.repeat(np.repeat(rng.uniform(0, 255, (128, 50, 1)), 2, 0), 2, 1) * np.ones(3)

    def detail(pixels):
        photos = [take_photo(_rng(i), fine, pixels, *SIZE).astype(float) for i in range(12)]
        return np.mean([np.abs(np.diff(photo, axis=0)).mean() for photo in photos])

    assert detail(200) > 1.5 * detail(48)


def test_cameras_differ_in_color_but_red_stays_red():
    photos = np.array([take_photo(_rng(i), _saturated(), 150, *SIZE) for i in range(30)], float)
    middle, edge = photos[:, 80:110, 25:40].mean((1, 2)), photos[:, :20].mean((1, 2))
    assert (middle[:, 0] > middle[:, 1] + 40).all() and (middle[:, 0] > middle[:, 2] + 40).all()
    assert edge.std(axis=0).min() > 8 and np.abs(edge[:, 0] - edge[:, 2]).max() > 5


@pytest.mark.parametrize("draw", [lambda *a: draw_vehicle(*a, tall=True), draw_sign])
def test_things_are_drawn_in_their_color(draw):
    color, shares = np.array((250.0, 10.0, 20.0)), []
    for i in range(40):
        image = np.full((256, 100, 3), 128.0)
        draw(_rng(i), image, color)
        shares.append((np.abs(image - color).max(axis=2) < 1).mean())
        assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255
    assert np.median(shares) > 0.02


def test_backgrounds_vary():
    means = np.array([street_background(_rng(i), 64, 32).mean((0, 1)) for i in range(60)])
    assert means.std(axis=0).min() > 15
    assert (means[:, 1] > means[:, [0, 2]].max(axis=1) + 5).mean() > 0.05  # grass


def test_boxes_without_people():
    white, black = (
        np.mean([render_thing(_rng(i), "van", name, *SIZE).mean() for i in range(40)])
        for name in ("white", "black")
    )
    assert white > black + 10
    assert render_thing(_rng(0), None, "white", 96, 32).shape == (96, 32, 3)


def test_every_sixteenth_identity_is_a_thing():
    thing = make_example(0, "street", "val", THING_EVERY - 1, 2, size=(64, 32))
    assert thing["person"] is None and len(thing["captions"]) == 2
    assert not any(word in text for text in thing["captions"] for word in (" man", " woman", "jacket"))
    example = make_example(0, "street", "val", THING_EVERY, 2, size=(64, 32))
    assert example["person"]["domain"] == "street" and example["image"].shape == (64, 32, 3)
    assert set(example) == set(make_example(0, "mini", "val", 0, 0, size=(64, 32)))
    hidden = {part for part in ("hat", "bag", "shoes") if (example["parts"] == PART[part]).sum() == 0}
    assert not any(part in named for part in hidden for named in example["named"])
    assert set(example["person"]["dyes"]["cloth"]) == set(CLOTH)


def _front_view():
    return street_view(_rng(2), 0) | {"fill": 0.9, "shift": np.zeros(2), "azimuth": 0.0, "elevation": 0.0}


def _dressed(bag=None, **top):
    """Returns a person in a blue jacket, with red as the second color of everything."""
    person = sample_street_person(_rng(3))
    person["dyes"]["cloth"] |= {"navy": (0, 0, 250), "red": (250, 0, 0), "white": (0, 250, 0)}
    jacket = {"type": "jacket", "color": "navy", "pattern": None, "second": None, "sleeve": 2.0}
    return person | {"top": jacket | top, "inner": None, "bag": bag, "hat": None}


def _share_of_top(person, channel):
    """Returns the share of the top, seen from the front, in which a channel of the color dominates."""
    image = np.zeros((256, 100, 3))
    top = paint_person(image, person, _front_view(), _rng(1)) == PART["top"]
    return float((image[top].argmax(axis=1) == channel).mean())


def test_sleeves_of_another_color():
    assert _share_of_top(_dressed(), 0) == 0
    two_tone = _dressed(pattern="sleeves", second="red")
    assert 0.2 < _share_of_top(two_tone, 0) < 0.8 and _share_of_top(two_tone, 2) > 0.2
    assert _share_of_top(_dressed(pattern="striped", second="red"), 0) != _share_of_top(two_tone, 0)


def test_a_hood_of_another_color():
    behind = _front_view() | {"azimuth": np.pi}

    def red(person):
        image = np.zeros((256, 100, 3))
        top = paint_person(image, person, behind, _rng(1)) == PART["top"]
        return int((image[top].argmax(axis=1) == 0).sum())

    assert red(_dressed()) == 0 and red(_dressed(hood="red")) > 50


def test_paper_is_in_the_hand_and_has_no_strap():
    def bag_rows(kind):
        person = _dressed(bag={"type": kind, "color": "white"})
        parts = paint_person(np.zeros((256, 100, 3)), person, _front_view() | {"azimuth": 1.2}, _rng(1))
        return np.nonzero(parts == PART["bag"])[0]

    paper, bag = bag_rows("paper"), bag_rows("shoulder bag")
    assert len(paper) > 20 and np.ptp(paper) < 0.5 * np.ptp(bag)
