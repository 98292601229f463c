"""What `search forget` has removed, so that a later `index` does not bring it back: `forgotten.json`.

The file holds no more than this takes: of a photo its size and SHA-256, and the box of the person if it had
one; of a person of a video which crop of which search it was, and of the video its size and the SHA-256 of
its ends. It holds no names of photos or people, no vectors and no columns.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpr_jax.data.boxes import Box
from tpr_jax.errors import UserError
from tpr_jax.footage.detections import iou
from tpr_jax.search.index.gallery import Gallery, Photo
from tpr_jax.search.index.names import CROPS
from tpr_jax.utils.files import write_json
from tpr_jax.utils.hashing import sha256

FORGOTTEN = "forgotten.json"
LEFT_OUT = "forgotten people"  # the name under which `index` counts them
SAME_PERSON = 0.5  # the IoU from which two boxes of one photo are one person
_VERSION = 1
_END_BYTES = 2**20  # of the beginning and of the end of a video that identify it


class ForgottenPhoto(NamedTuple):
    """A photo, or a person of one: size in bytes, SHA-256 in hexadecimal digits, and the box or None."""

    size: int
    sha256: str
    box: Box | None


class ForgottenTrack(NamedTuple):
    """A person of a video: the folder of the scan within `crops/`, and the name of the best crop."""

    scan: str
    crop: str


class VideoKey(NamedTuple):
    """Identifies a video by its size in bytes and the SHA-256 of its ends."""

    size: int
    ends: str


@dataclass(frozen=True)
class Forgotten:
    """The list of what was forgotten."""

    photos: tuple[ForgottenPhoto, ...] = ()
    tracks: tuple[ForgottenTrack, ...] = ()
    videos: tuple[VideoKey, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.photos or self.tracks)

    def __len__(self) -> int:
        return len(self.photos) + len(self.tracks)

    @functools.cached_property
    def sizes(self) -> frozenset[int]:
        """The sizes of the photos: a file of another size need not be read."""
        return frozenset(photo.size for photo in self.photos)

    @functools.cached_property
    def _boxes(self) -> dict[str, list[Box | None]]:
        found: dict[str, list[Box | None]] = {}
        for photo in self.photos:
            found.setdefault(photo.sha256, []).append(photo.box)
        return found

    @functools.cached_property
    def _track_set(self) -> frozenset[ForgottenTrack]:
        return frozenset(self.tracks)

    def has_content(self, digest: str, box: Box | None) -> bool:
        """Returns whether the person in a box of a photo with this SHA-256 was forgotten.

        A whole photo and a box in it are one: the whole photo shows the person, and a photo that was
        forgotten as a whole shows nobody else.
        """
        others = self._boxes.get(digest, ())
        return any(box is None or one is None or _are_one_person(box, one) for one in others)

    def has_track(self, scan: str, crop: str) -> bool:
        """Returns whether a person of a video was forgotten."""
        return (scan, crop) in self._track_set

    def has_video(self, path: str | os.PathLike) -> bool:
        """Returns whether somebody in a video was forgotten."""
        return bool(self.videos) and video_key(path) in self.videos

    def file_boxes(self, path: str | os.PathLike) -> Callable[[Box | None], bool]:
        """Returns a function that says whether the person in a box of this file was forgotten.

        Reads the file only if it has the size of one that was.
        """
        try:
            digest = sha256([path]) if os.stat(path).st_size in self.sizes else ""
        except (OSError, UserError, ValueError):  # the encoder says what is wrong with it
            digest = ""
        return functools.partial(self.has_content, digest)

    def combine(self, other: "Forgotten") -> "Forgotten":
        """Returns the list with the entries of another one, each once."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return Forgotten(*(tuple(dict.fromkeys([*mine, *theirs])) for mine, theirs in pairs))


def video_key(path: str | os.PathLike) -> VideoKey | None:
    """Returns what identifies a video, None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            size, digest = os.fstat(file.fileno()).st_size, hashlib.sha256(file.read(_END_BYTES))
            file.seek(max(size - _END_BYTES, 0))
            digest.update(file.read(_END_BYTES))
    except OSError:
        return None
    return VideoKey(size, digest.hexdigest())


def read_forgotten(folder: str | os.PathLike) -> Forgotten:
    """Reads the list of an index; an index without one has an empty list.

    Raises:
      UserError: it cannot be read: an index made without it could bring people back.
    """
    path = Path(folder) / FORGOTTEN
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["version"] != _VERSION:
            raise ValueError(f"version {fields['version']}")
        photos = (
            ForgottenPhoto(size, digest, tuple(box) if box else None)
            for size, digest, box in fields["photos"]
        )
        tracks = (ForgottenTrack(*track) for track in fields["tracks"])
        return Forgotten(tuple(photos), tuple(tracks), tuple(VideoKey(*one) for one in fields["videos"]))
    except (FileNotFoundError, NotADirectoryError):
        return Forgotten()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}), so people who were forgotten could come back: restore it, or "
            "remove it to allow that"
        ) from error


def write_forgotten(folder: Path, forgotten: Forgotten) -> None:
    """Writes the list. Raises UserError if it cannot."""
    write_json(folder / FORGOTTEN, {"version": _VERSION, **dataclasses.asdict(forgotten)})


def crop_track(folder: str | os.PathLike, path: str | os.PathLike) -> ForgottenTrack | None:
    """Returns the person of a video whose best crop has this path, None for another file.

    Args:
      folder: the index.
      path: the absolute path of a row's photo, as the index has it, without links.
    """
    crops = os.path.realpath(Path(folder, CROPS))
    parts = os.path.relpath(path, crops).split(os.sep)
    return ForgottenTrack(*parts) if len(parts) == 2 and parts[0] != ".." else None


def leave_out_forgotten(gallery: Gallery, folder: Path, forgotten: Forgotten) -> Gallery:
    """Returns a gallery without the people of the list, and counts them among what is left out."""
    if not forgotten:
        return gallery
    by_path: dict[str, Callable[[Box | None], bool]] = {}

    def is_forgotten(photo: Photo) -> bool:
        path = gallery.root / photo.path
        if photo.views:
            track = crop_track(folder, path)
            return track is not None and forgotten.has_track(*track)
        if photo.path not in by_path:
            by_path.clear()  # the boxes of a photo follow each other
            by_path[photo.path] = forgotten.file_boxes(path)
        return by_path[photo.path](photo.box)

    kept = [photo for photo in gallery.photos if not is_forgotten(photo)]
    count = len(gallery.photos) - len(kept)
    left_out = Counter(gallery.left_out) + Counter({LEFT_OUT: count})
    return dataclasses.replace(gallery, photos=kept, left_out=left_out)


def keep_known(boxes: Iterable[list], is_forgotten: Callable[[Box | None], bool]) -> list[list]:
    """Returns the people of a photo, each a list that begins with x, y, w and h, who were not forgotten."""
    return [box for box in boxes if not is_forgotten((box[0], box[1], box[2], box[3]))]


def _are_one_person(a: Box, b: Box) -> bool:
    return bool(iou(np.array([a], np.float32), np.array([b], np.float32))[0, 0] >= SAME_PERSON)
