"""Blurred heads in the photos that the server shows."""

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests import served
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.server import api
from tpr_jax.search.server.blur import blur_head
from tpr_jax.search.server.guard import Limits
from tpr_jax.search.server.live import LiveIndex


@pytest.mark.parametrize("size", [(96, 32), (400, 130), (40, 20), (3, 2), (1, 1), (30, 200)])
def test_blurs_the_upper_quarter_only(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    before, blurred = pixels.copy(), blur_head(pixels)
    end = max(1, round(size[0] / 4))
    assert (pixels == before).all() and blurred.shape == pixels.shape
    assert (blurred[end:] == pixels[end:]).all()
    if size[0] >= 40:
        assert (blurred[end - 1] != pixels[end - 1]).any()
        assert blurred[:end].std() < pixels[:end].std() / 2
        # At most six colors across: neighboring pixels of a wide crop hardly differ.
        assert np.abs(np.diff(blurred[:end].astype(int), axis=1)).mean() < 256 / 6


@pytest.mark.parametrize("size", ["small", "large"])
def test_all_photos_of_the_server(tiny, tmp_path, size):
    searcher = open_searcher(served.make_index(tmp_path, tiny["clip"]))

    def shown(blur_faces, row):
        app = api.make_app(LiveIndex(searcher, blur_faces), Limits(rate=0, hosts=served.HERE))
        reply = TestClient(app, base_url="http://127.0.0.1").get(f"/api/photos/{row}?size={size}")
        return np.asarray(Image.open(io.BytesIO(reply.content))).astype(int)

    for row in (3, served.BOXED):
        plain, blurred = shown(False, row), shown(True, row)
        end = round(len(plain) / 4)
        assert blurred[: end - 2].std(axis=1).mean() < plain[: end - 2].std(axis=1).mean() / 1.3
        assert np.abs(blurred[end + 8 :] - plain[end + 8 :]).mean() < 3
