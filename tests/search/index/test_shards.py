"""Shards of interrupted runs are read in order, and only those with the same encoder settings."""

import itertools
import uuid
from pathlib import Path

import numpy as np
import pytest

from tpr_jax.search.index import shards, store
from tpr_jax.search.index.cache import load_cache
from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Photo

FINGERPRINT = store.encoder_fingerprint(
    {"sha256": "ab", "image_size": (32, 16), "dtype": "float32", "mean": (0.5,), "std": (1.0,), "name": "x"}
)


def write(folder, run, value, *, fingerprint=FINGERPRINT, root="/photos", name="a.jpg", skipped=()):
    stamp = Stamp(100, run, bytes([run]) * 32)
    vectors = np.full((1, 2), value, np.float16)
    shards.write_shard(folder, run, fingerprint, root, [(Photo(name), stamp)], vectors, skipped=skipped)


@pytest.mark.parametrize("order", [*itertools.permutations(["0" * 32, "8" * 32, "f" * 32])])
def test_shards_are_read_in_the_order_of_their_runs(tmp_path, monkeypatch, order):
    names = iter(order)
    monkeypatch.setattr(shards.uuid, "uuid4", lambda: uuid.UUID(next(names)))
    for _ in order:
        run = shards.next_run(tmp_path)
        write(tmp_path, run, value=run)
    found, others = shards.read_shards(tmp_path, FINGERPRINT)
    assert [shard.vectors[0, 0] for shard in found] == [1, 2, 3] and others == 0
    assert load_cache(None, tmp_path, FINGERPRINT, Path("/photos")).newest["a.jpg", None][1] == (2, 0)


def test_run_numbers_with_more_than_eight_digits(tmp_path):
    for run in (99_999_999, 100_000_000):
        shards.write_shard(
            tmp_path, run, FINGERPRINT, "/", [], np.zeros((0, 2), np.float16), skipped=[(Photo(str(run)), "")]
        )
    found, _ = shards.read_shards(tmp_path, FINGERPRINT)
    assert [list(shard.skipped) for shard in found] == [[("99999999", None)], [("100000000", None)]]
    assert shards.next_run(tmp_path) == 100_000_001


@pytest.mark.parametrize(
    "other",
    [{"sha256": "cd"}, {"image_size": (64, 32)}, {"dtype": "bfloat16"}, {"mean": (0.4,)}, {"std": (2.0,)}],
)
def test_ignores_shards_with_another_fingerprint(tmp_path, other):
    write(tmp_path, 1, 1, fingerprint=store.encoder_fingerprint(FINGERPRINT | other))
    write(tmp_path, 2, 2)
    cache = load_cache(None, tmp_path, FINGERPRINT, Path("/photos"))
    assert cache.ignored_shards == 1 and [rows[0, 0] for rows in cache.vectors] == [2]


def test_ignores_shards_without_a_fingerprint(tmp_path):
    texts = {name: np.frombuffer(b"[]", np.uint8) for name in ("photos", "skipped")}
    np.savez(tmp_path / f"{'a' * 16}-{'0' * 32}.npz", vectors=np.zeros((0, 2), np.float16), **texts)
    assert shards.read_shards(tmp_path, FINGERPRINT) == ([], 1)
    assert shards.next_run(tmp_path) == 1


@pytest.mark.parametrize("kept", [0, 1, 50, -1])
def test_ignores_damaged_shards(tmp_path, kept):
    write(tmp_path, 1, 1)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:kept])
    write(tmp_path, 2, 2)
    found, _ = shards.read_shards(tmp_path, FINGERPRINT)
    assert [shard.vectors[0, 0] for shard in found] == [2]


def test_photos_under_another_root_are_found_by_content_only(tmp_path):
    write(tmp_path, 1, 1, root="/elsewhere", skipped=[(Photo("b.jpg"), "broken")])
    cache = load_cache(None, tmp_path, FINGERPRINT, Path("/photos"))
    assert cache.find_unchanged(Photo("a.jpg"), 100, 1) is None and cache.skipped == {}
    assert cache.find_content(Photo("z.jpg"), Stamp(100, 7, bytes([1]) * 32)) == (0, 0)


def test_finds_vectors_of_older_runs(tmp_path):
    write(tmp_path, 1, 1)
    write(tmp_path, 2, 2)
    cache = load_cache(None, tmp_path, FINGERPRINT, Path("/photos"))
    for run in (1, 2):
        assert cache.find_unchanged(Photo("a.jpg"), 100, run)[1] == (run - 1, 0)
    assert cache.find_unchanged(Photo("a.jpg"), 100, 3) is None


def test_the_newest_run_decides_what_is_skipped(tmp_path):
    write(tmp_path, 1, 1, skipped=[(Photo("b.jpg"), "broken")])
    assert load_cache(None, tmp_path, FINGERPRINT, Path("/photos")).skipped == {("b.jpg", None): "broken"}
    write(tmp_path, 2, 2, name="b.jpg", skipped=[(Photo("a.jpg"), "broken since")])
    assert load_cache(None, tmp_path, FINGERPRINT, Path("/photos")).skipped == {
        ("a.jpg", None): "broken since"
    }


def test_removes_the_oldest_shards_first(tmp_path, monkeypatch):
    for run in (10, 9, 1):
        write(tmp_path, run, run)
    unlink, removed = Path.unlink, []
    monkeypatch.setattr(
        Path, "unlink", lambda path, **s: (removed.append(path.name[5:13]), unlink(path, **s))
    )
    shards.remove_shards(tmp_path)
    assert removed == ["00000001", "00000009", "00000010"] and not tmp_path.exists()


def test_leaves_files_that_no_run_wrote(tmp_path):
    write(tmp_path, 1, 1)
    np.savez(tmp_path / "body_parts.npz", a=np.ones(3))
    assert shards.read_shards(tmp_path, FINGERPRINT)[1] == 0
    shards.remove_shards(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["body_parts.npz"]
