"""Detectors in ONNX files: YOLOX, YOLOv5 to v11 and RT-DETR exports, told apart by their outputs.

| outputs | form |
|---|---|
| [1, cells, 5 + c], one row per cell of strides 8, 16, 32 | YOLOX: offsets and log sizes per cell |
| [1, 3 cells, 5 + c] | YOLOv5, YOLOv7: centers and sizes in pixels, objectness |
| [1, 4 + c, cells] | YOLOv8, v9, v11: centers and sizes in pixels, no objectness |
| [1, n, 6] | YOLOv10 and exports with NMS: corners in pixels, score, class |
| [1, n, 4 + c], n not the number of cells | RT-DETR of Ultralytics: centers and sizes as fractions |
| [1, n, c] and [1, n, 4] | RT-DETR of Hugging Face: logits, centers and sizes as fractions |
| [1, n], [1, n, 4], [1, n] and two inputs | RT-DETR of its authors: classes, corners in pixels, scores |

An RT-DETR of Ultralytics with exactly two classes has the shape of a network with NMS and is taken for one.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from tpr_jax.errors import UserError
from tpr_jax.footage.detections import Detections, make_detections, suppress
from tpr_jax.footage.opencv import opencv
from tpr_jax.utils.hashing import sha256

_PERSON = 0  # its class in COCO, as these detectors number them
_LEAST, _OVERLAP = 0.05, 0.6
_STRIDES = (8, 16, 32)
_DEFAULT_SIZE = 640
_FORMS = "YOLOX, YOLOv5 to v11 or RT-DETR"


class Letterbox(NamedTuple):
    """How a frame was fitted into the input of a detector.

    Attributes:
      scale: input pixels per pixel of the frame, in x and y.
      offset: x and y of the frame's corner within the input.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]

    def undo(self, boxes: Float[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
        """Converts boxes (x, y, width, height) from the input to the frame."""
        corner = (boxes[:, :2] - self.offset) / self.scale
        return np.concatenate([corner, boxes[:, 2:] / self.scale], axis=1).astype(np.float32)


def letterbox(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], centered: bool
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Letterbox]:
    """Fits a frame into (height, width) without changing its proportions; the rest is gray (114)."""
    cv2 = opencv()
    height, width = pixels.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    new = max(round(height * scale), 1), max(round(width * scale), 1)
    top, left = ((size[0] - new[0]) // 2, (size[1] - new[1]) // 2) if centered else (0, 0)
    out = np.full((*size, 3), 114, np.uint8)
    out[top : top + new[0], left : left + new[1]] = cv2.resize(pixels, new[::-1])
    return out, Letterbox((new[1] / width, new[0] / height), (left, top))


def stretch(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Letterbox]:
    """Resizes a frame to (height, width), as RT-DETR does."""
    scale = (size[1] / pixels.shape[1], size[0] / pixels.shape[0])
    return opencv().resize(pixels, size[::-1]), Letterbox(scale, (0, 0))


def num_cells(size: tuple[int, int]) -> int:
    """Returns the number of cells of all strides for an input of (height, width)."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in _STRIDES)


def form_of(shapes: Sequence[Sequence[int]], size: tuple[int, int]) -> str:
    """Returns which detector has outputs of these shapes for an input of (height, width); '' for none."""
    cells = num_cells(size)
    if len(shapes) == 3 and sorted(map(len, shapes)) == [2, 2, 3]:
        return "rtdetr-authors"
    if len(shapes) == 2 and all(len(s) == 3 for s in shapes):
        (a, b) = shapes
        is_pair = a[1] == b[1] and 4 in (a[2], b[2])
        return "rtdetr-hub" if is_pair else ""
    if len(shapes) < 1 or len(shapes[0]) != 3 or shapes[0][0] != 1:
        return ""
    _, rows, columns = shapes[0]
    if columns == 6 and rows not in (cells, 3 * cells):
        return "end-to-end"
    if columns == cells and rows > 4:
        return "yolov8"
    if columns > 5 and rows in (cells, 3 * cells):
        return "yolox" if rows == cells else "yolov5"
    return "rtdetr-ultralytics" if columns > 4 and rows < cells else ""


def decode(
    form: str, outputs: Sequence[np.ndarray], size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "n 4"], Float32[np.ndarray, " n"]]:
    """Returns the boxes (x, y, width, height in pixels of the input) and scores of people.

    Args:
      form: what `form_of` returned.
      outputs: the outputs of the network.
      size: (height, width) of the input.
    """
    first = outputs[0][0].astype(np.float32)
    fractions = np.array((size[1], size[0], size[1], size[0]), np.float32)
    if form == "yolov8":
        return _corner(first[:4].T), first[4 + _PERSON]
    if form == "yolov5":
        return _corner(first[:, :4]), first[:, 4] * first[:, 5 + _PERSON]
    if form == "yolox":
        return _corner(_from_cells(first[:, :4], size)), first[:, 4] * first[:, 5 + _PERSON]
    if form == "end-to-end":
        people = first[:, 5].round() == _PERSON
        return _from_corners(first[people, :4]), first[people, 4]
    if form == "rtdetr-ultralytics":
        return _corner(first[:, :4] * fractions), first[:, 4 + _PERSON]
    if form == "rtdetr-hub":
        logits, boxes = outputs if outputs[1].shape[2] == 4 else outputs[::-1]
        scores = 1 / (1 + np.exp(-logits[0, :, _PERSON].astype(np.float32)))
        return _corner(boxes[0].astype(np.float32) * fractions), scores
    labels, scores = _labels_and_scores(outputs)
    corners = next(out for out in outputs if out.ndim == 3)[0].astype(np.float32)
    people = labels == _PERSON
    return _from_corners(corners[people]), scores[people]


def _labels_and_scores(outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    flat = [out for out in outputs if out.ndim == 2]
    labels = next((out for out in flat if np.issubdtype(out.dtype, np.integer)), flat[0])
    scores = next(out for out in flat if out is not labels)
    return labels[0].round().astype(np.int64), scores[0].astype(np.float32)


def _corner(boxes: np.ndarray) -> np.ndarray:
    """Converts centers and sizes to upper left corners and sizes."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _from_corners(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _from_cells(raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Converts YOLOX's offsets and log sizes to centers and sizes in pixels, unless the export did so."""
    grids, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        grids.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    grid, stride = np.concatenate(grids).astype(np.float32), np.concatenate(strides).astype(np.float32)
    if np.abs(raw[:, 2:4]).max(initial=0) > 20:  # exp(20) pixels: these are sizes already
        return raw
    return np.concatenate([(raw[:, :2] + grid) * stride, np.exp(raw[:, 2:4]) * stride], axis=1)


class OnnxDetector:
    """A detector of an ONNX file, run by ONNX Runtime."""

    def __init__(self, session: Any, name: str, fingerprint: str):
        """Checks the inputs and outputs.

        Args:
          session: an `onnxruntime.InferenceSession`.
          name: the file, for messages.
          fingerprint: identifies the file's content.

        Raises:
          UserError: it is no detector of a known form.
        """
        self._session, self.name, self.fingerprint = session, name, fingerprint
        inputs = session.get_inputs()
        images = [one for one in inputs if len(one.shape) == 4]
        if len(images) != 1 or len(inputs) > 2 or images[0].shape[1] not in (3, "3"):
            raise UserError(f"{name}: is not a detector: its input is not one image [1, 3, height, width]")
        self._image, self._inputs = images[0], inputs
        height, width = (n if isinstance(n, int) else _DEFAULT_SIZE for n in images[0].shape[2:])
        self.size = (height, width)
        shapes = [out.shape for out in self._run(np.zeros((1, 3, height, width), np.float32), self.size)]
        self.form = form_of(shapes, self.size)
        if not self.form:
            listed = ", ".join(str(list(shape)) for shape in shapes)
            raise UserError(f"{name}: is not a detector of the form of {_FORMS}: its outputs are {listed}")

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Returns the people in a frame; scores are from 0 to 1."""
        if self.form.startswith("rtdetr"):
            fitted, box = stretch(pixels, self.size)
        else:
            fitted, box = letterbox(pixels, self.size, centered=self.form != "yolox")
        planes = fitted[None].transpose(0, 3, 1, 2).astype(np.float32)
        planes = planes[:, ::-1] if self.form == "yolox" else planes / 255  # YOLOX takes BGR from 0 to 255
        original = pixels.shape[:2] if self.form == "rtdetr-authors" else self.size
        boxes, scores = decode(self.form, self._run(np.ascontiguousarray(planes), original), self.size)
        if self.form != "rtdetr-authors":  # which returns boxes of the original frame
            boxes = box.undo(boxes)
        found = make_detections(boxes, scores)
        return suppress(found.take(found.scores >= _LEAST), _OVERLAP)

    def _run(self, planes: np.ndarray, original: tuple[int, int]) -> list[np.ndarray]:
        dtype = np.float16 if "16" in self._image.type else np.float32
        feeds: dict[str, np.ndarray] = {self._image.name: planes.astype(dtype)}
        for other in self._inputs:
            if other.name != self._image.name:
                feeds[other.name] = np.array([[original[1], original[0]]], np.int64)
        try:
            return self._session.run(None, feeds)
        except Exception as error:  # ONNX Runtime raises classes of its own for each kind
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.name}: cannot be run as a detector: {reason}") from error


def load_detector(path: str | os.PathLike) -> OnnxDetector:
    """Loads a detector. Raises UserError if it is none, or if ONNX Runtime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"--detect {path}: needs ONNX Runtime: pip install onnxruntime") from None
    digest = sha256([path])
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own for each kind
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--detect {path}: is not an ONNX model that can be read: {reason}") from error
    return OnnxDetector(session, f"--detect {path}", f"onnx {digest}")
