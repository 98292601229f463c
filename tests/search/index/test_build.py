"""Building and updating an index from Python."""

import json
import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

import tpr_jax
from tests import search_galleries
from tpr_jax.errors import ArgumentError, UserError
from tpr_jax.search.index import build as build_lib
from tpr_jax.search.index import encode, merge, shards, store
from tpr_jax.search.index.build import build
from tpr_jax.utils import locking


@pytest.fixture(scope="module")
def model(tiny):
    return tpr_jax.from_pretrained(tiny["clip"])


@pytest.fixture
def folder(tmp_path):
    search_galleries.photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def make(tiny, folder, tmp_path):
    """Returns `make(...)`, which indexes the folder with the tiny CLIP and returns (result, index)."""

    def call(source=folder, **settings):
        result = build(source, tmp_path / "index", tiny["clip"], batch_size=5, **settings)
        return result, store.open_index(tmp_path / "index")

    return call


@pytest.fixture
def encoded(monkeypatch):
    """Returns a list that collects the names of the files that are decoded."""
    seen, read = [], encode.read_crops
    note = lambda path, *how: seen.append(os.path.basename(path)) or read(path, *how)  # noqa: E731
    monkeypatch.setattr(encode, "read_crops", note)
    return seen


def paths(index):
    return index.table["path"].to_pylist()


def test_vectors_equal_the_models_features(make, model, folder):
    result, index = make()
    names = sorted(path.name for path in folder.iterdir())
    assert paths(index) == names and result["count"] == result["encoded"] == len(names)
    assert index.vectors.dtype == np.float16 and isinstance(index.vectors, np.memmap)
    assert search_galleries.close(index.vectors, model.encode_images([folder / name for name in names]))
    assert index.info["model"]["sha256"] == store.model_sha256(index.info["model"]["name"])
    assert not (index.folder / "parts").exists()


def test_a_new_index_takes_clip_street_and_an_index_of_clip_mini_keeps_it(folder, tmp_path):
    build(folder, tmp_path / "new")
    assert store.read_info(tmp_path / "new")["model"]["name"] == "clip-street"
    build(folder, tmp_path / "old", "clip-mini")
    shutil.copy(folder / "000.png", folder / "again.png")
    Image.open(folder / "001.png").rotate(180).save(folder / "turned.png")
    build(folder, tmp_path / "old")
    old = store.open_index(tmp_path / "old")
    assert old.info["model"]["name"] == "clip-mini" and "turned.png" in paths(old)
    features = tpr_jax.from_pretrained("clip-mini").encode_images([folder / name for name in paths(old)])
    assert search_galleries.close(old.vectors, features)


def test_unchanged_photos_are_not_encoded_again(make, encoded):
    make()
    encoded.clear()
    before = {path: path.stat().st_mtime_ns for path in make()[1].folder.glob("*-*.*")}
    result, index = make()
    assert encoded == [] and (result["encoded"], result["kept"], result["gone"]) == (0, 12, 0)
    assert {path: path.stat().st_mtime_ns for path in index.folder.glob("*-*.*")} == before


def test_update_after_photos_are_added_changed_moved_touched_and_removed(make, model, folder, encoded):
    make()
    encoded.clear()
    search_galleries.photos(folder / "new", 2, seed=9)
    shutil.copy(folder / "new" / "000.png", folder / "003.png")  # changed
    os.utime(folder / "004.png", ns=(1, 1))  # touched
    os.rename(folder / "005.png", folder / "moved.png")
    os.remove(folder / "006.png")
    result, index = make()
    assert sorted(encoded) == ["000.png", "001.png", "003.png"]
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert paths(index) == names
    assert search_galleries.close(index.vectors, model.encode_images([folder / name for name in names]))
    # One of the 12 has new content and one is gone; a renamed one is kept.
    assert (result["encoded"], result["kept"], result["gone"], result["count"]) == (3, 10, 1, 13)
    assert len(list(index.folder.glob("vectors-*"))) == len(list(index.folder.glob("photos-*"))) == 1


