"""Killed at any file operation, an index is the old one or the new one, and the next run completes it."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import search_killed
from tests.conftest import ROOT, _environment
from tpr_jax.data.images.read import read_image, resize
from tpr_jax.errors import UserError
from tpr_jax.search.index import store
from tpr_jax.search.index.build import build


def draw(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 2, 3), np.uint8)
    Image.fromarray(pixels).resize((16, 32), Image.Resampling.NEAREST).save(path)


def contents(folder):
    """Returns path -> vector, and checks that the files match each other."""
    index = store.open_index(folder)
    codes = np.load(folder / index.info["files"]["codes"][1])
    assert len(codes) == len(index.vectors) == index.info["count"]
    return dict(zip(index.table["path"].to_pylist(), np.asarray(index.vectors).tolist(), strict=True))


def wanted(photos):
    found = {}
    for path in sorted(photos.glob("*.bmp")):
        try:
            pixels = resize(read_image(path), (32, 16))
        except UserError:
            continue
        found[path.name] = search_killed.encode(pixels[None])[0].tolist()
    return found


@pytest.mark.parametrize("fresh", [False, True])
def test_killed_at_every_file_operation(tiny, tmp_path, monkeypatch, fresh):
    search_killed.stand_in(monkeypatch.setattr)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        draw(photos / f"{number}.bmp", number)
    if not fresh:
        build(photos, tmp_path / "index", tiny["clip"], batch_size=2)
    before = wanted(photos)
    draw(photos / "1.bmp", 11)
    draw(photos / "2.bmp", 12)
    (photos / "3.bmp").unlink()
    (photos / "4.bmp").write_bytes(b"broken")
    for number in range(6, 9):
        draw(photos / f"{number}.bmp", number)
    after = wanted(photos)
    (tmp_path / "out").mkdir()
    script = [
        sys.executable,
        search_killed.__file__,
        photos,
        tmp_path / "index",
        tiny["clip"],
        tmp_path / "out",
    ]
    done = subprocess.run(script, env=_environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "out").iterdir(), key=lambda path: int(path.name))
    assert len(folders) > 30  # shards, vectors, photos, codes, index.json, and removals
    seen = []
    for folder in folders:
        try:
            found = contents(folder)
        except UserError as error:
            assert fresh and "has no index yet" in str(error), folder
            found = None
        assert found in ([None, after] if fresh else [before, after]), folder
        seen.append(found == after)
        build(photos, folder, tiny["clip"], batch_size=2)
        assert contents(folder) == after, folder
        names = {
            name.rstrip("0123456789.").partition("-")[0].partition(".")[0] for name in os.listdir(folder)
        }
        assert names == {"vectors", "photos", "codes", "index", "skipped"}, folder
        assert len(os.listdir(folder)) == 6, os.listdir(folder)
    assert seen == sorted(seen) and seen[-1] and not seen[0]  # first the old one, then always the new one
