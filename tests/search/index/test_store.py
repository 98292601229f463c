"""Reading an index while it is replaced, and what a killed writer leaves."""

import threading

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.search.index import store
from tpr_jax.search.index.cache import CachedVector, Location, VectorCache
from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Gallery, Photo
from tpr_jax.search.index.merge import write_index
from tpr_jax.search.query import engine
from tpr_jax.search.query.search import open_searcher
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
