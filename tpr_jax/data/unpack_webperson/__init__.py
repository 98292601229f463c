"""Writes the images of WebPerson's Parquet files as files, which training reads in any order."""

import os
from pathlib import Path, PurePosixPath

from tpr_jax.data.annotations import annotation_path
from tpr_jax.data.datasets import DATASETS
from tpr_jax.data.image_paths import is_valid_path
from tpr_jax.data.machine_captions import webperson_batches, webperson_rows, webperson_shards
from tpr_jax.errors import UserError
from tpr_jax.utils import progress
from tpr_jax.utils.files import write_whole

_NAME = "webperson"
_ROWS = 256  # images that are in memory at a time


def unpack(data_dir: str | os.PathLike) -> tuple[int, int]:
    """Writes each image to `images/<image_path>`; those that exist are kept, so an interrupted call resumes.

    Args:
      data_dir: the folder that holds `data/train-*.parquet`.

    Returns:
      The numbers of images written and found.

    Raises:
      UserError: a file cannot be read or written, or a row is invalid.
    """
    shards = webperson_shards(annotation_path(_NAME, data_dir))
    written = found = 0
    with progress.show(sum(map(webperson_rows, shards)), "images") as bar:
        for shard in shards:
            number = 0
            for rows in webperson_batches(shard, ("image", "image_path"), _ROWS):
                for row in rows:
                    path = Path(data_dir, DATASETS[_NAME].images, _checked_name(row, shard, number))
                    if path.exists():
                        found += 1
                    else:
                        write_whole(path, _writer(_content(row, shard, number)))
                        written += 1
                    number += 1
                bar.update(len(rows))
    return written, found


def _writer(content: bytes):
    return lambda temporary: Path(temporary).write_bytes(content)


def _checked_name(row: dict, shard: Path, number: int) -> str:
    """Returns the image's path, which must not leave the folder."""
    name = row["image_path"]
    parts = PurePosixPath(name.replace("\\", "/")).parts if isinstance(name, str) else ()
    if not parts or not is_valid_path(name) or ".." in parts or parts[0] == "/" or ":" in parts[0]:
        raise UserError(
            f"{shard}: row {number}: column 'image_path' is {name!r}: must be a path within the folder"
        )
    return name


def _content(row: dict, shard: Path, number: int) -> bytes:
    image = row["image"]
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes) or not content:
        raise UserError(f"{shard}: row {number}: column 'image' holds no file: get the published files")
    return content
