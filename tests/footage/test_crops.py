import numpy as np
import pytest

from tests.footage.videos import open_cv
from tpr_jax.footage.crops import Sighting, best_sightings, colors, crop_quality, others_inside, sharpness


def sighting(seconds: float, quality: float) -> Sighting:
    return Sighting(round(10 * seconds), seconds, 0, (0, 0, 20, 60), 0.9, quality)


def test_the_covered_share_by_hand():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [0, 0, 5, 5], [50, 50, 5, 5]], np.float32)
    assert others_inside(boxes).tolist() == [0.5, 0.5, 1.0, 0.0]
    assert others_inside(boxes[:1]).tolist() == [0.0]


def test_quality_by_hand():
    assert crop_quality(80, 300.0, 0.0, False) == 0.25  # half the size, half the sharpness
    assert crop_quality(320, 300.0, 0.5, True) == 0.0625  # a quarter for the cover, a half for the edge


def test_a_blurred_crop_is_less_sharp():
    cv2 = open_cv()
    pixels = np.random.default_rng(0).integers(0, 255, (128, 48, 3), np.uint8)
    assert sharpness(cv2.GaussianBlur(pixels, (5, 5), 2)) < 0.1 * sharpness(pixels)


def test_the_best_sightings_are_apart():
    found = [sighting(0.0, 0.5), sighting(0.5, 0.9), sighting(1.0, 0.8), sighting(3.0, 0.1)]
    assert [one.quality for one in best_sightings(found, 2, apart=1.0)] == [0.9, 0.1]
    assert [one.quality for one in best_sightings(found, 2, apart=0.5)] == [0.9, 0.8]


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_best_sightings_do_not_depend_on_the_order(count):
    found = [sighting(t / 2, q) for t, q in enumerate([0.5, 0.9, 0.8, 0.1, 0.9])]
    assert best_sightings(found, count, 0.5) == best_sightings(found[::-1], count, 0.5)


def test_colors_by_hand():
    """A red shirt (hue 0) over black trousers, on a green background that mostly does not count."""
    open_cv()
    crop = np.full((96, 48, 3), (0, 200, 0), np.uint8)
    crop[:52, 12:36], crop[52:, 12:36] = (200, 0, 0), (20, 20, 20)
    found = colors(crop)
    assert found[0] == 100 and found[9 + 6] == 100 and sum(found) == 200
