"""Atomic writes, and that the package has only one implementation of them."""

import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from tpr_jax.errors import UserError
from tpr_jax.utils import files as writing

PACKAGE = Path(writing.__file__).parents[1]


def test_reads_back_what_was_written(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    writing.write_json(path, {"a": 1 / 3})
    assert json.loads(path.read_text()) == {"a": 1 / 3} and path.read_text().endswith("}\n")
    writing.write_text(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    writing.write_text(path, "\udcff é")  # a path that is not UTF-8
    assert path.read_bytes() == b"\\udcff \xc3\xa9" and json.loads(f'"{path.read_text()}"') == "\udcff é"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize("where", ["while it is written", "when it is moved"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(28, "No space left on device"),
            "no space left on the disk of {path}: free some space and rerun",
        ),
        (OSError(13, "Permission denied"), "{path}: cannot be written ([Errno 13] Permission denied); check"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path, monkeypatch, where, error, words):
    path = tmp_path / "a.json"
    writing.write_json(path, {"a": 1})
    before = path.read_bytes()

    def fail(*_):
        raise error

    def half(temporary):
        Path(temporary).write_bytes(b"half")
        if where == "while it is written":
            fail()

    if where == "when it is moved":
        monkeypatch.setattr(writing.os, "replace", fail)
    with pytest.raises(UserError, match=re.escape(words.format(path=path))):
        writing.write_whole(path, half)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.json"]


def test_removes_only_leftovers_of_killed_writes(tmp_path):
    class Killed(BaseException):
        pass

    def die(temporary):
        shutil.copyfile(temporary, tmp_path / "kept")
        shutil.move(temporary, f"{temporary}.moved")  # out of the reach of what cleans up after an exception
        raise Killed

    with pytest.raises(Killed):
        writing.write_whole(tmp_path / "a.json", die)
    (tmp_path / "kept").unlink()
    (moved,) = tmp_path.iterdir()
    left = moved.rename(tmp_path / moved.name.removesuffix(".moved"))  # the very name that it had
    others = [
        *(".b.json.abcd1234.tmp", "a.json.abcd1234.tmp", ".a.json.abcd123.tmp", ".a.json.abcd1234.tmp.x"),
        *(".axjson.abcd1234.tmp", ".a.json.ABCD1234.tmp", "notes.tmp", "a.json"),
    ]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".a.json.folder12.tmp").mkdir()
    writing.remove_leftovers(tmp_path, ["a.json"])
    assert not left.exists()
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".a.json.folder12.tmp"])
    writing.remove_leftovers(tmp_path / "missing", ["a.json"])


def test_exchange_replaces_a_folder(tmp_path, monkeypatch):
    new, folder, old = (tmp_path / name for name in ("new", "folder", "old"))
    for path in (new, folder):
        path.mkdir()
        (path / path.name).touch()
    real = os.replace

    def fail_once(source, target):
        if source == new:
            monkeypatch.setattr(writing.os, "replace", real)
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(writing.os, "replace", fail_once)
    with pytest.raises(OSError, match="No space"):
        writing.exchange(new, folder, old)
    assert os.listdir(folder) == ["folder"] and os.listdir(new) == ["new"] and not old.exists()
    writing.exchange(new, folder, old)
    assert os.listdir(folder) == ["new"] and os.listdir(old) == ["folder"] and not new.exists()


def test_does_not_blame_the_disk_for_a_bug(tmp_path):
    with pytest.raises(ZeroDivisionError):
        writing.write_whole(tmp_path / "a", lambda temporary: 1 / 0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("fact", "home"),
    [
        ("os.replace(", "utils/files.py"),
        ("0.48145466", "models/config.py"),
        ('"clip-mini"', "models/config.py"),
    ],
)
def test_facts_with_one_home(fact, home):
    holders = [path for path in PACKAGE.rglob("*.py") if fact in path.read_text(encoding="utf-8")]
    assert holders == [PACKAGE / home]


def test_remove_matching_removes_files_and_folders_but_follows_no_link(tmp_path):
    (tmp_path / "a.1" / "deep").mkdir(parents=True)
    for name in ("a.2", "b.1", "a.1x", "a.1/deep/x"):
        (tmp_path / name).write_text("x")
    (tmp_path / "a.3").symlink_to(tmp_path / "b.1")
    writing.remove_matching(tmp_path, r"a\.\d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.1x", "a.3", "b.1"]
    writing.remove_matching(tmp_path / "missing", ".*")


def test_matching_names_whole_and_sorted(tmp_path):
    for name in ("b.txt", "a.txt", "a.txt.bak"):
        (tmp_path / name).touch()
    assert [path.name for path in writing.list_matching(tmp_path, r".\.txt")] == ["a.txt", "b.txt"]
    assert (
        writing.list_matching(tmp_path / "none", r".*")
        == writing.list_matching(tmp_path / "a.txt", r".*")
        == []
    )
