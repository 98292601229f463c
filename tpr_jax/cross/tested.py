"""Describes the models and splits of a table, with the checksums by which their scores are known again."""

import os
from dataclasses import dataclass
from pathlib import Path

from tpr_jax.data.annotations import annotation_files
from tpr_jax.data.datasets import count_deviations
from tpr_jax.data.records import Records, load_records
from tpr_jax.data.splits import count_records
from tpr_jax.errors import UserError
from tpr_jax.metrics.remarks import remarks
from tpr_jax.train import lineage
from tpr_jax.utils.hashing import image_list_digest, sha256

MODEL_FILES = (".safetensors", ".bin", ".pt", ".json", ".txt")  # files that determine a model's features


@dataclass(frozen=True)
class TestedSplit:
    """A test split.

    Attributes:
      records: its images and captions.
      annotation_sha256: the checksum of the annotation's files.
      images_sha256: the checksum of the paths and sizes of its images.
      notes: how it differs from the official one, in sentences.
    """

    records: Records
    annotation_sha256: str
    images_sha256: str
    notes: list[str]

    def source(self) -> dict[str, str]:
        """Returns the checksums by which its scores are known again."""
        return {"annotation_sha256": self.annotation_sha256, "images_sha256": self.images_sha256}


@dataclass(frozen=True)
class TestedModel:
    """A model to test.

    Attributes:
      name: the model as it was given.
      location: the argument of `from_pretrained` that loads it.
      trained_on: the data sets that it was trained on; empty if unknown.
      sha256: the checksum of its files.
    """

    name: str
    location: str
    trained_on: tuple[str, ...]
    sha256: str


def describe_split(dataset: str, folder: str) -> TestedSplit:
    """Reads the test split of a data set.

    Raises:
      UserError: it cannot be read.
    """
    records = load_records(folder, "test", dataset)
    sizes = {os.path.relpath(path, folder): os.path.getsize(path) for path in records.image_paths}
    deviations = count_deviations(dataset, count_records({"test": records}))
    subset = [line for line in deviations if line.startswith("test ")]
    return TestedSplit(
        records=records,
        annotation_sha256=sha256(annotation_files(dataset, folder)),
        images_sha256=image_list_digest(sizes),
        notes=remarks({"dataset": dataset, "data": {"subset": subset}}),
    )


def describe_model(name: str) -> TestedModel:
    """Describes a model: a run's workdir, the model folder in it, or anything that `from_pretrained` reads.

    The run's config.json says what data it was trained on, and its backbone's if that is a run too.

    Raises:
      UserError: there is no such model, or the run has not saved one yet.
    """
    from tpr_jax.weights.backbone import find
    from tpr_jax.weights.save_adapter import BUNDLED_BACKBONE

    folder = Path(name)
    config = lineage.read_run_config(folder)
    if config and not (folder / "model").is_dir():
        raise UserError(f"{name} is a run that has no model/ yet: let it finish, or leave it out")
    location = str(folder / "model") if config else name
    if config is None and folder.is_dir():
        config = lineage.read_run_config(folder.parent)
    path = find(location).path
    candidates = (*path.glob("*"), *path.glob(f"{BUNDLED_BACKBONE}/*"))
    files = sorted(file for file in candidates if file.suffix in MODEL_FILES)
    return TestedModel(
        name=name.rstrip(os.sep),
        location=location,
        trained_on=lineage.trained_on(config) if config else (),
        sha256=sha256(files if path.is_dir() else [path]),
    )
