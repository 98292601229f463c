"""Folders of photos: what is left out, what is skipped and why, and Unicode forms of names."""

import os
import shutil
import unicodedata
from collections import Counter

import pytest

from tests import search_galleries
from tests.pictures import encoded, smooth
from tpr_jax.data.image_paths import ImagePaths
from tpr_jax.errors import UserError
from tpr_jax.search.format import SKIPPED_FILE, format_build, format_left_out, format_skipped
from tpr_jax.search.index.build import build
from tpr_jax.search.index.folder import matching_pattern, path_on_disk, walk
from tpr_jax.search.index.gallery import find_gallery

NFC, NFD = (unicodedata.normalize(form, "Café Zoë.png") for form in ("NFC", "NFD"))


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_finds_every_photo_suffix_and_reports_other_images(tmp_path):
    found = ["a.HEIC", "b.heif", "c.mpo", "d.apng", "e.jfif", "f.jpe", "g.tif", "h.avif", "i.JPG", "j.webp"]
    unreadable = [
        "k.dng",
        "l.CR2",
        "m.nef",
        "n.arw",
        "o.jxl",
        "p.mp4",
        "q.MOV",
        "r.psd",
        "s.svg",
        "t.pdf",
        "u.eps",
    ]
    fill(tmp_path, *found, *unreadable, "v.txt", "w.xmp", "x.json", "y")
    paths, skipped, left_out = walk(tmp_path)
    assert paths == found and left_out == {".txt": 1, ".xmp": 1, ".json": 1, "no ending": 1}
    assert [name for name, _ in skipped] == sorted(unreadable)
    why = dict(skipped)
    assert "raw photo" in why["l.CR2"] and "a video" in why["q.MOV"] and "JPEG XL" in why["o.jxl"]


def test_rejects_a_folder_of_raw_photos(tmp_path):
    fill(tmp_path, "a.dng", "b.dng")
    with pytest.raises(UserError, match=r"has no photos: a\.dng: not an image .*raw photo"):
        find_gallery(tmp_path)


SYSTEMS = [
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/a.jpg",
    "$RECYCLE.BIN/S-1-5/a.jpg",
    ".Trash/a.jpg",
    ".Trash-1000/files/a.jpg",
    ".Trashes/501/a.jpg",
    "lost+found/a.jpg",
    "Thumbs/a.jpg",
    ".thumbnails/a.jpg",
    ".AppleDouble/a.jpg",
    "System Volume Information/a.jpg",
    ".@__thumb/a.jpg",
    "@Recycle/a.jpg",
    "__MACOSX/a.jpg",
    ".snapshot/a.jpg",
]


@pytest.mark.parametrize("place", ["", "2024/gate/"])
def test_leaves_out_and_counts_thumbnails_and_deleted_photos(tmp_path, place):
    fill(
        tmp_path,
        "a.jpg",
        *(place + name for name in SYSTEMS),
        f"{place}._a.jpg",
        f"{place}.b.jpg",
        ".DS_Store",
    )
    paths, skipped, left_out = walk(tmp_path)
    assert paths == ["a.jpg"] and skipped == []
    names = {name.split("/")[0] + "/" for name in SYSTEMS}
    assert left_out == {**dict.fromkeys(names, 1), "._*": 1, ".*": 1}
    (line,) = format_left_out(left_out, 3)
    assert line.startswith(
        f"left out: {len(SYSTEMS) + 2} folders and files: #recycle/ (1), $RECYCLE.BIN/ (1), "
    )
    assert line.endswith(f"and {len(SYSTEMS) - 1} other names")


def test_reads_a_system_folder_that_is_the_source(tmp_path):
    fill(tmp_path, "Thumbs/a.jpg")
    assert [photo.path for photo in find_gallery(tmp_path / "Thumbs").photos] == ["a.jpg"]
    with pytest.raises(UserError, match=r"has no photos.*left out: Thumbs/"):
        find_gallery(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("b.jpg", ["cam1/a.jpg", "cam2/old/c.jpg", "d.png"]),
        ("*.jpg", ["d.png"]),
        ("old", ["b.jpg", "cam1/a.jpg", "cam2/b.jpg", "d.png"]),
        ("cam?/", ["b.jpg", "d.png"]),
        ("d.png/", ["b.jpg", "cam1/a.jpg", "cam2/b.jpg", "cam2/old/c.jpg", "d.png"]),
        ("cam2/b*", ["b.jpg", "cam1/a.jpg", "cam2/old/c.jpg", "d.png"]),
        ("cam2/old", ["b.jpg", "cam1/a.jpg", "cam2/b.jpg", "d.png"]),
        ("OLD", ["b.jpg", "cam1/a.jpg", "cam2/b.jpg", "cam2/old/c.jpg", "d.png"]),
    ],
)
def test_exclude_patterns(tmp_path, pattern, left):
    names = ["b.jpg", "cam1/a.jpg", "cam2/b.jpg", "cam2/old/c.jpg", "d.png"]
    fill(tmp_path, *names)
    paths, _, left_out = walk(tmp_path, exclude=[pattern])
    assert paths == left and (set(+left_out) == {pattern}) == (len(left) < len(names))
    assert (dict(left_out) == {pattern: 0}) == (left == names)
    assert [name for name in names if not matching_pattern(name, ["nothing", pattern])] == left
    table = tmp_path / "photos.csv"
    table.write_text("image\n" + "".join(f"{name}\n" for name in names))
    gallery = find_gallery(table, exclude=[pattern])
    assert [photo.path for photo in gallery.photos] == left
    assert (dict(gallery.left_out) == {pattern: 0}) == (left == names)


