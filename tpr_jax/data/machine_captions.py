"""Reads the annotations of large sets whose captions a model wrote; each image is an identity of its own."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tpr_jax.data.clean_text import is_empty
from tpr_jax.data.text_files import InvalidRecord, json_pairs
from tpr_jax.errors import UserError
from tpr_jax.utils.notices import print_once
from tpr_jax.utils.plural import counted

# Files beside the annotation that are read with it.
LUPERSON_FILES = "T[ds]-*.json"  # the captions of two models, each from a static and a dynamic instruction
WEBPERSON_SHARDS = "train-*.parquet"
_WEBPERSON_CAPTIONS = ("caption1", "caption2")
_SHARD_NAME = re.compile(r"train-(\d+)-of-(\d+)")
_ROWS = 4096  # of a shard that are in memory at a time

_Numbered = Iterator[tuple[int, dict | InvalidRecord]]


def read_luperson_mllm(path: str) -> _Numbered:
    """Reads MLLM4Text's captions of LUPerson: files of one object {image: caption} in the same folder.

    An image has the captions of all files. As in the authors' code, the files' names for an image may be in
    different folders, and the last part of the path counts. Captions with an unfilled place of a template
    ("[hair description]") are left out: the authors replace them by others of the same image.

    Args:
      path: one of the files.

    Yields:
      (number of the image, its fields `file_path`, `captions` and `id`).

    Raises:
      UserError: a file cannot be read or is not a JSON object.
    """
    captions: dict[str, list] = {}
    for file in sorted(Path(path).parent.glob(LUPERSON_FILES)):
        for name, caption in json_pairs(file):
            captions.setdefault(name.rpartition("/")[2], []).append(caption)
    yield from _usable(captions.items(), path, _is_template)


def read_ham_pedes(path: str) -> _Numbered:
    """Reads HAM-PEDES' captions of SYNTH-PEDES: one object {image: [caption, caption]}.

    Yields:
      (number of the image, its fields `file_path`, `captions` and `id`).

    Raises:
      UserError: the file cannot be read or is not a JSON object.
    """
    pairs = json_pairs(path)
    yield from _usable(((name, v if isinstance(v, list) else [v]) for name, v in pairs), path)


def read_webperson(path: str) -> _Numbered:
    """Reads WebPerson's captions from its Parquet files, without the images in them.

    Args:
      path: one of the files `train-*.parquet`; all files beside it are read.

    Yields:
      (number of the image, its fields `file_path`, `captions` and `id`).

    Raises:
      UserError: a file cannot be read or lacks a column.
    """
    yield from _usable(_webperson_rows(path), path)


def webperson_batches(
    path: str | os.PathLike, columns: tuple[str, ...], size: int = _ROWS
) -> Iterator[list[dict]]:
    """Yields the rows of a Parquet file, at most `size` at a time.

    Raises:
      UserError: the file cannot be read or lacks a column.
    """
    with _parquet_file(path) as file:
        if missing := [name for name in columns if name not in file.schema_arrow.names]:
            raise UserError(f"{path}: has no column '{missing[0]}': get the published files")
        for batch in file.iter_batches(size, columns=list(columns)):
            yield batch.to_pylist()


def webperson_rows(path: str | os.PathLike) -> int:
    """Returns the number of rows of a Parquet file.

    Raises:
      UserError: the file cannot be read.
    """
    with _parquet_file(path) as file:
        return file.metadata.num_rows


@contextlib.contextmanager
def _parquet_file(path: str | os.PathLike):
    import pyarrow  # half a second, which the other data sets need not wait for
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read ({reason}): download it again") from None


def webperson_shards(path: str | os.PathLike) -> list[Path]:
    """Returns all Parquet files in the folder of `path`, and prints a note if some are missing."""
    shards = sorted(Path(path).parent.glob(WEBPERSON_SHARDS))
    totals = {match[2] for shard in shards if (match := _SHARD_NAME.match(shard.name))}
    if len(totals) == 1 and len(shards) < (total := int(totals.pop())):
        print_once(f"{Path(path).parent}: holds {len(shards)} of {total} files {WEBPERSON_SHARDS}")
    return shards


def _webperson_rows(path: str) -> Iterator[tuple[object, list]]:
    for shard in webperson_shards(path):
        for rows in webperson_batches(shard, ("image_path", *_WEBPERSON_CAPTIONS)):
            for row in rows:
                yield row["image_path"], [row[name] for name in _WEBPERSON_CAPTIONS if row[name] is not None]


def _usable(
    images: Iterable[tuple[object, list]], path: str, is_useless: Callable[[str], bool] = lambda text: False
) -> _Numbered:
    """Yields the records of images, without useless captions, and without images that have no other."""
    dropped = without = 0
    for number, (name, captions) in enumerate(images):
        usable = [c for c in captions if not isinstance(c, str) or not (is_empty(c) or is_useless(c))]
        dropped += len(captions) - len(usable)
        if usable:
            yield number, {"file_path": name, "captions": usable, "id": number}
        else:
            without += 1
    if dropped or without:
        print_once(
            f"{path}: left out {counted(dropped, 'caption')} that are empty or an unfilled template, and "
            f"{counted(without, 'image')} without a caption"
        )


def _is_template(caption: str) -> bool:
    """Returns whether a caption has a place that the model did not fill, by the authors' criterion."""
    return "description]" in caption or "<" in caption
