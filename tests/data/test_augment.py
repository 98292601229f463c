import inspect

import numpy as np
import pytest

from tpr_jax.data.augment import ERASE_COLOR, augment_image, erase_box
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD

NOTHING = {"flip_probability": 0.0, "pad": 0, "erase_probability": 0.0}


@pytest.fixture
def image():
    # No zeros and no erasing color, so that padding and erasing differ from the image.
    return np.random.default_rng(0).integers(1, 100, (40, 24, 3), np.uint8)


def test_is_deterministic_and_does_not_change_the_source(image):
    before = image.copy()
    first = augment_image(image, (1, 2, 3))
    np.testing.assert_array_equal(first, augment_image(image, (1, 2, 3)))
    np.testing.assert_array_equal(image, before)
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert len({augment_image(image, (1, 2, k)).tobytes() for k in range(50)}) > 45


def test_copies_if_all_operations_are_off(image):
    result = augment_image(image, 0, **NOTHING)
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


def test_flips_horizontally_half_of_the_time(image):
    flips = 0
    for seed in range(1000):
        result = augment_image(image, seed, **{**NOTHING, "flip_probability": 0.5})
        mirrored = np.fliplr(image)
        flips += np.array_equal(result, mirrored)
        assert np.array_equal(result, image) or np.array_equal(result, mirrored)
    assert abs(flips - 500) < 4 * np.sqrt(1000 * 0.25)


@pytest.mark.parametrize("pad", [3, 10, 30])  # 30 is wider than the picture
def test_crops_are_uniform_windows_of_the_padded_image(image, pad):
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    windows = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            windows[padded[top : top + height, left : left + width].tobytes()] = (top, left)
    seeds = 3000
    found = [
        windows[augment_image(image, seed, **{**NOTHING, "pad": pad}).tobytes()] for seed in range(seeds)
    ]
    if pad != 30:  # there, many windows hold nothing of the image and look the same
        for axis in (0, 1):
            counts = np.bincount([place[axis] for place in found], minlength=2 * pad + 1)
            expected = seeds / (2 * pad + 1)
            assert ((counts - expected) ** 2 / expected).sum() < 2 * pad + 6 * np.sqrt(4 * pad)  # chi-square


def test_erased_color_becomes_clips_mean_after_normalizing():
    normalized = (ERASE_COLOR / 255 - IMAGE_MEAN) / IMAGE_STD
    np.testing.assert_allclose(normalized, IMAGE_MEAN, atol=0.5 / 255 / min(IMAGE_STD))


def test_erasing_fills_one_rectangle_and_nothing_else(image):
    erased = 0
    for seed in range(400):
        result = augment_image(image, seed, **{**NOTHING, "erase_probability": 0.5})
        changed = (result != image).any(-1)
        if changed.any():
            erased += 1
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert (result[changed] == ERASE_COLOR).all()
    assert abs(erased - 200) < 4 * np.sqrt(400 * 0.25)