def test_counts_no_match_only_of_patterns_that_could_have_had_one(tmp_path):
    """Others match what is left out anyway: hidden files, system folders, and what another one excludes."""
    fill(tmp_path, "a.jpg", "cam1/b.jpg", "cam1/old/c.jpg", ".git/d.jpg", "@eaDir/e[1].jpg", "f.txt")
    anyway = [".git", "/@eaDir/e[[]1].jpg", "cam1/old/", "b.jpg", "*.txt"]
    left_out = walk(tmp_path, exclude=["cam1/", "cam9/", "cam[", "Cam1/old", *anyway]).left_out
    zero = {"cam9/": 0, "cam[": 0, "Cam1/old": 0, "b.jpg": 0}
    assert left_out == Counter({"cam1/": 1, ".git/": 1, "@eaDir/": 1})
    assert {name: count for name, count in left_out.items() if not count} == zero


@pytest.mark.parametrize("pattern", ["", " ", "/"])
def test_an_empty_pattern_is_an_error(tmp_path, pattern):
    fill(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"--exclude '.?': is empty: name files or folders"):
        walk(tmp_path, exclude=["old", pattern])


def test_no_photos_beside_a_pattern_that_matched_nothing(tmp_path):
    fill(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"left out: \*\.jpg$"):
        find_gallery(tmp_path, exclude=["old", "*.jpg"])


@pytest.mark.timeout(300)
def test_does_not_follow_loops_of_links(tmp_path):
    fill(tmp_path, "a/b/c.jpg")
    os.symlink("..", tmp_path / "a" / "b" / "up")
    os.symlink("loop", tmp_path / "loop")
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    os.symlink(tmp_path, tmp_path / "self")
    paths, _, left_out = walk(tmp_path)
    assert paths == ["a/b/c.jpg", "loop.jpg"]
    assert left_out == {"links to folders": 2, "no ending": 1}  # and `loop`


def test_two_unicode_forms_of_a_name_are_one_photo(tmp_path):
    fill(tmp_path, f"x/{NFC}", f"x/{NFD}", "x/Cafe Zoe.png")
    if len(os.listdir(tmp_path / "x")) < 3:
        pytest.skip("this disk has only one form")
    paths, skipped, _ = walk(tmp_path)
    assert len(paths) == 2 and len(skipped) == 1 and "accents" in skipped[0][1]


