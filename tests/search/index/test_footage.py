"""From a video, or a folder of videos and photos, to an index of people."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.footage.videos import box_at, frame_with_people, mot_lines, open_cv, people, write_video
from tpr_jax.errors import UserError
from tpr_jax.model import from_pretrained
from tpr_jax.search.__main__ import run
from tpr_jax.search.index.store import open_index
from tpr_jax.search.query.search import open_searcher, search
from tpr_jax.search.server.images import photo_jpeg

cv2 = open_cv()


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "footage"
    folder.mkdir()
    write_video(folder / "gate.avi")
    (tmp_path / "boxes.txt").write_text(mot_lines(40))
    return folder


def index(source, *flags, boxes="boxes.txt", into="index"):
    place = source.parent if source.is_dir() else source.parent.parent
    run(
        [
            "index",
            str(source),
            "--index",
            str(place / into),
            "--detect",
            str(place / boxes),
            "--pad",
            "0",
            *flags,
        ]
    )
    return open_index(place / into)


def rows(opened):
    return opened.table.drop_columns(["file_size", "file_mtime_ns", "file_sha256"]).to_pylist()


def test_a_track_is_a_row_with_camera_time_and_box(source):
    opened = index(source / "gate.avi", "--clock", "2024-05-01 10:00", "--camera", "north")
    for number, row in enumerate(rows(opened)):
        seconds = row["frame"] / 10
        assert (row["camera"], row["video"], row["track"]) == ("north", "gate.avi", number)
        assert row["time"].isoformat(timespec="milliseconds") == f"2024-05-01T10:00:0{seconds:.3f}"
        assert tuple(row[name] for name in "xywh") == box_at(number, row["frame"])
        assert row["score"] == pytest.approx(0.9)
    assert len(rows(opened)) == 2


def test_the_vector_of_a_track_is_the_mean_of_its_crops(source):
    opened = index(source / "gate.avi", "--keep_crops")
    model = from_pretrained(opened.info["model"]["name"])
    (folder,) = (opened.folder / "crops").iterdir()
    tracks = json.loads((folder / "tracks.json").read_text())["tracks"]
    for vector, track in zip(opened.vectors, tracks, strict=True):
        assert len(track[5]) == 4
        mean = model.encode_images([str(folder / name) for name in track[5]]).mean(axis=0)
        assert vector.astype(np.float32) == pytest.approx(mean / np.linalg.norm(mean), abs=2e-3)


def test_only_the_best_crop_is_kept_and_shown(source):
    opened = index(source / "gate.avi")
    crops = list((opened.folder / "crops").rglob("*.jpg"))
    assert len(crops) == 2
    for row in range(2):
        from io import BytesIO

        assert Image.open(BytesIO(photo_jpeg(opened, row, "small"))).size == (32, 96)


def test_an_unchanged_video_is_neither_opened_nor_encoded_again(source, capsys, monkeypatch):
    first = index(source / "gate.avi")
    monkeypatch.setattr(cv2, "VideoCapture", None)
    second = index(source / "gate.avi")
    assert rows(first) == rows(second) and (first.vectors == second.vectors).all()
    assert "2 photos indexed: 0 encoded, 2 unchanged" in capsys.readouterr().out


def test_a_later_run_needs_no_flags(source, capsys):
    first = index(source / "gate.avi", "--camera", "north")
    run(["index", str(source / "gate.avi"), "--index", str(first.folder)])
    assert rows(open_index(first.folder)) == rows(first)


def test_another_camera_or_clock_decodes_nothing(source, monkeypatch):
    index(source / "gate.avi")
    monkeypatch.setattr(cv2, "VideoCapture", None)
    opened = index(source / "gate.avi", "--camera", "south", "--clock", "2024-05-01")
    assert {row["camera"] for row in rows(opened)} == {"south"}
    assert {row["time"].year for row in rows(opened)} == {2024}


def test_query_prints_camera_and_time_and_filters_by_them(source, capsys):
    opened = index(source / "gate.avi", "--clock", "2024-05-01 10:00", "--camera", "north")
    capsys.readouterr()
    run(["query", "a man", "--index", str(opened.folder)])
    best = capsys.readouterr().out.splitlines()[0]
    assert "north  2024-05-01 10:00:0" in best
    searcher = open_searcher(opened.folder)
    span = "camera='north' and time>='2024-05-01 10:00' and time<'2024-05-01 10:01'"
    assert search(searcher, "a man", where=span)["matching"] == 2
    assert search(searcher, "a man", where="time>'2024-05-01 10:01'")["matching"] == 0


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


def test_a_second_source_is_added_and_replaced(source):
    write_video(source / "yard.avi", frames=20)
    first = index(source / "gate.avi")
    with pytest.raises(UserError, match="--add indexes"):
        index(source / "yard.avi")
    both = index(source / "yard.avi", "--add")
    assert [row["video"] for row in rows(both)] == ["gate.avi"] * 2 + ["yard.avi"] * 2
    assert (both.vectors[:2] == first.vectors).all()
    assert [row["video"] for row in rows(index(source / "yard.avi", "--replace"))] == ["yard.avi"] * 2
    assert len(list((both.folder / "crops").glob("gate-*"))) == 0


def test_boxes_of_missing_frames_are_a_note(source, capsys):
    (source.parent / "boxes.txt").write_text(mot_lines(60))
    index(source / "gate.avi")
    assert "has 40 frames, but 20 others have boxes, such as frame 40" in capsys.readouterr().out


def test_boxes_without_the_name_of_a_video_are_of_one_video(source):
    write_video(source / "yard.avi", frames=20)
    with pytest.raises(UserError, match=r"boxes\.txt: does not say to which of the 2 videos"):
        index(source)


def test_nobody_is_found(source):
    (source.parent / "boxes.txt").write_text("900,-1,1,1,30,90,1\n")
    with pytest.raises(UserError, match="no people were found"):
        index(source / "gate.avi")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--every", "-1"], "--every -1"),
        (["--start", "5", "--end", "2"], "--end 2"),
        (["--clock", "ten"], "--clock ten"),
        (["--detect", "missing.onnx"], "missing.onnx: no such file"),
    ],
)
def test_invalid_flags_are_one_line(source, flags, message):
    with pytest.raises(UserError, match=message):
        index(source / "gate.avi", *flags)


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
