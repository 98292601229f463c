"""Reading an index while it is replaced, and what a killed writer leaves."""

import dataclasses
import threading

import numpy as np
import pytest

from tests import search_galleries
from tpr_jax.errors import UserError
from tpr_jax.search.index import store
from tpr_jax.search.index.build import build
from tpr_jax.search.index.cache import CachedVector, Location, VectorCache
from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.export import export
from tpr_jax.search.index.gallery import Gallery, Photo
from tpr_jax.search.index.merge import write_index
from tpr_jax.search.query import engine, exact
from tpr_jax.search.query.search import open_searcher, search
from tpr_jax.search.server import serve
from tpr_jax.utils.files import write_json

MODEL = {"name": "m", "sha256": "ab", "image_size": [32, 16], "dtype": "float32", "embed_dim": 4}


def write(folder, version, count=5):
    """Writes an index whose vectors and file sizes are all equal to its version."""
    photos = [Photo(f"{number}.jpg") for number in range(count)]
    cache = VectorCache(vectors=[np.full((count, 4), version, np.float16)])
    for row, photo in enumerate(photos):
        cache.newest[photo.key] = CachedVector(Stamp(version, 0, bytes(32)), Location(0, row))
    old = store.open_index(folder) if (folder / store.INFO_FILE).exists() else None
    write_index(folder, Gallery(folder, photos, []), cache, old, MODEL, build_lists=False)


def check_whole(index):
    version = index.table["file_size"][0].as_py()
    assert (np.asarray(index.vectors) == version).all()
    assert index.table["file_size"].to_pylist() == [version] * index.info["count"]
    return version


@pytest.mark.parametrize("replaced_during", [(np, "load"), (store.pq, "ParquetFile")])
def test_opens_the_new_index_if_replaced_while_opening(tmp_path, monkeypatch, replaced_during):
    write(tmp_path, 1)
    module, name = replaced_during
    real, again = getattr(module, name), iter([2, 3])

    def late(path, **settings):
        if str(path).endswith((".npy", ".parquet")) and (version := next(again, None)):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, real)
                write(tmp_path, version)
        return real(path, **settings)

    monkeypatch.setattr(module, name, late)
    assert check_whole(store.open_index(tmp_path)) == 3


def test_loads_the_new_index_if_replaced_before_the_engine(tmp_path, monkeypatch, tiny):
    """With as many photos as get codes, which are opened after the vectors."""
    write(tmp_path, 1, count=4096)
    make, seen = engine.make_engine, []

    def late(index, name):
        if not seen:
            write(tmp_path, 2, count=4096)
        seen.append(index.info["number"])
        return make(index, name)

    monkeypatch.setattr(engine, "make_engine", late)
    with pytest.raises(UserError, match="was made with m"):  # the model is checked after that
        open_searcher(tmp_path, tiny["clip"])
    assert seen == [1, 2]


def test_does_not_retry_a_damaged_index_forever(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "vectors-1.npy").unlink()
    with pytest.raises(UserError, match="the index is damaged"):
        store.open_index(tmp_path)


@pytest.mark.parametrize("lost", ["number", "photos", "approximate", "files", "model", "count"])
def test_rejects_an_info_file_without_a_key(tmp_path, lost):
    write(tmp_path, 1)
    info = store.read_info(tmp_path)
    del info[lost]
    write_json(tmp_path / store.INFO_FILE, info)
    with pytest.raises(UserError, match="the index is damaged"):
        store.open_index(tmp_path)


@pytest.mark.parametrize(
    ("values", "mistake"),
    [
        ({"model": MODEL | {"name": 5}}, r"model\.name is 5, not a text"),
        ({"model": MODEL | {"dtype": "foo"}}, r"model\.dtype is 'foo', not one of float32, bfloat16"),
        ({"sources": 5}, "sources is 5, not a list of texts"),
    ],
)
def test_names_the_file_and_the_value_of_another_type(tmp_path, tiny, values, mistake):
    """Before anything is done with it: `index` of photos that are unchanged would keep it."""
    write(tmp_path / "index", 1)
    search_galleries.photos(tmp_path / "photos", 2)
    write_json(tmp_path / "index" / store.INFO_FILE, store.read_info(tmp_path / "index") | values)
    wanted = rf"index/index\.json: the index is damaged \({mistake}\); index the photos into a new folder$"
    calls = (
        lambda: store.open_index(tmp_path / "index"),
        lambda: open_searcher(tmp_path / "index", tiny["clip"]),
        lambda: build(tmp_path / "photos", tmp_path / "index"),
    )
    for call in calls:
        with pytest.raises(UserError, match=wanted):
            call()


def test_an_image_size_that_the_model_cannot_take_names_the_file(tmp_path, tiny):
    made(tmp_path, tiny["clip"])
    info = store.read_info(tmp_path / "index")
    write_json(tmp_path / "index" / store.INFO_FILE, info | {"model": info["model"] | {"image_size": [1, 1]}})
    with pytest.raises(UserError, match=r"index/index\.json: its model cannot be loaded.*image_size 1x1 is"):
        open_searcher(tmp_path / "index")


def made(folder, clip, count=3):
    """Makes an index of some photos; returns its folder."""
    search_galleries.photos(folder / "photos", count)
    build(folder / "photos", folder / "index", clip)
    return folder / "index"


def damage(index, row, value):
    """Replaces the first number of a vector, as a flipped byte of its file does."""
    path = next(index.glob("vectors-*.npy"))
    vectors = np.load(path, mmap_mode="r+")
    vectors[row, 0] = value
    vectors.flush()


