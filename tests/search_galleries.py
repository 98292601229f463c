"""Folders of photos for tests of the search."""

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = [(200, 30, 30), (30, 160, 40), (30, 50, 200), (220, 210, 40), (240, 240, 240), (15, 15, 15)]


def photos(folder: Path, count: int = 12, seed: int = 0, size: tuple[int, int] = (40, 20)) -> list[str]:
    """Writes images of two colors with some noise; returns their names, in order."""
    rng, names = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        top, bottom = rng.permutation(len(COLORS))[:2]
        pixels = np.empty((*size, 3))
        pixels[: size[0] // 2], pixels[size[0] // 2 :] = COLORS[top], COLORS[bottom]
        pixels = (pixels + rng.normal(0, 20, pixels.shape)).clip(0, 255).astype(np.uint8)
        names.append(f"{number:03d}.png")
        Image.fromarray(pixels).save(folder / names[-1])
    return names


def close(vectors, wanted) -> bool:
    """Returns whether float16 vectors equal these float32 ones up to rounding."""
    return bool(np.abs(np.asarray(vectors, np.float32) - np.asarray(wanted)).max() < 1e-3)
