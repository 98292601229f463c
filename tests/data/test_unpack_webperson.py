"""Writing the images of WebPerson's Parquet files as files."""

import shutil

import pyarrow
import pytest
from pyarrow import parquet

from tests import benchmark_folders
from tpr_jax.data.unpack_webperson import __main__ as command
from tpr_jax.data.unpack_webperson import unpack
from tpr_jax.errors import UserError


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder, rows):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")


def test_writes_every_image_as_it_is_stored_and_resumes(tmp_path, capsys):
    drawn = benchmark_folders.webperson(tmp_path)
    wanted = files(drawn / "images")
    shutil.rmtree(drawn / "images")
    assert command.main([str(drawn)]) == 0
    assert capsys.readouterr().out == f"10 images written to {drawn}/images, 0 already there\n"
    assert files(drawn / "images") == wanted and len(wanted) == 10
    kept = drawn / "images" / "00000" / "00000002.jpg"
    kept.write_bytes(b"mine")
    (drawn / "images" / "00001" / "00000005.jpg").unlink()
    assert unpack(drawn) == (1, 9)
    assert files(drawn / "images") == wanted | {"00000/00000002.jpg": b"mine"}


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/a.jpg", "x/../../a.jpg", "..\\a.jpg", "C:\\a.jpg", "", None]
)
def test_paths_stay_within_the_folder(name, tmp_path):
    folder = tmp_path / "set"
    image = {"bytes": b"x", "path": "a"}
    write(folder, [{"image": image, "image_path": "fine.jpg"}, {"image": image, "image_path": name}])
    with pytest.raises(
        UserError, match=r"row 1: column 'image_path' is .*: must be a path within the folder"
    ):
        unpack(folder)
    assert [p.name for p in tmp_path.rglob("*.jpg")] == ["fine.jpg"]


@pytest.mark.parametrize("image", [{"bytes": None, "path": "a.jpg"}, {"path": "a.jpg"}])
def test_rows_without_an_image_are_an_error(image, tmp_path):
    write(tmp_path, [{"image": image, "image_path": "a.jpg"}])
    with pytest.raises(UserError, match=r"row 0: column 'image' holds no file: get the published files"):
        unpack(tmp_path)


def test_errors_are_one_line(tmp_path, capsys):
    assert command.main([str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "data/train-00000-*.parquet: no such file" in told
    write(tmp_path, [{"image_path": "a.jpg"}])
    assert command.main([str(tmp_path)]) == 2
    assert "has no column 'image'" in capsys.readouterr().err
