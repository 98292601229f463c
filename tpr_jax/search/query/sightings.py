"""What an index knows of the photos of its results besides their features: who, where and when.

Columns count by their name, in any case, as those of the user's table.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from tpr_jax.utils.plural import counted

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
      clock: whether that is the time of a clock, in seconds since 1970, and not from the start of a video.
    """

    path: str
    person: object = None
    track: Key | None = None
    place: Key = ()
    seconds: float | None = None
    clock: bool = False


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
    times = [value for _, value in values("time")]
    seconds = _seconds(times[0]) if times else _seconds_in_name(path)
    return Sighting(
        path=path,
        person=person or None,
        track=(*place, *track) if track else None,
        place=place,
        seconds=seconds,
        clock=seconds is not None and (not times or isinstance(times[0], datetime)),
    )


def describe_sightings(sightings: Sequence[Sighting]) -> str:
    """Describes how often, where and when a person was seen: "seen 4 times at 2 places, 10:02 to 10:17".

    Args:
      sightings: the photos of one person. Times that are not of a clock count if there are no others.
    """
    words = f"seen {counted(len(sightings), 'time')}"
    cameras = {one.place[:1] for one in sightings}  # a camera may have several videos
    words += f" at {len(cameras)} places" if len(cameras) > 1 else ""
    clock = any(one.clock for one in sightings)
    # Seconds from the start of different videos have nothing in common.
    comparable = len({one.place for one in sightings}) == 1
    known = [one for one in sightings if one.seconds is not None and (one.clock if clock else comparable)]
    if not known:
        return words
    first, last = (end(one.seconds for one in known if one.seconds is not None) for end in (min, max))
    start, stop = _clock_span(first, last) if clock else (_since_start(first), _since_start(last))
    return f"{words}, {start}" + (f" to {stop}" if stop != start else "")


def _clock_span(first: float, last: float) -> tuple[str, str]:
    """Formats two times as briefly as their difference allows."""
    start, stop = (datetime.fromtimestamp(second, UTC) for second in (first, last))
    if start.date() != stop.date():
        return f"{start:%Y-%m-%d %H:%M}", f"{stop:%Y-%m-%d %H:%M}"
    form = "%H:%M:%S" if f"{start:%H:%M}" == f"{stop:%H:%M}" else "%H:%M"
    return start.strftime(form), stop.strftime(form)


def _since_start(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


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
