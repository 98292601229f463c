"""The map keeps neighbors together; selection of people; the output folder."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tpr_jax.errors import UserError
from tpr_jax.model import from_pretrained
from tpr_jax.visualize import folder
from tpr_jax.visualize import map as map_lib
from tpr_jax.visualize.inputs import Examples, user_examples


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


def draw(points, images, texts=0):
    """Returns the pixels of a map of these images."""
    count = len(points)
    png = map_lib.draw_map(
        np.array(points, np.float64),
        np.zeros(count, int),
        np.arange(count) >= count - texts,
        ["photos"],
        [],
        thumbnails=images,
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def patch(color, size=(60, 20)):
    return Image.new("RGB", size[::-1], color)


RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def areas(pixels, *colors):
    """Returns the number of pixels of each color, about."""
    near = [np.abs(pixels.astype(int) - color).max(-1) < 40 for color in colors]
    return [int(mask.sum()) for mask in near]


def test_draws_thumbnails_of_own_photos():
    corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
    pixels = draw(corners, [patch(RED), patch(GREEN), patch(BLUE, (20, 60)), patch(BLUE)])
    red, green, blue = areas(pixels, RED, GREEN, BLUE)
    height = map_lib.THUMBNAIL_HEIGHT[1]
    assert red == pytest.approx(height * height / 3, rel=0.1) and green == pytest.approx(red, rel=0.1)
    assert blue == pytest.approx(2 * red, rel=0.1)  # the longer side is the same, and nothing is cut off
    rows, columns = np.nonzero(np.abs(pixels.astype(int) - RED).max(-1) < 40)
    assert np.ptp(rows) + 1 == pytest.approx(height, abs=3)
    assert np.ptp(columns) + 1 == pytest.approx(height / 3, abs=3)
    above = np.nonzero(np.abs(pixels.astype(int) - BLUE).max(-1) < 40)[0]
    assert above.max() < rows.min()  # y goes up


def test_thumbnails_do_not_cover_each_other():
    images = [patch(RED), patch(GREEN), patch(BLUE), patch(BLUE)]
    pixels = draw([(0, 0), (0.001, 0), (1, 0), (1, 1)], images)
    red, green, _ = areas(pixels, RED, GREEN, BLUE)
    assert green == 0 and red == pytest.approx(map_lib.THUMBNAIL_HEIGHT[1] ** 2 / 3, rel=0.1)
    beside = draw([(0, 0), (0.03, 0), (1, 0), (1, 1)], images)  # its center is free, but not its box
    assert areas(beside, GREEN) == [0]


def test_many_thumbnails_are_small():
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(900, 2))
    pixels = draw(points, [patch(RED)] * 900)
    assert areas(pixels, RED)[0] > 100 * map_lib.THUMBNAIL_HEIGHT[0] ** 2 / 3 * 0.9


def test_only_own_photos_are_thumbnails(monkeypatch, tmp_path, tiny):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        patch((60 * i, 0, 0)).save(path)
    model, given = from_pretrained(tiny["clip"]), []
    draw_map = map_lib.draw_map
    monkeypatch.setattr(
        map_lib,
        "draw_map",
        lambda *args, thumbnails: given.append(thumbnails) or draw_map(*args, thumbnails=thumbnails),
    )
    own = Examples("x", paths, list("abcd"), [])
    known = Examples("x", paths, list("abcd"), [], np.arange(4))
    for examples in (own, known):
        files = map_lib.make_files(model, examples, title="t", identities=4, seed=0)
        assert ("Photos that would cover another one" in files["map.html"].decode()) == (examples is own)
    assert given == [paths, []]


def test_titles_name_few_files(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path in paths:
        patch(RED).save(path)
    assert user_examples(paths[:1], []).label == f"1 photo of {paths[0]}"
    assert user_examples(paths, []).label == f"5 photos of {', '.join(paths[:3])}, 2 more"


def test_names_files_that_are_not_shown(tmp_path, capsys):
    patch(RED).save(tmp_path / "a.png")
    for name in ("b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"a video")
    assert user_examples([str(tmp_path)], []).image_names == ["a.png"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("skipped: b.mp4: not an image") and second.startswith("skipped: c.mp4: ")
    # Further captions of a photo are no other photos.
    (tmp_path / "t.csv").write_text("image,caption\na.png,red\na.png,a red patch\n")
    assert user_examples([str(tmp_path / "t.csv")], []).image_names == ["a.png"]
    assert capsys.readouterr().out == ""
