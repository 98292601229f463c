"""Photos by every way to write their names, and which of the names are one photo's."""

import os
import subprocess
import sys
import unicodedata

import pytest

from tpr_jax.data.photos import Photos, is_path

COMPOSED = "caf\u00e9.jpg"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("there", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("asked", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("folder", ["Zo\u00eb", "Zoe\u0308", "photos"])
@pytest.mark.parametrize("mark", ["/", "\\"])
def test_either_unicode_form_of_folder_and_file(tmp_path, there, asked, folder, mark):
    file = touch(tmp_path / "Zo\u00eb" / there) if folder != "photos" else touch(tmp_path / "photos" / there)
    found = Photos().path(tmp_path, f"{folder}{mark}{asked}")
    assert os.path.samefile(found, file)


def test_both_forms_side_by_side_are_found_each(tmp_path):
    for name in (COMPOSED, DECOMPOSED):
        touch(tmp_path / name)
    assert [Photos().path(tmp_path, name) for name in (COMPOSED, DECOMPOSED)] == [
        str(tmp_path / COMPOSED),
        str(tmp_path / DECOMPOSED),
    ]


def test_backslashes_and_blanks(tmp_path):
    file = touch(tmp_path / "CUHK01" / "1.png")
    photos = Photos()
    for name in (r"CUHK01\1.png", r".\CUHK01\1.png", r"CUHK01\..\CUHK01\1.png", " CUHK01/1.png "):
        assert os.path.samefile(photos.path(tmp_path, name), file)
    odd = touch(tmp_path / r"back\slash.png")  # a name that Linux allows
    assert photos.path(tmp_path, odd.name) == str(odd)
    blank = touch(tmp_path / " blank.png")
    assert photos.path(tmp_path, " blank.png") == str(blank)


def test_what_is_not_there_keeps_its_name(tmp_path):
    photos = Photos()
    assert photos.path(tmp_path, "a/b.jpg") == str(tmp_path / "a" / "b.jpg")
    assert photos.path(tmp_path, r"a\b.jpg") == str(tmp_path / "a" / "b.jpg")
    assert photos.path(tmp_path / "none", COMPOSED) == str(tmp_path / "none" / COMPOSED)


def test_names_of_one_photo(tmp_path, monkeypatch):
    file = touch(tmp_path / "photos" / "a.jpg")
    (tmp_path / "linked").symlink_to("photos")
    (tmp_path / "link.jpg").symlink_to("photos/a.jpg")
    (tmp_path / "again.jpg").symlink_to("link.jpg")
    os.link(file, tmp_path / "hard.jpg")
    monkeypatch.chdir(tmp_path)
    photos = Photos()
    names = ["photos/a.jpg", "./photos/a.jpg", "photos//a.jpg", "photos/../photos/a.jpg", "linked/a.jpg"]
    names += ["link.jpg", "again.jpg", str(file), f"{tmp_path}/./photos/a.jpg"]
    assert {photos.key(name) for name in names} == {os.path.realpath(file)}
    for other in ("photos/A.jpg", "a.jpg", "hard.jpg"):
        assert photos.key(other) != os.path.realpath(file)


def test_names_of_a_photo_that_is_not_there(tmp_path):
    photos = Photos()
    keys = {photos.key(str(tmp_path / name)) for name in ("a.jpg", "./a.jpg", "x/../a.jpg")}
    assert len(keys) == 1
    assert photos.key(str(tmp_path / COMPOSED)) == photos.key(str(tmp_path / DECOMPOSED))


def test_a_link_whose_name_has_the_other_form(tmp_path):
    file = touch(tmp_path / "a.jpg")
    (tmp_path / DECOMPOSED).symlink_to("a.jpg")
    photos = Photos()
    assert photos.key(photos.path(tmp_path, COMPOSED)) == photos.key(str(file))


def test_a_loop_of_links_ends(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    photos = Photos()
    assert photos.key(photos.path(tmp_path, "a/\u00e9.jpg")).endswith("\u00e9.jpg")


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    for number in range(20):
        touch(tmp_path / f"{number}.jpg")
    listed, real = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or real(folder))
    photos = Photos()
    assert len({photos.key(photos.path(tmp_path, f"{number}.jpg")) for number in range(20)}) == 20
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("name", "possible"),
    [("a.jpg", True), (COMPOSED, True), ("\udcff.jpg", True), ("\ud83d.jpg", False), ("a\0.jpg", False)],
)
def test_names_that_no_file_can_have(name, possible):
    assert is_path(name) is possible


def test_a_locale_without_the_letters_ends_nothing(tmp_path):
    """The photo cannot be opened there, which is told of it as of any that is missing."""
    code = (
        "import sys; from tpr_jax.data.photos import Photos, is_path; photos = Photos();"
        "name = 'Zo\\xeb/caf\\xe9.jpg'; assert is_path(name) and sys.getfilesystemencoding() == 'ascii';"
        "path = photos.path(sys.argv[1], name); assert path.endswith(name);"
        "assert photos.key(path).endswith(name)"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ascii_only)
    assert done.returncode == 0, done.stderr
