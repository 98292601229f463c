"""Reads the photos and descriptions to adapt to; neither has labels."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from tpr_jax.data.batches import decode_all
from tpr_jax.data.images.read import Crop
from tpr_jax.data.text_files import read_text
from tpr_jax.errors import UserError
from tpr_jax.search.index import store
from tpr_jax.search.index.gallery import find_gallery
from tpr_jax.utils.plural import counted

MIN_ROWS = 2  # photos, and texts, between which labels can be distributed
MAX_PHOTOS, MAX_TEXTS = 4096, 8192  # the labels are a table of this size


class Photos(NamedTuple):
    """Decoded photos.

    Attributes:
      pixels: the photos, at the model's size.
      found: how many there are at the source.
      unreadable: (file, reason) of those that cannot be read, and of other files.
    """

    pixels: UInt8[np.ndarray, "n h w 3"]
    found: int
    unreadable: list[tuple[str, str]]


def photo_sources(source: str | os.PathLike) -> tuple[list[str | Crop], list[tuple[str, str]]]:
    """Returns the photos of a folder, a table, or an index of `search`, and (file, reason) of other files.

    Raises:
      UserError: the source does not exist, cannot be read, or has no photos.
    """
    if (Path(source) / store.INFO_FILE).is_file():
        index = store.open_index(source)
        rows = zip(index.table["path"].to_pylist(), store.boxes(index.table), strict=True)
        # A person of a video is a crop of its own; the box is that in the video's frame.
        return [
            _source(Path(index.info["photos"]) / path, None if store.is_crop(source, file) else box)
            for path, box in rows
            for file in [Path(index.info["photos"]) / path]
        ], []
    gallery = find_gallery(source)
    return [_source(gallery.root / photo.path, photo.box) for photo in gallery.photos], gallery.not_photos()


def _source(file: Path, box: tuple[int, int, int, int] | None) -> str | Crop:
    return str(file) if box is None else Crop(str(file), *box)


def read_photos(source: str | os.PathLike, image_size: tuple[int, int], seed: int) -> Photos:
    """Reads the photos, or as many of them as fit, drawn by the seed.

    Raises:
      UserError: as for `photo_sources`, or fewer than two photos can be read.
    """
    sources, skipped = photo_sources(source)
    chosen = [sources[i] for i in draw(len(sources), MAX_PHOTOS, seed)]
    bad: dict[int, str] = {}
    pixels = decode_all(chosen, image_size, progress=True, bad=bad)
    kept = ~np.isin(np.arange(len(chosen)), list(bad))
    if kept.sum() < MIN_ROWS:
        reason = f": {bad[min(bad)]}" if bad else ""
        raise UserError(
            f"--photos {source}: {counted(int(kept.sum()), 'photo')} can be read, and {MIN_ROWS} are needed"
            f"{reason}"
        )
    unreadable = [*skipped, *((str(chosen[i]), bad[i]) for i in sorted(bad))]
    return Photos(pixels[kept], len(sources), unreadable)


def read_texts(file: str | os.PathLike, seed: int) -> list[str]:
    """Reads the descriptions of a text file, one a line, or as many as fit, drawn by the seed.

    Empty lines and repetitions are left out.

    Raises:
      UserError: the file cannot be read, or has fewer than two descriptions.
    """
    if Path(file).is_dir():
        raise UserError(f"--texts {file}: is a folder; give a text file with one description a line")
    if not Path(file).exists():
        raise UserError(f"--texts {file}: no such file; give a text file with one description a line")
    lines = (line.strip() for line in read_text(file).splitlines())
    texts = list(dict.fromkeys(line for line in lines if line))
    if len(texts) < MIN_ROWS:
        raise UserError(
            f"--texts {file}: has {counted(len(texts), 'description')}, and {MIN_ROWS} are needed, one a line"
        )
    return [texts[i] for i in draw(len(texts), MAX_TEXTS, seed)]


def draw(count: int, most: int, seed: int) -> Sequence[int]:
    """Returns at most `most` of `count` rows in ascending order."""
    if count <= most:
        return range(count)
    return np.sort(np.random.default_rng((seed, count)).choice(count, most, replace=False)).tolist()