def test_erased_boxes_have_the_stated_area_aspect_and_place():
    size, rng = (1000, 1000), np.random.default_rng(0)
    boxes = np.array([erase_box(rng, size) for _ in range(4000)])
    top, left, height, width = boxes.T
    area, aspect = height * width / 1e6, height / width
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 1000).all() and (left + width <= 1000).all()
    assert (height < 1000).all() and (width < 1000).all()
    assert area.min() > 0.019 and area.max() < 0.402
    assert aspect.min() > 0.29 and aspect.max() < 3.4
    # Log-uniform: the middle half of the logs lies between the quarters (0.3 x 11^(1/4) and 0.3 x 11^(3/4));
    # boxes of large area and extreme aspect do not fit and are drawn again, so look at the small ones only.
    small = aspect[area < 0.2]
    np.testing.assert_allclose(
        np.quantile(small, [0.25, 0.5, 0.75]), 0.3 * 11 ** np.array([0.25, 0.5, 0.75]), rtol=0.1
    )
    np.testing.assert_allclose(np.quantile(area, 0.5), 0.21, atol=0.02)
    place = top / (1000 - height)
    np.testing.assert_allclose(np.quantile(place, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.04)


def test_erased_boxes_of_a_training_picture_have_the_published_distribution():
    """Area uniform, log of the aspect uniform, given that the box is lower than 384 and narrower than 128."""
    count, parts = 4000, 4
    area, log_aspect = np.linspace(0.02, 0.4, 400), np.linspace(np.log(0.3), np.log(3.3), 400)
    shares, logs = (grid.ravel() for grid in np.meshgrid(area, log_aspect))
    pixels = 384 * 128 * shares
    # A side is rounded to whole pixels before it is compared.
    fits = (np.sqrt(pixels * np.exp(logs)) < 383.5) & (np.sqrt(pixels / np.exp(logs)) < 127.5)
    assert 0.5 < fits.mean() < 0.99  # else this would tell nothing
    rng = np.random.default_rng(1)
    found = [erase_box(rng, (384, 128)) for _ in range(count)]
    _, _, height, width = np.array(found).T
    edges = [np.linspace(low, high, parts + 1) for low, high in ((0.02, 0.4), np.log([0.3, 3.3]))]
    edges = [np.concatenate([[-np.inf], inner[1:-1], [np.inf]]) for inner in edges]
    count_in = lambda *values: np.histogram2d(*values, bins=edges)[0].ravel()  # noqa: E731
    expected = count_in(shares[fits], logs[fits]) * count / fits.sum()
    counted = count_in(height * width / (384 * 128), np.log(height / width))
    assert counted[expected == 0].sum() == 0
    expected, counted = expected[expected > 0], counted[expected > 0]
    freedom = len(expected) - 1
    chi_square = ((counted - expected) ** 2 / expected).sum()
    assert freedom - 4 * np.sqrt(2 * freedom) < chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_the_defaults_are_the_published_ones():
    defaults = {name: p.default for name, p in inspect.signature(augment_image).parameters.items()}
    published = {
        "flip_probability": 0.5,
        "pad": 10,
        "erase_probability": 0.5,
        "erase_area": (0.02, 0.4),
        "erase_aspect": (0.3, 3.3),
    }
    assert {name: defaults[name] for name in published} == published


def test_the_order_is_flip_then_pad_and_crop_then_erase(image):
    """Every result is a window of the padded picture or of its mirror image, with one box on top of both the
    picture and the padding."""
    pad, height, width = 4, *image.shape[:2]
    views = [np.pad(x, ((pad, pad), (pad, pad), (0, 0))) for x in (image, image[:, ::-1])]
    boxed_padding = combinations = 0
    for seed in range(60):
        result = augment_image(image, seed, pad=pad, erase_probability=1.0)
        box = (result == ERASE_COLOR).all(-1)
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        fits = [
            (mirrored, top, left)
            for mirrored, view in enumerate(views)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            if np.array_equal(view[top : top + height, left : left + width][~box], result[~box])
        ]
        assert len(fits) == 1, seed
        mirrored, top, left = fits[0]
        boxed_padding += not views[mirrored][top : top + height, left : left + width][box].all()
        combinations |= 1 << mirrored
    assert boxed_padding > 5 and combinations == 3


def test_writes_to_out(image):
    batch = np.full((3, *image.shape), 77, np.uint8)
    for seed in range(30):
        expected = augment_image(image, seed)
        assert augment_image(image, seed, out=batch[1]) is not None
        np.testing.assert_array_equal(batch[1], expected)
        assert (batch[[0, 2]] == 77).all()
    mirrored = image[:, ::-1]  # not contiguous
    np.testing.assert_array_equal(augment_image(mirrored, 3), augment_image(mirrored.copy(), 3))


def test_returns_none_if_no_box_fits():
    assert erase_box(np.random.default_rng(0), (10, 10), area=(2.0, 3.0)) is None


def test_augments_a_single_pixel():
    image = np.full((1, 1, 3), 9, np.uint8)
    assert augment_image(image, 0).shape == (1, 1, 3)


def test_turning_one_operation_off_keeps_the_others(image):
    for seed in range(20):
        whole = augment_image(image, seed, erase_probability=1.0)
        kept = augment_image(image, seed, erase_probability=0.0)
        same = (whole == kept).all(-1)
        assert same.any() and (whole[~same] == ERASE_COLOR).all()
