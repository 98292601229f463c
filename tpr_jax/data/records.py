"""Annotations of a data set -> records: one row an image, with its captions and its identity."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from tpr_jax.data.annotations import SPLITS, Entry, annotation_path, read_entries
from tpr_jax.data.images.read import Crop, Stored
from tpr_jax.errors import UserError


@dataclass(frozen=True)
class Records:
    """One split of a data set, one row an image."""

    name: str  # the folder's name and the split, for messages: "CUHK-PEDES:train"
    image_paths: list[str]
    captions: list[list[str]]  # at least one an image; their number may differ between images
    pids: np.ndarray  # int64 [images], the identities as the annotation numbers them
    boxes: list | None = None  # an image: (x, y, width, height) of the part that counts, or None: all of it
    passes: Float[np.ndarray, " images"] | None = None  # through its captions an epoch; None: one of each
    stored: list | None = None  # `images.Stored` files, where they do not lie at the paths
    names: list[str] | None = (
        None  # an image: its identity by the annotation's name, where `pids` number them
    )


def load_records(data_dir: str | os.PathLike, split: str, dataset: str = "cuhk_pedes") -> Records:
    """Reads one split of a data set's folder.

    In CUHK-PEDES' format `data_dir/reid_raw.json` is a list of objects `{split, captions: [str, ...],
    file_path, id}`; further fields (`processed_tokens`) are ignored. The pictures lie at
    `data_dir/imgs/<file_path>`. `annotations.LAYOUTS` has what the others do otherwise.

    Raises:
      UserError: no such folder or annotation; an annotation that is not such a list (with the record, counted
        from 0, and the field); a split without records; pictures of the split that are not there.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    entries = _sound_entries(data_dir, dataset)
    if not any(entry.split == split for entry in entries):
        present = _split_names(entries)
        remedy = f"choose one of {', '.join(present)}" if present else "the list is empty, get a whole copy"
        raise UserError(f"{annotation_path(dataset, data_dir)}: no record of split {split!r}: {remedy}")
    return _of_split(data_dir, entries, split, annotation_path(dataset, data_dir))


def load_all(
    data_dir: str | os.PathLike, dataset: str = "cuhk_pedes", missing_ok: bool = False
) -> dict[str, Records]:
    """Every split that the folder's annotation has records of, in the order train, val, test.

    The annotation is read once. With `missing_ok` the pictures need not be there.

    Raises:
      UserError: as `load_records`.
    """
    entries = _sound_entries(data_dir, dataset)
    annotation = "" if missing_ok else annotation_path(dataset, data_dir)
    return {split: _of_split(data_dir, entries, split, annotation) for split in _split_names(entries)}


def caption_pairs(records: Records) -> tuple[np.ndarray, list[str], np.ndarray]:
    """All captions in the order of the images: (image index int32 [n], captions [n], raw pids int64 [n])."""
    counts = [len(captions) for captions in records.captions]
    image_index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    captions = [caption for captions in records.captions for caption in captions]
    return image_index, captions, records.pids[image_index]


def image_sources(records: Records) -> list[str | Crop | Stored]:
    """Returns what `images.read.read_image` takes: paths, with boxes if there are any, or files in memory."""
    if records.stored is not None:
        return records.stored
    if records.boxes is None:
        return records.image_paths
    pairs = zip(records.image_paths, records.boxes, strict=True)
    return [path if box is None else Crop(path, *box) for path, box in pairs]


def keep_images(records: Records, kept: Bool[np.ndarray, " images"]) -> Records:
    """The records of some images, in their order."""
    rows = np.flatnonzero(kept).tolist()
    pick = lambda values: None if values is None else [values[row] for row in rows]  # noqa: E731
    return replace(
        records,
        image_paths=pick(records.image_paths),
        captions=pick(records.captions),
        pids=records.pids[rows],
        boxes=pick(records.boxes),
        passes=None if records.passes is None else records.passes[rows],
        stored=pick(records.stored),
        names=pick(records.names),
    )


def _split_names(entries: Sequence[Entry]) -> list[str]:
    return sorted({entry.split for entry in entries}, key=SPLITS.index)


def _sound_entries(data_dir: str | os.PathLike, dataset: str) -> list[Entry]:
    """The entries of an annotation with which nothing is wrong; ids that are names become numbers."""
    entries, problems = read_entries(dataset, data_dir)
    if problems:
        raise UserError(problems[0].message)
    if any(isinstance(entry.pid, str) for entry in entries):
        number = {name: i for i, name in enumerate(sorted({str(entry.pid) for entry in entries}))}
        return [entry._replace(pid=number[str(entry.pid)], name=str(entry.pid)) for entry in entries]
    return entries


def _of_split(data_dir: str | os.PathLike, entries: Sequence[Entry], split: str, annotation: str) -> Records:
    """`annotation`, for the message, where the pictures have to be there; empty: they need not."""
    chosen = [entry for entry in entries if entry.split == split]
    image_paths = [entry.image for entry in chosen]
    if annotation:
        _check_images_exist(image_paths, annotation, split)
    return Records(
        name=f"{os.path.basename(os.path.abspath(data_dir))}:{split}",
        image_paths=image_paths,
        captions=[entry.captions for entry in chosen],
        pids=np.array([entry.pid for entry in chosen], np.int64),
        boxes=[entry.box for entry in chosen] if any(entry.box for entry in chosen) else None,
        names=[entry.name for entry in chosen] if any(entry.name for entry in chosen) else None,
    )


def _check_images_exist(image_paths: list[str], annotation: str, split: str) -> None:
    missing = [path for path in image_paths if not os.path.exists(path)]
    if missing:
        raise UserError(
            f"{missing[0]}: no such picture; of the {len(image_paths)} that {annotation} lists for split"
            f" {split!r}, {len(missing)} are missing: get a whole copy of the pictures"
        )
