"""Scenes of rows: the frame that the index names, and nothing but the files that it lists."""

import dataclasses
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.footage.scenes import FRAMES, PHOTO_FRAME, make_scenes, rows_of
from tests.footage.videos import box_at, frame_with_people, number_shown, open_cv, people
from tpr_jax.search.server import scenes
from tpr_jax.search.server.scenes import GoneError, NoSceneError, find_scene, show_frame, show_moments

open_cv()


@pytest.fixture
def searcher(tmp_path):
    return make_scenes(tmp_path, "gate.avi")


def pixels_of(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def test_the_frame_of_a_row_is_the_one_that_its_columns_name(searcher):
    index = searcher.index
    for row in rows_of(searcher, "gate.avi"):
        scene = find_scene(index, "v", row)
        frame = index.table["frame"][row].as_py()
        shown = show_frame(scene)
        assert number_shown(pixels_of(shown.jpeg)) == frame and scene.seconds == shown.seconds == frame / 10
        assert shown.size == (320, 240) and scene.media_type is None
        assert scene.box in [box_at(person, frame) for person in range(2)]


def test_the_scene_of_a_photo_is_the_whole_photo(searcher):
    row, _ = rows_of(searcher, None)
    scene = find_scene(searcher.index, "v", row)
    assert scene.box == box_at(0, PHOTO_FRAME) and scene.seconds is None and scene.media_type is None
    shown = show_frame(scene)
    difference = pixels_of(shown.jpeg).astype(int) - frame_with_people(PHOTO_FRAME, people(2))
    assert shown.size == (320, 240) and abs(difference).mean() < 3


def test_moments_are_steps_around_it_within_the_video(searcher):
    row = rows_of(searcher, "gate.avi")[0]
    scene = find_scene(searcher.index, "v", row)._replace(seconds=4.5)
    moments = show_moments(scene)
    assert [one.seconds for one in moments] == [1.5 + 0.5 * i for i in range(9)]  # the last frame is at 5.9
    assert [number_shown(pixels_of(one.jpeg)) for one in moments] == [15 + 5 * i for i in range(9)]
    early = scenes.moment_times(scene._replace(seconds=1.0, step=0.25))
    assert early[0] == 0 and early[-1] == 5.0 and len(early) == 21
    # A frame that stands for several times is there once.
    assert len(show_moments(scene._replace(step=0.05))) == len(range(15, FRAMES))


def test_frames_are_large_only_as_far_as_they_are_shown(searcher, monkeypatch):
    monkeypatch.setattr(scenes, "SIDE", 100)
    monkeypatch.setattr(scenes, "MOMENT_SIDE", 50)
    scenes._frame.cache_clear(), scenes._moments.cache_clear(), scenes._photo.cache_clear()
    scene = find_scene(searcher.index, "v", rows_of(searcher, "gate.avi")[0])
    assert pixels_of(show_frame(scene).jpeg).shape == (75, 100, 3)
    assert pixels_of(show_moments(scene)[0].jpeg).shape == (38, 50, 3)
    photo = find_scene(searcher.index, "v", rows_of(searcher, None)[0])
    assert pixels_of(show_frame(photo).jpeg).shape == (75, 100, 3)
    scenes._frame.cache_clear(), scenes._moments.cache_clear(), scenes._photo.cache_clear()


def test_a_frame_is_decoded_once(searcher, monkeypatch):
    calls = []
    decode = scenes.frames_at
    monkeypatch.setattr(scenes, "frames_at", lambda *given: calls.append(given) or decode(*given))
    scene = find_scene(searcher.index, "v", rows_of(searcher, "gate.avi")[0])
    assert show_frame(scene) is show_frame(scene) and show_moments(scene) is show_moments(scene)
    assert len(calls) == 2


def test_a_row_that_is_not_there(searcher):
    for row in (-1, searcher.index.table.num_rows):
        with pytest.raises(IndexError):
            find_scene(searcher.index, "v", row)


@pytest.mark.parametrize("video", ["gate.avi", None])
def test_a_file_that_has_changed_or_is_gone_is_not_shown(searcher, video):
    scene = find_scene(searcher.index, "v", rows_of(searcher, video)[0])
    show_frame(scene)  # also if a frame of it is kept
    before = os.stat(scene.source.path)
    os.utime(scene.source.path, ns=(0, before.st_mtime_ns + 1))
    with pytest.raises(GoneError, match=f"^the .* {video or 'street.png'} has changed since it was indexed"):
        show_frame(scene)
    os.utime(scene.source.path, ns=(0, before.st_mtime_ns))
    show_frame(scene)
    os.truncate(scene.source.path, before.st_size - 1)
    os.utime(scene.source.path, ns=(0, before.st_mtime_ns))
    with pytest.raises(GoneError, match="has changed"):
        show_frame(scene)
    os.unlink(scene.source.path)
    os.mkfifo(scene.source.path)  # opening it would wait forever
    for one in ("gone", "a pipe"):
        with pytest.raises(GoneError, match="no longer where it was indexed"):
            (show_moments if video else show_frame)(scene)
        os.unlink(scene.source.path) if one == "gone" else None


def test_only_videos_of_the_manifest_are_opened(searcher):
    """A manifest without the video, as after other footage took its place, or one that is damaged."""
    row = rows_of(searcher, "gate.avi")[0]
    path = searcher.index.folder / "footage.json"
    manifest = json.loads(path.read_text())
    (entry,) = manifest["sources"].values()
    path.write_text("not JSON")
    with pytest.raises(GoneError, match="no longer lists the video"):
        find_scene(searcher.index, "damaged", row)
    path.write_text(json.dumps({**manifest, "sources": {}}))
    with pytest.raises(GoneError, match="no longer lists the video"):
        find_scene(searcher.index, "without", row)
    del entry["videos"][0]["stamp"]  # as of an earlier version, which did not record it
    path.write_text(json.dumps(manifest))
    with pytest.raises(GoneError, match="has changed since it was indexed: index it again"):
        show_frame(find_scene(searcher.index, "no stamp", row))


def test_a_photo_without_a_box_has_no_scene(searcher):
    table = searcher.index.table
    plain = table.set_column(table.column_names.index("x"), "x", [[None] * table.num_rows])
    with pytest.raises(NoSceneError, match="no box"):
        find_scene(dataclasses.replace(searcher.index, table=plain), "v", 0)


def test_a_damaged_video_is_one_line_without_its_place(searcher, tmp_path):
    scene = find_scene(searcher.index, "v", rows_of(searcher, "gate.avi")[0])
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no video at all")
    status = broken.stat()
    source = scene.source._replace(path=str(broken), stamp=(status.st_size, status.st_mtime_ns))
    for show in (show_frame, show_moments):
        with pytest.raises(GoneError, match=r"^the video gate\.avi cannot be read$"):
            show(scene._replace(source=source))
