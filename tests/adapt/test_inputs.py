"""Photos from folders, tables and indexes, and descriptions from text files."""

import numpy as np
import pytest
from PIL import Image

from tests import search_galleries
from tpr_jax.adapt import inputs
from tpr_jax.data.images.read import Crop, read_resized
from tpr_jax.errors import UserError
from tpr_jax.search.index.build import build

SIZE = (32, 16)


@pytest.fixture
def folder(tmp_path):
    search_galleries.photos(tmp_path / "photos", 5)
    return tmp_path / "photos"


def test_reads_a_folder(folder):
    photos = inputs.read_photos(folder, SIZE, 0)
    files = sorted(folder.iterdir())
    np.testing.assert_array_equal(photos.pixels, [read_resized(file, SIZE) for file in files])
    assert photos.found == 5 and photos.unreadable == []


def test_reads_boxes_of_a_table(folder):
    (folder / "t.csv").write_text("image,x,y,w,h\n000.png,1,2,8,20\n001.png,,,,\n")
    assert inputs.photo_sources(folder / "t.csv")[0] == [
        Crop(str(folder / "000.png"), 1, 2, 8, 20),
        str(folder / "001.png"),
    ]


def test_reads_an_index(folder, tiny, tmp_path):
    (folder / "t.csv").write_text("image,x,y,w,h\n000.png,1,2,8,20\n001.png,,,,\n")
    build(folder / "t.csv", tmp_path / "index", tiny["clip"], batch_size=5)
    assert inputs.photo_sources(tmp_path / "index")[0] == inputs.photo_sources(folder / "t.csv")[0]


def test_names_what_is_not_a_photo(folder):
    (folder / "clip.mp4").write_bytes(b"a video")
    photos = inputs.read_photos(folder, SIZE, 0)
    ((name, reason),) = photos.unreadable
    assert photos.found == 5 and name.endswith("clip.mp4") and "not an image" in reason
    (folder / "t.csv").write_text("image,caption\n000.png,red\n000.png,a coat\n001.png,blue\n")
    photos = inputs.read_photos(folder / "t.csv", SIZE, 0)
    assert photos.found == 2 and photos.unreadable == []


def test_leaves_out_what_cannot_be_read(folder):
    (folder / "002.png").write_bytes(b"no image")
    photos = inputs.read_photos(folder, SIZE, 0)
    assert len(photos.pixels) == 4 and photos.found == 5
    ((name, reason),) = photos.unreadable
    assert name == str(folder / "002.png") and "002.png" in reason
    np.testing.assert_array_equal(photos.pixels[2], read_resized(folder / "003.png", SIZE))


def test_needs_two_photos(folder):
    for file in sorted(folder.iterdir())[1:]:
        file.write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"^--photos .*photos: 1 photo can be read, and 2 are needed: .*001\.png"
    ):
        inputs.read_photos(folder, SIZE, 0)


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nothing: no such folder or file"):
        inputs.photo_sources(tmp_path / "nothing")


def test_draws_as_many_photos_as_fit(folder, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_PHOTOS", 3)
    everything = inputs.photo_sources(folder)[0]
    drawn = [inputs.draw(5, 3, seed) for seed in range(6)]
    assert all(rows == sorted(set(rows)) and len(rows) == 3 for rows in drawn)
    assert len({tuple(rows) for rows in drawn}) > 1
    photos = inputs.read_photos(folder, SIZE, 4)
    np.testing.assert_array_equal(photos.pixels, [read_resized(everything[i], SIZE) for i in drawn[4]])
    assert photos.found == 5


def test_reads_descriptions(tmp_path, monkeypatch):
    file = tmp_path / "texts.txt"
    file.write_text("\ufeffa red coat\n\n  a blue cap \r\na red coat\nRot und grün\n", encoding="utf-8")
    assert inputs.read_texts(file, 0) == ["a red coat", "a blue cap", "Rot und grün"]
    monkeypatch.setattr(inputs, "MAX_TEXTS", 2)
    assert len(inputs.read_texts(file, 0)) == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file; give a text file"),
        ("", "has 0 descriptions, and 2 are needed, one a line"),
        ("a red coat\na red coat\n", "has 1 description, and 2 are needed, one a line"),
    ],
)
def test_rejects_other_files_of_descriptions(content, told, tmp_path):
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=rf"^--texts .*texts\.txt: {told}"):
        inputs.read_texts(file, 0)
    with pytest.raises(UserError, match="is a folder; give a text file"):
        inputs.read_texts(tmp_path, 0)


def test_a_folder_of_broken_photos(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"1 photo can be read, and 2 are needed$"):
        inputs.read_photos(tmp_path, SIZE, 0)
