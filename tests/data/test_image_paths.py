"""Finding image files by any spelling of their names, and which paths are one file."""

import os
import subprocess
import sys
import unicodedata

import pytest

from tpr_jax.data.image_paths import ImagePaths, describe_missing, is_valid_path

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
    found = ImagePaths().find(tmp_path, f"{folder}{mark}{asked}")
    assert os.path.samefile(found, file)


def test_finds_both_unicode_forms_side_by_side(tmp_path):
    for name in (COMPOSED, DECOMPOSED):
        touch(tmp_path / name)
    assert [ImagePaths().find(tmp_path, name) for name in (COMPOSED, DECOMPOSED)] == [
        str(tmp_path / COMPOSED),
        str(tmp_path / DECOMPOSED),
    ]


@pytest.mark.parametrize("where", ["{}", "d/{}", "{}/a.jpg"])
def test_both_unicode_forms_side_by_side_are_two_files(tmp_path, where):
    names = [where.format(form) for form in (COMPOSED, DECOMPOSED)]
    for name in names:
        touch(tmp_path / name)
    image_paths = ImagePaths()
    keys = [image_paths.key(image_paths.find(tmp_path, name)) for name in (*names, *names)]
    assert keys == [str(tmp_path / name) for name in (*names, *names)]


def test_a_link_beside_a_file_in_the_other_unicode_form(tmp_path):
    touch(tmp_path / COMPOSED)
    target = touch(tmp_path / "a.jpg")
    (tmp_path / DECOMPOSED).symlink_to("a.jpg")
    image_paths = ImagePaths()
    keys = [image_paths.key(str(tmp_path / name)) for name in (COMPOSED, DECOMPOSED)]
    assert keys == [str(tmp_path / COMPOSED), str(target)]


def test_backslashes_and_blanks(tmp_path):
    file = touch(tmp_path / "CUHK01" / "1.png")
    image_paths = ImagePaths()
    for name in (r"CUHK01\1.png", r".\CUHK01\1.png", r"CUHK01\..\CUHK01\1.png", " CUHK01/1.png "):
        assert os.path.samefile(image_paths.find(tmp_path, name), file)
    odd = touch(tmp_path / r"back\slash.png")  # a name that Linux allows
    assert image_paths.find(tmp_path, odd.name) == str(odd)
    blank = touch(tmp_path / " blank.png")
    assert image_paths.find(tmp_path, " blank.png") == str(blank)


def test_a_suffix_in_another_case(tmp_path):
    for name in ("d/IMG_1.jpg", "caf\u00e9.JPG", "two.jpg", "two.JPG", "exact.PNG", "exact.png"):
        touch(tmp_path / name)
    image_paths = ImagePaths()

    def find(name):
        return os.path.relpath(image_paths.find(tmp_path, name), tmp_path)

    assert find("d/IMG_1.JPG") == find(r"d\IMG_1.JpG") == find(" d/IMG_1.Jpg ") == "d/IMG_1.jpg"
    assert find(DECOMPOSED) == "caf\u00e9.JPG" and find("exact.png") == "exact.png"
    for name in ("two.Jpg", "d/img_1.jpg", "D/IMG_1.jpg"):  # another name, or not certain
        assert find(name) == name


def test_describes_a_name_that_looks_the_same(tmp_path):
    touch(tmp_path / "IMG_1.jpg")
    told = ", but 'IMG_1.jpg' is there, with other capitals"
    assert describe_missing(str(tmp_path / "img_1.jpg")) == told
    assert describe_missing(str(tmp_path / "b.jpg")) == describe_missing(str(tmp_path / "x" / "b.jpg")) == ""


def test_describes_a_folder_that_looks_the_same(tmp_path):
    touch(tmp_path / "photos" / "d" / "a.jpg")
    told = ", but 'photos' is there, with other capitals"
    assert describe_missing(tmp_path / "Photos" / "a.jpg") == told
    assert describe_missing(tmp_path / "Photos" / "d" / "a.jpg") == told
    told = ", but 'photos' is there, which differs: it lacks U+200B after position 0"
    assert describe_missing(tmp_path / "\u200bphotos" / "a.jpg") == told
    assert describe_missing(tmp_path / "photos" / "b" / "a.jpg") == ""


