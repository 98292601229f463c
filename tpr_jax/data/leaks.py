"""Finds people and photos that two splits share, by one rule for `data.check` and for training."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tpr_jax.data.annotations import SPLITS, Entry
from tpr_jax.data.images.read import Stored
from tpr_jax.data.photos import Photos
from tpr_jax.data.records import Records
from tpr_jax.errors import UserError

Box = tuple[int, int, int, int]  # x, y, width, height
# From this part of the smaller box on, two boxes show the same; people side by side may overlap a little.
_SAME = 0.5


class Row(NamedTuple):
    """One picture of a split: who is on it, and of which photo it is."""

    split: str
    person: str
    photo: str  # all names of one photo have the same
    box: Box | None
    shown: str  # the photo's name, for messages


class Leaks(NamedTuple):
    """A line for each person, and for each photo, in two splits."""

    people: list[str]
    photos: list[str]


def of_entries(entries: Iterable[Entry]) -> Leaks:
    """Finds what the splits of an annotation share."""
    photos = Photos()
    rows = [Row(e.split, str(e.pid), photos.key(e.image), e.box, e.image) for e in entries]
    return Leaks(people_in_two(rows), photos_in_two(rows))


def of_splits(splits: Mapping[str, Records]) -> Leaks:
    """Finds what the splits of a data set share."""
    rows = _rows(splits)
    return Leaks(people_in_two(rows), photos_in_two(rows))


def with_mixed(leaks: Leaks, splits: Mapping[str, Records]) -> Leaks:
    """Adds the photos that further data sets brought into `train`.

    Their ids tell nothing: people of two data sets are never taken for one.
    """
    return Leaks(leaks.people, list(dict.fromkeys(leaks.photos + photos_in_two(_rows(splits)))))


def refuse(leaks: Leaks, name: str, on_leak: str, official: bool) -> dict:
    """Raises a UserError where splits share something, unless `on_leak` is 'warn': then prints a line.

    Of an official copy of a benchmark the authors made the splits, so that is only said. Returns the
    numbers, for results.json; empty where there are none.
    """
    if not leaks.people and not leaks.photos:
        return {}
    numbers = {"identities": len(leaks.people), "photos": len(leaks.photos)}
    words = {"identities": ("identity", "identities"), "photos": ("photo", "photos")}
    counted = [f"{n:,} {words[what][n != 1]}" for what, n in numbers.items() if n]
    first = (leaks.people + leaks.photos)[0]
    single = sum(numbers.values()) == 1
    told = f"{name}: {' and '.join(counted)} {'is' if single else 'are'} in two splits"
    told += f": {first}" if single else f", the first: {first}"
    if on_leak == "error" and not official:
        raise UserError(
            f"{told}; leave each in one split (python -m tpr_jax.data.check lists them all), or train "
            "all the same with --config.on_leak=warn"
        )
    print(f"warning: {told}")
    return {"in_two_splits": numbers}


def people_in_two(rows: Iterable[Row]) -> list[str]:
    """Returns a line for each person whom one split trains on and another searches for."""
    splits = defaultdict(set)
    for row in rows:
        splits[row.person].add(row.split)
    return [f"identity {person} is in {_named(found)}" for person, found in splits.items() if len(found) > 1]


def photos_in_two(rows: Iterable[Row]) -> list[str]:
    """Returns a line for each photo in two splits.

    Of a photo with several people boxes that have little in common may be in different splits; one without a
    box is all of the photo.
    """
    pictures = defaultdict(list)
    for row in rows:
        pictures[row.photo].append(row)
    lines = []
    for found in pictures.values():
        if len({row.split for row in found}) < 2:
            continue
        shared = {
            split
            for i, one in enumerate(found)
            for other in found[:i]
            if one.split != other.split and same_part(one.box, other.box)
            for split in (one.split, other.split)
        }
        if shared:
            first, *others = dict.fromkeys(row.shown for row in found if row.split in shared)
            also = f" (also named {others[0]})" if others else ""
            lines.append(f"photo {first} is in {_named(shared)}{also}")
    return lines


def same_part(one: Box | None, other: Box | None) -> bool:
    """Whether two boxes of a photo share half of the smaller one's area or more; None is all of the photo."""
    if one is None or other is None:
        return True
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0) >= _SAME * min(one[2] * one[3], other[2] * other[3])


def _named(splits: Iterable[str]) -> str:
    return " and ".join(sorted(splits, key=SPLITS.index))


def _rows(splits: Mapping[str, Records]) -> list[Row]:
    photos, rows = Photos(), []
    for split, records in splits.items():
        people = records.names or map(str, records.pids.tolist())
        boxes = records.boxes or [None] * len(records.image_paths)
        stored = records.stored or [None] * len(records.image_paths)
        for person, path, box, file in zip(people, records.image_paths, boxes, stored, strict=True):
            # A prepared record lies in no folder; it has its name within the data set.
            prepared = isinstance(file, Stored)
            photo = unicodedata.normalize("NFC", os.path.normpath(path)) if prepared else photos.key(path)
            rows.append(Row(split, person, photo, box, path))
    return rows
