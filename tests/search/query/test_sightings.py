"""Who, where and when: from columns of tables, and from the names of photos."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from tpr_jax.search.query.sightings import Sighting, describe_sightings, find_sightings

NOON = datetime(2024, 5, 1, 12)


def sighting(path="a/b.jpg", **columns):
    table = pa.table(
        {"path": ["other.jpg", path], **{name: [None, value] for name, value in columns.items()}}
    )
    (found,) = find_sightings(table, [1])
    return found


def test_reads_the_columns_of_a_table():
    found = sighting(camera=3, video="gate.mp4", track=7, time=NOON, frame=12, person_id="p1")
    place = (("camera", 3), ("video", "gate.mp4"))
    assert found == Sighting(
        "a/b.jpg",
        (("person_id", "p1"),),
        (*place, ("track", 7)),
        place,
        NOON.replace(tzinfo=UTC).timestamp(),
        True,
    )


@pytest.mark.parametrize(
    ("columns", "seconds"),
    [
        ({"time": 12.5}, 12.5),  # from the start of a video
        ({"Time": 12}, 12.0),
        ({"seen": NOON}, NOON.replace(tzinfo=UTC).timestamp()),  # the only time
        ({"seen": NOON, "stored": NOON}, None),  # which of them?
        ({"seen": NOON, "time": NOON.replace(hour=13)}, NOON.replace(hour=13, tzinfo=UTC).timestamp()),
        ({"time": "about noon"}, None),
        ({"speed": 3.5, "frame": 3}, None),
        ({"time": None}, None),
    ],
)
def test_finds_the_time(columns, seconds):
    assert sighting(**columns).seconds == seconds


@pytest.mark.parametrize(
    ("path", "time"),
    [
        ("IMG_20240501_100112.jpg", datetime(2024, 5, 1, 10, 1, 12)),
        ("phone/PXL_20240501_100112345.jpg", datetime(2024, 5, 1, 10, 1, 12)),
        ("20240501100112.jpg", datetime(2024, 5, 1, 10, 1, 12)),
        ("gate 2024.jpg", None),
        ("20240501_100112/0001.jpg", None),  # the folder's time is not the photo's
        ("IMG_20249901_100112.jpg", None),
        ("00020240501100112.jpg", None),
    ],
)
def test_reads_the_time_in_a_name(path, time):
    assert sighting(path).seconds == (time and time.replace(tzinfo=UTC).timestamp())


def test_the_folder_is_the_place_without_a_camera():
    assert sighting("gate/1.jpg").place == sighting("gate/2.jpg").place != sighting("yard/1.jpg").place
    assert sighting("gate/1.jpg", cam=1).place == sighting("yard/1.jpg", cam=1).place
    assert sighting("gate/1.jpg", track=3).track != sighting("yard/1.jpg", track=3).track
    assert sighting().person is None and sighting().track is None


def test_tells_times_of_a_clock_from_seconds_of_a_video():
    assert sighting(time=NOON).clock and sighting("IMG_20240501_100112.jpg").clock
    assert not sighting(time=12.5).clock and not sighting().clock


GATE, YARD = (("camera", "gate"), ("video", "a.mp4")), (("camera", "yard"), ("video", "a.mp4"))
LATER = (("camera", "gate"), ("video", "b.mp4"))


def at(*times, place=()):
    """Sightings at hours, minutes and seconds of a day."""
    seconds = [NOON.replace(hour=h, minute=m, second=s, tzinfo=UTC).timestamp() for h, m, s in times]
    return [Sighting("a", place=place, seconds=one, clock=True) for one in seconds]


def after(*seconds, place=()):
    return [Sighting("a", place=place, seconds=one) for one in seconds]


@pytest.mark.parametrize(
    ("sightings", "words"),
    [
        (at((10, 17, 5), (10, 2, 9), (10, 3, 0), (10, 4, 0)), "seen 4 times, 10:02 to 10:17"),
        (at((10, 2, 9), (10, 2, 5)), "seen 2 times, 10:02:05 to 10:02:09"),
        (at((10, 2, 5), (10, 2, 5)), "seen 2 times, 10:02:05"),
        ([*at((9, 0, 0)), Sighting("b")], "seen 2 times, 09:00:00"),
        ([Sighting("a", place=GATE), Sighting("b", place=YARD)], "seen 2 times at 2 places"),
        (
            [*at((9, 0, 0), place=GATE), *at((9, 5, 0), (9, 1, 0), place=YARD)],
            "seen 3 times at 2 places, 09:00 to 09:05",
        ),
        (
            [*at((9, 0, 0)), Sighting("a", seconds=NOON.replace(day=4, tzinfo=UTC).timestamp(), clock=True)],
            "seen 2 times, 2024-05-01 09:00 to 2024-05-04 12:00",
        ),
        (after(2.4, 72.9), "seen 2 times, 0:02 to 1:12"),
        ([*after(2.0, place=GATE), *after(9.0, place=LATER)], "seen 2 times"),
        ([*at((9, 0, 0), place=GATE), *at((9, 0, 0), place=LATER)], "seen 2 times, 09:00:00"),
        ([*at((9, 0, 0)), *after(2.4)], "seen 2 times, 09:00:00"),
    ],
)
def test_describes_how_often_where_and_when(sightings, words):
    assert describe_sightings(sightings) == words
