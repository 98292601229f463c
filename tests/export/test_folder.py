"""The folder of an export: replaced as a whole, also after exports that were killed."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tpr_jax.errors import UserError
from tpr_jax.export import folder as export_folder


def fill(folder, text: str) -> None:
    """Writes what an export consists of."""
    (folder / "model.bin").write_text(text)
    description = {"made_by": export_folder.MADE_BY, "bytes": {"model.bin": len(text)}}
    (folder / export_folder.DESCRIPTION).write_text(json.dumps(description))


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replaces_an_older_export_and_keeps_it_on_an_error(tmp_path):
    out = tmp_path / "out"
    for text in ("old", "new"):
        with export_folder.atomic_folder(out) as new:
            fill(new, text)
        assert (out / "model.bin").read_text() == text
    with pytest.raises(ZeroDivisionError), export_folder.atomic_folder(out) as new:
        fill(new, "half")
        _ = 1 / 0
    assert (out / "model.bin").read_text() == "new" and names(tmp_path) == ["out"]


# Exports to the folder argv[1], and is killed when the older export is out of the way.
KILLED = """
import os, sys
from tpr_jax.export.folder import atomic_folder
moves, real = [], os.replace
os.replace = lambda *names: os._exit(9) if moves else (moves.append(names), real(*names))
with atomic_folder(sys.argv[1]) as new:
    (new / "model.bin").write_text("new")
"""


def test_an_export_killed_between_its_two_moves_gives_the_older_one_back(tmp_path):
    out = tmp_path / "out"
    with export_folder.atomic_folder(out) as new:
        fill(new, "old")
    assert subprocess.run([sys.executable, "-c", KILLED, out], cwd=ROOT).returncode == 9
    assert not out.exists() and len(names(tmp_path)) == 1
    with pytest.raises(ZeroDivisionError), export_folder.atomic_folder(out) as new:
        _ = 1 / 0
    assert (out / "model.bin").read_text() == "old" and names(tmp_path) == ["out"]


def test_removes_only_what_exports_left(tmp_path):
    for name in (
        ".out.abcd1234/new",
        ".out.abcd1234/old",
        ".out.mine0000",
        ".out.mine1111",
        ".outer.abcd1234/new",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".out.mine0000" / "photo.jpg").write_text("x")
    (tmp_path / ".out.mine1111").rmdir()
    (tmp_path / ".out.mine1111").write_text("x")
    with export_folder.atomic_folder(tmp_path / "out") as new:
        fill(new, "new")
    assert names(tmp_path) == [".out.mine0000", ".out.mine1111", ".outer.abcd1234", "out"]


def test_rejects_a_folder_with_other_files(tmp_path):
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(UserError, match="holds something other than an export"):
        export_folder.check_out_folder(tmp_path)
