"""Photos become batches, and batches become vectors."""

import contextlib

import jax
import numpy as np
import pytest

import tpr_jax
from tests import search_galleries
from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.perf import batches as batches_lib
from tpr_jax.search.index import build as build_lib
from tpr_jax.search.index import encode
from tpr_jax.search.index.gallery import Photo

SIZE = (32, 16)


@pytest.fixture
def reads(tmp_path):
    """Returns `reads(count)`, which writes photos and opens them again."""

    def read(count: int) -> list[encode.PhotoRead]:
        names = search_galleries.photos(tmp_path / "photos", count)
        opened = encode.read_ahead(tmp_path / "photos", [Photo(name) for name in names], SIZE, ahead=2)
        with contextlib.closing(opened):
            return list(opened)

    return read


@pytest.mark.parametrize(
    ("backend", "devices", "expected"), [("cpu", 4, 8), ("gpu", 1, 256), ("tpu", 4, 1024)]
)
def test_a_cpu_takes_what_its_caches_hold_and_accelerators_fill_each_device(
    monkeypatch, backend, devices, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(batches_lib.os, "cpu_count", lambda: 2)
    assert encode.default_batch_size(ClipConfig(), devices) == expected


@pytest.mark.parametrize(
    ("batch_size", "devices", "expected"), [(None, 1, 5), (None, 4, 8), (7, 1, 7), (7, 4, 8)]
)
def test_an_index_takes_the_default_or_what_the_caller_says(
    monkeypatch, tiny, tmp_path, batch_size, devices, expected
):
    """As a multiple of the devices, which share a batch."""
    seen, batches, make_encoder = [], build_lib.batches, build_lib.make_encoder

    def note(reads, image_size, size):
        seen.append(size)
        return batches(reads, image_size, size)

    monkeypatch.setattr(build_lib, "batches", note)
    monkeypatch.setattr(build_lib, "default_batch_size", lambda config, num_devices: 5)
    monkeypatch.setattr(build_lib, "make_encoder", lambda model: (make_encoder(model)[0], devices))
    search_galleries.photos(tmp_path / "photos", 3)
    build_lib.build(tmp_path / "photos", tmp_path / "index", tiny["clip"], batch_size=batch_size)
    assert seen == [expected]


def test_the_last_batch_is_padded_and_cached_photos_take_no_place(reads):
    opened = reads(6)
    opened[1] = opened[1]._replace(pixels=None, cached=1)
    made = list(encode.batches(iter(opened), SIZE, 2))
    assert [[read.photo.path for read in batch] for batch, _ in made] == [
        ["000.png", "001.png", "002.png"],
        ["003.png", "004.png"],
        ["005.png"],
    ]
    assert all(pixels.shape == (2, *SIZE, 3) and pixels.dtype == np.uint8 for _, pixels in made)
    np.testing.assert_array_equal(made[0][1], np.stack([opened[0].pixels, opened[2].pixels]))
    np.testing.assert_array_equal(made[2][1], np.stack([opened[5].pixels, np.zeros_like(opened[5].pixels)]))


def test_vectors_are_those_of_the_photos_without_the_padding(tiny, reads):
    model = tpr_jax.from_pretrained(tiny["clip"])
    opened = reads(5)
    encoder, devices = encode.make_encoder(model)
    assert devices == 1
    found = list(encode.encode(encoder, encode.batches(iter(opened), SIZE, 2)))
    assert [len(vectors) for _, vectors in found] == [2, 2, 1]
    vectors = np.concatenate([vectors for _, vectors in found])
    assert vectors.dtype == np.float16
    assert search_galleries.close(vectors, model.encode_images([read.pixels for read in opened]))


def test_a_vector_that_is_not_finite_is_an_error(reads):
    batches = encode.batches(iter(reads(1)), SIZE, 1)
    broken = encode.encode(lambda pixels: np.full((1, 4), np.nan, np.float16), batches)
    with pytest.raises(UserError, match="features are not finite: it is broken, or needs --dtype float32"):
        list(broken)
