import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.footage.videos import box_at, mot_lines, open_cv, write_video
from tpr_jax.footage.boxes import read_box_file
from tpr_jax.footage.scan import (
    ScanSettings,
    is_scan,
    read_scan,
    remove_other_crops,
    remove_scan,
    scan,
    scan_folder,
)

cv2 = open_cv()
SETTINGS = ScanSettings("boxes", every=0.2, sure=0.0, pad=0.0, min_height=10, min_sightings=1)


@pytest.fixture
def video(tmp_path):
    (tmp_path / "boxes.txt").write_text(mot_lines(40))
    return write_video(tmp_path / "a.avi")


def run(video, folder, settings=SETTINGS, **options):
    boxes = read_box_file(video.parent / "boxes.txt", "f")
    return scan(
        video, folder, lambda n: lambda pixels: boxes.find("a.avi", n, (320, 240)), settings, **options
    )


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_people_are_two_tracks_with_their_best_crops(video, tmp_path):
    result = run(video, tmp_path / "out")
    assert [(t.number, t.first, t.last, t.count) for t in result.tracks] == [
        (0, 0.0, 3.8, 20),
        (1, 0.0, 3.8, 20),
    ]
    assert result.frames == 20 and result.notes == []
    for person, track in enumerate(result.tracks):
        assert track.best.box == box_at(person, track.best.frame) and len(track.crops) == 4
        crop = cv2.imread(str(tmp_path / "out" / track.crops[0]))
        assert crop.shape == (96, 32, 3)
    crops = [name for track in result.tracks for name in track.crops]
    assert files(tmp_path / "out") == sorted([*crops, "journal.jsonl", "tracks.json"])


def test_without_tracks_each_box_is_kept(video, tmp_path):
    result = run(video, tmp_path / "out", SETTINGS.__class__(**{**SETTINGS.__dict__, "tracks": False}))
    assert len(result.tracks) == 40 and all(track.count == 1 for track in result.tracks)
    assert len(files(tmp_path / "out")) == 42


def test_several_workers_give_the_same(video, tmp_path):
    assert run(video, tmp_path / "a") == run(video, tmp_path / "b", workers=3)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_finished_video_is_not_opened_again(video, tmp_path):
    first = run(video, tmp_path / "out")
    video.unlink()
    assert run(video, tmp_path / "out") == first == read_scan(tmp_path / "out")


def test_goes_on_at_the_frame_where_it_was_stopped(video, tmp_path):
    whole = run(video, tmp_path / "whole")
    seen = []
    for _ in range(100):
        count = len(seen)
        result = run(
            video,
            tmp_path / "out",
            progress=seen.append,
            stopped=lambda count=count: len(seen) - count >= 3,
        )
        if result is not None:
            break
    assert result == whole and seen == pytest.approx([0.2 * i for i in range(20)])
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    for name in files(tmp_path / "out"):
        if name.endswith(".jpg"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.footage.test_scan import run
seen = []
def progress(seconds):
    seen.append(seconds)
    if len(seen) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)
"""


@pytest.mark.parametrize("frames", [1, 7])
def test_loses_nothing_when_it_is_killed(video, tmp_path, frames):
    whole = run(video, tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, str(video), str(tmp_path / "out"), str(frames)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    seen = []
    assert run(video, tmp_path / "out", progress=seen.append) == whole
    assert len(seen) == 20 - frames and files(tmp_path / "out") == files(tmp_path / "whole")


def test_other_settings_and_a_changed_video_have_another_folder(video, tmp_path):
    first = scan_folder(tmp_path, video, SETTINGS)
    assert first == scan_folder(tmp_path, video, SETTINGS) and first.name.startswith("a-")
    assert first != scan_folder(tmp_path, video, ScanSettings("other"))
    os.utime(video, ns=(1, 1))
    assert first != scan_folder(tmp_path, video, SETTINGS)


def test_at_most_twice_as_many_frames_as_workers_are_in_memory(video, tmp_path, monkeypatch):
    """Counts frames that are read but not yet written."""
    from tpr_jax.footage import scan as module

    read, most, done = [], [], []
    original = module.read_frames

    def counted(*args):
        for frame in original(*args):
            read.append(frame.number)
            most.append(len(read) - len(done))
            yield frame

    monkeypatch.setattr(module, "read_frames", counted)
    run(video, tmp_path / "out", workers=2, progress=done.append)
    assert max(most) <= 4 + 1 and np.all(np.diff(read) > 0)


def test_removes_a_scan_and_nothing_else(video, tmp_path):
    folder = scan_folder(tmp_path, video, SETTINGS)
    run(video, folder)
    assert is_scan(folder) and not is_scan(tmp_path)
    (tmp_path / "link-0123456789ab").symlink_to(folder)
    remove_scan(tmp_path / "link-0123456789ab")
    (folder / "note.txt").write_text("mine")
    before = files(folder)
    remove_scan(folder)
    assert files(folder) == before
    (folder / "note.txt").unlink()
    remove_scan(folder)
    assert not folder.exists()


def test_removes_other_crops_but_not_other_photos(tmp_path):
    for name in ("f000001-00.jpg", "f000002-01.jpg", "friends.jpg"):
        (tmp_path / name).touch()
    assert remove_other_crops(tmp_path, ["f000001-00.jpg"]) == 1
    assert files(tmp_path) == ["f000001-00.jpg", "friends.jpg"]
    assert remove_other_crops(tmp_path / "none", []) == 0
