"""Who, where and when: from columns of tables, and from the names of photos."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from tpr_jax.search.query.sightings import Sighting, find_sightings

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
        "a/b.jpg", (("person_id", "p1"),), (*place, ("track", 7)), place, NOON.replace(tzinfo=UTC).timestamp()
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
