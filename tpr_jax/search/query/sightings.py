"""What an index knows of the photos of its results besides their features: who, where and when.

Columns count by their name, in any case, as those of the user's table.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

PERSON_COLUMNS = ("person", "person_id", "pid", "identity")
TRACK_COLUMNS = ("track", "track_id")
PLACE_COLUMNS = ("camera", "camera_id", "cam", "video")
TIME_COLUMN = "time"
# Phones and cameras name their photos by the time, such as IMG_20240501_100112.jpg.
_TIME_IN_NAME = re.compile(r"(?<!\d)(20\d{6})[-_T ]?([0-2]\d[0-5]\d[0-5]\d)")

Key = tuple[tuple[str, object], ...]


class Sighting(NamedTuple):
    """One photo.

    Attributes:
      path: its path; the boxes of one photo are different people.
      person: the person, if the table names people.
      track: the track, which is unique within its camera and video.
      place: camera and video, or the folder if the table has neither.
      seconds: the time in seconds, from any start that photos of one place share.
    """

    path: str
    person: object = None
    track: Key | None = None
    place: Key = ()
    seconds: float | None = None


def find_sightings(table: pa.Table, rows: Sequence[int]) -> list[Sighting]:
    """Returns the sightings of some rows of an index's table."""
    roles = {name: role for name in table.column_names if (role := _role(table, name))}
    records = table.select(["path", *roles]).take(pa.array(rows, pa.int64())).to_pylist()
    return [_sighting(record, roles) for record in records]


def _role(table: pa.Table, name: str) -> str | None:
    """Returns what a column tells: 'person', 'track', 'place' or 'time'."""
    lower = name.lower()
    for role, known in (("person", PERSON_COLUMNS), ("track", TRACK_COLUMNS), ("place", PLACE_COLUMNS)):
        if lower in known:
            return role
    if pa.types.is_timestamp(table[name].type):
        times = [one for one in table.column_names if pa.types.is_timestamp(table[one].type)]
        return "time" if lower == TIME_COLUMN or len(times) == 1 else None
    is_number = pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type)
    return "time" if lower == TIME_COLUMN and is_number else None


def _sighting(record: Mapping, roles: Mapping[str, str | None]) -> Sighting:
    def values(role: str) -> Key:
        return tuple(
            (name, record[name]) for name in roles if roles[name] == role and record[name] is not None
        )

    path = record["path"]
    place = values("place") or (("folder", str(PurePosixPath(path).parent)),)
    person, track = values("person"), values("track")
    times = [_seconds(value) for _, value in values("time")]
    return Sighting(
        path=path,
        person=person or None,
        track=(*place, *track) if track else None,
        place=place,
        seconds=times[0] if times else _seconds_in_name(path),
    )


def _seconds(value: Any) -> float:
    if not isinstance(value, datetime):
        return float(value)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _seconds_in_name(path: str) -> float | None:
    found = _TIME_IN_NAME.search(PurePosixPath(path).name)
    if not found:
        return None
    try:
        return datetime.strptime(found[1] + found[2], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:  # another number that looks like a time
        return None
