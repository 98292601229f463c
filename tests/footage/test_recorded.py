import os
import time
from datetime import datetime

import pytest

from tests.footage.videos import open_cv, set_recorded, write_video
from tpr_jax.footage.recorded import parse_metadata, read_recorded

open_cv()
pytest.importorskip("av", reason="PyAV is not installed: requirements-footage.txt")
APPLE = "com.apple.quicktime.creationdate"


@pytest.fixture
def berlin(monkeypatch):
    """This machine in another time zone: two hours before UTC in May, one in January."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_time_of_a_file_in_the_zone_of_this_machine(tmp_path, berlin):
    video = write_video(tmp_path / "a.mp4", 3)
    assert read_recorded(video) is None
    set_recorded(video, 1_714_550_400)  # 2024-05-01 08:00:00 UTC
    assert read_recorded(video) == datetime(2024, 5, 1, 10)


@pytest.mark.parametrize(
    "metadata, expected",
    [
        ({}, None),
        ({"creation_time": "2024-01-01T08:00:00.000000Z"}, datetime(2024, 1, 1, 9)),
        ({"creation_time": "2024-01-01T08:00:00"}, datetime(2024, 1, 1, 8)),
        ({"creation_time": "1904-01-01T00:00:00.000000Z"}, None),
        ({"creation_time": "1970-01-01T00:00:07.000000Z"}, None),
        # The time of the place, wherever this machine is.
        (
            {"creation_time": "2024-05-01T08:00:00Z", APPLE: "2024-05-01T17:00:00+0900"},
            datetime(2024, 5, 1, 17),
        ),
    ],
)
def test_metadata(metadata, expected, berlin):
    assert parse_metadata(metadata) == expected


@pytest.mark.parametrize("content", [b"", b"no video", os.urandom(2000)])
def test_a_file_that_is_no_video_has_no_time(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert read_recorded(path) is None
    assert read_recorded(tmp_path / "gone.mp4") is None


def test_without_pyav_there_is_no_time(tmp_path, monkeypatch):
    video = set_recorded(write_video(tmp_path / "a.mp4", 3), 1_714_550_400)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert read_recorded(video) is None


def test_metadata_that_is_no_time(tmp_path, monkeypatch):
    """A file may say anything."""
    video = write_video(tmp_path / "a.mp4", 3)
    monkeypatch.setattr(
        "tpr_jax.footage.recorded.parse_metadata", lambda metadata: datetime.fromisoformat("x")
    )
    assert read_recorded(video) is None
