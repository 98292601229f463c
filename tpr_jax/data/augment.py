"""Augmentation of a training picture on uint8, every choice a function of the example's seed."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD


def erase_color(
    mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD
) -> UInt8[np.ndarray, "3"]:
    """Returns the color that erased pixels get: the one that normalizing turns into the mean itself.

    The reference erases after normalizing, and writes the mean there. Here normalizing happens on the device,
    after augmentation, so the color is exact to half a level of 255.
    """
    return np.rint(255 * (np.multiply(mean, std) + mean)).clip(0, 255).astype(np.uint8)


ERASE_COLOR = erase_color()  # of CLIP's own mean and standard deviation


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
    """Flip, pad by `pad` pixels of zeros and crop back to the size at random, erase a rectangle.

    A new array of the same size, or `out`, which is C-contiguous; `image` is not changed. The recipe of
    CUHK-PEDES' methods (IRRA, CVPR 2023, section 4); `erase_area` is a share of the picture, `erase_aspect`
    height / width (Zhong et al., 2020, arXiv 1708.04896), `color` what it is filled with. `seed` is
    whatever `np.random.default_rng` takes.
    """
    rng = np.random.default_rng(seed)
    # All four are drawn whether used or not, so that switching one part off leaves the others as they were.
    flip, erase = rng.random(2)
    top, left = rng.integers(0, 2 * pad + 1, 2)
    result = np.empty_like(image, order="C") if out is None else out
    # A pixel as one item of three bytes: NumPy copies these several times faster than three items.
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
    """A rectangle (top, left, height, width) within `size` = (height, width), or None if no try fitted.

    The area is uniform, the aspect height / width log-uniform, and the place uniform.
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


def _pixels(image: np.ndarray) -> np.ndarray:
    """[..., 3] uint8 seen as [...] items of three bytes."""
    return image.view("V3")[..., 0]


def _shift(pixels: np.ndarray, down: int, right: int, target: np.ndarray) -> None:
    """Puts into `target`, all zeros, what it shows of `pixels`: its corner lies at (`down`, `right`)."""
    height, width = pixels.shape
    top, bottom = max(down, 0), min(height, height + down)
    left, end = max(right, 0), min(width, width + right)
    if top < bottom and left < end:  # a pad wider than the picture may leave nothing of it
        target[top - down : bottom - down, left - right : end - right] = pixels[top:bottom, left:end]