def test_unreadable_photos_are_listed_and_retried(make, folder):
    whole = (folder / "002.png").read_bytes()
    (folder / "002.png").write_bytes(whole[:60])
    (folder / "003.png").write_bytes(b"")
    (folder / "004.png").write_bytes(b"%PDF-1.4 no picture")
    result, index = make()
    assert len(paths(index)) == 9 and [name for name, _ in result["skipped"]] == [
        "002.png",
        "003.png",
        "004.png",
    ]
    assert "empty" in result["skipped"][1][1] and "not an image" in result["skipped"][2][1]
    lines = (index.folder / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["photo"] for line in lines] == ["002.png", "003.png", "004.png"]
    (folder / "002.png").write_bytes(whole)
    (folder / "005.png").write_bytes(b"damaged since")
    result, index = make()
    assert "002.png" in paths(index) and "005.png" not in paths(index)
    assert [name for name, _ in result["skipped"]] == ["003.png", "004.png", "005.png"]


def test_rejects_a_gallery_without_readable_photos(make, folder):
    make()
    before = paths(make()[1])
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"none of its 12 photos can be read: 000\.png: not an image"):
        make()
    assert paths(store.open_index(folder.parent / "index")) == before


def test_boxes_and_columns(make, model, folder, encoded, tmp_path):
    table = folder / "photos.csv"
    table.write_text(
        "image,x,y,w,h,camera\n000.png,0,0,20,20,3\n000.png,-5,20,20,90,4\n001.png,,,,,5\n"
        "002.png,100,100,5,5,6\nnone.png,,,,,7\n"
    )
    result, index = make(table)
    assert sorted(encoded) == ["000.png", "001.png", "002.png"]  # a photo with two boxes once
    pixels = np.asarray(Image.open(folder / "000.png"))
    wanted = [pixels[:20, :20], pixels[20:, :15], np.asarray(Image.open(folder / "001.png"))]
    assert search_galleries.close(index.vectors, model.encode_images(wanted))
    assert store.boxes(index.table) == [(0, 0, 20, 20), (-5, 20, 20, 90), None]
    assert index.table["camera"].to_pylist() == [3, 4, 5]
    reasons = dict(result["skipped"])
    assert "outside of the image of 20 x 40" in reasons["002.png [100, 100, 5, 5]"]
    assert reasons["none.png"] == "no such image"
    encoded.clear()
    table.write_text(table.read_text().replace(",3\n", ",33\n"))
    _, index = make(table)
    assert index.table["camera"].to_pylist() == [33, 4, 5]
    assert "000.png" not in encoded


class _Killed(BaseException):
    """An exception that no code catches, like SIGKILL."""


def test_resumes_after_being_killed_at_any_write(make, folder, tiny, monkeypatch, model):
    monkeypatch.setattr(build_lib, "SHARD_ROWS", 4)
    writers = [(shards, "write_shard"), (merge, "write_whole"), (merge, "write_text"), (merge, "write_json")]
    begun = []

    def dying(write, limit):
        def call(*args, **kwargs):
            begun.append(write)
            if len(begun) > limit:
                raise _Killed
            return write(*args, **kwargs)

        return call

    whole, deaths, kept = None, 0, []
    settings = {"image_size": (32, 16), "dtype": "float32", "mean": model.mean, "std": model.std}
    fingerprint = store.encoder_fingerprint({"sha256": store.model_sha256(tiny["clip"]), **settings})
    while whole is None:  # each attempt writes one more file
        begun.clear()
        with monkeypatch.context() as patch:
            for module, name in writers:
                patch.setattr(module, name, dying(getattr(module, name), deaths))
            try:
                whole, index = make()
            except _Killed:
                deaths += 1
                found, _ = shards.read_shards(folder.parent / "index" / "parts", fingerprint)
                kept.append(sum(len(shard.entries) for shard in found))
    assert whole["count"] == 12 and whole["encoded"] == 0
    assert kept[:3] == [0, 5, 12] and set(kept[3:]) == {12}  # what was written is not encoded again
    names = sorted(path.name for path in folder.glob("*.png"))
    assert search_galleries.close(index.vectors, model.encode_images([folder / name for name in names]))
    assert not (index.folder / "parts").exists()


