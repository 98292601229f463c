import json

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.footage.boxes import read_box_file

SIZE = (200, 100)


def read(path, content):
    path.write_text(content)
    return read_box_file(path, "f")


def test_coco(tmp_path):
    content = {
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "images": [{"id": 5, "file_name": "a/b.jpg"}, {"id": 6, "file_name": "v", "frame_index": 12}],
        "annotations": [
            {"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"image_id": 5, "category_id": 2, "bbox": [9, 9, 9, 9]},
            {"image_id": 5, "category_id": 1, "bbox": [0, 0, 99, 99], "iscrowd": 1},
            {"image_id": 6, "category_id": 1, "bbox": [5, 6, 7, 8], "score": 0.5, "track_id": 4},
        ],
    }
    found = read(tmp_path / "a.json", json.dumps(content))
    assert found.find("a/b.jpg", None, SIZE).boxes.tolist() == [[1, 2, 3, 4]]
    frame = found.find("any.mp4", 12, SIZE)
    assert frame.boxes.tolist() == [[5, 6, 7, 8]] and frame.scores == [0.5] and frame.tracks == [4]


def test_mot_counts_from_one(tmp_path):
    found = read(tmp_path / "a.txt", "1,-1,11,21,30,40,0.7,-1,-1,-1\n3,5,1,1,2,2\n")
    assert found.frames("v.mp4") == [0, 2]
    first = found.find("v.mp4", 0, SIZE)
    assert first.boxes.tolist() == [[10, 20, 30, 40]] and first.scores == pytest.approx([0.7])
    assert first.tracks == [-1] and found.find("v.mp4", 2, SIZE).tracks == [5]


def test_mot_truth_leaves_out_what_does_not_count(tmp_path):
    found = read(tmp_path / "gt.txt", "1,1,1,1,9,9,1,1,0.3\n1,2,1,1,9,9,0,1,1\n1,3,1,1,9,9,1,3,1\n")
    assert found.find("v", 0, SIZE).tracks.tolist() == [1]


def test_yolo_files_of_photos_and_of_frames(tmp_path):
    (tmp_path / "street.txt").write_text("0 0.5 0.5 0.1 0.4\n16 0.1 0.1 0.1 0.1\n")
    (tmp_path / "gate_3.txt").write_text("0 0.25 0.5 0.1 0.4 0.8\n")
    found = read_box_file(tmp_path, "f")
    assert found.find("x/street.jpg", None, SIZE).boxes == pytest.approx(np.array([[90, 30, 20, 40]]))
    assert found.frames("gate.mp4") == [2]
    assert found.find("gate.mp4", 2, SIZE).boxes == pytest.approx(np.array([[40, 30, 20, 40]]))


def test_cvat_tracks_and_images(tmp_path):
    found = read(
        tmp_path / "a.xml",
        """<annotations>
        <track id="0" label="person"><box frame="4" outside="0" xtl="1" ytl="2" xbr="4" ybr="9"/>
        <box frame="5" outside="1" xtl="1" ytl="2" xbr="4" ybr="9"/></track>
        <track id="1" label="car"><box frame="4" outside="0" xtl="0" ytl="0" xbr="9" ybr="9"/></track>
        <image name="b.jpg"><box label="person" xtl="0" ytl="0" xbr="5" ybr="6"/></image></annotations>""",
    )
    assert found.frames("v.mp4") == [4]
    assert found.find("v.mp4", 4, SIZE).boxes.tolist() == [[1, 2, 3, 7]]
    assert found.find("b.jpg", None, SIZE).boxes.tolist() == [[0, 0, 5, 6]]


def test_table_of_photos_and_of_frames(tmp_path):
    found = read(tmp_path / "a.csv", "image,x,y,w,h,frame\nb.jpg,1,2,3,4,\nv.mp4,5,6,7,8,9\n")
    assert found.find("b.jpg", None, SIZE).boxes.tolist() == [[1, 2, 3, 4]]
    assert found.frames("v.mp4") == [9] and found.find("v.mp4", 9, SIZE).boxes.tolist() == [[5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "{}"),
        ("a.json", "nothing"),
        ("a.xml", "<a>"),
        ("a.txt", "1,2,3\n"),
        ("a.txt", "0 a b c d\n"),
        ("a.csv", "image,x,y,w\nb.jpg,1,2,3\n"),
        ("a.csv", "image,x,y,w,h\nb.jpg,1,2,3,wide\n"),
        ("a.txt", ""),
        ("a.pdf", "x"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, name, content):
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
        read(tmp_path / name, content)
    assert "\n" not in str(caught.value)
