"""What an interrupted run leaves: in the order in which it was written, and only what was made alike."""

import itertools
import uuid
from pathlib import Path

import numpy as np
import pytest

from tpr_jax.search.index import shards
from tpr_jax.search.index.cache import find_known
from tpr_jax.search.index.encode import Stamp
from tpr_jax.search.index.gallery import Photo

MADE_BY = shards.recipe(
    {"sha256": "ab", "image_size": (32, 16), "dtype": "float32", "mean": (0.5,), "std": (1.0,), "name": "x"}
)


def write(folder, run, value, *, made_by=MADE_BY, root="/photos", name="a.jpg", skipped=()):
    stamp = Stamp(100, run, bytes([run]) * 32)
    vectors = np.full((1, 2), value, np.float16)
    shards.write_part(folder, run, made_by, root, [(Photo(name), stamp)], vectors, skipped)


@pytest.mark.parametrize("order", [*itertools.permutations(["0" * 32, "8" * 32, "f" * 32])])
def test_they_are_read_in_the_order_of_their_runs(tmp_path, monkeypatch, order):
    names = iter(order)
    monkeypatch.setattr(shards.uuid, "uuid4", lambda: uuid.UUID(next(names)))
    for _ in order:
        run = shards.next_run(tmp_path)
        write(tmp_path, run, value=run)
    found, others = shards.read_parts(tmp_path, MADE_BY)
    assert [part.vectors[0, 0] for part in found] == [1, 2, 3] and others == 0
    assert find_known(None, tmp_path, MADE_BY, Path("/photos")).newest["a.jpg", None][1] == (2, 0)


def test_more_runs_than_the_name_has_digits(tmp_path):
    for run in (99_999_999, 100_000_000):
        shards.write_part(
            tmp_path, run, MADE_BY, "/", [], np.zeros((0, 2), np.float16), [(Photo(str(run)), "")]
        )
    found, _ = shards.read_parts(tmp_path, MADE_BY)
    assert [list(part.skipped) for part in found] == [[("99999999", None)], [("100000000", None)]]
    assert shards.next_run(tmp_path) == 100_000_001


@pytest.mark.parametrize(
    "other",
    [{"sha256": "cd"}, {"image_size": (64, 32)}, {"dtype": "bfloat16"}, {"mean": (0.4,)}, {"std": (2.0,)}],
)
def test_what_was_made_otherwise_is_left_out(tmp_path, other):
    write(tmp_path, 1, 1, made_by=shards.recipe(MADE_BY | other))
    write(tmp_path, 2, 2)
    known = find_known(None, tmp_path, MADE_BY, Path("/photos"))
    assert known.left_out == 1 and [rows[0, 0] for rows in known.vectors] == [2]


def test_a_file_that_does_not_say_how_it_was_made_is_left_out(tmp_path):
    texts = {name: np.frombuffer(b"[]", np.uint8) for name in ("photos", "skipped")}
    np.savez(tmp_path / f"{'a' * 16}-{'0' * 32}.npz", vectors=np.zeros((0, 2), np.float16), **texts)
    assert shards.read_parts(tmp_path, MADE_BY) == ([], 1)
    assert shards.next_run(tmp_path) == 1


@pytest.mark.parametrize("kept", [0, 1, 50, -1])
def test_a_damaged_file_is_passed_over(tmp_path, kept):
    write(tmp_path, 1, 1)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:kept])
    write(tmp_path, 2, 2)
    found, _ = shards.read_parts(tmp_path, MADE_BY)
    assert [part.vectors[0, 0] for part in found] == [2]


def test_of_photos_in_another_place_only_the_content_is_known(tmp_path):
    write(tmp_path, 1, 1, root="/elsewhere", skipped=[(Photo("b.jpg"), "broken")])
    known = find_known(None, tmp_path, MADE_BY, Path("/photos"))
    assert known.unchanged(Photo("a.jpg"), 100, 1) is None and known.skipped == {}
    assert known.same_content(Photo("z.jpg"), Stamp(100, 7, bytes([1]) * 32)) == (0, 0)


def test_a_file_as_it_was_in_an_older_run(tmp_path):
    write(tmp_path, 1, 1)
    write(tmp_path, 2, 2)
    known = find_known(None, tmp_path, MADE_BY, Path("/photos"))
    for run in (1, 2):
        assert known.unchanged(Photo("a.jpg"), 100, run)[1] == (run - 1, 0)
    assert known.unchanged(Photo("a.jpg"), 100, 3) is None


def test_what_is_skipped_is_so_by_its_newest_run(tmp_path):
    write(tmp_path, 1, 1, skipped=[(Photo("b.jpg"), "broken")])
    assert find_known(None, tmp_path, MADE_BY, Path("/photos")).skipped == {("b.jpg", None): "broken"}
    write(tmp_path, 2, 2, name="b.jpg", skipped=[(Photo("a.jpg"), "broken since")])
    assert find_known(None, tmp_path, MADE_BY, Path("/photos")).skipped == {("a.jpg", None): "broken since"}


def test_the_oldest_are_removed_first(tmp_path, monkeypatch):
    for run in (10, 9, 1):
        write(tmp_path, run, run)
    unlink, removed = Path.unlink, []
    monkeypatch.setattr(
        Path, "unlink", lambda path, **s: (removed.append(path.name[5:13]), unlink(path, **s))
    )
    shards.remove_parts(tmp_path)
    assert removed == ["00000001", "00000009", "00000010"] and not tmp_path.exists()
