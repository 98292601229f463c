"""Scenes of the domain `hard`: what each condition does to an image."""

import numpy as np
import pytest

from tpr_jax.data.mini_pedes import hard_scene
from tpr_jax.data.mini_pedes.captions import part_shares
from tpr_jax.data.mini_pedes.hard_scene import (
    CONDITIONS,
    hard_view,
    render_hard,
    sample_conditions,
    take_hard_photo,
)
from tpr_jax.data.mini_pedes.wardrobe import sample_person

SIZE = (192, 64)


def _scene(seed: int) -> np.ndarray:
    """Returns squares of random colors: edges and colors everywhere."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.uniform(20, 230, (15, 5, 3)), np.ones((16, 16, 1)))


def _photos(*conditions: str) -> np.ndarray:
    """Returns photos of twelve scenes, float [12, 192, 64, 3]."""
    rngs = [np.random.default_rng([1, seed]) for seed in range(12)]
    return np.stack(
        [take_hard_photo(rng, _scene(s), list(conditions), 1.0, SIZE) for s, rng in enumerate(rngs)]
    ).astype(float)


def _sharpness(photos: np.ndarray) -> np.ndarray:
    """Returns the steps at the sharpest edges of each photo, between rows and between columns [2, n]."""
    return np.stack([np.quantile(np.abs(np.diff(photos, axis=a)), 0.99, axis=(1, 2, 3)) for a in (1, 2)])


@pytest.fixture(scope="module")
def plain():
    return _photos()


def test_a_photo_without_conditions_shows_the_scene(plain):
    for seed, photo in enumerate(plain):
        color = _scene(seed)[8 + 16 * 7, 8 + 16 * 2]  # the middle of a square, of the canvas and of the photo
        row, column = round((8 + 16 * 7) * 0.8), round((8 + 16 * 2) * 0.8)
        assert np.abs(photo[row - 2 : row + 2, column - 2 : column + 2].mean((0, 1)) - color).max() < 4


def test_night_is_dark_with_a_color_cast_and_noise(plain):
    night = _photos("night")
    assert (night.mean((1, 2, 3)) < 0.6 * plain.mean((1, 2, 3))).all()
    assert (night.mean((1, 2, 3)) > 0.15 * plain.mean((1, 2, 3))).all()  # but not black
    ratios = night.mean((1, 2)) / plain.mean((1, 2))
    assert (ratios.max(1) / ratios.min(1) > 1.2).all()
    flat = [photo[83:93, 27:37] for photo in night]  # the inside of one square
    assert min((patch.std((0, 1)) / patch.mean()).mean() for patch in flat) > 0.03


def test_blur_and_few_pixels_remove_sharp_edges(plain):
    blurred = _sharpness(_photos("blurred")) / _sharpness(plain)
    assert (blurred.min(0) < 0.35).all()  # motion is along one axis
    assert 0.2 < (blurred.max(0) < 0.35).mean() < 0.9
    assert (_sharpness(_photos("low resolution")) < 0.8 * _sharpness(plain)).all()


def test_low_resolution_is_restored_from_few_pixels():
    """Rows of a photo of at most 64 pixels are combinations of 64 others, up to rounding."""
    for photo in _photos("low resolution"):
        values = np.linalg.svd(photo[:, :, 1], compute_uv=False)
        spectrum = np.abs(np.fft.rfft(photo[:, :, 1] - photo[:, :, 1].mean(0), axis=0)).mean(1)
        assert spectrum[48:].mean() < 0.1 * spectrum[1:33].mean()
        assert values[22:].max() < 0.02 * values[0]


def test_jpeg_leaves_blocks(plain):
    def blocks(photos):
        """Returns how much larger the steps at the edges of blocks of 8 pixels are than the others."""
        steps = np.abs(np.diff(photos.mean(3), axis=1)).mean((0, 2))
        at_edges = np.arange(len(steps)) % 8 == 7
        return steps[at_edges].mean() / steps[~at_edges].mean()

    assert blocks(_photos("jpeg")) > 1.3 * blocks(plain)


def test_conditions_have_their_shares():
    drawn = [sample_conditions(np.random.default_rng([2, i])) for i in range(3000)]
    for name, probability in CONDITIONS.items():
        assert np.mean([name in conditions for conditions in drawn]) == pytest.approx(probability, abs=0.03)
    assert 0.18 < np.mean([not conditions for conditions in drawn]) < 0.28


def _render(seed: int, conditions: list[str], shows_enough=lambda parts: True) -> dict:
    rng = np.random.default_rng([3, seed])
    person, view = sample_person(rng, "mini"), hard_view(rng, seed)
    return render_hard(person, view, conditions, rng, SIZE, shows_enough)


def _visible(example: dict) -> float:
    return 1 - part_shares(example["parts"])["background"]


def test_occlusion_hides_a_part_of_the_person():
    examples = [(_render(seed, []), _render(seed, ["occluded"])) for seed in range(8)]
    hidden = [1 - _visible(occluded) / _visible(free) for free, occluded in examples]
    assert min(hidden) > 0.01 and np.mean(hidden) > 0.2
    for free, occluded in examples:
        assert occluded["hard"] == ["occluded"] and free["hard"] == []
        changed = np.abs(free["image"].astype(int) - occluded["image"]).max(2) > 25
        assert changed.mean() > 0.05


def test_nothing_hides_what_the_captions_have_to_name():
    for seed in range(4):
        free = _visible(_render(seed, []))
        most = 0.98 * free
        kept = _render(seed, ["crowded", "occluded"], lambda parts, most=most: (parts > 0).mean() >= most)
        assert _visible(kept) >= most
        never = _render(seed, ["occluded"], lambda parts: False)
        assert never["hard"] == [] and _visible(never) == free


def test_a_crowd_is_one_or_two_people_more(monkeypatch):
    counts = {}
    paint = hard_scene.paint_person
    for seed in range(8):
        for conditions in ([], ["crowded"]):
            drawn = []

            def counting(*args, drawn=drawn):
                drawn.append(args)
                return paint(*args)

            monkeypatch.setattr(hard_scene, "paint_person", counting)
            _render(seed, conditions)
            counts.setdefault(bool(conditions), []).append(len(drawn))
    assert counts[False] == [1] * 8 and set(counts[True]) == {2, 3}
