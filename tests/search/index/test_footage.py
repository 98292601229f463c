"""From a video, or a folder of videos and photos, to an index of people."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.footage.indexed import index, make_source, rows
from tests.footage.videos import box_at, frame_with_people, mot_lines, open_cv, people, write_video
from tests.small_disk import run_enlarging
from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import run
from tpr_jax.search.index import footage
from tpr_jax.search.index.store import open_index

cv2 = open_cv()


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path)


def test_an_unchanged_video_is_neither_opened_nor_encoded_again(source, capsys, monkeypatch):
    first = index(source / "gate.avi")
    monkeypatch.setattr(cv2, "VideoCapture", None)
    monkeypatch.setattr(footage, "read_recorded", None)
    second = index(source / "gate.avi")
    assert rows(first) == rows(second) and (first.vectors == second.vectors).all()
    assert "2 photos indexed: 0 encoded, 2 unchanged" in capsys.readouterr().out


def test_a_folder_of_videos_and_photos_with_broken_ones(source, capsys):
    """The photo is a row with its own file and a box in it."""
    Image.fromarray(frame_with_people(10, people(2))).save(source / "street.png")
    (source / "broken.mp4").write_bytes(b"no video")
    (source / "empty.avi").write_bytes(b"")
    (source / "broken.jpg").write_bytes(b"no photo")
    boxes = [{"image": "gate.avi", "frame": f, **b} for f in range(0, 40, 5) for b in columns(f)]
    boxes += [{"image": "street.png", **b} for b in columns(10)]
    text = "".join(json.dumps(one) + "\n" for one in boxes)
    (source.parent / "boxes.jsonl").write_text(text)
    opened = index(source, boxes="boxes.jsonl")
    found = rows(opened)
    assert [row["video"] for row in found] == ["gate.avi", "gate.avi", None, None]
    assert [row["path"] for row in found[2:]] == ["footage/street.png"] * 2
    assert tuple(found[2][name] for name in "xywh") == box_at(0, 10)
    skipped = [
        json.loads(line)["photo"] for line in (opened.folder / "skipped.jsonl").read_text().splitlines()
    ]
    assert sorted(skipped) == ["broken.jpg", "broken.mp4", "empty.avi"]


def columns(frame):
    return [dict(zip("xywh", box_at(person, frame), strict=True)) for person in range(2)]


def test_boxes_of_missing_frames_are_a_note(source, capsys):
    (source.parent / "boxes.txt").write_text(mot_lines(60))
    index(source / "gate.avi")
    assert "has 40 frames, but 20 others have boxes, such as frame 40" in capsys.readouterr().out


def test_boxes_without_the_name_of_a_video_are_of_one_video(source):
    write_video(source / "yard.avi", frames=20)
    with pytest.raises(UserError, match=r"boxes\.txt: does not say to which of the 2 videos"):
        index(source)


def test_flags_of_footage_need_detect(source):
    with pytest.raises(UserError, match=r"--every: .* needs --detect"):
        run(["index", str(source), "--index", str(source.parent / "i"), "--every", "2"])


def test_a_missing_source_is_one_line(source):
    with pytest.raises(UserError, match="no such video, folder or pattern"):
        index(source / "missing*.avi")


def test_a_pattern_takes_the_videos_that_match(source):
    write_video(source / "yard.avi", frames=20)
    opened = index(source / "ya*.avi")
    assert {row["video"] for row in rows(opened)} == {"yard.avi"}


def test_killed_while_scanning_it_goes_on(source):
    """SIGKILL after the first frame; the index is the same as that of one run."""
    whole = index(source / "gate.avi", into="whole")
    script = (
        "import os, signal, sys\n"
        "from tpr_jax.footage import journal\n"
        "original = journal.Writer.add\n"
        "def add(self, line):\n"
        "    original(self, line)\n"
        "    if line.frame >= 10: os.kill(os.getpid(), signal.SIGKILL)\n"
        "journal.Writer.add = add\n"
        "from tpr_jax.search.__main__ import run\n"
        "run(sys.argv[1:])\n"
    )
    place = source.parent
    command = ["index", str(source / "gate.avi"), "--index", str(place / "index"), "--detect"]
    command += [str(place / "boxes.txt"), "--pad", "0"]
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=ROOT, env=os.environ, capture_output=True
    )
    assert done.returncode == -9, done.stderr
    opened = index(source / "gate.avi")
    assert rows(opened) == rows(whole) and (opened.vectors == whole.vectors).all()


def test_a_disk_that_fills_while_scanning_is_one_line(source, on_small_disk, tmp_path):
    """The same command finishes on a larger disk, with the index of one run."""
    whole = index(source / "gate.avi", into="whole")
    _, disk = on_small_disk
    place = source.parent
    command = [sys.executable, "-m", "tpr_jax.search", "index", str(source / "gate.avi")]
    command += ["--index", str(disk / "index"), "--detect", str(place / "boxes.txt"), "--pad", "0"]
    run_enlarging(40, disk, tmp_path / "copy", [*command, "--dtype", "float32"], os.environ)
    opened = open_index(tmp_path / "copy/index")
    assert rows(opened) == rows(whole)
    np.testing.assert_allclose(opened.vectors, whole.vectors, atol=1e-3)