@pytest.mark.parametrize("value", [5180.0, -1.5, np.inf, np.nan])
def test_a_damaged_vector_is_found_by_every_command(tmp_path, tiny, value):
    index = made(tmp_path, tiny["clip"])
    serving = open_searcher(index)  # as a server that has read it before
    damage(index, 1, value)
    wanted = (
        r"/index: the index is damaged \(vectors-1\.npy: the vector of row 1 is not of length 1\); "
        "index the photos into a new folder$"
    )
    calls = (
        lambda: open_searcher(index),
        lambda: serve.warm_up(serving),
        lambda: search(serving, "a red coat", like=1),
        lambda: search(serving, "a red coat", right=[1]),
        lambda: search(serving, "a red coat", group=0.9),
        lambda: search(serving, "a red coat", top_k=3),
        lambda: export(store.open_index(index), tmp_path / "people.parquet"),
        lambda: build(tmp_path / "photos", index),
    )
    for call in calls:
        with pytest.raises(UserError, match=wanted):
            call()
    assert not (tmp_path / "people.parquet").exists()


def test_many_vectors_are_checked_when_they_are_found(tmp_path, monkeypatch, tiny):
    """An index with codes is not read as a whole by one query."""
    monkeypatch.setattr(exact, "MIN_VECTORS", 3)
    index = made(tmp_path, tiny["clip"])
    damage(index, 1, 5180.0)
    searcher = open_searcher(index)
    assert searcher.index.file("vectors") and searcher.index.info["files"]["codes"]
    with pytest.raises(UserError, match="the vector of row 1 is not of length 1"):
        search(searcher, "a red coat", top_k=3)
    with pytest.raises(UserError, match="the vector of row 1 is not of length 1"):
        store.check_vectors(searcher.index)


def test_lengths_that_float16_rounds_are_valid(tmp_path):
    write(tmp_path, 1)
    index = store.open_index(tmp_path)
    valid = dataclasses.replace(index, vectors=np.full((5, 4), 0.504, np.float16))  # of length 1.008
    store.check_vectors(valid)
    assert store.read_vectors(valid, [4, 0]).shape == (2, 4) and store.read_vectors(valid, []).shape == (0, 4)
    wrong = np.full((5, 4), 0.5, np.float16)
    wrong[3] = 0.506  # of length 1.012
    for rows in (slice(None), slice(2, 4), [0, 3], np.array([3])):
        with pytest.raises(UserError, match="the vector of row 3 is not"):
            store.read_vectors(dataclasses.replace(index, vectors=wrong), rows)


@pytest.fixture
def moved(tmp_path, own_clip):
    """Returns (an index, where its model was, where it is now)."""
    index = made(tmp_path, own_clip)
    return index, own_clip, own_clip.rename(tmp_path / "elsewhere")


def test_a_model_that_has_moved_is_asked_for(moved, tmp_path):
    index, before, now = moved
    wanted = (
        rf"^{before}: no such folder .*: {index} was made with this model; if it has moved, give its new "
        "place with --model$"
    )
    search_galleries.photos(tmp_path / "photos", 4)
    for call in (lambda: open_searcher(index), lambda: build(tmp_path / "photos", index)):
        with pytest.raises(UserError, match=wanted):
            call()
    with pytest.raises(UserError, match=r"no such folder or file of CLIP weights; check the path$"):
        open_searcher(index, tmp_path / "nowhere")
    assert search(open_searcher(index, now), "a red coat")["count"] == 3


def test_a_model_that_was_edited_is_not_to_be_omitted(tmp_path, own_clip, tiny):
    index = made(tmp_path, own_clip)
    file = own_clip / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    for given in (None, own_clip):
        wanted = rf"^{own_clip}: has changed since {index} was made with it \(SHA-256 .*restore it, give"
        with pytest.raises(UserError, match=wanted) as error:
            open_searcher(index, given)
        assert "omit" not in str(error.value)
        with pytest.raises(UserError, match=wanted):
            build(tmp_path / "photos", index, given)
    assert search(open_searcher(index, tiny["clip"]), "a red coat")["count"] == 3  # a copy of what it was


def test_concurrent_readers_and_a_writer(tmp_path):
    """Every opened index is complete, and none is older than the one before."""
    write(tmp_path, 1)
    versions, opened, failed = 60, [], []
    done = threading.Event()

    def read():
        last = 1
        try:
            while not done.is_set():
                version = check_whole(store.open_index(tmp_path))
                assert version >= last
                last = version
                opened.append(version)
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for version in range(2, versions):
        while not failed and len(opened) < version:  # wait until some were opened
            pass
        write(tmp_path, version)
    done.set()
    for thread in readers:
        thread.join()
    assert failed == [] and len(opened) >= versions - 1


TEMPORARY = [
    ".index.json.abcdefg1.tmp",
    ".skipped.jsonl.abcdefg1.tmp",
    ".vectors-12.npy.abcdefg1.tmp",
    ".photos-3.parquet._bcdefg1.tmp",
    ".codes-3.npy.abcdefg1.tmp",
    ".codes-3.json.abcdefg1.tmp",
    ".ivf-3.faiss.abcdefg1.tmp",
    f"parts/.part-00000001-{'0' * 32}.npz.abcdefg1.tmp",
]
USERS = [
    ".mine.tmp",
    ".index.json.tmp",
    "index.json.abcdefg1.tmp",
    ".photos.csv.abcdefg1.tmp",
    "parts/.mine.tmp",
]


def test_removes_temporary_files_of_killed_writers_only(tmp_path):
    (tmp_path / "parts").mkdir()
    for name in TEMPORARY + USERS:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".vectors-1.npy.abcdefg2.tmp").mkdir()  # no file, and not ours
    store.remove_temporaries(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(USERS)
