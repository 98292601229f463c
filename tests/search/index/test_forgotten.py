"""The list of what was forgotten: which photos, boxes and videos it covers."""

import hashlib

import pytest

from tpr_jax.search.index.forgotten import (
    Forgotten,
    ForgottenPhoto,
    ForgottenTrack,
    crop_track,
    read_forgotten,
    video_key,
    write_forgotten,
)

DIGEST = hashlib.sha256(b"photo").hexdigest()


@pytest.mark.parametrize(
    ("forgotten", "box", "covered"),
    [
        ((10, 10, 20, 40), (10, 10, 20, 40), True),
        ((10, 10, 20, 40), (10, 20, 20, 30), True),  # 600 of 800 pixels
        ((10, 10, 20, 40), (10, 30, 20, 40), False),  # 400 of 1200
        ((10, 10, 20, 40), (31, 10, 20, 40), False),
        ((10, 10, 20, 40), None, True),
        (None, (10, 10, 20, 40), True),
        (None, None, True),
    ],
)
def test_boxes_of_one_photo(forgotten, box, covered):
    listed = Forgotten((ForgottenPhoto(5, DIGEST, forgotten),))
    assert listed.has_content(DIGEST, box) == covered
    assert not listed.has_content(hashlib.sha256(b"other").hexdigest(), box)


def test_a_file_of_another_size_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"photo")
    listed = Forgotten((ForgottenPhoto(5, DIGEST, None),))
    assert listed.file_boxes(tmp_path / "a")(None)
    (tmp_path / "a").write_bytes(b"longer photo")
    assert not listed.file_boxes(tmp_path / "a")(None)
    assert not listed.file_boxes(tmp_path / "missing")(None)


def test_survives_writing(tmp_path):
    (tmp_path / "v").write_bytes(bytes(3_000_000))
    key = video_key(tmp_path / "v")
    listed = Forgotten(
        (ForgottenPhoto(5, DIGEST, (1, 2, 3, 4)),), (ForgottenTrack("gate-1", "f000001-00.jpg"),), (key,)
    )
    write_forgotten(tmp_path, listed)
    assert read_forgotten(tmp_path) == listed and len(listed) == 2
    assert listed.combine(listed) == listed
    assert listed.has_track("gate-1", "f000001-00.jpg") and not listed.has_track("gate-1", "f000001-01.jpg")
    assert listed.has_video(tmp_path / "v")
    (tmp_path / "v").write_bytes(bytes(2_999_999) + b"1")
    assert not listed.has_video(tmp_path / "v") and video_key(tmp_path / "none") is None
    assert not read_forgotten(tmp_path / "none")


def test_crops_are_in_the_folder_of_a_scan(tmp_path):
    index = tmp_path / "index"
    assert crop_track(index, index / "crops" / "gate-1" / "a.jpg") == ("gate-1", "a.jpg")
    assert crop_track(index, tmp_path / "photos" / "a.jpg") is None
    assert crop_track(index, index / "crops" / "photos.jsonl") is None
