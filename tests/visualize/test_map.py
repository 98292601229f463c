"""The map keeps neighbors together; selection of people; the output folder."""

import json

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.visualize import folder
from tpr_jax.visualize import map as map_lib
from tpr_jax.visualize.inputs import Examples


def test_similar_features_are_neighbors():
    rng = np.random.default_rng(0)
    centers = np.eye(6, 20)
    feats = np.repeat(centers, 8, axis=0) + 0.05 * rng.normal(size=(48, 20))
    feats *= rng.uniform(0.5, 3, (48, 1))  # lengths do not count
    group = np.repeat(np.arange(6), 8)
    at = map_lib.tsne(feats, seed=1)
    assert at.shape == (48, 2) and np.isfinite(at).all()
    distance = np.linalg.norm(at[:, None] - at[None], axis=-1) + np.diag(np.full(48, np.inf))
    assert (group[distance.argmin(1)] == group).all()
    assert (map_lib.tsne(feats, seed=1) == at).all()


def test_few_points():
    assert map_lib.tsne(np.eye(4)).shape == (4, 2)
    with pytest.raises(UserError, match="at least 4 photos and sentences together, but got 3"):
        map_lib.tsne(np.eye(3))


def test_selects_all_photos_and_texts_of_a_person():
    pids = np.array([7, 7, 3, 3, 9, 9, 5, 5])
    examples = Examples("x", list("abcdefgh"), list("abcdefgh"), ["t"] * 8, pids, pids[::-1], np.arange(8))
    photos, texts = map_lib.select_rows(examples, 2)
    assert set(pids[photos]) == set(pids[::-1][texts]) == {3, 9} and len(photos) == len(texts) == 4


def test_checks_the_list_of_drawn_files(tmp_path):
    folder.write_files(tmp_path / "new" / "deep", "map", {"map.png": b"1"})
    assert folder.check_folder(tmp_path / "new" / "deep") == {"map": ["map.png"]}
    for text in ("{", "[1]", '{"map": ["../x"]}', '{"map": [3]}', '{"map": 3}'):
        (tmp_path / folder.MANIFEST).write_text(text)
        with pytest.raises(UserError, match=r"is not a list of drawn files|holds new"):
            folder.check_folder(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / folder.MANIFEST).write_text(json.dumps({"map": ["a.png"]}))
    (tmp_path / "own" / ".b.png.x.tmp").write_text("half")
    assert folder.check_folder(tmp_path / "own") == {"map": ["a.png"]}
