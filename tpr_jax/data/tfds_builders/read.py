"""Prepared records, from a disk or a bucket, as the records that training takes."""

import os

import numpy as np

from tpr_jax.data.annotations import SPLITS
from tpr_jax.data.images import Stored
from tpr_jax.data.records import Records
from tpr_jax.data.tfds_builders import common
from tpr_jax.errors import UserError

import tensorflow as tf  # isort: skip
import tensorflow_datasets as tfds  # isort: skip


def load_all(data_dir: str, dataset: str, kind: str) -> dict[str, Records]:
    """Every split, in the order train, val, test, its pictures in memory as they are stored: encoded.

    The shards are read once, one after the other, which is what a bucket (gs://...) is quick at; from then on
    any picture is at hand, so order, resumption and every random choice are those of the files. The rows come
    in the annotation's order, so the batches of `original` are those of the folder to the last bit, and those
    of `sized` are too, at 384 x 128.

    Args:
      data_dir: what `--data_dir` was when the records were written.
      kind: the builder's config, `sized` or `original`.

    Raises:
      UserError: no such records there, or an older version of them.
    """
    folder = os.path.join(data_dir, dataset, kind, common.VERSION)
    if not tf.io.gfile.exists(os.path.join(folder, "dataset_info.json")):
        raise UserError(
            f"{folder}: no prepared records: write them with python -m tpr_jax.data.tfds_builders {dataset} "
            f"--config {kind} --manual_dir DIR --data_dir {data_dir}"
        )
    builder = tfds.builder_from_directory(folder)
    names = sorted(builder.info.splits, key=SPLITS.index)
    return {name: _of_split(builder, name, f"{dataset}:{name}") for name in names}


def _of_split(builder: tfds.core.DatasetBuilder, split: str, name: str) -> Records:
    stored_as_bytes = {"image": tfds.decode.SkipDecoding()}
    one_by_one = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    rows = builder.as_dataset(split=split, decoders=stored_as_bytes, read_config=one_by_one)
    rows = sorted(rows.as_numpy_iterator(), key=lambda row: int(row["row"]))
    files = [row["file"].decode() for row in rows]
    return Records(
        name=name,
        image_paths=files,
        captions=[[text.decode() for text in row["captions"].tolist()] for row in rows],
        pids=np.array([row["pid"] for row in rows], np.int64),
        stored=[Stored(f"{name}/{file}", row["image"]) for file, row in zip(files, rows, strict=True)],
    )
