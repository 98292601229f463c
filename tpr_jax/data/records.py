"""Annotations of a benchmark -> records: one row an image, with its captions and its identity."""

import json
import os
from dataclasses import dataclass

import numpy as np

from tpr_jax.errors import UserError

SPLITS = ("train", "val", "test")
ANNOTATION_FILE = "reid_raw.json"
IMAGE_FOLDER = "imgs"


@dataclass(frozen=True)
class Records:
    """One split of a benchmark, one row an image."""

    name: str  # the folder's name and the split, for messages: "CUHK-PEDES:train"
    image_paths: list[str]
    captions: list[list[str]]  # at least one an image; their number may differ between images
    pids: np.ndarray  # int64 [images], the identities as the annotation numbers them


def load_records(data_dir: str | os.PathLike, split: str) -> Records:
    """Reads one split of a folder in CUHK-PEDES' format.

    `data_dir/reid_raw.json` is a list of objects `{split, captions: [str, ...], file_path, id}`; further
    fields (`processed_tokens`) are ignored. The pictures lie at `data_dir/imgs/<file_path>`.

    Raises:
      UserError: no such folder or annotation; an annotation that is not such a list (with the record, counted
        from 0, and the field); a split without records; pictures of the split that are not there.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    entries = _read_entries(data_dir)
    if not any(entry["split"] == split for entry in entries):
        present = _split_names(entries)
        remedy = f"choose one of {', '.join(present)}" if present else "the list is empty, get a whole copy"
        raise UserError(f"{_annotation(data_dir)}: no record of split {split!r}: {remedy}")
    return _of_split(data_dir, entries, split)


def load_all(data_dir: str | os.PathLike) -> dict[str, Records]:
    """Every split that the folder's annotation has records of, in the order train, val, test.

    The annotation is read once.

    Raises:
      UserError: as `load_records`.
    """
    entries = _read_entries(data_dir)
    return {split: _of_split(data_dir, entries, split) for split in _split_names(entries)}


def caption_pairs(records: Records) -> tuple[np.ndarray, list[str], np.ndarray]:
    """All captions in the order of the images: (image index int32 [n], captions [n], raw pids int64 [n])."""
    counts = [len(captions) for captions in records.captions]
    image_index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    captions = [caption for captions in records.captions for caption in captions]
    return image_index, captions, records.pids[image_index]


def _annotation(data_dir: str | os.PathLike) -> str:
    return os.path.join(data_dir, ANNOTATION_FILE)


def _split_names(entries: list[dict]) -> list[str]:
    return sorted({entry["split"] for entry in entries}, key=SPLITS.index)


def _of_split(data_dir: str | os.PathLike, entries: list[dict], split: str) -> Records:
    chosen = [entry for entry in entries if entry["split"] == split]
    image_paths = [os.path.join(data_dir, IMAGE_FOLDER, entry["file_path"]) for entry in chosen]
    _check_images_exist(image_paths, _annotation(data_dir), split)
    return Records(
        name=f"{os.path.basename(os.path.abspath(data_dir))}:{split}",
        image_paths=image_paths,
        captions=[list(entry["captions"]) for entry in chosen],
        pids=np.array([entry["id"] for entry in chosen], np.int64),
    )


def _read_entries(data_dir: str | os.PathLike) -> list[dict]:
    path = _annotation(data_dir)
    entries = _read_annotation(data_dir, path)
    for number, entry in enumerate(entries):
        _check_entry(entry, f"{path}: record {number}")
    return entries


def _read_annotation(data_dir: str | os.PathLike, path: str) -> list:
    if not os.path.isdir(data_dir):
        raise UserError(f"{data_dir}: no such folder: set data_dir to the benchmark's folder")
    if not os.path.isfile(path):
        raise UserError(
            f"{path}: no such file: data_dir must hold {ANNOTATION_FILE} and the pictures in {IMAGE_FOLDER}/"
        )
    try:
        with open(path, encoding="utf-8-sig") as file:  # some copies start with a byte-order mark
            entries = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}): get a whole copy of the annotation") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the file's permissions") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: must be a list of records, not {type(entries).__name__}")
    return entries


def _check_entry(entry, where: str) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: must be an object with fields, not {type(entry).__name__}")
    for field in ("split", "captions", "file_path", "id"):
        if field not in entry:
            raise UserError(f"{where}: field '{field}' is missing")
    if entry["split"] not in SPLITS:
        raise UserError(f"{where}: field 'split' is {entry['split']!r}: must be one of {', '.join(SPLITS)}")
    if not isinstance(entry["file_path"], str) or not entry["file_path"]:
        raise UserError(f"{where}: field 'file_path' is {entry['file_path']!r}: must be a picture's name")
    pid = entry["id"]
    # JSON's true is a Python int; ids beyond int64 would overflow below.
    if not isinstance(pid, int) or isinstance(pid, bool) or not -(2**63) <= pid < 2**63:
        raise UserError(f"{where}: field 'id' is {pid!r}: must be a whole number")
    captions = entry["captions"]
    if not isinstance(captions, list) or not captions:
        raise UserError(f"{where}: field 'captions' must be a list of at least one text")
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise UserError(f"{where}: field 'captions', item {index} is not a text: {caption!r}")
        if not caption.strip():
            raise UserError(f"{where}: field 'captions', item {index} is empty: mend it or leave it out")


def _check_images_exist(image_paths: list[str], annotation: str, split: str) -> None:
    missing = [path for path in image_paths if not os.path.exists(path)]
    if missing:
        raise UserError(
            f"{missing[0]}: no such picture; of the {len(image_paths)} that {annotation} lists for split"
            f" {split!r}, {len(missing)} are missing: get a whole copy of the pictures"
        )
