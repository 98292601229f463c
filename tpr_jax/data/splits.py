"""Loads the splits of the data set that a config names, and describes them."""

from collections.abc import Mapping, Sequence

from tpr_jax.data.datasets import DATASETS, Counts, count_deviations, data_folder
from tpr_jax.data.mixture import mix
from tpr_jax.data.records import Records, load_all
from tpr_jax.errors import UserError


def load_splits(
    dataset: str, data_dir: str, missing_ok: bool = False, source: str = "files"
) -> dict[str, Records]:
    """Loads the splits `train`, `test` and, if the data set has it, `val`.

    Args:
      dataset: a key of `datasets.DATASETS`.
      data_dir: the data set's folder, empty for the default one; with prepared records, the folder or bucket
        they were written to.
      missing_ok: whether image files may be missing.
      source: one of `datasets.SOURCES`.

    Raises:
      UserError: the data set cannot be read, or `train` or `test` has no record.
    """
    if source == "files":
        folder = data_folder(dataset, data_dir)
        splits = load_all(folder, dataset, missing_ok)
    else:
        if not data_dir:
            raise UserError(f"config.data_dir is missing: config.source='{source}' needs the records' folder")
        from tpr_jax.data.tfds_builders import read  # imports TensorFlow, which nothing else here needs

        folder, splits = data_dir, read.load_all(data_dir, dataset, source.removeprefix("tfds_"))
    for split in ("train", "test"):
        if split not in splits:
            raise UserError(
                f"{folder} has no record of split '{split}': get a complete copy of the annotation"
            )
    return splits


def with_mixed(
    splits: dict[str, Records], mixed: Sequence[tuple[str, str, float]], missing_ok: bool = False
) -> dict[str, Records]:
    """Adds the training splits of further data sets to `train`.

    Args:
      splits: the splits of `load_splits`; `train` has the weight 1.
      mixed: (data set, its folder or "", weight) of each further data set; see `mixture.mix`.
      missing_ok: whether image files may be missing.

    Raises:
      UserError: a data set cannot be read or has no training split.
    """
    if not mixed:
        return splits
    train_splits, weights = [splits["train"]], [1.0]
    for dataset, data_dir, weight in mixed:
        folder = data_folder(dataset, data_dir)
        added = load_all(folder, dataset, missing_ok)
        if "train" not in added:
            raise UserError(f"{folder} has no record of split 'train', so config.mix cannot use it")
        train_splits.append(added["train"])
        weights.append(float(weight))
    return {**splits, "train": mix(train_splits, weights)}


def count_records(splits: Mapping[str, Records]) -> dict[str, Counts]:
    """Counts the identities, images and captions of each split."""
    return {
        name: Counts(
            len(set(records.pids.tolist())),
            len(records.image_paths),
            sum(map(len, records.captions)),
        )
        for name, records in splits.items()
    }


def describe(dataset: str, splits: dict[str, Records]) -> dict:
    """Describes the splits for results.json.

    Returns:
      `counts` of each split, and `subset`: a line for each split that differs from the official counts (empty
      if none does), or None if the data set has no official counts.
    """
    counts = count_records(splits)
    subset = None if DATASETS[dataset].counts is None else count_deviations(dataset, counts)
    return {"counts": {name: split._asdict() for name, split in counts.items()}, "subset": subset}
