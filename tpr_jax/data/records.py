"""Loads a data set's splits as records: one row per image, with its captions and identity."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64

from tpr_jax.data.annotations import SPLITS, Entry, annotation_path, read_entries
from tpr_jax.data.datasets import DATASETS
from tpr_jax.data.image_paths import describe_missing
from tpr_jax.data.images.read import Crop, Stored
from tpr_jax.errors import UserError


@dataclass(frozen=True)
class Records:
    """One split of a data set, one row per image.

    Attributes:
      name: the folder's name and the split, for messages: "CUHK-PEDES:train".
      image_paths: the path of each image.
      captions: at least one caption for each image; their number may differ between images.
      pids: the identity of each image, as the annotation numbers it.
      boxes: (x, y, width, height) of the part of each image to use, or None for the whole image.
      passes: how often an epoch passes through the captions of each image; None means once.
      stored: the source of each image, if it is not the file at its path.
      names: the identity of each image as the annotation names it, if `pids` numbers the names.
    """

    name: str
    image_paths: list[str]
    captions: list[list[str]]
    pids: Int64[np.ndarray, " images"]
    boxes: list[tuple[int, int, int, int] | None] | None = None
    passes: Float[np.ndarray, " images"] | None = None
    stored: list[str | np.ndarray | Crop | Stored] | None = None
    names: list[str] | None = None


def load_records(data_dir: str | os.PathLike, split: str, dataset: str = "cuhk_pedes") -> Records:
    """Reads one split of a data set's folder.

    In CUHK-PEDES' format `data_dir/reid_raw.json` is a list of objects `{split, captions: [str, ...],
    file_path, id}`; further fields (`processed_tokens`) are ignored. The images are
    `data_dir/imgs/<file_path>`. `datasets.DATASETS` says where the other data sets differ.

    Raises:
      UserError: the folder or annotation does not exist; a record (counted from 0) is invalid; the split has
        no records; or images of the split are missing.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    entries = _valid_entries(data_dir, dataset)
    if not any(entry.split == split for entry in entries):
        present = _split_names(entries)
        remedy = (
            f"choose one of {', '.join(present)}" if present else "the list is empty, get a complete copy"
        )
        raise UserError(f"{annotation_path(dataset, data_dir)}: no record of split {split!r}: {remedy}")
    return _make_records(
        data_dir, entries, split, annotation_path(dataset, data_dir), DATASETS[dataset].get_images
    )


def load_all(
    data_dir: str | os.PathLike, dataset: str = "cuhk_pedes", missing_ok: bool = False
) -> dict[str, Records]:
    """Reads every split that has records, in the order train, val, test; reads the annotation once.

    Args:
      data_dir: the data set's folder.
      dataset: a key of `datasets.DATASETS`.
      missing_ok: whether image files may be missing.

    Raises:
      UserError: as for `load_records`.
    """
    entries = _valid_entries(data_dir, dataset)
    annotation = "" if missing_ok else annotation_path(dataset, data_dir)
    remedy = DATASETS[dataset].get_images
    return {
        split: _make_records(data_dir, entries, split, annotation, remedy) for split in _split_names(entries)
    }


def caption_pairs(
    records: Records,
) -> tuple[Int32[np.ndarray, " n"], list[str], Int64[np.ndarray, " n"]]:
    """Returns (image index, caption, raw pid) of each caption, in the order of the images."""
    counts = [len(captions) for captions in records.captions]
    image_index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    captions = [caption for captions in records.captions for caption in captions]
    return image_index, captions, records.pids[image_index]


def image_sources(records: Records) -> Sequence[str | np.ndarray | Crop | Stored]:
    """Returns the sources that `images.read.read_image` reads: paths, crops of them, or stored files."""
    if records.stored is not None:
        return records.stored
    if records.boxes is None:
        return records.image_paths
    pairs = zip(records.image_paths, records.boxes, strict=True)
    return [path if box is None else Crop(path, *box) for path, box in pairs]


def select_images(records: Records, mask: Bool[np.ndarray, " images"]) -> Records:
    """Returns the records of the images where `mask` is true, in their order."""
    rows = np.flatnonzero(mask).tolist()

    def select(values: list | None) -> list | None:
        return None if values is None else [values[row] for row in rows]

    return replace(
        records,
        image_paths=select(records.image_paths),
        captions=select(records.captions),
        pids=records.pids[rows],
        boxes=select(records.boxes),
        passes=None if records.passes is None else records.passes[rows],
        stored=select(records.stored),
        names=select(records.names),
    )


def _split_names(entries: Sequence[Entry]) -> list[str]:
    return sorted({entry.split for entry in entries}, key=SPLITS.index)


def _valid_entries(data_dir: str | os.PathLike, dataset: str) -> list[Entry]:
    """Returns the entries of an annotation without problems, with names as ids replaced by numbers."""
    entries, problems = read_entries(dataset, data_dir)
    if problems:
        raise UserError(problems[0].message)
    if any(isinstance(entry.pid, str) for entry in entries):
        number = {name: i for i, name in enumerate(sorted({str(entry.pid) for entry in entries}))}
        return [entry._replace(pid=number[str(entry.pid)], name=str(entry.pid)) for entry in entries]
    return entries


def _make_records(
    data_dir: str | os.PathLike, entries: Sequence[Entry], split: str, annotation: str, remedy: str
) -> Records:
    """Builds the records of a split. If `annotation` (for messages) is not empty, all images must exist."""
    chosen = [entry for entry in entries if entry.split == split]
    image_paths = [entry.image for entry in chosen]
    if annotation:
        _check_images_exist(image_paths, annotation, split, remedy)
    return Records(
        name=f"{os.path.basename(os.path.abspath(data_dir))}:{split}",
        image_paths=image_paths,
        captions=[entry.captions for entry in chosen],
        pids=np.array([entry.pid for entry in chosen], np.int64),
        boxes=[entry.box for entry in chosen] if any(entry.box for entry in chosen) else None,
        names=[entry.name for entry in chosen] if any(entry.name for entry in chosen) else None,
    )


def _check_images_exist(image_paths: list[str], annotation: str, split: str, remedy: str) -> None:
    missing = [path for path in image_paths if not os.path.exists(path)]
    if missing:
        hint = describe_missing(missing[0])
        raise UserError(
            f"{missing[0]}: no such image{hint}; {len(missing)} of the {len(image_paths)} images that "
            f"{annotation} lists for split {split!r} are missing: {remedy}"
        )
