import base64
from dataclasses import replace

import numpy as np
import pytest

from tests.footage.videos import number_shown, open_cv, rotate, vary_rate, write_video
from tpr_jax.errors import UserError
from tpr_jax.footage import video
from tpr_jax.footage.video import Done, Span, checksum, next_due, read_frames

cv2 = open_cv()


def read(path, span=None):
    span, notes = span or Span(), []
    return list(read_frames(path, span, notes.append)), notes


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_yields_frames_at_a_spacing_with_their_times(tmp_path, name):
    frames, notes = read(write_video(tmp_path / name), Span(every=0.5))
    assert [frame.number for frame in frames] == [0, 5, 10, 15, 20, 25, 30, 35]
    assert [frame.seconds for frame in frames] == pytest.approx([0.5 * i for i in range(8)])
    # MPEG-4 does not code the smallest changes.
    assert max(abs(number_shown(frame.pixels) - frame.number) for frame in frames) <= (name == "a.mp4")
    assert frames[0].pixels.shape == (240, 320, 3) and notes == []


def test_starts_and_ends_where_it_is_told(tmp_path):
    frames, _ = read(write_video(tmp_path / "a.avi"), Span(every=0.2, start=1.0, end=1.5))
    assert [frame.number for frame in frames] == [10, 12, 14]


def write_minute(path, varying=False):
    path = write_video(path, frames=60, rate=1.0)
    if varying:
        vary_rate(path, first=30, factor=4)
    return path


def count_grabs(monkeypatch):
    """Returns a list to which each frame that is read adds its file."""
    grabbed, opened = [], video.open_video

    class Counting:
        def __init__(self, path, start):
            self.path, self.capture = path, opened(cv2, path, start)

        def grab(self):
            grabbed.append(self.path)
            return self.capture.grab()

        def __getattr__(self, name):
            return getattr(self.capture, name)

    monkeypatch.setattr(video, "open_video", lambda cv2, path, start=0.0: Counting(path, start))
    return grabbed


@pytest.mark.parametrize(("name", "varying"), [("a.avi", False), ("a.mp4", False), ("a.mp4", True)])
@pytest.mark.parametrize("last", [0, 3, 10, 16, 19])
def test_resumes_at_the_next_frame_without_reading_what_is_done(tmp_path, monkeypatch, name, varying, last):
    path = write_minute(tmp_path / name, varying)
    span = Span(every=3.0)
    whole, notes = read(path, span)
    assert notes == []
    frame = whole[last]
    done = Done(frame.number, round(frame.seconds, 4), checksum(frame.pixels), frame.seconds + 3.0)
    grabbed = count_grabs(monkeypatch)
    rest, notes = read(path, replace(span, done=done))
    assert notes == []
    assert [(one.number, one.seconds) for one in rest] == [
        (one.number, pytest.approx(one.seconds)) for one in whole[last + 1 :]
    ]
    assert all((a.pixels == b.pixels).all() for a, b in zip(rest, whole[last + 1 :], strict=True))
    # It begins half a second before the last frame that is done, or, where the rate varies, up to 30 s.
    assert len(grabbed) <= 60 - frame.number + (40 if varying else 2)


@pytest.mark.parametrize("change", [{"checksum": 1}, {"checksum": None}, {"seconds": 29.7}])
def test_resumes_from_the_start_where_the_last_frame_is_not_found(tmp_path, monkeypatch, change):
    path = write_minute(tmp_path / "a.avi")
    whole, _ = read(path, Span(every=3.0))
    frame = whole[10]
    done = Done(frame.number, frame.seconds, checksum(frame.pixels), frame.seconds + 3.0)._replace(**change)
    grabbed = count_grabs(monkeypatch)
    rest, _ = read(path, Span(every=3.0, done=done))
    assert [one.number for one in rest] == [one.number for one in whole[11:]]
    assert len(grabbed) > 60


def test_chooses_among_wanted_frames_and_names_those_that_do_not_exist(tmp_path):
    frames, notes = read(write_video(tmp_path / "a.avi"), Span(every=0.5, wanted={3, 4, 12, 99, 100}))
    assert [frame.number for frame in frames] == [3, 12]
    (note,) = notes
    assert note.endswith("has 40 frames, but 2 others have boxes, such as frame 99")


