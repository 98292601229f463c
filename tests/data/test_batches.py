import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tpr_jax.data.batches import decode_all, image_batches, text_batches
from tpr_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(7):
        image = rng.integers(0, 256, (20 + number, 10, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tmp_path


def paths(folder):
    return [str(folder / f"{number}.png") for number in range(7)]


def expected(folder, height, width):
    sizes = (width, height)
    return np.stack(
        [np.asarray(Image.open(p).resize(sizes, Image.Resampling.BILINEAR)) for p in paths(folder)]
    )


def test_decode_all(folder, capsys):
    images = decode_all(paths(folder), (16, 8))
    assert images.dtype == np.uint8 and images.shape == (7, 16, 8, 3)
    np.testing.assert_array_equal(images, expected(folder, 16, 8))
    assert capsys.readouterr().err == ""
    decode_all(paths(folder), (16, 8), progress=True)
    assert "7" in capsys.readouterr().err
    assert decode_all([], (16, 8)).shape == (0, 16, 8, 3)


def test_decode_all_names_the_first_unreadable_image(folder):
    for number in (2, 4):
        (folder / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2\.png.*0 bytes"):
        decode_all(paths(folder), (16, 8))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_image_batches_are_in_order_and_padded(folder, batch_size):
    batches = list(image_batches(paths(folder), (16, 8), batch_size))
    assert all(batch.shape == (batch_size, 16, 8, 3) and batch.dtype == np.uint8 for batch, _ in batches)
    assert sum(valid for _, valid in batches) == 7
    np.testing.assert_array_equal(np.concatenate([b[:v] for b, v in batches]), expected(folder, 16, 8))
    assert not any(batch[valid:].any() for batch, valid in batches)


def test_reads_only_the_masked_rows(folder):
    """The other rows may not even exist here: another machine reads them."""
    for number in (0, 3, 4):
        (folder / f"{number}.png").rename(folder / f"{number}.away")
    here = np.array([False, True, True, False])
    batches = list(image_batches(paths(folder), (16, 8), 4, row_mask=here))
    assert [valid for _, valid in batches] == [4, 3]
    for number in (0, 3, 4):
        (folder / f"{number}.away").rename(folder / f"{number}.png")
    images = expected(folder, 16, 8)
    images[[0, 3, 4]] = 0
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in batches])[:7], images)


def test_image_batches_of_arrays_and_of_nothing(folder):
    images = decode_all(paths(folder), (16, 8))
    for source in (images, list(images), [Image.fromarray(image) for image in images]):
        batches = list(image_batches(source, (16, 8), 4))
        np.testing.assert_array_equal(np.concatenate([b[:v] for b, v in batches]), images)
    assert list(image_batches([], (16, 8), 4)) == []


def test_raises_for_an_unreadable_image_when_its_batch_is_due(folder):
    (folder / "5.png").write_bytes(b"no picture")
    batches = image_batches(paths(folder), (16, 8), 2)
    assert [next(batches)[1], next(batches)[1]] == [2, 2]
    with pytest.raises(UserError, match=r"5\.png: not an image"):
        next(batches)


def test_reads_at_most_two_batches_ahead(folder):
    read = []

    class Paths(list):
        def __getitem__(self, key):
            read.append(key)
            return super().__getitem__(key)

    batches = image_batches(Paths(paths(folder)), (16, 8), 2)
    next(batches)
    assert len(read) == 2
    batches.close()


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_text_batches(batch_size):
    ids = np.arange(1, 31, dtype=np.int32).reshape(6, 5)
    batches = list(text_batches(ids, batch_size))
    assert all(batch.shape == (batch_size, 5) and batch.dtype == np.int32 for batch, _ in batches)
    np.testing.assert_array_equal(np.concatenate([b[:v] for b, v in batches]), ids)
    assert not any(batch[valid:].any() for batch, valid in batches)


def test_encoding_needs_no_tensorflow():
    code = (
        "import sys, tpr_jax.data.batches, tpr_jax.data.records, tpr_jax.data.augment, tpr_jax.data.masking\n"
        "print(*[name for name in ('tensorflow', 'jax', 'flax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
