"""Finds identities and photos that two splits share, by one rule for `data.check` and for training."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tpr_jax.data.annotations import SPLITS, Entry
from tpr_jax.data.image_paths import ImagePaths
from tpr_jax.data.images.read import Stored
from tpr_jax.data.records import Records
from tpr_jax.errors import UserError

Box = tuple[int, int, int, int]  # x, y, width, height
# Two boxes show the same person if they share this fraction of the smaller one's area. People who stand side
# by side may overlap by less.
_MIN_OVERLAP = 0.5


class ImageRow(NamedTuple):
    """One image of a split: its identity, and the photo it is a part of."""

    split: str
    identity: str
    photo: str  # a key that all names of one photo share
    box: Box | None
    name: str  # the photo's name, for messages


class Leaks(NamedTuple):
    """A line for each identity, and for each photo, that occurs in two splits."""

    people: list[str]
    photos: list[str]


def find_in_entries(entries: Iterable[Entry]) -> Leaks:
    """Finds what the splits of an annotation share."""
    image_paths = ImagePaths()
    rows = [ImageRow(e.split, str(e.pid), image_paths.key(e.image), e.box, e.image) for e in entries]
    return Leaks(shared_identities(rows), shared_photos(rows))


def find_in_splits(splits: Mapping[str, Records]) -> Leaks:
    """Finds what the splits of a data set share."""
    rows = _image_rows(splits)
    return Leaks(shared_identities(rows), shared_photos(rows))


def add_mixed(leaks: Leaks, splits: Mapping[str, Records]) -> Leaks:
    """Adds the photos that further data sets brought into `train`.

    Compares photos only: equal ids of two data sets do not mean the same person.
    """
    return Leaks(leaks.people, list(dict.fromkeys(leaks.photos + shared_photos(_image_rows(splits)))))


def raise_or_warn(leaks: Leaks, name: str, on_leak: str, official: bool) -> dict:
    """Raises an error if splits share something, or prints a warning if that is allowed.

    Args:
      leaks: what the splits share.
      name: the data set, for the message.
      on_leak: 'error' or 'warn'.
      official: whether the splits are a benchmark's own, which only lead to a warning.

    Returns:
      The numbers for results.json; empty if the splits share nothing.

    Raises:
      UserError: the splits share something, `on_leak` is 'error', and the splits are not official.
    """
    if not leaks.people and not leaks.photos:
        return {}
    numbers = {"identities": len(leaks.people), "photos": len(leaks.photos)}
    nouns = {"identities": ("identity", "identities"), "photos": ("photo", "photos")}
    counts = [f"{number:,} {nouns[kind][number != 1]}" for kind, number in numbers.items() if number]
    first = (leaks.people + leaks.photos)[0]
    is_single = sum(numbers.values()) == 1
    message = f"{name}: {' and '.join(counts)} {'is' if is_single else 'are'} in two splits"
    message += f": {first}" if is_single else f", the first: {first}"
    if on_leak == "error" and not official:
        raise UserError(
            f"{message}; leave each in one split (python -m tpr_jax.data.check lists them all), or train "
            "anyway with --config.on_leak=warn"
        )
    print(f"warning: {message}")
    return {"in_two_splits": numbers}


def shared_identities(rows: Iterable[ImageRow]) -> list[str]:
    """Returns a line for each identity that occurs in more than one split."""
    splits = defaultdict(set)
    for row in rows:
        splits[row.identity].add(row.split)
    return [
        f"identity {identity} is in {_join(names)}" for identity, names in splits.items() if len(names) > 1
    ]


def shared_photos(rows: Iterable[ImageRow]) -> list[str]:
    """Returns a line for each photo that occurs in two splits.

    Boxes of one photo that hardly overlap may be in different splits; a row without a box is the whole photo.
    """
    by_photo = defaultdict(list)
    for row in rows:
        by_photo[row.photo].append(row)
    lines = []
    for photo_rows in by_photo.values():
        if len({row.split for row in photo_rows}) < 2:
            continue
        splits = {
            split
            for i, row in enumerate(photo_rows)
            for other in photo_rows[:i]
            if row.split != other.split and boxes_overlap(row.box, other.box)
            for split in (row.split, other.split)
        }
        if splits:
            first, *others = dict.fromkeys(row.name for row in photo_rows if row.split in splits)
            alias = f" (also named {others[0]})" if others else ""
            lines.append(f"photo {first} is in {_join(splits)}{alias}")
    return lines


def boxes_overlap(first: Box | None, second: Box | None) -> bool:
    """Returns whether two boxes share half of the smaller one's area or more; None is the whole photo."""
    if first is None or second is None:
        return True
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    smaller = min(first[2] * first[3], second[2] * second[3])
    return max(width, 0) * max(height, 0) >= _MIN_OVERLAP * smaller


def _join(splits: Iterable[str]) -> str:
    return " and ".join(sorted(splits, key=SPLITS.index))


def _image_rows(splits: Mapping[str, Records]) -> list[ImageRow]:
    image_paths, rows = ImagePaths(), []
    for split, records in splits.items():
        identities = records.names or map(str, records.pids.tolist())
        boxes = records.boxes or [None] * len(records.image_paths)
        stored = records.stored or [None] * len(records.image_paths)
        for identity, path, box, file in zip(identities, records.image_paths, boxes, stored, strict=True):
            # A prepared record is not in a folder; its path is its name within the data set.
            is_prepared = isinstance(file, Stored)
            photo = (
                unicodedata.normalize("NFC", os.path.normpath(path)) if is_prepared else image_paths.key(path)
            )
            rows.append(ImageRow(split, identity, photo, box, path))
    return rows
