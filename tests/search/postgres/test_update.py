"""The copy of an index in PostgreSQL: what an update changes, and what readers see meanwhile."""

import json
import stat

import numpy as np
import pyarrow as pa
import pytest

from tests import search_galleries, stored_indexes
from tests.stored_indexes import mixture
from tpr_jax.errors import UserError
from tpr_jax.search.index.build import build
from tpr_jax.search.index.forget import forget
from tpr_jax.search.index.store import open_index
from tpr_jax.search.postgres import update
from tpr_jax.search.postgres.connection import parse_address
from tpr_jax.search.postgres.update import delete, differing, exact_top_10, lower_bound, sync
from tpr_jax.search.query.engine import make_engine

VECTORS = mixture(300, 16)
CAMERAS = pa.array([None if i % 7 == 6 else i % 7 for i in range(300)], pa.int64())


@pytest.fixture
def folder(tmp_path):
    return stored_indexes.write_folder(tmp_path / "index", VECTORS, {"camera": CAMERAS})


@pytest.fixture
def ask(url):
    """Returns a function: SQL -> rows."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        yield lambda query, *values: connection.execute(query, values).fetchall()


def rewrite(folder, rows, camera=None):
    """Writes the next version of the index, with these rows of the first one."""
    cameras = CAMERAS.take(pa.array(rows)).to_pylist()
    if camera is not None:
        cameras[0] = camera
    paths = [f"{i:07d}.jpg" for i in rows]
    stored_indexes.write_folder(folder, VECTORS[rows], {"camera": pa.array(cameras, pa.int64())}, paths=paths)


def test_writes_rows_and_vectors(folder, url, ask):
    result = sync(folder, url)
    assert result == {"added": 300, "removed": 0, "count": 300, "candidates": None, "recall": None}
    rows = ask("select path, x, camera, embedding::text from tpr_jax_photos_1 order by path")
    assert [row[2] for row in rows] == CAMERAS.to_pylist() and rows[7][:2] == ("0000007.jpg", None)
    np.testing.assert_array_equal(np.array([json.loads(row[3]) for row in rows], np.float16), VECTORS)
    store = json.loads((folder / "index.json").read_text())["store"]
    assert (
        (store["url"], store["number"]) == (url, 1)
        and store["table"] == "tpr_jax_photos"
        and store["version"]
    )


def test_writes_only_what_differs(folder, url, ask):
    sync(folder, url)
    before = dict(ask("select path, ctid::text || xmin::text from tpr_jax_photos_1"))
    # The first 20 photos are gone, which changes the row of all others, and one photo has another camera.
    rewrite(folder, range(20, 300), camera=99)
    assert sync(folder) | {"count": 0} == {
        "added": 1,
        "removed": 21,
        "count": 0,
        "candidates": None,
        "recall": None,
    }
    after = dict(ask("select path, ctid::text || xmin::text from tpr_jax_photos_1"))
    assert set(before) - set(after) == {f"{i:07d}.jpg" for i in range(20)}
    assert [path for path in after if after[path] != before[path]] == ["0000020.jpg"]
    assert ask("select camera from tpr_jax_photos_1 where path = '0000020.jpg'") == [(99,)]
    version = ask("select version from tpr_jax_stores")
    assert sync(folder)["added"] == 0 and ask("select version from tpr_jax_stores") == version


def test_other_columns_and_many_changes_make_a_new_table(folder, url, ask):
    sync(folder, url)
    stored_indexes.write_folder(folder, VECTORS, {"camera": pa.array(["a"] * 300)})
    sync(folder)
    assert ask("select camera from tpr_jax_photos_2 limit 1") == [("a",)]
    assert ask("select to_regclass('tpr_jax_photos_1')") == [(None,)]
    stored_indexes.write_folder(folder, -VECTORS, {"camera": pa.array(["a"] * 300)})
    assert sync(folder)["added"] == 300
    assert ask("select count(*) from tpr_jax_photos_3") == [(300,)]
    stored_indexes.write_folder(folder, -VECTORS, {"renamed": pa.array(["a"] * 300)})
    sync(folder)
    assert ask("select renamed from tpr_jax_photos_4 limit 1") == [("a",)]


def test_a_table_that_was_dropped_is_written_again(folder, url, ask):
    import psycopg

    sync(folder, url)
    with psycopg.connect(url) as connection:
        connection.execute("drop table tpr_jax_photos_1")
    assert sync(folder)["added"] == 300 and ask("select count(*) from tpr_jax_photos_2") == [(300,)]


def test_columns_of_conditions_have_an_index_unless_they_hold_long_texts(tmp_path, url, ask):
    columns = {"camera": CAMERAS, "note": pa.array(["x" * 5000] * 300), "place": pa.array(["gate"] * 300)}
    sync(stored_indexes.write_folder(tmp_path / "index", VECTORS, columns), url)
    indexed = {
        name for (name,) in ask("select indexname from pg_indexes where tablename = 'tpr_jax_photos_1'")
    }
    assert indexed == {f"tpr_jax_photos_1_{name}" for name in ("pkey", "camera_idx", "place_idx")}


def test_a_failed_update_leaves_the_old_rows(folder, url, ask, monkeypatch):
    sync(folder, url)
    version = ask("select version, generation from tpr_jax_stores")
    rewrite(folder, range(100))

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(update._Update, "_write_stored", fail)
    with pytest.raises(KeyboardInterrupt):
        sync(folder)
    assert ask("select version, generation from tpr_jax_stores") == version
    assert ask("select count(*) from tpr_jax_photos_1") == [(300,)]


def test_readers_see_the_old_or_the_new_photos(folder, url):
    sync(folder, url)
    old = make_engine(open_index(folder))
    query = VECTORS[10].astype(np.float32)
    assert old.search(query, 3, None)[1][0] == 10 and old.select("camera = 3").engine == "postgres"
    rewrite(folder, range(5, 300))
    between = make_engine(open_index(folder))  # the folder is new, the table is old
    assert between.search(query, 3, None)[1][0] == 5
    assert between.select("camera = 3").engine == "cpu"
    selected = old.select("camera = 3")
    sync(folder)
    # An engine of before answers for the photos of before, also with what it selected before.
    assert old.search(query, 3, None)[1][0] == 10
    assert selected.search(query, 1)[1][0] == 10
    assert old.select("camera = 3").engine == "cpu"
    assert old.select("camera = 3").search(query, 1)[1][0] == 10
    new = make_engine(open_index(folder))
    assert new.search(query, 3, None)[1][0] == 5 and new.select("camera = 3").engine == "postgres"


@pytest.mark.parametrize("kept", [300, 30])
def test_queries_do_not_wait_for_an_update(folder, url, monkeypatch, kept):
    """A small update, and one that makes a new table."""
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=20s")
    sync(folder, url)
    reader, write, found = make_engine(open_index(folder)), update._Update._write_stored, []

    def write_stored(self, values):
        write(self, values)
        found.append(reader.select("camera >= 0").engine)

    monkeypatch.setattr(update._Update, "_write_stored", write_stored)
    rewrite(folder, range(kept), camera=99)
    sync(folder)
    assert found == ["postgres"]
    assert reader.select("camera >= 0").engine == "cpu"


def test_deleted_rows_are_gone_from_the_server(folder, url, ask):
    sync(folder, url)
    assert delete(folder, [3, 7]) == 2
    assert ask("select count(*) from tpr_jax_photos_1 where path in ('0000003.jpg', '0000007.jpg')") == [(0,)]
    # Until the folder follows, it answers itself.
    assert make_engine(open_index(folder)).select("camera = 3").engine == "cpu"
    rewrite(folder, [i for i in range(300) if i not in (3, 7)])
    assert sync(folder)["removed"] == 0
    assert make_engine(open_index(folder)).select("camera = 3").engine == "postgres"


def test_nothing_to_delete_without_a_store(folder):
    assert delete(folder, [1]) == 0 and sync(folder) is None


def test_the_password_is_not_written(folder, url):
    address = parse_address(url.replace("@", ":s3cret@"))
    sync(folder, url.replace("@", ":s3cret@"))  # the server trusts everyone
    assert address.password == "s3cret" and "s3cret" not in str(address)
    for path in folder.iterdir():
        assert b"s3cret" not in path.read_bytes()
    assert stat.S_ISREG((folder / "index.json").stat().st_mode)


def test_a_table_of_another_index_model_or_width(folder, tmp_path, url):
    sync(folder, url)
    for name, vectors, sha256, message in (
        ("other", VECTORS, "ab" * 32, "is of another index: name another table with"),
        (
            "model",
            VECTORS,
            "cd" * 32,
            "was made with another model, abababababab...: name another table with",
        ),
        ("width", mixture(300, 8), "ab" * 32, "has vectors of 16 numbers, and the index of 8: name another"),
    ):
        other = stored_indexes.write_folder(tmp_path / name, vectors, {}, sha256=sha256)
        with pytest.raises(UserError, match=message) as error:
            sync(other, url)
        assert "\n" not in str(error.value)
        assert "store" not in json.loads((other / "index.json").read_text())
        assert sync(other, f"{url}&table={name}")["count"] == 300


def test_a_text_that_postgresql_cannot_store(tmp_path, url):
    texts = pa.array(["a"] * 299 + ["b\0c"])
    folder = stored_indexes.write_folder(tmp_path / "index", VECTORS, {"note": texts})
    with pytest.raises(UserError, match=r"0000299.jpg: note has a NUL character"):
        sync(folder, url)


def test_differing_rows():
    ids, digests = np.array([5, 1, 9, 4]), np.array([50, 10, 90, 40])
    rows, gone = differing(ids, digests, np.array([9, 7, 1]), np.array([91, 70, 10]))
    assert rows.tolist() == [0, 2, 3] and gone.tolist() == [7, 9]
    rows, gone = differing(ids, digests, ids[:0], digests[:0])
    assert rows.tolist() == [0, 1, 2, 3] and gone.tolist() == []


def test_the_exact_top_ten(monkeypatch):
    monkeypatch.setattr(update, "_BLOCK", 37)
    queries = VECTORS[:4].astype(np.float32)
    expected = np.argsort(-(queries @ VECTORS.astype(np.float32).T), axis=1)[:, :10]
    assert (np.sort(exact_top_10(VECTORS, queries)) == np.sort(expected)).all()


def test_forgotten_people_are_gone_from_the_server(tiny, tmp_path, url, ask):
    search_galleries.photos(tmp_path / "photos")
    build(tmp_path / "photos", tmp_path / "index", tiny["clip"], store=url)
    everybody = ask("select path from tpr_jax_photos_1")
    assert ("003.png",) in everybody
    assert forget(tmp_path / "index", "path = '003.png'").rows == 1
    left = ask("select path from tpr_jax_photos_1 order by path")
    assert left == [one for one in sorted(everybody) if one != ("003.png",)]
    assert make_engine(open_index(tmp_path / "index")).select(None).engine == "postgres"


def test_lower_bound():
    assert lower_bound(np.ones(5)) == 1.0
    # Mean 0.9, standard deviation 0.1: a standard error of 0.1 / sqrt(4).
    assert lower_bound(np.array([1.0, 0.8, 1.0, 0.8])) == pytest.approx(0.8)
