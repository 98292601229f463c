"""Reads prepared TFDS records, from a disk or a bucket, as `Records` for training."""

import functools
import os
from collections.abc import Iterator

import numpy as np

from tpr_jax.data.annotations import SPLITS
from tpr_jax.data.images.read import Stored
from tpr_jax.data.records import Records
from tpr_jax.data.tfds_builders import common
from tpr_jax.errors import UserError

import tensorflow as tf  # isort: skip
import tensorflow_datasets as tfds  # isort: skip
from google.protobuf.message import DecodeError  # isort: skip  comes with TensorFlow


# A data set whose encoded images take less than this is kept in memory.
CACHE_BYTES = 2**30

_HEADER_BYTES, _FRAME_BYTES = 12, 16  # a TFRecord's length and checksums: before its data, and in total


def load_all(data_dir: str, dataset: str, kind: str) -> dict[str, Records]:
    """Reads every split, in the order train, val, test.

    Reads the shards once, sequentially, which is fast for a bucket (gs://...). After that, each image can be
    read at random, from memory or, for a data set above CACHE_BYTES, from its position in its shard. So the
    order, resuming and every random choice are the same as with files. The rows are in the annotation's
    order, so that batches of `original` equal those of the folder bit for bit, and those of `sized` do at 384
    x 128.

    Args:
      data_dir: the `--data_dir` that the records were written to.
      dataset: a key of `datasets.DATASETS`.
      kind: the builder's config, `sized` or `original`.

    Raises:
      UserError: there are no records, or only of an older version; or they are damaged; or the bucket cannot
        be read.
    """
    folder = os.path.join(data_dir, dataset, kind, common.VERSION)
    try:
        exists = tf.io.gfile.exists(os.path.join(folder, "dataset_info.json"))
    except tf.errors.OpError as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: cannot be read ({why}): check that config.data_dir is correct and that this "
            "machine's account may read the bucket"
        ) from error
    if not exists:
        raise UserError(
            f"{folder}: no prepared records: write them with python -m tpr_jax.data.tfds_builders {dataset} "
            f"--config {kind} --manual_dir DIR --data_dir {data_dir}"
        )
    info = tfds.builder_from_directory(folder).info
    names = sorted(info.splits, key=SPLITS.index)
    cache = sum(info.splits[name].num_bytes for name in names) < CACHE_BYTES
    return {name: _load_split(info.splits[name], f"{dataset}:{name}", cache) for name in names}


def _load_split(split: tfds.core.SplitInfo, name: str, cache: bool) -> Records:
    rows = sorted(row for path in split.filepaths for row in _read_shard(os.fspath(path), name, cache))
    if [row for row, *_ in rows] != list(range(split.num_examples)):
        raise UserError(f"{name}: {len(rows)} of {split.num_examples} records: write them again")
    _, files, captions, pids, images = zip(*rows, strict=True)
    return Records(
        name=name,
        image_paths=list(files),
        captions=list(captions),
        pids=np.array(pids, np.int64),
        stored=[Stored(f"{name}/{file}", data) for file, data in zip(files, images, strict=True)],
    )


def _read_shard(path: str, name: str, cache: bool) -> Iterator[tuple]:
    """Yields (row, file, captions, pid, image file or a function that reads it) of each record of a shard."""
    position = 0
    try:
        for record in tf.data.TFRecordDataset(path, buffer_size=8 * 2**20).as_numpy_iterator():
            fields = _fields(record)
            file = fields["file"].bytes_list.value[0].decode()
            captions = [text.decode() for text in fields["captions"].bytes_list.value]
            row, pid = (fields[key].int64_list.value[0] for key in ("row", "pid"))
            start = position + _HEADER_BYTES
            read = functools.partial(_read_image_at, path, start, len(record), f"{name}/{file}")
            yield row, file, captions, pid, _image(fields) if cache else read
            position += len(record) + _FRAME_BYTES
    except (tf.errors.OpError, DecodeError) as error:
        why = str(error).split(" [Op:")[0]
        raise UserError(f"{path}: cannot be read ({why}): write the records again") from error


def _read_image_at(path: str, start: int, length: int, name: str) -> bytes:
    """Reads the image file of one record; takes one request to a bucket."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(start)
            return _image(_fields(file.read(length)))
    except (tf.errors.OpError, DecodeError) as error:
        raise UserError(f"{name}: cannot be read from {path}: check that it was not changed") from error


def _fields(record: bytes):
    return tf.train.Example.FromString(record).features.feature


def _image(fields) -> bytes:
    return fields["image"].bytes_list.value[0]
