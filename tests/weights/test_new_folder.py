"""A new folder appears whole, and nothing that is there is touched."""

import pytest

from tpr_jax.errors import UserError
from tpr_jax.weights.new_folder import check_new_folder, write_new_folder


def save(folder):
    folder.mkdir()
    (folder / "weights").write_text("new")


def names(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_may_be_written(tmp_path):
    (tmp_path / "empty").mkdir()
    check_new_folder(tmp_path / "empty")
    check_new_folder(tmp_path / "deep" / "new")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(UserError, match=f"{name}: already exists; name a new folder"):
            check_new_folder(tmp_path / name)


def test_writes_the_whole_folder(tmp_path):
    write_new_folder(tmp_path / "deep" / "new", save)
    assert names(tmp_path) == ["deep", "deep/new", "deep/new/weights"]


def test_leaves_nothing_behind_if_saving_fails(tmp_path):
    def fail(folder):
        save(folder)
        raise UserError(f"{folder}: cannot be saved")

    with pytest.raises(UserError, match="cannot be saved") as error:
        write_new_folder(tmp_path / "new", fail)
    assert str(error.value) == f"{tmp_path / 'new'}: cannot be saved"
    assert names(tmp_path) == []


def test_keeps_what_appeared_in_the_meantime(tmp_path):
    def save_late(folder):
        save(folder)
        save(tmp_path / "new")
        (tmp_path / "new" / "weights").write_text("theirs")

    with pytest.raises(UserError, match="cannot be written"):
        write_new_folder(tmp_path / "new", save_late)
    assert (tmp_path / "new" / "weights").read_text() == "theirs" and names(tmp_path) == [
        "new",
        "new/weights",
    ]
