"""Interrupted repeatedly, with photos edited in between: every vector is that of the current file."""

import contextlib
import dataclasses
import itertools
import os

import numpy as np
import pytest
from PIL import Image

import tpr_jax
from tpr_jax.errors import UserError
from tpr_jax.search.format import format_build
from tpr_jax.search.index import build as build_lib
from tpr_jax.search.index import encode, shards, store
from tpr_jax.search.index.build import build


@pytest.fixture(scope="module")
def model(tiny):
    return tpr_jax.from_pretrained(tiny["clip"])


@pytest.fixture
def interrupt_after(monkeypatch):
    """Returns `interrupt_after(n, ...)`: builds with shards of four photos, stops before shard n + 1."""
    monkeypatch.setattr(build_lib, "SHARD_ROWS", 4)
    write = shards.write_shard

    def call(count, *args, **settings):
        begun = itertools.count()

        def dying(*args, **kwargs):
            if next(begun) >= count:
                raise KeyboardInterrupt
            write(*args, **kwargs)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(shards, "write_shard", dying)
            build(*args, batch_size=4, **settings)

    return call


def draw(path, seed):
    """Writes noise in a format in which all images of one size have the same number of bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((20, 40), Image.Resampling.NEAREST).save(path)


def is_current(index, model, photos):
    wanted = model.encode_images([photos / path for path in index.table["path"].to_pylist()])
    return np.abs(index.vectors.astype(np.float32) - wanted).max(axis=1) < 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_photos_edited_between_interruptions(interrupt_after, model, tiny, tmp_path, seed):
    rng, photos = np.random.default_rng(seed), tmp_path / "photos"
    photos.mkdir()
    names = [f"{number:03d}.bmp" for number in range(16)]
    drawn = itertools.count(1000 * seed)
    for name in names:
        draw(photos / name, next(drawn))
    for _ in range(5):
        interrupt_after(int(rng.integers(1, 4)), photos, tmp_path / "index", tiny["clip"])
        for name in rng.choice(names, 6, replace=False):
            draw(photos / name, next(drawn))
    result = build(photos, tmp_path / "index", tiny["clip"])
    index = store.open_index(tmp_path / "index")
    assert result["count"] == 16 and is_current(index, model, photos).all()


def test_a_photo_that_is_restored(interrupt_after, model, tiny, tmp_path):
    """The file's size and time decide, not the age of the vector."""
    photos = tmp_path / "photos"
    photos.mkdir()
    draw(photos / "a.bmp", 1)
    first = (photos / "a.bmp").read_bytes()
    for seed, name in enumerate("bcdefghi", 10):
        draw(photos / f"{name}.bmp", seed)
    os.utime(photos / "a.bmp", ns=(10**18, 10**18))
    interrupt_after(1, photos, tmp_path / "index", tiny["clip"])
    draw(photos / "a.bmp", 6)
    interrupt_after(1, photos, tmp_path / "index", tiny["clip"])
    assert len(list((tmp_path / "index" / "parts").glob("*.npz"))) == 2
    (photos / "a.bmp").write_bytes(first)
    os.utime(photos / "a.bmp", ns=(10**18, 10**18))
    assert (
        build(photos, tmp_path / "index", tiny["clip"])["encoded"] == 2
    )  # h and i, which were never encoded
    assert is_current(store.open_index(tmp_path / "index"), model, photos).all()


def test_counts_what_interrupted_runs_encoded(interrupt_after, tiny, tmp_path):
    photos, args = tmp_path / "photos", (tmp_path / "photos", tmp_path / "index", tiny["clip"])
    photos.mkdir()
    for number in range(10):
        draw(photos / f"{number}.bmp", number)
    interrupt_after(1, *args)
    interrupt_after(1, *args)
    result = build(*args)
    counts = ("count", "encoded", "resumed", "kept", "gone")
    assert [result[name] for name in counts] == [10, 2, 8, 0, 0]
    line = "10 photos indexed: 2 encoded, 8 encoded before the run was interrupted, 0 unchanged, 0 gone"
    assert line in format_build(result)
    # The index has the vector of the fourth, which was moved, so the first four to encode are a, b, c and e.
    (photos / "9.bmp").rename(photos / "d.bmp")
    for seed, name in enumerate("abcef", 20):
        draw(photos / f"{name}.bmp", seed)
    interrupt_after(1, *args)
    result = build(*args)
    assert [result[name] for name in counts] == [15, 1, 4, 10, 0]
    result = build(*args)
    assert [result[name] for name in counts] == [15, 0, 0, 15, 0]
    assert "15 photos indexed: 0 encoded, 15 unchanged, 0 gone, 0 skipped" in format_build(result)


