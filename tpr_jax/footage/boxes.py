"""Boxes of people that exist already: COCO, MOTChallenge, YOLO text files, CVAT, and tables."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tpr_jax.data.text_files import csv_lines, json_lines, read_text
from tpr_jax.errors import UserError
from tpr_jax.footage.detections import Detections, make_detections

_PEOPLE = frozenset(("person", "people", "pedestrian", "walker", "human"))


class KnownBox(NamedTuple):
    """A box of a file.

    Attributes:
      image: the name of the photo or video, "" if the file is of one video.
      frame: number of the frame, from 0; None for a photo.
      box: x, y, width, height in pixels, or as fractions of the frame.
      score: from 0 to 1.
      track: number of the person, -1 if the file has none.
      fractions: whether the box is in fractions of the frame.
    """

    image: str
    frame: int | None
    box: tuple[float, float, float, float]
    score: float = 1.0
    track: int = -1
    fractions: bool = False


class BoxFile:
    """The boxes of a file, to be asked for by photo, or by video and frame."""

    def __init__(self, boxes: Sequence[KnownBox], fingerprint: str):
        """Sorts the boxes by photo and frame.

        Args:
          boxes: the boxes.
          fingerprint: identifies the file's content.
        """
        self.fingerprint = fingerprint
        self._by_image: dict[str, dict[int | None, list[KnownBox]]] = {}
        for one in boxes:
            self._by_image.setdefault(one.image, {}).setdefault(one.frame, []).append(one)

    @property
    def names_videos(self) -> bool:
        """Whether the file says to which video its boxes belong."""
        return "" not in self._by_image

    def frames(self, video: str) -> list[int]:
        """Returns the numbers of the frames of a video that have boxes, in order."""
        return sorted(frame for frame in self._of(video) if frame is not None)

    def find(self, image: str, frame: int | None, size: tuple[int, int]) -> Detections:
        """Returns the people in a photo, or in a frame of a video, of (width, height)."""
        rows = self._of(image).get(frame, [])
        scale = (size[0], size[1], size[0], size[1])
        boxes = [
            [value * by for value, by in zip(one.box, scale, strict=True)] if one.fractions else one.box
            for one in rows
        ]
        return make_detections(boxes, [one.score for one in rows], [one.track for one in rows])

    def _of(self, image: str) -> Mapping[int | None, list[KnownBox]]:
        path = Path(image)
        for name in (image, path.as_posix(), path.name, path.stem, ""):
            if name in self._by_image:
                return self._by_image[name]
        return {}


def read_box_file(path: Path, fingerprint: str) -> BoxFile:
    """Reads a file of boxes, or a folder of YOLO text files; the form is told by ending and content.

    Args:
      path: a .json (COCO), .xml (CVAT), .txt (MOTChallenge, or YOLO's of one photo), .csv, .tsv or .jsonl.
      fingerprint: identifies the file's content.

    Raises:
      UserError: it cannot be read, is of no known form, or has no people.
    """
    readers: dict[str, Callable[[Path], list[KnownBox]]] = {
        ".json": _read_coco,
        ".xml": _read_cvat,
        ".txt": _read_text,
        ".csv": _read_table,
        ".tsv": _read_table,
        ".jsonl": _read_table,
    }
    if path.is_dir():
        boxes = [one for file in sorted(path.glob("*.txt")) for one in _read_yolo(file)]
    elif path.suffix.lower() in readers:
        boxes = readers[path.suffix.lower()](path)
    else:
        raise UserError(
            f"--detect {path}: is neither hog, an .onnx, nor boxes: a .json, .xml, .txt, .csv, .tsv or "
            ".jsonl, or a folder of YOLO's .txt"
        )
    if not boxes:
        raise UserError(f"--detect {path}: has no boxes of people")
    return BoxFile(boxes, fingerprint)


def _fail(path: Path, where: object, reason: object) -> UserError:
    return UserError(f"--detect {path}: {where}: {reason}")


def _read_coco(path: Path) -> list[KnownBox]:
    try:
        content = json.loads(read_text(path))
        people = {one["id"] for one in content.get("categories", []) if one["name"].lower() in _PEOPLE}
        images = {one["id"]: one for one in content["images"]}
        boxes = []
        for one in content["annotations"]:
            if (people and one["category_id"] not in people) or one.get("iscrowd"):
                continue
            name, frame = _coco_frame(images[one["image_id"]])
            x, y, w, h = map(float, one["bbox"])
            track = int(one.get("track_id", -1))
            boxes.append(KnownBox(name, frame, (x, y, w, h), float(one.get("score", 1)), track))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _fail(path, "is not COCO", f"{type(error).__name__} {error}"[:200]) from error
    return boxes


def _coco_frame(image: Mapping[str, Any]) -> tuple[str, int | None]:
    """Returns the photo or video of an entry of COCO's `images`, and the number of the frame."""
    name, frame = image["file_name"], image.get("frame_index", image.get("frame_id"))
    if frame is not None:
        return image.get("video", ""), int(frame)
    return name, None


def _read_cvat(path: Path) -> list[KnownBox]:
    try:
        root = ET.fromstring(read_text(path))
    except ET.ParseError as error:
        raise _fail(path, "is not CVAT", error) from error
    boxes: list[KnownBox] = []
    try:
        for image in root.iter("image"):
            name = image.attrib["name"]
            boxes += [KnownBox(name, None, _corners(b)) for b in image.iter("box") if _is_person(b)]
        for number, track in enumerate(root.iter("track")):
            shown = [b for b in track.iter("box") if b.get("outside", "0") == "0"]
            if _is_person(track):
                boxes += [KnownBox("", int(b.attrib["frame"]), _corners(b), 1.0, number) for b in shown]
    except (KeyError, ValueError) as error:
        raise _fail(path, "is not CVAT", f"{type(error).__name__} {error}") from error
    return boxes


def _is_person(element: ET.Element) -> bool:
    return element.get("label", "person").lower() in _PEOPLE


def _corners(box: ET.Element) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
    return x1, y1, x2 - x1, y2 - y1


def _read_text(path: Path) -> list[KnownBox]:
    """Reads MOTChallenge's (commas), or YOLO's text file of one photo (blanks)."""
    first = next((line for line in read_text(path).splitlines() if line.strip()), "")
    return _read_mot(path) if "," in first else _read_yolo(path)


def _numbers(path: Path, separator: str | None, least: int) -> Iterator[list[float]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(cell) for cell in line.split(separator)]
        except ValueError:
            raise _fail(path, f"line {number}", "has a value that is not a number") from None
        if len(values) < least:
            raise _fail(path, f"line {number}", f"has {len(values)} values, not at least {least}")
        yield values


def _read_mot(path: Path) -> list[KnownBox]:
    """Reads frame (from 1), track, x, y, w, h, and, if there, confidence and class (1: pedestrian)."""
    boxes = []
    for row in _numbers(path, ",", 6):
        frame, track, x, y, w, h = row[:6]
        score = row[6] if len(row) > 6 else 1.0
        # Ground truth has a class in column 8 and 0 in column 7 for what is not to be counted.
        is_truth = len(row) == 9
        if is_truth and (row[6] == 0 or row[7] != 1):
            continue
        score = 1.0 if score < 0 or is_truth else score
        boxes.append(KnownBox("", int(frame) - 1, (x - 1, y - 1, w, h), score, int(track)))
    return boxes


def _read_yolo(path: Path) -> list[KnownBox]:
    """Reads class, center and size as fractions, and, if there, the score; class 0 is a person.

    The file has the name of the photo, or that of a video and the number of a frame, from 1: `gate_120.txt`.
    """
    match = re.fullmatch(r"(.+)_(\d+)", path.stem)
    boxes = []
    for row in _numbers(path, None, 5):
        kind, cx, cy, w, h = row[:5]
        if kind == 0:
            box, score = (cx - w / 2, cy - h / 2, w, h), row[5] if len(row) > 5 else 1.0
            boxes.append(KnownBox(path.stem, None, box, score, fractions=True))
            if match and int(match[2]):
                boxes.append(KnownBox(match[1], int(match[2]) - 1, box, score, fractions=True))
    return boxes


def _read_table(path: Path) -> list[KnownBox]:
    """Reads columns x, y, w, h, `image` or `video`, and, if there, frame (from 0), score and track."""
    boxes = []
    for number, fields in _table_lines(path):
        if isinstance(fields, str):
            raise _fail(path, f"line {number}", fields)
        row = {name.strip().lower(): value for name, value in fields.items() if value not in (None, "")}
        try:
            x, y, w, h = (float(row[name]) for name in ("x", "y", "w", "h"))
            frame = int(row["frame"]) if "frame" in row else None
            image = str(row.get("video", "") if frame is not None else row["image"])
            score, track = float(row.get("score", 1)), int(row.get("track", -1))
        except KeyError as error:
            raise _fail(path, f"line {number}", f"has no {error.args[0]}") from None
        except (TypeError, ValueError):
            raise _fail(path, f"line {number}", "has a value that is not a number") from None
        image = str(row["image"]) if frame is not None and "video" not in row and "image" in row else image
        boxes.append(KnownBox(image, frame, (x, y, w, h), score, track))
    return boxes


def _table_lines(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix.lower() == ".jsonl":
        yield from ((number, fields) for number, _, fields in json_lines(path))
        return
    header, rows = csv_lines(path, lambda names: None)
    for number, cells in rows:
        yield number, cells if isinstance(cells, str) else dict(zip(header, cells, strict=True))
