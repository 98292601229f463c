"""Frames at given times, against the frames of the whole video."""

import pytest

from tests.footage.videos import number_shown, open_cv, rotate, vary_rate, write_video
from tpr_jax.errors import UserError
from tpr_jax.footage import seek
from tpr_jax.footage.seek import frames_at
from tpr_jax.footage.video import Span, read_frames

cv2 = open_cv()


def whole(path):
    return list(read_frames(path, Span(every=0), print))


@pytest.fixture(params=["a.avi", "a.mp4", "varying.mp4"])
def video(request, tmp_path):
    path = write_video(tmp_path / request.param, frames=60)
    if request.param == "varying.mp4":
        vary_rate(path, first=30, factor=5)
    return path


def test_each_frame_is_found_by_its_own_time(video):
    for frame in whole(video):
        (found,) = frames_at(video, [round(frame.seconds, 4)])
        assert found.seconds == pytest.approx(frame.seconds, abs=1e-6)
        assert (found.pixels == frame.pixels).all()


def test_several_times_are_one_pass_and_end_with_the_video(video, monkeypatch):
    frames = whole(video)
    opened = []
    monkeypatch.setattr(
        seek, "open_video", lambda cv2, path, start: opened.append(path) or OPEN(cv2, path, start)
    )
    times = [frames[40].seconds - 0.01, frames[40].seconds, frames[50].seconds, 1000.0, 2000.0]
    found = list(frames_at(video, times))
    assert [number_shown(one.pixels) for one in found] == pytest.approx([40, 40, 50], abs=1)
    assert [one.seconds for one in found] == [frames[i].seconds for i in (40, 40, 50)]
    assert len(opened) == 1 or video.name == "varying.mp4"  # where a jump may go too far
    assert list(frames_at(video, [])) == []


OPEN = seek.open_video


def test_jumps_instead_of_reading_from_the_start(tmp_path):
    video = write_video(tmp_path / "a.avi", frames=60)  # in which each frame is a key frame
    (found,) = frames_at(video, [5.5])
    assert number_shown(found.pixels) == 55 and found.number < 10


def test_a_jump_that_goes_too_far_is_repeated_from_further_back(video, monkeypatch):
    monkeypatch.setattr(seek, "JUMPS", (-2.0, 0.5))
    frame = whole(video)[20]
    (found,) = frames_at(video, [frame.seconds])
    assert (found.pixels == frame.pixels).all()


def test_a_file_that_gives_no_times_is_read_from_its_start(tmp_path, monkeypatch):
    video = write_video(tmp_path / "a.avi", frames=60)
    whole_frames = whole(video)

    class Timeless:
        def __init__(self, capture):
            self._capture = capture

        def get(self, key):
            return 0.0 if key == cv2.CAP_PROP_POS_MSEC else self._capture.get(key)

        def __getattr__(self, name):
            return getattr(self._capture, name)

    monkeypatch.setattr(seek, "open_video", lambda cv2, path, start: Timeless(OPEN(cv2, path, start)))
    (found,) = frames_at(video, [4.0])
    assert found.number == 40 and (found.pixels == whole_frames[40].pixels).all()


def test_a_rotated_video_is_turned_upright(tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=20)
    rotate(video)
    (found,) = frames_at(video, [1.0])
    assert found.pixels.shape == (320, 240, 3)


def test_errors_are_one_line(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"a\.mp4: is not a video"):
        list(frames_at(tmp_path / "a.mp4", [0]))
    with pytest.raises(UserError, match="takes too long"):
        list(frames_at(write_video(tmp_path / "b.avi"), [1.0], max_seconds=-1))
