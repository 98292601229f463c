"""Prepared records, from a disk or a bucket, as the records that training takes."""

import functools
import os

import numpy as np

from tpr_jax.data.annotations import SPLITS
from tpr_jax.data.images.read import Stored
from tpr_jax.data.records import Records
from tpr_jax.data.tfds_builders import common
from tpr_jax.errors import UserError

import tensorflow as tf  # isort: skip
import tensorflow_datasets as tfds  # isort: skip
from google.protobuf.message import DecodeError  # isort: skip  comes with TensorFlow


# A data set whose pictures take less than this is held in memory, as they are stored: encoded.
HOLD_BYTES = 2**30

_BEFORE, _AROUND = 12, 16  # bytes of a TFRecord before its data, and in all besides: lengths and checksums


def load_all(data_dir: str, dataset: str, kind: str) -> dict[str, Records]:
    """Every split, in the order train, val, test.

    The shards are read once, one after the other, which is what a bucket (gs://...) is quick at. From then on
    any picture is at hand, in memory, or of a data set above HOLD_BYTES by its place in its shard: so order,
    resumption and every random choice are those of the files. The rows come in the annotation's order, so the
    batches of `original` are those of the folder to the last bit, and those of `sized` are too, at 384 x 128.

    Args:
      data_dir: what `--data_dir` was when the records were written.
      kind: the builder's config, `sized` or `original`.

    Raises:
      UserError: no such records there, or an older version of them, or damaged ones, or a bucket that cannot
        be read.
    """
    folder = os.path.join(data_dir, dataset, kind, common.VERSION)
    try:
        there = tf.io.gfile.exists(os.path.join(folder, "dataset_info.json"))
    except tf.errors.OpError as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: cannot be read ({why}): see that config.data_dir is right, and that this machine's "
            "account may read the bucket"
        ) from error
    if not there:
        raise UserError(
            f"{folder}: no prepared records: write them with python -m tpr_jax.data.tfds_builders {dataset} "
            f"--config {kind} --manual_dir DIR --data_dir {data_dir}"
        )
    info = tfds.builder_from_directory(folder).info
    names = sorted(info.splits, key=SPLITS.index)
    hold = sum(info.splits[name].num_bytes for name in names) < HOLD_BYTES
    return {name: _of_split(info.splits[name], f"{dataset}:{name}", hold) for name in names}


def _of_split(split: tfds.core.SplitInfo, name: str, hold: bool) -> Records:
    rows = sorted(row for path in split.filepaths for row in _rows(os.fspath(path), name, hold))
    if [row for row, *_ in rows] != list(range(split.num_examples)):
        raise UserError(f"{name}: {len(rows)} records of {split.num_examples}: write them again")
    _, files, captions, pids, pictures = zip(*rows, strict=True)
    return Records(
        name=name,
        image_paths=list(files),
        captions=list(captions),
        pids=np.array(pids, np.int64),
        stored=[Stored(f"{name}/{file}", data) for file, data in zip(files, pictures, strict=True)],
    )


def _rows(path: str, name: str, hold: bool):
    """(row, file, captions, pid, its picture's bytes or what reads them) of each record of a shard."""
    at = 0
    try:
        for record in tf.data.TFRecordDataset(path, buffer_size=8 * 2**20).as_numpy_iterator():
            fields = _fields(record)
            file = fields["file"].bytes_list.value[0].decode()
            captions = [text.decode() for text in fields["captions"].bytes_list.value]
            row, pid = (fields[key].int64_list.value[0] for key in ("row", "pid"))
            read = functools.partial(_picture_at, path, at + _BEFORE, len(record), f"{name}/{file}")
            yield row, file, captions, pid, _picture(fields) if hold else read
            at += len(record) + _AROUND
    except (tf.errors.OpError, DecodeError) as error:
        why = str(error).split(" [Op:")[0]
        raise UserError(f"{path}: cannot be read ({why}): write the records again") from error


def _picture_at(path: str, start: int, length: int, name: str) -> bytes:
    """The picture of one record: from a bucket, one request."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(start)
            return _picture(_fields(file.read(length)))
    except (tf.errors.OpError, DecodeError) as error:
        raise UserError(f"{name}: cannot be read from {path}: see that it is as it was") from error


def _fields(record: bytes):
    return tf.train.Example.FromString(record).features.feature


def _picture(fields) -> bytes:
    return fields["image"].bytes_list.value[0]
