"""The warning about photos of whole scenes: when it is given, and how cheaply."""

import numpy as np
import pytest
from PIL import Image

from tests import search_galleries
from tpr_jax.search.index import shape
from tpr_jax.search.index.build import build
from tpr_jax.search.index.gallery import find_gallery
from tpr_jax.search.index.shape import describe_wide_photos


def draw(folder, name, width, height, orientation=1):
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(folder / name, exif=exif)


@pytest.mark.parametrize(
    ("wide", "high", "warned"), [(3, 2, True), (2, 2, False), (1, 2, False), (1, 0, True)]
)
def test_warns_of_mostly_wide_photos(tmp_path, wide, high, warned):
    for number in range(wide):
        draw(tmp_path, f"w{number}.jpg", 64, 48)
    for number in range(high):
        draw(tmp_path, f"h{number}.jpg", 48, 64)
    warning = describe_wide_photos(find_gallery(tmp_path))
    wanted = f"{wide} of the {wide + high} photos are wider than high and have no boxes"
    if (wide, high) == (1, 0):
        wanted = "the photo is wider than high and has no box, and search expects one person"
    assert warning.startswith(wanted) and ": add --detect" in warning if warned else warning == ""


def test_respects_the_exif_orientation(tmp_path):
    draw(tmp_path / "portrait", "a.jpg", 64, 48, orientation=6)
    draw(tmp_path / "landscape", "a.jpg", 48, 64, orientation=8)
    draw(tmp_path / "square", "a.jpg", 48, 48)
    found = {
        name: describe_wide_photos(find_gallery(tmp_path / name)) != ""
        for name in ("portrait", "landscape", "square")
    }
    assert found == {"portrait": False, "landscape": True, "square": False}


def test_photos_with_boxes_are_no_reason(tmp_path):
    draw(tmp_path, "a.jpg", 64, 48)
    draw(tmp_path, "b.jpg", 64, 48)
    table = tmp_path / "photos.csv"
    table.write_text("image,x,y,w,h\na.jpg,1,1,9,20\na.jpg,9,1,9,20\nb.jpg,,,,\n")
    assert describe_wide_photos(find_gallery(table)) == ""
    table.write_text("image,x,y,w,h\na.jpg,1,1,9,20\na.jpg,,,,\nb.jpg,,,,\n")
    assert describe_wide_photos(find_gallery(table)).startswith("2 of the 3 photos")


def test_opens_at_most_a_hundred(tmp_path, monkeypatch):
    for number in range(250):
        (tmp_path / f"{number:03}.jpg").write_bytes(b"")
    opened = []
    monkeypatch.setattr(shape, "upright_size", lambda path: opened.append(path.name) or (2, 1))
    warning = describe_wide_photos(find_gallery(tmp_path))
    assert warning.startswith("100 of the 100 photos sampled are wider than high")
    assert len(set(opened)) == 100 and opened[0] == "000.jpg" and opened[-1] == "249.jpg"


def test_an_index_says_it_once(tiny, tmp_path):
    search_galleries.photos(tmp_path / "wide", 3, size=(20, 40))
    search_galleries.photos(tmp_path / "high", 3)
    for name in ("wide", "high", "wide"):
        said = []
        build(tmp_path / name, tmp_path / f"index_{name}", tiny["clip"], log=said.append)
        assert sum(line.startswith("warning: 3 of the 3 photos are wider") for line in said) == (
            name == "wide"
        )
