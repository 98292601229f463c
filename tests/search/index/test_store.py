"""Readers while an index is written anew, and what a kill leaves of it."""

import threading

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.search.index import store
from tpr_jax.search.index.cache import Known
from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Gallery, Photo
from tpr_jax.search.index.merge import write_index
from tpr_jax.search.query import engine
from tpr_jax.search.query.search import open_searcher
from tpr_jax.utils.files import write_json

MODEL = {"name": "m", "sha256": "ab", "image_size": [32, 16], "dtype": "float32", "embed_dim": 4}


def write(folder, version, count=5):
    """An index in which version `v` has v in every vector and as every file's size."""
    photos = [Photo(f"{number}.jpg") for number in range(count)]
    known = Known(vectors=[np.full((count, 4), version, np.float16)])
    for row, photo in enumerate(photos):
        known.newest[photo.key] = (Stamp(version, 0, bytes(32)), (0, row))
    old = store.open_index(folder) if (folder / store.INFO).exists() else None
    write_index(folder, Gallery(folder, photos, []), known, old, MODEL, None, False)


def check_whole(index):
    version = index.table["file_size"][0].as_py()
    assert (np.asarray(index.vectors) == version).all()
    assert index.table["file_size"].to_pylist() == [version] * index.info["count"]
    return version


@pytest.mark.parametrize("amid", [(np, "load"), (store.pq, "read_table")])
def test_written_anew_amid_opening(tmp_path, monkeypatch, amid):
    write(tmp_path, 1)
    module, name = amid
    real, again = getattr(module, name), iter([2, 3])

    def late(path, **settings):
        if str(path).endswith((".npy", ".parquet")) and (version := next(again, None)):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, real)
                write(tmp_path, version)
        return real(path, **settings)

    monkeypatch.setattr(module, name, late)
    assert check_whole(store.open_index(tmp_path)) == 3


def test_written_anew_before_the_engine_is_loaded(tmp_path, monkeypatch, tiny):
    """As many photos as get codes, which are opened after the vectors."""
    write(tmp_path, 1, count=4096)
    make, seen = engine.make_engine, []

    def late(index, name):
        if not seen:
            write(tmp_path, 2, count=4096)
        seen.append(index.info["number"])
        return make(index, name)

    monkeypatch.setattr(engine, "make_engine", late)
    with pytest.raises(UserError, match="was made with m"):  # the model is looked at after that
        open_searcher(tmp_path, tiny["clip"])
    assert seen == [1, 2]


def test_what_is_damaged_stays_so(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "vectors-1.npy").unlink()
    with pytest.raises(UserError, match="the index is damaged"):
        store.open_index(tmp_path)


@pytest.mark.parametrize("lost", ["number", "photos", "approximate", "files", "model", "count"])
def test_a_file_without_one_of_its_keys(tmp_path, lost):
    write(tmp_path, 1)
    info = store.read_info(tmp_path)
    del info[lost]
    write_json(tmp_path / store.INFO, info)
    with pytest.raises(UserError, match="the index is damaged"):
        store.open_index(tmp_path)


def test_readers_beside_a_writer(tmp_path):
    """Every index that is opened is whole, and none older than the one before."""
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
        while not failed and len(opened) < version:  # some were opened between
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


def test_temporary_files_of_killed_writers(tmp_path):
    (tmp_path / "parts").mkdir()
    for name in TEMPORARY + USERS:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".vectors-1.npy.abcdefg2.tmp").mkdir()  # no file, and not ours
    store.remove_temporaries(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(USERS)
