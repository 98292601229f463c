"""Augments training images in uint8; every random choice is a function of the example's seed."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped, UInt8

from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD


def erase_color(
    mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD
) -> UInt8[np.ndarray, "3"]:
    """Returns the color of erased pixels, which normalization maps to the mean itself.

    The reference erases after normalization and writes the mean there. Here the device normalizes after
    augmentation, so the color is exact to half a level of 255.
    """
    return np.rint(255 * (np.multiply(mean, std) + mean)).clip(0, 255).astype(np.uint8)


ERASE_COLOR = erase_color()  # for CLIP's own mean and standard deviation


def augment_image(
    image: UInt8[np.ndarray, "h w 3"],
    seed: int | Sequence[int],
    *,
    flip_probability: float = 0.5,
    pad: int = 10,
    erase_probability: float = 0.5,
    erase_area: tuple[float, float] = (0.02, 0.4),
    erase_aspect: tuple[float, float] = (0.3, 3.3),
    color: UInt8[np.ndarray, "3"] = ERASE_COLOR,
    out: UInt8[np.ndarray, "h w 3"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Flips an image, pads it with zeros and crops it back at random, and erases a rectangle.

    This is the recipe of the methods for CUHK-PEDES (IRRA, CVPR 2023, section 4), with random erasing of
    Zhong et al. (2020, arXiv 1708.04896).

    Args:
      image: is not changed.
      seed: any argument of `np.random.default_rng`.
      flip_probability: the probability of a horizontal flip.
      pad: pixels on each side.
      erase_probability: the probability of erasing a rectangle.
      erase_area: range of the erased fraction of the image.
      erase_aspect: range of the erased rectangle's height / width.
      color: the erased pixels' color.
      out: a C-contiguous array for the result; by default a new one.

    Returns:
      The augmented image.
    """
    rng = np.random.default_rng(seed)
    # All four are always drawn, so that turning one operation off does not change the others.
    flip, erase = rng.random(2)
    top, left = rng.integers(0, 2 * pad + 1, 2)
    result = np.empty_like(image, order="C") if out is None else out
    # One item of three bytes per pixel: NumPy copies these several times faster than three items.
    pixels, target = _pixels(np.ascontiguousarray(image)), _pixels(result)
    result.fill(0)
    pixels = pixels[:, ::-1] if flip < flip_probability else pixels
    _shift(pixels, int(top) - pad, int(left) - pad, target)
    if erase < erase_probability:
        box = erase_box(rng, image.shape[:2], erase_area, erase_aspect)
        if box is not None:
            y, x, height, width = box
            target[y : y + height, x : x + width] = _pixels(color)
    return result


def erase_box(
    rng: np.random.Generator,
    size: tuple[int, int],
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 3.3),
    tries: int = 10,
) -> tuple[int, int, int, int] | None:
    """Draws a rectangle within an image.

    Args:
      rng: the random generator.
      size: height and width of the image.
      area: range of the uniformly drawn fraction of the image.
      aspect: range of the log-uniformly drawn height / width.
      tries: number of attempts.

    Returns:
      (top, left, height, width) at a uniformly drawn position, or None if no attempt fits into the image.
    """
    rows, columns = size
    for _ in range(tries):
        pixels = rows * columns * rng.uniform(*area)
        ratio = np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1])))
        height, width = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        if height < rows and width < columns:
            top = int(rng.integers(0, rows - height + 1))
            left = int(rng.integers(0, columns - width + 1))
            return top, left, height, width
    return None


def _pixels(image: UInt8[np.ndarray, "*n 3"]) -> Shaped[np.ndarray, "*n"]:
    """Views [..., 3] uint8 as [...] items of three bytes."""
    return image.view("V3")[..., 0]


def _shift(
    pixels: Shaped[np.ndarray, "h w"], down: int, right: int, target: Shaped[np.ndarray, "h w"]
) -> None:
    """Copies the window of `pixels` with its corner at (`down`, `right`) to `target`, which is all zeros."""
    height, width = pixels.shape
    top, bottom = max(down, 0), min(height, height + down)
    left, end = max(right, 0), min(width, width + right)
    if top < bottom and left < end:  # with a pad wider than the image, the window may be empty
        target[top - down : bottom - down, left - right : end - right] = pixels[top:bottom, left:end]
