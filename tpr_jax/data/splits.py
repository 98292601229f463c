"""Loads the splits of the data set that a config names, and describes them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from tpr_jax.data.datasets import DATASETS, Counts, count_deviations, data_folder
from tpr_jax.data.image_paths import ImagePaths
from tpr_jax.data.mixture import describe_shared, mix
from tpr_jax.data.records import Records, load_all, select_images
from tpr_jax.errors import UserError
from tpr_jax.utils.notices import print_once
from tpr_jax.utils.plural import counted

HELD_OUT = 1_000  # identities of `val` and of `test`, at most, if a data set has no splits


def load_splits(
    dataset: str, data_dir: str, missing_ok: bool = False, source: str = "files"
) -> dict[str, Records]:
    """Loads the splits `train`, `test` and, if the data set has it, `val`; see `hold_out` if it has none.

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
        if DATASETS[dataset].split and splits:
            splits = hold_out(splits[DATASETS[dataset].split])
    else:
        if not data_dir:
            raise UserError(f"config.data_dir is missing: config.source='{source}' needs the records' folder")
        from tpr_jax.data.tfds_builders import read  # imports TensorFlow, which nothing else here needs

        folder, splits = data_dir, read.load_all(data_dir, dataset, source.removeprefix("tfds_"))
    for split in ("train", "test"):
        if split not in splits:
            if not DATASETS[dataset].is_custom:
                raise UserError(
                    f"{folder} has no record of split '{split}': get a complete copy of the annotation"
                )
            what = f"record of split '{split}'" if splits else "records"
            raise UserError(f"{folder} has no {what}: add lines with split '{split}'")
    return splits


def hold_out(records: Records) -> dict[str, Records]:
    """Divides the images of a data set that has no splits, so that a run on it can be scored.

    In the order of their numbers, the last tenth of the identities, at most `HELD_OUT`, are `test`, and as
    many before them are `val`. Identities that share a photo count as one, the lowest of them. No images are
    drawn at random, because neighbors may be frames of one video.

    Raises:
      UserError: there are fewer than three identities.
    """
    folder = records.name.rpartition(":")[0]
    groups = _group_by_photo(records)
    identities = np.unique(groups)
    if len(identities) < 3:
        raise UserError(
            f"{folder} has no splits and {counted(len(identities), 'identity', 'identities')}, but train, "
            "val and test need one each: get a complete copy"
        )
    total = len(np.unique(records.pids))
    number = min(HELD_OUT, max(1, len(identities) // 10))
    print_once(
        f"{folder} has no splits: of its {total:,} identities, the last {number:,} are test, and "
        f"the {number:,} before them val"
        + ("" if len(identities) == total else "; those that share a photo count as one")
    )
    first_test, first_val = identities[-number], identities[-2 * number]
    names = np.select([groups >= first_test, groups >= first_val], ["test", "val"], "train")
    return {
        name: replace(select_images(records, names == name), name=f"{folder}:{name}")
        for name in ("train", "val", "test")
    }


def _group_by_photo(records: Records) -> Int64[np.ndarray, " images"]:
    """Returns the identity of each image, or the lowest of those it shares a photo with, directly or not."""
    image_paths, parents = ImagePaths(), {}

    def find(pid: int) -> int:
        while (parent := parents.get(pid, pid)) != pid:
            pid = parent
        return pid

    pids, first = records.pids.tolist(), {}
    for pid, path in zip(pids, records.image_paths, strict=True):
        low, high = sorted((find(pid), find(first.setdefault(image_paths.key(path), pid))))
        if low != high:
            parents[high] = low
    return np.array([find(pid) for pid in pids], np.int64)


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
    for note in describe_shared(train_splits):
        print_once(note)
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


def describe(dataset: str, splits: dict[str, Records], mixed: Sequence[tuple[str, str, float]] = ()) -> dict:
    """Describes the splits for results.json.

    Args:
      dataset: a key of `datasets.DATASETS`.
      splits: the splits of `load_splits`.
      mixed: as in `with_mixed`.

    Returns:
      `counts` of each split; `subset`: a line for each split that differs from the official counts (empty if
      none does), or None if the data set has no official counts; and, if any are mixed in, `mixed`: the name
      and weight of each.
    """
    counts = count_records(splits)
    subset = None if DATASETS[dataset].counts is None else count_deviations(dataset, counts)
    described: dict = {"counts": {name: split._asdict() for name, split in counts.items()}, "subset": subset}
    if mixed:
        described["mixed"] = [{"dataset": name, "weight": float(weight)} for name, _, weight in mixed]
    return described


def annotation_digest(records: Records) -> str:
    """Returns a digest of people and captions in their order, the same for files and prepared records.

    Prepared records lie elsewhere and have no boxes, because their images are cut out.
    """
    digest = hashlib.sha256()
    for pid, captions in zip(records.pids.tolist(), records.captions, strict=True):
        digest.update(json.dumps([pid, captions]).encode())
    return digest.hexdigest()[:16]
