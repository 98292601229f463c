"""Shared code of all builders: their two configs, the features, and the conversion of records to examples.

    tfds build tpr_jax/data/tfds_builders/rstp_reid.py --manual_dir DIR --data_dir OUT
    python -m tpr_jax.data.tfds_builders rstp_reid --manual_dir DIR --data_dir OUT

The second command does not need apache-beam and mlcroissant, without which the `tfds` program of TFDS 4.9.10
does not start. DIR is the data set's folder, as `python -m tpr_jax.data.check` takes it; OUT may be a bucket
(gs://...). An example is one image: `image`, its `captions`, `pid` (as the annotation numbers it), `file`
(its path in DIR) and `row` (its position in its split of the annotation, because TFDS shuffles). To train
from the records, set `--config.source=tfds_sized --config.data_dir=OUT`, or `tfds_original`; see `read.py`.

Config `sized`, the default, holds the images as training reads them: upright, RGB, 384 x 128, as PNG, so that
no bit is lost. Config `original` holds the original files as byte strings in `image`: some of them are
grayscale, CMYK or rotated JPEGs, which TensorFlow does not decode correctly, but `images.read.read_image`
does.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from tpr_jax.data.datasets import DATASETS, TfdsInfo
from tpr_jax.data.images.read import read_image, resize
from tpr_jax.data.prefetch import tensorflow
from tpr_jax.data.records import Records, image_sources, load_all
from tpr_jax.errors import UserError

try:
    if tensorflow() is None:  # imports it first, with its start-up messages suppressed
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
    """Adds `image_size`: (height, width) in pixels, or () for the original files."""

    image_size: tuple[int, ...] = ()


_config: Any = PersonConfig  # the type checker does not know the arguments of TFDS' part of it


class PersonRetrievalBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds the data set of `datasets.DATASETS` whose TFDS builder the subclass is named after.

    A builder with a true `use_beam` runs on Apache Beam.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [  # the first one is the default
        _config(name="sized", description="384 x 128, RGB, upright, lossless", image_size=SIZED),
        _config(name="original", description="the original files"),
    ]
    use_beam = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)  # sets `cls.name`
        cls.MANUAL_DOWNLOAD_INSTRUCTIONS = _described(cls.name).instructions

    def _info(self) -> tfds.core.DatasetInfo:
        size, info = tuple(self.builder_config.image_size), _described(self.name)
        image = tfds.features.Image(shape=(*size, 3), encoding_format="png") if size else bytes_feature()
        features = {
            "image": image,
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "pid": tfds.features.Scalar(np.int64),
            "file": tfds.features.Text(),
            "row": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=info.description,
            features=tfds.features.FeaturesDict(features),
            homepage=info.homepage,
            citation=info.citation,
        )

    def _split_generators(self, dl_manager) -> dict:
        folder = os.fspath(dl_manager.manual_dir)
        size = tuple(self.builder_config.image_size)
        make = beam_examples if self.use_beam else examples
        return {
            name: make(example_rows(records, folder), size)
            for name, records in load_all(folder, self.name).items()
        }

    def _generate_examples(self):  # `_split_generators` returns the generators themselves
        raise NotImplementedError


def bytes_feature() -> tfds.features.Scalar:
    """Returns the feature for a string tensor that holds the bytes of a file."""
    return tfds.features.Scalar(np.object_)


def _described(name: str) -> TfdsInfo:
    info = DATASETS[name].tfds
    if info is None:
        raise ValueError(f"data set {name} has no TFDS builder")
    return info


def example_rows(records: Records, folder: str) -> list[dict]:
    """Returns each example without its image, which is still `source` at `path`."""
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


def make_example(row: dict, image_size: tuple[int, ...]) -> tuple[int, dict]:
    """Reads the image of a row of `example_rows`; returns (row number, example).

    Raises:
      UserError: the image cannot be read.
    """
    image = read_image(row["source"])  # also for `original`: an unreadable file must be found now
    if image_size:
        height, width = image_size
        image = resize(image, (height, width))
    else:
        with open(row["path"], "rb") as file:
            image = file.read()
    return row["row"], {"image": image, **{key: row[key] for key in ("captions", "pid", "file", "row")}}


def examples(rows: list[dict], image_size: tuple[int, ...]) -> Iterator[tuple[int, dict]]:
    """Yields the examples one after the other, in this process."""
    return (make_example(row, image_size) for row in rows)


def beam_examples(rows: list[dict], image_size: tuple[int, ...]):
    """Returns a Beam transform that makes the examples in parallel."""
    import apache_beam as beam

    return beam.Create(rows) | beam.Reshuffle() | beam.Map(make_example, image_size=image_size)