def test_a_folder_that_has_changed_is_listed_again(tmp_path):
    assert describe_missing(tmp_path / "a.jpg") == ""
    (tmp_path / "A.jpg").write_text("x")
    os.utime(tmp_path, ns=(1, 1))  # a coarse clock may give both states one time
    assert describe_missing(tmp_path / "a.jpg").startswith(", but 'A.jpg' is there")


def test_keeps_the_name_of_a_missing_file(tmp_path):
    image_paths = ImagePaths()
    assert image_paths.find(tmp_path, "a/b.jpg") == str(tmp_path / "a" / "b.jpg")
    assert image_paths.find(tmp_path, r"a\b.jpg") == str(tmp_path / "a" / "b.jpg")
    assert image_paths.find(tmp_path / "none", COMPOSED) == str(tmp_path / "none" / COMPOSED)


def test_paths_of_one_file_share_a_key(tmp_path, monkeypatch):
    file = touch(tmp_path / "photos" / "a.jpg")
    (tmp_path / "linked").symlink_to("photos")
    (tmp_path / "link.jpg").symlink_to("photos/a.jpg")
    (tmp_path / "again.jpg").symlink_to("link.jpg")
    os.link(file, tmp_path / "hard.jpg")
    monkeypatch.chdir(tmp_path)
    image_paths = ImagePaths()
    names = ["photos/a.jpg", "./photos/a.jpg", "photos//a.jpg", "photos/../photos/a.jpg", "linked/a.jpg"]
    names += ["link.jpg", "again.jpg", str(file), f"{tmp_path}/./photos/a.jpg"]
    assert {image_paths.key(name) for name in names} == {os.path.realpath(file)}
    for other in ("photos/A.jpg", "a.jpg", "hard.jpg"):
        assert image_paths.key(other) != os.path.realpath(file)


def test_paths_of_one_missing_file_share_a_key(tmp_path):
    image_paths = ImagePaths()
    keys = {image_paths.key(str(tmp_path / name)) for name in ("a.jpg", "./a.jpg", "x/../a.jpg")}
    assert len(keys) == 1
    assert image_paths.key(str(tmp_path / COMPOSED)) == image_paths.key(str(tmp_path / DECOMPOSED))


def test_resolves_a_link_in_the_other_unicode_form(tmp_path):
    file = touch(tmp_path / "a.jpg")
    (tmp_path / DECOMPOSED).symlink_to("a.jpg")
    image_paths = ImagePaths()
    assert image_paths.key(image_paths.find(tmp_path, COMPOSED)) == image_paths.key(str(file))


def test_terminates_on_a_loop_of_links(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    image_paths = ImagePaths()
    assert image_paths.key(image_paths.find(tmp_path, "a/\u00e9.jpg")).endswith("\u00e9.jpg")


def test_lists_each_folder_once(tmp_path, monkeypatch):
    for number in range(20):
        touch(tmp_path / f"{number}.jpg")
    listed, real = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or real(folder))
    image_paths = ImagePaths()
    assert len({image_paths.key(image_paths.find(tmp_path, f"{number}.jpg")) for number in range(20)}) == 20
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("name", "possible"),
    [("a.jpg", True), (COMPOSED, True), ("\udcff.jpg", True), ("\ud83d.jpg", False), ("a\0.jpg", False)],
)
def test_rejects_names_that_no_file_can_have(name, possible):
    assert is_valid_path(name) is possible


def test_works_in_an_ascii_locale(tmp_path):
    """The file cannot be opened there, and is reported like a missing one."""
    code = (
        "import sys; from tpr_jax.data.image_paths import ImagePaths, is_valid_path;"
        "image_paths = ImagePaths(); name = 'Zo\\xeb/caf\\xe9.jpg'; assert is_valid_path(name);"
        "assert sys.getfilesystemencoding() == 'ascii';"
        "path = image_paths.find(sys.argv[1], name); assert path.endswith(name);"
        "assert image_paths.key(path).endswith(name)"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=ascii_only)
    assert done.returncode == 0, done.stderr