def test_rejects_another_model_image_size_or_type(make, own_clip, tmp_path, folder, tiny):
    make()
    config = json.loads((own_clip / "config.json").read_text())
    config["logit_scale_init_value"] = 1.0
    (own_clip / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"--model {own_clip}: SHA-256 .* was made with .*new folder"):
        build(folder, tmp_path / "index", own_clip)
    with pytest.raises(UserError, match=r"--image_size \[64, 32\]: but"):
        make(image_size=(64, 32))
    with pytest.raises(UserError, match="--dtype bfloat16: but"):
        make(dtype="bfloat16")
    for dtype in ("float32", "auto"):
        assert make(image_size=(32, 16), dtype=dtype)[0]["kept"] == 12


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("dtype", [None, "auto", "float32"])
def test_a_new_index_computes_in_the_faster_type_and_says_so(make, tmp_path, monkeypatch, dtype, faster):
    monkeypatch.setattr("tpr_jax.perf.dtypes.has_bfloat16_products", lambda: faster)
    monkeypatch.setattr("tpr_jax.perf.dtypes.has_ynnpack", lambda: True)
    make(dtype=dtype)
    expected = "bfloat16" if faster and dtype != "float32" else "float32"
    assert json.loads((tmp_path / "index" / "index.json").read_text())["model"]["dtype"] == expected
    monkeypatch.setattr("tpr_jax.perf.dtypes.has_bfloat16_products", lambda: not faster)
    assert make()[0]["kept"] == 12  # on another machine, an index keeps its type


def test_accepts_the_same_model_in_another_folder(make, own_clip, tmp_path, folder):
    make()
    assert build(folder, tmp_path / "index", own_clip)["kept"] == 12
    assert store.read_info(tmp_path / "index")["model"]["name"] == str(own_clip.resolve())
    assert build(folder, tmp_path / "index")["kept"] == 12  # the index's own model


def test_accepts_the_same_gallery_in_another_folder(make, folder, tmp_path):
    make()
    moved = shutil.copytree(folder, tmp_path / "moved")
    result, index = make(moved, replace=True)
    assert (result["encoded"], result["kept"], result["gone"]) == (0, 12, 0) and index.info["photos"] == str(
        moved
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "index.json").write_text("{"), "is damaged"),
        (lambda f: (f / "index.json").write_text('{"format_version": 1}'), "an index of version 1"),
        (lambda f: (f / "index.json").write_text("[]"), "an index of version None"),
        (lambda f: (f / "vectors-1.npy").write_bytes(b""), "the index is damaged"),
        (lambda f: (f / "vectors-1.npy").unlink(), "the index is damaged"),
        (lambda f: (f / "photos-1.parquet").write_bytes(b"PAR1"), "the index is damaged"),
        (lambda f: np.save(f / "vectors-1.npy", np.zeros((3, 32), np.float16)), "do not match each other"),
        (lambda f: (f / "index.json").unlink(), "has no index yet"),
    ],
)
def test_rejects_a_damaged_index(make, tmp_path, damage, message):
    make()
    damage(tmp_path / "index")
    with pytest.raises(UserError) as error:
        store.open_index(tmp_path / "index")
    assert message in str(error.value) and str(tmp_path / "index") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 192}, "image_size=192 must be (height, width) in pixels"),
        ({"image_size": (192, 0)}, "image_size=(192, 0) must be"),
        *(({"batch_size": n}, f"batch_size={n!r} must be a whole number") for n in ("x", 0, -1, 1.5, True)),
        ({"dtype": "int8"}, "dtype='int8': choose from: float32, bfloat16"),
        ({"exclude": "*.png"}, "exclude is one str: give a list of patterns"),
        ({"exclude": [3]}, "exclude[0]=3 must be a text (str)"),
        ({"exclude": None}, "exclude must be a list"),
        ({"exclude": ["old", ""]}, "--exclude '': is empty: name files or folders to leave out"),
        ({"approximate": "yes"}, "approximate='yes' must be True or False"),
        ({"add": 1}, "add=1 must be True or False"),
        ({"replace": "no"}, "replace='no' must be True or False"),
        ({"add": True, "replace": True}, "add and replace contradict each other"),
        ({"source": 3}, "source=3 must be a path"),
        ({"folder": None}, "folder=None must be a path"),
        ({"model": 3}, "model=3 must be a path"),
        ({"model": ""}, "model is empty"),
    ],
)
def test_rejects_unusable_arguments(tiny, folder, tmp_path, settings, message):
    given = {"source": folder, "folder": tmp_path / "index", "model": tiny["clip"], **settings}
    with pytest.raises(ArgumentError) as error:
        build(**given)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not (tmp_path / "index").exists()


