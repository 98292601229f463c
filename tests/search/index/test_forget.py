"""People who were forgotten: rows, vectors and crops are gone, and no later run brings them back."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import search_galleries, search_killed
from tests.conftest import ROOT, _environment
from tests.footage.indexed import index as index_video
from tests.footage.indexed import make_source
from tests.footage.videos import box_at, frame_with_people, people, write_video
from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import main
from tpr_jax.search.index import store
from tpr_jax.search.index.build import build
from tpr_jax.search.index.forget import forget, format_removed, recall
from tpr_jax.search.index.forgotten import FORGOTTEN


@pytest.fixture
def made(tiny, tmp_path):
    """Returns a folder with twelve photos, one of them copied, and their index."""
    search_galleries.photos(tmp_path / "photos")
    (tmp_path / "photos" / "copies").mkdir()
    shutil.copy(tmp_path / "photos" / "003.png", tmp_path / "photos" / "copies" / "a.png")
    build(tmp_path / "photos", tmp_path / "index", tiny["clip"])
    return tmp_path


def paths(folder):
    return store.open_index(folder / "index").table["path"].to_pylist()


def contains(folder, needle: bytes) -> list:
    """Returns the files of an index that contain some bytes."""
    files = [path for path in (folder / "index").rglob("*") if path.is_file()]
    return [path.name for path in files if needle in path.read_bytes()]


def test_removes_rows_and_vectors_for_good(made, capsys):
    before = store.open_index(made / "index")
    vectors = {path: np.array(v) for path, v in zip(paths(made), before.vectors, strict=True)}
    gone = vectors["007.png"].tobytes()
    assert contains(made, gone)
    assert main(["forget", "--index", str(made / "index"), "--where", "path in ('007.png', '005.png')"]) == 0
    assert capsys.readouterr().out == "2 rows, 0 crops removed; the photos themselves stay\n"
    after = store.open_index(made / "index")
    assert "007.png" not in paths(made) and "005.png" not in paths(made) and len(after.vectors) == 11
    for path, vector in zip(paths(made), after.vectors, strict=True):
        assert (vector == vectors[path]).all()
    assert contains(made, gone) == [] and contains(made, b"007.png") == []
    assert (made / "photos" / "007.png").is_file()


def test_later_runs_leave_them_out_without_reading_their_pixels(made, tiny, capsys):
    forget(made / "index", "path = '007.png'")
    shutil.move(made / "photos" / "007.png", made / "photos" / "renamed.png")
    (made / "photos" / "new.png").write_bytes((made / "photos" / "001.png").read_bytes() + b"\n")
    capsys.readouterr()
    assert main(["index", str(made / "photos"), "--index", str(made / "index")]) == 0
    output = capsys.readouterr().out
    assert "1 of 13 photos to encode" in output
    assert "left out: 1 file or folder: forgotten people (1)" in output
    assert "renamed.png" not in paths(made) and "new.png" in paths(made) and "007.png" not in paths(made)
    assert main(["index", str(made / "photos"), "--index", str(made / "index"), "--replace"]) == 0
    assert "renamed.png" not in paths(made)


def test_recall_allows_them_back(made, capsys):
    forget(made / "index", "path = '007.png'")
    assert main(["forget", "--index", str(made / "index"), "--recall"]) == 0
    assert capsys.readouterr().out == "1 person or photo may come back with the next index\n"
    assert "007.png" not in paths(made)
    build(made / "photos", made / "index")
    assert "007.png" in paths(made) and not (made / "index" / FORGOTTEN).exists()
    assert "forgotten" not in store.read_info(made / "index")


def test_copies_of_a_photo_go_with_it(made):
    removed = forget(made / "index", "path = '003.png'")
    assert (removed.rows, removed.copies) == (2, 1)
    assert "(1 of them the same photos under other names)" in format_removed(removed)
    assert "copies/a.png" not in paths(made) and len(paths(made)) == 11


def test_the_list_holds_no_names(made):
    forget(made / "index", "path = '007.png'")
    text = (made / "index" / FORGOTTEN).read_text()
    fields = json.loads(text)
    assert "007" not in re.sub(r"[0-9a-f]{64}", "", text)
    assert set(fields) == {"version", "photos", "tracks", "videos"} and len(fields["photos"]) == 1


def test_nothing_meets_the_condition(made, capsys):
    before = (made / "index" / "index.json").read_bytes()
    assert main(["forget", "--index", str(made / "index"), "--where", "path = 'none'"]) == 0
    assert capsys.readouterr().out == "no row meets the condition: nothing was removed\n"
    assert (made / "index" / "index.json").read_bytes() == before
    assert not (made / "index" / FORGOTTEN).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "path like '%'"], "all 13 rows would be removed: to remove the whole index, delete"),
        (["--where", "color = 3"], "column 'color' is unknown"),
        ([], "one of the arguments --where --recall is required"),
        (["--where", "path = 'a'", "--recall"], "not allowed with"),
    ],
)
def test_user_errors_are_one_line(made, words, message, capsys):
    before = paths(made)
    assert main(["forget", "--index", str(made / "index"), *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and message in line and line.count("\n") == 1
    assert paths(made) == before and not (made / "index" / FORGOTTEN).exists()


def test_without_an_index_nothing_is_made(tmp_path):
    with pytest.raises(UserError, match="has no index yet"):
        forget(tmp_path / "none", "path = 'a'")
    with pytest.raises(UserError, match="has no index yet"):
        recall(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_damaged_list_is_an_error_and_not_an_empty_one(made):
    forget(made / "index", "path = '007.png'")
    (made / "index" / FORGOTTEN).write_text("{")
    with pytest.raises(UserError, match=r"forgotten\.json: cannot be read .* could come back"):
        build(made / "photos", made / "index")
    assert "007.png" not in paths(made)


def test_everybody_was_forgotten(made):
    for name in paths(made):
        if name not in ("000.png", "003.png", "copies/a.png"):
            (made / "photos" / name).unlink()
    build(made / "photos", made / "index")
    forget(made / "index", "path = '003.png'")
    (made / "photos" / "000.png").unlink()
    with pytest.raises(UserError, match=r"everybody in it was forgotten; .* forget --index .* --recall"):
        build(made / "photos", made / "index")


@pytest.mark.parametrize("codes", [False, True])
def test_codes_and_inverted_lists_are_written_anew(made, tiny, monkeypatch, codes):
    from tpr_jax.search.query import exact
    from tpr_jax.search.query.search import open_searcher, search

    monkeypatch.setattr(exact, "MIN_VECTORS", 1)
    build(made / "photos", made / "index", approximate=codes)
    shutil.rmtree(made / "index")
    build(made / "photos", made / "index", tiny["clip"], approximate=codes)
    old = set((made / "index").iterdir())
    forget(made / "index", "path = '007.png'")
    now = set((made / "index").iterdir())
    kept = {"index.json", "skipped.jsonl", "chance.npz"}
    assert not {path.name for path in old & now} - kept
    for engine in ("cpu", "approximate")[: 1 + codes]:
        found = search(open_searcher(made / "index", engine=engine), "a red coat", top_k=20)
        assert found["count"] == len(found["results"]) == 12
        assert "007.png" not in [one["path"] for one in found["results"]]


def test_a_box_of_a_table(tiny, tmp_path):
    """The person is recognized by the photo's content and by a box that overlaps with half of theirs."""
    search_galleries.photos(tmp_path / "photos", 2)
    table = tmp_path / "photos" / "table.jsonl"

    def write(*boxes):
        rows = [{"image": "000.png", **dict(zip("xywh", box, strict=True))} for box in boxes]
        table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"image": "001.png"}]))

    write((0, 0, 10, 20), (10, 0, 10, 20))
    build(table, tmp_path / "index", tiny["clip"])
    forget(tmp_path / "index", "x = 10")
    write((0, 0, 10, 20), (9, 1, 11, 20))
    build(table, tmp_path / "index")
    opened = store.open_index(tmp_path / "index")
    assert opened.table["x"].to_pylist() == [0, None]
    build(tmp_path / "photos", tmp_path / "index", replace=True)  # without boxes: the photo shows them too
    assert paths(tmp_path) == ["001.png"]