def test_a_varying_frame_rate_keeps_the_times_of_the_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20)
    vary_rate(path, first=10, factor=4)
    frames, _ = read(path, Span(every=0))
    expected = [0.1 * i for i in range(10)] + [1 + 0.4 * i for i in range(10)]
    assert [frame.seconds for frame in frames] == pytest.approx(expected, abs=1e-3)


def test_a_rotated_video_is_turned_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=3)
    (before, *_), _ = read(path)
    rotate(path)
    (after, *_), _ = read(path)
    assert after.pixels.shape == (320, 240, 3)
    difference = after.pixels.astype(int) - cv2.rotate(before.pixels, cv2.ROTATE_90_CLOCKWISE)
    assert abs(difference).max() <= 2


# Ten gray frames of 10 bits, 64 + 85 i of 64..940, by x265 3.5 (`--input-depth 10 -D 10 --ctu 16`): no
# package at hand writes 10 bits.
TEN_BITS = (
    "AAAAAUABDAH//wIgAAADAJAAAAMAAAMAHpWYCQAAAAFCAQECIAAAAwCQAAADAAADAB6gECBBNllZqvK4BAAAD6AAAJxAIAAAAAFE"
    "AcFz0YkAAAABKAGvESEtmuiD1/+LhYLKttdozKiXja7IR6aa456RCoeAkGEOwBEQAAAAAQIB2Al+IkJbNOiFw//jImCyrbXaM6iX"
    "ja7IR6aa456RCoeAkGEOwBEQAAAAAQIB0CnJ/WMiAqmIEbSg+TNHuMdn/rk3NIcWMAAAAAECAeBml19RihFVkIlYAA8YAC2gAGrA"
    "AAAAAQAB4Eb/X0ixgiqgjQvYAA/YADGgAHjAAAAAAQAB4IItf9xjJFVAjQvYAA/YADGgAHjAAAAAAQIB0EiyVX9z4GArmIkbSvkz"
    "R7jHZ/65NzSHFjAAAAABAgHg4iVVX3GKEVWQiVgADxgALaAAasAAAAABAAHgxvXX0ixkiqiNC9gAD9gAMaAAeMAAAAABAAHhAi1X"
    "9xjBFVCNC9gAD9gAMaAAeMA="
)


def test_ten_bits_are_reduced_to_eight(tmp_path):
    path = tmp_path / "ten.hevc"
    path.write_bytes(base64.b64decode(TEN_BITS))
    frames, notes = read(path, Span(every=0))
    assert notes == [] and [frame.pixels.dtype for frame in frames] == [np.uint8] * 10
    grays = [float(frame.pixels.mean()) for frame in frames]
    assert grays == pytest.approx([85 * i * 255 / 876 for i in range(10)], abs=1)
    # A bare stream has no times: they are those of the frame rate, and reading begins at the start to resume.
    assert [frame.seconds for frame in frames] == pytest.approx([i / 25 for i in range(10)])
    done = Done(5, 0.2, checksum(frames[5].pixels), 0.2)
    rest, _ = read(path, Span(every=0, done=done))
    assert [frame.number for frame in rest] == [6, 7, 8, 9]


def test_a_video_that_is_cut_off_is_read_to_its_break_with_a_note(tmp_path):
    path = write_video(tmp_path / "a.avi")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames, notes = read(path, Span(every=0))
    assert 10 < len(frames) < 30
    assert f"ends after {len(frames)} of 40 frames" in notes[0] and len(notes) == 1


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_a_file_that_is_no_video_is_one_line(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4: is (empty|not a video)") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_an_mp4_that_was_never_finished_is_one_line(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])  # the index of the file is written last
    with pytest.raises(UserError, match="is not a video that can be read"):
        read(path)


def test_a_video_without_frames_is_one_line(tmp_path):
    path = write_video(tmp_path / "a.avi", frames=0)
    with pytest.raises(UserError, match=r"a\.avi: (has no frames|is not a video)"):
        read(path)


@pytest.mark.parametrize(
    ("due", "seconds", "following"), [(1.0, 1.0, 1.5), (1.0, 1.04, 1.5), (1.0, 9.3, 9.8), (1.0, 1.5, 2.0)]
)
def test_the_grid_stays_unless_there_is_a_gap(due, seconds, following):
    assert next_due(due, seconds, 0.5) == pytest.approx(following)