def test_rejects_a_second_writer(make, tmp_path, folder, tiny):
    with (
        build_lib._exclusive(tmp_path / "index", print),
        pytest.raises(UserError, match="another process is writing"),
    ):
        make()
    assert make()[0]["count"] == 12


def test_a_query_during_the_first_index_tells_how_far_it_is(make, tmp_path, monkeypatch):
    told, write = [], build_lib.shards.write_shard

    def ask_and_write(*args, **settings):
        with pytest.raises(UserError) as error:
            store.open_index(tmp_path / "index")
        told.append(str(error.value))
        return write(*args, **settings)

    monkeypatch.setattr(build_lib.shards, "write_shard", ask_and_write)
    monkeypatch.setattr(build_lib, "NOTE_SECONDS", 0)
    make()
    by = f"process {os.getpid()} on {socket.gethostname()}, 12 of 12 photos"
    where = tmp_path / "index"
    assert told == [f"--index {where}: is still being made ({by}); wait until that is done"]
    assert store.open_index(where).info["count"] == 12


def test_reads_the_index_under_the_lock(tiny, folder, tmp_path, monkeypatch):
    read, seen = store.read_info, []

    def looking(folder):
        with open(tmp_path / "index" / locking.NAME) as file:
            seen.append(locking.try_lock(file))
        return read(folder)

    monkeypatch.setattr(store, "read_info", looking)
    build(folder, tmp_path / "index", tiny["clip"])
    build(folder, tmp_path / "index")
    assert len(seen) >= 3 and not any(seen)


def test_rejects_features_that_are_not_finite(make, monkeypatch):
    nothing = lambda model: (lambda pixels: np.full((len(pixels), 32), np.nan, np.float16), 1)  # noqa: E731
    monkeypatch.setattr(build_lib, "make_encoder", nothing)
    with pytest.raises(UserError, match="not finite"):
        make()


def test_reports_photos_that_no_process_encoded(make, monkeypatch):
    encode_photos = build_lib._encode_photos

    def encode_all_but_one(model, gallery, todo, *rest, **settings):
        return encode_photos(model, gallery, todo[:-1], *rest, **settings)

    monkeypatch.setattr(build_lib, "_encode_photos", encode_all_but_one)
    result, index = make()
    assert result["count"] == len(index.vectors) == 11
    assert result["skipped"] == [("011.png", "was not encoded; index the photos again")]
    monkeypatch.setattr(build_lib, "_encode_photos", encode_photos)
    result, index = make()
    assert result["encoded"] == 1 and result["skipped"] == [] and len(index.vectors) == 12


@pytest.fixture
def other(tmp_path):
    """Returns a second folder with photos of its own."""
    search_galleries.photos(tmp_path / "other", 3, seed=7)
    return tmp_path / "other"


def test_another_folder_is_not_indexed_in_place_of_the_first(make, other, folder, tmp_path):
    _, index = make()
    with pytest.raises(UserError, match=rf"is an index of {folder}: --add indexes {other} beside it, --repl"):
        make(other)
    assert paths(store.open_index(tmp_path / "index")) == paths(index)
    result, replaced = make(other, replace=True)
    assert (result["count"], result["gone"]) == (3, len(paths(index)))
    assert replaced.info["sources"] == [str(other)]
    with pytest.raises(UserError, match="is an index of"):
        make()


