from typing import NamedTuple

import numpy as np
import pytest

from tests.footage.videos import open_cv
from tpr_jax.errors import UserError
from tpr_jax.footage.onnx import Letterbox, OnnxDetector, decode, form_of, letterbox, load_detector, num_cells

SIZE = (64, 96)  # height, width
CELLS = 8 * 12 + 4 * 6 + 2 * 3


def test_number_of_cells_by_hand():
    assert num_cells(SIZE) == CELLS == 126 and num_cells((640, 640)) == 8400


@pytest.mark.parametrize(
    ("shapes", "form"),
    [
        ([(1, CELLS, 85)], "yolox"),
        ([(1, 3 * CELLS, 85)], "yolov5"),
        ([(1, 84, CELLS)], "yolov8"),
        ([(1, 5, CELLS)], "yolov8"),
        ([(1, 100, 6)], "end-to-end"),
        ([(1, 100, 84)], "rtdetr-ultralytics"),
        ([(1, 100, 80), (1, 100, 4)], "rtdetr-hub"),
        ([(1, 100), (1, 100, 4), (1, 100)], "rtdetr-authors"),
        ([(1, 1000)], ""),
        ([(1, 3, 64, 96)], ""),
        ([(1, 100, 80), (1, 90, 4)], ""),
        ([], ""),
    ],
)
def test_forms_are_told_apart_by_the_outputs(shapes, form):
    assert form_of(shapes, SIZE) == form


def outputs(form: str) -> list[np.ndarray]:
    """Returns outputs with one person at x 20, y 10, 16 wide, 40 high, of score 0.72, and one dog."""
    person, dog = (28, 30, 16, 40), (60, 30, 10, 10)
    if form == "yolov8":
        out = np.zeros((1, 6, CELLS), np.float32)
        out[0, :, 3], out[0, :, 9] = (*person, 0.72, 0.1), (*dog, 0.0, 0.9)
        return [out]
    if form in ("yolov5", "yolox"):
        out = np.zeros((1, CELLS * (3 if form == "yolov5" else 1), 7), np.float32)
        row = 3 * 12 + 3  # of stride 8: column 3, row 3
        if form == "yolox":
            person = (28 / 8 - 3, 30 / 8 - 3, np.log(16 / 8), np.log(40 / 8))
        out[0, row], out[0, 9] = (*person, 0.9, 0.8, 0.1), (1, 1, 1, 1, 0.9, 0.0, 0.9)
        return [out]
    if form == "end-to-end":
        return [np.array([[[20, 10, 36, 50, 0.72, 0], [55, 25, 65, 35, 0.9, 16]]], np.float32)]
    fractions = np.array([person, dog], np.float32) / (96, 64, 96, 64)
    if form == "rtdetr-ultralytics":
        return [np.concatenate([fractions, [[0.72, 0.1, 0], [0.0, 0.9, 0]]], axis=1)[None].astype(np.float32)]
    if form == "rtdetr-hub":
        logits = np.array([[[np.log(0.72 / 0.28), -9], [-9, 3]]], np.float32)
        return [logits, fractions[None].astype(np.float32)]
    corners = np.array([[[20, 10, 36, 50], [55, 25, 65, 35]]], np.float32)
    return [np.array([[0, 16]]), corners, np.array([[0.72, 0.9]], np.float32)]


FORMS = ["yolox", "yolov5", "yolov8", "end-to-end", "rtdetr-ultralytics", "rtdetr-hub", "rtdetr-authors"]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_person(form):
    boxes, scores = decode(form, outputs(form), SIZE)
    assert form_of([out.shape for out in outputs(form)], SIZE) == form
    best = scores > 0.3
    assert boxes[best] == pytest.approx(np.array([[20, 10, 16, 40]]), abs=1e-3)
    assert scores[best] == pytest.approx([0.72])


def test_letterbox_by_hand():
    """A frame of 192 x 64 is halved to 96 x 32, with 16 gray rows above and below."""
    open_cv()
    fitted, box = letterbox(np.zeros((64, 192, 3), np.uint8), SIZE, centered=True)
    assert box == Letterbox((0.5, 0.5), (0, 16))
    assert (fitted[15] == 114).all() and (fitted[16] == 0).all() and (fitted[48] == 114).all()
    assert box.undo(np.array([[10, 26, 5, 6]], np.float32)).tolist() == [[20, 20, 10, 12]]
    assert letterbox(np.zeros((64, 192, 3), np.uint8), SIZE, centered=False)[1].offset == (0, 0)


class Input(NamedTuple):
    name: str
    shape: list
    type: str = "tensor(float)"


class Session:
    """Stands in for an `onnxruntime.InferenceSession`."""

    def __init__(self, form, inputs=None):
        self.form, self.inputs, self.fed = form, inputs or (Input("images", [1, 3, *SIZE]),), []

    def get_inputs(self):
        return list(self.inputs)

    def run(self, names, feeds):
        self.fed.append(feeds)
        return outputs(self.form)


@pytest.mark.parametrize("form", ["yolox", "yolov8", "rtdetr-hub"])
def test_boxes_are_in_pixels_of_the_frame(form):
    open_cv()
    session = Session(form)
    found = OnnxDetector(session, "m.onnx", "f")(np.full((128, 192, 3), (255, 0, 0), np.uint8))
    assert found.boxes == pytest.approx(np.array([[40, 20, 32, 80]]), abs=1e-2)
    pixel = session.fed[-1]["images"][0, :, 32, 48].tolist()
    assert pixel == ([0, 0, 255] if form == "yolox" else [1, 0, 0])  # YOLOX takes BGR up to 255


def test_the_authors_rtdetr_is_told_the_size_of_the_frame():
    open_cv()
    inputs = (Input("images", [1, 3, *SIZE]), Input("orig_target_sizes", [1, 2], "tensor(int64)"))
    session = Session("rtdetr-authors", inputs)
    found = OnnxDetector(session, "m.onnx", "f")(np.zeros((128, 192, 3), np.uint8))
    assert session.fed[-1]["orig_target_sizes"].tolist() == [[192, 128]]
    assert found.boxes.tolist() == [[20, 10, 16, 40]]


@pytest.mark.parametrize("shape", [[1, 3], [1, 1, 64, 96]])
def test_another_input_is_no_detector(shape):
    with pytest.raises(UserError, match=r"m\.onnx: is not a detector"):
        OnnxDetector(Session("yolov8", (Input("x", shape),)), "m.onnx", "f")


def test_other_outputs_are_no_detector():
    class Classifier(Session):
        def run(self, names, feeds):
            return [np.zeros((1, 1000), np.float32)]

    with pytest.raises(UserError, match=r"m\.onnx: is not a detector .* its outputs are \[1, 1000\]"):
        OnnxDetector(Classifier(""), "m.onnx", "f")


def test_a_file_that_is_no_model_is_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"m\.onnx: is not an ONNX model") as caught:
        load_detector(path)
    assert "\n" not in str(caught.value)