@pytest.mark.parametrize(("disk", "table"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_a_table_may_use_either_unicode_form(tmp_path, disk, table):
    """Each part of the path has its own form."""
    fill(tmp_path, f"{table}/{disk}")
    file = tmp_path / "photos.csv"
    file.write_text(
        f"image,x,y,w,h\n{disk}/{table},,,,\n{table}/{disk},,,,\n{disk}/{disk},1,1,5,5\n", encoding="utf-8"
    )
    gallery = find_gallery(file)
    assert [(photo.path, photo.box) for photo in gallery.photos] == [
        (f"{table}/{disk}", None),
        (f"{table}/{disk}", (1, 1, 5, 5)),
    ]
    assert gallery.skipped == [("photos.csv: line 3", "has the same image and box as line 2")]
    whole = str(tmp_path / disk / table)
    paths = ImagePaths()
    assert path_on_disk(tmp_path / "elsewhere", whole, paths) == str(tmp_path / table / disk)
    assert path_on_disk(tmp_path, f"{NFC}/nothing é", paths) == f"{NFC}/nothing é"


def test_indexes_a_folder_with_all_of_these(tiny, tmp_path):
    """Prints one line for what is left out, and one for each skipped file; named pipes do not block."""
    folder = tmp_path / "photos"
    search_galleries.photos(folder, 2)
    shutil.copytree(folder, folder / "@eaDir")
    shutil.copytree(folder, folder / "old")
    (folder / "a.jpg").write_bytes(encoded(smooth(), "MPO", save_all=True))
    (folder / NFD).write_bytes(encoded(smooth(), "PNG"))
    (folder / NFC).write_bytes(encoded(smooth(), "PNG"))
    (folder / "b.nef").write_bytes(b"MM\0*" + b"\0" * 50)
    os.mkfifo(folder / "c.jpg")
    result = build(folder, tmp_path / "index", tiny["clip"], exclude=["old"])
    assert result["count"] == 4 and result["left_out"] == {"@eaDir/": 1, "old": 1}
    lines = format_build(result).splitlines()
    assert "left out: 2 folders and files: @eaDir/ (1), old (1)" in lines
    assert "skipped: c.jpg: is a named pipe, not an image" in lines
    assert any(line.startswith("skipped: b.nef: not an image") and "raw photo" in line for line in lines)
    assert "4 photos indexed: 4 encoded, 0 unchanged, 0 gone, 3 skipped" in lines
    assert "... and 2 more" in format_build(result, 1) and "skipped.jsonl in the index" in format_build(
        result, 1
    )


def test_a_table_of_windows(tmp_path):
    """Its backslashes separate folders, unless a file has one in its name; patterns see the real path."""
    fill(tmp_path, "sub/1.png", "sub/2.png", "back\\slash.png", "é/3.png")
    file = tmp_path / "photos.csv"
    lines = ["sub\\1.png", "sub/1.png", "back\\slash.png", ".\\sub\\2.png", "e\u0301\\3.png", "no\\4.png"]
    file.write_text("\n".join(["image", *lines]), encoding="utf-8")
    gallery = find_gallery(file)
    paths = [photo.path for photo in gallery.photos]
    assert paths == ["sub/1.png", "back\\slash.png", "sub/2.png", "é/3.png", "no\\4.png"]
    assert gallery.skipped == [("photos.csv: line 3", "has the same image and box as line 2")]
    assert [photo.path for photo in find_gallery(file, exclude=["sub/"]).photos] == paths[1:2] + paths[3:]


def test_a_table_whose_suffixes_differ_in_case(tmp_path, monkeypatch):
    """Only suffixes: names that differ otherwise, or of which there are two, are other photos."""
    fill(
        tmp_path,
        "IMG_1.jpg",
        "d/IMG_2.JPG",
        "é.Jpg",
        "two.jpg",
        "two.JPG",
        "Img_3.jpg",
        "exact.PNG",
        "exact.png",
    )
    names = ["IMG_1.JPG", "d\\IMG_2.jpg", "é.JPG", "two.Jpg", "IMG_3.jpg", "exact.png"]
    file = tmp_path / "PHOTOS.CSV"
    file.write_text("\n".join(["image", *names]), encoding="utf-8")
    listed, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scan(folder))
    paths = [photo.path for photo in find_gallery(file).photos]
    assert paths == ["IMG_1.jpg", "d/IMG_2.JPG", "é.Jpg", "two.Jpg", "IMG_3.jpg", "exact.png"]
    assert len(listed) == len(set(listed)) == 2


def test_counts_files_of_unknown_kinds_by_ending(tmp_path):
    fill(tmp_path, "a.jpg", "b.AAE", "d/c.aae", "d/d.abc", "d/noise", "old/e.aae", ".hidden.txt", "Thumbs.db")
    fill(tmp_path, "sub/Desktop.ini", "x.tmp")
    with open(os.fsencode(tmp_path) + b"/f.\xe9", "wb"):
        pass
    _, skipped, left_out = walk(tmp_path, exclude=["old", "*.tmp"])
    assert skipped == [] and left_out == {".aae": 2, ".abc": 1, "no ending": 1, "old": 1, ".\\xe9": 1}
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"has no photos.*left out: .*\.aae, \.abc, \.tmp, no ending"):
        find_gallery(tmp_path)


def test_names_the_endings_of_skipped_files_that_are_not_listed(tmp_path):
    fill(tmp_path, "a.jpg", *(f"{n:02}.MP4" for n in range(9)), "p.mov", "q.nef")
    _, skipped, _ = walk(tmp_path)
    *_, line = format_skipped([*skipped, ("t.csv: line 3", "has the same image")], 3, SKIPPED_FILE)
    wanted = (
        "... and 9 more, among them .mp4 (6), .mov (1), .nef (1): skipped.jsonl in the index lists all of"
    )
    assert line.startswith(wanted)
    twice = [("a.jpg", "is empty")] * 2
    assert format_skipped(twice, 1, SKIPPED_FILE)[1].startswith("... and 1 more: skipped.jsonl")
    assert format_skipped(twice, 1)[1] == "... and 1 more"