@pytest.mark.parametrize("times", [1, 99])
def test_a_file_replaced_between_digest_and_pixels(model, tiny, tmp_path, monkeypatch, times):
    """The digest of one content must not be stored with the vector of another."""
    photos, stamp, left = tmp_path / "photos", encode._stamp, iter(range(times))
    photos.mkdir()
    draw(photos / "a.bmp", 1)
    draw(photos / "b.bmp", 2)
    first = (photos / "a.bmp").read_bytes()

    def late(path):
        found = stamp(path)
        if path.name == "a.bmp" and (seed := next(left, None)) is not None:
            draw(path, 100 + seed)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(encode, "_stamp", late)
        skipped = build(photos, tmp_path / "index", tiny["clip"])["skipped"]
    assert [name for name, why in skipped if "changed while" in why] == (["a.bmp"] if times > 1 else [])
    (photos / "a.bmp").write_bytes(first)
    build(photos, tmp_path / "index", tiny["clip"])
    index = store.open_index(tmp_path / "index")
    assert index.info["count"] == 2 and is_current(index, model, photos).all()


def test_another_folder_with_the_same_names_sizes_and_times(interrupt_after, model, tiny, tmp_path):
    for folder, seed in (("one", 10), ("two", 20)):
        (tmp_path / folder).mkdir()
        for number in range(8):
            draw(tmp_path / folder / f"{number}.bmp", seed + number)
            os.utime(tmp_path / folder / f"{number}.bmp", ns=(0, 0))
    interrupt_after(1, tmp_path / "one", tmp_path / "index", tiny["clip"])
    assert build(tmp_path / "two", tmp_path / "index", tiny["clip"])["encoded"] == 8
    assert is_current(store.open_index(tmp_path / "index"), model, tmp_path / "two").all()
    assert build(tmp_path / "one", tmp_path / "index", tiny["clip"], replace=True)["count"] == 8
    assert is_current(store.open_index(tmp_path / "index"), model, tmp_path / "one").all()


def test_photos_broken_and_fixed_between_interruptions(interrupt_after, model, tiny, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(8):
        draw(photos / f"{number}.bmp", number)
    whole = (photos / "0.bmp").read_bytes()
    (photos / "0.bmp").write_bytes(b"no picture")
    (photos / "1.bmp").write_bytes(b"no picture either")
    interrupt_after(1, photos, tmp_path / "index", tiny["clip"])
    (photos / "0.bmp").write_bytes(whole)
    interrupt_after(1, photos, tmp_path / "index", tiny["clip"])
    (photos / "7.bmp").write_bytes(b"damaged since")
    result = build(photos, tmp_path / "index", tiny["clip"])
    assert [name for name, _ in result["skipped"]] == ["1.bmp", "7.bmp"]
    index = store.open_index(tmp_path / "index")
    assert index.table["path"].to_pylist() == [f"{number}.bmp" for number in (0, 2, 3, 4, 5, 6)]
    assert is_current(index, model, photos).all()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"image_size": (64, 32)}, {}),
        ({}, {"image_size": (64, 32)}),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}),
    ],
)
def test_ignores_shards_with_other_settings(interrupt_after, tiny, tmp_path, first, then):
    photos, said = tmp_path / "photos", []
    photos.mkdir()
    for number in range(8):
        draw(photos / f"{number}.bmp", number)
    interrupt_after(1, photos, tmp_path / "index", tiny["clip"], **first)
    result = build(photos, tmp_path / "index", tiny["clip"], **then, log=said.append)
    assert result["encoded"] == 8
    assert any("ignored 1 file " in line and "another model, image size or type" in line for line in said)
    index = store.open_index(tmp_path / "index")
    of_then = tpr_jax.from_pretrained(tiny["clip"], then.get("image_size"), then.get("dtype", "float32"))
    assert is_current(index, of_then, photos).all()
    assert tuple(index.info["model"]["image_size"]) == of_then.config.image_size
    assert not (tmp_path / "index" / "parts").exists()


def test_ignores_shards_of_another_model(interrupt_after, own_clip, tiny, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(8):
        draw(photos / f"{number}.bmp", number)
    (own_clip / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    interrupt_after(1, photos, tmp_path / "index", own_clip)
    assert build(photos, tmp_path / "index", tiny["clip"])["encoded"] == 8
    index = store.open_index(tmp_path / "index")
    assert is_current(index, tpr_jax.from_pretrained(tiny["clip"]), photos).all()


def test_rejects_a_model_that_normalizes_pixels_differently(tiny, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    draw(photos / "0.bmp", 0)
    build(photos, tmp_path / "index", tiny["clip"])
    assert store.read_info(tmp_path / "index")["model"]["std"] == pytest.approx(
        [0.26863, 0.26130, 0.27578], abs=1e-4
    )
    draw(photos / "1.bmp", 1)
    load = build_lib.from_pretrained

    def load_other(*args):
        model = load(*args)
        return dataclasses.replace(
            model, config=dataclasses.replace(model.config, image_mean=(0.5, 0.5, 0.5))
        )

    monkeypatch.setattr(build_lib, "from_pretrained", load_other)
    with pytest.raises(UserError, match=r"was made with mean \[0\.48.*has \[0\.5, 0\.5, 0\.5\]: index the"):
        build(photos, tmp_path / "index", tiny["clip"])