def test_people_of_a_video(tmp_path, capsys):
    source = make_source(tmp_path)
    opened = index_video(source / "gate.avi", "--keep_crops")
    (folder,) = (opened.folder / "crops").iterdir()
    track = json.loads((folder / "tracks.json").read_text())["tracks"][1]
    crops = len(list(folder.glob("*.jpg")))
    assert main(["forget", "--index", str(opened.folder), "--where", "track = 1"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"1 row, {len(track[5])} crops removed; the photos and videos themselves stay"
    assert len(list(folder.glob("*.jpg"))) == crops - len(track[5])
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".jpg") == ["tracks.json"]
    assert track[5][0] not in (folder / "tracks.json").read_text()
    opened = index_video(source / "gate.avi", "--keep_crops")
    assert opened.table["track"].to_pylist() == [0]
    # Another search would find them: the people of the earlier one are kept.
    opened = index_video(source / "gate.avi", "--keep_crops", "--every", "0.2")
    assert opened.table["track"].to_pylist() == [0]
    assert "keeps the people of its earlier search" in capsys.readouterr().out
    shutil.move(source / "gate.avi", source / "moved.avi")
    write_video(source / "yard.avi", frames=20)
    (source.parent / "boxes.csv").write_text(boxes_of("moved.avi", "yard.avi"))
    opened = index_video(source, "--replace", boxes="boxes.csv")
    assert {row["video"] for row in opened.table.to_pylist()} == {"yard.avi"}
    assert "skipped: moved.avi: somebody in it was forgotten" in capsys.readouterr().out
    assert recall(opened.folder) == 1
    opened = index_video(source, boxes="boxes.csv")
    assert len(opened.table) == 4


def boxes_of(*videos):
    lines = ["video,frame,x,y,w,h"]
    for video in videos:
        for frame in range(0, 20, 5):
            lines += [",".join(map(str, (video, frame, *box_at(person, frame)))) for person in range(2)]
    return "\n".join(lines) + "\n"


def test_people_of_photos_of_scenes(tmp_path):
    source = make_source(tmp_path)
    Image.fromarray(frame_with_people(10, people(2))).save(source / "street.png")
    lines = [boxes_of("gate.avi").replace("video,", "video,image,").replace("gate.avi,", "gate.avi,,")]
    lines += [",".join(map(str, ("", "street.png", "", *box_at(person, 10)))) + "\n" for person in range(2)]
    (tmp_path / "boxes.csv").write_text("".join(lines))
    opened = index_video(source, boxes="boxes.csv")
    assert len(opened.table) == 4
    x = box_at(1, 10)[0]
    removed = forget(opened.folder, f"path like '%street.png' and x = {x}")
    assert (removed.rows, removed.crops, removed.videos) == (1, 0, False)
    (lines,) = (opened.folder / "crops").glob("photos-*.jsonl")
    (entry,) = json.loads((opened.folder / "footage.json").read_text())["sources"].values()
    for one in (entry["photos"][0], json.loads(lines.read_text().splitlines()[1])):
        assert [person[0] for person in one["people"]] == [box_at(0, 10)[0]]
    assert index_video(source, boxes="boxes.csv").table.num_rows == 3
    assert index_video(source, "--min_height", "30", boxes="boxes.csv").table.num_rows == 3
    assert recall(opened.folder) == 1
    assert index_video(source, boxes="boxes.csv").table.num_rows == 4


KILLED = """
import sys
from pathlib import Path
from tests import search_killed
from tpr_jax.search.index import forget
search_killed.stand_in(setattr)
search_killed.kill_each(Path(sys.argv[1]), Path(sys.argv[2]), lambda here: forget.forget(here, sys.argv[3]))
"""


def test_killed_at_every_file_operation(tiny, tmp_path, monkeypatch):
    """The index is the old one or the new one, and the next `index` brings nothing back."""
    search_killed.stand_in(monkeypatch.setattr)
    search_galleries.photos(tmp_path / "photos", 6)
    build(tmp_path / "photos", tmp_path / "index", tiny["clip"])
    before = paths(tmp_path)
    (tmp_path / "out").mkdir()
    words = [tmp_path / "index", tmp_path / "out", "path = '002.png'"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words)],
        env=_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "out").iterdir(), key=lambda path: int(path.name))
    assert len(folders) > 15
    seen = []
    for folder in folders:
        opened = store.open_index(folder)
        found = opened.table["path"].to_pylist()
        assert found in (before, [name for name in before if name != "002.png"])
        assert len(np.load(folder / opened.info["files"]["codes"][1])) == len(opened.vectors) == len(found)
        seen.append("002.png" not in found)
        if (folder / FORGOTTEN).exists():
            build(tmp_path / "photos", folder)
            assert "002.png" not in store.open_index(folder).table["path"].to_pylist()
            names = {re.sub(r"-\d+\..*|\..*", "", path.name) for path in folder.iterdir()}
            assert names == {"vectors", "photos", "codes", "index", "skipped", "forgotten"}
            assert len(list(folder.iterdir())) == 7
        else:
            assert not seen[-1]
    assert seen == sorted(seen) and seen[-1] and not seen[0]
