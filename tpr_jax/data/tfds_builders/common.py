"""What the builders share: their two configs, the features, and records -> examples.

    tfds build tpr_jax/data/tfds_builders/rstp_reid.py --manual_dir DIR --data_dir OUT
    python -m tpr_jax.data.tfds_builders rstp_reid --manual_dir DIR --data_dir OUT

The second does without apache-beam and mlcroissant, without which the program `tfds` of TFDS 4.9.10 does not
start. DIR is the data set's folder, as `python -m tpr_jax.data.check` takes it; OUT may be a bucket
(gs://...). An example is one picture: `image`, `captions` (all of it), `pid` (as the annotation numbers it),
`file` (its path in DIR), `row` (its place among those of its split in the annotation: TFDS shuffles).
Training from them: `--config.source=tfds_sized --config.data_dir=OUT`, or `tfds_original`; see `read.py`.

Config `sized`, the default, holds the pictures as training reads them: upright, RGB, 384 x 128, PNG, so not a
bit is lost. Config `original` holds each file's bytes as they are, in `image` of type string, because there
are grayscale, CMYK and turned JPEGs among them that TensorFlow does not decode right, as
`images.read.read_image` does.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from tpr_jax.data.images.read import read_image, resize
from tpr_jax.data.prefetch import tensorflow
from tpr_jax.data.records import Records, image_sources, load_all
from tpr_jax.errors import UserError

try:
    if tensorflow() is None:  # imports it first, without its greetings
        raise ImportError("tensorflow")
    import tensorflow_datasets as tfds
except ImportError as error:
    raise UserError(
        "TensorFlow Datasets needs packages that are not installed or do not import "
        f"({error.name or error}): pip install 'tpr-jax[tensorflow]', or from a clone "
        "pip install -r requirements-tensorflow.txt, on Python 3.13 or older"
    ) from error

SIZED = (384, 128)
VERSION = "1.1.0"


@dataclasses.dataclass(eq=False)
class PersonConfig(tfds.core.BuilderConfig):
    """`image_size` is (height, width) in pixels, or () for the files as they are."""

    image_size: tuple[int, ...] = ()


def configs() -> list[PersonConfig]:
    """The first is the default."""
    return [
        PersonConfig(name="sized", description="384 x 128, RGB, upright, lossless", image_size=SIZED),
        PersonConfig(name="original", description="the files' bytes as they are"),
    ]


def dataset_info(builder, description: str, homepage: str, citation: str) -> tfds.core.DatasetInfo:
    """The features of a builder's config."""
    size = tuple(builder.builder_config.image_size)
    picture = tfds.features.Image(shape=(*size, 3), encoding_format="png") if size else bytes_feature()
    features = {
        "image": picture,
        "captions": tfds.features.Sequence(tfds.features.Text()),
        "pid": tfds.features.Scalar(np.int64),
        "file": tfds.features.Text(),
        "row": tfds.features.Scalar(np.int64),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        homepage=homepage,
        citation=citation,
    )


def bytes_feature():
    """A string tensor: the bytes of a file."""
    return tfds.features.Scalar(np.object_)


def split_generators(builder, dl_manager, dataset: str) -> dict:
    """What gives the examples of each split that the folder's annotation has.

    By Apache Beam where the builder has `by_beam` set, as `python -m tpr_jax.data.tfds_builders --beam` does.
    """
    folder = os.fspath(dl_manager.manual_dir)
    size = tuple(builder.builder_config.image_size)
    splits = load_all(folder, dataset)
    make = by_beam if getattr(builder, "by_beam", False) else examples
    return {name: make(rows(records, folder), size) for name, records in splits.items()}


def rows(records: Records, folder: str) -> list[dict]:
    """All of each example but its picture, which is still `source` at `path`."""
    return [
        {
            "source": source,
            "path": path,
            "captions": captions,
            "pid": int(pid),
            "file": os.path.relpath(path, folder),
            "row": row,
        }
        for row, (source, path, captions, pid) in enumerate(
            zip(image_sources(records), records.image_paths, records.captions, records.pids, strict=True)
        )
    ]


def example(row: dict, image_size: tuple[int, ...]) -> tuple[int, dict]:
    """(row, example) of one picture.

    Raises:
      UserError: it cannot be read.
    """
    image = read_image(row["source"])  # a file that nobody can read is to be found now
    if image_size:
        image = resize(image, image_size)
    else:
        with open(row["path"], "rb") as file:
            image = file.read()
    return row["row"], {"image": image, **{key: row[key] for key in ("captions", "pid", "file", "row")}}


def examples(rows: list[dict], image_size: tuple[int, ...]) -> Iterator[tuple[int, dict]]:
    """One after the other, in this process."""
    return (example(row, image_size) for row in rows)


def by_beam(rows: list[dict], image_size: tuple[int, ...]):
    """As a transform of Beam, whose workers share them out."""
    import apache_beam as beam

    return beam.Create(rows) | beam.Reshuffle() | beam.Map(example, image_size=image_size)
