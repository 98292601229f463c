"""People of a video as rows of an index: columns, vectors, crops, and several sources."""

import io
import json
from datetime import datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from tests.footage.indexed import index, make_source, rows
from tests.footage.videos import box_at, open_cv, set_recorded, write_video
from tpr_jax.errors import UserError
from tpr_jax.model import from_pretrained
from tpr_jax.search.__main__ import run
from tpr_jax.search.index.footage import scan_source
from tpr_jax.search.index.footage_manifest import FootageOptions
from tpr_jax.search.query.search import open_searcher, search
from tpr_jax.search.server.images import photo_jpeg

cv2 = open_cv()


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path)


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
        assert Image.open(io.BytesIO(photo_jpeg(opened, row, "small"))).size == (32, 96)


def test_another_camera_or_clock_decodes_nothing(source, monkeypatch):
    index(source / "gate.avi")
    monkeypatch.setattr(cv2, "VideoCapture", None)
    opened = index(source / "gate.avi", "--camera", "south", "--clock", "2024-05-01")
    assert {row["camera"] for row in rows(opened)} == {"south"}
    assert {row["time"].year for row in rows(opened)} == {2024}


def test_a_video_without_clock_begins_when_its_file_says(tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV is not installed: requirements-footage.txt")
    folder = tmp_path / "cams"
    folder.mkdir()
    set_recorded(write_video(folder / "new.mp4", 20), 1_714_550_400)
    write_video(folder / "old.mp4", 20)
    lines = [f"{v}.mp4,{f}," + ",".join(map(str, box_at(0, f))) for v in ("new", "old") for f in range(20)]
    (tmp_path / "boxes.csv").write_text("\n".join(["video,frame,x,y,w,h", *lines]))
    opened = index(folder, boxes="boxes.csv")
    begins = datetime.fromtimestamp(1_714_550_400)  # in the time zone of this machine
    assert f"new.mp4: begins at {begins} by its metadata" in capsys.readouterr().out
    times = {row["video"]: row["time"] for row in rows(opened)}
    frame = next(row["frame"] for row in rows(opened) if row["video"] == "new.mp4")
    assert times["new.mp4"] == begins + timedelta(seconds=frame / 10)
    assert times["old.mp4"] is None  # rather than seconds in a column of times
    opened = index(folder, "--clock", "2020-01-01 10:00", boxes="boxes.csv")
    assert "begins at" not in capsys.readouterr().out
    assert {row["time"].year for row in rows(opened)} == {2020}


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


def test_nobody_is_found(source):
    (source.parent / "boxes.txt").write_text("900,-1,1,1,30,90,1\n")
    with pytest.raises(UserError, match="no people were found"):
        index(source / "gate.avi")


def test_keeps_what_a_user_has_beside_the_crops(source):
    opened = index(source / "gate.avi")
    mine = opened.folder / "crops" / "cam0" / "f000001-00.jpg"
    mine.parent.mkdir()
    mine.write_text("mine")
    (opened.folder / "crops" / "photos-mine.jsonl").write_text("mine")
    index(source / "gate.avi", "--every", "0.5", "--replace")
    assert mine.read_text() == "mine" and (opened.folder / "crops" / "photos-mine.jsonl").exists()
    assert len(list((opened.folder / "crops").glob("gate-*"))) == 1


def test_a_new_index_of_a_video_refuses_a_folder_of_crops(source):
    (source / "new" / "crops").mkdir(parents=True)
    (source / "new" / "crops" / "1.jpg").write_text("mine")
    with pytest.raises(UserError, match=r"holds crops/1.jpg, which a new index would replace or remove"):
        scan_source(source / "gate.avi", source / "new", FootageOptions())
    assert [path.name for path in (source / "new" / "crops").iterdir()] == ["1.jpg"]