def test_folders_beside_each_other(make, other, folder, encoded):
    """Each has its own vectors, no photo is encoded twice, and every run brings all of them up to date."""
    _, first = make()
    encoded.clear()
    _, both = make(other, add=True)
    assert sorted(encoded) == ["000.png", "001.png", "002.png"]
    names = [f"photos/{name}" for name in paths(first)] + [f"other/00{n}.png" for n in range(3)]
    assert paths(both) == names and both.info["sources"] == [str(folder), str(other)]
    np.testing.assert_array_equal(both.vectors[: len(first.vectors)], first.vectors)
    search_galleries.photos(other / "x", 1, seed=8)
    for source in (folder, other):
        result, index = make(source)
        assert paths(index) == [*names, "other/x/000.png"] and result["gone"] == 0
    result, _ = make(other, add=True)  # again
    assert result["kept"] == len(names) + 1


def test_a_folder_inside_another_adds_no_photo_twice(make, folder):
    search_galleries.photos(folder / "more", 2, seed=9)
    _, index = make()
    result, again = make(folder / "more", add=True)
    assert paths(again) == paths(index) and result["encoded"] == 0


def test_photos_that_were_moved_take_the_place_of_those_that_are_gone(make, folder, tmp_path):
    _, index = make()
    folder.rename(tmp_path / "moved")
    said = []
    result, again = make(tmp_path / "moved", log=said.append)
    assert result["encoded"] == 0 and paths(again) == paths(index)
    assert any("which no longer exists" in line for line in said)


def test_an_index_of_an_earlier_version_knows_only_its_folder(make, other, folder, tmp_path):
    make()
    info = json.loads((tmp_path / "index" / store.INFO_FILE).read_text())
    del info["sources"]
    (tmp_path / "index" / store.INFO_FILE).write_text(json.dumps(info))
    with pytest.raises(UserError, match="is an index of"):
        make(other)
    assert make()[0]["encoded"] == 0


def test_keeps_the_files_of_a_user(make, folder, tmp_path):
    make()
    mine = (
        "vectors-mine.npy",
        "photos-2023.parquet",
        "codes-of-cameras.csv",
        "parts/body.npz",
        "crops/a/1.jpg",
    )
    for name in mine:
        (tmp_path / "index" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "index" / name).write_text("mine")
    for path in sorted(folder.iterdir())[:1]:
        path.unlink()
    _, index = make()
    assert index.info["number"] == 2 and not (tmp_path / "index/vectors-1.npy").exists()
    assert all((tmp_path / "index" / name).read_text() == "mine" for name in mine)


def test_a_new_index_does_not_remove_the_photos_that_it_is_of(make, folder, tmp_path):
    crops = tmp_path / "index" / "crops"
    shutil.copytree(folder, crops)
    before = sorted(path.name for path in crops.iterdir())
    for source in (crops, folder):
        with pytest.raises(UserError, match="choose another --index"):
            make(source)
    assert sorted(path.name for path in crops.iterdir()) == before
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["crops"]


def test_notes_patterns_that_match_nothing_and_odd_cells(tiny, folder, tmp_path):
    """Before anything is encoded, also where another source has what a pattern matches."""
    names = search_galleries.photos(tmp_path / "other" / "cam1", 3, seed=7)
    times = ["2024-05-01T10:00", "2024-05-01 11:00", "5/6/2024 10:00"]
    table = tmp_path / "other" / "t.csv"
    lines = [f"cam1/{name},{time}\n" for name, time in zip(names, times, strict=True)]
    table.write_text("".join(["image,time\n", *lines]))
    lines = []
    build(folder, tmp_path / "index", tiny["clip"], exclude=["000.png", "cam9/"], log=lines.append)
    assert lines[0] == "note: --exclude 'cam9/' matched nothing" and "to encode" in lines[1]
    lines.clear()
    build(table, tmp_path / "index", add=True, exclude=["000.png", "cam9/"], log=lines.append)
    assert [line for line in lines if line.startswith("note: ")] == [
        f"note: {table}: column 'time': line 4, '5/6/2024 10:00', is not a time, so the column is text",
        "note: --exclude 'cam9/' matched nothing",
    ]
    lines.clear()
    build(folder, tmp_path / "index", exclude=["cam1/00[01].png"], log=lines.append)
    assert not [line for line in lines if "matched nothing" in line]
